// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns the threads of an image and what they take their work from.
 *
 * Kthreads, not a workqueue: a worker enters a filesystem, which a WQ_MEM_RECLAIM
 * workqueue must not and another cannot promise progress. Of the image, not of
 * the module: with one image on top of another, a common pool could wait for
 * itself. A thread takes a batch of jobs at a time; before a job that may wait
 * it gives the rest back. No job holds a thread while it waits for another job.
 *
 * The committer is one more thread. It takes every FLUSH and FUA that has come
 * and serves all of them with one commit.
 */
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/kthread.h>

#include "dm-qcow2.h"
#include "core/commit.h"

#define BATCH 16

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

/* Something that the committer does for a waiting process. */
struct call {
	struct list_head link;
	int (*fn)(struct dm_qcow2_host *h);
	int ret;
	struct completion done;
};

/**
 * dm_qcow2_call() - have the committer call a function
 * @h: the host, its threads running
 * @fn: the function
 *
 * Writing back from the caller's own process would depend on it: a signal that
 * kills it ends a filesystem's I/O half way.
 *
 * Context: may sleep.
 * Return: what @fn returns.
 */
int dm_qcow2_call(struct dm_qcow2_host *h, int (*fn)(struct dm_qcow2_host *h))
{
	struct call c = { .fn = fn };

	init_completion(&c.done);
	spin_lock_irq(&h->jobs_lock);
	list_add_tail(&c.link, &h->calls);
	wake_up(&h->commit_wait);
	spin_unlock_irq(&h->jobs_lock);
	wait_for_completion(&c.done);
	return c.ret;
}

/* Moves up to BATCH jobs to @batch; returns whether there are more. */
static bool take_batch(struct dm_qcow2_host *h, struct list_head *batch)
{
	bool more;
	int i;

	spin_lock_irq(&h->jobs_lock);
	for (i = 0; i < BATCH && !list_empty(&h->jobs); i++)
		list_move_tail(h->jobs.next, batch);
	more = !list_empty(&h->jobs);
	spin_unlock_irq(&h->jobs_lock);
	return more;
}

static void give_back(struct dm_qcow2_host *h, struct list_head *batch)
{
	if (list_empty(batch))
		return;
	spin_lock_irq(&h->jobs_lock);
	list_splice_init(batch, &h->jobs);
	spin_unlock_irq(&h->jobs_lock);
	wake_up(&h->idle);
}

static bool frozen(const struct dm_qcow2_host *h)
{
	return READ_ONCE(h->inode->i_sb->s_writers.frozen) != SB_UNFROZEN;
}

/*
 * A job may do anything; buffered I/O is done when its submission returns; a
 * write waits while its filesystem is frozen.
 */
static bool may_wait(const struct dm_qcow2_io *io)
{
	return io->stage != DM_QCOW2_READY || !io->holder->direct ||
		(op_is_write(bio_op(io->bio)) && frozen(io->holder));
}

static void run_batch(struct dm_qcow2_host *h, struct list_head *batch)
{
	struct blk_plug plug;

	blk_start_plug(&plug);
	while (!list_empty(batch)) {
		struct dm_qcow2_io *io = list_first_entry(batch,
						struct dm_qcow2_io, link);

		list_del(&io->link);
		if (may_wait(io))
			give_back(h, batch);
		dm_qcow2_run_job(io);
	}
	blk_finish_plug(&plug);
}

static bool have_jobs(struct list_head *list)
{
	return !list_empty_careful(list) || kthread_should_stop();
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
		c->ret = c->fn(h);
		complete(&c->done);
	}
}

static int committer(void *data)
{
	struct dm_qcow2_host *h = data;
	LIST_HEAD(batch);
	LIST_HEAD(calls);

	enter_io_context();
	while (!kthread_should_stop()) {
		wait_event_idle(h->commit_wait, have_jobs(&h->flushes) ||
				have_jobs(&h->calls));
		spin_lock_irq(&h->jobs_lock);
		list_splice_tail_init(&h->flushes, &batch);
		list_splice_tail_init(&h->calls, &calls);
		spin_unlock_irq(&h->jobs_lock);
		commit_batch(h, &batch);
		run_calls(h, &calls);
	}
	return 0;
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
	unsigned int want = clamp(2 * num_online_cpus(), 2U,
				  (unsigned int)DM_QCOW2_MAX_THREADS);
	struct task_struct *t;

	t = kthread_run(committer, h, "qcow2_commit");
	if (IS_ERR(t))
		return PTR_ERR(t);
	h->committer = t;
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
