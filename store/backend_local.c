/*
 * A back end that keeps each object in one file below a directory; store/localdir.h tells which.
 *
 * Invariants:
 *  (1) a file whose name is an object's is complete and synced: data goes to a file without a
 *      name (or one called ".tmp-*", which no object is), is synced, and only then linked;
 *  (2) put returns only after the directory with the new name, and every directory above it that
 *      could be new, is synced;
 *  (3) no path leaves the root: names are checked, each directory is opened from the one above it,
 *      and symbolic links are not followed.
 *
 * Threads: `lock` protects the cache of open files and the list of settled directories.  It is not
 * held during reads and writes of objects.
 */
#include "store/backend_ops.h"

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/localdir.h"
#include "store/secret.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TMP_OLD_S   (24 * 3600)
#define OPEN_FILES  32
#define SETTLED_MAX 1024

/* A file kept open for reads; `users` reads use it now. */
struct open_file {
	char name[BACKEND_NAME_MAX + 1]; /* "" when the place is free */
	int fd;
	int users;
	uint64_t used_at;
};

struct local {
	struct localdir dir;
	atomic_bool no_tmpfile; /* the file system refused files without a name */

	pthread_mutex_t lock;
	struct open_file files[OPEN_FILES];
	uint64_t clock; /* of used_at */
	char **settled; /* directories known to be durable, with all above them */
	size_t nsettled;
};

/* ---- paths ---- */

/* Where an object's file is: the directory, opened, and the name in it. */
struct place {
	char path[LOCALDIR_PATH_MAX];
	const char *leaf;
	size_t dir_len; /* of the directory's path; 0 for the root */
	int dirfd;
	bool made; /* a directory on the way was made */
};

static int
fail_on(const struct local *l, const char *what, const char *path)
{
	return err_sys("cannot %s %s in %s", what, path, l->dir.root);
}

/* Fill `p` for `name`, up to the open directory: 0 or -1 with errno. */
static int
place_open(const struct local *l, const char *name, enum localdir_missing missing, struct place *p)
{
	const char *slash;

	p->made = false;
	localdir_path(name, p->path);
	slash = strrchr(p->path, '/');
	p->leaf = slash ? slash + 1 : p->path;
	p->dir_len = slash ? (size_t)(slash - p->path) : 0;
	p->dirfd = localdir_open(&l->dir, p->path, p->dir_len, missing, &p->made);
	return p->dirfd == -1 ? -1 : 0;
}

/* ---- directories that survive the loss of power ---- */

static bool
is_settled(struct local *l, const char *dir)
{
	bool found = false;

	pthread_mutex_lock(&l->lock);
	for (size_t i = 0; i < l->nsettled && !found; i++)
		found = strcmp(l->settled[i], dir) == 0;
	pthread_mutex_unlock(&l->lock);
	return found;
}

/* Remember; when there are too many, or no memory, some are only synced once more than needed. */
static void
note_settled(struct local *l, const char *dir)
{
	char *copy = mem_strdup(dir);

	if (!copy)
		return;
	pthread_mutex_lock(&l->lock);
	if (!l->settled)
		l->settled = mem_calloc(SETTLED_MAX, sizeof(*l->settled));
	if (l->settled && l->nsettled == SETTLED_MAX)
		while (l->nsettled > 0)
			free(l->settled[--l->nsettled]);
	if (l->settled)
		l->settled[l->nsettled++] = copy;
	else
		free(copy);
	pthread_mutex_unlock(&l->lock);
}

/* Remove what writers that died long ago left in a directory.  Failure does no harm. */
static void
remove_leftovers(int dirfd)
{
	int fd = sys_openat(dirfd, ".", LOCALDIR_FLAGS, 0);
	DIR *dir = fd == -1 ? NULL : sys_fdopendir(fd);
	time_t old = time(NULL) - TMP_OLD_S;
	struct dirent *e;
	struct stat st;

	if (!dir) {
		sys_close(&fd);
		return;
	}
	while ((e = sys_readdir(dir)) != NULL)
		if (localdir_is_temporary(e->d_name) &&
		    sys_fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode) && st.st_mtime < old)
			(void)sys_unlinkat(dirfd, e->d_name, 0);
	closedir(dir);
}

/*
 * Make sure that the directory of `p` is found again after the loss of power: sync all above it.
 * A directory that was there may be as new as one made here, since another process could have
 * made it a moment ago; so the first put into it through this handle syncs them in any case.
 */
static int
settle(struct local *l, const struct place *p)
{
	char dir[LOCALDIR_PATH_MAX];

	memcpy(dir, p->path, p->dir_len);
	dir[p->dir_len] = '\0';
	if (!p->made && is_settled(l, dir))
		return 0;
	for (size_t len = p->dir_len; len > 0;) {
		bool made;
		int fd, rc;

		while (len > 0 && dir[len - 1] != '/')
			len--;
		if (len > 0)
			len--;
		fd = localdir_open(&l->dir, dir, len, LOCALDIR_FAIL, &made);
		rc = fd == -1 ? -1 : sys_fsync(fd);
		sys_close(&fd);
		if (rc)
			return fail_on(l, "sync the directories above", p->path);
	}
	remove_leftovers(p->dirfd);
	note_settled(l, dir);
	return 0;
}

/* ---- put ---- */

/* Whether the file system says that it makes no files without a name. */
static bool
refuses_tmpfile(int eno)
{
	return eno == EOPNOTSUPP || eno == EISDIR || eno == ENOENT || eno == EINVAL;
}

static int
write_and_sync(int fd, const void *data, size_t len)
{
	return sys_write_all(fd, data, len) || sys_fsync(fd) ? -1 : 0;
}

/* Write a file without a name and link it: 0 or -1 with errno. */
static int
link_unnamed(const struct place *p, const void *data, size_t len, bool *refused)
{
	char self[32];
	int fd, rc = -1;

	*refused = false;
	fd = sys_openat(p->dirfd, ".", O_TMPFILE | O_WRONLY, 0440);
	if (fd == -1) {
		*refused = refuses_tmpfile(errno);
		return -1;
	}
	if (write_and_sync(fd, data, len))
		goto out;
	/* The file gets its name only now, so a crash leaves nothing behind. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	rc = sys_linkat(AT_FDCWD, self, p->dirfd, p->leaf, AT_SYMLINK_FOLLOW);
	/* Without /proc, or through a file system that cannot link so, a name is needed. */
	if (rc && (errno == ENOENT || errno == EXDEV || errno == EOPNOTSUPP))
		*refused = true;
out:
	sys_close(&fd);
	return rc;
}

/* The same by way of a temporary name. */
static int
link_named(const struct place *p, const void *data, size_t len)
{
	char tmp[sizeof(LOCALDIR_TMP_PREFIX) + 32];
	uint8_t random[16];
	int fd, eno, rc = -1;

	random_bytes(random, sizeof(random));
	snprintf(tmp, sizeof(tmp), "%s", LOCALDIR_TMP_PREFIX);
	hex_encode(tmp + strlen(LOCALDIR_TMP_PREFIX), random, sizeof(random));
	fd = sys_openat(p->dirfd, tmp, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0440);
	if (fd == -1)
		return -1;
	if (write_and_sync(fd, data, len) == 0)
		rc = sys_linkat(p->dirfd, tmp, p->dirfd, p->leaf, 0);
	eno = errno;
	sys_close(&fd);
	/* If this fails, a later put removes it. */
	(void)sys_unlinkat(p->dirfd, tmp, 0);
	errno = eno;
	return rc;
}

/* What EEXIST, or finding the name before writing, means: 1 if an object is there. */
static int
name_taken(const struct local *l, const struct place *p)
{
	struct stat st;

	if (sys_fstatat(p->dirfd, p->leaf, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_on(l, "look up", p->path);
	if (S_ISREG(st.st_mode))
		return 1;
	return err_set(ERR_USAGE, "cannot write %s in %s: something that is no file has this name",
	    p->path, l->dir.root);
}

/* Give the data its name: 0, 1 if the name is taken, or an error. */
static int
create(struct local *l, const struct place *p, const void *data, size_t len)
{
	bool refused = true;
	int rc;

	rc = name_taken(l, p);
	if (rc)
		return rc;
	if (!atomic_load(&l->no_tmpfile)) {
		rc = link_unnamed(p, data, len, &refused);
		if (rc && refused)
			atomic_store(&l->no_tmpfile, true);
	}
	if (refused)
		rc = link_named(p, data, len);
	if (rc == 0)
		return 0;
	if (errno == EEXIST)
		return name_taken(l, p);
	return fail_on(l, "write", p->path);
}

static int
local_put(void *self, const char *name, const void *data, size_t len)
{
	struct local *l = self;
	struct place p;
	int rc, taken;

	if (place_open(l, name, LOCALDIR_MAKE, &p))
		return fail_on(l, "make the directory of", p.path);
	rc = settle(l, &p);
	if (rc)
		goto out;
	taken = create(l, &p, data, len);
	rc = taken;
	/* Also when it was there: its writer may not have synced it yet. */
	if (taken >= 0 && sys_fsync(p.dirfd))
		rc = fail_on(l, "sync the directory of", p.path);
out:
	sys_close(&p.dirfd);
	return rc;
}

/* ---- get ---- */

/* Take an open file out of the cache; NULL if it is not there.  The lock is held. */
static struct open_file *
find_open(struct local *l, const char *name)
{
	for (size_t i = 0; i < OPEN_FILES; i++)
		if (strcmp(l->files[i].name, name) == 0)
			return &l->files[i];
	return NULL;
}

/* Put `fd` where the file is that was not used for the longest time; NULL if all are in use. */
static struct open_file *
keep_open(struct local *l, const char *name, int fd)
{
	struct open_file *place = NULL;

	for (size_t i = 0; i < OPEN_FILES; i++) {
		struct open_file *f = &l->files[i];

		if (f->users == 0 && (!place || f->used_at < place->used_at))
			place = f;
	}
	if (!place)
		return NULL;
	sys_close(&place->fd);
	snprintf(place->name, sizeof(place->name), "%s", name);
	place->fd = fd;
	return place;
}

static int
open_object(const struct local *l, const char *name)
{
	struct place p;
	int fd;

	if (place_open(l, name, LOCALDIR_FAIL, &p))
		return -1;
	fd = sys_openat(p.dirfd, p.leaf, O_RDONLY | O_NOFOLLOW, 0);
	sys_close(&p.dirfd);
	return fd;
}

/*
 * The object's file, from the cache or opened: *f is the place in the cache, to release, or NULL
 * when *fd is the caller's to close.  0, or -1 with errno.
 */
static int
borrow(struct local *l, const char *name, struct open_file **f, int *fd)
{
	pthread_mutex_lock(&l->lock);
	*f = find_open(l, name);
	if (*f) {
		(*f)->users++;
		*fd = (*f)->fd;
	}
	pthread_mutex_unlock(&l->lock);
	if (*f)
		return 0;

	*fd = open_object(l, name);
	if (*fd == -1)
		return -1;
	pthread_mutex_lock(&l->lock);
	/* Another thread may have been as fast: then this one reads through its own. */
	*f = find_open(l, name) ? NULL : keep_open(l, name, *fd);
	if (*f)
		(*f)->users++;
	pthread_mutex_unlock(&l->lock);
	return 0;
}

/* Close a file that nobody uses; its place is the next one taken. */
static void
free_place(struct open_file *f)
{
	sys_close(&f->fd);
	f->name[0] = '\0';
	f->used_at = 0;
}

static void
give_back(struct local *l, struct open_file *f, int *fd, bool forget)
{
	if (!f) {
		sys_close(fd);
		return;
	}
	pthread_mutex_lock(&l->lock);
	f->users--;
	f->used_at = ++l->clock;
	if (forget)
		f->name[0] = '\0';
	if (f->users == 0 && f->name[0] == '\0')
		free_place(f);
	pthread_mutex_unlock(&l->lock);
}

static void
forget_open(struct local *l, const char *name)
{
	struct open_file *f;

	pthread_mutex_lock(&l->lock);
	f = find_open(l, name);
	if (f) {
		f->name[0] = '\0';
		if (f->users == 0)
			free_place(f);
	}
	pthread_mutex_unlock(&l->lock);
}

static int
missing(const struct local *l, const char *name)
{
	return err_set(ERR_NOTFOUND, "there is no object %s in %s", name, l->dir.root);
}

static int
local_get(void *self, const char *name, uint64_t off, void *buf, size_t len, size_t *got)
{
	struct local *l = self;
	struct open_file *f;
	struct stat st;
	ssize_t n = -1;
	int fd, eno, rc;

	for (;;) {
		if (borrow(l, name, &f, &fd))
			return localdir_is_absent(errno) ? missing(l, name)
							 : fail_on(l, "open", name);
		rc = sys_fstat(fd, &st);
		/* Another process may have deleted it; then a file of that name, if any, is new. */
		if (rc || st.st_nlink > 0 || !f)
			break;
		give_back(l, f, &fd, true);
	}
	if (rc == 0 && !S_ISREG(st.st_mode)) {
		give_back(l, f, &fd, true);
		return missing(l, name);
	}
	if (rc == 0)
		n = off >= (uint64_t)st.st_size ? 0 : sys_pread_full(fd, buf, len, off);
	eno = errno;
	give_back(l, f, &fd, n == -1);
	errno = eno;
	if (n == -1)
		return fail_on(l, "read", name);
	*got = (size_t)n;
	return 0;
}

/* ---- stat, delete, space ---- */

static int
local_stat(void *self, const char *name, struct object_info *info)
{
	struct local *l = self;
	struct place p;
	struct stat st;
	int rc;

	if (place_open(l, name, LOCALDIR_FAIL, &p))
		return localdir_is_absent(errno) ? missing(l, name) : fail_on(l, "look up", name);
	rc = sys_fstatat(p.dirfd, p.leaf, &st, AT_SYMLINK_NOFOLLOW);
	if (rc)
		rc = localdir_is_absent(errno) ? missing(l, name) : fail_on(l, "look up", name);
	else if (!S_ISREG(st.st_mode))
		rc = missing(l, name);
	else
		localdir_info(&st, info);
	sys_close(&p.dirfd);
	return rc;
}

static int
local_del(void *self, const char *name)
{
	struct local *l = self;
	struct place p;
	int rc = 0;

	forget_open(l, name);
	if (place_open(l, name, LOCALDIR_FAIL, &p))
		return localdir_is_absent(errno) ? 0 : fail_on(l, "delete", name);
	if (sys_unlinkat(p.dirfd, p.leaf, 0) && !localdir_is_absent(errno))
		rc = fail_on(l, "delete", name);
	/* What is deleted next may be needed by this object, should it come back. */
	else if (sys_fsync(p.dirfd))
		rc = fail_on(l, "sync the directory of", name);
	sys_close(&p.dirfd);
	return rc;
}

static int
local_space(void *self, uint64_t *free_bytes, uint64_t *total_bytes)
{
	struct local *l = self;
	struct statvfs fs;

	if (sys_fstatvfs(l->dir.fd, &fs))
		return err_sys("cannot ask for the room in %s", l->dir.root);
	*free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	*total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	return 0;
}

static int
local_list(void *self, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	struct local *l = self;

	return localdir_list(&l->dir, prefix, fn, ctx);
}

/* ---- open and close ---- */

static void
local_close(void *self)
{
	struct local *l = self;

	for (size_t i = 0; i < OPEN_FILES; i++)
		sys_close(&l->files[i].fd);
	while (l->nsettled > 0)
		free(l->settled[--l->nsettled]);
	free(l->settled);
	sys_close(&l->dir.fd);
	pthread_mutex_destroy(&l->lock);
	free(l->dir.root);
	free(l);
}

static const struct backend_ops local_ops = {
	.put = local_put,
	.get = local_get,
	.stat = local_stat,
	.list = local_list,
	.del = local_del,
	.space = local_space,
	.close = local_close,
};

/* Sync the directory that holds `path`. */
static int
sync_parent(const char *path)
{
	char *parent = mem_strdup(path);
	char *slash;
	int fd, rc;

	if (!parent)
		return err_nomem();
	slash = strrchr(parent, '/');
	slash[slash == parent] = '\0';
	fd = sys_openat(AT_FDCWD, parent, O_RDONLY | O_DIRECTORY, 0);
	rc = fd == -1 || sys_fsync(fd) ? err_sys("cannot sync the directory %s", parent) : 0;
	sys_close(&fd);
	free(parent);
	return rc;
}

/* Make `root`, an absolute path, with all directories above it. */
static int
make_root(const char *root)
{
	char *path = mem_strdup(root);
	int rc = 0;

	if (!path)
		return err_nomem();
	for (char *p = path + 1; rc == 0; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (p[-1] != '/') {
			if (sys_mkdirat(AT_FDCWD, path, 0750) == 0)
				rc = sync_parent(path);
			else if (errno != EEXIST)
				rc = err_sys("cannot make the directory %s", path);
		}
		*p = c;
		if (c == '\0')
			break;
	}
	free(path);
	return rc;
}

/*
 * Sync the directory that holds the root, which somebody may have made a moment ago.  Who may not
 * read it cannot; then its maker's care has to do.
 */
static int
settle_root(const struct local *l)
{
	int fd = sys_openat(l->dir.fd, "..", O_RDONLY | O_DIRECTORY, 0);
	int rc = 0;

	if (fd == -1 && errno == EACCES)
		return 0;
	if (fd == -1 || sys_fsync(fd))
		rc = err_sys("cannot sync the directory above %s", l->dir.root);
	sys_close(&fd);
	return rc;
}

/* Open the root directory: as it is, or made, or found empty. */
static int
open_root(struct local *l, bool create_it)
{
	int rc;

	l->dir.fd = sys_openat(AT_FDCWD, l->dir.root, O_RDONLY | O_DIRECTORY, 0);
	if (l->dir.fd == -1 && errno == ENOENT && create_it) {
		rc = make_root(l->dir.root);
		if (rc)
			return rc;
		l->dir.fd = sys_openat(AT_FDCWD, l->dir.root, O_RDONLY | O_DIRECTORY, 0);
	}
	if (l->dir.fd == -1 && errno == ENOENT)
		return err_set(ERR_NOTFOUND,
		    "there is no directory %s: check the path, or make a repository there with "
		    "`pastfs init`",
		    l->dir.root);
	if (l->dir.fd == -1 && errno == ENOTDIR)
		return err_set(ERR_USAGE, "%s is not a directory", l->dir.root);
	if (l->dir.fd == -1)
		return err_sys("cannot open the directory %s", l->dir.root);
	if (!create_it)
		return 0;
	rc = localdir_is_empty(&l->dir);
	if (rc == 0)
		return err_set(ERR_EXISTS,
		    "the directory %s is not empty: choose one that is empty or not there yet",
		    l->dir.root);
	return rc < 0 ? rc : settle_root(l);
}

int
backend_local_open(struct backend **out, const char *path, bool create_it)
{
	static const struct backend_caps caps = {
		.pack_bytes = 32u << 20,
		.sorted_list = true,
		.local = true,
	};
	struct local *l;
	int rc;

	*out = NULL;
	l = mem_alloc(sizeof(*l));
	if (!l)
		return err_nomem();
	l->dir.fd = -1;
	for (size_t i = 0; i < OPEN_FILES; i++)
		l->files[i].fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	l->dir.root = mem_strdup(path);
	rc = l->dir.root ? open_root(l, create_it) : err_nomem();
	if (rc) {
		local_close(l);
		return rc;
	}
	return backend_new(out, l->dir.root, &local_ops, l, &caps);
}
