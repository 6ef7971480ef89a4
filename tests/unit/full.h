/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An image with something of everything that has references: data, zeros,
 * compressed data, a snapshot, a bitmap.
 */
#ifndef FULL_H
#define FULL_H

#include "fixture.h"

#include <zlib.h>

#define CS 4096ull
#define FULL_SIZE (40ull << 20) /* for three clusters of bitmap */
#define COMPRESSED (4 * CS)	/* guest offset of a compressed cluster */

/* Version 3, 4-KiB clusters: where things are on the host. */
struct full {
	struct fixture f;
	u64 data;		/* of guest cluster 0 */
	u64 table;		/* the one L2 table, shared with the snapshot */
	u64 snapshots, snapshot_l1;
	u64 bitmaps, bitmap_table, bitmap_data;
	u64 compressed;
};

static inline void full_set_be16(struct full *i, u64 at, u16 value)
{
	i->f.be.data[at] = value >> 8;
	i->f.be.data[at + 1] = value;
}

static inline void full_snapshot(struct full *i)
{
	struct membackend *be = &i->f.be;

	must(mk_share_table(be, 0, 2));
	must(mk_cluster(be, 1, &i->snapshot_l1));
	memset(be->data + i->snapshot_l1, 0, CS);
	mem_set_be64(be, i->snapshot_l1, i->table);
	must(mk_cluster(be, 1, &i->snapshots));
	memset(be->data + i->snapshots, 0, CS);
	mem_set_be64(be, i->snapshots, i->snapshot_l1);
	mem_set_be32(be, i->snapshots + 8, 1);
	full_set_be16(i, i->snapshots + 12, 1);
	full_set_be16(i, i->snapshots + 14, 3);
	mem_set_be32(be, i->snapshots + 36, 16);
	mem_set_be64(be, i->snapshots + 48, FULL_SIZE);
	memcpy(be->data + i->snapshots + 56, "1one", 4);
	mem_set_be32(be, 60, 1);
	mem_set_be64(be, 64, i->snapshots);
}

static inline void full_bitmap(struct full *i)
{
	struct membackend *be = &i->f.be;

	must(mk_cluster(be, 1, &i->bitmap_data));
	must(mk_cluster(be, 1, &i->bitmap_table));
	memset(be->data + i->bitmap_table, 0, CS);
	mem_set_be64(be, i->bitmap_table, i->bitmap_data);
	mem_set_be64(be, i->bitmap_table + 8, 1);
	must(mk_cluster(be, 1, &i->bitmaps));
	memset(be->data + i->bitmaps, 0, CS);
	mem_set_be64(be, i->bitmaps, i->bitmap_table);
	mem_set_be32(be, i->bitmaps + 8, 3);
	be->data[i->bitmaps + 16] = 1;
	be->data[i->bitmaps + 17] = 9;
	full_set_be16(i, i->bitmaps + 18, 4);
	memcpy(be->data + i->bitmaps + 24, "bits", 4);
	mem_set_be32(be, 104, QCOW2_EXT_BITMAPS);
	mem_set_be32(be, 108, 24);
	mem_set_be32(be, 112, 1);
	mem_set_be64(be, 120, 32);
	mem_set_be64(be, 128, i->bitmaps);
}

/* A cluster of sevens, as QEMU compresses one. */
static inline void full_deflate(struct full *i)
{
	u8 plain[CS];
	z_stream z = {
		.next_in = plain, .avail_in = CS,
		.next_out = i->f.be.data + i->compressed, .avail_out = 1024,
	};

	memset(plain, 7, CS);
	must(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY));
	must(deflate(&z, Z_FINISH) != Z_STREAM_END);
	must(deflateEnd(&z));
}

static inline void full_make(struct full *i)
{
	memset(i, 0, sizeof(*i));
	fx_make_on(&i->f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .size = FULL_SIZE,
		.autoclear = QCOW2_AUTOCLEAR_BITMAPS });
	must(mk_map(&i->f.be, 0, QCOW2_DATA, 1, &i->data));
	fx_store(&i->f, i->data, 0, CS, 1);
	must(mk_map(&i->f.be, CS, QCOW2_ZERO_ALLOC, 1, NULL));
	must(mk_map(&i->f.be, 2 * CS, QCOW2_ZERO, 1, NULL));
	i->table = fx_l1(&i->f, 0) & QCOW2_ENTRY_OFFSET;
	must(mk_cluster(&i->f.be, 2, &i->compressed));
	must(mk_set_l2(&i->f.be, COMPRESSED,
		       QCOW2_ENTRY_COMPRESSED | i->compressed | 1ull << 58));
	full_deflate(i);
	full_snapshot(i);
	full_bitmap(i);
}

#endif /* FULL_H */
