#include "store/base/bytes.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <stdlib.h>
#include <string.h>

uint16_t
le16_load(const void *p)
{
	const uint8_t *b = p;

	return (uint16_t)(b[0] | b[1] << 8);
}

uint32_t
le32_load(const void *p)
{
	const uint8_t *b = p;

	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

uint64_t
le64_load(const void *p)
{
	const uint8_t *b = p;

	return (uint64_t)le32_load(b) | (uint64_t)le32_load(b + 4) << 32;
}

void
le16_store(void *p, uint16_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

void
le32_store(void *p, uint32_t v)
{
	uint8_t *b = p;

	for (int i = 0; i < 4; i++)
		b[i] = (uint8_t)(v >> (8 * i));
}

void
le64_store(void *p, uint64_t v)
{
	uint8_t *b = p;

	for (int i = 0; i < 8; i++)
		b[i] = (uint8_t)(v >> (8 * i));
}

void
bytes_init(struct bytes *b)
{
	memset(b, 0, sizeof(*b));
}

void
bytes_release(struct bytes *b)
{
	free(b->data);
	bytes_init(b);
}

void
bytes_reset(struct bytes *b)
{
	b->len = 0;
	b->failed = false;
}

bool
bytes_reserve(struct bytes *b, size_t n)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *p;

	if (b->failed)
		return false;
	if (n <= b->cap - b->len)
		return true;
	while (cap - b->len < n) {
		if (cap > SIZE_MAX / 2) {
			b->failed = true;
			return false;
		}
		cap *= 2;
	}
	p = mem_realloc(b->data, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->cap = cap;
	return true;
}

void
bytes_put(struct bytes *b, const void *p, size_t n)
{
	if (n == 0 || !bytes_reserve(b, n))
		return;
	memcpy(b->data + b->len, p, n);
	b->len += n;
}

void
bytes_put_zero(struct bytes *b, size_t n)
{
	if (n == 0 || !bytes_reserve(b, n))
		return;
	memset(b->data + b->len, 0, n);
	b->len += n;
}

void
bytes_put_u8(struct bytes *b, uint8_t v)
{
	bytes_put(b, &v, 1);
}

void
bytes_put_u16(struct bytes *b, uint16_t v)
{
	uint8_t t[2];

	le16_store(t, v);
	bytes_put(b, t, sizeof(t));
}

void
bytes_put_u32(struct bytes *b, uint32_t v)
{
	uint8_t t[4];

	le32_store(t, v);
	bytes_put(b, t, sizeof(t));
}

void
bytes_put_u64(struct bytes *b, uint64_t v)
{
	uint8_t t[8];

	le64_store(t, v);
	bytes_put(b, t, sizeof(t));
}

void
bytes_put_field(struct bytes *b, uint16_t tag, const void *p, size_t n)
{
	bytes_put_u16(b, tag);
	bytes_put_u32(b, (uint32_t)n);
	bytes_put(b, p, n);
}

void
bytes_put_field_u64(struct bytes *b, uint16_t tag, uint64_t v)
{
	uint8_t t[8];

	le64_store(t, v);
	bytes_put_field(b, tag, t, sizeof(t));
}

void
bytes_put_field_str(struct bytes *b, uint16_t tag, const char *s)
{
	bytes_put_field(b, tag, s, strlen(s));
}

void
bytes_set_u32(struct bytes *b, size_t off, uint32_t v)
{
	if (!b->failed)
		le32_store(b->data + off, v);
}

int
bytes_status(const struct bytes *b)
{
	return b->failed ? err_nomem() : 0;
}

void
cursor_init(struct cursor *c, const void *data, size_t len)
{
	c->data = data;
	c->len = len;
	c->off = 0;
	c->failed = false;
}

size_t
cursor_left(const struct cursor *c)
{
	return c->failed ? 0 : c->len - c->off;
}

const uint8_t *
cursor_take(struct cursor *c, size_t n)
{
	const uint8_t *p;

	if (n > cursor_left(c)) {
		c->failed = true;
		return NULL;
	}
	p = c->data + c->off;
	c->off += n;
	return p;
}

uint8_t
cursor_u8(struct cursor *c)
{
	const uint8_t *p = cursor_take(c, 1);

	return p ? *p : 0;
}

uint16_t
cursor_u16(struct cursor *c)
{
	const uint8_t *p = cursor_take(c, 2);

	return p ? le16_load(p) : 0;
}

uint32_t
cursor_u32(struct cursor *c)
{
	const uint8_t *p = cursor_take(c, 4);

	return p ? le32_load(p) : 0;
}

uint64_t
cursor_u64(struct cursor *c)
{
	const uint8_t *p = cursor_take(c, 8);

	return p ? le64_load(p) : 0;
}

void
cursor_copy(struct cursor *c, void *out, size_t n)
{
	const uint8_t *p = cursor_take(c, n);

	if (n == 0)
		return;
	if (p)
		memcpy(out, p, n);
	else
		memset(out, 0, n);
}

bool
cursor_field(struct cursor *c, uint16_t *tag, struct cursor *value)
{
	const uint8_t *p;
	uint32_t len;

	if (cursor_left(c) == 0)
		return false;
	*tag = cursor_u16(c);
	len = cursor_u32(c);
	p = cursor_take(c, len);
	if (!p && len > 0)
		return false;
	if (c->failed)
		return false;
	cursor_init(value, p, len);
	return true;
}

char *
cursor_strdup(struct cursor *value, size_t max)
{
	size_t n = cursor_left(value);
	const uint8_t *p = cursor_take(value, n);
	char *s;

	if (!p || n > max || memchr(p, 0, n)) {
		value->failed = true;
		return NULL;
	}
	s = mem_alloc(n + 1);
	if (!s)
		return NULL;
	memcpy(s, p, n);
	return s;
}
