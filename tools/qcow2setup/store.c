// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the core's way to the bytes of an image in user space: struct
 * qcow2_backend_ops on an open host.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2setup.h"

static int transfer(const struct host *host, bool write,
		    const struct qcow2_iovec *v)
{
	uint8_t *buf = v->buf;
	size_t done = 0;

	while (done < v->len) {
		ssize_t n = write ?
			pwrite(host->fd, buf + done, v->len - done,
			       v->offset + done) :
			pread(host->fd, buf + done, v->len - done,
			      v->offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n && write)
			return -EIO;
		if (!n) {
			/* beyond the end are zeros */
			memset(buf + done, 0, v->len - done);
			break;
		}
		done += n;
	}
	return 0;
}

static int store_rw(void *be, bool write, const struct qcow2_iovec *v,
		    unsigned int n)
{
	struct host *host = be;
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < n; i++) {
		ret = transfer(host, write, &v[i]);
		if (!ret && write && v[i].offset + v[i].len > host->size)
			host->size = v[i].offset + v[i].len;
	}
	return ret;
}

static int store_flush(void *be)
{
	const struct host *host = be;

	return fdatasync(host->fd) < 0 ? -errno : 0;
}

static int store_grow(void *be, uint64_t size)
{
	struct host *host = be;
	struct stat st;

	if (size <= host->size)
		return 0;
	if (host->block_device)
		return -ENOSPC;
	/* what has become larger by others is not cut */
	if (fstat(host->fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > size)
		return -EBUSY;
	if ((host->reserve ? fallocate(host->fd, 0, 0, size) :
	     ftruncate(host->fd, size)) < 0)
		return -errno;
	host->size = size;
	return 0;
}

static uint64_t store_size(void *be)
{
	const struct host *host = be;

	return host->size;
}

static int store_trim(void *be, uint64_t size)
{
	struct host *host = be;

	if (host->block_device || size >= host->size)
		return 0;
	if (ftruncate(host->fd, size) < 0)
		return -errno;
	host->size = size;
	return 0;
}

static int store_zero(void *be, uint64_t offset, uint64_t len)
{
	static uint8_t zeros[65536];
	const struct host *host = be;
	int ret = 0;

	if (!fallocate(host->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		       offset, len))
		return 0;
	while (!ret && len) {
		struct qcow2_iovec v = { offset, zeros, sizeof(zeros) };

		if (len < v.len)
			v.len = len;
		ret = store_rw(be, true, &v, 1);
		offset += v.len;
		len -= v.len;
	}
	return ret;
}

static void store_discard(void *be, uint64_t offset, uint64_t len)
{
	const struct host *host = be;

	/* what has no holes keeps the space */
	if (fallocate(host->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      offset, len))
		log_dbg("%s: no hole: %s", host->path, strerror(errno));
}

static int store_data_read(void *be, uint64_t pos, void *buf, uint32_t len)
{
	struct qcow2_iovec v = { pos, buf, len };

	return store_rw(be, false, &v, 1);
}

static int store_data_write(void *be, uint64_t pos, void *buf, uint32_t len)
{
	struct qcow2_iovec v = { pos, buf, len };

	return store_rw(be, true, &v, 1);
}

static void store_log(void *be, const char *msg)
{
	const struct host *host = be;

	log_err("%s: %s.", host->path, msg);
}

static void store_mode_changed(void *be)
{
}

/**
 * store_ops() - the functions for a host
 * @host: an open host; the first argument of each of them
 *
 * Return: the functions.
 */
const struct qcow2_backend_ops *store_ops(const struct host *host)
{
	static const struct qcow2_backend_ops file = {
		.rw = store_rw, .zero = store_zero, .discard = store_discard,
		.flush = store_flush, .grow = store_grow, .size = store_size,
		.trim = store_trim, .data_read = store_data_read,
		.data_write = store_data_write, .log = store_log,
		.mode_changed = store_mode_changed, .growable = true,
	};
	static const struct qcow2_backend_ops device = {
		.rw = store_rw, .zero = store_zero, .discard = store_discard,
		.flush = store_flush, .grow = store_grow, .size = store_size,
		.trim = store_trim, .data_read = store_data_read,
		.data_write = store_data_write, .log = store_log,
		.mode_changed = store_mode_changed, .growable = false,
	};

	return host->block_device ? &device : &file;
}
