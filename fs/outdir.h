/*
 * outdir: the directory that a tree is restored into, and how far that got.
 *
 * While a restore is unfinished the directory holds the file ".pastfs-restore", which names the
 * tree and its state:
 *   clearing  what is in the way of the tree's files is being removed; nothing is written yet
 *   writing   every file there with the right size and time was written by this restore
 * So a file is never taken for restored because it happened to be there before.
 *
 * Nothing is followed out of the directory: every step of a path is opened without links.
 *
 * Threads: after it is open, outdir_parent() may be called by any.
 */
#ifndef FS_OUTDIR_H
#define FS_OUTDIR_H

#include <stdbool.h>
#include <stdint.h>

#define OUTDIR_MARKER ".pastfs-restore"

enum outdir_state {
	OUTDIR_FRESH,   /* it was empty */
	OUTDIR_USED,    /* clear what is in the way first */
	OUTDIR_RESUMED, /* files may be there already */
};

struct outdir;

/*
 * Open `dir`, made if absent, for the tree `tree_name`.  Errors: ERR_EXISTS (not empty, or another
 * tree's unfinished restore, without `force`), ERR_NOTFOUND (no parent), ERR_DENIED, ERR_NOSPACE.
 */
int outdir_open(struct outdir **out, const char *dir, const char *tree_name, bool force);
/* NULL is allowed.  The marker stays unless outdir_finish() was called. */
void outdir_close(struct outdir *od);

enum outdir_state outdir_state(const struct outdir *od);
const char *outdir_path(const struct outdir *od);
int outdir_fd(const struct outdir *od);

/* Everything that was in the way is gone: from now on it is "writing". */
int outdir_cleared(struct outdir *od);

/*
 * Open the directory that `path` is in, to be closed by the caller, and point `base` at the last
 * part of `path` ("." for "").  Errors: ERR_NOTFOUND, ERR_IO (a link or file is in the way).
 */
int outdir_parent(const struct outdir *od, const char *path, int *fd, const char **base);

/* Make everything durable. */
int outdir_sync(const struct outdir *od);
/* Remove the marker, durably: the restore is complete. */
int outdir_finish(struct outdir *od);

/* Bytes that can be written still. */
int outdir_free_bytes(const struct outdir *od, uint64_t *bytes);

#endif
