// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns what the user is told on stderr. Messages contain names of
 * files and words from images, so whatever could steer a terminal is escaped.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2setup.h"

enum log_level log_level = LOG_QUIET;

static void __printf(1, 0) emit(const char *fmt, va_list ap)
{
	char *msg, *safe;
	int len = vasprintf(&msg, fmt, ap);

	if (len < 0)
		exit(NO_MEMORY);
	safe = text_escape(msg, len);
	fprintf(stderr, "%s\n", safe);
	free(safe);
	free(msg);
}

/**
 * log_err() - say what went wrong and what to do
 * @fmt: printf format of one line, without a newline
 */
void log_err(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
}

/**
 * log_verbose() - what --verbose shows
 * @fmt: printf format of one line, without a newline
 */
void log_verbose(const char *fmt, ...)
{
	va_list ap;

	if (log_level < LOG_VERBOSE)
		return;
	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
}

/**
 * log_dbg() - what --debug shows
 * @fmt: printf format of one line, without a newline
 */
void log_dbg(const char *fmt, ...)
{
	va_list ap;

	if (log_level < LOG_DEBUG)
		return;
	fputs("# ", stderr);
	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
}
