/*
 * lock: who is backing up a source.  A chain of exclusive puts, "locks/<source id>/<generation>":
 * the highest generation says "held by …" or "free".  Nothing is decided by a clock; a holder on
 * this host that no longer runs (process id and its start time, boot id) is taken over.
 */
#ifndef STORE_LOCK_H
#define STORE_LOCK_H

#include "store/source.h"

#include <stddef.h>
#include <stdint.h>

struct bytes;
struct lock;
struct repo_admin;

/*
 * Take the lock for `what`, one word such as "backup".  Errors: ERR_BUSY (the message names host,
 * process and since when, and how to free it if that host is gone).
 */
int lock_acquire(
    struct lock **out, struct repo_admin *a, const struct source *source, const char *what);
/*
 * Give it back; the lock is freed, also on error.  Errors: ERR_BUSY (somebody else freed it with
 * lock_break() meanwhile).
 */
int lock_release(struct lock *l);
/* Free the lock of a holder that is known to be gone: 0, or 1 if it was free. */
int lock_break(struct repo_admin *a, const struct source *source);

/* The plain record of one generation; exported for its fuzz target and tests. */
enum lock_state {
	LOCK_HELD = 1,
	LOCK_FREE = 2,
};

#define LOCK_TOKEN_LEN 16

struct lock_record {
	enum lock_state state;
	/* Of the holder; everything below is empty or zero in a free one. */
	char *what;
	char *host;
	char *machine_id;   /* of the host's installation, "" if it has none */
	char *boot_id;      /* "" if unknown */
	uint64_t pid_space; /* the inode of its process id namespace, 0 if unknown */
	uint64_t pid;
	uint64_t pid_start; /* in clock ticks since boot, as in /proc/PID/stat */
	int64_t since_us;
	uint8_t token[LOCK_TOKEN_LEN];
};

void lock_record_release(struct lock_record *rec);
int lock_record_encode(struct bytes *out, const struct lock_record *rec);
/* Errors: ERR_DAMAGED, ERR_UNSUPPORTED, ERR_NOMEM. */
int lock_record_decode(struct lock_record *rec, const void *data, size_t len);
/* This process as a holder, from now on. */
int lock_record_self(struct lock_record *rec, const char *what);

#endif
