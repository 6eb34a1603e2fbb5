/*
 * The answer to BASE_BACKUP, in order: where the backup starts; the tablespaces; the archives; the
 * manifest; where it stops.  Servers from 15 on send archives and manifest as one stream of typed
 * messages; older ones send one stream for each tablespace, in the order of their list, and one for
 * the manifest (src/backend/backup/basebackup_copy.c of PostgreSQL).
 *
 * tablespace_map is asked for, because a link target of more than 99 bytes fits no ustar header and
 * the server refuses to send it as a link; it never becomes a file, as it would make a copy write
 * into the original's tablespaces.
 */
#include "pgsync/backup_replication.h"

#include "pgsync/arrival.h"
#include "pgsync/backup_job.h"
#include "pgsync/basetar.h"
#include "pgsync/confset.h"
#include "pgsync/confsql.h"
#include "pgsync/filefeed.h"
#include "pgsync/fsmeta.h"
#include "pgsync/pgconn.h"
#include "pgsync/pgcontrol.h"
#include "pgsync/pgfiles.h"
#include "pgsync/pgpage.h"
#include "pgsync/walfetch.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/tree.h"

#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SILENCE_MS        120000
#define SLICE_MS          500
#define KEEP_MAX          (64u << 10) /* of the small files that are looked into */
#define TABLESPACES_MAX   100000
#define NAME_BUFFER_BYTES 65536

/* An archive of the answer, in the order of the list; oid 0 is the data directory. */
struct archive {
	uint32_t oid;
	char *location;
};

struct replication {
	struct backup_job *job;
	struct pgconn *sql; /* borrowed, or NULL */
	struct pgconn *conn;
	struct walfetch *wal;
	struct lane *lane, *wal_lane;
	struct confset *config; /* NULL where it cannot be had */
	struct filefeed *feed;
	struct basetar *tar; /* the archive under way, or NULL */
	struct archive *archives;
	size_t narchives;
	uint32_t uid, gid, dir_mode;
	int64_t now_s;

	char prefix[40];    /* of paths in the archive under way */
	bool skip;          /* the member under way is not kept */
	bool has_config;    /* postgresql.conf came with the archive */
	struct bytes *keep; /* the member under way is kept here too, or NULL */
	struct bytes label, control, manifest;
};

/* ---- entries ---- */

static int
add_entry(struct replication *rp, const char *path, enum tree_type type, uint32_t mode,
    int64_t mtime_s, const char *target)
{
	struct tree_entry e = {
		.type = type,
		.mode = mode,
		.uid = rp->uid,
		.gid = rp->gid,
		.mtime_s = mtime_s,
	};

	if (target) {
		e.target = mem_strdup(target);
		if (!e.target)
			return err_nomem();
	}
	return tree_builder_add(rp->job->tree, path, &e);
}

/* What no archive has: the roots, and the links to the tablespaces. */
static int
add_frame(struct replication *rp)
{
	char path[40], target[48];
	int rc = add_entry(rp, "", TREE_DIR, rp->dir_mode, rp->now_s, NULL);

	if (rc == 0 && rp->narchives > 1)
		rc = add_entry(rp, "pg_tblspc_data", TREE_DIR, rp->dir_mode, rp->now_s, NULL);
	for (size_t i = 0; rc == 0 && i < rp->narchives; i++) {
		if (rp->archives[i].oid == 0)
			continue;
		snprintf(path, sizeof(path), "pg_tblspc_data/%u", rp->archives[i].oid);
		rc = add_entry(rp, path, TREE_DIR, rp->dir_mode, rp->now_s, NULL);
		snprintf(target, sizeof(target), "../%s", path);
		snprintf(path, sizeof(path), "pg_tblspc/%u", rp->archives[i].oid);
		if (rc == 0)
			rc = add_entry(rp, path, TREE_SYMLINK, 0777, rp->now_s, target);
	}
	return rc;
}

/* ---- members of the archives ---- */

/* Whether `path` is pg_tblspc/OID, which add_frame() brings. */
static bool
is_tablespace_link(const char *path)
{
	uint32_t oid;

	return strncmp(path, "pg_tblspc/", 10) == 0 &&
	       pgfiles_oid(path + 10, strlen(path + 10), &oid);
}

static int
member_begin(void *ctx, const struct basetar_member *m)
{
	struct replication *rp = ctx;
	char path[sizeof(rp->prefix) + BASETAR_PATH_MAX + 1];
	struct filefeed_file file = {
		.path = path, .size = m->size, .mode = m->mode, .mtime_s = m->mtime_s
	};
	bool base = rp->prefix[0] == '\0';

	snprintf(path, sizeof(path), "%s%s", rp->prefix, m->path);
	rp->keep = NULL;
	rp->skip = m->path[0] == '\0' || (rp->config && confset_has(rp->config, path)) ||
		   (base && (strcmp(path, "tablespace_map") == 0 || is_tablespace_link(path)));
	rp->has_config = rp->has_config || strcmp(path, "postgresql.conf") == 0;
	if (rp->skip)
		return 0;
	if (m->type == BASETAR_DIR) {
		rp->skip = true;
		return add_entry(rp, path, TREE_DIR, m->mode, m->mtime_s, NULL);
	}
	if (m->type == BASETAR_SYMLINK) {
		rp->skip = true;
		return add_entry(rp, path, TREE_SYMLINK, 0777, m->mtime_s, m->target);
	}
	if (base && m->size <= KEEP_MAX && strcmp(path, "backup_label") == 0)
		rp->keep = &rp->label;
	if (base && m->size <= KEEP_MAX && strcmp(path, "global/pg_control") == 0)
		rp->keep = &rp->control;
	return filefeed_begin(rp->feed, &file);
}

static int
member_data(void *ctx, const void *data, size_t len)
{
	struct replication *rp = ctx;

	if (rp->skip)
		return 0;
	if (rp->keep) {
		bytes_put(rp->keep, data, len);
		if (bytes_status(rp->keep))
			return ERR_NOMEM;
	}
	return filefeed_data(rp->feed, data, len);
}

static int
member_end(void *ctx)
{
	struct replication *rp = ctx;

	return rp->skip ? 0 : filefeed_end(rp->feed);
}

static int
open_archive(struct replication *rp, uint32_t oid)
{
	const struct basetar_sink sink = { member_begin, member_data, member_end, rp };

	rp->prefix[0] = '\0';
	if (oid)
		snprintf(rp->prefix, sizeof(rp->prefix), "pg_tblspc_data/%u/", oid);
	return basetar_new(&rp->tar, &sink);
}

static int
close_archive(struct replication *rp)
{
	int rc = rp->tar ? basetar_finish(rp->tar) : 0;

	basetar_free(rp->tar);
	rp->tar = NULL;
	return rc;
}

/* ---- configuration files ---- */

static void
forward_warning(void *ctx, const char *message)
{
	backup_job_warn(ctx, "%s", message);
}

/*
 * What the server keeps outside its data directory is in no archive.  It is collected before the
 * archives come, because it takes the place of files in them.
 */
static int
add_config(struct replication *rp)
{
	struct confsql_opts opts = { .sql = rp->sql,
		.uid = rp->uid,
		.gid = rp->gid,
		.dir_mode = rp->dir_mode,
		.warn = forward_warning,
		.ctx = rp->job };
	int rc;

	if (!rp->sql)
		return 0;
	rc = confsql_collect(&rp->config, &opts);
	if (rc)
		return rc < 0 ? rc : 0;
	for (size_t i = 0; rc == 0 && i < confset_count(rp->config); i++) {
		const struct confset_file *f = confset_at(rp->config, i);
		struct tree_entry e;

		fsmeta_entry(&e, &f->st);
		e.has_identity = false;
		rc = f->is_dir
			 ? tree_builder_add(rp->job->tree, f->path, &e)
			 : backup_job_add_text(rp->job, rp->lane, f->path, f->data, f->len, &e);
	}
	return rc;
}

/* Without a configuration a copy does not start: say so where somebody can do something. */
static void
warn_of_missing_config(struct replication *rp)
{
	if (rp->has_config || (rp->config && confset_has(rp->config, "postgresql.conf")))
		return;
	backup_job_warn(rp->job,
	    "postgresql.conf lies outside the data directory and could not be read over the "
	    "connection, so the snapshot lacks it; let the role connect to a database, and GRANT "
	    "pg_read_all_settings, pg_read_server_files and EXECUTE on pg_stat_file, "
	    "pg_read_binary_file and pg_ls_dir to it");
}

/* ---- the stream ---- */

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Bytes of the archive or the manifest that is under way. */
static int
take_bytes(struct replication *rp, const uint8_t *data, size_t len)
{
	progress_bytes(rp->job->opts->progress, len);
	if (rp->tar)
		return basetar_push(rp->tar, data, len);
	if (len > MANIFEST_BYTES_MAX - rp->manifest.len)
		return err_set(ERR_DAMAGED, "the server's backup manifest is too long");
	bytes_put(&rp->manifest, data, len);
	return bytes_status(&rp->manifest);
}

/* "base.tar" or "16400.tar" and the tablespace's path, each ended by a NUL. */
static int
next_archive(struct replication *rp, const uint8_t *data, size_t len)
{
	const char *name = (const char *)data;
	size_t n = strnlen(name, len);
	uint32_t oid = 0;
	int rc = close_archive(rp);

	if (rc)
		return rc;
	if (n == len || n < 5 || strcmp(name + n - 4, ".tar") != 0 ||
	    (strcmp(name, "base.tar") != 0 && !pgfiles_oid(name, n - 4, &oid)))
		return err_set(ERR_DAMAGED, "the server sent an archive of an unknown name");
	for (size_t i = 0; i < rp->narchives; i++)
		if (rp->archives[i].oid == oid)
			return open_archive(rp, oid);
	return err_set(ERR_DAMAGED,
	    "the server sent an archive of tablespace %u, which is not in its "
	    "list",
	    oid);
}

/* One message of the stream of a server from 15 on. */
static int
take_typed(struct replication *rp, const uint8_t *data, size_t len)
{
	if (len == 0)
		return err_set(ERR_DAMAGED, "the server sent an empty message");
	switch (data[0]) {
	case 'n':
		return next_archive(rp, data + 1, len - 1);
	case 'd':
		return take_bytes(rp, data + 1, len - 1);
	case 'm':
		return close_archive(rp);
	case 'p':
		return 0; /* how far it is: we count ourselves */
	default:
		return err_set(ERR_DAMAGED,
		    "the server sent a backup message of unknown kind 0x%02x", data[0]);
	}
}

/* Read one copy stream to its end. */
static int
read_stream(
    struct replication *rp, int (*take)(struct replication *rp, const uint8_t *data, size_t len))
{
	int64_t heard = now_ms();

	for (;;) {
		const uint8_t *data;
		size_t len;
		int rc = pgconn_copy_read(rp->conn, SLICE_MS, &data, &len);

		if (rc < 0)
			return rc;
		if (rc == 2)
			return 0;
		if (rc == 1) {
			rc = take(rp, data, len);
			/* Storing may have waited: that is not the server's silence. */
			heard = now_ms();
		} else if (now_ms() - heard > SILENCE_MS) {
			rc = err_set(ERR_FAIL,
			    "PostgreSQL at %s sent nothing of the backup for %d s; check the "
			    "server and the "
			    "network",
			    pgconn_where(rp->conn), SILENCE_MS / 1000);
		}
		if (rc == 0)
			rc = walfetch_status(rp->wal);
		if (rc)
			return rc;
	}
}

static int
expect_answer(struct replication *rp, enum pgconn_answer wanted, struct pgresult **out)
{
	int rc = pgconn_next(rp->conn, out);

	if (rc < 0)
		return rc;
	if (rc == (int)wanted)
		return 0;
	if (out) {
		pgresult_free(*out);
		*out = NULL;
	}
	return err_set(ERR_FAIL, "PostgreSQL at %s answered BASE_BACKUP in an unknown way",
	    pgconn_where(rp->conn));
}

static int
read_archives(struct replication *rp)
{
	int rc;

	if (pgconn_version(rp->conn) >= 150000) {
		rc = expect_answer(rp, PGCONN_COPY_OUT, NULL);
		return rc ? rc : read_stream(rp, take_typed);
	}
	for (size_t i = 0; i < rp->narchives; i++) {
		rc = expect_answer(rp, PGCONN_COPY_OUT, NULL);
		if (rc == 0)
			rc = open_archive(rp, rp->archives[i].oid);
		if (rc == 0)
			rc = read_stream(rp, take_bytes);
		if (rc == 0)
			rc = close_archive(rp);
		if (rc)
			return rc;
	}
	rc = expect_answer(rp, PGCONN_COPY_OUT, NULL);
	return rc ? rc : read_stream(rp, take_bytes);
}

/* ---- the command and its small answers ---- */

static int
send_command(struct replication *rp)
{
	const struct pg_backup_opts *opts = rp->job->opts;
	bool old = pgconn_version(rp->conn) < 150000;
	char *label =
	    pgconn_literal(rp->conn, opts->label && opts->label[0] ? opts->label : "pastfs");
	char command[2048];
	int n, rc;

	if (!label)
		return err_nomem();
	if (old)
		n = snprintf(command, sizeof(command),
		    "BASE_BACKUP LABEL %s PROGRESS %s NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS "
		    "MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
		    label, opts->spread_checkpoint ? "" : "FAST");
	else
		n = snprintf(command, sizeof(command),
		    "BASE_BACKUP (LABEL %s, PROGRESS, CHECKPOINT '%s', WAIT false, TABLESPACE_MAP "
		    "true, "
		    "VERIFY_CHECKSUMS false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')",
		    label, opts->spread_checkpoint ? "spread" : "fast");
	free(label);
	if (n < 0 || (size_t)n >= sizeof(command))
		return err_set(ERR_USAGE, "the backup's label is too long");
	rc = pgconn_send(rp->conn, command);
	return rc;
}

/* A position and its timeline: the first and the last answer. */
static int
read_position(struct replication *rp, uint64_t *lsn, uint32_t *timeline)
{
	struct pgresult *r = NULL;
	uint64_t tli = 0;
	int rc = expect_answer(rp, PGCONN_TUPLES, &r);

	if (rc == 0)
		rc = pgresult_lsn(r, 0, 0, lsn);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 1, &tli);
	*timeline = (uint32_t)tli;
	pgresult_free(r);
	return rc;
}

static int
take_archive_row(struct replication *rp, const struct pgresult *r, size_t row, uint64_t *kib)
{
	const char *location = pgresult_text(r, row, 1);
	struct archive *a = &rp->archives[rp->narchives];
	uint64_t oid = 0, size = 0;
	int rc = 0;

	if (pgresult_text(r, row, 0))
		rc = pgresult_u64(r, row, 0, &oid);
	if (rc == 0 && pgresult_text(r, row, 2))
		rc = pgresult_u64(r, row, 2, &size);
	if (rc)
		return rc;
	if (oid > UINT32_MAX || (oid && !location))
		return err_set(ERR_DAMAGED, "the server sent a wrong list of tablespaces");
	a->oid = (uint32_t)oid;
	a->location = mem_strdup(location ? location : "");
	if (!a->location)
		return err_nomem();
	rp->narchives++;
	*kib += size;
	return 0;
}

static int
read_archive_list(struct replication *rp)
{
	struct pgresult *r = NULL;
	uint64_t kib = 0;
	size_t n;
	int rc = expect_answer(rp, PGCONN_TUPLES, &r);

	if (rc)
		return rc;
	n = pgresult_rows(r);
	if (n == 0 || n > TABLESPACES_MAX) {
		rc = err_set(ERR_DAMAGED, "the server sent a list of %zu tablespaces", n);
		goto out;
	}
	rp->archives = mem_calloc(n, sizeof(rp->archives[0]));
	if (!rp->archives) {
		rc = err_nomem();
		goto out;
	}
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = take_archive_row(rp, r, i, &kib);
	progress_total(rp->job->opts->progress, kib * 1024, 0);
out:
	pgresult_free(r);
	return rc;
}

/* ---- who owns the files ---- */

/* The archives name owners of the other host by numbers that mean nothing here. */
static void
choose_owner(struct replication *rp, char *buf)
{
	struct passwd pw, *found = NULL;

	rp->uid = (uint32_t)geteuid();
	rp->gid = (uint32_t)getegid();
	if (getpwnam_r("postgres", &pw, buf, NAME_BUFFER_BYTES, &found) == 0 && found) {
		rp->uid = (uint32_t)pw.pw_uid;
		rp->gid = (uint32_t)pw.pw_gid;
	}
}

static int
ask_dir_mode(struct replication *rp)
{
	struct pgresult *r = NULL;
	const char *text;
	int rc = pgconn_query(rp->conn, &r, "SHOW data_directory_mode", 0, NULL);

	text = pgresult_text(r, 0, 0);
	rp->dir_mode = text && strtoul(text, NULL, 8) == 0750 ? 0750 : 0700;
	pgresult_free(r);
	return rc;
}

/* ---- after the stream ---- */

/* The page as the server has it now; 1 if it cannot be had. */
static int
read_page(struct replication *rp, const struct filefeed_suspect *s, uint8_t page[PGPAGE_BYTES])
{
	char path[TREE_PATH_MAX + 1], off[24];
	const char *params[] = { path, off };
	struct pgresult *r = NULL;
	bool tablespace = strncmp(s->path, "pg_tblspc_data/", 15) == 0;
	const char *hex;
	int rc;

	if (!rp->sql)
		return 1;
	snprintf(path, sizeof(path), "%s%s", tablespace ? "pg_tblspc/" : "",
	    s->path + (tablespace ? 15 : 0));
	snprintf(off, sizeof(off), "%" PRIu64, s->off);
	rc = pgconn_query(rp->sql, &r,
	    "SELECT encode(pg_read_binary_file($1, $2::bigint, 8192, true), 'hex')", 2, params);
	if (rc == ERR_CANCELLED || rc == ERR_NOMEM)
		return rc;
	hex = pgresult_text(r, 0, 0);
	rc = rc || !hex || arrival_page_from_hex(page, hex) ? 1 : 0;
	pgresult_free(r);
	return rc;
}

/*
 * A page that looked bad may have been sent while it was written: then it is right when it is read
 * again, or has changed since the backup began and WAL brings it in full.
 */
static int
judge_suspects(struct replication *rp)
{
	const struct pgpage_rules rules = { .data_checksums = rp->job->pg->data_checksums,
		.start_lsn = rp->job->pg->start_lsn };
	const struct filefeed_suspect *list;
	size_t n = filefeed_suspects(rp->feed, &list);
	int rc = 0;

	for (size_t i = 0; rc >= 0 && i < n; i++) {
		const struct filefeed_suspect *s = &list[i];
		uint8_t page[PGPAGE_BYTES];

		rc = read_page(rp, s, page);
		if (rc < 0 || (rc == 0 && pgpage_check(page, s->block, &rules) != PGPAGE_BAD))
			continue;
		rc = backup_job_bad_page(
		    rp->job, s->path, s->block, s->stored_checksum, s->computed_checksum);
	}
	return rc < 0 ? rc : 0;
}

static int
check_control(struct replication *rp)
{
	const struct pg_part *pg = rp->job->pg;
	struct pgcontrol control;
	int rc = pgcontrol_decode(&control, rp->control.data, rp->control.len);

	if (rc)
		return err_prefix(rc, "global/pg_control as the server sent it");
	if (control.system_identifier != pg->system_identifier ||
	    control.wal_segment_bytes != pg->wal_segment_bytes ||
	    (control.data_checksum_version != 0) != pg->data_checksums)
		return err_set(ERR_DAMAGED, "global/pg_control as the server sent it contradicts "
					    "what the server says of itself");
	if (control.block_bytes != PGPAGE_BYTES || control.segment_blocks != PGPAGE_SEGMENT_BLOCKS)
		return err_set(ERR_UNSUPPORTED,
		    "PostgreSQL at %s was built with blocks of %u bytes and segments of %u blocks; "
		    "only "
		    "%u and %u are supported",
		    pgconn_where(rp->conn), control.block_bytes, control.segment_blocks,
		    PGPAGE_BYTES, PGPAGE_SEGMENT_BLOCKS);
	return 0;
}

static int
read_label(struct replication *rp)
{
	struct pg_part *pg = rp->job->pg;
	const char *text, *at;
	char lsn[32];

	bytes_put_u8(&rp->label, 0);
	if (bytes_status(&rp->label))
		return ERR_NOMEM;
	text = (const char *)rp->label.data;
	at = strstr(text, "CHECKPOINT LOCATION: ");
	if (!at || sscanf(at, "CHECKPOINT LOCATION: %31s", lsn) != 1 ||
	    pgconn_lsn_parse(lsn, &pg->checkpoint_lsn))
		return err_set(ERR_FAIL, "PostgreSQL sent a backup label without a checkpoint");
	pg->from_standby = strstr(text, "BACKUP FROM: standby") != NULL;
	return 0;
}

static int
note_tablespaces(struct replication *rp)
{
	struct pg_part *pg = rp->job->pg;

	pg->tablespaces = mem_calloc(rp->narchives, sizeof(pg->tablespaces[0]));
	if (!pg->tablespaces)
		return err_nomem();
	for (size_t i = 0; i < rp->narchives; i++) {
		if (rp->archives[i].oid == 0)
			continue;
		pg->tablespaces[pg->ntablespaces].oid = rp->archives[i].oid;
		pg->tablespaces[pg->ntablespaces].location = rp->archives[i].location;
		rp->archives[i].location = NULL;
		pg->ntablespaces++;
	}
	return 0;
}

/* ---- the whole ---- */

static int
open_all(struct replication *rp)
{
	struct pg_part *pg = rp->job->pg;
	const char *conninfo = rp->job->opts->source->conninfo;
	struct walfetch_opts wal = { .conninfo = conninfo,
		.system_identifier = pg->system_identifier,
		.uid = rp->uid,
		.gid = rp->gid };
	int rc;

	rc = lane_new(&rp->lane, rp->job->w);
	if (rc == 0)
		rc = lane_new(&rp->wal_lane, rp->job->w);
	if (rc == 0)
		rc = walfetch_start(&rp->wal, &wal);
	if (rc == 0)
		rc = pgconn_open(&rp->conn, conninfo, PGCONN_REPLICATION);
	if (rc == 0)
		rc = ask_dir_mode(rp);
	if (rc == 0)
		rc = add_config(rp);
	return rc;
}

/* From the command to the moment when the archives begin. */
static int
begin_backup(struct replication *rp)
{
	struct pg_part *pg = rp->job->pg;
	struct walfetch_range range = { .segment_bytes = pg->wal_segment_bytes };
	struct filefeed_opts feed = {
		.window = BACKUP_REPLICATION_WINDOW, .uid = rp->uid, .gid = rp->gid
	};
	int rc;

	progress_phase(rp->job->opts->progress, "waiting for the checkpoint");
	rc = send_command(rp);
	if (rc == 0)
		rc = read_position(rp, &pg->start_lsn, &pg->timeline);
	if (rc)
		return err_prefix(rc, "start the backup");
	rc = read_archive_list(rp);
	if (rc)
		return rc;
	range.start_lsn = pg->start_lsn;
	range.timeline = pg->timeline;
	feed.start_lsn = pg->start_lsn;
	rc = walfetch_stream(rp->wal, rp->wal_lane, &range, rp->job->tree);
	if (rc == 0)
		rc = filefeed_new(&rp->feed, rp->job, &feed);
	return rc ? rc : add_frame(rp);
}

static int
end_backup(struct replication *rp)
{
	struct pg_part *pg = rp->job->pg;
	struct walfetch *wal = rp->wal;
	uint32_t timeline;
	int rc;

	rc = read_position(rp, &pg->stop_lsn, &timeline);
	while (rc == 0) {
		rc = pgconn_next(rp->conn, NULL);
		if (rc <= 0)
			break;
		rc = 0;
	}
	if (rc)
		return err_prefix(rc, "end the backup");
	if (timeline != pg->timeline)
		return err_set(ERR_FAIL,
		    "the server at %s went from timeline %u to %u during the backup; try again",
		    pgconn_where(rp->conn), pg->timeline, timeline);
	rc = filefeed_finish(rp->feed);
	if (rc)
		return rc;
	progress_phase(rp->job->opts->progress, "fetching WAL");
	rp->wal = NULL; /* finish frees it, whatever comes */
	return walfetch_finish(wal, pg->stop_lsn);
}

static int
verify(struct replication *rp)
{
	int rc;

	progress_phase(rp->job->opts->progress, "comparing with the server's manifest");
	warn_of_missing_config(rp);
	rc = check_control(rp);
	if (rc == 0)
		rc = read_label(rp);
	if (rc == 0)
		rc =
		    arrival_compare(rp->job->tree, rp->config, rp->manifest.data, rp->manifest.len);
	if (rc == 0)
		rc = judge_suspects(rp);
	return rc;
}

static void
release(struct replication *rp)
{
	struct err_saved saved;

	/* What ending adds must not hide why it ended. */
	err_save(&saved, 0);
	filefeed_free(rp->feed);
	walfetch_abort(rp->wal);
	lane_free(rp->wal_lane);
	lane_free(rp->lane);
	confset_free(rp->config);
	basetar_free(rp->tar);
	pgconn_close(rp->conn);
	for (size_t i = 0; i < rp->narchives; i++)
		free(rp->archives[i].location);
	free(rp->archives);
	bytes_release(&rp->label);
	bytes_release(&rp->control);
	bytes_release(&rp->manifest);
	err_restore(&saved);
}

int
backup_replication_run(struct backup_job *job, struct pgconn *sql)
{
	struct replication rp = { .job = job, .sql = sql, .now_s = utc_now_us() / 1000000 };
	char *buf = mem_alloc(NAME_BUFFER_BYTES);
	int rc;

	if (!buf)
		return err_nomem();
	choose_owner(&rp, buf);
	free(buf);
	job->pg->method = PG_METHOD_REPLICATION;
	rc = open_all(&rp);
	if (rc == 0)
		rc = begin_backup(&rp);
	if (rc == 0) {
		progress_phase(job->opts->progress, "copying files");
		rc = read_archives(&rp);
	}
	if (rc == 0)
		rc = end_backup(&rp);
	if (rc == 0)
		rc = verify(&rp);
	if (rc == 0)
		rc = note_tablespaces(&rp);
	release(&rp);
	return rc;
}
