#include "fs/view.h"

#include "fs/notice.h"
#include "fs/place.h"

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/fingerprint.h"
#include "store/repo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIRCACHE_BYTES (48u << 20)
#define STATFS_BLOCK   4096
#define NAME_KEY_MAX   512

/*
 * Reading ahead: what begins within this distance of the last read's end counts as sequential,
 * because a kernel's reads of one file reach us by several threads, in any order.
 */
#define SEQUENTIAL_SLACK (4u << 20)
#define READ_AHEAD_BYTES (8u << 20)

struct view {
	struct world world;
	struct notices *notices;
	struct fingerprinter *hasher; /* for the keys of cached directories */
	struct node_table *nodes;
	struct node *root; /* pinned */
};

struct view_list {
	struct view *v;
	struct node *node; /* pinned */
	struct place_dir dir;
};

/* ---- life ---- */

static void
release_node(struct node *n)
{
	catalog_snapshot_put(n->snap);
	if (n->dir) {
		content_release(&n->dir->content);
		free(n->dir);
	}
	node_discard(n);
}

static int
make_root(struct view *v)
{
	struct node_id id = { .ino = VIEW_ROOT_INO, .check = 0 };
	struct node *n = node_new("");

	if (!n)
		return err_nomem();
	n->place = &place_root;
	return node_insert(v->nodes, &id, n, 0, &v->root);
}

int
view_open(struct view **out, struct repo_reader *r, const struct view_opts *opts)
{
	static const char label[16] = "pastfs inode 1";
	struct view *v = mem_alloc(sizeof(*v));
	const struct repo_header *header = repo_reader_header(r);
	uint8_t key[sizeof(label) + REPO_ID_LEN];
	int rc;

	*out = NULL;
	if (!v)
		return err_nomem();
	if (opts)
		v->world.opts = *opts;
	v->world.reader = r;
	v->world.created_us = header->created_us;
	/* Not secret: it only keeps repositories apart. */
	memcpy(key, label, sizeof(label));
	memcpy(key + sizeof(label), header->repo_id, REPO_ID_LEN);
	rc = notices_new(&v->notices);
	if (!rc)
		rc = fingerprinter_new(&v->hasher, key);
	if (!rc)
		rc = node_table_new(&v->nodes, key, UINT64_MAX, release_node);
	if (!rc)
		rc = dircache_new(&v->world.dirs, r, DIRCACHE_BYTES);
	if (!rc)
		rc = catalog_new(&v->world.catalog, r, v->notices, CATALOG_MAX_AGE_MS);
	if (!rc)
		rc = make_root(v);
	if (rc) {
		view_close(v);
		return rc;
	}
	*out = v;
	return 0;
}

void
view_close(struct view *v)
{
	if (!v)
		return;
	node_table_free(v->nodes);
	catalog_free(v->world.catalog);
	dircache_free(v->world.dirs);
	fingerprinter_free(v->hasher);
	notices_free(v->notices);
	free(v);
}

static int
get_node(struct view *v, uint64_t ino, struct node **out)
{
	*out = node_get(v->nodes, ino);
	if (!*out)
		return err_set(ERR_NOTFOUND, "no such inode: %llu", (unsigned long long)ino);
	return 0;
}

/* ---- nodes ---- */

/* What makes the node of `c`: the name below the directory, or the file several names have. */
static void
identify(struct view *v, const struct node *dir, const struct place_child *c, struct node_id *id)
{
	/* No name has a NUL in it, so neither form is ever a name's. */
	static const char hardlink_label[] = "\0hard link";
	char key[NAME_KEY_MAX];
	size_t len = strnlen(c->name, CATALOG_NAME_MAX);

	if (c->entry && c->entry->hardlink && dir->scope) {
		memcpy(key, hardlink_label, sizeof(hardlink_label));
		le64_store(key + sizeof(hardlink_label), c->entry->hardlink);
		node_identify(v->nodes, dir->scope, key, sizeof(hardlink_label) + 8, id);
		return;
	}
	memcpy(key, c->name, len);
	if (c->salt) {
		size_t salt_len = strnlen(c->salt, CATALOG_NAME_MAX);

		key[len] = 0;
		memcpy(key + len + 1, c->salt, salt_len);
		len += 1 + salt_len;
	}
	node_identify(v->nodes, dir->ino, key, len, id);
}

static int
make_node(struct view *v, struct node *dir, const struct place_child *c, const struct node_id *id,
    struct node **out)
{
	struct node *n = node_new(c->name);
	int rc = 0;

	*out = NULL;
	if (!n)
		return err_nomem();
	n->parent = dir;
	n->place = c->place;
	n->index = c->index;
	if (c->entry)
		n->scope = dir->scope ? dir->scope : id->ino;
	if (c->snap)
		n->snap = catalog_snapshot_take(c->snap);
	if (c->entry && c->entry->type == TREE_DIR) {
		n->dir = mem_alloc(sizeof(*n->dir));
		rc = n->dir ? content_copy(&n->dir->content, &c->entry->content) : err_nomem();
		if (rc) {
			free(n->dir);
			n->dir = NULL;
			goto out;
		}
		dircache_key(v->hasher, &n->dir->content, n->dir->key);
	}
	*out = n;
	n = NULL;
out:
	if (n)
		release_node(n);
	return rc;
}

/* The node of `c` in `dir`, looked up once more, with its attributes. */
static int
enter(struct view *v, struct node *dir, const struct place_child *c, struct view_attr *attr)
{
	struct node_id id;
	struct node *n, *fresh;
	int rc = 0;

	identify(v, dir, c, &id);
	n = node_find(v->nodes, &id, 1);
	if (!n) {
		rc = make_node(v, dir, c, &id, &fresh);
		if (!rc)
			rc = node_insert(v->nodes, &id, fresh, 1, &n);
		if (rc)
			return rc;
	}
	rc = place_attr(&v->world, n, c->entry, attr);
	if (rc)
		node_forget(v->nodes, n->ino, 1);
	node_put(v->nodes, n);
	return rc;
}

/* "." and "..", by which an NFS server finds its way. */
static int
lookup_dots(struct view *v, struct node *dir, const char *name, struct view_attr *attr)
{
	struct node *n = name[1] == '.' && dir->parent ? dir->parent : dir;
	struct node_id id = { .ino = n->ino, .check = n->check };
	int rc = place_attr(&v->world, n, NULL, attr);

	if (!rc)
		node_put(v->nodes, node_find(v->nodes, &id, 1));
	return rc;
}

int
view_lookup(struct view *v, uint64_t parent, const char *name, struct view_attr *attr)
{
	struct node *dir = NULL;
	struct place_dir d;
	struct place_child c;
	int rc;

	rc = get_node(v, parent, &dir);
	if (rc)
		return rc;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		rc = lookup_dots(v, dir, name, attr);
		goto out;
	}
	rc = place_open(&d, &v->world, dir);
	if (rc)
		goto out;
	if (place_find(&d, name, &c))
		rc = enter(v, dir, &c, attr);
	else
		rc = err_set(ERR_NOTFOUND, "no such name: %s", name);
	place_close(&d);
out:
	node_put(v->nodes, dir);
	return rc;
}

void
view_forget(struct view *v, uint64_t ino, uint64_t nlookup)
{
	node_forget(v->nodes, ino, nlookup);
}

int
view_getattr(struct view *v, uint64_t ino, struct view_attr *attr)
{
	struct node *n;
	int rc = get_node(v, ino, &n);

	if (rc)
		return rc;
	rc = place_attr(&v->world, n, NULL, attr);
	node_put(v->nodes, n);
	return rc;
}

/* ---- what is in a file ---- */

/* Pin a node inside a snapshot and open its entry. */
static int
open_entry(struct view *v, uint64_t ino, struct node **n, struct place_entry *e)
{
	int rc = get_node(v, ino, n);

	if (rc)
		return rc;
	if (place_is_tree(*n))
		rc = place_entry_open(e, &v->world, *n);
	else
		rc = err_set(ERR_NOTFOUND, "%s is not in a snapshot", (*n)->name);
	if (rc) {
		node_put(v->nodes, *n);
		*n = NULL;
	}
	return rc;
}

static void
close_entry(struct view *v, struct node *n, struct place_entry *e)
{
	place_entry_close(e, &v->world);
	node_put(v->nodes, n);
}

int
view_readlink(struct view *v, uint64_t ino, char *buf, size_t size)
{
	struct node *n;
	struct place_entry e = { 0 };
	int rc = open_entry(v, ino, &n, &e);

	if (rc)
		return rc;
	if (e.entry->type == TREE_SYMLINK && e.entry->target)
		snprintf(buf, size, "%s", e.entry->target);
	else
		rc = err_set(ERR_USAGE, "%s is not a symbolic link", n->name);
	close_entry(v, n, &e);
	return rc;
}

/*
 * If this read goes on where others ended, have what follows decoded meanwhile, on other
 * processors.  Two threads that race here at worst ask twice for the same chunks.
 */
static void
read_ahead(struct view *v, struct node *n, const struct content *c, uint64_t off, size_t len)
{
	uint64_t next = atomic_load_explicit(&n->read_next, memory_order_relaxed);
	uint64_t ahead = atomic_load_explicit(&n->read_ahead, memory_order_relaxed);
	uint64_t end = off + len;
	bool sequential = off <= next + SEQUENTIAL_SLACK && off + SEQUENTIAL_SLACK >= next;

	/* A file's very beginning is worth it only if the whole read is: many programs peek. */
	if (next == 0 && len < READ_AHEAD_BYTES / 64)
		sequential = false;
	if (!sequential) {
		atomic_store_explicit(&n->read_next, end, memory_order_relaxed);
		atomic_store_explicit(&n->read_ahead, 0, memory_order_relaxed);
		return;
	}
	if (end > next)
		atomic_store_explicit(&n->read_next, end, memory_order_relaxed);
	if (ahead < end)
		ahead = end;
	if (ahead >= c->size || ahead - end > READ_AHEAD_BYTES / 2)
		return;
	atomic_store_explicit(&n->read_ahead, end + READ_AHEAD_BYTES, memory_order_relaxed);
	content_prefetch(v->world.reader, c, ahead, end + READ_AHEAD_BYTES - ahead);
}

int
view_read(struct view *v, uint64_t ino, void *buf, size_t len, uint64_t off, size_t *got)
{
	struct node *n;
	struct place_entry e = { 0 };
	int rc = open_entry(v, ino, &n, &e);

	*got = 0;
	if (rc)
		return rc;
	if (e.entry->type != TREE_FILE) {
		rc = err_set(ERR_USAGE, "%s is not a file", n->name);
	} else if (off < e.entry->content.size && len > 0) {
		read_ahead(v, n, &e.entry->content, off, len);
		rc = content_pread(v->world.reader, &e.entry->content, buf, len, off, got);
	}
	close_entry(v, n, &e);
	return rc;
}

int
view_getxattr(struct view *v, uint64_t ino, const char *name, void *buf, size_t size, size_t *len)
{
	struct node *n;
	struct place_entry e = { 0 };
	int rc = open_entry(v, ino, &n, &e);

	if (rc)
		return rc;
	rc = err_set(ERR_NOTFOUND, "no attribute %s", name);
	for (size_t i = 0; i < e.entry->nxattrs && rc; i++) {
		const struct tree_xattr *x = &e.entry->xattrs[i];

		if (strcmp(x->name, name) != 0)
			continue;
		*len = x->len;
		if (x->len && x->len <= size)
			memcpy(buf, x->value, x->len);
		rc = 0;
	}
	close_entry(v, n, &e);
	return rc;
}

int
view_listxattr(struct view *v, uint64_t ino, void *buf, size_t size, size_t *len)
{
	struct node *n;
	struct place_entry e = { 0 };
	int rc = get_node(v, ino, &n);

	*len = 0;
	if (rc)
		return rc;
	if (!place_is_tree(n)) {
		node_put(v->nodes, n);
		return 0;
	}
	node_put(v->nodes, n);
	rc = open_entry(v, ino, &n, &e);
	if (rc)
		return rc;
	for (size_t i = 0; i < e.entry->nxattrs; i++)
		*len += strlen(e.entry->xattrs[i].name) + 1;
	if (*len <= size) {
		char *to = buf;

		for (size_t i = 0; i < e.entry->nxattrs; i++) {
			size_t n_bytes = strlen(e.entry->xattrs[i].name) + 1;

			memcpy(to, e.entry->xattrs[i].name, n_bytes);
			to += n_bytes;
		}
	}
	close_entry(v, n, &e);
	return 0;
}

/* ---- listing ---- */

int
view_list_open(struct view *v, uint64_t ino, struct view_list **out)
{
	struct view_list *l = mem_alloc(sizeof(*l));
	int rc;

	*out = NULL;
	if (!l)
		return err_nomem();
	l->v = v;
	rc = get_node(v, ino, &l->node);
	if (!rc)
		rc = place_open(&l->dir, &v->world, l->node);
	if (rc) {
		node_put(v->nodes, l->node);
		free(l);
		return rc;
	}
	*out = l;
	return 0;
}

int
view_list_at(struct view_list *l, size_t i, const char **name, struct view_attr *attr)
{
	struct place_child c;

	if (i < 2) {
		const struct node *n = i == 1 && l->node->parent ? l->node->parent : l->node;

		*name = i == 0 ? "." : "..";
		return attr ? place_attr(&l->v->world, n, NULL, attr) : 0;
	}
	if (i - 2 >= l->dir.count)
		return 1;
	place_at(&l->dir, i - 2, &c);
	*name = c.name;
	return attr ? enter(l->v, l->node, &c, attr) : 0;
}

void
view_list_close(struct view_list *l)
{
	if (!l)
		return;
	place_close(&l->dir);
	node_put(l->v->nodes, l->node);
	free(l);
}

/* ---- the whole ---- */

/* Put `text` before what is in the end of `buf`, from *at on; false when there is no room. */
static bool
prepend(char *buf, size_t *at, const char *text)
{
	size_t len = strlen(text);

	if (len > *at)
		return false;
	*at -= len;
	memcpy(buf + *at, text, len);
	return true;
}

void
view_path(struct view *v, uint64_t ino, char *buf, size_t size)
{
	struct node *n = node_get(v->nodes, ino);
	size_t at = size - 1;

	if (size == 0)
		goto out;
	buf[at] = 0;
	/* Parents stay as long as the child is pinned. */
	for (const struct node *p = n; p && p->parent; p = p->parent)
		if (!prepend(buf, &at, p->name) || !prepend(buf, &at, p->parent->parent ? "/" : ""))
			break;
	memmove(buf, buf + at, size - at);
out:
	node_put(v->nodes, n);
}

int
view_statfs(struct view *v, struct statvfs *st)
{
	uint64_t free_bytes = 0, total_bytes = 0;
	struct catalog_edition *e;
	int rc;

	memset(st, 0, sizeof(*st));
	rc = backend_space(repo_reader_backend(v->world.reader), &free_bytes, &total_bytes);
	if (rc && rc != ERR_UNSUPPORTED)
		return rc;
	st->f_bsize = STATFS_BLOCK;
	st->f_frsize = STATFS_BLOCK;
	st->f_blocks = total_bytes / STATFS_BLOCK;
	st->f_bfree = free_bytes / STATFS_BLOCK;
	st->f_bavail = st->f_bfree;
	e = catalog_get(v->world.catalog);
	st->f_files = e->files;
	catalog_edition_put(e);
	st->f_namemax = TREE_NAME_MAX;
	st->f_flag = ST_RDONLY | ST_NOSUID | ST_NODEV;
	return 0;
}
