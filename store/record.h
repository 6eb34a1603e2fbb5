/*
 * record: a versioned sequence of tagged fields, written and read by a table.
 *
 * Sources, snapshots and locks are such records.  A field is a tag (u16), a length (u32) and a
 * value.  A tag with bit 15 set is required: a reader that does not know it must refuse the record,
 * and a record of this version has every required field of its table.  Other tags are skipped when
 * unknown.  A record begins with its version and ends with the field RECORD_END, so that one cut
 * short is never taken for a whole one; a nested record is a field's value and has neither.
 * Layout: docs/format.md.
 *
 * Threads: pure functions.
 */
#ifndef STORE_RECORD_H
#define STORE_RECORD_H

#include <stddef.h>
#include <stdint.h>

struct bytes;
struct cursor;

#define RECORD_REQUIRED 0x8000u
#define RECORD_END      0xffffu

enum record_type {
	RECORD_UINT = 1, /* u64; in memory uint16_t, uint32_t, uint64_t (by size), min to max */
	RECORD_ENUM,     /* u64; in memory an enum, 1 to max; above it is ERR_UNSUPPORTED */
	RECORD_INT,      /* u64; in memory int64_t */
	RECORD_BOOL,     /* u64, 0 or 1; in memory bool */
	RECORD_FIXED,    /* `size` bytes */
	RECORD_TEXT,     /* min to max bytes without NUL; in memory a new char *, never NULL */
	RECORD_CHARS,    /* min to size - 1 bytes without NUL; in memory char[size] */
	RECORD_LIST,     /* repeats; the caller writes it, and reads it by layout->item */
};

struct record_field {
	uint16_t tag;
	enum record_type type;
	const char *name; /* for messages */
	size_t off, size; /* of the member */
	uint64_t min, max;
};

#define RECORD_FIELD(tag, type, s, member, min, max)                                               \
	{                                                                                          \
		tag, type, #member, offsetof(struct s, member), sizeof(((struct s *)0)->member),   \
		    min, max                                                                       \
	}

struct record_layout {
	const char *what; /* for messages: "snapshot record" */
	uint32_t version; /* 0: nested */
	const struct record_field *fields;
	size_t nfields; /* at most 64 */
	/* A RECORD_LIST field; NULL if there is none. */
	int (*item)(void *obj, uint16_t tag, struct cursor *value);
};

/*
 * Write the version (if any) and all fields of `obj` but the lists; the caller adds these and then
 * calls record_end().  Errors: ERR_USAGE (a value out of its bounds).  Memory faults are left to
 * bytes_status().
 */
int record_put(struct bytes *out, const struct record_layout *layout, const void *obj);
void record_end(struct bytes *out);
/* A nested record as the field `tag`: its fields are in `nested`. */
void record_put_nested(struct bytes *out, uint16_t tag, const struct bytes *nested);

/*
 * Read into `obj`, which the caller has zeroed and releases also after an error.  Errors:
 * ERR_DAMAGED, ERR_UNSUPPORTED, ERR_NOMEM.
 */
int record_get(const struct record_layout *layout, void *obj, const void *data, size_t len);

/* The rest of `value` as a new string of min to max bytes without NUL. */
int record_text(struct cursor *value, const char *what, size_t min, size_t max, char **out);

/*
 * Room for one more element behind the `n` in *list, which grows by doubling and was only ever
 * grown here.  The new element is zeroed.
 */
int record_grow(void *list, size_t n, size_t elem_size);

#endif
