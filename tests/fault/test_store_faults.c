/*
 * The Nth call fails, for every N: making a repository, a writer's session, opening with a fresh
 * cache, check.  After each failure what was there reads well, and a retry works.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/check.h"
#include "store/secret.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEN (300u << 10)

static const int enos[] = { ENOSPC, ENOMEM };
#define NENOS (sizeof(enos) / sizeof(enos[0]))

static struct store_fixture fix;
static uint8_t *old_data;
static struct content old; /* committed before any fault */

static int
write_old(void **state)
{
	static const struct repo_writer_opts wopts;
	struct repo_writer *w;
	struct lane *lane;

	(void)state;
	store_fixture_make(&fix);
	old_data = malloc(LEN);
	fixture_noise(old_data, LEN, 1);
	assert_int_equal(repo_writer_open(&w, &fix.opts, &wopts), 0);
	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_PAGES, NULL, old_data, LEN, &old);
	assert_int_equal(repo_writer_commit(w, "snapshots/a/old", "record", 6), 0);
	lane_free(lane);
	repo_writer_close(w);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	content_release(&old);
	free(old_data);
	store_fixture_remove(&fix);
	return 0;
}

/* What such a fault may be reported as. */
static bool
code_fits(int rc, int eno)
{
	int want = eno == ENOSPC ? ERR_NOSPACE : eno == ENOMEM ? ERR_NOMEM : ERR_IO;

	/* Memory that a library lacks is a lack of memory whatever errno says. */
	return rc == want || rc == ERR_NOMEM || rc == ERR_FAIL;
}

static void
old_reads(const struct repo_opts *opts)
{
	struct repo_reader *r;
	uint8_t *buf = malloc(LEN);
	size_t got;

	if (repo_reader_open(&r, opts))
		fail_msg("repo_reader_open: %s", err_msg());
	assert_int_equal(content_pread(r, &old, buf, LEN, 0, &got), 0);
	assert_int_equal(got, LEN);
	assert_memory_equal(buf, old_data, LEN);
	repo_reader_close(r);
	free(buf);
}

static void
test_init(void **state)
{
	const struct repo_init_opts init = { .cost = { 1, 8192 } };
	struct repo_opts opts = fix.opts;
	char url[300];

	(void)state;
	opts.url = url;
	for (size_t k = 0; k < NENOS; k++) {
		uint64_t n;

		for (n = 1; n < 1000; n++) {
			struct repo_reader *r = NULL;
			bool happened;
			int rc, again;

			snprintf(url, sizeof(url), "%s/init-%zu-%llu", fix.dir, k,
			    (unsigned long long)n);
			sys_fault_arm(n, enos[k]);
			rc = repo_init(&opts, &init);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			/* Either there is a whole repository or nothing that looks like one. */
			again = repo_reader_open(&r, &opts);
			repo_reader_close(r);
			if (rc == 0)
				assert_int_equal(again, 0);
			else
				assert_true(code_fits(rc, enos[k]));
			if (again) {
				assert_int_equal(again, ERR_NOTFOUND);
				if (repo_init(&opts, &init))
					fail_msg("fault %llu: init again: %s",
					    (unsigned long long)n, err_msg());
			}
			fixture_rmtree(url);
			if (!happened)
				break;
		}
		assert_int_equal(n < 1000 && n > 10, 1);
	}
}

/* A whole session; everything it needs is its own, so that nothing may leak. */
static int
session(const char *name, uint64_t seed, struct content *out)
{
	static const struct repo_writer_opts wopts = { .pack_bytes = 128u << 10 };
	struct tree_entry e = { .type = TREE_FILE }, root = { .name = NULL };
	uint8_t *data = malloc(LEN);
	struct content_writer *cw = NULL;
	struct tree_builder *tb = NULL;
	struct repo_writer *w = NULL;
	struct lane *lane = NULL;
	int rc;

	memset(out, 0, sizeof(*out));
	memcpy(data, old_data, LEN);
	fixture_noise(data + LEN / 2, LEN / 2, seed);
	data[70000] ^= 1;
	rc = repo_writer_open(&w, &fix.opts, &wopts);
	if (rc == 0)
		rc = lane_new(&lane, w);
	if (rc == 0)
		rc = content_writer_new(&cw, lane, CHUNKING_PAGES, &old);
	if (rc == 0)
		rc = content_writer_append(cw, data, LEN);
	if (rc == 0)
		rc = content_writer_finish(cw, out);
	content_writer_free(cw);
	cw = NULL;
	if (rc == 0)
		rc = content_writer_new(&cw, lane, CHUNKING_CDC, NULL);
	if (rc == 0)
		rc = content_writer_append(cw, data, LEN);
	if (rc == 0)
		rc = content_writer_finish(cw, &e.content);
	if (rc == 0)
		rc = tree_builder_new(&tb);
	if (rc == 0)
		rc = tree_builder_add(tb, "a/b", &e);
	if (rc == 0)
		rc = tree_builder_finish(tb, lane, NULL, &root);
	if (rc == 0)
		rc = repo_writer_commit(w, name, "record", 6);
	tree_entry_release(&root);
	tree_entry_release(&e);
	tree_builder_free(tb);
	content_writer_free(cw);
	lane_free(lane);
	repo_writer_close(w);
	if (rc)
		content_release(out);
	free(data);
	return rc;
}

static void
test_session(void **state)
{
	for (size_t k = 0; k < NENOS; k++) {
		uint64_t n;

		/* Every call at first, then every few: a session makes many alike. */
		for (n = 1; n<5000; n += n> 80 ? 5 + k : 1) {
			char name[60];
			struct content c;
			bool happened;
			int rc;

			snprintf(
			    name, sizeof(name), "snapshots/a/%zu-%llu", k, (unsigned long long)n);
			sys_fault_arm(n, enos[k]);
			rc = session(name, n * 4 + k, &c);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			if (rc && !code_fits(rc, enos[k]))
				fail_msg("fault %llu with %d: %d: %s", (unsigned long long)n,
				    enos[k], rc, err_msg());
			content_release(&c);
			old_reads(&fix.opts);
			/* The retry; a fault behind the last step leaves the name taken. */
			if (rc) {
				rc = session(name, n * 4 + k, &c);
				if (rc && rc != ERR_EXISTS)
					fail_msg("fault %llu, retry: %d: %s", (unsigned long long)n,
					    rc, err_msg());
				content_release(&c);
			}
			/* Afresh: what the sessions leave would make each longer than the last. */
			teardown(state);
			write_old(state);
			if (!happened)
				break;
		}
		assert_true(n > 80 && n < 5000);
	}
}

static void
test_fresh_cache(void **state)
{
	struct repo_opts opts = fix.opts;
	char cache[300];

	(void)state;
	opts.cache_dir = cache;
	for (size_t k = 0; k < NENOS; k++) {
		uint64_t n;

		for (n = 1; n<3000; n += n> 60 ? 9 : 1) {
			struct repo_reader *r = NULL;
			bool happened;
			int rc;

			snprintf(cache, sizeof(cache), "%s/cache-%zu-%llu", fix.dir, k,
			    (unsigned long long)n);
			sys_fault_arm(n, enos[k]);
			rc = repo_reader_open(&r, &opts);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			assert_true((rc == 0) == (r != NULL));
			if (rc && !code_fits(rc, enos[k]))
				fail_msg("fault %llu with %d: %d: %s", (unsigned long long)n,
				    enos[k], rc, err_msg());
			repo_reader_close(r);
			old_reads(&opts);
			fixture_rmtree(cache);
			if (!happened)
				break;
		}
		assert_true(n > 30 && n < 3000);
	}
}

/* A fault of the machine is never told as damage of the repository. */
static void
test_check(void **state)
{
	struct repo_reader *r;

	(void)state;
	for (size_t k = 0; k < NENOS; k++) {
		uint64_t n;

		for (n = 1; n<20000; n += n> 60 ? 19 : 1) {
			struct check_opts opts = { .read_data = true, .threads = 2 };
			struct check_totals totals;
			bool happened;
			int rc;

			assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
			sys_fault_arm(n, enos[k]);
			rc = check_run(r, &opts, &totals);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			/* The one snapshot is no real one, which is a finding in every run. */
			if (totals.findings > 1)
				fail_msg("fault %llu with %d is told as damage",
				    (unsigned long long)n, enos[k]);
			if (rc < 0 && !code_fits(rc, enos[k]))
				fail_msg("fault %llu with %d: %d: %s", (unsigned long long)n,
				    enos[k], rc, err_msg());
			repo_reader_close(r);
			if (!happened)
				break;
		}
		assert_true(n > 30 && n < 20000);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_init, write_old, teardown),
		cmocka_unit_test_setup_teardown(test_session, write_old, teardown),
		cmocka_unit_test_setup_teardown(test_fresh_cache, write_old, teardown),
		cmocka_unit_test_setup_teardown(test_check, write_old, teardown),
	};

	/* Thousands of small synced files: memory serves as well, and a disk would take minutes. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
