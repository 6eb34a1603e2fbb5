/*
 * pg_scratch: PostgreSQL's own programs at the service of a test.
 *
 * Servers refuse to run as root, so as root everything runs as the user "postgres" (or "nobody").
 * Any failure here is a fault of the test's ground and ends the program with a message.
 */
#ifndef TESTS_SUPPORT_PG_SCRATCH_H
#define TESTS_SUPPORT_PG_SCRATCH_H

#include <stddef.h>

struct pg_scratch {
	char dir[64];    /* everything is below it; removed at the end */
	char pgdata[80]; /* "<dir>/data" */
};

/* A new directory, which the server's user owns. */
void pg_scratch_new(struct pg_scratch *s);
void pg_scratch_free(struct pg_scratch *s);

/* Make a cluster in s->pgdata; `option` (or NULL) is given to initdb, such as "-k". */
void pg_scratch_initdb(struct pg_scratch *s, const char *option);

/*
 * Run a program of PostgreSQL (argv[0] is its bare name, the list ends with NULL) and give its exit
 * status.  What it prints goes into `out`, cut to `max` bytes with the NUL.
 */
int pg_scratch_run(const char *const *argv, char *out, size_t max);

#endif
