// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the words of a device-mapper table line: making them for an
 * image, and finding the files in them again.
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
 * UTF-8. The other bytes up to a space, and 0x7f, would garble the line. What
 * follows a "#" dmsetup takes for a comment.
 */
static bool needs_escape(unsigned char c)
{
	return c <= ' ' || c == 0x7f || c == 0xa0 || c == '\\' || c == '#';
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

static char *decode(const char *word, size_t len)
{
	const char *end = word + len;
	char *out = xcalloc(len + 1, 1), *q = out;

	while (word < end) {
		if (*word != '\\') {
			*q++ = *word++;
		} else if (octal(word + 1)) {
			*q++ = (word[1] - '0') << 6 | (word[2] - '0') << 3 |
				(word[3] - '0');
			word += 4;
		} else {
			word++;
			if (word < end)
				*q++ = *word++;
		}
	}
	return out;
}

/**
 * line_image() - the image that a line names
 * @params: a line after the word "qcow2"
 *
 * Return: its path, or a device as major:minor; a string to free.
 */
char *line_image(const char *params)
{
	return decode(params, word_length(params));
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

/* Words of an option, with its name; what is not known here is taken for one. */
static int option_words(const char *name)
{
	static const struct {
		const char *name;
		int words;
	} known[] = {
		{ "sector_size", 2 },
		{ "cache_bytes", 2 },
		{ "backing", 3 },
		{ "data_file", 2 },
		{ "luks", 3 },
		{ "aes", 2 },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(name, known[i].name))
			return known[i].words;
	return 1;
}

/**
 * line_next_option() - walk through the options of a line
 * @options: from line_options(); moved on
 * @o: filled in with the next one, for line_option_free()
 *
 * Return: whether there was one, and whole.
 */
bool line_next_option(const char **options, struct line_option *o)
{
	int i, n = 1;

	memset(o, 0, sizeof(*o));
	for (i = 0; i < n; i++) {
		size_t len = word_length(*options);

		if (!len)
			break;
		o->words[i] = decode(*options, len);
		*options += len;
		*options += strspn(*options, " ");
		if (!i)
			n = option_words(o->words[0]);
	}
	if (i == n)
		return true;
	line_option_free(o);
	return false;
}

/**
 * line_option_free() - the counterpart of line_next_option()
 * @o: the option
 */
void line_option_free(struct line_option *o)
{
	int i;

	for (i = 0; i < LINE_OPTION_WORDS; i++)
		free(o->words[i]);
	memset(o, 0, sizeof(*o));
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
 * struct words - some words of a line
 * @text: each with a space before it
 * @count: how many
 */
struct words {
	char *text;
	size_t len;
	unsigned int count;
};

/* One more word; freed here. */
static void add(struct words *w, char *word)
{
	size_t len = strlen(word);
	char *text = xcalloc(w->len + len + 2, 1);

	if (w->text)
		memcpy(text, w->text, w->len);
	text[w->len] = ' ';
	memcpy(text + w->len + 1, word, len);
	free(w->text);
	free(word);
	w->text = text;
	w->len += len + 1;
	w->count++;
}

static void add_layers(struct words *w, const struct chain *chain)
{
	unsigned int i;

	for (i = 0; i < chain->count; i++) {
		const struct layer *l = &chain->layers[i];

		if (i) {
			add(w, xasprintf("backing"));
			add(w, xasprintf("%s", l->format));
			add(w, escape(l->path));
		}
		if (l->data_path) {
			add(w, xasprintf("data_file"));
			add(w, escape(l->data_path));
		}
		if (l->crypt == QCOW2_CRYPT_LUKS) {
			add(w, xasprintf("luks"));
			add(w, escape(l->cipher));
		} else if (l->crypt == QCOW2_CRYPT_AES) {
			add(w, xasprintf("aes"));
		}
		if (l->crypt != QCOW2_CRYPT_NONE)
			add(w, escape(l->key));
	}
}

/**
 * line_params() - the part of a line that belongs to the target
 * @chain: the image and the files that it needs; unlock.c has seen to its keys
 * @opt: what else is asked for
 *
 * Return: a string to free.
 */
char *line_params(const struct chain *chain, const struct options *opt)
{
	char *path = escape(chain->layers[0].path), *params;
	struct words w = { NULL, 0, 0 };

	if (opt->read_only)
		add(&w, xasprintf("read_only"));
	if (opt->sector_size) {
		add(&w, xasprintf("sector_size"));
		add(&w, xasprintf("%u", opt->sector_size));
	}
	if (opt->cache_bytes) {
		add(&w, xasprintf("cache_bytes"));
		add(&w, xasprintf("%llu", (unsigned long long)opt->cache_bytes));
	}
	if (opt->no_discard_passdown)
		add(&w, xasprintf("no_discard_passdown"));
	if (opt->no_readahead)
		add(&w, xasprintf("no_readahead"));
	if (opt->buffered_backing)
		add(&w, xasprintf("buffered_backing"));
	add_layers(&w, chain);
	if (w.count)
		params = xasprintf("%s %u%s", path, w.count, w.text);
	else
		params = xasprintf("%s", path);
	free(w.text);
	free(path);
	return params;
}
