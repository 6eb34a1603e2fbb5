/*
 * cmd_backup: take a snapshot of a source.
 *
 * The source's lock is held from before the predecessor is chosen until the snapshot is committed,
 * and given back on every path that returns; one that does not (kill -9) is noticed by the next.
 */
#include "pgsync/backup.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/json.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/lock.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "tools/cmd.h"
#include "tools/config.h"
#include "tools/describe.h"
#include "tools/output.h"
#include "tools/progress_bar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LEVEL_MIN       (-7)
#define LEVEL_MAX       19
#define THREADS_MAX     256
#define WAIT_BETWEEN_MS 500

static const struct args_option options[] = {
	{ "over", 0, "WAY", "local (files of this host), replication (a connection), or auto" },
	{ "full-read", 0, NULL, "trust no times and no LSNs: read and compare everything" },
	{ "label", 'l', "TEXT", "a note kept with the snapshot" },
	{ "jobs", 'j', "N", "threads (one more than there are processors)" },
	{ "compression", 'z', "LEVEL", "zstd's level, -7 to 19 (1)" },
	{ "spread-checkpoint", 0, NULL, "wait for a spread checkpoint rather than force one" },
	{ "wait", 'w', NULL, "wait while another backup of the source runs" },
	{ NULL, 0, NULL, NULL },
};

/* What the command line asks for. */
struct request {
	const char *source;
	enum pg_over over;
	const char *label;
	long jobs, level;
	bool full_read, spread, wait, json, quiet;
};

struct run {
	struct repo_opts repo;
	struct repo_admin *admin;
	struct repo_writer *writer;
	struct source source;
	struct lock *lock;
	struct snapshot *earlier; /* of this source, oldest first */
	size_t nearlier;
	struct progress progress;
	struct progress_bar *bar;
	struct snapshot made;
};

static int
parse_over(const char *text, enum pg_over *over)
{
	*over = PG_OVER_AUTO;
	if (!text || strcmp(text, "auto") == 0)
		return 0;
	if (strcmp(text, "local") == 0)
		*over = PG_OVER_LOCAL;
	else if (strcmp(text, "replication") == 0)
		*over = PG_OVER_REPLICATION;
	else
		return err_set(ERR_USAGE, "--over %s: there are local, replication and auto", text);
	return 0;
}

static int
parse_request(const struct args *a, const struct config *c, struct request *q)
{
	int rc = parse_over(args_value(a, "over"), &q->over);

	if (!rc)
		rc = args_number(a, "jobs", 1, THREADS_MAX, 0, &q->jobs);
	if (!rc)
		rc = args_number(
		    a, "compression", LEVEL_MIN, LEVEL_MAX, config_compression(c), &q->level);
	if (!rc && args_given(a, "compression") && q->level == 0)
		rc = err_set(ERR_USAGE, "--compression 0: the level is from -7 to -1 or 1 to 19");
	q->source = args_operand(a, 0);
	q->label = args_value(a, "label");
	q->full_read = args_given(a, "full-read");
	q->spread = args_given(a, "spread-checkpoint");
	q->wait = args_given(a, "wait");
	q->json = args_given(a, "json");
	q->quiet = args_given(a, "quiet");
	return rc;
}

static void
warn(void *ctx, const char *message)
{
	struct run *r = ctx;

	progress_bar_print(r->bar, stderr, "pastfs: warning: %s", message);
}

/* Take the lock, if asked so after waiting for who has it. */
static int
acquire(struct run *r, const struct request *q)
{
	const struct timespec pause = { 0, WAIT_BETWEEN_MS * 1000000L };
	bool told = false;

	for (;;) {
		int rc = lock_acquire(&r->lock, r->admin, &r->source, "backup");

		if (rc != ERR_BUSY || !q->wait)
			return rc;
		if (!told)
			output_notice("waiting: %s", err_msg());
		told = true;
		nanosleep(&pause, NULL);
		rc = cancel_check();
		if (rc)
			return rc;
	}
}

/* The newest snapshot of the same cluster, or NULL. */
static const struct snapshot *
predecessor(const struct run *r)
{
	for (size_t i = r->nearlier; i-- > 0;) {
		const struct pg_part *pg = describe_pg(&r->earlier[i]);

		if (pg && (!r->source.system_identifier ||
			      pg->system_identifier == r->source.system_identifier))
			return &r->earlier[i];
	}
	return NULL;
}

static bool
name_taken(const struct run *r, const char *name)
{
	for (size_t i = 0; i < r->nearlier; i++)
		if (strcmp(r->earlier[i].name, name) == 0)
			return true;
	return false;
}

/* The moment to the second; with as many digits as it has if that directory is there already. */
static int
give_name(struct run *r)
{
	int64_t us = r->made.time_us;
	char name[UTC_TEXT_MAX];

	utc_format(us - us % 1000000, name);
	while (name_taken(r, name))
		utc_format(us++, name);
	free(r->made.name);
	r->made.name = mem_strdup(name);
	return r->made.name ? 0 : err_nomem();
}

/* The first backup ties the source to its cluster. */
static int
note_identifier(struct run *r)
{
	const struct pg_part *pg = describe_pg(&r->made);

	if (r->source.system_identifier || !pg)
		return 0;
	r->source.system_identifier = pg->system_identifier;
	return source_update(r->admin, &r->source);
}

static int
take(struct run *r, const struct request *q)
{
	struct repo_writer_opts wopts = {
		.zstd_level = (int)q->level,
		.domain_id = r->source.domain_id,
	};
	struct pg_backup_opts opts = {
		.source = &r->source,
		.over = q->over,
		.full_read = q->full_read,
		.spread_checkpoint = q->spread,
		.label = q->label,
		.threads = (int)q->jobs,
		.progress = &r->progress,
		.warn = warn,
		.ctx = r,
	};
	size_t damaged = 0;
	int rc = snapshot_list(
	    repo_admin_reader(r->admin), r->source.id, &r->earlier, &r->nearlier, &damaged);

	if (rc)
		return rc;
	if (damaged)
		output_warn(
		    "%zu snapshots cannot be read: %s; run: pastfs check", damaged, err_msg());
	opts.prev = predecessor(r);
	r->repo.unlocked = repo_admin_reader(r->admin);
	rc = repo_writer_open(&r->writer, &r->repo, &wopts);
	if (!rc)
		rc = progress_bar_start(&r->bar, &r->progress, q->quiet);
	if (!rc)
		rc = pg_backup_run(r->writer, &opts, &r->made);
	if (!rc)
		rc = give_name(r);
	if (!rc)
		rc = snapshot_commit(r->writer, &r->made);
	progress_bar_stop(r->bar);
	r->bar = NULL;
	if (!rc) {
		rc = note_identifier(r);
		if (rc)
			rc = err_prefix(rc,
			    "the snapshot %s is made, but its source is not updated", r->made.name);
	}
	return rc;
}

static void
print_summary(const struct snapshot *s)
{
	const struct pg_part *pg = describe_pg(s);
	char files[OUTPUT_TEXT_MAX], size[OUTPUT_TEXT_MAX], read[OUTPUT_TEXT_MAX];
	char fresh[OUTPUT_TEXT_MAX], stored[OUTPUT_TEXT_MAX], took[OUTPUT_TEXT_MAX];
	char rate[OUTPUT_TEXT_MAX], start[OUTPUT_TEXT_MAX], stop[OUTPUT_TEXT_MAX];
	int64_t us = s->finished_us - s->started_us;

	output_count(s->files, "file", files);
	output_size(s->logical_bytes, size);
	output_size(s->read_bytes, read);
	output_size(s->new_bytes, fresh);
	output_size(s->stored_bytes, stored);
	output_duration(us, took);
	output_size(us > 0 ? (uint64_t)((double)s->logical_bytes / ((double)us / 1e6)) : 0, rate);
	printf("snapshot %s@%s\n", s->source_name, s->name);
	printf("  %s, %s: read %s, new %s, stored %s\n", files, size, read, fresh, stored);
	printf("  in %s, %s/s\n", took, rate);
	if (!pg)
		return;
	output_lsn(pg->start_lsn, start);
	output_lsn(pg->stop_lsn, stop);
	printf("  timeline %u, WAL %s to %s, %s\n", pg->timeline, start, stop,
	    pg->method == PG_METHOD_REPLICATION ? "over a replication connection"
						: "from local files");
}

static int
report(const struct run *r, const struct request *q)
{
	const struct pg_part *pg = describe_pg(&r->made);
	int rc = 0;

	if (q->json) {
		struct json *j = describe_snapshot_json(&r->made);

		describe_bad_pages_json(j, &r->made);
		rc = output_json(j);
	} else {
		print_summary(&r->made);
	}
	if (pg && pg->bad_pages_total)
		output_warn(
		    "%llu pages of the cluster have a wrong checksum; they are kept as they "
		    "were found: pastfs snapshots %s@%s lists them",
		    (unsigned long long)pg->bad_pages_total, r->made.source_name, r->made.name);
	return rc;
}

/* Everything under the lock; the first error counts, and giving the lock back comes last. */
static int
run_locked(struct run *r, const struct request *q)
{
	struct err_saved first;
	int rc, freed;

	rc = source_find(repo_admin_reader(r->admin), q->source, false, &r->source);
	if (!rc)
		rc = acquire(r, q);
	if (rc)
		return rc;

	/* Another backup may have finished while this one waited, and have changed the source. */
	source_release(&r->source);
	memset(&r->source, 0, sizeof(r->source));
	rc = source_find(repo_admin_reader(r->admin), q->source, false, &r->source);
	if (!rc)
		rc = take(r, q);
	err_save(&first, rc);
	repo_writer_close(r->writer);
	freed = lock_release(r->lock);
	if (first.code)
		return err_restore(&first);
	if (freed)
		output_warn("%s", err_msg());
	return report(r, q);
}

static int
run(const struct args *a)
{
	struct request q = { 0 };
	struct run r = { 0 };
	struct config *c;
	int rc = config_load(&c, a, NULL);

	if (rc)
		return rc;
	rc = parse_request(a, c, &q);
	if (!rc)
		rc = config_repo_opts(c, CONFIG_ASK, &r.repo);
	if (!rc)
		rc = repo_admin_open(&r.admin, &r.repo);
	if (!rc)
		rc = run_locked(&r, &q);
	snapshot_list_free(r.earlier, r.nearlier);
	snapshot_release(&r.made);
	source_release(&r.source);
	repo_admin_close(r.admin);
	config_free(c);
	return rc;
}

const struct verb cmd_backup = {
	.name = "backup",
	.operands = "SOURCE",
	.summary = "take a snapshot of a source",
	.about =
	    "Takes a base backup of the running cluster into a new snapshot. From the second one "
	    "on only what changed is stored. Files are read on this host where the data "
	    "directory is here and readable, else through a replication connection. As root it "
	    "connects with the identity of the server's user.\n"
	    "Pages with a wrong checksum are told and recorded, and do not fail the backup.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON | ARGS_PROGRESS,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs backup main\n"
		    "pastfs backup main --label 'before the upgrade' --json\n"
		    "pastfs backup far --over replication --wait --quiet",
	.run = run,
};
