// SPDX-License-Identifier: GPL-2.0
/*
 * Images with one defect each: see hostile.h.
 *
 * The image is sound first: data, zeros, a compressed cluster, a snapshot-less
 * header of version 3. Then one thing is changed.
 */
#include "hostile.h"
#include "guestio.h"

#include <zlib.h>

#define CLUSTERS 40
#define EOF_BYTES (1ull << 40)	/* beyond the end of each of these files */

static const u32 classes[] = { 9, 12, 16, 21 };

struct target {
	struct membackend *be;
	u32 bits;
	u64 cs;
	u64 l1, l2, table, block;	/* where they are */
	u64 bad_entry;			/* L2 entry of HOSTILE_BAD */
	u64 bad_host;
	u64 packed;			/* the compressed cluster's bytes */
};

struct defect {
	const char *name;
	enum hostile_verdict verdict;
	const char *words;
	void (*make)(struct target *t, u64 a, u64 b);
	u64 a, b;
	bool marked;
	u64 incompatible;	/* of the image */
	u32 min_bits, max_bits;	/* 0: any */
};

/* ---- changes ---- */

static void set32(struct target *t, u64 at, u64 v)
{
	mem_set_be32(t->be, at, v);
}

static void set64(struct target *t, u64 at, u64 v)
{
	mem_set_be64(t->be, at, v);
}

static void set8(struct target *t, u64 at, u64 v)
{
	t->be->data[at] = v;
}

static void cut(struct target *t, u64 bytes, u64 unused)
{
	t->be->size = bytes;
}

static void cut_l1(struct target *t, u64 unused, u64 unused_too)
{
	t->be->size = t->l1;
}

/* A field by what is there: its old value plus @b. */
static void add64(struct target *t, u64 at, u64 b)
{
	set64(t, at, mem_be64(t->be, at) + b);
}

static void l1_entry(struct target *t, u64 v, u64 unused)
{
	set64(t, t->l1, v);
}

static void l1_or(struct target *t, u64 bits, u64 unused)
{
	set64(t, t->l1, mem_be64(t->be, t->l1) | bits);
}

static void l1_is_l1(struct target *t, u64 unused, u64 unused_too)
{
	set64(t, t->l1, t->l1 | QCOW2_ENTRY_COPIED);
}

static void l1_is_table(struct target *t, u64 unused, u64 unused_too)
{
	set64(t, t->l1, t->table | QCOW2_ENTRY_COPIED);
}

static void l2_entry(struct target *t, u64 v, u64 bitmap)
{
	set64(t, t->bad_entry, v);
	if (t->be->data[79] & QCOW2_INCOMPAT_EXTL2)
		set64(t, t->bad_entry + 8, bitmap);
}

static void l2_or(struct target *t, u64 bits, u64 unused)
{
	set64(t, t->bad_entry, mem_be64(t->be, t->bad_entry) | bits);
}

static void l2_bitmap(struct target *t, u64 bitmap, u64 unused)
{
	set64(t, t->bad_entry + 8, bitmap);
}

static void no_host(struct target *t, u64 bitmap, u64 unused)
{
	set64(t, t->bad_entry, 0);
	set64(t, t->bad_entry + 8, bitmap);
}

enum place { HEADER, L1, L2, TABLE, BLOCK };

static u64 where(const struct target *t, enum place p)
{
	switch (p) {
	case L1:
		return t->l1;
	case L2:
		return t->l2;
	case TABLE:
		return t->table;
	case BLOCK:
		return t->block;
	default:
		return 0;
	}
}

static void l2_is(struct target *t, u64 place, u64 unused)
{
	set64(t, t->bad_entry, where(t, place) | QCOW2_ENTRY_COPIED);
}

static u64 compressed(const struct target *t, u64 host, u64 sectors)
{
	return QCOW2_ENTRY_COMPRESSED | host | sectors << (62 - (t->bits - 8));
}

static void packed_at(struct target *t, u64 host, u64 flags)
{
	set64(t, t->bad_entry, compressed(t, host, 0) | flags);
	if (t->be->data[79] & QCOW2_INCOMPAT_EXTL2)
		set64(t, t->bad_entry + 8, 0);
}

static void packed_bitmap(struct target *t, u64 bitmap, u64 unused)
{
	packed_at(t, t->packed, 0);
	set64(t, t->bad_entry + 8, bitmap);
}

/* The compressed cluster's bytes are others. */
static void packed_bytes(struct target *t, u64 byte, u64 from)
{
	memset(t->be->data + t->packed + from, byte, t->cs / 2 - from);
	set64(t, t->bad_entry, compressed(t, t->packed, (t->cs / 2 - 1) / 512));
	if (t->be->data[79] & QCOW2_INCOMPAT_EXTL2)
		set64(t, t->bad_entry + 8, 0);
}

/* They are those of a cluster that is larger, or smaller. */
static void packed_size(struct target *t, u64 num, u64 den)
{
	z_stream z = { .next_out = t->be->data + t->packed,
		.avail_out = t->cs / 2 };
	u8 *zeros = calloc(num, t->cs);

	z.next_in = zeros;
	z.avail_in = num * t->cs / den;
	memset(t->be->data + t->packed, 0, t->cs / 2);
	if (deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) ||
	    deflate(&z, Z_FINISH) != Z_STREAM_END)
		abort();
	deflateEnd(&z);
	free(zeros);
	set64(t, t->bad_entry, compressed(t, t->packed, (t->cs / 2 - 1) / 512));
	if (t->be->data[79] & QCOW2_INCOMPAT_EXTL2)
		set64(t, t->bad_entry + 8, 0);
}

/* The bad cluster has to be allocated, and the refcount table has @v. */
static void table_entry(struct target *t, u64 v, u64 unused)
{
	set64(t, t->bad_entry, 0);
	set64(t, t->table, v);
}

static void table_is(struct target *t, u64 place, u64 unused)
{
	table_entry(t, where(t, place), 0);
}

static void count_is(struct target *t, u64 place, u64 count)
{
	set64(t, t->bad_entry, 0);
	if (mk_set_refcount(t->be, where(t, place), count))
		abort();
}

/* Header extensions from here on: type, length, then eight bytes of @b. */
static void extension(struct target *t, u64 type, u64 b)
{
	u32 at = mem_be32(t->be, 100);

	set32(t, at, type >> 32);
	set32(t, at + 4, (u32)type);
	if (type)
		set64(t, at + 8, b);
}

static void backing(struct target *t, u64 at, u64 len)
{
	set64(t, 8, at);
	set32(t, 16, len);
}

static void bitmaps(struct target *t, u64 field, u64 v)
{
	u32 at = mem_be32(t->be, 100);

	set32(t, at, 0x23852875);
	set32(t, at + 4, 24);
	set32(t, at + 8, 1);
	set32(t, at + 12, 0);
	set64(t, at + 16, 32);
	set64(t, at + 24, t->l1);	/* a cluster that is there */
	set64(t, 88, 1);
	if (field < 16)
		set32(t, at + field, v);
	else
		set64(t, at + field, v);
}

static void longer_header(struct target *t, u64 at, u64 v)
{
	set32(t, 100, 112);
	set8(t, at, v);
}

/* A snapshot whose entry is as it should be but for one field. */
static void snapshot(struct target *t, u64 field, u64 v)
{
	u64 at, l1;

	if (mk_cluster(t->be, 1, &at) || mk_cluster(t->be, 1, &l1))
		abort();
	memset(t->be->data + at, 0, t->cs);
	memset(t->be->data + l1, 0, t->cs);
	set64(t, at, l1);
	set32(t, at + 8, 1);
	set8(t, at + 13, 1);
	set8(t, at + 15, 1);
	set32(t, at + 36, 16);
	set64(t, at + 48, CLUSTERS * t->cs);
	set8(t, at + 56, '1');
	set8(t, at + 57, 'a');
	set32(t, 60, 1);
	set64(t, 64, at);
	if (field == 0)
		set64(t, at, v);
	else if (field == 12 || field == 14)
		memset(t->be->data + at + field, v, 2);
	else
		set32(t, at + field, v);
	set64(t, t->bad_entry, 0);
}

static void nothing(struct target *t, u64 unused, u64 unused_too)
{
}

#define R HOSTILE_REFUSED
#define EXTL2 .incompatible = QCOW2_INCOMPAT_EXTL2, .min_bits = 14

static const struct defect defects[] = {
	{ "nothing is wrong", HOSTILE_ANY, "", nothing },
	{ "magic", R, "not a qcow2 image", set32, 0, 0x514649fa },
	{ "version 0", R, "version 0", set32, 4, 0 },
	{ "version 1", R, "version 1", set32, 4, 1 },
	{ "version 4", R, "version 4", set32, 4, 4 },
	{ "cluster_bits 0", R, "cluster_bits 0", set32, 20, 0 },
	{ "cluster_bits 8", R, "cluster_bits 8", set32, 20, 8 },
	{ "cluster_bits 22", R, "cluster_bits 22", set32, 20, 22 },
	{ "cluster_bits huge", R, "cluster_bits 4294967295", set32, 20, U32_MAX },
	{ "size too large", R, "size", set64, 24, 1ull << 63 },
	{ "size all ones", R, "", set64, 24, U64_MAX },
	{ "size beyond the L1 table", R, "too small", set64, 24, 1ull << 50 },
	{ "no L1 entries", R, "too small", set32, 36, 0 },
	{ "too many L1 entries", R, "at most", set32, 36, U32_MAX },
	{ "L1 entries beyond the file", R, "beyond the end", set32, 36, 1 << 22 },
	{ "L1 table unaligned", R, "multiple", add64, 40, 8 },
	{ "L1 table at 0", R, "offset is 0", set64, 40, 0 },
	{ "L1 table beyond the file", R, "beyond the end", set64, 40, EOF_BYTES },
	{ "L1 table at the end of numbers", R, "largest file", set64, 40,
	  ~0ull << 21 },
	{ "refcount table unaligned", R, "multiple", add64, 48, 8 },
	{ "refcount table at 0", R, "offset is 0", set64, 48, 0 },
	{ "refcount table beyond the file", R, "beyond the end", set64, 48,
	  EOF_BYTES },
	{ "refcount table at the end of numbers", R, "largest file", set64, 48,
	  ~0ull << 21 },
	{ "no refcount table", R, "must be 1 to", set32, 56, 0 },
	{ "refcount table too large", R, "must be 1 to", set32, 56, U32_MAX },
	{ "too many snapshots", R, "at most", set32, 60, 65537 },
	{ "snapshots without a table", R, "snapshot table offset is 0", set32,
	  60, 1 },
	{ "snapshot table unaligned", R, "multiple", set64, 64, 8 },
	{ "encryption method 3", R, "method 3", set32, 32, 3 },
	{ "LUKS without its header", R, "LUKS", set32, 32, 2 },
	{ "header length 96", R, "header_length 96", set32, 100, 96 },
	{ "header length 105", R, "header_length 105", set32, 100, 105 },
	{ "header longer than a cluster", R, "header_length", set32, 100,
	  4 << 20 },
	{ "refcount order 7", R, "refcount_order 7", set32, 96, 7 },
	{ "refcount order huge", R, "refcount_order", set32, 96, U32_MAX },
	{ "unknown feature", R, "bit 63", set64, 72, 1ull << 63 },
	{ "next feature", R, "bit 5", set64, 72, 1ull << 5 },
	{ "data file, not given", R, "data file; give it", set64, 72, 4 },
	{ "compression bit without a type", R, "contradict", set64, 72, 8 },
	{ "compression type without the bit", R, "contradict", longer_header,
	  104, 1 },
	{ "compression type 2", R, "type 2", longer_header, 104, 2 },
	{ "padding", R, "reserved byte", longer_header, 111, 1 },
	{ "extended L2 in small clusters", R, "extended L2", set64, 72, 16,
	  .max_bits = 13 },
	{ "backing file, not given", R, "names a backing file", backing, 112, 4 },
	{ "backing name outside", R, "first cluster", backing, 4 << 20, 4 },
	{ "backing name too long", R, "first cluster", backing, 112, 1024 },
	{ "extension too long", R, "do not fit", extension,
	  0x12345678ffffffffull, 0 },
	{ "format name too long", R, "at most 15", extension,
	  0xe2792aca00000010ull, 0 },
	{ "bitmaps extension of 16", R, "length 16", extension,
	  0x2385287500000010ull, 0 },
	{ "LUKS extension without LUKS", R, "crypt_method is 0", extension,
	  0x0537be7700000010ull, 0 },
	{ "no bitmaps", R, "0 bitmaps", bitmaps, 8, 0 },
	{ "too many bitmaps", R, "bitmaps, must be", bitmaps, 8, 65536 },
	{ "bitmaps, reserved", R, "reserved field", bitmaps, 12, 1 },
	{ "bitmap directory too large", R, "directory of", bitmaps, 16, U64_MAX },
	{ "bitmap directory beyond the file", R, "beyond the end", bitmaps, 24,
	  EOF_BYTES },
	{ "bitmap directory unaligned", R, "multiple", bitmaps, 24, 8 },
	{ "empty file", R, "", cut, 0 },
	{ "3 bytes", R, "not a qcow2 image", cut, 3 },
	{ "71 bytes", R, "inside the header", cut, 71 },
	{ "103 bytes", R, "inside the header", cut, 103 },
	{ "cut off before the L1 table", R, "truncated", cut_l1 },

	{ "L1 entry with a reserved bit", HOSTILE_READ, "L1 table", l1_or, 1,
	  .marked = true },
	{ "L1 entry unaligned", HOSTILE_READ, "L1 table", l1_or, 512,
	  .marked = true, .min_bits = 10 },
	{ "L1 entry beyond the file", HOSTILE_READ, "L1 table", l1_entry,
	  EOF_BYTES | QCOW2_ENTRY_COPIED, .marked = true },
	{ "L1 entry COPIED and empty", HOSTILE_READ, "L1 table", l1_entry,
	  QCOW2_ENTRY_COPIED, .marked = true },
	{ "L1 entry names the L1 table", HOSTILE_ANY, "", l1_is_l1 },
	{ "L1 entry names the refcount table", HOSTILE_ANY, "", l1_is_table },
	{ "L2 entry with a reserved bit", HOSTILE_READ, "L2 table", l2_or, 2,
	  .marked = true },
	{ "L2 entry with another", HOSTILE_READ, "L2 table", l2_or, 1ull << 56,
	  .marked = true },
	{ "L2 entry unaligned", HOSTILE_READ, "L2 table", l2_or, 512,
	  .marked = true, .min_bits = 10 },
	{ "L2 entry beyond the file", HOSTILE_READ, "L2 table", l2_entry,
	  EOF_BYTES | QCOW2_ENTRY_COPIED, U32_MAX, .marked = true },
	{ "L2 entry COPIED and empty", HOSTILE_READ, "L2 table", l2_entry,
	  QCOW2_ENTRY_COPIED, .marked = true },
	{ "data in the header", HOSTILE_ANY, "", l2_is, HEADER },
	{ "data in the L1 table", HOSTILE_WRITE, "L1 table", l2_is, L1,
	  .marked = true },
	{ "data in its L2 table", HOSTILE_WRITE, "L2 table", l2_is, L2,
	  .marked = true },
	{ "data in the refcount table", HOSTILE_WRITE, "refcount table", l2_is,
	  TABLE, .marked = true },
	{ "data in a refcount block", HOSTILE_WRITE, "refcount block", l2_is,
	  BLOCK, .marked = true },
	{ "compressed data in the header", HOSTILE_READ, "L2 table", packed_at,
	  8, 0, .marked = true },
	{ "compressed data beyond the file", HOSTILE_READ, "L2 table", packed_at,
	  1ull << 38, 0, .marked = true, .max_bits = 16 },
	{ "compressed and COPIED", HOSTILE_READ, "L2 table", packed_at, 1 << 20,
	  QCOW2_ENTRY_COPIED, .marked = true },
	{ "compressed garbage", HOSTILE_READ, "decompress", packed_bytes, 0xff, 0 },
	{ "compressed data that end", HOSTILE_READ, "decompress", packed_bytes,
	  0, 0 },
	{ "too little compressed", HOSTILE_READ, "decompress", packed_size, 1, 2 },
	{ "too much compressed", HOSTILE_READ, "decompress", packed_size, 2, 1 },
	{ "no refcount block for the header", HOSTILE_WRITE, "refcount table",
	  table_entry, 0, .marked = true },
	{ "refcount table, reserved bit", HOSTILE_WRITE, "refcount table",
	  table_entry, 1, .marked = true },
	{ "refcount block unaligned", HOSTILE_WRITE, "refcount table",
	  table_entry, 512 * 3, .marked = true, .min_bits = 10 },
	{ "refcount block beyond the file", HOSTILE_WRITE, "refcount table",
	  table_entry, EOF_BYTES, .marked = true },
	{ "refcount block in the L1 table", HOSTILE_WRITE, "refcount table",
	  table_is, L1, .marked = true },
	{ "refcount block in the table", HOSTILE_WRITE, "refcount table",
	  table_is, TABLE, .marked = true },
	{ "the header is free", HOSTILE_ANY, "", count_is, HEADER, 0 },
	{ "the L1 table is free", HOSTILE_ANY, "", count_is, L1, 0 },
	{ "an L2 table is free", HOSTILE_ANY, "", count_is, L2, 0 },
	{ "a refcount block is free", HOSTILE_ANY, "", count_is, BLOCK, 0 },
	{ "snapshot with too many L1 entries", HOSTILE_WRITE, "snapshot",
	  snapshot, 8, U32_MAX, .marked = true },
	{ "snapshot's L1 table beyond the file", HOSTILE_WRITE, "snapshot",
	  snapshot, 0, EOF_BYTES, .marked = true },
	{ "snapshot's L1 table unaligned", HOSTILE_WRITE, "snapshot", snapshot,
	  0, 8, .marked = true },
	{ "snapshot with much extra data", R, "snapshot table", snapshot, 36,
	  U32_MAX },
	{ "snapshot with a long name", R, "snapshot table", snapshot, 14, 0xff,
	  .max_bits = 12 },

	{ "subcluster data and zeros", HOSTILE_READ, "L2 table", l2_bitmap,
	  1ull << 32 | 1, .marked = true, EXTL2 },
	{ "subcluster data nowhere", HOSTILE_READ, "L2 table", no_host, 1,
	  .marked = true, EXTL2 },
	{ "zero flag beside subclusters", HOSTILE_READ, "L2 table", l2_or, 1,
	  .marked = true, EXTL2 },
	{ "compressed with subclusters", HOSTILE_READ, "L2 table",
	  packed_bitmap, 1, .marked = true, EXTL2 },
	{ "garbage with subclusters about", HOSTILE_READ, "decompress",
	  packed_bytes, 0xff, 0, EXTL2 },
};

/* ---- the sound image ---- */

static void fill(struct target *t, u64 cluster, u64 host)
{
	u64 i;

	for (i = 0; i < t->cs; i += 512)
		stamp_make(t->be->data + host + i, (cluster * t->cs + i) / 512, 1);
}

static void make_sound(struct target *t, const struct defect *d)
{
	const struct mk_image p = {
		.cluster_bits = t->bits, .size = CLUSTERS * t->cs,
		.incompatible = d->incompatible,
	};
	u64 n, host;

	mem_init(t->be, MEM_FILE, 0);
	if (mk_image(t->be, &p))
		abort();
	for (n = 0; n < 5; n++) {
		if (mk_map(t->be, n * t->cs, n == 1 ? QCOW2_ZERO_ALLOC : QCOW2_DATA,
			   1, &host))
			abort();
		fill(t, n, host);
		if (n == HOSTILE_BAD)
			t->bad_host = host;
	}
	if (mk_cluster(t->be, 1, &t->packed))
		abort();
	t->l1 = mem_be64(t->be, 40);
	t->table = mem_be64(t->be, 48);
	t->block = mem_be64(t->be, t->table);
	t->l2 = mem_be64(t->be, t->l1) & QCOW2_ENTRY_OFFSET;
	t->bad_entry = t->l2 + HOSTILE_BAD * (d->incompatible ? 16 : 8);
}

bool hostile_make(unsigned int n, struct membackend *be, struct hostile *h)
{
	unsigned int i, c;

	for (i = 0; i < ARRAY_SIZE(defects); i++) {
		const struct defect *d = &defects[i];

		for (c = 0; c < ARRAY_SIZE(classes); c++) {
			struct target t = { .be = be, .bits = classes[c],
				.cs = 1ull << classes[c] };

			if (t.bits < d->min_bits ||
			    (d->max_bits && t.bits > d->max_bits) || n--)
				continue;
			make_sound(&t, d);
			d->make(&t, d->a, d->b);
			*h = (struct hostile){ d->name, d->verdict, d->words,
				d->marked, t.bits };
			return true;
		}
	}
	return false;
}
