/*
 * backend_ops: what a kind of back end implements.  Only store/backend*.c include this.
 *
 * Every method is required unless it says otherwise, and gets only names that backend_check_name()
 * accepts.  The rules of store/backend.h bind the methods.
 */
#ifndef STORE_BACKEND_OPS_H
#define STORE_BACKEND_OPS_H

#include "store/backend.h"

struct backend_ops {
	int (*put)(void *self, const char *name, const void *data, size_t len);
	int (*get)(void *self, const char *name, uint64_t off, void *buf, size_t len, size_t *got);
	int (*stat)(void *self, const char *name, struct object_info *info);
	int (*list)(void *self, const char *prefix,
	    int (*fn)(void *ctx, const char *name, const struct object_info *info), void *ctx);
	int (*del)(void *self, const char *name);
	int (*space)(void *self, uint64_t *free_bytes, uint64_t *total_bytes); /* optional */
	void (*close)(void *self);
};

/*
 * Make a handle over `self`, which it takes, also on error.  Used by the kinds' own open functions
 * and tests.
 */
int backend_new(struct backend **out, const char *url, const struct backend_ops *ops, void *self,
    const struct backend_caps *caps);

/* The kinds.  Each parses what follows its scheme. */
int backend_local_open(struct backend **out, const char *path, bool create);

#endif
