#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/pgfiles.h"
#include "pgsync/pgpage.h"
#include "tests/support/pg_scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct pgpage_rules strict = { .data_checksums = true, .start_lsn = UINT64_MAX };

static void
put16(uint8_t *page, size_t at, unsigned int v)
{
	page[at] = (uint8_t)v;
	page[at + 1] = (uint8_t)(v >> 8);
}

/* An empty heap page with a right checksum. */
static void
make_page(uint8_t page[PGPAGE_BYTES], uint32_t block)
{
	memset(page, 0, PGPAGE_BYTES);
	page[4] = 0x10; /* LSN 0/10 */
	put16(page, 12, 24);
	put16(page, 14, PGPAGE_BYTES);
	put16(page, 16, PGPAGE_BYTES);
	put16(page, 18, PGPAGE_BYTES | 4);
	put16(page, 8, pgpage_checksum(page, block));
}

static void
test_verdicts(void **state)
{
	const struct pgpage_rules at_10 = { .data_checksums = true, .start_lsn = 0x10 };
	uint8_t page[PGPAGE_BYTES];

	(void)state;
	make_page(page, 7);
	assert_int_equal(pgpage_check(page, 7, &strict), PGPAGE_GOOD);
	assert_int_equal(pgpage_lsn(page), 0x10);
	assert_int_equal(pgpage_check(page, 8, &strict), PGPAGE_BAD);
	page[5000] ^= 1;
	assert_int_equal(pgpage_check(page, 7, &strict), PGPAGE_BAD);
	assert_int_equal(pgpage_check(page, 7, &at_10), PGPAGE_RECENT);
	page[5000] ^= 1;
	page[8] ^= 1;
	assert_int_equal(pgpage_check(page, 7, &strict), PGPAGE_BAD);
}

static void
test_zero_pages(void **state)
{
	uint8_t page[PGPAGE_BYTES] = { 0 };

	(void)state;
	assert_true(pgpage_is_zero(page));
	assert_int_equal(pgpage_check(page, 3, &strict), PGPAGE_GOOD);
	page[PGPAGE_BYTES - 1] = 1;
	assert_false(pgpage_is_zero(page));
	assert_int_equal(pgpage_check(page, 3, &strict), PGPAGE_BAD);
}

static void
test_header_without_checksums(void **state)
{
	const struct pgpage_rules rules = { .data_checksums = false, .start_lsn = UINT64_MAX };
	uint8_t page[PGPAGE_BYTES];

	(void)state;
	make_page(page, 0);
	page[8] = 0;
	page[9] = 0;
	assert_int_equal(pgpage_check(page, 0, &rules), PGPAGE_GOOD);
	put16(page, 12, 23); /* lower within the header */
	assert_int_equal(pgpage_check(page, 0, &rules), PGPAGE_BAD);
	put16(page, 12, 24);
	put16(page, 16, PGPAGE_BYTES + 8); /* special behind the page */
	assert_int_equal(pgpage_check(page, 0, &rules), PGPAGE_BAD);
	put16(page, 16, PGPAGE_BYTES);
	put16(page, 18, PGPAGE_BYTES | 3); /* another layout */
	assert_int_equal(pgpage_check(page, 0, &rules), PGPAGE_BAD);
}

static void
test_all_before(void **state)
{
	static uint8_t pages[3 * PGPAGE_BYTES];

	(void)state;
	for (int i = 0; i < 3; i++)
		make_page(pages + i * (int)PGPAGE_BYTES, (uint32_t)i);
	assert_true(pgpage_all_before(pages, sizeof(pages), 0x11));
	assert_false(pgpage_all_before(pages, sizeof(pages), 0x10));
	memset(pages + PGPAGE_BYTES, 0, 8); /* LSN 0 tells nothing */
	assert_false(pgpage_all_before(pages, sizeof(pages), 0x11));
}

/* ---- against a real cluster ---- */

static struct pg_scratch scratch;
static unsigned int pages_seen, pages_bad;
static char biggest[512];
static off_t biggest_size;

static int
check_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	const char *in_tree = path + strlen(scratch.pgdata) + 1;
	uint8_t page[PGPAGE_BYTES];
	struct pgfile f;
	uint32_t block;
	FILE *in;

	(void)ftw;
	if (type != FTW_F || path[strlen(scratch.pgdata)] != '/')
		return 0;
	pgfiles_classify(in_tree, &f);
	if (f.kind == PGFILE_OTHER)
		return 0;
	if (st->st_size > biggest_size) {
		biggest_size = st->st_size;
		snprintf(biggest, sizeof(biggest), "%s", path);
	}
	block = f.segment * PGPAGE_SEGMENT_BLOCKS;
	in = fopen(path, "rb");
	assert_non_null(in);
	while (fread(page, 1, sizeof(page), in) == sizeof(page)) {
		pages_seen++;
		pages_bad += pgpage_check(page, block++, &strict) == PGPAGE_BAD;
	}
	fclose(in);
	return 0;
}

static void
check_cluster(void)
{
	pages_seen = pages_bad = 0;
	assert_int_equal(nftw(scratch.pgdata, check_file, 16, FTW_PHYS), 0);
}

/* The number behind "Blocks scanned:" and "Bad checksums:" of pg_checksums. */
static void
run_pg_checksums(unsigned int *blocks, unsigned int *bad)
{
	const char *argv[] = { "pg_checksums", "--check", "-D", scratch.pgdata, NULL };
	char out[4096];
	const char *at;

	pg_scratch_run(argv, out, sizeof(out));
	at = strstr(out, "Blocks scanned:");
	assert_non_null(at);
	assert_int_equal(sscanf(at, "Blocks scanned: %u", blocks), 1);
	at = strstr(out, "Bad checksums:");
	assert_non_null(at);
	assert_int_equal(sscanf(at, "Bad checksums: %u", bad), 1);
}

static void
test_real_cluster(void **state)
{
	unsigned int blocks, bad;
	uint8_t byte;
	int fd;

	(void)state;
	pg_scratch_new(&scratch);
	pg_scratch_initdb(&scratch, "-k");
	check_cluster();
	run_pg_checksums(&blocks, &bad);
	assert_int_equal(pages_seen, blocks);
	assert_int_equal(pages_bad, 0);
	assert_int_equal(bad, 0);

	fd = open(biggest, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, 8192 + 4000), 1);
	byte ^= 0x20;
	assert_int_equal(pwrite(fd, &byte, 1, 8192 + 4000), 1);
	close(fd);
	check_cluster();
	run_pg_checksums(&blocks, &bad);
	assert_int_equal(pages_bad, 1);
	assert_int_equal(bad, 1);
	pg_scratch_free(&scratch);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_zero_pages),
		cmocka_unit_test(test_header_without_checksums),
		cmocka_unit_test(test_all_before),
		cmocka_unit_test(test_real_cluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
