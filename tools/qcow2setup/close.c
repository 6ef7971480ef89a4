// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup close: detach an image.
 */
#include <stdlib.h>
#include <unistd.h>

#include "qcow2setup.h"

/* It may be an image that was meant. */
static enum result no_such_device(const char *name)
{
	struct host host;
	char *device = NULL;
	bool below = false;

	if (!access(name, F_OK)) {
		enum result ret = host_open(name, &host);

		if (ret)
			return ret;
		device = attached_as(&host, &below);
		host_close(&host);
	}
	if (device && below)
		log_err("%s is no device, and the device %s has it below its image: 'qcow2setup close %s' detaches that.",
			name, device, device);
	else if (device)
		log_err("%s is attached as %s: 'qcow2setup close %s' detaches it.",
			name, device, device);
	else
		log_err("%s is not active. 'qcow2setup status' lists the devices.",
			name);
	free(device);
	return WRONG_DEVICE;
}

static void say_done(const char *name)
{
	struct device dev;

	if (log_level < LOG_VERBOSE)
		return;
	if (dm_query(name, &dev)) {
		log_verbose("%s is detached.", name);
		return;
	}
	log_verbose("%s is in use, and will be detached when it no longer is.",
		    name);
	device_free(&dev);
}

/**
 * action_close() - qcow2setup close NAME
 * @opt: the options
 * @args: the name
 *
 * Return: what to exit with.
 */
enum result action_close(const struct options *opt, char **args)
{
	const char *name = dm_bare_name(args[0]);
	enum result ret = dm_need();
	struct device dev;
	bool ours;

	if (ret)
		return ret;
	ret = dm_query(name, &dev);
	if (ret)
		return no_such_device(name);
	ours = dev.params;
	device_free(&dev);
	if (!ours) {
		log_err("%s is not a qcow2 device; 'dmsetup remove' removes devices of any kind.",
			name);
		return WRONG_DEVICE;
	}
	ret = dm_remove(name, opt->deferred);
	if (!ret)
		say_done(name);
	return ret;
}
