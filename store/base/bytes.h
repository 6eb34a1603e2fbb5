/*
 * bytes: build and take apart little-endian records.
 *
 * A `bytes` is a growable buffer to write into; a `cursor` reads a borrowed, bounded one.  Both
 * carry a sticky error, so that a record is written or read field by field and checked once at
 * the end: a write after a failed allocation does nothing, a read past the end gives zeros.
 */
#ifndef STORE_BASE_BYTES_H
#define STORE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
	uint8_t *data;
	size_t len;
	size_t cap;
	bool failed; /* an allocation failed; `data` holds what came before */
};

void bytes_init(struct bytes *b);
void bytes_release(struct bytes *b);
/* Forget the content, keep the memory and clear `failed`. */
void bytes_reset(struct bytes *b);
/* Make room for `n` more bytes; false if memory ran out (sticky). */
bool bytes_reserve(struct bytes *b, size_t n);
void bytes_put(struct bytes *b, const void *p, size_t n);
void bytes_put_zero(struct bytes *b, size_t n);
void bytes_put_u8(struct bytes *b, uint8_t v);
void bytes_put_u16(struct bytes *b, uint16_t v);
void bytes_put_u32(struct bytes *b, uint32_t v);
void bytes_put_u64(struct bytes *b, uint64_t v);
/* A field: u16 tag, u32 length, value. */
void bytes_put_field(struct bytes *b, uint16_t tag, const void *p, size_t n);
void bytes_put_field_u64(struct bytes *b, uint16_t tag, uint64_t v);
void bytes_put_field_str(struct bytes *b, uint16_t tag, const char *s);
/* Overwrite four bytes at `off`, which must have been written. */
void bytes_set_u32(struct bytes *b, size_t off, uint32_t v);
/* 0, or ERR_NOMEM recorded if anything failed. */
int bytes_status(const struct bytes *b);

struct cursor {
	const uint8_t *data;
	size_t len;
	size_t off;
	bool failed; /* something read past the end */
};

void cursor_init(struct cursor *c, const void *data, size_t len);
size_t cursor_left(const struct cursor *c);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
/* Borrow the next `n` bytes, or NULL (and fail) if there are fewer. */
const uint8_t *cursor_take(struct cursor *c, size_t n);
/* Copy the next `n` bytes to `out`; zeros if there are fewer. */
void cursor_copy(struct cursor *c, void *out, size_t n);
/*
 * Take one field (u16 tag, u32 length, value) as a cursor over its value.  Returns false at the
 * end of `c` or when the field is cut short (c->failed tells which).
 */
bool cursor_field(struct cursor *c, uint16_t *tag, struct cursor *value);
/* A field's whole value as a new C string, at most `max` bytes without NUL; NULL otherwise. */
char *cursor_strdup(struct cursor *value, size_t max);

/* Loads and stores for places that are not records. */
uint16_t le16_load(const void *p);
uint32_t le32_load(const void *p);
uint64_t le64_load(const void *p);
void le16_store(void *p, uint16_t v);
void le32_store(void *p, uint32_t v);
void le64_store(void *p, uint64_t v);

#endif
