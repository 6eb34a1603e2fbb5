/*
 * predecessor: files of the snapshot before, looked up by path in the order of directories.
 *
 * Threads: belongs to one thread.
 */
#ifndef PGSYNC_PREDECESSOR_H
#define PGSYNC_PREDECESSOR_H

struct backup_job;
struct predecessor;
struct tree_entry;

/* `job` is borrowed until predecessor_free(); it may have no predecessor. */
int predecessor_new(struct predecessor **out, struct backup_job *job);
void predecessor_free(struct predecessor *p);

/*
 * The regular file at `path`, or NULL; borrowed until the next call.  The directory looked at last
 * is kept.  A directory that cannot be read is told as a warning and counts as empty, because a
 * damaged predecessor should cost time and not the backup.  Errors: ERR_NOMEM, ERR_CANCELLED.
 */
int predecessor_find(struct predecessor *p, const char *path, const struct tree_entry **out);

#endif
