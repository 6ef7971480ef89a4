/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The qcow2 format: what is on the disk, what it decodes to, and the rules that
 * a value must pass before anything else sees it. "Specification" below is
 * docs/interop/qcow2.rst of QEMU; limits that it does not state are QEMU's.
 *
 * Raw (big-endian) values do not travel past this file and the few places that
 * load or store a table entry through the functions here.
 */
#ifndef QCOW2_FORMAT_H
#define QCOW2_FORMAT_H

#include "port.h"

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */
#define QCOW2_V2_HEADER_SIZE 72
#define QCOW2_V3_HEADER_SIZE 104
#define QCOW2_HEADER_READ 65536u /* what one read at attach fetches */

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MIN_EXTL2_CLUSTER_BITS 14
#define QCOW2_MAX_REFCOUNT_ORDER 6
#define QCOW2_MAX_L1_BYTES (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define QCOW2_MAX_BACKING_NAME 1023
#define QCOW2_MAX_SNAPSHOTS 65536
#define QCOW2_MAX_SNAPSHOT_EXTRA 1024u
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES (1024ull * QCOW2_MAX_SNAPSHOTS)
#define QCOW2_MAX_BITMAPS 65535
#define QCOW2_MAX_BITMAP_DIR_BYTES (1024ull * QCOW2_MAX_BITMAPS)
#define QCOW2_MAX_HOST_OFFSET (BIT_ULL(56) - 1)

/* incompatible_features */
#define QCOW2_INCOMPAT_DIRTY BIT_ULL(0)
#define QCOW2_INCOMPAT_CORRUPT BIT_ULL(1)
#define QCOW2_INCOMPAT_DATA_FILE BIT_ULL(2)
#define QCOW2_INCOMPAT_COMPRESSION BIT_ULL(3)
#define QCOW2_INCOMPAT_EXTL2 BIT_ULL(4)
#define QCOW2_INCOMPAT_MASK 0x1full

/* compatible_features */
#define QCOW2_COMPAT_LAZY_REFCOUNTS BIT_ULL(0)

/* autoclear_features */
#define QCOW2_AUTOCLEAR_BITMAPS BIT_ULL(0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW BIT_ULL(1)

enum qcow2_crypt {
	QCOW2_CRYPT_NONE = 0,
	QCOW2_CRYPT_AES = 1,
	QCOW2_CRYPT_LUKS = 2,
};

enum qcow2_compression {
	QCOW2_COMPRESSION_ZLIB = 0,
	QCOW2_COMPRESSION_ZSTD = 1,
};

/* header extensions */
#define QCOW2_EXT_END 0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_CRYPTO 0x0537be77u
#define QCOW2_EXT_DATA_FILE 0x44415441u

/* table entries */
#define QCOW2_ENTRY_COPIED BIT_ULL(63)
#define QCOW2_ENTRY_COMPRESSED BIT_ULL(62)
#define QCOW2_ENTRY_ZERO BIT_ULL(0)
#define QCOW2_ENTRY_OFFSET 0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull
#define QCOW2_RT_RESERVED 0x00000000000001ffull
#define QCOW2_SUBCLUSTERS 32 /* of a cluster with extended L2 entries */

/* The header as it lies on the disk. */
struct qcow2_header_disk {
	__be32 magic;
	__be32 version;
	__be64 backing_file_offset;
	__be32 backing_file_size;
	__be32 cluster_bits;
	__be64 size;
	__be32 crypt_method;
	__be32 l1_size;
	__be64 l1_table_offset;
	__be64 refcount_table_offset;
	__be32 refcount_table_clusters;
	__be32 nb_snapshots;
	__be64 snapshots_offset;
	/* version 3 from here */
	__be64 incompatible_features;
	__be64 compatible_features;
	__be64 autoclear_features;
	__be32 refcount_order;
	__be32 header_length;
	u8 compression_type;
	u8 padding[7];
} __packed;

static_assert(sizeof(struct qcow2_header_disk) == 112, "header layout");

/* An entry of the snapshot table; extra data, id and name follow. */
struct qcow2_snapshot_disk {
	__be64 l1_offset;
	__be32 l1_size;
	__be16 id_len;
	__be16 name_len;
	u8 dates[20];
	__be32 extra_len;
} __packed;

static_assert(sizeof(struct qcow2_snapshot_disk) == 40, "snapshot layout");

/* An entry of the bitmap directory; extra data and name follow. */
struct qcow2_bitmap_disk {
	__be64 table_offset;
	__be32 table_size;
	__be32 flags;
	u8 type;
	u8 granularity_bits;
	__be16 name_len;
	__be32 extra_len;
} __packed;

static_assert(sizeof(struct qcow2_bitmap_disk) == 24, "bitmap layout");

#define QCOW2_FEATURE_NAME_LEN 46

/* One entry of the feature name table, as it lies on the disk. */
struct qcow2_feature_name {
	u8 type; /* 0 incompatible, 1 compatible, 2 autoclear */
	u8 bit;
	char name[QCOW2_FEATURE_NAME_LEN];
} __packed;

static_assert(sizeof(struct qcow2_feature_name) == 48, "feature name layout");

/**
 * struct qcow2_error - what went wrong, in words for the user
 * @msg: one line without a newline: the place, the value, the rule
 */
struct qcow2_error {
	char msg[192];
};

/* A string inside the header cluster, by place; len 0 where there is none. */
struct qcow2_header_string {
	u32 offset;
	u32 len;
};

/**
 * struct qcow2_header - the decoded and checked header
 *
 * Offsets and sizes are in bytes unless the name says entries or clusters. The
 * geometry follows from cluster_bits and refcount_order: see geometry.h.
 *
 * @version: 2 or 3
 * @cluster_bits: log2 of the cluster size
 * @size: size of the virtual disk
 * @crypt_method: how guest data is encrypted
 * @l1_entries: length of the L1 table
 * @l1_offset: host offset of the L1 table
 * @reftable_offset: host offset of the refcount table
 * @reftable_clusters: length of the refcount table
 * @nb_snapshots: number of internal snapshots
 * @snapshots_offset: host offset of the snapshot table
 * @incompatible: QCOW2_INCOMPAT_ bits, 0 in version 2
 * @compatible: QCOW2_COMPAT_ bits, 0 in version 2
 * @autoclear: QCOW2_AUTOCLEAR_ bits, 0 in version 2
 * @refcount_order: log2 of the width of a refcount in bits
 * @header_length: length of the header without its extensions
 * @compression: how compressed clusters are compressed
 * @backing_file: name of the backing file
 * @backing_format: name of its format
 * @data_file: name of the external data file
 * @nb_bitmaps: number of persistent bitmaps, 0 if they are out of date
 * @bitmap_dir_offset: host offset of the bitmap directory
 * @bitmap_dir_size: length of the bitmap directory
 * @crypto_offset: host offset of the LUKS header
 * @crypto_length: length of the LUKS header, 0 if there is none
 */
struct qcow2_header {
	u32 version;
	u32 cluster_bits;
	u64 size;
	enum qcow2_crypt crypt_method;
	u32 l1_entries;
	u64 l1_offset;
	u64 reftable_offset;
	u32 reftable_clusters;
	u32 nb_snapshots;
	u64 snapshots_offset;
	u64 incompatible;
	u64 compatible;
	u64 autoclear;
	u32 refcount_order;
	u32 header_length;
	enum qcow2_compression compression;

	struct qcow2_header_string backing_file;
	struct qcow2_header_string backing_format;
	struct qcow2_header_string data_file;
	u32 nb_bitmaps;
	u64 bitmap_dir_offset;
	u64 bitmap_dir_size;
	u64 crypto_offset;
	u64 crypto_length;
};

enum qcow2_kind {
	QCOW2_UNALLOCATED,	/* reads as the backing file or zeros */
	QCOW2_ZERO,		/* reads as zeros, no host cluster */
	QCOW2_ZERO_ALLOC,	/* reads as zeros, host cluster reserved */
	QCOW2_DATA,
	QCOW2_COMPRESSED,
};

/**
 * struct qcow2_entry - one decoded L2 entry
 * @kind: what a read of the cluster means; with subclusters see
 *	qcow2_sub_kind(), this says only COMPRESSED, or DATA if a host cluster is
 *	there, or UNALLOCATED
 * @copied: the host cluster's refcount is exactly one
 * @allocated: there is a host cluster, or compressed data
 * @host: host offset in bytes; of a compressed cluster, of its first byte
 * @csize: bytes available to a compressed cluster, else 0
 * @alloc: extended: a bit for each subcluster whose data is in the host cluster
 * @zero: extended: a bit for each subcluster that reads as zeros
 */
struct qcow2_entry {
	enum qcow2_kind kind;
	bool copied;
	bool allocated;
	u64 host;
	u32 csize;
	u32 alloc;
	u32 zero;
};

int __printf(3, 4) qcow2_err(struct qcow2_error *err, int code,
			     const char *fmt, ...);

int qcow2_header_parse(const void *buf, size_t len, u64 file_size,
		       struct qcow2_header *h, size_t *need,
		       struct qcow2_error *err);

/* The table entries; each returns -EUCLEAN for a value no writer may store. */
int qcow2_l1_decode(const struct qcow2_header *h, __be64 raw, u64 *table,
		    bool *copied);
int qcow2_l2_decode(const struct qcow2_header *h, __be64 raw, __be64 bitmap,
		    struct qcow2_entry *e);
enum qcow2_kind qcow2_sub_kind(const struct qcow2_header *h,
			       const struct qcow2_entry *e, u32 sub);
int qcow2_rt_decode(const struct qcow2_header *h, __be64 raw, u64 *block);
__be64 qcow2_entry_encode(u64 host, bool copied);
__be64 qcow2_bitmap_encode(u32 alloc, u32 zero);

/* Refcounts inside a refcount block, whatever their width. */
u64 qcow2_refcount_get(const void *block, u32 index, u32 order);
void qcow2_refcount_set(void *block, u32 index, u32 order, u64 value);

#endif /* QCOW2_FORMAT_H */
