#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/pgconf.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* "name=value;" of each statement, '!' behind one that is not complete. */
static int
collect(void *ctx, const struct pgconf_statement *s)
{
	char *out = ctx;
	size_t n = strlen(out);

	snprintf(
	    out + n, 1000 - n, "%zu:%s=%s%s;", s->line, s->name, s->value, s->complete ? "" : "!");
	return 0;
}

static void
parses_to(const char *text, const char *wanted)
{
	char got[1000] = "";

	assert_int_equal(pgconf_each(text, strlen(text), collect, got), 0);
	assert_string_equal(got, wanted);
}

static void
test_syntax(void **state)
{
	(void)state;
	parses_to("port = 5432\n", "1:port=5432;");
	parses_to("\n  PORT 5432", "2:port=5432;");
	parses_to("a='x y' # comment\nb=on#c\n", "1:a=x y;2:b=on;");
	parses_to("# data_directory = '/x'\n", "");
	parses_to("a = 'it''s'\n", "1:a=it's;");
	parses_to("a = 'b\\'c\\n\\101'\n", "1:a=b'c\nA;");
	parses_to("a 'x'b\n", "1:a=x!;");
	parses_to("a = 'open\nb=1\n", "1:a=!;2:b=1;");
	parses_to("a =\n", "1:a=!;");
	parses_to("a\r\nb = 1\r\n", "1:a=!;2:b=1;");
	parses_to("my.custom_1 = yes\n", "1:my.custom_1=yes;");
	parses_to("5 = 3\n'x' = 1\n=\n", "");
	parses_to("include_dir 'conf.d'\nINCLUDE = '/x'\n", "1:include_dir=conf.d;2:include=/x;");
}

static int
stop_at_second(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	return s->line == 2 ? 77 : 0;
}

static void
test_callback_ends_it(void **state)
{
	(void)state;
	assert_int_equal(pgconf_each("a=1\nb=2\nc=3\n", 12, stop_at_second, NULL), 77);
}

static const char *
everything_moves(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	return s->value[0] == '/' ? "it's here" : NULL;
}

static const struct pgconf_rewrite how = { .include = everything_moves };

static void
rewrites_to(const char *text, const char *wanted)
{
	struct bytes out;
	bool changed;

	bytes_init(&out);
	assert_int_equal(pgconf_rewrite(&out, text, strlen(text), &how, &changed), 0);
	assert_int_equal(changed, strcmp(text, wanted) != 0);
	bytes_put_u8(&out, 0);
	assert_string_equal((const char *)out.data, wanted);
	bytes_release(&out);
}

#define OFF "# pastfs: off, because it names a file of the original cluster\n#"

static void
test_rewrite(void **state)
{
	(void)state;
	rewrites_to("", "");
	rewrites_to("port = 1\n# x\n\nfoo='bar'", "port = 1\n# x\n\nfoo='bar'");
	rewrites_to("data_directory = '/x'\n", OFF "data_directory = '/x'\n");
	rewrites_to(
	    "  Data_Directory '/x' # y\r\nport=1\n", OFF "  Data_Directory '/x' # y\r\nport=1\n");
	rewrites_to("data_directory", OFF "data_directory");
	rewrites_to("data_directory = 'no end\n", OFF "data_directory = 'no end\n");
	rewrites_to("hba_file='/a'\n", OFF "hba_file='/a'\n");
	rewrites_to("ident_file='/a'\n", OFF "ident_file='/a'\n");
	rewrites_to("external_pid_file='/a'\n", OFF "external_pid_file='/a'\n");
	rewrites_to("stats_temp_directory='/run/x'\n", OFF "stats_temp_directory='/run/x'\n");
	rewrites_to("stats_temp_directory='pg_stat_tmp'\n", "stats_temp_directory='pg_stat_tmp'\n");
	rewrites_to("data_directory_mode = 1\n", "data_directory_mode = 1\n");
	rewrites_to("include 'conf.d/x'\n", "include 'conf.d/x'\n");
	rewrites_to("include '/etc/x'\n",
	    "# pastfs: points into this directory now\n#include '/etc/x'\ninclude 'it''s here'\n");
	rewrites_to("include_dir = '/etc/x'",
	    "# pastfs: points into this directory now\n#include_dir = '/etc/x'\n"
	    "include_dir 'it''s here'");
}

/* What was rewritten says nothing of the original when it is read. */
static int
no_tie(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	return pgconf_ties(s);
}

static void
test_rewritten_is_free(void **state)
{
	static const char text[] = "data_directory='/a'\nhba_file = x\nport 1\n\tident_file=''\n";
	struct bytes out;
	bool changed;

	(void)state;
	bytes_init(&out);
	assert_int_equal(pgconf_rewrite(&out, text, sizeof(text) - 1, &how, &changed), 0);
	assert_int_equal(pgconf_each((const char *)out.data, out.len, no_tie, NULL), 0);
	bytes_release(&out);
}

static void
test_out_of_memory(void **state)
{
	static const char text[] = "data_directory='/a'\nport 1\n";
	uint64_t n = 0;
	bool happened;

	(void)state;
	do {
		struct bytes out;
		bool changed;
		int rc;

		bytes_init(&out);
		sys_fault_arm(++n, ENOMEM);
		rc = pgconf_rewrite(&out, text, sizeof(text) - 1, &how, &changed);
		happened = sys_fault_happened();
		assert_int_equal(rc, happened ? ERR_NOMEM : 0);
		bytes_release(&out);
	} while (happened);
	sys_fault_arm(0, 0);
	assert_true(n > 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_syntax),
		cmocka_unit_test(test_callback_ends_it),
		cmocka_unit_test(test_rewrite),
		cmocka_unit_test(test_rewritten_is_free),
		cmocka_unit_test(test_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
