/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A sparse array of counters, one for each cluster of a file: it takes memory
 * only where something is counted, and each part of it is as wide as its largest
 * counter needs. For the offline check and the repair; not part of the module.
 */
#ifndef QCOW2_COUNTS_H
#define QCOW2_COUNTS_H

#include "format.h"

#define QCOW2_COUNTS_BITS 12 /* log2 of the counters of a part */

struct qcow2_counts_part {
	void *counters;
	u32 order;	/* log2 of the width in bits */
};

struct qcow2_counts {
	struct qcow2_counts_part *parts;
	u64 nr;
	u32 order;	/* of a new part */
};

int qcow2_counts_init(struct qcow2_counts *m, u64 clusters, u32 order);
void qcow2_counts_destroy(struct qcow2_counts *m);
u64 qcow2_counts_get(const struct qcow2_counts *m, u64 i);
int qcow2_counts_set(struct qcow2_counts *m, u64 i, u64 value);

/* Are all counters of the part that @i is in 0? */
static inline bool qcow2_counts_empty(const struct qcow2_counts *m, u64 i)
{
	return !m->parts[i >> QCOW2_COUNTS_BITS].counters;
}

#endif /* QCOW2_COUNTS_H */
