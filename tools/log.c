#include "tools/log.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

/* The thread that passes standard error on to syslog. */
static pthread_t pump_thread;
static bool pumping;

static int
null_input_output(void)
{
	int fd = sys_openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);

	if (fd == -1 || dup2(fd, STDIN_FILENO) == -1 || dup2(fd, STDOUT_FILENO) == -1) {
		sys_close(&fd);
		return err_sys("open /dev/null");
	}
	sys_close(&fd);
	return 0;
}

static void
log_line(const char *text)
{
	/* syslog(3) puts the program's name before the line itself. */
	const char *line = strncmp(text, "pastfs: ", 8) == 0 ? text + 8 : text;

	if (*line)
		syslog(LOG_WARNING, "%s", line);
}

/*
 * Reads what the process writes to standard error, until that is closed.  No FILE: this thread
 * would hold its lock while it waits, and who flushes all files would wait for ever.
 */
static void *
pump(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char text[LINE_MAX_BYTES + 1];
	size_t have = 0;
	ssize_t n;

	while (
	    (n = read(fd, text + have, LINE_MAX_BYTES - have)) > 0 || (n == -1 && errno == EINTR)) {
		char *line = text, *end;

		if (n == -1)
			continue;
		have += (size_t)n;
		text[have] = '\0';
		while ((end = strchr(line, '\n'))) {
			*end = '\0';
			log_line(line);
			line = end + 1;
		}
		have = strlen(line);
		if (have == LINE_MAX_BYTES) {
			log_line(line);
			have = 0;
		}
		memmove(text, line, have);
	}
	close(fd);
	return NULL;
}

static int
to_syslog(const char *name)
{
	int ends[2];

	openlog(name, LOG_PID, LOG_DAEMON);
	if (pipe2(ends, O_CLOEXEC))
		return err_sys("make a pipe for the log");
	if (pthread_create(&pump_thread, NULL, pump, (void *)(intptr_t)ends[0])) {
		close(ends[0]);
		close(ends[1]);
		return err_set(ERR_FAIL, "cannot start the thread of the log");
	}
	pumping = true;
	setvbuf(stderr, NULL, _IOLBF, 0);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	return 0;
}

int
log_redirect(const char *name, const char *path)
{
	int fd = -1, rc;

	if (path) {
		fd = sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		if (fd == -1)
			return err_sys("open log file %s", path);
	}
	rc = null_input_output();
	if (!rc && fd == -1)
		rc = to_syslog(name);
	else if (!rc && dup2(fd, STDERR_FILENO) == -1)
		rc = err_sys("write to log file %s", path);
	sys_close(&fd);
	return rc;
}

void
log_finish(void)
{
	fflush(stderr);
	if (!pumping)
		return;
	/* The last writer's end of the pipe is standard error itself. */
	dup2(STDOUT_FILENO, STDERR_FILENO);
	pthread_join(pump_thread, NULL);
	pumping = false;
}
