#include "tools/log.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

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

/* Reads what the process writes to standard error, and lives as long as it does. */
static void *
pump(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char text[LINE_MAX_BYTES];
	FILE *in = fdopen(fd, "r");

	if (!in)
		return NULL;
	while (fgets(text, sizeof(text), in)) {
		/* syslog(3) puts the program's name before the line itself. */
		const char *line = strncmp(text, "pastfs: ", 8) == 0 ? text + 8 : text;

		text[strcspn(text, "\n")] = '\0';
		if (*line)
			syslog(LOG_WARNING, "%s", line);
	}
	fclose(in);
	return NULL;
}

static int
to_syslog(const char *name)
{
	pthread_t thread;
	int ends[2];

	openlog(name, LOG_PID, LOG_DAEMON);
	if (pipe2(ends, O_CLOEXEC))
		return err_sys("make a pipe for the log");
	if (pthread_create(&thread, NULL, pump, (void *)(intptr_t)ends[0])) {
		close(ends[0]);
		close(ends[1]);
		return err_set(ERR_FAIL, "cannot start the thread of the log");
	}
	pthread_detach(thread);
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
