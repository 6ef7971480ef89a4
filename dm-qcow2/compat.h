/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only file that knows that kernels differ. The sources are written against
 * the newest; what older ones lack is made up here. Kbuild includes this file
 * into every source and defines the HAVE_ it asks for by looking into the
 * kernel's headers, because distributions carry backports and a version number
 * says little.
 */
#ifndef DM_QCOW2_COMPAT_H
#define DM_QCOW2_COMPAT_H

#include <linux/blkdev.h>
#include <linux/crypto.h>
#include <linux/fs.h>

#ifndef HAVE_BLK_MODE_T
typedef fmode_t blk_mode_t;
#define BLK_OPEN_READ FMODE_READ
#define BLK_OPEN_WRITE FMODE_WRITE
#endif

/* What the callback of an asynchronous cipher gets. */
#ifdef HAVE_CRYPTO_COMPLETION_DATA
typedef void compat_crypto_arg;
#else
typedef struct crypto_async_request compat_crypto_arg;
#endif

static inline void *compat_crypto_data(compat_crypto_arg *arg)
{
#ifdef HAVE_CRYPTO_COMPLETION_DATA
	return arg;
#else
	return arg->data;
#endif
}

#ifndef HAVE_FILE_BDEV
static inline struct block_device *file_bdev(struct file *bdev_file)
{
	return I_BDEV(bdev_file->f_mapping->host);
}
#endif

#ifdef HAVE_FILELOCK_H
#include <linux/filelock.h>
#endif

/* One byte of an OFD lock: its fields moved into a core structure. */
static inline void compat_lock_byte(struct file_lock *fl, struct file *file,
				    unsigned char type, loff_t byte)
{
	locks_init_lock(fl);
	fl->fl_start = byte;
	fl->fl_end = byte;
#ifdef HAVE_FILE_LOCK_CORE
	fl->c.flc_flags = FL_POSIX | FL_OFDLCK;
	fl->c.flc_type = type;
	fl->c.flc_owner = file;
	fl->c.flc_file = file;
	fl->c.flc_pid = current->tgid;
#else
	fl->fl_flags = FL_POSIX | FL_OFDLCK;
	fl->fl_type = type;
	fl->fl_owner = file;
	fl->fl_file = file;
	fl->fl_pid = current->tgid;
#endif
}

static inline unsigned char compat_lock_type(const struct file_lock *fl)
{
#ifdef HAVE_FILE_LOCK_CORE
	return fl->c.flc_type;
#else
	return fl->fl_type;
#endif
}

/*
 * What dm would learn from the devices below if it were shown them: whether
 * pages must not change while they are written. And what it must not claim: a
 * worker's I/O cannot be polled for. Older kernels keep both in the queue, out
 * of reach.
 */
static inline void compat_limit_features(struct queue_limits *limits,
					 struct block_device *bdev)
{
#ifdef BLK_FEAT_POLL
	limits->features &= ~BLK_FEAT_POLL;
	if (bdev && bdev_stable_writes(bdev))
		limits->features |= BLK_FEAT_STABLE_WRITES;
#endif
}

#endif /* DM_QCOW2_COMPAT_H */
