/*
 * The environment holds five databases:
 *
 *   meta    "format" -> u32, "repo" -> repository id
 *   chunks  first 16 bytes of the id -> u32 pack number, u32 offset, u32 sealed length,
 *           u32 content length in the low 24 bits and encoding in the high 8
 *   packs   u32 pack number (big-endian, so that they sort) -> pack id 32, domain id 16,
 *           u64 bytes, u8 kind, u8 published
 *   packids pack id -> u32 pack number (big-endian)
 *   loaded  name of an index object -> nothing
 *
 * LMDB keeps no checksums, and garbage in its pages makes it crash.  So a file "stamp" beside the
 * environment remembers how the data file looked after our last commit; when it looks otherwise at
 * open, a child process walks the whole environment first, and only if it survives is it used.
 *
 * Locks: `map` is held for reading during any transaction and for writing while the map is resized
 * (LMDB allows that only with no transaction in the process); `packs_lock` protects the cache of
 * pack rows, and is taken inside `map`.  `open_lock` protects the list of open environments and
 * their users, and is held while one is opened or closed.
 */
#include "store/index.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define INDEX_FORMAT     1
#define INDEX_KEY_LEN    16
#define INDEX_VALUE_LEN  16
#define PACK_ROW_LEN     58
#define MAP_FIRST_BYTES  ((size_t)256 << 20)
#define MAX_READERS      1024
#define VERIFY_SECONDS   120

struct index {
	struct index *next; /* in the list of open ones */
	unsigned users;
	pid_t pid; /* of the process that opened it */
	dev_t dev; /* of its directory */
	ino_t ino;
	char *dir;
	uint8_t repo_id[REPO_ID_LEN];
	MDB_env *env;
	MDB_dbi meta, chunks, packs, packids, loaded;
	pthread_rwlock_t map;
	pthread_mutex_t packs_lock;
	size_t rows_txn; /* the transaction whose state the cached rows show */
	size_t npacks;   /* rows cached, by number; a row that was not read yet has no bytes */
	struct index_pack *pack_rows;
};

/* ---- errors ---- */

static int
index_err(const struct index *ix, int rc, const char *what)
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
		return index_err(ix, rc, "begin a transaction");
	}
}

static void
txn_abort(struct index *ix, MDB_txn *txn)
{
	mdb_txn_abort(txn);
	pthread_rwlock_unlock(&ix->map);
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
	return rc ? index_err(ix, rc, "grow the map") : 0;
}

/* Run `fn` in a write transaction; again with a larger map when it is full.  fn gives MDB codes. */
static int
write_txn(struct index *ix, int (*fn)(struct index *ix, MDB_txn *txn, void *arg), void *arg,
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
			return index_err(ix, rc, what);
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
		return index_err(ix, rc, "read");
	if (!ours)
		rc = write_txn(ix, drop_foreign, &ours, "empty");
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
		return index_err(ix, rc, "open");
	rc = write_txn(ix, open_databases, NULL, "open databases");
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
index_free(struct index *ix)
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
		index_free(ix);
		return rc;
	}
	*out = ix;
	return rc;
}

int
index_open(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN])
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
index_close(struct index *ix)
{
	struct index **p = &open_list;

	if (!ix)
		return;
	pthread_mutex_lock(&open_lock);
	if (--ix->users == 0) {
		while (*p != ix)
			p = &(*p)->next;
		*p = ix->next;
		index_free(ix);
	}
	pthread_mutex_unlock(&open_lock);
}

int
index_clear(struct index *ix)
{
	return write_txn(ix, drop_all, NULL, "empty");
}

/* ---- pack rows ---- */

static void
number_key(uint8_t key[4], uint32_t no)
{
	for (int i = 0; i < 4; i++)
		key[i] = (uint8_t)(no >> (24 - 8 * i));
}

static uint32_t
number_of_key(const void *key)
{
	const uint8_t *k = key;

	return (uint32_t)k[0] << 24 | (uint32_t)k[1] << 16 | (uint32_t)k[2] << 8 | k[3];
}

static void
pack_row_encode(uint8_t row[PACK_ROW_LEN], const struct index_pack *p)
{
	memcpy(row, p->pack_id, PACK_ID_LEN);
	memcpy(row + 32, p->domain_id, DOMAIN_ID_LEN);
	le64_store(row + 48, p->pack_bytes);
	row[56] = (uint8_t)p->kind;
	row[57] = p->published;
}

static bool
pack_row_decode(struct index_pack *p, const MDB_val *v)
{
	const uint8_t *row = v->mv_data;

	if (v->mv_size != PACK_ROW_LEN || row[56] < PACK_DATA || row[56] > PACK_META)
		return false;
	memcpy(p->pack_id, row, PACK_ID_LEN);
	memcpy(p->domain_id, row + 32, DOMAIN_ID_LEN);
	p->pack_bytes = le64_load(row + 48);
	p->kind = (enum pack_kind)row[56];
	p->published = row[57] != 0;
	return true;
}

/*
 * The row of pack `no`, from the cache or the database. MDB codes.  Any commit, also another
 * process', may give a number to another pack, so the cache serves one transaction's state only.
 */
static int
pack_row_get(struct index *ix, MDB_txn *txn, uint32_t no, struct index_pack *out)
{
	uint8_t key[4];
	MDB_val k = { sizeof(key), key }, v;
	int rc = 0;

	pthread_mutex_lock(&ix->packs_lock);
	if (ix->rows_txn != mdb_txn_id(txn)) {
		free(ix->pack_rows);
		ix->pack_rows = NULL;
		ix->npacks = 0;
		ix->rows_txn = mdb_txn_id(txn);
	}
	if (no < ix->npacks && ix->pack_rows[no].pack_bytes != 0) {
		*out = ix->pack_rows[no];
		goto out;
	}
	number_key(key, no);
	rc = mdb_get(txn, ix->packs, &k, &v);
	if (rc)
		goto out;
	if (!pack_row_decode(out, &v)) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	if (no >= ix->npacks && no < (1u << 26)) {
		size_t n = ((size_t)no + 1024) & ~(size_t)1023;
		struct index_pack *rows = mem_realloc(ix->pack_rows, n * sizeof(*rows));

		/* Without memory the cache just does not grow. */
		if (rows) {
			memset(rows + ix->npacks, 0, (n - ix->npacks) * sizeof(*rows));
			ix->pack_rows = rows;
			ix->npacks = n;
		}
	}
	if (no < ix->npacks)
		ix->pack_rows[no] = *out;
out:
	pthread_mutex_unlock(&ix->packs_lock);
	return rc;
}

/* ---- looking up ---- */

int
index_find(struct index *ix, const struct chunk_id *id, struct index_place *place)
{
	uint8_t key[INDEX_KEY_LEN];
	MDB_val k = { sizeof(key), key }, v;
	struct index_pack pack;
	uint32_t len_enc;
	MDB_txn *txn;
	int rc;

	memcpy(key, id->b, sizeof(key));
	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->chunks, &k, &v);
	if (rc)
		goto out;
	if (v.mv_size != INDEX_VALUE_LEN) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	place->pack_no = le32_load(v.mv_data);
	place->off = le32_load((const uint8_t *)v.mv_data + 4);
	place->sealed_len = le32_load((const uint8_t *)v.mv_data + 8);
	len_enc = le32_load((const uint8_t *)v.mv_data + 12);
	place->len = len_enc & 0xffffff;
	place->encoding = (enum encoding)(len_enc >> 24);
	if (place->encoding > ENCODING_DELTA || place->len > CHUNK_MAX_BYTES ||
	    place->sealed_len > CHUNK_MAX_BYTES * 2) {
		rc = MDB_CORRUPTED;
		goto out;
	}
	rc = pack_row_get(ix, txn, place->pack_no, &pack);
	if (rc == MDB_NOTFOUND)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(place->pack_id, pack.pack_id, PACK_ID_LEN);
		memcpy(place->domain_id, pack.domain_id, DOMAIN_ID_LEN);
		place->kind = pack.kind;
		place->pack_bytes = pack.pack_bytes;
	}
out:
	txn_abort(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 1;
	return rc ? index_err(ix, rc, "look up a chunk") : 0;
}

int
index_find_pack(struct index *ix, const uint8_t pack_id[PACK_ID_LEN], struct index_pack *pack)
{
	uint8_t id[PACK_ID_LEN];
	MDB_val k = { PACK_ID_LEN, id }, v, row;
	struct index_pack found;
	MDB_txn *txn;
	int rc;

	memcpy(id, pack_id, sizeof(id));
	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->packids, &k, &v);
	if (rc == 0)
		rc = mdb_get(txn, ix->packs, &v, &row);
	if (rc == 0 && !pack_row_decode(&found, &row))
		rc = MDB_CORRUPTED;
	txn_abort(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 1;
	if (rc)
		return index_err(ix, rc, "look up a pack");
	if (pack)
		*pack = found;
	return 0;
}

/* Copy all pack rows out, so that no transaction is open while callbacks run. */
static int
copy_pack_rows(struct index *ix, struct index_pack **rows, size_t *n)
{
	MDB_cursor *cur = NULL;
	MDB_val k, v;
	MDB_stat st;
	MDB_txn *txn;
	int rc;

	*rows = NULL;
	*n = 0;
	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->packs, &st);
	if (rc == 0 && !(*rows = mem_calloc(st.ms_entries, sizeof(**rows))))
		rc = ENOMEM;
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->packs, &cur);
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
		if (*n == st.ms_entries || !pack_row_decode(&(*rows)[*n], &v))
			rc = MDB_CORRUPTED;
		else
			(*n)++;
	}
	if (cur)
		mdb_cursor_close(cur);
	txn_abort(ix, txn);
	if (rc != MDB_NOTFOUND) {
		free(*rows);
		*rows = NULL;
		return index_err(ix, rc, "list packs");
	}
	return 0;
}

int
index_each_pack(struct index *ix, int (*fn)(void *ctx, const struct index_pack *pack), void *ctx)
{
	struct index_pack *rows;
	size_t n;
	int rc = copy_pack_rows(ix, &rows, &n);

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fn(ctx, &rows[i]);
	free(rows);
	return rc;
}

/* ---- adding ---- */

struct sorted_entry {
	uint8_t key[INDEX_KEY_LEN];
	uint8_t value[INDEX_VALUE_LEN];
};

struct add_job {
	const struct pack_toc *const *tocs;
	size_t n;
	bool published;
	bool bulk;
	struct sorted_entry *sorted; /* room for all entries */
};

static int
compare_sorted(const void *a, const void *b)
{
	return memcmp(a, b, INDEX_KEY_LEN);
}

static int
next_pack_number(struct index *ix, MDB_txn *txn, uint32_t *no)
{
	MDB_cursor *cur;
	MDB_val k, v;
	int rc = mdb_cursor_open(txn, ix->packs, &cur);

	if (rc)
		return rc;
	rc = mdb_cursor_get(cur, &k, &v, MDB_LAST);
	mdb_cursor_close(cur);
	if (rc == MDB_NOTFOUND) {
		*no = 0;
		return 0;
	}
	if (rc == 0 && k.mv_size != 4)
		rc = MDB_CORRUPTED;
	if (rc == 0)
		*no = number_of_key(k.mv_data) + 1;
	return rc;
}

static int
set_row_published(struct index *ix, MDB_txn *txn, MDB_val *number)
{
	uint8_t row[PACK_ROW_LEN];
	struct index_pack pack;
	MDB_val v;
	int rc = mdb_get(txn, ix->packs, number, &v);

	if (rc)
		return rc;
	if (!pack_row_decode(&pack, &v))
		return MDB_CORRUPTED;
	if (pack.published)
		return 0;
	pack.published = true;
	pack_row_encode(row, &pack);
	v = (MDB_val){ sizeof(row), row };
	return mdb_put(txn, ix->packs, number, &v, 0);
}

/* Add the row of one pack; *fresh tells whether its chunks are to be added too. */
static int
add_pack_row(struct index *ix, MDB_txn *txn, const struct pack_toc *toc, bool published,
    uint32_t no, bool *fresh)
{
	uint8_t row[PACK_ROW_LEN], number[4], id[PACK_ID_LEN];
	MDB_val k = { PACK_ID_LEN, id }, v;
	struct index_pack pack;
	int rc;

	memcpy(id, toc->pack_id, sizeof(id));
	rc = mdb_get(txn, ix->packids, &k, &v);
	*fresh = rc == MDB_NOTFOUND;
	if (rc == 0) {
		memcpy(number, v.mv_data, sizeof(number));
		v = (MDB_val){ sizeof(number), number };
		return published ? set_row_published(ix, txn, &v) : 0;
	}
	if (rc != MDB_NOTFOUND)
		return rc;
	number_key(number, no);
	v = (MDB_val){ sizeof(number), number };
	rc = mdb_put(txn, ix->packids, &k, &v, 0);
	if (rc)
		return rc;
	memcpy(pack.pack_id, toc->pack_id, PACK_ID_LEN);
	memcpy(pack.domain_id, toc->domain_id, DOMAIN_ID_LEN);
	pack.pack_bytes = toc->pack_bytes;
	pack.kind = toc->kind;
	pack.published = published;
	pack_row_encode(row, &pack);
	k = (MDB_val){ sizeof(number), number };
	v = (MDB_val){ sizeof(row), row };
	return mdb_put(txn, ix->packs, &k, &v, 0);
}

static int
add_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	struct add_job *job = arg;
	size_t nsorted = 0;
	uint32_t no;
	int rc = next_pack_number(ix, txn, &no);

	for (size_t i = 0; rc == 0 && i < job->n; i++) {
		const struct pack_toc *toc = job->tocs[i];
		bool fresh;

		rc = add_pack_row(ix, txn, toc, job->published, no, &fresh);
		if (rc || !fresh)
			continue;
		for (size_t j = 0; j < toc->nentries; j++) {
			const struct pack_entry *e = &toc->entries[j];
			struct sorted_entry *s = &job->sorted[nsorted++];

			memcpy(s->key, e->id.b, INDEX_KEY_LEN);
			le32_store(s->value, no);
			le32_store(s->value + 4, e->off);
			le32_store(s->value + 8, e->sealed_len);
			le32_store(s->value + 12, e->len | (uint32_t)e->encoding << 24);
		}
		no++;
	}
	if (rc)
		return rc;
	qsort(job->sorted, nsorted, sizeof(*job->sorted), compare_sorted);
	for (size_t i = 0; i < nsorted; i++) {
		MDB_val k = { INDEX_KEY_LEN, job->sorted[i].key };
		MDB_val v = { INDEX_VALUE_LEN, job->sorted[i].value };

		rc = mdb_put(txn, ix->chunks, &k, &v, MDB_NOOVERWRITE);
		if (rc && rc != MDB_KEYEXIST)
			return rc;
	}
	return 0;
}

int
index_add_packs(struct index *ix, const struct pack_toc *const *tocs, size_t n, bool published,
    bool bulk)
{
	struct add_job job = { .tocs = tocs, .n = n, .published = published, .bulk = bulk };
	size_t total = 0;
	int rc;

	for (size_t i = 0; i < n; i++)
		total += tocs[i]->nentries;
	job.sorted = mem_calloc(total, sizeof(*job.sorted));
	if (!job.sorted)
		return err_nomem();
	if (bulk)
		mdb_env_set_flags(ix->env, MDB_NOSYNC, 1);
	rc = write_txn(ix, add_packs, &job, "add packs");
	if (bulk)
		mdb_env_set_flags(ix->env, MDB_NOSYNC, 0);
	free(job.sorted);
	return rc;
}

int
index_sync(struct index *ix)
{
	int rc = mdb_env_sync(ix->env, 1);

	if (rc)
		return index_err(ix, rc, "sync");
	stamp_write(ix);
	return 0;
}

/* ---- changing packs ---- */

struct pack_list {
	const uint8_t (*ids)[PACK_ID_LEN];
	size_t n;
};

static int
publish_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	const struct pack_list *list = arg;

	for (size_t i = 0; i < list->n; i++) {
		uint8_t id[PACK_ID_LEN], number[4];
		MDB_val k = { PACK_ID_LEN, id }, v;
		int rc;

		memcpy(id, list->ids[i], sizeof(id));
		rc = mdb_get(txn, ix->packids, &k, &v);
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc == 0) {
			memcpy(number, v.mv_data, sizeof(number));
			v = (MDB_val){ sizeof(number), number };
			rc = set_row_published(ix, txn, &v);
		}
		if (rc)
			return rc;
	}
	return 0;
}

int
index_set_published(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n)
{
	struct pack_list list = { pack_ids, n };

	return write_txn(ix, publish_packs, &list, "mark packs");
}

static int
compare_numbers(const void *a, const void *b)
{
	return memcmp(a, b, 4);
}

/* Delete the rows of the packs; their numbers (big-endian) go to `numbers`. MDB codes. */
static int
drop_rows(struct index *ix, MDB_txn *txn, const struct pack_list *list, uint8_t (*numbers)[4],
    size_t *nnumbers)
{
	*nnumbers = 0;
	for (size_t i = 0; i < list->n; i++) {
		uint8_t id[PACK_ID_LEN];
		MDB_val k = { PACK_ID_LEN, id }, v;
		int rc;

		memcpy(id, list->ids[i], sizeof(id));
		rc = mdb_get(txn, ix->packids, &k, &v);
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc)
			return rc;
		memcpy(numbers[*nnumbers], v.mv_data, 4);
		v = (MDB_val){ 4, numbers[*nnumbers] };
		(*nnumbers)++;
		if ((rc = mdb_del(txn, ix->packids, &k, NULL)) ||
		    (rc = mdb_del(txn, ix->packs, &v, NULL)))
			return rc;
	}
	qsort(numbers, *nnumbers, 4, compare_numbers);
	return 0;
}

static int
drop_packs(struct index *ix, MDB_txn *txn, void *arg)
{
	const struct pack_list *list = arg;
	uint8_t(*numbers)[4] = mem_calloc(list->n, sizeof(*numbers));
	MDB_cursor *cur = NULL;
	size_t nnumbers = 0;
	MDB_val k, v;
	int rc;

	if (!numbers)
		return ENOMEM;
	rc = drop_rows(ix, txn, list, numbers, &nnumbers);
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->chunks, &cur);
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
		uint8_t number[4];

		if (v.mv_size != INDEX_VALUE_LEN) {
			rc = MDB_CORRUPTED;
			break;
		}
		number_key(number, le32_load(v.mv_data));
		if (bsearch(number, numbers, nnumbers, 4, compare_numbers))
			rc = mdb_cursor_del(cur, 0);
	}
	if (cur)
		mdb_cursor_close(cur);
	free(numbers);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
index_drop_packs(struct index *ix, const uint8_t (*pack_ids)[PACK_ID_LEN], size_t n)
{
	struct pack_list list = { pack_ids, n };

	return n ? write_txn(ix, drop_packs, &list, "drop packs") : 0;
}

/* ---- loaded index objects ---- */

static int
put_loaded(struct index *ix, MDB_txn *txn, void *arg)
{
	const char *name = arg;
	char key[256];
	MDB_val k = { 0, key }, v = { 0, key };

	snprintf(key, sizeof(key), "%s", name);
	k.mv_size = strlen(key);
	return mdb_put(txn, ix->loaded, &k, &v, 0);
}

int
index_set_loaded(struct index *ix, const char *name)
{
	char copy[256];

	snprintf(copy, sizeof(copy), "%s", name);
	return write_txn(ix, put_loaded, copy, "note an index object");
}

int
index_has_loaded(struct index *ix, const char *name)
{
	char key[256];
	MDB_val k = { 0, key }, v;
	MDB_txn *txn;
	int rc;

	snprintf(key, sizeof(key), "%s", name);
	k.mv_size = strlen(key);
	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, ix->loaded, &k, &v);
	txn_abort(ix, txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? index_err(ix, rc, "look up an index object") : 1;
}

int
index_count_loaded(struct index *ix, uint64_t *n)
{
	MDB_txn *txn;
	MDB_stat st;
	int rc = txn_begin(ix, MDB_RDONLY, &txn);

	*n = 0;
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->loaded, &st);
	txn_abort(ix, txn);
	if (rc)
		return index_err(ix, rc, "count index objects");
	*n = st.ms_entries;
	return 0;
}

/* ---- sums ---- */

static int
add_to_totals(struct index *ix, MDB_txn *txn, const MDB_val *v, struct index_totals *t)
{
	struct index_pack pack;
	uint32_t sealed, len;
	unsigned encoding;
	int rc;

	if (v->mv_size != INDEX_VALUE_LEN)
		return MDB_CORRUPTED;
	sealed = le32_load((const uint8_t *)v->mv_data + 8);
	len = le32_load((const uint8_t *)v->mv_data + 12);
	encoding = len >> 24;
	len &= 0xffffff;
	rc = pack_row_get(ix, txn, le32_load(v->mv_data), &pack);
	if (rc)
		return rc;
	t->chunks++;
	t->content_bytes += len;
	t->stored_bytes += sealed;
	t->raw_chunks += encoding == ENCODING_RAW;
	t->zstd_chunks += encoding == ENCODING_ZSTD;
	if (encoding == ENCODING_DELTA) {
		t->delta_chunks++;
		t->delta_content_bytes += len;
		t->delta_stored_bytes += sealed;
	}
	if (pack.kind == PACK_META) {
		t->meta_content_bytes += len;
		t->meta_stored_bytes += sealed;
	}
	return 0;
}

int
index_totals(struct index *ix, struct index_totals *t)
{
	MDB_cursor *cur = NULL;
	MDB_val k, v;
	MDB_stat st;
	MDB_txn *txn;
	int rc;

	memset(t, 0, sizeof(*t));
	rc = txn_begin(ix, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_stat(txn, ix->packs, &st);
	if (rc == 0)
		rc = mdb_cursor_open(txn, ix->chunks, &cur);
	t->packs = rc ? 0 : st.ms_entries;
	while (rc == 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0)
		rc = add_to_totals(ix, txn, &v, t);
	if (cur)
		mdb_cursor_close(cur);
	txn_abort(ix, txn);
	return rc == MDB_NOTFOUND ? 0 : index_err(ix, rc, "sum up");
}
