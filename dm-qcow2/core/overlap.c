// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the set of metadata clusters. The header, the L1 table and the
 * refcount table are ranges; L2 tables and refcount blocks, of which there may
 * be millions at any place, and what snapshots and bitmaps have, are an
 * open-addressing hash of cluster numbers with linear probing: 16 bytes each,
 * bounded by the limits of the tables that name them (at most 4 194 304 L2
 * tables and 1 048 576 refcount blocks; for the rest see survey.c).
 *
 * Adding and removing is under alloc.lock; looking up needs nothing.
 */
#include "overlap.h"

#define MIN_BITS 6
#define VISITED BIT_ULL(63)	/* in a slot: see qcow2_overlap_visit() */

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

/* The cluster of a slot in use. */
static u64 held(u64 slot)
{
	return (slot & ~VISITED) - 1;
}

/* Where @cluster is or would go. */
static u64 probe(const u64 *slots, unsigned int bits, u64 cluster)
{
	u64 mask = BIT_ULL(bits) - 1;
	u64 i = slot_of(bits, cluster);

	while (slots[i] && held(slots[i]) != cluster)
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
			slots[probe(slots, bits, held(o->slots[i]))] = o->slots[i];
	old = o->slots;
	o->slots = slots;
	o->bits = bits;
	spin_unlock(&o->lock);
	port_vfree(old);
	return 0;
}

static void new_generation(struct qcow2_image *img)
{
	if (img->overlap_gen)
		/* pairs with the acquires in judge() and check_slice() */
		smp_store_release(&img->overlap_gen,
				  img->overlap_gen + 1 ?: 1);
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
	new_generation(img);
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
		home = slot_of(o->bits, held(o->slots[i]));
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
 * qcow2_overlap_set_l1() - the L1 table is where the header says
 * @img: the image
 *
 * Context: alloc.lock held and nobody else uses the image, or activation.
 */
void qcow2_overlap_set_l1(struct qcow2_image *img)
{
	const struct qcow2_header *h = &img->hdr;
	struct qcow2_overlap *o = &img->overlap;

	o->l1_first = 0;
	o->l1_last = 0;
	if (h->l1_entries) {
		o->l1_first = qcow2_cluster_index(h, h->l1_offset);
		o->l1_last = o->l1_first +
			qcow2_clusters_for(h, h->l1_entries * 8ull) - 1;
	}
	new_generation(img);
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
	new_generation(img);
}

/**
 * qcow2_overlap_unvisit() - no metadata cluster has been visited yet
 * @img: the image; nothing joins or leaves the set meanwhile
 *
 * Context: may sleep; takes no lock, because there may be millions.
 */
void qcow2_overlap_unvisit(struct qcow2_image *img)
{
	struct qcow2_overlap *o = &img->overlap;
	u64 i;

	for (i = 0; o->slots && i < BIT_ULL(o->bits); i++)
		o->slots[i] &= ~VISITED;
}

/**
 * qcow2_overlap_visit() - is this the first visit to a metadata cluster?
 * @img: the image
 * @cluster: host cluster index
 *
 * Context: any but hard interrupts.
 * Return: true the first time; false later, and if it holds no metadata.
 */
bool qcow2_overlap_visit(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_overlap *o = &img->overlap;
	bool first = false;
	u64 *slot;

	spin_lock(&o->lock);
	if (o->slots) {
		slot = &o->slots[probe(o->slots, o->bits, cluster)];
		first = *slot && !(*slot & VISITED);
		if (first)
			*slot |= VISITED;
	}
	spin_unlock(&o->lock);
	return first;
}

/**
 * qcow2_overlap_end() - where metadata ends
 * @img: the image, activated; nothing joins or leaves the set meanwhile
 *
 * Context: any; takes no lock, because there may be millions.
 * Return: one past the last cluster that holds some.
 */
u64 qcow2_overlap_end(struct qcow2_image *img)
{
	const struct qcow2_overlap *o = &img->overlap;
	u64 i, end = max(o->l1_last, o->rt_last) + 1;

	end = max(end, qcow2_clusters_for(&img->hdr, img->hdr.crypto_offset +
					  img->hdr.crypto_length));
	for (i = 0; o->slots && i < BIT_ULL(o->bits); i++)
		if (o->slots[i])
			end = max(end, held(o->slots[i]) + 1);
	return end;
}

static bool overlaps(u64 first, u64 last, u64 a, u64 b)
{
	return first <= b && a <= last;
}

static bool overlaps_luks(const struct qcow2_header *h, u64 first, u64 last)
{
	return h->crypto_length &&
		overlaps(first, last, qcow2_cluster_index(h, h->crypto_offset),
			 qcow2_cluster_index(h, h->crypto_offset +
					     h->crypto_length - 1));
}

/**
 * qcow2_overlap_fixed() - does a run of host clusters touch the header, the LUKS
 * header, the L1 table or the refcount table?
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
	if (overlaps_luks(&img->hdr, cluster, last))
		return "the LUKS header";
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
			what = "an L2 table, a refcount block, a snapshot or a bitmap";
	spin_unlock(&o->lock);
	return what;
}
