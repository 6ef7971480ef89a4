// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup open: attach an image.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

struct search {
	const struct host *host;
	char *name;
};

static enum result compare(const struct device *dev, void *arg)
{
	struct search *s = arg;
	char *path = line_image(dev->params);

	if (!s->name && host_same(s->host, path))
		s->name = xstrndup(dev->name, strlen(dev->name));
	free(path);
	return OK;
}

/**
 * attached_as() - a device that is made of an image
 * @host: what holds the image
 *
 * Return: its name, to free; NULL if there is none, or nobody who may be asked.
 */
char *attached_as(const struct host *host)
{
	struct search s = { host, NULL };

	if (dm_usable())
		dm_each(compare, &s);
	return s.name;
}

/* Somebody holds the image: who? */
static enum result in_use(const struct host *host)
{
	char *name = attached_as(host);

	if (name)
		log_err("%s is in use: it is attached as %s. 'qcow2setup close %s' detaches it.",
			host->path, name, name);
	else
		log_err("%s is in use by %s. Shut down the virtual machine or end the program that has it open ('fuser -v' names it).",
			host->path, lock_probe(host) == LOCK_WRITER ?
			"QEMU, which writes to it" : "QEMU, which reads it");
	free(name);
	return BUSY;
}

static enum result check_name(const char *name)
{
	if (!*name || strchr(name, '/') || strlen(name) > 127) {
		log_err("'%s' cannot be the name of a device: it has 1 to 127 characters, none of them a slash.",
			name);
		return FAILED;
	}
	return OK;
}

static enum result check_no_device(const char *name)
{
	struct device dev;

	if (dm_query(name, &dev) == OK) {
		device_free(&dev);
		log_err("A device named %s exists already. Take another name, or 'qcow2setup close %s'.",
			name, name);
		return BUSY;
	}
	return OK;
}

static enum result check_host(const struct host *host, bool read_only)
{
	enum result ret = read_only ? OK : host_writable(host);

	if (!ret && lock_conflicts(host, read_only))
		ret = in_use(host);
	return ret;
}

static enum result attach(const struct image *img, const struct options *opt,
			  const char *name)
{
	char *params = line_params(&img->host, opt);
	enum result ret = dm_create(name, line_sectors(img, opt), params,
				    opt->read_only);

	free(params);
	if (!ret)
		log_verbose("%s is attached as " DM_NAME_PREFIX "%s%s.",
			    img->host.path, name,
			    opt->read_only ? ", read-only" : "");
	return ret;
}

/**
 * action_open() - qcow2setup open IMAGE NAME
 * @opt: the options
 * @args: the image, the name
 *
 * Return: what to exit with.
 */
enum result action_open(const struct options *opt, char **args)
{
	const char *name = dm_bare_name(args[1]);
	struct image img;
	enum result ret;

	if (access(args[0], F_OK) < 0 && !access(name, F_OK)) {
		log_err("%s does not exist, but %s does. The image comes first: 'qcow2setup open IMAGE NAME'.",
			args[0], name);
		return WRONG_DEVICE;
	}
	ret = check_name(name);
	if (ret)
		return ret;
	ret = image_open(args[0], &img);
	if (ret)
		return ret;
	ret = image_may_attach(&img, opt);
	if (!ret)
		ret = dm_need_target();
	if (!ret)
		ret = check_no_device(name);
	if (!ret)
		ret = check_host(&img.host, opt->read_only);
	if (!ret)
		ret = attach(&img, opt, name);
	image_close(&img);
	return ret;
}
