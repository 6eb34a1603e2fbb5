#include "store/localdir.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACKS     "packs/"
#define DEPTH_MAX 10

/* ---- names, paths, directories ---- */

void
localdir_path(const char *name, char path[LOCALDIR_PATH_MAX])
{
	const char *last = strrchr(name, '/');
	size_t dir = last ? (size_t)(last + 1 - name) : 0;

	/* Packs are many; two characters spread them over 256 directories. */
	if (strncmp(name, PACKS, strlen(PACKS)) == 0)
		snprintf(
		    path, LOCALDIR_PATH_MAX, "%.*s%.2s/%s", (int)dir, name, last + 1, last + 1);
	else
		snprintf(path, LOCALDIR_PATH_MAX, "%s", name);
}

/* The inverse; false if no object has the file at `path`. */
static bool
name_of_path(const char *path, char name[BACKEND_NAME_MAX + 1])
{
	const char *last = strrchr(path, '/');
	const char *fan;
	size_t dir;

	if (strncmp(path, PACKS, strlen(PACKS)) != 0)
		return snprintf(name, BACKEND_NAME_MAX + 1, "%s", path) <= BACKEND_NAME_MAX;
	for (fan = last; fan[-1] != '/'; fan--)
		if (fan - 1 == path)
			return false;
	dir = (size_t)(last - fan);
	if (dir != strnlen(last + 1, 2) || memcmp(fan, last + 1, dir) != 0)
		return false;
	return snprintf(name, BACKEND_NAME_MAX + 1, "%.*s%s", (int)(fan - path), path, last + 1) <=
	       BACKEND_NAME_MAX;
}

/* Open the directory `part` in `dirfd`; errno on error.  `*made` is set if it was made. */
static int
open_part(int dirfd, const char *part, enum localdir_missing missing, bool *made)
{
	int fd = sys_openat(dirfd, part, LOCALDIR_FLAGS, 0);

	if (fd != -1 || errno != ENOENT || missing == LOCALDIR_FAIL)
		return fd;
	if (sys_mkdirat(dirfd, part, 0750) && errno != EEXIST)
		return -1;
	*made = true;
	return sys_openat(dirfd, part, LOCALDIR_FLAGS, 0);
}

int
localdir_open(const struct localdir *l, const char *path, size_t len, enum localdir_missing missing,
    bool *made)
{
	char copy[LOCALDIR_PATH_MAX];
	char *save = NULL;
	int fd = sys_openat(l->fd, ".", LOCALDIR_FLAGS, 0);

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

bool
localdir_is_temporary(const char *file)
{
	return strncmp(file, LOCALDIR_TMP_PREFIX, strlen(LOCALDIR_TMP_PREFIX)) == 0;
}

bool
localdir_is_absent(int eno)
{
	return eno == ENOENT || eno == ENOTDIR;
}

void
localdir_info(const struct stat *st, struct object_info *info)
{
	info->bytes = (uint64_t)st->st_size;
	info->modified_us = (int64_t)st->st_mtim.tv_sec * 1000000 + st->st_mtim.tv_nsec / 1000;
}

static int
fail_on(const struct localdir *l, const char *what, const char *path)
{
	return err_sys("cannot %s %s in %s", what, path, l->root);
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
static bool
grow(void **array, size_t n, size_t *cap, size_t size)
{
	size_t larger = *cap ? *cap * 2 : 64;
	void *p;

	if (n < *cap)
		return true;
	p = mem_realloc(*array, larger * size);
	if (!p)
		return false;
	*array = p;
	*cap = larger;
	return true;
}

static int
listing_add(struct listing *ls, const char *path, const struct stat *st)
{
	char name[BACKEND_NAME_MAX + 1];
	struct item *item;

	if (!name_of_path(path, name) || backend_check_name(name) ||
	    strncmp(name, ls->prefix, strlen(ls->prefix)) != 0)
		return 0;
	if (!grow((void **)&ls->items, ls->n, &ls->cap, sizeof(*ls->items)))
		return err_nomem();
	item = &ls->items[ls->n];
	item->name = mem_strdup(name);
	if (!item->name)
		return err_nomem();
	localdir_info(st, &item->info);
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
entries_read(const struct localdir *l, struct entries *es, int dirfd, const char *path)
{
	int fd = sys_openat(dirfd, ".", LOCALDIR_FLAGS, 0);
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
		if (!grow((void **)&es->names, es->n, &es->cap, sizeof(*es->names))) {
			rc = err_nomem();
			break;
		}
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
gather(const struct localdir *l, struct listing *ls, int dirfd, const char *path, const char *leaf,
    int depth)
{
	struct entries es = { 0 };
	struct stat st;
	int fd, rc;

	/* What is deleted meanwhile is left out. */
	if (sys_fstatat(dirfd, leaf, &st, AT_SYMLINK_NOFOLLOW))
		return localdir_is_absent(errno) ? 0 : fail_on(l, "look up", path);
	if (S_ISREG(st.st_mode))
		return listing_add(ls, path, &st);
	if (!S_ISDIR(st.st_mode) || depth == DEPTH_MAX)
		return 0;
	fd = sys_openat(dirfd, leaf, LOCALDIR_FLAGS, 0);
	if (fd == -1)
		return localdir_is_absent(errno) ? 0 : fail_on(l, "open", path);
	rc = entries_read(l, &es, fd, path);
	for (size_t i = 0; rc == 0 && i < es.n; i++) {
		char below[LOCALDIR_PATH_MAX];

		if (snprintf(below, sizeof(below), "%s/%s", path, es.names[i]) < LOCALDIR_PATH_MAX)
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
list_groups(const struct localdir *l, struct listing *ls, const struct entries *es, int dirfd,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < es->n;) {
		char first = es->names[i][0];

		for (; rc == 0 && i < es->n && es->names[i][0] == first; i++) {
			char path[LOCALDIR_PATH_MAX];

			if (snprintf(path, sizeof(path), "%s%s", ls->prefix, es->names[i]) <
			    LOCALDIR_PATH_MAX)
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

int
localdir_list(const struct localdir *l, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	struct listing ls = { .prefix = prefix };
	struct entries es = { 0 };
	size_t len = strlen(prefix);
	bool made;
	int fd, rc;

	fd = localdir_open(l, prefix, len > 0 ? len - 1 : 0, LOCALDIR_FAIL, &made);
	if (fd == -1)
		return localdir_is_absent(errno) ? 0 : fail_on(l, "list", prefix);
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

/* localdir_is_empty() for what is open as `dirfd`. */
static int
holds_nothing(const struct localdir *l, int dirfd, int depth)
{
	int fd = sys_openat(dirfd, ".", LOCALDIR_FLAGS, 0);
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
		    localdir_is_temporary(e->d_name) || strcmp(e->d_name, "lost+found") == 0)
			continue;
		sub = depth < DEPTH_MAX ? sys_openat(dirfd, e->d_name, LOCALDIR_FLAGS, 0) : -1;
		if (sub != -1)
			rc = holds_nothing(l, sub, depth + 1);
		else if (depth == DEPTH_MAX || errno == ENOTDIR || errno == ELOOP)
			rc = 0;
		else
			rc = fail_on(l, "open", e->d_name);
		sys_close(&sub);
	}
	if (rc == 1 && errno)
		rc = fail_on(l, "list", "the directory");
	closedir(dir);
	return rc;
}

int
localdir_is_empty(const struct localdir *l)
{
	return holds_nothing(l, l->fd, 0);
}
