/*
 * chunk_cache: decoded chunks by id, the least recently used leaving first.
 *
 * A chunk that is being loaded is claimed, so that two threads never decode the same one: the
 * second waits for the first.  Threads: safe.
 */
#ifndef STORE_CHUNK_CACHE_H
#define STORE_CHUNK_CACHE_H

#include "store/chunk.h"

#include <stdbool.h>
#include <stddef.h>

struct chunk;
struct chunk_cache;

int chunk_cache_new(struct chunk_cache **out, size_t max_bytes);
/* Every chunk still referenced stays valid until it is released. */
void chunk_cache_free(struct chunk_cache *c);

/* A new chunk with one reference and `len` bytes for the caller to fill; NULL: no memory. */
struct chunk *chunk_new(const struct chunk_id *id, size_t len);
uint8_t *chunk_buffer(struct chunk *c);

/*
 * The chunk, with a reference for the caller; or NULL with *claimed set, and then the caller must
 * load it and call chunk_cache_fulfil().  With `wait` false a chunk that another thread is loading
 * gives NULL and not claimed.
 */
struct chunk *chunk_cache_get(
    struct chunk_cache *c, const struct chunk_id *id, bool wait, bool *claimed);
/* End a claim: `chunk` (borrowed) is kept, or NULL: the load failed and a waiter may try. */
void chunk_cache_fulfil(struct chunk_cache *c, const struct chunk_id *id, struct chunk *chunk);
/* Forget everything. */
void chunk_cache_clear(struct chunk_cache *c);

#endif
