// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns which files and devices are open: one host for each, shared by
 * every table that maps to it (the two tables of a device during a reload;
 * several read-only devices), by every image that has it as its layer below,
 * and opened by the first and closed by the last. It says who may share.
 *
 * A chain is opened from the bottom to the top: each image holds the layer below
 * it and its data file, and whoever wants an image that is open must want the
 * same ones.
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

/**
 * struct wanted - one file or device that a table needs
 * @c: the table
 * @path: an absolute path, or what dm_get_device() takes
 * @top: the image of the table, not a layer below or a data file
 * @own: that, or its data file
 * @raw: it is not an image
 * @write: it is to be written
 * @cipher: how it is encrypted, or NULL: see struct dm_qcow2_layer_args
 * @key: the reference to the key
 * @below: the layer below, or NULL; held
 * @data: the external data file, or NULL; held
 * @dev: dm's claim on a block device, or NULL
 * @writes: what it got: it is counted among the writers of the host, which may
 *	be read-only by itself
 */
struct wanted {
	struct dm_qcow2 *c;
	const char *path;
	bool top;
	bool own;
	bool raw;
	bool write;
	const char *cipher;
	const char *key;
	struct dm_qcow2_host *below;
	struct dm_qcow2_host *data;
	struct dm_dev *dev;
	bool writes;
};

static struct mapped_device *device_of(const struct dm_qcow2 *c)
{
	return dm_table_get_md(c->ti->table);
}

/* The image must not be this device, nor a file on it. */
static bool is_self(const struct dm_qcow2 *c, struct block_device *bdev)
{
	return bdev && bdev->bd_disk == dm_disk(device_of(c));
}

static int open_file(struct dm_qcow2_host *h, const struct wanted *w,
		     char **error)
{
	struct inode *inode = file_inode(h->file);

	if (!S_ISREG(inode->i_mode)) {
		*error = "The image is neither a regular file nor a block device";
		return -EINVAL;
	}
	if (is_self(w->c, inode->i_sb->s_bdev)) {
		*error = "The image lies on the device that it is to become";
		return -ELOOP;
	}
	dm_qcow2_file_probe(h);
	h->size0 = i_size_read(inode);
	h->end = h->size0;
	if (!h->size0 && !w->raw) {
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
	h->end = bdev_nr_bytes(h->bdev);
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

static int close_image(struct dm_qcow2_host *h, void *arg)
{
	int ret = qcow2_image_close(h->img);

	/* the committer must not look at it again */
	WRITE_ONCE(h->tidy, false);
	h->img = NULL;
	return ret;
}

/* Writes everything back and closes the image; this may take long. */
static void write_back(struct dm_qcow2_host *h)
{
	int ret;

	dm_qcow2_stop_scanner(h); /* it reads the image */
	/* without threads nothing has been written yet */
	ret = h->committer ? dm_qcow2_call(h, close_image, NULL) :
		close_image(h, NULL);

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
	dm_qcow2_free_crypt(h->crypt);
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
		return "No qcow2 image, or of other files than the table's (see the kernel log)";
	case -EOPNOTSUPP:
		return "The image has a feature that is not supported (see the kernel log)";
	case -ENOKEY:
		return "The image is encrypted, and the table gives no key (see the kernel log)";
	case -EUCLEAN:
		return "The image is damaged (see the kernel log)";
	default:
		return "The image cannot be opened (see the kernel log)";
	}
}

static const struct qcow2_backend_ops *ops_of(const struct dm_qcow2_host *h)
{
	return h->bdev ? &dm_qcow2_bdev_ops : &dm_qcow2_file_ops;
}

static int open_image(struct dm_qcow2_host *h, const struct wanted *w,
		      char **error)
{
	struct qcow2_store data = { NULL, NULL };
	struct qcow2_config cfg = {
		.read_only = h->read_only,
		.keep_space = w->c->args.no_discard_passdown,
		.cache_bytes = w->c->args.cache_bytes,
		.backing = w->below ? &w->below->layer : NULL,
		.data = w->data ? &data : NULL,
	};
	struct qcow2_error err = { "" };
	int ret;

	if (w->cipher) {
		h->crypt = dm_qcow2_new_crypt(h->name, w->cipher, w->key, error);
		if (IS_ERR(h->crypt)) {
			ret = PTR_ERR(h->crypt);
			h->crypt = NULL;
			return ret;
		}
		cfg.cipher = dm_qcow2_cipher_of(h->crypt);
	}
	if (w->data)
		data = (struct qcow2_store){ ops_of(w->data), w->data };
	ret = qcow2_image_open(ops_of(h), h, &cfg, &h->img, &err);
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

/* What an image above this one reads. */
static void set_layer(struct dm_qcow2_host *h)
{
	h->layer.store = (struct qcow2_store){ ops_of(h), h };
	h->layer.img = h->img;
	h->layer.size = h->img ? round_down(h->img->hdr.size, SECTOR_SIZE) :
		round_up(h->end, SECTOR_SIZE);
}

/* @file is the host's from here on, unless this fails. */
static struct dm_qcow2_host *new_host(const struct wanted *w, struct file *file)
{
	struct dm_qcow2_host *h = kzalloc(sizeof(*h), GFP_KERNEL);

	if (!h)
		return NULL;
	ratelimit_state_init(&h->log_limit, DEFAULT_RATELIMIT_INTERVAL,
			     DEFAULT_RATELIMIT_BURST);
	mutex_init(&h->rmw_lock);
	mutex_init(&h->resize_lock);
	mutex_init(&h->ahead_lock);
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
	if (w->dev)
		h->bdev = w->dev->bdev;
	else
		h->inode = file_inode(file);
	h->read_only = !w->write;
	h->readahead = !w->c->args.no_readahead;
	h->name = kstrdup(w->path, GFP_KERNEL);
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

static int open_host(struct dm_qcow2_host *h, const struct wanted *w,
		     char **error)
{
	int ret;

	if (h->bdev)
		ret = open_bdev(h, error);
	else
		ret = open_file(h, w, error);
	if (!ret)
		ret = take_lock(h, error);
	if (!ret && !w->raw)
		ret = open_image(h, w, error);
	if (!ret)
		set_layer(h);
	return ret;
}

/* ---------------------------------------------------------------- */

/* R held. */
static struct dm_qcow2_host *find_host(const struct wanted *w,
				       const struct file *file)
{
	struct dm_qcow2_host *h;

	list_for_each_entry(h, &hosts, link) {
		if (w->dev ? h->bdev == w->dev->bdev :
		    h->inode == file_inode(file))
			return h;
	}
	return NULL;
}

/* Another device, or an image above, has this host. R held. */
static bool others_use(struct dm_qcow2_host *h, const struct wanted *w)
{
	struct dm_qcow2 *user;
	unsigned int ours = 0;

	mutex_lock(&h->users_lock);
	list_for_each_entry(user, &h->tables, link)
		ours += device_of(user) == device_of(w->c);
	mutex_unlock(&h->users_lock);
	return ours != h->users;
}

static bool is_below(const struct dm_qcow2_host *h, const struct wanted *w)
{
	const struct dm_qcow2_host *below;

	for (below = w->below; below; below = below->below)
		if (below == h || below->data == h)
			return true;
	return w->data == h;
}

/*
 * Who may share an open host. Files that only the image above writes are
 * looked after by it: whoever wants a data file gets it with its image. R held.
 */
static int may_share(struct dm_qcow2_host *h, const struct wanted *w,
		     char **error)
{
	if (is_below(h, w)) {
		*error = "The image is its own layer below, or its own data file";
		return -ELOOP;
	}
	if (w->raw != !h->img) {
		*error = "A file is in use as qcow2 and is to be raw, or the other way round";
		return -EBUSY;
	}
	if (h->below != w->below || h->data != w->data) {
		*error = "The image is in use with another layer below or another data file";
		return -EBUSY;
	}
	if (!w->top && !dm_qcow2_has_key(h->crypt)) {
		*error = "The key of a layer has been wiped";
		return -ENOKEY;
	}
	if (!dm_qcow2_same_crypt(h->crypt, w->cipher, w->key)) {
		*error = "The image is in use with another cipher or key, or without";
		return -EBUSY;
	}
	if (h->writers && h->owner != device_of(w->c)) {
		*error = "The image is attached for writing by another device";
		return -EBUSY;
	}
	if (h->writers && !w->own && !w->write) {
		*error = "A file that is written cannot be a layer below";
		return -EBUSY;
	}
	if (!w->write)
		return 0;
	if (h->read_only && !(h->img && *h->img->why)) {
		*error = "The image is attached read-only; detach it first";
		return -EBUSY;
	}
	if (w->top && !h->read_only && others_use(h, w)) {
		*error = "The image is attached by another device";
		return -EBUSY;
	}
	return 0;
}

/* The host is what it is to be, or gone. R held. */
static void settle(struct dm_qcow2_host *h, bool gone)
{
	h->changing = false;
	if (gone)
		list_del(&h->link);
	wake_up_all(&host_changed);
}

/* Finds the host open, waiting while somebody opens or closes it. R held. */
static struct dm_qcow2_host *find_settled(const struct wanted *w,
					  const struct file *file)
{
	struct dm_qcow2_host *h;

	while ((h = find_host(w, file)) && h->changing) {
		DEFINE_WAIT(wait);

		prepare_to_wait(&host_changed, &wait, TASK_UNINTERRUPTIBLE);
		mutex_unlock(&registry_lock);
		schedule();
		finish_wait(&host_changed, &wait);
		mutex_lock(&registry_lock);
	}
	return h;
}

/* Opens a host for its first user. R held, and given up in between. */
static struct dm_qcow2_host *first_user(const struct wanted *w,
					struct file *file, char **error)
{
	struct dm_qcow2_host *h = new_host(w, file);
	int ret;

	if (!h) {
		*error = "Out of memory";
		if (file)
			filp_close(file, NULL);
		return ERR_PTR(-ENOMEM);
	}
	list_add(&h->link, &hosts);
	mutex_unlock(&registry_lock);
	ret = open_host(h, w, error);
	mutex_lock(&registry_lock);
	settle(h, ret);
	if (ret) {
		close_host(h);
		return ERR_PTR(ret);
	}
	/* they are its own now; it gives them back when it is closed */
	h->below = w->below;
	h->data = w->data;
	return h;
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
static int claim_device(struct wanted *w, struct file *file, char **error)
{
	blk_mode_t mode = BLK_OPEN_READ | (w->write ? BLK_OPEN_WRITE : 0);
	struct dm_qcow2 *c = w->c;
	int ret;

	ret = dm_get_device(c->ti, w->path, mode, &w->dev);
	if (ret) {
		w->dev = NULL;
		*error = why_not_claimed(ret, w->path);
		return ret;
	}
	c->devs[c->nr_devs++] = w->dev;
	if (is_self(c, w->dev->bdev)) {
		*error = "A device cannot be its own image";
		return -ELOOP;
	}
	if (file && file_bdev(file) != w->dev->bdev) {
		*error = "The path of the device has changed meanwhile";
		return -EAGAIN;
	}
	return 0;
}

static struct file *open_by_path(const struct wanted *w, char **error)
{
	struct file *file;
	umode_t mode;
	int ret;

	if (*w->path != '/') /* a device that dm knows by another name */
		return NULL;
	ret = path_mode(w->path, &mode);
	if (ret) {
		if (w->top)
			*error = ret == -ENOENT ? "There is no such image" :
				"The image's path cannot be looked up";
		else
			*error = ret == -ENOENT ? "There is no such layer or data file" :
				"The path of a layer or data file cannot be looked up";
		return ERR_PTR(ret);
	}
	if (!S_ISREG(mode) && !S_ISBLK(mode)) {
		*error = "The image is neither a regular file nor a block device";
		return ERR_PTR(S_ISDIR(mode) ? -EISDIR : -EINVAL);
	}
	file = open_path(w->path, w->write);
	if (IS_ERR(file))
		*error = PTR_ERR(file) == -EROFS || PTR_ERR(file) == -EACCES ?
			"The image cannot be opened for writing; use read_only" :
			"The image cannot be opened";
	return file;
}

/* ---------------------------------------------------------------- */

/*
 * Gives a host up, and what it held with it. The last user writes everything
 * back and closes it.
 */
static void put_host(struct dm_qcow2_host *h)
{
	struct dm_qcow2_host *below;
	bool last;

	for (; h; h = below) {
		below = NULL;
		mutex_lock(&registry_lock);
		last = !--h->users;
		h->changing = last;
		mutex_unlock(&registry_lock);
		if (!last)
			break;
		below = h->below;
		if (h->img)
			write_back(h);
		if (h->data)
			put_host(h->data); /* which has none of its own */
		mutex_lock(&registry_lock);
		/* free before others may look, so that locks do not meet */
		settle(h, true);
		close_host(h);
		mutex_unlock(&registry_lock);
	}
}

static void end_writing(struct dm_qcow2_host *h)
{
	mutex_lock(&registry_lock);
	h->writers--;
	mutex_unlock(&registry_lock);
}

/* The host of a file or device, with one more user. */
static struct dm_qcow2_host *get_host(struct wanted *w, char **error)
{
	struct file *file = open_by_path(w, error);
	struct dm_qcow2_host *h;
	bool shared;
	int ret = 0;

	if (IS_ERR(file))
		return ERR_CAST(file);
	if (!file || S_ISBLK(file_inode(file)->i_mode))
		ret = claim_device(w, file, error);
	if (ret) {
		if (file)
			filp_close(file, NULL);
		return ERR_PTR(ret);
	}

	mutex_lock(&registry_lock);
	h = find_settled(w, file);
	shared = h;
	if (h) {
		if (file)
			filp_close(file, NULL);
		ret = may_share(h, w, error);
	} else {
		h = first_user(w, file, error);
		ret = PTR_ERR_OR_ZERO(h);
	}
	if (!ret) {
		h->users++;
		w->writes = w->write && !h->read_only;
	}
	if (w->writes) {
		h->writers++;
		h->owner = device_of(w->c);
	}
	mutex_unlock(&registry_lock);
	if (ret)
		return ERR_PTR(ret);
	if (shared) { /* it holds its own */
		put_host(w->below);
		put_host(w->data);
	}
	return h;
}

/* One layer of the table, whose layers below are @below; takes that over. */
static struct dm_qcow2_host *get_layer(struct dm_qcow2 *c, unsigned int i,
				       struct dm_qcow2_host *below, char **error)
{
	const struct dm_qcow2_layer_args *l = &c->args.layers[i];
	bool write = !i && wants_write(c);
	struct wanted w = {
		.c = c, .path = l->path, .top = !i, .own = !i, .raw = l->raw,
		.write = write, .cipher = l->cipher, .key = l->key, .below = below,
	};
	struct wanted data = {
		.c = c, .path = l->data_path, .own = !i, .raw = true,
		.write = write,
	};
	struct dm_qcow2_host *h, *d = NULL;

	if (l->data_path) {
		d = get_host(&data, error);
		if (IS_ERR(d)) {
			put_host(below);
			return d;
		}
		w.data = d;
	}
	h = get_host(&w, error);
	/* an image that is read-only by itself does not write its data file */
	if (data.writes && !w.writes)
		end_writing(d);
	if (IS_ERR(h)) {
		put_host(d);
		put_host(below);
	} else if (!i) {
		c->writer = w.writes;
	}
	return h;
}

/*
 * The table wants the layers below its image to be read through the page cache,
 * or does no more. They are files that nobody writes; one that is on a device is
 * not concerned. R held.
 */
static void buffer_layers(struct dm_qcow2_host *h, int change)
{
	while ((h = h->below)) {
		WRITE_ONCE(h->bufferers, h->bufferers + change);
		if (h->data)
			WRITE_ONCE(h->data->bufferers,
				   h->data->bufferers + change);
	}
}

/* The table maps to the image from here on. */
static int add_table(struct dm_qcow2_host *h, struct dm_qcow2 *c)
{
	int ret = 0;

	mutex_lock(&registry_lock);
	if (!h->committer)
		ret = dm_qcow2_start_threads(h);
	if (c->args.buffered_backing)
		buffer_layers(h, 1);
	mutex_unlock(&registry_lock);
	c->host = h;
	mutex_lock(&h->users_lock);
	list_add(&c->link, &h->tables);
	mutex_unlock(&h->users_lock);
	return ret;
}

static void put_devices(struct dm_qcow2 *c)
{
	while (c->nr_devs)
		dm_put_device(c->ti, c->devs[--c->nr_devs]);
	kfree(c->devs);
	c->devs = NULL;
}

static int attach(struct dm_qcow2 *c, char **error)
{
	struct dm_qcow2_host *h = NULL;
	unsigned int i = c->args.nr_layers;
	int ret;

	c->devs = kcalloc(2 * i, sizeof(*c->devs), GFP_KERNEL);
	if (!c->devs) {
		*error = "Out of memory";
		return -ENOMEM;
	}
	while (i-- > 0) {
		h = get_layer(c, i, h, error);
		if (IS_ERR(h)) {
			put_devices(c);
			return PTR_ERR(h);
		}
	}
	ret = add_table(h, c);
	if (ret) {
		*error = "Cannot start threads";
		dm_qcow2_detach(c);
	}
	return ret;
}

/**
 * dm_qcow2_attach() - open what a table line names
 * @c: the table, its arguments parsed; gets host and devs
 * @error: for the user
 *
 * A device of ours may be suspended, and go on when this table is there: reclaim
 * must not wait for its I/O, neither here nor in who holds registry_lock.
 *
 * Context: may sleep; a constructor.
 * Return: 0, or a negative errno with nothing held.
 */
int dm_qcow2_attach(struct dm_qcow2 *c, char **error)
{
	unsigned int noio = memalloc_noio_save();
	int ret = attach(c, error);

	memalloc_noio_restore(noio);
	return ret;
}

/**
 * dm_qcow2_detach() - a table goes
 * @c: the table
 *
 * The last one writes everything back and closes the image.
 *
 * Context: may sleep; a destructor.
 */
void dm_qcow2_detach(struct dm_qcow2 *c)
{
	struct dm_qcow2_host *h = c->host;

	mutex_lock(&h->users_lock);
	list_del(&c->link);
	mutex_unlock(&h->users_lock);
	if (c->writer) {
		end_writing(h);
		if (h->data)
			end_writing(h->data);
	}
	if (c->args.buffered_backing) {
		mutex_lock(&registry_lock);
		buffer_layers(h, -1);
		mutex_unlock(&registry_lock);
	}
	put_host(h);
	put_devices(c);
}

/**
 * dm_qcow2_change_key() - the messages "key set" and "key wipe"
 * @c: the table
 * @reference: to the key, or NULL: it is to be forgotten
 *
 * As dm-crypt's: the device is suspended, and is not resumed without a key. As at
 * dm_qcow2_attach(), reclaim must not wait for it meanwhile.
 *
 * Context: may sleep.
 * Return: 0; -EINVAL: not encrypted; -EBUSY: the device runs, or another device
 * uses the image; the errors of a key. The kernel's log has the reason.
 */
int dm_qcow2_change_key(struct dm_qcow2 *c, const char *reference)
{
	const struct wanted w = { .c = c };
	struct dm_qcow2_host *h = c->host;
	char *error = "the cipher cannot forget it";
	unsigned int noio = memalloc_noio_save();
	int ret = -EBUSY;

	mutex_lock(&registry_lock);
	mutex_lock(&h->resize_lock);
	if (!h->crypt) {
		error = "the image is not encrypted";
		ret = -EINVAL;
	} else if (c->running) {
		error = "suspend the device first";
	} else if (others_use(h, &w)) {
		error = "another device uses the image";
	} else {
		ret = reference ? dm_qcow2_set_key(h->crypt, reference, &error) :
			dm_qcow2_wipe_key(h->crypt);
	}
	mutex_unlock(&h->resize_lock);
	mutex_unlock(&registry_lock);
	memalloc_noio_restore(noio);
	if (ret)
		DMERR("%s: key: %s", h->name, error);
	return ret;
}
