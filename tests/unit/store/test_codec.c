/* Codec: content comes back, of its exact length, and nothing else does. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/codec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEN   (64u << 10)
#define LARGE (4u << 20)

static uint64_t seed = 1;

static uint32_t
next(void)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33);
}

static uint8_t *
noise(size_t n)
{
	uint8_t *p = malloc(n ? n : 1);

	assert_non_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(next() >> 7);
	return p;
}

/* Rows of text that differ a little, as tables have them. */
static uint8_t *
rows(size_t n)
{
	uint8_t *p = malloc(n + 64);
	size_t off = 0;

	assert_non_null(p);
	while (off < n)
		off += (size_t)snprintf(
		    (char *)p + off, 64, "patient %08u ward %u\n", next(), next() % 9);
	return p;
}

struct fixture {
	struct codec *c;
	uint8_t *encoded; /* room for codec_bound(LARGE) */
	uint8_t *out;     /* LARGE */
};

static int
set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	if (!x)
		return -1;
	x->encoded = malloc(codec_bound(LARGE));
	x->out = malloc(LARGE);
	*state = x;
	return codec_new(&x->c, 1);
}

static int
tear_down(void **state)
{
	struct fixture *x = *state;

	codec_free(x->c);
	free(x->encoded);
	free(x->out);
	free(x);
	return 0;
}

static void
round_trip(struct fixture *x, const uint8_t *data, size_t len, enum encoding expected)
{
	enum encoding encoding;
	size_t n;

	assert_int_equal(codec_encode(x->c, data, len, x->encoded, &n, &encoding), 0);
	assert_int_equal(encoding, expected);
	assert_true(n <= codec_bound(len));
	if (encoding == ENCODING_ZSTD)
		assert_true(n * 100 <= len * 97);
	else
		assert_int_equal(n, len);
	memset(x->out, 0xa5, len);
	assert_int_equal(codec_decode(x->c, encoding, x->encoded, n, NULL, 0, x->out, len), 0);
	assert_memory_equal(x->out, data, len);
}

static void
content_comes_back(void **state)
{
	static const size_t lengths[] = { 0, 1, 2, 31, 100, 1000, 8192, LEN - 1, LEN, LEN + 1,
		LARGE };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		size_t len = lengths[i];
		uint8_t *text = rows(len), *random = noise(len), *zeros = calloc(1, len + 1);

		assert_non_null(zeros);
		round_trip(*state, random, len, ENCODING_RAW);
		if (len >= 1000)
			round_trip(*state, text, len, ENCODING_ZSTD);
		if (len >= 31)
			round_trip(*state, zeros, len, ENCODING_ZSTD);
		free(text);
		free(random);
		free(zeros);
	}
}

static void
every_level_reads_every_other(void **state)
{
	static const int levels[] = { -7, -3, 1, 3, 9, 19 };
	struct fixture *x = *state;
	uint8_t *text = rows(LEN), *encoded = malloc(codec_bound(LEN));
	enum encoding encoding;
	size_t n;

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		struct codec *c;

		assert_int_equal(codec_new(&c, levels[i]), 0);
		assert_int_equal(codec_encode(c, text, LEN, encoded, &n, &encoding), 0);
		assert_int_equal(encoding, ENCODING_ZSTD);
		assert_int_equal(codec_decode(x->c, encoding, encoded, n, NULL, 0, x->out, LEN), 0);
		assert_memory_equal(x->out, text, LEN);
		codec_free(c);
	}
	free(text);
	free(encoded);
	codec_free(NULL);
}

static void
a_change_costs_what_it_changes(void **state)
{
	static const size_t lengths[][2] = { { LEN, LEN }, { LEN, 8192 }, { 8192, LEN }, { 1, LEN },
		{ LEN, 1 }, { LARGE, LARGE } };
	struct fixture *x = *state;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		size_t base_len = lengths[i][0], len = lengths[i][1], n;
		/* Noise, so that all that is small is small because of the base. */
		uint8_t *base = noise(base_len), *data = noise(len);
		size_t same = base_len < len ? base_len : len;

		memcpy(data, base, same);
		for (int k = 0; k < 10 && len > 100; k++)
			data[next() % len] ^= 1;
		assert_int_equal(codec_encode_delta(x->c, data, len, base, base_len,
				     codec_bound(len), x->encoded, &n),
		    0);
		assert_true(n <= len - same + len / 1000 + 400);
		memset(x->out, 0xa5, len);
		assert_int_equal(
		    codec_decode(x->c, ENCODING_DELTA, x->encoded, n, base, base_len, x->out, len),
		    0);
		assert_memory_equal(x->out, data, len);
		free(base);
		free(data);
	}
}

/* The first bytes of a base could be taken for a trained dictionary's; it is raw content. */
static void
a_base_is_never_a_dictionary(void **state)
{
	static const uint8_t magic[] = { 0x37, 0xa4, 0x30, 0xec };
	struct fixture *x = *state;
	uint8_t *base = noise(LEN), *data = malloc(LEN);
	size_t n;

	assert_non_null(data);
	memcpy(base, magic, sizeof(magic));
	memcpy(data, base, LEN);
	assert_int_equal(codec_encode_delta(x->c, data, LEN, base, LEN, LEN, x->encoded, &n), 0);
	assert_true(n < 100);
	assert_int_equal(
	    codec_decode(x->c, ENCODING_DELTA, x->encoded, n, base, LEN, x->out, LEN), 0);
	assert_memory_equal(x->out, base, LEN);
	free(data);
	free(base);
}

static void
a_long_delta_is_given_up(void **state)
{
	struct fixture *x = *state;
	uint8_t *base = noise(LEN), *data = noise(LEN), *text = rows(LEN), *exact;
	size_t n, m;

	assert_int_equal(
	    codec_encode_delta(x->c, data, LEN, base, LEN, LEN / 3, x->encoded, &n), 1);
	assert_int_equal(codec_encode_delta(x->c, data, LEN, base, LEN, 0, x->encoded, &n), 1);
	/* The limit is exact. */
	assert_int_equal(codec_encode_delta(x->c, text, LEN, base, LEN, LEN, x->encoded, &n), 0);
	exact = malloc(codec_bound(LEN));
	assert_non_null(exact);
	assert_int_equal(codec_encode_delta(x->c, text, LEN, base, LEN, n, exact, &m), 0);
	assert_int_equal(m, n);
	assert_int_equal(codec_encode_delta(x->c, text, LEN, base, LEN, n - 1, exact, &m), 1);
	/* What was given up leaves nothing behind in the context. */
	round_trip(x, text, LEN, ENCODING_ZSTD);
	free(exact);
	free(base);
	free(data);
	free(text);
}

static void
too_wide_for_a_window(void **state)
{
	struct fixture *x = *state;
	size_t half = 8u << 20, n;
	uint8_t *base = calloc(2, half + 1);

	assert_non_null(base);
	assert_int_equal(
	    codec_encode_delta(x->c, base, LEN, base, 2 * half - LEN + 1, LEN, x->encoded, &n), 1);
	assert_int_equal(
	    codec_encode_delta(x->c, base, LEN, base, 2 * half - LEN, LEN, x->encoded, &n), 0);
	free(base);
}

static int
decode(struct fixture *x, enum encoding encoding, size_t n, size_t len)
{
	return codec_decode(x->c, encoding, x->encoded, n, NULL, 0, x->out, len);
}

static void
only_the_exact_length_decodes(void **state)
{
	struct fixture *x = *state;
	uint8_t *text = rows(LEN);
	enum encoding encoding;
	size_t n;

	assert_int_equal(codec_encode(x->c, text, LEN, x->encoded, &n, &encoding), 0);
	assert_int_equal(decode(x, encoding, n, LEN - 1), ERR_DAMAGED);
	assert_int_equal(decode(x, encoding, n, LEN + 1), ERR_DAMAGED);
	assert_int_equal(decode(x, encoding, n, 0), ERR_DAMAGED);
	for (size_t cut = 0; cut < n; cut += cut < 40 ? 1 : 101)
		assert_int_equal(decode(x, encoding, cut, LEN), ERR_DAMAGED);
	memset(x->encoded + n, 0, 16);
	assert_int_equal(decode(x, encoding, n + 16, LEN), ERR_DAMAGED);
	assert_int_equal(decode(x, encoding, n, LEN), 0);
	assert_memory_equal(x->out, text, LEN);
	memcpy(x->encoded, text, LEN);
	assert_int_equal(decode(x, ENCODING_RAW, LEN, LEN - 1), ERR_DAMAGED);
	assert_int_equal(decode(x, ENCODING_RAW, LEN - 1, LEN), ERR_DAMAGED);
	assert_int_equal(decode(x, (enum encoding)3, LEN, LEN), ERR_DAMAGED);
	free(text);
}

/* zstd must never write past what it was given, nor read past the input; ASan watches. */
static void
damage_is_contained(void **state)
{
	struct fixture *x = *state;
	uint8_t *text = rows(8192), *base = rows(8192), *out = malloc(8192);
	enum encoding encoding;
	size_t n, dn;
	uint8_t *plain, *delta;

	assert_non_null(out);
	assert_int_equal(codec_encode(x->c, text, 8192, x->encoded, &n, &encoding), 0);
	plain = malloc(n);
	assert_non_null(plain);
	memcpy(plain, x->encoded, n);
	assert_int_equal(
	    codec_encode_delta(x->c, text, 8192, base, 8192, 8192, x->encoded, &dn), 0);
	delta = malloc(dn);
	assert_non_null(delta);
	memcpy(delta, x->encoded, dn);
	for (int i = 0; i < 20000; i++) {
		uint8_t *p = i % 2 ? delta : plain;
		size_t at = next() % (i % 2 ? dn : n);
		uint8_t bit = (uint8_t)(1u << next() % 8);
		int rc;

		p[at] ^= bit;
		rc = i % 2 ? codec_decode(x->c, ENCODING_DELTA, delta, dn, base, 8192, out, 8192)
			   : codec_decode(x->c, ENCODING_ZSTD, plain, n, NULL, 0, out, 8192);
		/* Without a checksum, which sealing has, some damage gives other content. */
		assert_true(rc == 0 || rc == ERR_DAMAGED);
		p[at] ^= bit;
	}
	assert_int_equal(codec_decode(x->c, ENCODING_ZSTD, plain, n, NULL, 0, out, 8192), 0);
	assert_memory_equal(out, text, 8192);
	assert_int_equal(
	    codec_decode(x->c, ENCODING_DELTA, delta, dn, NULL, 0, out, 8192), ERR_DAMAGED);
	assert_int_equal(codec_decode(x->c, ENCODING_DELTA, delta, dn, base, 8192, out, 8192), 0);
	assert_memory_equal(out, text, 8192);
	free(plain);
	free(delta);
	free(text);
	free(base);
	free(out);
}

static void
memory_can_run_out(void **state)
{
	struct fixture *x = *state;
	uint8_t *data = noise(LEN), *base = noise(LEN);
	bool faulted = true;
	size_t n;

	memcpy(base, data, LEN);

	for (uint64_t nth = 1; faulted; nth++) {
		struct codec *c;
		int rc;

		assert_true(nth < 10);
		sys_fault_arm(nth, ENOMEM);
		rc = codec_new(&c, 1);
		faulted = sys_fault_happened();
		sys_fault_arm(0, 0);
		assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
		assert_true(faulted == !c);
		assert_true(faulted || nth == 4);
		codec_free(c);
	}
	assert_int_equal(codec_encode_delta(x->c, data, LEN, base, LEN, LEN, x->encoded, &n), 0);
	sys_fault_arm(1, ENOMEM);
	assert_int_equal(
	    codec_decode(x->c, ENCODING_DELTA, x->encoded, n, base, LEN, x->out, LEN), ERR_NOMEM);
	sys_fault_arm(0, 0);
	assert_int_equal(
	    codec_decode(x->c, ENCODING_DELTA, x->encoded, n, base, LEN, x->out, LEN), 0);
	free(data);
	free(base);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(content_comes_back),
		cmocka_unit_test(every_level_reads_every_other),
		cmocka_unit_test(a_change_costs_what_it_changes),
		cmocka_unit_test(a_base_is_never_a_dictionary),
		cmocka_unit_test(a_long_delta_is_given_up),
		cmocka_unit_test(too_wide_for_a_window),
		cmocka_unit_test(only_the_exact_length_decodes),
		cmocka_unit_test(damage_is_contained),
		cmocka_unit_test(memory_can_run_out),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
