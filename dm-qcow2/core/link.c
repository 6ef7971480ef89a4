// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the change of L2 entries: an L2 table of one's own to change
 * them in, the record of what the old ones named, and the moment at which the
 * new ones are there. Everything is in memory; commit.c brings it to the disk.
 */
#include "link.h"
#include "alloc.h"
#include "commit.h"
#include "map.h"
#include "metacache.h"
#include "overlap.h"

static struct mutex *table_lock(struct qcow2_image *img, u64 guest)
{
	return &img->l2_lock[qcow2_l1_index(&img->hdr, guest) % QCOW2_L2_LOCKS];
}

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

/**
 * qcow2_link_forget() - the old entries stay
 * @frees: what qcow2_link_free() collected, emptied
 */
void qcow2_link_forget(struct list_head *frees)
{
	struct qcow2_free *f, *next;

	list_for_each_entry_safe(f, next, frees, link)
		port_free(f);
	INIT_LIST_HEAD(frees);
}

/* Copies an L2 table that others use too; nothing in the copy is COPIED. */
static int copy_table(struct qcow2_image *img, u64 from, u64 to)
{
	u32 words = 1u << (qcow2_l2_entry_bits(&img->hdr) - 3);
	u32 left = qcow2_cluster_size(&img->hdr);
	void *buf = port_pool_get(&img->copies);
	u32 n, i;
	int ret = 0;

	for (; !ret && left; left -= n, from += n, to += n) {
		struct qcow2_iovec v;
		__be64 *p = buf;

		n = min_t(u32, left, QCOW2_COW_BYTES);
		v = (struct qcow2_iovec){ from, buf, n };
		ret = qcow2_meta_rw(img, false, &v, 1);
		if (ret)
			break;
		/* the second half of an extended entry is a bitmap */
		for (i = 0; i < n / 8; i += words)
			p[i] &= ~cpu_to_be64(QCOW2_ENTRY_COPIED);
		v.offset = to;
		ret = qcow2_meta_rw(img, true, &v, 1);
	}
	port_pool_put(&img->copies, buf);
	return ret;
}

/* T held. The L1 entry of @guest does not name what is in @frees any more. */
static void set_l1_entry(struct qcow2_image *img, u64 guest,
			 struct qcow2_block *l1, __be64 entry,
			 struct list_head *frees)
{
	spin_lock(&img->cache.lock);
	/* while there are users, its blocks are the image's */
	WARN_ON_ONCE(!qcow2_cache_change(img, l1));
	WRITE_ONCE(*qcow2_block_entry(img, l1, qcow2_l1_entry_offset(img, guest)),
		   entry);
	qcow2_commit_unlink(img, frees);
	spin_unlock(&img->cache.lock);
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
	set_l1_entry(img, guest, l1, qcow2_entry_encode(*table, true), &frees);
	qcow2_cache_put(img, slice);
	return 0;
out_frees:
	qcow2_link_forget(&frees);
	return ret;
}

/**
 * qcow2_link_slice() - the slice of a guest offset, in a table that may change
 * @img: the image, activated
 * @guest: guest offset in bytes
 * @slice: the slice, pinned
 *
 * Context: may sleep.
 * Return: 0; -EAGAIN as qcow2_alloc_run(); -ENOSPC; -EUCLEAN (reported); a
 * negative errno.
 */
int qcow2_link_slice(struct qcow2_image *img, u64 guest,
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
		ret = qcow2_map_slice(img, guest, l1, table, slice);
	qcow2_cache_put(img, l1);
out:
	mutex_unlock(table_lock(img, guest));
	return ret;
}

/**
 * qcow2_link_drop_table() - an L2 table goes
 * @img: the image, activated
 * @guest: guest offset in bytes; none of the table's entries names anything
 *
 * Context: may sleep.
 * Return: 0; -ENOMEM; -EUCLEAN (reported); the error of a read.
 */
int qcow2_link_drop_table(struct qcow2_image *img, u64 guest)
{
	struct qcow2_block *l1;
	struct qcow2_free *f;
	LIST_HEAD(frees);
	bool copied;
	u64 table;
	int ret;

	mutex_lock(table_lock(img, guest));
	ret = qcow2_map_l1(img, guest, &l1, &table, &copied);
	if (ret)
		goto out;
	f = new_free(qcow2_cluster_index(&img->hdr, table), 1, true);
	if (f) {
		list_add(&f->link, &frees);
		set_l1_entry(img, guest, l1, 0, &frees);
	} else {
		ret = -ENOMEM;
	}
	qcow2_cache_put(img, l1);
out:
	mutex_unlock(table_lock(img, guest));
	return ret;
}

/**
 * qcow2_link_check() - is what an entry names no metadata?
 * @img: the image, activated
 * @guest: guest offset in bytes, for the message
 * @host: host offset in bytes of the first cluster
 * @nr: how many
 *
 * Context: may sleep.
 * Return: 0 or -EUCLEAN (reported).
 */
int qcow2_link_check(struct qcow2_image *img, u64 guest, u64 host, u64 nr)
{
	const char *what;

	if (qcow2_external(&img->hdr))
		return 0;
	what = qcow2_overlap_find(img, qcow2_cluster_index(&img->hdr, host), nr);
	if (!what)
		return 0;
	return qcow2_corrupt(img,
			     "L2 table %llu: entry %u names %#llx, which is part of %s; the write is refused",
			     (unsigned long long)qcow2_l1_index(&img->hdr, guest),
			     qcow2_l2_index(&img->hdr, guest),
			     (unsigned long long)host, what);
}

/**
 * qcow2_link_free() - remember what an old entry names, for when it is gone
 * @img: the image, activated
 * @guest: guest offset in bytes of the entry
 * @e: the entry
 * @frees: list of struct qcow2_free; the record joins it
 *
 * Each host cluster that compressed data touches counts it.
 *
 * Context: may sleep.
 * Return: 0; -ENOMEM; -EUCLEAN (reported).
 */
int qcow2_link_free(struct qcow2_image *img, u64 guest,
		    const struct qcow2_entry *e, struct list_head *frees)
{
	struct qcow2_free *f;
	u64 first, nr = 1;
	int ret;

	if (!e->allocated || qcow2_external(&img->hdr))
		return 0;
	first = qcow2_cluster_index(&img->hdr, e->host);
	if (e->kind == QCOW2_COMPRESSED)
		nr = qcow2_cluster_index(&img->hdr, e->host + e->csize - 1) -
			first + 1;
	/* metadata is not freed as somebody's old data, either */
	ret = qcow2_link_check(img, guest, first << img->hdr.cluster_bits, nr);
	if (ret)
		return ret;
	qcow2_alloc_keep(img, first + nr);
	if (!list_empty(frees)) {
		f = list_entry(frees->prev, struct qcow2_free, link);
		if (f->cluster + f->nr == first) {
			f->nr += nr;
			return 0;
		}
	}
	f = new_free(first, nr, false);
	if (!f)
		return -ENOMEM;
	list_add_tail(&f->link, frees);
	return 0;
}

/* M held. */
static void store(struct qcow2_image *img, struct qcow2_block *slice, __be64 *p,
		  const struct qcow2_entry *e)
{
	__be64 raw = qcow2_entry_encode(e->host, e->copied);

	if (!qcow2_extended(&img->hdr)) {
		if (e->kind == QCOW2_ZERO || e->kind == QCOW2_ZERO_ALLOC)
			raw |= cpu_to_be64(QCOW2_ENTRY_ZERO);
		WRITE_ONCE(*p, raw);
		return;
	}
	qcow2_block_begin(slice);
	WRITE_ONCE(p[0], raw);
	WRITE_ONCE(p[1], qcow2_bitmap_encode(e->alloc, e->zero));
	qcow2_block_end(slice);
}

/**
 * qcow2_link() - change entries
 * @img: the image, activated
 * @slice: the slice, from qcow2_link_slice()
 * @guest: guest offset in bytes of the first cluster
 * @nr: how many; their guest clusters are owned, and their entries are sound
 * @change: turns an old entry into the new one; spinlocks are held
 * @arg: for @change
 * @frees: what the old entries named and the new ones do not; emptied
 *
 * A slice whose table was freed meanwhile belongs to nobody: a damaged image
 * had two names for the table.
 *
 * Context: may sleep.
 * Return: 0 or -EUCLEAN (reported).
 */
int qcow2_link(struct qcow2_image *img, struct qcow2_block *slice, u64 guest,
	       u64 nr, void (*change)(struct qcow2_image *img, u64 guest,
				      struct qcow2_entry *e, void *arg),
	       void *arg, struct list_head *frees)
{
	bool ours;
	u64 i;

	spin_lock(&img->cache.lock);
	ours = qcow2_cache_change(img, slice);
	for (i = 0; ours && i < nr; i++) {
		u64 pos = guest + (i << img->hdr.cluster_bits);
		__be64 *p = qcow2_block_entry(img, slice,
				qcow2_l2_entry_offset(img, pos, 0));
		struct qcow2_entry e;

		/* it was sound when the cluster became ours */
		qcow2_l2_decode(&img->hdr, *p,
				qcow2_extended(&img->hdr) ? p[1] : 0, &e);
		change(img, pos, &e, arg);
		store(img, slice, p, &e);
	}
	if (ours)
		qcow2_commit_unlink(img, frees);
	spin_unlock(&img->cache.lock);
	if (!ours)
		return qcow2_corrupt(img, "L2 table %llu was freed while it was in use",
				     (unsigned long long)qcow2_l1_index(&img->hdr,
									guest));
	return 0;
}
