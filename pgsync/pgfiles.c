#include "pgsync/pgfiles.h"

#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

bool
pgfiles_oid(const char *text, size_t len, uint32_t *oid)
{
	uint64_t v = 0;

	if (len == 0 || len > 10 || text[0] == '0')
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(text[i] - '0');
	}
	*oid = (uint32_t)v;
	return v <= UINT32_MAX;
}

static size_t
digits(const char *p)
{
	return strspn(p, "0123456789");
}

/* "[_fork][.segment]" behind a relation's number. */
static bool
parse_fork(const char *p, struct pgfile *f)
{
	static const struct {
		const char *suffix;
		enum pgfile_kind kind;
	} forks[] = { { "_fsm", PGFILE_FSM }, { "_vm", PGFILE_VM }, { "_init", PGFILE_INIT } };

	f->kind = PGFILE_MAIN;
	for (size_t i = 0; i < COUNT(forks); i++) {
		size_t n = strlen(forks[i].suffix);

		if (strncmp(p, forks[i].suffix, n) == 0) {
			f->kind = forks[i].kind;
			p += n;
			break;
		}
	}
	if (*p == '\0')
		return true;
	return *p == '.' && pgfiles_oid(p + 1, strlen(p + 1), &f->segment);
}

/* "t<backend>_<relation>…": the backend may be 0 in later versions. */
static bool
is_temporary(const char *name)
{
	struct pgfile f;
	size_t n;

	if (name[0] != 't' || (n = digits(name + 1)) == 0 || name[1 + n] != '_')
		return false;
	name += n + 2;
	n = digits(name);
	return n > 0 && parse_fork(name + n, &f);
}

void
pgfiles_relation(const char *name, struct pgfile *out)
{
	size_t n = digits(name);

	memset(out, 0, sizeof(*out));
	if (is_temporary(name)) {
		out->kind = PGFILE_TEMP;
		return;
	}
	if (!pgfiles_oid(name, n, &out->relation) || !parse_fork(name + n, out))
		memset(out, 0, sizeof(*out));
}

/* Take "<oid>" and the slash or end behind it. */
static const char *
skip_oid(const char *p)
{
	uint32_t oid;
	size_t n = digits(p);

	if (!pgfiles_oid(p, n, &oid))
		return NULL;
	p += n;
	return *p == '/' ? p + 1 : *p == '\0' ? p : NULL;
}

bool
pgfiles_is_relation_dir(const char *path)
{
	const char *p;

	if (strcmp(path, "global") == 0)
		return true;
	if (strncmp(path, "base/", 5) == 0) {
		p = skip_oid(path + 5);
		return p && *p == '\0' && p[-1] != '/';
	}
	if (strncmp(path, "pg_tblspc_data/", 15) != 0)
		return false;
	p = skip_oid(path + 15);
	if (!p || strncmp(p, "PG_", 3) != 0 || !(p = strchr(p, '/')))
		return false;
	p = skip_oid(p + 1);
	return p && *p == '\0' && p[-1] != '/';
}

void
pgfiles_classify(const char *path, struct pgfile *out)
{
	const char *slash = strrchr(path, '/');
	char dir[128];
	size_t n = slash ? (size_t)(slash - path) : 0;

	memset(out, 0, sizeof(*out));
	if (!slash || n >= sizeof(dir))
		return;
	memcpy(dir, path, n);
	dir[n] = '\0';
	if (pgfiles_is_relation_dir(dir))
		pgfiles_relation(slash + 1, out);
}

static bool
is_one_of(const char *text, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(text, list[i]) == 0)
			return true;
	return false;
}

enum pgfile_rule
pgfiles_rule(const char *path, bool is_dir)
{
	static const char *const emptied[] = { "pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify",
		"pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans" };
	/*
	 * backup_label and backup_manifest are written anew; a copy must not wake up as somebody's
	 * standby, so the signal files stay behind too.
	 */
	static const char *const files[] = { "postmaster.pid", "postmaster.opts",
		"postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label",
		"backup_label.old", "tablespace_map", "tablespace_map.old", "backup_manifest",
		"backup_manifest.tmp", "recovery.signal", "standby.signal" };
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	struct pgfile f;

	if (strncmp(name, "pgsql_tmp", 9) == 0)
		return PGFILE_SKIP;
	if (is_dir)
		return is_one_of(path, emptied, COUNT(emptied)) ? PGFILE_SKIP_CONTENTS
								: PGFILE_KEEP;
	if (is_one_of(path, files, COUNT(files)) || strncmp(name, "pg_internal.init", 16) == 0)
		return PGFILE_SKIP;
	pgfiles_classify(path, &f);
	return f.kind == PGFILE_TEMP ? PGFILE_SKIP : PGFILE_KEEP;
}

bool
pgfiles_may_vanish(const char *path)
{
	/* Logs of transactions are cut off at their old end; the others come and go. */
	static const char *const dirs[] = { "pg_xact/", "pg_multixact/", "pg_commit_ts/",
		"pg_twophase/", "pg_logical/", "pg_stat/", "log/", "pg_log/" };
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	size_t n = strlen(name);
	struct pgfile f;

	for (size_t i = 0; i < COUNT(dirs); i++)
		if (strncmp(path, dirs[i], strlen(dirs[i])) == 0)
			return true;
	/* Files that are written anew under another name first. */
	if (n > 4 && strcmp(name + n - 4, ".tmp") == 0)
		return true;
	if (strcmp(name, "pg_filenode.map") == 0 || strcmp(name, "PG_VERSION") == 0)
		return slash &&
		       strncmp(path, "global/", 7) != 0; /* of a database that was dropped */
	pgfiles_classify(path, &f);
	return f.kind != PGFILE_OTHER;
}
