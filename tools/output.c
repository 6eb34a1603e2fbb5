#include "tools/output.h"

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_COLUMNS_MAX 16
#define HEX_BYTES_MAX     32

void
output_size(uint64_t bytes, char out[OUTPUT_TEXT_MAX])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	size_t u = 0;

	/* 1023.6 would be shown as 1024 of the smaller unit. */
	while (v >= 1023.5 && u + 1 < sizeof(units) / sizeof(units[0])) {
		v /= 1024;
		u++;
	}
	snprintf(out, OUTPUT_TEXT_MAX, "%.*f %s", u && v < 9.95 ? 1 : 0, v, units[u]);
}

void
output_duration(int64_t us, char out[OUTPUT_TEXT_MAX])
{
	int64_t s = (us + 500000) / 1000000;

	if (us < 0)
		us = s = 0;
	if (us < 999500)
		snprintf(out, OUTPUT_TEXT_MAX, "%lld ms", (long long)((us + 500) / 1000));
	else if (us < 59950000)
		snprintf(out, OUTPUT_TEXT_MAX, "%.1f s", (double)us / 1e6);
	else if (s < 3600)
		snprintf(out, OUTPUT_TEXT_MAX, "%d min %02d s", (int)(s / 60), (int)(s % 60));
	else
		snprintf(out, OUTPUT_TEXT_MAX, "%lld h %02d min", (long long)(s / 3600),
		    (int)(s % 3600 / 60));
}

void
output_lsn(uint64_t lsn, char out[OUTPUT_TEXT_MAX])
{
	snprintf(out, OUTPUT_TEXT_MAX, "%X/%X", (unsigned)(lsn >> 32), (unsigned)lsn);
}

void
output_pg_version(uint32_t version, char out[OUTPUT_TEXT_MAX])
{
	snprintf(out, OUTPUT_TEXT_MAX, "%u.%u", version / 10000, version % 10000);
}

void
output_ratio(uint64_t whole, uint64_t part, char out[OUTPUT_TEXT_MAX])
{
	double v = part ? (double)whole / (double)part : 0;

	if (part)
		snprintf(out, OUTPUT_TEXT_MAX, "%.*f", v < 9.95 ? 1 : 0, v);
	else
		snprintf(out, OUTPUT_TEXT_MAX, "-");
}

void
output_count(uint64_t n, const char *noun, char out[OUTPUT_TEXT_MAX])
{
	snprintf(out, OUTPUT_TEXT_MAX, "%llu %s%s", (unsigned long long)n, noun, n == 1 ? "" : "s");
}

void
output_json_time(struct json *object, const char *key, int64_t us)
{
	char text[UTC_TEXT_MAX];

	utc_format(us, text);
	json_set_str(object, key, text);
}

void
output_json_hex(struct json *object, const char *key, const void *data, size_t len)
{
	char text[2 * HEX_BYTES_MAX + 1];

	assert(len <= HEX_BYTES_MAX);
	hex_encode(text, data, len);
	json_set_str(object, key, text);
}

void
output_json_lsn(struct json *object, const char *key, uint64_t lsn)
{
	char text[OUTPUT_TEXT_MAX];

	output_lsn(lsn, text);
	json_set_str(object, key, text);
}

int
output_json(struct json *j)
{
	int rc = json_print(j, stdout, JSON_LAYOUT_PRETTY);

	json_free(j);
	return rc;
}

static void
print_line(const char *before, const char *fmt, va_list ap)
{
	flockfile(stderr);
	fputs(before, stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	funlockfile(stderr);
}

void
output_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_line("pastfs: warning: ", fmt, ap);
	va_end(ap);
}

void
output_notice(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_line("", fmt, ap);
	va_end(ap);
}

int
output_flush(void)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	if (!errno)
		return err_set(ERR_IO, "cannot write to standard output");
	return err_sys("write to standard output");
}

/* ---- tables ---- */

struct table {
	size_t ncolumns;
	struct {
		char *heading;
		bool right;
	} columns[TABLE_COLUMNS_MAX];
	size_t ncells, cap;
	char **cells;
	bool failed;
};

int
table_new(struct table **out, const char *headings)
{
	struct table *t = mem_alloc(sizeof(*t));

	*out = NULL;
	if (!t)
		return err_nomem();
	for (const char *p = headings;; p++) {
		size_t n = strcspn(p, "|");
		bool right = n && p[n - 1] == '>';
		char *heading = mem_alloc(n + 1);

		if (!heading) {
			table_free(t);
			return err_nomem();
		}
		assert(t->ncolumns < TABLE_COLUMNS_MAX);
		memcpy(heading, p, n - right);
		t->columns[t->ncolumns].heading = heading;
		t->columns[t->ncolumns++].right = right;
		p += n;
		if (!*p)
			break;
	}
	*out = t;
	return 0;
}

void
table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->ncolumns; i++)
		free(t->columns[i].heading);
	for (size_t i = 0; i < t->ncells; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}

static bool
grow(struct table *t)
{
	size_t cap = t->cap ? 2 * t->cap : 64;
	char **cells;

	if (t->ncells < t->cap)
		return true;
	cells = mem_realloc(t->cells, cap * sizeof(*cells));
	if (!cells)
		return false;
	t->cells = cells;
	t->cap = cap;
	return true;
}

/* A control character in a name must not reach the terminal. */
static void
make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

void
table_cell(struct table *t, const char *fmt, ...)
{
	va_list ap, again;
	char *cell;
	int n;

	if (t->failed)
		return;
	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	cell = n < 0 || !grow(t) ? NULL : mem_alloc((size_t)n + 1);
	if (cell) {
		vsnprintf(cell, (size_t)n + 1, fmt, again);
		make_printable(cell);
		t->cells[t->ncells++] = cell;
	} else {
		t->failed = true;
	}
	va_end(again);
	va_end(ap);
}

void
table_size(struct table *t, uint64_t bytes)
{
	char text[OUTPUT_TEXT_MAX];

	output_size(bytes, text);
	table_cell(t, "%s", text);
}

/* Characters, counting each UTF-8 sequence once. */
static size_t
width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static void
print_cell(const char *text, size_t room, bool right, bool last, FILE *to)
{
	int pad = (int)(room - width(text));

	if (right)
		fprintf(to, "%*s%s", pad, "", text);
	else
		fprintf(to, "%s%*s", text, last ? 0 : pad, "");
	fputs(last ? "\n" : "  ", to);
}

int
table_print(const struct table *t, FILE *to)
{
	size_t room[TABLE_COLUMNS_MAX];
	bool headed = false;

	if (t->failed)
		return err_nomem();
	assert(t->ncells % t->ncolumns == 0);
	for (size_t c = 0; c < t->ncolumns; c++) {
		room[c] = width(t->columns[c].heading);
		headed = headed || room[c];
	}
	for (size_t i = 0; i < t->ncells; i++)
		if (width(t->cells[i]) > room[i % t->ncolumns])
			room[i % t->ncolumns] = width(t->cells[i]);

	for (size_t c = 0; headed && c < t->ncolumns; c++)
		print_cell(
		    t->columns[c].heading, room[c], t->columns[c].right, c + 1 == t->ncolumns, to);
	for (size_t i = 0; i < t->ncells; i++) {
		size_t c = i % t->ncolumns;

		print_cell(t->cells[i], room[c], t->columns[c].right, c + 1 == t->ncolumns, to);
	}
	return 0;
}
