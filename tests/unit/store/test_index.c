/*
 * The index: finds what was added, in several threads and processes, and whatever is done to its
 * files, opens again: as it was, or empty.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"
#include "store/index.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PER_PACK 50

static const uint8_t repo_a[REPO_ID_LEN] = { 1 }, repo_b[REPO_ID_LEN] = { 2 };
static char tmp[200], dir[240];

static int
setup(void **state)
{
	(void)state;
	fixture_tempdir(tmp);
	snprintf(dir, sizeof(dir), "%s/a/b", tmp);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	fixture_rmtree(tmp);
	return 0;
}

static struct chunk_id
chunk_id_of(uint32_t n)
{
	struct chunk_id id;

	/* Spread over the key space, as hashes are. */
	for (int i = 0; i < CHUNK_ID_LEN; i += 4)
		le32_store(id.b + i, (n + 1) * 2654435761u + (uint32_t)i * 40503u);
	le32_store(id.b + 12, n);
	return id;
}

/* Pack `p` holds chunks p * PER_PACK and on. */
static void
make_toc(uint32_t p, size_t n, struct pack_toc *toc)
{
	memset(toc, 0, sizeof(*toc));
	memset(toc->pack_id, 0xaa, PACK_ID_LEN);
	le32_store(toc->pack_id, p);
	toc->domain_id[0] = 7;
	toc->kind = p % 4 == 3 ? PACK_META : PACK_DATA;
	toc->pack_bytes = 1000000 + p;
	toc->nentries = n;
	toc->entries = calloc(n, sizeof(*toc->entries));
	assert_non_null(toc->entries);
	for (uint32_t i = 0; i < n; i++) {
		struct pack_entry *e = &toc->entries[i];

		e->id = chunk_id_of(p * PER_PACK + i);
		e->off = 144 + i * 100;
		e->sealed_len = 100;
		e->len = 200 + i;
		e->encoding = i % 3 == 0 ? ENCODING_RAW : i % 3 == 1 ? ENCODING_ZSTD
								      : ENCODING_DELTA;
	}
}

static int
try_add(struct index *ix, uint32_t p, bool published)
{
	const struct pack_toc *tocs[1];
	struct pack_toc toc;
	int rc;

	make_toc(p, PER_PACK, &toc);
	tocs[0] = &toc;
	rc = index_add_packs(ix, tocs, 1, published, false);
	pack_toc_release(&toc);
	return rc;
}

static void
add(struct index *ix, uint32_t p, bool published)
{
	assert_int_equal(try_add(ix, p, published), 0);
}

/* Whether chunk `n` is found where pack `p` has it. */
static int
found_in(struct index *ix, uint32_t n, uint32_t p)
{
	struct chunk_id id = chunk_id_of(n);
	struct index_place place;
	int rc = index_find(ix, &id, &place);

	if (rc)
		return rc;
	if (le32_load(place.pack_id) != p || place.pack_id[31] != 0xaa ||
	    place.pack_bytes != 1000000 + p || place.domain_id[0] != 7 ||
	    place.kind != (p % 4 == 3 ? PACK_META : PACK_DATA) ||
	    place.off != 144 + n % PER_PACK * 100 || place.sealed_len != 100 ||
	    place.len != 200 + n % PER_PACK)
		return err_set(ERR_FAIL, "chunk %u is not where it should be", n);
	return 0;
}

static void
must_have(struct index *ix, uint32_t p)
{
	for (uint32_t i = 0; i < PER_PACK; i++)
		assert_int_equal(found_in(ix, p * PER_PACK + i, p), 0);
}

static struct index *
open_index(int want)
{
	struct index *ix;
	int rc = index_open(&ix, dir, repo_a);

	if (rc != want)
		print_message("index_open: %d: %s\n", rc, rc < 0 ? err_msg() : "");
	assert_int_equal(rc, want);
	return ix;
}

static int
count_pack(void *ctx, const struct index_pack *pack)
{
	unsigned *n = ctx;

	n[0]++;
	n[1] += pack->published;
	return 0;
}

static void
test_find_add_drop(void **state)
{
	struct index *ix = open_index(1);
	struct index_totals t;
	struct index_pack pack;
	unsigned counts[2] = { 0 };
	uint8_t gone[2][PACK_ID_LEN];
	struct pack_toc toc;

	(void)state;
	assert_int_equal(found_in(ix, 1, 0), 1);
	for (uint32_t p = 0; p < 4; p++)
		add(ix, p, p < 2);
	for (uint32_t p = 0; p < 4; p++)
		must_have(ix, p);
	assert_int_equal(found_in(ix, 4 * PER_PACK, 4), 1);
	assert_int_equal(index_each_pack(ix, count_pack, counts), 0);
	assert_int_equal(counts[0], 4);
	assert_int_equal(counts[1], 2);

	assert_int_equal(index_totals(ix, &t), 0);
	assert_int_equal(t.chunks, 4 * PER_PACK);
	assert_int_equal(t.packs, 4);
	assert_int_equal(t.stored_bytes, 4 * PER_PACK * 100);
	assert_int_equal(t.content_bytes, 4 * (200 * PER_PACK + PER_PACK * (PER_PACK - 1) / 2));
	assert_int_equal(t.raw_chunks, 4 * 17);
	assert_int_equal(t.zstd_chunks, 4 * 17);
	assert_int_equal(t.delta_chunks, 4 * 16);
	assert_int_equal(t.delta_stored_bytes, 4 * 1600);
	assert_int_equal(t.meta_stored_bytes, PER_PACK * 100);

	/* Once more as published: only the mark changes. */
	add(ix, 2, true);
	make_toc(3, 1, &toc);
	assert_int_equal(index_find_pack(ix, toc.pack_id, &pack), 0);
	assert_false(pack.published);
	assert_int_equal(
	    index_set_published(ix, (const uint8_t(*)[PACK_ID_LEN])toc.pack_id, 1), 0);
	assert_int_equal(index_find_pack(ix, toc.pack_id, &pack), 0);
	assert_true(pack.published);
	assert_int_equal(pack.pack_bytes, toc.pack_bytes);
	assert_int_equal(pack.kind, PACK_META);

	/* Pack 3 and one that never was. */
	memcpy(gone[0], toc.pack_id, PACK_ID_LEN);
	memset(gone[1], 9, PACK_ID_LEN);
	assert_int_equal(index_drop_packs(ix, (const uint8_t(*)[PACK_ID_LEN])gone, 2), 0);
	assert_int_equal(index_find_pack(ix, toc.pack_id, NULL), 1);
	assert_int_equal(found_in(ix, 3 * PER_PACK, 3), 1);
	must_have(ix, 0);
	/* The number that became free serves the next pack. */
	add(ix, 5, true);
	must_have(ix, 5);
	pack_toc_release(&toc);

	assert_int_equal(index_has_loaded(ix, "index/00"), 0);
	assert_int_equal(index_set_loaded(ix, "index/00"), 0);
	assert_int_equal(index_has_loaded(ix, "index/00"), 1);
	index_close(ix);

	ix = open_index(0);
	must_have(ix, 2);
	must_have(ix, 5);
	assert_int_equal(index_has_loaded(ix, "index/00"), 1);
	assert_int_equal(index_clear(ix), 0);
	assert_int_equal(found_in(ix, 0, 0), 1);
	assert_int_equal(index_has_loaded(ix, "index/00"), 0);
	index_close(ix);
	index_close(open_index(0));
}

/* A chunk that two packs hold stays where it was. */
static void
test_first_place_stays(void **state)
{
	const struct pack_toc *tocs[1];
	struct index *ix = open_index(1);
	struct pack_toc toc;

	(void)state;
	add(ix, 1, true);
	make_toc(1, PER_PACK, &toc);
	le32_store(toc.pack_id, 9);
	tocs[0] = &toc;
	assert_int_equal(index_add_packs(ix, tocs, 1, true, true), 0);
	assert_int_equal(index_sync(ix), 0);
	pack_toc_release(&toc);
	must_have(ix, 1);
	index_close(ix);
}

static void
test_grows(void **state)
{
	/* In random order a chunk takes about 70 bytes, so this passes the first 256 MiB. */
	const uint32_t per = 1u << 20, packs = 5;
	struct index *ix = open_index(1);
	struct index_totals t;
	struct stat st;
	char path[300];

	(void)state;
	for (uint32_t p = 0; p < packs; p++) {
		const struct pack_toc *tocs[1];
		struct pack_toc toc;

		make_toc(p, per, &toc);
		for (uint32_t i = 0; i < per; i++)
			toc.entries[i].id = chunk_id_of(p * per + i);
		tocs[0] = &toc;
		assert_int_equal(index_add_packs(ix, tocs, 1, true, true), 0);
		pack_toc_release(&toc);
	}
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size > 256 << 20);
	assert_int_equal(index_totals(ix, &t), 0);
	assert_int_equal(t.chunks, per * packs);
	index_close(ix);
}

static void
test_foreign_repository(void **state)
{
	struct index *ix = open_index(1), *other;

	(void)state;
	add(ix, 1, true);
	assert_int_equal(index_open(&other, dir, repo_b), ERR_BUSY);
	assert_null(other);
	index_close(ix);
	assert_int_equal(index_open(&ix, dir, repo_b), 1);
	assert_int_equal(found_in(ix, PER_PACK, 1), 1);
	index_close(ix);
	ix = open_index(1);
	assert_int_equal(found_in(ix, PER_PACK, 1), 1);
	add(ix, 1, true);
	must_have(ix, 1);
	index_close(ix);
}

/* ---- damage ---- */

static void
fill(uint32_t packs)
{
	struct index *ix = open_index(1);

	for (uint32_t p = 0; p < packs; p++)
		add(ix, p, true);
	index_close(ix);
}

static void
overwrite(const char *file, uint64_t off, size_t len, uint64_t seed)
{
	uint8_t *buf = malloc(len);
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fixture_noise(buf, len, seed);
	fd = open(path, O_WRONLY);
	assert_true(fd != -1);
	assert_int_equal(pwrite(fd, buf, len, (off_t)off), (ssize_t)len);
	close(fd);
	free(buf);
}

static uint64_t
file_size(const char *file)
{
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

/* Whatever it opened as, it must work now: what is there is right, and more can be added. */
static void
usable(struct index *ix)
{
	for (uint32_t p = 0; p < 20; p++) {
		for (uint32_t i = 0; i < PER_PACK; i++) {
			int rc = found_in(ix, p * PER_PACK + i, p);

			assert_true(rc == 0 || rc == 1);
		}
	}
	add(ix, 777, true);
	must_have(ix, 777);
	index_close(ix);
}

static void
open_and_use(void)
{
	struct index *ix;
	int rc = index_open(&ix, dir, repo_a);

	if (rc < 0)
		fail_msg("index_open: %d: %s", rc, err_msg());
	usable(ix);
}

static void
test_garbage_data(void **state)
{
	(void)state;
	fill(20);
	overwrite("data.mdb", 0, (size_t)file_size("data.mdb"), 5);
	index_close(open_index(1));
	/* Pages here and there; not the meta pages, which would just be refused. */
	for (uint64_t round = 0; round < 8; round++) {
		uint64_t pages;

		fixture_rmtree(dir);
		fill(20);
		pages = file_size("data.mdb") / 4096;
		overwrite("data.mdb", (2 + round % (pages - 2)) * 4096, 4096, round);
		open_and_use();
	}
}

static void
test_truncated_data(void **state)
{
	static const uint64_t sizes[] = { 0, 1, 4096, 8192, 12288, 20000 };
	char path[300];

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		fixture_rmtree(dir);
		fill(20);
		snprintf(path, sizeof(path), "%s/data.mdb", dir);
		assert_int_equal(truncate(path, (off_t)sizes[i]), 0);
		open_and_use();
	}
}

static void
test_garbage_lock(void **state)
{
	struct index *ix;
	char path[300];

	(void)state;
	fill(5);
	overwrite("lock.mdb", 0, (size_t)file_size("lock.mdb"), 3);
	ix = open_index(0);
	must_have(ix, 4);
	index_close(ix);
	snprintf(path, sizeof(path), "%s/lock.mdb", dir);
	assert_int_equal(unlink(path), 0);
	ix = open_index(0);
	must_have(ix, 4);
	index_close(ix);
	/* Without the stamp it is looked through and then trusted. */
	snprintf(path, sizeof(path), "%s/stamp", dir);
	assert_int_equal(unlink(path), 0);
	ix = open_index(0);
	must_have(ix, 4);
	index_close(ix);
	fixture_rmtree(dir);
	ix = open_index(1);
	add(ix, 1, true);
	index_close(ix);
}

/* ---- processes ---- */

static pid_t
start(void (*fn)(void))
{
	pid_t pid = fork();

	assert_true(pid != -1);
	if (pid == 0) {
		fn();
		_exit(0);
	}
	return pid;
}

static int
status_of(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void
add_for_ever(void)
{
	struct index *ix;

	if (index_open(&ix, dir, repo_a) < 0)
		_exit(1);
	for (uint32_t p = 0;; p++)
		if (try_add(ix, p, true))
			_exit(2);
}

static void
test_killed_writer(void **state)
{
	struct index_totals t;
	uint64_t most = 0;

	(void)state;
	for (unsigned round = 0; round < 6; round++) {
		struct index *ix;
		unsigned counts[2] = { 0 };
		pid_t pid = start(add_for_ever);

		usleep(60000 + round * 17000);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_true(WIFSIGNALED(status_of(pid)));
		assert_true(index_open(&ix, dir, repo_a) >= 0);
		assert_int_equal(index_each_pack(ix, count_pack, counts), 0);
		assert_int_equal(index_totals(ix, &t), 0);
		/* A pack is there with all its chunks or not at all. */
		assert_int_equal(t.chunks, t.packs * PER_PACK);
		assert_int_equal(t.packs, counts[0]);
		assert_true(t.packs >= most);
		most = t.packs;
		for (uint32_t p = 0; p < counts[0]; p += 7)
			must_have(ix, p);
		index_close(ix);
	}
	assert_true(most > 0);
}

static void
add_upper_half(void)
{
	struct index *ix;

	if (index_open(&ix, dir, repo_a) < 0)
		_exit(1);
	for (uint32_t p = 1000; p < 1040; p++)
		if (try_add(ix, p, true) || found_in(ix, p * PER_PACK + 3, p))
			_exit(2);
	index_close(ix);
}

static void
test_two_processes(void **state)
{
	struct index *ix;
	pid_t pid;

	(void)state;
	pid = start(add_upper_half);
	ix = NULL;
	assert_true(index_open(&ix, dir, repo_a) >= 0);
	for (uint32_t p = 0; p < 40; p++)
		add(ix, p, true);
	assert_int_equal(status_of(pid), 0);
	for (uint32_t p = 0; p < 40; p++) {
		must_have(ix, p);
		must_have(ix, p + 1000);
	}
	index_close(ix);
}

static void
renumber(void)
{
	struct index *ix;

	if (index_open(&ix, dir, repo_a) != 0 || index_clear(ix))
		_exit(1);
	for (uint32_t p = 10; p > 0; p--)
		if (try_add(ix, p, true))
			_exit(2);
	index_close(ix);
}

/* Another process builds the index anew: the numbers of packs change under an open one. */
static void
test_renumbered_by_another(void **state)
{
	struct index *ix = open_index(1);

	(void)state;
	for (uint32_t p = 1; p <= 10; p++) {
		add(ix, p, true);
		must_have(ix, p);
	}
	assert_int_equal(status_of(start(renumber)), 0);
	for (uint32_t p = 1; p <= 10; p++)
		must_have(ix, p);
	index_close(ix);
}

static void
hold_lock(void)
{
	char path[300];
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	int fd;

	snprintf(path, sizeof(path), "%s/lock.mdb", dir);
	fd = open(path, O_RDWR);
	/* An exclusive lock must not be had while somebody has the environment open. */
	_exit(fd != -1 && fcntl(fd, F_SETLK, &fl) == -1 ? 0 : 1);
}

/* Opened twice in one process it stays locked for others when one of the two is closed. */
static void
test_twice_in_a_process(void **state)
{
	struct index *first = open_index(1), *second = open_index(0);

	(void)state;
	add(first, 1, true);
	must_have(second, 1);
	index_close(second);
	assert_int_equal(status_of(start(hold_lock)), 0);
	must_have(first, 1);
	index_close(first);
}

static int
mixed_main(void *arg, int worker)
{
	struct index *ix = arg;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < 30; i++) {
		uint32_t p = (uint32_t)worker * 100 + i;

		rc = try_add(ix, p, true);
		for (uint32_t n = 0; rc == 0 && n < PER_PACK; n++)
			rc = found_in(ix, p * PER_PACK + n, p);
	}
	return rc;
}

static void
test_many_threads(void **state)
{
	struct index *ix = open_index(1);

	(void)state;
	assert_int_equal(parallel_run(4, mixed_main, ix), 0);
	index_close(ix);
}

static void
test_faults(void **state)
{
	static const int enos[] = { ENOMEM, ENOSPC, EIO };
	uint64_t n;

	(void)state;
	for (size_t k = 0; k < sizeof(enos) / sizeof(enos[0]); k++) {
		for (n = 1; n < 300; n++) {
			struct index *ix = NULL;
			bool happened;
			int rc;

			sys_fault_arm(n, enos[k]);
			rc = index_open(&ix, dir, repo_a);
			if (rc >= 0)
				rc = try_add(ix, (uint32_t)n, true);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			if (rc < 0)
				assert_true(happened);
			index_close(ix);
			assert_true(index_open(&ix, dir, repo_a) >= 0);
			add(ix, (uint32_t)n, true);
			must_have(ix, (uint32_t)n);
			index_close(ix);
			if (!happened)
				break;
		}
		assert_true(n > 3 && n < 300);
	}
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_find_add_drop),
		T(test_first_place_stays),
		T(test_grows),
		T(test_foreign_repository),
		T(test_garbage_data),
		T(test_truncated_data),
		T(test_garbage_lock),
		T(test_killed_writer),
		T(test_two_processes),
		T(test_renumbered_by_another),
		T(test_twice_in_a_process),
		T(test_many_threads),
		T(test_faults),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
