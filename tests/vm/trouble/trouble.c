// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module that makes the kernel complain, to see whether tests/vm/run hears
 * it. "insmod trouble.ko make=WHAT".
 */
#include <linux/module.h>
#include <linux/slab.h>

static char *make = "";
module_param(make, charp, 0444);
MODULE_PARM_DESC(make, "warning, oops or leak");

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

static int __init trouble_init(void)
{
	if (!strcmp(make, "warning"))
		WARN_ON(1);
	else if (!strcmp(make, "oops"))
		WRITE_ONCE(*(int *)8, 0);
	else if (!strcmp(make, "leak"))
		make_leak();
	else
		return -EINVAL;
	return 0;
}

static void __exit trouble_exit(void)
{
}

module_init(trouble_init);
module_exit(trouble_exit);

MODULE_DESCRIPTION("Makes the kernel complain");
MODULE_LICENSE("GPL");
