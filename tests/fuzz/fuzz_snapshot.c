/*
 * Snapshot records, as opened from their envelope.
 */
#include "store/base/bytes.h"
#include "store/snapshot.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was accepted can be written again, and that is accepted too. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct snapshot r, again;
	struct bytes b;

	if (snapshot_decode(&r, data, len))
		return 0;
	bytes_init(&b);
	if (snapshot_encode(&b, &r) || snapshot_decode(&again, b.data, b.len))
		abort();
	bytes_release(&b);
	snapshot_release(&again);
	snapshot_release(&r);
	return 0;
}
