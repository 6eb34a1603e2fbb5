/*
 * The repository header, 160 bytes, little-endian:
 *
 *   offset size  name
 *        0    8  magic "PASTFSR1"
 *        8    4  format version, 1
 *       12    4  header length, 160
 *       16    8  required features
 *       24    8  optional features
 *       32   16  repository id
 *       48    1  id algorithm (1 HMAC-SHA-256, 2 BLAKE2b-256)
 *       49    1  cipher (1 AES-256-GCM)
 *       50    2  zero
 *       52    4  page chunk bytes
 *       56    4  content-defined chunking: minimum bytes
 *       60    4  ...: average bytes
 *       64    4  ...: maximum bytes
 *       68    8  created, microseconds since 1970
 *       76   16  default domain id
 *       92   32  reserved, zero
 *      124    4  CRC-32C of bytes 0 to 123
 *      128   32  MAC of bytes 0 to 127
 *
 * Only magic and version have places that no later format may change: they are looked at first,
 * so that every version can say what it has met.
 */
#include "store/repo_header.h"

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/chunk.h"
#include "store/secret.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define MAGIC              "PASTFSR1"
#define MAGIC_LEN          8
#define CIPHER_AES_256_GCM 1

#define OFF_RESERVED 92
#define OFF_CRC      124
#define OFF_MAC      128

/* No feature has been added to format 1 yet. */
#define KNOWN_REQUIRED_FEATURES UINT64_C(0)

#define PAGE_CHUNK_MIN (8u << 10)
#define PAGE_CHUNK_MAX (1u << 20)
#define CDC_MIN        (4u << 10)

static bool
power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* The sizes are used to size buffers and to split content, so they are bounded here, once. */
static int
check_sizes(const struct repo_header *h, int code)
{
	if (!power_of_two(h->page_chunk_bytes) || h->page_chunk_bytes < PAGE_CHUNK_MIN ||
	    h->page_chunk_bytes > PAGE_CHUNK_MAX)
		return err_set(code,
		    "the repository header has a page chunk size of %" PRIu32
		    " bytes; it must be a power of two from %u to %u",
		    h->page_chunk_bytes, PAGE_CHUNK_MIN, PAGE_CHUNK_MAX);
	if (h->cdc_min_bytes < CDC_MIN || h->cdc_min_bytes >= h->cdc_avg_bytes ||
	    h->cdc_avg_bytes >= h->cdc_max_bytes || h->cdc_max_bytes > CHUNK_MAX_BYTES ||
	    !power_of_two(h->cdc_avg_bytes))
		return err_set(code,
		    "the repository header has chunk sizes of %" PRIu32 ", %" PRIu32 " and %" PRIu32
		    " bytes (minimum, average, maximum); they must rise from %u to %u, the average "
		    "a power of two",
		    h->cdc_min_bytes, h->cdc_avg_bytes, h->cdc_max_bytes, CDC_MIN, CHUNK_MAX_BYTES);
	return 0;
}

static int
compute_mac(const uint8_t *header, const uint8_t *repo_id, const uint8_t *master,
    uint8_t out[CRYPTO_DIGEST_LEN])
{
	uint8_t key[CRYPTO_KEY_LEN];
	struct mac *m = NULL;
	int rc;

	rc = crypto_derive(key, sizeof(key), master, repo_id, REPO_ID_LEN, "pastfs v1 header mac");
	if (rc == 0)
		rc = mac_new(&m, ID_HMAC_SHA256, key);
	if (rc == 0)
		rc = mac_compute(m, header, OFF_MAC, out);
	mac_free(m);
	secret_wipe(key, sizeof(key));
	return rc;
}

int
repo_header_encode(
    const struct repo_header *h, const uint8_t master[32], uint8_t out[REPO_HEADER_LEN])
{
	int rc = check_sizes(h, ERR_USAGE);

	if (rc)
		return rc;
	memset(out, 0, REPO_HEADER_LEN);
	memcpy(out, MAGIC, MAGIC_LEN);
	le32_store(out + 8, h->format_version);
	le32_store(out + 12, REPO_HEADER_LEN);
	le64_store(out + 16, h->required_features);
	le64_store(out + 24, h->optional_features);
	memcpy(out + 32, h->repo_id, REPO_ID_LEN);
	out[48] = (uint8_t)h->id_algorithm;
	out[49] = CIPHER_AES_256_GCM;
	le32_store(out + 52, h->page_chunk_bytes);
	le32_store(out + 56, h->cdc_min_bytes);
	le32_store(out + 60, h->cdc_avg_bytes);
	le32_store(out + 64, h->cdc_max_bytes);
	le64_store(out + 68, (uint64_t)h->created_us);
	memcpy(out + 76, h->default_domain, sizeof(h->default_domain));
	le32_store(out + OFF_CRC, crc32c(0, out, OFF_CRC));
	return compute_mac(out, h->repo_id, master, out + OFF_MAC);
}

/* Magic, version, length and checksum: after this the fields are what somebody wrote. */
static int
check_envelope(const uint8_t *p, size_t len)
{
	uint32_t version;

	if (len < 12 || memcmp(p, MAGIC, MAGIC_LEN) != 0)
		return err_set(ERR_DAMAGED,
		    "this is not a pastfs repository header; check the repository's address");
	version = le32_load(p + 8);
	if (version > REPO_FORMAT_VERSION)
		return err_set(ERR_UNSUPPORTED,
		    "the repository has format %" PRIu32
		    ", this pastfs knows formats up to %d; upgrade pastfs",
		    version, REPO_FORMAT_VERSION);
	if (version == 0)
		return err_set(ERR_DAMAGED, "the repository header has format version 0");
	if (len != REPO_HEADER_LEN || le32_load(p + 12) != REPO_HEADER_LEN)
		return err_set(ERR_DAMAGED, "the repository header has %zu bytes instead of %d",
		    len, REPO_HEADER_LEN);
	if (le32_load(p + OFF_CRC) != crc32c(0, p, OFF_CRC))
		return err_set(ERR_DAMAGED, "the repository header has a wrong checksum");
	return 0;
}

static int
check_algorithms(const struct repo_header *h, unsigned cipher)
{
	if (h->required_features & ~KNOWN_REQUIRED_FEATURES)
		return err_set(ERR_UNSUPPORTED,
		    "the repository needs features 0x%" PRIx64
		    " that this version of pastfs does not have; upgrade pastfs",
		    h->required_features & ~KNOWN_REQUIRED_FEATURES);
	if (h->id_algorithm != ID_HMAC_SHA256 && h->id_algorithm != ID_BLAKE2B_256)
		return err_set(ERR_UNSUPPORTED,
		    "the repository names chunks by algorithm %d, which this version of pastfs "
		    "does not have; upgrade pastfs",
		    (int)h->id_algorithm);
	if (cipher != CIPHER_AES_256_GCM)
		return err_set(ERR_UNSUPPORTED,
		    "the repository uses cipher %u, which this version of pastfs does not have; "
		    "upgrade pastfs",
		    cipher);
	return 0;
}

int
repo_header_decode(struct repo_header *h, const void *data, size_t len)
{
	const uint8_t *p = data;
	int rc;

	memset(h, 0, sizeof(*h));
	rc = check_envelope(p, len);
	if (rc)
		return rc;
	h->format_version = le32_load(p + 8);
	h->required_features = le64_load(p + 16);
	h->optional_features = le64_load(p + 24);
	memcpy(h->repo_id, p + 32, REPO_ID_LEN);
	h->id_algorithm = p[48];
	h->page_chunk_bytes = le32_load(p + 52);
	h->cdc_min_bytes = le32_load(p + 56);
	h->cdc_avg_bytes = le32_load(p + 60);
	h->cdc_max_bytes = le32_load(p + 64);
	h->created_us = (int64_t)le64_load(p + 68);
	memcpy(h->default_domain, p + 76, sizeof(h->default_domain));
	rc = check_algorithms(h, p[49]);
	if (rc == 0)
		rc = check_sizes(h, ERR_DAMAGED);
	return rc;
}

int
repo_header_verify(const void *data, size_t len, const uint8_t master[32])
{
	const uint8_t *p = data;
	uint8_t want[CRYPTO_DIGEST_LEN];
	int rc;

	rc = check_envelope(p, len);
	if (rc)
		return rc;
	rc = compute_mac(p, p + 32, master, want);
	if (rc)
		return rc;
	if (secret_compare(want, p + OFF_MAC, sizeof(want)) != 0)
		return err_set(ERR_DAMAGED, "the repository header does not carry this "
					    "repository's authentication code: it was changed "
					    "after the repository was made");
	return 0;
}
