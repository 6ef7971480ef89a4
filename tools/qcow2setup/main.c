// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup: attach qcow2 images as block devices with the device-mapper
 * target "qcow2". This file owns the command line.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

/* Those with a letter have it as their value. */
enum {
	OPT_READONLY = 'r',
	OPT_VERBOSE = 'v',
	OPT_VERSION = 'V',
	OPT_HELP = 'h',
	OPT_SECTOR_SIZE = 256,
	OPT_CACHE_BYTES,
	OPT_DEFERRED,
	OPT_JSON,
	OPT_DEBUG,
	OPT_NO_DISCARD_PASSDOWN,
	OPT_BACKING_FORMAT,
	OPT_DATA_FILE,
	OPT_CHAIN,
};

#define TAKES_READONLY 1
#define TAKES_SECTOR_SIZE 2
#define TAKES_CACHE_BYTES 4
#define TAKES_DEFERRED 8
#define TAKES_JSON 16
#define TAKES_NO_DISCARD_PASSDOWN 32
#define TAKES_BACKING_FORMAT 64
#define TAKES_DATA_FILE 128
#define TAKES_CHAIN 256
#define TAKES_FILES (TAKES_BACKING_FORMAT | TAKES_DATA_FILE)
#define TAKES_TABLE (TAKES_READONLY | TAKES_SECTOR_SIZE | TAKES_CACHE_BYTES | \
		     TAKES_NO_DISCARD_PASSDOWN | TAKES_FILES)

static const struct action {
	const char *name;
	enum result (*run)(const struct options *opt, char **args);
	int min_args, max_args;
	unsigned int takes;	/* options */
	const char *args;
	const char *help;
} actions[] = {
	{ "open", action_open, 2, 2, TAKES_TABLE,
	  "IMAGE NAME", "attach IMAGE as " DM_NAME_PREFIX "NAME" },
	{ "close", action_close, 1, 1, TAKES_DEFERRED,
	  "NAME", "detach it" },
	{ "table", action_table, 1, 1, TAKES_TABLE | TAKES_JSON,
	  "IMAGE", "print the table line for 'dmsetup create'" },
	{ "info", action_info, 1, 1, TAKES_JSON | TAKES_CHAIN | TAKES_FILES,
	  "IMAGE|NAME", "show what an image or a device is" },
	{ "status", action_status, 0, 1, TAKES_JSON,
	  "[NAME]", "show the state of a device, or of all" },
};

static const struct known {
	struct option long_option;
	unsigned int takes;	/* 0: goes with every action */
	const char *arg;
	const char *help;
} known[] = {
	{ { "readonly", no_argument, NULL, OPT_READONLY }, TAKES_READONLY,
	  "", "attach read-only" },
	{ { "read-only", no_argument, NULL, OPT_READONLY }, TAKES_READONLY,
	  "", NULL },	/* QEMU's word for it */
	{ { "sector-size", required_argument, NULL, OPT_SECTOR_SIZE },
	  TAKES_SECTOR_SIZE, " 512|4096", "logical sector of the device, in bytes" },
	{ { "cache-bytes", required_argument, NULL, OPT_CACHE_BYTES },
	  TAKES_CACHE_BYTES, " N", "bound of the metadata cache (K, M, G)" },
	{ { "no-discard-passdown", no_argument, NULL, OPT_NO_DISCARD_PASSDOWN },
	  TAKES_NO_DISCARD_PASSDOWN,
	  "", "keep freed clusters allocated on the host" },
	{ { "backing-format", required_argument, NULL, OPT_BACKING_FORMAT },
	  TAKES_BACKING_FORMAT,
	  " qcow2|raw", "of a backing file, where the image does not say it" },
	{ { "data-file", required_argument, NULL, OPT_DATA_FILE },
	  TAKES_DATA_FILE,
	  " PATH", "external data file, whatever the image says" },
	{ { "chain", no_argument, NULL, OPT_CHAIN }, TAKES_CHAIN,
	  "", "look at the backing files, too" },
	{ { "deferred", no_argument, NULL, OPT_DEFERRED }, TAKES_DEFERRED,
	  "", "detach when nobody uses it any more" },
	{ { "json", no_argument, NULL, OPT_JSON }, TAKES_JSON,
	  "", "output for programs" },
	{ { "verbose", no_argument, NULL, OPT_VERBOSE }, 0,
	  "", "say what was done" },
	{ { "debug", no_argument, NULL, OPT_DEBUG }, 0,
	  "", "say what happens inside" },
	{ { "version", no_argument, NULL, OPT_VERSION }, 0,
	  "", "print the version" },
	{ { "help", no_argument, NULL, OPT_HELP }, 0,
	  "", "print this" },
};

static void print_help(void)
{
	size_t i;

	puts("Usage: qcow2setup ACTION [OPTION]... ARGUMENT...\n"
	     "\n"
	     "Attach qcow2 images as block devices.\n"
	     "\n"
	     "Actions:");
	for (i = 0; i < ARRAY_SIZE(actions); i++)
		printf("  %-7s %-13s %s\n", actions[i].name, actions[i].args,
		       actions[i].help);
	puts("\nOptions:");
	for (i = 0; i < ARRAY_SIZE(known); i++) {
		int val = known[i].long_option.val;
		char letter[] = { '-', val, ',', 0 };
		int n;

		if (!known[i].help)
			continue;
		n = printf("  %s --%s%s", val < 256 ? letter : "   ",
			   known[i].long_option.name, known[i].arg);
		printf("%*s %s\n", 33 - n, "", known[i].help);
	}
	puts("\n"
	     "Exit status: 0 success, 1 wrong parameters or another failure,\n"
	     "2 no permission, 3 out of memory, 4 wrong image or device,\n"
	     "5 exists already or is in use.\n"
	     "\n"
	     "See qcow2setup(8).");
}

static enum result see_help(void)
{
	log_err("'qcow2setup --help' shows what there is.");
	return FAILED;
}

static const struct action *find_action(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(actions[i].name, name))
			return &actions[i];
	return NULL;
}

static enum result parse_sector_size(const char *arg, struct options *opt)
{
	uint64_t n;

	if (!text_to_u64(arg, &n) || (n != 512 && n != 4096)) {
		log_err("--sector-size is 512 or 4096, not '%s'.", arg);
		return FAILED;
	}
	opt->sector_size = n;
	return OK;
}

static enum result parse_cache_bytes(const char *arg, struct options *opt)
{
	if (!text_to_u64(arg, &opt->cache_bytes) || !opt->cache_bytes) {
		log_err("--cache-bytes is a number of bytes above 0, K, M or G may follow it; not '%s'.",
			arg);
		return FAILED;
	}
	return OK;
}

static enum result parse_backing_format(const char *arg, struct options *opt)
{
	if (strcmp(arg, "qcow2") && strcmp(arg, "raw")) {
		log_err("--backing-format is qcow2 or raw, not '%s'.", arg);
		return FAILED;
	}
	opt->backing_format = arg;
	return OK;
}

static enum result take_option(int c, struct options *opt)
{
	switch (c) {
	case OPT_READONLY:
		opt->read_only = true;
		return OK;
	case OPT_SECTOR_SIZE:
		return parse_sector_size(optarg, opt);
	case OPT_CACHE_BYTES:
		return parse_cache_bytes(optarg, opt);
	case OPT_NO_DISCARD_PASSDOWN:
		opt->no_discard_passdown = true;
		return OK;
	case OPT_BACKING_FORMAT:
		return parse_backing_format(optarg, opt);
	case OPT_DATA_FILE:
		opt->data_file = optarg;
		return OK;
	case OPT_CHAIN:
		opt->chain = true;
		return OK;
	case OPT_DEFERRED:
		opt->deferred = true;
		return OK;
	case OPT_JSON:
		opt->json = true;
		return OK;
	case OPT_VERBOSE:
		if (log_level < LOG_VERBOSE)
			log_level = LOG_VERBOSE;
		return OK;
	case OPT_DEBUG:
		log_level = LOG_DEBUG;
		return OK;
	default:
		return see_help();
	}
}

/* Sets *done if the program has no more to do. */
static enum result parse(int argc, char **argv, struct options *opt,
			 unsigned int *taken, bool *done)
{
	struct option longs[ARRAY_SIZE(known) + 1] = { 0 };
	enum result ret = OK;
	size_t i;
	int c;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		longs[i] = known[i].long_option;
	while (!ret && (c = getopt_long(argc, argv, "rvVh", longs, NULL)) >= 0) {
		if (c == OPT_HELP || c == OPT_VERSION) {
			if (c == OPT_HELP)
				print_help();
			else
				puts("qcow2setup " QCOW2SETUP_VERSION);
			*done = true;
			return OK;
		}
		for (i = 0; i < ARRAY_SIZE(known); i++)
			if (known[i].long_option.val == c)
				*taken |= known[i].takes;
		ret = take_option(c, opt);
	}
	return ret;
}

static enum result check_usage(const struct action *a, unsigned int taken,
			       int n)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].takes & taken & ~a->takes) {
			log_err("'%s' does not take --%s.", a->name,
				known[i].long_option.name);
			return FAILED;
		}
	if (n < a->min_args || n > a->max_args) {
		log_err("Too %s arguments. Usage: qcow2setup %s [OPTION]... %s",
			n < a->min_args ? "few" : "many", a->name, a->args);
		return FAILED;
	}
	return OK;
}

int main(int argc, char **argv)
{
	struct options opt = { 0 };
	const struct action *a;
	unsigned int taken = 0;
	enum result ret;
	bool done = false;

	ret = parse(argc, argv, &opt, &taken, &done);
	if (ret)
		return ret;
	if (!done && optind == argc) {
		log_err("No action is given.");
		return see_help();
	}
	if (!done) {
		a = find_action(argv[optind]);
		if (!a) {
			log_err("There is no action '%s'.", argv[optind]);
			return see_help();
		}
		ret = check_usage(a, taken, argc - optind - 1);
		if (!ret)
			ret = a->run(&opt, argv + optind + 1);
	}
	/* a full disk or a closed pipe must not look like success */
	if (!ret && (fflush(stdout) || ferror(stdout))) {
		log_err("The output cannot be written.");
		ret = FAILED;
	}
	return ret;
}
