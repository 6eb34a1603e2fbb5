/*
 * scan: what of a data directory belongs into a base backup.
 *
 * Paths are those of the snapshot's tree: tablespaces lie inside, below pg_tblspc_data/OID, and
 * pg_tblspc/OID is a relative link to there, also where PostgreSQL has a directory in its place.
 * pg_wal is a directory, even where it is a link.  What PostgreSQL's own base backup leaves out is
 * left out (pgsync/pgfiles.h), and so are unlogged relations but for their _init forks.
 *
 * Threads: a finished scan is read-only.
 */
#ifndef PGSYNC_SCAN_H
#define PGSYNC_SCAN_H

#include "pgsync/pgfiles.h"
#include "store/tree.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct scan;

struct scan_item {
	char *path;          /* in the tree; "" is the root */
	uint32_t root;       /* for scan_source_path() */
	enum tree_type type; /* file, directory or link */
	struct pgfile file;
	struct stat st; /* as noted; of what a link that became a directory leads to */
	char *target;   /* links: as it is to be in the tree */
};

struct scan_tablespace {
	uint32_t oid;
	char *location; /* the original path */
};

struct scan_opts {
	const char *pgdata; /* absolute */
	uint32_t major;     /* with catalog_version: the directory in a tablespace that is ours */
	uint32_t catalog_version;
	void (*warn)(void *ctx, const char *message);
	void *ctx;
};

/*
 * Errors: ERR_DENIED, ERR_IO, ERR_NOTFOUND (the message names the path), ERR_UNSUPPORTED (a path
 * that is too long or too deep), ERR_NOMEM, ERR_CANCELLED.
 */
int scan_run(struct scan **out, const struct scan_opts *opts);
void scan_free(struct scan *s);

/* Directories come before what is in them; what is in one directory stands together. */
size_t scan_count(const struct scan *s);
const struct scan_item *scan_at(const struct scan *s, size_t i);
size_t scan_tablespaces(const struct scan *s, const struct scan_tablespace **list);

/* Where an item is on this host. */
#define SCAN_PATH_MAX 8192
void scan_source_path(const struct scan *s, const struct scan_item *item, char out[SCAN_PATH_MAX]);

#endif
