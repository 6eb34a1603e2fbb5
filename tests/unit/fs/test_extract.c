/* Restoring a tree: what arrives, what is refused, and going on after an interruption. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/extract.h"
#include "fs/outdir.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/past_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define T0        1760000000
#define BIG_BYTES (CONTENT_SPAN_BYTES + 3 * 1048576 + 77) /* two spans */
#define ODD_BYTES 700001u
#define TREE      "0123abcd"

static struct past_fixture fx;
static struct repo_reader *reader;
static struct snapshot snap;
static uint8_t *big, *odd;
static char target[220];
static size_t damaged_told;

static struct tree_xattr xattrs[] = {
	{ .name = (char *)"user.colour", .value = (uint8_t *)"blue", .len = 4 },
};

static struct past_file files[] = {
	{ .path = "", .type = TREE_DIR, .mode = 0700, .mtime_s = 1000000000 },
	{ .path = "PG_VERSION",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .data = "15\n",
	    .len = 3,
	    .mtime_s = 1500000000 },
	{ .path = "base", .type = TREE_DIR, .mode = 0550, .mtime_s = 1100000000 },
	{ .path = "base/big",
	    .type = TREE_FILE,
	    .mode = 0640,
	    .len = BIG_BYTES,
	    .chunking = CHUNKING_PAGES,
	    .mtime_s = 1200000000,
	    .xattrs = xattrs,
	    .nxattrs = 1 },
	{ .path = "base/odd",
	    .type = TREE_FILE,
	    .mode = 0604,
	    .len = ODD_BYTES,
	    .mtime_s = 1300000000 },
	{ .path = "empty", .type = TREE_FILE, .mode = 0600, .data = "", .mtime_s = 1300000001 },
	{ .path = "global", .type = TREE_DIR, .mode = 0700, .mtime_s = 1400000000 },
	{ .path = "global/pg_control",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .data = "control",
	    .len = 7,
	    .mtime_s = 1400000001 },
	{ .path = "link",
	    .type = TREE_SYMLINK,
	    .mode = 0777,
	    .target = "base/odd",
	    .mtime_s = 1400000002 },
	{ .path = "one",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .data = "same",
	    .len = 4,
	    .hardlink = 9,
	    .mtime_s = 1400000003 },
	{ .path = "pipe", .type = TREE_FIFO, .mode = 0600, .mtime_s = 1400000004 },
	{ .path = "two",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .data = "same",
	    .len = 4,
	    .hardlink = 9,
	    .mtime_s = 1400000003 },
};
#define NFILES   (sizeof(files) / sizeof(files[0]))
#define BIG      3
#define ODD      4
#define NREGULAR 7

static const char *const last[] = { "global/pg_control", NULL };

static void
count_damaged(void *ctx, const char *path, const char *message)
{
	(void)ctx;
	(void)path;
	assert_non_null(message);
	damaged_told++;
}

static struct extract_opts
options(void)
{
	return (struct extract_opts){
		.tree_name = TREE,
		.threads = 2,
		.last = last,
		.damaged = count_damaged,
	};
}

static int
extract(const struct extract_opts *opts, struct extract_totals *totals)
{
	memset(totals, 0, sizeof(*totals));
	return extract_tree(reader, &snap.parts[0].root, target, opts, totals);
}

static char *
path_of(const char *name)
{
	static char path[320];

	snprintf(path, sizeof(path), "%s/%s", target, name);
	return path;
}

static void
check_content(const char *path, const uint8_t *want, size_t len)
{
	uint8_t *buf = malloc(len + 1);
	int fd = open(path, O_RDONLY);

	assert_non_null(buf);
	assert_int_not_equal(fd, -1);
	assert_int_equal(sys_read_full(fd, buf, len + 1), len);
	assert_memory_equal(buf, want, len);
	close(fd);
	free(buf);
}

/* The tree's entries from number `from` on are in the target as they were stored. */
static void
check_from(size_t from)
{
	struct stat st, other;
	char text[64];

	for (size_t i = from; i < NFILES; i++) {
		const struct past_file *f = &files[i];

		assert_int_equal(lstat(path_of(f->path), &st), 0);
		assert_int_equal(st.st_mtim.tv_sec, f->mtime_s);
		assert_int_equal(st.st_mtim.tv_nsec, 123456789);
		if (f->type != TREE_SYMLINK)
			assert_int_equal(st.st_mode & 07777, f->mode);
		if (f->type == TREE_FILE)
			check_content(path_of(f->path), f->data, f->len);
	}
	assert_int_equal(lgetxattr(path_of("base/big"), "user.colour", text, sizeof(text)), 4);
	assert_memory_equal(text, "blue", 4);
	assert_int_equal(readlink(path_of("link"), text, sizeof(text)), 8);
	assert_memory_equal(text, "base/odd", 8);
	assert_int_equal(stat(path_of("one"), &st), 0);
	assert_int_equal(stat(path_of("two"), &other), 0);
	assert_int_equal(st.st_ino, other.st_ino);
	assert_int_equal(stat(path_of("pipe"), &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	/* The middle of the large file is zeros, and takes no room. */
	assert_int_equal(stat(path_of("base/big"), &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < BIG_BYTES / 2);
	assert_int_equal(access(path_of(OUTDIR_MARKER), F_OK), -1);
}

/* Everything of the tree is in the target as it was stored. */
static void
check_all(void)
{
	check_from(0);
}

static void
clean(void)
{
	chmod(path_of("base"), 0700);
	fixture_rmtree(target);
	damaged_told = 0;
}

static void
test_equality(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;

	(void)state;
	for (int threads = 1; threads <= 4; threads += 3) {
		opts.threads = threads;
		assert_int_equal(extract(&opts, &totals), 0);
		check_all();
		assert_int_equal(totals.files, NREGULAR);
		assert_int_equal(totals.resumed_files, 0);
		assert_int_equal(totals.warnings, 0);
		clean();
	}
}

static void
test_owners(void **state)
{
	struct past_file own[] = {
		{ .path = "", .type = TREE_DIR, .mode = 0700, .uid = 77, .gid = 78 },
		{ .path = "tool",
		    .type = TREE_FILE,
		    .mode = 06755,
		    .data = "x",
		    .len = 1,
		    .uid = 77,
		    .gid = 78 },
		{ .path = "link", .type = TREE_SYMLINK, .target = "tool", .uid = 79, .gid = 80 },
	};
	const struct past_part part = { .name = "", .files = own, .nfiles = 3 };
	struct extract_opts opts = options();
	struct extract_totals totals;
	struct snapshot s;
	struct stat st;

	(void)state;
	past_fixture_snapshot(&fx, NULL, T0 + 60, &part, 1, &s);
	assert_int_equal(repo_reader_refresh(reader), 0);
	assert_int_equal(extract_tree(reader, &s.parts[0].root, target, &opts, &totals), 0);
	assert_int_equal(stat(path_of("tool"), &st), 0);
	assert_int_equal(st.st_uid, geteuid());
	assert_int_equal(st.st_mode & 07777, 0755);
	clean();
	opts.keep_owners = true;
	if (geteuid() != 0) {
		assert_int_equal(
		    extract_tree(reader, &s.parts[0].root, target, &opts, &totals), ERR_DENIED);
	} else {
		assert_int_equal(extract_tree(reader, &s.parts[0].root, target, &opts, &totals), 0);
		assert_int_equal(stat(path_of("tool"), &st), 0);
		assert_int_equal(st.st_uid, 77);
		assert_int_equal(st.st_gid, 78);
		assert_int_equal(st.st_mode & 07777, 06755);
		assert_int_equal(lstat(path_of("link"), &st), 0);
		assert_int_equal(st.st_uid, 79);
		assert_int_equal(stat(target, &st), 0);
		assert_int_equal(st.st_uid, 77);
	}
	clean();
	snapshot_release(&s);
}

static void
write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_not_equal(fd, -1);
	assert_int_equal(sys_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static void
test_refusal_and_force(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	struct timespec times[2] = { { 1500000000, 123456789 }, { 1500000000, 123456789 } };
	char outside[240];

	(void)state;
	assert_int_equal(mkdir(target, 0700), 0);
	write_text(path_of("stranger"), "stays");
	assert_int_equal(extract(&opts, &totals), ERR_EXISTS);
	assert_non_null(strstr(err_msg(), "--force"));
	assert_int_equal(access(path_of("PG_VERSION"), F_OK), -1);

	/* Something of the right size and time, but not of this tree; and links that lead out. */
	snprintf(outside, sizeof(outside), "%s/outside", fx.store.dir);
	assert_int_equal(mkdir(outside, 0700), 0);
	write_text(path_of("PG_VERSION"), "99\n");
	assert_int_equal(utimensat(AT_FDCWD, path_of("PG_VERSION"), times, 0), 0);
	assert_int_equal(symlink(outside, path_of("base")), 0);
	snprintf(outside, sizeof(outside), "%s/outside/victim", fx.store.dir);
	write_text(outside, "safe");
	assert_int_equal(symlink(outside, path_of("empty")), 0);
	opts.force = true;
	assert_int_equal(extract(&opts, &totals), 0);
	check_all();
	check_content(path_of("stranger"), (const uint8_t *)"stays", 5);
	check_content(outside, (const uint8_t *)"safe", 4);
	snprintf(outside, sizeof(outside), "%s/outside/big", fx.store.dir);
	assert_int_equal(access(outside, F_OK), -1);
	clean();
}

/* Another tree's unfinished restore is not taken over without force. */
static void
test_foreign_marker(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	struct outdir *od;

	(void)state;
	assert_int_equal(outdir_open(&od, target, "another", false), 0);
	outdir_close(od);
	assert_int_equal(extract(&opts, &totals), ERR_EXISTS);
	opts.force = true;
	assert_int_equal(extract(&opts, &totals), 0);
	check_all();
	clean();
}

/* What an extraction calls when nothing fails. */
static uint64_t
count_calls(void)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	uint64_t calls;

	sys_fault_arm(UINT64_MAX, 0);
	assert_int_equal(extract(&opts, &totals), 0);
	calls = sys_fault_calls();
	sys_fault_arm(0, 0);
	clean();
	return calls;
}

/*
 * What a cut has left looks finished only if it is: the file that makes a cluster startable comes
 * last, and the marker goes after it.  True if the marker was gone: then only the time of the
 * target itself, which the removal changed, can be missing.
 */
static bool
check_cut(void)
{
	if (access(path_of("global/pg_control"), F_OK) != 0) {
		assert_int_equal(errno, ENOENT);
		return false;
	}
	if (access(path_of(OUTDIR_MARKER), F_OK) == 0)
		return false;
	check_from(1);
	return true;
}

/* The calls at the end of which none is skipped: those after the marker is gone are among them. */
#define END_CALLS 30

/* Cut at every call: nothing that looks finished is left, and going on completes it. */
static void
test_cuts(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	uint64_t calls = count_calls(), step = 1, resumed = 0, cuts = 0, late = 0;
	bool failed = true;

	(void)state;
	for (uint64_t nth = 1; failed; nth += step) {
		bool finished = false;
		int rc;

		sys_fault_arm_from(nth, ENOSPC);
		rc = extract(&opts, &totals);
		failed = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc && failed) {
			cuts++;
			finished = check_cut();
			late += finished;
			chmod(path_of("base"), 0700);
		}
		rc = extract(&opts, &totals);
		/* Only a restore that was complete is refused. */
		if (rc == ERR_EXISTS)
			assert_int_equal(access(path_of(OUTDIR_MARKER), F_OK), -1);
		else
			fixture_must(rc, "extract after a cut");
		if (finished)
			assert_int_equal(rc, ERR_EXISTS);
		resumed += totals.resumed_files;
		if (rc == 0)
			check_all();
		clean();
		step = nth + END_CALLS < calls ? 1 + nth / 12 : 1;
		assert_true(nth < 100000);
	}
	assert_true(cuts > 10);
	assert_true(resumed > 0);
	assert_true(late > 0);
}

static void
test_no_space_message(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	int rc = 0;

	(void)state;
	/* At some call it is a write that finds the disk full: the message says what is needed. */
	for (uint64_t nth = 20; rc != ERR_NOSPACE; nth += 3) {
		clean();
		sys_fault_arm(nth, ENOSPC);
		rc = extract(&opts, &totals);
		sys_fault_arm(0, 0);
		assert_true(nth < 1000);
	}
	assert_non_null(strstr(err_msg(), "MiB are needed"));
	assert_int_equal(access(path_of(OUTDIR_MARKER), F_OK), 0);
	assert_int_equal(extract(&opts, &totals), 0);
	check_all();
	clean();
}

struct chunk_at {
	uint64_t off;
	struct chunk_id id;
};

static int
take_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	struct chunk_at *at = ctx;

	if (off != at->off)
		return 0;
	at->id = ref->id;
	return 1;
}

/* One chunk is damaged: all else is restored, and its file is not under its own name. */
static void
test_damage(void **state)
{
	struct extract_opts opts = options();
	struct extract_totals totals;
	struct chunk_at at = { .off = CHUNK_PAGE_BYTES };
	struct content_visitor visitor = { .chunk = take_chunk, .ctx = &at };
	struct tree_entry e;
	uint8_t *want = malloc(BIG_BYTES);

	(void)state;
	assert_non_null(want);
	assert_int_equal(tree_lookup(reader, &snap.parts[0].root, "base/big", &e), 0);
	assert_int_equal(content_each(reader, &e.content, &visitor), 1);
	tree_entry_release(&e);
	past_fixture_damage(&fx, &at.id);
	repo_reader_close(reader);
	reader = past_fixture_reader(&fx);

	assert_int_equal(extract(&opts, &totals), ERR_DAMAGED);
	assert_int_equal(damaged_told, 1);
	assert_int_equal(totals.damaged_files, 1);
	assert_int_equal(access(path_of("base/big"), F_OK), -1);
	memcpy(want, big, BIG_BYTES);
	memset(want + CHUNK_PAGE_BYTES, 0, CHUNK_PAGE_BYTES);
	check_content(path_of("base/big.damaged"), want, BIG_BYTES);
	check_content(path_of("base/odd"), odd, ODD_BYTES);
	assert_int_equal(access(path_of("global/pg_control"), F_OK), 0);
	clean();
	free(want);
}

static int
setup(void **state)
{
	const struct past_part part = { .name = "", .files = files, .nfiles = NFILES };
	uint8_t *head = fixture_noise_new(2 << 20, 1);

	(void)state;
	big = calloc(1, BIG_BYTES);
	odd = fixture_noise_new(ODD_BYTES, 2);
	if (!big)
		return -1;
	memcpy(big, head, 2 << 20);
	memcpy(big + BIG_BYTES - 100, head, 100);
	free(head);
	files[BIG].data = big;
	files[ODD].data = odd;
	past_fixture_new(&fx);
	past_fixture_snapshot(&fx, NULL, T0, &part, 1, &snap);
	reader = past_fixture_reader(&fx);
	snprintf(target, sizeof(target), "%s/target", fx.store.dir);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	repo_reader_close(reader);
	snapshot_release(&snap);
	past_fixture_free(&fx);
	free(big);
	free(odd);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equality),
		cmocka_unit_test(test_owners),
		cmocka_unit_test(test_refusal_and_force),
		cmocka_unit_test(test_foreign_marker),
		cmocka_unit_test(test_cuts),
		cmocka_unit_test(test_no_space_message),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests_name("extract", tests, setup, teardown);
}
