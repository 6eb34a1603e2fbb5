/*
 * A key slot, 256 bytes, little-endian:
 *
 *   offset size  name
 *        0    8  magic "PASTFSK1"
 *        8    4  version, 1
 *       12    1  kind (1 passphrase, 2 key file)
 *       13    1  label length
 *       14    2  zero
 *       16   16  repository id
 *       32    8  slot id
 *       40    8  created, microseconds since 1970
 *       48   64  label, UTF-8, filled up with zeros
 *      112    4  Argon2id passes      (passphrase slots; else 0)
 *      116    4  Argon2id lanes, 1    (passphrase slots; else 0)
 *      120    8  Argon2id memory, bytes (passphrase slots; else 0)
 *      128   16  salt
 *      144   12  nonce
 *      156   32  master key, encrypted
 *      188   16  tag
 *      204   48  reserved, zero
 *      252    4  CRC-32C of bytes 0 to 251
 *
 * Bytes 0 to 143 are the associated data of the wrap, so whoever changes the label or the cost of
 * a slot makes it unusable.  Everything is bounded before the passphrase function runs: a slot
 * cannot ask for more memory than SLOT_MEM_MAX.
 */
#include "store/keyslot.h"

#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/utc.h"
#include "store/crypto.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define MAGIC        "PASTFSK1"
#define MAGIC_LEN    8
#define SLOT_VERSION 1

#define OFF_SALT    128
#define OFF_NONCE   144
#define OFF_WRAPPED 156
#define OFF_CRC     252

#define SLOT_OPS_MAX     64
#define SLOT_MEM_MIN     (UINT64_C(8) << 10)
#define SLOT_MEM_MAX     (UINT64_C(4) << 30)
#define SLOT_OPS_DEFAULT 3
#define SLOT_MEM_DEFAULT (UINT64_C(64) << 20)

static const char *
kind_name(enum keyslot_kind kind)
{
	return kind == KEYSLOT_KEYFILE ? "key file" : "passphrase";
}

/* Labels are shown without a key being known, so nothing in them may steer a terminal. */
static bool
label_ok(const uint8_t *label, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (label[i] < 0x20 || label[i] == 0x7f)
			return false;
	return true;
}

static int
check_credential(const struct credential *cred)
{
	switch (cred->kind) {
	case KEYSLOT_PASSPHRASE:
		if (cred->len == 0 || cred->len > PASSPHRASE_MAX)
			return err_set(ERR_USAGE, "a passphrase has 1 to %d bytes, not %zu",
			    PASSPHRASE_MAX, cred->len);
		return 0;
	case KEYSLOT_KEYFILE:
		if (cred->len < KEYFILE_MIN_BYTES || cred->len > KEYFILE_MAX_BYTES)
			return err_set(ERR_USAGE, "a key file has %d to %u bytes, not %zu",
			    KEYFILE_MIN_BYTES, KEYFILE_MAX_BYTES, cred->len);
		return 0;
	}
	return err_set(ERR_USAGE, "unknown kind of credential %d", (int)cred->kind);
}

static int
check_cost(uint32_t ops, uint64_t mem_bytes, int code)
{
	if (ops < 1 || ops > SLOT_OPS_MAX)
		return err_set(code,
		    "a passphrase slot's Argon2id passes are 1 to %d, not %" PRIu32, SLOT_OPS_MAX,
		    ops);
	if (mem_bytes < SLOT_MEM_MIN || mem_bytes > SLOT_MEM_MAX)
		return err_set(code,
		    "a passphrase slot's Argon2id memory is %" PRIu64 " to %" PRIu64
		    " bytes, not %" PRIu64,
		    SLOT_MEM_MIN, SLOT_MEM_MAX, mem_bytes);
	return 0;
}

/* The key that wraps the master key, from what the person holds. */
static int
derive_kek(uint8_t kek[SECRET_KEY_LEN], const struct credential *cred, const uint8_t *slot)
{
	const uint8_t *salt = slot + OFF_SALT;
	struct sha256 *s = NULL;
	uint8_t digest[CRYPTO_DIGEST_LEN];
	int rc;

	if (cred->kind == KEYSLOT_PASSPHRASE)
		return secret_from_passphrase(
		    kek, cred->data, cred->len, salt, le32_load(slot + 112), le64_load(slot + 120));
	rc = sha256_new(&s);
	if (rc)
		return rc;
	sha256_update(s, cred->data, cred->len);
	sha256_final(s, digest);
	sha256_free(s);
	rc =
	    crypto_derive(kek, SECRET_KEY_LEN, digest, salt, SECRET_SALT_LEN, "pastfs v1 key file");
	secret_wipe(digest, sizeof(digest));
	return rc;
}

/* Seal or open the master key with the credential's key; `slot` is filled up to the nonce. */
static int
wrap(uint8_t *slot, const struct credential *cred, const uint8_t *master)
{
	uint8_t *kek = secret_alloc(SECRET_KEY_LEN);
	struct aead *a = NULL;
	int rc;

	rc = kek ? derive_kek(kek, cred, slot) : err_nomem();
	if (rc == 0)
		rc = aead_new(&a);
	if (rc == 0)
		rc = aead_set_key(a, kek);
	if (rc == 0)
		rc = aead_seal(a, slot + OFF_NONCE, slot, OFF_NONCE, master, SECRET_KEY_LEN,
		    slot + OFF_WRAPPED);
	aead_free(a);
	secret_free(kek);
	return rc;
}

static int
unwrap(const uint8_t *slot, const struct credential *cred, uint8_t *master)
{
	uint8_t *kek = secret_alloc(SECRET_KEY_LEN);
	struct aead *a = NULL;
	int rc;

	rc = kek ? derive_kek(kek, cred, slot) : err_nomem();
	if (rc == 0)
		rc = aead_new(&a);
	if (rc == 0)
		rc = aead_set_key(a, kek);
	if (rc == 0)
		rc = aead_open(a, slot + OFF_NONCE, slot, OFF_NONCE, slot + OFF_WRAPPED,
		    SECRET_KEY_LEN + CRYPTO_TAG_LEN, master);
	aead_free(a);
	secret_free(kek);
	return rc;
}

int
keyslot_encode(uint8_t out[KEYSLOT_LEN], struct keyslot_info *info,
    const uint8_t repo_id[REPO_ID_LEN], const char *label, const struct credential *cred,
    const struct keyslot_cost *cost, const uint8_t master[SECRET_KEY_LEN])
{
	size_t label_len = label ? strlen(label) : 0;
	int rc;

	memset(info, 0, sizeof(*info));
	memset(out, 0, KEYSLOT_LEN);
	rc = check_credential(cred);
	if (rc)
		return rc;
	if (label_len > KEYSLOT_LABEL_MAX || !label_ok((const uint8_t *)label, label_len))
		return err_set(ERR_USAGE,
		    "a key slot's label has at most %d bytes and no control characters",
		    KEYSLOT_LABEL_MAX);
	if (cred->kind == KEYSLOT_PASSPHRASE) {
		info->argon_ops = cost && cost->argon_ops ? cost->argon_ops : SLOT_OPS_DEFAULT;
		info->argon_mem_bytes =
		    cost && cost->argon_mem_bytes ? cost->argon_mem_bytes : SLOT_MEM_DEFAULT;
		rc = check_cost(info->argon_ops, info->argon_mem_bytes, ERR_USAGE);
		if (rc)
			return rc;
	}
	random_bytes(info->id, KEYSLOT_ID_LEN);
	info->kind = cred->kind;
	info->created_us = utc_now_us();
	if (label_len > 0)
		memcpy(info->label, label, label_len);

	memcpy(out, MAGIC, MAGIC_LEN);
	le32_store(out + 8, SLOT_VERSION);
	out[12] = (uint8_t)cred->kind;
	out[13] = (uint8_t)label_len;
	memcpy(out + 16, repo_id, REPO_ID_LEN);
	memcpy(out + 32, info->id, KEYSLOT_ID_LEN);
	le64_store(out + 40, (uint64_t)info->created_us);
	memcpy(out + 48, info->label, label_len);
	le32_store(out + 112, info->argon_ops);
	le32_store(out + 116, cred->kind == KEYSLOT_PASSPHRASE ? 1 : 0);
	le64_store(out + 120, info->argon_mem_bytes);
	random_bytes(out + OFF_SALT, SECRET_SALT_LEN);
	random_bytes(out + OFF_NONCE, CRYPTO_NONCE_LEN);
	rc = wrap(out, cred, master);
	if (rc)
		return err_prefix(rc, "cannot make a %s slot", kind_name(cred->kind));
	le32_store(out + OFF_CRC, crc32c(0, out, OFF_CRC));
	return 0;
}

/* Magic, version, length, checksum and repository. */
static int
check_envelope(const uint8_t *p, size_t len, const uint8_t *repo_id)
{
	uint32_t version;

	if (len < 12 || memcmp(p, MAGIC, MAGIC_LEN) != 0)
		return err_set(ERR_DAMAGED, "this is not a pastfs key slot");
	version = le32_load(p + 8);
	if (version > SLOT_VERSION)
		return err_set(ERR_UNSUPPORTED,
		    "the key slot has version %" PRIu32
		    ", this pastfs knows versions up to %d; upgrade pastfs or use another slot",
		    version, SLOT_VERSION);
	if (version == 0 || len != KEYSLOT_LEN)
		return err_set(
		    ERR_DAMAGED, "a key slot has version %" PRIu32 " and %zu bytes", version, len);
	if (le32_load(p + OFF_CRC) != crc32c(0, p, OFF_CRC))
		return err_set(ERR_DAMAGED, "a key slot has a wrong checksum");
	if (memcmp(p + 16, repo_id, REPO_ID_LEN) != 0)
		return err_set(ERR_DAMAGED, "a key slot belongs to another repository");
	return 0;
}

int
keyslot_decode(
    struct keyslot_info *info, const void *data, size_t len, const uint8_t repo_id[REPO_ID_LEN])
{
	const uint8_t *p = data;
	size_t label_len;
	int rc;

	memset(info, 0, sizeof(*info));
	rc = check_envelope(p, len, repo_id);
	if (rc)
		return rc;
	label_len = p[13];
	if (label_len > KEYSLOT_LABEL_MAX || !label_ok(p + 48, label_len))
		return err_set(ERR_DAMAGED, "a key slot has a malformed label");
	memcpy(info->id, p + 32, KEYSLOT_ID_LEN);
	info->kind = p[12];
	memcpy(info->label, p + 48, label_len);
	info->created_us = (int64_t)le64_load(p + 40);
	if (info->kind == KEYSLOT_KEYFILE)
		return 0;
	if (info->kind != KEYSLOT_PASSPHRASE)
		return err_set(ERR_UNSUPPORTED,
		    "key slot \"%s\" is of kind %d, which this version of pastfs does not have; "
		    "upgrade pastfs or use another slot",
		    info->label, (int)info->kind);
	info->argon_ops = le32_load(p + 112);
	info->argon_mem_bytes = le64_load(p + 120);
	if (le32_load(p + 116) != 1)
		return err_set(ERR_UNSUPPORTED,
		    "key slot \"%s\" uses Argon2id with %" PRIu32
		    " lanes, this version of pastfs with one; upgrade pastfs or use another slot",
		    info->label, le32_load(p + 116));
	return check_cost(info->argon_ops, info->argon_mem_bytes, ERR_DAMAGED);
}

int
keyslot_open(const void *data, size_t len, const uint8_t repo_id[REPO_ID_LEN],
    const struct credential *cred, uint8_t master[SECRET_KEY_LEN])
{
	struct keyslot_info info;
	int rc;

	rc = keyslot_decode(&info, data, len, repo_id);
	if (rc)
		return rc;
	if (cred->kind != info.kind)
		return err_set(ERR_KEY, "slot \"%s\" is opened by a %s, not by a %s", info.label,
		    kind_name(info.kind), kind_name(cred->kind));
	/* What no slot can have been made with opens none. */
	if (check_credential(cred))
		return err_prefix(ERR_KEY, "slot \"%s\"", info.label);
	rc = unwrap(data, cred, master);
	if (rc == ERR_DAMAGED)
		return err_set(ERR_KEY, "wrong %s (slot \"%s\")", kind_name(info.kind), info.label);
	return rc;
}
