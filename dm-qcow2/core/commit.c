// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the way of metadata to the disk.
 *
 * What a writer does changes metadata in memory only: a refcount goes from 0 to
 * 1, the data is written, an L2 entry is set. A commit, for FLUSH and FUA, makes
 * all of it durable. "A => B" means: A is durable before B is written.
 *
 *	data of a cluster, its copied head and tail   => its L2 entry
 *	refcount of a cluster                         => any entry that names it
 *	zeros in a new L2 table                       => its L1 entry
 *	a new refcount block                          => its refcount table entry
 *	that table entry                              => entries that need its counts
 *	an entry without the old cluster              => the decrement => its reuse
 *
 * So a commit is:
 *
 *  1. Freeze: copy the dirty L1 and L2 blocks. Whatever they link has its data
 *     written (it was linked after that) and its refcount raised in memory. An
 *     entry linked from now on is not in the copy and belongs to the next
 *     commit: its data may miss the flush below.
 *  2. Write the dirty refcount blocks, as they are now: counts that are raised
 *     meanwhile only leak, and decrements come here only after step 5 of an
 *     earlier commit.
 *  3. Flush: data, refcounts, new L2 tables (zeros) and new refcount blocks are
 *     durable. If this commit links clusters that a new refcount block counts,
 *     the refcount table follows, and one more flush. That is rare: blocks are
 *     made ahead of their use (see add_block_ahead() in alloc.c).
 *  4. Write the frozen L1 and L2 blocks, in any order among themselves: an L2
 *     block in a table that no L1 entry names yet is not reachable, an L1 entry
 *     before its L2 block leads to zeros. With them go refcount table entries
 *     that nobody needs yet.
 *  5. Flush. What was unlinked before step 1 is now unlinked on the disk. Its
 *     decrements are made in memory when the I/O that was mapped to it has
 *     ended, and ride in step 2 of a later commit.
 *
 * A crash leaves: before 3, raised refcounts without a user, at most; between 4
 * and 5, any subset of the links, each complete; after 5, refcounts of unlinked
 * clusters still raised. All of these are leaks. Nothing dangling is possible.
 *
 * With nothing dirty a commit is one flush; with links, two; three where a
 * refcount block could not be made ahead.
 *
 * A write or flush that fails ends durability: the mode becomes read-only, and
 * every later commit fails. Only a write that found no space may be repeated,
 * from the beginning: nothing that it wrote can hurt.
 */
#include "commit.h"
#include "alloc.h"
#include "metacache.h"

#define CHUNK_BLOCKS 64

/* Copies of frozen blocks; a list of these is one commit. */
struct qcow2_commit_chunk {
	struct list_head link;
	unsigned int n;
	struct qcow2_block *blk[CHUNK_BLOCKS];
	void *copy[CHUNK_BLOCKS];
	struct qcow2_iovec iov[CHUNK_BLOCKS];
};

static void free_chunk(struct qcow2_commit_chunk *c)
{
	int i;

	if (!c)
		return;
	for (i = 0; i < CHUNK_BLOCKS; i++)
		port_free(c->copy[i]);
	port_free(c);
}

static struct qcow2_commit_chunk *new_chunk(struct qcow2_image *img)
{
	struct qcow2_commit_chunk *c = port_zalloc(sizeof(*c));
	int i;

	if (!c)
		return NULL;
	for (i = 0; i < CHUNK_BLOCKS; i++) {
		c->copy[i] = port_alloc(img->cache.block_size);
		if (!c->copy[i]) {
			free_chunk(c);
			return NULL;
		}
	}
	return c;
}

/**
 * qcow2_commit_init() - reserve what a commit needs to make progress
 * @img: the image, being activated
 *
 * Return: 0 or -ENOMEM; it may be called again.
 */
int qcow2_commit_init(struct qcow2_image *img)
{
	if (!img->chunk_map)
		img->chunk_map = new_chunk(img);
	if (!img->chunk_ref)
		img->chunk_ref = new_chunk(img);
	return img->chunk_map && img->chunk_ref ? 0 : -ENOMEM;
}

static void free_list(struct list_head *frees)
{
	struct qcow2_free *f, *next;

	list_for_each_entry_safe(f, next, frees, link)
		port_free(f);
}

void qcow2_commit_destroy(struct qcow2_image *img)
{
	free_chunk(img->chunk_map);
	free_chunk(img->chunk_ref);
	free_list(&img->unlinked);
	free_list(&img->draining);
}

/**
 * qcow2_commit_unlink() - clusters lose their reference
 * @img: the image; cache.lock is held, and was when the entries changed
 * @frees: list of struct qcow2_free, emptied
 */
void qcow2_commit_unlink(struct qcow2_image *img, struct list_head *frees)
{
	struct qcow2_free *f;

	lockdep_assert_held(&img->cache.lock);
	list_for_each_entry(f, frees, link)
		atomic_inc(&img->nr_frees);
	if (!list_empty(frees))
		atomic_inc(&img->unlinks);
	list_splice_tail_init(frees, &img->unlinked);
}

/* M held. Takes a dirty block into a commit. */
static void take(struct qcow2_image *img, struct qcow2_block *blk,
		 struct qcow2_commit_chunk *c)
{
	list_del_init(&blk->dirty_link);
	WRITE_ONCE(blk->writeback, true);
	smp_wmb(); /* pairs with qcow2_block_durable() */
	WRITE_ONCE(blk->dirty, false);
	WRITE_ONCE(img->cache.nr_dirty, img->cache.nr_dirty - 1);
	blk->pins++;
	memcpy(c->copy[c->n], blk->data, img->cache.block_size);
	c->blk[c->n] = blk;
	c->iov[c->n].offset = blk->offset;
	c->iov[c->n].buf = c->copy[c->n];
	c->iov[c->n].len = img->cache.block_size;
	c->n++;
}

/* The commit is done with the blocks of a chunk; unwritten ones are dirty again. */
static void release(struct qcow2_image *img, struct qcow2_commit_chunk *c,
		    bool written)
{
	unsigned int i;

	for (i = 0; i < c->n; i++) {
		spin_lock(&img->cache.lock);
		if (!written && c->blk[i]->hashed)
			__qcow2_cache_mark_dirty(img, c->blk[i]);
		smp_wmb(); /* pairs with qcow2_block_durable() */
		WRITE_ONCE(c->blk[i]->writeback, false);
		spin_unlock(&img->cache.lock);
		qcow2_cache_put(img, c->blk[i]);
	}
	c->n = 0;
}

/* Freezes up to @budget L1 and L2 blocks; returns how many. */
static u32 freeze(struct qcow2_image *img, struct list_head *chunks, u32 budget)
{
	struct qcow2_cache *cache = &img->cache;
	struct qcow2_commit_chunk *c = img->chunk_map;
	u32 n = 0;

	while (c && n < budget) {
		list_add_tail(&c->link, chunks);
		spin_lock(&cache->lock);
		while (c->n < CHUNK_BLOCKS && n < budget &&
		       !list_empty(&cache->dirty_map)) {
			take(img, list_first_entry(&cache->dirty_map,
						   struct qcow2_block,
						   dirty_link), c);
			n++;
		}
		spin_unlock(&cache->lock);
		if (c->n < CHUNK_BLOCKS)
			break;
		/* without memory for more, the rest is another round */
		c = n < budget ? new_chunk(img) : NULL;
	}
	return n;
}

static void release_all(struct qcow2_image *img, struct list_head *chunks,
			bool written)
{
	struct qcow2_commit_chunk *c, *next;

	list_for_each_entry_safe(c, next, chunks, link) {
		release(img, c, written);
		list_del(&c->link);
		if (c != img->chunk_map)
			free_chunk(c);
	}
}

/* Step 2. Blocks that become dirty on the way may wait for the next commit. */
static int write_refcounts(struct qcow2_image *img)
{
	struct qcow2_cache *cache = &img->cache;
	struct qcow2_commit_chunk *c = img->chunk_ref;
	u32 left = U32_MAX;
	int ret = 0;

	while (!ret && left) {
		u32 dirty = 0;

		/* refcounts are stable under alloc.lock */
		mutex_lock(&img->alloc.lock);
		spin_lock(&cache->lock);
		if (left == U32_MAX) {
			struct qcow2_block *blk;

			list_for_each_entry(blk, &cache->dirty_ref, dirty_link)
				dirty++;
			left = dirty;
		}
		while (left && c->n < CHUNK_BLOCKS &&
		       !list_empty(&cache->dirty_ref)) {
			take(img, list_first_entry(&cache->dirty_ref,
						   struct qcow2_block,
						   dirty_link), c);
			left--;
		}
		if (list_empty(&cache->dirty_ref))
			left = 0;
		spin_unlock(&cache->lock);
		mutex_unlock(&img->alloc.lock);
		if (c->n)
			ret = qcow2_meta_rw(img, true, c->iov, c->n);
		release(img, c, !ret);
	}
	return ret;
}

static int write_map(struct qcow2_image *img, struct list_head *chunks)
{
	struct qcow2_commit_chunk *c;
	int ret = 0;

	list_for_each_entry(c, chunks, link) {
		if (!ret && c->n)
			ret = qcow2_meta_rw(img, true, c->iov, c->n);
	}
	return ret;
}

static int flush(struct qcow2_image *img)
{
	int ret = qcow2_host_flush(img);

	if (ret)
		img->commit_error = ret;
	return ret;
}

/* Steps 2 to 5 for what has been frozen. */
static int write_round(struct qcow2_image *img, struct list_head *chunks, u32 n)
{
	bool urgent = qcow2_alloc_freeze(img);
	bool table = qcow2_alloc_pending(img);
	void *sector = img->chunk_ref->copy[0];
	int ret;

	ret = write_refcounts(img);
	if (!ret && table && urgent) {
		ret = flush(img);
		if (!ret)
			ret = qcow2_alloc_write_table(img, sector);
		table = false;
	}
	if (!ret)
		ret = flush(img);
	if (!ret && (n || table)) {
		ret = write_map(img, chunks);
		if (!ret && table)
			ret = qcow2_alloc_write_table(img, sector);
		if (!ret)
			ret = flush(img);
	}
	qcow2_alloc_thaw(img, !ret);
	return ret;
}

/*
 * Gives the space of clusters back that are about to be free: no entry on the
 * disk names them, and nobody reads or writes them any more.
 */
static void give_back(struct qcow2_image *img, const struct qcow2_free *f)
{
	u64 cluster = f->cluster, end = f->cluster + f->nr, first, n;

	while (!READ_ONCE(img->keep_space) && cluster < end) {
		n = qcow2_alloc_last(img, cluster, end - cluster, f->table,
				     &first);
		if (!n)
			break;
		img->ops->discard(img->be, first << img->hdr.cluster_bits,
				  n << img->hdr.cluster_bits);
		cluster = first + n;
	}
}

/* Decrements whose clusters nobody reads or writes any more. */
static int apply_drained(struct qcow2_image *img)
{
	struct qcow2_free *f, *next;
	int ret = 0;

	list_for_each_entry_safe(f, next, &img->draining, link) {
		if (ret || !port_epoch_done(&img->epoch, f->cookie))
			break;
		give_back(img, f);
		ret = qcow2_alloc_drop(img, f->cluster, f->nr, f->table);
		list_del(&f->link);
		port_free(f);
		atomic_dec(&img->nr_frees);
	}
	return ret;
}

/* What was unlinked before the commit is unlinked on the disk. */
static void start_drain(struct qcow2_image *img, struct list_head *unlinked)
{
	struct qcow2_free *f;
	u64 cookie;

	if (list_empty(unlinked))
		return;
	cookie = port_epoch_start(&img->epoch);
	list_for_each_entry(f, unlinked, link)
		f->cookie = cookie;
	list_splice_tail_init(unlinked, &img->draining);
}

static bool may_repeat(const struct qcow2_image *img, int ret)
{
	return (ret == -ENOSPC || ret == -EDQUOT) && !img->commit_error;
}

/* All that was dirty at the start becomes durable. C held. */
static int commit(struct qcow2_image *img)
{
	struct qcow2_cache *cache = &img->cache;
	struct qcow2_block *blk;
	LIST_HEAD(unlinked);
	u32 budget = 0, n;
	int ret;

	apply_drained(img); /* a failure is reported and leaks */

	/* before the freeze: every entry behind this list is dirty already */
	spin_lock(&cache->lock);
	list_splice_tail_init(&img->unlinked, &unlinked);
	list_for_each_entry(blk, &cache->dirty_map, dirty_link)
		budget++;
	spin_unlock(&cache->lock);

	do {
		LIST_HEAD(chunks);

		n = freeze(img, &chunks, budget);
		ret = write_round(img, &chunks, n);
		release_all(img, &chunks, !ret);
		budget -= n;
	} while (!ret && n && budget);

	if (!ret) {
		start_drain(img, &unlinked);
		return 0;
	}
	spin_lock(&cache->lock);
	list_splice_init(&unlinked, &img->unlinked);
	spin_unlock(&cache->lock);
	return ret;
}

/**
 * __qcow2_commit() - qcow2_commit() with commit_lock held
 * @img: the image
 */
int __qcow2_commit(struct qcow2_image *img)
{
	int ret;

	lockdep_assert_held(&img->commit_lock);
	if (img->commit_error)
		return img->commit_error;
	/* pairs with the release in qcow2_activate() */
	if (!smp_load_acquire(&img->writable)) {
		/* an overwrite may have come between trust and this flag */
		return img->read_only ? 0 : flush(img);
	}
	atomic64_inc(&img->stats.commits);
	ret = commit(img);
	if (may_repeat(img, ret)) {
		qcow2_lower_mode(img, QCOW2_NO_SPACE,
				 "no space for metadata on the host: error %d",
				 ret);
	} else if (ret) {
		img->commit_error = ret;
		qcow2_lower_mode(img, QCOW2_READ_ONLY,
				 "metadata could not be written: error %d", ret);
	}
	return ret;
}

/**
 * qcow2_commit() - make everything durable that completed before the call
 * @img: the image
 *
 * Guest data, its mapping, its refcounts. One call serves any number of FLUSH
 * and FUA requests that were waiting when it began.
 *
 * Context: may sleep; no lock held, and not inside an epoch.
 * Return: 0, or the error that took durability away.
 */
int qcow2_commit(struct qcow2_image *img)
{
	int ret;

	mutex_lock(&img->commit_lock);
	ret = __qcow2_commit(img);
	mutex_unlock(&img->commit_lock);
	return ret;
}

/**
 * qcow2_commit_drain() - make outstanding decrements and commit them
 * @img: the image; no I/O is under way
 *
 * Context: may sleep; no lock held.
 * Return: 0 or a negative errno.
 */
int qcow2_commit_drain(struct qcow2_image *img)
{
	int ret = 0;

	mutex_lock(&img->commit_lock);
	if (!list_empty(&img->draining)) {
		port_epoch_sync(&img->epoch);
		ret = __qcow2_commit(img);
	}
	mutex_unlock(&img->commit_lock);
	return ret;
}

/**
 * qcow2_commit_relieve() - keep the dirty part of the cache below half
 * @img: the image
 *
 * Called by allocating writes before they make more of it.
 *
 * Context: may sleep; no lock held.
 * Return: 0, or the error of the commit.
 */
int qcow2_commit_relieve(struct qcow2_image *img)
{
	if (READ_ONCE(img->cache.nr_dirty) <= img->cache.max_blocks / 2)
		return 0;
	return qcow2_commit(img);
}
