/*
 * backend: where objects are kept.  One small contract for every kind of place.
 *
 * An object is an immutable string of bytes with a name.  A name is one to eight parts joined by
 * '/', each part 1 to 100 characters of [a-z0-9._-] not beginning with '.'.  Where "a" is an object
 * there must be none called "a/b": some places keep names as directories and files.
 *
 *  (1) put is atomic and exclusive: an object that has a name is complete and durable; of two
 *      puts of one name exactly one returns 0, and nothing is ever overwritten.
 *  (2) after put returned 0 (or 1), the object survives the loss of power.
 *  (3) get, stat and list see an object as soon as its put returned, from any process.
 *  (4) a fault during put leaves the object absent or whole, so the call may be repeated.
 *
 * Threads: a handle may be shared.
 */
#ifndef STORE_BACKEND_H
#define STORE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_NAME_MAX 400

struct backend;

/* What a back end can do beyond the contract, and what suits it. */
struct backend_caps {
	uint64_t pack_bytes;  /* the pack size it works best with */
	bool sorted_list;     /* list goes in byte order of the names */
	bool object_lock;     /* retention can be set on an object */
	bool local;           /* no network round trip: small reads are cheap */
};

/*
 * Open the place `url` names ("/path" or "file:/path").  With `create`, make it if it is absent or
 * an empty directory.  Errors: ERR_NOTFOUND (no such place), ERR_EXISTS (`create`, and there is
 * something already), ERR_USAGE (bad url), ERR_UNSUPPORTED (a kind this build has not),
 * ERR_DENIED, ERR_IO.
 */
int backend_open(struct backend **out, const char *url, bool create);
void backend_close(struct backend *b);

/* The url as given to a user again; borrowed. */
const char *backend_url(const struct backend *b);
const struct backend_caps *backend_caps(const struct backend *b);

/* Store `len` bytes as `name`: 0, or 1 if the name is taken.  Errors: ERR_NOSPACE, ERR_IO, … */
int backend_put(struct backend *b, const char *name, const void *data, size_t len);

/*
 * Read up to `len` bytes from `off` into `buf`; *got is less than `len` only at the object's end.
 * Errors: ERR_NOTFOUND, ERR_IO.
 */
int backend_get(
    struct backend *b, const char *name, uint64_t off, void *buf, size_t len, size_t *got);

/* The whole object as a new buffer, to free(); ERR_DAMAGED if it is over `max` bytes. */
int backend_get_all(struct backend *b, const char *name, size_t max, void **data, size_t *len);

struct object_info {
	uint64_t bytes;
	int64_t modified_us;
};

/* Errors: ERR_NOTFOUND, ERR_IO. */
int backend_stat(struct backend *b, const char *name, struct object_info *info);

/*
 * Call `fn` for every object whose name begins with `prefix` (whole parts: "packs/", or "" for
 * all).  A callback's non-zero result ends the listing and is returned.  Objects put or deleted
 * meanwhile may or may not be seen.
 */
int backend_list(struct backend *b, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx);

/* Delete `name`, durably; absent is success.  Errors: ERR_IO, ERR_DENIED. */
int backend_delete(struct backend *b, const char *name);

/* 0, or ERR_USAGE if `name` breaks the rules above. */
int backend_check_name(const char *name);

/* Bytes free and in all at the place; ERR_UNSUPPORTED where that has no meaning. */
int backend_space(struct backend *b, uint64_t *free_bytes, uint64_t *total_bytes);

#endif
