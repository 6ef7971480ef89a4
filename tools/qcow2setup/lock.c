// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the question who else uses an image. QEMU, and the kernel's
 * target likewise, hold open file description locks on single bytes:
 *
 *	100 + n		permission n is held
 *	200 + n		permission n is not granted to others
 *
 * for n = 0 consistent read, 1 write, 3 resize. The locks are shared ones, so
 * they are found by asking whether an exclusive one could be had. Those of an
 * image that is to be attached are only probed here, for a message that helps;
 * the kernel takes them. Whoever changes an image here takes them, too.
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

/**
 * lock_take() - take the locks, until the host is closed
 * @host: what holds the image
 * @write: as a writer, alone, or as a reader among readers
 *
 * Return: OK, or what to exit with.
 */
enum result lock_take(struct host *host, bool write)
{
	static const off_t bytes[] = {
		HELD(PERM_READ), NOT_SHARED(PERM_WRITE), NOT_SHARED(PERM_RESIZE),
		HELD(PERM_WRITE), HELD(PERM_RESIZE),
	};
	size_t i, n = write ? 5 : 3;

	for (i = 0; i < n; i++) {
		struct flock fl = {
			.l_type = F_RDLCK,
			.l_whence = SEEK_SET,
			.l_start = bytes[i],
			.l_len = 1,
		};

		if (!fcntl(host->fd, F_OFD_SETLK, &fl))
			continue;
		if (errno == EAGAIN || errno == EACCES)
			return in_use(host);
		log_err("%s cannot be locked: %s. Copy the image to a filesystem that has locks.",
			host->path, strerror(errno));
		return FAILED;
	}
	/* ours are there; whoever comes later sees them: look for others' */
	if (lock_conflicts(host, !write))
		return in_use(host);
	/* a writer that was still there when it was opened may have changed that */
	return host_size(host);
}
