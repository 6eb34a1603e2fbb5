#include "tools/owner.h"

#include "store/base/err.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 255
#define BUFFER_BYTES   16384

static bool
number(const char *text, unsigned long *out)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*out = strtoul(text, &end, 10);
	/* -1 means "leave it" to chown(2). */
	return !*end && !errno && *out < 0xffffffff;
}

static int
find_user(const char *name, uid_t *uid, gid_t *gid)
{
	char buffer[BUFFER_BYTES];
	struct passwd pw, *found = NULL;
	unsigned long n;

	if (number(name, &n)) {
		*uid = (uid_t)n;
		*gid = (gid_t)n;
		if (getpwuid_r(*uid, &pw, buffer, sizeof(buffer), &found) == 0 && found)
			*gid = pw.pw_gid;
		return 0;
	}
	if (getpwnam_r(name, &pw, buffer, sizeof(buffer), &found) || !found)
		return err_set(ERR_NOTFOUND, "there is no user \"%s\" here", name);
	*uid = pw.pw_uid;
	*gid = pw.pw_gid;
	return 0;
}

static int
find_group(const char *name, gid_t *gid)
{
	char buffer[BUFFER_BYTES];
	struct group gr, *found = NULL;
	unsigned long n;

	if (number(name, &n)) {
		*gid = (gid_t)n;
		return 0;
	}
	if (getgrnam_r(name, &gr, buffer, sizeof(buffer), &found) || !found)
		return err_set(ERR_NOTFOUND, "there is no group \"%s\" here", name);
	*gid = gr.gr_gid;
	return 0;
}

int
owner_parse(const char *text, uid_t *uid, gid_t *gid)
{
	size_t n = strcspn(text, ":");
	char user[NAME_MAX_BYTES + 1];
	int rc;

	if (n == 0 || n > NAME_MAX_BYTES || (text[n] && !text[n + 1]))
		return err_set(ERR_USAGE, "--owner \"%s\" is not of the form USER[:GROUP]", text);
	memcpy(user, text, n);
	user[n] = '\0';
	rc = find_user(user, uid, gid);
	if (!rc && text[n])
		rc = find_group(text + n + 1, gid);
	return rc;
}

bool
owner_user(const char *name, uid_t *uid)
{
	char buffer[BUFFER_BYTES];
	struct passwd pw, *found = NULL;

	if (getpwnam_r(name, &pw, buffer, sizeof(buffer), &found) || !found)
		return false;
	*uid = pw.pw_uid;
	return true;
}

bool
owner_known(uid_t uid)
{
	char buffer[BUFFER_BYTES];
	struct passwd pw, *found = NULL;

	return getpwuid_r(uid, &pw, buffer, sizeof(buffer), &found) == 0 && found;
}
