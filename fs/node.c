#include "fs/node.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/fingerprint.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 1024
#define NAME_PART_MAX 512

/* An identity whose own number was taken, and the one it got instead. */
struct displaced {
	struct node_id id;
	uint64_t ino;
};

struct node_table {
	pthread_mutex_t lock; /* protects everything below but the hasher */
	struct fingerprinter *hasher;
	uint64_t ino_mask;
	void (*release)(struct node *n);
	struct node **buckets;
	size_t nbuckets; /* a power of two */
	size_t count;
	struct displaced *displaced;
	size_t ndisplaced;
};

int
node_table_new(struct node_table **out, const uint8_t key[32], uint64_t ino_mask,
    void (*release)(struct node *n))
{
	struct node_table *t = mem_alloc(sizeof(*t));
	int rc = 0;

	*out = NULL;
	if (!t)
		return err_nomem();
	t->ino_mask = ino_mask;
	t->release = release;
	t->nbuckets = FIRST_BUCKETS;
	t->buckets = mem_calloc(t->nbuckets, sizeof(struct node *));
	if (!t->buckets) {
		rc = err_nomem();
		goto out;
	}
	rc = fingerprinter_new(&t->hasher, key);
	if (rc)
		goto out;
	pthread_mutex_init(&t->lock, NULL);
	*out = t;
	t = NULL;
out:
	if (t) {
		free(t->buckets);
		free(t);
	}
	return rc;
}

void
node_table_free(struct node_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->nbuckets; i++)
		while (t->buckets[i]) {
			struct node *n = t->buckets[i];

			t->buckets[i] = n->chain;
			t->release(n);
		}
	fingerprinter_free(t->hasher);
	pthread_mutex_destroy(&t->lock);
	free(t->displaced);
	free(t->buckets);
	free(t);
}

struct node *
node_new(const char *name)
{
	size_t len = strlen(name) + 1;
	struct node *n = mem_alloc(sizeof(*n) + len);

	if (n)
		memcpy(n->name, name, len);
	return n;
}

void
node_discard(struct node *n)
{
	free(n);
}

void
node_identify(const struct node_table *t, uint64_t parent_ino, const void *name, size_t len,
    struct node_id *id)
{
	uint8_t in[8 + NAME_PART_MAX], hash[FINGERPRINT_LEN];

	assert(len <= NAME_PART_MAX);
	le64_store(in, parent_ino);
	memcpy(in + 8, name, len);
	fingerprint(t->hasher, in, 8 + len, hash);
	id->ino = le64_load(hash) & t->ino_mask;
	id->check = le64_load(hash + 8);
	/* 0 is no inode, and 1 is the root. */
	if (id->ino <= NODE_ROOT_INO)
		id->ino += NODE_ROOT_INO + 1;
}

static struct node **
bucket(struct node_table *t, uint64_t ino)
{
	return &t->buckets[(ino ^ ino >> 32) & (t->nbuckets - 1)];
}

static struct node *
by_ino(struct node_table *t, uint64_t ino)
{
	struct node *n = *bucket(t, ino);

	while (n && n->ino != ino)
		n = n->chain;
	return n;
}

/* The number that `id` has or will get, by what is remembered. */
static uint64_t
number_of(struct node_table *t, const struct node_id *id)
{
	for (size_t i = 0; i < t->ndisplaced; i++)
		if (t->displaced[i].id.ino == id->ino && t->displaced[i].id.check == id->check)
			return t->displaced[i].ino;
	return id->ino;
}

static struct node *
by_id(struct node_table *t, const struct node_id *id)
{
	struct node *n = by_ino(t, number_of(t, id));

	return n && n->check == id->check ? n : NULL;
}

static bool
taken(struct node_table *t, uint64_t ino)
{
	for (size_t i = 0; i < t->ndisplaced; i++)
		if (t->displaced[i].ino == ino)
			return true;
	return by_ino(t, ino) != NULL;
}

/* A number for `id`, remembered if it is not its own. */
static int
choose_number(struct node_table *t, const struct node_id *id, uint64_t *ino)
{
	struct displaced *grown;

	*ino = number_of(t, id);
	if (*ino != id->ino || !taken(t, *ino))
		return 0;
	while (taken(t, *ino) || *ino <= NODE_ROOT_INO)
		(*ino)++;
	grown = mem_realloc(t->displaced, (t->ndisplaced + 1) * sizeof(*grown));
	if (!grown)
		return err_nomem();
	t->displaced = grown;
	t->displaced[t->ndisplaced++] = (struct displaced){ .id = *id, .ino = *ino };
	return 0;
}

/* Four nodes a bucket, then twice as many buckets; when memory is short the chains get longer. */
static void
grow(struct node_table *t)
{
	struct node **old = t->buckets, **fresh;
	size_t nold = t->nbuckets;

	if (t->count < 4 * nold)
		return;
	fresh = mem_calloc(2 * nold, sizeof(struct node *));
	if (!fresh)
		return;
	t->buckets = fresh;
	t->nbuckets = 2 * nold;
	for (size_t i = 0; i < nold; i++)
		while (old[i]) {
			struct node *n = old[i], **b = bucket(t, n->ino);

			old[i] = n->chain;
			n->chain = *b;
			*b = n;
		}
	free(old);
}

uint64_t
node_number(struct node_table *t, const struct node_id *id)
{
	uint64_t ino;

	pthread_mutex_lock(&t->lock);
	ino = number_of(t, id);
	pthread_mutex_unlock(&t->lock);
	return ino;
}

struct node *
node_get(struct node_table *t, uint64_t ino)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	n = by_ino(t, ino);
	if (n)
		n->pins++;
	pthread_mutex_unlock(&t->lock);
	return n;
}

struct node *
node_find(struct node_table *t, const struct node_id *id, uint64_t nlookup)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	n = by_id(t, id);
	if (n) {
		n->pins++;
		n->nlookup += nlookup;
	}
	pthread_mutex_unlock(&t->lock);
	return n;
}

int
node_insert(struct node_table *t, const struct node_id *id, struct node *fresh, uint64_t nlookup,
    struct node **out)
{
	struct node *n;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	n = by_id(t, id);
	if (!n)
		rc = fresh->parent ? choose_number(t, id, &fresh->ino) : 0;
	if (!n && !rc) {
		struct node **b;

		/* The root keeps the number it was made with. */
		if (!fresh->parent)
			fresh->ino = NODE_ROOT_INO;
		else
			fresh->parent->pins++;
		fresh->check = id->check;
		grow(t);
		b = bucket(t, fresh->ino);
		fresh->chain = *b;
		*b = fresh;
		t->count++;
		n = fresh;
		fresh = NULL;
	}
	if (n) {
		n->pins++;
		n->nlookup += nlookup;
	}
	pthread_mutex_unlock(&t->lock);
	if (fresh)
		t->release(fresh);
	*out = n;
	return rc;
}

/* Take out and chain up what nobody refers to: `n`, and then parents that lost their last child. */
static struct node *
collect(struct node_table *t, struct node *n)
{
	struct node *dead = NULL;

	while (n && n->pins == 0 && n->nlookup == 0 && n->parent) {
		struct node **at = bucket(t, n->ino), *parent = n->parent;

		while (*at != n)
			at = &(*at)->chain;
		*at = n->chain;
		t->count--;
		n->chain = dead;
		dead = n;
		assert(parent->pins > 0);
		parent->pins--;
		n = parent;
	}
	return dead;
}

static void
bury(struct node_table *t, struct node *dead)
{
	while (dead) {
		struct node *next = dead->chain;

		t->release(dead);
		dead = next;
	}
}

void
node_put(struct node_table *t, struct node *n)
{
	struct node *dead;

	if (!n)
		return;
	pthread_mutex_lock(&t->lock);
	assert(n->pins > 0);
	n->pins--;
	dead = collect(t, n);
	pthread_mutex_unlock(&t->lock);
	bury(t, dead);
}

void
node_forget(struct node_table *t, uint64_t ino, uint64_t nlookup)
{
	struct node *n, *dead = NULL;

	pthread_mutex_lock(&t->lock);
	n = by_ino(t, ino);
	if (n) {
		n->nlookup -= nlookup < n->nlookup ? nlookup : n->nlookup;
		dead = collect(t, n);
	}
	pthread_mutex_unlock(&t->lock);
	bury(t, dead);
}

size_t
node_count(struct node_table *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->count;
	pthread_mutex_unlock(&t->lock);
	return n;
}
