/*
 * The order of things:
 *   1. survey: count, remove what is in the way, see that there is room
 *   2. one thread walks the tree and makes directories, links and devices; the others write files,
 *      large ones in spans by several threads
 *   3. hard links; then everything is made durable
 *   4. the files that make the rest usable (`last`), then directories' modes and times
 *   5. durable again, and the marker goes
 */
#include "fs/extract.h"

#include "fs/outdir.h"
#include "fs/outfile.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/progress.h"
#include "store/base/sys.h"

#include <fcntl.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_JOBS 256
#define MIB        (1u << 20)
/* The queue takes no more, because a thread failed: its error is the one that counts. */
#define STOPPED 2

/* A range of a file to be written. */
struct job {
	struct outfile *file;
	uint64_t off, end;
	bool whole;
};

/* Something to be done later, in order. */
struct later {
	char *path;
	char *first;             /* links: the file's other name */
	struct tree_entry entry; /* directories and last files */
};

struct later_list {
	struct later *v;
	size_t n, cap;
};

/* The name by which a file with several was met first; in a tree of tsearch(3). */
struct seen {
	uint64_t hardlink;
	char path[];
};

struct extraction {
	const struct extract_opts *opts;
	const struct tree_entry *root;
	struct outfile_env env;
	struct queue *queue;
	struct later_list dirs, links, last;
	void *seen;
	uint64_t need_bytes;  /* by size; the survey's */
	uint64_t there_bytes; /* of these, files that a former run wrote */
	pthread_mutex_t lock; /* protects the caller's callbacks, and totals */
	struct extract_totals totals;
};

/* ---- callbacks ---- */

static void
tell_damaged(void *ctx, const char *path, const char *message)
{
	struct extraction *x = ctx;

	pthread_mutex_lock(&x->lock);
	x->totals.damaged_files++;
	if (x->opts->damaged)
		x->opts->damaged(x->opts->ctx, path, message);
	pthread_mutex_unlock(&x->lock);
}

static void
tell_warning(void *ctx, const char *path, const char *message)
{
	struct extraction *x = ctx;

	pthread_mutex_lock(&x->lock);
	x->totals.warnings++;
	if (x->opts->warn)
		x->opts->warn(x->opts->ctx, path, message);
	pthread_mutex_unlock(&x->lock);
}

static void
count_file(struct extraction *x, const struct tree_entry *e, bool resumed)
{
	pthread_mutex_lock(&x->lock);
	x->totals.files++;
	x->totals.bytes += e->content.size;
	if (resumed)
		x->totals.resumed_files++;
	pthread_mutex_unlock(&x->lock);
	progress_files(x->env.progress, 1);
}

/* ---- lists ---- */

static int
later_add(struct later_list *l, const char *path, const char *first, const struct tree_entry *e)
{
	struct later *item;
	int rc = 0;

	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 32;
		struct later *v = mem_realloc(l->v, cap * sizeof(*v));

		if (!v)
			return err_nomem();
		l->v = v;
		l->cap = cap;
	}
	item = &l->v[l->n];
	memset(item, 0, sizeof(*item));
	item->path = mem_strdup(path);
	if (!item->path || (first && !(item->first = mem_strdup(first))))
		rc = err_nomem();
	if (!rc && e)
		rc = tree_entry_copy(&item->entry, e);
	if (rc) {
		free(item->path);
		free(item->first);
		return rc;
	}
	l->n++;
	return 0;
}

static void
later_release(struct later_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].path);
		free(l->v[i].first);
		tree_entry_release(&l->v[i].entry);
	}
	free(l->v);
}

static int
by_hardlink(const void *pa, const void *pb)
{
	const struct seen *a = pa, *b = pb;

	return (a->hardlink > b->hardlink) - (a->hardlink < b->hardlink);
}

/* The name that the file of `e` was first met by, or NULL in *first if it is this one. */
static int
first_name(struct extraction *x, const char *path, const struct tree_entry *e, const char **first)
{
	size_t len = strlen(path) + 1;
	struct seen *fresh, **at;

	*first = NULL;
	fresh = mem_alloc(sizeof(*fresh) + len);
	if (!fresh)
		return err_nomem();
	fresh->hardlink = e->hardlink;
	memcpy(fresh->path, path, len);
	at = tsearch(fresh, &x->seen, by_hardlink);
	if (!at || *at != fresh)
		free(fresh);
	if (!at)
		return err_nomem();
	if (*at != fresh)
		*first = (*at)->path;
	return 0;
}

/* ---- walking ---- */

static bool
is_last(const struct extraction *x, const char *path)
{
	for (const char *const *p = x->opts->last; p && *p; p++)
		if (strcmp(*p, path) == 0)
			return true;
	return false;
}

/* Whatever the repository says, nothing is written outside the target. */
static int
check_entry(const char *path, const struct tree_entry *e)
{
	const char *name = e->name;

	if (*path == 0)
		return e->type == TREE_DIR
			   ? 0
			   : err_set(ERR_DAMAGED, "the tree's root is no directory");
	if (!name || !*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
	    strchr(name, '/') || strlen(name) > TREE_NAME_MAX)
		return err_set(
		    ERR_DAMAGED, "the tree has a name that no file can have: %.60s", path);
	return 0;
}

/* A directory that cannot be read is a loss like a file's; what is beside it is restored. */
static int
on_broken(void *ctx, const char *path, const struct tree_entry *e, int rc)
{
	(void)e;
	if (rc != ERR_DAMAGED)
		return rc;
	tell_damaged(ctx, *path ? path : ".", err_msg());
	return 0;
}

/* During the survey nothing is told, because the second walk meets it again. */
static int
on_broken_quietly(void *ctx, const char *path, const struct tree_entry *e, int rc)
{
	(void)ctx;
	(void)path;
	(void)e;
	return rc == ERR_DAMAGED ? 0 : rc;
}

static bool
skipped(const char *path)
{
	return strcmp(path, OUTDIR_MARKER) == 0;
}

static int
survey_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct extraction *x = ctx;
	int rc = cancel_check();

	if (!rc)
		rc = check_entry(path, e);
	if (rc || *path == 0 || skipped(path))
		return rc;
	if (e->type == TREE_FILE) {
		x->totals.files++;
		x->need_bytes += e->content.size;
	}
	/* The last files go first, so that what is half new does not look usable. */
	if (outdir_state(x->env.dir) == OUTDIR_USED ||
	    (outdir_state(x->env.dir) == OUTDIR_RESUMED && is_last(x, path)))
		rc = outfile_clear(&x->env, path, e);
	return rc;
}

/* ---- room ---- */

static int
add_stored(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	uint64_t *sum = ctx;

	(void)off;
	if (ref->kind != CHUNK_ZERO)
		*sum += ref->len;
	return 0;
}

static int
skip_broken(void *ctx, const struct chunk_id *id, uint64_t off, uint64_t len, int rc)
{
	(void)ctx;
	(void)id;
	(void)off;
	(void)len;
	return rc == ERR_DAMAGED ? 0 : rc;
}

/* What a file takes without its holes, less what of it is there already. */
static int
weigh_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct extraction *x = ctx;
	struct content_visitor v = {
		.chunk = add_stored, .broken = skip_broken, .ctx = &x->need_bytes
	};
	const char *base;
	struct stat st;
	int fd, rc = cancel_check();

	if (rc || e->type != TREE_FILE)
		return rc;
	rc = content_each(x->env.reader, &e->content, &v);
	if (rc || outdir_parent(x->env.dir, path, &fd, &base))
		return rc;
	if (sys_fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
		x->there_bytes += (uint64_t)st.st_blocks * 512;
	sys_close(&fd);
	return 0;
}

static int
no_space(const struct extraction *x, uint64_t need, uint64_t avail)
{
	return err_set(ERR_NOSPACE,
	    "not enough room in %s: %llu MiB are needed, %llu MiB are free; make room and run the "
	    "same "
	    "command again, it goes on where it stopped",
	    outdir_path(x->env.dir), (unsigned long long)(need / MIB + 1),
	    (unsigned long long)(avail / MIB));
}

/* The sizes are known at once; the holes are looked for only when the sizes are too much. */
static int
check_room(struct extraction *x)
{
	const struct tree_visitor v = {
		.entry = weigh_entry, .broken = on_broken_quietly, .ctx = x
	};
	uint64_t avail, need;
	int rc = outdir_free_bytes(x->env.dir, &avail);

	if (rc || x->need_bytes <= avail)
		return rc;
	x->need_bytes = 0;
	rc = tree_walk(x->env.reader, x->root, &v);
	if (rc)
		return rc;
	need = x->need_bytes > x->there_bytes ? x->need_bytes - x->there_bytes : 0;
	return need <= avail ? 0 : no_space(x, need, avail);
}

static int
survey(struct extraction *x)
{
	const struct tree_visitor v = {
		.entry = survey_entry, .broken = on_broken_quietly, .ctx = x
	};
	int rc;

	progress_phase(x->env.progress, "reading the tree");
	rc = tree_walk(x->env.reader, x->root, &v);
	if (rc)
		return rc;
	progress_total(x->env.progress, x->need_bytes, x->totals.files);
	x->totals.files = 0;
	rc = check_room(x);
	if (!rc && outdir_state(x->env.dir) == OUTDIR_USED)
		rc = outdir_cleared(x->env.dir);
	return rc;
}

/* ---- files ---- */

static void
free_job(struct job *j)
{
	if (outfile_drop(j->file))
		outfile_free(j->file);
	free(j);
}

/* Takes a use of `file`, also on error.  0, STOPPED or an error. */
static int
push_job(struct extraction *x, struct outfile *file, uint64_t off, uint64_t end, bool whole)
{
	struct job *j = mem_alloc(sizeof(*j));

	if (!j) {
		if (outfile_drop(file))
			outfile_free(file);
		return err_nomem();
	}
	*j = (struct job){ .file = file, .off = off, .end = end, .whole = whole };
	if (!queue_push(x->queue, j)) {
		free_job(j);
		return STOPPED;
	}
	return 0;
}

static bool
resuming(const struct extraction *x)
{
	return outdir_state(x->env.dir) == OUTDIR_RESUMED;
}

static void
count_resumed(struct extraction *x, const struct tree_entry *e)
{
	progress_bytes(x->env.progress, e->content.size);
	count_file(x, e, true);
}

static int
push_file(struct extraction *x, const char *path, const struct tree_entry *e)
{
	uint64_t size = e->content.size, off = 0;
	struct outfile *f;
	int rc = outfile_new(&f, path, e);

	if (rc)
		return rc;
	if (size <= CONTENT_SPAN_BYTES)
		return push_job(x, f, 0, size, true);
	rc = outfile_begin(f, &x->env, resuming(x));
	if (rc == 1) {
		count_resumed(x, e);
		rc = 0;
		off = size;
	}
	for (; off < size && !rc; off += CONTENT_SPAN_BYTES) {
		atomic_fetch_add(&f->users, 1);
		rc = push_job(x, f, off, off + CONTENT_SPAN_BYTES, false);
	}
	/* Our own use: whoever gives up the last one finishes the file. */
	if (!outfile_drop(f))
		return rc;
	if (!rc && f->fd != -1 && !atomic_load(&f->failed)) {
		rc = outfile_finish(f, &x->env);
		if (!rc)
			count_file(x, &f->entry, false);
	}
	outfile_free(f);
	return rc;
}

static int
write_whole(struct extraction *x, struct outfile *f, uint8_t *buf)
{
	int rc = outfile_begin(f, &x->env, resuming(x));

	if (rc == 1) {
		count_resumed(x, &f->entry);
		return 0;
	}
	if (!rc)
		rc = outfile_write(f, &x->env, 0, f->entry.content.size, buf);
	if (!rc)
		rc = outfile_finish(f, &x->env);
	if (!rc)
		count_file(x, &f->entry, false);
	return rc;
}

static int
do_job(struct extraction *x, struct job *j, uint8_t *buf)
{
	struct outfile *f = j->file;
	int rc;

	if (j->whole) {
		rc = write_whole(x, f, buf);
		free_job(j);
		return rc;
	}
	rc = outfile_write(f, &x->env, j->off, j->end, buf);
	free(j);
	if (rc)
		atomic_store(&f->failed, true);
	if (!outfile_drop(f))
		return rc;
	if (!atomic_load(&f->failed)) {
		rc = outfile_finish(f, &x->env);
		if (!rc)
			count_file(x, &f->entry, false);
	}
	outfile_free(f);
	return rc;
}

static int
produce_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct extraction *x = ctx;
	const char *first = NULL;
	int rc = cancel_check();

	if (!rc)
		rc = check_entry(path, e);
	if (rc || skipped(path))
		return rc;
	switch (e->type) {
	case TREE_DIR:
		if (*path)
			rc = outfile_make_dir(&x->env, path);
		if (!rc)
			rc = later_add(&x->dirs, path, NULL, e);
		/* Only what is set at the end is kept of it. */
		if (!rc)
			content_release(&x->dirs.v[x->dirs.n - 1].entry.content);
		return rc;
	case TREE_FILE:
		if (e->hardlink)
			rc = first_name(x, path, e, &first);
		if (rc)
			return rc;
		if (first)
			return later_add(&x->links, path, first, e);
		if (is_last(x, path))
			return later_add(&x->last, path, NULL, e);
		return push_file(x, path, e);
	default:
		return outfile_make_special(&x->env, path, e);
	}
}

/* Worker 0 walks the tree first; then all of them write files. */
static int
work(void *arg, int worker)
{
	const struct tree_visitor v = { .entry = produce_entry, .broken = on_broken, .ctx = arg };
	struct extraction *x = arg;
	uint8_t *buf = mem_alloc(OUTFILE_BUFFER_BYTES);
	void *item;
	int rc = buf ? 0 : err_nomem();

	if (worker == 0 && !rc) {
		rc = tree_walk(x->env.reader, x->root, &v); /* ends with STOPPED as with an error */
		queue_close(x->queue);
	}
	while (!rc && queue_pop(x->queue, &item))
		rc = do_job(x, item, buf);
	if (rc)
		queue_abort(x->queue);
	free(buf);
	return rc == STOPPED ? 0 : rc;
}

static int
write_files(struct extraction *x)
{
	int threads = x->opts->threads > 0 ? x->opts->threads : parallel_cpus();
	void *item;
	int rc;

	progress_phase(x->env.progress, "restoring files");
	rc = queue_new(&x->queue, QUEUE_JOBS);
	if (rc)
		return rc;
	rc = parallel_run(threads + 1, work, x);
	while (queue_drain(x->queue, &item))
		free_job(item);
	queue_free(x->queue);
	x->queue = NULL;
	return rc;
}

/* ---- the end ---- */

static int
make_links(struct extraction *x)
{
	int rc = 0;

	for (size_t i = 0; i < x->links.n && !rc; i++) {
		const struct later *l = &x->links.v[i];

		rc = cancel_check();
		if (!rc)
			rc = outfile_make_link(&x->env, l->path, l->first);
		if (rc)
			break;
		progress_bytes(x->env.progress, l->entry.content.size);
		count_file(x, &l->entry, false);
	}
	return rc;
}

static int
write_last(struct extraction *x)
{
	uint8_t *buf = mem_alloc(OUTFILE_BUFFER_BYTES);
	int rc = buf ? 0 : err_nomem();

	for (size_t i = 0; i < x->last.n && !rc; i++) {
		struct outfile *f;

		rc = outfile_new(&f, x->last.v[i].path, &x->last.v[i].entry);
		if (rc)
			break;
		rc = write_whole(x, f, buf);
		outfile_free(f);
	}
	free(buf);
	return rc;
}

static int
finish(struct extraction *x)
{
	int rc = make_links(x);

	if (!rc && x->opts->before_last)
		rc = x->opts->before_last(x->opts->ctx);
	progress_phase(x->env.progress, "making it durable");
	if (!rc)
		rc = outdir_sync(x->env.dir);
	if (!rc)
		rc = write_last(x);
	/* From the leaves to the root: a directory's time changes when something in it is made. */
	for (size_t i = x->dirs.n; i-- > 0 && !rc;)
		rc = outfile_set_meta(&x->env, x->dirs.v[i].path, &x->dirs.v[i].entry);
	if (!rc)
		rc = outdir_sync(x->env.dir);
	if (!rc)
		rc = outdir_finish(x->env.dir);
	/* Removing the marker was a change, too. */
	if (!rc && x->dirs.n)
		rc = outfile_set_meta(&x->env, "", &x->dirs.v[0].entry);
	return rc;
}

static void
extraction_release(struct extraction *x)
{
	later_release(&x->dirs);
	later_release(&x->links);
	later_release(&x->last);
	tdestroy(x->seen, free);
	outdir_close(x->env.dir);
	pthread_mutex_destroy(&x->lock);
}

int
extract_tree(struct repo_reader *r, const struct tree_entry *root, const char *dir,
    const struct extract_opts *opts, struct extract_totals *totals)
{
	struct extraction x = { .opts = opts, .root = root };
	uint64_t avail;
	int rc;

	pthread_mutex_init(&x.lock, NULL);
	x.env = (struct outfile_env){
		.reader = r,
		.progress = opts->progress,
		.keep_owners = opts->keep_owners,
		.map_owner = opts->map_owner,
		.uid = opts->uid,
		.gid = opts->gid,
		.damaged = tell_damaged,
		.warn = tell_warning,
		.ctx = &x,
	};
	rc = outdir_open(&x.env.dir, dir, opts->tree_name, opts->force);
	if (!rc)
		rc = survey(&x);
	if (!rc)
		rc = write_files(&x);
	if (!rc)
		rc = finish(&x);
	if (rc == ERR_NOSPACE && x.env.dir && outdir_free_bytes(x.env.dir, &avail) == 0)
		rc = no_space(&x, x.need_bytes, avail);
	if (!rc && x.totals.damaged_files)
		rc = err_set(ERR_DAMAGED,
		    "%llu files of the restored tree in %s are damaged (named *%s) or missing; "
		    "run: pastfs "
		    "check --read-data",
		    (unsigned long long)x.totals.damaged_files, dir, OUTFILE_DAMAGED_SUFFIX);
	if (totals)
		*totals = x.totals;
	extraction_release(&x);
	return rc;
}
