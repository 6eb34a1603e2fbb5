/*
 * backup_replication: a base backup by BASE_BACKUP over a replication connection.
 *
 * Needs nothing of the database host but a role that may replicate.  The server sends one archive a
 * tablespace; its files go through the same chunking, page checks and tree as those of a backup on
 * the database host.  The server's own manifest is compared with what arrived, file by file.
 *
 * Threads: the caller's takes the stream apart; job->threads workers hash, compress and store; one
 * more receives WAL (pgsync/walfetch.h).  Pieces on the way to the workers take at most
 * BACKUP_REPLICATION_WINDOW bytes.
 */
#ifndef PGSYNC_BACKUP_REPLICATION_H
#define PGSYNC_BACKUP_REPLICATION_H

struct backup_job;
struct pgconn;

/* A worker gets a span of 64 MiB, so the window must reach into the next one for two to work. */
#define BACKUP_REPLICATION_WINDOW (96u << 20)

/*
 * Run the whole backup: job->tree gets every file, tablespace link, backup_label and WAL segment,
 * but not backup_manifest.  Sets every
 * member of job->pg but the bad pages' record, and the method; what is set before (system
 * identifier, data checksums, segment size) must agree.
 *
 * `sql` (or NULL) is an ordinary connection, borrowed: configuration files from outside the data
 * directory, and pages that look torn, are read by it, if its role may read server files.
 *
 * Errors: ERR_FAIL (not allowed, PostgreSQL said no, silence), ERR_USAGE (another system
 * identifier), ERR_DAMAGED (what arrived is not what the server's manifest lists), ERR_CANCELLED,
 * the writer's.
 */
int backup_replication_run(struct backup_job *job, struct pgconn *sql);

#endif
