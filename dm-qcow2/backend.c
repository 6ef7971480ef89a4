// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns what the two backends share: the choice between them, I/O that
 * is smaller than the host's unit (read-modify-write through one page), and the
 * core's words to the administrator.
 */
#include <linux/highmem.h>
#include <linux/mm.h>

#include "dm-qcow2.h"

/* Aligned I/O on kernel memory. */
static int raw_rw(struct dm_qcow2_host *h, bool write,
		  const struct qcow2_iovec *v, unsigned int n)
{
	return h->bdev ? dm_qcow2_bdev_rw(h, write, v, n) :
		dm_qcow2_file_rw(h, write, v, n);
}

static bool aligned(const struct dm_qcow2_host *h, u64 pos, u64 len)
{
	return !((pos | len) & (h->align - 1));
}

/* Between a bio and memory; advances the bio's iterator. */
static void copy_bio(struct bio *bio, struct bvec_iter *iter, void *buf,
		     u32 len, bool to_bio)
{
	while (len) {
		struct bio_vec bv = bio_iter_iovec(bio, *iter);
		u32 n = min(len, bv.bv_len);
		void *p = bvec_kmap_local(&bv);

		if (to_bio)
			memcpy(p, buf, n);
		else
			memcpy(buf, p, n);
		kunmap_local(p);
		bio_advance_iter_single(bio, iter, n);
		buf += n;
		len -= n;
	}
}

/*
 * Reads or writes any range through the bounce page, a page at a time; the
 * memory is @buf or, without it, the bio. Two writers of one host sector meet
 * at rmw_lock.
 */
static int rmw(struct dm_qcow2_host *h, bool write, u64 pos, u32 len, void *buf,
	       struct bio *bio, struct bvec_iter *iter)
{
	int ret = 0;

	mutex_lock(&h->rmw_lock);
	while (!ret && len) {
		u64 start = round_down(pos, (u64)h->align);
		u32 n = min_t(u64, len, start + PAGE_SIZE - pos);
		u64 end = round_up(pos + n, (u64)h->align);
		struct qcow2_iovec v = { start, h->rmw_page, end - start };
		void *p = h->rmw_page + (pos - start);

		if (!write || start != pos || end != pos + n)
			ret = raw_rw(h, false, &v, 1);
		if (ret)
			break;
		if (bio)
			copy_bio(bio, iter, p, n, !write);
		else if (write)
			memcpy(p, buf, n);
		else
			memcpy(buf, p, n);
		if (write)
			ret = raw_rw(h, true, &v, 1);
		pos += n;
		len -= n;
		buf = buf ? buf + n : NULL;
	}
	mutex_unlock(&h->rmw_lock);
	return ret;
}

/**
 * dm_qcow2_rmw() - read or write kernel memory at any multiple of 512
 * @h: the host
 * @write: direction
 * @pos: host offset in bytes
 * @buf: memory
 * @len: bytes
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_rmw(struct dm_qcow2_host *h, bool write, u64 pos, void *buf,
		 u32 len)
{
	return rmw(h, write, pos, len, buf, NULL, NULL);
}

/**
 * dm_qcow2_rmw_bio() - read or write a piece of a bio at any multiple of 512
 * @io: the bio; pos and piece say what
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_rmw_bio(struct dm_qcow2_io *io)
{
	struct bvec_iter iter;
	struct bio *bio = dm_qcow2_piece_bio(io, &iter);

	return rmw(io->holder, op_is_write(bio_op(io->bio)), io->pos, io->piece,
		   NULL, bio, &iter);
}

/**
 * dm_qcow2_rw() - metadata I/O, see struct qcow2_backend_ops
 * @be: the host
 * @write: direction
 * @v: the pieces
 * @n: how many
 */
int dm_qcow2_rw(void *be, bool write, const struct qcow2_iovec *v,
		unsigned int n)
{
	struct dm_qcow2_host *h = be;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < n; i++)
		if (!aligned(h, v[i].offset, v[i].len))
			break;
	if (i == n)
		return raw_rw(h, write, v, n);
	for (i = 0; !ret && i < n; i++)
		ret = dm_qcow2_rmw(h, write, v[i].offset, v[i].buf, v[i].len);
	return ret;
}

/* The last cluster of a device may be cut short; a file can be read beyond its end. */
int dm_qcow2_data_read(void *be, u64 pos, void *buf, u32 len)
{
	struct dm_qcow2_host *h = be;
	u64 end = h->bdev ? dm_qcow2_host_end(h) : U64_MAX;
	u32 there = pos < end ? min_t(u64, len, end - pos) : 0;
	struct qcow2_iovec v = { pos, buf, there };

	memset(buf + there, 0, len - there);
	return there ? dm_qcow2_rw(be, false, &v, 1) : 0;
}

int dm_qcow2_data_write(void *be, u64 pos, void *buf, u32 len)
{
	struct qcow2_iovec v = { pos, buf, len };

	return dm_qcow2_rw(be, true, &v, 1);
}

/**
 * dm_qcow2_write_zeros() - zero a range by writing zeros
 * @h: the host
 * @pos: host offset in bytes, a multiple of 512
 * @len: bytes, a multiple of 512
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_write_zeros(struct dm_qcow2_host *h, u64 pos, u64 len)
{
	void *zeros = page_address(ZERO_PAGE(0));
	struct qcow2_iovec v[16];
	unsigned int n = 0;
	int ret = 0;

	while (!ret && len) {
		/* pieces that end on page boundaries of the host are aligned */
		u32 step = min_t(u64, len, PAGE_SIZE - (pos & (PAGE_SIZE - 1)));

		v[n++] = (struct qcow2_iovec){ pos, zeros, step };
		pos += step;
		len -= step;
		if (n == ARRAY_SIZE(v) || !len) {
			ret = dm_qcow2_rw(h, true, v, n);
			n = 0;
		}
	}
	return ret;
}

void dm_qcow2_log(void *be, const char *msg)
{
	struct dm_qcow2_host *h = be;

	if (__ratelimit(&h->log_limit))
		DMERR("%s: %s", h->name, msg);
}

/* Every table that uses the image raises an event. */
void dm_qcow2_mode_changed(void *be)
{
	struct dm_qcow2_host *h = be;
	struct dm_qcow2 *c;

	mutex_lock(&h->users_lock);
	list_for_each_entry(c, &h->tables, link)
		dm_table_event(c->ti->table);
	mutex_unlock(&h->users_lock);
}
