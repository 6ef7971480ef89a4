/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Metadata that is read before somebody asks for it.
 */
#ifndef QCOW2_AHEAD_H
#define QCOW2_AHEAD_H

#include "image.h"

struct qcow2_ahead_table;

/**
 * struct qcow2_ahead - how far it has come; zeroed at first
 * @tables: the L2 tables to be read
 * @nr: how many
 * @max: how many at most
 * @index: of the next L1 entry to be looked at, then of the next table
 * @sorted: all of them are known, and in the order of the disk
 */
struct qcow2_ahead {
	struct qcow2_ahead_table *tables;
	u64 nr;
	u64 max;
	u64 index;
	bool sorted;
};

bool qcow2_ahead_step(struct qcow2_image *img, struct qcow2_ahead *a);
void qcow2_ahead_end(struct qcow2_ahead *a);

#endif /* QCOW2_AHEAD_H */
