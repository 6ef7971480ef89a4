/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Host clusters: refcounts, free space, the growth of refcount blocks and of
 * the refcount table.
 */
#ifndef QCOW2_ALLOC_H
#define QCOW2_ALLOC_H

#include "image.h"

/* Flags in alloc->reftable[]; offsets are multiples of 512. */
#define QCOW2_RT_PENDING 1u	/* not on the disk */
#define QCOW2_RT_FROZEN 2u	/* being written by the running commit */
#define QCOW2_RT_USED 4u	/* a pending block counts clusters in use */
#define QCOW2_RT_FLAGS 7u

void qcow2_alloc_init(struct qcow2_image *img);
void qcow2_alloc_destroy(struct qcow2_image *img);
int qcow2_alloc_load(struct qcow2_image *img);
u64 qcow2_alloc_end(struct qcow2_image *img);

int qcow2_alloc_run(struct qcow2_image *img, u64 want, u64 *host, u64 *got,
		    bool *fresh);
int qcow2_alloc_row(struct qcow2_image *img, u64 nr, u64 *host);
int qcow2_alloc_table(struct qcow2_image *img, u64 *host, bool *fresh);
int qcow2_alloc_reach(struct qcow2_image *img, u64 bytes);
void qcow2_alloc_abort(struct qcow2_image *img, u64 host, u64 nr, bool table);
void qcow2_alloc_keep(struct qcow2_image *img, u64 end);
void qcow2_alloc_refresh(struct qcow2_image *img);
u64 qcow2_alloc_last(struct qcow2_image *img, u64 cluster, u64 nr, bool table,
		     u64 *first);
int qcow2_alloc_drop(struct qcow2_image *img, u64 cluster, u64 nr, bool table);
void qcow2_reclaim(struct qcow2_image *img, bool wait);
int qcow2_alloc_prepare(struct qcow2_image *img, struct qcow2_waiter *waiter);

bool qcow2_alloc_freeze(struct qcow2_image *img);
int qcow2_alloc_write_table(struct qcow2_image *img, void *sector);
void qcow2_alloc_thaw(struct qcow2_image *img, bool written);
bool qcow2_alloc_pending(struct qcow2_image *img);

#endif /* QCOW2_ALLOC_H */
