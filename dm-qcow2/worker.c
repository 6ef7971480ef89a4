// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the threads of an image and what they take their work from.
 *
 * Kthreads, not a workqueue: a worker enters a filesystem, which a WQ_MEM_RECLAIM
 * workqueue must not and another cannot promise progress. Of the image, not of
 * the module: with one image on top of another, a common pool could wait for
 * itself. A thread takes a batch of jobs at a time, none of them behind one
 * that may wait. No job holds a thread while it waits for another job.
 *
 * The committer is one more thread. It takes every FLUSH and FUA that has come
 * and serves all of them with one commit. It also waits for guest I/O to end when
 * space is short, or when clusters were discarded and nothing else came; a worker
 * must not: that I/O may need all of them.
 */
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/kthread.h>

#include "dm-qcow2.h"
#include "core/ahead.h"
#include "core/alloc.h"
#include "core/commit.h"

#define BATCH 16
#define TIDY_DELAY (5 * HZ)
#define REST (HZ / 10)	/* of the guest, before metadata is read ahead */

/**
 * dm_qcow2_queue_job() - give a bio to the workers
 * @io: the bio; io->stage says what is to be done
 *
 * Context: any, also hard interrupts.
 */
void dm_qcow2_queue_job(struct dm_qcow2_io *io)
{
	struct dm_qcow2_host *h = io->host;
	unsigned long flags;
	bool first;

	spin_lock_irqsave(&h->jobs_lock, flags);
	first = list_empty(&h->jobs);
	list_add_tail(&io->link, &h->jobs);
	/*
	 * Otherwise somebody is on the way, and wakes the next if need be. Under
	 * the lock: once the bio can be taken, the host may end before we do.
	 */
	if (first)
		wake_up(&h->idle);
	spin_unlock_irqrestore(&h->jobs_lock, flags);
}

/**
 * dm_qcow2_queue_commit() - give a bio to the committer
 * @io: the bio; completed when everything before it is durable
 *
 * Context: any, also hard interrupts.
 */
void dm_qcow2_queue_commit(struct dm_qcow2_io *io)
{
	struct dm_qcow2_host *h = io->host;
	unsigned long flags;

	io->stage = DM_QCOW2_COMMIT;
	spin_lock_irqsave(&h->jobs_lock, flags);
	list_add_tail(&io->link, &h->flushes);
	wake_up(&h->commit_wait); /* under the lock: see above */
	spin_unlock_irqrestore(&h->jobs_lock, flags);
}

/**
 * dm_qcow2_reclaim() - have the committer reclaim space
 * @be: the host
 *
 * Context: process.
 */
void dm_qcow2_reclaim(void *be)
{
	struct dm_qcow2_host *h = be;

	spin_lock_irq(&h->jobs_lock);
	WRITE_ONCE(h->reclaim, true);
	wake_up(&h->commit_wait);
	spin_unlock_irq(&h->jobs_lock);
}

/**
 * dm_qcow2_tidy() - clusters have been discarded
 * @h: the host
 *
 * Their space comes back to the host with the second commit. On an idle device
 * that may be a long time.
 *
 * Context: process context; takes jobs_lock.
 */
void dm_qcow2_tidy(struct dm_qcow2_host *h)
{
	if (READ_ONCE(h->tidy) || !atomic_read(&h->img->nr_frees))
		return;
	spin_lock_irq(&h->jobs_lock);
	WRITE_ONCE(h->tidy, true);
	wake_up(&h->commit_wait);
	spin_unlock_irq(&h->jobs_lock);
}

/* Something that the committer does for a waiting process. */
struct call {
	struct list_head link;
	int (*fn)(struct dm_qcow2_host *h, void *arg);
	void *arg;
	int ret;
	struct completion done;
};

/**
 * dm_qcow2_call() - have the committer call a function
 * @h: the host, its threads running
 * @fn: the function
 * @arg: for @fn
 *
 * Writing back from the caller's own process would depend on it: a signal that
 * kills it ends a filesystem's I/O half way.
 *
 * Context: may sleep.
 * Return: what @fn returns.
 */
int dm_qcow2_call(struct dm_qcow2_host *h,
		  int (*fn)(struct dm_qcow2_host *h, void *arg), void *arg)
{
	struct call c = { .fn = fn, .arg = arg };

	init_completion(&c.done);
	spin_lock_irq(&h->jobs_lock);
	list_add_tail(&c.link, &h->calls);
	wake_up(&h->commit_wait);
	spin_unlock_irq(&h->jobs_lock);
	wait_for_completion(&c.done);
	return c.ret;
}

/* One by one: have_jobs() must not meet a plain write, as a splice does it. */
static void give_back(struct dm_qcow2_host *h, struct list_head *batch)
{
	if (list_empty(batch))
		return;
	spin_lock_irq(&h->jobs_lock);
	while (!list_empty(batch))
		list_move(batch->prev, &h->jobs);
	spin_unlock_irq(&h->jobs_lock);
	wake_up(&h->idle);
}

static bool frozen(const struct dm_qcow2_host *h)
{
	return READ_ONCE(h->inode->i_sb->s_writers.frozen) != SB_UNFROZEN;
}

/*
 * A job may do anything, unless decrypting is all that it does; encrypting waits
 * for pages; buffered I/O is done when its submission returns; a write waits while
 * its filesystem is frozen.
 */
static bool may_wait(const struct dm_qcow2_io *io)
{
	if (io->stage == DM_QCOW2_DECRYPT)
		return false;
	return io->stage != DM_QCOW2_READY || dm_qcow2_buffered(io->holder) ||
		(op_is_write(bio_op(io->bio)) &&
		 (io->crypt || frozen(io->holder)));
}

/*
 * Moves up to BATCH jobs to @batch, none behind one that may wait; returns
 * whether there are more.
 */
static bool take_batch(struct dm_qcow2_host *h, struct list_head *batch)
{
	struct dm_qcow2_io *io;
	bool more;
	int i = 0;

	spin_lock_irq(&h->jobs_lock);
	while (i++ < BATCH && !list_empty(&h->jobs)) {
		io = list_first_entry(&h->jobs, struct dm_qcow2_io, link);
		list_move_tail(&io->link, batch);
		if (may_wait(io))
			break;
	}
	more = !list_empty(&h->jobs);
	spin_unlock_irq(&h->jobs_lock);
	return more;
}

static struct dm_qcow2_io *first_of(struct list_head *batch)
{
	struct dm_qcow2_io *io;

	io = list_first_entry_or_null(batch, struct dm_qcow2_io, link);
	if (io)
		list_del(&io->link);
	return io;
}

/*
 * The last job may wait, or one whose filesystem has been frozen since. It must
 * not find what it waits for in our own plug, from where a thread that goes to
 * sleep hands it to another one.
 */
static void run_batch(struct dm_qcow2_host *h, struct list_head *batch)
{
	struct dm_qcow2_io *io;
	struct blk_plug plug;

	blk_start_plug(&plug);
	while ((io = first_of(batch)) && !may_wait(io))
		dm_qcow2_run_job(io);
	blk_finish_plug(&plug);
	if (!io)
		return;
	give_back(h, batch);
	dm_qcow2_run_job(io);
}

/*
 * Without J: who takes a job looks again. Only the forward pointer is read, which
 * is always written whole; list_empty_careful() looks at the other one, too.
 */
static bool have_jobs(struct list_head *list)
{
	return !list_empty(list) || kthread_should_stop();
}

/* Reclaim must not wait for what waits for reclaim: rules C2 and C3. */
static void enter_io_context(void)
{
	current->flags |= PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE;
}

static int worker(void *data)
{
	struct dm_qcow2_host *h = data;
	LIST_HEAD(batch);

	enter_io_context();
	while (!kthread_should_stop()) {
		wait_event_idle_exclusive(h->idle, have_jobs(&h->jobs));
		if (take_batch(h, &batch))
			wake_up(&h->idle);
		run_batch(h, &batch);
		cond_resched();
	}
	return 0;
}

static void commit_batch(struct dm_qcow2_host *h, struct list_head *batch)
{
	struct dm_qcow2_io *io, *next;
	int ret;

	if (list_empty(batch))
		return;
	ret = qcow2_commit(h->img);
	list_for_each_entry_safe(io, next, batch, link) {
		list_del(&io->link);
		dm_qcow2_finish(io, ret);
	}
}

static void run_calls(struct dm_qcow2_host *h, struct list_head *calls)
{
	struct call *c, *next;

	list_for_each_entry_safe(c, next, calls, link) {
		list_del(&c->link);
		c->ret = c->fn(h, c->arg);
		complete(&c->done);
	}
}

static bool have_commit(struct dm_qcow2_host *h)
{
	return have_jobs(&h->flushes) || have_jobs(&h->calls) ||
		READ_ONCE(h->reclaim);
}

/*
 * Waits for work; true if it is time to tidy up instead, unless the device has
 * been suspended meanwhile.
 */
static bool wait_for_commit(struct dm_qcow2_host *h)
{
	bool tidy;

	wait_event_idle(h->commit_wait, have_commit(h) || READ_ONCE(h->tidy));
	if (have_commit(h) ||
	    wait_event_idle_timeout(h->commit_wait, have_commit(h), TIDY_DELAY))
		return false;
	tidy = READ_ONCE(h->tidy);
	WRITE_ONCE(h->tidy, false);
	return tidy && atomic_read(&h->img->nr_frees);
}

static int committer(void *data)
{
	struct dm_qcow2_host *h = data;
	LIST_HEAD(batch);
	LIST_HEAD(calls);
	bool reclaim, tidy;

	enter_io_context();
	while (!kthread_should_stop()) {
		tidy = wait_for_commit(h);
		spin_lock_irq(&h->jobs_lock);
		reclaim = h->reclaim;
		WRITE_ONCE(h->reclaim, false);
		list_splice_tail_init(&h->flushes, &batch);
		list_splice_tail_init(&h->calls, &calls);
		spin_unlock_irq(&h->jobs_lock);
		commit_batch(h, &batch);
		if (reclaim || tidy)
			qcow2_reclaim(h->img, true);
		run_calls(h, &calls); /* the last of them closes the image */
	}
	return 0;
}

static u64 bios_so_far(const struct dm_qcow2_host *h)
{
	struct dm_qcow2_counts sum;

	dm_qcow2_sum_counts(h, &sum);
	return sum.inlined + sum.worker;
}

/*
 * Nobody has sent a bio since the last look; else waits until that has been so for
 * a while. False: it is time to end.
 */
static bool wait_for_rest(const struct dm_qcow2_host *h, u64 *seen)
{
	u64 now;

	while (!kthread_should_stop()) {
		now = bios_so_far(h);
		if (now == *seen)
			return true;
		*seen = now;
		schedule_timeout_idle(REST);
	}
	return false;
}

/*
 * One read at a time, which is what a bio that comes now waits for; a suspend does
 * not.
 */
static void read_ahead(struct dm_qcow2_host *h, struct qcow2_image *img)
{
	struct qcow2_ahead a = { NULL };
	u64 seen = U64_MAX;
	bool more = true;

	while (more && wait_for_rest(h, &seen)) {
		mutex_lock(&h->ahead_lock);
		more = qcow2_ahead_step(img, &a);
		mutex_unlock(&h->ahead_lock);
	}
	qcow2_ahead_end(&a);
}

/*
 * Looks through a dirty image while the others work, and reads metadata while
 * they do not: the image's, then that of the layers below.
 */
static int scanner(void *data)
{
	struct dm_qcow2_host *h = data;
	const struct qcow2_layer *below = &h->layer;

	enter_io_context();
	qcow2_scan_ahead(h->img);
	for (; h->readahead && below && below->img; below = below->img->backing)
		read_ahead(h, below->img);
	for (;;) {
		set_current_state(TASK_IDLE);
		if (kthread_should_stop())
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

/**
 * dm_qcow2_stop_scanner() - before the image is closed
 * @h: the host
 *
 * Context: may sleep.
 */
void dm_qcow2_stop_scanner(struct dm_qcow2_host *h)
{
	if (!h->scanner)
		return;
	WRITE_ONCE(h->img->closing, true);
	kthread_stop(h->scanner);
	h->scanner = NULL;
}

/**
 * dm_qcow2_start_threads() - start the workers and the committer
 * @h: the host
 *
 * Context: may sleep.
 * Return: 0 or a negative errno, with none running.
 */
int dm_qcow2_start_threads(struct dm_qcow2_host *h)
{
	unsigned int want = port_threads();
	struct task_struct *t;

	t = kthread_run(committer, h, "qcow2_commit");
	if (IS_ERR(t))
		return PTR_ERR(t);
	h->committer = t;
	if (!h->scanner &&
	    (h->readahead || (qcow2_dirty(h->img) && !h->read_only))) {
		t = kthread_run(scanner, h, "qcow2_scan");
		/* without it, the first who needs something reads it */
		h->scanner = IS_ERR(t) ? NULL : t;
	}
	while (h->nr_threads < want) {
		t = kthread_run(worker, h, "qcow2_io/%u", h->nr_threads);
		if (IS_ERR(t)) {
			dm_qcow2_stop_threads(h);
			return PTR_ERR(t);
		}
		h->threads[h->nr_threads++] = t;
	}
	return 0;
}

/**
 * dm_qcow2_stop_threads() - stop them; no job is under way
 * @h: the host
 *
 * Context: may sleep.
 */
void dm_qcow2_stop_threads(struct dm_qcow2_host *h)
{
	while (h->nr_threads)
		kthread_stop(h->threads[--h->nr_threads]);
	if (h->committer)
		kthread_stop(h->committer);
	h->committer = NULL;
}
