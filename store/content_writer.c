/*
 * Writing contents.
 *
 * Chunks collect in a leaf of up to CONTENT_FANOUT; a full leaf is sealed as a map node when the
 * content is longer than one leaf.  The node references collect in `nodes`, and finish builds the
 * levels above them.  A predecessor is followed by a `trail`, which keeps one leaf of it in hand.
 */
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/chunker.h"
#include "store/content_internal.h"
#include "store/domain.h"
#include "store/repo.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The predecessor's chunks, walked forward. */
struct trail {
	struct repo_reader *reader;
	const struct content *prev;
	struct map_node leaf;         /* the leaf in hand, where it had to be loaded */
	const struct chunk_ref *refs; /* its chunks, or the inline ones */
	uint32_t n, i;
	uint64_t begin, end; /* of the leaf, in the predecessor */
	uint64_t at;         /* where chunk i begins */
	bool lost;           /* unreadable: no more help from it */
};

struct content_writer {
	struct lane *lane;
	enum chunking chunking;
	uint32_t chunk_bytes;
	struct chunker *chunker; /* CDC only */
	struct trail trail;
	uint64_t first_off; /* where the span begins */
	bool is_span;

	uint8_t *buf; /* bytes not cut into a chunk yet */
	size_t len, cap;

	uint64_t size; /* of what was written, without buf */
	uint32_t crc;
	uint32_t nleaf;
	struct chunk_ref *leaf; /* CONTENT_FANOUT places */
	uint64_t leaf_len;      /* bytes in the current leaf */
	uint32_t leaf_crc;
	size_t nnodes, nodes_cap;
	struct node_ref *nodes;
};

/* ---- the trail ---- */

static void
trail_release(struct trail *t)
{
	map_node_release(&t->leaf);
}

/* Load the leaf that holds `off`. False: the predecessor has nothing there. */
static bool
trail_seek(struct trail *t, uint64_t off)
{
	const struct node_ref *refs = t->prev->inner;
	struct map_node upper = { 0 };
	uint32_t n = t->prev->nrefs;
	uint64_t begin = 0;

	map_node_release(&t->leaf);
	t->n = 0;
	if (t->prev->depth == 0) {
		t->refs = t->prev->leaf;
		t->n = t->prev->nrefs;
		t->begin = 0;
		t->end = t->prev->size;
		goto found;
	}
	for (uint8_t depth = t->prev->depth; depth > 0; depth--) {
		struct map_node node;
		uint32_t i = 0;
		int rc;

		while (i < n && off - begin >= refs[i].len)
			begin += refs[i++].len;
		if (i < n) {
			t->end = begin + refs[i].len;
			rc = map_node_load(&node, t->reader, &refs[i], (uint8_t)(depth - 1));
		} else {
			rc = -1;
		}
		map_node_release(&upper);
		if (rc) {
			t->lost = true;
			return false;
		}
		if (depth == 1)
			t->leaf = node;
		else
			upper = node;
		refs = upper.inner;
		n = upper.n;
	}
	t->refs = t->leaf.leaf;
	t->n = t->leaf.n;
	t->begin = begin;
found:
	t->i = 0;
	t->at = t->begin;
	return true;
}

/* The predecessor's chunk that covers `off`, or NULL.  Offsets only grow. */
static const struct chunk_ref *
trail_find(struct trail *t, uint64_t off)
{
	if (!t->prev || t->lost || off >= t->prev->size)
		return NULL;
	if ((t->n == 0 || off >= t->end || off < t->begin) && !trail_seek(t, off))
		return NULL;
	while (t->i < t->n && off - t->at >= t->refs[t->i].len)
		t->at += t->refs[t->i++].len;
	return t->i < t->n ? &t->refs[t->i] : NULL;
}

/* ---- the writer ---- */

static int
make_chunker(struct content_writer *cw)
{
	struct repo_reader *r = repo_writer_reader(lane_writer(cw->lane));
	const struct repo_header *h = repo_reader_header(r);
	const struct domain_keys *keys = repo_writer_keys(lane_writer(cw->lane));

	return chunker_new(
	    &cw->chunker, keys->gear, h->cdc_min_bytes, h->cdc_avg_bytes, h->cdc_max_bytes);
}

static int
writer_new(struct content_writer **out, struct lane *lane, enum chunking chunking,
    const struct content *prev)
{
	struct repo_reader *r = repo_writer_reader(lane_writer(lane));
	struct content_writer *cw = mem_alloc(sizeof(*cw));
	int rc = 0;

	*out = NULL;
	if (!cw)
		return err_nomem();
	cw->lane = lane;
	cw->chunking = chunking;
	cw->trail.reader = r;
	cw->trail.prev = prev;
	cw->leaf = mem_calloc(CONTENT_FANOUT, sizeof(*cw->leaf));
	if (!cw->leaf)
		rc = err_nomem();
	if (chunking == CHUNKING_PAGES) {
		cw->chunk_bytes = repo_reader_header(r)->page_chunk_bytes;
		cw->cap = cw->chunk_bytes;
	} else if (chunking == CHUNKING_CDC) {
		cw->cap = (size_t)repo_reader_header(r)->cdc_max_bytes * 2;
		if (rc == 0)
			rc = make_chunker(cw);
	} else {
		cw->cap = CHUNK_MAX_BYTES;
	}
	/* The buffer comes with the first byte that needs it: most files are empty or small. */
	if (rc) {
		content_writer_free(cw);
		return rc;
	}
	*out = cw;
	return 0;
}

int
content_writer_new(struct content_writer **out, struct lane *lane, enum chunking chunking,
    const struct content *prev)
{
	return writer_new(out, lane, chunking, prev);
}

int
content_writer_new_span(
    struct content_writer **out, struct lane *lane, uint64_t span, const struct content *prev)
{
	int rc = writer_new(out, lane, CHUNKING_PAGES, prev);

	if (rc == 0) {
		(*out)->is_span = true;
		(*out)->first_off = span * CONTENT_SPAN_BYTES;
	}
	return rc;
}

void
content_writer_free(struct content_writer *cw)
{
	if (!cw)
		return;
	trail_release(&cw->trail);
	chunker_free(cw->chunker);
	free(cw->buf);
	free(cw->leaf);
	free(cw->nodes);
	free(cw);
}

/* Store a node as a metadata chunk, with the predecessor's node (or NULL) as its delta base. */
static int
put_node(struct lane *lane, const struct map_node *node, const struct chunk_ref *pred,
    struct chunk_id *id)
{
	struct chunk_ref ref;
	struct bytes b;
	int rc;

	bytes_init(&b);
	rc = map_node_encode(&b, node);
	if (rc == 0)
		rc = lane_put(lane, PACK_META, b.data, b.len, pred, &ref);
	bytes_release(&b);
	*id = ref.id;
	return rc;
}

/*
 * The predecessor's node for the leaf at `off`, as a delta base: only its id matters.  NULL if it
 * has none at that place.
 */
static const struct chunk_ref *
node_predecessor(const struct content *prev, uint64_t off, struct chunk_ref *ref)
{
	uint64_t begin = 0;

	if (!prev || prev->depth != 1)
		return NULL;
	for (uint32_t i = 0; i < prev->nrefs; i++) {
		if (off - begin < prev->inner[i].len) {
			memset(ref, 0, sizeof(*ref));
			ref->kind = CHUNK_STORED;
			ref->id = prev->inner[i].id;
			return ref;
		}
		begin += prev->inner[i].len;
	}
	return NULL;
}

static int
append_node(struct content_writer *cw, const struct node_ref *ref)
{
	if (cw->nnodes == cw->nodes_cap) {
		size_t cap = cw->nodes_cap ? cw->nodes_cap * 2 : 16;
		struct node_ref *p = mem_realloc(cw->nodes, cap * sizeof(*p));

		if (!p)
			return err_nomem();
		cw->nodes = p;
		cw->nodes_cap = cap;
	}
	cw->nodes[cw->nnodes++] = *ref;
	return 0;
}

static int
seal_leaf(struct lane *lane, const struct content *prev, uint64_t off, struct chunk_ref *refs,
    uint32_t n, struct node_ref *out)
{
	struct map_node node = { .depth = 0, .n = n, .leaf = refs };
	struct chunk_ref pred;

	return put_node(lane, &node, node_predecessor(prev, off, &pred), &out->id);
}

static int
flush_leaf(struct content_writer *cw)
{
	struct node_ref ref = { .len = cw->leaf_len, .crc32c = cw->leaf_crc };
	uint64_t off = cw->first_off + cw->size - cw->leaf_len;
	int rc = seal_leaf(cw->lane, cw->trail.prev, off, cw->leaf, cw->nleaf, &ref);

	if (rc == 0)
		rc = append_node(cw, &ref);
	cw->nleaf = 0;
	cw->leaf_len = 0;
	cw->leaf_crc = 0;
	return rc;
}

/* Note a chunk that is in the repository now. */
static int
add_ref(struct content_writer *cw, const struct chunk_ref *ref)
{
	if (cw->nleaf == CONTENT_FANOUT) {
		int rc;

		assert(!cw->is_span);
		rc = flush_leaf(cw);
		if (rc)
			return rc;
	}
	cw->leaf[cw->nleaf++] = *ref;
	cw->leaf_crc = crc32c_combine(cw->leaf_crc, ref->crc32c, ref->len);
	cw->leaf_len += ref->len;
	cw->crc = crc32c_combine(cw->crc, ref->crc32c, ref->len);
	cw->size += ref->len;
	return 0;
}

static int
put_chunk(struct content_writer *cw, const void *data, size_t len)
{
	const struct chunk_ref *pred = trail_find(&cw->trail, cw->first_off + cw->size);
	enum pack_kind kind = cw->chunking == CHUNKING_RECORDS ? PACK_META : PACK_DATA;
	struct chunk_ref ref;
	int rc = lane_put(cw->lane, kind, data, len, pred, &ref);

	return rc ? rc : add_ref(cw, &ref);
}

static int
need_buffer(struct content_writer *cw)
{
	if (!cw->buf)
		cw->buf = mem_realloc(NULL, cw->cap);
	return cw->buf ? 0 : err_nomem();
}

static int
append_pages(struct content_writer *cw, const uint8_t *p, size_t len)
{
	int rc = 0;

	while (len > 0 && rc == 0) {
		size_t n = cw->chunk_bytes - cw->len;

		/* Whole chunks need no copy. */
		if (cw->len == 0 && len >= cw->chunk_bytes) {
			rc = put_chunk(cw, p, cw->chunk_bytes);
			p += cw->chunk_bytes;
			len -= cw->chunk_bytes;
			continue;
		}
		rc = need_buffer(cw);
		if (rc)
			break;
		n = n < len ? n : len;
		memcpy(cw->buf + cw->len, p, n);
		cw->len += n;
		p += n;
		len -= n;
		if (cw->len == cw->chunk_bytes) {
			rc = put_chunk(cw, cw->buf, cw->len);
			cw->len = 0;
		}
	}
	return rc;
}

/* Cut and store chunks from the buffer while it surely holds a whole one (or at the end, all). */
static int
drain_cdc(struct content_writer *cw, bool at_end)
{
	size_t done = 0;
	int rc = 0;

	while (
	    rc == 0 && done < cw->len && (at_end || cw->len - done >= chunker_max(cw->chunker))) {
		size_t n = chunker_cut(cw->chunker, cw->buf + done, cw->len - done);

		rc = put_chunk(cw, cw->buf + done, n);
		done += n;
	}
	if (done)
		memmove(cw->buf, cw->buf + done, cw->len - done);
	cw->len -= done;
	return rc;
}

static int
append_cdc(struct content_writer *cw, const uint8_t *p, size_t len)
{
	int rc = need_buffer(cw);

	while (rc == 0 && len > 0) {
		size_t n = cw->cap - cw->len < len ? cw->cap - cw->len : len;

		memcpy(cw->buf + cw->len, p, n);
		cw->len += n;
		p += n;
		len -= n;
		if (cw->len == cw->cap)
			rc = drain_cdc(cw, false);
	}
	return rc;
}

int
content_writer_append(struct content_writer *cw, const void *data, size_t len)
{
	int rc;

	if (len == 0)
		return 0;
	switch (cw->chunking) {
	case CHUNKING_PAGES:
		return append_pages(cw, data, len);
	case CHUNKING_CDC:
		return append_cdc(cw, data, len);
	case CHUNKING_RECORDS:
		break;
	}
	assert(len <= cw->cap - cw->len);
	rc = need_buffer(cw);
	if (rc)
		return rc;
	memcpy(cw->buf + cw->len, data, len);
	cw->len += len;
	return 0;
}

int
content_writer_cut(struct content_writer *cw)
{
	int rc = 0;

	if (cw->len > 0)
		rc = put_chunk(cw, cw->buf, cw->len);
	cw->len = 0;
	return rc;
}

int
content_writer_reuse(struct content_writer *cw, size_t len)
{
	uint64_t off = cw->first_off + cw->size;
	const struct chunk_ref *pred = trail_find(&cw->trail, off);
	struct chunk_ref ref;
	int rc;

	assert(cw->chunking == CHUNKING_PAGES && cw->len == 0);
	if (!pred || cw->trail.at != off || pred->len != len)
		return 1;
	rc = lane_reuse(cw->lane, pred, &ref);
	return rc ? rc : add_ref(cw, &ref);
}

static int
drain(struct content_writer *cw)
{
	if (cw->chunking == CHUNKING_CDC)
		return drain_cdc(cw, true);
	return content_writer_cut(cw);
}

/* ---- building the levels above the leaves ---- */

/* Put `n` references of nodes at `depth` under fewer nodes of depth + 1, in place. */
static int
raise_level(struct lane *lane, struct node_ref *refs, size_t *n, uint8_t depth)
{
	size_t made = 0;

	for (size_t i = 0; i < *n; i += CONTENT_FANOUT) {
		uint32_t k = *n - i < CONTENT_FANOUT ? (uint32_t)(*n - i) : CONTENT_FANOUT;
		struct map_node node = { .depth = (uint8_t)(depth + 1), .n = k, .inner = refs + i };
		struct node_ref up = { .len = 0 };
		int rc = put_node(lane, &node, NULL, &up.id);

		if (rc)
			return rc;
		for (uint32_t j = 0; j < k; j++) {
			up.crc32c = crc32c_combine(up.crc32c, refs[i + j].crc32c, refs[i + j].len);
			up.len += refs[i + j].len;
		}
		refs[made++] = up;
	}
	*n = made;
	return 0;
}

/* Fill out->depth and out->inner from leaf-node references, which are used up. */
static int
finish_nodes(struct lane *lane, struct node_ref *refs, size_t n, struct content *out)
{
	uint8_t depth = 1;

	while (n > CONTENT_INLINE_INNER) {
		int rc;

		if (depth == CONTENT_MAX_DEPTH)
			return err_set(ERR_FAIL, "file is too long to be stored");
		rc = raise_level(lane, refs, &n, (uint8_t)(depth - 1));
		if (rc)
			return rc;
		depth++;
	}
	out->depth = depth;
	out->nrefs = (uint32_t)n;
	out->inner = mem_dup(refs, n * sizeof(*refs));
	return out->inner ? 0 : err_nomem();
}

int
content_writer_finish(struct content_writer *cw, struct content *out)
{
	int rc = drain(cw);

	assert(!cw->is_span);
	memset(out, 0, sizeof(*out));
	if (rc)
		return rc;
	out->size = cw->size;
	out->crc32c = cw->crc;
	out->chunking = cw->chunking;
	out->chunk_bytes = cw->chunk_bytes;
	if (cw->nnodes == 0 && cw->nleaf <= CONTENT_INLINE_LEAF) {
		out->nrefs = cw->nleaf;
		out->leaf = mem_dup(cw->leaf, cw->nleaf * sizeof(*cw->leaf));
		rc = out->leaf ? 0 : err_nomem();
	} else {
		if (cw->nleaf > 0)
			rc = flush_leaf(cw);
		if (rc == 0)
			rc = finish_nodes(cw->lane, cw->nodes, cw->nnodes, out);
	}
	if (rc)
		content_release(out);
	return rc;
}

/* ---- spans ---- */

struct content_part {
	uint64_t size;
	uint32_t crc;
	uint32_t chunk_bytes;
	uint32_t n;
	struct chunk_ref *refs;
};

int
content_writer_finish_span(struct content_writer *cw, struct content_part **out)
{
	struct content_part *p;
	int rc = drain(cw);

	assert(cw->is_span);
	*out = NULL;
	if (rc)
		return rc;
	p = mem_alloc(sizeof(*p));
	if (!p)
		return err_nomem();
	p->refs = mem_dup(cw->leaf, cw->nleaf * sizeof(*cw->leaf));
	if (!p->refs) {
		free(p);
		return err_nomem();
	}
	p->n = cw->nleaf;
	p->size = cw->size;
	p->crc = cw->crc;
	p->chunk_bytes = cw->chunk_bytes;
	*out = p;
	return 0;
}

void
content_part_free(struct content_part *p)
{
	if (!p)
		return;
	free(p->refs);
	free(p);
}

static int
join_nodes(struct lane *lane, struct content_part **parts, size_t nparts,
    const struct content *prev, struct content *out)
{
	struct node_ref *refs = mem_calloc(nparts, sizeof(*refs));
	uint64_t off = 0;
	size_t n = 0;
	int rc = refs ? 0 : err_nomem();

	for (size_t i = 0; rc == 0 && i < nparts; i++) {
		/* The last span is empty when the file ended at its border. */
		if (parts[i]->n == 0)
			continue;
		refs[n].len = parts[i]->size;
		refs[n].crc32c = parts[i]->crc;
		rc = seal_leaf(lane, prev, off, parts[i]->refs, parts[i]->n, &refs[n]);
		off += parts[i]->size;
		n++;
	}
	if (rc == 0)
		rc = finish_nodes(lane, refs, n, out);
	free(refs);
	return rc;
}

int
content_join(struct lane *lane, struct content_part **parts, size_t nparts,
    const struct content *prev, struct content *out)
{
	uint32_t chunks = 0;
	int rc;

	memset(out, 0, sizeof(*out));
	out->chunking = CHUNKING_PAGES;
	for (size_t i = 0; i < nparts; i++) {
		out->crc32c = crc32c_combine(out->crc32c, parts[i]->crc, parts[i]->size);
		out->size += parts[i]->size;
		out->chunk_bytes = parts[i]->chunk_bytes;
		chunks += parts[i]->n;
	}
	if (chunks <= CONTENT_INLINE_LEAF) {
		/* So few fit into the first span. */
		out->nrefs = chunks;
		out->leaf = mem_dup(parts[0]->refs, chunks * sizeof(*out->leaf));
		rc = out->leaf ? 0 : err_nomem();
	} else {
		rc = join_nodes(lane, parts, nparts, prev, out);
	}
	for (size_t i = 0; i < nparts; i++)
		content_part_free(parts[i]);
	if (rc)
		content_release(out);
	return rc;
}
