// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the walk from a guest offset through L1 and L2 to a mapping,
 * and from layer to layer. It comes in two forms over one body: qcow2_map_peek()
 * uses what is in memory and never waits, qcow2_map() reads what is missing and
 * reports what is wrong.
 *
 * A run never leaves its L2 slice: 32 MiB of guest with 64 KiB clusters. What
 * was found below the top is remembered by resolve.c.
 */
#include "map.h"
#include "metacache.h"
#include "overlap.h"
#include "resolve.h"

#define PEEK_LAYERS 4	/* more are for a worker to walk through */

/* Host offset of the L1 entry that covers @guest. */
u64 qcow2_l1_entry_offset(const struct qcow2_image *img, u64 guest)
{
	return img->hdr.l1_offset + qcow2_l1_index(&img->hdr, guest) * 8;
}

/* Host offset of the L2 entry of @guest in the table at @table. */
u64 qcow2_l2_entry_offset(const struct qcow2_image *img, u64 guest, u64 table)
{
	return table + ((u64)qcow2_l2_index(&img->hdr, guest) <<
			qcow2_l2_entry_bits(&img->hdr));
}

/* Guest offset of the first byte that the slice of @guest does not cover. */
u64 qcow2_slice_end(const struct qcow2_image *img, u64 guest)
{
	u64 covers = (u64)(img->cache.block_size >>
			   qcow2_l2_entry_bits(&img->hdr)) << img->hdr.cluster_bits;

	return (guest & ~(covers - 1)) + covers;
}

/*
 * A data cluster may be cut short by the end of the file (the rest reads as
 * zeros) but not lie beyond it: that is a truncated image (as qemu-img check
 * has it).
 */
static bool in_host(const struct qcow2_image *img, u64 host)
{
	return host < READ_ONCE(img->host_end);
}

static __be64 load_entry(const __be64 *p)
{
	return READ_ONCE(*p);
}

/* The two halves of an extended entry, as they were at one moment. */
static void load_pair(const struct qcow2_block *slice, const __be64 *p,
		      __be64 *raw, __be64 *bitmap)
{
	u32 seq;

	do {
		/* pairs with the release in qcow2_block_end() */
		seq = smp_load_acquire(&slice->seq);
		*raw = load_entry(p);
		*bitmap = load_entry(p + 1);
		smp_rmb(); /* entries, then seq; pairs with qcow2_block_begin() */
	} while ((seq & 1) || READ_ONCE(slice->seq) != seq);
}

/**
 * qcow2_map_decode() - decode the L2 entry of a guest offset
 * @img: the image
 * @guest: guest offset in bytes
 * @slice: its slice, pinned or under RCU
 * @e: filled in on success
 *
 * Checks what decoding alone cannot, and reports nothing.
 *
 * Context: any.
 * Return: 0 or -EUCLEAN.
 */
int qcow2_map_decode(const struct qcow2_image *img, u64 guest,
		     const struct qcow2_block *slice, struct qcow2_entry *e)
{
	const __be64 *p = qcow2_block_entry(img, slice,
			qcow2_l2_entry_offset(img, guest, 0));
	__be64 raw, bitmap = 0;
	int ret;

	if (qcow2_extended(&img->hdr))
		load_pair(slice, p, &raw, &bitmap);
	else
		raw = load_entry(p);
	ret = qcow2_l2_decode(&img->hdr, raw, bitmap, e);
	if (ret)
		return ret;
	/* QEMU makes none there: what it holds would not be encrypted */
	if (e->kind == QCOW2_COMPRESSED && img->data.cipher)
		return -EUCLEAN;
	if (qcow2_external(&img->hdr))
		return e->allocated &&
			e->host != qcow2_cluster_start(&img->hdr, guest) ?
			-EUCLEAN : 0;
	/* a reserved cluster may not exist yet; data must */
	if ((e->kind == QCOW2_DATA || e->kind == QCOW2_COMPRESSED) &&
	    (e->alloc || !qcow2_extended(&img->hdr)) && !in_host(img, e->host))
		return -EUCLEAN;
	return 0;
}

/* Do subclusters @a of an entry and @b of the next or the same make one run? */
static bool continues(const struct qcow2_entry *a, enum qcow2_kind kind,
		      const struct qcow2_entry *b, enum qcow2_kind next, u64 gap)
{
	if (next != kind || kind == QCOW2_COMPRESSED)
		return false;
	return kind != QCOW2_DATA ||
		(b->copied == a->copied && b->host == a->host + gap);
}

/* Fills @m from the entries of one slice; the first entry must be sound. */
static int map_run(struct qcow2_image *img, u64 guest, u64 len,
		   const struct qcow2_block *slice, struct qcow2_mapping *m)
{
	const struct qcow2_header *h = &img->hdr;
	u64 end = min(guest + len, qcow2_slice_end(img, guest));
	u64 first_cluster = qcow2_cluster_start(h, guest);
	u64 step = qcow2_sub_size(h);
	u64 pos = (guest & ~(step - 1)) + step;
	struct qcow2_entry first, e;
	int ret;

	ret = qcow2_map_decode(img, guest, slice, &first);
	if (ret)
		return ret;
	m->kind = qcow2_sub_kind(h, &first, qcow2_sub_index(h, guest));
	m->in_place = m->kind == QCOW2_DATA && first.copied;
	m->store = &img->data;
	m->host = first.host + qcow2_in_cluster(h, guest);
	if (m->kind == QCOW2_COMPRESSED) {
		m->img = img;
		m->host = first.host;
		m->csize = first.csize;
		m->skip = qcow2_in_cluster(h, guest);
		pos = first_cluster + qcow2_cluster_size(h);
	}
	e = first;
	for (; pos < end; pos += step) {
		u64 cluster = qcow2_cluster_start(h, pos);

		if (!qcow2_in_cluster(h, pos) &&
		    qcow2_map_decode(img, pos, slice, &e))
			break;
		if (!continues(&first, m->kind, &e,
			       qcow2_sub_kind(h, &e, qcow2_sub_index(h, pos)),
			       cluster - first_cluster))
			break;
	}
	m->len = min(pos, end) - guest;
	return 0;
}

/* What the pair of blocks says about trust and durability. */
static void judge(const struct qcow2_image *img, const struct qcow2_block *l1,
		  bool table_copied, const struct qcow2_block *slice,
		  struct qcow2_mapping *m)
{
	/* pairs with the release in qcow2_overlap_add() */
	u32 gen = smp_load_acquire(&img->overlap_gen);

	m->in_place = m->in_place && table_copied && gen &&
		READ_ONCE(slice->checked) == gen;
	m->durable = qcow2_block_durable(l1) && qcow2_block_durable(slice);
}

static void map_nothing(const struct qcow2_image *img, u64 guest, u64 len,
			struct qcow2_mapping *m)
{
	u64 covers = BIT_ULL(qcow2_l1_shift(&img->hdr));

	*m = (struct qcow2_mapping){
		.kind = QCOW2_UNALLOCATED,
		.len = min(len, covers - (guest & (covers - 1))),
	};
}

static int peek_one(struct qcow2_image *img, u64 guest, u64 len,
		    struct qcow2_mapping *m)
{
	struct qcow2_block *l1, *slice;
	u64 pos = qcow2_l1_entry_offset(img, guest);
	u64 table;
	bool copied;

	l1 = qcow2_cache_peek(img, QCOW2_BLOCK_L1, qcow2_block_start(img, pos));
	if (!l1 || qcow2_l1_decode(&img->hdr,
				   load_entry(qcow2_block_entry(img, l1, pos)),
				   &table, &copied))
		return -EWOULDBLOCK;
	if (!table) {
		map_nothing(img, guest, len, m);
		return 0;
	}
	pos = qcow2_l2_entry_offset(img, guest, table);
	slice = qcow2_cache_peek(img, QCOW2_BLOCK_L2, qcow2_block_start(img, pos));
	if (!slice || map_run(img, guest, len, slice, m))
		return -EWOULDBLOCK;
	judge(img, l1, copied, slice, m);
	return 0;
}

/* How to look an offset up in one image, and in how many at most. */
struct walk {
	int (*look)(struct qcow2_image *img, u64 guest, u64 len,
		    struct qcow2_mapping *m);
	u32 layers;
};

/* From layer to layer, down to the first that has something. */
static int walk(const struct qcow2_layer *below, u64 guest,
		struct qcow2_mapping *m, const struct walk *w)
{
	u32 left = w->layers;
	int ret = 0;

	while (!ret && below && m->kind == QCOW2_UNALLOCATED) {
		if (guest >= below->size)
			break;
		m->len = min(m->len, below->size - guest);
		if (!below->img) {
			m->kind = QCOW2_DATA;
			m->host = guest;
			m->store = &below->store;
			break;
		}
		if (!left--)
			return -EWOULDBLOCK;
		ret = w->look(below->img, guest, m->len, m);
		below = below->img->backing;
	}
	return ret;
}

/* As walk(), without walking where somebody has before. */
static int walk_once(struct qcow2_resolver *r, const struct qcow2_layer *below,
		     u64 guest, struct qcow2_mapping *m, const struct walk *w)
{
	u64 unit = qcow2_resolve_unit(r), skip = guest & (unit - 1);
	u64 end = min(round_up(guest + m->len, unit), below->size);
	struct qcow2_mapping run = { .len = end - (guest - skip) };
	int ret;

	if (qcow2_resolve_get(r, guest, m))
		return 0;
	ret = walk(below, guest - skip, &run, w);
	if (ret)
		return ret;
	qcow2_resolve_put(r, guest - skip, &run);
	if (run.len <= skip) /* a layer ends inside the unit */
		return walk(below, guest, m, w);
	run.len = min(run.len - skip, m->len);
	if (run.kind == QCOW2_DATA)
		run.host += skip;
	run.skip += skip;
	*m = run;
	return 0;
}

/* What the image does not have, a layer below may. */
static int descend(struct qcow2_image *img, u64 guest, struct qcow2_mapping *m,
		   struct qcow2_resolver *r, const struct walk *w)
{
	const struct qcow2_layer *below = img->backing;
	int ret;

	if (guest >= below->size)
		return 0;
	m->len = min(m->len, below->size - guest);
	ret = r ? walk_once(r, below, guest, m, w) : walk(below, guest, m, w);
	m->in_place = false;
	return ret;
}

static struct qcow2_resolver *resolver_of(const struct qcow2_image *img)
{
	const struct qcow2_image *below = img->backing->img;

	/* pairs with the cmpxchg() in qcow2_resolve_make() */
	return below ? smp_load_acquire(&below->resolver) : NULL;
}

/**
 * qcow2_map_peek() - look a mapping up in memory
 * @img: the image
 * @guest: guest offset in bytes, inside the virtual disk
 * @len: bytes wanted, at least 1
 * @m: filled in on success
 *
 * Context: any; does not sleep, takes no lock. To use the mapping for I/O, be
 * inside port_epoch_enter() from before this call until the I/O has ended.
 * Return: 0, or -EWOULDBLOCK: ask qcow2_map(), which may read, or has something
 * to say.
 */
int qcow2_map_peek(struct qcow2_image *img, u64 guest, u64 len,
		   struct qcow2_mapping *m)
{
	static const struct walk peeking = { peek_one, PEEK_LAYERS };
	int ret;

	rcu_read_lock();
	ret = peek_one(img, guest, len, m);
	if (!ret && m->kind == QCOW2_UNALLOCATED && img->backing)
		ret = descend(img, guest, m, resolver_of(img), &peeking);
	rcu_read_unlock();
	return ret;
}

/**
 * qcow2_map_l1_block() - the L1 block of a guest offset
 * @img: the image
 * @guest: guest offset in bytes
 * @l1: the block, pinned
 *
 * Context: may sleep.
 * Return: 0 or the error of a read.
 */
int qcow2_map_l1_block(struct qcow2_image *img, u64 guest,
		       struct qcow2_block **l1)
{
	u64 pos = qcow2_l1_entry_offset(img, guest);
	u64 len = round_up((u64)img->hdr.l1_entries * 8,
			   (u64)img->cache.block_size);

	return qcow2_cache_get(img, QCOW2_BLOCK_L1, qcow2_block_start(img, pos),
			       img->hdr.l1_offset, len, l1);
}

/**
 * qcow2_map_l1() - the L2 table of a guest offset
 * @img: the image
 * @guest: guest offset in bytes
 * @l1: the L1 block, pinned
 * @table: host offset of the L2 table, 0 if there is none
 * @copied: the table may be changed in place
 *
 * Context: may sleep.
 * Return: 0, -EUCLEAN (reported), or the error of a read.
 */
int qcow2_map_l1(struct qcow2_image *img, u64 guest, struct qcow2_block **l1,
		 u64 *table, bool *copied)
{
	__be64 raw;
	int ret;

	ret = qcow2_map_l1_block(img, guest, l1);
	if (ret)
		return ret;
	raw = load_entry(qcow2_block_entry(img, *l1,
					   qcow2_l1_entry_offset(img, guest)));
	ret = qcow2_l1_decode(&img->hdr, raw, table, copied);
	if (!ret && *table && !in_host(img, *table))
		ret = -EUCLEAN;
	if (ret) {
		qcow2_cache_put(img, *l1);
		return qcow2_corrupt(img,
				     "L1 table: entry %llu is %#llx: reserved bits, or not a cluster of this file",
				     (unsigned long long)qcow2_l1_index(&img->hdr, guest),
				     (unsigned long long)be64_to_cpu(raw));
	}
	return 0;
}

/*
 * Looks whether every entry of a slice points outside the metadata. A slice
 * that fails is not trusted; each write through it is then checked by itself.
 */
static void check_slice(struct qcow2_image *img, struct qcow2_block *slice)
{
	/* pairs with the release in qcow2_overlap_add() */
	u32 gen = smp_load_acquire(&img->overlap_gen);
	u32 step = 1u << qcow2_l2_entry_bits(&img->hdr);
	u32 i;

	if (!gen || READ_ONCE(slice->checked) == gen)
		return;
	if (qcow2_external(&img->hdr)) {
		/* no entry leads into this file */
		WRITE_ONCE(slice->checked, gen);
		return;
	}
	for (i = 0; i < img->cache.block_size; i += step) {
		const __be64 *p = (const void *)((const u8 *)slice->data + i);
		struct qcow2_entry e;

		/* the bitmap does not matter here */
		if (qcow2_l2_decode(&img->hdr, load_entry(p), 0, &e))
			return;
		if (e.allocated && e.kind != QCOW2_COMPRESSED &&
		    qcow2_overlap_find(img, qcow2_cluster_index(&img->hdr, e.host), 1))
			return;
	}
	WRITE_ONCE(slice->checked, gen);
}

/* The L2 table that the L1 entry at @pos names, or 0; reports nothing. */
static u64 named_at(const struct qcow2_image *img, const struct qcow2_block *l1,
		    u64 pos)
{
	u64 table;
	bool copied;

	if (qcow2_l1_decode(&img->hdr,
			    load_entry(qcow2_block_entry(img, l1, pos)), &table,
			    &copied))
		return 0;
	return in_host(img, table) ? table : 0;
}

/*
 * Tables that follow on each other on the disk as they do for the guest, as
 * "qcow2setup optimize" leaves them: what one seek may bring. Inside an epoch: what
 * @l1 names then stays what it is until the epoch ends.
 */
static void find_row(const struct qcow2_image *img, const struct qcow2_block *l1,
		     u64 guest, u64 table, u64 *start, u64 *len)
{
	u64 size = qcow2_cluster_size(&img->hdr), end = table + size;
	u64 pos = qcow2_l1_entry_offset(img, guest), p, prev;
	u64 first = max(l1->offset, img->hdr.l1_offset);
	u64 last = min(l1->offset + img->cache.block_size,
		       img->hdr.l1_offset + img->hdr.l1_entries * 8ull);

	*start = table;
	for (p = pos; p > first; p -= 8) {
		prev = named_at(img, l1, p - 8);
		if (!prev || prev + size != *start)
			break;
		*start = prev;
	}
	for (p = pos + 8; p < last && named_at(img, l1, p) == end; p += 8)
		end += size;
	*len = end - *start;
}

static bool in_memory(struct qcow2_image *img, u64 offset)
{
	bool ret;

	rcu_read_lock();
	ret = qcow2_cache_peek(img, QCOW2_BLOCK_L2, offset);
	rcu_read_unlock();
	return ret;
}

/**
 * qcow2_map_named() - what L2 table an L1 entry names
 * @img: the image
 * @l1: the block of the entry, pinned
 * @guest: guest offset in bytes
 *
 * Return: its host offset; 0: none, or the entry is no good, which is not reported.
 */
u64 qcow2_map_named(const struct qcow2_image *img, const struct qcow2_block *l1,
		    u64 guest)
{
	return named_at(img, l1, qcow2_l1_entry_offset(img, guest));
}

/**
 * qcow2_map_ahead() - read an L2 table and its neighbours
 * @img: the image
 * @guest: guest offset in bytes
 * @table: host offset of its L2 table, as it was a while ago
 *
 * Nothing is reported. What is in memory is not read again.
 *
 * Context: may sleep; no lock held.
 */
void qcow2_map_ahead(struct qcow2_image *img, u64 guest, u64 table)
{
	u64 end = table + qcow2_cluster_size(&img->hdr), pos, start, len;
	struct qcow2_block *l1, *slice;
	int epoch;

	if (qcow2_map_l1_block(img, guest, &l1))
		return;
	epoch = port_epoch_enter(&img->epoch);
	if (qcow2_map_named(img, l1, guest) == table) {
		find_row(img, l1, guest, table, &start, &len);
		for (pos = table; pos < end; pos += img->cache.block_size)
			if (!in_memory(img, pos) &&
			    !qcow2_cache_get(img, QCOW2_BLOCK_L2, pos, start,
					     len, &slice))
				qcow2_cache_put(img, slice);
	}
	port_epoch_exit(&img->epoch, epoch);
	qcow2_cache_put(img, l1);
}

/**
 * qcow2_map_slice() - the L2 slice of a guest offset
 * @img: the image
 * @guest: guest offset in bytes
 * @l1: the block of its L1 entry, pinned
 * @table: host offset of its L2 table, not 0
 * @slice: the slice, pinned and, once the image is activated, checked
 *
 * Context: may sleep.
 * Return: 0, -EUCLEAN (reported), or the error of a read.
 */
int qcow2_map_slice(struct qcow2_image *img, u64 guest,
		    const struct qcow2_block *l1, u64 table,
		    struct qcow2_block **slice)
{
	u64 pos = qcow2_l2_entry_offset(img, guest, table);
	u64 offset = qcow2_block_start(img, pos);
	u64 start = table, len = qcow2_cluster_size(&img->hdr);
	bool missing = !in_memory(img, offset);
	int epoch = 0, ret;

	if (missing) {
		epoch = port_epoch_enter(&img->epoch);
		find_row(img, l1, guest, table, &start, &len);
	}
	ret = qcow2_cache_get(img, QCOW2_BLOCK_L2, offset, start, len, slice);
	if (missing)
		port_epoch_exit(&img->epoch, epoch);
	if (ret == -EUCLEAN)
		return qcow2_corrupt(img,
				     "L1 table: entry %llu names an L2 table at %#llx, where other metadata is",
				     (unsigned long long)qcow2_l1_index(&img->hdr, guest),
				     (unsigned long long)table);
	if (!ret)
		check_slice(img, *slice);
	return ret;
}

static int report_entry(struct qcow2_image *img, u64 guest,
			const struct qcow2_block *slice)
{
	const __be64 *p = qcow2_block_entry(img, slice,
			qcow2_l2_entry_offset(img, guest, 0));
	char bitmap[40] = "";

	if (qcow2_extended(&img->hdr))
		snprintf(bitmap, sizeof(bitmap), " with subclusters %#llx",
			 (unsigned long long)be64_to_cpu(load_entry(p + 1)));
	return qcow2_corrupt(img,
			     "L2 table %llu (at %#llx): entry %u is %#llx%s: reserved bits, compressed in an encrypted image, or not a cluster of this file (%llu bytes)",
			     (unsigned long long)qcow2_l1_index(&img->hdr, guest),
			     (unsigned long long)qcow2_cluster_start(&img->hdr, slice->offset),
			     qcow2_l2_index(&img->hdr, guest),
			     (unsigned long long)be64_to_cpu(load_entry(p)), bitmap,
			     (unsigned long long)READ_ONCE(img->host_end));
}

/**
 * qcow2_map_entry() - qcow2_map_decode() that reports
 * @img: the image
 * @guest: guest offset in bytes
 * @slice: its slice, pinned
 * @e: filled in on success
 *
 * Context: may sleep (it may have to report).
 * Return: 0 or -EUCLEAN (reported).
 */
int qcow2_map_entry(struct qcow2_image *img, u64 guest,
		    const struct qcow2_block *slice, struct qcow2_entry *e)
{
	return qcow2_map_decode(img, guest, slice, e) ?
		report_entry(img, guest, slice) : 0;
}

/**
 * qcow2_map_top() - look a mapping up in one image, not in the layers below
 * @img: the image
 * @guest: guest offset in bytes, inside the virtual disk
 * @len: bytes wanted, at least 1
 * @m: filled in on success
 *
 * As qcow2_map(); UNALLOCATED means that the image itself has nothing.
 */
int qcow2_map_top(struct qcow2_image *img, u64 guest, u64 len,
		  struct qcow2_mapping *m)
{
	struct qcow2_block *l1, *slice;
	bool copied;
	u64 table;
	int ret;

	ret = qcow2_map_l1(img, guest, &l1, &table, &copied);
	if (ret)
		return ret;
	if (!table) {
		map_nothing(img, guest, len, m);
		goto out_l1;
	}
	ret = qcow2_map_slice(img, guest, l1, table, &slice);
	if (ret)
		goto out_l1;
	ret = map_run(img, guest, len, slice, m);
	if (ret)
		ret = report_entry(img, guest, slice);
	else
		judge(img, l1, copied, slice, m);
	qcow2_cache_put(img, slice);
out_l1:
	qcow2_cache_put(img, l1);
	return ret;
}

/**
 * qcow2_map() - look a mapping up, reading what is not in memory
 * @img: the image
 * @guest: guest offset in bytes, inside the virtual disk
 * @len: bytes wanted, at least 1
 * @m: filled in on success
 *
 * Context: may sleep; no lock held. About epochs see qcow2_map_peek().
 * Return: 0; -EUCLEAN for an entry that no writer may store (reported, and the
 * mode is lowered); the error of a read.
 */
int qcow2_map(struct qcow2_image *img, u64 guest, u64 len,
	      struct qcow2_mapping *m)
{
	static const struct walk reading = { qcow2_map_top, U32_MAX };
	int ret = qcow2_map_top(img, guest, len, m);

	if (ret || m->kind != QCOW2_UNALLOCATED || !img->backing)
		return ret;
	return descend(img, guest, m, img->backing->img ?
		       qcow2_resolve_make(img->backing->img) : NULL, &reading);
}
