/*
 * walfetch: brings the WAL of a base backup into its snapshot, over a replication connection.
 *
 * A temporary slot made before the backup begins keeps the server from removing what is needed,
 * and ends with the connection: nothing stays behind.  The stream is checked as it passes: every
 * position follows the one before, every page header says what it must.
 *
 * Order of calls: start, stream, finish or abort.
 * Threads: one thread of its own between stream and finish; the functions belong to one caller.
 */
#ifndef PGSYNC_WALFETCH_H
#define PGSYNC_WALFETCH_H

#include <stdint.h>

struct lane;
struct tree_builder;
struct walfetch;

struct walfetch_opts {
	const char *conninfo;       /* borrowed for the call */
	uint64_t system_identifier; /* what the server must say; 0 = anything */
	uint32_t uid, gid;          /* owner of the files in the snapshot */
	int silence_ms;             /* give up when nothing arrives for so long; 0 = 60000 */
};

/*
 * Connect and make the slot.  On success *out is the caller's, to walfetch_finish() or
 * walfetch_abort().  Errors: ERR_FAIL (not allowed, no free slot or sender: with the setting to
 * change), ERR_USAGE (another system identifier).
 */
int walfetch_start(struct walfetch **out, const struct walfetch_opts *opts);

/* What IDENTIFY_SYSTEM said, valid after start. */
uint64_t walfetch_system_identifier(const struct walfetch *wf);
uint32_t walfetch_timeline(const struct walfetch *wf);

struct walfetch_range {
	uint64_t start_lsn; /* of the backup: streaming begins where its segment begins */
	uint32_t timeline;
	uint32_t segment_bytes;
};

/*
 * Stream in the background into `tb`: pg_wal/SEGMENT, and pg_wal/TIMELINE.history above timeline
 * 1.  `lane` belongs to the stream until it ends; `tb` is shared.
 */
int walfetch_stream(struct walfetch *wf, struct lane *lane, const struct walfetch_range *range,
    struct tree_builder *tb);

/* 0 while the stream is healthy; its error otherwise, so that a long copy can stop early. */
int walfetch_status(struct walfetch *wf);

/*
 * Wait until everything before `stop_lsn` has arrived, fill the last segment up with zeros, add it
 * to the tree and end the connection.  `wf` is freed, also on error.  Errors: ERR_FAIL (the server
 * is silent or gone: the message names the position), ERR_DAMAGED (a gap, a wrong page),
 * ERR_CANCELLED, the writer's.
 */
int walfetch_finish(struct walfetch *wf, uint64_t stop_lsn);

/* Stop, without adding anything more; waits for the thread.  NULL is allowed. */
void walfetch_abort(struct walfetch *wf);

#endif
