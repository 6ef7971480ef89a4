/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Arithmetic between offsets and indices. Everything follows from the header;
 * a header that passed qcow2_header_parse() cannot overflow any of it, because
 * sizes are at most S64_MAX and shifts are at most 64 - 9 bits wide.
 *
 * Names: a guest offset is where the user of the device looks, a host offset
 * is where the bytes are in the image file; both in bytes. A cluster index is
 * an offset divided by the cluster size.
 */
#ifndef QCOW2_GEOMETRY_H
#define QCOW2_GEOMETRY_H

#include "format.h"

static inline u32 qcow2_cluster_size(const struct qcow2_header *h)
{
	return 1u << h->cluster_bits;
}

static inline bool qcow2_extended(const struct qcow2_header *h)
{
	return h->incompatible & QCOW2_INCOMPAT_EXTL2;
}

/* guest data is in another file, where host offset and guest offset are one */
static inline bool qcow2_external(const struct qcow2_header *h)
{
	return h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
}

/* log2 of the bytes of an L2 entry */
static inline u32 qcow2_l2_entry_bits(const struct qcow2_header *h)
{
	return qcow2_extended(h) ? 4 : 3;
}

/* log2 of the number of entries in an L2 table */
static inline u32 qcow2_l2_bits(const struct qcow2_header *h)
{
	return h->cluster_bits - qcow2_l2_entry_bits(h);
}

/*
 * log2 of the smallest part of a cluster that can be data or not by itself: a
 * subcluster with extended L2 entries, else the cluster
 */
static inline u32 qcow2_sub_bits(const struct qcow2_header *h)
{
	return h->cluster_bits - (qcow2_extended(h) ? 5 : 0);
}

static inline u32 qcow2_sub_size(const struct qcow2_header *h)
{
	return 1u << qcow2_sub_bits(h);
}

/* log2 of the guest bytes that one L1 entry covers */
static inline u32 qcow2_l1_shift(const struct qcow2_header *h)
{
	return h->cluster_bits + qcow2_l2_bits(h);
}

static inline u64 qcow2_l1_index(const struct qcow2_header *h, u64 guest)
{
	return guest >> qcow2_l1_shift(h);
}

static inline u32 qcow2_l2_index(const struct qcow2_header *h, u64 guest)
{
	return (guest >> h->cluster_bits) & ((1u << qcow2_l2_bits(h)) - 1);
}

/* L1 entries that a guest of this many bytes needs */
static inline u64 qcow2_size_to_l1(const struct qcow2_header *h, u64 size)
{
	u32 shift = qcow2_l1_shift(h);

	return (size >> shift) + ((size & (BIT_ULL(shift) - 1)) != 0);
}

/* log2 of the number of refcounts in a refcount block */
static inline u32 qcow2_refblock_bits(const struct qcow2_header *h)
{
	return h->cluster_bits + 3 - h->refcount_order;
}

static inline u64 qcow2_refcount_max(const struct qcow2_header *h)
{
	return h->refcount_order == 6 ? U64_MAX :
		BIT_ULL(1u << h->refcount_order) - 1;
}

static inline u64 qcow2_reftable_entries(const struct qcow2_header *h)
{
	return (u64)h->reftable_clusters << (h->cluster_bits - 3);
}

static inline u64 qcow2_cluster_index(const struct qcow2_header *h, u64 host)
{
	return host >> h->cluster_bits;
}

static inline u64 qcow2_cluster_start(const struct qcow2_header *h, u64 off)
{
	return off & ~((u64)qcow2_cluster_size(h) - 1);
}

static inline u32 qcow2_in_cluster(const struct qcow2_header *h, u64 off)
{
	return off & (qcow2_cluster_size(h) - 1);
}

/* which subcluster of its cluster an offset is in; 0 without subclusters */
static inline u32 qcow2_sub_index(const struct qcow2_header *h, u64 off)
{
	return qcow2_in_cluster(h, off) >> qcow2_sub_bits(h);
}

/* bytes rounded up to whole clusters, as a number of clusters */
static inline u64 qcow2_clusters_for(const struct qcow2_header *h, u64 bytes)
{
	return (bytes >> h->cluster_bits) + (qcow2_in_cluster(h, bytes) != 0);
}

/*
 * Where guest bytes up to @end, the end of a cluster, end in what holds them: an
 * external data file need not have more than the disk.
 */
static inline u64 qcow2_data_end(const struct qcow2_header *h, u64 end)
{
	return qcow2_external(h) ? min(end, round_up(h->size, 512ull)) : end;
}

#endif /* QCOW2_GEOMETRY_H */
