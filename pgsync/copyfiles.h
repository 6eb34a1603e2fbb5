/*
 * copyfiles: read the files of a scanned data directory into a snapshot's tree.
 *
 * Main forks of relations are read in page-aligned pieces and every page is checked; those that
 * are provably unchanged since the predecessor are taken over unread.  Everything else is read in
 * full.  Large relations are read in spans by all threads at once.
 *
 * A file that is gone is left out; one that grew is read to the size noted by the scan; what a
 * relation lost since is filled up with zeros: WAL brings the truth in each case.
 */
#ifndef PGSYNC_COPYFILES_H
#define PGSYNC_COPYFILES_H

#include <stdbool.h>
#include <stdint.h>

struct backup_job;
struct confset;
struct scan;
struct walfetch;

struct copyfiles_opts {
	const struct scan *scan;
	const struct confset *config; /* files of it take the place of scanned ones */
	struct walfetch *wal; /* watched, so that its fault ends the copy early; may be NULL */
	uint64_t start_lsn;
	/* The predecessor is of the same cluster, timeline and host, and read from files. */
	bool trust_prev;
	int64_t prev_started_us;
};

/*
 * Add everything but global/pg_control to job->tree.  Errors: ERR_DENIED and ERR_IO name the file;
 * ERR_CANCELLED, the writer's.
 */
int copyfiles_run(struct backup_job *job, const struct copyfiles_opts *opts);

#endif
