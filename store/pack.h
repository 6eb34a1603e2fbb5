/*
 * pack: an immutable object of many sealed chunks.
 *
 *   header | sealed chunk … | sealed table of contents | trailer
 *
 * Invariants:
 *  (1) a pack has a key of its own, derived from its domain's pack key and its random id;
 *  (2) a chunk's nonce is its byte offset in the pack, so no nonce repeats under a key;
 *  (3) a chunk's id, encoding and length are authenticated with it, its place by the nonce;
 *  (4) a pack is written once as a whole object, or abandoned with its key.
 * Layout: docs/format.md.
 *
 * Threads: a pack_builder is shared by any number of writers; see each function.
 */
#ifndef STORE_PACK_H
#define STORE_PACK_H

#include "store/chunk.h"
#include "store/codec.h"
#include "store/domain.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACK_ID_LEN      32
#define PACK_HEADER_LEN  144
#define PACK_TRAILER_LEN 64
#define PACK_MAX_BYTES   (256u << 20)
#define PACK_MAX_CHUNKS  (1u << 20)

struct bytes;

enum pack_kind {
	PACK_DATA = 1, /* content of files */
	PACK_META = 2, /* file maps and directories */
};

/* One chunk as a table of contents knows it. */
struct pack_entry {
	struct chunk_id id;
	uint32_t off;        /* of the sealed bytes, from the pack's begin */
	uint32_t sealed_len; /* with the tag */
	uint32_t len;        /* of the content */
	enum encoding encoding;
	struct chunk_id base; /* deltas only */
};

struct pack_toc {
	uint8_t pack_id[PACK_ID_LEN];
	uint8_t domain_id[DOMAIN_ID_LEN];
	enum pack_kind kind;
	uint64_t pack_bytes;
	size_t nentries;
	struct pack_entry *entries; /* in order of offset */
};

void pack_toc_release(struct pack_toc *toc);

/* ---- writing ---- */

struct pack_builder;

/*
 * A builder with memory for packs of about `target_bytes`; `keys` is borrowed until it is freed.
 * It begins with an empty pack; pack_builder_restart() begins the next one in the same memory.
 */
int pack_builder_new(struct pack_builder **out, enum pack_kind kind,
    const uint8_t repo_id[REPO_ID_LEN], const struct domain_keys *keys, uint64_t target_bytes);
int pack_builder_restart(struct pack_builder *p);

/*
 * Seal one encoded chunk into the pack.  Any number of threads may call this; the bytes are
 * encrypted straight into the pack's memory, outside any lock.  Returns 0, or 1 if the pack is
 * full or closed (take a new one).  `aead` is the caller's own context; its key is set by this
 * call.  Fills off and sealed_len of *entry.  `*last` tells that the pack was closed meanwhile and
 * this was the last seal under way: the one caller that gets it must finish the pack.
 */
int pack_builder_add(struct pack_builder *p, struct aead *aead, struct pack_entry *entry,
    const void *encoded, size_t encoded_len, bool *last);

/*
 * No more adds.  True for exactly one caller, if no seal is under way: it must finish the pack.
 */
bool pack_builder_close(struct pack_builder *p);

/*
 * Append table of contents and trailer; the whole object is then *data, *len, borrowed until the
 * builder is freed.  `toc` becomes the caller's, to pack_toc_release().  A pack without chunks
 * gives *len = 0 and is not to be stored.  After an add that failed this fails: the pack is lost.
 */
int pack_builder_finish(
    struct pack_builder *p, const void **data, size_t *len, struct pack_toc *toc);
const uint8_t *pack_builder_id(const struct pack_builder *p);
void pack_builder_free(struct pack_builder *p);

/* ---- reading ---- */

struct pack_header {
	enum pack_kind kind;
	uint8_t repo_id[REPO_ID_LEN];
	uint8_t domain_id[DOMAIN_ID_LEN];
	uint8_t pack_id[PACK_ID_LEN];
	uint8_t commitment[32];
};

struct pack_trailer {
	uint64_t toc_off;
	uint32_t toc_sealed_len;
	uint32_t nchunks;
	uint64_t pack_bytes;
	uint8_t checksum[FINGERPRINT_LEN]; /* keyless XXH3-128 of all before the trailer */
};

/* Errors: ERR_DAMAGED, ERR_UNSUPPORTED. */
int pack_header_decode(struct pack_header *h, const void *data, size_t len);
int pack_trailer_decode(struct pack_trailer *t, const void *data, size_t len);

/* The key of a pack, and whether the header's commitment belongs to it.  Errors: ERR_DAMAGED. */
int pack_key(uint8_t key[CRYPTO_KEY_LEN], uint8_t commitment[32], const struct domain_keys *keys,
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t pack_id[PACK_ID_LEN]);

/* Open a sealed table of contents.  Errors: ERR_DAMAGED, ERR_NOMEM. */
int pack_toc_open(struct pack_toc *toc, struct aead *aead, const uint8_t key[CRYPTO_KEY_LEN],
    const struct pack_header *h, const struct pack_trailer *t, const void *sealed, size_t len);

/* The plain form of a table of contents, also used inside index objects. */
int pack_toc_encode(struct bytes *out, const struct pack_toc *toc);
struct cursor;
/* Fills nentries and entries, everything else in `toc` is the caller's.  Errors: ERR_DAMAGED. */
int pack_toc_decode(struct pack_toc *toc, struct cursor *in);

/*
 * Open one sealed chunk to its encoded bytes.  `e` needs id, off, sealed_len, len and encoding.
 * `out` has room for sealed_len.  For a delta, *base is filled and the encoded bytes follow it:
 * *payload points into `out`.  Errors: ERR_DAMAGED.
 */
int pack_chunk_open(struct aead *aead, const uint8_t key[CRYPTO_KEY_LEN],
    const struct pack_entry *e, const void *sealed, void *out, const uint8_t **payload,
    size_t *payload_len, struct chunk_id *base);

#endif
