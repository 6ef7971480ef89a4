// SPDX-License-Identifier: GPL-2.0
/*
 * Table entries with every bit in turn, for every cluster size; refcounts of
 * every width; the arithmetic of geometry.h at its extremes.
 */
#include "format.h"
#include "geometry.h"
#include "tap.h"

static struct qcow2_header header_of(u32 cluster_bits)
{
	return (struct qcow2_header){
		.version = 3, .cluster_bits = cluster_bits, .refcount_order = 4,
	};
}

/* ---- L1 ---- */

static int l1(const struct qcow2_header *h, u64 v, u64 *table, bool *copied)
{
	return qcow2_l1_decode(h, cpu_to_be64(v), table, copied);
}

/* Counts the bits that do not do what their place says. */
static int bad_l1_bits(const struct qcow2_header *h)
{
	u64 table;
	bool copied;
	int bad = 0;
	u32 bit;

	for (bit = 0; bit < 63; bit++) {
		u64 v = 1ull << bit;
		bool offset = bit >= h->cluster_bits && bit < 56;

		bad += l1(h, v, &table, &copied) != (offset ? 0 : -EUCLEAN);
		bad += offset && (table != v || copied);
		v |= QCOW2_ENTRY_COPIED;
		bad += l1(h, v, &table, &copied) != (offset ? 0 : -EUCLEAN);
		bad += offset && (table != 1ull << bit || !copied);
		/* and beside a good offset */
		v |= 1ull << 40;
		bad += l1(h, v, &table, &copied) != (offset ? 0 : -EUCLEAN);
	}
	return bad;
}

static void test_l1(void)
{
	u64 table;
	bool copied;
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);
		u64 top = QCOW2_ENTRY_OFFSET & ~((1ull << bits) - 1);

		is_int(bad_l1_bits(&h), 0, "L1, %u bits: each bit", bits);
		ok(l1(&h, 0, &table, &copied) == 0 && !table && !copied,
		   "L1, %u bits: no table", bits);
		ok(l1(&h, 1ull << 63, &table, &copied) == -EUCLEAN,
		   "L1, %u bits: COPIED without a table", bits);
		ok(l1(&h, top | 1ull << 63, &table, &copied) == 0 &&
		   table == top && copied, "L1, %u bits: highest table", bits);
	}
}

/* ---- L2, standard ---- */

static int l2(const struct qcow2_header *h, u64 v, struct qcow2_entry *e)
{
	memset(e, 0xa5, sizeof(*e));
	return qcow2_l2_decode(h, cpu_to_be64(v), 0, e);
}

static int bad_l2_bits(const struct qcow2_header *h)
{
	struct qcow2_entry e;
	int bad = 0;
	u32 bit;

	for (bit = 1; bit < 62; bit++) {
		u64 v = 1ull << bit;
		bool offset = bit >= h->cluster_bits && bit < 56;

		bad += l2(h, v, &e) != (offset ? 0 : -EUCLEAN);
		bad += offset && (e.kind != QCOW2_DATA || e.copied || e.csize ||
				  e.host != v);
		bad += l2(h, v | 1ull << 63, &e) != (offset ? 0 : -EUCLEAN);
		bad += offset && (e.kind != QCOW2_DATA || !e.copied ||
				  e.host != v);
		bad += l2(h, v | 1, &e) != (offset ? 0 : -EUCLEAN);
		bad += offset && (e.kind != QCOW2_ZERO_ALLOC || e.copied ||
				  e.host != v);
		bad += l2(h, v | 1 | 1ull << 63, &e) !=
			(offset ? 0 : -EUCLEAN);
		bad += offset && (e.kind != QCOW2_ZERO_ALLOC || !e.copied);
		bad += l2(h, v | 1ull << 40, &e) != (offset ? 0 : -EUCLEAN);
	}
	return bad;
}

static void test_l2(void)
{
	struct qcow2_entry e;
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);

		is_int(bad_l2_bits(&h), 0, "L2, %u bits: each bit", bits);
		ok(l2(&h, 0, &e) == 0 && e.kind == QCOW2_UNALLOCATED &&
		   !e.copied && !e.host && !e.csize,
		   "L2, %u bits: unallocated", bits);
		ok(l2(&h, 1, &e) == 0 && e.kind == QCOW2_ZERO && !e.copied &&
		   !e.host, "L2, %u bits: zero", bits);
		ok(l2(&h, 1ull << 63, &e) == -EUCLEAN,
		   "L2, %u bits: data at offset 0", bits);
		ok(l2(&h, 1ull << 63 | 1, &e) == -EUCLEAN,
		   "L2, %u bits: COPIED zero at offset 0", bits);
		h.version = 2;
		ok(l2(&h, 1, &e) == -EUCLEAN &&
		   l2(&h, 1ull << bits | 1, &e) == -EUCLEAN,
		   "L2, %u bits: the zero flag in version 2", bits);
		ok(l2(&h, 1ull << bits | 1ull << 63, &e) == 0 &&
		   e.kind == QCOW2_DATA && e.copied,
		   "L2, %u bits: data in version 2", bits);
	}
}

/* ---- L2, compressed ---- */

#define COMPRESSED (1ull << 62)

static int bad_compressed_bits(const struct qcow2_header *h)
{
	u32 x = 62 - (h->cluster_bits - 8), bit;
	u64 base = 1ull << 30;
	struct qcow2_entry e;
	int bad = 0;

	/* the offset: any bit, not aligned to anything */
	for (bit = 0; bit < x; bit++) {
		u64 host = base ^ 1ull << bit;
		int want = bit > 55 || host < qcow2_cluster_size(h) ?
			-EUCLEAN : 0;

		bad += l2(h, COMPRESSED | host, &e) != want;
		bad += !want && (e.kind != QCOW2_COMPRESSED || e.copied ||
				 e.host != host ||
				 e.csize != 512 - (host & 511));
	}
	/* the sectors */
	for (bit = x; bit < 62; bit++) {
		u64 n = 1ull << (bit - x);

		bad += l2(h, COMPRESSED | 1ull << bit | (base + 100), &e) != 0;
		bad += e.csize != (n + 1) * 512 - 100 || e.host != base + 100;
	}
	return bad;
}

static void test_compressed(void)
{
	struct qcow2_entry e;
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);
		u32 x = 62 - (bits - 8), cs = 1u << bits;
		u64 top = min((1ull << x) - 1, (1ull << 56) - 1);
		u64 sectors = (1ull << (bits - 8)) - 1;

		is_int(bad_compressed_bits(&h), 0,
		       "compressed, %u bits: each bit", bits);
		ok(l2(&h, COMPRESSED | 1ull << 63 | 1ull << 30, &e) == -EUCLEAN,
		   "compressed, %u bits: COPIED", bits);
		ok(l2(&h, COMPRESSED, &e) == -EUCLEAN &&
		   l2(&h, COMPRESSED | (cs - 1), &e) == -EUCLEAN,
		   "compressed, %u bits: in the header's cluster", bits);
		ok(l2(&h, COMPRESSED | cs, &e) == 0 && e.host == cs,
		   "compressed, %u bits: lowest offset", bits);
		ok(l2(&h, COMPRESSED | top, &e) == 0 && e.host == top &&
		   e.csize == 1, "compressed, %u bits: highest offset", bits);
		ok(l2(&h, COMPRESSED | sectors << x | cs, &e) == 0 &&
		   e.csize == (sectors + 1) * 512 && e.csize <= 2 * cs,
		   "compressed, %u bits: most sectors", bits);
		h.version = 2;
		ok(l2(&h, COMPRESSED | (cs + 1), &e) == 0 && e.host == cs + 1,
		   "compressed, %u bits: bit 0 is of the offset", bits);
	}
}

/* ---- refcount table ---- */

static void test_reftable(void)
{
	u32 bits, bit;
	u64 block;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);
		int bad = 0;

		for (bit = 0; bit < 64; bit++) {
			u64 v = 1ull << bit;
			bool offset = bit >= bits && bit < 56;
			int ret = qcow2_rt_decode(&h, cpu_to_be64(v), &block);

			bad += ret != (offset ? 0 : -EUCLEAN);
			bad += !ret && block != v;
			bad += qcow2_rt_decode(&h, cpu_to_be64(v | 1ull << 40),
					       &block) !=
				(offset ? 0 : -EUCLEAN);
		}
		is_int(bad, 0, "refcount table, %u bits: each bit", bits);
		ok(qcow2_rt_decode(&h, 0, &block) == 0 && !block,
		   "refcount table, %u bits: no block", bits);
	}
}

static void test_encode(void)
{
	static const u8 disk[] = { 0x80, 0, 0, 0x12, 0x34, 0x56, 0, 0 };
	__be64 raw = qcow2_entry_encode(0x1234560000, true);
	struct qcow2_header h = header_of(16);
	struct qcow2_entry e;

	ok(!memcmp(&raw, disk, 8), "an entry is big-endian");
	ok(qcow2_l2_decode(&h, raw, 0, &e) == 0 && e.copied &&
	   e.host == 0x1234560000, "and decodes to what it was");
	ok(be64_to_cpu(qcow2_entry_encode(0x10000, false)) == 0x10000,
	   "an entry that is not COPIED");
}

/* ---- refcounts ---- */

#define BLOCK_BYTES 512u

static u64 value_of(u32 i, u32 order)
{
	u64 v = (i + 1) * 0x9e3779b97f4a7c15ull;

	return order == 6 ? v : v >> 13 & (BIT_ULL(1u << order) - 1);
}

/* Changes one and looks at all. */
static int bad_refcounts(u32 order)
{
	u32 n = (BLOCK_BYTES * 8) >> order, i, step;
	u64 all = order == 6 ? U64_MAX : BIT_ULL(1u << order) - 1;
	u8 *block = calloc(1, BLOCK_BYTES), copy[BLOCK_BYTES];
	int bad = 0;

	for (i = 0; i < n; i++)
		qcow2_refcount_set(block, i, order, value_of(i, order));
	for (i = 0; i < n; i++)
		bad += qcow2_refcount_get(block, i, order) !=
			value_of(i, order);
	for (step = 0; step < n; step++) {
		memcpy(copy, block, BLOCK_BYTES);
		qcow2_refcount_set(copy, step, order, 0);
		qcow2_refcount_set(copy, step, order, all);
		bad += qcow2_refcount_get(copy, step, order) != all;
		qcow2_refcount_set(copy, step, order, value_of(step, order));
		bad += memcmp(copy, block, BLOCK_BYTES) != 0;
	}
	free(block);
	return bad;
}

/* How they lie on the disk, written down and not computed. */
static void test_refcount_layout(void)
{
	static const struct {
		u32 order, index;
		u64 value;
		u8 disk[8];
	} cases[] = {
		{ 0, 0, 1, { 0x01 } },
		{ 0, 7, 1, { 0x80 } },
		{ 0, 8, 1, { 0, 0x01 } },
		{ 1, 0, 3, { 0x03 } },
		{ 1, 1, 2, { 0x08 } },
		{ 1, 3, 3, { 0xc0 } },
		{ 1, 4, 1, { 0, 0x01 } },
		{ 2, 0, 0xf, { 0x0f } },
		{ 2, 1, 0x9, { 0x90 } },
		{ 2, 2, 0x5, { 0, 0x05 } },
		{ 3, 1, 0xfe, { 0, 0xfe } },
		{ 4, 0, 0x1234, { 0x12, 0x34 } },
		{ 4, 1, 0x00ff, { 0, 0, 0x00, 0xff } },
		{ 5, 1, 0x12345678, { 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78 } },
		{ 6, 0, 0x123456789abcdef0,
		  { 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0 } },
	};
	u64 aligned[1];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		aligned[0] = 0;
		qcow2_refcount_set(aligned, cases[i].index, cases[i].order,
				   cases[i].value);
		ok(!memcmp(aligned, cases[i].disk, 8) &&
		   qcow2_refcount_get(aligned, cases[i].index,
				      cases[i].order) == cases[i].value,
		   "refcount of order %u, number %u", cases[i].order,
		   cases[i].index);
	}
}

static void test_refcounts(void)
{
	u32 order;

	for (order = 0; order <= 6; order++) {
		struct qcow2_header h = header_of(16);

		is_int(bad_refcounts(order), 0,
		       "refcounts of order %u leave their neighbours alone",
		       order);
		h.refcount_order = order;
		ok(qcow2_refcount_max(&h) ==
		   (order == 6 ? U64_MAX : (1ull << (1u << order)) - 1),
		   "the largest of order %u", order);
	}
	test_refcount_layout();
}

/* ---- geometry ---- */

/* Entries by division, in numbers that cannot overflow. */
static u64 slow_size_to_l1(u32 bits, u64 size)
{
	unsigned __int128 covers = (unsigned __int128)1 << (2 * bits - 3);

	return (size + covers - 1) / covers;
}

static void test_sizes(void)
{
	static const u64 sizes[] = {
		0, 1, 511, 512, 513, 1ull << 30, (1ull << 30) + 1,
		(1ull << 61) - 1, 1ull << 61, (1ull << 61) + 1,
		S64_MAX - 1, S64_MAX, U64_MAX,
	};
	u32 bits;
	size_t i;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);
		u64 covers = 1ull << (2 * bits - 3);
		int bad = 0;

		for (i = 0; i < ARRAY_SIZE(sizes); i++)
			bad += qcow2_size_to_l1(&h, sizes[i]) !=
				slow_size_to_l1(bits, sizes[i]);
		bad += qcow2_size_to_l1(&h, covers) != 1;
		bad += qcow2_size_to_l1(&h, covers + 1) != 2;
		bad += qcow2_size_to_l1(&h, covers - 1) != 1;
		is_int(bad, 0, "L1 entries for a size, %u bits", bits);
		ok(qcow2_clusters_for(&h, 0) == 0 &&
		   qcow2_clusters_for(&h, 1) == 1 &&
		   qcow2_clusters_for(&h, 1u << bits) == 1 &&
		   qcow2_clusters_for(&h, (1u << bits) + 1) == 2 &&
		   qcow2_clusters_for(&h, U64_MAX) == 1ull << (64 - bits),
		   "clusters for a size, %u bits", bits);
	}
}

static void test_indices(void)
{
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);
		u64 last = S64_MAX;

		ok(qcow2_cluster_size(&h) == 1u << bits &&
		   qcow2_l2_bits(&h) == bits - 3 &&
		   qcow2_l1_shift(&h) == 2 * bits - 3, "sizes, %u bits", bits);
		ok(qcow2_l1_index(&h, last) == last >> (2 * bits - 3) &&
		   qcow2_l2_index(&h, last) == (1u << (bits - 3)) - 1,
		   "indices of the last byte, %u bits", bits);
		ok(qcow2_cluster_start(&h, last) ==
		   (last >> bits) << bits &&
		   qcow2_in_cluster(&h, last) == (1u << bits) - 1 &&
		   qcow2_cluster_index(&h, last) == last >> bits,
		   "its cluster, %u bits", bits);
		ok(qcow2_l2_index(&h, 1ull << (2 * bits - 3)) == 0 &&
		   qcow2_l1_index(&h, 1ull << (2 * bits - 3)) == 1 &&
		   qcow2_l2_index(&h, (1ull << (2 * bits - 3)) - 1) ==
		   (1u << (bits - 3)) - 1, "between two tables, %u bits", bits);
	}
}

static void test_refblocks(void)
{
	u32 bits, order;
	int bad = 0;

	for (bits = 9; bits <= 21; bits++) {
		for (order = 0; order <= 6; order++) {
			struct qcow2_header h = header_of(bits);

			h.refcount_order = order;
			bad += 1ull << qcow2_refblock_bits(&h) !=
				((8ull << bits) >> order);
		}
	}
	is_int(bad, 0, "refcounts in a block");
	for (bits = 9; bits <= 21; bits++) {
		struct qcow2_header h = header_of(bits);

		h.reftable_clusters = (8u << 20) >> bits;
		ok(qcow2_reftable_entries(&h) == 1u << 20,
		   "entries of the largest refcount table, %u bits", bits);
	}
}

static void test_err(void)
{
	struct qcow2_error err;

	ok(qcow2_err(NULL, -EUCLEAN, "nobody reads %s", "this") == -EUCLEAN,
	   "an error that nobody wants to read");
	ok(qcow2_err(&err, -EINVAL, "%300d", 1) == -EINVAL &&
	   strlen(err.msg) == sizeof(err.msg) - 1, "a long one is cut");
}

int main(void)
{
	test_l1();
	test_l2();
	test_compressed();
	test_reftable();
	test_encode();
	test_refcounts();
	test_sizes();
	test_indices();
	test_refblocks();
	test_err();
	return tap_end();
}
