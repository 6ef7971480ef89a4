// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup create: make an image.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

/**
 * struct place - a file or device in the making
 * @host: open, or closed
 * @created: it did not exist
 * @touched: its old contents are gone
 */
struct place {
	struct host host;
	bool created;
	bool touched;
};

/**
 * struct making - an image in the making
 * @opt: what the user says
 * @p: what the core is asked for
 * @path: of the image, absolute
 * @data_path: of its data file, absolute; or NULL
 * @below: the layers below it, if any
 * @image: the image
 * @data: its data file
 * @store: the same for the core
 * @luks: its LUKS header, if it is encrypted
 * @crypto: the same for the core
 */
struct making {
	const struct options *opt;
	struct qcow2_create p;
	char *path;
	char *data_path;
	struct chain below;
	struct place image;
	struct place data;
	struct qcow2_store store;
	struct luks luks;
	uint8_t *crypto;
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = 1;
}

/* Nothing is left behind by who changes his mind. */
static void catch_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = stop }, old;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		if (!sigaction(numbers[i], NULL, &old) &&
		    old.sa_handler != SIG_IGN)
			sigaction(numbers[i], &sa, NULL);
}

static int tick(void *arg, u64 done, u64 total)
{
	progress_show("Writing", done, total);
	return stopped ? -EINTR : 0;
}

/* ---- what is asked for ---- */

static bool chose(const char *given, const char *word)
{
	return given && !strcmp(given, word);
}

/* log2; what is no power of two becomes what is refused */
static u32 log2_or(uint64_t n, u32 otherwise)
{
	return is_power_of_2(n) ? (u32)ilog2(n) : otherwise;
}

static void take_options(struct making *m)
{
	const struct options *opt = m->opt;

	m->p = (struct qcow2_create){
		.cluster_bits = log2_or(opt->cluster_size ?: 65536, 0),
		.refcount_order = log2_or(opt->refcount_bits ?: 16,
					  QCOW2_MAX_REFCOUNT_ORDER + 1),
		.extended_l2 = opt->extended_l2,
		.lazy_refcounts = opt->lazy_refcounts,
		.compression = chose(opt->compression, "zstd") ?
			QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB,
		.backing_file = opt->backing,
		.backing_format = opt->backing_format,
		.data_file = opt->data_file,
		.data_file_raw = opt->data_file_raw,
		.progress = tick,
	};
	if (chose(opt->preallocation, "full"))
		m->p.prealloc = QCOW2_PREALLOC_FULL;
	else if (opt->preallocation && !chose(opt->preallocation, "off"))
		m->p.prealloc = QCOW2_PREALLOC_METADATA;
}

/* The path of a file that the header is to name. */
static enum result named(const struct making *m, const char *option,
			 const char *name, char **path)
{
	char *why = name_not_a_path(name, strlen(name));

	if (why) {
		log_err("%s is %s. Give the path of a file or block device.",
			option, why);
		free(why);
		return FAILED;
	}
	*path = name_path(name, m->path);
	return OK;
}

static enum result look_below(struct making *m)
{
	const struct options *opt = m->opt;
	enum result ret;
	char *path;

	if (!opt->backing) {
		if (!opt->backing_format)
			return OK;
		log_err("--backing-format is given, and no backing file. --backing NAME gives one.");
		return FAILED;
	}
	if (!opt->backing_format) {
		log_err("The format of the backing file %s is not given, and guessing is not safe. Give --backing-format qcow2 or --backing-format raw.",
			opt->backing);
		return FAILED;
	}
	ret = named(m, "--backing", opt->backing, &path);
	if (ret)
		return ret;
	ret = chain_below(path, opt->backing_format, opt, &m->below);
	free(path);
	if (!ret && m->below.count == MAX_LAYERS) {
		log_err("%s has %u layers already, and no chain has more. 'qemu-img commit' or 'qemu-img rebase' make it shorter.",
			m->below.layers[0].path, MAX_LAYERS);
		ret = WRONG_DEVICE;
	}
	return ret ?: check_chain(&m->below, true);
}

/* @arg: as given, or NULL. A disk has whole sectors. */
static enum result decide_size(struct making *m, const char *arg)
{
	uint64_t size;

	if (!arg && !m->below.count) {
		log_err("How large? Give the size behind the image, such as 20G.");
		return FAILED;
	}
	if (!arg) {
		size = m->below.layers[0].size;
	} else if (!text_to_u64(arg, &size) || size > INT64_MAX) {
		log_err("The size is a number of bytes, K, M, G, T, P or E may follow it; not '%s'.",
			arg);
		return FAILED;
	}
	m->p.size = round_up(size, (uint64_t)512);
	if (m->p.size != size)
		log_verbose("The size is rounded up to %llu bytes.",
			    (unsigned long long)m->p.size);
	return OK;
}

static enum result check_encryption(const struct options *opt)
{
	const char *given = opt->cipher ? "cipher" : opt->hash ? "hash" :
		opt->key_bits ? "key-size" : opt->key_file ? "key-file" :
		opt->iterations ? "pbkdf-force-iterations" : NULL;

	if (opt->encrypt || !given)
		return OK;
	log_err("--%s is given, and the image is not to be encrypted: --encrypt luks has it encrypted.",
		given);
	return FAILED;
}

static enum result cannot_be(const struct making *m,
			     const struct qcow2_error *err)
{
	log_err("%s cannot be made: %s.", m->path, err->msg);
	return FAILED;
}

/* The header gets its length here, and the passphrase when nothing is in its way. */
static enum result plan_encryption(struct making *m, u64 *bytes)
{
	const struct options *opt = m->opt;
	const char *cipher = opt->cipher ?: "aes-xts-plain64";
	u64 bits = opt->key_bits ?: strstr(cipher, "-xts-") ? 512 :
		strncmp(cipher, "cast5-", 6) ? 256 : 128;
	struct qcow2_error err;
	enum result ret = luks_format(m->path, cipher, bits,
				      opt->hash ?: "sha256", opt->iterations,
				      &m->luks);

	ret = ret ?: luks_bytes(&m->luks, &m->crypto);
	if (ret)
		return ret;
	m->p.crypto = m->crypto;
	m->p.crypto_length = m->luks.length;
	return qcow2_create_size(&m->p, bytes, &err) ? cannot_be(m, &err) : OK;
}

static enum result encrypt(struct making *m)
{
	struct secret pass = { NULL };
	enum result ret = passphrase_get_new(m->opt->key_file, m->path, &pass);
	int slot;

	ret = ret ?: luks_add(&m->luks, NULL, &pass, 0, &slot);
	secret_free(&pass);
	free(m->crypto);
	m->crypto = NULL;
	ret = ret ?: luks_bytes(&m->luks, &m->crypto);
	m->p.crypto = m->crypto;
	return ret;
}

static enum result decide(struct making *m, char **args, u64 *bytes)
{
	struct qcow2_error err;
	enum result ret = check_encryption(m->opt);

	if (ret)
		return ret;
	m->path = host_absolute(args[0]);
	if (!m->path)
		return FAILED;
	take_options(m);
	ret = look_below(m);
	if (!ret)
		ret = decide_size(m, args[1]);
	if (!ret && m->opt->data_file)
		ret = named(m, "--data-file", m->opt->data_file, &m->data_path);
	if (!ret && qcow2_create_size(&m->p, bytes, &err))
		ret = cannot_be(m, &err);
	if (!ret && m->opt->encrypt)
		ret = plan_encryption(m, bytes);
	return ret;
}

/* ---- where it goes ---- */

static enum result open_place(struct making *m, const char *path, u64 bytes,
			      struct place *pl)
{
	enum result ret = host_create(path, m->opt->force, &pl->host,
				      &pl->created);
	unsigned int i;

	if (ret)
		return ret;
	pl->host.reserve = chose(m->opt->preallocation, "falloc");
	for (i = 0; i < m->below.count; i++) {
		const struct layer *l = &m->below.layers[i];

		if (host_same(&pl->host, l->path) ||
		    (l->data_path && host_same(&pl->host, l->data_path))) {
			log_err("%s is one of the files below the new image: it cannot be overwritten.",
				pl->host.path);
			return FAILED;
		}
	}
	if (pl->host.block_device && pl->host.size < bytes) {
		log_err("%s has %llu bytes and needs %llu.", pl->host.path,
			(unsigned long long)pl->host.size,
			(unsigned long long)bytes);
		return WRONG_DEVICE;
	}
	return lock_take(&pl->host, true);
}

static enum result open_places(struct making *m, u64 bytes)
{
	enum result ret = open_place(m, m->path, bytes, &m->image);

	if (ret || !m->data_path)
		return ret;
	if (host_same(&m->image.host, m->data_path)) {
		log_err("%s cannot be its own data file.", m->path);
		return FAILED;
	}
	ret = open_place(m, m->data_path, m->p.size, &m->data);
	m->store.ops = ret ? NULL : store_ops(&m->data.host);
	m->store.be = &m->data.host;
	m->p.data = &m->store;
	return ret;
}

static void close_place(struct place *pl, bool failed)
{
	if (failed && (pl->created || pl->touched))
		host_undo(&pl->host, pl->created);
	else
		host_close(&pl->host);
}

/* ---------------------------------------------------------------- */

static enum result could_not(const struct making *m, int error,
			     const struct qcow2_error *err)
{
	const char *gone = m->image.created ? "" : " What was in it is lost.";
	const char *advice = "";

	if (error == -EINTR) {
		log_err("%s was not made: interrupted.%s", m->path, gone);
		return FAILED;
	}
	if (error == -EOPNOTSUPP && m->image.host.reserve)
		advice = " The filesystem cannot reserve space; --preallocation full writes it.";
	log_err("%s was not made: %s: %s.%s%s", m->path, err->msg,
		strerror(-error), gone, advice);
	return error == -ENOMEM ? NO_MEMORY : FAILED;
}

static enum result make(struct making *m)
{
	struct qcow2_error err = { "" };
	enum result ret;
	int error;

	m->image.touched = true;
	ret = host_empty(&m->image.host);
	if (!ret && m->data_path) {
		m->data.touched = true;
		ret = host_empty(&m->data.host);
	}
	if (ret)
		return ret;
	error = qcow2_create(store_ops(&m->image.host), &m->image.host, &m->p,
			     &err);
	progress_end();
	return error ? could_not(m, error, &err) : OK;
}

/**
 * action_create() - qcow2setup create IMAGE [SIZE]
 * @opt: the options
 * @args: the image; the size, or NULL
 *
 * Return: what to exit with.
 */
enum result action_create(const struct options *opt, char **args)
{
	struct making m = { .opt = opt };
	enum result ret;
	u64 bytes;

	m.image.host.fd = -1;
	m.data.host.fd = -1;
	m.luks.fd = -1;
	ret = decide(&m, args, &bytes);
	catch_signals();
	if (!ret)
		ret = open_places(&m, bytes);
	if (!ret && opt->encrypt)
		ret = encrypt(&m);
	if (!ret)
		ret = make(&m);
	close_place(&m.data, ret);
	close_place(&m.image, ret);
	if (!ret)
		log_verbose("%s is made: %llu bytes.", m.path,
			    (unsigned long long)m.p.size);
	luks_close(&m.luks);
	free(m.crypto);
	chain_free(&m.below);
	free(m.data_path);
	free(m.path);
	return ret;
}
