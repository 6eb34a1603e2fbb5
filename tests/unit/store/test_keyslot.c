/* Key slots: both kinds open with what they were made with, and with nothing else. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/keyslot.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static uint8_t repo_id[REPO_ID_LEN];
static uint8_t *master, *opened;
static uint8_t file_bytes[4096];

/* As cheap as the bounds allow: these tests open many slots. */
static const struct keyslot_cost cheap = { .argon_ops = 1, .argon_mem_bytes = 8 << 10 };

static const struct credential pass = { KEYSLOT_PASSPHRASE, "correct horse ", 14 };
static const struct credential file = { KEYSLOT_KEYFILE, file_bytes, sizeof(file_bytes) };

static void
make(uint8_t slot[KEYSLOT_LEN], struct keyslot_info *info, const struct credential *cred)
{
	assert_int_equal(keyslot_encode(slot, info, repo_id, "ops team", cred, &cheap, master), 0);
}

static void
fix_crc(uint8_t *p)
{
	le32_store(p + 252, crc32c(0, p, 252));
}

static int
open_with(const uint8_t *slot, enum keyslot_kind kind, const void *data, size_t len)
{
	struct credential cred = { kind, data, len };

	memset(opened, 0, SECRET_KEY_LEN);
	return keyslot_open(slot, KEYSLOT_LEN, repo_id, &cred, opened);
}

static void
test_round_trip(void **state)
{
	const struct credential *creds[] = { &pass, &file };
	struct keyslot_info made, read;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		make(slot, &made, creds[i]);
		assert_int_equal(keyslot_decode(&read, slot, sizeof(slot), repo_id), 0);
		assert_memory_equal(read.id, made.id, KEYSLOT_ID_LEN);
		assert_int_equal(read.kind, creds[i]->kind);
		assert_string_equal(read.label, "ops team");
		assert_true(read.created_us == made.created_us && read.created_us > 0);
		assert_int_equal(read.argon_ops, i == 0 ? 1 : 0);
		assert_int_equal(read.argon_mem_bytes, i == 0 ? 8 << 10 : 0);
		memset(opened, 0, SECRET_KEY_LEN);
		assert_int_equal(keyslot_open(slot, sizeof(slot), repo_id, creds[i], opened), 0);
		assert_memory_equal(opened, master, SECRET_KEY_LEN);
	}
}

static void
test_layout(void **state)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	make(slot, &info, &pass);
	assert_memory_equal(slot, "PASTFSK1", 8);
	assert_int_equal(le32_load(slot + 8), 1);
	assert_int_equal(slot[12], 1);
	assert_int_equal(slot[13], 8);
	assert_memory_equal(slot + 16, repo_id, REPO_ID_LEN);
	assert_memory_equal(slot + 32, info.id, KEYSLOT_ID_LEN);
	assert_memory_equal(slot + 48, "ops team\0", 9);
	assert_int_equal(le32_load(slot + 112), 1);
	assert_int_equal(le32_load(slot + 116), 1);
	assert_int_equal(le64_load(slot + 120), 8192);
	for (size_t i = 204; i < 252; i++)
		assert_int_equal(slot[i], 0);
}

static void
test_defaults_and_full_label(void **state)
{
	static const struct keyslot_cost usual;
	char label[KEYSLOT_LABEL_MAX + 2];
	struct keyslot_info info, read;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	memset(label, 'x', sizeof(label));
	label[KEYSLOT_LABEL_MAX + 1] = '\0';
	assert_int_equal(
	    keyslot_encode(slot, &info, repo_id, label, &pass, &usual, master), ERR_USAGE);
	label[KEYSLOT_LABEL_MAX] = '\0';
	assert_int_equal(keyslot_encode(slot, &info, repo_id, label, &pass, &usual, master), 0);
	assert_int_equal(keyslot_decode(&read, slot, sizeof(slot), repo_id), 0);
	assert_string_equal(read.label, label);
	assert_int_equal(read.argon_ops, 3);
	assert_int_equal(read.argon_mem_bytes, 64 << 20);
	assert_int_equal(keyslot_encode(slot, &info, repo_id, NULL, &file, NULL, master), 0);
	assert_int_equal(keyslot_decode(&read, slot, sizeof(slot), repo_id), 0);
	assert_string_equal(read.label, "");
}

static void
test_wrong_credential(void **state)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN], other[sizeof(file_bytes)];

	(void)state;
	make(slot, &info, &pass);
	assert_int_equal(open_with(slot, KEYSLOT_PASSPHRASE, "wrong", 5), ERR_KEY);
	assert_non_null(strstr(err_msg(), "wrong passphrase"));
	assert_non_null(strstr(err_msg(), "ops team"));
	/* Nobody trims: the blank at its end is part of it. */
	assert_int_equal(open_with(slot, KEYSLOT_PASSPHRASE, "correct horse", 13), ERR_KEY);
	assert_int_equal(open_with(slot, KEYSLOT_PASSPHRASE, "", 0), ERR_KEY);
	assert_int_equal(open_with(slot, KEYSLOT_KEYFILE, file_bytes, sizeof(file_bytes)), ERR_KEY);

	make(slot, &info, &file);
	memcpy(other, file_bytes, sizeof(other));
	other[sizeof(other) - 1] ^= 1;
	assert_int_equal(open_with(slot, KEYSLOT_KEYFILE, other, sizeof(other)), ERR_KEY);
	assert_int_equal(
	    open_with(slot, KEYSLOT_KEYFILE, file_bytes, sizeof(file_bytes) - 1), ERR_KEY);
	assert_int_equal(open_with(slot, KEYSLOT_KEYFILE, file_bytes, 3), ERR_KEY);
	assert_int_equal(open_with(slot, KEYSLOT_PASSPHRASE, file_bytes, 64), ERR_KEY);
}

static void
test_bad_input(void **state)
{
	static const struct keyslot_cost costs[] = {
		{ 65, 8192 },
		{ 1, 8191 },
		{ 1, (UINT64_C(4) << 30) + 1 },
	};
	struct credential bad[] = {
		{ KEYSLOT_PASSPHRASE, "", 0 },
		{ KEYSLOT_PASSPHRASE, file_bytes, PASSPHRASE_MAX + 1 },
		{ KEYSLOT_KEYFILE, file_bytes, KEYFILE_MIN_BYTES - 1 },
		{ KEYSLOT_KEYFILE, file_bytes, KEYFILE_MAX_BYTES + 1 },
		{ 3, file_bytes, 100 },
	};
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(
		    keyslot_encode(slot, &info, repo_id, "x", &bad[i], &cheap, master), ERR_USAGE);
	for (size_t i = 0; i < sizeof(costs) / sizeof(costs[0]); i++)
		assert_int_equal(
		    keyslot_encode(slot, &info, repo_id, "x", &pass, &costs[i], master), ERR_USAGE);
	assert_int_equal(
	    keyslot_encode(slot, &info, repo_id, "a\033[2J", &pass, &cheap, master), ERR_USAGE);
}

static void
test_truncation_and_bits(void **state)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];
	int rc;

	(void)state;
	make(slot, &info, &file);
	for (size_t n = 0; n < KEYSLOT_LEN; n++) {
		assert_int_equal(keyslot_decode(&info, slot, n, repo_id), ERR_DAMAGED);
		assert_int_equal(keyslot_open(slot, n, repo_id, &file, opened), ERR_DAMAGED);
	}
	for (size_t bit = 0; bit < 8 * sizeof(slot); bit++) {
		slot[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = keyslot_decode(&info, slot, sizeof(slot), repo_id);
		assert_true(rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED);
		slot[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Somebody who makes the checksum right again still cannot change what the key protects. */
static void
test_forged_fields(void **state)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	make(slot, &info, &file);
	for (size_t off = 12; off < 204; off++) {
		int rc;

		slot[off] ^= 1;
		fix_crc(slot);
		rc = keyslot_open(slot, sizeof(slot), repo_id, &file, opened);
		assert_true(rc == ERR_KEY || rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED);
		slot[off] ^= 1;
	}
	fix_crc(slot);
	assert_int_equal(keyslot_open(slot, sizeof(slot), repo_id, &file, opened), 0);
}

static void
test_hostile_cost(void **state)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];

	(void)state;
	make(slot, &info, &pass);
	le64_store(slot + 120, UINT64_C(1) << 60);
	fix_crc(slot);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), repo_id), ERR_DAMAGED);
	make(slot, &info, &pass);
	le32_store(slot + 112, UINT32_MAX);
	fix_crc(slot);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), repo_id), ERR_DAMAGED);
	make(slot, &info, &pass);
	le32_store(slot + 116, 4);
	fix_crc(slot);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), repo_id), ERR_UNSUPPORTED);
}

static void
test_newer_and_foreign(void **state)
{
	uint8_t slot[KEYSLOT_LEN], other[REPO_ID_LEN] = { 1 };
	struct keyslot_info info;

	(void)state;
	make(slot, &info, &pass);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), other), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "another repository"));
	slot[12] = 3;
	fix_crc(slot);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), repo_id), ERR_UNSUPPORTED);
	le32_store(slot + 8, 2);
	assert_int_equal(keyslot_decode(&info, slot, sizeof(slot), repo_id), ERR_UNSUPPORTED);
	assert_int_equal(
	    keyslot_decode(&info, "PASTFSO1....................", 28, repo_id), ERR_DAMAGED);
}

static void
faults_of(const struct credential *cred)
{
	struct keyslot_info info;
	uint8_t slot[KEYSLOT_LEN];
	bool happened;
	uint64_t n;
	int rc;

	for (n = 1; n < 1000; n++) {
		sys_fault_arm(n, ENOMEM);
		rc = keyslot_encode(slot, &info, repo_id, "x", cred, &cheap, master);
		if (rc == 0)
			rc = keyslot_open(slot, sizeof(slot), repo_id, cred, opened);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!happened)
			break;
		assert_int_equal(rc, ERR_NOMEM);
		make(slot, &info, cred);
		assert_int_equal(keyslot_open(slot, sizeof(slot), repo_id, cred, opened), 0);
	}
	assert_true(n > 1 && n < 1000);
	assert_int_equal(rc, 0);
}

static void
test_faults(void **state)
{
	(void)state;
	faults_of(&pass);
	faults_of(&file);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_defaults_and_full_label),
		cmocka_unit_test(test_wrong_credential),
		cmocka_unit_test(test_bad_input),
		cmocka_unit_test(test_truncation_and_bits),
		cmocka_unit_test(test_forged_fields),
		cmocka_unit_test(test_hostile_cost),
		cmocka_unit_test(test_newer_and_foreign),
		cmocka_unit_test(test_faults),
	};
	int rc;

	if (secret_init())
		return 1;
	master = secret_alloc(SECRET_KEY_LEN);
	opened = secret_alloc(SECRET_KEY_LEN);
	if (!master || !opened)
		return 1;
	random_bytes(master, SECRET_KEY_LEN);
	random_bytes(repo_id, sizeof(repo_id));
	random_bytes(file_bytes, sizeof(file_bytes));
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	secret_free(master);
	secret_free(opened);
	return rc;
}
