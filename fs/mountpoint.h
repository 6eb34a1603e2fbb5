/*
 * mountpoint: what the mount table says about a directory, and how to unmount it.
 *
 * Threads: pure but for what the operating system does.
 */
#ifndef FS_MOUNTPOINT_H
#define FS_MOUNTPOINT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* The type that mounts of ours have in the mount table: "fuse." and the subtype. */
#define MOUNTPOINT_SUBTYPE "pastfs"
#define MOUNTPOINT_TYPE    "fuse." MOUNTPOINT_SUBTYPE

/*
 * The absolute path without links, also of a mountpoint whose server is dead, so that it cannot
 * be looked into.  Errors: ERR_NOTFOUND, ERR_DENIED, ERR_USAGE (too long).
 */
int mountpoint_resolve(const char *path, char out[PATH_MAX]);

/*
 * Find what is mounted last at `path` (resolved) in `table`, the text of /proc/self/mountinfo.
 * True if there is something; `type` gets its file system type.
 */
bool mountpoint_find(const char *table, const char *path, char *type, size_t type_size);

/* Whether something of ours is mounted at `path` (resolved): 1 or 0.  Errors: ERR_IO, ERR_NOMEM. */
int mountpoint_is_ours(const char *path);

/* 0 or 1: whether the server of the mount at `path` (resolved) is gone. */
int mountpoint_is_dead(const char *path);

/*
 * Unmount what is at `path` (resolved), as root by the system call, otherwise by fusermount3.
 * Errors: ERR_BUSY (with who uses it), ERR_DENIED, ERR_IO.
 */
int mountpoint_unmount(const char *path, bool lazy);

#endif
