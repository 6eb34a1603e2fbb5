/*
 * backup_job: what the parts of a running base backup share.  Only pgsync/ includes this.
 *
 * Threads: the functions may be called by any; the plain members are set before workers start and
 * read-only while they run.
 */
#ifndef PGSYNC_BACKUP_JOB_H
#define PGSYNC_BACKUP_JOB_H

#include "pgsync/backup.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct tree_builder;

struct backup_job {
	struct repo_writer *w;
	const struct pg_backup_opts *opts;
	int threads;               /* at least 1 */
	struct tree_builder *tree; /* the part's entries are added here */

	/*
	 * The result.  Set before the method runs: system_identifier, server_version,
	 * data_checksums, wal_segment_bytes.  The method sets the rest, but pages and bad pages,
	 * which come by the functions below.
	 */
	struct pg_part *pg;

	/* The predecessor's PostgreSQL part and its tree, or NULL. */
	const struct pg_part *prev_pg;
	const struct tree_entry *prev_root;
	bool prev_is_here; /* it was taken on this host */

	_Atomic uint64_t files;
	_Atomic uint64_t logical_bytes;
	_Atomic uint64_t read_bytes;
	_Atomic uint64_t warnings;
	_Atomic uint64_t pages_checked;

	pthread_mutex_t lock; /* pg->bad_pages, pg->nbad_pages, pg->bad_pages_total */
};

int backup_job_init(struct backup_job *job);
void backup_job_release(struct backup_job *job);

/* Count a finding and tell the caller's warn(). */
void backup_job_warn(struct backup_job *job, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * Record a page that fails its checksum and tell the caller.  `path` is of the segment file in
 * the tree, `block` counts over all segments of the fork.  Errors: ERR_NOMEM.
 */
int backup_job_bad_page(struct backup_job *job, const char *path, uint32_t block,
    uint16_t stored_checksum, uint16_t computed_checksum);

/* Count a file that is in the tree now, with `read` of its `size` bytes read from the source. */
void backup_job_file(struct backup_job *job, uint64_t size, uint64_t read);

/*
 * Add a small file, whose content is at hand, with owner, mode and time of `like`; mode 0600 and
 * the present if `like` is no file.  Borrows `data`; counts it.
 */
struct lane;
int backup_job_add_text(struct backup_job *job, struct lane *lane, const char *path,
    const void *data, size_t len, const struct tree_entry *like);

#endif
