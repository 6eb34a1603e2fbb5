/*
 * `lock` protects everything that feeder and workers share: the list of units, each unit's pieces
 * and `fed`, `in_flight`, `closed`, `failure`, `spare` and the suspects.  `work` is signalled when
 * a worker has something to do, `room` when the window has room again.
 *
 * It cannot stand still: units are taken in order, so when the window is full, the oldest units
 * are with workers, and all but the last unit have all their pieces.
 */
#include "pgsync/filefeed.h"

#include "pgsync/backup_job.h"
#include "pgsync/pgfiles.h"
#include "pgsync/pgpage.h"
#include "pgsync/predecessor.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/content.h"
#include "store/tree.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SPARE_MAX 16 /* pieces kept for the next use */

struct piece {
	struct piece *next;
	size_t len, cap;
	uint8_t data[];
};

struct file {
	char *path;
	struct pgfile kind;
	uint64_t size;
	uint32_t mode;
	int64_t mtime_s;
	bool has_prev;
	struct content prev;
	size_t nunits, left;         /* `left` by the lock: units not done */
	struct content_part **parts; /* when there is more than one unit */
};

struct unit {
	struct unit *next;
	struct file *file;
	uint64_t span;
	struct piece *first, *last;
	bool fed; /* no more pieces come */
};

struct filefeed {
	struct backup_job *job;
	struct filefeed_opts opts;
	struct pgpage_rules rules;
	struct predecessor *prev;

	/* The feeder's own: what is being fed. */
	struct file *file; /* NULL between files */
	struct unit *unit; /* also in the workers' hands */
	struct piece *filling;
	uint64_t off; /* in the file */

	pthread_mutex_t lock;
	pthread_cond_t work, room;
	struct unit *first, *last; /* not yet taken by a worker */
	size_t in_flight;
	bool closed, stop;
	struct err_saved failure;
	struct piece *spare;
	size_t nspare;
	struct filefeed_suspect *suspects;
	size_t nsuspects;

	pthread_t *threads;
	int nthreads;
};

/* ---- failure ---- */

/* Called with the lock. */
static void
fail_locked(struct filefeed *ff, int rc)
{
	if (!ff->failure.code)
		err_save(&ff->failure, rc);
	ff->stop = true;
	pthread_cond_broadcast(&ff->work);
	pthread_cond_broadcast(&ff->room);
}

/* ---- pieces ---- */

/*
 * A piece for up to `want` bytes, once the window has room for it.  The user's wish to stop ends
 * the wait through the workers, whose lanes hear it.
 */
static int
get_piece(struct filefeed *ff, size_t want, struct piece **out)
{
	struct piece *p = NULL;
	int rc = 0;

	*out = NULL;
	pthread_mutex_lock(&ff->lock);
	while (!ff->stop && ff->in_flight > 0 && ff->in_flight + want > ff->opts.window)
		pthread_cond_wait(&ff->room, &ff->lock);
	if (ff->stop) {
		rc = ff->failure.code ? err_restore(&ff->failure) : ERR_CANCELLED;
	} else {
		ff->in_flight += want;
		if (want == FILEFEED_PIECE_BYTES && ff->spare) {
			p = ff->spare;
			ff->spare = p->next;
			ff->nspare--;
		}
	}
	pthread_mutex_unlock(&ff->lock);
	if (rc)
		return rc;
	if (!p) {
		p = mem_alloc(sizeof(*p) + want);
		if (!p)
			return err_nomem();
		p->cap = want;
	}
	p->next = NULL;
	p->len = 0;
	*out = p;
	return 0;
}

/* Called with the lock. */
static void
put_piece_locked(struct filefeed *ff, struct piece *p)
{
	ff->in_flight -= p->cap;
	if (p->cap == FILEFEED_PIECE_BYTES && ff->nspare < SPARE_MAX) {
		p->next = ff->spare;
		ff->spare = p;
		ff->nspare++;
	} else {
		free(p);
	}
	pthread_cond_signal(&ff->room);
}

static void
hand_over_piece(struct filefeed *ff)
{
	struct unit *u = ff->unit;

	pthread_mutex_lock(&ff->lock);
	if (u->last)
		u->last->next = ff->filling;
	else
		u->first = ff->filling;
	u->last = ff->filling;
	ff->filling = NULL;
	pthread_cond_broadcast(&ff->work);
	pthread_mutex_unlock(&ff->lock);
}

/* ---- files and units ---- */

static void
file_free(struct file *f)
{
	if (!f)
		return;
	for (size_t i = 0; f->parts && i < f->nunits; i++)
		content_part_free(f->parts[i]);
	free(f->parts);
	content_release(&f->prev);
	free(f->path);
	free(f);
}

/* Free a unit that no worker has; the file goes with its last unit.  Called with the lock. */
static void
unit_free_locked(struct filefeed *ff, struct unit *u)
{
	while (u->first) {
		struct piece *p = u->first;

		u->first = p->next;
		put_piece_locked(ff, p);
	}
	if (--u->file->left == 0)
		file_free(u->file);
	free(u);
}

static bool
is_main(const struct file *f)
{
	return f->kind.kind == PGFILE_MAIN;
}

static int
find_prev(struct filefeed *ff, struct file *f)
{
	const struct tree_entry *e;
	int rc = predecessor_find(ff->prev, f->path, &e);

	if (rc || !e || is_main(f) != (e->content.chunking == CHUNKING_PAGES))
		return rc;
	rc = content_copy(&f->prev, &e->content);
	f->has_prev = rc == 0;
	return rc;
}

int
filefeed_begin(struct filefeed *ff, const struct filefeed_file *file)
{
	struct file *f = mem_alloc(sizeof(*f));
	int rc;

	assert(!ff->file);
	if (!f)
		return err_nomem();
	f->path = mem_strdup(file->path);
	if (!f->path) {
		rc = err_nomem();
		goto out;
	}
	pgfiles_classify(f->path, &f->kind);
	f->size = file->size;
	f->mode = file->mode;
	f->mtime_s = file->mtime_s;
	f->nunits = 1;
	if (is_main(f) && f->size > CONTENT_SPAN_BYTES)
		f->nunits = (size_t)((f->size + CONTENT_SPAN_BYTES - 1) / CONTENT_SPAN_BYTES);
	if (f->nunits > 1) {
		f->parts = mem_calloc(f->nunits, sizeof(struct content_part *));
		if (!f->parts) {
			rc = err_nomem();
			goto out;
		}
	}
	/* Until its last unit exists, the feeder holds the file, too. */
	f->left = f->nunits + 1;
	rc = find_prev(ff, f);
	if (rc)
		goto out;
	ff->file = f;
	ff->off = 0;
	f = NULL;
out:
	file_free(f);
	return rc;
}

/* The next unit of the file, visible to the workers at once. */
static int
open_unit(struct filefeed *ff)
{
	struct unit *u = mem_alloc(sizeof(*u));

	if (!u)
		return err_nomem();
	u->file = ff->file;
	u->span = ff->off / CONTENT_SPAN_BYTES;
	pthread_mutex_lock(&ff->lock);
	if (ff->last)
		ff->last->next = u;
	else
		ff->first = u;
	ff->last = u;
	ff->unit = u;
	pthread_cond_broadcast(&ff->work);
	pthread_mutex_unlock(&ff->lock);
	return 0;
}

static void
close_unit(struct filefeed *ff)
{
	if (ff->filling)
		hand_over_piece(ff);
	pthread_mutex_lock(&ff->lock);
	ff->unit->fed = true;
	ff->unit = NULL;
	pthread_cond_broadcast(&ff->work);
	pthread_mutex_unlock(&ff->lock);
}

/* Where the unit under way ends in the file. */
static uint64_t
unit_end(const struct filefeed *ff)
{
	const struct file *f = ff->file;
	uint64_t end = (ff->unit->span + 1) * CONTENT_SPAN_BYTES;

	return f->nunits > 1 && end < f->size ? end : f->size;
}

int
filefeed_data(struct filefeed *ff, const void *data, size_t len)
{
	const uint8_t *p = data;

	assert(ff->file && len <= ff->file->size - ff->off);
	while (len > 0) {
		uint64_t left;
		size_t n;
		int rc = ff->unit ? 0 : open_unit(ff);

		if (rc)
			return rc;
		assert(ff->unit);
		left = unit_end(ff) - ff->off;
		if (!ff->filling)
			rc = get_piece(ff,
			    left < FILEFEED_PIECE_BYTES ? (size_t)left : FILEFEED_PIECE_BYTES,
			    &ff->filling);
		if (rc)
			return rc;
		n = ff->filling->cap - ff->filling->len;
		n = n < len ? n : len;
		memcpy(ff->filling->data + ff->filling->len, p, n);
		ff->filling->len += n;
		ff->off += n;
		p += n;
		len -= n;
		if (ff->filling->len == ff->filling->cap)
			hand_over_piece(ff);
		if (ff->off == ff->file->size || (ff->file->nunits > 1 && left == n))
			close_unit(ff);
	}
	return 0;
}

int
filefeed_end(struct filefeed *ff)
{
	struct file *f = ff->file;
	int rc;

	assert(f && ff->off == f->size);
	if (f->size == 0) {
		rc = open_unit(ff);
		if (rc)
			return rc;
		close_unit(ff);
	}
	ff->file = NULL;
	pthread_mutex_lock(&ff->lock);
	if (--f->left == 0)
		file_free(f);
	rc = ff->failure.code ? err_restore(&ff->failure) : 0;
	pthread_mutex_unlock(&ff->lock);
	return rc ? rc : cancel_check();
}

/* ---- workers ---- */

/* The next piece of a unit, waiting for it.  1: there are no more. */
static int
next_piece(struct filefeed *ff, struct unit *u, struct piece **out)
{
	int rc = 0;

	*out = NULL;
	pthread_mutex_lock(&ff->lock);
	while (!ff->stop && !u->first && !u->fed)
		pthread_cond_wait(&ff->work, &ff->lock);
	if (ff->stop) {
		rc = ERR_CANCELLED;
	} else if (u->first) {
		*out = u->first;
		u->first = u->first->next;
		if (!u->first)
			u->last = NULL;
	} else {
		rc = 1;
	}
	pthread_mutex_unlock(&ff->lock);
	return rc;
}

static int
suspect(
    struct filefeed *ff, const struct file *f, uint64_t off, uint32_t block, const uint8_t *page)
{
	struct filefeed_suspect s = {
		.off = off,
		.block = block,
		.stored_checksum = pgpage_stored_checksum(page),
		.computed_checksum = pgpage_checksum(page, block),
	};
	struct filefeed_suspect *list;
	int rc = 0;

	pthread_mutex_lock(&ff->lock);
	if (ff->nsuspects >= SNAPSHOT_BAD_PAGES_MAX) {
		/* So many are no torn reads. */
		pthread_mutex_unlock(&ff->lock);
		return backup_job_bad_page(
		    ff->job, f->path, block, s.stored_checksum, s.computed_checksum);
	}
	list = mem_realloc(ff->suspects, (ff->nsuspects + 1) * sizeof(*list));
	if (list) {
		ff->suspects = list;
		s.path = mem_strdup(f->path);
	}
	if (s.path)
		list[ff->nsuspects++] = s;
	else
		rc = err_nomem();
	pthread_mutex_unlock(&ff->lock);
	return rc;
}

/* Check the whole pages of a piece that lies at `off` of its file. */
static int
check_pages(struct filefeed *ff, const struct file *f, uint64_t off, const struct piece *p)
{
	uint32_t block = f->kind.segment * PGPAGE_SEGMENT_BLOCKS + (uint32_t)(off / PGPAGE_BYTES);

	for (size_t at = 0; at + PGPAGE_BYTES <= p->len; at += PGPAGE_BYTES, block++) {
		int rc;

		if (pgpage_check(p->data + at, block, &ff->rules) != PGPAGE_BAD)
			continue;
		rc = suspect(ff, f, off + at, block, p->data + at);
		if (rc)
			return rc;
	}
	atomic_fetch_add(&ff->job->pages_checked, p->len / PGPAGE_BYTES);
	return 0;
}

static int
write_pieces(struct filefeed *ff, struct unit *u, struct content_writer *cw)
{
	uint64_t off = u->file->nunits > 1 ? u->span * CONTENT_SPAN_BYTES : 0;
	struct piece *p;
	int rc;

	while ((rc = next_piece(ff, u, &p)) == 0) {
		if (u->file->kind.kind != PGFILE_OTHER)
			rc = check_pages(ff, u->file, off, p);
		if (rc == 0)
			rc = content_writer_append(cw, p->data, p->len);
		off += p->len;
		pthread_mutex_lock(&ff->lock);
		put_piece_locked(ff, p);
		pthread_mutex_unlock(&ff->lock);
		if (rc)
			return rc;
	}
	return rc == 1 ? 0 : rc;
}

/* The file is complete: into the tree with it.  Takes `content`. */
static int
add_file(struct filefeed *ff, const struct file *f, struct content *content)
{
	struct tree_entry e = {
		.type = TREE_FILE,
		.mode = f->mode,
		.uid = ff->opts.uid,
		.gid = ff->opts.gid,
		.mtime_s = f->mtime_s,
		.content = *content,
	};

	memset(content, 0, sizeof(*content));
	backup_job_file(ff->job, f->size, f->size);
	return tree_builder_add(ff->job->tree, f->path, &e);
}

static int
store_whole(struct filefeed *ff, struct lane *lane, struct unit *u)
{
	struct file *f = u->file;
	struct content_writer *cw = NULL;
	struct content content = { 0 };
	int rc;

	rc = content_writer_new(
	    &cw, lane, is_main(f) ? CHUNKING_PAGES : CHUNKING_CDC, f->has_prev ? &f->prev : NULL);
	if (rc == 0)
		rc = write_pieces(ff, u, cw);
	if (rc == 0)
		rc = content_writer_finish(cw, &content);
	content_writer_free(cw);
	if (rc == 0)
		rc = add_file(ff, f, &content);
	return rc;
}

/* Whether all units of the file but this one are done. */
static bool
is_last_unit(struct filefeed *ff, struct file *f, uint64_t span, struct content_part *part)
{
	bool last = true;

	pthread_mutex_lock(&ff->lock);
	f->parts[span] = part;
	for (size_t i = 0; i < f->nunits; i++)
		last = last && f->parts[i];
	pthread_mutex_unlock(&ff->lock);
	return last;
}

static int
store_span(struct filefeed *ff, struct lane *lane, struct unit *u)
{
	struct file *f = u->file;
	struct content_writer *cw = NULL;
	struct content_part *part = NULL;
	struct content content = { 0 };
	int rc;

	rc = content_writer_new_span(&cw, lane, u->span, f->has_prev ? &f->prev : NULL);
	if (rc == 0)
		rc = write_pieces(ff, u, cw);
	if (rc == 0)
		rc = content_writer_finish_span(cw, &part);
	content_writer_free(cw);
	if (rc || !is_last_unit(ff, f, u->span, part))
		return rc;
	rc = content_join(lane, f->parts, f->nunits, f->has_prev ? &f->prev : NULL, &content);
	memset(f->parts, 0, f->nunits * sizeof(struct content_part *));
	return rc ? rc : add_file(ff, f, &content);
}

/* The oldest unit nobody has, or NULL when all is done. */
static struct unit *
take_unit(struct filefeed *ff)
{
	struct unit *u = NULL;

	pthread_mutex_lock(&ff->lock);
	while (!ff->stop && !ff->first && !ff->closed)
		pthread_cond_wait(&ff->work, &ff->lock);
	if (!ff->stop && ff->first) {
		u = ff->first;
		ff->first = u->next;
		if (!ff->first)
			ff->last = NULL;
	}
	pthread_mutex_unlock(&ff->lock);
	return u;
}

/*
 * A unit that failed half-way may still be fed: it stays in the list of nobody, so the worker
 * waits until the feeder has noticed.
 */
static void
give_back_unit(struct filefeed *ff, struct unit *u)
{
	pthread_mutex_lock(&ff->lock);
	while (!u->fed)
		pthread_cond_wait(&ff->work, &ff->lock);
	unit_free_locked(ff, u);
	pthread_mutex_unlock(&ff->lock);
}

static void *
worker_main(void *arg)
{
	struct filefeed *ff = arg;
	struct lane *lane = NULL;
	struct unit *u;
	int rc = lane_new(&lane, ff->job->w);

	while (rc == 0 && (u = take_unit(ff))) {
		rc = u->file->nunits > 1 ? store_span(ff, lane, u) : store_whole(ff, lane, u);
		if (rc) {
			pthread_mutex_lock(&ff->lock);
			fail_locked(ff, rc);
			pthread_mutex_unlock(&ff->lock);
		}
		give_back_unit(ff, u);
	}
	if (rc) {
		pthread_mutex_lock(&ff->lock);
		fail_locked(ff, rc);
		pthread_mutex_unlock(&ff->lock);
	}
	lane_free(lane);
	return NULL;
}

/* ---- life ---- */

int
filefeed_new(struct filefeed **out, struct backup_job *job, const struct filefeed_opts *opts)
{
	struct filefeed *ff = mem_alloc(sizeof(*ff));
	int rc = 0;

	*out = NULL;
	assert(opts->window >= FILEFEED_PIECE_BYTES);
	if (!ff)
		return err_nomem();
	ff->job = job;
	ff->opts = *opts;
	ff->rules.data_checksums = job->pg->data_checksums;
	ff->rules.start_lsn = opts->start_lsn;
	pthread_mutex_init(&ff->lock, NULL);
	pthread_cond_init(&ff->work, NULL);
	pthread_cond_init(&ff->room, NULL);
	rc = predecessor_new(&ff->prev, job);
	ff->threads = mem_calloc((size_t)job->threads, sizeof(pthread_t));
	if (!ff->threads)
		rc = err_nomem();
	for (int i = 0; rc == 0 && ff->threads && i < job->threads; i++) {
		errno = pthread_create(&ff->threads[i], NULL, worker_main, ff);
		if (errno)
			rc = err_sys("start a thread");
		else
			ff->nthreads++;
	}
	if (rc) {
		filefeed_free(ff);
		return rc;
	}
	*out = ff;
	return 0;
}

static void
join_workers(struct filefeed *ff)
{
	for (int i = 0; i < ff->nthreads; i++)
		pthread_join(ff->threads[i], NULL);
	ff->nthreads = 0;
}

int
filefeed_finish(struct filefeed *ff)
{
	assert(!ff->file);
	pthread_mutex_lock(&ff->lock);
	ff->closed = true;
	pthread_cond_broadcast(&ff->work);
	pthread_mutex_unlock(&ff->lock);
	join_workers(ff);
	return ff->failure.code ? err_restore(&ff->failure) : 0;
}

size_t
filefeed_suspects(const struct filefeed *ff, const struct filefeed_suspect **list)
{
	*list = ff->suspects;
	return ff->nsuspects;
}

void
filefeed_free(struct filefeed *ff)
{
	struct err_saved saved;

	if (!ff)
		return;
	err_save(&saved, 0);
	pthread_mutex_lock(&ff->lock);
	ff->stop = true;
	/* A unit that was being fed gets no more, and its worker may let go of it. */
	if (ff->unit)
		ff->unit->fed = true;
	pthread_cond_broadcast(&ff->work);
	pthread_mutex_unlock(&ff->lock);
	join_workers(ff);

	free(ff->filling);
	while (ff->first) {
		struct unit *u = ff->first;

		ff->first = u->next;
		unit_free_locked(ff, u);
	}
	/* The feeder's share, and those of units that were never made. */
	file_free(ff->file);
	while (ff->spare) {
		struct piece *p = ff->spare;

		ff->spare = p->next;
		free(p);
	}
	for (size_t i = 0; i < ff->nsuspects; i++)
		free(ff->suspects[i].path);
	free(ff->suspects);
	predecessor_free(ff->prev);
	pthread_cond_destroy(&ff->room);
	pthread_cond_destroy(&ff->work);
	pthread_mutex_destroy(&ff->lock);
	free(ff->threads);
	free(ff);
	err_restore(&saved);
}
