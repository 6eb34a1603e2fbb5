#include "pgsync/arrival.h"
#include "pgsync/manifest.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/crypto.h"
#include "store/tree.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct manifest_opts opts = {
	.server_version = 150018,
	.system_identifier = 7000000000000000001,
	.timeline = 1,
	.start_lsn = 0x2000028,
	.stop_lsn = 0x2000100,
};

static int
add_file(struct tree_builder *tb, const char *path, uint64_t size, uint32_t crc)
{
	struct tree_entry e = { .type = TREE_FILE, .mode = 0600, .mtime_s = 1795226825 };

	e.content.size = size;
	e.content.crc32c = crc;
	e.content.chunking = CHUNKING_CDC;
	return tree_builder_add(tb, path, &e);
}

static int
add_link(struct tree_builder *tb, const char *path, const char *target)
{
	struct tree_entry e = { .type = TREE_SYMLINK, .mode = 0777, .target = mem_strdup(target) };

	return e.target ? tree_builder_add(tb, path, &e) : ERR_NOMEM;
}

static int
make_tree(struct tree_builder **tb)
{
	int rc = tree_builder_new(tb);

	if (rc == 0)
		rc = add_file(*tb, "PG_VERSION", 3, 0x2247748a);
	if (rc == 0)
		rc = add_file(*tb, "backup_manifest", 9, 1);
	if (rc == 0)
		rc = add_file(*tb, "odd \"name\"\n", 0, 0);
	if (rc == 0)
		rc = add_file(*tb, "odd\xff", UINT64_C(5) << 30, 0xdeadbeef);
	if (rc == 0)
		rc = add_link(*tb, "pg_tblspc/16400", "../pg_tblspc_data/16400");
	if (rc == 0)
		rc = add_file(*tb, "pg_tblspc_data/16400/PG_15_202209061/5/1259", 8192, 7);
	if (rc == 0)
		rc = add_file(*tb, "pg_wal/000000010000000000000002", 16 << 20, 5);
	return rc;
}

/* The lines before the checksum. */
static const char expected[] =
    "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"
    "\"Files\": [\n"
    "{ \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-21 02:07:05 GMT\", "
    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"8a744722\" },\n"
    "{ \"Path\": \"odd \\\"name\\\"\\u000a\", \"Size\": 0, "
    "\"Last-Modified\": \"2026-11-21 02:07:05 GMT\", "
    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" },\n"
    "{ \"Encoded-Path\": \"6f6464ff\", \"Size\": 5368709120, "
    "\"Last-Modified\": \"2026-11-21 02:07:05 GMT\", "
    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"efbeadde\" },\n"
    "{ \"Path\": \"pg_tblspc_data/16400/PG_15_202209061/5/1259\", \"Size\": 8192, "
    "\"Last-Modified\": \"2026-11-21 02:07:05 GMT\", "
    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"07000000\" },\n"
    "{ \"Path\": \"pg_tblspc/16400/PG_15_202209061/5/1259\", \"Size\": 8192, "
    "\"Last-Modified\": \"2026-11-21 02:07:05 GMT\", "
    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"07000000\" }\n"
    "],\n"
    "\"WAL-Ranges\": [\n"
    "{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n"
    "],\n";

/* `body` with the line that makes it a manifest. */
static void
sign(struct bytes *out, const char *body)
{
	uint8_t digest[CRYPTO_DIGEST_LEN];
	char line[200], hex[2 * CRYPTO_DIGEST_LEN + 1];
	struct sha256 *sha;

	assert_int_equal(sha256_new(&sha), 0);
	sha256_update(sha, body, strlen(body));
	sha256_final(sha, digest);
	sha256_free(sha);
	hex_encode(hex, digest, sizeof(digest));
	snprintf(line, sizeof(line), "\"Manifest-Checksum\": \"%s\"}\n", hex);
	bytes_put(out, body, strlen(body));
	bytes_put(out, line, strlen(line));
}

static void
test_write(void **state)
{
	struct bytes text, wanted;
	struct tree_builder *tb;

	(void)state;
	bytes_init(&text);
	bytes_init(&wanted);
	assert_int_equal(make_tree(&tb), 0);
	assert_int_equal(manifest_build(&text, tb, &opts), 0);
	sign(&wanted, expected);
	assert_int_equal(text.len, wanted.len);
	assert_memory_equal(text.data, wanted.data, text.len);
	tree_builder_free(tb);
	bytes_release(&text);
	bytes_release(&wanted);
}

static void
test_version_2(void **state)
{
	struct manifest_opts o = opts;
	struct manifest_reader reader = { 0 };
	struct manifest_info info;
	struct tree_builder *tb;
	struct bytes text;

	(void)state;
	o.server_version = 170002;
	bytes_init(&text);
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(manifest_build(&text, tb, &o), 0);
	assert_int_equal(manifest_read(text.data, text.len, &reader, &info), 0);
	assert_int_equal(info.version, 2);
	assert_true(info.has_system_identifier);
	assert_true(info.system_identifier == opts.system_identifier);
	assert_int_equal(info.files, 0);
	tree_builder_free(tb);
	bytes_release(&text);
}

struct seen {
	char text[1024];
};

static int
on_file(void *ctx, const struct manifest_file *f)
{
	struct seen *s = ctx;
	size_t n = strlen(s->text);

	snprintf(s->text + n, sizeof(s->text) - n, "%s %llu %d %08x;", f->path,
	    (unsigned long long)f->size, (int)f->checksum, f->crc32c);
	return 0;
}

static int
on_range(void *ctx, const struct manifest_wal_range *r)
{
	struct seen *s = ctx;
	size_t n = strlen(s->text);

	snprintf(s->text + n, sizeof(s->text) - n, "%u %llx-%llx;", r->timeline,
	    (unsigned long long)r->start_lsn, (unsigned long long)r->end_lsn);
	return 0;
}

static int
read_signed(const char *body, struct seen *seen)
{
	struct manifest_reader reader = { .file = on_file, .wal_range = on_range, .ctx = seen };
	struct bytes text;
	int rc;

	bytes_init(&text);
	sign(&text, body);
	rc = manifest_read(text.data, text.len, &reader, NULL);
	bytes_release(&text);
	return rc;
}

static void
test_read(void **state)
{
	struct seen seen = { 0 };

	(void)state;
	assert_int_equal(read_signed(expected, &seen), 0);
	assert_string_equal(seen.text,
	    "PG_VERSION 3 1 2247748a;odd \"name\"\n 0 1 00000000;"
	    "odd\xff 5368709120 1 deadbeef;"
	    "pg_tblspc_data/16400/PG_15_202209061/5/1259 8192 1 00000007;"
	    "pg_tblspc/16400/PG_15_202209061/5/1259 8192 1 00000007;"
	    "1 2000028-2000100;");
}

static void
test_read_in_any_layout(void **state)
{
	struct seen seen = { 0 };

	(void)state;
	assert_int_equal(read_signed("{\"PostgreSQL-Backup-Manifest-Version\":1,\"WAL-Ranges\":[],"
				     "\"Files\":[{\"Size\":1,\"Path\":\"a\"},\n\n{\"Path\":\"b\","
				     "\"Size\":2,\"Checksum-Algorithm\":\"SHA256\","
				     "\"Checksum\":\"00\"}],\n",
			     &seen),
	    0);
	assert_string_equal(seen.text, "a 1 0 00000000;b 2 2 00000000;");
}

#define HEAD "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"

static void
test_refused(void **state)
{
	static const char *const bad[] = {
		"\n",
		"{\n",
		"{ \"Files\": [],\n",
		HEAD,
		HEAD "\"Files\": [{}],\n",
		HEAD "\"Files\": [{\"Path\": \"a\"}],\n",
		HEAD "\"Files\": [{\"Path\": \"\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Path\": \"a\", \"Encoded-Path\": \"61\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Encoded-Path\": \"6\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Encoded-Path\": \"616\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Encoded-Path\": \"zz\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Encoded-Path\": \"6100\", \"Size\": 1}],\n",
		HEAD "\"Files\": [{\"Path\": \"a\", \"Size\": -1}],\n",
		HEAD "\"Files\": [{\"Path\": \"a\", \"Size\": 1, \"Checksum\": \"00\"}],\n",
		HEAD
		"\"Files\": [{\"Path\": \"a\", \"Size\": 1, \"Checksum-Algorithm\": \"CRC32C\", "
		"\"Checksum\": \"0000000\"}],\n",
		HEAD "\"Files\": [{\"Path\": \"a\", \"Size\": 1}\n",
		HEAD "\"Files\": [], \"Files\": [],\n",
		HEAD "\"Files\": [], \"Other\": 1,\n",
		HEAD "\"Files\": [], \"WAL-Ranges\": [{\"Timeline\": 1, \"Start-LSN\": \"x\", "
		     "\"End-LSN\": \"0/1\"}],\n",
		HEAD "\"Files\": [], } {\n",
	};
	struct seen seen = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(read_signed(bad[i], &seen), ERR_DAMAGED);
	assert_int_equal(
	    read_signed("{ \"PostgreSQL-Backup-Manifest-Version\": 3,\n\"Files\": [],\n", &seen),
	    ERR_UNSUPPORTED);
}

static void
test_every_changed_byte_is_noticed(void **state)
{
	struct manifest_reader reader = { 0 };
	struct bytes text;

	(void)state;
	bytes_init(&text);
	sign(&text, expected);
	for (size_t i = 0; i < text.len; i++) {
		text.data[i] ^= 4;
		assert_int_equal(manifest_read(text.data, text.len, &reader, NULL), ERR_DAMAGED);
		text.data[i] ^= 4;
		assert_int_equal(manifest_read(text.data, i, &reader, NULL), ERR_DAMAGED);
	}
	assert_int_equal(manifest_read(text.data, text.len, &reader, NULL), 0);
	bytes_release(&text);
}

static int
write_and_read(void)
{
	struct manifest_reader reader = { 0 };
	struct manifest_info info;
	struct tree_builder *tb = NULL;
	struct bytes text;
	int rc;

	bytes_init(&text);
	rc = make_tree(&tb);
	if (rc == 0)
		rc = manifest_build(&text, tb, &opts);
	if (rc == 0)
		rc = manifest_read(text.data, text.len, &reader, &info);
	if (rc == 0)
		assert_int_equal(info.files, 5);
	tree_builder_free(tb);
	bytes_release(&text);
	return rc;
}

static void
test_every_allocation_fails(void **state)
{
	uint64_t n = 0;
	int rc;

	(void)state;
	do {
		sys_fault_arm(++n, ENOMEM);
		rc = write_and_read();
		assert_true(rc == ERR_NOMEM || (rc == 0 && !sys_fault_happened()));
	} while (sys_fault_happened());
	sys_fault_arm(0, 0);
	assert_true(n > 10);
}

/* ---- comparing with what arrived ---- */

static int
compare(struct tree_builder *tb, const char *body)
{
	struct bytes text;
	int rc;

	bytes_init(&text);
	sign(&text, body);
	rc = arrival_compare(tb, NULL, text.data, text.len);
	bytes_release(&text);
	return rc;
}

static void
test_arrival(void **state)
{
	static const char same[] =
	    HEAD "\"Files\": [{\"Path\": \"PG_VERSION\", \"Size\": 3, \"Checksum-Algorithm\": "
		 "\"CRC32C\", "
		 "\"Checksum\": \"8a744722\"}, {\"Path\": \"tablespace_map\", \"Size\": 5},"
		 "{\"Path\": \"pg_tblspc/16400/x\", \"Size\": 7}],\n";
	struct tree_builder *tb;

	(void)state;
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(add_file(tb, "PG_VERSION", 3, 0x2247748a), 0);
	assert_int_equal(compare(tb, same), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "pg_tblspc_data/16400/x"));
	assert_int_equal(add_file(tb, "pg_tblspc_data/16400/x", 7, 1), 0);
	assert_int_equal(add_file(tb, "pg_wal/0001", 7, 1), 0);
	assert_int_equal(compare(tb, same), 0);
	assert_int_equal(
	    compare(tb, HEAD "\"Files\": [{\"Path\": \"PG_VERSION\", \"Size\": 4}],\n"),
	    ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "PG_VERSION arrived with 3 bytes"));
	assert_int_equal(
	    compare(tb, HEAD "\"Files\": [{\"Path\": \"PG_VERSION\", \"Size\": 3, "
			     "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"8a744723\"}],\n"),
	    ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "2347748a"));
	assert_int_equal(add_file(tb, "extra", 7, 1), 0);
	assert_int_equal(compare(tb, same), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "does not list"));
	tree_builder_free(tb);
}

static void
test_page_from_hex(void **state)
{
	uint8_t page[PGPAGE_BYTES];
	char *text = malloc(2 * PGPAGE_BYTES + 3);

	(void)state;
	assert_non_null(text);
	assert_int_equal(arrival_page_from_hex(page, "00ff"), 0);
	assert_int_equal(page[1], 0xff);
	assert_int_equal(page[2], 0);
	assert_int_equal(page[PGPAGE_BYTES - 1], 0);
	assert_int_equal(arrival_page_from_hex(page, "0"), -1);
	assert_int_equal(arrival_page_from_hex(page, "0x"), -1);
	memset(text, 'a', 2 * PGPAGE_BYTES + 2);
	text[2 * PGPAGE_BYTES + 2] = 0;
	assert_int_equal(arrival_page_from_hex(page, text), -1);
	text[2 * PGPAGE_BYTES] = 0;
	assert_int_equal(arrival_page_from_hex(page, text), 0);
	assert_int_equal(page[PGPAGE_BYTES - 1], 0xaa);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_version_2),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_read_in_any_layout),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_every_changed_byte_is_noticed),
		cmocka_unit_test(test_every_allocation_fails),
		cmocka_unit_test(test_arrival),
		cmocka_unit_test(test_page_from_hex),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
