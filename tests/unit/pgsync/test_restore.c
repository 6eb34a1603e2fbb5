/* What a restored data directory needs before somebody starts it. */
#include "pgsync/restore.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CONF "postgresql.auto.conf"
#define OLD  "work_mem = '4MB'\narchive_mode = 'on'\narchive_command = 'cp %p /archive/%f'"

static char dir[200], conf[256], temp[256];

static int
setup(void **state)
{
	(void)state;
	fixture_tempdir(dir);
	snprintf(conf, sizeof(conf), "%s/" CONF, dir);
	snprintf(temp, sizeof(temp), "%s/" CONF ".pastfs", dir);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	return fixture_rmtree(dir);
}

static void
put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static const char *
get(void)
{
	static char text[4096];
	FILE *f = fopen(conf, "r");
	size_t n;

	if (!f)
		return NULL;
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

/* The last value of a setting counts, so ours must be behind the old ones. */
static void
expect_off(void)
{
	const char *text = get(), *old, *off;

	assert_non_null(text);
	old = strstr(text, "archive_mode = 'on'");
	off = strstr(text, "\narchive_mode = 'off'\narchive_command = ''\n");
	assert_non_null(off);
	assert_null(strstr(off + 1, "archive_mode = 'off'\narchive_command = ''\narchive_mode"));
	if (old)
		assert_true(old < off);
}

static void
test_append(void **state)
{
	const struct timespec times[2] = { { 1000000000, 5000 }, { 1000000000, 5000 } };
	struct stat st;
	char first[4096];

	(void)state;
	put(conf, OLD);
	assert_int_equal(chmod(conf, 0640), 0);
	assert_int_equal(utimensat(AT_FDCWD, conf, times, 0), 0);
	assert_int_equal(restore_stop_archiving(dir), 0);
	expect_off();
	assert_memory_equal(get(), OLD "\n", sizeof(OLD));
	assert_int_equal(stat(conf, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(st.st_uid, geteuid());
	assert_int_equal(st.st_mtim.tv_sec, 1000000000);
	assert_int_equal(st.st_mtim.tv_nsec, 5000);

	/* The second time changes nothing. */
	snprintf(first, sizeof(first), "%s", get());
	assert_int_equal(restore_stop_archiving(dir), 0);
	assert_string_equal(get(), first);
	assert_int_equal(access(temp, F_OK), -1);
}

static void
test_absent(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(restore_stop_archiving(dir), 0);
	expect_off();
	assert_int_equal(stat(conf, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void
test_left_over(void **state)
{
	(void)state;
	put(conf, OLD "\n");
	put(temp, "half a fi");
	assert_int_equal(restore_stop_archiving(dir), 0);
	expect_off();
	assert_int_equal(access(temp, F_OK), -1);
}

static void
test_refused(void **state)
{
	(void)state;
	assert_int_equal(restore_stop_archiving("/nonexistent/x"), ERR_NOTFOUND);
	assert_int_equal(symlink("/etc/passwd", conf), 0);
	assert_int_equal(restore_stop_archiving(dir), ERR_UNSUPPORTED);
	assert_int_equal(unlink(conf), 0);
	assert_int_equal(mkdir(conf, 0700), 0);
	assert_int_equal(restore_stop_archiving(dir), ERR_UNSUPPORTED);
	assert_int_equal(rmdir(conf), 0);
	put(conf, "");
	assert_int_equal(truncate(conf, RESTORE_CONF_MAX + 1), 0);
	assert_int_equal(restore_stop_archiving(dir), ERR_UNSUPPORTED);
}

/* Whatever fails, the file is the old one or the new one, nothing is left, and a retry works. */
static void
test_faults(void **state)
{
	int rc;

	(void)state;
	for (uint64_t n = 1;; n++) {
		bool hit;

		put(conf, OLD);
		sys_fault_arm(n, ENOSPC);
		rc = restore_stop_archiving(dir);
		hit = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!hit)
			break;
		assert_true(rc < 0);
		if (strcmp(get(), OLD) != 0)
			expect_off();
		assert_int_equal(restore_stop_archiving(dir), 0);
		expect_off();
		assert_int_equal(access(temp, F_OK), -1);
	}
	assert_int_equal(rc, 0);
}

static void
test_protect(void **state)
{
	static const struct {
		mode_t before, after;
	} cases[] = { { 0755, 0700 }, { 0700, 0700 }, { 0750, 0750 }, { 0500, 0700 },
		{ 01777, 0700 } };
	struct stat st;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(chmod(dir, cases[i].before), 0);
		assert_int_equal(restore_protect(dir), 0);
		assert_int_equal(stat(dir, &st), 0);
		assert_int_equal(st.st_mode & 07777, cases[i].after);
	}
	assert_int_equal(restore_protect("/nonexistent/x"), ERR_NOTFOUND);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_append),
		TEST(test_absent),
		TEST(test_left_over),
		TEST(test_refused),
		TEST(test_faults),
		TEST(test_protect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
