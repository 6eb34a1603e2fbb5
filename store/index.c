/*
 * Of the environment's databases (store/index_env.h), these are filled here:
 *
 *   chunks  first 16 bytes of the id -> u32 pack number, u32 offset, u32 sealed length,
 *           u32 content length in the low 24 bits and encoding in the high 8
 *   packs   u32 pack number (big-endian, so that they sort) -> pack id 32, domain id 16,
 *           u64 bytes, u8 kind, u8 published
 *   packids pack id -> u32 pack number (big-endian)
 *   loaded  name of an index object -> nothing
 */
#include "store/index.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/index_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_KEY_LEN   16
#define INDEX_VALUE_LEN 16
#define PACK_ROW_LEN    58

/* ---- the environment ---- */

int
index_open(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN])
{
	return index_env_open(out, dir, repo_id);
}

void
index_close(struct index *ix)
{
	index_env_close(ix);
}

int
index_clear(struct index *ix)
{
	return index_env_clear(ix);
}

int
index_sync(struct index *ix)
{
	return index_env_sync(ix);
}

/* ---- pack rows ---- */

static void
number_key(uint8_t key[4], uint32_t no)
{
	for (int i = 0; i < 4; i++)
		key[i] = (uint8_t)(no >> (24 - 8 * i));
}

static uint32_t
number_of_key(const void *key)
{
	const uint8_t *k = key;

	return (uint32_t)k[0] << 24 | (uint32_t)k[1] << 16 | (uint32_t)k[2] << 8 | k[3];
}

static void
pack_row_encode(uint8_t row[PACK_ROW_LEN], const struct index_pack *p)
{
	memcpy(row, p->pack_id, PACK_ID_LEN);
	memcpy(row + 32, p->domain_id, DOMAIN_ID_LEN);
	le64_store(row + 48, p->pack_bytes);
	row[56] = (uint8_t)p->kind;
	row[57] = p->published;
}

static bool
pack_row_decode(struct index_pack *p, const MDB_val *v)
{
	const uint8_t *row = v->mv_data;

	if (v->mv_size != PACK_ROW_LEN || row[56] < PACK_DATA || row[56] > PACK_META)
		return false;
	memcpy(p->pack_id, row, PACK_ID_LEN);
	memcpy(p->domain_id, row + 32, DOMAIN_ID_LEN);
	p->pack_bytes = le64_load(row + 48);
	p->kind = (enum pack_kind)row[56];
	p->published = row[57] != 0;
	return true;
}

/*
 * The row of pack `no`, from the cache or the database. MDB codes.  Any commit, also another
 * process', may give a number to another pack, so the cache serves one transaction's state only.
 */
static int
pack_row_get(struct index *ix, MDB_txn *txn, uint32_t no, struct index_pack *out)
{
	uint8_t key[4];
	MDB_val k = { sizeof(key), key }, v;
	int rc = 0;

	pthread_mutex_lock(&ix->packs_lock);
	if (ix->rows_txn != mdb_txn_id(txn)) {
		free(ix->pack_rows);
		ix->pack_rows = NULL;
		ix->npacks = 0;
		ix->rows_txn = mdb_txn_id(txn);
	}
	if (no < ix->npacks && ix->pack_rows[no].pack_bytes != 0) {
		*out = ix->pack_rows[no];
		goto out;
	}
	number_key(key, no);
	rc = mdb_get(txn, ix->packs, &k, &v);
	if (rc)
		goto out;
	if (!pack_row_decode(out, &v)) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	if (no >= ix->npacks && no < (1u << 26)) {
		size_t n = ((size_t)no + 1024) & ~(size_t)1023;
		struct index_pack *rows = mem_realloc(ix->pack_rows, n * sizeof(*rows));

		/* Without memory the cache just does not grow. */
		if (rows) {
			memset(rows + ix->npacks, 0, (n - ix->npacks) * sizeof(*rows));
			ix->pack_rows = rows;
			ix->npacks = n;
		}
	}
	if (no < ix->npacks)
		ix->pack_rows[no] = *out;
out:
	pthread_mutex_unlock(&ix->packs_lock);
	return rc;
}

/* ---- looking up ---- */

int
index_find(struct index *ix, const struct chunk_id *id, struct index_place *place)
{
	uint8_t key[INDEX_KEY_LEN];
	MDB_val k = { sizeof(key), key }, v;
	struct index_pack pack;
	uint32_t len_enc;
	MDB_txn *txn;
	int rc;

	memcpy(key, id->b, sizeof(key));
	rc = index_env_begin(ix, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->chunks, &k, &v);
	if (rc)
		goto out;
	if (v.mv_size != INDEX_VALUE_LEN) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	place->pack_no = le32_load(v.mv_data);
	place->off = le32_load((const uint8_t *)v.mv_data + 4);
	place->sealed_len = le32_load((const uint8_t *)v.mv_data + 8);
	len_enc = le32_load((const uint8_t *)v.mv_data + 12);
	place->len = len_enc & 0xffffff;
	place->encoding = (enum encoding)(len_enc >> 24);
	if (place->encoding > ENCODING_DELTA || place->len > CHUNK_MAX_BYTES ||
	    place->sealed_len > CHUNK_MAX_BYTES * 2) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	rc = pack_row_get(ix, txn, place->pack_no, &pack);
	if (rc == MDB_NOTFOUND)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(place->pack_id, pack.pack_id, PACK_ID_LEN);
		memcpy(place->domain_id, pack.domain_id, DOMAIN_ID_LEN);
		place->kind = pack.kind;
		place->pack_bytes = pack.pack_bytes;
	}
out:
	index_env_end(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 1;
	return rc ? index_env_err(ix, rc, "look up a chunk") : 0;
}

int
index_find_pack(struct index *ix, const uint8_t pack_id[PACK_ID_LEN], struct index_pack *pack)
{
	uint8_t id[PACK_ID_LEN];
	MDB_val k = { PACK_ID_LEN, id }, v, row;
	struct index_pack found;
	MDB_txn *txn;
	int rc;

	memcpy(id, pack_id, sizeof(id));
	rc = index_env_begin(ix, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->packids, &k, &v);
	if (rc == 0)
		rc = mdb_get(txn, ix->packs, &v, &row);
	if (rc == 0 && !pack_row_decode(&found, &row))
		rc = MDB_CORRUPTED;
	index_env_end(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 1;
	if (rc)
		return index_env_err(ix, rc, "look up a pack");
	if (pack)
		*pack = found;
	return 0;
}

/* Copy all pack rows out, so that no transaction is open while callbacks run. */
static int
copy_pack_rows(struct index *ix, struct index_pack **rows, size_t *n)
{
	MDB_cursor *cur = NULL;
	MDB_val k, v;
	MDB_stat st;
	MDB_txn *txn;
	int rc;

	*rows = NULL;
	*n = 0;
	rc = index_env_begin(ix, &txn);
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->packs, &st);
	if (rc == 0 && !(*rows = mem_calloc(st.ms_entries, sizeof(**rows))))
		rc = ENOMEM;
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->packs, &cur);
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
		if (*n == st.ms_entries || !pack_row_decode(&(*rows)[*n], &v))
			rc = MDB_CORRUPTED;
		else
			(*n)++;
	}
	if (cur)
		mdb_cursor_close(cur);
	index_env_end(ix, txn);
	if (rc != MDB_NOTFOUND) {
		free(*rows);
		*rows = NULL;
		return index_env_err(ix, rc, "list packs");
	}
	return 0;
}

int
index_each_pack(struct index *ix, int (*fn)(void *ctx, const struct index_pack *pack), void *ctx)
{
	struct index_pack *rows;
	size_t n;
	int rc = copy_pack_rows(ix, &rows, &n);

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fn(ctx, &rows[i]);
	free(rows);
	return rc;
}

/* ---- adding ---- */

struct sorted_entry {
	uint8_t key[INDEX_KEY_LEN];
	uint8_t value[INDEX_VALUE_LEN];
};

struct add_job {
	const struct pack_toc *const *tocs;
	size_t n;
	bool published;
	bool bulk;
	struct sorted_entry *sorted; /* room for all entries */
};

static int
compare_sorted(const void *a, const void *b)
{
	return memcmp(a, b, INDEX_KEY_LEN);
}

static int
next_pack_number(struct index *ix, MDB_txn *txn, uint32_t *no)
{
	MDB_cursor *cur;
	MDB_val k, v;
	int rc = mdb_cursor_open(txn, ix->packs, &cur);

	if (rc)
		return rc;
	rc = mdb_cursor_get(cur, &k, &v, MDB_LAST);
	mdb_cursor_close(cur);
	if (rc == MDB_NOTFOUND) {
		*no = 0;
		return 0;
	}
	if (rc == 0 && k.mv_size != 4)
		rc = MDB_CORRUPTED;
	if (rc == 0)
		*no = number_of_key(k.mv_data) + 1;
	return rc;
}

static int
set_row_published(struct index *ix, MDB_txn *txn, MDB_val *number)
{
	uint8_t row[PACK_ROW_LEN];
	struct index_pack pack;
	MDB_val v;
	int rc = mdb_get(txn, ix->packs, number, &v);

	if (rc)
		return rc;
	if (!pack_row_decode(&pack, &v))
		return MDB_CORRUPTED;
	if (pack.published)
		return 0;
	pack.published = true;
	pack_row_encode(row, &pack);
	v = (MDB_val){ sizeof(row), row };
	return mdb_put(txn, ix->packs, number, &v, 0);
}

/* Add the row of one pack; *fresh tells whether its chunks are to be added too. */
static int
add_pack_row(struct index *ix, MDB_txn *txn, const struct pack_toc *toc, bool published,
    uint32_t no, bool *fresh)
{
	uint8_t row[PACK_ROW_LEN], number[4], id[PACK_ID_LEN];
	MDB_val k = { PACK_ID_LEN, id }, v;
	struct index_pack pack;
	int rc;

	memcpy(id, toc->pack_id, sizeof(id));
	rc = mdb_get(txn, ix->packids, &k, &v);
	*fresh = rc == MDB_NOTFOUND;
	if (rc == 0) {
		memcpy(number, v.mv_data, sizeof(number));
		v = (MDB_val){ sizeof(number), number };
		return published ? set_row_published(ix, txn, &v) : 0;
	}
	if (rc != MDB_NOTFOUND)
		return rc;
	number_key(number, no);
	v = (MDB_val){ sizeof(number), number };
	rc = mdb_put(txn, ix->packids, &k, &v, 0);
	if (rc)
		return rc;
	memcpy(pack.pack_id, toc->pack_id, PACK_ID_LEN);
	memcpy(pack.domain_id, toc->domain_id, DOMAIN_ID_LEN);
	pack.pack_bytes = toc->pack_bytes;
	pack.kind = toc->kind;
	pack.published = published;
	pack_row_encode(row, &pack);
	k = (MDB_val){ sizeof(number), number };
	v = (MDB_val){ sizeof(row), row };
	return mdb_put(txn, ix->packs, &k, &v, 0);
}

static int
add_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	struct add_job *job = arg;
	size_t nsorted = 0;
	uint32_t no;
	int rc = next_pack_number(ix, txn, &no);

	for (size_t i = 0; rc == 0 && i < job->n; i++) {
		const struct pack_toc *toc = job->tocs[i];
		bool fresh;

		rc = add_pack_row(ix, txn, toc, job->published, no, &fresh);
		if (rc || !fresh)
			continue;
		for (size_t j = 0; j < toc->nentries; j++) {
			const struct pack_entry *e = &toc->entries[j];
			struct sorted_entry *s = &job->sorted[nsorted++];

			memcpy(s->key, e->id.b, INDEX_KEY_LEN);
			le32_store(s->value, no);
			le32_store(s->value + 4, e->off);
			le32_store(s->value + 8, e->sealed_len);
			le32_store(s->value + 12, e->len | (uint32_t)e->encoding << 24);
		}
		no++;
	}
	if (rc)
		return rc;
	qsort(job->sorted, nsorted, sizeof(*job->sorted), compare_sorted);
	for (size_t i = 0; i < nsorted; i++) {
		MDB_val k = { INDEX_KEY_LEN, job->sorted[i].key };
		MDB_val v = { INDEX_VALUE_LEN, job->sorted[i].value };

		rc = mdb_put(txn, ix->chunks, &k, &v, MDB_NOOVERWRITE);
		if (rc && rc != MDB_KEYEXIST)
			return rc;
	}
	return 0;
}

int
index_add_packs(struct index *ix, const struct pack_toc *const *tocs, size_t n, bool published,
    bool bulk)
{
	struct add_job job = { .tocs = tocs, .n = n, .published = published, .bulk = bulk };
	size_t total = 0;
	int rc;

	for (size_t i = 0; i < n; i++)
		total += tocs[i]->nentries;
	job.sorted = mem_calloc(total, sizeof(*job.sorted));
	if (!job.sorted)
		return err_nomem();
	if (bulk)
		mdb_env_set_flags(ix->env, MDB_NOSYNC, 1);
	rc = index_env_write(ix, add_packs, &job, "add packs");
	if (bulk)
		mdb_env_set_flags(ix->env, MDB_NOSYNC, 0);
	free(job.sorted);
	return rc;
}

/* ---- changing packs ---- */

struct pack_list {
	const uint8_t (*ids)[PACK_ID_LEN];
	size_t n;
};

static int
publish_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	const struct pack_list *list = arg;

	for (size_t i = 0; i < list->n; i++) {
		uint8_t id[PACK_ID_LEN], number[4];
		MDB_val k = { PACK_ID_LEN, id }, v;
		int rc;

		memcpy(id, list->ids[i], sizeof(id));
		rc = mdb_get(txn, ix->packids, &k, &v);
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc == 0) {
			memcpy(number, v.mv_data, sizeof(number));
			v = (MDB_val){ sizeof(number), number };
			rc = set_row_published(ix, txn, &v);
		}
		if (rc)
			return rc;
	}
	return 0;
}

int
index_set_published(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n)
{
	struct pack_list list = { pack_ids, n };

	return index_env_write(ix, publish_packs, &list, "mark packs");
}

static int
compare_numbers(const void *a, const void *b)
{
	return memcmp(a, b, 4);
}

/* Delete the rows of the packs; their numbers (big-endian) go to `numbers`. MDB codes. */
static int
drop_rows(struct index *ix, MDB_txn *txn, const struct pack_list *list, uint8_t (*numbers)[4],
    size_t *nnumbers)
{
	*nnumbers = 0;
	for (size_t i = 0; i < list->n; i++) {
		uint8_t id[PACK_ID_LEN];
		MDB_val k = { PACK_ID_LEN, id }, v;
		int rc;

		memcpy(id, list->ids[i], sizeof(id));
		rc = mdb_get(txn, ix->packids, &k, &v);
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc)
			return rc;
		memcpy(numbers[*nnumbers], v.mv_data, 4);
		v = (MDB_val){ 4, numbers[*nnumbers] };
		(*nnumbers)++;
		if ((rc = mdb_del(txn, ix->packids, &k, NULL)) ||
		    (rc = mdb_del(txn, ix->packs, &v, NULL)))
			return rc;
	}
	qsort(numbers, *nnumbers, 4, compare_numbers);
	return 0;
}

static int
drop_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	const struct pack_list *list = arg;
	uint8_t(*numbers)[4] = mem_calloc(list->n, sizeof(*numbers));
	MDB_cursor *cur = NULL;
	size_t nnumbers = 0;
	MDB_val k, v;
	int rc;

	if (!numbers)
		return ENOMEM;
	rc = drop_rows(ix, txn, list, numbers, &nnumbers);
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->chunks, &cur);
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
		uint8_t number[4];

		if (v.mv_size != INDEX_VALUE_LEN) {
			rc = MDB_CORRUPTED;
			break;
		}
		number_key(number, le32_load(v.mv_data));
		if (bsearch(number, numbers, nnumbers, 4, compare_numbers))
			rc = mdb_cursor_del(cur, 0);
	}
	if (cur)
		mdb_cursor_close(cur);
	free(numbers);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
index_drop_packs(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n)
{
	struct pack_list list = { pack_ids, n };

	return n ? index_env_write(ix, drop_packs, &list, "drop packs") : 0;
}

/* ---- loaded index objects ---- */

static int
put_loaded(struct index *ix, MDB_txn *txn, void *arg)
{
	const char *name = arg;
	char key[256];
	MDB_val k = { 0, key }, v = { 0, key };

	snprintf(key, sizeof(key), "%s", name);
	k.mv_size = strlen(key);
	return mdb_put(txn, ix->loaded, &k, &v, 0);
}

int
index_set_loaded(struct index *ix, const char *name)
{
	char copy[256];

	snprintf(copy, sizeof(copy), "%s", name);
	return index_env_write(ix, put_loaded, copy, "note an index object");
}

int
index_has_loaded(struct index *ix, const char *name)
{
	char key[256];
	MDB_val k = { 0, key }, v;
	MDB_txn *txn;
	int rc;

	snprintf(key, sizeof(key), "%s", name);
	k.mv_size = strlen(key);
	rc = index_env_begin(ix, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->loaded, &k, &v);
	index_env_end(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? index_env_err(ix, rc, "look up an index object") : 1;
}

int
index_count_loaded(struct index *ix, uint64_t *n)
{
	MDB_txn *txn;
	MDB_stat st;
	int rc = index_env_begin(ix, &txn);

	*n = 0;
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->loaded, &st);
	index_env_end(ix, txn);
	if (rc)
		return index_env_err(ix, rc, "count index objects");
	*n = st.ms_entries;
	return 0;
}

/* ---- sums ---- */

static int
add_to_totals(struct index *ix, MDB_txn *txn, const MDB_val *v, struct index_totals *t)
{
	struct index_pack pack;
	uint32_t sealed, len;
	unsigned encoding;
	int rc;

	if (v->mv_size != INDEX_VALUE_LEN)
		return MDB_CORRUPTED;
	sealed = le32_load((const uint8_t *)v->mv_data + 8);
	len = le32_load((const uint8_t *)v->mv_data + 12);
	encoding = len >> 24;
	len &= 0xffffff;
	rc = pack_row_get(ix, txn, le32_load(v->mv_data), &pack);
	if (rc)
		return rc;
	t->chunks++;
	t->content_bytes += len;
	t->stored_bytes += sealed;
	t->raw_chunks += encoding == ENCODING_RAW;
	t->zstd_chunks += encoding == ENCODING_ZSTD;
	if (encoding == ENCODING_DELTA) {
		t->delta_chunks++;
		t->delta_content_bytes += len;
		t->delta_stored_bytes += sealed;
	}
	if (pack.kind == PACK_META) {
		t->meta_content_bytes += len;
		t->meta_stored_bytes += sealed;
	}
	return 0;
}

int
index_totals(struct index *ix, struct index_totals *t)
{
	MDB_cursor *cur = NULL;
	MDB_val k, v;
	MDB_stat st;
	MDB_txn *txn;
	int rc;

	memset(t, 0, sizeof(*t));
	rc = index_env_begin(ix, &txn);
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->packs, &st);
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->chunks, &cur);
	t->packs = rc ? 0 : st.ms_entries;
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0)
		rc = add_to_totals(ix, txn, &v, t);
	if (cur)
		mdb_cursor_close(cur);
	index_env_end(ix, txn);
	return rc == MDB_NOTFOUND ? 0 : index_env_err(ix, rc, "sum up");
}
