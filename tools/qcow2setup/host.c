// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the file or block device that holds an image: opening it
 * without hanging on a FIFO or waking a tape, and what stat() says of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "qcow2setup.h"

/* The path as it was given, from the root: symbolic links keep their names. */
static char *absolute(const char *path)
{
	char *cwd, *abs;

	if (*path == '/')
		return xstrndup(path, strlen(path));
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return NULL;
	while (path[0] == '.' && path[1] == '/')
		path += 2 + strspn(path + 2, "/");
	abs = xasprintf("%s/%s", strcmp(cwd, "/") ? cwd : "", path);
	free(cwd);
	return abs;
}

static enum result cannot_open(const char *path, int err)
{
	if (err == EACCES || err == EPERM) {
		log_err("No permission to read %s.", path);
		return NO_PERMISSION;
	}
	if (err == ENOENT || err == ENOTDIR)
		log_err("%s does not exist.", path);
	else
		log_err("%s cannot be opened: %s.", path, strerror(err));
	return WRONG_DEVICE;
}

static enum result check_type(const char *path, mode_t mode)
{
	const char *what;

	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
		return OK;
	case S_IFDIR:
		what = "a directory";
		break;
	case S_IFIFO:
		what = "a FIFO";
		break;
	case S_IFSOCK:
		what = "a socket";
		break;
	default:
		what = "a character device";
	}
	log_err("%s is %s; an image is in a regular file or on a block device.",
		path, what);
	return WRONG_DEVICE;
}

static enum result get_sizes(struct host *host, const struct stat *st)
{
	host->dev = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;
	host->ino = S_ISBLK(st->st_mode) ? 0 : st->st_ino;
	host->block_device = S_ISBLK(st->st_mode);
	host->size = st->st_size;
	host->allocated = (uint64_t)st->st_blocks * 512;
	if (host->block_device) {
		host->allocated = 0;
		if (ioctl(host->fd, BLKGETSIZE64, &host->size) < 0) {
			log_err("The size of %s cannot be read: %s.",
				host->path, strerror(errno));
			return WRONG_DEVICE;
		}
	}
	return OK;
}

/**
 * host_open() - open what holds an image, or is a file of one, for reading
 * @path: as the user gave it, or absolute
 * @host: filled in on success
 *
 * Return: OK, or what to exit with.
 */
enum result host_open(const char *path, struct host *host)
{
	enum result ret;
	struct stat st;

	memset(host, 0, sizeof(*host));
	host->fd = -1;
	/* Asked before opening: opening a device may already do something. */
	if (stat(path, &st) < 0)
		return cannot_open(path, errno);
	ret = check_type(path, st.st_mode);
	if (ret)
		return ret;
	host->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (host->fd < 0)
		return cannot_open(path, errno);
	host->path = absolute(path);
	if (!host->path) {
		log_err("The working directory cannot be named: %s. Give the path of the image from the root.",
			strerror(errno));
		ret = FAILED;
	} else if (fstat(host->fd, &st) < 0) {
		ret = cannot_open(path, errno);
	} else {
		/* It may have been replaced in between. */
		ret = check_type(path, st.st_mode);
	}
	if (!ret)
		ret = get_sizes(host, &st);
	if (ret)
		host_close(host);
	return ret;
}

/**
 * host_close() - the counterpart of host_open()
 * @host: may be closed already
 */
void host_close(struct host *host)
{
	if (host->fd >= 0)
		close(host->fd);
	host->fd = -1;
	free(host->path);
	host->path = NULL;
}

/**
 * host_writable() - can the kernel be expected to write to it?
 * @host: an open host
 *
 * Return: OK, or what to exit with.
 */
enum result host_writable(const struct host *host)
{
	int read_only = 0;

	if (access(host->path, W_OK) < 0) {
		if (errno == EROFS) {
			log_err("%s is on a read-only filesystem; attach the image with --readonly.",
				host->path);
			return WRONG_DEVICE;
		}
		log_err("%s cannot be written: %s. --readonly attaches the image read-only.",
			host->path, strerror(errno));
		return errno == EACCES || errno == EPERM ? NO_PERMISSION :
			WRONG_DEVICE;
	}
	if (host->block_device && !ioctl(host->fd, BLKROGET, &read_only) &&
	    read_only) {
		log_err("%s is a read-only block device; attach the image with --readonly.",
			host->path);
		return WRONG_DEVICE;
	}
	return OK;
}

/**
 * host_same() - do both mean the same file or device?
 * @host: an open host
 * @path: a path, or a block device as major:minor
 *
 * Return: whether they do; false in doubt.
 */
bool host_same(const struct host *host, const char *path)
{
	unsigned int major_nr, minor_nr;
	struct stat st;

	if (sscanf(path, "%u:%u", &major_nr, &minor_nr) == 2)
		return host->block_device &&
			host->dev == makedev(major_nr, minor_nr);
	if (*path != '/' || stat(path, &st) < 0)
		return false;
	if (host->block_device)
		return S_ISBLK(st.st_mode) && host->dev == st.st_rdev;
	return host->dev == st.st_dev && host->ino == st.st_ino;
}
