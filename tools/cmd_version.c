#include "store/base/json.h"
#include "store/repo_header.h"
#include "tools/cmd.h"
#include "tools/output.h"

#include <stdio.h>

static int
run(const struct args *a)
{
	struct json *j;

	if (!args_given(a, "json")) {
		printf("pastfs %s (repository format %d)\n", PASTFS_VERSION, REPO_FORMAT_VERSION);
		return 0;
	}
	j = json_new_object();
	json_set_str(j, "version", PASTFS_VERSION);
	json_set_int(j, "repository_format", REPO_FORMAT_VERSION);
	return output_json(j);
}

const struct verb cmd_version = {
	.name = "version",
	.summary = "print the version of pastfs and of the format it writes",
	.groups = ARGS_JSON,
	.run = run,
};
