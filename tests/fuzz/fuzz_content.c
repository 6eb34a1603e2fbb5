/*
 * A content as it stands in a directory entry, and map nodes: the first byte chooses.
 */
#include "store/base/bytes.h"
#include "store/content.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
fuzz_content(const uint8_t *data, size_t len)
{
	uint64_t sum = 0;
	struct content c;
	struct cursor cur;
	struct bytes b;

	cursor_init(&cur, data, len);
	if (content_decode(&c, &cur)) {
		if (c.leaf || c.inner)
			abort();
		return;
	}
	for (uint32_t i = 0; i < c.nrefs; i++)
		sum += c.depth ? c.inner[i].len : c.leaf[i].len;
	if (sum != c.size)
		abort();
	bytes_init(&b);
	if (content_encode(&b, &c) == 0) {
		/* Only the two bytes that are zero today may differ. */
		if (b.len != cur.off || memcmp(b.data, data, 2) != 0 ||
		    memcmp(b.data + 4, data + 4, b.len - 4) != 0)
			abort();
	}
	bytes_release(&b);
	content_release(&c);
}

static void
fuzz_node(const uint8_t *data, size_t len)
{
	struct map_node node;

	if (map_node_decode(&node, data, len)) {
		if (node.leaf || node.inner)
			abort();
		return;
	}
	if (node.n == 0 || node.n > CONTENT_FANOUT || node.depth >= CONTENT_MAX_DEPTH)
		abort();
	for (uint32_t i = 0; i < node.n; i++)
		if (node.depth ? node.inner[i].len == 0 : node.leaf[i].len == 0)
			abort();
	map_node_release(&node);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len == 0)
		return 0;
	if (data[0] & 1)
		fuzz_node(data + 1, len - 1);
	else
		fuzz_content(data + 1, len - 1);
	return 0;
}
