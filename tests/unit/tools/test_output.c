/* Figures and tables for people, and the progress bar's line. */
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tools/output.h"
#include "tools/progress_bar.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void
test_sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 1, "1 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 1536, "1.5 KiB" },
		{ 10 * 1024 - 1, "10 KiB" },
		{ 1023 * 1024, "1023 KiB" },
		{ 1024 * 1024 - 1, "1.0 MiB" },
		{ (uint64_t)5 << 40, "5.0 TiB" },
		{ UINT64_MAX, "16 EiB" },
	};
	char text[OUTPUT_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		output_size(cases[i].bytes, text);
		assert_string_equal(text, cases[i].text);
	}
}

static void
test_durations(void **state)
{
	static const struct {
		int64_t us;
		const char *text;
	} cases[] = {
		{ -5, "0 ms" },
		{ 0, "0 ms" },
		{ 340000, "340 ms" },
		{ 999499, "999 ms" },
		{ 999500, "1.0 s" },
		{ 59949999, "59.9 s" },
		{ 59950000, "1 min 00 s" },
		{ 3599000000, "59 min 59 s" },
		{ 3599500000, "1 h 00 min" },
		{ (int64_t)100 * 3600 * 1000000, "100 h 00 min" },
	};
	char text[OUTPUT_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		output_duration(cases[i].us, text);
		assert_string_equal(text, cases[i].text);
	}
}

static void
test_others(void **state)
{
	char text[OUTPUT_TEXT_MAX];

	(void)state;
	output_lsn(UINT64_C(0x1603000060), text);
	assert_string_equal(text, "16/3000060");
	output_pg_version(150018, text);
	assert_string_equal(text, "15.18");
	output_ratio(34, 10, text);
	assert_string_equal(text, "3.4");
	output_ratio(345, 10, text);
	assert_string_equal(text, "34");
	output_ratio(1, 0, text);
	assert_string_equal(text, "-");
	output_count(1, "file", text);
	assert_string_equal(text, "1 file");
	output_count(0, "file", text);
	assert_string_equal(text, "0 files");
}

static char *
print(const struct table *t)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_int_equal(table_print(t, f), 0);
	fclose(f);
	return text;
}

static void
test_table(void **state)
{
	struct table *t;
	char *text;

	(void)state;
	assert_int_equal(table_new(&t, "NAME|SIZE>|NOTE"), 0);
	table_cell(t, "%s", "one");
	table_size(t, 7);
	table_cell(t, "%s", "");
	table_cell(t, "%s", "zw\303\266lf");
	table_size(t, 2048);
	table_cell(t, "a\033[31m\n");
	text = print(t);
	assert_string_equal(text, "NAME      SIZE  NOTE\n"
				  "one        7 B  \n"
				  "zw\303\266lf  2.0 KiB  a?[31m?\n");
	free(text);
	table_free(t);

	assert_int_equal(table_new(&t, ""), 0);
	table_cell(t, "x");
	text = print(t);
	assert_string_equal(text, "x\n");
	free(text);
	table_free(t);
}

static void
test_table_without_memory(void **state)
{
	char name[] = "cell";
	struct table *t;
	bool done = false;

	(void)state;
	for (uint64_t n = 1; !done; n++) {
		bool hit;
		int rc;

		sys_fault_arm(n, ENOMEM);
		rc = table_new(&t, "A|B");
		for (int i = 0; !rc && i < 200; i++)
			table_cell(t, "%s", name);
		hit = sys_fault_happened();
		sys_fault_arm(0, 0);
		done = !hit;
		if (!rc && !done)
			assert_int_equal(table_print(t, stderr), ERR_NOMEM);
		else if (rc)
			assert_null(t);
		table_free(t);
	}
}

static void
test_progress_line(void **state)
{
	struct progress_state s = {
		.phase = "copying files",
		.bytes_total = 100 << 20,
		.bytes_done = 25 << 20,
		.elapsed_us = 5000000,
		.bytes_per_second = 5 << 20,
	};
	char line[PROGRESS_LINE_MAX];

	(void)state;
	progress_bar_line(&s, 0, line);
	assert_string_equal(line, "copying files:  25 % 25 MiB of 100 MiB, 5.0 MiB/s, 16 s left");
	progress_bar_line(&s, 100, line);
	assert_non_null(strstr(line, "[#######-----------------------]  25 %"));
	assert_true(strlen(line) < 100);

	/* Whatever the width, the line does not wrap. */
	for (unsigned columns = 20; columns < 200; columns++) {
		progress_bar_line(&s, columns, line);
		assert_true(strlen(line) < columns);
	}
	s.bytes_total = 0;
	progress_bar_line(&s, 0, line);
	assert_string_equal(line, "copying files: 25 MiB, 5.0 MiB/s");
	s.bytes_done = 0;
	s.files_done = 7;
	progress_bar_line(&s, 0, line);
	assert_string_equal(line, "copying files: 7 files");

	/* More done than was foretold: a file grew. */
	s.bytes_total = 10;
	s.bytes_done = 12;
	progress_bar_line(&s, 0, line);
	assert_non_null(strstr(line, "100 %"));
	assert_null(strstr(line, "left"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_others),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_table_without_memory),
		cmocka_unit_test(test_progress_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
