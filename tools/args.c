#include "tools/args.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS_MAX 48
#define HELP_COLUMN 30
#define HELP_WIDTH  96

static const struct args_option help_option[] = {
	{ "help", 'h', NULL, "show this help" },
	{ NULL, 0, NULL, NULL },
};

static const struct args_option json_options[] = {
	{ "json", 0, NULL, "print JSON on standard output" },
	{ NULL, 0, NULL, NULL },
};

static const struct args_option progress_options[] = {
	{ "quiet", 'q', NULL, "show no progress" },
	{ NULL, 0, NULL, NULL },
};

static const struct args_option repo_options[] = {
	{ "repo", 'r', "URL", "the repository; else PASTFS_REPO or the configuration file" },
	{ "cache-dir", 0, "DIR", "where this machine keeps its index of the repository" },
	{ NULL, 0, NULL, NULL },
};

static const struct args_option key_options[] = {
	{ "passphrase-file", 'p', "FILE", "read the passphrase from FILE" },
	{ "key-file", 'k', "FILE", "open the repository with the key in FILE" },
	{ NULL, 0, NULL, NULL },
};

/* In the order in which the help shows them, behind the verb's own. */
static const struct {
	unsigned group; /* 0: every verb */
	const struct args_option *options;
} groups[] = {
	{ ARGS_JSON, json_options },
	{ ARGS_PROGRESS, progress_options },
	{ ARGS_REPO, repo_options },
	{ ARGS_KEY, key_options },
	{ 0, help_option },
};

#define NGROUPS (sizeof(groups) / sizeof(groups[0]))

struct args {
	const struct verb *verb;
	size_t noptions;
	struct {
		const struct args_option *option;
		bool given;
		const char *value;
	} options[OPTIONS_MAX];
	int noperands;
	const char **operands;
};

static void
collect(struct args *a, const struct args_option *o)
{
	for (; o && o->name; o++) {
		assert(a->noptions < OPTIONS_MAX);
		a->options[a->noptions++].option = o;
	}
}

static void
collect_all(struct args *a, const struct verb *verb)
{
	a->verb = verb;
	collect(a, verb->options);
	for (size_t i = 0; i < NGROUPS; i++)
		if (!groups[i].group || (verb->groups & groups[i].group))
			collect(a, groups[i].options);
}

/* The two tables that getopt_long() wants, from ours.  A long option's value is its place + 256. */
static void
getopt_tables(const struct args *a, char *letters, struct option *longs)
{
	char *l = letters;

	*l++ = ':';
	for (size_t i = 0; i < a->noptions; i++) {
		const struct args_option *o = a->options[i].option;

		longs[i] = (struct option){ o->name, o->value ? required_argument : no_argument,
			NULL, 256 + (int)i };
		if (!o->letter)
			continue;
		*l++ = o->letter;
		if (o->value)
			*l++ = ':';
	}
	*l = '\0';
	longs[a->noptions] = (struct option){ NULL, 0, NULL, 0 };
}

static int
option_at(const struct args *a, int c)
{
	if (c >= 256)
		return c - 256;
	for (size_t i = 0; i < a->noptions; i++)
		if (a->options[i].option->letter == c)
			return (int)i;
	return -1;
}

/* What getopt_long() stumbled over, in words. */
static int
option_error(int c, char **argv)
{
	const char *word = argv[optind - 1];

	if (c == ':')
		return err_set(ERR_USAGE, "option %s needs a value", word);
	if (optopt >= 256)
		return err_set(
		    ERR_USAGE, "option %.*s takes no value", (int)strcspn(word, "="), word);
	if (optopt)
		return err_set(ERR_USAGE, "unknown option -%c", optopt);
	return err_set(ERR_USAGE, "unknown option %s", word);
}

static int
parse_options(struct args *a, int argc, char **argv)
{
	char letters[3 * OPTIONS_MAX + 2];
	struct option longs[OPTIONS_MAX + 1];
	int c;

	getopt_tables(a, letters, longs);
	optind = 0; /* start anew: also what getopt keeps between calls */
	opterr = 0;
	while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		int i;

		if (c == '?' || c == ':')
			return option_error(c, argv);
		i = option_at(a, c);
		a->options[i].given = true;
		a->options[i].value = optarg;
	}
	return 0;
}

static int
check_operands(const struct args *a)
{
	const struct verb *v = a->verb;

	if (a->noperands > v->max_operands)
		return err_set(ERR_USAGE, "%s: too many operands, beginning with \"%s\"", v->name,
		    a->operands[v->max_operands]);
	if (a->noperands < v->min_operands)
		return err_set(ERR_USAGE, "%s needs %s", v->name, v->operands);
	return 0;
}

int
args_parse(struct args **out, const struct verb *verb, int argc, char **argv)
{
	struct args *a = mem_alloc(sizeof(*a));
	char **copy = mem_calloc((size_t)argc + 2, sizeof(*copy));
	int rc = 0;

	*out = NULL;
	if (!a || !copy) {
		rc = err_nomem();
		goto out;
	}
	collect_all(a, verb);

	/* getopt_long() sorts the words, begins behind the first and wants a NULL at the end. */
	copy[0] = (char *)(uintptr_t)verb->name;
	if (argc)
		memcpy(copy + 1, argv, (size_t)argc * sizeof(*copy));
	rc = parse_options(a, argc + 1, copy);
	if (rc && !args_wants_help(a))
		goto out;
	a->noperands = argc + 1 - optind;
	a->operands = mem_calloc((size_t)a->noperands + 1, sizeof(*a->operands));
	if (!a->operands) {
		rc = err_nomem();
		goto out;
	}
	for (int i = 0; i < a->noperands; i++)
		a->operands[i] = copy[optind + i];
	rc = args_wants_help(a) ? 0 : check_operands(a);
	if (rc)
		goto out;
	*out = a;
	a = NULL;
out:
	args_free(a);
	free(copy);
	return rc;
}

void
args_free(struct args *a)
{
	if (!a)
		return;
	free(a->operands);
	free(a);
}

static size_t
option_named(const struct args *a, const char *name)
{
	size_t i = 0;

	while (i < a->noptions && strcmp(a->options[i].option->name, name) != 0)
		i++;
	assert(i < a->noptions); /* a verb asks only for options of its table */
	return i;
}

bool
args_wants_help(const struct args *a)
{
	return args_given(a, "help");
}

bool
args_given(const struct args *a, const char *name)
{
	return a->options[option_named(a, name)].given;
}

const char *
args_value(const struct args *a, const char *name)
{
	return a->options[option_named(a, name)].value;
}

int
args_number(const struct args *a, const char *name, long min, long max, long fallback, long *out)
{
	const char *text = args_value(a, name);
	char *end;
	long v;

	*out = fallback;
	if (!text)
		return 0;
	errno = 0;
	v = strtol(text, &end, 10);
	if (end == text || *end || errno || v < min || v > max)
		return err_set(ERR_USAGE, "--%s %s: a whole number from %ld to %ld is needed", name,
		    text, min, max);
	*out = v;
	return 0;
}

const char *
args_operand(const struct args *a, int i)
{
	return i < a->noperands ? a->operands[i] : NULL;
}

int
args_operands(const struct args *a)
{
	return a->noperands;
}

/* Print words up to a newline or the end, broken into lines; gives what is behind. */
static const char *
print_wrapped(const char *text, int indent, int column, FILE *to)
{
	while (*text && *text != '\n') {
		size_t word = strcspn(text, " \n");

		if (column > indent && column + 1 + (int)word > HELP_WIDTH) {
			fprintf(to, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			fputc(' ', to);
			column++;
		}
		fwrite(text, 1, word, to);
		column += (int)word;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', to);
	return *text ? text + 1 : text;
}

static void
help_options(const struct args_option *o, FILE *to)
{
	for (; o && o->name; o++) {
		char left[64];
		int n;

		n = snprintf(left, sizeof(left), "  %c%c%c --%s%s%s", o->letter ? '-' : ' ',
		    o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
		    o->value ? " " : "", o->value ? o->value : "");
		fputs(left, to);
		if (n > HELP_COLUMN - 2) {
			fputc('\n', to);
			n = 0;
		}
		fprintf(to, "%*s", HELP_COLUMN - n, "");
		print_wrapped(o->help, HELP_COLUMN, HELP_COLUMN, to);
	}
}

void
args_help(const struct verb *v, FILE *to)
{
	fprintf(to, "usage: pastfs %s [OPTION...]%s%s\n\n", v->name, v->operands ? " " : "",
	    v->operands ? v->operands : "");
	for (const char *p = v->about ? v->about : v->summary; *p;)
		p = print_wrapped(p, 0, 0, to);
	fputs("\noptions:\n", to);
	help_options(v->options, to);
	for (size_t i = 0; i < NGROUPS; i++)
		if (!groups[i].group || (v->groups & groups[i].group))
			help_options(groups[i].options, to);
	if (!v->examples)
		return;
	fputs("\nexamples:\n", to);
	for (const char *p = v->examples; *p;) {
		size_t n = strcspn(p, "\n");

		fprintf(to, "  %.*s\n", (int)n, p);
		p += n + (p[n] == '\n');
	}
}
