/*
 * notice: says something on standard error, once.
 *
 * A mount answers programs with error numbers only; the reason goes to standard error.  A damaged
 * chunk may be read a thousand times, so each text is printed once.  What was printed is
 * remembered by its hash, for the newest NOTICE_MAX texts.
 *
 * Threads: safe.
 */
#ifndef FS_NOTICE_H
#define FS_NOTICE_H

#include <stdbool.h>

#define NOTICE_MAX 1024

struct notices;

int notices_new(struct notices **out);
void notices_free(struct notices *n);

/*
 * Print "pastfs: <text>\n" unless the same `key` was printed before; a NULL key stands for the
 * text itself.  True if it was printed.
 */
bool notice_once(struct notices *n, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
