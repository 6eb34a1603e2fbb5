/*
 * past_fixture: a throw-away repository with snapshots made from lists of files.
 *
 * Any failure here is a fault of the test's ground, so it ends the program with the message.
 */
#ifndef TESTS_SUPPORT_PAST_FIXTURE_H
#define TESTS_SUPPORT_PAST_FIXTURE_H

#include "store/repo.h"
#include "store/snapshot.h"
#include "store/tree.h"
#include "tests/support/store_fixture.h"

#include <stddef.h>
#include <stdint.h>

struct past_fixture {
	struct store_fixture store;
	struct source source;
};

/* One thing in a tree. */
struct past_file {
	const char *path;
	enum tree_type type;
	uint32_t mode;
	const void *data; /* files */
	size_t len;
	enum chunking chunking; /* 0 = by content */
	const char *target;     /* symbolic links */
	uint64_t hardlink;
	const struct tree_xattr *xattrs;
	size_t nxattrs;
	int64_t mtime_s;
	uint32_t uid, gid;
};

/* A new repository with one source called "main". */
void past_fixture_new(struct past_fixture *f);
void past_fixture_free(struct past_fixture *f);

void past_fixture_add_source(struct past_fixture *f, const char *name, struct source *out);

/*
 * Commit a snapshot of `source` (NULL: the fixture's) at `time_s` seconds, of the parts given.
 * *out is to snapshot_release().
 */
struct past_part {
	const char *name;
	const struct past_file *files;
	size_t nfiles;
};
void past_fixture_snapshot(struct past_fixture *f, const struct source *source, int64_t time_s,
    const struct past_part *parts, size_t nparts, struct snapshot *out);

struct repo_reader *past_fixture_reader(struct past_fixture *f);

/* Flip a bit in the stored form of a chunk, so that reading it fails. */
void past_fixture_damage(struct past_fixture *f, const struct chunk_id *id);

#endif
