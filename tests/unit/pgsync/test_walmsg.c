#include "pgsync/walmsg.h"
#include "store/base/bytes.h"
#include "store/base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void
be64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static void
test_data_message(void **state)
{
	uint8_t m[25 + 3] = { 'w' };
	struct walmsg msg;

	(void)state;
	be64(m + 1, 0x1122334455667788);
	be64(m + 9, 0x1122334455667799);
	be64(m + 17, 12345);
	memcpy(m + 25, "abc", 3);
	assert_int_equal(walmsg_decode(&msg, m, sizeof(m)), 0);
	assert_int_equal(msg.kind, WALMSG_DATA);
	assert_true(msg.start_lsn == 0x1122334455667788);
	assert_true(msg.server_lsn == 0x1122334455667799);
	assert_int_equal(msg.sent_us, 12345);
	assert_int_equal(msg.len, 3);
	assert_memory_equal(msg.data, "abc", 3);
	be64(m + 1, UINT64_MAX - 1);
	assert_int_equal(walmsg_decode(&msg, m, sizeof(m)), ERR_DAMAGED);
}

static void
test_keepalive(void **state)
{
	uint8_t m[19] = { 'k' };
	struct walmsg msg;

	(void)state;
	be64(m + 1, 0x2000060);
	m[17] = 1;
	assert_int_equal(walmsg_decode(&msg, m, 18), 0);
	assert_int_equal(msg.kind, WALMSG_KEEPALIVE);
	assert_true(msg.server_lsn == 0x2000060);
	assert_true(msg.reply_requested);
	assert_int_equal(walmsg_decode(&msg, m, 17), ERR_DAMAGED);
	assert_int_equal(walmsg_decode(&msg, m, 19), ERR_DAMAGED);
}

static void
test_wrong_messages(void **state)
{
	uint8_t m[32] = { 'w' };
	struct walmsg msg;

	(void)state;
	assert_int_equal(walmsg_decode(&msg, m, 0), ERR_DAMAGED);
	assert_int_equal(walmsg_decode(&msg, m, 24), ERR_DAMAGED);
	m[0] = 'x';
	assert_int_equal(walmsg_decode(&msg, m, sizeof(m)), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "0x78"));
}

static void
test_status(void **state)
{
	uint8_t m[WALMSG_STATUS_LEN], expected[WALMSG_STATUS_LEN] = { 'r' };

	(void)state;
	walmsg_encode_status(m, 0x10, 0x20, (INT64_C(946684800) + 7) * 1000000, true);
	be64(expected + 1, 0x10);
	be64(expected + 9, 0x20);
	be64(expected + 25, 7000000);
	expected[33] = 1;
	assert_memory_equal(m, expected, sizeof(m));
}

#define SEGMENT (16u << 20)
static const struct walmsg_expect expect = {
	.server_version = 150018,
	.system_identifier = 7000000000000000001,
	.timeline = 2,
	.segment_bytes = SEGMENT,
};

static void
make_page(uint8_t page[WAL_PAGE_LONG_HEADER], uint64_t lsn)
{
	memset(page, 0, WAL_PAGE_LONG_HEADER);
	le16_store(page, 0xd110);
	le16_store(page + 2, lsn % SEGMENT ? 0 : 2);
	le32_store(page + 4, 2);
	le64_store(page + 8, lsn);
	le64_store(page + 24, expect.system_identifier);
	le32_store(page + 32, SEGMENT);
	le32_store(page + 36, WAL_PAGE_BYTES);
}

static void
assert_page(const uint8_t *page, uint64_t lsn, int code, const char *words)
{
	assert_int_equal(walmsg_check_page(page, WAL_PAGE_LONG_HEADER, lsn, &expect), code);
	if (words)
		assert_non_null(strstr(err_msg(), words));
}

static void
test_page_headers(void **state)
{
	uint8_t page[WAL_PAGE_LONG_HEADER];
	struct walmsg_expect other = expect;

	(void)state;
	make_page(page, 3 * SEGMENT);
	assert_page(page, 3 * SEGMENT, 0, NULL);
	assert_page(page, 3 * SEGMENT + WAL_PAGE_BYTES, ERR_DAMAGED, "flags");
	assert_page(page, 4 * SEGMENT, ERR_DAMAGED, "0/3000000");
	assert_int_equal(walmsg_check_page(page, 24, 3 * SEGMENT, &expect), ERR_DAMAGED);
	make_page(page, 3 * SEGMENT);
	page[0]++;
	assert_page(page, 3 * SEGMENT, ERR_DAMAGED, "magic");
	make_page(page, 3 * SEGMENT);
	page[24]++;
	assert_page(page, 3 * SEGMENT, ERR_DAMAGED, "system identifier");
	make_page(page, 3 * SEGMENT);
	page[34]++;
	assert_page(page, 3 * SEGMENT, ERR_DAMAGED, "segments");
	make_page(page, 3 * SEGMENT);
	le32_store(page + 36, 16384);
	assert_page(page, 3 * SEGMENT, ERR_UNSUPPORTED, "16384");
	/* A segment copied at a switch begins with pages of the timeline before. */
	make_page(page, 3 * SEGMENT);
	le32_store(page + 4, 1);
	assert_page(page, 3 * SEGMENT, 0, NULL);
	le32_store(page + 4, 3);
	assert_page(page, 3 * SEGMENT, ERR_DAMAGED, "timeline 3");
	make_page(page, 3 * SEGMENT + WAL_PAGE_BYTES);
	assert_page(page, 3 * SEGMENT + WAL_PAGE_BYTES, 0, NULL);
	assert_int_equal(walmsg_check_page(page, 24, 3 * SEGMENT + WAL_PAGE_BYTES, &expect), 0);
	assert_int_equal(
	    walmsg_check_page(page, 23, 3 * SEGMENT + WAL_PAGE_BYTES, &expect), ERR_DAMAGED);
	other.server_version = 120000;
	assert_int_equal(walmsg_check_page(page, 40, 0x2000000, &other), ERR_UNSUPPORTED);
}

static void
test_names(void **state)
{
	char name[WAL_SEGMENT_NAME_MAX], text[WAL_LSN_TEXT_MAX];

	(void)state;
	walmsg_segment_name(name, 1, UINT64_C(0x3000060), SEGMENT);
	assert_string_equal(name, "000000010000000000000003");
	walmsg_segment_name(name, 0x1f, UINT64_C(0xABFF000000), SEGMENT);
	assert_string_equal(name, "0000001F000000AB000000FF");
	walmsg_segment_name(name, 1, UINT64_C(0x1C0000000), 1u << 30);
	assert_string_equal(name, "000000010000000100000003");
	assert_string_equal(walmsg_lsn_text(text, UINT64_C(0xABFF000060)), "AB/FF000060");
	assert_string_equal(walmsg_lsn_text(text, UINT64_MAX), "FFFFFFFF/FFFFFFFF");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data_message),
		cmocka_unit_test(test_keepalive),
		cmocka_unit_test(test_wrong_messages),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_page_headers),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
