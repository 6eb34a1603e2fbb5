/*
 * confset: the configuration files of a running cluster, as files of a self-contained directory.
 *
 * A copy must start with what its server uses, wherever that is (Debian keeps it in /etc), and must
 * not reach for the original.  So the effective postgresql.conf, pg_hba.conf and pg_ident.conf,
 * and what they include, stand at the top of the tree, rewritten by pgsync/pgconf.h where needed;
 * every file from outside the data directory, and every one that was changed or hidden by this, is
 * kept word for word below pastfs_config/ under its absolute path.
 *
 * Threads: a finished set is read-only.
 */
#ifndef PGSYNC_CONFSET_H
#define PGSYNC_CONFSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define CONFSET_DIR       "pastfs_config"
#define CONFSET_FILES_MAX 1000

struct confset;

/*
 * Where the files are: on this host, or on the server's, reached some other way.  stat() is 0, or
 * -1 with errno.  read() and list() are 0; 1 if it cannot be read, with the reason as this thread's
 * message; or an error.  What they give is to free(), each name too; names come sorted.
 */
struct confset_host {
	int (*stat)(void *ctx, const char *path, bool follow, struct stat *st);
	int (*read)(void *ctx, const char *path, struct stat *st, uint8_t **data, size_t *len);
	int (*list)(void *ctx, const char *path, char ***names, size_t *n);
	void *ctx;
};

struct confset_opts {
	const char *pgdata;      /* absolute; borrowed for the call, as the others */
	const char *config_file; /* what the server says; absolute */
	const char *hba_file;
	const char *ident_file;
	const struct confset_host *host; /* NULL: this host */
	/* Told of files that cannot be read or followed; they are left out. */
	void (*warn)(void *ctx, const char *message);
	void *ctx;
};

/* Errors: ERR_NOMEM, ERR_UNSUPPORTED (too many files). */
int confset_collect(struct confset **out, const struct confset_opts *opts);
void confset_free(struct confset *cs);

struct confset_file {
	char *path; /* in the tree */
	bool is_dir;
	struct stat st;
	uint8_t *data;
	size_t len;
};

size_t confset_count(const struct confset *cs);
/* Directories stand before what is in them. */
const struct confset_file *confset_at(const struct confset *cs, size_t i);
/* Whether the set has something for `path`, so that the data directory's own is left out. */
bool confset_has(const struct confset *cs, const char *path);

/* `path` without ".", ".." and double slashes; it must be absolute.  For tests. */
int confset_normalise(const char *path, char *out, size_t max);

#endif
