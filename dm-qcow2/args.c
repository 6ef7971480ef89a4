// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the grammar of the table line: all of it, also the option whose
 * feature is not there yet, so that it is refused by name.
 *
 *	<image> [<#opt_params> <opt_params>]
 */
#include <linux/slab.h>
#include <linux/string_helpers.h>

#include "dm-qcow2.h"

struct parse {
	struct dm_qcow2_args *args;
	char **error;
};

struct option {
	const char *name;
	unsigned int words;	/* with its own */
	int (*set)(struct parse *p, char **argv);	/* NULL: not there yet */
};

static int wrong(struct parse *p, char *why)
{
	*p->error = why;
	return -EINVAL;
}

static int repeated(struct parse *p)
{
	return wrong(p, "An option is given twice");
}

static int set_read_only(struct parse *p, char **argv)
{
	if (p->args->read_only)
		return repeated(p);
	p->args->read_only = true;
	return 0;
}

static int set_no_discard_passdown(struct parse *p, char **argv)
{
	if (p->args->no_discard_passdown)
		return repeated(p);
	p->args->no_discard_passdown = true;
	return 0;
}

static int set_no_readahead(struct parse *p, char **argv)
{
	if (p->args->no_readahead)
		return repeated(p);
	p->args->no_readahead = true;
	return 0;
}

static int set_buffered_backing(struct parse *p, char **argv)
{
	if (p->args->buffered_backing)
		return repeated(p);
	p->args->buffered_backing = true;
	return 0;
}

static int set_sector_size(struct parse *p, char **argv)
{
	struct dm_qcow2_args *args = p->args;

	if (args->has_sector_size)
		return repeated(p);
	args->has_sector_size = true;
	if (kstrtou32(argv[1], 10, &args->sector_size) ||
	    (args->sector_size != 512 && args->sector_size != 4096))
		return wrong(p, "Option 'sector_size' must be 512 or 4096");
	return 0;
}

static int set_cache_bytes(struct parse *p, char **argv)
{
	struct dm_qcow2_args *args = p->args;

	if (args->cache_bytes)
		return repeated(p);
	if (kstrtou64(argv[1], 10, &args->cache_bytes) || !args->cache_bytes)
		return wrong(p, "Option 'cache_bytes' must be a number of bytes, at least 1");
	return 0;
}

/**
 * dm_qcow2_unescape() - a word as "dmsetup table" prints it
 * @word: the word, with octal escapes
 *
 * Return: what it means, to free; NULL without memory.
 */
char *dm_qcow2_unescape(const char *word)
{
	char *path = kstrdup(word, GFP_KERNEL);

	if (path)
		string_unescape_inplace(path, UNESCAPE_OCTAL);
	return path;
}

static int add_layer(struct parse *p, const char *word, bool raw)
{
	struct dm_qcow2_args *args = p->args;
	struct dm_qcow2_layer_args *l;

	if (args->nr_layers == DM_QCOW2_MAX_LAYERS)
		return wrong(p, "More layers than are supported");
	l = krealloc(args->layers, (args->nr_layers + 1) * sizeof(*l), GFP_KERNEL);
	if (!l) {
		*p->error = "Out of memory";
		return -ENOMEM;
	}
	args->layers = l;
	l += args->nr_layers;
	*l = (struct dm_qcow2_layer_args){ .path = dm_qcow2_unescape(word), .raw = raw };
	if (!l->path) {
		*p->error = "Out of memory";
		return -ENOMEM;
	}
	args->nr_layers++;
	return 0;
}

static int set_backing(struct parse *p, char **argv)
{
	bool raw = !strcmp(argv[1], "raw");

	if (!raw && strcmp(argv[1], "qcow2"))
		return wrong(p, "The format of a backing file must be qcow2 or raw");
	if (p->args->layers[p->args->nr_layers - 1].raw)
		return wrong(p, "A raw layer has no backing file");
	return add_layer(p, argv[2], raw);
}

static int set_data_file(struct parse *p, char **argv)
{
	struct dm_qcow2_layer_args *l = &p->args->layers[p->args->nr_layers - 1];

	if (l->data_path)
		return repeated(p);
	if (l->raw)
		return wrong(p, "A raw layer has no data file");
	l->data_path = dm_qcow2_unescape(argv[1]);
	if (!l->data_path) {
		*p->error = "Out of memory";
		return -ENOMEM;
	}
	return 0;
}

static int set_cipher(struct parse *p, const char *cipher, const char *key)
{
	struct dm_qcow2_layer_args *l = &p->args->layers[p->args->nr_layers - 1];

	if (l->cipher)
		return repeated(p);
	if (l->raw)
		return wrong(p, "A raw layer is not encrypted");
	l->cipher = kstrdup(cipher, GFP_KERNEL);
	l->key = dm_qcow2_unescape(key);
	if (!l->cipher || !l->key) {
		*p->error = "Out of memory";
		return -ENOMEM;
	}
	return 0;
}

static int set_luks(struct parse *p, char **argv)
{
	return set_cipher(p, argv[1], argv[2]);
}

static int set_aes(struct parse *p, char **argv)
{
	return set_cipher(p, "", argv[1]);
}

static const struct option options[] = {
	{ "read_only", 1, set_read_only },
	{ "sector_size", 2, set_sector_size },
	{ "cache_bytes", 2, set_cache_bytes },
	{ "no_discard_passdown", 1, set_no_discard_passdown },
	{ "no_readahead", 1, set_no_readahead },
	{ "buffered_backing", 1, set_buffered_backing },
	{ "backing", 3, set_backing },
	{ "data_file", 2, set_data_file },
	{ "luks", 3, set_luks },
	{ "aes", 2, set_aes },
	{ "snapshot", 2 },
};

static const struct option *find_option(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (!strcmp(options[i].name, name))
			return &options[i];
	return NULL;
}

static int parse_options(struct parse *p, unsigned int n, char **argv)
{
	while (n) {
		const struct option *o = find_option(*argv);
		int ret;

		if (!o)
			return wrong(p,
				     "Unknown option; known are read_only, sector_size, cache_bytes, no_discard_passdown, no_readahead, buffered_backing, backing, data_file, luks, aes");
		if (o->words > n)
			return wrong(p, "The last option lacks its value");
		if (!o->set) {
			*p->error = "Option 'snapshot' is not supported yet";
			return -EOPNOTSUPP;
		}
		ret = o->set(p, argv);
		if (ret)
			return ret;
		argv += o->words;
		n -= o->words;
	}
	return 0;
}

/**
 * dm_qcow2_free_args() - free what dm_qcow2_parse_args() allocated
 * @args: parsed, or what is left of it on an error
 */
void dm_qcow2_free_args(struct dm_qcow2_args *args)
{
	unsigned int i;

	for (i = 0; i < args->nr_layers; i++) {
		kfree(args->layers[i].path);
		kfree(args->layers[i].data_path);
		kfree(args->layers[i].cipher);
		kfree(args->layers[i].key);
	}
	kfree(args->layers);
}

/**
 * dm_qcow2_parse_args() - parse a table line
 * @argc: words after the target's name
 * @argv: the words; dm has taken its backslashes away, ours are octal
 * @args: filled in; dm_qcow2_free_args() in either case
 * @error: for the user
 *
 * Return: 0 or a negative errno.
 */
int dm_qcow2_parse_args(unsigned int argc, char **argv,
			struct dm_qcow2_args *args, char **error)
{
	struct parse p = { args, error };
	unsigned int n = 0;
	int ret;

	memset(args, 0, sizeof(*args));
	args->sector_size = SECTOR_SIZE;
	if (!argc)
		return wrong(&p, "No image given: <image> [<#opt_params> <opt_params>]");
	if (argc > 1 && (kstrtouint(argv[1], 10, &n) || n != argc - 2))
		return wrong(&p,
			     "Before the options comes how many words they are, e.g. '1 read_only'");
	ret = add_layer(&p, argv[0], false);
	return ret ?: parse_options(&p, n, argv + 2);
}
