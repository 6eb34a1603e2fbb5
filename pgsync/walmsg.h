/*
 * walmsg: the messages of the streaming replication protocol, and the header of a WAL page.
 *
 * The protocol's numbers are big-endian ("Streaming Replication Protocol" in PostgreSQL's manual);
 * a WAL page is in the server's order, little-endian here (src/include/access/xlog_internal.h).
 *
 * Threads: pure functions.
 */
#ifndef PGSYNC_WALMSG_H
#define PGSYNC_WALMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WALMSG_DATA_MAX   (1u << 20) /* the server sends at most 128 KiB in a message */
#define WALMSG_STATUS_LEN 34

#define WAL_PAGE_BYTES        8192
#define WAL_PAGE_SHORT_HEADER 24
#define WAL_PAGE_LONG_HEADER  40
#define WAL_SEGMENT_MIN       (1u << 20)
#define WAL_SEGMENT_MAX       (1u << 30)

#define WAL_SEGMENT_NAME_MAX 25 /* 24 digits and a NUL */
#define WAL_LSN_TEXT_MAX     20 /* "FFFFFFFF/FFFFFFFF" and a NUL */

enum walmsg_kind {
	WALMSG_DATA = 1,
	WALMSG_KEEPALIVE = 2,
};

struct walmsg {
	enum walmsg_kind kind;
	uint64_t start_lsn;   /* WALMSG_DATA: where `data` belongs */
	uint64_t server_lsn;  /* end of the server's WAL */
	int64_t sent_us;      /* since 2000-01-01, the server's clock */
	bool reply_requested; /* WALMSG_KEEPALIVE */
	const uint8_t *data;  /* WALMSG_DATA, borrowed from the message */
	size_t len;
};

/* Take apart the content of one CopyData message.  Errors: ERR_DAMAGED. */
int walmsg_decode(struct walmsg *m, const void *message, size_t len);

/* A standby status update: everything before `flushed` is ours. */
void walmsg_encode_status(uint8_t out[WALMSG_STATUS_LEN], uint64_t written, uint64_t flushed,
    int64_t now_us_unix, bool reply_requested);

/* What the header of each page of a stream must say. */
struct walmsg_expect {
	uint32_t server_version; /* PG_VERSION_NUM */
	uint64_t system_identifier;
	uint32_t timeline;
	uint32_t segment_bytes;
};

/*
 * Check the header of the page at `lsn` (a multiple of WAL_PAGE_BYTES): `len` must be at least
 * WAL_PAGE_LONG_HEADER where a segment begins, else WAL_PAGE_SHORT_HEADER.  A page of an older
 * timeline is right in a segment that was continued on `timeline`; a newer one never is.  Errors:
 * ERR_DAMAGED (the message names the position and what differs), ERR_UNSUPPORTED (server version).
 */
int walmsg_check_page(
    const void *page, size_t len, uint64_t lsn, const struct walmsg_expect *expect);

/* "000000010000000000000003" */
void walmsg_segment_name(
    char out[WAL_SEGMENT_NAME_MAX], uint32_t timeline, uint64_t lsn, uint32_t segment_bytes);

/* "0/3000060"; pgconn_lsn_parse() is the way back.  Returns `out`. */
const char *walmsg_lsn_text(char out[WAL_LSN_TEXT_MAX], uint64_t lsn);

#endif
