/*
 * One chunk of a directory.
 */
#include "store/base/bytes.h"
#include "store/tree.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* An entry that was accepted is written and read again to the same. */
static void
round_trip(const struct tree_entry *e)
{
	struct bytes first, second;
	struct tree_entry back;
	struct cursor c;

	bytes_init(&first);
	bytes_init(&second);
	if (tree_entry_encode(&first, e))
		goto out;
	cursor_init(&c, first.data, first.len);
	if (tree_entry_decode(&back, &c))
		abort();
	if (cursor_left(&c) != 0 || strcmp(back.name, e->name) != 0 || back.type != e->type)
		abort();
	if (tree_entry_encode(&second, &back) == 0 &&
	    (first.len != second.len || memcmp(first.data, second.data, first.len) != 0))
		abort();
	tree_entry_release(&back);
out:
	bytes_release(&first);
	bytes_release(&second);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct tree_dir *d;
	int rc;

	if (tree_dir_new(&d))
		return 0;
	rc = tree_dir_decode(d, data, len);
	for (size_t i = 0; rc == 0 && i < tree_dir_count(d); i++) {
		const struct tree_entry *e = tree_dir_at(d, i);

		if (e->name[0] == '\0' || strchr(e->name, '/') || strcmp(e->name, "..") == 0 ||
		    tree_dir_find(d, e->name) != e)
			abort();
		round_trip(e);
	}
	tree_dir_close(d);
	return 0;
}
