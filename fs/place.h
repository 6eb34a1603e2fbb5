/*
 * place: the kinds of things a mount consists of, and what is in each.
 *
 *   root -> source -> snapshots -> tree …           a snapshot of one part
 *                              \-> parts -> tree …  one of several
 *                              \-> latest -> …       the newest of them once more
 *
 * Each kind is a `struct place`.  What a source's directory has is a table in fs/place.c: another
 * directory beside snapshots/ is one row and one place more.
 *
 * Threads: a place_dir or place_entry belongs to one thread at a time; the world is shared.
 */
#ifndef FS_PLACE_H
#define FS_PLACE_H

#include "fs/catalog.h"
#include "fs/dircache.h"
#include "fs/node.h"
#include "fs/view.h"

#include <stdbool.h>
#include <stddef.h>

/* What the places look at; borrowed, all of it. */
struct world {
	struct view_opts opts;
	struct repo_reader *reader;
	struct catalog *catalog;
	struct dircache *dirs;
	int64_t created_us; /* the time of what has none of its own */
};

/* A directory at one instant. */
struct place_dir {
	const struct world *world;
	struct node *node; /* borrowed */
	size_t count;
	struct catalog_edition *edition;
	const struct catalog_source *source;
	struct dirref *ref;
};

/* Something in a directory; its pointers are borrowed until place_close(). */
struct place_child {
	const struct place *place;
	const char *name;
	const char *salt; /* distinguishes it from others that had the name, or NULL */
	struct catalog_snapshot *snap;
	const struct tree_entry *entry; /* things inside a snapshot */
	size_t index;
};

struct place {
	bool immutable, name_immutable; /* as in struct view_attr */
	/* Fill `count` and what at and find need; NULL if it is no directory of ours. */
	int (*open)(struct place_dir *d);
	void (*at)(const struct place_dir *d, size_t i, struct place_child *c);
	bool (*find)(const struct place_dir *d, const char *name, struct place_child *c);
	/* Attributes of what is not a tree entry. */
	int (*attr)(const struct world *w, const struct node *n, struct stat *st);
};

extern const struct place place_root;

/* Errors: ERR_NOTFOUND (gone, or no directory), and those of reading a directory. */
int place_open(struct place_dir *d, const struct world *w, struct node *node);
void place_close(struct place_dir *d);
/* Entry `i` of `count`. */
void place_at(const struct place_dir *d, size_t i, struct place_child *c);
bool place_find(const struct place_dir *d, const char *name, struct place_child *c);

/* Whether the node is something inside a snapshot, with an entry as stored. */
bool place_is_tree(const struct node *n);

/* The entry of a node for which place_is_tree() holds, valid until it is closed. */
struct place_entry {
	const struct tree_entry *entry;
	struct dirref *ref;
};
int place_entry_open(struct place_entry *e, const struct world *w, const struct node *n);
void place_entry_close(struct place_entry *e, const struct world *w);

/* The attributes of `n`; `entry` saves finding it again, or is NULL. */
int place_attr(const struct world *w, const struct node *n, const struct tree_entry *entry,
    struct view_attr *attr);

#endif
