#include "fs/mountpoint.h"

#include "store/base/err.h"
#include "store/base/sys.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define TABLE_MAX   (16u << 20)
#define USERS_MAX   5   /* processes named in a message */
#define FDS_MAX     256 /* of one process that are looked at */
#define FUSERMOUNT  "fusermount3"
#define FIELD_POINT 4 /* of a line of mountinfo, from 0: proc_pid_mountinfo(5) */

extern char **environ;

/* Resolve the directory part, for a last part that cannot be looked at. */
static int
resolve_parent(const char *path, char out[PATH_MAX])
{
	char copy[PATH_MAX], parent[PATH_MAX];
	const char *base;
	size_t len = strlen(path);
	char *slash;

	while (len > 1 && path[len - 1] == '/')
		len--;
	if (len >= sizeof(copy))
		return err_set(ERR_USAGE, "the path %.60s... is too long", path);
	memcpy(copy, path, len);
	copy[len] = 0;
	slash = strrchr(copy, '/');
	base = slash ? slash + 1 : copy;
	if (slash)
		*slash = 0;
	if (!realpath(slash ? (*copy ? copy : "/") : ".", parent))
		return err_sys("cannot find the directory of %s", path);
	if (snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", base) >= PATH_MAX)
		return err_set(ERR_USAGE, "the path %.60s... is too long", path);
	return 0;
}

int
mountpoint_resolve(const char *path, char out[PATH_MAX])
{
	if (realpath(path, out))
		return 0;
	if (errno == ENOTCONN || errno == EACCES || errno == EIO)
		return resolve_parent(path, out);
	return err_sys("cannot find the mountpoint %s", path);
}

/* Whether `field`, in which \ooo stands for a byte, is `path`; `len` is the field's. */
static bool
same_path(const char *field, size_t len, const char *path)
{
	size_t i = 0;

	while (i < len) {
		char c = field[i++];

		if (c == '\\' && i + 3 <= len) {
			c = (char)((field[i] - '0') << 6 | (field[i + 1] - '0') << 3 |
				   (field[i + 2] - '0'));
			i += 3;
		}
		if (*path == 0 || c != *path++)
			return false;
	}
	return *path == 0;
}

/* The type on a line if it is about `path`; NULL otherwise.  The line ends at `end`. */
static const char *
type_on_line(const char *line, const char *end, const char *path, size_t *len)
{
	const char *p = line, *type;

	for (int field = 0; field < FIELD_POINT; field++) {
		p = memchr(p, ' ', (size_t)(end - p));
		if (!p)
			return NULL;
		p++;
	}
	type = memchr(p, ' ', (size_t)(end - p));
	if (!type || !same_path(p, (size_t)(type - p), path))
		return NULL;
	/* Options and a varying number of tags follow, then " - " and the type. */
	type = memmem(type, (size_t)(end - type), " - ", 3);
	if (!type)
		return NULL;
	type += 3;
	p = memchr(type, ' ', (size_t)(end - type));
	*len = (size_t)((p ? p : end) - type);
	return type;
}

bool
mountpoint_find(const char *table, const char *path, char *type, size_t type_size)
{
	bool found = false;

	while (*table) {
		const char *end = strchrnul(table, '\n'), *t;
		size_t len = 0;

		t = type_on_line(table, end, path, &len);
		if (t && len < type_size) {
			memcpy(type, t, len);
			type[len] = 0;
			found = true;
		}
		table = *end ? end + 1 : end;
	}
	return found;
}

static int
read_table(char **out)
{
	static const char file[] = "/proc/self/mountinfo";
	size_t cap = 64u << 10, len = 0;
	char *text = NULL;
	int fd, rc = 0;

	*out = NULL;
	fd = sys_openat(AT_FDCWD, file, O_RDONLY, 0);
	if (fd == -1)
		return err_sys("cannot read %s", file);
	for (;;) {
		char *grown = mem_realloc(text, cap + 1);
		ssize_t n;

		if (!grown) {
			rc = err_nomem();
			break;
		}
		text = grown;
		n = sys_read_full(fd, text + len, cap - len);
		if (n == -1) {
			rc = err_sys("cannot read %s", file);
			break;
		}
		len += (size_t)n;
		text[len] = 0;
		if (len < cap)
			break;
		if (cap >= TABLE_MAX) {
			rc = err_set(ERR_IO, "%s is longer than %u bytes", file, TABLE_MAX);
			break;
		}
		cap *= 2;
	}
	sys_close(&fd);
	if (rc)
		free(text);
	else
		*out = text;
	return rc;
}

int
mountpoint_is_ours(const char *path)
{
	char *table, type[64] = "";
	int rc = read_table(&table);

	if (rc)
		return rc;
	rc = mountpoint_find(table, path, type, sizeof(type)) && strcmp(type, MOUNTPOINT_TYPE) == 0;
	free(table);
	return rc;
}

int
mountpoint_is_dead(const char *path)
{
	struct statvfs st;

	/* Not stat(2), which the kernel may answer from what it remembers. */
	return statvfs(path, &st) == -1 && (errno == ENOTCONN || errno == ECONNABORTED);
}

/* ---- who uses it ---- */

static bool
is_below(const char *link, const char *path)
{
	char target[PATH_MAX];
	size_t len = strlen(path);
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n <= 0)
		return false;
	target[n] = 0;
	return strncmp(target, path, len) == 0 && (target[len] == 0 || target[len] == '/');
}

/* Whether a process has its working directory or an open file below `path`. */
static bool
uses(const char *pid, const char *path)
{
	char name[PATH_MAX];
	struct dirent *d;
	DIR *fds;
	bool found;
	int seen = 0;

	snprintf(name, sizeof(name), "/proc/%.20s/cwd", pid);
	if (is_below(name, path))
		return true;
	snprintf(name, sizeof(name), "/proc/%.20s/fd", pid);
	fds = opendir(name);
	if (!fds)
		return false;
	for (found = false; !found && seen < FDS_MAX && (d = readdir(fds)); seen++) {
		snprintf(name, sizeof(name), "/proc/%.20s/fd/%.20s", pid, d->d_name);
		found = is_below(name, path);
	}
	closedir(fds);
	return found;
}

/* Append " (pid NAME)"-like words about each user; what may not be seen is passed over. */
static void
name_users(const char *path, char *text, size_t size)
{
	DIR *proc = opendir("/proc");
	struct dirent *d;
	size_t len = 0;
	int n = 0;

	*text = 0;
	while (proc && n < USERS_MAX && (d = readdir(proc))) {
		char name[64], comm[32] = "?";
		FILE *f;

		if (!isdigit((unsigned char)d->d_name[0]) || !uses(d->d_name, path))
			continue;
		snprintf(name, sizeof(name), "/proc/%.20s/comm", d->d_name);
		f = fopen(name, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = 0;
		if (f)
			fclose(f);
		len += (size_t)snprintf(text + len, size - len, "%s%s (process %.20s)",
		    n++ ? ", " : ", used by ", comm, d->d_name);
		if (len >= size)
			break;
	}
	if (proc)
		closedir(proc);
}

static int
busy(const char *path)
{
	char users[512];

	name_users(path, users, sizeof(users));
	return err_set(ERR_BUSY, "%s is in use%s; end that, or detach it with --lazy", path, users);
}

/* ---- unmounting ---- */

/* Run fusermount3, which is allowed to unmount what its user mounted. */
static int
run_fusermount(const char *path, bool lazy)
{
	const char *argv[] = { FUSERMOUNT, "-q", "-u", "--", path, NULL };
	const char *argv_lazy[] = { FUSERMOUNT, "-q", "-u", "-z", "--", path, NULL };
	posix_spawn_file_actions_t actions;
	int status = 0, eno;
	pid_t pid;

	/* Its words are about its own options; ours follow from the status. */
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	eno = posix_spawnp(
	    &pid, FUSERMOUNT, &actions, NULL, (char *const *)(lazy ? argv_lazy : argv), environ);
	posix_spawn_file_actions_destroy(&actions);
	if (eno) {
		errno = eno;
		return err_sys("cannot run %s (Debian: apt install fuse3)", FUSERMOUNT);
	}
	while (waitpid(pid, &status, 0) == -1)
		if (errno != EINTR)
			return err_sys("cannot wait for %s", FUSERMOUNT);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (mountpoint_is_ours(path) == 0)
		return 0;
	/* It does not tell the reasons apart: if we may not see that it is ours, it is not. */
	if (!lazy)
		return busy(path);
	return err_set(ERR_DENIED, "%s may not unmount %s: only root and who mounted it may",
	    FUSERMOUNT, path);
}

int
mountpoint_unmount(const char *path, bool lazy)
{
	if (geteuid() != 0)
		return run_fusermount(path, lazy);
	if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	if (errno == EBUSY)
		return busy(path);
	return err_sys("cannot unmount %s", path);
}
