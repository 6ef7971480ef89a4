// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the offline check: it counts every reference in an image,
 * compares with the refcounts, and looks at all that a table entry can say
 * wrongly. It shares with the driver the header parser and nothing that changes
 * an image, so that it can judge the driver.
 *
 * The verdict is that of qemu-img check, but stricter in three things that the
 * driver refuses and qemu-img does not mention: zero flags in version 2, COPIED
 * without an offset, and clusters that hold metadata and also something else
 * while their refcount counts both. Where qemu-img gives up, for a refcount
 * block that is not aligned, this finds an error and goes on.
 *
 * Memory and time follow the size of the file, not what the header claims: an
 * L2 table is read once, however many snapshots share it, and the maps below
 * have memory only where something is.
 */
#include "checker.h"

#include <stdarg.h>

#define WINDOW_BYTES 65536u
#define MAX_BITMAP_NAME 1023u

/* What a cluster is used for. */
enum use {
	USE_DATA,
	USE_HEADER,
	USE_L1,
	USE_L2,
	USE_REFTABLE,
	USE_REFBLOCK,
	USE_SNAPSHOTS,
	USE_BITMAP,
	USE_LUKS,
};

static const char * const use_names[] = {
	[USE_DATA] = "guest data",
	[USE_HEADER] = "the header",
	[USE_L1] = "an L1 table",
	[USE_L2] = "an L2 table",
	[USE_REFTABLE] = "the refcount table",
	[USE_REFBLOCK] = "a refcount block",
	[USE_SNAPSHOTS] = "the snapshot table",
	[USE_BITMAP] = "a bitmap",
	[USE_LUKS] = "the LUKS header",
};

static void __printf(3, 4) found(struct qcow2_checker *c, bool leak,
				 const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (leak)
		c->chk->leaks++;
	else
		c->chk->errors++;
	if (!c->chk->report)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->chk->report(c->chk->arg, leak, line);
}

#define error(c, ...) found(c, false, __VA_ARGS__)

#define ULL(x) ((unsigned long long)(x))

/**
 * qcow2_checker_read() - read from the image
 * @c: the check
 * @offset: in bytes, a multiple of 512
 * @buf: from port_alloc()
 * @len: in bytes, a multiple of 512
 *
 * What lies beyond the end is zeros, on a device, too.
 *
 * Context: may sleep.
 * Return: 0, or the error of the read.
 */
int qcow2_checker_read(struct qcow2_checker *c, u64 offset, void *buf, u32 len)
{
	u64 end = round_up(c->size, 512ull);
	u32 n = offset < end ? min_t(u64, len, end - offset) : 0;
	struct qcow2_iovec v = { offset, buf, n };

	memset((u8 *)buf + n, 0, len - n);
	return n ? c->ops->rw(c->be, false, &v, 1) : 0;
}

/* Few bytes at any offset, by way of the window. */
static int read_bytes(struct qcow2_checker *c, u64 offset, void *buf, u32 len)
{
	u32 skip = offset & 511;
	int ret = qcow2_checker_read(c, offset - skip, c->window,
				     round_up(skip + len, 512u));

	if (!ret)
		memcpy(buf, (u8 *)c->window + skip, len);
	return ret;
}

/**
 * qcow2_checker_inside() - is a range in the file?
 * @c: the check
 * @offset: in bytes
 * @len: in bytes
 *
 * Return: whether it ends less than a cluster beyond the file.
 */
bool qcow2_checker_inside(const struct qcow2_checker *c, u64 offset, u64 len)
{
	u64 end;

	return !check_add_overflow(offset, len, &end) && end <= S64_MAX &&
		end < c->size + qcow2_cluster_size(&c->hdr);
}

static int use_cluster(struct qcow2_checker *c, u64 i, u64 times, enum use use)
{
	enum use old = qcow2_counts_get(&c->uses, i);
	int ret;

	/* whether L2 tables may be shared is a matter of their refcount */
	if (old && !(old == USE_L2 && use == USE_L2))
		error(c, "cluster %llu is %s and also %s", ULL(i),
		      use_names[old], use_names[use]);
	else if (use && !old) {
		ret = qcow2_counts_set(&c->uses, i, use);
		if (ret)
			return ret;
	}
	return qcow2_counts_set(&c->refs, i, qcow2_counts_get(&c->refs, i) + times);
}

/* References to each cluster of a range; > 0: the range is not in the file. */
static int reference(struct qcow2_checker *c, u64 offset, u64 len, u64 times,
		     enum use use)
{
	u64 i, last;
	int ret = 0;

	if (!len)
		return 0;
	if (!qcow2_checker_inside(c, offset, len)) {
		c->beyond = min(c->beyond, offset);
		error(c, "%s at %#llx of %llu bytes lies beyond the end of the file",
		      use_names[use], ULL(offset), ULL(len));
		return 1;
	}
	last = (offset + len - 1) >> c->hdr.cluster_bits;
	for (i = offset >> c->hdr.cluster_bits; !ret && i <= last; i++)
		ret = use_cluster(c, i, times, use);
	return ret;
}

/* ---- L1 tables ---- */

/**
 * qcow2_checker_each() - call a function for each entry of a table of u64
 * @c: the check
 * @offset: of the table, a multiple of 512
 * @entries: how many
 * @fn: called in order, until it returns other than 0
 * @arg: last argument of @fn
 *
 * Context: may sleep.
 * Return: 0; the error of a read; -ENOMEM; what @fn returned.
 */
int qcow2_checker_each(struct qcow2_checker *c, u64 offset, u64 entries,
		       int (*fn)(struct qcow2_checker *c, u64 i, u64 entry,
				 void *arg), void *arg)
{
	u32 per_window = WINDOW_BYTES / 8;
	u64 i;
	int ret = 0;
	__be64 *p = port_alloc(WINDOW_BYTES);

	if (!p)
		return -ENOMEM;
	for (i = 0; !ret && i < entries; i++) {
		if (i % per_window == 0)
			ret = qcow2_checker_read(c, offset + i * 8, p,
						 round_up(min_t(u64, entries - i,
								per_window) * 8,
							  512ull));
		if (!ret)
			ret = fn(c, i, be64_to_cpu(p[i % per_window]), arg);
	}
	port_free(p);
	return ret;
}

static int l1_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	const char *name = arg;
	u64 table = entry & QCOW2_ENTRY_OFFSET;
	u64 cluster = table >> c->hdr.cluster_bits;
	int ret;

	if (entry & QCOW2_L1_RESERVED)
		error(c, "%s: entry %llu is %#llx: reserved bits are set", name,
		      ULL(i), ULL(entry));
	if (!table) {
		if (entry & QCOW2_ENTRY_COPIED)
			error(c, "%s: entry %llu is %#llx: COPIED without a table",
			      name, ULL(i), ULL(entry));
		return 0;
	}
	if (qcow2_in_cluster(&c->hdr, table)) {
		error(c, "%s: entry %llu is %#llx: not the start of a cluster",
		      name, ULL(i), ULL(entry));
		return 0;
	}
	ret = reference(c, table, qcow2_cluster_size(&c->hdr), 1, USE_L2);
	if (ret)
		return ret < 0 ? ret : 0;
	return qcow2_counts_set(&c->tables, cluster, qcow2_counts_get(&c->tables, cluster) + 1);
}

static int l1_table(struct qcow2_checker *c, const char *name, u64 offset,
		    u64 entries)
{
	int ret;

	if (qcow2_in_cluster(&c->hdr, offset) ||
	    entries > QCOW2_MAX_L1_BYTES / 8) {
		error(c, "%s at %#llx of %llu entries: bad place or size", name,
		      ULL(offset), ULL(entries));
		return 0;
	}
	ret = reference(c, offset, entries * 8, 1, USE_L1);
	if (!ret)
		ret = qcow2_checker_each(c, offset, entries, l1_entry,
					 (void *)name);
	return ret < 0 ? ret : 0;
}

/* ---- snapshots ---- */

static int snapshots(struct qcow2_checker *c)
{
	u64 pos = c->hdr.snapshots_offset;
	u32 i, extra;
	int ret = 0;

	for (i = 0; !ret && i < c->hdr.nb_snapshots; i++) {
		struct qcow2_snapshot_disk s;
		char name[32];

		pos = round_up(pos, 8ull);
		if (!qcow2_checker_inside(c, pos, sizeof(s))) {
			error(c, "the snapshot table ends beyond the file, in entry %u",
			      i);
			return 0;
		}
		ret = read_bytes(c, pos, &s, sizeof(s));
		if (ret)
			return ret;
		extra = be32_to_cpu(s.extra_len);
		if (extra > QCOW2_MAX_SNAPSHOT_EXTRA)
			error(c, "snapshot %u has %u bytes of extra data, at most %u",
			      i, extra, QCOW2_MAX_SNAPSHOT_EXTRA);
		pos += sizeof(s) + extra + be16_to_cpu(s.id_len) +
			be16_to_cpu(s.name_len);
		snprintf(name, sizeof(name), "snapshot %u: L1 table", i);
		ret = l1_table(c, name, be64_to_cpu(s.l1_offset),
			       be32_to_cpu(s.l1_size));
	}
	if (!ret)
		ret = reference(c, c->hdr.snapshots_offset,
				pos - c->hdr.snapshots_offset, 1, USE_SNAPSHOTS);
	return ret < 0 ? ret : 0;
}

/* ---- bitmaps ---- */

static int bitmap_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	u32 number = *(u32 *)arg;
	u64 data = entry & QCOW2_ENTRY_OFFSET;
	int ret;

	if ((entry & ~QCOW2_ENTRY_OFFSET & ~QCOW2_ENTRY_ZERO) ||
	    (data && (entry & QCOW2_ENTRY_ZERO)) ||
	    qcow2_in_cluster(&c->hdr, data)) {
		error(c,
		      "bitmap %u: entry %llu is %#llx: reserved bits, or not the start of a cluster",
		      number, ULL(i), ULL(entry));
		return 0;
	}
	if (!data)
		return 0;
	ret = reference(c, data, qcow2_cluster_size(&c->hdr), 1, USE_BITMAP);
	return ret < 0 ? ret : 0;
}

static int bitmaps(struct qcow2_checker *c)
{
	u64 pos = c->hdr.bitmap_dir_offset, end = pos + c->hdr.bitmap_dir_size;
	u32 i;
	int ret;

	if (!c->hdr.nb_bitmaps)
		return 0;
	ret = reference(c, pos, c->hdr.bitmap_dir_size, 1, USE_BITMAP);
	for (i = 0; !ret && i < c->hdr.nb_bitmaps; i++) {
		struct qcow2_bitmap_disk b;
		u64 table, n;

		if (end - pos < sizeof(b))
			break;
		ret = read_bytes(c, pos, &b, sizeof(b));
		if (ret)
			return ret;
		n = (u64)sizeof(b) + be32_to_cpu(b.extra_len) +
			be16_to_cpu(b.name_len);
		n = round_up(n, 8ull);
		if (end - pos < n || b.type != 1 ||
		    be16_to_cpu(b.name_len) > MAX_BITMAP_NAME)
			break;
		pos += n;
		table = be64_to_cpu(b.table_offset);
		n = be32_to_cpu(b.table_size);
		if (qcow2_in_cluster(&c->hdr, table) || !table) {
			error(c, "bitmap %u: its table is at %#llx, not the start of a cluster",
			      i, ULL(table));
			continue;
		}
		ret = reference(c, table, n * 8, 1, USE_BITMAP);
		if (!ret)
			ret = qcow2_checker_each(c, table, n, bitmap_entry, &i);
		if (ret > 0)
			ret = 0;
	}
	if (!ret && (i < c->hdr.nb_bitmaps || pos != end))
		error(c, "the bitmap directory does not hold %u entries in %llu bytes",
		      c->hdr.nb_bitmaps, ULL(c->hdr.bitmap_dir_size));
	return ret < 0 ? ret : 0;
}

/* ---- refcount table ---- */

static int reftable_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	int ret;

	if (!entry)
		return 0;
	if ((entry & QCOW2_RT_RESERVED) || qcow2_in_cluster(&c->hdr, entry)) {
		error(c,
		      "refcount table: entry %llu is %#llx: reserved bits, or not the start of a cluster",
		      ULL(i), ULL(entry));
		return 0;
	}
	ret = reference(c, entry, qcow2_cluster_size(&c->hdr), 1, USE_REFBLOCK);
	return ret < 0 ? ret : 0;
}

static int refcount_structures(struct qcow2_checker *c)
{
	const struct qcow2_header *h = &c->hdr;
	int ret;

	ret = reference(c, h->reftable_offset, qcow2_reftable_entries(h) * 8, 1,
			USE_REFTABLE);
	if (ret < 0)
		return ret;
	return qcow2_checker_each(c, h->reftable_offset,
				  qcow2_reftable_entries(h), reftable_entry,
				  NULL);
}

static int all_metadata(struct qcow2_checker *c, bool refcounts)
{
	const struct qcow2_header *h = &c->hdr;
	int ret;

	ret = reference(c, 0, qcow2_cluster_size(h), 1, USE_HEADER);
	if (ret >= 0 && refcounts)
		ret = refcount_structures(c);
	if (ret >= 0)
		ret = reference(c, h->crypto_offset, h->crypto_length, 1,
				USE_LUKS);
	if (ret >= 0)
		ret = l1_table(c, "L1 table", h->l1_offset, h->l1_entries);
	if (ret >= 0)
		ret = snapshots(c);
	if (ret >= 0)
		ret = bitmaps(c);
	return ret < 0 ? ret : 0;
}

/* ---- L2 tables ---- */

static bool external_data(const struct qcow2_checker *c)
{
	return c->hdr.incompatible & QCOW2_INCOMPAT_DATA_FILE;
}

static bool extended(const struct qcow2_checker *c)
{
	return c->hdr.incompatible & QCOW2_INCOMPAT_EXTL2;
}

static int compressed_entry(struct qcow2_checker *c, u64 table, u32 i, u64 entry,
			    u64 times)
{
	u32 shift = 62 - (c->hdr.cluster_bits - 8);
	u64 host = entry & (BIT_ULL(shift) - 1);
	u64 sectors = ((entry & ~(3ull << 62)) >> shift) + 1;
	int ret;

	if (entry & QCOW2_ENTRY_COPIED)
		error(c, "L2 table at %#llx: entry %u is %#llx: compressed and COPIED",
		      ULL(table), i, ULL(entry));
	if (external_data(c))
		error(c,
		      "L2 table at %#llx: entry %u is %#llx: compressed, but the data is in another file",
		      ULL(table), i, ULL(entry));
	ret = reference(c, host, sectors * 512 - (host & 511), times, USE_DATA);
	return ret < 0 ? ret : 0;
}

static int l2_entry(struct qcow2_checker *c, u64 table, u32 i, u64 entry, u64 bitmap,
		    u64 times)
{
	u64 reserved = extended(c) ? QCOW2_EXTL2_RESERVED : QCOW2_L2_RESERVED;
	u64 host = entry & QCOW2_ENTRY_OFFSET;
	const char *wrong = NULL;
	int ret;

	if (extended(c) && ((bitmap & (bitmap >> 32) & U32_MAX) ||
			    ((bitmap & U32_MAX) && !host && !external_data(c)) ||
			    (bitmap && (entry & QCOW2_ENTRY_COMPRESSED))))
		error(c, "L2 table at %#llx: entry %u is %#llx with subclusters %#llx",
		      ULL(table), i, ULL(entry), ULL(bitmap));
	if (entry & QCOW2_ENTRY_COMPRESSED)
		return compressed_entry(c, table, i, entry, times);
	if (entry & reserved)
		wrong = "reserved bits are set";
	else if (qcow2_in_cluster(&c->hdr, host))
		wrong = "not the start of a cluster";
	else if (!extended(c) && c->hdr.version < 3 && (entry & QCOW2_ENTRY_ZERO))
		wrong = "a zero flag in version 2";
	else if ((entry & QCOW2_ENTRY_COPIED) && !host && !external_data(c))
		wrong = "COPIED without a cluster";
	if (wrong)
		error(c, "L2 table at %#llx: entry %u is %#llx: %s", ULL(table),
		      i, ULL(entry), wrong);
	if (!host || external_data(c))
		return 0;
	ret = reference(c, host, qcow2_cluster_size(&c->hdr), times, USE_DATA);
	return ret < 0 ? ret : 0;
}

static u32 entry_words(const struct qcow2_checker *c)
{
	return extended(c) ? 2 : 1;
}

/* The L2 tables are read twice, and that is what takes the time. */
static void progress(const struct qcow2_checker *c, u64 done)
{
	if (c->chk->progress)
		c->chk->progress(c->chk->arg, done, 2 * c->clusters);
}

/* Every L2 table once, with the weight of the L1 entries that name it. */
static int all_data(struct qcow2_checker *c)
{
	u32 words = entry_words(c), n = qcow2_cluster_size(&c->hdr) / 8 / words;
	const __be64 *p = c->cluster;
	u64 k, times, table;
	u32 i;
	int ret = 0;

	for (k = 0; !ret && k < c->clusters; k++) {
		if (qcow2_counts_empty(&c->tables, k)) {
			k |= (1u << QCOW2_COUNTS_BITS) - 1;
			continue;
		}
		times = qcow2_counts_get(&c->tables, k);
		if (!times)
			continue;
		table = k << c->hdr.cluster_bits;
		progress(c, k);
		ret = qcow2_checker_read(c, table, c->cluster,
					 qcow2_cluster_size(&c->hdr));
		for (i = 0; !ret && i < n; i++)
			if (p[i * words] || p[i * words + words - 1])
				ret = l2_entry(c, table, i,
					       be64_to_cpu(p[i * words]),
					       words > 1 ?
					       be64_to_cpu(p[i * words + 1]) : 0,
					       times);
	}
	return ret;
}

/* ---- the comparison ---- */

static int compare_cluster(struct qcow2_checker *c, u64 i, u64 count)
{
	u64 refs = qcow2_counts_get(&c->refs, i);

	if (count || refs)
		c->chk->end = (i + 1) << c->hdr.cluster_bits;
	if (count != refs)
		found(c, count > refs,
		      "cluster %llu (at %#llx): refcount %llu, references %llu",
		      ULL(i), ULL(i << c->hdr.cluster_bits), ULL(count),
		      ULL(refs));
	return count == 1 ? qcow2_counts_set(&c->ones, i, 1) : 0;
}

/* The clusters that one refcount table entry stands for. */
static int compare_block(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	u64 k = i << qcow2_refblock_bits(&c->hdr), n;
	u64 end = min(c->clusters, k + BIT_ULL(qcow2_refblock_bits(&c->hdr)));
	bool sound = entry && !(entry & QCOW2_RT_RESERVED) &&
		!qcow2_in_cluster(&c->hdr, entry) &&
		qcow2_checker_inside(c, entry, qcow2_cluster_size(&c->hdr));
	u32 per_word = 64u >> c->hdr.refcount_order;
	const u64 *words = c->cluster;
	int ret = 0;

	if (k >= c->clusters)
		return 0;
	if (sound)
		ret = qcow2_checker_read(c, entry, c->cluster,
					 qcow2_cluster_size(&c->hdr));
	for (n = 0; !ret && k < end; k++, n++) {
		/* most of a block may be zeros: eight bytes at a time */
		if (qcow2_counts_empty(&c->refs, k) &&
		    (!sound || (n % per_word == 0 && k + per_word <= end &&
				!words[n / per_word]))) {
			k += sound ? per_word - 1 : 0;
			n += sound ? per_word - 1 : 0;
			continue;
		}
		ret = compare_cluster(c, k, sound ?
				      qcow2_refcount_get(c->cluster, n,
							 c->hdr.refcount_order) :
				      0);
	}
	return ret;
}

static int compare(struct qcow2_checker *c)
{
	u64 k = qcow2_reftable_entries(&c->hdr) <<
		qcow2_refblock_bits(&c->hdr);
	int ret;

	ret = qcow2_checker_each(c, c->hdr.reftable_offset,
				 qcow2_reftable_entries(&c->hdr), compare_block,
				 NULL);
	/* what the table does not reach */
	for (; !ret && k < c->clusters; k++) {
		if (qcow2_counts_empty(&c->refs, k))
			k |= (1u << QCOW2_COUNTS_BITS) - 1;
		else
			ret = compare_cluster(c, k, 0);
	}
	return ret;
}

/* ---- COPIED, in the active tables ---- */

static bool copied_wrong(struct qcow2_checker *c, u64 entry)
{
	u64 cluster = (entry & QCOW2_ENTRY_OFFSET) >> c->hdr.cluster_bits;

	if (!(entry & QCOW2_ENTRY_OFFSET) || cluster >= c->clusters)
		return false;
	return !!(entry & QCOW2_ENTRY_COPIED) != !!qcow2_counts_get(&c->ones, cluster);
}

static int copied_entry(struct qcow2_checker *c, u64 i, u64 entry, void *arg)
{
	u64 table = entry & QCOW2_ENTRY_OFFSET;
	u32 words = entry_words(c), n = qcow2_cluster_size(&c->hdr) / 8 / words;
	const __be64 *p = c->cluster;
	u32 j;
	int ret;

	if (copied_wrong(c, entry))
		error(c, "L1 table: entry %llu is %#llx: COPIED contradicts the refcount",
		      ULL(i), ULL(entry));
	if (!table || qcow2_in_cluster(&c->hdr, table) ||
	    table >= c->size || external_data(c))
		return 0;
	progress(c, c->clusters + c->clusters * i / c->hdr.l1_entries);
	ret = qcow2_checker_read(c, table, c->cluster, qcow2_cluster_size(&c->hdr));
	for (j = 0; !ret && j < n; j++) {
		u64 v = be64_to_cpu(p[j * words]);

		if (!(v & QCOW2_ENTRY_COMPRESSED) && copied_wrong(c, v))
			error(c,
			      "L2 table %llu (at %#llx): entry %u is %#llx: COPIED contradicts the refcount",
			      ULL(i), ULL(table), j, ULL(v));
	}
	return ret;
}

/* ---------------------------------------------------------------- */

static int read_header(struct qcow2_checker *c, struct qcow2_error *err)
{
	size_t need = QCOW2_HEADER_READ, len;
	void *buf;
	int ret;

	do {
		len = round_up(max_t(u64, min_t(u64, need, c->size), 1), 512ull);
		buf = port_alloc(len);
		if (!buf)
			return qcow2_err(err, -ENOMEM, "out of memory");
		ret = qcow2_checker_read(c, 0, buf, len);
		if (ret)
			qcow2_err(err, ret, "the header cannot be read: error %d",
				  ret);
		else
			ret = qcow2_header_parse(buf, min_t(u64, len, c->size),
						 c->size, &c->hdr, &need, err);
		port_free(buf);
	} while (ret == -ENODATA);
	return ret;
}

static int init(struct qcow2_checker *c)
{
	int ret;

	c->clusters = qcow2_clusters_for(&c->hdr, c->size);
	c->beyond = U64_MAX;
	c->window = port_alloc(WINDOW_BYTES);
	c->cluster = port_alloc(qcow2_cluster_size(&c->hdr));
	if (!c->window || !c->cluster)
		return -ENOMEM;
	ret = qcow2_counts_init(&c->refs, c->clusters, 3);
	ret = ret ?: qcow2_counts_init(&c->tables, c->clusters, 3);
	ret = ret ?: qcow2_counts_init(&c->uses, c->clusters, 3);
	return ret ?: qcow2_counts_init(&c->ones, c->clusters, 0);
}

/**
 * qcow2_checker_open() - read the header of an image and make the maps
 * @c: filled in, but for @ops, @be and @chk, which are set, and nothing else is;
 *	qcow2_checker_close() is right whatever the result
 * @err: the reason of a failure, in words
 *
 * Context: may sleep.
 * Return: 0; the errors of qcow2_header_parse(); the error of a read; -ENOMEM.
 */
int qcow2_checker_open(struct qcow2_checker *c, struct qcow2_error *err)
{
	int ret;

	c->size = c->ops->size(c->be);
	ret = read_header(c, err);
	if (ret)
		return ret;
	ret = init(c);
	return ret ? qcow2_err(err, ret, "out of memory") : 0;
}

/**
 * qcow2_checker_close() - the counterpart of qcow2_checker_open()
 * @c: may be opened again
 */
void qcow2_checker_close(struct qcow2_checker *c)
{
	qcow2_counts_destroy(&c->refs);
	qcow2_counts_destroy(&c->tables);
	qcow2_counts_destroy(&c->uses);
	qcow2_counts_destroy(&c->ones);
	port_free(c->window);
	port_free(c->cluster);
	c->window = NULL;
	c->cluster = NULL;
}

/**
 * qcow2_checker_count() - count every reference
 * @c: the check, just opened; what is wrong goes to @chk
 * @refcounts: count the refcount table and its blocks, too
 *
 * Context: may sleep.
 * Return: 0; the error of a read; -ENOMEM.
 */
int qcow2_checker_count(struct qcow2_checker *c, bool refcounts)
{
	int ret = all_metadata(c, refcounts);

	ret = ret ?: all_data(c);
	/* compressed data may end beyond the end of the file */
	if (!ret && qcow2_counts_get(&c->refs, c->clusters))
		c->clusters++;
	return ret;
}

/**
 * qcow2_check() - check an image
 * @ops: what holds it; only read, and @rw and @size are all that is called
 * @be: first argument of @ops
 * @chk: how to report, and the result
 * @err: the reason of a failure, in words
 *
 * Nobody may write to the image meanwhile.
 *
 * Context: may sleep.
 * Return: 0 if the check could be made, whatever it found; the errors of
 * qcow2_header_parse(); the error of a read; -ENOMEM.
 */
int qcow2_check(const struct qcow2_backend_ops *ops, void *be,
		struct qcow2_check *chk, struct qcow2_error *err)
{
	struct qcow2_checker c = { .ops = ops, .be = be, .chk = chk };
	int ret;

	chk->errors = 0;
	chk->leaks = 0;
	chk->end = 0;
	ret = qcow2_checker_open(&c, err);
	if (!ret) {
		ret = qcow2_checker_count(&c, true);
		ret = ret ?: compare(&c);
		ret = ret ?: qcow2_checker_each(&c, c.hdr.l1_offset,
						c.hdr.l1_entries, copied_entry,
						NULL);
		if (ret)
			qcow2_err(err, ret,
				  "the check could not be finished: error %d",
				  ret);
	}
	qcow2_checker_close(&c);
	return ret;
}
