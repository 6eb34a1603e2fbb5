/*
 * The writer role: lanes turn content into sealed chunks, packs fill in memory and are stored.
 *
 * A chunk is `pending` from the moment a lane decided to store it until the index knows it, so
 * that two lanes never store the same one.  Packs are stored by the lane that happened to fill
 * them; a bounded number of builders bounds the memory.  Packs that are durable wait in a batch,
 * and are published (index object, then index) when the batch is large, and on commit.
 *
 * Locks, in this order: `flush_lock` (one batch at a time is published), `lock` (builders, batch,
 * death), a pending shard's lock.  Only flush_lock is held across input/output.
 */
#include "store/base/bytes.h"
#include "store/base/cancel.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo_internal.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_SHARDS     64
#define PENDING_BUCKETS    512
#define BATCH_ENTRIES      (128u << 10)
#define DATA_BUILDERS      3
#define META_BUILDERS      2
#define META_PACK_BYTES    (8u << 20)
#define DEFAULT_ZSTD_LEVEL 1
/* A delta is used only if it is at most a third of the self-contained encoding. */
#define DELTA_SHARE 3

struct pending {
	struct chunk_id id;
	struct pending *next;
};

struct pending_shard {
	pthread_mutex_t lock;
	struct pending *buckets[PENDING_BUCKETS];
};

/* The builders of one kind of pack. */
struct packing {
	enum pack_kind kind;
	uint64_t target_bytes;
	size_t max, n; /* builders allowed and made */
	struct pack_builder *all[DATA_BUILDERS];
	struct pack_builder *idle[DATA_BUILDERS];
	size_t nidle;
	struct pack_builder *current;
};

struct repo_writer {
	struct repo_reader *reader;
	struct repo *repo; /* the reader's */
	const struct domain_keys *keys;
	int zstd_level;
	struct fingerprinter *fingerprinter;

	pthread_mutex_t flush_lock;
	pthread_mutex_t lock;
	pthread_cond_t builder_idle;
	struct packing packing[2];
	size_t nbatch, batch_cap, batch_entries;
	struct pack_toc *batch; /* durable packs not published yet */
	bool dead;
	struct err_saved fault;

	struct pending_shard pending[PENDING_SHARDS];

	_Atomic uint64_t content_bytes, unchanged_bytes, known_bytes, zero_bytes, new_bytes,
	    new_chunks, stored_bytes, delta_chunks, delta_content_bytes, delta_stored_bytes,
	    meta_stored_bytes, packs, pack_bytes;
};

struct lane {
	struct repo_writer *w;
	struct mac *mac;
	struct aead *aead;
	struct codec *codec;
	uint8_t *full, *delta; /* encodings, room for `cap` */
	size_t cap;
};

/* ---- opening and closing ---- */

static void
init_packing(struct packing *p, enum pack_kind kind, uint64_t target, size_t max)
{
	p->kind = kind;
	p->target_bytes = target;
	p->max = max;
}

static void
init_locks(struct repo_writer *w)
{
	pthread_mutex_init(&w->flush_lock, NULL);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->builder_idle, NULL);
	for (int i = 0; i < PENDING_SHARDS; i++)
		pthread_mutex_init(&w->pending[i].lock, NULL);
}

int
repo_writer_open(
    struct repo_writer **out, const struct repo_opts *opts, const struct repo_writer_opts *wopts)
{
	struct repo_writer *w = mem_alloc(sizeof(*w));
	const uint8_t *domain;
	uint64_t target;
	int rc;

	*out = NULL;
	if (!w)
		return err_nomem();
	init_locks(w);
	rc = repo_reader_open(&w->reader, opts);
	if (rc)
		goto out;
	w->repo = reader_repo(w->reader);
	domain = wopts->domain_id ? wopts->domain_id : w->repo->header.default_domain;
	w->keys = repo_domain(w->repo, domain);
	if (!w->keys) {
		rc =
		    err_set(ERR_KEY, "the key domain to write into is not there: it was destroyed");
		goto out;
	}
	w->zstd_level = wopts->zstd_level ? wopts->zstd_level : DEFAULT_ZSTD_LEVEL;
	target = wopts->pack_bytes ? wopts->pack_bytes : backend_caps(w->repo->backend)->pack_bytes;
	init_packing(&w->packing[0], PACK_DATA, target, DATA_BUILDERS);
	init_packing(&w->packing[1], PACK_META, target < META_PACK_BYTES ? target : META_PACK_BYTES,
	    META_BUILDERS);
	rc = fingerprinter_new(&w->fingerprinter, w->keys->fingerprint);
	/* What a deduplication relies on must be there, and what a crash left can be used. */
	if (rc == 0)
		rc = repo_index_reconcile(w->repo, NULL);
out:
	if (rc) {
		repo_writer_close(w);
		return rc;
	}
	*out = w;
	return 0;
}

struct repo_reader *
repo_writer_reader(struct repo_writer *w)
{
	return w->reader;
}

const struct domain_keys *
repo_writer_keys(const struct repo_writer *w)
{
	return w->keys;
}

void
repo_writer_totals(struct repo_writer *w, struct writer_totals *t)
{
	t->content_bytes = atomic_load(&w->content_bytes);
	t->unchanged_bytes = atomic_load(&w->unchanged_bytes);
	t->known_bytes = atomic_load(&w->known_bytes);
	t->zero_bytes = atomic_load(&w->zero_bytes);
	t->new_bytes = atomic_load(&w->new_bytes);
	t->new_chunks = atomic_load(&w->new_chunks);
	t->stored_bytes = atomic_load(&w->stored_bytes);
	t->delta_chunks = atomic_load(&w->delta_chunks);
	t->delta_content_bytes = atomic_load(&w->delta_content_bytes);
	t->delta_stored_bytes = atomic_load(&w->delta_stored_bytes);
	t->meta_stored_bytes = atomic_load(&w->meta_stored_bytes);
	t->packs = atomic_load(&w->packs);
	t->pack_bytes = atomic_load(&w->pack_bytes);
}

void
repo_writer_abort(struct repo_writer *w)
{
	pthread_mutex_lock(&w->lock);
	if (!w->dead) {
		w->dead = true;
		w->fault.code = ERR_CANCELLED;
		memcpy(w->fault.msg, "the backup was given up", sizeof("the backup was given up"));
	}
	pthread_cond_broadcast(&w->builder_idle);
	pthread_mutex_unlock(&w->lock);
}

static void
free_pending(struct repo_writer *w)
{
	for (int i = 0; i < PENDING_SHARDS; i++) {
		for (int b = 0; b < PENDING_BUCKETS; b++) {
			struct pending *p = w->pending[i].buckets[b], *next;

			for (; p; p = next) {
				next = p->next;
				free(p);
			}
		}
		pthread_mutex_destroy(&w->pending[i].lock);
	}
}

void
repo_writer_close(struct repo_writer *w)
{
	if (!w)
		return;
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < w->packing[k].n; i++)
			pack_builder_free(w->packing[k].all[i]);
	for (size_t i = 0; i < w->nbatch; i++)
		pack_toc_release(&w->batch[i]);
	free(w->batch);
	free_pending(w);
	fingerprinter_free(w->fingerprinter);
	repo_reader_close(w->reader);
	pthread_mutex_destroy(&w->flush_lock);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->builder_idle);
	free(w);
}

/* The first fault kills the writer, and is what every lane reports from then on. */
static int
die(struct repo_writer *w, int rc)
{
	pthread_mutex_lock(&w->lock);
	if (!w->dead) {
		w->dead = true;
		err_save(&w->fault, rc);
	}
	pthread_cond_broadcast(&w->builder_idle);
	pthread_mutex_unlock(&w->lock);
	return rc;
}

static int
check_alive(struct repo_writer *w)
{
	int rc = cancel_check();

	if (rc)
		return die(w, rc);
	pthread_mutex_lock(&w->lock);
	if (w->dead)
		rc = err_restore(&w->fault);
	pthread_mutex_unlock(&w->lock);
	return rc;
}

/* ---- pending chunks ---- */

static struct pending_shard *
pending_shard(struct repo_writer *w, const struct chunk_id *id)
{
	return &w->pending[id->b[30] % PENDING_SHARDS];
}

static struct pending **
pending_bucket(struct pending_shard *s, const struct chunk_id *id)
{
	return &s->buckets[le16_load(id->b + 16) % PENDING_BUCKETS];
}

/* 0 and now pending, 1 it was pending already, ERR_NOMEM. */
static int
pending_add(struct repo_writer *w, const struct chunk_id *id)
{
	struct pending_shard *s = pending_shard(w, id);
	struct pending **b = pending_bucket(s, id), *p;
	int rc = 1;

	pthread_mutex_lock(&s->lock);
	for (p = *b; p && !chunk_id_equal(&p->id, id); p = p->next)
		;
	if (!p) {
		p = mem_alloc(sizeof(*p));
		rc = p ? 0 : err_nomem();
		if (p) {
			p->id = *id;
			p->next = *b;
			*b = p;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static bool
pending_has(struct repo_writer *w, const struct chunk_id *id)
{
	struct pending_shard *s = pending_shard(w, id);
	struct pending *p;

	pthread_mutex_lock(&s->lock);
	for (p = *pending_bucket(s, id); p && !chunk_id_equal(&p->id, id); p = p->next)
		;
	pthread_mutex_unlock(&s->lock);
	return p != NULL;
}

static void
pending_remove(struct repo_writer *w, const struct chunk_id *id)
{
	struct pending_shard *s = pending_shard(w, id);
	struct pending **p;

	pthread_mutex_lock(&s->lock);
	for (p = pending_bucket(s, id); *p; p = &(*p)->next) {
		if (chunk_id_equal(&(*p)->id, id)) {
			struct pending *gone = *p;

			*p = gone->next;
			free(gone);
			break;
		}
	}
	pthread_mutex_unlock(&s->lock);
}

/* ---- packs ---- */

/* Publish the batch if it has at least `least` entries. */
static int
flush_batch(struct repo_writer *w, size_t least)
{
	const struct pack_toc **list = NULL;
	struct pack_toc *batch = NULL;
	uint64_t stored = 0;
	size_t n = 0;
	int rc = 0;

	pthread_mutex_lock(&w->flush_lock);
	pthread_mutex_lock(&w->lock);
	if (w->batch_entries >= least && w->nbatch > 0) {
		batch = w->batch;
		n = w->nbatch;
		w->batch = NULL;
		w->nbatch = w->batch_cap = w->batch_entries = 0;
	}
	pthread_mutex_unlock(&w->lock);
	if (!batch)
		goto out;
	list = mem_calloc(n, sizeof(*list));
	if (!list) {
		rc = err_nomem();
		goto out;
	}
	for (size_t i = 0; i < n; i++)
		list[i] = &batch[i];
	rc = repo_index_publish(w->repo, list, n, &stored);
	atomic_fetch_add(&w->pack_bytes, stored);
	for (size_t i = 0; rc == 0 && i < n; i++)
		for (size_t j = 0; j < batch[i].nentries; j++)
			pending_remove(w, &batch[i].entries[j].id);
out:
	pthread_mutex_unlock(&w->flush_lock);
	for (size_t i = 0; i < n; i++)
		pack_toc_release(&batch[i]);
	free(batch);
	free(list);
	return rc;
}

/* Put the durable pack's table (taken) into the batch. */
static int
add_to_batch(struct repo_writer *w, struct pack_toc *toc)
{
	int rc = 0;

	pthread_mutex_lock(&w->lock);
	if (w->nbatch == w->batch_cap) {
		size_t cap = w->batch_cap ? w->batch_cap * 2 : 16;
		struct pack_toc *p = mem_realloc(w->batch, cap * sizeof(*p));

		if (!p) {
			rc = err_nomem();
		} else {
			w->batch = p;
			w->batch_cap = cap;
		}
	}
	if (rc == 0) {
		w->batch[w->nbatch++] = *toc;
		w->batch_entries += toc->nentries;
	}
	pthread_mutex_unlock(&w->lock);
	if (rc)
		pack_toc_release(toc);
	return rc;
}

static void
builder_is_idle(struct repo_writer *w, struct packing *p, struct pack_builder *b)
{
	pthread_mutex_lock(&w->lock);
	p->idle[p->nidle++] = b;
	pthread_cond_broadcast(&w->builder_idle);
	pthread_mutex_unlock(&w->lock);
}

/* Finish a closed pack, store it, and give its builder back. */
static int
store_pack(struct repo_writer *w, struct packing *p, struct pack_builder *b)
{
	char name[PACK_OBJECT_MAX];
	struct pack_toc toc;
	const void *data;
	size_t len;
	int rc;

	rc = pack_builder_finish(b, &data, &len, &toc);
	if (rc == 0 && len > 0) {
		repo_pack_name(pack_builder_id(b), name);
		rc = backend_put(w->repo->backend, name, data, len);
		if (rc == 1)
			rc = err_set(
			    ERR_FAIL, "object %s is there already, which chance forbids", name);
		if (rc)
			pack_toc_release(&toc);
	}
	builder_is_idle(w, p, b);
	if (rc || len == 0)
		return rc;
	atomic_fetch_add(&w->packs, 1);
	atomic_fetch_add(&w->pack_bytes, len);
	rc = add_to_batch(w, &toc);
	if (rc == 0)
		rc = flush_batch(w, BATCH_ENTRIES);
	return rc;
}

/* The builder to add to, making or awaiting one where there is none.  Called with lock held. */
static int
current_builder(struct repo_writer *w, struct packing *p, struct pack_builder **out)
{
	int rc = 0;

	while (!p->current && p->nidle == 0 && p->n == p->max && !w->dead)
		pthread_cond_wait(&w->builder_idle, &w->lock);
	if (w->dead)
		return err_restore(&w->fault);
	if (!p->current && p->nidle > 0) {
		p->current = p->idle[--p->nidle];
		rc = pack_builder_restart(p->current);
		if (rc) {
			p->idle[p->nidle++] = p->current;
			p->current = NULL;
		}
	} else if (!p->current) {
		rc = pack_builder_new(
		    &p->current, p->kind, w->repo->header.repo_id, w->keys, p->target_bytes);
		if (rc == 0)
			p->all[p->n++] = p->current;
	}
	*out = p->current;
	return rc;
}

static int
add_to_pack(struct lane *l, enum pack_kind kind, struct pack_entry *e, const void *encoded,
    size_t encoded_len)
{
	struct repo_writer *w = l->w;
	struct packing *p = &w->packing[kind == PACK_META];

	for (;;) {
		struct pack_builder *b = NULL;
		bool last;
		int rc;

		pthread_mutex_lock(&w->lock);
		rc = current_builder(w, p, &b);
		pthread_mutex_unlock(&w->lock);
		if (rc)
			return rc;
		rc = pack_builder_add(b, l->aead, e, encoded, encoded_len, &last);
		if (rc < 0)
			return rc;
		if (rc == 0)
			return last ? store_pack(w, p, b) : 0;

		/* It is full: the first to see that takes it away, the last to seal stores it. */
		pthread_mutex_lock(&w->lock);
		if (p->current == b) {
			p->current = NULL;
			last = pack_builder_close(b);
		} else {
			last = false;
		}
		pthread_mutex_unlock(&w->lock);
		rc = last ? store_pack(w, p, b) : 0;
		if (rc)
			return rc;
	}
}

/* ---- lanes ---- */

int
lane_new(struct lane **out, struct repo_writer *w)
{
	struct lane *l = mem_alloc(sizeof(*l));
	int rc;

	*out = NULL;
	if (!l)
		return err_nomem();
	l->w = w;
	rc = mac_new(&l->mac, w->repo->header.id_algorithm, w->keys->chunk_id);
	if (rc == 0)
		rc = aead_new(&l->aead);
	if (rc == 0)
		rc = codec_new(&l->codec, w->zstd_level);
	if (rc) {
		lane_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

void
lane_free(struct lane *l)
{
	if (!l)
		return;
	mac_free(l->mac);
	aead_free(l->aead);
	codec_free(l->codec);
	free(l->full);
	free(l->delta);
	free(l);
}

struct repo_writer *
lane_writer(struct lane *l)
{
	return l->w;
}

static int
lane_room(struct lane *l, size_t len)
{
	size_t need = codec_bound(len);

	if (need <= l->cap)
		return 0;
	free(l->full);
	free(l->delta);
	l->cap = 0;
	l->full = mem_realloc(NULL, need);
	l->delta = mem_realloc(NULL, need);
	if (!l->full || !l->delta)
		return err_nomem();
	l->cap = need;
	return 0;
}

static bool
all_zero(const uint8_t *p, size_t len)
{
	size_t head = len < 16 ? len : 16;

	for (size_t i = 0; i < head; i++)
		if (p[i])
			return false;
	return len <= 16 || memcmp(p, p + 16, len - 16) == 0;
}

/*
 * Try the delta: 0 and a result in l->delta, 1 if there is none worth having.  A base that cannot
 * be read is no fault: the chunk is then stored self-contained.
 */
static int
encode_delta(struct lane *l, const void *data, size_t len, const struct chunk_ref *pred,
    struct chunk_id *base_id, uint32_t *base_sealed_len, size_t *delta_len)
{
	struct chunk *base = NULL;
	int rc;

	if (!pred || pred->kind != CHUNK_STORED)
		return 1;
	if (reader_base_chunk(l->w->reader, &pred->id, base_id, &base, base_sealed_len))
		return 1;
	rc = codec_encode_delta(l->codec, data, len, chunk_data(base), chunk_len(base),
	    len / DELTA_SHARE, l->delta, delta_len);
	chunk_release(base);
	return rc;
}

/* Encode into `e` (encoding, base) and *encoded. */
static int
encode(struct lane *l, const void *data, size_t len, const struct chunk_ref *pred,
    struct pack_entry *e, const uint8_t **encoded, size_t *encoded_len)
{
	size_t delta_len = 0, full_len;
	uint32_t base_sealed_len = 0;
	int rc, have_delta;

	rc = lane_room(l, len);
	if (rc)
		return rc;
	have_delta = encode_delta(l, data, len, pred, &e->base, &base_sealed_len, &delta_len);
	if (have_delta < 0)
		return have_delta;
	/* The base's own size tells well enough what the chunk would take self-contained. */
	if (have_delta == 1 || delta_len * DELTA_SHARE > base_sealed_len) {
		rc = codec_encode(l->codec, data, len, l->full, &full_len, &e->encoding);
		if (rc)
			return rc;
		if (have_delta == 1 || delta_len * DELTA_SHARE > full_len) {
			*encoded = l->full;
			*encoded_len = full_len;
			return 0;
		}
	}
	e->encoding = ENCODING_DELTA;
	*encoded = l->delta;
	*encoded_len = delta_len;
	return 0;
}

static int
store_chunk(struct lane *l, enum pack_kind kind, const void *data, size_t len,
    const struct chunk_ref *pred, const struct chunk_id *id)
{
	struct pack_entry e = { .id = *id, .len = (uint32_t)len };
	struct repo_writer *w = l->w;
	const uint8_t *encoded;
	size_t encoded_len;
	int rc = encode(l, data, len, pred, &e, &encoded, &encoded_len);

	if (rc == 0)
		rc = add_to_pack(l, kind, &e, encoded, encoded_len);
	if (rc)
		return rc;
	atomic_fetch_add(&w->new_bytes, len);
	atomic_fetch_add(&w->new_chunks, 1);
	atomic_fetch_add(&w->stored_bytes, e.sealed_len);
	if (kind == PACK_META)
		atomic_fetch_add(&w->meta_stored_bytes, e.sealed_len);
	if (e.encoding == ENCODING_DELTA) {
		atomic_fetch_add(&w->delta_chunks, 1);
		atomic_fetch_add(&w->delta_content_bytes, len);
		atomic_fetch_add(&w->delta_stored_bytes, e.sealed_len);
	}
	return 0;
}

/* Whether the repository has the chunk, or will have it by this session: 0 yes, 1 no. */
static int
writer_has(struct repo_writer *w, const struct chunk_id *id)
{
	return pending_has(w, id) ? 0 : repo_reader_has(w->reader, id);
}

int
lane_reuse(struct lane *l, const struct chunk_ref *pred, struct chunk_ref *ref)
{
	int rc = check_alive(l->w);

	if (rc == 0 && pred->kind == CHUNK_STORED)
		rc = writer_has(l->w, &pred->id);
	if (rc < 0)
		return die(l->w, rc);
	if (rc == 0) {
		*ref = *pred;
		atomic_fetch_add(&l->w->content_bytes, pred->len);
		atomic_fetch_add(&l->w->unchanged_bytes, pred->len);
	}
	return rc;
}

static int
put_identified(struct lane *l, enum pack_kind kind, const void *data, size_t len,
    const struct chunk_ref *pred, const struct chunk_id *id)
{
	struct repo_writer *w = l->w;
	int rc = pending_add(w, id);

	if (rc == 0) {
		rc = repo_reader_has(w->reader, id);
		if (rc == 0) {
			pending_remove(w, id);
			rc = 1;
		} else if (rc == 1) {
			return store_chunk(l, kind, data, len, pred, id);
		}
	}
	if (rc == 1) {
		atomic_fetch_add(&w->known_bytes, len);
		rc = 0;
	}
	return rc;
}

int
lane_put(struct lane *l, enum pack_kind kind, const void *data, size_t len,
    const struct chunk_ref *pred, struct chunk_ref *ref)
{
	struct repo_writer *w = l->w;
	int rc = check_alive(w);

	assert(len > 0 && len <= CHUNK_MAX_BYTES);
	if (rc)
		return rc;
	memset(ref, 0, sizeof(*ref));
	ref->len = (uint32_t)len;
	if (all_zero(data, len)) {
		ref->kind = CHUNK_ZERO;
		ref->crc32c = crc32c_zeros(len);
		atomic_fetch_add(&w->content_bytes, len);
		atomic_fetch_add(&w->zero_bytes, len);
		return 0;
	}
	ref->kind = CHUNK_STORED;
	fingerprint(w->fingerprinter, data, len, ref->fp);
	if (pred && pred->kind == CHUNK_STORED && pred->len == len &&
	    memcmp(pred->fp, ref->fp, FINGERPRINT_LEN) == 0) {
		/* It must still be there: a missing pack heals by being stored again. */
		rc = lane_reuse(l, pred, ref);
		if (rc <= 0)
			return rc;
	}
	ref->crc32c = crc32c(0, data, len);
	rc = mac_compute(l->mac, data, len, ref->id.b);
	if (rc == 0)
		rc = put_identified(l, kind, data, len, pred, &ref->id);
	if (rc)
		return die(w, rc);
	atomic_fetch_add(&w->content_bytes, len);
	return 0;
}

/* ---- commit ---- */

/* Store what is in the current packs; lanes are idle. */
static int
store_current_packs(struct repo_writer *w)
{
	for (int k = 0; k < 2; k++) {
		struct packing *p = &w->packing[k];
		struct pack_builder *b = p->current;
		int rc;

		if (!b)
			continue;
		p->current = NULL;
		/* The only one that could be sealing now is this thread. */
		if (!pack_builder_close(b))
			return err_set(ERR_FAIL, "commit while a lane is writing");
		rc = store_pack(w, p, b);
		if (rc)
			return rc;
	}
	return 0;
}

int
repo_writer_commit(struct repo_writer *w, const char *name, const void *snapshot, size_t len)
{
	int rc = check_alive(w);

	if (rc)
		return rc;
	rc = store_current_packs(w);
	if (rc == 0)
		rc = flush_batch(w, 0);
	if (rc == 0)
		rc = repo_index_publish_orphans(w->repo);
	if (rc == 0)
		rc = repo_put_sealed(w->repo, SEALED_SNAPSHOT, name, w->keys, snapshot, len);
	if (rc == 1)
		rc = err_set(ERR_EXISTS, "snapshot %s is there already", name);
	if (rc)
		return die(w, rc);
	return 0;
}
