/*
 * localdir: the directory tree in which the local back end keeps objects: names to paths and back,
 * opening without leaving the tree, listing.  Only store/backend_local.c uses it.
 *
 *   object "packs/<x>"   file <root>/packs/<first two characters of x>/<x>
 *   any other name       file <root>/<name>
 *
 * Each directory is opened from the one above it, and symbolic links are not followed.  Threads:
 * safe.
 */
#ifndef STORE_LOCALDIR_H
#define STORE_LOCALDIR_H

#include "store/backend.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>

/* A path has at most a directory of two characters more than a name. */
#define LOCALDIR_PATH_MAX (BACKEND_NAME_MAX + 4)
#define LOCALDIR_FLAGS    (O_RDONLY | O_DIRECTORY | O_NOFOLLOW)

struct localdir {
	int fd;
	char *root; /* for messages */
};

enum localdir_missing {
	LOCALDIR_FAIL,
	LOCALDIR_MAKE,
};

/* The path of an object's file below the root. */
void localdir_path(const char *name, char path[LOCALDIR_PATH_MAX]);

/*
 * Open the directory at the first `len` bytes of `path`, part by part; -1 with errno.  *made is set
 * to true if one on the way had to be made.
 */
int localdir_open(const struct localdir *l, const char *path, size_t len,
    enum localdir_missing missing, bool *made);

/* As backend_list(). */
int localdir_list(const struct localdir *l, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx);

/*
 * Whether the tree holds nothing that matters: 1 yes, 0 no, or an error.  Empty directories and
 * temporary files, as an attempt that failed leaves them, do not.
 */
int localdir_is_empty(const struct localdir *l);

/* Whether a file is one that a writer has not named yet, or left behind. */
#define LOCALDIR_TMP_PREFIX ".tmp-"
bool localdir_is_temporary(const char *file);

/* Whether errno says that there is nothing at a path. */
bool localdir_is_absent(int eno);

struct stat;
void localdir_info(const struct stat *st, struct object_info *info);

#endif
