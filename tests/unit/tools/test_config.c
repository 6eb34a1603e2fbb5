/* Where settings come from, and the secrets. */
#include "store/base/err.h"
#include "store/base/sys.h"
#include "store/secret.h"
#include "tests/support/store_fixture.h"
#include "tools/args.h"
#include "tools/config.h"
#include "tools/credential_file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[200];
static char warned[2048];

static const struct verb verb = { .name = "x", .groups = ARGS_OPEN };

static void
warn(void *ctx, const char *message)
{
	(void)ctx;
	snprintf(warned, sizeof(warned), "%s", message);
}

/* The path of `name` in the test's directory; four may be in use at once. */
static char *
at(const char *name)
{
	static char paths[4][256];
	static int next;
	char *p = paths[next++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void
write_file(const char *name, const char *text, size_t len, mode_t mode)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_not_equal(fd, -1);
	assert_int_equal(write(fd, text, len), (ssize_t)len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void
write_text(const char *name, const char *text)
{
	write_file(name, text, strlen(text), 0600);
}

static void
clear_environment(void)
{
	static const char *const names[] = { "PASTFS_REPO", "PASTFS_PASSPHRASE",
		"PASTFS_PASSPHRASE_FILE", "PASTFS_KEY_FILE", "PASTFS_CACHE", "XDG_CACHE_HOME",
		"XDG_CONFIG_HOME" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
}

static int
setup(void **state)
{
	(void)state;
	fixture_tempdir(dir);
	warned[0] = '\0';
	clear_environment();
	return secret_init();
}

static int
teardown(void **state)
{
	(void)state;
	clear_environment();
	return fixture_rmtree(dir);
}

static int
load(struct config **c, struct args **a, int argc, char **argv)
{
	char *user = strdup(at("user.conf")), *system = strdup(at("system.conf"));
	struct config_places places = { system, user, warn, NULL };
	int rc;

	assert_int_equal(args_parse(a, &verb, argc, argv), 0);
	rc = config_load(c, *a, &places);
	free(user);
	free(system);
	return rc;
}

/* Load with these words of the command line and give the repository and what opens it. */
static int
resolve(int argc, char **argv, char repo[128], char secret[128], enum keyslot_kind *kind)
{
	struct repo_opts opts;
	struct config *c;
	struct args *a;
	int rc = load(&c, &a, argc, argv);

	if (!rc)
		rc = config_repo_opts(c, CONFIG_ASK, &opts);
	if (!rc) {
		snprintf(repo, 128, "%s", opts.url);
		snprintf(secret, 128, "%.*s", (int)opts.cred->len, (const char *)opts.cred->data);
		*kind = opts.cred->kind;
	}
	config_free(c);
	args_free(a);
	return rc;
}

static void
test_order(void **state)
{
	char repo[128], secret[128], text[512], key[64];
	char *argv[4] = { (char[]){ "--repo" }, (char[]){ "/cli" }, (char[]){ "--key-file" },
		strdup(at("key")) };
	enum keyslot_kind kind;

	(void)state;
	memset(key, 'k', sizeof(key));
	write_file("key", key, sizeof(key), 0600);
	write_text("env", "from env\n");
	write_text("user", "from user\n");
	write_text("system", "from system\n");
	snprintf(
	    text, sizeof(text), "# system\nrepo=/system\npassphrase-file = %s\n", at("system"));
	write_text("system.conf", text);
	assert_int_equal(resolve(0, argv, repo, secret, &kind), 0);
	assert_string_equal(repo, "/system");
	assert_string_equal(secret, "from system");

	/* The user's file goes before the system's, setting by setting. */
	snprintf(text, sizeof(text), "\n  passphrase-file\t=%s # mine\n", at("user"));
	write_text("user.conf", text);
	assert_int_equal(resolve(0, argv, repo, secret, &kind), 0);
	assert_string_equal(repo, "/system");
	assert_string_equal(secret, "from user");

	setenv("PASTFS_REPO", "/env", 1);
	setenv("PASTFS_PASSPHRASE_FILE", at("env"), 1);
	assert_int_equal(resolve(0, argv, repo, secret, &kind), 0);
	assert_string_equal(repo, "/env");
	assert_string_equal(secret, "from env");
	assert_int_equal(kind, KEYSLOT_PASSPHRASE);

	/* A key file given first hides the passphrases that come later. */
	assert_int_equal(resolve(4, argv, repo, secret, &kind), 0);
	assert_string_equal(repo, "/cli");
	assert_int_equal(kind, KEYSLOT_KEYFILE);
	assert_int_equal(strlen(secret), sizeof(key));
	assert_string_equal(warned, "");
	free(argv[3]);
}

static void
test_environment_passphrase(void **state)
{
	char repo[128], secret[128];
	enum keyslot_kind kind;
	char *value;

	(void)state;
	setenv("PASTFS_REPO", "/env", 1);
	setenv("PASTFS_PASSPHRASE", "very secret", 1);
	value = getenv("PASTFS_PASSPHRASE");
	assert_int_equal(resolve(0, NULL, repo, secret, &kind), 0);
	assert_string_equal(secret, "very secret");
	assert_null(getenv("PASTFS_PASSPHRASE"));
	for (size_t i = 0; i < strlen("very secret"); i++)
		assert_int_equal(value[i], 0);
}

static void
expect_error(int code, const char *words)
{
	char repo[128], secret[128];
	enum keyslot_kind kind;

	assert_int_equal(resolve(0, NULL, repo, secret, &kind), code);
	assert_non_null(strstr(err_msg(), words));
}

static void
test_malformed(void **state)
{
	(void)state;
	write_text("user.conf", "repo = /x\n\nrepository = /y\n");
	expect_error(ERR_USAGE, "line 3");
	write_text("user.conf", "just words\n");
	expect_error(ERR_USAGE, "name = value");
	write_text("user.conf", "repo =  # nothing\n");
	expect_error(ERR_USAGE, "no value");
	write_text("user.conf", "compression = 99\n");
	expect_error(ERR_USAGE, "compression");
	write_text("user.conf", "passphrase-file = a\nkey-file = b\n");
	expect_error(ERR_USAGE, "both");
	write_file("user.conf", "a\0b", 3, 0600);
	expect_error(ERR_USAGE, "not a configuration file");
}

static void
test_values(void **state)
{
	struct config *c;
	struct args *a;
	const char *url;

	(void)state;
	write_text("user.conf", "cache-dir = /var/my cache#1\r\ncompression = -3\nrepo = a#b");
	assert_int_equal(load(&c, &a, 0, NULL), 0);
	assert_string_equal(config_cache_dir(c), "/var/my cache#1");
	assert_int_equal(config_compression(c), -3);
	assert_int_equal(config_repo(c, &url), 0);
	assert_string_equal(url, "a#b");
	assert_int_equal(config_set_repo(c, "/other"), 0);
	assert_int_equal(config_repo(c, &url), 0);
	assert_string_equal(url, "/other");
	config_free(c);
	args_free(a);
}

static void
test_nothing_given(void **state)
{
	struct config *c;
	struct args *a;
	const char *url;

	(void)state;
	assert_int_equal(load(&c, &a, 0, NULL), 0);
	assert_int_equal(config_repo(c, &url), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "--repo"));
	assert_non_null(config_cache_dir(c));
	config_free(c);
	args_free(a);
}

static void
test_cache_dir(void **state)
{
	struct config *c;
	struct args *a;

	(void)state;
	setenv("XDG_CACHE_HOME", "/xdg", 1);
	assert_int_equal(load(&c, &a, 0, NULL), 0);
	assert_string_equal(config_cache_dir(c), "/xdg/pastfs");
	config_free(c);
	args_free(a);
	setenv("PASTFS_CACHE", "/mine", 1);
	assert_int_equal(load(&c, &a, 0, NULL), 0);
	assert_string_equal(config_cache_dir(c), "/mine");
	config_free(c);
	args_free(a);
}

static void
test_warnings(void **state)
{
	char repo[128], secret[128];
	enum keyslot_kind kind;

	(void)state;
	write_file("pass", "pass", 4, 0640);
	setenv("PASTFS_REPO", "/env", 1);
	setenv("PASTFS_PASSPHRASE_FILE", at("pass"), 1);
	assert_int_equal(resolve(0, NULL, repo, secret, &kind), 0);
	assert_string_equal(secret, "pass");
	assert_non_null(strstr(warned, "chmod 600"));

	write_file("pass", "pass", 4, 0600);
	write_file("user.conf", "repo = /x\n", 10, 0644);
	warned[0] = '\0';
	assert_int_equal(resolve(0, NULL, repo, secret, &kind), 0);
	assert_string_equal(warned, "");
	write_file("user.conf", "repo = /x\n", 10, 0664);
	assert_int_equal(resolve(0, NULL, repo, secret, &kind), 0);
	assert_non_null(strstr(warned, "chmod go-w"));
}

/* One trailing newline is cut, nothing else. */
static void
test_passphrase_files(void **state)
{
	static const struct {
		const char *text;
		size_t len;
	} cases[] = { { "a b\n\n", 4 }, { "a\r\n", 2 }, { " x", 2 }, { "\n\n", 1 },
		{ "a\0b\n", 3 } };
	struct credential cred;
	char longest[PASSPHRASE_MAX + 2];
	bool others;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t len = i == 4 ? 4 : strlen(cases[i].text);

		write_file("p", cases[i].text, len, 0600);
		assert_int_equal(
		    credential_file_read(&cred, KEYSLOT_PASSPHRASE, at("p"), &others), 0);
		assert_int_equal(cred.len, cases[i].len);
		assert_memory_equal(cred.data, cases[i].text, cred.len);
		assert_false(others);
		secret_free((void *)(uintptr_t)cred.data);
	}
	write_text("p", "\n");
	assert_int_equal(
	    credential_file_read(&cred, KEYSLOT_PASSPHRASE, at("p"), &others), ERR_USAGE);
	memset(longest, 'x', sizeof(longest));
	write_file("p", longest, sizeof(longest), 0600);
	assert_int_equal(
	    credential_file_read(&cred, KEYSLOT_PASSPHRASE, at("p"), &others), ERR_USAGE);
	longest[PASSPHRASE_MAX] = '\n';
	write_file("p", longest, PASSPHRASE_MAX + 1, 0600);
	assert_int_equal(credential_file_read(&cred, KEYSLOT_PASSPHRASE, at("p"), &others), 0);
	assert_int_equal(cred.len, PASSPHRASE_MAX);
	secret_free((void *)(uintptr_t)cred.data);
	assert_int_equal(
	    credential_file_read(&cred, KEYSLOT_PASSPHRASE, at("no"), &others), ERR_NOTFOUND);
}

static void
test_key_files(void **state)
{
	struct credential one, two;
	struct stat st;
	bool others;

	(void)state;
	assert_int_equal(credential_file_generate(at("k1")), 0);
	assert_int_equal(credential_file_generate(at("k2")), 0);
	assert_int_equal(credential_file_generate(at("k1")), ERR_EXISTS);
	assert_int_equal(stat(at("k1"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(credential_file_read(&one, KEYSLOT_KEYFILE, at("k1"), &others), 0);
	assert_int_equal(credential_file_read(&two, KEYSLOT_KEYFILE, at("k2"), &others), 0);
	assert_int_equal(one.len, CREDENTIAL_KEYFILE_BYTES);
	assert_int_equal(two.len, CREDENTIAL_KEYFILE_BYTES);
	assert_memory_not_equal(one.data, two.data, one.len);
	secret_free((void *)(uintptr_t)one.data);
	secret_free((void *)(uintptr_t)two.data);
	write_text("short", "too short");
	assert_int_equal(
	    credential_file_read(&one, KEYSLOT_KEYFILE, at("short"), &others), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "key generate"));
}

/* A failed generation leaves no file that could be taken for a key. */
static void
test_generate_faults(void **state)
{
	struct stat st;
	int rc;

	(void)state;
	for (uint64_t n = 1;; n++) {
		bool hit;
		char *path = strdup(at("k"));

		sys_fault_arm(n, ENOSPC);
		rc = credential_file_generate(path);
		hit = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!hit) {
			free(path);
			break;
		}
		assert_true(rc < 0);
		if (stat(path, &st) == 0) {
			assert_int_equal(st.st_size, CREDENTIAL_KEYFILE_BYTES);
			unlink(path);
		}
		free(path);
	}
	assert_int_equal(rc, 0);
}

static void
test_faults(void **state)
{
	char repo[128], secret[128], text[256];
	enum keyslot_kind kind;
	int rc;

	(void)state;
	write_text("pass", "open sesame\n");
	snprintf(text, sizeof(text), "repo = /x\npassphrase-file = %s\n", at("pass"));
	write_text("user.conf", text);
	for (uint64_t n = 1;; n++) {
		bool hit;
		struct repo_opts opts;
		struct config *c = NULL;
		struct args *a;
		char *argv[1] = { NULL }, *user = strdup(at("user.conf"));
		struct config_places places = { "/nonexistent", user, warn, NULL };

		assert_int_equal(args_parse(&a, &verb, 0, argv), 0);
		sys_fault_arm(n, EIO);
		rc = config_load(&c, a, &places);
		if (!rc)
			rc = config_repo_opts(c, CONFIG_ASK, &opts);
		hit = sys_fault_happened();
		sys_fault_arm(0, 0);
		config_free(c);
		args_free(a);
		free(user);
		if (!hit)
			break;
		/* Looking whether others may write a file may fail without harm. */
		assert_true(rc <= 0);
		assert_int_equal(resolve(0, NULL, repo, secret, &kind), 0);
		assert_string_equal(secret, "open sesame");
	}
	assert_int_equal(rc, 0);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_order),
		TEST(test_environment_passphrase),
		TEST(test_malformed),
		TEST(test_values),
		TEST(test_nothing_given),
		TEST(test_cache_dir),
		TEST(test_warnings),
		TEST(test_passphrase_files),
		TEST(test_key_files),
		TEST(test_generate_faults),
		TEST(test_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
