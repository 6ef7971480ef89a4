/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest clusters under allocation: one allocating write at a time owns a
 * cluster. Whoever meets an owned one is told when to try again; nobody sleeps.
 */
#ifndef QCOW2_BUSY_H
#define QCOW2_BUSY_H

#include "image.h"

void qcow2_busy_init(struct qcow2_image *img);
int qcow2_busy_lock(struct qcow2_image *img, struct qcow2_busy_range *r,
		    u64 first, u64 last, struct qcow2_waiter *waiter);
void qcow2_busy_unlock(struct qcow2_image *img, struct qcow2_busy_range *r);

#endif /* QCOW2_BUSY_H */
