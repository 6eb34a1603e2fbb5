/* Reading the mount table, and refusing what is not ours. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/mount.h"
#include "fs/mountpoint.h"

#include "store/base/err.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char table[] =
    "22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n"
    "27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "90 27 0:50 / /mnt/past ro,nosuid,nodev - fuse.pastfs /srv/vault ro\n"
    "91 27 0:51 / /mnt/with\\040space ro shared:5 master:2 - fuse.pastfs /srv ro\n"
    "92 27 0:52 / /mnt/over ro - ext4 /dev/vdb ro\n"
    "93 92 0:53 / /mnt/over ro - fuse.pastfs /srv ro\n"
    "94 27 0:54 / /mnt/under ro - fuse.pastfs /srv ro\n"
    "95 94 0:55 / /mnt/under rw - tmpfs none rw";

static void
test_find(void **state)
{
	char type[32];

	(void)state;
	assert_true(mountpoint_find(table, "/mnt/past", type, sizeof(type)));
	assert_string_equal(type, MOUNTPOINT_TYPE);
	assert_true(mountpoint_find(table, "/mnt/with space", type, sizeof(type)));
	assert_string_equal(type, MOUNTPOINT_TYPE);
	/* The last one is what is seen. */
	assert_true(mountpoint_find(table, "/mnt/over", type, sizeof(type)));
	assert_string_equal(type, MOUNTPOINT_TYPE);
	assert_true(mountpoint_find(table, "/mnt/under", type, sizeof(type)));
	assert_string_equal(type, "tmpfs");
	assert_false(mountpoint_find(table, "/mnt", type, sizeof(type)));
	assert_false(mountpoint_find(table, "/mnt/past/", type, sizeof(type)));
	assert_false(mountpoint_find(table, "/mnt/pas", type, sizeof(type)));
}

static void
test_strange_tables(void **state)
{
	static const char *const strange[] = {
		"",
		"\n\n\n",
		"1 2 3",
		"1 2 3 / /x",
		"1 2 3 / /x ro",
		"1 2 3 / /x ro -",
		"1 2 3 / /x ro - ",
		"1 2 3 / /\\04",
		"1 2 3 / /\\ ro - a b",
		"     ",
	};
	char type[8];

	(void)state;
	for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++)
		if (mountpoint_find(strange[i], "/x", type, sizeof(type)))
			assert_string_equal(type, "");
	/* A type too long to be one of ours is as good as none. */
	assert_false(mountpoint_find("1 2 3 / /x ro - averylongtype b", "/x", type, sizeof(type)));
}

static void
test_not_ours(void **state)
{
	char dir[] = "/tmp/pastfs-mp-XXXXXX", path[64];

	(void)state;
	assert_int_equal(mount_umount("/nonexistent/place", false), ERR_NOTFOUND);
	assert_int_equal(mount_umount("/proc", false), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "no pastfs mount"));
	assert_int_equal(mount_umount("/", true), ERR_NOTFOUND);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount_umount(dir, false), ERR_NOTFOUND);
	strcpy(path, dir);
	strcat(path, "/../");
	strcat(path, dir + 5);
	strcat(path, "/");
	{
		char out[PATH_MAX];

		assert_int_equal(mountpoint_resolve(path, out), 0);
		assert_string_equal(out, dir);
	}
	rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_strange_tables),
		cmocka_unit_test(test_not_ours),
	};

	return cmocka_run_group_tests_name("mountpoint", tests, NULL, NULL);
}
