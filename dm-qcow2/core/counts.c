// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the sparse array of counters: see counts.h.
 */
#include "counts.h"

/**
 * qcow2_counts_init() - make an array, all zeros
 * @m: filled in
 * @clusters: the highest index that will be used
 * @order: log2 of the bits that a counter has at first
 *
 * Return: 0, or -ENOMEM; qcow2_counts_destroy() is right for both.
 */
int qcow2_counts_init(struct qcow2_counts *m, u64 clusters, u32 order)
{
	m->order = order;
	m->nr = (clusters >> QCOW2_COUNTS_BITS) + 1;
	m->parts = port_vzalloc(m->nr * sizeof(*m->parts));
	return m->parts ? 0 : -ENOMEM;
}

/**
 * qcow2_counts_destroy() - free it
 * @m: the array, or zeroed memory; may be made again afterwards
 */
void qcow2_counts_destroy(struct qcow2_counts *m)
{
	u64 i;

	for (i = 0; m->parts && i < m->nr; i++)
		port_vfree(m->parts[i].counters);
	port_vfree(m->parts);
	m->parts = NULL;
}

/**
 * qcow2_counts_get() - look at a counter
 * @m: the array
 * @i: its index
 *
 * Return: its value, 0 if it was never set.
 */
u64 qcow2_counts_get(const struct qcow2_counts *m, u64 i)
{
	const struct qcow2_counts_part *p = &m->parts[i >> QCOW2_COUNTS_BITS];

	if (!p->counters)
		return 0;
	return qcow2_refcount_get(p->counters,
				  i & ((1u << QCOW2_COUNTS_BITS) - 1), p->order);
}

/* Gives a part memory, or wider counters. */
static int widen(struct qcow2_counts *m, struct qcow2_counts_part *p)
{
	u32 order = p->counters ? p->order + 1 : m->order;
	void *wide = port_vzalloc(((size_t)1 << QCOW2_COUNTS_BITS << order) / 8);
	u32 i;

	if (!wide)
		return -ENOMEM;
	for (i = 0; p->counters && i < 1u << QCOW2_COUNTS_BITS; i++)
		qcow2_refcount_set(wide, i, order,
				   qcow2_refcount_get(p->counters, i, p->order));
	port_vfree(p->counters);
	p->counters = wide;
	p->order = order;
	return 0;
}

/**
 * qcow2_counts_set() - set a counter
 * @m: the array
 * @i: its index
 * @value: any
 *
 * Return: 0, or -ENOMEM with nothing changed.
 */
int qcow2_counts_set(struct qcow2_counts *m, u64 i, u64 value)
{
	struct qcow2_counts_part *p = &m->parts[i >> QCOW2_COUNTS_BITS];
	int ret;

	while (!p->counters || (p->order < 6 && value >> (1u << p->order))) {
		ret = widen(m, p);
		if (ret)
			return ret;
	}
	qcow2_refcount_set(p->counters, i & ((1u << QCOW2_COUNTS_BITS) - 1),
			   p->order, value);
	return 0;
}
