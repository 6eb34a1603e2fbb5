/*
 * A snapshot record (store/record.h), sealed as "snapshots/<source id>/<id>" under the keys of the
 * source's domain.  Times are microseconds since 1970, sizes bytes.
 *
 *   tag     name                  value
 *   0x8001  id                    16 bytes: start time (u64, big-endian), 8 random
 *   0x8002  source id             8 bytes
 *   0x0003  parent id             16 bytes, zeros if none
 *   0x8004  source name           1 to 63 bytes
 *   0x8005  name                  1 to 39 bytes, RFC 3339
 *   0x8006  time                  the instant it shows
 *   0x0007  started   0x0008  finished
 *   0x0009  host      0x000a  pastfs version   0x000b  label
 *   0x000c  files     0x000d  logical bytes    0x000e  read bytes   0x000f  new bytes
 *   0x0010  stored bytes      0x0011  delta bytes   0x0012  delta stored bytes
 *   0x0013  warnings  0x0014  full read
 *   0x0015  user, 0x0016 group    each: u32 id, name; repeated
 *   0x8020  part                  nested, repeated
 *
 * In a part:
 *   0x8001  kind (1 PostgreSQL)   0x8002  name   0x8003  root, a tree entry   0x8010  PostgreSQL
 *
 * In a PostgreSQL part:
 *   0x8001  system identifier  0x8002  server version  0x8003  timeline  0x8004  start LSN
 *   0x8005  stop LSN  0x0006  checkpoint LSN  0x8007  WAL segment bytes  0x0008  data checksums
 *   0x0009  from a standby  0x800a  method  0x000b  pages checked  0x000c  bad pages in all
 *   0x000d  bad page: u32 block, u16 stored, u16 computed checksum, path; repeated
 *   0x800e  tablespace: u32 oid, location; repeated
 *
 * A record is written once and never changed.
 */
#include "store/snapshot.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/utc.h"
#include "store/record.h"
#include "store/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST_MAX        255
#define VERSION_MAX     63
#define LABEL_MAX       4096
#define PART_NAME_MAX   255
#define PARTS_MAX       64
#define OWNERS_MAX      100000
#define OWNER_NAME_MAX  255
#define TABLESPACES_MAX 65536
#define LOCATION_MAX    4095

#define TAG_USER       0x0015
#define TAG_GROUP      0x0016
#define TAG_PART       0x8020
#define TAG_ROOT       0x8003
#define TAG_PG         0x8010
#define TAG_BAD_PAGE   0x000d
#define TAG_TABLESPACE 0x800e

static int snapshot_item(void *obj, uint16_t tag, struct cursor *value);
static int part_item(void *obj, uint16_t tag, struct cursor *value);
static int pg_item(void *obj, uint16_t tag, struct cursor *value);

static const struct record_field snapshot_fields[] = {
	RECORD_FIELD(0x8001, RECORD_FIXED, snapshot, id, 0, 0),
	RECORD_FIELD(0x8002, RECORD_FIXED, snapshot, source_id, 0, 0),
	RECORD_FIELD(0x0003, RECORD_FIXED, snapshot, parent_id, 0, 0),
	RECORD_FIELD(0x8004, RECORD_TEXT, snapshot, source_name, 1, SOURCE_NAME_MAX),
	RECORD_FIELD(0x8005, RECORD_TEXT, snapshot, name, 1, UTC_TEXT_MAX - 1),
	RECORD_FIELD(0x8006, RECORD_INT, snapshot, time_us, 0, UINT64_MAX),
	RECORD_FIELD(0x0007, RECORD_INT, snapshot, started_us, 0, UINT64_MAX),
	RECORD_FIELD(0x0008, RECORD_INT, snapshot, finished_us, 0, UINT64_MAX),
	RECORD_FIELD(0x0009, RECORD_TEXT, snapshot, host, 0, HOST_MAX),
	RECORD_FIELD(0x000a, RECORD_TEXT, snapshot, pastfs_version, 0, VERSION_MAX),
	RECORD_FIELD(0x000b, RECORD_TEXT, snapshot, label, 0, LABEL_MAX),
	RECORD_FIELD(0x000c, RECORD_UINT, snapshot, files, 0, UINT64_MAX),
	RECORD_FIELD(0x000d, RECORD_UINT, snapshot, logical_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x000e, RECORD_UINT, snapshot, read_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x000f, RECORD_UINT, snapshot, new_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x0010, RECORD_UINT, snapshot, stored_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x0011, RECORD_UINT, snapshot, delta_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x0012, RECORD_UINT, snapshot, delta_stored_bytes, 0, UINT64_MAX),
	RECORD_FIELD(0x0013, RECORD_UINT, snapshot, warnings, 0, UINT64_MAX),
	RECORD_FIELD(0x0014, RECORD_BOOL, snapshot, full_read, 0, 1),
	RECORD_FIELD(TAG_USER, RECORD_LIST, snapshot, users, 0, 0),
	RECORD_FIELD(TAG_GROUP, RECORD_LIST, snapshot, groups, 0, 0),
	RECORD_FIELD(TAG_PART, RECORD_LIST, snapshot, parts, 0, 0),
};

static const struct record_field part_fields[] = {
	RECORD_FIELD(0x8001, RECORD_ENUM, snapshot_part, kind, 1, PART_PG),
	RECORD_FIELD(0x8002, RECORD_TEXT, snapshot_part, name, 0, PART_NAME_MAX),
	RECORD_FIELD(TAG_ROOT, RECORD_LIST, snapshot_part, root, 0, 0),
	RECORD_FIELD(TAG_PG, RECORD_LIST, snapshot_part, pg, 0, 0),
};

static const struct record_field pg_fields[] = {
	RECORD_FIELD(0x8001, RECORD_UINT, pg_part, system_identifier, 0, UINT64_MAX),
	RECORD_FIELD(0x8002, RECORD_UINT, pg_part, server_version, 0, UINT32_MAX),
	RECORD_FIELD(0x8003, RECORD_UINT, pg_part, timeline, 0, UINT32_MAX),
	RECORD_FIELD(0x8004, RECORD_UINT, pg_part, start_lsn, 0, UINT64_MAX),
	RECORD_FIELD(0x8005, RECORD_UINT, pg_part, stop_lsn, 0, UINT64_MAX),
	RECORD_FIELD(0x0006, RECORD_UINT, pg_part, checkpoint_lsn, 0, UINT64_MAX),
	RECORD_FIELD(0x8007, RECORD_UINT, pg_part, wal_segment_bytes, 0, UINT32_MAX),
	RECORD_FIELD(0x0008, RECORD_BOOL, pg_part, data_checksums, 0, 1),
	RECORD_FIELD(0x0009, RECORD_BOOL, pg_part, from_standby, 0, 1),
	RECORD_FIELD(0x800a, RECORD_ENUM, pg_part, method, 1, PG_METHOD_REPLICATION),
	RECORD_FIELD(0x000b, RECORD_UINT, pg_part, pages_checked, 0, UINT64_MAX),
	RECORD_FIELD(0x000c, RECORD_UINT, pg_part, bad_pages_total, 0, UINT64_MAX),
	RECORD_FIELD(TAG_BAD_PAGE, RECORD_LIST, pg_part, bad_pages, 0, 0),
	RECORD_FIELD(TAG_TABLESPACE, RECORD_LIST, pg_part, tablespaces, 0, 0),
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct record_layout snapshot_layout = { "snapshot record", 1, snapshot_fields,
	COUNT(snapshot_fields), snapshot_item };
static const struct record_layout part_layout = { "snapshot record's part", 0, part_fields,
	COUNT(part_fields), part_item };
static const struct record_layout pg_layout = { "snapshot record's PostgreSQL part", 0, pg_fields,
	COUNT(pg_fields), pg_item };

/* ---- release ---- */

static void
release_part(struct snapshot_part *p)
{
	free(p->name);
	tree_entry_release(&p->root);
	for (size_t i = 0; i < p->pg.nbad_pages; i++)
		free(p->pg.bad_pages[i].path);
	free(p->pg.bad_pages);
	for (size_t i = 0; i < p->pg.ntablespaces; i++)
		free(p->pg.tablespaces[i].location);
	free(p->pg.tablespaces);
}

static void
release_owners(struct snapshot_owner *owners, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(owners[i].name);
	free(owners);
}

void
snapshot_release(struct snapshot *s)
{
	free(s->source_name);
	free(s->name);
	free(s->host);
	free(s->pastfs_version);
	free(s->label);
	for (size_t i = 0; i < s->nparts; i++)
		release_part(&s->parts[i]);
	free(s->parts);
	release_owners(s->users, s->nusers);
	release_owners(s->groups, s->ngroups);
	memset(s, 0, sizeof(*s));
}

/* ---- writing ---- */

static int
check_text(const char *what, const char *s, size_t max)
{
	size_t n = s ? strlen(s) : 0;

	if (n >= 1 && n <= max)
		return 0;
	return err_set(ERR_USAGE,
	    "the snapshot record has a %s of %zu bytes; it must have 1 to %zu", what, n, max);
}

static int
check_count(const char *what, size_t n, size_t max)
{
	if (n <= max)
		return 0;
	return err_set(
	    ERR_USAGE, "the snapshot record has %zu %s, over the limit of %zu", n, what, max);
}

/* A list element: `head_len` bytes of numbers, then a text. */
static void
put_item(struct bytes *out, uint16_t tag, const uint8_t *head, size_t head_len, const char *text)
{
	bytes_put_u16(out, tag);
	bytes_put_u32(out, (uint32_t)(head_len + strlen(text)));
	bytes_put(out, head, head_len);
	bytes_put(out, text, strlen(text));
}

static int
put_owners(struct bytes *out, uint16_t tag, const struct snapshot_owner *owners, size_t n)
{
	uint8_t head[4];
	int rc = check_count("owners", n, OWNERS_MAX);

	for (size_t i = 0; i < n && rc == 0; i++) {
		rc = check_text("owner's name", owners[i].name, OWNER_NAME_MAX);
		if (rc)
			break;
		le32_store(head, owners[i].id);
		put_item(out, tag, head, sizeof(head), owners[i].name);
	}
	return rc;
}

static int
put_bad_pages(struct bytes *out, const struct pg_part *pg)
{
	uint8_t head[8];
	int rc = check_count("bad pages", pg->nbad_pages, SNAPSHOT_BAD_PAGES_MAX);

	for (size_t i = 0; i < pg->nbad_pages && rc == 0; i++) {
		const struct bad_page *bad = &pg->bad_pages[i];

		rc = check_text("bad page's path", bad->path, TREE_PATH_MAX);
		if (rc)
			break;
		le32_store(head, bad->block);
		le16_store(head + 4, bad->stored_checksum);
		le16_store(head + 6, bad->computed_checksum);
		put_item(out, TAG_BAD_PAGE, head, sizeof(head), bad->path);
	}
	return rc;
}

static int
put_tablespaces(struct bytes *out, const struct pg_part *pg)
{
	uint8_t head[4];
	int rc = check_count("tablespaces", pg->ntablespaces, TABLESPACES_MAX);

	for (size_t i = 0; i < pg->ntablespaces && rc == 0; i++) {
		rc = check_text("tablespace's location", pg->tablespaces[i].location, LOCATION_MAX);
		if (rc)
			break;
		le32_store(head, pg->tablespaces[i].oid);
		put_item(out, TAG_TABLESPACE, head, sizeof(head), pg->tablespaces[i].location);
	}
	return rc;
}

static int
put_part(struct bytes *out, const struct snapshot_part *part)
{
	struct bytes nested, inner;
	int rc;

	bytes_init(&nested);
	bytes_init(&inner);
	rc = record_put(&nested, &part_layout, part);
	if (rc == 0)
		rc = tree_entry_encode(&inner, &part->root);
	if (rc)
		goto out;
	record_put_nested(&nested, TAG_ROOT, &inner);
	bytes_reset(&inner);
	rc = record_put(&inner, &pg_layout, &part->pg);
	if (rc == 0)
		rc = put_bad_pages(&inner, &part->pg);
	if (rc == 0)
		rc = put_tablespaces(&inner, &part->pg);
	if (rc)
		goto out;
	record_put_nested(&nested, TAG_PG, &inner);
	record_put_nested(out, TAG_PART, &nested);
out:
	bytes_release(&nested);
	bytes_release(&inner);
	return rc;
}

/* The name becomes a directory's in the mount, and a person types it: digits, T, Z and signs. */
static bool
name_ok(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && name[0] != '.' && strspn(name, "0123456789TZ:.+-") == n;
}

int
snapshot_encode(struct bytes *out, const struct snapshot *s)
{
	int rc;

	if (!s->name || !name_ok(s->name))
		return err_set(ERR_USAGE, "a snapshot's name is a time in RFC 3339, not \"%.80s\"",
		    s->name ? s->name : "");
	if (s->nparts == 0)
		return err_set(ERR_USAGE, "a snapshot has at least one part");
	rc = check_count("parts", s->nparts, PARTS_MAX);
	if (rc == 0)
		rc = record_put(out, &snapshot_layout, s);
	if (rc == 0)
		rc = put_owners(out, TAG_USER, s->users, s->nusers);
	if (rc == 0)
		rc = put_owners(out, TAG_GROUP, s->groups, s->ngroups);
	for (size_t i = 0; i < s->nparts && rc == 0; i++)
		rc = put_part(out, &s->parts[i]);
	if (rc)
		return rc;
	record_end(out);
	return bytes_status(out);
}

/* ---- reading ---- */

static int
too_many(const char *what, size_t max)
{
	return err_set(ERR_DAMAGED, "the snapshot record has more than %zu %s", max, what);
}

static int
get_owner(struct snapshot_owner **list, size_t *n, struct cursor *value)
{
	int rc;

	if (*n == OWNERS_MAX)
		return too_many("owners", OWNERS_MAX);
	rc = record_grow(list, *n, sizeof(**list));
	if (rc)
		return rc;
	(*list)[*n].id = cursor_u32(value);
	rc = record_text(value, "owner's name", 1, OWNER_NAME_MAX, &(*list)[*n].name);
	if (rc == 0)
		++*n;
	return rc;
}

static int
get_bad_page(struct pg_part *pg, struct cursor *value)
{
	struct bad_page *bad;
	int rc;

	if (pg->nbad_pages == SNAPSHOT_BAD_PAGES_MAX)
		return too_many("bad pages", SNAPSHOT_BAD_PAGES_MAX);
	rc = record_grow(&pg->bad_pages, pg->nbad_pages, sizeof(*bad));
	if (rc)
		return rc;
	bad = &pg->bad_pages[pg->nbad_pages];
	bad->block = cursor_u32(value);
	bad->stored_checksum = cursor_u16(value);
	bad->computed_checksum = cursor_u16(value);
	rc = record_text(value, "bad page's path", 1, TREE_PATH_MAX, &bad->path);
	if (rc == 0)
		pg->nbad_pages++;
	return rc;
}

static int
get_tablespace(struct pg_part *pg, struct cursor *value)
{
	struct pg_tablespace *t;
	int rc;

	if (pg->ntablespaces == TABLESPACES_MAX)
		return too_many("tablespaces", TABLESPACES_MAX);
	rc = record_grow(&pg->tablespaces, pg->ntablespaces, sizeof(*t));
	if (rc)
		return rc;
	t = &pg->tablespaces[pg->ntablespaces];
	t->oid = cursor_u32(value);
	rc = record_text(value, "tablespace's location", 1, LOCATION_MAX, &t->location);
	if (rc == 0)
		pg->ntablespaces++;
	return rc;
}

static int
pg_item(void *obj, uint16_t tag, struct cursor *value)
{
	if (tag == TAG_BAD_PAGE)
		return get_bad_page(obj, value);
	return get_tablespace(obj, value);
}

/* A part while it is read: its root and its PostgreSQL part must come exactly once. */
struct part_reading {
	struct snapshot_part part; /* first, for the offsets of part_fields */
	bool has_root, has_pg;
};

static int
part_item(void *obj, uint16_t tag, struct cursor *value)
{
	struct part_reading *reading = obj;
	bool *has = tag == TAG_ROOT ? &reading->has_root : &reading->has_pg;
	int rc;

	if (*has)
		return err_set(ERR_DAMAGED, "the snapshot record has something twice in a part");
	*has = true;
	if (tag == TAG_PG)
		return record_get(&pg_layout, &reading->part.pg, value->data, value->len);
	rc = tree_entry_decode(&reading->part.root, value);
	if (rc)
		return rc;
	if (cursor_left(value) > 0)
		return err_set(
		    ERR_DAMAGED, "the snapshot record has a root that goes on after its end");
	if (reading->part.root.type != TREE_DIR)
		return err_set(ERR_DAMAGED, "the snapshot record has a root that is no directory");
	return 0;
}

static int
get_part(struct snapshot *s, struct cursor *value)
{
	struct part_reading reading;
	int rc;

	if (s->nparts == PARTS_MAX)
		return too_many("parts", PARTS_MAX);
	rc = record_grow(&s->parts, s->nparts, sizeof(*s->parts));
	if (rc)
		return rc;
	memset(&reading, 0, sizeof(reading));
	rc = record_get(&part_layout, &reading, value->data, value->len);
	if (rc == 0 && (!reading.has_root || !reading.has_pg))
		rc = err_set(ERR_DAMAGED, "the snapshot record has a part without its content");
	/* Taken over also after an error, to be released with the rest. */
	s->parts[s->nparts++] = reading.part;
	return rc;
}

static int
snapshot_item(void *obj, uint16_t tag, struct cursor *value)
{
	struct snapshot *s = obj;

	switch (tag) {
	case TAG_USER:
		return get_owner(&s->users, &s->nusers, value);
	case TAG_GROUP:
		return get_owner(&s->groups, &s->ngroups, value);
	default:
		return get_part(s, value);
	}
}

int
snapshot_decode(struct snapshot *s, const void *data, size_t len)
{
	int rc;

	memset(s, 0, sizeof(*s));
	rc = record_get(&snapshot_layout, s, data, len);
	if (rc == 0 && !name_ok(s->name))
		rc = err_set(ERR_DAMAGED, "the snapshot record has a malformed name");
	if (rc == 0 && s->nparts == 0)
		rc = err_set(ERR_DAMAGED, "the snapshot record has no parts");
	if (rc)
		snapshot_release(s);
	return rc;
}

/* ---- objects ---- */

void
snapshot_make_id(struct snapshot *s)
{
	for (int i = 0; i < 8; i++)
		s->id[i] = (uint8_t)((uint64_t)s->started_us >> (56 - 8 * i));
	random_bytes(s->id + 8, SNAPSHOT_ID_LEN - 8);
}

void
snapshot_object_name(const struct snapshot *s, char out[SNAPSHOT_OBJECT_MAX])
{
	char source[2 * SOURCE_ID_LEN + 1], id[2 * SNAPSHOT_ID_LEN + 1];

	hex_encode(source, s->source_id, SOURCE_ID_LEN);
	hex_encode(id, s->id, SNAPSHOT_ID_LEN);
	snprintf(out, SNAPSHOT_OBJECT_MAX, "snapshots/%s/%s", source, id);
}

int
snapshot_commit(struct repo_writer *w, const struct snapshot *s)
{
	char name[SNAPSHOT_OBJECT_MAX];
	struct bytes plain;
	int rc;

	bytes_init(&plain);
	snapshot_object_name(s, name);
	rc = snapshot_encode(&plain, s);
	if (rc == 0)
		rc = repo_writer_commit(w, name, plain.data, plain.len);
	bytes_release(&plain);
	return rc;
}
