/*
 * A stream of WAL cut into segments, through a real repository.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/walsink.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/store_fixture.h"
#include "tests/support/wal_page.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT (1u << 20)
#define START   (UINT64_C(7) * SEGMENT + 0x28)

static struct store_fixture fix;
static struct repo_writer *w;
static struct lane *lane;
static uint8_t *wal; /* three segments from where START's begins */

static const struct walsink_opts opts = {
	.expect = {
		.server_version = 150018,
		.system_identifier = 77,
		.timeline = 3,
		.segment_bytes = SEGMENT,
	},
	.start_lsn = START,
	.uid = 26,
	.gid = 27,
};

static int
setup(void **state)
{
	static const struct repo_writer_opts wopts;
	const struct walmsg_expect headers = {
		.system_identifier = 77,
		.timeline = 3,
		.segment_bytes = SEGMENT,
	};

	(void)state;
	store_fixture_make(&fix);
	assert_int_equal(repo_writer_open(&w, &fix.opts, &wopts), 0);
	assert_int_equal(lane_new(&lane, w), 0);
	wal = malloc(3 * SEGMENT);
	assert_non_null(wal);
	fixture_text(wal, 3 * SEGMENT, 5);
	for (uint32_t at = 0; at < 3 * SEGMENT; at += WAL_PAGE_BYTES)
		wal_page_head(wal + at, START - 0x28 + at, &headers);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(wal);
	lane_free(lane);
	repo_writer_close(w);
	store_fixture_remove(&fix);
	return 0;
}

struct listing {
	char text[1024];
};

static int
list_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct listing *l = ctx;
	size_t n = strlen(l->text);

	if (e->type == TREE_FILE)
		snprintf(l->text + n, sizeof(l->text) - n, "%s %o %u:%u %llu %08x;", path, e->mode,
		    e->uid, e->gid, (unsigned long long)e->content.size, e->content.crc32c);
	return 0;
}

static void
assert_tree(struct tree_builder *tb, const char *expected)
{
	struct listing l = { { 0 } };

	assert_int_equal(tree_builder_each(tb, list_entry, &l), 0);
	assert_string_equal(l.text, expected);
}

/* Push `len` bytes of the sample in pieces. */
static int
push(struct walsink *s, size_t len, size_t piece)
{
	for (size_t off = 0; off < len; off += piece) {
		int rc = walsink_append(
		    s, START - 0x28 + off, wal + off, len - off < piece ? len - off : piece);

		if (rc)
			return rc;
	}
	return 0;
}

static void
test_segments(void **state)
{
	static const size_t pieces[] = { 13, 8192, 8200, 131072, 3 * SEGMENT };
	char expected[512];

	(void)state;
	snprintf(expected, sizeof(expected),
	    "pg_wal/000000030000000000000007 600 26:27 1048576 %08x;"
	    "pg_wal/000000030000000000000008 600 26:27 1048576 %08x;",
	    crc32c(0, wal, SEGMENT), crc32c(0, wal + SEGMENT, SEGMENT));
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		struct tree_builder *tb;
		struct walsink *s;

		assert_int_equal(tree_builder_new(&tb), 0);
		assert_int_equal(walsink_new(&s, lane, tb, &opts), 0);
		assert_true(walsink_lsn(s) == START - 0x28);
		assert_int_equal(push(s, 2 * SEGMENT, pieces[i]), 0);
		assert_true(walsink_segment_lsn(s) == UINT64_C(9) * SEGMENT);
		assert_int_equal(walsink_finish(s), 0);
		assert_tree(tb, expected);
		walsink_free(s);
		tree_builder_free(tb);
	}
}

static void
test_last_segment_is_filled_up(void **state)
{
	size_t len = SEGMENT + 3 * WAL_PAGE_BYTES + 100;
	uint8_t *padded = calloc(1, SEGMENT);
	struct tree_builder *tb;
	char expected[512];
	struct walsink *s;

	(void)state;
	assert_non_null(padded);
	memcpy(padded, wal + SEGMENT, len - SEGMENT);
	snprintf(expected, sizeof(expected),
	    "pg_wal/00000003.history 600 26:27 5 %08x;"
	    "pg_wal/000000030000000000000007 600 26:27 1048576 %08x;"
	    "pg_wal/000000030000000000000008 600 26:27 1048576 %08x;",
	    crc32c(0, "1\t0/5", 5), crc32c(0, wal, SEGMENT), crc32c(0, padded, SEGMENT));
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(walsink_new(&s, lane, tb, &opts), 0);
	assert_int_equal(walsink_add_file(s, "00000003.history", "1\t0/5", 5), 0);
	assert_int_equal(push(s, len, 4096), 0);
	assert_true(walsink_segment_lsn(s) == UINT64_C(8) * SEGMENT);
	assert_int_equal(walsink_finish(s), 0);
	assert_tree(tb, expected);
	walsink_free(s);
	tree_builder_free(tb);
	free(padded);
}

/* `at` is changed to what it must not be; the message has `words`. */
static void
assert_refused(size_t at, uint8_t flip, const char *words)
{
	struct tree_builder *tb;
	struct walsink *s;

	wal[at] ^= flip;
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(walsink_new(&s, lane, tb, &opts), 0);
	assert_int_equal(push(s, 2 * SEGMENT, 1000), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), words));
	walsink_free(s);
	tree_builder_free(tb);
	wal[at] ^= flip;
}

static void
test_wrong_pages(void **state)
{
	(void)state;
	assert_refused(0, 1, "magic");
	assert_refused(24, 1, "system identifier 76");
	assert_refused(5 * WAL_PAGE_BYTES + 4, 4, "timeline 7");
	assert_refused(SEGMENT + 9, 1, "0/800000 says it is at");
	assert_refused(SEGMENT + WAL_PAGE_BYTES + 2, 2, "flags");
}

static void
test_gaps(void **state)
{
	struct tree_builder *tb;
	struct walsink *s;

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(walsink_new(&s, lane, tb, &opts), 0);
	assert_int_equal(walsink_append(s, START, wal + 0x28, 10), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "0/700028 where 0/700000 was due"));
	assert_int_equal(push(s, 100, 100), 0);
	assert_int_equal(walsink_append(s, START - 0x28 + 99, wal + 99, 10), ERR_DAMAGED);
	assert_int_equal(walsink_append(s, START - 0x28 + 101, wal + 101, 10), ERR_DAMAGED);
	walsink_free(s);
	tree_builder_free(tb);
}

static void
test_zeros_behind_a_switch(void **state)
{
	size_t from = 5 * WAL_PAGE_BYTES;
	uint8_t *kept = malloc(SEGMENT);
	struct tree_builder *tb;
	struct walsink *s;

	(void)state;
	assert_non_null(kept);
	memcpy(kept, wal, SEGMENT);
	memset(wal + from, 0, SEGMENT - from);
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(walsink_new(&s, lane, tb, &opts), 0);
	assert_int_equal(push(s, 2 * SEGMENT, 5000), 0);
	walsink_free(s);
	tree_builder_free(tb);
	/* Once switched, nothing but zeros may come before the next segment. */
	assert_refused(from + WAL_PAGE_BYTES + 3000, 1, "behind the end");
	memcpy(wal, kept, SEGMENT);
	free(kept);
}

static void
test_segment_sizes(void **state)
{
	static const uint32_t wrong[] = { 0, 1 << 19, 3 << 20, 1u << 31 };
	struct walsink_opts o = opts;
	struct walsink *s;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		o.expect.segment_bytes = wrong[i];
		assert_int_equal(walsink_new(&s, lane, NULL, &o), ERR_UNSUPPORTED);
		assert_null(s);
	}
}

static int
one_segment(void)
{
	static const struct repo_writer_opts wopts;
	struct repo_writer *own_writer = NULL;
	struct tree_builder *tb = NULL;
	struct lane *own = NULL;
	struct walsink *s = NULL;
	int rc = repo_writer_open(&own_writer, &fix.opts, &wopts);

	if (rc == 0)
		rc = lane_new(&own, own_writer);
	if (rc == 0)
		rc = tree_builder_new(&tb);
	if (rc == 0)
		rc = walsink_new(&s, own, tb, &opts);
	if (rc == 0)
		rc = push(s, WAL_PAGE_BYTES * 40, 50000);
	if (rc == 0)
		rc = walsink_finish(s);
	walsink_free(s);
	tree_builder_free(tb);
	lane_free(own);
	repo_writer_close(own_writer);
	return rc;
}

static void
test_every_allocation_fails(void **state)
{
	bool happened;
	uint64_t n = 0;

	(void)state;
	do {
		int rc;

		sys_fault_arm(++n, ENOMEM);
		rc = one_segment();
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc < 0, happened);
	} while (happened && n < 2000);
	assert_true(n > 5 && n < 2000);
	assert_int_equal(one_segment(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_last_segment_is_filled_up),
		cmocka_unit_test(test_wrong_pages),
		cmocka_unit_test(test_gaps),
		cmocka_unit_test(test_zeros_behind_a_switch),
		cmocka_unit_test(test_segment_sizes),
		cmocka_unit_test(test_every_allocation_fails),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
