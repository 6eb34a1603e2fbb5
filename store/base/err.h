/*
 * err: what went wrong, as a negative code and a sentence for a person.
 *
 * The place that detects a fault calls err_set() or err_sys(), which record the sentence for the
 * calling thread and return the code; everyone above passes the code on, adding at most what it
 * was doing with err_prefix().  Only a boundary (main, a FUSE operation) prints or replies.
 *
 * Threads: the message belongs to the thread.  A worker hands its fault to another thread by
 * err_save() and err_restore().
 */
#ifndef STORE_BASE_ERR_H
#define STORE_BASE_ERR_H

#include <stddef.h>

enum err {
	ERR_FAIL = -1,         /* failed, for the reason in the message */
	ERR_USAGE = -2,        /* the caller's input is malformed */
	ERR_NOTFOUND = -3,     /* the named thing does not exist */
	ERR_KEY = -4,          /* wrong passphrase or key file, or no key slot fits */
	ERR_DAMAGED = -5,      /* stored bytes are not what was written */
	ERR_BUSY = -6,         /* somebody else holds it */
	ERR_NOSPACE = -7,      /* no room on the device or over a quota */
	ERR_NOMEM = -8,        /* out of memory */
	ERR_IO = -9,           /* the operating system reported an input/output fault */
	ERR_EXISTS = -10,      /* the thing to make is already there */
	ERR_UNSUPPORTED = -11, /* a newer format, an unknown version, an absent feature */
	ERR_DENIED = -12,      /* permission denied */
	ERR_CANCELLED = -13,   /* the user interrupted */
};

#define ERR_MSG_MAX 1024

struct err_saved {
	int code;
	char msg[ERR_MSG_MAX];
};

/* Record a message for this thread and return `code`, which must be a negative enum err. */
int err_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Record "<fmt>: <strerror(errno)>" and return the code that errno maps to (ENOSPC and EDQUOT
 * ERR_NOSPACE, ENOENT ERR_NOTFOUND, EACCES and EPERM and EROFS ERR_DENIED, ENOMEM ERR_NOMEM,
 * EEXIST ERR_EXISTS, everything else ERR_IO).
 */
int err_sys(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Put "<fmt>: " before this thread's message and return `code` unchanged. */
int err_prefix(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Record and return ERR_NOMEM. */
int err_nomem(void);

/* This thread's last message; never NULL.  Borrowed until the next err_* call of the thread. */
const char *err_msg(void);

/* Copy `code` and this thread's message out of, or back into, the thread. */
void err_save(struct err_saved *s, int code);
int err_restore(const struct err_saved *s);

/* The documented exit status (docs/exit-status in pastfs(1)) and the errno of a code. */
int err_exit_status(int code);
int err_errno(int code);

#endif
