/*
 * A CRC is the remainder of a polynomial over GF(2).  Following A by n bytes multiplies its part
 * by x^(8n) modulo the Castagnoli polynomial, so combining needs one such power, made by repeated
 * squaring.  Polynomials are kept bit-reversed, as the checksum itself is: the top bit is x^0.
 */
#include "store/base/crc32c.h"

#include <isa-l/crc.h>
#include <pthread.h>

#define POLYNOMIAL 0x82f63b78u
#define X0         0x80000000u

/* powers[k] is x^(8 * 2^k); filled once. */
static uint32_t powers[64];
static pthread_once_t powers_once = PTHREAD_ONCE_INIT;

static uint32_t
multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	while (a) {
		if (a & X0)
			product ^= b;
		a <<= 1;
		b = b & 1 ? b >> 1 ^ POLYNOMIAL : b >> 1;
	}
	return product;
}

static void
fill_powers(void)
{
	powers[0] = X0 >> 8;
	for (int k = 1; k < 64; k++)
		powers[k] = multiply(powers[k - 1], powers[k - 1]);
}

/* x^(8 * len) */
static uint32_t
power_of_bytes(uint64_t len)
{
	uint32_t p = X0;

	pthread_once(&powers_once, fill_powers);
	for (int k = 0; len; k++, len >>= 1)
		if (len & 1)
			p = multiply(powers[k], p);
	return p;
}

uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;
	uint32_t state = ~crc; /* ISA-L takes and gives the register without the inversions */

	while (len > 0) {
		int n = len > 1 << 30 ? 1 << 30 : (int)len; /* its length is an int */

		state = crc32_iscsi((unsigned char *)(uintptr_t)p, n, state);
		p += n;
		len -= (size_t)n;
	}
	return ~state;
}

uint32_t
crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b)
{
	return multiply(power_of_bytes(len_b), a) ^ b;
}

uint32_t
crc32c_zeros(uint64_t len)
{
	/* Zero bytes only move the register on from its initial state of ones. */
	return ~multiply(power_of_bytes(len), 0xffffffffu);
}
