/*
 * config: which repository, and what opens it.
 *
 * Each setting is taken from the first place that has it: the command line, the environment, the
 * user's configuration file, the system's.  What opens the repository (passphrase, passphrase
 * file, key file) is one setting: a place that names one hides the others.
 *
 * A configuration file has lines "name = value" and comments behind '#'; the names are repo,
 * passphrase-file, key-file, cache-dir and compression.
 *
 * Secrets are kept in locked memory only and wiped by config_free().
 */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include "store/repo.h"

struct args;
struct config;

/* Where to look; a zero value is what the program uses. */
struct config_places {
	const char *system_file; /* NULL = /etc/pastfs/pastfs.conf */
	const char *user_file;   /* NULL = ~/.config/pastfs/pastfs.conf */
	/* Told of things that are not errors: a file that others can read. NULL: standard error. */
	void (*warn)(void *ctx, const char *message);
	void *ctx;
};

/*
 * Read the settings.  `a` is borrowed until config_free().  The passphrase is not read yet, except
 * that PASTFS_PASSPHRASE is taken over, overwritten and removed from the environment.  Errors:
 * ERR_USAGE (a malformed file, with its name and line), ERR_IO, ERR_DENIED, ERR_NOMEM.
 */
int config_load(struct config **out, const struct args *a, const struct config_places *places);
void config_free(struct config *c);

/* Use this repository, whatever the places say.  Errors: ERR_NOMEM. */
int config_set_repo(struct config *c, const char *url);
/* The repository's url.  Errors: ERR_USAGE (none is given; the message tells the ways). */
int config_repo(const struct config *c, const char **url);
/* zstd's level by the configuration file; 0 if it says nothing. */
int config_compression(const struct config *c);
const char *config_cache_dir(const struct config *c);

enum config_ask {
	CONFIG_ASK = 0,   /* on the terminal if nothing is given */
	CONFIG_ASK_TWICE, /* and once more, to be sure: for a new one */
};

/*
 * What opens the repository: read at the first call, then the same again; borrowed until
 * config_free().  Errors: ERR_USAGE (nothing is given and there is no terminal; an empty or too
 * long passphrase; both given twice differ), ERR_NOTFOUND, ERR_DENIED, ERR_IO, ERR_CANCELLED.
 */
int config_credential(struct config *c, enum config_ask ask, const struct credential **cred);

/* Everything to open the repository by; borrows from `c`.  Errors: as above. */
int config_repo_opts(struct config *c, enum config_ask ask, struct repo_opts *opts);

#endif
