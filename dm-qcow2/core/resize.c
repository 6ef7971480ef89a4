// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the change of the virtual disk's size. Nobody else uses the
 * image meanwhile: the device is suspended, or the image was opened for this.
 *
 * "A => B" means: A is durable before B is written. To grow:
 *
 *	all that the guest wrote			=> what follows
 *	a larger L1 table, its refcounts		=> the header names it
 *	the header names it				=> the old one is free
 *	zeros in what the disk gets			=> the header has the size
 *
 * What the disk gets is not always zeros by itself: the backing file may be
 * longer than the disk was, the last cluster may have anything behind the old
 * end, and so may tables that reach further than the disk. It is made zeros as
 * a guest would do it, behind the old end, where nobody looks before the header
 * has the new size. A crash leaves the old size or the new one; before that, at
 * most leaks and zeros that are not needed.
 *
 * To shrink is one write of the header, and then to give back what lies behind
 * the new end. A crash leaves all of the old disk, or the new one with space
 * that was not given back yet: to shrink it again to the same size does that.
 */
#include "resize.h"
#include "alloc.h"
#include "commit.h"
#include "data.h"
#include "link.h"
#include "map.h"
#include "metacache.h"
#include "overlap.h"
#include "write.h"
#include "zero.h"

/**
 * qcow2_max_size() - the largest disk that the format can describe
 * @h: the image's header, for its geometry
 *
 * Return: bytes.
 */
u64 qcow2_max_size(const struct qcow2_header *h)
{
	return (u64)(QCOW2_MAX_L1_BYTES / 8) << qcow2_l1_shift(h);
}

static u64 l1_clusters(const struct qcow2_image *img, u64 entries)
{
	return qcow2_clusters_for(&img->hdr, entries * 8);
}

/* ---------------------------------------------------------------- */

/*
 * The header changes, or nobody knows whether it has: then nothing may be
 * written any more, because it might be the other table that counts.
 */
static int set_header(struct qcow2_image *img, u64 size, u64 l1_offset,
		      u32 l1_entries)
{
	int ret;

	mutex_lock(&img->commit_lock);
	ret = img->commit_error ?:
		qcow2_header_set_size(img, size, l1_offset, l1_entries);
	img->commit_error = ret;
	mutex_unlock(&img->commit_lock);
	if (ret)
		qcow2_lower_mode(img, QCOW2_READ_ONLY,
				 "the header could not be written to resize the disk: error %d",
				 ret);
	return ret;
}

/*
 * The L1 table is another one, or has another length; what is durable there is
 * as it should be. Clusters that it had and has no more are free.
 */
static int set_l1(struct qcow2_image *img, u64 offset, u32 entries)
{
	u64 old = img->hdr.l1_offset;
	u64 old_nr = l1_clusters(img, img->hdr.l1_entries);
	u64 kept = offset == old ? l1_clusters(img, entries) : 0;
	int ret = set_header(img, img->hdr.size, offset, entries);

	if (ret)
		return ret;
	mutex_lock(&img->alloc.lock);
	qcow2_overlap_set_l1(img);
	mutex_unlock(&img->alloc.lock);
	if (old_nr <= kept)
		return 0;
	old += kept << img->hdr.cluster_bits;
	old_nr -= kept;
	qcow2_cache_drop(img, old, old_nr << img->hdr.cluster_bits);
	/* a failure is reported, and leaks */
	qcow2_alloc_drop(img, qcow2_cluster_index(&img->hdr, old), old_nr, true);
	return 0;
}

/* Entries from @index up to @end, which the L1 table's clusters hold, are 0. */
static int clear_entries(struct qcow2_image *img, u64 index, u64 end)
{
	u64 pos = img->hdr.l1_offset + index * 8;
	u64 stop = img->hdr.l1_offset + end * 8;
	int ret;

	while (pos < stop) {
		u64 start = qcow2_block_start(img, pos);
		struct qcow2_block *l1;

		ret = qcow2_cache_get(img, QCOW2_BLOCK_L1, start, start, 0, &l1);
		if (ret)
			return ret;
		spin_lock(&img->cache.lock);
		/* as in make_table() */
		WARN_ON_ONCE(!qcow2_cache_change(img, l1));
		for (; pos < min(stop, start + img->cache.block_size); pos += 8)
			WRITE_ONCE(*qcow2_block_entry(img, l1, pos), 0);
		spin_unlock(&img->cache.lock);
		qcow2_cache_put(img, l1);
	}
	return 0;
}

/* Writes the L1 table as it is on the disk, and zeros, to @len bytes at @to. */
static int copy_l1(struct qcow2_image *img, u64 to, u64 len)
{
	u64 have = img->hdr.l1_entries * 8ull, pos;
	void *buf = port_pool_get(&img->copies);
	int ret = 0;

	for (pos = 0; !ret && pos < len; pos += QCOW2_COW_BYTES) {
		u32 n = min_t(u64, len - pos, QCOW2_COW_BYTES);
		u32 old = pos < have ? min_t(u64, have - pos, n) : 0;
		struct qcow2_iovec v = {
			img->hdr.l1_offset + pos, buf,
			round_up(old, 512u),
		};

		if (old)
			ret = qcow2_meta_rw(img, false, &v, 1);
		if (ret)
			break;
		memset((u8 *)buf + old, 0, n - old);
		v.offset = to + pos;
		v.len = n;
		ret = qcow2_meta_rw(img, true, &v, 1);
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/* An L1 table of @entries in another place (rule O5). */
static int move_l1(struct qcow2_image *img, u32 entries)
{
	u64 nr = l1_clusters(img, entries), host;
	int ret;

	do {
		ret = qcow2_alloc_row(img, nr, &host);
	} while (ret == -EAGAIN && !(ret = qcow2_alloc_prepare(img, NULL)));
	if (ret)
		return ret;
	ret = copy_l1(img, host, nr << img->hdr.cluster_bits);
	if (!ret)
		ret = qcow2_commit(img);
	if (ret) {
		qcow2_alloc_abort(img, host, nr, true);
		return ret;
	}
	return set_l1(img, host, entries);
}

/* The L1 table has @entries at least. */
static int grow_l1(struct qcow2_image *img, u64 entries)
{
	u64 have = img->hdr.l1_entries;
	u64 room = l1_clusters(img, have) << (img->hdr.cluster_bits - 3);
	int ret;

	if (entries <= have)
		return 0;
	/* the table on the disk is the whole one from here on */
	ret = qcow2_commit(img);
	if (ret)
		return ret;
	if (entries > room)
		return move_l1(img, entries);
	/* what is behind its end may be anything */
	ret = clear_entries(img, have, entries);
	if (!ret)
		ret = qcow2_commit(img);
	return ret ?: set_l1(img, img->hdr.l1_offset, entries);
}

/* ---------------------------------------------------------------- */

static int zero_range(struct qcow2_image *img, u64 from, u64 to)
{
	/* never woken: nobody else owns a cluster */
	struct qcow2_waiter waiter = { .wake = NULL };
	u64 done;
	int ret = 0;

	for (; !ret && from < to; from += done)
		ret = qcow2_zero(img, from, to - from, QCOW2_ZERO_FREE, &done,
				 &waiter);
	WARN_ON_ONCE(ret == -EINPROGRESS);
	return ret;
}

/*
 * The data file has room for the disk. A raw one is read without this image: what
 * is in it behind the end of the disk would be seen.
 */
static int grow_data_file(struct qcow2_image *img, u64 from, u64 to)
{
	const struct qcow2_store *d = &img->data;
	u64 have;
	int ret;

	if (!qcow2_external(&img->hdr))
		return 0;
	have = min(round_down(d->ops->size(d->be), 512ull), to);
	ret = d->ops->grow(d->be, to);
	if (!ret && have > from &&
	    (img->hdr.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW))
		ret = qcow2_data_zero(img, from, from, have - from);
	return ret;
}

static int grow(struct qcow2_image *img, u64 size)
{
	const struct qcow2_header *h = &img->hdr;
	/* QEMU and we show whole sectors */
	u64 from = round_down(h->size, 512ull);
	u64 reach = (u64)h->l1_entries << qcow2_l1_shift(h);
	int ret;

	if (img->backing)
		reach = max(reach, round_up(img->backing->size, 512ull));
	ret = grow_l1(img, qcow2_size_to_l1(h, size));
	if (!ret)
		ret = grow_data_file(img, from, size);
	if (!ret)
		ret = zero_range(img, from, min(size, reach));
	if (!ret)
		ret = qcow2_commit(img);
	if (!ret)
		ret = set_header(img, size, h->l1_offset, h->l1_entries);
	if (!ret)
		qcow2_fit_cache(img);
	return ret;
}

/* ---------------------------------------------------------------- */

static void cut(struct qcow2_image *img, u64 guest, struct qcow2_entry *e,
		void *arg)
{
	*e = (struct qcow2_entry){ .kind = QCOW2_UNALLOCATED };
}

/* The clusters from @guest to the end of its slice, which has a table. */
static int cut_slice(struct qcow2_image *img, u64 guest, u64 *next)
{
	struct qcow2_block *slice;
	LIST_HEAD(frees);
	u64 pos, nr;
	int ret;

	do {
		ret = qcow2_link_slice(img, guest, &slice);
	} while (ret == -EAGAIN && !(ret = qcow2_alloc_prepare(img, NULL)));
	if (ret)
		return ret;
	*next = qcow2_slice_end(img, guest);
	nr = (*next - guest) >> img->hdr.cluster_bits;
	for (pos = guest; !ret && pos < *next;
	     pos += qcow2_cluster_size(&img->hdr)) {
		struct qcow2_entry e;

		ret = qcow2_map_entry(img, pos, slice, &e);
		if (!ret)
			ret = qcow2_link_free(img, pos, &e, &frees);
	}
	if (!ret)
		ret = qcow2_link(img, slice, guest, nr, cut, NULL, &frees);
	qcow2_link_forget(&frees);
	qcow2_cache_put(img, slice);
	return ret;
}

/* Guest clusters from @guest, the first of them whole, to @end hold nothing. */
static int cut_range(struct qcow2_image *img, u64 guest, u64 end)
{
	u64 covers = BIT_ULL(qcow2_l1_shift(&img->hdr)), next, table;
	bool whole = !(guest & (covers - 1)), copied;
	struct qcow2_block *l1;
	int ret = 0;

	for (; !ret && guest < end; guest = next) {
		next = round_down(guest, covers) + covers;
		ret = qcow2_write_prepare(img);
		if (!ret)
			ret = qcow2_map_l1(img, guest, &l1, &table, &copied);
		if (ret)
			break;
		qcow2_cache_put(img, l1);
		if (table)
			ret = cut_slice(img, guest, &next);
		whole |= !(guest & (covers - 1));
		if (!ret && table && whole && !(next & (covers - 1)))
			ret = qcow2_link_drop_table(img, guest);
	}
	return ret;
}

static int shrink_to(struct qcow2_image *img, u64 size)
{
	const struct qcow2_header *h = &img->hdr;
	u64 covered = (u64)h->l1_entries << qcow2_l1_shift(h);
	u64 need = qcow2_size_to_l1(h, size);
	int ret;

	ret = set_header(img, size, h->l1_offset, h->l1_entries);
	if (!ret)
		ret = cut_range(img, round_up(size, (u64)qcow2_cluster_size(h)),
				covered);
	if (!ret)
		ret = qcow2_commit(img);
	if (!ret && need < h->l1_entries)
		ret = set_l1(img, h->l1_offset, need);
	if (!ret)
		ret = qcow2_commit_drain(img);
	if (!ret && qcow2_external(h))
		ret = img->data.ops->trim(img->data.be, size);
	return ret;
}

static int check_state(const struct qcow2_image *img, struct qcow2_error *err)
{
	const struct qcow2_header *h = &img->hdr;

	if (qcow2_mode(img) >= QCOW2_READ_ONLY)
		return qcow2_err(err, -EROFS, "the image is read-only%s%s",
				 *img->why ? ": it " : "", img->why);
	if (h->nb_bitmaps)
		return qcow2_err(err, -EOPNOTSUPP,
				 "the image has persistent bitmaps, which would not fit the disk any more; 'qemu-img bitmap --remove' removes one");
	if (h->nb_snapshots && h->version < 3)
		return qcow2_err(err, -EOPNOTSUPP,
				 "the image has version 2 and snapshots, which do not say how large the disk was; 'qemu-img amend -o compat=1.1' makes it version 3");
	return 0;
}

static int check_size(const struct qcow2_image *img, u64 size, bool shrink,
		      struct qcow2_error *err)
{
	const struct qcow2_header *h = &img->hdr;

	if (!size || size % 512)
		return qcow2_err(err, -EINVAL,
				 "a disk of %llu bytes: it has to be a multiple of 512",
				 (unsigned long long)size);
	if (size > qcow2_max_size(h))
		return qcow2_err(err, -EFBIG,
				 "a disk of %llu bytes: with clusters of %u bytes the largest has %llu",
				 (unsigned long long)size, qcow2_cluster_size(h),
				 (unsigned long long)qcow2_max_size(h));
	if (size < h->size && !shrink)
		return qcow2_err(err, -EINVAL,
				 "a disk of %llu bytes: it has %llu, and what lies beyond would be lost",
				 (unsigned long long)size,
				 (unsigned long long)h->size);
	if (size <= h->size && shrink && h->nb_snapshots)
		return qcow2_err(err, -EOPNOTSUPP,
				 "the image has snapshots: it can grow, but not shrink");
	/* zeros would be written to each of the clusters: QEMU refuses, too */
	if (h->version < 3 && img->backing &&
	    min(size, img->backing->size) >
	    round_up(h->size, (u64)qcow2_cluster_size(h)))
		return qcow2_err(err, -EOPNOTSUPP,
				 "the backing file is longer than the disk, and version 2 cannot hide that; 'qemu-img amend -o compat=1.1' makes the image version 3");
	return 0;
}

/**
 * qcow2_resize() - change the size of the virtual disk
 * @img: the image; nobody else uses it: no I/O is under way, and none begins
 *	before this returns
 * @size: in bytes, a multiple of 512
 * @shrink: it may become smaller; what lies beyond is lost. To "shrink" it to
 *	the size that it has gives back what an earlier attempt did not
 * @err: the reason of a failure, in words
 *
 * What the disk gets reads as zeros. When this returns 0 the new size is
 * durable; else the disk has the size that img->hdr says.
 *
 * Context: may sleep; no lock held, not inside an epoch.
 * Return: 0; -EROFS, -EINVAL, -EFBIG, -EOPNOTSUPP, -EBUSY: it was not tried; -ENOSPC;
 * -EUCLEAN (reported); the error of a read or write.
 */
int qcow2_resize(struct qcow2_image *img, u64 size, bool shrink,
		 struct qcow2_error *err)
{
	int ret = check_state(img, err);

	if (!ret)
		ret = check_size(img, size, shrink, err);
	if (ret)
		return ret;
	ret = qcow2_write_prepare(img);
	/* afterwards nobody looks through it in the background */
	if (!ret && qcow2_dirty(img))
		ret = qcow2_alloc_prepare(img, NULL);
	if (ret == -EINPROGRESS)
		return qcow2_err(err, -EBUSY,
				 "the image is dirty, and is being looked through; try again later");
	if (!ret && shrink && size <= img->hdr.size)
		ret = shrink_to(img, size);
	else if (!ret && size > img->hdr.size)
		ret = grow(img, size);
	if (ret == -ENOSPC)
		return qcow2_err(err, ret,
				 "no space on the host for the tables of a larger disk");
	if (ret)
		return qcow2_err(err, ret, "the disk could not be resized: error %d",
				 ret);
	return 0;
}
