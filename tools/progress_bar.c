#include "tools/progress_bar.h"

#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/base/sys.h"
#include "tools/output.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DRAW_EVERY_MS  250
#define PLAIN_EVERY_MS 10000
#define BAR_MIN        10
#define BAR_MAX        30
#define RATE_MEMORY_S  5.0 /* the rate shown is an average over about this time */
#define CLEAR_LINE     "\r\033[K"

struct progress_bar {
	struct progress *progress;
	bool quiet, terminal;
	int64_t started_us;
	pthread_t thread;
	bool running;

	/* Protects what follows, and everything printed while the bar is there. */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
	int64_t last_us;
	uint64_t last_bytes;
	double rate;
};

static int64_t
monotonic_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* ---- the line ---- */

static double
fraction(const struct progress_state *s)
{
	if (!s->bytes_total || s->bytes_done >= s->bytes_total)
		return s->bytes_total ? 1 : 0;
	return (double)s->bytes_done / (double)s->bytes_total;
}

/* ", 1 min 20 s left" where that can be told. */
static void
time_left(const struct progress_state *s, char *out, size_t room)
{
	char text[OUTPUT_TEXT_MAX];
	double seconds;

	*out = '\0';
	if (s->bytes_done >= s->bytes_total || s->bytes_per_second < 1)
		return;
	seconds = (double)(s->bytes_total - s->bytes_done) / s->bytes_per_second;
	if (seconds > 1e9)
		return;
	output_duration(((int64_t)seconds + 1) * 1000000, text);
	/* Whole seconds: a tenth would pretend to more than is known. */
	if (seconds < 59)
		snprintf(text, sizeof(text), "%d s", (int)seconds + 1);
	snprintf(out, room, ", %s left", text);
}

static void
counters(const struct progress_state *s, char *out, size_t room)
{
	char done[OUTPUT_TEXT_MAX], total[OUTPUT_TEXT_MAX], rate[OUTPUT_TEXT_MAX], left[64];

	output_size(s->bytes_done, done);
	output_size(s->bytes_total, total);
	output_size((uint64_t)s->bytes_per_second, rate);
	time_left(s, left, sizeof(left));
	if (!s->bytes_done && !s->bytes_total)
		snprintf(out, room, "%llu files", (unsigned long long)s->files_done);
	else if (s->bytes_total)
		snprintf(out, room, "%s of %s, %s/s%s", done, total, rate, left);
	else
		snprintf(out, room, "%s, %s/s", done, rate);
}

/* "[#####-----]" as wide as fits, or nothing. */
static void
bar(const struct progress_state *s, unsigned room, char *out)
{
	unsigned width = room < BAR_MAX ? room : BAR_MAX;
	unsigned full = (unsigned)(fraction(s) * width);

	*out = '\0';
	if (!s->bytes_total || room < BAR_MIN)
		return;
	*out++ = '[';
	memset(out, '#', full);
	memset(out + full, '-', width - full);
	snprintf(out + width, 4, "] ");
}

void
progress_bar_line(const struct progress_state *s, unsigned columns, char out[PROGRESS_LINE_MAX])
{
	char text[192], drawn[BAR_MAX + 4] = "", percent[8] = "";
	unsigned used;

	counters(s, text, sizeof(text));
	if (s->bytes_total)
		snprintf(percent, sizeof(percent), "%3d %% ", (int)(fraction(s) * 100));
	used = (unsigned)(strlen(s->phase) + strlen(percent) + strlen(text)) + 6;
	if (columns > used)
		bar(s, columns - used, drawn);
	snprintf(out, PROGRESS_LINE_MAX, "%s: %s%s%s", s->phase, drawn, percent, text);

	/* A line that wraps could not be redrawn. */
	if (columns && columns < PROGRESS_LINE_MAX && strlen(out) >= columns)
		out[columns - 1] = '\0';
}

/* ---- the thread ---- */

static void
look(struct progress_bar *b, struct progress_state *s)
{
	struct progress *p = b->progress;
	int64_t now = monotonic_us();
	double dt = (double)(now - b->last_us) / 1e6;

	*s = (struct progress_state){
		.phase = atomic_load(&p->phase),
		.bytes_total = atomic_load(&p->bytes_total),
		.bytes_done = atomic_load(&p->bytes_done),
		.files_total = atomic_load(&p->files_total),
		.files_done = atomic_load(&p->files_done),
		.elapsed_us = now - b->started_us,
	};
	if (!s->phase)
		s->phase = "starting";

	/* A new phase may count from nothing again. */
	if (s->bytes_done < b->last_bytes)
		b->last_bytes = s->bytes_done;
	if (dt > 0.01) {
		double lately = (double)(s->bytes_done - b->last_bytes) / dt;
		double elapsed = (double)s->elapsed_us / 1e6;
		double memory = elapsed < RATE_MEMORY_S ? elapsed : RATE_MEMORY_S;
		double weight = dt < memory ? dt / memory : 1;

		b->rate += (lately - b->rate) * weight;
		b->last_us = now;
		b->last_bytes = s->bytes_done;
	}
	s->bytes_per_second = b->rate;
}

static unsigned
terminal_columns(void)
{
	struct winsize w;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col < 20)
		return 80;
	return w.ws_col;
}

static void
draw(struct progress_bar *b)
{
	char line[PROGRESS_LINE_MAX];
	struct progress_state s;

	look(b, &s);
	progress_bar_line(&s, b->terminal ? terminal_columns() : 0, line);
	if (b->terminal)
		fprintf(stderr, CLEAR_LINE "%s", line);
	else
		fprintf(stderr, "%s\n", line);
	fflush(stderr);
}

static void *
run(void *arg)
{
	struct progress_bar *b = arg;
	int every = b->terminal ? DRAW_EVERY_MS : PLAIN_EVERY_MS;

	pthread_mutex_lock(&b->lock);
	while (!b->stop) {
		int64_t until = monotonic_us() + every * 1000;
		struct timespec ts = { until / 1000000, until % 1000000 * 1000 };

		pthread_cond_timedwait(&b->wake, &b->lock, &ts);
		if (!b->stop && monotonic_us() >= until)
			draw(b);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

int
progress_bar_start(struct progress_bar **out, struct progress *p, bool quiet)
{
	struct progress_bar *b = mem_alloc(sizeof(*b));
	pthread_condattr_t attr;

	*out = NULL;
	if (!b)
		return err_nomem();
	b->progress = p;
	b->quiet = quiet;
	b->terminal = isatty(STDERR_FILENO);
	b->started_us = b->last_us = monotonic_us();
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->wake, &attr);
	pthread_condattr_destroy(&attr);

	/* Without its thread the task goes on just as well, only unseen. */
	if (!quiet && pthread_create(&b->thread, NULL, run, b) == 0)
		b->running = true;
	*out = b;
	return 0;
}

void
progress_bar_stop(struct progress_bar *b)
{
	if (!b)
		return;
	if (b->running) {
		pthread_mutex_lock(&b->lock);
		b->stop = true;
		pthread_cond_signal(&b->wake);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->thread, NULL);
		if (b->terminal)
			fputs(CLEAR_LINE, stderr);
	}
	pthread_cond_destroy(&b->wake);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

void
progress_bar_print(struct progress_bar *b, FILE *to, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&b->lock);
	if (b->running && b->terminal)
		fputs(CLEAR_LINE, stderr);
	va_start(ap, fmt);
	vfprintf(to, fmt, ap);
	va_end(ap);
	fputc('\n', to);
	fflush(to);
	pthread_mutex_unlock(&b->lock);
}
