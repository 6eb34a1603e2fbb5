#include "tests/support/wal_page.h"

#include "store/base/bytes.h"

#include <stdbool.h>
#include <string.h>

#define MAGIC_15 0xd110

void
wal_page_head(uint8_t *page, uint64_t lsn, const struct walmsg_expect *expect)
{
	bool first = lsn % expect->segment_bytes == 0;

	memset(page, 0, WAL_PAGE_LONG_HEADER);
	le16_store(page, MAGIC_15);
	le16_store(page + 2, first ? 2 : 0);
	le32_store(page + 4, expect->timeline);
	le64_store(page + 8, lsn);
	if (first) {
		le64_store(page + 24, expect->system_identifier);
		le32_store(page + 32, expect->segment_bytes);
		le32_store(page + 36, WAL_PAGE_BYTES);
	}
}
