/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest writes. A write is: begin, which says where the bytes go; the I/O,
 * which is the caller's and may be asynchronous; end, which links them.
 */
#ifndef QCOW2_WRITE_H
#define QCOW2_WRITE_H

#include "image.h"

/**
 * struct qcow2_write - one step of a guest write
 * @host: host offset in bytes of the first guest byte
 * @len: bytes to write there, at most what was asked for
 * @in_place: nothing is to be linked; qcow2_write_end() is still owed
 * @durable: with @in_place: the entries that lead there are on the disk
 *
 * The rest belongs to write.c.
 */
struct qcow2_write {
	u64 host;
	u64 len;
	bool in_place;
	bool durable;

	bool reserved;			/* the clusters were ZERO_ALLOC, not taken */
	u64 guest;			/* of the first cluster */
	u64 nr;				/* clusters */
	u64 first_host;			/* of the first cluster */
	int epoch;			/* held for in_place */
	struct qcow2_block *slice;	/* pinned */
	struct qcow2_busy_range range;
	struct list_head frees;		/* what the old entries name */
};

int qcow2_write_begin(struct qcow2_image *img, u64 guest, u64 len,
		      struct qcow2_write *w, struct qcow2_waiter *waiter);
int qcow2_write_end(struct qcow2_image *img, struct qcow2_write *w, int error);

#endif /* QCOW2_WRITE_H */
