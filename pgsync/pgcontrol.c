/*
 * ControlFileData of PostgreSQL 13 to 17 (src/include/catalog/pg_control.h) on a 64-bit
 * little-endian machine.  Versions 13 to 16 call the layout 1300; 17 calls it 1700 and differs
 * only in a field of the checkpoint that lies in former padding.
 *
 *     0 8 system_identifier         136 8 minRecoveryPoint        228 4 xlog_seg_size
 *     8 4 pg_control_version        144 4 minRecoveryPointTLI     252 4 data_checksum_version
 *    12 4 catalog_version_no        216 4 blcksz                  256 32 nonce
 *    16 4 state                     220 4 relseg_size             288 4 CRC-32C of all before
 *    32 8 checkPoint                224 4 xlog_blcksz
 *    40 8 redo   48 4 timeline
 */
#include "pgsync/pgcontrol.h"

#include "store/base/bytes.h"
#include "store/base/cancel.h"
#include "store/base/crc32c.h"
#include "store/base/err.h"
#include "store/base/sys.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define READ_ATTEMPTS 50
#define READ_PAUSE_NS 20000000L

#define CRC_OFF 288

static bool
power_of_two(uint32_t v, uint32_t min, uint32_t max)
{
	return v >= min && v <= max && (v & (v - 1)) == 0;
}

int
pgcontrol_decode(struct pgcontrol *c, const void *data, size_t len)
{
	const uint8_t *p = data;

	memset(c, 0, sizeof(*c));
	if (len < PGCONTROL_MIN_BYTES)
		return err_set(ERR_DAMAGED, "pg_control has %zu bytes, which is too short", len);
	c->system_identifier = le64_load(p);
	c->control_version = le32_load(p + 8);
	if (c->control_version != 1300 && c->control_version != 1700)
		return err_set(ERR_UNSUPPORTED,
		    "pg_control has layout %u; those of PostgreSQL 13 to 17 are supported",
		    c->control_version);
	if (crc32c(0, p, CRC_OFF) != le32_load(p + CRC_OFF))
		return err_set(ERR_DAMAGED, "pg_control has a wrong checksum");
	c->catalog_version = le32_load(p + 12);
	c->state = le32_load(p + 16);
	c->checkpoint_lsn = le64_load(p + 32);
	c->redo_lsn = le64_load(p + 40);
	c->timeline = le32_load(p + 48);
	c->min_recovery_lsn = le64_load(p + 136);
	c->min_recovery_timeline = le32_load(p + 144);
	c->block_bytes = le32_load(p + 216);
	c->segment_blocks = le32_load(p + 220);
	c->wal_block_bytes = le32_load(p + 224);
	c->wal_segment_bytes = le32_load(p + 228);
	c->data_checksum_version = le32_load(p + 252);
	if (!power_of_two(c->block_bytes, 1024, 32768) || c->segment_blocks == 0 ||
	    !power_of_two(c->wal_segment_bytes, 1u << 20, 1u << 30))
		return err_set(ERR_DAMAGED, "pg_control has sizes that cannot be");
	return 0;
}

static int
read_once(struct pgcontrol *c, int dirfd, const char *path, uint8_t raw[PGCONTROL_FILE_BYTES])
{
	int fd = sys_openat(dirfd, path, O_RDONLY, 0), rc;
	ssize_t n;

	if (fd == -1)
		return err_sys("open %s", path);
	memset(raw, 0, PGCONTROL_FILE_BYTES);
	n = sys_pread_full(fd, raw, PGCONTROL_FILE_BYTES, 0);
	rc = n < 0 ? err_sys("read %s", path) : pgcontrol_decode(c, raw, (size_t)n);
	sys_close(&fd);
	return rc;
}

int
pgcontrol_read(struct pgcontrol *c, int dirfd, const char *path, uint8_t raw[PGCONTROL_FILE_BYTES])
{
	const struct timespec pause = { .tv_nsec = READ_PAUSE_NS };
	uint8_t own[PGCONTROL_FILE_BYTES];
	int rc = 0;

	for (int i = 0; i < READ_ATTEMPTS; i++) {
		rc = cancel_check();
		if (rc == 0)
			rc = read_once(c, dirfd, path, raw ? raw : own);
		if (rc != ERR_DAMAGED)
			break;
		nanosleep(&pause, NULL);
	}
	return rc == ERR_DAMAGED ? err_prefix(rc, "read %s", path) : rc;
}
