/*
 * mount: shows a view through FUSE.  fs/mount.c is the door to libfuse.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include <stdbool.h>

struct view;

struct mount_opts {
	const char *mountpoint;
	const char *fsname; /* what the mount table shows: the repository's url */
	bool allow_other;
	int threads; /* 0 = processors, at least 4 */
	/* Called once the mount answers, in the serving process, before mount_serve() waits. */
	void (*ready)(void *ctx);
	void *ctx;
};

/*
 * Mount read-only and serve until it is unmounted or a signal asks to stop.  Errors: ERR_NOTFOUND
 * and ERR_BUSY (the mountpoint), ERR_DENIED (with what to do: fusermount3, user_allow_other).
 */
int mount_serve(struct view *v, const struct mount_opts *opts);

/* Unmount; `lazy` detaches a busy one.  Errors: ERR_NOTFOUND (nothing of ours there), ERR_BUSY. */
int mount_umount(const char *mountpoint, bool lazy);

#endif
