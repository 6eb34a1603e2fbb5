/*
 * owner: "USER[:GROUP]" as names or numbers.
 */
#ifndef TOOLS_OWNER_H
#define TOOLS_OWNER_H

#include <sys/types.h>

/*
 * Without a group, the user's own (for a number that no user has, the same number).  Errors:
 * ERR_USAGE (malformed), ERR_NOTFOUND (no such user or group).
 */
int owner_parse(const char *text, uid_t *uid, gid_t *gid);

#endif
