/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The cache of metadata: blocks of L1 tables, L2 tables and refcount blocks,
 * found by host offset. Readers look up under RCU without a lock; whoever may
 * sleep pins. What becomes dirty here is written by commit.c and by nobody
 * else.
 */
#ifndef QCOW2_METACACHE_H
#define QCOW2_METACACHE_H

#include "image.h"

int qcow2_cache_init(struct qcow2_image *img, u64 bytes);
void qcow2_cache_enlarge(struct qcow2_image *img, u64 bytes);
void qcow2_cache_destroy(struct qcow2_image *img);

struct qcow2_block *qcow2_cache_peek(struct qcow2_image *img,
				     enum qcow2_block_kind kind, u64 offset);
int qcow2_cache_get(struct qcow2_image *img, enum qcow2_block_kind kind,
		    u64 offset, u64 window, u64 window_len,
		    struct qcow2_block **out);
int qcow2_cache_new(struct qcow2_image *img, enum qcow2_block_kind kind,
		    u64 offset, struct qcow2_block **out);
void qcow2_cache_put(struct qcow2_image *img, struct qcow2_block *blk);
void qcow2_cache_drop(struct qcow2_image *img, u64 offset, u64 len);
void qcow2_cache_mark_dirty(struct qcow2_image *img, struct qcow2_block *blk);
bool qcow2_cache_change(struct qcow2_image *img, struct qcow2_block *blk);
void __qcow2_cache_mark_dirty(struct qcow2_image *img, struct qcow2_block *blk);

static inline u64 qcow2_block_start(const struct qcow2_image *img, u64 offset)
{
	return offset & ~((u64)img->cache.block_size - 1);
}

static inline __be64 *qcow2_block_entry(const struct qcow2_image *img,
					const struct qcow2_block *blk, u64 offset)
{
	void *p = (u8 *)blk->data + (offset & (img->cache.block_size - 1));

	return p;
}

/*
 * Around the change of an extended L2 entry, whose halves belong together: a
 * reader that sees one new half sees that something changes. M held.
 */
static inline void qcow2_block_begin(struct qcow2_block *blk)
{
	WRITE_ONCE(blk->seq, blk->seq + 1);
	smp_wmb(); /* seq, then entries; pairs with load_pair() in map.c */
}

static inline void qcow2_block_end(struct qcow2_block *blk)
{
	/* entries, then seq; pairs with load_pair() in map.c */
	smp_store_release(&blk->seq, blk->seq + 1);
}

/*
 * The entries read from a block before this call are on the disk. Writers mark
 * the block dirty before they store an entry, and a commit marks it writeback
 * before it is not dirty any more: read in the opposite order, one of the three
 * tells. Pairs with the barriers in qcow2_cache_change() and take().
 */
static inline bool qcow2_block_durable(const struct qcow2_block *blk)
{
	bool dirty;

	smp_rmb(); /* entries, then dirty */
	dirty = READ_ONCE(blk->dirty);
	smp_rmb(); /* dirty, then writeback */
	return !dirty && !READ_ONCE(blk->writeback);
}

#endif /* QCOW2_METACACHE_H */
