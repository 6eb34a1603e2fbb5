#include "tools/credential_file.h"

#include "store/base/cancel.h"
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* The bounds of a file of this kind, without the newline. */
static size_t
max_bytes(enum keyslot_kind kind)
{
	return kind == KEYSLOT_KEYFILE ? KEYFILE_MAX_BYTES : PASSPHRASE_MAX;
}

static int
check_length(enum keyslot_kind kind, size_t len, const char *path)
{
	if (kind == KEYSLOT_PASSPHRASE && len == 0)
		return err_set(ERR_USAGE, "passphrase file %s is empty", path);
	if (kind == KEYSLOT_KEYFILE && len < KEYFILE_MIN_BYTES)
		return err_set(ERR_USAGE,
		    "key file %s has %zu bytes, at least %d are needed; "
		    "make one with `pastfs key generate FILE`",
		    path, len, KEYFILE_MIN_BYTES);
	if (len > max_bytes(kind))
		return err_set(ERR_USAGE, "%s is longer than the %zu bytes that are allowed", path,
		    max_bytes(kind));
	return 0;
}

int
credential_file_read(
    struct credential *cred, enum keyslot_kind kind, const char *path, bool *open_to_others)
{
	const char *what = kind == KEYSLOT_KEYFILE ? "key file" : "passphrase file";
	size_t room = max_bytes(kind) + 2; /* a newline, and one to see that it is too long */
	char *data = secret_alloc(room);
	struct stat st;
	ssize_t n;
	int fd = -1, rc = 0;

	memset(cred, 0, sizeof(*cred));
	if (!data) {
		rc = err_nomem();
		goto out;
	}
	fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd == -1 || sys_fstat(fd, &st)) {
		rc = err_sys("read %s %s", what, path);
		goto out;
	}
	n = sys_read_full(fd, data, room);
	if (n == -1) {
		rc = err_sys("read %s %s", what, path);
		goto out;
	}
	if (kind == KEYSLOT_PASSPHRASE && n > 0 && data[n - 1] == '\n')
		n--;
	rc = check_length(kind, (size_t)n, path);
	if (rc)
		goto out;
	*open_to_others = S_ISREG(st.st_mode) && (st.st_mode & 077);
	*cred = (struct credential){ kind, data, (size_t)n };
	data = NULL;
out:
	sys_close(&fd);
	secret_free(data);
	return rc;
}

/* One line from the terminal, with echo switched off around it. */
static int
read_line(char *out, size_t room, size_t *len, const char *prompt)
{
	struct termios shown, hidden;
	int rc = 0;
	ssize_t n;

	if (tcgetattr(STDIN_FILENO, &shown))
		return err_sys("ask for the passphrase");
	hidden = shown;
	hidden.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
	fprintf(stderr, "%s: ", prompt);
	fflush(stderr);
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden))
		return err_sys("switch the terminal's echo off");

	/* A terminal gives a line a read; an interrupt ends the read. */
	do
		n = read(STDIN_FILENO, out, room);
	while (n == -1 && errno == EINTR && !cancel_requested());
	if (n == -1)
		rc = cancel_requested() ? cancel_check() : err_sys("read the passphrase");
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
	fputc('\n', stderr);
	if (rc)
		return rc;
	if (n > 0 && out[n - 1] == '\n')
		n--;
	if ((size_t)n > PASSPHRASE_MAX)
		return err_set(ERR_USAGE, "the passphrase is longer than %d bytes", PASSPHRASE_MAX);
	*len = (size_t)n;
	return 0;
}

int
credential_file_ask(struct credential *cred, const char *prompt, bool again)
{
	char *first = secret_alloc(PASSPHRASE_MAX + 2), *second = secret_alloc(PASSPHRASE_MAX + 2);
	size_t n1 = 0, n2 = 0;
	int rc;

	memset(cred, 0, sizeof(*cred));
	if (!first || !second) {
		rc = err_nomem();
		goto out;
	}
	if (!isatty(STDIN_FILENO)) {
		rc =
		    err_set(ERR_USAGE, "no passphrase is given and there is no terminal to ask on");
		goto out;
	}
	rc = read_line(first, PASSPHRASE_MAX + 2, &n1, prompt);
	if (!rc && n1 == 0)
		rc = err_set(ERR_USAGE, "the passphrase is empty");
	if (!rc && again)
		rc = read_line(second, PASSPHRASE_MAX + 2, &n2, "The same again");
	if (rc)
		goto out;
	if (again && (n1 != n2 || secret_compare(first, second, n1))) {
		rc = err_set(ERR_USAGE, "the two passphrases differ; nothing was done");
		goto out;
	}
	*cred = (struct credential){ KEYSLOT_PASSPHRASE, first, n1 };
	first = NULL;
out:
	secret_free(first);
	secret_free(second);
	return rc;
}

/* The file's name must survive the loss of power as well: a key that is lost loses everything. */
static int
sync_parent(const char *path)
{
	char *parent = mem_strdup(path), *slash;
	int fd = -1, rc = 0;

	if (!parent)
		return err_nomem();
	slash = strrchr(parent, '/');
	if (slash)
		slash[slash == parent] = '\0';
	fd = sys_openat(AT_FDCWD, slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd == -1 || sys_fsync(fd))
		rc = err_sys("sync the directory of %s", path);
	sys_close(&fd);
	free(parent);
	return rc;
}

int
credential_file_generate(const char *path)
{
	uint8_t *key = secret_alloc(CREDENTIAL_KEYFILE_BYTES);
	int fd = -1, rc = 0;

	if (!key)
		return err_nomem();
	random_bytes(key, CREDENTIAL_KEYFILE_BYTES);
	fd = sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd == -1) {
		rc = err_sys("make key file %s", path);
		goto out;
	}
	if (sys_write_all(fd, key, CREDENTIAL_KEYFILE_BYTES) || sys_fsync(fd)) {
		rc = err_sys("write key file %s", path);
		sys_unlinkat(AT_FDCWD, path, 0);
		goto out;
	}
	rc = sync_parent(path);
out:
	sys_close(&fd);
	secret_free(key);
	return rc;
}
