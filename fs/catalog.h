/*
 * catalog: which sources and snapshots there are, as a mount shows them.
 *
 * An edition is the state at one instant, immutable and counted.  The repository is asked again
 * when the edition at hand is older than a second: the objects are listed, and only snapshots that
 * were not there before are opened.  What cannot be read is left out, with a notice.
 *
 * Names are made unique: of two things of one name the later gets its id behind a dot.
 *
 * Threads: safe.  One thread at a time asks the repository, without the lock; meanwhile the
 * others work with the edition at hand.
 */
#ifndef FS_CATALOG_H
#define FS_CATALOG_H

#include "store/snapshot.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define CATALOG_NAME_MAX    255
#define CATALOG_MAX_AGE_MS  1000
#define CATALOG_LATEST_NAME "latest"

struct catalog;
struct notices;
struct repo_reader;

struct catalog_part {
	char *name;
	struct tree_entry root;
};

struct catalog_snapshot {
	atomic_uint refs;
	uint8_t id[SNAPSHOT_ID_LEN];
	uint8_t source_id[SOURCE_ID_LEN];
	char source_name[SOURCE_NAME_MAX + 1]; /* when it was taken */
	char name[CATALOG_NAME_MAX + 1];
	int64_t time_us;
	uint64_t files;
	size_t nparts;
	struct catalog_part *parts;
};

struct catalog_source {
	uint8_t id[SOURCE_ID_LEN];
	char name[CATALOG_NAME_MAX + 1];
	int64_t newest_us; /* the time of the last snapshot, or of the source's creation */
	size_t nsnapshots;
	struct catalog_snapshot **snapshots; /* oldest first */
};

struct catalog_edition {
	atomic_uint refs;
	int64_t newest_us;
	uint64_t files; /* in all snapshots */
	size_t nsources;
	struct catalog_source *sources; /* by name */
};

/* `r` and `n` are borrowed until catalog_free().  Errors: those of listing the repository. */
int catalog_new(
    struct catalog **out, struct repo_reader *r, struct notices *n, unsigned max_age_ms);
void catalog_free(struct catalog *c);

/* The edition of now, counted: to catalog_edition_put().  Never NULL. */
struct catalog_edition *catalog_get(struct catalog *c);
void catalog_edition_put(struct catalog_edition *e);

const struct catalog_source *catalog_find_source(const struct catalog_edition *e, const char *name);
struct catalog_snapshot *catalog_find_snapshot(const struct catalog_source *s, const char *name);

struct catalog_snapshot *catalog_snapshot_take(struct catalog_snapshot *s);
/* NULL is allowed. */
void catalog_snapshot_put(struct catalog_snapshot *s);

#endif
