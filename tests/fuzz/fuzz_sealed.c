/*
 * Sealed objects.  The first byte chooses: the rest is an object (as it is, or with its header's
 * checksum made right), or content to seal, open, and hurt at a place that it names.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/sealed.h"
#include "store/secret.h"

#include <stdlib.h>
#include <string.h>

#define NAME "sources/0000000000000000/00000001"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const uint8_t repo_id[REPO_ID_LEN];

static int
open_object(const struct domain_keys *keys, const uint8_t *data, size_t len, void **plain,
    size_t *plain_len)
{
	int rc = sealed_decode(plain, plain_len, SEALED_SOURCE, NAME, repo_id, keys, data, len);

	if (rc ? *plain != NULL : *plain_len > SEALED_MAX_PLAIN)
		abort();
	return rc;
}

static void
try_object(const struct domain_keys *keys, const uint8_t *data, size_t len)
{
	uint8_t id[DOMAIN_ID_LEN];
	void *plain;
	size_t plain_len;

	(void)sealed_domain(data, len, id);
	(void)open_object(keys, data, len, &plain, &plain_len);
	free(plain);
}

static void
seal_and_hurt(const struct domain_keys *keys, const uint8_t *data, size_t len)
{
	struct bytes b;
	void *plain;
	size_t plain_len;

	bytes_init(&b);
	if (sealed_encode(&b, SEALED_SOURCE, NAME, repo_id, keys, data, len) ||
	    open_object(keys, b.data, b.len, &plain, &plain_len) || plain_len != len ||
	    (len > 0 && memcmp(plain, data, len) != 0))
		abort();
	free(plain);
	if (len >= 3) {
		size_t at = (size_t)(data[0] | data[1] << 8) % b.len;

		b.data[at] ^= (uint8_t)(data[2] ? data[2] : 1);
		if (open_object(keys, b.data, b.len, &plain, &plain_len) == 0)
			abort();
	}
	bytes_release(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint8_t master[CRYPTO_KEY_LEN];
	static struct domain_keys *keys;
	uint8_t *fixed;

	if (!keys && (secret_init() || domain_of_repository(&keys, repo_id, master)))
		abort();
	if (len == 0)
		return 0;
	if (data[0] % 2) {
		seal_and_hurt(keys, data + 1, len - 1);
		return 0;
	}
	data++;
	len--;
	try_object(keys, data, len);
	if (len < SEALED_HEADER_LEN)
		return 0;
	fixed = malloc(len);
	if (!fixed)
		abort();
	memcpy(fixed, data, len);
	le32_store(fixed + 108, crc32c(0, fixed, 108));
	try_object(keys, fixed, len);
	free(fixed);
	return 0;
}
