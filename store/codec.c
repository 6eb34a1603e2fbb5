/*
 * Frames are "magicless" (four bytes less each) and always tell the size of their content, which
 * is compared with what the caller expects before anything is decoded.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include <zstd_errors.h>

#include "store/codec.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW_LOG_MIN 10
#define WINDOW_LOG_MAX 24
/* Up to this size of base and content the tables of all levels suffice. */
#define LARGE_SPAN (512u << 10)
/* Bytes by which zstd may want more room than its result takes in the end. */
#define ROOM_SLACK 512

struct codec {
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
	int level;
};

/* Settings that stay for the life of the contexts. */
static size_t
configure(struct codec *c, int level)
{
	const struct {
		ZSTD_cParameter name;
		int value;
	} params[] = {
		{ ZSTD_c_format, ZSTD_f_zstd1_magicless },
		{ ZSTD_c_compressionLevel, level },
		{ ZSTD_c_contentSizeFlag, 1 },
		{ ZSTD_c_checksumFlag, 0 }, /* sealing authenticates every byte */
		{ ZSTD_c_dictIDFlag, 0 },
	};
	size_t r;

	for (size_t i = 0; i < sizeof(params) / sizeof(params[0]); i++) {
		r = ZSTD_CCtx_setParameter(c->cctx, params[i].name, params[i].value);
		if (ZSTD_isError(r))
			return r;
	}
	r = ZSTD_DCtx_setParameter(c->dctx, ZSTD_d_format, ZSTD_f_zstd1_magicless);
	if (ZSTD_isError(r))
		return r;
	return ZSTD_DCtx_setParameter(c->dctx, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
}

int
codec_new(struct codec **out, int level)
{
	struct codec *c;
	size_t r;

	*out = NULL;
	c = mem_alloc(sizeof(*c));
	if (!c)
		return err_nomem();
	if (!sys_fault_point())
		c->cctx = ZSTD_createCCtx();
	if (c->cctx && !sys_fault_point())
		c->dctx = ZSTD_createDCtx();
	if (!c->cctx || !c->dctx) {
		codec_free(c);
		return err_nomem();
	}
	c->level = level;
	r = configure(c, level);
	if (ZSTD_isError(r)) {
		codec_free(c);
		return err_set(
		    ERR_FAIL, "cannot set up zstd at level %d: %s", level, ZSTD_getErrorName(r));
	}
	*out = c;
	return 0;
}

void
codec_free(struct codec *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->cctx);
	ZSTD_freeDCtx(c->dctx);
	free(c);
}

size_t
codec_bound(size_t len)
{
	return ZSTD_compressBound(len);
}

/*
 * Compress with what the context is set to: 0, 1 if `room` does not suffice, or an error.
 */
static int
compress(struct codec *c, const void *src, size_t len, void *dst, size_t room, size_t *dst_len)
{
	size_t r = ZSTD_compress2(c->cctx, dst, room, src, len);

	if (!ZSTD_isError(r)) {
		*dst_len = r;
		return 0;
	}
	ZSTD_CCtx_reset(c->cctx, ZSTD_reset_session_only);
	switch (ZSTD_getErrorCode(r)) {
	case ZSTD_error_dstSize_tooSmall:
		return 1;
	case ZSTD_error_memory_allocation:
		return err_nomem();
	default:
		return err_set(
		    ERR_FAIL, "cannot compress %zu bytes: zstd: %s", len, ZSTD_getErrorName(r));
	}
}

/* Set the window and the table of positions; 0 for what the level says. */
static void
set_tables(struct codec *c, int window_log, int hash_log)
{
	ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_windowLog, window_log);
	ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_hashLog, hash_log);
}

int
codec_encode(struct codec *c, const void *src, size_t len, void *dst, size_t *dst_len,
    enum encoding *encoding)
{
	int rc;

	set_tables(c, 0, 0);
	/* Room for what is worth having only: content that does not shrink is given up early. */
	rc = compress(c, src, len, dst, len - len * 3 / 100, dst_len);
	if (rc < 0)
		return rc;
	*encoding = ENCODING_ZSTD;
	if (rc == 1 || *dst_len * 100 > len * 97) {
		if (len > 0)
			memcpy(dst, src, len);
		*dst_len = len;
		*encoding = ENCODING_RAW;
	}
	return 0;
}

/* The smallest window that reaches from the end of the content to the start of the base. */
static int
window_log(uint64_t span)
{
	int log = WINDOW_LOG_MIN;

	while (log < WINDOW_LOG_MAX && (UINT64_C(1) << log) < span)
		log++;
	return log;
}

/*
 * The size of the table of positions for a delta; 0 for what the level says.  Low levels have one
 * that is too small to remember all of a large base, which is what the content is made of.
 */
static int
hash_log(const struct codec *c, uint64_t span, size_t base_len, size_t len)
{
	int needed = window_log(span) - 2;

	if (span <= LARGE_SPAN || (int)ZSTD_getCParams(c->level, len, base_len).hashLog >= needed)
		return 0;
	return needed;
}

int
codec_encode_delta(struct codec *c, const void *src, size_t len, const void *base, size_t base_len,
    size_t max_len, void *dst, size_t *dst_len)
{
	uint64_t span = (uint64_t)base_len + len;
	size_t bound = codec_bound(len), room = bound;
	int rc;

	/* A window that does not cover both would lose the start of the base. */
	if (span > UINT64_C(1) << WINDOW_LOG_MAX)
		return 1;
	set_tables(c, window_log(span), hash_log(c, span, base_len, len));
	ZSTD_CCtx_refPrefix(c->cctx, base, base_len);
	/* A delta that grows too long is given up before it is complete. */
	if (max_len < bound && bound - max_len > ROOM_SLACK)
		room = max_len + ROOM_SLACK;
	rc = compress(c, src, len, dst, room, dst_len);
	/* zstd drops the prefix after one use, but keeps it if it failed before that. */
	ZSTD_CCtx_refPrefix(c->cctx, NULL, 0);
	if (rc == 0 && *dst_len > max_len)
		rc = 1;
	return rc;
}

static int
damaged(const char *why)
{
	return err_set(ERR_DAMAGED, "stored content does not decode: %s", why);
}

/* Look at the frame's header before zstd works on it. */
static int
check_frame(const void *src, size_t src_len, size_t len)
{
	ZSTD_frameHeader h;
	size_t r = ZSTD_getFrameHeader_advanced(&h, src, src_len, ZSTD_f_zstd1_magicless);

	if (r != 0)
		return damaged(ZSTD_isError(r) ? ZSTD_getErrorName(r) : "the frame is cut short");
	if (h.frameType != ZSTD_frame || h.dictID != 0 || h.frameContentSize != len)
		return damaged("it is not a frame of the expected size");
	/* A frame in one segment has the window of its content, which the caller bounds. */
	if (h.windowSize > UINT64_C(1) << WINDOW_LOG_MAX && h.windowSize != len)
		return damaged("the window is too large");
	return 0;
}

static int
decompress(struct codec *c, const void *src, size_t src_len, const void *base, size_t base_len,
    void *dst, size_t len)
{
	size_t r;
	int rc;

	rc = check_frame(src, src_len, len);
	if (rc)
		return rc;
	if (base) {
		r = sys_fault_point() ? (size_t)-ZSTD_error_memory_allocation
				      : ZSTD_DCtx_refPrefix(c->dctx, base, base_len);
		if (ZSTD_isError(r))
			return err_nomem();
	}
	r = ZSTD_decompressDCtx(c->dctx, dst, len, src, src_len);
	if (ZSTD_isError(r)) {
		ZSTD_DCtx_reset(c->dctx, ZSTD_reset_session_only);
		ZSTD_DCtx_refPrefix(c->dctx, NULL, 0);
		return damaged(ZSTD_getErrorName(r));
	}
	return r == len ? 0 : damaged("it is shorter than expected");
}

int
codec_decode(struct codec *c, enum encoding encoding, const void *src, size_t src_len,
    const void *base, size_t base_len, void *dst, size_t len)
{
	switch (encoding) {
	case ENCODING_RAW:
		if (src_len != len)
			return damaged("its length is not the expected one");
		if (len > 0)
			memcpy(dst, src, len);
		return 0;
	case ENCODING_ZSTD:
		return decompress(c, src, src_len, NULL, 0, dst, len);
	case ENCODING_DELTA:
		if (!base)
			return damaged("it is a delta and its base is missing");
		return decompress(c, src, src_len, base, base_len, dst, len);
	}
	return damaged("its encoding is unknown");
}
