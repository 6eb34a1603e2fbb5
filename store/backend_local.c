/*
 * A back end that keeps each object in one file below a directory.
 *
 *   object "packs/<x>"   file <root>/packs/<first two characters of x>/<x>
 *   any other name       file <root>/<name>
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

#define PACKS       "packs/"
#define TMP_PREFIX  ".tmp-"
#define TMP_OLD_S   (24 * 3600)
#define PATH_ROOM   (BACKEND_NAME_MAX + 4)
#define DEPTH_MAX   10
#define OPEN_FILES  32
#define SETTLED_MAX 1024
#define DIR_FLAGS   (O_RDONLY | O_DIRECTORY | O_NOFOLLOW)

/* A file kept open for reads; `users` reads use it now. */
struct open_file {
	char name[BACKEND_NAME_MAX + 1]; /* "" when the place is free */
	int fd;
	int users;
	uint64_t used_at;
};

struct local {
	int rootfd;
	char *root;
	atomic_bool no_tmpfile; /* the file system refused files without a name */

	pthread_mutex_t lock;
	struct open_file files[OPEN_FILES];
	uint64_t clock; /* of used_at */
	char **settled; /* directories known to be durable, with all above them */
	size_t nsettled;
};

/* ---- paths ---- */

/* The path of an object's file below the root. */
static void
path_of_name(const char *name, char path[PATH_ROOM])
{
	const char *last = strrchr(name, '/');
	size_t dir = last ? (size_t)(last + 1 - name) : 0;

	/* Packs are many; two characters spread them over 256 directories. */
	if (strncmp(name, PACKS, strlen(PACKS)) == 0)
		snprintf(path, PATH_ROOM, "%.*s%.2s/%s", (int)dir, name, last + 1, last + 1);
	else
		snprintf(path, PATH_ROOM, "%s", name);
}

/* The inverse; false if no object has the file at `path`. */
static bool
name_of_path(const char *path, char name[BACKEND_NAME_MAX + 1])
{
	const char *last = strrchr(path, '/');
	const char *fan;
	size_t dir;

	if (strncmp(path, PACKS, strlen(PACKS)) != 0) {
		snprintf(name, BACKEND_NAME_MAX + 1, "%s", path);
		return true;
	}
	for (fan = last; fan[-1] != '/'; fan--)
		if (fan - 1 == path)
			return false;
	dir = (size_t)(last - fan);
	if (dir != strnlen(last + 1, 2) || memcmp(fan, last + 1, dir) != 0)
		return false;
	snprintf(name, BACKEND_NAME_MAX + 1, "%.*s%s", (int)(fan - path), path, last + 1);
	return true;
}

/* Where an object's file is: the directory, opened, and the name in it. */
struct place {
	char path[PATH_ROOM];
	const char *leaf;
	size_t dir_len; /* of the directory's path; 0 for the root */
	int dirfd;
	bool made; /* a directory on the way was made */
};

enum missing {
	MISSING_FAIL,
	MISSING_MAKE,
};

static int
fail_on(const struct local *l, const char *what, const char *path)
{
	return err_sys("cannot %s %s in %s", what, path, l->root);
}

/* Open the directory `part` in `dirfd`; errno on error.  `*made` is set if it was made. */
static int
open_part(int dirfd, const char *part, enum missing missing, bool *made)
{
	int fd = sys_openat(dirfd, part, DIR_FLAGS, 0);

	if (fd != -1 || errno != ENOENT || missing == MISSING_FAIL)
		return fd;
	if (sys_mkdirat(dirfd, part, 0750) && errno != EEXIST)
		return -1;
	*made = true;
	return sys_openat(dirfd, part, DIR_FLAGS, 0);
}

/* Open the directory at the first `len` bytes of `path`, part by part; -1 with errno. */
static int
open_dir(const struct local *l, const char *path, size_t len, enum missing missing, bool *made)
{
	char copy[PATH_ROOM];
	char *save = NULL;
	int fd = sys_openat(l->rootfd, ".", DIR_FLAGS, 0);

	memcpy(copy, path, len);
	copy[len] = '\0';
	for (char *part = strtok_r(copy, "/", &save); part && fd != -1;
	     part = strtok_r(NULL, "/", &save)) {
		int up = fd;

		fd = open_part(up, part, missing, made);
		sys_close(&up);
	}
	return fd;
}

/* Fill `p` for `name`, up to the open directory: 0 or -1 with errno. */
static int
place_open(const struct local *l, const char *name, enum missing missing, struct place *p)
{
	const char *slash;

	p->made = false;
	path_of_name(name, p->path);
	slash = strrchr(p->path, '/');
	p->leaf = slash ? slash + 1 : p->path;
	p->dir_len = slash ? (size_t)(slash - p->path) : 0;
	p->dirfd = open_dir(l, p->path, p->dir_len, missing, &p->made);
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

static bool
is_temporary(const char *name)
{
	return strncmp(name, TMP_PREFIX, strlen(TMP_PREFIX)) == 0;
}

/* Remove what writers that died long ago left in a directory.  Failure does no harm. */
static void
remove_leftovers(int dirfd)
{
	int fd = sys_openat(dirfd, ".", DIR_FLAGS, 0);
	DIR *dir = fd == -1 ? NULL : sys_fdopendir(fd);
	time_t old = time(NULL) - TMP_OLD_S;
	struct dirent *e;
	struct stat st;

	if (!dir) {
		sys_close(&fd);
		return;
	}
	while ((e = sys_readdir(dir)) != NULL)
		if (is_temporary(e->d_name) &&
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
	char dir[PATH_ROOM];

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
		fd = open_dir(l, dir, len, MISSING_FAIL, &made);
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
	char tmp[sizeof(TMP_PREFIX) + 32];
	uint8_t random[16];
	int fd, eno, rc = -1;

	random_bytes(random, sizeof(random));
	memcpy(tmp, TMP_PREFIX, strlen(TMP_PREFIX));
	hex_encode(tmp + strlen(TMP_PREFIX), random, sizeof(random));
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
	    p->path, l->root);
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

	if (place_open(l, name, MISSING_MAKE, &p))
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

	if (place_open(l, name, MISSING_FAIL, &p))
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
	return err_set(ERR_NOTFOUND, "there is no object %s in %s", name, l->root);
}

static bool
is_absent(int eno)
{
	return eno == ENOENT || eno == ENOTDIR;
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
			return is_absent(errno) ? missing(l, name) : fail_on(l, "open", name);
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

static void
info_of_stat(const struct stat *st, struct object_info *info)
{
	info->bytes = (uint64_t)st->st_size;
	info->modified_us = (int64_t)st->st_mtim.tv_sec * 1000000 + st->st_mtim.tv_nsec / 1000;
}

static int
local_stat(void *self, const char *name, struct object_info *info)
{
	struct local *l = self;
	struct place p;
	struct stat st;
	int rc;

	if (place_open(l, name, MISSING_FAIL, &p))
		return is_absent(errno) ? missing(l, name) : fail_on(l, "look up", name);
	rc = sys_fstatat(p.dirfd, p.leaf, &st, AT_SYMLINK_NOFOLLOW);
	if (rc)
		rc = is_absent(errno) ? missing(l, name) : fail_on(l, "look up", name);
	else if (!S_ISREG(st.st_mode))
		rc = missing(l, name);
	else
		info_of_stat(&st, info);
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
	if (place_open(l, name, MISSING_FAIL, &p))
		return is_absent(errno) ? 0 : fail_on(l, "delete", name);
	if (sys_unlinkat(p.dirfd, p.leaf, 0) && !is_absent(errno))
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

	if (sys_fstatvfs(l->rootfd, &fs))
		return err_sys("cannot ask for the room in %s", l->root);
	*free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	*total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	return 0;
}

/* ---- list ---- */

struct item {
	char *name;
	struct object_info info;
};

/* Objects found so far, to be sorted. */
struct listing {
	const char *prefix;
	struct item *items;
	size_t n, cap;
};

/* Entries of one directory that can be parts of names. */
struct entries {
	char **names;
	size_t n, cap;
};

/* Make room for one more element of `size` bytes. */
static int
grow(void **array, size_t n, size_t *cap, size_t size)
{
	size_t larger = *cap ? *cap * 2 : 64;
	void *p;

	if (n < *cap)
		return 0;
	p = mem_realloc(*array, larger * size);
	if (!p)
		return err_nomem();
	*array = p;
	*cap = larger;
	return 0;
}

static int
listing_add(struct listing *ls, const char *path, const struct stat *st)
{
	char name[BACKEND_NAME_MAX + 1];
	struct item *item;
	int rc;

	if (!name_of_path(path, name) || strncmp(name, ls->prefix, strlen(ls->prefix)) != 0)
		return 0;
	rc = grow((void **)&ls->items, ls->n, &ls->cap, sizeof(*ls->items));
	if (rc)
		return rc;
	item = &ls->items[ls->n];
	item->name = mem_strdup(name);
	if (!item->name)
		return err_nomem();
	info_of_stat(st, &item->info);
	ls->n++;
	return 0;
}

static void
listing_clear(struct listing *ls)
{
	while (ls->n > 0)
		free(ls->items[--ls->n].name);
}

static void
entries_release(struct entries *es)
{
	while (es->n > 0)
		free(es->names[--es->n]);
	free(es->names);
}

/* Read the entries of a directory that can be parts of names, which leaves out temporary files. */
static int
entries_read(const struct local *l, struct entries *es, int dirfd, const char *path)
{
	int fd = sys_openat(dirfd, ".", DIR_FLAGS, 0);
	DIR *dir = fd == -1 ? NULL : sys_fdopendir(fd);
	struct dirent *e;
	int rc = 0;

	if (!dir) {
		rc = fail_on(l, "list", path);
		sys_close(&fd);
		return rc;
	}
	while (rc == 0 && (e = sys_readdir(dir)) != NULL) {
		if (e->d_name[0] == '.' || backend_check_name(e->d_name))
			continue;
		rc = grow((void **)&es->names, es->n, &es->cap, sizeof(*es->names));
		if (rc)
			break;
		es->names[es->n] = mem_strdup(e->d_name);
		if (!es->names[es->n])
			rc = err_nomem();
		else
			es->n++;
	}
	if (rc == 0 && errno)
		rc = fail_on(l, "list", path);
	closedir(dir);
	return rc;
}

/* Collect the object at `path`, which is `leaf` in `dirfd`, or all below it. */
static int
gather(const struct local *l, struct listing *ls, int dirfd, const char *path, const char *leaf,
    int depth)
{
	struct entries es = { 0 };
	struct stat st;
	int fd, rc;

	/* What is deleted meanwhile is left out. */
	if (sys_fstatat(dirfd, leaf, &st, AT_SYMLINK_NOFOLLOW))
		return is_absent(errno) ? 0 : fail_on(l, "look up", path);
	if (S_ISREG(st.st_mode))
		return listing_add(ls, path, &st);
	if (!S_ISDIR(st.st_mode) || depth == DEPTH_MAX)
		return 0;
	fd = sys_openat(dirfd, leaf, DIR_FLAGS, 0);
	if (fd == -1)
		return is_absent(errno) ? 0 : fail_on(l, "open", path);
	rc = entries_read(l, &es, fd, path);
	for (size_t i = 0; rc == 0 && i < es.n; i++) {
		char below[PATH_ROOM];

		if (snprintf(below, sizeof(below), "%s/%s", path, es.names[i]) < PATH_ROOM)
			rc = gather(l, ls, fd, below, es.names[i], depth + 1);
	}
	entries_release(&es);
	sys_close(&fd);
	return rc;
}

static int
compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int
compare_items(const void *a, const void *b)
{
	return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name);
}

/*
 * Walk the entries in groups that share their first character, sorting each group whole: between
 * groups the order of names is that of the entries, within one it is not, because '/' sorts in
 * the middle of the characters and packs leave a directory out of their names.  So a listing of
 * many packs needs memory for a part of them only.
 */
static int
list_groups(const struct local *l, struct listing *ls, const struct entries *es, int dirfd,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < es->n;) {
		char first = es->names[i][0];

		for (; rc == 0 && i < es->n && es->names[i][0] == first; i++) {
			char path[PATH_ROOM];

			if (snprintf(path, sizeof(path), "%s%s", ls->prefix, es->names[i]) <
			    PATH_ROOM)
				rc = gather(l, ls, dirfd, path, es->names[i], 1);
		}
		if (rc == 0 && ls->n > 0)
			qsort(ls->items, ls->n, sizeof(*ls->items), compare_items);
		for (size_t k = 0; rc == 0 && k < ls->n; k++)
			rc = fn(ctx, ls->items[k].name, &ls->items[k].info);
		listing_clear(ls);
	}
	return rc;
}

static int
local_list(void *self, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	struct local *l = self;
	struct listing ls = { .prefix = prefix };
	struct entries es = { 0 };
	size_t len = strlen(prefix);
	bool made;
	int fd, rc;

	fd = open_dir(l, prefix, len > 0 ? len - 1 : 0, MISSING_FAIL, &made);
	if (fd == -1)
		return is_absent(errno) ? 0 : fail_on(l, "list", prefix);
	rc = entries_read(l, &es, fd, prefix);
	if (rc == 0 && es.n > 0) {
		qsort(es.names, es.n, sizeof(*es.names), compare_strings);
		rc = list_groups(l, &ls, &es, fd, fn, ctx);
	}
	listing_clear(&ls);
	free(ls.items);
	entries_release(&es);
	sys_close(&fd);
	return rc;
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
	sys_close(&l->rootfd);
	pthread_mutex_destroy(&l->lock);
	free(l->root);
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
 * Whether a directory holds nothing that matters: 1 yes, 0 no, or an error.  Empty directories and
 * temporary files, as an attempt that failed leaves them, do not.
 */
static int
holds_nothing(const struct local *l, int dirfd, int depth)
{
	int fd = sys_openat(dirfd, ".", DIR_FLAGS, 0);
	DIR *dir = fd == -1 ? NULL : sys_fdopendir(fd);
	struct dirent *e;
	int rc = 1;

	if (!dir) {
		rc = fail_on(l, "list", "the directory");
		sys_close(&fd);
		return rc;
	}
	while (rc == 1 && (e = sys_readdir(dir)) != NULL) {
		int sub;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    is_temporary(e->d_name) || strcmp(e->d_name, "lost+found") == 0)
			continue;
		sub = depth < DEPTH_MAX ? sys_openat(dirfd, e->d_name, DIR_FLAGS, 0) : -1;
		rc = sub == -1 ? 0 : holds_nothing(l, sub, depth + 1);
		sys_close(&sub);
	}
	if (rc == 1 && errno)
		rc = fail_on(l, "list", "the directory");
	closedir(dir);
	return rc;
}

/* Open the root directory: as it is, or made, or found empty. */
static int
open_root(struct local *l, bool create_it)
{
	int rc;

	l->rootfd = sys_openat(AT_FDCWD, l->root, O_RDONLY | O_DIRECTORY, 0);
	if (l->rootfd == -1 && errno == ENOENT && create_it) {
		rc = make_root(l->root);
		if (rc)
			return rc;
		l->rootfd = sys_openat(AT_FDCWD, l->root, O_RDONLY | O_DIRECTORY, 0);
	}
	if (l->rootfd == -1 && errno == ENOENT)
		return err_set(ERR_NOTFOUND,
		    "there is no directory %s: check the path, or make a repository there with "
		    "`pastfs init`",
		    l->root);
	if (l->rootfd == -1 && errno == ENOTDIR)
		return err_set(ERR_USAGE, "%s is not a directory", l->root);
	if (l->rootfd == -1)
		return err_sys("cannot open the directory %s", l->root);
	if (!create_it)
		return 0;
	rc = holds_nothing(l, l->rootfd, 0);
	if (rc == 0)
		return err_set(ERR_EXISTS,
		    "the directory %s is not empty: choose one that is empty or not there yet",
		    l->root);
	return rc < 0 ? rc : 0;
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
	l->rootfd = -1;
	for (size_t i = 0; i < OPEN_FILES; i++)
		l->files[i].fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	l->root = mem_strdup(path);
	rc = l->root ? open_root(l, create_it) : err_nomem();
	if (rc) {
		local_close(l);
		return rc;
	}
	return backend_new(out, l->root, &local_ops, l, &caps);
}
