/*
 * Messages (numbers big-endian):
 *
 *   'w'  u64 start, u64 server end, i64 time, data       25 bytes and the data
 *   'k'  u64 server end, i64 time, u8 reply requested    18 bytes
 *   'r'  u64 written, u64 flushed, u64 applied, i64 time, u8 reply requested    34 bytes
 *
 * A WAL page header (numbers in the server's order, little-endian):
 *
 *   0 u16 magic, 2 u16 flags, 4 u32 timeline, 8 u64 page address, 16 u32 rest of a record, 20 pad
 *   and on the first page of a segment: 24 u64 system identifier, 32 u32 segment, 36 u32 page bytes
 */
#include "pgsync/walmsg.h"

#include "store/base/bytes.h"
#include "store/base/err.h"

#include <stdio.h>

#define DATA_HEADER  25
#define KEEPALIVE    18
#define FLAG_LONG    0x0002
#define FLAGS_KNOWN  0x000f
#define EPOCH_2000_S 946684800

static const struct {
	uint32_t major;
	uint16_t magic;
} magics[] = {
	{ 13, 0xd106 },
	{ 14, 0xd10d },
	{ 15, 0xd110 },
	{ 16, 0xd113 },
	{ 17, 0xd116 },
};

static uint64_t
be64_load(const uint8_t *p)
{
	return __builtin_bswap64(le64_load(p));
}

static void
be64_store(uint8_t *p, uint64_t v)
{
	le64_store(p, __builtin_bswap64(v));
}

int
walmsg_decode(struct walmsg *m, const void *message, size_t len)
{
	const uint8_t *p = message;

	*m = (struct walmsg){ 0 };
	if (len == 0)
		return err_set(ERR_DAMAGED, "the server sent an empty replication message");
	if (p[0] == 'k') {
		if (len != KEEPALIVE)
			return err_set(
			    ERR_DAMAGED, "the server sent a keepalive message of %zu bytes", len);
		m->kind = WALMSG_KEEPALIVE;
		m->server_lsn = be64_load(p + 1);
		m->sent_us = (int64_t)be64_load(p + 9);
		m->reply_requested = p[17] != 0;
		return 0;
	}
	if (p[0] != 'w')
		return err_set(ERR_DAMAGED,
		    "the server sent a replication message of unknown kind 0x%02x", p[0]);
	if (len < DATA_HEADER || len - DATA_HEADER > WALMSG_DATA_MAX)
		return err_set(ERR_DAMAGED, "the server sent a WAL message of %zu bytes", len);
	m->kind = WALMSG_DATA;
	m->start_lsn = be64_load(p + 1);
	m->server_lsn = be64_load(p + 9);
	m->sent_us = (int64_t)be64_load(p + 17);
	m->data = p + DATA_HEADER;
	m->len = len - DATA_HEADER;
	if (m->start_lsn > UINT64_MAX - m->len)
		return err_set(ERR_DAMAGED, "the server sent WAL past the end of all positions");
	return 0;
}

void
walmsg_encode_status(uint8_t out[WALMSG_STATUS_LEN], uint64_t written, uint64_t flushed,
    int64_t now_us_unix, bool reply_requested)
{
	int64_t now = now_us_unix - (int64_t)EPOCH_2000_S * 1000000;

	out[0] = 'r';
	be64_store(out + 1, written);
	be64_store(out + 9, flushed);
	/* Nothing is applied here, and 0 says that nothing is known about it. */
	be64_store(out + 17, 0);
	be64_store(out + 25, (uint64_t)now);
	out[33] = reply_requested;
}

static int
check_long_header(const uint8_t *p, const char *at, const struct walmsg_expect *expect)
{
	uint64_t sysid = le64_load(p + 24);
	uint32_t segment = le32_load(p + 32), page = le32_load(p + 36);

	if (expect->system_identifier && sysid != expect->system_identifier)
		return err_set(ERR_DAMAGED,
		    "WAL at %s belongs to system identifier %llu, the server is %llu", at,
		    (unsigned long long)sysid, (unsigned long long)expect->system_identifier);
	if (segment != expect->segment_bytes)
		return err_set(ERR_DAMAGED, "WAL at %s says segments of %u bytes, the server %u",
		    at, segment, expect->segment_bytes);
	if (page != WAL_PAGE_BYTES)
		return err_set(ERR_UNSUPPORTED,
		    "WAL at %s has pages of %u bytes; only servers with %d are supported", at, page,
		    WAL_PAGE_BYTES);
	return 0;
}

int
walmsg_check_page(const void *page, size_t len, uint64_t lsn, const struct walmsg_expect *expect)
{
	bool first = lsn % expect->segment_bytes == 0;
	char at[WAL_LSN_TEXT_MAX];
	const uint8_t *p = page;
	uint32_t major = expect->server_version / 10000, timeline;
	uint16_t magic = 0, flags;

	walmsg_lsn_text(at, lsn);
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (magics[i].major == major)
			magic = magics[i].magic;
	if (magic == 0)
		return err_set(
		    ERR_UNSUPPORTED, "the WAL of PostgreSQL %u is not known here", major);
	if (len < (first ? (size_t)WAL_PAGE_LONG_HEADER : (size_t)WAL_PAGE_SHORT_HEADER))
		return err_set(ERR_DAMAGED, "the WAL page at %s is cut short", at);
	flags = le16_load(p + 2);
	timeline = le32_load(p + 4);
	if (le16_load(p) != magic)
		return err_set(ERR_DAMAGED,
		    "the WAL page at %s has magic %04X, PostgreSQL %u has %04X", at, le16_load(p),
		    major, magic);
	if (flags & ~FLAGS_KNOWN || ((flags & FLAG_LONG) != 0) != first)
		return err_set(ERR_DAMAGED, "the WAL page at %s has flags 0x%04x", at, flags);
	if (le64_load(p + 8) != lsn)
		return err_set(ERR_DAMAGED, "the WAL page at %s says it is at %X/%X", at,
		    (unsigned)(le64_load(p + 8) >> 32), (unsigned)le64_load(p + 8));
	if (timeline == 0 || timeline > expect->timeline)
		return err_set(ERR_DAMAGED, "the WAL page at %s is of timeline %u, not %u", at,
		    timeline, expect->timeline);
	return first ? check_long_header(p, at, expect) : 0;
}

void
walmsg_segment_name(
    char out[WAL_SEGMENT_NAME_MAX], uint32_t timeline, uint64_t lsn, uint32_t segment_bytes)
{
	uint64_t number = lsn / segment_bytes, per_id = (UINT64_C(1) << 32) / segment_bytes;

	snprintf(out, WAL_SEGMENT_NAME_MAX, "%08X%08X%08X", timeline, (unsigned)(number / per_id),
	    (unsigned)(number % per_id));
}

const char *
walmsg_lsn_text(char out[WAL_LSN_TEXT_MAX], uint64_t lsn)
{
	snprintf(out, WAL_LSN_TEXT_MAX, "%X/%X", (unsigned)(lsn >> 32), (unsigned)lsn);
	return out;
}
