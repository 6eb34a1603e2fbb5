#include "pgsync/pgconf.h"

#include "store/base/bytes.h"

#include <string.h>

static bool
is_blank(char ch)
{
	return ch == ' ' || ch == '\t' || ch == '\r';
}

static bool
is_letter(char ch)
{
	unsigned char u = (unsigned char)ch;

	return (u >= 'A' && u <= 'Z') || (u >= 'a' && u <= 'z') || u == '_' || u >= 0x80;
}

static bool
is_digit(char ch)
{
	return ch >= '0' && ch <= '9';
}

static const char *
skip_blank(const char *p, const char *end)
{
	while (p < end && is_blank(*p))
		p++;
	return p;
}

/* A name, perhaps of several parts joined by dots; NULL if there is none or it is too long. */
static const char *
take_name(const char *p, const char *end, char name[PGCONF_NAME_MAX + 1])
{
	size_t n = 0;

	if (p == end || !is_letter(*p))
		return NULL;
	for (; p < end && (is_letter(*p) || is_digit(*p) || *p == '$' || *p == '.'); p++) {
		if (n == PGCONF_NAME_MAX)
			return NULL;
		name[n++] = *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
	}
	name[n] = '\0';
	return p;
}

/* The character that a backslash and what follows it stand for; *p is behind it afterwards. */
static char
take_escape(const char **p, const char *end)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	char ch = *(*p)++;
	const char *known = ch != '\0' ? strchr(from, ch) : NULL;
	unsigned int v = 0;

	if (known)
		return to[known - from];
	if (ch < '0' || ch > '7')
		return ch;
	v = (unsigned int)(ch - '0');
	for (int i = 0; i < 2 && *p < end && **p >= '0' && **p <= '7'; i++)
		v = v * 8 + (unsigned int)(*(*p)++ - '0');
	return (char)(unsigned char)v;
}

/* A quoted value, with p behind the opening quote; NULL if it does not end or is too long. */
static const char *
take_quoted(const char *p, const char *end, char value[PGCONF_VALUE_MAX + 1])
{
	size_t n = 0;

	while (p < end) {
		char ch = *p++;

		if (ch == '\'') {
			if (p == end || *p != '\'') {
				value[n] = '\0';
				return p;
			}
			p++;
		} else if (ch == '\\' && p < end) {
			ch = take_escape(&p, end);
		}
		if (n == PGCONF_VALUE_MAX)
			break;
		value[n++] = ch;
	}
	value[0] = '\0';
	return NULL;
}

static const char *
take_plain(const char *p, const char *end, char value[PGCONF_VALUE_MAX + 1])
{
	size_t n = 0;

	for (; p < end && !is_blank(*p) && *p != '#' && *p != '\'' && *p != '='; p++) {
		if (n == PGCONF_VALUE_MAX) {
			value[0] = '\0';
			return NULL;
		}
		value[n++] = *p;
	}
	value[n] = '\0';
	return n > 0 ? p : NULL;
}

static enum pgconf_directive
directive_of(const char *name)
{
	if (strcmp(name, "include") == 0)
		return PGCONF_INCLUDE;
	if (strcmp(name, "include_if_exists") == 0)
		return PGCONF_INCLUDE_IF_EXISTS;
	if (strcmp(name, "include_dir") == 0)
		return PGCONF_INCLUDE_DIR;
	return PGCONF_SETTING;
}

/* Parse one line without its newline; false if it names no setting. */
static bool
parse_line(const char *p, const char *end, struct pgconf_statement *s)
{
	s->complete = false;
	s->value[0] = '\0';
	p = take_name(skip_blank(p, end), end, s->name);
	if (!p)
		return false;
	s->directive = directive_of(s->name);
	p = skip_blank(p, end);
	if (p < end && *p == '=')
		p = skip_blank(p + 1, end);
	if (p < end && *p == '\'')
		p = take_quoted(p + 1, end, s->value);
	else
		p = take_plain(p, end, s->value);
	if (p) {
		p = skip_blank(p, end);
		s->complete = p == end || *p == '#';
	}
	return true;
}

/* The line at `p`: its end, before the newline if there is one. */
static const char *
line_end(const char *p, const char *end)
{
	const char *nl = memchr(p, '\n', (size_t)(end - p));

	return nl ? nl : end;
}

int
pgconf_each(
    const char *text, size_t len, int (*fn)(void *ctx, const struct pgconf_statement *s), void *ctx)
{
	const char *end = text + len;
	struct pgconf_statement s;

	s.line = 0;
	for (const char *p = text; p < end;) {
		const char *eol = line_end(p, end);
		int rc;

		s.line++;
		rc = parse_line(p, eol, &s) ? fn(ctx, &s) : 0;
		if (rc)
			return rc;
		p = eol < end ? eol + 1 : end;
	}
	return 0;
}

bool
pgconf_ties(const struct pgconf_statement *s)
{
	static const char *const names[] = { "data_directory", "hba_file", "ident_file",
		"external_pid_file", "config_file" };

	/* A line that PostgreSQL would refuse is taken by its name alone: rather too many. */
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(s->name, names[i]) == 0)
			return true;
	return strcmp(s->name, "stats_temp_directory") == 0 && s->value[0] == '/';
}

static void
put_text(struct bytes *out, const char *text)
{
	bytes_put(out, text, strlen(text));
}

static void
put_quoted(struct bytes *out, const char *text)
{
	bytes_put_u8(out, '\'');
	for (; *text; text++) {
		if (*text == '\'' || *text == '\\')
			bytes_put_u8(out, (uint8_t)*text);
		bytes_put_u8(out, (uint8_t)*text);
	}
	bytes_put_u8(out, '\'');
}

static void
put_commented(struct bytes *out, const char *why, const char *p, const char *eol)
{
	put_text(out, "# pastfs: ");
	put_text(out, why);
	put_text(out, "\n#");
	bytes_put(out, p, (size_t)(eol - p));
}

int
pgconf_rewrite(struct bytes *out, const char *text, size_t len, const struct pgconf_rewrite *how,
    bool *changed)
{
	const char *end = text + len;
	struct pgconf_statement s;

	*changed = false;
	s.line = 0;
	for (const char *p = text; p < end;) {
		const char *eol = line_end(p, end), *to = NULL;
		bool named = parse_line(p, eol, &s);

		s.line++;
		if (named && s.directive != PGCONF_SETTING && how->include)
			to = how->include(how->ctx, &s);
		if (named && pgconf_ties(&s)) {
			put_commented(
			    out, "off, because it names a file of the original cluster", p, eol);
			*changed = true;
		} else if (to) {
			put_commented(out, "points into this directory now", p, eol);
			put_text(out, "\n");
			put_text(out, s.name);
			put_text(out, " ");
			put_quoted(out, to);
			*changed = true;
		} else {
			bytes_put(out, p, (size_t)(eol - p));
		}
		if (eol < end)
			bytes_put_u8(out, '\n');
		p = eol < end ? eol + 1 : end;
	}
	return bytes_status(out);
}
