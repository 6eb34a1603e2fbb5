#include "pgsync/backup_job.h"

#include "pgsync/fsmeta.h"
#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "store/content.h"
#include "store/tree.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BAD_PAGES_TOLD 50 /* the snapshot's record has all, up to its own limit */

int
backup_job_init(struct backup_job *job)
{
	memset(job, 0, sizeof(*job));
	job->threads = 1;
	errno = pthread_mutex_init(&job->lock, NULL);
	return errno ? err_sys("make a mutex") : 0;
}

void
backup_job_release(struct backup_job *job)
{
	pthread_mutex_destroy(&job->lock);
}

void
backup_job_warn(struct backup_job *job, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list ap;

	atomic_fetch_add(&job->warnings, 1);
	if (!job->opts->warn)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	job->opts->warn(job->opts->ctx, text);
}

/* Keep a bad page in the part's record, as long as there is room for it. */
static int
record_bad_page(struct backup_job *job, const char *path, uint32_t block, uint16_t stored_checksum,
    uint16_t computed_checksum)
{
	struct pg_part *pg = job->pg;
	struct bad_page *list;

	pg->bad_pages_total++;
	if (pg->nbad_pages >= SNAPSHOT_BAD_PAGES_MAX)
		return 0;
	list = mem_realloc(pg->bad_pages, (pg->nbad_pages + 1) * sizeof(*list));
	if (!list)
		return err_nomem();
	pg->bad_pages = list;
	list += pg->nbad_pages;
	list->path = mem_strdup(path);
	if (!list->path)
		return err_nomem();
	list->block = block;
	list->stored_checksum = stored_checksum;
	list->computed_checksum = computed_checksum;
	pg->nbad_pages++;
	return 0;
}

/* One page as a sentence, as long as somebody can be expected to read it. */
static void
tell_bad_page(struct backup_job *job, const char *path, uint32_t block, uint16_t stored_checksum,
    uint16_t computed_checksum, uint64_t number)
{
	if (number > BAD_PAGES_TOLD)
		atomic_fetch_add(&job->warnings, 1);
	else if (number == BAD_PAGES_TOLD)
		backup_job_warn(
		    job, "bad page: %s block %u; further ones are only recorded", path, block);
	else if (job->pg->data_checksums)
		backup_job_warn(job,
		    "bad page: %s block %u has checksum %04x, its content gives %04x; stored as it "
		    "is",
		    path, block, stored_checksum, computed_checksum);
	else
		backup_job_warn(job,
		    "bad page: %s block %u has a header that makes no sense; stored as it is", path,
		    block);
}

int
backup_job_bad_page(struct backup_job *job, const char *path, uint32_t block,
    uint16_t stored_checksum, uint16_t computed_checksum)
{
	uint64_t number;
	int rc;

	pthread_mutex_lock(&job->lock);
	rc = record_bad_page(job, path, block, stored_checksum, computed_checksum);
	number = job->pg->bad_pages_total;
	pthread_mutex_unlock(&job->lock);
	if (rc == 0)
		tell_bad_page(job, path, block, stored_checksum, computed_checksum, number);
	return rc;
}

void
backup_job_file(struct backup_job *job, uint64_t size, uint64_t read)
{
	atomic_fetch_add(&job->files, 1);
	atomic_fetch_add(&job->logical_bytes, size);
	atomic_fetch_add(&job->read_bytes, read);
	progress_files(job->opts->progress, 1);
}

int
backup_job_add_text(struct backup_job *job, struct lane *lane, const char *path, const void *data,
    size_t len, const struct tree_entry *like)
{
	struct content_writer *cw = NULL;
	struct tree_entry e;
	int rc;

	fsmeta_like(&e, like);
	rc = content_writer_new(&cw, lane, CHUNKING_CDC, NULL);
	if (rc == 0)
		rc = content_writer_append(cw, data, len);
	if (rc == 0)
		rc = content_writer_finish(cw, &e.content);
	content_writer_free(cw);
	if (rc)
		return rc;
	backup_job_file(job, len, 0);
	return tree_builder_add(job->tree, path, &e);
}
