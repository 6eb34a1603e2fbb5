#include "pgsync/confset.h"

#include "pgsync/pgconf.h"
#include "store/base/bytes.h"
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

#define DEPTH_MAX 10 /* PostgreSQL's own limit for includes within includes */

/* Where included files from outside the configuration's own directory go, rewritten. */
#define INCLUDED_DIR CONFSET_DIR "/@included"

struct confset {
	const struct confset_opts *opts; /* while collecting */
	const struct confset_host *host; /* while collecting */
	struct stat pgdata_st;
	char conf_dir[PATH_MAX]; /* of the main configuration file */
	struct confset_file *files;
	size_t nfiles;
	char **seen; /* absolute paths of files that were taken up */
	size_t nseen;
	int depth; /* of includes now */
};

/* The file being rewritten, for its includes. */
struct rewriting {
	struct confset *cs;
	const char *abs;  /* the file */
	const char *path; /* where it goes in the tree */
	char to[PATH_MAX];
	int rc; /* of what an include led to */
};

static int take_config(struct confset *cs, const char *abs, const char *path, bool parse);

__attribute__((format(printf, 2, 3))) static void
warn(struct confset *cs, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list ap;

	if (!cs->opts->warn)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cs->opts->warn(cs->opts->ctx, text);
}

/* ---- the files of this host ---- */

static int
local_stat(void *ctx, const char *path, bool follow, struct stat *st)
{
	(void)ctx;
	return sys_fstatat(AT_FDCWD, path, st, follow ? 0 : AT_SYMLINK_NOFOLLOW);
}

static int
local_read(void *ctx, const char *path, struct stat *st, uint8_t **data, size_t *len)
{
	int fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0), rc = 1;
	ssize_t n;

	(void)ctx;
	*data = NULL;
	if (fd == -1 || sys_fstat(fd, st)) {
		err_sys("open");
		goto out;
	}
	if (!S_ISREG(st->st_mode) || st->st_size > (off_t)PGCONF_FILE_MAX) {
		err_set(ERR_UNSUPPORTED, "it is not a file of up to %u bytes", PGCONF_FILE_MAX);
		goto out;
	}
	*data = mem_alloc((size_t)st->st_size + 1);
	if (!*data) {
		rc = err_nomem();
		goto out;
	}
	n = sys_pread_full(fd, *data, (size_t)st->st_size, 0);
	if (n < 0) {
		err_sys("read");
		goto out;
	}
	*len = (size_t)n;
	rc = 0;
out:
	if (rc) {
		free(*data);
		*data = NULL;
	}
	sys_close(&fd);
	return rc;
}

static int
local_list(void *ctx, const char *path, char ***names, size_t *n)
{
	struct dirent **found = NULL;
	int count = scandir(path, &found, NULL, alphasort), rc = 0;

	(void)ctx;
	*names = NULL;
	*n = 0;
	if (count < 0) {
		err_sys("list");
		return 1;
	}
	*names = mem_calloc((size_t)count, sizeof(**names));
	if (!*names)
		rc = err_nomem();
	for (int i = 0; i < count; i++) {
		if (rc == 0) {
			(*names)[*n] = mem_strdup(found[i]->d_name);
			rc = (*names)[*n] ? 0 : err_nomem();
			*n += rc == 0;
		}
		free(found[i]);
	}
	free(found);
	for (size_t i = 0; rc && i < *n; i++)
		free((*names)[i]);
	if (rc) {
		free(*names);
		*names = NULL;
		*n = 0;
	}
	return rc;
}

static const struct confset_host local_host = { local_stat, local_read, local_list, NULL };

static int
host_stat(const struct confset *cs, const char *path, bool follow, struct stat *st)
{
	return cs->host->stat(cs->host->ctx, path, follow, st);
}

void
confset_free(struct confset *cs)
{
	if (!cs)
		return;
	for (size_t i = 0; i < cs->nfiles; i++) {
		free(cs->files[i].path);
		free(cs->files[i].data);
	}
	for (size_t i = 0; i < cs->nseen; i++)
		free(cs->seen[i]);
	free(cs->files);
	free(cs->seen);
	free(cs);
}

size_t
confset_count(const struct confset *cs)
{
	return cs->nfiles;
}

const struct confset_file *
confset_at(const struct confset *cs, size_t i)
{
	return &cs->files[i];
}

bool
confset_has(const struct confset *cs, const char *path)
{
	for (size_t i = 0; i < cs->nfiles; i++)
		if (strcmp(cs->files[i].path, path) == 0)
			return true;
	return false;
}

/* ---- paths ---- */

int
confset_normalise(const char *path, char *out, size_t max)
{
	size_t n = 0;

	for (const char *p = path; *p;) {
		size_t len = strcspn(p, "/");

		if (len == 2 && p[0] == '.' && p[1] == '.') {
			while (n > 0 && out[--n] != '/')
				;
		} else if (len > 0 && !(len == 1 && p[0] == '.')) {
			if (n + len + 2 > max)
				return err_set(ERR_UNSUPPORTED, "path %.200s… is too long", path);
			out[n++] = '/';
			memcpy(out + n, p, len);
			n += len;
		}
		p += len;
		p += strspn(p, "/");
	}
	if (n == 0)
		out[n++] = '/';
	out[n] = '\0';
	return 0;
}

/* What is left of `path` below `dir`, or NULL. */
static const char *
below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (strncmp(path, dir, n) != 0 || path[n] != '/')
		return NULL;
	return path + n + 1;
}

static void
parent_of(const char *path, char out[PATH_MAX])
{
	const char *slash = strrchr(path, '/');

	snprintf(out, PATH_MAX, "%.*s", slash ? (int)(slash - path) : 0, path);
}

/* Where the file or directory at `abs` goes when something includes it. */
static int
tree_place(const struct confset *cs, const char *abs, char out[PATH_MAX])
{
	const char *rest = below(abs, cs->conf_dir);

	if (!rest)
		rest = below(abs, cs->opts->pgdata);
	if (snprintf(out, PATH_MAX, "%s%s", rest ? "" : INCLUDED_DIR, rest ? rest : abs) >=
	    PATH_MAX)
		return err_set(ERR_UNSUPPORTED, "path %.200s… is too long", abs);
	return 0;
}

/* The way from the directory of the tree's file `from` to the tree's `to`. */
static void
relative_way(const char *from, const char *to, char out[PATH_MAX])
{
	size_t n = 0;

	out[0] = '\0';
	for (const char *p = from; *p; p++)
		if (*p == '/' && n + 4 < PATH_MAX) {
			memcpy(out + n, "../", 4);
			n += 3;
		}
	snprintf(out + n, PATH_MAX - n, "%s", to);
}

/* ---- the set ---- */

/* Take over `data`, also on error. */
static int
add_file(struct confset *cs, const char *path, const struct stat *st, bool is_dir, uint8_t *data,
    size_t len)
{
	struct confset_file *list;
	char *own;

	if (confset_has(cs, path)) {
		free(data);
		return 0;
	}
	own = mem_strdup(path);
	list = own ? mem_realloc(cs->files, (cs->nfiles + 1) * sizeof(*list)) : NULL;
	if (!list) {
		free(own);
		free(data);
		return err_nomem();
	}
	cs->files = list;
	list += cs->nfiles++;
	*list = (struct confset_file){
		.path = own, .is_dir = is_dir, .st = *st, .data = data, .len = len
	};
	return 0;
}

/*
 * Whether the data directory has a directory of its own at `path`, which the scan brings.
 */
static bool
pgdata_has_dir(const struct confset *cs, const char *path)
{
	char full[2 * PATH_MAX];
	struct stat st;

	snprintf(full, sizeof(full), "%s/%s", cs->opts->pgdata, path);
	return host_stat(cs, full, false, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The directories above `path`: private, and the server's. */
static int
add_parents(struct confset *cs, const char *path)
{
	char dir[PATH_MAX];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		int rc;

		snprintf(dir, sizeof(dir), "%.*s", (int)(p - path), path);
		if (pgdata_has_dir(cs, dir))
			continue;
		rc = add_file(cs, dir, &cs->pgdata_st, true, NULL, 0);
		if (rc)
			return rc;
	}
	return 0;
}

static int
add_with_parents(
    struct confset *cs, const char *path, const struct stat *st, uint8_t *data, size_t len)
{
	int rc = add_parents(cs, path);

	if (rc) {
		free(data);
		return rc;
	}
	return add_file(cs, path, st, false, data, len);
}

/* Keep the file at `abs` word for word. */
static int
add_original(
    struct confset *cs, const char *abs, const struct stat *st, const void *data, size_t len)
{
	char path[PATH_MAX];
	uint8_t *copy;

	if (snprintf(path, sizeof(path), CONFSET_DIR "%s", abs) >= (int)sizeof(path))
		return err_set(ERR_UNSUPPORTED, "path %.200s… is too long", abs);
	copy = mem_dup(data, len);
	return copy ? add_with_parents(cs, path, st, copy, len) : err_nomem();
}

/* ---- reading ---- */

/* 0, 1 if it cannot be read (then told to the caller's warn), or an error. */
static int
read_config(struct confset *cs, const char *abs, struct stat *st, uint8_t **data, size_t *len)
{
	int rc = cs->host->read(cs->host->ctx, abs, st, data, len);

	if (rc == 1)
		warn(
		    cs, "configuration file %s cannot be read and is left out: %s", abs, err_msg());
	return rc;
}

/* ---- includes ---- */

static bool
is_conf_name(const char *name)
{
	size_t n = strlen(name);

	return name[0] != '.' && n > 5 && strcmp(name + n - 5, ".conf") == 0;
}

/* The files of a directory, in the order in which the server reads them. */
static int
take_files(struct confset *cs, const char *abs, const char *path, char **names, size_t n)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++) {
		char file[PATH_MAX], place[PATH_MAX];

		if (is_conf_name(names[i]) &&
		    snprintf(file, PATH_MAX, "%s/%s", abs, names[i]) < PATH_MAX &&
		    snprintf(place, PATH_MAX, "%s/%s", path, names[i]) < PATH_MAX)
			rc = take_config(cs, file, place, true);
	}
	return rc;
}

static int
take_dir(struct confset *cs, const char *abs, const char *path)
{
	char **names = NULL;
	struct stat st;
	size_t n = 0;
	int rc;

	if (host_stat(cs, abs, true, &st)) {
		err_sys("look at it");
		rc = 1;
	} else {
		rc = cs->host->list(cs->host->ctx, abs, &names, &n);
	}
	if (rc == 1)
		warn(cs, "configuration directory %s cannot be read and is left out: %s", abs,
		    err_msg());
	if (rc)
		return rc < 0 ? rc : 0;
	rc = add_parents(cs, path);
	if (rc == 0 && !pgdata_has_dir(cs, path))
		rc = add_file(cs, path, &st, true, NULL, 0);
	if (rc == 0)
		rc = take_files(cs, abs, path, names, n);
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return rc;
}

/* Called for each include of a file: take up what it names, and say where that is now. */
static const char *
include_to(void *ctx, const struct pgconf_statement *s)
{
	struct rewriting *rw = ctx;
	char dir[PATH_MAX], joined[2 * PATH_MAX], abs[PATH_MAX], place[PATH_MAX];
	struct stat st;

	if (rw->rc || s->value[0] == '\0')
		return NULL;
	parent_of(rw->abs, dir);
	snprintf(joined, sizeof(joined), "%s/%s", s->value[0] == '/' ? "" : dir, s->value);
	rw->rc = confset_normalise(joined, abs, sizeof(abs));
	if (rw->rc == 0)
		rw->rc = tree_place(rw->cs, abs, place);
	if (rw->rc)
		return NULL;
	if (s->directive == PGCONF_INCLUDE_DIR)
		rw->rc = take_dir(rw->cs, abs, place);
	else if (s->directive == PGCONF_INCLUDE || host_stat(rw->cs, abs, true, &st) == 0)
		rw->rc = take_config(rw->cs, abs, place, true);
	relative_way(rw->path, place, rw->to);

	/* Most includes are right as they are: conf.d beside postgresql.conf. */
	return strcmp(rw->to, s->value) == 0 ? NULL : rw->to;
}

/* ---- one file ---- */

static int
remember(struct confset *cs, const char *abs)
{
	char **list;

	for (size_t i = 0; i < cs->nseen; i++)
		if (strcmp(cs->seen[i], abs) == 0)
			return 1;
	if (cs->nseen >= CONFSET_FILES_MAX)
		return err_set(ERR_UNSUPPORTED, "the configuration includes more than %d files",
		    CONFSET_FILES_MAX);
	list = mem_realloc(cs->seen, (cs->nseen + 1) * sizeof(*list));
	if (!list)
		return err_nomem();
	cs->seen = list;
	list[cs->nseen] = mem_strdup(abs);
	if (!list[cs->nseen])
		return err_nomem();
	cs->nseen++;
	return 0;
}

/* A file of the data directory that another takes the place of is kept beside. */
static int
keep_hidden(struct confset *cs, const char *full)
{
	struct stat st;
	uint8_t *data;
	size_t len;
	int rc;

	if (host_stat(cs, full, false, &st) || !S_ISREG(st.st_mode))
		return 0;
	rc = read_config(cs, full, &st, &data, &len);
	if (rc)
		return rc < 0 ? rc : 0;
	rc = add_original(cs, full, &st, data, len);
	free(data);
	return rc;
}

/*
 * Put the file that is `path` in the tree there as `text` (taken), unless the data directory has
 * exactly that in this place already.
 */
static int
place_file(struct confset *cs, const char *abs, const char *path, const struct stat *st,
    const struct bytes *original, struct bytes *text, bool changed)
{
	char full[2 * PATH_MAX];
	struct stat own;
	bool in_place;
	uint8_t *copy;
	int rc = 0;

	snprintf(full, sizeof(full), "%s/%s", cs->opts->pgdata, path);
	in_place =
	    strcmp(full, abs) == 0 && host_stat(cs, full, false, &own) == 0 && S_ISREG(own.st_mode);
	if (in_place && !changed)
		return 0;
	if (!in_place)
		rc = keep_hidden(cs, full);
	if (rc == 0)
		rc = add_original(cs, abs, st, original->data, original->len);
	if (rc)
		return rc;
	copy = mem_dup(text->data, text->len);
	return copy ? add_with_parents(cs, path, st, copy, text->len) : err_nomem();
}

static int
take_config(struct confset *cs, const char *abs, const char *path, bool parse)
{
	struct rewriting rw = { .cs = cs, .abs = abs, .path = path };
	struct pgconf_rewrite how = { .include = include_to, .ctx = &rw };
	struct bytes text, original = { 0 };
	bool changed = false;
	struct stat st;
	int rc;

	if (cs->depth >= DEPTH_MAX) {
		warn(cs, "configuration file %s is included too deep and is left out", abs);
		return 0;
	}
	rc = remember(cs, abs);
	if (rc)
		return rc < 0 ? rc : 0;
	cs->depth++;
	bytes_init(&text);
	rc = read_config(cs, abs, &st, &original.data, &original.len);
	if (rc) {
		rc = rc < 0 ? rc : 0;
		goto out;
	}
	if (parse)
		rc = pgconf_rewrite(
		    &text, (const char *)original.data, original.len, &how, &changed);
	else
		bytes_put(&text, original.data, original.len);
	if (rc == 0)
		rc = rw.rc ? rw.rc : bytes_status(&text);
	if (rc == 0)
		rc = place_file(cs, abs, path, &st, &original, &text, changed);
out:
	cs->depth--;
	free(original.data);
	bytes_release(&text);
	return rc;
}

int
confset_collect(struct confset **out, const struct confset_opts *opts)
{
	struct confset *cs = mem_alloc(sizeof(*cs));
	char abs[PATH_MAX];
	int rc;

	*out = NULL;
	if (!cs)
		return err_nomem();
	cs->opts = opts;
	cs->host = opts->host ? opts->host : &local_host;
	if (host_stat(cs, opts->pgdata, true, &cs->pgdata_st)) {
		rc = err_sys("look at data directory %s", opts->pgdata);
		goto out;
	}
	rc = confset_normalise(opts->config_file, abs, sizeof(abs));
	if (rc)
		goto out;
	parent_of(abs, cs->conf_dir);
	rc = take_config(cs, abs, "postgresql.conf", true);
	if (rc == 0)
		rc = confset_normalise(opts->hba_file, abs, sizeof(abs));
	if (rc == 0)
		rc = take_config(cs, abs, "pg_hba.conf", false);
	if (rc == 0)
		rc = confset_normalise(opts->ident_file, abs, sizeof(abs));
	if (rc == 0)
		rc = take_config(cs, abs, "pg_ident.conf", false);
	if (rc)
		goto out;
	cs->opts = NULL;
	cs->host = NULL;
	*out = cs;
	cs = NULL;
out:
	confset_free(cs);
	return rc;
}
