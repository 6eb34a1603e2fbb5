#include "store/crypto.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <assert.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Fetched once for the process and never released: a fetch takes longer than a small hash. */
static struct {
	EVP_KDF *hkdf;
	EVP_MAC *hmac;
	EVP_MAC *blake2b;
	EVP_CIPHER *gcm;
	EVP_MD *sha256;
} algorithms;
static pthread_once_t algorithms_once = PTHREAD_ONCE_INIT;

static void
fetch_algorithms(void)
{
	algorithms.hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	algorithms.hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	algorithms.blake2b = EVP_MAC_fetch(NULL, "BLAKE2BMAC", NULL);
	algorithms.gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	algorithms.sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

/* Record what OpenSSL says about the call that failed. */
static int
openssl_error(const char *what)
{
	char reason[256] = "no reason given";
	unsigned long code = ERR_get_error();

	if (code)
		ERR_error_string_n(code, reason, sizeof(reason));
	ERR_clear_error();
	return err_set(ERR_FAIL, "cannot %s: OpenSSL: %s", what, reason);
}

/* 0 if `algorithm` was fetched. */
static int
need(const void *algorithm, const char *name)
{
	if (algorithm)
		return 0;
	return err_set(ERR_FAIL,
	    "this OpenSSL offers no %s: check the providers enabled in openssl.cnf", name);
}

bool
crypto_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#else
	return false;
#endif
}

/* ---- key derivation ---- */

int
crypto_derive(void *out, size_t out_len, const uint8_t key[CRYPTO_KEY_LEN], const void *salt,
    size_t salt_len, const char *label)
{
	OSSL_PARAM params[5], *p = params;
	EVP_KDF_CTX *ctx = NULL;
	int rc;

	pthread_once(&algorithms_once, fetch_algorithms);
	rc = need(algorithms.hkdf, "HKDF");
	if (rc)
		return rc;
	if (!sys_fault_point())
		ctx = EVP_KDF_CTX_new(algorithms.hkdf);
	if (!ctx)
		return err_nomem();
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char[]){ "SHA256" }, 0);
	*p++ = OSSL_PARAM_construct_octet_string(
	    OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, CRYPTO_KEY_LEN);
	if (salt_len > 0)
		*p++ = OSSL_PARAM_construct_octet_string(
		    OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt, salt_len);
	*p++ = OSSL_PARAM_construct_octet_string(
	    OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)label, strlen(label));
	*p = OSSL_PARAM_construct_end();
	if (EVP_KDF_derive(ctx, out, out_len, params) != 1) {
		OPENSSL_cleanse(out, out_len);
		rc = openssl_error("derive a key");
	}
	EVP_KDF_CTX_free(ctx);
	return rc;
}

/* ---- keyed hashes ---- */

struct mac {
	EVP_MAC_CTX *ctx;
};

static int
mac_setup(struct mac *m, enum id_algorithm alg, const uint8_t key[CRYPTO_KEY_LEN])
{
	OSSL_PARAM params[2];
	EVP_MAC *mac = alg == ID_HMAC_SHA256 ? algorithms.hmac : algorithms.blake2b;
	/* Named, because a literal in the branch below would end with it, before it is used. */
	char digest[] = "SHA256";
	size_t size = CRYPTO_DIGEST_LEN;
	int rc = need(mac, alg == ID_HMAC_SHA256 ? "HMAC" : "BLAKE2BMAC");

	if (rc)
		return rc;
	if (!sys_fault_point())
		m->ctx = EVP_MAC_CTX_new(mac);
	if (!m->ctx)
		return err_nomem();
	if (alg == ID_HMAC_SHA256)
		params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	else
		params[0] = OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size);
	params[1] = OSSL_PARAM_construct_end();
	if (EVP_MAC_init(m->ctx, key, CRYPTO_KEY_LEN, params) != 1)
		return openssl_error("set the key of a keyed hash");
	return 0;
}

int
mac_new(struct mac **out, enum id_algorithm alg, const uint8_t key[CRYPTO_KEY_LEN])
{
	struct mac *m;
	int rc;

	*out = NULL;
	if (alg != ID_HMAC_SHA256 && alg != ID_BLAKE2B_256)
		return err_set(ERR_UNSUPPORTED, "unknown keyed hash %d", (int)alg);
	pthread_once(&algorithms_once, fetch_algorithms);
	m = mem_alloc(sizeof(*m));
	if (!m)
		return err_nomem();
	rc = mac_setup(m, alg, key);
	if (rc) {
		mac_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

int
mac_compute(struct mac *m, const void *data, size_t len, uint8_t out[CRYPTO_DIGEST_LEN])
{
	size_t got = 0;

	/* Without a key the context starts anew with the one it has, already expanded. */
	if (EVP_MAC_init(m->ctx, NULL, 0, NULL) != 1 || EVP_MAC_update(m->ctx, data, len) != 1 ||
	    EVP_MAC_final(m->ctx, out, &got, CRYPTO_DIGEST_LEN) != 1 || got != CRYPTO_DIGEST_LEN)
		return openssl_error("compute a keyed hash");
	return 0;
}

void
mac_free(struct mac *m)
{
	if (!m)
		return;
	EVP_MAC_CTX_free(m->ctx);
	free(m);
}

/* Seconds the fastest of a few rounds over 64 KiB takes, or a very long time if it fails. */
static double
mac_seconds(enum id_algorithm alg)
{
	static const uint8_t key[CRYPTO_KEY_LEN];
	static const uint8_t data[64 << 10];
	uint8_t digest[CRYPTO_DIGEST_LEN];
	struct timespec from, to;
	struct mac *m;
	double best = 1e9;

	(void)mac_new(&m, alg, key);
	if (!m)
		return best;
	for (int i = 0; i < 30; i++) {
		double s;

		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
		if (mac_compute(m, data, sizeof(data), digest))
			break;
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
		s = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
		if (s < best)
			best = s;
	}
	mac_free(m);
	return best;
}

enum id_algorithm
crypto_faster_id_algorithm(void)
{
	return mac_seconds(ID_BLAKE2B_256) < mac_seconds(ID_HMAC_SHA256) ? ID_BLAKE2B_256
									 : ID_HMAC_SHA256;
}

/* ---- authenticated encryption ---- */

struct aead {
	EVP_CIPHER_CTX *ctx; /* for both directions: GCM only ever runs the cipher forwards */
	bool keyed;
};

int
aead_new(struct aead **out)
{
	struct aead *a;
	int rc;

	*out = NULL;
	pthread_once(&algorithms_once, fetch_algorithms);
	rc = need(algorithms.gcm, "AES-256-GCM");
	if (rc)
		return rc;
	a = mem_alloc(sizeof(*a));
	if (!a)
		return err_nomem();
	if (!sys_fault_point())
		a->ctx = EVP_CIPHER_CTX_new();
	if (!a->ctx) {
		free(a);
		return err_nomem();
	}
	if (EVP_CipherInit_ex2(a->ctx, algorithms.gcm, NULL, NULL, 1, NULL) != 1) {
		aead_free(a);
		return openssl_error("prepare AES-256-GCM");
	}
	*out = a;
	return 0;
}

int
aead_set_key(struct aead *a, const uint8_t key[CRYPTO_KEY_LEN])
{
	a->keyed = false;
	if (sys_fault_point())
		return err_nomem();
	a->keyed = EVP_CipherInit_ex2(a->ctx, NULL, key, NULL, 1, NULL) == 1;
	return a->keyed ? 0 : openssl_error("set a key of AES-256-GCM");
}

/* Start a message in one direction and authenticate `aad`. */
static int
aead_begin(struct aead *a, int encrypt, const uint8_t *nonce, const void *aad, size_t aad_len)
{
	int n;

	assert(a->keyed);
	if (EVP_CipherInit_ex2(a->ctx, NULL, NULL, nonce, encrypt, NULL) != 1)
		return -1;
	if (aad_len > 0 && EVP_CipherUpdate(a->ctx, NULL, &n, aad, (int)aad_len) != 1)
		return -1;
	return 0;
}

static int
check_lengths(size_t aad_len, size_t len)
{
	if (len > INT_MAX - CRYPTO_TAG_LEN || aad_len > INT_MAX)
		return err_set(ERR_USAGE, "%zu bytes are too many to encrypt in one piece", len);
	return 0;
}

int
aead_seal(struct aead *a, const uint8_t nonce[CRYPTO_NONCE_LEN], const void *aad, size_t aad_len,
    const void *in, size_t len, void *out)
{
	uint8_t *to = out;
	int n = 0, rc;

	rc = check_lengths(aad_len, len);
	if (rc)
		return rc;
	if (aead_begin(a, 1, nonce, aad, aad_len) ||
	    (len > 0 && EVP_CipherUpdate(a->ctx, to, &n, in, (int)len) != 1) ||
	    EVP_CipherFinal_ex(a->ctx, to + n, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_GET_TAG, CRYPTO_TAG_LEN, to + len) != 1)
		return openssl_error("encrypt");
	return 0;
}

int
aead_open(struct aead *a, const uint8_t nonce[CRYPTO_NONCE_LEN], const void *aad, size_t aad_len,
    const void *in, size_t len, void *out)
{
	uint8_t tag[CRYPTO_TAG_LEN];
	uint8_t *to = out;
	size_t plain;
	int n = 0, rc;

	if (len < CRYPTO_TAG_LEN)
		return err_set(
		    ERR_DAMAGED, "sealed data of %zu bytes has no room for its tag", len);
	rc = check_lengths(aad_len, len);
	if (rc)
		return rc;
	plain = len - CRYPTO_TAG_LEN;
	memcpy(tag, (const uint8_t *)in + plain, sizeof(tag));
	if (aead_begin(a, 0, nonce, aad, aad_len) ||
	    (plain > 0 && EVP_CipherUpdate(a->ctx, to, &n, in, (int)plain) != 1) ||
	    EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_SET_TAG, CRYPTO_TAG_LEN, tag) != 1) {
		OPENSSL_cleanse(out, plain);
		return openssl_error("decrypt");
	}
	if (EVP_CipherFinal_ex(a->ctx, to + n, &n) != 1) {
		/* Nobody may look at what an attacker could have chosen. */
		OPENSSL_cleanse(out, plain);
		ERR_clear_error();
		return err_set(ERR_DAMAGED,
		    "sealed data does not authenticate: it was changed, or is another's");
	}
	return 0;
}

void
aead_free(struct aead *a)
{
	if (!a)
		return;
	EVP_CIPHER_CTX_free(a->ctx);
	free(a);
}

/* ---- SHA-256 ---- */

struct sha256 {
	EVP_MD_CTX *ctx;
};

/*
 * Hashing memory with a context that exists cannot fail, but a wrong checksum in a manifest must
 * never pass for a right one: so a failure ends the process.
 */
static void
must(int result)
{
	if (result != 1)
		abort();
}

int
sha256_new(struct sha256 **out)
{
	struct sha256 *s;
	int rc;

	*out = NULL;
	pthread_once(&algorithms_once, fetch_algorithms);
	rc = need(algorithms.sha256, "SHA-256");
	if (rc)
		return rc;
	s = mem_alloc(sizeof(*s));
	if (!s)
		return err_nomem();
	if (!sys_fault_point())
		s->ctx = EVP_MD_CTX_new();
	if (!s->ctx) {
		free(s);
		return err_nomem();
	}
	if (EVP_DigestInit_ex2(s->ctx, algorithms.sha256, NULL) != 1) {
		sha256_free(s);
		return openssl_error("prepare SHA-256");
	}
	*out = s;
	return 0;
}

void
sha256_update(struct sha256 *s, const void *data, size_t len)
{
	must(EVP_DigestUpdate(s->ctx, data, len));
}

void
sha256_final(struct sha256 *s, uint8_t out[CRYPTO_DIGEST_LEN])
{
	must(EVP_DigestFinal_ex(s->ctx, out, NULL));
	must(EVP_DigestInit_ex2(s->ctx, NULL, NULL));
}

void
sha256_free(struct sha256 *s)
{
	if (!s)
		return;
	EVP_MD_CTX_free(s->ctx);
	free(s);
}
