#include "pgsync/basetar.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* What the sink was told, as text. */
struct story {
	char text[4096];
	size_t len;
	size_t data_bytes;
	int fail_at_begin;
};

__attribute__((format(printf, 2, 3))) static void
tell(struct story *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	s->len += (size_t)vsnprintf(s->text + s->len, sizeof(s->text) - s->len, fmt, ap);
	va_end(ap);
	assert_true(s->len < sizeof(s->text));
}

static int
on_begin(void *ctx, const struct basetar_member *m)
{
	struct story *s = ctx;

	if (s->fail_at_begin)
		return err_set(s->fail_at_begin, "the sink said no");
	tell(s, "%d %s %s %llu %o %lld;", (int)m->type, m->path, m->target,
	    (unsigned long long)m->size, m->mode, (long long)m->mtime_s);
	s->data_bytes = 0;
	return 0;
}

static int
on_data(void *ctx, const void *data, size_t len)
{
	struct story *s = ctx;

	assert_non_null(data);
	assert_true(len > 0);
	s->data_bytes += len;
	return 0;
}

static int
on_end(void *ctx)
{
	struct story *s = ctx;

	tell(s, "end %zu;", s->data_bytes);
	return 0;
}

static void
seal(uint8_t b[512])
{
	unsigned sum = 0;

	memset(b + 148, ' ', 8);
	for (int i = 0; i < 512; i++)
		sum += b[i];
	snprintf((char *)b + 148, 8, "%06o", sum);
}

static void
header(uint8_t b[512], char type, const char *name, uint64_t size, const char *target)
{
	memset(b, 0, 512);
	snprintf((char *)b, 100, "%s", name);
	memcpy(b + 100, "0000600 ", 8);
	memcpy(b + 108, "0000000 0000000 ", 16);
	if (size < (UINT64_C(1) << 33)) {
		char text[16];

		snprintf(text, sizeof(text), "%011llo ", (unsigned long long)size);
		memcpy(b + 124, text, 12);
	} else {
		b[124] = 0x80;
		for (int i = 0; i < 8; i++)
			b[135 - i] = (uint8_t)(size >> (8 * i));
	}
	memcpy(b + 136, "14000000000 ", 12);
	b[156] = (uint8_t)type;
	snprintf((char *)b + 157, 100, "%s", target);
	memcpy(b + 257,
	    "ustar\0"
	    "00",
	    8);
	seal(b);
}

static void
put_header(struct bytes *tar, char type, const char *name, uint64_t size, const char *target)
{
	uint8_t b[512];

	header(b, type, name, size, target);
	bytes_put(tar, b, 512);
}

static void
put_sample(struct bytes *tar)
{
	put_header(tar, '0', "backup_label", 5, "");
	bytes_put(tar, "label", 5);
	bytes_put_zero(tar, 507);
	put_header(tar, '5', "base/", 0, "");
	put_header(tar, '0', "base/empty", 0, "");
	put_header(tar, '0', "base/two", 1024, "");
	bytes_put_zero(tar, 1024);
	put_header(tar, '2', "pg_tblspc/16400", 0, "/srv/ts1");
}

static const char sample_story[] =
    "1 backup_label  5 600 1610612736;end 5;2 base  0 600 1610612736;end 0;"
    "1 base/empty  0 600 1610612736;end 0;1 base/two  1024 600 1610612736;end 1024;"
    "3 pg_tblspc/16400 /srv/ts1 0 600 1610612736;end 0;";

/* Push `tar` in pieces of `piece` bytes and finish. */
static int
parse(const struct bytes *tar, size_t piece, struct story *story)
{
	struct basetar_sink sink = { on_begin, on_data, on_end, story };
	struct basetar *t;
	int rc = basetar_new(&t, &sink);

	if (rc)
		return rc;
	for (size_t off = 0; off < tar->len && rc == 0; off += piece)
		rc = basetar_push(
		    t, tar->data + off, tar->len - off < piece ? tar->len - off : piece);
	if (rc)
		assert_int_equal(basetar_push(t, "x", 1), rc);
	if (rc == 0)
		rc = basetar_finish(t);
	basetar_free(t);
	return rc;
}

static void
test_pieces(void **state)
{
	static const size_t pieces[] = { 1, 7, 511, 512, 513, 4096, 100000 };
	struct bytes tar;

	(void)state;
	bytes_init(&tar);
	put_sample(&tar);
	/* Servers to 14 end with the last member, newer ones with zero blocks. */
	for (int zeros = 0; zeros < 2; zeros++) {
		for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
			struct story story = { 0 };

			assert_int_equal(parse(&tar, pieces[i], &story), 0);
			assert_string_equal(story.text, sample_story);
		}
		bytes_put_zero(&tar, 1024);
	}
	bytes_release(&tar);
}

static void
test_cut_short(void **state)
{
	struct bytes tar;

	(void)state;
	bytes_init(&tar);
	put_sample(&tar);
	for (size_t len = 1; len < tar.len; len += 101) {
		struct bytes cut = { .data = tar.data, .len = len };
		struct story story = { 0 };
		int rc = parse(&cut, 4096, &story);

		/* Only the borders of members are good ends. */
		assert_int_equal(rc, len == 1024 || len == 1536 || len == 2048 ? 0 : ERR_DAMAGED);
	}
	bytes_release(&tar);
}

static void
test_big_size_in_base_256(void **state)
{
	struct story story = { 0 };
	struct bytes tar;

	(void)state;
	bytes_init(&tar);
	put_header(&tar, '0', "base/big", UINT64_C(9) << 30, "");
	assert_int_equal(parse(&tar, 512, &story), ERR_DAMAGED); /* content is missing */
	assert_string_equal(story.text, "1 base/big  9663676416 600 1610612736;");
	bytes_release(&tar);
}

static void
test_prefix_and_root(void **state)
{
	struct story story = { 0 };
	struct bytes tar;
	uint8_t b[512];

	(void)state;
	bytes_init(&tar);
	header(b, '0', "name", 0, "");
	memcpy(b + 345, "some/dir", 8);
	seal(b);
	bytes_put(&tar, b, 512);
	put_header(&tar, '5', ".", 0, "");
	put_header(&tar, '5', "./", 0, "");
	put_header(&tar, '5', "./global", 0, "");
	assert_int_equal(parse(&tar, 512, &story), 0);
	assert_string_equal(story.text,
	    "1 some/dir/name  0 600 1610612736;end 0;2   0 600 1610612736;"
	    "end 0;2   0 600 1610612736;end 0;"
	    "2 global  0 600 1610612736;end 0;");
	bytes_release(&tar);
}

static int
parse_one(const uint8_t b[512])
{
	struct bytes tar = { .data = (uint8_t *)(uintptr_t)b, .len = 512 };
	struct story story = { 0 };

	return parse(&tar, 512, &story);
}

static void
test_refused(void **state)
{
	static const char *const names[] = { "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "" };
	static const char types[] = { '1', '3', '4', '6', '7', 'L', 'K', 'x', 'g' };
	uint8_t b[512];

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		header(b, '0', names[i], 0, "");
		assert_int_equal(parse_one(b), ERR_DAMAGED);
	}
	for (size_t i = 0; i < sizeof(types); i++) {
		header(b, types[i], "name", 0, "");
		assert_int_equal(parse_one(b), ERR_DAMAGED);
		assert_non_null(strstr(err_msg(), "unknown type"));
	}
	header(b, '0', "name", 0, "");
	b[0] ^= 1;
	assert_int_equal(parse_one(b), ERR_DAMAGED);
	header(b, '0', "name", 0, "");
	memcpy(b + 124, "12x", 3);
	seal(b);
	assert_int_equal(parse_one(b), ERR_DAMAGED);
	header(b, '0', "name", 0, "");
	b[124] = 0x80;
	b[125] = 1;
	seal(b);
	assert_int_equal(parse_one(b), ERR_DAMAGED);
}

static void
test_sink_ends_it(void **state)
{
	struct story story = { .fail_at_begin = ERR_NOSPACE };
	struct bytes tar;

	(void)state;
	bytes_init(&tar);
	put_sample(&tar);
	assert_int_equal(parse(&tar, 512, &story), ERR_NOSPACE);
	assert_string_equal(err_msg(), "the sink said no");
	bytes_release(&tar);
}

static void
test_no_memory(void **state)
{
	struct story story = { 0 };
	struct bytes tar;

	(void)state;
	bytes_init(&tar);
	put_sample(&tar);
	sys_fault_arm(1, ENOMEM);
	assert_int_equal(parse(&tar, 512, &story), ERR_NOMEM);
	sys_fault_arm(0, 0);
	assert_int_equal(parse(&tar, 512, &story), 0);
	bytes_release(&tar);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_big_size_in_base_256),
		cmocka_unit_test(test_prefix_and_root),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_sink_ends_it),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
