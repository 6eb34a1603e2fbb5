#include "store/base/json.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct json {
	json_t *v;
	bool failed;
};

static pthread_once_t prepared = PTHREAD_ONCE_INIT;

/*
 * jansson's allocations go through the seam, so that tests reach its failures too, but for those
 * of its parser: it reports some as a wrong token and stops the process by an assertion at others,
 * so there is nothing of ours to test.  What really happened is noted for the first kind.
 */
static _Thread_local bool parsing;
static _Thread_local bool memory_ran_out;

static void *
allocate(size_t len)
{
	void *p = parsing ? malloc(len) : mem_alloc(len);

	if (!p)
		memory_ran_out = true;
	return p;
}

static void
prepare(void)
{
	json_set_alloc_funcs(allocate, free);
	json_object_seed(0);
}

/* Takes `v`. */
static struct json *
wrap(json_t *v)
{
	struct json *j = v ? mem_alloc(sizeof(*j)) : NULL;

	if (j)
		j->v = v;
	else
		json_decref(v);
	return j;
}

struct json *
json_new_object(void)
{
	pthread_once(&prepared, prepare);
	return wrap(json_object());
}

struct json *
json_new_array(void)
{
	pthread_once(&prepared, prepare);
	return wrap(json_array());
}

void
json_free(struct json *j)
{
	if (!j)
		return;
	json_decref(j->v);
	free(j);
}

/* Bytes of the UTF-8 sequence at `s`, 0 if there is none (RFC 3629, section 4). */
static size_t
utf8_len(const unsigned char *s, size_t left)
{
	static const struct {
		unsigned char mask, lead;
		uint32_t least;
	} forms[] = {
		{ 0x80, 0x00, 0 },
		{ 0xe0, 0xc0, 0x80 },
		{ 0xf0, 0xe0, 0x800 },
		{ 0xf8, 0xf0, 0x10000 },
	};

	for (size_t n = 1; n <= 4 && n <= left; n++) {
		uint32_t c;

		if ((s[0] & forms[n - 1].mask) != forms[n - 1].lead)
			continue;
		c = s[0] & (unsigned char)~forms[n - 1].mask;
		for (size_t i = 1; i < n; i++) {
			if ((s[i] & 0xc0) != 0x80)
				return 0;
			c = c << 6 | (s[i] & 0x3f);
		}
		if (c < forms[n - 1].least || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
			return 0;
		return n;
	}
	return 0;
}

bool
json_is_utf8(const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		size_t n = utf8_len((const unsigned char *)text, left);

		if (n == 0)
			return false;
		text += n;
		left -= n;
	}
	return true;
}

/* A new JSON string; each byte that is not part of UTF-8 becomes U+FFFD. */
static json_t *
text_value(const char *text)
{
	size_t left = strlen(text);
	struct bytes b;
	json_t *v;

	v = json_string(text);
	if (v)
		return v;
	bytes_init(&b);
	while (left > 0) {
		size_t n = utf8_len((const unsigned char *)text, left);

		if (n > 0)
			bytes_put(&b, text, n);
		else
			bytes_put(&b, "\xef\xbf\xbd", 3);
		text += n ? n : 1;
		left -= n ? n : 1;
	}
	if (!b.failed)
		v = json_stringn(b.len ? (const char *)b.data : "", b.len);
	bytes_release(&b);
	return v;
}

/* Takes `v`; NULL is a failed allocation. */
static void
set_value(struct json *object, const char *key, json_t *v)
{
	if (!object || object->failed) {
		json_decref(v);
		return;
	}
	if (!v || json_object_set_new(object->v, key, v))
		object->failed = true;
}

static void
add_value(struct json *array, json_t *v)
{
	if (!array || array->failed) {
		json_decref(v);
		return;
	}
	if (!v || json_array_append_new(array->v, v))
		array->failed = true;
}

/* The value of a child, handed over; NULL if it had failed. */
static json_t *
child_value(struct json *child)
{
	json_t *v = NULL;

	if (child && !child->failed)
		v = json_incref(child->v);
	json_free(child);
	return v;
}

static json_t *
uint_value(uint64_t v)
{
	char text[24];

	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	return json_string(text);
}

void
json_set(struct json *object, const char *key, struct json *child)
{
	set_value(object, key, child_value(child));
}

void
json_set_str(struct json *object, const char *key, const char *text)
{
	set_value(object, key, text ? text_value(text) : json_null());
}

void
json_set_int(struct json *object, const char *key, int64_t v)
{
	set_value(object, key, json_integer((json_int_t)v));
}

void
json_set_uint(struct json *object, const char *key, uint64_t v)
{
	set_value(object, key, uint_value(v));
}

void
json_set_double(struct json *object, const char *key, double v)
{
	set_value(object, key, isfinite(v) ? json_real(v) : json_null());
}

void
json_set_bool(struct json *object, const char *key, bool v)
{
	set_value(object, key, v ? json_true() : json_false());
}

void
json_set_null(struct json *object, const char *key)
{
	set_value(object, key, json_null());
}

void
json_add(struct json *array, struct json *child)
{
	add_value(array, child_value(child));
}

void
json_add_str(struct json *array, const char *text)
{
	add_value(array, text ? text_value(text) : json_null());
}

void
json_add_int(struct json *array, int64_t v)
{
	add_value(array, json_integer((json_int_t)v));
}

void
json_add_uint(struct json *array, uint64_t v)
{
	add_value(array, uint_value(v));
}

static int
gather(const char *text, size_t len, void *ctx)
{
	struct bytes *b = ctx;

	bytes_put(b, text, len);
	return b->failed ? -1 : 0;
}

int
json_encode(const struct json *j, struct bytes *to, enum json_layout layout)
{
	size_t flags = layout == JSON_LAYOUT_LINE ? JSON_COMPACT : JSON_INDENT(2);
	size_t before = to->len;

	if (!j || j->failed)
		return err_nomem();
	/* Fifteen digits are what a double keeps of any decimal number. */
	flags |= JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
	if (json_dump_callback(j->v, gather, to, flags)) {
		to->len = before;
		return err_nomem();
	}
	bytes_put(to, "\n", 1);
	return bytes_status(to);
}

int
json_print(const struct json *j, FILE *to, enum json_layout layout)
{
	struct bytes b;
	int rc;

	bytes_init(&b);
	rc = json_encode(j, &b, layout);
	if (rc == 0 && (fwrite(b.data, 1, b.len, to) != b.len || fflush(to)))
		rc = err_sys("write the report");
	bytes_release(&b);
	return rc;
}

static int
load(struct json **out, const void *text, size_t len, size_t flags, size_t *used)
{
	json_error_t error;
	json_t *v;

	*out = NULL;
	pthread_once(&prepared, prepare);
	if (len > JSON_TEXT_MAX)
		return err_set(
		    ERR_USAGE, "JSON text of %zu bytes is longer than %u", len, JSON_TEXT_MAX);
	memory_ran_out = false;
	parsing = true;
	v = json_loadb(text, len, flags | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	parsing = false;
	if (!v && memory_ran_out)
		return err_nomem();
	if (!v)
		return err_set(ERR_USAGE, "not valid JSON: %s (line %d, column %d)", error.text,
		    error.line, error.column);
	*used = (size_t)error.position;
	*out = wrap(v);
	return *out ? 0 : err_nomem();
}

int
json_parse(struct json **out, const void *text, size_t len)
{
	size_t used;

	return load(out, text, len, 0, &used);
}

int
json_parse_next(struct json **out, const void *text, size_t len, size_t *used)
{
	return load(
	    out, text, len < JSON_TEXT_MAX ? len : JSON_TEXT_MAX, JSON_DISABLE_EOF_CHECK, used);
}

/* A json_value is jansson's own value under a name that its users can hold. */
static const json_t *
value(const struct json_value *v)
{
	return (const json_t *)v;
}

const struct json_value *
json_root(const struct json *j)
{
	return j ? (const struct json_value *)j->v : NULL;
}

enum json_kind
json_kind(const struct json_value *v)
{
	if (!v)
		return JSON_KIND_NONE;
	switch (json_typeof(value(v))) {
	case JSON_OBJECT:
		return JSON_KIND_OBJECT;
	case JSON_ARRAY:
		return JSON_KIND_ARRAY;
	case JSON_STRING:
		return JSON_KIND_TEXT;
	case JSON_INTEGER:
		return JSON_KIND_INT;
	case JSON_REAL:
		return JSON_KIND_DOUBLE;
	case JSON_TRUE:
	case JSON_FALSE:
		return JSON_KIND_BOOL;
	case JSON_NULL:
		break;
	}
	return JSON_KIND_NULL;
}

size_t
json_count(const struct json_value *v)
{
	/* Both give 0 for anything else. */
	return json_array_size(value(v)) + json_object_size(value(v));
}

const struct json_value *
json_member(const struct json_value *v, const char *key)
{
	return (const struct json_value *)json_object_get(value(v), key);
}

const struct json_value *
json_item(const struct json_value *v, size_t i)
{
	return (const struct json_value *)json_array_get(value(v), i);
}

const char *
json_text(const struct json_value *v)
{
	const char *text = json_string_value(value(v));

	return text && strlen(text) == json_string_length(value(v)) ? text : NULL;
}

bool
json_int(const struct json_value *v, int64_t *out)
{
	if (!json_is_integer(value(v)))
		return false;
	*out = json_integer_value(value(v));
	return true;
}

bool
json_uint(const struct json_value *v, uint64_t *out)
{
	if (!json_is_integer(value(v)) || json_integer_value(value(v)) < 0)
		return false;
	*out = (uint64_t)json_integer_value(value(v));
	return true;
}

bool
json_bool(const struct json_value *v, bool *out)
{
	if (!json_is_boolean(value(v)))
		return false;
	*out = json_is_true(value(v));
	return true;
}
