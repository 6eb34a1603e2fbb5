/*
 * Files are known by a 64-bit hash of their path (FNV-1a), so that a million of them take little
 * memory.  Two paths with one hash would at worst stop a backup with a wrong complaint.
 */
#include "pgsync/arrival.h"

#include "pgsync/confset.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/tree.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arrived {
	uint64_t hash;
	uint64_t size;
	uint32_t crc32c;
	bool listed; /* the manifest has it */
};

struct arrivals {
	const struct confset *config;
	struct arrived *list;
	size_t n, cap;
};

static uint64_t
hash_path(const char *path)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * UINT64_C(0x100000001b3);
	return h;
}

static int
note_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct arrivals *a = ctx;

	if (e->type != TREE_FILE || strncmp(path, "pg_wal/", 7) == 0 ||
	    (a->config && confset_has(a->config, path)))
		return 0;
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 1024;
		struct arrived *list = mem_realloc(a->list, cap * sizeof(*list));

		if (!list)
			return err_nomem();
		a->list = list;
		a->cap = cap;
	}
	a->list[a->n++] = (struct arrived){
		.hash = hash_path(path), .size = e->content.size, .crc32c = e->content.crc32c
	};
	return 0;
}

static int
by_hash(const void *a, const void *b)
{
	const struct arrived *x = a, *y = b;

	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static int
compare_file(void *ctx, const struct manifest_file *file)
{
	char path[TREE_PATH_MAX + 16];
	struct arrivals *a = ctx;
	struct arrived key, *found;

	if (strcmp(file->path, "tablespace_map") == 0)
		return 0;
	if (strncmp(file->path, "pg_tblspc/", 10) == 0)
		snprintf(path, sizeof(path), "pg_tblspc_data/%s", file->path + 10);
	else
		snprintf(path, sizeof(path), "%s", file->path);
	if (a->config && confset_has(a->config, path))
		return 0;
	key.hash = hash_path(path);
	found = a->n ? bsearch(&key, a->list, a->n, sizeof(key), by_hash) : NULL;
	if (!found)
		return err_set(ERR_DAMAGED,
		    "the server's manifest lists %s, which did not arrive; take the backup again",
		    path);
	found->listed = true;
	if (found->size != file->size)
		return err_set(ERR_DAMAGED,
		    "%s arrived with %llu bytes, the server's manifest says %llu; take the backup "
		    "again",
		    path, (unsigned long long)found->size, (unsigned long long)file->size);
	if (file->checksum == MANIFEST_CHECKSUM_CRC32C && found->crc32c != file->crc32c)
		return err_set(ERR_DAMAGED,
		    "%s arrived with checksum %08x, the server's manifest says %08x: it was "
		    "damaged on "
		    "the way; take the backup again",
		    path, found->crc32c, file->crc32c);
	return 0;
}

int
arrival_compare(
    struct tree_builder *tree, const struct confset *config, const void *manifest, size_t len)
{
	struct arrivals a = { .config = config };
	const struct manifest_reader reader = { .file = compare_file, .ctx = &a };
	size_t extra = 0;
	int rc = tree_builder_each(tree, note_entry, &a);

	if (rc == 0 && a.n > 0)
		qsort(a.list, a.n, sizeof(a.list[0]), by_hash);
	if (rc == 0)
		rc = manifest_read(manifest, len, &reader, NULL);
	for (size_t i = 0; rc == 0 && i < a.n; i++)
		extra += !a.list[i].listed;
	if (rc == 0 && extra > 0)
		rc = err_set(ERR_DAMAGED,
		    "%zu files arrived that the server's manifest does not list; take the backup "
		    "again",
		    extra);
	free(a.list);
	return rc;
}

int
arrival_page_from_hex(uint8_t page[PGPAGE_BYTES], const char *hex)
{
	size_t n = strlen(hex);

	if (n % 2 || n / 2 > PGPAGE_BYTES)
		return -1;
	memset(page, 0, PGPAGE_BYTES);
	return hex_decode(page, hex, n / 2);
}
