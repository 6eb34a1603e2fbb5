#include "tests/support/pg_scratch.h"

#include "tests/support/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void
die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

/* The user that servers run as, or NULL when it is the one we are. */
static const struct passwd *
server_user(void)
{
	const struct passwd *pw;

	if (geteuid() != 0)
		return NULL;
	pw = getpwnam("postgres");
	if (!pw)
		pw = getpwnam("nobody");
	if (!pw)
		die("find a user for PostgreSQL");
	return pw;
}

void
pg_scratch_new(struct pg_scratch *s)
{
	const struct passwd *pw = server_user();

	snprintf(s->dir, sizeof(s->dir), "/tmp/pastfs-pg-XXXXXX");
	if (!mkdtemp(s->dir))
		die("make a directory");
	if (pw && chown(s->dir, pw->pw_uid, pw->pw_gid))
		die("give the directory away");
	snprintf(s->pgdata, sizeof(s->pgdata), "%s/data", s->dir);
}

void
pg_scratch_free(struct pg_scratch *s)
{
	if (fixture_rmtree(s->dir))
		die("remove the directory");
}

/* The full path of a program, from the newest server installed. */
static void
find_program(const char *name, char out[256])
{
	glob_t g;

	if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &g) || g.gl_pathc == 0) {
		errno = ENOENT;
		die("find PostgreSQL's programs");
	}
	snprintf(out, 256, "%s/%s", g.gl_pathv[g.gl_pathc - 1], name);
	globfree(&g);
}

static void
become_server_user(void)
{
	const struct passwd *pw = server_user();

	if (!pw)
		return;
	if (setgroups(0, NULL) || setgid(pw->pw_gid) || setuid(pw->pw_uid))
		die("become the server's user");
}

static void
exec_child(const char *program, const char *const *argv, int to)
{
	int null = open("/dev/null", O_RDONLY);

	become_server_user();
	if (chdir("/") || dup2(null, 0) < 0 || dup2(to, 1) < 0 || dup2(to, 2) < 0)
		_exit(126);
	setenv("LC_ALL", "C", 1);
	execv(program, (char *const *)argv);
	_exit(127);
}

int
pg_scratch_run(const char *const *argv, char *out, size_t max)
{
	char program[256], rest[4096];
	int ends[2], status;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	find_program(argv[0], program);
	if (pipe2(ends, O_CLOEXEC))
		die("make a pipe");
	pid = fork();
	if (pid == -1)
		die("fork");
	if (pid == 0)
		exec_child(program, argv, ends[1]);
	close(ends[1]);
	while ((n = read(ends[0], rest, sizeof(rest))) > 0) {
		size_t room = max - 1 - have, take = (size_t)n < room ? (size_t)n : room;

		memcpy(out + have, rest, take);
		have += take;
	}
	out[have] = '\0';
	close(ends[0]);
	if (waitpid(pid, &status, 0) != pid)
		die("wait for a program");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

void
pg_scratch_initdb(struct pg_scratch *s, const char *option)
{
	const char *argv[] = { "initdb", "-D", s->pgdata, "-A", "trust", "-N", "--locale=C", option,
		NULL };
	char out[4096];

	if (pg_scratch_run(argv, out, sizeof(out)) != 0) {
		fprintf(stderr, "initdb failed: %s\n", out);
		exit(2);
	}
}
