// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup luksAddKey, luksChangeKey and luksKillSlot: the passphrases that open
 * an image which nobody uses. The data and its key stay as they are.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

static enum result check_image(const struct image *img)
{
	if (img->hdr.crypt_method == QCOW2_CRYPT_LUKS)
		return OK;
	log_err("%s has no LUKS encryption, and so no key slots.%s",
		img->host.path, img->hdr.crypt_method == QCOW2_CRYPT_AES ?
		" With AES the passphrase is the key: 'qemu-img convert' makes another image." :
		"");
	return WRONG_DEVICE;
}

/* The header is read when nobody else can write any more. */
static enum result open_for_change(const char *path, struct image *img,
				   struct luks *l)
{
	enum result ret = image_open(path, img);
	char *device;
	bool below;

	memset(l, 0, sizeof(*l));
	l->fd = -1;
	if (ret)
		return ret;
	ret = check_image(img);
	if (!ret) {
		/* an image that was attached by its number has no locks */
		device = attached_as(&img->host, &below);
		ret = device ? in_use(&img->host) : OK;
		free(device);
	}
	ret = ret ?: host_open_writable(&img->host);
	ret = ret ?: lock_take(&img->host, true);
	ret = ret ?: luks_load(&img->host, &img->hdr, l);
	if (ret) {
		luks_close(l);
		image_close(img);
	}
	return ret;
}

static enum result check_files(const struct options *opt)
{
	if (!opt->key_file || !opt->new_key_file ||
	    strcmp(opt->key_file, "-") || strcmp(opt->new_key_file, "-"))
		return OK;
	log_err("The old and the new key cannot both be all of the standard input: give a file for one of them.");
	return FAILED;
}

/* One more slot, durably; @old is the one that the present passphrase opens. */
static enum result add(const struct options *opt, const struct image *img,
		       struct luks *l, int *old, int *slot)
{
	struct secret pass = { NULL }, key = { NULL }, fresh = { NULL };
	enum result ret = passphrase_get(opt->key_file, img->host.path, &pass);

	ret = ret ?: luks_unlock(l, &pass, &key, old);
	secret_free(&pass);
	ret = ret ?: passphrase_get_new(opt->new_key_file, img->host.path,
					&fresh);
	ret = ret ?: luks_add(l, &key, &fresh, opt->iterations, slot);
	secret_free(&fresh);
	secret_free(&key);
	return ret ?: luks_store(l, &img->host, true);
}

static enum result kill_slot(const struct image *img, struct luks *l, int slot)
{
	enum result ret = luks_kill(l, slot);

	return ret ?: luks_store(l, &img->host, false);
}

/**
 * action_add_key() - qcow2setup luksAddKey IMAGE
 * @opt: the options
 * @args: the image
 *
 * Return: what to exit with.
 */
enum result action_add_key(const struct options *opt, char **args)
{
	struct image img;
	struct luks l;
	int old, slot;
	enum result ret = check_files(opt);

	ret = ret ?: open_for_change(args[0], &img, &l);
	if (ret)
		return ret;
	ret = add(opt, &img, &l, &old, &slot);
	if (!ret)
		log_verbose("%s has the new passphrase in key slot %d.",
			    img.host.path, slot);
	luks_close(&l);
	image_close(&img);
	return ret;
}

/**
 * action_change_key() - qcow2setup luksChangeKey IMAGE
 * @opt: the options
 * @args: the image
 *
 * The old slot goes when the new one is durable.
 *
 * Return: what to exit with.
 */
enum result action_change_key(const struct options *opt, char **args)
{
	struct image img;
	struct luks l;
	int old, slot;
	enum result ret = check_files(opt);

	ret = ret ?: open_for_change(args[0], &img, &l);
	if (ret)
		return ret;
	ret = add(opt, &img, &l, &old, &slot);
	ret = ret ?: kill_slot(&img, &l, old);
	if (!ret)
		log_verbose("%s has the new passphrase in key slot %d; slot %d is free.",
			    img.host.path, slot, old);
	luks_close(&l);
	image_close(&img);
	return ret;
}

static enum result check_slot(const struct options *opt, const struct image *img,
			      const struct luks *l, const char *arg,
			      uint64_t *slot)
{
	unsigned int used = luks_slots(l);

	if (!text_to_u64(arg, slot) || *slot >= LUKS_SLOTS) {
		log_err("'%s' is no key slot: they are 0 to %u.", arg,
			LUKS_SLOTS - 1);
		return FAILED;
	}
	if (!(used & 1u << *slot)) {
		log_err("%s: the key slot %s is not in use. 'qcow2setup info' shows which are.",
			img->host.path, arg);
		return FAILED;
	}
	if (used == 1u << *slot && !opt->force) {
		log_err("%s: the key slot %s is the last one: without it nobody reads the image any more. --force destroys it.",
			img->host.path, arg);
		return FAILED;
	}
	return OK;
}

/**
 * action_kill_slot() - qcow2setup luksKillSlot IMAGE SLOT
 * @opt: the options
 * @args: the image, the slot
 *
 * Return: what to exit with.
 */
enum result action_kill_slot(const struct options *opt, char **args)
{
	struct image img;
	struct luks l;
	uint64_t slot;
	enum result ret = open_for_change(args[0], &img, &l);

	if (ret)
		return ret;
	ret = check_slot(opt, &img, &l, args[1], &slot);
	ret = ret ?: kill_slot(&img, &l, slot);
	if (!ret)
		log_verbose("%s: the key slot %s is destroyed.", img.host.path,
			    args[1]);
	luks_close(&l);
	image_close(&img);
	return ret;
}
