/*
 * Decoding of hostile bytes, with and without a base, and the way there and back.
 *
 * Input: a mode, the expected length (u32, taken modulo CHUNK_MAX_BYTES + 1), the base's length
 * (u16, at most what is left), the base, the encoded bytes.  Mode 0 to 3 is the encoding to decode;
 * above, the encoded bytes are content to encode and decode again.
 */
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/chunk.h"
#include "store/codec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
must(int good)
{
	if (!good)
		abort();
}

static void
there_and_back(
    struct codec *c, const uint8_t *base, size_t base_len, const uint8_t *data, size_t len)
{
	uint8_t *encoded = malloc(codec_bound(len)), *out = malloc(len ? len : 1);
	enum encoding encoding;
	size_t n;
	int rc;

	must(encoded && out);
	must(codec_encode(c, data, len, encoded, &n, &encoding) == 0 && n <= len);
	must(codec_decode(c, encoding, encoded, n, NULL, 0, out, len) == 0);
	must(memcmp(out, data, len) == 0);
	rc = codec_encode_delta(c, data, len, base, base_len, len / 2, encoded, &n);
	must(rc == 0 || rc == 1);
	if (rc == 0) {
		must(n <= len / 2);
		must(codec_decode(c, ENCODING_DELTA, encoded, n, base, base_len, out, len) == 0);
		must(memcmp(out, data, len) == 0);
	}
	free(encoded);
	free(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct codec *c;
	const uint8_t *base;
	struct cursor in;
	unsigned mode;
	size_t expected, base_len;
	uint8_t *out;
	int rc;

	/* One codec for all inputs: what one leaves behind must not harm the next. */
	if (!c)
		must(codec_new(&c, 1) == 0);
	cursor_init(&in, data, len);
	mode = cursor_u8(&in);
	expected = cursor_u32(&in) % (CHUNK_MAX_BYTES + 1);
	base_len = cursor_u16(&in);
	if (in.failed)
		return 0;
	if (base_len > cursor_left(&in))
		base_len = cursor_left(&in);
	base = cursor_take(&in, base_len);
	if (mode > 3) {
		there_and_back(c, base, base_len, data + in.off, cursor_left(&in));
		return 0;
	}
	out = malloc(expected ? expected : 1);
	must(out != NULL);
	rc = codec_decode(c, (enum encoding)mode, data + in.off, cursor_left(&in),
	    mode == ENCODING_DELTA ? base : NULL, base_len, out, expected);
	must(rc == 0 || rc == ERR_DAMAGED || rc == ERR_NOMEM);
	free(out);
	return 0;
}
