/*
 * dircache: decoded directories, shared and counted, the least recently used ones dropped.
 *
 * A directory is known by a hash of its chunks, so an unchanged one is decoded once for all the
 * snapshots it is in.  The bound holds for what nobody uses just now; the newest stays in any
 * case, so that working in one huge directory does not decode it again and again.
 *
 * Threads: safe.  The mutex is not held while a directory is read and decoded.
 */
#ifndef FS_DIRCACHE_H
#define FS_DIRCACHE_H

#include "store/tree.h"

#include <stddef.h>
#include <stdint.h>

struct dircache;
struct dirref;
struct fingerprinter;
struct repo_reader;

/* `r` is borrowed until dircache_free(). */
int dircache_new(struct dircache **out, struct repo_reader *r, size_t max_bytes);
void dircache_free(struct dircache *c);

/* The name of a directory in the cache. */
void dircache_key(
    const struct fingerprinter *f, const struct content *content, uint8_t key[FINGERPRINT_LEN]);

/* Errors: as tree_dir_open(). */
int dircache_get(struct dircache *c, const struct content *content,
    const uint8_t key[FINGERPRINT_LEN], struct dirref **out);
/* Borrowed until dircache_put(). */
const struct tree_dir *dirref_dir(const struct dirref *ref);
/* NULL is allowed. */
void dircache_put(struct dircache *c, struct dirref *ref);

/* Directories decoded so far, and bytes kept now. */
uint64_t dircache_decoded(struct dircache *c);
size_t dircache_bytes(struct dircache *c);

#endif
