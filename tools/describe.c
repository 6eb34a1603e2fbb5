#include "tools/describe.h"

#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/snapshot.h"
#include "tools/output.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FIELD_WIDTH 20

const struct pg_part *
describe_pg(const struct snapshot *s)
{
	for (size_t i = 0; i < s->nparts; i++)
		if (s->parts[i].kind == PART_PG)
			return &s->parts[i].pg;
	return NULL;
}

const char *
describe_method(const struct pg_part *pg)
{
	return pg->method == PG_METHOD_REPLICATION ? "replication" : "local";
}

/* ---- JSON ---- */

/* A system identifier is over 2^53: text, or a reader rounds it. */
static void
set_identifier(struct json *j, uint64_t id)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
	json_set_str(j, "system_identifier", id ? text : NULL);
}

struct json *
describe_source_json(const struct source *s)
{
	struct json *j = json_new_object();

	output_json_hex(j, "id", s->id, SOURCE_ID_LEN);
	json_set_str(j, "name", s->name);
	json_set_str(j, "kind", "postgresql");
	json_set_str(j, "conninfo", s->conninfo);
	set_identifier(j, s->system_identifier);
	output_json_time(j, "created", s->created_us);
	json_set_bool(j, "removed", s->removed);
	return j;
}

static void
set_pg(struct json *j, const struct pg_part *pg)
{
	struct json *spaces = json_new_array();
	char version[OUTPUT_TEXT_MAX];

	output_pg_version(pg->server_version, version);
	json_set_str(j, "server_version", version);
	set_identifier(j, pg->system_identifier);
	json_set_int(j, "timeline", pg->timeline);
	output_json_lsn(j, "start_lsn", pg->start_lsn);
	output_json_lsn(j, "stop_lsn", pg->stop_lsn);
	output_json_lsn(j, "checkpoint_lsn", pg->checkpoint_lsn);
	json_set_str(j, "method", describe_method(pg));
	json_set_bool(j, "from_standby", pg->from_standby);
	json_set_bool(j, "data_checksums", pg->data_checksums);
	json_set_uint(j, "pages_checked", pg->pages_checked);
	json_set_uint(j, "bad_pages", pg->bad_pages_total);
	for (uint32_t i = 0; i < pg->ntablespaces; i++) {
		struct json *space = json_new_object();

		json_set_int(space, "oid", pg->tablespaces[i].oid);
		json_set_str(space, "location", pg->tablespaces[i].location);
		json_add(spaces, space);
	}
	json_set(j, "tablespaces", spaces);
}

static void
set_parent(struct json *j, const struct snapshot *s)
{
	static const uint8_t none[SNAPSHOT_ID_LEN];

	if (memcmp(s->parent_id, none, sizeof(none)) == 0)
		json_set_null(j, "parent");
	else
		output_json_hex(j, "parent", s->parent_id, SNAPSHOT_ID_LEN);
}

struct json *
describe_snapshot_json(const struct snapshot *s)
{
	const struct pg_part *pg = describe_pg(s);
	struct json *j = json_new_object();

	output_json_hex(j, "id", s->id, SNAPSHOT_ID_LEN);
	json_set_str(j, "source", s->source_name);
	json_set_str(j, "name", s->name);
	output_json_time(j, "time", s->time_us);
	output_json_time(j, "started", s->started_us);
	output_json_time(j, "finished", s->finished_us);
	json_set_double(j, "duration_s", (double)(s->finished_us - s->started_us) / 1e6);
	set_parent(j, s);
	json_set_str(j, "label", s->label ? s->label : "");
	json_set_str(j, "host", s->host);
	json_set_str(j, "pastfs_version", s->pastfs_version);
	json_set_bool(j, "full_read", s->full_read);
	json_set_uint(j, "files", s->files);
	json_set_uint(j, "logical_bytes", s->logical_bytes);
	json_set_uint(j, "read_bytes", s->read_bytes);
	json_set_uint(j, "new_bytes", s->new_bytes);
	json_set_uint(j, "stored_bytes", s->stored_bytes);
	json_set_uint(j, "delta_bytes", s->delta_bytes);
	json_set_uint(j, "delta_stored_bytes", s->delta_stored_bytes);
	json_set_uint(j, "warnings", s->warnings);
	if (pg)
		set_pg(j, pg);
	return j;
}

void
describe_bad_pages_json(struct json *object, const struct snapshot *s)
{
	const struct pg_part *pg = describe_pg(s);
	struct json *list = json_new_array();

	for (size_t i = 0; pg && i < pg->nbad_pages; i++) {
		const struct bad_page *b = &pg->bad_pages[i];
		struct json *page = json_new_object();

		json_set_str(page, "path", b->path);
		json_set_int(page, "block", b->block);
		json_set_int(page, "stored_checksum", b->stored_checksum);
		json_set_int(page, "computed_checksum", b->computed_checksum);
		json_add(list, page);
	}
	json_set(object, "bad_page_list", list);
}

/* ---- text ---- */

static void field(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void
field(const char *name, const char *fmt, ...)
{
	va_list ap;

	printf("%-*s", FIELD_WIDTH, name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void
field_time(const char *name, int64_t us)
{
	char text[UTC_TEXT_MAX];

	utc_format(us, text);
	field(name, "%s", text);
}

static void
field_size(const char *name, uint64_t bytes)
{
	char text[OUTPUT_TEXT_MAX];

	output_size(bytes, text);
	field(name, "%s (%llu bytes)", text, (unsigned long long)bytes);
}

static void
field_hex(const char *name, const void *data, size_t len)
{
	char text[2 * SNAPSHOT_ID_LEN + 1];

	hex_encode(text, data, len);
	field(name, "%s", text);
}

void
describe_source(const struct source *s)
{
	field("source", "%s%s", s->name, s->removed ? " (removed: no more backups)" : "");
	field_hex("id", s->id, SOURCE_ID_LEN);
	field("kind", "PostgreSQL cluster");
	field("connection", "%s", s->conninfo ? s->conninfo : "");
	if (s->system_identifier)
		field("system identifier", "%llu", (unsigned long long)s->system_identifier);
	else
		field("system identifier", "not known before the first backup");
	field_time("created", s->created_us);
}

static void
describe_pages(const struct pg_part *pg)
{
	if (!pg->data_checksums) {
		field("page checksums", "off in this cluster");
		return;
	}
	field("pages checked", "%llu", (unsigned long long)pg->pages_checked);
	field("bad pages", "%llu", (unsigned long long)pg->bad_pages_total);
	for (size_t i = 0; i < pg->nbad_pages; i++)
		field("", "%s block %u: checksum %u, computed %u", pg->bad_pages[i].path,
		    pg->bad_pages[i].block, pg->bad_pages[i].stored_checksum,
		    pg->bad_pages[i].computed_checksum);
	if (pg->bad_pages_total > pg->nbad_pages)
		field("", "and %llu more, not kept one by one",
		    (unsigned long long)(pg->bad_pages_total - pg->nbad_pages));
}

static void
describe_part(const struct pg_part *pg)
{
	char start[OUTPUT_TEXT_MAX], stop[OUTPUT_TEXT_MAX], version[OUTPUT_TEXT_MAX];

	output_pg_version(pg->server_version, version);
	output_lsn(pg->start_lsn, start);
	output_lsn(pg->stop_lsn, stop);
	field("PostgreSQL", "%s%s", version, pg->from_standby ? ", a standby" : "");
	field("system identifier", "%llu", (unsigned long long)pg->system_identifier);
	field("taken over", "%s",
	    pg->method == PG_METHOD_REPLICATION ? "a replication connection" : "local files");
	field("timeline", "%u", pg->timeline);
	field("WAL", "%s to %s", start, stop);
	for (uint32_t i = 0; i < pg->ntablespaces; i++)
		field(i ? "" : "tablespaces", "%u %s", pg->tablespaces[i].oid,
		    pg->tablespaces[i].location);
	describe_pages(pg);
}

void
describe_snapshot(const struct snapshot *s)
{
	static const uint8_t none[SNAPSHOT_ID_LEN];
	const struct pg_part *pg = describe_pg(s);
	char took[OUTPUT_TEXT_MAX], ratio[OUTPUT_TEXT_MAX];

	output_duration(s->finished_us - s->started_us, took);
	output_ratio(s->new_bytes, s->stored_bytes, ratio);
	field("snapshot", "%s@%s", s->source_name, s->name);
	field_hex("id", s->id, SNAPSHOT_ID_LEN);
	if (memcmp(s->parent_id, none, sizeof(none)) != 0)
		field_hex("predecessor", s->parent_id, SNAPSHOT_ID_LEN);
	if (s->label && *s->label)
		field("label", "%s", s->label);
	field_time("shows", s->time_us);
	field_time("started", s->started_us);
	field("took", "%s", took);
	field("made by", "pastfs %s on %s", s->pastfs_version, s->host);
	field("files", "%llu", (unsigned long long)s->files);
	field_size("size", s->logical_bytes);
	field_size("read", s->read_bytes);
	field_size("new content", s->new_bytes);
	field_size("stored for it", s->stored_bytes);
	if (s->stored_bytes)
		field("", "1 : %s", ratio);
	field_size("new as deltas", s->delta_bytes);
	if (pg)
		describe_part(pg);
}
