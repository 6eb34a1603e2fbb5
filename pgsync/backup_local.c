/*
 * The order decides whether the copy can be recovered:
 *
 *  (1) the slot, so that no WAL from here on is lost;
 *  (2) pg_backup_start(), which writes a checkpoint: WAL from its redo position on has full images
 *      of every page changed later;
 *  (3) the files, in any order, then global/pg_control;
 *  (4) pg_backup_stop(): its position is the first at which the copy is consistent;
 *  (5) WAL up to there, and backup_label, without which recovery would begin at the wrong place.
 *
 * tablespace_map never becomes a file: PostgreSQL would make the links in pg_tblspc anew from it,
 * to the original's directories, and a copy would write into them.
 */
#include "pgsync/backup_local.h"

#include "pgsync/backup_job.h"
#include "pgsync/confset.h"
#include "pgsync/copyfiles.h"
#include "pgsync/fsmeta.h"
#include "pgsync/pgconn.h"
#include "pgsync/pgcontrol.h"
#include "pgsync/pgpage.h"
#include "pgsync/scan.h"
#include "pgsync/walfetch.h"
#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/content.h"
#include "store/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define START_SKEW_S 10 /* between two clocks read while a postmaster starts */

struct backup_local {
	struct pgconn *sql;
	int dirfd; /* of the data directory */
	struct stat st;
	char *pgdata, *config_file, *hba_file, *ident_file;
	bool in_recovery;
	struct pgcontrol control;

	/* While it runs. */
	struct walfetch *wal;
	struct lane *lane, *wal_lane;
	struct scan *scan;
	struct confset *config;
	uint64_t start_lsn;
};

void
backup_local_free(struct backup_local *bl)
{
	if (!bl)
		return;
	walfetch_abort(bl->wal);
	lane_free(bl->lane);
	lane_free(bl->wal_lane);
	scan_free(bl->scan);
	confset_free(bl->config);
	sys_close(&bl->dirfd);
	free(bl->pgdata);
	free(bl->config_file);
	free(bl->hba_file);
	free(bl->ident_file);
	free(bl);
}

/* ---- is it this server's? ---- */

static int
take_text(const struct pgresult *r, size_t row, size_t column, char **out)
{
	const char *text = pgresult_text(r, row, column);

	*out = mem_strdup(text ? text : "");
	return *out ? 0 : err_nomem();
}

/* Where the server keeps things; 1 if we may not know. */
static int
ask_places(struct backup_local *bl)
{
	static const char sql[] =
	    "SELECT current_setting('data_directory'), current_setting('config_file'), "
	    "current_setting('hba_file'), current_setting('ident_file'), pg_is_in_recovery()";
	struct pgresult *r = NULL;
	int rc = pgconn_query(bl->sql, &r, sql, 0, NULL);

	if (rc == ERR_DENIED) {
		err_set(ERR_DENIED,
		    "the role may not ask PostgreSQL at %s for its data directory; "
		    "GRANT pg_read_all_settings to it",
		    pgconn_where(bl->sql));
		return 1;
	}
	if (rc)
		return rc;
	rc = take_text(r, 0, 0, &bl->pgdata);
	if (rc == 0)
		rc = take_text(r, 0, 1, &bl->config_file);
	if (rc == 0)
		rc = take_text(r, 0, 2, &bl->hba_file);
	if (rc == 0)
		rc = take_text(r, 0, 3, &bl->ident_file);
	if (rc == 0) {
		const char *t = pgresult_text(r, 0, 4);

		bl->in_recovery = t && t[0] == 't';
	}
	pgresult_free(r);
	return rc;
}

/* Two lines of postmaster.pid: when it started (third) and its port (fourth). */
static bool
parse_pid_file(const char *text, int64_t *started_s, int64_t *port)
{
	int64_t pid;

	return sscanf(text, "%" SCNd64 "\n%*[^\n]\n%" SCNd64 "\n%" SCNd64, &pid, started_s, port) ==
	       3;
}

/*
 * A standby on this host has the same system identifier and may even have the same path as its
 * primary elsewhere: the running postmaster must be the one we are connected to.
 */
static int
check_postmaster(struct backup_local *bl)
{
	static const char sql[] = "SELECT current_setting('port'), "
				  "floor(extract(epoch FROM pg_postmaster_start_time()))::bigint";
	int64_t started = 0, port = 0;
	uint64_t server_started, server_port;
	struct pgresult *r = NULL;
	char text[4096];
	ssize_t n = -1;
	int fd, rc;

	fd = sys_openat(bl->dirfd, "postmaster.pid", O_RDONLY, 0);
	if (fd != -1)
		n = sys_pread_full(fd, text, sizeof(text) - 1, 0);
	sys_close(&fd);
	if (n < 0) {
		err_sys("read %s/postmaster.pid", bl->pgdata);
		return 1;
	}
	text[n] = '\0';
	rc = pgconn_query(bl->sql, &r, sql, 0, NULL);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 0, &server_port);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 1, &server_started);
	pgresult_free(r);
	if (rc)
		return rc;
	if (parse_pid_file(text, &started, &port) && port == (int64_t)server_port &&
	    llabs(started - (int64_t)server_started) <= START_SKEW_S)
		return 0;
	err_set(ERR_USAGE,
	    "the data directory %s on this host belongs to another server than the one at %s",
	    bl->pgdata, pgconn_where(bl->sql));
	return 1;
}

static int
check_control(struct backup_local *bl, uint64_t system_identifier)
{
	int rc = pgcontrol_read(&bl->control, bl->dirfd, "global/pg_control", NULL);

	if (rc == ERR_NOTFOUND || rc == ERR_DENIED) {
		err_prefix(rc, "data directory %s", bl->pgdata);
		return 1;
	}
	if (rc)
		return err_prefix(rc, "data directory %s", bl->pgdata);
	if (bl->control.system_identifier != system_identifier) {
		err_set(ERR_USAGE,
		    "the data directory %s on this host belongs to cluster %" PRIu64
		    ", but the server at %s is cluster %" PRIu64,
		    bl->pgdata, bl->control.system_identifier, pgconn_where(bl->sql),
		    system_identifier);
		return 1;
	}
	if (bl->control.block_bytes != PGPAGE_BYTES ||
	    bl->control.segment_blocks != PGPAGE_SEGMENT_BLOCKS)
		return err_set(ERR_UNSUPPORTED,
		    "PostgreSQL at %s was built with blocks of %u bytes and segments of %u blocks; "
		    "only %u and %u are supported",
		    pgconn_where(bl->sql), bl->control.block_bytes, bl->control.segment_blocks,
		    PGPAGE_BYTES, PGPAGE_SEGMENT_BLOCKS);
	return 0;
}

int
backup_local_open(struct backup_local **out, struct pgconn *sql, uint64_t system_identifier)
{
	struct backup_local *bl = mem_alloc(sizeof(*bl));
	int rc;

	*out = NULL;
	if (!bl)
		return err_nomem();
	bl->sql = sql;
	bl->dirfd = -1;
	rc = ask_places(bl);
	if (rc)
		goto out;
	bl->dirfd = sys_openat(AT_FDCWD, bl->pgdata, O_RDONLY | O_DIRECTORY, 0);
	if (bl->dirfd == -1 || sys_fstat(bl->dirfd, &bl->st)) {
		err_sys("the data directory %s cannot be read here", bl->pgdata);
		rc = 1;
		goto out;
	}
	rc = check_control(bl, system_identifier);
	if (rc == 0)
		rc = check_postmaster(bl);
	if (rc)
		goto out;
	*out = bl;
	bl = NULL;
out:
	backup_local_free(bl);
	return rc;
}

/* ---- the backup ---- */

static int
explain_denied(const struct backup_local *bl, int rc, const char *functions)
{
	if (rc != ERR_DENIED)
		return rc;
	return err_set(ERR_FAIL,
	    "the role may not take backups of PostgreSQL at %s; as a superuser run: "
	    "GRANT EXECUTE ON FUNCTION %s TO the role",
	    pgconn_where(bl->sql), functions);
}

static int
backup_start(struct backup_local *bl, struct backup_job *job)
{
	bool old = pgconn_version(bl->sql) < 150000;
	const char *params[] = { job->opts->label && job->opts->label[0] ? job->opts->label
									 : "pastfs",
		job->opts->spread_checkpoint ? "false" : "true" };
	struct pgresult *r = NULL;
	int rc;

	progress_phase(job->opts->progress, "waiting for the checkpoint");
	rc = pgconn_query(bl->sql, &r,
	    old ? "SELECT pg_start_backup($1, $2::boolean, false)"
		: "SELECT pg_backup_start($1, $2::boolean)",
	    2, params);
	rc = explain_denied(bl, rc,
	    old ? "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
		: "pg_backup_start(text, boolean), pg_backup_stop(boolean)");
	if (rc == 0)
		rc = pgresult_lsn(r, 0, 0, &bl->start_lsn);
	pgresult_free(r);
	if (rc)
		return rc;

	/* The checkpoint of the start must be seen in the files that we are about to read. */
	rc = pgcontrol_read(&bl->control, bl->dirfd, "global/pg_control", NULL);
	if (rc == 0 && bl->control.checkpoint_lsn < bl->start_lsn)
		rc = err_set(ERR_USAGE,
		    "the data directory %s does not follow the server at %s: it is not the "
		    "server's",
		    bl->pgdata, pgconn_where(bl->sql));
	return rc;
}

static int
start_wal(struct backup_local *bl, struct backup_job *job)
{
	struct walfetch_range range = { .start_lsn = bl->start_lsn,
		.timeline = walfetch_timeline(bl->wal),
		.segment_bytes = bl->control.wal_segment_bytes };
	int rc = lane_new(&bl->wal_lane, job->w);

	if (rc)
		return rc;
	job->pg->timeline = range.timeline;
	return walfetch_stream(bl->wal, bl->wal_lane, &range, job->tree);
}

static void
forward_warning(void *ctx, const char *message)
{
	backup_job_warn(ctx, "%s", message);
}

static int
add_config(struct backup_local *bl, struct backup_job *job)
{
	struct confset_opts opts = { .pgdata = bl->pgdata,
		.config_file = bl->config_file,
		.hba_file = bl->hba_file,
		.ident_file = bl->ident_file,
		.warn = forward_warning,
		.ctx = job };
	int rc = confset_collect(&bl->config, &opts);

	for (size_t i = 0; rc == 0 && i < confset_count(bl->config); i++) {
		const struct confset_file *f = confset_at(bl->config, i);
		struct tree_entry e;

		fsmeta_entry(&e, &f->st);
		e.has_identity = false; /* the content is not the file's own */
		if (!f->is_dir) {
			rc = backup_job_add_text(job, bl->lane, f->path, f->data, f->len, &e);
			continue;
		}
		rc = tree_builder_add(job->tree, f->path, &e);
	}
	return rc;
}

static int
copy_files(struct backup_local *bl, struct backup_job *job)
{
	struct scan_opts scan_opts = { .pgdata = bl->pgdata,
		.major = (uint32_t)pgconn_version(bl->sql) / 10000,
		.catalog_version = bl->control.catalog_version,
		.warn = forward_warning,
		.ctx = job };
	struct copyfiles_opts opts = { .wal = bl->wal, .start_lsn = bl->start_lsn };
	const struct pg_part *prev = job->prev_pg;
	int rc;

	progress_phase(job->opts->progress, "copying files");
	rc = add_config(bl, job);
	if (rc == 0)
		rc = scan_run(&bl->scan, &scan_opts);
	if (rc)
		return rc;
	opts.scan = bl->scan;
	opts.config = bl->config;
	opts.trust_prev = !job->opts->full_read && job->prev_is_here && prev &&
			  prev->method == PG_METHOD_LOCAL && prev->timeline == job->pg->timeline &&
			  prev->system_identifier == job->pg->system_identifier &&
			  prev->data_checksums == job->pg->data_checksums;
	opts.prev_started_us = job->opts->prev ? job->opts->prev->started_us : 0;
	return copyfiles_run(job, &opts);
}

/* pg_control as it is now, after everything else. */
static int
copy_control(struct backup_local *bl, struct backup_job *job)
{
	uint8_t raw[PGCONTROL_FILE_BYTES];
	struct tree_entry like;
	struct stat st;
	int rc;

	if (sys_fstatat(bl->dirfd, "global/pg_control", &st, 0))
		return err_sys("look at %s/global/pg_control", bl->pgdata);
	rc = pgcontrol_read(&bl->control, bl->dirfd, "global/pg_control", raw);
	if (rc)
		return rc;
	fsmeta_entry(&like, &st);
	atomic_fetch_add(&job->read_bytes, sizeof(raw));
	return backup_job_add_text(job, bl->lane, "global/pg_control", raw, sizeof(raw), &like);
}

/* What backup_label says about the checkpoint that recovery begins with. */
static int
parse_label(const char *label, uint64_t *checkpoint_lsn, uint32_t *timeline)
{
	const char *at = strstr(label, "CHECKPOINT LOCATION: ");
	const char *tli = strstr(label, "START TIMELINE: ");
	char lsn[32];

	if (at && sscanf(at, "CHECKPOINT LOCATION: %31s", lsn) == 1 &&
	    pgconn_lsn_parse(lsn, checkpoint_lsn) == 0 && tli &&
	    sscanf(tli, "START TIMELINE: %" SCNu32, timeline) == 1)
		return 0;
	return err_set(ERR_FAIL, "PostgreSQL gave a backup label without checkpoint and timeline");
}

static int
backup_stop(struct backup_local *bl, struct backup_job *job)
{
	bool old = pgconn_version(bl->sql) < 150000;
	struct tree_entry like;
	struct pgresult *r = NULL;
	const char *label;
	uint32_t timeline = 0;
	int rc;

	rc = pgconn_query(bl->sql, &r,
	    old ? "SELECT lsn, labelfile FROM pg_stop_backup(false, false)"
		: "SELECT lsn, labelfile FROM pg_backup_stop(false)",
	    0, NULL);
	rc = explain_denied(
	    bl, rc, old ? "pg_stop_backup(boolean, boolean)" : "pg_backup_stop(boolean)");
	if (rc)
		goto out;
	rc = pgresult_lsn(r, 0, 0, &job->pg->stop_lsn);
	label = pgresult_text(r, 0, 1);
	if (rc == 0 && !label)
		rc = err_set(
		    ERR_FAIL, "the server at %s gave no backup label", pgconn_where(bl->sql));
	if (rc == 0)
		rc = parse_label(label, &job->pg->checkpoint_lsn, &timeline);
	if (rc == 0 && timeline != job->pg->timeline)
		rc = err_set(ERR_FAIL,
		    "the server at %s went from timeline %u to %u during the backup; try again",
		    pgconn_where(bl->sql), job->pg->timeline, timeline);
	if (rc)
		goto out;
	fsmeta_entry(&like, &bl->st);
	rc = backup_job_add_text(job, bl->lane, "backup_label", label, strlen(label), &like);
out:
	pgresult_free(r);
	return rc;
}

static int
note_tablespaces(struct backup_local *bl, struct backup_job *job)
{
	const struct scan_tablespace *list;
	size_t n = scan_tablespaces(bl->scan, &list);

	if (n == 0)
		return 0;
	job->pg->tablespaces = mem_calloc(n, sizeof(job->pg->tablespaces[0]));
	if (!job->pg->tablespaces)
		return err_nomem();
	for (size_t i = 0; i < n; i++) {
		job->pg->tablespaces[i].oid = list[i].oid;
		job->pg->tablespaces[i].location = mem_strdup(list[i].location);
		if (!job->pg->tablespaces[i].location)
			return err_nomem();
		job->pg->ntablespaces++;
	}
	return 0;
}

int
backup_local_run(struct backup_local *bl, struct backup_job *job)
{
	struct walfetch_opts wal = { .conninfo = job->opts->source->conninfo,
		.system_identifier = job->pg->system_identifier,
		.uid = bl->st.st_uid,
		.gid = bl->st.st_gid };
	struct walfetch *wf;
	int rc;

	job->pg->method = PG_METHOD_LOCAL;
	job->pg->from_standby = bl->in_recovery;
	rc = lane_new(&bl->lane, job->w);
	if (rc == 0)
		rc = walfetch_start(&bl->wal, &wal);
	if (rc == 0)
		rc = backup_start(bl, job);
	if (rc)
		return rc;
	job->pg->start_lsn = bl->start_lsn;
	job->pg->data_checksums = bl->control.data_checksum_version != 0;
	job->pg->wal_segment_bytes = bl->control.wal_segment_bytes;
	rc = start_wal(bl, job);
	if (rc == 0)
		rc = copy_files(bl, job);
	if (rc == 0)
		rc = copy_control(bl, job);
	if (rc == 0)
		rc = backup_stop(bl, job);
	if (rc == 0)
		rc = note_tablespaces(bl, job);
	if (rc)
		return rc;
	progress_phase(job->opts->progress, "fetching WAL");
	wf = bl->wal;
	bl->wal = NULL; /* finish frees it, whatever comes */
	return walfetch_finish(wf, job->pg->stop_lsn);
}
