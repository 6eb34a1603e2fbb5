/*
 * crc32c: the Castagnoli checksum that PostgreSQL uses for pg_control, WAL and manifests.
 *
 * The door to ISA-L.  Values are the finished ones (initial and final inversion applied), as in
 * RFC 3720 appendix B.4: "123456789" gives 0xe3069283.  Threads: pure functions.
 */
#ifndef STORE_BASE_CRC32C_H
#define STORE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of the bytes so far followed by `data`; start with crc 0. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The checksum of A followed by B, from those of A and B and the length of B in bytes. */
uint32_t crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b);

/* The checksum of `len` zero bytes, in logarithmic time. */
uint32_t crc32c_zeros(uint64_t len);

#endif
