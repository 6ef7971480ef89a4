// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the header of an image: reading it, having the core judge it,
 * and the verdict how the image can be attached. It reads the first 64 KiB of
 * one file, more only where header extensions reach further, and nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "geometry.h"
#include "qcow2setup.h"

static enum result read_start(struct image *img, size_t want, size_t *len)
{
	struct host *host = &img->host;

	if (want > host->size)
		want = host->size;
	free(img->buf);
	img->buf = xcalloc(1, want);
	*len = 0;
	while (*len < want) {
		ssize_t n = pread(host->fd, img->buf + *len, want - *len, *len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			log_err("%s cannot be read: %s.", host->path,
				strerror(errno));
			return WRONG_DEVICE;
		}
		if (!n) {
			/* it has become shorter since it was opened */
			host->size = *len;
			break;
		}
		*len += n;
	}
	return OK;
}

static enum result read_header(struct image *img)
{
	size_t need = QCOW2_HEADER_READ;
	struct qcow2_error err = { "" };
	const char *path = img->host.path;
	size_t len;
	int ret;

	do {
		size_t before = need;
		enum result r = read_start(img, need, &len);

		if (r)
			return r;
		ret = qcow2_header_parse(img->buf, len, img->host.size,
					 &img->hdr, &need, &err);
		if (ret == -ENODATA && need <= before)
			ret = qcow2_err(&err, -EUCLEAN,
					"header: it changes while it is read");
	} while (ret == -ENODATA);

	if (!ret)
		return OK;
	if (ret == -EINVAL)
		log_err("%s is %s.", path, err.msg);
	else if (ret == -EOPNOTSUPP)
		log_err("%s: %s.", path, err.msg);
	else
		log_err("%s is damaged: %s%s 'qemu-img check' may say more.",
			path, err.msg, strchr(err.msg, '?') ? "" : ".");
	return WRONG_DEVICE;
}

/* ---------------------------------------------------------------- */

/* The words of the kernel's refusal, and what can be done about it. */
static const char *missing_feature(const struct qcow2_header *h,
				   const char **advice)
{
	*advice = "'qemu-img convert -O qcow2' makes an image without it.";
	if (h->backing_file.offset) {
		*advice = "'qemu-img convert -O qcow2' makes an image without one.";
		return "has a backing file, which is not supported yet";
	}
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return "has an external data file, which is not supported yet";
	if (h->incompatible & QCOW2_INCOMPAT_EXTL2) {
		*advice = "'qemu-img convert -O qcow2' makes an image without them.";
		return "has extended L2 entries, which are not supported yet";
	}
	if (h->compression == QCOW2_COMPRESSION_ZSTD)
		return "has zstd compression, which is not supported yet";
	if (h->crypt_method == QCOW2_CRYPT_LUKS)
		return "has LUKS encryption, which is not supported yet";
	if (h->crypt_method == QCOW2_CRYPT_AES)
		return "has AES encryption, which is not supported yet";
	*advice = NULL;
	if (h->size < 512) {
		*advice = "'qemu-img resize' gives it one.";
		return "has no virtual size, so that there is nothing to map";
	}
	return NULL;
}

static const char *read_only_reason(const struct qcow2_header *h,
				    const char **advice)
{
	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT) {
		*advice = "'qemu-img check -r all' repairs it.";
		return "is marked corrupt";
	}
	if (h->incompatible & QCOW2_INCOMPAT_DIRTY) {
		*advice = "'qemu-img check -r all' repairs it.";
		return "is marked dirty: a writer did not close it";
	}
	if (h->nb_snapshots) {
		*advice = "'qemu-img snapshot -d' deletes one.";
		return "has internal snapshots";
	}
	if (h->nb_bitmaps) {
		*advice = "'qemu-img bitmap --remove' removes one.";
		return "has persistent bitmaps";
	}
	*advice = NULL;
	return NULL;
}

static void judge(struct image *img)
{
	img->why = missing_feature(&img->hdr, &img->advice);
	if (img->why) {
		img->attach = ATTACH_NOT;
		return;
	}
	img->why = read_only_reason(&img->hdr, &img->advice);
	img->attach = img->why ? ATTACH_READ_ONLY : ATTACH_READ_WRITE;
}

/* ---------------------------------------------------------------- */

/**
 * image_open() - read and judge the header of an image
 * @path: as the user gave it
 * @img: filled in on success
 *
 * Return: OK, or what to exit with.
 */
enum result image_open(const char *path, struct image *img)
{
	enum result ret;

	memset(img, 0, sizeof(*img));
	ret = host_open(path, &img->host);
	if (ret)
		return ret;
	ret = read_header(img);
	if (ret) {
		image_close(img);
		return ret;
	}
	judge(img);
	log_dbg("%s: version %u, %llu bytes, clusters of %u bytes",
		img->host.path, img->hdr.version,
		(unsigned long long)img->hdr.size,
		qcow2_cluster_size(&img->hdr));
	return OK;
}

/**
 * image_close() - the counterpart of image_open()
 * @img: may be closed already
 */
void image_close(struct image *img)
{
	host_close(&img->host);
	free(img->buf);
	img->buf = NULL;
}

/**
 * image_may_attach() - refuse what the kernel would refuse, with advice
 * @img: the image
 * @opt: what is asked for
 *
 * Return: OK, or what to exit with.
 */
enum result image_may_attach(const struct image *img, const struct options *opt)
{
	if (img->attach == ATTACH_NOT) {
		log_err("%s cannot be attached: the image %s. %s",
			img->host.path, img->why, img->advice);
		return WRONG_DEVICE;
	}
	if (img->attach == ATTACH_READ_ONLY && !opt->read_only) {
		log_err("%s can only be attached read-only: the image %s. Give --readonly, or change the image: %s",
			img->host.path, img->why, img->advice);
		return WRONG_DEVICE;
	}
	if (!line_sectors(img, opt)) {
		log_err("%s: its %llu bytes do not fill a sector of %u bytes.",
			img->host.path, (unsigned long long)img->hdr.size,
			opt->sector_size);
		return WRONG_DEVICE;
	}
	if (opt->sector_size && img->hdr.size % opt->sector_size)
		log_verbose("The last %u bytes fill no sector of %u bytes and cannot be reached.",
			    (unsigned int)(img->hdr.size % opt->sector_size),
			    opt->sector_size);
	return OK;
}
