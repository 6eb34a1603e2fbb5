#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/utc.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define S INT64_C(1000000)

static void
formats_as_few_digits_as_needed(void **state)
{
	static const struct {
		int64_t us;
		const char *text;
	} cases[] = {
		{ 0, "1970-01-01T00:00:00Z" },
		{ -1, "1969-12-31T23:59:59.999999Z" },
		{ 500000, "1970-01-01T00:00:00.5Z" },
		{ 10, "1970-01-01T00:00:00.00001Z" },
		{ 951782400 * S, "2000-02-29T00:00:00Z" },
		{ 4107542399 * S, "2100-02-28T23:59:59Z" },
		{ 4107542400 * S, "2100-03-01T00:00:00Z" },
		{ INT64_C(-62135596800) * S, "0001-01-01T00:00:00Z" },
		{ INT64_C(-62135596800) * S - 1, "invalid-time" },
		{ INT64_C(253402300800) * S - 1, "9999-12-31T23:59:59.999999Z" },
		{ INT64_C(253402300800) * S, "invalid-time" },
		{ INT64_MAX, "invalid-time" },
		{ INT64_MIN, "invalid-time" },
	};
	char text[UTC_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		utc_format(cases[i].us, text);
		assert_string_equal(text, cases[i].text);
	}
}

/* The C library's calendar is the oracle, over all years in uneven steps. */
static void
agrees_with_the_c_library(void **state)
{
	(void)state;
	for (int64_t s = -62135596800; s < 253402300800; s += 86399 * 17 + 7) {
		char text[UTC_TEXT_MAX], expected[100];
		time_t t = (time_t)s;
		int64_t back;
		struct tm tm;

		assert_non_null(gmtime_r(&t, &tm));
		snprintf(expected, sizeof(expected), "%04d-%02d-%02dT%02d:%02d:%02d.000007Z",
		    tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
		utc_format(s * S + 7, text);
		assert_string_equal(text, expected);
		assert_int_equal(utc_parse(text, UTC_NO_OFFSET, &back), 0);
		assert_int_equal(back, s * S + 7);
	}
}

static void
parses_what_people_write(void **state)
{
	static const struct {
		const char *text;
		int32_t offset;
		int64_t us;
	} cases[] = {
		{ "1970-01-01T00:00:00Z", UTC_NO_OFFSET, 0 },
		{ "1970-01-01t00:00:00z", UTC_NO_OFFSET, 0 },
		{ "1970-01-01 02:00:00+02:00", UTC_NO_OFFSET, 0 },
		{ "1970-01-01 02:00:00+02", UTC_NO_OFFSET, 0 },
		{ "1970-01-01 02:00:00+0200", 7, 0 },
		{ "1969-12-31T18:30:00-05:30", UTC_NO_OFFSET, 0 },
		{ "1970-01-01T01:00:00", 3600, 0 },
		{ "1970-01-01T00:00:00", 0, 0 },
		{ "1969-12-31T23:00:00", -3600, 0 },
		{ "1970-01-01T00:00:00.5Z", 0, 500000 },
		{ "1970-01-01T00:00:00.1234567899Z", 0, 123456 },
		{ "1970-01-01T00:00:60Z", 0, 60 * S },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int64_t us = -42;

		assert_int_equal(utc_parse(cases[i].text, cases[i].offset, &us), 0);
		assert_int_equal(us, cases[i].us);
	}
}

static void
refuses_what_is_no_time(void **state)
{
	static const char *const bad[] = { "", "now", "2026", "2026-11-20", "2026-11-20T",
		"2026-11-20Z", "2026-11-20T14:03Z", "2026-11-20T14:03:2Z", "2026-13-01T00:00:00Z",
		"2026-00-01T00:00:00Z", "2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z",
		"2026-04-31T00:00:00Z", "2026-04-00T00:00:00Z", "0000-01-01T00:00:00Z",
		"2026-11-20T24:00:00Z", "2026-11-20T23:60:00Z", "2026-11-20T23:00:61Z",
		"2026-11-20T23:00:00.Z", "2026-11-20T23:00:00ZZ", "2026-11-20T23:00:00 Z",
		"2026-11-20T23:00:00+", "2026-11-20T23:00:00+2", "2026-11-20T23:00:00+24:00",
		"2026-11-20T23:00:00+02:60", "2026-11-20T23:00:00+02:0",
		"2026-11-20T23:00:00+02:00:00", "2026/11/20T23:00:00Z", "-026-11-20T23:00:00Z",
		"2026-11-20_23:00:00Z", " 2026-11-20T23:00:00Z" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int64_t us = -42;

		assert_int_equal(utc_parse(bad[i], 0, &us), ERR_USAGE);
		assert_int_equal(us, -42);
		assert_non_null(strstr(err_msg(), bad[i]));
	}
}

static void
asks_for_a_missing_zone(void **state)
{
	int64_t us;

	(void)state;
	assert_int_equal(utc_parse("2026-11-20T23:00:00", UTC_NO_OFFSET, &us), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "no zone"));
}

static void
knows_what_time_it_is(void **state)
{
	int64_t us = utc_now_us();

	(void)state;
	assert_true(us / S >= time(NULL) - 5 && us / S <= time(NULL) + 5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(formats_as_few_digits_as_needed),
		cmocka_unit_test(agrees_with_the_c_library),
		cmocka_unit_test(parses_what_people_write),
		cmocka_unit_test(refuses_what_is_no_time),
		cmocka_unit_test(asks_for_a_missing_zone),
		cmocka_unit_test(knows_what_time_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
