/*
 * The reader role: chunks out of packs, through the cache, with prefetch.
 *
 * Locks: `keys_lock` protects the table of pack keys, `contexts_lock` the list of idle decoding
 * contexts, `prefetch_lock` the ring of wishes.  None is held while another is taken or across
 * input/output.
 */
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"
#include "store/chunk_cache.h"
#include "store/repo_internal.h"
#include "store/secret.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CACHE_BYTES ((size_t)32 << 20)
#define KEY_TABLE           512
#define PREFETCH_RING       1024
#define PREFETCH_THREADS    8

/* What one thread needs to open and decode chunks. */
struct context {
	struct context *next;
	struct aead *aead;
	struct codec *codec;
	uint8_t *sealed, *opened;
	size_t cap;
};

struct key_row {
	uint8_t pack_id[PACK_ID_LEN];
	uint8_t key[CRYPTO_KEY_LEN];
	bool used;
};

struct repo_reader {
	struct repo repo;
	struct chunk_cache *cache;

	pthread_mutex_t keys_lock;
	struct key_row *keys; /* KEY_TABLE rows in secret memory, by the pack id's first bytes */

	pthread_mutex_t contexts_lock;
	struct context *idle;

	pthread_mutex_t prefetch_lock;
	pthread_cond_t prefetch_wake;
	struct chunk_id *ring; /* PREFETCH_RING wishes */
	size_t ring_head, ring_n;
	bool stopping;
	int nthreads;
	pthread_t threads[PREFETCH_THREADS];
};

struct repo *
reader_repo(struct repo_reader *r)
{
	return &r->repo;
}

int
repo_reader_open(struct repo_reader **out, const struct repo_opts *opts)
{
	struct repo_reader *r = mem_alloc(sizeof(*r));
	int rc;

	*out = NULL;
	if (!r)
		return err_nomem();
	pthread_mutex_init(&r->keys_lock, NULL);
	pthread_mutex_init(&r->contexts_lock, NULL);
	pthread_mutex_init(&r->prefetch_lock, NULL);
	pthread_cond_init(&r->prefetch_wake, NULL);
	rc = repo_open(&r->repo, opts);
	if (rc)
		goto out;
	rc = chunk_cache_new(
	    &r->cache, opts->chunk_cache_bytes ? opts->chunk_cache_bytes : DEFAULT_CACHE_BYTES);
	if (rc)
		goto out;
	r->keys = secret_alloc(KEY_TABLE * sizeof(*r->keys));
	r->ring = mem_calloc(PREFETCH_RING, sizeof(*r->ring));
	if (!r->keys || !r->ring) {
		rc = err_nomem();
		goto out;
	}
	rc = repo_index_refresh(&r->repo, NULL);
out:
	if (rc) {
		repo_reader_close(r);
		return rc;
	}
	*out = r;
	return 0;
}

static void
context_free(struct context *x)
{
	if (!x)
		return;
	aead_free(x->aead);
	codec_free(x->codec);
	free(x->sealed);
	free(x->opened);
	free(x);
}

void
repo_reader_close(struct repo_reader *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->prefetch_lock);
	r->stopping = true;
	pthread_cond_broadcast(&r->prefetch_wake);
	pthread_mutex_unlock(&r->prefetch_lock);
	for (int i = 0; i < r->nthreads; i++)
		pthread_join(r->threads[i], NULL);
	while (r->idle) {
		struct context *x = r->idle;

		r->idle = x->next;
		context_free(x);
	}
	chunk_cache_free(r->cache);
	secret_free(r->keys);
	free(r->ring);
	if (r->repo.backend)
		repo_release(&r->repo);
	pthread_mutex_destroy(&r->keys_lock);
	pthread_mutex_destroy(&r->contexts_lock);
	pthread_mutex_destroy(&r->prefetch_lock);
	pthread_cond_destroy(&r->prefetch_wake);
	free(r);
}

const struct repo_header *
repo_reader_header(const struct repo_reader *r)
{
	return &r->repo.header;
}

struct backend *
repo_reader_backend(struct repo_reader *r)
{
	return r->repo.backend;
}

struct index *
repo_reader_index(struct repo_reader *r)
{
	return r->repo.index;
}

const struct domain_keys *
repo_reader_domain(struct repo_reader *r, const uint8_t id[DOMAIN_ID_LEN])
{
	return repo_domain(&r->repo, id);
}

int
repo_reader_refresh(struct repo_reader *r)
{
	return repo_index_refresh(&r->repo, NULL);
}

int
repo_reader_rebuild_index(struct repo_reader *r, struct progress *progress)
{
	int rc = index_clear(r->repo.index);

	if (rc == 0)
		rc = repo_index_refresh(&r->repo, progress);
	if (rc == 0)
		rc = repo_index_reconcile(&r->repo, progress);
	return rc;
}

int
repo_reader_object(
    struct repo_reader *r, int sealed_kind, const char *name, void **plain, size_t *len)
{
	const struct domain_keys *keys;
	uint8_t domain_id[DOMAIN_ID_LEN];
	size_t data_len;
	void *data = NULL;
	int rc;

	*plain = NULL;
	rc = backend_get_all(
	    r->repo.backend, name, SEALED_MAX_PLAIN + SEALED_HEADER_LEN + 64, &data, &data_len);
	if (rc == 0)
		rc = sealed_domain(data, data_len, domain_id);
	if (rc == 0) {
		keys = repo_domain(&r->repo, domain_id);
		if (!keys)
			rc = err_set(ERR_KEY,
			    "object %s is sealed under a key domain that is not there: it was "
			    "destroyed",
			    name);
		else
			rc = sealed_decode(plain, len, (enum sealed_kind)sealed_kind, name,
			    r->repo.header.repo_id, keys, data, data_len);
	}
	free(data);
	return rc;
}

/* ---- decoding ---- */

static int
context_take(struct repo_reader *r, struct context **out)
{
	struct context *x;
	int rc = 0;

	pthread_mutex_lock(&r->contexts_lock);
	x = r->idle;
	if (x)
		r->idle = x->next;
	pthread_mutex_unlock(&r->contexts_lock);
	if (!x) {
		x = mem_alloc(sizeof(*x));
		if (!x)
			return err_nomem();
		rc = aead_new(&x->aead);
		if (rc == 0)
			rc = codec_new(&x->codec, 1);
		if (rc) {
			context_free(x);
			x = NULL;
		}
	}
	*out = x;
	return rc;
}

static void
context_give(struct repo_reader *r, struct context *x)
{
	pthread_mutex_lock(&r->contexts_lock);
	x->next = r->idle;
	r->idle = x;
	pthread_mutex_unlock(&r->contexts_lock);
}

static int
context_room(struct context *x, size_t len)
{
	if (len <= x->cap)
		return 0;
	free(x->sealed);
	free(x->opened);
	x->cap = 0;
	x->sealed = mem_realloc(NULL, len);
	x->opened = mem_realloc(NULL, len);
	if (!x->sealed || !x->opened)
		return err_nomem();
	x->cap = len;
	return 0;
}

/* The key of a pack, from the table or derived. */
static int
find_pack_key(struct repo_reader *r, const struct index_place *place, uint8_t key[CRYPTO_KEY_LEN])
{
	struct key_row *row = &r->keys[le16_load(place->pack_id) % KEY_TABLE];
	const struct domain_keys *keys;
	uint8_t commitment[32];
	bool hit;
	int rc;

	pthread_mutex_lock(&r->keys_lock);
	hit = row->used && memcmp(row->pack_id, place->pack_id, PACK_ID_LEN) == 0;
	if (hit)
		memcpy(key, row->key, CRYPTO_KEY_LEN);
	pthread_mutex_unlock(&r->keys_lock);
	if (hit)
		return 0;
	keys = repo_domain(&r->repo, place->domain_id);
	if (!keys)
		return err_set(ERR_KEY, "the key domain of this data was destroyed");
	rc = pack_key(key, commitment, keys, r->repo.header.repo_id, place->pack_id);
	if (rc)
		return rc;
	pthread_mutex_lock(&r->keys_lock);
	memcpy(row->pack_id, place->pack_id, PACK_ID_LEN);
	memcpy(row->key, key, CRYPTO_KEY_LEN);
	row->used = true;
	pthread_mutex_unlock(&r->keys_lock);
	return 0;
}

/* Add chunk and pack to the message of a failure to read. */
static int
read_failed(int rc, const struct chunk_id *id, const struct index_place *place)
{
	char hex[2 * CHUNK_ID_LEN + 1], name[PACK_OBJECT_MAX];

	hex_encode(hex, id->b, CHUNK_ID_LEN);
	repo_pack_name(place->pack_id, name);
	if (rc == ERR_NOTFOUND)
		return err_set(ERR_DAMAGED,
		    "chunk %.16s… cannot be read: %s is missing; run pastfs check to see what it "
		    "touches",
		    hex, name);
	if (rc == ERR_DAMAGED)
		return err_set(ERR_DAMAGED,
		    "chunk %.16s… in %s at %u is damaged; pastfs check --read-data tells what it "
		    "touches",
		    hex, name, place->off);
	return err_prefix(rc, "chunk %.16s… in %s", hex, name);
}

/* Read and open the sealed chunk at `place` into the context: *payload points into it. */
static int
open_place(struct repo_reader *r, struct context *x, const struct chunk_id *id,
    const struct index_place *place, const uint8_t **payload, size_t *payload_len,
    struct chunk_id *base)
{
	struct pack_entry e = { .id = *id,
		.off = place->off,
		.sealed_len = place->sealed_len,
		.len = place->len,
		.encoding = place->encoding };
	char name[PACK_OBJECT_MAX];
	uint8_t key[CRYPTO_KEY_LEN];
	size_t got;
	int rc;

	rc = context_room(x, place->sealed_len);
	if (rc)
		return rc;
	repo_pack_name(place->pack_id, name);
	rc = backend_get(r->repo.backend, name, place->off, x->sealed, place->sealed_len, &got);
	if (rc == 0 && got != place->sealed_len)
		rc = err_set(ERR_DAMAGED, "%s is cut short", name);
	if (rc == 0)
		rc = find_pack_key(r, place, key);
	if (rc == 0)
		rc = pack_chunk_open(
		    x->aead, key, &e, x->sealed, x->opened, payload, payload_len, base);
	secret_wipe(key, sizeof(key));
	return rc;
}

static int
not_in_index(const struct chunk_id *id)
{
	char hex[2 * CHUNK_ID_LEN + 1];

	hex_encode(hex, id->b, CHUNK_ID_LEN);
	return err_set(ERR_DAMAGED,
	    "chunk %.16s… is in no pack that is known; run pastfs index rebuild, then pastfs "
	    "check",
	    hex);
}

/* A delta's base, which must not be a delta itself. */
static int
load_base(struct repo_reader *r, const struct chunk_id *base_id, struct chunk **base)
{
	struct index_place place;
	int rc = index_find(r->repo.index, base_id, &place);

	if (rc == 1)
		return not_in_index(base_id);
	if (rc)
		return rc;
	if (place.encoding == ENCODING_DELTA)
		return err_set(ERR_DAMAGED, "a delta's base is a delta");
	return repo_reader_chunk(r, base_id, base);
}

int
reader_load_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk **out)
{
	struct chunk *chunk = NULL, *base = NULL;
	struct index_place place;
	struct context *x = NULL;
	struct chunk_id base_id;
	const uint8_t *payload;
	size_t payload_len;
	int rc;

	*out = NULL;
	rc = index_find(r->repo.index, id, &place);
	if (rc == 1)
		return not_in_index(id);
	if (rc)
		return rc;
	rc = context_take(r, &x);
	if (rc)
		return rc;
	rc = open_place(r, x, id, &place, &payload, &payload_len, &base_id);
	if (rc)
		goto out;
	if (place.encoding == ENCODING_DELTA) {
		rc = load_base(r, &base_id, &base);
		if (rc)
			goto out;
	}
	chunk = chunk_new(id, place.len);
	if (!chunk) {
		rc = err_nomem();
		goto out;
	}
	rc = codec_decode(x->codec, place.encoding, payload, payload_len,
	    base ? chunk_data(base) : NULL, base ? chunk_len(base) : 0, chunk_buffer(chunk),
	    place.len);
out:
	context_give(r, x);
	chunk_release(base);
	if (rc) {
		chunk_release(chunk);
		return read_failed(rc, id, &place);
	}
	*out = chunk;
	return 0;
}

int
repo_reader_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk **out)
{
	bool claimed;
	int rc;

	*out = chunk_cache_get(r->cache, id, true, &claimed);
	if (*out)
		return 0;
	rc = reader_load_chunk(r, id, out);
	chunk_cache_fulfil(r->cache, id, *out);
	return rc;
}

int
repo_reader_has(struct repo_reader *r, const struct chunk_id *id)
{
	struct index_place place;

	return index_find(r->repo.index, id, &place);
}

int
reader_base_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk_id *base_id,
    struct chunk **base, uint32_t *base_sealed_len)
{
	struct index_place place;
	struct context *x = NULL;
	const uint8_t *payload;
	size_t payload_len;
	int rc;

	rc = index_find(r->repo.index, id, &place);
	if (rc == 1)
		return not_in_index(id);
	if (rc)
		return rc;
	*base_id = *id;
	if (place.encoding == ENCODING_DELTA) {
		rc = context_take(r, &x);
		if (rc == 0) {
			rc = open_place(r, x, id, &place, &payload, &payload_len, base_id);
			context_give(r, x);
		}
		if (rc == 0)
			rc = index_find(r->repo.index, base_id, &place);
		if (rc == 1)
			rc = not_in_index(base_id);
		if (rc)
			return rc;
		if (place.encoding == ENCODING_DELTA)
			return err_set(ERR_DAMAGED, "a delta's base is a delta");
	}
	*base_sealed_len = place.sealed_len;
	return repo_reader_chunk(r, base_id, base);
}

/* ---- prefetch ---- */

static void *
prefetch_main(void *arg)
{
	struct repo_reader *r = arg;

	for (;;) {
		struct chunk *chunk = NULL;
		struct chunk_id id;
		bool claimed;

		pthread_mutex_lock(&r->prefetch_lock);
		while (!r->stopping && r->ring_n == 0)
			pthread_cond_wait(&r->prefetch_wake, &r->prefetch_lock);
		if (r->stopping) {
			pthread_mutex_unlock(&r->prefetch_lock);
			return NULL;
		}
		id = r->ring[r->ring_head];
		r->ring_head = (r->ring_head + 1) % PREFETCH_RING;
		r->ring_n--;
		pthread_mutex_unlock(&r->prefetch_lock);

		chunk = chunk_cache_get(r->cache, &id, false, &claimed);
		if (claimed) {
			/* A failure is the business of who really wants the chunk. */
			(void)reader_load_chunk(r, &id, &chunk);
			chunk_cache_fulfil(r->cache, &id, chunk);
		}
		chunk_release(chunk);
	}
}

/* Called with prefetch_lock held; fewer threads than wished for is no failure. */
static void
start_prefetch_threads(struct repo_reader *r)
{
	int want = parallel_cpus();

	if (want > PREFETCH_THREADS)
		want = PREFETCH_THREADS;
	while (r->nthreads < want) {
		if (pthread_create(&r->threads[r->nthreads], NULL, prefetch_main, r))
			break;
		r->nthreads++;
	}
}

void
repo_reader_prefetch(struct repo_reader *r, const struct chunk_id *ids, size_t n)
{
	pthread_mutex_lock(&r->prefetch_lock);
	if (r->nthreads == 0)
		start_prefetch_threads(r);
	for (size_t i = 0; i < n; i++) {
		/* The oldest wishes are the ones already overtaken. */
		if (r->ring_n == PREFETCH_RING) {
			r->ring_head = (r->ring_head + 1) % PREFETCH_RING;
			r->ring_n--;
		}
		r->ring[(r->ring_head + r->ring_n) % PREFETCH_RING] = ids[i];
		r->ring_n++;
	}
	pthread_cond_broadcast(&r->prefetch_wake);
	pthread_mutex_unlock(&r->prefetch_lock);
}
