// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the look around before an image is changed: which clusters hold
 * metadata, of the active tables, of snapshots and of bitmaps; that bitmaps are
 * marked as not kept up to date; and, where refcounts cannot be trusted, behind
 * which cluster nothing is in use.
 *
 * It changes nothing but the flags of bitmaps, and allocates nothing but the set
 * of metadata clusters (overlap.c), whose size follows the tables. Those of
 * snapshots and bitmaps may be many: see MAX_TABLE_BYTES.
 */
#include "survey.h"
#include "map.h"
#include "metacache.h"
#include "overlap.h"

#define SECTOR 512u
#define WINDOW 32768u
#define BITMAP_IN_USE 1u

/*
 * The L1 tables of all snapshots, or the tables of all bitmaps, that are looked
 * at: with 64 KiB clusters, 512 snapshots of a disk of 1 TiB.
 */
#define MAX_TABLE_BYTES (64ull << 20)

/* A part of the host that has been read, for many small looks at it. */
struct window {
	u64 start;
	u32 len;
	u8 *buf;
};

struct survey {
	struct qcow2_image *img;
	struct qcow2_error *err;	/* NULL: corruption is dealt with */
	struct window dir;	/* snapshot table, bitmap directory */
	struct window table;	/* what they name */
	struct window l2;
	u64 table_bytes;
	u64 end;		/* one past the last cluster found in use */
};

static int start(struct survey *s, struct qcow2_image *img)
{
	*s = (struct survey){ .img = img };
	s->dir.buf = port_alloc(WINDOW);
	s->table.buf = port_alloc(WINDOW);
	s->l2.buf = port_alloc(WINDOW);
	return s->dir.buf && s->table.buf && s->l2.buf ? 0 : -ENOMEM;
}

static void finish(struct survey *s)
{
	port_free(s->dir.buf);
	port_free(s->table.buf);
	port_free(s->l2.buf);
}

/* Reads a window from @pos on; behind the end of the host are zeros. */
static int read_window(struct survey *s, struct window *w, u64 pos)
{
	u64 end = round_up(s->img->host_end, (u64)SECTOR);
	struct qcow2_iovec v = { round_down(pos, (u64)SECTOR), w->buf, WINDOW };
	int ret;

	cond_resched(); /* an image may have many, and all of them holes */
	w->len = 0;
	memset(w->buf, 0, WINDOW);
	v.len = v.offset < end ? min_t(u64, end - v.offset, WINDOW) : 0;
	ret = v.len ? qcow2_meta_rw(s->img, false, &v, 1) : 0;
	if (!ret) {
		w->start = v.offset;
		w->len = WINDOW;
	}
	return ret;
}

/* Copies host bytes, at most WINDOW - SECTOR, from wherever they lie. */
static int look(struct survey *s, struct window *w, u64 pos, void *to, u32 len)
{
	int ret = 0;

	if (pos < w->start || pos + len > w->start + w->len)
		ret = read_window(s, w, pos);
	if (!ret)
		memcpy(to, w->buf + (pos - w->start), len);
	return ret;
}

static int add_clusters(struct survey *s, u64 offset, u64 len)
{
	u64 first = qcow2_cluster_index(&s->img->hdr, offset);
	u64 nr = qcow2_clusters_for(&s->img->hdr, offset + len) - first;
	int ret = 0;

	for (; !ret && nr; nr--)
		ret = qcow2_overlap_add(s->img, first++);
	return ret;
}

/* A range of the file becomes metadata. @what is for the message. */
static int add_metadata(struct survey *s, const char *what, u64 offset, u64 len)
{
	const struct qcow2_header *h = &s->img->hdr;
	u64 first = qcow2_cluster_index(h, offset);
	const char *with = qcow2_overlap_find(s->img, first,
					      qcow2_clusters_for(h, offset + len) -
					      first);

	if (with)
		return qcow2_corrupt(s->img, "%s at %#llx is part of %s", what,
				     (unsigned long long)offset, with);
	return add_clusters(s, offset, len);
}

/*
 * A table that a snapshot or a bitmap has: inside the file, and apart from what
 * every image has. @what and @index are for the message.
 */
static int add_table(struct survey *s, const char *what, u32 index, u64 offset,
		     u64 entries)
{
	struct qcow2_image *img = s->img;
	u64 bytes = entries * 8;
	const char *with;

	if (qcow2_in_cluster(&img->hdr, offset) || !offset ||
	    offset >= img->host_end || bytes > img->host_end - offset)
		return qcow2_corrupt(img,
				     "%s %u: its table of %llu entries at %#llx is not in this file (%llu bytes)",
				     what, index, (unsigned long long)entries,
				     (unsigned long long)offset,
				     (unsigned long long)img->host_end);
	with = qcow2_overlap_fixed(img, qcow2_cluster_index(&img->hdr, offset),
				   max_t(u64, qcow2_clusters_for(&img->hdr, bytes), 1));
	if (with)
		return qcow2_corrupt(img, "%s %u: its table at %#llx is part of %s",
				     what, index, (unsigned long long)offset, with);
	s->table_bytes += bytes;
	if (s->table_bytes > MAX_TABLE_BYTES) {
		qcow2_lower_mode(img, QCOW2_READ_ONLY,
				 "more than %llu bytes of tables of snapshots or bitmaps; delete some",
				 MAX_TABLE_BYTES);
		return -EROFS;
	}
	return add_clusters(s, offset, bytes);
}

/* ---- the active tables ---- */

/*
 * One L2 table joins the set of metadata clusters. Only one that is not COPIED
 * may have two entries: whoever changed a COPIED one through one entry would
 * change it, or free it, under the other.
 */
static int add_l2_table(struct qcow2_image *img, u32 index, u64 table,
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
static int add_l2_tables(struct qcow2_image *img, bool want_copied)
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
			ret = add_l2_table(img, i + j, table, copied);
		}
		qcow2_cache_put(img, l1);
	}
	return ret;
}

/* ---- snapshots ---- */

static int bad_snapshot(struct survey *s, u32 index, u32 extra, u64 end)
{
	static const char format[] =
		"snapshot table: entry %u has %u bytes of extra data and ends at %llu";

	if (s->err)
		return qcow2_err(s->err, -EUCLEAN, format, index, extra,
				 (unsigned long long)end);
	return qcow2_corrupt(s->img, format, index, extra,
			     (unsigned long long)end);
}

/*
 * Calls @fn, if any, for the L1 table of every snapshot, whose place and size it
 * has to check, and leaves the end of the snapshot table in @end.
 */
static int each_snapshot(struct survey *s, u64 *end,
			 int (*fn)(struct survey *s, u32 index, u64 l1,
				   u32 entries))
{
	const struct qcow2_header *h = &s->img->hdr;
	u64 pos = h->snapshots_offset;
	u32 i;
	int ret = 0;

	for (i = 0; !ret && i < h->nb_snapshots; i++) {
		struct qcow2_snapshot_disk d;

		pos = round_up(pos, 8ull);
		ret = look(s, &s->dir, pos, &d, sizeof(d));
		if (ret)
			return ret;
		pos += sizeof(d) + (u64)be32_to_cpu(d.extra_len) +
			be16_to_cpu(d.id_len) + be16_to_cpu(d.name_len);
		if (pos > s->img->host_end ||
		    pos - h->snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE_BYTES ||
		    be32_to_cpu(d.extra_len) > QCOW2_MAX_SNAPSHOT_EXTRA)
			return bad_snapshot(s, i, be32_to_cpu(d.extra_len), pos);
		if (fn && d.l1_size)
			ret = fn(s, i, be64_to_cpu(d.l1_offset),
				 be32_to_cpu(d.l1_size));
	}
	*end = pos;
	return ret;
}

/*
 * Calls @fn for every L2 table that an L1 table names, read from the disk. What
 * is no table fails whoever uses it.
 */
static int each_l2_table(struct survey *s, u64 l1, u32 entries,
			 int (*fn)(struct survey *s, u64 table))
{
	u32 i;
	int ret = 0;

	for (i = 0; !ret && i < entries; i++) {
		__be64 raw;
		u64 table;
		bool copied;

		ret = look(s, &s->table, l1 + i * 8ull, &raw, sizeof(raw));
		if (!ret && !qcow2_l1_decode(&s->img->hdr, raw, &table, &copied) &&
		    table)
			ret = fn(s, table);
	}
	return ret;
}

/* A table beyond the end of the file holds nothing that could be hurt. */
static int add_snapshot_l2(struct survey *s, u64 table)
{
	if (table >= s->img->host_end)
		return 0;
	return qcow2_overlap_add(s->img, qcow2_cluster_index(&s->img->hdr, table));
}

static int add_snapshot(struct survey *s, u32 index, u64 l1, u32 entries)
{
	return add_table(s, "snapshot", index, l1, entries) ?:
		each_l2_table(s, l1, entries, add_snapshot_l2);
}

static int add_snapshots(struct survey *s)
{
	const struct qcow2_header *h = &s->img->hdr;
	u64 end = 0;
	int ret = each_snapshot(s, &end, NULL);

	if (!ret && h->nb_snapshots)
		ret = add_metadata(s, "the snapshot table", h->snapshots_offset,
				   end - h->snapshots_offset);
	return ret ?: each_snapshot(s, &end, add_snapshot);
}

/* ---- bitmaps ---- */

/* Calls @fn for each entry of the bitmap directory, which is at @pos. */
static int each_bitmap(struct survey *s,
		       int (*fn)(struct survey *s, u32 index, u64 pos,
				 const struct qcow2_bitmap_disk *b))
{
	const struct qcow2_header *h = &s->img->hdr;
	u64 pos = h->bitmap_dir_offset, end = pos + h->bitmap_dir_size;
	u32 i;
	int ret = 0;

	for (i = 0; !ret && i < h->nb_bitmaps; i++) {
		struct qcow2_bitmap_disk b;
		u64 len = 0;

		if (end - pos >= sizeof(b)) {
			ret = look(s, &s->dir, pos, &b, sizeof(b));
			if (ret)
				return ret;
			len = round_up(sizeof(b) + (u64)be32_to_cpu(b.extra_len) +
				       be16_to_cpu(b.name_len), 8ull);
		}
		if (!len || len > end - pos)
			return qcow2_corrupt(s->img,
					     "bitmap directory: entry %u is not inside its %llu bytes",
					     i, (unsigned long long)h->bitmap_dir_size);
		ret = fn(s, i, pos, &b);
		pos += len;
	}
	return ret;
}

static int add_bitmap(struct survey *s, u32 index, u64 pos,
		      const struct qcow2_bitmap_disk *b)
{
	u64 table = be64_to_cpu(b->table_offset);
	u32 i, n = be32_to_cpu(b->table_size);
	int ret = add_table(s, "bitmap", index, table, n);

	for (i = 0; !ret && i < n; i++) {
		__be64 raw;
		u64 host;

		ret = look(s, &s->table, table + i * 8ull, &raw, sizeof(raw));
		if (ret)
			break;
		host = be64_to_cpu(raw) & QCOW2_ENTRY_OFFSET;
		/* what is wrong with the contents is a matter of who reads them */
		if (host && host < s->img->host_end)
			ret = add_clusters(s, host, 1);
	}
	return ret;
}

static int add_bitmaps(struct survey *s)
{
	const struct qcow2_header *h = &s->img->hdr;
	int ret = 0;

	if (h->nb_bitmaps)
		ret = add_metadata(s, "the bitmap directory", h->bitmap_dir_offset,
				   h->bitmap_dir_size);
	return ret ?: each_bitmap(s, add_bitmap);
}

static int mark_bitmap(struct survey *s, u32 index, u64 pos,
		       const struct qcow2_bitmap_disk *b)
{
	u64 at = pos + offsetof(struct qcow2_bitmap_disk, flags);
	struct qcow2_iovec v = { round_down(at, (u64)SECTOR), s->table.buf, SECTOR };
	__be32 *flags = (void *)(s->table.buf + (at - v.offset));
	int ret;

	if (be32_to_cpu(b->flags) & BITMAP_IN_USE)
		return 0;
	/* other entries in the sector may have been marked since @b was read */
	ret = qcow2_meta_rw(s->img, false, &v, 1);
	if (ret)
		return ret;
	*flags |= cpu_to_be32(BITMAP_IN_USE);
	return qcow2_meta_rw(s->img, true, &v, 1);
}

/**
 * qcow2_survey_mark_bitmaps() - say that bitmaps do not follow the guest's writes
 * @img: the image, being activated
 *
 * Persistent bitmaps stay, with the flag in_use, which means to whoever reads
 * them that they are inconsistent (specification, "Bitmap directory").
 *
 * Context: may sleep; activate_lock held.
 * Return: 0 with the flags durable; -EUCLEAN (reported); a negative errno.
 */
int qcow2_survey_mark_bitmaps(struct qcow2_image *img)
{
	struct survey s;
	int ret;

	if (!img->hdr.nb_bitmaps)
		return 0;
	ret = start(&s, img);
	if (!ret)
		ret = each_bitmap(&s, mark_bitmap);
	if (!ret)
		ret = qcow2_host_flush(img);
	finish(&s);
	return ret;
}

/* ---------------------------------------------------------------- */

/**
 * qcow2_survey() - collect the clusters that hold metadata
 * @img: the image, being activated; what every image has, and the refcount
 *	blocks, are collected
 *
 * Context: may sleep; activate_lock held.
 * Return: 0; -EUCLEAN (reported); -EROFS with the mode lowered; a negative errno.
 */
int qcow2_survey(struct qcow2_image *img)
{
	struct survey s;
	int ret = start(&s, img);

	if (!ret)
		ret = add_l2_tables(img, false);
	if (!ret)
		ret = add_snapshots(&s);
	s.table_bytes = 0;
	if (!ret)
		ret = add_bitmaps(&s);
	/* the last, because these share their clusters with nothing */
	if (!ret)
		ret = add_l2_tables(img, true);
	finish(&s);
	return ret;
}

/**
 * qcow2_survey_snapshots() - can the snapshot table be read?
 * @img: the image, being opened
 * @err: the reason of a failure, in words
 *
 * QEMU does not open an image whose table it cannot read. What the entries name
 * matters to writers only: see qcow2_survey().
 *
 * Context: may sleep.
 * Return: 0, -EUCLEAN, or a negative errno.
 */
int qcow2_survey_snapshots(struct qcow2_image *img, struct qcow2_error *err)
{
	struct survey s;
	u64 ignored;
	int ret;

	if (!img->hdr.nb_snapshots)
		return 0;
	err->msg[0] = 0;
	ret = start(&s, img);
	s.err = err;
	if (!ret)
		ret = each_snapshot(&s, &ignored, NULL);
	finish(&s);
	if (ret && !*err->msg)
		qcow2_err(err, ret, "the snapshot table at %#llx cannot be read: error %d",
			  (unsigned long long)img->hdr.snapshots_offset, ret);
	return ret;
}

/* ---- an image whose refcounts are not to be trusted ---- */

static int scan_l2_table(struct survey *s, u64 table)
{
	const struct qcow2_header *h = &s->img->hdr;
	u64 pos, cluster = qcow2_cluster_index(h, table);
	u64 step = BIT_ULL(qcow2_l2_entry_bits(h));
	int ret = 0;

	if (READ_ONCE(s->img->closing))
		return -ECANCELED;
	/* beyond the end there are no entries; snapshots share tables */
	if (table >= s->img->host_end || !qcow2_overlap_visit(s->img, cluster))
		return 0;
	for (pos = table; !ret && pos < table + qcow2_cluster_size(h); pos += step) {
		struct qcow2_entry e;
		__be64 raw;

		ret = look(s, &s->l2, pos, &raw, sizeof(raw));
		/* the bitmap of subclusters does not matter here */
		if (ret || qcow2_l2_decode(h, raw, 0, &e) || !e.allocated)
			continue;
		/* beyond the end of the file, too: it must not become valid */
		s->end = max(s->end, qcow2_clusters_for(h, e.host + (e.csize ?: 1)));
	}
	return ret;
}

static int scan_snapshot(struct survey *s, u32 index, u64 l1, u32 entries)
{
	return each_l2_table(s, l1, entries, scan_l2_table);
}

/**
 * qcow2_survey_end() - behind which cluster is nothing in use?
 * @img: the image, activated; nothing has been allocated yet
 * @end: host cluster index
 *
 * Reads every L2 table once, of snapshots too, whatever refcounts say.
 *
 * Context: may sleep, for as long as that takes.
 * Return: 0; -EUCLEAN (reported); a negative errno.
 */
int qcow2_survey_end(struct qcow2_image *img, u64 *end)
{
	struct survey s;
	u64 ignored;
	int ret = start(&s, img);

	qcow2_overlap_unvisit(img); /* an earlier attempt may have failed */
	s.end = qcow2_overlap_end(img);
	/* guest data is in the other file, where the guest has it */
	if (!ret && !qcow2_external(&img->hdr))
		ret = each_l2_table(&s, img->hdr.l1_offset, img->hdr.l1_entries,
				    scan_l2_table);
	if (!ret && !qcow2_external(&img->hdr))
		ret = each_snapshot(&s, &ignored, scan_snapshot);
	*end = s.end;
	finish(&s);
	return ret;
}
