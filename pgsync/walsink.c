#include "pgsync/walsink.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/content.h"
#include "store/tree.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct walsink {
	struct walsink_opts opts;
	struct lane *lane;
	struct tree_builder *tree;
	uint64_t lsn;
	struct content_writer *segment; /* the open one, or NULL at a segment's border */
	uint8_t header[WAL_PAGE_LONG_HEADER];
	size_t have;   /* bytes of the page's header gathered */
	bool switched; /* the segment was ended early: only zeros follow in it */
};

int
walsink_new(struct walsink **out, struct lane *lane, struct tree_builder *tb,
    const struct walsink_opts *opts)
{
	struct walsink *s;
	uint32_t segment = opts->expect.segment_bytes;

	*out = NULL;
	if (segment < WAL_SEGMENT_MIN || segment > WAL_SEGMENT_MAX || segment & (segment - 1))
		return err_set(ERR_UNSUPPORTED, "WAL segments of %u bytes cannot be", segment);
	s = mem_alloc(sizeof(*s));
	if (!s)
		return err_nomem();
	s->opts = *opts;
	s->lane = lane;
	s->tree = tb;
	s->lsn = opts->start_lsn - opts->start_lsn % segment;
	*out = s;
	return 0;
}

void
walsink_free(struct walsink *s)
{
	if (!s)
		return;
	content_writer_free(s->segment);
	free(s);
}

uint64_t
walsink_lsn(const struct walsink *s)
{
	return s->lsn;
}

uint64_t
walsink_segment_lsn(const struct walsink *s)
{
	return s->lsn - s->lsn % s->opts.expect.segment_bytes;
}

/* Add a finished content as pg_wal/NAME; takes `content`. */
static int
add_entry(struct walsink *s, const char *name, struct content *content)
{
	struct tree_entry e = {
		.type = TREE_FILE,
		.mode = 0600,
		.uid = s->opts.uid,
		.gid = s->opts.gid,
		.mtime_s = utc_now_us() / 1000000,
		.content = *content,
	};
	char path[TREE_NAME_MAX + 8];

	snprintf(path, sizeof(path), "pg_wal/%s", name);
	return tree_builder_add(s->tree, path, &e);
}

static int
close_segment(struct walsink *s, uint64_t inside)
{
	char name[WAL_SEGMENT_NAME_MAX];
	struct content content;
	int rc;

	walmsg_segment_name(name, s->opts.expect.timeline, inside, s->opts.expect.segment_bytes);
	rc = content_writer_finish(s->segment, &content);
	content_writer_free(s->segment);
	s->segment = NULL;
	if (rc)
		return err_prefix(rc, "store WAL segment %s", name);
	return add_entry(s, name, &content);
}

static bool
all_zero(const uint8_t *data, size_t len)
{
	return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

/* Look at the bytes that belong to the header of the page that `lsn` lies in. */
static int
watch_header(struct walsink *s, const uint8_t *data, size_t len)
{
	uint64_t page = s->lsn - s->lsn % WAL_PAGE_BYTES;
	size_t off = (size_t)(s->lsn - page), n;
	size_t need =
	    page % s->opts.expect.segment_bytes ? WAL_PAGE_SHORT_HEADER : WAL_PAGE_LONG_HEADER;

	if (off >= need)
		return 0;
	assert(off == 0 || off == s->have);
	n = len < need - off ? len : need - off;
	memcpy(s->header + off, data, n);
	s->have = off + n;
	if (s->have < need)
		return 0;

	/* Behind a switch of segments (pg_backup_stop() makes one) come pages of zeros. */
	if (page % s->opts.expect.segment_bytes != 0 && all_zero(s->header, need)) {
		s->switched = true;
		return 0;
	}
	return walmsg_check_page(s->header, need, page, &s->opts.expect);
}

/* `len` bytes that do not reach past the page. */
static int
append_in_page(struct walsink *s, const uint8_t *data, size_t len)
{
	int rc = s->switched ? 0 : watch_header(s, data, len);

	if (rc)
		return rc;
	if (s->switched && !all_zero(data, len)) {
		char at[WAL_LSN_TEXT_MAX];

		return err_set(ERR_DAMAGED, "the WAL at %s goes on behind the end of its segment",
		    walmsg_lsn_text(at, s->lsn));
	}
	if (!s->segment) {
		rc = content_writer_new(&s->segment, s->lane, CHUNKING_CDC, NULL);
		if (rc)
			return rc;
	}
	rc = content_writer_append(s->segment, data, len);
	if (rc)
		return rc;
	s->lsn += len;
	if (s->lsn % s->opts.expect.segment_bytes == 0) {
		s->switched = false;
		rc = close_segment(s, s->lsn - 1);
	}
	return rc;
}

int
walsink_append(struct walsink *s, uint64_t lsn, const void *data, size_t len)
{
	char at[WAL_LSN_TEXT_MAX], wanted[WAL_LSN_TEXT_MAX];
	const uint8_t *p = data;

	if (lsn != s->lsn)
		return err_set(ERR_DAMAGED,
		    "the server sent WAL from %s where %s was due; nothing may be left out",
		    walmsg_lsn_text(at, lsn), walmsg_lsn_text(wanted, s->lsn));
	while (len > 0) {
		size_t n = WAL_PAGE_BYTES - (size_t)(s->lsn % WAL_PAGE_BYTES);
		int rc;

		n = n < len ? n : len;
		rc = append_in_page(s, p, n);
		if (rc)
			return rc;
		p += n;
		len -= n;
	}
	return 0;
}

int
walsink_finish(struct walsink *s)
{
	static const uint8_t zeros[64 << 10];
	uint64_t left;
	int rc = 0;

	if (!s->segment)
		return 0;
	left = s->opts.expect.segment_bytes - s->lsn % s->opts.expect.segment_bytes;
	while (left > 0 && rc == 0) {
		size_t n = left < sizeof(zeros) ? (size_t)left : sizeof(zeros);

		rc = content_writer_append(s->segment, zeros, n);
		left -= n;
	}
	if (rc == 0)
		rc = close_segment(s, s->lsn);
	return rc;
}

int
walsink_add_file(struct walsink *s, const char *name, const void *data, size_t len)
{
	struct content_writer *cw = NULL;
	struct content content;
	int rc;

	rc = content_writer_new(&cw, s->lane, CHUNKING_CDC, NULL);
	if (rc == 0)
		rc = content_writer_append(cw, data, len);
	if (rc == 0)
		rc = content_writer_finish(cw, &content);
	content_writer_free(cw);
	return rc ? rc : add_entry(s, name, &content);
}
