#include "store/backend.h"

#include "store/backend_ops.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PART_MAX  100
#define PARTS_MAX 8
/* What one read gets at least: most small objects come whole with the first. */
#define FIRST_READ (64u << 10)

struct backend {
	const struct backend_ops *ops;
	void *self;
	char *url;
	struct backend_caps caps;
};

/* The length of the part at `p`, or 0 if it breaks the rules. */
static size_t
part_length(const char *p)
{
	size_t n = 0;

	if (*p == '.')
		return 0;
	while ((p[n] >= 'a' && p[n] <= 'z') || (p[n] >= '0' && p[n] <= '9') || p[n] == '.' ||
	       p[n] == '_' || p[n] == '-')
		n++;
	return n <= PART_MAX ? n : 0;
}

int
backend_check_name(const char *name)
{
	const char *p = name;

	if (strlen(name) > BACKEND_NAME_MAX)
		return err_set(
		    ERR_USAGE, "an object name is longer than %d bytes", BACKEND_NAME_MAX);
	for (int parts = 1; parts <= PARTS_MAX; parts++) {
		size_t n = part_length(p);

		if (n == 0)
			break;
		p += n;
		if (*p == '\0')
			return 0;
		if (*p++ != '/')
			break;
	}
	return err_set(ERR_USAGE,
	    "\"%.*s\" cannot name an object: a name has one to %d parts joined by '/', each of 1 "
	    "to %d "
	    "characters a-z 0-9 . _ - and not beginning with '.'",
	    BACKEND_NAME_MAX, name, PARTS_MAX, PART_MAX);
}

/* "" or whole parts with a '/' behind them. */
static int
check_prefix(const char *prefix)
{
	size_t n = strlen(prefix);
	char name[BACKEND_NAME_MAX + 1];

	if (n == 0)
		return 0;
	if (n > BACKEND_NAME_MAX || prefix[n - 1] != '/')
		return err_set(ERR_USAGE,
		    "\"%.*s\" cannot begin a listing: whole parts and '/' can", BACKEND_NAME_MAX,
		    prefix);
	memcpy(name, prefix, n - 1);
	name[n - 1] = '\0';
	return backend_check_name(name);
}

/* The length of "scheme:" at the start of `url`; 0 if there is none. */
static size_t
scheme_length(const char *url)
{
	size_t n = 0;

	while (islower((unsigned char)url[n]) || (n > 0 && isdigit((unsigned char)url[n])))
		n++;
	return n > 0 && url[n] == ':' ? n + 1 : 0;
}

int
backend_open(struct backend **out, const char *url, bool create)
{
	size_t scheme = scheme_length(url);
	const char *path = url + scheme;

	*out = NULL;
	if (scheme > 0 && strncmp(url, "file:", scheme) != 0)
		return err_set(ERR_UNSUPPORTED,
		    "cannot open %s: this build keeps repositories in directories only (/path or "
		    "file:/path)",
		    url);
	if (path[0] != '/')
		return err_set(ERR_USAGE,
		    "cannot open \"%s\": write the directory as an absolute path, such as "
		    "/srv/pastfs",
		    url);
	/* "file:///path", with an empty host, is the same place. */
	if (scheme > 0 && strncmp(path, "///", 3) == 0)
		path += 2;
	return backend_local_open(out, path, create);
}

int
backend_new(struct backend **out, const char *url, const struct backend_ops *ops, void *self,
    const struct backend_caps *caps)
{
	struct backend *b = mem_alloc(sizeof(*b));

	*out = NULL;
	if (b)
		b->url = mem_strdup(url);
	if (!b || !b->url) {
		free(b);
		ops->close(self);
		return err_nomem();
	}
	b->ops = ops;
	b->self = self;
	b->caps = *caps;
	*out = b;
	return 0;
}

void
backend_close(struct backend *b)
{
	if (!b)
		return;
	b->ops->close(b->self);
	free(b->url);
	free(b);
}

const char *
backend_url(const struct backend *b)
{
	return b->url;
}

const struct backend_caps *
backend_caps(const struct backend *b)
{
	return &b->caps;
}

int
backend_put(struct backend *b, const char *name, const void *data, size_t len)
{
	int rc = backend_check_name(name);

	return rc ? rc : b->ops->put(b->self, name, data, len);
}

int
backend_get(struct backend *b, const char *name, uint64_t off, void *buf, size_t len, size_t *got)
{
	int rc = backend_check_name(name);

	*got = 0;
	return rc ? rc : b->ops->get(b->self, name, off, buf, len, got);
}

/* Get what lies behind the first `have` bytes of an object into *data, enlarging it. */
static int
get_rest(struct backend *b, const char *name, size_t max, uint8_t **data, size_t have, size_t *len)
{
	struct object_info info;
	uint8_t *larger;
	size_t got;
	int rc;

	rc = backend_stat(b, name, &info);
	if (rc)
		return rc;
	if (info.bytes > max)
		return err_set(ERR_DAMAGED,
		    "object %s has %llu bytes, more than the %zu that it can have", name,
		    (unsigned long long)info.bytes, max);
	if (info.bytes < have)
		return err_set(ERR_DAMAGED, "object %s changed while it was read", name);
	larger = mem_realloc(*data, info.bytes);
	if (!larger)
		return err_nomem();
	*data = larger;
	rc = backend_get(b, name, have, larger + have, info.bytes - have, &got);
	if (rc)
		return rc;
	if (got != info.bytes - have)
		return err_set(ERR_DAMAGED, "object %s ends before its length", name);
	*len = info.bytes;
	return 0;
}

int
backend_get_all(struct backend *b, const char *name, size_t max, void **data, size_t *len)
{
	/* One byte more than allowed, so that too long an object is seen. */
	size_t first = max < FIRST_READ ? max + 1 : FIRST_READ;
	uint8_t *buf;
	size_t got;
	int rc;

	*data = NULL;
	*len = 0;
	buf = mem_alloc(first);
	if (!buf)
		return err_nomem();
	rc = backend_get(b, name, 0, buf, first, &got);
	if (rc == 0 && got == first)
		rc = get_rest(b, name, max, &buf, first, &got);
	if (rc) {
		free(buf);
		return rc;
	}
	*data = buf;
	*len = got;
	return 0;
}

int
backend_stat(struct backend *b, const char *name, struct object_info *info)
{
	int rc = backend_check_name(name);

	return rc ? rc : b->ops->stat(b->self, name, info);
}

int
backend_list(struct backend *b, const char *prefix,
    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx)
{
	int rc = check_prefix(prefix);

	return rc ? rc : b->ops->list(b->self, prefix, fn, ctx);
}

int
backend_delete(struct backend *b, const char *name)
{
	int rc = backend_check_name(name);

	return rc ? rc : b->ops->del(b->self, name);
}

int
backend_space(struct backend *b, uint64_t *free_bytes, uint64_t *total_bytes)
{
	if (!b->ops->space)
		return err_set(ERR_UNSUPPORTED, "%s does not tell how much room it has", b->url);
	return b->ops->space(b->self, free_bytes, total_bytes);
}
