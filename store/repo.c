/*
 * Opening a repository: the header, the key slot that fits, the domains, the index; and init.
 */
#include "store/repo.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/repo_internal.h"
#include "store/secret.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOMAINS_MAX 65536

void
repo_pack_name(const uint8_t pack_id[PACK_ID_LEN], char out[PACK_OBJECT_MAX])
{
	memcpy(out, "packs/", 6);
	hex_encode(out + 6, pack_id, PACK_ID_LEN);
}

int
repo_pack_id(const char *name, uint8_t pack_id[PACK_ID_LEN])
{
	if (strncmp(name, "packs/", 6) != 0)
		return -1;
	return hex_decode(pack_id, name + 6, PACK_ID_LEN);
}

const struct domain_keys *
repo_domain(const struct repo *repo, const uint8_t id[DOMAIN_ID_LEN])
{
	if (memcmp(repo->own->id, id, DOMAIN_ID_LEN) == 0)
		return repo->own;
	for (size_t i = 0; i < repo->ndomains; i++)
		if (memcmp(repo->domains[i]->id, id, DOMAIN_ID_LEN) == 0)
			return repo->domains[i];
	return NULL;
}

int
repo_put_sealed(struct repo *repo, int kind, const char *name, const struct domain_keys *keys,
    const void *plain, size_t len)
{
	struct bytes b;
	int rc;

	bytes_init(&b);
	rc =
	    sealed_encode(&b, (enum sealed_kind)kind, name, repo->header.repo_id, keys, plain, len);
	if (rc == 0)
		rc = backend_put(repo->backend, name, b.data, b.len);
	bytes_release(&b);
	return rc;
}

/* ---- key slots ---- */

struct slot_search {
	struct repo *repo;
	const struct credential *cred;
	unsigned slots, of_kind;
	bool opened;
	char labels[256];
	int damaged;
};

static int
try_slot(void *ctx, const char *name, const struct object_info *info)
{
	struct slot_search *s = ctx;
	struct keyslot_info slot;
	void *data = NULL;
	size_t len, used = strlen(s->labels);
	int rc;

	(void)info;
	rc = backend_get_all(s->repo->backend, name, KEYSLOT_LEN, &data, &len);
	if (rc == 0)
		rc = keyslot_decode(&slot, data, len, s->repo->header.repo_id);
	if (rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED) {
		/* One broken slot must not lock out the others. */
		s->damaged++;
		free(data);
		return 0;
	}
	if (rc)
		goto out;
	s->slots++;
	snprintf(
	    s->labels + used, sizeof(s->labels) - used, "%s\"%s\"", used ? ", " : "", slot.label);
	if (slot.kind != s->cred->kind)
		goto out;
	s->of_kind++;
	rc = keyslot_open(data, len, s->repo->header.repo_id, s->cred, s->repo->master);
	if (rc == 0) {
		memcpy(s->repo->slot_id, slot.id, KEYSLOT_ID_LEN);
		s->opened = true;
		rc = 1;
	} else if (rc == ERR_KEY) {
		rc = 0;
	}
out:
	free(data);
	return rc;
}

static int
open_slots(struct repo *repo, const struct repo_opts *opts)
{
	const char *what = opts->cred->kind == KEYSLOT_PASSPHRASE ? "passphrase" : "key file";
	struct slot_search s = { .repo = repo, .cred = opts->cred };
	int rc = backend_list(repo->backend, "keys/", try_slot, &s);

	if (rc < 0)
		return rc;
	if (s.opened)
		return 0;
	if (s.slots == 0)
		return err_set(ERR_DAMAGED,
		    "cannot open repository %s: it has no readable key slot%s", opts->url,
		    s.damaged ? " (the ones it has are damaged)" : "");
	if (s.of_kind == 0)
		return err_set(ERR_KEY,
		    "cannot open repository %s: none of its %u key slots (%s) takes a %s; try %s",
		    opts->url, s.slots, s.labels, what,
		    opts->cred->kind == KEYSLOT_PASSPHRASE ? "--key-file" : "--passphrase-file");
	return err_set(ERR_KEY,
	    "cannot open repository %s: wrong %s for all of its %u key slot%s (%s)", opts->url,
	    what, s.slots, s.slots == 1 ? "" : "s", s.labels);
}

static int
take_key(struct repo *repo, struct repo_reader *unlocked)
{
	const struct repo *from = reader_repo(unlocked);

	if (memcmp(from->header.repo_id, repo->header.repo_id, REPO_ID_LEN) != 0)
		return err_set(ERR_KEY, "the key at hand is another repository's");
	memcpy(repo->master, from->master, SECRET_KEY_LEN);
	memcpy(repo->slot_id, from->slot_id, KEYSLOT_ID_LEN);
	return 0;
}

/* ---- domains ---- */

static int
load_domain(void *ctx, const char *name, const struct object_info *info)
{
	struct repo *repo = ctx;
	struct domain_keys **list, *keys = NULL;
	void *data = NULL;
	size_t len;
	int rc;

	(void)info;
	if (repo->ndomains == DOMAINS_MAX)
		return err_set(ERR_DAMAGED, "repository has more than %d key domains", DOMAINS_MAX);
	rc = backend_get_all(repo->backend, name, DOMAIN_WRAP_LEN, &data, &len);
	if (rc == 0)
		rc = domain_open(&keys, data, len, repo->header.repo_id, repo->master);
	free(data);
	if (rc)
		return err_prefix(rc, "key domain %s", name);
	list = mem_realloc(repo->domains, (repo->ndomains + 1) * sizeof(*list));
	if (!list) {
		domain_keys_free(keys);
		return err_nomem();
	}
	repo->domains = list;
	repo->domains[repo->ndomains++] = keys;
	return 0;
}

/* ---- opening ---- */

static int
open_header(struct repo *repo, const struct repo_opts *opts)
{
	void *data = NULL;
	size_t len;
	int rc = backend_get_all(repo->backend, REPO_HEADER_OBJECT, 4096, &data, &len);

	if (rc == ERR_NOTFOUND)
		return err_set(ERR_NOTFOUND,
		    "%s is not a pastfs repository: it has no object \"%s\"; make one with: pastfs "
		    "init %s",
		    opts->url, REPO_HEADER_OBJECT, opts->url);
	if (rc == 0)
		rc = repo_header_decode(&repo->header, data, len);
	if (rc == 0)
		rc = opts->unlocked ? take_key(repo, opts->unlocked) : open_slots(repo, opts);
	else
		rc = err_prefix(rc, "cannot open repository %s", opts->url);
	if (rc == 0)
		rc = repo_header_verify(data, len, repo->master);
	free(data);
	return rc;
}

static int
open_index(struct repo *repo, const struct repo_opts *opts)
{
	char hex[2 * REPO_ID_LEN + 1], dir[PATH_MAX];
	int rc;

	if (!opts->cache_dir)
		return err_set(ERR_USAGE, "no cache directory given; use --cache-dir");
	hex_encode(hex, repo->header.repo_id, REPO_ID_LEN);
	snprintf(dir, sizeof(dir), "%s/%s", opts->cache_dir, hex);
	rc = index_open(&repo->index, dir, repo->header.repo_id);
	return rc < 0 ? rc : 0;
}

int
repo_open(struct repo *repo, const struct repo_opts *opts)
{
	int rc;

	memset(repo, 0, sizeof(*repo));
	if (!opts->cred && !opts->unlocked)
		return err_set(ERR_KEY, "no passphrase and no key file given; use "
					"--passphrase-file or --key-file");
	rc = secret_init();
	if (rc)
		return rc;
	repo->master = secret_alloc(SECRET_KEY_LEN);
	if (!repo->master)
		return err_nomem();
	rc = backend_open(&repo->backend, opts->url, false);
	if (rc == 0)
		rc = open_header(repo, opts);
	if (rc == 0)
		rc = domain_of_repository(&repo->own, repo->header.repo_id, repo->master);
	if (rc == 0)
		rc = backend_list(repo->backend, "domains/", load_domain, repo);
	if (rc == 0)
		rc = open_index(repo, opts);
	if (rc)
		repo_release(repo);
	return rc;
}

void
repo_release(struct repo *repo)
{
	index_close(repo->index);
	for (size_t i = 0; i < repo->ndomains; i++)
		domain_keys_free(repo->domains[i]);
	free(repo->domains);
	domain_keys_free(repo->own);
	secret_free(repo->master);
	backend_close(repo->backend);
	memset(repo, 0, sizeof(*repo));
}

/* ---- init ---- */

/* What a directory holds before init: 1 for something that is not left over from a killed init. */
static int
is_foreign(void *ctx, const char *name, const struct object_info *info)
{
	(void)ctx;
	(void)info;
	return strncmp(name, "keys/", 5) != 0 && strncmp(name, "domains/", 8) != 0;
}

static int
delete_leftover(void *ctx, const char *name, const struct object_info *info)
{
	(void)info;
	return backend_delete(ctx, name);
}

/*
 * Say what is in the way at `url`, if anything is, and remove what a killed init left.  Whether the
 * place is empty then, also of what are no objects, is for the back end to judge.
 */
static int
clear_place(const char *url)
{
	struct object_info info;
	struct backend *b = NULL;
	int rc = backend_open(&b, url, false);

	if (rc)
		return rc == ERR_NOTFOUND ? 0 : rc;
	rc = backend_stat(b, REPO_HEADER_OBJECT, &info);
	if (rc == 0)
		rc = err_set(
		    ERR_EXISTS, "%s is a pastfs repository already; nothing was changed", url);
	else if (rc == ERR_NOTFOUND)
		rc = backend_list(b, "", is_foreign, NULL);
	if (rc == 0)
		rc = backend_list(b, "", delete_leftover, b);
	else if (rc == 1)
		rc = err_set(ERR_EXISTS,
		    "%s is not empty; give an empty or absent directory for a new repository", url);
	backend_close(b);
	return rc;
}

/* The objects of a new repository; the header comes last and makes it one. */
static int
write_objects(struct backend *b, const struct repo_header *h, const struct repo_init_opts *init,
    const struct credential *cred, const uint8_t *master, const uint8_t *domain_wrap)
{
	uint8_t header[REPO_HEADER_LEN], slot[KEYSLOT_LEN];
	char name[BACKEND_NAME_MAX], hex[2 * DOMAIN_ID_LEN + 1];
	struct keyslot_info info;
	int rc;

	rc = keyslot_encode(slot, &info, h->repo_id, init->slot_label ? init->slot_label : "first",
	    cred, &init->cost, master);
	if (rc == 0)
		rc = repo_header_encode(h, master, header);
	if (rc)
		return rc;
	hex_encode(hex, h->default_domain, DOMAIN_ID_LEN);
	snprintf(name, sizeof(name), "domains/%s", hex);
	rc = backend_put(b, name, domain_wrap, DOMAIN_WRAP_LEN);
	if (rc == 0) {
		hex_encode(hex, info.id, KEYSLOT_ID_LEN);
		snprintf(name, sizeof(name), "keys/%s", hex);
		rc = backend_put(b, name, slot, sizeof(slot));
	}
	if (rc == 0)
		rc = backend_put(b, REPO_HEADER_OBJECT, header, sizeof(header));
	if (rc == 1)
		rc = err_set(ERR_EXISTS, "somebody else is making a repository there");
	return rc;
}

int
repo_init(const struct repo_opts *opts, const struct repo_init_opts *init)
{
	uint8_t domain_wrap[DOMAIN_WRAP_LEN];
	struct domain_keys *domain = NULL;
	struct backend *b = NULL;
	struct repo_header h = { .format_version = REPO_FORMAT_VERSION };
	uint8_t *master = NULL;
	bool writing = false;
	int rc;

	if (!crypto_has_aes())
		return err_set(ERR_UNSUPPORTED, "this processor has no AES instructions, which "
						"pastfs needs for AES-256-GCM");
	if (!opts->cred)
		return err_set(ERR_KEY, "no passphrase and no key file given; use "
					"--passphrase-file or --key-file");
	rc = secret_init();
	if (rc)
		return rc;
	master = secret_alloc(SECRET_KEY_LEN);
	if (!master)
		return err_nomem();
	random_bytes(master, SECRET_KEY_LEN);
	random_bytes(h.repo_id, REPO_ID_LEN);
	h.id_algorithm = crypto_faster_id_algorithm();
	h.page_chunk_bytes = CHUNK_PAGE_BYTES;
	h.cdc_min_bytes = 64u << 10;
	h.cdc_avg_bytes = 256u << 10;
	h.cdc_max_bytes = 1u << 20;
	h.created_us = utc_now_us();

	rc = clear_place(opts->url);
	if (rc == 0)
		rc = backend_open(&b, opts->url, true);
	if (rc)
		goto out;
	rc = domain_create(&domain, domain_wrap, h.repo_id, master);
	if (rc)
		goto out;
	memcpy(h.default_domain, domain->id, DOMAIN_ID_LEN);
	writing = true;
	rc = write_objects(b, &h, init, opts->cred, master, domain_wrap);
out:
	if (rc && writing) {
		struct err_saved saved;

		/*
		 * A put that failed may still have left its object, the header too; it goes first,
		 * because without its slots it would look like a repository.  Somebody else's
		 * stays.
		 */
		err_save(&saved, rc);
		if (rc != ERR_EXISTS)
			backend_delete(b, REPO_HEADER_OBJECT);
		backend_list(b, "keys/", delete_leftover, b);
		backend_list(b, "domains/", delete_leftover, b);
		rc = err_restore(&saved);
	}
	domain_keys_free(domain);
	secret_free(master);
	backend_close(b);
	return rc;
}
