/*
 * backup: take a base backup of a running PostgreSQL cluster into a repository writer.
 *
 * pg_backup_run() fills a snapshot and puts all its content; the caller commits it.  Nothing stays
 * behind on the server: the slot is temporary, the backup ends with its session.
 */
#ifndef PGSYNC_BACKUP_H
#define PGSYNC_BACKUP_H

#include "store/snapshot.h"

#include <stdbool.h>

struct progress;
struct repo_writer;
struct source;

enum pg_over {
	PG_OVER_AUTO = 0, /* local where the data directory is readable here, else replication */
	PG_OVER_LOCAL,
	PG_OVER_REPLICATION,
};

struct pg_backup_opts {
	const struct source *source; /* conninfo, and the system identifier it must have if not 0 */
	enum pg_over over;
	bool full_read;              /* trust no times and no LSNs: read and compare everything */
	bool spread_checkpoint;      /* wait for a spread checkpoint rather than force one */
	const char *label;           /* NULL = "" */
	int threads;                 /* 0 = processors + 1 */
	const struct snapshot *prev; /* the predecessor, or NULL */
	struct progress *progress;
	void (*warn)(void *ctx, const char *message); /* one finding a call, from any thread */
	void *ctx;
};

/*
 * Errors: ERR_FAIL (cannot connect, not allowed, PostgreSQL said no: the message has its words and
 * the next step), ERR_UNSUPPORTED (server version), ERR_USAGE (another system identifier than the
 * source's; a data directory that is not this server's), ERR_CANCELLED, the writer's.
 * On success `out` lacks only its name; it is the caller's to snapshot_release().
 */
int pg_backup_run(struct repo_writer *w, const struct pg_backup_opts *opts, struct snapshot *out);

#endif
