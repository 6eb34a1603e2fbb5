/*
 * analyzer: what the static analyzer cannot see across files, told to it alone.
 *
 * Included in front of every file by tests/lint/run.  The err_* functions return a negative code;
 * without knowing that, every "return err_set(…)" looks as if it could report success with nothing
 * to show for it.
 */
#ifndef TESTS_LINT_ANALYZER_H
#define TESTS_LINT_ANALYZER_H

#include "store/base/err.h"

#define err_set(code, ...)    ((void)(err_set)((code), __VA_ARGS__), (code))
#define err_sys(...)          ((void)(err_sys)(__VA_ARGS__), (int)ERR_IO)
#define err_nomem()           ((void)(err_nomem)(), (int)ERR_NOMEM)
#define err_prefix(code, ...) ((void)(err_prefix)((code), __VA_ARGS__), (code))

#endif
