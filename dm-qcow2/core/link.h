/* SPDX-License-Identifier: GPL-2.0 */
/*
 * L2 entries that change: a slice that may be written, what its old entries
 * name, the new entries. For write.c, zero.c and resize.c.
 */
#ifndef QCOW2_LINK_H
#define QCOW2_LINK_H

#include "image.h"

int qcow2_link_slice(struct qcow2_image *img, u64 guest,
		     struct qcow2_block **slice);
int qcow2_link_drop_table(struct qcow2_image *img, u64 guest);
int qcow2_link_check(struct qcow2_image *img, u64 guest, u64 host, u64 nr);
int qcow2_link_free(struct qcow2_image *img, u64 guest,
		    const struct qcow2_entry *e, struct list_head *frees);
void qcow2_link_forget(struct list_head *frees);
int qcow2_link(struct qcow2_image *img, struct qcow2_block *slice, u64 guest,
	       u64 nr, void (*change)(struct qcow2_image *img, u64 guest,
				      struct qcow2_entry *e, void *arg),
	       void *arg, struct list_head *frees);

#endif /* QCOW2_LINK_H */
