// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the grammar of the table line: all of it, also the options
 * whose features are not there yet, so that they are refused by name.
 *
 *	<image> [<#opt_params> <opt_params>]
 */
#include "dm-qcow2.h"

struct option {
	const char *name;
	unsigned int words;	/* with its own */
	const char *missing;	/* what is not supported yet, or NULL */
};

static const struct option options[] = {
	{ "read_only", 1 },
	{ "sector_size", 2 },
	{ "cache_bytes", 2 },
	{ "backing", 3, "Option 'backing' is not supported yet" },
	{ "data_file", 2, "Option 'data_file' is not supported yet" },
	{ "luks", 3, "Option 'luks' is not supported yet" },
	{ "aes", 2, "Option 'aes' is not supported yet" },
	{ "snapshot", 2, "Option 'snapshot' is not supported yet" },
};

static const struct option *find_option(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (!strcmp(options[i].name, name))
			return &options[i];
	return NULL;
}

static int set_option(struct dm_qcow2_args *args, const struct option *o,
		      char **argv, char **error)
{
	if (!strcmp(o->name, "read_only")) {
		if (args->read_only)
			goto twice;
		args->read_only = true;
		return 0;
	}
	if (!strcmp(o->name, "sector_size")) {
		if (args->has_sector_size)
			goto twice;
		args->has_sector_size = true;
		if (kstrtou32(argv[1], 10, &args->sector_size) ||
		    (args->sector_size != 512 && args->sector_size != 4096)) {
			*error = "Option 'sector_size' must be 512 or 4096";
			return -EINVAL;
		}
		return 0;
	}
	if (args->cache_bytes)
		goto twice;
	if (kstrtou64(argv[1], 10, &args->cache_bytes) || !args->cache_bytes) {
		*error = "Option 'cache_bytes' must be a number of bytes, at least 1";
		return -EINVAL;
	}
	return 0;
twice:
	*error = "An option is given twice";
	return -EINVAL;
}

/**
 * dm_qcow2_parse_args() - parse a table line
 * @argc: words after the target's name
 * @argv: the words; backslashes are gone already
 * @args: filled in; @args->path is kmalloc()ed and the caller's
 * @error: for the user
 *
 * Return: 0 or a negative errno.
 */
int dm_qcow2_parse_args(unsigned int argc, char **argv,
			struct dm_qcow2_args *args, char **error)
{
	unsigned int n = 0;
	int ret;

	memset(args, 0, sizeof(*args));
	args->sector_size = SECTOR_SIZE;
	if (!argc) {
		*error = "No image given: <image> [<#opt_params> <opt_params>]";
		return -EINVAL;
	}
	if (argc > 1 && (kstrtouint(argv[1], 10, &n) || n != argc - 2)) {
		*error = "Before the options comes how many words they are, e.g. '1 read_only'";
		return -EINVAL;
	}
	argv += 2;
	while (n) {
		const struct option *o = find_option(*argv);

		if (!o) {
			*error = "Unknown option; known are read_only, sector_size, cache_bytes";
			return -EINVAL;
		}
		if (o->words > n) {
			*error = "The last option lacks its value";
			return -EINVAL;
		}
		if (o->missing) {
			*error = (char *)o->missing;
			return -EOPNOTSUPP;
		}
		ret = set_option(args, o, argv, error);
		if (ret)
			return ret;
		argv += o->words;
		n -= o->words;
	}
	return 0;
}
