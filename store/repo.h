/*
 * repo: an opened repository, by role.
 *
 * A repo_reader reads objects and chunks and cannot write, by type.  A repo_writer adds chunks,
 * and makes them visible by committing a snapshot; it contains a reader.  A repo_admin changes key
 * slots and sources.  The three open the same place; a process may hold several.
 *
 * The order of durability on commit: packs, then the index object that lists them, then the
 * snapshot object.  A crash at any point leaves the old state or the new one, and at most packs
 * that nothing needs.
 */
#ifndef STORE_REPO_H
#define STORE_REPO_H

#include "store/chunk.h"
#include "store/domain.h"
#include "store/keyslot.h"
#include "store/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct index;
struct progress;
struct repo_reader;
struct repo_writer;
struct repo_admin;

struct repo_opts {
	const char *url;               /* borrowed for the call */
	const struct credential *cred; /* borrowed for the call */
	const char *cache_dir;         /* parent of the index directories; borrowed for the call */
	size_t chunk_cache_bytes;      /* decoded chunks kept; 0 = 32 MiB */
	/* NULL, or a role of the same repository that is open: its key is taken, because trying a
	 * passphrase is slow on purpose.  Borrowed for the call. */
	struct repo_reader *unlocked;
};

/* ---- making one ---- */

struct repo_init_opts {
	const char *slot_label; /* of the first key slot; NULL = "first" */
	struct keyslot_cost cost;
};

/*
 * Make a repository at opts->url (absent, or an empty directory).  Errors: ERR_EXISTS (there is
 * one already), ERR_USAGE, ERR_UNSUPPORTED (no AES instructions), ERR_NOSPACE, ERR_DENIED, ERR_IO.
 * After an error nothing that looks like a repository is left.
 */
int repo_init(const struct repo_opts *opts, const struct repo_init_opts *init);

/* ---- reader ---- */

/*
 * Open for reading and bring the index up to date.  Errors: ERR_NOTFOUND (no repository there),
 * ERR_KEY (with the number of slots and their labels), ERR_UNSUPPORTED (newer format), ERR_DAMAGED.
 */
int repo_reader_open(struct repo_reader **out, const struct repo_opts *opts);
void repo_reader_close(struct repo_reader *r);

const struct repo_header *repo_reader_header(const struct repo_reader *r);
struct backend *repo_reader_backend(struct repo_reader *r);
struct index *repo_reader_index(struct repo_reader *r);
/* The keys of a domain, borrowed; NULL if it is not there (destroyed). Zeros: the repository's. */
const struct domain_keys *repo_reader_domain(
    struct repo_reader *r, const uint8_t id[DOMAIN_ID_LEN]);

/* Load index objects that appeared since the last call; cheap when there are none. */
int repo_reader_refresh(struct repo_reader *r);

/* Throw the index away and build it again from index objects and packs. */
int repo_reader_rebuild_index(struct repo_reader *r, struct progress *progress);

/*
 * A decoded chunk, shared and counted.  `data` is valid until the last chunk_release().
 */
struct chunk;
const uint8_t *chunk_data(const struct chunk *c);
size_t chunk_len(const struct chunk *c);
void chunk_release(struct chunk *c);

/*
 * Get a chunk's content, from the cache or the repository; any thread.  Errors: ERR_DAMAGED (the
 * message names chunk and pack, and says to run `pastfs check`), ERR_IO, ERR_NOMEM.
 */
int repo_reader_chunk(struct repo_reader *r, const struct chunk_id *id, struct chunk **out);

/* Whether the index has it, with the encoding's base for a delta: 0 yes, 1 no. */
int repo_reader_has(struct repo_reader *r, const struct chunk_id *id);

/* Ask for chunks to be decoded into the cache in the background; never waits, never fails. */
void repo_reader_prefetch(struct repo_reader *r, const struct chunk_id *ids, size_t n);

/* A sealed object, opened; *plain is to free().  Errors: ERR_NOTFOUND, ERR_DAMAGED, … */
int repo_reader_object(
    struct repo_reader *r, int sealed_kind, const char *name, void **plain, size_t *len);

/* ---- writer ---- */

struct repo_writer_opts {
	int zstd_level;           /* 0 = 1, the default */
	const uint8_t *domain_id; /* NULL = the repository's default domain */
	uint64_t pack_bytes;      /* 0 = what suits the back end */
};

/* What a session added.  Every sum is over distinct new chunks unless it says otherwise. */
struct writer_totals {
	uint64_t content_bytes;   /* given to lane_put(), whether new or not */
	uint64_t unchanged_bytes; /* of these, recognised by fingerprint or hint */
	uint64_t known_bytes;     /* of these, found by id in the repository */
	uint64_t zero_bytes;      /* of these, zero chunks */
	uint64_t new_bytes;       /* of these, stored now */
	uint64_t new_chunks;
	uint64_t stored_bytes; /* what the new chunks take, sealed */
	uint64_t delta_chunks;
	uint64_t delta_content_bytes;
	uint64_t delta_stored_bytes;
	uint64_t meta_stored_bytes; /* the part of stored_bytes that is metadata */
	uint64_t packs;
	uint64_t pack_bytes; /* whole objects */
};

int repo_writer_open(
    struct repo_writer **out, const struct repo_opts *opts, const struct repo_writer_opts *wopts);
struct repo_reader *repo_writer_reader(struct repo_writer *w);
/* The keys of the domain it writes into; borrowed. */
const struct domain_keys *repo_writer_keys(const struct repo_writer *w);
void repo_writer_totals(struct repo_writer *w, struct writer_totals *t);

/*
 * Make everything put so far durable, publish it by an index object, then put the snapshot object
 * `snapshot` (encoded by snapshot_encode(), sealed here) as `name`.  After an error the writer is
 * dead: close it.  All lanes must be idle.
 */
int repo_writer_commit(struct repo_writer *w, const char *name, const void *snapshot, size_t len);

/* Drop what is not yet stored.  Packs already stored stay and serve the next attempt. */
void repo_writer_abort(struct repo_writer *w);
/* Abort if not committed, and free; NULL is allowed. */
void repo_writer_close(struct repo_writer *w);

/*
 * One thread's way into the repository: hashing and compression contexts.  Lanes of one writer run
 * side by side.
 */
struct lane;
int lane_new(struct lane **out, struct repo_writer *w);
void lane_free(struct lane *l);
struct repo_writer *lane_writer(struct lane *l);

/*
 * Store one chunk (1 to CHUNK_MAX_BYTES), unless the repository has it, and fill *ref.  `pred` is
 * the chunk at the same place in the predecessor, or NULL: when its fingerprint is equal nothing
 * more is done, otherwise it is the delta's base.  Waits when too much is under way to the back
 * end.  Errors: ERR_NOSPACE, ERR_IO, ERR_NOMEM, ERR_CANCELLED; the writer is then dead.
 */
int lane_put(struct lane *l, enum pack_kind kind, const void *data, size_t len,
    const struct chunk_ref *pred, struct chunk_ref *ref);

/*
 * 0 if the predecessor's chunk can be used as it is (the caller knows the content is unchanged, by
 * page LSNs or the file's times); 1 if the repository lacks it, so that it must be put.
 */
int lane_reuse(struct lane *l, const struct chunk_ref *pred, struct chunk_ref *ref);

/* ---- admin ---- */

int repo_admin_open(struct repo_admin **out, const struct repo_opts *opts);
void repo_admin_close(struct repo_admin *a);
struct repo_reader *repo_admin_reader(struct repo_admin *a);

/* Seal `plain` as object `name`: 0, or 1 if the name is taken. */
int repo_admin_put(
    struct repo_admin *a, int sealed_kind, const char *name, const void *plain, size_t len);
int repo_admin_delete(struct repo_admin *a, const char *name);

/* Key slots: listing needs no key, only the place. */
int repo_keyslots(
    const char *url, int (*fn)(void *ctx, const struct keyslot_info *slot), void *ctx);
int repo_admin_key_add(struct repo_admin *a, const char *label, const struct credential *cred,
    const struct keyslot_cost *cost, struct keyslot_info *added);
/* Errors: ERR_NOTFOUND, ERR_USAGE (it is the last slot). */
int repo_admin_key_remove(struct repo_admin *a, const uint8_t slot_id[KEYSLOT_ID_LEN]);
/* The slot that `cred` opened this admin by. */
const uint8_t *repo_admin_slot(const struct repo_admin *a);

#endif
