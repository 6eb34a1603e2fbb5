/*
 * backend_conformance: the contract of store/backend.h as tests, for every kind of back end.
 *
 * A kind gives a factory; the suite makes an empty place for each test, opens it as often as it
 * needs, from other processes too, and has it removed.  Failed checks end the test by cmocka.
 */
#ifndef TESTS_SUPPORT_BACKEND_CONFORMANCE_H
#define TESTS_SUPPORT_BACKEND_CONFORMANCE_H

struct backend;

struct backend_factory {
	/* Make an empty place; the result is given to the others, NULL is a failure. */
	void *(*make)(void);
	/* A new handle on the place. */
	struct backend *(*open)(void *place);
	void (*remove)(void *place);
};

/* Run all tests of the contract as one cmocka group: the number that failed. */
int backend_conformance(const char *name, const struct backend_factory *factory);

#endif
