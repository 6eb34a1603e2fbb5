/*
 * A backup manifest: once as it is, and once as the lines before a right checksum, because no
 * fuzzer guesses one.
 */
#include "pgsync/manifest.h"
#include "store/base/bytes.h"
#include "store/base/hex.h"
#include "store/crypto.h"
#include "store/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int
on_file(void *ctx, const struct manifest_file *f)
{
	size_t *n = ctx;

	if (strlen(f->path) == 0 || strlen(f->path) > TREE_PATH_MAX)
		abort();
	(*n)++;
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct sha256 *sha;
	char line[200], hex[2 * CRYPTO_DIGEST_LEN + 1];
	uint8_t digest[CRYPTO_DIGEST_LEN];
	struct manifest_info info;
	size_t n = 0;
	struct manifest_reader reader = { .file = on_file, .ctx = &n };
	struct bytes text;

	if (!sha && sha256_new(&sha))
		abort();
	manifest_read(data, len, &reader, NULL);
	n = 0;
	bytes_init(&text);
	bytes_put(&text, data, len);
	bytes_put(&text, "\n", 1);
	sha256_update(sha, text.data, text.len);
	sha256_final(sha, digest);
	hex_encode(hex, digest, sizeof(digest));
	snprintf(line, sizeof(line), "\"Manifest-Checksum\": \"%s\"}\n", hex);
	bytes_put(&text, line, strlen(line));
	if (manifest_read(text.data, text.len, &reader, &info) == 0 && info.files != n)
		abort();
	bytes_release(&text);
	return 0;
}
