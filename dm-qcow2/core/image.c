// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the life of an opened image: opening, activation before the
 * first write, closing, the header on the disk, and the mode.
 *
 * Opening reads the header and up to 1 MiB of the L1 table and nothing else,
 * whatever the size of the image. What a writer needs beyond that is read by
 * qcow2_activate() before the first write.
 */
#include "image.h"
#include "alloc.h"
#include "busy.h"
#include "commit.h"
#include "inflate.h"
#include "map.h"
#include "metacache.h"
#include "overlap.h"

#ifdef __KERNEL__
#include <linux/stdarg.h>
#else
#include <stdarg.h>
#endif

#define CACHE_DEFAULT_MAX (32u << 20)
#define CACHE_MIN BIT_ULL(20)
#define SECTOR 512u

const char *qcow2_mode_name(enum qcow2_mode mode)
{
	static const char * const names[] = {
		[QCOW2_READ_WRITE] = "rw",
		[QCOW2_NO_SPACE] = "no_space",
		[QCOW2_READ_ONLY] = "ro",
		[QCOW2_FAILED] = "failed",
	};

	return names[mode];
}

/**
 * qcow2_meta_rw() - metadata I/O, counted
 * @img: the image
 * @write: direction
 * @v: the pieces
 * @n: how many
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int qcow2_meta_rw(struct qcow2_image *img, bool write,
		  const struct qcow2_iovec *v, unsigned int n)
{
	unsigned int i, requests = 0;

	for (i = 0; i < n; i++)
		if (!i || v[i].offset != v[i - 1].offset + v[i - 1].len)
			requests++;
	atomic64_add(requests, write ? &img->stats.meta_writes :
		     &img->stats.meta_reads);
	return img->ops->rw(img->be, write, v, n);
}

/* ---------------------------------------------------------------- */

static int read_header(struct qcow2_image *img, struct qcow2_error *err)
{
	u64 size = img->host_end;
	size_t need = QCOW2_HEADER_READ;
	int ret;

	for (;;) {
		size_t want = round_up(min_t(u64, need, size), (u64)SECTOR);
		struct qcow2_iovec v = { 0, NULL, max_t(u32, want, SECTOR) };

		v.buf = port_alloc(v.len);
		if (!v.buf)
			return qcow2_err(err, -ENOMEM, "out of memory");
		ret = qcow2_meta_rw(img, false, &v, 1);
		if (ret) {
			port_free(v.buf);
			return qcow2_err(err, ret, "the header cannot be read: error %d", ret);
		}
		ret = qcow2_header_parse(v.buf, min_t(u64, v.len, size), size,
					 &img->hdr, &need, err);
		if (!ret)
			memcpy(img->header_sector, v.buf, SECTOR);
		port_free(v.buf);
		if (ret != -ENODATA)
			return ret;
	}
}

/* What no part of the core can do yet, by name. */
static int refuse_features(const struct qcow2_header *h, struct qcow2_error *err)
{
	if (h->crypt_method == QCOW2_CRYPT_NONE)
		return 0;
	return qcow2_err(err, -EOPNOTSUPP,
			 "the image has %s encryption, which is not supported yet",
			 h->crypt_method == QCOW2_CRYPT_LUKS ? "LUKS" : "AES");
}

/* Other files come from the caller, all that the header asks for and no more. */
static int check_files(const struct qcow2_header *h,
		       const struct qcow2_config *cfg, struct qcow2_error *err)
{
	if (!!h->backing_file.offset != !!cfg->backing)
		return qcow2_err(err, -EINVAL, cfg->backing ?
				 "the image names no backing file, but one is given" :
				 "the image names a backing file; give it (qcow2setup does)");
	if (qcow2_external(h) != !!cfg->data)
		return qcow2_err(err, -EINVAL, cfg->data ?
				 "the image has no external data file, but one is given" :
				 "the image has an external data file; give it (qcow2setup does)");
	return 0;
}

/* What lets an image be read but not written. */
static void force_read_only(struct qcow2_image *img)
{
	const struct qcow2_header *h = &img->hdr;
	const char *why = "";

	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
		why = "marked corrupt";
	else if (h->incompatible & QCOW2_INCOMPAT_DIRTY)
		why = "marked dirty";
	else if (h->nb_snapshots)
		why = "has internal snapshots";
	else if (h->nb_bitmaps)
		why = "has persistent bitmaps";
	snprintf(img->why, sizeof(img->why), "%s", why);
	if (*why)
		img->read_only = true;
}

static u64 default_cache(const struct qcow2_header *h)
{
	u64 need = ((h->size >> h->cluster_bits) << qcow2_l2_entry_bits(h)) +
		h->l1_entries * 8ull;

	need += need / 4 + CACHE_MIN; /* refcount blocks, and room to move */
	return min_t(u64, need, CACHE_DEFAULT_MAX);
}

static int init(struct qcow2_image *img, struct qcow2_error *err)
{
	int i, ret;

	ret = port_epoch_init(&img->epoch);
	if (ret)
		return qcow2_err(err, ret, "out of memory");
	mutex_init(&img->activate_lock);
	mutex_init(&img->commit_lock);
	mutex_init(&img->header_lock);
	mutex_init(&img->cow_lock);
	mutex_init(&img->inflate_lock);
	for (i = 0; i < QCOW2_L2_LOCKS; i++)
		mutex_init(&img->l2_lock[i]);
	INIT_LIST_HEAD(&img->unlinked);
	INIT_LIST_HEAD(&img->draining);
	qcow2_busy_init(img);
	qcow2_overlap_init(img);
	qcow2_alloc_init(img);
	return 0;
}

static void destroy(struct qcow2_image *img)
{
	qcow2_commit_destroy(img);
	qcow2_alloc_destroy(img);
	qcow2_overlap_destroy(img);
	qcow2_inflate_exit(img);
	qcow2_cache_destroy(img);
	port_epoch_destroy(&img->epoch);
	port_free(img->cow_buf);
	port_free(img->header_sector);
	port_free(img);
}

/**
 * qcow2_image_open() - open an image
 * @ops: what holds it
 * @be: first argument of every @ops
 * @cfg: how
 * @out: the image
 * @err: the reason of a failure, in words
 *
 * Writes nothing. The image is read-only if the caller or the image asks for
 * it: see img->why.
 *
 * Context: may sleep.
 * Return: 0; the errors of qcow2_header_parse(); -EOPNOTSUPP for a feature that
 * the core lacks; a negative errno.
 */
int qcow2_image_open(const struct qcow2_backend_ops *ops, void *be,
		     const struct qcow2_config *cfg, struct qcow2_image **out,
		     struct qcow2_error *err)
{
	struct qcow2_image *img = port_zalloc(sizeof(*img));
	int ret;

	if (!img)
		return qcow2_err(err, -ENOMEM, "out of memory");
	img->ops = ops;
	img->be = be;
	ret = init(img, err);
	if (ret) {
		port_free(img);
		return ret;
	}
	img->data = cfg->data ? *cfg->data : (struct qcow2_store){ ops, be };
	img->backing = cfg->backing;
	img->keep_space = cfg->keep_space;
	img->host_end = ops->size(be);
	img->read_only = cfg->read_only;
	img->header_sector = port_alloc(SECTOR);
	if (!img->header_sector) {
		ret = qcow2_err(err, -ENOMEM, "out of memory");
		goto fail;
	}
	ret = read_header(img, err);
	if (ret)
		goto fail;
	ret = refuse_features(&img->hdr, err);
	if (!ret)
		ret = check_files(&img->hdr, cfg, err);
	if (ret)
		goto fail;
	force_read_only(img);
	if (img->read_only)
		img->mode = QCOW2_READ_ONLY;
	ret = qcow2_cache_init(img, cfg->cache_bytes ?: default_cache(&img->hdr));
	if (ret) {
		qcow2_err(err, ret, "out of memory");
		goto fail;
	}
	if (img->hdr.l1_entries) {
		struct qcow2_block *l1;
		u64 start = img->hdr.l1_offset;

		/* one read of up to 1 MiB; the entries are judged when used */
		ret = qcow2_cache_get(img, QCOW2_BLOCK_L1, start, start,
				      min_t(u64, 1u << 20,
					    round_up(img->hdr.l1_entries * 8ull,
						     (u64)img->cache.block_size)),
				      &l1);
		if (ret) {
			qcow2_err(err, ret, "the L1 table at %#llx cannot be read: error %d",
				  (unsigned long long)start, ret);
			goto fail;
		}
		qcow2_cache_put(img, l1);
	}
	*out = img;
	return 0;
fail:
	destroy(img);
	return ret;
}

/**
 * qcow2_image_close() - write everything back and free the image
 * @img: the image; no I/O is under way and none will come
 *
 * Context: may sleep.
 * Return: 0, or the error that kept something from becoming durable. The image
 * is gone in either case.
 */
int qcow2_image_close(struct qcow2_image *img)
{
	int ret = 0;

	if (img->writable) {
		/* the second commit carries the decrements of the first */
		ret = qcow2_commit(img);
		if (!ret)
			ret = qcow2_commit_drain(img);
		if (!ret && qcow2_mode(img) < QCOW2_READ_ONLY)
			ret = img->ops->trim(img->be, qcow2_alloc_end(img));
	}
	destroy(img);
	return ret;
}

/* ---------------------------------------------------------------- */

/* H held. Writes the first sector and makes it durable. */
static int write_header(struct qcow2_image *img)
{
	struct qcow2_iovec v = { 0, img->header_sector, SECTOR };
	int ret;

	lockdep_assert_held(&img->header_lock);
	ret = qcow2_meta_rw(img, true, &v, 1);
	return ret ?: qcow2_host_flush(img);
}

static struct qcow2_header_disk *on_disk(struct qcow2_image *img)
{
	return (struct qcow2_header_disk *)img->header_sector;
}

/* Rule O12: autoclear bits that we do not maintain go before the first write. */
static int clear_autoclear(struct qcow2_image *img)
{
	/* a raw data file stays one: data is written where the guest has it */
	u64 keep = qcow2_external(&img->hdr) ?
		img->hdr.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
	int ret = 0;

	mutex_lock(&img->header_lock);
	if (img->hdr.autoclear != keep) {
		on_disk(img)->autoclear_features = cpu_to_be64(keep);
		ret = write_header(img);
		if (!ret)
			img->hdr.autoclear = keep;
	}
	mutex_unlock(&img->header_lock);
	return ret;
}

/**
 * qcow2_header_set_reftable() - the refcount table moves (rule O6)
 * @img: the image; alloc.lock held
 * @offset: host offset of the new table, its contents durable
 * @clusters: its length
 *
 * Offset and length are neighbours in one sector and are written at once.
 *
 * Context: may sleep.
 * Return: 0 with the header durable, or a negative errno.
 */
int qcow2_header_set_reftable(struct qcow2_image *img, u64 offset, u32 clusters)
{
	int ret;

	mutex_lock(&img->header_lock);
	on_disk(img)->refcount_table_offset = cpu_to_be64(offset);
	on_disk(img)->refcount_table_clusters = cpu_to_be32(clusters);
	ret = write_header(img);
	if (!ret) {
		img->hdr.reftable_offset = offset;
		img->hdr.reftable_clusters = clusters;
	} else {
		/* a later corrupt bit shall not bring it in */
		on_disk(img)->refcount_table_offset =
			cpu_to_be64(img->hdr.reftable_offset);
		on_disk(img)->refcount_table_clusters =
			cpu_to_be32(img->hdr.reftable_clusters);
	}
	mutex_unlock(&img->header_lock);
	return ret;
}

/* ---------------------------------------------------------------- */

/* H held. */
static bool set_mode(struct qcow2_image *img, enum qcow2_mode mode)
{
	if (img->mode >= mode)
		return false;
	WRITE_ONCE(img->mode, mode);
	return true;
}

/**
 * qcow2_lower_mode() - the one way down
 * @img: the image
 * @mode: the mode to go to; nothing happens if it is there or below
 * @fmt: why, for the log
 *
 * Context: may sleep; header_lock not held.
 */
void qcow2_lower_mode(struct qcow2_image *img, enum qcow2_mode mode,
		      const char *fmt, ...)
{
	char msg[256];
	bool changed;
	va_list ap;
	int n;

	mutex_lock(&img->header_lock);
	changed = set_mode(img, mode);
	mutex_unlock(&img->header_lock);
	if (!changed)
		return;
	va_start(ap, fmt);
	n = vsnprintf(msg, sizeof(msg) - 16, fmt, ap);
	va_end(ap);
	n = min_t(int, n, sizeof(msg) - 17);
	snprintf(msg + n, sizeof(msg) - n, "; now %s", qcow2_mode_name(mode));
	img->ops->log(img->be, msg);
	img->ops->mode_changed(img->be);
}

/**
 * qcow2_space_found() - leave the no-space mode
 * @img: the image
 *
 * Called when an allocation succeeded; see also qcow2_retry().
 *
 * Context: may sleep.
 */
void qcow2_space_found(struct qcow2_image *img)
{
	bool changed;

	if (qcow2_mode(img) != QCOW2_NO_SPACE)
		return;
	mutex_lock(&img->header_lock);
	changed = img->mode == QCOW2_NO_SPACE;
	if (changed)
		WRITE_ONCE(img->mode, QCOW2_READ_WRITE);
	mutex_unlock(&img->header_lock);
	if (changed)
		img->ops->mode_changed(img->be);
}

/**
 * qcow2_retry() - somebody says that there may be space again
 * @img: the image
 *
 * On resume and on the message "retry": looks again how large the host is, and
 * leaves the no-space mode.
 *
 * Context: may sleep; no lock held.
 */
void qcow2_retry(struct qcow2_image *img)
{
	/* pairs with the release in qcow2_activate() */
	if (smp_load_acquire(&img->writable))
		qcow2_alloc_refresh(img);
	qcow2_space_found(img);
}

/**
 * qcow2_corrupt() - the image contradicts itself
 * @img: the image
 * @fmt: the table, the index, the value
 *
 * Logs it, sets the corrupt bit if the image may be written and has one
 * (version 3; rule O13), and lowers the mode to read-only. The place that was
 * asked for fails alone: the rest can still be read.
 *
 * Context: may sleep; header_lock not held.
 * Return: -EUCLEAN.
 */
int qcow2_corrupt(struct qcow2_image *img, const char *fmt, ...)
{
	char msg[256];
	bool changed;
	va_list ap;
	int ret = 0;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	img->ops->log(img->be, msg);

	mutex_lock(&img->header_lock);
	changed = set_mode(img, QCOW2_READ_ONLY);
	if (!img->read_only && img->hdr.version >= 3 &&
	    !(img->hdr.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
		img->hdr.incompatible |= QCOW2_INCOMPAT_CORRUPT;
		on_disk(img)->incompatible_features =
			cpu_to_be64(img->hdr.incompatible);
		ret = write_header(img);
	}
	mutex_unlock(&img->header_lock);
	if (changed)
		img->ops->mode_changed(img->be);
	if (ret)
		qcow2_lower_mode(img, QCOW2_FAILED,
				 "the corrupt bit could not be written: error %d",
				 ret);
	return -EUCLEAN;
}

/* ---------------------------------------------------------------- */

/*
 * One L2 table joins the set of metadata clusters. Only one that is not COPIED
 * may have two entries: whoever changed a COPIED one through one entry would
 * change it, or free it, under the other.
 */
static int collect_l2_table(struct qcow2_image *img, u32 index, u64 table,
			    bool copied)
{
	u64 cluster = qcow2_cluster_index(&img->hdr, table);
	const char *what = copied ? qcow2_overlap_find(img, cluster, 1) :
		qcow2_overlap_fixed(img, cluster, 1);

	if (what)
		return qcow2_corrupt(img,
				     "L1 table: entry %u names an L2 table at %#llx, which is part of %s",
				     index, (unsigned long long)table, what);
	return qcow2_overlap_add(img, cluster);
}

/* The L2 tables that the L1 table names as COPIED, or those that it does not. */
static int collect_l2_tables(struct qcow2_image *img, bool want_copied)
{
	u32 step = img->cache.block_size / 8;
	u32 i, j;
	int ret = 0;

	for (i = 0; !ret && i < img->hdr.l1_entries; i += step) {
		struct qcow2_block *l1;
		const __be64 *p;

		ret = qcow2_map_l1_block(img, (u64)i << qcow2_l1_shift(&img->hdr),
					 &l1);
		if (ret)
			break;
		p = l1->data;
		for (j = 0; !ret && j < step && i + j < img->hdr.l1_entries; j++) {
			u64 table;
			bool copied;

			/* a bad entry fails whoever uses it */
			if (qcow2_l1_decode(&img->hdr, READ_ONCE(p[j]), &table,
					    &copied) ||
			    !table || copied != want_copied)
				continue;
			ret = collect_l2_table(img, i + j, table, copied);
		}
		qcow2_cache_put(img, l1);
	}
	return ret;
}

static int activate(struct qcow2_image *img)
{
	u64 first = qcow2_cluster_index(&img->hdr, img->hdr.l1_offset);
	int ret;

	if (qcow2_mode(img) >= QCOW2_READ_ONLY)
		return -EROFS;
	if (!img->cow_buf) {
		img->cow_buf = port_alloc(QCOW2_COW_BYTES);
		if (!img->cow_buf)
			return -ENOMEM;
	}
	ret = qcow2_commit_init(img);
	if (ret)
		return ret;
	/* what a failed attempt collected would collide with itself */
	qcow2_overlap_destroy(img);
	if (img->hdr.l1_entries) {
		img->overlap.l1_first = first;
		img->overlap.l1_last = first +
			qcow2_clusters_for(&img->hdr, img->hdr.l1_entries * 8ull) - 1;
	}
	qcow2_overlap_set_reftable(img, img->hdr.reftable_offset,
				   img->hdr.reftable_clusters);
	ret = qcow2_alloc_load(img);
	if (ret)
		return ret;
	ret = collect_l2_tables(img, false);
	if (!ret)
		ret = collect_l2_tables(img, true);
	if (ret)
		return ret;
	ret = clear_autoclear(img);
	if (ret)
		qcow2_lower_mode(img, QCOW2_READ_ONLY,
				 "the header could not be written: error %d", ret);
	return ret;
}

/**
 * qcow2_activate() - make an image ready for its first write
 * @img: the image
 *
 * Reads the refcount table and the rest of the L1 table, finds where the used
 * part of the host ends, collects the metadata clusters for the overlap check,
 * and clears autoclear bits durably. Does nothing the second time.
 *
 * Context: may sleep; no lock held.
 * Return: 0; -EROFS; -EUCLEAN (reported); a negative errno, after which it may
 * be tried again.
 */
int qcow2_activate(struct qcow2_image *img)
{
	int ret = 0;

	/* pairs with the release below */
	if (smp_load_acquire(&img->writable))
		return 0;
	mutex_lock(&img->activate_lock);
	if (!img->writable) {
		ret = activate(img);
		if (!ret) {
			/* pairs with the acquires in map.c */
			smp_store_release(&img->overlap_gen, 1u);
			/* pairs with the acquires above and in commit.c */
			smp_store_release(&img->writable, true);
		}
	}
	mutex_unlock(&img->activate_lock);
	return ret;
}
