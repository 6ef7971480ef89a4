/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A new image. For the tools and the tests; not part of the module.
 */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "image.h"

#define QCOW2_MAX_DATA_NAME 1023	/* ours: the format has no limit */

enum qcow2_prealloc {
	QCOW2_PREALLOC_OFF,
	QCOW2_PREALLOC_METADATA,	/* every guest cluster has a host cluster */
	QCOW2_PREALLOC_FULL,		/* and zeros are written to it */
};

/**
 * struct qcow2_create - the image to make
 * @size: virtual size in bytes
 * @cluster_bits: log2 of the cluster size
 * @refcount_order: log2 of the width of a refcount in bits
 * @extended_l2: L2 entries have subclusters
 * @lazy_refcounts: writers may put off refcounts
 * @compression: how compressed clusters will be compressed
 * @prealloc: what is allocated
 * @backing_file: what the header says, or NULL
 * @backing_format: what the header says; with @backing_file
 * @data_file: what the header says of the external data file, or NULL
 * @data_file_raw: the data file is to be a raw image at any time
 * @data: the external data file itself; with @data_file. A file is empty
 * @crypto: a LUKS header for the image, with the areas of all its key slots; or
 *	NULL: the image is not encrypted. The data is: nothing can be preallocated
 * @crypto_length: its length in bytes
 * @progress: called now and then with bytes written and bytes to write; ends the
 *	work with the negative errno that it returns. May be NULL
 * @arg: first argument of @progress
 */
struct qcow2_create {
	u64 size;
	u32 cluster_bits;
	u32 refcount_order;
	bool extended_l2;
	bool lazy_refcounts;
	enum qcow2_compression compression;
	enum qcow2_prealloc prealloc;
	const char *backing_file;
	const char *backing_format;
	const char *data_file;
	bool data_file_raw;
	const struct qcow2_store *data;
	const void *crypto;
	u64 crypto_length;
	int (*progress)(void *arg, u64 done, u64 total);
	void *arg;
};

int qcow2_create_size(const struct qcow2_create *p, u64 *bytes,
		      struct qcow2_error *err);
int qcow2_create(const struct qcow2_backend_ops *ops, void *be,
		 const struct qcow2_create *p, struct qcow2_error *err);

#endif /* QCOW2_CREATE_H */
