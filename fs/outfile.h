/*
 * outfile: one thing of a tree on its way to a local directory.
 *
 * A file is written under its own name, and gets its time as the very last: until then it does not
 * look complete.  One with damaged data ends as "<name>.damaged", with zeros where the damage is.
 *
 * Threads: ranges of one outfile may be written by several threads at once.
 */
#ifndef FS_OUTFILE_H
#define FS_OUTFILE_H

#include "store/tree.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define OUTFILE_DAMAGED_SUFFIX ".damaged"

struct outdir;
struct progress;
struct repo_reader;

/* What every step needs; borrowed. */
struct outfile_env {
	struct repo_reader *reader;
	struct outdir *dir;
	struct progress *progress;
	bool keep_owners;
	bool map_owner; /* goes before keep_owners */
	uid_t uid;
	gid_t gid;
	/* Called once for each damaged file, and for what could not be restored in full. */
	void (*damaged)(void *ctx, const char *path, const char *message);
	void (*warn)(void *ctx, const char *path, const char *message);
	void *ctx;
};

struct outfile {
	char *path;
	struct tree_entry entry;
	int fd;
	atomic_bool damaged;
	atomic_bool failed; /* a range could not be written: never to be finished */
	atomic_uint users;  /* jobs that refer to it */
};

/* Copies `e`; one user.  outfile_drop() gives up a user, and frees with the last. */
int outfile_new(struct outfile **out, const char *path, const struct tree_entry *e);
/* True if it was the last user, for which the file is still there until outfile_free(). */
bool outfile_drop(struct outfile *f);
void outfile_free(struct outfile *f);

/* Make the file, with its size; 1 if it is there and complete and `resumed`. */
int outfile_begin(struct outfile *f, const struct outfile_env *env, bool resumed);
/* Write what is in [off, end); `buf` has OUTFILE_BUFFER_BYTES. */
#define OUTFILE_BUFFER_BYTES (1u << 20)
int outfile_write(
    struct outfile *f, const struct outfile_env *env, uint64_t off, uint64_t end, uint8_t *buf);
/* All is written: set owner, attributes, mode and time. */
int outfile_finish(struct outfile *f, const struct outfile_env *env);

/* Make a symbolic link, FIFO, socket or device, in place of what is there. */
int outfile_make_special(
    const struct outfile_env *env, const char *path, const struct tree_entry *e);
/* Make or take over a directory that its owner can write to. */
int outfile_make_dir(const struct outfile_env *env, const char *path);
/* Another name for `first`, which is complete, or damaged. */
int outfile_make_link(const struct outfile_env *env, const char *path, const char *first);
/* Remove what is in the way of `e` at `path`. */
int outfile_clear(const struct outfile_env *env, const char *path, const struct tree_entry *e);

/* Owner, extended attributes, mode and times of what is at `path`. */
int outfile_set_meta(const struct outfile_env *env, const char *path, const struct tree_entry *e);

#endif
