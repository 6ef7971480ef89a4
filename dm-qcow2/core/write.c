// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the guest write: where the bytes go, what is copied or zeroed
 * around them, and the link that makes them the content of the guest cluster.
 *
 * A cluster that is data with a refcount of one is overwritten where it is. In
 * every other case the write owns its guest clusters (busy.c), takes host
 * clusters, fills what it does not cover, lets the caller write, and sets the
 * L2 entries when the data is written: until then readers see what was there
 * before. The order on the disk is commit.c's.
 */
#include "write.h"
#include "alloc.h"
#include "busy.h"
#include "commit.h"
#include "map.h"
#include "metacache.h"
#include "overlap.h"

/* What a cluster needs before it can be written. */
enum need {
	NEED_NOTHING,	/* overwrite where it is */
	NEED_LINK,	/* reserved: the host cluster is ours already */
	NEED_CLUSTER,
	NEED_INFLATE,	/* compressed */
};

static enum need need_of(const struct qcow2_entry *e)
{
	switch (e->kind) {
	case QCOW2_DATA:
		return e->copied ? NEED_NOTHING : NEED_CLUSTER;
	case QCOW2_ZERO_ALLOC:
		return e->copied ? NEED_LINK : NEED_CLUSTER;
	case QCOW2_COMPRESSED:
		return NEED_INFLATE;
	default:
		return NEED_CLUSTER;
	}
}

static struct mutex *table_lock(struct qcow2_image *img, u64 guest)
{
	return &img->l2_lock[qcow2_l1_index(&img->hdr, guest) % QCOW2_L2_LOCKS];
}

/* ---------------------------------------------------------------- */

static struct qcow2_free *new_free(u64 cluster, u64 nr, bool table)
{
	struct qcow2_free *f = port_zalloc(sizeof(*f));

	if (f) {
		f->cluster = cluster;
		f->nr = nr;
		f->table = table;
	}
	return f;
}

static void discard_frees(struct list_head *frees)
{
	struct qcow2_free *f, *next;

	list_for_each_entry_safe(f, next, frees, link)
		port_free(f);
	INIT_LIST_HEAD(frees);
}

/* Copies an L2 table that others use too; nothing in the copy is COPIED. */
static int copy_table(struct qcow2_image *img, u64 from, u64 to)
{
	u32 left = qcow2_cluster_size(&img->hdr);
	u32 n, i;
	int ret = 0;

	mutex_lock(&img->cow_lock);
	for (; !ret && left; left -= n, from += n, to += n) {
		struct qcow2_iovec v;
		__be64 *p = img->cow_buf;

		n = min_t(u32, left, QCOW2_COW_BYTES);
		v = (struct qcow2_iovec){ from, img->cow_buf, n };
		ret = qcow2_meta_rw(img, false, &v, 1);
		if (ret)
			break;
		for (i = 0; i < n / 8; i++)
			p[i] &= ~cpu_to_be64(QCOW2_ENTRY_COPIED);
		v.offset = to;
		ret = qcow2_meta_rw(img, true, &v, 1);
	}
	mutex_unlock(&img->cow_lock);
	return ret;
}

/* T held. Gives the L1 entry of @guest an L2 table of its own. */
static int make_table(struct qcow2_image *img, u64 guest, struct qcow2_block *l1,
		      u64 old, u64 *table)
{
	struct qcow2_block *slice = NULL;
	struct qcow2_free *f = NULL;
	LIST_HEAD(frees);
	bool fresh;
	int ret;

	if (old) {
		f = new_free(qcow2_cluster_index(&img->hdr, old), 1, true);
		if (!f)
			return -ENOMEM;
		list_add(&f->link, &frees);
	}
	ret = qcow2_alloc_table(img, table, &fresh);
	if (ret)
		goto out_frees;
	if (old) {
		ret = copy_table(img, old, *table);
	} else {
		u64 pos = qcow2_l2_entry_offset(img, guest, *table);

		if (!fresh)
			ret = img->ops->zero(img->be, *table,
					     qcow2_cluster_size(&img->hdr));
		if (!ret)
			ret = qcow2_cache_new(img, QCOW2_BLOCK_L2,
					      qcow2_block_start(img, pos), &slice);
	}
	if (ret) {
		qcow2_alloc_abort(img, *table, 1, true);
		goto out_frees;
	}
	spin_lock(&img->cache.lock);
	/* the L1 table never goes: its blocks are the image's for ever */
	WARN_ON_ONCE(!qcow2_cache_change(img, l1));
	WRITE_ONCE(*qcow2_block_entry(img, l1, qcow2_l1_entry_offset(img, guest)),
		   qcow2_entry_encode(*table, true));
	qcow2_commit_unlink(img, &frees);
	spin_unlock(&img->cache.lock);
	qcow2_cache_put(img, slice);
	return 0;
out_frees:
	discard_frees(&frees);
	return ret;
}

/* Pins the slice of @guest in a table that may be changed. */
static int writable_slice(struct qcow2_image *img, u64 guest,
			  struct qcow2_block **slice)
{
	struct qcow2_block *l1;
	bool copied;
	u64 table;
	int ret;

	mutex_lock(table_lock(img, guest));
	ret = qcow2_map_l1(img, guest, &l1, &table, &copied);
	if (ret)
		goto out;
	if (!table || !copied)
		ret = make_table(img, guest, l1, table, &table);
	if (!ret)
		ret = qcow2_map_slice(img, guest, table, slice);
	qcow2_cache_put(img, l1);
out:
	mutex_unlock(table_lock(img, guest));
	return ret;
}

/* ---------------------------------------------------------------- */

/*
 * Counts the clusters of the owned range that need the same as the first, up
 * to @end; a run of reserved clusters also lies in a row on the host.
 */
static int classify(struct qcow2_image *img, struct qcow2_write *w, u64 end,
		    enum need *need)
{
	struct qcow2_entry first, e;
	u64 pos = w->guest;
	int ret = qcow2_map_entry(img, pos, w->slice, &first);

	if (ret)
		return ret;
	*need = need_of(&first);
	w->first_host = first.host;
	w->nr = 1;
	for (pos += qcow2_cluster_size(&img->hdr); pos < end;
	     pos += qcow2_cluster_size(&img->hdr)) {
		u64 at = (u64)qcow2_l2_index(&img->hdr, pos) * 8;
		__be64 raw = READ_ONCE(*qcow2_block_entry(img, w->slice, at));

		/* what is wrong there is reported when its turn comes */
		if (qcow2_l2_decode(&img->hdr, raw, &e) ||
		    need_of(&e) != *need ||
		    (*need != NEED_CLUSTER && e.host != first.host + (pos - w->guest)))
			break;
		w->nr++;
	}
	return 0;
}

static int no_overlap(struct qcow2_image *img, u64 guest, u64 host, u64 nr)
{
	const char *what = qcow2_overlap_find(img,
			qcow2_cluster_index(&img->hdr, host), nr);

	if (!what)
		return 0;
	return qcow2_corrupt(img,
			     "L2 table %llu: entry %u names %#llx, which is part of %s; the write is refused",
			     (unsigned long long)qcow2_l1_index(&img->hdr, guest),
			     qcow2_l2_index(&img->hdr, guest),
			     (unsigned long long)host, what);
}

/* Remembers what the old entries of the run name, for when they are gone. */
static int collect_frees(struct qcow2_image *img, struct qcow2_write *w)
{
	struct qcow2_free *f = NULL;
	u64 i;

	for (i = 0; i < w->nr; i++) {
		struct qcow2_entry e;
		u64 cluster;
		int ret;

		ret = qcow2_map_entry(img, w->guest + (i << img->hdr.cluster_bits),
				      w->slice, &e);
		if (ret)
			return ret;
		if (!e.host)
			continue;
		/* metadata is not freed as somebody's old data, either */
		ret = no_overlap(img, w->guest + (i << img->hdr.cluster_bits),
				 e.host, 1);
		if (ret)
			return ret;
		cluster = qcow2_cluster_index(&img->hdr, e.host);
		if (f && f->cluster + f->nr == cluster) {
			f->nr++;
			continue;
		}
		f = new_free(cluster, 1, false);
		if (!f)
			return -ENOMEM;
		list_add_tail(&f->link, &w->frees);
	}
	return 0;
}

static int copy_data(struct qcow2_image *img, u64 guest, u64 from, u64 to,
		     u64 len)
{
	int ret = 0;

	mutex_lock(&img->cow_lock);
	while (!ret && len) {
		u32 n = min_t(u64, len, QCOW2_COW_BYTES);

		ret = img->ops->data_read(img->be, guest, from, img->cow_buf, n);
		if (!ret)
			ret = img->ops->data_write(img->be, guest, to,
						   img->cow_buf, n);
		guest += n;
		from += n;
		to += n;
		len -= n;
	}
	mutex_unlock(&img->cow_lock);
	return ret;
}

/*
 * Fills guest bytes [from, to), inside one cluster of the run, with what the
 * guest reads there now.
 */
static int fill(struct qcow2_image *img, struct qcow2_write *w, u64 from, u64 to,
		bool fresh)
{
	u64 host = w->first_host + (from - w->guest);
	struct qcow2_entry e;
	int ret;

	if (from == to)
		return 0;
	ret = qcow2_map_entry(img, from, w->slice, &e);
	if (ret)
		return ret;
	if (e.kind == QCOW2_DATA)
		return copy_data(img, from,
				 e.host + qcow2_in_cluster(&img->hdr, from),
				 host, to - from);
	if (fresh)
		return 0;
	return img->ops->zero(img->be, host, to - from);
}

/* Head and tail of the run that the guest's bytes [from, to) do not cover. */
static int fill_around(struct qcow2_image *img, struct qcow2_write *w, u64 from,
		       u64 to, bool fresh)
{
	u64 end = w->guest + (w->nr << img->hdr.cluster_bits);
	int ret = fill(img, w, w->guest, from, fresh);

	return ret ?: fill(img, w, to, end, fresh);
}

/* The owned run needs host clusters. */
static int take_clusters(struct qcow2_image *img, struct qcow2_write *w,
			 u64 guest, u64 end)
{
	bool fresh;
	int ret;

	ret = qcow2_alloc_run(img, w->nr, &w->first_host, &w->nr, &fresh);
	if (ret)
		return ret;
	w->len = min(end, w->guest + (w->nr << img->hdr.cluster_bits)) - guest;
	ret = collect_frees(img, w);
	if (!ret)
		ret = fill_around(img, w, guest, guest + w->len, fresh);
	if (ret)
		qcow2_alloc_abort(img, w->first_host, w->nr, false);
	return ret;
}

/* The owned run has its host clusters; they hold anything. */
static int use_reserved(struct qcow2_image *img, struct qcow2_write *w,
			u64 guest, u64 end)
{
	int ret = no_overlap(img, guest, w->first_host, w->nr);

	if (!ret)
		ret = qcow2_alloc_reach(img, w->first_host +
					(w->nr << img->hdr.cluster_bits));
	if (ret)
		return ret;
	w->reserved = true;
	w->len = min(end, w->guest + (w->nr << img->hdr.cluster_bits)) - guest;
	return fill_around(img, w, guest, guest + w->len, false);
}

static int begin_owned(struct qcow2_image *img, u64 guest, u64 end,
		       struct qcow2_write *w)
{
	enum need need;
	int ret;

	ret = writable_slice(img, guest, &w->slice);
	if (ret)
		return ret;
	ret = classify(img, w, end, &need);
	if (ret)
		goto out;
	switch (need) {
	case NEED_NOTHING:
		/* somebody else was first, or the slice is not trusted as a whole */
		ret = no_overlap(img, guest, w->first_host, w->nr);
		w->in_place = true;
		w->durable = false;
		w->len = min(end, w->guest + (w->nr << img->hdr.cluster_bits)) -
			guest;
		break;
	case NEED_LINK:
		ret = use_reserved(img, w, guest, end);
		break;
	case NEED_CLUSTER:
		ret = take_clusters(img, w, guest, end);
		break;
	case NEED_INFLATE:
		img->ops->log(img->be,
			      "a compressed cluster is to be written, which is not supported yet");
		ret = -EIO;
		break;
	}
out:
	if (ret) {
		discard_frees(&w->frees);
		qcow2_cache_put(img, w->slice);
		return ret;
	}
	w->host = w->first_host + (guest - w->guest);
	return 0;
}

static int begin_alloc(struct qcow2_image *img, u64 guest, u64 len,
		       struct qcow2_write *w, struct qcow2_waiter *waiter)
{
	u64 end = min(guest + len, qcow2_slice_end(img, guest));
	int ret;

	w->guest = qcow2_cluster_start(&img->hdr, guest);
	INIT_LIST_HEAD(&w->frees);
	ret = qcow2_busy_lock(img, &w->range, guest >> img->hdr.cluster_bits,
			      (end - 1) >> img->hdr.cluster_bits, waiter);
	if (ret)
		return ret;
	ret = begin_owned(img, guest, end, w);
	if (ret)
		qcow2_busy_unlock(img, &w->range);
	return ret;
}

/**
 * qcow2_write_begin() - where do these guest bytes go?
 * @img: the image
 * @guest: guest offset in bytes, a multiple of 512, inside the virtual disk
 * @len: bytes, a multiple of 512, at least 512
 * @w: the step, in use until qcow2_write_end()
 * @waiter: woken when it is worth trying again, after -EINPROGRESS
 *
 * The caller writes @w->len bytes at host offset @w->host, then calls
 * qcow2_write_end(), then goes on with what is left of its bytes. It holds no
 * other step meanwhile.
 *
 * Context: may sleep; no lock held, not inside an epoch.
 * Return: 0; -EINPROGRESS: another write owns a cluster, nothing is held;
 * -EROFS; -ENOSPC; -EUCLEAN (reported); a negative errno.
 */
int qcow2_write_begin(struct qcow2_image *img, u64 guest, u64 len,
		      struct qcow2_write *w, struct qcow2_waiter *waiter)
{
	struct qcow2_mapping m;
	int ret;

	if (qcow2_mode(img) >= QCOW2_READ_ONLY)
		return -EROFS;
	ret = qcow2_activate(img);
	if (!ret)
		ret = qcow2_commit_relieve(img);
	if (ret)
		return ret;

	memset(w, 0, sizeof(*w));
	w->epoch = port_epoch_enter(&img->epoch);
	ret = qcow2_map(img, guest, len, &m);
	if (!ret && m.in_place) {
		w->in_place = true;
		w->durable = m.durable;
		w->host = m.host;
		w->len = m.len;
		return 0;
	}
	port_epoch_exit(&img->epoch, w->epoch);
	if (ret)
		return ret;

	do {
		ret = begin_alloc(img, guest, len, w, waiter);
	} while (ret == -EAGAIN && !(ret = qcow2_alloc_grow_table(img)));
	return ret;
}

/*
 * The data is there: the L2 entries follow it. A slice whose table was freed
 * meanwhile belongs to nobody: a damaged image had two names for the table.
 */
static int link_clusters(struct qcow2_image *img, struct qcow2_write *w)
{
	__be64 *p = qcow2_block_entry(img, w->slice,
			(u64)qcow2_l2_index(&img->hdr, w->guest) * 8);
	bool ours;
	u64 i;

	spin_lock(&img->cache.lock);
	ours = qcow2_cache_change(img, w->slice);
	for (i = 0; ours && i < w->nr; i++)
		WRITE_ONCE(p[i], qcow2_entry_encode(w->first_host +
				(i << img->hdr.cluster_bits), true));
	if (ours)
		qcow2_commit_unlink(img, &w->frees);
	spin_unlock(&img->cache.lock);
	if (!ours)
		return qcow2_corrupt(img, "L2 table %llu was freed while it was in use",
				     (unsigned long long)qcow2_l1_index(&img->hdr,
									w->guest));
	atomic64_add(w->nr, &img->stats.mapped);
	return 0;
}

/**
 * qcow2_write_end() - the bytes of a step are written, or not
 * @img: the image
 * @w: a step that qcow2_write_begin() gave
 * @error: 0, or why they are not
 *
 * Context: process, may sleep.
 * Return: @error, or -EUCLEAN (reported) if the clusters could not be linked.
 */
int qcow2_write_end(struct qcow2_image *img, struct qcow2_write *w, int error)
{
	if (w->slice && !w->in_place) {
		if (!error)
			error = link_clusters(img, w);
		else if (!w->reserved)
			qcow2_alloc_abort(img, w->first_host, w->nr, false);
		discard_frees(&w->frees);
	}
	if (w->slice) {
		qcow2_cache_put(img, w->slice);
		qcow2_busy_unlock(img, &w->range);
	} else {
		port_epoch_exit(&img->epoch, w->epoch);
	}
	return error;
}
