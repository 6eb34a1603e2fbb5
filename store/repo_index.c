/*
 * Keeping the index equal to the repository: index objects, and packs themselves where needed.
 *
 * The plain form of an index object (docs/format.md, "Index objects"):
 *   u32 version 1, u32 number of superseded index objects, their ids (16 bytes each),
 *   u32 number of packs, and for each: pack id 32, domain id 16, u32 kind, u64 length, then its
 *   table of contents as in the pack.
 */
#include "store/base/bytes.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/repo_internal.h"
#include "store/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_OBJECT_VERSION 1
#define INDEX_OBJECT_MAX     (300u << 20)
#define INDEX_PACKS_MAX      (1u << 20)
#define INDEX_PACK_MIN       (32 + 16 + 4 + 8 + 4)

void
index_object_release(struct index_object *o)
{
	for (size_t i = 0; i < o->npacks; i++)
		pack_toc_release(&o->packs[i]);
	free(o->packs);
	memset(o, 0, sizeof(*o));
}

int
index_object_decode(struct index_object *o, const void *data, size_t len)
{
	uint32_t version, n;
	struct cursor c;

	memset(o, 0, sizeof(*o));
	cursor_init(&c, data, len);
	version = cursor_u32(&c);
	if (!c.failed && version != INDEX_OBJECT_VERSION)
		return err_set(ERR_UNSUPPORTED, "index object of version %u: use a newer pastfs",
		    version);
	n = cursor_u32(&c);
	if (n > cursor_left(&c) / 16)
		return err_set(ERR_DAMAGED, "index object: impossible number of superseded ones");
	cursor_take(&c, (size_t)n * 16);
	n = cursor_u32(&c);
	if (c.failed || n > INDEX_PACKS_MAX || n > cursor_left(&c) / INDEX_PACK_MIN)
		return err_set(ERR_DAMAGED, "index object: impossible number of packs");
	o->packs = mem_calloc(n, sizeof(*o->packs));
	if (!o->packs)
		return err_nomem();
	for (uint32_t i = 0; i < n; i++) {
		struct pack_toc *t = &o->packs[i];
		uint32_t kind;
		int rc;

		cursor_copy(&c, t->pack_id, PACK_ID_LEN);
		cursor_copy(&c, t->domain_id, DOMAIN_ID_LEN);
		kind = cursor_u32(&c);
		t->pack_bytes = cursor_u64(&c);
		if (c.failed || kind < PACK_DATA || kind > PACK_META ||
		    t->pack_bytes > PACK_MAX_BYTES || t->pack_bytes == 0) {
			index_object_release(o);
			return err_set(ERR_DAMAGED, "index object: pack %u is malformed", i);
		}
		t->kind = (enum pack_kind)kind;
		rc = pack_toc_decode(t, &c);
		if (rc) {
			index_object_release(o);
			return rc;
		}
		o->npacks++;
	}
	if (cursor_left(&c) != 0) {
		index_object_release(o);
		return err_set(ERR_DAMAGED, "index object: bytes left over");
	}
	return 0;
}

static int
index_object_encode(struct bytes *out, const struct pack_toc *const *tocs, size_t n)
{
	bytes_put_u32(out, INDEX_OBJECT_VERSION);
	bytes_put_u32(out, 0);
	bytes_put_u32(out, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		bytes_put(out, tocs[i]->pack_id, PACK_ID_LEN);
		bytes_put(out, tocs[i]->domain_id, DOMAIN_ID_LEN);
		bytes_put_u32(out, tocs[i]->kind);
		bytes_put_u64(out, tocs[i]->pack_bytes);
		pack_toc_encode(out, tocs[i]);
	}
	return bytes_status(out);
}

int
repo_index_publish(
    struct repo *repo, const struct pack_toc *const *tocs, size_t n, uint64_t *stored_bytes)
{
	char name[BACKEND_NAME_MAX], hex[33];
	struct bytes plain, sealed;
	uint8_t id[16];
	int rc;

	if (n == 0)
		return 0;
	bytes_init(&plain);
	bytes_init(&sealed);
	random_bytes(id, sizeof(id));
	hex_encode(hex, id, sizeof(id));
	snprintf(name, sizeof(name), "index/%s", hex);
	rc = index_object_encode(&plain, tocs, n);
	if (rc == 0)
		rc = sealed_encode(&sealed, SEALED_INDEX, name, repo->header.repo_id, repo->own,
		    plain.data, plain.len);
	if (rc == 0)
		rc = backend_put(repo->backend, name, sealed.data, sealed.len);
	if (rc == 1)
		rc = err_set(ERR_FAIL, "object %s is there already, which chance forbids", name);
	if (rc == 0 && stored_bytes)
		*stored_bytes += sealed.len;
	bytes_release(&plain);
	bytes_release(&sealed);
	/* Only now: the index must not know as published what no index object lists. */
	if (rc == 0)
		rc = index_add_packs(repo->index, tocs, n, true, false);
	if (rc == 0)
		rc = index_set_loaded(repo->index, name);
	return rc;
}

/* ---- sets of packs ---- */

struct pack_set {
	size_t n, cap;
	uint8_t (*ids)[PACK_ID_LEN];
};

static int
pack_set_add(struct pack_set *s, const uint8_t *id)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 256;
		uint8_t(*p)[PACK_ID_LEN] = mem_realloc(s->ids, cap * sizeof(*p));

		if (!p)
			return err_nomem();
		s->ids = p;
		s->cap = cap;
	}
	memcpy(s->ids[s->n++], id, PACK_ID_LEN);
	return 0;
}

static int
compare_pack_ids(const void *a, const void *b)
{
	return memcmp(a, b, PACK_ID_LEN);
}

static bool
pack_set_has(const struct pack_set *s, const uint8_t *id)
{
	return s->n && bsearch(id, s->ids, s->n, PACK_ID_LEN, compare_pack_ids);
}

/* ---- loading ---- */

struct name_list {
	size_t n, cap;
	char **names;
	struct repo *repo;
};

static void
name_list_release(struct name_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->names[i]);
	free(l->names);
}

static int
name_list_add(struct name_list *l, const char *name)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		char **p = mem_realloc(l->names, cap * sizeof(*p));

		if (!p)
			return err_nomem();
		l->names = p;
		l->cap = cap;
	}
	l->names[l->n] = mem_strdup(name);
	if (!l->names[l->n])
		return err_nomem();
	l->n++;
	return 0;
}

static int
note_unloaded(void *ctx, const char *name, const struct object_info *info)
{
	struct name_list *l = ctx;
	int rc = index_has_loaded(l->repo->index, name);

	(void)info;
	if (rc < 0)
		return rc;
	return rc == 1 ? 0 : name_list_add(l, name);
}

/* `there` (or NULL: all) are the packs to take; others that it lists are gone. */
static int
load_index_object(struct repo *repo, const char *name, const struct pack_set *there)
{
	const struct pack_toc **tocs = NULL;
	struct index_object o = { 0 };
	void *data = NULL, *plain = NULL;
	size_t len, plain_len;
	int rc;

	rc = backend_get_all(repo->backend, name, INDEX_OBJECT_MAX, &data, &len);
	if (rc == 0)
		rc = sealed_decode(&plain, &plain_len, SEALED_INDEX, name, repo->header.repo_id,
		    repo->own, data, len);
	if (rc == 0)
		rc = index_object_decode(&o, plain, plain_len);
	if (rc == 0 && !(tocs = mem_calloc(o.npacks, sizeof(*tocs))))
		rc = err_nomem();
	if (rc == 0) {
		size_t n = 0;

		for (size_t i = 0; i < o.npacks; i++)
			if (!there || pack_set_has(there, o.packs[i].pack_id))
				tocs[n++] = &o.packs[i];
		rc = index_add_packs(repo->index, tocs, n, true, true);
	}
	free(tocs);
	index_object_release(&o);
	free(plain);
	free(data);
	return rc;
}

/* Load what is not loaded; *broken tells that something of it could not be read. */
static int
load_index_objects(struct repo *repo, const struct pack_set *there, struct progress *progress,
    bool *broken)
{
	struct name_list fresh = { .repo = repo };
	int rc = backend_list(repo->backend, "index/", note_unloaded, &fresh);

	*broken = false;
	if (rc == 0 && fresh.n > 0)
		progress_total(progress, 0, fresh.n);
	for (size_t i = 0; rc == 0 && i < fresh.n; i++) {
		rc = cancel_check();
		if (rc == 0)
			rc = load_index_object(repo, fresh.names[i], there);
		if (rc == ERR_DAMAGED) {
			/* The packs carry the same tables; read them instead. */
			*broken = true;
			rc = 0;
			continue;
		}
		if (rc == ERR_NOTFOUND)
			rc = 0; /* superseded and deleted since the listing */
		progress_files(progress, 1);
	}
	if (rc == 0 && fresh.n > 0)
		rc = index_sync(repo->index);
	for (size_t i = 0; rc == 0 && !*broken && i < fresh.n; i++)
		rc = index_set_loaded(repo->index, fresh.names[i]);
	name_list_release(&fresh);
	return rc;
}

int
repo_index_refresh(struct repo *repo, struct progress *progress)
{
	bool broken;
	int rc = load_index_objects(repo, NULL, progress, &broken);

	if (rc == 0 && broken)
		rc = repo_index_reconcile(repo, progress);
	return rc;
}

int
repo_read_toc(struct repo *repo, const uint8_t pack_id[PACK_ID_LEN], struct pack_toc *toc)
{
	uint8_t head[PACK_HEADER_LEN], tail[PACK_TRAILER_LEN], key[CRYPTO_KEY_LEN], commit[32];
	const struct domain_keys *keys;
	char name[PACK_OBJECT_MAX];
	struct object_info info;
	struct pack_trailer t;
	struct pack_header h;
	struct aead *aead = NULL;
	void *sealed = NULL;
	size_t got;
	int rc;

	repo_pack_name(pack_id, name);
	memset(toc, 0, sizeof(*toc));
	rc = backend_stat(repo->backend, name, &info);
	if (rc == 0 && info.bytes < PACK_HEADER_LEN + PACK_TRAILER_LEN)
		rc = err_set(ERR_DAMAGED, "%s is cut short", name);
	if (rc == 0)
		rc = backend_get(repo->backend, name, 0, head, sizeof(head), &got);
	if (rc == 0)
		rc = pack_header_decode(&h, head, got);
	if (rc == 0)
		rc = backend_get(repo->backend, name, info.bytes - sizeof(tail), tail,
		    sizeof(tail), &got);
	if (rc == 0)
		rc = pack_trailer_decode(&t, tail, got);
	if (rc)
		goto out;
	if (t.pack_bytes != info.bytes || memcmp(h.pack_id, pack_id, PACK_ID_LEN) != 0 ||
	    memcmp(h.repo_id, repo->header.repo_id, REPO_ID_LEN) != 0) {
		rc = err_set(ERR_DAMAGED, "%s is another object than its name says", name);
		goto out;
	}
	keys = repo_domain(repo, h.domain_id);
	if (!keys) {
		rc = err_set(ERR_KEY, "%s is sealed under a key domain that is not there", name);
		goto out;
	}
	sealed = mem_alloc(t.toc_sealed_len);
	rc = sealed ? aead_new(&aead) : err_nomem();
	if (rc == 0)
		rc = pack_key(key, commit, keys, repo->header.repo_id, pack_id);
	if (rc == 0 && secret_compare(commit, h.commitment, sizeof(commit)) != 0)
		rc = err_set(ERR_DAMAGED, "%s: its key does not fit", name);
	if (rc == 0)
		rc = backend_get(
		    repo->backend, name, t.toc_off, sealed, t.toc_sealed_len, &got);
	if (rc == 0)
		rc = pack_toc_open(toc, aead, key, &h, &t, sealed, got);
	secret_wipe(key, sizeof(key));
out:
	aead_free(aead);
	free(sealed);
	return rc ? err_prefix(rc, "%s", name) : 0;
}

/* ---- reconciling ---- */

static int
note_pack(void *ctx, const char *name, const struct object_info *info)
{
	uint8_t id[PACK_ID_LEN];

	(void)info;
	return repo_pack_id(name, id) ? 0 : pack_set_add(ctx, id);
}

struct gone_search {
	const struct pack_set *there;
	struct pack_set gone;
};

static int
note_gone(void *ctx, const struct index_pack *pack)
{
	struct gone_search *s = ctx;

	return pack_set_has(s->there, pack->pack_id) ? 0 : pack_set_add(&s->gone, pack->pack_id);
}

/* Add one pack that no index object lists.  A damaged one is left to `check`. */
static int
add_orphan(struct repo *repo, const uint8_t *id)
{
	const struct pack_toc *tocs[1];
	struct pack_toc toc;
	int rc = index_find_pack(repo->index, id, NULL);

	if (rc <= 0)
		return rc;
	rc = repo_read_toc(repo, id, &toc);
	if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND || rc == ERR_KEY)
		return 0;
	if (rc)
		return rc;
	tocs[0] = &toc;
	rc = index_add_packs(repo->index, tocs, 1, false, false);
	pack_toc_release(&toc);
	return rc;
}

/*
 * Build the index anew of the packs there are.  To drop the gone ones would not do: of a chunk that
 * two packs hold the index knows one place, and that may be the one that is gone.
 */
static int
reload_without_gone(struct repo *repo, const struct pack_set *there, struct progress *progress)
{
	bool broken; /* what no index object could tell is read from the packs afterwards */
	int rc = index_clear(repo->index);

	return rc ? rc : load_index_objects(repo, there, progress, &broken);
}

struct loaded_count {
	struct repo *repo;
	uint64_t n;
};

static int
count_loaded(void *ctx, const char *name, const struct object_info *info)
{
	struct loaded_count *c = ctx;
	int rc = index_has_loaded(c->repo->index, name);

	(void)info;
	if (rc == 1)
		c->n++;
	return rc < 0 ? rc : 0;
}

/* 1 if an index object that was loaded is gone, so that its packs may be listed nowhere; else 0. */
static int
index_object_is_gone(struct repo *repo)
{
	struct loaded_count there = { .repo = repo };
	uint64_t loaded;
	int rc = index_count_loaded(repo->index, &loaded);

	if (rc == 0)
		rc = backend_list(repo->backend, "index/", count_loaded, &there);
	return rc ? rc : there.n < loaded;
}

int
repo_index_reconcile(struct repo *repo, struct progress *progress)
{
	struct pack_set there = { 0 };
	struct gone_search s = { .there = &there };
	int rc = backend_list(repo->backend, "packs/", note_pack, &there);

	if (rc)
		goto out;
	if (there.n)
		qsort(there.ids, there.n, PACK_ID_LEN, compare_pack_ids);
	rc = index_each_pack(repo->index, note_gone, &s);
	if (rc == 0)
		rc = s.gone.n > 0 ? 1 : index_object_is_gone(repo);
	if (rc == 1)
		rc = reload_without_gone(repo, &there, progress);
	progress_total(progress, 0, there.n);
	for (size_t i = 0; rc == 0 && i < there.n; i++) {
		rc = cancel_check();
		if (rc == 0)
			rc = add_orphan(repo, there.ids[i]);
		progress_files(progress, 1);
	}
out:
	free(there.ids);
	free(s.gone.ids);
	return rc;
}

static int
note_unpublished(void *ctx, const struct index_pack *pack)
{
	return pack->published ? 0 : pack_set_add(ctx, pack->pack_id);
}

/*
 * A pack that was there when this session began can no longer be read.  What is being committed may
 * need it, so this commit must fail; the next session must not rely on it.
 */
static int
lost_orphan(struct repo *repo, const uint8_t *id, int rc)
{
	struct err_saved saved;

	if (rc != ERR_DAMAGED && rc != ERR_NOTFOUND && rc != ERR_KEY)
		return rc;
	err_save(&saved, rc);
	rc = index_drop_packs(repo->index, (const uint8_t(*)[PACK_ID_LEN])id, 1);
	if (rc)
		return rc;
	err_restore(&saved);
	return err_prefix(saved.code, "a pack of an earlier session was lost meanwhile; try again");
}

int
repo_index_publish_orphans(struct repo *repo)
{
	struct pack_set set = { 0 };
	int rc = index_each_pack(repo->index, note_unpublished, &set);

	/* One object each: this happens only after a crash. */
	for (size_t i = 0; rc == 0 && i < set.n; i++) {
		const struct pack_toc *tocs[1];
		struct pack_toc toc;

		rc = repo_read_toc(repo, set.ids[i], &toc);
		if (rc) {
			rc = lost_orphan(repo, set.ids[i], rc);
			break;
		}
		tocs[0] = &toc;
		rc = repo_index_publish(repo, tocs, 1, NULL);
		pack_toc_release(&toc);
	}
	free(set.ids);
	return rc;
}
