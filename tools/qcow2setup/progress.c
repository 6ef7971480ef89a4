// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the line that says how far something long has come: on stderr,
 * if that is a terminal, and not before a second is over.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "qcow2setup.h"

#define FIRST_MS 1000
#define NEXT_MS 200

static int64_t next_ms;	/* 0: nothing has been reported yet */
static bool shown;

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/**
 * progress_show() - say how far it is; may be called often
 * @what: what is done, in a word or two
 * @done: how much of it
 * @total: how much it is, not 0
 */
void progress_show(const char *what, uint64_t done, uint64_t total)
{
	int64_t now = now_ms();

	if (!next_ms)
		next_ms = now + FIRST_MS;
	if (now < next_ms || !isatty(STDERR_FILENO))
		return;
	next_ms = now + NEXT_MS;
	shown = true;
	fprintf(stderr, "\r%s: %d %%", what, (int)(100.0 * done / total));
}

/**
 * progress_end() - take the line away
 */
void progress_end(void)
{
	if (shown)
		fputs("\r\033[K", stderr);
	shown = false;
	next_ms = 0;
}
