/*
 * owner: "USER[:GROUP]" as names or numbers.
 */
#ifndef TOOLS_OWNER_H
#define TOOLS_OWNER_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Without a group, the user's own (for a number that no user has, the same number).  Errors:
 * ERR_USAGE (malformed), ERR_NOTFOUND (no such user or group).
 */
int owner_parse(const char *text, uid_t *uid, gid_t *gid);

/* The number of a user of this host; false if there is no such user. */
bool owner_user(const char *name, uid_t *uid);
/* Whether a user of this host has the number. */
bool owner_known(uid_t uid);

#endif
