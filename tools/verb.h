/*
 * verb: from the words of the command line to the function that does it, and back to an exit
 * status.  The boundary where errors are printed.
 */
#ifndef TOOLS_VERB_H
#define TOOLS_VERB_H

#include "tools/args.h"

/*
 * Run the program over a table of verbs that ends with NULL.  Returns the exit status that is
 * documented in pastfs(1).
 */
int verb_main(const struct verb *const *verbs, int argc, char **argv);

/* The table that verb_main() was given. */
const struct verb *const *verb_table(void);

/* Print the list of verbs. */
void verb_list(const struct verb *const *verbs, FILE *to);

/*
 * Find the verb that the first words name; *used is set to their number.  Errors: ERR_USAGE, with
 * the nearest verb or the verbs that begin with the first word.
 */
int verb_find(
    const struct verb *const *verbs, int argc, char **argv, const struct verb **verb, int *used);

#endif
