/*
 * parallel: run one function in several threads, and a bounded queue between threads.
 *
 * The first error of any thread wins: its code and message become the caller's.  A failing thread
 * should make the others stop through whatever they share (a queue: queue_abort()).
 */
#ifndef STORE_BASE_PARALLEL_H
#define STORE_BASE_PARALLEL_H

#include <stdbool.h>
#include <stddef.h>

/* Processors this process may run on; at least 1. */
int parallel_cpus(void);

/*
 * Call fn(arg, 0 … n-1), each in a thread of its own (in the caller's thread when n is 1), and
 * wait for all.  Returns 0 or the first error.  Errors: fn's, ERR_NOMEM.
 */
int parallel_run(int n, int (*fn)(void *arg, int worker), void *arg);

/* A bounded first-in first-out queue of pointers. */
struct queue;
int queue_new(struct queue **out, size_t capacity);
/* Append `item`; waits while full.  False if the queue was closed or aborted: item not taken. */
bool queue_push(struct queue *q, void *item);
/* The oldest item; waits while empty.  False when closed and drained, or aborted. */
bool queue_pop(struct queue *q, void **item);
/* No more pushes; what is inside can still be popped. */
void queue_close(struct queue *q);
/* Wake everyone; push and pop fail from now on.  Items inside are taken out by queue_drain(). */
void queue_abort(struct queue *q);
bool queue_aborted(struct queue *q);
/* Without waiting: an item left inside, also after an abort; false when empty. */
bool queue_drain(struct queue *q, void **item);
/* Free an empty queue that nobody uses; NULL is allowed. */
void queue_free(struct queue *q);

#endif
