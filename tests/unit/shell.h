/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Other programs, run in a directory of their own.
 */
#ifndef SHELL_H
#define SHELL_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char shell_dir[64];
static void (*shell_seen)(const char *cmd);	/* is told of every command */

/* Runs a command in the directory, silently; its exit status. */
static inline int __attribute__((format(printf, 1, 2))) run(const char *fmt, ...)
{
	char cmd[8192];
	va_list ap;
	int n, status;

	n = snprintf(cmd, sizeof(cmd), "cd %s && { ", shell_dir);
	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - n, fmt, ap);
	va_end(ap);
	if (shell_seen)
		shell_seen(cmd + n);
	strncat(cmd, "; } >out 2>&1", sizeof(cmd) - strlen(cmd) - 1);
	status = system(cmd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static inline const char *path(const char *name)
{
	static char buf[128];

	snprintf(buf, sizeof(buf), "%s/%s", shell_dir, name);
	return buf;
}

static inline void shell_start(void)
{
	snprintf(shell_dir, sizeof(shell_dir), "%s/dm-qcow2-unit-XXXXXX",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	if (!mkdtemp(shell_dir))
		abort();
}

static inline void shell_end(void)
{
	run("rm -f *");
	rmdir(shell_dir);
}

#endif /* SHELL_H */
