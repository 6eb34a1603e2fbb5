/*
 * Layouts (docs/format.md, "Contents"; integers little-endian):
 *
 *   content   u8 depth, u8 chunking, u16 zero, u32 chunk bytes, u64 size, u32 CRC-32C, u32 n, then
 *             n leaf references (depth 0) or n inner references
 *   leaf ref  u8 kind, u32 length, u32 CRC-32C, id 32, fingerprint 16          (57 bytes)
 *   inner ref u64 length, u32 CRC-32C, id 32                                   (44 bytes)
 *   map node  magic "PFM1", u8 depth, u8 zero, u16 zero, u32 n, then by columns: for depth 0 kinds,
 *             lengths, CRCs, ids, fingerprints; else lengths, CRCs, ids
 */
#include "store/content.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/content_internal.h"
#include "store/repo.h"

#include <stdlib.h>
#include <string.h>

#define LEAF_REF_BYTES  57
#define INNER_REF_BYTES 44
#define NODE_HEAD_BYTES 12

void
content_release(struct content *c)
{
	free(c->leaf);
	free(c->inner);
	memset(c, 0, sizeof(*c));
}

int
content_copy(struct content *to, const struct content *from)
{
	*to = *from;
	to->leaf = NULL;
	to->inner = NULL;
	if (from->leaf)
		to->leaf = mem_dup(from->leaf, from->nrefs * sizeof(*from->leaf));
	if (from->inner)
		to->inner = mem_dup(from->inner, from->nrefs * sizeof(*from->inner));
	if ((from->leaf && !to->leaf) || (from->inner && !to->inner)) {
		content_release(to);
		return err_nomem();
	}
	return 0;
}

int
content_encode(struct bytes *out, const struct content *c)
{
	bytes_put_u8(out, c->depth);
	bytes_put_u8(out, (uint8_t)c->chunking);
	bytes_put_u16(out, 0);
	bytes_put_u32(out, c->chunk_bytes);
	bytes_put_u64(out, c->size);
	bytes_put_u32(out, c->crc32c);
	bytes_put_u32(out, c->nrefs);
	for (uint32_t i = 0; i < c->nrefs; i++) {
		if (c->depth == 0) {
			bytes_put_u8(out, (uint8_t)c->leaf[i].kind);
			bytes_put_u32(out, c->leaf[i].len);
			bytes_put_u32(out, c->leaf[i].crc32c);
			bytes_put(out, c->leaf[i].id.b, CHUNK_ID_LEN);
			bytes_put(out, c->leaf[i].fp, FINGERPRINT_LEN);
		} else {
			bytes_put_u64(out, c->inner[i].len);
			bytes_put_u32(out, c->inner[i].crc32c);
			bytes_put(out, c->inner[i].id.b, CHUNK_ID_LEN);
		}
	}
	return bytes_status(out);
}

static bool
leaf_ref_sane(const struct chunk_ref *r, unsigned kind)
{
	return (kind == CHUNK_STORED || kind == CHUNK_ZERO) && r->len > 0 &&
	       r->len <= CHUNK_MAX_BYTES;
}

static int
content_malformed(struct content *c, const char *why)
{
	content_release(c);
	return err_set(ERR_DAMAGED, "file map: %s", why);
}

/* The lengths must add up, and pages be of one size, because reading computes with both. */
static bool
sizes_sane(const struct content *c)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < c->nrefs; i++) {
		uint64_t len = c->depth ? c->inner[i].len : c->leaf[i].len;

		if (len > c->size - sum)
			return false;
		if (c->chunking == CHUNKING_PAGES && c->depth == 0 && i + 1 < c->nrefs &&
		    len != c->chunk_bytes)
			return false;
		sum += len;
	}
	return sum == c->size;
}

int
content_decode(struct content *c, struct cursor *in)
{
	uint8_t chunking;

	memset(c, 0, sizeof(*c));
	c->depth = cursor_u8(in);
	chunking = cursor_u8(in);
	cursor_u16(in);
	c->chunk_bytes = cursor_u32(in);
	c->size = cursor_u64(in);
	c->crc32c = cursor_u32(in);
	c->nrefs = cursor_u32(in);
	if (in->failed || c->depth > CONTENT_MAX_DEPTH || chunking < CHUNKING_PAGES ||
	    chunking > CHUNKING_RECORDS || c->size > INT64_MAX)
		return content_malformed(c, "bad head");
	c->chunking = (enum chunking)chunking;
	if (c->chunking == CHUNKING_PAGES &&
	    (c->chunk_bytes < 4096 || c->chunk_bytes > CHUNK_MAX_BYTES))
		return content_malformed(c, "bad chunk size");
	if (c->nrefs > (c->depth ? CONTENT_INLINE_INNER : CONTENT_INLINE_LEAF))
		return content_malformed(c, "too many references");
	if (c->depth == 0)
		c->leaf = mem_calloc(c->nrefs, sizeof(*c->leaf));
	else
		c->inner = mem_calloc(c->nrefs, sizeof(*c->inner));
	if (c->depth == 0 ? !c->leaf : !c->inner) {
		content_release(c);
		return err_nomem();
	}
	for (uint32_t i = 0; i < c->nrefs; i++) {
		if (c->depth == 0) {
			uint8_t kind = cursor_u8(in);

			c->leaf[i].len = cursor_u32(in);
			c->leaf[i].crc32c = cursor_u32(in);
			cursor_copy(in, c->leaf[i].id.b, CHUNK_ID_LEN);
			cursor_copy(in, c->leaf[i].fp, FINGERPRINT_LEN);
			if (!leaf_ref_sane(&c->leaf[i], kind))
				return content_malformed(c, "bad reference");
			c->leaf[i].kind = (enum chunk_kind)kind;
		} else {
			c->inner[i].len = cursor_u64(in);
			c->inner[i].crc32c = cursor_u32(in);
			cursor_copy(in, c->inner[i].id.b, CHUNK_ID_LEN);
		}
	}
	if (in->failed)
		return content_malformed(c, "cut short");
	return sizes_sane(c) ? 0 : content_malformed(c, "lengths do not add up");
}

/* ---- map nodes ---- */

void
map_node_release(struct map_node *node)
{
	free(node->leaf);
	free(node->inner);
	memset(node, 0, sizeof(*node));
}

static void
encode_leaf_columns(struct bytes *out, const struct chunk_ref *refs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		bytes_put_u8(out, (uint8_t)refs[i].kind);
	for (uint32_t i = 0; i < n; i++)
		bytes_put_u32(out, refs[i].len);
	for (uint32_t i = 0; i < n; i++)
		bytes_put_u32(out, refs[i].crc32c);
	for (uint32_t i = 0; i < n; i++)
		bytes_put(out, refs[i].id.b, CHUNK_ID_LEN);
	for (uint32_t i = 0; i < n; i++)
		bytes_put(out, refs[i].fp, FINGERPRINT_LEN);
}

int
map_node_encode(struct bytes *out, const struct map_node *node)
{
	bytes_put(out, "PFM1", 4);
	bytes_put_u8(out, node->depth);
	bytes_put_zero(out, 3);
	bytes_put_u32(out, node->n);
	if (node->depth == 0) {
		encode_leaf_columns(out, node->leaf, node->n);
		return bytes_status(out);
	}
	for (uint32_t i = 0; i < node->n; i++)
		bytes_put_u64(out, node->inner[i].len);
	for (uint32_t i = 0; i < node->n; i++)
		bytes_put_u32(out, node->inner[i].crc32c);
	for (uint32_t i = 0; i < node->n; i++)
		bytes_put(out, node->inner[i].id.b, CHUNK_ID_LEN);
	return bytes_status(out);
}

static int
decode_leaf_columns(struct map_node *node, struct cursor *c)
{
	node->leaf = mem_calloc(node->n, sizeof(*node->leaf));
	if (!node->leaf)
		return err_nomem();
	for (uint32_t i = 0; i < node->n; i++)
		node->leaf[i].kind = (enum chunk_kind)cursor_u8(c);
	for (uint32_t i = 0; i < node->n; i++)
		node->leaf[i].len = cursor_u32(c);
	for (uint32_t i = 0; i < node->n; i++)
		node->leaf[i].crc32c = cursor_u32(c);
	for (uint32_t i = 0; i < node->n; i++)
		cursor_copy(c, node->leaf[i].id.b, CHUNK_ID_LEN);
	for (uint32_t i = 0; i < node->n; i++) {
		cursor_copy(c, node->leaf[i].fp, FINGERPRINT_LEN);
		if (!leaf_ref_sane(&node->leaf[i], (unsigned)node->leaf[i].kind))
			return err_set(ERR_DAMAGED, "map node: bad reference");
	}
	return 0;
}

static int
decode_inner_columns(struct map_node *node, struct cursor *c)
{
	node->inner = mem_calloc(node->n, sizeof(*node->inner));
	if (!node->inner)
		return err_nomem();
	for (uint32_t i = 0; i < node->n; i++)
		node->inner[i].len = cursor_u64(c);
	for (uint32_t i = 0; i < node->n; i++)
		node->inner[i].crc32c = cursor_u32(c);
	for (uint32_t i = 0; i < node->n; i++) {
		cursor_copy(c, node->inner[i].id.b, CHUNK_ID_LEN);
		if (node->inner[i].len == 0 || node->inner[i].len > INT64_MAX / CONTENT_FANOUT)
			return err_set(ERR_DAMAGED, "map node: bad reference");
	}
	return 0;
}

/* Check a node's head, and that its columns are all there. */
static int
map_node_head(const uint8_t *data, size_t len, uint8_t *depth, uint32_t *n)
{
	if (len < NODE_HEAD_BYTES || memcmp(data, "PFM1", 4) != 0)
		return err_set(ERR_DAMAGED, "not a map node");
	*depth = data[4];
	*n = le32_load(data + 8);
	if (*depth >= CONTENT_MAX_DEPTH || *n == 0 || *n > CONTENT_FANOUT ||
	    len - NODE_HEAD_BYTES != *n * (size_t)(*depth ? INNER_REF_BYTES : LEAF_REF_BYTES))
		return err_set(ERR_DAMAGED, "map node: bad head");
	return 0;
}

int
map_node_decode(struct map_node *node, const void *data, size_t len)
{
	struct cursor c;
	int rc;

	memset(node, 0, sizeof(*node));
	rc = map_node_head(data, len, &node->depth, &node->n);
	if (rc)
		return rc;
	cursor_init(&c, data, len);
	cursor_take(&c, NODE_HEAD_BYTES);
	rc = node->depth ? decode_inner_columns(node, &c) : decode_leaf_columns(node, &c);
	if (rc)
		map_node_release(node);
	return rc;
}

int
map_node_load(
    struct map_node *node, struct repo_reader *r, const struct node_ref *ref, uint8_t depth)
{
	struct chunk *chunk;
	uint64_t sum = 0;
	int rc = repo_reader_chunk(r, &ref->id, &chunk);

	memset(node, 0, sizeof(*node));
	if (rc)
		return rc;
	rc = map_node_decode(node, chunk_data(chunk), chunk_len(chunk));
	chunk_release(chunk);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < node->n; i++)
		sum += node->depth ? node->inner[i].len : node->leaf[i].len;
	if (node->depth != depth || sum != ref->len) {
		map_node_release(node);
		return err_set(ERR_DAMAGED, "map node does not fit its place");
	}
	return 0;
}

/* ---- reading ---- */

/*
 * A map node looked at where it lies, in its decoded chunk: a read of one page must not take a
 * thousand references apart.
 */
struct node_view {
	struct chunk *chunk;
	const uint8_t *p;
	uint32_t n;
	uint8_t depth;
};

static void
node_view_close(struct node_view *v)
{
	chunk_release(v->chunk);
	v->chunk = NULL;
}

static int
node_view_open(struct node_view *v, struct repo_reader *r, const struct chunk_id *id, uint8_t depth)
{
	int rc = repo_reader_chunk(r, id, &v->chunk);

	if (rc)
		return rc;
	v->p = chunk_data(v->chunk);
	rc = map_node_head(v->p, chunk_len(v->chunk), &v->depth, &v->n);
	if (rc == 0 && v->depth != depth)
		rc = err_set(ERR_DAMAGED, "map node does not fit its place");
	if (rc)
		node_view_close(v);
	return rc;
}

static uint64_t
node_view_len(const struct node_view *v, uint32_t i)
{
	const uint8_t *columns = v->p + NODE_HEAD_BYTES;

	if (v->depth)
		return le64_load(columns + (size_t)i * 8);
	return le32_load(columns + v->n + (size_t)i * 4);
}

/* The id of node `i` of an inner node. */
static void
node_view_child(const struct node_view *v, uint32_t i, struct chunk_id *id)
{
	memcpy(id->b, v->p + NODE_HEAD_BYTES + (size_t)v->n * 12 + (size_t)i * CHUNK_ID_LEN,
	    CHUNK_ID_LEN);
}

/* What reading needs of chunk `i` of a leaf. */
static void
node_view_chunk(const struct node_view *v, uint32_t i, struct chunk_ref *ref)
{
	const uint8_t *columns = v->p + NODE_HEAD_BYTES;

	/* The analyzer thinks of a view without node, which has references of its own. */
	ref->kind = (enum chunk_kind)columns[i]; /* NOLINT(clang-analyzer-core.NullDereference) */
	ref->len = (uint32_t)node_view_len(v, i);
	memcpy(ref->id.b, columns + (size_t)v->n * 9 + (size_t)i * CHUNK_ID_LEN, CHUNK_ID_LEN);
}

/* The leaf that holds an offset, and where its first chunk begins. */
struct leaf_view {
	const struct chunk_ref *refs; /* the inline ones, or NULL and a node */
	struct node_view node;
	uint32_t n;
	uint64_t begin;
};

static void
leaf_view_close(struct leaf_view *v)
{
	node_view_close(&v->node);
}

static void
leaf_view_chunk(const struct leaf_view *v, uint32_t i, struct chunk_ref *ref)
{
	if (v->refs)
		*ref = v->refs[i];
	else
		node_view_chunk(&v->node, i, ref);
}

/* Descend to the leaf that holds `off`, which is below the size. */
static int
find_leaf(struct repo_reader *r, const struct content *c, uint64_t off, struct leaf_view *v)
{
	uint64_t begin = 0;
	struct chunk_id id;
	uint32_t i = 0;

	memset(v, 0, sizeof(*v));
	if (c->depth == 0) {
		v->refs = c->leaf;
		v->n = c->nrefs;
		return 0;
	}
	while (i < c->nrefs && off - begin >= c->inner[i].len)
		begin += c->inner[i++].len;
	if (i == c->nrefs)
		return err_set(ERR_DAMAGED, "file map ends too early");
	id = c->inner[i].id;
	for (uint8_t depth = (uint8_t)(c->depth - 1);; depth--) {
		struct node_view node;
		int rc = node_view_open(&node, r, &id, depth);

		if (rc)
			return rc;
		if (depth == 0) {
			v->node = node;
			v->n = node.n;
			v->begin = begin;
			return 0;
		}
		for (i = 0; i < node.n && off - begin >= node_view_len(&node, i); i++)
			begin += node_view_len(&node, i);
		if (i < node.n)
			node_view_child(&node, i, &id);
		node_view_close(&node);
		if (i == node.n)
			return err_set(ERR_DAMAGED, "file map ends too early");
	}
}

/* Copy from one chunk: `within` bytes into it. */
static int
read_chunk(
    struct repo_reader *r, const struct chunk_ref *ref, uint64_t within, uint8_t *buf, size_t len)
{
	struct chunk *chunk;
	int rc;

	if (ref->kind == CHUNK_ZERO) {
		memset(buf, 0, len);
		return 0;
	}
	if (ref->kind != CHUNK_STORED)
		return err_set(ERR_DAMAGED, "file map has a chunk of an unknown kind");
	rc = repo_reader_chunk(r, &ref->id, &chunk);
	if (rc)
		return rc;
	if (chunk_len(chunk) != ref->len)
		rc = err_set(ERR_DAMAGED, "chunk has another length than its file map says");
	else
		memcpy(buf, chunk_data(chunk) + within, len);
	chunk_release(chunk);
	return rc;
}

int
content_pread(struct repo_reader *r, const struct content *c, void *buf, size_t len, uint64_t off,
    size_t *got)
{
	struct leaf_view v = { 0 };
	uint8_t *p = buf;
	int rc = 0;

	*got = 0;
	if (off >= c->size)
		return 0;
	if (len > c->size - off)
		len = (size_t)(c->size - off);
	while (len > 0 && rc == 0) {
		uint64_t at, before = off;

		rc = find_leaf(r, c, off, &v);
		if (rc)
			break;
		at = v.begin;
		for (uint32_t i = 0; i < v.n && len > 0 && rc == 0; i++) {
			uint64_t chunk_bytes = v.refs ? v.refs[i].len : node_view_len(&v.node, i);
			struct chunk_ref ref;
			size_t n;

			if (off - at >= chunk_bytes) {
				at += chunk_bytes;
				continue;
			}
			n = (size_t)(chunk_bytes - (off - at));
			n = n < len ? n : len;
			leaf_view_chunk(&v, i, &ref);
			rc = read_chunk(r, &ref, off - at, p, n);
			if (rc)
				break;
			p += n;
			off += n;
			len -= n;
			*got += n;
			at += chunk_bytes;
		}
		leaf_view_close(&v);
		if (rc == 0 && off == before)
			rc = err_set(ERR_DAMAGED, "file map does not cover its content");
	}
	/* What lies before the damage is good, and is asked for separately from what is not. */
	return *got > 0 ? 0 : rc;
}

void
content_prefetch(struct repo_reader *r, const struct content *c, uint64_t off, uint64_t len)
{
	struct chunk_id ids[64];
	uint64_t end;

	if (off >= c->size)
		return;
	end = len < c->size - off ? off + len : c->size;
	while (off < end) {
		struct leaf_view v;
		size_t n = 0;
		uint64_t at;

		if (find_leaf(r, c, off, &v))
			return;
		at = v.begin;
		for (uint32_t i = 0; i < v.n && at < end; i++) {
			struct chunk_ref ref;

			leaf_view_chunk(&v, i, &ref);
			at += ref.len;
			if (at <= off || ref.kind != CHUNK_STORED)
				continue;
			ids[n++] = ref.id;
			if (n == sizeof(ids) / sizeof(ids[0])) {
				repo_reader_prefetch(r, ids, n);
				n = 0;
			}
		}
		if (n)
			repo_reader_prefetch(r, ids, n);
		leaf_view_close(&v);
		if (at <= off)
			return;
		off = at;
	}
}

static int
visit_leaves(
    const struct content_visitor *v, const struct chunk_ref *refs, uint32_t n, uint64_t off)
{
	for (uint32_t i = 0; i < n; i++) {
		int rc = v->chunk ? v->chunk(v->ctx, off, &refs[i]) : 0;

		if (rc)
			return rc;
		off += refs[i].len;
	}
	return 0;
}

static int
visit_inner(struct repo_reader *r, const struct content_visitor *v, const struct node_ref *refs,
    uint32_t n, uint8_t depth, uint64_t off)
{
	for (uint32_t i = 0; i < n; i++) {
		struct map_node node;
		int rc = v->node ? v->node(v->ctx, &refs[i].id, off, refs[i].len) : 0;

		if (rc)
			return rc;
		rc = map_node_load(&node, r, &refs[i], (uint8_t)(depth - 1));
		if (rc) {
			rc = v->broken ? v->broken(v->ctx, &refs[i].id, off, refs[i].len, rc) : rc;
			if (rc)
				return rc;
		} else {
			/* Recursion is bounded by CONTENT_MAX_DEPTH. */
			rc = depth == 1
				 ? visit_leaves(v, node.leaf, node.n, off)
				 : visit_inner(r, v, node.inner, node.n, (uint8_t)(depth - 1), off);
			map_node_release(&node);
			if (rc)
				return rc;
		}
		off += refs[i].len;
	}
	return 0;
}

int
content_each(struct repo_reader *r, const struct content *c, const struct content_visitor *v)
{
	if (c->depth == 0)
		return visit_leaves(v, c->leaf, c->nrefs, 0);
	return visit_inner(r, v, c->inner, c->nrefs, c->depth, 0);
}
