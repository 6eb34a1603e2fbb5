/* From words to a verb, and the help of every verb there is. */
#include "store/base/err.h"
#include "tools/cmd.h"
#include "tools/verb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct verb *const verbs[] = { &cmd_init, &cmd_source_add, &cmd_source_list,
	&cmd_source_show, &cmd_source_remove, &cmd_source_unlock, &cmd_backup, &cmd_snapshots,
	&cmd_ls, &cmd_mount, &cmd_umount, &cmd_restore, &cmd_check, &cmd_stats, &cmd_index_rebuild,
	&cmd_key_list, &cmd_key_add, &cmd_key_remove, &cmd_key_change, &cmd_key_generate,
	&cmd_version, &cmd_help, NULL };

static int
find(const char *first, const char *second, const struct verb **v, int *used)
{
	char *argv[2] = { (char *)(uintptr_t)first, (char *)(uintptr_t)second };

	return verb_find(verbs, second ? 2 : 1, argv, v, used);
}

static void
test_find(void **state)
{
	const struct verb *v;
	int used;

	(void)state;
	assert_int_equal(find("backup", "main", &v, &used), 0);
	assert_ptr_equal(v, &cmd_backup);
	assert_int_equal(used, 1);
	assert_int_equal(find("source", "list", &v, &used), 0);
	assert_ptr_equal(v, &cmd_source_list);
	assert_int_equal(used, 2);
}

static void
expect_advice(const char *first, const char *second, const char *words)
{
	const struct verb *v;
	int used;

	assert_int_equal(find(first, second, &v, &used), ERR_USAGE);
	assert_null(v);
	assert_non_null(strstr(err_msg(), words));
}

static void
test_advice(void **state)
{
	(void)state;
	expect_advice("bakcup", NULL, "did you mean \"backup\"");
	expect_advice("snapshot", NULL, "did you mean \"snapshots\"");
	expect_advice("unmount", NULL, "did you mean \"umount\"");
	expect_advice("frobnicate-everything-that-there-is-to-frobnicate", NULL, "unknown verb");
	expect_advice("source", NULL, "add, list, show, remove, unlock");
	expect_advice("source", "ad", "\"source ad\"");
	expect_advice("key", "--json", "key needs one of");
	expect_advice("--repo", "x", "before the verb");
	expect_advice("", NULL, "unknown verb");
}

/* Each verb has a help with its name, parses --help, and no option or letter twice. */
static void
test_tables(void **state)
{
	(void)state;
	for (size_t i = 0; verbs[i]; i++) {
		char help[] = "--help", *argv[1] = { help }, *text = NULL, *found;
		unsigned letters[128] = { 0 };
		struct args *a;
		size_t len = 0;
		FILE *f = open_memstream(&text, &len);

		assert_int_equal(args_parse(&a, verbs[i], 1, argv), 0);
		assert_true(args_wants_help(a));
		args_free(a);
		args_help(verbs[i], f);
		fclose(f);
		assert_non_null(strstr(text, verbs[i]->name));
		found = text;
		while ((found = strstr(found, "\n  -"))) {
			unsigned char letter = (unsigned char)found[4];

			if (letter != '-')
				assert_int_equal(letters[letter % 128]++, 0);
			found++;
		}
		assert_true(verbs[i]->min_operands <= verbs[i]->max_operands);
		assert_true(!verbs[i]->max_operands == !verbs[i]->operands);
		free(text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_advice),
		cmocka_unit_test(test_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
