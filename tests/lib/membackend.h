/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An image in memory: struct qcow2_backend_ops for tests, as a file that grows
 * or as a block device full of old contents. It can log what happens in order,
 * fail on demand, run out of space, and crash: forget or tear what was not
 * flushed. mk_image() and mk_map() make images without the code under test.
 *
 *	struct membackend be;
 *	struct qcow2_image *img;
 *
 *	mem_init(&be, MEM_FILE, 0);
 *	mk_image(&be, &(struct mk_image){ .cluster_bits = 12, .size = 1 << 20 });
 *	ret = mem_open(&be, 0, &img, &err);
 *	...
 *	mem_destroy(&be);
 *
 * All functions of @ops may be called from many threads. The bytes themselves
 * are copied without a lock, on purpose: two threads that touch the same bytes
 * at once, one of them writing, are for ThreadSanitizer to see. The rest of the
 * functions here are for when no I/O is under way.
 */
#ifndef MEMBACKEND_H
#define MEMBACKEND_H

#include "image.h"

#define MEM_MSGS 8

enum mem_flavour {
	MEM_FILE,	/* growable; beyond the end are zeros */
	MEM_DEVICE,	/* fixed size, full of garbage */
};

enum mem_kind {
	MEM_READ,	/* ops->rw, one for each piece */
	MEM_WRITE,
	MEM_DATA_READ,	/* ops->data_read */
	MEM_DATA_WRITE,
	MEM_ZERO,
	MEM_DISCARD,
	MEM_GROW,	/* offset 0, len: the new size */
	MEM_FLUSH,
	MEM_TRIM,	/* as MEM_GROW */
	MEM_KINDS,
};

/* One logged operation; reads are not logged. */
struct mem_op {
	enum mem_kind kind;
	bool aside;	/* of the data file */
	u64 offset;
	u64 len;
	void *data;	/* MEM_WRITE, MEM_DATA_WRITE, MEM_DISCARD; NULL: zeros */
};

/* Operations number [at, at + count) of a kind, counted from 1, fail. */
struct mem_fault {
	u64 at;		/* 0: none */
	u64 count;	/* 0: one */
	int error;	/* negative errno */
};

/**
 * struct membackend - an image in memory
 * @ops: what qcow2_image_open() wants; the second argument is the membackend
 * @data: the bytes; @size of them count, all others are 0
 * @size: size of the file or device in bytes
 * @capacity: bytes that are mapped
 * @limit: a file that would become larger gets -ENOSPC; 0: @capacity
 * @seen: operations of each kind so far
 * @fault: set fields at will; @seen counts on
 * @hook: called before each operation, without a lock: it may call anything.
 *	If it returns other than 0 that is the result of the operation
 * @hook_arg: for @hook
 * @log, @nr_log: what happened since mem_log_start()
 * @log_of: the log to write to; NULL: its own. For one thread
 * @cipher: for an encrypted image: mem_open() opens the image with it
 * @data_file: for an image that has one: mem_open() opens the image with it
 * @msgs: the last messages of ops->log, the newest at (nr_msgs - 1) % MEM_MSGS
 * @mode_changes: calls of ops->mode_changed
 */
struct membackend {
	const struct qcow2_backend_ops *ops;
	pthread_mutex_t lock;
	u8 *data;
	u64 size;
	u64 capacity;
	u64 limit;
	u64 seen[MEM_KINDS];
	struct mem_fault fault[MEM_KINDS];
	int (*hook)(struct membackend *be, enum mem_kind kind, u64 offset,
		    u64 len);
	void *hook_arg;

	bool logging;
	struct mem_op *log;
	u64 nr_log, max_log;
	struct membackend *log_of;
	struct qcow2_cipher *cipher;
	struct membackend *data_file;
	u8 *base;		/* contents when the log began */
	u64 base_size;

	char msgs[MEM_MSGS][256];
	u64 nr_msgs;
	u64 mode_changes;
	u64 mk_end;		/* mk_map(): first unused byte */
};

/*
 * An empty file, or a device of @size bytes (rounded up to 512; at most
 * 64 GiB, and no more memory than is touched, but for the garbage, which fills
 * the first 64 MiB of a device). Aborts without memory.
 */
void mem_init(struct membackend *be, enum mem_flavour flavour, u64 size);
void mem_destroy(struct membackend *be);

/* qcow2_image_open() with a cache of @cache_bytes, 0 for the default. */
int mem_open(struct membackend *be, u64 cache_bytes, struct qcow2_image **img,
	     struct qcow2_error *err);
/* The same for an image that names a backing file; NULL: it names none. */
int mem_open_over(struct membackend *be, u64 cache_bytes,
		  const struct qcow2_layer *backing, struct qcow2_image **img,
		  struct qcow2_error *err);

/* The newest message of ops->log, or "". */
const char *mem_last_msg(const struct membackend *be);
/* Was there a message that contains @text, among the last MEM_MSGS? */
bool mem_has_msg(const struct membackend *be, const char *text);

/* Whole files, for qemu-img. A device is loaded into its beginning. */
int mem_load_file(struct membackend *be, const char *path);
int mem_save_file(const struct membackend *be, const char *path);

/*
 * Copies contents and size (neither the log nor the data file) of a backend of the
 * same flavour.
 */
void mem_copy(struct membackend *to, const struct membackend *from);

/* Shorthand: from the next one on, @count operations of a kind fail. */
void mem_fail(struct membackend *be, enum mem_kind kind, u64 count, int error);
void mem_fail_nothing(struct membackend *be);

/* The log begins empty; what is there now counts as durable. */
void mem_log_start(struct membackend *be);
/* As above without a copy of what is there now: mem_crash() cannot be used. */
void mem_log_only(struct membackend *be);
void mem_log_stop(struct membackend *be);

/*
 * Does a logged operation; [from, to) is the part of it to do, in bytes from
 * its start, multiples of 512. MEM_GROW is done if to > 0.
 */
void mem_apply(struct membackend *be, const struct mem_op *op, u64 from, u64 to);

/*
 * Loses power. Everything up to the last flush of the log is there; of each
 * later operation, sector number @sector (0 for MEM_GROW) if keep() says so,
 * none if @keep is NULL. The log begins anew.
 */
void mem_crash(struct membackend *be,
	       bool (*keep)(void *arg, const struct mem_op *op, u64 sector),
	       void *arg);

/* ---- images ---- */

/**
 * struct mk_image - a new image
 * @version: 2 or 3; 0: 3
 * @cluster_bits: 9 to 21; 0: 16
 * @refcount_order: 0 to 6, 4 with version 2; 0 means 0 only if @order_given
 * @order_given: @refcount_order is to be used even if it is 0; else 0 means 4
 * @size: virtual size in bytes
 * @reftable_clusters: 0: 1, or what the header needs
 * @incompatible, @compatible, @autoclear: version 3; with the bit for extended
 *	L2 entries those are made, for @cluster_bits of at least 14
 * @backing: the name of the backing file, short; NULL: none
 * @crypt: how it is encrypted; for LUKS one cluster is made that is to be its
 *	header, between the refcount block and the L1 table
 * @data_file: the name of the data file, at most 16 bytes; NULL: none. mk_map()
 *	then maps each cluster to where it is for the guest, and counts none
 *
 * Cluster 0 is the header, then the refcount table, one refcount block (more
 * if the L1 table is too large for one), the L1 table.
 */
struct mk_image {
	u32 version;
	u32 cluster_bits;
	u32 refcount_order;
	bool order_given;
	u64 size;
	u32 reftable_clusters;
	u64 incompatible, compatible, autoclear;
	const char *backing;
	const char *data_file;
	enum qcow2_crypt crypt;
};

/*
 * Makes a valid image; 0, or -EINVAL for what cannot be, -ENOSPC if it does not
 * fit the device.
 */
int mk_image(struct membackend *be, const struct mk_image *p);

/*
 * Maps the guest cluster of @guest: QCOW2_DATA and QCOW2_ZERO_ALLOC take a new
 * host cluster at the end, QCOW2_ZERO (version 3) does not. @refcount is its
 * refcount: COPIED is set for 1 only; more than 1 is a cluster that something
 * else shares, of which qemu-img says that it leaks. *host (may be NULL) is
 * the host offset; the contents are the caller's to write. For images of
 * mk_image() which are not open. Only the end of the image is searched.
 */
int mk_map(struct membackend *be, u64 guest, enum qcow2_kind kind, u64 refcount,
	   u64 *host);

/*
 * Maps the guest cluster of @guest to the compressed @data, a cluster long. It
 * begins at an odd byte. -E2BIG: it cannot be compressed into one cluster.
 */
int mk_map_compressed(struct membackend *be, u64 guest, const void *data);

/* Sets an L2 entry (as in memory, not big-endian), with a table if needed. */
int mk_set_l2(struct membackend *be, u64 guest, u64 entry);
/* The second half of an extended one. */
int mk_set_bitmap(struct membackend *be, u64 guest, u64 bitmap);

/* Takes the next unused host cluster, with refcount @refcount. */
int mk_cluster(struct membackend *be, u64 refcount, u64 *host);

/*
 * An L2 table of its own whose refcount is @refcount and whose L1 entry is not
 * COPIED: it is shared. All its entries lose COPIED and their clusters have
 * @refcount, too.
 */
int mk_share_table(struct membackend *be, u64 guest, u64 refcount);

/* The refcount of a host cluster, 0 if no block counts it. */
u64 mk_refcount(const struct membackend *be, u64 host);
int mk_set_refcount(struct membackend *be, u64 host, u64 refcount);

/* Big-endian fields of the image. */
u64 mem_be64(const struct membackend *be, u64 offset);
u32 mem_be32(const struct membackend *be, u64 offset);
void mem_set_be64(struct membackend *be, u64 offset, u64 value);
void mem_set_be32(struct membackend *be, u64 offset, u32 value);

#endif /* MEMBACKEND_H */
