// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns I/O on an image that is a block device.
 */
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/kthread.h>
#include <linux/blk-cgroup.h>

#include "dm-qcow2.h"

/* Several bios, one wait. */
struct batch {
	atomic_t left;
	blk_status_t status;
	struct completion done;
};

static void batch_put(struct batch *b)
{
	if (atomic_dec_and_test(&b->left))
		complete(&b->done);
}

static void batch_end_io(struct bio *bio)
{
	struct batch *b = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(b->status, bio->bi_status);
	bio_put(bio);
	batch_put(b);
}

static unsigned int run_length(const struct qcow2_iovec *v, unsigned int n)
{
	unsigned int i = 1;

	while (i < n && i < BIO_MAX_VECS &&
	       v[i].offset == v[i - 1].offset + v[i - 1].len)
		i++;
	return i;
}

/**
 * dm_qcow2_bdev_rw() - aligned metadata I/O on a block device
 * @h: the host
 * @write: direction
 * @v: the pieces, none crossing a page in memory, or page aligned
 * @n: how many
 *
 * Pieces that follow on each other are one bio; all bios are under way at once.
 * A bio is only waited for after it has been submitted, so the pool behind the
 * bio set cannot run dry for ever.
 *
 * Context: may sleep; a thread of the image, or construction.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_bdev_rw(struct dm_qcow2_host *h, bool write,
		     const struct qcow2_iovec *v, unsigned int n)
{
	blk_opf_t opf = (write ? REQ_OP_WRITE : REQ_OP_READ) | REQ_SYNC |
		REQ_META;
	struct batch b = { .left = ATOMIC_INIT(1) };
	struct blk_plug plug;

	init_completion(&b.done);
	blk_start_plug(&plug);
	while (n) {
		unsigned int i, run = run_length(v, n);
		struct bio *bio = bio_alloc_bioset(h->bdev, run, opf, GFP_NOIO,
						   &h->bs);

		bio->bi_iter.bi_sector = v->offset >> SECTOR_SHIFT;
		bio->bi_private = &b;
		bio->bi_end_io = batch_end_io;
		for (i = 0; i < run; i++)
			if (!bio_add_page(bio, virt_to_page(v[i].buf), v[i].len,
					  offset_in_page(v[i].buf)))
				break;
		if (WARN_ON_ONCE(!i)) {
			bio_put(bio);
			WRITE_ONCE(b.status, BLK_STS_IOERR);
			break;
		}
		atomic_inc(&b.left);
		submit_bio(bio);
		v += i;
		n -= i;
	}
	blk_finish_plug(&plug);
	batch_put(&b);
	wait_for_completion_io(&b.done);
	return blk_status_to_errno(b.status);
}

static int bdev_zero(void *be, u64 offset, u64 len)
{
	struct dm_qcow2_host *h = be;

	if ((offset | len) & (h->align - 1))
		return dm_qcow2_write_zeros(h, offset, len);
	return blkdev_issue_zeroout(h->bdev, offset >> SECTOR_SHIFT,
				    len >> SECTOR_SHIFT, GFP_NOIO, 0);
}

static void bdev_discard(void *be, u64 offset, u64 len)
{
	struct dm_qcow2_host *h = be;

	if (bdev_max_discard_sectors(h->bdev) &&
	    !((offset | len) & (h->align - 1)))
		blkdev_issue_discard(h->bdev, offset >> SECTOR_SHIFT,
				     len >> SECTOR_SHIFT, GFP_NOIO);
}

static int bdev_flush(void *be)
{
	struct dm_qcow2_host *h = be;

	return blkdev_issue_flush(h->bdev);
}

static int bdev_grow(void *be, u64 size)
{
	struct dm_qcow2_host *h = be;

	return size <= bdev_nr_bytes(h->bdev) ? 0 : -ENOSPC;
}

static u64 bdev_size(void *be)
{
	struct dm_qcow2_host *h = be;

	return bdev_nr_bytes(h->bdev);
}

static int bdev_trim(void *be, u64 size)
{
	return 0;
}

const struct qcow2_backend_ops dm_qcow2_bdev_ops = {
	.rw = dm_qcow2_rw,
	.zero = bdev_zero,
	.discard = bdev_discard,
	.flush = bdev_flush,
	.grow = bdev_grow,
	.size = bdev_size,
	.trim = bdev_trim,
	.data_read = dm_qcow2_data_read,
	.data_write = dm_qcow2_data_write,
	.log = dm_qcow2_log,
	.mode_changed = dm_qcow2_mode_changed,
	.reclaim = dm_qcow2_reclaim,
	.growable = false,
};

static void piece_end_io(struct bio *clone)
{
	struct dm_qcow2_io *io = clone->bi_private;
	int error = blk_status_to_errno(clone->bi_status);

	bio_put(clone);
	dm_qcow2_piece_done(io, error);
}

/**
 * dm_qcow2_bdev_submit() - submit the piece of a bio that a worker has mapped
 * @io: the bio; pos and piece say what
 *
 * Ends in dm_qcow2_piece_done(). The clone keeps the blkcg and the priority of
 * the bio.
 *
 * Context: a worker.
 */
void dm_qcow2_bdev_submit(struct dm_qcow2_io *io)
{
	struct dm_qcow2_host *h = io->holder;
	struct bvec_iter iter;
	struct bio *bio = dm_qcow2_piece_bio(io, &iter);
	struct bio *clone = bio_alloc_clone(h->bdev, bio, GFP_NOIO, &h->bs);

	if (bio != io->bio) {
		clone->bi_opf = io->bio->bi_opf;
		clone->bi_ioprio = bio_prio(io->bio);
		bio_clone_blkg_association(clone, io->bio);
	}
	/* nobody would poll for our clone */
	clone->bi_opf &= ~(REQ_PREFLUSH | REQ_POLLED);
	if (io->commit) /* FUA is the committer's part */
		clone->bi_opf &= ~REQ_FUA;
	clone->bi_iter = iter;
	clone->bi_iter.bi_sector = io->pos >> SECTOR_SHIFT;
	clone->bi_private = io;
	clone->bi_end_io = piece_end_io;
	submit_bio(clone);
}
