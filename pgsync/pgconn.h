/*
 * pgconn: connections to PostgreSQL servers.  The one door to libpq.
 *
 * An ordinary connection (PGCONN_SQL) runs statements; a replication connection
 * (PGCONN_REPLICATION) runs the commands of the streaming replication protocol.  Every wait can be
 * interrupted: the calls ask store/base/cancel.h several times a second.
 *
 * A process that runs as root and reaches the server by a Unix socket connects with the identity
 * of the socket's owner, because that is what peer authentication asks for; only the calling
 * thread has it, and only while it connects.
 *
 * Threads: a connection belongs to one thread at a time.
 */
#ifndef PGSYNC_PGCONN_H
#define PGSYNC_PGCONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PGCONN_VERSION_MIN 130000 /* the oldest server that is supported */
#define PGCONN_VERSION_MAX 179999 /* the newest */

struct pgconn;
struct pgresult;

enum pgconn_kind {
	PGCONN_SQL = 1,
	PGCONN_REPLICATION, /* physical */
};

/*
 * Whether libpq understands `conninfo`, without connecting.  *has_password (or NULL) tells that a
 * password stands in it.  Errors: ERR_USAGE (where and why).
 */
int pgconn_check_conninfo(const char *conninfo, bool *has_password);

/*
 * Connect as `conninfo` says; application_name is "pastfs" unless it names another.  The session
 * is set up so that no time limit of the server ends it and no name is looked up outside
 * pg_catalog.  Errors: ERR_USAGE (conninfo is malformed), ERR_FAIL (the message has the server's
 * words, where it was sought, and the next step), ERR_UNSUPPORTED (the server's version),
 * ERR_CANCELLED, ERR_NOMEM.
 */
int pgconn_open(struct pgconn **out, const char *conninfo, enum pgconn_kind kind);
/* End the session; NULL is allowed.  A running statement is cancelled. */
void pgconn_close(struct pgconn *c);

/* PG_VERSION_NUM of the server, such as 150018. */
int pgconn_version(const struct pgconn *c);
/* Whether the server is reached by a Unix socket. */
bool pgconn_is_local(const struct pgconn *c);
/* The server for messages: "/var/run/postgresql:5432"; borrowed. */
const char *pgconn_where(const struct pgconn *c);

/* ---- one statement, one result ---- */

/*
 * Run one statement with text parameters $1 … and give its result, to pgresult_free().  `out` may
 * be NULL.  On a replication connection nparams is 0.  The SQLSTATE of a failure is in
 * pgconn_sqlstate().  Errors: ERR_FAIL (the message has the server's words), ERR_DENIED (SQLSTATE
 * 42501), ERR_CANCELLED, ERR_NOMEM.
 */
int pgconn_query(struct pgconn *c, struct pgresult **out, const char *sql, int nparams,
    const char *const *params);

/* Five characters, or "" if the last failure did not come from the server; borrowed. */
const char *pgconn_sqlstate(const struct pgconn *c);

size_t pgresult_rows(const struct pgresult *r);
size_t pgresult_columns(const struct pgresult *r);
/* A field's text, NULL for SQL NULL and for a place outside the result; borrowed. */
const char *pgresult_text(const struct pgresult *r, size_t row, size_t column);
/* Its length in bytes. */
size_t pgresult_len(const struct pgresult *r, size_t row, size_t column);
/* The field as a number; ERR_FAIL if it is none.  An LSN is written "X/Y" in hexadecimal. */
int pgresult_u64(const struct pgresult *r, size_t row, size_t column, uint64_t *v);
int pgresult_lsn(const struct pgresult *r, size_t row, size_t column, uint64_t *lsn);
void pgresult_free(struct pgresult *r);

/* "X/Y" to a number: 0, or -1 without a message. */
int pgconn_lsn_parse(const char *text, uint64_t *lsn);

/* `text` as a quoted literal for a command that takes no parameters, to free(); NULL: no memory. */
char *pgconn_literal(struct pgconn *c, const char *text);

/* ---- a command with several results, or a copy stream ---- */

enum pgconn_answer {
	PGCONN_END = 0,   /* no more results; the connection takes the next command */
	PGCONN_DONE,      /* a result without rows */
	PGCONN_TUPLES,    /* a result with rows */
	PGCONN_COPY_OUT,  /* pgconn_copy_read() until it says end */
	PGCONN_COPY_IN,   /* pgconn_copy_write(), then pgconn_copy_end() */
	PGCONN_COPY_BOTH, /* both at once */
};

/* Send a command and return before its answer.  Errors: ERR_FAIL. */
int pgconn_send(struct pgconn *c, const char *command);

/*
 * Wait for the next answer.  `out` (or NULL) gets the rows of PGCONN_TUPLES, to pgresult_free(),
 * else NULL.  Returns enum pgconn_answer, or an error as pgconn_query().
 */
int pgconn_next(struct pgconn *c, struct pgresult **out);

/*
 * Wait up to `timeout_ms` (-1: as long as it takes) for the next message of a copy stream.
 * Returns 1 with *data (borrowed until the next call) and *len; 0 when the time is over; 2 at the
 * stream's end, after which pgconn_next() goes on (a COPY_BOTH stream needs pgconn_copy_end()
 * first).  Errors: as pgconn_query().
 */
int pgconn_copy_read(struct pgconn *c, int timeout_ms, const uint8_t **data, size_t *len);

/* Send one message, and flush it. */
int pgconn_copy_write(struct pgconn *c, const void *data, size_t len);
/* Our side of the stream is at its end; flush it. */
int pgconn_copy_end(struct pgconn *c);

#endif
