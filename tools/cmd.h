/* cmd: the verbs of the command line.  Each cmd_*.c defines one family. */
#ifndef TOOLS_CMD_H
#define TOOLS_CMD_H

#include "tools/args.h"

extern const struct verb cmd_init;
extern const struct verb cmd_source_add, cmd_source_list, cmd_source_show, cmd_source_remove,
    cmd_source_unlock;
extern const struct verb cmd_backup;
extern const struct verb cmd_snapshots;
extern const struct verb cmd_ls;
extern const struct verb cmd_mount, cmd_umount;
extern const struct verb cmd_restore;
extern const struct verb cmd_check;
extern const struct verb cmd_stats;
extern const struct verb cmd_index_rebuild;
extern const struct verb cmd_key_list, cmd_key_add, cmd_key_remove, cmd_key_change,
    cmd_key_generate;
extern const struct verb cmd_version, cmd_help;

#endif
