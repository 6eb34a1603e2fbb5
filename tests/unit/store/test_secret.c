/* Secrets: memory that is zeroed and guarded, and Argon2id against the reference program. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/secret.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void
memory_is_zeroed(void **state)
{
	static const size_t sizes[] = { 0, 1, 32, 192, 4096, 10000 };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint8_t *p = secret_alloc(sizes[i]);

		assert_non_null(p);
		for (size_t k = 0; k < sizes[i]; k++)
			assert_int_equal(p[k], 0);
		memset(p, 0xa5, sizes[i]);
		secret_free(p);
	}
	secret_free(NULL);
}

/* A read behind a secret must end the process, not give what lies there. */
static void
memory_is_guarded(void **state)
{
	volatile uint8_t *p = secret_alloc(32);
	int status;
	pid_t pid;

	(void)state;
	assert_non_null(p);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = { 0, 0 };

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_DFL);
		_exit(p[32] == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
	secret_free((void *)(uintptr_t)p);
}

static void
wipes_and_compares(void **state)
{
	uint8_t a[33], b[33];

	(void)state;
	random_bytes(a, sizeof(a));
	memcpy(b, a, sizeof(a));
	assert_int_equal(secret_compare(a, b, sizeof(a)), 0);
	for (size_t i = 0; i < sizeof(a); i++) {
		b[i] ^= 0x10;
		assert_int_not_equal(secret_compare(a, b, sizeof(a)), 0);
		b[i] ^= 0x10;
	}
	secret_wipe(a, sizeof(a));
	for (size_t i = 0; i < sizeof(a); i++)
		assert_int_equal(a[i], 0);
}

static void
random_bytes_differ(void **state)
{
	uint8_t a[32] = { 0 }, b[32] = { 0 };

	(void)state;
	random_bytes(a, sizeof(a));
	random_bytes(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
}

/* From the reference implementation's command line, argon2 -id -p 1 -l 32 -v 13. */
static void
passphrases_give_the_reference_keys(void **state)
{
	static const struct {
		const char *pass, *salt, *key;
		uint32_t ops;
		uint64_t kib;
	} cases[] = {
		{ "correct horse", "0123456789abcdef",
		    "7879645409224416c7fb41bc02819d5d41b9cd146cf501794daf608db30fcd57", 3, 1024 },
		{ "x", "fedcba9876543210",
		    "fbd3da29876e736d191d1c2d82c66d4f0a9094d25b562096f28347457c231671", 1, 8 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t key[SECRET_KEY_LEN];
		char text[2 * SECRET_KEY_LEN + 1];

		assert_int_equal(
		    secret_from_passphrase(key, cases[i].pass, strlen(cases[i].pass),
			(const uint8_t *)cases[i].salt, cases[i].ops, cases[i].kib << 10),
		    0);
		hex_encode(text, key, sizeof(key));
		assert_string_equal(text, cases[i].key);
	}
}

static void
refuses_costs_that_are_none(void **state)
{
	uint8_t key[SECRET_KEY_LEN], salt[SECRET_SALT_LEN] = { 0 };

	(void)state;
	assert_int_equal(secret_from_passphrase(key, "x", 1, salt, 0, 1 << 20), ERR_USAGE);
	assert_int_equal(secret_from_passphrase(key, "x", 1, salt, 1, 8191), ERR_USAGE);
	assert_int_equal(secret_from_passphrase(key, "x", 1, salt, 1, UINT64_MAX), ERR_USAGE);
}

static void
memory_can_run_out(void **state)
{
	uint8_t key[SECRET_KEY_LEN], salt[SECRET_SALT_LEN] = { 0 };

	(void)state;
	sys_fault_arm(1, ENOMEM);
	assert_null(secret_alloc(32));
	sys_fault_arm(1, ENOMEM);
	memset(key, 0xff, sizeof(key));
	assert_int_equal(secret_from_passphrase(key, "x", 1, salt, 1, 8192), ERR_NOMEM);
	sys_fault_arm(0, 0);
	for (size_t i = 0; i < sizeof(key); i++)
		assert_int_equal(key[i], 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_zeroed),
		cmocka_unit_test(memory_is_guarded),
		cmocka_unit_test(wipes_and_compares),
		cmocka_unit_test(random_bytes_differ),
		cmocka_unit_test(passphrases_give_the_reference_keys),
		cmocka_unit_test(refuses_costs_that_are_none),
		cmocka_unit_test(memory_can_run_out),
	};

	/* It may be called again. */
	for (int i = 0; i < 2; i++)
		if (secret_init())
			return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
