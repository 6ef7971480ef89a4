// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device-mapper target "qcow2": a qcow2 image, mapped in the kernel.
 *
 * This file owns the target's face to device-mapper: construction, suspend and
 * resume, limits, the module. The way of a bio is in io.c, the format in core/.
 */
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/sched/mm.h>

#include "dm-qcow2.h"
#include "core/commit.h"

static int check_length(struct dm_target *ti, const struct dm_qcow2 *c)
{
	/* it only grows while somebody has it attached */
	sector_t have = READ_ONCE(c->host->img->hdr.size) >> SECTOR_SHIFT;
	unsigned int unit = c->args.sector_size >> SECTOR_SHIFT;

	if (ti->len > have) {
		DMERR("%s: the table asks for %llu sectors, the image has %llu",
		      c->host->name, (unsigned long long)ti->len,
		      (unsigned long long)have);
		ti->error = "The device would be longer than the image";
		return -EINVAL;
	}
	if (ti->len & (unit - 1)) {
		ti->error = "The length is not a multiple of the sector size";
		return -EINVAL;
	}
	return 0;
}

static void set_target(struct dm_target *ti, struct dm_qcow2 *c)
{
	ti->private = c;
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->flush_supported = true;
	ti->discards_supported = true;
	ti->per_io_data_size = sizeof(struct dm_qcow2_io);
	ti->limit_swap_bios = true;
}

static int qcow2_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_qcow2 *c = kzalloc(sizeof(*c), GFP_KERNEL);
	int ret;

	if (!c) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	c->ti = ti;
	ret = dm_qcow2_parse_args(argc, argv, &c->args, &ti->error);
	if (ret)
		goto out;
	if (!(dm_table_get_mode(ti->table) & BLK_OPEN_WRITE))
		c->args.read_only = true;
	ret = dm_qcow2_attach(c, &ti->error);
	if (ret)
		goto out;
	ret = check_length(ti, c);
	if (ret) {
		dm_qcow2_detach(c);
		goto out;
	}
	set_target(ti, c);
	return 0;
out:
	dm_qcow2_free_args(&c->args);
	kfree(c);
	return ret;
}

static void qcow2_dtr(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;

	dm_qcow2_detach(c);
	dm_qcow2_free_args(&c->args);
	kfree(c);
}

/* Whether the user said noflush is only known here. */
static void qcow2_presuspend(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;

	c->noflush = dm_noflush_suspending(ti);
}

static void qcow2_presuspend_undo(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;

	c->noflush = false;
}

/*
 * The second commit carries the decrements of what the first has unlinked. After
 * them the committer leaves the image alone.
 */
static int commit(struct dm_qcow2_host *h, void *arg)
{
	int ret;

	WRITE_ONCE(h->tidy, false);
	ret = qcow2_commit(h->img);
	return ret ?: qcow2_commit_drain(h->img);
}

/*
 * Every bio has ended. Unless the user said noflush, a suspended device is
 * clean (rule O15); cache and locks stay.
 */
static void qcow2_postsuspend(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;

	dm_qcow2_set_running(c, false);
	if (c->noflush) {
		WRITE_ONCE(c->host->tidy, false);
		return;
	}
	if (dm_qcow2_call(c->host, commit, NULL))
		DMERR("%s: suspended, but not everything could be written back",
		      c->host->name);
}

static int qcow2_preresume(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;

	if (dm_qcow2_has_key(c->host->crypt))
		return 0;
	DMERR("%s: the key has been wiped; the message 'key set <reference>' gives it back",
	      c->host->name);
	return -EAGAIN;
}

static void qcow2_resume(struct dm_target *ti)
{
	struct dm_qcow2 *c = ti->private;
	unsigned int noio = memalloc_noio_save();

	c->noflush = false;
	WRITE_ONCE(c->host->img->keep_space, c->args.no_discard_passdown);
	dm_qcow2_set_running(c, true);
	qcow2_retry(c->host->img);
	dm_qcow2_tidy(c->host);
	memalloc_noio_restore(noio);
}

/*
 * By reporting no device we keep dm from stacking limits that do not concern
 * us: discard, write-zeroes, the sector size. What does is in qcow2_io_hints().
 */
static int qcow2_iterate_devices(struct dm_target *ti,
				 iterate_devices_callout_fn fn, void *data)
{
	return 0;
}

/* Longer ones come as several bios: no job is to take minutes. */
#define MAX_ZERO_SECTORS 2097152u

static void qcow2_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct dm_qcow2 *c = ti->private;
	struct dm_qcow2_host *h = c->host, *data = h->data ?: h;
	u32 align = data->align;

	limits->logical_block_size = c->args.sector_size;
	limits->physical_block_size = max(c->args.sector_size, align);
	limits->io_min = limits->physical_block_size;
	limits->io_opt = qcow2_cluster_size(&h->img->hdr);
	limits->discard_granularity = qcow2_sub_size(&h->img->hdr);
	limits->max_hw_discard_sectors = MAX_ZERO_SECTORS;
	limits->max_discard_sectors = MAX_ZERO_SECTORS;
	limits->max_write_zeroes_sectors = MAX_ZERO_SECTORS;
	limits->dma_alignment = SECTOR_SIZE - 1;
	/* a bio goes to what holds the data */
	if (data->bdev)
		limits->dma_alignment = max_t(unsigned int,
					      limits->dma_alignment,
					      bdev_dma_alignment(data->bdev));
	compat_limit_features(limits, data->bdev);
}

/*
 * The version tells the tool what it may use: the first number changes when
 * something is taken away, the second when something comes, the third when
 * something is mended.
 */
static struct target_type qcow2_target = {
	.name = "qcow2",
	.version = { 1, 2, 0 },
	.module = THIS_MODULE,
	.ctr = qcow2_ctr,
	.dtr = qcow2_dtr,
	.map = dm_qcow2_map,
	.end_io = dm_qcow2_end_io,
	.presuspend = qcow2_presuspend,
	.presuspend_undo = qcow2_presuspend_undo,
	.postsuspend = qcow2_postsuspend,
	.preresume = qcow2_preresume,
	.resume = qcow2_resume,
	.status = dm_qcow2_status,
	.message = dm_qcow2_message,
	.iterate_devices = qcow2_iterate_devices,
	.io_hints = qcow2_io_hints,
};

static int __init dm_qcow2_init(void)
{
	return dm_register_target(&qcow2_target);
}

static void __exit dm_qcow2_exit(void)
{
	dm_unregister_target(&qcow2_target);
	/* cached metadata is freed by call_rcu() */
	rcu_barrier();
}

module_init(dm_qcow2_init);
module_exit(dm_qcow2_exit);

MODULE_DESCRIPTION(DM_NAME " target for qcow2 images");
MODULE_LICENSE("GPL");
