/*
 * The local back end and the loss of power.
 *
 * A script of puts and deletes runs while every change of the disk and every sync is recorded.
 * Then, for the moment behind each of them, the directories that a power cut could leave are
 * built, and the back end is opened on them.  Certain is only what was synced: a file's data by a
 * sync of the file, a directory's entries by a sync of the directory.  Everything else may be
 * there, absent, or for data cut or garbled.  In each:
 *
 *  (1) an object whose put had returned is there, whole;
 *  (2) an object whose delete had returned is not;
 *  (3) whatever object is listed is whole;
 *  (4) the back end works: the next put succeeds.
 *
 * The checks themselves are checked by leaving syncs out of the record.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS_MAX  1000
#define NODES_MAX   200
#define ENTRIES_MAX 40
#define NAME_ROOM   120
#define SEEDS       5

/* ---- the record ---- */

enum what {
	MADE_FILE, /* `node` is new, without a name */
	MADE_DIR,  /* `node` is new */
	WROTE,     /* `data` is the whole content now */
	SYNCED,
	NAMED,    /* `name` in directory `dir` is `node` */
	UNNAMED,  /* `name` in directory `dir` is gone */
	PUT_DONE, /* object `node` */
	DEL_BEGUN,
	DEL_DONE,
};

struct event {
	enum what what;
	int node, dir;
	char name[NAME_ROOM];
	uint8_t *data;
	size_t len;
};

/* Files and directories are numbered as they are made; an inode number may come back. */
struct record {
	struct event events[EVENTS_MAX];
	int nevents, nnodes;
	bool is_dir[NODES_MAX];
	dev_t dev[NODES_MAX];
	ino_t ino[NODES_MAX];
};

static struct event *
add_event(struct record *r, enum what what, int node)
{
	struct event *e = &r->events[r->nevents++];

	assert_true(r->nevents < EVENTS_MAX);
	e->what = what;
	e->node = node;
	return e;
}

/* The newest node with the identity of `st`. */
static int
node_of(const struct record *r, const struct stat *st)
{
	for (int i = r->nnodes - 1; i >= 0; i--)
		if (r->ino[i] == st->st_ino && r->dev[i] == st->st_dev)
			return i;
	fail_msg("a change of a file that was never made");
	return -1;
}

static int
new_node(struct record *r, const struct stat *st)
{
	int n = r->nnodes++;

	assert_true(n < NODES_MAX);
	r->is_dir[n] = S_ISDIR(st->st_mode);
	r->ino[n] = st->st_ino;
	r->dev[n] = st->st_dev;
	add_event(r, r->is_dir[n] ? MADE_DIR : MADE_FILE, n);
	return n;
}

/* The directory in which `name` lies: `dirfd`, or the parent of an absolute path. */
static int
directory_of(const struct record *r, int dirfd, const char *name, const char **leaf)
{
	const char *slash = strrchr(name, '/');
	char parent[PATH_MAX];
	struct stat st;

	*leaf = slash ? slash + 1 : name;
	if (dirfd == AT_FDCWD) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - name), name);
		assert_int_equal(stat(parent, &st), 0);
	} else {
		assert_null(slash);
		assert_int_equal(fstat(dirfd, &st), 0);
	}
	return node_of(r, &st);
}

static void
add_name(struct record *r, enum what what, int node, int dirfd, const char *name)
{
	const char *leaf;
	int dir = directory_of(r, dirfd, name, &leaf);
	struct event *e = add_event(r, what, node);

	e->dir = dir;
	snprintf(e->name, sizeof(e->name), "%s", leaf);
}

static void
record_open(struct record *r, int fd)
{
	char self[40], path[PATH_MAX];
	struct stat st;
	ssize_t n;
	int node;

	assert_int_equal(fstat(fd, &st), 0);
	node = new_node(r, &st);
	if (st.st_nlink == 0)
		return;
	/* The hook is not told the directory, but the kernel knows the path. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	n = readlink(self, path, sizeof(path) - 1);
	assert_true(n > 0);
	path[n] = '\0';
	add_name(r, NAMED, node, AT_FDCWD, path);
}

static void
record_write(struct record *r, int fd)
{
	char self[40];
	struct stat st;
	struct event *e;
	int again;

	assert_int_equal(fstat(fd, &st), 0);
	e = add_event(r, WROTE, node_of(r, &st));
	e->len = (size_t)st.st_size;
	e->data = malloc(e->len + 1);
	assert_non_null(e->data);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	again = open(self, O_RDONLY | O_CLOEXEC);
	assert_true(again >= 0);
	assert_int_equal(pread(again, e->data, e->len, 0), (ssize_t)e->len);
	close(again);
}

static void
record_change(void *ctx, const char *op, int fd, const char *name)
{
	struct record *r = ctx;
	struct stat st;

	if (strcmp(op, "open") == 0) {
		record_open(r, fd);
	} else if (strcmp(op, "write") == 0) {
		record_write(r, fd);
	} else if (strcmp(op, "fsync") == 0) {
		assert_int_equal(fstat(fd, &st), 0);
		add_event(r, SYNCED, node_of(r, &st));
	} else if (strcmp(op, "mkdir") == 0) {
		assert_int_equal(fstatat(fd, name, &st, 0), 0);
		add_name(r, NAMED, new_node(r, &st), fd, name);
	} else if (strcmp(op, "link") == 0) {
		assert_int_equal(fstatat(fd, name, &st, 0), 0);
		add_name(r, NAMED, node_of(r, &st), fd, name);
	} else if (strcmp(op, "unlink") == 0) {
		add_name(r, UNNAMED, -1, fd, name);
	} else {
		fail_msg("an unexpected change: %s", op);
	}
}

/* ---- the script ---- */

static const struct object {
	const char *name;
	size_t len;
} objects[] = {
	{ "pastfs", 160 },
	{ "keys/first/0001", 300 },
	{ "packs/aa11", 5000 },
	{ "packs/aa22", 70000 },
	{ "packs/bb", 0 },
	{ "packs/cc", 4096 },       /* put by two handles */
	{ "packs/dd", 100 },        /* in a directory that another process had just made */
	{ "keys/first/0002", 200 }, /* named by another process that had not synced yet */
	{ "locks/x", 50 },          /* deleted */
	{ "locks/y", 60 },          /* deleted, then put again */
	{ "snapshots/1/2", 777 },
};
#define NOBJECTS ((int)(sizeof(objects) / sizeof(objects[0])))

/* The content of an object: bytes of its own, in an array for the caller to free. */
static uint8_t *
content(int object)
{
	uint8_t *p = malloc(objects[object].len + 1);

	assert_non_null(p);
	for (size_t i = 0; i < objects[object].len; i++)
		p[i] = (uint8_t)((i * 7 + i / 251) ^ (unsigned)(object * 31 + 1));
	return p;
}

static void
put(struct record *r, struct backend *b, int object, int expected)
{
	uint8_t *data = content(object);

	assert_int_equal(backend_put(b, objects[object].name, data, objects[object].len), expected);
	add_event(r, PUT_DONE, object);
	free(data);
}

static void delete (struct record *r, struct backend *b, int object)
{
	add_event(r, DEL_BEGUN, object);
	assert_int_equal(backend_delete(b, objects[object].name), 0);
	add_event(r, DEL_DONE, object);
}

/* What another process does that has come as far as giving object 7 its name. */
static void
half_a_put(int rootfd)
{
	uint8_t *data = content(7);
	char self[40];
	int dir = sys_openat(rootfd, "keys/first", O_RDONLY | O_DIRECTORY, 0);
	int fd = sys_openat(dir, ".tmp-half", O_CREAT | O_WRONLY, 0440);

	assert_true(dir >= 0 && fd >= 0);
	assert_int_equal(sys_write_all(fd, data, objects[7].len), 0);
	assert_int_equal(sys_fsync(fd), 0);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	assert_int_equal(sys_linkat(AT_FDCWD, self, dir, "0002", AT_SYMLINK_FOLLOW), 0);
	sys_close(&fd);
	sys_close(&dir);
	free(data);
}

static void
run_script(struct record *r, const char *root)
{
	struct backend *a, *b;
	int rootfd, packs;

	assert_int_equal(backend_open(&a, root, true), 0);
	for (int i = 0; i <= 5; i++)
		put(r, a, i, 0);
	assert_int_equal(backend_open(&b, root, false), 0);
	put(r, b, 5, 1);
	rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	packs = openat(rootfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(rootfd >= 0 && packs >= 0);
	assert_int_equal(sys_mkdirat(packs, "dd", 0750), 0);
	put(r, b, 6, 0);
	half_a_put(rootfd);
	put(r, a, 7, 1);
	put(r, b, 8, 0);
	put(r, a, 9, 0);
	delete (r, a, 8);
	delete (r, b, 9);
	put(r, b, 9, 0);
	put(r, a, 10, 0);
	sys_close(&packs);
	sys_close(&rootfd);
	backend_close(a);
	backend_close(b);
}

/* ---- the disk after a number of events ---- */

struct entry {
	char name[NAME_ROOM];
	int node;
};

struct node {
	/* Directories: what is on the disk for sure, and what programs see. */
	struct entry sure[ENTRIES_MAX], now[ENTRIES_MAX];
	int nsure, nnow;
	/* Files: borrowed from the events. */
	const uint8_t *sure_data, *data;
	size_t sure_len, len;
	bool dirty;
};

enum leave_out {
	NOTHING,
	SYNCS_OF_FILES,
	SYNCS_OF_DIRECTORIES,
};

struct disk {
	const struct record *r;
	struct node nodes[NODES_MAX];
	/* What the caller of the back end may rely on. */
	bool must_be[NOBJECTS], must_not_be[NOBJECTS];
};

static int
find(const struct entry *entries, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(entries[i].name, name) == 0)
			return i;
	return -1;
}

static void
apply(struct disk *d, const struct event *e, enum leave_out left_out)
{
	bool is_dir = e->what == SYNCED && d->r->is_dir[e->node];
	struct node *n = &d->nodes[e->what == NAMED || e->what == UNNAMED ? e->dir : e->node];
	int at;

	switch (e->what) {
	case MADE_FILE:
	case MADE_DIR:
		break;
	case WROTE:
		n->data = e->data;
		n->len = e->len;
		n->dirty = true;
		break;
	case SYNCED:
		if (left_out == (is_dir ? SYNCS_OF_DIRECTORIES : SYNCS_OF_FILES))
			break;
		memcpy(n->sure, n->now, sizeof(n->sure));
		n->nsure = n->nnow;
		n->sure_data = n->data;
		n->sure_len = n->len;
		n->dirty = false;
		break;
	case NAMED:
		assert_true(n->nnow < ENTRIES_MAX);
		assert_int_equal(find(n->now, n->nnow, e->name), -1);
		snprintf(n->now[n->nnow].name, NAME_ROOM, "%s", e->name);
		n->now[n->nnow++].node = e->node;
		break;
	case UNNAMED:
		at = find(n->now, n->nnow, e->name);
		assert_true(at >= 0);
		n->now[at] = n->now[--n->nnow];
		break;
	case PUT_DONE:
		d->must_be[e->node] = true;
		d->must_not_be[e->node] = false;
		break;
	case DEL_BEGUN:
		d->must_be[e->node] = false;
		break;
	case DEL_DONE:
		d->must_not_be[e->node] = true;
		break;
	}
}

/*
 * What the caller may not rely on any more: an object that is being put again may be there before
 * its put returns.  `d` stands before event `k`.
 */
static void
allow_what_is_under_way(struct disk *d, int k)
{
	for (; k < d->r->nevents && d->r->events[k].what < PUT_DONE; k++)
		;
	if (k < d->r->nevents && d->r->events[k].what == PUT_DONE)
		d->must_not_be[d->r->events[k].node] = false;
}

/* ---- building what may be left ---- */

/* The seeds 0 to 2 are the pure cases, the others a mixture. */
enum {
	ONLY_WHAT_IS_SURE,
	NAMES_WITH_GARBLED_DATA,
	NAMES_WITHOUT_DATA,
};

static unsigned
dice(unsigned seed, unsigned a, unsigned b)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + a * UINT64_C(0xbf58476d1ce4e5b9) + b;

	x ^= x >> 31;
	x *= UINT64_C(0x94d049bb133111eb);
	return (unsigned)(x >> 40);
}

static void
build_file(const struct disk *d, int node, unsigned seed, int dirfd, const char *name)
{
	const struct node *n = &d->nodes[node];
	unsigned how = n->dirty
			   ? seed > NAMES_WITHOUT_DATA ? dice(seed, 1, (unsigned)node) % 4 : seed
			   : ONLY_WHAT_IS_SURE;
	int fd = openat(dirfd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0440);
	size_t len = n->len;
	ssize_t wrote = 0;

	assert_true(fd >= 0);
	if (how == ONLY_WHAT_IS_SURE) {
		wrote = write(fd, n->sure_data, len = n->sure_len);
	} else if (how == NAMES_WITH_GARBLED_DATA) {
		uint8_t *garbled = malloc(len + 1);

		assert_non_null(garbled);
		memcpy(garbled, n->data, len);
		if (len > 0)
			memset(garbled + len / 2, 0, len - len / 2);
		if (len > 0)
			garbled[len - 1] = (uint8_t)~n->data[len - 1];
		wrote = write(fd, garbled, len);
		free(garbled);
	} else if (how == NAMES_WITHOUT_DATA) {
		len = 0;
	} else {
		wrote = write(fd, n->data, len /= 2);
	}
	assert_int_equal(wrote, (ssize_t)len);
	close(fd);
}

static void build_directory(const struct disk *d, int node, unsigned seed, int dirfd);

static void
build_entry(const struct disk *d, const struct entry *e, unsigned seed, int dirfd)
{
	int fd;

	if (!d->r->is_dir[e->node]) {
		build_file(d, e->node, seed, dirfd, e->name);
		return;
	}
	assert_int_equal(mkdirat(dirfd, e->name, 0750), 0);
	fd = openat(dirfd, e->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	build_directory(d, e->node, seed, fd);
	close(fd);
}

static void
build_directory(const struct disk *d, int node, unsigned seed, int dirfd)
{
	const struct node *n = &d->nodes[node];

	/* Each name is as it was synced or as it is now. */
	for (int i = 0; i < n->nsure; i++) {
		int at = find(n->now, n->nnow, n->sure[i].name);
		bool changed = at < 0 || n->now[at].node != n->sure[i].node;
		bool newer = seed > NAMES_WITHOUT_DATA ? dice(seed, (unsigned)node, (unsigned)i) % 2
						       : seed != ONLY_WHAT_IS_SURE;

		if (!changed || !newer)
			build_entry(d, &n->sure[i], seed, dirfd);
		else if (at >= 0)
			build_entry(d, &n->now[at], seed, dirfd);
	}
	for (int i = 0; i < n->nnow; i++) {
		bool there = seed > NAMES_WITHOUT_DATA
				 ? dice(seed, (unsigned)node, 1000 + (unsigned)i) % 2
				 : seed != ONLY_WHAT_IS_SURE;

		if (there && find(n->sure, n->nsure, n->now[i].name) < 0)
			build_entry(d, &n->now[i], seed, dirfd);
	}
}

/* ---- checking what is left ---- */

struct seen {
	bool object[NOBJECTS];
	bool strange;
};

static int
see(void *ctx, const char *name, const struct object_info *info)
{
	struct seen *s = ctx;

	(void)info;
	for (int i = 0; i < NOBJECTS; i++)
		if (strcmp(objects[i].name, name) == 0) {
			s->object[i] = true;
			return 0;
		}
	s->strange = true;
	return 0;
}

/* Whether the object can be read and is what was put. */
static bool
is_whole(struct backend *b, int object)
{
	uint8_t *expected = content(object);
	void *data = NULL;
	size_t len;
	bool whole = backend_get_all(b, objects[object].name, 1 << 20, &data, &len) == 0 &&
		     len == objects[object].len && memcmp(data, expected, len) == 0;

	free(data);
	free(expected);
	return whole;
}

/* NULL, or the rule that is broken. */
static const char *
check(const struct disk *d, struct backend *b)
{
	struct seen seen = { .strange = false };

	if (backend_list(b, "", see, &seen))
		return "the listing fails";
	if (seen.strange)
		return "something else is listed";
	for (int i = 0; i < NOBJECTS; i++) {
		if (d->must_be[i] && !seen.object[i])
			return "an object whose put had returned is lost";
		if (d->must_not_be[i] && seen.object[i])
			return "a deleted object is back";
		if (seen.object[i] && !is_whole(b, i))
			return "an object is partial";
	}
	return NULL;
}

/* The next put of an object works, whether it is there or not. */
static const char *
check_goes_on(struct backend *b, int object)
{
	uint8_t *data = content(object);
	int rc = backend_put(b, objects[object].name, data, objects[object].len);

	free(data);
	if (rc < 0)
		return "the next put fails";
	return is_whole(b, object) ? NULL : "the next put is partial";
}

static char *
make_directory(void)
{
	const char *tmp = getenv("TMPDIR");
	char *path = NULL;

	assert_true(asprintf(&path, "%s/pastfs-crash-XXXXXX", tmp ? tmp : "/tmp") > 0);
	assert_non_null(mkdtemp(path));
	return path;
}

/* Build one state in a new directory and check it. */
static const char *
check_state(const struct disk *d, unsigned seed, int go_on_with)
{
	char *base = make_directory(), root[PATH_MAX];
	int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const char *broken = NULL;
	struct backend *b;
	int rc;

	assert_true(fd >= 0);
	build_directory(d, 0, seed, fd);
	close(fd);
	snprintf(root, sizeof(root), "%s/one/two", base);
	rc = backend_open(&b, root, false);
	if (rc == 0) {
		broken = check(d, b);
		if (!broken && go_on_with >= 0)
			broken = check_goes_on(b, go_on_with);
		backend_close(b);
	} else if (rc != ERR_NOTFOUND) {
		broken = "the place cannot be opened";
	} else {
		for (int i = 0; i < NOBJECTS && !broken; i++)
			broken = d->must_be[i] ? "the whole place is lost" : NULL;
	}
	fixture_rmtree(base);
	free(base);
	return broken;
}

/* Check the states at all moments: the first rule that is broken, or NULL; *states counts. */
static const char *
check_all(const struct record *r, enum leave_out left_out, int *states)
{
	struct disk *d = calloc(1, sizeof(*d)), *then = malloc(sizeof(*d));
	const char *broken = NULL;

	assert_non_null(d);
	assert_non_null(then);
	d->r = r;
	for (int k = 0; k <= r->nevents && !broken; k++) {
		for (unsigned seed = 0; seed < SEEDS && !broken; seed++) {
			memcpy(then, d, sizeof(*d));
			allow_what_is_under_way(then, k);
			/* Going on costs syncs, so it is tried now and then. */
			broken = check_state(then, seed, (*states)++ % 11 == 0 ? k % NOBJECTS : -1);
			if (broken && left_out == NOTHING)
				print_message("after event %d of %d, seed %u: %s\n", k, r->nevents,
				    seed, broken);
		}
		if (k < r->nevents)
			apply(d, &r->events[k], left_out);
	}
	free(then);
	free(d);
	return broken;
}

/* ---- the tests ---- */

static struct record *
make_record(void)
{
	struct record *r = calloc(1, sizeof(*r));
	struct sys_hooks hooks = { .changed = record_change, .ctx = r };
	char *base = make_directory(), root[PATH_MAX];
	struct stat st;

	assert_non_null(r);
	assert_int_equal(stat(base, &st), 0);
	r->is_dir[0] = true;
	r->ino[0] = st.st_ino;
	r->dev[0] = st.st_dev;
	r->nnodes = 1;
	snprintf(root, sizeof(root), "%s/one/two", base);
	sys_hooks_set(&hooks);
	run_script(r, root);
	sys_hooks_set(NULL);
	fixture_rmtree(base);
	free(base);
	return r;
}

static void
free_record(struct record *r)
{
	for (int i = 0; i < r->nevents; i++)
		free(r->events[i].data);
	free(r);
}

static int
named_temporaries(const struct record *r)
{
	int n = 0;

	for (int i = 0; i < r->nevents; i++)
		n += r->events[i].what == NAMED && strncmp(r->events[i].name, ".tmp-", 5) == 0;
	return n;
}

static void
survives(void **state)
{
	struct record *r = make_record();
	int states = 0;

	(void)state;
	assert_int_equal(named_temporaries(r), 1); /* of the half put */
	assert_null(check_all(r, NOTHING, &states));
	assert_true(states > 100 * SEEDS);
	free_record(r);
}

static void
survives_with_named_temporaries(void **state)
{
	struct record *r;
	int states = 0;

	(void)state;
	sys_fault_refuse(O_TMPFILE, EOPNOTSUPP);
	r = make_record();
	sys_fault_refuse(0, 0);
	assert_true(named_temporaries(r) > 8);
	assert_null(check_all(r, NOTHING, &states));
	assert_true(states > 100 * SEEDS);
	free_record(r);
}

/* A back end that synced less would be found out. */
static void
missing_syncs_are_found(void **state)
{
	struct record *r = make_record();
	const char *broken;
	int states = 0;

	(void)state;
	broken = check_all(r, SYNCS_OF_FILES, &states);
	assert_non_null(broken);
	assert_string_equal(broken, "an object is partial");
	broken = check_all(r, SYNCS_OF_DIRECTORIES, &states);
	assert_non_null(broken);
	assert_non_null(strstr(broken, "lost"));
	free_record(r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives),
		cmocka_unit_test(survives_with_named_temporaries),
		cmocka_unit_test(missing_syncs_are_found),
	};

	if (secret_init())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
