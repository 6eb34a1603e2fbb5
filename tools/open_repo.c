#include "tools/open_repo.h"

#include "tools/config.h"

#include <stddef.h>

int
open_repo_reader(const struct args *a, struct repo_reader **r)
{
	struct config *c;
	struct repo_opts opts;
	int rc;

	*r = NULL;
	rc = config_load(&c, a, NULL);
	if (rc)
		return rc;
	rc = config_repo_opts(c, CONFIG_ASK, &opts);
	if (!rc)
		rc = repo_reader_open(r, &opts);
	config_free(c);
	return rc;
}

int
open_repo_admin(const struct args *a, struct repo_admin **admin)
{
	struct config *c;
	struct repo_opts opts;
	int rc;

	*admin = NULL;
	rc = config_load(&c, a, NULL);
	if (rc)
		return rc;
	rc = config_repo_opts(c, CONFIG_ASK, &opts);
	if (!rc)
		rc = repo_admin_open(admin, &opts);
	config_free(c);
	return rc;
}
