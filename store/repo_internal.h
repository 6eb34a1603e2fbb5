/*
 * repo_internal: what the roles of store/repo.h share.  Only store/repo*.c include this.
 */
#ifndef STORE_REPO_INTERNAL_H
#define STORE_REPO_INTERNAL_H

#include "store/backend.h"
#include "store/index.h"
#include "store/repo.h"
#include "store/repo_header.h"
#include "store/sealed.h"

/* An opened place with its keys and its index. */
struct repo {
	struct backend *backend;
	struct repo_header header;
	uint8_t *master; /* secret memory */
	uint8_t slot_id[KEYSLOT_ID_LEN];
	struct domain_keys *own; /* the repository's own domain */
	size_t ndomains;
	struct domain_keys **domains;
	struct index *index;
};

int repo_open(struct repo *repo, const struct repo_opts *opts);
void repo_release(struct repo *repo);
const struct domain_keys *repo_domain(const struct repo *repo, const uint8_t id[DOMAIN_ID_LEN]);

int repo_put_sealed(struct repo *repo, int kind, const char *name, const struct domain_keys *keys,
    const void *plain, size_t len);

/* "packs/<hex>" */
#define PACK_OBJECT_MAX 80
void repo_pack_name(const uint8_t pack_id[PACK_ID_LEN], char out[PACK_OBJECT_MAX]);
/* The id in a pack's name, or -1. */
int repo_pack_id(const char *name, uint8_t pack_id[PACK_ID_LEN]);

/* ---- store/repo_index.c ---- */

/* Load index objects that are not loaded yet.  An unreadable one makes all packs be read. */
int repo_index_refresh(struct repo *repo, struct progress *progress);
/*
 * Compare the index with the packs there are: forget packs that are gone, add those that no index
 * object lists.
 */
int repo_index_reconcile(struct repo *repo, struct progress *progress);
/* Read the table of contents of one pack. */
int repo_read_toc(struct repo *repo, const uint8_t pack_id[PACK_ID_LEN], struct pack_toc *toc);
/* Store an index object that lists `tocs`, then take them into the index as published. */
int repo_index_publish(struct repo *repo, const struct pack_toc *const *tocs, size_t n,
    uint64_t *stored_bytes);
/* Publish every pack that a crashed session left unlisted. */
int repo_index_publish_orphans(struct repo *repo);

/* The plain form of an index object; exported for its fuzz target. */
struct index_object {
	size_t npacks;
	struct pack_toc *packs;
};
int index_object_decode(struct index_object *o, const void *data, size_t len);
void index_object_release(struct index_object *o);

/* ---- store/repo_reader.c ---- */

struct repo *reader_repo(struct repo_reader *r);
/*
 * The self-contained chunk that a delta against `id` must use: `id` itself, or its base.  Fills
 * its id and sealed length.
 */
int reader_base_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk_id *base_id,
    struct chunk **base, uint32_t *base_sealed_len);
/* Read one chunk past the cache, from where `place` says, and recompute nothing. */
int reader_load_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk **out);

#endif
