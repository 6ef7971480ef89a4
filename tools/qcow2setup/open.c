// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup open: attach an image.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

/**
 * struct search - for the device that is made of an image
 * @host: what holds the image
 * @name: of the device
 * @below: of a device that has it as a backing or data file
 */
struct search {
	const struct host *host;
	char *name;
	char *below;
};

static bool is_below(const struct device *dev, const struct host *host)
{
	const char *options = line_options(dev->params);
	struct line_option o;
	bool found = false;

	while (!found && line_next_option(&options, &o)) {
		if (!strcmp(o.words[0], "backing"))
			found = host_same(host, o.words[2]);
		else if (!strcmp(o.words[0], "data_file"))
			found = host_same(host, o.words[1]);
		line_option_free(&o);
	}
	return found;
}

static enum result compare(const struct device *dev, void *arg)
{
	struct search *s = arg;
	char *path = line_image(dev->params);

	if (!s->name && host_same(s->host, path))
		s->name = xstrndup(dev->name, strlen(dev->name));
	else if (!s->below && is_below(dev, s->host))
		s->below = xstrndup(dev->name, strlen(dev->name));
	free(path);
	return OK;
}

/**
 * attached_as() - a device that is made of an image
 * @host: what holds the image
 * @below: set if the device has it as a backing or data file only
 *
 * Return: its name, to free; NULL if there is none, or nobody who may be asked.
 */
char *attached_as(const struct host *host, bool *below)
{
	struct search s = { host, NULL, NULL };

	if (dm_usable())
		dm_each(compare, &s);
	*below = !s.name;
	if (!s.name)
		return s.below;
	free(s.below);
	return s.name;
}

/**
 * in_use() - somebody holds an image: say who
 * @host: what holds the image
 *
 * Return: what to exit with.
 */
enum result in_use(const struct host *host)
{
	bool below;
	char *name = attached_as(host, &below);

	if (name && below)
		log_err("%s is in use: the device %s has it below its image. 'qcow2setup close %s' detaches that.",
			host->path, name, name);
	else if (name)
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

static enum result check_path(const char *path, bool read_only)
{
	struct host host;
	enum result ret = host_open(path, &host);

	if (ret)
		return ret;
	ret = check_host(&host, read_only);
	host_close(&host);
	return ret;
}

/**
 * check_chain() - can the files of a chain be had?
 * @chain: the chain; only its top, and the data file of that, are written
 * @read_only: nor are these
 *
 * Return: OK, or what to exit with.
 */
enum result check_chain(const struct chain *chain, bool read_only)
{
	enum result ret = OK;
	unsigned int i;

	for (i = 0; i < chain->count && !ret; i++) {
		const struct layer *l = &chain->layers[i];

		ret = check_path(l->path, i || read_only);
		if (!ret && l->data_path)
			ret = check_path(l->data_path, i || read_only);
	}
	return ret;
}

/* The keys are in the keyring for as long as the kernel may look for them. */
static enum result attach(const struct image *img, struct chain *chain,
			  const struct options *opt, const char *name)
{
	struct keys keys;
	enum result ret = unlock_chain(chain, opt, &keys);
	char *params;

	if (!ret) {
		params = line_params(chain, opt);
		ret = dm_create(name, line_sectors(img, opt), params,
				opt->read_only);
		free(params);
	}
	unlock_forget(&keys);
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
	struct chain chain;
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
	if (ret) {
		image_close(&img);
		return ret;
	}
	ret = chain_walk(&img, opt, &chain);
	if (!ret)
		ret = dm_need_target();
	if (!ret)
		ret = check_no_device(name);
	if (!ret)
		ret = check_chain(&chain, opt->read_only);
	if (!ret)
		ret = attach(&img, &chain, opt, name);
	chain_free(&chain);
	image_close(&img);
	return ret;
}
