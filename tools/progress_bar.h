/*
 * progress_bar: shows a struct progress on standard error while a task runs.
 *
 * On a terminal one line, redrawn four times a second: phase, bar, bytes, rate, time left.
 * Elsewhere a plain line every ten seconds.  Messages printed meanwhile go through
 * progress_bar_print(), so that they do not end up inside the bar.
 *
 * Threads: one thread of its own; the functions may be called by any.
 */
#ifndef TOOLS_PROGRESS_BAR_H
#define TOOLS_PROGRESS_BAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct progress;
struct progress_bar;

/* What to draw, as plain values. */
struct progress_state {
	const char *phase;
	uint64_t bytes_total, bytes_done;
	uint64_t files_total, files_done;
	int64_t elapsed_us;
	double bytes_per_second; /* lately */
};

#define PROGRESS_LINE_MAX 320

/* One line without its end; `columns` is the terminal's width, 0 for the plain form. */
void progress_bar_line(
    const struct progress_state *s, unsigned columns, char out[PROGRESS_LINE_MAX]);

/*
 * Begin to show `p`, which is borrowed until the end; with `quiet` nothing is shown.  Never NULL
 * without an error.  Errors: ERR_NOMEM.
 */
int progress_bar_start(struct progress_bar **out, struct progress *p, bool quiet);
/* Wipe the bar and end its thread; NULL is allowed. */
void progress_bar_stop(struct progress_bar *bar);

/* Print a line on `to`, standard output or error; the bar comes back below it. */
void progress_bar_print(struct progress_bar *bar, FILE *to, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
