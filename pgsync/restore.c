#include "pgsync/restore.h"

#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define CONF_NAME "postgresql.auto.conf"
#define TEMP_NAME "postgresql.auto.conf.pastfs"

/* The last setting of a name counts, so these are appended. */
static const char block[] =
    "# Added by pastfs restore: a copy must not archive into the original's archive.\n"
    "# Remove these lines to archive again.\n"
    "archive_mode = 'off'\n"
    "archive_command = ''\n";

/* Read the file into `text`; *mode, *uid and *gid are what a new one gets.  An absent one is "". */
static int
read_conf(int dirfd, const char *dir, struct bytes *text, struct stat *st)
{
	int fd = sys_openat(dirfd, CONF_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	int rc = 0;
	ssize_t n;

	if (fd == -1 && errno == ENOENT) {
		if (sys_fstat(dirfd, st))
			return err_sys("look at %s", dir);
		st->st_mode = S_IFREG | 0600;
		return 0;
	}
	if (fd == -1 && errno == ELOOP)
		return err_set(ERR_UNSUPPORTED, "%s/" CONF_NAME " is a symbolic link", dir);
	if (fd == -1 || sys_fstat(fd, st)) {
		rc = err_sys("read %s/" CONF_NAME, dir);
		goto out;
	}
	if (!S_ISREG(st->st_mode) || st->st_size > (off_t)RESTORE_CONF_MAX) {
		rc = err_set(ERR_UNSUPPORTED, "%s/" CONF_NAME " is not a configuration file", dir);
		goto out;
	}
	if (!bytes_reserve(text, (size_t)st->st_size + 1)) {
		rc = bytes_status(text);
		goto out;
	}
	n = sys_read_full(fd, text->data, (size_t)st->st_size);
	if (n == -1)
		rc = err_sys("read %s/" CONF_NAME, dir);
	else
		text->len = (size_t)n;
out:
	sys_close(&fd);
	return rc;
}

/* A new file beside the old one, complete and durable before it takes the name. */
static int
replace_conf(int dirfd, const char *dir, const struct bytes *text, const struct stat *st)
{
	const struct timespec times[2] = { st->st_mtim, st->st_mtim };
	int fd, rc = 0;

	/* What a killed run left behind. */
	if (sys_unlinkat(dirfd, TEMP_NAME, 0) && errno != ENOENT)
		return err_sys("remove %s/" TEMP_NAME, dir);
	fd = sys_openat(
	    dirfd, TEMP_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1)
		return err_sys("write %s/" TEMP_NAME, dir);

	/* Only root can give a file away; anybody else writes only his own. */
	if ((geteuid() == 0 && sys_fchownat(fd, "", st->st_uid, st->st_gid, AT_EMPTY_PATH)) ||
	    sys_fchmodat(dirfd, TEMP_NAME, st->st_mode & 07777) ||
	    sys_write_all(fd, text->data, text->len) ||
	    sys_utimensat(dirfd, TEMP_NAME, times, AT_SYMLINK_NOFOLLOW) || sys_fsync(fd) ||
	    sys_renameat(dirfd, TEMP_NAME, dirfd, CONF_NAME)) {
		rc = err_sys("write %s/" CONF_NAME, dir);
		sys_unlinkat(dirfd, TEMP_NAME, 0);
	} else if (sys_fsync(dirfd)) {
		rc = err_sys("sync %s", dir);
	}
	sys_close(&fd);
	return rc;
}

int
restore_stop_archiving(const char *dir)
{
	struct bytes text;
	struct stat st = { 0 };
	int dirfd, rc;

	bytes_init(&text);
	dirfd = sys_openat(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (dirfd == -1) {
		rc = err_sys("open %s", dir);
		goto out;
	}
	rc = read_conf(dirfd, dir, &text, &st);
	if (rc)
		goto out;
	if (text.len && memmem(text.data, text.len, block, sizeof(block) - 1)) {
		/* A run that failed after the rename may not have made it durable. */
		if (sys_fsync(dirfd))
			rc = err_sys("sync %s", dir);
		goto out;
	}
	if (text.len && text.data[text.len - 1] != '\n')
		bytes_put_u8(&text, '\n');
	bytes_put(&text, block, sizeof(block) - 1);
	rc = bytes_status(&text);
	if (!rc)
		rc = replace_conf(dirfd, dir, &text, &st);
out:
	sys_close(&dirfd);
	bytes_release(&text);
	return rc;
}

int
restore_protect(const char *dir)
{
	struct stat st;
	int fd = sys_openat(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	int rc = 0;

	if (fd == -1 || sys_fstat(fd, &st)) {
		rc = err_sys("look at %s", dir);
		goto out;
	}
	if ((st.st_mode & 07777) != 0700 && (st.st_mode & 07777) != 0750 &&
	    sys_fchmodat(fd, ".", 0700))
		rc = err_sys("make %s private", dir);
out:
	sys_close(&fd);
	return rc;
}
