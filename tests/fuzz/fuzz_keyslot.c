/*
 * Key slots, as they are and with their checksum made right.  Slots for passphrases are decoded
 * only: whoever opens one runs the passphrase function, at the cost that the slot asks for.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/keyslot.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
try(const uint8_t *data, size_t len)
{
	static const uint8_t repo_id[REPO_ID_LEN], file[KEYFILE_MIN_BYTES];
	const struct credential cred = { KEYSLOT_KEYFILE, file, sizeof(file) };
	uint8_t master[SECRET_KEY_LEN];
	struct keyslot_info info;

	if (keyslot_decode(&info, data, len, repo_id))
		return;
	if (strlen(info.label) > KEYSLOT_LABEL_MAX)
		abort();
	if (info.kind == KEYSLOT_PASSPHRASE) {
		if (info.argon_ops < 1 || info.argon_ops > 64 ||
		    info.argon_mem_bytes > UINT64_C(4) << 30)
			abort();
		return;
	}
	(void)keyslot_open(data, len, repo_id, &cred, master);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t fixed[KEYSLOT_LEN];

	if (secret_init())
		abort();
	try(data, len);
	if (len != KEYSLOT_LEN)
		return 0;
	memcpy(fixed, data, len);
	le32_store(fixed + 252, crc32c(0, fixed, 252));
	try(fixed, len);
	return 0;
}
