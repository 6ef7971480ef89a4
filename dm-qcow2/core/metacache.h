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

/* The entry has reached the disk, or was always there. */
static inline bool qcow2_block_durable(const struct qcow2_block *blk)
{
	return !READ_ONCE(blk->dirty) && !READ_ONCE(blk->writeback);
}

#endif /* QCOW2_METACACHE_H */
