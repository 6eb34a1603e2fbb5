/*
 * fingerprint: XXH3-128 under a secret, the change detector.  Never identity.
 *
 * The door to xxHash.  A fingerprinter is read-only after creation and may be shared by threads.
 */
#ifndef STORE_FINGERPRINT_H
#define STORE_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

#define FINGERPRINT_LEN 16

struct fingerprinter;

/* `key` has 32 bytes and is borrowed for the call. */
int fingerprinter_new(struct fingerprinter **out, const uint8_t key[32]);
void fingerprinter_free(struct fingerprinter *f);
void fingerprint(const struct fingerprinter *f, const void *data, size_t len,
    uint8_t out[FINGERPRINT_LEN]);

/* The keyless form (seed 0), as a stream: the checksum in a pack's trailer. */
struct checksum;
int checksum_new(struct checksum **out);
void checksum_reset(struct checksum *c);
void checksum_update(struct checksum *c, const void *data, size_t len);
void checksum_final(struct checksum *c, uint8_t out[FINGERPRINT_LEN]);
void checksum_free(struct checksum *c);

#endif
