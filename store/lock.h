/*
 * lock: who is backing up a source.  A chain of exclusive puts, "locks/<source id>/<generation>":
 * the highest generation says "held by …" or "free".  Nothing is decided by a clock; a holder on
 * this host that no longer runs (process id and its start time, boot id) is taken over.
 */
#ifndef STORE_LOCK_H
#define STORE_LOCK_H

#include "store/source.h"

struct repo_admin;
struct lock;

/*
 * Take the lock.  Errors: ERR_BUSY (the message names host, process and since when, and how to
 * free it if that host is gone).
 */
int lock_acquire(struct lock **out, struct repo_admin *a, const struct source *source,
    const char *what);
/* Give it back; the lock is freed, also on error. */
int lock_release(struct lock *l);
/* Free the lock of a holder that is known to be gone: 0, or 1 if it was free. */
int lock_break(struct repo_admin *a, const struct source *source);

#endif
