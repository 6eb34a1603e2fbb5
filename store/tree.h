/*
 * tree: directories and what is in them.
 *
 * A directory is a content of chunks, each holding whole entries in byte order of their names;
 * chunks are cut where a hash of a name says so, so that one new entry changes one chunk.
 * Layout: docs/format.md.
 */
#ifndef STORE_TREE_H
#define STORE_TREE_H

#include "store/content.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TREE_NAME_MAX   255
#define TREE_PATH_MAX   4096
#define TREE_TARGET_MAX 4095
#define TREE_XATTR_MAX  65536

enum tree_type {
	TREE_FILE = 1,
	TREE_DIR = 2,
	TREE_SYMLINK = 3,
	TREE_FIFO = 4,
	TREE_SOCKET = 5,
	TREE_CHARDEV = 6,
	TREE_BLOCKDEV = 7,
};

struct tree_xattr {
	char *name;
	uint8_t *value;
	size_t len;
};

/* How a file was known on its host: to see that it is unchanged. */
struct tree_identity {
	uint64_t dev, ino;
	int64_t ctime_s;
	uint32_t ctime_ns;
};

struct tree_entry {
	char *name;
	enum tree_type type;
	uint32_t mode; /* permission bits with set-id and sticky, 07777 */
	uint32_t uid, gid;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint64_t rdev;               /* devices */
	uint64_t hardlink;           /* files: equal and not zero = the same file; else 0 */
	bool has_identity;
	struct tree_identity identity;
	char *target;                /* symbolic links */
	size_t nxattrs;
	struct tree_xattr *xattrs;
	struct content content;      /* files and directories */
};

void tree_entry_release(struct tree_entry *e);
int tree_entry_copy(struct tree_entry *to, const struct tree_entry *from);

/* ---- building: paths may come in any order, from any thread ---- */

struct tree_builder;
int tree_builder_new(struct tree_builder **out);
void tree_builder_free(struct tree_builder *tb);

/*
 * Add an entry at `path` ("base/5/1259"; "" is the root, which must be a directory).  Takes what
 * `e` owns, also on error, except e->name, which is ignored.  Missing parents are made with mode
 * 0700 until they are added themselves.  A directory's content is made by finish.  Errors:
 * ERR_EXISTS, ERR_USAGE (a bad path), ERR_NOMEM.
 */
int tree_builder_add(struct tree_builder *tb, const char *path, struct tree_entry *e);

/*
 * Call `fn` for each entry added so far, in path order (parents first).  `e` is borrowed.
 */
int tree_builder_each(struct tree_builder *tb,
    int (*fn)(void *ctx, const char *path, const struct tree_entry *e), void *ctx);

/*
 * Write all directories, bottom up, and give the root entry (name "").  `prev_root` (or NULL) is
 * the predecessor's, for deltas.
 */
int tree_builder_finish(struct tree_builder *tb, struct lane *lane,
    const struct tree_entry *prev_root, struct tree_entry *root);

/* ---- reading ---- */

/* A whole directory, decoded; entries in byte order of names. */
struct tree_dir;
int tree_dir_open(struct tree_dir **out, struct repo_reader *r, const struct content *content);
void tree_dir_close(struct tree_dir *d);
size_t tree_dir_count(const struct tree_dir *d);
/* Borrowed until close. */
const struct tree_entry *tree_dir_at(const struct tree_dir *d, size_t i);
const struct tree_entry *tree_dir_find(const struct tree_dir *d, const char *name);

/* Parse the bytes of one directory chunk, appending to `d`; exported for its fuzz target. */
int tree_dir_decode(struct tree_dir *d, const void *data, size_t len);
int tree_dir_new(struct tree_dir **out);

/*
 * Find `path` below `root` ("" is the root itself); no links are followed.  *out is the caller's,
 * to tree_entry_release().  Errors: ERR_NOTFOUND, ERR_DAMAGED, …
 */
int tree_lookup(struct repo_reader *r, const struct tree_entry *root, const char *path,
    struct tree_entry *out);

/* An entry as stored: encode (with name) and decode; used for a snapshot's root. */
int tree_entry_encode(struct bytes *out, const struct tree_entry *e);
int tree_entry_decode(struct tree_entry *e, struct cursor *in);

/*
 * Visit everything below `root`, directories before what is in them.  `path` is relative, "" for
 * the root.  A non-zero result ends the walk and is returned.  `broken` (or NULL: stop) is told of
 * a directory that cannot be read; 0 goes on behind it.
 */
struct tree_visitor {
	int (*entry)(void *ctx, const char *path, const struct tree_entry *e);
	int (*broken)(void *ctx, const char *path, const struct tree_entry *e, int rc);
	void *ctx;
};
int tree_walk(
    struct repo_reader *r, const struct tree_entry *root, const struct tree_visitor *v);

#endif
