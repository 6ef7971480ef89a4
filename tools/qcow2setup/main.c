// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup: make, check and attach qcow2 images, as block devices with the
 * device-mapper target "qcow2". This file owns the command line.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
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
	OPT_NO_READAHEAD,
	OPT_BACKING_FORMAT,
	OPT_DATA_FILE,
	OPT_CHAIN,
	OPT_BUFFERED_BACKING,
	OPT_REPAIR,
	OPT_BACKING,
	OPT_CLUSTER_SIZE,
	OPT_REFCOUNT_BITS,
	OPT_EXTENDED_L2,
	OPT_LAZY_REFCOUNTS,
	OPT_COMPRESSION,
	OPT_DATA_FILE_RAW,
	OPT_PREALLOCATION,
	OPT_FORCE,
	OPT_SHRINK,
	OPT_KEY_FILE,
	OPT_NEW_KEY_FILE,
	OPT_KEY,
	OPT_ENCRYPT,
	OPT_CIPHER,
	OPT_KEY_SIZE,
	OPT_HASH,
	OPT_ITERATIONS,
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
#define TAKES_BUFFERED_BACKING 512
#define TAKES_REPAIR 1024
#define TAKES_CREATE 2048	/* what is of a new image and nothing else */
#define TAKES_SHRINK 4096
#define TAKES_KEY_FILE 8192
#define TAKES_NEW_KEY 16384
#define TAKES_KEY 32768
#define TAKES_FORCE 65536
#define TAKES_ITERATIONS 131072
#define TAKES_NO_READAHEAD 262144
#define TAKES_FILES (TAKES_BACKING_FORMAT | TAKES_DATA_FILE)
#define TAKES_TABLE (TAKES_READONLY | TAKES_SECTOR_SIZE | TAKES_CACHE_BYTES | \
		     TAKES_NO_DISCARD_PASSDOWN | TAKES_NO_READAHEAD | \
		     TAKES_BUFFERED_BACKING | TAKES_FILES)

static const struct action {
	const char *name;
	enum result (*run)(const struct options *opt, char **args);
	int min_args, max_args;
	unsigned int takes;	/* options */
	const char *args;
	const char *help;
} actions[] = {
	{ "create", action_create, 1, 2, TAKES_CREATE | TAKES_FILES |
	  TAKES_FORCE | TAKES_KEY_FILE | TAKES_ITERATIONS,
	  "IMAGE [SIZE]", "make a new image of SIZE bytes (K, M, G, T)" },
	{ "open", action_open, 2, 2, TAKES_TABLE | TAKES_KEY_FILE,
	  "IMAGE NAME", "attach IMAGE as " DM_NAME_PREFIX "NAME" },
	{ "close", action_close, 1, 1, TAKES_DEFERRED,
	  "NAME", "detach it" },
	{ "table", action_table, 1, 1, TAKES_TABLE | TAKES_JSON | TAKES_KEY,
	  "IMAGE", "print the table line for 'dmsetup create'" },
	{ "resize", action_resize, 2, 2, TAKES_SHRINK | TAKES_FILES,
	  "IMAGE|NAME SIZE", "give the disk another size" },
	{ "info", action_info, 1, 1, TAKES_JSON | TAKES_CHAIN | TAKES_FILES,
	  "IMAGE|NAME", "show what an image or a device is" },
	{ "status", action_status, 0, 1, TAKES_JSON,
	  "[NAME]", "show the state of a device, or of all" },
	{ "check", action_check, 1, 1, TAKES_JSON | TAKES_REPAIR,
	  "IMAGE", "look for errors in an image that is not in use" },
	{ "optimize", action_optimize, 1, 1, TAKES_JSON,
	  "IMAGE", "move the metadata together, for cold reads" },
	{ "luksAddKey", action_add_key, 1, 1,
	  TAKES_KEY_FILE | TAKES_NEW_KEY | TAKES_ITERATIONS,
	  "IMAGE", "have one more passphrase open it" },
	{ "luksChangeKey", action_change_key, 1, 1,
	  TAKES_KEY_FILE | TAKES_NEW_KEY | TAKES_ITERATIONS,
	  "IMAGE", "replace a passphrase" },
	{ "luksKillSlot", action_kill_slot, 2, 2, TAKES_FORCE,
	  "IMAGE SLOT", "destroy a key slot" },
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
	  TAKES_CACHE_BYTES, " N", "bound of the metadata cache (K, M, G, T)" },
	{ { "no-discard-passdown", no_argument, NULL, OPT_NO_DISCARD_PASSDOWN },
	  TAKES_NO_DISCARD_PASSDOWN,
	  "", "keep freed clusters allocated on the host" },
	{ { "no-readahead", no_argument, NULL, OPT_NO_READAHEAD },
	  TAKES_NO_READAHEAD,
	  "", "read metadata when it is needed, not before" },
	{ { "buffered-backing", no_argument, NULL, OPT_BUFFERED_BACKING },
	  TAKES_BUFFERED_BACKING,
	  "", "read backing files through the host's page cache" },
	{ { "backing-format", required_argument, NULL, OPT_BACKING_FORMAT },
	  TAKES_BACKING_FORMAT,
	  " qcow2|raw", "of a backing file, where the image does not say it" },
	{ { "data-file", required_argument, NULL, OPT_DATA_FILE },
	  TAKES_DATA_FILE,
	  " PATH", "external data file, whatever the image says" },
	{ { "backing", required_argument, NULL, OPT_BACKING }, TAKES_CREATE,
	  " NAME", "backing file of a new image" },
	{ { "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
	  TAKES_CREATE, " N", "512 to 2M, a power of two; default 64K" },
	{ { "refcount-bits", required_argument, NULL, OPT_REFCOUNT_BITS },
	  TAKES_CREATE, " N", "1 to 64, a power of two; default 16" },
	{ { "extended-l2", no_argument, NULL, OPT_EXTENDED_L2 }, TAKES_CREATE,
	  "", "L2 entries with subclusters" },
	{ { "lazy-refcounts", no_argument, NULL, OPT_LAZY_REFCOUNTS },
	  TAKES_CREATE, "", "QEMU may put off refcounts" },
	{ { "compression", required_argument, NULL, OPT_COMPRESSION },
	  TAKES_CREATE, " zlib|zstd", "of compressed clusters; default zlib" },
	{ { "data-file-raw", no_argument, NULL, OPT_DATA_FILE_RAW },
	  TAKES_CREATE, "", "the data file is a raw image, too" },
	{ { "preallocation", required_argument, NULL, OPT_PREALLOCATION },
	  TAKES_CREATE, " MODE", "off, metadata, falloc or full" },
	{ { "force", no_argument, NULL, OPT_FORCE }, TAKES_FORCE,
	  "", "overwrite what exists; kill the last slot" },
	{ { "key-file", required_argument, NULL, OPT_KEY_FILE },
	  TAKES_KEY_FILE, " FILE", "has the passphrase; - is stdin" },
	{ { "new-key-file", required_argument, NULL, OPT_NEW_KEY_FILE },
	  TAKES_NEW_KEY, " FILE", "has the new passphrase" },
	{ { "key", required_argument, NULL, OPT_KEY }, TAKES_KEY,
	  " :BYTES:TYPE:NAME", "key in a keyring, for each layer" },
	{ { "encrypt", required_argument, NULL, OPT_ENCRYPT }, TAKES_CREATE,
	  " luks", "encrypt the new image" },
	{ { "cipher", required_argument, NULL, OPT_CIPHER }, TAKES_CREATE,
	  " NAME", "default aes-xts-plain64" },
	{ { "key-size", required_argument, NULL, OPT_KEY_SIZE }, TAKES_CREATE,
	  " BITS", "default 512 with xts, else 256" },
	{ { "hash", required_argument, NULL, OPT_HASH }, TAKES_CREATE,
	  " NAME", "of passphrases; default sha256" },
	{ { "pbkdf-force-iterations", required_argument, NULL,
	    OPT_ITERATIONS }, TAKES_ITERATIONS,
	  " N", "of that hash; default: two seconds" },
	{ { "chain", no_argument, NULL, OPT_CHAIN }, TAKES_CHAIN,
	  "", "look at the backing files, too" },
	{ { "repair", optional_argument, NULL, OPT_REPAIR }, TAKES_REPAIR,
	  "[=leaks|all]", "mend what is wrong, or leaks only" },
	{ { "shrink", no_argument, NULL, OPT_SHRINK }, TAKES_SHRINK,
	  "", "lose what lies beyond a smaller size" },
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
	     "Make, check, resize, optimize and attach qcow2 images.\n"
	     "\n"
	     "Actions:");
	for (i = 0; i < ARRAY_SIZE(actions); i++)
		printf("  %-13s %-15s %s\n", actions[i].name, actions[i].args,
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
	     "2 no permission or no such passphrase, 3 out of memory, 4 wrong image or device,\n"
	     "5 exists already or is in use; of 'check', 6 leaks and no errors were\n"
	     "found or are left, 7 errors.\n"
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
		log_err("--cache-bytes is a number of bytes above 0, K, M, G or T may follow it; not '%s'.",
			arg);
		return FAILED;
	}
	return OK;
}

/* @words: those that are possible; the last is NULL */
static enum result parse_word(const char *arg, const char *option,
			      const char * const *words, const char **to)
{
	char *all = xasprintf("%s", words[0]), *more;
	size_t i;

	for (i = 0; words[i] && strcmp(arg, words[i]); i++)
		;
	*to = words[i];
	for (i = 1; words[i]; i++) {
		more = xasprintf("%s%s%s", all, words[i + 1] ? ", " : " or ",
				 words[i]);
		free(all);
		all = more;
	}
	if (!*to)
		log_err("%s is %s, not '%s'.", option, all, arg);
	free(all);
	return *to ? OK : FAILED;
}

static enum result parse_number(const char *arg, const char *option,
				uint64_t *to)
{
	if (text_to_u64(arg, to) && *to)
		return OK;
	log_err("%s is a number above 0, not '%s'.", option, arg);
	return FAILED;
}

/* What is of a new image and nothing else. */
static enum result take_create_option(int c, struct options *opt)
{
	static const char * const compressions[] = { "zlib", "zstd", NULL };
	static const char * const modes[] = {
		"off", "metadata", "falloc", "full", NULL
	};
	static const char * const encryptions[] = { "luks", NULL };

	switch (c) {
	case OPT_BACKING:
		opt->backing = optarg;
		return OK;
	case OPT_CLUSTER_SIZE:
		return parse_number(optarg, "--cluster-size",
				    &opt->cluster_size);
	case OPT_REFCOUNT_BITS:
		return parse_number(optarg, "--refcount-bits",
				    &opt->refcount_bits);
	case OPT_EXTENDED_L2:
		opt->extended_l2 = true;
		return OK;
	case OPT_LAZY_REFCOUNTS:
		opt->lazy_refcounts = true;
		return OK;
	case OPT_COMPRESSION:
		return parse_word(optarg, "--compression", compressions,
				  &opt->compression);
	case OPT_DATA_FILE_RAW:
		opt->data_file_raw = true;
		return OK;
	case OPT_PREALLOCATION:
		return parse_word(optarg, "--preallocation", modes,
				  &opt->preallocation);
	case OPT_FORCE:
		opt->force = true;
		return OK;
	case OPT_ENCRYPT:
		return parse_word(optarg, "--encrypt", encryptions,
				  &opt->encrypt);
	case OPT_CIPHER:
		opt->cipher = optarg;
		return OK;
	case OPT_KEY_SIZE:
		return parse_number(optarg, "--key-size", &opt->key_bits);
	case OPT_HASH:
		opt->hash = optarg;
		return OK;
	default:
		return see_help();
	}
}

static enum result parse_repair(const char *arg, struct options *opt)
{
	if (!arg || !strcmp(arg, "all")) {
		opt->repair = REPAIR_ALL;
	} else if (!strcmp(arg, "leaks")) {
		opt->repair = REPAIR_LEAKS;
	} else {
		log_err("--repair is followed by nothing, =leaks or =all, not '%s'.",
			arg);
		return FAILED;
	}
	return OK;
}

static enum result add_key(const char *ref, struct options *opt)
{
	const char **more = xcalloc(opt->nr_keys + 1, sizeof(*more));

	if (opt->nr_keys)
		memcpy(more, opt->keys, opt->nr_keys * sizeof(*more));
	free(opt->keys);
	opt->keys = more;
	opt->keys[opt->nr_keys++] = ref;
	return OK;
}

static enum result take_option(int c, struct options *opt)
{
	static const char * const formats[] = { "qcow2", "raw", NULL };

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
	case OPT_NO_READAHEAD:
		opt->no_readahead = true;
		return OK;
	case OPT_BUFFERED_BACKING:
		opt->buffered_backing = true;
		return OK;
	case OPT_BACKING_FORMAT:
		return parse_word(optarg, "--backing-format", formats,
				  &opt->backing_format);
	case OPT_DATA_FILE:
		opt->data_file = optarg;
		return OK;
	case OPT_KEY_FILE:
		opt->key_file = optarg;
		return OK;
	case OPT_NEW_KEY_FILE:
		opt->new_key_file = optarg;
		return OK;
	case OPT_KEY:
		return add_key(optarg, opt);
	case OPT_ITERATIONS:
		return parse_number(optarg, "--pbkdf-force-iterations",
				    &opt->iterations);
	case OPT_CHAIN:
		opt->chain = true;
		return OK;
	case OPT_REPAIR:
		return parse_repair(optarg, opt);
	case OPT_SHRINK:
		opt->shrink = true;
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
		return take_create_option(c, opt);
	}
}

/*
 * Sets *done if the program has no more to do, and a bit in *taken for each of
 * known[] that was given.
 */
static enum result parse(int argc, char **argv, struct options *opt,
			 uint64_t *taken, bool *done)
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
				*taken |= BIT_ULL(i);
		ret = take_option(c, opt);
	}
	return ret;
}

static enum result check_usage(const struct action *a, uint64_t taken, int n)
{
	size_t i;

	BUILD_BUG_ON(ARRAY_SIZE(known) > 64);
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if ((taken & BIT_ULL(i)) && (known[i].takes & ~a->takes)) {
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
	uint64_t taken = 0;
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
	free(opt.keys);
	/* a full disk or a closed pipe must not look like success */
	if (!ret && (fflush(stdout) || ferror(stdout))) {
		log_err("The output cannot be written.");
		ret = FAILED;
	}
	return ret;
}
