/*
 * The stream thread owns `conn` and `sink` between walfetch_stream() and the join.  What the
 * threads tell each other is atomic: `target`, `quit`, `ended`; `failure` is written before `ended`
 * is set.
 */
#include "pgsync/walfetch.h"

#include "pgsync/pgconn.h"
#include "pgsync/walsink.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/secret.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SILENCE_MS  60000
#define STATUS_MS   10000
#define SLICE_MS    50
#define GOODBYE_MS  2000
#define HISTORY_MAX (1u << 20)
#define NO_TARGET   UINT64_MAX

struct walfetch {
	struct pgconn *conn;
	struct walsink *sink;
	char slot[40];
	uint64_t system_identifier;
	uint32_t timeline;        /* the server's at the start */
	uint32_t stream_timeline; /* the one that is streamed */
	uint32_t uid, gid;
	int64_t silence_ms;
	bool may_report; /* tell the server what its slot may let go */

	pthread_t thread;
	bool running;
	_Atomic uint64_t target; /* stream until here */
	atomic_bool quit;
	atomic_bool ended;
	struct err_saved failure;
};

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- starting ---- */

static int
identify(struct walfetch *wf, uint64_t expected)
{
	struct pgresult *r = NULL;
	uint64_t timeline = 0;
	int rc;

	rc = pgconn_query(wf->conn, &r, "IDENTIFY_SYSTEM", 0, NULL);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 0, &wf->system_identifier);
	if (rc == 0)
		rc = pgresult_u64(r, 0, 1, &timeline);
	pgresult_free(r);
	if (rc)
		return rc;
	wf->timeline = (uint32_t)timeline;
	if (expected && expected != wf->system_identifier)
		return err_set(ERR_USAGE,
		    "PostgreSQL at %s has system identifier %llu, this source is %llu: it is "
		    "another "
		    "cluster; correct the connection string, or add a source of its own",
		    pgconn_where(wf->conn), (unsigned long long)wf->system_identifier,
		    (unsigned long long)expected);
	return 0;
}

/*
 * A receiver that reports a flushed position counts as a synchronous standby where the server's
 * settings let it ('*'): commits would be told safe by us, or wait for us.  It does so only where
 * no commit waits for anybody; otherwise the slot keeps its WAL until the backup ends.
 */
static int
ask_whether_to_report(struct walfetch *wf)
{
	struct pgresult *r = NULL;
	const char *names;
	int rc;

	rc = pgconn_query(wf->conn, &r, "SHOW synchronous_standby_names", 0, NULL);
	names = rc == 0 ? pgresult_text(r, 0, 0) : NULL;
	wf->may_report = names && names[0] == '\0';
	pgresult_free(r);
	return rc;
}

static int
make_slot(struct walfetch *wf)
{
	char command[128];
	uint8_t random[8];
	char digits[2 * sizeof(random) + 1];
	int rc;

	random_bytes(random, sizeof(random));
	hex_encode(digits, random, sizeof(random));
	snprintf(wf->slot, sizeof(wf->slot), "pastfs_%s", digits);
	snprintf(command, sizeof(command),
	    "CREATE_REPLICATION_SLOT %s TEMPORARY PHYSICAL RESERVE_WAL", wf->slot);
	rc = pgconn_query(wf->conn, NULL, command, 0, NULL);
	if (rc == 0)
		return 0;
	if (strcmp(pgconn_sqlstate(wf->conn), "53400") == 0)
		return err_set(
		    rc, "%s; raise max_replication_slots or drop a slot nobody uses", err_msg());
	if (strcmp(pgconn_sqlstate(wf->conn), "42501") == 0)
		return err_set(
		    rc, "%s; give the role the right: ALTER ROLE … REPLICATION", err_msg());
	return err_prefix(rc, "make a temporary replication slot");
}

int
walfetch_start(struct walfetch **out, const struct walfetch_opts *opts)
{
	struct walfetch *wf = mem_alloc(sizeof(*wf));
	int rc;

	*out = NULL;
	if (!wf)
		return err_nomem();
	wf->uid = opts->uid;
	wf->gid = opts->gid;
	wf->silence_ms = opts->silence_ms > 0 ? opts->silence_ms : SILENCE_MS;
	atomic_store(&wf->target, NO_TARGET);
	rc = pgconn_open(&wf->conn, opts->conninfo, PGCONN_REPLICATION);
	if (rc == 0)
		rc = identify(wf, opts->system_identifier);
	if (rc == 0)
		rc = ask_whether_to_report(wf);
	if (rc == 0)
		rc = make_slot(wf);
	if (rc) {
		walfetch_abort(wf);
		return rc;
	}
	*out = wf;
	return 0;
}

uint64_t
walfetch_system_identifier(const struct walfetch *wf)
{
	return wf->system_identifier;
}

uint32_t
walfetch_timeline(const struct walfetch *wf)
{
	return wf->timeline;
}

/* ---- the stream ---- */

static int
send_status(struct walfetch *wf, bool ask)
{
	uint8_t message[WALMSG_STATUS_LEN];
	uint64_t flushed = wf->may_report ? walsink_segment_lsn(wf->sink) : 0;

	walmsg_encode_status(message, walsink_lsn(wf->sink), flushed, utc_now_us(), ask);
	return pgconn_copy_write(wf->conn, message, sizeof(message));
}

/* The server ended the stream by itself: what for? */
static int
stream_ended(struct walfetch *wf)
{
	char at[WAL_LSN_TEXT_MAX];
	int rc;

	walmsg_lsn_text(at, walsink_lsn(wf->sink));
	rc = pgconn_copy_end(wf->conn);
	if (rc == 0)
		rc = pgconn_next(wf->conn, NULL);
	if (rc < 0)
		return err_prefix(rc, "WAL stream at %s", at);
	return err_set(ERR_FAIL,
	    "PostgreSQL at %s ended the WAL stream at %s: it shuts down, or timeline %u ended by a "
	    "promotion; take the backup again",
	    pgconn_where(wf->conn), at, wf->stream_timeline);
}

static int
take_message(struct walfetch *wf, const uint8_t *data, size_t len)
{
	uint64_t before = walsink_segment_lsn(wf->sink);
	struct walmsg m;
	int rc = walmsg_decode(&m, data, len);

	if (rc)
		return rc;
	if (m.kind == WALMSG_KEEPALIVE)
		return m.reply_requested ? send_status(wf, false) : 0;
	rc = walsink_append(wf->sink, m.start_lsn, m.data, m.len);
	if (rc == 0 && walsink_segment_lsn(wf->sink) != before)
		rc = send_status(wf, false);
	return rc;
}

static int
silent(struct walfetch *wf, const char *what)
{
	char at[WAL_LSN_TEXT_MAX], target[WAL_LSN_TEXT_MAX];
	uint64_t stop = atomic_load(&wf->target);

	return err_set(ERR_FAIL,
	    "PostgreSQL at %s sent %s for %lld s: its WAL is here up to %s%s%s; check the server "
	    "and "
	    "the network, and take the backup again",
	    pgconn_where(wf->conn), what, (long long)(wf->silence_ms / 1000),
	    walmsg_lsn_text(at, walsink_lsn(wf->sink)),
	    stop == NO_TARGET ? "" : " but is needed up to ",
	    stop == NO_TARGET ? "" : walmsg_lsn_text(target, stop));
}

/*
 * Receive until the target is reached or somebody asks to quit.  Before the target is known an
 * idle server has nothing to send, so it is asked for a sign of life; afterwards WAL must come.
 */
static int
receive(struct walfetch *wf)
{
	int64_t heard = now_ms(), moved = heard, told = heard;
	int64_t status_ms = STATUS_MS < wf->silence_ms / 3 ? STATUS_MS : wf->silence_ms / 3;
	int rc = 0;

	while (rc == 0 && !atomic_load(&wf->quit)) {
		uint64_t target = atomic_load(&wf->target), before = walsink_lsn(wf->sink);
		const uint8_t *data;
		int64_t now;
		size_t len;

		if (before >= target)
			return 0;
		rc = pgconn_copy_read(wf->conn, SLICE_MS, &data, &len);
		if (rc < 0)
			return rc;
		now = now_ms();
		if (rc == 2)
			return stream_ended(wf);
		if (rc == 1) {
			heard = now;
			rc = take_message(wf, data, len);
		}
		if (walsink_lsn(wf->sink) != before || target == NO_TARGET)
			moved = now;
		if (rc == 0 && now - heard > wf->silence_ms)
			rc = silent(wf, "nothing");
		if (rc == 0 && now - moved > wf->silence_ms)
			rc = silent(wf, "no WAL");
		if (rc == 0 && now - told > status_ms) {
			told = now;
			rc = send_status(wf, true);
		}
	}
	return rc;
}

/* End the stream in order, so that the server's log has no broken connection; as far as it goes. */
static void
say_goodbye(struct walfetch *wf)
{
	int64_t deadline = now_ms() + GOODBYE_MS;
	const uint8_t *data;
	size_t len;

	if (pgconn_copy_end(wf->conn))
		return;
	while (now_ms() < deadline) {
		int rc = pgconn_copy_read(wf->conn, SLICE_MS, &data, &len);

		if (rc < 0)
			return;
		if (rc == 2)
			break;
	}
	for (int i = 0; i < 4 && now_ms() < deadline; i++)
		if (pgconn_next(wf->conn, NULL) <= 0)
			return;
}

static void *
stream_thread(void *arg)
{
	struct walfetch *wf = arg;
	int rc = receive(wf);

	if (rc)
		err_save(&wf->failure, rc);
	else
		say_goodbye(wf);
	atomic_store(&wf->ended, true);
	return NULL;
}

static int
fetch_history(struct walfetch *wf)
{
	struct pgresult *r = NULL;
	char command[64];
	const char *name, *text;
	size_t len;
	int rc;

	snprintf(command, sizeof(command), "TIMELINE_HISTORY %u", wf->stream_timeline);
	rc = pgconn_query(wf->conn, &r, command, 0, NULL);
	if (rc)
		return err_prefix(rc, "fetch the history of timeline %u", wf->stream_timeline);
	name = pgresult_text(r, 0, 0);
	text = pgresult_text(r, 0, 1);
	len = pgresult_len(r, 0, 1);
	snprintf(command, sizeof(command), "%08X.history", wf->stream_timeline);
	if (!name || !text || strcmp(name, command) != 0 || len > HISTORY_MAX)
		rc = err_set(ERR_DAMAGED, "the server sent no usable history of timeline %u",
		    wf->stream_timeline);
	else
		rc = walsink_add_file(wf->sink, command, text, len);
	pgresult_free(r);
	return rc;
}

static int
begin_stream(struct walfetch *wf)
{
	uint64_t from = walsink_lsn(wf->sink);
	char command[160];
	int rc;

	snprintf(command, sizeof(command), "START_REPLICATION SLOT %s PHYSICAL %X/%X TIMELINE %u",
	    wf->slot, (unsigned)(from >> 32), (unsigned)from, wf->stream_timeline);
	rc = pgconn_send(wf->conn, command);
	if (rc == 0)
		rc = pgconn_next(wf->conn, NULL);
	if (rc < 0)
		return err_prefix(rc, "start the WAL stream");
	if (rc != PGCONN_COPY_BOTH)
		return err_set(ERR_FAIL,
		    "PostgreSQL at %s did not start a WAL stream on timeline %u",
		    pgconn_where(wf->conn), wf->stream_timeline);
	return 0;
}

int
walfetch_stream(struct walfetch *wf, struct lane *lane, const struct walfetch_range *range,
    struct tree_builder *tb)
{
	struct walsink_opts opts = {
		.expect = {
			.server_version = (uint32_t)pgconn_version(wf->conn),
			.system_identifier = wf->system_identifier,
			.timeline = range->timeline,
			.segment_bytes = range->segment_bytes,
		},
		.start_lsn = range->start_lsn,
		.uid = wf->uid,
		.gid = wf->gid,
	};
	int rc;

	assert(!wf->running && !wf->sink);
	wf->stream_timeline = range->timeline;
	rc = walsink_new(&wf->sink, lane, tb, &opts);
	if (rc == 0 && range->timeline > 1)
		rc = fetch_history(wf);
	if (rc == 0)
		rc = begin_stream(wf);
	if (rc)
		return rc;
	errno = pthread_create(&wf->thread, NULL, stream_thread, wf);
	if (errno)
		return err_sys("start a thread for WAL");
	wf->running = true;
	return 0;
}

int
walfetch_status(struct walfetch *wf)
{
	if (!atomic_load(&wf->ended) || wf->failure.code == 0)
		return 0;
	return err_restore(&wf->failure);
}

/* ---- ending ---- */

static void
join(struct walfetch *wf)
{
	if (wf->running)
		pthread_join(wf->thread, NULL);
	wf->running = false;
}

int
walfetch_finish(struct walfetch *wf, uint64_t stop_lsn)
{
	int rc = 0;

	assert(wf->running);
	atomic_store(&wf->target, stop_lsn);
	join(wf);
	if (wf->failure.code)
		rc = err_restore(&wf->failure);
	if (rc == 0)
		rc = walsink_finish(wf->sink);
	walfetch_abort(wf);
	return rc;
}

void
walfetch_abort(struct walfetch *wf)
{
	struct err_saved saved;

	if (!wf)
		return;
	/* The caller's message outlives what ending may add. */
	err_save(&saved, 0);
	atomic_store(&wf->quit, true);
	join(wf);
	walsink_free(wf->sink);
	pgconn_close(wf->conn);
	err_restore(&saved);
	free(wf);
}
