/*
 * The local back end: the contract, with and without files that have no name, what lies on the
 * disk, and every failing call.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"
#include "tests/support/backend_conformance.h"
#include "tests/support/store_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* ---- temporary directories ---- */

static void *
make_place(void)
{
	const char *tmp = getenv("TMPDIR");
	char *path = NULL;

	if (asprintf(&path, "%s/pastfs-local-XXXXXX", tmp ? tmp : "/tmp") == -1)
		return NULL;
	if (!mkdtemp(path)) {
		free(path);
		return NULL;
	}
	return path;
}

static struct backend *
open_place(void *place)
{
	struct backend *b;

	return backend_open(&b, place, false) == 0 ? b : NULL;
}

static void
remove_place(void *place)
{
	fixture_rmtree(place);
	free(place);
}

static const struct backend_factory local = {
	.make = make_place,
	.open = open_place,
	.remove = remove_place,
};

struct fixture {
	char *root;
	struct backend *b;
};

static int
set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	if (!x)
		return -1;
	x->root = make_place();
	*state = x;
	return x->root ? backend_open(&x->b, x->root, true) : -1;
}

static int
tear_down(void **state)
{
	struct fixture *x = *state;

	sys_fault_arm(0, 0);
	sys_fault_refuse(0, 0);
	backend_close(x->b);
	remove_place(x->root);
	free(x);
	return 0;
}

/* A path below the root; good until the next call. */
static const char *
below(const struct fixture *x, const char *path)
{
	static char full[PATH_MAX];

	snprintf(full, sizeof(full), "%s/%s", x->root, path);
	return full;
}

static void
write_file(const struct fixture *x, const char *path, const char *text)
{
	FILE *f = fopen(below(x, path), "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int
count(void *ctx, const char *name, const struct object_info *info)
{
	(void)name;
	(void)info;
	(*(int *)ctx)++;
	return 0;
}

static int
objects(struct backend *b)
{
	int n = 0;

	assert_int_equal(backend_list(b, "", count, &n), 0);
	return n;
}

/* Entries of a directory below the root that begin with ".tmp-". */
static int
temporaries(const struct fixture *x, const char *dir)
{
	DIR *d = opendir(below(x, dir));
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)) != NULL)
		n += strncmp(e->d_name, ".tmp-", 5) == 0;
	if (d)
		closedir(d);
	return n;
}

static int
open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* ---- opening ---- */

static void
urls_name_directories(void **state)
{
	struct fixture *x = *state;
	char url[PATH_MAX + 20];
	struct backend *b;

	assert_int_equal(backend_put(x->b, "a", "x", 1), 0);
	for (int i = 0; i < 3; i++) {
		static const char *const schemes[] = { "", "file:", "file://" };

		snprintf(url, sizeof(url), "%s%s", schemes[i], x->root);
		assert_int_equal(backend_open(&b, url, false), 0);
		assert_int_equal(objects(b), 1);
		assert_string_equal(backend_url(b), x->root);
		assert_true(backend_caps(b)->local && backend_caps(b)->sorted_list);
		assert_int_equal(backend_caps(b)->pack_bytes, 32 << 20);
		backend_close(b);
	}
	assert_int_equal(backend_open(&b, "rados:pool/x", false), ERR_UNSUPPORTED);
	assert_null(b);
	assert_int_equal(backend_open(&b, "s3://bucket", true), ERR_UNSUPPORTED);
	assert_int_equal(backend_open(&b, "", true), ERR_USAGE);
	assert_int_equal(backend_open(&b, "some/where", true), ERR_USAGE);
	assert_int_equal(backend_open(&b, "file:some/where", true), ERR_USAGE);
}

static void
an_absent_directory_is_told(void **state)
{
	struct fixture *x = *state;
	struct backend *b;

	assert_int_equal(backend_open(&b, below(x, "none"), false), ERR_NOTFOUND);
	assert_null(b);
	assert_non_null(strstr(err_msg(), "none"));
	assert_non_null(strstr(err_msg(), "pastfs init"));
	write_file(x, "file", "x");
	assert_int_equal(backend_open(&b, below(x, "file"), false), ERR_USAGE);
	assert_int_equal(backend_open(&b, below(x, "file"), true), ERR_USAGE);
}

static void
create_makes_parents(void **state)
{
	struct fixture *x = *state;
	struct backend *b;
	struct stat st;

	assert_int_equal(backend_open(&b, below(x, "one//two/three/"), true), 0);
	assert_int_equal(backend_put(b, "a", "x", 1), 0);
	backend_close(b);
	assert_int_equal(stat(below(x, "one/two/three/a"), &st), 0);
	assert_int_equal(stat(below(x, "one/two"), &st), 0);
	assert_int_equal(st.st_mode & 0027, 0);
}

static void
create_takes_only_what_is_empty(void **state)
{
	struct fixture *x = *state;
	struct backend *b;

	/* What an attempt that failed leaves. */
	assert_int_equal(mkdir(below(x, "keys"), 0700), 0);
	assert_int_equal(mkdir(below(x, "keys/deep"), 0700), 0);
	assert_int_equal(mkdir(below(x, "lost+found"), 0700), 0);
	write_file(x, "keys/.tmp-0123", "x");
	assert_int_equal(backend_open(&b, x->root, true), 0);
	backend_close(b);
	write_file(x, "keys/deep/Letter", "x");
	assert_int_equal(backend_open(&b, x->root, true), ERR_EXISTS);
	assert_null(b);
	assert_non_null(strstr(err_msg(), x->root));
	assert_int_equal(backend_open(&b, x->root, false), 0);
	backend_close(b);
}

/* ---- on the disk ---- */

static void
files_lie_where_documented(void **state)
{
	struct fixture *x = *state;
	struct stat st;

	assert_int_equal(backend_put(x->b, "packs/abcdef", "12345", 5), 0);
	assert_int_equal(backend_put(x->b, "keys/slot/1", "123", 3), 0);
	assert_int_equal(stat(below(x, "packs/ab/abcdef"), &st), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(st.st_mode & 07337, 0);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(stat(below(x, "keys/slot/1"), &st), 0);
	assert_int_equal(st.st_size, 3);
	assert_int_equal(stat(below(x, "keys/slot"), &st), 0);
	assert_int_equal(st.st_mode & 07027, 0);
	assert_int_equal(temporaries(x, "packs/ab") + temporaries(x, "keys/slot"), 0);
}

static void
what_is_no_object_is_not_listed(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(backend_put(x->b, "packs/abc", "x", 1), 0);
	write_file(x, "README", "x");
	write_file(x, ".tmp-1234", "x");
	write_file(x, "packs/ab/.tmp-1234", "x");
	/* Not in the directory that its name asks for. */
	write_file(x, "packs/ab/xyz", "x");
	write_file(x, "packs/stray", "x");
	assert_int_equal(symlink("abc", below(x, "packs/ab/abd")), 0);
	assert_int_equal(mkfifo(below(x, "fifo"), 0600), 0);
	assert_int_equal(mkdir(below(x, "Other"), 0700), 0);
	write_file(x, "Other/a", "x");
	assert_int_equal(objects(x->b), 1);
}

static void
links_lead_nowhere(void **state)
{
	struct fixture *x = *state;
	struct object_info info;
	char *outside = make_place(), file[PATH_MAX];
	uint8_t buf[8];
	size_t got;

	assert_non_null(outside);
	snprintf(file, sizeof(file), "%s/secret", outside);
	assert_int_equal(symlink(outside, below(x, "keys")), 0);
	assert_int_equal(symlink(file, below(x, "config")), 0);
	assert_true(backend_put(x->b, "keys/new", "x", 1) < 0);
	assert_true(backend_get(x->b, "keys/secret", 0, buf, 1, &got) < 0);
	assert_true(backend_delete(x->b, "keys/secret") <= 0);
	assert_true(backend_get(x->b, "config", 0, buf, 1, &got) < 0);
	assert_int_equal(backend_stat(x->b, "config", &info), ERR_NOTFOUND);
	assert_int_equal(backend_put(x->b, "config", "x", 1), ERR_USAGE);
	assert_int_equal(objects(x->b), 0);
	/* Nothing was made there. */
	assert_int_equal(rmdir(outside), 0);
	free(outside);
}

static void
a_directory_is_no_object(void **state)
{
	struct fixture *x = *state;
	struct object_info info;
	uint8_t buf[8];
	size_t got;

	assert_int_equal(backend_put(x->b, "a/b", "x", 1), 0);
	assert_int_equal(backend_put(x->b, "a", "x", 1), ERR_USAGE);
	assert_int_equal(backend_get(x->b, "a", 0, buf, 1, &got), ERR_NOTFOUND);
	assert_int_equal(backend_stat(x->b, "a", &info), ERR_NOTFOUND);
	assert_true(backend_put(x->b, "a/b/c", "x", 1) < 0);
	assert_int_equal(backend_get(x->b, "a/b/c", 0, buf, 1, &got), ERR_NOTFOUND);
	assert_int_equal(objects(x->b), 1);
}

static void
old_leftovers_are_removed(void **state)
{
	struct fixture *x = *state;
	struct timespec times[2] = { { 0 } };

	times[0].tv_sec = times[1].tv_sec = time(NULL) - 25 * 3600;
	assert_int_equal(mkdir(below(x, "keys"), 0700), 0);
	write_file(x, "keys/.tmp-old", "x");
	assert_int_equal(utimensat(AT_FDCWD, below(x, "keys/.tmp-old"), times, 0), 0);
	write_file(x, "keys/.tmp-new", "x");
	write_file(x, "keys/old", "x");
	assert_int_equal(utimensat(AT_FDCWD, below(x, "keys/old"), times, 0), 0);
	assert_int_equal(temporaries(x, "keys"), 2);
	assert_int_equal(backend_put(x->b, "keys/one", "x", 1), 0);
	assert_int_equal(temporaries(x, "keys"), 1);
	assert_int_equal(access(below(x, "keys/.tmp-new"), F_OK), 0);
	assert_int_equal(objects(x->b), 2);
}

static void
room_is_that_of_the_file_system(void **state)
{
	struct fixture *x = *state;
	uint64_t avail, total;
	struct statvfs fs;

	assert_int_equal(backend_space(x->b, &avail, &total), 0);
	assert_int_equal(statvfs(x->root, &fs), 0);
	assert_int_equal(total, (uint64_t)fs.f_blocks * fs.f_frsize);
	assert_true(avail <= total);
}

static void
few_files_stay_open(void **state)
{
	struct fixture *x = *state;
	int before = open_files();
	uint8_t buf[8];
	size_t got;

	for (int i = 0; i < 200; i++) {
		char name[20];

		snprintf(name, sizeof(name), "packs/%d", i);
		assert_int_equal(backend_put(x->b, name, "x", 1), 0);
		assert_int_equal(backend_get(x->b, name, 0, buf, 1, &got), 0);
	}
	assert_true(open_files() <= before + 64);
	backend_close(x->b);
	assert_int_equal(open_files(), before - 1);
	assert_int_equal(backend_open(&x->b, x->root, false), 0);
}

/* ---- failing calls ---- */

enum how {
	ONCE,
	FROM_THEN_ON,
};

static void
arm(enum how how, uint64_t n, int eno)
{
	if (how == ONCE)
		sys_fault_arm(n, eno);
	else
		sys_fault_arm_from(n, eno);
}

/* True if the armed fault happened; nothing fails any more. */
static bool
disarm(void)
{
	bool happened = sys_fault_happened();

	sys_fault_arm(0, 0);
	return happened;
}

/* After a failed put the object is absent or whole, nothing else is there, and a retry works. */
static void
check_after_put(struct fixture *x, const char *name, const char *text)
{
	size_t len = strlen(text), got;
	char back[64];
	int rc = backend_get(x->b, name, 0, back, sizeof(back), &got);

	assert_true(rc == 0 || rc == ERR_NOTFOUND);
	assert_int_equal(objects(x->b), rc == 0);
	if (rc == 0) {
		assert_int_equal(got, len);
		assert_memory_equal(back, text, len);
	}
	assert_int_equal(backend_put(x->b, name, text, len), rc == 0 ? 1 : 0);
	assert_int_equal(backend_get(x->b, name, 0, back, sizeof(back), &got), 0);
	assert_int_equal(got, len);
	assert_memory_equal(back, text, len);
	assert_int_equal(backend_delete(x->b, name), 0);
}

static void
fail_each_call_of_put(struct fixture *x, enum how how, int eno)
{
	int expected = eno == ENOSPC ? ERR_NOSPACE : ERR_IO;
	bool happened = true;
	uint64_t n;

	for (n = 1; happened; n++) {
		char name[40];
		int rc;

		/* Another directory each time, so that making it fails as well. */
		snprintf(name, sizeof(name), "packs/%03llu-%d-%d", (unsigned long long)n * 7 % 900,
		    how, eno);
		assert_true(n < 100);
		arm(how, n, eno);
		rc = backend_put(x->b, name, "the content", 11);
		happened = disarm();
		/* Some calls may fail without harm, such as the removal of leftovers. */
		assert_true(rc == 0 || (happened && rc == expected));
		if (rc == 0 && !happened)
			assert_true(n > 8);
		check_after_put(x, name, "the content");
	}
}

static void
every_call_of_put_fails(void **state)
{
	struct fixture *x = *state;
	int before;

	assert_int_equal(backend_put(x->b, "first", "x", 1), 0);
	assert_int_equal(backend_delete(x->b, "first"), 0);
	before = open_files();
	fail_each_call_of_put(x, ONCE, ENOSPC);
	fail_each_call_of_put(x, FROM_THEN_ON, ENOSPC);
	fail_each_call_of_put(x, ONCE, EIO);
	sys_fault_refuse(O_TMPFILE, EOPNOTSUPP);
	fail_each_call_of_put(x, ONCE, ENOSPC);
	fail_each_call_of_put(x, FROM_THEN_ON, EIO);
	/* The check read one object, and its file was closed when it was deleted. */
	assert_int_equal(open_files(), before);
}

/* One reading call of each kind. */
static int
read_somehow(struct backend *b, int kind)
{
	struct object_info info;
	char buf[16];
	void *all = NULL;
	size_t got;
	int n = 0, rc;

	switch (kind) {
	case 0:
		rc = backend_get(b, "packs/abc", 0, buf, sizeof(buf), &got);
		return rc == 0 && (got != 5 || memcmp(buf, "hello", 5) != 0) ? ERR_FAIL : rc;
	case 1:
		rc = backend_get_all(b, "packs/abc", 5, &all, &got);
		if (rc == 0 && (got != 5 || memcmp(all, "hello", 5) != 0))
			rc = ERR_FAIL;
		free(all);
		return rc;
	case 2:
		rc = backend_stat(b, "packs/abc", &info);
		return rc == 0 && info.bytes != 5 ? ERR_FAIL : rc;
	case 3:
		rc = backend_list(b, "", count, &n);
		return rc == 0 && n != 2 ? ERR_FAIL : rc;
	default:
		rc = backend_list(b, "packs/", count, &n);
		return rc == 0 && n != 1 ? ERR_FAIL : rc;
	}
}

/* A listing that is not complete must never look complete. */
static void
every_call_of_reading_fails(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(backend_put(x->b, "packs/abc", "hello", 5), 0);
	assert_int_equal(backend_put(x->b, "a/b/c", "x", 1), 0);
	for (int kind = 0; kind < 5; kind++) {
		bool happened = true;

		for (uint64_t n = 1; happened; n++) {
			struct backend *b;
			int rc;

			assert_true(n < 100);
			assert_int_equal(backend_open(&b, x->root, false), 0);
			sys_fault_arm(n, EIO);
			rc = read_somehow(b, kind);
			happened = disarm();
			assert_true(happened ? rc == ERR_IO || rc == ERR_NOMEM : rc == 0);
			assert_int_equal(read_somehow(b, kind), 0);
			backend_close(b);
		}
	}
}

static void
every_call_of_delete_fails(void **state)
{
	struct fixture *x = *state;
	bool happened = true;

	for (uint64_t n = 1; happened; n++) {
		int rc;

		assert_true(n < 100);
		assert_true(backend_put(x->b, "packs/abc", "hello", 5) >= 0);
		sys_fault_arm(n, EIO);
		rc = backend_delete(x->b, "packs/abc");
		happened = disarm();
		assert_int_equal(rc, happened ? ERR_IO : 0);
		assert_true(objects(x->b) <= 1);
		assert_int_equal(backend_delete(x->b, "packs/abc"), 0);
		assert_int_equal(objects(x->b), 0);
	}
}

static void
every_call_of_opening_fails(void **state)
{
	struct fixture *x = *state;
	bool happened = true;
	int before = open_files();

	for (uint64_t n = 1; happened; n++) {
		struct backend *b;
		char path[40];
		int rc;

		assert_true(n < 100);
		snprintf(path, sizeof(path), "deep-%llu/er", (unsigned long long)n);
		sys_fault_arm(n, ENOMEM);
		rc = backend_open(&b, below(x, path), true);
		happened = disarm();
		assert_int_equal(rc, happened ? ERR_NOMEM : 0);
		assert_true(happened == !b);
		backend_close(b);
		/* The retry works: what is half made counts as empty. */
		assert_int_equal(backend_open(&b, below(x, path), true), 0);
		backend_close(b);
		assert_int_equal(open_files(), before);
	}
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(urls_name_directories),
		TEST(an_absent_directory_is_told),
		TEST(create_makes_parents),
		TEST(create_takes_only_what_is_empty),
		TEST(files_lie_where_documented),
		TEST(what_is_no_object_is_not_listed),
		TEST(links_lead_nowhere),
		TEST(a_directory_is_no_object),
		TEST(old_leftovers_are_removed),
		TEST(room_is_that_of_the_file_system),
		TEST(few_files_stay_open),
		TEST(every_call_of_put_fails),
		TEST(every_call_of_reading_fails),
		TEST(every_call_of_delete_fails),
		TEST(every_call_of_opening_fails),
	};
#undef TEST
	int failed;

	if (secret_init())
		return 1;
	failed = backend_conformance("local", &local);
	/* The same where the file system makes no files without a name. */
	sys_fault_refuse(O_TMPFILE, EOPNOTSUPP);
	failed += backend_conformance("local, named temporaries", &local);
	sys_fault_refuse(0, 0);
	return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
