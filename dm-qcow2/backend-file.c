// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns I/O on an image that is a regular file: direct I/O through
 * kiocbs where the filesystem can, buffered where it cannot, and for layers that
 * are to be read through the page cache. It runs in the threads of the image and
 * nowhere else, never in the submitter of a bio (rule C1): stack, journal_info
 * and task flags are ours.
 */
#include <linux/blk-cgroup.h>
#include <linux/falloc.h>
#include <linux/kthread.h>
#include <linux/stat.h>
#include <linux/uio.h>

#include "dm-qcow2.h"

#define GROW_MIN BIT_ULL(20)
#define GROW_MAX (128ull << 20)
#define ZERO_BY_WRITING (128u << 10)
#define STACK_VECS 16

static ssize_t call_iter(struct dm_qcow2_host *h, struct kiocb *iocb,
			 struct iov_iter *iter, bool write)
{
	return write ? h->file->f_op->write_iter(iocb, iter) :
		h->file->f_op->read_iter(iocb, iter);
}

/*
 * One contiguous range, from bvecs, when it returns it is done.
 *
 * A read may end early where the file does, and the rest is zeros. A file that
 * ends before where it ended when we last looked has been cut under us.
 */
static int rw_range(struct dm_qcow2_host *h, bool write, loff_t pos,
		    struct bio_vec *bv, unsigned int nr, size_t len)
{
	/* before the read: the file may grow while it is under way */
	u64 end = dm_qcow2_host_end(h);
	struct iov_iter iter;
	struct kiocb iocb;
	bool direct = !dm_qcow2_buffered(h);
	ssize_t ret;

again:
	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, bv, nr, len);
	init_sync_kiocb(&iocb, h->file);
	iocb.ki_pos = pos;
	iocb.ki_flags = direct ? iocb.ki_flags | IOCB_DIRECT :
		iocb.ki_flags & ~IOCB_DIRECT;
	if (write)
		file_start_write(h->file);
	ret = call_iter(h, &iocb, &iter, write);
	if (write)
		file_end_write(h->file);
	if (direct && (ret == -EINVAL || ret == -ENOTBLK)) {
		direct = false; /* the memory or the place is not to its taste */
		goto again;
	}
	if (ret < 0)
		return ret;
	if (ret == len)
		return 0;
	if (write || pos + ret < end)
		return -EIO;
	/* beyond the end of a file are zeros */
	iov_iter_bvec(&iter, ITER_DEST, bv, nr, len);
	iov_iter_advance(&iter, ret);
	iov_iter_zero(len - ret, &iter);
	return 0;
}

/**
 * dm_qcow2_file_rw() - aligned metadata I/O on a file
 * @h: the host
 * @write: direction
 * @v: the pieces
 * @n: how many
 *
 * Pieces that follow on each other are one request.
 *
 * Context: may sleep; a thread of the image, or construction.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_file_rw(struct dm_qcow2_host *h, bool write,
		     const struct qcow2_iovec *v, unsigned int n)
{
	struct bio_vec stack[STACK_VECS], *bv = stack;
	unsigned int max = STACK_VECS;
	int ret = 0;

	if (n > max) {
		bv = kmalloc_array(n, sizeof(*bv), GFP_NOIO | __GFP_NOWARN);
		if (bv)
			max = n;
		else
			bv = stack;
	}
	while (!ret && n) {
		loff_t pos = v->offset;
		unsigned int i = 0;
		size_t len = 0;

		do {
			bvec_set_page(&bv[i], virt_to_page(v->buf), v->len,
				      offset_in_page(v->buf));
			len += v->len;
			i++;
			v++;
			n--;
		} while (n && i < max && v->offset == pos + len);
		ret = rw_range(h, write, pos, bv, i, len);
	}
	if (bv != stack)
		kfree(bv);
	return ret;
}

static int file_zero(void *be, u64 offset, u64 len)
{
	struct dm_qcow2_host *h = be;
	int ret;

	if (len > ZERO_BY_WRITING) {
		ret = vfs_fallocate(h->file, FALLOC_FL_ZERO_RANGE |
				    FALLOC_FL_KEEP_SIZE, offset, len);
		if (ret != -EOPNOTSUPP)
			return ret;
	}
	return dm_qcow2_write_zeros(h, offset, len);
}

static void file_discard(void *be, u64 offset, u64 len)
{
	struct dm_qcow2_host *h = be;

	/* a filesystem without holes keeps the space */
	vfs_fallocate(h->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      offset, len);
}

static int file_flush(void *be)
{
	struct dm_qcow2_host *h = be;

	return vfs_fsync(h->file, 1);
}

static u64 file_size(void *be)
{
	struct dm_qcow2_host *h = be;

	return i_size_read(file_inode(h->file));
}

static int extend(struct dm_qcow2_host *h, u64 from, u64 to)
{
	int ret = vfs_fallocate(h->file, 0, from, to - from);

	if (ret == -EOPNOTSUPP)
		ret = vfs_truncate(&h->file->f_path, to);
	return ret;
}

/*
 * The file grows ahead of need: writes that extend a file are serialised and
 * journalled by the filesystem, one by one.
 */
static int file_grow(void *be, u64 size)
{
	struct dm_qcow2_host *h = be;
	u64 now = file_size(h);
	u64 step = clamp(now / 8, GROW_MIN, GROW_MAX);
	int ret;

	if (size <= now)
		return 0;
	if (size - now > GROW_MAX) {
		/* far away: only a table in the image says so; leave a hole */
		now = round_down(size - 1, GROW_MIN);
		ret = vfs_truncate(&h->file->f_path, now);
		if (ret)
			return ret;
	}
	ret = extend(h, now, max(size, round_up(now + step, GROW_MIN)));
	if (ret) /* perhaps there is room for just this */
		ret = extend(h, now, size);
	if (!ret)
		WRITE_ONCE(h->end, file_size(h));
	return ret;
}

/* Cut back what the file grew ahead, but nothing that was there before. */
static int file_trim(void *be, u64 size)
{
	struct dm_qcow2_host *h = be;

	size = max_t(u64, size, h->size0);
	if (file_size(h) <= size)
		return 0;
	return vfs_truncate(&h->file->f_path, size);
}

const struct qcow2_backend_ops dm_qcow2_file_ops = {
	.rw = dm_qcow2_rw,
	.zero = file_zero,
	.discard = file_discard,
	.flush = file_flush,
	.grow = file_grow,
	.size = file_size,
	.trim = file_trim,
	.data_read = dm_qcow2_data_read,
	.data_write = dm_qcow2_data_write,
	.log = dm_qcow2_log,
	.mode_changed = dm_qcow2_mode_changed,
	.reclaim = dm_qcow2_reclaim,
	.growable = true,
};

/**
 * dm_qcow2_file_probe() - what the filesystem can do
 * @h: the host, its file open
 *
 * Context: may sleep.
 */
void dm_qcow2_file_probe(struct dm_qcow2_host *h)
{
	struct super_block *sb = file_inode(h->file)->i_sb;
	struct kstat st;

	h->align = SECTOR_SIZE;
	h->direct = h->file->f_mode & FMODE_CAN_ODIRECT;
	if (!h->direct)
		return;
	if (!vfs_getattr(&h->file->f_path, &st, STATX_DIOALIGN, 0) &&
	    (st.result_mask & STATX_DIOALIGN)) {
		h->direct = st.dio_offset_align;
		h->align = max_t(u32, st.dio_offset_align, SECTOR_SIZE);
	} else if (sb->s_bdev) {
		h->align = bdev_logical_block_size(sb->s_bdev);
	}
	if (h->align > PAGE_SIZE) {
		h->direct = false;
		h->align = SECTOR_SIZE;
	}
}

/* ---------------------------------------------------------------- */

/* Zeros for the part of a piece that lies beyond the end of the file. */
static void zero_tail(struct dm_qcow2_io *io, u32 from)
{
	struct bvec_iter iter = io->left;
	struct bio_vec bv;
	struct bvec_iter i;

	bio_advance_iter(io->bio, &iter, from);
	iter.bi_size = io->piece - from;
	__bio_for_each_segment(bv, io->bio, i, iter)
		memzero_bvec(&bv);
}

/* The filesystem's answer in errnos: short I/O is an error. */
static int judge(struct dm_qcow2_io *io)
{
	long ret = io->iocb_ret;

	if (ret < 0)
		return ret;
	if (ret == io->piece)
		return 0;
	if (op_is_write(bio_op(io->bio)) || io->pos + ret < io->host_end)
		return -EIO;
	zero_tail(io, ret);
	return 0;
}

/* Two hold the kiocb: the submitter and the completion. */
static void iocb_put(struct dm_qcow2_io *io)
{
	if (!atomic_dec_and_test(&io->iocb_refs))
		return;
	if (op_is_write(bio_op(io->bio)))
		kiocb_end_write(&io->iocb);
	dm_qcow2_piece_done(io, judge(io));
}

static void iocb_complete(struct kiocb *iocb, long ret)
{
	struct dm_qcow2_io *io = container_of(iocb, struct dm_qcow2_io, iocb);

	io->iocb_ret = ret;
	iocb_put(io);
}

/* The pages of the piece. */
static void piece_iter(struct dm_qcow2_io *io, struct iov_iter *iter, bool write)
{
	struct bvec_iter left, i;
	struct bio *bio = dm_qcow2_piece_bio(io, &left);
	unsigned int nr = 0;
	struct bio_vec bv;

	__bio_for_each_bvec(bv, bio, i, left)
		nr++;
	iov_iter_bvec(iter, write ? ITER_SOURCE : ITER_DEST,
		      __bvec_iter_bvec(bio->bi_io_vec, left), nr, io->piece);
	iter->iov_offset = left.bi_bvec_done;
}

/* A FUA bio overwrites what is mapped durably, or waits for a commit. */
static bool wants_dsync(const struct dm_qcow2_io *io)
{
	return op_is_write(bio_op(io->bio)) && (io->bio->bi_opf & REQ_FUA) &&
		!io->commit;
}

/* Buffered, and done when it returns. */
static void submit_buffered(struct dm_qcow2_io *io, bool write)
{
	struct dm_qcow2_host *h = io->holder;
	struct iov_iter iter;
	struct kiocb iocb;
	ssize_t ret;

	piece_iter(io, &iter, write);
	init_sync_kiocb(&iocb, h->file);
	iocb.ki_pos = io->pos;
	iocb.ki_flags &= ~IOCB_DIRECT;
	if (wants_dsync(io))
		iocb.ki_flags |= IOCB_DSYNC;
	if (write)
		file_start_write(h->file);
	ret = call_iter(h, &iocb, &iter, write);
	if (write)
		file_end_write(h->file);
	io->iocb_ret = ret;
	dm_qcow2_piece_done(io, judge(io));
}

static void submit_direct(struct dm_qcow2_io *io, bool write)
{
	struct dm_qcow2_host *h = io->holder;
	struct iov_iter iter;
	ssize_t ret;

	piece_iter(io, &iter, write);
	memset(&io->iocb, 0, sizeof(io->iocb));
	io->iocb.ki_filp = h->file;
	io->iocb.ki_pos = io->pos;
	io->iocb.ki_complete = iocb_complete;
	io->iocb.ki_flags = IOCB_DIRECT;
	io->iocb.ki_ioprio = bio_prio(io->bio);
	if (wants_dsync(io))
		io->iocb.ki_flags |= IOCB_DSYNC;
	atomic_set(&io->iocb_refs, 2);
	if (write)
		kiocb_start_write(&io->iocb);
	ret = call_iter(h, &io->iocb, &iter, write);
	if (ret == -EINVAL || ret == -ENOTBLK) {
		/* not to its taste: nothing has been done, do it buffered */
		if (write)
			kiocb_end_write(&io->iocb);
		submit_buffered(io, write);
		return;
	}
	if (ret != -EIOCBQUEUED)
		iocb_complete(&io->iocb, ret);
	iocb_put(io);
}

/**
 * dm_qcow2_file_submit() - submit the piece of a bio that has been mapped
 * @io: the bio; pos and piece say what
 *
 * Ends in dm_qcow2_piece_done(). What the filesystem submits meanwhile is
 * charged to the bio's blkcg.
 *
 * Context: a worker.
 */
void dm_qcow2_file_submit(struct dm_qcow2_io *io)
{
	bool write = op_is_write(bio_op(io->bio));
	struct cgroup_subsys_state *css = bio_blkcg_css(io->bio);

	io->host_end = dm_qcow2_host_end(io->holder);
	if (css)
		kthread_associate_blkcg(css);
	if (dm_qcow2_buffered(io->holder))
		submit_buffered(io, write);
	else
		submit_direct(io, write);
	if (css)
		kthread_associate_blkcg(NULL);
}
