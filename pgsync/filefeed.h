/*
 * filefeed: takes files that arrive one after the other as a stream, and has several threads check,
 * hash and store them.
 *
 * A file is cut into units (a main fork of more than one span: its spans; anything else: the whole
 * file), a unit into pieces.  Workers take units in the order of the stream, and a unit's pieces as
 * they come, so that a large file keeps as many workers busy as the window of bytes under way
 * reaches over spans.
 *
 * Threads: the calls belong to one thread, the feeder.
 */
#ifndef PGSYNC_FILEFEED_H
#define PGSYNC_FILEFEED_H

#include <stddef.h>
#include <stdint.h>

#define FILEFEED_PIECE_BYTES (1u << 20)

struct backup_job;
struct filefeed;

/* A page that fails its check and that nobody could read again yet. */
struct filefeed_suspect {
	char *path; /* in the tree */
	uint64_t off;
	uint32_t block;
	uint16_t stored_checksum, computed_checksum;
};

struct filefeed_opts {
	uint64_t start_lsn; /* of the backup: pages changed since get no verdict */
	size_t window;      /* bytes under way at most; at least FILEFEED_PIECE_BYTES */
	uint32_t uid, gid;
};

/* Starts job->threads workers, each with a lane. */
int filefeed_new(struct filefeed **out, struct backup_job *job, const struct filefeed_opts *opts);
/* Stops the workers, wherever they are; NULL is allowed. */
void filefeed_free(struct filefeed *ff);

struct filefeed_file {
	const char *path; /* in the tree; copied */
	uint64_t size;
	uint32_t mode;
	int64_t mtime_s;
};

/*
 * One file: begin, its bytes, end.  Waits while the window is full.  Errors: a worker's, which may
 * belong to an earlier file; ERR_CANCELLED, ERR_NOMEM.
 */
int filefeed_begin(struct filefeed *ff, const struct filefeed_file *file);
int filefeed_data(struct filefeed *ff, const void *data, size_t len);
int filefeed_end(struct filefeed *ff);

/* Wait until every file is in the tree and the workers are gone. */
int filefeed_finish(struct filefeed *ff);

/* After finish: the pages that look bad, borrowed until free. */
size_t filefeed_suspects(const struct filefeed *ff, const struct filefeed_suspect **list);

#endif
