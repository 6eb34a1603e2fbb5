/*
 * source: what is protected, by name.  One object "sources/<id>/<generation>" for each change; the
 * highest generation counts.
 */
#ifndef STORE_SOURCE_H
#define STORE_SOURCE_H

#include "store/domain.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOURCE_ID_LEN   8
#define SOURCE_NAME_MAX 63

struct repo_reader;
struct repo_admin;

enum source_kind {
	SOURCE_PG = 1, /* a PostgreSQL cluster */
	/* 2 is kept for file trees; a source may have parts of several kinds (docs/format.md). */
};

struct source {
	uint8_t id[SOURCE_ID_LEN];
	uint32_t generation;
	char name[SOURCE_NAME_MAX + 1]; /* [A-Za-z0-9][A-Za-z0-9._-]* */
	enum source_kind kind;
	char *conninfo;             /* libpq connection string, without a password if possible */
	uint64_t system_identifier; /* 0 until the first backup */
	uint8_t domain_id[DOMAIN_ID_LEN];
	int64_t created_us;
	bool removed; /* no more backups; its snapshots stay */
};

void source_release(struct source *s);

/* 0, or ERR_USAGE with the rule. */
int source_check_name(const char *name);

/*
 * Errors: ERR_NOTFOUND (the message lists the sources there are). Removed ones count as absent
 * unless `removed_too`.  A damaged record of another source does not matter; when the name is not
 * found beside one, that record's error is returned.
 */
int source_find(struct repo_reader *r, const char *name, bool removed_too, struct source *out);
/* Each source's newest generation, by name.  *list is to source_list_free(). */
int source_list(struct repo_reader *r, struct source **list, size_t *n);
void source_list_free(struct source *list, size_t n);

/*
 * Fills id, generation and created_us.  A name is unique among all sources, removed ones included,
 * because snapshots are found and mounted by it.  Errors: ERR_EXISTS, ERR_USAGE.
 */
int source_add(struct repo_admin *a, struct source *s);
/* Store a changed source as the next generation.  Errors: ERR_BUSY (somebody else changed it). */
int source_update(struct repo_admin *a, struct source *s);

/* The plain record; exported for its fuzz target. */
struct bytes;
int source_encode(struct bytes *out, const struct source *s);
int source_decode(struct source *s, const void *data, size_t len);

#endif
