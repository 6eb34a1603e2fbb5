/* hex: bytes as lower-case hexadecimal text and back. */
#ifndef STORE_BASE_HEX_H
#define STORE_BASE_HEX_H

#include <stddef.h>

/* Write 2*n digits and a NUL. */
void hex_encode(char *out, const void *data, size_t n);
/* Read exactly 2*n lower-case digits followed by a NUL; 0 or -1 (no message). */
int hex_decode(void *out, const char *text, size_t n);

#endif
