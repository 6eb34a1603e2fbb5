/* Keyed hashes, key derivation, AES-256-GCM and SHA-256 against published values. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/crypto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint8_t counting[32];  /* 0, 1, 2, … */
static uint8_t pattern[1000]; /* 0, 7, 14, … */

static void
assert_hex(const void *data, size_t len, const char *expected)
{
	char text[1024];

	assert_true(2 * len < sizeof(text));
	hex_encode(text, data, len);
	assert_string_equal(text, expected);
}

/* Decode a literal; the number of bytes. */
static size_t
unhex(void *out, const char *text)
{
	size_t n = strlen(text) / 2;

	assert_int_equal(hex_decode(out, text, n), 0);
	return n;
}

/* ---- keyed hashes ---- */

/* RFC 4231, cases 1 to 4.  HMAC pads a short key with zeros, so 32 bytes can hold theirs. */
static void
hmac_gives_the_values_of_rfc4231(void **state)
{
	static const struct {
		const char *key, *data, *mac;
	} cases[] = {
		{ "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
		    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
		{ "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
		    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
		{ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		    "dddddddddddddddddddddddddddddddddddddddddddddddddd"
		    "dddddddddddddddddddddddddddddddddddddddddddddddddd",
		    "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
		{ "0102030405060708090a0b0c0d0e0f10111213141516171819",
		    "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
		    "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
		    "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t key[CRYPTO_KEY_LEN] = { 0 }, data[64], out[CRYPTO_DIGEST_LEN];
		size_t len = unhex(data, cases[i].data);
		struct mac *m;

		unhex(key, cases[i].key);
		assert_int_equal(mac_new(&m, ID_HMAC_SHA256, key), 0);
		assert_int_equal(mac_compute(m, data, len, out), 0);
		assert_hex(out, sizeof(out), cases[i].mac);
		mac_free(m);
	}
}

/* Values by Python's hashlib and hmac.  One context for all, twice, shows that it starts anew. */
static void
contexts_start_anew(void **state)
{
	static const struct {
		enum id_algorithm alg;
		size_t len;
		const char *mac;
	} cases[] = {
		{ ID_HMAC_SHA256, 0,
		    "d38b42096d80f45f826b44a9d5607de72496a415d3f4a1a8c88e3bb9da8dc1cb" },
		{ ID_HMAC_SHA256, 1000,
		    "e2ffe6023ed3c7f11788b879a9539671806f1ae69c3387a39f551b7baac174f1" },
		{ ID_BLAKE2B_256, 0,
		    "4e51e7a913fc80137da52880fecca175bf81e117d5c68126dc2774033517ea0d" },
		{ ID_BLAKE2B_256, 1000,
		    "800f2984c8300e6a2157b11405c5cd6f52a4090513f014956bf265935b542faa" },
	};
	struct mac *macs[3] = { NULL };

	(void)state;
	for (int alg = ID_HMAC_SHA256; alg <= ID_BLAKE2B_256; alg++)
		assert_int_equal(mac_new(&macs[alg], (enum id_algorithm)alg, counting), 0);
	for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
		size_t k = i % (sizeof(cases) / sizeof(cases[0]));
		uint8_t out[CRYPTO_DIGEST_LEN];

		assert_int_equal(mac_compute(macs[cases[k].alg], pattern, cases[k].len, out), 0);
		assert_hex(out, sizeof(out), cases[k].mac);
	}
	mac_free(macs[ID_HMAC_SHA256]);
	mac_free(macs[ID_BLAKE2B_256]);
	mac_free(NULL);
}

static void
unknown_hash_is_refused(void **state)
{
	struct mac *m;

	(void)state;
	assert_int_equal(mac_new(&m, (enum id_algorithm)3, counting), ERR_UNSUPPORTED);
	assert_null(m);
}

static void
a_faster_hash_is_named(void **state)
{
	enum id_algorithm alg = crypto_faster_id_algorithm();

	(void)state;
	assert_true(alg == ID_HMAC_SHA256 || alg == ID_BLAKE2B_256);
}

/* ---- key derivation ---- */

/* By an HKDF written from RFC 5869 over Python's hmac. */
static void
derives_as_rfc5869_says(void **state)
{
	uint8_t out[80];

	(void)state;
	assert_int_equal(crypto_derive(out, 32, counting, NULL, 0, "label"), 0);
	assert_hex(out, 32, "479dd84d163df1782566e1803faf199e24d3af4dcc119c299dc0190b1c46198f");
	assert_int_equal(crypto_derive(out, 80, counting, "salt", 4, "label"), 0);
	assert_hex(out, 80,
	    "826784cd94275b7ff8cd433521c1a2bc3e4267987ece804daf6c7989d4ae3eaa47b67ecd84cca6674fb78f"
	    "724c4e214bd56712e130a82f2e6a87b43b20679eecc9c540bd0ff711612e11235a0893112f");
}

static void
every_input_of_a_derivation_counts(void **state)
{
	uint8_t a[32], b[32], key[CRYPTO_KEY_LEN];

	(void)state;
	memcpy(key, counting, sizeof(key));
	key[31] ^= 1;
	assert_int_equal(crypto_derive(a, 32, counting, "salt", 4, "label"), 0);
	assert_int_equal(crypto_derive(b, 32, key, "salt", 4, "label"), 0);
	assert_memory_not_equal(a, b, 32);
	assert_int_equal(crypto_derive(b, 32, counting, "sal", 3, "label"), 0);
	assert_memory_not_equal(a, b, 32);
	assert_int_equal(crypto_derive(b, 32, counting, "salt", 4, "labe"), 0);
	assert_memory_not_equal(a, b, 32);
	assert_int_equal(crypto_derive(b, 32, counting, "salt", 4, "label"), 0);
	assert_memory_equal(a, b, 32);
}

/* ---- authenticated encryption ---- */

struct gcm_case {
	const char *key, *nonce, *aad, *plain, *sealed;
};

/* Cases 13, 14 and 16 of the specification that McGrew and Viega submitted to NIST. */
static const struct gcm_case gcm_cases[] = {
	{ "0000000000000000000000000000000000000000000000000000000000000000",
	    "000000000000000000000000", "", "", "530f8afbc74536b9a963b4f1c4cb738b" },
	{ "0000000000000000000000000000000000000000000000000000000000000000",
	    "000000000000000000000000", "", "00000000000000000000000000000000",
	    "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919" },
	{ "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
	    "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
	    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e"
	    "24"
	    "49a6b525b16aedf5aa0de657ba637b39",
	    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b"
	    "10"
	    "56828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b" },
};

static void
seals_as_published(void **state)
{
	struct aead *a;

	(void)state;
	assert_int_equal(aead_new(&a), 0);
	/* One context through all keys and both directions. */
	for (size_t i = 0; i < sizeof(gcm_cases) / sizeof(gcm_cases[0]); i++) {
		const struct gcm_case *c = &gcm_cases[i];
		uint8_t key[32], nonce[12], aad[32], plain[64], sealed[80];
		size_t aad_len, len;

		unhex(key, c->key);
		unhex(nonce, c->nonce);
		aad_len = unhex(aad, c->aad);
		len = unhex(plain, c->plain);
		assert_int_equal(aead_set_key(a, key), 0);
		for (int twice = 0; twice < 2; twice++) {
			assert_int_equal(aead_seal(a, nonce, aad, aad_len, plain, len, sealed), 0);
			assert_hex(sealed, len + CRYPTO_TAG_LEN, c->sealed);
			assert_int_equal(
			    aead_open(a, nonce, aad, aad_len, sealed, len + CRYPTO_TAG_LEN, plain),
			    0);
			assert_hex(plain, len, c->plain);
		}
	}
	aead_free(a);
	aead_free(NULL);
}

static void
works_in_place(void **state)
{
	const uint8_t nonce[CRYPTO_NONCE_LEN] = { 1 };
	uint8_t buf[1000 + CRYPTO_TAG_LEN];
	struct aead *a;

	(void)state;
	assert_int_equal(aead_new(&a), 0);
	assert_int_equal(aead_set_key(a, counting), 0);
	for (size_t len = 0; len <= 1000; len += len < 40 ? 1 : 37) {
		memcpy(buf, pattern, len);
		assert_int_equal(aead_seal(a, nonce, "a", 1, buf, len, buf), 0);
		assert_int_equal(aead_open(a, nonce, "a", 1, buf, len + CRYPTO_TAG_LEN, buf), 0);
		assert_memory_equal(buf, pattern, len);
	}
	aead_free(a);
}

/* Whatever changes, nothing comes out, and the context still works afterwards. */
static void
refuses_every_change(void **state)
{
	uint8_t nonce[CRYPTO_NONCE_LEN] = { 1 }, aad[3] = "aad", key[CRYPTO_KEY_LEN];
	uint8_t sealed[100 + CRYPTO_TAG_LEN], out[100];
	const uint8_t zeros[100] = { 0 };
	struct aead *a;

	(void)state;
	memcpy(key, counting, sizeof(key));
	assert_int_equal(aead_new(&a), 0);
	assert_int_equal(aead_set_key(a, key), 0);
	assert_int_equal(aead_seal(a, nonce, aad, 3, pattern, 100, sealed), 0);
	for (size_t i = 0; i < sizeof(sealed); i++) {
		sealed[i] ^= 0x40;
		memset(out, 0xff, sizeof(out));
		assert_int_equal(
		    aead_open(a, nonce, aad, 3, sealed, sizeof(sealed), out), ERR_DAMAGED);
		assert_memory_equal(out, zeros, sizeof(out));
		sealed[i] ^= 0x40;
	}
	for (size_t len = 0; len < sizeof(sealed); len++)
		assert_int_equal(aead_open(a, nonce, aad, 3, sealed, len, out), ERR_DAMAGED);
	assert_int_equal(aead_open(a, nonce, aad, 2, sealed, sizeof(sealed), out), ERR_DAMAGED);
	nonce[11] ^= 1;
	assert_int_equal(aead_open(a, nonce, aad, 3, sealed, sizeof(sealed), out), ERR_DAMAGED);
	nonce[11] ^= 1;
	key[0] ^= 1;
	assert_int_equal(aead_set_key(a, key), 0);
	assert_int_equal(aead_open(a, nonce, aad, 3, sealed, sizeof(sealed), out), ERR_DAMAGED);
	key[0] ^= 1;
	assert_int_equal(aead_set_key(a, key), 0);
	assert_int_equal(aead_open(a, nonce, aad, 3, sealed, sizeof(sealed), out), 0);
	assert_memory_equal(out, pattern, sizeof(out));
	aead_free(a);
}

/* ---- SHA-256 ---- */

static void
sha256_streams(void **state)
{
	uint8_t out[CRYPTO_DIGEST_LEN];
	struct sha256 *s;

	(void)state;
	assert_int_equal(sha256_new(&s), 0);
	sha256_final(s, out);
	assert_hex(out, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	for (int i = 0; i < 2; i++) {
		sha256_update(s, "a", 1);
		sha256_update(s, "", 0);
		sha256_update(s, "bc", 2);
		sha256_final(s, out);
		assert_hex(
		    out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	}
	sha256_free(s);
	sha256_free(NULL);
}

/* ---- memory ---- */

/* Everything that allocates, once; *made is what a success leaves, NULL otherwise. */
static int
make_one(int which, void **made)
{
	uint8_t out[32];

	switch (which) {
	case 0:
		return mac_new((struct mac **)made, ID_HMAC_SHA256, counting);
	case 1:
		return mac_new((struct mac **)made, ID_BLAKE2B_256, counting);
	case 2:
		return aead_new((struct aead **)made);
	case 3:
		return sha256_new((struct sha256 **)made);
	default:
		return crypto_derive(out, sizeof(out), counting, NULL, 0, "x");
	}
}

static void
unmake_one(int which, void *made)
{
	if (which < 2)
		mac_free(made);
	else if (which == 2)
		aead_free(made);
	else if (which == 3)
		sha256_free(made);
}

static void
memory_can_run_out(void **state)
{
	(void)state;
	for (int which = 0; which < 5; which++) {
		bool faulted = true;

		for (uint64_t n = 1; faulted; n++) {
			void *made = NULL;
			int rc;

			assert_true(n < 10);
			sys_fault_arm(n, ENOMEM);
			rc = make_one(which, &made);
			faulted = sys_fault_happened();
			sys_fault_arm(0, 0);
			assert_int_equal(rc, faulted ? ERR_NOMEM : 0);
			if (faulted)
				assert_null(made);
			unmake_one(which, made);
			assert_true(faulted || n > 1);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hmac_gives_the_values_of_rfc4231),
		cmocka_unit_test(contexts_start_anew),
		cmocka_unit_test(unknown_hash_is_refused),
		cmocka_unit_test(a_faster_hash_is_named),
		cmocka_unit_test(derives_as_rfc5869_says),
		cmocka_unit_test(every_input_of_a_derivation_counts),
		cmocka_unit_test(seals_as_published),
		cmocka_unit_test(works_in_place),
		cmocka_unit_test(refuses_every_change),
		cmocka_unit_test(sha256_streams),
		cmocka_unit_test(memory_can_run_out),
	};

	for (size_t i = 0; i < sizeof(counting); i++)
		counting[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
