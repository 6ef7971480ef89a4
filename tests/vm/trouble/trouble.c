// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module that makes the kernel complain, to see whether tests/vm/run hears
 * it. "insmod trouble.ko make=WHAT".
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>

static char *make = "";
module_param(make, charp, 0444);
MODULE_PARM_DESC(make, "what to do wrong; see the end of this file");

/* A cache with a constructor is not merged with another of the same size. */
static void construct(void *object)
{
}

/*
 * More than one object: the one that KFENCE takes as its sample is not in the
 * cache's slabs, and so not missed when the cache goes.
 */
static void make_leak(void)
{
	struct kmem_cache *cache;
	int i;

	cache = kmem_cache_create("trouble", 100, 0, 0, construct);
	if (!cache)
		return;
	for (i = 0; i < 16; i++)
		kmem_cache_alloc(cache, GFP_KERNEL);
	kmem_cache_destroy(cache);
}

static void make_warning(void)
{
	WARN_ON(1);
}

static void make_oops(void)
{
	WRITE_ONCE(*(int *)8, 0);
}

static void make_use_after_free(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	kfree(p);
	OPTIMIZER_HIDE_VAR(p);
	if (p)
		WRITE_ONCE(*p, 1);
}

static int too_far = 40;

static void make_shift(void)
{
	pr_info("%d\n", 1 << READ_ONCE(too_far));
}

static void make_list(void)
{
	LIST_HEAD(head);
	struct list_head entry;

	list_add(&entry, &head);
	list_del(&entry);
	list_del(&entry);
}

static void make_sleep(void)
{
	preempt_disable();
	might_sleep();
	preempt_enable();
}

static DEFINE_MUTEX(one);
static DEFINE_MUTEX(other);

static void make_inversion(void)
{
	mutex_lock(&one);
	mutex_lock(&other);
	mutex_unlock(&other);
	mutex_unlock(&one);

	mutex_lock(&other);
	mutex_lock(&one);
	mutex_unlock(&one);
	mutex_unlock(&other);
}

/* More than one: the last may be found in a register or on a stack. */
static noinline void make_lost(void)
{
	int i;

	for (i = 0; i < 16; i++)
		memset(kmalloc(200, GFP_KERNEL | __GFP_NOFAIL), i, 200);
}

static int raced;

static int race(void *unused)
{
	while (!kthread_should_stop()) {
		raced++;
		barrier();
		cond_resched();
	}
	return 0;
}

static void make_race(void)
{
	struct task_struct *tasks[2];
	int i;

	for (i = 0; i < 2; i++)
		tasks[i] = kthread_run(race, NULL, "race%d", i);
	msleep(5000);
	for (i = 0; i < 2; i++)
		if (!IS_ERR(tasks[i]))
			kthread_stop(tasks[i]);
}

static const struct {
	const char *name;
	void (*function)(void);
} troubles[] = {
	{ "warning", make_warning },
	{ "oops", make_oops },
	{ "leak", make_leak },
	{ "use-after-free", make_use_after_free },
	{ "shift", make_shift },
	{ "list", make_list },
	{ "sleep", make_sleep },
	{ "inversion", make_inversion },
	{ "lost", make_lost },
	{ "race", make_race },
};

static int __init trouble_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(troubles); i++) {
		if (!strcmp(make, troubles[i].name)) {
			troubles[i].function();
			return 0;
		}
	}
	return -EINVAL;
}

static void __exit trouble_exit(void)
{
}

module_init(trouble_init);
module_exit(trouble_exit);

MODULE_DESCRIPTION("Makes the kernel complain");
MODULE_LICENSE("GPL");
