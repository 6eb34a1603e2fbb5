/*
 * domain: a key domain, inside which chunks are shared and which can be destroyed as one.
 *
 * Each domain has a random key, wrapped by the master key in the object "domains/<id>".  All keys
 * that touch content are derived from it; deleting that one object makes everything sealed under
 * the domain unreadable.  The domain id of zeros stands for the repository itself, whose keys are
 * derived from the master key.  Layout: docs/format.md.
 *
 * Threads: read-only after it is opened; may be shared.
 */
#ifndef STORE_DOMAIN_H
#define STORE_DOMAIN_H

#include "store/crypto.h"
#include "store/repo_header.h"

#include <stddef.h>
#include <stdint.h>

#define DOMAIN_ID_LEN   16
#define DOMAIN_WRAP_LEN 144

/* In secret memory, all of it. */
struct domain_keys {
	uint8_t id[DOMAIN_ID_LEN];
	uint8_t chunk_id[CRYPTO_KEY_LEN];
	uint8_t fingerprint[CRYPTO_KEY_LEN];
	uint8_t gear[CRYPTO_KEY_LEN];
	uint8_t pack[CRYPTO_KEY_LEN];
	uint8_t object[CRYPTO_KEY_LEN];
};

/* Make a new domain: its id, its keys (secret_alloc()ed, to domain_keys_free()), its object. */
int domain_create(struct domain_keys **out, uint8_t wrapped[DOMAIN_WRAP_LEN],
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t master[CRYPTO_KEY_LEN]);

/* Unwrap a domain object.  Errors: ERR_DAMAGED, ERR_UNSUPPORTED, ERR_NOMEM. */
int domain_open(struct domain_keys **out, const void *data, size_t len,
    const uint8_t repo_id[REPO_ID_LEN], const uint8_t master[CRYPTO_KEY_LEN]);

/* The repository's own keys (id of zeros), derived from the master key. */
int domain_of_repository(struct domain_keys **out, const uint8_t repo_id[REPO_ID_LEN],
    const uint8_t master[CRYPTO_KEY_LEN]);

void domain_keys_free(struct domain_keys *d);

#endif
