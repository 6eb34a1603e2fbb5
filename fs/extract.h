/*
 * extract: write a tree of the repository to a local directory, in parallel.
 *
 * Resumable: the target holds a marker with the tree's identity until everything is there; a run
 * with the same tree goes on where a killed one stopped.  Files named in `last` (global/pg_control)
 * are written after everything else is durable, so that a half-done directory does not start.
 */
#ifndef FS_EXTRACT_H
#define FS_EXTRACT_H

#include "store/tree.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct progress;
struct repo_reader;

struct extract_opts {
	const char *tree_name; /* identity for resuming: the snapshot id in hexadecimal */
	bool force;            /* the target may have files in it: they are replaced, others stay */
	bool keep_owners;      /* chown as stored; needs root */
	bool map_owner;        /* instead: everything belongs to uid and gid; needs root */
	uid_t uid;
	gid_t gid;
	int threads;             /* 0 = processors */
	const char *const *last; /* paths written at the very end, NULL-terminated; may be NULL */
	/* Called when everything but `last` is written, to change the target before it looks
	 * complete; an error ends the extraction, which can be resumed.  May be NULL. */
	int (*before_last)(void *ctx);
	struct progress *progress;
	/* A file whose data is damaged: told once each; extract goes on and ends with ERR_DAMAGED.
	 * The damaged ranges are left as zeros in a file named "<name>.damaged". */
	void (*damaged)(void *ctx, const char *path, const char *message);
	/* What could not be restored in full, such as an attribute the file system does not know;
	 * may be NULL.  Both are called by any thread, one at a time. */
	void (*warn)(void *ctx, const char *path, const char *message);
	void *ctx;
};

struct extract_totals {
	uint64_t files; /* regular files, of these: */
	uint64_t damaged_files;
	uint64_t resumed_files; /* found complete */
	uint64_t bytes;         /* of content, holes included */
	uint64_t warnings;
};

/*
 * Restore what is below `root` into `dir` (made if absent), with modes, times, links, extended
 * attributes, hard links, and owners if asked; holes stay holes.  Without owners everything is the
 * caller's, and set-id bits are left out.  When it returns 0 everything is durable.  Errors:
 * ERR_EXISTS (dir is not empty: use force), ERR_NOSPACE (what is needed and what is free),
 * ERR_DAMAGED (all else is there), ERR_CANCELLED.  `totals` is filled in any case.
 */
int extract_tree(struct repo_reader *r, const struct tree_entry *root, const char *dir,
    const struct extract_opts *opts, struct extract_totals *totals);

#endif
