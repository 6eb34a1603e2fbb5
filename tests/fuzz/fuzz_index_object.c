/*
 * The plain form of an index object.
 */
#include "store/repo_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct index_object o;

	if (index_object_decode(&o, data, len)) {
		if (o.packs)
			abort();
		return 0;
	}
	for (size_t i = 0; i < o.npacks; i++) {
		if (o.packs[i].pack_bytes == 0 || o.packs[i].pack_bytes > PACK_MAX_BYTES)
			abort();
		if (o.packs[i].nentries > 0 && !o.packs[i].entries)
			abort();
	}
	index_object_release(&o);
	return 0;
}
