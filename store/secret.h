/*
 * secret: key material in locked memory, random bytes, and the passphrase function.
 *
 * The door to libsodium.  A secret's pages are locked, guarded, kept out of core dumps and wiped
 * when freed.  Call secret_init() once at start; it fails only if the system gives no randomness.
 */
#ifndef STORE_SECRET_H
#define STORE_SECRET_H

#include <stddef.h>
#include <stdint.h>

#define SECRET_KEY_LEN 32

/* Errors: ERR_FAIL.  May be called again. */
int secret_init(void);

/* `len` bytes of locked, zeroed memory; NULL if memory is out (no message). */
void *secret_alloc(size_t len);
/* Wipe and free; NULL is allowed. */
void secret_free(void *p);
/* Wipe memory that is not a secret_alloc() one, such as a stack buffer. */
void secret_wipe(void *p, size_t len);
/* Compare in constant time: 0 if equal. */
int secret_compare(const void *a, const void *b, size_t len);

void random_bytes(void *out, size_t len);

/*
 * Argon2id (version 1.3, one lane): a key of SECRET_KEY_LEN bytes from a passphrase.  `salt` has
 * 16 bytes; `ops` is the number of passes, `mem_bytes` the memory.  Errors: ERR_NOMEM,
 * ERR_USAGE (less than one pass or 8 KiB).
 */
#define SECRET_SALT_LEN 16
int secret_from_passphrase(uint8_t out[SECRET_KEY_LEN], const char *pass, size_t pass_len,
    const uint8_t salt[SECRET_SALT_LEN], uint32_t ops, uint64_t mem_bytes);

#endif
