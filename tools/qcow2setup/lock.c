// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the question who else uses an image. QEMU, and the kernel's
 * target likewise, hold open file description locks on single bytes:
 *
 *	100 + n		permission n is held
 *	200 + n		permission n is not granted to others
 *
 * for n = 0 consistent read, 1 write, 3 resize. The locks are shared ones, so
 * they are found by asking whether an exclusive one could be had. They are only
 * probed here, for a message that helps; the kernel takes them.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "qcow2setup.h"

#define HELD(n) (100 + (n))
#define NOT_SHARED(n) (200 + (n))

enum {
	PERM_READ = 0,
	PERM_WRITE = 1,
	PERM_RESIZE = 3,
};

/* Returns 1 for a locked byte, 0 for a free one, -1 where there are no locks. */
static int probe(const struct host *host, off_t byte)
{
	struct flock fl = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	if (fcntl(host->fd, F_OFD_GETLK, &fl) < 0) {
		log_dbg("%s: locks cannot be probed: %s", host->path,
			strerror(errno));
		return -1;
	}
	if (fl.l_type != F_UNLCK)
		log_dbg("%s: byte %lld is locked", host->path, (long long)byte);
	return fl.l_type != F_UNLCK;
}

/**
 * lock_probe() - how is an image used by others?
 * @host: what holds it
 *
 * Return: LOCK_UNKNOWN where the filesystem has no locks.
 */
enum lock lock_probe(const struct host *host)
{
	int writer = probe(host, HELD(PERM_WRITE));

	if (writer < 0)
		return LOCK_UNKNOWN;
	if (writer || probe(host, HELD(PERM_RESIZE)) > 0)
		return LOCK_WRITER;
	return probe(host, HELD(PERM_READ)) > 0 ? LOCK_READER : LOCK_NONE;
}

/**
 * lock_conflicts() - would the kernel get the locks that it needs?
 * @host: what holds the image
 * @read_only: for an attachment that only reads
 *
 * A reader, too, refuses to share writing and resizing.
 *
 * Return: whether it would not.
 */
bool lock_conflicts(const struct host *host, bool read_only)
{
	static const off_t bytes[] = {
		NOT_SHARED(PERM_READ), HELD(PERM_WRITE), HELD(PERM_RESIZE),
		NOT_SHARED(PERM_WRITE), NOT_SHARED(PERM_RESIZE),
	};
	size_t i, n = read_only ? 3 : 5;

	for (i = 0; i < n; i++)
		if (probe(host, bytes[i]) > 0)
			return true;
	return false;
}
