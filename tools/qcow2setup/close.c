// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup close: detach an image.
 */
#include "qcow2setup.h"

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
	if (ret) {
		log_err("%s is not active. 'qcow2setup status' lists the devices.",
			name);
		return ret;
	}
	ours = dev.params;
	device_free(&dev);
	if (!ours) {
		log_err("%s is not a qcow2 device; 'dmsetup remove' removes devices of any kind.",
			name);
		return WRONG_DEVICE;
	}
	return dm_remove(name, opt->deferred);
}
