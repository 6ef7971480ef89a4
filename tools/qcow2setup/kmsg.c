// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns reading the kernel log. Device-mapper answers a bad table with
 * an errno; the sentence that explains it is in the log only.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

/**
 * kmsg_start() - remember where the kernel log ends
 *
 * Return: for kmsg_finish(); negative if the log cannot be read, which is fine.
 */
int kmsg_start(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

/* "priority,sequence,time,flags;text\n", one record a read */
static char *find_text(char *record, const char *word)
{
	char *text = strchr(record, ';');

	text = text ? strstr(text, word) : NULL;
	if (text)
		text[strcspn(text, "\n")] = 0;
	return text;
}

/**
 * kmsg_finish() - what the kernel said since
 * @fd: from kmsg_start()
 * @word: what a line contains
 *
 * Return: the lines from @word on, without it, in one; to free; or NULL.
 */
char *kmsg_finish(int fd, const char *word)
{
	char *all = NULL;
	char record[8192];
	ssize_t n;

	if (fd < 0)
		return NULL;
	while ((n = read(fd, record, sizeof(record) - 1)) > 0) {
		char *text, *longer;

		record[n] = 0;
		text = find_text(record, word);
		if (!text)
			continue;
		text += strlen(word);
		longer = xasprintf("%s%s%s", all ?: "", all ? "; " : "", text);
		free(all);
		all = longer;
	}
	close(fd);
	return all;
}
