/*
 * LMDB keeps no checksums, and garbage in its pages makes it crash.  So a file "stamp" beside the
 * environment remembers how the data file looked after our last commit; when it looks otherwise at
 * open, a child process walks the whole environment first, and only if it survives is it used.
 *
 * Locks: `open_lock` protects the list of open environments and their users, and is held while one
 * is opened or closed; `map`, of the header, is taken inside it.
 */
#include "store/index_env.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define INDEX_FORMAT    1
#define MAP_FIRST_BYTES ((size_t)256 << 20)
#define MAX_READERS     1024
#define VERIFY_SECONDS  120

/* ---- errors ---- */

int
index_env_err(const struct index *ix, int rc, const char *what)
{
	switch (rc) {
	case ENOSPC:
		return err_set(ERR_NOSPACE, "index %s: %s: no space left; free some, or put the "
					    "cache elsewhere with --cache-dir",
		    ix->dir, what);
	case ENOMEM:
		return err_nomem();
	case EACCES:
	case EPERM:
	case EROFS:
		return err_set(ERR_DENIED, "index %s: %s: %s", ix->dir, what, strerror(rc));
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_VERSION_MISMATCH:
	case MDB_INCOMPATIBLE:
	case MDB_BAD_VALSIZE:
	case MDB_BAD_DBI:
		return err_set(ERR_DAMAGED,
		    "index %s: %s: %s; it is only a cache: run pastfs index rebuild", ix->dir, what,
		    mdb_strerror(rc));
	default:
		return err_set(ERR_IO, "index %s: %s: %s", ix->dir, what, mdb_strerror(rc));
	}
}

/* ---- the stamp ---- */

static void
stamp_of(const struct stat *st, uint8_t out[40])
{
	le64_store(out, (uint64_t)st->st_ino);
	le64_store(out + 8, (uint64_t)st->st_size);
	le64_store(out + 16, (uint64_t)st->st_mtim.tv_sec);
	le64_store(out + 24, (uint64_t)st->st_mtim.tv_nsec);
	le64_store(out + 32, INDEX_FORMAT);
}

static int
data_file_stamp(const char *dir, uint8_t out[40])
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	if (sys_fstatat(AT_FDCWD, path, &st, 0))
		return -1;
	stamp_of(&st, out);
	return 0;
}

/*
 * Best effort: a stamp that is not written only costs a walk at the next open.  What was not synced
 * gets none, because a loss of power could keep the file's times and lose its pages.
 */
static void
stamp_write(const struct index *ix)
{
	char path[PATH_MAX];
	uint8_t stamp[40];
	unsigned flags;
	int fd;

	if (mdb_env_get_flags(ix->env, &flags) || (flags & MDB_NOSYNC) ||
	    data_file_stamp(ix->dir, stamp))
		return;
	snprintf(path, sizeof(path), "%s/stamp", ix->dir);
	fd = sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd != -1 && sys_write_all(fd, stamp, sizeof(stamp)))
		sys_unlinkat(AT_FDCWD, path, 0);
	sys_close(&fd);
}

static bool
stamp_fits(const char *dir)
{
	char path[PATH_MAX];
	uint8_t now[40], then[41];
	ssize_t n = -1;
	int fd;

	if (data_file_stamp(dir, now))
		return false;
	snprintf(path, sizeof(path), "%s/stamp", dir);
	fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0);
	if (fd != -1)
		n = sys_read_full(fd, then, sizeof(then));
	sys_close(&fd);
	return n == sizeof(now) && memcmp(now, then, sizeof(now)) == 0;
}

/*
 * Walk every database of the environment; runs in the child.  As a proper reader, with a lock: the
 * pages of the state it sees must not be used again by a writer meanwhile.
 */
static int
walk_environment(const char *dir)
{
	static const char *const names[] = { "meta", "chunks", "packs", "packids", "loaded" };
	MDB_txn *txn;
	MDB_env *env;

	if (mdb_env_create(&env) || mdb_env_set_maxdbs(env, 8) ||
	    mdb_env_open(env, dir, MDB_RDONLY, 0600) ||
	    mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))
		return 1;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		MDB_cursor *cur;
		MDB_val k, v;
		MDB_stat st;
		MDB_dbi dbi;
		size_t n = 0;
		int rc;

		rc = mdb_dbi_open(txn, names[i], 0, &dbi);
		/* A process was killed before it made them. */
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc || mdb_stat(txn, dbi, &st) || mdb_cursor_open(txn, dbi, &cur))
			return 1;
		while ((rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
			if (k.mv_size > 511 || v.mv_size > 4096 || ++n > st.ms_entries)
				return 1;
			for (size_t b = 0; b < v.mv_size; b++)
				(void)((volatile const uint8_t *)v.mv_data)[b];
		}
		if (rc != MDB_NOTFOUND || n != st.ms_entries)
			return 1;
	}
	return 0;
}

/* Whether the environment in `dir` can be walked without harm. */
static bool
environment_survives(const char *dir)
{
	int status = -1;
	pid_t pid;

	pid = fork();
	if (pid == -1)
		return false;
	if (pid == 0) {
		struct rlimit none = { 0, 0 };
		int null = open("/dev/null", O_WRONLY);

		/* The crash that is expected here should leave no trace. */
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		if (null != -1)
			dup2(null, STDERR_FILENO);
		alarm(VERIFY_SECONDS);
		_exit(walk_environment(dir));
	}
	while (waitpid(pid, &status, 0) == -1)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- transactions ---- */

static int
txn_begin(struct index *ix, unsigned flags, MDB_txn **txn)
{
	int rc;

	for (;;) {
		pthread_rwlock_rdlock(&ix->map);
		rc = mdb_txn_begin(ix->env, NULL, flags, txn);
		if (rc == 0)
			return 0;
		pthread_rwlock_unlock(&ix->map);
		if (rc == MDB_MAP_RESIZED) {
			/* Another process made it larger. */
			pthread_rwlock_wrlock(&ix->map);
			rc = mdb_env_set_mapsize(ix->env, 0);
			pthread_rwlock_unlock(&ix->map);
			if (rc == 0)
				continue;
		} else if (rc == MDB_READERS_FULL) {
			int dead = 0;

			if (mdb_reader_check(ix->env, &dead) == 0 && dead > 0)
				continue;
		}
		return index_env_err(ix, rc, "begin a transaction");
	}
}

static void
txn_abort(struct index *ix, MDB_txn *txn)
{
	mdb_txn_abort(txn);
	pthread_rwlock_unlock(&ix->map);
}

int
index_env_begin(struct index *ix, MDB_txn **txn)
{
	return txn_begin(ix, MDB_RDONLY, txn);
}

void
index_env_end(struct index *ix, MDB_txn *txn)
{
	txn_abort(ix, txn);
}

static int
txn_commit(struct index *ix, MDB_txn *txn)
{
	int rc = mdb_txn_commit(txn);

	pthread_rwlock_unlock(&ix->map);
	return rc;
}

static int
grow_map(struct index *ix)
{
	MDB_envinfo info;
	int rc;

	pthread_rwlock_wrlock(&ix->map);
	rc = mdb_env_info(ix->env, &info);
	if (rc == 0)
		rc = mdb_env_set_mapsize(ix->env, info.me_mapsize * 2);
	pthread_rwlock_unlock(&ix->map);
	return rc ? index_env_err(ix, rc, "grow the map") : 0;
}

int
index_env_write(struct index *ix, int (*fn)(struct index *ix, MDB_txn *txn, void *arg), void *arg,
    const char *what)
{
	for (;;) {
		MDB_txn *txn;
		int rc = txn_begin(ix, 0, &txn);

		if (rc)
			return rc;
		rc = fn(ix, txn, arg);
		if (rc == 0)
			rc = txn_commit(ix, txn);
		else
			txn_abort(ix, txn);
		if (rc == 0) {
			stamp_write(ix);
			return 0;
		}
		if (rc != MDB_MAP_FULL)
			return index_env_err(ix, rc, what);
		rc = grow_map(ix);
		if (rc)
			return rc;
	}
}

/* ---- opening ---- */

static int
make_directory(const char *dir)
{
	char path[PATH_MAX];
	size_t len = strlen(dir);

	if (len == 0 || len >= sizeof(path))
		return err_set(ERR_USAGE, "bad cache directory \"%s\"", dir);
	memcpy(path, dir, len + 1);
	for (char *p = path + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (sys_mkdirat(AT_FDCWD, path, 0700) && errno != EEXIST)
			return err_sys("create cache directory %s", path);
		*p = c;
		if (c == '\0')
			return 0;
	}
}

static int
open_databases(struct index *ix, MDB_txn *txn, void *arg)
{
	int rc;

	(void)arg;
	if ((rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &ix->meta)) ||
	    (rc = mdb_dbi_open(txn, "chunks", MDB_CREATE, &ix->chunks)) ||
	    (rc = mdb_dbi_open(txn, "packs", MDB_CREATE, &ix->packs)) ||
	    (rc = mdb_dbi_open(txn, "packids", MDB_CREATE, &ix->packids)) ||
	    (rc = mdb_dbi_open(txn, "loaded", MDB_CREATE, &ix->loaded)))
		return rc;
	return 0;
}

static int
put_meta(struct index *ix, MDB_txn *txn, void *arg)
{
	uint8_t format[4];
	MDB_val k = { 6, "format" }, v = { sizeof(format), format };
	int rc;

	(void)arg;
	le32_store(format, INDEX_FORMAT);
	rc = mdb_put(txn, ix->meta, &k, &v, 0);
	if (rc)
		return rc;
	k = (MDB_val){ 4, "repo" };
	v = (MDB_val){ REPO_ID_LEN, ix->repo_id };
	return mdb_put(txn, ix->meta, &k, &v, 0);
}

/* Whether the environment is of this repository and format, not new or foreign. MDB codes. */
static int
read_meta(struct index *ix, MDB_txn *txn, bool *ours)
{
	MDB_val k = { 6, "format" }, v;
	int rc = mdb_get(txn, ix->meta, &k, &v);

	*ours = rc == 0 && v.mv_size == 4 && le32_load(v.mv_data) == INDEX_FORMAT;
	k = (MDB_val){ 4, "repo" };
	if (*ours)
		rc = mdb_get(txn, ix->meta, &k, &v);
	*ours = *ours && rc == 0 && v.mv_size == REPO_ID_LEN &&
	    memcmp(v.mv_data, ix->repo_id, REPO_ID_LEN) == 0;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
drop_all(struct index *ix, MDB_txn *txn, void *arg)
{
	const MDB_dbi dbis[] = { ix->meta, ix->chunks, ix->packs, ix->packids, ix->loaded };

	for (size_t i = 0; i < sizeof(dbis) / sizeof(dbis[0]); i++) {
		int rc = mdb_drop(txn, dbis[i], 0);

		if (rc)
			return rc;
	}
	return put_meta(ix, txn, arg);
}

/* In the same transaction: another process may have begun to fill it since it was looked at. */
static int
drop_foreign(struct index *ix, MDB_txn *txn, void *arg)
{
	bool *ours = arg;
	int rc = read_meta(ix, txn, ours);

	return rc || *ours ? rc : drop_all(ix, txn, NULL);
}

/* 0 the environment is ours, 1 it was new or of another repository or format, and is empty now. */
static int
check_meta(struct index *ix)
{
	MDB_txn *txn;
	bool ours;
	int rc;

	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = read_meta(ix, txn, &ours);
	txn_abort(ix, txn);
	if (rc)
		return index_env_err(ix, rc, "read");
	if (!ours)
		rc = index_env_write(ix, drop_foreign, &ours, "empty");
	return rc || ours ? rc : 1;
}

static int
open_environment(struct index *ix)
{
	int dead, rc;

	rc = mdb_env_create(&ix->env);
	if (rc) {
		ix->env = NULL;
		return rc;
	}
	if ((rc = mdb_env_set_maxdbs(ix->env, 8)) ||
	    (rc = mdb_env_set_maxreaders(ix->env, MAX_READERS)) ||
	    (rc = mdb_env_set_mapsize(ix->env, MAP_FIRST_BYTES)) ||
	    (rc = mdb_env_open(ix->env, ix->dir, MDB_NOTLS | MDB_NORDAHEAD, 0600)))
		return rc;
	/* A killed reader would pin pages for ever. */
	return mdb_reader_check(ix->env, &dead);
}

static void
close_environment(struct index *ix)
{
	if (ix->env)
		mdb_env_close(ix->env);
	ix->env = NULL;
}

static void
remove_environment(const char *dir)
{
	static const char *const names[] = { "data.mdb", "lock.mdb", "stamp" };
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		sys_unlinkat(AT_FDCWD, path, 0);
	}
}

static bool
environment_exists(const char *dir)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	return sys_fstatat(AT_FDCWD, path, &st, 0) == 0 && st.st_size > 0;
}

/* Open what is there or make it: 0 it has our content, 1 it is empty. */
static int
open_or_make(struct index *ix)
{
	int rc = open_environment(ix);

	if (rc)
		return index_env_err(ix, rc, "open");
	rc = index_env_write(ix, open_databases, NULL, "open databases");
	if (rc)
		return rc;
	return check_meta(ix);
}

/*
 * What this process has open.  LMDB's file locks belong to the process and are lost when any of its
 * descriptors of the lock file is closed, so one environment is opened once and shared.
 */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct index *open_list;

/* The environment of the directory, if this process has it open; a fork's parent does not count. */
static struct index *
find_open(const struct stat *dir)
{
	struct index *ix = open_list;

	while (ix && (ix->pid != getpid() || ix->dev != dir->st_dev || ix->ino != dir->st_ino))
		ix = ix->next;
	return ix;
}

static void
env_free(struct index *ix)
{
	close_environment(ix);
	pthread_rwlock_destroy(&ix->map);
	pthread_mutex_destroy(&ix->packs_lock);
	free(ix->pack_rows);
	free(ix->dir);
	free(ix);
}

/*
 * Only one process at a time opens, judges, removes or makes the files in `dir`: what another is
 * just making would look damaged.  Returns what to close in the end, or -1 without a lock.
 */
static int
lock_directory(const char *dir)
{
	int fd = sys_openat(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0);

	if (fd == -1)
		return -1;
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			break;
	return fd;
}

static int
open_first(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN])
{
	struct index *ix = mem_alloc(sizeof(*ix));
	int fd = -1, rc;

	*out = NULL;
	if (!ix)
		return err_nomem();
	pthread_rwlock_init(&ix->map, NULL);
	pthread_mutex_init(&ix->packs_lock, NULL);
	memcpy(ix->repo_id, repo_id, REPO_ID_LEN);
	ix->dir = mem_strdup(dir);
	if (!ix->dir) {
		rc = err_nomem();
		goto out;
	}
	fd = lock_directory(dir);
	if (environment_exists(dir) && !stamp_fits(dir) && !environment_survives(dir))
		remove_environment(dir);
	rc = open_or_make(ix);
	if (rc == ERR_DAMAGED) {
		close_environment(ix);
		remove_environment(dir);
		rc = open_or_make(ix);
	}
out:
	sys_close(&fd);
	if (rc < 0) {
		env_free(ix);
		return rc;
	}
	*out = ix;
	return rc;
}

int
index_env_open(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN])
{
	struct index *ix;
	struct stat st;
	int rc = make_directory(dir);

	*out = NULL;
	if (rc)
		return rc;
	if (sys_fstatat(AT_FDCWD, dir, &st, 0))
		return err_sys("cache directory %s", dir);
	pthread_mutex_lock(&open_lock);
	ix = find_open(&st);
	if (ix && memcmp(ix->repo_id, repo_id, REPO_ID_LEN) != 0) {
		rc = err_set(ERR_BUSY, "cache directory %s is in use for another repository", dir);
		goto out;
	}
	if (!ix) {
		rc = open_first(&ix, dir, repo_id);
		if (rc < 0)
			goto out;
		ix->pid = getpid();
		ix->dev = st.st_dev;
		ix->ino = st.st_ino;
		ix->next = open_list;
		open_list = ix;
	}
	ix->users++;
	*out = ix;
out:
	pthread_mutex_unlock(&open_lock);
	return rc;
}

void
index_env_close(struct index *ix)
{
	struct index **p = &open_list;

	if (!ix)
		return;
	pthread_mutex_lock(&open_lock);
	if (--ix->users == 0) {
		while (*p != ix)
			p = &(*p)->next;
		*p = ix->next;
		env_free(ix);
	}
	pthread_mutex_unlock(&open_lock);
}

int
index_env_clear(struct index *ix)
{
	return index_env_write(ix, drop_all, NULL, "empty");
}

int
index_env_sync(struct index *ix)
{
	int rc = mdb_env_sync(ix->env, 1);

	if (rc)
		return index_env_err(ix, rc, "sync");
	stamp_write(ix);
	return 0;
}
