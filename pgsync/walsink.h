/*
 * walsink: cuts a stream of WAL into segment files of a snapshot, and checks it on the way.
 *
 * Each byte must follow the one before; each page's header must say what it should.
 *
 * Threads: a sink belongs to one thread at a time; the tree is shared.
 */
#ifndef PGSYNC_WALSINK_H
#define PGSYNC_WALSINK_H

#include "pgsync/walmsg.h"

#include <stddef.h>
#include <stdint.h>

struct lane;
struct tree_builder;
struct walsink;

struct walsink_opts {
	struct walmsg_expect expect;
	uint64_t start_lsn; /* the sink begins where its segment begins */
	uint32_t uid, gid;  /* owner of the files */
};

/* `lane` and `tb` are borrowed until the sink is freed. */
int walsink_new(struct walsink **out, struct lane *lane, struct tree_builder *tb,
    const struct walsink_opts *opts);

/* The position that the next byte must have. */
uint64_t walsink_lsn(const struct walsink *s);
/* Everything before it is in finished segments. */
uint64_t walsink_segment_lsn(const struct walsink *s);

/* Take what belongs at `lsn`.  Errors: ERR_DAMAGED (a gap, a wrong page), the writer's. */
int walsink_append(struct walsink *s, uint64_t lsn, const void *data, size_t len);

/* Fill the open segment up with zeros and add it. */
int walsink_finish(struct walsink *s);

void walsink_free(struct walsink *s);

/* Add a small file, such as a timeline's history, owned as the segments are. */
int walsink_add_file(struct walsink *s, const char *name, const void *data, size_t len);

#endif
