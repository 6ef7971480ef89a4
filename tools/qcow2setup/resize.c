// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup resize: another size for the disk of an image that nobody uses, or
 * a larger one for a device, while it is in use.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "geometry.h"
#include "qcow2setup.h"
#include "resize.h"

/* SIZE as the user gave it; in whole sectors, as QEMU has it. */
static enum result parse_size(const char *arg, uint64_t now, uint64_t *size)
{
	bool more = *arg == '+';
	uint64_t n;

	if (!text_to_u64(arg + more, &n) || n > INT64_MAX - 511 ||
	    (more && n > INT64_MAX - 511 - now)) {
		log_err("'%s' is no size: it is a number of bytes, K, M, G or T may follow it, and + before it adds to the size that there is.",
			arg);
		return FAILED;
	}
	*size = ((more ? now : 0) + n + 511) / 512 * 512;
	if (!*size) {
		log_err("A disk of 0 bytes cannot be attached: give it at least 512.");
		return FAILED;
	}
	return OK;
}

static enum result check_size(const char *name, const struct qcow2_header *h,
			      uint64_t size)
{
	if (size <= qcow2_max_size(h))
		return OK;
	log_err("%s has clusters of %u bytes, with which %llu bytes are the largest size. 'qemu-img convert -o cluster_size=2M' makes an image that can be larger.",
		name, 1u << h->cluster_bits,
		(unsigned long long)qcow2_max_size(h));
	return FAILED;
}

/* ---- an image ---- */

/*
 * What the disk gets reads as zeros. Inside a cluster, or a subcluster, and wherever
 * version 2 has one, they would have to be written, encrypted.
 */
static bool needs_key(const struct qcow2_header *h)
{
	return h->crypt_method != QCOW2_CRYPT_NONE &&
		(h->version < 3 || h->size % qcow2_sub_size(h));
}

static enum result check_image(const struct image *img, uint64_t size,
			       const struct options *opt)
{
	if (img->attach == ATTACH_READ_ONLY) {
		log_err("%s cannot be resized: the image %s. %s", img->host.path,
			img->why, img->advice);
		return WRONG_DEVICE;
	}
	if (size > img->hdr.size && needs_key(&img->hdr)) {
		log_err("%s is encrypted, and to grow from %llu bytes it would need its key, for zeros behind the last of them. Attach it: 'qcow2setup resize' makes the device larger, too.",
			img->host.path, (unsigned long long)img->hdr.size);
		return WRONG_DEVICE;
	}
	if (size >= img->hdr.size || opt->shrink)
		return OK;
	log_err("%s has %llu bytes, and what lies beyond %llu would be lost. Make partitions and file systems smaller first; then give --shrink.",
		img->host.path, (unsigned long long)img->hdr.size,
		(unsigned long long)size);
	return FAILED;
}

static enum result resize_chain(const struct chain *chain, uint64_t size,
				const struct options *opt)
{
	struct opened_chain *opened;
	struct qcow2_image *top;
	struct qcow2_error err = { "" };
	enum result ret = opened_open(chain, &top, &opened), closed;

	if (!ret && qcow2_resize(top, size, opt->shrink, &err)) {
		log_err("%s was not resized: %s.", chain->layers[0].path, err.msg);
		ret = WRONG_DEVICE;
	}
	closed = opened_close(opened);
	return ret ?: closed;
}

static enum result resize_image(const struct options *opt, char **args)
{
	struct chain chain = { NULL };
	struct image img;
	uint64_t size;
	enum result ret = image_open(args[0], &img);

	if (ret)
		return ret;
	ret = parse_size(args[1], img.hdr.size, &size);
	if (!ret)
		ret = check_size(img.host.path, &img.hdr, size);
	if (!ret)
		ret = check_image(&img, size, opt);
	if (!ret)
		ret = lock_conflicts(&img.host, false) ? in_use(&img.host) : OK;
	if (!ret)
		ret = chain_walk(&img, opt, &chain);
	if (!ret)
		ret = resize_chain(&chain, size, opt);
	if (!ret)
		log_verbose("%s has %llu bytes now; it had %llu.",
			    img.host.path, (unsigned long long)size,
			    (unsigned long long)img.hdr.size);
	chain_free(&chain);
	image_close(&img);
	return ret;
}

/* ---- a device ---- */

static enum result check_device(const struct device *dev,
				const struct options *opt)
{
	const char *options = line_options(dev->params);
	struct line_option o;
	bool read_only = dev->read_only;

	while (line_next_option(&options, &o)) {
		read_only |= !strcmp(o.words[0], "read_only");
		line_option_free(&o);
	}
	if (opt->backing_format || opt->data_file) {
		log_err("%s is attached: its table says which files it has. Leave --%s out.",
			dev->name, opt->data_file ? "data-file" :
			"backing-format");
		return FAILED;
	}
	if (read_only)
		log_err("%s is attached read-only: 'qcow2setup close %s', and resize the image.",
			dev->name, dev->name);
	else if (dev->suspended)
		log_err("%s is suspended: 'dmsetup resume %s' first.", dev->name,
			dev->name);
	else if (dev->targets != 1)
		log_err("The table of %s has more than the image: give it one that is longer with 'dmsetup load'.",
			dev->name);
	else
		return OK;
	return WRONG_DEVICE;
}

/* The length of the device, in whole sectors of its own. */
static uint64_t sectors_for(const struct device *dev, uint64_t size)
{
	const char *options = line_options(dev->params);
	uint64_t sector = 512;
	struct line_option o;

	while (line_next_option(&options, &o)) {
		if (!strcmp(o.words[0], "sector_size"))
			text_to_u64(o.words[1], &sector);
		line_option_free(&o);
	}
	return size / sector * (sector / 512);
}

/* An image is named by a path, or is a device as major:minor. */
static enum result open_image_of(const struct device *dev, struct image *img)
{
	char *name = line_image(dev->params);
	char *path = *name == '/' ? xasprintf("%s", name) :
		xasprintf("/dev/block/%s", name);
	enum result ret = image_open(path, img);

	free(path);
	free(name);
	return ret;
}

static enum result resize_device(const struct options *opt,
				 const struct device *dev, const char *arg)
{
	struct image img;
	uint64_t size;
	enum result ret = check_device(dev, opt);

	if (!ret)
		ret = open_image_of(dev, &img);
	if (ret)
		return ret;
	ret = parse_size(arg, img.hdr.size, &size);
	if (!ret)
		ret = check_size(img.host.path, &img.hdr, size);
	if (!ret && size < img.hdr.size) {
		log_err("%s has %llu bytes, and can only grow while it is attached. 'qcow2setup close %s', and resize the image with --shrink.",
			dev->name, (unsigned long long)img.hdr.size, dev->name);
		ret = FAILED;
	}
	if (!ret) {
		/* nothing of ours may have to come from the device */
		if (mlockall(MCL_CURRENT | MCL_FUTURE))
			log_dbg("memory cannot be locked");
		ret = dm_resize(dev, size, sectors_for(dev, size));
	}
	if (!ret)
		log_verbose("%s has %llu bytes now; it had %llu.", dev->name,
			    (unsigned long long)size,
			    (unsigned long long)img.hdr.size);
	image_close(&img);
	return ret;
}

/**
 * action_resize() - qcow2setup resize IMAGE|NAME SIZE
 * @opt: the options
 * @args: the image or the device, the size
 *
 * Return: what to exit with.
 */
enum result action_resize(const struct options *opt, char **args)
{
	struct device dev;
	enum result ret;

	if (!find_device(args[0], &dev))
		return resize_image(opt, args);
	ret = resize_device(opt, &dev, args[1]);
	device_free(&dev);
	return ret;
}
