// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the set of cached metadata blocks: lookup, loading, eviction.
 * It decides nothing about what the contents mean and writes nothing.
 *
 * A block is loaded by whoever misses it first; others wait. A miss reads the
 * missing neighbours inside a window of the same table with it, because the
 * seek is paid already. Clean, unpinned blocks are evicted by second chance
 * when the bound is reached; dirty and pinned ones never, so the bound may be
 * exceeded by what a commit will soon release.
 */
#include "metacache.h"

/*
 * Most that one miss reads: of 4 KiB blocks somewhat below 1 MiB, because each is
 * memory of its own, of which common disks (virtio: 254) take so many at once.
 */
#define WINDOW_BLOCKS 240
#define EVICT_SCAN 32		/* blocks looked at for one eviction */

static struct hlist_head *bucket(struct qcow2_cache *c, u64 offset)
{
	return &c->table[hash_64(offset / 512, c->hash_bits)];
}

static u32 bound(const struct qcow2_cache *c, u64 bytes)
{
	return max_t(u32, min_t(u64, bytes / c->block_size, 1u << 26), 64);
}

/**
 * qcow2_cache_init() - make an empty cache
 * @img: the image, its header parsed
 * @bytes: bound in bytes of metadata
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int qcow2_cache_init(struct qcow2_image *img, u64 bytes)
{
	struct qcow2_cache *c = &img->cache;

	c->block_size = min_t(u32, qcow2_cluster_size(&img->hdr), 4096);
	c->max_blocks = bound(c, bytes);
	c->hash_bits = ilog2(c->max_blocks) + 1;
	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->lru);
	INIT_LIST_HEAD(&c->dirty_map);
	INIT_LIST_HEAD(&c->dirty_ref);
	init_waitqueue_head(&c->loaded);
	c->table = port_vzalloc(sizeof(*c->table) << c->hash_bits);
	return c->table ? 0 : -ENOMEM;
}

/**
 * qcow2_cache_enlarge() - a higher bound, and buckets for it
 * @img: the image; nobody else uses it
 * @bytes: bound in bytes of metadata; nothing happens if it is not higher, or
 *	if there is no memory
 *
 * Context: may sleep.
 */
void qcow2_cache_enlarge(struct qcow2_image *img, u64 bytes)
{
	struct qcow2_cache *c = &img->cache;
	u32 max_blocks = bound(c, bytes);
	struct hlist_head *table, *old = c->table;
	struct qcow2_block *blk;

	if (max_blocks <= c->max_blocks)
		return;
	table = port_vzalloc(sizeof(*table) << (ilog2(max_blocks) + 1));
	if (!table)
		return;
	spin_lock(&c->lock);
	c->max_blocks = max_blocks;
	c->hash_bits = ilog2(max_blocks) + 1;
	c->table = table;
	list_for_each_entry(blk, &c->lru, lru) {
		hlist_del_rcu(&blk->hash);
		hlist_add_head_rcu(&blk->hash, bucket(c, blk->offset));
	}
	spin_unlock(&c->lock);
	port_vfree(old);
}

static void free_block(struct qcow2_block *blk)
{
	port_free(blk->data);
	port_free(blk);
}

static void free_block_rcu(struct rcu_head *head)
{
	free_block(container_of(head, struct qcow2_block, rcu));
}

/**
 * qcow2_cache_destroy() - free every block, dirty or not
 * @img: the image; nobody may use its cache any more
 */
void qcow2_cache_destroy(struct qcow2_image *img)
{
	struct qcow2_cache *c = &img->cache;
	struct qcow2_block *blk, *next;

	if (!c->table)
		return;
	list_for_each_entry_safe(blk, next, &c->lru, lru)
		free_block(blk);
	port_vfree(c->table);
	c->table = NULL;
}

static struct qcow2_block *alloc_block(struct qcow2_image *img,
				       enum qcow2_block_kind kind, u64 offset)
{
	struct qcow2_block *blk = port_zalloc(sizeof(*blk));

	if (!blk)
		return NULL;
	blk->data = port_alloc(img->cache.block_size);
	if (!blk->data) {
		port_free(blk);
		return NULL;
	}
	blk->offset = offset;
	blk->kind = kind;
	INIT_LIST_HEAD(&blk->dirty_link);
	return blk;
}

/* M held. */
static struct qcow2_block *find(struct qcow2_cache *c, u64 offset)
{
	struct qcow2_block *blk;

	hlist_for_each_entry_rcu(blk, bucket(c, offset), hash,
				 lockdep_is_held(&c->lock))
		if (blk->offset == offset)
			return blk;
	return NULL;
}

/* M held. The block goes when its last pin does. */
static void unhash(struct qcow2_cache *c, struct qcow2_block *blk)
{
	hlist_del_rcu(&blk->hash);
	blk->hashed = false;
	list_del_init(&blk->lru);
	WRITE_ONCE(c->nr_blocks, c->nr_blocks - 1);
	if (!blk->pins)
		call_rcu(&blk->rcu, free_block_rcu);
}

/* M held. */
static void evict_one(struct qcow2_cache *c)
{
	struct qcow2_block *blk;
	int i;

	for (i = 0; i < EVICT_SCAN && !list_empty(&c->lru); i++) {
		blk = list_entry(c->lru.prev, struct qcow2_block, lru);
		if (!blk->pins && !blk->dirty && !blk->writeback &&
		    !READ_ONCE(blk->accessed)) {
			unhash(c, blk);
			return;
		}
		WRITE_ONCE(blk->accessed, false);
		list_del(&blk->lru);
		list_add(&blk->lru, &c->lru);
	}
}

/* M held. The new block is pinned. */
static void insert(struct qcow2_cache *c, struct qcow2_block *blk)
{
	if (c->nr_blocks > c->max_blocks)
		evict_one(c); /* one more: back to the bound */
	if (c->nr_blocks >= c->max_blocks)
		evict_one(c);
	blk->pins = 1;
	blk->hashed = true;
	WRITE_ONCE(c->nr_blocks, c->nr_blocks + 1);
	list_add(&blk->lru, &c->lru);
	hlist_add_head_rcu(&blk->hash, bucket(c, blk->offset));
}

/**
 * qcow2_cache_peek() - find a block that is in memory
 * @img: the image
 * @kind: what table it belongs to
 * @offset: host offset of the block in bytes
 *
 * Context: any, under rcu_read_lock(); the block is valid until it is dropped.
 * Return: the block, its contents valid, or NULL.
 */
struct qcow2_block *qcow2_cache_peek(struct qcow2_image *img,
				     enum qcow2_block_kind kind, u64 offset)
{
	struct qcow2_block *blk;

	hlist_for_each_entry_rcu(blk, bucket(&img->cache, offset), hash) {
		if (blk->offset != offset)
			continue;
		/* pairs with the release in finish_load() and qcow2_cache_new() */
		if (blk->kind != kind || !smp_load_acquire(&blk->uptodate))
			return NULL;
		if (!READ_ONCE(blk->accessed))
			WRITE_ONCE(blk->accessed, true);
		return blk;
	}
	return NULL;
}

/* M held. */
static void unpin(struct qcow2_block *blk)
{
	if (--blk->pins || blk->hashed)
		return;
	call_rcu(&blk->rcu, free_block_rcu);
}

/**
 * qcow2_cache_put() - unpin a block
 * @img: the image
 * @blk: from qcow2_cache_get() or qcow2_cache_new(); NULL is allowed
 */
void qcow2_cache_put(struct qcow2_image *img, struct qcow2_block *blk)
{
	if (!blk)
		return;
	spin_lock(&img->cache.lock);
	unpin(blk);
	spin_unlock(&img->cache.lock);
}

static void finish_load(struct qcow2_image *img, struct qcow2_block **batch,
			unsigned int n, int error)
{
	struct qcow2_cache *c = &img->cache;
	unsigned int i;

	spin_lock(&c->lock);
	for (i = 0; i < n; i++) {
		struct qcow2_block *blk = batch[i];

		if (error) {
			WRITE_ONCE(blk->error, error);
			if (blk->hashed)
				unhash(c, blk);
		}
		/* pairs with the acquire in qcow2_cache_peek() */
		smp_store_release(&blk->uptodate, !error);
		unpin(blk);
	}
	spin_unlock(&c->lock);
	wake_up_all(&c->loaded);
}

/* One more pin, for finish_load() to take away. */
static struct qcow2_block *pin(struct qcow2_image *img, struct qcow2_block *blk)
{
	spin_lock(&img->cache.lock);
	blk->pins++;
	spin_unlock(&img->cache.lock);
	return blk;
}

/* A block to be read along, inserted and pinned; NULL if there is no point. */
static struct qcow2_block *neighbour(struct qcow2_image *img,
				     enum qcow2_block_kind kind, u64 offset)
{
	struct qcow2_cache *c = &img->cache;
	struct qcow2_block *blk;
	bool wanted;

	/* a full cache stays full: nothing to be had for any of them */
	if (READ_ONCE(c->nr_blocks) >= c->max_blocks)
		return NULL;
	blk = alloc_block(img, kind, offset);
	if (!blk)
		return NULL;
	spin_lock(&c->lock);
	wanted = c->nr_blocks < c->max_blocks && !find(c, offset);
	if (wanted)
		insert(c, blk);
	spin_unlock(&c->lock);
	if (wanted)
		return blk;
	free_block(blk);
	return NULL;
}

/*
 * Reads @blk, which is inserted and pinned, and the missing blocks around it in
 * [window, window + len). A neighbour that cannot be had is no error.
 */
static void load(struct qcow2_image *img, struct qcow2_block *blk, u64 window,
		 u64 len)
{
	struct qcow2_cache *c = &img->cache;
	u32 bs = c->block_size;
	struct qcow2_block **batch;
	struct qcow2_iovec *iov;
	unsigned int i, n = 0, max = min_t(u64, len / bs, WINDOW_BLOCKS);
	struct qcow2_iovec one = { blk->offset, blk->data, bs };
	u64 off, end = window + len;
	int ret;

	batch = max > 1 ? port_alloc(max * sizeof(*batch)) : NULL;
	iov = max > 1 ? port_alloc(max * sizeof(*iov)) : NULL;
	if (!batch || !iov) {
		port_free(batch);
		port_free(iov);
		ret = qcow2_meta_rw(img, false, &one, 1);
		blk = pin(img, blk);
		finish_load(img, &blk, 1, ret);
		return;
	}
	if (len > (u64)max * bs) /* a window of max blocks that holds blk */
		window += (blk->offset - window) / ((u64)max * bs) * max * bs;

	for (off = window; n < max && off < end; off += bs) {
		struct qcow2_block *b = off == blk->offset ? pin(img, blk) :
			neighbour(img, blk->kind, off);

		if (!b)
			continue;
		batch[n] = b;
		iov[n++] = (struct qcow2_iovec){ off, b->data, bs };
	}
	ret = qcow2_meta_rw(img, false, iov, n);
	if (ret && n > 1) {
		/* one bad sector must not take its neighbours with it */
		for (i = 0; i < n && batch[i] != blk; i++)
			;
		swap(batch[i], batch[0]);
		finish_load(img, batch + 1, n - 1, -EAGAIN);
		ret = qcow2_meta_rw(img, false, &one, 1);
		n = 1;
	}
	finish_load(img, batch, n, ret);
	port_free(batch);
	port_free(iov);
}

/* -EAGAIN: was read with a neighbour, in vain; look again. */
static int get_once(struct qcow2_image *img, enum qcow2_block_kind kind,
		    u64 offset, u64 window, u64 window_len,
		    struct qcow2_block **out)
{
	struct qcow2_cache *c = &img->cache;
	struct qcow2_block *blk, *fresh = NULL;
	int ret = 0;

	spin_lock(&c->lock);
	blk = find(c, offset);
	if (!blk) {
		spin_unlock(&c->lock);
		fresh = alloc_block(img, kind, offset);
		if (!fresh)
			return -ENOMEM;
		spin_lock(&c->lock);
		blk = find(c, offset);
	}
	if (!blk) {
		blk = fresh;
		insert(c, blk);
		spin_unlock(&c->lock);
		atomic64_inc(&img->stats.misses);
		load(img, blk, window, window_len);
		fresh = NULL;
	} else {
		if (blk->kind != kind) {
			spin_unlock(&c->lock);
			if (fresh)
				free_block(fresh);
			return -EUCLEAN;
		}
		blk->pins++;
		WRITE_ONCE(blk->accessed, true);
		spin_unlock(&c->lock);
		atomic64_inc(&img->stats.hits);
	}
	if (fresh)
		free_block(fresh);

	/* pairs with the release in finish_load() and qcow2_cache_new() */
	wait_event(c->loaded, smp_load_acquire(&blk->uptodate) ||
		   READ_ONCE(blk->error));
	/* as above */
	if (!smp_load_acquire(&blk->uptodate)) {
		ret = READ_ONCE(blk->error);
		qcow2_cache_put(img, blk);
		return ret;
	}
	*out = blk;
	return 0;
}

/**
 * qcow2_cache_get() - pin a block, reading it if it is not in memory
 * @img: the image
 * @kind: what table it belongs to
 * @offset: host offset of the block in bytes
 * @window: start of the part of the table that may be read with it
 * @window_len: bytes of it, 0 for the block alone
 * @out: the block
 *
 * Context: may sleep; no spinlock held.
 * Return: 0; -EUCLEAN if the place is cached as another kind of table; the
 * error of the read.
 */
int qcow2_cache_get(struct qcow2_image *img, enum qcow2_block_kind kind,
		    u64 offset, u64 window, u64 window_len,
		    struct qcow2_block **out)
{
	int ret;

	do {
		ret = get_once(img, kind, offset, window, window_len, out);
	} while (ret == -EAGAIN);
	return ret;
}

/**
 * qcow2_cache_new() - a block of zeros for a table that is being made
 * @img: the image
 * @kind: what table it belongs to
 * @offset: host offset of the block in bytes; nothing may be cached there
 * @out: the block, pinned
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int qcow2_cache_new(struct qcow2_image *img, enum qcow2_block_kind kind,
		    u64 offset, struct qcow2_block **out)
{
	struct qcow2_block *blk = alloc_block(img, kind, offset);
	bool taken;

	if (!blk)
		return -ENOMEM;
	memset(blk->data, 0, img->cache.block_size);
	spin_lock(&img->cache.lock);
	taken = find(&img->cache, offset);
	if (!taken) {
		insert(&img->cache, blk);
		/* pairs with the acquire in qcow2_cache_peek() */
		smp_store_release(&blk->uptodate, true);
	}
	spin_unlock(&img->cache.lock);
	if (WARN_ON_ONCE(taken)) {
		free_block(blk);
		return -EUCLEAN;
	}
	*out = blk;
	return 0;
}

/**
 * qcow2_cache_drop() - forget what is cached of clusters that are metadata no
 * longer
 * @img: the image
 * @offset: host offset in bytes
 * @len: bytes
 */
void qcow2_cache_drop(struct qcow2_image *img, u64 offset, u64 len)
{
	struct qcow2_cache *c = &img->cache;
	struct qcow2_block *blk;
	u64 end = offset + len;

	for (; offset < end; offset += c->block_size) {
		spin_lock(&c->lock);
		blk = find(c, offset);
		if (blk) {
			if (blk->dirty) {
				list_del_init(&blk->dirty_link);
				WRITE_ONCE(blk->dirty, false);
				WRITE_ONCE(c->nr_dirty, c->nr_dirty - 1);
			}
			unhash(c, blk);
		}
		spin_unlock(&c->lock);
	}
}

/**
 * __qcow2_cache_mark_dirty() - the block differs from the disk
 * @img: the image; cache.lock is held, and was when the contents changed
 * @blk: the block, pinned
 */
void __qcow2_cache_mark_dirty(struct qcow2_image *img, struct qcow2_block *blk)
{
	struct qcow2_cache *c = &img->cache;

	lockdep_assert_held(&c->lock);
	if (blk->dirty)
		return;
	WRITE_ONCE(blk->dirty, true);
	WRITE_ONCE(c->nr_dirty, c->nr_dirty + 1);
	list_add_tail(&blk->dirty_link, blk->kind == QCOW2_BLOCK_REF ?
		      &c->dirty_ref : &c->dirty_map);
}

/**
 * qcow2_cache_change() - L1 or L2 entries are about to change
 * @img: the image; cache.lock is held until they have
 * @blk: the block, pinned
 *
 * Return: false if the block does not belong to the image any more: its table
 * was freed under a user, which only a damaged image can bring about.
 */
bool qcow2_cache_change(struct qcow2_image *img, struct qcow2_block *blk)
{
	lockdep_assert_held(&img->cache.lock);
	if (!blk->hashed)
		return false;
	__qcow2_cache_mark_dirty(img, blk);
	smp_wmb(); /* pairs with qcow2_block_durable() */
	return true;
}

/**
 * qcow2_cache_mark_dirty() - the block differs from the disk
 * @img: the image
 * @blk: a refcount block, pinned, changed under alloc.lock
 */
void qcow2_cache_mark_dirty(struct qcow2_image *img, struct qcow2_block *blk)
{
	spin_lock(&img->cache.lock);
	__qcow2_cache_mark_dirty(img, blk);
	spin_unlock(&img->cache.lock);
}
