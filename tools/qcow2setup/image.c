// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the header of an image: reading it, having the core judge it,
 * the names of other files in it, and the verdict how the image can be attached.
 * It reads the first 64 KiB of one file, more only where header extensions reach
 * further, and nothing else.
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

/* "nbd", "json" and the like, as QEMU finds them; its length, 0 for a path. */
static size_t protocol_length(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':' ? n : 0;
}

/* The one protocol that stands before a path. */
static const char *skip_file(const char *name)
{
	return strncmp(name, "file:", 5) ? name : name + 5;
}

/**
 * name_not_a_path() - does a name in an image mean something else than a file?
 * @s: the name
 * @len: its length in bytes
 *
 * Return: NULL if it means a file; else the name and why not, for a sentence, to
 * free.
 */
char *name_not_a_path(const char *s, size_t len)
{
	const char *why = NULL;
	char *name = xstrndup(s, len);
	char *text = NULL;

	if (strlen(name) < len)
		why = "whose name has a NUL in it";
	else if (!*name)
		why = "whose name is empty";
	else if (!strncmp(name, "json:", 5))
		why = "which is a description for QEMU and not a path";
	else if (name != skip_file(name) && *skip_file(name) != '/')
		why = "which is not a path from the root: QEMU begins at its working directory";
	else if (name == skip_file(name) && (protocol_length(name) || *name == ':'))
		why = "which is a protocol of QEMU and not a path";
	if (why)
		text = xasprintf("'%s', %s", name, why);
	free(name);
	return text;
}

/**
 * name_path() - the path that a name in an image means
 * @name: the name; name_not_a_path() says that it is one
 * @image: the absolute path of the image
 *
 * Return: absolute; a relative name begins where the image is. To free.
 */
char *name_path(const char *name, const char *image)
{
	const char *rest = skip_file(name);

	if (*rest == '/')
		return xstrndup(rest, strlen(rest));
	while (rest[0] == '.' && rest[1] == '/')
		rest += 2 + strspn(rest + 2, "/");
	return xasprintf("%.*s%s", (int)(strrchr(image, '/') + 1 - image), image,
			 rest);
}

/**
 * image_not_a_path() - name_not_a_path() of a name in an open image
 * @img: the image
 * @s: where the name is
 *
 * Return: as name_not_a_path().
 */
char *image_not_a_path(const struct image *img, struct qcow2_header_string s)
{
	return name_not_a_path(img->buf + s.offset, s.len);
}

/**
 * image_path() - name_path() of a name in an open image
 * @img: the image
 * @s: where the name is; image_not_a_path() says that it is one
 *
 * Return: as name_path().
 */
char *image_path(const struct image *img, struct qcow2_header_string s)
{
	char *name = xstrndup(img->buf + s.offset, s.len);
	char *path = name_path(name, img->host.path);

	free(name);
	return path;
}

/* ---------------------------------------------------------------- */

/* What keeps it from being a device, although it may be below one. */
static const char *no_device_reason(struct image *img)
{
	const struct qcow2_header *h = &img->hdr;
	char *name = h->backing_file.offset ?
		image_not_a_path(img, h->backing_file) : NULL;

	if (name) {
		img->text = xasprintf("has the backing file %s", name);
		free(name);
		img->advice = NAME_A_PATH;
		return img->text;
	}
	if (h->size < 512) {
		img->advice = "'qcow2setup resize' gives it one.";
		return "has no virtual size, so that there is nothing to map";
	}
	return NULL;
}

static const char *read_only_reason(const struct qcow2_header *h,
				    const char **advice)
{
	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT) {
		*advice = "'qcow2setup check --repair' repairs it.";
		return "is marked corrupt";
	}
	if (h->nb_snapshots && qcow2_external(h)) {
		*advice = "'qemu-img snapshot -d' deletes a snapshot.";
		return "has internal snapshots and an external data file";
	}
	*advice = NULL;
	return NULL;
}

/* What the header should say and does not. */
static const char *to_be_given(const struct qcow2_header *h)
{
	if (h->backing_file.offset && !h->backing_format.len)
		return "Give --backing-format: the image does not say it.";
	if (qcow2_external(h) && !h->data_file.len)
		return "Give --data-file: the image does not say which one it has.";
	return NULL;
}

static void judge(struct image *img)
{
	img->why = no_device_reason(img);
	if (img->why) {
		img->attach = ATTACH_NOT;
		return;
	}
	img->why = read_only_reason(&img->hdr, &img->advice);
	img->attach = img->why ? ATTACH_READ_ONLY : ATTACH_READ_WRITE;
	if (!img->advice)
		img->advice = to_be_given(&img->hdr);
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
	if (img->host.size) {
		ret = read_header(img);
	} else {
		log_err("%s is empty: it is no qcow2 image. 'qemu-img create -f qcow2' makes one.",
			img->host.path);
		ret = WRONG_DEVICE;
	}
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
	free(img->text);
	img->text = NULL;
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
