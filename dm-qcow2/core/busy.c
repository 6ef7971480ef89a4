// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the list of guest cluster ranges that are being allocated. It
 * is a plain list: it holds as many ranges as there are allocating writes under
 * way, a few dozen. Whoever owns a range never asks for another, so there is
 * no deadlock.
 */
#include "busy.h"

void qcow2_busy_init(struct qcow2_image *img)
{
	spin_lock_init(&img->busy.lock);
	INIT_LIST_HEAD(&img->busy.ranges);
}

/**
 * qcow2_busy_lock() - own guest clusters
 * @img: the image
 * @r: the range, in use until qcow2_busy_unlock()
 * @first: first guest cluster index
 * @last: last guest cluster index
 * @waiter: woken once when it is worth trying again
 *
 * Context: process; does not sleep.
 * Return: 0, or -EINPROGRESS: not owned, @waiter will be woken.
 */
int qcow2_busy_lock(struct qcow2_image *img, struct qcow2_busy_range *r,
		    u64 first, u64 last, struct qcow2_waiter *waiter)
{
	struct qcow2_busy_range *other;

	spin_lock(&img->busy.lock);
	list_for_each_entry(other, &img->busy.ranges, link) {
		if (first <= other->last && other->first <= last) {
			list_add_tail(&waiter->link, &other->waiters);
			spin_unlock(&img->busy.lock);
			return -EINPROGRESS;
		}
	}
	r->first = first;
	r->last = last;
	INIT_LIST_HEAD(&r->waiters);
	list_add(&r->link, &img->busy.ranges);
	spin_unlock(&img->busy.lock);
	return 0;
}

/**
 * qcow2_busy_unlock() - give the clusters back and wake who waits for them
 * @img: the image
 * @r: an owned range
 *
 * Context: process.
 */
void qcow2_busy_unlock(struct qcow2_image *img, struct qcow2_busy_range *r)
{
	struct qcow2_waiter *w, *next;
	LIST_HEAD(waiters);

	spin_lock(&img->busy.lock);
	list_del(&r->link);
	list_splice_tail_init(&r->waiters, &waiters);
	spin_unlock(&img->busy.lock);
	list_for_each_entry_safe(w, next, &waiters, link) {
		list_del_init(&w->link);
		w->wake(w);
	}
}
