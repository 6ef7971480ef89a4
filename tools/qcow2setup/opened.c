// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns a chain that is opened with the core: its files, locked as QEMU
 * does it, its images from the bottom to the top, of which the top is written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

/**
 * struct opened - one layer of a chain
 * @host: what holds it
 * @data_host: its external data file, if it has one
 * @data: the same for the core
 * @cipher: stands for the key of an encrypted image, which nobody has here
 * @layer: this one, for the image above
 */
struct opened {
	struct host host, data_host;
	struct qcow2_store data;
	struct qcow2_cipher cipher;
	struct qcow2_layer layer;
};

struct opened_chain {
	unsigned int count;
	struct opened *layers;
};

static struct qcow2_store store_of(struct host *h)
{
	return (struct qcow2_store){ .ops = store_ops(h), .be = h };
}

static int no_key(struct qcow2_cipher *c, bool encrypt, u64 sector, void *buf,
		  u32 len)
{
	return -ENOKEY;
}

/* Opens and locks a file of the chain. */
static enum result open_host(const char *path, bool write, struct host *host)
{
	enum result ret = host_open(path, host);

	if (!ret && write)
		ret = host_open_writable(host);
	if (!ret)
		ret = lock_take(host, write);
	return ret;
}

static enum result open_layer(const struct layer *l, struct opened *o,
			      const struct qcow2_layer *below, bool write)
{
	struct qcow2_config cfg = { .read_only = !write, .backing = below };
	struct qcow2_error err = { "" };
	enum result ret = open_host(l->path, write, &o->host);

	if (!ret && l->data_path)
		ret = open_host(l->data_path, write, &o->data_host);
	if (ret)
		return ret;
	o->layer.store = store_of(&o->host);
	o->layer.size = (o->host.size + 511) / 512 * 512;
	if (!strcmp(l->format, "raw"))
		return OK;
	o->data = store_of(&o->data_host);
	cfg.data = l->data_path ? &o->data : NULL;
	o->cipher = (struct qcow2_cipher){ .method = l->crypt, .apply = no_key };
	cfg.cipher = l->crypt == QCOW2_CRYPT_NONE ? NULL : &o->cipher;
	if (qcow2_image_open(o->layer.store.ops, &o->host, &cfg, &o->layer.img,
			     &err)) {
		log_err("%s cannot be opened: %s.", l->path, err.msg);
		return WRONG_DEVICE;
	}
	o->layer.size = o->layer.img->hdr.size / 512 * 512;
	return OK;
}

/**
 * opened_open() - open the images of a chain with the core
 * @chain: the chain; the top and its data file are opened for writing
 * @top: the core's image of the top, on success
 * @opened: for opened_close() in either case
 *
 * All files are locked as QEMU does it.
 *
 * Return: OK, or what to exit with.
 */
enum result opened_open(const struct chain *chain, struct qcow2_image **top,
			struct opened_chain **opened)
{
	struct opened_chain *c = xcalloc(1, sizeof(*c));
	const struct qcow2_layer *below = NULL;
	enum result ret = OK;
	unsigned int i;

	c->count = chain->count;
	c->layers = xcalloc(c->count, sizeof(*c->layers));
	for (i = 0; i < c->count; i++) {
		c->layers[i].host.fd = -1;
		c->layers[i].data_host.fd = -1;
	}
	*opened = c;
	while (!ret && i-- > 0) {
		ret = open_layer(&chain->layers[i], &c->layers[i], below, !i);
		below = &c->layers[i].layer;
	}
	*top = c->layers[0].layer.img;
	return ret;
}

/**
 * opened_close() - write everything back and close the images
 * @c: from opened_open()
 *
 * Return: OK, or what to exit with.
 */
enum result opened_close(struct opened_chain *c)
{
	enum result ret = OK;
	unsigned int i;

	for (i = 0; i < c->count; i++) {
		struct opened *o = &c->layers[i];
		int err = o->layer.img ? qcow2_image_close(o->layer.img) : 0;

		if (err) {
			log_err("%s: not everything could be written back: %s.",
				o->host.path, strerror(-err));
			ret = FAILED;
		}
		host_close(&o->host);
		host_close(&o->data_host);
	}
	free(c->layers);
	free(c);
	return ret;
}
