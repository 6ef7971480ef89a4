// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns what walks through layers have found, so that a lookup in a
 * deep chain that has been made before costs as much as in a shallow one.
 *
 * Layers below the top do not change while they are open: what a walk from one
 * of them down has found stays true. It is kept by the layer at which the walk
 * began, the topmost that only reads, so that all overlays over it share it. It
 * is made at the first walk, because only then is a layer known to be that one,
 * and only where there are two images or more to walk through.
 *
 * It is an array of slots, one for each unit of guest bytes modulo its length,
 * where the later walk displaces the earlier one. A unit is the smallest
 * (sub)cluster of any layer, so that it is in one piece, but for units in which
 * a layer ends, which are not kept. Neighbours lie side by side: a long read
 * puts its run together again from them.
 *
 * Readers take no lock and do not wait: each slot counts its changes, odd during
 * one, and a reader that sees one has found nothing. A writer that meets another
 * leaves the slot to it.
 */
#include "resolve.h"

struct slot {
	u32 seq;		/* A */
	u32 csize;		/* A, all: what the mapping says */
	u64 tag;		/* unit + 1, and in the low bits the kind; 0: empty */
	u64 host;		/* of the first byte of the unit; else as mapping */
	const void *where;	/* DATA: the store; COMPRESSED: the image */
};

#define KIND_BITS 3
#define KIND_MASK ((1u << KIND_BITS) - 1)

static_assert(QCOW2_COMPRESSED <= KIND_MASK, "a kind fits into a tag");

struct qcow2_resolver {
	u32 unit_bits;		/* I: log2 of the bytes of a unit */
	u64 mask;		/* I: number of slots, a power of two, less 1 */
	struct slot slots[];
};

/* A slot's contents at one moment. */
struct found {
	enum qcow2_kind kind;
	u32 csize;
	u64 host;
	const void *where;
};

/* log2 of the smallest piece of any image from @img down. */
static u32 smallest(const struct qcow2_image *img)
{
	u32 bits = qcow2_sub_bits(&img->hdr);

	while (img->backing && img->backing->img) {
		img = img->backing->img;
		bits = min(bits, qcow2_sub_bits(&img->hdr));
	}
	return bits;
}

#define MAX_BYTES (64ull << 20)

/* An eighth of what the metadata may take, or what the image needs. */
static u64 slots_for(const struct qcow2_image *img, u32 unit_bits)
{
	u64 bound = min_t(u64, (u64)img->cache.max_blocks *
			  img->cache.block_size / 8, MAX_BYTES);
	u64 nr = BIT_ULL(ilog2(max_t(u64, bound / sizeof(struct slot), 1)));

	while (nr > 1 && nr / 2 >= (img->hdr.size >> unit_bits))
		nr /= 2;
	return nr;
}

/**
 * qcow2_resolve_make() - the memory of walks that begin at a layer
 * @img: the layer
 *
 * Context: may sleep, and allocates the first time.
 * Return: the memory, or NULL: there is no point in one, or no memory for it.
 */
struct qcow2_resolver *qcow2_resolve_make(struct qcow2_image *img)
{
	/* pairs with the release that cmpxchg() is */
	struct qcow2_resolver *r = smp_load_acquire(&img->resolver);
	u32 bits;
	u64 nr;

	if (r || !img->read_only || !img->backing || !img->backing->img)
		return r;
	bits = smallest(img);
	nr = slots_for(img, bits);
	r = port_vzalloc(sizeof(*r) + nr * sizeof(r->slots[0]));
	if (!r)
		return NULL;
	r->unit_bits = bits;
	r->mask = nr - 1;
	if (cmpxchg(&img->resolver, NULL, r))
		port_vfree(r); /* somebody was faster */
	/* as above */
	return smp_load_acquire(&img->resolver);
}

/**
 * qcow2_resolve_exit() - nobody looks anything up in the image any more
 * @img: the image
 */
void qcow2_resolve_exit(struct qcow2_image *img)
{
	port_vfree(img->resolver);
	img->resolver = NULL;
}

/**
 * qcow2_resolve_unit() - in what pieces results are kept
 * @r: from qcow2_resolve_make()
 *
 * Return: bytes, a power of two.
 */
u64 qcow2_resolve_unit(const struct qcow2_resolver *r)
{
	return BIT_ULL(r->unit_bits);
}

static bool load(const struct qcow2_resolver *r, u64 unit, struct found *f)
{
	const struct slot *s = &r->slots[unit & r->mask];
	/* pairs with the release in store() */
	u32 seq = smp_load_acquire(&s->seq);
	u64 tag = READ_ONCE(s->tag);

	if ((seq & 1) || tag >> KIND_BITS != unit + 1)
		return false;
	f->kind = tag & KIND_MASK;
	f->csize = READ_ONCE(s->csize);
	f->host = READ_ONCE(s->host);
	f->where = READ_ONCE(s->where);
	smp_rmb(); /* contents, then seq; pairs with the cmpxchg() in store() */
	return READ_ONCE(s->seq) == seq;
}

static void store(struct qcow2_resolver *r, u64 unit, const struct found *f)
{
	struct slot *s = &r->slots[unit & r->mask];
	u64 tag = (unit + 1) << KIND_BITS | f->kind;
	u32 seq = READ_ONCE(s->seq);

	if (READ_ONCE(s->tag) == tag)
		return; /* it can only be the same */
	/* a full barrier: seq, then contents; pairs with load() */
	if ((seq & 1) || cmpxchg(&s->seq, seq, seq + 1) != seq)
		return;
	WRITE_ONCE(s->tag, tag);
	WRITE_ONCE(s->csize, f->csize);
	WRITE_ONCE(s->host, f->host);
	WRITE_ONCE(s->where, f->where);
	/* contents, then seq; pairs with load() */
	smp_store_release(&s->seq, seq + 2);
}

/* Is @b, so many bytes after @a, more of the same? */
static bool continues(const struct found *a, const struct found *b, u64 gap)
{
	return b->kind == a->kind && b->where == a->where &&
		b->csize == a->csize &&
		b->host == a->host + (a->kind == QCOW2_DATA ? gap : 0);
}

/**
 * qcow2_resolve_get() - what a walk has found
 * @r: from qcow2_resolve_make()
 * @guest: guest offset in bytes
 * @m: len: bytes wanted, at least 1; filled in on success
 *
 * Context: any; does not sleep, takes no lock.
 * Return: whether anything is known of @guest.
 */
bool qcow2_resolve_get(const struct qcow2_resolver *r, u64 guest,
		       struct qcow2_mapping *m)
{
	u64 unit = guest >> r->unit_bits, start = unit << r->unit_bits;
	u64 size = qcow2_resolve_unit(r), pos = start + size;
	u64 end = guest + m->len;
	struct found f, next;

	if (!load(r, unit, &f))
		return false;
	*m = (struct qcow2_mapping){ .kind = f.kind };
	if (f.kind == QCOW2_DATA) {
		m->store = f.where;
		m->host = f.host + (guest - start);
	} else if (f.kind == QCOW2_COMPRESSED) {
		m->img = (struct qcow2_image *)f.where;
		m->host = f.host;
		m->csize = f.csize;
		m->skip = qcow2_in_cluster(&m->img->hdr, guest);
		/* what follows may, in a bad image, name the same bytes */
		end = min(end, qcow2_cluster_start(&m->img->hdr, guest) +
			  qcow2_cluster_size(&m->img->hdr));
	}
	for (; pos < end; pos += size)
		if (!load(r, ++unit, &next) || !continues(&f, &next, pos - start))
			break;
	m->len = min(pos, end) - guest;
	return true;
}

/**
 * qcow2_resolve_put() - keep what a walk has found
 * @r: from qcow2_resolve_make()
 * @start: guest offset at which it looked, the first byte of a unit
 * @m: what it found
 *
 * Context: any; does not sleep, takes no lock.
 */
void qcow2_resolve_put(struct qcow2_resolver *r, u64 start,
		       const struct qcow2_mapping *m)
{
	u64 size = qcow2_resolve_unit(r), pos;
	struct found f = { .kind = m->kind };

	if (m->kind == QCOW2_DATA) {
		f.where = m->store;
	} else if (m->kind == QCOW2_COMPRESSED) {
		f.where = m->img;
		f.csize = m->csize;
		f.host = m->host;
	}
	for (pos = 0; pos + size <= m->len; pos += size) {
		if (m->kind == QCOW2_DATA)
			f.host = m->host + pos;
		store(r, (start + pos) >> r->unit_bits, &f);
	}
}
