// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the conversation with device-mapper. It is the only one that
 * knows libdevmapper.
 */
#include <errno.h>
#include <signal.h>
#include <libdevmapper.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

#define TARGET "qcow2"
#define CONTROL "/dev/mapper/control"

/* libdevmapper's words are for --debug: ours say what to do. */
static void __printf(5, 6) log_dm(int level, const char *file, int line,
				  int dm_errno_or_class, const char *fmt, ...)
{
	va_list ap;
	char *msg;

	if (log_level < LOG_DEBUG)
		return;
	va_start(ap, fmt);
	if (vasprintf(&msg, fmt, ap) < 0)
		exit(NO_MEMORY);
	va_end(ap);
	log_dbg("libdevmapper: %s", msg);
	free(msg);
}

static struct dm_task *flushing_task(int type, const char *name)
{
	struct dm_task *t;

	dm_log_with_errno_init(log_dm);
	t = dm_task_create(type);
	if (!t || !name || dm_task_set_name(t, name))
		return t;
	dm_task_destroy(t);
	return NULL;
}

static struct dm_task *task(int type, const char *name)
{
	struct dm_task *t = flushing_task(type, name);

	if (!t || dm_task_no_flush(t))
		return t;
	dm_task_destroy(t);
	return NULL;
}

/* Returns 0 or a positive errno. */
static int run(struct dm_task *t)
{
	if (dm_task_run(t))
		return 0;
	return dm_task_get_errno(t) ?: EIO;
}

/**
 * dm_bare_name() - a device's name without its directory
 * @name: as the user gave it
 *
 * Return: part of @name.
 */
const char *dm_bare_name(const char *name)
{
	size_t len = strlen(DM_NAME_PREFIX);

	return strncmp(name, DM_NAME_PREFIX, len) ? name : name + len;
}

/* A node that is not there yet is made by libdevmapper, if it may. */
static int control_error(void)
{
	if (!access(CONTROL, R_OK | W_OK))
		return 0;
	return errno == ENOENT && geteuid() == 0 ? 0 : errno;
}

/**
 * dm_usable() - may this user ask device-mapper?
 *
 * Prints nothing: for actions that can do without.
 *
 * Return: whether it answers.
 */
bool dm_usable(void)
{
	struct dm_task *t;
	bool usable;

	if (control_error())
		return false;
	t = task(DM_DEVICE_VERSION, NULL);
	usable = t && !run(t);
	if (t)
		dm_task_destroy(t);
	return usable;
}

/**
 * dm_need() - make sure that this user may use device-mapper
 *
 * Return: OK, or what to exit with.
 */
enum result dm_need(void)
{
	int err = control_error();

	if (err == EACCES || err == EPERM ||
	    (err == ENOENT && geteuid() != 0)) {
		log_err("No permission to use device-mapper: run this as root.");
		return NO_PERMISSION;
	}
	if (dm_usable())
		return OK;
	if (geteuid() != 0) {
		log_err("No permission to use device-mapper: run this as root.");
		return NO_PERMISSION;
	}
	log_err("The kernel's device-mapper does not answer. Load it: modprobe dm-mod.");
	return FAILED;
}

/* ---------------------------------------------------------------- */

static bool find_version(struct dm_task *t, uint32_t version[3])
{
	struct dm_versions *v = dm_task_get_versions(t), *last;

	if (!v)
		return false;
	do {
		last = v;
		if (!strcmp(v->name, TARGET)) {
			memcpy(version, v->version, sizeof(v->version));
			return true;
		}
		v = (void *)((char *)v + v->next);
	} while (last != v);
	return false;
}

/* Asking for the version of one target has the kernel load its module. */
static bool target_version(uint32_t version[3])
{
	static const int types[] = {
		DM_DEVICE_GET_TARGET_VERSION, DM_DEVICE_LIST_VERSIONS,
	};
	bool found = false;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(types) && !found; i++) {
		const char *name = i ? NULL : TARGET;
		struct dm_task *t = task(types[i], name);

		found = t && !run(t) && find_version(t, version);
		if (t)
			dm_task_destroy(t);
	}
	return found;
}

/**
 * dm_need_target() - make sure that the kernel has our target
 *
 * Loads the module if it is installed.
 *
 * Return: OK, or what to exit with.
 */
enum result dm_need_target(void)
{
	enum result ret = dm_need();
	uint32_t v[3];

	if (ret)
		return ret;
	if (target_version(v)) {
		log_dbg("target " TARGET " version %u.%u.%u", v[0], v[1], v[2]);
		return OK;
	}
	log_err("The kernel has no device-mapper target 'qcow2': the module is not loaded, and cannot be. Try 'modprobe dm-qcow2'; if that finds no module, install it with 'make install' in the sources of dm-qcow2.");
	return FAILED;
}

/* ---------------------------------------------------------------- */

/**
 * device_free() - drop what dm_query() filled in
 * @dev: may be empty
 */
void device_free(struct device *dev)
{
	free(dev->name);
	free(dev->params);
	free(dev->status);
	memset(dev, 0, sizeof(*dev));
}

/* The parameters of the first of our targets in a table or a status. */
static char *find_params(struct dm_task *t)
{
	void *next = NULL;

	do {
		char *type = NULL, *params = NULL;
		uint64_t start, length;

		next = dm_get_next_target(t, next, &start, &length, &type,
					  &params);
		if (type && !strcmp(type, TARGET))
			return xstrndup(params ?: "", strlen(params ?: ""));
	} while (next);
	return NULL;
}

static void measure(struct dm_task *t, struct device *dev)
{
	uint64_t start = 0, length = 0;
	char *type, *params;
	void *next = NULL;

	do {
		next = dm_get_next_target(t, next, &start, &length, &type,
					  &params);
		dev->targets++;
	} while (next);
	dev->sectors = start + length;
}

/* Returns 0 or a negative errno. */
static int query(const char *name, bool table, struct device *dev)
{
	struct dm_task *t = task(table ? DM_DEVICE_TABLE : DM_DEVICE_STATUS,
				 name);
	struct dm_info info;
	int err;

	if (!t)
		return -EINVAL;
	err = -run(t);
	if (!err && (!dm_task_get_info(t, &info) || !info.exists))
		err = -ENXIO;
	if (!err && table) {
		dev->major = info.major;
		dev->minor = info.minor;
		dev->read_only = info.read_only;
		dev->suspended = info.suspended;
		dev->deferred = info.deferred_remove;
		dev->open_count = info.open_count;
		measure(t, dev);
		dev->params = find_params(t);
	} else if (!err) {
		dev->status = find_params(t);
	}
	dm_task_destroy(t);
	return err;
}

/**
 * dm_query() - a device's table and status
 * @name: without /dev/mapper/
 * @dev: filled in on success, for device_free()
 *
 * Prints nothing when there is no such device.
 *
 * Return: OK; WRONG_DEVICE there is no such device; else what to exit with.
 */
enum result dm_query(const char *name, struct device *dev)
{
	int err;

	memset(dev, 0, sizeof(*dev));
	err = query(name, true, dev);
	if (!err && dev->params)
		err = query(name, false, dev);
	if (!err) {
		dev->name = xstrndup(name, strlen(name));
		return OK;
	}
	device_free(dev);
	log_dbg("device %s: %s", name, strerror(-err));
	return WRONG_DEVICE;
}

/**
 * dm_each() - call a function for every device of our target
 * @fn: the function; what it returns ends the walk, unless it is OK
 * @arg: its second argument
 *
 * Return: OK, or what to exit with.
 */
enum result dm_each(device_fn fn, void *arg)
{
	struct dm_names *names, *last;
	enum result ret = dm_need();
	struct dm_task *t;

	if (ret)
		return ret;
	t = task(DM_DEVICE_LIST, NULL);
	names = t && !run(t) ? dm_task_get_names(t) : NULL;
	if (!names) {
		log_err("Device-mapper does not list its devices.");
		ret = FAILED;
	} else if (names->dev) {
		do {
			struct device dev;

			last = names;
			/* it may be gone by now */
			if (!dm_query(names->name, &dev)) {
				if (dev.params)
					ret = fn(&dev, arg);
				device_free(&dev);
			}
			names = (void *)((char *)names + names->next);
		} while (!ret && last != names);
	}
	if (t)
		dm_task_destroy(t);
	return ret;
}

/* ---------------------------------------------------------------- */

static enum result refused(const char *name, int err, const char *reason)
{
	enum result ret = FAILED;

	if (err == EBUSY || err == EEXIST || err == EAGAIN || err == ETXTBSY)
		ret = BUSY;
	else if (err == EACCES || err == EPERM)
		ret = NO_PERMISSION;
	else if (err == ENOMEM)
		ret = NO_MEMORY;
	else if (err == EINVAL || err == EUCLEAN || err == EOPNOTSUPP ||
		 err == ENOENT || err == ENODEV || err == ENOTBLK ||
		 err == EROFS || err == EIO)
		ret = WRONG_DEVICE;
	if (reason)
		log_err("%s was not made: the kernel says: %s.", name, reason);
	else
		log_err("%s was not made: %s. The kernel log may say why: dmesg | grep qcow2.",
			name, strerror(err));
	return ret;
}

/* One of the requests that make a device. Returns 0 or a positive errno. */
static int step(int type, const char *name, uint64_t sectors,
		const char *params, bool read_only)
{
	struct dm_task *t = task(type, name);
	uint32_t cookie = 0;
	int err = EINVAL;

	if (t && (!params || dm_task_add_target(t, 0, sectors, TARGET, params)) &&
	    (!read_only || dm_task_set_ro(t))) {
		/* without a cookie nobody waits for udev, but the device runs */
		if (type == DM_DEVICE_RESUME &&
		    !dm_task_set_cookie(t, &cookie, 0))
			cookie = 0;
		err = run(t);
		if (cookie)
			dm_udev_wait(cookie);
	}
	if (t)
		dm_task_destroy(t);
	return err;
}

/**
 * dm_create() - make and start a device
 * @name: without /dev/mapper/
 * @sectors: its length in sectors of 512 bytes
 * @params: the table line after the word "qcow2"
 * @read_only: nobody may write to it
 *
 * libdevmapper can do this in one call, which does not tell why it failed.
 *
 * Return: OK, or what to exit with; then there is no such device.
 */
enum result dm_create(const char *name, uint64_t sectors, const char *params,
		      bool read_only)
{
	char *reason = NULL;
	enum result ret;
	int err, log;

	log_dbg("table: 0 %llu " TARGET " %s", (unsigned long long)sectors,
		params);
	err = step(DM_DEVICE_CREATE, name, 0, NULL, false);
	if (err)
		return refused(name, err, NULL);
	log = kmsg_start();
	err = step(DM_DEVICE_RELOAD, name, sectors, params, read_only);
	reason = kmsg_finish(log, TARGET ": ");
	if (!err)
		err = step(DM_DEVICE_RESUME, name, 0, NULL, false);
	if (!err) {
		free(reason);
		return OK;
	}
	ret = refused(name, err, reason);
	free(reason);
	dm_remove(name, false);
	return ret;
}

/* The message "resize", to the image's only target. */
static int message(const char *name, uint64_t bytes)
{
	struct dm_task *t = task(DM_DEVICE_TARGET_MSG, name);
	char words[40];
	int err = EINVAL;

	snprintf(words, sizeof(words), "resize %llu", (unsigned long long)bytes);
	if (t && dm_task_set_sector(t, 0) && dm_task_set_message(t, words))
		err = run(t);
	if (t)
		dm_task_destroy(t);
	return err;
}

/* With all that is written flushed, and filesystems frozen. */
static int suspend(const char *name)
{
	struct dm_task *t = flushing_task(DM_DEVICE_SUSPEND, name);
	int err = t ? run(t) : ENOMEM;

	if (t)
		dm_task_destroy(t);
	return err;
}

/**
 * dm_resize() - make a device and its image larger
 * @dev: the device; it runs, and its table has one target
 * @bytes: size of the image
 * @sectors: length of the device in sectors of 512 bytes
 *
 * Nothing is printed while the device is suspended: it could have to go there.
 * Signals wait: who is ended then leaves a device that hangs everybody.
 *
 * Return: OK, or what to exit with; whatever happened is said, and the device
 * runs, unless that is what failed.
 */
enum result dm_resize(const struct device *dev, uint64_t bytes, uint64_t sectors)
{
	const char *name = dev->name;
	int log = kmsg_start(), err, load = 0, resume;
	sigset_t all, old;
	char *reason;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	err = suspend(name);
	if (err) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		log_err("%s was not resized, because it could not be suspended: %s.",
			name, strerror(err));
		free(kmsg_finish(log, TARGET ": "));
		return FAILED;
	}
	err = message(name, bytes);
	if (!err)
		load = step(DM_DEVICE_RELOAD, name, sectors, dev->params, false);
	resume = step(DM_DEVICE_RESUME, name, 0, NULL, false);
	sigprocmask(SIG_SETMASK, &old, NULL);
	reason = kmsg_finish(log, TARGET ": ");
	if (err)
		log_err("%s was not resized: the kernel says: %s.", name,
			reason ?: strerror(err));
	else if (load)
		log_err("The image of %s has %llu bytes now, but the device is as long as before: the kernel did not take the longer table: %s. To resize it to the same size tries again.",
			name, (unsigned long long)bytes, reason ?: strerror(load));
	if (resume)
		log_err("%s is still suspended: %s. 'dmsetup resume %s' tries again.",
			name, strerror(resume), name);
	free(reason);
	return err || load || resume ? FAILED : OK;
}

/**
 * dm_remove() - take a device away
 * @name: without /dev/mapper/
 * @deferred: if it is in use, when it no longer is
 *
 * Return: OK, or what to exit with.
 */
enum result dm_remove(const char *name, bool deferred)
{
	struct dm_task *t = task(DM_DEVICE_REMOVE, name);
	enum result ret = OK;
	uint32_t cookie = 0;
	int err = EINVAL;

	/* what has just opened the device, udev or blkid, lets go in a moment */
	if (t && dm_task_retry_remove(t) &&
	    (!deferred || dm_task_deferred_remove(t)) &&
	    dm_task_set_cookie(t, &cookie, 0)) {
		err = run(t);
		dm_udev_wait(cookie);
	}
	if (t)
		dm_task_destroy(t);
	if (err == EBUSY) {
		log_err("%s is still in use: unmount it, or end what has it open ('fuser -v /dev/mapper/%s'); or give --deferred to remove it when it is free.",
			name, name);
		ret = BUSY;
	} else if (err == ENXIO) {
		log_err("%s is not active.", name);
		ret = WRONG_DEVICE;
	} else if (err) {
		log_err("%s was not removed: %s.", name, strerror(err));
		ret = FAILED;
	}
	return ret;
}
