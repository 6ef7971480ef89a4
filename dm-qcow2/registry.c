// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns which images are open: one host per image file or block
 * device, shared by every table that names it (the two tables of a device
 * during a reload; several read-only devices), opened by the first and closed
 * by the last. It says who may share.
 *
 * Opening and closing do I/O and may take long. The host is in the list
 * meanwhile, marked changing, and whoever wants the same image waits; others do
 * not.
 */
#include <linux/blkdev.h>
#include <linux/cred.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/sched/task.h>

#include "dm-qcow2.h"

static DEFINE_MUTEX(registry_lock);
static LIST_HEAD(hosts);
static DECLARE_WAIT_QUEUE_HEAD(host_changed);

/* ---------------------------------------------------------------- */

/*
 * Opens a path as the kernel, not as the caller: the file outlives him, and his
 * keyrings would live as long.
 */
static struct file *open_path(const char *path, bool write)
{
	struct cred *kernel = prepare_kernel_cred(&init_task);
	const struct cred *old;
	struct file *file;

	if (!kernel)
		return ERR_PTR(-ENOMEM);
	old = override_creds(kernel);
	file = filp_open(path, O_LARGEFILE | O_NONBLOCK |
			 (write ? O_RDWR : O_RDONLY), 0);
	revert_creds(old);
	put_cred(kernel);
	return file;
}

/* The type of a path, before anything is opened: a FIFO would have effects. */
static int path_mode(const char *path, umode_t *mode)
{
	struct path p;
	int ret = kern_path(path, LOOKUP_FOLLOW, &p);

	if (ret)
		return ret;
	*mode = d_inode(p.dentry)->i_mode;
	path_put(&p);
	return 0;
}

/* What the table asks for. */
static bool wants_write(const struct dm_qcow2 *c)
{
	return !c->args.read_only;
}

/* What it gets: an image may be read-only by itself. */
static bool is_writer(const struct dm_qcow2_host *h, const struct dm_qcow2 *c)
{
	return wants_write(c) && !h->read_only;
}

static struct mapped_device *device_of(const struct dm_qcow2 *c)
{
	return dm_table_get_md(c->ti->table);
}

/* The image must not be this device, nor a file on it. */
static bool is_self(const struct dm_qcow2 *c, struct block_device *bdev)
{
	return bdev && bdev->bd_disk == dm_disk(device_of(c));
}

static int open_file(struct dm_qcow2_host *h, struct dm_qcow2 *c,
		     struct file *file, char **error)
{
	struct inode *inode = file_inode(file);

	if (!S_ISREG(inode->i_mode)) {
		*error = "The image is neither a regular file nor a block device";
		return -EINVAL;
	}
	if (is_self(c, inode->i_sb->s_bdev)) {
		*error = "The image lies on the device that it is to become";
		return -ELOOP;
	}
	dm_qcow2_file_probe(h);
	h->size0 = i_size_read(inode);
	if (!h->size0) {
		*error = "The image file is empty";
		return -EINVAL;
	}
	return 0;
}

static int open_bdev(struct dm_qcow2_host *h, char **error)
{
	h->align = bdev_logical_block_size(h->bdev);
	if (bdev_is_zoned(h->bdev) || h->align > PAGE_SIZE) {
		*error = "A zoned device, or one with blocks above a page, cannot hold an image";
		return -EINVAL;
	}
	return 0;
}

static int take_lock(struct dm_qcow2_host *h, char **error)
{
	int ret;

	if (!h->file)
		return 0;
	ret = dm_qcow2_lock(h->file, !h->read_only);
	if (ret == -EBUSY) {
		*error = "The image is in use by another program (QEMU image lock)";
		return ret;
	}
	if (ret) {
		DMWARN("%s: the filesystem cannot lock (error %d): nothing keeps QEMU out",
		       h->name, ret);
		return 0;
	}
	h->locked = true;
	return 0;
}

static int close_image(struct dm_qcow2_host *h)
{
	int ret = qcow2_image_close(h->img);

	h->img = NULL;
	return ret;
}

/* Writes everything back and closes the image; this may take long. */
static void write_back(struct dm_qcow2_host *h)
{
	/* without threads nothing has been written yet */
	int ret = h->committer ? dm_qcow2_call(h, close_image) : close_image(h);

	if (ret)
		DMERR("%s: not everything could be written back: error %d",
		      h->name, ret);
}

/* What is left of a host when its image is closed, or was never open. */
static void close_host(struct dm_qcow2_host *h)
{
	if (h->img)
		write_back(h);
	dm_qcow2_stop_threads(h);
	if (h->locked)
		dm_qcow2_unlock(h->file);
	if (h->file)
		filp_close(h->file, NULL);
	bioset_exit(&h->bs);
	free_percpu(h->counts);
	kfree(h->rmw_page);
	kfree(h->name);
	kfree(h);
}

static char *why_not_opened(int error)
{
	switch (error) {
	case -EINVAL:
		return "The image is not a qcow2 image";
	case -EOPNOTSUPP:
		return "The image has a feature that is not supported (see the kernel log)";
	case -EUCLEAN:
		return "The image is damaged (see the kernel log)";
	default:
		return "The image cannot be opened (see the kernel log)";
	}
}

static int open_image(struct dm_qcow2_host *h, u64 cache_bytes, char **error)
{
	struct qcow2_config cfg = {
		.read_only = h->read_only,
		.cache_bytes = cache_bytes,
	};
	struct qcow2_error err = { "" };
	int ret;

	ret = qcow2_image_open(h->bdev ? &dm_qcow2_bdev_ops :
			       &dm_qcow2_file_ops, h, &cfg, &h->img, &err);
	if (ret) {
		DMERR("%s: %s", h->name, err.msg);
		*error = why_not_opened(ret);
		return ret;
	}
	if (h->img->read_only && !h->read_only) {
		DMWARN("%s: the image %s: attached read-only", h->name,
		       h->img->why);
		h->read_only = true;
		if (h->locked)
			dm_qcow2_lock_downgrade(h->file);
	}
	return 0;
}

/* @file is the host's from here on, unless this fails. */
static struct dm_qcow2_host *new_host(struct dm_qcow2 *c, struct file *file)
{
	struct dm_qcow2_host *h = kzalloc(sizeof(*h), GFP_KERNEL);

	if (!h)
		return NULL;
	mutex_init(&h->rmw_lock);
	mutex_init(&h->users_lock);
	spin_lock_init(&h->jobs_lock);
	INIT_LIST_HEAD(&h->jobs);
	INIT_LIST_HEAD(&h->flushes);
	INIT_LIST_HEAD(&h->calls);
	INIT_LIST_HEAD(&h->tables);
	init_waitqueue_head(&h->idle);
	init_waitqueue_head(&h->commit_wait);
	h->changing = true;
	h->file = file;
	if (c->dev)
		h->bdev = c->dev->bdev;
	else
		h->inode = file_inode(file);
	h->read_only = c->args.read_only;
	h->name = kstrdup(c->args.path, GFP_KERNEL);
	h->rmw_page = kmalloc(PAGE_SIZE, GFP_KERNEL);
	h->counts = alloc_percpu(struct dm_qcow2_counts);
	if (!h->name || !h->rmw_page || !h->counts ||
	    bioset_init(&h->bs, BIO_POOL_SIZE, 0, BIOSET_NEED_BVECS)) {
		free_percpu(h->counts);
		kfree(h->rmw_page);
		kfree(h->name);
		kfree(h);
		return NULL;
	}
	return h;
}

static int open_host(struct dm_qcow2_host *h, struct dm_qcow2 *c, char **error)
{
	int ret;

	if (h->bdev)
		ret = open_bdev(h, error);
	else
		ret = open_file(h, c, h->file, error);
	if (!ret)
		ret = take_lock(h, error);
	if (!ret)
		ret = open_image(h, c->args.cache_bytes, error);
	if (!ret) {
		ret = dm_qcow2_start_threads(h);
		if (ret)
			*error = "Cannot start threads";
	}
	return ret;
}

/* ---------------------------------------------------------------- */

/* R held. */
static struct dm_qcow2_host *find_host(const struct dm_qcow2 *c,
				       const struct file *file)
{
	struct dm_qcow2_host *h;

	list_for_each_entry(h, &hosts, link) {
		if (c->dev ? h->bdev == c->dev->bdev :
		    h->inode == file_inode(file))
			return h;
	}
	return NULL;
}

/* Another device has a table with this image. R held. */
static bool others_use(struct dm_qcow2_host *h, const struct dm_qcow2 *c)
{
	struct dm_qcow2 *user;
	bool found = false;

	mutex_lock(&h->users_lock);
	list_for_each_entry(user, &h->tables, link)
		found |= device_of(user) != device_of(c);
	mutex_unlock(&h->users_lock);
	return found;
}

/* Who may share an open image. R held. */
static int may_share(struct dm_qcow2_host *h, const struct dm_qcow2 *c,
		     char **error)
{
	if (h->writers && h->owner != device_of(c)) {
		*error = "The image is attached for writing by another device";
		return -EBUSY;
	}
	if (!wants_write(c))
		return 0;
	if (h->read_only && !*h->img->why) {
		*error = "The image is attached read-only; detach it first";
		return -EBUSY;
	}
	if (!h->read_only && others_use(h, c)) {
		*error = "The image is attached by another device";
		return -EBUSY;
	}
	return 0;
}

/* R held. */
static void add_user(struct dm_qcow2_host *h, struct dm_qcow2 *c)
{
	h->users++;
	if (is_writer(h, c)) {
		h->writers++;
		h->owner = device_of(c);
	}
	c->host = h;
	mutex_lock(&h->users_lock);
	list_add(&c->link, &h->tables);
	mutex_unlock(&h->users_lock);
}

/* The host is what it is to be, or gone. R held. */
static void settle(struct dm_qcow2_host *h, bool gone)
{
	h->changing = false;
	if (gone)
		list_del(&h->link);
	wake_up_all(&host_changed);
}

/* Finds the image open, waiting while somebody opens or closes it. R held. */
static struct dm_qcow2_host *find_settled(const struct dm_qcow2 *c,
					  const struct file *file)
{
	struct dm_qcow2_host *h;

	while ((h = find_host(c, file)) && h->changing) {
		DEFINE_WAIT(wait);

		prepare_to_wait(&host_changed, &wait, TASK_UNINTERRUPTIBLE);
		mutex_unlock(&registry_lock);
		schedule();
		finish_wait(&host_changed, &wait);
		mutex_lock(&registry_lock);
	}
	return h;
}

/* Opens the image for its first user. R held, and given up in between. */
static struct dm_qcow2_host *first_user(struct dm_qcow2 *c, struct file *file,
					char **error)
{
	struct dm_qcow2_host *h = new_host(c, file);
	int ret;

	if (!h) {
		*error = "Out of memory";
		if (file)
			filp_close(file, NULL);
		return ERR_PTR(-ENOMEM);
	}
	list_add(&h->link, &hosts);
	mutex_unlock(&registry_lock);
	ret = open_host(h, c, error);
	mutex_lock(&registry_lock);
	settle(h, ret);
	if (!ret)
		return h;
	close_host(h);
	return ERR_PTR(ret);
}

static char *why_not_claimed(int error, const char *path)
{
	if (error == -EBUSY)
		return "The device is in use";
	/* lookup_bdev()'s errors, and the one that older kernels make of them */
	if (*path != '/' &&
	    (error == -ENOENT || error == -ENOTBLK || error == -ENODEV))
		return "The image must be an absolute path, or a block device as major:minor";
	return "The device cannot be opened";
}

/* A block device: dm's claim for this table, and the node for the locks. */
static int claim_device(struct dm_qcow2 *c, struct file *file, char **error)
{
	blk_mode_t mode = BLK_OPEN_READ | (wants_write(c) ? BLK_OPEN_WRITE : 0);
	int ret = dm_get_device(c->ti, c->args.path, mode, &c->dev);

	if (ret) {
		*error = why_not_claimed(ret, c->args.path);
		return ret;
	}
	if (is_self(c, c->dev->bdev)) {
		*error = "A device cannot be its own image";
		return -ELOOP;
	}
	if (file && file_bdev(file) != c->dev->bdev) {
		*error = "The path of the device has changed meanwhile";
		return -EAGAIN;
	}
	return 0;
}

static struct file *open_by_path(struct dm_qcow2 *c, char **error)
{
	struct file *file;
	umode_t mode;
	int ret;

	if (*c->args.path != '/') /* a device that dm knows by another name */
		return NULL;
	ret = path_mode(c->args.path, &mode);
	if (ret) {
		*error = ret == -ENOENT ? "There is no such image" :
			"The image's path cannot be looked up";
		return ERR_PTR(ret);
	}
	if (!S_ISREG(mode) && !S_ISBLK(mode)) {
		*error = "The image is neither a regular file nor a block device";
		return ERR_PTR(S_ISDIR(mode) ? -EISDIR : -EINVAL);
	}
	file = open_path(c->args.path, wants_write(c));
	if (IS_ERR(file))
		*error = PTR_ERR(file) == -EROFS || PTR_ERR(file) == -EACCES ?
			"The image cannot be opened for writing; use read_only" :
			"The image cannot be opened";
	return file;
}

/**
 * dm_qcow2_host_get() - the host that a table line names
 * @c: the table, its arguments parsed; gets host and dev
 * @error: for the user
 *
 * Context: may sleep; a constructor.
 * Return: the host, or an ERR_PTR with nothing held.
 */
struct dm_qcow2_host *dm_qcow2_host_get(struct dm_qcow2 *c, char **error)
{
	struct file *file = open_by_path(c, error);
	struct dm_qcow2_host *h;
	int ret = 0;

	if (IS_ERR(file))
		return ERR_CAST(file);
	if (!file || S_ISBLK(file_inode(file)->i_mode))
		ret = claim_device(c, file, error);
	if (ret) {
		if (file)
			filp_close(file, NULL);
		goto out;
	}

	mutex_lock(&registry_lock);
	h = find_settled(c, file);
	if (h) {
		if (file)
			filp_close(file, NULL);
		ret = may_share(h, c, error);
	} else {
		h = first_user(c, file, error);
		ret = PTR_ERR_OR_ZERO(h);
	}
	if (!ret)
		add_user(h, c);
	mutex_unlock(&registry_lock);
out:
	if (ret) {
		if (c->dev)
			dm_put_device(c->ti, c->dev);
		c->dev = NULL;
		return ERR_PTR(ret);
	}
	return h;
}

/**
 * dm_qcow2_host_put() - a table goes
 * @c: the table
 *
 * The last one writes everything back and closes the image.
 *
 * Context: may sleep; a destructor.
 */
void dm_qcow2_host_put(struct dm_qcow2 *c)
{
	struct dm_qcow2_host *h = c->host;
	bool last;

	mutex_lock(&registry_lock);
	mutex_lock(&h->users_lock);
	list_del(&c->link);
	mutex_unlock(&h->users_lock);
	if (is_writer(h, c))
		h->writers--;
	last = !--h->users;
	h->changing = last;
	mutex_unlock(&registry_lock);
	if (last) {
		write_back(h);
		mutex_lock(&registry_lock);
		/* free before others may look, so that locks do not meet */
		settle(h, true);
		close_host(h);
		mutex_unlock(&registry_lock);
	}
	if (c->dev)
		dm_put_device(c->ti, c->dev);
}
