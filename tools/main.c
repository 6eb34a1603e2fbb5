/* main: the table of verbs.  `pastfs help` lists them in this order. */
#include "tools/cmd.h"
#include "tools/verb.h"

#include <stddef.h>

static const struct verb *const verbs[] = {
	&cmd_init,
	&cmd_source_add,
	&cmd_source_list,
	&cmd_source_show,
	&cmd_source_remove,
	&cmd_source_unlock,
	&cmd_backup,
	&cmd_snapshots,
	&cmd_ls,
	&cmd_mount,
	&cmd_umount,
	&cmd_restore,
	&cmd_check,
	&cmd_stats,
	&cmd_index_rebuild,
	&cmd_key_list,
	&cmd_key_add,
	&cmd_key_remove,
	&cmd_key_change,
	&cmd_key_generate,
	&cmd_version,
	&cmd_help,
	NULL,
};

int
main(int argc, char **argv)
{
	return verb_main(verbs, argc, argv);
}
