/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An opened qcow2 image: what the module, the tools and the tests hold.
 *
 * Locks, in the order in which they are taken; every field of the structures
 * below names its own:
 *
 *   I:  set before anyone else sees the object, constant after
 *   Z:  as I, but for qcow2_resize(), during which nobody else uses the image
 *   C:  image->commit_lock, a mutex; one commit, or one relocation of the
 *       refcount table, at a time
 *   T:  image->l2_lock[], mutexes hashed by L1 index; which L2 table an L1
 *       entry names
 *   S:  alloc->lock, a mutex; refcounts and the free space
 *   H:  image->header_lock, a mutex; the header on the disk
 *   M:  cache->lock, a spinlock; the set of cached blocks, their state, the
 *       contents of L1 and L2 blocks
 *   O:  overlap->lock, a spinlock; the set of metadata clusters
 *   B:  busy->lock, a spinlock; guest clusters being allocated
 *   A:  atomic, or one word written with WRITE_ONCE and read with READ_ONCE
 *
 * Spinlocks are leaves: none is taken under another.
 */
#ifndef QCOW2_IMAGE_H
#define QCOW2_IMAGE_H

#include "format.h"
#include "geometry.h"

struct qcow2_image;
struct qcow2_inflater;
struct qcow2_resolver;

/**
 * struct qcow2_iovec - one piece of metadata I/O
 * @offset: host offset in bytes
 * @buf: memory from port_alloc(), never on the stack
 * @len: bytes
 */
struct qcow2_iovec {
	u64 offset;
	void *buf;
	u32 len;
};

/**
 * struct qcow2_backend_ops - what holds the image
 *
 * All functions may sleep and return when the work is done; offsets and lengths
 * are in bytes and multiples of 512; errors are negative errnos. They are
 * called from many threads at once.
 *
 * @rw: read or write pieces, in any order and at the same time; pieces whose
 *	offsets follow on each other are one request. A read beyond the end of
 *	a file gives zeros.
 * @zero: make a range read as zeros, quickly if possible
 * @discard: the contents of a range are not needed any more; best effort
 * @flush: make every write that has completed durable
 * @grow: make sure that the host has at least this size; -ENOSPC if it cannot
 * @size: size of the host file or device
 * @trim: the image has been closed and ends here; a file that grew ahead of
 *	need is cut back
 * @data_read: read guest data as it is on the host, for copy-on-write. Beyond the
 *	end of the host are zeros
 * @data_write: write guest data, in the same way
 * @log: one line for the administrator
 * @mode_changed: image->mode has changed; may sleep
 * @reclaim: have qcow2_reclaim() called soon, by a thread that runs no guest I/O.
 *	NULL: there is none
 * @growable: the host is a file: it can grow, and what lies beyond its end then
 *	reads as zeros; a block device has its size and old contents
 */
struct qcow2_backend_ops {
	int (*rw)(void *be, bool write, const struct qcow2_iovec *v,
		  unsigned int n);
	int (*zero)(void *be, u64 offset, u64 len);
	void (*discard)(void *be, u64 offset, u64 len);
	int (*flush)(void *be);
	int (*grow)(void *be, u64 size);
	u64 (*size)(void *be);
	int (*trim)(void *be, u64 size);
	int (*data_read)(void *be, u64 host, void *buf, u32 len);
	int (*data_write)(void *be, u64 host, void *buf, u32 len);
	void (*log)(void *be, const char *msg);
	void (*mode_changed)(void *be);
	void (*reclaim)(void *be);
	bool growable;
};

/**
 * struct qcow2_cipher - what guest data is encrypted with
 * @method: which of the format's two ways it is for
 * @apply: encrypt, or decrypt, sectors of 512 bytes where they are; may sleep.
 *	@sector is the number that the first is encrypted by: qcow2_cipher_sector()
 */
struct qcow2_cipher {
	enum qcow2_crypt method;
	int (*apply)(struct qcow2_cipher *c, bool encrypt, u64 sector, void *buf,
		     u32 len);
};

/**
 * struct qcow2_store - what holds bytes: a file or device, by its functions
 * @ops: the functions
 * @be: their first argument
 * @cipher: what the guest data in it is encrypted with, or NULL
 */
struct qcow2_store {
	const struct qcow2_backend_ops *ops;
	void *be;
	struct qcow2_cipher *cipher;
};

/**
 * struct qcow2_layer - what an image's unallocated clusters read as
 * @store: a raw layer's bytes; not used with @img
 * @img: the layer's image, opened read-only, or NULL: the layer is raw
 * @size: of the layer in bytes; beyond are zeros
 *
 * Constant while an image refers to it. Layers below are those of @img.
 */
struct qcow2_layer {
	struct qcow2_store store;
	struct qcow2_image *img;
	u64 size;
};

/* Ordered: a mode is only ever left downwards, but for NO_SPACE. */
enum qcow2_mode {
	QCOW2_READ_WRITE,
	QCOW2_NO_SPACE,		/* the last allocation found no space */
	QCOW2_READ_ONLY,
	QCOW2_FAILED,
};

/* Kinds of cached metadata block. */
enum qcow2_block_kind {
	QCOW2_BLOCK_L1,
	QCOW2_BLOCK_L2,
	QCOW2_BLOCK_REF,
};

/**
 * struct qcow2_block - a cached piece of a metadata table
 * @hash: M: writers; readers under RCU
 * @offset: I: host offset in bytes, a multiple of the block size
 * @kind: I: which table it is a piece of
 * @uptodate: A: @data is valid; set once
 * @error: M: why the load failed
 * @hashed: M: still to be found; a dropped block lives until it is unpinned
 * @dirty: A: differs from the disk and is not in a running commit
 * @writeback: A: part of a running commit
 * @accessed: A: used since eviction last looked
 * @checked: A: image->overlap_gen at which every entry was found to point
 *	outside the metadata
 * @pins: M: users that may sleep
 * @lru: M: in cache->lru
 * @dirty_link: M: in cache->dirty[] or a commit's list
 * @seq: M: counts changes of extended L2 entries, odd during one; readers of
 *	the two halves of an entry look before and after
 * @data: contents: L1 and L2 entries are written under M and read at any time;
 *	refcounts are under S
 * @rcu: frees the block when no reader can see it any more
 */
struct qcow2_block {
	struct hlist_node hash;
	u64 offset;
	enum qcow2_block_kind kind;
	bool uptodate;
	int error;
	bool hashed;
	bool dirty;
	bool writeback;
	bool accessed;
	u32 checked;
	u32 pins;
	struct list_head lru;
	struct list_head dirty_link;
	u32 seq;
	void *data;
	struct rcu_head rcu;
};

struct qcow2_cache {
	spinlock_t lock;		/* M itself */
	u32 block_size;			/* I: min(cluster, 4096) bytes */
	u32 max_blocks;			/* Z: the bound; pinned and dirty may exceed it */
	u32 nr_blocks;			/* M, read A */
	u32 nr_dirty;			/* M, read A */
	unsigned int hash_bits;		/* Z */
	struct hlist_head *table;	/* Z; its lists: M, readers RCU */
	struct list_head lru;		/* M: tail first to go */
	struct list_head dirty_map;	/* M: dirty L1 and L2 blocks */
	struct list_head dirty_ref;	/* M: dirty refcount blocks */
	wait_queue_head_t loaded;
};

/* Host clusters whose reference is gone but whose refcount is not. */
struct qcow2_free {
	struct list_head link;
	u64 cluster;
	u64 nr;
	bool table;			/* metadata, not data */
	u64 cookie;			/* of the epoch that must end first */
};

#define QCOW2_RECYCLE 64

struct qcow2_allocator {
	struct mutex lock;		/* S itself */
	u64 *reftable;			/* S: host offset | QCOW2_RT_ flags */
	u64 reftable_entries;		/* S */
	u64 pending_lo, pending_hi;	/* S: range that holds all entries not on the disk */
	u64 frozen_lo, frozen_hi;	/* S: those of the running commit; lo > hi: none */
	u64 cursor;			/* S: where the search begins, in clusters */
	u64 fresh;			/* S: clusters from here on were never used */
	u64 end;			/* S: one past the last used cluster */
	u64 limit;			/* S: one past the last possible cluster */
	u64 starved;			/* S: table length at which the search ran out */
	u64 floor;			/* S: size of the host at activation in bytes */
	u64 data_floor;			/* S: the same of an external data file */
	bool reclaim;			/* S: space is needed that waits for a commit */
	int in_vain;			/* S: image->unlinks when that last freed nothing */
	bool exhausted;			/* S: nothing is free below the cursor */
	u64 full;			/* S: table length at which it found no room to move */
	bool scanned;			/* S: dirty: the cursor is behind all that is in use */
	bool scanning;			/* S: somebody looks for that */
	struct list_head waiters;	/* S: for whom, struct qcow2_waiter */
	struct {
		u64 cluster, nr;
	} recycle[QCOW2_RECYCLE];	/* S: runs freed since attach */
	unsigned int nr_recycle;	/* S */
};

/* The set of metadata clusters, an open-addressing hash of cluster numbers. */
struct qcow2_overlap {
	spinlock_t lock;		/* O itself */
	u64 *slots;			/* O: cluster + 1, 0 empty */
	unsigned int bits;		/* O */
	u64 used;			/* O */
	u64 l1_first, l1_last;		/* Z: after activation */
	u64 rt_first, rt_last;		/* O: moves with the refcount table */
};

/**
 * struct qcow2_waiter - somebody who must try again later
 * @link: B, or S: in the list of what it waits for
 * @wake: called once, from whoever ends the wait, in process context
 */
struct qcow2_waiter {
	struct list_head link;
	void (*wake)(struct qcow2_waiter *w);
};

/* Guest clusters [first, last] that one allocating write owns. */
struct qcow2_busy_range {
	struct list_head link;		/* B: */
	u64 first, last;		/* I: */
	struct list_head waiters;	/* B: */
};

struct qcow2_busy {
	spinlock_t lock;		/* B itself */
	struct list_head ranges;	/* B: */
};

struct qcow2_stats {
	atomic64_t hits, misses;	/* metadata lookups */
	atomic64_t meta_reads, meta_writes; /* requests for metadata */
	atomic64_t flushes;		/* sent to the host */
	atomic64_t commits;
	atomic64_t mapped;		/* guest clusters mapped since attach */
	atomic64_t allocated;		/* host clusters taken since attach */
	atomic64_t freed;		/* host clusters given back since attach */
};

/**
 * struct qcow2_config - how to open
 * @read_only: never write
 * @keep_space: clusters that are freed are not given back to the host
 * @cache_bytes: bound of the metadata cache, 0 for the default
 * @backing: what unallocated clusters read as; NULL if the image names nothing
 * @data: the external data file; NULL if the image has none
 * @cipher: of its guest data; NULL if the image is not encrypted
 */
struct qcow2_config {
	bool read_only;
	bool keep_space;
	u64 cache_bytes;
	const struct qcow2_layer *backing;
	const struct qcow2_store *data;
	struct qcow2_cipher *cipher;
};

struct qcow2_commit_chunk;

#define QCOW2_L2_LOCKS 64
#define QCOW2_COW_BYTES 32768u

struct qcow2_image {
	const struct qcow2_backend_ops *ops;	/* I */
	void *be;				/* I */
	struct qcow2_store data;		/* I: of guest data, but compressed */
	const struct qcow2_layer *backing;	/* I */
	struct qcow2_inflater *inflater;	/* A: set once, under inflate_lock */
	struct qcow2_resolver *resolver;	/* A: set once */
	bool keep_space;			/* A */
	bool cache_given;			/* I: the bound of the cache was */
	/* I, but size, l1_*: Z; reftable_*: S; incompatible, autoclear: H */
	struct qcow2_header hdr;
	u8 *header_sector;			/* H: first 512 bytes as on the disk */
	bool read_only;				/* I: asked for, or forced: @why */
	char why[64];				/* I: what forced read_only, or "" */
	enum qcow2_mode mode;			/* A, changed under H */
	bool surveyed;				/* under activate_lock: see learn() */
	bool writable;				/* A: activated: see qcow2_activate() */
	bool closing;				/* A: what takes long shall end */
	u64 host_end;				/* A: size of the host in bytes */
	u32 overlap_gen;			/* A: 0 until activated */

	struct mutex activate_lock;		/* taken before all others */
	struct mutex commit_lock;		/* C itself */
	struct mutex l2_lock[QCOW2_L2_LOCKS];	/* T itself */
	struct mutex header_lock;		/* H itself */
	struct mutex inflate_lock;		/* making the inflater; a leaf */
	struct port_pool copies;		/* I after learn(): QCOW2_COW_BYTES each */

	struct qcow2_cache cache;
	struct qcow2_allocator alloc;
	struct qcow2_overlap overlap;
	struct qcow2_busy busy;
	struct port_epoch epoch;

	struct qcow2_commit_chunk *chunk_map;	/* C: reserve for L1 and L2 blocks */
	struct qcow2_commit_chunk *chunk_ref;	/* C: for refcount blocks and table */
	struct list_head unlinked;		/* M: qcow2_free, entry gone in memory */
	atomic_t nr_frees;			/* A: in unlinked, draining, or a commit */
	atomic_t unlinks;			/* A: how often some came */
	struct list_head draining;		/* C: entry gone on the disk */
	int commit_error;			/* C: sticky: durability was lost */

	struct qcow2_stats stats;
};

int qcow2_image_open(const struct qcow2_backend_ops *ops, void *be,
		     const struct qcow2_config *cfg, struct qcow2_image **out,
		     struct qcow2_error *err);
int qcow2_image_close(struct qcow2_image *img);
int qcow2_activate(struct qcow2_image *img);
void qcow2_scan_ahead(struct qcow2_image *img);

int __printf(2, 3) qcow2_corrupt(struct qcow2_image *img, const char *fmt, ...);
void __printf(3, 4) qcow2_lower_mode(struct qcow2_image *img,
				     enum qcow2_mode mode, const char *fmt, ...);
void qcow2_space_found(struct qcow2_image *img);
void qcow2_retry(struct qcow2_image *img);
int qcow2_header_set_reftable(struct qcow2_image *img, u64 offset, u32 clusters);
int qcow2_header_set_size(struct qcow2_image *img, u64 size, u64 l1_offset,
			  u32 l1_entries);
void qcow2_fit_cache(struct qcow2_image *img);
const char *qcow2_mode_name(enum qcow2_mode mode);

/*
 * Refcounts cannot be trusted: a writer that was lazy about them did not close
 * the image. They are neither used nor changed, and the bit stays.
 */
static inline bool qcow2_dirty(const struct qcow2_image *img)
{
	return img->hdr.incompatible & QCOW2_INCOMPAT_DIRTY;
}

static inline enum qcow2_mode qcow2_mode(const struct qcow2_image *img)
{
	return READ_ONCE(img->mode);
}

/* Guest data may be in another file; what refers to it is in this one. */
static inline int qcow2_host_flush(struct qcow2_image *img)
{
	int ret = 0;

	if (img->data.be != img->be)
		ret = img->data.ops->flush(img->data.be);
	if (ret)
		return ret;
	atomic64_inc(&img->stats.flushes);
	return img->ops->flush(img->be);
}

int qcow2_meta_rw(struct qcow2_image *img, bool write,
		  const struct qcow2_iovec *v, unsigned int n);

#endif /* QCOW2_IMAGE_H */
