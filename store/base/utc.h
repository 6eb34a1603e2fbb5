/*
 * utc: moments as microseconds since 1970-01-01T00:00:00Z, and their RFC 3339 text.
 *
 * Threads: pure functions.
 */
#ifndef STORE_BASE_UTC_H
#define STORE_BASE_UTC_H

#include <stdint.h>

#define UTC_TEXT_MAX 40

/* The wall clock now, in microseconds. */
int64_t utc_now_us(void);

/*
 * Write "2026-11-20T14:03:22Z", with ".5" or as many digits as are needed (at most six) when the
 * moment is not a whole second.  Years 0001 to 9999; anything else gives "invalid-time".
 */
void utc_format(int64_t us, char out[UTC_TEXT_MAX]);

/*
 * Parse RFC 3339 with a zone ("Z", "+02:00"); "T" may be a space, fractions beyond microseconds
 * are cut.  `default_offset_s` is used when no zone is written, unless it is UTC_NO_OFFSET: then a
 * missing zone is ERR_USAGE with a message that asks for one.  Errors: ERR_USAGE.
 */
#define UTC_NO_OFFSET INT32_MAX
int utc_parse(const char *text, int32_t default_offset_s, int64_t *us);

#endif
