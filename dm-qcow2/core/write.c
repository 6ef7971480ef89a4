// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the guest write: where the bytes go, what is copied or zeroed
 * around them, and what their entries become.
 *
 * What is data with a refcount of one is overwritten where it is. In every
 * other case the write owns its guest clusters (busy.c), takes host clusters or
 * uses those that are reserved, fills what it does not cover, lets the caller
 * write, and has the L2 entries changed (link.c) when the data is written: until
 * then readers see what was there before. The order on the disk is commit.c's.
 *
 * With subclusters only the first and the last of the write are filled; the
 * rest of the cluster stays what it was, and is copied only from a host cluster
 * that must not be written.
 */
#include "write.h"
#include "alloc.h"
#include "busy.h"
#include "commit.h"
#include "data.h"
#include "inflate.h"
#include "link.h"
#include "map.h"
#include "metacache.h"

/* What a cluster needs before it can be written. */
enum need {
	NEED_NOTHING,	/* overwrite where it is */
	NEED_LINK,	/* the host cluster is ours already */
	NEED_CLUSTER,
};

/* The guest bytes that a step writes. */
static u64 first_byte(const struct qcow2_write *w)
{
	return w->guest + (w->host - w->first_host);
}

/* The subclusters of the cluster at @guest that bytes [from, to) touch. */
static u32 touched(const struct qcow2_image *img, u64 guest, u64 from, u64 to)
{
	u64 end = guest + qcow2_cluster_size(&img->hdr);
	u32 first, last;

	from = max(from, guest);
	to = min(to, end);
	first = qcow2_sub_index(&img->hdr, from);
	last = qcow2_sub_index(&img->hdr, to - 1);
	return (u32)(BIT_ULL(last + 1) - BIT_ULL(first));
}

/* What the cluster at @guest needs for a write of bytes [from, to). */
static enum need need_of(const struct qcow2_image *img, u64 guest,
			 const struct qcow2_entry *e, u64 from, u64 to)
{
	u32 mask;

	if (!e->allocated || !e->copied)
		return NEED_CLUSTER;
	if (!qcow2_extended(&img->hdr))
		return e->kind == QCOW2_DATA ? NEED_NOTHING : NEED_LINK;
	mask = touched(img, guest, from, to);
	return (e->alloc & mask) == mask ? NEED_NOTHING : NEED_LINK;
}

/*
 * Counts the clusters of the owned range that need the same as the first, up
 * to @end; a run whose host clusters are there also lies in a row on the host.
 */
static int classify(struct qcow2_image *img, struct qcow2_write *w, u64 guest,
		    u64 end, enum need *need)
{
	struct qcow2_entry first, e;
	u64 pos = w->guest;
	int ret = qcow2_map_entry(img, pos, w->slice, &first);

	if (ret)
		return ret;
	*need = need_of(img, pos, &first, guest, end);
	w->first_host = first.host;
	w->nr = 1;
	for (pos += qcow2_cluster_size(&img->hdr); pos < end;
	     pos += qcow2_cluster_size(&img->hdr)) {
		/* what is wrong there is reported when its turn comes */
		if (qcow2_map_decode(img, pos, w->slice, &e) ||
		    need_of(img, pos, &e, guest, end) != *need ||
		    (*need != NEED_CLUSTER && e.host != first.host + (pos - w->guest)))
			break;
		w->nr++;
	}
	return 0;
}

/* ---------------------------------------------------------------- */

/* Guest bytes of a run that @m says are data, to the new host cluster. */
static int copy_data(struct qcow2_image *img, u64 guest,
		     const struct qcow2_mapping *m, u64 to)
{
	void *buf = port_pool_get(&img->copies);
	u64 from = m->host, len = m->len;
	int ret = 0;

	while (!ret && len) {
		u32 n = min_t(u64, len, QCOW2_COW_BYTES);

		ret = qcow2_data_read(m->store, guest, from, buf, n);
		if (!ret)
			ret = qcow2_data_write(&img->data, guest, to, buf, n);
		guest += n;
		from += n;
		to += n;
		len -= n;
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/*
 * The decompressed cluster is not held while some of it is written: the layer may
 * be another image's, too, and that one on top of this.
 */
static int copy_compressed(struct qcow2_image *img, u64 guest,
			   const struct qcow2_mapping *m, u64 to)
{
	void *buf = port_pool_get(&img->copies);
	struct qcow2_inflated *s;
	int ret = 0;
	u64 done;

	for (done = 0; !ret && done < m->len; done += QCOW2_COW_BYTES) {
		u32 n = min_t(u64, m->len - done, QCOW2_COW_BYTES);

		ret = qcow2_inflate_get(m->img, m->host, m->csize, &s);
		if (ret)
			break;
		memcpy(buf, (u8 *)s->data + m->skip + done, n);
		qcow2_inflate_put(m->img, s);
		ret = qcow2_data_write(&img->data, guest + done, to + done, buf,
				       n);
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/*
 * Fills guest bytes [from, to), inside one cluster of the run, with what the
 * guest reads there now, and with zeros beyond the end of the virtual disk.
 */
static int fill(struct qcow2_image *img, const struct qcow2_write *w, u64 from,
		u64 to, bool fresh)
{
	u64 disk_end = round_up(img->hdr.size, 512ull);
	int ret = 0;

	while (!ret && from < to) {
		u64 host = w->first_host + (from - w->guest);
		struct qcow2_mapping m = { .len = to - from };

		if (from < disk_end)
			ret = qcow2_map(img, from, min(to, disk_end) - from, &m);
		if (ret)
			break;
		if (m.kind == QCOW2_DATA)
			ret = copy_data(img, from, &m, host);
		else if (m.kind == QCOW2_COMPRESSED)
			ret = copy_compressed(img, from, &m, host);
		else if (!fresh || img->data.cipher)
			ret = qcow2_data_zero(img, from, host, m.len);
		from += m.len;
	}
	return ret;
}

/*
 * Fills what must be filled of guest bytes [from, to), which the write does not
 * cover: the part of a subcluster that it begins or ends in, unless that is in
 * the host cluster already; and what a new host cluster has to have.
 */
static int fill_part(struct qcow2_image *img, const struct qcow2_write *w,
		     u64 from, u64 to, bool fresh)
{
	u64 step = qcow2_sub_size(&img->hdr);
	struct qcow2_entry e;
	u64 pos, next, end;
	int ret;

	if (from >= to)
		return 0;
	ret = qcow2_map_entry(img, from, w->slice, &e);
	for (pos = from; !ret && pos < to; pos = next) {
		u32 sub = qcow2_sub_index(&img->hdr, pos);
		enum qcow2_kind kind = qcow2_sub_kind(&img->hdr, &e, sub);
		bool there = kind == QCOW2_DATA || kind == QCOW2_COMPRESSED;

		end = (pos & ~(step - 1)) + step;
		next = min(end, to);
		/* begins before or ends after: the write has the rest of it */
		if ((pos & (step - 1)) || next != end)
			there = w->taken || !there;
		else
			there = w->taken && there;
		if (there)
			ret = fill(img, w, pos, next, fresh);
	}
	return ret;
}

/* Head and tail of the run that the guest's bytes [from, to) do not cover. */
static int fill_around(struct qcow2_image *img, struct qcow2_write *w, u64 from,
		       u64 to, bool fresh)
{
	u64 end = qcow2_data_end(&img->hdr,
				 w->guest + (w->nr << img->hdr.cluster_bits));
	int ret = fill_part(img, w, w->guest, from, fresh);

	return ret ?: fill_part(img, w, to, end, fresh);
}

/* Remembers what the old entries of the run name, for when they are gone. */
static int collect_frees(struct qcow2_image *img, struct qcow2_write *w)
{
	int ret = 0;
	u64 i;

	for (i = 0; !ret && i < w->nr; i++) {
		u64 pos = w->guest + (i << img->hdr.cluster_bits);
		struct qcow2_entry e;

		ret = qcow2_map_entry(img, pos, w->slice, &e);
		if (!ret)
			ret = qcow2_link_free(img, pos, &e, &w->frees);
	}
	return ret;
}

/*
 * The external data file reaches to @bytes. One at a time, because to grow a file
 * from a size that it has no longer would cut it.
 */
static int reach_data(struct qcow2_image *img, u64 bytes)
{
	int ret;

	bytes = qcow2_data_end(&img->hdr, bytes);
	mutex_lock(&img->alloc.lock);
	ret = img->data.ops->grow(img->data.be, bytes);
	mutex_unlock(&img->alloc.lock);
	return ret;
}

/* Host clusters for the owned run, or for its beginning. */
static int get_clusters(struct qcow2_image *img, struct qcow2_write *w,
			bool *fresh)
{
	if (!qcow2_external(&img->hdr))
		return qcow2_alloc_run(img, w->nr, &w->first_host, &w->nr, fresh);
	/* where it is follows from the guest offset; what is there is not known */
	*fresh = false;
	w->first_host = w->guest;
	return reach_data(img, w->guest + (w->nr << img->hdr.cluster_bits));
}

static void give_back(struct qcow2_image *img, const struct qcow2_write *w)
{
	if (w->taken && !qcow2_external(&img->hdr))
		qcow2_alloc_abort(img, w->first_host, w->nr, false);
}

/* The owned run needs host clusters. */
static int take_clusters(struct qcow2_image *img, struct qcow2_write *w,
			 u64 guest, u64 end)
{
	bool fresh;
	int ret;

	ret = get_clusters(img, w, &fresh);
	if (ret)
		return ret;
	w->taken = true;
	w->len = min(end, w->guest + (w->nr << img->hdr.cluster_bits)) - guest;
	ret = collect_frees(img, w);
	if (!ret)
		ret = fill_around(img, w, guest, guest + w->len, fresh);
	if (ret)
		give_back(img, w);
	return ret;
}

/* The owned run has its host clusters; what is not data there is anything. */
static int use_reserved(struct qcow2_image *img, struct qcow2_write *w,
			u64 guest, u64 end)
{
	u64 host_end = w->first_host + (w->nr << img->hdr.cluster_bits);
	int ret = qcow2_link_check(img, guest, w->first_host, w->nr);

	if (!ret && qcow2_external(&img->hdr))
		ret = reach_data(img, host_end);
	else if (!ret)
		ret = qcow2_alloc_reach(img, host_end);
	if (ret)
		return ret;
	w->len = min(end, w->guest + (w->nr << img->hdr.cluster_bits)) - guest;
	return fill_around(img, w, guest, guest + w->len, false);
}

static int begin_owned(struct qcow2_image *img, u64 guest, u64 end,
		       struct qcow2_write *w)
{
	enum need need;
	int ret;

	ret = qcow2_link_slice(img, guest, &w->slice);
	if (ret)
		return ret;
	ret = classify(img, w, guest, end, &need);
	if (ret)
		goto out;
	switch (need) {
	case NEED_NOTHING:
		/* somebody else was first, or the slice is not trusted as a whole */
		ret = qcow2_link_check(img, guest, w->first_host, w->nr);
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
	}
out:
	if (ret) {
		qcow2_link_forget(&w->frees);
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
 * qcow2_write_prepare() - before anything of the image is changed
 * @img: the image
 *
 * Context: may sleep; no lock held, not inside an epoch.
 * Return: 0; -EROFS; the errors of qcow2_activate() and of a commit.
 */
int qcow2_write_prepare(struct qcow2_image *img)
{
	int ret;

	if (qcow2_mode(img) >= QCOW2_READ_ONLY)
		return -EROFS;
	ret = qcow2_activate(img);
	return ret ?: qcow2_commit_relieve(img);
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
	int ret = qcow2_write_prepare(img);

	if (ret)
		return ret;

	memset(w, 0, sizeof(*w));
	w->epoch = port_epoch_enter(&img->epoch);
	ret = qcow2_map_top(img, guest, len, &m);
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
	} while (ret == -EAGAIN && !(ret = qcow2_alloc_prepare(img, waiter)));
	return ret;
}

/* What the entry of the cluster at @guest becomes. */
static void written(struct qcow2_image *img, u64 guest, struct qcow2_entry *e,
		    void *arg)
{
	const struct qcow2_write *w = arg;
	u64 from = first_byte(w);
	u32 mask = touched(img, guest, from, from + w->len);

	if (e->kind == QCOW2_COMPRESSED) {
		/* all of it has been copied */
		e->alloc = qcow2_extended(&img->hdr) ? U32_MAX : 0;
		e->zero = 0;
	}
	e->kind = QCOW2_DATA;
	e->alloc |= mask;
	e->zero &= ~mask;
	e->host = w->first_host + (guest - w->guest);
	e->copied = true;
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
			error = qcow2_link(img, w->slice, w->guest, w->nr,
					   written, w, &w->frees);
		else
			give_back(img, w);
		if (!error)
			atomic64_add(w->nr, &img->stats.mapped);
		qcow2_link_forget(&w->frees);
	}
	if (w->slice) {
		qcow2_cache_put(img, w->slice);
		qcow2_busy_unlock(img, &w->range);
	} else {
		port_epoch_exit(&img->epoch, w->epoch);
	}
	return error;
}
