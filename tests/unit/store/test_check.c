/*
 * check against a damaged repository: every damage is found and named with the files it touches,
 * and reading fails on exactly these bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/check.h"
#include "store/index.h"
#include "store/snapshot.h"
#include "tests/support/store_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEN  (1u << 20)
#define PAGE CHUNK_PAGE_BYTES

static struct store_fixture fix;
static uint8_t *noise;
static struct content big; /* of the file base/1 */
static struct tree_entry root;

static void
add_file(struct tree_builder *tb, const char *path, const struct content *c)
{
	struct tree_entry e = { .type = TREE_FILE, .mode = 0600 };

	assert_int_equal(content_copy(&e.content, c), 0);
	assert_int_equal(tree_builder_add(tb, path, &e), 0);
}

/* One snapshot of base/1 (16 chunks and a map node) and small (one chunk). */
static void
write_snapshot(void)
{
	static const struct repo_writer_opts wopts;
	struct snapshot s = { .source_id = { 5 }, .started_us = 1, .finished_us = 2, .nparts = 1 };
	struct snapshot_part part = { .kind = PART_PG };
	struct tree_builder *tb;
	struct repo_writer *w;
	struct content small;
	struct lane *lane;

	assert_int_equal(repo_writer_open(&w, &fix.opts, &wopts), 0);
	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_PAGES, NULL, noise, LEN, &big);
	fixture_content(lane, CHUNKING_CDC, NULL, noise + LEN, 5000, &small);
	assert_int_equal(tree_builder_new(&tb), 0);
	add_file(tb, "base/1", &big);
	add_file(tb, "small", &small);
	assert_int_equal(tree_builder_finish(tb, lane, NULL, &root), 0);
	tree_builder_free(tb);
	content_release(&small);
	assert_int_equal(tree_entry_copy(&part.root, &root), 0);
	part.name = strdup("");
	part.pg = (struct pg_part){ .system_identifier = 1,
		.server_version = 150018,
		.timeline = 1,
		.start_lsn = 1,
		.stop_lsn = 2,
		.checkpoint_lsn = 1,
		.wal_segment_bytes = 16u << 20,
		.method = PG_METHOD_LOCAL };
	s.source_name = "main";
	s.name = "2026-11-20T02:00:00Z";
	s.host = s.pastfs_version = s.label = "x";
	s.parts = &part;
	snapshot_make_id(&s);
	if (snapshot_commit(w, &s))
		fail_msg("snapshot_commit: %s", err_msg());
	tree_entry_release(&part.root);
	free(part.name);
	lane_free(lane);
	repo_writer_close(w);
}

static int
setup(void **state)
{
	(void)state;
	store_fixture_make(&fix);
	noise = malloc(LEN + 5000);
	fixture_noise(noise, LEN + 5000, 3);
	write_snapshot();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	content_release(&big);
	tree_entry_release(&root);
	free(noise);
	store_fixture_remove(&fix);
	return 0;
}

/* ---- damaging ---- */

/* Where chunk `id` lies, with its pack's file. */
static struct index_place
place_of(const struct chunk_id *id, char path[400])
{
	char hex[2 * PACK_ID_LEN + 1];
	struct index_place place;
	struct repo_reader *r;

	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	assert_int_equal(index_find(repo_reader_index(r), id, &place), 0);
	repo_reader_close(r);
	hex_encode(hex, place.pack_id, PACK_ID_LEN);
	snprintf(path, 400, "%s/packs/%.2s/%s", fix.url, hex, hex);
	assert_int_equal(chmod(path, 0600), 0);
	return place;
}

static void
flip(const char *path, off_t off)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	assert_true(fd != -1);
	assert_int_equal(pread(fd, &byte, 1, off), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, off), 1);
	close(fd);
}

/* The ids of the sixteen chunks of base/1. */
static struct chunk_id chunk_ids[LEN / PAGE];

static int
keep_id(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	(void)ctx;
	chunk_ids[off / PAGE] = ref->id;
	return 0;
}

static void
find_chunks(void)
{
	struct content_visitor v = { .chunk = keep_id };
	struct repo_reader *r;

	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	assert_int_equal(content_each(r, &big, &v), 0);
	repo_reader_close(r);
}

/* ---- looking ---- */

struct found {
	unsigned objects, packs, chunks, files;
	char object[200], chunk[70];
	char path[8][60];
	uint64_t off[8], len[8];
	char snapshot[60], source[60];
};

static void
note(void *ctx, const struct check_finding *f)
{
	struct found *s = ctx;

	assert_non_null(f->message);
	switch (f->what) {
	case CHECK_OBJECT:
		s->objects++;
		snprintf(s->object, sizeof(s->object), "%s", f->object);
		break;
	case CHECK_PACK:
		s->packs++;
		snprintf(s->object, sizeof(s->object), "%s", f->object);
		break;
	case CHECK_CHUNK:
		s->chunks++;
		snprintf(s->chunk, sizeof(s->chunk), "%s", f->chunk);
		break;
	case CHECK_FILE:
		if (s->files < 8) {
			snprintf(s->path[s->files], sizeof(s->path[0]), "%s", f->path);
			s->off[s->files] = f->off;
			s->len[s->files] = f->len;
		}
		s->files++;
		snprintf(s->snapshot, sizeof(s->snapshot), "%s", f->snapshot);
		snprintf(s->source, sizeof(s->source), "%s", f->source);
	}
}

static struct found
run(bool read_data, int want, struct check_totals *t)
{
	struct found s = { 0 };
	struct check_opts opts = { .read_data = read_data, .threads = 2, .found = note, .ctx = &s };
	struct check_totals totals;
	struct repo_reader *r;
	int rc;

	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	rc = check_run(r, &opts, &totals);
	if (rc != want)
		fail_msg("check: %d, not %d: %s", rc, want, rc < 0 ? err_msg() : "");
	assert_int_equal(totals.findings, s.objects + s.packs + s.chunks + s.files);
	repo_reader_close(r);
	if (s.files) {
		assert_string_equal(s.snapshot, "2026-11-20T02:00:00Z");
		assert_string_equal(s.source, "main");
	}
	if (t)
		*t = totals;
	return s;
}

/* Chunk n of base/1 is readable exactly where `bad` has no bit for it. */
static void
check_reads(uint32_t bad)
{
	struct repo_reader *r;
	uint8_t buf[8192];
	size_t got;

	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	for (uint64_t off = 0; off < LEN; off += sizeof(buf)) {
		int rc = content_pread(r, &big, buf, sizeof(buf), off, &got);

		if (bad >> off / PAGE & 1) {
			assert_int_equal(rc, ERR_DAMAGED);
			assert_non_null(strstr(err_msg(), "pastfs"));
		} else {
			assert_int_equal(rc, 0);
			assert_int_equal(got, sizeof(buf));
			assert_memory_equal(buf, noise + off, sizeof(buf));
		}
	}
	repo_reader_close(r);
}

static void
test_clean(void **state)
{
	struct check_totals t;
	struct found s;

	(void)state;
	s = run(false, 0, &t);
	assert_int_equal(t.snapshots, 1);
	assert_int_equal(t.files, 4);
	assert_int_equal(t.packs, 2);
	/* Contents, the map node, two directories. */
	assert_int_equal(t.chunks, LEN / PAGE + 1 + 1 + 2);
	assert_int_equal(t.bytes_read, 0);
	s = run(true, 0, &t);
	assert_true(t.bytes_read > LEN);
	assert_int_equal(s.files, 0);
	check_reads(0);
}

static void
test_data_chunk(void **state)
{
	struct index_place place;
	struct check_totals t;
	char path[400], hex[70];
	struct found s;

	(void)state;
	find_chunks();
	place = place_of(&chunk_ids[5], path);
	flip(path, place.off + 1000);
	place = place_of(&chunk_ids[6], path);
	flip(path, place.off + place.sealed_len - 1);
	place = place_of(&chunk_ids[9], path);
	flip(path, place.off);
	/* The structure is whole, so only reading finds it. */
	run(false, 0, NULL);
	s = run(true, 1, &t);
	hex_encode(hex, chunk_ids[9].b, CHUNK_ID_LEN);
	assert_int_equal(s.packs, 1); /* its checksum */
	assert_int_equal(s.chunks, 3);
	assert_int_equal(t.damaged_chunks, 3);
	assert_int_equal(t.damaged_files, 1);
	assert_int_equal(s.files, 2);
	assert_string_equal(s.path[0], "base/1");
	assert_int_equal(s.off[0], 5 * PAGE);
	assert_int_equal(s.len[0], 2 * PAGE);
	assert_int_equal(s.off[1], 9 * PAGE);
	assert_int_equal(s.len[1], PAGE);
	check_reads(1u << 5 | 1u << 6 | 1u << 9);
}

static void
test_metadata_chunks(void **state)
{
	struct index_place place;
	char path[400];
	struct found s;

	(void)state;
	/* The map node: the whole file. */
	place = place_of(&big.inner[0].id, path);
	flip(path, place.off + 20);
	s = run(true, 1, NULL);
	assert_int_equal(s.files, 1);
	assert_string_equal(s.path[0], "base/1");
	assert_int_equal(s.off[0], 0);
	assert_int_equal(s.len[0], LEN);
	check_reads(0xffff);
	flip(path, place.off + 20);
	run(true, 0, NULL);
	/* The root directory: nothing can be found any more. */
	place = place_of(&root.content.leaf[0].id, path);
	flip(path, place.off + 20);
	s = run(true, 1, NULL);
	assert_int_equal(s.chunks, 1);
	assert_int_equal(s.files, 1);
	assert_string_equal(s.path[0], "");
	/* A walk meets it even without reading the data. */
	s = run(false, 1, NULL);
	assert_int_equal(s.files, 1);
}

/* Table, trailer, header: the pack is named, and what the index still knows is read. */
static void
test_pack_envelope(void **state)
{
	off_t offs[3];
	struct stat st;
	char path[400];

	(void)state;
	find_chunks();
	place_of(&chunk_ids[0], path);
	assert_int_equal(stat(path, &st), 0);
	offs[0] = st.st_size - PACK_TRAILER_LEN - 30;
	offs[1] = st.st_size - 20;
	offs[2] = 60;
	for (int i = 0; i < 3; i++) {
		struct found s;

		flip(path, offs[i]);
		s = run(false, 1, NULL);
		assert_int_equal(s.packs, 1);
		assert_non_null(strstr(s.object, "packs/"));
		s = run(true, 1, NULL);
		assert_int_equal(s.packs, 1);
		assert_int_equal(s.files, 0);
		check_reads(0);
		flip(path, offs[i]);
	}
	run(true, 0, NULL);
	/* A chunk damaged besides is not overlooked for the table's sake. */
	flip(path, offs[0]);
	flip(path, place_of(&chunk_ids[2], path).off);
	assert_int_equal(run(true, 1, NULL).files, 1);
}

static void
test_truncated_pack(void **state)
{
	struct index_place place;
	uint32_t bad = 0;
	char path[400];
	struct found s;

	(void)state;
	find_chunks();
	place = place_of(&chunk_ids[8], path);
	assert_int_equal(truncate(path, place.off + 5), 0);
	for (unsigned i = 0; i < LEN / PAGE; i++)
		bad |= (uint32_t)(place_of(&chunk_ids[i], path).off >= place.off) << i;
	assert_int_equal(bad, 0xff00);
	s = run(false, 1, NULL);
	assert_true(s.packs >= 1);
	assert_int_equal(s.files, 2);
	assert_string_equal(s.path[0], "base/1");
	assert_int_equal(s.off[0], 8 * PAGE);
	assert_int_equal(s.len[0], LEN - 8 * PAGE);
	assert_string_equal(s.path[1], "small");
	assert_int_equal(s.len[1], 5000);
	check_reads(bad);
}

static void
test_missing_pack(void **state)
{
	char path[400];
	struct found s;

	(void)state;
	find_chunks();
	place_of(&chunk_ids[0], path);
	assert_int_equal(unlink(path), 0);
	s = run(false, 1, NULL);
	assert_int_equal(s.packs, 1);
	assert_int_equal(s.files, 2);
	assert_int_equal(s.off[0], 0);
	assert_int_equal(s.len[0], LEN);
	assert_string_equal(s.path[1], "small");
	check_reads(0xffff);
}

static int
keep_name(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	strcpy(ctx, name);
	return 0;
}

static void
test_sealed_objects(void **state)
{
	static const char *const prefixes[] = { "index/", "snapshots/" };
	struct backend *b;

	(void)state;
	assert_int_equal(backend_open(&b, fix.url, false), 0);
	for (int i = 0; i < 2; i++) {
		char name[BACKEND_NAME_MAX], path[700];
		struct found s;

		assert_int_equal(backend_list(b, prefixes[i], keep_name, name), 0);
		snprintf(path, sizeof(path), "%s/%s", fix.url, name);
		assert_int_equal(chmod(path, 0600), 0);
		flip(path, 130);
		s = run(false, 1, NULL);
		assert_int_equal(s.objects, 1);
		assert_string_equal(s.object, name);
		flip(path, 130);
	}
	run(true, 0, NULL);
	backend_close(b);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_clean),
		T(test_data_chunk),
		T(test_metadata_chunks),
		T(test_pack_envelope),
		T(test_truncated_pack),
		T(test_missing_pack),
		T(test_sealed_objects),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
