/*
 * A lock record (store/record.h), sealed as "locks/<source id>/<generation>" under the
 * repository's own keys:
 *
 *   tag     name         value
 *   0x8001  state        1 held, 2 free
 *   0x0002  what         at most 63 bytes
 *   0x0003  host         at most 255 bytes
 *   0x0004  boot id      at most 63 bytes
 *   0x0005  pid
 *   0x0006  pid start    clock ticks after boot
 *   0x0007  since        microseconds since 1970
 *   0x0008  token        16 random bytes
 *   0x0009  pid space    inode of the process id namespace
 *   0x000a  machine id   at most 63 bytes
 *
 * Invariants:
 *  (1) A generation is put exclusively and never overwritten; the highest one counts.
 *  (2) The highest generation is never deleted, so a look after a put tells: if there is a higher
 *      one, the put took a number that had already been used up, and gives way.
 *  (3) A held generation is followed only by its holder, by lock_break(), or by one who knows that
 *      the holder no longer runs.
 */
#include "store/lock.h"

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/record.h"
#include "store/repo.h"
#include "store/sealed.h"
#include "store/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define PREFIX      "locks/"
#define OBJECT_MAX  (sizeof(PREFIX) + 2 * SOURCE_ID_LEN + 1 + 16)
#define WHAT_MAX    63
#define HOST_MAX    255
#define ID_TEXT_MAX 63
#define ATTEMPTS    8

static const struct record_field fields[] = {
	RECORD_FIELD(0x8001, RECORD_ENUM, lock_record, state, 1, LOCK_FREE),
	RECORD_FIELD(0x0002, RECORD_TEXT, lock_record, what, 0, WHAT_MAX),
	RECORD_FIELD(0x0003, RECORD_TEXT, lock_record, host, 0, HOST_MAX),
	RECORD_FIELD(0x0004, RECORD_TEXT, lock_record, boot_id, 0, ID_TEXT_MAX),
	RECORD_FIELD(0x0005, RECORD_UINT, lock_record, pid, 0, UINT64_MAX),
	RECORD_FIELD(0x0006, RECORD_UINT, lock_record, pid_start, 0, UINT64_MAX),
	RECORD_FIELD(0x0007, RECORD_INT, lock_record, since_us, 0, UINT64_MAX),
	RECORD_FIELD(0x0008, RECORD_FIXED, lock_record, token, 0, 0),
	RECORD_FIELD(0x0009, RECORD_UINT, lock_record, pid_space, 0, UINT64_MAX),
	RECORD_FIELD(0x000a, RECORD_TEXT, lock_record, machine_id, 0, ID_TEXT_MAX),
};

static const struct record_layout layout = {
	.what = "lock record",
	.version = 1,
	.fields = fields,
	.nfields = sizeof(fields) / sizeof(fields[0]),
};

struct lock {
	struct repo_admin *admin; /* borrowed */
	uint8_t source_id[SOURCE_ID_LEN];
	char source_name[SOURCE_NAME_MAX + 1];
	uint64_t generation;
};

void
lock_record_release(struct lock_record *rec)
{
	free(rec->what);
	free(rec->host);
	free(rec->machine_id);
	free(rec->boot_id);
	memset(rec, 0, sizeof(*rec));
}

int
lock_record_encode(struct bytes *out, const struct lock_record *rec)
{
	int rc = record_put(out, &layout, rec);

	if (rc)
		return rc;
	record_end(out);
	return bytes_status(out);
}

int
lock_record_decode(struct lock_record *rec, const void *data, size_t len)
{
	int rc;

	memset(rec, 0, sizeof(*rec));
	rc = record_get(&layout, rec, data, len);
	if (rc)
		lock_record_release(rec);
	return rc;
}

/* ---- who runs ---- */

/* Read a small file of the kernel's; bytes, or -1 with errno. */
static ssize_t
read_small(const char *path, char *buf, size_t size)
{
	ssize_t n = -1;
	int fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0);

	if (fd != -1)
		n = sys_read_full(fd, buf, size - 1);
	sys_close(&fd);
	buf[n > 0 ? n : 0] = '\0';
	return n;
}

/* The first line of a file, "" if it cannot be read: then nobody is ever taken over by it. */
static char *
read_id(const char *path)
{
	char buf[ID_TEXT_MAX + 1];

	if (read_small(path, buf, sizeof(buf)) < 0)
		buf[0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return mem_strdup(buf);
}

static uint64_t
own_pid_space(void)
{
	struct stat st;

	return sys_fstatat(AT_FDCWD, "/proc/self/ns/pid", &st, 0) ? 0 : (uint64_t)st.st_ino;
}

enum life {
	LIFE_RUNS,
	LIFE_GONE,
	LIFE_UNKNOWN,
};

/* Whether process `pid` exists, and when it started (proc(5): fields 3 and 22 of stat). */
static enum life
look_at_process(uint64_t pid, uint64_t *start)
{
	char path[64], buf[1024];
	struct stat st;
	const char *p;

	snprintf(path, sizeof(path), "/proc/%" PRIu64 "/stat", pid);
	if (read_small(path, buf, sizeof(buf)) < 0) {
		if (errno != ENOENT && errno != ESRCH)
			return LIFE_UNKNOWN;
		/* Without /proc every process would seem gone. */
		return sys_fstatat(AT_FDCWD, "/proc/self/stat", &st, 0) ? LIFE_UNKNOWN : LIFE_GONE;
	}
	/* The second field is the command in parentheses, which may hold anything: find its end. */
	p = strrchr(buf, ')');
	if (!p || p[1] != ' ')
		return LIFE_UNKNOWN;
	p += 2;
	/* A zombie does nothing any more; its parent may never collect it. */
	if (*p == 'Z' || *p == 'X')
		return LIFE_GONE;
	for (int field = 3; field < 22; field++) {
		p = strchr(p, ' ');
		if (!p)
			return LIFE_UNKNOWN;
		p++;
	}
	*start = strtoull(p, NULL, 10);
	return LIFE_RUNS;
}

int
lock_record_self(struct lock_record *rec, const char *what)
{
	struct utsname uts;

	memset(rec, 0, sizeof(*rec));
	if (uname(&uts))
		snprintf(uts.nodename, sizeof(uts.nodename), "unknown");
	rec->state = LOCK_HELD;
	rec->what = mem_strdup(what);
	rec->host = mem_strdup(uts.nodename);
	rec->machine_id = read_id("/etc/machine-id");
	rec->boot_id = read_id("/proc/sys/kernel/random/boot_id");
	rec->pid_space = own_pid_space();
	rec->pid = (uint64_t)getpid();
	/* A start time of 0 is never equal to a real one, but then the pid's existence decides. */
	if (look_at_process(rec->pid, &rec->pid_start) != LIFE_RUNS)
		rec->pid_start = 0;
	rec->since_us = utc_now_us();
	random_bytes(rec->token, sizeof(rec->token));
	if (!rec->what || !rec->host || !rec->machine_id || !rec->boot_id) {
		lock_record_release(rec);
		return err_nomem();
	}
	return 0;
}

/* Whether the holder certainly no longer runs.  When unsure: no. */
static bool
holder_gone(const struct lock_record *holder, const struct lock_record *self)
{
	uint64_t start = 0;

	if (holder->boot_id[0] == '\0' || self->boot_id[0] == '\0')
		return false;
	if (strcmp(holder->boot_id, self->boot_id) != 0)
		/* This host was started again since; another host is not ours to judge. */
		return strcmp(holder->host, self->host) == 0 &&
		       strcmp(holder->machine_id, self->machine_id) == 0;
	/* The same kernel.  A pid means something only in the namespace it was taken in. */
	if (holder->pid_space == 0 || holder->pid_space != self->pid_space)
		return false;
	switch (look_at_process(holder->pid, &start)) {
	case LIFE_GONE:
		return true;
	case LIFE_RUNS:
		return holder->pid_start != 0 && start != holder->pid_start;
	case LIFE_UNKNOWN:
		break;
	}
	return false;
}

/* ---- the chain of generations ---- */

static void
object_name(const uint8_t *source_id, uint64_t generation, char out[OBJECT_MAX])
{
	char hex[2 * SOURCE_ID_LEN + 1];

	hex_encode(hex, source_id, SOURCE_ID_LEN);
	snprintf(out, OBJECT_MAX, PREFIX "%s/%016" PRIx64, hex, generation);
}

struct chain {
	size_t prefix_len;
	uint64_t highest; /* 0 if there is none */
	uint64_t *all;
	size_t nall;
};

static int
note_generation(void *ctx, const char *name, const struct object_info *info)
{
	struct chain *chain = ctx;
	uint64_t generation = 0;
	uint8_t be[8];
	int rc;

	(void)info;
	if (strlen(name) < chain->prefix_len ||
	    hex_decode(be, name + chain->prefix_len, sizeof(be)))
		return 0;
	for (size_t i = 0; i < sizeof(be); i++)
		generation = generation << 8 | be[i];
	rc = record_grow(&chain->all, chain->nall, sizeof(*chain->all));
	if (rc)
		return rc;
	chain->all[chain->nall++] = generation;
	if (generation > chain->highest)
		chain->highest = generation;
	return 0;
}

static void
chain_release(struct chain *chain)
{
	free(chain->all);
	memset(chain, 0, sizeof(*chain));
}

static int
chain_read(struct chain *chain, struct repo_admin *a, const uint8_t *source_id)
{
	char prefix[OBJECT_MAX];
	char hex[2 * SOURCE_ID_LEN + 1];
	int rc;

	memset(chain, 0, sizeof(*chain));
	hex_encode(hex, source_id, SOURCE_ID_LEN);
	snprintf(prefix, sizeof(prefix), PREFIX "%s/", hex);
	chain->prefix_len = strlen(prefix);
	rc =
	    backend_list(repo_reader_backend(repo_admin_reader(a)), prefix, note_generation, chain);
	if (rc)
		chain_release(chain);
	return rc;
}

static int
highest_generation(struct repo_admin *a, const uint8_t *source_id, uint64_t *highest)
{
	struct chain chain;
	int rc = chain_read(&chain, a, source_id);

	if (rc)
		return rc;
	*highest = chain.highest;
	chain_release(&chain);
	return 0;
}

static int
read_generation(
    struct repo_admin *a, const uint8_t *source_id, uint64_t generation, struct lock_record *rec)
{
	char name[OBJECT_MAX];
	void *plain = NULL;
	size_t len;
	int rc;

	object_name(source_id, generation, name);
	rc = repo_reader_object(repo_admin_reader(a), SEALED_LOCK, name, &plain, &len);
	if (rc == 0)
		rc = lock_record_decode(rec, plain, len);
	free(plain);
	return rc;
}

static int
put_generation(struct repo_admin *a, const uint8_t *source_id, uint64_t generation,
    const struct lock_record *rec)
{
	char name[OBJECT_MAX];
	struct bytes plain;
	int rc;

	bytes_init(&plain);
	object_name(source_id, generation, name);
	rc = lock_record_encode(&plain, rec);
	if (rc == 0)
		rc = repo_admin_put(a, SEALED_LOCK, name, plain.data, plain.len);
	bytes_release(&plain);
	return rc;
}

static void
forget(struct repo_admin *a, const uint8_t *source_id, uint64_t generation)
{
	char name[OBJECT_MAX];

	object_name(source_id, generation, name);
	(void)repo_admin_delete(a, name);
}

/*
 * Delete what `generation` superseded, but the one before it: a listing beside this one that misses
 * the newest still meets that.  What remains after a fault goes with the next release.
 */
static void
forget_older(struct repo_admin *a, const uint8_t *source_id, uint64_t generation)
{
	struct chain chain;

	if (chain_read(&chain, a, source_id))
		return;
	for (size_t i = 0; i < chain.nall; i++)
		if (chain.all[i] < generation - 1)
			forget(a, source_id, chain.all[i]);
	chain_release(&chain);
}

static int
busy(const struct source *source, const struct lock_record *holder)
{
	char since[UTC_TEXT_MAX];

	utc_format(holder->since_us, since);
	if (strcmp(holder->what, "backup") == 0)
		return err_set(ERR_BUSY,
		    "source \"%s\" is being backed up by process %" PRIu64
		    " on host %s since %s; wait for it, or, if that host is gone, free it with: "
		    "pastfs source unlock %s",
		    source->name, holder->pid, holder->host, since, source->name);
	return err_set(ERR_BUSY,
	    "source \"%s\" is in use (%s) by process %" PRIu64
	    " on host %s since %s; wait for it, or, if that host is gone, free it with: pastfs "
	    "source unlock %s",
	    source->name, holder->what, holder->pid, holder->host, since, source->name);
}

/* Whether generation `highest` lets `self` take the next: 0, 1 (look again), or an error. */
static int
may_take(struct repo_admin *a, const struct source *source, uint64_t highest,
    const struct lock_record *self)
{
	struct lock_record holder;
	int rc;

	if (highest == 0)
		return 0;
	rc = read_generation(a, source->id, highest, &holder);
	if (rc == ERR_NOTFOUND)
		return 1;
	if (rc == ERR_DAMAGED || rc == ERR_UNSUPPORTED)
		return err_prefix(rc,
		    "the lock of source \"%s\" cannot be read; if nothing works on that source, "
		    "free it with \"pastfs source unlock %s\"",
		    source->name, source->name);
	if (rc)
		return rc;
	if (holder.state == LOCK_HELD && !holder_gone(&holder, self))
		rc = busy(source, &holder);
	lock_record_release(&holder);
	return rc;
}

/*
 * A put that reported a fault may have happened all the same.  If so, free it again, by a next
 * generation: deleting the highest one would break the second invariant.
 */
static void
undo(struct repo_admin *a, const uint8_t *source_id, uint64_t generation,
    const struct lock_record *self)
{
	struct lock_record there, rec = { .state = LOCK_FREE };
	struct err_saved why;

	err_save(&why, 0);
	if (read_generation(a, source_id, generation, &there) == 0) {
		if (memcmp(there.token, self->token, LOCK_TOKEN_LEN) == 0)
			(void)put_generation(a, source_id, generation + 1, &rec);
		lock_record_release(&there);
	}
	(void)err_restore(&why);
}

/* One attempt: 0 with *generation, 1 (somebody was faster: look again), or an error. */
static int
try_acquire(struct repo_admin *a, const struct source *source, const struct lock_record *self,
    uint64_t *generation)
{
	uint64_t highest, after;
	int rc;

	rc = highest_generation(a, source->id, &highest);
	if (rc)
		return rc;
	rc = may_take(a, source, highest, self);
	if (rc)
		return rc;
	if (highest == UINT64_MAX)
		return err_set(
		    ERR_DAMAGED, "the lock of source \"%s\" has no next generation", source->name);
	rc = put_generation(a, source->id, highest + 1, self);
	if (rc < 0)
		undo(a, source->id, highest + 1, self);
	if (rc)
		return rc;
	rc = highest_generation(a, source->id, &after);
	if (rc) {
		undo(a, source->id, highest + 1, self);
		return rc;
	}
	if (after == highest + 1) {
		*generation = after;
		return 0;
	}
	forget(a, source->id, highest + 1);
	return 1;
}

/* Between 5 and 60 milliseconds, so that two who collided do not collide again. */
static void
wait_a_little(void)
{
	struct timespec ts = { 0 };
	uint8_t r;

	random_bytes(&r, sizeof(r));
	ts.tv_nsec = 5000000L + (long)r * 215000L;
	nanosleep(&ts, NULL);
}

int
lock_acquire(struct lock **out, struct repo_admin *a, const struct source *source, const char *what)
{
	struct lock_record self;
	struct lock *l = NULL;
	int rc;

	*out = NULL;
	rc = lock_record_self(&self, what);
	if (rc)
		return rc;
	l = mem_alloc(sizeof(*l));
	if (!l) {
		rc = err_nomem();
		goto out;
	}
	l->admin = a;
	memcpy(l->source_id, source->id, SOURCE_ID_LEN);
	memcpy(l->source_name, source->name, sizeof(l->source_name));
	rc = 1;
	for (int i = 0; i < ATTEMPTS && rc == 1; i++) {
		if (i > 0)
			wait_a_little();
		rc = cancel_check();
		if (rc == 0)
			rc = try_acquire(a, source, &self, &l->generation);
	}
	if (rc == 1)
		rc = err_set(ERR_BUSY,
		    "several others want to work on source \"%s\" at the same time; try again "
		    "later",
		    source->name);
	if (rc)
		goto out;
	*out = l;
	l = NULL;
out:
	free(l);
	lock_record_release(&self);
	return rc;
}

int
lock_release(struct lock *l)
{
	struct lock_record rec = { .state = LOCK_FREE };
	int rc;

	if (!l)
		return 0;
	/* Freed first and tidied afterwards, so that a fault between leaves no lock behind. */
	rc = put_generation(l->admin, l->source_id, l->generation + 1, &rec);
	if (rc == 0)
		forget_older(l->admin, l->source_id, l->generation + 1);
	if (rc == 1)
		rc = err_set(ERR_BUSY,
		    "the lock of source \"%s\" was freed by somebody else while it was in use; "
		    "another process may have worked on that source at the same time",
		    l->source_name);
	else if (rc)
		rc = err_prefix(rc,
		    "cannot free the lock of source \"%s\"; free it with \"pastfs source unlock "
		    "%s\"",
		    l->source_name, l->source_name);
	free(l);
	return rc;
}

int
lock_break(struct repo_admin *a, const struct source *source)
{
	struct lock_record rec = { 0 };
	uint64_t highest;
	int rc;

	for (int i = 0; i < ATTEMPTS; i++) {
		if (i > 0)
			wait_a_little();
		rc = highest_generation(a, source->id, &highest);
		if (rc)
			return rc;
		if (highest == 0)
			return 1;
		rc = read_generation(a, source->id, highest, &rec);
		if (rc == ERR_NOTFOUND)
			continue;
		/* One that cannot be read counts as held: this is the way to be rid of it. */
		if (rc && rc != ERR_DAMAGED && rc != ERR_UNSUPPORTED)
			return rc;
		if (rc == 0 && rec.state == LOCK_FREE) {
			lock_record_release(&rec);
			return 1;
		}
		lock_record_release(&rec);
		rec.state = LOCK_FREE;
		rc = put_generation(a, source->id, highest + 1, &rec);
		if (rc == 0)
			forget_older(a, source->id, highest + 1);
		if (rc != 1)
			return rc;
	}
	return err_set(ERR_BUSY,
	    "the lock of source \"%s\" changes hands all the time; try again later", source->name);
}
