#include "pgsync/confsql.h"

#include "pgsync/confset.h"
#include "pgsync/pgconf.h"
#include "pgsync/pgconn.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAMES_MAX 100000

/* A refusal, a file that is gone: a matter of this file; everything else ends the backup. */
static bool
is_refusal(int rc)
{
	return rc == ERR_FAIL || rc == ERR_DENIED;
}

static int
sql_stat(void *ctx, const char *path, bool follow, struct stat *st)
{
	const struct confsql_opts *o = ctx;
	struct pgresult *r = NULL;
	uint64_t size, mtime;
	const char *dir;
	int rc;

	(void)follow; /* the server always follows */
	memset(st, 0, sizeof(*st));
	rc = pgconn_query(o->sql, &r,
	    "SELECT size, greatest(floor(extract(epoch FROM modification)), 0)::bigint, isdir "
	    "FROM pg_stat_file($1, true)",
	    1, &path);
	if (rc) {
		errno = rc == ERR_DENIED ? EACCES : EIO;
		return -1;
	}
	dir = pgresult_text(r, 0, 2);
	if (!dir || pgresult_u64(r, 0, 0, &size) || pgresult_u64(r, 0, 1, &mtime)) {
		pgresult_free(r);
		errno = ENOENT;
		return -1;
	}
	st->st_mode = dir[0] == 't' ? S_IFDIR | o->dir_mode : S_IFREG | (o->dir_mode & 0660);
	st->st_size = (off_t)size;
	st->st_mtim.tv_sec = (time_t)mtime;
	st->st_ctim = st->st_mtim;
	st->st_uid = o->uid;
	st->st_gid = o->gid;
	pgresult_free(r);
	return 0;
}

static int
decode(const char *hex, uint8_t **data, size_t *len)
{
	size_t n = strlen(hex) / 2;

	*data = mem_alloc(n + 1);
	if (!*data)
		return err_nomem();
	if (hex_decode(*data, hex, n)) {
		free(*data);
		*data = NULL;
		return err_set(ERR_FAIL, "PostgreSQL sent a file in an unknown form");
	}
	*len = n;
	return 0;
}

static int
sql_read(void *ctx, const char *path, struct stat *st, uint8_t **data, size_t *len)
{
	const struct confsql_opts *o = ctx;
	struct pgresult *r = NULL;
	char max[16];
	const char *params[] = { path, max };
	int rc;

	*data = NULL;
	*len = 0;
	if (sql_stat(ctx, path, true, st)) {
		err_sys("look at it");
		return 1;
	}
	if (!S_ISREG(st->st_mode) || st->st_size > (off_t)PGCONF_FILE_MAX) {
		err_set(ERR_UNSUPPORTED, "it is not a file of up to %u bytes", PGCONF_FILE_MAX);
		return 1;
	}
	snprintf(max, sizeof(max), "%u", PGCONF_FILE_MAX);
	rc = pgconn_query(
	    o->sql, &r, "SELECT encode(pg_read_binary_file($1, 0, $2::bigint), 'hex')", 2, params);
	if (rc == 0) {
		const char *hex = pgresult_text(r, 0, 0);

		rc = hex ? decode(hex, data, len) : err_set(ERR_FAIL, "PostgreSQL sent no content");
	}
	pgresult_free(r);
	return is_refusal(rc) ? 1 : rc;
}

static int
take_names(const struct pgresult *r, char ***names, size_t *n)
{
	size_t rows = pgresult_rows(r);

	if (rows > NAMES_MAX) {
		err_set(ERR_UNSUPPORTED, "it has more than %d entries", NAMES_MAX);
		return 1;
	}
	*names = mem_calloc(rows, sizeof(**names));
	if (!*names)
		return err_nomem();
	for (; *n < rows; (*n)++) {
		const char *text = pgresult_text(r, *n, 0);

		(*names)[*n] = mem_strdup(text ? text : "");
		if (!(*names)[*n])
			break;
	}
	if (*n == rows)
		return 0;
	while (*n > 0)
		free((*names)[--*n]);
	free(*names);
	*names = NULL;
	return err_nomem();
}

static int
sql_list(void *ctx, const char *path, char ***names, size_t *n)
{
	const struct confsql_opts *o = ctx;
	struct pgresult *r = NULL;
	int rc;

	*names = NULL;
	*n = 0;
	rc = pgconn_query(
	    o->sql, &r, "SELECT f FROM pg_ls_dir($1) AS f ORDER BY f COLLATE \"C\"", 1, &path);
	if (rc == 0)
		rc = take_names(r, names, n);
	pgresult_free(r);
	return is_refusal(rc) ? 1 : rc;
}

int
confsql_collect(struct confset **out, const struct confsql_opts *opts)
{
	struct confsql_opts own = *opts;
	const struct confset_host host = { sql_stat, sql_read, sql_list, &own };
	struct pgresult *r = NULL;
	struct confset_opts set = { .host = &host, .warn = opts->warn, .ctx = opts->ctx };
	struct stat st;
	int rc;

	*out = NULL;
	rc = pgconn_query(opts->sql, &r,
	    "SELECT current_setting('data_directory'), current_setting('config_file'), "
	    "current_setting('hba_file'), current_setting('ident_file')",
	    0, NULL);
	if (rc)
		goto out;
	set.pgdata = pgresult_text(r, 0, 0);
	set.config_file = pgresult_text(r, 0, 1);
	set.hba_file = pgresult_text(r, 0, 2);
	set.ident_file = pgresult_text(r, 0, 3);
	if (!set.pgdata || !set.config_file || !set.hba_file || !set.ident_file) {
		rc = err_set(ERR_FAIL, "PostgreSQL does not say where its configuration is");
		goto out;
	}
	/* One question tells whether the role may ask for files at all. */
	if (sql_stat(&own, set.pgdata, true, &st))
		rc = err_set(ERR_DENIED, "the role may not read server files by SQL; GRANT "
					 "pg_read_server_files and EXECUTE on "
					 "pg_stat_file, pg_read_binary_file and pg_ls_dir to it");
	else
		rc = confset_collect(out, &set);
out:
	pgresult_free(r);
	return is_refusal(rc) ? 1 : rc;
}
