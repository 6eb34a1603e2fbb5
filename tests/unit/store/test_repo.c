/*
 * The repository as a whole: making and opening one, key slots, and what a crash, a lost pack or a
 * lost index object leave behind.
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
#include "store/index.h"
#include "tests/support/store_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEN (3u << 20)

static struct store_fixture fix;
static uint8_t *data;

static int
setup(void **state)
{
	(void)state;
	store_fixture_make(&fix);
	data = malloc(LEN);
	fixture_noise(data, LEN, 11);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(data);
	store_fixture_remove(&fix);
	return 0;
}

/* As another machine sees the repository: with a cache of its own, empty at first. */
static struct repo_opts
other_machine(const char *name, char cache[300])
{
	struct repo_opts o = fix.opts;

	snprintf(cache, 300, "%s/cache-%s", fix.dir, name);
	o.cache_dir = cache;
	return o;
}

static struct repo_writer *
open_writer(const struct repo_opts *opts)
{
	/* Small packs, so that most are stored long before the commit. */
	static const struct repo_writer_opts wopts = { .pack_bytes = 512u << 10 };
	struct repo_writer *w;
	int rc = repo_writer_open(&w, opts, &wopts);

	if (rc)
		fail_msg("repo_writer_open: %d: %s", rc, err_msg());
	return w;
}

static void
write_content(struct repo_writer *w, struct content *c)
{
	struct lane *lane;

	assert_int_equal(lane_new(&lane, w), 0);
	fixture_content(lane, CHUNKING_PAGES, NULL, data, LEN, c);
	lane_free(lane);
}

static void
commit(struct repo_writer *w, const char *name)
{
	int rc = repo_writer_commit(w, name, "record", 6);

	if (rc)
		fail_msg("commit: %d: %s", rc, err_msg());
}

static int
reads(const struct repo_opts *opts, const struct content *c)
{
	struct repo_reader *r;
	uint8_t *buf = malloc(LEN);
	size_t got = 0;
	int rc = repo_reader_open(&r, opts);

	if (rc == 0) {
		rc = content_pread(r, c, buf, LEN, 0, &got);
		if (rc == 0 && got < LEN)
			rc = ERR_DAMAGED;
		if (rc == 0)
			assert_memory_equal(buf, data, LEN);
		repo_reader_close(r);
	}
	free(buf);
	return rc;
}

static int
keep_name(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	strcpy(ctx, name);
	return 0;
}

static int
count_name(void *ctx, const char *name, const struct object_info *info)
{
	(void)name;
	(void)info;
	(*(int *)ctx)++;
	return 0;
}

static struct backend *
place(void)
{
	struct backend *b;

	assert_int_equal(backend_open(&b, fix.url, false), 0);
	return b;
}

static int
count(const char *prefix)
{
	struct backend *b = place();
	int n = 0;

	assert_int_equal(backend_list(b, prefix, count_name, &n), 0);
	backend_close(b);
	return n;
}

/* Delete one object below `prefix`. */
static void
lose_one(const char *prefix)
{
	char name[BACKEND_NAME_MAX] = "";
	struct backend *b = place();

	assert_int_equal(backend_list(b, prefix, keep_name, name), 0);
	assert_true(name[0] != '\0');
	assert_int_equal(backend_delete(b, name), 0);
	backend_close(b);
}

/* Change byte `off` of the file `path` below the repository. */
static void
flip(const char *path, off_t off)
{
	char whole[700];
	uint8_t byte;
	int fd;

	snprintf(whole, sizeof(whole), "%s/%s", fix.url, path);
	assert_int_equal(chmod(whole, 0600), 0);
	fd = open(whole, O_RDWR);
	assert_true(fd != -1);
	assert_int_equal(pread(fd, &byte, 1, off), 1);
	byte ^= 0x20;
	assert_int_equal(pwrite(fd, &byte, 1, off), 1);
	close(fd);
}

/* ---- making and opening ---- */

static void
test_init_refuses(void **state)
{
	const struct repo_init_opts init = { .cost = { 1, 8192 } };
	struct repo_opts opts = fix.opts;
	char url[300], file[320];
	int fd;

	(void)state;
	assert_int_equal(repo_init(&fix.opts, &init), ERR_EXISTS);
	assert_int_equal(count("keys/"), 1);
	snprintf(url, sizeof(url), "%s/full", fix.dir);
	opts.url = url;
	assert_int_equal(mkdir(url, 0700), 0);
	snprintf(file, sizeof(file), "%s/notes", url);
	fd = open(file, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(repo_init(&opts, &init), ERR_EXISTS);
	assert_int_equal(access(file, F_OK), 0);
	unlink(file);
	assert_int_equal(repo_init(&opts, &init), 0);
	opts.cred = NULL;
	assert_int_equal(repo_init(&opts, &init), ERR_KEY);
}

static void
test_wrong_key(void **state)
{
	struct credential wrong = { KEYSLOT_PASSPHRASE, "no such horse", 13 };
	struct repo_opts opts = fix.opts;
	struct repo_reader *r;
	uint8_t keyfile[64] = { 1, 2, 3 };

	(void)state;
	opts.cred = &wrong;
	assert_int_equal(repo_reader_open(&r, &opts), ERR_KEY);
	assert_null(r);
	assert_non_null(strstr(err_msg(), "1 key slot"));
	assert_non_null(strstr(err_msg(), "\"test\""));
	wrong = (struct credential){ KEYSLOT_KEYFILE, keyfile, sizeof(keyfile) };
	assert_int_equal(repo_reader_open(&r, &opts), ERR_KEY);
	assert_non_null(strstr(err_msg(), "none of its 1"));
	opts.cred = NULL;
	assert_int_equal(repo_reader_open(&r, &opts), ERR_KEY);
	opts = fix.opts;
	opts.url = fix.dir;
	assert_int_equal(repo_reader_open(&r, &opts), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "pastfs init"));
}

static void
test_header(void **state)
{
	struct repo_reader *r;
	char path[300];
	uint8_t head[REPO_HEADER_LEN];
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/pastfs", fix.url);
	chmod(path, 0600);
	fd = open(path, O_RDWR);
	assert_int_equal(read(fd, head, sizeof(head)), sizeof(head));
	/* A sound header of the next format. */
	le32_store(head + 8, REPO_FORMAT_VERSION + 1);
	le32_store(head + 124, crc32c(0, head, 124));
	assert_int_equal(pwrite(fd, head, sizeof(head), 0), sizeof(head));
	assert_int_equal(repo_reader_open(&r, &fix.opts), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "upgrade"));
	/* One that somebody changed without the key. */
	le32_store(head + 8, REPO_FORMAT_VERSION);
	head[68] ^= 1;
	le32_store(head + 124, crc32c(0, head, 124));
	assert_int_equal(pwrite(fd, head, sizeof(head), 0), sizeof(head));
	assert_int_equal(repo_reader_open(&r, &fix.opts), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "authentication"));
	close(fd);
}

static int
count_slot(void *ctx, const struct keyslot_info *slot)
{
	(void)slot;
	(*(int *)ctx)++;
	return 0;
}

static void
test_key_slots(void **state)
{
	const struct keyslot_cost cost = { 1, 8192 };
	struct credential second = { KEYSLOT_KEYFILE, data, 64 };
	struct repo_opts opts = fix.opts;
	uint8_t first[KEYSLOT_ID_LEN], none[KEYSLOT_ID_LEN] = { 0 };
	struct keyslot_info added;
	char hex[40], path[100];
	struct repo_admin *a;
	struct repo_reader *r;
	int n = 0;

	(void)state;
	assert_int_equal(repo_admin_open(&a, &fix.opts), 0);
	memcpy(first, repo_admin_slot(a), KEYSLOT_ID_LEN);
	assert_int_equal(repo_admin_key_remove(a, first), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "last one"));
	assert_int_equal(repo_admin_key_remove(a, none), ERR_NOTFOUND);
	assert_int_equal(repo_admin_key_add(a, "file", &second, &cost, &added), 0);
	assert_int_equal(repo_keyslots(fix.url, count_slot, &n), 0);
	assert_int_equal(n, 2);
	opts.cred = &second;
	assert_int_equal(repo_reader_open(&r, &opts), 0);
	repo_reader_close(r);

	/* A damaged slot counts for nothing when the last good one is to go. */
	for (size_t i = 0; i < KEYSLOT_ID_LEN; i++)
		snprintf(hex + 2 * i, 3, "%02x", added.id[i]);
	snprintf(path, sizeof(path), "keys/%s", hex);
	flip(path, 100);
	assert_int_equal(repo_admin_key_remove(a, first), ERR_USAGE);
	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	repo_reader_close(r);
	flip(path, 100);

	assert_int_equal(repo_admin_key_remove(a, first), 0);
	repo_admin_close(a);
	assert_int_equal(repo_reader_open(&r, &fix.opts), ERR_KEY);
	assert_int_equal(repo_reader_open(&r, &opts), 0);
	repo_reader_close(r);
}

/* ---- sessions ---- */

static void
test_abort_shows_nothing(void **state)
{
	struct content c;
	struct repo_writer *w;
	struct writer_totals t;
	uint8_t record[4];
	struct chunk_ref ref;
	struct lane *lane;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	repo_writer_totals(w, &t);
	assert_true(t.packs > 0);
	repo_writer_abort(w);
	assert_int_equal(repo_writer_commit(w, "snapshots/a/x", "record", 6), ERR_CANCELLED);
	assert_int_equal(lane_new(&lane, w), 0);
	memset(record, 1, sizeof(record));
	assert_int_equal(
	    lane_put(lane, PACK_DATA, record, sizeof(record), NULL, &ref), ERR_CANCELLED);
	lane_free(lane);
	repo_writer_close(w);
	assert_int_equal(count("snapshots/"), 0);
	assert_int_equal(count("index/"), 0);
	content_release(&c);
}

static void
test_same_snapshot_twice(void **state)
{
	struct repo_writer *w = open_writer(&fix.opts);

	(void)state;
	commit(w, "snapshots/a/x");
	assert_int_equal(repo_writer_commit(w, "snapshots/a/x", "record", 6), ERR_EXISTS);
	/* It is dead now. */
	assert_int_equal(repo_writer_commit(w, "snapshots/a/y", "record", 6), ERR_EXISTS);
	repo_writer_close(w);
	assert_int_equal(count("snapshots/"), 1);
}

/* A session dies with packs stored and nothing listed; the next one makes use of them. */
static void
test_crash_leaves_orphans(void **state)
{
	struct repo_opts second, fresh;
	struct writer_totals first, t;
	char cache1[300], cache2[300];
	struct repo_writer *w;
	struct content c;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	repo_writer_totals(w, &first);
	assert_true(first.packs >= 3);
	repo_writer_close(w);
	content_release(&c);
	assert_int_equal(count("packs/"), (int)first.packs);

	second = other_machine("second", cache1);
	w = open_writer(&second);
	write_content(w, &c);
	repo_writer_totals(w, &t);
	assert_true(t.known_bytes > LEN / 2);
	assert_true(t.new_bytes < LEN / 2);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);

	fresh = other_machine("fresh", cache2);
	assert_int_equal(reads(&fresh, &c), 0);
	assert_int_equal(reads(&second, &c), 0);
	assert_int_equal(reads(&fix.opts, &c), 0);
	content_release(&c);
}

/* An orphan that is lost under a session fails its commit, once. */
static void
test_orphan_is_lost(void **state)
{
	struct repo_writer *w;
	struct content c;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	repo_writer_close(w);
	content_release(&c);
	w = open_writer(&fix.opts);
	write_content(w, &c);
	lose_one("packs/");
	assert_int_equal(repo_writer_commit(w, "snapshots/a/x", "record", 6), ERR_NOTFOUND);
	assert_int_equal(count("snapshots/"), 0);
	repo_writer_close(w);
	content_release(&c);
	w = open_writer(&fix.opts);
	write_content(w, &c);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);
	assert_int_equal(reads(&fix.opts, &c), 0);
	content_release(&c);
}

static void
test_lost_pack_heals(void **state)
{
	struct repo_opts other, fresh;
	struct writer_totals t;
	char cache1[300], cache2[300];
	struct repo_writer *w;
	struct content c, again;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);
	lose_one("packs/");
	assert_int_equal(reads(&fix.opts, &c), ERR_DAMAGED);

	/* Another machine heals it by a backup of the same; it sees what is missing by itself. */
	other = other_machine("other", cache1);
	w = open_writer(&other);
	write_content(w, &again);
	repo_writer_totals(w, &t);
	assert_true(t.new_bytes > 0 && t.new_bytes < LEN);
	commit(w, "snapshots/a/y");
	repo_writer_close(w);
	assert_int_equal(reads(&other, &c), 0);

	/* The first machine's index knew the lost place; its next session knows the new one. */
	w = open_writer(&fix.opts);
	repo_writer_close(w);
	assert_int_equal(reads(&fix.opts, &c), 0);

	/* A machine that never saw it, with the list of the lost pack still there. */
	fresh = other_machine("fresh", cache2);
	w = open_writer(&fresh);
	repo_writer_close(w);
	assert_int_equal(reads(&fresh, &c), 0);
	content_release(&c);
	content_release(&again);
}

static void
test_lost_index_object(void **state)
{
	struct repo_opts a, b;
	char cache1[300], cache2[300];
	struct repo_writer *w;
	struct repo_reader *r;
	struct content c;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);
	lose_one("index/");
	assert_int_equal(reads(&fix.opts, &c), 0);
	a = other_machine("a", cache1);
	assert_int_equal(reads(&a, &c), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "index rebuild"));
	assert_int_equal(repo_reader_open(&r, &a), 0);
	assert_int_equal(repo_reader_rebuild_index(r, NULL), 0);
	repo_reader_close(r);
	assert_int_equal(reads(&a, &c), 0);

	/* The next commit lists the packs anew, even from the machine that had loaded the list. */
	w = open_writer(&fix.opts);
	commit(w, "snapshots/a/y");
	repo_writer_close(w);
	b = other_machine("b", cache2);
	assert_int_equal(reads(&b, &c), 0);
	content_release(&c);
}

static void
test_damaged_index_object(void **state)
{
	char cache1[300], name[BACKEND_NAME_MAX] = "";
	struct backend *b = place();
	struct repo_writer *w;
	struct repo_opts a;
	struct content c;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);
	assert_int_equal(backend_list(b, "index/", keep_name, name), 0);
	backend_close(b);
	flip(name, 200);
	a = other_machine("a", cache1);
	assert_int_equal(reads(&a, &c), 0);
	assert_int_equal(reads(&a, &c), 0);
	content_release(&c);
}

/* Prefetched chunks come from the cache; wishes that cannot be met are forgotten. */
static void
test_prefetch(void **state)
{
	struct chunk_id nonsense = { { 9 } };
	struct repo_writer *w;
	struct repo_reader *r;
	struct content c;
	uint8_t *buf = malloc(LEN);
	size_t got;

	(void)state;
	w = open_writer(&fix.opts);
	write_content(w, &c);
	commit(w, "snapshots/a/x");
	repo_writer_close(w);
	assert_int_equal(repo_reader_open(&r, &fix.opts), 0);
	content_prefetch(r, &c, 0, LEN);
	for (int i = 0; i < 2000; i++)
		repo_reader_prefetch(r, &nonsense, 1);
	assert_int_equal(content_pread(r, &c, buf, LEN, 0, &got), 0);
	assert_int_equal(got, LEN);
	assert_memory_equal(buf, data, LEN);
	content_prefetch(r, &c, LEN / 2, UINT64_MAX);
	repo_reader_close(r);
	content_release(&c);
	free(buf);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_init_refuses),
		T(test_wrong_key),
		T(test_header),
		T(test_key_slots),
		T(test_abort_shows_nothing),
		T(test_same_snapshot_twice),
		T(test_crash_leaves_orphans),
		T(test_orphan_is_lost),
		T(test_lost_pack_heals),
		T(test_lost_index_object),
		T(test_damaged_index_object),
		T(test_prefetch),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
