/*
 * Source records, as opened from their envelope.
 */
#include "store/base/bytes.h"
#include "store/source.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was accepted can be written again, and that is accepted too. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct source r, again;
	struct bytes b;

	if (source_decode(&r, data, len))
		return 0;
	bytes_init(&b);
	if (source_encode(&b, &r) || source_decode(&again, b.data, b.len))
		abort();
	bytes_release(&b);
	source_release(&again);
	source_release(&r);
	return 0;
}
