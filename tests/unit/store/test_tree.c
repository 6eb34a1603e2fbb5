/*
 * Trees: built in any order, read back entry for entry, and cheap to change.
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
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct store_fixture fix;
static struct repo_writer *w;
static struct lane *lane;
static unsigned commits;

static int
setup(void **state)
{
	static const struct repo_writer_opts wopts;

	(void)state;
	store_fixture_make(&fix);
	return repo_writer_open(&w, &fix.opts, &wopts) || lane_new(&lane, w);
}

static int
teardown(void **state)
{
	(void)state;
	lane_free(lane);
	repo_writer_close(w);
	store_fixture_remove(&fix);
	return 0;
}

static void
commit(void)
{
	char name[60];

	snprintf(name, sizeof(name), "snapshots/a/%u", commits++);
	assert_int_equal(repo_writer_commit(w, name, "record", 6), 0);
}

static int
try_add(struct tree_builder *tb, const char *path, enum tree_type type, uint32_t uid)
{
	struct tree_entry e = { .type = type, .mode = 0640, .uid = uid };

	if (type == TREE_FILE) {
		e.content.chunking = CHUNKING_CDC;
		e.content.leaf = calloc(1, sizeof(*e.content.leaf));
	}
	if (type == TREE_SYMLINK)
		e.target = strdup("../target");
	return tree_builder_add(tb, path, &e);
}

static void
add(struct tree_builder *tb, const char *path, enum tree_type type)
{
	assert_int_equal(try_add(tb, path, type, 26), 0);
}

/* What a walk sees, as text: paths with their types. */
struct seen {
	char text[2000];
	size_t n;
};

static int
note(void *ctx, const char *path, const struct tree_entry *e)
{
	struct seen *s = ctx;
	size_t used = strlen(s->text);

	snprintf(s->text + used, sizeof(s->text) - used, "%s:%d ", path, (int)e->type);
	s->n++;
	return 0;
}

static void
test_any_order(void **state)
{
	static const char *const paths[2][7] = {
		{ "base/5/1259", "a", "base/5", "z/link", "base", "base/1/2", "base-2" },
		{ "base-2", "base/1/2", "base", "z/link", "base/5", "a", "base/5/1259" },
	};
	struct repo_reader *r = repo_writer_reader(w);
	struct tree_entry roots[2], e;
	struct tree_visitor v = { .entry = note };

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct tree_builder *tb;
		struct seen s = { .n = 0 };

		assert_int_equal(tree_builder_new(&tb), 0);
		for (int i = 0; i < 7; i++) {
			const char *p = paths[k][i];
			bool dir = strcmp(p, "base") == 0 || strcmp(p, "base/5") == 0;

			add(tb, p,
			    dir                        ? TREE_DIR
			    : strcmp(p, "z/link") == 0 ? TREE_SYMLINK
						       : TREE_FILE);
		}
		add(tb, "", TREE_DIR);
		/* Parents that were only implied are not told of. */
		assert_int_equal(tree_builder_each(tb, note, &s), 0);
		assert_int_equal(s.n, 8);
		assert_int_equal(tree_builder_finish(tb, lane, NULL, &roots[k]), 0);
		tree_builder_free(tb);
	}
	commit();
	for (int k = 0; k < 2; k++) {
		struct seen s = { .n = 0 };

		v.ctx = &s;
		assert_int_equal(tree_walk(r, &roots[k], &v), 0);
		assert_string_equal(s.text,
		    ":2 a:1 base:2 base/1:2 base/1/2:1 base/5:2 base/5/1259:1 base-2:1 z:2 "
		    "z/link:3 ");
		assert_int_equal(roots[k].uid, 26);
	}
	/* The same entries are the same chunks. */
	assert_memory_equal(
	    roots[0].content.leaf[0].id.b, roots[1].content.leaf[0].id.b, CHUNK_ID_LEN);

	assert_int_equal(tree_lookup(r, &roots[0], "", &e), 0);
	assert_int_equal(e.type, TREE_DIR);
	tree_entry_release(&e);
	assert_int_equal(tree_lookup(r, &roots[0], "base/5/1259", &e), 0);
	assert_string_equal(e.name, "1259");
	assert_int_equal(e.uid, 26);
	tree_entry_release(&e);
	assert_int_equal(tree_lookup(r, &roots[0], "base/1", &e), 0);
	assert_int_equal(e.mode, 0700);
	tree_entry_release(&e);
	assert_int_equal(tree_lookup(r, &roots[0], "z/link", &e), 0);
	assert_string_equal(e.target, "../target");
	tree_entry_release(&e);
	assert_int_equal(tree_lookup(r, &roots[0], "base/6", &e), ERR_NOTFOUND);
	assert_int_equal(tree_lookup(r, &roots[0], "a/b", &e), ERR_NOTFOUND);
	assert_int_equal(tree_lookup(r, &roots[0], "z/link/x", &e), ERR_NOTFOUND);
	tree_entry_release(&roots[0]);
	tree_entry_release(&roots[1]);
}

static void
test_bad_paths(void **state)
{
	static const char *const bad[] = { "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.",
		"./a" };
	struct tree_builder *tb;
	char path[TREE_PATH_MAX + 10];
	struct tree_entry root;

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(try_add(tb, bad[i], TREE_FILE, 0), ERR_USAGE);
	memset(path, 'n', sizeof(path));
	path[TREE_NAME_MAX + 1] = '\0';
	assert_int_equal(try_add(tb, path, TREE_FILE, 0), ERR_USAGE);
	path[TREE_NAME_MAX] = '\0';
	assert_int_equal(try_add(tb, path, TREE_FILE, 0), 0);
	for (size_t i = 0; i < TREE_PATH_MAX; i++)
		path[i] = i % 2 ? '/' : 'n';
	path[TREE_PATH_MAX + 1] = '\0';
	assert_int_equal(try_add(tb, path, TREE_FILE, 0), ERR_USAGE);
	path[TREE_PATH_MAX - 1] = '\0';
	assert_int_equal(try_add(tb, path, TREE_FILE, 0), 0);

	add(tb, "f", TREE_FILE);
	assert_int_equal(try_add(tb, "f", TREE_FILE, 0), ERR_EXISTS);
	assert_int_equal(try_add(tb, "f/below", TREE_FILE, 0), ERR_USAGE);
	add(tb, "d/x", TREE_FILE);
	assert_int_equal(try_add(tb, "d", TREE_FILE, 0), ERR_USAGE);
	add(tb, "d", TREE_DIR);
	assert_int_equal(try_add(tb, "", TREE_FILE, 0), ERR_USAGE);
	assert_int_equal(tree_builder_finish(tb, lane, NULL, &root), 0);
	tree_entry_release(&root);
	tree_builder_free(tb);
}

static void
test_fields_round_trip(void **state)
{
	struct tree_xattr xattrs[2] = {
		{ "user.one", (uint8_t *)"value", 5 },
		{ "security.capability", (uint8_t *)"", 0 },
	};
	struct chunk_ref leaf[2] = {
		{ .kind = CHUNK_STORED, .len = 5, .crc32c = 6, .id = { { 1, 2 } }, .fp = { 3 } },
		{ .kind = CHUNK_ZERO, .len = 7, .crc32c = 8 },
	};
	struct tree_entry e = { .name = "name with \xff bytes",
		.type = TREE_FILE,
		.mode = 07777,
		.uid = 4000000000u,
		.gid = 5,
		.mtime_s = -3,
		.mtime_ns = 999999999,
		.hardlink = UINT64_MAX,
		.has_identity = true,
		.identity = { 1, 2, -3, 4 },
		.nxattrs = 2,
		.xattrs = xattrs,
		.content = {
		    .size = 12, .crc32c = 9, .chunking = CHUNKING_CDC, .nrefs = 2, .leaf = leaf } };
	struct tree_entry back, copy;
	struct cursor c;
	struct bytes b;

	(void)state;
	bytes_init(&b);
	assert_int_equal(tree_entry_encode(&b, &e), 0);
	cursor_init(&c, b.data, b.len);
	assert_int_equal(tree_entry_decode(&back, &c), 0);
	assert_int_equal(cursor_left(&c), 0);
	assert_int_equal(tree_entry_copy(&copy, &back), 0);
	tree_entry_release(&back);
	assert_string_equal(copy.name, e.name);
	assert_int_equal(copy.type, TREE_FILE);
	assert_int_equal(copy.mode, 07777);
	assert_int_equal(copy.uid, 4000000000u);
	assert_int_equal(copy.gid, 5);
	assert_int_equal(copy.mtime_s, -3);
	assert_int_equal(copy.mtime_ns, 999999999);
	assert_true(copy.hardlink == UINT64_MAX);
	assert_true(copy.has_identity);
	assert_int_equal(copy.identity.dev, 1);
	assert_int_equal(copy.identity.ino, 2);
	assert_int_equal(copy.identity.ctime_s, -3);
	assert_int_equal(copy.identity.ctime_ns, 4);
	assert_int_equal(copy.nxattrs, 2);
	assert_string_equal(copy.xattrs[0].name, "user.one");
	assert_int_equal(copy.xattrs[0].len, 5);
	assert_memory_equal(copy.xattrs[0].value, "value", 5);
	assert_int_equal(copy.xattrs[1].len, 0);
	assert_int_equal(copy.content.size, 12);
	assert_int_equal(copy.content.crc32c, 9);
	assert_int_equal(copy.content.nrefs, 2);
	assert_int_equal(copy.content.leaf[1].kind, CHUNK_ZERO);
	assert_memory_equal(copy.content.leaf[0].id.b, leaf[0].id.b, CHUNK_ID_LEN);
	tree_entry_release(&copy);
	/* Cut anywhere it is refused. */
	for (size_t n = 0; n < b.len; n++) {
		cursor_init(&c, b.data, n);
		assert_int_equal(tree_entry_decode(&back, &c), ERR_DAMAGED);
	}
	bytes_reset(&b);
	e = (struct tree_entry){ .name = "tty", .type = TREE_CHARDEV, .rdev = 0x501, .mode = 0620 };
	assert_int_equal(tree_entry_encode(&b, &e), 0);
	cursor_init(&c, b.data, b.len);
	assert_int_equal(tree_entry_decode(&back, &c), 0);
	assert_int_equal(back.type, TREE_CHARDEV);
	assert_int_equal(back.rdev, 0x501);
	assert_false(back.has_identity);
	tree_entry_release(&back);
	bytes_release(&b);
}

#define MANY 20000

static void
build_many(uint32_t changed, const struct tree_entry *prev, struct tree_entry *root)
{
	struct tree_builder *tb;

	assert_int_equal(tree_builder_new(&tb), 0);
	for (uint32_t i = 0; i < MANY; i++) {
		char path[40];

		snprintf(path, sizeof(path), "base/%u", i * 7919 % MANY);
		assert_int_equal(try_add(tb, path, TREE_FILE, i == changed ? 99 : 26), 0);
	}
	assert_int_equal(tree_builder_finish(tb, lane, prev, root), 0);
	tree_builder_free(tb);
}

static void
test_many_entries(void **state)
{
	struct repo_reader *r = repo_writer_reader(w);
	struct tree_entry first, second, same, e;
	struct writer_totals t0, t1, t2, t3;
	struct tree_dir *d;

	(void)state;
	repo_writer_totals(w, &t0);
	build_many(MANY, NULL, &first);
	commit();
	repo_writer_totals(w, &t1);
	build_many(MANY, &first, &same);
	repo_writer_totals(w, &t2);
	assert_int_equal(t2.new_chunks, t1.new_chunks);
	build_many(777, &first, &second);
	commit();
	repo_writer_totals(w, &t3);
	/* One chunk of the directory, its map and the root, nearly all of it as deltas. */
	assert_true(t3.new_chunks - t2.new_chunks <= 6);
	assert_true((t3.stored_bytes - t2.stored_bytes) * 20 < t1.stored_bytes - t0.stored_bytes);

	assert_int_equal(tree_lookup(r, &second, "base", &e), 0);
	assert_int_equal(tree_dir_open(&d, r, &e.content), 0);
	assert_int_equal(tree_dir_count(d), MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		const struct tree_entry *x;
		char name[20];

		snprintf(name, sizeof(name), "%u", i * 7919 % MANY);
		x = tree_dir_find(d, name);
		assert_non_null(x);
		assert_int_equal(x->uid, i == 777 ? 99 : 26);
		if (i > 0)
			assert_true(
			    strcmp(tree_dir_at(d, i - 1)->name, tree_dir_at(d, i)->name) < 0);
	}
	assert_null(tree_dir_find(d, "20000"));
	assert_null(tree_dir_find(d, ""));
	tree_dir_close(d);
	tree_entry_release(&e);
	tree_entry_release(&first);
	tree_entry_release(&second);
	tree_entry_release(&same);
}

static int
stop_at_b(void *ctx, const char *path, const struct tree_entry *e)
{
	(void)e;
	++*(int *)ctx;
	return strcmp(path, "b") == 0 ? 42 : 0;
}

static void
test_walk_stops(void **state)
{
	struct repo_reader *r = repo_writer_reader(w);
	struct tree_builder *tb;
	struct tree_entry root;
	int n = 0;
	struct tree_visitor v = { .entry = stop_at_b, .ctx = &n };

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	add(tb, "a", TREE_FIFO);
	add(tb, "b", TREE_SOCKET);
	add(tb, "c", TREE_FIFO);
	assert_int_equal(tree_builder_finish(tb, lane, NULL, &root), 0);
	tree_builder_free(tb);
	commit();
	assert_int_equal(tree_walk(r, &root, &v), 42);
	assert_int_equal(n, 3);
	tree_entry_release(&root);
}

static int
adder_main(void *arg, int worker)
{
	struct tree_builder *tb = arg;
	int rc = 0;

	for (int i = 0; rc == 0 && i < 500; i++) {
		char path[60];

		snprintf(path, sizeof(path), "d%d/%d-%d", i % 10, worker, i);
		rc = try_add(tb, path, TREE_FILE, 1);
	}
	return rc;
}

static void
test_many_threads(void **state)
{
	struct tree_visitor v = { .entry = note };
	struct seen s = { .n = 0 };
	struct tree_builder *tb;
	struct tree_entry root;

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(parallel_run(4, adder_main, tb), 0);
	assert_int_equal(tree_builder_finish(tb, lane, NULL, &root), 0);
	tree_builder_free(tb);
	commit();
	v.ctx = &s;
	assert_int_equal(tree_walk(repo_writer_reader(w), &root, &v), 0);
	assert_int_equal(s.n, 1 + 10 + 2000);
	tree_entry_release(&root);
}

/* Without memory an add fails whole: nothing leaks, and the same add works afterwards. */
static void
test_faults(void **state)
{
	struct tree_builder *tb;
	struct tree_entry root, e;
	uint64_t n;

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	for (n = 1; n < 100; n++) {
		bool happened;
		int rc;

		e = (struct tree_entry){ .type = TREE_SYMLINK, .target = strdup("x") };
		sys_fault_arm(n, ENOMEM);
		rc = tree_builder_add(tb, "one/two/three", &e);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, happened ? ERR_NOMEM : 0);
		assert_null(e.target);
		if (!happened)
			break;
	}
	assert_true(n > 1 && n < 100);
	assert_int_equal(tree_builder_finish(tb, lane, NULL, &root), 0);
	tree_builder_free(tb);
	commit();
	assert_int_equal(tree_lookup(repo_writer_reader(w), &root, "one/two/three", &e), 0);
	tree_entry_release(&e);
	for (n = 1; n < 300; n++) {
		bool happened;
		int rc;

		sys_fault_arm(n, ENOMEM);
		rc = tree_lookup(repo_writer_reader(w), &root, "one/two/three", &e);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		/* A cache that cannot keep a chunk is no failure; a lack of memory is no damage. */
		assert_true(rc == 0 || (happened && rc == ERR_NOMEM));
		tree_entry_release(&e);
		if (!happened)
			break;
	}
	assert_true(n > 1 && n < 300);
	tree_entry_release(&root);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_order),
		cmocka_unit_test(test_bad_paths),
		cmocka_unit_test(test_fields_round_trip),
		cmocka_unit_test(test_many_entries),
		cmocka_unit_test(test_walk_stops),
		cmocka_unit_test(test_many_threads),
		cmocka_unit_test(test_faults),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
