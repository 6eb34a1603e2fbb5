/*
 * fake_pg: a PostgreSQL server that says what a test tells it to, by the real protocol (version 3)
 * over a Unix socket, so that libpq and everything above it are tested against servers that break
 * the rules.
 *
 * Each connection is served by a thread of its own; the handler is called with each command.
 */
#ifndef TESTS_SUPPORT_FAKE_PG_H
#define TESTS_SUPPORT_FAKE_PG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_pg;
struct fake_conn;

/* Answer one command; false closes the connection. */
typedef bool fake_handler(void *ctx, struct fake_conn *c, const char *command);

/* Aborts the test on error.  `version` is what it says of itself, such as "15.18". */
struct fake_pg *fake_pg_start(const char *version, fake_handler *handler, void *ctx);
/* A connection string for it; borrowed. */
const char *fake_pg_conninfo(const struct fake_pg *f);
/* Connections that were closed by their clients or by the handler are joined. */
void fake_pg_stop(struct fake_pg *f);

/* ---- answers; all return false when the client is gone ---- */

/* Rows of text; NULL is SQL's. */
bool fake_rows(struct fake_conn *c, int columns, int rows, const char *const *values);
bool fake_complete(struct fake_conn *c);
bool fake_ready(struct fake_conn *c);
/* The three above: a whole answer of one row. */
bool fake_answer(struct fake_conn *c, int columns, const char *const *values);
bool fake_error(struct fake_conn *c, const char *sqlstate, const char *message);
bool fake_copy_both(struct fake_conn *c);
bool fake_copy_out(struct fake_conn *c);
bool fake_copy_data(struct fake_conn *c, const void *data, size_t len);
bool fake_copy_done(struct fake_conn *c);

/*
 * Wait up to `timeout_ms` for a message of the client.  Returns its type, 0 when the time is over,
 * -1 when the client is gone; its content is in `buf` (at most `size` bytes), *len is its length.
 */
int fake_receive(struct fake_conn *c, int timeout_ms, void *buf, size_t size, size_t *len);

#endif
