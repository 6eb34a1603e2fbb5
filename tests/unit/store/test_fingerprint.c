/* Fingerprints and checksums: values by xxhsum and by xxHash's own header. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/fingerprint.h"
#include "store/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint8_t key[32];       /* 0, 1, 2, … */
static uint8_t pattern[1000]; /* 0, 7, 14, … */

static void
assert_hash(const uint8_t hash[FINGERPRINT_LEN], const char *expected)
{
	char text[2 * FINGERPRINT_LEN + 1];

	hex_encode(text, hash, FINGERPRINT_LEN);
	assert_string_equal(text, expected);
}

/* The secret was derived by Python's hmac, the hash made by the plain functions of xxhash.h. */
static void
fingerprints_are_the_documented_ones(void **state)
{
	static const struct {
		size_t len;
		const char *hash;
	} cases[] = {
		{ 0, "aea5c223f0bc476dcbbef31d2d01b4a8" },
		{ 3, "6ee89c305bacd6bacacddc840388112a" },
		{ 200, "56acb6e09cf6f2d3c61b8944d98fbc6f" },
		{ 1000, "19ffd7a8d3235831f6c59bf6e6fbe761" },
	};
	struct fingerprinter *f;

	(void)state;
	assert_int_equal(fingerprinter_new(&f, key), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t hash[FINGERPRINT_LEN];

		fingerprint(f, pattern, cases[i].len, hash);
		assert_hash(hash, cases[i].hash);
	}
	fingerprinter_free(f);
	fingerprinter_free(NULL);
}

static void
a_flipped_bit_or_key_shows(void **state)
{
	static uint8_t data[8192];
	uint8_t a[FINGERPRINT_LEN], b[FINGERPRINT_LEN], other[32];
	struct fingerprinter *f, *g;

	(void)state;
	memcpy(other, key, sizeof(other));
	other[31] ^= 0x80;
	assert_int_equal(fingerprinter_new(&f, key), 0);
	assert_int_equal(fingerprinter_new(&g, other), 0);
	fingerprint(f, data, sizeof(data), a);
	for (size_t i = 0; i < sizeof(data); i += 61) {
		data[i] ^= 4;
		fingerprint(f, data, sizeof(data), b);
		assert_memory_not_equal(a, b, sizeof(a));
		data[i] ^= 4;
	}
	fingerprint(g, data, sizeof(data), b);
	assert_memory_not_equal(a, b, sizeof(a));
	fingerprint(f, data, sizeof(data), b);
	assert_memory_equal(a, b, sizeof(a));
	fingerprinter_free(f);
	fingerprinter_free(g);
}

/* By xxhsum -H128. */
static void
checksums_are_those_of_xxhsum(void **state)
{
	uint8_t hash[FINGERPRINT_LEN];
	struct checksum *c;

	(void)state;
	assert_int_equal(checksum_new(&c), 0);
	checksum_final(c, hash);
	assert_hash(hash, "99aa06d3014798d86001c324468d497f");
	checksum_update(c, "1234", 4);
	checksum_update(c, NULL, 0);
	checksum_update(c, "56789", 5);
	checksum_final(c, hash);
	assert_hash(hash, "33119477ede5dcd5e9716427681d5860");
	for (size_t step = 1; step <= 1000; step += 333) {
		checksum_reset(c);
		for (size_t off = 0; off < 1000; off += step)
			checksum_update(c, pattern + off, 1000 - off < step ? 1000 - off : step);
		checksum_final(c, hash);
		assert_hash(hash, "abee229cdadad76d10ad30264426c830");
	}
	checksum_free(c);
	checksum_free(NULL);
}

static void
memory_can_run_out(void **state)
{
	(void)state;
	for (int which = 0; which < 2; which++) {
		bool faulted = true;

		for (uint64_t n = 1; faulted; n++) {
			struct fingerprinter *f = NULL;
			struct checksum *c = NULL;
			int rc;

			assert_true(n < 10);
			sys_fault_arm(n, ENOMEM);
			rc = which ? checksum_new(&c) : fingerprinter_new(&f, key);
			faulted = sys_fault_happened();
			sys_fault_arm(0, 0);
			assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
			assert_true(faulted == (!f && !c));
			assert_true(faulted || n == 3);
			fingerprinter_free(f);
			checksum_free(c);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fingerprints_are_the_documented_ones),
		cmocka_unit_test(a_flipped_bit_or_key_shows),
		cmocka_unit_test(checksums_are_those_of_xxhsum),
		cmocka_unit_test(memory_can_run_out),
	};

	if (secret_init())
		return 1;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
