/* Chunker: exact cuts by an independent implementation, and what deduplication needs of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/chunker.h"
#include "store/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint8_t key[32]; /* 0, 1, 2, … */

/* The upper byte of a linear congruential generator. */
static void
fill(uint8_t *p, size_t n, uint64_t x)
{
	for (size_t i = 0; i < n; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		p[i] = (uint8_t)(x >> 56);
	}
}

/* The ends of all chunks of a content; their number. */
static size_t
cut_all(const struct chunker *c, const uint8_t *p, size_t n, size_t *ends, size_t room)
{
	size_t off = 0, k = 0;

	while (off < n) {
		size_t left = n - off;
		size_t len = chunker_cut(c, p + off, left < chunker_max(c) ? left : chunker_max(c));

		assert_true(len >= 1 && len <= left && len <= chunker_max(c));
		assert_true(k < room);
		off += len;
		ends[k++] = off;
	}
	return k;
}

/* By the function of docs/format.md written in Python. */
static void
cuts_where_the_format_says(void **state)
{
	static const size_t lengths[] = { 571, 1130, 1048, 1099, 394, 1540, 919, 1192, 1137, 1043,
		1031, 1026, 296, 1643, 1102, 1095, 1106, 1229, 1060, 339 };
	static uint8_t data[20000];
	size_t ends[100], at = 0, n;
	struct chunker *c;

	(void)state;
	fill(data, sizeof(data), 1);
	assert_int_equal(chunker_new(&c, key, 256, 1024, 4096), 0);
	n = cut_all(c, data, sizeof(data), ends, 100);
	assert_int_equal(n, sizeof(lengths) / sizeof(lengths[0]));
	for (size_t i = 0; i < n; i++) {
		at += lengths[i];
		assert_int_equal(ends[i], at);
	}
	chunker_free(c);
	chunker_free(NULL);
}

static void
short_and_uniform_content(void **state)
{
	static uint8_t zeros[5000];
	struct chunker *c;

	(void)state;
	assert_int_equal(chunker_new(&c, key, 256, 1024, 4096), 0);
	assert_int_equal(chunker_max(c), 4096);
	for (size_t n = 1; n <= 256; n++)
		assert_int_equal(chunker_cut(c, zeros, n), n);
	assert_true(chunker_cut(c, zeros, sizeof(zeros)) <= 4096);
	chunker_free(c);
}

/* Bytes put in near the start move the cuts with them soon: most chunks stay the same. */
static void
cuts_follow_the_content(void **state)
{
	enum { N = 4 << 20, SHIFT = 123 };
	uint8_t *a = malloc(N), *b = malloc(N + SHIFT);
	size_t ends_a[4096], ends_b[4096], na, nb, same = 0;
	struct chunker *c;

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	fill(a, N, 2);
	memcpy(b, a, 1000);
	fill(b + 1000, SHIFT, 3);
	memcpy(b + 1000 + SHIFT, a + 1000, N - 1000);
	assert_int_equal(chunker_new(&c, key, 2048, 8192, 32768), 0);
	na = cut_all(c, a, N, ends_a, 4096);
	nb = cut_all(c, b, N + SHIFT, ends_b, 4096);
	for (size_t i = 0, k = 0; i < na; i++) {
		while (k < nb && ends_b[k] < ends_a[i] + SHIFT)
			k++;
		same += k < nb && ends_b[k] == ends_a[i] + SHIFT;
	}
	assert_true(same + 5 >= na);
	/* The average is near the one asked for. */
	assert_true(na * 8192 * 3 / 4 < N && na * 8192 * 3 / 2 > N);
	chunker_free(c);
	free(a);
	free(b);
}

static void
another_key_cuts_elsewhere(void **state)
{
	static uint8_t data[100000];
	uint8_t other[32];
	size_t ends_a[400], ends_b[400], na, nb, same = 0;
	struct chunker *c;

	(void)state;
	memcpy(other, key, sizeof(other));
	other[0] ^= 1;
	fill(data, sizeof(data), 4);
	assert_int_equal(chunker_new(&c, key, 256, 1024, 4096), 0);
	na = cut_all(c, data, sizeof(data), ends_a, 400);
	chunker_free(c);
	assert_int_equal(chunker_new(&c, other, 256, 1024, 4096), 0);
	nb = cut_all(c, data, sizeof(data), ends_b, 400);
	chunker_free(c);
	for (size_t i = 0; i < na; i++)
		for (size_t k = 0; k < nb; k++)
			same += ends_a[i] == ends_b[k];
	assert_true(same < na / 10);
}

static void
refuses_sizes_that_do_not_fit(void **state)
{
	static const uint32_t bad[][3] = { { 0, 1024, 4096 }, { 256, 1000, 4096 },
		{ 1024, 1024, 4096 }, { 256, 1024, 1024 }, { 2048, 1024, 4096 }, { 256, 1024, 512 },
		{ 1, 4, 9 }, { 1, 0, 9 } };
	struct chunker *c;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(chunker_new(&c, key, bad[i][0], bad[i][1], bad[i][2]), ERR_USAGE);
		assert_null(c);
	}
	assert_int_equal(chunker_new(&c, key, 1, 1u << 31, UINT32_MAX), 0);
	chunker_free(c);
}

static void
memory_can_run_out(void **state)
{
	bool faulted = true;
	uint64_t n;

	(void)state;
	for (n = 1; faulted; n++) {
		struct chunker *c;
		int rc;

		assert_true(n < 10);
		sys_fault_arm(n, ENOMEM);
		rc = chunker_new(&c, key, 256, 1024, 4096);
		faulted = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
		assert_true(!faulted == (c != NULL));
		chunker_free(c);
	}
	assert_true(n > 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cuts_where_the_format_says),
		cmocka_unit_test(short_and_uniform_content),
		cmocka_unit_test(cuts_follow_the_content),
		cmocka_unit_test(another_key_cuts_elsewhere),
		cmocka_unit_test(refuses_sizes_that_do_not_fit),
		cmocka_unit_test(memory_can_run_out),
	};

	if (secret_init())
		return 1;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
