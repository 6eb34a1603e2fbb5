/*
 * progress: counters that a long task raises and a display reads.
 *
 * Threads: every field is atomic; any number of writers and readers.
 */
#ifndef STORE_BASE_PROGRESS_H
#define STORE_BASE_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

struct progress {
	_Atomic uint64_t bytes_total; /* 0 while unknown */
	_Atomic uint64_t bytes_done;
	_Atomic uint64_t files_total;
	_Atomic uint64_t files_done;
	_Atomic(const char *) phase; /* a static string, such as "copying files"; NULL at first */
};

static inline void
progress_bytes(struct progress *p, uint64_t n)
{
	if (p)
		atomic_fetch_add_explicit(&p->bytes_done, n, memory_order_relaxed);
}

static inline void
progress_files(struct progress *p, uint64_t n)
{
	if (p)
		atomic_fetch_add_explicit(&p->files_done, n, memory_order_relaxed);
}

static inline void
progress_total(struct progress *p, uint64_t bytes, uint64_t files)
{
	if (p) {
		atomic_store(&p->bytes_total, bytes);
		atomic_store(&p->files_total, files);
	}
}

static inline void
progress_phase(struct progress *p, const char *phase)
{
	if (p)
		atomic_store(&p->phase, phase);
}

#endif
