#include "pgsync/predecessor.h"

#include "pgsync/backup_job.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct predecessor {
	struct backup_job *job;
	char *path;           /* of the directory looked at last, or NULL */
	struct tree_dir *dir; /* NULL if there is no such directory */
};

int
predecessor_new(struct predecessor **out, struct backup_job *job)
{
	struct predecessor *p = mem_alloc(sizeof(*p));

	*out = p;
	if (!p)
		return err_nomem();
	p->job = job;
	return 0;
}

void
predecessor_free(struct predecessor *p)
{
	if (!p)
		return;
	tree_dir_close(p->dir);
	free(p->path);
	free(p);
}

static int
open_dir(struct predecessor *p, const char *dir)
{
	struct repo_reader *r = repo_writer_reader(p->job->w);
	struct tree_entry e;
	int rc;

	tree_dir_close(p->dir);
	p->dir = NULL;
	free(p->path);
	p->path = mem_strdup(dir);
	if (!p->path)
		return err_nomem();
	rc = tree_lookup(r, p->job->prev_root, dir, &e);
	if (rc)
		return rc == ERR_NOTFOUND ? 0 : rc;
	if (e.type == TREE_DIR)
		rc = tree_dir_open(&p->dir, r, &e.content);
	tree_entry_release(&e);
	return rc;
}

int
predecessor_find(struct predecessor *p, const char *path, const struct tree_entry **out)
{
	const char *slash = strrchr(path, '/');
	char dir[TREE_PATH_MAX + 1];
	int rc = 0;

	*out = NULL;
	if (!p->job->prev_root)
		return 0;
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 0, path);
	if (!p->path || strcmp(p->path, dir) != 0)
		rc = open_dir(p, dir);
	if (rc == ERR_NOMEM || rc == ERR_CANCELLED)
		return rc;
	if (rc)
		backup_job_warn(p->job,
		    "directory %s of the previous snapshot cannot be read, so its files are not "
		    "compared "
		    "with it: %s",
		    dir, err_msg());
	if (p->dir)
		*out = tree_dir_find(p->dir, slash ? slash + 1 : path);
	if (*out && (*out)->type != TREE_FILE)
		*out = NULL;
	return 0;
}
