/*
 * cmd_restore: a snapshot as a data directory on local disk.
 *
 * Archiving is switched off before global/pg_control is written: a directory that could be started
 * never is one that would archive into the original's archive, whenever the restore is killed.
 */
#include "fs/extract.h"
#include "pgsync/restore.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/base/progress.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "tools/cmd.h"
#include "tools/describe.h"
#include "tools/moment.h"
#include "tools/open_repo.h"
#include "tools/output.h"
#include "tools/owner.h"
#include "tools/progress_bar.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 256

static const struct args_option options[] = {
	{ "force", 'f', NULL, "DIR may have files in it: they are replaced, others stay" },
	{ "keep-archiving", 0, NULL, "leave archive_mode and archive_command as they were" },
	{ "owner", 0, "USER[:GROUP]", "give everything to USER (as root)" },
	{ "jobs", 'j', "N", "threads (one a processor)" },
	{ "tz", 0, "ZONE", "the zone of a moment that is written without one: Z or +02:00" },
	{ NULL, 0, NULL, NULL },
};

/* Without it PostgreSQL does not start, so that a half-done directory cannot be taken for whole. */
static const char *const last[] = { "global/pg_control", NULL };

struct restoring {
	const char *dir;
	bool keep_archiving;
	struct progress progress;
	struct progress_bar *bar;
	struct extract_opts opts;
	struct extract_totals totals;
	int64_t took_us;
};

static void
damaged(void *ctx, const char *path, const char *message)
{
	struct restoring *r = ctx;

	progress_bar_print(r->bar, stderr, "pastfs: damaged: %s: %s", path, message);
}

static void
warn(void *ctx, const char *path, const char *message)
{
	struct restoring *r = ctx;

	progress_bar_print(r->bar, stderr, "pastfs: warning: %s: %s", path, message);
}

static int
before_last(void *ctx)
{
	struct restoring *r = ctx;

	return r->keep_archiving ? 0 : restore_stop_archiving(r->dir);
}

static int64_t
monotonic_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int
parse(const struct args *a, struct restoring *r)
{
	long threads;
	int rc = args_number(a, "jobs", 1, THREADS_MAX, 0, &threads);

	if (rc)
		return rc;
	r->dir = args_operand(a, 1);
	r->keep_archiving = args_given(a, "keep-archiving");
	r->opts = (struct extract_opts){
		.force = args_given(a, "force"),
		.threads = (int)threads,
		.keep_owners = geteuid() == 0,
		.last = last,
		.progress = &r->progress,
		.before_last = before_last,
		.damaged = damaged,
		.warn = warn,
		.ctx = r,
	};
	if (!args_given(a, "owner"))
		return 0;
	if (geteuid() != 0)
		return err_set(ERR_DENIED, "--owner: only root can give files to another user");
	r->opts.map_owner = true;
	return owner_parse(args_value(a, "owner"), &r->opts.uid, &r->opts.gid);
}

/* A number may belong to somebody else here than it did on the host that was backed up. */
static void
compare_owner(const struct snapshot *s)
{
	uint32_t uid = s->parts[0].root.uid;
	uid_t here;

	for (size_t i = 0; i < s->nusers; i++) {
		const char *name = s->users[i].name;

		if (s->users[i].id != uid)
			continue;
		if (owner_user(name, &here) && here != uid)
			output_warn("the files belong to %s, who was user %u there and is %u here; "
				    "--owner %s gives them to that user",
			    name, uid, here, name);
		else if (!owner_known(uid))
			output_warn(
			    "there is no user %s (%u) here; --owner USER gives the files to "
			    "one that there is",
			    name, uid);
	}
}

static int
extract(struct restoring *r, struct repo_reader *reader, const struct snapshot *s, bool quiet)
{
	char id[2 * SNAPSHOT_ID_LEN + 1];
	int64_t begin = monotonic_us();
	int rc;

	hex_encode(id, s->id, SNAPSHOT_ID_LEN);
	r->opts.tree_name = id;
	rc = progress_bar_start(&r->bar, &r->progress, quiet);
	if (!rc)
		rc = extract_tree(reader, &s->parts[0].root, r->dir, &r->opts, &r->totals);
	progress_bar_stop(r->bar);
	r->bar = NULL;

	/* A directory with damaged files in it is there as well, and may be looked into. */
	if (!rc || rc == ERR_DAMAGED) {
		struct err_saved first;

		err_save(&first, rc);
		rc = restore_protect(r->dir);
		if (first.code)
			rc = err_restore(&first);
	}
	r->took_us = monotonic_us() - begin;
	return rc;
}

static int
report_json(const struct restoring *r, const struct snapshot *s)
{
	struct json *j = json_new_object();

	json_set_str(j, "source", s->source_name);
	json_set_str(j, "snapshot", s->name);
	output_json_hex(j, "id", s->id, SNAPSHOT_ID_LEN);
	json_set_str(j, "directory", r->dir);
	json_set_uint(j, "files", r->totals.files);
	json_set_uint(j, "bytes", r->totals.bytes);
	json_set_uint(j, "damaged_files", r->totals.damaged_files);
	json_set_uint(j, "resumed_files", r->totals.resumed_files);
	json_set_uint(j, "warnings", r->totals.warnings);
	json_set_double(j, "duration_s", (double)r->took_us / 1e6);
	json_set_bool(j, "owners_kept", r->opts.keep_owners && !r->opts.map_owner);
	json_set_bool(j, "archiving_switched_off", !r->keep_archiving);
	return output_json(j);
}

static void
report_text(const struct restoring *r, const struct snapshot *s)
{
	const struct pg_part *pg = describe_pg(s);
	char files[OUTPUT_TEXT_MAX], size[OUTPUT_TEXT_MAX], took[OUTPUT_TEXT_MAX];
	char rate[OUTPUT_TEXT_MAX];

	output_count(r->totals.files, "file", files);
	output_size(r->totals.bytes, size);
	output_duration(r->took_us, took);
	output_size(
	    r->took_us > 0 ? (uint64_t)((double)r->totals.bytes / ((double)r->took_us / 1e6)) : 0,
	    rate);
	printf("%s@%s is restored to %s: %s, %s in %s, %s/s\n", s->source_name, s->name, r->dir,
	    files, size, took, rate);
	if (r->totals.resumed_files)
		printf("%llu files were there already, from a run that was interrupted\n",
		    (unsigned long long)r->totals.resumed_files);
	if (!r->opts.keep_owners && !r->opts.map_owner)
		printf("the files belong to you: only root can keep their owners\n");
	if (!r->keep_archiving)
		printf("archiving is switched off in postgresql.auto.conf, so that it does not "
		       "write into "
		       "the original's archive\n");
	if (pg)
		printf(
		    "start it as its owner: /usr/lib/postgresql/%u/bin/pg_ctl -D %s -o '-p 5555' "
		    "start\n",
		    pg->server_version / 10000, r->dir);
}

static int
run(const struct args *a)
{
	struct restoring r = { 0 };
	struct snapshot s = { 0 };
	struct repo_reader *reader = NULL;
	struct moment m;
	int32_t offset_s;
	int rc = moment_zone(args_value(a, "tz"), &offset_s);

	if (!rc)
		rc = moment_parse(&m, MOMENT_ONLY, args_operand(a, 0));
	if (!rc)
		rc = parse(a, &r);
	if (!rc)
		rc = open_repo_reader(a, &reader);
	if (!rc)
		rc = moment_find(reader, &m, offset_s, NULL, &s);
	if (rc)
		goto out;
	if (!s.nparts) {
		rc = err_set(ERR_NOTFOUND, "snapshot %s has no files", s.name);
		goto out;
	}
	if (r.opts.keep_owners && !r.opts.map_owner)
		compare_owner(&s);
	rc = extract(&r, reader, &s, args_given(a, "quiet"));
	if (!rc && args_given(a, "json"))
		rc = report_json(&r, &s);
	else if (!rc)
		report_text(&r, &s);
out:
	snapshot_release(&s);
	repo_reader_close(reader);
	return rc;
}

const struct verb cmd_restore = {
	.name = "restore",
	.operands = "SOURCE@WHEN DIR",
	.summary = "write a snapshot to a local directory",
	.about =
	    "Restores a snapshot into DIR, which is made if it is absent and must be empty unless "
	    "--force is given. WHEN is latest, a snapshot's time or snap:ID. An interrupted "
	    "restore is resumed by running it again.\n"
	    "Archiving is switched off in the restored cluster unless --keep-archiving is given. "
	    "As root owners are kept, or everything is given to the user of --owner.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON | ARGS_PROGRESS,
	.min_operands = 2,
	.max_operands = 2,
	.examples = "pastfs restore main@latest /var/lib/postgresql/restored\n"
		    "pastfs restore main@2026-11-20T02:00:00Z /tmp/then --owner postgres",
	.run = run,
};
