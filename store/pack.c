/*
 * The layout of a pack (docs/format.md, "Packs"; integers little-endian):
 *
 *   header, 144 bytes
 *     0   8  magic "PASTFSP1"        8   4  version 1           12  4  kind
 *     16  16 repository id           32  16 domain id           48  32 pack id
 *     80  32 key commitment          112 28 zeros               140 4  CRC-32C of 0..139
 *   sealed chunks, one after the other: ciphertext, then the tag of 16 bytes
 *   sealed table of contents: ciphertext, then the tag
 *   trailer, 64 bytes
 *     0   8  magic "PASTFSPE"        8   8  offset of the table 16  4  its sealed length
 *     20  4  number of chunks        24  8  length of the pack  32  16 XXH3-128 of all before
 *     48  12 zeros                   60  4  CRC-32C of 0..59
 */
#include "store/pack.h"

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t header_magic[8] = "PASTFSP1";
static const uint8_t trailer_magic[8] = "PASTFSPE";

#define PACK_VERSION    1
#define TOC_ENTRY_BYTES 48
#define CHUNK_AAD_LEN   37
#define TOC_AAD_LEN     52

enum nonce_role {
	NONCE_CHUNK = 1,
	NONCE_TOC = 2,
};

/* A pack's key is used for one pack; the offset of what is sealed never repeats in it. */
static void
make_nonce(uint8_t nonce[CRYPTO_NONCE_LEN], enum nonce_role role, uint64_t off)
{
	le32_store(nonce, role);
	le64_store(nonce + 4, off);
}

static void
make_chunk_aad(uint8_t aad[CHUNK_AAD_LEN], const struct pack_entry *e)
{
	memcpy(aad, e->id.b, CHUNK_ID_LEN);
	le32_store(aad + 32, e->len);
	aad[36] = (uint8_t)e->encoding;
}

static void
make_toc_aad(
    uint8_t aad[TOC_AAD_LEN], const uint8_t *pack_id, const uint8_t *domain_id, enum pack_kind kind)
{
	memcpy(aad, pack_id, PACK_ID_LEN);
	memcpy(aad + 32, domain_id, DOMAIN_ID_LEN);
	le32_store(aad + 48, kind);
}

int
pack_key(uint8_t key[CRYPTO_KEY_LEN], uint8_t commitment[32], const struct domain_keys *keys,
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t pack_id[PACK_ID_LEN])
{
	uint8_t salt[REPO_ID_LEN + PACK_ID_LEN], both[CRYPTO_KEY_LEN + 32];
	int rc;

	memcpy(salt, repo_id, REPO_ID_LEN);
	memcpy(salt + REPO_ID_LEN, pack_id, PACK_ID_LEN);
	rc =
	    crypto_derive(both, sizeof(both), keys->pack, salt, sizeof(salt), "pastfs v1 pack key");
	if (rc == 0) {
		memcpy(key, both, CRYPTO_KEY_LEN);
		memcpy(commitment, both + CRYPTO_KEY_LEN, 32);
	}
	secret_wipe(both, sizeof(both));
	return rc;
}

void
pack_toc_release(struct pack_toc *toc)
{
	free(toc->entries);
	memset(toc, 0, sizeof(*toc));
}

/* ---- writing ---- */

/* What must not lie around in ordinary memory. */
struct builder_secret {
	uint8_t key[CRYPTO_KEY_LEN];
};

struct pack_builder {
	enum pack_kind kind;
	uint8_t repo_id[REPO_ID_LEN];
	const struct domain_keys *keys;
	uint64_t target_bytes;
	struct builder_secret *secret;
	uint8_t id[PACK_ID_LEN];
	struct bytes buf; /* reserved beforehand; never moves while seals are under way */

	pthread_mutex_t lock; /* protects all below */
	bool closed;
	bool claimed; /* somebody was told to finish it */
	bool failed;  /* a chunk was not sealed, so the pack must not be stored */
	unsigned sealing;
	size_t nentries, cap;
	struct pack_entry *entries;
};

/* Room behind the last chunk for a table of contents of typical size; it may still grow. */
#define BUILDER_SLACK (CHUNK_MAX_BYTES + (1u << 20))

int
pack_builder_new(struct pack_builder **out, enum pack_kind kind, const uint8_t repo_id[REPO_ID_LEN],
    const struct domain_keys *keys, uint64_t target_bytes)
{
	struct pack_builder *p = mem_alloc(sizeof(*p));
	int rc;

	*out = NULL;
	if (!p)
		return err_nomem();
	assert(target_bytes <= PACK_MAX_BYTES / 2);
	pthread_mutex_init(&p->lock, NULL);
	bytes_init(&p->buf);
	p->kind = kind;
	memcpy(p->repo_id, repo_id, REPO_ID_LEN);
	p->keys = keys;
	p->target_bytes = target_bytes;
	p->secret = secret_alloc(sizeof(*p->secret));
	if (!p->secret || !bytes_reserve(&p->buf, target_bytes + BUILDER_SLACK)) {
		rc = err_nomem();
		goto out;
	}
	rc = pack_builder_restart(p);
out:
	if (rc) {
		pack_builder_free(p);
		return rc;
	}
	*out = p;
	return 0;
}

int
pack_builder_restart(struct pack_builder *p)
{
	uint8_t commitment[32];
	int rc;

	assert(p->sealing == 0);
	random_bytes(p->id, sizeof(p->id));
	rc = pack_key(p->secret->key, commitment, p->keys, p->repo_id, p->id);
	if (rc)
		return rc;
	p->closed = false;
	p->claimed = false;
	p->failed = false;
	p->nentries = 0;

	bytes_reset(&p->buf);
	bytes_put(&p->buf, header_magic, sizeof(header_magic));
	bytes_put_u32(&p->buf, PACK_VERSION);
	bytes_put_u32(&p->buf, p->kind);
	bytes_put(&p->buf, p->repo_id, REPO_ID_LEN);
	bytes_put(&p->buf, p->keys->id, DOMAIN_ID_LEN);
	bytes_put(&p->buf, p->id, PACK_ID_LEN);
	bytes_put(&p->buf, commitment, sizeof(commitment));
	bytes_put_zero(&p->buf, 28);
	bytes_put_u32(&p->buf, crc32c(0, p->buf.data, p->buf.len));
	assert(p->buf.failed || p->buf.len == PACK_HEADER_LEN);
	return bytes_status(&p->buf);
}

/* Take the place for one entry.  0, 1 if the pack is full, or ERR_NOMEM. */
static int
reserve_place(struct pack_builder *p, struct pack_entry *entry)
{
	int rc = 1;

	pthread_mutex_lock(&p->lock);
	if (p->closed)
		goto out;
	if (p->nentries == PACK_MAX_CHUNKS ||
	    (p->nentries > 0 && p->buf.len + entry->sealed_len > p->target_bytes)) {
		p->closed = true;
		goto out;
	}
	if (p->nentries == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 1024;
		struct pack_entry *e = mem_realloc(p->entries, cap * sizeof(*e));

		if (!e) {
			rc = err_nomem();
			goto out;
		}
		p->entries = e;
		p->cap = cap;
	}
	/* Cannot move the buffer: the target and one chunk more were reserved beforehand. */
	assert(p->buf.cap - p->buf.len >= entry->sealed_len);
	entry->off = (uint32_t)p->buf.len;
	p->buf.len += entry->sealed_len;
	p->entries[p->nentries++] = *entry;
	p->sealing++;
	rc = 0;
out:
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int
pack_builder_add(struct pack_builder *p, struct aead *aead, struct pack_entry *entry,
    const void *encoded, size_t encoded_len, bool *last)
{
	size_t base_len = entry->encoding == ENCODING_DELTA ? CHUNK_ID_LEN : 0;
	uint8_t nonce[CRYPTO_NONCE_LEN], aad[CHUNK_AAD_LEN];
	uint8_t *to;
	int rc;

	*last = false;
	entry->sealed_len = (uint32_t)(base_len + encoded_len + CRYPTO_TAG_LEN);
	rc = reserve_place(p, entry);
	if (rc)
		return rc;

	to = p->buf.data + entry->off;
	if (base_len)
		memcpy(to, entry->base.b, base_len);
	memcpy(to + base_len, encoded, encoded_len);
	make_nonce(nonce, NONCE_CHUNK, entry->off);
	make_chunk_aad(aad, entry);
	rc = aead_set_key(aead, p->secret->key);
	if (rc == 0)
		rc = aead_seal(aead, nonce, aad, sizeof(aad), to, base_len + encoded_len, to);
	/* Another thread may be the one to finish this pack: no plain byte may leave with it. */
	if (rc)
		memset(to, 0, entry->sealed_len);

	pthread_mutex_lock(&p->lock);
	if (rc)
		p->failed = true;
	p->sealing--;
	if (p->closed && p->sealing == 0 && !p->claimed) {
		p->claimed = true;
		*last = true;
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

bool
pack_builder_close(struct pack_builder *p)
{
	bool mine;

	pthread_mutex_lock(&p->lock);
	p->closed = true;
	mine = p->sealing == 0 && !p->claimed;
	if (mine)
		p->claimed = true;
	pthread_mutex_unlock(&p->lock);
	return mine;
}

int
pack_toc_encode(struct bytes *out, const struct pack_toc *toc)
{
	bytes_put_u32(out, (uint32_t)toc->nentries);
	for (size_t i = 0; i < toc->nentries; i++) {
		const struct pack_entry *e = &toc->entries[i];

		bytes_put(out, e->id.b, CHUNK_ID_LEN);
		bytes_put_u32(out, e->off);
		bytes_put_u32(out, e->sealed_len);
		bytes_put_u32(out, e->len);
		bytes_put_u8(out, (uint8_t)e->encoding);
		bytes_put_zero(out, 3);
		if (e->encoding == ENCODING_DELTA)
			bytes_put(out, e->base.b, CHUNK_ID_LEN);
	}
	return bytes_status(out);
}

/* The finished checksum of the buffer so far. */
static int
checksum_of(const struct bytes *b, uint8_t out[FINGERPRINT_LEN])
{
	struct checksum *sum = NULL;
	int rc = checksum_new(&sum);

	if (rc)
		return rc;
	checksum_update(sum, b->data, b->len);
	checksum_final(sum, out);
	checksum_free(sum);
	return 0;
}

static int
append_toc(struct pack_builder *p, const struct pack_toc *toc)
{
	uint8_t nonce[CRYPTO_NONCE_LEN], aad[TOC_AAD_LEN];
	size_t off = p->buf.len, len;
	struct aead *aead = NULL;
	int rc;

	rc = pack_toc_encode(&p->buf, toc);
	if (rc)
		return rc;
	len = p->buf.len - off;
	bytes_put_zero(&p->buf, CRYPTO_TAG_LEN);
	rc = bytes_status(&p->buf);
	if (rc == 0)
		rc = aead_new(&aead);
	if (rc == 0)
		rc = aead_set_key(aead, p->secret->key);
	if (rc == 0) {
		make_nonce(nonce, NONCE_TOC, off);
		make_toc_aad(aad, p->id, p->keys->id, p->kind);
		rc = aead_seal(
		    aead, nonce, aad, sizeof(aad), p->buf.data + off, len, p->buf.data + off);
	}
	aead_free(aead);
	return rc;
}

static int
append_trailer(struct pack_builder *p, uint64_t toc_off, uint32_t nchunks)
{
	uint64_t toc_sealed_len = p->buf.len - toc_off;
	uint8_t sum[FINGERPRINT_LEN];
	size_t off = p->buf.len;
	int rc = checksum_of(&p->buf, sum);

	if (rc)
		return rc;
	bytes_put(&p->buf, trailer_magic, sizeof(trailer_magic));
	bytes_put_u64(&p->buf, toc_off);
	bytes_put_u32(&p->buf, (uint32_t)toc_sealed_len);
	bytes_put_u32(&p->buf, nchunks);
	bytes_put_u64(&p->buf, off + PACK_TRAILER_LEN);
	bytes_put(&p->buf, sum, sizeof(sum));
	bytes_put_zero(&p->buf, 12);
	if (!p->buf.failed)
		bytes_put_u32(&p->buf, crc32c(0, p->buf.data + off, PACK_TRAILER_LEN - 4));
	return bytes_status(&p->buf);
}

int
pack_builder_finish(struct pack_builder *p, const void **data, size_t *len, struct pack_toc *toc)
{
	uint64_t toc_off = p->buf.len;
	int rc;

	assert(p->closed && p->sealing == 0);
	memset(toc, 0, sizeof(*toc));
	*data = NULL;
	*len = 0;
	memcpy(toc->pack_id, p->id, PACK_ID_LEN);
	memcpy(toc->domain_id, p->keys->id, DOMAIN_ID_LEN);
	toc->kind = p->kind;
	if (p->nentries == 0)
		return 0;
	if (p->failed)
		return err_set(ERR_FAIL, "a chunk of the pack could not be encrypted");

	toc->nentries = p->nentries;
	toc->entries = mem_dup(p->entries, p->nentries * sizeof(*p->entries));
	if (!toc->entries) {
		rc = err_nomem();
		goto out;
	}
	rc = append_toc(p, toc);
	if (rc == 0)
		rc = append_trailer(p, toc_off, (uint32_t)p->nentries);
	if (rc == 0) {
		*data = p->buf.data;
		*len = p->buf.len;
		toc->pack_bytes = p->buf.len;
	}
out:
	if (rc)
		pack_toc_release(toc);
	return rc;
}

const uint8_t *
pack_builder_id(const struct pack_builder *p)
{
	return p->id;
}

void
pack_builder_free(struct pack_builder *p)
{
	if (!p)
		return;
	pthread_mutex_destroy(&p->lock);
	secret_free(p->secret);
	bytes_release(&p->buf);
	free(p->entries);
	free(p);
}

/* ---- reading ---- */

int
pack_header_decode(struct pack_header *h, const void *data, size_t len)
{
	struct cursor c;
	uint32_t version, kind;

	if (len < PACK_HEADER_LEN)
		return err_set(ERR_DAMAGED, "pack is too short for a header (%zu bytes)", len);
	if (memcmp(data, header_magic, sizeof(header_magic)) != 0)
		return err_set(ERR_DAMAGED, "not a pack: wrong magic");
	cursor_init(&c, data, PACK_HEADER_LEN);
	cursor_take(&c, sizeof(header_magic));
	version = cursor_u32(&c);
	kind = cursor_u32(&c);
	cursor_copy(&c, h->repo_id, REPO_ID_LEN);
	cursor_copy(&c, h->domain_id, DOMAIN_ID_LEN);
	cursor_copy(&c, h->pack_id, PACK_ID_LEN);
	cursor_copy(&c, h->commitment, sizeof(h->commitment));
	if (le32_load((const uint8_t *)data + 140) != crc32c(0, data, 140))
		return err_set(ERR_DAMAGED, "pack header: wrong checksum");
	if (version != PACK_VERSION)
		return err_set(ERR_UNSUPPORTED,
		    "pack of version %u, this program reads version %d: use a newer pastfs",
		    version, PACK_VERSION);
	if (kind != PACK_DATA && kind != PACK_META)
		return err_set(ERR_DAMAGED, "pack header: unknown kind %u", kind);
	h->kind = (enum pack_kind)kind;
	return 0;
}

int
pack_trailer_decode(struct pack_trailer *t, const void *data, size_t len)
{
	struct cursor c;

	if (len != PACK_TRAILER_LEN || memcmp(data, trailer_magic, sizeof(trailer_magic)) != 0)
		return err_set(ERR_DAMAGED, "pack has no trailer: it is cut short or overwritten");
	if (le32_load((const uint8_t *)data + 60) != crc32c(0, data, 60))
		return err_set(ERR_DAMAGED, "pack trailer: wrong checksum");
	cursor_init(&c, data, len);
	cursor_take(&c, sizeof(trailer_magic));
	t->toc_off = cursor_u64(&c);
	t->toc_sealed_len = cursor_u32(&c);
	t->nchunks = cursor_u32(&c);
	t->pack_bytes = cursor_u64(&c);
	cursor_copy(&c, t->checksum, sizeof(t->checksum));
	if (t->pack_bytes > PACK_MAX_BYTES || t->toc_off < PACK_HEADER_LEN ||
	    t->toc_off > t->pack_bytes || t->nchunks > PACK_MAX_CHUNKS ||
	    t->toc_off + t->toc_sealed_len + PACK_TRAILER_LEN != t->pack_bytes)
		return err_set(ERR_DAMAGED, "pack trailer: impossible lengths");
	return 0;
}

static bool
entry_is_sane(const struct pack_entry *e, unsigned encoding, uint64_t *end)
{
	uint32_t least = CRYPTO_TAG_LEN + (encoding == ENCODING_DELTA ? CHUNK_ID_LEN : 0);

	if (encoding > ENCODING_DELTA || e->len == 0 || e->len > CHUNK_MAX_BYTES)
		return false;
	if (e->sealed_len < least || e->sealed_len > codec_bound(e->len) + least)
		return false;
	/* In order and without overlap, so that no nonce could have been used twice. */
	if (e->off < *end)
		return false;
	*end = (uint64_t)e->off + e->sealed_len;
	return *end <= PACK_MAX_BYTES;
}

int
pack_toc_decode(struct pack_toc *toc, struct cursor *in)
{
	uint32_t n = cursor_u32(in);
	uint64_t end = PACK_HEADER_LEN;

	toc->nentries = 0;
	toc->entries = NULL;
	if (in->failed || n > PACK_MAX_CHUNKS || n > cursor_left(in) / TOC_ENTRY_BYTES)
		return err_set(ERR_DAMAGED, "table of contents: impossible number of chunks");
	toc->entries = mem_calloc(n, sizeof(*toc->entries));
	if (!toc->entries)
		return err_nomem();
	for (uint32_t i = 0; i < n; i++) {
		struct pack_entry *e = &toc->entries[i];
		uint8_t encoding;

		cursor_copy(in, e->id.b, CHUNK_ID_LEN);
		e->off = cursor_u32(in);
		e->sealed_len = cursor_u32(in);
		e->len = cursor_u32(in);
		encoding = cursor_u8(in);
		cursor_take(in, 3);
		if (encoding == ENCODING_DELTA)
			cursor_copy(in, e->base.b, CHUNK_ID_LEN);
		if (in->failed || !entry_is_sane(e, encoding, &end)) {
			free(toc->entries);
			toc->entries = NULL;
			return err_set(ERR_DAMAGED, "table of contents: chunk %u is malformed", i);
		}
		e->encoding = (enum encoding)encoding;
	}
	toc->nentries = n;
	return 0;
}

/* Where the last chunk ends. */
static uint64_t
toc_end(const struct pack_toc *toc)
{
	const struct pack_entry *e = toc->entries + toc->nentries;

	return toc->nentries ? (uint64_t)e[-1].off + e[-1].sealed_len : 0;
}

int
pack_toc_open(struct pack_toc *toc, struct aead *aead, const uint8_t key[CRYPTO_KEY_LEN],
    const struct pack_header *h, const struct pack_trailer *t, const void *sealed, size_t len)
{
	uint8_t nonce[CRYPTO_NONCE_LEN], aad[TOC_AAD_LEN];
	struct cursor c;
	uint8_t *plain;
	int rc;

	memset(toc, 0, sizeof(*toc));
	if (len != t->toc_sealed_len || len < CRYPTO_TAG_LEN)
		return err_set(ERR_DAMAGED, "table of contents has the wrong length");
	plain = mem_alloc(len);
	if (!plain)
		return err_nomem();
	make_nonce(nonce, NONCE_TOC, t->toc_off);
	make_toc_aad(aad, h->pack_id, h->domain_id, h->kind);
	rc = aead_set_key(aead, key);
	if (rc == 0)
		rc = aead_open(aead, nonce, aad, sizeof(aad), sealed, len, plain);
	if (rc)
		goto out;
	cursor_init(&c, plain, len - CRYPTO_TAG_LEN);
	rc = pack_toc_decode(toc, &c);
	if (rc)
		goto out;
	if (cursor_left(&c) != 0 || toc->nentries != t->nchunks || toc_end(toc) > t->toc_off) {
		pack_toc_release(toc);
		rc = err_set(ERR_DAMAGED, "table of contents does not match the trailer");
		goto out;
	}
	memcpy(toc->pack_id, h->pack_id, PACK_ID_LEN);
	memcpy(toc->domain_id, h->domain_id, DOMAIN_ID_LEN);
	toc->kind = h->kind;
	toc->pack_bytes = t->pack_bytes;
out:
	free(plain);
	return rc;
}

int
pack_chunk_open(struct aead *aead, const uint8_t key[CRYPTO_KEY_LEN], const struct pack_entry *e,
    const void *sealed, void *out, const uint8_t **payload, size_t *payload_len,
    struct chunk_id *base)
{
	uint8_t nonce[CRYPTO_NONCE_LEN], aad[CHUNK_AAD_LEN];
	size_t len;
	int rc;

	if (e->sealed_len < CRYPTO_TAG_LEN)
		return err_set(ERR_DAMAGED, "sealed chunk is too short");
	make_nonce(nonce, NONCE_CHUNK, e->off);
	make_chunk_aad(aad, e);
	rc = aead_set_key(aead, key);
	if (rc == 0)
		rc = aead_open(aead, nonce, aad, sizeof(aad), sealed, e->sealed_len, out);
	if (rc)
		return rc;
	len = e->sealed_len - CRYPTO_TAG_LEN;
	*payload = out;
	if (e->encoding == ENCODING_DELTA) {
		if (len < CHUNK_ID_LEN)
			return err_set(ERR_DAMAGED, "delta without a base");
		memcpy(base->b, out, CHUNK_ID_LEN);
		*payload += CHUNK_ID_LEN;
		len -= CHUNK_ID_LEN;
	}
	*payload_len = len;
	return 0;
}
