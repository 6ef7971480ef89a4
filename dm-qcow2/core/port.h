/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The one door between the core and its environment.
 *
 * The core is written against the names of the kernel. In the module this file
 * includes the kernel's headers; in the tools and the tests it includes
 * port-user.h, which gives the same names on pthreads. The core includes
 * nothing else of either world.
 */
#ifndef QCOW2_PORT_H
#define QCOW2_PORT_H

#define PORT_MAX_THREADS 32u

#ifdef __KERNEL__

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/bug.h>
#include <linux/build_bug.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/mempool.h>
#include <linux/minmax.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/string.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/zlib.h>
#include <linux/zstd.h>
#include <asm/byteorder.h>

#ifndef CONFIG_64BIT
#error "dm-qcow2 needs a 64-bit kernel: table entries are read without a lock"
#endif
#ifdef CONFIG_TINY_SRCU
#error "dm-qcow2 needs CONFIG_SMP: the SRCU of others cannot end in an interrupt"
#endif

/*
 * Memory of the core. Everything is allocated without I/O: the image may be
 * what reclaim is waiting for. Blocks are naturally aligned up to a page, so
 * that they can be given to direct I/O.
 */
static inline void *port_alloc(size_t size)
{
	return kmalloc(size, GFP_NOIO);
}

static inline void *port_zalloc(size_t size)
{
	return kzalloc(size, GFP_NOIO);
}

static inline void port_free(void *p)
{
	kfree(p);
}

/* Large arrays, never given to I/O. */
static inline void *port_vzalloc(size_t size)
{
	unsigned int noio = memalloc_noio_save();
	void *p = kvzalloc(size, GFP_KERNEL);

	memalloc_noio_restore(noio);
	return p;
}

static inline void port_vfree(void *p)
{
	kvfree(p);
}

static inline void port_sort(void *base, size_t n, size_t size,
			     int (*cmp)(const void *, const void *))
{
	sort(base, n, size, cmp, NULL);
}

/*
 * Buffers for copying. One is kept, so that somebody always gets on; there are
 * more while there is memory. Nobody takes two.
 */
struct port_pool {
	mempool_t pool;
};

static inline int port_pool_init(struct port_pool *p, size_t size)
{
	unsigned int noio = memalloc_noio_save();
	int ret = mempool_init_kmalloc_pool(&p->pool, 1, size);

	memalloc_noio_restore(noio);
	return ret;
}

static inline bool port_pool_ready(const struct port_pool *p)
{
	return mempool_initialized((mempool_t *)&p->pool);
}

static inline void port_pool_exit(struct port_pool *p)
{
	mempool_exit(&p->pool);
}

/* May sleep; never NULL. */
static inline void *port_pool_get(struct port_pool *p)
{
	return mempool_alloc(&p->pool, GFP_NOIO);
}

static inline void port_pool_put(struct port_pool *p, void *buf)
{
	mempool_free(buf, &p->pool);
}

/*
 * An epoch tells when every I/O that was mapped before a moment has ended:
 * port_epoch_enter() before the lookup, port_epoch_exit() after the I/O, from
 * any context. It is SRCU without its lockdep half, because the two ends of a
 * bio run in different tasks. For the same reason sparse, which wants both ends
 * in one function, is told that each is balanced in itself.
 */
struct port_epoch {
	struct srcu_struct srcu;
};

static inline int port_epoch_init(struct port_epoch *e)
{
	return init_srcu_struct(&e->srcu);
}

static inline void port_epoch_destroy(struct port_epoch *e)
{
	/* a grace period that somebody started and nobody waited for must end */
	synchronize_srcu(&e->srcu);
	cleanup_srcu_struct(&e->srcu);
}

static inline int port_epoch_enter(struct port_epoch *e)
{
	int idx = __srcu_read_lock(&e->srcu);

	__release(&e->srcu);
	return idx;
}

static inline void port_epoch_exit(struct port_epoch *e, int idx)
{
	__acquire(&e->srcu);
	__srcu_read_unlock(&e->srcu, idx);
}

/* A cookie for port_epoch_done(); never sleeps. */
static inline u64 port_epoch_start(struct port_epoch *e)
{
	return start_poll_synchronize_srcu(&e->srcu);
}

static inline bool port_epoch_done(struct port_epoch *e, u64 cookie)
{
	return poll_state_synchronize_srcu(&e->srcu, cookie);
}

/* Waits for every I/O now under way; may sleep. */
static inline void port_epoch_sync(struct port_epoch *e)
{
	synchronize_srcu(&e->srcu);
}

/*
 * What runs at the same time for one image: a thread for each CPU, and some more
 * where there are few of them, as they wait for the host now and then.
 */
static inline u32 port_threads(void)
{
	u32 cpus = num_online_cpus();

	return min(max(cpus, min(2 * cpus, 8u)), PORT_MAX_THREADS);
}

/* Bytes from port_vzalloc() that port_inflate() and port_unzstd() work in. */
static inline size_t port_inflate_workspace(void)
{
	return max_t(size_t, zlib_inflate_workspacesize(),
		     zstd_dctx_workspace_bound());
}

#else
#include "port-user.h"
#endif

/*
 * Is a raw deflate stream what a cluster was compressed to? It fills the cluster
 * and then ends, or the input does, of which only the sectors are known.
 */
static inline int port_inflated(bool ended, bool starved, u32 in_left,
				u32 out_left)
{
	return !out_left && (ended || (starved && !in_left)) ? 0 : -EIO;
}

#ifdef __KERNEL__
static inline int port_inflate(void *workspace, void *to, u32 to_len,
			       const void *from, u32 from_len)
{
	struct z_stream_s z = {
		.next_in = from, .avail_in = from_len,
		.next_out = to, .avail_out = to_len,
		.workspace = workspace,
	};
	int ret;

	if (zlib_inflateInit2(&z, -MAX_WBITS) != Z_OK)
		return -EIO;
	ret = zlib_inflate(&z, Z_FINISH);
	zlib_inflateEnd(&z);
	return port_inflated(ret == Z_STREAM_END, ret == Z_BUF_ERROR, z.avail_in,
			     z.avail_out);
}

/*
 * Frame by frame, because a decoder of streams would let the image choose how
 * much memory it takes.
 */
static inline int port_unzstd(void *workspace, void *to, u32 to_len,
			      const void *from, u32 from_len)
{
	zstd_dctx *d = zstd_init_dctx(workspace, zstd_dctx_workspace_bound());

	if (!d)
		return -EIO;
	while (to_len) {
		size_t n = zstd_find_frame_compressed_size(from, from_len), got;

		if (zstd_is_error(n))
			return -EIO;
		got = zstd_decompress_dctx(d, to, to_len, from, n);
		if (zstd_is_error(got))
			return -EIO;
		from += n;
		from_len -= n;
		to += got;
		to_len -= got;
	}
	return 0;
}
#endif

#endif /* QCOW2_PORT_H */
