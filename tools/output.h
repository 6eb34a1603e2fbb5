/*
 * output: what a verb prints: text and tables for people, JSON for programs.
 *
 * Results go to standard output, warnings and notices to standard error.
 */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include "store/base/utc.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json;
struct table;

#define OUTPUT_TEXT_MAX 32

/* "0 B", "812 B", "1.5 KiB", "23 MiB", "1.2 TiB": about three digits. */
void output_size(uint64_t bytes, char out[OUTPUT_TEXT_MAX]);
/* "340 ms", "12.3 s", "4 min 05 s", "3 h 07 min". */
void output_duration(int64_t us, char out[OUTPUT_TEXT_MAX]);
/* "0/3000060", as PostgreSQL writes a log sequence number. */
void output_lsn(uint64_t lsn, char out[OUTPUT_TEXT_MAX]);
/* "15.18" from 150018. */
void output_pg_version(uint32_t version, char out[OUTPUT_TEXT_MAX]);
/* "3.4" or "12", or "-" if `part` is 0. */
void output_ratio(uint64_t whole, uint64_t part, char out[OUTPUT_TEXT_MAX]);

/* Members of a JSON object: text as above. */
void output_json_time(struct json *object, const char *key, int64_t us);
void output_json_hex(struct json *object, const char *key, const void *data, size_t len);
void output_json_lsn(struct json *object, const char *key, uint64_t lsn);

/* Print `j`, which is taken and freed, to standard output.  Errors: ERR_NOMEM, ERR_IO. */
int output_json(struct json *j);

/* "pastfs: warning: …" and plain notices, each a line on standard error. */
void output_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void output_notice(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "1 file", "2 files": a number with its noun, which gets an 's'. */
void output_count(uint64_t n, const char *noun, char out[OUTPUT_TEXT_MAX]);

/*
 * Flush standard output: a full disk behind it must not look like success.  Errors: ERR_IO,
 * ERR_NOSPACE.
 */
int output_flush(void);

/*
 * A table: column headings joined by '|', each ending in '>' if it is aligned to the right; when
 * all are empty none is printed.
 * Carries a sticky failure, so that cells are added without checks and table_print() tells.
 */
int table_new(struct table **out, const char *headings);
void table_free(struct table *t);
/* The next cell, row by row. */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_size(struct table *t, uint64_t bytes);
/* Errors: ERR_NOMEM. */
int table_print(const struct table *t, FILE *to);

#endif
