#include "fs/notice.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct notices {
	pthread_mutex_t lock; /* protects the ring */
	uint64_t seen[NOTICE_MAX];
	size_t next;
	size_t count;
};

int
notices_new(struct notices **out)
{
	*out = mem_alloc(sizeof(**out));
	if (!*out)
		return err_nomem();
	pthread_mutex_init(&(*out)->lock, NULL);
	return 0;
}

void
notices_free(struct notices *n)
{
	if (!n)
		return;
	pthread_mutex_destroy(&n->lock);
	free(n);
}

/* FNV-1a: two texts that collide cost one line of a log. */
static uint64_t
hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *s; s++)
		h = (h ^ (uint8_t)*s) * 0x100000001b3u;
	return h;
}

static bool
remember(struct notices *n, uint64_t hash)
{
	bool fresh = true;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->count && fresh; i++)
		fresh = n->seen[i] != hash;
	if (fresh) {
		n->seen[n->next] = hash;
		n->next = (n->next + 1) % NOTICE_MAX;
		if (n->count < NOTICE_MAX)
			n->count++;
	}
	pthread_mutex_unlock(&n->lock);
	return fresh;
}

bool
notice_once(struct notices *n, const char *key, const char *fmt, ...)
{
	char text[2 * ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!remember(n, hash_text(key ? key : text)))
		return false;
	fprintf(stderr, "pastfs: %s\n", text);
	return true;
}
