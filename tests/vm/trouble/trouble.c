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

static void make_leak(void)
{
	struct kmem_cache *cache = kmem_cache_create("trouble", 100, 0, 0, NULL);

	if (cache && kmem_cache_alloc(cache, GFP_KERNEL))
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
