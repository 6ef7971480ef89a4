/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Allocations that fail. The linker puts what is here between the program and
 * the C library: the Makefile says for which programs.
 */
#ifndef ALLOCS_H
#define ALLOCS_H

#include "port.h"

/* Allocations number [at, at + count), counted from 1 while armed, fail. */
static struct {
	bool armed;	/* a call of the core is under way */
	void (*hook)(void); /* called once, before the next allocation */
	u64 seen;
	u64 at, count;	/* at 0: none */
} allocs;

static inline void allocs_fail(u64 at, u64 count)
{
	allocs.seen = 0;
	allocs.at = at;
	allocs.count = count;
}

static inline bool alloc_fails(void)
{
	void (*hook)(void) = allocs.hook;

	if (!allocs.armed)
		return false;
	if (hook) {
		allocs.hook = NULL;
		hook();
	}
	allocs.seen++;
	return allocs.at && allocs.seen >= allocs.at &&
		allocs.seen - allocs.at < allocs.count;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
int __real_posix_memalign(void **p, size_t alignment, size_t size);
int __wrap_posix_memalign(void **p, size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
	return alloc_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return alloc_fails() ? NULL : __real_calloc(n, size);
}

int __wrap_posix_memalign(void **p, size_t alignment, size_t size)
{
	return alloc_fails() ? ENOMEM : __real_posix_memalign(p, alignment, size);
}

#endif /* ALLOCS_H */
