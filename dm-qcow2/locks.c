// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the locks that QEMU and we put on an image: OFD byte locks, as
 * block/file-posix.c of QEMU takes them. A byte at 100 + n says "I hold
 * permission n", one at 200 + n "I do not share permission n with others". All
 * are read locks, so that they never conflict as locks; a conflict is found by
 * looking for the other side's bytes.
 *
 * Held on a struct file that lives as long as the image is attached: no process
 * has to stay for it.
 */
#include "dm-qcow2.h"

#define HELD 100
#define NOT_SHARED 200

enum permission {
	CONSISTENT_READ = 0,
	WRITE_PERM = 1,
	RESIZE = 3,
};

static const struct {
	enum permission permission;
	bool write_held, write_not_shared;	/* by a writer */
	bool read_held, read_not_shared;	/* by a reader */
} bytes[] = {
	{ CONSISTENT_READ, true, false, true, false },
	{ WRITE_PERM, true, true, false, true },
	{ RESIZE, true, true, false, true },
};

static int set_byte(struct file *file, unsigned char type, loff_t byte)
{
	struct file_lock fl;

	compat_lock_byte(&fl, file, type, byte);
	return vfs_lock_file(file, F_SETLK, &fl, NULL);
}

/* Does somebody else have this byte? */
static int probe_byte(struct file *file, loff_t byte)
{
	struct file_lock fl;
	int ret;

	compat_lock_byte(&fl, file, F_WRLCK, byte);
	ret = vfs_test_lock(file, &fl);
	if (ret)
		return ret;
	return compat_lock_type(&fl) == F_UNLCK ? 0 : -EBUSY;
}

/**
 * dm_qcow2_unlock() - give all locks back
 * @file: as given to dm_qcow2_lock()
 *
 * Explicitly, because the last fput() may come later than our return.
 *
 * Context: may sleep.
 */
void dm_qcow2_unlock(struct file *file)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bytes); i++) {
		set_byte(file, F_UNLCK, HELD + bytes[i].permission);
		set_byte(file, F_UNLCK, NOT_SHARED + bytes[i].permission);
	}
}

/**
 * dm_qcow2_lock() - lock an image as QEMU does
 * @file: the image, opened for reading at least
 * @write: as a writer, alone, or as a reader among readers
 *
 * Context: may sleep.
 * Return: 0; -EBUSY: somebody has the image; -EOPNOTSUPP or another error of a
 * filesystem that cannot lock.
 */
int dm_qcow2_lock(struct file *file, bool write)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(bytes); i++) {
		if (write ? bytes[i].write_held : bytes[i].read_held)
			ret = set_byte(file, F_RDLCK,
				       HELD + bytes[i].permission);
		if (!ret && (write ? bytes[i].write_not_shared :
			     bytes[i].read_not_shared))
			ret = set_byte(file, F_RDLCK,
				       NOT_SHARED + bytes[i].permission);
	}
	/* ours are there; whoever comes later sees them: look for others' */
	for (i = 0; !ret && i < ARRAY_SIZE(bytes); i++) {
		if (write ? bytes[i].write_held : bytes[i].read_held)
			ret = probe_byte(file, NOT_SHARED + bytes[i].permission);
		if (!ret && (write ? bytes[i].write_not_shared :
			     bytes[i].read_not_shared))
			ret = probe_byte(file, HELD + bytes[i].permission);
	}
	if (ret)
		dm_qcow2_unlock(file);
	return ret == -EAGAIN || ret == -EACCES ? -EBUSY : ret;
}

/**
 * dm_qcow2_lock_downgrade() - a writer becomes a reader
 * @file: locked by dm_qcow2_lock() for writing
 *
 * Context: may sleep.
 */
void dm_qcow2_lock_downgrade(struct file *file)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bytes); i++)
		if (!bytes[i].read_held)
			set_byte(file, F_UNLCK, HELD + bytes[i].permission);
}
