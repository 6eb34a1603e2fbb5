/* The engine of all records of fields: bounds, unknown tags, repetition, truncation. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/record.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum colour {
	RED = 1,
	GREEN = 2,
};

struct thing {
	uint16_t small;
	uint32_t middle;
	uint64_t large;
	enum colour colour;
	int64_t moment;
	bool flag;
	uint8_t id[3];
	char *text;
	char chars[5];
	uint32_t *numbers;
	size_t nnumbers;
};

static int
thing_item(void *obj, uint16_t tag, struct cursor *value)
{
	struct thing *t = obj;
	int rc;

	assert_int_equal(tag, 0x000a);
	rc = record_grow(&t->numbers, t->nnumbers, sizeof(*t->numbers));
	if (rc)
		return rc;
	t->numbers[t->nnumbers++] = cursor_u32(value);
	return value->failed ? err_set(ERR_DAMAGED, "short number") : 0;
}

static const struct record_field fields[] = {
	RECORD_FIELD(0x8001, RECORD_UINT, thing, small, 2, UINT16_MAX),
	RECORD_FIELD(0x0002, RECORD_UINT, thing, middle, 0, 1000),
	RECORD_FIELD(0x0003, RECORD_UINT, thing, large, 0, UINT64_MAX),
	RECORD_FIELD(0x8004, RECORD_ENUM, thing, colour, 1, GREEN),
	RECORD_FIELD(0x0005, RECORD_INT, thing, moment, 0, UINT64_MAX),
	RECORD_FIELD(0x0006, RECORD_BOOL, thing, flag, 0, 1),
	RECORD_FIELD(0x0007, RECORD_FIXED, thing, id, 0, 0),
	RECORD_FIELD(0x0008, RECORD_TEXT, thing, text, 0, 6),
	RECORD_FIELD(0x8009, RECORD_CHARS, thing, chars, 1, 0),
	RECORD_FIELD(0x000a, RECORD_LIST, thing, numbers, 0, 0),
};

static const struct record_layout layout = { "thing", 3, fields, sizeof(fields) / sizeof(fields[0]),
	thing_item };

static void
thing_release(struct thing *t)
{
	free(t->text);
	free(t->numbers);
	memset(t, 0, sizeof(*t));
}

static struct thing
sample(void)
{
	static char text[] = "sixsix";
	struct thing t = {
		.small = UINT16_MAX,
		.middle = 1000,
		.large = UINT64_MAX,
		.colour = GREEN,
		.moment = -5,
		.flag = true,
		.id = { 7, 8, 9 },
		.text = text,
		.chars = "four",
	};

	return t;
}

static void
encode(struct bytes *b, size_t nnumbers)
{
	struct thing t = sample();
	uint8_t number[4];

	bytes_init(b);
	assert_int_equal(record_put(b, &layout, &t), 0);
	for (size_t i = 0; i < nnumbers; i++) {
		le32_store(number, (uint32_t)i);
		bytes_put_field(b, 0x000a, number, sizeof(number));
	}
	record_end(b);
	assert_int_equal(bytes_status(b), 0);
}

static int
decode(const struct bytes *b, struct thing *t)
{
	memset(t, 0, sizeof(*t));
	return record_get(&layout, t, b->data, b->len);
}

/* A record of the three required fields and then `tag` with `value`. */
static int
decode_with(uint16_t tag, const void *value, size_t len, struct thing *t)
{
	struct bytes b;
	int rc;

	bytes_init(&b);
	bytes_put_u32(&b, 3);
	bytes_put_field_u64(&b, 0x8001, 2);
	bytes_put_field_u64(&b, 0x8004, RED);
	bytes_put_field_str(&b, 0x8009, "x");
	if (tag)
		bytes_put_field(&b, tag, value, len);
	record_end(&b);
	rc = decode(&b, t);
	bytes_release(&b);
	return rc;
}

static void
test_round_trip(void **state)
{
	struct thing want = sample(), got;
	struct bytes b;

	(void)state;
	encode(&b, 100);
	assert_int_equal(decode(&b, &got), 0);
	assert_int_equal(got.small, want.small);
	assert_int_equal(got.middle, want.middle);
	assert_true(got.large == want.large);
	assert_int_equal(got.colour, want.colour);
	assert_true(got.moment == want.moment);
	assert_true(got.flag);
	assert_memory_equal(got.id, want.id, 3);
	assert_string_equal(got.text, want.text);
	assert_string_equal(got.chars, want.chars);
	assert_int_equal(got.nnumbers, 100);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(got.numbers[i], i);
	thing_release(&got);
	bytes_release(&b);
}

static void
test_absent_fields(void **state)
{
	struct thing got;

	(void)state;
	assert_int_equal(decode_with(0, NULL, 0, &got), 0);
	assert_int_equal(got.middle, 0);
	assert_false(got.flag);
	assert_string_equal(got.text, "");
	assert_int_equal(got.nnumbers, 0);
	thing_release(&got);
}

static void
test_required_fields(void **state)
{
	static const uint16_t required[] = { 0x8001, 0x8004, 0x8009 };

	(void)state;
	for (size_t without = 0; without < 3; without++) {
		struct thing got;
		struct bytes b;

		bytes_init(&b);
		bytes_put_u32(&b, 3);
		for (size_t i = 0; i < 3; i++) {
			if (i == without)
				continue;
			if (required[i] == 0x8009)
				bytes_put_field_str(&b, 0x8009, "x");
			else
				bytes_put_field_u64(&b, required[i], 2);
		}
		record_end(&b);
		assert_int_equal(decode(&b, &got), ERR_DAMAGED);
		assert_non_null(strstr(err_msg(), "the thing has no"));
		thing_release(&got);
		bytes_release(&b);
	}
}

static void
test_unknown_fields(void **state)
{
	struct thing got;

	(void)state;
	assert_int_equal(decode_with(0x0123, "whatever", 8, &got), 0);
	thing_release(&got);
	assert_int_equal(decode_with(0x8123, "whatever", 8, &got), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "0x8123"));
	assert_non_null(strstr(err_msg(), "upgrade pastfs"));
	thing_release(&got);
}

static void
test_malformed_values(void **state)
{
	static const struct {
		uint16_t tag;
		const char *value;
		size_t len;
		int want;
	} bad[] = {
		{ 0x0002, "\xe8\3\0\0\0\0\0\0", 8, 0 },
		{ 0x0002, "\xe9\3\0\0\0\0\0\0", 8, ERR_DAMAGED },
		{ 0x0002, "\1\0\0\0\1\0\0\0", 8, ERR_DAMAGED },
		{ 0x0002, "\1\0\0\0", 4, ERR_DAMAGED },
		{ 0x0002, "\1\0\0\0\0\0\0\0\0", 9, ERR_DAMAGED },
		{ 0x0006, "\2\0\0\0\0\0\0\0", 8, ERR_DAMAGED },
		{ 0x0007, "ab", 2, ERR_DAMAGED },
		{ 0x0007, "abcd", 4, ERR_DAMAGED },
		{ 0x0008, "sevenxx", 7, ERR_DAMAGED },
		{ 0x0008, "a\0b", 3, ERR_DAMAGED },
		{ 0x000a, "abc", 3, ERR_DAMAGED },
		/* Twice. */
		{ 0x8001, "\2\0\0\0\0\0\0\0", 8, ERR_DAMAGED },
		{ 0x8009, "five5", 5, ERR_DAMAGED },
	};
	struct thing got;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    decode_with(bad[i].tag, bad[i].value, bad[i].len, &got), bad[i].want);
		thing_release(&got);
	}
}

static void
test_single_values(void **state)
{
	static const struct {
		uint16_t tag;
		const char *value;
		size_t len;
		int want;
	} cases[] = {
		{ 0x8001, "\1\0\0\0\0\0\0\0", 8, ERR_DAMAGED },
		{ 0x8004, "\0\0\0\0\0\0\0\0", 8, ERR_DAMAGED },
		{ 0x8004, "\3\0\0\0\0\0\0\0", 8, ERR_UNSUPPORTED },
		{ 0x8009, "", 0, ERR_DAMAGED },
		{ 0x8009, "five5", 5, ERR_DAMAGED },
		{ 0x8009, "a\0", 2, ERR_DAMAGED },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct thing got;
		struct bytes b;

		bytes_init(&b);
		bytes_put_u32(&b, 3);
		bytes_put_field(&b, cases[i].tag, cases[i].value, cases[i].len);
		record_end(&b);
		assert_int_equal(decode(&b, &got), cases[i].want);
		thing_release(&got);
		bytes_release(&b);
	}
}

static void
test_versions_and_end(void **state)
{
	struct thing got;
	struct bytes b;

	(void)state;
	encode(&b, 1);
	le32_store(b.data, 4);
	assert_int_equal(decode(&b, &got), ERR_UNSUPPORTED);
	thing_release(&got);
	le32_store(b.data, 0);
	assert_int_equal(decode(&b, &got), ERR_DAMAGED);
	thing_release(&got);
	le32_store(b.data, 1);
	assert_int_equal(decode(&b, &got), 0);
	thing_release(&got);
	bytes_put_field_u64(&b, 0x0123, 1);
	assert_int_equal(decode(&b, &got), ERR_DAMAGED);
	thing_release(&got);
	bytes_release(&b);
}

static void
test_truncation(void **state)
{
	struct thing got;
	struct bytes b;
	size_t whole;

	(void)state;
	encode(&b, 3);
	whole = b.len;
	for (b.len = 0; b.len < whole; b.len++) {
		assert_int_equal(decode(&b, &got), ERR_DAMAGED);
		thing_release(&got);
	}
	bytes_release(&b);
}

static void
test_refuses_to_write(void **state)
{
	struct thing bad[5];
	static char seven[] = "sevenxx";
	struct bytes b;

	(void)state;
	for (size_t i = 0; i < 5; i++)
		bad[i] = sample();
	bad[0].small = 1;
	bad[1].middle = 1001;
	bad[2].colour = 3;
	bad[3].text = seven;
	bad[4].chars[0] = '\0';
	bytes_init(&b);
	for (size_t i = 0; i < 5; i++) {
		bytes_reset(&b);
		assert_int_equal(record_put(&b, &layout, &bad[i]), ERR_USAGE);
	}
	bytes_release(&b);
}

static void
test_faults(void **state)
{
	struct thing got;
	struct bytes b;
	bool happened;
	uint64_t n;
	int rc;

	(void)state;
	encode(&b, 20);
	for (n = 1; n < 1000; n++) {
		sys_fault_arm(n, ENOMEM);
		rc = decode(&b, &got);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		thing_release(&got);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
	}
	assert_true(n > 1 && n < 1000);
	assert_int_equal(rc, 0);
	bytes_release(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_absent_fields),
		cmocka_unit_test(test_required_fields),
		cmocka_unit_test(test_unknown_fields),
		cmocka_unit_test(test_malformed_values),
		cmocka_unit_test(test_single_values),
		cmocka_unit_test(test_versions_and_end),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_refuses_to_write),
		cmocka_unit_test(test_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
