/*
 * Page header (src/include/storage/bufpage.h of PostgreSQL), in the machine's byte order, which is
 * little-endian on every machine this runs on:
 *
 *   0  4  pd_lsn, high half        8  2  pd_checksum     14  2  pd_upper
 *   4  4  pd_lsn, low half        10  2  pd_flags        16  2  pd_special
 *                                 12  2  pd_lower        18  2  pd_pagesize_version
 *  20  4  pd_prune_xid
 *
 * All access is by memcpy: a page is only bytes here, whatever the buffer was declared as.
 */
#include "pgsync/pgpage.h"

#include "store/base/bytes.h"

#include <string.h>

#define NSUMS     32
#define FNV_PRIME 16777619u
#define WORDS     (PGPAGE_BYTES / sizeof(uint32_t))

#define PD_CHECKSUM 8
#define PD_LOWER    12
#define PD_UPPER    14
#define PD_SPECIAL  16
#define PD_VERSION  18

/* checksumBaseOffsets of checksum_impl.h: any values would do, but they must be these. */
static const uint32_t base_offsets[NSUMS] = {
	0x5b1f36e9,
	0xb8525960,
	0x02ab50aa,
	0x1de66d2a,
	0x79ff467a,
	0x9bb9f8a3,
	0x217e7cd2,
	0x83e13d2c,
	0xf8d4474f,
	0xe39eb970,
	0x42c6ae16,
	0x993216fa,
	0x7b093b5d,
	0x98daff3c,
	0xf718902a,
	0x0b1c9cdb,
	0xe58f764b,
	0x187636bc,
	0x5d7b3bb1,
	0xe73de7de,
	0x92bec979,
	0xcca6c0b2,
	0x304a0979,
	0x85aa43d4,
	0x783125bb,
	0x6ca8eaa2,
	0xe407eac6,
	0x4b5cfc3e,
	0x9fbf8c76,
	0x15ca20be,
	0xf2ca9fd3,
	0x959bd756,
};

/* One round of all sums over one row of words; the compiler makes vector instructions of it. */
static inline void
mix(uint32_t *restrict sums, const uint32_t *restrict row)
{
	for (int j = 0; j < NSUMS; j++) {
		uint32_t t = sums[j] ^ row[j];

		sums[j] = t * FNV_PRIME ^ t >> 17;
	}
}

static inline __attribute__((always_inline)) uint32_t
sum_page_body(const uint8_t *page)
{
	static const uint32_t zeros[NSUMS];
	uint32_t sums[NSUMS], row[NSUMS], result = 0;

	memcpy(sums, base_offsets, sizeof(sums));
	for (size_t i = 0; i < WORDS / NSUMS; i++) {
		memcpy(row, page + i * sizeof(row), sizeof(row));
		if (i == 0) {
			/* pd_checksum is the low half of the third word. */
			uint8_t *first = (uint8_t *)row;

			first[PD_CHECKSUM] = 0;
			first[PD_CHECKSUM + 1] = 0;
		}
		mix(sums, row);
	}
	mix(sums, zeros);
	mix(sums, zeros);
	for (int j = 0; j < NSUMS; j++)
		result ^= sums[j];
	return result;
}

/* The same code for wider registers: PostgreSQL's own function is built to be fast on these. */
__attribute__((target("avx2"))) static uint32_t
sum_page_avx2(const uint8_t *page)
{
	return sum_page_body(page);
}

static uint32_t
sum_page(const uint8_t *page)
{
	return __builtin_cpu_supports("avx2") ? sum_page_avx2(page) : sum_page_body(page);
}

uint16_t
pgpage_checksum(const void *page, uint32_t block)
{
	/* 1 to 65535, so that 0 can mean "none". */
	return (uint16_t)((sum_page(page) ^ block) % 65535 + 1);
}

uint64_t
pgpage_lsn(const void *page)
{
	const uint8_t *p = page;

	return (uint64_t)le32_load(p) << 32 | le32_load(p + 4);
}

uint16_t
pgpage_stored_checksum(const void *page)
{
	return le16_load((const uint8_t *)page + PD_CHECKSUM);
}

bool
pgpage_is_zero(const void *page)
{
	const uint8_t *p = page;

	return p[0] == 0 && memcmp(p, p + 1, PGPAGE_BYTES - 1) == 0;
}

bool
pgpage_header_sane(const void *page)
{
	const uint8_t *p = page;
	uint16_t lower = le16_load(p + PD_LOWER);
	uint16_t upper = le16_load(p + PD_UPPER);
	uint16_t special = le16_load(p + PD_SPECIAL);
	uint16_t version = le16_load(p + PD_VERSION);

	/* PageIsVerified() of bufpage.c: the size in the high bits, the layout version 4. */
	return lower >= PGPAGE_HEADER_LEN && lower <= upper && upper <= special &&
	       special <= PGPAGE_BYTES && special % 8 == 0 && version == (PGPAGE_BYTES | 4);
}

enum pgpage_verdict
pgpage_check(const void *page, uint32_t block, const struct pgpage_rules *rules)
{
	const uint8_t *p = page;

	/* pd_upper is 0 on a page that was never initialised, and such a page is all zeros. */
	if (le16_load(p + PD_UPPER) == 0 && pgpage_is_zero(page))
		return PGPAGE_GOOD;
	if (pgpage_lsn(page) >= rules->start_lsn)
		return PGPAGE_RECENT;
	if (!rules->data_checksums)
		return pgpage_header_sane(page) ? PGPAGE_GOOD : PGPAGE_BAD;
	return pgpage_checksum(page, block) == pgpage_stored_checksum(page) ? PGPAGE_GOOD
									    : PGPAGE_BAD;
}

bool
pgpage_all_before(const void *pages, size_t len, uint64_t lsn)
{
	const uint8_t *p = pages;

	for (size_t off = 0; off < len; off += PGPAGE_BYTES) {
		uint64_t page_lsn = pgpage_lsn(p + off);

		if (page_lsn == 0 || page_lsn >= lsn)
			return false;
	}
	return true;
}
