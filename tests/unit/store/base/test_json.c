#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/json.h"
#include "store/base/sys.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void
assert_encodes(const struct json *j, const char *expected)
{
	struct bytes b;

	bytes_init(&b);
	assert_int_equal(json_encode(j, &b, JSON_LAYOUT_LINE), 0);
	assert_int_equal(b.len, strlen(expected));
	assert_memory_equal(b.data, expected, b.len);
	bytes_release(&b);
}

static void
test_build(void **state)
{
	struct json *j = json_new_object();
	struct json *a = json_new_array();

	(void)state;
	json_set_str(j, "z", "first");
	json_set_int(j, "int", -5);
	json_set_uint(j, "small", 7);
	json_set_uint(j, "big", UINT64_MAX);
	json_set_double(j, "half", 0.5);
	json_set_double(j, "nan", NAN);
	json_set_bool(j, "yes", true);
	json_set_null(j, "none");
	json_set_str(j, "null", NULL);
	json_add_str(a, "x\"\n");
	json_add_int(a, INT64_MIN);
	json_add_uint(a, INT64_MAX);
	json_add(a, json_new_object());
	json_set(j, "list", a);
	assert_encodes(j,
	    "{\"z\":\"first\",\"int\":-5,\"small\":7,\"big\":\"18446744073709551615\","
	    "\"half\":0.5,\"nan\":null,\"yes\":true,\"none\":null,\"null\":null,"
	    "\"list\":[\"x\\\"\\n\",-9223372036854775808,9223372036854775807,{}]}\n");
	json_free(j);
}

static void
test_text_that_is_not_utf8(void **state)
{
	struct json *j = json_new_array();

	(void)state;
	assert_true(json_is_utf8(""));
	assert_true(json_is_utf8("a\xc3\xa4\xf0\x9f\x90\x98"));
	assert_false(json_is_utf8("a\xc3"));
	assert_false(json_is_utf8("\xed\xa0\x80"));
	json_add_str(j, "a\xff\xc3\xa4\xc3");
	json_add_str(j, "\xc0\x80\xed\xa0\x80");
	json_add_str(j, "\xf0\x9f\x90\x98\xf4\x90\x80\x80");
	assert_encodes(j,
	    "[\"a\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\","
	    "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\","
	    "\"\xf0\x9f\x90\x98\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"]\n");
	json_free(j);
}

static void
test_print(void **state)
{
	char text[64] = { 0 };
	struct json *j = json_new_object();
	FILE *f = tmpfile();
	FILE *full = fopen("/dev/full", "w");

	(void)state;
	assert_non_null(f);
	assert_non_null(full);
	json_set_int(j, "a", 1);
	assert_int_equal(json_print(j, f, JSON_LAYOUT_PRETTY), 0);
	rewind(f);
	assert_int_equal(fread(text, 1, sizeof(text), f), strlen("{\n  \"a\": 1\n}\n"));
	assert_string_equal(text, "{\n  \"a\": 1\n}\n");
	assert_int_equal(json_print(j, full, JSON_LAYOUT_LINE), ERR_NOSPACE);
	assert_int_equal(json_print(NULL, f, JSON_LAYOUT_LINE), ERR_NOMEM);
	fclose(f);
	fclose(full);
	json_free(j);
}

static void
test_read(void **state)
{
	static const char text[] = " {\"t\": \"x\", \"n\": 12, \"m\": -1, \"d\": 1.5, \"b\": true,"
				   " \"l\": [1, null], \"nul\": \"a\\u00e4\" } ";
	const struct json_value *root;
	struct json *j;
	uint64_t u = 99;
	int64_t i = 99;
	bool b = false;

	(void)state;
	assert_int_equal(json_parse(&j, text, strlen(text)), 0);
	root = json_root(j);
	assert_int_equal(json_kind(root), JSON_KIND_OBJECT);
	assert_int_equal(json_count(root), 7);
	assert_string_equal(json_text(json_member(root, "t")), "x");
	assert_string_equal(json_text(json_member(root, "nul")), "a\xc3\xa4");
	assert_true(json_uint(json_member(root, "n"), &u));
	assert_int_equal(u, 12);
	assert_false(json_uint(json_member(root, "m"), &u));
	assert_int_equal(u, 12);
	assert_true(json_int(json_member(root, "m"), &i));
	assert_int_equal(i, -1);
	assert_false(json_int(json_member(root, "d"), &i));
	assert_int_equal(json_kind(json_member(root, "d")), JSON_KIND_DOUBLE);
	assert_true(json_bool(json_member(root, "b"), &b));
	assert_true(b);
	assert_int_equal(json_count(json_member(root, "l")), 2);
	assert_int_equal(json_kind(json_item(json_member(root, "l"), 1)), JSON_KIND_NULL);
	assert_null(json_item(json_member(root, "l"), 2));
	assert_null(json_item(root, 0));
	assert_null(json_member(root, "absent"));
	assert_null(json_text(json_member(root, "absent")));
	assert_int_equal(json_kind(NULL), JSON_KIND_NONE);
	json_free(j);
}

static void
test_refused(void **state)
{
	static const char *const bad[] = { "", "{", "{\"a\":1,\"a\":2}", "[1] x", "\"\xff\"",
		"{\"a\\u0000\":1}", "99999999999999999999999", "[1,]" };
	char *deep = malloc(10000);
	struct json *j;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(json_parse(&j, bad[i], strlen(bad[i])), ERR_USAGE);
		assert_null(j);
		assert_non_null(strstr(err_msg(), "JSON"));
	}
	/* Nesting that would exhaust the stack of a parser without a limit. */
	assert_non_null(deep);
	memset(deep, '[', 10000);
	assert_int_equal(json_parse(&j, deep, 10000), ERR_USAGE);
	free(deep);
}

static void
test_one_after_the_other(void **state)
{
	static const char text[] = "{\"a\": [1]}, \"x\"";
	struct json *j;
	size_t used;

	(void)state;
	assert_int_equal(json_parse_next(&j, text, strlen(text), &used), 0);
	assert_int_equal(used, strlen("{\"a\": [1]}"));
	json_free(j);
	assert_int_equal(json_parse_next(&j, text + used + 2, strlen(text) - used - 2, &used), 0);
	assert_int_equal(used, 3);
	assert_string_equal(json_text(json_root(j)), "x");
	json_free(j);
}

static int
build_and_parse(void)
{
	struct json *j = json_new_object(), *list = json_new_array(), *back = NULL;
	struct bytes b;
	int rc;

	bytes_init(&b);
	json_set_str(j, "path", "wrong \xff byte");
	json_add_str(list, "one");
	json_add_uint(list, 2);
	json_set(j, "list", list);
	rc = json_encode(j, &b, JSON_LAYOUT_PRETTY);
	if (rc == 0)
		rc = json_parse(&back, b.data, b.len);
	if (rc == 0)
		assert_int_equal(json_count(json_member(json_root(back), "list")), 2);
	json_free(back);
	json_free(j);
	bytes_release(&b);
	return rc;
}

static void
test_every_allocation_fails(void **state)
{
	uint64_t n = 0;
	int rc;

	(void)state;
	do {
		sys_fault_arm(++n, ENOMEM);
		rc = build_and_parse();
		assert_true(rc == 0 || rc == ERR_NOMEM);
		if (!sys_fault_happened())
			assert_int_equal(rc, 0);
	} while (sys_fault_happened());
	sys_fault_arm(0, 0);
	assert_true(n > 10);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_build),
		cmocka_unit_test(test_text_that_is_not_utf8),
		cmocka_unit_test(test_print),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_one_after_the_other),
		cmocka_unit_test(test_every_allocation_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
