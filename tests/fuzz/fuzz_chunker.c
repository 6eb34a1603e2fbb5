/*
 * Chunks of any content under any key: none is empty or too long, all but the last are longer than
 * the minimum, and what lies behind a chunk's largest extent does not count.
 *
 * Input: the key's 32 bytes, then content.
 */
#include "store/chunker.h"
#include "store/secret.h"

#include <stdlib.h>

#define MIN 64
#define AVG 256
#define MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct chunker *c;

	if (len < 32)
		return 0;
	if (secret_init() || chunker_new(&c, data, MIN, AVG, MAX))
		abort();
	data += 32;
	len -= 32;
	while (len > 0) {
		size_t n = chunker_cut(c, data, len);

		if (n == 0 || n > len || n > MAX || (n < len && n <= MIN))
			abort();
		if (len > MAX && chunker_cut(c, data, MAX) != n)
			abort();
		data += n;
		len -= n;
	}
	chunker_free(c);
	return 0;
}
