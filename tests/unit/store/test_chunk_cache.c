/*
 * The cache of decoded chunks: claims, waiting, leaving by age, many threads at once.
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
#include "store/chunk_cache.h"
#include "store/repo.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ids of one shard: the last byte is the same. */
static struct chunk_id
id_of(uint32_t n)
{
	struct chunk_id id = { { 0 } };

	le32_store(id.b, n);
	return id;
}

static struct chunk *
make(uint32_t n, size_t len)
{
	struct chunk_id id = id_of(n);
	struct chunk *c = chunk_new(&id, len);

	assert_non_null(c);
	memset(chunk_buffer(c), (int)(n & 0xff), len);
	return c;
}

/* Load chunk `n` as a reader would; true if it was there already. */
static bool
load(struct chunk_cache *cache, uint32_t n, size_t len)
{
	struct chunk_id id = id_of(n);
	bool claimed;
	struct chunk *c = chunk_cache_get(cache, &id, true, &claimed);
	bool hit = c != NULL;

	if (!c) {
		assert_true(claimed);
		c = make(n, len);
		chunk_cache_fulfil(cache, &id, c);
	}
	assert_int_equal(chunk_len(c), len);
	assert_int_equal(chunk_data(c)[len - 1], n & 0xff);
	chunk_release(c);
	return hit;
}

static void
test_claims(void **state)
{
	struct chunk_id id = id_of(5);
	struct chunk_cache *cache;
	struct chunk *c;
	bool claimed;

	(void)state;
	assert_int_equal(chunk_cache_new(&cache, 1 << 20), 0);
	assert_null(chunk_cache_get(cache, &id, true, &claimed));
	assert_true(claimed);
	/* Somebody else is loading it. */
	assert_null(chunk_cache_get(cache, &id, false, &claimed));
	assert_false(claimed);
	/* A failed load lets the next one try. */
	chunk_cache_fulfil(cache, &id, NULL);
	assert_null(chunk_cache_get(cache, &id, false, &claimed));
	assert_true(claimed);
	c = make(5, 100);
	chunk_cache_fulfil(cache, &id, c);
	chunk_release(c);
	assert_true(load(cache, 5, 100));
	chunk_cache_clear(cache);
	assert_false(load(cache, 5, 100));
	chunk_cache_free(cache);
}

static void
test_eviction(void **state)
{
	struct chunk_id id = id_of(1);
	struct chunk_cache *cache;
	struct chunk *held;
	unsigned hits = 0;
	bool claimed;

	(void)state;
	/* One shard may hold a few of these at most, whatever number of shards there is. */
	assert_int_equal(chunk_cache_new(&cache, 1 << 20), 0);
	assert_false(load(cache, 1, 10000));
	held = chunk_cache_get(cache, &id, true, &claimed);
	assert_non_null(held);
	for (uint32_t n = 2; n < 1000; n++) {
		assert_false(load(cache, n, 10000));
		/* What was used last is what stays. */
		assert_true(load(cache, n, 10000));
	}
	for (uint32_t n = 1; n < 1000; n++) {
		struct chunk_id other = id_of(n);
		struct chunk *c = chunk_cache_get(cache, &other, false, &claimed);

		hits += c != NULL;
		if (claimed)
			chunk_cache_fulfil(cache, &other, NULL);
		chunk_release(c);
	}
	assert_true(hits >= 1 && hits <= (1 << 20) / 10000);
	/* It left the cache, but not him who holds it. */
	assert_int_equal(chunk_data(held)[9999], 1);
	chunk_cache_free(cache);
	assert_int_equal(chunk_data(held)[0], 1);
	chunk_release(held);
}

static void
test_used_stays(void **state)
{
	struct chunk_cache *cache;

	(void)state;
	assert_int_equal(chunk_cache_new(&cache, 1 << 20), 0);
	load(cache, 1, 1000);
	for (uint32_t n = 2; n < 500; n++) {
		load(cache, n, 1000);
		assert_true(load(cache, 1, 1000));
	}
	chunk_cache_free(cache);
}

static void
test_too_large(void **state)
{
	struct chunk_cache *cache;

	(void)state;
	assert_int_equal(chunk_cache_new(&cache, 4096), 0);
	assert_false(load(cache, 1, 1 << 20));
	assert_false(load(cache, 1, 1 << 20));
	chunk_cache_free(cache);
}

struct waiters {
	struct chunk_cache *cache;
	_Atomic int loads, started;
};

static int
waiter_main(void *arg, int worker)
{
	struct chunk_id id = id_of(77);
	struct waiters *w = arg;
	struct chunk *c;
	bool claimed;

	(void)worker;
	w->started++;
	c = chunk_cache_get(w->cache, &id, true, &claimed);
	if (claimed) {
		w->loads++;
		/* The others must be waiting now rather than loading too. */
		while (w->started < 4)
			usleep(1000);
		usleep(20000);
		c = make(77, 50);
		chunk_cache_fulfil(w->cache, &id, c);
	}
	if (!c || chunk_data(c)[49] != 77)
		return ERR_FAIL;
	chunk_release(c);
	return 0;
}

static void
test_waiting(void **state)
{
	struct waiters w = { 0 };

	(void)state;
	assert_int_equal(chunk_cache_new(&w.cache, 1 << 20), 0);
	assert_int_equal(parallel_run(4, waiter_main, &w), 0);
	assert_int_equal(w.loads, 1);
	chunk_cache_free(w.cache);
}

static int
crowd_main(void *arg, int worker)
{
	struct chunk_cache *cache = arg;
	uint32_t s = (uint32_t)worker * 7919 + 1;

	for (int i = 0; i < 5000; i++) {
		struct chunk_id id;
		struct chunk *c;
		bool claimed, wait;
		uint32_t n;

		s = s * 1664525 + 1013904223;
		n = s >> 8 & 0x3f;
		wait = (s >> 20 & 1) != 0;
		id = id_of(n);
		id.b[31] = (uint8_t)n;
		c = chunk_cache_get(cache, &id, wait, &claimed);
		if (claimed) {
			/* One load in eight fails. */
			if ((s >> 24 & 7) != 0) {
				c = chunk_new(&id, 600);
				if (!c)
					return err_nomem();
				memset(chunk_buffer(c), (int)n, 600);
			}
			chunk_cache_fulfil(cache, &id, c);
		}
		if (c && (chunk_data(c)[0] != n || chunk_data(c)[599] != n))
			return err_set(ERR_FAIL, "another chunk's content");
		chunk_release(c);
		if (i % 1000 == 999)
			chunk_cache_clear(cache);
	}
	return 0;
}

static void
test_many_threads(void **state)
{
	struct chunk_cache *cache;

	(void)state;
	assert_int_equal(chunk_cache_new(&cache, 16 << 10), 0);
	assert_int_equal(parallel_run(6, crowd_main, cache), 0);
	chunk_cache_free(cache);
}

/* A cache without memory still answers; it only keeps nothing. */
static void
test_faults(void **state)
{
	struct chunk_id id = id_of(9);
	struct chunk_cache *cache;
	struct chunk *c;
	bool claimed;

	(void)state;
	sys_fault_arm(1, ENOMEM);
	assert_int_equal(chunk_cache_new(&cache, 1 << 20), ERR_NOMEM);
	assert_null(cache);
	sys_fault_arm(0, 0);
	assert_int_equal(chunk_cache_new(&cache, 1 << 20), 0);
	sys_fault_arm(1, ENOMEM);
	assert_null(chunk_cache_get(cache, &id, true, &claimed));
	assert_true(sys_fault_happened());
	sys_fault_arm(0, 0);
	assert_true(claimed);
	c = make(9, 10);
	chunk_cache_fulfil(cache, &id, c);
	chunk_release(c);
	sys_fault_arm(1, ENOMEM);
	assert_null(chunk_new(&id, 10));
	sys_fault_arm(0, 0);
	load(cache, 9, 10);
	assert_true(load(cache, 9, 10));
	chunk_cache_free(cache);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_eviction),
		cmocka_unit_test(test_used_stays),
		cmocka_unit_test(test_too_large),
		cmocka_unit_test(test_waiting),
		cmocka_unit_test(test_many_threads),
		cmocka_unit_test(test_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
