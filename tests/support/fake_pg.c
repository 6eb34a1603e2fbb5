#include "tests/support/fake_pg.h"

#include "tests/support/store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PORT      "5432"
#define CONNS_MAX 16

struct fake_conn {
	struct fake_pg *server;
	int fd;
	pthread_t thread;
};

struct fake_pg {
	char dir[200];
	char conninfo[260];
	const char *version;
	fake_handler *handler;
	void *ctx;
	int listen_fd;
	pthread_t thread;
	struct fake_conn conns[CONNS_MAX];
	size_t nconns;
};

static bool
read_all(int fd, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool
write_all(int fd, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static void
be32_store(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t
be32_load(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool
send_message(struct fake_conn *c, char type, const void *body, size_t len)
{
	uint8_t head[5] = { (uint8_t)type };

	be32_store(head + 1, (uint32_t)len + 4);
	return write_all(c->fd, head, sizeof(head)) && write_all(c->fd, body, len);
}

bool
fake_rows(struct fake_conn *c, int columns, int rows, const char *const *values)
{
	uint8_t body[16384];
	size_t n = 2;

	body[0] = 0;
	body[1] = (uint8_t)columns;
	for (int i = 0; i < columns; i++) {
		static const uint8_t column[] = { 'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255,
			255, 255, 255, 255, 0, 0 };

		memcpy(body + n, column, sizeof(column));
		n += sizeof(column);
	}
	if (!send_message(c, 'T', body, n))
		return false;
	for (int r = 0; r < rows; r++) {
		n = 2;
		for (int i = 0; i < columns; i++) {
			const char *v = values[r * columns + i];
			size_t len = v ? strlen(v) : 0;

			if (n + 4 + len > sizeof(body))
				abort();
			be32_store(body + n, v ? (uint32_t)len : UINT32_MAX);
			memcpy(body + n + 4, v ? v : "", len);
			n += 4 + len;
		}
		if (!send_message(c, 'D', body, n))
			return false;
	}
	return true;
}

bool
fake_complete(struct fake_conn *c)
{
	return send_message(c, 'C', "SELECT", 7);
}

bool
fake_ready(struct fake_conn *c)
{
	return send_message(c, 'Z', "I", 1);
}

bool
fake_answer(struct fake_conn *c, int columns, const char *const *values)
{
	return fake_rows(c, columns, 1, values) && fake_complete(c) && fake_ready(c);
}

bool
fake_error(struct fake_conn *c, const char *sqlstate, const char *message)
{
	char body[1024];
	int n = snprintf(
	    body, sizeof(body), "SERROR%cVERROR%cC%s%cM%s%c", 0, 0, sqlstate, 0, message, 0);

	return send_message(c, 'E', body, (size_t)n + 1);
}

bool
fake_copy_both(struct fake_conn *c)
{
	return send_message(c, 'W', "\0\0\0", 3);
}

bool
fake_copy_out(struct fake_conn *c)
{
	return send_message(c, 'H', "\0\0\0", 3);
}

bool
fake_copy_data(struct fake_conn *c, const void *data, size_t len)
{
	return send_message(c, 'd', data, len);
}

bool
fake_copy_done(struct fake_conn *c)
{
	return send_message(c, 'c', "", 0);
}

int
fake_receive(struct fake_conn *c, int timeout_ms, void *buf, size_t size, size_t *len)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	uint8_t head[5];
	int n = poll(&p, 1, timeout_ms);

	*len = 0;
	if (n == 0)
		return 0;
	if (n < 0 || !read_all(c->fd, head, sizeof(head)))
		return -1;
	*len = be32_load(head + 1) - 4;
	if (*len > size || !read_all(c->fd, buf, *len))
		return -1;
	return head[0];
}

/* The start of a session: whoever it is, is welcome. */
static bool
welcome(struct fake_conn *c)
{
	char status[64];
	uint8_t head[8], body[4096];
	uint32_t len;
	int n;

	if (!read_all(c->fd, head, sizeof(head)))
		return false;
	len = be32_load(head);
	/* Protocol 3; a request to cancel has another number and gets no answer. */
	if (len < 8 || len - 8 > sizeof(body) || head[4] != 0 || head[5] != 3 ||
	    !read_all(c->fd, body, len - 8))
		return false;
	n = snprintf(status, sizeof(status), "server_version%c%s", 0, c->server->version);
	return send_message(c, 'R', "\0\0\0", 4) && send_message(c, 'S', status, (size_t)n + 1) &&
	       send_message(c, 'K', "\0\0\0\1\0\0\0\1", 8) && fake_ready(c);
}

static void *
serve(void *arg)
{
	struct fake_conn *c = arg;
	char command[8192];
	size_t len;

	if (welcome(c)) {
		for (;;) {
			int type = fake_receive(c, -1, command, sizeof(command) - 1, &len);

			if (type == -1 || type == 'X')
				break;
			command[len] = '\0';
			if (type == 'Q' && !c->server->handler(c->server->ctx, c, command))
				break;
		}
	}
	shutdown(c->fd, SHUT_RDWR);
	return NULL;
}

static void *
accept_all(void *arg)
{
	struct fake_pg *f = arg;

	while (f->nconns < CONNS_MAX) {
		struct fake_conn *c = &f->conns[f->nconns];

		c->server = f;
		c->fd = accept(f->listen_fd, NULL, NULL);
		if (c->fd == -1)
			break;
		if (pthread_create(&c->thread, NULL, serve, c))
			abort();
		f->nconns++;
	}
	return NULL;
}

struct fake_pg *
fake_pg_start(const char *version, fake_handler *handler, void *ctx)
{
	struct fake_pg *f = calloc(1, sizeof(*f));
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	assert_non_null(f);
	fixture_tempdir(f->dir);
	f->version = version;
	f->handler = handler;
	f->ctx = ctx;
	snprintf(a.sun_path, sizeof(a.sun_path), "%.80s/.s.PGSQL." PORT, f->dir);
	snprintf(f->conninfo, sizeof(f->conninfo), "host=%s port=" PORT " user=u dbname=d", f->dir);
	f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(f->listen_fd != -1);
	assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(f->listen_fd, 8), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, accept_all, f), 0);
	return f;
}

const char *
fake_pg_conninfo(const struct fake_pg *f)
{
	return f->conninfo;
}

void
fake_pg_stop(struct fake_pg *f)
{
	/* On a listening socket this wakes accept(). */
	shutdown(f->listen_fd, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	for (size_t i = 0; i < f->nconns; i++) {
		shutdown(f->conns[i].fd, SHUT_RDWR);
		pthread_join(f->conns[i].thread, NULL);
		close(f->conns[i].fd);
	}
	close(f->listen_fd);
	fixture_rmtree(f->dir);
	free(f);
}
