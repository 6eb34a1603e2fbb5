#include "tests/support/backend_conformance.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/parallel.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BIG (40u << 20)

static const struct backend_factory *factory;

struct fixture {
	void *place;
	struct backend *b;
};

static int
set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	if (!x)
		return -1;
	x->place = factory->make();
	x->b = x->place ? factory->open(x->place) : NULL;
	*state = x;
	return x->b ? 0 : -1;
}

static int
tear_down(void **state)
{
	struct fixture *x = *state;

	backend_close(x->b);
	factory->remove(x->place);
	free(x);
	return 0;
}

/* `n` bytes that belong to `seed` alone. */
static uint8_t *
content(size_t n, uint64_t seed)
{
	uint8_t *p = malloc(n ? n : 1);
	uint64_t x = seed * 2 + 1;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		p[i] = (uint8_t)(x >> 56);
	}
	return p;
}

static void
assert_object(struct backend *b, const char *name, const void *expected, size_t len)
{
	struct object_info info;
	void *data;
	size_t n;

	assert_int_equal(backend_get_all(b, name, len, &data, &n), 0);
	assert_int_equal(n, len);
	assert_memory_equal(data, expected, len);
	free(data);
	assert_int_equal(backend_stat(b, name, &info), 0);
	assert_int_equal(info.bytes, len);
	assert_true(info.modified_us > INT64_C(1500000000000000));
}

/* ---- names ---- */

static void
objects_come_back(void **state)
{
	static const char *const names[] = { "a", "pastfs", "packs/0123456789abcdef", "packs/x",
		"packs/xy", "sources/ab/1", "a1/b2/c3/d4/e5/f6/g7/h8", "x._-", "0", "-", "_",
		"lock_s/a-b.c" };
	struct fixture *x = *state;
	size_t n = sizeof(names) / sizeof(names[0]);

	for (size_t i = 0; i < n; i++)
		assert_int_equal(backend_put(x->b, names[i], names[i], strlen(names[i])), 0);
	for (size_t i = 0; i < n; i++)
		assert_object(x->b, names[i], names[i], strlen(names[i]));
}

static void
longest_names_work(void **state)
{
	struct fixture *x = *state;
	char part[101], name[BACKEND_NAME_MAX + 1];

	memset(part, 'n', 100);
	part[100] = '\0';
	assert_int_equal(backend_put(x->b, part, "1", 1), 0);
	assert_object(x->b, part, "1", 1);
	snprintf(name, sizeof(name), "packs/%s", part);
	assert_int_equal(backend_put(x->b, name, "2", 1), 0);
	assert_object(x->b, name, "2", 1);
	snprintf(name, sizeof(name), "m/%.95s/%.95s/%.95s/%.99s", part, part, part, part);
	assert_int_equal(backend_put(x->b, name, "3", 1), 0);
	assert_object(x->b, name, "3", 1);
}

static int
count(void *ctx, const char *name, const struct object_info *info)
{
	(void)name;
	(void)info;
	(*(int *)ctx)++;
	return 0;
}

static void
bad_names_are_refused(void **state)
{
	static const char *const bad[] = { "", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b",
		"a/./b", ".hidden", "a/.tmp-1", "A", "packs/Ab", "a b", "a\n", "a\\b", "\xc3\xa4",
		"a:b", "a/b/c/d/e/f/g/h/i", "packs/", "packs/../a", "a*", "~" };
	struct fixture *x = *state;
	char name[BACKEND_NAME_MAX + 10];
	int seen = 0;

	for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		struct object_info info;
		uint8_t buf[1];
		size_t got;
		const char *n = name;

		if (i < sizeof(bad) / sizeof(bad[0]))
			n = bad[i];
		else
			snprintf(name, sizeof(name), "%0101d", 0);
		assert_int_equal(backend_check_name(n), ERR_USAGE);
		assert_int_equal(backend_put(x->b, n, "x", 1), ERR_USAGE);
		assert_int_equal(backend_get(x->b, n, 0, buf, 1, &got), ERR_USAGE);
		assert_int_equal(backend_stat(x->b, n, &info), ERR_USAGE);
		assert_int_equal(backend_delete(x->b, n), ERR_USAGE);
	}
	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	for (size_t i = 50; i < sizeof(name) - 1; i += 51)
		name[i] = '/';
	assert_int_equal(backend_check_name(name), ERR_USAGE);
	assert_int_equal(backend_list(x->b, "", count, &seen), 0);
	assert_int_equal(seen, 0);
	assert_int_equal(backend_list(x->b, "a", count, &seen), ERR_USAGE);
	assert_int_equal(backend_list(x->b, "../", count, &seen), ERR_USAGE);
	assert_int_equal(backend_list(x->b, "/", count, &seen), ERR_USAGE);
}

/* ---- reading ---- */

static void
ranges_end_at_the_end(void **state)
{
	static const struct {
		uint64_t off;
		size_t len, got;
	} cases[] = {
		{ 0, 1000, 1000 },
		{ 0, 10, 10 },
		{ 990, 10, 10 },
		{ 990, 11, 10 },
		{ 999, 1, 1 },
		{ 1000, 1, 0 },
		{ 1001, 1, 0 },
		{ 5000, 4096, 0 },
		{ UINT64_C(1) << 40, 1, 0 },
		{ UINT64_MAX, 1, 0 },
		{ 0, 0, 0 },
		{ 500, 0, 0 },
		{ 0, 4096, 1000 },
	};
	struct fixture *x = *state;
	uint8_t *data = content(1000, 1), buf[4096];

	assert_int_equal(backend_put(x->b, "packs/ranges", data, 1000), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t got = 77;

		assert_int_equal(
		    backend_get(x->b, "packs/ranges", cases[i].off, buf, cases[i].len, &got), 0);
		assert_int_equal(got, cases[i].got);
		if (got > 0)
			assert_memory_equal(buf, data + cases[i].off, got);
	}
	free(data);
}

static void
empty_and_odd_sizes(void **state)
{
	static const size_t sizes[] = { 0, 1, 65535, 65536, 65537, 100000 };
	struct fixture *x = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint8_t *data = content(sizes[i], i);
		char name[30];
		void *all;
		size_t n;

		snprintf(name, sizeof(name), "packs/%zu", sizes[i]);
		assert_int_equal(backend_put(x->b, name, data, sizes[i]), 0);
		assert_object(x->b, name, data, sizes[i]);
		/* Longer than allowed is damage, and nothing is given out. */
		if (sizes[i] > 0) {
			assert_int_equal(
			    backend_get_all(x->b, name, sizes[i] - 1, &all, &n), ERR_DAMAGED);
			assert_null(all);
		}
		assert_int_equal(backend_get_all(x->b, name, SIZE_MAX, &all, &n), 0);
		assert_int_equal(n, sizes[i]);
		free(all);
		free(data);
	}
}

static void
big_objects_come_back(void **state)
{
	struct fixture *x = *state;
	uint8_t *data = content(BIG, 9), buf[8192];
	size_t got;

	assert_int_equal(backend_put(x->b, "packs/big", data, BIG), 0);
	assert_object(x->b, "packs/big", data, BIG);
	for (uint64_t off = 12345; off < BIG; off += BIG / 7) {
		assert_int_equal(backend_get(x->b, "packs/big", off, buf, sizeof(buf), &got), 0);
		assert_int_equal(got, sizeof(buf));
		assert_memory_equal(buf, data + off, got);
	}
	free(data);
}

static void
absent_is_not_found(void **state)
{
	static const char *const names[] = { "no", "packs/none", "no/such/thing", "there/below" };
	struct fixture *x = *state;

	assert_int_equal(backend_put(x->b, "packs/other", "x", 1), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct object_info info;
		uint8_t buf[1];
		void *data;
		size_t got;

		assert_int_equal(backend_get(x->b, names[i], 0, buf, 1, &got), ERR_NOTFOUND);
		assert_non_null(strstr(err_msg(), names[i]));
		assert_int_equal(got, 0);
		assert_int_equal(backend_get_all(x->b, names[i], 10, &data, &got), ERR_NOTFOUND);
		assert_null(data);
		assert_int_equal(backend_stat(x->b, names[i], &info), ERR_NOTFOUND);
		assert_int_equal(backend_delete(x->b, names[i]), 0);
	}
}

/* ---- writing ---- */

static void
nothing_is_overwritten(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(backend_put(x->b, "locks/a", "first", 5), 0);
	assert_int_equal(backend_put(x->b, "locks/a", "second", 6), 1);
	assert_int_equal(backend_put(x->b, "locks/a", "first", 5), 1);
	assert_object(x->b, "locks/a", "first", 5);
}

static void
deleted_is_gone_and_free(void **state)
{
	struct fixture *x = *state;
	struct backend *other = factory->open(x->place);
	struct object_info info;
	uint8_t buf[10];
	size_t got;

	assert_non_null(other);
	for (int i = 0; i < 3; i++) {
		char text[20];

		snprintf(text, sizeof(text), "round %d", i);
		assert_int_equal(backend_put(x->b, "locks/b", text, strlen(text)), 0);
		/* Both handles have read it, so that one could remember. */
		assert_object(x->b, "locks/b", text, strlen(text));
		assert_object(other, "locks/b", text, strlen(text));
		assert_int_equal(backend_delete(i % 2 ? other : x->b, "locks/b"), 0);
		assert_int_equal(backend_delete(x->b, "locks/b"), 0);
		assert_int_equal(backend_get(x->b, "locks/b", 0, buf, 1, &got), ERR_NOTFOUND);
		assert_int_equal(backend_get(other, "locks/b", 0, buf, 1, &got), ERR_NOTFOUND);
		assert_int_equal(backend_stat(other, "locks/b", &info), ERR_NOTFOUND);
	}
	backend_close(other);
}

/* ---- listing ---- */

struct names {
	char text[4000]; /* "name:bytes " for each */
	int left;        /* callbacks until one stops the listing */
	bool sorted;
	char last[BACKEND_NAME_MAX + 1];
};

static int
collect(void *ctx, const char *name, const struct object_info *info)
{
	struct names *n = ctx;
	size_t at = strlen(n->text);

	if (n->left-- == 0)
		return 42;
	n->sorted = n->sorted && strcmp(n->last, name) < 0;
	snprintf(n->last, sizeof(n->last), "%s", name);
	snprintf(
	    n->text + at, sizeof(n->text) - at, "%s:%llu ", name, (unsigned long long)info->bytes);
	return 0;
}

static void
assert_list(struct backend *b, const char *prefix, const char *const *expected, size_t n)
{
	struct names names = { .left = -1, .sorted = true };
	size_t total = 0;

	assert_int_equal(backend_list(b, prefix, collect, &names), 0);
	for (size_t i = 0; i < n; i++) {
		char item[BACKEND_NAME_MAX + 10];

		snprintf(item, sizeof(item), "%s:%zu ", expected[i], strlen(expected[i]));
		assert_non_null(strstr(names.text, item));
		total += strlen(item);
	}
	assert_int_equal(strlen(names.text), total);
	if (backend_caps(b)->sorted_list)
		assert_true(names.sorted);
}

static void
lists_what_begins_so(void **state)
{
	static const char *const all[] = { "a-b", "a/b", "a/c/d", "a0", "packs/0", "packs/ab",
		"packs/abc", "packs/abd", "packs/b", "packs/zz/abc", "packsb", "z" };
	struct fixture *x = *state;
	struct names names = { .left = 3 };

	assert_list(x->b, "", NULL, 0);
	assert_list(x->b, "packs/", NULL, 0);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		/* In another order than that of the names. */
		size_t k = i * 5 % (sizeof(all) / sizeof(all[0]));

		assert_int_equal(backend_put(x->b, all[k], all[k], strlen(all[k])), 0);
	}
	assert_list(x->b, "", all, sizeof(all) / sizeof(all[0]));
	assert_list(x->b, "a/", &all[1], 2);
	assert_list(x->b, "a/c/", &all[2], 1);
	assert_list(x->b, "packs/", &all[4], 6);
	assert_list(x->b, "packs/zz/", &all[9], 1);
	assert_list(x->b, "nothing/", NULL, 0);
	assert_list(x->b, "a0/", NULL, 0);
	/* The callback's result ends it. */
	assert_int_equal(backend_list(x->b, "", collect, &names), 42);
	assert_int_equal(names.left, -1);
}

static int
delete_it(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	return backend_delete(ctx, name);
}

static void
a_listing_may_delete(void **state)
{
	struct fixture *x = *state;
	int seen = 0;

	for (int i = 0; i < 50; i++) {
		char name[30];

		snprintf(name, sizeof(name), "packs/%02x%d", i * 5, i);
		assert_int_equal(backend_put(x->b, name, name, 3), 0);
	}
	assert_int_equal(backend_list(x->b, "packs/", delete_it, x->b), 0);
	assert_int_equal(backend_list(x->b, "", count, &seen), 0);
	assert_int_equal(seen, 0);
}

/* ---- side by side ---- */

struct race {
	struct fixture *x;
	char name[40];
	_Atomic int won, lost;
	bool own_handle;
};

static int
race_put(void *arg, int worker)
{
	struct race *r = arg;
	struct backend *b = r->own_handle ? factory->open(r->x->place) : r->x->b;
	uint8_t data[5000];
	int rc;

	if (!b)
		return ERR_FAIL;
	memset(data, 'a' + worker, sizeof(data));
	rc = backend_put(b, r->name, data, sizeof(data));
	if (rc == 0)
		atomic_fetch_add(&r->won, 1);
	else if (rc == 1)
		atomic_fetch_add(&r->lost, 1);
	/* Whoever came back, by any result, sees it whole. */
	if (rc >= 0) {
		void *all;
		size_t n;

		rc = backend_get_all(b, r->name, sizeof(data), &all, &n);
		if (rc == 0 && (n != sizeof(data) || memcmp(all, (uint8_t *)all + 1, n - 1) != 0))
			rc = err_set(ERR_FAIL, "object %s is mixed or partial", r->name);
		free(all);
	}
	if (r->own_handle)
		backend_close(b);
	return rc;
}

static void
one_of_eight_threads_wins(void **state)
{
	for (int round = 0; round < 30; round++) {
		struct race r = { .x = *state, .own_handle = round % 2 == 1 };

		snprintf(r.name, sizeof(r.name), "locks/%d/race", round / 3 * 3);
		if (round % 3)
			snprintf(r.name, sizeof(r.name), "packs/%d", round * 1000);
		assert_int_equal(parallel_run(8, race_put, &r), 0);
		assert_int_equal(r.won, 1);
		assert_int_equal(r.lost, 7);
	}
}

#define PROCESS_ROUNDS 60

/* In a child: put the same names as the other; a byte for each result. */
static void
race_process(void *place, int out, char mark)
{
	struct backend *b = factory->open(place);
	char results[PROCESS_ROUNDS];

	for (int i = 0; i < PROCESS_ROUNDS; i++) {
		char name[30], data[300];

		memset(data, mark, sizeof(data));
		snprintf(name, sizeof(name), "race/%d/x", i);
		results[i] = b ? (char)('0' + backend_put(b, name, data, sizeof(data))) : '?';
	}
	backend_close(b);
	_exit(write(out, results, sizeof(results)) == sizeof(results) ? 0 : 1);
}

static void
one_of_two_processes_wins(void **state)
{
	struct fixture *x = *state;
	char results[2][PROCESS_ROUNDS];
	int pipes[2][2], status;
	pid_t pids[2];

	for (int p = 0; p < 2; p++) {
		assert_int_equal(pipe(pipes[p]), 0);
		pids[p] = fork();
		assert_true(pids[p] >= 0);
		if (pids[p] == 0)
			race_process(x->place, pipes[p][1], (char)('a' + p));
		close(pipes[p][1]);
	}
	for (int p = 0; p < 2; p++) {
		assert_int_equal(read(pipes[p][0], results[p], PROCESS_ROUNDS), PROCESS_ROUNDS);
		close(pipes[p][0]);
		assert_int_equal(waitpid(pids[p], &status, 0), pids[p]);
		assert_int_equal(status, 0);
	}
	for (int i = 0; i < PROCESS_ROUNDS; i++) {
		char name[30], data[300];
		int winner = results[0][i] == '0' ? 0 : 1;

		assert_int_equal(results[winner][i], '0');
		assert_int_equal(results[!winner][i], '1');
		memset(data, 'a' + winner, sizeof(data));
		snprintf(name, sizeof(name), "race/%d/x", i);
		assert_object(x->b, name, data, sizeof(data));
	}
}

/* Two threads put, two delete what is there, two list and read; nothing partial is ever seen. */
static int
churn(void *arg, int worker)
{
	struct fixture *x = arg;

	for (int i = 0; i < 150; i++) {
		char name[30], data[2000];
		size_t got;
		int rc, seen = 0;

		snprintf(name, sizeof(name), "packs/%02d-churn", i % 7 * 10);
		memset(data, 'a' + i % 7, sizeof(data));
		if (worker < 2)
			rc = backend_put(x->b, name, data, sizeof(data));
		else if (worker < 4)
			rc = backend_delete(x->b, name);
		else if (worker == 4)
			rc = backend_list(x->b, "packs/", count, &seen);
		else
			rc = backend_get(x->b, name, 0, data, sizeof(data), &got);
		if (rc < 0 && rc != ERR_NOTFOUND)
			return rc;
		if (worker == 5 && rc == 0 &&
		    (got != sizeof(data) || data[0] != 'a' + i % 7 || data[1999] != data[0]))
			return err_set(ERR_FAIL, "object %s is partial", name);
		if (seen > 7)
			return err_set(ERR_FAIL, "more objects are listed than can be");
	}
	return 0;
}

static void
all_at_once(void **state)
{
	assert_int_equal(parallel_run(6, churn, *state), 0);
}

/* Far more objects than a handle may keep open, read by many threads, end where they began. */
static int
read_many(void *arg, int worker)
{
	struct fixture *x = arg;

	for (int i = 0; i < 2000; i++) {
		int k = (i * 37 + worker * 11) % 100;
		char name[30], expected[30], got[30] = { 0 };
		size_t n;
		int rc;

		snprintf(name, sizeof(name), "packs/%02d-many", k);
		snprintf(expected, sizeof(expected), "content of %d", k);
		rc = backend_get(x->b, name, 0, got, sizeof(got) - 1, &n);
		if (rc)
			return rc;
		if (strcmp(got, expected) != 0)
			return err_set(ERR_FAIL, "object %s has %s", name, got);
	}
	return 0;
}

static void
many_objects_many_readers(void **state)
{
	struct fixture *x = *state;

	for (int k = 0; k < 100; k++) {
		char name[30], data[30];

		snprintf(name, sizeof(name), "packs/%02d-many", k);
		snprintf(data, sizeof(data), "content of %d", k);
		assert_int_equal(backend_put(x->b, name, data, strlen(data)), 0);
	}
	assert_int_equal(parallel_run(4, read_many, x), 0);
}

static void
another_handle_sees_at_once(void **state)
{
	struct fixture *x = *state;
	struct backend *other = factory->open(x->place);

	assert_non_null(other);
	for (int i = 0; i < 20; i++) {
		char name[30];
		int seen = 0;

		snprintf(name, sizeof(name), "seen/%d", i);
		assert_int_equal(backend_put(i % 2 ? other : x->b, name, name, strlen(name)), 0);
		assert_object(i % 2 ? x->b : other, name, name, strlen(name));
		assert_int_equal(backend_list(i % 2 ? x->b : other, "seen/", count, &seen), 0);
		assert_int_equal(seen, i + 1);
	}
	backend_close(other);
}

/* ---- the rest ---- */

static void
tells_about_itself(void **state)
{
	struct fixture *x = *state;
	uint64_t avail = 0, total = 0;
	int rc = backend_space(x->b, &avail, &total);

	assert_true(strlen(backend_url(x->b)) > 0);
	assert_true(backend_caps(x->b)->pack_bytes >= 1u << 20);
	assert_true(rc == ERR_UNSUPPORTED || (rc == 0 && total > 0 && avail <= total));
	backend_close(NULL);
}

int
backend_conformance(const char *name, const struct backend_factory *f)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(objects_come_back),
		TEST(longest_names_work),
		TEST(bad_names_are_refused),
		TEST(ranges_end_at_the_end),
		TEST(empty_and_odd_sizes),
		TEST(big_objects_come_back),
		TEST(absent_is_not_found),
		TEST(nothing_is_overwritten),
		TEST(deleted_is_gone_and_free),
		TEST(lists_what_begins_so),
		TEST(a_listing_may_delete),
		TEST(one_of_eight_threads_wins),
		TEST(one_of_two_processes_wins),
		TEST(all_at_once),
		TEST(many_objects_many_readers),
		TEST(another_handle_sees_at_once),
		TEST(tells_about_itself),
	};
#undef TEST

	factory = f;
	return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}
