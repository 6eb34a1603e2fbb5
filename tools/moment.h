/*
 * moment: "SOURCE[@WHEN][:PATH]" taken apart.
 */
#ifndef TOOLS_MOMENT_H
#define TOOLS_MOMENT_H

#include "store/source.h"

#include <stdint.h>

struct repo_reader;
struct snapshot;

#define MOMENT_WHEN_MAX 127
#define MOMENT_PATH_MAX 4096

struct moment {
	char source[SOURCE_NAME_MAX + 1];
	char when[MOMENT_WHEN_MAX + 1]; /* "" if none is given */
	char path[MOMENT_PATH_MAX + 1]; /* without slashes at its ends; "" if none is given */
};

enum moment_form {
	MOMENT_WITH_PATH = 0, /* SOURCE[@WHEN][:PATH] */
	MOMENT_ONLY,          /* SOURCE@WHEN: required */
};

/* Errors: ERR_USAGE. */
int moment_parse(struct moment *m, enum moment_form form, const char *text);

/* "Z", "UTC" or "+02:00" to seconds; NULL gives UTC_NO_OFFSET.  Errors: ERR_USAGE. */
int moment_zone(const char *text, int32_t *offset_s);

/*
 * The source, removed or not, and the snapshot that `m` names (the latest if it names none).  Both
 * are the caller's to release; `source` may be NULL.  Errors: ERR_NOTFOUND, ERR_USAGE, the
 * reader's.
 */
int moment_find(struct repo_reader *r, const struct moment *m, int32_t offset_s,
    struct source *source, struct snapshot *snapshot);

#endif
