/*
 * repo_header: the object "pastfs", which makes a place a repository.
 *
 * It is readable without a key (a program must be able to say "newer format"), and carries a MAC
 * under a key derived from the master key.  Never changed after init.  Layout: docs/format.md.
 */
#ifndef STORE_REPO_HEADER_H
#define STORE_REPO_HEADER_H

#include "store/crypto.h"

#include <stddef.h>
#include <stdint.h>

#define REPO_HEADER_OBJECT  "pastfs"
#define REPO_HEADER_LEN     160
#define REPO_FORMAT_VERSION 1
#define REPO_ID_LEN         16

struct repo_header {
	uint32_t format_version;
	uint64_t required_features; /* a reader refuses bits it does not know */
	uint64_t optional_features; /* a reader ignores bits it does not know */
	uint8_t repo_id[REPO_ID_LEN];
	enum id_algorithm id_algorithm;
	uint32_t page_chunk_bytes; /* the fixed chunk size for relation main forks */
	uint32_t cdc_min_bytes;
	uint32_t cdc_avg_bytes; /* a power of two */
	uint32_t cdc_max_bytes;
	int64_t created_us;
	uint8_t default_domain[16];
};

/* Encode `h` with its MAC under `master`. */
int repo_header_encode(
    const struct repo_header *h, const uint8_t master[32], uint8_t out[REPO_HEADER_LEN]);

/*
 * Decode without checking the MAC.  Errors: ERR_DAMAGED (not a header, bad checksum, sizes out of
 * range), ERR_UNSUPPORTED (a newer format; the message names both versions).
 */
int repo_header_decode(struct repo_header *h, const void *data, size_t len);

/* Check the MAC of an encoded header.  Errors: ERR_DAMAGED. */
int repo_header_verify(const void *data, size_t len, const uint8_t master[32]);

#endif
