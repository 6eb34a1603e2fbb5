/*
 * chunk: the words that the layers of the store share about a piece of content.
 */
#ifndef STORE_CHUNK_H
#define STORE_CHUNK_H

#include "store/fingerprint.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_ID_LEN     32
#define CHUNK_MAX_BYTES  (4u << 20) /* no chunk's content is longer */
#define CHUNK_PAGE_BYTES (64u << 10) /* the fixed size for relation main forks */

/* A keyed 256-bit hash of the plain content. */
struct chunk_id {
	uint8_t b[CHUNK_ID_LEN];
};

enum chunk_kind {
	CHUNK_STORED = 1, /* content is in a pack under `id` */
	CHUNK_ZERO = 2,   /* `len` zero bytes, stored nowhere; id and fingerprint are zero */
};

/* One chunk of a file, as file maps keep it. */
struct chunk_ref {
	enum chunk_kind kind;
	uint32_t len;    /* bytes of content */
	uint32_t crc32c; /* of the content */
	struct chunk_id id;
	uint8_t fp[FINGERPRINT_LEN];
};

static inline bool
chunk_id_equal(const struct chunk_id *a, const struct chunk_id *b)
{
	return __builtin_memcmp(a->b, b->b, CHUNK_ID_LEN) == 0;
}

#endif
