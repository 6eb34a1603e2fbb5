/* Sources: the record, and adding, finding and changing them in a real repository. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo.h"
#include "store/sealed.h"
#include "store/source.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct source
sample(const char *name)
{
	struct source s = {
		.id = { 1, 2, 3, 4, 5, 6, 7, 8 },
		.generation = 9,
		.kind = SOURCE_PG,
		.system_identifier = UINT64_C(0xfedcba9876543210),
		.domain_id = { 0xd0, 1 },
		.created_us = 1795140202123456,
		.removed = true,
	};

	snprintf(s.name, sizeof(s.name), "%s", name);
	s.conninfo = strdup("host=/var/run/postgresql dbname=postgres");
	assert_non_null(s.conninfo);
	return s;
}

static void
test_record(void **state)
{
	struct source want = sample("main"), got;
	struct bytes b;
	size_t whole;

	(void)state;
	bytes_init(&b);
	assert_int_equal(source_encode(&b, &want), 0);
	assert_int_equal(source_decode(&got, b.data, b.len), 0);
	assert_memory_equal(got.id, want.id, SOURCE_ID_LEN);
	assert_int_equal(got.generation, 9);
	assert_string_equal(got.name, "main");
	assert_int_equal(got.kind, SOURCE_PG);
	assert_string_equal(got.conninfo, want.conninfo);
	assert_true(got.system_identifier == want.system_identifier);
	assert_memory_equal(got.domain_id, want.domain_id, DOMAIN_ID_LEN);
	assert_true(got.created_us == want.created_us);
	assert_true(got.removed);
	source_release(&got);
	whole = b.len;
	for (b.len = 0; b.len < whole; b.len++) {
		assert_int_equal(source_decode(&got, b.data, b.len), ERR_DAMAGED);
		assert_null(got.conninfo);
	}
	bytes_release(&b);
	source_release(&want);
}

static void
test_names(void **state)
{
	static const char *const good[] = { "a", "main", "9", "db-1.example_x", "A.B" };
	static const char *const bad[] = { "", ".", "..", ".x", "-x", "_x", "a/b", "a b",
		"\xc3\xa4", "a\n", "a\"" };
	char name[SOURCE_NAME_MAX + 2];
	struct source s = sample("x"), got;
	struct bytes b;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(source_check_name(good[i]), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(source_check_name(bad[i]), ERR_USAGE);
	memset(name, 'x', sizeof(name));
	name[SOURCE_NAME_MAX + 1] = '\0';
	assert_int_equal(source_check_name(name), ERR_USAGE);
	name[SOURCE_NAME_MAX] = '\0';
	assert_int_equal(source_check_name(name), 0);
	/* A stored name becomes a directory, so a reader checks it as well. */
	bytes_init(&b);
	assert_int_equal(source_encode(&b, &s), 0);
	for (size_t i = 0; i + 1 < b.len; i++)
		if (b.data[i] == 'x' && b.data[i - 1] == 0)
			b.data[i] = '/';
	assert_int_equal(source_decode(&got, b.data, b.len), ERR_DAMAGED);
	bytes_release(&b);
	source_release(&s);
}

/* ---- in a repository ---- */

struct fixture {
	struct store_fixture repo;
	struct repo_admin *admin, *other;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!f)
		return -1;
	store_fixture_make(&f->repo);
	return repo_admin_open(&f->admin, &f->repo.opts) ||
	       repo_admin_open(&f->other, &f->repo.opts);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	repo_admin_close(f->admin);
	repo_admin_close(f->other);
	store_fixture_remove(&f->repo);
	free(f);
	return 0;
}

static struct source
fresh(const char *name)
{
	struct source s = { .kind = SOURCE_PG };

	snprintf(s.name, sizeof(s.name), "%s", name);
	s.conninfo = strdup("dbname=postgres");
	assert_non_null(s.conninfo);
	return s;
}

static size_t
count_objects(struct fixture *f)
{
	return fixture_count_objects(repo_admin_reader(f->admin), "sources/");
}

static void
test_add_and_find(void **state)
{
	struct fixture *f = *state;
	struct repo_reader *r = repo_admin_reader(f->other);
	struct source a = fresh("main"), b = fresh("archive"), bad = fresh("a/b"), got, *list;
	size_t n;

	assert_int_equal(source_find(r, "main", false, &got), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "pastfs source add main"));
	assert_int_equal(source_add(f->admin, &a), 0);
	assert_int_equal(a.generation, 1);
	assert_true(a.created_us > 0);
	assert_int_equal(source_add(f->admin, &b), 0);
	assert_int_equal(source_add(f->admin, &bad), ERR_USAGE);
	assert_int_equal(source_list(r, &list, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "archive");
	assert_string_equal(list[1].name, "main");
	source_list_free(list, n);
	assert_int_equal(source_find(r, "main", false, &got), 0);
	assert_memory_equal(got.id, a.id, SOURCE_ID_LEN);
	assert_string_equal(got.conninfo, "dbname=postgres");
	source_release(&got);
	assert_int_equal(source_find(r, "mian", false, &got), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "archive, main"));
	assert_int_equal(source_add(f->other, &b), ERR_EXISTS);
	assert_int_equal(count_objects(f), 2);
	source_release(&a);
	source_release(&b);
	source_release(&bad);
}

static void
test_update_and_remove(void **state)
{
	struct fixture *f = *state;
	struct repo_reader *r = repo_admin_reader(f->other);
	struct source s = fresh("main"), again = fresh("main"), got;

	assert_int_equal(source_add(f->admin, &s), 0);
	for (uint32_t i = 2; i <= 10; i++) {
		s.system_identifier = i;
		assert_int_equal(source_update(f->admin, &s), 0);
		assert_int_equal(s.generation, i);
		assert_int_equal(source_find(r, "main", false, &got), 0);
		assert_int_equal(got.system_identifier, i);
		assert_int_equal(got.generation, i);
		source_release(&got);
	}
	/* The newest and its predecessor are kept, nothing else. */
	assert_int_equal(count_objects(f), 2);
	s.removed = true;
	assert_int_equal(source_update(f->admin, &s), 0);
	assert_int_equal(source_find(r, "main", false, &got), ERR_NOTFOUND);
	assert_int_equal(source_find(r, "main", true, &got), 0);
	assert_true(got.removed);
	source_release(&got);
	/* Its snapshots still go by its name. */
	assert_int_equal(source_add(f->admin, &again), ERR_EXISTS);
	assert_non_null(strstr(err_msg(), "removed"));
	source_release(&s);
	source_release(&again);
}

static void
test_concurrent_update(void **state)
{
	struct fixture *f = *state;
	struct source s = fresh("main"), stale;

	assert_int_equal(source_add(f->admin, &s), 0);
	assert_int_equal(source_find(repo_admin_reader(f->other), "main", false, &stale), 0);
	assert_int_equal(source_update(f->admin, &s), 0);
	/* Also when the number it would take has been used up and deleted. */
	for (int i = 0; i < 4; i++) {
		assert_int_equal(source_update(f->other, &stale), ERR_BUSY);
		assert_int_equal(stale.generation, 1);
		assert_int_equal(source_update(f->admin, &s), 0);
	}
	assert_int_equal(count_objects(f), 2);
	source_release(&s);
	source_release(&stale);
}

/* Overwrite a stored source's last byte, as a bad sector would. */
static void
damage(struct fixture *f, const struct source *s)
{
	char path[300];
	FILE *file;

	snprintf(path, sizeof(path), "%s/sources/%02x%02x%02x%02x%02x%02x%02x%02x/%08x",
	    f->repo.url, s->id[0], s->id[1], s->id[2], s->id[3], s->id[4], s->id[5], s->id[6],
	    s->id[7], (unsigned)s->generation);
	assert_int_equal(chmod(path, 0600), 0);
	file = fopen(path, "r+b");
	assert_non_null(file);
	assert_int_equal(fseek(file, -1, SEEK_END), 0);
	assert_int_equal(fputc(fgetc(file) == 'x' ? 'y' : 'x', file) == EOF, 0);
	fclose(file);
}

static void
test_damaged_source(void **state)
{
	struct fixture *f = *state;
	struct repo_reader *r = repo_admin_reader(f->other);
	struct source a = fresh("main"), b = fresh("hurt"), got, *list;
	size_t n;

	assert_int_equal(source_add(f->admin, &a), 0);
	assert_int_equal(source_add(f->admin, &b), 0);
	damage(f, &b);
	/* The others are found as before; this one is damaged, not absent. */
	assert_int_equal(source_find(r, "main", false, &got), 0);
	source_release(&got);
	assert_int_equal(source_find(r, "hurt", false, &got), ERR_DAMAGED);
	assert_int_equal(source_list(r, &list, &n), ERR_DAMAGED);
	assert_null(list);
	source_release(&a);
	source_release(&b);
}

static void
test_foreign_record(void **state)
{
	struct fixture *f = *state;
	struct source a = fresh("main"), got;
	struct bytes b;

	assert_int_equal(source_add(f->admin, &a), 0);
	/* A whole and well sealed record under another one's name. */
	bytes_init(&b);
	assert_int_equal(source_encode(&b, &a), 0);
	assert_int_equal(repo_admin_put(f->admin, SEALED_SOURCE,
			     "sources/00000000000000aa/00000001", b.data, b.len),
	    0);
	assert_int_equal(
	    source_find(repo_admin_reader(f->other), "none", false, &got), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "another one's"));
	bytes_release(&b);
	source_release(&a);
}

/* Whatever call fails: the change happened or not, the source is whole, and a retry works. */
static void
test_faults(void **state)
{
	struct fixture *f = *state;
	struct repo_reader *r = repo_admin_reader(f->other);
	struct source s = fresh("main"), got, *list;
	bool happened = true;
	uint64_t n, before = 0;
	size_t count;
	int rc = 0;

	assert_int_equal(source_add(f->admin, &s), 0);
	for (n = 1; happened && n < 2000; n++) {
		s.system_identifier = n;
		list = NULL;
		sys_fault_arm(n, n % 2 ? ENOMEM : ENOSPC);
		rc = source_update(f->admin, &s);
		if (rc == 0) {
			rc = source_list(repo_admin_reader(f->admin), &list, &count);
			if (rc == 0)
				source_list_free(list, count);
			else
				assert_null(list);
		}
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(source_find(r, "main", false, &got), 0);
		if (rc == 0)
			assert_int_equal(got.system_identifier, n);
		assert_true(got.system_identifier == n || got.system_identifier == before);
		/* A retry, from what a reader sees now, works and tidies up. */
		source_release(&s);
		s = got;
		s.system_identifier = before = n;
		assert_int_equal(source_update(f->admin, &s), 0);
		assert_int_equal(count_objects(f), 2);
	}
	assert_false(happened);
	assert_int_equal(rc, 0);
	assert_true(n > 10);
	source_release(&s);
}

static void
test_add_faults(void **state)
{
	struct fixture *f = *state;
	struct repo_reader *r = repo_admin_reader(f->other);
	bool happened = true;
	char sources[300];
	uint64_t n;
	int rc = 0;

	snprintf(sources, sizeof(sources), "%s/sources", f->repo.url);
	for (n = 1; happened && n < 2000; n++) {
		char name[20];
		struct source s, got;

		snprintf(name, sizeof(name), "s%d", (int)n);
		s = fresh(name);
		sys_fault_arm(n, ENOSPC);
		rc = source_add(f->admin, &s);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc) {
			/* Not there, or there and whole: adding it again says which. */
			rc = source_add(f->admin, &s);
			assert_true(rc == 0 || rc == ERR_EXISTS);
			rc = 0;
		}
		assert_int_equal(source_find(r, name, false, &got), 0);
		source_release(&got);
		source_release(&s);
		/* Each time the same ground, or the listing takes more calls at every turn. */
		fixture_rmtree(sources);
	}
	assert_false(happened);
	assert_true(n > 5);
}

#define IN_REPO(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record),
		cmocka_unit_test(test_names),
		IN_REPO(test_add_and_find),
		IN_REPO(test_update_and_remove),
		IN_REPO(test_concurrent_update),
		IN_REPO(test_damaged_source),
		IN_REPO(test_foreign_record),
		IN_REPO(test_faults),
		IN_REPO(test_add_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
