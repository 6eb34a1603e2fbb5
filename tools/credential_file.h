/*
 * credential_file: passphrases and keys, from files and from the terminal, into locked memory.
 */
#ifndef TOOLS_CREDENTIAL_FILE_H
#define TOOLS_CREDENTIAL_FILE_H

#include "store/keyslot.h"

#include <stdbool.h>

#define CREDENTIAL_KEYFILE_BYTES 64 /* what credential_file_generate() writes */

/*
 * Read a passphrase (one trailing newline is cut) or a key.  cred->data is to secret_free().
 * *open_to_others tells that somebody besides its owner may read the file.  Errors: ERR_USAGE
 * (empty, too short or too long), ERR_NOTFOUND, ERR_DENIED, ERR_IO, ERR_NOMEM.
 */
int credential_file_read(
    struct credential *cred, enum keyslot_kind kind, const char *path, bool *open_to_others);

/*
 * Ask for a passphrase on the terminal that is standard input, without showing it; with `again`,
 * twice.  cred->data is to secret_free().  Errors: ERR_USAGE (no terminal, empty, or the two
 * differ), ERR_CANCELLED, ERR_IO, ERR_NOMEM.
 */
int credential_file_ask(struct credential *cred, const char *prompt, bool again);

/* Write a new random key to `path`, mode 0600, durably.  Errors: ERR_EXISTS, ERR_IO, … */
int credential_file_generate(const char *path);

#endif
