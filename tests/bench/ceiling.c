/*
 * ceiling: what this machine gives for the work that cannot be avoided, on all its processors.
 *
 * usage: ceiling store|detect|decode THREADS FILE...
 *
 *   store   read, name (keyed 256-bit hash), zstd level 1, AES-256-GCM: what a full backup must do
 *   detect  read and fingerprint: what a backup of changed files must do
 *   decode  AES-GCM open and zstd decode of what `store` made, kept in memory: what a restore or
 *           a mount must do
 *
 * Files are taken in pieces of 64 KiB by the store's own primitives, without packs, index or
 * output.  Prints bytes and seconds as one line of JSON.
 */
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"
#include "store/chunk.h"
#include "store/codec.h"
#include "store/crypto.h"
#include "store/fingerprint.h"
#include "store/secret.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PIECE       CHUNK_PAGE_BYTES
#define SPAN        (64u * PIECE) /* taken by a thread at a time */
#define DECODE_KEPT (256u << 20)  /* of content, for `decode` */
#define MAX_SPANS   (1u << 20)

enum mode { STORE, DETECT, DECODE };

struct span {
	const char *path;
	uint64_t off;
	size_t len;
};

struct sealed {
	uint8_t *data;
	size_t len, encoded_len, content_len;
	enum encoding encoding;
	uint8_t nonce[CRYPTO_NONCE_LEN];
};

static enum mode mode;
static struct span *spans;
static size_t nspans;
static _Atomic size_t next_span;
static _Atomic uint64_t bytes_done;
static struct sealed *kept;
static _Atomic size_t nkept;
static size_t kept_max;

struct worker {
	struct mac *mac;
	struct codec *codec;
	struct aead *aead;
	struct fingerprinter *fp;
	uint8_t *in, *coded, *sealed;
	uint64_t counter;
};

static const uint8_t key[CRYPTO_KEY_LEN] = { 1, 2, 3 };

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int
add_file(const char *path)
{
	struct stat st;

	if (sys_fstatat(AT_FDCWD, path, &st, 0))
		return err_sys("look at %s", path);
	for (uint64_t off = 0; off < (uint64_t)st.st_size && nspans < MAX_SPANS; off += SPAN) {
		uint64_t left = (uint64_t)st.st_size - off;

		spans[nspans++] = (struct span){ path, off, left < SPAN ? (size_t)left : SPAN };
	}
	return 0;
}

static int
worker_init(struct worker *w)
{
	int rc = mac_new(&w->mac, ID_HMAC_SHA256, key);

	if (!rc)
		rc = codec_new(&w->codec, 1);
	if (!rc)
		rc = fingerprinter_new(&w->fp, key);
	if (!rc)
		rc = aead_new(&w->aead);
	if (!rc)
		rc = aead_set_key(w->aead, key);
	w->in = mem_alloc(SPAN);
	w->coded = mem_alloc(codec_bound(PIECE));
	w->sealed = mem_alloc(codec_bound(PIECE) + CRYPTO_TAG_LEN);
	if (!rc && (!w->in || !w->coded || !w->sealed))
		rc = err_nomem();
	return rc;
}

static void
worker_release(struct worker *w)
{
	mac_free(w->mac);
	codec_free(w->codec);
	aead_free(w->aead);
	fingerprinter_free(w->fp);
	free(w->in);
	free(w->coded);
	free(w->sealed);
}

static int
keep(const struct worker *w, size_t len, size_t encoded_len, enum encoding encoding,
    const uint8_t nonce[CRYPTO_NONCE_LEN])
{
	size_t i = atomic_fetch_add(&nkept, 1);

	if (i >= kept_max) {
		atomic_store(&nkept, kept_max);
		return 0;
	}
	kept[i] = (struct sealed){ .len = encoded_len + CRYPTO_TAG_LEN,
		.encoded_len = encoded_len,
		.content_len = len,
		.encoding = encoding };
	memcpy(kept[i].nonce, nonce, CRYPTO_NONCE_LEN);
	kept[i].data = mem_dup(w->sealed, kept[i].len);
	return kept[i].data ? 0 : err_nomem();
}

static int
store_piece(struct worker *w, int number, const uint8_t *data, size_t len)
{
	uint8_t id[CRYPTO_DIGEST_LEN], nonce[CRYPTO_NONCE_LEN] = { (uint8_t)number };
	enum encoding encoding;
	size_t n;
	int rc = mac_compute(w->mac, data, len, id);

	if (!rc)
		rc = codec_encode(w->codec, data, len, w->coded, &n, &encoding);
	w->counter++;
	memcpy(nonce + 4, &w->counter, sizeof(w->counter));
	if (!rc)
		rc = aead_seal(w->aead, nonce, id, sizeof(id), w->coded, n, w->sealed);
	if (!rc && mode == DECODE) {
		/* Opened without the id: `decode` measures opening and decoding alone. */
		rc = aead_seal(w->aead, nonce, NULL, 0, w->coded, n, w->sealed);
		if (!rc)
			rc = keep(w, len, n, encoding, nonce);
	}
	return rc;
}

static int
detect_piece(struct worker *w, const uint8_t *data, size_t len)
{
	uint8_t fp[FINGERPRINT_LEN];

	fingerprint(w->fp, data, len, fp);
	return 0;
}

static int
run_worker(void *arg, int number)
{
	struct worker w = { 0 };
	int rc = worker_init(&w), fd = -1;
	size_t i;
	(void)arg;

	while (!rc && (i = atomic_fetch_add(&next_span, 1)) < nspans) {
		const struct span *s = &spans[i];
		ssize_t got;

		fd = sys_openat(AT_FDCWD, s->path, O_RDONLY | O_CLOEXEC, 0);
		got = fd == -1 ? -1 : sys_pread_full(fd, w.in, s->len, s->off);
		if (got < 0) {
			rc = err_sys("read %s", s->path);
			break;
		}
		for (size_t off = 0; !rc && off < (size_t)got; off += PIECE) {
			size_t n = (size_t)got - off < PIECE ? (size_t)got - off : PIECE;

			rc = mode == DETECT ? detect_piece(&w, w.in + off, n)
					    : store_piece(&w, number, w.in + off, n);
		}
		atomic_fetch_add(&bytes_done, (uint64_t)got);
		sys_close(&fd);
		if (mode == DECODE && atomic_load(&nkept) >= kept_max)
			break;
	}
	sys_close(&fd);
	worker_release(&w);
	return rc;
}

static int
run_decoder(void *arg, int number)
{
	struct worker w = { 0 };
	size_t i, n = atomic_load(&nkept);
	int rc = worker_init(&w);
	(void)arg;
	(void)number;

	while (!rc && (i = atomic_fetch_add(&next_span, 1)) < n) {
		const struct sealed *s = &kept[i];

		rc = aead_open(w.aead, s->nonce, NULL, 0, s->data, s->len, w.coded);
		if (!rc)
			rc = codec_decode(w.codec, s->encoding, w.coded, s->encoded_len, NULL, 0,
			    w.in, s->content_len);
		atomic_fetch_add(&bytes_done, s->content_len);
	}
	worker_release(&w);
	return rc;
}

int
main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 0, rc = 0;
	double began, took;

	if (argc < 4 || threads < 1) {
		fprintf(stderr, "usage: ceiling store|detect|decode THREADS FILE...\n");
		return 2;
	}
	if (secret_init()) {
		fprintf(stderr, "ceiling: %s\n", err_msg());
		return 1;
	}
	mode = argv[1][0] == 's' ? STORE : strcmp(argv[1], "detect") == 0 ? DETECT : DECODE;
	kept_max = DECODE_KEPT / PIECE;
	spans = mem_calloc(MAX_SPANS, sizeof(*spans));
	kept = mem_calloc(kept_max, sizeof(*kept));
	if (!spans || !kept)
		rc = err_nomem();
	for (int i = 3; !rc && i < argc; i++)
		rc = add_file(argv[i]);
	began = now();
	if (!rc)
		rc = parallel_run(threads, run_worker, NULL);
	if (!rc && mode == DECODE) {
		atomic_store(&next_span, 0);
		atomic_store(&bytes_done, 0);
		began = now();
		rc = parallel_run(threads, run_decoder, NULL);
	}
	took = now() - began;
	if (rc)
		fprintf(stderr, "ceiling: %s\n", err_msg());
	else
		printf("{\"bytes\": %" PRIu64 ", \"seconds\": %.6f}\n", atomic_load(&bytes_done),
		    took);
	for (size_t i = 0; kept && i < kept_max; i++)
		free(kept[i].data);
	free(kept);
	free(spans);
	return rc ? 1 : 0;
}
