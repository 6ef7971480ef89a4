// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns strings: making them, and making those safe that come from an
 * image or a directory and go to a terminal or into JSON.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

static void *need(void *p)
{
	if (!p) {
		fputs("Out of memory.\n", stderr);
		exit(NO_MEMORY);
	}
	return p;
}

/**
 * xcalloc() - calloc() that does not fail
 * @n: elements
 * @size: of each, in bytes
 *
 * Return: zeroed memory; the program ends if there is none.
 */
void *xcalloc(size_t n, size_t size)
{
	return need(calloc(n, size));
}

/**
 * xstrndup() - strndup() that does not fail
 * @s: what to copy
 * @len: its length at most
 *
 * Return: a string to free; the program ends if there is no memory.
 */
char *xstrndup(const char *s, size_t len)
{
	return need(strndup(s, len));
}

/**
 * xasprintf() - asprintf() that does not fail
 * @fmt: printf format
 *
 * Return: a string to free; the program ends if there is no memory.
 */
char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&s, fmt, ap);
	va_end(ap);
	return need(len < 0 ? NULL : s);
}

/* ---------------------------------------------------------------- */

/*
 * Decodes one character of strict UTF-8: no overlong forms, no surrogates.
 * Returns its length in bytes, 0 if there is none.
 */
static size_t utf8_next(const unsigned char *s, size_t len, uint32_t *c)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n, i;

	if (!len)
		return 0;
	if (s[0] < 0x80) {
		*c = s[0];
		return 1;
	}
	n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4 || n > len)
		return 0;
	*c = s[0] & (0x7f >> n);
	for (i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*c = *c << 6 | (s[i] & 0x3f);
	}
	if (*c < smallest[n] || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000))
		return 0;
	return n;
}

/* Control characters, and those that reorder or hide what stands beside them. */
static bool harmless(uint32_t c)
{
	return !(c < 0x20 || (c >= 0x7f && c < 0xa0) ||
		 (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
		 (c >= 0x2060 && c <= 0x206f) || c == 0x061c || c == 0xfeff);
}

/**
 * text_escape() - make bytes safe for a terminal
 * @s: the bytes; may contain NUL
 * @len: how many
 *
 * Return: a string to free, in which whatever is not harmless UTF-8 stands as
 * \xNN.
 */
char *text_escape(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	char *out = xcalloc(len + 1, 4), *q = out;

	while (len) {
		uint32_t c;
		size_t n = utf8_next(p, len, &c);

		if (n && harmless(c)) {
			memcpy(q, p, n);
			q += n;
		} else {
			size_t i;

			n = n ?: 1;
			for (i = 0; i < n; i++)
				q += sprintf(q, "\\x%02x", p[i]);
		}
		p += n;
		len -= n;
	}
	return out;
}

/**
 * text_json() - bytes as a JSON string
 * @s: the bytes; may contain NUL
 * @len: how many
 *
 * JSON is Unicode: bytes that are not UTF-8 become U+FFFD.
 *
 * Return: a new string object.
 */
json_object *text_json(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	char *out = xcalloc(len + 1, 3), *q = out;
	json_object *o;

	while (len) {
		uint32_t c;
		size_t n = utf8_next(p, len, &c);

		if (n) {
			memcpy(q, p, n);
			q += n;
		} else {
			n = 1;
			memcpy(q, "\xef\xbf\xbd", 3);
			q += 3;
		}
		p += n;
		len -= n;
	}
	o = need(json_object_new_string_len(out, q - out));
	free(out);
	return o;
}

/**
 * text_size() - a number of bytes for people
 * @bytes: the number
 *
 * Return: a string to free, such as "1.5 GiB (1610612736 bytes)".
 */
char *text_size(uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	uint64_t unit = 1024;
	int i = 0;

	if (bytes < 1024)
		return xasprintf("%llu bytes", (unsigned long long)bytes);
	while (i < 5 && bytes / unit >= 1024) {
		unit *= 1024;
		i++;
	}
	return xasprintf("%.1f %ciB (%llu bytes)", (double)bytes / unit,
			 units[i], (unsigned long long)bytes);
}

/**
 * text_to_u64() - read a decimal number
 * @s: the number, with K, M, G, T, P or E behind it for powers of 1024, or the
 *	same as a small letter
 * @value: filled in on success
 *
 * Return: whether it is one and nothing else.
 */
bool text_to_u64(const char *s, uint64_t *value)
{
	static const char units[] = "KMGTPE";
	unsigned long long n;
	const char *unit;
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	n = strtoull(s, &end, 10);
	if (errno)
		return false;
	unit = *end ? strchr(units, toupper(*end)) : NULL;
	if (unit) {
		unsigned int shift = 10 * (unit - units + 1);

		if (n > UINT64_MAX >> shift)
			return false;
		n <<= shift;
		end++;
	}
	*value = n;
	return !*end;
}

/**
 * json_add_u64() - put a number into a JSON object
 * @o: the object
 * @key: a constant
 * @value: the number
 */
void json_add_u64(json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

/**
 * json_print() - print a JSON object on stdout and drop it
 * @o: the object
 */
void json_print(json_object *o)
{
	const int style = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
		JSON_C_TO_STRING_NOSLASHESCAPE;

	puts(need((void *)json_object_to_json_string_ext(o, style)));
	json_object_put(o);
}
