// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the set of metadata clusters. The header, the L1 table and the
 * refcount table are ranges; L2 tables and refcount blocks, of which there may
 * be millions at any place, are an open-addressing hash of cluster numbers with
 * linear probing: 16 bytes each, bounded by the limits of the tables that name
 * them (at most 4 194 304 L2 tables and 1 048 576 refcount blocks).
 *
 * Adding and removing is under alloc.lock; looking up needs nothing.
 */
#include "overlap.h"

#define MIN_BITS 6

void qcow2_overlap_init(struct qcow2_image *img)
{
	spin_lock_init(&img->overlap.lock);
}

void qcow2_overlap_destroy(struct qcow2_image *img)
{
	port_vfree(img->overlap.slots);
	img->overlap.slots = NULL;
	img->overlap.used = 0;
}

static u64 slot_of(unsigned int bits, u64 cluster)
{
	return hash_64(cluster, bits);
}

/* Where @cluster is or would go. */
static u64 probe(const u64 *slots, unsigned int bits, u64 cluster)
{
	u64 mask = BIT_ULL(bits) - 1;
	u64 i = slot_of(bits, cluster);

	while (slots[i] && slots[i] != cluster + 1)
		i = (i + 1) & mask;
	return i;
}

static int grow(struct qcow2_overlap *o)
{
	unsigned int bits = o->slots ? o->bits + 1 : MIN_BITS;
	u64 *slots = port_vzalloc(sizeof(*slots) << bits);
	u64 *old, i;

	if (!slots)
		return -ENOMEM;
	spin_lock(&o->lock);
	for (i = 0; o->slots && i < BIT_ULL(o->bits); i++)
		if (o->slots[i])
			slots[probe(slots, bits, o->slots[i] - 1)] = o->slots[i];
	old = o->slots;
	o->slots = slots;
	o->bits = bits;
	spin_unlock(&o->lock);
	port_vfree(old);
	return 0;
}

/**
 * qcow2_overlap_add() - a cluster now holds an L2 table or a refcount block
 * @img: the image
 * @cluster: host cluster index
 *
 * After activation the generation moves, so that an L2 slice that was checked
 * against the smaller set is not trusted any more.
 *
 * Context: may sleep; alloc.lock held, or activation.
 * Return: 0 or -ENOMEM.
 */
int qcow2_overlap_add(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_overlap *o = &img->overlap;
	u64 i;
	int ret;

	if (!o->slots || o->used * 2 >= BIT_ULL(o->bits)) {
		ret = grow(o);
		if (ret)
			return ret;
	}
	spin_lock(&o->lock);
	i = probe(o->slots, o->bits, cluster);
	if (!o->slots[i]) {
		o->slots[i] = cluster + 1;
		o->used++;
	}
	spin_unlock(&o->lock);
	if (img->overlap_gen)
		/* pairs with the acquires in judge() and check_slice() */
		smp_store_release(&img->overlap_gen,
				  img->overlap_gen + 1 ?: 1);
	return 0;
}

/**
 * qcow2_overlap_remove() - a cluster does not hold metadata any more
 * @img: the image
 * @cluster: host cluster index
 *
 * Context: alloc.lock held.
 */
void qcow2_overlap_remove(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_overlap *o = &img->overlap;
	u64 mask, hole, i, home;

	spin_lock(&o->lock);
	if (!o->slots)
		goto out;
	mask = BIT_ULL(o->bits) - 1;
	hole = probe(o->slots, o->bits, cluster);
	if (!o->slots[hole])
		goto out;
	o->used--;
	/* move back what the hole would cut off from its home */
	for (i = (hole + 1) & mask; o->slots[i]; i = (i + 1) & mask) {
		home = slot_of(o->bits, o->slots[i] - 1);
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			o->slots[hole] = o->slots[i];
			hole = i;
		}
	}
	o->slots[hole] = 0;
out:
	spin_unlock(&o->lock);
}

/**
 * qcow2_overlap_set_reftable() - the refcount table is here now
 * @img: the image
 * @offset: host offset in bytes
 * @clusters: its length
 *
 * Context: alloc.lock held, or activation.
 */
void qcow2_overlap_set_reftable(struct qcow2_image *img, u64 offset,
				u32 clusters)
{
	struct qcow2_overlap *o = &img->overlap;

	spin_lock(&o->lock);
	o->rt_first = qcow2_cluster_index(&img->hdr, offset);
	o->rt_last = o->rt_first + clusters - 1;
	spin_unlock(&o->lock);
	if (img->overlap_gen)
		/* as in qcow2_overlap_add() */
		smp_store_release(&img->overlap_gen,
				  img->overlap_gen + 1 ?: 1);
}

static bool overlaps(u64 first, u64 last, u64 a, u64 b)
{
	return first <= b && a <= last;
}

/**
 * qcow2_overlap_fixed() - does a run of host clusters touch the header, the L1
 * table or the refcount table?
 * @img: the image, being activated or activated
 * @cluster: first host cluster index
 * @nr: number of clusters, at least 1
 *
 * Context: any but hard interrupts.
 * Return: what it touches, in words, or NULL.
 */
const char *qcow2_overlap_fixed(struct qcow2_image *img, u64 cluster, u64 nr)
{
	struct qcow2_overlap *o = &img->overlap;
	const char *what = NULL;
	u64 last = cluster + nr - 1;

	if (!cluster)
		return "the header";
	if (o->l1_last && overlaps(cluster, last, o->l1_first, o->l1_last))
		return "the L1 table";
	spin_lock(&o->lock);
	if (overlaps(cluster, last, o->rt_first, o->rt_last))
		what = "the refcount table";
	spin_unlock(&o->lock);
	return what;
}

/**
 * qcow2_overlap_find() - does a run of host clusters touch metadata?
 * @img: the image, being activated or activated
 * @cluster: first host cluster index
 * @nr: number of clusters, at least 1
 *
 * Context: any but hard interrupts.
 * Return: what it touches, in words, or NULL.
 */
const char *qcow2_overlap_find(struct qcow2_image *img, u64 cluster, u64 nr)
{
	struct qcow2_overlap *o = &img->overlap;
	const char *what = qcow2_overlap_fixed(img, cluster, nr);
	u64 i;

	spin_lock(&o->lock);
	for (i = cluster; !what && o->slots && i < cluster + nr; i++)
		if (o->slots[probe(o->slots, o->bits, i)])
			what = "an L2 table or a refcount block";
	spin_unlock(&o->lock);
	return what;
}
