// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the repair: it makes refcounts and COPIED flags agree with the
 * references of an image, and removes the marks dirty and corrupt from one that
 * has no errors left. No guest data is written, and no reference is made or
 * removed, but for a preallocated cluster of zeros at a place where none can be.
 *
 * It mends what qemu-img check -r mends, with three differences. COPIED flags
 * that have no meaning are removed: the driver refuses them. While errors are
 * there that cannot be mended, no refcount is lowered: what looks like a leak
 * may be what a damaged table names. And flags are left alone in an L2 table
 * with an entry that can be none: it may not be a table.
 *
 * The order of writes, with a flush behind each step, so that a crash leaves an
 * image that is no worse, and a second repair brings to its end:
 *
 *  1. COPIED flags are cleared where there is not exactly one reference. A
 *     cleared flag only makes a writer copy.
 *  2. Refcounts. Where the refcount structures are sound and nothing else is
 *     left to be wrong, they are mended in place: each new value is right by
 *     itself. Else, and if some refcount is too low, a new table and
 *     new blocks are written where nothing is. The header goes over to them in
 *     one sector; the old ones are counted no more. If the file has lost its
 *     end and entries still name that, there is no such place.
 *  3. COPIED flags are set where the refcount is now 1.
 *  4. If a second check finds no errors, the marks are removed.
 */
#include "repair.h"

#include "rebuild.h"

/**
 * struct repair - a repair under way
 * @c: references without those of the refcount structures; @ones is what step
 *	2 leaves
 * @quiet: of @c: what this finds, @rep->before has reported
 * @rep: what the caller sees
 * @own: references that the refcount structures make, to their own clusters
 * @table: the refcount table; 0 for an entry that names no block
 * @entries: of @table
 * @sound: nothing else is where the refcount structures are, and they have a
 *	place for every refcount
 * @lost: one past the last cluster of a refcount block that the file has lost
 *	at its end
 * @new: the new structures, if there are to be some
 * @sector: first sector of the header
 */
struct repair {
	struct qcow2_checker c;
	struct qcow2_check quiet;
	struct qcow2_repair *rep;
	struct qcow2_counts own;
	u64 *table;
	u64 entries;
	bool sound;
	u64 lost;
	struct qcow2_rebuild new;
	struct qcow2_header_disk *sector;
};

static int put(struct repair *r, u64 offset, void *buf, u32 len)
{
	struct qcow2_iovec v = { offset, buf, len };

	return r->c.ops->rw(r->c.be, true, &v, 1);
}

static int flush(struct repair *r)
{
	return r->c.ops->flush(r->c.be);
}

static int write_header(struct repair *r)
{
	return put(r, 0, r->sector, 512) ?: flush(r);
}

/* ---- the refcount structures as they are ---- */

static int own_cluster(struct repair *r, u64 k)
{
	u64 n = qcow2_counts_get(&r->own, k) + 1;

	if (n > 1 || qcow2_counts_get(&r->c.refs, k))
		r->sound = false;
	return qcow2_counts_set(&r->own, k, n);
}

static int load_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	u64 k = entry >> c->hdr.cluster_bits;
	struct repair *r = arg;

	if (!entry)
		return 0;
	/* far enough for all new structures; none needs so much */
	if (k >= c->clusters && k < 2 * c->clusters + 1024)
		r->lost = max(r->lost, k + 1);
	if ((entry & QCOW2_RT_RESERVED) || qcow2_in_cluster(&c->hdr, entry) ||
	    entry > c->size || c->size - entry < qcow2_cluster_size(&c->hdr)) {
		r->sound = false;
		return 0;
	}
	r->table[i] = entry;
	return own_cluster(r, k);
}

static int load_table(struct repair *r)
{
	const struct qcow2_header *h = &r->c.hdr;
	u64 i, k = h->reftable_offset >> h->cluster_bits;
	int ret = 0;

	r->sound = true;
	r->entries = qcow2_reftable_entries(h);
	r->table = port_vzalloc(r->entries * sizeof(*r->table));
	if (!r->table)
		return -ENOMEM;
	for (i = 0; !ret && i < h->reftable_clusters; i++)
		ret = own_cluster(r, k + i);
	return ret ?: qcow2_checker_each(&r->c, h->reftable_offset, r->entries,
					 load_entry, r);
}

/* Is anything in [k, end) that a refcount must count? */
static bool any_wanted(const struct repair *r, u64 k, u64 end)
{
	for (end = min(end, r->c.clusters); k < end; k++) {
		if (qcow2_counts_empty(&r->c.refs, k) &&
		    qcow2_counts_empty(&r->own, k))
			k |= (1u << QCOW2_COUNTS_BITS) - 1;
		else if (qcow2_counts_get(&r->c.refs, k) ||
			 (!r->new.nr && qcow2_counts_get(&r->own, k)))
			return true;
	}
	return false;
}

static bool block_wanted(const struct repair *r, u64 b)
{
	u32 bits = qcow2_refblock_bits(&r->c.hdr);

	return any_wanted(r, b << bits, (b + 1) << bits);
}

static void find_missing_blocks(struct repair *r)
{
	u64 b;

	for (b = 0; r->sound && b < r->entries; b++)
		if (!r->table[b] && block_wanted(r, b))
			r->sound = false;
	if (any_wanted(r, r->entries << qcow2_refblock_bits(&r->c.hdr), U64_MAX))
		r->sound = false;
}

/* ---- refcounts ---- */

static u64 new_refcount(const struct repair *r, u64 k, u64 old)
{
	u64 n = 0;

	if (k < r->c.clusters)
		n = qcow2_counts_get(&r->c.refs, k);
	if (r->new.nr)
		n += qcow2_rebuild_has(&r->new, k);
	else
		n += qcow2_counts_get(&r->own, k);
	n = min(n, qcow2_refcount_max(&r->c.hdr));
	if (old > n)
		return r->rep->kept_leaks ? old : n;
	return r->rep->leaks_only ? old : n;
}

/* The refcounts of block @b in @c.cluster become what they should be. */
static int mend_refcounts(struct repair *r, u64 b, bool *changed)
{
	u32 bits = qcow2_refblock_bits(&r->c.hdr), order = r->c.hdr.refcount_order;
	u64 k = b << bits, end = max(r->c.clusters, r->new.first + r->new.nr), old, new;
	u32 n;
	int ret = 0;

	end = min(end, k + BIT_ULL(bits));
	for (n = 0; !ret && k < end; k++, n++) {
		old = qcow2_refcount_get(r->c.cluster, n, order);
		new = new_refcount(r, k, old);
		if (new == 1 && k < r->c.clusters)
			ret = qcow2_counts_set(&r->c.ones, k, 1);
		if (new == old)
			continue;
		*changed = true;
		qcow2_refcount_set(r->c.cluster, n, order, new);
		if (r->new.nr)
			continue;
		r->rep->raised += new > old;
		r->rep->lowered += new < old;
	}
	return ret;
}

static int mend_in_place(struct repair *r, bool write)
{
	u32 size = qcow2_cluster_size(&r->c.hdr);
	bool changed;
	int ret = 0;
	u64 b;

	for (b = 0; !ret && b < r->entries; b++) {
		if (!r->table[b])
			continue;
		changed = false;
		ret = qcow2_checker_read(&r->c, r->table[b], r->c.cluster, size);
		ret = ret ?: mend_refcounts(r, b, &changed);
		if (!ret && changed && write)
			ret = put(r, r->table[b], r->c.cluster, size);
	}
	return ret || !write ? ret : flush(r);
}

/* ---- new refcount structures ---- */

/*
 * Above all that is used, and in a file above all that there is and was: the old
 * table must not find the new structures in place of a block that is lost.
 */
static u64 first_free(const struct repair *r)
{
	u64 k = r->c.clusters;

	if (r->c.ops->growable)
		return max(k, r->lost);
	if (r->rep->kept_leaks)
		return min(k, r->rep->before.end >> r->c.hdr.cluster_bits);
	while (k && !qcow2_counts_get(&r->c.refs, k - 1) &&
	       !qcow2_counts_get(&r->own, k - 1))
		k--;
	return k;
}

/* Does block @b say what it seems to? */
static bool trusted(const struct repair *r, u64 b)
{
	u64 k = b < r->entries ? r->table[b] >> r->c.hdr.cluster_bits : 0;

	return k && !qcow2_counts_get(&r->c.refs, k) &&
		qcow2_counts_get(&r->own, k) == 1;
}

static bool block_needed(const struct qcow2_rebuild *n, u64 b)
{
	const struct repair *r = container_of(n, struct repair, new);

	return block_wanted(r, b) || (r->rep->kept_leaks && trusted(r, b));
}

/* Sets the contents of block @b. */
static int fill_block(struct qcow2_rebuild *n, u64 b)
{
	struct repair *r = container_of(n, struct repair, new);
	bool changed;
	int ret = 0;

	/* what it said before matters only while leaks are kept */
	if (r->rep->kept_leaks && trusted(r, b))
		ret = qcow2_checker_read(&r->c, r->table[b], r->c.cluster,
					 qcow2_cluster_size(&r->c.hdr));
	else
		memset(r->c.cluster, 0, qcow2_cluster_size(&r->c.hdr));
	return ret ?: mend_refcounts(r, b, &changed);
}

static int rebuild(struct repair *r, struct qcow2_error *err)
{
	struct qcow2_rebuild *n = &r->new;
	int ret;

	*n = (struct qcow2_rebuild){
		.c = &r->c,
		.first = first_free(r),
		.needed = block_needed,
		.fill = fill_block,
	};
	ret = qcow2_rebuild_plan(n, err);
	if (ret)
		return ret;
	/* what reads as an error, or is restored later, shall not find these */
	r->rep->no_place = r->c.beyond < (n->first + n->nr) << r->c.hdr.cluster_bits;
	if (r->rep->no_place)
		return 0;
	ret = qcow2_rebuild_write(n, err);
	ret = ret ?: flush(r);
	if (ret)
		return ret;
	qcow2_rebuild_name(n, r->sector);
	ret = write_header(r);
	r->rep->rebuilt = !ret;
	return ret;
}

static int refcounts(struct repair *r, struct qcow2_error *err)
{
	struct qcow2_repair *rep = r->rep;
	int ret;

	if (r->sound && !rep->kept_leaks)
		return mend_in_place(r, true);
	if (r->sound) {
		/* what looks like a block may be data that nothing names any more */
		ret = mend_in_place(r, false);
		if (ret || !rep->raised)
			return ret;
		rep->raised = 0;
		r->sound = false;
	}
	return rep->leaks_only ? 0 : rebuild(r, err);
}

/* ---- entries of L1 and L2 tables ---- */

/* Steps 1 and 3. */
enum step {
	STEP_CLEAR,
	STEP_SET,
};

/* COPIED as it should be. */
static u64 mend_copied(const struct repair *r, u64 entry, enum step step)
{
	u64 k = (entry & QCOW2_ENTRY_OFFSET) >> r->c.hdr.cluster_bits;

	if (k >= r->c.clusters)
		return entry;
	if (qcow2_counts_get(&r->c.refs, k) != 1 ||
	    (step == STEP_SET && !qcow2_counts_get(&r->c.ones, k)))
		return entry & ~QCOW2_ENTRY_COPIED;
	return step == STEP_SET ? entry | QCOW2_ENTRY_COPIED : entry;
}

static u64 mend_l1(const struct repair *r, u64 entry, u64 bitmap, enum step step)
{
	u64 table = entry & QCOW2_ENTRY_OFFSET;

	if ((entry & QCOW2_L1_RESERVED) || qcow2_in_cluster(&r->c.hdr, table))
		return entry;
	if (!table)
		return entry & ~QCOW2_ENTRY_COPIED;
	return mend_copied(r, entry, step);
}

static u64 mend_l2(const struct repair *r, u64 entry, u64 bitmap, enum step step)
{
	if (entry & QCOW2_ENTRY_COMPRESSED)
		return entry & ~QCOW2_ENTRY_COPIED;
	/* in a data file nothing is counted, and COPIED means that it is there */
	if (qcow2_external(&r->c.hdr))
		return entry;
	if (!(entry & QCOW2_ENTRY_OFFSET))
		return entry & ~QCOW2_ENTRY_COPIED;
	if (!qcow2_in_cluster(&r->c.hdr, entry & QCOW2_ENTRY_OFFSET))
		return mend_copied(r, entry, step);
	/* a cluster that cannot be there, and from which nothing is read */
	return entry & QCOW2_ENTRY_ZERO;
}

/* Apart from what mend_l2() mends, is this an L2 entry? */
static bool plausible_l2(const struct repair *r, u64 entry, u64 bitmap)
{
	const struct qcow2_header *h = &r->c.hdr;
	bool extended = qcow2_extended(h);
	bool data = extended ? bitmap & U32_MAX : !(entry & QCOW2_ENTRY_ZERO);
	u64 host = entry & QCOW2_ENTRY_OFFSET;

	if (entry & QCOW2_ENTRY_COMPRESSED)
		return !bitmap && !qcow2_external(h);
	if (entry & (extended ? QCOW2_EXTL2_RESERVED : QCOW2_L2_RESERVED))
		return false;
	if (!extended && h->version < 3 && (entry & QCOW2_ENTRY_ZERO))
		return false;
	if (qcow2_external(h))
		return true;
	if (qcow2_in_cluster(h, host))
		return !data;
	return qcow2_checker_inside(&r->c, host, 1);
}

/* Guest data, where an L1 entry is wrong, hardly ever looks like a table. */
static bool plausible_table(const struct repair *r)
{
	u32 words = qcow2_extended(&r->c.hdr) ? 2 : 1;
	u32 n = qcow2_cluster_size(&r->c.hdr) / 8, i;
	const __be64 *p = r->c.cluster;

	for (i = 0; i < n; i += words)
		if (!plausible_l2(r, be64_to_cpu(p[i]),
				  words > 1 ? be64_to_cpu(p[i + 1]) : 0))
			return false;
	return true;
}

typedef u64 (*mend_fn)(const struct repair *r, u64 entry, u64 bitmap,
		       enum step step);

/* A table, or at most a cluster of it. */
static int mend_table(struct repair *r, u64 offset, u32 len, mend_fn fn,
		      enum step step)
{
	u32 words = fn == mend_l2 && qcow2_extended(&r->c.hdr) ? 2 : 1, i;
	u64 old, new, before = r->rep->entries;
	__be64 *p = r->c.cluster;
	int ret;

	ret = qcow2_checker_read(&r->c, offset, p, round_up(len, 512u));
	if (ret || (fn == mend_l2 && !plausible_table(r)))
		return ret;
	for (i = 0; i < len / 8; i += words) {
		old = be64_to_cpu(p[i]);
		new = fn(r, old, be64_to_cpu(p[i + words - 1]), step);
		if (new == old)
			continue;
		p[i] = cpu_to_be64(new);
		r->rep->entries++;
	}
	if (r->rep->entries != before)
		ret = put(r, offset, p, round_up(len, 512u));
	return ret;
}

/* Is a range of clusters this table and nothing else, and all of it there? */
static bool only_table(const struct repair *r, u64 offset, u64 bytes, u64 refs)
{
	u64 k = offset >> r->c.hdr.cluster_bits;
	u64 end = qcow2_clusters_for(&r->c.hdr, offset + bytes);

	if (end << r->c.hdr.cluster_bits > r->c.size)
		return false;
	for (; k < end; k++)
		if (qcow2_counts_get(&r->c.refs, k) != refs ||
		    (!r->new.nr && qcow2_counts_get(&r->own, k)))
			return false;
	return true;
}

static int mend_l2_table(struct repair *r, u64 table, enum step step)
{
	u64 times = qcow2_counts_get(&r->c.tables, table >> r->c.hdr.cluster_bits);
	u32 size = qcow2_cluster_size(&r->c.hdr);

	if (!only_table(r, table, size, times))
		return 0;
	return mend_table(r, table, size, mend_l2, step);
}

static int mend_active_l2(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	u64 table = entry & QCOW2_ENTRY_OFFSET;

	if (!table || qcow2_in_cluster(&c->hdr, table) || table >= c->size)
		return 0;
	return mend_l2_table(arg, table, STEP_SET);
}

static int mend_l1_table(struct repair *r, enum step step)
{
	const struct qcow2_header *h = &r->c.hdr;
	u64 bytes = h->l1_entries * 8ull, pos;
	u32 len;
	int ret = 0;

	if (!only_table(r, h->l1_offset, bytes, 1))
		return 0;
	for (pos = 0; !ret && pos < bytes; pos += len) {
		len = min_t(u64, bytes - pos, qcow2_cluster_size(h));
		ret = mend_table(r, h->l1_offset + pos, len, mend_l1, step);
	}
	return ret;
}

/* In every L2 table: what a snapshot shares has no flags either. */
static int clear_copied(struct repair *r)
{
	u64 k, before = r->rep->entries;
	int ret = mend_l1_table(r, STEP_CLEAR);

	for (k = 0; !ret && k < r->c.clusters; k++) {
		if (qcow2_counts_empty(&r->c.tables, k))
			k |= (1u << QCOW2_COUNTS_BITS) - 1;
		else if (qcow2_counts_get(&r->c.tables, k))
			ret = mend_l2_table(r, k << r->c.hdr.cluster_bits,
					    STEP_CLEAR);
	}
	return ret || r->rep->entries == before ? ret : flush(r);
}

/* Only the active tables have flags that mean something. */
static int set_copied(struct repair *r)
{
	const struct qcow2_header *h = &r->c.hdr;
	u64 before = r->rep->entries;
	int ret = mend_l1_table(r, STEP_SET);

	ret = ret ?: qcow2_checker_each(&r->c, h->l1_offset, h->l1_entries,
					mend_active_l2, r);
	return ret || r->rep->entries == before ? ret : flush(r);
}

/* ---------------------------------------------------------------- */

static int count(struct repair *r, struct qcow2_error *err)
{
	int ret;

	qcow2_checker_close(&r->c);
	r->quiet.errors = 0;
	ret = qcow2_checker_open(&r->c, err);
	return ret ?: qcow2_checker_count(&r->c, false);
}

static int begin(struct repair *r, struct qcow2_error *err)
{
	int ret = qcow2_checker_open(&r->c, err);

	if (ret)
		return ret;
	r->sector = port_alloc(512);
	if (!r->sector)
		return -ENOMEM;
	ret = qcow2_checker_read(&r->c, 0, r->sector, 512);
	if (!ret && qcow2_checker_unknown(&r->c))
		r->sector->autoclear_features =
			cpu_to_be64(r->c.hdr.autoclear & ~qcow2_checker_unknown(&r->c));
	return ret;
}

static int mend(struct repair *r, struct qcow2_error *err)
{
	struct qcow2_repair *rep = r->rep;
	int ret = 0;

	if (qcow2_checker_unknown(&r->c))
		ret = write_header(r);
	ret = ret ?: count(r, err);
	ret = ret ?: qcow2_counts_init(&r->own, r->c.clusters, 3);
	ret = ret ?: load_table(r);
	if (!ret && !rep->leaks_only)
		ret = clear_copied(r);
	/* a cluster of zeros that could not be there is referenced no more */
	if (!ret && rep->entries)
		ret = count(r, err);
	if (ret)
		return ret;
	find_missing_blocks(r);
	rep->kept_leaks = r->quiet.errors;
	ret = refcounts(r, err);
	if (ret || (!r->sound && !rep->rebuilt))
		return ret;
	/* as QEMU: with leaks alone, if there was nothing else */
	return rep->leaks_only && rep->before.errors ? 0 : set_copied(r);
}

/* Step 4. */
static int unmark(struct repair *r)
{
	const u64 marks = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
	int ret;

	if (r->rep->after.errors || !(r->c.hdr.incompatible & marks))
		return 0;
	r->sector->incompatible_features =
		cpu_to_be64(r->c.hdr.incompatible & ~marks);
	ret = write_header(r);
	r->rep->unmarked = !ret;
	return ret;
}

/**
 * qcow2_repair() - check an image, mend what can be mended, check it again
 * @ops: what holds it; @rw, @flush, @grow and @size are called
 * @be: first argument of @ops
 * @rep: what to do, and the result; zeroed but for what is the caller's
 * @err: the reason of a failure, in words
 *
 * Nobody else may use the image meanwhile. After a failure it is no worse than
 * before; a repair can be tried again.
 *
 * Context: may sleep.
 * Return: 0 if it came to its end, whatever the second check found; the errors of
 * qcow2_header_parse(); the error of a read, a write or a flush; -ENOMEM;
 * -ENOSPC without space for new refcounts; -EFBIG if there are too many.
 */
int qcow2_repair(const struct qcow2_backend_ops *ops, void *be,
		 struct qcow2_repair *rep, struct qcow2_error *err)
{
	struct repair r = {
		.c = { .ops = ops, .be = be, .chk = &r.quiet }, .rep = rep,
	};
	int ret = qcow2_check(ops, be, &rep->before, err);

	if (ret)
		return ret;
	*err->msg = 0;
	rep->after.end = rep->before.end;
	ret = begin(&r, err);
	if (!ret && (rep->before.errors || rep->before.leaks)) {
		ret = mend(&r, err);
		ret = ret ?: qcow2_check(ops, be, &rep->after, err);
	}
	ret = ret ?: unmark(&r);
	qcow2_checker_close(&r.c);
	qcow2_counts_destroy(&r.own);
	port_vfree(r.table);
	port_free(r.sector);
	if (ret && !*err->msg)
		qcow2_err(err, ret, "the repair could not be finished: error %d",
			  ret);
	return ret;
}
