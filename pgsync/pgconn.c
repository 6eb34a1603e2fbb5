/*
 * The door to libpq.  Every exchange is non-blocking underneath: a wait is a poll() of at most
 * WAIT_SLICE_MS, between which the user's wish to stop is asked for.
 */
#include "pgsync/pgconn.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAIT_SLICE_MS      200
#define CONNECT_TIMEOUT_MS 60000 /* unless the conninfo has connect_timeout */

struct pgconn {
	PGconn *pq;
	int version;
	bool local;
	bool busy; /* a statement was sent and its last result was not seen */
	char sqlstate[6];
	char where[300];
	char *copy; /* the last message of a copy stream, libpq's */
};

struct pgresult {
	PGresult *pq;
};

/* ---- waiting ---- */

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * Wait until the socket is ready for `events`.  Returns 1, or 0 when `deadline_ms` (-1: none) is
 * over, or ERR_CANCELLED.
 */
static int
wait_socket(PGconn *pq, short events, int64_t deadline_ms)
{
	for (;;) {
		struct pollfd p = { .fd = PQsocket(pq), .events = events };
		int64_t slice = WAIT_SLICE_MS;
		int n, rc = cancel_check();

		if (rc)
			return rc;
		if (p.fd == -1)
			return 1; /* closed: the next libpq call says why */
		if (deadline_ms != -1) {
			int64_t left = deadline_ms - now_ms();

			slice = left < slice ? (left > 0 ? left : 0) : slice;
		}
		n = poll(&p, 1, (int)slice);
		if (n > 0)
			return 1;
		if (n == -1 && errno != EINTR)
			return err_sys("wait for PostgreSQL");
		if (deadline_ms != -1 && now_ms() >= deadline_ms)
			return 0;
	}
}

/* ---- messages ---- */

/* libpq ends its messages with newlines and spreads them over lines; a sentence has none. */
static void
one_line(char *out, size_t max, const char *text)
{
	size_t n = 0;

	for (; text && *text && n + 1 < max; text++) {
		char ch = *text == '\n' || *text == '\t' ? ' ' : *text;

		if (ch == ' ' && (n == 0 || out[n - 1] == ' '))
			continue;
		out[n++] = ch;
	}
	while (n > 0 && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
}

static int
connection_lost(struct pgconn *c, const char *what)
{
	char text[600];

	c->sqlstate[0] = '\0';
	one_line(text, sizeof(text), PQerrorMessage(c->pq));
	return err_set(ERR_FAIL, "%s: the connection to PostgreSQL at %s failed: %s", what,
	    c->where, text[0] ? text : "no reason given");
}

static int
server_error(struct pgconn *c, const PGresult *r)
{
	const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
	const char *primary = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
	const char *hint = PQresultErrorField(r, PG_DIAG_MESSAGE_HINT);
	char text[600];
	bool denied;

	if (!primary) {
		one_line(text, sizeof(text), PQresultErrorMessage(r));
		c->sqlstate[0] = '\0';
		return err_set(ERR_FAIL, "PostgreSQL at %s: %s", c->where, text);
	}
	snprintf(c->sqlstate, sizeof(c->sqlstate), "%s", state ? state : "");
	denied = strcmp(c->sqlstate, "42501") == 0;
	return err_set(denied ? ERR_DENIED : ERR_FAIL, "PostgreSQL at %s says: %s%s%s%s", c->where,
	    primary, hint ? " (" : "", hint ? hint : "", hint ? ")" : "");
}

/* What a person can do about a connection that was refused. */
static const char *
connect_advice(const char *text, bool replication)
{
	if (strstr(text, "no pg_hba.conf entry"))
		return replication
			   ? "add a line for database \"replication\" to pg_hba.conf and reload"
			   : "add a line for this user to pg_hba.conf and reload";
	if (strstr(text, "Peer authentication failed"))
		return "run as the server's operating system user or as root, or name another user "
		       "in "
		       "the source's connection string";
	if (strstr(text, "password authentication failed") || strstr(text, "no password supplied"))
		return "put the password into ~/.pgpass or set PGPASSWORD";
	if (strstr(text, "must be superuser or replication role") ||
	    strstr(text, "permission denied to start WAL sender"))
		return "give the role the right to replicate: ALTER ROLE … REPLICATION";
	if (strstr(text, "does not exist"))
		return "correct user and dbname in the source's connection string";
	if (strstr(text, "starting up") || strstr(text, "shutting down"))
		return "wait until the server accepts connections and try again";
	if (strstr(text, "max_wal_senders"))
		return "raise max_wal_senders";
	return "check that the server runs there and that host and port in the source's connection "
	       "string are right";
}

/* ---- the identity for peer authentication ---- */

struct identity {
	bool changed;
	uid_t uid;
	gid_t gid;
	int dumpable;
};

/*
 * setresuid() of the C library changes all threads; the system call changes this one alone, which
 * is what is wanted here.
 */
static int
set_effective(uid_t uid, gid_t gid)
{
	if (uid != 0 && syscall(SYS_setresgid, -1, (long)gid, -1))
		return -1;
	if (syscall(SYS_setresuid, -1, (long)uid, -1))
		return -1;
	if (uid == 0 && syscall(SYS_setresgid, -1, (long)gid, -1))
		return -1;
	return 0;
}

static void
identity_restore(struct identity *id)
{
	if (!id->changed)
		return;
	if (set_effective(id->uid, id->gid))
		abort(); /* going on with another user's rights would be worse than any crash */
	prctl(PR_SET_DUMPABLE, id->dumpable, 0, 0, 0);
	id->changed = false;
}

static void
identity_take(struct identity *id, uid_t uid, gid_t gid)
{
	id->uid = geteuid();
	id->gid = getegid();
	id->dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
	id->changed = true;
	if (set_effective(uid, gid))
		identity_restore(id);
}

/*
 * The owner of the socket that these parameters lead to: true, if there is one and it is not root.
 * libpq itself is asked for host and port, because defaults come from several places; that
 * connection is given up before a byte is sent, which a server does not log.
 */
static bool
socket_owner(const char *const *keys, const char *const *values, struct stat *st)
{
	PGconn *probe = PQconnectStartParams(keys, values, 1);
	const char *host = probe ? PQhost(probe) : NULL;
	const char *port = probe ? PQport(probe) : NULL;
	bool found = false;
	char path[300];

	if (host && host[0] == '/' && port && port[0]) {
		snprintf(path, sizeof(path), "%s/.s.PGSQL.%s", host, port);
		found =
		    sys_fstatat(-1, path, st, 0) == 0 && S_ISSOCK(st->st_mode) && st->st_uid != 0;
	}
	PQfinish(probe);
	return found;
}

/* ---- connecting ---- */

static void
note_where(struct pgconn *c)
{
	const char *host = PQhost(c->pq);
	const char *port = PQport(c->pq);

	c->local = host && host[0] == '/';
	snprintf(c->where, sizeof(c->where), "%.255s:%.10s", host && host[0] ? host : "(default)",
	    port && port[0] ? port : "5432");
}

static int64_t
connect_deadline(const char *conninfo)
{
	PQconninfoOption *o = PQconninfoParse(conninfo, NULL);
	int64_t ms = CONNECT_TIMEOUT_MS;

	for (PQconninfoOption *p = o; p && p->keyword; p++)
		if (strcmp(p->keyword, "connect_timeout") == 0 && p->val && atoi(p->val) > 0)
			ms = (int64_t)atoi(p->val) * 1000;
	PQconninfoFree(o);
	return now_ms() + ms;
}

/* Drive an asynchronous connection to its end.  1: the time is over. */
static int
connect_poll(PGconn *pq, int64_t deadline_ms)
{
	PostgresPollingStatusType st = PGRES_POLLING_WRITING;

	while (st != PGRES_POLLING_OK && st != PGRES_POLLING_FAILED) {
		int rc =
		    wait_socket(pq, st == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_ms);

		if (rc < 0)
			return rc;
		if (rc == 0)
			return 1;
		st = PQconnectPoll(pq);
	}
	return 0;
}

/*
 * One attempt, with the identity of the socket's owner if `owner` is given.  The identity lasts
 * over the whole exchange, because libpq looks the user's name up by it.  Returns 0 with the
 * connection good, 1 with it bad, or an error.
 */
static int
connect_once(struct pgconn *c, const char *const *keys, const char *const *values,
    const struct stat *owner, int64_t deadline_ms, bool *timed_out)
{
	struct identity id = { 0 };
	int rc;

	if (owner)
		identity_take(&id, owner->st_uid, owner->st_gid);
	PQfinish(c->pq);
	c->pq = PQconnectStartParams(keys, values, 1);
	if (!c->pq) {
		identity_restore(&id);
		return err_nomem();
	}
	rc = PQstatus(c->pq) == CONNECTION_BAD ? 0 : connect_poll(c->pq, deadline_ms);
	identity_restore(&id);
	note_where(c);
	if (rc < 0)
		return rc;
	*timed_out = rc == 1;
	return PQstatus(c->pq) == CONNECTION_OK ? 0 : 1;
}

static int
connect_failed(struct pgconn *c, bool timed_out, bool replication)
{
	char text[600];

	one_line(text, sizeof(text), PQerrorMessage(c->pq));
	if (timed_out)
		snprintf(text, sizeof(text), "no answer in time");
	return err_set(ERR_FAIL, "cannot connect to PostgreSQL at %s: %s; %s", c->where,
	    text[0] ? text : "no reason given", connect_advice(text, replication));
}

int
pgconn_check_conninfo(const char *conninfo, bool *has_password)
{
	char *why = NULL, text[300];
	PQconninfoOption *o = PQconninfoParse(conninfo, &why);
	int rc = 0;

	if (has_password)
		*has_password = false;
	if (!o) {
		one_line(text, sizeof(text), why ? why : "out of memory");
		rc = err_set(ERR_USAGE, "connection string is malformed: %s", text);
	}
	for (PQconninfoOption *p = o; p && p->keyword; p++)
		if (has_password && p->val && p->val[0] && strcmp(p->keyword, "password") == 0)
			*has_password = true;
	PQfreemem(why);
	PQconninfoFree(o);
	return rc;
}

static void
ignore_notice(void *ctx, const PGresult *r)
{
	(void)ctx;
	(void)r;
}

static int
check_version(struct pgconn *c)
{
	c->version = PQserverVersion(c->pq);
	if (c->version >= PGCONN_VERSION_MIN && c->version <= PGCONN_VERSION_MAX)
		return 0;
	return err_set(ERR_UNSUPPORTED,
	    "PostgreSQL at %s is version %d.%d; versions %d to %d are supported", c->where,
	    c->version / 10000, c->version % 10000, PGCONN_VERSION_MIN / 10000,
	    PGCONN_VERSION_MAX / 10000);
}

static int
set_up(struct pgconn *c)
{
	int rc;

	rc = pgconn_query(c, NULL,
	    "SET statement_timeout = 0; SET lock_timeout = 0; "
	    "SET idle_in_transaction_session_timeout = 0; SET search_path = pg_catalog; "
	    "SET max_parallel_workers_per_gather = 0; SET standard_conforming_strings = on",
	    0, NULL);
	if (rc == 0 && c->version >= 140000)
		rc = pgconn_query(c, NULL, "SET idle_session_timeout = 0", 0, NULL);
	return rc;
}

static int
connect_all(struct pgconn *c, const char *conninfo, bool replication)
{
	/* dbname comes first and is expanded, so that what follows it wins. */
	const char *keys[] = { "dbname", "fallback_application_name", "client_encoding",
		replication ? "replication" : NULL, NULL };
	const char *values[] = { conninfo, "pastfs", "UTF8", "true", NULL };
	int64_t deadline = connect_deadline(conninfo);
	bool timed_out = false, as_owner;
	struct stat owner;
	int rc;

	as_owner = geteuid() == 0 && socket_owner(keys, values, &owner);
	rc = connect_once(c, keys, values, as_owner ? &owner : NULL, deadline, &timed_out);

	/* The owner cannot read root's password file: a server that wants a password gets root. */
	if (rc == 1 && as_owner && PQconnectionNeedsPassword(c->pq))
		rc = connect_once(c, keys, values, NULL, deadline, &timed_out);
	return rc == 1 ? connect_failed(c, timed_out, replication) : rc;
}

int
pgconn_open(struct pgconn **out, const char *conninfo, enum pgconn_kind kind)
{
	struct pgconn *c;
	int rc;

	*out = NULL;
	rc = pgconn_check_conninfo(conninfo, NULL);
	if (rc)
		return rc;
	c = mem_alloc(sizeof(*c));
	if (!c)
		return err_nomem();
	rc = connect_all(c, conninfo, kind == PGCONN_REPLICATION);
	if (rc)
		goto out;
	PQsetNoticeReceiver(c->pq, ignore_notice, NULL);
	rc = check_version(c);
	if (rc)
		goto out;
	if (PQsetnonblocking(c->pq, 1)) {
		rc = connection_lost(c, "connect");
		goto out;
	}
	if (kind == PGCONN_SQL)
		rc = set_up(c);
	if (rc)
		goto out;
	*out = c;
	c = NULL;
out:
	pgconn_close(c);
	return rc;
}

static void
cancel_statement(struct pgconn *c)
{
	PGcancel *cancel = PQgetCancel(c->pq);
	char why[256];

	if (cancel)
		PQcancel(cancel, why, sizeof(why));
	PQfreeCancel(cancel);
}

void
pgconn_close(struct pgconn *c)
{
	if (!c)
		return;
	if (c->busy && PQstatus(c->pq) == CONNECTION_OK)
		cancel_statement(c);
	PQfreemem(c->copy);
	PQfinish(c->pq);
	free(c);
}

int
pgconn_version(const struct pgconn *c)
{
	return c->version;
}

bool
pgconn_is_local(const struct pgconn *c)
{
	return c->local;
}

const char *
pgconn_where(const struct pgconn *c)
{
	return c->where;
}

const char *
pgconn_sqlstate(const struct pgconn *c)
{
	return c->sqlstate;
}

/* ---- statements ---- */

/* Push out what libpq has buffered, reading meanwhile, or both sides could wait for ever. */
static int
flush_out(struct pgconn *c, const char *what)
{
	int n;

	while ((n = PQflush(c->pq)) == 1) {
		int rc = wait_socket(c->pq, POLLIN | POLLOUT, -1);

		if (rc < 0)
			return rc;
		if (PQconsumeInput(c->pq) == 0)
			return connection_lost(c, what);
	}
	return n == 0 ? 0 : connection_lost(c, what);
}

/* Wait until PQgetResult() would not block. */
static int
await_result(struct pgconn *c)
{
	int rc = flush_out(c, "send to PostgreSQL");

	while (rc == 0 && PQisBusy(c->pq)) {
		rc = wait_socket(c->pq, POLLIN, -1);
		if (rc < 0)
			return rc;
		rc = PQconsumeInput(c->pq) ? 0 : connection_lost(c, "wait for an answer");
	}
	return rc;
}

int
pgconn_send(struct pgconn *c, const char *command)
{
	if (!PQsendQuery(c->pq, command))
		return connection_lost(c, "send a command");
	c->busy = true;
	return flush_out(c, "send a command");
}

static enum pgconn_answer
answer_of(const PGresult *r)
{
	switch (PQresultStatus(r)) {
	case PGRES_TUPLES_OK:
		return PGCONN_TUPLES;
	case PGRES_COPY_OUT:
		return PGCONN_COPY_OUT;
	case PGRES_COPY_IN:
		return PGCONN_COPY_IN;
	case PGRES_COPY_BOTH:
		return PGCONN_COPY_BOTH;
	default:
		return PGCONN_DONE;
	}
}

static bool
is_failure(const PGresult *r)
{
	ExecStatusType st = PQresultStatus(r);

	return st == PGRES_FATAL_ERROR || st == PGRES_BAD_RESPONSE || st == PGRES_NONFATAL_ERROR;
}

int
pgconn_next(struct pgconn *c, struct pgresult **out)
{
	enum pgconn_answer answer;
	struct pgresult *box;
	PGresult *r;
	int rc;

	if (out)
		*out = NULL;
	rc = await_result(c);
	if (rc)
		return rc;
	r = PQgetResult(c->pq);
	if (!r) {
		c->busy = false;
		return PQstatus(c->pq) == CONNECTION_OK ? PGCONN_END
							: connection_lost(c, "wait for an answer");
	}
	if (is_failure(r)) {
		rc = server_error(c, r);
		PQclear(r);
		return rc;
	}
	answer = answer_of(r);
	if (answer != PGCONN_TUPLES || !out) {
		PQclear(r);
		return (int)answer;
	}
	box = mem_alloc(sizeof(*box));
	if (!box) {
		PQclear(r);
		return err_nomem();
	}
	box->pq = r;
	*out = box;
	return PGCONN_TUPLES;
}

/* Read answers to the end; keep the last with rows, and the first failure. */
static int
collect(struct pgconn *c, struct pgresult **out)
{
	struct err_saved first = { 0 };
	int rc;

	do {
		struct pgresult *r = NULL;

		rc = pgconn_next(c, &r);
		if (rc < 0) {
			if (first.code == 0)
				err_save(&first, rc);
			if (rc != ERR_FAIL && rc != ERR_DENIED)
				break;
			/* The server's refusal is followed by the end; a lost connection is not. */
			if (PQstatus(c->pq) != CONNECTION_OK)
				break;
			continue;
		}
		if (rc == PGCONN_COPY_OUT || rc == PGCONN_COPY_IN || rc == PGCONN_COPY_BOTH)
			return err_set(ERR_FAIL, "PostgreSQL at %s began a copy unasked", c->where);
		if (r && out) {
			pgresult_free(*out);
			*out = r;
		} else {
			pgresult_free(r);
		}
	} while (rc != PGCONN_END);
	return first.code ? err_restore(&first) : 0;
}

int
pgconn_query(struct pgconn *c, struct pgresult **out, const char *sql, int nparams,
    const char *const *params)
{
	int rc;

	if (out)
		*out = NULL;
	c->sqlstate[0] = '\0';
	/* The simple protocol where it does: replication connections know no other. */
	if (nparams == 0) {
		rc = pgconn_send(c, sql);
	} else if (!PQsendQueryParams(c->pq, sql, nparams, NULL, params, NULL, NULL, 0)) {
		rc = connection_lost(c, "send a statement");
	} else {
		c->busy = true;
		rc = 0;
	}
	if (rc == 0)
		rc = collect(c, out);
	if (rc && out) {
		pgresult_free(*out);
		*out = NULL;
	}
	return rc;
}

/* ---- results ---- */

size_t
pgresult_rows(const struct pgresult *r)
{
	return r ? (size_t)PQntuples(r->pq) : 0;
}

size_t
pgresult_columns(const struct pgresult *r)
{
	return r ? (size_t)PQnfields(r->pq) : 0;
}

const char *
pgresult_text(const struct pgresult *r, size_t row, size_t column)
{
	if (row >= pgresult_rows(r) || column >= pgresult_columns(r) ||
	    PQgetisnull(r->pq, (int)row, (int)column))
		return NULL;
	return PQgetvalue(r->pq, (int)row, (int)column);
}

size_t
pgresult_len(const struct pgresult *r, size_t row, size_t column)
{
	if (!pgresult_text(r, row, column))
		return 0;
	return (size_t)PQgetlength(r->pq, (int)row, (int)column);
}

int
pgresult_u64(const struct pgresult *r, size_t row, size_t column, uint64_t *v)
{
	const char *text = pgresult_text(r, row, column);
	char *end = NULL;

	*v = 0;
	errno = 0;
	if (text && text[0] >= '0' && text[0] <= '9')
		*v = strtoull(text, &end, 10);
	if (!end || *end != '\0' || errno)
		return err_set(ERR_FAIL, "PostgreSQL answered \"%s\" where a number was expected",
		    text ? text : "(null)");
	return 0;
}

int
pgresult_lsn(const struct pgresult *r, size_t row, size_t column, uint64_t *lsn)
{
	const char *text = pgresult_text(r, row, column);

	if (!text || pgconn_lsn_parse(text, lsn))
		return err_set(ERR_FAIL, "PostgreSQL answered \"%s\" where an LSN was expected",
		    text ? text : "(null)");
	return 0;
}

void
pgresult_free(struct pgresult *r)
{
	if (!r)
		return;
	PQclear(r->pq);
	free(r);
}

/* One half of an LSN: one to eight hexadecimal digits. */
static const char *
lsn_half(const char *p, uint32_t *v)
{
	int digits = 0;

	*v = 0;
	for (; digits < 9; p++, digits++) {
		char ch = *p;
		uint32_t d;

		if (ch >= '0' && ch <= '9')
			d = (uint32_t)(ch - '0');
		else if (ch >= 'A' && ch <= 'F')
			d = (uint32_t)(ch - 'A') + 10;
		else if (ch >= 'a' && ch <= 'f')
			d = (uint32_t)(ch - 'a') + 10;
		else
			break;
		*v = *v << 4 | d;
	}
	return digits >= 1 && digits <= 8 ? p : NULL;
}

int
pgconn_lsn_parse(const char *text, uint64_t *lsn)
{
	uint32_t hi, lo;
	const char *p = lsn_half(text, &hi);

	*lsn = 0;
	if (!p || *p != '/')
		return -1;
	p = lsn_half(p + 1, &lo);
	if (!p || *p != '\0')
		return -1;
	*lsn = (uint64_t)hi << 32 | lo;
	return 0;
}

char *
pgconn_literal(struct pgconn *c, const char *text)
{
	char *quoted = PQescapeLiteral(c->pq, text, strlen(text));
	char *copy = quoted ? mem_strdup(quoted) : NULL;

	PQfreemem(quoted);
	return copy;
}

/* ---- copy streams ---- */

int
pgconn_copy_read(struct pgconn *c, int timeout_ms, const uint8_t **data, size_t *len)
{
	int64_t deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;

	*data = NULL;
	*len = 0;
	PQfreemem(c->copy);
	c->copy = NULL;
	for (;;) {
		int n = PQgetCopyData(c->pq, &c->copy, 1);
		int rc;

		if (n > 0) {
			*data = (const uint8_t *)c->copy;
			*len = (size_t)n;
			return 1;
		}
		if (n == -1)
			return 2;
		if (n == -2)
			return connection_lost(c, "read a copy stream");
		rc = wait_socket(c->pq, POLLIN, deadline);
		if (rc <= 0)
			return rc;
		if (!PQconsumeInput(c->pq))
			return connection_lost(c, "read a copy stream");
	}
}

int
pgconn_copy_write(struct pgconn *c, const void *data, size_t len)
{
	/* libpq takes the length as an int, and keeps the whole message in memory. */
	if (len > 1 << 20)
		return err_set(ERR_USAGE, "a message of %zu bytes is too long to send", len);
	if (PQputCopyData(c->pq, data, (int)len) != 1)
		return connection_lost(c, "write a copy stream");
	return flush_out(c, "write a copy stream");
}

int
pgconn_copy_end(struct pgconn *c)
{
	if (PQputCopyEnd(c->pq, NULL) != 1)
		return connection_lost(c, "end a copy stream");
	return flush_out(c, "end a copy stream");
}
