/* What store/backend.c does itself, over a back end whose answers the test chooses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/backend_ops.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* An object of bytes 'x', whose length may change between the calls. */
struct fake {
	uint64_t told;  /* by stat */
	uint64_t bytes; /* that get finds */
	int gets, stats, closed;
};

static int
fake_get(void *self, const char *name, uint64_t off, void *buf, size_t len, size_t *got)
{
	struct fake *f = self;
	uint64_t left = off < f->bytes ? f->bytes - off : 0;

	(void)name;
	f->gets++;
	*got = left < len ? (size_t)left : len;
	memset(buf, 'x', *got);
	return 0;
}

static int
fake_stat(void *self, const char *name, struct object_info *info)
{
	struct fake *f = self;

	(void)name;
	f->stats++;
	info->bytes = f->told;
	info->modified_us = 0;
	return 0;
}

static void
fake_close(void *self)
{
	((struct fake *)self)->closed++;
}

static const struct backend_ops ops = {
	.get = fake_get,
	.stat = fake_stat,
	.close = fake_close,
};
static const struct backend_caps caps = { .pack_bytes = 1 };

/* Get all of an object that is as told, and check what comes. */
static int
get_all(uint64_t told, uint64_t bytes, size_t max, int *gets)
{
	struct fake f = { .told = told, .bytes = bytes };
	struct backend *b;
	void *data;
	size_t len;
	int rc;

	assert_int_equal(backend_new(&b, "fake:", &ops, &f, &caps), 0);
	rc = backend_get_all(b, "a", max, &data, &len);
	if (rc == 0) {
		assert_int_equal(len, bytes);
		for (size_t i = 0; i < len; i += 1000)
			assert_int_equal(((char *)data)[i], 'x');
	} else {
		assert_null(data);
		assert_int_equal(len, 0);
	}
	free(data);
	backend_close(b);
	assert_int_equal(f.closed, 1);
	*gets = f.gets + f.stats;
	return rc;
}

static void
small_objects_take_one_call(void **state)
{
	int calls;

	(void)state;
	assert_int_equal(get_all(0, 0, 1 << 20, &calls), 0);
	assert_int_equal(calls, 1);
	assert_int_equal(get_all(65535, 65535, 1 << 20, &calls), 0);
	assert_int_equal(calls, 1);
	assert_int_equal(get_all(65536, 65536, 1 << 20, &calls), 0);
	assert_int_equal(calls, 3);
	assert_int_equal(get_all(1 << 20, 1 << 20, 1 << 20, &calls), 0);
	assert_int_equal(calls, 3);
	assert_int_equal(get_all(0, 0, 0, &calls), 0);
}

static void
the_maximum_holds(void **state)
{
	int calls;

	(void)state;
	assert_int_equal(get_all(1, 1, 0, &calls), ERR_DAMAGED);
	assert_int_equal(get_all(101, 101, 100, &calls), ERR_DAMAGED);
	assert_int_equal(get_all(65537, 65537, 65536, &calls), ERR_DAMAGED);
	/* A length from elsewhere never makes it reserve memory. */
	assert_int_equal(get_all(UINT64_MAX, 70000, 1 << 20, &calls), ERR_DAMAGED);
}

static void
an_object_that_changes_is_damage(void **state)
{
	int calls;

	(void)state;
	assert_int_equal(get_all(60000, 70000, 1 << 20, &calls), ERR_DAMAGED);
	assert_int_equal(get_all(80000, 70000, 1 << 20, &calls), ERR_DAMAGED);
}

static void
what_is_not_offered_is_told(void **state)
{
	struct fake f = { 0 };
	struct backend *b;
	uint64_t avail, total;

	(void)state;
	assert_int_equal(backend_new(&b, "fake:there", &ops, &f, &caps), 0);
	assert_int_equal(backend_space(b, &avail, &total), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "fake:there"));
	backend_close(b);
}

static void
memory_can_run_out(void **state)
{
	struct fake f = { .told = 70000, .bytes = 70000 };
	bool faulted = true;
	struct backend *b;
	int closed = 0;

	(void)state;
	for (uint64_t n = 1; faulted; n++) {
		int rc;

		sys_fault_arm(n, ENOMEM);
		rc = backend_new(&b, "fake:", &ops, &f, &caps);
		faulted = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
		assert_true(faulted == !b);
		/* It takes `self`, also on error. */
		assert_int_equal(f.closed, closed += faulted);
	}
	assert_int_equal(closed, 2);
	faulted = true;
	for (uint64_t n = 1; faulted; n++) {
		void *data;
		size_t len;
		int rc;

		sys_fault_arm(n, ENOMEM);
		rc = backend_get_all(b, "a", 1 << 20, &data, &len);
		faulted = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
		assert_true(faulted == !data);
		assert_true(faulted || n == 3);
		free(data);
	}
	backend_close(b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_objects_take_one_call),
		cmocka_unit_test(the_maximum_holds),
		cmocka_unit_test(an_object_that_changes_is_damage),
		cmocka_unit_test(what_is_not_offered_is_told),
		cmocka_unit_test(memory_can_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
