#include "pgsync/scan.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEPTH_MAX 100

/* A place where files are: PGDATA, then each tablespace. */
struct scan_root {
	char *dir;   /* absolute */
	size_t skip; /* the part of tree paths that `dir` stands for */
};

struct scan {
	const struct scan_opts *opts; /* while it runs */
	struct scan_item *items;
	size_t nitems, cap;
	struct scan_root *roots;
	size_t nroots;
	struct scan_tablespace *tablespaces;
	size_t ntablespaces;
};

static int scan_dir(struct scan *s, size_t at, int depth);

__attribute__((format(printf, 2, 3))) static void
warn(struct scan *s, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list ap;

	if (!s->opts->warn)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->opts->warn(s->opts->ctx, text);
}

static void
item_release(struct scan_item *it)
{
	free(it->path);
	free(it->target);
}

void
scan_free(struct scan *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->nitems; i++)
		item_release(&s->items[i]);
	for (size_t i = 0; i < s->nroots; i++)
		free(s->roots[i].dir);
	for (size_t i = 0; i < s->ntablespaces; i++)
		free(s->tablespaces[i].location);
	free(s->items);
	free(s->roots);
	free(s->tablespaces);
	free(s);
}

size_t
scan_count(const struct scan *s)
{
	return s->nitems;
}

const struct scan_item *
scan_at(const struct scan *s, size_t i)
{
	return &s->items[i];
}

size_t
scan_tablespaces(const struct scan *s, const struct scan_tablespace **list)
{
	*list = s->tablespaces;
	return s->ntablespaces;
}

void
scan_source_path(const struct scan *s, const struct scan_item *item, char out[SCAN_PATH_MAX])
{
	const struct scan_root *root = &s->roots[item->root];
	bool below = strlen(item->path) > root->skip;
	const char *rest = below ? item->path + root->skip : "";

	/* Lengths were bounded when the item was added. */
	snprintf(out, SCAN_PATH_MAX, "%s%s%s", root->dir, *rest ? "/" : "", rest);
}

static int
add_root(struct scan *s, const char *dir, size_t skip)
{
	struct scan_root *list = mem_realloc(s->roots, (s->nroots + 1) * sizeof(*list));

	if (!list)
		return err_nomem();
	s->roots = list;
	if (strlen(dir) >= TREE_PATH_MAX)
		return err_set(ERR_UNSUPPORTED, "path %.200s… is too long", dir);
	list[s->nroots].dir = mem_strdup(dir);
	list[s->nroots].skip = skip;
	if (!list[s->nroots].dir)
		return err_nomem();
	s->nroots++;
	return 0;
}

/* Append an item; `target` may be NULL.  It is the last one then. */
static int
add_item(struct scan *s, const char *path, size_t root, enum tree_type type, const struct stat *st,
    const char *target)
{
	struct scan_item *it;

	if (s->nitems == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 1024;
		struct scan_item *list = mem_realloc(s->items, cap * sizeof(*list));

		if (!list)
			return err_nomem();
		s->items = list;
		s->cap = cap;
	}
	it = &s->items[s->nitems];
	memset(it, 0, sizeof(*it));
	it->path = mem_strdup(path);
	it->target = target ? mem_strdup(target) : NULL;
	if (!it->path || (target && !it->target)) {
		item_release(it);
		return err_nomem();
	}
	it->root = (uint32_t)root;
	it->type = type;
	it->st = *st;
	if (type == TREE_FILE)
		pgfiles_classify(path, &it->file);
	s->nitems++;
	return 0;
}

static int
join(char out[TREE_PATH_MAX], const char *dir, const char *name)
{
	int n = snprintf(out, TREE_PATH_MAX, "%s%s%s", dir, *dir ? "/" : "", name);

	if (n >= TREE_PATH_MAX)
		return err_set(ERR_UNSUPPORTED, "path %.200s…/%s is too long", dir, name);
	return 0;
}

static int
read_link(int dirfd, const char *name, const char *path, char out[PATH_MAX])
{
	ssize_t n = readlinkat(dirfd, name, out, PATH_MAX - 1);

	if (n < 0)
		return err_sys("read link %s", path);
	out[n] = '\0';
	return 0;
}

/* A link that is nobody's business but the administrator's: kept as it is. */
static int
add_link(struct scan *s, int dirfd, const char *name, const char *path, size_t root,
    const struct stat *st)
{
	char target[PATH_MAX];
	int rc = read_link(dirfd, name, path, target);

	if (rc)
		return rc;
	if (target[0] == '/' || strncmp(target, "../", 3) == 0)
		warn(s,
		    "%s is a link to %s, outside the data directory: what it leads to is not "
		    "stored",
		    path, target);
	return add_item(s, path, root, TREE_SYMLINK, st, target);
}

/* One name of a directory. */
static int
scan_name(struct scan *s, const struct scan_item *dir, int dirfd, const char *name)
{
	char path[TREE_PATH_MAX];
	enum pgfile_rule rule;
	struct stat st;
	int rc = join(path, dir->path, name);

	if (rc)
		return rc;
	if (sys_fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : err_sys("look at %s", path);

	/* pg_wal and its like may be links to elsewhere; in a backup they are directories. */
	rule = pgfiles_rule(path, true);
	if (S_ISLNK(st.st_mode) && rule == PGFILE_SKIP_CONTENTS && sys_fstatat(dirfd, name, &st, 0))
		return err_sys("look at %s", path);
	if (S_ISDIR(st.st_mode))
		return rule == PGFILE_SKIP ? 0 : add_item(s, path, dir->root, TREE_DIR, &st, NULL);
	if (pgfiles_rule(path, false) == PGFILE_SKIP)
		return 0;
	if (S_ISLNK(st.st_mode))
		return add_link(s, dirfd, name, path, dir->root, &st);
	if (S_ISREG(st.st_mode))
		return add_item(s, path, dir->root, TREE_FILE, &st, NULL);
	if (!S_ISSOCK(st.st_mode))
		warn(s, "%s is neither file, directory nor link: left out", path);
	return 0;
}

static int
compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/*
 * Leave out what is unlogged among the items from `first` on, which are one directory's: recovery
 * makes these forks anew from the _init fork.
 */
static int
drop_unlogged(struct scan *s, size_t first)
{
	uint32_t *inits = mem_calloc(s->nitems - first, sizeof(*inits));
	size_t n = 0, kept = first;

	if (!inits)
		return err_nomem();
	for (size_t i = first; i < s->nitems; i++)
		if (s->items[i].file.kind == PGFILE_INIT)
			inits[n++] = s->items[i].file.relation;
	qsort(inits, n, sizeof(*inits), compare_u32);
	for (size_t i = first; i < s->nitems; i++) {
		struct scan_item *it = &s->items[i];

		if (it->file.kind != PGFILE_OTHER && it->file.kind != PGFILE_INIT &&
		    bsearch(&it->file.relation, inits, n, sizeof(*inits), compare_u32))
			item_release(it);
		else
			s->items[kept++] = *it;
	}
	s->nitems = kept;
	free(inits);
	return 0;
}

/* ---- tablespaces ---- */

static int
note_tablespace(struct scan *s, uint32_t oid, const char *location)
{
	struct scan_tablespace *list;

	list = mem_realloc(s->tablespaces, (s->ntablespaces + 1) * sizeof(*list));
	if (!list)
		return err_nomem();
	s->tablespaces = list;
	list[s->ntablespaces].oid = oid;
	list[s->ntablespaces].location = mem_strdup(location);
	if (!list[s->ntablespaces].location)
		return err_nomem();
	s->ntablespaces++;
	return 0;
}

/* The directory of our server version in the tablespace that is the last root. */
static int
scan_tablespace_content(struct scan *s, const char *in_tree, const char *location, int depth)
{
	char path[TREE_PATH_MAX], version[64], full[SCAN_PATH_MAX];
	struct stat st;
	int rc;

	snprintf(version, sizeof(version), "PG_%u_%u", s->opts->major, s->opts->catalog_version);
	snprintf(full, sizeof(full), "%s/%s", location, version);
	rc = join(path, in_tree, version);
	if (rc)
		return rc;
	if (sys_fstatat(AT_FDCWD, full, &st, 0)) {
		if (errno != ENOENT)
			return err_sys("look at tablespace %s", full);
		return 0; /* dropped meanwhile; WAL knows */
	}
	rc = add_item(s, path, s->nroots - 1, TREE_DIR, &st, NULL);
	return rc ? rc : scan_dir(s, s->nitems - 1, depth + 1);
}

/* pg_tblspc/OID: `st` is of the link or, in place, of the directory. */
static int
scan_tablespace(struct scan *s, int dirfd, const char *name, struct stat *st, int depth)
{
	char location[PATH_MAX], in_tree[32], path[32], target[40];
	struct stat dir_st = *st;
	uint32_t oid;
	int rc;

	if (!pgfiles_oid(name, strlen(name), &oid))
		return 0; /* PostgreSQL looks at nothing else there */
	snprintf(path, sizeof(path), "pg_tblspc/%u", oid);
	snprintf(in_tree, sizeof(in_tree), "pg_tblspc_data/%u", oid);
	snprintf(target, sizeof(target), "../%s", in_tree);
	if (S_ISLNK(st->st_mode)) {
		rc = read_link(dirfd, name, path, location);
		if (rc)
			return rc;
		if (sys_fstatat(dirfd, name, &dir_st, 0))
			return errno == ENOENT ? 0 : err_sys("look at tablespace %s", location);
	} else {
		snprintf(location, sizeof(location), "%.3000s/%s", s->opts->pgdata, path);
	}
	if (location[0] != '/') {
		char relative[PATH_MAX];

		memcpy(relative, location, sizeof(relative));
		snprintf(location, sizeof(location), "%.2000s/pg_tblspc/%.2000s", s->opts->pgdata,
		    relative);
	}
	st->st_mode = S_IFLNK | 0777;
	rc = note_tablespace(s, oid, location);
	if (rc == 0)
		rc = add_item(s, path, 0, TREE_SYMLINK, st, target);
	if (rc == 0)
		rc = add_root(s, location, strlen(in_tree) + 1);
	if (rc == 0)
		rc = add_item(s, in_tree, s->nroots - 1, TREE_DIR, &dir_st, NULL);
	return rc ? rc : scan_tablespace_content(s, in_tree, location, depth);
}

static int
scan_tablespace_dir(struct scan *s, DIR *d, const struct stat *dir_st, int depth)
{
	struct dirent *de;
	bool first = true;

	while ((errno = 0, de = readdir(d))) {
		struct stat st;
		int rc;

		if (de->d_name[0] == '.')
			continue;
		if (sys_fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
			if (errno == ENOENT)
				continue;
			return err_sys("look at pg_tblspc/%s", de->d_name);
		}
		if (!S_ISLNK(st.st_mode) && !S_ISDIR(st.st_mode))
			continue;
		rc = first ? add_item(s, "pg_tblspc_data", 0, TREE_DIR, dir_st, NULL) : 0;
		first = false;
		if (rc == 0)
			rc = scan_tablespace(s, dirfd(d), de->d_name, &st, depth);
		if (rc)
			return rc;
	}
	return errno ? err_sys("read directory pg_tblspc") : 0;
}

/* ---- directories ---- */

static int
open_dir(DIR **out, const struct scan *s, const struct scan_item *it)
{
	char full[SCAN_PATH_MAX];
	int fd;

	*out = NULL;
	scan_source_path(s, it, full);
	fd = sys_openat(AT_FDCWD, full, O_RDONLY | O_DIRECTORY, 0);
	if (fd == -1)
		return errno == ENOENT ? 0 : err_sys("open directory %s", full);
	*out = fdopendir(fd);
	if (!*out) {
		int rc = err_sys("open directory %s", full);

		sys_close(&fd);
		return rc;
	}
	return 0;
}

static int
scan_names(struct scan *s, size_t at, DIR *d)
{
	struct dirent *de;

	while ((errno = 0, de = readdir(d))) {
		struct scan_item dir = s->items[at]; /* a copy: the list may move */
		int rc = cancel_check();

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		if (rc == 0)
			rc = scan_name(s, &dir, dirfd(d), de->d_name);
		if (rc)
			return rc;
	}
	return errno ? err_sys("read directory %s", s->items[at].path) : 0;
}

/* pg_wal gets the empty directories that a server expects in it. */
static int
add_wal_dirs(struct scan *s, const struct scan_item *wal)
{
	struct stat st = wal->st;
	size_t root = wal->root;
	int rc = add_item(s, "pg_wal/archive_status", root, TREE_DIR, &st, NULL);

	if (rc == 0 && s->opts->major >= 17)
		rc = add_item(s, "pg_wal/summaries", root, TREE_DIR, &st, NULL);
	return rc;
}

/* Go into one item that is a directory. */
static int
scan_child(struct scan *s, size_t at, int depth)
{
	struct scan_item it = s->items[at];
	DIR *d;
	int rc;

	if (strcmp(it.path, "pg_wal") == 0)
		return add_wal_dirs(s, &it);
	if (pgfiles_rule(it.path, true) == PGFILE_SKIP_CONTENTS)
		return 0;
	if (strcmp(it.path, "pg_tblspc") != 0)
		return scan_dir(s, at, depth + 1);
	rc = open_dir(&d, s, &it);
	if (rc || !d)
		return rc;
	rc = scan_tablespace_dir(s, d, &it.st, depth + 1);
	closedir(d);
	return rc;
}

/* Add what is in the directory that is item `at`, then go down. */
static int
scan_dir(struct scan *s, size_t at, int depth)
{
	size_t first = s->nitems, last;
	DIR *d;
	int rc;

	if (depth > DEPTH_MAX)
		return err_set(ERR_UNSUPPORTED, "directory %s is too deep", s->items[at].path);
	rc = open_dir(&d, s, &s->items[at]);
	if (rc || !d)
		return rc;
	rc = scan_names(s, at, d);
	closedir(d);
	if (rc == 0 && pgfiles_is_relation_dir(s->items[at].path))
		rc = drop_unlogged(s, first);
	last = s->nitems;
	for (size_t i = first; rc == 0 && i < last; i++)
		if (s->items[i].type == TREE_DIR)
			rc = scan_child(s, i, depth);
	return rc;
}

int
scan_run(struct scan **out, const struct scan_opts *opts)
{
	struct scan *s = mem_alloc(sizeof(*s));
	struct stat st;
	int rc;

	*out = NULL;
	if (!s)
		return err_nomem();
	s->opts = opts;
	if (sys_fstatat(AT_FDCWD, opts->pgdata, &st, 0)) {
		rc = err_sys("look at data directory %s", opts->pgdata);
		goto out;
	}
	rc = add_root(s, opts->pgdata, 0);
	if (rc == 0)
		rc = add_item(s, "", 0, TREE_DIR, &st, NULL);
	if (rc == 0)
		rc = scan_dir(s, 0, 0);
	if (rc)
		goto out;
	s->opts = NULL;
	*out = s;
	s = NULL;
out:
	scan_free(s);
	return rc;
}
