/*
 * The text, as PostgreSQL writes it:
 *
 *   { "PostgreSQL-Backup-Manifest-Version": 1,
 *   "System-Identifier": 7000000000000000001,                       version 2 alone
 *   "Files": [
 *   { "Path": "base/1/1259", "Size": 8192, "Last-Modified": "2026-11-20 02:00:00 GMT",
 *     "Checksum-Algorithm": "CRC32C", "Checksum": "0a1b2c3d" },     "Encoded-Path" if not UTF-8
 *   …
 *   ],
 *   "WAL-Ranges": [
 *   { "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
 *   ],
 *   "Manifest-Checksum": "…"}
 *
 * The manifest's own checksum is SHA-256 over everything before its last line.  The reader takes
 * the list apart one element at a time, so that its memory does not grow with the number of files.
 */
#include "pgsync/manifest.h"

#include "pgsync/pgconn.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/crypto.h"
#include "store/tree.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define FLUSH_BYTES (64u << 10)
#define DATA_DIR    "pg_tblspc_data/"
#define LINK_DIR    "pg_tblspc/"

/* ---- writing ---- */

struct writing {
	struct bytes buf;
	struct sha256 *sha;
	bool any; /* a file was written */
	int (*emit)(void *ctx, const void *data, size_t len);
	void *ctx;
};

static void
put_text(struct bytes *b, const char *text)
{
	bytes_put(b, text, strlen(text));
}

static int
flush(struct writing *wr)
{
	int rc = bytes_status(&wr->buf);

	if (rc == 0 && wr->buf.len > 0) {
		sha256_update(wr->sha, wr->buf.data, wr->buf.len);
		rc = wr->emit(wr->ctx, wr->buf.data, wr->buf.len);
	}
	bytes_reset(&wr->buf);
	return rc;
}

static void
put_quoted(struct bytes *b, const char *text)
{
	bytes_put_u8(b, '"');
	for (; *text; text++) {
		char escape[8];

		if (*text == '"' || *text == '\\') {
			bytes_put_u8(b, '\\');
			bytes_put_u8(b, (uint8_t)*text);
		} else if ((unsigned char)*text < ' ') {
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*text);
			put_text(b, escape);
		} else {
			bytes_put_u8(b, (uint8_t)*text);
		}
	}
	bytes_put_u8(b, '"');
}

static void
put_path(struct bytes *b, const char *path)
{
	char digits[3];

	if (json_is_utf8(path)) {
		put_text(b, "{ \"Path\": ");
		put_quoted(b, path);
		return;
	}
	put_text(b, "{ \"Encoded-Path\": \"");
	for (; *path; path++) {
		hex_encode(digits, path, 1);
		put_text(b, digits);
	}
	put_text(b, "\"");
}

static int
put_file(struct writing *wr, const char *path, const struct tree_entry *e)
{
	char text[192], when[32] = "1970-01-01 00:00:00", sum[9];
	time_t t = (time_t)e->mtime_s;
	uint8_t crc[4];
	struct tm tm;

	if (gmtime_r(&t, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	le32_store(crc, e->content.crc32c);
	hex_encode(sum, crc, sizeof(crc));
	put_text(&wr->buf, wr->any ? ",\n" : "\n");
	put_path(&wr->buf, path);
	snprintf(text, sizeof(text),
	    ", \"Size\": %llu, \"Last-Modified\": \"%s GMT\", \"Checksum-Algorithm\": \"CRC32C\", "
	    "\"Checksum\": \"%s\" }",
	    (unsigned long long)e->content.size, when, sum);
	put_text(&wr->buf, text);
	wr->any = true;
	return wr->buf.len >= FLUSH_BYTES ? flush(wr) : bytes_status(&wr->buf);
}

static int
put_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	char other[TREE_PATH_MAX + 1];
	struct writing *wr = ctx;
	int rc;

	if (e->type != TREE_FILE || strncmp(path, "pg_wal/", 7) == 0 ||
	    strcmp(path, "backup_manifest") == 0)
		return 0;
	rc = put_file(wr, path, e);
	if (rc == 0 && strncmp(path, DATA_DIR, sizeof(DATA_DIR) - 1) == 0) {
		snprintf(other, sizeof(other), LINK_DIR "%s", path + sizeof(DATA_DIR) - 1);
		rc = put_file(wr, other, e);
	}
	return rc;
}

static void
put_head(struct bytes *b, const struct manifest_opts *opts)
{
	char text[128];

	if (opts->server_version >= 170000)
		snprintf(text, sizeof(text),
		    "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": %llu,\n",
		    (unsigned long long)opts->system_identifier);
	else
		snprintf(text, sizeof(text), "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n");
	put_text(b, text);
	put_text(b, "\"Files\": [");
}

static void
put_tail(struct bytes *b, const struct manifest_opts *opts)
{
	char text[256];

	snprintf(text, sizeof(text),
	    "\n],\n\"WAL-Ranges\": [\n"
	    "{ \"Timeline\": %u, \"Start-LSN\": \"%X/%X\", \"End-LSN\": \"%X/%X\" }\n],\n",
	    opts->timeline, (unsigned)(opts->start_lsn >> 32), (unsigned)opts->start_lsn,
	    (unsigned)(opts->stop_lsn >> 32), (unsigned)opts->stop_lsn);
	put_text(b, text);
}

int
manifest_write(struct tree_builder *tb, const struct manifest_opts *opts,
    int (*emit)(void *ctx, const void *data, size_t len), void *ctx)
{
	struct writing wr = { .emit = emit, .ctx = ctx };
	char sum[2 * CRYPTO_DIGEST_LEN + 1];
	uint8_t digest[CRYPTO_DIGEST_LEN];
	int rc;

	bytes_init(&wr.buf);
	rc = sha256_new(&wr.sha);
	if (rc)
		goto out;
	put_head(&wr.buf, opts);
	rc = tree_builder_each(tb, put_entry, &wr);
	if (rc)
		goto out;
	put_tail(&wr.buf, opts);
	rc = flush(&wr);
	if (rc)
		goto out;
	sha256_final(wr.sha, digest);
	hex_encode(sum, digest, sizeof(digest));
	put_text(&wr.buf, "\"Manifest-Checksum\": \"");
	put_text(&wr.buf, sum);
	put_text(&wr.buf, "\"}\n");
	rc = flush(&wr);
out:
	sha256_free(wr.sha);
	bytes_release(&wr.buf);
	return rc;
}

static int
emit_to_bytes(void *ctx, const void *data, size_t len)
{
	bytes_put(ctx, data, len);
	return bytes_status(ctx);
}

int
manifest_build(struct bytes *out, struct tree_builder *tb, const struct manifest_opts *opts)
{
	return manifest_write(tb, opts, emit_to_bytes, out);
}

/* ---- reading ---- */

struct reading {
	const char *text;
	size_t len, off;
	const struct manifest_reader *reader;
	struct manifest_info info;
	bool has_files;
};

static int
malformed(const struct reading *rd, const char *what)
{
	return err_set(
	    ERR_DAMAGED, "backup manifest: %s (at byte %zu of %zu)", what, rd->off, rd->len);
}

static char
next_char(struct reading *rd)
{
	while (rd->off < rd->len && strchr(" \t\r\n", rd->text[rd->off]) && rd->text[rd->off])
		rd->off++;
	return rd->off < rd->len ? rd->text[rd->off] : 0;
}

static int
expect_char(struct reading *rd, char c)
{
	char what[] = "'x' is missing";

	what[1] = c;
	if (next_char(rd) != c)
		return malformed(rd, what);
	rd->off++;
	return 0;
}

/* The value at the place reached; to json_free(). */
static int
next_value(struct reading *rd, struct json **out)
{
	size_t used;
	int rc;

	next_char(rd);
	rc = json_parse_next(out, rd->text + rd->off, rd->len - rd->off, &used);
	if (rc == ERR_USAGE)
		return err_set(ERR_DAMAGED, "backup manifest, at byte %zu: %s", rd->off, err_msg());
	if (rc == 0)
		rd->off += used;
	return rc;
}

/* 1 and the character taken if a list goes on, 0 if it ended with `end`. */
static int
next_in_list(struct reading *rd, char end)
{
	char c = next_char(rd);

	if (c != ',' && c != end)
		return malformed(rd, "a list is cut short");
	rd->off++;
	return c == ',';
}

static int
decode_path(struct reading *rd, const struct json_value *v, char path[TREE_PATH_MAX + 1])
{
	const char *plain = json_text(json_member(v, "Path"));
	const char *encoded = json_text(json_member(v, "Encoded-Path"));
	size_t n;

	if (!plain == !encoded)
		return malformed(rd, "a file needs either \"Path\" or \"Encoded-Path\"");
	n = plain ? strlen(plain) : strlen(encoded) / 2;
	if (n == 0 || n > TREE_PATH_MAX)
		return malformed(rd, "a path is empty or too long");
	memset(path, 0, n + 1);
	if (plain)
		memcpy(path, plain, n);
	else if (strlen(encoded) % 2 || hex_decode(path, encoded, n) || memchr(path, 0, n))
		return malformed(rd, "an \"Encoded-Path\" is not hexadecimal");
	return 0;
}

static int
take_file(struct reading *rd, const struct json_value *v)
{
	char path[TREE_PATH_MAX + 1];
	const char *algorithm = json_text(json_member(v, "Checksum-Algorithm"));
	const char *sum = json_text(json_member(v, "Checksum"));
	struct manifest_file file = { .path = path };
	uint8_t crc[4];
	int rc = decode_path(rd, v, path);

	if (rc)
		return rc;
	if (!json_uint(json_member(v, "Size"), &file.size))
		return malformed(rd, "a file has no size");
	if (!algorithm != !sum)
		return malformed(rd, "a checksum without its algorithm, or the reverse");
	if (algorithm && strcmp(algorithm, "CRC32C") == 0) {
		if (strlen(sum) != 2 * sizeof(crc) || hex_decode(crc, sum, sizeof(crc)))
			return malformed(rd, "a CRC32C checksum is not eight hexadecimal digits");
		file.checksum = MANIFEST_CHECKSUM_CRC32C;
		file.crc32c = le32_load(crc);
	} else if (algorithm) {
		file.checksum = MANIFEST_CHECKSUM_OTHER;
	}
	rd->info.files++;
	return rd->reader->file ? rd->reader->file(rd->reader->ctx, &file) : 0;
}

static int
take_wal_range(struct reading *rd, const struct json_value *v)
{
	const char *start = json_text(json_member(v, "Start-LSN"));
	const char *end = json_text(json_member(v, "End-LSN"));
	struct manifest_wal_range range;
	uint64_t timeline;

	if (!json_uint(json_member(v, "Timeline"), &timeline) || timeline > UINT32_MAX || !start ||
	    !end || pgconn_lsn_parse(start, &range.start_lsn) ||
	    pgconn_lsn_parse(end, &range.end_lsn))
		return malformed(rd, "a WAL range is wrong");
	range.timeline = (uint32_t)timeline;
	return rd->reader->wal_range ? rd->reader->wal_range(rd->reader->ctx, &range) : 0;
}

static int
read_list(struct reading *rd, int (*take)(struct reading *rd, const struct json_value *v))
{
	int rc = expect_char(rd, '[');

	if (rc)
		return rc;
	if (next_char(rd) == ']') {
		rd->off++;
		return 0;
	}
	do {
		struct json *element = NULL;

		rc = next_value(rd, &element);
		if (rc == 0)
			rc = take(rd, json_root(element));
		json_free(element);
		if (rc)
			return rc;
		rc = next_in_list(rd, ']');
	} while (rc == 1);
	return rc;
}

static int
take_version(struct reading *rd, const struct json_value *v)
{
	uint64_t version;

	if (!json_uint(v, &version))
		return malformed(rd, "the version is not a number");
	if (version < 1 || version > 2)
		return err_set(ERR_UNSUPPORTED, "backup manifest version %llu is not known here",
		    (unsigned long long)version);
	rd->info.version = (uint32_t)version;
	return 0;
}

static int
read_member(struct reading *rd, const char *key)
{
	struct json *value = NULL;
	int rc;

	/* The version comes first, and says how to understand the rest. */
	if (rd->info.version == 0 && strcmp(key, "PostgreSQL-Backup-Manifest-Version") != 0)
		return malformed(rd, "it does not begin with its version");
	if (strcmp(key, "Files") == 0) {
		if (rd->has_files)
			return malformed(rd, "two lists of files");
		rd->has_files = true;
		return read_list(rd, take_file);
	}
	if (strcmp(key, "WAL-Ranges") == 0)
		return read_list(rd, take_wal_range);
	rc = next_value(rd, &value);
	if (rc)
		return rc;
	if (strcmp(key, "PostgreSQL-Backup-Manifest-Version") == 0) {
		rc = take_version(rd, json_root(value));
	} else if (strcmp(key, "System-Identifier") == 0) {
		rd->info.has_system_identifier = true;
		if (!json_uint(json_root(value), &rd->info.system_identifier))
			rc = malformed(rd, "the system identifier is not a number");
	} else if (strcmp(key, "Manifest-Checksum") != 0) {
		rc = malformed(rd, "an unknown member");
	}
	json_free(value);
	return rc;
}

static int
read_members(struct reading *rd)
{
	int rc = expect_char(rd, '{');

	while (rc == 0) {
		struct json *key = NULL;

		rc = next_value(rd, &key);
		if (rc == 0 && !json_text(json_root(key)))
			rc = malformed(rd, "a name is missing");
		if (rc == 0)
			rc = expect_char(rd, ':');
		if (rc == 0)
			rc = read_member(rd, json_text(json_root(key)));
		json_free(key);
		if (rc)
			return rc;
		rc = next_in_list(rd, '}');
		if (rc == 0)
			break;
		rc = rc < 0 ? rc : 0;
	}
	if (rc == 0 && next_char(rd) != 0)
		rc = malformed(rd, "something follows its end");
	if (rc == 0 && (!rd->has_files || rd->off != rd->len))
		rc = malformed(rd, "it has no list of files");
	return rc;
}

/* The last line must be the checksum of all lines before it. */
static int
verify_checksum(struct reading *rd)
{
	static const char head[] = "\"Manifest-Checksum\": \"";
	uint8_t stated[CRYPTO_DIGEST_LEN], digest[CRYPTO_DIGEST_LEN];
	char hex[2 * CRYPTO_DIGEST_LEN + 1] = { 0 };
	const size_t line = sizeof(head) - 1 + 2 * CRYPTO_DIGEST_LEN + strlen("\"}\n");
	struct sha256 *sha;
	size_t start;
	int rc;

	if (rd->len <= line || rd->text[rd->len - 1] != '\n')
		return malformed(rd, "it is cut short");
	start = rd->len - line;
	memcpy(hex, rd->text + start + sizeof(head) - 1, 2 * CRYPTO_DIGEST_LEN);
	if (rd->text[start - 1] != '\n' || memcmp(rd->text + start, head, sizeof(head) - 1) != 0 ||
	    memcmp(rd->text + rd->len - 3, "\"}\n", 3) != 0 ||
	    hex_decode(stated, hex, sizeof(stated)))
		return malformed(rd, "its last line is not its checksum");
	rc = sha256_new(&sha);
	if (rc)
		return rc;
	sha256_update(sha, rd->text, start);
	sha256_final(sha, digest);
	sha256_free(sha);
	if (memcmp(stated, digest, sizeof(digest)) != 0)
		return malformed(rd, "its checksum is wrong");
	return 0;
}

int
manifest_read(
    const void *text, size_t len, const struct manifest_reader *reader, struct manifest_info *info)
{
	struct reading rd = { .text = text, .len = len, .reader = reader };
	int rc;

	if (len > MANIFEST_BYTES_MAX)
		return err_set(ERR_DAMAGED, "a backup manifest of %zu bytes is too long", len);
	rc = verify_checksum(&rd);
	if (rc == 0)
		rc = read_members(&rd);
	if (rc == 0 && info)
		*info = rd.info;
	return rc;
}
