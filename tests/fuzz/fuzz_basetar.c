/*
 * A server's archive, pushed in pieces whose size the first byte chooses.
 */
#include "pgsync/basetar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct state {
	uint64_t promised, got;
	int inside;
};

static int
on_begin(void *ctx, const struct basetar_member *m)
{
	struct state *s = ctx;

	if (s->inside || strlen(m->path) > BASETAR_PATH_MAX || m->path[0] == '/' || m->mode > 07777)
		abort();
	s->inside = 1;
	s->promised = m->size;
	s->got = 0;
	return 0;
}

static int
on_data(void *ctx, const void *data, size_t len)
{
	struct state *s = ctx;
	volatile uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
	s->got += len;
	if (!s->inside || len == 0 || s->got > s->promised)
		abort();
	return 0;
}

static int
on_end(void *ctx)
{
	struct state *s = ctx;

	if (!s->inside || s->got != s->promised)
		abort();
	s->inside = 0;
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct state s = { 0 };
	struct basetar_sink sink = { on_begin, on_data, on_end, &s };
	struct basetar *t;
	size_t piece;
	int rc = 0;

	if (len == 0 || basetar_new(&t, &sink))
		return 0;
	piece = (size_t)data[0] * 8 + 1;
	for (size_t off = 1; off < len && rc == 0; off += piece)
		rc = basetar_push(t, data + off, len - off < piece ? len - off : piece);
	if (rc == 0 && basetar_finish(t) == 0 && s.inside)
		abort();
	basetar_free(t);
	return 0;
}
