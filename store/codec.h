/*
 * codec: a chunk's content to its shortest encoding and back.
 *
 * The door to zstd.  Three encodings exist: raw, zstd, and delta (zstd with another chunk's whole
 * content as prefix).  A codec owns reusable contexts and belongs to one thread at a time.
 */
#ifndef STORE_CODEC_H
#define STORE_CODEC_H

#include <stddef.h>
#include <stdint.h>

enum encoding {
	ENCODING_RAW = 0,
	ENCODING_ZSTD = 1,
	ENCODING_DELTA = 2, /* needs the base chunk, which is never a delta itself */
};

struct codec;

/* `level` is zstd's, -7 to 19. */
int codec_new(struct codec **out, int level);
void codec_free(struct codec *c);

/* The most bytes an encoding of `len` bytes can take. */
size_t codec_bound(size_t len);

/*
 * Encode self-contained: zstd, or raw where compression gains less than 3 %.  `dst` has room for
 * codec_bound(len).  Errors: ERR_NOMEM, ERR_FAIL.
 */
int codec_encode(struct codec *c, const void *src, size_t len, void *dst, size_t *dst_len,
    enum encoding *encoding);

/*
 * Encode against `base`.  Returns 1 (and no result) when the delta would take more than
 * `max_len` bytes.  `dst` has room for codec_bound(len).  Errors: as above.
 */
int codec_encode_delta(struct codec *c, const void *src, size_t len, const void *base,
    size_t base_len, size_t max_len, void *dst, size_t *dst_len);

/*
 * Decode to exactly `len` bytes; base is NULL unless the encoding is a delta.  Errors:
 * ERR_DAMAGED (anything that does not decode to exactly `len` bytes), ERR_NOMEM.
 */
int codec_decode(struct codec *c, enum encoding encoding, const void *src, size_t src_len,
    const void *base, size_t base_len, void *dst, size_t len);

#endif
