#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/base/hex.h"

#include <string.h>

static void
encodes_every_byte(void **state)
{
	uint8_t all[256], back[256];
	char text[513];

	(void)state;
	for (int i = 0; i < 256; i++)
		all[i] = (uint8_t)i;
	hex_encode(text, all, sizeof(all));
	assert_int_equal(strlen(text), 512);
	assert_memory_equal(text, "000102", 6);
	assert_string_equal(text + 506, "fdfeff");
	assert_int_equal(hex_decode(back, text, sizeof(back)), 0);
	assert_memory_equal(back, all, sizeof(all));
}

static void
nothing_is_an_empty_text(void **state)
{
	char text[1] = { 'x' };

	(void)state;
	hex_encode(text, "", 0);
	assert_string_equal(text, "");
	assert_int_equal(hex_decode(text, "", 0), 0);
}

static void
refuses_all_other_text(void **state)
{
	static const char *const bad[] = { "", "0", "000", "00000", "000000", "00AB", "00 1",
		"0g00", "-100", "0x00", "/000", ":000", "00a`" };
	uint8_t out[2];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(hex_decode(out, bad[i], 2), -1);
	assert_int_equal(hex_decode(out, "beef", 2), 0);
	assert_memory_equal(out, "\xbe\xef", 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encodes_every_byte),
		cmocka_unit_test(nothing_is_an_empty_text),
		cmocka_unit_test(refuses_all_other_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
