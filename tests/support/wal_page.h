/*
 * wal_page: headers of pages of WAL, as PostgreSQL 15 writes them.
 */
#ifndef TESTS_SUPPORT_WAL_PAGE_H
#define TESTS_SUPPORT_WAL_PAGE_H

#include "pgsync/walmsg.h"

#include <stdint.h>

/*
 * Give the page at `lsn` the header that `expect` asks for; where a segment begins it is the long
 * one.  The first WAL_PAGE_LONG_HEADER bytes are written in any case.
 */
void wal_page_head(uint8_t *page, uint64_t lsn, const struct walmsg_expect *expect);

#endif
