/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which host clusters hold metadata. Nothing else may be written there, and
 * nothing else may be allocated there (QEMU's overlap-check).
 */
#ifndef QCOW2_OVERLAP_H
#define QCOW2_OVERLAP_H

#include "image.h"

void qcow2_overlap_init(struct qcow2_image *img);
void qcow2_overlap_destroy(struct qcow2_image *img);
int qcow2_overlap_add(struct qcow2_image *img, u64 cluster);
void qcow2_overlap_remove(struct qcow2_image *img, u64 cluster);
void qcow2_overlap_set_l1(struct qcow2_image *img);
void qcow2_overlap_set_reftable(struct qcow2_image *img, u64 offset,
				u32 clusters);
void qcow2_overlap_unvisit(struct qcow2_image *img);
bool qcow2_overlap_visit(struct qcow2_image *img, u64 cluster);
u64 qcow2_overlap_end(struct qcow2_image *img);
const char *qcow2_overlap_fixed(struct qcow2_image *img, u64 cluster, u64 nr);
const char *qcow2_overlap_find(struct qcow2_image *img, u64 cluster, u64 nr);

#endif /* QCOW2_OVERLAP_H */
