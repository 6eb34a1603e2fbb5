/*
 * content: the bytes of a file as a list of chunks, small ones inline, large ones by a tree of map
 * nodes that are chunks themselves.
 *
 * A leaf node lists up to CONTENT_FANOUT chunks of data; an inner node lists up to CONTENT_FANOUT
 * nodes below it.  The first level is kept inline in the directory entry while it is short.
 * Directories are contents too: their bytes are encoded entries (store/tree.h).
 * Layout: docs/format.md.
 *
 * Threads: a content_writer belongs to one thread; content_pread() may be called by any.
 */
#ifndef STORE_CONTENT_H
#define STORE_CONTENT_H

#include "store/chunk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_FANOUT       1024
#define CONTENT_INLINE_LEAF  4  /* chunks kept in the entry itself */
#define CONTENT_INLINE_INNER 32 /* nodes kept in the entry itself */
#define CONTENT_MAX_DEPTH    4
#define CONTENT_SPAN_BYTES   ((uint64_t)CONTENT_FANOUT * CHUNK_PAGE_BYTES) /* 64 MiB */

struct lane;
struct repo_reader;
struct bytes;
struct cursor;

enum chunking {
	CHUNKING_PAGES =
	    1,            /* fixed chunks of the header's page_chunk_bytes, the last may be short */
	CHUNKING_CDC = 2, /* content-defined */
	CHUNKING_RECORDS = 3, /* cut by the writer: directories */
};

struct node_ref {
	struct chunk_id id;
	uint64_t len;    /* bytes of content below it */
	uint32_t crc32c; /* of these bytes */
};

/* depth 0: `leaf`, else `inner`, whose nodes are leaf nodes at depth 1. */
struct content {
	uint64_t size;
	uint32_t crc32c; /* of the whole content */
	enum chunking chunking;
	uint32_t chunk_bytes; /* CHUNKING_PAGES only */
	uint8_t depth;
	uint32_t nrefs;
	struct chunk_ref *leaf;
	struct node_ref *inner;
};

void content_release(struct content *c);
int content_copy(struct content *to, const struct content *from);
int content_encode(struct bytes *out, const struct content *c);
/* Errors: ERR_DAMAGED, ERR_NOMEM.  *c is released on error. */
int content_decode(struct content *c, struct cursor *in);

/* Parse a map node; exported for its fuzz target. */
struct map_node {
	uint8_t depth; /* 0: leaf */
	uint32_t n;
	struct chunk_ref *leaf;
	struct node_ref *inner;
};
int map_node_decode(struct map_node *node, const void *data, size_t len);
void map_node_release(struct map_node *node);

/* ---- writing ---- */

struct content_writer;

/*
 * Write content from byte 0 on.  `prev` (or NULL) is the same file in the predecessor snapshot:
 * source of deltas and of unchanged chunks; borrowed until the writer is freed.
 */
int content_writer_new(struct content_writer **out, struct lane *lane, enum chunking chunking,
    const struct content *prev);

/*
 * Write only span `span` (CONTENT_SPAN_BYTES from span * CONTENT_SPAN_BYTES on) of a
 * CHUNKING_PAGES content, to be joined by content_join().  Spans of one file may be written by
 * several lanes at once.
 */
int content_writer_new_span(
    struct content_writer **out, struct lane *lane, uint64_t span, const struct content *prev);

int content_writer_append(struct content_writer *cw, const void *data, size_t len);

/*
 * CHUNKING_PAGES at a chunk border: the next `len` bytes (a whole chunk, or the content's end) are
 * known to equal the predecessor's at the same place.  Returns 1 if they cannot be taken from
 * there; append them then.
 */
int content_writer_reuse(struct content_writer *cw, size_t len);

/* CHUNKING_RECORDS: what was appended since the last cut becomes one chunk. */
int content_writer_cut(struct content_writer *cw);

/* Everything was appended.  `out` is the caller's to content_release(). */
int content_writer_finish(struct content_writer *cw, struct content *out);

struct content_part; /* a finished span */
int content_writer_finish_span(struct content_writer *cw, struct content_part **out);
/* Join all spans of a file, in order; `parts` are taken and freed, also on error. */
int content_join(struct lane *lane, struct content_part **parts, size_t nparts,
    const struct content *prev, struct content *out);
void content_part_free(struct content_part *p);

void content_writer_free(struct content_writer *cw);

/* ---- reading ---- */

/*
 * Read up to `len` bytes at `off`; *got is short only at the end, or before a damaged place when
 * something before it could be read.  Errors: as repo_reader_chunk().
 */
int content_pread(struct repo_reader *r, const struct content *c, void *buf, size_t len,
    uint64_t off, size_t *got);

/* Begin to decode what lies in [off, off+len) in the background. */
void content_prefetch(struct repo_reader *r, const struct content *c, uint64_t off, uint64_t len);

/*
 * Call `fn` for each data chunk in order, with its offset; a non-zero result ends it and is
 * returned.  `node` (or NULL) is called for each map node before it is read.
 */
struct content_visitor {
	int (*chunk)(void *ctx, uint64_t off, const struct chunk_ref *ref);
	int (*node)(void *ctx, const struct chunk_id *id, uint64_t off, uint64_t len);
	/* A node that cannot be read, with the error recorded; 0 goes on behind it. NULL: stop. */
	int (*broken)(void *ctx, const struct chunk_id *id, uint64_t off, uint64_t len, int rc);
	void *ctx;
};
int content_each(struct repo_reader *r, const struct content *c, const struct content_visitor *v);

#endif
