/*
 * Key domains, as they are and with their checksum made right.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/domain.h"
#include "store/secret.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
try(const uint8_t *data, size_t len)
{
	static const uint8_t repo_id[REPO_ID_LEN], master[CRYPTO_KEY_LEN];
	struct domain_keys *d;

	if (domain_open(&d, data, len, repo_id, master)) {
		if (d)
			abort();
		return;
	}
	if (memcmp(d->id, data + 32, DOMAIN_ID_LEN) != 0)
		abort();
	domain_keys_free(d);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t fixed[DOMAIN_WRAP_LEN];

	if (secret_init())
		abort();
	try(data, len);
	if (len != DOMAIN_WRAP_LEN)
		return 0;
	memcpy(fixed, data, len);
	le32_store(fixed + 140, crc32c(0, fixed, 140));
	try(fixed, len);
	return 0;
}
