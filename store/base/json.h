/*
 * json: build JSON to print, and read JSON that was received.
 *
 * The door to jansson.  A `json` is a value under construction or a parsed document, the owner's.
 * Building carries a sticky failure, so that a report is put together member by member and checked
 * once, when it is dumped: after a failed allocation, and with NULL for a value, the calls do
 * nothing.  A `json_value` is looked at only; it is borrowed from its document.
 *
 * Members keep the order in which they were set.  Text that is not UTF-8 gets U+FFFD in place of
 * each wrong byte, because a file name may hold anything and a report must be printable.
 *
 * Threads: one document belongs to one thread at a time.
 */
#ifndef STORE_BASE_JSON_H
#define STORE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct bytes;
struct json;
struct json_value;

/* ---- building ---- */

/* To json_free() or to be taken by json_set() or json_add(); NULL if memory ran out. */
struct json *json_new_object(void);
struct json *json_new_array(void);
void json_free(struct json *j);

/* Set a member of an object.  json_set() takes `child`, also on failure. */
void json_set(struct json *object, const char *key, struct json *child);
/* A NULL `text` gives null. */
void json_set_str(struct json *object, const char *key, const char *text);
void json_set_int(struct json *object, const char *key, int64_t v);
/* Above INT64_MAX a decimal string, which no reader rounds. */
void json_set_uint(struct json *object, const char *key, uint64_t v);
/* Not a number and infinity give null. */
void json_set_double(struct json *object, const char *key, double v);
void json_set_bool(struct json *object, const char *key, bool v);
void json_set_null(struct json *object, const char *key);

/* Append to an array.  json_add() takes `child`, also on failure. */
void json_add(struct json *array, struct json *child);
void json_add_str(struct json *array, const char *text);
void json_add_int(struct json *array, int64_t v);
void json_add_uint(struct json *array, uint64_t v);

enum json_layout {
	JSON_LAYOUT_PRETTY = 0, /* two spaces of indentation */
	JSON_LAYOUT_LINE,       /* everything in one line */
};

/*
 * Write the value and a newline.  NULL and a value that failed give ERR_NOMEM and write nothing.
 * Errors: ERR_NOMEM; ERR_IO and ERR_NOSPACE from the file.
 */
int json_print(const struct json *j, FILE *to, enum json_layout layout);
int json_encode(const struct json *j, struct bytes *to, enum json_layout layout);

/* Whether the text is UTF-8 throughout (RFC 3629). */
bool json_is_utf8(const char *text);

/* ---- reading ---- */

#define JSON_TEXT_MAX (64u << 20) /* no longer text is parsed */

/*
 * Parse `len` bytes that hold one value and white space.  Errors: ERR_USAGE (where and why; a key
 * given twice, text that is not UTF-8 and a length above JSON_TEXT_MAX are such faults), ERR_NOMEM.
 */
int json_parse(struct json **out, const void *text, size_t len);

/*
 * Parse one value at the beginning of `text`, which may go on behind it; *used is set to the bytes
 * taken.  A number is taken whole only if something follows it.  Errors: as json_parse().
 */
int json_parse_next(struct json **out, const void *text, size_t len, size_t *used);

/* The document's value; borrowed until json_free(). */
const struct json_value *json_root(const struct json *j);

enum json_kind {
	JSON_KIND_NONE = 0, /* no such value: what NULL is */
	JSON_KIND_NULL,
	JSON_KIND_BOOL,
	JSON_KIND_INT,
	JSON_KIND_DOUBLE,
	JSON_KIND_TEXT,
	JSON_KIND_ARRAY,
	JSON_KIND_OBJECT,
};
enum json_kind json_kind(const struct json_value *v);

/* Members of an array or an object; 0 for anything else. */
size_t json_count(const struct json_value *v);
/* NULL if `v` is not an object or has no such member. */
const struct json_value *json_member(const struct json_value *v, const char *key);
/* NULL if `v` is not an array or is shorter. */
const struct json_value *json_item(const struct json_value *v, size_t i);

/* Text without a NUL inside, borrowed from the document; NULL for anything else. */
const char *json_text(const struct json_value *v);
/* False, and *out untouched, unless the value is of that kind (json_uint: and not negative). */
bool json_int(const struct json_value *v, int64_t *out);
bool json_uint(const struct json_value *v, uint64_t *out);
bool json_bool(const struct json_value *v, bool *out);

#endif
