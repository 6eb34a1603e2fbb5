#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/confset.h"
#include "pgsync/scan.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/pg_scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct pg_scratch scratch;
static char elsewhere[160]; /* a directory outside the data directory */
static int warnings;
static char last_warning[1024];

static void
note_warning(void *ctx, const char *message)
{
	(void)ctx;
	warnings++;
	snprintf(last_warning, sizeof(last_warning), "%s", message);
}

static void
full_path(char out[400], const char *path)
{
	snprintf(out, 400, "%s/%s", scratch.pgdata, path);
}

static void
make_dir(const char *path)
{
	char full[400];

	full_path(full, path);
	assert_int_equal(mkdir(full, 0700), 0);
}

static void
write_at(const char *full, const char *text)
{
	FILE *f = fopen(full, "wb");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void
make_file(const char *path, const char *text)
{
	char full[400];

	full_path(full, path);
	write_at(full, text);
}

static void
make_link(const char *target, const char *path)
{
	char full[400];

	full_path(full, path);
	assert_int_equal(symlink(target, full), 0);
}

/* A skeleton of a data directory, with a tablespace elsewhere and one in place. */
static int
set_up(void **state)
{
	static const char *const dirs[] = { "base", "base/5", "global", "pg_wal",
		"pg_wal/archive_status", "pg_xact", "pg_tblspc", "pg_stat_tmp", "pg_replslot",
		"pg_replslot/s", "base/pgsql_tmp", "pg_tblspc/17000",
		"pg_tblspc/17000/PG_15_202209061" };
	static const char *const files[] = { "PG_VERSION", "postmaster.pid", "base/5/1259",
		"base/5/1259.1", "base/5/1259_vm", "base/5/16390", "base/5/16390_init",
		"base/5/16390_fsm", "base/5/16391_init", "base/5/16392", "base/5/t3_16393",
		"base/5/pg_internal.init", "base/pgsql_tmp/pgsql_tmp1.0", "global/pg_control",
		"pg_wal/000000010000000000000001", "pg_xact/0000", "pg_stat_tmp/x",
		"pg_replslot/s/state", "backup_label", "standby.signal" };
	char path[400];

	(void)state;
	pg_scratch_new(&scratch);
	assert_int_equal(mkdir(scratch.pgdata, 0700), 0);
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		make_dir(dirs[i]);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		make_file(files[i], "x");
	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", scratch.dir);
	assert_int_equal(mkdir(elsewhere, 0700), 0);
	for (int i = 0; i < 3; i++) {
		static const char *const sub[] = { "PG_15_202209061", "PG_15_202209061/5",
			"PG_14_1" };

		snprintf(path, sizeof(path), "%s/%s", elsewhere, sub[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	snprintf(path, sizeof(path), "%s/PG_15_202209061/5/16400", elsewhere);
	write_at(path, "tablespace");
	snprintf(path, sizeof(path), "%s/PG_14_1/foreign", elsewhere);
	write_at(path, "not ours");
	make_link(elsewhere, "pg_tblspc/16384");
	make_link("/etc/hostname", "a_link");
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	pg_scratch_free(&scratch);
	return 0;
}

static const struct scan_opts opts = {
	.pgdata = scratch.pgdata, .major = 15, .catalog_version = 202209061, .warn = note_warning
};

static const struct scan_item *
find(const struct scan *s, const char *path)
{
	for (size_t i = 0; i < scan_count(s); i++)
		if (strcmp(scan_at(s, i)->path, path) == 0)
			return scan_at(s, i);
	return NULL;
}

static void
test_what_is_in(void **state)
{
	static const char *const in[] = { "", "PG_VERSION", "base/5/1259", "base/5/1259.1",
		"base/5/1259_vm", "base/5/16390_init", "base/5/16391_init", "base/5/16392",
		"global/pg_control", "pg_xact/0000", "pg_stat_tmp", "pg_replslot", "pg_wal",
		"pg_wal/archive_status", "pg_tblspc/16384", "pg_tblspc/17000",
		"pg_tblspc_data/16384/PG_15_202209061/5/16400",
		"pg_tblspc_data/17000/PG_15_202209061", "a_link" };
	static const char *const out[] = { "postmaster.pid", "base/5/16390", "base/5/16390_fsm",
		"base/5/t3_16393", "base/5/pg_internal.init", "base/pgsql_tmp",
		"pg_wal/000000010000000000000001", "pg_stat_tmp/x", "pg_replslot/s", "backup_label",
		"standby.signal", "pg_tblspc_data/16384/PG_14_1", "pg_wal/summaries" };
	const struct scan_tablespace *spaces;
	struct scan *s;

	(void)state;
	warnings = 0;
	assert_int_equal(scan_run(&s, &opts), 0);
	for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++)
		if (!find(s, in[i]))
			fail_msg("%s is missing", in[i]);
	for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++)
		if (find(s, out[i]))
			fail_msg("%s should be left out", out[i]);
	assert_int_equal(scan_tablespaces(s, &spaces), 2);
	assert_int_equal(warnings, 1); /* of the link to elsewhere */
	assert_non_null(strstr(last_warning, "a_link"));
	scan_free(s);
}

static void
test_tablespaces_stay_inside(void **state)
{
	char full[SCAN_PATH_MAX], wanted[400];
	const struct scan_item *it;
	struct scan *s;

	(void)state;
	assert_int_equal(scan_run(&s, &opts), 0);
	it = find(s, "pg_tblspc/16384");
	assert_int_equal(it->type, TREE_SYMLINK);
	assert_string_equal(it->target, "../pg_tblspc_data/16384");
	it = find(s, "pg_tblspc/17000");
	assert_int_equal(it->type, TREE_SYMLINK);
	assert_string_equal(it->target, "../pg_tblspc_data/17000");
	it = find(s, "pg_tblspc_data/16384/PG_15_202209061/5/16400");
	assert_int_equal(it->file.kind, PGFILE_MAIN);
	scan_source_path(s, it, full);
	snprintf(wanted, sizeof(wanted), "%s/PG_15_202209061/5/16400", elsewhere);
	assert_string_equal(full, wanted);
	it = find(s, "pg_tblspc_data/16384");
	scan_source_path(s, it, full);
	assert_string_equal(full, elsewhere);
	scan_free(s);
}

static void
test_linked_wal_is_a_directory(void **state)
{
	char full[400], moved[400];
	struct scan *s;

	(void)state;
	full_path(full, "pg_wal");
	snprintf(moved, sizeof(moved), "%s/wal", scratch.dir);
	assert_int_equal(rename(full, moved), 0);
	make_link(moved, "pg_wal");
	assert_int_equal(scan_run(&s, &opts), 0);
	assert_int_equal(find(s, "pg_wal")->type, TREE_DIR);
	assert_non_null(find(s, "pg_wal/archive_status"));
	scan_free(s);
	assert_int_equal(unlink(full), 0);
	assert_int_equal(rename(moved, full), 0);
}

static void
test_faults(void **state)
{
	const int errors[] = { EIO, ENOMEM };

	(void)state;
	for (size_t e = 0; e < 2; e++) {
		uint64_t n = 0;
		bool happened;

		do {
			struct scan *s = NULL;
			int rc;

			sys_fault_arm(++n, errors[e]);
			rc = scan_run(&s, &opts);
			happened = sys_fault_happened();
			sys_fault_arm(0, 0);
			if (happened)
				assert_true(rc < 0 && !s);
			else
				assert_int_equal(rc, 0);
			scan_free(s);
		} while (happened);
		assert_true(n > 50);
	}
}

/* ---- configuration ---- */

static const struct confset_file *
conf_find(const struct confset *cs, const char *path)
{
	for (size_t i = 0; i < confset_count(cs); i++)
		if (strcmp(confset_at(cs, i)->path, path) == 0)
			return confset_at(cs, i);
	return NULL;
}

static bool
conf_has_text(const struct confset *cs, const char *path, const char *text)
{
	const struct confset_file *f = conf_find(cs, path);

	return f && memmem(f->data, f->len, text, strlen(text));
}

/* As Debian has it: everything in a directory elsewhere, conf.d beside it. */
static void
test_config_elsewhere(void **state)
{
	char conf[300], hba[300], ident[300], path[400], text[1000];
	struct confset_opts co = { .pgdata = scratch.pgdata,
		.config_file = conf,
		.hba_file = hba,
		.ident_file = ident,
		.warn = note_warning };
	struct confset *cs;

	(void)state;
	snprintf(path, sizeof(path), "%s/etc", scratch.dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/etc/conf.d", scratch.dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/etc/conf.d/a.conf", scratch.dir);
	write_at(path, "work_mem = 8MB\ndata_directory = '/never'\n");
	snprintf(path, sizeof(path), "%s/shared.conf", scratch.dir);
	write_at(path, "port = 7\ninclude 'shared.conf'\n"); /* a circle */
	snprintf(conf, sizeof(conf), "%s/etc/postgresql.conf", scratch.dir);
	snprintf(hba, sizeof(hba), "%s/etc/pg_hba.conf", scratch.dir);
	snprintf(ident, sizeof(ident), "%s/etc/absent.conf", scratch.dir);
	snprintf(text, sizeof(text),
	    "data_directory = '%s'\nhba_file='%s'\ninclude_dir 'conf.d'\ninclude '%s'\n"
	    "include_if_exists 'nothing.conf'\n",
	    scratch.pgdata, hba, path);
	write_at(conf, text);
	write_at(hba, "local all all peer\n");

	warnings = 0;
	assert_int_equal(confset_collect(&cs, &co), 0);
	assert_int_equal(warnings, 1);
	assert_non_null(strstr(last_warning, "absent.conf"));
	assert_true(conf_has_text(cs, "postgresql.conf", "\n#data_directory = "));
	assert_true(conf_has_text(cs, "postgresql.conf", "\ninclude_dir 'conf.d'\n"));
	snprintf(text, sizeof(text), "include 'pastfs_config/@included%s'", path);
	assert_true(conf_has_text(cs, "postgresql.conf", text));
	assert_true(conf_has_text(cs, "conf.d/a.conf", "\n#data_directory = '/never'"));
	assert_true(conf_find(cs, "conf.d")->is_dir);
	assert_true(conf_has_text(cs, "pg_hba.conf", "local all all peer\n"));
	assert_false(confset_has(cs, "pg_ident.conf"));
	snprintf(text, sizeof(text), "pastfs_config%s", conf);
	assert_true(conf_has_text(cs, text, "data_directory = '"));
	assert_true(conf_find(cs, "pastfs_config")->is_dir);
	confset_free(cs);
}

/* In the data directory, and nothing in it ties: there is nothing to do. */
static void
test_config_in_place(void **state)
{
	char conf[300], hba[300], ident[300];
	struct confset_opts co = { .pgdata = scratch.pgdata,
		.config_file = conf,
		.hba_file = hba,
		.ident_file = ident,
		.warn = note_warning };
	struct confset *cs;

	(void)state;
	snprintf(conf, sizeof(conf), "%s/postgresql.conf", scratch.pgdata);
	snprintf(hba, sizeof(hba), "%s/pg_hba.conf", scratch.pgdata);
	snprintf(ident, sizeof(ident), "%s/pg_ident.conf", scratch.pgdata);
	write_at(conf, "port = 5432\n");
	write_at(hba, "");
	write_at(ident, "");
	warnings = 0;
	assert_int_equal(confset_collect(&cs, &co), 0);
	assert_int_equal(confset_count(cs), 0);
	assert_int_equal(warnings, 0);
	confset_free(cs);

	write_at(conf, "data_directory = 'x'\n");
	assert_int_equal(confset_collect(&cs, &co), 0);
	assert_true(conf_has_text(cs, "postgresql.conf", "\n#data_directory"));
	assert_false(confset_has(cs, "pg_hba.conf"));
	confset_free(cs);
	assert_int_equal(unlink(conf), 0);
	assert_int_equal(unlink(hba), 0);
	assert_int_equal(unlink(ident), 0);
}

static void
test_normalise(void **state)
{
	char out[16];

	(void)state;
	assert_int_equal(confset_normalise("/a//b/./c/../d/", out, sizeof(out)), 0);
	assert_string_equal(out, "/a/b/d");
	assert_int_equal(confset_normalise("/../..", out, sizeof(out)), 0);
	assert_string_equal(out, "/");
	assert_int_equal(
	    confset_normalise("/0123456789/0123456789", out, sizeof(out)), ERR_UNSUPPORTED);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_in),
		cmocka_unit_test(test_tablespaces_stay_inside),
		cmocka_unit_test(test_linked_wal_is_a_directory),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_config_elsewhere),
		cmocka_unit_test(test_config_in_place),
		cmocka_unit_test(test_normalise),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
