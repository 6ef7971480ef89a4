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
	spin_unlock_irqrestore(&h->jobs_lock, flags);
	/* otherwise somebody is on the way, and wakes the next if need be */
	if (first)
		wake_up(&h->idle);
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
	spin_unlock_irqrestore(&h->jobs_lock, flags);
	wake_up(&h->commit_wait);
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

/* Buffered I/O is done when its submission returns; a job may do anything. */
static bool may_wait(const struct dm_qcow2_io *io)
{
	return io->stage != DM_QCOW2_READY ||
		(!io->host->bdev && !io->host->direct);
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

static int committer(void *data)
{
	struct dm_qcow2_host *h = data;
	struct dm_qcow2_io *io, *next;
	LIST_HEAD(batch);

	enter_io_context();
	while (!kthread_should_stop()) {
		int ret;

		wait_event_idle(h->commit_wait, have_jobs(&h->flushes));
		spin_lock_irq(&h->jobs_lock);
		list_splice_tail_init(&h->flushes, &batch);
		spin_unlock_irq(&h->jobs_lock);
		if (list_empty(&batch))
			continue;
		ret = qcow2_commit(h->img);
		list_for_each_entry_safe(io, next, &batch, link) {
			list_del(&io->link);
			dm_qcow2_finish(io, ret);
		}
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
