/*
 * First the plan, by one thread in the order of the scan: directories and links are added at once,
 * unchanged files are taken over, the others become tasks.  Then the tasks are cut into units (a
 * file, or a span of a large one), largest first, and the threads take them one by one.
 *
 * When a file may be taken over unread, or a chunk of it unhashed, is decided in try_take_over()
 * and chunk_unchanged().
 */
#include "pgsync/copyfiles.h"

#include "pgsync/backup_job.h"
#include "pgsync/confset.h"
#include "pgsync/fsmeta.h"
#include "pgsync/pgpage.h"
#include "pgsync/predecessor.h"
#include "pgsync/scan.h"
#include "pgsync/walfetch.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/content.h"
#include "store/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUFFER_BYTES  (1u << 20)
#define TORN_ATTEMPTS 5
#define TORN_PAUSE_NS 20000000L
#define TORN_PAUSES   500     /* in a whole backup: a ruined relation must not take hours */
#define GUARD_US      2000000 /* a file's times must be this much before the predecessor */

/* A file to read. */
struct task {
	const struct scan_item *item;
	uint64_t size;       /* to read */
	struct content prev; /* the same file in the predecessor; no references if there is none */
	bool has_prev;
	bool trust_lsn; /* pages with an old LSN are as the predecessor has them */
	size_t nspans;  /* 0: read as a whole */
	struct content_part **parts;
	_Atomic size_t left; /* spans not done */
	atomic_bool gone;
	_Atomic uint64_t read;
};

struct unit {
	struct task *task;
	uint64_t span;
};

struct copy {
	struct backup_job *job;
	const struct copyfiles_opts *opts;
	struct pgpage_rules rules;
	struct task *tasks;
	size_t ntasks, cap;
	struct unit *units;
	size_t nunits;
	_Atomic size_t next;
	atomic_bool stop;
	_Atomic uint32_t pauses; /* taken for pages that looked torn */
	struct predecessor *prev;
};

struct worker {
	struct copy *c;
	struct lane *lane;
	uint8_t *buf; /* BUFFER_BYTES */
};

/* ---- the predecessor ---- */

static bool
had_bad_page(const struct pg_part *prev, const char *path)
{
	if (prev->bad_pages_total > prev->nbad_pages)
		return true; /* not all of them are known */
	for (size_t i = 0; i < prev->nbad_pages; i++)
		if (strcmp(prev->bad_pages[i].path, path) == 0)
			return true;
	return false;
}

static int64_t
us_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000 + ts->tv_nsec / 1000;
}

/*
 * A file is unchanged if size, times and identity are those of the predecessor, and its times lie
 * safely before the predecessor began (a write in the same tick would leave no trace) and not in
 * the future (a clock was set).  A file with a bad page is looked at again each time.
 */
static bool
may_take_over(const struct copy *c, const struct scan_item *it, const struct tree_entry *prev)
{
	int64_t mtime = us_of(&it->st.st_mtim), change = us_of(&it->st.st_ctim);
	int64_t limit = c->opts->prev_started_us - GUARD_US, now = utc_now_us();

	return c->opts->trust_prev && it->file.kind == PGFILE_MAIN &&
	       fsmeta_unchanged(prev, &it->st) && mtime < limit && change < limit && mtime <= now &&
	       change <= now && !had_bad_page(c->job->prev_pg, it->path);
}

static int
take_over(struct copy *c, const struct scan_item *it, const struct tree_entry *prev)
{
	struct tree_entry e;
	int rc;

	/* Owner, mode and attributes have not changed either, or ctime would tell. */
	rc = tree_entry_copy(&e, prev);
	if (rc)
		return rc;
	backup_job_file(c->job, e.content.size, 0);
	progress_bytes(c->job->opts->progress, e.content.size);
	return tree_builder_add(c->job->tree, it->path, &e);
}

/* ---- the plan ---- */

static int
add_directory(struct copy *c, const struct scan_item *it)
{
	char full[SCAN_PATH_MAX];
	struct tree_entry e;
	int fd, rc = 0;

	fsmeta_entry(&e, &it->st);
	scan_source_path(c->opts->scan, it, full);
	fd = sys_openat(AT_FDCWD, full, O_RDONLY | O_DIRECTORY, 0);
	if (fd == -1 && errno != ENOENT)
		rc = err_sys("open directory %s", full);
	if (fd != -1)
		rc = fsmeta_xattrs(&e, fd, full);
	sys_close(&fd);
	if (rc) {
		tree_entry_release(&e);
		return rc;
	}
	return tree_builder_add(c->job->tree, it->path, &e);
}

static int
add_link(struct copy *c, const struct scan_item *it)
{
	struct tree_entry e;

	fsmeta_entry(&e, &it->st);
	e.type = TREE_SYMLINK;
	e.target = mem_strdup(it->target);
	return e.target ? tree_builder_add(c->job->tree, it->path, &e) : err_nomem();
}

static int
add_task(struct copy *c, const struct scan_item *it, const struct tree_entry *prev)
{
	bool main_fork = it->file.kind == PGFILE_MAIN;
	struct task *t;

	if (c->ntasks == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 256;
		struct task *list = mem_realloc(c->tasks, cap * sizeof(*list));

		if (!list)
			return err_nomem();
		c->tasks = list;
		c->cap = cap;
	}
	t = &c->tasks[c->ntasks];
	memset(t, 0, sizeof(*t));
	t->item = it;
	t->size = (uint64_t)it->st.st_size;
	/* A page that is being added may be there by half. */
	if (main_fork)
		t->size -= t->size % PGPAGE_BYTES;
	if (prev) {
		int rc = content_copy(&t->prev, &prev->content);

		if (rc)
			return rc;
		t->has_prev = true;
	}
	t->trust_lsn = main_fork && prev && c->opts->trust_prev && c->rules.data_checksums &&
		       fsmeta_same_inode(prev, &it->st) &&
		       c->opts->start_lsn > c->job->prev_pg->stop_lsn &&
		       !had_bad_page(c->job->prev_pg, it->path);
	if (main_fork && t->size > CONTENT_SPAN_BYTES)
		t->nspans = (size_t)((t->size + CONTENT_SPAN_BYTES - 1) / CONTENT_SPAN_BYTES);
	c->ntasks++;
	return 0;
}

static int
plan_item(struct copy *c, const struct scan_item *it)
{
	const struct tree_entry *prev;
	int rc;

	if (it->type == TREE_DIR)
		return add_directory(c, it);
	if (strcmp(it->path, "global/pg_control") == 0 || confset_has(c->opts->config, it->path))
		return 0;
	if (it->type == TREE_SYMLINK)
		return add_link(c, it);
	rc = predecessor_find(c->prev, it->path, &prev);
	if (rc)
		return rc;
	if (prev && may_take_over(c, it, prev))
		return take_over(c, it, prev);
	return add_task(c, it, prev);
}

static int
compare_tasks(const void *a, const void *b)
{
	const struct task *x = a, *y = b;

	return x->size > y->size ? -1 : x->size < y->size;
}

/* All units, the largest files first, so that no thread ends long after the others. */
static int
cut_units(struct copy *c)
{
	size_t n = 0;

	if (c->ntasks > 0)
		qsort(c->tasks, c->ntasks, sizeof(c->tasks[0]), compare_tasks);
	for (size_t i = 0; i < c->ntasks; i++)
		n += c->tasks[i].nspans ? c->tasks[i].nspans : 1;
	c->units = mem_calloc(n, sizeof(c->units[0]));
	if (!c->units)
		return err_nomem();
	for (size_t i = 0; i < c->ntasks; i++) {
		struct task *t = &c->tasks[i];

		if (t->nspans > 0) {
			t->parts = mem_calloc(t->nspans, sizeof(*t->parts));
			if (!t->parts)
				return err_nomem();
			atomic_store(&t->left, t->nspans);
		}
		for (uint64_t s = 0; s < (t->nspans ? t->nspans : 1); s++)
			c->units[c->nunits++] = (struct unit){ .task = t, .span = s };
	}
	return 0;
}

static int
plan(struct copy *c)
{
	const struct scan *scan = c->opts->scan;
	uint64_t bytes = 0, files = 0;
	int rc = 0;

	for (size_t i = 0; i < scan_count(scan); i++) {
		const struct scan_item *it = scan_at(scan, i);

		bytes += it->type == TREE_FILE ? (uint64_t)it->st.st_size : 0;
		files += it->type == TREE_FILE;
	}
	progress_total(c->job->opts->progress, bytes, files);
	for (size_t i = 0; rc == 0 && i < scan_count(scan); i++) {
		rc = cancel_check();
		if (rc == 0)
			rc = plan_item(c, scan_at(scan, i));
	}
	return rc ? rc : cut_units(c);
}

/* ---- pages ---- */

/*
 * A page that looks bad may have been read while the server wrote it: read it again, a few times,
 * until it is right, or is one that WAL brings in full.  Once many pauses were spent, pages are
 * read again without: where so much is bad, it is not torn.
 */
static int
reread_page(struct worker *w, int fd, const char *path, uint64_t off, uint32_t block, uint8_t *page,
    enum pgpage_verdict *verdict)
{
	const struct timespec pause = { .tv_nsec = TORN_PAUSE_NS };

	for (int i = 0; *verdict == PGPAGE_BAD && i < TORN_ATTEMPTS; i++) {
		bool patient = atomic_fetch_add(&w->c->pauses, 1) < TORN_PAUSES;
		ssize_t n;

		if (patient)
			nanosleep(&pause, NULL);
		else
			i = TORN_ATTEMPTS;
		n = sys_pread_full(fd, page, PGPAGE_BYTES, off);
		if (n < 0)
			return err_sys("read %s", path);
		if ((size_t)n < PGPAGE_BYTES)
			memset(page + n, 0, PGPAGE_BYTES - (size_t)n);
		*verdict = pgpage_check(page, block, &w->c->rules);
	}
	return 0;
}

/* Check the whole pages of `len` bytes at `off`; *bad tells whether one stays bad. */
static int
check_pages(struct worker *w, const struct scan_item *it, int fd, uint64_t off, uint8_t *data,
    size_t len, bool *bad)
{
	uint32_t block = it->file.segment * PGPAGE_SEGMENT_BLOCKS + (uint32_t)(off / PGPAGE_BYTES);
	int rc = 0;

	*bad = false;
	for (size_t at = 0; at + PGPAGE_BYTES <= len; at += PGPAGE_BYTES, block++) {
		enum pgpage_verdict verdict = pgpage_check(data + at, block, &w->c->rules);

		if (verdict != PGPAGE_BAD)
			continue;
		rc = reread_page(w, fd, it->path, off + at, block, data + at, &verdict);
		if (rc == 0 && verdict == PGPAGE_BAD) {
			*bad = true;
			rc = backup_job_bad_page(w->c->job, it->path, block,
			    pgpage_stored_checksum(data + at), pgpage_checksum(data + at, block));
		}
		if (rc)
			return rc;
	}
	atomic_fetch_add(&w->c->job->pages_checked, len / PGPAGE_BYTES);
	return 0;
}

/* ---- reading ---- */

static bool
chunk_unchanged(const struct task *t, const struct worker *w, const uint8_t *data, size_t len)
{
	return t->trust_lsn && pgpage_all_before(data, len, w->c->job->prev_pg->start_lsn);
}

/* Give a piece of a main fork to the writer, chunk by chunk. */
static int
write_pages(struct worker *w, const struct task *t, struct content_writer *cw, const uint8_t *data,
    size_t len, bool bad)
{
	for (size_t at = 0; at < len; at += CHUNK_PAGE_BYTES) {
		size_t n = len - at < CHUNK_PAGE_BYTES ? len - at : CHUNK_PAGE_BYTES;
		int rc = 1;

		if (!bad && chunk_unchanged(t, w, data + at, n))
			rc = content_writer_reuse(cw, n);
		if (rc == 1)
			rc = content_writer_append(cw, data + at, n);
		if (rc)
			return rc;
	}
	return 0;
}

/* Read [off, end) of an open file into the writer. */
static int
read_range(
    struct worker *w, struct task *t, int fd, uint64_t off, uint64_t end, struct content_writer *cw)
{
	const struct scan_item *it = t->item;
	bool main_fork = it->file.kind == PGFILE_MAIN;

	while (off < end) {
		size_t want = end - off < BUFFER_BYTES ? (size_t)(end - off) : BUFFER_BYTES;
		bool bad = false;
		ssize_t n;
		int rc = cancel_check();

		if (rc)
			return rc;
		if (atomic_load(&w->c->stop))
			return ERR_CANCELLED;
		n = sys_pread_full(fd, w->buf, want, off);
		if (n < 0)
			return err_sys("read %s", it->path);
		atomic_fetch_add(&t->read, (uint64_t)n);
		progress_bytes(w->c->job->opts->progress, want);
		if (main_fork && (size_t)n < want)
			memset(w->buf + n, 0, want - (size_t)n);
		if (it->file.kind != PGFILE_OTHER)
			rc = check_pages(w, it, fd, off, w->buf, (size_t)n, &bad);
		if (rc)
			return rc;
		rc = main_fork ? write_pages(w, t, cw, w->buf, want, bad)
			       : content_writer_append(cw, w->buf, (size_t)n);
		if (rc)
			return rc;
		if (!main_fork && (size_t)n < want)
			break; /* it was cut off: stored as short as it is */
		off += want;
	}
	return 0;
}

/* 0 with *fd -1: the file is gone. */
static int
open_file(struct worker *w, struct task *t, int *fd)
{
	char full[SCAN_PATH_MAX];

	scan_source_path(w->c->opts->scan, t->item, full);
	*fd = sys_openat(AT_FDCWD, full, O_RDONLY | O_NOFOLLOW, 0);
	if (*fd == -1 && errno != ENOENT)
		return err_sys("open %s", full);
	if (*fd == -1 && !atomic_exchange(&t->gone, true) && !pgfiles_may_vanish(t->item->path))
		backup_job_warn(w->c->job, "%s vanished before it was read", t->item->path);
	return 0;
}

/* The file is complete as `content` (taken): into the tree with it. */
static int
add_read_file(struct worker *w, struct task *t, int fd, struct content *content)
{
	struct tree_entry e;
	int rc;

	fsmeta_entry(&e, &t->item->st);
	rc = fsmeta_xattrs(&e, fd, t->item->path);
	e.content = *content;
	memset(content, 0, sizeof(*content));
	if (rc) {
		tree_entry_release(&e);
		return rc;
	}
	backup_job_file(w->c->job, e.content.size, atomic_load(&t->read));
	return tree_builder_add(w->c->job->tree, t->item->path, &e);
}

static int
copy_whole(struct worker *w, struct task *t)
{
	bool main_fork = t->item->file.kind == PGFILE_MAIN;
	struct content_writer *cw = NULL;
	struct content content = { 0 };
	int fd = -1, rc;

	rc = open_file(w, t, &fd);
	if (rc || fd == -1)
		return rc;
	rc = content_writer_new(
	    &cw, w->lane, main_fork ? CHUNKING_PAGES : CHUNKING_CDC, t->has_prev ? &t->prev : NULL);
	if (rc == 0)
		rc = read_range(w, t, fd, 0, t->size, cw);
	if (rc == 0)
		rc = content_writer_finish(cw, &content);
	if (rc == 0)
		rc = add_read_file(w, t, fd, &content);
	content_writer_free(cw);
	content_release(&content);
	sys_close(&fd);
	return rc;
}

static int
join_spans(struct worker *w, struct task *t, int fd)
{
	struct content content = { 0 };
	int rc;

	rc = content_join(w->lane, t->parts, t->nspans, t->has_prev ? &t->prev : NULL, &content);
	memset(t->parts, 0, t->nspans * sizeof(*t->parts));
	if (rc == 0)
		rc = add_read_file(w, t, fd, &content);
	content_release(&content);
	return rc;
}

static int
copy_span(struct worker *w, struct task *t, uint64_t span)
{
	uint64_t off = span * CONTENT_SPAN_BYTES;
	uint64_t end = t->size - off < CONTENT_SPAN_BYTES ? t->size : off + CONTENT_SPAN_BYTES;
	struct content_writer *cw = NULL;
	int fd = -1, rc;

	rc = open_file(w, t, &fd);
	if (rc == 0 && fd != -1)
		rc = content_writer_new_span(&cw, w->lane, span, t->has_prev ? &t->prev : NULL);
	if (rc == 0 && fd != -1)
		rc = read_range(w, t, fd, off, end, cw);
	if (rc == 0 && fd != -1)
		rc = content_writer_finish_span(cw, &t->parts[span]);
	content_writer_free(cw);

	/* Who ends last sees the spans of all others. */
	if (rc == 0 && atomic_fetch_sub(&t->left, 1) == 1 && !atomic_load(&t->gone))
		rc = join_spans(w, t, fd);
	sys_close(&fd);
	return rc;
}

static int
work(struct worker *w)
{
	struct copy *c = w->c;

	while (!atomic_load(&c->stop)) {
		size_t i = atomic_fetch_add(&c->next, 1);
		int rc;

		if (i >= c->nunits)
			return 0;
		rc = cancel_check();
		if (rc == 0 && c->opts->wal)
			rc = walfetch_status(c->opts->wal);
		if (rc)
			return rc;
		if (c->units[i].task->nspans > 0)
			rc = copy_span(w, c->units[i].task, c->units[i].span);
		else
			rc = copy_whole(w, c->units[i].task);
		if (rc)
			return rc;
	}
	return 0;
}

/* One thread.  The first fault is the one that is told; the others only stop. */
static int
worker_main(void *arg, int number)
{
	struct worker w = { .c = arg };
	int rc;

	(void)number;
	rc = lane_new(&w.lane, w.c->job->w);
	if (rc == 0) {
		w.buf = mem_alloc(BUFFER_BYTES);
		rc = w.buf ? work(&w) : err_nomem();
	}
	if (rc && atomic_exchange(&w.c->stop, true))
		rc = 0;
	free(w.buf);
	lane_free(w.lane);
	return rc;
}

static void
copy_release(struct copy *c)
{
	for (size_t i = 0; i < c->ntasks; i++) {
		struct task *t = &c->tasks[i];

		for (size_t s = 0; t->parts && s < t->nspans; s++)
			content_part_free(t->parts[s]);
		free(t->parts);
		content_release(&t->prev);
	}
	free(c->tasks);
	free(c->units);
	predecessor_free(c->prev);
}

int
copyfiles_run(struct backup_job *job, const struct copyfiles_opts *opts)
{
	struct copy c = { .job = job, .opts = opts };
	int threads = job->threads, rc;

	c.rules.data_checksums = job->pg->data_checksums;
	c.rules.start_lsn = opts->start_lsn;
	rc = predecessor_new(&c.prev, job);
	if (rc == 0)
		rc = plan(&c);
	if (rc == 0 && c.nunits > 0) {
		if ((size_t)threads > c.nunits)
			threads = (int)c.nunits;
		rc = parallel_run(threads, worker_main, &c);
	}
	copy_release(&c);
	return rc;
}
