/*
 * Contents through a real repository: what is written is what is read, at every offset; the
 * predecessor makes deltas and recognises the unchanged; spans join to the same content.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "tests/support/store_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct store_fixture fix;

static int
setup(void **state)
{
	(void)state;
	store_fixture_make(&fix);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	store_fixture_remove(&fix);
	return 0;
}

static struct repo_writer *
open_writer(void)
{
	static const struct repo_writer_opts wopts;
	struct repo_writer *w;

	assert_int_equal(repo_writer_open(&w, &fix.opts, &wopts), 0);
	return w;
}

/* Everything put so far becomes readable by committing a record that no list asks for. */
static void
commit(struct repo_writer *w, const char *name)
{
	assert_int_equal(repo_writer_commit(w, name, "record", 6), 0);
}

static void
check_reads(struct repo_reader *r, const struct content *c, const uint8_t *data, size_t len)
{
	static const size_t lens[] = { 1, 7, 4096, 8192, 65536, 200000, 3000000 };
	uint8_t *buf = malloc(len + 16);
	size_t got;

	assert_int_equal(c->size, len);
	assert_int_equal(c->crc32c, crc32c(0, data, len));
	assert_int_equal(content_pread(r, c, buf, len + 16, 0, &got), 0);
	assert_int_equal(got, len);
	assert_memory_equal(buf, data, len);
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		for (size_t off = i; off < len; off += len / 7 + 1) {
			size_t want = lens[i] < len - off ? lens[i] : len - off;

			assert_int_equal(content_pread(r, c, buf, lens[i], off, &got), 0);
			assert_int_equal(got, want);
			assert_memory_equal(buf, data + off, want);
		}
	}
	assert_int_equal(content_pread(r, c, buf, 10, len, &got), 0);
	assert_int_equal(got, 0);
	free(buf);
}

static void
test_round_trip(void **state)
{
	static const size_t sizes[] = { 0, 1, 8192, 65536, 65537, 300000, 5000000, 70u << 20 };
	struct repo_writer *w = open_writer();
	struct lane *lane;

	(void)state;
	assert_int_equal(lane_new(&lane, w), 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (int k = CHUNKING_PAGES; k <= CHUNKING_CDC; k++) {
			uint8_t *data = malloc(sizes[i] + 1);
			struct content c, back;
			struct cursor cur;
			struct bytes b;

			fixture_text(data, sizes[i], i + 1);
			if (sizes[i] > 4000000)
				memset(data + 1000000, 0, 2000000);
			fixture_content(lane, (enum chunking)k, NULL, data, sizes[i], &c);
			bytes_init(&b);
			assert_int_equal(content_encode(&b, &c), 0);
			cursor_init(&cur, b.data, b.len);
			assert_int_equal(content_decode(&back, &cur), 0);
			commit(w, k == CHUNKING_PAGES ? "snapshots/a/b" : "snapshots/a/c");
			assert_int_equal(backend_delete(
			    repo_reader_backend(repo_writer_reader(w)),
			    k == CHUNKING_PAGES ? "snapshots/a/b" : "snapshots/a/c"), 0);
			check_reads(repo_writer_reader(w), &back, data, sizes[i]);
			bytes_release(&b);
			content_release(&c);
			content_release(&back);
			free(data);
		}
	}
	lane_free(lane);
	repo_writer_close(w);
}

/* A small change in each chunk costs a small delta; the same content costs nothing. */
static void
test_delta_and_unchanged(void **state)
{
	const size_t len = 4u << 20;
	uint8_t *data = malloc(len);
	struct writer_totals before, after;
	struct content first, second, third;
	struct repo_writer *w = open_writer();
	struct lane *lane;

	(void)state;
	fixture_noise(data, len, 7);
	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_PAGES, NULL, data, len, &first);
	commit(w, "snapshots/a/d1");
	repo_writer_totals(w, &before);
	assert_int_equal(before.new_bytes, len + before.new_bytes % len);

	fixture_content(lane, CHUNKING_PAGES, &first, data, len, &second);
	repo_writer_totals(w, &after);
	assert_int_equal(after.unchanged_bytes - before.unchanged_bytes, len);
	/* Even the map node is the same chunk. */
	assert_int_equal(after.new_bytes, before.new_bytes);
	assert_memory_equal(first.inner[0].id.b, second.inner[0].id.b, CHUNK_ID_LEN);

	for (size_t off = 100; off < len; off += CHUNK_PAGE_BYTES)
		data[off] ^= 0x55;
	fixture_content(lane, CHUNKING_PAGES, &second, data, len, &third);
	commit(w, "snapshots/a/d2");
	repo_writer_totals(w, &after);
	/* The noise does not compress, so what is stored is what the deltas take. */
	assert_true(after.delta_chunks - before.delta_chunks >= len / CHUNK_PAGE_BYTES);
	assert_true(after.stored_bytes - before.stored_bytes < len / 50);
	check_reads(repo_writer_reader(w), &third, data, len);

	/* A delta against a delta goes to its base, so that none is deeper than one. */
	for (size_t off = 200; off < len; off += CHUNK_PAGE_BYTES)
		data[off] ^= 0x55;
	content_release(&second);
	fixture_content(lane, CHUNKING_PAGES, &third, data, len, &second);
	commit(w, "snapshots/a/d3");
	check_reads(repo_writer_reader(w), &second, data, len);

	content_release(&first);
	content_release(&second);
	content_release(&third);
	lane_free(lane);
	repo_writer_close(w);
	free(data);
}

/* Another process' view: a fresh index built from the repository alone reads the same. */
static void
test_fresh_index_reads_all(void **state)
{
	const size_t len = 3000001;
	uint8_t *data = malloc(len);
	struct repo_writer *w = open_writer();
	struct repo_opts other = fix.opts;
	struct repo_reader *r;
	struct content c;
	struct lane *lane;
	char cache[300];

	(void)state;
	fixture_text(data, len, 99);
	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_CDC, NULL, data, len, &c);
	commit(w, "snapshots/a/e");
	lane_free(lane);
	repo_writer_close(w);

	snprintf(cache, sizeof(cache), "%s/other-cache", fix.dir);
	other.cache_dir = cache;
	assert_int_equal(repo_reader_open(&r, &other), 0);
	check_reads(r, &c, data, len);
	assert_int_equal(repo_reader_rebuild_index(r, NULL), 0);
	check_reads(r, &c, data, len);
	repo_reader_close(r);
	content_release(&c);
	free(data);
}

/* A second role takes the key of the first; another repository's key is refused. */
static void
test_unlocked(void **state)
{
	struct store_fixture other;
	struct repo_opts opts = fix.opts;
	struct repo_reader *first, *second;

	(void)state;
	assert_int_equal(repo_reader_open(&first, &fix.opts), 0);
	opts.cred = NULL;
	assert_int_equal(repo_reader_open(&second, &opts), ERR_KEY);
	opts.unlocked = first;
	assert_int_equal(repo_reader_open(&second, &opts), 0);
	repo_reader_close(second);
	store_fixture_make(&other);
	other.opts.unlocked = first;
	assert_int_equal(repo_reader_open(&second, &other.opts), ERR_KEY);
	repo_reader_close(first);
	store_fixture_remove(&other);
}

static void
test_spans_join(void **state)
{
	const size_t len = (size_t)CONTENT_SPAN_BYTES * 2 + 777777;
	struct content_part *parts[3];
	struct content whole, joined;
	struct repo_writer *w = open_writer();
	uint8_t *data = malloc(len);
	struct lane *lane;

	(void)state;
	memset(data, 0, len);
	fixture_text(data + 5000000, 3000000, 3);
	fixture_noise(data + CONTENT_SPAN_BYTES - 100, 200, 4);
	fixture_text(data + len - 500000, 500000, 5);
	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_PAGES, NULL, data, len, &whole);
	for (size_t i = 0; i < 3; i++) {
		size_t off = i * (size_t)CONTENT_SPAN_BYTES;
		size_t n = len - off < CONTENT_SPAN_BYTES ? len - off : (size_t)CONTENT_SPAN_BYTES;
		struct content_writer *cw;

		assert_int_equal(content_writer_new_span(&cw, lane, i, NULL), 0);
		assert_int_equal(content_writer_append(cw, data + off, n), 0);
		assert_int_equal(content_writer_finish_span(cw, &parts[i]), 0);
		content_writer_free(cw);
	}
	assert_int_equal(content_join(lane, parts, 3, NULL, &joined), 0);
	commit(w, "snapshots/a/f");
	assert_int_equal(joined.size, whole.size);
	assert_int_equal(joined.crc32c, whole.crc32c);
	assert_int_equal(joined.nrefs, whole.nrefs);
	for (uint32_t i = 0; i < whole.nrefs; i++)
		assert_memory_equal(joined.inner[i].id.b, whole.inner[i].id.b, CHUNK_ID_LEN);
	check_reads(repo_writer_reader(w), &joined, data, len);
	content_release(&whole);
	content_release(&joined);
	lane_free(lane);
	repo_writer_close(w);
	free(data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_delta_and_unchanged),
		cmocka_unit_test(test_fresh_index_reads_all),
		cmocka_unit_test(test_unlocked),
		cmocka_unit_test(test_spans_join),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
