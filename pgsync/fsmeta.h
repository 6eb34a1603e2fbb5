/*
 * fsmeta: a file's owner, mode, times, identity and extended attributes as a tree entry has them.
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_FSMETA_H
#define PGSYNC_FSMETA_H

#include "store/tree.h"

struct stat;

/* Fill everything that `st` tells; the entry's name, target, content and attributes are zeroed. */
void fsmeta_entry(struct tree_entry *e, const struct stat *st);

/*
 * A file that we make ourselves: owner, mode and time of `like`, or only the owner, with mode 0600
 * and the present time, if `like` is no file.
 */
void fsmeta_like(struct tree_entry *e, const struct tree_entry *like);

/*
 * Read the extended attributes of the open file or directory `fd`, ACLs among them.  A file system
 * without attributes gives none.  Errors: ERR_NOMEM, ERR_IO.
 */
int fsmeta_xattrs(struct tree_entry *e, int fd, const char *path);

/* Whether size, modification time and identity are those that `e` was taken with. */
bool fsmeta_unchanged(const struct tree_entry *e, const struct stat *st);
/* Whether it is the same inode, changed or not. */
bool fsmeta_same_inode(const struct tree_entry *e, const struct stat *st);

#endif
