/*
 * pgpage: is a page of a relation what PostgreSQL wrote?
 *
 * The checksum is the one of PostgreSQL's src/include/storage/checksum_impl.h: 32 parallel FNV-1a
 * sums over the page, mixed with the block's number.  Pages are 8192 bytes.
 *
 * Threads: pure functions.
 */
#ifndef PGSYNC_PGPAGE_H
#define PGSYNC_PGPAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PGPAGE_BYTES          8192u
#define PGPAGE_HEADER_LEN     24u
#define PGPAGE_SEGMENT_BLOCKS 131072u /* pages in a full segment file of 1 GiB */

/* The checksum that `page` should carry as block `block` of its fork; its own field counts as 0. */
uint16_t pgpage_checksum(const void *page, uint32_t block);

/* The fields of a page header. */
uint64_t pgpage_lsn(const void *page);
uint16_t pgpage_stored_checksum(const void *page);

bool pgpage_is_zero(const void *page);

/* Whether the header's offsets, size and version can be a page's at all. */
bool pgpage_header_sane(const void *page);

enum pgpage_verdict {
	PGPAGE_GOOD = 0, /* the checksum is right, or all bytes are zero */
	PGPAGE_RECENT,   /* changed since `start_lsn`: WAL has the whole page, no verdict */
	PGPAGE_BAD,
};

struct pgpage_rules {
	bool data_checksums; /* without them only the header is looked at */
	uint64_t start_lsn;  /* of the backup; UINT64_MAX: nothing is recent */
};

enum pgpage_verdict pgpage_check(
    const void *page, uint32_t block, const struct pgpage_rules *rules);

/*
 * Whether each page of `len` bytes (whole pages) has a page LSN that is not 0 and below `lsn`: then
 * nothing of it has changed since, in a cluster with data checksums.
 */
bool pgpage_all_before(const void *pages, size_t len, uint64_t lsn);

#endif
