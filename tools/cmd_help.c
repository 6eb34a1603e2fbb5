#include "store/base/err.h"
#include "tools/cmd.h"
#include "tools/verb.h"

#include <stdio.h>

#define WORDS_MAX 2

static int
run(const struct args *a)
{
	const struct verb *verb;
	char *words[WORDS_MAX];
	int n = args_operands(a), used, rc;

	if (n == 0) {
		verb_list(verb_table(), stdout);
		return 0;
	}
	for (int i = 0; i < n; i++)
		words[i] = (char *)(uintptr_t)args_operand(a, i);
	rc = verb_find(verb_table(), n, words, &verb, &used);
	if (rc)
		return rc;
	if (n > used)
		return err_set(ERR_USAGE, "there is no verb \"%s %s\"", words[0], words[1]);
	args_help(verb, stdout);
	return 0;
}

const struct verb cmd_help = {
	.name = "help",
	.operands = "[VERB]",
	.summary = "list the verbs, or explain one",
	.max_operands = WORDS_MAX,
	.examples = "pastfs help backup\npastfs help source add",
	.run = run,
};
