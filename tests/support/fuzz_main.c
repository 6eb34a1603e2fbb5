/*
 * fuzz_main: runs a fuzz target over the files of its corpus, for builds without the fuzzer.
 *
 * usage: fuzz_x FILE…  Each file is given whole; a fault aborts as it would in the fuzzer.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb");
		uint8_t *buf = malloc(1 << 20);
		size_t len;

		if (!f || !buf) {
			perror(argv[i]);
			return 1;
		}
		len = fread(buf, 1, 1 << 20, f);
		fclose(f);
		/* An exact allocation, so that a read past the end is seen. */
		uint8_t *exact = realloc(buf, len ? len : 1);

		LLVMFuzzerTestOneInput(exact, len);
		free(exact);
	}
	printf("%d inputs\n", argc - 1);
	return 0;
}
