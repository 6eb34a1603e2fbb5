/*
 * pgfiles: what a path in a data directory is, by its name alone.
 *
 * Paths are relative to the data directory, as in a snapshot's tree: tablespaces are below
 * pg_tblspc_data/OID there.  What a base backup leaves out is what PostgreSQL's own leaves out
 * (src/backend/backup/basebackup.c).
 *
 * Threads: pure functions.
 */
#ifndef PGSYNC_PGFILES_H
#define PGSYNC_PGFILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pgfile_kind {
	PGFILE_OTHER = 0, /* not a relation */
	PGFILE_MAIN,
	PGFILE_FSM,
	PGFILE_VM,
	PGFILE_INIT,
	PGFILE_TEMP, /* any fork of a temporary relation */
};

struct pgfile {
	enum pgfile_kind kind;
	uint32_t relation; /* the file node number; not of temporary relations */
	uint32_t segment;  /* 0 for the first gigabyte */
};

/* What the file named `name` is when it lies in a directory of relations. */
void pgfiles_relation(const char *name, struct pgfile *out);

/* Whether the directory `path` holds relations: global, base/DB, pg_tblspc_data/OID/PG_x_y/DB. */
bool pgfiles_is_relation_dir(const char *path);

/* Both at once, for a file's whole path. */
void pgfiles_classify(const char *path, struct pgfile *out);

enum pgfile_rule {
	PGFILE_KEEP = 0,
	PGFILE_SKIP,          /* leave it out */
	PGFILE_SKIP_CONTENTS, /* keep the directory, leave out what is in it */
};

enum pgfile_rule pgfiles_rule(const char *path, bool is_dir);

/* Whether a file that is gone when it is read is nothing to tell anybody. */
bool pgfiles_may_vanish(const char *path);

/* A plain decimal number without leading zeros, 1 to 4294967295; false if `text` is none. */
bool pgfiles_oid(const char *text, size_t len, uint32_t *oid);

#endif
