// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the writing of a whole new refcount table and its blocks, where
 * nothing is. What they say is the caller's, and so is the header, which goes
 * over to them in one sector.
 */
#include "rebuild.h"

#define ULL(x) ((unsigned long long)(x))

static u64 table_clusters(const struct qcow2_rebuild *n)
{
	return qcow2_clusters_for(&n->c->hdr, n->entries * 8);
}

/**
 * qcow2_rebuild_plan() - how long is the row?
 * @n: its first five fields set; sets the others
 * @err: the reason of a failure, in words
 *
 * While @needed is called, @nr is not 0.
 *
 * Return: 0, or -EFBIG.
 */
int qcow2_rebuild_plan(struct qcow2_rebuild *n, struct qcow2_error *err)
{
	const struct qcow2_header *h = &n->c->hdr;
	u32 bits = qcow2_refblock_bits(h);
	u64 b, below = 0, nr;

	n->nr = 1;
	for (b = 0; b < n->first >> bits; b++)
		below += n->needed(n, b);
	/* they count themselves, so their number follows from itself */
	do {
		nr = n->nr;
		n->entries = ((n->first + nr - 1) >> bits) + 1;
		n->nr = n->front + table_clusters(n) + below + n->entries -
			(n->first >> bits);
	} while (nr != n->nr);
	if (table_clusters(n) << h->cluster_bits > QCOW2_MAX_REFTABLE_BYTES)
		return qcow2_err(err, -EFBIG,
				 "a refcount table for %llu clusters would be larger than %u bytes",
				 ULL(n->first + nr), QCOW2_MAX_REFTABLE_BYTES);
	return 0;
}

static int put(struct qcow2_rebuild *n, u64 cluster)
{
	const struct qcow2_header *h = &n->c->hdr;
	struct qcow2_iovec v = {
		cluster << h->cluster_bits, n->c->cluster, qcow2_cluster_size(h),
	};

	return n->c->ops->rw(n->c->be, true, &v, 1);
}

/* @table holds cluster numbers. */
static int write_table(struct qcow2_rebuild *n, const u64 *table)
{
	u32 size = qcow2_cluster_size(&n->c->hdr), per_cluster = size / 8, i;
	u64 b, place = n->first + n->front;
	__be64 *p = n->c->cluster;
	int ret = 0;

	for (b = 0; !ret && b < n->entries; b += per_cluster) {
		memset(p, 0, size);
		for (i = 0; i < per_cluster && b + i < n->entries; i++)
			p[i] = cpu_to_be64(table[b + i] << n->c->hdr.cluster_bits);
		ret = put(n, place++);
	}
	return ret;
}

/**
 * qcow2_rebuild_write() - write the table and its blocks
 * @n: planned; the caller's clusters are left alone, but there is space for them
 * @err: the reason of a failure, in words, if it is for want of space
 *
 * Nothing names them yet, and nothing is flushed.
 *
 * Context: may sleep.
 * Return: 0; -ENOSPC; -ENOMEM; the error of a read or a write.
 */
int qcow2_rebuild_write(struct qcow2_rebuild *n, struct qcow2_error *err)
{
	const struct qcow2_header *h = &n->c->hdr;
	u64 b, before = n->first >> qcow2_refblock_bits(h);
	u64 place = n->first + n->front + table_clusters(n), *table;
	int ret = 0;

	if (n->c->ops->grow(n->c->be, (n->first + n->nr) << h->cluster_bits))
		return qcow2_err(err, -ENOSPC,
				 "no space for new metadata of %llu bytes at the end of the image",
				 ULL(n->nr << h->cluster_bits));
	table = port_vzalloc(n->entries * sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (b = 0; !ret && b < n->entries; b++) {
		if (b < before && !n->needed(n, b))
			continue;
		ret = n->fill(n, b);
		table[b] = place++;
		ret = ret ?: put(n, table[b]);
	}
	ret = ret ?: write_table(n, table);
	port_vfree(table);
	return ret;
}

/**
 * qcow2_rebuild_name() - have a header name the new table
 * @n: written
 * @sector: of the header
 */
void qcow2_rebuild_name(const struct qcow2_rebuild *n,
			struct qcow2_header_disk *sector)
{
	sector->refcount_table_offset =
		cpu_to_be64((n->first + n->front) << n->c->hdr.cluster_bits);
	sector->refcount_table_clusters = cpu_to_be32(table_clusters(n));
}
