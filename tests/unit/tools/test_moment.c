/* "SOURCE[@WHEN][:PATH]", zones and owners. */
#include "store/base/err.h"
#include "store/base/utc.h"
#include "tools/moment.h"
#include "tools/owner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void
expect(const char *text, const char *source, const char *when, const char *path)
{
	struct moment m;

	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, text), 0);
	assert_string_equal(m.source, source);
	assert_string_equal(m.when, when);
	assert_string_equal(m.path, path);
}

static void
test_with_path(void **state)
{
	(void)state;
	expect("main", "main", "", "");
	expect("main:base/5", "main", "", "base/5");
	expect("main:/base//", "main", "", "base");
	expect("main:/", "main", "", "");
	expect("main@latest", "main", "latest", "");
	expect("main@latest:a:b@c", "main", "latest", "a:b@c");
	expect("main@snap:00ff", "main", "snap:00ff", "");
	expect("main@snap:00ff:base", "main", "snap:00ff", "base");
	expect("m-1.x_@2026-11-20T02:00:00Z", "m-1.x_", "2026-11-20T02:00:00Z", "");
	expect("m@2026-11-20T02:00:00Z:base/1", "m", "2026-11-20T02:00:00Z", "base/1");
	expect("m@2026-11-20T02:00:00.25z:x", "m", "2026-11-20T02:00:00.25z", "x");
	expect("m@2026-11-20 02:00:00+02:30:x", "m", "2026-11-20 02:00:00+02:30", "x");
	expect("m@2026-11-20T02:00:00-02:30", "m", "2026-11-20T02:00:00-02:30", "");
	/* Without a zone the path begins behind the seconds. */
	expect("m@2026-11-20T02:00:00:x", "m", "2026-11-20T02:00:00", "x");
	/* What is not a time is left to the look-up. */
	expect("m@yesterday:x", "m", "yesterday", "x");
}

static void
test_only(void **state)
{
	static const char *const bad[] = { "main", "main:base", "@latest", "main@", "",
		"ma in@latest", "-x@latest" };
	struct moment m;

	(void)state;
	assert_int_equal(moment_parse(&m, MOMENT_ONLY, "main@snap:12"), 0);
	assert_string_equal(m.when, "snap:12");
	assert_int_equal(moment_parse(&m, MOMENT_ONLY, "main@2026-11-20T02:00:00Z"), 0);
	assert_string_equal(m.when, "2026-11-20T02:00:00Z");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(moment_parse(&m, MOMENT_ONLY, bad[i]), ERR_USAGE);
}

static void
test_malformed(void **state)
{
	char text[MOMENT_PATH_MAX + 100];
	struct moment m;

	(void)state;
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, "m@"), ERR_USAGE);
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, "m@2026-11-20T02:00:00Zx"), ERR_USAGE);
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, text), ERR_USAGE);
	text[1] = '@';
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, text), ERR_USAGE);
	text[1] = ':';
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, text), ERR_USAGE);
	text[2 + MOMENT_PATH_MAX] = '\0';
	assert_int_equal(moment_parse(&m, MOMENT_WITH_PATH, text), 0);
	assert_int_equal(strlen(m.path), MOMENT_PATH_MAX);
}

static void
test_zones(void **state)
{
	static const char *const bad[] = { "", "CET", "+2", "+02", "+24:00", "+02:60", "+02:00x" };
	int32_t s;

	(void)state;
	assert_int_equal(moment_zone(NULL, &s), 0);
	assert_int_equal(s, UTC_NO_OFFSET);
	assert_int_equal(moment_zone("Z", &s), 0);
	assert_int_equal(s, 0);
	assert_int_equal(moment_zone("utc", &s), 0);
	assert_int_equal(s, 0);
	assert_int_equal(moment_zone("+02:30", &s), 0);
	assert_int_equal(s, 9000);
	assert_int_equal(moment_zone("-11:00", &s), 0);
	assert_int_equal(s, -39600);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(moment_zone(bad[i], &s), ERR_USAGE);
}

static void
test_owners(void **state)
{
	uid_t uid;
	gid_t gid;

	(void)state;
	assert_int_equal(owner_parse("root", &uid, &gid), 0);
	assert_int_equal(uid, 0);
	assert_int_equal(gid, 0);
	assert_int_equal(owner_parse("0:12345", &uid, &gid), 0);
	assert_int_equal(uid, 0);
	assert_int_equal(gid, 12345);
	assert_int_equal(owner_parse("4000000000", &uid, &gid), 0);
	assert_int_equal(uid, 4000000000u);
	assert_int_equal(gid, 4000000000u);
	assert_int_equal(owner_parse("no-such-user-here", &uid, &gid), ERR_NOTFOUND);
	assert_int_equal(owner_parse("root:no-such-group-here", &uid, &gid), ERR_NOTFOUND);
	assert_int_equal(owner_parse("", &uid, &gid), ERR_USAGE);
	assert_int_equal(owner_parse("root:", &uid, &gid), ERR_USAGE);
	assert_int_equal(owner_parse(":root", &uid, &gid), ERR_USAGE);
	/* -1 would mean "leave it as it is". */
	assert_int_equal(owner_parse("4294967295", &uid, &gid), ERR_NOTFOUND);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_with_path),
		cmocka_unit_test(test_only),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_zones),
		cmocka_unit_test(test_owners),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
