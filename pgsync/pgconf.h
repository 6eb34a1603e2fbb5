/*
 * pgconf: PostgreSQL's configuration files, read statement by statement, and rewritten so that a
 * copy of a data directory does not reach for the original.
 *
 * The syntax is that of src/backend/utils/misc/guc-file.l: one statement a line, name [=] value,
 * '#' begins a comment, values may be quoted with ' where '' and \ escape.
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_PGCONF_H
#define PGSYNC_PGCONF_H

#include <stdbool.h>
#include <stddef.h>

#define PGCONF_FILE_MAX  (4u << 20) /* a longer configuration file is refused */
#define PGCONF_NAME_MAX  127
#define PGCONF_VALUE_MAX 4095

enum pgconf_directive {
	PGCONF_SETTING = 0,
	PGCONF_INCLUDE,
	PGCONF_INCLUDE_IF_EXISTS,
	PGCONF_INCLUDE_DIR,
};

struct pgconf_statement {
	enum pgconf_directive directive;
	char name[PGCONF_NAME_MAX + 1];   /* lower case */
	char value[PGCONF_VALUE_MAX + 1]; /* without quotes and escapes; "" if it has none */
	size_t line;                      /* from 1 */
	bool complete;                    /* the rest of the line is what it should be */
};

/*
 * Call `fn` for each statement of `text`; a line that names no setting is passed over.  A non-zero
 * result ends it and is returned.
 */
int pgconf_each(const char *text, size_t len,
    int (*fn)(void *ctx, const struct pgconf_statement *s), void *ctx);

/*
 * Whether a setting ties a copy to the original's files: data_directory, hba_file, ident_file,
 * external_pid_file, and stats_temp_directory when it is an absolute path.
 */
bool pgconf_ties(const struct pgconf_statement *s);

struct bytes;
struct pgconf_rewrite {
	/*
	 * Where an include is to point instead: NULL leaves the line as it is.  The result is
	 * borrowed until the next call.  May itself be NULL.
	 */
	const char *(*include)(void *ctx, const struct pgconf_statement *s);
	void *ctx;
};

/*
 * Append `text` to `out` with every line that ties commented out, behind a line that says so, and
 * includes as `how` says.  Everything else stays byte for byte.  *changed tells whether anything
 * differs.  Errors: ERR_NOMEM.
 */
int pgconf_rewrite(struct bytes *out, const char *text, size_t len,
    const struct pgconf_rewrite *how, bool *changed);

#endif
