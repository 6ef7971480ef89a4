// SPDX-License-Identifier: GPL-2.0
/*
 * The user-space half of the port that is not inline: the RCU lock, the epochs,
 * decompression. It is not part of the module.
 */
#include "port.h"

#include <zlib.h>
#include <zstd.h>

pthread_rwlock_t port_rcu = PTHREAD_RWLOCK_INITIALIZER;

/*
 * Out of the sight of its callers, as in the kernel: clang's analyzer does not
 * count pins, and would take each put for the last one.
 */
void call_rcu(struct rcu_head *head, void (*fn)(struct rcu_head *head))
{
	synchronize_rcu();
	fn(head);
}

int port_epoch_init(struct port_epoch *e)
{
	memset(e, 0, sizeof(*e));
	pthread_mutex_init(&e->m, NULL);
	pthread_cond_init(&e->c, NULL);
	return 0;
}

void port_epoch_destroy(struct port_epoch *e)
{
	pthread_mutex_destroy(&e->m);
	pthread_cond_destroy(&e->c);
}

int port_epoch_enter(struct port_epoch *e)
{
	int idx;

	pthread_mutex_lock(&e->m);
	idx = e->gen & 1;
	e->active[idx]++;
	pthread_mutex_unlock(&e->m);
	return idx;
}

void port_epoch_exit(struct port_epoch *e, int idx)
{
	pthread_mutex_lock(&e->m);
	if (--e->active[idx] == 0)
		pthread_cond_broadcast(&e->c);
	pthread_mutex_unlock(&e->m);
}

/*
 * Generation n may begin only when nobody is left in n - 2, whose counter it
 * reuses. A cookie is the generation whose beginning, with nobody left in the
 * one before it, ends the wait.
 */
static void advance(struct port_epoch *e, u64 cookie)
{
	while (e->gen < cookie && !e->active[(e->gen + 1) & 1])
		e->gen++;
}

static bool done(struct port_epoch *e, u64 cookie)
{
	advance(e, cookie);
	if (e->gen < cookie)
		return false;
	return e->gen > cookie || !e->active[(cookie - 1) & 1];
}

u64 port_epoch_start(struct port_epoch *e)
{
	u64 cookie;

	pthread_mutex_lock(&e->m);
	cookie = e->gen + 1;
	advance(e, cookie);
	pthread_mutex_unlock(&e->m);
	return cookie;
}

bool port_epoch_done(struct port_epoch *e, u64 cookie)
{
	bool ret;

	pthread_mutex_lock(&e->m);
	ret = done(e, cookie);
	pthread_mutex_unlock(&e->m);
	return ret;
}

void port_epoch_sync(struct port_epoch *e)
{
	u64 cookie = port_epoch_start(e);

	pthread_mutex_lock(&e->m);
	while (!done(e, cookie))
		pthread_cond_wait(&e->c, &e->m);
	pthread_mutex_unlock(&e->m);
}

int port_inflate(void *workspace, void *to, u32 to_len, const void *from,
		 u32 from_len)
{
	z_stream z = {
		.next_in = (void *)from, .avail_in = from_len,
		.next_out = to, .avail_out = to_len,
	};
	int ret;

	if (inflateInit2(&z, -15) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return port_inflated(ret == Z_STREAM_END, ret == Z_BUF_ERROR, z.avail_in,
			     z.avail_out);
}

int port_unzstd(void *workspace, void *to, u32 to_len, const void *from,
		u32 from_len)
{
	while (to_len) {
		size_t n = ZSTD_findFrameCompressedSize(from, from_len), got;

		if (ZSTD_isError(n))
			return -EIO;
		got = ZSTD_decompress(to, to_len, from, n);
		if (ZSTD_isError(got))
			return -EIO;
		from = (const u8 *)from + n;
		from_len -= n;
		to = (u8 *)to + got;
		to_len -= got;
	}
	return 0;
}
