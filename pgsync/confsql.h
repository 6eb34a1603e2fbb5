/*
 * confsql: the server's configuration files, read by SQL, for pgsync/confset.h.
 *
 * The role needs EXECUTE on pg_stat_file(), pg_read_binary_file() and pg_ls_dir(), and
 * pg_read_server_files for what lies outside the data directory; superusers have both.
 *
 * Threads: as the connection.
 */
#ifndef PGSYNC_CONFSQL_H
#define PGSYNC_CONFSQL_H

#include <stdint.h>

struct confset;
struct pgconn;

struct confsql_opts {
	struct pgconn *sql;
	uint32_t uid, gid; /* owner of the files in the set: the server tells none */
	uint32_t dir_mode; /* 0700 or 0750; files get 0600 or 0640 */
	void (*warn)(void *ctx, const char *message);
	void *ctx;
};

/*
 * Collect them.  Returns 0; 1 with the reason as this thread's message if the role may not even ask
 * where they are (*out is NULL then); or an error, as confset_collect().
 */
int confsql_collect(struct confset **out, const struct confsql_opts *opts);

#endif
