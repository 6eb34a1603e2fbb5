/*
 * basetar: takes apart the tar archives that BASE_BACKUP sends, as the bytes arrive.
 *
 * The server writes plain ustar headers (src/port/tar.c of PostgreSQL): regular files, directories
 * and symbolic links, sizes of 8 GiB and more in base 256, no extensions.  Anything else is refused
 * with a message, because a guess would lose a file.
 *
 * Threads: a parser belongs to one thread.
 */
#ifndef PGSYNC_BASETAR_H
#define PGSYNC_BASETAR_H

#include <stddef.h>
#include <stdint.h>

#define BASETAR_PATH_MAX   256 /* prefix, slash, name */
#define BASETAR_TARGET_MAX 100

enum basetar_type {
	BASETAR_FILE = 1,
	BASETAR_DIR,
	BASETAR_SYMLINK,
};

struct basetar_member {
	enum basetar_type type;
	const char *path; /* relative, checked: no empty, "." or ".." part; "" is the root itself */
	const char *target; /* BASETAR_SYMLINK, else "" */
	uint64_t size;      /* BASETAR_FILE */
	uint32_t mode;      /* 07777 */
	int64_t mtime_s;
};

/* A non-zero result ends the parsing and is returned. */
struct basetar_sink {
	int (*begin)(void *ctx, const struct basetar_member *m);
	/* Content of the file begun, in order; pieces as they arrive, never empty. */
	int (*data)(void *ctx, const void *data, size_t len);
	/* The file, directory or link begun is complete. */
	int (*end)(void *ctx);
	void *ctx;
};

struct basetar;

/* `sink` is copied. */
int basetar_new(struct basetar **out, const struct basetar_sink *sink);

/*
 * Take the next bytes of the archive.  Errors: ERR_DAMAGED (not such an archive), the sink's; the
 * parser is then dead and gives the same code again.
 */
int basetar_push(struct basetar *t, const void *data, size_t len);

/* Everything was pushed.  ERR_DAMAGED if the archive is cut short inside a member. */
int basetar_finish(struct basetar *t);

void basetar_free(struct basetar *t);

#endif
