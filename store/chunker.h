/*
 * chunker: where content that is not a relation's main fork is cut.
 *
 * FastCDC with normalised chunking (level 2) over a 256-entry gear table derived from a key, so
 * that cut points tell nothing to who has not the key.  docs/format.md has the exact function.
 *
 * Threads: a chunker is read-only after creation and may be shared.
 */
#ifndef STORE_CHUNKER_H
#define STORE_CHUNKER_H

#include <stddef.h>
#include <stdint.h>

struct chunker;

/* `key` has 32 bytes; sizes in bytes, min < avg < max, avg a power of two. */
int chunker_new(
    struct chunker **out, const uint8_t key[32], uint32_t min, uint32_t avg, uint32_t max);
void chunker_free(struct chunker *c);
uint32_t chunker_max(const struct chunker *c);

/*
 * The length of the first chunk of `data`, which must hold chunker_max() bytes or reach the end of
 * the content.  At least 1 for len > 0, never more than len.
 */
size_t chunker_cut(const struct chunker *c, const uint8_t *data, size_t len);

#endif
