/*
 * snapshot: one instant of a source, complete, with everything known about it.
 *
 * An object "snapshots/<source id>/<snapshot id>".  The id begins with the big-endian start time,
 * so names sort by time.  A snapshot has one or more parts, each a tree.  Layout: docs/format.md.
 */
#ifndef STORE_SNAPSHOT_H
#define STORE_SNAPSHOT_H

#include "store/repo.h"
#include "store/source.h"
#include "store/tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOT_ID_LEN 16

enum part_kind {
	PART_PG = 1,
};

/* How a PostgreSQL part was taken. */
enum pg_method {
	PG_METHOD_LOCAL = 1,       /* files read on the database host */
	PG_METHOD_REPLICATION = 2, /* BASE_BACKUP over a replication connection */
};

/* A page that failed its checksum, as found. */
struct bad_page {
	char *path; /* of the segment file in the tree */
	uint32_t block; /* within the relation fork, over all segments */
	uint16_t stored_checksum, computed_checksum;
};

struct pg_part {
	uint64_t system_identifier;
	uint32_t server_version; /* PG_VERSION_NUM, such as 150018 */
	uint32_t timeline;
	uint64_t start_lsn, stop_lsn;
	uint64_t checkpoint_lsn;
	uint32_t wal_segment_bytes;
	bool data_checksums;
	bool from_standby;
	enum pg_method method;
	uint64_t pages_checked;
	size_t nbad_pages; /* kept in the record: at most SNAPSHOT_BAD_PAGES_MAX */
	struct bad_page *bad_pages;
	uint64_t bad_pages_total;
	uint32_t ntablespaces;
	struct pg_tablespace {
		uint32_t oid;
		char *location; /* the original path */
	} *tablespaces;
};
#define SNAPSHOT_BAD_PAGES_MAX 10000

struct snapshot_part {
	enum part_kind kind;
	char *name; /* "" when it is the only one */
	struct tree_entry root;
	struct pg_part pg;
};

struct snapshot {
	uint8_t id[SNAPSHOT_ID_LEN];
	uint8_t source_id[SOURCE_ID_LEN];
	uint8_t parent_id[SNAPSHOT_ID_LEN]; /* the predecessor; zeros if none */
	char *source_name;
	char *name;          /* its directory: RFC 3339, unique in the source */
	int64_t time_us;     /* the instant it shows */
	int64_t started_us, finished_us;
	char *host;
	char *pastfs_version;
	char *label; /* free text, may be "" */
	uint64_t files;
	uint64_t logical_bytes;   /* sum of file sizes */
	uint64_t read_bytes;      /* read from the source */
	uint64_t new_bytes;       /* content stored for the first time */
	uint64_t stored_bytes;    /* what that took, sealed, with maps and directories */
	uint64_t delta_bytes;     /* of new_bytes, content kept as deltas */
	uint64_t delta_stored_bytes;
	uint64_t warnings; /* bad pages, files that changed kind: details in the parts */
	bool full_read;
	size_t nparts;
	struct snapshot_part *parts;
	/* Names of owners, so that another host can map them. */
	size_t nusers, ngroups;
	struct snapshot_owner {
		uint32_t id;
		char *name;
	} *users, *groups;
};

void snapshot_release(struct snapshot *s);
int snapshot_encode(struct bytes *out, const struct snapshot *s);
/* Errors: ERR_DAMAGED, ERR_UNSUPPORTED (a required field this version does not know). */
int snapshot_decode(struct snapshot *s, const void *data, size_t len);

/* Fill s->id from s->started_us and randomness. */
void snapshot_make_id(struct snapshot *s);
/* "snapshots/<source id>/<id>" */
#define SNAPSHOT_OBJECT_MAX 80
void snapshot_object_name(const struct snapshot *s, char out[SNAPSHOT_OBJECT_MAX]);

/*
 * All snapshots of a source, oldest first by time_us.  A record that cannot be read is left out
 * and counted in *damaged with a message recorded (damaged may be NULL: then it is an error).
 */
int snapshot_list(struct repo_reader *r, const uint8_t source_id[SOURCE_ID_LEN],
    struct snapshot **list, size_t *n, size_t *damaged);
void snapshot_list_free(struct snapshot *list, size_t n);

/* Encode, seal and commit `s` through the writer.  See repo_writer_commit(). */
int snapshot_commit(struct repo_writer *w, const struct snapshot *s);

/*
 * Find what `when` names in a source: "latest", "snap:<id or unique beginning>", or a time in
 * RFC 3339 (zone required unless `default_offset_s` is given) that is a snapshot's.  Errors:
 * ERR_USAGE, ERR_NOTFOUND (with the nearest snapshots before and after).
 */
int snapshot_resolve(struct repo_reader *r, const struct source *source, const char *when,
    int32_t default_offset_s, struct snapshot *out);

#endif
