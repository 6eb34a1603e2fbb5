/*
 * crypto: keyed hashes, key derivation and authenticated encryption.
 *
 * The door to OpenSSL.  Algorithms are fetched once, contexts are reused: a context belongs to one
 * thread at a time.
 */
#ifndef STORE_CRYPTO_H
#define STORE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRYPTO_KEY_LEN    32
#define CRYPTO_NONCE_LEN  12
#define CRYPTO_TAG_LEN    16
#define CRYPTO_DIGEST_LEN 32

/* The functions that may name chunks; the value stands in the repository header. */
enum id_algorithm {
	ID_HMAC_SHA256 = 1,
	ID_BLAKE2B_256 = 2, /* keyed BLAKE2b with a 256-bit result */
};

/* Whether this CPU has AES and carry-less multiplication instructions. */
bool crypto_has_aes(void);

/* The id algorithm that runs faster on this machine, measured for some milliseconds. */
enum id_algorithm crypto_faster_id_algorithm(void);

/* HKDF-SHA-256 (RFC 5869): `out_len` bytes from `key` (32 bytes), a salt and a label. */
int crypto_derive(void *out, size_t out_len, const uint8_t key[CRYPTO_KEY_LEN], const void *salt,
    size_t salt_len, const char *label);

/* A keyed hash of 256 bits, for ids and MACs. */
struct mac;
int mac_new(struct mac **out, enum id_algorithm alg, const uint8_t key[CRYPTO_KEY_LEN]);
int mac_compute(struct mac *m, const void *data, size_t len, uint8_t out[CRYPTO_DIGEST_LEN]);
void mac_free(struct mac *m);

/* AES-256-GCM with one key.  Seal and open may be in place (out == in). */
struct aead;
int aead_new(struct aead **out);
/* Set the key for the calls that follow.  A new context has none. */
int aead_set_key(struct aead *a, const uint8_t key[CRYPTO_KEY_LEN]);
/* Encrypt `len` bytes to `out` and append the tag: len + CRYPTO_TAG_LEN bytes are written. */
int aead_seal(struct aead *a, const uint8_t nonce[CRYPTO_NONCE_LEN], const void *aad,
    size_t aad_len, const void *in, size_t len, void *out);
/*
 * Decrypt `len` bytes, the last CRYPTO_TAG_LEN of them the tag.  ERR_DAMAGED if it does not
 * verify; `out` is then wiped.
 */
int aead_open(struct aead *a, const uint8_t nonce[CRYPTO_NONCE_LEN], const void *aad,
    size_t aad_len, const void *in, size_t len, void *out);
void aead_free(struct aead *a);

/* Plain SHA-256 as a stream, for manifests and key-less checksums. */
struct sha256;
int sha256_new(struct sha256 **out);
void sha256_update(struct sha256 *s, const void *data, size_t len);
/* The digest of everything since new or the last final; the stream starts anew. */
void sha256_final(struct sha256 *s, uint8_t out[CRYPTO_DIGEST_LEN]);
void sha256_free(struct sha256 *s);

#endif
