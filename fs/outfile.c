#include "fs/outfile.h"

#include "fs/outdir.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOLE_BYTES (64u << 10) /* zeros of this size and alignment become holes */
#define NS_PER_S   1000000000u

int
outfile_new(struct outfile **out, const char *path, const struct tree_entry *e)
{
	struct outfile *f = mem_alloc(sizeof(*f));
	int rc;

	*out = NULL;
	if (!f)
		return err_nomem();
	f->fd = -1;
	atomic_init(&f->users, 1);
	f->path = mem_strdup(path);
	rc = f->path ? tree_entry_copy(&f->entry, e) : err_nomem();
	if (rc) {
		free(f->path);
		free(f);
		return rc;
	}
	*out = f;
	return 0;
}

bool
outfile_drop(struct outfile *f)
{
	return atomic_fetch_sub(&f->users, 1) == 1;
}

void
outfile_free(struct outfile *f)
{
	if (!f)
		return;
	sys_close(&f->fd);
	tree_entry_release(&f->entry);
	free(f->path);
	free(f);
}

static long
mtime_ns(const struct tree_entry *e)
{
	return e->mtime_ns < NS_PER_S ? (long)e->mtime_ns : 0;
}

/* ---- metadata ---- */

static void
warn(const struct outfile_env *env, const char *path, const char *message)
{
	if (env->warn)
		env->warn(env->ctx, path, message);
}

/* An attribute that this user or this file system cannot have is a loss to be told, not an end. */
static int
set_xattrs(const struct outfile_env *env, const char *path, const struct tree_entry *e, int fd,
    const char *base)
{
	for (size_t i = 0; i < e->nxattrs; i++) {
		const struct tree_xattr *x = &e->xattrs[i];
		int rc;

		if (sys_lsetxattrat(fd, base, x->name, x->value, x->len) == 0)
			continue;
		rc = errno == ENOTSUP || errno == EPERM;
		if (!rc)
			return err_sys("cannot set the attribute %s of %s", x->name, path);
		err_sys("the attribute %s is not restored", x->name);
		warn(env, path, err_msg());
	}
	return 0;
}

static int
set_meta_at(const struct outfile_env *env, const char *path, const struct tree_entry *e, int fd,
    const char *base)
{
	struct timespec times[2];
	mode_t mode = e->mode & 07777;
	uid_t uid = env->map_owner ? env->uid : e->uid;
	gid_t gid = env->map_owner ? env->gid : e->gid;
	int rc;

	/* The owner first: the kernel drops capabilities and set-id bits when it changes. */
	if ((env->map_owner || env->keep_owners) &&
	    sys_fchownat(fd, base, uid, gid, AT_SYMLINK_NOFOLLOW))
		return err_sys(
		    "cannot give %s to user %u and group %u; restore as root, or without owners",
		    path, uid, gid);
	rc = set_xattrs(env, path, e, fd, base);
	if (rc)
		return rc;
	/* With another owner these bits would give away the rights of whoever restores. */
	if (env->map_owner || !env->keep_owners)
		mode &= (mode_t) ~(S_ISUID | S_ISGID);
	if (e->type != TREE_SYMLINK && sys_fchmodat(fd, base, mode))
		return err_sys("cannot set the mode of %s", path);
	times[0] = (struct timespec){ .tv_sec = e->mtime_s, .tv_nsec = mtime_ns(e) };
	times[1] = times[0];
	if (sys_utimensat(fd, base, times, AT_SYMLINK_NOFOLLOW))
		return err_sys("cannot set the time of %s", path);
	return 0;
}

int
outfile_set_meta(const struct outfile_env *env, const char *path, const struct tree_entry *e)
{
	const char *base;
	int fd, rc = outdir_parent(env->dir, path, &fd, &base);

	if (!rc)
		rc = set_meta_at(env, path, e, fd, base);
	sys_close(&fd);
	return rc;
}

/* ---- making things ---- */

/* Remove whatever has the name; nothing there is success. */
static int
remove_at(int fd, const char *base, const char *path)
{
	if (sys_unlinkat(fd, base, 0) == 0 || errno == ENOENT)
		return 0;
	if ((errno == EISDIR || errno == EPERM) && sys_unlinkat(fd, base, AT_REMOVEDIR) == 0)
		return 0;
	if (errno == ENOTEMPTY || errno == EEXIST)
		return err_set(
		    ERR_EXISTS, "a directory with files in it is in the way of %s", path);
	return err_sys("cannot replace %s", path);
}

int
outfile_clear(const struct outfile_env *env, const char *path, const struct tree_entry *e)
{
	const char *base;
	struct stat st;
	int fd, rc = outdir_parent(env->dir, path, &fd, &base);

	if (rc)
		return rc == ERR_NOTFOUND ? 0 : rc;
	if (sys_fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW))
		rc = errno == ENOENT ? 0 : err_sys("cannot look at %s", path);
	else if (e->type != TREE_DIR || !S_ISDIR(st.st_mode))
		rc = remove_at(fd, base, path);
	sys_close(&fd);
	return rc;
}

int
outfile_make_dir(const struct outfile_env *env, const char *path)
{
	const char *base;
	struct stat st;
	int fd, rc = outdir_parent(env->dir, path, &fd, &base);

	if (rc)
		return rc;
	if (sys_mkdirat(fd, base, 0700) == 0)
		goto out;
	if (errno != EEXIST || sys_fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW))
		rc = err_sys("cannot make the directory %s", path);
	else if (!S_ISDIR(st.st_mode))
		rc = err_set(ERR_EXISTS, "%s is in the way of a directory", path);
	else if ((st.st_mode & 0700) != 0700 && sys_fchmodat(fd, base, 0700))
		rc = err_sys("cannot open the directory %s for writing", path);
out:
	sys_close(&fd);
	return rc;
}

static mode_t
node_type(enum tree_type type)
{
	switch (type) {
	case TREE_SOCKET:
		return S_IFSOCK;
	case TREE_CHARDEV:
		return S_IFCHR;
	case TREE_BLOCKDEV:
		return S_IFBLK;
	default:
		return S_IFIFO;
	}
}

int
outfile_make_special(const struct outfile_env *env, const char *path, const struct tree_entry *e)
{
	const char *base;
	int fd, failed, rc = outdir_parent(env->dir, path, &fd, &base);

	if (rc)
		return rc;
	rc = remove_at(fd, base, path);
	if (rc)
		goto out;
	if (e->type == TREE_SYMLINK)
		failed = sys_symlinkat(e->target ? e->target : "", fd, base);
	else
		failed = sys_mknodat(fd, base, node_type(e->type) | 0600, e->rdev);
	if (failed && errno == EPERM && (e->type == TREE_CHARDEV || e->type == TREE_BLOCKDEV)) {
		warn(env, path, "a device is not restored: only root can make it");
		goto out;
	}
	rc = failed ? err_sys("cannot make %s", path) : set_meta_at(env, path, e, fd, base);
out:
	sys_close(&fd);
	return rc;
}

/* "<name>.damaged", cut so that it is still a name. */
static void
damaged_name(const char *base, char out[TREE_NAME_MAX + 1])
{
	int room = TREE_NAME_MAX - (int)strlen(OUTFILE_DAMAGED_SUFFIX);

	snprintf(out, TREE_NAME_MAX + 1, "%.*s%s", room, base, OUTFILE_DAMAGED_SUFFIX);
}

int
outfile_make_link(const struct outfile_env *env, const char *path, const char *first)
{
	char from_damaged[TREE_NAME_MAX + 1], to_damaged[TREE_NAME_MAX + 1];
	const char *from, *to;
	int from_fd = -1, to_fd = -1, rc;

	rc = outdir_parent(env->dir, first, &from_fd, &from);
	if (!rc)
		rc = outdir_parent(env->dir, path, &to_fd, &to);
	if (!rc)
		rc = remove_at(to_fd, to, path);
	if (rc || sys_linkat(from_fd, from, to_fd, to, 0) == 0)
		goto out;
	if (errno != ENOENT) {
		rc = err_sys("cannot make %s another name of %s", path, first);
		goto out;
	}
	/* The file was damaged, so it is under its other name, and so is this one. */
	damaged_name(from, from_damaged);
	damaged_name(to, to_damaged);
	rc = remove_at(to_fd, to_damaged, path);
	if (!rc && sys_linkat(from_fd, from_damaged, to_fd, to_damaged, 0))
		rc = err_sys("cannot make %s another name of %s", path, first);
	if (!rc && env->damaged)
		env->damaged(env->ctx, path, "it is another name of a damaged file");
out:
	sys_close(&from_fd);
	sys_close(&to_fd);
	return rc;
}

/* ---- files ---- */

/* Its time is set when all the rest is done, so size and time tell. */
static bool
is_complete(const struct tree_entry *e, int fd, const char *base)
{
	struct stat st;

	return sys_fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_size == e->content.size && st.st_mtim.tv_sec == e->mtime_s &&
	       st.st_mtim.tv_nsec == mtime_ns(e);
}

int
outfile_begin(struct outfile *f, const struct outfile_env *env, bool resumed)
{
	const char *base;
	int fd, rc = outdir_parent(env->dir, f->path, &fd, &base);

	if (rc)
		return rc;
	if (resumed && is_complete(&f->entry, fd, base)) {
		rc = 1;
		goto out;
	}
	rc = remove_at(fd, base, f->path);
	if (rc)
		goto out;
	f->fd = sys_openat(fd, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (f->fd == -1)
		rc = err_sys("cannot make %s", f->path);
	else if (f->entry.content.size && sys_ftruncate(f->fd, f->entry.content.size))
		rc = err_sys("cannot give %s its size", f->path);
out:
	sys_close(&fd);
	return rc;
}

static bool
all_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* Write `len` bytes at `off`, but blocks of zeros: the file was made full of holes. */
static int
write_data(struct outfile *f, const uint8_t *buf, size_t len, uint64_t off)
{
	size_t at = 0;

	while (at < len) {
		size_t run = 0;

		/* Up to the next block of zeros, at borders of blocks in the file. */
		while (at + run < len) {
			size_t n = HOLE_BYTES - (size_t)((off + at + run) % HOLE_BYTES);

			n = n < len - at - run ? n : len - at - run;
			if (all_zero(buf + at + run, n)) {
				if (run)
					break;
				at += n;
				continue;
			}
			run += n;
		}
		if (run && sys_pwrite_all(f->fd, buf + at, run, off + at))
			return err_sys("cannot write %s", f->path);
		at += run;
	}
	return 0;
}

/* Finds the end of the chunk, or of the part of the map, that has a position in it. */
struct span_search {
	uint64_t pos, end;
};

static int
search_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	struct span_search *s = ctx;

	if (s->pos >= off && s->pos < off + ref->len) {
		s->end = off + ref->len;
		return 1;
	}
	return off > s->pos ? 1 : 0;
}

static int
search_broken(void *ctx, const struct chunk_id *id, uint64_t off, uint64_t len, int rc)
{
	struct span_search *s = ctx;

	(void)id;
	(void)rc;
	if (s->pos >= off && s->pos - off < len) {
		s->end = off + len;
		return 1;
	}
	return 0;
}

/* Say that `f` is damaged, once, and find where it goes on behind `pos`. */
static uint64_t
behind_damage(struct outfile *f, const struct outfile_env *env, uint64_t pos)
{
	struct span_search s = { .pos = pos, .end = 0 };
	const struct content_visitor visitor = {
		.chunk = search_chunk,
		.broken = search_broken,
		.ctx = &s,
	};

	if (!atomic_exchange(&f->damaged, true) && env->damaged)
		env->damaged(env->ctx, f->path, err_msg());
	if (content_each(env->reader, &f->entry.content, &visitor) != 1 || s.end <= pos)
		return f->entry.content.size;
	return s.end;
}

int
outfile_write(
    struct outfile *f, const struct outfile_env *env, uint64_t off, uint64_t end, uint8_t *buf)
{
	uint64_t size = f->entry.content.size;

	end = end < size ? end : size;
	while (off < end) {
		size_t len =
		    end - off < OUTFILE_BUFFER_BYTES ? (size_t)(end - off) : OUTFILE_BUFFER_BYTES;
		uint64_t next;
		size_t got = 0;
		int rc = cancel_check();

		if (rc)
			return rc;
		rc = content_pread(env->reader, &f->entry.content, buf, len, off, &got);
		if (!rc && got == 0)
			rc = err_set(ERR_DAMAGED, "%s ends before its size", f->path);
		if (rc && rc != ERR_DAMAGED)
			return rc;
		if (rc) {
			next = behind_damage(f, env, off);
			next = next < end ? next : end;
		} else {
			rc = write_data(f, buf, got, off);
			if (rc)
				return rc;
			next = off + got;
			/* Let the disk begin now, so that the sync at the end has little left. */
			(void)sync_file_range(f->fd, (off_t)off, (off_t)got, SYNC_FILE_RANGE_WRITE);
		}
		progress_bytes(env->progress, next - off);
		off = next;
	}
	return 0;
}

int
outfile_finish(struct outfile *f, const struct outfile_env *env)
{
	char renamed[TREE_NAME_MAX + 1];
	const char *base;
	int fd, rc = outdir_parent(env->dir, f->path, &fd, &base);

	sys_close(&f->fd);
	if (rc)
		return rc;
	if (atomic_load(&f->damaged)) {
		damaged_name(base, renamed);
		if (sys_renameat(fd, base, fd, renamed)) {
			rc = err_sys("cannot rename %s to %s", f->path, renamed);
			goto out;
		}
		base = renamed;
	}
	rc = set_meta_at(env, f->path, &f->entry, fd, base);
out:
	sys_close(&fd);
	return rc;
}
