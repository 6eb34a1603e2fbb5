/*
 * record: one engine for all records of fields, so that bounds, unknown tags, repetition and
 * truncation are decided in one place.
 */
#include "store/record.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* ---- writing ---- */

static uint64_t
load_uint(const void *p, size_t size)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (size) {
	case 2:
		memcpy(&v16, p, size);
		return v16;
	case 4:
		memcpy(&v32, p, size);
		return v32;
	default:
		assert(size == 8);
		memcpy(&v64, p, size);
		return v64;
	}
}

static int
put_uint(struct bytes *out, const struct record_layout *layout, const struct record_field *f,
    const void *member)
{
	uint64_t v = load_uint(member, f->size);

	if (v < f->min || v > f->max)
		return err_set(ERR_USAGE,
		    "the %s has %s %" PRIu64 "; it must be %" PRIu64 " to %" PRIu64, layout->what,
		    f->name, v, f->min, f->max);
	bytes_put_field_u64(out, f->tag, v);
	return 0;
}

static int
put_text(struct bytes *out, const struct record_layout *layout, const struct record_field *f,
    const char *s, uint64_t max)
{
	size_t n = s ? strlen(s) : 0;

	if (n < f->min || n > max)
		return err_set(ERR_USAGE,
		    "the %s has a %s of %zu bytes; it must have %" PRIu64 " to %" PRIu64,
		    layout->what, f->name, n, f->min, max);
	bytes_put_field(out, f->tag, s, n);
	return 0;
}

static int
put_field(struct bytes *out, const struct record_layout *layout, const struct record_field *f,
    const uint8_t *member)
{
	char *text;

	switch (f->type) {
	case RECORD_UINT:
	case RECORD_ENUM:
		return put_uint(out, layout, f, member);
	case RECORD_INT:
		bytes_put_field_u64(out, f->tag, load_uint(member, f->size));
		return 0;
	case RECORD_BOOL:
		bytes_put_field_u64(out, f->tag, *(const bool *)member);
		return 0;
	case RECORD_FIXED:
		bytes_put_field(out, f->tag, member, f->size);
		return 0;
	case RECORD_TEXT:
		memcpy(&text, member, sizeof(text));
		return put_text(out, layout, f, text, f->max);
	case RECORD_CHARS:
		return put_text(out, layout, f, (const char *)member, f->size - 1);
	case RECORD_LIST:
		return 0;
	}
	return 0;
}

int
record_put(struct bytes *out, const struct record_layout *layout, const void *obj)
{
	int rc;

	if (layout->version > 0)
		bytes_put_u32(out, layout->version);
	for (size_t i = 0; i < layout->nfields; i++) {
		const struct record_field *f = &layout->fields[i];

		rc = put_field(out, layout, f, (const uint8_t *)obj + f->off);
		if (rc)
			return rc;
	}
	return 0;
}

void
record_end(struct bytes *out)
{
	bytes_put_field(out, RECORD_END, NULL, 0);
}

void
record_put_nested(struct bytes *out, uint16_t tag, const struct bytes *nested)
{
	if (nested->failed)
		out->failed = true;
	bytes_put_field(out, tag, nested->data, nested->len);
}

/* ---- reading ---- */

static int
damaged(const struct record_layout *layout, const struct record_field *f)
{
	return err_set(ERR_DAMAGED, "the %s has a malformed %s", layout->what, f->name);
}

static int
get_uint(const struct record_layout *layout, const struct record_field *f, void *member,
    struct cursor *value)
{
	uint64_t v = cursor_u64(value);
	uint16_t v16 = (uint16_t)v;
	uint32_t v32 = (uint32_t)v;

	if (value->failed || cursor_left(value) > 0 || v < f->min)
		return damaged(layout, f);
	if (v > f->max) {
		if (f->type != RECORD_ENUM)
			return damaged(layout, f);
		return err_set(ERR_UNSUPPORTED,
		    "the %s has %s %" PRIu64
		    ", which this version of pastfs does not know; upgrade pastfs",
		    layout->what, f->name, v);
	}
	if (f->type == RECORD_BOOL)
		*(bool *)member = v != 0;
	else if (f->size == 2)
		memcpy(member, &v16, sizeof(v16));
	else if (f->size == 4)
		memcpy(member, &v32, sizeof(v32));
	else
		memcpy(member, &v, sizeof(v));
	return 0;
}

int
record_text(struct cursor *value, const char *what, size_t min, size_t max, char **out)
{
	size_t n = cursor_left(value);
	const uint8_t *p = cursor_take(value, n);
	char *s;

	if (value->failed || n < min || n > max || (n > 0 && memchr(p, 0, n)))
		return err_set(ERR_DAMAGED, "malformed %s", what);
	s = mem_alloc(n + 1);
	if (!s)
		return err_nomem();
	if (n > 0)
		memcpy(s, p, n);
	*out = s;
	return 0;
}

static int
get_chars(const struct record_layout *layout, const struct record_field *f, char *member,
    struct cursor *value)
{
	size_t n = cursor_left(value);
	const uint8_t *p = cursor_take(value, n);

	if (value->failed || n < f->min || n >= f->size || (n > 0 && memchr(p, 0, n)))
		return damaged(layout, f);
	memset(member, 0, f->size);
	if (n > 0)
		memcpy(member, p, n);
	return 0;
}

static int
get_field(const struct record_layout *layout, const struct record_field *f, void *obj,
    struct cursor *value)
{
	uint8_t *member = (uint8_t *)obj + f->off;
	char *text = NULL;
	int rc;

	switch (f->type) {
	case RECORD_UINT:
	case RECORD_ENUM:
	case RECORD_INT:
	case RECORD_BOOL:
		return get_uint(layout, f, member, value);
	case RECORD_FIXED:
		if (cursor_left(value) != f->size)
			return damaged(layout, f);
		cursor_copy(value, member, f->size);
		return 0;
	case RECORD_TEXT:
		rc = record_text(value, f->name, f->min, f->max, &text);
		if (rc)
			return err_prefix(rc, "the %s", layout->what);
		memcpy(member, &text, sizeof(text));
		return 0;
	case RECORD_CHARS:
		return get_chars(layout, f, (char *)member, value);
	case RECORD_LIST:
		return layout->item(obj, f->tag, value);
	}
	return 0;
}

/* The index of `tag` in the table, or -1. */
static int
find_field(const struct record_layout *layout, uint16_t tag)
{
	for (size_t i = 0; i < layout->nfields; i++)
		if (layout->fields[i].tag == tag)
			return (int)i;
	return -1;
}

/* One field from the record; `seen` has a bit for each row of the table. */
static int
take_field(const struct record_layout *layout, void *obj, uint16_t tag, struct cursor *value,
    uint64_t *seen)
{
	int i = find_field(layout, tag);

	if (i < 0) {
		if ((tag & RECORD_REQUIRED) == 0)
			return 0;
		return err_set(ERR_UNSUPPORTED,
		    "the %s has a field (0x%04x) that this version of pastfs does not know; "
		    "upgrade pastfs",
		    layout->what, tag);
	}
	if (layout->fields[i].type != RECORD_LIST && (*seen >> i & 1))
		return err_set(
		    ERR_DAMAGED, "the %s has its %s twice", layout->what, layout->fields[i].name);
	*seen |= UINT64_C(1) << i;
	return get_field(layout, &layout->fields[i], obj, value);
}

/* Refuse what lacks a required field; give absent texts their empty string. */
static int
complete(const struct record_layout *layout, void *obj, uint64_t seen)
{
	for (size_t i = 0; i < layout->nfields; i++) {
		const struct record_field *f = &layout->fields[i];
		char *empty;

		if ((seen >> i & 1) || f->type == RECORD_LIST)
			continue;
		if (f->tag & RECORD_REQUIRED)
			return err_set(ERR_DAMAGED, "the %s has no %s", layout->what, f->name);
		if (f->type != RECORD_TEXT)
			continue;
		empty = mem_alloc(1);
		if (!empty)
			return err_nomem();
		memcpy((uint8_t *)obj + f->off, &empty, sizeof(empty));
	}
	return 0;
}

int
record_get(const struct record_layout *layout, void *obj, const void *data, size_t len)
{
	struct cursor in, value;
	bool ended = layout->version == 0;
	uint64_t seen = 0;
	uint32_t version;
	uint16_t tag;
	int rc;

	assert(layout->nfields <= 64);
	cursor_init(&in, data, len);
	if (layout->version > 0) {
		version = cursor_u32(&in);
		if (version > layout->version)
			return err_set(ERR_UNSUPPORTED,
			    "the %s has version %" PRIu32
			    ", this pastfs knows versions up to %" PRIu32 "; upgrade pastfs",
			    layout->what, version, layout->version);
		if (version == 0)
			return err_set(ERR_DAMAGED, "the %s is cut short", layout->what);
	}
	while (cursor_field(&in, &tag, &value)) {
		if (layout->version > 0 && tag == RECORD_END) {
			ended = true;
			break;
		}
		rc = take_field(layout, obj, tag, &value, &seen);
		if (rc)
			return rc;
	}
	if (in.failed || !ended)
		return err_set(ERR_DAMAGED, "the %s is cut short", layout->what);
	if (cursor_left(&in) > 0)
		return err_set(ERR_DAMAGED, "the %s goes on after its end", layout->what);
	return complete(layout, obj, seen);
}

int
record_grow(void *list, size_t n, size_t elem_size)
{
	uint8_t *p;

	memcpy(&p, list, sizeof(p));
	/* The room is the next power of two, so it is full exactly when n is one (or zero). */
	if ((n & (n - 1)) == 0) {
		size_t room = n ? 2 * n : 1;

		if (room > SIZE_MAX / elem_size)
			return err_nomem();
		p = mem_realloc(p, room * elem_size);
		if (!p)
			return err_nomem();
		memcpy(list, &p, sizeof(p));
	}
	memset(p + n * elem_size, 0, elem_size);
	return 0;
}
