// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the making of an image: what may be asked for, where everything
 * is in a new image, and the order in which it is written.
 *
 * The image is one run of clusters, each with the refcount 1:
 *
 *	header, refcount table, refcount blocks, L1 table, LUKS header, L2 tables,
 *	data
 *
 * The LUKS header is there if the image is encrypted, and the last two if clusters
 * are allocated beforehand, the data not if it is in another file. All that is
 * written goes through one buffer.
 *
 * A crash leaves no image: the first sector, which has the magic, is the last to
 * be written, when all else is durable. On a device what was there before is made
 * unreadable, durably, before anything else is written.
 */
#include "create.h"

#define BUFFER_BYTES (1u << 20)
#define HEADER_BYTES 4096u	/* more than any header that is made here */
#define CRYPTO_EXT_BYTES 24u	/* of its header extension */
#define SECTOR 512u
#define ZERO_BYTES (64u << 20)	/* at once: how often @progress is called */

/**
 * struct creator - an image in the making
 * @ops: what holds it
 * @be: first argument of @ops
 * @p: what is asked for
 * @hdr: its header
 * @refblocks: refcount blocks
 * @l1: clusters of the L1 table
 * @l2: L2 tables
 * @mapped: guest clusters that have a host cluster
 * @refblock_offset: host offset of the first refcount block
 * @crypto: clusters of the LUKS header
 * @l2_offset: of the first L2 table
 * @data_offset: of guest offset 0
 * @end: one past the last cluster
 * @clusters: of the whole image
 * @data_bytes: that are written, or zeroed, in the data
 * @header: the beginning of the first cluster
 * @header_len: its length without what follows and is zeros
 * @buf: BUFFER_BYTES
 * @done: bytes written
 * @total: bytes to write
 */
struct creator {
	const struct qcow2_backend_ops *ops;
	void *be;
	const struct qcow2_create *p;
	struct qcow2_header hdr;
	u64 refblocks, l1, crypto, l2, mapped;
	u64 refblock_offset, l2_offset, data_offset, end;
	u64 clusters;
	u64 data_bytes;
	u8 *header;
	u32 header_len;
	void *buf;
	u64 done, total;
};

/* ---- what may be asked for ---- */

static int check_geometry(const struct qcow2_create *p, struct qcow2_error *err)
{
	if (p->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    p->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return qcow2_err(err, -EINVAL,
				 "the cluster size must be a power of two from 512 bytes to 2 MiB");
	if (p->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return qcow2_err(err, -EINVAL,
				 "refcounts have 1, 2, 4, 8, 16, 32 or 64 bits");
	if (p->extended_l2 && p->cluster_bits < QCOW2_MIN_EXTL2_CLUSTER_BITS)
		return qcow2_err(err, -EINVAL,
				 "extended L2 entries need clusters of 16 KiB or more, not %u bytes",
				 1u << p->cluster_bits);
	return 0;
}

static int check_name(const char *what, const char *name, u32 max,
		      struct qcow2_error *err)
{
	if (!name)
		return 0;
	if (!*name)
		return qcow2_err(err, -EINVAL, "the name of the %s is empty",
				 what);
	if (strlen(name) > max)
		return qcow2_err(err, -EINVAL,
				 "the name of the %s has %zu bytes, at most %u",
				 what, strlen(name), max);
	return 0;
}

static int check_files(const struct qcow2_create *p, struct qcow2_error *err)
{
	int ret = check_name("backing file", p->backing_file,
			     QCOW2_MAX_BACKING_NAME, err);

	ret = ret ?: check_name("data file", p->data_file, QCOW2_MAX_DATA_NAME,
				err);
	if (ret)
		return ret;
	if (p->backing_file && !p->backing_format)
		return qcow2_err(err, -EINVAL,
				 "the format of the backing file is not given");
	if (p->backing_file && p->prealloc != QCOW2_PREALLOC_OFF &&
	    !p->extended_l2)
		return qcow2_err(err, -EINVAL,
				 "preallocated clusters would hide the backing file, unless the image has extended L2 entries");
	if (p->data_file_raw && !p->data_file)
		return qcow2_err(err, -EINVAL,
				 "no data file is given that could be raw");
	if (p->data_file_raw && p->backing_file)
		return qcow2_err(err, -EINVAL,
				 "a raw data file has all data in it: there can be no backing file");
	return 0;
}

static int check_crypto(const struct qcow2_create *p, struct qcow2_error *err)
{
	if (!p->crypto)
		return 0;
	if (p->prealloc != QCOW2_PREALLOC_OFF)
		return qcow2_err(err, -EINVAL,
				 "preallocated clusters would be decrypted and read as garbage: an encrypted image has none");
	if (p->data_file_raw)
		return qcow2_err(err, -EINVAL,
				 "the data file of an encrypted image is encrypted: it cannot be raw");
	return 0;
}

/* ---- where everything is ---- */

static void decide_header(struct creator *c)
{
	const struct qcow2_create *p = c->p;
	struct qcow2_header *h = &c->hdr;

	h->version = 3;
	h->cluster_bits = p->cluster_bits;
	h->refcount_order = p->refcount_order;
	h->size = p->size;
	h->header_length = sizeof(struct qcow2_header_disk);
	h->compression = p->compression;
	if (p->compression != QCOW2_COMPRESSION_ZLIB)
		h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	if (p->extended_l2)
		h->incompatible |= QCOW2_INCOMPAT_EXTL2;
	if (p->data_file)
		h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
	if (p->data_file_raw)
		h->autoclear |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	if (p->lazy_refcounts)
		h->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (p->crypto) {
		h->crypt_method = QCOW2_CRYPT_LUKS;
		h->crypto_length = p->crypto_length;
	}
}

static int too_large(const struct creator *c, struct qcow2_error *err)
{
	return qcow2_err(err, -EFBIG,
			 "%llu bytes are too many for clusters of %u bytes: larger clusters allow more",
			 (unsigned long long)c->p->size,
			 qcow2_cluster_size(&c->hdr));
}

/*
 * Refcount blocks count themselves and the refcount table, which has an entry for
 * each: more of them until no more are needed.
 */
static void decide_refcounts(struct creator *c, u64 counted)
{
	struct qcow2_header *h = &c->hdr;
	u64 per_block = BIT_ULL(qcow2_refblock_bits(h));
	u64 before;

	do {
		before = c->clusters;
		c->clusters = counted + h->reftable_clusters + c->refblocks;
		c->refblocks = DIV_ROUND_UP_ULL(c->clusters, per_block);
		h->reftable_clusters = qcow2_clusters_for(h, c->refblocks * 8);
	} while (c->clusters != before);
}

static int decide_layout(struct creator *c, struct qcow2_error *err)
{
	bool external = c->p->data_file;
	struct qcow2_header *h = &c->hdr;
	u64 entries = qcow2_size_to_l1(h, h->size);

	if (entries > QCOW2_MAX_L1_BYTES / 8)
		return too_large(c, err);
	if (external && h->size > QCOW2_MAX_HOST_OFFSET)
		return qcow2_err(err, -EFBIG,
				 "%llu bytes are too many: a data file has at most 64 PiB",
				 (unsigned long long)h->size);
	/* QEMU, too, has tables that say what a raw data file says */
	if (c->p->prealloc != QCOW2_PREALLOC_OFF || c->p->data_file_raw) {
		c->mapped = qcow2_clusters_for(h, h->size);
		c->l2 = entries;
	}
	h->l1_entries = entries;
	c->l1 = qcow2_clusters_for(h, entries * 8);
	c->crypto = qcow2_clusters_for(h, h->crypto_length);
	decide_refcounts(c, 1 + c->l1 + c->crypto + c->l2 +
			 (external ? 0 : c->mapped));

	h->reftable_offset = qcow2_cluster_size(h);
	c->refblock_offset = h->reftable_offset +
		((u64)h->reftable_clusters << h->cluster_bits);
	h->l1_offset = c->refblock_offset + (c->refblocks << h->cluster_bits);
	h->crypto_offset = h->l1_offset + (c->l1 << h->cluster_bits);
	c->l2_offset = h->crypto_offset + (c->crypto << h->cluster_bits);
	c->data_offset = external ? 0 :
		c->l2_offset + (c->l2 << h->cluster_bits);
	c->end = c->clusters << h->cluster_bits;
	if (!entries)
		h->l1_offset = 0;
	if ((u64)h->reftable_clusters << h->cluster_bits >
	    QCOW2_MAX_REFTABLE_BYTES || c->end > QCOW2_MAX_HOST_OFFSET)
		return too_large(c, err);
	return 0;
}

/* ---- the header ---- */

static const struct qcow2_feature_name feature_names[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

static void encode_fixed(const struct creator *c, struct qcow2_header_disk *d)
{
	const struct qcow2_header *h = &c->hdr;

	d->magic = cpu_to_be32(QCOW2_MAGIC);
	d->version = cpu_to_be32(h->version);
	d->backing_file_offset = cpu_to_be64(h->backing_file.offset);
	d->backing_file_size = cpu_to_be32(h->backing_file.len);
	d->cluster_bits = cpu_to_be32(h->cluster_bits);
	d->size = cpu_to_be64(h->size);
	d->crypt_method = cpu_to_be32(h->crypt_method);
	d->l1_size = cpu_to_be32(h->l1_entries);
	d->l1_table_offset = cpu_to_be64(h->l1_offset);
	d->refcount_table_offset = cpu_to_be64(h->reftable_offset);
	d->refcount_table_clusters = cpu_to_be32(h->reftable_clusters);
	d->incompatible_features = cpu_to_be64(h->incompatible);
	d->compatible_features = cpu_to_be64(h->compatible);
	d->autoclear_features = cpu_to_be64(h->autoclear);
	d->refcount_order = cpu_to_be32(h->refcount_order);
	d->header_length = cpu_to_be32(h->header_length);
	d->compression_type = h->compression;
}

/* Returns where the next one goes. */
static u32 add_extension(struct creator *c, u32 pos, u32 type, const void *data,
			 u32 len)
{
	__be32 head[2] = { cpu_to_be32(type), cpu_to_be32(len) };

	memcpy(c->header + pos, head, sizeof(head));
	memcpy(c->header + pos + sizeof(head), data, len);
	return pos + sizeof(head) + round_up(len, 8u);
}

static u32 extension_bytes(const char *name)
{
	return name ? 8 + round_up((u32)strlen(name), 8u) : 0;
}

static u32 add_crypto(struct creator *c, u32 pos)
{
	__be64 place[2] = {
		cpu_to_be64(c->hdr.crypto_offset),
		cpu_to_be64(c->hdr.crypto_length),
	};

	return add_extension(c, pos, QCOW2_EXT_CRYPTO, place, sizeof(place));
}

/* The names of the features are left out where there is no room for them. */
static int encode_header(struct creator *c, struct qcow2_error *err)
{
	const struct qcow2_create *p = c->p;
	u32 name = p->backing_file ? strlen(p->backing_file) : 0;
	u32 pos = sizeof(struct qcow2_header_disk);
	u32 need = pos + 8 + name + extension_bytes(p->data_file) +
		extension_bytes(name ? p->backing_format : NULL) +
		(p->crypto ? CRYPTO_EXT_BYTES : 0);
	u32 room = min(HEADER_BYTES, qcow2_cluster_size(&c->hdr));

	if (need > room)
		return qcow2_err(err, -EINVAL,
				 "the names of the other files do not fit into a cluster of %u bytes: take shorter names or larger clusters",
				 qcow2_cluster_size(&c->hdr));
	if (name)
		pos = add_extension(c, pos, QCOW2_EXT_BACKING_FORMAT,
				    p->backing_format, strlen(p->backing_format));
	if (p->data_file)
		pos = add_extension(c, pos, QCOW2_EXT_DATA_FILE, p->data_file,
				    strlen(p->data_file));
	if (p->crypto)
		pos = add_crypto(c, pos);
	if (need + 8 + sizeof(feature_names) <= room)
		pos = add_extension(c, pos, QCOW2_EXT_FEATURE_NAMES,
				    feature_names, sizeof(feature_names));
	pos = add_extension(c, pos, QCOW2_EXT_END, "", 0);
	if (name) {
		c->hdr.backing_file.offset = pos;
		c->hdr.backing_file.len = name;
		memcpy(c->header + pos, p->backing_file, name);
	}
	c->header_len = pos + name;
	encode_fixed(c, (struct qcow2_header_disk *)c->header);
	return 0;
}

/* ---- the tables ---- */

static int report(struct creator *c, u64 bytes)
{
	c->done += bytes;
	return c->p->progress ? c->p->progress(c->p->arg, c->done, c->total) : 0;
}

static int write_piece(struct creator *c, const struct qcow2_store *s,
		       u64 offset, void *buf, u32 len)
{
	struct qcow2_iovec v = { offset, buf, len };
	int ret = s->ops->rw(s->be, true, &v, 1);

	return ret ?: report(c, len);
}

/* @fill puts into the buffer, zeroed before, what is at @pos of a table. */
typedef void (*fill_fn)(struct creator *c, u64 pos, u32 len);

static int write_table(struct creator *c, u64 offset, u64 clusters, fill_fn fill)
{
	const struct qcow2_store self = { c->ops, c->be };
	u64 bytes = clusters << c->hdr.cluster_bits, pos;
	int ret = 0;
	u32 len;

	for (pos = 0; !ret && pos < bytes; pos += len) {
		len = min_t(u64, BUFFER_BYTES, bytes - pos);
		memset(c->buf, 0, len);
		fill(c, pos, len);
		ret = write_piece(c, &self, offset + pos, c->buf, len);
	}
	return ret;
}

static void fill_nothing(struct creator *c, u64 pos, u32 len)
{
}

/* The entries of @used clusters that begin at @offset. */
static void fill_pointers(struct creator *c, u64 pos, u32 len, u64 offset,
			  u64 used, bool copied)
{
	__be64 *p = c->buf;
	u64 i;

	for (i = pos / 8; i < min(used, (pos + len) / 8); i++)
		*p++ = qcow2_entry_encode(offset + (i << c->hdr.cluster_bits),
					  copied);
}

static void fill_reftable(struct creator *c, u64 pos, u32 len)
{
	fill_pointers(c, pos, len, c->refblock_offset, c->refblocks, false);
}

static void fill_l1(struct creator *c, u64 pos, u32 len)
{
	fill_pointers(c, pos, len, c->l2_offset, c->l2, true);
}

static void fill_refblocks(struct creator *c, u64 pos, u32 len)
{
	u32 order = c->hdr.refcount_order, i, n = len * 8 >> order;
	u64 first = pos * 8 >> order;

	for (i = 0; i < n && first + i < c->clusters; i++)
		qcow2_refcount_set(c->buf, i, order, 1);
}

/* Behind it, in its last cluster, are zeros. */
static void fill_crypto(struct creator *c, u64 pos, u32 len)
{
	if (pos < c->hdr.crypto_length)
		memcpy(c->buf, (const u8 *)c->p->crypto + pos,
		       min_t(u64, len, c->hdr.crypto_length - pos));
}

/*
 * What a device had before must not be seen: there an entry says zeros. With
 * extended entries no subcluster is allocated, which says it, too.
 */
static u64 entry_flags(const struct creator *c)
{
	const struct qcow2_backend_ops *ops = c->p->data ? c->p->data->ops :
		c->ops;

	return ops->growable || c->p->prealloc == QCOW2_PREALLOC_FULL ||
		c->p->data_file_raw || qcow2_extended(&c->hdr) ?
		0 : QCOW2_ENTRY_ZERO;
}

static void fill_l2(struct creator *c, u64 pos, u32 len)
{
	u32 bits = qcow2_l2_entry_bits(&c->hdr), i, n = len >> bits;
	u64 first = pos >> bits, flags = entry_flags(c);
	u32 words = 1u << (bits - 3);
	__be64 *p = c->buf;
	u64 host;

	for (i = 0; i < n && first + i < c->mapped; i++) {
		host = c->data_offset + ((first + i) << c->hdr.cluster_bits);
		p[i * words] = qcow2_entry_encode(host | flags, true);
	}
}

/* ---- the order of it all ---- */

static int data_flush(const struct creator *c)
{
	return c->p->data ? c->p->data->ops->flush(c->p->data->be) : 0;
}

/* Zeros where the guest's data will be, if they are not there by themselves. */
static int write_data(struct creator *c)
{
	const struct qcow2_store self = { c->ops, c->be };
	const struct qcow2_store *s = c->p->data ?: &self;
	bool full = c->p->prealloc == QCOW2_PREALLOC_FULL;
	u64 pos, n;
	int ret = 0;

	memset(c->buf, 0, BUFFER_BYTES);
	for (pos = 0; !ret && pos < c->data_bytes; pos += n) {
		n = min_t(u64, full ? BUFFER_BYTES : ZERO_BYTES,
			  c->data_bytes - pos);
		if (full) {
			ret = write_piece(c, s, c->data_offset + pos, c->buf, n);
			continue;
		}
		ret = s->ops->zero(s->be, c->data_offset + pos, n);
		ret = ret ?: report(c, n);
	}
	return ret;
}

/* A file has zeros where nothing was written. */
static bool writes_l1(const struct creator *c)
{
	return c->l2 || !c->ops->growable;
}

/*
 * Tables must not be holes: what fills a host to the last byte would leave no
 * room for the entries of what it has written.
 */
static int reserve_tables(struct creator *c)
{
	u64 end = c->p->data || !c->mapped ? c->end : c->data_offset;

	return c->ops->growable ? c->ops->zero(c->be, 0, end) : 0;
}

static int write_tables(struct creator *c)
{
	const struct qcow2_store self = { c->ops, c->be };
	const struct qcow2_header *h = &c->hdr;
	int ret;

	ret = write_table(c, c->l2_offset, c->l2, fill_l2);
	if (!ret && writes_l1(c))
		ret = write_table(c, h->l1_offset, c->l1, fill_l1);
	ret = ret ?: write_table(c, h->crypto_offset, c->crypto, fill_crypto);
	ret = ret ?: write_table(c, c->refblock_offset, c->refblocks,
				 fill_refblocks);
	ret = ret ?: write_table(c, h->reftable_offset, h->reftable_clusters,
				 fill_reftable);
	if (!ret && c->header_len > SECTOR)
		ret = write_piece(c, &self, SECTOR, c->header + SECTOR,
				  round_up(c->header_len, SECTOR) - SECTOR);
	return ret;
}

/* What was here before is no image any more. */
static int destroy_old(struct creator *c)
{
	int ret;

	if (c->ops->growable)
		return 0;
	ret = write_table(c, 0, 1, fill_nothing);
	return ret ?: c->ops->flush(c->be);
}

static int grow(const struct creator *c, struct qcow2_error *err)
{
	const struct qcow2_store *d = c->p->data;
	int ret = c->ops->grow(c->be, c->end);

	if (ret)
		return qcow2_err(err, ret, "the image needs %llu bytes",
				 (unsigned long long)c->end);
	if (d)
		ret = d->ops->grow(d->be, round_up(c->p->size, (u64)SECTOR));
	return ret ? qcow2_err(err, ret, "the data file needs %llu bytes",
			       (unsigned long long)c->p->size) : 0;
}

static void count_work(struct creator *c)
{
	const struct qcow2_create *p = c->p;
	bool device = !(p->data ? p->data->ops : c->ops)->growable;
	u64 clusters = c->hdr.reftable_clusters + c->refblocks + c->crypto +
		c->l2;

	if (writes_l1(c))
		clusters += c->l1;
	if (!c->ops->growable)
		clusters++;	/* destroy_old() */
	if (p->prealloc == QCOW2_PREALLOC_FULL || (p->data_file_raw && device))
		c->data_bytes = p->data ? round_up(p->size, (u64)SECTOR) :
			c->mapped << c->hdr.cluster_bits;
	c->total = c->data_bytes + (clusters << c->hdr.cluster_bits) +
		round_up(c->header_len, SECTOR);
}

static int write_all(struct creator *c, struct qcow2_error *err)
{
	const struct qcow2_store self = { c->ops, c->be };
	int ret = grow(c, err);

	if (ret)
		return ret;
	ret = destroy_old(c);
	if (ret)
		return qcow2_err(err, ret,
				 "the first cluster cannot be overwritten");
	ret = reserve_tables(c);
	if (ret)
		return qcow2_err(err, ret, "there is no space for the tables");
	ret = write_data(c);
	ret = ret ?: data_flush(c);
	if (ret)
		return qcow2_err(err, ret, "the data cannot be written");
	ret = write_tables(c);
	ret = ret ?: c->ops->flush(c->be);
	if (ret)
		return qcow2_err(err, ret, "the tables cannot be written");
	ret = write_piece(c, &self, 0, c->header, SECTOR);
	ret = ret ?: c->ops->flush(c->be);
	if (ret)
		return qcow2_err(err, ret, "the header cannot be written");
	return 0;
}

static int plan(struct creator *c, struct qcow2_error *err)
{
	int ret = check_geometry(c->p, err);

	ret = ret ?: check_files(c->p, err);
	ret = ret ?: check_crypto(c->p, err);
	if (ret)
		return ret;
	decide_header(c);
	ret = decide_layout(c, err);
	if (ret)
		return ret;
	c->header = port_zalloc(HEADER_BYTES);
	if (!c->header)
		return qcow2_err(err, -ENOMEM, "out of memory");
	ret = encode_header(c, err);
	if (ret)
		port_free(c->header);
	return ret;
}

/**
 * qcow2_create_size() - can there be such an image, and how large would it be?
 * @p: the image; @data is not looked at
 * @bytes: filled in: the host needs that many for it, without the data file
 * @err: the reason of a failure, in words
 *
 * Return: 0; -EINVAL for what contradicts itself or the format; -EFBIG; -ENOMEM.
 */
int qcow2_create_size(const struct qcow2_create *p, u64 *bytes,
		      struct qcow2_error *err)
{
	struct creator c = { .p = p };
	int ret = plan(&c, err);

	if (ret)
		return ret;
	*bytes = c.end;
	port_free(c.header);
	return 0;
}

/**
 * qcow2_create() - make an image
 * @ops: what holds it; @rw, @flush, @grow, @zero and @size are called
 * @be: first argument of @ops; a file is empty
 * @p: the image
 * @err: the reason of a failure, in words
 *
 * If it fails there is no image; what else it has written is there.
 *
 * Context: may sleep.
 * Return: 0; the errors of qcow2_create_size(); -EEXIST for a file that is not
 * empty; -ENOSPC, also for a device that is too small; the error of a write.
 */
int qcow2_create(const struct qcow2_backend_ops *ops, void *be,
		 const struct qcow2_create *p, struct qcow2_error *err)
{
	struct creator c = { .ops = ops, .be = be, .p = p };
	int ret = plan(&c, err);

	if (ret)
		return ret;
	c.buf = port_alloc(BUFFER_BYTES);
	if (!c.buf) {
		ret = qcow2_err(err, -ENOMEM, "out of memory");
	} else if ((ops->growable && ops->size(be)) ||
		   (p->data && p->data->ops->growable &&
		    p->data->ops->size(p->data->be))) {
		ret = qcow2_err(err, -EEXIST, "the file is not empty");
	} else {
		count_work(&c);
		ret = write_all(&c, err);
	}
	port_free(c.buf);
	port_free(c.header);
	return ret;
}
