#include "store/chunk_cache.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS  16
#define BUCKETS 1024

struct chunk {
	atomic_int refs;
	struct chunk_id id;
	size_t len;
	uint8_t data[];
};

/* One place in the cache; without a chunk while it is being loaded. */
struct slot {
	struct chunk_id id;
	struct chunk *chunk;
	struct slot *next;          /* in the bucket */
	struct slot *newer, *older; /* in the order of use; loaded slots only */
};

struct shard {
	pthread_mutex_t lock; /* protects all below */
	pthread_cond_t loaded;
	size_t bytes, max_bytes;
	struct slot *newest, *oldest;
	struct slot *buckets[BUCKETS];
};

struct chunk_cache {
	struct shard shards[SHARDS];
};

struct chunk *
chunk_new(const struct chunk_id *id, size_t len)
{
	struct chunk *c = mem_realloc(NULL, sizeof(*c) + len);

	if (!c)
		return NULL;
	atomic_init(&c->refs, 1);
	c->id = *id;
	c->len = len;
	return c;
}

uint8_t *
chunk_buffer(struct chunk *c)
{
	return c->data;
}

const uint8_t *
chunk_data(const struct chunk *c)
{
	return c->data;
}

size_t
chunk_len(const struct chunk *c)
{
	return c->len;
}

void
chunk_release(struct chunk *c)
{
	if (c && atomic_fetch_sub(&c->refs, 1) == 1)
		free(c);
}

int
chunk_cache_new(struct chunk_cache **out, size_t max_bytes)
{
	struct chunk_cache *c = mem_alloc(sizeof(*c));

	*out = c;
	if (!c)
		return err_nomem();
	for (int i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&c->shards[i].lock, NULL);
		pthread_cond_init(&c->shards[i].loaded, NULL);
		c->shards[i].max_bytes = max_bytes / SHARDS;
	}
	return 0;
}

static struct shard *
shard_of(struct chunk_cache *c, const struct chunk_id *id)
{
	return &c->shards[id->b[31] % SHARDS];
}

static struct slot **
bucket_of(struct shard *s, const struct chunk_id *id)
{
	return &s->buckets[le32_load(id->b) % BUCKETS];
}

static struct slot *
find(struct shard *s, const struct chunk_id *id)
{
	struct slot *t = *bucket_of(s, id);

	while (t && !chunk_id_equal(&t->id, id))
		t = t->next;
	return t;
}

static void
unlink_use(struct shard *s, struct slot *t)
{
	*(t->newer ? &t->newer->older : &s->newest) = t->older;
	*(t->older ? &t->older->newer : &s->oldest) = t->newer;
	t->newer = t->older = NULL;
}

static void
push_newest(struct shard *s, struct slot *t)
{
	t->newer = NULL;
	t->older = s->newest;
	*(s->newest ? &s->newest->newer : &s->oldest) = t;
	s->newest = t;
}

static void
remove_slot(struct shard *s, struct slot *t)
{
	struct slot **p = bucket_of(s, &t->id);

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	if (t->chunk) {
		unlink_use(s, t);
		s->bytes -= t->chunk->len;
		chunk_release(t->chunk);
	}
	free(t);
}

struct chunk *
chunk_cache_get(struct chunk_cache *c, const struct chunk_id *id, bool wait, bool *claimed)
{
	struct shard *s = shard_of(c, id);
	struct chunk *chunk = NULL;
	struct slot *t;

	*claimed = false;
	pthread_mutex_lock(&s->lock);
	while ((t = find(s, id)) && !t->chunk && wait)
		pthread_cond_wait(&s->loaded, &s->lock);
	if (t && t->chunk) {
		chunk = t->chunk;
		atomic_fetch_add(&chunk->refs, 1);
		unlink_use(s, t);
		push_newest(s, t);
	} else if (!t) {
		t = mem_alloc(sizeof(*t));
		if (t) {
			struct slot **b = bucket_of(s, id);

			t->id = *id;
			t->next = *b;
			*b = t;
		}
		/* Without memory for the slot the claim just keeps nobody waiting. */
		*claimed = true;
	}
	pthread_mutex_unlock(&s->lock);
	return chunk;
}

void
chunk_cache_fulfil(struct chunk_cache *c, const struct chunk_id *id, struct chunk *chunk)
{
	struct shard *s = shard_of(c, id);
	struct slot *t;

	pthread_mutex_lock(&s->lock);
	t = find(s, id);
	if (t && !t->chunk) {
		if (chunk) {
			atomic_fetch_add(&chunk->refs, 1);
			t->chunk = chunk;
			s->bytes += chunk->len;
			push_newest(s, t);
		} else {
			remove_slot(s, t);
		}
	}
	while (s->bytes > s->max_bytes && s->oldest)
		remove_slot(s, s->oldest);
	pthread_cond_broadcast(&s->loaded);
	pthread_mutex_unlock(&s->lock);
}

void
chunk_cache_clear(struct chunk_cache *c)
{
	for (int i = 0; i < SHARDS; i++) {
		struct shard *s = &c->shards[i];

		pthread_mutex_lock(&s->lock);
		/* The analyzer cannot see that remove_slot() moves s->oldest on. */
		while (s->oldest)
			remove_slot(s, s->oldest); /* NOLINT(clang-analyzer-unix.Malloc) */
		pthread_mutex_unlock(&s->lock);
	}
}

void
chunk_cache_free(struct chunk_cache *c)
{
	if (!c)
		return;
	chunk_cache_clear(c);
	for (int i = 0; i < SHARDS; i++) {
		pthread_mutex_destroy(&c->shards[i].lock);
		pthread_cond_destroy(&c->shards[i].loaded);
	}
	free(c);
}
