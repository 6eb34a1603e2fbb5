/*
 * cmd_mount: show the repository as a directory, and take it away again.
 *
 * The process that serves the mount is forked off before it reads the key or starts a thread:
 * neither locked memory nor threads pass through a fork.  It stays on the terminal, to ask for the
 * passphrase, until the mount answers; then it says so to its parent over a pipe and becomes a
 * daemon.  The parent's exit status is the outcome.
 */
#include "fs/mount.h"
#include "fs/view.h"
#include "store/backend.h"
#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/repo.h"
#include "tools/cmd.h"
#include "tools/log.h"
#include "tools/open_repo.h"
#include "tools/output.h"
#include "tools/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS_MAX 256

static const struct args_option mount_options[] = {
	{ "allow-other", 'o', NULL,
	    "other users may look too, as far as the modes let them (root's "
	    "mounts always are so)" },
	{ "owner", 0, "USER[:GROUP]", "show everything as owned by USER" },
	{ "foreground", 'f', NULL, "stay here, and end on Ctrl-C" },
	{ "log", 0, "FILE", "append errors to FILE instead of syslog" },
	{ "jobs", 'j', "N", "threads (one a processor, at least 4)" },
	{ NULL, 0, NULL, NULL },
};

struct serving {
	const char *log;
	bool daemon;
	int pipe; /* to the parent: one struct err_saved; -1 in the foreground */
};

/* Tell the parent how it went.  Short writes cannot happen: a pipe takes this much as a whole. */
static void
tell_parent(struct serving *s, int code)
{
	struct err_saved saved;

	if (s->pipe == -1)
		return;
	memset(&saved, 0, sizeof(saved));
	err_save(&saved, code);
	(void)sys_write_all(s->pipe, &saved, sizeof(saved));
	sys_close(&s->pipe);
}

/* The mount answers.  From here on nobody sees the terminal's end of this process. */
static void
ready(void *ctx)
{
	struct serving *s = ctx;

	if (!s->daemon)
		return;
	setsid();
	/* The log first: its name may be relative to where we are. */
	if (log_redirect("pastfs", s->log))
		output_warn("%s", err_msg());
	if (chdir("/"))
		output_warn("cannot change to /: %s", strerror(errno));
	tell_parent(s, 0);
}

static int
serve(const struct args *a, const char *dir, struct serving *s)
{
	struct mount_opts mopts = { .mountpoint = dir, .ready = ready, .ctx = s };
	struct view_opts vopts = { 0 };
	struct repo_reader *r = NULL;
	struct view *v = NULL;
	long threads;
	int rc = args_number(a, "jobs", 1, THREADS_MAX, 0, &threads);

	if (!rc && args_given(a, "owner")) {
		vopts.map_owner = true;
		rc = owner_parse(args_value(a, "owner"), &vopts.uid, &vopts.gid);
	}
	if (!rc)
		rc = open_repo_reader(a, &r);
	if (!rc)
		rc = view_open(&v, r, &vopts);
	if (!rc) {
		mopts.fsname = backend_url(repo_reader_backend(r));
		mopts.allow_other = geteuid() == 0 || args_given(a, "allow-other");
		mopts.threads = (int)threads;
		rc = mount_serve(v, &mopts);
	}
	view_close(v);
	repo_reader_close(r);
	return rc;
}

/* The child's whole life. */
static void __attribute__((noreturn))
serve_apart(const struct args *a, const char *dir, struct serving *s)
{
	int rc = serve(a, dir, s);

	/* Before the mount answered this is the outcome; afterwards it goes to the log. */
	if (s->pipe != -1)
		tell_parent(s, rc ? rc : err_set(ERR_FAIL, "the mount ended before it answered"));
	else if (rc)
		fprintf(stderr, "pastfs: %s\n", err_msg());
	log_finish();
	_exit(err_exit_status(rc));
}

static int
wait_for_child(int fd, pid_t pid)
{
	struct err_saved saved;
	ssize_t n = sys_read_full(fd, &saved, sizeof(saved));
	int status;

	if (n == (ssize_t)sizeof(saved)) {
		saved.msg[sizeof(saved.msg) - 1] = '\0';
		if (!saved.code)
			return 0;
		waitpid(pid, &status, 0);
		return err_restore(&saved);
	}
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
		;
	if (cancel_requested())
		return cancel_check();
	return err_set(ERR_FAIL, "the process that was to serve the mount ended without a word");
}

static int
serve_in_background(const struct args *a, const char *dir)
{
	struct serving s = { .log = args_value(a, "log"), .daemon = true, .pipe = -1 };
	int ends[2], rc;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return err_sys("make a pipe");
	fflush(NULL);
	pid = fork();
	if (pid == -1) {
		rc = err_sys("start the process that serves the mount");
		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	if (pid == 0) {
		close(ends[0]);
		s.pipe = ends[1];
		serve_apart(a, dir, &s);
	}
	close(ends[1]);
	rc = wait_for_child(ends[0], pid);
	close(ends[0]);
	return rc;
}

/* Faults of the log file are told while somebody looks. */
static int
check_log(const char *path)
{
	int fd;

	if (!path)
		return 0;
	fd = sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd == -1)
		return err_sys("open log file %s", path);
	sys_close(&fd);
	return 0;
}

static int
run_mount(const struct args *a)
{
	struct serving here = { .pipe = -1 };
	char *dir;
	int rc = check_log(args_value(a, "log"));

	if (rc)
		return rc;
	dir = realpath(args_operand(a, 0), NULL);
	if (!dir)
		return err_sys("mount on %s", args_operand(a, 0));
	if (!args_given(a, "foreground"))
		rc = serve_in_background(a, dir);
	else
		rc = serve(a, dir, &here);
	free(dir);
	return rc;
}

const struct verb cmd_mount = {
	.name = "mount",
	.operands = "DIR",
	.summary = "show all snapshots below a directory, read-only",
	.about =
	    "Mounts the repository on the existing directory DIR: DIR/SOURCE/snapshots/TIME is a "
	    "complete data directory, DIR/SOURCE/snapshots/latest the newest. New snapshots "
	    "appear by themselves. The command returns when the mount answers; the serving "
	    "process stays in the background and reports to syslog.\n"
	    "A cluster that is copied out must not archive into the original's archive: start it "
	    "with pg_ctl -o '-c archive_mode=off', or use `pastfs restore`, which switches "
	    "archiving off.",
	.options = mount_options,
	.groups = ARGS_OPEN,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs mount /mnt/past\n"
		    "ls /mnt/past/main/snapshots\n"
		    "cp -a /mnt/past/main/snapshots/latest/. /tmp/copy\n"
		    "pg_ctl -D /tmp/copy -o '-p 5555 -c archive_mode=off' start",
	.run = run_mount,
};

/* ---- umount ---- */

static const struct args_option umount_options[] = {
	{ "lazy", 'l', NULL, "detach it now even if it is busy; it ends when nobody uses it" },
	{ NULL, 0, NULL, NULL },
};

static int
run_umount(const struct args *a)
{
	return mount_umount(args_operand(a, 0), args_given(a, "lazy"));
}

const struct verb cmd_umount = {
	.name = "umount",
	.operands = "DIR",
	.summary = "take a mount away",
	.options = umount_options,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs umount /mnt/past",
	.run = run_umount,
};
