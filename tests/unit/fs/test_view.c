/* The namespace: names, attributes, bytes, and how it follows the repository. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/view.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/past_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define T0        1760000000 /* 2025-10-09T08:53:20Z */
#define T0_NAME   "2025-10-09T08:53:20Z"
#define T1_NAME   "2025-10-09T09:53:20Z"
#define BIG_BYTES (3u * CHUNK_PAGE_BYTES + 1000)
#define MANY      10000

static struct past_fixture fx;
static uint8_t *big, *odd;
#define ODD_BYTES 700001u

static struct tree_xattr xattrs[] = {
	{ .name = (char *)"user.colour", .value = (uint8_t *)"blue", .len = 4 },
	{ .name = (char *)"user.empty", .value = (uint8_t *)"", .len = 0 },
};

static struct past_file files[] = {
	{ .path = "", .type = TREE_DIR, .mode = 0700, .uid = 101, .gid = 102, .mtime_s = 1000 },
	{ .path = "PG_VERSION",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .data = "15\n",
	    .len = 3,
	    .uid = 101,
	    .gid = 102,
	    .mtime_s = 1500000000 },
	{ .path = "empty", .type = TREE_FILE, .mode = 0640, .data = "", .len = 0 },
	{ .path = "base", .type = TREE_DIR, .mode = 0750, .mtime_s = 2000 },
	{ .path = "base/5", .type = TREE_DIR, .mode = 0700 },
	{ .path = "base/5/1259",
	    .type = TREE_FILE,
	    .mode = 0600,
	    .len = BIG_BYTES,
	    .chunking = CHUNKING_PAGES,
	    .xattrs = xattrs,
	    .nxattrs = 2 },
	{ .path = "base/5/odd", .type = TREE_FILE, .mode = 0600, .len = ODD_BYTES },
	{ .path = "link", .type = TREE_SYMLINK, .mode = 0777, .target = "base/5/1259" },
	{ .path = "one", .type = TREE_FILE, .mode = 0600, .data = "same", .len = 4, .hardlink = 9 },
	{ .path = "two", .type = TREE_FILE, .mode = 0600, .data = "same", .len = 4, .hardlink = 9 },
	{ .path = "pipe", .type = TREE_FIFO, .mode = 0600 },
};
#define NFILES (sizeof(files) / sizeof(files[0]))

/* Follow `path` from the root; the reference of every step but the last is given back. */
static int
walk(struct view *v, const char *path, struct view_attr *attr)
{
	char copy[512], *part, *rest = copy;
	uint64_t ino = VIEW_ROOT_INO;
	int rc = view_getattr(v, ino, attr);

	snprintf(copy, sizeof(copy), "%s", path);
	while (!rc && (part = strsep(&rest, "/"))) {
		uint64_t parent = ino;

		if (!*part)
			continue;
		rc = view_lookup(v, parent, part, attr);
		ino = attr->st.st_ino;
		if (parent != VIEW_ROOT_INO)
			view_forget(v, parent, 1);
	}
	return rc;
}

static struct view *
open_view(struct repo_reader **r)
{
	const struct view_opts opts = { 0 };
	struct view *v;

	*r = past_fixture_reader(&fx);
	fixture_must(view_open(&v, *r, &opts), "view_open");
	return v;
}

static void
close_view(struct view *v, struct repo_reader *r)
{
	view_close(v);
	repo_reader_close(r);
}

/* The names in a directory but "." and "..", each followed by a blank. */
static void
list_names(struct view *v, const char *path, char *out, size_t size)
{
	struct view_list *l;
	struct view_attr attr;
	const char *name;

	*out = 0;
	assert_int_equal(walk(v, path, &attr), 0);
	assert_int_equal(view_list_open(v, attr.st.st_ino, &l), 0);
	for (size_t i = 0; view_list_at(l, i, &name, NULL) == 0; i++)
		if (i >= 2) {
			assert_true(strlen(out) + strlen(name) + 2 < size);
			strcat(strcat(out, name), " ");
		}
	view_list_close(l);
}

static void
test_names(void **state)
{
	struct repo_reader *r;
	struct view *v = open_view(&r);
	struct view_attr attr, other;
	char names[512];

	(void)state;
	list_names(v, "", names, sizeof(names));
	assert_string_equal(names, "idle main ");
	list_names(v, "main", names, sizeof(names));
	assert_string_equal(names, "snapshots ");
	list_names(v, "main/snapshots", names, sizeof(names));
	assert_string_equal(names, T0_NAME " latest ");
	list_names(v, "idle/snapshots", names, sizeof(names));
	assert_string_equal(names, "");
	list_names(v, "main/snapshots/" T0_NAME, names, sizeof(names));
	assert_string_equal(names, "PG_VERSION base empty link one pipe two ");
	list_names(v, "main/snapshots/" T0_NAME "/base/5", names, sizeof(names));
	assert_string_equal(names, "1259 odd ");

	assert_int_equal(walk(v, "main/snapshots/latest", &attr), 0);
	assert_true(S_ISDIR(attr.st.st_mode));
	assert_false(attr.name_immutable);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME, &other), 0);
	assert_int_not_equal(attr.st.st_ino, other.st.st_ino);
	list_names(v, "main/snapshots/latest", names, sizeof(names));
	assert_string_equal(names, "PG_VERSION base empty link one pipe two ");

	assert_int_equal(walk(v, "nobody", &attr), ERR_NOTFOUND);
	assert_int_equal(walk(v, "main/at", &attr), ERR_NOTFOUND);
	assert_int_equal(walk(v, "main/snapshots/2020", &attr), ERR_NOTFOUND);
	assert_int_equal(walk(v, "idle/snapshots/latest", &attr), ERR_NOTFOUND);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/base/6", &attr), ERR_NOTFOUND);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/PG_VERSION/x", &attr), ERR_NOTFOUND);
	close_view(v, r);
}

static void
test_attributes(void **state)
{
	static const char snap[] = "main/snapshots/" T0_NAME;
	struct repo_reader *r;
	struct view *v = open_view(&r);
	struct view_attr attr, other;
	char path[256], buf[64];

	(void)state;
	assert_int_equal(walk(v, "", &attr), 0);
	assert_int_equal(attr.st.st_ino, VIEW_ROOT_INO);
	assert_int_equal(attr.st.st_mode, S_IFDIR | 0555);
	assert_false(attr.immutable);
	assert_int_equal(walk(v, "main/snapshots", &attr), 0);
	assert_int_equal(attr.st.st_mtim.tv_sec, T0);
	assert_false(attr.immutable || attr.name_immutable);
	assert_int_equal(walk(v, snap, &attr), 0);
	assert_int_equal(attr.st.st_mode, S_IFDIR | 0700);
	assert_int_equal(attr.st.st_uid, 101);
	assert_int_equal(attr.st.st_gid, 102);
	assert_true(attr.immutable);
	assert_false(attr.name_immutable);

	snprintf(path, sizeof(path), "%s/PG_VERSION", snap);
	assert_int_equal(walk(v, path, &attr), 0);
	assert_int_equal(attr.st.st_mode, S_IFREG | 0600);
	assert_int_equal(attr.st.st_size, 3);
	assert_int_equal(attr.st.st_blocks, 1);
	assert_int_equal(attr.st.st_nlink, 1);
	assert_int_equal(attr.st.st_mtim.tv_sec, 1500000000);
	assert_int_equal(attr.st.st_mtim.tv_nsec, 123456789);
	assert_true(attr.immutable && attr.name_immutable);
	view_path(v, attr.st.st_ino, path, sizeof(path));
	assert_string_equal(path, "main/snapshots/" T0_NAME "/PG_VERSION");
	view_path(v, attr.st.st_ino, path, 8);
	assert_true(strlen(path) < 8);

	snprintf(path, sizeof(path), "%s/link", snap);
	assert_int_equal(walk(v, path, &attr), 0);
	assert_true(S_ISLNK(attr.st.st_mode));
	assert_int_equal(view_readlink(v, attr.st.st_ino, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "base/5/1259");
	snprintf(path, sizeof(path), "%s/pipe", snap);
	assert_int_equal(walk(v, path, &attr), 0);
	assert_true(S_ISFIFO(attr.st.st_mode));

	/* Two names of one file. */
	snprintf(path, sizeof(path), "%s/one", snap);
	assert_int_equal(walk(v, path, &attr), 0);
	snprintf(path, sizeof(path), "%s/two", snap);
	assert_int_equal(walk(v, path, &other), 0);
	assert_int_equal(attr.st.st_ino, other.st.st_ino);
	assert_true(attr.st.st_nlink > 1);
	close_view(v, r);
}

static void
test_mapped_owner(void **state)
{
	const struct view_opts opts = { .map_owner = true, .uid = 4242, .gid = 4343 };
	struct repo_reader *r = past_fixture_reader(&fx);
	struct view_attr attr;
	struct view *v;

	(void)state;
	assert_int_equal(view_open(&v, r, &opts), 0);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/PG_VERSION", &attr), 0);
	assert_int_equal(attr.st.st_uid, 4242);
	assert_int_equal(attr.st.st_gid, 4343);
	assert_int_equal(attr.st.st_mode, S_IFREG | 0600);
	assert_int_equal(walk(v, "main", &attr), 0);
	assert_int_equal(attr.st.st_uid, 4242);
	close_view(v, r);
}

/* Inode numbers are unique, and the same in another view. */
static void
test_inodes(void **state)
{
	struct repo_reader *r[2];
	struct view *v[2] = { open_view(&r[0]), open_view(&r[1]) };
	uint64_t seen[NFILES];

	(void)state;
	for (size_t i = 0; i < NFILES; i++) {
		struct view_attr a, b;
		char path[256];

		snprintf(path, sizeof(path), "main/snapshots/" T0_NAME "/%s", files[i].path);
		assert_int_equal(walk(v[0], path, &a), 0);
		assert_int_equal(walk(v[1], path, &b), 0);
		assert_int_equal(a.st.st_ino, b.st.st_ino);
		seen[i] = a.st.st_ino;
		for (size_t k = 0; k < i; k++)
			if (!files[i].hardlink || files[i].hardlink != files[k].hardlink)
				assert_int_not_equal(seen[k], seen[i]);
	}
	close_view(v[0], r[0]);
	close_view(v[1], r[1]);
}

static void
check_reads(struct view *v, const char *path, const uint8_t *want, size_t size)
{
	static const size_t lengths[] = { 1, 511, 8192, 65536, 65537, 300000 };
	struct view_attr attr;
	uint8_t *buf = malloc(300000);

	assert_non_null(buf);
	assert_int_equal(walk(v, path, &attr), 0);
	assert_int_equal(attr.st.st_size, size);
	for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++)
		for (uint64_t off = 0; off < size + 2; off += 7919 + lengths[l] / 3) {
			size_t got = 0, left = off < size ? size - (size_t)off : 0;
			size_t expect = lengths[l] < left ? lengths[l] : left;

			assert_int_equal(
			    view_read(v, attr.st.st_ino, buf, lengths[l], off, &got), 0);
			assert_int_equal(got, expect);
			assert_memory_equal(buf, want + (off < size ? off : 0), got);
		}
	free(buf);
}

static void
test_reads(void **state)
{
	struct repo_reader *r;
	struct view *v = open_view(&r);
	struct view_attr attr;
	char buf[16];
	size_t got = 9;

	(void)state;
	check_reads(v, "main/snapshots/" T0_NAME "/base/5/1259", big, BIG_BYTES);
	check_reads(v, "main/snapshots/" T0_NAME "/base/5/odd", odd, ODD_BYTES);
	check_reads(v, "main/snapshots/" T0_NAME "/PG_VERSION", (const uint8_t *)"15\n", 3);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/empty", &attr), 0);
	assert_int_equal(view_read(v, attr.st.st_ino, buf, sizeof(buf), 0, &got), 0);
	assert_int_equal(got, 0);
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/base", &attr), 0);
	assert_int_not_equal(view_read(v, attr.st.st_ino, buf, sizeof(buf), 0, &got), 0);
	assert_int_not_equal(view_read(v, VIEW_ROOT_INO, buf, sizeof(buf), 0, &got), 0);
	close_view(v, r);
}

static void
test_xattrs(void **state)
{
	struct repo_reader *r;
	struct view *v = open_view(&r);
	struct view_attr attr;
	char buf[64];
	size_t len;

	(void)state;
	assert_int_equal(walk(v, "main/snapshots/" T0_NAME "/base/5/1259", &attr), 0);
	assert_int_equal(view_getxattr(v, attr.st.st_ino, "user.colour", NULL, 0, &len), 0);
	assert_int_equal(len, 4);
	assert_int_equal(
	    view_getxattr(v, attr.st.st_ino, "user.colour", buf, sizeof(buf), &len), 0);
	assert_memory_equal(buf, "blue", 4);
	assert_int_equal(view_getxattr(v, attr.st.st_ino, "user.empty", buf, sizeof(buf), &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(
	    view_getxattr(v, attr.st.st_ino, "user.none", buf, sizeof(buf), &len), ERR_NOTFOUND);
	assert_int_equal(view_listxattr(v, attr.st.st_ino, NULL, 0, &len), 0);
	assert_int_equal(len, strlen("user.colour") + strlen("user.empty") + 2);
	assert_int_equal(view_listxattr(v, attr.st.st_ino, buf, sizeof(buf), &len), 0);
	assert_memory_equal(buf, "user.colour\0user.empty", len);
	assert_int_equal(view_listxattr(v, VIEW_ROOT_INO, buf, sizeof(buf), &len), 0);
	assert_int_equal(len, 0);
	close_view(v, r);
}

/* A listing of very many is complete, in order, and its nodes are what look-ups give. */
static void
test_many(void **state)
{
	struct repo_reader *r;
	struct past_file *many = calloc(MANY + 1, sizeof(*many));
	char(*paths)[16] = calloc(MANY, sizeof(*paths));
	struct view_attr attr, again;
	struct view_list *l;
	struct snapshot s;
	struct source crowd;
	struct view *v;
	const char *name;
	uint64_t dir;

	(void)state;
	assert_true(many && paths);
	many[0] = (struct past_file){ .path = "", .type = TREE_DIR, .mode = 0700 };
	for (int i = 0; i < MANY; i++) {
		snprintf(paths[i], sizeof(paths[i]), "f%05d", i);
		many[i + 1] = (struct past_file){
			.path = paths[i],
			.type = TREE_FILE,
			.mode = 0600,
			.data = paths[i],
			.len = 6,
		};
	}
	past_fixture_add_source(&fx, "crowd", &crowd);
	past_fixture_snapshot(&fx, &crowd, T0,
	    &(struct past_part){ .name = "", .files = many, .nfiles = MANY + 1 }, 1, &s);
	v = open_view(&r);
	assert_int_equal(walk(v, "crowd/snapshots/" T0_NAME, &attr), 0);
	dir = attr.st.st_ino;
	assert_int_equal(view_list_open(v, dir, &l), 0);
	for (size_t i = 0; i < MANY; i++) {
		assert_int_equal(view_list_at(l, i + 2, &name, &attr), 0);
		assert_string_equal(name, paths[i]);
		assert_int_equal(attr.st.st_size, 6);
		if (i % 997 == 0) {
			assert_int_equal(view_lookup(v, dir, name, &again), 0);
			assert_int_equal(again.st.st_ino, attr.st.st_ino);
			view_forget(v, again.st.st_ino, 1);
		}
		view_forget(v, attr.st.st_ino, 1);
	}
	assert_int_equal(view_list_at(l, MANY + 2, &name, &attr), 1);
	view_list_close(l);
	close_view(v, r);
	snapshot_release(&s);
	source_release(&crowd);
	free(many);
	free(paths);
}

static void
test_parts(void **state)
{
	const struct past_part parts[] = {
		{ .name = "database", .files = files, .nfiles = 2 },
		{ .name = "uploads", .files = files, .nfiles = 3 },
	};
	struct repo_reader *r;
	struct snapshot s;
	struct source both;
	struct view *v;
	struct view_attr attr;
	char names[256];

	(void)state;
	past_fixture_add_source(&fx, "both", &both);
	past_fixture_snapshot(&fx, &both, T0, parts, 2, &s);
	v = open_view(&r);
	list_names(v, "both/snapshots/" T0_NAME, names, sizeof(names));
	assert_string_equal(names, "database uploads ");
	list_names(v, "both/snapshots/" T0_NAME "/uploads", names, sizeof(names));
	assert_string_equal(names, "PG_VERSION empty ");
	assert_int_equal(walk(v, "both/snapshots/" T0_NAME "/database", &attr), 0);
	assert_int_equal(attr.st.st_mode, S_IFDIR | 0700);
	close_view(v, r);
	snapshot_release(&s);
	source_release(&both);
}

/* A snapshot committed while the view is open appears, and the link leads to it. */
static void
test_new_snapshot(void **state)
{
	const struct past_part part = { .name = "", .files = files, .nfiles = 3 };
	struct repo_reader *r;
	struct view *v;
	struct view_attr before, attr, newest;
	struct view_list *l;
	struct source grows;
	struct snapshot s[2];
	char names[128];
	const char *name;
	size_t got;

	(void)state;
	past_fixture_add_source(&fx, "grows", &grows);
	past_fixture_snapshot(&fx, &grows, T0, &part, 1, &s[0]);
	v = open_view(&r);
	assert_int_equal(walk(v, "grows/snapshots/latest", &before), 0);
	assert_int_equal(walk(v, "grows/snapshots", &attr), 0);
	assert_int_equal(view_list_open(v, attr.st.st_ino, &l), 0);
	past_fixture_snapshot(&fx, &grows, T0 + 3600, &part, 1, &s[1]);
	usleep(1200 * 1000);
	list_names(v, "grows/snapshots", names, sizeof(names));
	assert_string_equal(names, T0_NAME " " T1_NAME " latest ");
	/* A listing begun before is as it was. */
	assert_int_equal(view_list_at(l, 3, &name, NULL), 0);
	assert_string_equal(name, "latest");
	assert_int_equal(view_list_at(l, 4, &name, NULL), 1);
	view_list_close(l);

	assert_int_equal(walk(v, "grows/snapshots/latest", &attr), 0);
	assert_int_not_equal(attr.st.st_ino, before.st.st_ino);
	assert_int_equal(walk(v, "grows/snapshots/" T1_NAME, &newest), 0);
	assert_int_equal(attr.st.st_mtim.tv_sec, newest.st.st_mtim.tv_sec);
	assert_int_equal(walk(v, "grows/snapshots/" T1_NAME "/PG_VERSION", &attr), 0);
	assert_int_equal(view_read(v, attr.st.st_ino, names, sizeof(names), 0, &got), 0);
	assert_int_equal(got, 3);
	assert_memory_equal(names, "15\n", 3);
	close_view(v, r);
	snapshot_release(&s[0]);
	snapshot_release(&s[1]);
	source_release(&grows);
}

static int
reference_at(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	struct chunk_id *id = ctx;

	if (off != CHUNK_PAGE_BYTES)
		return 0;
	*id = ref->id;
	return 1;
}

/* The second chunk of the large file is damaged: its bytes fail, all others are right. */
static void
test_damage(void **state)
{
	struct source hurt;
	struct snapshot s;
	struct repo_reader *r;
	struct view *v;
	struct view_attr attr;
	struct tree_entry e;
	struct chunk_id id;
	struct content_visitor visitor = { .chunk = reference_at, .ctx = &id };
	struct past_file own[] = { files[0], files[5] };
	const struct past_part part = { .name = "", .files = own, .nfiles = 2 };
	uint8_t *data = fixture_noise_new(BIG_BYTES, 99), *buf = malloc(BIG_BYTES);
	size_t got, lo = CHUNK_PAGE_BYTES, hi = 2 * CHUNK_PAGE_BYTES;

	(void)state;
	own[1].path = "file";
	own[1].data = data;
	past_fixture_add_source(&fx, "hurt", &hurt);
	past_fixture_snapshot(&fx, &hurt, T0, &part, 1, &s);
	r = past_fixture_reader(&fx);
	assert_int_equal(tree_lookup(r, &s.parts[0].root, "file", &e), 0);
	assert_int_equal(content_each(r, &e.content, &visitor), 1);
	tree_entry_release(&e);
	repo_reader_close(r);
	past_fixture_damage(&fx, &id);

	v = open_view(&r);
	assert_int_equal(walk(v, "hurt/snapshots/" T0_NAME "/file", &attr), 0);
	for (size_t off = 0; off < BIG_BYTES; off += 4096) {
		size_t len = BIG_BYTES - off < 4096 ? BIG_BYTES - off : 4096;
		int rc = view_read(v, attr.st.st_ino, buf, len, off, &got);

		if (off >= lo && off < hi) {
			assert_int_equal(rc, ERR_DAMAGED);
			assert_non_null(strstr(err_msg(), "pastfs check"));
			assert_int_equal(got, 0);
			continue;
		}
		assert_int_equal(rc, 0);
		assert_int_equal(got, len);
		assert_memory_equal(buf, data + off, len);
	}
	/* A read over the border gives what is before it. */
	assert_int_equal(view_read(v, attr.st.st_ino, buf, BIG_BYTES, 100, &got), 0);
	assert_int_equal(got, lo - 100);
	assert_memory_equal(buf, data + 100, got);
	close_view(v, r);
	snapshot_release(&s);
	source_release(&hurt);
	free(data);
	free(buf);
}

static void
test_statfs(void **state)
{
	struct repo_reader *r;
	struct view *v = open_view(&r);
	struct statvfs st;

	(void)state;
	assert_int_equal(view_statfs(v, &st), 0);
	assert_true(st.f_blocks > 0 && st.f_bfree <= st.f_blocks);
	assert_true(st.f_files >= NFILES);
	assert_true(st.f_flag & ST_RDONLY);
	assert_int_equal(st.f_namemax, 255);
	close_view(v, r);
}

/* Any one failing call gives an error or no harm, and the next try works. */
static void
test_faults(void **state)
{
	static const char path[] = "main/snapshots/" T0_NAME "/base/5/1259";
	const struct view_opts opts = { 0 };
	struct repo_reader *r = past_fixture_reader(&fx);
	bool failed = true;

	(void)state;
	for (uint64_t nth = 1; failed; nth++) {
		struct view *v = NULL;
		struct view_attr attr;
		char buf[100];
		size_t got = 0;
		int rc;

		sys_fault_arm(nth, ENOMEM);
		rc = view_open(&v, r, &opts);
		if (!rc)
			rc = walk(v, path, &attr);
		if (!rc)
			rc = view_read(v, attr.st.st_ino, buf, sizeof(buf), 50, &got);
		failed = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!v) {
			assert_int_not_equal(rc, 0);
			continue;
		}
		/* A fault that only cost a notice or some speed is none. */
		if (!rc)
			assert_memory_equal(buf, big + 50, got);
		view_close(v);
		fixture_must(view_open(&v, r, &opts), "view_open after a fault");
		fixture_must(walk(v, path, &attr), "walk after a fault");
		fixture_must(
		    view_read(v, attr.st.st_ino, buf, sizeof(buf), 50, &got), "read after a fault");
		assert_int_equal(got, sizeof(buf));
		assert_memory_equal(buf, big + 50, got);
		view_close(v);
		assert_true(nth < 5000);
	}
	repo_reader_close(r);
}

static int
setup(void **state)
{
	const struct past_part part = { .name = "", .files = files, .nfiles = NFILES };
	struct snapshot s;
	struct source idle;

	(void)state;
	big = fixture_noise_new(BIG_BYTES, 1);
	odd = fixture_noise_new(ODD_BYTES, 2);
	files[5].data = big;
	files[6].data = odd;
	past_fixture_new(&fx);
	past_fixture_snapshot(&fx, NULL, T0, &part, 1, &s);
	past_fixture_add_source(&fx, "idle", &idle);
	source_release(&idle);
	snapshot_release(&s);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	past_fixture_free(&fx);
	free(big);
	free(odd);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_mapped_owner),
		cmocka_unit_test(test_inodes),
		cmocka_unit_test(test_reads),
		cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_statfs),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_new_snapshot),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests_name("view", tests, setup, teardown);
}
