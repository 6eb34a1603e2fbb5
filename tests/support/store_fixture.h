/*
 * store_fixture: a throw-away repository for tests, and what goes with it: directories, contents.
 *
 * Any failure here is a fault of the test's ground, so it ends the program with the message.
 */
#ifndef TESTS_SUPPORT_STORE_FIXTURE_H
#define TESTS_SUPPORT_STORE_FIXTURE_H

#include "store/content.h"
#include "store/repo.h"
#include "store/tree.h"

#include <stddef.h>
#include <stdint.h>

struct store_fixture {
	char dir[200]; /* a fresh directory; the repository is dir/repo */
	char url[220];
	char cache[220];
	struct credential cred;
	struct repo_opts opts;
};

#define FIXTURE_PASSPHRASE "correct horse battery staple"

/* Make the directory and the repository in it, with a cheap key slot. */
void store_fixture_make(struct store_fixture *f);
/* Remove everything. */
void store_fixture_remove(struct store_fixture *f);

/* A new temporary directory; `out` has room for 200 bytes. */
void fixture_tempdir(char *out);
/* Remove a directory with everything in it but what is mounted there.  As nftw(3): 0 or not. */
int fixture_rmtree(const char *dir);

/* `len` bytes that compress somewhat, the same for the same seed. */
void fixture_text(uint8_t *buf, size_t len, uint64_t seed);
/* `len` bytes that do not compress. */
void fixture_noise(uint8_t *buf, size_t len, uint64_t seed);
/* The same in a new buffer, to free(). */
uint8_t *fixture_noise_new(size_t len, uint64_t seed);

/* Write `data` as content. */
void fixture_content(struct lane *lane, enum chunking chunking, const struct content *prev,
    const void *data, size_t len, struct content *out);

/* How many objects the repository has whose names begin with `prefix`. */
size_t fixture_count_objects(struct repo_reader *r, const char *prefix);

/* End the test program with this thread's message unless rc is 0. */
void fixture_must(int rc, const char *what);

#endif
