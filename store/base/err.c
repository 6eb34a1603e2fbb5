#include "store/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[ERR_MSG_MAX];

/* One row per code: the table that DESIGN asks for, code to exit status and errno. */
static const struct {
	int code;
	int exit_status;
	int eno;
} codes[] = {
	{ 0, 0, 0 },
	{ ERR_FAIL, 1, EIO },
	{ ERR_USAGE, 2, EINVAL },
	{ ERR_NOTFOUND, 3, ENOENT },
	{ ERR_KEY, 4, EACCES },
	{ ERR_DAMAGED, 5, EIO },
	{ ERR_BUSY, 6, EBUSY },
	{ ERR_NOSPACE, 7, ENOSPC },
	{ ERR_NOMEM, 1, ENOMEM },
	{ ERR_IO, 1, EIO },
	{ ERR_EXISTS, 1, EEXIST },
	{ ERR_UNSUPPORTED, 1, EOPNOTSUPP },
	{ ERR_DENIED, 1, EACCES },
	{ ERR_CANCELLED, 1, EINTR },
};

int
err_set(int code, const char *fmt, ...)
{
	char next[ERR_MSG_MAX];
	va_list ap;

	/* Into a second buffer, because an argument may be err_msg() itself. */
	va_start(ap, fmt);
	vsnprintf(next, sizeof(next), fmt, ap);
	va_end(ap);
	memcpy(message, next, sizeof(message));
	return code;
}

static int
code_of_errno(int eno)
{
	switch (eno) {
	case ENOSPC:
	case EDQUOT:
		return ERR_NOSPACE;
	case ENOENT:
		return ERR_NOTFOUND;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_DENIED;
	case ENOMEM:
		return ERR_NOMEM;
	case EEXIST:
		return ERR_EXISTS;
	default:
		return ERR_IO;
	}
}

int
err_sys(const char *fmt, ...)
{
	int eno = errno;
	char what[ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(code_of_errno(eno), "%s: %s", what, strerror(eno));
}

int
err_prefix(int code, const char *fmt, ...)
{
	char what[ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(code, "%s: %s", what, message);
}

int
err_nomem(void)
{
	return err_set(ERR_NOMEM, "out of memory");
}

const char *
err_msg(void)
{
	return message;
}

void
err_save(struct err_saved *s, int code)
{
	s->code = code;
	memcpy(s->msg, message, sizeof(s->msg));
}

int
err_restore(const struct err_saved *s)
{
	memcpy(message, s->msg, sizeof(message));
	return s->code;
}

int
err_exit_status(int code)
{
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].code == code)
			return codes[i].exit_status;
	return 1;
}

int
err_errno(int code)
{
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].code == code)
			return codes[i].eno;
	return EIO;
}
