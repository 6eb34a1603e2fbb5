/*
 * A source record (store/record.h), sealed as "sources/<id>/<generation>" under the repository's
 * own keys:
 *
 *   tag     name                value
 *   0x8001  id                  8 bytes
 *   0x8002  generation          1 up
 *   0x8003  name                1 to 63 bytes
 *   0x8004  kind                1 = PostgreSQL
 *   0x0005  connection string   at most 4096 bytes
 *   0x0006  system identifier   0 until the first backup
 *   0x8007  domain id           16 bytes
 *   0x0008  created             microseconds since 1970
 *   0x8009  removed             0 or 1
 *
 * Invariants: a generation is written once and never overwritten, the highest counts.  The one
 * before it is kept too: a listing that runs beside an update, and so misses the new object, finds
 * that one instead of none.  Names are unique, removed sources included, because a mount shows
 * sources by name.
 */
#include "store/source.h"

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/record.h"
#include "store/repo.h"
#include "store/sealed.h"
#include "store/secret.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX        "sources/"
#define OBJECT_MAX    (sizeof(PREFIX) + 2 * SOURCE_ID_LEN + 1 + 8)
#define CONNINFO_MAX  4096
#define SOURCES_MAX   100000
#define READ_ATTEMPTS 5

static const struct record_field fields[] = {
	RECORD_FIELD(0x8001, RECORD_FIXED, source, id, 0, 0),
	RECORD_FIELD(0x8002, RECORD_UINT, source, generation, 1, UINT32_MAX),
	RECORD_FIELD(0x8003, RECORD_CHARS, source, name, 1, 0),
	RECORD_FIELD(0x8004, RECORD_ENUM, source, kind, 1, SOURCE_PG),
	RECORD_FIELD(0x0005, RECORD_TEXT, source, conninfo, 0, CONNINFO_MAX),
	RECORD_FIELD(0x0006, RECORD_UINT, source, system_identifier, 0, UINT64_MAX),
	RECORD_FIELD(0x8007, RECORD_FIXED, source, domain_id, 0, 0),
	RECORD_FIELD(0x0008, RECORD_INT, source, created_us, 0, UINT64_MAX),
	RECORD_FIELD(0x8009, RECORD_BOOL, source, removed, 0, 1),
};

static const struct record_layout layout = {
	.what = "source record",
	.version = 1,
	.fields = fields,
	.nfields = sizeof(fields) / sizeof(fields[0]),
};

void
source_release(struct source *s)
{
	free(s->conninfo);
	memset(s, 0, sizeof(*s));
}

void
source_list_free(struct source *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		source_release(&list[i]);
	free(list);
}

static bool
name_ok(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz"
				      "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t n = strlen(name);

	return n >= 1 && n <= SOURCE_NAME_MAX && strspn(name, letters) == n &&
	       strchr("._-", name[0]) == NULL;
}

int
source_check_name(const char *name)
{
	if (name_ok(name))
		return 0;
	return err_set(ERR_USAGE,
	    "\"%.80s\" is not a source name: use 1 to %d letters, digits, '.', '_' and '-', and "
	    "begin with a letter or digit",
	    name, SOURCE_NAME_MAX);
}

int
source_encode(struct bytes *out, const struct source *s)
{
	int rc = source_check_name(s->name);

	if (rc == 0)
		rc = record_put(out, &layout, s);
	if (rc)
		return rc;
	record_end(out);
	return bytes_status(out);
}

int
source_decode(struct source *s, const void *data, size_t len)
{
	int rc;

	memset(s, 0, sizeof(*s));
	rc = record_get(&layout, s, data, len);
	/* The name becomes a directory's in the mount. */
	if (rc == 0 && !name_ok(s->name))
		rc = err_set(ERR_DAMAGED, "the source record has a malformed name");
	if (rc)
		source_release(s);
	return rc;
}

/* ---- finding them ---- */

static void
object_name(const uint8_t *id, uint32_t generation, char out[OBJECT_MAX])
{
	char hex[2 * SOURCE_ID_LEN + 1];

	hex_encode(hex, id, SOURCE_ID_LEN);
	snprintf(out, OBJECT_MAX, PREFIX "%s/%08" PRIx32, hex, generation);
}

/* The parts of an object's name; false if it is not a source's. */
static bool
parse_object_name(const char *name, uint8_t id[SOURCE_ID_LEN], uint32_t *generation)
{
	char hex[2 * SOURCE_ID_LEN + 1];
	uint8_t be[4];

	if (strlen(name) != OBJECT_MAX - 1 || strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return false;
	memcpy(hex, name + strlen(PREFIX), sizeof(hex) - 1);
	hex[sizeof(hex) - 1] = '\0';
	if (hex_decode(id, hex, SOURCE_ID_LEN) || name[strlen(PREFIX) + sizeof(hex) - 1] != '/' ||
	    hex_decode(be, name + strlen(PREFIX) + sizeof(hex), sizeof(be)))
		return false;
	*generation = (uint32_t)be[0] << 24 | (uint32_t)be[1] << 16 | (uint32_t)be[2] << 8 | be[3];
	return true;
}

struct found {
	struct found_source {
		uint8_t id[SOURCE_ID_LEN];
		uint32_t generation; /* the highest */
	} *list;
	size_t n;
};

static int
note_object(void *ctx, const char *name, const struct object_info *info)
{
	struct found *found = ctx;
	uint8_t id[SOURCE_ID_LEN];
	uint32_t generation;
	int rc;

	(void)info;
	if (!parse_object_name(name, id, &generation))
		return 0;
	for (size_t i = 0; i < found->n; i++) {
		if (memcmp(found->list[i].id, id, SOURCE_ID_LEN) != 0)
			continue;
		if (generation > found->list[i].generation)
			found->list[i].generation = generation;
		return 0;
	}
	if (found->n == SOURCES_MAX)
		return err_set(
		    ERR_UNSUPPORTED, "the repository has more than %d sources", SOURCES_MAX);
	rc = record_grow(&found->list, found->n, sizeof(*found->list));
	if (rc)
		return rc;
	memcpy(found->list[found->n].id, id, SOURCE_ID_LEN);
	found->list[found->n++].generation = generation;
	return 0;
}

/* Read one generation; ERR_NOTFOUND when it was replaced meanwhile. */
static int
read_generation(struct repo_reader *r, const struct found_source *f, struct source *out)
{
	char name[OBJECT_MAX];
	void *plain = NULL;
	size_t len;
	int rc;

	object_name(f->id, f->generation, name);
	rc = repo_reader_object(r, SEALED_SOURCE, name, &plain, &len);
	if (rc == 0)
		rc = source_decode(out, plain, len);
	free(plain);
	if (rc == ERR_NOTFOUND)
		return rc;
	if (rc)
		return err_prefix(rc, "cannot read source %s", name);
	if (memcmp(out->id, f->id, SOURCE_ID_LEN) != 0 || out->generation != f->generation) {
		source_release(out);
		return err_set(ERR_DAMAGED, "the source record %s is another one's", name);
	}
	return 0;
}

static int
by_name(const void *a, const void *b)
{
	const struct source *s = a, *t = b;
	int order = strcmp(s->name, t->name);

	return order ? order : memcmp(s->id, t->id, SOURCE_ID_LEN);
}

/*
 * Every source that can be read, by name.  What cannot be read is counted in *damaged, its message
 * kept in *why; without `damaged` it ends the listing.
 */
static int
read_all(
    struct repo_reader *r, struct source **list, size_t *n, size_t *damaged, struct err_saved *why)
{
	struct found found = { 0 };
	struct source *all = NULL;
	size_t nall = 0;
	int rc;

	rc = backend_list(repo_reader_backend(r), PREFIX, note_object, &found);
	if (rc)
		goto out;
	all = mem_calloc(found.n, sizeof(*all));
	if (!all) {
		rc = err_nomem();
		goto out;
	}
	for (size_t i = 0; i < found.n; i++) {
		rc = read_generation(r, &found.list[i], &all[nall]);
		if (rc == 0) {
			nall++;
			continue;
		}
		if (!damaged || (rc != ERR_DAMAGED && rc != ERR_UNSUPPORTED))
			goto out;
		++*damaged;
		err_save(why, rc);
		rc = 0;
	}
	if (nall > 1)
		qsort(all, nall, sizeof(*all), by_name);
	*list = all;
	*n = nall;
	all = NULL;
out:
	free(found.list);
	if (all)
		source_list_free(all, nall);
	return rc;
}

/* An update between the listing and the read deletes what was listed: then look again. */
static int
read_all_steady(
    struct repo_reader *r, struct source **list, size_t *n, size_t *damaged, struct err_saved *why)
{
	int rc = ERR_NOTFOUND;

	*list = NULL;
	*n = 0;
	for (int i = 0; i < READ_ATTEMPTS && rc == ERR_NOTFOUND; i++) {
		if (damaged)
			*damaged = 0;
		rc = read_all(r, list, n, damaged, why);
	}
	return rc;
}

int
source_list(struct repo_reader *r, struct source **list, size_t *n)
{
	return read_all_steady(r, list, n, NULL, NULL);
}

static int
not_found(const char *name, const struct source *list, size_t n)
{
	char names[512];
	size_t used = 0;

	names[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		if (list[i].removed)
			continue;
		/* Whole names only, as many as a message can hold. */
		if (used > sizeof(names) - SOURCE_NAME_MAX - 8) {
			snprintf(names + used, sizeof(names) - used, ", ...");
			break;
		}
		used += (size_t)snprintf(
		    names + used, sizeof(names) - used, "%s%s", used ? ", " : "", list[i].name);
	}
	if (used == 0)
		return err_set(ERR_NOTFOUND,
		    "there is no source \"%.80s\", and no other one; add it with: pastfs source "
		    "add %.80s --pg 'CONNECTION'",
		    name, name);
	return err_set(ERR_NOTFOUND,
	    "there is no source \"%.80s\"; there are: %s.  Name one of these, or add it with: "
	    "pastfs source add %.80s --pg 'CONNECTION'",
	    name, names, name);
}

int
source_find(struct repo_reader *r, const char *name, bool removed_too, struct source *out)
{
	struct source *list = NULL;
	struct err_saved why;
	size_t n = 0, damaged = 0;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = read_all_steady(r, &list, &n, &damaged, &why);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i].name, name) != 0 || (list[i].removed && !removed_too))
			continue;
		*out = list[i];
		list[i].conninfo = NULL;
		goto out;
	}
	/* It may be the one that could not be read. */
	if (damaged > 0)
		rc = err_restore(&why);
	else
		rc = not_found(name, list, n);
out:
	source_list_free(list, n);
	return rc;
}

/* ---- changing them ---- */

static int
put(struct repo_admin *a, const struct source *s)
{
	char name[OBJECT_MAX];
	struct bytes plain;
	int rc;

	bytes_init(&plain);
	object_name(s->id, s->generation, name);
	rc = source_encode(&plain, s);
	if (rc == 0)
		rc = repo_admin_put(a, SEALED_SOURCE, name, plain.data, plain.len);
	bytes_release(&plain);
	return rc;
}

/* Delete generation `generation`; what remains after a fault is superseded and harms nobody. */
static void
forget(struct repo_admin *a, const uint8_t *id, uint32_t generation)
{
	char name[OBJECT_MAX];

	object_name(id, generation, name);
	(void)repo_admin_delete(a, name);
}

/* ERR_EXISTS if another source than `s` has its name. */
static int
check_unique(struct repo_admin *a, const struct source *s)
{
	struct source *list = NULL;
	size_t n = 0;
	int rc;

	rc = source_list(repo_admin_reader(a), &list, &n);
	if (rc)
		return rc;
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (strcmp(list[i].name, s->name) != 0 ||
		    memcmp(list[i].id, s->id, SOURCE_ID_LEN) == 0)
			continue;
		if (list[i].removed)
			rc = err_set(ERR_EXISTS,
			    "the removed source \"%s\" still has that name, so that its snapshots "
			    "can be found; choose another name",
			    s->name);
		else
			rc = err_set(ERR_EXISTS,
			    "there is a source \"%s\" already; choose another name, or see it "
			    "with: pastfs source show %s",
			    s->name, s->name);
	}
	source_list_free(list, n);
	return rc;
}

int
source_add(struct repo_admin *a, struct source *s)
{
	int rc;

	rc = source_check_name(s->name);
	if (rc)
		return rc;
	random_bytes(s->id, SOURCE_ID_LEN);
	s->generation = 1;
	s->created_us = utc_now_us();
	rc = check_unique(a, s);
	if (rc)
		return rc;
	rc = put(a, s);
	if (rc == 1)
		rc = err_set(ERR_FAIL, "a new source got an id that is taken; try again");
	if (rc)
		return rc;
	/*
	 * Two may have added one name at the same moment.  Each looks once more after its put, so
	 * at least one sees the other, and whoever does steps back.
	 */
	rc = check_unique(a, s);
	if (rc)
		forget(a, s->id, s->generation);
	return rc;
}

struct newest {
	const uint8_t *id;
	uint32_t generation;
	uint32_t older[64]; /* some of those before `keep`, to delete */
	size_t nolder;
	uint32_t keep; /* generations below it are not needed */
};

static int
note_generation(void *ctx, const char *name, const struct object_info *info)
{
	struct newest *newest = ctx;
	uint8_t id[SOURCE_ID_LEN];
	uint32_t generation;

	(void)info;
	if (!parse_object_name(name, id, &generation) || memcmp(id, newest->id, SOURCE_ID_LEN) != 0)
		return 0;
	if (generation > newest->generation)
		newest->generation = generation;
	if (generation < newest->keep &&
	    newest->nolder < sizeof(newest->older) / sizeof(newest->older[0]))
		newest->older[newest->nolder++] = generation;
	return 0;
}

static int
find_newest(struct repo_admin *a, struct newest *newest)
{
	char prefix[OBJECT_MAX];
	char hex[2 * SOURCE_ID_LEN + 1];

	hex_encode(hex, newest->id, SOURCE_ID_LEN);
	snprintf(prefix, sizeof(prefix), PREFIX "%s/", hex);
	return backend_list(
	    repo_reader_backend(repo_admin_reader(a)), prefix, note_generation, newest);
}

static int
changed_by_other(const struct source *s)
{
	return err_set(ERR_BUSY,
	    "source \"%s\" was changed by somebody else at the same time; look at it and try again",
	    s->name);
}

int
source_update(struct repo_admin *a, struct source *s)
{
	struct newest newest = { .id = s->id };
	uint32_t before = s->generation;
	int rc;

	rc = find_newest(a, &newest);
	if (rc)
		return rc;
	if (newest.generation != before)
		return changed_by_other(s);
	if (before == UINT32_MAX)
		return err_set(ERR_UNSUPPORTED, "source \"%s\" was changed too often", s->name);
	s->generation = before + 1;
	rc = put(a, s);
	if (rc) {
		s->generation = before;
		return rc == 1 ? changed_by_other(s) : rc;
	}
	/*
	 * The number may have been free because later generations had replaced it and it was
	 * deleted.  The highest is never deleted, so a second look tells for certain.
	 */
	newest = (struct newest){ .id = s->id, .keep = before };
	rc = find_newest(a, &newest);
	if (rc == 0 && newest.generation != s->generation) {
		forget(a, s->id, s->generation);
		s->generation = before;
		return changed_by_other(s);
	}
	if (rc)
		return err_prefix(
		    rc, "source \"%s\" was changed, but cannot be looked at", s->name);
	for (size_t i = 0; i < newest.nolder; i++)
		forget(a, s->id, newest.older[i]);
	return 0;
}
