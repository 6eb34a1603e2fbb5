#include "pgsync/fsmeta.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

static enum tree_type
type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return TREE_DIR;
	case S_IFLNK:
		return TREE_SYMLINK;
	default:
		return TREE_FILE;
	}
}

void
fsmeta_entry(struct tree_entry *e, const struct stat *st)
{
	memset(e, 0, sizeof(*e));
	e->type = type_of(st->st_mode);
	e->mode = st->st_mode & 07777;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->mtime_s = st->st_mtim.tv_sec;
	e->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
	if (e->type != TREE_FILE)
		return;
	e->has_identity = true;
	e->identity.dev = st->st_dev;
	e->identity.ino = st->st_ino;
	e->identity.ctime_s = st->st_ctim.tv_sec;
	e->identity.ctime_ns = (uint32_t)st->st_ctim.tv_nsec;
}

void
fsmeta_like(struct tree_entry *e, const struct tree_entry *like)
{
	struct timespec now;

	memset(e, 0, sizeof(*e));
	clock_gettime(CLOCK_REALTIME, &now);
	e->type = TREE_FILE;
	e->mode = like->type == TREE_FILE ? like->mode : 0600;
	e->uid = like->uid;
	e->gid = like->gid;
	e->mtime_s = like->type == TREE_FILE ? like->mtime_s : now.tv_sec;
	e->mtime_ns = like->type == TREE_FILE ? like->mtime_ns : (uint32_t)now.tv_nsec;
}

bool
fsmeta_same_inode(const struct tree_entry *e, const struct stat *st)
{
	return e->has_identity && e->identity.dev == st->st_dev && e->identity.ino == st->st_ino;
}

bool
fsmeta_unchanged(const struct tree_entry *e, const struct stat *st)
{
	return fsmeta_same_inode(e, st) && e->type == TREE_FILE &&
	       e->content.size == (uint64_t)st->st_size && e->mtime_s == st->st_mtim.tv_sec &&
	       e->mtime_ns == (uint32_t)st->st_mtim.tv_nsec &&
	       e->identity.ctime_s == st->st_ctim.tv_sec &&
	       e->identity.ctime_ns == (uint32_t)st->st_ctim.tv_nsec;
}

/* One attribute's value; 1 if it is gone or not for us to read. */
static int
read_value(struct tree_xattr *x, int fd, const char *name, const char *path)
{
	uint8_t *value = mem_alloc(TREE_XATTR_MAX);
	ssize_t n;

	if (!value)
		return err_nomem();
	n = fgetxattr(fd, name, value, TREE_XATTR_MAX);
	if (n < 0) {
		int eno = errno;

		free(value);
		errno = eno;
		if (eno == ENODATA || eno == EPERM || eno == EACCES || eno == ENOTSUP)
			return 1;
		return err_sys("read attribute %s of %s", name, path);
	}
	x->len = (size_t)n;
	x->value = mem_dup(value, x->len);
	x->name = mem_strdup(name);
	free(value);
	return x->value && x->name ? 0 : err_nomem();
}

int
fsmeta_xattrs(struct tree_entry *e, int fd, const char *path)
{
	char names[4096];
	ssize_t n = flistxattr(fd, names, sizeof(names));
	size_t count = 0;

	if (n < 0 && (errno == ENOTSUP || errno == EPERM || errno == EACCES))
		return 0;
	if (n < 0)
		return err_sys("list attributes of %s", path);
	if (n == 0)
		return 0;
	for (ssize_t i = 0; i < n; i++)
		count += names[i] == '\0';
	e->xattrs = mem_calloc(count, sizeof(e->xattrs[0]));
	if (!e->xattrs)
		return err_nomem();
	for (const char *p = names; p < names + n; p += strlen(p) + 1) {
		/* Counted first, so that a half-read attribute is released with the entry. */
		int rc = read_value(&e->xattrs[e->nxattrs++], fd, p, path);

		if (rc < 0)
			return rc;
		if (rc == 1)
			e->nxattrs--;
	}
	return 0;
}
