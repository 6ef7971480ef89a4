/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Discard and write-zeroes.
 */
#ifndef QCOW2_ZERO_H
#define QCOW2_ZERO_H

#include "image.h"

enum qcow2_zero_how {
	QCOW2_DISCARD,		/* whole clusters and subclusters, or nothing */
	QCOW2_ZERO_FREE,	/* all of it; host clusters are given back */
	QCOW2_ZERO_KEEP,	/* all of it; host clusters stay reserved */
};

int qcow2_zero(struct qcow2_image *img, u64 guest, u64 len,
	       enum qcow2_zero_how how, u64 *done, struct qcow2_waiter *waiter);

#endif /* QCOW2_ZERO_H */
