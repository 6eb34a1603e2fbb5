#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/pgcontrol.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/pg_scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct pg_scratch scratch;
static uint8_t real[PGCONTROL_FILE_BYTES];
static char shown[16384]; /* what pg_controldata prints */

/* The number that pg_controldata prints behind `label`. */
static uint64_t
shown_number(const char *label)
{
	const char *at = strstr(shown, label);

	assert_non_null(at);
	at += strlen(label);
	return strtoull(at + strspn(at, " "), NULL, 10);
}

static uint64_t
shown_lsn(const char *label)
{
	const char *at = strstr(shown, label);
	uint32_t hi, lo;

	assert_non_null(at);
	assert_int_equal(sscanf(at + strlen(label), " %" SCNx32 "/%" SCNx32, &hi, &lo), 2);
	return (uint64_t)hi << 32 | lo;
}

static int
set_up(void **state)
{
	const char *argv[] = { "pg_controldata", scratch.pgdata, NULL };

	(void)state;
	pg_scratch_new(&scratch);
	pg_scratch_initdb(&scratch, "-k");
	return pg_scratch_run(argv, shown, sizeof(shown));
}

static int
tear_down(void **state)
{
	(void)state;
	pg_scratch_free(&scratch);
	return 0;
}

static void
path_of(char out[160])
{
	snprintf(out, 160, "%s/global/pg_control", scratch.pgdata);
}

static void
test_agrees_with_pg_controldata(void **state)
{
	struct pgcontrol c;
	char path[160];

	(void)state;
	path_of(path);
	assert_int_equal(pgcontrol_read(&c, AT_FDCWD, path, real), 0);
	assert_true(c.system_identifier == shown_number("Database system identifier:"));
	assert_true(c.control_version == shown_number("pg_control version number:"));
	assert_true(c.catalog_version == shown_number("Catalog version number:"));
	assert_true(c.checkpoint_lsn == shown_lsn("Latest checkpoint location:"));
	assert_true(c.redo_lsn == shown_lsn("Latest checkpoint's REDO location:"));
	assert_true(c.timeline == shown_number("Latest checkpoint's TimeLineID:"));
	assert_true(c.min_recovery_lsn == shown_lsn("Minimum recovery ending location:"));
	assert_true(c.block_bytes == shown_number("Database block size:"));
	assert_true(c.segment_blocks == shown_number("Blocks per segment of large relation:"));
	assert_true(c.wal_block_bytes == shown_number("WAL block size:"));
	assert_true(c.wal_segment_bytes == shown_number("Bytes per WAL segment:"));
	assert_true(c.data_checksum_version == shown_number("Data page checksum version:"));
	assert_int_equal(c.state, 1); /* shut down */
}

static void
test_every_flipped_bit_is_seen(void **state)
{
	struct pgcontrol c;
	uint8_t bad[PGCONTROL_FILE_BYTES];

	(void)state;
	for (size_t i = 0; i < 292; i++) {
		int rc;

		memcpy(bad, real, sizeof(bad));
		bad[i] ^= (uint8_t)(1u << i % 8);
		rc = pgcontrol_decode(&c, bad, sizeof(bad));
		assert_true(rc == ERR_DAMAGED || (rc == ERR_UNSUPPORTED && i >= 8 && i < 12));
	}
}

/* Change a word and make the checksum right again. */
static int
decode_with(size_t at, uint32_t v)
{
	uint8_t changed[PGCONTROL_FILE_BYTES];
	struct pgcontrol c;

	memcpy(changed, real, sizeof(changed));
	le32_store(changed + at, v);
	le32_store(changed + 288, crc32c(0, changed, 288));
	return pgcontrol_decode(&c, changed, sizeof(changed));
}

static void
test_what_cannot_be(void **state)
{
	struct pgcontrol c;

	(void)state;
	assert_int_equal(decode_with(228, 32 << 20), 0);
	assert_int_equal(decode_with(228, 3 << 20), ERR_DAMAGED);
	assert_int_equal(decode_with(216, 0), ERR_DAMAGED);
	assert_int_equal(decode_with(220, 0), ERR_DAMAGED);
	assert_int_equal(decode_with(8, 1700), 0);
	assert_int_equal(decode_with(8, 1201), ERR_UNSUPPORTED);
	assert_int_equal(decode_with(8, 9900), ERR_UNSUPPORTED);
	assert_int_equal(pgcontrol_decode(&c, real, 511), ERR_DAMAGED);
	assert_int_equal(pgcontrol_decode(&c, real, 512), 0);
}

/* A file that never gets whole is given up after a second. */
static void
test_gives_up(void **state)
{
	struct pgcontrol c;

	(void)state;
	assert_int_equal(pgcontrol_read(&c, AT_FDCWD, "/dev/null", NULL), ERR_DAMAGED);
}

static void
test_faults(void **state)
{
	struct pgcontrol c;
	char path[160];
	uint64_t n = 0;

	(void)state;
	path_of(path);
	do {
		int rc;

		sys_fault_arm(++n, EIO);
		rc = pgcontrol_read(&c, AT_FDCWD, path, NULL);
		if (sys_fault_happened())
			assert_int_equal(rc, ERR_IO);
		else
			assert_int_equal(rc, 0);
	} while (sys_fault_happened());
	sys_fault_arm(0, 0);
	assert_int_equal(n, 3); /* open, read, and one without a fault */
	assert_int_equal(pgcontrol_read(&c, AT_FDCWD, "/nonexistent", NULL), ERR_NOTFOUND);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees_with_pg_controldata),
		cmocka_unit_test(test_every_flipped_bit_is_seen),
		cmocka_unit_test(test_what_cannot_be),
		cmocka_unit_test(test_gives_up),
		cmocka_unit_test(test_faults),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
