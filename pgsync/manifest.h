/*
 * manifest: PostgreSQL's backup_manifest, the list of a base backup's files with their checksums.
 *
 * One made here is accepted by pg_verifybackup over the mounted directory; one sent by a server is
 * read to compare what arrived with what was sent.  Checksums are CRC-32C, which the store keeps
 * for every file.  PostgreSQL prints them as the bytes of the number in the machine's order, so the
 * least significant byte comes first; the format is defined by src/backend/backup/backup_manifest.c
 * and src/common/parse_manifest.c of PostgreSQL.
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_MANIFEST_H
#define PGSYNC_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes;
struct tree_builder;

#define MANIFEST_BYTES_MAX (1u << 30) /* a longer one is refused */

struct manifest_opts {
	uint32_t server_version; /* PG_VERSION_NUM: decides the version of the manifest */
	uint64_t system_identifier;
	uint32_t timeline;
	uint64_t start_lsn, stop_lsn;
};

/*
 * Describe every regular file of `tb` but pg_wal/ and backup_manifest.  A file below
 * pg_tblspc_data/OID is listed below pg_tblspc/OID too, where pg_verifybackup meets it a second
 * time by the link.  Text is handed to `emit` piece by piece; a non-zero result ends it and is
 * returned.  Errors: ERR_NOMEM, emit's.
 */
int manifest_write(struct tree_builder *tb, const struct manifest_opts *opts,
    int (*emit)(void *ctx, const void *data, size_t len), void *ctx);

/* The same, appended to `out`. */
int manifest_build(struct bytes *out, struct tree_builder *tb, const struct manifest_opts *opts);

enum manifest_checksum {
	MANIFEST_CHECKSUM_NONE = 0,
	MANIFEST_CHECKSUM_CRC32C,
	MANIFEST_CHECKSUM_OTHER, /* one of the SHA-2 family, which is not compared */
};

struct manifest_file {
	const char *path; /* relative; may hold bytes that are not UTF-8 */
	uint64_t size;
	enum manifest_checksum checksum;
	uint32_t crc32c; /* MANIFEST_CHECKSUM_CRC32C */
};

struct manifest_wal_range {
	uint32_t timeline;
	uint64_t start_lsn, end_lsn;
};

struct manifest_reader {
	int (*file)(void *ctx, const struct manifest_file *file);            /* may be NULL */
	int (*wal_range)(void *ctx, const struct manifest_wal_range *range); /* may be NULL */
	void *ctx;
};

struct manifest_info {
	uint32_t version;
	bool has_system_identifier;
	uint64_t system_identifier;
	size_t files;
};

/*
 * Parse a manifest and verify its own checksum; each file and range is told in order, borrowed for
 * the call.  A non-zero result of a callback ends it and is returned.  `info` may be NULL.
 * Errors: ERR_DAMAGED (malformed, or its checksum is wrong), ERR_UNSUPPORTED (a version other than
 * 1 and 2), ERR_NOMEM.
 */
int manifest_read(
    const void *text, size_t len, const struct manifest_reader *reader, struct manifest_info *info);

#endif
