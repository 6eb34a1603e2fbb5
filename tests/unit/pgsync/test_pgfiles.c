#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/pgfiles.h"

static void
test_classify(void **state)
{
	static const struct {
		const char *path;
		enum pgfile_kind kind;
		uint32_t relation, segment;
	} cases[] = {
		{ "base/5/1259", PGFILE_MAIN, 1259, 0 },
		{ "base/5/1259.1", PGFILE_MAIN, 1259, 1 },
		{ "base/5/1259.131", PGFILE_MAIN, 1259, 131 },
		{ "base/5/1259_vm", PGFILE_VM, 1259, 0 },
		{ "base/5/1259_fsm.2", PGFILE_FSM, 1259, 2 },
		{ "base/5/16390_init", PGFILE_INIT, 16390, 0 },
		{ "base/5/4294967295", PGFILE_MAIN, 4294967295u, 0 },
		{ "base/5/4294967296", PGFILE_OTHER, 0, 0 },
		{ "base/5/t3_16390", PGFILE_TEMP, 0, 0 },
		{ "base/5/t3_16390_fsm.1", PGFILE_TEMP, 0, 0 },
		{ "base/5/t3", PGFILE_OTHER, 0, 0 },
		{ "base/5/pg_filenode.map", PGFILE_OTHER, 0, 0 },
		{ "base/5/PG_VERSION", PGFILE_OTHER, 0, 0 },
		{ "base/5/01259", PGFILE_OTHER, 0, 0 },
		{ "base/5/1259.", PGFILE_OTHER, 0, 0 },
		{ "base/5/1259.01", PGFILE_OTHER, 0, 0 },
		{ "base/5/1259_vmx", PGFILE_OTHER, 0, 0 },
		{ "base/x/1259", PGFILE_OTHER, 0, 0 },
		{ "base/1259", PGFILE_OTHER, 0, 0 },
		{ "global/1262", PGFILE_MAIN, 1262, 0 },
		{ "global/pg_control", PGFILE_OTHER, 0, 0 },
		{ "pg_tblspc_data/16384/PG_15_202209061/5/16385", PGFILE_MAIN, 16385, 0 },
		{ "pg_tblspc_data/16384/5/16385", PGFILE_OTHER, 0, 0 },
		{ "pg_xact/0000", PGFILE_OTHER, 0, 0 },
		{ "1259", PGFILE_OTHER, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct pgfile f;

		pgfiles_classify(cases[i].path, &f);
		if (f.kind != cases[i].kind || f.relation != cases[i].relation ||
		    f.segment != cases[i].segment)
			fail_msg("%s is kind %d, relation %u, segment %u", cases[i].path,
			    (int)f.kind, f.relation, f.segment);
	}
}

static void
test_rules(void **state)
{
	static const struct {
		const char *path;
		bool is_dir;
		enum pgfile_rule rule;
	} cases[] = {
		{ "pg_wal", true, PGFILE_SKIP_CONTENTS },
		{ "pg_replslot", true, PGFILE_SKIP_CONTENTS },
		{ "pg_stat_tmp", true, PGFILE_SKIP_CONTENTS },
		{ "pg_subtrans", true, PGFILE_SKIP_CONTENTS },
		{ "pg_stat", true, PGFILE_KEEP },
		{ "base/pgsql_tmp", true, PGFILE_SKIP },
		{ "base/5/pgsql_tmp123.0", false, PGFILE_SKIP },
		{ "base/pg_wal", true, PGFILE_KEEP },
		{ "postmaster.pid", false, PGFILE_SKIP },
		{ "postmaster.opts", false, PGFILE_SKIP },
		{ "backup_label", false, PGFILE_SKIP },
		{ "tablespace_map", false, PGFILE_SKIP },
		{ "backup_manifest", false, PGFILE_SKIP },
		{ "standby.signal", false, PGFILE_SKIP },
		{ "recovery.signal", false, PGFILE_SKIP },
		{ "base/5/pg_internal.init", false, PGFILE_SKIP },
		{ "global/pg_internal.init.77", false, PGFILE_SKIP },
		{ "base/5/t1_2", false, PGFILE_SKIP },
		{ "postgresql.auto.conf", false, PGFILE_KEEP },
		{ "postgresql.auto.conf.tmp", false, PGFILE_SKIP },
		{ "base/5/1259", false, PGFILE_KEEP },
		{ "pg_twophase/00000003", false, PGFILE_KEEP },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (pgfiles_rule(cases[i].path, cases[i].is_dir) != cases[i].rule)
			fail_msg("wrong rule for %s", cases[i].path);
}

static void
test_may_vanish(void **state)
{
	(void)state;
	assert_true(pgfiles_may_vanish("base/5/16390"));
	assert_true(pgfiles_may_vanish("base/5/PG_VERSION"));
	assert_true(pgfiles_may_vanish("pg_xact/0000"));
	assert_true(pgfiles_may_vanish("pg_logical/replorigin_checkpoint"));
	assert_false(pgfiles_may_vanish("PG_VERSION"));
	assert_false(pgfiles_may_vanish("global/pg_filenode.map"));
	assert_false(pgfiles_may_vanish("postgresql.conf"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classify),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_may_vanish),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
