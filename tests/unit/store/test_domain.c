/* Key domains: what is wrapped opens to the same keys, and to nobody else. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/domain.h"
#include "store/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static uint8_t repo_id[REPO_ID_LEN], master[CRYPTO_KEY_LEN];

static void
fix_crc(uint8_t *p)
{
	le32_store(p + 140, crc32c(0, p, 140));
}

static void
test_round_trip(void **state)
{
	uint8_t wrapped[DOMAIN_WRAP_LEN];
	struct domain_keys *made, *opened;

	(void)state;
	assert_int_equal(domain_create(&made, wrapped, repo_id, master), 0);
	assert_int_equal(domain_open(&opened, wrapped, sizeof(wrapped), repo_id, master), 0);
	assert_memory_equal(made, opened, sizeof(*made));
	assert_memory_equal(wrapped, "PASTFSD1", 8);
	assert_int_equal(le32_load(wrapped + 8), 1);
	assert_memory_equal(wrapped + 16, repo_id, REPO_ID_LEN);
	assert_memory_equal(wrapped + 32, made->id, DOMAIN_ID_LEN);
	domain_keys_free(made);
	domain_keys_free(opened);
}

/* Every working key of every domain differs from every other. */
static void
test_keys_are_distinct(void **state)
{
	uint8_t wrapped[DOMAIN_WRAP_LEN];
	struct domain_keys *d[3];
	const uint8_t *keys[15];
	size_t n = 0;

	(void)state;
	assert_int_equal(domain_create(&d[0], wrapped, repo_id, master), 0);
	assert_int_equal(domain_create(&d[1], wrapped, repo_id, master), 0);
	assert_int_equal(domain_of_repository(&d[2], repo_id, master), 0);
	for (size_t i = 0; i < 3; i++) {
		keys[n++] = d[i]->chunk_id;
		keys[n++] = d[i]->fingerprint;
		keys[n++] = d[i]->gear;
		keys[n++] = d[i]->pack;
		keys[n++] = d[i]->object;
	}
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < i; j++)
			assert_memory_not_equal(keys[i], keys[j], CRYPTO_KEY_LEN);
	assert_memory_not_equal(d[0]->id, d[1]->id, DOMAIN_ID_LEN);
	for (size_t i = 0; i < 3; i++)
		domain_keys_free(d[i]);
}

static void
test_repository_domain(void **state)
{
	static const uint8_t zeros[DOMAIN_ID_LEN];
	uint8_t other[CRYPTO_KEY_LEN] = { 1 };
	struct domain_keys *a, *b, *c;

	(void)state;
	assert_int_equal(domain_of_repository(&a, repo_id, master), 0);
	assert_int_equal(domain_of_repository(&b, repo_id, master), 0);
	assert_int_equal(domain_of_repository(&c, repo_id, other), 0);
	assert_memory_equal(a->id, zeros, DOMAIN_ID_LEN);
	assert_memory_equal(a, b, sizeof(*a));
	assert_memory_not_equal(a->object, c->object, CRYPTO_KEY_LEN);
	domain_keys_free(a);
	domain_keys_free(b);
	domain_keys_free(c);
}

static void
test_refusals(void **state)
{
	uint8_t wrapped[DOMAIN_WRAP_LEN], other[CRYPTO_KEY_LEN] = { 1 };
	struct domain_keys *made, *opened;

	(void)state;
	assert_int_equal(domain_create(&made, wrapped, repo_id, master), 0);
	domain_keys_free(made);
	assert_int_equal(
	    domain_open(&opened, wrapped, sizeof(wrapped), repo_id, other), ERR_DAMAGED);
	assert_null(opened);
	assert_int_equal(
	    domain_open(&opened, wrapped, sizeof(wrapped), other, master), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "another repository"));
	le32_store(wrapped + 8, 2);
	assert_int_equal(
	    domain_open(&opened, wrapped, sizeof(wrapped), repo_id, master), ERR_UNSUPPORTED);
	assert_int_equal(
	    domain_open(&opened, "PASTFSK1........", 16, repo_id, master), ERR_DAMAGED);
}

static void
test_truncation_and_bits(void **state)
{
	uint8_t wrapped[DOMAIN_WRAP_LEN];
	struct domain_keys *made, *opened;
	int rc;

	(void)state;
	assert_int_equal(domain_create(&made, wrapped, repo_id, master), 0);
	domain_keys_free(made);
	for (size_t n = 0; n < sizeof(wrapped); n++)
		assert_int_equal(domain_open(&opened, wrapped, n, repo_id, master), ERR_DAMAGED);
	for (size_t bit = 0; bit < 8 * sizeof(wrapped); bit++) {
		wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = domain_open(&opened, wrapped, sizeof(wrapped), repo_id, master);
		assert_true(rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED);
		wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	/* With the checksum made right: what is authenticated cannot be changed. */
	for (size_t off = 16; off < 116; off++) {
		wrapped[off] ^= 1;
		fix_crc(wrapped);
		assert_int_equal(
		    domain_open(&opened, wrapped, sizeof(wrapped), repo_id, master), ERR_DAMAGED);
		wrapped[off] ^= 1;
	}
}

static void
test_faults(void **state)
{
	uint8_t wrapped[DOMAIN_WRAP_LEN];
	struct domain_keys *a, *b, *c;
	bool happened;
	uint64_t n;
	int rc;

	(void)state;
	for (n = 1; n < 1000; n++) {
		a = b = c = NULL;
		sys_fault_arm(n, ENOMEM);
		rc = domain_create(&a, wrapped, repo_id, master);
		if (rc == 0)
			rc = domain_open(&b, wrapped, sizeof(wrapped), repo_id, master);
		if (rc == 0)
			rc = domain_of_repository(&c, repo_id, master);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc == 0)
			assert_memory_equal(a, b, sizeof(*a));
		domain_keys_free(a);
		domain_keys_free(b);
		domain_keys_free(c);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
		assert_null(c);
	}
	assert_true(n > 1 && n < 1000);
	assert_int_equal(rc, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_keys_are_distinct),
		cmocka_unit_test(test_repository_domain),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_truncation_and_bits),
		cmocka_unit_test(test_faults),
	};

	if (secret_init())
		return 1;
	random_bytes(master, sizeof(master));
	random_bytes(repo_id, sizeof(repo_id));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
