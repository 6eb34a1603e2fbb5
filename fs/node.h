/*
 * node: the inodes that somebody refers to, by number.
 *
 * A number is a keyed hash of the parent's number and the name, so it is the same after a remount
 * and on another machine.  Two names that fall on one number are told apart by a second hash; the
 * later one gets the next free number and keeps it as long as the table lives.
 *
 * Invariants: a node is in the table while somebody looked it up, pins it, or a child of it is
 * there; what node_insert() was given in `body`, `scope` and `name` does not change afterwards.
 *
 * Threads: safe.  One mutex guards the table and is never held while anything else is called
 * but `release`, which must not call back.
 */
#ifndef FS_NODE_H
#define FS_NODE_H

#include "store/content.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_ROOT_INO 1

struct place;
struct catalog_snapshot;
struct node_table;

/* A directory's content, to open it without asking its parents, and the name it is cached by. */
struct node_dir {
	struct content content;
	uint8_t key[FINGERPRINT_LEN];
};

struct node {
	/* The table's own. */
	uint64_t ino, check;
	uint64_t nlookup;
	uint64_t pins; /* callers at work, and children */
	struct node *chain;
	/* Set before node_insert(). */
	struct node *parent;           /* NULL for the root */
	const struct place *place;     /* what kind of thing it is: fs/view.c */
	struct catalog_snapshot *snap; /* where a snapshot or part begins */
	struct node_dir *dir;          /* directories inside a snapshot */
	size_t index;                  /* in the parent's directory, or of the part */
	uint64_t scope;                /* inode of the tree's top, inside one; else 0 */
	/* The pattern of reading. */
	_Atomic uint64_t read_next, read_ahead;
	char name[];
};

/* What a node is known by. */
struct node_id {
	uint64_t ino, check;
};

/*
 * `key` has 32 bytes, borrowed.  `ino_mask` limits the numbers, so that a test can make them
 * collide: UINT64_MAX otherwise.  `release` frees what a node owns, then node_discard()s it.
 */
int node_table_new(struct node_table **out, const uint8_t key[32], uint64_t ino_mask,
    void (*release)(struct node *n));
/* Frees every node left. */
void node_table_free(struct node_table *t);

/* A new node, zeroed, with a copy of `name`; NULL if memory ran out. */
struct node *node_new(const char *name);
void node_discard(struct node *n);

/* The identity of `name` (of `len` bytes) below `parent_ino`. */
void node_identify(const struct node_table *t, uint64_t parent_ino, const void *name, size_t len,
    struct node_id *id);

/* The number `id` has, whether it is in the table or not. */
uint64_t node_number(struct node_table *t, const struct node_id *id);

/* The node of a number, pinned, or NULL. */
struct node *node_get(struct node_table *t, uint64_t ino);
/* The node of an identity, pinned, its look-ups raised by `nlookup`; or NULL. */
struct node *node_find(struct node_table *t, const struct node_id *id, uint64_t nlookup);
/*
 * Put `fresh` into the table as `id` and pin it.  If another thread was faster, `fresh` is
 * released and that node is given.  Takes `fresh` also on error.  Errors: ERR_NOMEM.
 */
int node_insert(struct node_table *t, const struct node_id *id, struct node *fresh,
    uint64_t nlookup, struct node **out);
void node_put(struct node_table *t, struct node *n);
void node_forget(struct node_table *t, uint64_t ino, uint64_t nlookup);

/* Nodes in the table. */
size_t node_count(struct node_table *t);

#endif
