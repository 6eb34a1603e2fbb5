/*
 * The bytes of pg_control, as they are and with the checksum made right, so that what lies behind
 * it is reached too.
 */
#include "pgsync/pgcontrol.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
decode(const uint8_t *data, size_t len)
{
	struct pgcontrol c;

	if (pgcontrol_decode(&c, data, len))
		return;
	if (c.block_bytes == 0 || c.wal_segment_bytes < 1u << 20 || c.segment_blocks == 0)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t fixed[PGCONTROL_FILE_BYTES];

	decode(data, len);
	if (len < PGCONTROL_MIN_BYTES || len > sizeof(fixed))
		return 0;
	memcpy(fixed, data, len);
	le32_store(fixed + 288, crc32c(0, fixed, 288));
	decode(fixed, len);
	return 0;
}
