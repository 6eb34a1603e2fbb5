/*
 * index: chunk id to place, in LMDB.  A cache: whatever it holds can be read again from packs.
 *
 * The environment (store/index_env.h) lives outside the repository, one directory for each
 * repository id.  Only a prefix of 16 bytes of an id is the key; the full id is authenticated when
 * the chunk is opened.  Every read transaction is as short as one call.  The map grows by itself.
 *
 * A directory that is damaged, of another format or of another repository is emptied and built
 * anew by the owner (store/repo.c), not repaired.
 *
 * Threads and processes: any number of both, one writer at a time (writers wait).
 */
#ifndef STORE_INDEX_H
#define STORE_INDEX_H

#include "store/chunk.h"
#include "store/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index;

/* Where a chunk is. */
struct index_place {
	uint8_t pack_id[PACK_ID_LEN];
	uint8_t domain_id[DOMAIN_ID_LEN];
	enum pack_kind kind;
	uint64_t pack_bytes;
	uint32_t pack_no; /* the pack's number in this index; stable while it is open */
	uint32_t off;
	uint32_t sealed_len;
	uint32_t len;
	enum encoding encoding;
};

/*
 * Open or create the environment in directory `dir` (made with its parents, mode 0700) for the
 * repository.  Returns 1 if it was empty or had to be emptied, and so must be filled.  Opened again
 * in the same process it is shared, and closed by the last.  Errors: ERR_IO, ERR_NOSPACE,
 * ERR_DENIED, ERR_BUSY (this process has it open for another repository).
 */
int index_open(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN]);
void index_close(struct index *ix);

/* Forget everything, as if it had just been created. */
int index_clear(struct index *ix);

/* Returns 0, or 1 if the id is not there.  Errors: ERR_DAMAGED (rebuild it), ERR_IO. */
int index_find(struct index *ix, const struct chunk_id *id, struct index_place *place);

/*
 * Add whole packs with all their entries, in one transaction, sorted.  A chunk that is already
 * there keeps its place, and so does a pack.  `published` tells that an index object lists them.
 * With `bulk`, the transaction is not synced (for a rebuild; end it with index_sync()).
 */
int index_add_packs(struct index *ix, const struct pack_toc *const *tocs, size_t n, bool published,
    bool bulk);
int index_sync(struct index *ix);

struct index_pack {
	uint8_t pack_id[PACK_ID_LEN];
	uint8_t domain_id[DOMAIN_ID_LEN];
	enum pack_kind kind;
	uint64_t pack_bytes;
	bool published;
};

/* Whether the pack is known: 0, or 1 if not.  `pack` may be NULL. */
int index_find_pack(struct index *ix, const uint8_t pack_id[PACK_ID_LEN], struct index_pack *pack);
/* Call `fn` for every pack; a non-zero result ends it and is returned. */
int index_each_pack(
    struct index *ix, int (*fn)(void *ctx, const struct index_pack *pack), void *ctx);
int index_set_published(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n);
/* Forget packs that are gone from the repository, and every chunk in them. */
int index_drop_packs(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n);

/* Names of index objects already loaded. */
int index_has_loaded(struct index *ix, const char *name); /* 1 yes, 0 no */
int index_set_loaded(struct index *ix, const char *name);
int index_count_loaded(struct index *ix, uint64_t *n);

struct index_totals {
	uint64_t chunks, packs;
	uint64_t content_bytes; /* of all distinct chunks, uncompressed */
	uint64_t stored_bytes;  /* sealed */
	uint64_t raw_chunks, zstd_chunks, delta_chunks;
	uint64_t delta_content_bytes, delta_stored_bytes;
	uint64_t meta_content_bytes, meta_stored_bytes; /* the part that is in metadata packs */
};

/* Sums over all entries (a full scan). */
int index_totals(struct index *ix, struct index_totals *t);

#endif
