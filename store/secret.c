#include "store/secret.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <sodium.h>
#include <string.h>

_Static_assert(SECRET_SALT_LEN == crypto_pwhash_argon2id_SALTBYTES, "salt length");

int
secret_init(void)
{
	if (sodium_init() == -1)
		return err_set(ERR_FAIL, "the system gives no random numbers (getrandom failed)");
	return 0;
}

void *
secret_alloc(size_t len)
{
	void *p;

	if (sys_fault_point())
		return NULL;
	/*
	 * The pages are locked as far as the limit on locked memory allows; a limit that is too low
	 * is not an error, because no backup is worse than a page that may be swapped.
	 */
	p = sodium_malloc(len ? len : 1);
	if (p)
		memset(p, 0, len);
	return p;
}

void
secret_free(void *p)
{
	sodium_free(p);
}

void
secret_wipe(void *p, size_t len)
{
	sodium_memzero(p, len);
}

int
secret_compare(const void *a, const void *b, size_t len)
{
	return sodium_memcmp(a, b, len);
}

void
random_bytes(void *out, size_t len)
{
	randombytes_buf(out, len);
}

int
secret_from_passphrase(uint8_t out[SECRET_KEY_LEN], const char *pass, size_t pass_len,
    const uint8_t salt[SECRET_SALT_LEN], uint32_t ops, uint64_t mem_bytes)
{
	if (ops < crypto_pwhash_argon2id_OPSLIMIT_MIN ||
	    mem_bytes < crypto_pwhash_argon2id_MEMLIMIT_MIN ||
	    mem_bytes > crypto_pwhash_argon2id_MEMLIMIT_MAX)
		return err_set(ERR_USAGE,
		    "Argon2id cannot run with %u passes over %llu bytes: give at least 1 and 8192",
		    ops, (unsigned long long)mem_bytes);
	if (sys_fault_point() || crypto_pwhash(out, SECRET_KEY_LEN, pass, pass_len, salt, ops,
				     (size_t)mem_bytes, crypto_pwhash_ALG_ARGON2ID13)) {
		secret_wipe(out, SECRET_KEY_LEN);
		return err_set(ERR_NOMEM,
		    "out of memory: the passphrase function of this key slot needs %llu MiB",
		    (unsigned long long)(mem_bytes >> 20));
	}
	return 0;
}
