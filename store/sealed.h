/*
 * sealed: an object other than a pack, compressed and encrypted as one piece.
 *
 * Its key is fresh (a random salt), and its kind and name are authenticated, so that one object
 * cannot stand in for another.  Layout: docs/format.md.
 */
#ifndef STORE_SEALED_H
#define STORE_SEALED_H

#include "store/domain.h"

#include <stddef.h>
#include <stdint.h>

#define SEALED_HEADER_LEN 112
#define SEALED_MAX_PLAIN  (256u << 20)

struct bytes;

enum sealed_kind {
	SEALED_SOURCE = 1,
	SEALED_SNAPSHOT = 2,
	SEALED_INDEX = 3,
	SEALED_LOCK = 4,
	/* Numbers kept for what docs/format.md reserves: 5 WAL segment, 6 session, 7 hold,
	 * 8 evidence, 9 audit, 10 condemned packs. */
};

/* Append the sealed form of `plain` to `out`. */
int sealed_encode(struct bytes *out, enum sealed_kind kind, const char *name,
    const uint8_t repo_id[REPO_ID_LEN], const struct domain_keys *keys, const void *plain,
    size_t len);

/* The domain id in the header of a sealed object, to find its keys by.  Errors: ERR_DAMAGED. */
int sealed_domain(const void *data, size_t len, uint8_t domain_id[DOMAIN_ID_LEN]);

/*
 * Open to a new buffer, to free().  Errors: ERR_DAMAGED (also another kind, name or repository),
 * ERR_UNSUPPORTED (a newer version of the envelope), ERR_NOMEM.
 */
int sealed_decode(void **plain, size_t *plain_len, enum sealed_kind kind, const char *name,
    const uint8_t repo_id[REPO_ID_LEN], const struct domain_keys *keys, const void *data,
    size_t len);

#endif
