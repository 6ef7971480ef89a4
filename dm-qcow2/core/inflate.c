// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns compressed clusters: the memory that decompression needs, and
 * the decompressed clusters that are kept.
 *
 * The memory is an image's own, because it is held while the compressed bytes
 * are read: an image that lies on another one must not hold what that needs to
 * read them. It is reserved when an image's first compressed cluster is met, as
 * most overlays have none, and kept; from then on nothing is allocated. Whoever
 * finds every context or every slot in use waits for one: its holder waits only
 * for the host, or for nothing.
 */
#include "inflate.h"

#define CONTEXT_BYTES (16u << 20)	/* of contexts and slots, roughly, at most */
#define BOUNCE 32768u

/* What one decompression needs. */
struct context {
	struct list_head link;
	void *workspace;
	void *input;	/* compressed bytes, as many as an entry can name */
	void *bounce;	/* for I/O */
};

struct qcow2_inflater {
	spinlock_t lock;	/* N itself */
	wait_queue_head_t wait;
	u64 clock;		/* N */
	unsigned int nr_free;	/* A: contexts, changed under N */
	struct list_head free;	/* N: contexts */
	unsigned int nr;	/* of contexts and of slots */
	struct context contexts[PORT_MAX_THREADS];
	struct qcow2_inflated slots[PORT_MAX_THREADS + 2];
	unsigned int busy;	/* A: slots that are pinned, changed under N */
};

static unsigned int nr_slots(const struct qcow2_inflater *f)
{
	return f->nr + 2;
}

/* The sectors that hold @csize bytes from any offset. */
static u32 input_bytes(u32 cluster_bits)
{
	return (2u << cluster_bits) + 512;
}

static void destroy(struct qcow2_inflater *f)
{
	unsigned int i;

	for (i = 0; i < f->nr; i++) {
		port_vfree(f->contexts[i].workspace);
		port_vfree(f->contexts[i].input);
		port_free(f->contexts[i].bounce);
	}
	for (i = 0; i < nr_slots(f); i++)
		port_vfree(f->slots[i].data);
	port_free(f);
}

static struct qcow2_inflater *create(u32 cluster_bits)
{
	struct qcow2_inflater *f = port_zalloc(sizeof(*f));
	unsigned int i;

	if (!f)
		return NULL;
	f->nr = min_t(u32, port_threads(), CONTEXT_BYTES / (3u << cluster_bits));
	f->nr = max_t(u32, f->nr, 1);
	spin_lock_init(&f->lock);
	init_waitqueue_head(&f->wait);
	INIT_LIST_HEAD(&f->free);
	for (i = 0; i < f->nr; i++) {
		struct context *c = &f->contexts[i];

		c->workspace = port_vzalloc(port_inflate_workspace());
		c->input = port_vzalloc(input_bytes(cluster_bits));
		c->bounce = port_alloc(BOUNCE);
		if (!c->workspace || !c->input || !c->bounce)
			goto fail;
		list_add(&c->link, &f->free);
	}
	f->nr_free = f->nr;
	for (i = 0; i < nr_slots(f); i++) {
		f->slots[i].data = port_vzalloc(1u << cluster_bits);
		if (!f->slots[i].data)
			goto fail;
	}
	return f;
fail:
	destroy(f);
	return NULL;
}

/**
 * qcow2_inflate_exit() - the image reads nothing any more
 * @img: the image
 *
 * Context: may sleep.
 */
void qcow2_inflate_exit(struct qcow2_image *img)
{
	if (img->inflater)
		destroy(img->inflater);
	img->inflater = NULL;
}

/* The image's inflater, made for its first compressed cluster. */
static struct qcow2_inflater *inflater_of(struct qcow2_image *img)
{
	/* pairs with the release below */
	struct qcow2_inflater *f = smp_load_acquire(&img->inflater);

	if (f)
		return f;
	mutex_lock(&img->inflate_lock);
	f = img->inflater;
	if (!f) {
		f = create(img->hdr.cluster_bits);
		/* pairs with the acquire above */
		smp_store_release(&img->inflater, f);
	}
	mutex_unlock(&img->inflate_lock);
	return f;
}

/* ---------------------------------------------------------------- */

/* N held. */
static struct context *take_context(struct qcow2_inflater *f)
{
	struct context *c;

	if (list_empty(&f->free))
		return NULL;
	c = list_first_entry(&f->free, struct context, link);
	list_del(&c->link);
	WRITE_ONCE(f->nr_free, f->nr_free - 1);
	return c;
}

static struct context *get_context(struct qcow2_inflater *f)
{
	struct context *c;

	for (;;) {
		spin_lock(&f->lock);
		c = take_context(f);
		spin_unlock(&f->lock);
		if (c)
			return c;
		wait_event(f->wait, READ_ONCE(f->nr_free));
	}
}

static void put_context(struct qcow2_inflater *f, struct context *c)
{
	spin_lock(&f->lock);
	list_add(&c->link, &f->free);
	WRITE_ONCE(f->nr_free, f->nr_free + 1);
	spin_unlock(&f->lock);
	wake_up_all(&f->wait);
}

/* The compressed bytes; what lies beyond the end of the host is zeros. */
static int read_input(struct qcow2_image *img, struct context *c, u64 host,
		      u32 csize)
{
	u64 pos = host & ~511ull, end = round_up(host + csize, 512ull);
	u64 host_end = round_up(READ_ONCE(img->host_end), 512ull);
	u8 *to = c->input;
	int ret = 0;

	for (; !ret && pos < end; pos += BOUNCE, to += BOUNCE) {
		struct qcow2_iovec v = { pos, c->bounce, min_t(u64, end - pos, BOUNCE) };
		u32 want = v.len;

		v.len = pos < host_end ? min_t(u64, want, host_end - pos) : 0;
		if (v.len)
			ret = img->ops->rw(img->be, false, &v, 1);
		memcpy(to, c->bounce, v.len);
		memset(to + v.len, 0, want - v.len);
	}
	return ret;
}

static int decompress(struct qcow2_image *img, struct qcow2_inflated *s)
{
	struct qcow2_inflater *f = img->inflater;
	struct context *c = get_context(f);
	const u8 *in = (const u8 *)c->input + (s->host & 511);
	int ret = read_input(img, c, s->host, s->csize);

	if (!ret) {
		if (img->hdr.compression == QCOW2_COMPRESSION_ZSTD)
			ret = port_unzstd(c->workspace, s->data,
					  qcow2_cluster_size(&img->hdr), in,
					  s->csize);
		else
			ret = port_inflate(c->workspace, s->data,
					   qcow2_cluster_size(&img->hdr), in,
					   s->csize);
		if (ret) {
			char msg[160];

			snprintf(msg, sizeof(msg),
				 "the compressed cluster at %#llx (at most %u bytes) cannot be decompressed",
				 (unsigned long long)s->host, s->csize);
			img->ops->log(img->be, msg);
		}
	}
	put_context(f, c);
	return ret;
}

/* N held. The slot of this cluster, or the oldest that nobody uses, or NULL. */
static struct qcow2_inflated *find_slot(struct qcow2_inflater *f, u64 host,
					u32 csize, bool *hit)
{
	struct qcow2_inflated *old = NULL;
	unsigned int i;

	*hit = true;
	for (i = 0; i < nr_slots(f); i++) {
		struct qcow2_inflated *s = &f->slots[i];

		if (s->full && s->host == host && s->csize == csize)
			return s;
		if (!s->pins && (!old || !s->full ||
				 (old->full && s->used < old->used)))
			old = s;
	}
	*hit = false;
	return old;
}

/* N held. */
static void unpin(struct qcow2_inflater *f, struct qcow2_inflated *s)
{
	if (!--s->pins)
		WRITE_ONCE(f->busy, f->busy - 1);
}

/**
 * qcow2_inflate_get() - a compressed cluster's contents
 * @img: the image that has it
 * @host: host offset in bytes of the first compressed byte
 * @csize: how many there are at most
 * @out: the cluster, until qcow2_inflate_put()
 *
 * Context: may sleep; hold no other one.
 * Return: 0; -EIO: not what a cluster decompresses from (logged); the error of
 * a read; -ENOMEM, for the first cluster of an image only.
 */
int qcow2_inflate_get(struct qcow2_image *img, u64 host, u32 csize,
		      struct qcow2_inflated **out)
{
	struct qcow2_inflater *f = inflater_of(img);
	struct qcow2_inflated *s;
	bool hit;
	int ret;

	if (!f)
		return -ENOMEM;
again:
	spin_lock(&f->lock);
	s = find_slot(f, host, csize, &hit);
	if (!s) {
		spin_unlock(&f->lock);
		wait_event(f->wait, READ_ONCE(f->busy) < nr_slots(f));
		goto again;
	}
	if (!s->pins++)
		WRITE_ONCE(f->busy, f->busy + 1);
	s->used = ++f->clock;
	if (!hit) {
		s->full = true;
		s->host = host;
		s->csize = csize;
		WRITE_ONCE(s->loading, true);
	}
	spin_unlock(&f->lock);

	if (hit) {
		/* pairs with the release below */
		wait_event(f->wait, !smp_load_acquire(&s->loading));
		spin_lock(&f->lock);
		hit = s->full; /* our pin keeps it from becoming another's */
		if (!hit)
			unpin(f, s);
		spin_unlock(&f->lock);
		if (!hit) {
			/* whoever loaded it failed, and said so; so may we */
			wake_up_all(&f->wait);
			goto again;
		}
		*out = s;
		return 0;
	}

	ret = decompress(img, s);
	spin_lock(&f->lock);
	/* pairs with the acquire above; unpinned, it may be loading for others */
	smp_store_release(&s->loading, false);
	if (ret) {
		s->full = false;
		unpin(f, s);
	}
	spin_unlock(&f->lock);
	wake_up_all(&f->wait);
	*out = s;
	return ret;
}

/**
 * qcow2_inflate_put() - done with a decompressed cluster
 * @img: the image
 * @s: what qcow2_inflate_get() gave
 */
void qcow2_inflate_put(struct qcow2_image *img, struct qcow2_inflated *s)
{
	struct qcow2_inflater *f = img->inflater;

	spin_lock(&f->lock);
	unpin(f, s);
	spin_unlock(&f->lock);
	wake_up_all(&f->wait);
}
