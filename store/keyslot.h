/*
 * keyslot: the master key, wrapped by a passphrase or a key file; one object "keys/<id>" a slot.
 *
 * Layout: docs/format.md.  Threads: pure functions.
 */
#ifndef STORE_KEYSLOT_H
#define STORE_KEYSLOT_H

#include "store/repo_header.h"
#include "store/secret.h"

#include <stddef.h>
#include <stdint.h>

#define KEYSLOT_LEN        256
#define KEYSLOT_ID_LEN     8
#define KEYSLOT_LABEL_MAX  63
#define KEYFILE_MIN_BYTES  32
#define KEYFILE_MAX_BYTES  (64u << 10)
#define PASSPHRASE_MAX     4096

enum keyslot_kind {
	KEYSLOT_PASSPHRASE = 1,
	KEYSLOT_KEYFILE = 2,
};

/* What a person holds: exactly one of the two.  The bytes are in secret_alloc() memory. */
struct credential {
	enum keyslot_kind kind;
	const void *data; /* borrowed */
	size_t len;
};

struct keyslot_info {
	uint8_t id[KEYSLOT_ID_LEN];
	enum keyslot_kind kind;
	char label[KEYSLOT_LABEL_MAX + 1];
	int64_t created_us;
	uint32_t argon_ops;       /* passphrase slots only */
	uint64_t argon_mem_bytes; /* passphrase slots only */
};

/* The cost of a new passphrase slot; zero fields take the defaults (3 passes, 64 MiB). */
struct keyslot_cost {
	uint32_t argon_ops;
	uint64_t argon_mem_bytes;
};

/* Wrap `master` into a new slot; info->id is made here. */
int keyslot_encode(uint8_t out[KEYSLOT_LEN], struct keyslot_info *info,
    const uint8_t repo_id[REPO_ID_LEN], const char *label, const struct credential *cred,
    const struct keyslot_cost *cost, const uint8_t master[SECRET_KEY_LEN]);

/* What a slot says of itself, without a key.  Errors: ERR_DAMAGED, ERR_UNSUPPORTED. */
int keyslot_decode(struct keyslot_info *info, const void *data, size_t len,
    const uint8_t repo_id[REPO_ID_LEN]);

/*
 * Unwrap into `master` (secret memory).  Errors: ERR_KEY (this credential does not open it or is of
 * another kind), ERR_DAMAGED, ERR_UNSUPPORTED, ERR_NOMEM.
 */
int keyslot_open(const void *data, size_t len, const uint8_t repo_id[REPO_ID_LEN],
    const struct credential *cred, uint8_t master[SECRET_KEY_LEN]);

#endif
