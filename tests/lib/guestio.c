// SPDX-License-Identifier: GPL-2.0
/*
 * Guest reads and writes for tests: see guestio.h.
 */
#include "guestio.h"
#include "commit.h"
#include "data.h"
#include "inflate.h"
#include "map.h"
#include "write.h"
#include "zero.h"

static void wake(struct qcow2_waiter *w)
{
	struct guest_waiter *g = container_of(w, struct guest_waiter, w);

	pthread_mutex_lock(&g->m);
	g->woken = true;
	pthread_cond_signal(&g->c);
	pthread_mutex_unlock(&g->m);
}

void guest_waiter_init(struct guest_waiter *w)
{
	memset(w, 0, sizeof(*w));
	INIT_LIST_HEAD(&w->w.link);
	w->w.wake = wake;
	pthread_mutex_init(&w->m, NULL);
	pthread_cond_init(&w->c, NULL);
}

void guest_waiter_wait(struct guest_waiter *w)
{
	pthread_mutex_lock(&w->m);
	while (!w->woken)
		pthread_cond_wait(&w->c, &w->m);
	w->woken = false;
	pthread_mutex_unlock(&w->m);
}

void guest_waiter_destroy(struct guest_waiter *w)
{
	pthread_mutex_destroy(&w->m);
	pthread_cond_destroy(&w->c);
}

static int read_compressed(const struct qcow2_mapping *m, void *buf)
{
	struct qcow2_inflated *s;
	int ret = qcow2_inflate_get(m->img, m->host, m->csize, &s);

	if (ret)
		return ret;
	memcpy(buf, (u8 *)s->data + m->skip, m->len);
	qcow2_inflate_put(m->img, s);
	return 0;
}

int guest_read(struct qcow2_image *img, u64 offset, void *buf, u64 len)
{
	u8 *p = buf;

	while (len) {
		struct qcow2_mapping m;
		int epoch = port_epoch_enter(&img->epoch);
		int ret = qcow2_map_peek(img, offset, len, &m);

		if (ret)
			ret = qcow2_map(img, offset, len, &m);
		if (!ret && m.kind == QCOW2_COMPRESSED)
			ret = read_compressed(&m, p);
		else if (!ret && qcow2_kind_reads_zero(m.kind))
			memset(p, 0, m.len);
		else if (!ret)
			ret = qcow2_data_read(m.store, offset, m.host, p,
					      m.len);
		port_epoch_exit(&img->epoch, epoch);
		if (ret)
			return ret;
		offset += m.len;
		p += m.len;
		len -= m.len;
	}
	return 0;
}

/* Encrypts a copy. */
static int write_data(struct qcow2_image *img, u64 guest, u64 host, const u8 *p,
		      u64 len)
{
	void *copy;
	int ret;

	if (!img->data.cipher)
		return qcow2_data_write(&img->data, guest, host, (void *)p, len);
	copy = malloc(len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, p, len);
	ret = qcow2_data_write(&img->data, guest, host, copy, len);
	free(copy);
	return ret;
}

static int write_all(struct qcow2_image *img, u64 offset, const u8 *p, u64 len,
		     bool *durable)
{
	struct guest_waiter waiter;
	int ret = 0;

	guest_waiter_init(&waiter);
	while (!ret && len) {
		struct qcow2_write w;

		ret = qcow2_write_begin(img, offset, len, &w, &waiter.w);
		if (ret == -EINPROGRESS) {
			guest_waiter_wait(&waiter);
			ret = 0;
			continue;
		}
		if (ret)
			break;
		*durable &= w.in_place && w.durable;
		ret = write_data(img, offset, w.host, p, w.len);
		ret = qcow2_write_end(img, &w, ret);
		offset += w.len;
		p += w.len;
		len -= w.len;
	}
	guest_waiter_destroy(&waiter);
	return ret;
}

int guest_write(struct qcow2_image *img, u64 offset, const void *buf, u64 len)
{
	bool durable = true;

	return write_all(img, offset, buf, len, &durable);
}

int guest_zero(struct qcow2_image *img, u64 offset, u64 len,
	       enum qcow2_zero_how how)
{
	struct guest_waiter waiter;
	int ret = 0;

	guest_waiter_init(&waiter);
	while (!ret && len) {
		u64 done = 0;

		ret = qcow2_zero(img, offset, len, how, &done, &waiter.w);
		if (ret == -EINPROGRESS) {
			guest_waiter_wait(&waiter);
			ret = 0;
			continue;
		}
		offset += done;
		len -= done;
	}
	guest_waiter_destroy(&waiter);
	return ret;
}

int guest_write_fua(struct qcow2_image *img, u64 offset, const void *buf, u64 len)
{
	bool durable = true;
	int ret = write_all(img, offset, buf, len, &durable);

	if (ret)
		return ret;
	return durable ? img->ops->flush(img->be) : qcow2_commit(img);
}

/* ---------------------------------------------------------------- */

#define STAMP_MAGIC 0x51324d4f54535431ull

static u64 mix(u64 x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185ull;
	x ^= x >> 27;
	x *= 0x81dadef4bc2dd44dull;
	return x ^ x >> 33;
}

void stamp_make(void *block, u64 number, u64 generation)
{
	u64 p[64], sum = mix(number ^ mix(generation ^ STAMP_MAGIC)), i;

	p[0] = STAMP_MAGIC;
	p[1] = number;
	p[2] = generation;
	for (i = 3; i < 64; i++)
		p[i] = sum + i;
	memcpy(block, p, sizeof(p));
}

bool stamp_get(const void *block, u64 number, u64 *generation)
{
	u64 p[64];
	u8 want[512];

	memcpy(p, block, 24);
	if (p[0] != STAMP_MAGIC || p[1] != number)
		return false;
	stamp_make(want, number, p[2]);
	if (memcmp(want, block, sizeof(want)))
		return false;
	*generation = p[2];
	return true;
}

bool stamp_is_any(const void *block)
{
	u64 p[2], generation;

	memcpy(p, block, sizeof(p));
	return stamp_get(block, p[1], &generation);
}

bool stamp_is_zero(const void *block)
{
	static const u8 zeros[512];

	return !memcmp(block, zeros, sizeof(zeros));
}
