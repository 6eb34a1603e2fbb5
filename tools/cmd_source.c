#include "pgsync/pgconn.h"
#include "store/base/err.h"
#include "store/base/json.h"
#include "store/base/sys.h"
#include "store/lock.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "store/source.h"
#include "tools/cmd.h"
#include "tools/describe.h"
#include "tools/open_repo.h"
#include "tools/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Print one source, which a verb has made or changed. */
static int
report(const struct args *a, const struct source *s, const char *done)
{
	if (args_given(a, "json"))
		return output_json(describe_source_json(s));
	printf("source %s is %s\n", s->name, done);
	return 0;
}

/* ---- add ---- */

static const struct args_option add_options[] = {
	{ "pg", 0, "CONNINFO", "how to reach the PostgreSQL cluster: a libpq connection string" },
	{ NULL, 0, NULL, NULL },
};

/* A new source, or a removed one of this name again, with its snapshots. */
static int
add_or_revive(struct repo_admin *admin, const char *name, const char *conninfo, struct source *s,
    const char **done)
{
	int rc = source_find(repo_admin_reader(admin), name, true, s);

	if (rc && rc != ERR_NOTFOUND)
		return rc;
	if (!rc && !s->removed)
		return err_set(ERR_EXISTS,
		    "there is a source %s already; see: pastfs source show %s", name, name);
	free(s->conninfo);
	s->conninfo = mem_strdup(conninfo);
	if (!s->conninfo)
		return err_nomem();
	if (!rc) {
		s->removed = false;
		*done = "added again, with the snapshots it had";
		return source_update(admin, s);
	}
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->kind = SOURCE_PG;
	memcpy(s->domain_id, repo_reader_header(repo_admin_reader(admin))->default_domain,
	    sizeof(s->domain_id));
	*done = "added";
	return source_add(admin, s);
}

static int
run_add(const struct args *a)
{
	const char *name = args_operand(a, 0), *conninfo = args_value(a, "pg"), *done = NULL;
	struct repo_admin *admin = NULL;
	struct source s = { 0 };
	bool password;
	int rc = source_check_name(name);

	if (!rc && !conninfo)
		rc = err_set(ERR_USAGE, "source add needs --pg CONNINFO");
	if (!rc)
		rc = pgconn_check_conninfo(conninfo, &password);
	if (rc)
		return rc;
	if (password)
		output_warn(
		    "the connection string has a password in it, which is kept in the "
		    "repository and seen in the process list now; ~/.pgpass is the place for it");
	rc = open_repo_admin(a, &admin);
	if (!rc)
		rc = add_or_revive(admin, name, conninfo, &s, &done);
	if (!rc)
		rc = report(a, &s, done);
	source_release(&s);
	repo_admin_close(admin);
	return rc;
}

const struct verb cmd_source_add = {
	.name = "source add",
	.operands = "NAME",
	.summary = "record a PostgreSQL cluster to be backed up",
	.about = "Records a PostgreSQL cluster under NAME. The server is not contacted before the "
		 "first backup. Passwords belong into ~/.pgpass or a service file, not into the "
		 "connection string. Adding a removed source again brings its snapshots back under "
		 "it.",
	.options = add_options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs source add main --pg 'host=/var/run/postgresql dbname=postgres'\n"
		    "pastfs source add far --pg 'host=db1 user=backup dbname=postgres'",
	.run = run_add,
};

/* ---- list, show ---- */

static int
list_json(const struct source *list, size_t n)
{
	struct json *j = json_new_array();

	for (size_t i = 0; i < n; i++)
		json_add(j, describe_source_json(&list[i]));
	return output_json(j);
}

static int
list_table(const struct source *list, size_t n)
{
	struct table *t;
	int rc = table_new(&t, "NAME|KIND|STATE|CONNECTION");

	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		table_cell(t, "%s", list[i].name);
		table_cell(t, "postgresql");
		table_cell(t, "%s",
		    list[i].removed             ? "removed"
		    : list[i].system_identifier ? "backed up"
						: "new");
		table_cell(t, "%s", list[i].conninfo ? list[i].conninfo : "");
	}
	rc = table_print(t, stdout);
	table_free(t);
	return rc;
}

static const struct args_option list_options[] = {
	{ "all", 'a', NULL, "also sources that were removed" },
	{ NULL, 0, NULL, NULL },
};

/* Only those that were not removed, moved to the front; their number. */
static size_t
drop_removed(struct source *list, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		struct source s = list[i];

		if (s.removed)
			continue;
		list[i] = list[kept];
		list[kept++] = s;
	}
	return kept;
}

static int
run_list(const struct args *a)
{
	struct repo_reader *r;
	struct source *list = NULL;
	size_t n = 0, shown;
	int rc = open_repo_reader(a, &r);

	if (rc)
		return rc;
	rc = source_list(r, &list, &n);
	if (!rc) {
		shown = args_given(a, "all") ? n : drop_removed(list, n);
		rc = args_given(a, "json") ? list_json(list, shown) : list_table(list, shown);
	}
	source_list_free(list, n);
	repo_reader_close(r);
	return rc;
}

const struct verb cmd_source_list = {
	.name = "source list",
	.summary = "list the sources",
	.options = list_options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.examples = "pastfs source list --all",
	.run = run_list,
};

static int
run_show(const struct args *a)
{
	struct snapshot *list = NULL;
	struct source s = { 0 };
	struct repo_reader *r;
	struct json *j;
	size_t n = 0, damaged = 0;
	int rc = open_repo_reader(a, &r);

	if (rc)
		return rc;
	rc = source_find(r, args_operand(a, 0), true, &s);
	if (!rc)
		rc = snapshot_list(r, s.id, &list, &n, &damaged);
	if (rc)
		goto out;
	if (args_given(a, "json")) {
		j = describe_source_json(&s);
		json_set_uint(j, "snapshots", n);
		json_set_uint(j, "damaged_snapshots", damaged);
		json_set_str(j, "newest", n ? list[n - 1].name : NULL);
		rc = output_json(j);
	} else {
		describe_source(&s);
		printf("%-20s%zu%s%s\n", "snapshots", n, n ? ", the newest " : "",
		    n ? list[n - 1].name : "");
		if (damaged)
			printf("%-20s%zu, see: pastfs check\n", "damaged", damaged);
	}
out:
	snapshot_list_free(list, n);
	source_release(&s);
	repo_reader_close(r);
	return rc;
}

const struct verb cmd_source_show = {
	.name = "source show",
	.operands = "NAME",
	.summary = "show everything about a source",
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs source show main --json",
	.run = run_show,
};

/* ---- remove, unlock ---- */

static int
run_remove(const struct args *a)
{
	struct repo_admin *admin;
	struct source s = { 0 };
	int rc = open_repo_admin(a, &admin);

	if (rc)
		return rc;
	rc = source_find(repo_admin_reader(admin), args_operand(a, 0), false, &s);
	if (!rc) {
		s.removed = true;
		rc = source_update(admin, &s);
	}
	if (!rc)
		rc = report(a, &s, "removed: it gets no more backups; its snapshots stay");
	source_release(&s);
	repo_admin_close(admin);
	return rc;
}

const struct verb cmd_source_remove = {
	.name = "source remove",
	.operands = "NAME",
	.summary = "stop backing a source up; its snapshots stay",
	.about = "The source gets no more backups. Its snapshots stay, are mounted and can be "
		 "restored; `pastfs source add` with the same name goes on with it.",
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs source remove main",
	.run = run_remove,
};

static int
run_unlock(const struct args *a)
{
	struct repo_admin *admin;
	struct source s = { 0 };
	bool was_free = false;
	int rc = open_repo_admin(a, &admin);

	if (rc)
		return rc;
	rc = source_find(repo_admin_reader(admin), args_operand(a, 0), true, &s);
	if (!rc)
		rc = lock_break(admin, &s);
	if (rc == 1) {
		was_free = true;
		rc = 0;
	}
	if (!rc)
		rc = report(a, &s, was_free ? "not locked" : "unlocked");
	source_release(&s);
	repo_admin_close(admin);
	return rc;
}

const struct verb cmd_source_unlock = {
	.name = "source unlock",
	.operands = "NAME",
	.summary = "free the lock of a backup whose host is gone",
	.about =
	    "A backup that was killed on this host is noticed by itself. One that ran on a host "
	    "that is gone keeps the source locked until this is said. Say it only when that "
	    "backup is known not to run any more.",
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs source unlock main",
	.run = run_unlock,
};
