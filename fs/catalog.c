#include "fs/catalog.h"

#include "fs/notice.h"

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/repo.h"
#include "store/sealed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SHORT_ID_BYTES 4 /* of an id behind a dot */

/* A growing list of object names. */
struct names {
	char **v;
	size_t n, cap;
};

/* A snapshot object that cannot be used, so that it is not opened every second. */
struct unusable {
	char name[SNAPSHOT_OBJECT_MAX];
};

struct catalog {
	struct repo_reader *reader;
	struct notices *notices;
	int64_t max_age_ms;
	pthread_mutex_t lock; /* protects edition, checked_ms, refreshing */
	struct catalog_edition *edition;
	int64_t checked_ms;
	bool refreshing;
	/* Used by the one thread that refreshes. */
	struct names source_names; /* the objects that `sources` was read from */
	struct source *sources;
	size_t nsources;
	struct unusable *unusable;
	size_t nunusable;
};

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- snapshots and editions ---- */

struct catalog_snapshot *
catalog_snapshot_take(struct catalog_snapshot *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void
catalog_snapshot_put(struct catalog_snapshot *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
		return;
	for (size_t i = 0; i < s->nparts; i++) {
		free(s->parts[i].name);
		tree_entry_release(&s->parts[i].root);
	}
	free(s->parts);
	free(s);
}

void
catalog_edition_put(struct catalog_edition *e)
{
	if (!e || atomic_fetch_sub(&e->refs, 1) != 1)
		return;
	for (size_t i = 0; i < e->nsources; i++) {
		for (size_t k = 0; k < e->sources[i].nsnapshots; k++)
			catalog_snapshot_put(e->sources[i].snapshots[k]);
		free(e->sources[i].snapshots);
	}
	free(e->sources);
	free(e);
}

static const struct catalog_source *
source_by_id(const struct catalog_edition *e, const uint8_t id[SOURCE_ID_LEN])
{
	for (size_t i = 0; e && i < e->nsources; i++)
		if (memcmp(e->sources[i].id, id, SOURCE_ID_LEN) == 0)
			return &e->sources[i];
	return NULL;
}

const struct catalog_source *
catalog_find_source(const struct catalog_edition *e, const char *name)
{
	for (size_t i = 0; i < e->nsources; i++)
		if (strcmp(e->sources[i].name, name) == 0)
			return &e->sources[i];
	return NULL;
}

struct catalog_snapshot *
catalog_find_snapshot(const struct catalog_source *s, const char *name)
{
	for (size_t i = 0; i < s->nsnapshots; i++)
		if (strcmp(s->snapshots[i]->name, name) == 0)
			return s->snapshots[i];
	return NULL;
}

/* ---- listing ---- */

static void
names_release(struct names *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct names){ 0 };
}

static int
names_add(void *ctx, const char *name, const struct object_info *info)
{
	struct names *l = ctx;

	(void)info;
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		char **v = mem_realloc(l->v, cap * sizeof(*v));

		if (!v)
			return err_nomem();
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = mem_strdup(name);
	if (!l->v[l->n])
		return err_nomem();
	l->n++;
	return 0;
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int
names_list(struct catalog *c, const char *prefix, struct names *l)
{
	int rc = backend_list(repo_reader_backend(c->reader), prefix, names_add, l);

	if (!rc && l->n)
		qsort(l->v, l->n, sizeof(*l->v), by_text);
	return rc;
}

static bool
names_equal(const struct names *a, const struct names *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i], b->v[i]) != 0)
			return false;
	return true;
}

/* Read the sources again if an object came or went; true if so. */
static bool
refresh_sources(struct catalog *c)
{
	struct names names = { 0 };
	struct source *list = NULL;
	size_t n = 0;
	int rc = names_list(c, "sources/", &names);

	if (!rc && names_equal(&names, &c->source_names)) {
		names_release(&names);
		return false;
	}
	if (!rc)
		rc = source_list(c->reader, &list, &n);
	/* Without the sources' records their snapshots are still shown, by the name in them. */
	if (rc) {
		notice_once(c->notices, NULL, "cannot read the list of sources: %s", err_msg());
		names_release(&names);
		return false;
	}
	names_release(&c->source_names);
	source_list_free(c->sources, c->nsources);
	c->source_names = names;
	c->sources = list;
	c->nsources = n;
	return true;
}

/* ---- opening a snapshot ---- */

static bool
good_name(const char *name)
{
	return name && *name && strlen(name) <= CATALOG_NAME_MAX && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int
check_snapshot(const struct snapshot *s, const char *object)
{
	char expected[SNAPSHOT_OBJECT_MAX];

	snapshot_object_name(s, expected);
	if (strcmp(expected, object) != 0)
		return err_set(ERR_DAMAGED, "the record says it is %s", expected);
	if (!good_name(s->name) || strcmp(s->name, CATALOG_LATEST_NAME) == 0)
		return err_set(ERR_DAMAGED, "its name cannot be a directory's");
	if (source_check_name(s->source_name))
		return ERR_DAMAGED;
	if (s->nparts == 0)
		return err_set(ERR_DAMAGED, "it has no parts");
	for (size_t i = 0; i < s->nparts; i++) {
		if (s->parts[i].root.type != TREE_DIR)
			return err_set(ERR_DAMAGED, "a part of it is not a directory");
		if (s->nparts > 1 && !good_name(s->parts[i].name))
			return err_set(
			    ERR_DAMAGED, "a part of it has a name no directory can have");
	}
	return 0;
}

/* Keep of the record what a mount needs. */
static int
keep_snapshot(const struct snapshot *s, struct catalog_snapshot **out)
{
	struct catalog_snapshot *k = mem_alloc(sizeof(*k));
	int rc = 0;

	if (!k)
		return err_nomem();
	atomic_init(&k->refs, 1);
	memcpy(k->id, s->id, sizeof(k->id));
	memcpy(k->source_id, s->source_id, sizeof(k->source_id));
	snprintf(k->source_name, sizeof(k->source_name), "%s", s->source_name);
	snprintf(k->name, sizeof(k->name), "%s", s->name);
	k->time_us = s->time_us;
	k->files = s->files;
	k->parts = mem_calloc(s->nparts, sizeof(*k->parts));
	if (!k->parts) {
		rc = err_nomem();
		goto out;
	}
	for (; k->nparts < s->nparts; k->nparts++) {
		const struct snapshot_part *from = &s->parts[k->nparts];
		struct catalog_part *to = &k->parts[k->nparts];

		to->name = mem_strdup(from->name ? from->name : "");
		if (!to->name) {
			rc = err_nomem();
			goto out;
		}
		rc = tree_entry_copy(&to->root, &from->root);
		if (rc) {
			free(to->name);
			goto out;
		}
	}
	*out = k;
	k = NULL;
out:
	catalog_snapshot_put(k);
	return rc;
}

static int
open_snapshot(struct catalog *c, const char *object, struct catalog_snapshot **out)
{
	struct snapshot s;
	void *plain = NULL;
	size_t len = 0;
	int rc;

	*out = NULL;
	memset(&s, 0, sizeof(s));
	rc = repo_reader_object(c->reader, SEALED_SNAPSHOT, object, &plain, &len);
	if (rc)
		return rc;
	rc = snapshot_decode(&s, plain, len);
	free(plain);
	if (rc)
		return rc;
	rc = check_snapshot(&s, object);
	if (!rc)
		rc = keep_snapshot(&s, out);
	snapshot_release(&s);
	return rc;
}

static bool
is_unusable(const struct catalog *c, const char *object)
{
	for (size_t i = 0; i < c->nunusable; i++)
		if (strcmp(c->unusable[i].name, object) == 0)
			return true;
	return false;
}

/* What is damaged stays so; anything else may pass, so it is tried again. */
static void
note_unusable(struct catalog *c, const char *object, int rc)
{
	struct unusable *grown;

	notice_once(
	    c->notices, object, "snapshot %s is left out of the mount: %s", object, err_msg());
	if (rc != ERR_DAMAGED && rc != ERR_UNSUPPORTED)
		return;
	grown = mem_realloc(c->unusable, (c->nunusable + 1) * sizeof(*grown));
	if (!grown)
		return;
	c->unusable = grown;
	snprintf(grown[c->nunusable++].name, sizeof(grown->name), "%s", object);
}

/* The ids in "snapshots/<source id>/<snapshot id>". */
static bool
parse_object(const char *object, uint8_t source_id[SOURCE_ID_LEN], uint8_t id[SNAPSHOT_ID_LEN])
{
	static const char prefix[] = "snapshots/";
	const char *p = object + sizeof(prefix) - 1;
	char hex[2 * SOURCE_ID_LEN + 1];

	if (strncmp(object, prefix, sizeof(prefix) - 1) != 0 || strlen(p) <= 2 * SOURCE_ID_LEN)
		return false;
	memcpy(hex, p, 2 * SOURCE_ID_LEN);
	hex[2 * SOURCE_ID_LEN] = 0;
	p += 2 * SOURCE_ID_LEN;
	return *p == '/' && !hex_decode(source_id, hex, SOURCE_ID_LEN) &&
	       !hex_decode(id, p + 1, SNAPSHOT_ID_LEN);
}

static struct catalog_snapshot *
known_snapshot(const struct catalog_edition *e, const uint8_t source_id[SOURCE_ID_LEN],
    const uint8_t id[SNAPSHOT_ID_LEN])
{
	const struct catalog_source *s = source_by_id(e, source_id);

	for (size_t i = 0; s && i < s->nsnapshots; i++)
		if (memcmp(s->snapshots[i]->id, id, SNAPSHOT_ID_LEN) == 0)
			return s->snapshots[i];
	return NULL;
}

/* ---- a new edition ---- */

static struct catalog_source *
edition_add_source(struct catalog_edition *e, const uint8_t id[SOURCE_ID_LEN], const char *name)
{
	struct catalog_source *grown, *s;

	grown = mem_realloc(e->sources, (e->nsources + 1) * sizeof(*grown));
	if (!grown)
		return NULL;
	e->sources = grown;
	s = &grown[e->nsources];
	memset(s, 0, sizeof(*s));
	memcpy(s->id, id, SOURCE_ID_LEN);
	snprintf(s->name, sizeof(s->name), "%s", name);
	e->nsources++;
	return s;
}

static int
edition_add_snapshot(struct catalog_edition *e, struct catalog_snapshot *snap)
{
	struct catalog_source *s = (struct catalog_source *)source_by_id(e, snap->source_id);
	struct catalog_snapshot **grown;

	if (!s)
		s = edition_add_source(e, snap->source_id, snap->source_name);
	if (!s)
		return err_nomem();
	grown = mem_realloc(s->snapshots, (s->nsnapshots + 1) * sizeof(struct catalog_snapshot *));
	if (!grown)
		return err_nomem();
	s->snapshots = grown;
	grown[s->nsnapshots++] = catalog_snapshot_take(snap);
	e->files += snap->files;
	return 0;
}

static void
append_id(char name[CATALOG_NAME_MAX + 1], const uint8_t *id)
{
	char hex[2 * SHORT_ID_BYTES + 1];
	size_t len = strlen(name), room = CATALOG_NAME_MAX - sizeof(hex);

	hex_encode(hex, id, SHORT_ID_BYTES);
	len = len < room ? len : room;
	snprintf(name + len, CATALOG_NAME_MAX + 1 - len, ".%s", hex);
}

static int
snapshot_by_time(const void *pa, const void *pb)
{
	const struct catalog_snapshot *a = *(struct catalog_snapshot *const *)pa;
	const struct catalog_snapshot *b = *(struct catalog_snapshot *const *)pb;

	if (a->time_us != b->time_us)
		return a->time_us < b->time_us ? -1 : 1;
	return memcmp(a->id, b->id, SNAPSHOT_ID_LEN);
}

static int
source_by_name(const void *pa, const void *pb)
{
	const struct catalog_source *a = pa, *b = pb;
	int order = strcmp(a->name, b->name);

	return order ? order : memcmp(a->id, b->id, SOURCE_ID_LEN);
}

/* Whether the catalogue knows a source that is still to be backed up. */
static bool
configured(const struct catalog *c, const uint8_t id[SOURCE_ID_LEN])
{
	for (size_t i = 0; i < c->nsources; i++)
		if (memcmp(c->sources[i].id, id, SOURCE_ID_LEN) == 0)
			return !c->sources[i].removed;
	return false;
}

/* Drop removed sources without snapshots, and put everything in order. */
static void
edition_arrange(struct catalog *c, struct catalog_edition *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < e->nsources; i++) {
		struct catalog_source *s = &e->sources[i];

		if (s->nsnapshots == 0 && !configured(c, s->id))
			continue;
		if (s->nsnapshots) {
			qsort(s->snapshots, s->nsnapshots, sizeof(*s->snapshots), snapshot_by_time);
			s->newest_us = s->snapshots[s->nsnapshots - 1]->time_us;
		}
		if (s->newest_us > e->newest_us)
			e->newest_us = s->newest_us;
		e->sources[kept++] = *s;
	}
	e->nsources = kept;
	/* A name belongs to the source that is backed up under it now. */
	for (size_t i = 0; i < kept; i++)
		for (size_t k = 0; k < kept; k++)
			if (k != i && strcmp(e->sources[i].name, e->sources[k].name) == 0 &&
			    (!configured(c, e->sources[i].id) ||
				(configured(c, e->sources[k].id) && i > k)))
				append_id(e->sources[i].name, e->sources[i].id);
	if (kept)
		qsort(e->sources, kept, sizeof(*e->sources), source_by_name);
}

/* A snapshot just opened may have the name of another; its own is not shared with anyone yet. */
static void
make_unique(const struct catalog_edition *e, const struct catalog_edition *old,
    struct catalog_snapshot *snap)
{
	const struct catalog_source *s = source_by_id(e, snap->source_id);
	const struct catalog_source *was = source_by_id(old, snap->source_id);

	if ((s && catalog_find_snapshot(s, snap->name)) ||
	    (was && catalog_find_snapshot(was, snap->name)))
		append_id(snap->name, snap->id);
}

/* Add the snapshots of `objects`, those of `old` without opening them again. */
static int
edition_fill(struct catalog *c, const struct catalog_edition *old, const struct names *objects,
    struct catalog_edition *e)
{
	int rc = 0;

	for (size_t i = 0; i < objects->n && !rc; i++) {
		uint8_t source_id[SOURCE_ID_LEN], id[SNAPSHOT_ID_LEN];
		struct catalog_snapshot *snap;

		if (!parse_object(objects->v[i], source_id, id) || is_unusable(c, objects->v[i]))
			continue;
		snap = known_snapshot(old, source_id, id);
		if (snap) {
			rc = edition_add_snapshot(e, snap);
			continue;
		}
		rc = open_snapshot(c, objects->v[i], &snap);
		/* Deleted since it was listed: as if it had not been. */
		if (rc == ERR_NOTFOUND) {
			rc = 0;
			continue;
		}
		if (rc == ERR_NOMEM)
			break;
		if (rc) {
			note_unusable(c, objects->v[i], rc);
			rc = 0;
			continue;
		}
		make_unique(e, old, snap);
		rc = edition_add_snapshot(e, snap);
		catalog_snapshot_put(snap);
	}
	return rc;
}

/* How many of `objects` are new, and whether one of `old` is gone. */
static bool
anything_new(const struct catalog *c, const struct catalog_edition *old,
    const struct names *objects, bool *gone)
{
	size_t known = 0, before = 0;
	bool fresh = false;

	for (size_t i = 0; i < objects->n; i++) {
		uint8_t source_id[SOURCE_ID_LEN], id[SNAPSHOT_ID_LEN];

		if (!parse_object(objects->v[i], source_id, id) || is_unusable(c, objects->v[i]))
			continue;
		if (known_snapshot(old, source_id, id))
			known++;
		else
			fresh = true;
	}
	for (size_t i = 0; old && i < old->nsources; i++)
		before += old->sources[i].nsnapshots;
	*gone = known != before;
	return fresh;
}

/* Make an edition of what is there; *out stays NULL if `old` is still right. */
static int
refresh(struct catalog *c, const struct catalog_edition *old, struct catalog_edition **out)
{
	struct names objects = { 0 };
	struct catalog_edition *e = NULL;
	bool sources_changed, fresh, gone;
	int rc;

	*out = NULL;
	sources_changed = refresh_sources(c);
	rc = names_list(c, "snapshots/", &objects);
	if (rc)
		goto out;
	fresh = anything_new(c, old, &objects, &gone);
	if (old && !sources_changed && !fresh && !gone)
		goto out;
	/* A snapshot's object is written after the index object that lists its chunks. */
	if (fresh) {
		rc = repo_reader_refresh(c->reader);
		if (rc)
			goto out;
	}
	e = mem_alloc(sizeof(*e));
	if (!e) {
		rc = err_nomem();
		goto out;
	}
	atomic_init(&e->refs, 1);
	for (size_t i = 0; i < c->nsources && !rc; i++) {
		struct catalog_source *s =
		    edition_add_source(e, c->sources[i].id, c->sources[i].name);

		if (!s)
			rc = err_nomem();
		else
			s->newest_us = c->sources[i].created_us;
	}
	if (!rc)
		rc = edition_fill(c, old, &objects, e);
	if (rc)
		goto out;
	edition_arrange(c, e);
	*out = e;
	e = NULL;
out:
	catalog_edition_put(e);
	names_release(&objects);
	return rc;
}

int
catalog_new(struct catalog **out, struct repo_reader *r, struct notices *n, unsigned max_age_ms)
{
	struct catalog *c = mem_alloc(sizeof(*c));
	int rc;

	*out = NULL;
	if (!c)
		return err_nomem();
	pthread_mutex_init(&c->lock, NULL);
	c->reader = r;
	c->notices = n;
	c->max_age_ms = max_age_ms;
	rc = refresh(c, NULL, &c->edition);
	if (rc) {
		catalog_free(c);
		return rc;
	}
	c->checked_ms = now_ms();
	*out = c;
	return 0;
}

void
catalog_free(struct catalog *c)
{
	if (!c)
		return;
	catalog_edition_put(c->edition);
	names_release(&c->source_names);
	source_list_free(c->sources, c->nsources);
	free(c->unusable);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

struct catalog_edition *
catalog_get(struct catalog *c)
{
	struct catalog_edition *e, *fresh = NULL, *old = NULL;
	bool stale;
	int rc;

	pthread_mutex_lock(&c->lock);
	stale = !c->refreshing && now_ms() - c->checked_ms >= c->max_age_ms;
	if (stale)
		c->refreshing = true;
	e = c->edition;
	atomic_fetch_add(&e->refs, 1);
	pthread_mutex_unlock(&c->lock);
	if (!stale)
		return e;

	rc = refresh(c, e, &fresh);
	if (rc)
		notice_once(
		    c->notices, NULL, "the mount shows what was there before: %s", err_msg());

	pthread_mutex_lock(&c->lock);
	if (fresh) {
		old = c->edition;
		c->edition = fresh;
		catalog_edition_put(e);
		e = fresh;
		atomic_fetch_add(&e->refs, 1);
	}
	c->checked_ms = now_ms();
	c->refreshing = false;
	pthread_mutex_unlock(&c->lock);
	catalog_edition_put(old);
	return e;
}
