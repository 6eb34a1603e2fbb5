#include "tests/support/past_fixture.h"

#include "store/base/hex.h"
#include "store/base/utc.h"
#include "store/index.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void
past_fixture_add_source(struct past_fixture *f, const char *name, struct source *out)
{
	struct repo_admin *a;

	memset(out, 0, sizeof(*out));
	snprintf(out->name, sizeof(out->name), "%s", name);
	out->kind = SOURCE_PG;
	out->conninfo = strdup("host=/nowhere");
	fixture_must(repo_admin_open(&a, &f->store.opts), "repo_admin_open");
	memcpy(out->domain_id, repo_reader_header(repo_admin_reader(a))->default_domain,
	    DOMAIN_ID_LEN);
	fixture_must(source_add(a, out), "source_add");
	repo_admin_close(a);
}

void
past_fixture_new(struct past_fixture *f)
{
	memset(f, 0, sizeof(*f));
	store_fixture_make(&f->store);
	past_fixture_add_source(f, "main", &f->source);
}

void
past_fixture_free(struct past_fixture *f)
{
	source_release(&f->source);
	store_fixture_remove(&f->store);
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

	fixture_must(tree_builder_new(&tb), "tree_builder_new");
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
			fixture_content(lane, file->chunking ? file->chunking : CHUNKING_CDC, NULL,
			    file->data, file->len, &e.content);
		if (file->target)
			e.target = strdup(file->target);
		fixture_must(tree_builder_add(tb, file->path, &e), file->path);
	}
	fixture_must(tree_builder_finish(tb, lane, NULL, root), "tree_builder_finish");
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
	fixture_must(repo_writer_open(&w, &f->store.opts, &wopts), "repo_writer_open");
	fixture_must(lane_new(&lane, w), "lane_new");
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
	fixture_must(snapshot_commit(w, out), "snapshot_commit");
	repo_writer_close(w);
}

struct repo_reader *
past_fixture_reader(struct past_fixture *f)
{
	struct repo_reader *r;

	fixture_must(repo_reader_open(&r, &f->store.opts), "repo_reader_open");
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

	fixture_must(index_find(repo_reader_index(r), id, &place), "index_find");
	hex_encode(wanted, place.pack_id, PACK_ID_LEN);
	/* In the middle of the sealed bytes: neither a header nor a neighbour. */
	wanted_off = place.off + place.sealed_len / 2;
	repo_reader_close(r);
	damaged_packs = 0;
	nftw(f->store.url, flip_in_pack, 16, FTW_PHYS);
	if (damaged_packs != 1)
		abort();
}
