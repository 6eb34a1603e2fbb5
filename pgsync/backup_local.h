/*
 * backup_local: a base backup that reads the files of a server on this host.
 *
 * PostgreSQL's low-level API: pg_backup_start(), copy, pg_backup_stop(), with the WAL in between
 * brought by a replication connection.
 */
#ifndef PGSYNC_BACKUP_LOCAL_H
#define PGSYNC_BACKUP_LOCAL_H

#include <stdint.h>

struct backup_job;
struct backup_local;
struct pgconn;

/*
 * Find the data directory of the server that `sql` (borrowed until free) leads to, and make sure
 * that it is this server's.  Returns 0; 1 with the reason as this thread's message if it cannot be
 * read here or is another server's; or an error: ERR_FAIL, ERR_UNSUPPORTED, ERR_NOMEM,
 * ERR_CANCELLED.
 */
int backup_local_open(struct backup_local **out, struct pgconn *sql, uint64_t system_identifier);
void backup_local_free(struct backup_local *bl);

/* Take the backup.  Errors: those of pg_backup_run(). */
int backup_local_run(struct backup_local *bl, struct backup_job *job);

#endif
