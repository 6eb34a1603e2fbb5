/*
 * open_repo: what most verbs begin with: the settings, and the repository opened in a role.
 */
#ifndef TOOLS_OPEN_REPO_H
#define TOOLS_OPEN_REPO_H

struct args;
struct config;
struct repo_admin;
struct repo_reader;

/*
 * Open the repository that the command line, the environment or the configuration names.  The role
 * is the caller's to close; the secret is wiped before the return.  Errors: config_load()'s,
 * config_repo_opts()'s, the role's.
 */
int open_repo_reader(const struct args *a, struct repo_reader **r);
int open_repo_admin(const struct args *a, struct repo_admin **admin);

#endif
