#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

struct crew {
	_Atomic unsigned seen; /* a bit per worker */
	pthread_barrier_t barrier;
	int failing;
	pthread_t caller;
	bool in_caller;
};

static int
meet_the_others(void *arg, int worker)
{
	struct crew *c = arg;

	atomic_fetch_or(&c->seen, 1u << worker);
	pthread_barrier_wait(&c->barrier);
	return 0;
}

static void
workers_run_side_by_side(void **state)
{
	struct crew c = { 0 };

	(void)state;
	pthread_barrier_init(&c.barrier, NULL, 8);
	assert_int_equal(parallel_run(8, meet_the_others, &c), 0);
	assert_int_equal(c.seen, 0xff);
	pthread_barrier_destroy(&c.barrier);
}

static int
note_thread(void *arg, int worker)
{
	struct crew *c = arg;

	c->in_caller = worker == 0 && pthread_equal(c->caller, pthread_self());
	return err_set(ERR_BUSY, "alone");
}

static void
one_worker_is_the_caller(void **state)
{
	struct crew c = { .caller = pthread_self() };

	(void)state;
	assert_int_equal(parallel_run(1, note_thread, &c), ERR_BUSY);
	assert_true(c.in_caller);
	assert_string_equal(err_msg(), "alone");
}

static int
fail_in_order(void *arg, int worker)
{
	struct crew *c = arg;

	if (worker == c->failing) {
		int rc = err_set(ERR_NOSPACE, "worker %d is out of room", worker);

		atomic_store(&c->seen, 1);
		return rc;
	}
	/* The others fail only long after the first. */
	while (!atomic_load(&c->seen))
		usleep(1000);
	usleep(50000);
	return err_set(ERR_CANCELLED, "stopped");
}

static void
first_error_and_message_win(void **state)
{
	(void)state;
	for (int failing = 0; failing < 3; failing++) {
		struct crew c = { .failing = failing };

		err_set(ERR_FAIL, "an old message");
		assert_int_equal(parallel_run(3, fail_in_order, &c), ERR_NOSPACE);
		assert_non_null(strstr(err_msg(), "is out of room"));
	}
}

/* Workers that wait for one another must not hang when a thread cannot be made. */
static void
all_or_nobody_starts(void **state)
{
	uint64_t n;

	(void)state;
	for (n = 1;; n++) {
		struct crew c = { 0 };
		bool faulted;
		int rc;

		pthread_barrier_init(&c.barrier, NULL, 4);
		sys_fault_arm(n, ENOMEM);
		rc = parallel_run(4, meet_the_others, &c);
		faulted = sys_fault_happened();
		sys_fault_arm(0, 0);
		pthread_barrier_destroy(&c.barrier);
		if (!faulted) {
			assert_int_equal(rc, 0);
			assert_int_equal(c.seen, 0xf);
			break;
		}
		assert_int_equal(rc, ERR_NOMEM);
		assert_int_equal(c.seen, 0);
	}
	assert_true(n > 4);
}

static void
counts_processors(void **state)
{
	(void)state;
	assert_true(parallel_cpus() >= 1);
	assert_true(parallel_cpus() <= sysconf(_SC_NPROCESSORS_CONF));
}

/* ---- queue ---- */

#define ITEMS 2000

struct traffic {
	struct queue *q;
	int items[ITEMS];
	_Atomic int pushed, popped;
	_Atomic int producers;
};

static int
produce_or_consume(void *arg, int worker)
{
	struct traffic *t = arg;
	void *item;

	if (worker < 2) {
		for (int i = worker; i < ITEMS; i += 2) {
			if (!queue_push(t->q, &t->items[i]))
				return err_set(ERR_FAIL, "push refused");
			atomic_fetch_add(&t->pushed, 1);
		}
		if (atomic_fetch_sub(&t->producers, 1) == 1)
			queue_close(t->q);
		return 0;
	}
	while (queue_pop(t->q, &item)) {
		(*(int *)item)++;
		atomic_fetch_add(&t->popped, 1);
	}
	return 0;
}

static void
every_item_arrives_once(void **state)
{
	static struct traffic t;

	(void)state;
	memset(&t, 0, sizeof(t));
	t.producers = 2;
	assert_int_equal(queue_new(&t.q, 3), 0);
	assert_int_equal(parallel_run(5, produce_or_consume, &t), 0);
	assert_int_equal(t.pushed, ITEMS);
	assert_int_equal(t.popped, ITEMS);
	for (int i = 0; i < ITEMS; i++)
		assert_int_equal(t.items[i], 1);
	queue_free(t.q);
}

static void
keeps_order_and_closes(void **state)
{
	int items[5];
	struct queue *q;
	void *item;

	(void)state;
	assert_int_equal(queue_new(&q, 3), 0);
	for (int round = 0; round < 4; round++) {
		assert_true(queue_push(q, &items[0]));
		assert_true(queue_push(q, &items[1]));
		assert_true(queue_pop(q, &item));
		assert_ptr_equal(item, &items[0]);
		assert_true(queue_push(q, &items[2]));
		assert_true(queue_pop(q, &item));
		assert_ptr_equal(item, &items[1]);
		assert_true(queue_pop(q, &item));
		assert_ptr_equal(item, &items[2]);
	}
	assert_false(queue_drain(q, &item));
	assert_true(queue_push(q, &items[3]));
	queue_close(q);
	assert_false(queue_push(q, &items[4]));
	assert_true(queue_pop(q, &item));
	assert_ptr_equal(item, &items[3]);
	assert_false(queue_pop(q, &item));
	assert_false(queue_aborted(q));
	queue_free(q);
	queue_free(NULL);
}

static int
wait_or_abort(void *arg, int worker)
{
	struct queue *full = ((struct queue **)arg)[0], *empty = ((struct queue **)arg)[1];
	static int item;
	void *got;

	switch (worker) {
	case 0:
		return queue_push(full, &item) ? err_set(ERR_FAIL, "pushed into a full queue") : 0;
	case 1:
		return queue_pop(empty, &got) ? err_set(ERR_FAIL, "popped from an empty queue") : 0;
	default:
		usleep(20000);
		queue_abort(full);
		queue_abort(empty);
		return 0;
	}
}

static void
abort_wakes_everyone(void **state)
{
	struct queue *q[2];
	int first;
	void *item;

	(void)state;
	assert_int_equal(queue_new(&q[0], 1), 0);
	assert_int_equal(queue_new(&q[1], 1), 0);
	assert_true(queue_push(q[0], &first));
	assert_int_equal(parallel_run(3, wait_or_abort, q), 0);
	assert_true(queue_aborted(q[0]));
	/* What is inside is only to be had by draining. */
	assert_false(queue_pop(q[0], &item));
	assert_true(queue_drain(q[0], &item));
	assert_ptr_equal(item, &first);
	assert_false(queue_drain(q[0], &item));
	queue_free(q[0]);
	queue_free(q[1]);
}

static void
no_memory_for_a_queue(void **state)
{
	struct queue *q;

	(void)state;
	sys_fault_arm(1, ENOMEM);
	assert_int_equal(queue_new(&q, 4), ERR_NOMEM);
	sys_fault_arm(0, 0);
	assert_null(q);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workers_run_side_by_side),
		cmocka_unit_test(one_worker_is_the_caller),
		cmocka_unit_test(first_error_and_message_win),
		cmocka_unit_test(all_or_nobody_starts),
		cmocka_unit_test(counts_processors),
		cmocka_unit_test(every_item_arrives_once),
		cmocka_unit_test(keeps_order_and_closes),
		cmocka_unit_test(abort_wakes_everyone),
		cmocka_unit_test(no_memory_for_a_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
