/*
 * A real mount, looked at as programs do.  The server is a child process; an alarm ends everything
 * and takes the mount away if something hangs.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/mount.h"
#include "fs/mountpoint.h"
#include "fs/view.h"

#include "store/base/err.h"
#include "tests/support/past_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define T0          1760000000
#define SNAP        "2025-10-09T08:53:20Z"
#define SNAP_1      "2025-10-09T09:53:20Z"
#define BIG_BYTES   (40u << 20)
#define CROWD       3000
#define WATCHDOG_S  240
#define ANSWER_MS   30000
#define READERS     8
#define READER_LOOP 200

static struct past_fixture fx;
static uint8_t *big;
static char point[220], snap_dir[320];
static pid_t server = -1;

/* A minimal access list with one named user: version 2, then tag, permissions, id. */
static const uint8_t acl[] = {
	2,
	0,
	0,
	0,
	0x01,
	0,
	6,
	0,
	0xff,
	0xff,
	0xff,
	0xff,
	0x02,
	0,
	4,
	0,
	0x39,
	0x30,
	0,
	0,
	0x04,
	0,
	0,
	0,
	0xff,
	0xff,
	0xff,
	0xff,
	0x10,
	0,
	4,
	0,
	0xff,
	0xff,
	0xff,
	0xff,
	0x20,
	0,
	0,
	0,
	0xff,
	0xff,
	0xff,
	0xff,
};
static struct tree_xattr xattrs[] = {
	{ .name = (char *)"user.colour", .value = (uint8_t *)"blue", .len = 4 },
	{ .name = (char *)"system.posix_acl_access", .value = (uint8_t *)acl, .len = sizeof(acl) },
};

static void
on_alarm(int sig)
{
	static const char text[] = "test_mount: the watchdog ended it\n";

	(void)sig;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) == -1)
		_exit(2);
	umount2(point, MNT_DETACH);
	if (server > 0)
		kill(server, SIGKILL);
	_exit(1);
}

static void
on_ready(void *ctx)
{
	if (write(*(int *)ctx, "r", 1) != 1)
		abort();
}

static void
serve(int ready_fd)
{
	const struct view_opts vopts = { 0 };
	struct mount_opts mopts = {
		.mountpoint = point,
		.fsname = "/srv/va,ult",
		.ready = on_ready,
		.ctx = &ready_fd,
	};
	struct repo_reader *r = past_fixture_reader(&fx);
	struct view *v;
	int rc;

	fixture_must(view_open(&v, r, &vopts), "view_open");
	rc = mount_serve(v, &mopts);
	if (rc)
		fprintf(stderr, "mount_serve: %s\n", err_msg());
	view_close(v);
	repo_reader_close(r);
	_exit(rc ? 1 : 0);
}

static void
start(void)
{
	struct pollfd p;
	char c;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	server = fork();
	assert_int_not_equal(server, -1);
	if (server == 0) {
		close(fds[0]);
		serve(fds[1]);
	}
	close(fds[1]);
	p = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	assert_int_equal(poll(&p, 1, ANSWER_MS), 1);
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
}

/* Wait for the server to end; its exit status. */
static int
reap(void)
{
	int status = 0;

	assert_int_equal(waitpid(server, &status, 0), server);
	server = -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void
stop(void)
{
	assert_int_equal(mount_umount(point, false), 0);
	assert_int_equal(reap(), 0);
}

static int
is_mounted(void)
{
	int rc = mountpoint_is_ours(point);

	assert_true(rc >= 0);
	return rc;
}

static int
open_in(const char *dir, const char *name, int flags)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return open(path, flags);
}

static void
test_listing(void **state)
{
	char path[512];
	struct dirent *d;
	struct stat st;
	size_t n = 0;
	DIR *dir;

	(void)state;
	start();
	snprintf(path, sizeof(path), "%s/crowd", snap_dir);
	for (int round = 0; round < 2; round++) {
		dir = opendir(path);
		assert_non_null(dir);
		for (n = 0; (d = readdir(dir));) {
			if (d->d_name[0] == '.')
				continue;
			assert_int_equal(
			    fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
			assert_int_equal(st.st_ino, d->d_ino);
			assert_int_equal(st.st_size, 6);
			assert_int_equal(st.st_mode, S_IFREG | 0640);
			n++;
		}
		closedir(dir);
		assert_int_equal(n, CROWD);
	}
	snprintf(path, sizeof(path), "%s/absent", snap_dir);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(stat(path, &st), -1);
		assert_int_equal(errno, ENOENT);
	}
	snprintf(path, sizeof(path), "%s/main/snapshots/latest/PG_VERSION", point);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 3);
	stop();
}

static void
test_reading(void **state)
{
	uint8_t *buf = malloc(BIG_BYTES), *map;
	size_t got = 0;
	int fd;

	(void)state;
	assert_non_null(buf);
	start();
	fd = open_in(snap_dir, "big", O_RDONLY);
	assert_int_not_equal(fd, -1);
	while (got < BIG_BYTES) {
		ssize_t n =
		    read(fd, buf + got, BIG_BYTES - got < 100000 ? BIG_BYTES - got : 100000);

		assert_true(n > 0);
		got += (size_t)n;
	}
	assert_int_equal(read(fd, buf, 1), 0);
	assert_memory_equal(buf, big, BIG_BYTES);
	map = mmap(NULL, BIG_BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_memory_equal(map, big, BIG_BYTES);
	munmap(map, BIG_BYTES);
	map = mmap(NULL, BIG_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_memory_equal(map, big, BIG_BYTES);
	munmap(map, BIG_BYTES);
	close(fd);

	/* Directly, and over the end. */
	fd = open_in(snap_dir, "big", O_RDONLY | O_DIRECT);
	assert_int_not_equal(fd, -1);
	free(buf);
	assert_int_equal(posix_memalign((void **)&buf, 4096, 1 << 20), 0);
	assert_int_equal(pread(fd, buf, 1 << 20, 3 << 20), 1 << 20);
	assert_memory_equal(buf, big + (3 << 20), 1 << 20);
	assert_int_equal(pread(fd, buf, 1 << 20, BIG_BYTES - 4096), 4096);
	assert_int_equal(pread(fd, buf, 4096, BIG_BYTES), 0);
	close(fd);
	stop();
	free(buf);
}

static void *
read_randomly(void *arg)
{
	uint64_t x = 88172645463325252u + (uintptr_t)arg;
	uint8_t buf[8192];
	void *bad = NULL;
	int fd = open_in(snap_dir, "big", O_RDONLY);

	for (int i = 0; i < READER_LOOP && !bad; i++) {
		uint64_t off;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		off = x % (BIG_BYTES / sizeof(buf)) * sizeof(buf);
		if (pread(fd, buf, sizeof(buf), (off_t)off) != (ssize_t)sizeof(buf) ||
		    memcmp(buf, big + off, sizeof(buf)) != 0)
			bad = arg;
	}
	close(fd);
	return bad;
}

static void
test_parallel(void **state)
{
	pthread_t readers[READERS];
	void *bad;

	(void)state;
	start();
	for (uintptr_t i = 0; i < READERS; i++)
		assert_int_equal(
		    pthread_create(&readers[i], NULL, read_randomly, (void *)(i + 1)), 0);
	for (int i = 0; i < READERS; i++) {
		assert_int_equal(pthread_join(readers[i], &bad), 0);
		assert_null(bad);
	}
	stop();
}

static void
test_attributes(void **state)
{
	char path[512], buf[256];
	struct statvfs fs;
	struct stat st;

	(void)state;
	start();
	snprintf(path, sizeof(path), "%s/attributed", snap_dir);
	assert_int_equal(lgetxattr(path, "user.colour", buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "blue", 4);
	assert_int_equal(lgetxattr(path, "user.colour", buf, 2), -1);
	assert_int_equal(errno, ERANGE);
	assert_int_equal(lgetxattr(path, "user.none", buf, sizeof(buf)), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(lgetxattr(path, "system.posix_acl_access", buf, sizeof(buf)), sizeof(acl));
	assert_memory_equal(buf, acl, sizeof(acl));
	assert_true(llistxattr(path, buf, sizeof(buf)) > 0);
	/* One without any, after that: it has none, rather than no attributes being possible. */
	snprintf(path, sizeof(path), "%s/PG_VERSION", snap_dir);
	assert_int_equal(lgetxattr(path, "user.colour", buf, sizeof(buf)), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(lgetxattr(path, "system.posix_acl_access", buf, sizeof(buf)), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mtim.tv_nsec, 123456789);

	assert_int_equal(statvfs(point, &fs), 0);
	assert_true(fs.f_flag & ST_RDONLY);
	assert_true(fs.f_blocks > 0);
	assert_int_equal(open_in(snap_dir, "new", O_CREAT | O_WRONLY), -1);
	assert_int_equal(errno, EROFS);
	assert_int_equal(open_in(snap_dir, "PG_VERSION", O_WRONLY), -1);
	assert_int_equal(errno, EROFS);
	stop();
}

/* The list of access is kept by the kernel: a user named in it may read, another may not. */
static void
test_access(void **state)
{
	static const struct {
		uid_t uid;
		int expected;
	} users[] = { { 12345, 0 }, { 12346, EACCES } };

	(void)state;
	if (geteuid() != 0) {
		print_message("skipped: only root can act as others\n");
		return;
	}
	start();
	for (size_t i = 0; i < 2; i++) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0) {
			if (setgid(users[i].uid) || setuid(users[i].uid))
				_exit(255);
			_exit(open_in(snap_dir, "attributed", O_RDONLY) == -1 ? errno : 0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WEXITSTATUS(status), users[i].expected);
	}
	stop();
}

static void
test_busy(void **state)
{
	struct stat st;
	int fd;

	(void)state;
	start();
	fd = open_in(snap_dir, "big", O_RDONLY);
	assert_int_not_equal(fd, -1);
	assert_int_equal(mount_umount(point, false), ERR_BUSY);
	assert_non_null(strstr(err_msg(), "--lazy"));
	assert_non_null(strstr(err_msg(), "test_mount"));
	assert_int_equal(is_mounted(), 1);

	/* Twice is refused, as long as it lives. */
	{
		struct mount_opts again = { .mountpoint = point };

		assert_int_equal(mount_serve(NULL, &again), ERR_BUSY);
	}
	assert_int_equal(mount_umount(point, true), 0);
	assert_int_equal(is_mounted(), 0);
	/* Detached, it still serves who has it open. */
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	assert_int_equal(reap(), 0);
	assert_int_equal(mount_umount(point, false), ERR_NOTFOUND);
}

static void
test_signals(void **state)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		start();
		assert_int_equal(is_mounted(), 1);
		assert_int_equal(kill(server, signals[i]), 0);
		assert_int_equal(reap(), 0);
		assert_int_equal(is_mounted(), 0);
	}
}

/* A server that was killed leaves a mount that answers nothing; it can be mounted over. */
static void
test_dead_server(void **state)
{
	struct statvfs fs;
	struct stat st;

	(void)state;
	start();
	assert_int_equal(kill(server, SIGKILL), 0);
	assert_int_equal(reap(), 128 + SIGKILL);
	assert_int_equal(statvfs(point, &fs), -1);
	assert_int_equal(errno, ENOTCONN);
	start();
	assert_int_equal(stat(snap_dir, &st), 0);
	assert_int_equal(kill(server, SIGKILL), 0);
	assert_int_equal(reap(), 128 + SIGKILL);
	assert_int_equal(mount_umount(point, false), 0);
	assert_int_equal(stat(point, &st), 0);
}

static void
test_bad_mountpoints(void **state)
{
	struct mount_opts opts = { .mountpoint = "/nonexistent/point" };
	char file[220];

	(void)state;
	assert_int_equal(mount_serve(NULL, &opts), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "mkdir"));
	snprintf(file, sizeof(file), "%s/file", fx.store.dir);
	close(open(file, O_CREAT | O_WRONLY, 0600));
	opts.mountpoint = file;
	assert_int_equal(mount_serve(NULL, &opts), ERR_USAGE);
}

static int
second_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref)
{
	if (off != CHUNK_PAGE_BYTES)
		return 0;
	*(struct chunk_id *)ctx = ref->id;
	return 1;
}

/* Commit a second snapshot, whose file "hurt" has a damaged chunk, while the mount is there. */
static void
test_new_and_damaged(void **state)
{
	enum { HURT_BYTES = 16 * CHUNK_PAGE_BYTES };
	uint8_t *data = fixture_noise_new(HURT_BYTES, 5), page[4096];
	const struct past_file own[] = {
		{ .path = "", .type = TREE_DIR, .mode = 0700 },
		{ .path = "hurt",
		    .type = TREE_FILE,
		    .mode = 0600,
		    .data = data,
		    .len = HURT_BYTES,
		    .chunking = CHUNKING_PAGES },
	};
	const struct past_part part = { .name = "", .files = own, .nfiles = 2 };
	struct chunk_id id;
	struct content_visitor visitor = { .chunk = second_chunk, .ctx = &id };
	struct repo_reader *r;
	struct tree_entry e;
	struct snapshot s;
	struct stat before, after;
	char path[512];
	int fd = -1;

	(void)state;
	start();
	snprintf(path, sizeof(path), "%s/main/snapshots/latest", point);
	assert_int_equal(stat(path, &before), 0);
	past_fixture_snapshot(&fx, NULL, T0 + 3600, &part, 1, &s);
	r = past_fixture_reader(&fx);
	assert_int_equal(tree_lookup(r, &s.parts[0].root, "hurt", &e), 0);
	assert_int_equal(content_each(r, &e.content, &visitor), 1);
	tree_entry_release(&e);
	repo_reader_close(r);
	past_fixture_damage(&fx, &id);

	snprintf(path, sizeof(path), "%s/main/snapshots/latest/hurt", point);
	for (int i = 0; i < 100 && (fd = open(path, O_RDONLY)) == -1; i++)
		usleep(100000);
	assert_int_not_equal(fd, -1);
	for (size_t off = 0; off < HURT_BYTES; off += sizeof(page)) {
		ssize_t n = pread(fd, page, sizeof(page), (off_t)off);

		if (off / CHUNK_PAGE_BYTES == 1) {
			assert_int_equal(n, -1);
			assert_int_equal(errno, EIO);
			continue;
		}
		assert_int_equal(n, sizeof(page));
		assert_memory_equal(page, data + off, sizeof(page));
	}
	close(fd);
	snprintf(path, sizeof(path), "%s/main/snapshots/latest", point);
	assert_int_equal(stat(path, &after), 0);
	assert_int_not_equal(before.st_ino, after.st_ino);
	snprintf(path, sizeof(path), "%s/main/snapshots/" SNAP_1, point);
	assert_int_equal(stat(path, &after), 0);
	stop();
	snapshot_release(&s);
	free(data);
}

static int
setup(void **state)
{
	static struct past_file files[CROWD + 10];
	static char names[CROWD][24];
	struct past_part part = { .name = "", .files = files, .nfiles = 6 };
	struct snapshot s;

	(void)state;
	past_fixture_new(&fx);
	big = fixture_noise_new(BIG_BYTES, 3);
	files[0] = (struct past_file){ .path = "", .type = TREE_DIR, .mode = 0755 };
	files[1] = (struct past_file){ .path = "PG_VERSION",
		.type = TREE_FILE,
		.mode = 0600,
		.data = "15\n",
		.len = 3,
		.mtime_s = 1500000000 };
	files[2] = (struct past_file){ .path = "big",
		.type = TREE_FILE,
		.mode = 0600,
		.data = big,
		.len = BIG_BYTES,
		.chunking = CHUNKING_PAGES };
	files[3] = (struct past_file){ .path = "attributed",
		.type = TREE_FILE,
		.mode = 0640,
		.data = "x",
		.len = 1,
		.xattrs = xattrs,
		.nxattrs = 2 };
	files[4] = (struct past_file){ .path = "crowd", .type = TREE_DIR, .mode = 0755 };
	files[5] = (struct past_file){ .path = "link", .type = TREE_SYMLINK, .target = "big" };
	for (int i = 0; i < CROWD; i++) {
		snprintf(names[i], sizeof(names[i]), "crowd/%06d", i);
		files[part.nfiles++] = (struct past_file){ .path = names[i],
			.type = TREE_FILE,
			.mode = 0640,
			.data = names[i] + 6,
			.len = 6 };
	}
	past_fixture_snapshot(&fx, NULL, T0, &part, 1, &s);
	snapshot_release(&s);
	/* Others must get through to the mountpoint, too. */
	if (chmod(fx.store.dir, 0755))
		return -1;
	snprintf(point, sizeof(point), "%s/mnt", fx.store.dir);
	snprintf(snap_dir, sizeof(snap_dir), "%s/main/snapshots/" SNAP, point);
	return mkdir(point, 0755);
}

static int
teardown(void **state)
{
	(void)state;
	umount2(point, MNT_DETACH);
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	past_fixture_free(&fx);
	free(big);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_mountpoints),
		cmocka_unit_test(test_listing),
		cmocka_unit_test(test_reading),
		cmocka_unit_test(test_parallel),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_access),
		cmocka_unit_test(test_busy),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_dead_server),
		cmocka_unit_test(test_new_and_damaged),
	};

	if (access("/dev/fuse", F_OK)) {
		printf("skipped: this system has no /dev/fuse\n");
		return 0;
	}
	signal(SIGALRM, on_alarm);
	alarm(WATCHDOG_S);
	return cmocka_run_group_tests_name("mount", tests, setup, teardown);
}
