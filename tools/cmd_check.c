#include "store/base/err.h"
#include "store/base/json.h"
#include "store/base/progress.h"
#include "store/check.h"
#include "store/repo.h"
#include "tools/cmd.h"
#include "tools/open_repo.h"
#include "tools/output.h"
#include "tools/progress_bar.h"

#include <stdio.h>

#define THREADS_MAX 256

static const struct args_option options[] = {
	{ "read-data", 'd', NULL, "read everything, decode it and compute its id again" },
	{ "jobs", 'j', "N", "threads (one a processor)" },
	{ NULL, 0, NULL, NULL },
};

static const char *const kinds[] = {
	[CHECK_OBJECT] = "object",
	[CHECK_PACK] = "pack",
	[CHECK_CHUNK] = "chunk",
	[CHECK_FILE] = "file",
};

struct findings {
	struct progress_bar *bar;
	struct json *json; /* NULL: print them */
};

static void
add_json(struct json *list, const struct check_finding *f)
{
	struct json *j = json_new_object();

	json_set_str(j, "what", kinds[f->what]);
	json_set_str(j, "message", f->message);
	if (f->object && *f->object)
		json_set_str(j, "object", f->object);
	if (f->chunk && *f->chunk)
		json_set_str(j, "chunk", f->chunk);
	if (f->what == CHECK_FILE) {
		json_set_str(j, "source", f->source);
		json_set_str(j, "snapshot", f->snapshot);
		json_set_str(j, "path", f->path);
		json_set_uint(j, "offset", f->off);
		json_set_uint(j, "length", f->len);
	}
	json_add(list, j);
}

static const char *
or_empty(const char *text)
{
	return text ? text : "";
}

/* One line a finding; the bar, if there is one, moves out of the way. */
static void
found(void *ctx, const struct check_finding *f)
{
	struct findings *all = ctx;

	if (all->json)
		add_json(all->json, f);
	else if (f->what == CHECK_FILE)
		progress_bar_print(all->bar, stdout, "damaged: %s@%s:%s, %llu bytes at %llu: %s",
		    or_empty(f->source), or_empty(f->snapshot), or_empty(f->path),
		    (unsigned long long)f->len, (unsigned long long)f->off, or_empty(f->message));
	else
		progress_bar_print(all->bar, stdout, "damaged: %s", or_empty(f->message));
}

static int
report_json(const struct check_totals *t, struct json *findings)
{
	struct json *j = json_new_object();

	json_set_bool(j, "ok", t->findings == 0);
	json_set_uint(j, "snapshots", t->snapshots);
	json_set_uint(j, "files", t->files);
	json_set_uint(j, "chunks", t->chunks);
	json_set_uint(j, "packs", t->packs);
	json_set_uint(j, "bytes_read", t->bytes_read);
	json_set_uint(j, "damaged_chunks", t->damaged_chunks);
	json_set_uint(j, "damaged_files", t->damaged_files);
	json_set(j, "findings", findings);
	return output_json(j);
}

static void
report_text(const struct check_totals *t, bool read_data)
{
	char snapshots[OUTPUT_TEXT_MAX], files[OUTPUT_TEXT_MAX], chunks[OUTPUT_TEXT_MAX];
	char packs[OUTPUT_TEXT_MAX], bytes[OUTPUT_TEXT_MAX];

	output_count(t->snapshots, "snapshot", snapshots);
	output_count(t->files, "file", files);
	output_count(t->chunks, "chunk", chunks);
	output_count(t->packs, "pack", packs);
	output_size(t->bytes_read, bytes);
	printf("checked %s, %s, %s in %s", snapshots, files, chunks, packs);
	if (read_data)
		printf(", %s read", bytes);
	printf(": %s\n", t->findings ? "DAMAGED" : "all is well");
}

static int
run(const struct args *a)
{
	struct progress progress = { 0 };
	struct findings all = { NULL, NULL };
	struct check_totals totals = { 0 };
	struct check_opts opts = {
		.read_data = args_given(a, "read-data"),
		.progress = &progress,
		.found = found,
		.ctx = &all,
	};
	struct repo_reader *r;
	long threads;
	int found_any, rc = args_number(a, "jobs", 1, THREADS_MAX, 0, &threads);

	if (!rc)
		rc = open_repo_reader(a, &r);
	if (rc)
		return rc;
	opts.threads = (int)threads;
	if (args_given(a, "json"))
		all.json = json_new_array();
	rc = progress_bar_start(&all.bar, &progress, args_given(a, "quiet"));
	if (!rc)
		rc = check_run(r, &opts, &totals);
	progress_bar_stop(all.bar);
	repo_reader_close(r);
	found_any = rc == 1;
	if (rc < 0) {
		json_free(all.json);
		return rc;
	}
	rc = 0;
	if (args_given(a, "json"))
		rc = report_json(&totals, all.json);
	else
		report_text(&totals, opts.read_data);
	if (rc || !found_any)
		return rc;
	return err_set(ERR_DAMAGED,
	    "the repository is damaged: %llu findings; what is not named is intact",
	    (unsigned long long)totals.findings);
}

const struct verb cmd_check = {
	.name = "check",
	.summary = "look whether everything is there and intact",
	.about =
	    "Checks that every snapshot opens and that everything it needs is there. With "
	    "--read-data every pack is read, every chunk decrypted and decoded, and its id "
	    "computed again. Findings are printed one a line, with the files and snapshots they "
	    "touch; the exit status is then 5. Nothing is changed.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON | ARGS_PROGRESS,
	.examples = "pastfs check\npastfs check --read-data --json",
	.run = run,
};
