// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the life of a bio: the decision in .map, the steps of a job,
 * completion.
 *
 * .map looks the mapping up in memory. Zeros are answered there; data of an
 * image on a block device is remapped there, without allocation or thread; data
 * of an image in a file goes to a worker, mapped already. Everything else goes
 * to a worker as it is, which may sleep: the lookup, the steps of a write, what
 * is smaller than the host's unit.
 *
 * A job handles its bio piece by piece, where a piece is what one mapping
 * covers. A piece is submitted asynchronously; its end queues the job again.
 *
 * Where an image is encrypted, a worker encrypts what is to be written before it
 * submits it, and decrypts what has been read; the rest is the same.
 */
#include <linux/blkdev.h>

#include "dm-qcow2.h"
#include "core/inflate.h"
#include "core/map.h"
#include "core/zero.h"

/* The reserve of pages for what is encrypted is as long: see crypt.c. */
#define MAX_BOUNCE ((u32)(BIO_MAX_VECS * PAGE_SIZE))

static void enter_epoch(struct dm_qcow2_io *io)
{
	io->epoch = port_epoch_enter(&io->host->img->epoch);
	io->in_epoch = true;
}

static void exit_epoch(struct dm_qcow2_io *io)
{
	if (!io->in_epoch)
		return;
	io->in_epoch = false;
	port_epoch_exit(&io->host->img->epoch, io->epoch);
}

/**
 * dm_qcow2_finish() - complete a bio
 * @io: the bio; gone afterwards
 * @error: 0 or a negative errno
 *
 * Context: any.
 */
void dm_qcow2_finish(struct dm_qcow2_io *io, int error)
{
	struct bio *bio = io->bio;

	exit_epoch(io);
	io->stage = DM_QCOW2_DONE;
	if (error == -EUCLEAN || error == -EROFS || error == -EOPNOTSUPP ||
	    error == -ENOKEY)
		error = -EIO;
	bio->bi_status = errno_to_blk_status(error);
	bio_endio(bio);
}

/* Everything of the bio has been handled, or the first error has come. */
static void finish_or_commit(struct dm_qcow2_io *io, int error)
{
	exit_epoch(io);
	if (!error && io->commit)
		dm_qcow2_queue_commit(io);
	else
		dm_qcow2_finish(io, error);
}

static void advance(struct dm_qcow2_io *io, u32 bytes)
{
	bio_advance_iter(io->bio, &io->left, bytes);
	io->guest += bytes;
}

/**
 * dm_qcow2_piece_done() - the host has done a piece, or not
 * @io: the bio
 * @error: 0 or a negative errno
 *
 * Context: any, also hard interrupts: what may sleep goes to a worker.
 */
void dm_qcow2_piece_done(struct dm_qcow2_io *io, int error)
{
	dm_qcow2_free_bounce(io);
	if (!error && io->crypt && bio_op(io->bio) == REQ_OP_READ) {
		io->stage = DM_QCOW2_DECRYPT;
		dm_qcow2_queue_job(io);
		return;
	}
	if (!io->stepping && (error || io->piece == io->left.bi_size)) {
		finish_or_commit(io, error);
		return;
	}
	io->error = error;
	io->stage = DM_QCOW2_LINK;
	dm_qcow2_queue_job(io);
}

static bool aligned(const struct dm_qcow2_io *io)
{
	return !((io->pos | io->piece) & (io->holder->align - 1));
}

static void submit(struct dm_qcow2_io *io)
{
	struct dm_qcow2_host *h = io->holder;
	int ret = 0;

	if (io->crypt && op_is_write(bio_op(io->bio)))
		ret = dm_qcow2_encrypt(io);
	io->stage = DM_QCOW2_SUBMITTED;
	if (ret)
		dm_qcow2_piece_done(io, ret);
	else if (!aligned(io))
		dm_qcow2_piece_done(io, dm_qcow2_rmw_bio(io));
	else if (h->bdev)
		dm_qcow2_bdev_submit(io);
	else
		dm_qcow2_file_submit(io);
}

static void zero_piece(struct dm_qcow2_io *io, u32 len)
{
	struct bvec_iter iter = io->left, i;
	struct bio_vec bv;

	iter.bi_size = len;
	__bio_for_each_segment(bv, io->bio, i, iter)
		memzero_bvec(&bv);
}

/*
 * The last cluster of a block device may be cut short; beyond the end are zeros,
 * as beyond the end of a file. Returns whether anything is left to read.
 */
static bool clip(const struct dm_qcow2_host *h, struct qcow2_mapping *m)
{
	u64 end = dm_qcow2_host_end(h);

	if (!h->bdev)
		return true;
	if (m->host >= end)
		return false;
	m->len = min(m->len, end - m->host);
	return true;
}

/* Where the piece is. */
static void hold(struct dm_qcow2_io *io, const struct qcow2_mapping *m)
{
	io->holder = m->store->be;
	io->crypt = dm_qcow2_crypt_of(m->store->cipher);
	io->pos = m->host;
}

/* A piece that lies in a compressed cluster. */
static int read_compressed(struct dm_qcow2_io *io, const struct qcow2_mapping *m)
{
	struct bvec_iter iter = io->left;
	struct qcow2_inflated *s;
	struct bvec_iter i;
	struct bio_vec bv;
	const void *from;
	int ret;

	ret = qcow2_inflate_get(m->img, m->host, m->csize, &s);
	if (ret)
		return ret;
	from = s->data + m->skip;
	iter.bi_size = m->len;
	__bio_for_each_segment(bv, io->bio, i, iter) {
		memcpy_to_bvec(&bv, from);
		from += bv.bv_len;
	}
	qcow2_inflate_put(m->img, s);
	return 0;
}

/* Looks up and submits the next piece of a read. */
static void read_next(struct dm_qcow2_io *io)
{
	struct qcow2_image *img = io->host->img;
	struct qcow2_mapping m;
	int ret = 0;

	while (!ret && io->left.bi_size) {
		enter_epoch(io);
		ret = qcow2_map(img, io->guest, io->left.bi_size, &m);
		if (ret)
			break;
		if (m.kind == QCOW2_DATA && clip(m.store->be, &m)) {
			hold(io, &m);
			io->piece = m.len;
			submit(io);
			return;
		}
		if (m.kind == QCOW2_COMPRESSED)
			ret = read_compressed(io, &m);
		else
			zero_piece(io, m.len);
		exit_epoch(io);
		advance(io, m.len);
		cond_resched();
	}
	finish_or_commit(io, ret);
}

/* A waiter in core/busy.c is told that it may try again. */
static void try_again(struct qcow2_waiter *w)
{
	struct dm_qcow2_io *io = container_of(w, struct dm_qcow2_io, waiter);

	dm_qcow2_queue_job(io);
}

/* Begins the next step of a write and submits its piece. */
static void write_next(struct dm_qcow2_io *io)
{
	struct qcow2_image *img = io->host->img;
	u32 len = io->left.bi_size;
	int ret;

	if (!len) {
		finish_or_commit(io, 0);
		return;
	}
	if (img->data.cipher)
		len = min(len, MAX_BOUNCE);
	io->waiter.wake = try_again;
	/* may be queued again by try_again() before this returns */
	ret = qcow2_write_begin(img, io->guest, len, &io->write, &io->waiter);
	if (ret == -EINPROGRESS)
		return;
	if (ret) {
		dm_qcow2_finish(io, ret);
		return;
	}
	io->stepping = true;
	io->holder = img->data.be;
	io->crypt = dm_qcow2_crypt_of(img->data.cipher);
	io->pos = io->write.host;
	io->piece = io->write.len;
	submit(io);
}

static enum qcow2_zero_how how_to_zero(const struct bio *bio)
{
	if (bio_op(bio) == REQ_OP_DISCARD)
		return QCOW2_DISCARD;
	return bio->bi_opf & REQ_NOUNMAP ? QCOW2_ZERO_KEEP : QCOW2_ZERO_FREE;
}

/* Does what is left of a discard or write-zeroes, unless it has to wait. */
static void zero_next(struct dm_qcow2_io *io)
{
	int ret = 0;
	u64 done;

	io->waiter.wake = try_again;
	while (!ret && io->left.bi_size) {
		/* may be queued again by try_again() before this returns */
		ret = qcow2_zero(io->host->img, io->guest, io->left.bi_size,
				 how_to_zero(io->bio), &done, &io->waiter);
		if (ret == -EINPROGRESS)
			return;
		if (!ret)
			advance(io, done);
		cond_resched();
	}
	dm_qcow2_tidy(io->host);
	finish_or_commit(io, ret);
}

/* A piece of a step has come back: link it, or give its clusters back. */
static void end_step(struct dm_qcow2_io *io)
{
	if (!io->stepping)
		return;
	io->stepping = false;
	io->error = qcow2_write_end(io->host->img, &io->write, io->error);
}

/*
 * A piece has been read. What comes after it is another job: this one does not
 * wait, see may_wait().
 */
static void decrypt(struct dm_qcow2_io *io)
{
	int ret = dm_qcow2_decrypt(io);

	exit_epoch(io);
	if (ret || io->piece == io->left.bi_size) {
		dm_qcow2_finish(io, ret);
		return;
	}
	advance(io, io->piece);
	io->stage = DM_QCOW2_MAP;
	dm_qcow2_queue_job(io);
}

/**
 * dm_qcow2_run_job() - take a bio on from where it is
 * @io: the bio; may be gone when this returns
 *
 * Context: a worker.
 */
void dm_qcow2_run_job(struct dm_qcow2_io *io)
{
	if (io->stage == DM_QCOW2_READY) {
		submit(io);
		return;
	}
	if (io->stage == DM_QCOW2_DECRYPT) {
		decrypt(io);
		return;
	}
	if (io->stage == DM_QCOW2_LINK) {
		end_step(io);
		exit_epoch(io);
		if (io->error || io->piece == io->left.bi_size) {
			finish_or_commit(io, io->error);
			return;
		}
		advance(io, io->piece);
		io->stage = DM_QCOW2_MAP;
	}
	if (bio_op(io->bio) == REQ_OP_READ)
		read_next(io);
	else if (bio_op(io->bio) == REQ_OP_WRITE)
		write_next(io);
	else
		zero_next(io);
}

/* ---------------------------------------------------------------- */

static int to_worker(struct dm_qcow2_io *io, enum dm_qcow2_stage stage)
{
	this_cpu_inc(io->host->counts->worker);
	io->stage = stage;
	dm_qcow2_queue_job(io);
	return DM_MAPIO_SUBMITTED;
}

/* Needs a lookup that may sleep, or more than a lookup. */
static int slow(struct dm_qcow2_io *io)
{
	exit_epoch(io);
	/* the data is durable with the commit that links it */
	io->commit = io->bio->bi_opf & REQ_FUA;
	return to_worker(io, DM_QCOW2_MAP);
}

static bool may_overwrite(struct dm_qcow2_io *io, const struct qcow2_mapping *m)
{
	return m->kind == QCOW2_DATA && m->in_place &&
		qcow2_mode(io->host->img) < QCOW2_READ_ONLY &&
		(m->durable || !(io->bio->bi_opf & REQ_FUA));
}

/* Takes as much of the bio as the mapping covers; dm sends the rest again. */
static void accept(struct dm_qcow2_io *io, u32 len)
{
	if (len < io->bio->bi_iter.bi_size)
		dm_accept_partial_bio(io->bio, len >> SECTOR_SHIFT);
	io->left = io->bio->bi_iter;
	io->piece = len;
}

static int map_zeros(struct dm_qcow2_io *io, u32 len)
{
	exit_epoch(io);
	accept(io, len);
	this_cpu_inc(io->host->counts->inlined);
	zero_fill_bio(io->bio);
	bio_endio(io->bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_data(struct dm_qcow2_io *io, const struct qcow2_mapping *m)
{
	struct dm_qcow2_host *h = m->store->be;

	hold(io, m);
	io->piece = m->len;
	if (io->crypt && op_is_write(bio_op(io->bio)))
		io->piece = min(io->piece, MAX_BOUNCE);
	/* smaller than the holder's unit, or cut off by the end of a device */
	if (!aligned(io) || (h->bdev && m->host + m->len > dm_qcow2_host_end(h)))
		return slow(io);
	accept(io, io->piece);
	if (!h->bdev || (io->crypt && op_is_write(bio_op(io->bio))))
		return to_worker(io, DM_QCOW2_READY);
	this_cpu_inc(io->host->counts->inlined);
	bio_set_dev(io->bio, h->bdev);
	io->bio->bi_iter.bi_sector = m->host >> SECTOR_SHIFT;
	return DM_MAPIO_REMAPPED;
}

static void init_io(struct dm_qcow2_io *io, struct dm_qcow2 *c, struct bio *bio)
{
	io->bio = bio;
	io->host = c->host;
	io->holder = c->host;
	io->crypt = NULL;
	io->bounce = NULL;
	io->guest = dm_target_offset(c->ti, bio->bi_iter.bi_sector) << SECTOR_SHIFT;
	io->stage = DM_QCOW2_NEW;
	io->commit = false;
	io->in_epoch = false;
	io->stepping = false;
	io->error = 0;
	io->left = bio->bi_iter;
}

static bool handled(enum req_op op)
{
	return op == REQ_OP_READ || op == REQ_OP_WRITE ||
		op == REQ_OP_DISCARD || op == REQ_OP_WRITE_ZEROES;
}

/**
 * dm_qcow2_map() - .map of the target
 * @ti: the target
 * @bio: a bio that dm made for us
 *
 * Never waits and never allocates.
 *
 * Context: whoever submits the bio.
 * Return: DM_MAPIO_REMAPPED, _SUBMITTED or _KILL.
 */
int dm_qcow2_map(struct dm_target *ti, struct bio *bio)
{
	struct dm_qcow2 *c = ti->private;
	struct qcow2_image *img = c->host->img;
	struct dm_qcow2_io *io = dm_per_bio_data(bio, sizeof(*io));
	bool write = op_is_write(bio_op(bio));
	struct qcow2_mapping m;

	init_io(io, c, bio);
	if (bio->bi_opf & REQ_PREFLUSH) {
		/* dm sends data that came with a flush after it */
		dm_qcow2_queue_commit(io);
		return DM_MAPIO_SUBMITTED;
	}
	if (unlikely(!handled(bio_op(bio))))
		return DM_MAPIO_KILL;
	if (unlikely(qcow2_mode(img) == QCOW2_FAILED ||
		     (write && (c->args.read_only ||
				qcow2_mode(img) >= QCOW2_READ_ONLY))))
		return DM_MAPIO_KILL;

	if (unlikely(write && bio_op(bio) != REQ_OP_WRITE))
		return slow(io);
	enter_epoch(io);
	if (qcow2_map_peek(img, io->guest, bio->bi_iter.bi_size, &m))
		return slow(io);
	if (write)
		return may_overwrite(io, &m) ? map_data(io, &m) : slow(io);
	if (m.kind == QCOW2_DATA)
		return map_data(io, &m);
	if (qcow2_kind_reads_zero(m.kind))
		return map_zeros(io, m.len);
	return slow(io);
}

/**
 * dm_qcow2_end_io() - .end_io of the target: a remapped bio has ended, or one that
 * we have ended
 * @ti: the target
 * @bio: the bio
 * @error: its status, not changed
 *
 * A remapped read of encrypted data is not done yet: a worker decrypts it and ends
 * it again.
 *
 * Context: any.
 */
int dm_qcow2_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct dm_qcow2_io *io = dm_per_bio_data(bio, sizeof(*io));

	exit_epoch(io);
	if (io->stage == DM_QCOW2_NEW && io->crypt && !*error) {
		io->stage = DM_QCOW2_DECRYPT;
		dm_qcow2_queue_job(io);
		return DM_ENDIO_INCOMPLETE;
	}
	return DM_ENDIO_DONE;
}
