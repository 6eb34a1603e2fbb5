#include "store/base/parallel.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

int
parallel_cpus(void)
{
	cpu_set_t set;
	int n = 0;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = CPU_COUNT(&set);
	return n > 0 ? n : 1;
}

enum gate {
	GATE_SHUT,
	GATE_OPEN,
	GATE_CANCELLED,
};

/* One parallel_run().  `lock` protects `gate` and `first`. */
struct run {
	int (*fn)(void *arg, int worker);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	enum gate gate;
	struct err_saved first;
};

struct worker {
	struct run *run;
	int number;
	pthread_t thread;
};

static void *
work(void *arg)
{
	struct worker *w = arg;
	struct run *run = w->run;
	int rc;

	/*
	 * Nobody starts before all threads exist: workers may wait for one another, and would wait
	 * for ever for one that could not be made.
	 */
	pthread_mutex_lock(&run->lock);
	while (run->gate == GATE_SHUT)
		pthread_cond_wait(&run->moved, &run->lock);
	rc = run->gate == GATE_CANCELLED ? 1 : 0;
	pthread_mutex_unlock(&run->lock);
	if (rc)
		return NULL;

	rc = run->fn(run->arg, w->number);
	if (rc) {
		pthread_mutex_lock(&run->lock);
		if (run->first.code == 0)
			err_save(&run->first, rc);
		pthread_mutex_unlock(&run->lock);
	}
	return NULL;
}

/* Make the threads and let them go; `*made` of them are to be joined, also on error. */
static int
start(struct run *run, struct worker *workers, int n, int *made)
{
	int rc = 0;

	for (*made = 0; *made < n; (*made)++) {
		struct worker *w = &workers[*made];

		w->run = run;
		w->number = *made;
		if (sys_fault_point() || pthread_create(&w->thread, NULL, work, w)) {
			rc = err_set(ERR_NOMEM, "cannot start thread %d of %d: out of resources",
			    *made + 1, n);
			break;
		}
	}
	pthread_mutex_lock(&run->lock);
	run->gate = rc ? GATE_CANCELLED : GATE_OPEN;
	pthread_cond_broadcast(&run->moved);
	pthread_mutex_unlock(&run->lock);
	return rc;
}

int
parallel_run(int n, int (*fn)(void *arg, int worker), void *arg)
{
	struct run run = { .fn = fn, .arg = arg };
	struct worker *workers;
	int made, rc;

	assert(n >= 1);
	if (n == 1)
		return fn(arg, 0);
	workers = mem_calloc((size_t)n, sizeof(*workers));
	if (!workers)
		return err_nomem();
	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.moved, NULL);
	rc = start(&run, workers, n, &made);
	for (int i = 0; i < made; i++)
		pthread_join(workers[i].thread, NULL);
	if (rc == 0 && run.first.code)
		rc = err_restore(&run.first);
	pthread_cond_destroy(&run.moved);
	pthread_mutex_destroy(&run.lock);
	free(workers);
	return rc;
}

/* A ring of `capacity` slots, `count` of them used from `head` on.  `lock` protects the rest. */
struct queue {
	pthread_mutex_t lock;
	pthread_cond_t not_full;
	pthread_cond_t not_empty;
	size_t capacity;
	size_t head;
	size_t count;
	bool closed;
	bool aborted;
	void *slots[];
};

int
queue_new(struct queue **out, size_t capacity)
{
	struct queue *q;

	*out = NULL;
	assert(capacity > 0);
	q = mem_alloc(sizeof(*q) + capacity * sizeof(q->slots[0]));
	if (!q)
		return err_nomem();
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->not_full, NULL);
	pthread_cond_init(&q->not_empty, NULL);
	q->capacity = capacity;
	*out = q;
	return 0;
}

bool
queue_push(struct queue *q, void *item)
{
	bool taken;

	pthread_mutex_lock(&q->lock);
	while (q->count == q->capacity && !q->closed && !q->aborted)
		pthread_cond_wait(&q->not_full, &q->lock);
	taken = !q->closed && !q->aborted;
	if (taken) {
		q->slots[(q->head + q->count) % q->capacity] = item;
		q->count++;
		pthread_cond_signal(&q->not_empty);
	}
	pthread_mutex_unlock(&q->lock);
	return taken;
}

/* The oldest item, which must exist; the lock is held. */
static void *
take_oldest(struct queue *q)
{
	void *item = q->slots[q->head];

	q->head = (q->head + 1) % q->capacity;
	q->count--;
	pthread_cond_signal(&q->not_full);
	return item;
}

bool
queue_pop(struct queue *q, void **item)
{
	bool given;

	pthread_mutex_lock(&q->lock);
	while (q->count == 0 && !q->closed && !q->aborted)
		pthread_cond_wait(&q->not_empty, &q->lock);
	given = q->count > 0 && !q->aborted;
	if (given)
		*item = take_oldest(q);
	pthread_mutex_unlock(&q->lock);
	return given;
}

static void
end(struct queue *q, bool *flag)
{
	pthread_mutex_lock(&q->lock);
	*flag = true;
	pthread_cond_broadcast(&q->not_full);
	pthread_cond_broadcast(&q->not_empty);
	pthread_mutex_unlock(&q->lock);
}

void
queue_close(struct queue *q)
{
	end(q, &q->closed);
}

void
queue_abort(struct queue *q)
{
	end(q, &q->aborted);
}

bool
queue_aborted(struct queue *q)
{
	bool aborted;

	pthread_mutex_lock(&q->lock);
	aborted = q->aborted;
	pthread_mutex_unlock(&q->lock);
	return aborted;
}

bool
queue_drain(struct queue *q, void **item)
{
	bool given;

	pthread_mutex_lock(&q->lock);
	given = q->count > 0;
	if (given)
		*item = take_oldest(q);
	pthread_mutex_unlock(&q->lock);
	return given;
}

void
queue_free(struct queue *q)
{
	if (!q)
		return;
	assert(q->count == 0);
	pthread_cond_destroy(&q->not_empty);
	pthread_cond_destroy(&q->not_full);
	pthread_mutex_destroy(&q->lock);
	free(q);
}
