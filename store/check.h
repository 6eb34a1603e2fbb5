/*
 * check: is everything there, and is it what was written?
 *
 * Structure: every snapshot opens; every directory, map node and chunk it needs is in the index,
 * in a pack that exists with the size it had.  With data: every pack is read, every chunk opened,
 * decoded and its id computed again.  What is found is told to a callback, one finding a damage,
 * and then once for each file it touches.
 */
#ifndef STORE_CHECK_H
#define STORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

struct repo_reader;
struct progress;

enum check_what {
	CHECK_OBJECT, /* an object cannot be opened: `object` */
	CHECK_PACK,   /* a pack is missing, short, or its checksum or table is wrong: `object` */
	CHECK_CHUNK, /* a chunk is damaged or missing: `object` its pack (or ""), `chunk` its id */
	CHECK_FILE, /* a file of a snapshot is touched: source, snapshot, path, off, len */
};

struct check_finding {
	enum check_what what;
	const char *object;
	const char *chunk; /* hexadecimal */
	const char *source, *snapshot, *path;
	uint64_t off, len;
	const char *message;
};

struct check_totals {
	uint64_t snapshots, files, chunks, packs, bytes_read, damaged_chunks, damaged_files,
	    findings;
};

struct check_opts {
	bool read_data;
	int threads; /* 0 = one a processor */
	struct progress *progress;
	/* Called by one thread at a time. */
	void (*found)(void *ctx, const struct check_finding *f);
	void *ctx;
};

/* 0 if all is well, 1 if there are findings.  Errors: what kept the check itself from going on. */
int check_run(struct repo_reader *r, const struct check_opts *opts, struct check_totals *totals);

#endif
