/*
 * Lock records, as opened from their envelope.
 */
#include "store/base/bytes.h"
#include "store/lock.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was accepted can be written again, and that is accepted too. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct lock_record r, again;
	struct bytes b;

	if (lock_record_decode(&r, data, len))
		return 0;
	bytes_init(&b);
	if (lock_record_encode(&b, &r) || lock_record_decode(&again, b.data, b.len))
		abort();
	bytes_release(&b);
	lock_record_release(&again);
	lock_record_release(&r);
	return 0;
}
