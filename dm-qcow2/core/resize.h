/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Changing the size of the virtual disk.
 */
#ifndef QCOW2_RESIZE_H
#define QCOW2_RESIZE_H

#include "image.h"

u64 qcow2_max_size(const struct qcow2_header *h);
int qcow2_resize(struct qcow2_image *img, u64 size, bool shrink,
		 struct qcow2_error *err);

#endif /* QCOW2_RESIZE_H */
