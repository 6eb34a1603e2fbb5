/*
 * restore: what a restored data directory needs before somebody starts it.
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_RESTORE_H
#define PGSYNC_RESTORE_H

/*
 * Switch archiving off in `dir`/postgresql.auto.conf, by settings appended behind a comment that
 * says why: a started copy must not write into the original's archive.  The file keeps its owner,
 * mode and time, so that two restores of one snapshot are equal, and is replaced as a whole: a
 * crash leaves the old one or the new one.  Does nothing the second time.
 * Errors: ERR_NOTFOUND (no such directory), ERR_UNSUPPORTED (the file is
 * not a plain one, or longer than RESTORE_CONF_MAX), ERR_NOSPACE, ERR_DENIED, ERR_IO, ERR_NOMEM.
 */
#define RESTORE_CONF_MAX (4u << 20)
int restore_stop_archiving(const char *dir);

/*
 * PostgreSQL starts only in a directory of mode 0700 or 0750: give it 0700 unless it has one of
 * them.  Errors: ERR_NOTFOUND, ERR_DENIED, ERR_IO.
 */
int restore_protect(const char *dir);

#endif
