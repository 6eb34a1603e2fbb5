/*
 * Packs: built by several threads, read back whole, and refused wherever a byte is not what was
 * written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"
#include "store/pack.h"
#include "store/secret.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define TARGET  (256u << 10)

static uint8_t repo_id[REPO_ID_LEN];
static struct domain_keys *keys;

/* The chunk number `n`: its id, encoding and bytes follow from the number. */
static void
make_chunk(uint32_t n, struct pack_entry *e, uint8_t *data, size_t *len)
{
	memset(e, 0, sizeof(*e));
	le32_store(e->id.b, n);
	e->id.b[31] = 1;
	e->encoding = n % 3 == 2 ? ENCODING_DELTA : n % 3 == 1 ? ENCODING_ZSTD : ENCODING_RAW;
	if (e->encoding == ENCODING_DELTA)
		memset(e->base.b, (int)(n % 200) + 1, CHUNK_ID_LEN);
	*len = 1 + n * 37 % 1500;
	e->len = (uint32_t)*len;
	for (size_t i = 0; i < *len; i++)
		data[i] = (uint8_t)(n * 7 + i);
}

struct whole {
	const uint8_t *data;
	size_t len;
	struct pack_header h;
	struct pack_trailer t;
	uint8_t key[CRYPTO_KEY_LEN];
	struct pack_toc toc; /* as read back */
};

/* Everything up to the opened table of contents, as a reader does it. */
static int
read_pack(struct whole *p, const uint8_t *data, size_t len)
{
	uint8_t commitment[32];
	struct aead *aead;
	int rc;

	p->data = data;
	p->len = len;
	memset(&p->toc, 0, sizeof(p->toc));
	if (len < PACK_HEADER_LEN + PACK_TRAILER_LEN)
		return pack_header_decode(&p->h, data, len) ? ERR_DAMAGED
							    : pack_trailer_decode(&p->t, data, 0);
	rc = pack_header_decode(&p->h, data, len);
	if (rc == 0)
		rc = pack_trailer_decode(&p->t, data + len - PACK_TRAILER_LEN, PACK_TRAILER_LEN);
	if (rc == 0 && p->t.pack_bytes != len)
		rc = ERR_DAMAGED;
	if (rc == 0)
		rc = pack_key(p->key, commitment, keys, p->h.repo_id, p->h.pack_id);
	if (rc == 0 && memcmp(commitment, p->h.commitment, sizeof(commitment)) != 0)
		rc = ERR_DAMAGED;
	if (rc)
		return rc;
	assert_int_equal(aead_new(&aead), 0);
	rc = pack_toc_open(&p->toc, aead, p->key, &p->h, &p->t, data + p->t.toc_off,
	    p->t.toc_sealed_len);
	aead_free(aead);
	return rc;
}

/* Open chunk `e` and compare it with what its number says. */
static int
open_chunk(const struct whole *p, const struct pack_entry *e)
{
	uint8_t *want = malloc(2048), *out = malloc(e->sealed_len);
	const uint8_t *payload;
	struct pack_entry made;
	struct chunk_id base;
	struct aead *aead;
	size_t len, got;
	int rc;

	assert_int_equal(aead_new(&aead), 0);
	rc = pack_chunk_open(aead, p->key, e, p->data + e->off, out, &payload, &got, &base);
	if (rc == 0) {
		make_chunk(le32_load(e->id.b), &made, want, &len);
		assert_int_equal(got, len);
		assert_memory_equal(payload, want, len);
		if (e->encoding == ENCODING_DELTA)
			assert_memory_equal(base.b, made.base.b, CHUNK_ID_LEN);
	}
	aead_free(aead);
	free(want);
	free(out);
	return rc;
}

/* A pack of `n` chunks, made by one thread. */
static struct pack_builder *
small_pack(uint32_t n, const uint8_t **data, size_t *len, struct pack_toc *toc)
{
	struct pack_builder *b;
	struct aead *aead;
	const void *p;
	uint8_t buf[2048];
	bool last;

	assert_int_equal(pack_builder_new(&b, PACK_META, repo_id, keys, TARGET), 0);
	assert_int_equal(aead_new(&aead), 0);
	for (uint32_t i = 0; i < n; i++) {
		struct pack_entry e;
		size_t chunk_len;

		make_chunk(i, &e, buf, &chunk_len);
		assert_int_equal(pack_builder_add(b, aead, &e, buf, chunk_len, &last), 0);
		assert_false(last);
	}
	assert_true(pack_builder_close(b));
	assert_false(pack_builder_close(b));
	assert_int_equal(pack_builder_finish(b, &p, len, toc), 0);
	*data = p;
	aead_free(aead);
	return b;
}

struct crowd {
	struct pack_builder *b;
	_Atomic uint32_t next, added;
	_Atomic int finishers;
};

static int
crowd_main(void *arg, int worker)
{
	struct crowd *c = arg;
	uint8_t buf[2048];
	struct aead *aead;
	int rc = aead_new(&aead);

	(void)worker;
	while (rc == 0) {
		uint32_t n = c->next++;
		struct pack_entry e;
		size_t len;
		bool last;

		make_chunk(n, &e, buf, &len);
		rc = pack_builder_add(c->b, aead, &e, buf, len, &last);
		if (rc == 0)
			c->added++;
		if (last || (rc == 1 && pack_builder_close(c->b)))
			c->finishers++;
	}
	aead_free(aead);
	return rc == 1 ? 0 : rc;
}

static void
test_many_threads(void **state)
{
	struct pack_toc toc;
	const void *data;
	struct crowd c = { 0 };
	struct whole p;
	size_t len;

	(void)state;
	assert_int_equal(pack_builder_new(&c.b, PACK_DATA, repo_id, keys, TARGET), 0);
	for (int round = 0; round < 3; round++) {
		uint8_t id[PACK_ID_LEN];

		memcpy(id, pack_builder_id(c.b), sizeof(id));
		c.next = c.added = 0;
		c.finishers = 0;
		assert_int_equal(parallel_run(THREADS, crowd_main, &c), 0);
		assert_int_equal(c.finishers, 1);
		assert_int_equal(pack_builder_finish(c.b, &data, &len, &toc), 0);
		assert_int_equal(toc.nentries, c.added);
		assert_true(len > TARGET - 4096 && len < TARGET + (128u << 10));
		assert_int_equal(read_pack(&p, data, len), 0);
		assert_int_equal(p.h.kind, PACK_DATA);
		assert_memory_equal(p.h.pack_id, id, sizeof(id));
		assert_memory_equal(p.h.domain_id, keys->id, DOMAIN_ID_LEN);
		assert_int_equal(p.toc.nentries, toc.nentries);
		assert_int_equal(p.toc.pack_bytes, len);
		for (size_t i = 0; i < toc.nentries; i++) {
			assert_memory_equal(
			    &p.toc.entries[i].id, &toc.entries[i].id, CHUNK_ID_LEN);
			assert_int_equal(p.toc.entries[i].off, toc.entries[i].off);
			assert_int_equal(p.toc.entries[i].sealed_len, toc.entries[i].sealed_len);
			assert_int_equal(p.toc.entries[i].encoding, toc.entries[i].encoding);
			assert_memory_equal(
			    &p.toc.entries[i].base, &toc.entries[i].base, CHUNK_ID_LEN);
			assert_int_equal(open_chunk(&p, &p.toc.entries[i]), 0);
		}
		pack_toc_release(&p.toc);
		pack_toc_release(&toc);
		assert_int_equal(pack_builder_restart(c.b), 0);
		assert_memory_not_equal(pack_builder_id(c.b), id, sizeof(id));
	}
	pack_builder_free(c.b);
}

static void
test_empty_and_oversized(void **state)
{
	static uint8_t big[CHUNK_MAX_BYTES];
	struct pack_entry e = { .len = sizeof(big), .encoding = ENCODING_RAW };
	struct pack_builder *b;
	struct pack_toc toc;
	const void *data;
	struct aead *aead;
	struct whole p;
	size_t len;
	bool last;

	(void)state;
	assert_int_equal(pack_builder_new(&b, PACK_DATA, repo_id, keys, 4096), 0);
	assert_true(pack_builder_close(b));
	assert_int_equal(pack_builder_finish(b, &data, &len, &toc), 0);
	assert_int_equal(len, 0);
	pack_toc_release(&toc);

	/* The largest chunk fits even a pack that is meant to be smaller, alone. */
	assert_int_equal(pack_builder_restart(b), 0);
	assert_int_equal(aead_new(&aead), 0);
	assert_int_equal(pack_builder_add(b, aead, &e, big, sizeof(big), &last), 0);
	assert_int_equal(pack_builder_add(b, aead, &e, big, sizeof(big), &last), 1);
	assert_int_equal(pack_builder_add(b, aead, &e, big, 1, &last), 1);
	assert_true(pack_builder_close(b));
	assert_int_equal(pack_builder_finish(b, &data, &len, &toc), 0);
	assert_int_equal(read_pack(&p, data, len), 0);
	assert_int_equal(p.toc.nentries, 1);
	pack_toc_release(&p.toc);
	pack_toc_release(&toc);
	aead_free(aead);
	pack_builder_free(b);
}

static void
test_truncation(void **state)
{
	struct pack_builder *b;
	const uint8_t *data;
	struct pack_toc toc;
	struct whole p;
	size_t len;

	(void)state;
	b = small_pack(5, &data, &len, &toc);
	for (size_t n = 0; n < len; n++) {
		uint8_t *cut = malloc(n ? n : 1);

		memcpy(cut, data, n);
		assert_int_equal(read_pack(&p, cut, n), ERR_DAMAGED);
		free(cut);
	}
	assert_int_equal(read_pack(&p, data, len), 0);
	pack_toc_release(&p.toc);
	pack_toc_release(&toc);
	pack_builder_free(b);
}

/* Each bit of header, table and trailer is noticed on reading, each of a chunk on opening. */
static void
test_bit_flips(void **state)
{
	struct pack_builder *b;
	const uint8_t *data;
	struct pack_toc toc;
	struct whole p;
	uint8_t *copy;
	size_t len, toc_off, bits = 0;

	(void)state;
	b = small_pack(4, &data, &len, &toc);
	copy = malloc(len);
	memcpy(copy, data, len);
	assert_int_equal(read_pack(&p, copy, len), 0);
	toc_off = p.t.toc_off;
	for (size_t i = 0; i < toc.nentries; i++) {
		const struct pack_entry *e = &toc.entries[i];

		for (size_t at = e->off; at < (size_t)e->off + e->sealed_len; at++) {
			copy[at] ^= 0x10;
			assert_int_equal(open_chunk(&p, e), ERR_DAMAGED);
			copy[at] ^= 0x10;
		}
		assert_int_equal(open_chunk(&p, e), 0);
	}
	pack_toc_release(&p.toc);
	for (size_t bit = 0; bit < len * 8; bit++) {
		size_t at = bit / 8;
		int rc;

		if (at >= PACK_HEADER_LEN && at < toc_off)
			continue;
		copy[at] ^= (uint8_t)(1 << bit % 8);
		rc = read_pack(&p, copy, len);
		assert_int_equal(rc, ERR_DAMAGED);
		copy[at] ^= (uint8_t)(1 << bit % 8);
		bits++;
	}
	assert_true(bits > 8 * (PACK_HEADER_LEN + PACK_TRAILER_LEN));
	free(copy);
	pack_toc_release(&toc);
	pack_builder_free(b);
}

/* What is authenticated with a chunk: id, length, encoding, and by the nonce its place. */
static void
test_chunk_cannot_stand_in(void **state)
{
	struct pack_entry a, e;
	struct pack_builder *b;
	const uint8_t *data;
	struct pack_toc toc;
	struct whole p;
	uint8_t *moved;
	size_t len;

	(void)state;
	b = small_pack(6, &data, &len, &toc);
	assert_int_equal(read_pack(&p, data, len), 0);
	a = toc.entries[3];
	e = a;
	e.id.b[7] ^= 1;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	e = a;
	e.len++;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	e = a;
	e.encoding = ENCODING_ZSTD;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	e = a;
	e.sealed_len--;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	e.sealed_len = CRYPTO_TAG_LEN - 1;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	/* The same sealed bytes elsewhere. */
	moved = malloc(len + 8);
	memcpy(moved + 8, data, len);
	p.data = moved;
	e = a;
	e.off += 8;
	assert_int_equal(open_chunk(&p, &e), ERR_DAMAGED);
	/* Another pack's key. */
	p.data = data;
	p.key[0] ^= 1;
	assert_int_equal(open_chunk(&p, &a), ERR_DAMAGED);
	p.key[0] ^= 1;
	assert_int_equal(open_chunk(&p, &a), 0);
	free(moved);
	pack_toc_release(&p.toc);
	pack_toc_release(&toc);
	pack_builder_free(b);
}

static int
decode_toc(struct pack_entry *entries, uint32_t n, size_t cut)
{
	struct pack_toc toc = { .nentries = n, .entries = entries }, back = { 0 };
	struct cursor c;
	struct bytes b;
	int rc;

	bytes_init(&b);
	assert_int_equal(pack_toc_encode(&b, &toc), 0);
	cursor_init(&c, b.data, b.len - cut);
	rc = pack_toc_decode(&back, &c);
	if (rc == 0) {
		assert_int_equal(cursor_left(&c), 0);
		assert_int_equal(back.nentries, n);
	} else {
		assert_null(back.entries);
	}
	pack_toc_release(&back);
	bytes_release(&b);
	return rc;
}

static void
test_toc_is_bounded(void **state)
{
	const struct pack_entry good[3] = {
		{ .off = 144, .sealed_len = 116, .len = 100, .encoding = ENCODING_RAW },
		{ .off = 260, .sealed_len = 50, .len = 70000, .encoding = ENCODING_DELTA },
		{ .off = 400, .sealed_len = 17, .len = 1, .encoding = ENCODING_RAW },
	};
	struct pack_entry e[3];
	struct cursor c;
	struct pack_toc toc = { 0 };
	uint8_t raw[4];

	(void)state;
#define WITH(change)                                                                               \
	memcpy(e, good, sizeof(e));                                                                \
	change;                                                                                    \
	assert_int_equal(decode_toc(e, 3, 0), ERR_DAMAGED)

	memcpy(e, good, sizeof(e));
	assert_int_equal(decode_toc(e, 3, 0), 0);
	for (size_t cut = 1; cut < 20; cut++)
		assert_int_equal(decode_toc(e, 3, cut), ERR_DAMAGED);
	WITH(e[0].off = 143);
	WITH(e[1].off = 259); /* overlaps */
	WITH(e[2].off = 270);
	WITH(e[0].off = 500); /* out of order */
	WITH(e[0].len = 0);
	WITH(e[0].len = CHUNK_MAX_BYTES + 1);
	WITH(e[0].sealed_len = 15);
	WITH(e[1].sealed_len = 47);
	WITH(e[2].sealed_len = 1000);
	WITH(e[2].off = PACK_MAX_BYTES - 16);
	WITH(e[2].off = UINT32_MAX - 3);
	WITH(e[2].encoding = (enum encoding)3);
#undef WITH
	le32_store(raw, UINT32_MAX);
	cursor_init(&c, raw, sizeof(raw));
	assert_int_equal(pack_toc_decode(&toc, &c), ERR_DAMAGED);
	le32_store(raw, 0);
	for (size_t n = 0; n < sizeof(raw); n++) {
		cursor_init(&c, raw, n);
		assert_int_equal(pack_toc_decode(&toc, &c), ERR_DAMAGED);
	}
	cursor_init(&c, raw, sizeof(raw));
	assert_int_equal(pack_toc_decode(&toc, &c), 0);
	pack_toc_release(&toc);
}

static void
test_newer_version(void **state)
{
	struct pack_builder *b;
	const uint8_t *data;
	struct pack_header h;
	struct pack_toc toc;
	uint8_t head[PACK_HEADER_LEN];
	size_t len;

	(void)state;
	b = small_pack(1, &data, &len, &toc);
	memcpy(head, data, sizeof(head));
	le32_store(head + 8, 2);
	le32_store(head + 140, crc32c(0, head, 140));
	assert_int_equal(pack_header_decode(&h, head, sizeof(head)), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "newer pastfs"));
	le32_store(head + 8, 1);
	le32_store(head + 12, 3);
	le32_store(head + 140, crc32c(0, head, 140));
	assert_int_equal(pack_header_decode(&h, head, sizeof(head)), ERR_DAMAGED);
	pack_toc_release(&toc);
	pack_builder_free(b);
}

/* A chunk that could not be sealed spoils the pack for whoever would finish it. */
static void
test_failed_seal_spoils(void **state)
{
	struct pack_entry e;
	struct pack_builder *b;
	struct pack_toc toc;
	struct aead *aead;
	const void *data;
	uint8_t buf[2048];
	size_t len;
	bool last;

	(void)state;
	assert_int_equal(pack_builder_new(&b, PACK_DATA, repo_id, keys, TARGET), 0);
	assert_int_equal(aead_new(&aead), 0);
	make_chunk(0, &e, buf, &len);
	assert_int_equal(pack_builder_add(b, aead, &e, buf, len, &last), 0);
	make_chunk(1, &e, buf, &len);
	sys_fault_arm(1, ENOMEM);
	assert_int_equal(pack_builder_add(b, aead, &e, buf, len, &last), ERR_NOMEM);
	sys_fault_arm(0, 0);
	assert_true(pack_builder_close(b));
	assert_int_equal(pack_builder_finish(b, &data, &len, &toc), ERR_FAIL);
	assert_null(data);
	assert_null(toc.entries);
	assert_int_equal(pack_builder_restart(b), 0);
	make_chunk(2, &e, buf, &len);
	assert_int_equal(pack_builder_add(b, aead, &e, buf, len, &last), 0);
	assert_true(pack_builder_close(b));
	assert_int_equal(pack_builder_finish(b, &data, &len, &toc), 0);
	pack_toc_release(&toc);
	aead_free(aead);
	pack_builder_free(b);
}

/* Without memory nothing is lost but the pack, and a second attempt works. */
static void
test_faults(void **state)
{
	uint64_t n;
	int rc = -1;

	(void)state;
	for (n = 1; n < 500; n++) {
		struct pack_builder *b = NULL;
		struct aead *aead = NULL;
		struct pack_toc toc = { 0 };
		struct whole p;
		const void *data;
		uint8_t buf[2048];
		bool last, happened;
		size_t len;

		sys_fault_arm(n, ENOMEM);
		rc = pack_builder_new(&b, PACK_DATA, repo_id, keys, TARGET);
		if (rc == 0)
			rc = aead_new(&aead);
		for (uint32_t i = 0; rc == 0 && i < 3; i++) {
			struct pack_entry e;

			make_chunk(i, &e, buf, &len);
			rc = pack_builder_add(b, aead, &e, buf, len, &last);
		}
		if (rc == 0) {
			assert_true(pack_builder_close(b));
			rc = pack_builder_finish(b, &data, &len, &toc);
		}
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc == 0) {
			assert_int_equal(read_pack(&p, data, len), 0);
			assert_int_equal(p.toc.nentries, 3);
			pack_toc_release(&p.toc);
		}
		pack_toc_release(&toc);
		aead_free(aead);
		pack_builder_free(b);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
	}
	assert_int_equal(rc, 0);
	assert_true(n > 5 && n < 500);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_threads),
		cmocka_unit_test(test_empty_and_oversized),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_bit_flips),
		cmocka_unit_test(test_chunk_cannot_stand_in),
		cmocka_unit_test(test_toc_is_bounded),
		cmocka_unit_test(test_newer_version),
		cmocka_unit_test(test_failed_seal_spoils),
		cmocka_unit_test(test_faults),
	};
	uint8_t master[CRYPTO_KEY_LEN];
	int rc;

	if (secret_init())
		return 1;
	random_bytes(master, sizeof(master));
	random_bytes(repo_id, sizeof(repo_id));
	if (domain_of_repository(&keys, repo_id, master))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	domain_keys_free(keys);
	return rc;
}
