// SPDX-License-Identifier: GPL-2.0
/*
 * Images made by hand, independent of the code under test: mk_*() of
 * membackend.h. Nothing is searched for: clusters are taken at the end.
 */
#include "membackend.h"

#include <zlib.h>

#define V2_HEADER 72
#define V3_HEADER 104
#define BACKING 160	/* where its name is; before is room for two extensions */
#define DATA_FILE_NAME 0x44415441u
#define COMPRESSED (1ull << 62)
#define ALL_DATA 0x00000000ffffffffull
#define ALL_ZERO 0xffffffff00000000ull
#define COPIED (1ull << 63)
#define OFFSET 0x00fffffffffffe00ull

u64 mem_be64(const struct membackend *be, u64 offset)
{
	u64 v;

	memcpy(&v, be->data + offset, 8);
	return be64toh(v);
}

u32 mem_be32(const struct membackend *be, u64 offset)
{
	u32 v;

	memcpy(&v, be->data + offset, 4);
	return be32toh(v);
}

void mem_set_be64(struct membackend *be, u64 offset, u64 value)
{
	value = htobe64(value);
	memcpy(be->data + offset, &value, 8);
}

void mem_set_be32(struct membackend *be, u64 offset, u32 value)
{
	value = htobe32(value);
	memcpy(be->data + offset, &value, 4);
}

/* ---- refcounts ---- */

static u32 cluster_bits(const struct membackend *be)
{
	return mem_be32(be, 20);
}

static u32 order(const struct membackend *be)
{
	return mem_be32(be, 4) < 3 ? 4 : mem_be32(be, 96);
}

static u32 block_bits(const struct membackend *be)
{
	return cluster_bits(be) + 3 - order(be);
}

/* Where the refcount table entry is that counts @host, or 0. */
static u64 table_entry(const struct membackend *be, u64 host)
{
	u64 i = host >> cluster_bits(be) >> block_bits(be);

	if (i * 8 >= (u64)mem_be32(be, 56) << cluster_bits(be))
		return 0;
	return mem_be64(be, 48) + i * 8;
}

u64 mk_refcount(const struct membackend *be, u64 host)
{
	u64 entry = table_entry(be, host), block, i, bit, v = 0;
	u32 width = 1u << order(be), n;

	block = entry ? mem_be64(be, entry) : 0;
	if (!block)
		return 0;
	i = (host >> cluster_bits(be)) & ((1ull << block_bits(be)) - 1);
	bit = i * width;
	if (width < 8)
		return be->data[block + bit / 8] >> bit % 8 & ((1u << width) - 1);
	for (n = 0; n < width / 8; n++)
		v = v << 8 | be->data[block + bit / 8 + n];
	return v;
}

/* The end of the image moves up by one cluster. */
static int extend(struct membackend *be, u64 *host)
{
	u64 cs = 1ull << cluster_bits(be);

	*host = be->mk_end;
	if (*host + cs > (be->ops->growable ? be->capacity : be->size))
		return -ENOSPC;
	be->mk_end += cs;
	if (be->ops->growable)
		be->size = max(be->size, be->mk_end);
	return 0;
}

int mk_set_refcount(struct membackend *be, u64 host, u64 refcount)
{
	u64 entry = table_entry(be, host), block, i, bit;
	u32 width = 1u << order(be), n;
	int ret;

	if (!entry || (width < 64 && refcount >> width))
		return -EINVAL;
	if (!mem_be64(be, entry)) {
		ret = extend(be, &block);
		if (ret)
			return ret;
		memset(be->data + block, 0, 1ull << cluster_bits(be));
		mem_set_be64(be, entry, block);
		/* the end is in this block or the next: no endless descent */
		ret = mk_set_refcount(be, block, 1);
		if (ret)
			return ret;
	}
	block = mem_be64(be, entry);
	i = (host >> cluster_bits(be)) & ((1ull << block_bits(be)) - 1);
	bit = i * width;
	if (width < 8) {
		u8 *p = be->data + block + bit / 8;

		*p &= ~(((1u << width) - 1) << bit % 8);
		*p |= refcount << bit % 8;
		return 0;
	}
	for (n = width / 8; n-- > 0; refcount >>= 8)
		be->data[block + bit / 8 + n] = refcount;
	return 0;
}

int mk_cluster(struct membackend *be, u64 refcount, u64 *host)
{
	int ret = extend(be, host);

	return ret ?: mk_set_refcount(be, *host, refcount);
}

/* ---- the header ---- */

static void name_data_file(struct membackend *be, const char *name)
{
	u8 *extension = be->data + V3_HEADER;

	mem_set_be32(be, V3_HEADER, DATA_FILE_NAME);
	mem_set_be32(be, V3_HEADER + 4, strlen(name));
	memcpy(extension + 8, name, strlen(name));
}

/* Behind the name of a data file, if there is one. */
static void name_luks(struct membackend *be, u64 header, u64 len)
{
	u64 pos = V3_HEADER + (mem_be32(be, V3_HEADER) ? 24 : 0);

	mem_set_be32(be, pos, QCOW2_EXT_CRYPTO);
	mem_set_be32(be, pos + 4, 16);
	mem_set_be64(be, pos + 8, header);
	mem_set_be64(be, pos + 16, len);
}

static void make_header(struct membackend *be, const struct mk_image *p)
{
	mem_set_be32(be, 0, 0x514649fb);
	mem_set_be32(be, 4, p->version);
	mem_set_be32(be, 20, p->cluster_bits);
	mem_set_be64(be, 24, p->size);
	if (p->backing) {
		mem_set_be64(be, 8, BACKING);
		mem_set_be32(be, 16, strlen(p->backing));
		memcpy(be->data + BACKING, p->backing, strlen(p->backing));
	}
	mem_set_be32(be, 32, p->crypt);
	if (p->version < 3)
		return;
	mem_set_be64(be, 72, p->incompatible);
	mem_set_be64(be, 80, p->compatible);
	mem_set_be64(be, 88, p->autoclear);
	mem_set_be32(be, 96, p->refcount_order);
	mem_set_be32(be, 100, V3_HEADER);
	if (p->data_file)
		name_data_file(be, p->data_file);
}

static u32 entry_shift(u64 incompatible)
{
	return incompatible & QCOW2_INCOMPAT_EXTL2 ? 4 : 3;
}

static bool extended(const struct membackend *be)
{
	return mem_be32(be, 4) >= 3 && entry_shift(mem_be64(be, 72)) == 4;
}

static int fix_params(struct mk_image *p)
{
	if (!p->version)
		p->version = 3;
	if (!p->cluster_bits)
		p->cluster_bits = 16;
	if (!p->refcount_order && !p->order_given)
		p->refcount_order = 4;
	if (!p->reftable_clusters)
		p->reftable_clusters = 1;
	if (p->version < 2 || p->version > 3 || p->cluster_bits < 9 ||
	    p->cluster_bits > 21 || p->refcount_order > 6 ||
	    (entry_shift(p->incompatible) == 4 &&
	     (p->version == 2 || p->cluster_bits < 14)) ||
	    (p->version == 2 && (p->refcount_order != 4 ||
				 p->crypt == QCOW2_CRYPT_LUKS)))
		return -EINVAL;
	return 0;
}

/* Counts [0, end): the refcount blocks come after what they count first. */
static int count_all(struct membackend *be, u64 end)
{
	u64 host;
	int ret = 0;

	for (host = 0; !ret && host < end; host += 1ull << cluster_bits(be))
		ret = mk_set_refcount(be, host, 1);
	return ret;
}

static u64 l1_entries(const struct mk_image *p)
{
	u32 shift = 2 * p->cluster_bits - entry_shift(p->incompatible);

	return (p->size >> shift) + !!(p->size & ((1ull << shift) - 1));
}

int mk_image(struct membackend *be, const struct mk_image *params)
{
	struct mk_image p = *params;
	u64 cs, l1, entries, table, blocks, l1_clusters, block;
	int ret = fix_params(&p);

	if (ret)
		return ret;
	cs = 1ull << p.cluster_bits;
	entries = l1_entries(&p);
	if (entries * 8 > 32 << 20)
		return -EINVAL;
	l1_clusters = (max(entries, 1ull) * 8 + cs - 1) / cs;
	/* the refcount table must at least reach the end of all this */
	blocks = 1 + ((l1_clusters + 64) >> (p.cluster_bits + 3 - p.refcount_order));
	while ((u64)p.reftable_clusters * (cs / 8) <
	       blocks + (p.reftable_clusters >>
			 (p.cluster_bits + 3 - p.refcount_order)))
		p.reftable_clusters++;

	table = cs;
	block = table + p.reftable_clusters * cs;
	l1 = block + cs;
	if (p.crypt == QCOW2_CRYPT_LUKS)
		l1 += cs;
	be->mk_end = l1 + l1_clusters * cs;
	if (be->mk_end > (be->ops->growable ? be->capacity : be->size))
		return -ENOSPC;
	if (be->ops->growable)
		be->size = be->mk_end;
	memset(be->data, 0, be->mk_end);
	make_header(be, &p);
	mem_set_be64(be, 48, table);
	mem_set_be32(be, 56, p.reftable_clusters);
	if (p.crypt == QCOW2_CRYPT_LUKS)
		name_luks(be, block + cs, cs);
	mem_set_be32(be, 36, entries);
	mem_set_be64(be, 40, l1);
	mem_set_be64(be, table, block);
	return count_all(be, be->mk_end);
}

/* ---- the mapping ---- */

/* Where the L1 entry of @guest is. */
static u64 l1_position(const struct membackend *be, u64 guest)
{
	u32 shift = 2 * cluster_bits(be) - (extended(be) ? 4 : 3);

	return mem_be64(be, 40) + (guest >> shift) * 8;
}

/* Where the L2 entry of @guest is; makes the table. */
static int l2_position(struct membackend *be, u64 guest, u64 *pos)
{
	u32 bits = cluster_bits(be), shift = extended(be) ? 4 : 3;
	u64 l1 = l1_position(be, guest), table;
	int ret;

	if (guest >= mem_be64(be, 24))
		return -EINVAL;
	table = mem_be64(be, l1) & OFFSET;
	if (!table) {
		ret = mk_cluster(be, 1, &table);
		if (ret)
			return ret;
		memset(be->data + table, 0, 1ull << bits);
		mem_set_be64(be, l1, table | COPIED);
	}
	*pos = table + ((guest >> bits & ((1ull << (bits - shift)) - 1)) << shift);
	return 0;
}

static int mk_set_l2_half(struct membackend *be, u64 guest, u32 at, u64 value)
{
	u64 pos;
	int ret = l2_position(be, guest, &pos);

	if (!ret)
		mem_set_be64(be, pos + at, value);
	return ret;
}

int mk_set_l2(struct membackend *be, u64 guest, u64 entry)
{
	return mk_set_l2_half(be, guest, 0, entry);
}

int mk_set_bitmap(struct membackend *be, u64 guest, u64 bitmap)
{
	return mk_set_l2_half(be, guest, 8, bitmap);
}

static bool has_data_file(const struct membackend *be)
{
	return mem_be32(be, 4) >= 3 &&
		mem_be64(be, 72) & QCOW2_INCOMPAT_DATA_FILE;
}

int mk_map(struct membackend *be, u64 guest, enum qcow2_kind kind, u64 refcount,
	   u64 *host)
{
	u64 cluster = 0, pos, entry = 0, bitmap = 0;
	int ret = l2_position(be, guest, &pos);

	if (ret)
		return ret;
	switch (kind) {
	case QCOW2_ZERO_ALLOC:
	case QCOW2_DATA:
		if (has_data_file(be))
			cluster = guest >> cluster_bits(be) << cluster_bits(be);
		else
			ret = mk_cluster(be, refcount, &cluster);
		if (ret)
			return ret;
		entry = cluster | (refcount == 1 ? COPIED : 0) |
			(kind == QCOW2_ZERO_ALLOC);
		bitmap = kind == QCOW2_DATA ? ALL_DATA : ALL_ZERO;
		break;
	case QCOW2_ZERO:
		entry = 1;
		bitmap = ALL_ZERO;
		break;
	case QCOW2_UNALLOCATED:
		break;
	default:
		return -EINVAL;
	}
	if ((entry & 1) && mem_be32(be, 4) < 3)
		return -EINVAL;
	if (extended(be)) {
		entry &= ~1ull;
		mem_set_be64(be, pos + 8, bitmap);
	}
	mem_set_be64(be, pos, entry);
	if (host)
		*host = cluster;
	return 0;
}

static int deflate_cluster(u8 *to, u32 room, const void *data, u32 len)
{
	z_stream z = { .next_in = (void *)data, .avail_in = len,
		.next_out = to, .avail_out = room };
	int ret;

	if (deflateInit2(&z, 9, Z_DEFLATED, -12, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	ret = deflate(&z, Z_FINISH) == Z_STREAM_END ? (int)z.total_out : -E2BIG;
	deflateEnd(&z);
	return ret;
}

int mk_map_compressed(struct membackend *be, u64 guest, const void *data)
{
	u32 bits = cluster_bits(be), shift = 62 - (bits - 8), skip = 17;
	u64 host, pos;
	int n, ret = l2_position(be, guest, &pos);

	ret = ret ?: mk_cluster(be, 1, &host);
	if (ret)
		return ret;
	n = deflate_cluster(be->data + host + skip, (1u << bits) - skip, data,
			    1u << bits);
	if (n < 0)
		return n;
	if (extended(be))
		mem_set_be64(be, pos + 8, 0);
	mem_set_be64(be, pos, COMPRESSED | (u64)((skip + n - 1) / 512) << shift |
		     (host + skip));
	return 0;
}

int mk_share_table(struct membackend *be, u64 guest, u64 refcount)
{
	u32 step = extended(be) ? 16 : 8;
	u64 l1 = l1_position(be, guest);
	u64 table = mem_be64(be, l1) & OFFSET, pos, entry, end;
	int ret;

	if (!table)
		return -EINVAL;
	mem_set_be64(be, l1, table);
	ret = mk_set_refcount(be, table, refcount);
	end = table + (1ull << cluster_bits(be));
	for (pos = table; !ret && pos < end; pos += step) {
		entry = mem_be64(be, pos);
		if (entry & COMPRESSED) {
			entry &= (1ull << (70 - cluster_bits(be))) - 1;
			entry &= ~((1ull << cluster_bits(be)) - 1);
			ret = mk_set_refcount(be, entry, refcount);
			continue;
		}
		if (!(entry & OFFSET))
			continue;
		mem_set_be64(be, pos, entry & ~COPIED);
		ret = mk_set_refcount(be, entry & OFFSET, refcount);
	}
	return ret;
}
