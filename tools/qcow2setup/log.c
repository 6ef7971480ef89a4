// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns what the user is told on stderr. Messages contain names of
 * files and words from images, so whatever could steer a terminal is escaped.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

enum log_level log_level = LOG_QUIET;

static char *context;
static char **kept;

static __printf(1, 0) char *format(const char *fmt, va_list ap)
{
	char *msg;

	if (vasprintf(&msg, fmt, ap) < 0)
		exit(NO_MEMORY);
	return msg;
}

static void emit(const char *msg)
{
	char *safe = text_escape(msg, strlen(msg));

	fprintf(stderr, "%s\n", safe);
	free(safe);
}

/**
 * log_err() - say what went wrong and what to do
 * @fmt: printf format of one line, without a newline
 */
void log_err(const char *fmt, ...)
{
	char *msg, *all;
	va_list ap;

	va_start(ap, fmt);
	msg = format(fmt, ap);
	va_end(ap);
	all = xasprintf("%s%s", context ?: "", msg);
	free(msg);
	if (kept) {
		free(*kept);
		*kept = all;
		return;
	}
	emit(all);
	free(all);
}

/**
 * log_context() - say with every error what it is about
 * @text: what precedes it, such as "The backing file of a: ", and is freed here;
 *	NULL: nothing any more
 */
void log_context(char *text)
{
	free(context);
	context = text;
}

/**
 * log_keep() - keep the last error instead of printing it
 * @text: gets it, to free; NULL: print errors again
 */
void log_keep(char **text)
{
	kept = text;
}

/**
 * log_verbose() - what --verbose shows
 * @fmt: printf format of one line, without a newline
 */
void log_verbose(const char *fmt, ...)
{
	va_list ap;
	char *msg;

	if (log_level < LOG_VERBOSE)
		return;
	va_start(ap, fmt);
	msg = format(fmt, ap);
	va_end(ap);
	emit(msg);
	free(msg);
}

/**
 * log_dbg() - what --debug shows
 * @fmt: printf format of one line, without a newline
 */
void log_dbg(const char *fmt, ...)
{
	va_list ap;
	char *msg;

	if (log_level < LOG_DEBUG)
		return;
	fputs("# ", stderr);
	va_start(ap, fmt);
	msg = format(fmt, ap);
	va_end(ap);
	emit(msg);
	free(msg);
}
