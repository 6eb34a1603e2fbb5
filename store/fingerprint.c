/*
 * On x86 the library chooses the widest vectors that the CPU has.  That is faster than what the
 * compiler makes of the header for the oldest CPU this program runs on, and than the library's
 * plain functions.  The value is the same.
 */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include "store/fingerprint.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/crypto.h"
#include "store/secret.h"

#include <stdlib.h>

/* XXH3's own secret has this length; a longer one brings nothing. */
#define XXH3_SECRET_BYTES 192

/*
 * The secret comes straight from the key derivation, which gives bytes as random as XXH3 wants
 * them, and so depends on no generator of a particular version of the library.
 */
struct fingerprinter {
	uint8_t secret[XXH3_SECRET_BYTES];
};

_Static_assert(XXH3_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "secret length");
_Static_assert(FINGERPRINT_LEN == sizeof(XXH128_canonical_t), "fingerprint length");

int
fingerprinter_new(struct fingerprinter **out, const uint8_t key[32])
{
	struct fingerprinter *f;
	int rc;

	*out = NULL;
	f = secret_alloc(sizeof(*f));
	if (!f)
		return err_nomem();
	rc = crypto_derive(
	    f->secret, sizeof(f->secret), key, NULL, 0, "pastfs v1 fingerprint secret");
	if (rc) {
		secret_free(f);
		return rc;
	}
	*out = f;
	return 0;
}

void
fingerprinter_free(struct fingerprinter *f)
{
	secret_free(f);
}

static void
store_hash(uint8_t out[FINGERPRINT_LEN], XXH128_hash_t hash)
{
	XXH128_canonicalFromHash((XXH128_canonical_t *)out, hash);
}

void
fingerprint(
    const struct fingerprinter *f, const void *data, size_t len, uint8_t out[FINGERPRINT_LEN])
{
	store_hash(out, XXH3_128bits_withSecret(data, len, f->secret, sizeof(f->secret)));
}

/* The library wants its state aligned to 64 bytes, which its own allocator sees to. */
struct checksum {
	XXH3_state_t *state;
};

int
checksum_new(struct checksum **out)
{
	struct checksum *c;

	*out = NULL;
	c = mem_alloc(sizeof(*c));
	if (!c)
		return err_nomem();
	if (!sys_fault_point())
		c->state = XXH3_createState();
	if (!c->state) {
		free(c);
		return err_nomem();
	}
	checksum_reset(c);
	*out = c;
	return 0;
}

void
checksum_reset(struct checksum *c)
{
	XXH3_128bits_reset(c->state);
}

void
checksum_update(struct checksum *c, const void *data, size_t len)
{
	if (len > 0)
		XXH3_128bits_update(c->state, data, len);
}

void
checksum_final(struct checksum *c, uint8_t out[FINGERPRINT_LEN])
{
	store_hash(out, XXH3_128bits_digest(c->state));
}

void
checksum_free(struct checksum *c)
{
	if (!c)
		return;
	XXH3_freeState(c->state);
	free(c);
}
