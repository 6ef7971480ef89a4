// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the moving of metadata into one row at the end of an image: the
 * L1 table, the L2 tables in the order of the guest, the refcount table and its
 * blocks. Where they were scattered between the data, reading them took a seek
 * each; in a row one seek brings hundreds.
 *
 * What a snapshot shares or has for itself stays where it is, and no refcount of
 * anything else changes: leaks stay leaks.
 *
 *	everything that the row has, where nothing is	=> the header names it
 *	the header names it				=> the old space is given back
 *
 * ("A => B": A is durable before B is written.) The header is one sector, so a
 * crash leaves the image as it was, or as it is to be. Nothing that the old header
 * names is written before, and no refcount that it reaches says anything of the row:
 * what a crash leaves there is not even a leak.
 */
#include "pack.h"

#include "rebuild.h"

/**
 * struct pack - a move under way
 * @c: for its header and buffer; nothing is counted
 * @p: what the caller sees
 * @new: the row; the caller's clusters are the L1 table and then @p->tables
 * @l1: the old table
 * @blocks: the old refcount table
 * @gone: clusters of metadata that moves
 * @l1_clusters: of the L1 table
 */
struct pack {
	struct qcow2_checker c;
	struct qcow2_pack *p;
	struct qcow2_rebuild new;
	u64 *l1;
	u64 *blocks;
	struct qcow2_counts gone;
	u64 l1_clusters;
};

static int put(struct pack *pk, u64 offset, void *buf, u32 len)
{
	struct qcow2_iovec v = { offset, buf, len };

	return pk->c.ops->rw(pk->c.be, true, &v, 1);
}

static void progress(struct pack *pk, u64 done)
{
	struct qcow2_check *chk = &pk->p->before;

	if (chk->progress)
		chk->progress(chk->arg, done, pk->c.hdr.l1_entries);
}

/* ---- what moves ---- */

/* The check has found that COPIED is right: nothing else names the table. */
static bool moves(u64 entry)
{
	return entry & QCOW2_ENTRY_COPIED;
}

static int load_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	struct pack *pk = arg;

	pk->l1[i] = entry;
	pk->p->tables += moves(entry);
	return 0;
}

static int load_block(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	struct pack *pk = arg;

	pk->blocks[i] = entry;
	return 0;
}

/* Are the L1 table and those that move in a row already? */
static bool packed(const struct pack *pk)
{
	const struct qcow2_header *h = &pk->c.hdr;
	u64 at = h->l1_offset + (pk->l1_clusters << h->cluster_bits), i;

	for (i = 0; i < h->l1_entries; i++) {
		if (!moves(pk->l1[i]))
			continue;
		if ((pk->l1[i] & QCOW2_ENTRY_OFFSET) != at)
			return false;
		at += qcow2_cluster_size(h);
	}
	return true;
}

static int note(struct pack *pk, u64 offset, u64 clusters)
{
	u64 k = offset >> pk->c.hdr.cluster_bits;
	int ret = 0;

	for (; !ret && clusters; k++, clusters--)
		ret = qcow2_counts_set(&pk->gone, k, 1);
	return ret;
}

static int find_gone(struct pack *pk)
{
	const struct qcow2_header *h = &pk->c.hdr;
	u64 i, n = qcow2_reftable_entries(h);
	int ret = note(pk, h->l1_offset, pk->l1_clusters);

	ret = ret ?: note(pk, h->reftable_offset, h->reftable_clusters);
	for (i = 0; !ret && i < h->l1_entries; i++)
		if (moves(pk->l1[i]))
			ret = note(pk, pk->l1[i] & QCOW2_ENTRY_OFFSET, 1);
	for (i = 0; !ret && i < n; i++)
		if (pk->blocks[i])
			ret = note(pk, pk->blocks[i], 1);
	return ret;
}

/* ---- refcounts ---- */

static u64 old_block(const struct qcow2_rebuild *n, u64 b)
{
	const struct pack *pk = container_of(n, struct pack, new);

	return b < qcow2_reftable_entries(&pk->c.hdr) ? pk->blocks[b] : 0;
}

static bool block_needed(const struct qcow2_rebuild *n, u64 b)
{
	return old_block(n, b);
}

/* What it said, but for what comes and goes. */
static int fill_block(struct qcow2_rebuild *n, u64 b)
{
	struct pack *pk = container_of(n, struct pack, new);
	u32 bits = qcow2_refblock_bits(&n->c->hdr), i;
	u32 order = n->c->hdr.refcount_order;
	u64 k = b << bits, count;
	int ret = 0;

	if (old_block(n, b))
		ret = qcow2_checker_read(n->c, old_block(n, b), n->c->cluster,
					 qcow2_cluster_size(&n->c->hdr));
	else
		memset(n->c->cluster, 0, qcow2_cluster_size(&n->c->hdr));
	for (i = 0; !ret && i < 1u << bits; i++, k++) {
		count = qcow2_refcount_get(n->c->cluster, i, order);
		if (k < n->c->clusters)
			count -= qcow2_counts_get(&pk->gone, k);
		count += qcow2_rebuild_has(n, k);
		qcow2_refcount_set(n->c->cluster, i, order, count);
	}
	return ret;
}

/* Above all that is used, and in a file above all that there is. */
static u64 first_free(const struct pack *pk)
{
	u64 end = qcow2_clusters_for(&pk->c.hdr, pk->p->before.end);

	return pk->c.ops->growable ? max(end, pk->c.clusters) : end;
}

/* ---- the row ---- */

/* Copies the tables, and makes @l1 the new table, as it is on the disk. */
static int write_tables(struct pack *pk, __be64 *l1)
{
	const struct qcow2_header *h = &pk->c.hdr;
	u64 at = (pk->new.first + pk->l1_clusters) << h->cluster_bits, i;
	int ret = 0;

	for (i = 0; !ret && i < h->l1_entries; i++) {
		u64 entry = pk->l1[i];
		u64 from = entry & QCOW2_ENTRY_OFFSET;

		if (moves(entry)) {
			ret = qcow2_checker_read(&pk->c, from, pk->c.cluster,
						 qcow2_cluster_size(h));
			ret = ret ?: put(pk, at, pk->c.cluster,
					 qcow2_cluster_size(h));
			entry += at - from;
			at += qcow2_cluster_size(h);
			progress(pk, i);
		}
		l1[i] = cpu_to_be64(entry);
	}
	return ret;
}

static int write_row(struct pack *pk, struct qcow2_error *err)
{
	const struct qcow2_header *h = &pk->c.hdr;
	u32 bytes = pk->l1_clusters << h->cluster_bits;
	__be64 *l1;
	int ret = qcow2_rebuild_write(&pk->new, err);

	if (ret)
		return ret;
	l1 = port_vzalloc(bytes);
	if (!l1)
		return -ENOMEM;
	ret = write_tables(pk, l1);
	ret = ret ?: put(pk, pk->new.first << h->cluster_bits, l1, bytes);
	port_vfree(l1);
	return ret ?: pk->c.ops->flush(pk->c.be);
}

static int switch_over(struct pack *pk)
{
	struct qcow2_header_disk *sector = port_alloc(512);
	int ret;

	if (!sector)
		return -ENOMEM;
	ret = qcow2_checker_read(&pk->c, 0, sector, 512);
	if (!ret) {
		qcow2_rebuild_name(&pk->new, sector);
		sector->l1_table_offset =
			cpu_to_be64(pk->new.first << pk->c.hdr.cluster_bits);
		if (qcow2_checker_unknown(&pk->c))
			sector->autoclear_features =
				cpu_to_be64(pk->c.hdr.autoclear &
					    ~qcow2_checker_unknown(&pk->c));
		ret = put(pk, 0, sector, 512);
	}
	port_free(sector);
	return ret ?: pk->c.ops->flush(pk->c.be);
}

/* ---- the old space ---- */

static void give_back(struct pack *pk)
{
	u32 size = qcow2_cluster_size(&pk->c.hdr);
	u64 k;

	for (k = 0; k < pk->c.clusters; k++) {
		if (qcow2_counts_empty(&pk->gone, k))
			k |= (1u << QCOW2_COUNTS_BITS) - 1;
		else if (qcow2_counts_get(&pk->gone, k))
			pk->c.ops->discard(pk->c.be, k * size, size);
	}
}

/* ---------------------------------------------------------------- */

static int look(struct pack *pk, struct qcow2_error *err)
{
	const struct qcow2_header *h = &pk->c.hdr;
	int ret = qcow2_checker_open(&pk->c, err);
	u64 blocks;

	if (ret)
		return ret;
	blocks = qcow2_reftable_entries(h);
	if (h->incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT))
		return qcow2_err(err, -EUCLEAN,
				 "it is marked dirty or corrupt; mend it first");
	pk->l1_clusters = qcow2_clusters_for(h, h->l1_entries * 8ull);
	pk->l1 = port_vzalloc(max_t(u64, h->l1_entries, 1) * sizeof(*pk->l1));
	pk->blocks = port_vzalloc(blocks * sizeof(*pk->blocks));
	if (!pk->l1 || !pk->blocks)
		return -ENOMEM;
	ret = qcow2_counts_init(&pk->gone, pk->c.clusters, 0);
	ret = ret ?: qcow2_checker_each(&pk->c, h->l1_offset, h->l1_entries,
					load_entry, pk);
	return ret ?: qcow2_checker_each(&pk->c, h->reftable_offset, blocks,
					 load_block, pk);
}

static int move(struct pack *pk, struct qcow2_error *err)
{
	struct qcow2_rebuild *n = &pk->new;
	int ret = find_gone(pk);

	if (ret)
		return ret;
	*n = (struct qcow2_rebuild){
		.c = &pk->c,
		.first = first_free(pk),
		.front = pk->l1_clusters + pk->p->tables,
		.needed = block_needed,
		.fill = fill_block,
	};
	ret = qcow2_rebuild_plan(n, err);
	if (ret)
		return ret;
	ret = write_row(pk, err);
	if (ret) {
		/* nothing names it; the space may be what there was too little of */
		pk->c.ops->trim(pk->c.be, pk->c.size);
		return ret;
	}
	ret = switch_over(pk);
	if (ret)
		return ret;
	pk->p->offset = n->first << pk->c.hdr.cluster_bits;
	pk->p->bytes = n->nr << pk->c.hdr.cluster_bits;
	give_back(pk);
	return 0;
}

/**
 * qcow2_pack() - check an image, and move its metadata together
 * @ops: what holds it; @rw, @flush, @grow, @trim, @discard and @size are called
 * @be: first argument of @ops
 * @p: zeroed but for what is the caller's
 * @err: the reason of a failure, in words
 *
 * Nobody else may use the image meanwhile. A failure to write the row has changed
 * nothing; after one to write the header it may be the old one or the new.
 *
 * Context: may sleep.
 * Return: 0; -EUCLEAN for an image with errors, or marked dirty or corrupt; the
 * errors of qcow2_header_parse(); the error of a read, a write or a flush; -ENOMEM;
 * -ENOSPC without space for the row; -EFBIG if there are too many refcounts.
 */
int qcow2_pack(const struct qcow2_backend_ops *ops, void *be,
	       struct qcow2_pack *p, struct qcow2_error *err)
{
	struct pack pk = { .c = { .ops = ops, .be = be }, .p = p };
	int ret = qcow2_check(ops, be, &p->before, err);

	if (ret)
		return ret;
	if (p->before.errors)
		return qcow2_err(err, -EUCLEAN,
				 "it has errors (%llu); mend them first",
				 (unsigned long long)p->before.errors);
	*err->msg = 0;
	ret = look(&pk, err);
	if (!ret && !packed(&pk))
		ret = move(&pk, err);
	qcow2_checker_close(&pk.c);
	qcow2_counts_destroy(&pk.gone);
	port_vfree(pk.l1);
	port_vfree(pk.blocks);
	if (ret && !*err->msg)
		qcow2_err(err, ret, "it could not be finished: error %d", ret);
	return ret;
}
