#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static _Atomic uint64_t fault_at;    /* which call fails; 0 never */
static _Atomic uint64_t fault_calls; /* calls since arming */
static atomic_int fault_errno;
static atomic_bool fault_stays;
static atomic_bool fault_hit;
static atomic_int refused_flags; /* opens with all of these fail with refused_errno */
static atomic_int refused_errno;
static struct sys_hooks hooks;

void
sys_fault_arm(uint64_t nth, int eno)
{
	atomic_store(&fault_hit, false);
	atomic_store(&fault_stays, false);
	atomic_store(&fault_calls, 0);
	atomic_store(&fault_errno, eno);
	atomic_store(&fault_at, nth);
}

void
sys_fault_arm_from(uint64_t nth, int eno)
{
	sys_fault_arm(nth, eno);
	atomic_store(&fault_stays, true);
}

void
sys_fault_refuse(int flags, int eno)
{
	atomic_store(&refused_errno, eno);
	atomic_store(&refused_flags, flags);
}

uint64_t
sys_fault_calls(void)
{
	return atomic_load(&fault_calls);
}

bool
sys_fault_happened(void)
{
	return atomic_load(&fault_hit);
}

void
sys_hooks_set(const struct sys_hooks *h)
{
	if (h)
		hooks = *h;
	else
		memset(&hooks, 0, sizeof(hooks));
}

/* True if this call is to fail; errno is then set. */
static bool
faulty(void)
{
	uint64_t at = atomic_load_explicit(&fault_at, memory_order_relaxed);
	uint64_t n;

	if (at == 0)
		return false;
	n = atomic_fetch_add(&fault_calls, 1) + 1;
	if (n == at || (n > at && atomic_load(&fault_stays))) {
		atomic_store(&fault_hit, true);
		errno = atomic_load(&fault_errno);
		return true;
	}
	return false;
}

bool
sys_fault_point(void)
{
	return faulty();
}

/* True if the file system is to lack what `flags` ask for; errno is then set. */
static bool
refused(int flags)
{
	int lacking = atomic_load_explicit(&refused_flags, memory_order_relaxed);

	if (lacking == 0 || (flags & lacking) != lacking)
		return false;
	errno = atomic_load(&refused_errno);
	return true;
}

static void
changed(const char *op, int fd, const char *name)
{
	if (hooks.changed)
		hooks.changed(hooks.ctx, op, fd, name);
}

int
sys_openat(int dirfd, const char *path, int flags, mode_t mode)
{
	int fd;

	if (faulty() || refused(flags))
		return -1;
	do
		fd = openat(dirfd, path, flags | O_CLOEXEC, mode);
	while (fd == -1 && errno == EINTR);
	if (fd != -1 && ((flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE))
		changed("open", fd, path);
	return fd;
}

int
sys_write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	if (faulty())
		return -1;
	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n == 0)
				errno = ENOSPC;
			return -1;
		}
		p += n;
		len -= (size_t)n;
	}
	changed("write", fd, NULL);
	return 0;
}

int
sys_pwrite_all(int fd, const void *buf, size_t len, uint64_t off)
{
	const char *p = buf;

	if (faulty())
		return -1;
	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n == 0)
				errno = ENOSPC;
			return -1;
		}
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	changed("write", fd, NULL);
	return 0;
}

ssize_t
sys_read_full(int fd, void *buf, size_t len)
{
	char *p = buf;
	size_t have = 0;

	if (faulty())
		return -1;
	while (have < len) {
		ssize_t n = read(fd, p + have, len - have);

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return -1;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

ssize_t
sys_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	char *p = buf;
	size_t have = 0;

	if (faulty())
		return -1;
	while (have < len) {
		ssize_t n = pread(fd, p + have, len - have, (off_t)(off + have));

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return -1;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

int
sys_fsync(int fd)
{
	int rc;

	if (faulty())
		return -1;
	do
		rc = fsync(fd);
	while (rc == -1 && errno == EINTR);
	if (rc == 0)
		changed("fsync", fd, NULL);
	return rc;
}

int
sys_linkat(int olddirfd, const char *old, int newdirfd, const char *name, int flags)
{
	if (faulty())
		return -1;
	if (linkat(olddirfd, old, newdirfd, name, flags))
		return -1;
	changed("link", newdirfd, name);
	return 0;
}

int
sys_renameat(int olddirfd, const char *old, int newdirfd, const char *name)
{
	if (faulty())
		return -1;
	if (renameat(olddirfd, old, newdirfd, name))
		return -1;
	changed("rename", newdirfd, name);
	return 0;
}

int
sys_unlinkat(int dirfd, const char *path, int flags)
{
	if (faulty())
		return -1;
	if (unlinkat(dirfd, path, flags))
		return -1;
	changed("unlink", dirfd, path);
	return 0;
}

int
sys_mkdirat(int dirfd, const char *path, mode_t mode)
{
	if (faulty())
		return -1;
	if (mkdirat(dirfd, path, mode))
		return -1;
	changed("mkdir", dirfd, path);
	return 0;
}

int
sys_ftruncate(int fd, uint64_t len)
{
	int rc;

	if (faulty())
		return -1;
	do
		rc = ftruncate(fd, (off_t)len);
	while (rc == -1 && errno == EINTR);
	if (rc == 0)
		changed("truncate", fd, NULL);
	return rc;
}

int
sys_fstatat(int dirfd, const char *path, struct stat *st, int flags)
{
	if (faulty())
		return -1;
	return fstatat(dirfd, path, st, flags);
}

int
sys_fstat(int fd, struct stat *st)
{
	if (faulty())
		return -1;
	return fstat(fd, st);
}

int
sys_symlinkat(const char *target, int dirfd, const char *name)
{
	if (faulty())
		return -1;
	if (symlinkat(target, dirfd, name))
		return -1;
	changed("link", dirfd, name);
	return 0;
}

int
sys_mknodat(int dirfd, const char *name, mode_t mode, dev_t dev)
{
	if (faulty())
		return -1;
	return mknodat(dirfd, name, mode, dev);
}

int
sys_fchownat(int dirfd, const char *name, uid_t uid, gid_t gid, int flags)
{
	if (faulty())
		return -1;
	return fchownat(dirfd, name, uid, gid, flags);
}

int
sys_fchmodat(int dirfd, const char *name, mode_t mode)
{
	if (faulty())
		return -1;
	return fchmodat(dirfd, name, mode, 0);
}

int
sys_utimensat(int dirfd, const char *name, const struct timespec times[2], int flags)
{
	if (faulty())
		return -1;
	return utimensat(dirfd, name, times, flags);
}

int
sys_lsetxattrat(int dirfd, const char *name, const char *attr, const void *value, size_t len)
{
	char path[PATH_MAX];

	if (faulty())
		return -1;
	/* There is no lsetxattrat(2) on the kernels we run on; the descriptor's path stands in. */
	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return lsetxattr(path, attr, value, len, 0);
}

int
sys_syncfs(int fd)
{
	if (faulty())
		return -1;
	if (syncfs(fd))
		return -1;
	changed("fsync", fd, NULL);
	return 0;
}

int
sys_fstatvfs(int fd, struct statvfs *st)
{
	if (faulty())
		return -1;
	return fstatvfs(fd, st);
}

DIR *
sys_fdopendir(int fd)
{
	if (faulty())
		return NULL;
	return fdopendir(fd);
}

struct dirent *
sys_readdir(DIR *dir)
{
	if (faulty())
		return NULL;
	errno = 0;
	return readdir(dir);
}

void
sys_close(int *fd)
{
	int eno = errno;

	if (*fd != -1)
		close(*fd);
	*fd = -1;
	errno = eno;
}

void *
mem_alloc(size_t len)
{
	return mem_calloc(1, len);
}

void *
mem_calloc(size_t n, size_t size)
{
	if (faulty()) {
		errno = ENOMEM;
		return NULL;
	}
	return calloc(n ? n : 1, size ? size : 1);
}

void *
mem_realloc(void *p, size_t len)
{
	if (faulty()) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, len ? len : 1);
}

char *
mem_strdup(const char *s)
{
	return mem_dup(s, strlen(s) + 1);
}

void *
mem_dup(const void *p, size_t len)
{
	void *q = mem_alloc(len);

	if (q && len)
		memcpy(q, p, len);
	return q;
}
