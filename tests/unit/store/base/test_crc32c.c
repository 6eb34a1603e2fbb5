#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/base/crc32c.h"

#include <stdlib.h>
#include <string.h>

/* A bit at a time, straight from the definition. */
static uint32_t
slow(const uint8_t *p, size_t n)
{
	uint32_t r = 0xffffffff;

	while (n--) {
		r ^= *p++;
		for (int i = 0; i < 8; i++)
			r = r & 1 ? r >> 1 ^ 0x82f63b78u : r >> 1;
	}
	return ~r;
}

/* RFC 3720, appendix B.4, and the usual check value. */
static void
gives_the_published_values(void **state)
{
	uint8_t buf[32];

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	memset(buf, 0, 32);
	assert_int_equal(crc32c(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, 32);
	assert_int_equal(crc32c(0, buf, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(crc32c(0, buf, 32), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(0, buf, 32), 0x113fdb5c);
	assert_int_equal(crc32c(0, "", 0), 0);
}

static void
goes_on_and_combines(void **state)
{
	uint8_t buf[3000];

	(void)state;
	srand(7);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rand();
	for (int round = 0; round < 500; round++) {
		size_t n = (size_t)rand() % sizeof(buf), cut = n ? (size_t)rand() % n : 0;
		uint32_t all = slow(buf, n), a = crc32c(0, buf, cut),
			 b = crc32c(0, buf + cut, n - cut);

		assert_int_equal(crc32c(0, buf, n), all);
		assert_int_equal(crc32c(a, buf + cut, n - cut), all);
		assert_int_equal(crc32c_combine(a, b, n - cut), all);
	}
}

static void
zeros_take_no_time(void **state)
{
	static const uint8_t zero[70000];

	(void)state;
	for (size_t n = 0; n < sizeof(zero); n += n < 300 ? 1 : 997)
		assert_int_equal(crc32c_zeros(n), crc32c(0, zero, n));
	/* Lengths that cannot be made here must at least agree with being joined. */
	for (int k = 20; k < 63; k++) {
		uint64_t n = UINT64_C(1) << k;

		assert_int_equal(crc32c_zeros(2 * n + 5),
		    crc32c_combine(crc32c_zeros(n + 3), crc32c_zeros(n + 2), n + 2));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_the_published_values),
		cmocka_unit_test(goes_on_and_combines),
		cmocka_unit_test(zeros_take_no_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
