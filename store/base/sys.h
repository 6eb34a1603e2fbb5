/*
 * sys: the one seam to the operating system's file calls and to memory.
 *
 * Everything that can fail and must be tested failing goes through here.  Each function behaves
 * as the call it is named after, errno included, with these differences: EINTR is retried, and
 * the _all/_full forms loop until everything is moved.
 *
 * Tests make the Nth call fail with sys_fault_arm(), or replace the calls that change a disk with
 * sys_hooks, to record or drop what was not synced.
 *
 * Threads: safe.  Arming and hooks are for tests and are set before threads start.
 */
#ifndef STORE_BASE_SYS_H
#define STORE_BASE_SYS_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

int sys_openat(int dirfd, const char *path, int flags, mode_t mode);
/* Write all of `len` bytes; 0 or -1. */
int sys_write_all(int fd, const void *buf, size_t len);
int sys_pwrite_all(int fd, const void *buf, size_t len, uint64_t off);
/* Read until `len` bytes or the end of the file; bytes read or -1. */
ssize_t sys_read_full(int fd, void *buf, size_t len);
ssize_t sys_pread_full(int fd, void *buf, size_t len, uint64_t off);
int sys_fsync(int fd);
int sys_linkat(int olddirfd, const char *old, int newdirfd, const char *name, int flags);
int sys_renameat(int olddirfd, const char *old, int newdirfd, const char *name);
int sys_unlinkat(int dirfd, const char *path, int flags);
int sys_mkdirat(int dirfd, const char *path, mode_t mode);
int sys_ftruncate(int fd, uint64_t len);
int sys_fstatat(int dirfd, const char *path, struct stat *st, int flags);
int sys_fstat(int fd, struct stat *st);
int sys_symlinkat(const char *target, int dirfd, const char *name);
int sys_mknodat(int dirfd, const char *name, mode_t mode, dev_t dev);
int sys_fchownat(int dirfd, const char *name, uid_t uid, gid_t gid, int flags);
int sys_fchmodat(int dirfd, const char *name, mode_t mode);
int sys_utimensat(int dirfd, const char *name, const struct timespec times[2], int flags);
/* Set an extended attribute of `name` itself, also if it is a symbolic link. */
int sys_lsetxattrat(int dirfd, const char *name, const char *attr, const void *value, size_t len);
int sys_syncfs(int fd);
int sys_fstatvfs(int fd, struct statvfs *st);
/* Takes `fd` on success.  Entries are read and closed by sys_readdir() and closedir(). */
DIR *sys_fdopendir(int fd);
/* The next entry; NULL at the end (errno 0) or on error (errno set). */
struct dirent *sys_readdir(DIR *dir);
/* Close *fd if it is not -1 and set it to -1; errno is kept. */
void sys_close(int *fd);

/* Memory that may fail.  mem_alloc gives zeroed memory; free with free(). */
void *mem_alloc(size_t len);
void *mem_calloc(size_t n, size_t size);
void *mem_realloc(void *p, size_t len);
char *mem_strdup(const char *s);
void *mem_dup(const void *p, size_t len);

/*
 * Count a call that can fail but is made by somebody else, such as a library's allocation: true,
 * with errno set, if it is to be taken as failed.
 */
bool sys_fault_point(void);

/* For tests: let the Nth call from now on (1 = the next) fail with `eno`; 0 disarms. */
void sys_fault_arm(uint64_t nth, int eno);
/* For tests: like sys_fault_arm, and every later call fails too (a full disk stays full). */
void sys_fault_arm_from(uint64_t nth, int eno);
/*
 * For tests: let every open with all of `flags` fail with `eno`, as on a file system that lacks
 * them; 0 flags end it.
 */
void sys_fault_refuse(int flags, int eno);
/* For tests: calls counted since the last arming, and whether the fault happened. */
uint64_t sys_fault_calls(void);
bool sys_fault_happened(void);

/*
 * For tests: told of each change of a disk, after it succeeded.  `op` is one of "open", "write",
 * "fsync", "link", "rename", "unlink", "mkdir", "truncate"; fd is the file or the directory.
 */
struct sys_hooks {
	void (*changed)(void *ctx, const char *op, int fd, const char *name);
	void *ctx;
};
void sys_hooks_set(const struct sys_hooks *hooks);

#endif
