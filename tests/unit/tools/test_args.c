/* The options and operands of a verb, and its help. */
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tools/args.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct args_option options[] = {
	{ "label", 'l', "TEXT", "a note" },
	{ "jobs", 'j', "N", "threads" },
	{ "full-read", 0, NULL, "read everything" },
	{ NULL, 0, NULL, NULL },
};

static int
run_nothing(const struct args *a)
{
	(void)a;
	return 0;
}

static const struct verb verb = {
	.name = "source add",
	.operands = "NAME [DIR]",
	.summary = "does nothing",
	.about =
	    "First paragraph with enough words that it has to be broken somewhere near the end of "
	    "the line.\nSecond paragraph.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 2,
	.examples = "pastfs source add one\npastfs source add two",
	.run = run_nothing,
};

static int
parse(struct args **a, int n, const char *const *words)
{
	char *argv[16];

	for (int i = 0; i < n; i++)
		argv[i] = (char *)(uintptr_t)words[i];
	return args_parse(a, &verb, n, argv);
}

#define PARSE(a, ...)                                                                              \
	parse(a, (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)),                  \
	    (const char *[]){ __VA_ARGS__ })

static void
test_mixed(void **state)
{
	struct args *a;
	long n;

	(void)state;
	assert_int_equal(
	    PARSE(&a, "one", "--label", "x y", "--full-read", "two", "-j", "7", "--json"), 0);
	assert_int_equal(args_operands(a), 2);
	assert_string_equal(args_operand(a, 0), "one");
	assert_string_equal(args_operand(a, 1), "two");
	assert_null(args_operand(a, 2));
	assert_string_equal(args_value(a, "label"), "x y");
	assert_true(args_given(a, "full-read"));
	assert_true(args_given(a, "json"));
	assert_false(args_given(a, "repo"));
	assert_null(args_value(a, "repo"));
	assert_int_equal(args_number(a, "jobs", 1, 10, 3, &n), 0);
	assert_int_equal(n, 7);
	assert_false(args_wants_help(a));
	args_free(a);
}

static void
test_forms(void **state)
{
	struct args *a;

	(void)state;
	assert_int_equal(PARSE(&a, "--label=a", "--label=b", "one"), 0);
	assert_string_equal(args_value(a, "label"), "b");
	args_free(a);
	assert_int_equal(PARSE(&a, "-lnote", "one"), 0);
	assert_string_equal(args_value(a, "label"), "note");
	args_free(a);
	/* A unique beginning is enough, and "--" ends the options. */
	assert_int_equal(PARSE(&a, "--full", "--", "--json"), 0);
	assert_true(args_given(a, "full-read"));
	assert_false(args_given(a, "json"));
	assert_string_equal(args_operand(a, 0), "--json");
	args_free(a);
}

static void
expect_usage(int rc, struct args *a, const char *words)
{
	assert_int_equal(rc, ERR_USAGE);
	assert_null(a);
	assert_non_null(strstr(err_msg(), words));
}

static void
test_faults(void **state)
{
	struct args *a;
	int rc;

	(void)state;
	rc = PARSE(&a, "one", "--lable", "x");
	expect_usage(rc, a, "--lable");
	rc = PARSE(&a, "one", "-x");
	expect_usage(rc, a, "-x");
	rc = PARSE(&a, "one", "--label");
	expect_usage(rc, a, "--label needs a value");
	rc = PARSE(&a, "one", "--json=yes");
	expect_usage(rc, a, "--json takes no value");
	rc = PARSE(&a, "--json");
	expect_usage(rc, a, "NAME");
	rc = PARSE(&a, "a", "b", "c");
	expect_usage(rc, a, "\"c\"");
}

static void
test_numbers(void **state)
{
	static const char *const bad[] = { "", "0", "11", "7x", "x", "99999999999999999999" };
	struct args *a;
	long n;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(PARSE(&a, "one", "--jobs", bad[i]), 0);
		assert_int_equal(args_number(a, "jobs", 1, 10, 3, &n), ERR_USAGE);
		args_free(a);
	}
	assert_int_equal(PARSE(&a, "one"), 0);
	assert_int_equal(args_number(a, "jobs", 1, 10, 3, &n), 0);
	assert_int_equal(n, 3);
	args_free(a);
}

static void
test_help(void **state)
{
	char *text = NULL;
	size_t len = 0;
	struct args *a;
	FILE *f;

	(void)state;
	/* Help is given whatever else is wrong. */
	assert_int_equal(PARSE(&a, "--help"), 0);
	assert_true(args_wants_help(a));
	args_free(a);

	f = open_memstream(&text, &len);
	args_help(&verb, f);
	fclose(f);
	assert_non_null(strstr(text, "usage: pastfs source add [OPTION...] NAME [DIR]\n"));
	assert_non_null(strstr(text, "\nSecond paragraph.\n"));
	assert_non_null(strstr(text, "-l, --label TEXT"));
	assert_non_null(strstr(text, "--passphrase-file FILE"));
	assert_null(strstr(text, "--quiet"));
	assert_non_null(strstr(text, "\n  pastfs source add two\n"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 100);
	free(text);
}

static void
test_no_memory(void **state)
{
	struct args *a;
	int rc;

	(void)state;
	for (uint64_t n = 1;; n++) {
		bool hit;

		sys_fault_arm(n, ENOMEM);
		rc = PARSE(&a, "one", "--label", "x");
		hit = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!hit)
			break;
		assert_int_equal(rc, ERR_NOMEM);
		assert_null(a);
	}
	assert_int_equal(rc, 0);
	args_free(a);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mixed),
		cmocka_unit_test(test_forms),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_help),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
