/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The Test Anything Protocol in one header: ok() for each test, diag() for what
 * explains it, and "return tap_end()" at the end of main(). For one thread.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failed;

/* Prints one test line; returns @cond, so that a failure can be explained. */
#define ok(cond, ...) tap_ok(!!(cond), __FILE__, __LINE__, __VA_ARGS__)
#define is_int(a, b, ...) tap_is((long long)(a), (long long)(b), __FILE__, \
				 __LINE__, __VA_ARGS__)

static inline void __attribute__((format(printf, 1, 2))) diag(const char *fmt, ...)
{
	va_list ap;

	printf("# ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

static inline bool __attribute__((format(printf, 4, 0)))
tap_vok(bool cond, const char *file, int line, const char *fmt, va_list ap)
{
	printf("%sok %d - ", cond ? "" : "not ", ++tap_count);
	vprintf(fmt, ap);
	printf("\n");
	if (!cond) {
		tap_failed++;
		printf("# failed at %s:%d\n", file, line);
	}
	fflush(stdout);
	return cond;
}

static inline bool __attribute__((format(printf, 4, 5)))
tap_ok(bool cond, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	tap_vok(cond, file, line, fmt, ap);
	va_end(ap);
	return cond;
}

/* As ok(), and shows both values if they differ. */
static inline bool __attribute__((format(printf, 5, 6)))
tap_is(long long a, long long b, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	tap_vok(a == b, file, line, fmt, ap);
	va_end(ap);
	if (a != b)
		diag("got %lld (%#llx), expected %lld (%#llx)", a,
		     (unsigned long long)a, b, (unsigned long long)b);
	return a == b;
}

static inline void tap_skip(const char *what, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tap_count, what, why);
	fflush(stdout);
}

/* Prints the plan; returns the exit status. */
static inline int tap_end(void)
{
	printf("1..%d\n", tap_count);
	if (tap_failed)
		diag("%d of %d tests failed", tap_failed, tap_count);
	fflush(stdout);
	return tap_failed || !tap_count;
}

#endif /* TAP_H */
