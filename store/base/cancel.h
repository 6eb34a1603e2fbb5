/*
 * cancel: the user's wish to stop, set by a signal handler, asked by long loops.
 *
 * Threads: safe; cancel_request() is async-signal-safe.
 */
#ifndef STORE_BASE_CANCEL_H
#define STORE_BASE_CANCEL_H

#include <stdbool.h>

void cancel_request(void);
bool cancel_requested(void);
/* 0, or ERR_CANCELLED recorded ("interrupted"). */
int cancel_check(void);

#endif
