// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the encrypted layers of a chain: which cipher and key each of them
 * has in the table line, and where the key comes from.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

#define AES_KEY 16u	/* of the legacy encryption: a passphrase, cut or with NULs */
#define TRIES 3		/* on a terminal */

static bool encrypted(const struct layer *l)
{
	return l->crypt != QCOW2_CRYPT_NONE;
}

/* The image may have been replaced since the chain was walked. */
static enum result load(const struct layer *l, struct luks *luks)
{
	struct image img;
	enum result ret = image_open(l->path, &img);

	memset(luks, 0, sizeof(*luks));
	luks->fd = -1;
	if (ret)
		return ret;
	if (img.hdr.crypt_method == QCOW2_CRYPT_LUKS) {
		ret = luks_load(&img.host, &img.hdr, luks);
	} else {
		log_err("%s has changed just now. Try again.", l->path);
		ret = FAILED;
	}
	image_close(&img);
	return ret;
}

/* ---- with the key ---- */

static enum result ask(const struct options *opt, const struct layer *l,
		       struct keys *keys, struct secret **pass)
{
	if (opt->key_file && keys->file.data) {
		*pass = &keys->file;
		return OK;
	}
	secret_free(&keys->typed);
	*pass = opt->key_file ? &keys->file : &keys->typed;
	return passphrase_get(opt->key_file, l->path, *pass);
}

static enum result unlock_luks(const struct options *opt, struct layer *l,
			       struct keys *keys, struct secret *key)
{
	int tries = passphrase_asks(opt->key_file) ? TRIES : 1, slot;
	struct secret *pass;
	struct luks luks;
	enum result ret = load(l, &luks);

	if (!ret)
		l->cipher = luks_cipher(&luks);
	while (!ret && tries--) {
		ret = ask(opt, l, keys, &pass);
		if (ret)
			break;
		secret_free(key);
		ret = luks_unlock(&luks, pass, key, &slot);
		if (ret == NO_PERMISSION && tries)
			ret = OK;
		else
			break;
	}
	luks_close(&luks);
	return ret;
}

static enum result unlock_aes(const struct options *opt, const struct layer *l,
			      struct keys *keys, struct secret *key)
{
	struct secret *pass;
	enum result ret = ask(opt, l, keys, &pass);

	if (ret)
		return ret;
	secret_new(key, AES_KEY);
	memcpy(key->data, pass->data, min_t(size_t, AES_KEY, pass->len));
	key->len = AES_KEY;
	return OK;
}

static enum result unlock(const struct options *opt, struct layer *l,
			  struct keys *keys)
{
	struct secret key = { NULL };
	enum result ret = l->crypt == QCOW2_CRYPT_LUKS ?
		unlock_luks(opt, l, keys, &key) :
		unlock_aes(opt, l, keys, &key);

	if (!ret)
		ret = keyring_add(&key, &l->key, &keys->serials[keys->count]);
	if (!ret)
		keys->count++;
	secret_free(&key);
	return ret;
}

/**
 * unlock_chain() - have the keys of all layers in the keyring
 * @chain: the chain; its layers get the cipher and the name of the key
 * @opt: where the passphrases come from
 * @keys: filled in, for unlock_forget() in either case
 *
 * Return: OK, or what to exit with.
 */
enum result unlock_chain(struct chain *chain, const struct options *opt,
			 struct keys *keys)
{
	enum result ret = OK;
	unsigned int i, n = 0;

	memset(keys, 0, sizeof(*keys));
	keys->serials = xcalloc(chain->count, sizeof(*keys->serials));
	for (i = 0; !ret && i < chain->count; i++)
		if (encrypted(&chain->layers[i])) {
			ret = unlock(opt, &chain->layers[i], keys);
			n++;
		}
	if (!n && opt->key_file) {
		log_err("%s is not encrypted, nor is what is below it: leave --key-file out.",
			chain->layers[0].path);
		ret = FAILED;
	}
	secret_free(&keys->file);
	secret_free(&keys->typed);
	return ret;
}

/**
 * unlock_forget() - the counterpart of unlock_chain()
 * @keys: the keys
 */
void unlock_forget(struct keys *keys)
{
	while (keys->count)
		keyring_remove(keys->serials[--keys->count]);
	free(keys->serials);
	keys->serials = NULL;
}

/* ---- without ---- */

/* ":64:logon:NAME" */
static enum result check_reference(const struct layer *l, const char *ref,
				   unsigned int bytes)
{
	static const char * const types[] = { "logon:", "user:", "encrypted:" };
	char *start = xasprintf(":%u:", bytes);
	size_t n = strlen(start), i, len = 0;
	bool fits = !strncmp(ref, start, n);

	for (i = 0; fits && i < ARRAY_SIZE(types); i++)
		if (!strncmp(ref + n, types[i], strlen(types[i])))
			len = strlen(types[i]);
	free(start);
	if (len && ref[n + len])
		return OK;
	log_err("%s has a key of %u bytes: --key is :%u:logon:NAME, or with user or encrypted for logon, and not '%s'.",
		l->path, bytes, bytes, ref);
	return FAILED;
}

static enum result refer(struct layer *l, const char *ref)
{
	unsigned int bytes = AES_KEY;
	enum result ret = OK;
	struct luks luks;

	if (l->crypt == QCOW2_CRYPT_LUKS) {
		ret = load(l, &luks);
		if (!ret) {
			l->cipher = luks_cipher(&luks);
			bytes = luks_key_bytes(&luks);
		}
		luks_close(&luks);
	}
	if (!ret && !ref) {
		log_err("%s is encrypted, and a table line names its key in a keyring: give --key :%u:logon:NAME, once for each encrypted layer, from the top to the bottom. 'qcow2setup open' needs the passphrase only.",
			l->path, bytes);
		ret = FAILED;
	}
	ret = ret ?: check_reference(l, ref, bytes);
	if (!ret)
		l->key = xstrndup(ref, strlen(ref));
	return ret;
}

/**
 * unlock_refer() - name the keys of all layers, without having them
 * @chain: the chain; its layers get the cipher and the name of the key
 * @opt: the names, as many as there are encrypted layers
 *
 * Return: OK, or what to exit with.
 */
enum result unlock_refer(struct chain *chain, const struct options *opt)
{
	unsigned int i, n = 0;
	enum result ret = OK;

	for (i = 0; !ret && i < chain->count; i++)
		if (encrypted(&chain->layers[i])) {
			ret = refer(&chain->layers[i],
				    n < opt->nr_keys ? opt->keys[n] : NULL);
			n++;
		}
	if (!ret && n < opt->nr_keys) {
		log_err("%u layers of %s are encrypted, and --key is given %u times.",
			n, chain->layers[0].path, opt->nr_keys);
		ret = FAILED;
	}
	return ret;
}
