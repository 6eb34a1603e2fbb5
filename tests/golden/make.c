/*
 * make: writes the golden repository of this format version, once and for ever.
 *
 * usage: make DIRECTORY
 *
 * Makes DIRECTORY/repo (two snapshots of the source "golden" with every kind of entry and every
 * encoding of chunks), DIRECTORY/passphrase, DIRECTORY/key and DIRECTORY/list: a line for each
 * entry of each snapshot, made from what was written and not from what was read back.  Its fields,
 * separated by tabs: snapshot name, path, type, mode in octal, uid, gid, mtime as seconds.
 * nanoseconds, size, SHA-256 or link target, extended attributes as name=hexadecimal joined by
 * commas.  In paths and targets, bytes outside printable ASCII and '%' stand as %XX; "-" is an
 * empty field.
 *
 * What is committed is never made again; a later format gets a directory of its own.
 */
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/content.h"
#include "store/crypto.h"
#include "store/keyslot.h"
#include "store/repo.h"
#include "store/secret.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "store/tree.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PASSPHRASE "golden passphrase"
#define KEY_BYTES  64
#define KIB        1024u
#define SPARSE     (33 * CONTENT_SPAN_BYTES) /* so many map nodes that a level above is needed */

static FILE *list;

struct maker {
	struct repo_writer *writer;
	struct lane *lane;
	struct tree_builder *tb;
	const struct tree_entry *prev;
	const char *snapshot; /* its name, for the list */
	uint64_t files, bytes;
};

static void
die(const char *doing)
{
	fprintf(stderr, "%s: %s\n", doing, err_msg());
	exit(1);
}

static void
check(int rc, const char *doing)
{
	if (rc)
		die(doing);
}

/* The same bytes for the same seed on every machine. */
static void
noise(uint8_t *out, size_t len, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		out[i] = (uint8_t)(x >> 32);
	}
}

/* Rows that compress as a database's do. */
static void
rows(uint8_t *out, size_t len, uint64_t seed)
{
	char row[64];

	for (size_t i = 0, n = 0; i < len; n++) {
		int w = snprintf(row, sizeof(row),
		    "row %08" PRIu64 " seed %" PRIu64 " value %016" PRIx64 ";", (uint64_t)n, seed,
		    (uint64_t)(n * seed) * 0x9e3779b97f4a7c15u);
		size_t take = (size_t)w < len - i ? (size_t)w : len - i;

		memcpy(out + i, row, take);
		i += take;
	}
}

static void
put_escaped(const char *s)
{
	if (!s || !*s)
		fputc('-', list);
	for (; s && *s; s++)
		if (*s > ' ' && *s < 0x7f && *s != '%')
			fputc(*s, list);
		else
			fprintf(list, "%%%02X", (unsigned char)*s);
}

static void
note(const struct maker *m, const char *path, const struct tree_entry *e, const char *sum)
{
	static const char *const types[] = { "", "file", "dir", "symlink", "fifo", "socket", "char",
		"block" };

	fprintf(list, "%s\t", m->snapshot);
	put_escaped(path);
	fprintf(list, "\t%s\t%04o\t%u\t%u\t%" PRId64 ".%09u\t%" PRIu64 "\t", types[e->type],
	    e->mode, e->uid, e->gid, e->mtime_s, e->mtime_ns, e->content.size);
	put_escaped(e->type == TREE_SYMLINK ? e->target : sum);
	fputc('\t', list);
	for (size_t i = 0; i < e->nxattrs; i++) {
		char hex[2 * 256 + 1];

		hex_encode(hex, e->xattrs[i].value, e->xattrs[i].len);
		fprintf(list, "%s%s=%s", i ? "," : "", e->xattrs[i].name, hex);
	}
	fputs(e->nxattrs ? "\n" : "-\n", list);
}

static struct tree_entry
entry(enum tree_type type, uint32_t mode)
{
	struct tree_entry e = { .type = type,
		.mode = mode,
		.uid = 70,
		.gid = 71,
		.mtime_s = 1700000000,
		.mtime_ns = 123456789 };

	return e;
}

static void
add(struct maker *m, const char *path, struct tree_entry *e, const char *sum)
{
	if (e->type != TREE_DIR)
		note(m, path, e, sum);
	else {
		/* A directory's size is not the content's of a user. */
		struct tree_entry shown = *e;

		shown.content.size = 0;
		note(m, path, &shown, "");
	}
	m->files += e->type == TREE_FILE;
	m->bytes += e->type == TREE_FILE ? e->content.size : 0;
	check(tree_builder_add(m->tb, path, e), path);
}

static void
add_xattr(struct tree_entry *e, const char *name, const void *value, size_t len)
{
	e->xattrs = mem_realloc(e->xattrs, (e->nxattrs + 1) * sizeof(*e->xattrs));
	if (!e->xattrs)
		die("memory");
	e->xattrs[e->nxattrs++] = (struct tree_xattr){
		.name = mem_strdup(name), .value = mem_dup(value, len), .len = len
	};
}

/* Write content as the predecessor's successor, `zeros` bytes of zero in front of `data`. */
static void
write_content(struct maker *m, const char *path, enum chunking chunking, uint64_t zeros,
    const void *data, size_t len, struct content *out, char sum[2 * CRYPTO_DIGEST_LEN + 1])
{
	static uint8_t zero[1024 * KIB];
	uint8_t digest[CRYPTO_DIGEST_LEN];
	struct tree_entry before = { 0 };
	struct content_writer *cw;
	struct sha256 *sha;
	bool has =
	    m->prev && tree_lookup(repo_writer_reader(m->writer), m->prev, path, &before) == 0;

	check(sha256_new(&sha), "hash");
	check(content_writer_new(&cw, m->lane, chunking, has ? &before.content : NULL), path);
	for (uint64_t left = zeros; left;) {
		size_t n = left < sizeof(zero) ? (size_t)left : sizeof(zero);

		check(content_writer_append(cw, zero, n), path);
		sha256_update(sha, zero, n);
		left -= n;
	}
	check(content_writer_append(cw, data, len), path);
	sha256_update(sha, data, len);
	check(content_writer_finish(cw, out), path);
	sha256_final(sha, digest);
	hex_encode(sum, digest, sizeof(digest));
	content_writer_free(cw);
	sha256_free(sha);
	tree_entry_release(&before);
}

static void
add_file(struct maker *m, const char *path, enum chunking chunking, uint64_t zeros,
    const void *data, size_t len, struct tree_entry e)
{
	char sum[2 * CRYPTO_DIGEST_LEN + 1];

	write_content(m, path, chunking, zeros, data, len, &e.content, sum);
	add(m, path, &e, sum);
}

/* Six chunks of 64 KiB and a short one: rows, zeros, noise; changed a little in round 2. */
static void
add_relation(struct maker *m, int round)
{
	size_t chunk = CHUNK_PAGE_BYTES, len = 6 * chunk + 8 * KIB;
	uint8_t *data = mem_alloc(len);

	if (!data)
		die("memory");
	rows(data, chunk, 1);
	noise(data + 2 * chunk, chunk, 2);
	for (int i = 3; i < 6; i++)
		rows(data + (size_t)i * chunk, chunk, (uint64_t)i);
	noise(data + 6 * chunk, 8 * KIB, 3);
	if (round == 2) {
		memcpy(data + 1000, "a change that becomes a delta", 29);
		memcpy(data + 4 * chunk + 77, "and another", 11);
		noise(data + 2 * chunk + 5000, 3000, 4);
	}
	add_file(m, "base/5/1259", CHUNKING_PAGES, 0, data, len, entry(TREE_FILE, 0600));
	/* Two chunks stay in the entry itself. */
	add_file(
	    m, "base/5/2608", CHUNKING_PAGES, 0, data + chunk, 2 * chunk, entry(TREE_FILE, 0600));
	free(data);
}

static void
add_documents(struct maker *m, int round)
{
	size_t len = 1500 * KIB;
	uint8_t *data = mem_alloc(len);
	struct tree_entry e = entry(TREE_FILE, 0640);

	if (!data)
		die("memory");
	rows(data, len, 9);
	noise(data + 700 * KIB, 60 * KIB, 10);
	if (round == 2)
		memmove(data + 300 * KIB + 10, data + 300 * KIB, len - 300 * KIB - 10);
	add_xattr(&e, "user.comment", "an extended attribute", 21);
	add_xattr(&e, "user.empty", "", 0);
	e.mtime_s = -1;
	e.mtime_ns = 999999999;
	add_file(m, "doc/large.txt", CHUNKING_CDC, 0, data, len, e);
	free(data);
	add_file(m, "doc/small.txt", CHUNKING_CDC, 0, "small\n", 6, entry(TREE_FILE, 04755));
	add_file(m, "doc/empty", CHUNKING_CDC, 0, "", 0, entry(TREE_FILE, 0));
	add_file(m, "doc/\xc3\xa9t\xc3\xa9 \n\x01", CHUNKING_CDC, 0, "odd name", 8,
	    entry(TREE_FILE, 0600));
}

static void
add_links(struct maker *m)
{
	struct tree_entry e;

	for (int i = 0; i < 2; i++) {
		e = entry(TREE_FILE, 0600);
		e.hardlink = 1;
		add_file(m, i ? "doc/same.b" : "doc/same.a", CHUNKING_CDC, 0, "one file\n", 9, e);
	}
	e = entry(TREE_SYMLINK, 0777);
	e.target = mem_strdup("../base/5/1259");
	add(m, "doc/link", &e, "");
	e = entry(TREE_FIFO, 0622);
	add(m, "doc/pipe", &e, "");
}

static void
add_directories(struct maker *m, int round)
{
	static const char *const paths[] = { "", "base", "base/5", "doc", "many", "void" };
	struct tree_entry e;
	char path[64];

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		e = entry(TREE_DIR, i == 5 ? 01777 : 0700);
		add(m, paths[i], &e, "");
	}
	/* Enough entries that a directory has several chunks. */
	for (int i = 0; i < 400; i++) {
		snprintf(path, sizeof(path), "many/an entry with a rather long name, number %05d",
		    i * 7);
		if (round == 2 && i == 200)
			strcat(path, ", renamed");
		e = entry(TREE_SYMLINK, 0777);
		e.target = mem_strdup("somewhere/else");
		add(m, path, &e, "");
	}
}

static void
snapshot_fields(struct snapshot *s, const struct maker *m, const struct source *src, int round,
    const struct snapshot *prev)
{
	s->started_us = 1700000000000000 + round * 3600000000;
	s->finished_us = s->started_us + 2500000;
	s->time_us = s->finished_us;
	snapshot_make_id(s);
	memcpy(s->source_id, src->id, sizeof(s->source_id));
	if (prev)
		memcpy(s->parent_id, prev->id, sizeof(s->parent_id));
	s->source_name = mem_strdup(src->name);
	s->name = mem_strdup(m->snapshot);
	s->host = mem_strdup("golden.example");
	s->pastfs_version = mem_strdup(PASTFS_VERSION);
	s->label = mem_strdup(round == 2 ? "after the change" : "");
	s->files = m->files;
	s->logical_bytes = m->bytes;
	s->users = mem_calloc(1, sizeof(*s->users));
	s->groups = mem_calloc(1, sizeof(*s->groups));
	s->parts = mem_calloc(1, sizeof(*s->parts));
	if (!s->users || !s->groups || !s->parts)
		die("memory");
	s->nusers = s->ngroups = s->nparts = 1;
	s->users[0] = (struct snapshot_owner){ .id = 70, .name = mem_strdup("postgres") };
	s->groups[0] = (struct snapshot_owner){ .id = 71, .name = mem_strdup("postgres") };
	s->parts[0].kind = PART_PG;
	s->parts[0].name = mem_strdup("");
	s->parts[0].pg = (struct pg_part){ .system_identifier = 7300000000000000001u,
		.server_version = 150018,
		.timeline = 1,
		.start_lsn = 0x2000028u * (uint64_t)round,
		.stop_lsn = 0x2000100u * (uint64_t)round,
		.checkpoint_lsn = 0x2000060u * (uint64_t)round,
		.wal_segment_bytes = 16 << 20,
		.data_checksums = true,
		.method = PG_METHOD_LOCAL };
}

static void
make_snapshot(const struct repo_opts *opts, const struct source *src, int round,
    const struct snapshot *prev, struct snapshot *out)
{
	struct repo_writer_opts wopts = { .domain_id = src->domain_id };
	struct maker m = { .snapshot = round == 1 ? "2023-11-14T23:13:22Z" : "2023-11-15T00:13:22Z",
		.prev = prev ? &prev->parts[0].root : NULL };

	check(repo_writer_open(&m.writer, opts, &wopts), "open");
	check(lane_new(&m.lane, m.writer), "lane");
	check(tree_builder_new(&m.tb), "tree");
	add_directories(&m, round);
	add_relation(&m, round);
	add_documents(&m, round);
	add_links(&m);
	add_file(&m, "PG_VERSION", CHUNKING_CDC, 0, "15\n", 3, entry(TREE_FILE, 0600));
	add_file(&m, "base/5/sparse", CHUNKING_PAGES, SPARSE, "the end", 7, entry(TREE_FILE, 0600));
	snapshot_fields(out, &m, src, round, prev);
	check(tree_builder_finish(m.tb, m.lane, m.prev, &out->parts[0].root), "directories");
	lane_free(m.lane);
	check(snapshot_commit(m.writer, out), "commit");
	tree_builder_free(m.tb);
	repo_writer_close(m.writer);
}

static void
write_file(const char *dir, const char *name, const void *data, size_t len)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	if (!f || fwrite(data, 1, len, f) != len || fclose(f)) {
		perror(path);
		exit(1);
	}
}

int
main(int argc, char **argv)
{
	char repo[4096], cache[4096], listed[4096];
	struct repo_opts opts = { .url = repo, .cache_dir = cache };
	struct repo_init_opts init = { .slot_label = "passphrase" };
	struct snapshot first = { 0 }, second = { 0 };
	struct credential cred, key;
	struct keyslot_info slot;
	struct source src = {
		.name = "golden", .kind = SOURCE_PG, .system_identifier = 7300000000000000001u
	};
	struct repo_admin *admin;
	uint8_t *secret, *key_bytes;

	if (argc != 2) {
		fprintf(stderr, "usage: make DIRECTORY\n");
		return 2;
	}
	snprintf(repo, sizeof(repo), "%s/repo", argv[1]);
	snprintf(cache, sizeof(cache), "%s/cache", argv[1]);
	snprintf(listed, sizeof(listed), "%s/list", argv[1]);
	list = fopen(listed, "w");
	check(secret_init(), "secrets");
	secret = secret_alloc(sizeof(PASSPHRASE));
	key_bytes = secret_alloc(KEY_BYTES);
	if (!list || !secret || !key_bytes)
		die("begin");
	memcpy(secret, PASSPHRASE, sizeof(PASSPHRASE));
	noise(key_bytes, KEY_BYTES, 99);
	cred = (struct credential){ KEYSLOT_PASSPHRASE, secret, sizeof(PASSPHRASE) - 1 };
	key = (struct credential){ KEYSLOT_KEYFILE, key_bytes, KEY_BYTES };
	opts.cred = &cred;
	write_file(argv[1], "passphrase", PASSPHRASE "\n", sizeof(PASSPHRASE));
	write_file(argv[1], "key", key_bytes, KEY_BYTES);

	check(repo_init(&opts, &init), "init");
	check(repo_admin_open(&admin, &opts), "open");
	check(repo_admin_key_add(admin, "key file", &key, NULL, &slot), "key slot");
	src.conninfo = mem_strdup("host=golden.example");
	memcpy(src.domain_id, repo_reader_header(repo_admin_reader(admin))->default_domain,
	    sizeof(src.domain_id));
	check(source_add(admin, &src), "source");
	repo_admin_close(admin);

	make_snapshot(&opts, &src, 1, NULL, &first);
	make_snapshot(&opts, &src, 2, &first, &second);
	snapshot_release(&first);
	snapshot_release(&second);
	source_release(&src);
	secret_free(secret);
	secret_free(key_bytes);
	return fclose(list) ? 1 : 0;
}
