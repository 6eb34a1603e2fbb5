/*
 * The front end: turns requests of the kernel into calls of the view, and back.  It decides
 * nothing about names and bytes; what it decides is how long the kernel may remember.
 *
 * Every handler replies exactly once.  A file's data never changes, so there is nothing to keep
 * for an open file, and where the kernel allows it files are opened without asking us at all.
 */
#include "fs/mount.h"

#include "fs/mountpoint.h"
#include "fs/notice.h"
#include "fs/view.h"

#include "store/base/err.h"
#include "store/base/parallel.h"
#include "store/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <fuse_opt.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define READ_MAX_BYTES   (1u << 20) /* of one request; libfuse wants it in two places */
#define READ_AHEAD_KIB   1024
#define MAX_BACKGROUND   64
#define CONGESTION       48
#define THREADS_MIN      4
#define FOREVER_S        1e9
#define MUTABLE_S        1.0
#define WAKE_INTERVAL_MS 10
#define INODE_GENERATION 1
#define READLINK_BUF     4096
#define ALLOW_OTHER_CONF "/etc/fuse.conf"
#define ALLOW_OTHER_WORD "user_allow_other"

struct server {
	struct view *view;
	struct notices *notices;
	struct fuse_session *session;
	const struct mount_opts *opts;
	char mountpoint[PATH_MAX]; /* absolute: whoever serves may change directory */
	bool opens_needed;         /* the kernel insists on being answered for each open */
	pthread_t main_thread;
	int stop_read, stop_write; /* a pipe: a byte asks to stop */
	atomic_bool done;          /* the loop has ended */
	atomic_bool ready;
};

/* ---- buffers ---- */

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void
make_buffer_key(void)
{
	pthread_key_create(&buffer_key, free);
}

/*
 * The thread's own buffer of READ_MAX_BYTES, kept because touching fresh memory costs more than
 * filling it.  NULL if memory ran out.
 */
static char *
thread_buffer(void)
{
	char *buf;

	pthread_once(&buffer_once, make_buffer_key);
	buf = pthread_getspecific(buffer_key);
	if (!buf) {
		buf = mem_alloc(READ_MAX_BYTES);
		if (buf && pthread_setspecific(buffer_key, buf)) {
			free(buf);
			buf = NULL;
		}
	}
	return buf;
}

/* ---- replies ---- */

static struct server *
server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* Say why on standard error, once for each reason, unless it is only an absent name. */
static void
complain(struct server *s, uint64_t ino, int rc)
{
	char path[PATH_MAX], reason[ERR_MSG_MAX];

	if (rc == ERR_NOTFOUND)
		return;
	snprintf(reason, sizeof(reason), "%s", err_msg());
	view_path(s->view, ino, path, sizeof(path));
	notice_once(s->notices, reason, "cannot read %s: %s", path[0] ? path : "/", reason);
}

static void
reply_failure(fuse_req_t req, uint64_t ino, int rc)
{
	complain(server_of(req), ino, rc);
	fuse_reply_err(req, err_errno(rc));
}

static void
fill_param(const struct view_attr *attr, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	e->ino = attr->st.st_ino;
	e->generation = INODE_GENERATION;
	e->attr = attr->st;
	e->attr_timeout = attr->immutable ? FOREVER_S : MUTABLE_S;
	e->entry_timeout = MUTABLE_S;
	if (attr->name_immutable)
		e->entry_timeout = FOREVER_S;
}

/* An absent name is remembered where nothing can appear. */
static void
reply_absent(fuse_req_t req, uint64_t parent)
{
	struct fuse_entry_param e = { .entry_timeout = FOREVER_S };
	struct view_attr attr;

	if (view_getattr(server_of(req)->view, parent, &attr) == 0 && attr.immutable)
		fuse_reply_entry(req, &e);
	else
		fuse_reply_err(req, ENOENT);
}

/* ---- handlers ---- */

static void
do_init(void *userdata, struct fuse_conn_info *conn)
{
	static const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
				       FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
				       FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPORT_SUPPORT |
				       FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_POSIX_ACL;
	/* Splicing is slower than copying; readdirplus on demand misses large listings. */
	static const unsigned unwanted = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
					 FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS_AUTO |
					 FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE;
	struct server *s = userdata;

	conn->want |= wanted & conn->capable;
	conn->want &= ~unwanted;
	conn->max_read = READ_MAX_BYTES;
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = CONGESTION;
	s->opens_needed = !(conn->capable & FUSE_CAP_NO_OPEN_SUPPORT);
}

static void
do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct server *s = server_of(req);
	struct fuse_entry_param e;
	struct view_attr attr;
	int rc = view_lookup(s->view, parent, name, &attr);

	if (rc == ERR_NOTFOUND) {
		reply_absent(req, parent);
		return;
	}
	if (rc) {
		reply_failure(req, parent, rc);
		return;
	}
	fill_param(&attr, &e);
	/* Who gave up waiting has not counted the node. */
	if (fuse_reply_entry(req, &e))
		view_forget(s->view, e.ino, 1);
}

static void
do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	view_forget(server_of(req)->view, ino, nlookup);
	fuse_reply_none(req);
}

static void
do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		view_forget(server_of(req)->view, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void
do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct view_attr attr;
	int rc = view_getattr(server_of(req)->view, ino, &attr);

	(void)fi;
	if (rc)
		reply_failure(req, ino, rc);
	else
		fuse_reply_attr(req, &attr.st, attr.immutable ? FOREVER_S : MUTABLE_S);
}

static void
do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[READLINK_BUF];
	int rc = view_readlink(server_of(req)->view, ino, target, sizeof(target));

	if (rc)
		reply_failure(req, ino, rc);
	else
		fuse_reply_readlink(req, target);
}

static void
do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	/* "No such call" once, and the kernel opens files by itself, and keeps their pages. */
	if (!server_of(req)->opens_needed) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

/*
 * A short reply to a buffered read would tell the kernel that the file ends there.  So it is short
 * at the end only, and a damaged place fails the whole request: the kernel then asks again for the
 * one page a program wants, and only those that are damaged fail.  A direct read goes to the
 * program as it is, and gets what is before the damage.
 */
static void
do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct server *s = server_of(req);
	char *buf = thread_buffer();
	size_t done = 0;
	int rc = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (size > READ_MAX_BYTES)
		size = READ_MAX_BYTES;
	while (done < size) {
		size_t got = 0;

		rc = view_read(s->view, ino, buf + done, size - done, (uint64_t)off + done, &got);
		if (rc || got == 0)
			break;
		done += got;
	}
	if (rc && !(done && fi && (fi->flags & O_DIRECT))) {
		reply_failure(req, ino, rc);
		return;
	}
	fuse_reply_buf(req, buf, done);
}

static void
do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = server_of(req);
	struct view_list *list = NULL;
	struct view_attr attr;
	int rc = view_getattr(s->view, ino, &attr);

	if (!rc)
		rc = view_list_open(s->view, ino, &list);
	if (rc) {
		reply_failure(req, ino, rc);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)list;
	fi->cache_readdir = attr.immutable;
	fi->keep_cache = attr.immutable;
	if (fuse_reply_open(req, fi))
		view_list_close(list);
}

static void
do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	view_list_close((struct view_list *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

enum listing { LISTING_PLAIN, LISTING_PLUS };

/* Put entry `i` into `buf`; the bytes it takes, more than `room` if it does not fit. */
static size_t
add_entry(fuse_req_t req, enum listing kind, char *buf, size_t room, const char *name,
    const struct view_attr *attr, size_t i)
{
	struct fuse_entry_param e;

	if (kind == LISTING_PLAIN)
		return fuse_add_direntry(req, buf, room, name, &attr->st, (off_t)i + 1);
	fill_param(attr, &e);
	/* Number 0: the kernel takes the name, and counts no reference. */
	if (i < 2)
		e.ino = 0;
	return fuse_add_direntry_plus(req, buf, room, name, &e, (off_t)i + 1);
}

static void
list(fuse_req_t req, enum listing kind, fuse_ino_t ino, size_t size, off_t off,
    struct fuse_file_info *fi)
{
	struct server *s = server_of(req);
	struct view_list *l = (struct view_list *)(uintptr_t)fi->fh;
	char *buf = thread_buffer();
	size_t used = 0;
	int rc = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (size > READ_MAX_BYTES)
		size = READ_MAX_BYTES;
	for (size_t i = (size_t)off;; i++) {
		struct view_attr attr;
		const char *name;
		size_t n;

		rc = view_list_at(l, i, &name, &attr);
		if (rc)
			break;
		n = add_entry(req, kind, buf + used, size - used, name, &attr, i);
		/* What was not told, or told without a reference, is not referred to. */
		if (i >= 2 && (n > size - used || kind == LISTING_PLAIN))
			view_forget(s->view, attr.st.st_ino, 1);
		if (n > size - used)
			break;
		used += n;
	}
	if (rc < 0 && used == 0)
		reply_failure(req, ino, rc);
	else
		fuse_reply_buf(req, buf, used);
}

static void
do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, LISTING_PLAIN, ino, size, off, fi);
}

static void
do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, LISTING_PLUS, ino, size, off, fi);
}

static void
do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	int rc = view_statfs(server_of(req)->view, &st);

	if (rc)
		reply_failure(req, ino, rc);
	else
		fuse_reply_statfs(req, &st);
}

/* Answer a call of the getxattr(2) family with `len` bytes of `buf`, or their number. */
static void
reply_xattr(fuse_req_t req, const char *buf, size_t size, size_t len)
{
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, buf, len);
}

static void
do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char *buf = thread_buffer();
	size_t len = 0, room = size < READ_MAX_BYTES ? size : READ_MAX_BYTES;
	int rc =
	    buf ? view_getxattr(server_of(req)->view, ino, name, buf, room, &len) : err_nomem();

	if (rc == ERR_NOTFOUND)
		fuse_reply_err(req, ENODATA);
	else if (rc)
		reply_failure(req, ino, rc);
	else
		reply_xattr(req, buf, size, len);
}

static void
do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char *buf = thread_buffer();
	size_t len = 0, room = size < READ_MAX_BYTES ? size : READ_MAX_BYTES;
	int rc = buf ? view_listxattr(server_of(req)->view, ino, buf, room, &len) : err_nomem();

	if (rc)
		reply_failure(req, ino, rc);
	else
		reply_xattr(req, buf, size, len);
}

static const struct fuse_lowlevel_ops handlers = {
	.init = do_init,
	.lookup = do_lookup,
	.forget = do_forget,
	.forget_multi = do_forget_multi,
	.getattr = do_getattr,
	.readlink = do_readlink,
	.open = do_open,
	.read = do_read,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.readdirplus = do_readdirplus,
	.releasedir = do_releasedir,
	.statfs = do_statfs,
	.getxattr = do_getxattr,
	.listxattr = do_listxattr,
};

/* ---- stopping ---- */

static atomic_int stop_fd = -1;

static void
on_signal(int sig)
{
	int eno = errno, fd = atomic_load(&stop_fd);

	(void)sig;
	/* A full pipe means that enough was asked. */
	if (fd != -1 && write(fd, "", 1) == -1)
		errno = eno;
	errno = eno;
}

static const int stop_signals[] = { SIGINT, SIGTERM, SIGHUP };
#define NSTOP (sizeof(stop_signals) / sizeof(stop_signals[0]))

static void
catch_signals(struct sigaction old[NSTOP])
{
	/* Without SA_RESTART, so that the waiting main thread wakes up. */
	struct sigaction act = { .sa_handler = on_signal };

	sigemptyset(&act.sa_mask);
	for (size_t i = 0; i < NSTOP; i++)
		sigaction(stop_signals[i], &act, &old[i]);
}

static void
restore_signals(const struct sigaction old[NSTOP])
{
	for (size_t i = 0; i < NSTOP; i++)
		sigaction(stop_signals[i], &old[i], NULL);
}

/* The kernel reads ahead 128 KiB at most unless it is told otherwise, which only root may do. */
static void
raise_read_ahead(const struct stat *st)
{
	char path[128], text[16];
	int fd, n;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st->st_dev),
	    minor(st->st_dev));
	fd = sys_openat(AT_FDCWD, path, O_WRONLY, 0);
	if (fd == -1)
		return;
	n = snprintf(text, sizeof(text), "%d", READ_AHEAD_KIB);
	(void)sys_write_all(fd, text, (size_t)n);
	sys_close(&fd);
}

/*
 * Waits for the mount to answer, says that it does, and waits for a wish to stop.  The loop in the
 * main thread sleeps where only a signal wakes it, and one that came just before it slept would
 * be lost, so it is sent until the loop has ended.
 */
static void *
attend(void *arg)
{
	struct server *s = arg;
	struct stat st;
	char c;

	if (stat(s->mountpoint, &st) == 0 && !atomic_load(&s->done)) {
		raise_read_ahead(&st);
		atomic_store(&s->ready, true);
		if (s->opts->ready)
			s->opts->ready(s->opts->ctx);
	}
	while (read(s->stop_read, &c, 1) == -1 && errno == EINTR)
		;
	fuse_session_exit(s->session);
	while (!atomic_load(&s->done)) {
		pthread_kill(s->main_thread, SIGTERM);
		poll(NULL, 0, WAKE_INTERVAL_MS);
	}
	return NULL;
}

static int
loop(struct server *s)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int threads = s->opts->threads, rc;
	pthread_t attendant;

	if (!config)
		return err_nomem();
	if (threads <= 0)
		threads = parallel_cpus();
	if (threads < THREADS_MIN)
		threads = THREADS_MIN;
	/* As many idle threads as threads: making and ending them costs more than the requests. */
	fuse_loop_cfg_set_max_threads(config, (unsigned)threads);
	fuse_loop_cfg_set_idle_threads(config, (unsigned)threads);
	fuse_loop_cfg_set_clone_fd(config, 1);

	s->main_thread = pthread_self();
	rc = pthread_create(&attendant, NULL, attend, s);
	if (rc) {
		fuse_loop_cfg_destroy(config);
		errno = rc;
		return err_sys("cannot start a thread for the mount");
	}
	rc = fuse_session_loop_mt(s->session, config);
	atomic_store(&s->done, true);
	/* First this, because the attendant may be waiting for an answer that nobody gives now. */
	fuse_session_unmount(s->session);
	on_signal(0);
	pthread_join(attendant, NULL);
	fuse_loop_cfg_destroy(config);
	if (rc < 0 && !atomic_load(&s->ready))
		return err_set(ERR_IO, "the mount at %s could not be served: %s", s->mountpoint,
		    strerror(-rc));
	return 0;
}

/* ---- mounting ---- */

/* What libfuse said last; it has no other way to tell why it failed. */
static char fuse_said[256];

static void
listen_to_fuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(fuse_said, sizeof(fuse_said), fmt, ap);
	fuse_said[strcspn(fuse_said, "\n")] = 0;
}

/* Whether the administrator lets ordinary users open their mounts to others. */
static bool
others_allowed(void)
{
	FILE *f = fopen(ALLOW_OTHER_CONF, "re");
	char line[256];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *p = line + strspn(line, " \t");

		p[strcspn(p, " \t\r\n#")] = 0;
		found = strcmp(p, ALLOW_OTHER_WORD) == 0;
	}
	if (f)
		fclose(f);
	return found;
}

static int
check_rights(const struct mount_opts *opts)
{
	if (access("/dev/fuse", F_OK))
		return err_set(ERR_UNSUPPORTED, "this system has no /dev/fuse; load the kernel's "
						"fuse module (modprobe fuse), and in a "
						"container pass the device in");
	if (geteuid() != 0 && access("/dev/fuse", R_OK | W_OK))
		return err_set(ERR_DENIED, "this user may not use /dev/fuse; it should be open to "
					   "all (chmod 0666 /dev/fuse, as "
					   "root), or mount as root");
	if (geteuid() != 0 && opts->allow_other && !others_allowed())
		return err_set(ERR_DENIED,
		    "--allow-other is not permitted here: the administrator allows it by a line "
		    "\"%s\" "
		    "in %s; or mount as root",
		    ALLOW_OTHER_WORD, ALLOW_OTHER_CONF);
	return 0;
}

/* The mountpoint must be a directory with nothing of ours on it; what a dead server left goes. */
static int
check_mountpoint(const char *mountpoint, char path[PATH_MAX])
{
	struct stat st;
	int rc = mountpoint_resolve(mountpoint, path);

	if (rc == ERR_NOTFOUND)
		return err_set(ERR_NOTFOUND,
		    "the mountpoint %s does not exist; make it: mkdir -p %s", mountpoint,
		    mountpoint);
	if (rc)
		return rc;
	rc = mountpoint_is_ours(path);
	if (rc < 0)
		return rc;
	if (rc == 1 && !mountpoint_is_dead(path))
		return err_set(ERR_BUSY,
		    "something is mounted at %s already; see: pastfs umount %s", path, path);
	if (rc == 1) {
		rc = mountpoint_unmount(path, true);
		if (rc)
			return rc;
	}
	if (sys_fstatat(AT_FDCWD, path, &st, 0))
		return err_sys("cannot look at the mountpoint %s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(ERR_USAGE, "the mountpoint %s is not a directory", path);
	return 0;
}

static int
add_option(struct fuse_args *args, const char *option)
{
	return fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, option);
}

static int
make_args(const struct mount_opts *opts, struct fuse_args *args)
{
	char fixed[160];
	char *fsname = NULL, *text = NULL;
	int rc = 0;

	snprintf(fixed, sizeof(fixed), "ro,nosuid,nodev,default_permissions,subtype=%s,max_read=%u",
	    MOUNTPOINT_SUBTYPE, READ_MAX_BYTES);
	if (asprintf(&text, "fsname=%s", opts->fsname ? opts->fsname : "pastfs") == -1) {
		text = NULL;
		rc = err_nomem();
		goto out;
	}
	if (fuse_opt_add_opt_escaped(&fsname, text) || fuse_opt_add_arg(args, "pastfs") ||
	    add_option(args, fixed) || add_option(args, fsname))
		rc = err_nomem();
	if (!rc && (opts->allow_other || geteuid() == 0) && add_option(args, "allow_other"))
		rc = err_nomem();
out:
	free(text);
	free(fsname);
	return rc;
}

static int
make_pipe(struct server *s)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return err_sys("cannot make a pipe");
	s->stop_read = fds[0];
	s->stop_write = fds[1];
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	return 0;
}

static int
mount_session(struct server *s)
{
	fuse_said[0] = 0;
	if (fuse_session_mount(s->session, s->mountpoint) == 0)
		return 0;
	if (geteuid() != 0)
		return err_set(ERR_DENIED,
		    "cannot mount at %s%s%s; an ordinary user needs fusermount3 (Debian: apt "
		    "install "
		    "fuse3) and a mountpoint of their own",
		    s->mountpoint, fuse_said[0] ? ": " : "", fuse_said);
	return err_set(
	    ERR_IO, "cannot mount at %s%s%s", s->mountpoint, fuse_said[0] ? ": " : "", fuse_said);
}

int
mount_serve(struct view *v, const struct mount_opts *opts)
{
	struct server s = { .view = v, .opts = opts, .stop_read = -1, .stop_write = -1 };
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct sigaction old[NSTOP];
	int rc, none = -1;

	rc = check_rights(opts);
	if (!rc)
		rc = check_mountpoint(opts->mountpoint, s.mountpoint);
	if (!rc)
		rc = notices_new(&s.notices);
	if (!rc)
		rc = make_pipe(&s);
	if (!rc)
		rc = make_args(opts, &args);
	if (rc)
		goto out;
	if (!atomic_compare_exchange_strong(&stop_fd, &none, s.stop_write)) {
		rc = err_set(ERR_BUSY, "this process serves a mount already");
		goto out;
	}
	fuse_set_log_func(listen_to_fuse);
	s.session = fuse_session_new(&args, &handlers, sizeof(handlers), &s);
	if (!s.session)
		rc = err_set(ERR_FAIL, "cannot begin a FUSE session: %s", fuse_said);
	if (!rc)
		rc = mount_session(&s);
	if (!rc) {
		catch_signals(old);
		rc = loop(&s);
		fuse_session_unmount(s.session);
		restore_signals(old);
	}
	if (s.session)
		fuse_session_destroy(s.session);
	fuse_set_log_func(NULL);
	atomic_store(&stop_fd, -1);
out:
	fuse_opt_free_args(&args);
	sys_close(&s.stop_read);
	sys_close(&s.stop_write);
	notices_free(s.notices);
	return rc;
}

int
mount_umount(const char *mountpoint, bool lazy)
{
	char path[PATH_MAX];
	int rc = mountpoint_resolve(mountpoint, path);

	if (rc)
		return rc;
	rc = mountpoint_is_ours(path);
	if (rc < 0)
		return rc;
	if (rc == 0)
		return err_set(ERR_NOTFOUND, "there is no pastfs mount at %s", path);
	return mountpoint_unmount(path, lazy);
}
