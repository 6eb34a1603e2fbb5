#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/json.h"
#include "store/index.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "tools/cmd.h"
#include "tools/open_repo.h"
#include "tools/output.h"

#include <stdio.h>
#include <string.h>

#define CLASSES_MAX 16

/* Objects of one kind: what stands before the first '/' of their names. */
struct object_class {
	char name[24];
	uint64_t count, bytes;
};

/* Sums over snapshots. */
struct sums {
	uint64_t snapshots, logical, read, fresh, stored, delta, delta_stored;
};

struct stats {
	struct repo_reader *r;
	struct sums sums;
	struct index_totals index;
	size_t nclasses;
	struct object_class classes[CLASSES_MAX];
	uint64_t objects, object_bytes;
	struct json *snapshots; /* with --json */
	struct table *table;    /* without */
};

static int
count_object(void *ctx, const char *name, const struct object_info *info)
{
	struct stats *s = ctx;
	size_t n = strcspn(name, "/"), i;

	s->objects++;
	s->object_bytes += info->bytes;
	for (i = 0; i < s->nclasses; i++)
		if (strlen(s->classes[i].name) == n && strncmp(s->classes[i].name, name, n) == 0)
			break;
	if (i == s->nclasses) {
		/* A kind that this program does not know still counts in the total. */
		if (i == CLASSES_MAX || n >= sizeof(s->classes[i].name))
			return 0;
		memcpy(s->classes[i].name, name, n);
		s->nclasses++;
	}
	s->classes[i].count++;
	s->classes[i].bytes += info->bytes;
	return 0;
}

static void
add_json(struct json *list, const struct snapshot *s)
{
	struct json *j = json_new_object();

	json_set_str(j, "source", s->source_name);
	json_set_str(j, "name", s->name);
	output_json_hex(j, "id", s->id, SNAPSHOT_ID_LEN);
	json_set_uint(j, "logical_bytes", s->logical_bytes);
	json_set_uint(j, "read_bytes", s->read_bytes);
	json_set_uint(j, "new_bytes", s->new_bytes);
	json_set_uint(j, "stored_bytes", s->stored_bytes);
	json_set_uint(j, "delta_bytes", s->delta_bytes);
	json_set_uint(j, "delta_stored_bytes", s->delta_stored_bytes);
	json_add(list, j);
}

static void
add_row(struct table *t, const struct snapshot *s)
{
	char ratio[OUTPUT_TEXT_MAX], delta[OUTPUT_TEXT_MAX];

	output_ratio(s->new_bytes, s->stored_bytes, ratio);
	output_ratio(s->delta_bytes, s->delta_stored_bytes, delta);
	table_cell(t, "%s@%s", s->source_name, s->name);
	table_size(t, s->logical_bytes);
	table_size(t, s->read_bytes);
	table_size(t, s->new_bytes);
	table_size(t, s->stored_bytes);
	table_cell(t, "%s", ratio);
	table_cell(t, "%s", delta);
}

static int
add_source(struct stats *st, const struct source *source)
{
	struct snapshot *list;
	size_t n, damaged = 0;
	int rc = snapshot_list(st->r, source->id, &list, &n, &damaged);

	if (rc)
		return rc;
	if (damaged)
		output_warn(
		    "%zu snapshots of %s cannot be read and are not counted; run: pastfs check",
		    damaged, source->name);
	for (size_t i = 0; i < n; i++) {
		const struct snapshot *s = &list[i];

		st->sums.snapshots++;
		st->sums.logical += s->logical_bytes;
		st->sums.read += s->read_bytes;
		st->sums.fresh += s->new_bytes;
		st->sums.stored += s->stored_bytes;
		st->sums.delta += s->delta_bytes;
		st->sums.delta_stored += s->delta_stored_bytes;
		if (st->snapshots)
			add_json(st->snapshots, s);
		else
			add_row(st->table, s);
	}
	snapshot_list_free(list, n);
	return 0;
}

static int
add_sources(struct stats *st, const char *name)
{
	struct source *list, one = { 0 };
	size_t n;
	int rc;

	if (name) {
		rc = source_find(st->r, name, true, &one);
		if (!rc)
			rc = add_source(st, &one);
		source_release(&one);
		return rc;
	}
	rc = source_list(st->r, &list, &n);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < n; i++)
		rc = add_source(st, &list[i]);
	source_list_free(list, n);
	return rc;
}

/* ---- JSON ---- */

static double
ratio(uint64_t whole, uint64_t part)
{
	return part ? (double)whole / (double)part : 0;
}

static struct json *
sums_json(const struct sums *s)
{
	struct json *j = json_new_object();

	json_set_uint(j, "count", s->snapshots);
	json_set_uint(j, "logical_bytes", s->logical);
	json_set_uint(j, "read_bytes", s->read);
	json_set_uint(j, "new_bytes", s->fresh);
	json_set_uint(j, "stored_bytes", s->stored);
	json_set_uint(j, "delta_bytes", s->delta);
	json_set_uint(j, "delta_stored_bytes", s->delta_stored);
	return j;
}

static void
set_repository(struct json *j, const struct stats *st)
{
	const struct index_totals *t = &st->index;
	struct json *classes = json_new_object();

	json_set_str(j, "repo", backend_url(repo_reader_backend(st->r)));
	json_set_uint(j, "chunks", t->chunks);
	json_set_uint(j, "packs", t->packs);
	json_set_uint(j, "content_bytes", t->content_bytes);
	json_set_uint(j, "sealed_bytes", t->stored_bytes);
	json_set_uint(j, "raw_chunks", t->raw_chunks);
	json_set_uint(j, "zstd_chunks", t->zstd_chunks);
	json_set_uint(j, "delta_chunks", t->delta_chunks);
	json_set_uint(j, "delta_content_bytes", t->delta_content_bytes);
	json_set_uint(j, "delta_sealed_bytes", t->delta_stored_bytes);
	json_set_uint(j, "metadata_content_bytes", t->meta_content_bytes);
	json_set_uint(j, "metadata_sealed_bytes", t->meta_stored_bytes);
	json_set_double(j, "compression_ratio", ratio(t->content_bytes, t->stored_bytes));
	json_set_uint(j, "objects", st->objects);
	json_set_uint(j, "stored_bytes", st->object_bytes);
	for (size_t i = 0; i < st->nclasses; i++) {
		struct json *one = json_new_object();

		json_set_uint(one, "count", st->classes[i].count);
		json_set_uint(one, "bytes", st->classes[i].bytes);
		json_set(classes, st->classes[i].name, one);
	}
	json_set(j, "object_classes", classes);
}

/* Content of files alone: without file maps and directories. */
static uint64_t
data_bytes(const struct index_totals *t)
{
	return t->content_bytes - t->meta_content_bytes;
}

static int
print_json(struct stats *st, bool whole)
{
	struct json *j = json_new_object();

	if (whole) {
		set_repository(j, st);
		json_set_uint(j, "logical_bytes", st->sums.logical);
		json_set_double(j, "dedup_ratio", ratio(st->sums.logical, data_bytes(&st->index)));
		json_set_double(j, "total_ratio", ratio(st->sums.logical, st->object_bytes));
	}
	json_set(j, "totals", sums_json(&st->sums));
	json_set(j, "snapshots", st->snapshots);
	st->snapshots = NULL;
	return output_json(j);
}

/* ---- text ---- */

static void
line(const char *name, uint64_t bytes, const char *gain, uint64_t whole, uint64_t part)
{
	char size[OUTPUT_TEXT_MAX], factor[OUTPUT_TEXT_MAX];

	output_size(bytes, size);
	output_ratio(whole, part, factor);
	printf("%-38s%10s", name, size);
	if (gain && part)
		printf("   1 : %s %s", factor, gain);
	putchar('\n');
}

static void
print_repository(const struct stats *st)
{
	const struct index_totals *t = &st->index;
	char count[OUTPUT_TEXT_MAX];

	putchar('\n');
	line("all snapshots, as they appear", st->sums.logical, NULL, 0, 0);
	line("distinct content of files", data_bytes(t), "by deduplication", st->sums.logical,
	    data_bytes(t));
	line("sealed, with maps and directories", t->stored_bytes, "by compression",
	    t->content_bytes, t->stored_bytes);
	line("  of it kept as deltas", t->delta_stored_bytes, "by deltas", t->delta_content_bytes,
	    t->delta_stored_bytes);
	line("  of it maps and directories", t->meta_stored_bytes, NULL, 0, 0);
	line("the repository, all objects", st->object_bytes, "in all", st->sums.logical,
	    st->object_bytes);
	for (size_t i = 0; i < st->nclasses; i++) {
		char name[64];

		output_count(st->classes[i].count, "object", count);
		snprintf(name, sizeof(name), "  %s, %s", st->classes[i].name, count);
		line(name, st->classes[i].bytes, NULL, 0, 0);
	}
}

static int
run(const struct args *a)
{
	const char *name = args_operand(a, 0);
	struct stats st = { 0 };
	int rc = open_repo_reader(a, &st.r);

	if (rc)
		return rc;
	if (args_given(a, "json"))
		st.snapshots = json_new_array();
	else
		rc = table_new(&st.table, "SNAPSHOT|SIZE>|READ>|NEW>|STORED>|NEW:STORED>|DELTAS>");
	if (!rc)
		rc = add_sources(&st, name);

	/* Chunks are shared by sources, so that what is stored is told of the whole only. */
	if (!rc && !name)
		rc = index_totals(repo_reader_index(st.r), &st.index);
	if (!rc && !name)
		rc = backend_list(repo_reader_backend(st.r), "", count_object, &st);
	if (!rc && args_given(a, "json")) {
		rc = print_json(&st, !name);
	} else if (!rc) {
		rc = table_print(st.table, stdout);
		if (!rc && !name)
			print_repository(&st);
	}
	json_free(st.snapshots);
	table_free(st.table);
	repo_reader_close(st.r);
	return rc;
}

const struct verb cmd_stats = {
	.name = "stats",
	.operands = "[SOURCE]",
	.summary = "what is stored, and what deduplication and deltas save",
	.about =
	    "For each snapshot its size, what was read, what was new and what that took. Without "
	    "SOURCE also the repository as a whole: distinct content, what is sealed, the gains "
	    "of deduplication, compression and deltas, and the objects by kind.",
	.groups = ARGS_OPEN | ARGS_JSON,
	.max_operands = 1,
	.examples = "pastfs stats\npastfs stats main --json",
	.run = run,
};
