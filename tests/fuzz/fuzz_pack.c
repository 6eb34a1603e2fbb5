/*
 * Header, trailer and plain table of contents of a pack: the first byte chooses.
 */
#include "store/base/bytes.h"
#include "store/pack.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was accepted keeps the promises that readers compute with, and encodes to the same. */
static void
fuzz_toc(const uint8_t *data, size_t len)
{
	struct pack_toc toc = { 0 };
	uint64_t end = PACK_HEADER_LEN;
	struct cursor c;
	struct bytes b;

	cursor_init(&c, data, len);
	if (pack_toc_decode(&toc, &c)) {
		if (toc.entries)
			abort();
		return;
	}
	for (size_t i = 0; i < toc.nentries; i++) {
		const struct pack_entry *e = &toc.entries[i];

		if (e->off < end || e->len == 0 || e->len > CHUNK_MAX_BYTES ||
		    e->sealed_len < CRYPTO_TAG_LEN)
			abort();
		end = (uint64_t)e->off + e->sealed_len;
	}
	if (end > PACK_MAX_BYTES)
		abort();
	bytes_init(&b);
	if (pack_toc_encode(&b, &toc) == 0 && b.len != c.off)
		abort();
	bytes_release(&b);
	pack_toc_release(&toc);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct pack_trailer t;
	struct pack_header h;

	if (len == 0)
		return 0;
	switch (data[0] % 3) {
	case 0:
		if (pack_header_decode(&h, data + 1, len - 1) == 0 && h.kind != PACK_DATA &&
		    h.kind != PACK_META)
			abort();
		break;
	case 1:
		if (pack_trailer_decode(&t, data + 1, len - 1) == 0 &&
		    t.toc_off + t.toc_sealed_len > t.pack_bytes)
			abort();
		break;
	default:
		fuzz_toc(data + 1, len - 1);
	}
	return 0;
}
