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

/**
 * host_absolute() - a path as it was given, but from the root
 * @path: the path; symbolic links in it keep their names
 *
 * Return: a string to free; NULL, with a message, if the working directory has
 * no name.
 */
char *host_absolute(const char *path)
{
	char *cwd, *abs;

	if (*path == '/')
		return xstrndup(path, strlen(path));
	cwd = getcwd(NULL, 0);
	if (!cwd) {
		log_err("The working directory cannot be named: %s. Give the path of the image from the root.",
			strerror(errno));
		return NULL;
	}
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

static enum result cannot_create(const char *path, int err)
{
	switch (err) {
	case EACCES:
	case EPERM:
		log_err("No permission to write %s.", path);
		return NO_PERMISSION;
	case EBUSY:
		log_err("%s is in use: it is mounted, or part of another device.",
			path);
		return BUSY;
	case EEXIST:
		log_err("%s is a link to nothing, or has just been made by somebody else.",
			path);
		return BUSY;
	default:
		log_err("%s cannot be written: %s.", path, strerror(err));
		return WRONG_DEVICE;
	}
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

/* What is open at host->fd, and where. */
/**
 * host_size() - look again how large it is
 * @host: an open host
 *
 * Return: OK, or what to exit with.
 */
enum result host_size(struct host *host)
{
	struct stat st;

	return fstat(host->fd, &st) < 0 ? cannot_open(host->path, errno) :
		get_sizes(host, &st);
}

static enum result fill_in(struct host *host, const char *path)
{
	struct stat st;
	enum result ret;

	host->path = host_absolute(path);
	if (!host->path)
		return FAILED;
	if (fstat(host->fd, &st) < 0)
		return cannot_open(path, errno);
	/* It may have been replaced in between. */
	ret = check_type(path, st.st_mode);
	return ret ?: get_sizes(host, &st);
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
	ret = fill_in(host, path);
	/* while it is attached the kernel writes past what is cached of it */
	if (!ret && host->block_device)
		posix_fadvise(host->fd, 0, 0, POSIX_FADV_DONTNEED);
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

static int open_existing(const char *path, mode_t mode)
{
	/* the kernel refuses it for a device that somebody else has claimed */
	int claim = S_ISBLK(mode) ? O_EXCL : 0;

	return open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | claim);
}

/**
 * host_create() - open what a new image, or a file of one, will be in
 * @path: as the user gave it, or absolute
 * @force: it may exist
 * @host: filled in on success, open for writing, too
 * @created: whether it did not exist
 *
 * The contents of what exists stay.
 *
 * Return: OK, or what to exit with.
 */
enum result host_create(const char *path, bool force, struct host *host,
			bool *created)
{
	enum result ret;
	struct stat st;

	memset(host, 0, sizeof(*host));
	host->fd = -1;
	*created = stat(path, &st) < 0;
	if (*created && errno != ENOENT)
		return cannot_create(path, errno);
	if (*created) {
		host->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
				0644);
	} else {
		ret = check_type(path, st.st_mode);
		if (ret)
			return ret;
		if (!force) {
			log_err("%s exists already. --force overwrites what is in it.",
				path);
			return BUSY;
		}
		host->fd = open_existing(path, st.st_mode);
	}
	if (host->fd < 0)
		return cannot_create(path, errno);
	ret = fill_in(host, path);
	if (ret) {
		if (*created)
			unlink(path);
		host_close(host);
	}
	return ret;
}

/**
 * host_empty() - a file loses its contents; a device keeps them
 * @host: open for writing
 *
 * Return: OK, or what to exit with.
 */
enum result host_empty(struct host *host)
{
	if (host->block_device || !host->size)
		return OK;
	if (ftruncate(host->fd, 0) < 0)
		return cannot_create(host->path, errno);
	host->size = 0;
	return OK;
}

/**
 * host_undo() - close what did not become an image
 * @host: from host_create(), or closed
 * @created: from there, too: then it is removed, and otherwise emptied
 */
void host_undo(struct host *host, bool created)
{
	if (host->fd < 0)
		return;
	if (created)
		unlink(host->path);
	else
		host_empty(host);
	host_close(host);
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

static bool is_host(const struct host *host, const struct stat *st)
{
	if (host->block_device)
		return S_ISBLK(st->st_mode) && host->dev == st->st_rdev;
	return host->dev == st->st_dev && host->ino == st->st_ino;
}

/**
 * host_open_writable() - open it for writing, too
 * @host: an open host
 *
 * A block device is claimed, so that it cannot be in use otherwise.
 *
 * Return: OK, or what to exit with; @host is still open for reading then.
 */
enum result host_open_writable(struct host *host)
{
	int fd = open(host->path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
		      (host->block_device ? O_EXCL : 0));
	struct stat st;
	int err = errno;

	if (fd < 0 && err == EBUSY)
		return in_use(host);
	if (fd < 0) {
		log_err("%s cannot be written: %s.", host->path, strerror(err));
		return err == EACCES || err == EPERM ? NO_PERMISSION :
			WRONG_DEVICE;
	}
	if (fstat(fd, &st) < 0 || !is_host(host, &st)) {
		log_err("%s was replaced just now. Try again.", host->path);
		close(fd);
		return FAILED;
	}
	close(host->fd);
	host->fd = fd;
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
	return *path == '/' && !stat(path, &st) && is_host(host, &st);
}
