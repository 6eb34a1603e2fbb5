/*
 * Fetching WAL from a server that is told what to say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgsync/walfetch.h"
#include "pgsync/walmsg.h"
#include "store/base/bytes.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "tests/support/fake_pg.h"
#include "tests/support/store_fixture.h"
#include "tests/support/wal_page.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SEGMENT   (1u << 20)
#define FIRST     (UINT64_C(5) * SEGMENT)
#define START     (FIRST + 0x28)
#define STOP      (FIRST + SEGMENT + 0x150)
#define SYSTEM_ID UINT64_C(7000000000000000001)

static struct store_fixture fix;
static struct repo_writer *w;
static uint8_t *wal; /* two segments from FIRST on */

/* What the server does. */
struct script {
	uint32_t timeline;
	const char *synchronous; /* synchronous_standby_names */
	const char *slot_error;  /* SQLSTATE of CREATE_REPLICATION_SLOT, or NULL */
	const char *start_error;
	uint64_t skip_at;   /* leave a byte out here */
	uint64_t garble_at; /* change a byte here */
	uint64_t end_at;    /* end the stream here */
	uint64_t hang_at;   /* say nothing more from here on */
	bool ask;           /* a keepalive that wants an answer before each message */
	bool drop;          /* cut the connection where it would end */
	bool no_history;

	atomic_int statuses;
	_Atomic uint64_t written, flushed; /* of the last status */
	atomic_int goodbyes;
	char slot[64], stream[160];
};

static int
setup(void **state)
{
	static const struct repo_writer_opts wopts;
	const struct walmsg_expect headers = {
		.system_identifier = SYSTEM_ID,
		.timeline = 1,
		.segment_bytes = SEGMENT,
	};

	(void)state;
	store_fixture_make(&fix);
	assert_int_equal(repo_writer_open(&w, &fix.opts, &wopts), 0);
	wal = malloc(2 * SEGMENT);
	assert_non_null(wal);
	fixture_text(wal, 2 * SEGMENT, 9);
	for (uint32_t at = 0; at < 2 * SEGMENT; at += WAL_PAGE_BYTES)
		wal_page_head(wal + at, FIRST + at, &headers);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(wal);
	repo_writer_close(w);
	store_fixture_remove(&fix);
	return 0;
}

/* ---- the server ---- */

static void
be64_store(uint8_t *p, uint64_t v)
{
	le64_store(p, __builtin_bswap64(v));
}

static uint64_t
be64_load(const uint8_t *p)
{
	return __builtin_bswap64(le64_load(p));
}

/* Take what the client sent, waiting up to `ms` for it.  False: it ended the stream or is gone. */
static bool
listen_to(struct script *s, struct fake_conn *c, int ms)
{
	uint8_t buf[256];
	size_t len;
	int type;

	while ((type = fake_receive(c, ms, buf, sizeof(buf), &len)) != 0) {
		if (type == 'c')
			atomic_fetch_add(&s->goodbyes, 1);
		if (type != 'd')
			return false;
		assert_int_equal(len, WALMSG_STATUS_LEN);
		atomic_store(&s->written, be64_load(buf + 1));
		atomic_store(&s->flushed, be64_load(buf + 9));
		atomic_fetch_add(&s->statuses, 1);
		ms = 0;
	}
	return true;
}

static bool
keepalive(struct fake_conn *c, bool ask)
{
	uint8_t m[18] = { 'k' };

	m[17] = ask;
	return fake_copy_data(c, m, sizeof(m));
}

/* The stream ends: by the server's word, or by a cut. */
static bool
end_stream(struct script *s, struct fake_conn *c)
{
	if (s->drop)
		return false;
	return fake_copy_done(c) && (listen_to(s, c, 5000) || true) && fake_complete(c) &&
	       fake_ready(c);
}

static bool
stream(struct script *s, struct fake_conn *c)
{
	uint8_t m[25 + 20000];
	uint64_t lsn = FIRST;

	if (!fake_copy_both(c))
		return false;
	while (lsn < FIRST + 2 * SEGMENT) {
		size_t n = sizeof(m) - 25;

		if (s->end_at && lsn >= s->end_at)
			return end_stream(s, c);
		if (s->hang_at && lsn >= s->hang_at)
			break;
		if (s->skip_at && lsn >= s->skip_at) {
			lsn++;
			s->skip_at = 0;
		}
		if (n > FIRST + 2 * SEGMENT - lsn)
			n = (size_t)(FIRST + 2 * SEGMENT - lsn);
		m[0] = 'w';
		be64_store(m + 1, lsn);
		be64_store(m + 9, FIRST + 2 * SEGMENT);
		be64_store(m + 17, 1);
		memcpy(m + 25, wal + (lsn - FIRST), n);
		if (s->garble_at >= lsn && s->garble_at < lsn + n)
			m[25 + (s->garble_at - lsn)] ^= 0x55;
		if ((s->ask && !keepalive(c, true)) || !fake_copy_data(c, m, 25 + n))
			return false;
		if (!listen_to(s, c, s->ask ? 2000 : 0))
			goto ended;
		lsn += n;
	}
	while (listen_to(s, c, 100))
		;
ended:
	return fake_copy_done(c) && fake_complete(c) && fake_ready(c);
}

static bool
handle(void *ctx, struct fake_conn *c, const char *command)
{
	struct script *s = ctx;
	char timeline[16];
	const char *system[] = { "7000000000000000001", timeline, "0/600000", NULL };
	const char *slot[] = { "name", "0/500028", NULL, NULL };
	const char *history[] = { s->no_history ? "00000009.history" : "00000002.history",
		"1\t0/500100\tno reason\n" };

	snprintf(timeline, sizeof(timeline), "%u", s->timeline);
	if (strcmp(command, "IDENTIFY_SYSTEM") == 0)
		return fake_answer(c, 4, system);
	if (strcmp(command, "SHOW synchronous_standby_names") == 0)
		return fake_answer(c, 1, &s->synchronous);
	if (strncmp(command, "CREATE_REPLICATION_SLOT", 23) == 0) {
		assert_int_equal(
		    sscanf(command, "CREATE_REPLICATION_SLOT %60s TEMPORARY PHYSICAL RESERVE_WAL",
			s->slot),
		    1);
		if (s->slot_error)
			return fake_error(c, s->slot_error, "no slot for you") && fake_ready(c);
		return fake_answer(c, 4, slot);
	}
	if (strcmp(command, "TIMELINE_HISTORY 2") == 0)
		return fake_answer(c, 2, history);
	if (strncmp(command, "START_REPLICATION", 17) == 0) {
		snprintf(s->stream, sizeof(s->stream), "%s", command);
		if (s->start_error)
			return fake_error(c, "58P01", s->start_error) && fake_ready(c);
		return stream(s, c);
	}
	return fake_error(c, "42601", "unknown command") && fake_ready(c);
}

/* ---- the client ---- */

struct listing {
	char text[512];
};

static int
list_entry(void *ctx, const char *path, const struct tree_entry *e)
{
	struct listing *l = ctx;
	size_t n = strlen(l->text);

	if (e->type == TREE_FILE)
		snprintf(l->text + n, sizeof(l->text) - n, "%s %llu;", path,
		    (unsigned long long)e->content.size);
	return 0;
}

/* Run the whole script; `tree` gets what is in the tree afterwards. */
static int
fetch(struct script *s, uint64_t expected_id, struct listing *tree)
{
	struct fake_pg *f = fake_pg_start("15.18", handle, s);
	struct walfetch_opts opts = { .conninfo = fake_pg_conninfo(f),
		.system_identifier = expected_id,
		.uid = 26,
		.gid = 26,
		.silence_ms = 400 };
	struct walfetch_range range = { .start_lsn = START, .segment_bytes = SEGMENT };
	struct tree_builder *tb = NULL;
	struct walfetch *wf = NULL;
	struct lane *lane = NULL;
	int rc;

	if (s->timeline == 0)
		s->timeline = 1;
	if (!s->synchronous)
		s->synchronous = "";
	memset(tree, 0, sizeof(*tree));
	assert_int_equal(lane_new(&lane, w), 0);
	assert_int_equal(tree_builder_new(&tb), 0);
	rc = walfetch_start(&wf, &opts);
	if (rc == 0) {
		assert_int_equal(walfetch_system_identifier(wf), SYSTEM_ID);
		range.timeline = walfetch_timeline(wf);
		rc = walfetch_stream(wf, lane, &range, tb);
		if (rc == 0)
			rc = walfetch_finish(wf, STOP);
		else
			walfetch_abort(wf);
	}
	assert_int_equal(tree_builder_each(tb, list_entry, tree), 0);
	tree_builder_free(tb);
	lane_free(lane);
	fake_pg_stop(f);
	return rc;
}

#define BOTH "pg_wal/000000010000000000000005 1048576;pg_wal/000000010000000000000006 1048576;"

static void
test_fetch(void **state)
{
	struct script s = { .ask = true };
	struct listing tree;

	(void)state;
	assert_int_equal(fetch(&s, SYSTEM_ID, &tree), 0);
	assert_string_equal(tree.text, BOTH);
	assert_int_equal(strncmp(s.slot, "pastfs_", 7), 0);
	assert_non_null(strstr(s.stream, s.slot));
	assert_non_null(strstr(s.stream, " PHYSICAL 0/500000 TIMELINE 1"));
	assert_true(atomic_load(&s.statuses) > 10);
	/* Once the first segment is done its WAL may go. */
	assert_true(atomic_load(&s.flushed) == FIRST + SEGMENT);
	assert_true(atomic_load(&s.written) > FIRST + SEGMENT);
	assert_int_equal(atomic_load(&s.goodbyes), 1);
}

static void
test_no_position_for_synchronous_standbys(void **state)
{
	struct script s = { .ask = true, .synchronous = "*" };
	struct listing tree;

	(void)state;
	assert_int_equal(fetch(&s, 0, &tree), 0);
	assert_string_equal(tree.text, BOTH);
	assert_true(atomic_load(&s.statuses) > 10);
	assert_true(atomic_load(&s.flushed) == 0);
}

static void
test_another_timeline(void **state)
{
	struct script s = { .timeline = 2 };
	struct listing tree;

	(void)state;
	assert_int_equal(fetch(&s, SYSTEM_ID, &tree), 0);
	assert_string_equal(tree.text, "pg_wal/00000002.history 21;"
				       "pg_wal/000000020000000000000005 1048576;"
				       "pg_wal/000000020000000000000006 1048576;");
	s.no_history = true;
	assert_int_equal(fetch(&s, SYSTEM_ID, &tree), ERR_DAMAGED);
}

static void
assert_fails(struct script s, uint64_t id, int code, const char *words)
{
	struct listing tree;

	assert_int_equal(fetch(&s, id, &tree), code);
	if (!strstr(err_msg(), words))
		fail_msg("\"%s\" lacks \"%s\"", err_msg(), words);
	assert_null(strstr(tree.text, "00000006"));
}

static void
test_servers_that_refuse(void **state)
{
	(void)state;
	assert_fails((struct script){ 0 }, 5, ERR_USAGE, "another cluster");
	assert_fails(
	    (struct script){ .slot_error = "53400" }, 0, ERR_FAIL, "max_replication_slots");
	assert_fails((struct script){ .slot_error = "42501" }, 0, ERR_DENIED, "REPLICATION");
	assert_fails((struct script){ .slot_error = "XX000" }, 0, ERR_FAIL, "no slot for you");
	assert_fails((struct script){ .start_error = "requested WAL segment is gone" }, 0, ERR_FAIL,
	    "segment is gone");
}

static void
test_streams_that_break(void **state)
{
	(void)state;
	assert_fails((struct script){ .skip_at = FIRST + 50000 }, 0, ERR_DAMAGED, "was due");
	assert_fails(
	    (struct script){ .garble_at = FIRST + 3 * WAL_PAGE_BYTES }, 0, ERR_DAMAGED, "magic");
	assert_fails(
	    (struct script){ .end_at = FIRST + 60000 }, 0, ERR_FAIL, "ended the WAL stream at");
	assert_fails(
	    (struct script){ .end_at = FIRST + 60000, .drop = true }, 0, ERR_FAIL, "connection");
	assert_fails((struct script){ .hang_at = FIRST + 60000 }, 0, ERR_FAIL,
	    "0/50EA60 but is needed up to 0/600150");
}

/* Before anybody waits for a position, a fault shows in the status. */
static void
test_status_and_abort(void **state)
{
	struct script s = { .timeline = 1, .synchronous = "", .end_at = FIRST + 60000 };
	struct fake_pg *f = fake_pg_start("15.18", handle, &s);
	struct walfetch_opts opts = { .conninfo = fake_pg_conninfo(f) };
	struct walfetch_range range = {
		.start_lsn = START, .timeline = 1, .segment_bytes = SEGMENT
	};
	const struct timespec pause = { .tv_nsec = 10000000 };
	struct tree_builder *tb;
	struct walfetch *wf;
	struct lane *lane;
	int rc = 0;

	(void)state;
	assert_int_equal(lane_new(&lane, w), 0);
	assert_int_equal(tree_builder_new(&tb), 0);
	assert_int_equal(walfetch_start(&wf, &opts), 0);
	assert_int_equal(walfetch_status(wf), 0);
	assert_int_equal(walfetch_stream(wf, lane, &range, tb), 0);
	for (int i = 0; rc == 0 && i < 1000; i++) {
		nanosleep(&pause, NULL);
		rc = walfetch_status(wf);
	}
	assert_int_equal(rc, ERR_FAIL);
	assert_non_null(strstr(err_msg(), "ended the WAL stream"));
	walfetch_abort(wf);
	assert_non_null(strstr(err_msg(), "ended the WAL stream"));

	/* An abort in the middle of a healthy stream ends it and adds nothing. */
	s.end_at = 0;
	s.hang_at = FIRST + 60000;
	assert_int_equal(walfetch_start(&wf, &opts), 0);
	assert_int_equal(walfetch_stream(wf, lane, &range, tb), 0);
	walfetch_abort(wf);
	walfetch_abort(NULL);
	tree_builder_free(tb);
	lane_free(lane);
	fake_pg_stop(f);
}

static void
test_no_server(void **state)
{
	struct walfetch_opts opts = { .conninfo = "host=/nonexistent user=u dbname=d" };
	struct walfetch *wf;

	(void)state;
	assert_int_equal(walfetch_start(&wf, &opts), ERR_FAIL);
	assert_null(wf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fetch),
		cmocka_unit_test(test_no_position_for_synchronous_standbys),
		cmocka_unit_test(test_another_timeline),
		cmocka_unit_test(test_servers_that_refuse),
		cmocka_unit_test(test_streams_that_break),
		cmocka_unit_test(test_status_and_abort),
		cmocka_unit_test(test_no_server),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
