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
 * @host: host offset in bytes of the first guest byte, in img->data
 * @len: bytes to write there, at most what was asked for
 * @in_place: nothing is to be linked; qcow2_write_end() is still owed
 * @durable: with @in_place: the entries that lead there are on the disk
 * @taken: host clusters were taken for it
 * @guest: guest offset in bytes of the first cluster
 * @nr: number of clusters
 * @first_host: host offset in bytes of the first cluster
 * @epoch: held while @slice is NULL: the write needed no clusters of its own
 * @slice: the L2 slice to be changed, pinned
 * @range: guest clusters that are owned, with @slice
 * @frees: struct qcow2_free: host clusters that the old entries name
 *
 * From @taken on, it belongs to write.c.
 */
struct qcow2_write {
	u64 host;
	u64 len;
	bool in_place;
	bool durable;

	bool taken;
	u64 guest;
	u64 nr;
	u64 first_host;
	int epoch;
	struct qcow2_block *slice;
	struct qcow2_busy_range range;
	struct list_head frees;
};

int qcow2_write_prepare(struct qcow2_image *img);
int qcow2_write_begin(struct qcow2_image *img, u64 guest, u64 len,
		      struct qcow2_write *w, struct qcow2_waiter *waiter);
int qcow2_write_end(struct qcow2_image *img, struct qcow2_write *w, int error);

#endif /* QCOW2_WRITE_H */
