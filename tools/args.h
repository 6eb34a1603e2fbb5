/*
 * args: a verb of the command line, its options and operands, and the help made from them.
 *
 * One table says everything about a verb: it is parsed by it and explained by it, so the help
 * cannot tell something else than the program does.
 */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct args;

/* An option; a table ends with one whose name is NULL. */
struct args_option {
	const char *name;  /* the long name, without dashes */
	char letter;       /* the short one, or 0 */
	const char *value; /* what the help calls its argument; NULL: it takes none */
	const char *help;  /* half a sentence */
};

/* Groups of options that many verbs share; their meaning is the same everywhere. */
enum args_group {
	ARGS_REPO = 1 << 0,     /* --repo, --cache-dir */
	ARGS_KEY = 1 << 1,      /* --passphrase-file, --key-file */
	ARGS_JSON = 1 << 2,     /* --json */
	ARGS_PROGRESS = 1 << 3, /* --quiet */
	ARGS_OPEN = ARGS_REPO | ARGS_KEY,
};

struct verb {
	const char *name;     /* one word or two: "backup", "source add" */
	const char *operands; /* as in "NAME [DIR]"; NULL: none */
	const char *summary;  /* half a sentence, for the list of verbs */
	const char *about;    /* sentences, one paragraph a line; NULL: the summary says it all */
	const struct args_option *options; /* NULL: none of its own */
	unsigned groups;                   /* enum args_group */
	int min_operands, max_operands;
	const char *examples; /* one a line, without a prompt; NULL: none */
	/* Returns 0 or a negative enum err with a message recorded, which the caller prints. */
	int (*run)(const struct args *a);
};

/*
 * Parse what follows the verb's name.  Options and operands may be mixed; "--" ends the options.
 * An option given twice counts as given last.  The strings of `argv` are borrowed.  Errors:
 * ERR_USAGE, ERR_NOMEM.
 */
int args_parse(struct args **out, const struct verb *verb, int argc, char **argv);
void args_free(struct args *a);

/* --help or -h was given; nothing else was looked at then. */
bool args_wants_help(const struct args *a);

/* The verb must know the option by its long name (or have its group). */
bool args_given(const struct args *a, const char *name);
/* The option's argument, or NULL. */
const char *args_value(const struct args *a, const char *name);
/*
 * The option's argument as a whole number from `min` to `max`; `fallback` if it is not given.
 * Errors: ERR_USAGE.
 */
int args_number(
    const struct args *a, const char *name, long min, long max, long fallback, long *out);

/* Operand `i`, or NULL if there are fewer. */
const char *args_operand(const struct args *a, int i);
int args_operands(const struct args *a);

/* Usage, what it does, options, examples. */
void args_help(const struct verb *verb, FILE *to);

#endif
