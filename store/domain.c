/*
 * A domain object, 144 bytes, little-endian:
 *
 *   offset size  name
 *        0    8  magic "PASTFSD1"
 *        8    4  version, 1
 *       12    4  zero
 *       16   16  repository id
 *       32   16  domain id
 *       48    8  created, microseconds since 1970
 *       56   12  nonce
 *       68   32  domain key, encrypted
 *      100   16  tag
 *      116   24  reserved, zero
 *      140    4  CRC-32C of bytes 0 to 139
 *
 * The domain key is sealed under a key derived from the master key and the domain id; bytes 0 to
 * 55 are its associated data.  The domain key never leaves this file: callers get what is derived
 * from it.
 */
#include "store/domain.h"

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/utc.h"
#include "store/secret.h"

#include <inttypes.h>
#include <string.h>

#define MAGIC          "PASTFSD1"
#define MAGIC_LEN      8
#define DOMAIN_VERSION 1

#define OFF_NONCE   56
#define OFF_WRAPPED 68
#define OFF_CRC     140

/* Derive every working key of the domain from its own key. */
static int
derive_all(
    struct domain_keys **out, const uint8_t *id, const uint8_t *repo_id, const uint8_t *domain_key)
{
	struct domain_keys *d = secret_alloc(sizeof(*d));
	int rc;

	if (!d)
		return err_nomem();
	struct {
		uint8_t *key;
		const char *label;
	} parts[] = {
		{ d->chunk_id, "pastfs v1 chunk id" },
		{ d->fingerprint, "pastfs v1 fingerprint" },
		{ d->gear, "pastfs v1 gear" },
		{ d->pack, "pastfs v1 pack" },
		{ d->object, "pastfs v1 object" },
	};

	memcpy(d->id, id, DOMAIN_ID_LEN);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		rc = crypto_derive(
		    parts[i].key, CRYPTO_KEY_LEN, domain_key, repo_id, REPO_ID_LEN, parts[i].label);
		if (rc) {
			secret_free(d);
			return rc;
		}
	}
	*out = d;
	return 0;
}

/* A context keyed to wrap the domain `id`. */
static int
wrapper_new(struct aead **out, const uint8_t *id, const uint8_t *master)
{
	uint8_t key[CRYPTO_KEY_LEN];
	struct aead *a = NULL;
	int rc;

	rc = crypto_derive(key, sizeof(key), master, id, DOMAIN_ID_LEN, "pastfs v1 domain wrap");
	if (rc == 0)
		rc = aead_new(&a);
	if (rc == 0)
		rc = aead_set_key(a, key);
	secret_wipe(key, sizeof(key));
	if (rc) {
		aead_free(a);
		return rc;
	}
	*out = a;
	return 0;
}

int
domain_create(struct domain_keys **out, uint8_t wrapped[DOMAIN_WRAP_LEN],
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t master[CRYPTO_KEY_LEN])
{
	uint8_t *key = secret_alloc(CRYPTO_KEY_LEN);
	struct aead *a = NULL;
	int rc;

	*out = NULL;
	if (!key)
		return err_nomem();
	random_bytes(key, CRYPTO_KEY_LEN);
	memset(wrapped, 0, DOMAIN_WRAP_LEN);
	memcpy(wrapped, MAGIC, MAGIC_LEN);
	le32_store(wrapped + 8, DOMAIN_VERSION);
	memcpy(wrapped + 16, repo_id, REPO_ID_LEN);
	random_bytes(wrapped + 32, DOMAIN_ID_LEN);
	le64_store(wrapped + 48, (uint64_t)utc_now_us());
	random_bytes(wrapped + OFF_NONCE, CRYPTO_NONCE_LEN);
	rc = wrapper_new(&a, wrapped + 32, master);
	if (rc)
		goto out;
	rc = aead_seal(
	    a, wrapped + OFF_NONCE, wrapped, OFF_NONCE, key, CRYPTO_KEY_LEN, wrapped + OFF_WRAPPED);
	if (rc)
		goto out;
	le32_store(wrapped + OFF_CRC, crc32c(0, wrapped, OFF_CRC));
	rc = derive_all(out, wrapped + 32, repo_id, key);
out:
	aead_free(a);
	secret_free(key);
	return rc;
}

static int
check_envelope(const uint8_t *p, size_t len, const uint8_t *repo_id)
{
	uint32_t version;

	if (len < 12 || memcmp(p, MAGIC, MAGIC_LEN) != 0)
		return err_set(ERR_DAMAGED, "this is not a pastfs key domain");
	version = le32_load(p + 8);
	if (version > DOMAIN_VERSION)
		return err_set(ERR_UNSUPPORTED,
		    "the key domain has version %" PRIu32
		    ", this pastfs knows versions up to %d; upgrade pastfs",
		    version, DOMAIN_VERSION);
	if (version == 0 || len != DOMAIN_WRAP_LEN)
		return err_set(ERR_DAMAGED, "a key domain has version %" PRIu32 " and %zu bytes",
		    version, len);
	if (le32_load(p + OFF_CRC) != crc32c(0, p, OFF_CRC))
		return err_set(ERR_DAMAGED, "a key domain has a wrong checksum");
	if (memcmp(p + 16, repo_id, REPO_ID_LEN) != 0)
		return err_set(ERR_DAMAGED, "a key domain belongs to another repository");
	return 0;
}

int
domain_open(struct domain_keys **out, const void *data, size_t len,
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t master[CRYPTO_KEY_LEN])
{
	const uint8_t *p = data;
	uint8_t *key = NULL;
	struct aead *a = NULL;
	int rc;

	*out = NULL;
	rc = check_envelope(p, len, repo_id);
	if (rc)
		return rc;
	key = secret_alloc(CRYPTO_KEY_LEN);
	rc = key ? wrapper_new(&a, p + 32, master) : err_nomem();
	if (rc)
		goto out;
	rc = aead_open(
	    a, p + OFF_NONCE, p, OFF_NONCE, p + OFF_WRAPPED, CRYPTO_KEY_LEN + CRYPTO_TAG_LEN, key);
	if (rc == ERR_DAMAGED)
		rc = err_set(ERR_DAMAGED, "a key domain was changed after it was made");
	if (rc)
		goto out;
	rc = derive_all(out, p + 32, repo_id, key);
out:
	aead_free(a);
	secret_free(key);
	return rc;
}

int
domain_of_repository(struct domain_keys **out, const uint8_t repo_id[REPO_ID_LEN],
    const uint8_t master[CRYPTO_KEY_LEN])
{
	static const uint8_t zeros[DOMAIN_ID_LEN];
	uint8_t key[CRYPTO_KEY_LEN];
	int rc;

	*out = NULL;
	rc = crypto_derive(key, sizeof(key), master, repo_id, REPO_ID_LEN, "pastfs v1 repository");
	if (rc == 0)
		rc = derive_all(out, zeros, repo_id, key);
	secret_wipe(key, sizeof(key));
	return rc;
}

void
domain_keys_free(struct domain_keys *d)
{
	secret_free(d);
}
