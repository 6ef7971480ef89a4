// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the refcounts and the free space of the host: which clusters
 * are taken, given back, and how refcount blocks and the refcount table grow.
 * It writes nothing but what has no reference yet: commit.c says when the rest
 * reaches the disk.
 *
 * Allocation goes upwards from the end of the used part, so that what is
 * written in order lies in order, and so that the first allocation in a large
 * image reads one refcount block and not all of them. Clusters that were freed
 * since attach are used first; the part below the cursor is searched when the
 * host has no more room.
 *
 * A refcount block is never counted in a block that is itself not on the disk:
 * it is counted in the durable block that the cursor is in, or in itself.
 *
 * The refcounts of a dirty image are neither trusted nor changed. What is
 * allocated lies behind everything that any table names, and nothing is freed;
 * whoever repairs the image counts anew.
 */
#include "alloc.h"
#include "commit.h"
#include "metacache.h"
#include "overlap.h"
#include "survey.h"

void qcow2_alloc_init(struct qcow2_image *img)
{
	mutex_init(&img->alloc.lock);
	INIT_LIST_HEAD(&img->alloc.waiters);
}

void qcow2_alloc_destroy(struct qcow2_image *img)
{
	port_vfree(img->alloc.reftable);
	img->alloc.reftable = NULL;
}

/* Errors that pass when the host gets room. */
static bool lacks_space(int ret)
{
	return ret == -ENOSPC || ret == -EDQUOT || ret == -EFBIG;
}

static u64 block_entries(const struct qcow2_image *img)
{
	return BIT_ULL(qcow2_refblock_bits(&img->hdr));
}

/* Refcounts in one cached piece of a refcount block. */
static u64 piece_entries(const struct qcow2_image *img)
{
	return ((u64)img->cache.block_size * 8) >> img->hdr.refcount_order;
}

static u64 rt_offset(u64 entry)
{
	return entry & ~(u64)QCOW2_RT_FLAGS;
}

/*
 * Pins the piece of a refcount block that counts @cluster, whose table entry
 * exists. S held.
 */
static int get_piece(struct qcow2_image *img, u64 cluster,
		     struct qcow2_block **blk, u32 *index)
{
	u64 rti = cluster >> qcow2_refblock_bits(&img->hdr);
	u64 in_block = cluster & (block_entries(img) - 1);
	u64 host = rt_offset(img->alloc.reftable[rti]);
	u64 pos = host + in_block / piece_entries(img) * img->cache.block_size;
	int ret;

	*index = in_block & (piece_entries(img) - 1);
	ret = qcow2_cache_get(img, QCOW2_BLOCK_REF, pos, host,
			      qcow2_cluster_size(&img->hdr), blk);
	if (ret == -EUCLEAN)
		ret = qcow2_corrupt(img,
				    "refcount table: entry %llu names a block at %#llx, where other metadata is",
				    (unsigned long long)rti,
				    (unsigned long long)host);
	return ret;
}

/* ---------------------------------------------------------------- */

/* Reads and checks the refcount table; every block joins the metadata. */
static int load_table(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 bytes = a->reftable_entries * 8, pos, i;
	void *buf = port_pool_get(&img->copies);
	int ret = 0;

	for (pos = 0; !ret && pos < bytes; pos += QCOW2_COW_BYTES) {
		struct qcow2_iovec v = {
			img->hdr.reftable_offset + pos, buf,
			min_t(u64, bytes - pos, QCOW2_COW_BYTES),
		};
		const __be64 *p = buf;

		ret = qcow2_meta_rw(img, false, &v, 1);
		for (i = pos / 8; !ret && i < (pos + v.len) / 8; i++, p++) {
			u64 host, cluster = 0;
			const char *what = NULL;

			ret = qcow2_rt_decode(&img->hdr, *p, &host);
			if (!ret && host) {
				cluster = qcow2_cluster_index(&img->hdr, host);
				what = qcow2_overlap_find(img, cluster, 1);
				if (what || host >= img->host_end)
					ret = -EUCLEAN;
			}
			if (ret) {
				qcow2_corrupt(img, "refcount table: entry %llu is %#llx: %s",
					      (unsigned long long)i,
					      (unsigned long long)be64_to_cpu(*p),
					      what ?: "not a cluster of this file");
				break;
			}
			a->reftable[i] = host;
			if (host)
				ret = qcow2_overlap_add(img, cluster);
		}
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/* One past the last cluster with a refcount: the last block tells. */
static int find_end(struct qcow2_image *img, u64 *end)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 rti, first, pos;

	*end = 1;
	for (rti = a->reftable_entries; rti-- > 0;) {
		if (!a->reftable[rti])
			continue;
		first = rti << qcow2_refblock_bits(&img->hdr);
		for (pos = first + block_entries(img); pos > first;) {
			struct qcow2_block *blk;
			u32 i, index;
			int ret;

			pos -= piece_entries(img);
			ret = get_piece(img, pos, &blk, &index);
			if (ret)
				return ret;
			for (i = piece_entries(img); i-- > 0;) {
				if (qcow2_refcount_get(blk->data, i,
						       img->hdr.refcount_order)) {
					*end = max_t(u64, pos + i + 1, 1);
					qcow2_cache_put(img, blk);
					return 0;
				}
			}
			qcow2_cache_put(img, blk);
		}
		/* an empty block at the end: look at the one before */
	}
	return 0;
}

/* S held. */
static void set_limit(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;

	a->limit = (QCOW2_MAX_HOST_OFFSET >> img->hdr.cluster_bits) + 1;
	a->limit = min_t(u64, a->limit, (u64)(QCOW2_MAX_REFTABLE_BYTES / 8) <<
			 qcow2_refblock_bits(&img->hdr));
	if (!img->ops->growable)
		a->limit = min_t(u64, a->limit,
				 img->host_end >> img->hdr.cluster_bits);
}

/**
 * qcow2_alloc_refresh() - look again how much room there is
 * @img: the image
 *
 * A block device may have been enlarged, space been made on a filesystem.
 *
 * Context: may sleep; takes alloc.lock.
 */
void qcow2_alloc_refresh(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;

	mutex_lock(&a->lock);
	WRITE_ONCE(img->host_end, max(img->host_end, img->ops->size(img->be)));
	set_limit(img);
	a->exhausted = false;
	a->full = 0;
	a->in_vain = atomic_read(&img->unlinks) - 1;
	mutex_unlock(&a->lock);
}

/**
 * qcow2_alloc_load() - make ready to allocate
 * @img: the image, being activated
 *
 * Reads the refcount table and, of the refcount blocks, the last that counts
 * anything.
 *
 * Context: may sleep; activate_lock held.
 * Return: 0; -EUCLEAN (reported); a negative errno.
 */
int qcow2_alloc_load(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 end;
	int ret;

	mutex_lock(&a->lock);
	port_vfree(a->reftable);
	a->reftable_entries = qcow2_reftable_entries(&img->hdr);
	a->reftable = port_vzalloc(a->reftable_entries * sizeof(u64));
	ret = a->reftable ? load_table(img) : -ENOMEM;
	end = 1;
	if (!ret && !qcow2_dirty(img))
		ret = find_end(img, &end);
	if (ret)
		goto out;
	a->pending_lo = U64_MAX;
	a->pending_hi = 0;
	a->frozen_lo = U64_MAX;
	a->frozen_hi = 0;
	/* counts beyond the end of the host are leaks, and do not move us there */
	end = min(end, qcow2_clusters_for(&img->hdr, img->host_end));
	a->end = end;
	a->data_floor = qcow2_external(&img->hdr) ?
		img->data.ops->size(img->data.be) : 0;
	a->cursor = end;
	a->exhausted = false;
	/* the last cluster may be in use, and be written to its end */
	a->floor = qcow2_clusters_for(&img->hdr, img->host_end) <<
		img->hdr.cluster_bits;
	a->full = 0;
	a->fresh = img->ops->growable ?
		qcow2_clusters_for(&img->hdr, img->host_end) : U64_MAX;
	set_limit(img);
out:
	mutex_unlock(&a->lock);
	return ret;
}

/**
 * qcow2_alloc_end() - where the used part of the host ends
 * @img: the image, activated
 *
 * Not below where the host ended at activation: refcounts may lie, and what
 * they do not know can still be repaired while it is there.
 *
 * Return: host offset in bytes.
 */
u64 qcow2_alloc_end(struct qcow2_image *img)
{
	u64 end;

	mutex_lock(&img->alloc.lock);
	end = max(img->alloc.end << img->hdr.cluster_bits, img->alloc.floor);
	mutex_unlock(&img->alloc.lock);
	return end;
}

/* ---------------------------------------------------------------- */

/* The host reaches to @cluster. S held. */
static int reach(struct qcow2_image *img, u64 cluster)
{
	u64 bytes = cluster << img->hdr.cluster_bits;
	int ret;

	if (bytes <= img->host_end)
		return 0;
	ret = img->ops->grow(img->be, bytes);
	if (ret)
		return ret;
	WRITE_ONCE(img->host_end, img->ops->size(img->be));
	return img->host_end < bytes ? -ENOSPC : 0;
}

/*
 * Takes free clusters that have been found in one piece of a refcount block.
 * S held; the refcounts are 0.
 */
static int take(struct qcow2_image *img, u64 cluster, u64 nr, bool *fresh)
{
	struct qcow2_allocator *a = &img->alloc;
	struct qcow2_block *blk;
	const char *what;
	u32 index, i;
	int ret;

	*fresh = cluster >= a->fresh;
	what = qcow2_overlap_find(img, cluster, nr);
	if (what)
		return qcow2_corrupt(img,
				     "refcount of cluster %llu (at %#llx, %llu in a row) is 0, but it is part of %s",
				     (unsigned long long)cluster,
				     (unsigned long long)cluster << img->hdr.cluster_bits,
				     (unsigned long long)nr, what);
	ret = reach(img, cluster + nr);
	if (ret)
		return ret;
	ret = get_piece(img, cluster, &blk, &index);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++)
		qcow2_refcount_set(blk->data, index + i,
				   img->hdr.refcount_order, 1);
	qcow2_cache_mark_dirty(img, blk);
	qcow2_cache_put(img, blk);

	if (img->ops->growable)
		a->fresh = max(a->fresh, cluster + nr);
	a->end = max(a->end, cluster + nr);
	atomic64_add(nr, &img->stats.allocated);
	return 0;
}

static void mark_used(struct qcow2_image *img, u64 cluster)
{
	u64 *entry = &img->alloc.reftable[cluster >>
					  qcow2_refblock_bits(&img->hdr)];

	if (*entry & QCOW2_RT_PENDING)
		*entry |= QCOW2_RT_USED;
}

/*
 * Finds up to @want free clusters in a row at or after @from, in the piece that
 * @from is in. S held. *nr is 0 if there is none.
 */
static int scan_piece(struct qcow2_image *img, u64 from, u64 stop, u64 want,
		      u64 *cluster, u64 *nr)
{
	struct qcow2_block *blk;
	u32 index, i, last;
	int ret = get_piece(img, from, &blk, &index);

	*nr = 0;
	if (ret)
		return ret;
	last = min_t(u64, piece_entries(img), index + (stop - from));
	for (i = index; i < last && *nr < want; i++) {
		if (qcow2_refcount_get(blk->data, i, img->hdr.refcount_order)) {
			if (*nr)
				break;
			continue;
		}
		if (!(*nr)++)
			*cluster = from + (i - index);
	}
	qcow2_cache_put(img, blk);
	return 0;
}

/* Makes the bytes of a new table zeros, in memory and on the host. */
static int zero_cluster(struct qcow2_image *img, u64 cluster, bool fresh)
{
	if (fresh)
		return 0;
	return img->ops->zero(img->be, cluster << img->hdr.cluster_bits,
			      qcow2_cluster_size(&img->hdr));
}

/* The new refcount block at @cluster counts itself. S held. */
static int count_itself(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_block *blk;
	int ret = qcow2_cache_new(img, QCOW2_BLOCK_REF,
				  cluster << img->hdr.cluster_bits, &blk);

	if (ret)
		return ret;
	/* its own range begins with it */
	qcow2_refcount_set(blk->data, 0, img->hdr.refcount_order, 1);
	qcow2_cache_mark_dirty(img, blk);
	qcow2_cache_put(img, blk);
	return 0;
}

/* Where a refcount block can be counted now, or 0. S held. */
static int find_place(struct qcow2_image *img, u64 *cluster)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 rti = a->cursor >> qcow2_refblock_bits(&img->hdr);
	u64 end = (rti + 1) << qcow2_refblock_bits(&img->hdr);
	u64 from = a->cursor, nr = 0;
	int ret = 0;

	*cluster = 0;
	if (rti >= a->reftable_entries || !a->reftable[rti] ||
	    (a->reftable[rti] & QCOW2_RT_FLAGS))
		return 0;
	end = min(end, a->limit);
	while (!ret && !nr && from < end) {
		ret = scan_piece(img, from, end, 1, cluster, &nr);
		from = (from | (piece_entries(img) - 1)) + 1;
	}
	if (!nr)
		*cluster = 0;
	return ret;
}

/* Makes the refcount block number @rti. S held. */
static int add_block(struct qcow2_image *img, u64 rti)
{
	struct qcow2_allocator *a = &img->alloc;
	const char *what;
	u64 cluster;
	bool fresh, itself;
	int ret;

	if (!rti)
		return qcow2_corrupt(img,
				     "refcount table: entry 0 is empty, so the header is not counted");
	ret = find_place(img, &cluster);
	if (ret)
		return ret;
	itself = !cluster;
	if (itself) {
		cluster = rti << qcow2_refblock_bits(&img->hdr);
		what = qcow2_overlap_find(img, cluster, 1);
		if (what)
			return qcow2_corrupt(img,
					     "refcount table: entry %llu is empty, but cluster %llu is part of %s",
					     (unsigned long long)rti,
					     (unsigned long long)cluster, what);
		ret = reach(img, cluster + 1);
		fresh = cluster >= a->fresh;
		if (!ret && img->ops->growable)
			a->fresh = max(a->fresh, cluster + 1);
		a->end = max(a->end, cluster + 1);
	} else {
		ret = take(img, cluster, 1, &fresh);
		if (!ret && cluster == a->cursor)
			a->cursor++;
	}
	/* from here on, a failure leaks the one cluster */
	if (!ret)
		ret = zero_cluster(img, cluster, fresh);
	if (!ret)
		ret = qcow2_overlap_add(img, cluster);
	if (!ret && itself) {
		ret = count_itself(img, cluster);
		if (ret)
			qcow2_overlap_remove(img, cluster);
	}
	if (ret)
		return ret;
	a->reftable[rti] = (cluster << img->hdr.cluster_bits) | QCOW2_RT_PENDING;
	a->pending_lo = min(a->pending_lo, rti);
	a->pending_hi = max(a->pending_hi, rti);
	return 0;
}

/*
 * Rule O17: the next refcount block is made while the present one still has
 * room, so that it is on the disk before its first use and that commit needs
 * no third flush. S held. Failure is no failure: it will be tried when needed.
 */
static void add_block_ahead(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 rti = a->cursor >> qcow2_refblock_bits(&img->hdr);
	u64 left = block_entries(img) - (a->cursor & (block_entries(img) - 1));

	if (left > block_entries(img) / 4 || rti + 1 >= a->reftable_entries ||
	    a->reftable[rti + 1] || !a->reftable[rti] ||
	    (a->reftable[rti] & QCOW2_RT_FLAGS) ||
	    ((rti + 1) << qcow2_refblock_bits(&img->hdr)) >= a->limit)
		return;
	add_block(img, rti + 1);
}

/* S held. -EAGAIN: the refcount table must grow; -ENOSPC: nothing to @stop. */
static int search(struct qcow2_image *img, u64 from, u64 stop, u64 want,
		  u64 *cluster, u64 *nr)
{
	struct qcow2_allocator *a = &img->alloc;
	int ret;

	while (from < stop) {
		u64 rti = from >> qcow2_refblock_bits(&img->hdr);

		if (rti >= a->reftable_entries) {
			if (a->full == a->reftable_entries)
				return -ENOSPC;
			a->starved = a->reftable_entries;
			return -EAGAIN;
		}
		if (!a->reftable[rti]) {
			ret = add_block(img, rti);
			if (ret)
				return ret;
		}
		ret = scan_piece(img, from, stop, want, cluster, nr);
		if (ret || *nr)
			return ret;
		from = (from | (piece_entries(img) - 1)) + 1;
	}
	return -ENOSPC;
}

/* A run that was freed since attach; only whole or larger ones. S held. */
static int take_recycled(struct qcow2_image *img, u64 want, u64 *cluster,
			 u64 *nr, bool *fresh)
{
	struct qcow2_allocator *a = &img->alloc;
	int ret;

	while (a->nr_recycle) {
		u64 first = a->recycle[a->nr_recycle - 1].cluster;
		u64 left = a->recycle[a->nr_recycle - 1].nr;

		ret = scan_piece(img, first, first + left, min(want, left),
				 cluster, nr);
		if (ret)
			return ret;
		if (!*nr || *cluster != first) {
			a->nr_recycle--; /* taken in the meantime by the search */
			continue;
		}
		ret = take(img, *cluster, *nr, fresh);
		if (ret)
			return ret;
		if (left == *nr) {
			a->nr_recycle--;
		} else {
			a->recycle[a->nr_recycle - 1].cluster += *nr;
			a->recycle[a->nr_recycle - 1].nr -= *nr;
		}
		return 0;
	}
	return -ENOSPC;
}

/* Takes a found run, or its first if the host has no room for all. S held. */
static int take_some(struct qcow2_image *img, u64 cluster, u64 *nr, bool *fresh)
{
	int ret = take(img, cluster, *nr, fresh);

	if (!lacks_space(ret) || *nr == 1)
		return ret;
	*nr = 1;
	return take(img, cluster, 1, fresh);
}

/*
 * Where refcounts are not to be trusted, the host is used upwards and never
 * again. S held.
 */
static int take_next(struct qcow2_image *img, u64 want, u64 *cluster, u64 *nr,
		     bool *fresh)
{
	struct qcow2_allocator *a = &img->alloc;
	int ret;

	if (!a->scanned)
		return -EAGAIN;
	if (a->cursor >= a->limit)
		return -ENOSPC;
	*cluster = a->cursor;
	*nr = min(want, a->limit - a->cursor);
	ret = reach(img, *cluster + *nr);
	if (lacks_space(ret) && *nr > 1) {
		*nr = 1;
		ret = reach(img, *cluster + 1);
	}
	if (ret)
		return ret;
	*fresh = *cluster >= a->fresh;
	if (img->ops->growable)
		a->fresh = max(a->fresh, *cluster + *nr);
	a->cursor += *nr;
	a->end = max(a->end, a->cursor);
	atomic64_add(*nr, &img->stats.allocated);
	return 0;
}

/* S held. Do clusters wait for commits that have not been tried yet in vain? */
static bool may_reclaim(const struct qcow2_image *img)
{
	return atomic_read(&img->nr_frees) &&
		atomic_read(&img->unlinks) != img->alloc.in_vain;
}

/* S held. */
static int alloc_run(struct qcow2_image *img, u64 want, u64 *cluster, u64 *nr,
		     bool *fresh)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 old = a->cursor;
	int ret, pass;

	if (qcow2_dirty(img))
		return take_next(img, want, cluster, nr, fresh);
	ret = take_recycled(img, want, cluster, nr, fresh);
	if (ret != -ENOSPC)
		goto out;
	for (pass = 0; pass < (a->exhausted ? 1 : 2); pass++) {
		ret = search(img, pass ? 1 : a->cursor, pass ? old : a->limit,
			     want, cluster, nr);
		if (!ret)
			ret = take_some(img, *cluster, nr, fresh);
		if (!ret) {
			a->cursor = *cluster + *nr;
			add_block_ahead(img);
		}
		if (!lacks_space(ret))
			break;
	}
	if (lacks_space(ret)) {
		a->full = 0; /* the host may have space the next time */
		a->exhausted = true; /* below the cursor, until something is freed */
		if (may_reclaim(img)) {
			a->reclaim = true;
			ret = -EAGAIN;
		}
	}
out:
	if (!ret)
		mark_used(img, *cluster);
	return ret;
}

static int no_space(struct qcow2_image *img, int ret)
{
	if (lacks_space(ret)) {
		qcow2_lower_mode(img, QCOW2_NO_SPACE,
				 "no space for a new cluster on the host: error %d",
				 ret);
		return -ENOSPC;
	}
	if (!ret)
		qcow2_space_found(img);
	return ret;
}

/**
 * qcow2_alloc_run() - take host clusters for guest data
 * @img: the image, activated
 * @want: how many in a row, at least 1
 * @host: host offset of the first, in bytes
 * @got: how many there are, 1 to @want
 * @fresh: they read as zeros
 *
 * Their refcount is 1 in memory. They are linked by an L2 entry or given back
 * with qcow2_alloc_abort().
 *
 * Context: may sleep; takes alloc.lock.
 * Return: 0; -EAGAIN: call qcow2_alloc_prepare() without locks, then again;
 * -ENOSPC with the mode lowered; -EUCLEAN (reported); a negative errno.
 */
int qcow2_alloc_run(struct qcow2_image *img, u64 want, u64 *host, u64 *got,
		    bool *fresh)
{
	u64 cluster;
	int ret;

	mutex_lock(&img->alloc.lock);
	ret = alloc_run(img, want, &cluster, got, fresh);
	mutex_unlock(&img->alloc.lock);
	if (!ret)
		*host = cluster << img->hdr.cluster_bits;
	return no_space(img, ret);
}

/**
 * qcow2_alloc_table() - take a host cluster for an L2 table
 * @img: the image, activated
 * @host: its host offset in bytes
 * @fresh: it reads as zeros
 *
 * As qcow2_alloc_run(), and the cluster joins the metadata.
 */
int qcow2_alloc_table(struct qcow2_image *img, u64 *host, bool *fresh)
{
	u64 cluster, nr;
	int ret;

	mutex_lock(&img->alloc.lock);
	ret = alloc_run(img, 1, &cluster, &nr, fresh);
	if (!ret)
		ret = qcow2_overlap_add(img, cluster);
	mutex_unlock(&img->alloc.lock);
	if (!ret)
		*host = cluster << img->hdr.cluster_bits;
	return no_space(img, ret);
}

/**
 * qcow2_alloc_reach() - the host is at least this large
 * @img: the image, activated
 * @bytes: host offset
 *
 * Context: may sleep; takes alloc.lock.
 * Return: 0; -ENOSPC with the mode lowered; a negative errno.
 */
int qcow2_alloc_reach(struct qcow2_image *img, u64 bytes)
{
	bool grows;
	int ret;

	mutex_lock(&img->alloc.lock);
	grows = bytes > img->host_end;
	ret = reach(img, qcow2_clusters_for(&img->hdr, bytes));
	if (!ret)
		img->alloc.end = max(img->alloc.end,
				     qcow2_clusters_for(&img->hdr, bytes));
	/* it is about to be written: not fresh if it is ever freed */
	if (!ret && img->ops->growable)
		img->alloc.fresh = max(img->alloc.fresh,
				       qcow2_clusters_for(&img->hdr, bytes));
	mutex_unlock(&img->alloc.lock);
	return grows ? no_space(img, ret) : ret;
}

/* S held. */
static void recycle(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_allocator *a = &img->alloc;
	unsigned int n = a->nr_recycle;

	/* runs do not cross a piece: they are checked in one scan */
	if (n && a->recycle[n - 1].cluster + a->recycle[n - 1].nr == cluster &&
	    (cluster & (piece_entries(img) - 1))) {
		a->recycle[n - 1].nr++;
	} else if (n < QCOW2_RECYCLE) {
		a->recycle[n].cluster = cluster;
		a->recycle[n].nr = 1;
		a->nr_recycle++;
	}
}

/*
 * S held. Decrements and, at zero, makes the cluster free. Only @table may be
 * metadata: data that is, was given away twice by refcounts that lie.
 */
static int drop(struct qcow2_image *img, u64 cluster, bool table)
{
	u64 rti = cluster >> qcow2_refblock_bits(&img->hdr);
	struct qcow2_block *blk;
	u64 count = 0;
	u32 index;
	const char *what = qcow2_overlap_find(img, cluster, 1);
	int ret = 0;

	if (qcow2_dirty(img))
		return 0;
	if (what && !table)
		return qcow2_corrupt(img,
				     "cluster %llu held data and is part of %s now; it stays taken",
				     (unsigned long long)cluster, what);
	if (rti < img->alloc.reftable_entries && img->alloc.reftable[rti]) {
		ret = get_piece(img, cluster, &blk, &index);
		if (ret)
			return ret;
		count = qcow2_refcount_get(blk->data, index,
					   img->hdr.refcount_order);
		if (count) {
			qcow2_refcount_set(blk->data, index,
					   img->hdr.refcount_order, count - 1);
			qcow2_cache_mark_dirty(img, blk);
		}
		qcow2_cache_put(img, blk);
	}
	if (!count)
		return qcow2_corrupt(img, "refcount of cluster %llu is 0, but a table named it",
				     (unsigned long long)cluster);
	if (count == 1) {
		if (what) {
			qcow2_cache_drop(img, cluster << img->hdr.cluster_bits,
					 qcow2_cluster_size(&img->hdr));
			qcow2_overlap_remove(img, cluster);
		}
		img->alloc.exhausted = false;
		recycle(img, cluster);
		atomic64_inc(&img->stats.freed);
	}
	return 0;
}

/*
 * Every cluster of @nr in a row from the cursor on has a refcount block. New
 * blocks are counted where the cursor is, before the row: one by one, because
 * the block that counts them must be on the disk. S held.
 */
static int count_ahead(struct qcow2_image *img, u64 nr)
{
	struct qcow2_allocator *a = &img->alloc;
	u32 bits = qcow2_refblock_bits(&img->hdr);
	u64 rti;
	int ret;

	for (rti = a->cursor >> bits; rti <= (a->cursor + nr - 1) >> bits; rti++) {
		if (rti >= a->reftable_entries) {
			if (a->full == a->reftable_entries)
				return -ENOSPC;
			a->starved = a->reftable_entries;
			return -EAGAIN;
		}
		if (a->reftable[rti])
			continue;
		if (a->reftable[a->cursor >> bits] & QCOW2_RT_FLAGS)
			return -EAGAIN;
		ret = add_block(img, rti);
		if (ret)
			return ret;
	}
	return 0;
}

/* How many of @nr clusters in a row from the cursor on are free. S held. */
static int count_free(struct qcow2_image *img, u64 nr, u64 *free)
{
	u64 from = img->alloc.cursor, cluster, n;
	int ret;

	for (*free = 0; *free < nr; *free += n) {
		ret = scan_piece(img, from + *free, from + nr, nr - *free,
				 &cluster, &n);
		if (ret)
			return ret;
		if (!n || cluster != from + *free)
			break;
	}
	return 0;
}

/* Takes @nr free clusters in a row, or none. S held. */
static int take_row(struct qcow2_image *img, u64 cluster, u64 nr)
{
	u64 done = 0, n;
	bool fresh;
	int ret = 0;

	for (; !ret && done < nr; done += n) {
		u64 pos = cluster + done;

		n = piece_entries(img) - (pos & (piece_entries(img) - 1));
		n = min(n, nr - done);
		ret = take(img, pos, n, &fresh);
		if (ret)
			break;
		mark_used(img, pos);
	}
	while (ret && done--)
		drop(img, cluster + done, true);
	return ret;
}

/* S held. */
static int alloc_row(struct qcow2_image *img, u64 nr, u64 *cluster)
{
	struct qcow2_allocator *a = &img->alloc;
	bool fresh;
	u64 n;
	int ret;

	if (qcow2_dirty(img)) {
		ret = take_next(img, nr, cluster, &n, &fresh);
		return ret ?: n < nr ? -ENOSPC : 0;
	}
	/* the search begins above what it has not seen */
	a->exhausted &= a->cursor >= a->end;
	a->cursor = max(a->cursor, a->end);
	for (;;) {
		if (a->cursor + nr > a->limit)
			return -ENOSPC;
		ret = count_ahead(img, nr);
		if (!ret)
			ret = count_free(img, nr, &n);
		if (ret)
			return ret;
		if (n == nr)
			break;
		if (n)
			a->exhausted = false;
		a->cursor += n + 1;
	}
	ret = take_row(img, a->cursor, nr);
	if (ret)
		return ret;
	*cluster = a->cursor;
	a->cursor += nr;
	return 0;
}

/**
 * qcow2_alloc_row() - take host clusters in a row, all of them
 * @img: the image, activated
 * @nr: how many, at least 1
 * @host: host offset of the first, in bytes
 *
 * For a table of several clusters: they come from the end of the used part, but
 * for a single one. What is in them is not known.
 *
 * Context: may sleep; takes alloc.lock.
 * Return: 0; -EAGAIN: call qcow2_alloc_prepare(), which also commits, without
 * locks, then again; -ENOSPC; -EUCLEAN (reported); a negative errno.
 */
int qcow2_alloc_row(struct qcow2_image *img, u64 nr, u64 *host)
{
	u64 cluster, got;
	bool fresh;
	int ret;

	mutex_lock(&img->alloc.lock);
	ret = nr == 1 ? alloc_run(img, 1, &cluster, &got, &fresh) :
		alloc_row(img, nr, &cluster);
	mutex_unlock(&img->alloc.lock);
	if (!ret)
		*host = cluster << img->hdr.cluster_bits;
	return ret;
}

/* S held. The refcount of a cluster, 0 if it cannot be told. */
static u64 count_of(struct qcow2_image *img, u64 cluster)
{
	u64 rti = cluster >> qcow2_refblock_bits(&img->hdr), count;
	struct qcow2_block *blk;
	u32 index;

	if (qcow2_dirty(img) || rti >= img->alloc.reftable_entries ||
	    !img->alloc.reftable[rti] || get_piece(img, cluster, &blk, &index))
		return 0;
	count = qcow2_refcount_get(blk->data, index, img->hdr.refcount_order);
	qcow2_cache_put(img, blk);
	return count;
}

/**
 * qcow2_alloc_last() - how many clusters of a run lose their last reference?
 * @img: the image
 * @cluster: first host cluster index
 * @nr: length of the run
 * @table: they hold metadata; if not, what does is left out
 * @first: the first that does
 *
 * Their host space may be given back before qcow2_alloc_drop() makes them free.
 *
 * Context: may sleep; takes alloc.lock.
 * Return: how many in a row from @first on, 0 if there is none.
 */
u64 qcow2_alloc_last(struct qcow2_image *img, u64 cluster, u64 nr, bool table,
		     u64 *first)
{
	u64 n = 0;

	mutex_lock(&img->alloc.lock);
	for (; nr; nr--, cluster++) {
		if (count_of(img, cluster) == 1 &&
		    (table || !qcow2_overlap_find(img, cluster, 1))) {
			if (!n++)
				*first = cluster;
		} else if (n) {
			break;
		}
	}
	mutex_unlock(&img->alloc.lock);
	return n;
}

/**
 * qcow2_alloc_drop() - take one reference from host clusters
 * @img: the image
 * @cluster: first host cluster index
 * @nr: how many
 * @table: they hold metadata
 *
 * What named them is gone from the disk (rule O7), and no I/O that was mapped
 * to them is under way.
 *
 * Context: may sleep; takes alloc.lock.
 * Return: 0; -EUCLEAN (reported); the error of a read.
 */
int qcow2_alloc_drop(struct qcow2_image *img, u64 cluster, u64 nr, bool table)
{
	int ret = 0;

	mutex_lock(&img->alloc.lock);
	for (; !ret && nr; nr--)
		ret = drop(img, cluster++, table);
	mutex_unlock(&img->alloc.lock);
	return ret;
}

/**
 * qcow2_alloc_abort() - give back clusters that were never linked
 * @img: the image
 * @host: host offset of the first, in bytes
 * @nr: how many
 * @table: they were to hold metadata
 *
 * Context: may sleep. A failure leaks them, which is allowed.
 */
void qcow2_alloc_abort(struct qcow2_image *img, u64 host, u64 nr, bool table)
{
	qcow2_alloc_drop(img, qcow2_cluster_index(&img->hdr, host), nr, table);
}

/* ---------------------------------------------------------------- */

/* The layout of a larger refcount table and the blocks that count it. */
struct relocation {
	u64 first;	/* cluster index: blocks first, then the table */
	u64 blocks;
	u64 clusters;	/* of the table */
	u64 entries;
};

static int plan(struct qcow2_image *img, struct relocation *r)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 per_cluster = qcow2_cluster_size(&img->hdr) / 8;
	u64 max = QCOW2_MAX_REFTABLE_BYTES >> img->hdr.cluster_bits;
	u64 old = a->reftable_entries, blocks = 0;

	r->first = old << qcow2_refblock_bits(&img->hdr);
	do {
		r->blocks = blocks ?: 1;
		r->clusters = DIV_ROUND_UP_ULL(old + old / 2 + r->blocks + 1,
					       per_cluster);
		r->clusters = min(r->clusters, max);
		blocks = DIV_ROUND_UP_ULL(r->blocks + r->clusters,
					  block_entries(img));
	} while (blocks > r->blocks);
	r->entries = r->clusters * per_cluster;
	if (r->entries < old + r->blocks ||
	    r->first + r->blocks + r->clusters > a->limit)
		return -ENOSPC;
	return 0;
}

/* Writes what a callback makes over @len bytes at @host. */
static int write_made(struct qcow2_image *img, u64 host, u64 len,
		      void (*fill)(struct qcow2_image *img, void *buf, u64 pos,
				   u32 len, void *arg), void *arg)
{
	void *buf = port_pool_get(&img->copies);
	u64 pos;
	int ret = 0;

	for (pos = 0; !ret && pos < len; pos += QCOW2_COW_BYTES) {
		struct qcow2_iovec v = {
			host + pos, buf,
			min_t(u64, len - pos, QCOW2_COW_BYTES),
		};

		memset(buf, 0, v.len);
		fill(img, buf, pos, v.len, arg);
		ret = qcow2_meta_rw(img, true, &v, 1);
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/* The new blocks, laid end to end, count the clusters from r->first on. */
static void fill_blocks(struct qcow2_image *img, void *buf, u64 pos, u32 len,
			void *arg)
{
	const struct relocation *r = arg;
	u64 first = (pos * 8) >> img->hdr.refcount_order;
	u64 n = ((u64)len * 8) >> img->hdr.refcount_order, i;

	for (i = 0; i < n && first + i < r->blocks + r->clusters; i++)
		qcow2_refcount_set(buf, i, img->hdr.refcount_order, 1);
}

static u64 entry_on_disk(u64 entry)
{
	if ((entry & QCOW2_RT_PENDING) && !(entry & QCOW2_RT_FROZEN))
		return 0;
	return rt_offset(entry);
}

static void fill_table(struct qcow2_image *img, void *buf, u64 pos, u32 len,
		       void *arg)
{
	const struct relocation *r = arg;
	struct qcow2_allocator *a = &img->alloc;
	__be64 *p = buf;
	u64 i;

	for (i = pos / 8; i < (pos + len) / 8; i++, p++) {
		u64 host = 0;

		if (i < a->reftable_entries)
			host = entry_on_disk(a->reftable[i]);
		else if (i < a->reftable_entries + r->blocks)
			host = (r->first + i - a->reftable_entries) <<
				img->hdr.cluster_bits;
		*p = qcow2_entry_encode(host, false);
	}
}

/* S held. The new table is in use on the disk; make it so in memory. */
static void adopt(struct qcow2_image *img, const struct relocation *r, u64 *table)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 i, old = a->reftable_entries;

	memcpy(table, a->reftable, old * sizeof(u64));
	for (i = 0; i < r->blocks; i++)
		table[old + i] = (r->first + i) << img->hdr.cluster_bits;
	port_vfree(a->reftable);
	a->reftable = table;
	a->reftable_entries = r->entries;
	a->end = max(a->end, r->first + r->blocks + r->clusters);
	if (img->ops->growable)
		a->fresh = max(a->fresh, r->first + r->blocks + r->clusters);
	atomic64_add(r->blocks + r->clusters, &img->stats.allocated);
}

/* The new refcount blocks join the metadata, or leave it again. S held. */
static int announce_blocks(struct qcow2_image *img, const struct relocation *r)
{
	int ret = 0;
	u64 i;

	for (i = 0; !ret && i < r->blocks; i++)
		ret = qcow2_overlap_add(img, r->first + i);
	return ret;
}

static void withdraw_blocks(struct qcow2_image *img, const struct relocation *r)
{
	u64 i;

	for (i = 0; i < r->blocks; i++)
		qcow2_overlap_remove(img, r->first + i);
}

/* S held. Writes blocks and table, and has the header name them. */
static int write_relocation(struct qcow2_image *img, struct relocation *r)
{
	u64 offset = (r->first + r->blocks) << img->hdr.cluster_bits;
	int ret;

	ret = write_made(img, r->first << img->hdr.cluster_bits,
			 r->blocks << img->hdr.cluster_bits, fill_blocks, r);
	if (!ret)
		ret = write_made(img, offset,
				 r->clusters << img->hdr.cluster_bits,
				 fill_table, r);
	if (ret)
		return ret;
	ret = qcow2_host_flush(img);
	if (!ret)
		ret = qcow2_header_set_reftable(img, offset, r->clusters);
	/* which table the disk names is not known: no more commits */
	img->commit_error = ret;
	return ret;
}

/* C and S held. */
static int relocate(struct qcow2_image *img, struct relocation *r)
{
	u64 old = qcow2_cluster_index(&img->hdr, img->hdr.reftable_offset);
	u64 old_nr = img->hdr.reftable_clusters;
	u64 *table;
	int ret;

	if (qcow2_overlap_find(img, r->first, r->blocks + r->clusters))
		return qcow2_corrupt(img,
				     "clusters from %llu on lie beyond the refcount table, but hold metadata",
				     (unsigned long long)r->first);
	ret = reach(img, r->first + r->blocks + r->clusters);
	if (ret)
		return ret;
	/* whatever needs memory comes before the header changes */
	table = port_vzalloc(r->entries * sizeof(u64));
	ret = table ? announce_blocks(img, r) : -ENOMEM;
	if (!ret)
		ret = write_relocation(img, r);
	if (ret) {
		withdraw_blocks(img, r);
		port_vfree(table);
		if (img->commit_error || !lacks_space(ret))
			qcow2_lower_mode(img, QCOW2_READ_ONLY,
					 "the refcount table could not be moved: error %d",
					 ret);
		return ret;
	}
	adopt(img, r, table);
	qcow2_overlap_set_reftable(img, img->hdr.reftable_offset, r->clusters);
	/* the header that named the old one is gone from the disk */
	while (!ret && old_nr--)
		ret = drop(img, old++, true);
	return ret;
}

/* 0: it is known; 1: find it, and call end_search(); -EINPROGRESS: others do. */
static int begin_search(struct qcow2_image *img, struct qcow2_waiter *waiter)
{
	struct qcow2_allocator *a = &img->alloc;
	int ret = 0;

	mutex_lock(&a->lock);
	if (a->scanned) {
		ret = 0;
	} else if (a->scanning) {
		ret = -EINPROGRESS;
		if (waiter)
			list_add_tail(&waiter->link, &a->waiters);
	} else {
		ret = 1;
		a->scanning = true;
	}
	mutex_unlock(&a->lock);
	return ret;
}

static void end_search(struct qcow2_image *img, u64 end, bool found)
{
	struct qcow2_allocator *a = &img->alloc;
	struct qcow2_waiter *w, *next;
	LIST_HEAD(waiters);

	mutex_lock(&a->lock);
	a->scanning = false;
	if (found) {
		/* what is in the file without a name may have been meant to have one */
		if (img->ops->growable)
			end = max(end, qcow2_clusters_for(&img->hdr, img->host_end));
		a->cursor = max(a->cursor, end);
		a->scanned = true;
	}
	list_splice_init(&a->waiters, &waiters);
	mutex_unlock(&a->lock);
	list_for_each_entry_safe(w, next, &waiters, link)
		w->wake(w);
}

/**
 * qcow2_alloc_keep() - a dirty image loses the name of clusters in use
 * @img: the image, activated
 * @end: one past the last of them, a host cluster index
 *
 * A search for the end of what is in use may be under way, and not find them any
 * more. They are not free: the disk may still name them (rule O7).
 *
 * Context: may sleep; takes alloc.lock if the image is dirty.
 */
void qcow2_alloc_keep(struct qcow2_image *img, u64 end)
{
	if (!qcow2_dirty(img))
		return;
	mutex_lock(&img->alloc.lock);
	img->alloc.cursor = max(img->alloc.cursor, end);
	mutex_unlock(&img->alloc.lock);
}

/* Finds where a dirty image has nothing in use. */
static int find_unused(struct qcow2_image *img, struct qcow2_waiter *waiter)
{
	u64 end = 0;
	int ret = begin_search(img, waiter);

	if (ret <= 0)
		return ret;
	img->ops->log(img->be, "the image is dirty: looking for the end of what is in use");
	ret = qcow2_survey_end(img, &end);
	end_search(img, end, !ret);
	return ret;
}

/**
 * qcow2_reclaim() - clusters that nothing refers to any more become free
 * @img: the image, activated
 * @wait: for guest I/O that may still use them
 *
 * Commits, so that the disk does not name them, and commits again. Whoever waits
 * for space is woken.
 *
 * Context: may sleep; no lock held, not inside an epoch. With @wait, not a thread
 * that is needed for that I/O to end.
 */
void qcow2_reclaim(struct qcow2_image *img, bool wait)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 freed = atomic64_read(&img->stats.freed);
	int unlinks = atomic_read(&img->unlinks);
	struct qcow2_waiter *w, *next;
	LIST_HEAD(waiters);

	mutex_lock(&a->lock);
	a->reclaim = false;
	mutex_unlock(&a->lock);

	if (!qcow2_commit(img)) {
		if (wait)
			port_epoch_sync(&img->epoch);
		qcow2_commit(img);
	}

	mutex_lock(&a->lock);
	if (freed == (u64)atomic64_read(&img->stats.freed))
		a->in_vain = unlinks;
	list_splice_init(&a->waiters, &waiters);
	mutex_unlock(&a->lock);
	list_for_each_entry_safe(w, next, &waiters, link)
		w->wake(w);
}

/* Has somebody said that space is to be reclaimed? Then @waiter waits for that. */
static int reclaim(struct qcow2_image *img, struct qcow2_waiter *waiter)
{
	struct qcow2_allocator *a = &img->alloc;
	bool wanted, queue;

	mutex_lock(&a->lock);
	wanted = a->reclaim;
	queue = wanted && waiter && img->ops->reclaim;
	if (queue)
		list_add_tail(&waiter->link, &a->waiters);
	mutex_unlock(&a->lock);
	if (queue) {
		img->ops->reclaim(img->be);
		return -EINPROGRESS;
	}
	/* without a waiter there is no guest I/O, see resize.c */
	if (wanted)
		qcow2_reclaim(img, !waiter);
	return 0;
}

/**
 * qcow2_alloc_prepare() - make it possible to allocate
 * @img: the image, activated
 * @waiter: woken when somebody else has made it possible, after -EINPROGRESS;
 *	may be NULL
 *
 * Moves the refcount table to a larger place; finds where a dirty image can grow;
 * has clusters freed for whose space only a commit is missing.
 *
 * The new table and the refcount blocks that count it and themselves lie
 * together in the first range that the old table does not reach, so nothing
 * that exists changes before the header does (rule O6).
 *
 * Context: may sleep; takes commit_lock and alloc.lock.
 * Return: 0 (also if somebody else did it, or there is no room for a larger
 * table: the search then turns round); -EINPROGRESS; a negative errno.
 */
int qcow2_alloc_prepare(struct qcow2_image *img, struct qcow2_waiter *waiter)
{
	struct qcow2_allocator *a = &img->alloc;
	struct relocation r;
	int ret;

	if (qcow2_dirty(img))
		return find_unused(img, waiter);
	ret = reclaim(img, waiter);
	if (ret)
		return ret;
	mutex_lock(&img->commit_lock);
	/* what the old table is to name must be in it before it is copied */
	ret = __qcow2_commit(img);
	if (ret)
		goto out;
	mutex_lock(&a->lock);
	if (a->starved == a->reftable_entries) {
		ret = plan(img, &r);
		if (ret) /* now and for ever */
			a->limit = a->reftable_entries <<
				qcow2_refblock_bits(&img->hdr);
		else
			ret = relocate(img, &r);
		if (lacks_space(ret) && !img->commit_error) {
			/* the search turns round where the table ends */
			a->full = a->reftable_entries;
			ret = 0;
		}
	}
	mutex_unlock(&a->lock);
out:
	mutex_unlock(&img->commit_lock);
	return ret;
}

/* ---------------------------------------------------------------- */

/**
 * qcow2_alloc_freeze() - fix which refcount table entries this commit writes
 * @img: the image; commit_lock held
 *
 * Return: true if a block among them counts clusters that this commit links, so
 * that the table must be durable before the links are written.
 */
bool qcow2_alloc_freeze(struct qcow2_image *img)
{
	struct qcow2_allocator *a = &img->alloc;
	bool urgent = false;
	u64 i;

	mutex_lock(&a->lock);
	a->frozen_lo = a->pending_lo;
	a->frozen_hi = a->pending_hi;
	a->pending_lo = U64_MAX;
	a->pending_hi = 0;
	for (i = a->frozen_lo; i <= a->frozen_hi; i++) {
		if (!(a->reftable[i] & QCOW2_RT_PENDING))
			continue;
		a->reftable[i] |= QCOW2_RT_FROZEN;
		urgent |= a->reftable[i] & QCOW2_RT_USED;
	}
	mutex_unlock(&a->lock);
	return urgent;
}

/* Does the running commit have refcount table entries to write? C held. */
bool qcow2_alloc_pending(struct qcow2_image *img)
{
	return img->alloc.frozen_lo <= img->alloc.frozen_hi;
}

/**
 * qcow2_alloc_write_table() - write the frozen refcount table entries
 * @img: the image; commit_lock held
 * @sector: 512 bytes from port_alloc() to write from
 *
 * Context: may sleep; takes alloc.lock.
 * Return: 0 or the error of a write.
 */
int qcow2_alloc_write_table(struct qcow2_image *img, void *sector)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 i, j;
	int ret = 0;

	mutex_lock(&a->lock);
	for (i = a->frozen_lo & ~63ull; !ret && i <= a->frozen_hi; i += 64) {
		struct qcow2_iovec v = {
			img->hdr.reftable_offset + i * 8, sector, 512,
		};
		__be64 *p = sector;
		bool frozen = false;

		for (j = i; j < i + 64; j++) {
			frozen |= a->reftable[j] & QCOW2_RT_FROZEN;
			*p++ = qcow2_entry_encode(entry_on_disk(a->reftable[j]),
						  false);
		}
		if (frozen)
			ret = qcow2_meta_rw(img, true, &v, 1);
	}
	mutex_unlock(&a->lock);
	return ret;
}

/**
 * qcow2_alloc_thaw() - the commit that froze the table entries has ended
 * @img: the image; commit_lock held
 * @written: they are durable; otherwise the next commit takes them again
 */
void qcow2_alloc_thaw(struct qcow2_image *img, bool written)
{
	struct qcow2_allocator *a = &img->alloc;
	u64 i;

	mutex_lock(&a->lock);
	for (i = a->frozen_lo; i <= a->frozen_hi; i++) {
		if (!(a->reftable[i] & QCOW2_RT_FROZEN))
			continue;
		if (written) {
			a->reftable[i] &= ~(u64)QCOW2_RT_FLAGS;
		} else {
			a->reftable[i] &= ~(u64)QCOW2_RT_FROZEN;
			a->pending_lo = min(a->pending_lo, i);
			a->pending_hi = max(a->pending_hi, i);
		}
	}
	a->frozen_lo = U64_MAX;
	a->frozen_hi = 0;
	mutex_unlock(&a->lock);
}
