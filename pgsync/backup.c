#include "pgsync/backup.h"

#include "pgsync/backup_job.h"
#include "pgsync/backup_local.h"
#include "pgsync/backup_replication.h"
#include "pgsync/fsmeta.h"
#include "pgsync/manifest.h"
#include "pgsync/pgconn.h"
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/repo.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_BUFFER_BYTES 65536 /* for a user's or group's record */

struct backup {
	struct backup_job job;
	struct pgconn *sql; /* NULL where only a replication connection is allowed */
	struct backup_local *local;
	struct lane *lane;
	struct snapshot *out;
	struct snapshot_part *part;
	struct tree_entry owner; /* of the data directory */
};

/* ---- the server ---- */

static int
ask_text(struct pgconn *c, const char *command, char out[64])
{
	struct pgresult *r = NULL;
	int rc = pgconn_query(c, &r, command, 0, NULL);
	const char *text = pgresult_text(r, 0, 0);

	if (rc == 0 && (!text || strlen(text) >= 64))
		rc = err_set(
		    ERR_FAIL, "PostgreSQL at %s gave no answer to %s", pgconn_where(c), command);
	if (rc == 0)
		memcpy(out, text, strlen(text) + 1);
	pgresult_free(r);
	return rc;
}

/* "16MB" and the like. */
static int
parse_size(const char *text, uint32_t *bytes)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (strcmp(end, "kB") == 0)
		n <<= 10;
	else if (strcmp(end, "MB") == 0)
		n <<= 20;
	else if (strcmp(end, "GB") == 0)
		n <<= 30;
	if (end == text || n < 1u << 20 || n > 1u << 30)
		return err_set(
		    ERR_FAIL, "PostgreSQL says its WAL segments have a size of \"%s\"", text);
	*bytes = (uint32_t)n;
	return 0;
}

/* What is known before the backup begins; both kinds of connection answer these. */
static int
ask_server(struct pgconn *c, enum pgconn_kind kind, struct pg_part *pg)
{
	struct pgresult *r = NULL;
	char text[64];
	int rc;

	rc = pgconn_query(c, &r,
	    kind == PGCONN_SQL ? "SELECT system_identifier FROM pg_control_system()"
			       : "IDENTIFY_SYSTEM",
	    0, NULL);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 0, &pg->system_identifier);
	pgresult_free(r);
	if (rc)
		return rc;
	pg->server_version = (uint32_t)pgconn_version(c);
	rc = ask_text(c, "SHOW data_checksums", text);
	if (rc)
		return rc;
	pg->data_checksums = strcmp(text, "on") == 0;
	rc = ask_text(c, "SHOW wal_segment_size", text);
	return rc ? rc : parse_size(text, &pg->wal_segment_bytes);
}

/*
 * Connect and learn what server it is.  A role that may only replicate gets no ordinary
 * connection; the backup can do without, unless it is to read files here.
 */
static int
meet_server(struct backup *b)
{
	const struct pg_backup_opts *opts = b->job.opts;
	struct pgconn *repl = NULL;
	struct err_saved first;
	int rc = pgconn_open(&b->sql, opts->source->conninfo, PGCONN_SQL);

	if (rc == 0)
		return ask_server(b->sql, PGCONN_SQL, b->job.pg);
	if (rc != ERR_FAIL || opts->over == PG_OVER_LOCAL)
		return rc;
	err_save(&first, rc);
	if (pgconn_open(&repl, opts->source->conninfo, PGCONN_REPLICATION))
		return err_restore(&first);
	rc = ask_server(repl, PGCONN_REPLICATION, b->job.pg);
	pgconn_close(repl);
	return rc;
}

static int
check_identity(const struct backup *b)
{
	const struct source *s = b->job.opts->source;
	uint64_t found = b->job.pg->system_identifier;

	if (s->system_identifier == 0 || s->system_identifier == found)
		return 0;
	return err_set(ERR_USAGE,
	    "source \"%s\" belongs to cluster %" PRIu64 ", the server%s%s is cluster %" PRIu64
	    "; use another source for it",
	    s->name, s->system_identifier, b->sql ? " at " : "", b->sql ? pgconn_where(b->sql) : "",
	    found);
}

/* Decide between the two methods.  Sets b->local where files are read here. */
static int
choose_method(struct backup *b)
{
	enum pg_over over = b->job.opts->over;
	int rc;

	if (over == PG_OVER_REPLICATION || !b->sql)
		return 0;
	rc = backup_local_open(&b->local, b->sql, b->job.pg->system_identifier);
	if (rc <= 0)
		return rc;
	if (over == PG_OVER_LOCAL)
		return err_prefix(ERR_USAGE, "cannot read the files of PostgreSQL on this host");
	return 0;
}

/* ---- the snapshot ---- */

static const struct snapshot_part *
pg_part_of(const struct snapshot *s)
{
	for (size_t i = 0; s && i < s->nparts; i++)
		if (s->parts[i].kind == PART_PG)
			return &s->parts[i];
	return NULL;
}

static int
begin_snapshot(struct backup *b)
{
	const struct pg_backup_opts *opts = b->job.opts;
	const struct snapshot_part *prev = pg_part_of(opts->prev);
	struct snapshot *s = b->out;
	char host[HOST_NAME_MAX + 1] = "";

	gethostname(host, sizeof(host) - 1);
	s->started_us = utc_now_us();
	memcpy(s->source_id, opts->source->id, SOURCE_ID_LEN);
	if (opts->prev)
		memcpy(s->parent_id, opts->prev->id, SNAPSHOT_ID_LEN);
	s->source_name = mem_strdup(opts->source->name);
	s->host = mem_strdup(host);
	s->pastfs_version = mem_strdup(PASTFS_VERSION);
	s->label = mem_strdup(opts->label ? opts->label : "");
	s->parts = mem_calloc(1, sizeof(s->parts[0]));
	if (!s->source_name || !s->host || !s->pastfs_version || !s->label || !s->parts)
		return err_nomem();
	s->nparts = 1;
	b->part = &s->parts[0];
	b->part->kind = PART_PG;
	b->part->name = mem_strdup("");
	if (!b->part->name)
		return err_nomem();
	b->job.pg = &b->part->pg;
	if (prev && opts->prev) {
		b->job.prev_pg = &prev->pg;
		b->job.prev_root = &prev->root;
		b->job.prev_is_here = opts->prev->host && strcmp(opts->prev->host, host) == 0;
	}
	s->full_read = opts->full_read || !prev;
	return 0;
}

/* ---- owners' names ---- */

static int
add_owner(struct snapshot_owner **list, size_t *n, uint32_t id, const char *name)
{
	struct snapshot_owner *l = mem_realloc(*list, (*n + 1) * sizeof(*l));

	if (!l)
		return err_nomem();
	*list = l;
	l[*n].id = id;
	l[*n].name = mem_strdup(name);
	if (!l[*n].name)
		return err_nomem();
	(*n)++;
	return 0;
}

static bool
owner_known(const struct snapshot_owner *list, size_t n, uint32_t id)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].id == id)
			return true;
	return false;
}

/* An owner without a name here has none there either: it is left out. */
static int
note_user(struct snapshot *s, uint32_t uid, char *buf)
{
	struct passwd pw, *found = NULL;

	if (owner_known(s->users, s->nusers, uid))
		return 0;
	if (getpwuid_r(uid, &pw, buf, NAME_BUFFER_BYTES, &found) || !found)
		return 0;
	return add_owner(&s->users, &s->nusers, uid, pw.pw_name);
}

static int
note_group(struct snapshot *s, uint32_t gid, char *buf)
{
	struct group gr, *found = NULL;

	if (owner_known(s->groups, s->ngroups, gid))
		return 0;
	if (getgrgid_r(gid, &gr, buf, NAME_BUFFER_BYTES, &found) || !found)
		return 0;
	return add_owner(&s->groups, &s->ngroups, gid, gr.gr_name);
}

static int
note_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct backup *b = ctx;
	struct snapshot *s = b->out;
	char *buf = NULL;
	int rc = 0;

	if (path[0] == '\0') {
		b->owner.uid = e->uid;
		b->owner.gid = e->gid;
		b->owner.type = TREE_DIR;
	}
	if (e->type == TREE_FILE) {
		s->files++;
		s->logical_bytes += e->content.size;
	}
	if (owner_known(s->users, s->nusers, e->uid) && owner_known(s->groups, s->ngroups, e->gid))
		return 0;
	buf = mem_alloc(NAME_BUFFER_BYTES);
	rc = buf ? note_user(s, e->uid, buf) : err_nomem();
	if (rc == 0)
		rc = note_group(s, e->gid, buf);
	free(buf);
	return rc;
}

/* ---- the end ---- */

static int
emit(void *ctx, const void *data, size_t len)
{
	return content_writer_append(ctx, data, len);
}

/* backup_manifest describes everything else, so it comes last. */
static int
add_manifest(struct backup *b)
{
	const struct pg_part *pg = b->job.pg;
	struct manifest_opts opts = { .server_version = pg->server_version,
		.system_identifier = pg->system_identifier,
		.timeline = pg->timeline,
		.start_lsn = pg->start_lsn,
		.stop_lsn = pg->stop_lsn };
	struct content_writer *cw = NULL;
	struct tree_entry e;
	int rc;

	fsmeta_like(&e, &b->owner);
	rc = content_writer_new(&cw, b->lane, CHUNKING_CDC, NULL);
	if (rc == 0)
		rc = manifest_write(b->job.tree, &opts, emit, cw);
	if (rc == 0)
		rc = content_writer_finish(cw, &e.content);
	content_writer_free(cw);
	if (rc)
		return rc;
	b->out->files++;
	b->out->logical_bytes += e.content.size;
	return tree_builder_add(b->job.tree, "backup_manifest", &e);
}

static int
finish_snapshot(struct backup *b)
{
	struct snapshot *s = b->out;
	struct writer_totals t;
	int rc;

	progress_phase(b->job.opts->progress, "writing directories");
	rc = tree_builder_each(b->job.tree, note_entry, b);
	if (rc == 0)
		rc = lane_new(&b->lane, b->job.w);
	if (rc == 0)
		rc = add_manifest(b);
	if (rc == 0)
		rc = tree_builder_finish(b->job.tree, b->lane, b->job.prev_root, &b->part->root);
	if (rc)
		return rc;
	repo_writer_totals(b->job.w, &t);
	s->new_bytes = t.new_bytes;
	s->stored_bytes = t.stored_bytes;
	s->delta_bytes = t.delta_content_bytes;
	s->delta_stored_bytes = t.delta_stored_bytes;
	s->read_bytes = atomic_load(&b->job.read_bytes);
	s->warnings = atomic_load(&b->job.warnings);
	b->job.pg->pages_checked = atomic_load(&b->job.pages_checked);
	s->finished_us = utc_now_us();
	snapshot_make_id(s);
	return 0;
}

static int
run(struct backup *b)
{
	int rc = begin_snapshot(b);

	if (rc == 0)
		rc = tree_builder_new(&b->job.tree);
	if (rc)
		return rc;
	progress_phase(b->job.opts->progress, "connecting");
	rc = meet_server(b);
	if (rc == 0)
		rc = check_identity(b);
	if (rc == 0)
		rc = choose_method(b);
	if (rc)
		return rc;
	rc = b->local ? backup_local_run(b->local, &b->job)
		      : backup_replication_run(&b->job, b->sql);
	if (rc)
		return rc;

	/* It shows the server at its stop position, which was a moment ago. */
	b->out->time_us = utc_now_us();
	return finish_snapshot(b);
}

int
pg_backup_run(struct repo_writer *w, const struct pg_backup_opts *opts, struct snapshot *out)
{
	struct backup b = { .out = out };
	int rc;

	memset(out, 0, sizeof(*out));
	rc = backup_job_init(&b.job);
	if (rc)
		return rc;
	b.job.w = w;
	b.job.opts = opts;
	b.job.threads = opts->threads > 0 ? opts->threads : parallel_cpus() + 1;
	rc = run(&b);

	/* The session ends before anything else: it is what holds resources on the server. */
	backup_local_free(b.local);
	pgconn_close(b.sql);
	lane_free(b.lane);
	tree_builder_free(b.job.tree);
	backup_job_release(&b.job);
	if (rc) {
		snapshot_release(out);
		memset(out, 0, sizeof(*out));
	}
	return rc;
}
