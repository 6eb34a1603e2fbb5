/* Locks: one holder at a time, over processes; holders that are gone are taken over. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/lock.h"
#include "store/repo.h"
#include "store/sealed.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
	struct store_fixture repo;
	struct repo_admin *admin;
	struct source source;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!f)
		return -1;
	store_fixture_make(&f->repo);
	memcpy(f->source.id, "\1\2\3\4\5\6\7\10", SOURCE_ID_LEN);
	strcpy(f->source.name, "main");
	return repo_admin_open(&f->admin, &f->repo.opts);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	repo_admin_close(f->admin);
	store_fixture_remove(&f->repo);
	free(f);
	return 0;
}

static size_t
count_objects(struct fixture *f)
{
	return fixture_count_objects(repo_admin_reader(f->admin), "locks/");
}

/* Put `rec` as the given generation, as another process would have. */
static void
put(struct fixture *f, uint64_t generation, const struct lock_record *rec)
{
	struct bytes b;
	char name[64];

	bytes_init(&b);
	assert_int_equal(lock_record_encode(&b, rec), 0);
	snprintf(
	    name, sizeof(name), "locks/0102030405060708/%016llx", (unsigned long long)generation);
	assert_int_equal(repo_admin_put(f->admin, SEALED_LOCK, name, b.data, b.len), 0);
	bytes_release(&b);
}

static void
replace(char **text, const char *by)
{
	free(*text);
	*text = strdup(by);
	assert_non_null(*text);
}

/* Whether the lock can be had; it is given back at once. */
static int
try(struct fixture *f)
{
	struct lock *l;
	int rc = lock_acquire(&l, f->admin, &f->source, "backup");

	if (rc) {
		assert_null(l);
		return rc;
	}
	assert_int_equal(lock_release(l), 0);
	return 0;
}

/* ---- the record ---- */

static void
test_record(void **state)
{
	struct lock_record want, got;
	struct bytes b;
	size_t whole;

	(void)state;
	assert_int_equal(lock_record_self(&want, "backup"), 0);
	assert_true(want.pid == (uint64_t)getpid());
	assert_true(want.pid_start > 0 && want.since_us > 0 && want.pid_space > 0);
	assert_true(strlen(want.boot_id) == 36);
	bytes_init(&b);
	assert_int_equal(lock_record_encode(&b, &want), 0);
	assert_int_equal(lock_record_decode(&got, b.data, b.len), 0);
	assert_int_equal(got.state, LOCK_HELD);
	assert_string_equal(got.what, "backup");
	assert_string_equal(got.host, want.host);
	assert_string_equal(got.machine_id, want.machine_id);
	assert_string_equal(got.boot_id, want.boot_id);
	assert_true(got.pid == want.pid && got.pid_start == want.pid_start &&
		    got.pid_space == want.pid_space && got.since_us == want.since_us);
	assert_memory_equal(got.token, want.token, LOCK_TOKEN_LEN);
	lock_record_release(&got);
	whole = b.len;
	for (b.len = 0; b.len < whole; b.len++)
		assert_int_equal(lock_record_decode(&got, b.data, b.len), ERR_DAMAGED);
	bytes_release(&b);
	lock_record_release(&want);
}

/* ---- taking and giving back ---- */

static void
test_acquire_and_release(void **state)
{
	struct fixture *f = *state;
	struct lock *l, *second;
	char pid[40];

	for (int i = 0; i < 5; i++) {
		assert_int_equal(lock_acquire(&l, f->admin, &f->source, "backup"), 0);
		assert_int_equal(lock_acquire(&second, f->admin, &f->source, "backup"), ERR_BUSY);
		assert_null(second);
		snprintf(pid, sizeof(pid), "by process %d on host ", (int)getpid());
		assert_non_null(strstr(err_msg(), "source \"main\" is being backed up by process"));
		assert_non_null(strstr(err_msg(), pid));
		assert_non_null(strstr(err_msg(), "pastfs source unlock main"));
		assert_int_equal(lock_release(l), 0);
	}
	/* The free generation and the one before it, nothing else. */
	assert_int_equal(count_objects(f), 2);
	assert_int_equal(lock_acquire(&l, f->admin, &f->source, "prune"), 0);
	assert_int_equal(try(f), ERR_BUSY);
	assert_non_null(strstr(err_msg(), "in use (prune)"));
	assert_int_equal(lock_release(l), 0);
	assert_int_equal(lock_release(NULL), 0);
}

static void
test_sources_are_apart(void **state)
{
	struct fixture *f = *state;
	struct source other = f->source;
	struct lock *a, *b;

	other.id[0] ^= 1;
	assert_int_equal(lock_acquire(&a, f->admin, &f->source, "backup"), 0);
	assert_int_equal(lock_acquire(&b, f->admin, &other, "backup"), 0);
	assert_int_equal(lock_release(a), 0);
	assert_int_equal(lock_release(b), 0);
}

static void
test_break(void **state)
{
	struct fixture *f = *state;
	struct lock *l;

	assert_int_equal(lock_break(f->admin, &f->source), 1);
	assert_int_equal(lock_acquire(&l, f->admin, &f->source, "backup"), 0);
	assert_int_equal(lock_break(f->admin, &f->source), 0);
	assert_int_equal(lock_break(f->admin, &f->source), 1);
	/* Its holder is told that it had lost it. */
	assert_int_equal(lock_release(l), ERR_BUSY);
	assert_non_null(strstr(err_msg(), "freed by somebody else"));
	assert_int_equal(try(f), 0);
}

/* ---- who is gone ---- */

static void
test_other_hosts_are_left_alone(void **state)
{
	struct fixture *f = *state;
	struct lock_record rec;

	assert_int_equal(lock_record_self(&rec, "backup"), 0);
	replace(&rec.boot_id, "00000000-0000-0000-0000-000000000000");
	replace(&rec.host, "some-other-host");
	put(f, 1, &rec);
	assert_int_equal(try(f), ERR_BUSY);
	assert_non_null(strstr(err_msg(), "on host some-other-host since 20"));
	/* The same name on another installation is another host as well. */
	lock_record_release(&rec);
	assert_int_equal(lock_record_self(&rec, "backup"), 0);
	replace(&rec.boot_id, "00000000-0000-0000-0000-000000000000");
	replace(&rec.machine_id, "not this machine");
	put(f, 2, &rec);
	assert_int_equal(try(f), ERR_BUSY);
	/* And without a boot id nothing is known. */
	replace(&rec.boot_id, "");
	put(f, 3, &rec);
	assert_int_equal(try(f), ERR_BUSY);
	assert_int_equal(lock_break(f->admin, &f->source), 0);
	assert_int_equal(try(f), 0);
	lock_record_release(&rec);
}

static void
test_rebooted_host(void **state)
{
	struct fixture *f = *state;
	struct lock_record rec;

	assert_int_equal(lock_record_self(&rec, "backup"), 0);
	replace(&rec.boot_id, "00000000-0000-0000-0000-000000000000");
	put(f, 1, &rec);
	assert_int_equal(try(f), 0);
	lock_record_release(&rec);
}

static void
test_pids(void **state)
{
	struct fixture *f = *state;
	struct lock_record rec;

	assert_int_equal(lock_record_self(&rec, "backup"), 0);
	put(f, 1, &rec);
	assert_int_equal(try(f), ERR_BUSY);
	/* The number is in use again, by a process that started at another time. */
	rec.pid_start--;
	put(f, 2, &rec);
	assert_int_equal(try(f), 0);
	/* No process has such a number. */
	rec.pid = UINT32_MAX;
	put(f, 100, &rec);
	assert_int_equal(try(f), 0);
	/* In another namespace it may well be there. */
	rec.pid_space++;
	put(f, 200, &rec);
	assert_int_equal(try(f), ERR_BUSY);
	lock_record_release(&rec);
}

static void
test_damaged_lock(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(repo_admin_put(f->admin, SEALED_LOCK,
			     "locks/0102030405060708/0000000000000001", "\1\0\0\0junk", 8),
	    0);
	assert_int_equal(try(f), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "pastfs source unlock main"));
	assert_int_equal(lock_break(f->admin, &f->source), 0);
	assert_int_equal(try(f), 0);
}

/* A slow one takes a number that had been used and deleted: it must see that and give way. */
static void
test_used_up_number(void **state)
{
	struct fixture *f = *state;
	struct lock_record free_one = { .state = LOCK_FREE };
	struct lock *l;

	put(f, 7, &free_one);
	assert_int_equal(lock_acquire(&l, f->admin, &f->source, "backup"), 0);
	/* Generation 3 appears after generation 8 is held: nobody takes it for the newest. */
	put(f, 3, &free_one);
	assert_int_equal(try(f), ERR_BUSY);
	assert_int_equal(lock_release(l), 0);
	assert_int_equal(count_objects(f), 2);
}

/* ---- other processes ---- */

/* A child that takes the lock, writes its result to `fd` as a byte, and stays until it is ended. */
static pid_t
start_holder(struct fixture *f, int fd)
{
	struct repo_admin *admin = NULL;
	struct lock *l = NULL;
	pid_t pid = fork();
	char byte;
	int rc;

	assert_int_not_equal(pid, -1);
	if (pid > 0)
		return pid;
	rc = repo_admin_open(&admin, &f->repo.opts);
	if (rc == 0)
		rc = lock_acquire(&l, admin, &f->source, "backup");
	byte = (char)-rc;
	if (write(fd, &byte, 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static void
test_killed_holder(void **state)
{
	struct fixture *f = *state;
	char byte = -1;
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = start_holder(f, fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(try(f), ERR_BUSY);
	assert_int_equal(kill(pid, SIGKILL), 0);
	/* Dead but not collected by its parent: already gone. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
	assert_int_equal(try(f), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(try(f), 0);
	close(fds[0]);
	close(fds[1]);
}

#define RACERS 4
#define ROUNDS 12

/* Take the lock ROUNDS times; while it is held, a file exists that only one may make. */
static int
race(struct fixture *f)
{
	struct repo_admin *admin = NULL;
	char path[300];
	int rc, got = 0;

	snprintf(path, sizeof(path), "%s/inside", f->repo.dir);
	rc = repo_admin_open(&admin, &f->repo.opts);
	for (int tries = 0; rc == 0 && got < ROUNDS && tries < 100000; tries++) {
		struct lock *l;
		int fd;

		rc = lock_acquire(&l, admin, &f->source, "backup");
		if (rc == ERR_BUSY) {
			usleep(500);
			rc = 0;
			continue;
		}
		if (rc)
			break;
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd == -1)
			return 10;
		usleep(200);
		if (close(fd) || unlink(path))
			return 11;
		rc = lock_release(l);
		got++;
	}
	if (rc)
		fprintf(stderr, "racer: %d: %s\n", rc, err_msg());
	repo_admin_close(admin);
	return rc ? 12 : got == ROUNDS ? 0 : 13;
}

static void
test_race(void **state)
{
	struct fixture *f = *state;
	pid_t pids[RACERS];

	for (int i = 0; i < RACERS; i++) {
		pids[i] = fork();
		assert_int_not_equal(pids[i], -1);
		if (pids[i] == 0)
			_exit(race(f));
	}
	for (int i = 0; i < RACERS; i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
	assert_int_equal(try(f), 0);
	assert_int_equal(count_objects(f), 2);
}

/* ---- faults ---- */

/* Whatever call fails, the lock is never left to a process that was told it has not got it. */
static void
test_acquire_faults(void **state)
{
	struct fixture *f = *state;
	bool happened = true;
	uint64_t n;

	for (n = 1; happened && n < 2000; n++) {
		struct lock *l;
		int rc;

		sys_fault_arm(n, n % 2 ? ENOSPC : ENOMEM);
		rc = lock_acquire(&l, f->admin, &f->source, "backup");
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc == 0) {
			assert_int_equal(try(f), ERR_BUSY);
			assert_int_equal(lock_release(l), 0);
		} else {
			assert_true(happened);
			assert_null(l);
		}
		assert_int_equal(try(f), 0);
		assert_int_equal(count_objects(f), 2);
	}
	assert_false(happened);
	assert_true(n > 10);
}

static void
test_release_faults(void **state)
{
	struct fixture *f = *state;
	bool happened = true;
	uint64_t n;

	for (n = 1; happened && n < 2000; n++) {
		struct lock *l;
		int rc;

		assert_int_equal(lock_acquire(&l, f->admin, &f->source, "backup"), 0);
		sys_fault_arm(n, n % 2 ? ENOSPC : ENOMEM);
		rc = lock_release(l);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		/* If it could not be freed the message says how to free it, and that works. */
		if (rc) {
			assert_non_null(strstr(err_msg(), "pastfs source unlock main"));
			rc = lock_break(f->admin, &f->source);
			assert_true(rc == 0 || rc == 1);
		}
		assert_int_equal(try(f), 0);
	}
	assert_false(happened);
	assert_true(n > 5);
}

#define IN_REPO(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record),
		IN_REPO(test_acquire_and_release),
		IN_REPO(test_sources_are_apart),
		IN_REPO(test_break),
		IN_REPO(test_other_hosts_are_left_alone),
		IN_REPO(test_rebooted_host),
		IN_REPO(test_pids),
		IN_REPO(test_damaged_lock),
		IN_REPO(test_used_up_number),
		IN_REPO(test_killed_holder),
		IN_REPO(test_race),
		IN_REPO(test_acquire_faults),
		IN_REPO(test_release_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
