/*
 * pgcontrol: the file global/pg_control, which says what a cluster is and where it stands.
 *
 * Threads: functions of their arguments.
 */
#ifndef PGSYNC_PGCONTROL_H
#define PGSYNC_PGCONTROL_H

#include <stddef.h>
#include <stdint.h>

#define PGCONTROL_FILE_BYTES 8192u /* the file's size; what is not used is zero */
#define PGCONTROL_MIN_BYTES  512u  /* what matters lies within */

struct pgcontrol {
	uint64_t system_identifier;
	uint32_t control_version; /* of the layout, such as 1300 */
	uint32_t catalog_version;
	uint32_t state;          /* PostgreSQL's enum DBState */
	uint64_t checkpoint_lsn; /* of the last checkpoint's record */
	uint64_t redo_lsn;       /* where its replay begins */
	uint32_t timeline;
	uint64_t min_recovery_lsn; /* a standby's consistent point, else 0 */
	uint32_t min_recovery_timeline;
	uint32_t block_bytes;
	uint32_t segment_blocks; /* of a full relation segment file */
	uint32_t wal_block_bytes;
	uint32_t wal_segment_bytes;
	uint32_t data_checksum_version; /* 0: page checksums are off */
};

/*
 * Take the file's bytes apart.  Errors: ERR_DAMAGED (too short, wrong checksum, sizes that cannot
 * be), ERR_UNSUPPORTED (the layout of another server version).
 */
int pgcontrol_decode(struct pgcontrol *c, const void *data, size_t len);

/*
 * Read the file at `path` below the directory `dirfd`, again and again for a second at most until
 * its checksum is right, because the server may be writing it.  `raw` (or NULL) gets its bytes.
 * Errors: as pgcontrol_decode(), ERR_NOTFOUND, ERR_DENIED, ERR_IO, ERR_CANCELLED.
 */
int pgcontrol_read(
    struct pgcontrol *c, int dirfd, const char *path, uint8_t raw[PGCONTROL_FILE_BYTES]);

#endif
