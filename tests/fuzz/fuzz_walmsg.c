/*
 * Replication messages, and the page header at the beginning of what a data message carries.
 */
#include "pgsync/walmsg.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct walmsg_expect expect = {
		.server_version = 150018,
		.system_identifier = 7000000000000000001,
		.timeline = 2,
		.segment_bytes = 16u << 20,
	};
	struct walmsg m;

	if (walmsg_decode(&m, data, len))
		return 0;
	if (m.kind == WALMSG_DATA) {
		uint64_t page = m.start_lsn - m.start_lsn % WAL_PAGE_BYTES;

		if (m.data + m.len != data + len)
			abort();
		walmsg_check_page(m.data, m.len, page, &expect);
	}
	return 0;
}
