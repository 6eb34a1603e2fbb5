/*
 * FastCDC: a gear hash runs over the content, and a chunk ends where bits of it are zero.  Up to
 * the average size a mask with two bits more than the average asks for is used, behind it one with
 * two bits less, which draws the sizes together.
 */
#include "store/chunker.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/crypto.h"
#include "store/secret.h"

#define GEAR_ENTRIES 256
#define LEVEL        2 /* of normalisation: bits more, then less */

/* All of it in secret memory: the table is as good as the key. */
struct chunker {
	uint64_t gear[GEAR_ENTRIES];
	uint64_t mask_small; /* before the average size: harder to meet */
	uint64_t mask_large; /* behind it: easier to meet */
	uint32_t min, avg, max;
};

/*
 * `n` ones spread over the upper 48 bits.  Bit k depends on the last k + 1 bytes, so the low bits
 * know too little of the content.
 */
static uint64_t
spread_mask(unsigned n)
{
	uint64_t mask = 0;

	for (unsigned i = 0; i < n; i++)
		mask |= UINT64_C(1) << (63 - i * 48 / n);
	return mask;
}

static int
fill_gear(struct chunker *c, const uint8_t key[32])
{
	uint8_t *raw = secret_alloc(sizeof(c->gear));
	int rc;

	if (!raw)
		return err_nomem();
	rc = crypto_derive(raw, sizeof(c->gear), key, NULL, 0, "pastfs v1 gear table");
	for (size_t i = 0; rc == 0 && i < GEAR_ENTRIES; i++)
		c->gear[i] = le64_load(raw + 8 * i);
	secret_free(raw);
	return rc;
}

int
chunker_new(struct chunker **out, const uint8_t key[32], uint32_t min, uint32_t avg, uint32_t max)
{
	struct chunker *c;
	unsigned bits;
	int rc;

	*out = NULL;
	if (min == 0 || min >= avg || avg >= max || (avg & (avg - 1)) || avg < 1u << (LEVEL + 1))
		return err_set(ERR_USAGE,
		    "chunk sizes of %u, %u and %u bytes do not fit: the second must be a power of "
		    "two "
		    "between the others",
		    min, avg, max);
	bits = (unsigned)__builtin_ctz(avg);
	c = secret_alloc(sizeof(*c));
	if (!c)
		return err_nomem();
	c->min = min;
	c->avg = avg;
	c->max = max;
	c->mask_small = spread_mask(bits + LEVEL);
	c->mask_large = spread_mask(bits - LEVEL);
	rc = fill_gear(c, key);
	if (rc) {
		chunker_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void
chunker_free(struct chunker *c)
{
	secret_free(c);
}

uint32_t
chunker_max(const struct chunker *c)
{
	return c->max;
}

size_t
chunker_cut(const struct chunker *c, const uint8_t *data, size_t len)
{
	size_t end = len < c->max ? len : c->max;
	size_t normal = end < c->avg ? end : c->avg;
	uint64_t hash = 0;
	size_t i = c->min;

	if (end <= c->min)
		return end;
	for (; i < normal; i++) {
		hash = (hash << 1) + c->gear[data[i]];
		if ((hash & c->mask_small) == 0)
			return i + 1;
	}
	for (; i < end; i++) {
		hash = (hash << 1) + c->gear[data[i]];
		if ((hash & c->mask_large) == 0)
			return i + 1;
	}
	return end;
}
