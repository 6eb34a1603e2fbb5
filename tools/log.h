/*
 * log: where a process without a terminal leaves what it says on standard error.
 */
#ifndef TOOLS_LOG_H
#define TOOLS_LOG_H

/*
 * From now on standard error is appended to the file `path`, or, if it is NULL, goes line by line
 * to syslog as `name`; standard input and output are /dev/null.  Call it once.  Errors: ERR_IO,
 * ERR_DENIED, …; standard error is then as it was.
 */
int log_redirect(const char *name, const char *path);

/* Wait until everything said so far is where it belongs; what is said later is lost. */
void log_finish(void);

#endif
