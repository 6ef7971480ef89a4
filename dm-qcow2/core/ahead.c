// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the reading ahead of L2 tables, for an image that nobody uses at
 * the moment: all of them, or as many as the cache has room for, in the order of
 * the disk. It is no more than a wish: whatever goes wrong is left for those who
 * need the table.
 */
#include "ahead.h"
#include "map.h"
#include "metacache.h"

struct qcow2_ahead_table {
	u64 table;	/* host offset */
	u64 guest;	/* what it maps first */
};

static int by_place(const void *a, const void *b)
{
	const struct qcow2_ahead_table *x = a, *y = b;

	return x->table < y->table ? -1 : x->table > y->table;
}

/* How many tables there is room for, if all is there. */
static u64 room(const struct qcow2_image *img)
{
	u64 blocks = qcow2_cluster_size(&img->hdr) / img->cache.block_size;

	return min_t(u64, img->hdr.l1_entries, img->cache.max_blocks / blocks);
}

static bool begin(struct qcow2_image *img, struct qcow2_ahead *a)
{
	a->max = room(img);
	if (a->max)
		a->tables = port_vzalloc(a->max * sizeof(*a->tables));
	return a->tables;
}

/* Notes the tables of one block of the L1 table. */
static bool collect(struct qcow2_image *img, struct qcow2_ahead *a)
{
	struct qcow2_ahead_table *t = &a->tables[a->nr];
	struct qcow2_block *l1;
	u64 guest = a->index << qcow2_l1_shift(&img->hdr);

	if (qcow2_map_l1_block(img, guest, &l1))
		return false;
	do {
		t->guest = a->index << qcow2_l1_shift(&img->hdr);
		t->table = qcow2_map_named(img, l1, t->guest);
		if (t->table)
			t = &a->tables[++a->nr];
		a->index++;
	} while (a->nr < a->max && a->index < img->hdr.l1_entries &&
		 qcow2_l1_entry_offset(img, a->index << qcow2_l1_shift(&img->hdr)) <
		 l1->offset + img->cache.block_size);
	qcow2_cache_put(img, l1);
	return true;
}

/**
 * qcow2_ahead_step() - read one thing more
 * @img: the image; nobody changes its size
 * @a: how far it has come
 *
 * At most one L2 table with its neighbours, or one piece of the L1 table, is read.
 *
 * Context: may sleep; no lock held, not inside an epoch.
 * Return: is there more?
 */
bool qcow2_ahead_step(struct qcow2_image *img, struct qcow2_ahead *a)
{
	if (!a->tables && !begin(img, a))
		return false;
	if (!a->sorted) {
		if (a->nr < a->max && a->index < img->hdr.l1_entries)
			return collect(img, a);
		port_sort(a->tables, a->nr, sizeof(*a->tables), by_place);
		a->sorted = true;
		a->index = 0;
	}
	if (a->index == a->nr ||
	    READ_ONCE(img->cache.nr_blocks) >= img->cache.max_blocks)
		return false;
	qcow2_map_ahead(img, a->tables[a->index].guest,
			a->tables[a->index].table);
	a->index++;
	return true;
}

/**
 * qcow2_ahead_end() - that was it, or enough
 * @a: how far it has come; zeroed again
 */
void qcow2_ahead_end(struct qcow2_ahead *a)
{
	port_vfree(a->tables);
	memset(a, 0, sizeof(*a));
}
