// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup close: detach an image.
 */
#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <stdlib.h>
#include <string.h>
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

static bool has_no_space(const char *name)
{
	struct device dev;
	bool none;

	if (dm_query(name, &dev))
		return false;
	none = dev.status && !strncmp(dev.status, "no_space", 8);
	device_free(&dev);
	return none;
}

/*
 * What is in memory goes to the image before the device goes: afterwards nobody
 * could say that it did not. On a host without space it stays where it is, and so
 * does the device; what cannot be written at all, is lost.
 */
static enum result write_back(const char *name, bool *lost)
{
	char *path = xasprintf("%s/%s", dm_dir(), name);
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;

	free(path);
	if (fd < 0) {
		log_dbg("%s: %s", name, strerror(errno));
		return OK;
	}
	if (fsync(fd) < 0)
		err = errno;
	close(fd);
	if (!err)
		return OK;
	if (has_no_space(name)) {
		log_err("%s stays: the host has no space for what is still in memory, and without it the image lacks what was written last. Make room there and close again. 'dmsetup remove %s' gives it up.",
			name, name);
		return FAILED;
	}
	log_err("%s: not everything could be written to the image: %s. 'dmesg' says what went wrong.",
		name, strerror(err));
	*lost = true;
	return OK;
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
	bool ours, idle, lost = false;

	if (ret)
		return ret;
	ret = dm_query(name, &dev);
	if (ret)
		return no_such_device(name);
	ours = dev.params;
	idle = !dev.open_count && !dev.suspended && !dev.read_only;
	device_free(&dev);
	if (!ours) {
		log_err("%s is not a qcow2 device; 'dmsetup remove' removes devices of any kind.",
			name);
		return WRONG_DEVICE;
	}
	if (idle)
		ret = write_back(name, &lost);
	ret = ret ?: dm_remove(name, opt->deferred);
	if (!ret)
		say_done(name);
	return ret ?: (lost ? FAILED : OK);
}
