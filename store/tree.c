/*
 * Layout of a directory chunk (docs/format.md, "Trees"; integers little-endian):
 *
 *   magic "PFT1", u32 number of entries, and each entry:
 *     u32 length of what follows
 *     u8 type, u8 flags (1: identity), u16 name length, u32 mode, u32 uid, u32 gid,
 *     i64 mtime seconds, u32 mtime nanoseconds,
 *     with flag 1: u64 device, u64 inode, i64 ctime seconds, u32 ctime nanoseconds
 *     name, then fields (u16 tag, u32 length, value): 1 content, 2 link target,
 *     3 extended attribute (u16 name length, name, value), 4 hard-link group u64, 5 device u64
 *
 * Entries stand in strictly growing byte order of their names, over all chunks of a directory.
 */
#include "store/tree.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAG_IDENTITY   1
#define ENTRY_MIN_BYTES 32
#define XATTRS_MAX      1024

enum entry_field {
	FIELD_CONTENT = 1,
	FIELD_TARGET = 2,
	FIELD_XATTR = 3,
	FIELD_HARDLINK = 4,
	FIELD_RDEV = 5,
};

void
tree_entry_release(struct tree_entry *e)
{
	for (size_t i = 0; i < e->nxattrs; i++) {
		free(e->xattrs[i].name);
		free(e->xattrs[i].value);
	}
	free(e->xattrs);
	free(e->name);
	free(e->target);
	content_release(&e->content);
	memset(e, 0, sizeof(*e));
}

static int
copy_xattrs(struct tree_entry *to, const struct tree_entry *from)
{
	to->xattrs = mem_calloc(from->nxattrs, sizeof(*to->xattrs));
	if (!to->xattrs)
		return err_nomem();
	for (size_t i = 0; i < from->nxattrs; i++) {
		to->nxattrs++;
		to->xattrs[i].len = from->xattrs[i].len;
		to->xattrs[i].name = mem_strdup(from->xattrs[i].name);
		to->xattrs[i].value = mem_dup(from->xattrs[i].value, from->xattrs[i].len);
		if (!to->xattrs[i].name || !to->xattrs[i].value)
			return err_nomem();
	}
	return 0;
}

int
tree_entry_copy(struct tree_entry *to, const struct tree_entry *from)
{
	int rc;

	*to = *from;
	to->name = to->target = NULL;
	to->xattrs = NULL;
	to->nxattrs = 0;
	rc = content_copy(&to->content, &from->content);
	if (rc == 0 && from->name && !(to->name = mem_strdup(from->name)))
		rc = err_nomem();
	if (rc == 0 && from->target && !(to->target = mem_strdup(from->target)))
		rc = err_nomem();
	if (rc == 0 && from->nxattrs)
		rc = copy_xattrs(to, from);
	if (rc)
		tree_entry_release(to);
	return rc;
}

/* ---- entries as bytes ---- */

static void
put_xattr(struct bytes *out, const struct tree_xattr *x)
{
	size_t name_len = strlen(x->name);

	bytes_put_u16(out, FIELD_XATTR);
	bytes_put_u32(out, (uint32_t)(2 + name_len + x->len));
	bytes_put_u16(out, (uint16_t)name_len);
	bytes_put(out, x->name, name_len);
	bytes_put(out, x->value, x->len);
}

static void
put_fields(struct bytes *out, const struct tree_entry *e)
{
	if (e->type == TREE_FILE || e->type == TREE_DIR) {
		size_t at;

		bytes_put_u16(out, FIELD_CONTENT);
		at = out->len;
		bytes_put_u32(out, 0);
		content_encode(out, &e->content);
		bytes_set_u32(out, at, (uint32_t)(out->len - at - 4));
	}
	if (e->target)
		bytes_put_field_str(out, FIELD_TARGET, e->target);
	for (size_t i = 0; i < e->nxattrs; i++)
		put_xattr(out, &e->xattrs[i]);
	if (e->hardlink)
		bytes_put_field_u64(out, FIELD_HARDLINK, e->hardlink);
	if (e->rdev)
		bytes_put_field_u64(out, FIELD_RDEV, e->rdev);
}

int
tree_entry_encode(struct bytes *out, const struct tree_entry *e)
{
	const char *name = e->name ? e->name : "";
	size_t begin = out->len;

	bytes_put_u32(out, 0);
	bytes_put_u8(out, (uint8_t)e->type);
	bytes_put_u8(out, e->has_identity ? FLAG_IDENTITY : 0);
	bytes_put_u16(out, (uint16_t)strlen(name));
	bytes_put_u32(out, e->mode);
	bytes_put_u32(out, e->uid);
	bytes_put_u32(out, e->gid);
	bytes_put_u64(out, (uint64_t)e->mtime_s);
	bytes_put_u32(out, e->mtime_ns);
	if (e->has_identity) {
		bytes_put_u64(out, e->identity.dev);
		bytes_put_u64(out, e->identity.ino);
		bytes_put_u64(out, (uint64_t)e->identity.ctime_s);
		bytes_put_u32(out, e->identity.ctime_ns);
	}
	bytes_put(out, name, strlen(name));
	put_fields(out, e);
	bytes_set_u32(out, begin, (uint32_t)(out->len - begin - 4));
	return bytes_status(out);
}

static int
take_xattr(struct tree_entry *e, struct cursor *v)
{
	uint16_t name_len = cursor_u16(v);
	struct tree_xattr *list, *x;
	const uint8_t *name = cursor_take(v, name_len);
	size_t len = cursor_left(v);

	if (!name || name_len == 0 || name_len > TREE_NAME_MAX || memchr(name, 0, name_len) ||
	    len > TREE_XATTR_MAX || e->nxattrs == XATTRS_MAX)
		return err_set(ERR_DAMAGED, "directory entry: bad extended attribute");
	list = mem_realloc(e->xattrs, (e->nxattrs + 1) * sizeof(*list));
	if (!list)
		return err_nomem();
	e->xattrs = list;
	x = &list[e->nxattrs++];
	x->len = len;
	x->name = mem_alloc((size_t)name_len + 1);
	x->value = mem_alloc(len);
	if (!x->name || !x->value)
		return err_nomem();
	memcpy(x->name, name, name_len);
	cursor_copy(v, x->value, len);
	return 0;
}

static int
take_fields(struct tree_entry *e, struct cursor *c)
{
	struct cursor v;
	uint16_t tag;

	while (cursor_field(c, &tag, &v)) {
		int rc = 0;

		switch (tag) {
		case FIELD_CONTENT:
			content_release(&e->content);
			rc = content_decode(&e->content, &v);
			break;
		case FIELD_TARGET:
			free(e->target);
			e->target = cursor_strdup(&v, TREE_TARGET_MAX);
			if (!e->target)
				rc = v.failed
					 ? err_set(ERR_DAMAGED, "directory entry: bad link target")
					 : err_nomem();
			break;
		case FIELD_XATTR:
			rc = take_xattr(e, &v);
			break;
		case FIELD_HARDLINK:
			e->hardlink = cursor_u64(&v);
			break;
		case FIELD_RDEV:
			e->rdev = cursor_u64(&v);
			break;
		default:
			if (tag & 0x8000)
				rc = err_set(ERR_UNSUPPORTED,
				    "directory entry needs field %u, which "
				    "this program does not know: use a "
				    "newer pastfs",
				    tag);
		}
		if (rc)
			return rc;
	}
	return c->failed ? err_set(ERR_DAMAGED, "directory entry is cut short") : 0;
}

static bool
name_is_sane(const char *name)
{
	return strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

int
tree_entry_decode(struct tree_entry *e, struct cursor *in)
{
	uint32_t len = cursor_u32(in);
	const uint8_t *p = cursor_take(in, len);
	uint8_t type, flags;
	uint16_t name_len;
	struct cursor c, name;
	int rc;

	memset(e, 0, sizeof(*e));
	if (!p)
		return err_set(ERR_DAMAGED, "directory entry is cut short");
	cursor_init(&c, p, len);
	type = cursor_u8(&c);
	flags = cursor_u8(&c);
	name_len = cursor_u16(&c);
	e->mode = cursor_u32(&c) & 07777;
	e->uid = cursor_u32(&c);
	e->gid = cursor_u32(&c);
	e->mtime_s = (int64_t)cursor_u64(&c);
	e->mtime_ns = cursor_u32(&c);
	if (flags & FLAG_IDENTITY) {
		e->has_identity = true;
		e->identity.dev = cursor_u64(&c);
		e->identity.ino = cursor_u64(&c);
		e->identity.ctime_s = (int64_t)cursor_u64(&c);
		e->identity.ctime_ns = cursor_u32(&c);
	}
	p = cursor_take(&c, name_len);
	if (!p || name_len > TREE_NAME_MAX || type < TREE_FILE || type > TREE_BLOCKDEV ||
	    e->mtime_ns >= 1000000000)
		return err_set(ERR_DAMAGED, "directory entry is malformed");
	e->type = (enum tree_type)type;
	cursor_init(&name, p, name_len);
	e->name = cursor_strdup(&name, TREE_NAME_MAX);
	if (!e->name && !name.failed)
		rc = err_nomem();
	else if (!e->name || !name_is_sane(e->name))
		rc = err_set(ERR_DAMAGED, "directory entry has a bad name");
	else
		rc = take_fields(e, &c);
	if (rc == 0 && e->type == TREE_SYMLINK && !e->target)
		rc = err_set(ERR_DAMAGED, "symbolic link without a target");
	if (rc == 0 && (e->type == TREE_FILE || e->type == TREE_DIR) && !e->content.leaf &&
	    !e->content.inner)
		rc = err_set(ERR_DAMAGED, "directory entry without its content");
	if (rc)
		tree_entry_release(e);
	return rc;
}

/* ---- directories ---- */

struct tree_dir {
	size_t n, cap;
	struct tree_entry *entries;
};

int
tree_dir_new(struct tree_dir **out)
{
	*out = mem_alloc(sizeof(**out));
	return *out ? 0 : err_nomem();
}

void
tree_dir_close(struct tree_dir *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n; i++)
		tree_entry_release(&d->entries[i]);
	free(d->entries);
	free(d);
}

static int
dir_room(struct tree_dir *d)
{
	size_t cap = d->cap ? d->cap * 2 : 16;
	struct tree_entry *p;

	if (d->n < d->cap)
		return 0;
	p = mem_realloc(d->entries, cap * sizeof(*p));
	if (!p)
		return err_nomem();
	d->entries = p;
	d->cap = cap;
	return 0;
}

int
tree_dir_decode(struct tree_dir *d, const void *data, size_t len)
{
	const uint8_t *magic;
	struct cursor c;
	uint32_t n;

	cursor_init(&c, data, len);
	magic = cursor_take(&c, 4);
	if (!magic || memcmp(magic, "PFT1", 4) != 0)
		return err_set(ERR_DAMAGED, "not a directory");
	n = cursor_u32(&c);
	if (c.failed || n > cursor_left(&c) / ENTRY_MIN_BYTES)
		return err_set(ERR_DAMAGED, "directory: impossible number of entries");
	for (uint32_t i = 0; i < n; i++) {
		int rc = dir_room(d);

		if (rc == 0)
			rc = tree_entry_decode(&d->entries[d->n], &c);
		if (rc)
			return rc;
		d->n++;
		if (d->entries[d->n - 1].name[0] == '\0' ||
		    (d->n > 1 && strcmp(d->entries[d->n - 2].name, d->entries[d->n - 1].name) >= 0))
			return err_set(ERR_DAMAGED, "directory: names are out of order");
	}
	return cursor_left(&c) ? err_set(ERR_DAMAGED, "directory: bytes left over") : 0;
}

struct dir_load {
	struct repo_reader *reader;
	struct tree_dir *dir;
};

static int
load_dir_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	struct dir_load *l = ctx;
	struct chunk *chunk;
	int rc;

	(void)off;
	if (ref->kind != CHUNK_STORED)
		return err_set(ERR_DAMAGED, "directory with a hole");
	rc = repo_reader_chunk(l->reader, &ref->id, &chunk);
	if (rc)
		return rc;
	rc = tree_dir_decode(l->dir, chunk_data(chunk), chunk_len(chunk));
	chunk_release(chunk);
	return rc;
}

int
tree_dir_open(struct tree_dir **out, struct repo_reader *r, const struct content *content)
{
	struct dir_load load = { .reader = r };
	struct content_visitor v = { .chunk = load_dir_chunk, .ctx = &load };
	int rc;

	*out = NULL;
	if (content->chunking != CHUNKING_RECORDS)
		return err_set(ERR_DAMAGED, "a file's content stands where a directory's should");
	rc = tree_dir_new(&load.dir);
	if (rc == 0)
		rc = content_each(r, content, &v);
	if (rc) {
		tree_dir_close(load.dir);
		return rc;
	}
	*out = load.dir;
	return 0;
}

size_t
tree_dir_count(const struct tree_dir *d)
{
	return d->n;
}

const struct tree_entry *
tree_dir_at(const struct tree_dir *d, size_t i)
{
	return &d->entries[i];
}

static int
compare_name(const void *name, const void *entry)
{
	return strcmp(name, ((const struct tree_entry *)entry)->name);
}

const struct tree_entry *
tree_dir_find(const struct tree_dir *d, const char *name)
{
	if (d->n == 0)
		return NULL;
	return bsearch(name, d->entries, d->n, sizeof(*d->entries), compare_name);
}

/* ---- paths ---- */

int
tree_lookup(
    struct repo_reader *r, const struct tree_entry *root, const char *path, struct tree_entry *out)
{
	struct tree_entry at;
	int rc = tree_entry_copy(&at, root);

	memset(out, 0, sizeof(*out));
	while (rc == 0 && *path) {
		const struct tree_entry *found = NULL;
		struct tree_dir *dir = NULL;
		char name[TREE_NAME_MAX + 1];
		size_t n = strcspn(path, "/");

		if (n == 0) {
			path++;
			continue;
		}
		if (at.type != TREE_DIR || n > TREE_NAME_MAX) {
			rc = err_set(ERR_NOTFOUND, "%s: no such file or directory", path);
			break;
		}
		memcpy(name, path, n);
		name[n] = '\0';
		rc = tree_dir_open(&dir, r, &at.content);
		if (rc)
			break;
		found = tree_dir_find(dir, name);
		tree_entry_release(&at);
		rc = found ? tree_entry_copy(&at, found)
			   : err_set(ERR_NOTFOUND, "%s: no such file or directory", name);
		tree_dir_close(dir);
		path += n;
	}
	if (rc) {
		tree_entry_release(&at);
		return rc;
	}
	*out = at;
	return 0;
}

struct walk {
	struct repo_reader *reader;
	const struct tree_visitor *visitor;
	char path[TREE_PATH_MAX];
};

/* Visit what is in the directory `e`, whose path stands in w->path with length `len`. */
static int
walk_dir(struct walk *w, const struct tree_entry *e, size_t len)
{
	struct tree_dir *dir;
	int rc = tree_dir_open(&dir, w->reader, &e->content);

	if (rc)
		return w->visitor->broken ? w->visitor->broken(w->visitor->ctx, w->path, e, rc)
					  : rc;
	for (size_t i = 0; rc == 0 && i < dir->n; i++) {
		const struct tree_entry *child = &dir->entries[i];
		int n = snprintf(
		    w->path + len, sizeof(w->path) - len, "%s%s", len ? "/" : "", child->name);

		if (n < 0 || (size_t)n >= sizeof(w->path) - len) {
			rc = err_set(ERR_DAMAGED, "path is longer than %d bytes", TREE_PATH_MAX);
			break;
		}
		rc = w->visitor->entry(w->visitor->ctx, w->path, child);
		/* The depth is bounded by the length of a path. */
		if (rc == 0 && child->type == TREE_DIR)
			rc = walk_dir(w, child, len + (size_t)n);
		w->path[len] = '\0';
	}
	tree_dir_close(dir);
	return rc;
}

int
tree_walk(struct repo_reader *r, const struct tree_entry *root, const struct tree_visitor *v)
{
	struct walk w = { .reader = r, .visitor = v };
	int rc = v->entry(v->ctx, "", root);

	if (rc == 0 && root->type == TREE_DIR)
		rc = walk_dir(&w, root, 0);
	return rc;
}
