/*
 * A sealed object, little-endian:
 *
 *   offset size  name
 *        0    8  magic "PASTFSO1"
 *        8    4  version, 1
 *       12    4  kind
 *       16   16  repository id
 *       32   16  domain id
 *       48   32  salt
 *       80    4  plain length, bytes
 *       84    1  encoding (0 raw, 1 zstd)
 *       85    3  zero
 *       88   20  reserved, zero
 *      108    4  CRC-32C of bytes 0 to 107
 *      112    n  content, encoded and encrypted
 *    112+n   16  tag
 *
 * The key is derived from the domain's object key and the salt, and seals this one object; that is
 * why the nonce can be zeros.  The associated data is the header and then the object's name.
 *
 * Opening decrypts before anything is sized by the plain length, so that only what a holder of
 * the key wrote can ask for memory.
 */
#include "store/sealed.h"

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/codec.h"
#include "store/secret.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC          "PASTFSO1"
#define MAGIC_LEN      8
#define SEALED_VERSION 1
#define SALT_LEN       32
#define LEVEL          3

#define OFF_DOMAIN 32
#define OFF_SALT   48
#define OFF_CRC    108

struct aad {
	uint8_t bytes[SEALED_HEADER_LEN + BACKEND_NAME_MAX];
	size_t len;
};

static const uint8_t nonce[CRYPTO_NONCE_LEN];

static int
aad_make(struct aad *aad, const uint8_t *header, const char *name)
{
	size_t n = strlen(name);

	if (n > BACKEND_NAME_MAX)
		return err_set(
		    ERR_USAGE, "an object's name has at most %d bytes", BACKEND_NAME_MAX);
	memcpy(aad->bytes, header, SEALED_HEADER_LEN);
	memcpy(aad->bytes + SEALED_HEADER_LEN, name, n);
	aad->len = SEALED_HEADER_LEN + n;
	return 0;
}

/* A context with the key of the one object that has `salt`. */
static int
keyed_new(struct aead **out, const struct domain_keys *keys, const uint8_t *salt)
{
	uint8_t key[CRYPTO_KEY_LEN];
	struct aead *a = NULL;
	int rc;

	rc = crypto_derive(key, sizeof(key), keys->object, salt, SALT_LEN, "pastfs v1 sealed");
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

/* Encode `plain` to `dst`, which has room for codec_bound(len). */
static int
compress(const void *plain, size_t len, uint8_t *dst, size_t *dst_len, enum encoding *encoding)
{
	struct codec *c = NULL;
	int rc;

	*dst_len = 0;
	*encoding = ENCODING_RAW;
	if (len == 0)
		return 0;
	rc = codec_new(&c, LEVEL);
	if (rc == 0)
		rc = codec_encode(c, plain, len, dst, dst_len, encoding);
	codec_free(c);
	return rc;
}

static void
put_header(uint8_t *h, enum sealed_kind kind, const uint8_t *repo_id,
    const struct domain_keys *keys, size_t plain_len, enum encoding encoding)
{
	memset(h, 0, SEALED_HEADER_LEN);
	memcpy(h, MAGIC, MAGIC_LEN);
	le32_store(h + 8, SEALED_VERSION);
	le32_store(h + 12, (uint32_t)kind);
	memcpy(h + 16, repo_id, REPO_ID_LEN);
	memcpy(h + OFF_DOMAIN, keys->id, DOMAIN_ID_LEN);
	random_bytes(h + OFF_SALT, SALT_LEN);
	le32_store(h + 80, (uint32_t)plain_len);
	h[84] = (uint8_t)encoding;
	le32_store(h + OFF_CRC, crc32c(0, h, OFF_CRC));
}

int
sealed_encode(struct bytes *out, enum sealed_kind kind, const char *name,
    const uint8_t repo_id[REPO_ID_LEN], const struct domain_keys *keys, const void *plain,
    size_t len)
{
	struct aead *a = NULL;
	enum encoding encoding;
	struct aad aad;
	uint8_t *header, *body;
	size_t body_len;
	int rc;

	if (len > SEALED_MAX_PLAIN)
		return err_set(ERR_USAGE, "object %s would have %zu bytes, over the limit of %u",
		    name, len, SEALED_MAX_PLAIN);
	if (!bytes_reserve(out, SEALED_HEADER_LEN + codec_bound(len) + CRYPTO_TAG_LEN))
		return bytes_status(out);
	header = out->data + out->len;
	body = header + SEALED_HEADER_LEN;
	rc = compress(plain, len, body, &body_len, &encoding);
	if (rc)
		goto out;
	put_header(header, kind, repo_id, keys, len, encoding);
	rc = aad_make(&aad, header, name);
	if (rc == 0)
		rc = keyed_new(&a, keys, header + OFF_SALT);
	if (rc == 0)
		rc = aead_seal(a, nonce, aad.bytes, aad.len, body, body_len, body);
	/* Only now the object is there: after an error `out` is as it was. */
	if (rc == 0)
		out->len += SEALED_HEADER_LEN + body_len + CRYPTO_TAG_LEN;
out:
	aead_free(a);
	return rc ? err_prefix(rc, "cannot seal object %s", name) : 0;
}

/* What can be checked without a key. */
static int
check_envelope(const uint8_t *p, size_t len)
{
	uint32_t version;

	if (len < 12 || memcmp(p, MAGIC, MAGIC_LEN) != 0)
		return err_set(ERR_DAMAGED, "this is not a sealed pastfs object");
	version = le32_load(p + 8);
	if (version > SEALED_VERSION)
		return err_set(ERR_UNSUPPORTED,
		    "the object has version %" PRIu32
		    ", this pastfs knows versions up to %d; upgrade pastfs",
		    version, SEALED_VERSION);
	if (version == 0 || len < SEALED_HEADER_LEN + CRYPTO_TAG_LEN)
		return err_set(
		    ERR_DAMAGED, "the object has version %" PRIu32 " and %zu bytes", version, len);
	if (le32_load(p + OFF_CRC) != crc32c(0, p, OFF_CRC))
		return err_set(ERR_DAMAGED, "the object's header has a wrong checksum");
	if (le32_load(p + 80) > SEALED_MAX_PLAIN)
		return err_set(ERR_DAMAGED,
		    "the object claims %" PRIu32 " bytes, over the limit of %u", le32_load(p + 80),
		    SEALED_MAX_PLAIN);
	if (p[84] != ENCODING_RAW && p[84] != ENCODING_ZSTD)
		return err_set(ERR_DAMAGED, "the object has unknown encoding %u", p[84]);
	if (len - SEALED_HEADER_LEN - CRYPTO_TAG_LEN > codec_bound(le32_load(p + 80)))
		return err_set(ERR_DAMAGED, "the object is longer than its content can be");
	return 0;
}

int
sealed_domain(const void *data, size_t len, uint8_t domain_id[DOMAIN_ID_LEN])
{
	int rc = check_envelope(data, len);

	if (rc)
		return rc;
	memcpy(domain_id, (const uint8_t *)data + OFF_DOMAIN, DOMAIN_ID_LEN);
	return 0;
}

static int
check_place(
    const uint8_t *p, enum sealed_kind kind, const uint8_t *repo_id, const struct domain_keys *keys)
{
	if (le32_load(p + 12) != (uint32_t)kind)
		return err_set(ERR_DAMAGED, "the object is of kind %" PRIu32 " instead of %d",
		    le32_load(p + 12), (int)kind);
	if (memcmp(p + 16, repo_id, REPO_ID_LEN) != 0)
		return err_set(ERR_DAMAGED, "the object belongs to another repository");
	if (memcmp(p + OFF_DOMAIN, keys->id, DOMAIN_ID_LEN) != 0)
		return err_set(ERR_DAMAGED, "the object belongs to another key domain");
	return 0;
}

/* Decrypt everything behind the header into the new buffer *body. */
static int
open_body(uint8_t **body, size_t *body_len, const char *name, const struct domain_keys *keys,
    const uint8_t *p, size_t len)
{
	size_t sealed_len = len - SEALED_HEADER_LEN;
	struct aead *a = NULL;
	uint8_t *buf = NULL;
	struct aad aad;
	int rc;

	rc = aad_make(&aad, p, name);
	if (rc == 0)
		rc = keyed_new(&a, keys, p + OFF_SALT);
	if (rc)
		goto out;
	buf = mem_realloc(NULL, sealed_len);
	if (!buf) {
		rc = err_nomem();
		goto out;
	}
	rc = aead_open(a, nonce, aad.bytes, aad.len, p + SEALED_HEADER_LEN, sealed_len, buf);
	if (rc)
		goto out;
	*body = buf;
	*body_len = sealed_len - CRYPTO_TAG_LEN;
	buf = NULL;
out:
	free(buf);
	aead_free(a);
	return rc;
}

/* Turn the decrypted body, which is taken, into the plain bytes. */
static int
decompress(void **plain, uint8_t *body, size_t body_len, enum encoding encoding, size_t len)
{
	struct codec *c = NULL;
	uint8_t *buf = NULL;
	int rc;

	if (encoding == ENCODING_RAW) {
		if (body_len != len) {
			free(body);
			return err_set(ERR_DAMAGED,
			    "the object's content has %zu bytes instead of %zu", body_len, len);
		}
		*plain = body;
		return 0;
	}
	rc = codec_new(&c, LEVEL);
	if (rc)
		goto out;
	buf = mem_realloc(NULL, len);
	if (!buf) {
		rc = err_nomem();
		goto out;
	}
	rc = codec_decode(c, encoding, body, body_len, NULL, 0, buf, len);
	if (rc)
		goto out;
	*plain = buf;
	buf = NULL;
out:
	free(buf);
	free(body);
	codec_free(c);
	return rc;
}

int
sealed_decode(void **plain, size_t *plain_len, enum sealed_kind kind, const char *name,
    const uint8_t repo_id[REPO_ID_LEN], const struct domain_keys *keys, const void *data,
    size_t len)
{
	const uint8_t *p = data;
	uint8_t *body = NULL;
	size_t body_len = 0;
	int rc;

	*plain = NULL;
	*plain_len = 0;
	rc = check_envelope(p, len);
	if (rc == 0)
		rc = check_place(p, kind, repo_id, keys);
	if (rc == 0)
		rc = open_body(&body, &body_len, name, keys, p, len);
	if (rc == 0)
		rc = decompress(plain, body, body_len, p[84], le32_load(p + 80));
	if (rc)
		return err_prefix(rc, "cannot open object %s", name);
	*plain_len = le32_load(p + 80);
	return 0;
}
