/*
 * index_env: the LMDB environment of an index: opening, sharing, growth, transactions.
 *
 * The door to LMDB, whose header comes with this one; only store/index.c and store/index_env.c
 * include it.  What the databases hold is store/index.c's affair, except for "meta", by which the
 * environment knows itself:
 *
 *   meta    "format" -> u32, "repo" -> repository id
 *
 * Errors: functions give an enum err unless they are said to give MDB codes (0, an MDB_* constant
 * or an errno); index_env_err() makes the former of the latter.
 *
 * Threads and locks: `map` is held for reading during any transaction and for writing while the map
 * is resized (LMDB allows that only with no transaction in the process).
 */
#ifndef STORE_INDEX_ENV_H
#define STORE_INDEX_ENV_H

#include "store/index.h"

#include <lmdb.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * An open environment, shared by all who opened its directory in this process.  The cached rows are
 * store/index.c's, and live here because they are shared too; they are freed with the environment.
 */
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
	pthread_mutex_t packs_lock; /* protects the cached rows; taken inside `map` */
	size_t rows_txn;            /* the transaction whose state the cached rows show */
	size_t npacks; /* rows cached, by number; a row that was not read yet has no bytes */
	struct index_pack *pack_rows;
};

/* As index_open(), index_close(), index_clear() and index_sync(). */
int index_env_open(struct index **out, const char *dir, const uint8_t repo_id[REPO_ID_LEN]);
void index_env_close(struct index *ix);
int index_env_clear(struct index *ix);
int index_env_sync(struct index *ix);

/* Set the error that an MDB code, never 0, means; `what` was being done.  Returns its enum err. */
int index_env_err(const struct index *ix, int rc, const char *what);

/* Begin a transaction that only reads; index_env_end() must follow on success. */
int index_env_begin(struct index *ix, MDB_txn **txn);
void index_env_end(struct index *ix, MDB_txn *txn);

/*
 * Run `fn`, which gives MDB codes, in a write transaction: committed when it gives 0, aborted
 * otherwise.  When the map is full it runs again with a larger one, so it must bear that.
 */
int index_env_write(struct index *ix, int (*fn)(struct index *ix, MDB_txn *txn, void *arg),
    void *arg, const char *what);

#endif
