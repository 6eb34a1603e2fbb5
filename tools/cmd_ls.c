#include "store/base/err.h"
#include "store/base/json.h"
#include "store/base/utc.h"
#include "store/repo.h"
#include "store/snapshot.h"
#include "store/tree.h"
#include "tools/cmd.h"
#include "tools/moment.h"
#include "tools/open_repo.h"
#include "tools/output.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const struct args_option options[] = {
	{ "long", 'l', NULL, "with mode, owner, size and time" },
	{ "recursive", 'R', NULL, "and everything below" },
	{ "tz", 0, "ZONE", "the zone of a moment that is written without one: Z or +02:00" },
	{ NULL, 0, NULL, NULL },
};

struct listing {
	const struct snapshot *snapshot;
	const char *below; /* what stands before the paths of a walk: "" or "base/5" */
	bool details;
	struct json *json;
	struct table *table;
};

static const struct {
	enum tree_type type;
	char letter;
	const char *name;
} types[] = {
	{ TREE_FILE, '-', "file" },
	{ TREE_DIR, 'd', "directory" },
	{ TREE_SYMLINK, 'l', "symlink" },
	{ TREE_FIFO, 'p', "fifo" },
	{ TREE_SOCKET, 's', "socket" },
	{ TREE_CHARDEV, 'c', "character device" },
	{ TREE_BLOCKDEV, 'b', "block device" },
};

static size_t
type_row(enum tree_type type)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].type == type)
			return i;
	return 0;
}

/* "drwx------", set-id and sticky bits as ls(1) writes them. */
static void
mode_text(const struct tree_entry *e, char out[11])
{
	static const char letters[] = "rwxrwxrwx";

	out[0] = types[type_row(e->type)].letter;
	for (unsigned i = 0; i < 9; i++)
		out[i + 1] = e->mode & (0400u >> i) ? letters[i] : '-';
	if (e->mode & S_ISUID)
		out[3] = out[3] == 'x' ? 's' : 'S';
	if (e->mode & S_ISGID)
		out[6] = out[6] == 'x' ? 's' : 'S';
	if (e->mode & S_ISVTX)
		out[9] = out[9] == 'x' ? 't' : 'T';
	out[10] = '\0';
}

static void
owner_text(const struct snapshot_owner *owners, size_t n, uint32_t id, char *out, size_t room)
{
	for (size_t i = 0; i < n; i++)
		if (owners[i].id == id) {
			snprintf(out, room, "%s", owners[i].name);
			return;
		}
	snprintf(out, room, "%u", id);
}

static void
add_json(const struct listing *l, const char *path, const struct tree_entry *e)
{
	struct json *j = json_new_object();
	char mode[8];

	snprintf(mode, sizeof(mode), "%04o", e->mode);
	json_set_str(j, "path", path);
	json_set_str(j, "type", types[type_row(e->type)].name);
	json_set_str(j, "mode", mode);
	json_set_int(j, "uid", e->uid);
	json_set_int(j, "gid", e->gid);
	if (e->type == TREE_FILE)
		json_set_uint(j, "size", e->content.size);
	output_json_time(j, "modified", e->mtime_s * 1000000 + e->mtime_ns / 1000);
	if (e->type == TREE_SYMLINK)
		json_set_str(j, "target", e->target);
	json_add(l->json, j);
}

static void
add_row(const struct listing *l, const char *path, const struct tree_entry *e)
{
	const struct snapshot *s = l->snapshot;
	char mode[11], user[64], group[64], modified[UTC_TEXT_MAX];

	if (!l->details) {
		table_cell(l->table, "%s", path);
		return;
	}
	mode_text(e, mode);
	owner_text(s->users, s->nusers, e->uid, user, sizeof(user));
	owner_text(s->groups, s->ngroups, e->gid, group, sizeof(group));
	utc_format(e->mtime_s * 1000000, modified);
	table_cell(l->table, "%s", mode);
	table_cell(l->table, "%s", user);
	table_cell(l->table, "%s", group);
	if (e->type == TREE_FILE)
		table_cell(l->table, "%llu", (unsigned long long)e->content.size);
	else
		table_cell(l->table, "-");
	table_cell(l->table, "%s", modified);
	table_cell(l->table, "%s%s%s", path, e->type == TREE_SYMLINK ? " -> " : "",
	    e->type == TREE_SYMLINK && e->target ? e->target : "");
}

static void
add_entry(const struct listing *l, const char *path, const struct tree_entry *e)
{
	if (l->json)
		add_json(l, path, e);
	else
		add_row(l, path, e);
}

/* A path of the walk, seen from the snapshot's top. */
static int
walk_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	const struct listing *l = ctx;
	char whole[TREE_PATH_MAX + MOMENT_PATH_MAX + 2];

	if (!*path)
		return 0;
	snprintf(whole, sizeof(whole), "%s%s%s", l->below, *l->below ? "/" : "", path);
	add_entry(l, whole, e);
	return 0;
}

static int
list_dir(struct repo_reader *r, const struct listing *l, const struct tree_entry *dir)
{
	struct tree_dir *d;
	int rc = tree_dir_open(&d, r, &dir->content);

	if (rc)
		return rc;
	for (size_t i = 0; i < tree_dir_count(d); i++) {
		const struct tree_entry *e = tree_dir_at(d, i);

		add_entry(l, e->name, e);
	}
	tree_dir_close(d);
	return 0;
}

static int
list_entry(
    const struct args *a, struct repo_reader *r, struct listing *l, const struct tree_entry *e)
{
	if (e->type != TREE_DIR) {
		add_entry(l, l->below, e);
		return 0;
	}
	if (args_given(a, "recursive")) {
		const struct tree_visitor v = { .entry = walk_entry, .ctx = l };

		return tree_walk(r, e, &v);
	}
	return list_dir(r, l, e);
}

static int
print(const struct args *a, struct repo_reader *r, const struct snapshot *s, const char *path)
{
	struct listing l = { .snapshot = s, .below = path, .details = args_given(a, "long") };
	struct tree_entry e = { 0 };
	int rc = 0;

	if (!s->nparts)
		return err_set(ERR_NOTFOUND, "snapshot %s has no files", s->name);
	if (args_given(a, "json"))
		l.json = json_new_array();
	else
		rc = table_new(&l.table, l.details ? "MODE|OWNER|GROUP|SIZE>|MODIFIED|NAME" : "");
	if (!rc)
		rc = tree_lookup(r, &s->parts[0].root, path, &e);
	if (!rc)
		rc = list_entry(a, r, &l, &e);
	if (rc)
		json_free(l.json);
	else if (l.json)
		rc = output_json(l.json);
	else
		rc = table_print(l.table, stdout);
	table_free(l.table);
	tree_entry_release(&e);
	return rc;
}

static int
run(const struct args *a)
{
	struct snapshot s = { 0 };
	struct repo_reader *r = NULL;
	struct moment m;
	int32_t offset_s;
	int rc = moment_zone(args_value(a, "tz"), &offset_s);

	if (!rc)
		rc = moment_parse(&m, MOMENT_WITH_PATH, args_operand(a, 0));
	if (!rc)
		rc = open_repo_reader(a, &r);
	if (!rc)
		rc = moment_find(r, &m, offset_s, NULL, &s);
	if (!rc) {
		rc = print(a, r, &s, m.path);
		snapshot_release(&s);
	}
	repo_reader_close(r);
	return rc;
}

const struct verb cmd_ls = {
	.name = "ls",
	.operands = "SOURCE[@WHEN][:PATH]",
	.summary = "list a snapshot's files without mounting it",
	.about = "Lists a directory, or a file, of a snapshot; without WHEN of the latest.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs ls main\n"
		    "pastfs ls -l main@latest:base/5\n"
		    "pastfs ls -R main@2026-11-20T02:00:00Z:global",
	.run = run,
};
