/* The node table: numbers, references, collisions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/node.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FEW_NUMBERS 0x3f /* 64 numbers, so that 40 names collide */
#define NAMES       40

static const uint8_t key[32] = "a key of some bytes";
static size_t released;

static void
release(struct node *n)
{
	released++;
	node_discard(n);
}

static struct node *
make_root(struct node_table *t)
{
	struct node_id id = { .ino = NODE_ROOT_INO };
	struct node *root;

	assert_int_equal(node_insert(t, &id, node_new(""), 0, &root), 0);
	assert_int_equal(root->ino, NODE_ROOT_INO);
	return root;
}

/* Look `name` up below `dir` as the view does; pinned. */
static struct node *
enter(struct node_table *t, struct node *dir, const char *name)
{
	struct node_id id;
	struct node *n, *fresh;

	node_identify(t, dir->ino, name, strlen(name), &id);
	n = node_find(t, &id, 1);
	if (n)
		return n;
	fresh = node_new(name);
	assert_non_null(fresh);
	fresh->parent = dir;
	if (node_insert(t, &id, fresh, 1, &n))
		return NULL;
	return n;
}

static void
test_references(void **state)
{
	struct node_table *t;
	struct node *root, *a, *b;
	uint64_t a_ino, b_ino;

	(void)state;
	released = 0;
	assert_int_equal(node_table_new(&t, key, UINT64_MAX, release), 0);
	root = make_root(t);
	a = enter(t, root, "a");
	b = enter(t, a, "b");
	a_ino = a->ino;
	b_ino = b->ino;
	assert_int_not_equal(a_ino, b_ino);
	assert_ptr_equal(enter(t, root, "a"), a);
	node_put(t, a);
	node_put(t, a);
	node_put(t, b);

	/* Looked up twice: the parent also stays for its child. */
	node_forget(t, a_ino, 2);
	assert_int_equal(node_count(t), 3);
	a = node_get(t, a_ino);
	assert_non_null(a);
	node_put(t, a);
	node_forget(t, b_ino, 1);
	assert_int_equal(released, 2);
	assert_int_equal(node_count(t), 1);
	assert_null(node_get(t, a_ino));

	/* Forgetting what is not there, or too often, does no harm. */
	node_forget(t, b_ino, 1);
	a = enter(t, root, "a");
	assert_int_equal(a->ino, a_ino);
	node_forget(t, a_ino, 1000);
	assert_int_equal(node_count(t), 2);
	node_put(t, a);
	assert_int_equal(node_count(t), 1);
	node_table_free(t);
	assert_int_equal(released, 4);
}

/* The same names give the same numbers under one key, and others under another. */
static void
test_stable_numbers(void **state)
{
	static const uint8_t other[32] = "another key";
	struct node_table *t[3];
	struct node_id id[3];

	(void)state;
	assert_int_equal(node_table_new(&t[0], key, UINT64_MAX, release), 0);
	assert_int_equal(node_table_new(&t[1], key, UINT64_MAX, release), 0);
	assert_int_equal(node_table_new(&t[2], other, UINT64_MAX, release), 0);
	for (int i = 0; i < 3; i++)
		node_identify(t[i], 77, "name", 4, &id[i]);
	assert_int_equal(id[0].ino, id[1].ino);
	assert_int_not_equal(id[0].ino, id[2].ino);
	assert_true(id[0].ino > NODE_ROOT_INO);
	for (int i = 0; i < 3; i++)
		node_table_free(t[i]);
}

static void
test_collisions(void **state)
{
	struct node_table *t;
	struct node *root, *n[NAMES];
	uint64_t ino[NAMES];
	char name[16];

	(void)state;
	assert_int_equal(node_table_new(&t, key, FEW_NUMBERS, release), 0);
	root = make_root(t);
	for (int i = 0; i < NAMES; i++) {
		snprintf(name, sizeof(name), "name%d", i);
		n[i] = enter(t, root, name);
		assert_non_null(n[i]);
		ino[i] = n[i]->ino;
		assert_true(ino[i] > NODE_ROOT_INO);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(ino[k], ino[i]);
	}
	/* Forgotten and looked up the other way round, each has the number it had. */
	for (int i = 0; i < NAMES; i++) {
		node_put(t, n[i]);
		node_forget(t, ino[i], 1);
	}
	assert_int_equal(node_count(t), 1);
	for (int i = NAMES - 1; i >= 0; i--) {
		snprintf(name, sizeof(name), "name%d", i);
		n[i] = enter(t, root, name);
		assert_int_equal(n[i]->ino, ino[i]);
	}
	for (int i = 0; i < NAMES; i++)
		node_put(t, n[i]);
	node_table_free(t);
}

/* Many nodes: the table grows, and nothing is lost. */
static void
test_growth(void **state)
{
	enum { MANY = 20000 };
	struct node_table *t;
	struct node *root;
	char name[16];

	(void)state;
	assert_int_equal(node_table_new(&t, key, UINT64_MAX, release), 0);
	root = make_root(t);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "%d", i);
		node_put(t, enter(t, root, name));
	}
	assert_int_equal(node_count(t), MANY + 1);
	for (int i = 0; i < MANY; i++) {
		struct node_id id;
		struct node *n;

		snprintf(name, sizeof(name), "%d", i);
		node_identify(t, root->ino, name, strlen(name), &id);
		n = node_find(t, &id, 0);
		assert_non_null(n);
		assert_string_equal(n->name, name);
		node_put(t, n);
		node_forget(t, n->ino, 1);
	}
	assert_int_equal(node_count(t), 1);
	node_table_free(t);
}

/* When memory runs out inside, the table is as before, and a retry works. */
static void
test_faults(void **state)
{
	bool failed = true;

	(void)state;
	for (uint64_t nth = 1; failed; nth++) {
		struct node_table *t;
		int rc;

		sys_fault_arm(nth, ENOMEM);
		rc = node_table_new(&t, key, FEW_NUMBERS, release);
		failed = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, failed ? ERR_NOMEM : 0);
		if (!rc)
			node_table_free(t);
		else
			assert_null(t);
		assert_true(nth < 100);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_references),
		cmocka_unit_test(test_stable_numbers),
		cmocka_unit_test(test_collisions),
		cmocka_unit_test(test_growth),
		cmocka_unit_test(test_faults),
	};

	if (secret_init())
		return 1;
	return cmocka_run_group_tests_name("node", tests, NULL, NULL);
}
