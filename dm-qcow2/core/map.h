/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From guest offset to mapping. A mapping is a value: filled here, consumed by
 * whoever does the I/O.
 */
#ifndef QCOW2_MAP_H
#define QCOW2_MAP_H

#include "image.h"

/**
 * struct qcow2_mapping - where a run of guest bytes is
 * @kind: what the run is; one kind for all of it. UNALLOCATED: in no layer
 * @host: DATA: host offset in bytes of the first guest byte; COMPRESSED: of the
 *	first compressed byte
 * @len: length of the run in bytes, at most what was asked for
 * @store: DATA: what holds the bytes
 * @img: COMPRESSED: the image that does
 * @csize: COMPRESSED: how many compressed bytes there are at most
 * @skip: COMPRESSED: the first guest byte in the decompressed cluster
 * @in_place: DATA that may be overwritten where it is: the refcount is one, and
 *	the L2 slice has been checked against the metadata there is now; never of
 *	a layer below
 * @durable: with @in_place: the entries that lead here are on the disk; a FUA
 *	overwrite then needs no commit
 */
struct qcow2_mapping {
	enum qcow2_kind kind;
	u64 host;
	u64 len;
	const struct qcow2_store *store;
	struct qcow2_image *img;
	u32 csize;
	u32 skip;
	bool in_place;
	bool durable;
};

static inline bool qcow2_kind_reads_zero(enum qcow2_kind kind)
{
	return kind == QCOW2_UNALLOCATED || kind == QCOW2_ZERO ||
		kind == QCOW2_ZERO_ALLOC;
}

int qcow2_map_peek(struct qcow2_image *img, u64 guest, u64 len,
		   struct qcow2_mapping *m);
int qcow2_map(struct qcow2_image *img, u64 guest, u64 len,
	      struct qcow2_mapping *m);

/* For the allocating write and for activation; see map.c. */
int qcow2_map_top(struct qcow2_image *img, u64 guest, u64 len,
		  struct qcow2_mapping *m);
int qcow2_map_l1_block(struct qcow2_image *img, u64 guest,
		       struct qcow2_block **l1);
int qcow2_map_l1(struct qcow2_image *img, u64 guest, struct qcow2_block **l1,
		 u64 *table, bool *copied);
u64 qcow2_map_named(const struct qcow2_image *img, const struct qcow2_block *l1,
		    u64 guest);
void qcow2_map_ahead(struct qcow2_image *img, u64 guest, u64 table);
int qcow2_map_slice(struct qcow2_image *img, u64 guest,
		    const struct qcow2_block *l1, u64 table,
		    struct qcow2_block **slice);
int qcow2_map_decode(const struct qcow2_image *img, u64 guest,
		     const struct qcow2_block *slice, struct qcow2_entry *e);
int qcow2_map_entry(struct qcow2_image *img, u64 guest,
		    const struct qcow2_block *slice, struct qcow2_entry *e);
u64 qcow2_l1_entry_offset(const struct qcow2_image *img, u64 guest);
u64 qcow2_l2_entry_offset(const struct qcow2_image *img, u64 guest, u64 table);
u64 qcow2_slice_end(const struct qcow2_image *img, u64 guest);

#endif /* QCOW2_MAP_H */
