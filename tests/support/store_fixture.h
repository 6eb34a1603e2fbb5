/*
 * store_fixture: a throw-away repository for tests.
 */
#ifndef TESTS_SUPPORT_STORE_FIXTURE_H
#define TESTS_SUPPORT_STORE_FIXTURE_H

#include "store/content.h"
#include "store/repo.h"
#include "store/tree.h"

#include <stddef.h>
#include <stdint.h>

struct store_fixture {
	char dir[200];   /* a fresh directory; the repository is dir/repo */
	char url[220];
	char cache[220];
	struct credential cred;
	struct repo_opts opts;
};

#define FIXTURE_PASSPHRASE "correct horse battery staple"

/* Make the directory and the repository in it, with a cheap key slot.  Aborts the test on error. */
void store_fixture_make(struct store_fixture *f);
/* Remove everything. */
void store_fixture_remove(struct store_fixture *f);

/* A new temporary directory; `out` has room for 200 bytes. */
void fixture_tempdir(char *out);
/* Remove a directory with everything in it. */
void fixture_rmtree(const char *dir);

/* `len` bytes that compress somewhat, the same for the same seed. */
void fixture_text(uint8_t *buf, size_t len, uint64_t seed);
/* `len` bytes that do not compress. */
void fixture_noise(uint8_t *buf, size_t len, uint64_t seed);

/* Write `data` as content; aborts the test on error. */
void fixture_content(struct lane *lane, enum chunking chunking, const struct content *prev,
    const void *data, size_t len, struct content *out);

#endif
