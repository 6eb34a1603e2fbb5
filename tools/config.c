#include "tools/config.h"

#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"
#include "tools/args.h"
#include "tools/credential_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SYSTEM_FILE    "/etc/pastfs/pastfs.conf"
#define USER_FILE      "pastfs/pastfs.conf" /* below XDG_CONFIG_HOME or ~/.config */
#define FILE_MAX_BYTES (64u << 10)

/* What one place says. */
struct settings {
	char *repo;
	char *passphrase_file;
	char *key_file;
	char *cache_dir;
	int compression;
};

struct config {
	char *repo;
	char *cache_dir;
	int compression;
	char *passphrase_file; /* of these two at most one */
	char *key_file;
	void *passphrase; /* secret_alloc()ed, from the environment */
	size_t passphrase_len;
	struct credential cred; /* data is secret_alloc()ed; NULL until it is asked for */
	void (*warn)(void *ctx, const char *message);
	void *ctx;
};

static void
warn_stderr(void *ctx, const char *message)
{
	(void)ctx;
	fprintf(stderr, "pastfs: warning: %s\n", message);
}

static void
settings_release(struct settings *s)
{
	free(s->repo);
	free(s->passphrase_file);
	free(s->key_file);
	free(s->cache_dir);
	memset(s, 0, sizeof(*s));
}

/* ---- the file ---- */

static char *
trim(char *text)
{
	size_t n;

	text += strspn(text, " \t\r");
	n = strlen(text);
	while (n && strchr(" \t\r", text[n - 1]))
		text[--n] = '\0';
	return text;
}

static int
set_text(char **field, const char *value)
{
	free(*field);
	*field = mem_strdup(value);
	return *field ? 0 : err_nomem();
}

static int
set_compression(struct settings *s, const char *value)
{
	char *end;
	long v = strtol(value, &end, 10);

	if (end == value || *end || v < -7 || v > 19 || v == 0)
		return err_set(ERR_USAGE,
		    "compression = %s: a level from -7 to 19 other than 0 is needed", value);
	s->compression = (int)v;
	return 0;
}

static int
set_setting(struct settings *s, const char *name, const char *value)
{
	if (!*value)
		return err_set(ERR_USAGE, "%s has no value", name);
	if (strcmp(name, "repo") == 0)
		return set_text(&s->repo, value);
	if (strcmp(name, "passphrase-file") == 0)
		return set_text(&s->passphrase_file, value);
	if (strcmp(name, "key-file") == 0)
		return set_text(&s->key_file, value);
	if (strcmp(name, "cache-dir") == 0)
		return set_text(&s->cache_dir, value);
	if (strcmp(name, "compression") == 0)
		return set_compression(s, value);
	return err_set(ERR_USAGE,
	    "unknown setting \"%s\"; there are repo, passphrase-file, key-file, cache-dir, "
	    "compression",
	    name);
}

static int
parse_line(struct settings *s, char *line)
{
	char *eq;

	/* A '#' inside a value is part of it unless a blank stands before it. */
	for (char *p = line; *p; p++)
		if (*p == '#' && (p == line || p[-1] == ' ' || p[-1] == '\t')) {
			*p = '\0';
			break;
		}
	line = trim(line);
	if (!*line)
		return 0;
	eq = strchr(line, '=');
	if (!eq)
		return err_set(ERR_USAGE, "\"%s\" is not of the form name = value", line);
	*eq = '\0';
	return set_setting(s, trim(line), trim(eq + 1));
}

static int
parse_text(struct settings *s, char *text, const char *path)
{
	unsigned number = 1;

	for (char *line = text; line; number++) {
		char *next = strchr(line, '\n');
		int rc;

		if (next)
			*next++ = '\0';
		rc = parse_line(s, line);
		if (rc)
			return err_prefix(rc, "%s line %u", path, number);
		line = next;
	}
	if (s->passphrase_file && s->key_file)
		return err_set(ERR_USAGE, "%s names both a passphrase-file and a key-file", path);
	return 0;
}

/* Who may write the file decides where backups go and which key they get. */
static void
warn_writable(const struct config *c, int fd, const char *path)
{
	char message[ERR_MSG_MAX];
	struct stat st;

	if (sys_fstat(fd, &st) || !S_ISREG(st.st_mode) || !(st.st_mode & 022))
		return;
	snprintf(message, sizeof(message), "others may change %s; run: chmod go-w %s", path, path);
	c->warn(c->ctx, message);
}

/* A file that is not there says nothing. */
static int
read_file(const struct config *c, struct settings *s, const char *path)
{
	char *text = mem_alloc(FILE_MAX_BYTES + 1);
	int fd = -1, rc = 0;
	ssize_t n;

	if (!text)
		return err_nomem();
	fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd == -1) {
		/* The user's file is out of sight when HOME belongs to somebody else. */
		if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
			rc = err_sys("read configuration file %s", path);
		else if (errno == EACCES && access(path, F_OK) == 0)
			rc = err_sys("read configuration file %s", path);
		goto out;
	}
	warn_writable(c, fd, path);
	n = sys_read_full(fd, text, FILE_MAX_BYTES + 1);
	if (n == -1) {
		rc = err_sys("read configuration file %s", path);
		goto out;
	}
	if ((size_t)n > FILE_MAX_BYTES || memchr(text, '\0', (size_t)n)) {
		rc = err_set(ERR_USAGE, "%s is not a configuration file", path);
		goto out;
	}
	text[n] = '\0';
	rc = parse_text(s, text, path);
out:
	sys_close(&fd);
	free(text);
	return rc;
}

/* ---- joining ---- */

static int
take_text(char **to, const char *from)
{
	if (*to || !from)
		return 0;
	*to = mem_strdup(from);
	return *to ? 0 : err_nomem();
}

static bool
has_credential(const struct config *c)
{
	return c->passphrase || c->passphrase_file || c->key_file;
}

static int
take_settings(struct config *c, const struct settings *s)
{
	bool had = has_credential(c);
	int rc = take_text(&c->repo, s->repo);

	if (!rc)
		rc = take_text(&c->cache_dir, s->cache_dir);
	if (!rc && !had)
		rc = take_text(&c->passphrase_file, s->passphrase_file);
	if (!rc && !had)
		rc = take_text(&c->key_file, s->key_file);
	if (!c->compression)
		c->compression = s->compression;
	return rc;
}

static int
take_args(struct config *c, const struct args *a)
{
	const char *pass = args_value(a, "passphrase-file"), *key = args_value(a, "key-file");
	int rc;

	if (pass && key)
		return err_set(ERR_USAGE, "give --passphrase-file or --key-file, not both");
	rc = take_text(&c->repo, args_value(a, "repo"));
	if (!rc)
		rc = take_text(&c->cache_dir, args_value(a, "cache-dir"));
	if (!rc)
		rc = take_text(&c->passphrase_file, pass);
	if (!rc)
		rc = take_text(&c->key_file, key);
	return rc;
}

/*
 * The passphrase leaves the environment at once, overwritten in place: no child inherits it, and
 * /proc/PID/environ shows it no longer.
 */
static int
take_env_passphrase(struct config *c)
{
	char *env = getenv("PASTFS_PASSPHRASE");
	size_t len = env ? strlen(env) : 0;
	int rc = 0;

	if (!env)
		return 0;
	if (len > PASSPHRASE_MAX)
		rc =
		    err_set(ERR_USAGE, "PASTFS_PASSPHRASE is longer than %d bytes", PASSPHRASE_MAX);
	if (!rc && len && !has_credential(c)) {
		c->passphrase = secret_alloc(len);
		c->passphrase_len = len;
		if (c->passphrase)
			memcpy(c->passphrase, env, len);
		else
			rc = err_nomem();
	}
	secret_wipe(env, len);
	unsetenv("PASTFS_PASSPHRASE");
	return rc;
}

/* Set and not empty. */
static const char *
env_value(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

static int
take_environment(struct config *c)
{
	int rc = take_env_passphrase(c);
	bool had = has_credential(c);

	if (!rc)
		rc = take_text(&c->repo, env_value("PASTFS_REPO"));
	if (!rc)
		rc = take_text(&c->cache_dir, env_value("PASTFS_CACHE"));
	if (!rc && !had)
		rc = take_text(&c->passphrase_file, env_value("PASTFS_PASSPHRASE_FILE"));
	if (!rc && !has_credential(c))
		rc = take_text(&c->key_file, env_value("PASTFS_KEY_FILE"));
	return rc;
}

static int
take_file(struct config *c, const char *path)
{
	struct settings s = { 0 };
	int rc = read_file(c, &s, path);

	if (!rc)
		rc = take_settings(c, &s);
	settings_release(&s);
	return rc;
}

/* "$XDG_…/name" or "$HOME/fallback/name", to free(); NULL without both. */
static int
home_path(char **out, const char *xdg, const char *fallback, const char *name)
{
	const char *base = env_value(xdg), *home = env_value("HOME");
	size_t room;

	*out = NULL;
	if (!base && !home)
		return 0;
	room = strlen(base ? base : home) + strlen(fallback) + strlen(name) + 3;
	*out = mem_alloc(room);
	if (!*out)
		return err_nomem();
	if (base)
		snprintf(*out, room, "%s/%s", base, name);
	else
		snprintf(*out, room, "%s/%s/%s", home, fallback, name);
	return 0;
}

static int
take_files(struct config *c, const struct config_places *places)
{
	char *own = NULL;
	int rc = 0;

	if (!places->user_file)
		rc = home_path(&own, "XDG_CONFIG_HOME", ".config", USER_FILE);
	if (!rc && (places->user_file || own))
		rc = take_file(c, places->user_file ? places->user_file : own);
	if (!rc)
		rc = take_file(c, places->system_file ? places->system_file : SYSTEM_FILE);
	free(own);
	return rc;
}

static int
default_cache_dir(struct config *c)
{
	int rc;

	if (geteuid() == 0 && !env_value("XDG_CACHE_HOME"))
		return take_text(&c->cache_dir, "/var/cache/pastfs");
	rc = home_path(&c->cache_dir, "XDG_CACHE_HOME", ".cache", "pastfs");
	if (rc || c->cache_dir)
		return rc;
	return err_set(ERR_USAGE, "HOME is not set; say where to keep the index with --cache-dir");
}

int
config_load(struct config **out, const struct args *a, const struct config_places *places)
{
	static const struct config_places usual;
	struct config *c = mem_alloc(sizeof(*c));
	int rc;

	*out = NULL;
	if (!c)
		return err_nomem();
	places = places ? places : &usual;
	c->warn = places->warn ? places->warn : warn_stderr;
	c->ctx = places->ctx;

	rc = take_args(c, a);
	if (!rc)
		rc = take_environment(c);
	if (!rc)
		rc = take_files(c, places);
	if (!rc && !c->cache_dir)
		rc = default_cache_dir(c);
	if (rc)
		config_free(c);
	else
		*out = c;
	return rc;
}

void
config_free(struct config *c)
{
	if (!c)
		return;
	secret_free((void *)(uintptr_t)c->cred.data);
	secret_free(c->passphrase);
	free(c->repo);
	free(c->cache_dir);
	free(c->passphrase_file);
	free(c->key_file);
	free(c);
}

int
config_set_repo(struct config *c, const char *url)
{
	return set_text(&c->repo, url);
}

int
config_repo(const struct config *c, const char **url)
{
	*url = c->repo;
	if (c->repo)
		return 0;
	return err_set(ERR_USAGE, "no repository is given; use --repo, PASTFS_REPO or "
				  "\"repo = …\" in " SYSTEM_FILE);
}

int
config_compression(const struct config *c)
{
	return c->compression;
}

const char *
config_cache_dir(const struct config *c)
{
	return c->cache_dir;
}

static int
read_credential(struct config *c, enum keyslot_kind kind, const char *path)
{
	char message[ERR_MSG_MAX];
	bool open_to_others = false;
	int rc = credential_file_read(&c->cred, kind, path, &open_to_others);

	if (rc || !open_to_others)
		return rc;
	snprintf(message, sizeof(message),
	    "others may read %s, which opens the repository; run: chmod 600 %s", path, path);
	c->warn(c->ctx, message);
	return 0;
}

int
config_credential(struct config *c, enum config_ask ask, const struct credential **cred)
{
	int rc = 0;

	*cred = &c->cred;
	if (c->cred.data)
		return 0;
	if (c->passphrase) {
		c->cred =
		    (struct credential){ KEYSLOT_PASSPHRASE, c->passphrase, c->passphrase_len };
		c->passphrase = NULL;
	} else if (c->passphrase_file) {
		rc = read_credential(c, KEYSLOT_PASSPHRASE, c->passphrase_file);
	} else if (c->key_file) {
		rc = read_credential(c, KEYSLOT_KEYFILE, c->key_file);
	} else if (!isatty(STDIN_FILENO)) {
		rc = err_set(ERR_USAGE,
		    "no passphrase or key is given and there is no terminal to ask on; use "
		    "--passphrase-file, --key-file, PASTFS_PASSPHRASE or a configuration file");
	} else {
		rc = credential_file_ask(&c->cred,
		    ask == CONFIG_ASK_TWICE ? "New passphrase" : "Passphrase",
		    ask == CONFIG_ASK_TWICE);
	}
	return rc;
}

int
config_repo_opts(struct config *c, enum config_ask ask, struct repo_opts *opts)
{
	int rc;

	memset(opts, 0, sizeof(*opts));
	rc = config_repo(c, &opts->url);
	if (!rc)
		rc = config_credential(c, ask, &opts->cred);
	opts->cache_dir = c->cache_dir;
	return rc;
}
