/*
 * Building a tree: entries collect in memory by path, then every directory is written, bottom up.
 *
 * Nodes hang in a hash table by (parent, name) and in their parent's list of children.
 * Threads: one mutex protects everything until finish.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo.h"
#include "store/tree.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 1024
#define CUT_MASK      0xff         /* a directory chunk has 256 entries on average */
#define CUT_MAX_BYTES (256u << 10) /* and is cut at this size at the latest */

struct node {
	struct tree_entry entry; /* its name is the last part of the path */
	bool added;              /* not only made as somebody's parent */
	struct node *parent;
	struct node *hash_next;
	size_t nchildren, cap;
	struct node **children;
};

struct tree_builder {
	pthread_mutex_t lock;
	struct node root;
	size_t nnodes, nbuckets;
	struct node **buckets;
};

int
tree_builder_new(struct tree_builder **out)
{
	struct tree_builder *tb = mem_alloc(sizeof(*tb));

	*out = NULL;
	if (!tb)
		return err_nomem();
	tb->nbuckets = FIRST_BUCKETS;
	tb->buckets = mem_calloc(tb->nbuckets, sizeof(struct node *));
	if (!tb->buckets) {
		free(tb);
		return err_nomem();
	}
	pthread_mutex_init(&tb->lock, NULL);
	tb->root.entry.type = TREE_DIR;
	tb->root.entry.mode = 0700;
	*out = tb;
	return 0;
}

static void
free_children(struct node *n)
{
	for (size_t i = 0; i < n->nchildren; i++) {
		free_children(n->children[i]);
		tree_entry_release(&n->children[i]->entry);
		free(n->children[i]);
	}
	free(n->children);
}

void
tree_builder_free(struct tree_builder *tb)
{
	if (!tb)
		return;
	free_children(&tb->root);
	tree_entry_release(&tb->root.entry);
	free(tb->buckets);
	pthread_mutex_destroy(&tb->lock);
	free(tb);
}

static size_t
hash_of(const struct node *parent, const char *name, size_t len)
{
	return crc32c((uint32_t)((uintptr_t)parent >> 4), name, len);
}

static void
grow_buckets(struct tree_builder *tb)
{
	size_t n = tb->nbuckets * 4;
	struct node **b = mem_calloc(n, sizeof(struct node *));

	/* Without memory the chains just get longer. */
	if (!b)
		return;
	for (size_t i = 0; i < tb->nbuckets; i++) {
		struct node *x = tb->buckets[i], *next;

		for (; x; x = next) {
			size_t h = hash_of(x->parent, x->entry.name, strlen(x->entry.name)) % n;

			next = x->hash_next;
			x->hash_next = b[h];
			b[h] = x;
		}
	}
	free(tb->buckets);
	tb->buckets = b;
	tb->nbuckets = n;
}

/* The child of `parent` with this name, made if it is not there. */
static int
child_of(
    struct tree_builder *tb, struct node *parent, const char *name, size_t len, struct node **out)
{
	size_t h = hash_of(parent, name, len) % tb->nbuckets;
	struct node *x;

	for (x = tb->buckets[h]; x; x = x->hash_next) {
		if (x->parent == parent && strncmp(x->entry.name, name, len) == 0 &&
		    x->entry.name[len] == '\0') {
			*out = x;
			return 0;
		}
	}
	if (parent->nchildren == parent->cap) {
		size_t cap = parent->cap ? parent->cap * 2 : 4;
		struct node **p = mem_realloc(parent->children, cap * sizeof(struct node *));

		if (!p)
			return err_nomem();
		parent->children = p;
		parent->cap = cap;
	}
	x = mem_alloc(sizeof(*x));
	if (!x)
		return err_nomem();
	x->entry.name = mem_alloc(len + 1);
	if (!x->entry.name) {
		free(x);
		return err_nomem();
	}
	memcpy(x->entry.name, name, len);
	x->entry.type = TREE_DIR;
	x->entry.mode = 0700;
	x->parent = parent;
	x->hash_next = tb->buckets[h];
	tb->buckets[h] = x;
	parent->children[parent->nchildren++] = x;
	if (++tb->nnodes > tb->nbuckets)
		grow_buckets(tb);
	*out = x;
	return 0;
}

static bool
part_is_sane(const char *part, size_t len)
{
	if (len == 0 || len > TREE_NAME_MAX)
		return false;
	return !(part[0] == '.' && (len == 1 || (len == 2 && part[1] == '.')));
}

static int
add_locked(struct tree_builder *tb, const char *path, struct tree_entry *e)
{
	struct node *at = &tb->root;
	const char *p = path;
	char *name;

	while (*p) {
		size_t n = strcspn(p, "/");
		int rc;

		if (!part_is_sane(p, n))
			return err_set(ERR_USAGE, "bad path \"%s\"", path);
		if (at->entry.type != TREE_DIR)
			return err_set(ERR_USAGE, "\"%s\": a part of the path is a file", path);
		rc = child_of(tb, at, p, n, &at);
		if (rc)
			return rc;
		p += n;
		if (*p == '/' && *++p == '\0')
			return err_set(ERR_USAGE, "bad path \"%s\"", path);
	}
	if (at->added)
		return err_set(ERR_EXISTS, "\"%s\" is there twice", path);
	if (e->type != TREE_DIR && (at == &tb->root || at->nchildren > 0))
		return err_set(ERR_USAGE, "\"%s\" must be a directory", path);
	name = at->entry.name;
	free(e->name);
	at->entry = *e;
	at->entry.name = name;
	at->added = true;
	memset(e, 0, sizeof(*e));
	return 0;
}

int
tree_builder_add(struct tree_builder *tb, const char *path, struct tree_entry *e)
{
	int rc;

	pthread_mutex_lock(&tb->lock);
	rc = strlen(path) < TREE_PATH_MAX ? add_locked(tb, path, e)
					  : err_set(ERR_USAGE, "path is too long: %s", path);
	pthread_mutex_unlock(&tb->lock);
	if (rc)
		tree_entry_release(e);
	return rc;
}

static int
compare_nodes(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	return strcmp(x->entry.name, y->entry.name);
}

static void
sort_children(struct node *n)
{
	if (n->nchildren > 1)
		qsort(n->children, n->nchildren, sizeof(struct node *), compare_nodes);
}

static int
each(struct node *n, char *path, size_t len,
    int (*fn)(void *ctx, const char *path, const struct tree_entry *e), void *ctx)
{
	int rc = n->added ? fn(ctx, path, &n->entry) : 0;

	sort_children(n);
	for (size_t i = 0; rc == 0 && i < n->nchildren; i++) {
		size_t room = TREE_PATH_MAX - len;
		int k =
		    snprintf(path + len, room, "%s%s", len ? "/" : "", n->children[i]->entry.name);

		rc = each(n->children[i], path, len + (size_t)k, fn, ctx);
		path[len] = '\0';
	}
	return rc;
}

int
tree_builder_each(struct tree_builder *tb,
    int (*fn)(void *ctx, const char *path, const struct tree_entry *e), void *ctx)
{
	char path[TREE_PATH_MAX] = "";
	int rc;

	pthread_mutex_lock(&tb->lock);
	rc = each(&tb->root, path, 0, fn, ctx);
	pthread_mutex_unlock(&tb->lock);
	return rc;
}

/* ---- writing ---- */

/* Append the entries gathered in `entries` as one chunk. */
static int
put_dir_chunk(struct content_writer *cw, struct bytes *entries, uint32_t n)
{
	uint8_t head[8] = "PFT1";
	int rc;

	le32_store(head + 4, n);
	rc = bytes_status(entries);
	if (rc == 0 && entries->len + sizeof(head) > CHUNK_MAX_BYTES)
		rc = err_set(ERR_FAIL, "a directory entry with its attributes is too large");
	if (rc == 0)
		rc = content_writer_append(cw, head, sizeof(head));
	if (rc == 0)
		rc = content_writer_append(cw, entries->data, entries->len);
	if (rc == 0)
		rc = content_writer_cut(cw);
	bytes_reset(entries);
	return rc;
}

/* Write the sorted children of `n` as its content. */
static int
write_entries(struct node *n, struct lane *lane, const struct content *prev)
{
	struct content_writer *cw = NULL;
	struct bytes entries;
	uint32_t count = 0;
	int rc;

	bytes_init(&entries);
	content_release(&n->entry.content);
	rc = content_writer_new(&cw, lane, CHUNKING_RECORDS, prev);
	for (size_t i = 0; rc == 0 && i < n->nchildren; i++) {
		const struct tree_entry *e = &n->children[i]->entry;

		rc = tree_entry_encode(&entries, e);
		count++;
		/* Where a chunk ends depends on names alone, so it survives neighbours' changes. */
		if (rc == 0 && ((crc32c(0, e->name, strlen(e->name)) & CUT_MASK) == 0 ||
				   entries.len >= CUT_MAX_BYTES)) {
			rc = put_dir_chunk(cw, &entries, count);
			count = 0;
		}
	}
	if (rc == 0 && count > 0)
		rc = put_dir_chunk(cw, &entries, count);
	if (rc == 0)
		rc = content_writer_finish(cw, &n->entry.content);
	content_writer_free(cw);
	bytes_release(&entries);
	return rc;
}

static int
write_dir(struct node *n, struct lane *lane, const struct tree_entry *prev)
{
	struct repo_reader *r = repo_writer_reader(lane_writer(lane));
	struct tree_dir *prev_dir = NULL;
	int rc = 0;

	/* An unreadable predecessor only costs its deltas. */
	if (prev && prev->type == TREE_DIR && tree_dir_open(&prev_dir, r, &prev->content))
		prev_dir = NULL;
	sort_children(n);
	for (size_t i = 0; rc == 0 && i < n->nchildren; i++) {
		struct node *c = n->children[i];

		if (c->entry.type == TREE_DIR)
			rc = write_dir(
			    c, lane, prev_dir ? tree_dir_find(prev_dir, c->entry.name) : NULL);
	}
	tree_dir_close(prev_dir);
	if (rc == 0)
		rc = write_entries(n, lane, prev && prev->type == TREE_DIR ? &prev->content : NULL);
	return rc;
}

int
tree_builder_finish(struct tree_builder *tb, struct lane *lane, const struct tree_entry *prev_root,
    struct tree_entry *root)
{
	int rc;

	memset(root, 0, sizeof(*root));
	pthread_mutex_lock(&tb->lock);
	rc = write_dir(&tb->root, lane, prev_root);
	if (rc == 0)
		rc = tree_entry_copy(root, &tb->root.entry);
	pthread_mutex_unlock(&tb->lock);
	if (rc == 0 && !root->name && !(root->name = mem_strdup(""))) {
		tree_entry_release(root);
		rc = err_nomem();
	}
	return rc;
}
