/* SPDX-License-Identifier: GPL-2.0 */
/*
 * New refcount structures for an image that nobody else uses. For the tools and
 * the tests; not part of the module.
 */
#ifndef QCOW2_REBUILD_H
#define QCOW2_REBUILD_H

#include "checker.h"

/**
 * struct qcow2_rebuild - a row of new clusters: some of the caller's, then a
 * refcount table, then its blocks
 * @c: the image, opened
 * @first: first cluster of the row; nothing is there or behind it
 * @front: clusters of the row that are the caller's
 * @needed: does some refcount in block @b have to be there? Asked of blocks
 *	before the row only
 * @fill: sets the contents of block @b, in @c->cluster
 * @nr: clusters of the row; 0: there is none
 * @entries: of the table
 *
 * The first five are the caller's; the rest is set by qcow2_rebuild_plan().
 */
struct qcow2_rebuild {
	struct qcow2_checker *c;
	u64 first;
	u64 front;
	bool (*needed)(const struct qcow2_rebuild *n, u64 b);
	int (*fill)(struct qcow2_rebuild *n, u64 b);
	u64 nr;
	u64 entries;
};

int qcow2_rebuild_plan(struct qcow2_rebuild *n, struct qcow2_error *err);
int qcow2_rebuild_write(struct qcow2_rebuild *n, struct qcow2_error *err);
void qcow2_rebuild_name(const struct qcow2_rebuild *n,
			struct qcow2_header_disk *sector);

/* Is cluster @k in the row? */
static inline bool qcow2_rebuild_has(const struct qcow2_rebuild *n, u64 k)
{
	return k - n->first < n->nr;
}

#endif /* QCOW2_REBUILD_H */
