#include "tests/support/past_fixture.h"

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/utc.h"
#include "store/index.h"
#include "store/secret.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void
past_must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "%s: %d: %s\n", what, rc, err_msg());
	abort();
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void
past_remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

uint8_t *
past_random(size_t len, uint64_t seed)
{
	uint8_t *p = malloc(len ? len : 1);
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	if (!p)
		abort();
	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)(x >> 32);
	}
	return p;
}

void
past_fixture_add_source(struct past_fixture *f, const char *name, struct source *out)
{
	struct repo_admin *a;

	memset(out, 0, sizeof(*out));
	snprintf(out->name, sizeof(out->name), "%s", name);
	out->kind = SOURCE_PG;
	out->conninfo = strdup("host=/nowhere");
	past_must(repo_admin_open(&a, &f->opts), "repo_admin_open");
	memcpy(out->domain_id, repo_reader_header(repo_admin_reader(a))->default_domain,
	    DOMAIN_ID_LEN);
	past_must(source_add(a, out), "source_add");
	repo_admin_close(a);
}

void
past_fixture_new(struct past_fixture *f)
{
	struct repo_init_opts init = { 0 };
	const char *tmp = getenv("TMPDIR");

	memset(f, 0, sizeof(*f));
	past_must(secret_init(), "secret_init");
	snprintf(f->dir, sizeof(f->dir), "%.40s/pastfs-fs-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(f->dir))
		abort();
	snprintf(f->repo, sizeof(f->repo), "%s/repo", f->dir);
	snprintf(f->cache, sizeof(f->cache), "%s/cache", f->dir);
	if (mkdir(f->cache, 0700))
		abort();
	memset(f->key, 7, sizeof(f->key));
	f->cred = (struct credential){
		.kind = KEYSLOT_KEYFILE,
		.data = f->key,
		.len = sizeof(f->key),
	};
	f->opts = (struct repo_opts){ .url = f->repo, .cred = &f->cred, .cache_dir = f->cache };
	past_must(repo_init(&f->opts, &init), "repo_init");
	past_fixture_add_source(f, "main", &f->source);
}

void
past_fixture_free(struct past_fixture *f)
{
	source_release(&f->source);
	past_remove_tree(f->dir);
}

static void
write_file(struct lane *lane, const struct past_file *file, struct content *content)
{
	enum chunking chunking = file->chunking ? file->chunking : CHUNKING_CDC;
	struct content_writer *cw;

	past_must(content_writer_new(&cw, lane, chunking, NULL), "content_writer_new");
	past_must(content_writer_append(cw, file->data, file->len), "content_writer_append");
	past_must(content_writer_finish(cw, content), "content_writer_finish");
	content_writer_free(cw);
}

static void
copy_xattrs(const struct past_file *file, struct tree_entry *e)
{
	if (!file->nxattrs)
		return;
	e->xattrs = calloc(file->nxattrs, sizeof(*e->xattrs));
	if (!e->xattrs)
		abort();
	for (; e->nxattrs < file->nxattrs; e->nxattrs++) {
		const struct tree_xattr *from = &file->xattrs[e->nxattrs];
		struct tree_xattr *to = &e->xattrs[e->nxattrs];

		to->name = strdup(from->name);
		to->value = malloc(from->len ? from->len : 1);
		if (!to->name || !to->value)
			abort();
		memcpy(to->value, from->value, from->len);
		to->len = from->len;
	}
}

static void
write_tree(struct lane *lane, const struct past_part *part, struct tree_entry *root)
{
	struct tree_builder *tb;

	past_must(tree_builder_new(&tb), "tree_builder_new");
	for (size_t i = 0; i < part->nfiles; i++) {
		const struct past_file *file = &part->files[i];
		struct tree_entry e = {
			.type = file->type,
			.mode = file->mode,
			.uid = file->uid,
			.gid = file->gid,
			.mtime_s = file->mtime_s,
			.mtime_ns = file->mtime_s ? 123456789 : 0,
			.hardlink = file->hardlink,
		};

		copy_xattrs(file, &e);
		if (file->type == TREE_FILE)
			write_file(lane, file, &e.content);
		if (file->target)
			e.target = strdup(file->target);
		past_must(tree_builder_add(tb, file->path, &e), file->path);
	}
	past_must(tree_builder_finish(tb, lane, NULL, root), "tree_builder_finish");
	tree_builder_free(tb);
}

void
past_fixture_snapshot(struct past_fixture *f, const struct source *source, int64_t time_s,
    const struct past_part *parts, size_t nparts, struct snapshot *out)
{
	const struct repo_writer_opts wopts = { 0 };
	struct repo_writer *w;
	struct lane *lane;
	char name[UTC_TEXT_MAX];

	if (!source)
		source = &f->source;
	past_must(repo_writer_open(&w, &f->opts, &wopts), "repo_writer_open");
	past_must(lane_new(&lane, w), "lane_new");
	memset(out, 0, sizeof(*out));
	memcpy(out->source_id, source->id, SOURCE_ID_LEN);
	out->time_us = out->started_us = out->finished_us = time_s * 1000000;
	utc_format(out->time_us, name);
	out->name = strdup(name);
	out->source_name = strdup(source->name);
	out->host = strdup("here");
	out->pastfs_version = strdup("0");
	out->label = strdup("");
	out->parts = calloc(nparts, sizeof(*out->parts));
	for (size_t i = 0; i < nparts; i++) {
		out->parts[i].kind = PART_PG;
		out->parts[i].name = strdup(parts[i].name);
		out->parts[i].pg.server_version = 150000;
		out->parts[i].pg.system_identifier = 1;
		out->parts[i].pg.timeline = 1;
		out->parts[i].pg.method = PG_METHOD_LOCAL;
		out->parts[i].pg.wal_segment_bytes = 16u << 20;
		write_tree(lane, &parts[i], &out->parts[i].root);
		out->files += parts[i].nfiles;
		out->nparts++;
	}
	snapshot_make_id(out);
	lane_free(lane);
	past_must(snapshot_commit(w, out), "snapshot_commit");
	repo_writer_close(w);
}

struct repo_reader *
past_fixture_reader(struct past_fixture *f)
{
	struct repo_reader *r;

	past_must(repo_reader_open(&r, &f->opts), "repo_reader_open");
	return r;
}

/* ---- damage ---- */

static char wanted[2 * PACK_ID_LEN + 1];
static uint64_t wanted_off;
static int damaged_packs;

static int
flip_in_pack(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	uint8_t byte;
	int fd;

	(void)st;
	if (type != FTW_F || strcmp(path + ftw->base, wanted) != 0)
		return 0;
	chmod(path, 0600);
	fd = open(path, O_RDWR);
	if (fd == -1 || pread(fd, &byte, 1, (off_t)wanted_off) != 1)
		abort();
	byte ^= 1;
	if (pwrite(fd, &byte, 1, (off_t)wanted_off) != 1)
		abort();
	close(fd);
	damaged_packs++;
	return 0;
}

void
past_fixture_damage(struct past_fixture *f, const struct chunk_id *id)
{
	struct repo_reader *r = past_fixture_reader(f);
	struct index_place place;

	past_must(index_find(repo_reader_index(r), id, &place), "index_find");
	hex_encode(wanted, place.pack_id, PACK_ID_LEN);
	/* In the middle of the sealed bytes: neither a header nor a neighbour. */
	wanted_off = place.off + place.sealed_len / 2;
	repo_reader_close(r);
	damaged_packs = 0;
	nftw(f->repo, flip_in_pack, 16, FTW_PHYS);
	if (damaged_packs != 1)
		abort();
}
