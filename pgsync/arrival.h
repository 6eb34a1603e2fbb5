/*
 * arrival: is what arrived in the tree what the server says it sent?
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_ARRIVAL_H
#define PGSYNC_ARRIVAL_H

#include "pgsync/manifest.h"
#include "pgsync/pgpage.h"

#include <stddef.h>
#include <stdint.h>

struct confset;

/*
 * Compare size and checksum of every file of the server's manifest with the tree; only
 * tablespace_map is not kept.  Every file of the tree must be in the manifest, too, except what is
 * below pg_wal/.  Files of `config` (or NULL) are our own and are not compared.  Errors:
 * ERR_DAMAGED (the message names the first file that differs), manifest_read()'s.
 */
int arrival_compare(
    struct tree_builder *tree, const struct confset *config, const void *manifest, size_t len);

/* Decode a whole page from hexadecimal text; shorter text leaves zeros.  0, or -1: not hexadecimal
 * or too long. */
int arrival_page_from_hex(uint8_t page[PGPAGE_BYTES], const char *hex);

#endif
