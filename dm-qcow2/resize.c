// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the growth of a disk that is attached: the message "resize",
 * and that no I/O begins while it is at work.
 *
 * The core wants the image for itself. So the device has to be suspended: a
 * table that runs says so under the host's lock, and all tables that use an
 * image that is written belong to one device. Afterwards the device is as long
 * as before, until a table with the new length is loaded and resumed.
 */
#include "dm-qcow2.h"
#include "core/resize.h"

/**
 * dm_qcow2_set_running() - the device of a table runs, or does not any more
 * @c: the table; no I/O of it is under way
 * @running: whether it does
 *
 * Context: may sleep, until a resize that is under way has ended.
 */
void dm_qcow2_set_running(struct dm_qcow2 *c, bool running)
{
	mutex_lock(&c->host->resize_lock);
	c->running = running;
	mutex_unlock(&c->host->resize_lock);
}

/* In the committer: reclaim must not wait for the device that is suspended. */
static int grow(struct dm_qcow2_host *h, void *arg)
{
	struct qcow2_error err = { "" };
	int ret;

	mutex_lock(&h->ahead_lock);
	ret = qcow2_resize(h->img, *(const u64 *)arg, false, &err);
	mutex_unlock(&h->ahead_lock);
	if (ret)
		DMERR("%s: resize: %s", h->name, err.msg);
	else
		h->layer.size = h->img->hdr.size;
	return ret;
}

/**
 * dm_qcow2_resize() - the message "resize": the disk becomes larger
 * @c: the table
 * @word: its new size in bytes
 *
 * Context: may sleep; the device is suspended.
 * Return: 0 with the size durable; -EBUSY if the device runs; -EROFS; -EINVAL;
 * -ENOKEY: it has been wiped; the errors of qcow2_resize(). The kernel's log has
 * the reason.
 */
int dm_qcow2_resize(struct dm_qcow2 *c, const char *word)
{
	struct dm_qcow2_host *h = c->host;
	int ret = -EBUSY;
	u64 size;

	if (kstrtou64(word, 10, &size)) {
		DMERR("%s: resize: '%s' is not a number of bytes", h->name, word);
		return -EINVAL;
	}
	if (!c->writer) {
		DMERR("%s: resize: the table is read-only", h->name);
		return -EROFS;
	}
	mutex_lock(&h->resize_lock);
	if (c->running) {
		DMERR("%s: resize: suspend the device first", h->name);
	} else if (!dm_qcow2_has_key(h->crypt)) {
		DMERR("%s: resize: the key has been wiped, and zeros need it",
		      h->name);
		ret = -ENOKEY;
	} else {
		ret = dm_qcow2_call(h, grow, &size);
	}
	mutex_unlock(&h->resize_lock);
	return ret;
}
