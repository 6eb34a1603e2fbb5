/*
 * Files fed as a stream and stored by several workers, through a real repository.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/backup_job.h"
#include "pgsync/filefeed.h"
#include "pgsync/pgpage.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAIN_FORK "base/5/16384"

static struct store_fixture fix;
static uint8_t *sample; /* 4 MiB */
#define SAMPLE (4u << 20)

static int
setup(void **state)
{
	(void)state;
	store_fixture_make(&fix);
	sample = malloc(SAMPLE);
	assert_non_null(sample);
	fixture_text(sample, SAMPLE, 3);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(sample);
	store_fixture_remove(&fix);
	return 0;
}

/* A running backup, as far as a feed needs one. */
struct run {
	struct repo_writer *w;
	struct pg_backup_opts opts;
	struct pg_part pg;
	struct backup_job job;
	struct filefeed *ff;
};

static void
run_open(struct run *r, int threads)
{
	static const struct repo_writer_opts wopts;

	memset(r, 0, sizeof(*r));
	assert_int_equal(repo_writer_open(&r->w, &fix.opts, &wopts), 0);
	assert_int_equal(backup_job_init(&r->job), 0);
	r->job.w = r->w;
	r->job.opts = &r->opts;
	r->job.pg = &r->pg;
	r->job.threads = threads;
	r->pg.data_checksums = true;
}

static int
run_start(struct run *r, size_t window)
{
	const struct filefeed_opts opts = {
		.start_lsn = 1000, .window = window, .uid = 26, .gid = 27
	};
	int rc = tree_builder_new(&r->job.tree);

	return rc ? rc : filefeed_new(&r->ff, &r->job, &opts);
}

static void
run_begin(struct run *r, int threads, size_t window)
{
	run_open(r, threads);
	assert_int_equal(run_start(r, window), 0);
}

static void
run_end(struct run *r)
{
	filefeed_free(r->ff);
	tree_builder_free(r->job.tree);
	backup_job_release(&r->job);
	repo_writer_close(r->w);
}

/* One file of `size` bytes: the sample over and over, in pieces of `piece` bytes. */
static int
feed(struct run *r, const char *path, uint64_t size, size_t piece)
{
	const struct filefeed_file file = {
		.path = path, .size = size, .mode = 0640, .mtime_s = 5
	};
	int rc = filefeed_begin(r->ff, &file);

	for (uint64_t off = 0; rc == 0 && off < size;) {
		size_t at = (size_t)(off % SAMPLE), n = SAMPLE - at;

		n = n < piece ? n : piece;
		n = n < size - off ? n : (size_t)(size - off);
		rc = filefeed_data(r->ff, sample + at, n);
		off += n;
	}
	return rc ? rc : filefeed_end(r->ff);
}

static uint32_t
crc_of(uint64_t size)
{
	uint32_t whole = crc32c(0, sample, SAMPLE), crc = 0;

	for (; size >= SAMPLE; size -= SAMPLE)
		crc = crc32c_combine(crc, whole, SAMPLE);
	return crc32c_combine(crc, crc32c(0, sample, (size_t)size), size);
}

struct found {
	size_t n;
	bool pages;
	uint64_t size;
	uint32_t crc;
	const char *path;
};

static int
find(void *ctx, const char *path, const struct tree_entry *e)
{
	struct found *f = ctx;

	if (e->type != TREE_FILE)
		return 0;
	assert_int_equal(e->uid, 26);
	assert_int_equal(e->gid, 27);
	assert_int_equal(e->mode, 0640);
	assert_int_equal(e->mtime_s, 5);
	f->n++;
	if (strcmp(path, f->path) == 0) {
		f->pages = e->content.chunking == CHUNKING_PAGES;
		f->size = e->content.size;
		f->crc = e->content.crc32c;
	}
	return 0;
}

static void
assert_stored(struct run *r, const char *path, uint64_t size, bool pages, size_t nfiles)
{
	struct found f = { .path = path };

	assert_int_equal(tree_builder_each(r->job.tree, find, &f), 0);
	assert_int_equal(f.n, nfiles);
	assert_true(f.size == size);
	assert_int_equal(f.crc, crc_of(size));
	assert_int_equal(f.pages, pages);
}

static void
test_files_of_all_sizes(void **state)
{
	static const struct {
		const char *path;
		uint64_t size;
		bool pages;
	} files[] = {
		{ "PG_VERSION", 3, false },
		{ "base/5/1", 0, true },
		{ "base/5/1_vm", 8192, false },
		{ "empty", 0, false },
		{ "base/5/2", 8192, true },
		{ "base/5/3", 8192 * 9, true },
		{ "pg_xact/0000", 5u << 20, false },
		{ "global/1262", (3u << 20) + 8192, true },
		{ MAIN_FORK, (150u << 20) + 16384, true },
		{ "base/5/16384.1", (128u << 20), true },
		{ "last", 100, false },
	};
	const size_t n = sizeof(files) / sizeof(files[0]);
	static const struct {
		int threads;
		size_t window, piece;
	} ways[] = { { 1, 1u << 20, 100000 }, { 3, 96u << 20, 1u << 20 }, { 4, 2u << 20, 65536 } };

	(void)state;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct run r;
		uint64_t sum = 0;

		run_begin(&r, ways[i].threads, ways[i].window);
		for (size_t k = 0; k < n; k++) {
			assert_int_equal(feed(&r, files[k].path, files[k].size, ways[i].piece), 0);
			sum += files[k].size;
		}
		assert_int_equal(filefeed_finish(r.ff), 0);
		for (size_t k = 0; k < n; k++)
			assert_stored(&r, files[k].path, files[k].size, files[k].pages, n);
		assert_int_equal(atomic_load(&r.job.files), n);
		assert_true(atomic_load(&r.job.logical_bytes) == sum);
		run_end(&r);
	}
}

static void
test_pages_that_look_bad_are_suspects(void **state)
{
	const struct filefeed_file file = {
		.path = "base/5/16384.2", .size = 4 * 8192, .mode = 0600
	};
	const struct filefeed_suspect *list;
	uint8_t *pages = calloc(4, PGPAGE_BYTES);
	uint32_t block = 2 * PGPAGE_SEGMENT_BLOCKS + 2;
	struct run r;

	(void)state;
	assert_non_null(pages);
	/* Block 0 is all zero, 1 changed since the start, 2 is bad, 3 is good. */
	for (uint32_t i = 1; i < 4; i++) {
		uint8_t *p = pages + i * PGPAGE_BYTES;

		le32_store(p + 4, i == 1 ? 2000 : 500); /* the low half of the page's LSN */
		le16_store(p + 12, 24);
		le16_store(p + 14, 8192);
		le16_store(p + 16, 8192);
		le16_store(p + 18, 8192 | 4);
	}
	le16_store(
	    pages + 3 * PGPAGE_BYTES + 8, pgpage_checksum(pages + 3 * PGPAGE_BYTES, block + 1));
	le16_store(pages + 2 * PGPAGE_BYTES + 8,
	    (uint16_t)(pgpage_checksum(pages + 2 * PGPAGE_BYTES, block) ^ 1));
	run_begin(&r, 2, 1u << 20);
	assert_int_equal(filefeed_begin(r.ff, &file), 0);
	assert_int_equal(filefeed_data(r.ff, pages, 4 * PGPAGE_BYTES), 0);
	assert_int_equal(filefeed_end(r.ff), 0);
	assert_int_equal(filefeed_finish(r.ff), 0);
	assert_int_equal(filefeed_suspects(r.ff, &list), 1);
	assert_string_equal(list[0].path, "base/5/16384.2");
	assert_int_equal(list[0].block, block);
	assert_int_equal(list[0].off, 2 * PGPAGE_BYTES);
	assert_int_equal(list[0].computed_checksum, list[0].stored_checksum ^ 1);
	assert_int_equal(atomic_load(&r.job.pages_checked), 4);
	run_end(&r);
	free(pages);
}

static void
test_given_up_in_the_middle(void **state)
{
	const struct filefeed_file file = { .path = MAIN_FORK, .size = 200u << 20, .mode = 0600 };
	static const size_t fed[] = { 0, 1, 1u << 20, 3u << 20 };
	struct run r;

	(void)state;
	for (size_t i = 0; i < sizeof(fed) / sizeof(fed[0]); i++) {
		run_begin(&r, 3, 4u << 20);
		assert_int_equal(feed(&r, "base/5/1", 100000, 5000), 0);
		assert_int_equal(filefeed_begin(r.ff, &file), 0);
		if (fed[i])
			assert_int_equal(filefeed_data(r.ff, sample, fed[i]), 0);
		run_end(&r);
	}
}

/* A small backup with the Nth call failing from its start to its commit; *happened tells. */
static int
small_run(uint64_t nth, bool *happened)
{
	static int number;
	char name[32];
	struct run r;
	int rc;

	run_open(&r, 2);
	snprintf(name, sizeof(name), "snapshots/t/%d", number++);
	sys_fault_arm(nth, ENOMEM);
	rc = run_start(&r, 1u << 20);
	if (rc == 0)
		rc = feed(&r, "base/5/1", 3u << 20, 300000);
	if (rc == 0)
		rc = feed(&r, "postgresql.conf", 3000, 300000);
	if (rc == 0)
		rc = filefeed_finish(r.ff);
	if (rc == 0)
		assert_stored(&r, "base/5/1", 3u << 20, true, 2);
	/* What fails behind the lanes is told by the commit at the latest. */
	if (rc == 0)
		rc = repo_writer_commit(r.w, name, "record", 6);
	*happened = sys_fault_happened();
	sys_fault_arm(0, 0);
	run_end(&r);
	return rc;
}

static void
test_every_call_fails(void **state)
{
	uint64_t n = 0, failures = 0;
	bool happened;

	(void)state;
	do {
		int rc = small_run(++n, &happened);

		/* The store gets over a few faults by itself; then everything must be there. */
		assert_true(rc == 0 || happened);
		failures += rc != 0;
	} while (happened && n < 5000);
	assert_true(n < 5000);
	assert_true(failures > n / 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_files_of_all_sizes),
		cmocka_unit_test(test_pages_that_look_bad_are_suspects),
		cmocka_unit_test(test_given_up_in_the_middle),
		cmocka_unit_test(test_every_call_fails),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
