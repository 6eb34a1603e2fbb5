/*
 * check runs in three passes:
 *   (1) objects: everything sealed opens (sources, index objects, domains were opened already);
 *   (2) packs: each pack of the index is there with its size, each pack's table of contents opens
 *       and agrees, each delta's base is known; with data, each chunk is decoded and its id
 *       computed again, several packs at once;
 *   (3) snapshots: each is walked; files that need a damaged or unknown chunk are named.
 * What pass 2 found broken is kept in a set of ids, which is small unless much is broken.
 *
 * Locks: `lock` protects the set, the totals and the callback.
 */
#include "store/check.h"

#include "store/backend.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/parallel.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/repo_internal.h"
#include "store/secret.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "store/tree.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct id_set {
	size_t n, cap; /* cap is a power of two; slots of zeros are free */
	struct chunk_id *slots;
};

struct pack_task {
	uint8_t id[PACK_ID_LEN];
	uint64_t bytes;  /* as listed */
	bool toc_is_bad; /* its chunks were not looked at in pass 2 */
};

struct check {
	struct repo_reader *reader;
	struct repo *repo;
	const struct check_opts *opts;
	struct check_totals *totals;
	pthread_mutex_t lock;
	struct id_set damaged;
	size_t npacks, packs_cap;
	struct pack_task *packs; /* sorted by id */
	atomic_size_t next_pack;
	/* While walking: */
	const char *source_name;
	const char *snapshot_name;
	char path[TREE_PATH_MAX];
	uint64_t bad_off, bad_len; /* the damaged range being gathered */
};

/* ---- the set of damaged ids ---- */

static struct chunk_id *
set_slot(const struct id_set *s, const struct chunk_id *id)
{
	static const struct chunk_id none;
	size_t i;

	memcpy(&i, id->b, sizeof(i));
	for (i &= s->cap - 1; !chunk_id_equal(&s->slots[i], &none); i = (i + 1) & (s->cap - 1))
		if (chunk_id_equal(&s->slots[i], id))
			break;
	return &s->slots[i];
}

static bool
set_has(const struct id_set *s, const struct chunk_id *id)
{
	return s->n > 0 && chunk_id_equal(set_slot(s, id), id);
}

static int
set_add(struct id_set *s, const struct chunk_id *id)
{
	static const struct chunk_id none;
	struct chunk_id *slot;

	if (s->n * 2 >= s->cap) {
		struct id_set larger = { 0, s->cap ? s->cap * 2 : 256, NULL };

		larger.slots = mem_calloc(larger.cap, sizeof(*larger.slots));
		if (!larger.slots)
			return err_nomem();
		for (size_t i = 0; i < s->cap; i++) {
			if (chunk_id_equal(&s->slots[i], &none))
				continue;
			*set_slot(&larger, &s->slots[i]) = s->slots[i];
			larger.n++;
		}
		free(s->slots);
		*s = larger;
	}
	slot = set_slot(s, id);
	if (!chunk_id_equal(slot, id)) {
		*slot = *id;
		s->n++;
	}
	return 0;
}

/* ---- findings ---- */

static void
report(struct check *c, struct check_finding *f)
{
	pthread_mutex_lock(&c->lock);
	c->totals->findings++;
	if (c->opts->found)
		c->opts->found(c->opts->ctx, f);
	pthread_mutex_unlock(&c->lock);
}

static void
report_object(struct check *c, enum check_what what, const char *name)
{
	char message[ERR_MSG_MAX];
	struct check_finding f = { .what = what, .object = name, .message = message };

	snprintf(message, sizeof(message), "%s", err_msg());
	report(c, &f);
}

/* Note a damaged chunk; told once. */
static int
report_chunk(struct check *c, const char *pack_name, const struct chunk_id *id)
{
	char message[ERR_MSG_MAX], hex[2 * CHUNK_ID_LEN + 1];
	struct check_finding f = {
		.what = CHECK_CHUNK, .object = pack_name, .chunk = hex, .message = message
	};
	bool known;
	int rc;

	snprintf(message, sizeof(message), "%s", err_msg());
	hex_encode(hex, id->b, CHUNK_ID_LEN);
	pthread_mutex_lock(&c->lock);
	known = set_has(&c->damaged, id);
	rc = known ? 0 : set_add(&c->damaged, id);
	if (!known && rc == 0)
		c->totals->damaged_chunks++;
	pthread_mutex_unlock(&c->lock);
	if (!known && rc == 0)
		report(c, &f);
	return rc;
}

/* Faults of stored bytes are findings; everything else ends the check. */
static bool
is_finding(int rc)
{
	return rc == ERR_DAMAGED || rc == ERR_NOTFOUND || rc == ERR_KEY || rc == ERR_UNSUPPORTED;
}

/* ---- pass 1: objects ---- */

static int
check_sealed(struct check *c, int kind, const char *name)
{
	void *plain = NULL;
	size_t len;
	int rc = repo_reader_object(c->reader, kind, name, &plain, &len);

	if (rc == 0 && kind == SEALED_INDEX) {
		struct index_object o;

		rc = index_object_decode(&o, plain, len);
		if (rc == 0)
			index_object_release(&o);
	} else if (rc == 0 && kind == SEALED_SOURCE) {
		struct source s;

		rc = source_decode(&s, plain, len);
		if (rc == 0)
			source_release(&s);
	}
	free(plain);
	if (rc && is_finding(rc)) {
		report_object(c, CHECK_OBJECT, name);
		rc = 0;
	}
	return rc;
}

static int
check_index_object(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	return check_sealed(ctx, SEALED_INDEX, name);
}

static int
check_source_object(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	return check_sealed(ctx, SEALED_SOURCE, name);
}

/* ---- pass 2: packs ---- */

static int
note_pack_task(void *ctx, const char *name, const struct object_info *info)
{
	struct check *c = ctx;
	uint8_t id[PACK_ID_LEN];

	if (repo_pack_id(name, id))
		return 0;
	if (c->npacks == c->packs_cap) {
		size_t cap = c->packs_cap ? c->packs_cap * 2 : 256;
		struct pack_task *p = mem_realloc(c->packs, cap * sizeof(*p));

		if (!p)
			return err_nomem();
		c->packs = p;
		c->packs_cap = cap;
	}
	memcpy(c->packs[c->npacks].id, id, PACK_ID_LEN);
	c->packs[c->npacks].toc_is_bad = false;
	c->packs[c->npacks++].bytes = info->bytes;
	return 0;
}

static int
compare_tasks(const void *a, const void *b)
{
	return memcmp(a, b, PACK_ID_LEN);
}

/* A pack that the index knows must be there with the size it had. */
static int
check_known_pack(void *ctx, const struct index_pack *pack)
{
	struct pack_task key, *task = NULL;
	char name[PACK_OBJECT_MAX];
	struct check *c = ctx;

	memcpy(key.id, pack->pack_id, PACK_ID_LEN);
	if (c->npacks)
		task = bsearch(&key, c->packs, c->npacks, sizeof(key), compare_tasks);
	repo_pack_name(pack->pack_id, name);
	if (!task) {
		err_set(ERR_DAMAGED, "%s is missing", name);
		report_object(c, CHECK_PACK, name);
	} else if (task->bytes != pack->pack_bytes) {
		err_set(ERR_DAMAGED, "%s has %llu bytes, it had %llu", name,
		    (unsigned long long)task->bytes, (unsigned long long)pack->pack_bytes);
		report_object(c, CHECK_PACK, name);
	}
	return 0;
}

/* What one thread needs. */
struct pack_worker {
	struct check *c;
	struct mac *mac; /* of `domain` */
	const struct domain_keys *domain;
};

static int
worker_mac(struct pack_worker *w, const uint8_t domain_id[DOMAIN_ID_LEN])
{
	const struct domain_keys *keys = repo_domain(w->c->repo, domain_id);

	if (w->domain == keys && w->mac)
		return 0;
	mac_free(w->mac);
	w->mac = NULL;
	w->domain = keys;
	return mac_new(&w->mac, w->c->repo->header.id_algorithm, keys->chunk_id);
}

/* Decode one chunk past the cache and compute its id again. */
static int
check_chunk(struct pack_worker *w, const char *name, const struct pack_entry *e)
{
	uint8_t id[CRYPTO_DIGEST_LEN];
	struct chunk *chunk = NULL;
	int rc = reader_load_chunk(w->c->reader, &e->id, &chunk);

	if (rc == 0)
		rc = mac_compute(w->mac, chunk_data(chunk), chunk_len(chunk), id);
	if (rc == 0 && memcmp(id, e->id.b, CHUNK_ID_LEN) != 0)
		rc = err_set(ERR_DAMAGED, "content in %s at %u opens but is not what its id says",
		    name, e->off);
	if (rc == 0)
		progress_bytes(w->c->opts->progress, e->sealed_len);
	chunk_release(chunk);
	if (rc && is_finding(rc))
		rc = report_chunk(w->c, name, &e->id);
	return rc;
}

static int
check_entries(struct pack_worker *w, const char *name, const struct pack_toc *toc)
{
	int rc = worker_mac(w, toc->domain_id);

	for (size_t i = 0; rc == 0 && i < toc->nentries; i++) {
		const struct pack_entry *e = &toc->entries[i];

		rc = cancel_check();
		if (rc == 0 && e->encoding == ENCODING_DELTA) {
			rc = repo_reader_has(w->c->reader, &e->base);
			if (rc == 1) {
				err_set(
				    ERR_DAMAGED, "the base of a delta in %s is in no pack", name);
				rc = report_chunk(w->c, name, &e->id);
			}
		}
		if (rc == 0 && w->c->opts->read_data)
			rc = check_chunk(w, name, e);
	}
	return rc;
}

/* The keyless checksum over the whole object, piece by piece. */
static int
check_pack_checksum(struct check *c, const char *name, uint64_t bytes)
{
	uint8_t tail[PACK_TRAILER_LEN], sum[FINGERPRINT_LEN];
	uint64_t left = bytes - PACK_TRAILER_LEN, off = 0;
	struct checksum *checksum = NULL;
	struct pack_trailer t;
	uint8_t *buf = mem_alloc(1u << 20);
	size_t got;
	int rc = buf ? checksum_new(&checksum) : err_nomem();

	while (rc == 0 && left > 0) {
		size_t n = left < (1u << 20) ? (size_t)left : 1u << 20;

		rc = backend_get(c->repo->backend, name, off, buf, n, &got);
		if (rc == 0 && got != n)
			rc = err_set(ERR_DAMAGED, "%s is cut short", name);
		if (rc == 0)
			checksum_update(checksum, buf, n);
		off += n;
		left -= n;
	}
	if (rc == 0)
		rc = backend_get(c->repo->backend, name, off, tail, sizeof(tail), &got);
	if (rc == 0)
		rc = pack_trailer_decode(&t, tail, got);
	if (rc == 0) {
		checksum_final(checksum, sum);
		if (memcmp(sum, t.checksum, sizeof(sum)) != 0)
			rc = err_set(ERR_DAMAGED, "%s: its checksum is wrong", name);
	}
	checksum_free(checksum);
	free(buf);
	return rc;
}

/*
 * A pack that the index does not know was left behind by a backup that failed: no snapshot needs
 * it, and its chunks cannot be found by their ids.  Its checksum and its table are enough.
 */
static int
check_entries_if_known(struct pack_worker *w, const struct pack_task *task, const char *name,
    const struct pack_toc *toc)
{
	int rc = index_find_pack(w->c->repo->index, task->id, NULL);

	if (rc)
		return rc == 1 ? 0 : rc;
	return check_entries(w, name, toc);
}

static int
check_pack(struct pack_worker *w, struct pack_task *task)
{
	struct check *c = w->c;
	char name[PACK_OBJECT_MAX];
	struct pack_toc toc;
	int rc;

	repo_pack_name(task->id, name);
	rc = repo_read_toc(c->repo, task->id, &toc);
	if (rc == 0) {
		if (c->opts->read_data) {
			rc = check_pack_checksum(c, name, task->bytes);
			if (rc && is_finding(rc)) {
				report_object(c, CHECK_PACK, name);
				rc = 0;
			}
		}
		if (rc == 0)
			rc = check_entries_if_known(w, task, name, &toc);
		pthread_mutex_lock(&c->lock);
		c->totals->chunks += toc.nentries;
		c->totals->packs++;
		if (c->opts->read_data)
			c->totals->bytes_read += task->bytes;
		pthread_mutex_unlock(&c->lock);
		pack_toc_release(&toc);
	} else if (is_finding(rc)) {
		report_object(c, CHECK_PACK, name);
		task->toc_is_bad = true;
		rc = 0;
	}
	if (!c->opts->read_data)
		progress_bytes(c->opts->progress, task->bytes);
	return rc;
}

static int
pack_worker_main(void *arg, int worker)
{
	struct pack_worker w = { .c = arg };
	int rc = 0;

	(void)worker;
	while (rc == 0) {
		size_t i = atomic_fetch_add(&w.c->next_pack, 1);

		if (i >= w.c->npacks)
			break;
		rc = cancel_check();
		if (rc == 0)
			rc = check_pack(&w, &w.c->packs[i]);
	}
	if (rc)
		atomic_store(&w.c->next_pack, w.c->npacks);
	mac_free(w.mac);
	return rc;
}

static int
check_packs(struct check *c)
{
	int threads = c->opts->threads > 0 ? c->opts->threads : parallel_cpus();
	uint64_t bytes = 0;
	int rc = backend_list(c->repo->backend, "packs/", note_pack_task, c);

	if (rc)
		return rc;
	if (c->npacks)
		qsort(c->packs, c->npacks, sizeof(*c->packs), compare_tasks);
	for (size_t i = 0; i < c->npacks; i++)
		bytes += c->packs[i].bytes;
	progress_total(c->opts->progress, bytes, 0);
	rc = index_each_pack(c->repo->index, check_known_pack, c);
	if (rc)
		return rc;
	return parallel_run(threads, pack_worker_main, c);
}

/* ---- pass 3: snapshots ---- */

/* Tell the damaged range gathered so far of the file at c->path. */
static void
flush_range(struct check *c)
{
	struct check_finding f = { .what = CHECK_FILE,
		.source = c->source_name,
		.snapshot = c->snapshot_name,
		.path = c->path,
		.off = c->bad_off,
		.len = c->bad_len,
		.message = "these bytes cannot be read" };

	if (c->bad_len == 0)
		return;
	report(c, &f);
	c->bad_len = 0;
}

static void
damaged_range(struct check *c, uint64_t off, uint64_t len)
{
	if (c->bad_len > 0 && c->bad_off + c->bad_len == off) {
		c->bad_len += len;
		return;
	}
	flush_range(c);
	c->bad_off = off;
	c->bad_len = len;
}

/* Whether a chunk of a pack without a table of contents can be read all the same. */
static int
chunk_is_readable(struct check *c, const struct chunk_id *id, bool *good)
{
	struct chunk *chunk = NULL;
	int rc = reader_load_chunk(c->reader, id, &chunk);

	chunk_release(chunk);
	*good = rc == 0;
	return rc && is_finding(rc) ? 0 : rc;
}

/* Whether a chunk that something needs is good, as far as passes 1 and 2 know. */
static int
chunk_is_good(struct check *c, const struct chunk_id *id, bool *good)
{
	struct pack_task key, *task = NULL;
	struct index_place place;
	int rc;

	*good = false;
	if (set_has(&c->damaged, id))
		return 0;
	rc = index_find(c->repo->index, id, &place);
	if (rc == 0) {
		memcpy(key.id, place.pack_id, PACK_ID_LEN);
		if (c->npacks)
			task = bsearch(&key, c->packs, c->npacks, sizeof(key), compare_tasks);
		*good = task && (uint64_t)place.off + place.sealed_len <= task->bytes;
		if (!*good)
			err_set(ERR_DAMAGED, "its pack is missing or cut short");
		else if (task->toc_is_bad)
			rc = chunk_is_readable(c, id, good);
	} else if (rc == 1) {
		err_set(ERR_DAMAGED, "it is in no pack that is known");
		rc = 0;
	}
	if (rc == 0 && !*good)
		rc = report_chunk(c, "", id);
	return rc;
}

static int
visit_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	struct check *c = ctx;
	bool good;
	int rc;

	if (ref->kind != CHUNK_STORED)
		return 0;
	rc = chunk_is_good(c, &ref->id, &good);
	if (rc == 0 && !good)
		damaged_range(c, off, ref->len);
	return rc;
}

static int
visit_broken_node(void *ctx, const struct chunk_id *id, uint64_t off, uint64_t len, int rc)
{
	struct check *c = ctx;

	if (!is_finding(rc))
		return rc;
	rc = report_chunk(c, "", id);
	if (rc == 0)
		damaged_range(c, off, len);
	return rc;
}

static int
visit_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct check *c = ctx;
	struct content_visitor v = { .chunk = visit_chunk, .broken = visit_broken_node, .ctx = c };
	uint64_t before = c->totals->findings;
	int rc = cancel_check();

	if (rc)
		return rc;
	c->totals->files++;
	if (e->type != TREE_FILE)
		return 0;
	snprintf(c->path, sizeof(c->path), "%s", path);
	c->bad_len = 0;
	rc = content_each(c->reader, &e->content, &v);
	flush_range(c);
	if (c->totals->findings > before)
		c->totals->damaged_files++;
	return rc;
}

static int
visit_broken_dir(void *ctx, const char *path, const struct tree_entry *e, int rc)
{
	struct check *c = ctx;
	char message[ERR_MSG_MAX];
	struct check_finding f = { .what = CHECK_FILE,
		.source = c->source_name,
		.snapshot = c->snapshot_name,
		.path = path,
		.len = e->content.size,
		.message = message };

	if (!is_finding(rc))
		return rc;
	snprintf(message, sizeof(message), "directory cannot be read: %s", err_msg());
	c->totals->damaged_files++;
	report(c, &f);
	return 0;
}

static int
check_snapshot(void *ctx, const char *name, const struct object_info *info)
{
	struct check *c = ctx;
	struct tree_visitor v = { .entry = visit_entry, .broken = visit_broken_dir, .ctx = c };
	struct snapshot s = { 0 };
	void *plain = NULL;
	size_t len;
	int rc;

	(void)info;
	rc = repo_reader_object(c->reader, SEALED_SNAPSHOT, name, &plain, &len);
	if (rc == 0)
		rc = snapshot_decode(&s, plain, len);
	free(plain);
	if (rc) {
		if (!is_finding(rc))
			return rc;
		report_object(c, CHECK_OBJECT, name);
		return 0;
	}
	c->source_name = s.source_name;
	c->snapshot_name = s.name;
	c->totals->snapshots++;
	for (size_t i = 0; rc == 0 && i < s.nparts; i++)
		rc = tree_walk(c->reader, &s.parts[i].root, &v);
	snapshot_release(&s);
	return rc;
}

int
check_run(struct repo_reader *r, const struct check_opts *opts, struct check_totals *totals)
{
	struct check c = { .reader = r, .repo = reader_repo(r), .opts = opts, .totals = totals };
	int rc;

	memset(totals, 0, sizeof(*totals));
	pthread_mutex_init(&c.lock, NULL);
	progress_phase(opts->progress, "checking objects");
	rc = backend_list(c.repo->backend, "index/", check_index_object, &c);
	if (rc == 0)
		rc = backend_list(c.repo->backend, "sources/", check_source_object, &c);
	progress_phase(opts->progress, opts->read_data ? "reading packs" : "checking packs");
	if (rc == 0)
		rc = check_packs(&c);
	progress_phase(opts->progress, "checking snapshots");
	if (rc == 0)
		rc = backend_list(c.repo->backend, "snapshots/", check_snapshot, &c);
	pthread_mutex_destroy(&c.lock);
	free(c.damaged.slots);
	free(c.packs);
	if (rc)
		return rc;
	return totals->findings ? 1 : 0;
}
