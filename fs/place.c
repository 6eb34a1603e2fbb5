#include "fs/place.h"

#include "store/base/err.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNTHETIC_DIR_MODE (S_IFDIR | 0555)
#define BLOCK_BYTES        512
#define IO_BYTES           (64u << 10)
#define NS_PER_S           1000000000u

static const struct place place_source, place_snapshots, place_parts, place_top, place_tree;

/* What a source's directory has in it. */
static const struct facet {
	const char *name;
	const struct place *place;
} facets[] = {
	{ "snapshots", &place_snapshots },
};
#define NFACETS (sizeof(facets) / sizeof(facets[0]))

/* ---- attributes ---- */

static void
set_times(struct stat *st, int64_t s, long ns)
{
	st->st_mtim = (struct timespec){ .tv_sec = s, .tv_nsec = ns };
	st->st_ctim = st->st_mtim;
	st->st_atim = st->st_mtim;
}

static void
set_times_us(struct stat *st, int64_t us)
{
	int64_t s = us / 1000000, rest = us % 1000000;

	if (rest < 0) {
		rest += 1000000;
		s--;
	}
	set_times(st, s, (long)rest * 1000);
}

/* What the mount itself adds belongs to whoever mounted, and anyone may look. */
static void
set_synthetic(const struct world *w, mode_t mode, int64_t us, struct stat *st)
{
	st->st_mode = mode;
	st->st_nlink = 1;
	st->st_uid = w->opts.map_owner ? w->opts.uid : geteuid();
	st->st_gid = w->opts.map_owner ? w->opts.gid : getegid();
	set_times_us(st, us);
}

static mode_t
type_bits(enum tree_type type)
{
	switch (type) {
	case TREE_DIR:
		return S_IFDIR;
	case TREE_SYMLINK:
		return S_IFLNK;
	case TREE_FIFO:
		return S_IFIFO;
	case TREE_SOCKET:
		return S_IFSOCK;
	case TREE_CHARDEV:
		return S_IFCHR;
	case TREE_BLOCKDEV:
		return S_IFBLK;
	case TREE_FILE:
		break;
	}
	return S_IFREG;
}

static void
set_entry(const struct world *w, const struct tree_entry *e, struct stat *st)
{
	uint64_t size =
	    e->type == TREE_SYMLINK ? (e->target ? strlen(e->target) : 0) : e->content.size;

	st->st_mode = type_bits(e->type) | (e->mode & 07777);
	st->st_uid = w->opts.map_owner ? w->opts.uid : e->uid;
	st->st_gid = w->opts.map_owner ? w->opts.gid : e->gid;
	st->st_rdev = e->rdev;
	/*
	 * A directory's count is 1, which tells find(1) that it says nothing about subdirectories.
	 * Of a file with several names only that is known, not how many; programs that keep hard
	 * links look at files with more than one.
	 */
	st->st_nlink = e->hardlink ? 2 : 1;
	st->st_size = size > INT64_MAX ? INT64_MAX : (off_t)size;
	if (e->type == TREE_FILE)
		st->st_blocks = st->st_size / BLOCK_BYTES + (st->st_size % BLOCK_BYTES != 0);
	set_times(st, e->mtime_s, e->mtime_ns < NS_PER_S ? (long)e->mtime_ns : 0);
}

int
place_attr(const struct world *w, const struct node *n, const struct tree_entry *entry,
    struct view_attr *attr)
{
	struct place_entry found = { 0 };
	int rc = 0;

	memset(attr, 0, sizeof(*attr));
	attr->immutable = n->place->immutable;
	attr->name_immutable = n->place->name_immutable;
	attr->st.st_ino = n->ino;
	attr->st.st_blksize = IO_BYTES;
	if (!place_is_tree(n))
		return n->place->attr(w, n, &attr->st);
	if (!entry) {
		rc = place_entry_open(&found, w, n);
		entry = found.entry;
	}
	if (!rc)
		set_entry(w, entry, &attr->st);
	place_entry_close(&found, w);
	return rc;
}

/* ---- the root: sources ---- */

static int
root_open(struct place_dir *d)
{
	d->edition = catalog_get(d->world->catalog);
	d->count = d->edition->nsources;
	return 0;
}

static void
root_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	c->place = &place_source;
	c->name = d->edition->sources[i].name;
}

static bool
root_find(const struct place_dir *d, const char *name, struct place_child *c)
{
	const struct catalog_source *s = catalog_find_source(d->edition, name);

	c->place = &place_source;
	if (s)
		c->name = s->name;
	return s != NULL;
}

static int
root_attr(const struct world *w, const struct node *n, struct stat *st)
{
	struct catalog_edition *e = catalog_get(w->catalog);

	(void)n;
	set_synthetic(w, SYNTHETIC_DIR_MODE, e->nsources ? e->newest_us : w->created_us, st);
	catalog_edition_put(e);
	return 0;
}

const struct place place_root = {
	.name_immutable = true,
	.open = root_open,
	.at = root_at,
	.find = root_find,
	.attr = root_attr,
};

/* ---- a source: its facets ---- */

static int
source_open(struct place_dir *d)
{
	d->count = NFACETS;
	return 0;
}

static void
source_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	(void)d;
	c->place = facets[i].place;
	c->name = facets[i].name;
}

static bool
source_has(const struct place_dir *d, const char *name, struct place_child *c)
{
	for (size_t i = 0; i < NFACETS; i++)
		if (strcmp(facets[i].name, name) == 0) {
			source_at(d, i, c);
			return true;
		}
	return false;
}

static int
attr_of_source(const struct world *w, const char *name, struct stat *st)
{
	struct catalog_edition *e = catalog_get(w->catalog);
	const struct catalog_source *s = catalog_find_source(e, name);
	int rc = 0;

	if (s)
		set_synthetic(w, SYNTHETIC_DIR_MODE, s->newest_us, st);
	else
		rc = err_set(ERR_NOTFOUND, "the source %s is gone", name);
	catalog_edition_put(e);
	return rc;
}

static int
source_attr(const struct world *w, const struct node *n, struct stat *st)
{
	return attr_of_source(w, n->name, st);
}

static const struct place place_source = {
	.open = source_open,
	.at = source_at,
	.find = source_has,
	.attr = source_attr,
};

/* ---- snapshots/: each by its name, and the newest once more as "latest" ---- */

static int
snapshots_open(struct place_dir *d)
{
	const char *name = d->node->parent->name;

	d->edition = catalog_get(d->world->catalog);
	d->source = catalog_find_source(d->edition, name);
	if (!d->source)
		return err_set(ERR_NOTFOUND, "the source %s is gone", name);
	d->count = d->source->nsnapshots ? d->source->nsnapshots + 1 : 0;
	return 0;
}

static void
snapshot_child(struct catalog_snapshot *snap, struct place_child *c)
{
	c->name = snap->name;
	c->snap = snap;
	if (snap->nparts > 1) {
		c->place = &place_parts;
		return;
	}
	c->place = &place_top;
	c->entry = &snap->parts[0].root;
}

static void
snapshots_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	size_t n = d->source->nsnapshots;

	if (i < n) {
		snapshot_child(d->source->snapshots[i], c);
		return;
	}
	/*
	 * A directory and not a link to one, because "cp -a …/latest COPY" would copy the link.
	 * Another snapshot is another inode, so nobody has to be told when a newer one comes, and
	 * who is inside the older one stays there.
	 */
	snapshot_child(d->source->snapshots[n - 1], c);
	c->salt = c->name;
	c->name = CATALOG_LATEST_NAME;
}

static bool
snapshots_find(const struct place_dir *d, const char *name, struct place_child *c)
{
	struct catalog_snapshot *snap;

	if (d->count && strcmp(name, CATALOG_LATEST_NAME) == 0) {
		snapshots_at(d, d->count - 1, c);
		return true;
	}
	snap = catalog_find_snapshot(d->source, name);
	if (snap)
		snapshot_child(snap, c);
	return snap != NULL;
}

static int
snapshots_attr(const struct world *w, const struct node *n, struct stat *st)
{
	return attr_of_source(w, n->parent->name, st);
}

static const struct place place_snapshots = {
	.open = snapshots_open,
	.at = snapshots_at,
	.find = snapshots_find,
	.attr = snapshots_attr,
};

/* ---- a snapshot of several parts ---- */

static int
parts_open(struct place_dir *d)
{
	d->count = d->node->snap->nparts;
	return 0;
}

static void
parts_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	c->place = &place_top;
	c->snap = d->node->snap;
	c->name = c->snap->parts[i].name;
	c->entry = &c->snap->parts[i].root;
	c->index = i;
}

static bool
parts_find(const struct place_dir *d, const char *name, struct place_child *c)
{
	for (size_t i = 0; i < d->count; i++)
		if (strcmp(d->node->snap->parts[i].name, name) == 0) {
			parts_at(d, i, c);
			return true;
		}
	return false;
}

static int
parts_attr(const struct world *w, const struct node *n, struct stat *st)
{
	set_synthetic(w, SYNTHETIC_DIR_MODE, n->snap->time_us, st);
	return 0;
}

static const struct place place_parts = {
	.immutable = true,
	.open = parts_open,
	.at = parts_at,
	.find = parts_find,
	.attr = parts_attr,
};

/* ---- inside a snapshot: the entries as stored ---- */

static int
tree_open(struct place_dir *d)
{
	const struct node *n = d->node;
	int rc;

	if (!n->dir)
		return err_set(ERR_NOTFOUND, "%s is not a directory", n->name);
	rc = dircache_get(d->world->dirs, &n->dir->content, n->dir->key, &d->ref);
	if (!rc)
		d->count = tree_dir_count(dirref_dir(d->ref));
	return rc;
}

static void
tree_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	c->place = &place_tree;
	c->entry = tree_dir_at(dirref_dir(d->ref), i);
	c->name = c->entry->name;
	c->index = i;
}

/* By halving: entries are in byte order of their names, and the position is wanted. */
static bool
tree_find(const struct place_dir *d, const char *name, struct place_child *c)
{
	size_t lo = 0, hi = d->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int order = strcmp(tree_dir_at(dirref_dir(d->ref), mid)->name, name);

		if (order == 0) {
			tree_at(d, mid, c);
			return true;
		}
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

/* The beginning of a tree: its entry is in the snapshot's record. */
static const struct place place_top = {
	.immutable = true,
	.open = tree_open,
	.at = tree_at,
	.find = tree_find,
};

static const struct place place_tree = {
	.immutable = true,
	.name_immutable = true,
	.open = tree_open,
	.at = tree_at,
	.find = tree_find,
};

bool
place_is_tree(const struct node *n)
{
	return n->place == &place_tree || n->place == &place_top;
}

int
place_entry_open(struct place_entry *e, const struct world *w, const struct node *n)
{
	const struct node_dir *dir;
	int rc;

	e->entry = NULL;
	e->ref = NULL;
	if (n->place == &place_top) {
		e->entry = &n->snap->parts[n->index].root;
		return 0;
	}
	dir = n->parent->dir;
	rc = dircache_get(w->dirs, &dir->content, dir->key, &e->ref);
	if (!rc)
		e->entry = tree_dir_at(dirref_dir(e->ref), n->index);
	return rc;
}

void
place_entry_close(struct place_entry *e, const struct world *w)
{
	dircache_put(w->dirs, e->ref);
	e->ref = NULL;
	e->entry = NULL;
}

/* ---- any directory ---- */

int
place_open(struct place_dir *d, const struct world *w, struct node *node)
{
	int rc;

	memset(d, 0, sizeof(*d));
	d->world = w;
	d->node = node;
	if (!node->place->open)
		return err_set(ERR_NOTFOUND, "%s is not a directory", node->name);
	rc = node->place->open(d);
	if (rc)
		place_close(d);
	return rc;
}

void
place_close(struct place_dir *d)
{
	dircache_put(d->world->dirs, d->ref);
	catalog_edition_put(d->edition);
	d->ref = NULL;
	d->edition = NULL;
}

void
place_at(const struct place_dir *d, size_t i, struct place_child *c)
{
	memset(c, 0, sizeof(*c));
	d->node->place->at(d, i, c);
}

bool
place_find(const struct place_dir *d, const char *name, struct place_child *c)
{
	memset(c, 0, sizeof(*c));
	return d->node->place->find(d, name, c);
}
