/*
 * A configuration file: whatever it holds, once rewritten nothing in it ties to the original, and
 * rewriting again changes nothing.
 */
#include "pgsync/pgconf.h"
#include "store/base/bytes.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *
move(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	return s->value[0] == '/' ? "pastfs_config/it's" : NULL;
}

static int
look(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	if (strlen(s->name) > PGCONF_NAME_MAX || strlen(s->value) > PGCONF_VALUE_MAX)
		abort();
	return 0;
}

static int
tied(void *ctx, const struct pgconf_statement *s)
{
	(void)ctx;
	return pgconf_ties(s);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct pgconf_rewrite how = { .include = move };
	struct bytes once, twice;
	bool changed;

	bytes_init(&once);
	bytes_init(&twice);
	pgconf_each((const char *)data, len, look, NULL);
	if (pgconf_rewrite(&once, (const char *)data, len, &how, &changed) == 0) {
		if (!changed && (once.len != len || (len && memcmp(once.data, data, len))))
			abort();
		if (once.len && pgconf_each((const char *)once.data, once.len, tied, NULL))
			abort();
		if (once.len &&
		    (pgconf_rewrite(&twice, (const char *)once.data, once.len, &how, &changed) ||
			changed))
			abort();
	}
	bytes_release(&once);
	bytes_release(&twice);
	return 0;
}
