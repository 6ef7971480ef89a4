// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the memory that passphrases and keys are in: it is not swapped
 * out, not dumped, not inherited, and overwritten before it is given back.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "qcow2setup.h"

static void no_core(void)
{
	const struct rlimit none = { 0, 0 };

	/* a core that goes to a program has no limit: the first is what counts */
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		log_dbg("core dumps cannot be switched off");
}

static size_t whole_pages(size_t room)
{
	size_t page = sysconf(_SC_PAGESIZE);

	return (room + page) / page * page;
}

/**
 * secret_new() - memory for a secret
 * @s: filled in; empty, for secret_free()
 * @room: bytes; one more is there
 *
 * From the first one on the program leaves no core dump.
 */
void secret_new(struct secret *s, size_t room)
{
	size_t bytes = whole_pages(room);

	no_core();
	s->len = 0;
	s->room = room;
	s->data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->data == MAP_FAILED) {
		s->data = NULL;
		log_err("Out of memory.");
		exit(NO_MEMORY);
	}
	/* an ordinary user may lock little, and goes on without */
	if (mlock(s->data, bytes) < 0)
		log_dbg("memory cannot be locked");
	madvise(s->data, bytes, MADV_DONTDUMP);
	madvise(s->data, bytes, MADV_WIPEONFORK);
}

/**
 * secret_free() - the counterpart of secret_new()
 * @s: all zeros, or free already, are fine, too
 */
void secret_free(struct secret *s)
{
	if (s->data) {
		explicit_bzero(s->data, whole_pages(s->room));
		munmap(s->data, whole_pages(s->room));
	}
	memset(s, 0, sizeof(*s));
}
