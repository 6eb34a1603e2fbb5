#include "tools/verb.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/secret.h"
#include "tools/output.h"

#include <locale.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define WORD_MAX    40
#define PATIENCE    3 /* so many signals end the process at once */
#define MESSAGE_MAX (ERR_MSG_MAX - 64)

static const struct verb *const *table;

const struct verb *const *
verb_table(void)
{
	return table;
}

/* ---- finding ---- */

static size_t
first_word(const char *name)
{
	return strcspn(name, " ");
}

static bool
begins_with_word(const struct verb *v, const char *word)
{
	size_t n = first_word(v->name);

	return n == strlen(word) && strncmp(v->name, word, n) == 0;
}

/* How many letters have to be changed, added, removed or swapped with their neighbour. */
static unsigned
distance(const char *a, const char *b)
{
	unsigned rows[3][WORD_MAX + 1];
	unsigned *before = rows[0], *last = rows[1], *now = rows[2];
	size_t na = strlen(a), nb = strlen(b);

	if (na > WORD_MAX || nb > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= nb; j++)
		last[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned *free_row = before;

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned d = last[j - 1] + (a[i - 1] != b[j - 1]);

			d = now[j - 1] + 1 < d ? now[j - 1] + 1 : d;
			d = last[j] + 1 < d ? last[j] + 1 : d;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    before[j - 2] + 1 < d)
				d = before[j - 2] + 1;
			now[j] = d;
		}
		before = last;
		last = now;
		now = free_row;
	}
	return last[nb];
}

static int
unknown_verb(const struct verb *const *verbs, const char *word)
{
	const char *nearest = NULL;
	unsigned best = 3; /* further away is no guess but noise */
	size_t n = 0;

	if (*word == '-')
		return err_set(ERR_USAGE, "%s stands before the verb; options follow it", word);
	for (; *verbs; verbs++) {
		char name[WORD_MAX + 1];
		unsigned d;

		snprintf(
		    name, sizeof(name), "%.*s", (int)first_word((*verbs)->name), (*verbs)->name);
		d = distance(word, name);
		if (d < best) {
			best = d;
			nearest = (*verbs)->name;
			n = first_word(nearest);
		}
	}
	if (nearest)
		return err_set(ERR_USAGE, "unknown verb \"%s\"; did you mean \"%.*s\"?", word,
		    (int)n, nearest);
	return err_set(ERR_USAGE, "unknown verb \"%s\"", word);
}

/* "source needs one of add, list, …" */
static int
incomplete_verb(const struct verb *const *verbs, const char *word, const char *second)
{
	char list[256] = "";

	for (; *verbs; verbs++) {
		size_t used = strlen(list);

		if (begins_with_word(*verbs, word))
			snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
			    (*verbs)->name + strlen(word) + 1);
	}
	if (second)
		return err_set(
		    ERR_USAGE, "unknown verb \"%s %s\"; there are: %s", word, second, list);
	return err_set(ERR_USAGE, "%s needs one of: %s", word, list);
}

int
verb_find(
    const struct verb *const *verbs, int argc, char **argv, const struct verb **verb, int *used)
{
	bool family = false;

	*verb = NULL;
	for (const struct verb *const *p = verbs; *p; p++) {
		const char *second = (*p)->name + first_word((*p)->name);

		if (!begins_with_word(*p, argv[0]))
			continue;
		family = true;
		if (*second && (argc < 2 || strcmp(second + 1, argv[1]) != 0))
			continue;
		*verb = *p;
		*used = *second ? 2 : 1;
		return 0;
	}
	if (!family)
		return unknown_verb(verbs, argv[0]);
	return incomplete_verb(verbs, argv[0], argc > 1 && argv[1][0] != '-' ? argv[1] : NULL);
}

void
verb_list(const struct verb *const *verbs, FILE *to)
{
	fputs("usage: pastfs VERB [OPTION...] [OPERAND...]\n\n"
	      "pastfs keeps a PostgreSQL cluster's past as directories: encrypted, deduplicated,\n"
	      "mounted read-only.\n\n",
	    to);
	for (; *verbs; verbs++)
		fprintf(to, "  %-16s%s\n", (*verbs)->name, (*verbs)->summary);
	fputs("\n`pastfs help VERB` or `pastfs VERB --help` explains one; pastfs(1) has "
	      "everything.\n",
	    to);
}

/* ---- the process ---- */

static void
on_signal(int sig)
{
	static atomic_int seen;

	cancel_request();
	if (atomic_fetch_add(&seen, 1) + 1 < PATIENCE)
		return;
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Interruptions become a wish to stop; system calls are woken by them, not restarted. */
static void
catch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal }, old;

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		/* What nohup(1) or a shell's background job ignores stays ignored. */
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &sa, NULL);
	}

	/* A reader that went away is an error of the write, not the end of a backup. */
	signal(SIGPIPE, SIG_IGN);
}

/* Keys are in this process: no core file, and no look into it by other processes of the user. */
static void
forbid_dumps(void)
{
	static const struct rlimit none;

	setrlimit(RLIMIT_CORE, &none);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

static int
fail(int rc, const struct verb *verb)
{
	if (rc == ERR_USAGE)
		fprintf(stderr, "pastfs: %.*s (see: pastfs %s%s--help)\n", MESSAGE_MAX, err_msg(),
		    verb ? verb->name : "", verb ? " " : "");
	else
		fprintf(stderr, "pastfs: %s\n", err_msg());
	return err_exit_status(rc);
}

static int
run_verb(const struct verb *verb, int argc, char **argv)
{
	struct args *a = NULL;
	int rc = args_parse(&a, verb, argc, argv);

	if (!rc && args_wants_help(a))
		args_help(verb, stdout);
	else if (!rc)
		rc = verb->run(a);
	args_free(a);
	return rc;
}

int
verb_main(const struct verb *const *verbs, int argc, char **argv)
{
	static char help[] = "help", version[] = "version";
	const struct verb *verb = NULL;
	int used = 0, rc, flushed;

	table = verbs;
	setlocale(LC_CTYPE, "");
	forbid_dumps();
	catch_signals();
	if (argc < 2) {
		verb_list(verbs, stderr);
		return err_exit_status(ERR_USAGE);
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		argv[1] = help;
	else if (strcmp(argv[1], "--version") == 0)
		argv[1] = version;

	rc = secret_init();
	if (!rc)
		rc = verb_find(verbs, argc - 1, argv + 1, &verb, &used);
	if (!rc && verb)
		rc = run_verb(verb, argc - 1 - used, argv + 1 + used);
	if (rc)
		fflush(stdout);
	flushed = rc ? 0 : output_flush();
	return rc || flushed ? fail(rc ? rc : flushed, verb) : 0;
}
