// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the life of an opened image: opening, activation before the
 * first write, closing, the header on the disk, and the mode.
 *
 * Opening reads the header and one piece of the L1 table and nothing else,
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
#include "resolve.h"
#include "survey.h"

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

/* The key comes from the caller, if the header asks for one. */
static int check_cipher(const struct qcow2_header *h,
			const struct qcow2_cipher *c, struct qcow2_error *err)
{
	enum qcow2_crypt method = c ? c->method : QCOW2_CRYPT_NONE;

	if (method == h->crypt_method)
		return 0;
	switch (h->crypt_method) {
	case QCOW2_CRYPT_LUKS:
		return qcow2_err(err, -ENOKEY,
				 "the image has LUKS encryption; give its cipher and key with 'luks' (qcow2setup does)");
	case QCOW2_CRYPT_AES:
		return qcow2_err(err, -ENOKEY,
				 "the image has AES encryption; give its key with 'aes' (qcow2setup does)");
	default:
		return qcow2_err(err, -EINVAL,
				 "the image is not encrypted, but a key is given");
	}
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
	else if (h->nb_snapshots && qcow2_external(h))
		/* data in another file has no refcounts to protect it */
		why = "has internal snapshots and an external data file";
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

/**
 * qcow2_fit_cache() - the disk has grown: so may its cache, if nobody chose
 * @img: the image; nobody else uses it
 *
 * Context: may sleep.
 */
void qcow2_fit_cache(struct qcow2_image *img)
{
	if (!img->cache_given)
		qcow2_cache_enlarge(img, default_cache(&img->hdr));
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
	qcow2_resolve_exit(img);
	qcow2_cache_destroy(img);
	port_epoch_destroy(&img->epoch);
	port_pool_exit(&img->copies);
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
	img->data.cipher = cfg->cipher;
	img->backing = cfg->backing;
	img->keep_space = cfg->keep_space;
	img->cache_given = cfg->cache_bytes;
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
	ret = check_cipher(&img->hdr, cfg->cipher, err);
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

		/* one read; the entries are judged when used */
		ret = qcow2_map_l1_block(img, 0, &l1);
		if (ret) {
			qcow2_err(err, ret, "the L1 table at %#llx cannot be read: error %d",
				  (unsigned long long)img->hdr.l1_offset, ret);
			goto fail;
		}
		qcow2_cache_put(img, l1);
	}
	ret = qcow2_survey_snapshots(img, err);
	if (ret)
		goto fail;
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
		/* all of the disk may be in use without an allocation */
		if (!ret && qcow2_external(&img->hdr) &&
		    qcow2_mode(img) < QCOW2_READ_ONLY)
			ret = img->data.ops->trim(img->data.be,
				max_t(u64, img->alloc.data_floor,
				      round_up(img->hdr.size, (u64)SECTOR)));
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
	u64 keep = 0;
	int ret = 0;

	/* a raw data file stays one: data is written where the guest has it */
	if (qcow2_external(&img->hdr))
		keep |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	/* see qcow2_survey_mark_bitmaps() */
	if (img->hdr.nb_bitmaps)
		keep |= QCOW2_AUTOCLEAR_BITMAPS;
	keep &= img->hdr.autoclear;

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

/* H held. */
static void fill_size(struct qcow2_image *img, u64 size, u64 l1_offset,
		      u32 l1_entries)
{
	struct qcow2_header_disk *d = on_disk(img);

	d->size = cpu_to_be64(size);
	d->l1_table_offset = cpu_to_be64(l1_offset);
	d->l1_size = cpu_to_be32(l1_entries);
}

/**
 * qcow2_header_set_size() - the disk or its L1 table changes (rule O5)
 * @img: the image; nobody else uses it
 * @size: of the virtual disk in bytes
 * @l1_offset: host offset of the L1 table, its contents durable
 * @l1_entries: its length
 *
 * All three lie in one sector and are written at once.
 *
 * Context: may sleep.
 * Return: 0 with the header durable, or a negative errno: what the disk says is
 * not known then.
 */
int qcow2_header_set_size(struct qcow2_image *img, u64 size, u64 l1_offset,
			  u32 l1_entries)
{
	struct qcow2_header *h = &img->hdr;
	int ret;

	mutex_lock(&img->header_lock);
	fill_size(img, size, l1_offset, l1_entries);
	ret = write_header(img);
	if (!ret) {
		/* whoever makes a table for the device looks at any time */
		WRITE_ONCE(h->size, size);
		h->l1_offset = l1_offset;
		h->l1_entries = l1_entries;
	} else {
		/* as in qcow2_header_set_reftable() */
		fill_size(img, h->size, h->l1_offset, h->l1_entries);
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
 * What a writer has to know. Reads only; once it has succeeded nothing of it
 * changes but by the image's own writes. activate_lock held.
 */
static int learn(struct qcow2_image *img)
{
	int ret;

	if (img->surveyed)
		return 0;
	if (!port_pool_ready(&img->copies)) {
		ret = port_pool_init(&img->copies, QCOW2_COW_BYTES);
		if (ret)
			return ret;
	}
	ret = qcow2_commit_init(img);
	if (ret)
		return ret;
	/* what a failed attempt collected would collide with itself */
	qcow2_overlap_destroy(img);
	qcow2_overlap_set_l1(img);
	qcow2_overlap_set_reftable(img, img->hdr.reftable_offset,
				   img->hdr.reftable_clusters);
	ret = qcow2_alloc_load(img);
	if (ret)
		return ret;
	ret = qcow2_survey(img);
	img->surveyed = !ret;
	return ret;
}

static int activate(struct qcow2_image *img)
{
	int ret;

	if (qcow2_mode(img) >= QCOW2_READ_ONLY)
		return -EROFS;
	ret = learn(img);
	if (ret)
		return ret;
	ret = qcow2_survey_mark_bitmaps(img);
	if (!ret)
		ret = clear_autoclear(img);
	if (ret && ret != -ENOMEM)
		qcow2_lower_mode(img, QCOW2_READ_ONLY,
				 "the header or a bitmap could not be written: error %d",
				 ret);
	return ret;
}

/**
 * qcow2_activate() - make an image ready for its first write
 * @img: the image
 *
 * Reads the refcount table and the rest of the L1 table, finds where the used
 * part of the host ends, collects the metadata clusters for the overlap check,
 * marks bitmaps and clears autoclear bits durably. Does nothing the second time.
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

/**
 * qcow2_scan_ahead() - find where a dirty image can grow before somebody asks
 * @img: the image
 *
 * Does nothing with others, and ends early when img->closing is set. Whoever
 * allocates meanwhile waits; what fails here is tried again then.
 *
 * Context: may sleep, for as long as it takes to read all L2 tables; no lock held.
 */
void qcow2_scan_ahead(struct qcow2_image *img)
{
	int ret;

	if (!qcow2_dirty(img) || qcow2_mode(img) >= QCOW2_READ_ONLY)
		return;
	mutex_lock(&img->activate_lock);
	ret = learn(img);
	mutex_unlock(&img->activate_lock);
	if (!ret)
		qcow2_alloc_prepare(img, NULL);
}
