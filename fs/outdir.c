#include "fs/outdir.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARKER_NEW OUTDIR_MARKER ".new"
#define MARKER_MAX 512
#define PART_MAX   256

struct outdir {
	int fd;
	char *path;
	char *tree_name;
	enum outdir_state state;
};

static void
marker_text(const struct outdir *od, const char *state, char text[MARKER_MAX])
{
	snprintf(
	    text, MARKER_MAX, "pastfs restore, unfinished\ntree %s\n%s\n", od->tree_name, state);
}

/* Replace the marker as a whole, so that a crash leaves the old or the new one. */
static int
write_marker(struct outdir *od, const char *state)
{
	char text[MARKER_MAX];
	int fd, rc = 0;

	marker_text(od, state, text);
	fd = sys_openat(od->fd, MARKER_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
	if (fd == -1 || sys_write_all(fd, text, strlen(text)) || sys_fsync(fd) ||
	    sys_renameat(od->fd, MARKER_NEW, od->fd, OUTDIR_MARKER) || sys_fsync(od->fd))
		rc = err_sys("cannot write %s/%s", od->path, OUTDIR_MARKER);
	sys_close(&fd);
	return rc;
}

/* Read the marker; an empty text if there is none. */
static int
read_marker(struct outdir *od, char text[MARKER_MAX])
{
	ssize_t n;
	int fd, rc = 0;

	text[0] = 0;
	fd = sys_openat(od->fd, OUTDIR_MARKER, O_RDONLY | O_NOFOLLOW, 0);
	if (fd == -1 && errno == ENOENT)
		return 0;
	if (fd == -1)
		return err_sys("cannot read %s/%s", od->path, OUTDIR_MARKER);
	n = sys_read_full(fd, text, MARKER_MAX - 1);
	if (n == -1)
		rc = err_sys("cannot read %s/%s", od->path, OUTDIR_MARKER);
	else
		text[n] = 0;
	sys_close(&fd);
	/* An empty marker is still one: of nobody. */
	if (!rc && n == 0)
		snprintf(text, MARKER_MAX, "?");
	return rc;
}

/* 1 if nothing is in it but what a file system puts there itself, or what a crash of ours left. */
static int
is_empty(const struct outdir *od)
{
	int fd = sys_openat(od->fd, ".", O_RDONLY | O_DIRECTORY, 0);
	struct dirent *d;
	DIR *dir;
	int empty = 1;

	dir = fd == -1 ? NULL : fdopendir(fd);
	if (!dir) {
		int rc = err_sys("cannot list %s", od->path);

		sys_close(&fd);
		return rc;
	}
	while (empty && (d = readdir(dir)))
		empty = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
			strcmp(d->d_name, "lost+found") == 0 || strcmp(d->d_name, MARKER_NEW) == 0;
	closedir(dir);
	return empty;
}

/* Find out what the directory is to us, and leave the marker that says so. */
static int
begin(struct outdir *od, bool force)
{
	char text[MARKER_MAX], writing[MARKER_MAX], clearing[MARKER_MAX];
	int rc = read_marker(od, text);

	if (rc)
		return rc;
	marker_text(od, "writing", writing);
	marker_text(od, "clearing", clearing);
	if (strcmp(text, writing) == 0) {
		od->state = OUTDIR_RESUMED;
		return 0;
	}
	if (strcmp(text, clearing) == 0) {
		od->state = OUTDIR_USED;
		return 0;
	}
	if (text[0] && !force)
		return err_set(ERR_EXISTS,
		    "%s has the unfinished restore of another snapshot in it; choose an empty "
		    "directory, or "
		    "use --force to write over it",
		    od->path);
	rc = is_empty(od);
	if (rc < 0)
		return rc;
	if (rc == 1) {
		od->state = OUTDIR_FRESH;
		return write_marker(od, "writing");
	}
	if (!force)
		return err_set(ERR_EXISTS,
		    "%s is not empty; choose another directory, or use --force to replace files in "
		    "it",
		    od->path);
	od->state = OUTDIR_USED;
	return write_marker(od, "clearing");
}

int
outdir_open(struct outdir **out, const char *dir, const char *tree_name, bool force)
{
	struct outdir *od = mem_alloc(sizeof(*od));
	int rc = 0;

	*out = NULL;
	if (!od)
		return err_nomem();
	od->fd = -1;
	od->path = mem_strdup(dir);
	od->tree_name = mem_strdup(tree_name ? tree_name : "?");
	if (!od->path || !od->tree_name) {
		rc = err_nomem();
		goto out;
	}
	if (sys_mkdirat(AT_FDCWD, dir, 0700) && errno != EEXIST) {
		rc = err_sys("cannot make the directory %s", dir);
		goto out;
	}
	od->fd = sys_openat(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0);
	if (od->fd == -1) {
		rc = err_sys("cannot open the directory %s", dir);
		goto out;
	}
	rc = begin(od, force);
	if (rc)
		goto out;
	*out = od;
	od = NULL;
out:
	outdir_close(od);
	return rc;
}

void
outdir_close(struct outdir *od)
{
	if (!od)
		return;
	sys_close(&od->fd);
	free(od->path);
	free(od->tree_name);
	free(od);
}

enum outdir_state
outdir_state(const struct outdir *od)
{
	return od->state;
}

const char *
outdir_path(const struct outdir *od)
{
	return od->path;
}

int
outdir_fd(const struct outdir *od)
{
	return od->fd;
}

int
outdir_cleared(struct outdir *od)
{
	return write_marker(od, "writing");
}

int
outdir_parent(const struct outdir *od, const char *path, int *fd, const char **base)
{
	const char *slash;
	int at, rc = 0;

	*fd = -1;
	*base = *path ? path : ".";
	at = sys_openat(od->fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (at == -1)
		return err_sys("cannot open the directory %s", od->path);
	while ((slash = strchr(path, '/'))) {
		char part[PART_MAX];
		size_t len = (size_t)(slash - path);
		int next;

		if (len >= sizeof(part)) {
			rc = err_set(ERR_DAMAGED, "the name %.40s... is too long", path);
			break;
		}
		memcpy(part, path, len);
		part[len] = 0;
		next = sys_openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
		if (next == -1) {
			rc = err_sys("cannot open the directory %s in %s", part, od->path);
			break;
		}
		sys_close(&at);
		at = next;
		path = slash + 1;
		*base = path;
	}
	if (rc)
		sys_close(&at);
	*fd = at;
	return rc;
}

int
outdir_sync(const struct outdir *od)
{
	return sys_syncfs(od->fd) ? err_sys("cannot make %s durable", od->path) : 0;
}

int
outdir_finish(struct outdir *od)
{
	if (sys_unlinkat(od->fd, OUTDIR_MARKER, 0) || sys_fsync(od->fd))
		return err_sys("cannot remove %s/%s", od->path, OUTDIR_MARKER);
	return 0;
}

int
outdir_free_bytes(const struct outdir *od, uint64_t *bytes)
{
	struct statvfs st;

	if (sys_fstatvfs(od->fd, &st))
		return err_sys("cannot see how much is free at %s", od->path);
	/* What is kept back for root counts for root. */
	*bytes = (uint64_t)(geteuid() == 0 ? st.f_bfree : st.f_bavail) * st.f_frsize;
	return 0;
}
