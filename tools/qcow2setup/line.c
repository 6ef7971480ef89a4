// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the words of a device-mapper table line: making them for an
 * image, and finding the image in them again.
 *
 * Device-mapper splits a line at white space and lets a backslash quote it, but
 * libdevmapper, and so dmsetup, doubles every backslash before the kernel sees
 * it: "\ " never arrives as an escaped space. So the target decodes octal
 * escapes itself, as in /proc/mounts: a space is \040, a backslash \134.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

/*
 * The kernel takes 0xa0 for a space, although it is part of many a character in
 * UTF-8. The other bytes up to a space, and 0x7f, would garble the line.
 */
static bool needs_escape(unsigned char c)
{
	return c <= ' ' || c == 0x7f || c == 0xa0 || c == '\\';
}

static char *escape(const char *path)
{
	char *out = xcalloc(strlen(path) + 1, 4), *q = out;

	for (; *path; path++) {
		unsigned char c = *path;

		if (needs_escape(c)) {
			*q++ = '\\';
			*q++ = '0' + (c >> 6);
			*q++ = '0' + ((c >> 3) & 7);
			*q++ = '0' + (c & 7);
		} else {
			*q++ = c;
		}
	}
	return out;
}

static bool octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' &&
		s[2] >= '0' && s[2] <= '7';
}

/* The length of the first word; a quoted space, too, is part of it. */
static size_t word_length(const char *s)
{
	size_t n;

	for (n = 0; s[n] && s[n] != ' '; n++)
		if (s[n] == '\\' && s[n + 1])
			n++;
	return n;
}

/**
 * line_image() - the image that a line names
 * @params: a line after the word "qcow2"
 *
 * Return: its path, or a device as major:minor; a string to free.
 */
char *line_image(const char *params)
{
	const char *end = params + word_length(params);
	char *out = xcalloc(end - params + 1, 1), *q = out;

	while (params < end) {
		if (*params != '\\') {
			*q++ = *params++;
		} else if (octal(params + 1)) {
			*q++ = (params[1] - '0') << 6 | (params[2] - '0') << 3 |
				(params[3] - '0');
			params += 4;
		} else {
			params++;
			if (params < end)
				*q++ = *params++;
		}
	}
	return out;
}

/**
 * line_options() - the options that a line gives
 * @params: a line after the word "qcow2"
 *
 * Return: where they begin in @params, after their number; "" without any.
 */
const char *line_options(const char *params)
{
	params += word_length(params);
	params += strspn(params, " ");
	params += word_length(params);
	return params + strspn(params, " ");
}

/**
 * line_sectors() - the length of the device
 * @img: the image
 * @opt: for the sector size
 *
 * Return: sectors of 512 bytes; only whole sectors of the device count.
 */
uint64_t line_sectors(const struct image *img, const struct options *opt)
{
	unsigned int sector = opt->sector_size ?: 512;

	return img->hdr.size / sector * (sector / 512);
}

/**
 * line_params() - the part of a line that belongs to the target
 * @host: what holds the image
 * @opt: what else is asked for
 *
 * Return: a string to free.
 */
char *line_params(const struct host *host, const struct options *opt)
{
	char *path = escape(host->path);
	char *sector = xasprintf(" sector_size %u", opt->sector_size);
	char *cache = xasprintf(" cache_bytes %llu",
				(unsigned long long)opt->cache_bytes);
	int words = 0;
	char *params;

	words += opt->read_only ? 1 : 0;
	words += opt->sector_size ? 2 : 0;
	words += opt->cache_bytes ? 2 : 0;
	if (words)
		params = xasprintf("%s %d%s%s%s", path, words,
				   opt->read_only ? " read_only" : "",
				   opt->sector_size ? sector : "",
				   opt->cache_bytes ? cache : "");
	else
		params = xasprintf("%s", path);
	free(cache);
	free(sector);
	free(path);
	return params;
}
