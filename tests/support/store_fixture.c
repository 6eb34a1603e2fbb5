#include "tests/support/store_fixture.h"

#include "store/backend.h"
#include "store/base/err.h"
#include "store/secret.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void
fixture_must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "%s: %d: %s\n", what, rc, err_msg());
	abort();
}

void
fixture_tempdir(char *out)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(out, 200, "%s/pastfs-test-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(out)) {
		perror(out);
		abort();
	}
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int
fixture_rmtree(const char *dir)
{
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void
store_fixture_make(struct store_fixture *f)
{
	const struct repo_init_opts init = { .slot_label = "test",
		.cost = { .argon_ops = 1, .argon_mem_bytes = 8192 } };

	memset(f, 0, sizeof(*f));
	fixture_must(secret_init(), "secret_init");
	fixture_tempdir(f->dir);
	snprintf(f->url, sizeof(f->url), "%s/repo", f->dir);
	snprintf(f->cache, sizeof(f->cache), "%s/cache", f->dir);
	f->cred.kind = KEYSLOT_PASSPHRASE;
	f->cred.data = FIXTURE_PASSPHRASE;
	f->cred.len = strlen(FIXTURE_PASSPHRASE);
	f->opts.url = f->url;
	f->opts.cred = &f->cred;
	f->opts.cache_dir = f->cache;
	fixture_must(repo_init(&f->opts, &init), "repo_init");
}

void
store_fixture_remove(struct store_fixture *f)
{
	fixture_rmtree(f->dir);
}

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

void
fixture_noise(uint8_t *buf, size_t len, uint64_t seed)
{
	uint64_t s = seed * 2654435761u + 88172645463325252u;

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(next_random(&s) >> 24);
}

uint8_t *
fixture_noise_new(size_t len, uint64_t seed)
{
	uint8_t *buf = malloc(len ? len : 1);

	if (!buf)
		abort();
	fixture_noise(buf, len, seed);
	return buf;
}

void
fixture_text(uint8_t *buf, size_t len, uint64_t seed)
{
	static const char *const words[] = { "patient ", "ward ", "blood ", "pressure ", "2026-11-",
		"normal ", "doctor ", "room ", "\n", "0.0", "transfer ", "insulin " };
	uint64_t s = seed * 2654435761u + 88172645463325252u;
	size_t at = 0;

	while (at < len) {
		char word[32];
		uint64_t r = next_random(&s);
		int n =
		    snprintf(word, sizeof(word), "%s%u", words[r % 12], (unsigned)(r >> 32) % 1000);
		size_t take = (size_t)n < len - at ? (size_t)n : len - at;

		memcpy(buf + at, word, take);
		at += take;
	}
}

void
fixture_content(struct lane *lane, enum chunking chunking, const struct content *prev,
    const void *data, size_t len, struct content *out)
{
	struct content_writer *cw;

	fixture_must(content_writer_new(&cw, lane, chunking, prev), "content_writer_new");
	fixture_must(content_writer_append(cw, data, len), "content_writer_append");
	fixture_must(content_writer_finish(cw, out), "content_writer_finish");
	content_writer_free(cw);
}

static int
count_one(void *ctx, const char *name, const struct object_info *info)
{
	(void)name;
	(void)info;
	++*(size_t *)ctx;
	return 0;
}

size_t
fixture_count_objects(struct repo_reader *r, const char *prefix)
{
	size_t n = 0;

	fixture_must(backend_list(repo_reader_backend(r), prefix, count_one, &n), prefix);
	return n;
}
