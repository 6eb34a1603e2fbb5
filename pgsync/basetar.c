/*
 * A header block, 512 bytes:
 *
 *     0 name 100      100 mode 8      108 uid 8      116 gid 8    124 size 12   136 mtime 12
 *   148 checksum 8    156 type 1      157 link target 100         257 magic "ustar" 6
 *   263 version 2     265 user 32     297 group 32   329 devices 16            345 prefix 155
 *
 * Numbers are octal text, or base 256 when the first byte is 0x80.  Content follows, padded to a
 * whole block.  Two zero blocks end an archive; servers up to 14 leave them to the client.
 *
 * Invariant: `left` and `padding` are non-zero only inside a member whose begin() was called.
 */
#include "pgsync/basetar.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK      512
#define NAME_LEN   100
#define PREFIX_LEN 155

struct basetar {
	struct basetar_sink sink;
	uint8_t block[BLOCK]; /* a header under way */
	size_t have;
	uint64_t left;  /* bytes of content to come */
	size_t padding; /* bytes to skip behind the content */
	bool in_member;
	bool ended; /* a zero block was seen */
	struct err_saved failure;
};

int
basetar_new(struct basetar **out, const struct basetar_sink *sink)
{
	struct basetar *t = mem_alloc(sizeof(*t));

	*out = t;
	if (!t)
		return err_nomem();
	t->sink = *sink;
	return 0;
}

void
basetar_free(struct basetar *t)
{
	free(t);
}

/* Octal digits up to a space or a NUL; or base 256.  False if it is neither or does not fit. */
static bool
number(const uint8_t *p, size_t len, uint64_t *out)
{
	uint64_t v = 0;
	size_t i = 0;

	if (p[0] == 0x80) {
		for (i = 1; i < len; i++) {
			if (v >> 55)
				return false;
			v = v << 8 | p[i];
		}
		*out = v;
		return true;
	}
	while (i < len && p[i] == ' ')
		i++;
	if (i == len || p[i] < '0' || p[i] > '7')
		return false;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 60)
			return false;
		v = v << 3 | (uint64_t)(p[i] - '0');
	}
	if (i < len && p[i] != ' ' && p[i] != 0)
		return false;
	*out = v;
	return true;
}

static bool
checksum_is_right(const uint8_t *block)
{
	uint64_t stored, sum = 0;

	/* The field itself counts as spaces. */
	for (size_t i = 0; i < BLOCK; i++)
		sum += i >= 148 && i < 156 ? ' ' : block[i];
	return number(block + 148, 8, &stored) && stored == sum;
}

/* Join prefix and name to `path`, without a slash at the end. */
static void
join_name(const uint8_t *block, char path[BASETAR_PATH_MAX + 1])
{
	size_t prefix = strnlen((const char *)block + 345, PREFIX_LEN);
	size_t name = strnlen((const char *)block, NAME_LEN), n = 0;

	if (prefix > 0) {
		memcpy(path, block + 345, prefix);
		path[prefix] = '/';
		n = prefix + 1;
	}
	memcpy(path + n, block, name);
	n += name;
	while (n > 1 && path[n - 1] == '/')
		n--;
	path[n] = 0;
}

/* A relative path whose parts are all names; the server writes the root as "." and a slash. */
static bool
path_is_good(const char *path)
{
	if (path[0] == 0)
		return true;
	for (;;) {
		size_t n = strcspn(path, "/");

		if (n == 0 || (n == 1 && path[0] == '.') || (n == 2 && memcmp(path, "..", 2) == 0))
			return false;
		if (path[n] == 0)
			return true;
		path += n + 1;
	}
}

static int
member_type(uint8_t flag, enum basetar_type *type, const char *path)
{
	switch (flag) {
	case '0':
	case 0:
		*type = BASETAR_FILE;
		return 0;
	case '2':
		*type = BASETAR_SYMLINK;
		return 0;
	case '5':
		*type = BASETAR_DIR;
		return 0;
	default:
		return err_set(ERR_DAMAGED,
		    "the server's archive has a member of unknown type 0x%02x: %s", flag, path);
	}
}

static int
end_member(struct basetar *t)
{
	t->in_member = false;
	return t->sink.end(t->sink.ctx);
}

static int
take_header(struct basetar *t)
{
	static const uint8_t zeros[BLOCK];
	char path[BASETAR_PATH_MAX + 1], target[BASETAR_TARGET_MAX + 1];
	struct basetar_member m = { .path = path, .target = target };
	const uint8_t *b = t->block;
	uint64_t mode, mtime;
	int rc;

	if (memcmp(b, zeros, BLOCK) == 0) {
		t->ended = true;
		return 0;
	}
	if (t->ended)
		return err_set(ERR_DAMAGED, "the server's archive goes on behind its end");
	if (memcmp(b + 257, "ustar", 5) != 0 || !checksum_is_right(b))
		return err_set(ERR_DAMAGED, "the server's archive has a damaged header");
	join_name(b, path);
	rc = member_type(b[156], &m.type, path);
	if (rc)
		return rc;
	/* The data directory itself may be listed as ".". */
	if (strcmp(path, ".") == 0)
		path[0] = 0;
	else if (strncmp(path, "./", 2) == 0)
		memmove(path, path + 2, strlen(path + 2) + 1);
	if (!path_is_good(path) || (path[0] == 0 && m.type != BASETAR_DIR))
		return err_set(ERR_DAMAGED, "the server's archive has a member named \"%s\"", path);
	memcpy(target, b + 157, BASETAR_TARGET_MAX);
	target[BASETAR_TARGET_MAX] = 0;
	if (!number(b + 100, 8, &mode) || !number(b + 124, 12, &m.size) ||
	    !number(b + 136, 12, &mtime))
		return err_set(
		    ERR_DAMAGED, "the server's archive has a malformed number: %s", path);
	if (m.type != BASETAR_FILE)
		m.size = 0;
	m.mode = (uint32_t)mode & 07777;
	m.mtime_s = (int64_t)(mtime & INT64_MAX);
	t->left = m.size;
	t->padding = (size_t)(-m.size % BLOCK);
	t->in_member = true;
	rc = t->sink.begin(t->sink.ctx, &m);
	if (rc == 0 && t->left == 0)
		rc = end_member(t);
	return rc;
}

/* Use up some of the input; *used is never 0 for len > 0. */
static int
step(struct basetar *t, const uint8_t *p, size_t len, size_t *used)
{
	int rc;

	if (t->left > 0) {
		*used = len < t->left ? len : (size_t)t->left;
		rc = t->sink.data(t->sink.ctx, p, *used);
		t->left -= *used;
		return rc == 0 && t->left == 0 ? end_member(t) : rc;
	}
	if (t->padding > 0) {
		*used = len < t->padding ? len : t->padding;
		t->padding -= *used;
		return 0;
	}
	*used = len < BLOCK - t->have ? len : BLOCK - t->have;
	memcpy(t->block + t->have, p, *used);
	t->have += *used;
	if (t->have < BLOCK)
		return 0;
	t->have = 0;
	return take_header(t);
}

int
basetar_push(struct basetar *t, const void *data, size_t len)
{
	const uint8_t *p = data;

	if (t->failure.code)
		return err_restore(&t->failure);
	while (len > 0) {
		size_t used;
		int rc = step(t, p, len, &used);

		if (rc) {
			err_save(&t->failure, rc);
			return rc;
		}
		p += used;
		len -= used;
	}
	return 0;
}

int
basetar_finish(struct basetar *t)
{
	if (t->failure.code)
		return err_restore(&t->failure);
	if (t->in_member || t->padding > 0 || t->have > 0)
		return err_set(ERR_DAMAGED, "the server's archive ends in the middle; the "
					    "connection or the server broke off");
	return 0;
}
