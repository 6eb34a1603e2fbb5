/*
 * Listing a source's snapshots, and finding the one that a person means.
 *
 * A record that cannot be read is never passed over in silence: it is counted, and where it could
 * have been the answer the search fails.
 */
#include "store/snapshot.h"

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/record.h"
#include "store/sealed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_MIN 4

/* The name of one snapshot's object. */
static void
object_name(const uint8_t *source_id, const uint8_t *id, char out[SNAPSHOT_OBJECT_MAX])
{
	struct snapshot key;

	memcpy(key.source_id, source_id, SOURCE_ID_LEN);
	memcpy(key.id, id, SNAPSHOT_ID_LEN);
	snapshot_object_name(&key, out);
}

/* What the names of all of a source's begin with. */
static void
make_prefix(const uint8_t *source_id, char out[SNAPSHOT_OBJECT_MAX])
{
	static const uint8_t any[SNAPSHOT_ID_LEN];

	object_name(source_id, any, out);
	out[strlen(out) - 2 * SNAPSHOT_ID_LEN] = '\0';
}

struct ids {
	uint8_t (*list)[SNAPSHOT_ID_LEN];
	size_t n;
	size_t prefix_len;
};

static int
note_id(void *ctx, const char *name, const struct object_info *info)
{
	struct ids *ids = ctx;
	uint8_t id[SNAPSHOT_ID_LEN];
	int rc;

	(void)info;
	if (strlen(name) < ids->prefix_len || hex_decode(id, name + ids->prefix_len, sizeof(id)))
		return 0;
	rc = record_grow(&ids->list, ids->n, sizeof(*ids->list));
	if (rc)
		return rc;
	memcpy(ids->list[ids->n++], id, sizeof(id));
	return 0;
}

static int
read_one(struct repo_reader *r, const uint8_t *source_id, const uint8_t *id, struct snapshot *out)
{
	char name[SNAPSHOT_OBJECT_MAX];
	void *plain = NULL;
	size_t len;
	int rc;

	object_name(source_id, id, name);
	rc = repo_reader_object(r, SEALED_SNAPSHOT, name, &plain, &len);
	if (rc == 0)
		rc = snapshot_decode(out, plain, len);
	free(plain);
	if (rc)
		return err_prefix(rc, "cannot read %s", name);
	if (memcmp(out->source_id, source_id, SOURCE_ID_LEN) != 0 ||
	    memcmp(out->id, id, SNAPSHOT_ID_LEN) != 0) {
		snapshot_release(out);
		return err_set(ERR_DAMAGED, "the snapshot record %s is another one's", name);
	}
	return 0;
}

/* Whether the object is gone, rather than something that it needs. */
static bool
deleted_meanwhile(struct repo_reader *r, const uint8_t *source_id, const uint8_t *id)
{
	struct object_info info;
	char name[SNAPSHOT_OBJECT_MAX];

	object_name(source_id, id, name);
	return backend_stat(repo_reader_backend(r), name, &info) == ERR_NOTFOUND;
}

static int
by_time(const void *a, const void *b)
{
	const struct snapshot *s = a, *t = b;

	if (s->time_us != t->time_us)
		return s->time_us < t->time_us ? -1 : 1;
	return memcmp(s->id, t->id, SNAPSHOT_ID_LEN);
}

/* What could not be read: how many, the newest of them, and why. */
struct unreadable {
	size_t n;
	uint8_t newest[SNAPSHOT_ID_LEN];
	struct err_saved why;
};

/*
 * Read the snapshots whose hexadecimal id begins with `beginning`, oldest first.  Without `bad`
 * the first one that cannot be read ends it.
 */
static int
read_all(struct repo_reader *r, const uint8_t *source_id, const char *beginning,
    struct snapshot **list, size_t *n, struct unreadable *bad)
{
	char prefix[SNAPSHOT_OBJECT_MAX], hex[2 * SNAPSHOT_ID_LEN + 1];
	struct ids ids = { 0 };
	struct snapshot *all = NULL;
	size_t nall = 0;
	int rc;

	*list = NULL;
	*n = 0;
	make_prefix(source_id, prefix);
	ids.prefix_len = strlen(prefix);
	rc = backend_list(repo_reader_backend(r), prefix, note_id, &ids);
	if (rc)
		goto out;
	all = mem_calloc(ids.n, sizeof(*all));
	if (!all) {
		rc = err_nomem();
		goto out;
	}
	for (size_t i = 0; i < ids.n; i++) {
		hex_encode(hex, ids.list[i], SNAPSHOT_ID_LEN);
		if (strncmp(hex, beginning, strlen(beginning)) != 0)
			continue;
		rc = read_one(r, source_id, ids.list[i], &all[nall]);
		if (rc == 0) {
			nall++;
			continue;
		}
		if (rc == ERR_NOMEM || rc == ERR_CANCELLED)
			goto out;
		struct err_saved why;

		err_save(&why, rc);
		if (rc == ERR_NOTFOUND && deleted_meanwhile(r, source_id, ids.list[i])) {
			rc = 0;
			continue;
		}
		rc = err_restore(&why);
		if (!bad)
			goto out;
		if (bad->n++ == 0 || memcmp(bad->newest, ids.list[i], SNAPSHOT_ID_LEN) < 0)
			memcpy(bad->newest, ids.list[i], SNAPSHOT_ID_LEN);
		bad->why = why;
		rc = 0;
	}
	if (nall > 1)
		qsort(all, nall, sizeof(*all), by_time);
	*list = all;
	*n = nall;
	all = NULL;
out:
	free(ids.list);
	if (all)
		snapshot_list_free(all, nall);
	return rc;
}

int
snapshot_list(struct repo_reader *r, const uint8_t source_id[SOURCE_ID_LEN], struct snapshot **list,
    size_t *n, size_t *damaged)
{
	struct unreadable bad = { 0 };
	int rc;

	rc = read_all(r, source_id, "", list, n, damaged ? &bad : NULL);
	if (damaged) {
		*damaged = bad.n;
		/* Leave its message as the thread's last one, as the contract says. */
		if (rc == 0 && bad.n > 0)
			(void)err_restore(&bad.why);
	}
	return rc;
}

void
snapshot_list_free(struct snapshot *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		snapshot_release(&list[i]);
	free(list);
}

/* ---- resolving ---- */

#define FORMS "say latest, snap:ID, or a snapshot's time such as 2026-11-20T02:00:00Z"

/* Everything a search works with. */
struct search {
	const struct source *source;
	const char *when;
	struct snapshot *list;
	size_t n;
	struct unreadable bad;
};

static int
none_yet(const struct search *s)
{
	if (s->bad.n > 0)
		return err_set(ERR_DAMAGED,
		    "none of the %zu snapshot records looked at in source \"%s\" can be read "
		    "(%.300s); run: pastfs check",
		    s->bad.n, s->source->name, s->bad.why.msg);
	return err_set(ERR_NOTFOUND,
	    "source \"%s\" has no snapshot yet; make one with: pastfs backup %s", s->source->name,
	    s->source->name);
}

/* A sentence's end that tells of records that could not be searched. */
static void
tell_unreadable(const struct search *s, char *out, size_t size)
{
	out[0] = '\0';
	if (s->bad.n > 0)
		snprintf(out, size, " (%zu snapshot records cannot be read; run: pastfs check)",
		    s->bad.n);
}

static int
find_latest(const struct search *s, size_t *found)
{
	const struct snapshot *last;

	if (s->n == 0)
		return none_yet(s);
	last = &s->list[s->n - 1];
	/*
	 * Ids begin with the start time, so a damaged record still tells its age.  To hand out an
	 * older snapshot as the latest one would be a wrong answer given silently.
	 */
	if (s->bad.n > 0 && memcmp(s->bad.newest, last->id, SNAPSHOT_ID_LEN) > 0)
		return err_set(ERR_DAMAGED,
		    "the newest snapshot of source \"%s\" cannot be read (%.300s); run: pastfs "
		    "check, or name the newest readable one: %s",
		    s->source->name, s->bad.why.msg, last->name);
	*found = s->n - 1;
	return 0;
}

static int
find_id(const struct search *s, const char *beginning, size_t *found)
{
	if (s->n == 1 && s->bad.n == 0) {
		*found = 0;
		return 0;
	}
	if (s->n + s->bad.n > 1)
		return err_set(ERR_USAGE,
		    "%zu snapshots of source \"%s\" have ids that begin with %.40s; give more "
		    "digits",
		    s->n + s->bad.n, s->source->name, beginning);
	if (s->bad.n > 0)
		return err_restore(&s->bad.why);
	return err_set(ERR_NOTFOUND,
	    "source \"%s\" has no snapshot whose id begins with %.40s; list them with: pastfs "
	    "snapshots %s",
	    s->source->name, beginning, s->source->name);
}

static int
no_such_time(const struct search *s, int64_t us)
{
	char text[UTC_TEXT_MAX], more[80];
	const struct snapshot *before = NULL, *after = NULL;

	for (size_t i = 0; i < s->n; i++) {
		if (s->list[i].time_us < us)
			before = &s->list[i];
		else if (!after)
			after = &s->list[i];
	}
	utc_format(us, text);
	tell_unreadable(s, more, sizeof(more));
	if (before && after)
		return err_set(ERR_NOTFOUND,
		    "source \"%s\" has no snapshot at %s; the nearest are %s and %s%s",
		    s->source->name, text, before->name, after->name, more);
	return err_set(ERR_NOTFOUND, "source \"%s\" has no snapshot at %s; the %s is %s%s",
	    s->source->name, text, before ? "last" : "first", (before ? before : after)->name,
	    more);
}

static int
find_time(const struct search *s, int64_t us, size_t *found)
{
	size_t in_second = 0;

	for (size_t i = 0; i < s->n; i++) {
		if (s->list[i].time_us != us && strcmp(s->list[i].name, s->when) != 0)
			continue;
		*found = i;
		return 0;
	}
	/* A whole second stands for the one snapshot in it, since names may have a fraction. */
	if (strchr(s->when, '.'))
		return no_such_time(s, us);
	for (size_t i = 0; i < s->n; i++) {
		if (s->list[i].time_us < us || s->list[i].time_us - us >= 1000000)
			continue;
		*found = i;
		in_second++;
	}
	if (in_second == 1)
		return 0;
	return no_such_time(s, us);
}

static bool
looks_like_date(const char *when)
{
	static const char shape[] = "dddd-dd-dd";

	for (size_t i = 0; shape[i]; i++) {
		bool digit = when[i] >= '0' && when[i] <= '9';

		if (shape[i] == 'd' ? !digit : when[i] != shape[i])
			return false;
	}
	return true;
}

/* What `when` is, before anything is read; *us is set for a time that can be parsed. */
enum form {
	FORM_LATEST,
	FORM_ID,
	FORM_TIME,
};

static int
parse_form(const char *when, int32_t default_offset_s, enum form *form, int64_t *us)
{
	const char *id = when + 5;
	size_t n;
	int rc;

	if (strcmp(when, "latest") == 0) {
		*form = FORM_LATEST;
		return 0;
	}
	if (strncmp(when, "snap:", 5) == 0) {
		*form = FORM_ID;
		n = strlen(id);
		if (n < PREFIX_MIN || n > 2 * SNAPSHOT_ID_LEN ||
		    strspn(id, "0123456789abcdef") != n)
			return err_set(ERR_USAGE,
			    "\"%.80s\" does not name a snapshot: after snap: come %d to %d digits "
			    "of its id (0-9, a-f)",
			    when, PREFIX_MIN, 2 * SNAPSHOT_ID_LEN);
		return 0;
	}
	*form = FORM_TIME;
	if (!looks_like_date(when))
		return err_set(ERR_USAGE, "\"%.80s\" does not name a snapshot: " FORMS, when);
	rc = utc_parse(when, default_offset_s, us);
	return rc ? err_prefix(rc, "\"%.80s\" does not name a snapshot", when) : 0;
}

int
snapshot_resolve(struct repo_reader *r, const struct source *source, const char *when,
    int32_t default_offset_s, struct snapshot *out)
{
	struct search s = { .source = source, .when = when };
	enum form form;
	size_t found = 0;
	int64_t us = 0;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = parse_form(when, default_offset_s, &form, &us);
	if (rc)
		return rc;
	rc = read_all(r, source->id, form == FORM_ID ? when + 5 : "", &s.list, &s.n, &s.bad);
	if (rc)
		return rc;
	if (form == FORM_ID)
		rc = find_id(&s, when + 5, &found);
	else if (form == FORM_LATEST)
		rc = find_latest(&s, &found);
	else if (s.n == 0)
		rc = none_yet(&s);
	else
		rc = find_time(&s, us, &found);
	if (rc == 0) {
		*out = s.list[found];
		memset(&s.list[found], 0, sizeof(s.list[found]));
	}
	snapshot_list_free(s.list, s.n);
	return rc;
}
