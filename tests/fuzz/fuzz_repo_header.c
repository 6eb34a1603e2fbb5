/*
 * The repository header, as it is and with its checksum made right.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/chunk.h"
#include "store/repo_header.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was accepted keeps the promises that sizes of buffers rest on. */
static void
try(const uint8_t *data, size_t len)
{
	static const uint8_t master[32];
	uint8_t again[REPO_HEADER_LEN];
	struct repo_header h;

	(void)repo_header_verify(data, len, master);
	if (repo_header_decode(&h, data, len))
		return;
	if (h.format_version != REPO_FORMAT_VERSION || h.cdc_min_bytes >= h.cdc_avg_bytes ||
	    h.cdc_avg_bytes >= h.cdc_max_bytes || h.cdc_max_bytes > CHUNK_MAX_BYTES ||
	    h.page_chunk_bytes > CHUNK_MAX_BYTES)
		abort();
	if (repo_header_encode(&h, master, again) ||
	    repo_header_verify(again, sizeof(again), master))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t fixed[REPO_HEADER_LEN];

	try(data, len);
	if (len != REPO_HEADER_LEN)
		return 0;
	memcpy(fixed, data, len);
	le32_store(fixed + 124, crc32c(0, fixed, 124));
	try(fixed, len);
	return 0;
}
