/* The repository header: round trip, refusal of everything that is not one, its authentication. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo_header.h"
#include "store/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static uint8_t master[32];

static struct repo_header
sample(void)
{
	struct repo_header h = {
		.format_version = REPO_FORMAT_VERSION,
		.required_features = 0,
		.optional_features = UINT64_C(0x8000000000000001),
		.id_algorithm = ID_BLAKE2B_256,
		.page_chunk_bytes = 65536,
		.cdc_min_bytes = 65536,
		.cdc_avg_bytes = 262144,
		.cdc_max_bytes = 1048576,
		.created_us = INT64_C(1795140202123456),
	};

	memset(h.repo_id, 0xa5, sizeof(h.repo_id));
	memset(h.default_domain, 0x5a, sizeof(h.default_domain));
	return h;
}

static void
encode(uint8_t out[REPO_HEADER_LEN])
{
	struct repo_header h = sample();

	assert_int_equal(repo_header_encode(&h, master, out), 0);
}

/* Make the checksum right again after a field was changed. */
static void
fix_crc(uint8_t *p)
{
	le32_store(p + 124, crc32c(0, p, 124));
}

static void
test_round_trip(void **state)
{
	struct repo_header want = sample(), got;
	uint8_t buf[REPO_HEADER_LEN];

	(void)state;
	encode(buf);
	assert_int_equal(repo_header_decode(&got, buf, sizeof(buf)), 0);
	assert_int_equal(got.format_version, want.format_version);
	assert_int_equal(got.required_features, want.required_features);
	assert_true(got.optional_features == want.optional_features);
	assert_memory_equal(got.repo_id, want.repo_id, REPO_ID_LEN);
	assert_int_equal(got.id_algorithm, want.id_algorithm);
	assert_int_equal(got.page_chunk_bytes, want.page_chunk_bytes);
	assert_int_equal(got.cdc_min_bytes, want.cdc_min_bytes);
	assert_int_equal(got.cdc_avg_bytes, want.cdc_avg_bytes);
	assert_int_equal(got.cdc_max_bytes, want.cdc_max_bytes);
	assert_true(got.created_us == want.created_us);
	assert_memory_equal(got.default_domain, want.default_domain, 16);
	assert_int_equal(repo_header_verify(buf, sizeof(buf), master), 0);
}

static void
test_layout(void **state)
{
	uint8_t buf[REPO_HEADER_LEN];

	(void)state;
	encode(buf);
	/* The places that docs/format.md names; a change of any is a new format. */
	assert_memory_equal(buf, "PASTFSR1", 8);
	assert_int_equal(le32_load(buf + 8), 1);
	assert_int_equal(le32_load(buf + 12), 160);
	assert_int_equal(buf[32], 0xa5);
	assert_int_equal(buf[48], 2);
	assert_int_equal(buf[49], 1);
	assert_int_equal(le32_load(buf + 52), 65536);
	assert_int_equal(le32_load(buf + 64), 1048576);
	assert_true(le64_load(buf + 68) == UINT64_C(1795140202123456));
	assert_int_equal(buf[76], 0x5a);
	for (size_t i = 92; i < 124; i++)
		assert_int_equal(buf[i], 0);
}

static void
test_truncation_and_excess(void **state)
{
	uint8_t buf[REPO_HEADER_LEN + 1] = { 0 };
	struct repo_header h;

	(void)state;
	encode(buf);
	for (size_t n = 0; n < REPO_HEADER_LEN; n++) {
		assert_int_equal(repo_header_decode(&h, buf, n), ERR_DAMAGED);
		assert_int_equal(repo_header_verify(buf, n, master), ERR_DAMAGED);
	}
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_DAMAGED);
}

static void
test_every_bit_counts(void **state)
{
	uint8_t buf[REPO_HEADER_LEN];
	struct repo_header h;

	(void)state;
	encode(buf);
	for (size_t bit = 0; bit < 8 * sizeof(buf); bit++) {
		int rc;

		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = repo_header_decode(&h, buf, sizeof(buf));
		if (rc == 0)
			rc = repo_header_verify(buf, sizeof(buf), master);
		assert_true(rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(repo_header_verify(buf, sizeof(buf), master), 0);
}

static void
test_not_a_header(void **state)
{
	static const char text[] = "this is some file that happens to be called pastfs";
	struct repo_header h;

	(void)state;
	assert_int_equal(repo_header_decode(&h, text, sizeof(text)), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "not a pastfs repository"));
}

static void
test_newer_format(void **state)
{
	uint8_t buf[REPO_HEADER_LEN];
	struct repo_header h;

	(void)state;
	encode(buf);
	le32_store(buf + 8, 7);
	/* Whatever the rest of it looks like, and however long it is. */
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "format 7"));
	assert_non_null(strstr(err_msg(), "up to 1"));
	assert_non_null(strstr(err_msg(), "upgrade pastfs"));
	assert_int_equal(repo_header_decode(&h, buf, 12), ERR_UNSUPPORTED);
}

static void
test_unknown_features(void **state)
{
	uint8_t buf[REPO_HEADER_LEN];
	struct repo_header h;

	(void)state;
	encode(buf);
	le64_store(buf + 16, UINT64_C(1) << 40);
	fix_crc(buf);
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_UNSUPPORTED);
	encode(buf);
	buf[48] = 9;
	fix_crc(buf);
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_UNSUPPORTED);
	encode(buf);
	buf[49] = 2;
	fix_crc(buf);
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_UNSUPPORTED);
	/* Optional ones are ignored: sample() has two. */
	encode(buf);
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), 0);
}

static void
test_sizes_are_bounded(void **state)
{
	static const struct {
		size_t off;
		uint32_t value;
	} bad[] = {
		{ 52, 0 },
		{ 52, 4096 },
		{ 52, 65536 + 1 },
		{ 52, 2u << 20 },
		{ 56, 0 },
		{ 56, 4095 },
		{ 56, 262144 },
		{ 60, 262145 },
		{ 60, 65536 },
		{ 60, 1048576 },
		{ 64, 262144 },
		{ 64, (4u << 20) + 1 },
		{ 64, UINT32_MAX },
	};
	uint8_t buf[REPO_HEADER_LEN];
	struct repo_header h;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		encode(buf);
		le32_store(buf + bad[i].off, bad[i].value);
		fix_crc(buf);
		assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), ERR_DAMAGED);
	}
	h = sample();
	h.cdc_avg_bytes = 1000;
	assert_int_equal(repo_header_encode(&h, master, buf), ERR_USAGE);
}

static void
test_authentication(void **state)
{
	uint8_t buf[REPO_HEADER_LEN], other[32];
	struct repo_header h;

	(void)state;
	encode(buf);
	memset(other, 1, sizeof(other));
	assert_int_equal(repo_header_verify(buf, sizeof(buf), other), ERR_DAMAGED);
	/* A forger can make the checksum right, but not the code. */
	buf[76] ^= 1;
	fix_crc(buf);
	assert_int_equal(repo_header_decode(&h, buf, sizeof(buf)), 0);
	assert_int_equal(repo_header_verify(buf, sizeof(buf), master), ERR_DAMAGED);
}

static void
test_faults(void **state)
{
	struct repo_header h = sample();
	uint8_t want[REPO_HEADER_LEN], got[REPO_HEADER_LEN];
	bool happened;
	uint64_t n;
	int rc;

	(void)state;
	encode(want);
	for (n = 1; n < 1000; n++) {
		memset(got, 0, sizeof(got));
		sys_fault_arm(n, ENOMEM);
		rc = repo_header_encode(&h, master, got);
		if (rc == 0)
			rc = repo_header_verify(got, sizeof(got), master);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
		assert_int_equal(repo_header_encode(&h, master, got), 0);
		assert_memory_equal(got, want, sizeof(want));
	}
	assert_true(n < 1000);
	assert_int_equal(rc, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_truncation_and_excess),
		cmocka_unit_test(test_every_bit_counts),
		cmocka_unit_test(test_not_a_header),
		cmocka_unit_test(test_newer_format),
		cmocka_unit_test(test_unknown_features),
		cmocka_unit_test(test_sizes_are_bounded),
		cmocka_unit_test(test_authentication),
		cmocka_unit_test(test_faults),
	};

	if (secret_init())
		return 1;
	random_bytes(master, sizeof(master));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
