/*
 * view: the mounted namespace, without FUSE: nodes, names, attributes, bytes.
 *
 *   /SOURCE/snapshots/TIME/…   and   /SOURCE/snapshots/latest/…, the newest of them once more
 *
 * Nodes are known by their inode number, which is a keyed hash of the path: stable over remounts
 * and machines, unique in a view.  A node lives while it is referenced (view_lookup() counts up,
 * view_forget() down).  Everything below a snapshot is immutable for ever; the two levels above
 * change when sources and snapshots appear, which the view notices by itself.
 *
 * Threads: every function may be called by any thread.
 */
#ifndef FS_VIEW_H
#define FS_VIEW_H

#include "store/tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#define VIEW_ROOT_INO 1

struct repo_reader;
struct view;

struct view_opts {
	bool map_owner; /* show every file as owned by uid:gid */
	uid_t uid;
	gid_t gid;
};

/* `r` is borrowed until view_close().  Errors: those of listing the repository. */
int view_open(struct view **out, struct repo_reader *r, const struct view_opts *opts);
void view_close(struct view *v);

struct view_attr {
	struct stat st;
	bool immutable;      /* attributes, content and listing may be cached for ever */
	bool name_immutable; /* and that its name leads to it; not so where a snapshot begins */
};

/* Each counts one reference on the node found.  Errors: ERR_NOTFOUND, ERR_DAMAGED, ERR_IO. */
int view_lookup(struct view *v, uint64_t parent, const char *name, struct view_attr *attr);
void view_forget(struct view *v, uint64_t ino, uint64_t nlookup);
int view_getattr(struct view *v, uint64_t ino, struct view_attr *attr);
int view_readlink(struct view *v, uint64_t ino, char *buf, size_t size);
/* Short only at the end of the file, or before a damaged place. */
int view_read(struct view *v, uint64_t ino, void *buf, size_t len, uint64_t off, size_t *got);
/* As getxattr(2) and listxattr(2): size 0 asks for the length.  *len is set, and when it is over
 * `size` nothing is copied.  ERR_NOTFOUND. */
int view_getxattr(
    struct view *v, uint64_t ino, const char *name, void *buf, size_t size, size_t *len);
int view_listxattr(struct view *v, uint64_t ino, void *buf, size_t size, size_t *len);

/* A listing taken at one instant: stable while it is read. */
struct view_list;
int view_list_open(struct view *v, uint64_t ino, struct view_list **out);
/* Entry `i` ("." and ".." first); 1 past the end.  `attr` may be NULL; else the node is counted as
 * by view_lookup(), except for "." and "..". */
int view_list_at(struct view_list *l, size_t i, const char **name, struct view_attr *attr);
void view_list_close(struct view_list *l);

/* The path from the root, for messages; cut to `size`. */
void view_path(struct view *v, uint64_t ino, char *buf, size_t size);

int view_statfs(struct view *v, struct statvfs *st);

#endif
