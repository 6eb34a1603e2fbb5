/* Sealed objects: content comes back whole, under its own kind, name, repository and keys only. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/sealed.h"
#include "store/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NAME "sources/0011223344556677/00000001"

static uint8_t repo_id[REPO_ID_LEN], master[CRYPTO_KEY_LEN];
static struct domain_keys *keys;

static void
seal(struct bytes *out, const void *plain, size_t len)
{
	bytes_init(out);
	assert_int_equal(sealed_encode(out, SEALED_SOURCE, NAME, repo_id, keys, plain, len), 0);
}

static int
unseal(const struct bytes *b, enum sealed_kind kind, const char *name, const uint8_t *repo,
    const struct domain_keys *k)
{
	void *plain = NULL;
	size_t len;
	int rc = sealed_decode(&plain, &len, kind, name, repo, k, b->data, b->len);

	if (rc)
		assert_null(plain);
	free(plain);
	return rc;
}

static void
round_trip(const void *plain, size_t len, int want_encoding)
{
	uint8_t domain[DOMAIN_ID_LEN];
	struct bytes b;
	void *got;
	size_t got_len;

	seal(&b, plain, len);
	assert_int_equal(b.data[84], want_encoding);
	assert_int_equal(le32_load(b.data + 80), len);
	assert_int_equal(sealed_domain(b.data, b.len, domain), 0);
	assert_memory_equal(domain, keys->id, DOMAIN_ID_LEN);
	assert_int_equal(
	    sealed_decode(&got, &got_len, SEALED_SOURCE, NAME, repo_id, keys, b.data, b.len), 0);
	assert_int_equal(got_len, len);
	if (len > 0)
		assert_memory_equal(got, plain, len);
	free(got);
	bytes_release(&b);
}

static void
test_round_trip(void **state)
{
	size_t big = 5 << 20;
	uint8_t *buf = malloc(big);

	(void)state;
	assert_non_null(buf);
	round_trip("", 0, 0);
	round_trip("x", 1, 0);
	memset(buf, 'a', 1000);
	round_trip(buf, 1000, 1);
	random_bytes(buf, big);
	round_trip(buf, big, 0);
	/* Longer than any chunk: an index object of many packs is. */
	for (size_t i = 0; i < big; i++)
		buf[i] = (uint8_t)(i / 1000);
	round_trip(buf, big, 1);
	free(buf);
}

static void
test_appends(void **state)
{
	struct bytes b;
	void *got;
	size_t got_len, first;

	(void)state;
	seal(&b, "one", 3);
	first = b.len;
	assert_int_equal(sealed_encode(&b, SEALED_LOCK, "b", repo_id, keys, "two", 3), 0);
	assert_int_equal(sealed_decode(&got, &got_len, SEALED_LOCK, "b", repo_id, keys,
			     b.data + first, b.len - first),
	    0);
	assert_memory_equal(got, "two", 3);
	free(got);
	/* Fresh salts: the same content never looks the same. */
	assert_memory_not_equal(b.data + 48, b.data + first + 48, 32);
	bytes_release(&b);
}

static void
test_layout(void **state)
{
	struct bytes b;

	(void)state;
	seal(&b, "abc", 3);
	assert_int_equal(b.len, 112 + 3 + 16);
	assert_memory_equal(b.data, "PASTFSO1", 8);
	assert_int_equal(le32_load(b.data + 8), 1);
	assert_int_equal(le32_load(b.data + 12), SEALED_SOURCE);
	assert_memory_equal(b.data + 16, repo_id, REPO_ID_LEN);
	assert_memory_equal(b.data + 32, keys->id, DOMAIN_ID_LEN);
	for (size_t i = 85; i < 108; i++)
		assert_int_equal(b.data[i], 0);
	bytes_release(&b);
}

static void
test_cannot_stand_in(void **state)
{
	uint8_t other_repo[REPO_ID_LEN] = { 1 }, other_master[CRYPTO_KEY_LEN] = { 2 };
	uint8_t wrapped[DOMAIN_WRAP_LEN];
	struct domain_keys *other_domain, *other_keys;
	struct bytes b;

	(void)state;
	assert_int_equal(domain_create(&other_domain, wrapped, repo_id, master), 0);
	assert_int_equal(domain_of_repository(&other_keys, repo_id, other_master), 0);
	seal(&b, "content", 7);
	assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, keys), 0);
	assert_int_equal(unseal(&b, SEALED_LOCK, NAME, repo_id, keys), ERR_DAMAGED);
	assert_int_equal(
	    unseal(&b, SEALED_SOURCE, "sources/0011223344556677/00000002", repo_id, keys),
	    ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "00000002"));
	assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, other_repo, keys), ERR_DAMAGED);
	assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, other_domain), ERR_DAMAGED);
	assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, other_keys), ERR_DAMAGED);
	bytes_release(&b);
	domain_keys_free(other_domain);
	domain_keys_free(other_keys);
}

static void
test_truncation_and_bits(void **state)
{
	uint8_t plain[200];
	struct bytes b;
	size_t whole;
	int rc;

	(void)state;
	memset(plain, 'z', sizeof(plain));
	seal(&b, plain, sizeof(plain));
	whole = b.len;
	for (b.len = 0; b.len < whole; b.len++) {
		assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, keys), ERR_DAMAGED);
	}
	for (size_t bit = 0; bit < 8 * whole; bit++) {
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = unseal(&b, SEALED_SOURCE, NAME, repo_id, keys);
		assert_true(rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED);
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, keys), 0);
	/* With the header's checksum made right, the tag still covers all of it. */
	for (size_t off = 12; off < 108; off++) {
		b.data[off] ^= 1;
		le32_store(b.data + 108, crc32c(0, b.data, 108));
		assert_int_equal(unseal(&b, SEALED_SOURCE, NAME, repo_id, keys), ERR_DAMAGED);
		b.data[off] ^= 1;
	}
	bytes_release(&b);
}

static void
test_bounds(void **state)
{
	uint8_t domain[DOMAIN_ID_LEN];
	struct bytes b;
	char name[500];

	(void)state;
	seal(&b, "abc", 3);
	le32_store(b.data + 80, SEALED_MAX_PLAIN + 1);
	le32_store(b.data + 108, crc32c(0, b.data, 108));
	assert_int_equal(sealed_domain(b.data, b.len, domain), ERR_DAMAGED);
	le32_store(b.data + 8, 2);
	assert_int_equal(sealed_domain(b.data, b.len, domain), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "upgrade pastfs"));
	bytes_reset(&b);
	assert_int_equal(
	    sealed_encode(&b, SEALED_LOCK, NAME, repo_id, keys, name, (size_t)SEALED_MAX_PLAIN + 1),
	    ERR_USAGE);
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(sealed_encode(&b, SEALED_LOCK, name, repo_id, keys, "a", 1), ERR_USAGE);
	assert_int_equal(b.len, 0);
	bytes_release(&b);
}

static void
test_faults(void **state)
{
	uint8_t plain[1000] = { 0 };
	struct bytes b;
	void *got;
	size_t got_len;
	bool happened;
	uint64_t n;
	int rc;

	(void)state;
	for (n = 1; n < 1000; n++) {
		got = NULL;
		bytes_init(&b);
		sys_fault_arm(n, ENOMEM);
		rc = sealed_encode(&b, SEALED_INDEX, NAME, repo_id, keys, plain, sizeof(plain));
		if (rc)
			assert_int_equal(b.len, 0);
		else
			rc = sealed_decode(
			    &got, &got_len, SEALED_INDEX, NAME, repo_id, keys, b.data, b.len);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc == 0)
			assert_memory_equal(got, plain, sizeof(plain));
		else
			assert_null(got);
		free(got);
		bytes_release(&b);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
	}
	assert_true(n > 1 && n < 1000);
	assert_int_equal(rc, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_appends),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_cannot_stand_in),
		cmocka_unit_test(test_truncation_and_bits),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_faults),
	};
	int rc;

	if (secret_init())
		return 1;
	random_bytes(master, sizeof(master));
	random_bytes(repo_id, sizeof(repo_id));
	if (domain_of_repository(&keys, repo_id, master))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	domain_keys_free(keys);
	return rc;
}
