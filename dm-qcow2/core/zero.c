// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns discard and write-zeroes: guest ranges that become zeros by a
 * change of their entries, without I/O on their data.
 *
 * Both own their guest clusters as an allocating write does, so neither meets
 * one half-way. An overwrite that is under way to a cluster that is freed here
 * lands in it unharmed: the cluster is not used again, and no hole is punched,
 * before that I/O has ended and the entry is gone from the disk (commit.c).
 *
 * A discarded range reads as zeros, not as the layer below. Version 2 has no way
 * to say so over a backing file: there discard does nothing, and zeros are
 * written.
 */
#include "zero.h"
#include "alloc.h"
#include "busy.h"
#include "data.h"
#include "link.h"
#include "map.h"
#include "metacache.h"
#include "write.h"

/* A run of one slice that becomes zeros. */
struct zeroing {
	enum qcow2_zero_how how;
	u64 from, to;
	bool backed;	/* unallocated reads as something else */
};

/* Can an entry say that it reads as zeros over what is below? */
static bool can_say_zero(const struct qcow2_image *img)
{
	return img->hdr.version >= 3 || !img->backing;
}

static bool reads_zero(const struct qcow2_image *img, u64 guest,
		       enum qcow2_kind kind)
{
	if (kind == QCOW2_UNALLOCATED)
		return !img->backing || guest >= img->backing->size;
	return kind == QCOW2_ZERO || kind == QCOW2_ZERO_ALLOC;
}

/* The subclusters of the cluster at @guest that the run covers. */
static u32 covered(const struct qcow2_image *img, u64 guest,
		   const struct zeroing *z)
{
	u64 cluster_end = guest + qcow2_cluster_size(&img->hdr);
	u32 first, last;

	if (z->from <= guest && z->to >= cluster_end)
		return U32_MAX;
	first = qcow2_sub_index(&img->hdr, max(z->from, guest));
	last = qcow2_sub_index(&img->hdr, min(z->to, cluster_end) - 1);
	return (u32)(BIT_ULL(last + 1) - BIT_ULL(first));
}

static void forget_host(struct qcow2_entry *e)
{
	e->allocated = false;
	e->copied = false;
	e->host = 0;
}

/*
 * What an entry becomes. It is pure: what was asked about before the change is
 * what the change does.
 */
static void zeroed(struct qcow2_image *img, u64 guest, struct qcow2_entry *e,
		   void *arg)
{
	const struct zeroing *z = arg;
	/* version 2 has no zero flag to put on a cluster */
	bool keep = z->how == QCOW2_ZERO_KEEP && e->copied &&
		e->kind != QCOW2_COMPRESSED && img->hdr.version >= 3;

	if (!qcow2_extended(&img->hdr)) {
		if (e->kind == QCOW2_UNALLOCATED && !z->backed)
			return;
		if (!keep)
			forget_host(e);
		e->kind = e->allocated ? QCOW2_ZERO_ALLOC : QCOW2_ZERO;
		if (img->hdr.version < 3)
			e->kind = QCOW2_UNALLOCATED;
		return;
	}
	e->zero |= covered(img, guest, z);
	e->alloc &= ~e->zero;
	if (!e->alloc && !keep)
		forget_host(e);
	e->kind = e->allocated ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

/* What the run's host clusters are, if they are not needed any more. */
static int collect_frees(struct qcow2_image *img, struct qcow2_block *slice,
			 struct zeroing *z, u64 first, u64 nr,
			 struct list_head *frees)
{
	int ret = 0;
	u64 i;

	for (i = 0; !ret && i < nr; i++) {
		u64 pos = first + (i << img->hdr.cluster_bits);
		struct qcow2_entry old, e;

		ret = qcow2_map_entry(img, pos, slice, &old);
		if (ret)
			break;
		e = old;
		zeroed(img, pos, &e, z);
		if (old.allocated && !e.allocated)
			ret = qcow2_link_free(img, pos, &old, frees);
	}
	return ret;
}

static bool raw_data_file(const struct qcow2_image *img)
{
	return qcow2_external(&img->hdr) &&
		(img->hdr.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
}

/*
 * The data file has what the guest has where the guest has it. A raw one is read
 * without this image and has to have the zeros, before the entries say so: should
 * that fail, nothing has changed for the guest. (An overwrite that is under way to
 * the same place may come later and be seen there. The guest sent both at once.)
 */
static int zero_data_file(struct qcow2_image *img, const struct zeroing *z)
{
	u64 to = qcow2_data_end(&img->hdr, z->to);

	return qcow2_data_zero(img, z->from, z->from, to - z->from);
}

/*
 * Whoever has looked up what was there may still read it, and so may anybody after a
 * crash: it may be what it was, or zeros. A device may have anything in what it was
 * told to discard, so it is told nothing.
 */
static void discard_data_file(struct qcow2_image *img, const struct zeroing *z)
{
	u64 to = qcow2_data_end(&img->hdr, z->to);

	/* a hole is no zeros to a cipher */
	if (z->how != QCOW2_ZERO_KEEP && img->data.ops->growable &&
	    !img->data.cipher && !READ_ONCE(img->keep_space))
		img->data.ops->discard(img->data.be, z->from, to - z->from);
}

/* The clusters are owned. */
static int zero_owned(struct qcow2_image *img, struct zeroing *z)
{
	u64 first = qcow2_cluster_start(&img->hdr, z->from);
	u64 nr = qcow2_clusters_for(&img->hdr, z->to - first);
	struct qcow2_block *slice;
	LIST_HEAD(frees);
	int ret = qcow2_link_slice(img, z->from, &slice);

	if (ret)
		return ret;
	ret = collect_frees(img, slice, z, first, nr, &frees);
	if (!ret && raw_data_file(img))
		ret = zero_data_file(img, z);
	if (!ret)
		ret = qcow2_link(img, slice, first, nr, zeroed, z, &frees);
	qcow2_link_forget(&frees);
	qcow2_cache_put(img, slice);
	if (!ret && qcow2_external(&img->hdr) && !raw_data_file(img))
		discard_data_file(img, z);
	return ret;
}

static int zero_run(struct qcow2_image *img, struct zeroing *z,
		    struct qcow2_waiter *waiter)
{
	struct qcow2_busy_range range;
	int ret = qcow2_busy_lock(img, &range, z->from >> img->hdr.cluster_bits,
				  (z->to - 1) >> img->hdr.cluster_bits, waiter);

	if (ret)
		return ret;
	ret = zero_owned(img, z);
	qcow2_busy_unlock(img, &range);
	return ret;
}

/* Zeros are written, as a guest would, unless they are there. */
static int write_zeros(struct qcow2_image *img, u64 guest, u64 len, u64 *done,
		       struct qcow2_waiter *waiter)
{
	int epoch = port_epoch_enter(&img->epoch);
	struct qcow2_mapping m;
	struct qcow2_write w;
	int ret = qcow2_map(img, guest, len, &m);

	port_epoch_exit(&img->epoch, epoch);
	if (!ret && qcow2_kind_reads_zero(m.kind)) {
		*done = m.len;
		return 0;
	}
	if (!ret)
		ret = qcow2_write_begin(img, guest, len, &w, waiter);
	if (ret)
		return ret;
	ret = qcow2_data_zero(img, guest, w.host, w.len);
	*done = w.len;
	return qcow2_write_end(img, &w, ret);
}

/* An extended entry cannot say that a part of a compressed cluster is zeros. */
static bool compressed_part(const struct qcow2_image *img, u64 guest,
			    const struct qcow2_mapping *m, u64 end)
{
	return m->kind == QCOW2_COMPRESSED && qcow2_extended(&img->hdr) &&
		(qcow2_in_cluster(&img->hdr, guest) ||
		 end - guest < qcow2_cluster_size(&img->hdr));
}

/* One step over whole subclusters [guest, end). */
static int zero_whole(struct qcow2_image *img, u64 guest, u64 end,
		      enum qcow2_zero_how how, u64 *done,
		      struct qcow2_waiter *waiter)
{
	struct zeroing z = { .how = how, .from = guest, .backed = img->backing };
	struct qcow2_mapping m;
	int epoch = port_epoch_enter(&img->epoch);
	int ret = qcow2_map_top(img, guest, end - guest, &m);

	port_epoch_exit(&img->epoch, epoch);
	if (ret)
		return ret;
	/* what reads as zeros stays as it is, unless there is a cluster to free */
	if (reads_zero(img, guest, m.kind) &&
	    (m.kind != QCOW2_ZERO_ALLOC || how == QCOW2_ZERO_KEEP)) {
		*done = m.len;
		return 0;
	}
	if (compressed_part(img, guest, &m, end)) {
		*done = m.len;
		return how == QCOW2_DISCARD ? 0 :
			write_zeros(img, guest, m.len, done, waiter);
	}
	z.to = min(end, qcow2_slice_end(img, guest));
	if (qcow2_extended(&img->hdr)) {
		/* a compressed cluster at the end is a step of its own */
		u64 last = qcow2_cluster_start(&img->hdr, z.to);

		if (last > guest && last < z.to)
			z.to = last;
	}
	*done = z.to - guest;
	return zero_run(img, &z, waiter);
}

/**
 * qcow2_zero() - one step of making guest bytes zeros
 * @img: the image
 * @guest: guest offset in bytes, a multiple of 512, inside the virtual disk
 * @len: bytes, a multiple of 512, at least 512, not beyond its end
 * @how: discard, or write-zeroes with or without giving space back
 * @done: bytes that are done, at least 1, on success
 * @waiter: woken when it is worth trying again, after -EINPROGRESS
 *
 * Durable with the next commit.
 *
 * Context: may sleep; no lock held, not inside an epoch.
 * Return: 0; as qcow2_write_begin().
 */
int qcow2_zero(struct qcow2_image *img, u64 guest, u64 len,
	       enum qcow2_zero_how how, u64 *done, struct qcow2_waiter *waiter)
{
	u64 step = qcow2_sub_size(&img->hdr), start, end;
	int ret = qcow2_write_prepare(img);

	if (ret)
		return ret;

	start = round_up(guest, step);
	end = round_down(guest + len, step);
	if (guest + len >= round_down(img->hdr.size, 512ull))
		end = round_up(guest + len, step); /* behind it is nothing */
	if (!can_say_zero(img))
		end = 0;
	if (start < end && start == guest) {
		do {
			ret = zero_whole(img, guest, end, how, done, waiter);
		} while (ret == -EAGAIN && !(ret = qcow2_alloc_prepare(img, waiter)));
		if (!ret)
			*done = min(*done, len);
		return ret;
	}
	/* what begins inside a subcluster, or ends there */
	if (start < end)
		len = start - guest;
	*done = len;
	return how == QCOW2_DISCARD ? 0 :
		write_zeros(img, guest, len, done, waiter);
}
