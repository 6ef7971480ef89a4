// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the decoding and the checking of what is on the disk: the
 * header with its extensions, table entries, refcounts. It does no I/O, takes
 * no locks and keeps no state.
 *
 * Three errors, three meanings: -EINVAL, this is not a qcow2 image; -EOPNOTSUPP,
 * a feature that we lack, named; -EUCLEAN, the image contradicts itself or the
 * specification.
 */
#include "format.h"
#include "geometry.h"

#ifdef __KERNEL__
#include <linux/stdarg.h>
#else
#include <stdarg.h>
#endif

/**
 * qcow2_err() - record why something failed
 * @err: where to; may be NULL
 * @code: negative errno
 * @fmt: printf format
 *
 * Return: @code, so that a check is one line.
 */
int qcow2_err(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return code;
}

static u32 get_be32(const u8 *p)
{
	return (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static u64 get_be64(const u8 *p)
{
	return (u64)get_be32(p) << 32 | get_be32(p + 4);
}

/*
 * A table at @offset of @bytes lies in the file. The last cluster of a file may
 * be cut short (the rest reads as zeros), a table that begins past the end, or
 * ends past the last cluster, may not.
 */
static int check_table(const struct qcow2_header *h, const char *name,
		       u64 offset, u64 bytes, u64 file_size,
		       struct qcow2_error *err)
{
	u64 end, limit;

	if (qcow2_in_cluster(h, offset))
		return qcow2_err(err, -EUCLEAN,
				 "header: %s offset %#llx is not a multiple of the cluster size %u",
				 name, (unsigned long long)offset,
				 qcow2_cluster_size(h));
	if (check_add_overflow(offset, bytes, &end) || end > S64_MAX)
		return qcow2_err(err, -EUCLEAN,
				 "header: %s at %#llx of %llu bytes ends past the largest file",
				 name, (unsigned long long)offset,
				 (unsigned long long)bytes);
	if (!bytes)
		return 0;
	if (!offset)
		return qcow2_err(err, -EUCLEAN,
				 "header: %s offset is 0, the header's own place", name);
	limit = file_size + (-file_size & (qcow2_cluster_size(h) - 1));
	if (offset >= file_size || end > limit)
		return qcow2_err(err, -EUCLEAN,
				 "header: %s at %#llx of %llu bytes lies beyond the end of the file (%llu bytes): is the image truncated?",
				 name, (unsigned long long)offset,
				 (unsigned long long)bytes,
				 (unsigned long long)file_size);
	return 0;
}

/* Version 3 fields, or their defaults in version 2. */
static int parse_v3(const struct qcow2_header_disk *d, size_t len,
		    struct qcow2_header *h, struct qcow2_error *err)
{
	u32 i;

	if (h->version == 2) {
		h->refcount_order = 4;
		h->header_length = QCOW2_V2_HEADER_SIZE;
		return 0;
	}
	if (len < QCOW2_V3_HEADER_SIZE)
		return qcow2_err(err, -EUCLEAN,
				 "header: the file ends after %zu bytes, inside the header",
				 len);
	h->incompatible = be64_to_cpu(d->incompatible_features);
	h->compatible = be64_to_cpu(d->compatible_features);
	h->autoclear = be64_to_cpu(d->autoclear_features);
	h->refcount_order = be32_to_cpu(d->refcount_order);
	h->header_length = be32_to_cpu(d->header_length);

	if (h->header_length < QCOW2_V3_HEADER_SIZE || h->header_length % 8 ||
	    h->header_length > qcow2_cluster_size(h))
		return qcow2_err(err, -EUCLEAN,
				 "header: header_length %u, must be a multiple of 8 from %u to the cluster size %u",
				 h->header_length, QCOW2_V3_HEADER_SIZE,
				 qcow2_cluster_size(h));
	if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return qcow2_err(err, -EUCLEAN,
				 "header: refcount_order %u, must be 0 to %u",
				 h->refcount_order, QCOW2_MAX_REFCOUNT_ORDER);
	if (h->header_length > QCOW2_V3_HEADER_SIZE) {
		if (len < sizeof(*d))
			return qcow2_err(err, -EUCLEAN,
					 "header: the file ends after %zu bytes, inside the header",
					 len);
		if (d->compression_type > QCOW2_COMPRESSION_ZSTD)
			return qcow2_err(err, -EOPNOTSUPP,
					 "compression type %u is not supported",
					 d->compression_type);
		h->compression = d->compression_type;
		for (i = 0; i < sizeof(d->padding); i++)
			if (d->padding[i])
				return qcow2_err(err, -EUCLEAN,
						 "header: reserved byte %u is %#x, must be 0",
						 105 + i, d->padding[i]);
	}
	return 0;
}

/* What the table of names in the image calls an incompatible bit. */
static void feature_name(const u8 *buf, struct qcow2_header_string names,
			 u32 bit, char *out, size_t size)
{
	u32 i;

	for (i = 0; i + sizeof(struct qcow2_feature_name) <= names.len;
	     i += sizeof(struct qcow2_feature_name)) {
		const struct qcow2_feature_name *f = (const void *)(buf + names.offset + i);

		if (f->type == 0 && f->bit == bit) {
			size_t n;

			for (n = 0; n < QCOW2_FEATURE_NAME_LEN && n + 1 < size; n++) {
				/* the name goes to a log: printable only */
				if (f->name[n] < 0x20 || f->name[n] > 0x7e)
					break;
				out[n] = f->name[n];
			}
			out[n] = 0;
			return;
		}
	}
	snprintf(out, size, "unnamed");
}

static int check_features(const struct qcow2_header *h, const u8 *buf,
			  struct qcow2_header_string names,
			  struct qcow2_error *err)
{
	u64 unknown = h->incompatible & ~QCOW2_INCOMPAT_MASK;
	bool declared = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;
	bool zlib = h->compression == QCOW2_COMPRESSION_ZLIB;
	char name[QCOW2_FEATURE_NAME_LEN + 1];

	if (unknown) {
		u32 bit = ilog2(unknown);

		feature_name(buf, names, bit, name, sizeof(name));
		return qcow2_err(err, -EOPNOTSUPP,
				 "incompatible feature bit %u (%s) is not supported",
				 bit, name);
	}
	if (declared == zlib)
		return qcow2_err(err, -EUCLEAN,
				 "header: compression type %u and incompatible bit 3 (%u) contradict each other",
				 h->compression, declared);
	if ((h->incompatible & QCOW2_INCOMPAT_EXTL2) &&
	    h->cluster_bits < QCOW2_MIN_EXTL2_CLUSTER_BITS)
		return qcow2_err(err, -EUCLEAN,
				 "header: extended L2 entries need cluster_bits of at least %u, not %u",
				 QCOW2_MIN_EXTL2_CLUSTER_BITS, h->cluster_bits);
	if (h->crypt_method == QCOW2_CRYPT_LUKS && !h->crypto_length)
		return qcow2_err(err, -EUCLEAN,
				 "header: LUKS encryption without its header extension");
	return 0;
}

static int parse_bitmaps(const u8 *data, u32 len, struct qcow2_header *h,
			 struct qcow2_error *err)
{
	if (len != 24)
		return qcow2_err(err, -EUCLEAN,
				 "bitmaps extension: length %u, must be 24", len);
	if (!(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0; /* stale: written by software that does not know bitmaps */
	h->nb_bitmaps = get_be32(data);
	h->bitmap_dir_size = get_be64(data + 8);
	h->bitmap_dir_offset = get_be64(data + 16);
	if (!h->nb_bitmaps || h->nb_bitmaps > QCOW2_MAX_BITMAPS)
		return qcow2_err(err, -EUCLEAN,
				 "bitmaps extension: %u bitmaps, must be 1 to %u",
				 h->nb_bitmaps, QCOW2_MAX_BITMAPS);
	if (get_be32(data + 4))
		return qcow2_err(err, -EUCLEAN,
				 "bitmaps extension: reserved field %#x, must be 0",
				 get_be32(data + 4));
	if (h->bitmap_dir_size > QCOW2_MAX_BITMAP_DIR_BYTES)
		return qcow2_err(err, -EUCLEAN,
				 "bitmaps extension: directory of %llu bytes, at most %llu",
				 (unsigned long long)h->bitmap_dir_size,
				 QCOW2_MAX_BITMAP_DIR_BYTES);
	return 0;
}

static int parse_extension(const u8 *buf, u32 type, u32 offset, u32 len,
			   struct qcow2_header *h,
			   struct qcow2_header_string *names,
			   struct qcow2_error *err)
{
	switch (type) {
	case QCOW2_EXT_BACKING_FORMAT:
		if (len >= 16)
			return qcow2_err(err, -EUCLEAN,
					 "backing format extension: name of %u bytes, at most 15",
					 len);
		h->backing_format = (struct qcow2_header_string){ offset, len };
		return 0;
	case QCOW2_EXT_FEATURE_NAMES:
		*names = (struct qcow2_header_string){ offset, len };
		return 0;
	case QCOW2_EXT_BITMAPS:
		return parse_bitmaps(buf + offset, len, h, err);
	case QCOW2_EXT_CRYPTO:
		if (h->crypt_method != QCOW2_CRYPT_LUKS)
			return qcow2_err(err, -EUCLEAN,
					 "encryption extension in an image whose crypt_method is %u",
					 h->crypt_method);
		if (len != 16)
			return qcow2_err(err, -EUCLEAN,
					 "encryption extension: length %u, must be 16",
					 len);
		h->crypto_offset = get_be64(buf + offset);
		h->crypto_length = get_be64(buf + offset + 8);
		return 0;
	case QCOW2_EXT_DATA_FILE:
		h->data_file = (struct qcow2_header_string){ offset, len };
		return 0;
	default:
		return 0; /* unknown: ignored, and preserved where it lies */
	}
}

/*
 * Walks the extensions from header_length to the end marker, the backing file
 * name or the end of the first cluster. Sets *need and returns -ENODATA where
 * the walk leaves the buffer before it leaves the file.
 */
static int parse_extensions(const u8 *buf, size_t len, u64 file_size,
			    struct qcow2_header *h,
			    struct qcow2_header_string *names, size_t *need,
			    struct qcow2_error *err)
{
	u32 end = h->backing_file.offset ?: qcow2_cluster_size(h);
	u32 pos = h->header_length;

	while (pos < end) {
		u32 type, n;
		int ret;

		if (end - pos < 8) {
			*need = end;
			type = len >= end && end - pos >= 4 ?
				get_be32(buf + pos) : QCOW2_EXT_END;
			if (type == QCOW2_EXT_END)
				return 0;
			return qcow2_err(err, -EUCLEAN,
					 "header extension at %u: cut off at %u",
					 pos, end);
		}
		if (pos + 8 > len) {
			if (len >= file_size)
				return 0; /* past the end reads as zeros: the end marker */
			*need = pos + 8;
			return -ENODATA;
		}
		type = get_be32(buf + pos);
		n = get_be32(buf + pos + 4);
		if (type == QCOW2_EXT_END)
			return 0;
		pos += 8;
		if (n > end - pos)
			return qcow2_err(err, -EUCLEAN,
					 "header extension %#x at %u: %u bytes do not fit before %u",
					 type, pos - 8, n, end);
		if (pos + n > len) {
			if (len >= file_size)
				return qcow2_err(err, -EUCLEAN,
						 "header extension %#x at %u: the file ends inside it",
						 type, pos - 8);
			*need = pos + n;
			return -ENODATA;
		}
		ret = parse_extension(buf, type, pos, n, h, names, err);
		if (ret)
			return ret;
		pos += round_up(n, 8u);
	}
	return 0;
}

static int check_tables(const struct qcow2_header *h, u64 file_size,
			struct qcow2_error *err)
{
	u64 l1_need = qcow2_size_to_l1(h, h->size);
	int ret;

	if (h->size > S64_MAX)
		return qcow2_err(err, -EUCLEAN,
				 "header: virtual size %llu is larger than the largest disk",
				 (unsigned long long)h->size);
	if ((u64)h->l1_entries * 8 > QCOW2_MAX_L1_BYTES)
		return qcow2_err(err, -EUCLEAN,
				 "header: L1 table of %u entries, at most %u",
				 h->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	if (h->l1_entries < l1_need)
		return qcow2_err(err, -EUCLEAN,
				 "header: L1 table of %u entries is too small for %llu bytes, which need %llu",
				 h->l1_entries, (unsigned long long)h->size,
				 (unsigned long long)l1_need);
	ret = check_table(h, "L1 table", h->l1_offset,
			  (u64)h->l1_entries * 8, file_size, err);
	if (ret)
		return ret;

	if (!h->reftable_clusters ||
	    (u64)h->reftable_clusters << h->cluster_bits >
	    QCOW2_MAX_REFTABLE_BYTES)
		return qcow2_err(err, -EUCLEAN,
				 "header: refcount table of %u clusters, must be 1 to %u",
				 h->reftable_clusters,
				 QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits);
	ret = check_table(h, "refcount table", h->reftable_offset,
			  (u64)h->reftable_clusters << h->cluster_bits,
			  file_size, err);
	if (ret)
		return ret;

	if (h->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
		return qcow2_err(err, -EUCLEAN,
				 "header: %u snapshots, at most %u",
				 h->nb_snapshots, QCOW2_MAX_SNAPSHOTS);
	/* an entry has at least 40 bytes */
	ret = check_table(h, "snapshot table", h->snapshots_offset,
			  (u64)h->nb_snapshots * 40, file_size, err);
	if (ret)
		return ret;
	ret = check_table(h, "bitmap directory", h->bitmap_dir_offset,
			  h->bitmap_dir_size, file_size, err);
	if (ret)
		return ret;
	return check_table(h, "LUKS header", h->crypto_offset,
			   h->crypto_length, file_size, err);
}

/* Where the name of the backing file is; what it says is the caller's. */
static int parse_backing(const struct qcow2_header_disk *d, size_t len,
			 u64 file_size, struct qcow2_header *h, size_t *need,
			 struct qcow2_error *err)
{
	u64 offset = be64_to_cpu(d->backing_file_offset);
	u32 size = be32_to_cpu(d->backing_file_size);

	if (!offset)
		return 0;
	if (offset > qcow2_cluster_size(h) ||
	    size > min_t(u64, QCOW2_MAX_BACKING_NAME,
			 qcow2_cluster_size(h) - offset))
		return qcow2_err(err, -EUCLEAN,
				 "header: backing file name at %#llx of %u bytes does not fit the first cluster or is longer than %u",
				 (unsigned long long)offset, size,
				 QCOW2_MAX_BACKING_NAME);
	h->backing_file.offset = offset;
	h->backing_file.len = size;
	if (offset + size > len && len < file_size) {
		*need = offset + size;
		return -ENODATA;
	}
	if (offset + size > file_size)
		return qcow2_err(err, -EUCLEAN,
				 "header: the file ends inside the backing file name");
	return 0;
}

/**
 * qcow2_header_parse() - decode and check a header and its extensions
 * @buf: the first bytes of the file
 * @len: how many, in bytes; all of the file if it is smaller than @need
 * @file_size: size of the image file or device in bytes
 * @h: filled in on success
 * @need: bytes that must be given for the parse to succeed, set with -ENODATA
 * @err: the reason of a failure, in words
 *
 * Context: any; touches nothing but its arguments.
 * Return: 0; -EINVAL not a qcow2 image; -EOPNOTSUPP a feature that no part of
 * the project knows; -EUCLEAN a header that contradicts itself; -ENODATA call
 * again with the first @need bytes.
 */
int qcow2_header_parse(const void *buf, size_t len, u64 file_size,
		       struct qcow2_header *h, size_t *need,
		       struct qcow2_error *err)
{
	const struct qcow2_header_disk *d = buf;
	struct qcow2_header_string names = { 0, 0 };
	u32 crypt;
	int ret;

	memset(h, 0, sizeof(*h));
	if (len < 4 || be32_to_cpu(d->magic) != QCOW2_MAGIC)
		return qcow2_err(err, -EINVAL,
				 "not a qcow2 image: it does not begin with the bytes 51 46 49 fb");
	if (len < QCOW2_V2_HEADER_SIZE)
		return qcow2_err(err, -EUCLEAN,
				 "header: the file ends after %zu bytes, inside the header",
				 len);
	h->version = be32_to_cpu(d->version);
	if (h->version != 2 && h->version != 3)
		return qcow2_err(err, -EOPNOTSUPP,
				 "qcow2 version %u is not supported, 2 and 3 are",
				 h->version);
	h->cluster_bits = be32_to_cpu(d->cluster_bits);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return qcow2_err(err, -EUCLEAN,
				 "header: cluster_bits %u, must be %u to %u",
				 h->cluster_bits, QCOW2_MIN_CLUSTER_BITS,
				 QCOW2_MAX_CLUSTER_BITS);
	ret = parse_v3(d, len, h, err);
	if (ret)
		return ret;

	ret = parse_backing(d, len, file_size, h, need, err);
	if (ret)
		return ret;

	crypt = be32_to_cpu(d->crypt_method);
	if (crypt > QCOW2_CRYPT_LUKS)
		return qcow2_err(err, -EOPNOTSUPP,
				 "encryption method %u is not supported", crypt);
	h->crypt_method = crypt;
	h->size = be64_to_cpu(d->size);
	h->l1_entries = be32_to_cpu(d->l1_size);
	h->l1_offset = be64_to_cpu(d->l1_table_offset);
	h->reftable_offset = be64_to_cpu(d->refcount_table_offset);
	h->reftable_clusters = be32_to_cpu(d->refcount_table_clusters);
	h->nb_snapshots = be32_to_cpu(d->nb_snapshots);
	h->snapshots_offset = be64_to_cpu(d->snapshots_offset);

	ret = parse_extensions(buf, len, file_size, h, &names, need, err);
	if (ret)
		return ret;
	ret = check_features(h, buf, names, err);
	if (ret)
		return ret;
	return check_tables(h, file_size, err);
}

/**
 * qcow2_l1_decode() - decode one L1 entry
 * @h: the image's header
 * @raw: the entry as on the disk
 * @table: host offset of the L2 table, 0 where there is none
 * @copied: the L2 table's refcount is exactly one
 *
 * Return: 0, or -EUCLEAN for reserved bits or an unaligned offset.
 */
int qcow2_l1_decode(const struct qcow2_header *h, __be64 raw, u64 *table,
		    bool *copied)
{
	u64 v = be64_to_cpu(raw);

	*table = v & QCOW2_ENTRY_OFFSET;
	*copied = v & QCOW2_ENTRY_COPIED;
	if ((v & QCOW2_L1_RESERVED) || qcow2_in_cluster(h, *table))
		return -EUCLEAN;
	/* COPIED without a table would name the header as one */
	return *copied && !*table ? -EUCLEAN : 0;
}

static int decode_compressed(const struct qcow2_header *h, u64 v,
			     struct qcow2_entry *e)
{
	u32 shift = 62 - (h->cluster_bits - 8);
	u64 sectors = ((v & ~(QCOW2_ENTRY_COPIED | QCOW2_ENTRY_COMPRESSED)) >>
		       shift) + 1;

	e->kind = QCOW2_COMPRESSED;
	e->allocated = true;
	e->host = v & (BIT_ULL(shift) - 1);
	e->csize = sectors * 512 - (e->host & 511);
	if ((v & QCOW2_ENTRY_COPIED) || e->host > QCOW2_MAX_HOST_OFFSET ||
	    e->host < qcow2_cluster_size(h) ||
	    (h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return -EUCLEAN;
	return 0;
}

/* The second half of an extended entry, which has no zero flag in the first. */
static int decode_bitmap(const struct qcow2_header *h, u64 v, u64 bitmap,
			 struct qcow2_entry *e)
{
	e->alloc = bitmap;
	e->zero = bitmap >> 32;
	if (e->kind == QCOW2_COMPRESSED)
		return bitmap ? -EUCLEAN : 0;
	e->kind = e->allocated ? QCOW2_DATA : QCOW2_UNALLOCATED;
	if ((v & QCOW2_ENTRY_ZERO) || (e->alloc & e->zero) ||
	    (e->alloc && !e->allocated))
		return -EUCLEAN;
	return 0;
}

/**
 * qcow2_l2_decode() - decode one L2 entry
 * @h: the image's header
 * @raw: the entry as on the disk
 * @bitmap: its second half with extended L2 entries, else 0
 * @e: filled in; of no use on error
 *
 * With an external data file offset 0 is a place like any other: COPIED tells
 * whether there is a cluster.
 *
 * Return: 0, or -EUCLEAN for reserved bits, an unaligned offset, an allocated
 * cluster at offset 0, subclusters that contradict themselves.
 */
int qcow2_l2_decode(const struct qcow2_header *h, __be64 raw, __be64 bitmap,
		    struct qcow2_entry *e)
{
	bool external = h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	u64 v = be64_to_cpu(raw);
	int ret;

	memset(e, 0, sizeof(*e));
	if (v & QCOW2_ENTRY_COMPRESSED) {
		ret = decode_compressed(h, v, e);
		return ret ?: decode_bitmap(h, v, be64_to_cpu(bitmap), e);
	}
	e->host = v & QCOW2_ENTRY_OFFSET;
	e->copied = v & QCOW2_ENTRY_COPIED;
	e->allocated = e->host || (external && e->copied);
	if (v & QCOW2_ENTRY_ZERO)
		e->kind = e->allocated ? QCOW2_ZERO_ALLOC : QCOW2_ZERO;
	else
		e->kind = e->allocated ? QCOW2_DATA : QCOW2_UNALLOCATED;
	if ((v & QCOW2_L2_RESERVED) || qcow2_in_cluster(h, e->host))
		return -EUCLEAN;
	if ((v & QCOW2_ENTRY_ZERO) && h->version < 3)
		return -EUCLEAN;
	if (e->copied && !e->allocated)
		return -EUCLEAN;
	if (!qcow2_extended(h))
		return 0;
	return decode_bitmap(h, v, be64_to_cpu(bitmap), e);
}

/**
 * qcow2_sub_kind() - what a read of a subcluster means
 * @h: the image's header
 * @e: a decoded entry
 * @sub: which subcluster; without them, 0
 */
enum qcow2_kind qcow2_sub_kind(const struct qcow2_header *h,
			       const struct qcow2_entry *e, u32 sub)
{
	if (!qcow2_extended(h) || e->kind == QCOW2_COMPRESSED)
		return e->kind;
	if (e->alloc & BIT_ULL(sub))
		return QCOW2_DATA;
	if (e->zero & BIT_ULL(sub))
		return e->allocated ? QCOW2_ZERO_ALLOC : QCOW2_ZERO;
	return QCOW2_UNALLOCATED;
}

/**
 * qcow2_rt_decode() - decode one refcount table entry
 * @h: the image's header
 * @raw: the entry as on the disk
 * @block: host offset of the refcount block, 0 where there is none
 *
 * Return: 0, or -EUCLEAN.
 */
int qcow2_rt_decode(const struct qcow2_header *h, __be64 raw, u64 *block)
{
	u64 v = be64_to_cpu(raw);

	*block = v;
	if ((v & QCOW2_RT_RESERVED) || qcow2_in_cluster(h, v) ||
	    v > QCOW2_MAX_HOST_OFFSET)
		return -EUCLEAN;
	return 0;
}

/**
 * qcow2_entry_encode() - the L1, L2 or refcount table entry of a host cluster
 * @host: host offset in bytes, cluster aligned
 * @copied: set the COPIED flag (never in the refcount table)
 *
 * Return: the entry as it lies on the disk.
 */
__be64 qcow2_entry_encode(u64 host, bool copied)
{
	return cpu_to_be64(host | (copied ? QCOW2_ENTRY_COPIED : 0));
}

/**
 * qcow2_bitmap_encode() - the second half of an extended L2 entry
 * @alloc: a bit for each subcluster whose data is in the host cluster
 * @zero: a bit for each that reads as zeros; none that is in @alloc
 *
 * Return: the bitmap as it lies on the disk.
 */
__be64 qcow2_bitmap_encode(u32 alloc, u32 zero)
{
	return cpu_to_be64(alloc | (u64)zero << 32);
}

/**
 * qcow2_refcount_get() - read a refcount
 * @block: refcounts of one block or of an aligned part of one
 * @index: which, counted from the start of @block
 * @order: log2 of the width in bits, 0 to 6
 *
 * Return: the refcount. Widths below a byte fill it from the low bit up.
 */
u64 qcow2_refcount_get(const void *block, u32 index, u32 order)
{
	u32 bit;

	switch (order) {
	case 3:
		return ((const u8 *)block)[index];
	case 4:
		return be16_to_cpu(((const __be16 *)block)[index]);
	case 5:
		return be32_to_cpu(((const __be32 *)block)[index]);
	case 6:
		return be64_to_cpu(((const __be64 *)block)[index]);
	default:
		bit = index << order;
		return (((const u8 *)block)[bit / 8] >> (bit % 8)) &
			((1u << (1u << order)) - 1);
	}
}

/**
 * qcow2_refcount_set() - store a refcount
 * @block: refcounts of one block or of an aligned part of one
 * @index: which, counted from the start of @block
 * @order: log2 of the width in bits, 0 to 6
 * @value: at most what the width holds; the caller has checked
 */
void qcow2_refcount_set(void *block, u32 index, u32 order, u64 value)
{
	u32 bit, mask;
	u8 *p;

	switch (order) {
	case 3:
		((u8 *)block)[index] = value;
		break;
	case 4:
		((__be16 *)block)[index] = cpu_to_be16(value);
		break;
	case 5:
		((__be32 *)block)[index] = cpu_to_be32(value);
		break;
	case 6:
		((__be64 *)block)[index] = cpu_to_be64(value);
		break;
	default:
		bit = index << order;
		mask = (1u << (1u << order)) - 1;
		p = (u8 *)block + bit / 8;
		*p = (*p & ~(mask << (bit % 8))) | (value << (bit % 8));
	}
}
