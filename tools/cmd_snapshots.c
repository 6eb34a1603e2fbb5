#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "tools/cmd.h"
#include "tools/describe.h"
#include "tools/moment.h"
#include "tools/open_repo.h"
#include "tools/output.h"

#include <stdio.h>
#include <string.h>

static const struct args_option options[] = {
	{ "tz", 0, "ZONE", "the zone of a moment that is written without one: Z or +02:00" },
	{ NULL, 0, NULL, NULL },
};

struct listing {
	struct repo_reader *r;
	struct json *json;
	struct table *table;
	size_t damaged;
};

static void
add_row(struct table *t, const struct snapshot *s)
{
	const struct pg_part *pg = describe_pg(s);
	char took[OUTPUT_TEXT_MAX], id[2 * SNAPSHOT_ID_LEN + 1];

	output_duration(s->finished_us - s->started_us, took);
	hex_encode(id, s->id, SNAPSHOT_ID_LEN);
	table_cell(t, "%s", s->source_name);
	table_cell(t, "%s", s->name);
	table_size(t, s->logical_bytes);
	table_size(t, s->new_bytes);
	table_size(t, s->stored_bytes);
	table_cell(t, "%s", took);
	table_cell(t, "%s", id);
	table_cell(t, "%s%s%s", s->label ? s->label : "",
	    pg && pg->bad_pages_total && s->label && *s->label ? ", " : "",
	    pg && pg->bad_pages_total ? "BAD PAGES" : "");
}

static int
add_source(struct listing *l, const struct source *source)
{
	struct snapshot *list;
	size_t n, damaged = 0;
	int rc = snapshot_list(l->r, source->id, &list, &n, &damaged);

	if (rc)
		return rc;
	if (damaged)
		output_warn("%zu snapshots of %s cannot be read: %s; run: pastfs check", damaged,
		    source->name, err_msg());
	l->damaged += damaged;
	for (size_t i = 0; i < n; i++) {
		if (l->json)
			json_add(l->json, describe_snapshot_json(&list[i]));
		else
			add_row(l->table, &list[i]);
	}
	snapshot_list_free(list, n);
	return 0;
}

static int
add_all(struct listing *l, const char *name)
{
	struct source *list, one = { 0 };
	size_t n;
	int rc;

	if (name) {
		rc = source_find(l->r, name, true, &one);
		if (!rc)
			rc = add_source(l, &one);
		source_release(&one);
		return rc;
	}
	rc = source_list(l->r, &list, &n);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < n; i++)
		rc = add_source(l, &list[i]);
	source_list_free(list, n);
	return rc;
}

static int
show_list(const struct args *a, struct repo_reader *r)
{
	struct listing l = { .r = r };
	int rc = 0;

	if (args_given(a, "json"))
		l.json = json_new_array();
	else
		rc = table_new(&l.table, "SOURCE|SNAPSHOT|SIZE>|NEW>|STORED>|TOOK>|ID|LABEL");
	if (!rc)
		rc = add_all(&l, args_operand(a, 0));
	if (rc)
		json_free(l.json);
	else if (l.json)
		rc = output_json(l.json);
	else
		rc = table_print(l.table, stdout);
	table_free(l.table);
	if (!rc && l.damaged)
		return err_set(
		    ERR_DAMAGED, "%zu snapshots cannot be read; run: pastfs check", l.damaged);
	return rc;
}

static int
show_one(const struct args *a, struct repo_reader *r, const char *text)
{
	struct snapshot s = { 0 };
	struct moment m;
	int32_t offset_s;
	struct json *j;
	int rc = moment_zone(args_value(a, "tz"), &offset_s);

	if (!rc)
		rc = moment_parse(&m, MOMENT_ONLY, text);
	if (!rc)
		rc = moment_find(r, &m, offset_s, NULL, &s);
	if (rc)
		return rc;
	if (args_given(a, "json")) {
		j = describe_snapshot_json(&s);
		describe_bad_pages_json(j, &s);
		rc = output_json(j);
	} else {
		describe_snapshot(&s);
	}
	snapshot_release(&s);
	return rc;
}

static int
run(const struct args *a)
{
	const char *what = args_operand(a, 0), *when = args_operand(a, 1);
	char joined[SOURCE_NAME_MAX + MOMENT_WHEN_MAX + 3];
	struct repo_reader *r;
	int rc = open_repo_reader(a, &r);

	if (rc)
		return rc;
	if (when) {
		if ((size_t)snprintf(joined, sizeof(joined), "%s@%s", what, when) >= sizeof(joined))
			rc = err_set(ERR_USAGE, "\"%.60s…\" is no moment", when);
		what = joined;
	}
	if (!rc)
		rc = what && strchr(what, '@') ? show_one(a, r, what) : show_list(a, r);
	repo_reader_close(r);
	return rc;
}

const struct verb cmd_snapshots = {
	.name = "snapshots",
	.operands = "[SOURCE [WHEN] | SOURCE@WHEN]",
	.summary = "list snapshots, or show everything about one",
	.about = "Lists the snapshots of SOURCE, or of all sources, oldest first. With a moment "
		 "(latest, a snapshot's time or snap:ID) it tells everything about that snapshot, "
		 "bad pages included.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.max_operands = 2,
	.examples = "pastfs snapshots main --json\n"
		    "pastfs snapshots main@latest",
	.run = run,
};
