#include "store/base/cancel.h"

#include "store/base/err.h"

#include <stdatomic.h>

static atomic_bool requested;

void
cancel_request(void)
{
	atomic_store(&requested, true);
}

bool
cancel_requested(void)
{
	return atomic_load_explicit(&requested, memory_order_relaxed);
}

int
cancel_check(void)
{
	return cancel_requested() ? err_set(ERR_CANCELLED, "interrupted") : 0;
}
