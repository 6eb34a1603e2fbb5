/*
 * The admin role: key slots, and sealed objects of the repository itself.
 */
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/repo_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct repo_admin {
	struct repo_reader *reader;
};

int
repo_admin_open(struct repo_admin **out, const struct repo_opts *opts)
{
	struct repo_admin *a = mem_alloc(sizeof(*a));
	int rc;

	*out = NULL;
	if (!a)
		return err_nomem();
	rc = repo_reader_open(&a->reader, opts);
	if (rc) {
		repo_admin_close(a);
		return rc;
	}
	*out = a;
	return 0;
}

void
repo_admin_close(struct repo_admin *a)
{
	if (!a)
		return;
	repo_reader_close(a->reader);
	free(a);
}

struct repo_reader *
repo_admin_reader(struct repo_admin *a)
{
	return a->reader;
}

int
repo_admin_put(
    struct repo_admin *a, int sealed_kind, const char *name, const void *plain, size_t len)
{
	struct repo *repo = reader_repo(a->reader);

	return repo_put_sealed(repo, sealed_kind, name, repo->own, plain, len);
}

int
repo_admin_delete(struct repo_admin *a, const char *name)
{
	return backend_delete(reader_repo(a->reader)->backend, name);
}

const uint8_t *
repo_admin_slot(const struct repo_admin *a)
{
	return reader_repo(a->reader)->slot_id;
}

struct slot_visit {
	struct backend *backend;
	struct repo_header header;
	int (*fn)(void *ctx, const struct keyslot_info *slot);
	void *ctx;
};

static int
visit_slot(void *ctx, const char *name, const struct object_info *info)
{
	struct slot_visit *v = ctx;
	struct keyslot_info slot;
	void *data = NULL;
	size_t len;
	int rc;

	(void)info;
	rc = backend_get_all(v->backend, name, KEYSLOT_LEN, &data, &len);
	if (rc == 0)
		rc = keyslot_decode(&slot, data, len, v->header.repo_id);
	free(data);
	return rc ? err_prefix(rc, "%s", name) : v->fn(v->ctx, &slot);
}

int
repo_keyslots(const char *url, int (*fn)(void *ctx, const struct keyslot_info *slot), void *ctx)
{
	struct slot_visit v = { .fn = fn, .ctx = ctx };
	void *data = NULL;
	size_t len;
	int rc = backend_open(&v.backend, url, false);

	if (rc)
		return rc;
	rc = backend_get_all(v.backend, REPO_HEADER_OBJECT, 4096, &data, &len);
	if (rc == ERR_NOTFOUND)
		rc = err_set(ERR_NOTFOUND, "%s is not a pastfs repository", url);
	if (rc == 0)
		rc = repo_header_decode(&v.header, data, len);
	if (rc == 0)
		rc = backend_list(v.backend, "keys/", visit_slot, &v);
	free(data);
	backend_close(v.backend);
	return rc;
}

static void
slot_name(char *out, size_t size, const uint8_t id[KEYSLOT_ID_LEN])
{
	char hex[2 * KEYSLOT_ID_LEN + 1];

	hex_encode(hex, id, KEYSLOT_ID_LEN);
	snprintf(out, size, "keys/%s", hex);
}

int
repo_admin_key_add(struct repo_admin *a, const char *label, const struct credential *cred,
    const struct keyslot_cost *cost, struct keyslot_info *added)
{
	static const struct keyslot_cost usual;
	struct repo *repo = reader_repo(a->reader);
	uint8_t slot[KEYSLOT_LEN];
	char name[BACKEND_NAME_MAX];
	int rc;

	rc = keyslot_encode(
	    slot, added, repo->header.repo_id, label, cred, cost ? cost : &usual, repo->master);
	if (rc)
		return rc;
	slot_name(name, sizeof(name), added->id);
	rc = backend_put(repo->backend, name, slot, sizeof(slot));
	return rc == 1 ? err_set(ERR_EXISTS, "key slot %s is there already", name) : rc;
}

struct slot_count {
	struct repo *repo;
	const char *except;
	unsigned others;
};

/* Count the slots that could still open the repository; a damaged one cannot. */
static int
count_slot(void *ctx, const char *name, const struct object_info *info)
{
	struct slot_count *c = ctx;
	struct keyslot_info slot;
	void *data = NULL;
	size_t len;
	int rc;

	(void)info;
	if (strcmp(name, c->except) == 0)
		return 0;
	rc = backend_get_all(c->repo->backend, name, KEYSLOT_LEN, &data, &len);
	if (rc == 0)
		rc = keyslot_decode(&slot, data, len, c->repo->header.repo_id);
	free(data);
	c->others += rc == 0;
	return rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED || rc == ERR_NOTFOUND ? 0 : rc;
}

int
repo_admin_key_remove(struct repo_admin *a, const uint8_t slot_id[KEYSLOT_ID_LEN])
{
	struct repo *repo = reader_repo(a->reader);
	char name[BACKEND_NAME_MAX];
	struct slot_count count = { .repo = repo, .except = name };
	struct object_info info;
	int rc;

	slot_name(name, sizeof(name), slot_id);
	rc = backend_stat(repo->backend, name, &info);
	if (rc == ERR_NOTFOUND)
		return err_set(ERR_NOTFOUND,
		    "there is no key slot %s; pastfs key list shows those there are", name + 5);
	if (rc == 0)
		rc = backend_list(repo->backend, "keys/", count_slot, &count);
	if (rc)
		return rc;
	if (count.others == 0)
		return err_set(ERR_USAGE,
		    "key slot %s is the last one: without it nothing could be "
		    "read any more; add another first",
		    name + 5);
	return backend_delete(repo->backend, name);
}
