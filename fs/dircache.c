#include "fs/dircache.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096

struct dirref {
	uint8_t key[FINGERPRINT_LEN];
	struct tree_dir *dir;
	size_t bytes;
	unsigned users;
	struct dirref *chain;
	struct dirref *newer, *older; /* by last use */
};

struct dircache {
	pthread_mutex_t lock; /* protects everything below but the reader */
	struct repo_reader *reader;
	size_t max_bytes, bytes;
	uint64_t decoded;
	struct dirref *newest, *oldest;
	struct dirref *buckets[BUCKETS];
};

int
dircache_new(struct dircache **out, struct repo_reader *r, size_t max_bytes)
{
	*out = mem_alloc(sizeof(**out));
	if (!*out)
		return err_nomem();
	(*out)->reader = r;
	(*out)->max_bytes = max_bytes;
	pthread_mutex_init(&(*out)->lock, NULL);
	return 0;
}

static void
dirref_free(struct dirref *ref)
{
	tree_dir_close(ref->dir);
	free(ref);
}

void
dircache_free(struct dircache *c)
{
	if (!c)
		return;
	while (c->oldest) {
		struct dirref *ref = c->oldest;

		assert(ref->users == 0);
		c->oldest = ref->newer;
		dirref_free(ref);
	}
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void
dircache_key(
    const struct fingerprinter *f, const struct content *content, uint8_t key[FINGERPRINT_LEN])
{
	/* The hash so far, then one reference: kind, length, id. */
	uint8_t in[FINGERPRINT_LEN + 8 + 8 + CHUNK_ID_LEN] = { 0 };

	le64_store(in, content->size);
	in[8] = content->depth;
	for (uint32_t i = 0; i < content->nrefs; i++) {
		const struct chunk_id *id;
		uint64_t kind = 0, len;

		if (content->depth == 0) {
			id = &content->leaf[i].id;
			kind = (uint64_t)content->leaf[i].kind;
			len = content->leaf[i].len;
		} else {
			id = &content->inner[i].id;
			len = content->inner[i].len;
		}
		le64_store(in + FINGERPRINT_LEN, kind);
		le64_store(in + FINGERPRINT_LEN + 8, len);
		memcpy(in + FINGERPRINT_LEN + 16, id->b, CHUNK_ID_LEN);
		fingerprint(f, in, sizeof(in), key);
		memcpy(in, key, FINGERPRINT_LEN);
	}
	if (content->nrefs == 0)
		fingerprint(f, in, FINGERPRINT_LEN, key);
}

/* What a decoded directory takes in memory, near enough for a bound. */
static size_t
weigh(const struct tree_dir *dir)
{
	size_t n = tree_dir_count(dir), sum = 256;

	for (size_t i = 0; i < n; i++) {
		const struct tree_entry *e = tree_dir_at(dir, i);

		sum += sizeof(*e) + strlen(e->name) + 17;
		if (e->target)
			sum += strlen(e->target) + 17;
		for (size_t k = 0; k < e->nxattrs; k++)
			sum +=
			    sizeof(*e->xattrs) + strlen(e->xattrs[k].name) + e->xattrs[k].len + 32;
		sum += e->content.nrefs *
		       (e->content.depth == 0 ? sizeof(struct chunk_ref) : sizeof(struct node_ref));
	}
	return sum;
}

static struct dirref **
bucket(struct dircache *c, const uint8_t key[FINGERPRINT_LEN])
{
	return &c->buckets[le32_load(key) % BUCKETS];
}

static void
unlink_use(struct dircache *c, struct dirref *ref)
{
	*(ref->newer ? &ref->newer->older : &c->newest) = ref->older;
	*(ref->older ? &ref->older->newer : &c->oldest) = ref->newer;
	ref->newer = ref->older = NULL;
}

static void
link_newest(struct dircache *c, struct dirref *ref)
{
	ref->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = ref;
	c->newest = ref;
}

static struct dirref *
find(struct dircache *c, const uint8_t key[FINGERPRINT_LEN])
{
	struct dirref *ref = *bucket(c, key);

	while (ref && memcmp(ref->key, key, FINGERPRINT_LEN) != 0)
		ref = ref->chain;
	if (ref) {
		ref->users++;
		if (ref != c->newest) {
			unlink_use(c, ref);
			link_newest(c, ref);
		}
	}
	return ref;
}

/* Take out what is over the bound; the caller frees the chain without the lock. */
static struct dirref *
evict(struct dircache *c)
{
	struct dirref *dead = NULL, *ref = c->oldest;

	while (ref && c->bytes > c->max_bytes && ref != c->newest) {
		struct dirref *next = ref->newer, **at;

		if (ref->users == 0) {
			for (at = bucket(c, ref->key); *at != ref; at = &(*at)->chain)
				;
			*at = ref->chain;
			unlink_use(c, ref);
			c->bytes -= ref->bytes;
			ref->chain = dead;
			dead = ref;
		}
		ref = next;
	}
	return dead;
}

static void
bury(struct dirref *dead)
{
	while (dead) {
		struct dirref *next = dead->chain;

		dirref_free(dead);
		dead = next;
	}
}

int
dircache_get(struct dircache *c, const struct content *content, const uint8_t key[FINGERPRINT_LEN],
    struct dirref **out)
{
	struct dirref *fresh, *ref, *dead = NULL;
	int rc;

	*out = NULL;
	pthread_mutex_lock(&c->lock);
	ref = find(c, key);
	pthread_mutex_unlock(&c->lock);
	if (ref) {
		*out = ref;
		return 0;
	}

	fresh = mem_alloc(sizeof(*fresh));
	if (!fresh)
		return err_nomem();
	rc = tree_dir_open(&fresh->dir, c->reader, content);
	if (rc) {
		free(fresh);
		return rc;
	}
	memcpy(fresh->key, key, FINGERPRINT_LEN);
	fresh->bytes = weigh(fresh->dir);

	/* Another thread may have decoded it meanwhile: then ours is superfluous. */
	pthread_mutex_lock(&c->lock);
	c->decoded++;
	ref = find(c, key);
	if (!ref) {
		struct dirref **b = bucket(c, key);

		ref = fresh;
		fresh = NULL;
		ref->users = 1;
		ref->chain = *b;
		*b = ref;
		link_newest(c, ref);
		c->bytes += ref->bytes;
		dead = evict(c);
	}
	pthread_mutex_unlock(&c->lock);
	bury(dead);
	if (fresh)
		dirref_free(fresh);
	*out = ref;
	return 0;
}

const struct tree_dir *
dirref_dir(const struct dirref *ref)
{
	return ref->dir;
}

void
dircache_put(struct dircache *c, struct dirref *ref)
{
	struct dirref *dead = NULL;

	if (!ref)
		return;
	pthread_mutex_lock(&c->lock);
	assert(ref->users > 0);
	if (--ref->users == 0 && c->bytes > c->max_bytes)
		dead = evict(c);
	pthread_mutex_unlock(&c->lock);
	bury(dead);
}

uint64_t
dircache_decoded(struct dircache *c)
{
	uint64_t n;

	pthread_mutex_lock(&c->lock);
	n = c->decoded;
	pthread_mutex_unlock(&c->lock);
	return n;
}

size_t
dircache_bytes(struct dircache *c)
{
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = c->bytes;
	pthread_mutex_unlock(&c->lock);
	return n;
}
