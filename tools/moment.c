#include "tools/moment.h"

#include "store/base/err.h"
#include "store/base/utc.h"
#include "store/snapshot.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* As many of the characters at `p` as fit the pattern, where '0' stands for a digit. */
static size_t
match(const char *p, const char *pattern)
{
	size_t n = 0;

	for (; pattern[n]; n++)
		if (pattern[n] == '0' ? !isdigit((unsigned char)p[n]) : p[n] != pattern[n])
			return 0;
	return n;
}

/*
 * The length of a time, which has colons of its own: "2026-11-20", 'T' or a blank, "14:03:22", a
 * fraction, a zone.  0 if it is not one.
 */
static size_t
time_length(const char *p)
{
	size_t n = match(p, "0000-00-00"), more;

	if (!n || !strchr("Tt ", p[n]))
		return 0;
	more = match(p + n + 1, "00:00:00");
	if (!more)
		return 0;
	n += 1 + more;
	if (p[n] == '.')
		n += 1 + strspn(p + n + 1, "0123456789");
	if (p[n] == 'Z' || p[n] == 'z')
		return n + 1;
	more = match(p + n, "+00:00");
	if (!more)
		more = match(p + n, "-00:00");
	return n + more;
}

static size_t
when_length(const char *p)
{
	size_t n = time_length(p);

	if (n)
		return n;
	if (strncmp(p, "snap:", 5) == 0)
		return 5 + strcspn(p + 5, ":");
	return strcspn(p, ":");
}

static int
take(char *out, size_t room, const char *text, size_t len, const char *what)
{
	if (len >= room)
		return err_set(ERR_USAGE, "%s in \"%.100s…\" is too long", what, text);
	memcpy(out, text, len);
	out[len] = '\0';
	return 0;
}

/* Slashes at the ends mean nothing; inside they are checked by the look-up. */
static int
take_path(struct moment *m, const char *path)
{
	size_t n;

	path += strspn(path, "/");
	n = strlen(path);
	while (n && path[n - 1] == '/')
		n--;
	return take(m->path, sizeof(m->path), path, n, "the path");
}

int
moment_parse(struct moment *m, enum moment_form form, const char *text)
{
	size_t n = strcspn(text, "@:");
	const char *p = text + n;
	int rc;

	memset(m, 0, sizeof(*m));
	rc = take(m->source, sizeof(m->source), text, n, "the source's name");
	if (!rc)
		rc = source_check_name(m->source);
	if (rc)
		return rc;
	if (*p == '@') {
		p++;
		n = form == MOMENT_ONLY ? strlen(p) : when_length(p);
		rc = take(m->when, sizeof(m->when), p, n, "the moment");
		if (!rc && !n)
			rc = err_set(ERR_USAGE, "\"%s\" names no moment after '@'", text);
		if (rc)
			return rc;
		p += n;
	}
	if (form == MOMENT_ONLY) {
		if (m->when[0] && !*p)
			return 0;
		return err_set(ERR_USAGE,
		    "\"%s\" is not of the form SOURCE@WHEN, such as %s@latest", text, m->source);
	}
	if (!*p)
		return 0;
	if (*p != ':')
		return err_set(ERR_USAGE,
		    "\"%s\" is not of the form SOURCE[@WHEN][:PATH]; after the moment comes \"%s\"",
		    text, p);
	return take_path(m, p + 1);
}

int
moment_zone(const char *text, int32_t *offset_s)
{
	int hours, minutes;

	*offset_s = UTC_NO_OFFSET;
	if (!text)
		return 0;
	*offset_s = 0;
	if (strcmp(text, "Z") == 0 || strcasecmp(text, "UTC") == 0)
		return 0;
	if (strlen(text) == 6 && (match(text, "+00:00") || match(text, "-00:00"))) {
		hours = (text[1] - '0') * 10 + text[2] - '0';
		minutes = (text[4] - '0') * 10 + text[5] - '0';
		*offset_s = (hours * 60 + minutes) * 60 * (text[0] == '-' ? -1 : 1);
		if (hours < 24 && minutes < 60)
			return 0;
	}
	return err_set(ERR_USAGE, "--tz %s: a zone is written Z, UTC or as +02:00", text);
}

int
moment_find(struct repo_reader *r, const struct moment *m, int32_t offset_s, struct source *source,
    struct snapshot *snapshot)
{
	struct source found = { 0 };
	int rc = source_find(r, m->source, true, &found);

	if (!rc)
		rc = snapshot_resolve(
		    r, &found, m->when[0] ? m->when : "latest", offset_s, snapshot);
	if (rc || !source)
		source_release(&found);
	else
		*source = found;
	return rc;
}
