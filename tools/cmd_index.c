#include "store/base/json.h"
#include "store/base/progress.h"
#include "store/index.h"
#include "store/repo.h"
#include "tools/cmd.h"
#include "tools/open_repo.h"
#include "tools/output.h"
#include "tools/progress_bar.h"

#include <stdio.h>

static int
report(const struct args *a, const struct index_totals *t)
{
	struct json *j;

	if (!args_given(a, "json")) {
		printf("index rebuilt: %llu chunks in %llu packs\n", (unsigned long long)t->chunks,
		    (unsigned long long)t->packs);
		return 0;
	}
	j = json_new_object();
	json_set_uint(j, "chunks", t->chunks);
	json_set_uint(j, "packs", t->packs);
	return output_json(j);
}

static int
run(const struct args *a)
{
	struct progress progress = { 0 };
	struct progress_bar *bar = NULL;
	struct index_totals totals;
	struct repo_reader *r;
	int rc = open_repo_reader(a, &r);

	if (rc)
		return rc;
	rc = progress_bar_start(&bar, &progress, args_given(a, "quiet"));
	if (!rc)
		rc = repo_reader_rebuild_index(r, &progress);
	progress_bar_stop(bar);
	if (!rc)
		rc = index_totals(repo_reader_index(r), &totals);
	if (!rc)
		rc = report(a, &totals);
	repo_reader_close(r);
	return rc;
}

const struct verb cmd_index_rebuild = {
	.name = "index rebuild",
	.summary = "build this machine's index of the repository anew",
	.about =
	    "The index tells where each chunk is. It lies in the cache directory, belongs to this "
	    "machine, and holds nothing that is not in the repository. It is built by itself "
	    "when it is absent or belongs to another repository.",
	.groups = ARGS_OPEN | ARGS_JSON | ARGS_PROGRESS,
	.examples = "pastfs index rebuild --quiet",
	.run = run,
};
