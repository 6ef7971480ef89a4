// SPDX-License-Identifier: GPL-2.0
/*
 * What is remembered of lookups in a chain of layers: it is what a lookup layer
 * by layer finds, it is there when the metadata is not, and it stays within its
 * bounds.
 */
#include "crashseq.h"
#include "fixture.h"
#include "layers.h"
#include "resolve.h"

static u64 rng;

static u64 rnd(u64 n)
{
	return seq_random(&rng) % n;
}

/* A random place, often at the edge of a cluster, and a length. */
static void choose(const struct layers *l, u64 *guest, u64 *len)
{
	*guest = rnd(l->size / 512) * 512;
	if (rnd(2))
		*guest = *guest >> 12 << 12;
	*len = (1 + rnd(rnd(4) ? 8 : 256)) * 512;
	*len = min(*len, l->size - *guest);
}

static bool lookup_is_right(struct layers *l, u64 *remembered)
{
	struct qcow2_mapping m;
	u64 guest, len;
	int ret;

	choose(l, &guest, &len);
	ret = qcow2_map_peek(l->img[0], guest, len, &m);
	*remembered += !ret;
	if (ret)
		ret = qcow2_map(l->img[0], guest, len, &m);
	if (!ret && layers_agree(l->img[0], guest, len, &m, &rng))
		return true;
	diag("%llu bytes at %#llx: %d, kind %u, host %#llx, %llu bytes",
	     (unsigned long long)len, (unsigned long long)guest, ret, m.kind,
	     (unsigned long long)m.host, (unsigned long long)m.len);
	return false;
}

/* @seed: of the chain; the smallest cache makes slots collide. */
static void test_random(u64 seed, u64 cache_bytes)
{
	u64 remembered = 0;
	struct layers l;
	bool good = true;
	u32 i;

	rng = seed;
	layers_make(&l, 2 + rnd(LAYERS_MAX - 1), cache_bytes, &rng);
	for (i = 0; good && i < 600; i++) {
		if (i % 50 == 0)
			layers_forget(&l);
		good = lookup_is_right(&l, &remembered);
	}
	ok(good, "chain %llu of %u layers: %llu lookups from memory",
	   (unsigned long long)seed, l.nr, (unsigned long long)remembered);
	layers_destroy(&l);
}

/* ---------------------------------------------------------------- */

/* A chain of images with clusters of 64 KiB, the last with everything. */
struct chain {
	struct fixture f[8];
	struct qcow2_layer as_layer[8];
	u32 nr;
};

static void chain_make(struct chain *c, u32 nr, u64 size, u64 cache_bytes)
{
	u32 i;

	memset(c, 0, sizeof(*c));
	c->nr = nr;
	for (i = nr; i-- > 0;) {
		struct qcow2_config cfg = { .read_only = i,
			.cache_bytes = cache_bytes,
			.backing = i + 1 < nr ? &c->as_layer[i + 1] : NULL };
		struct fixture *f = &c->f[i];
		u64 at;

		fx_make(f, 16, size);
		for (at = 0; i + 1 == nr && at < size; at += f->cs)
			must(mk_map(&f->be, at, QCOW2_DATA, 1, NULL));
		if (cfg.backing) {
			mem_set_be64(&f->be, 8, 512);
			mem_set_be32(&f->be, 16, 4);
		}
		must(qcow2_image_open(f->be.ops, &f->be, &cfg, &f->img, &f->err));
		c->as_layer[i] = (struct qcow2_layer){ .img = f->img, .size = size };
	}
}

static void chain_destroy(struct chain *c)
{
	u32 i;

	for (i = 0; i < c->nr; i++)
		fx_destroy(&c->f[i]);
}

static void chain_forget(struct chain *c)
{
	u32 i;

	for (i = 1; i < c->nr; i++)
		qcow2_cache_drop(c->f[i].img, 0, c->f[i].be.mk_end);
}

static void test_deep(void)
{
	struct qcow2_mapping m;
	struct chain c;
	u64 reads, first;

	chain_make(&c, 8, 4 << 20, 0);
	must(qcow2_map(c.f[0].img, 65536, 4096, &m));
	first = m.host;
	ok(c.f[1].img->resolver && !c.f[0].img->resolver && !c.f[2].img->resolver,
	   "the topmost layer that only reads remembers");
	chain_forget(&c);
	reads = c.f[7].be.seen[MEM_READ];
	ok(!qcow2_map_peek(c.f[0].img, 65536, 1 << 20, &m) &&
	   m.kind == QCOW2_DATA && m.host == first && m.len == 65536 &&
	   m.store->be == &c.f[7].be && !m.in_place, "the whole cluster");
	ok(!qcow2_map_peek(c.f[0].img, 65536 + 1024, 512, &m) &&
	   m.host == first + 1024 && m.len == 512, "and any part of it");
	ok(qcow2_map_peek(c.f[0].img, 0, 512, &m) == -EWOULDBLOCK &&
	   qcow2_map_peek(c.f[0].img, 2 * 65536, 512, &m) == -EWOULDBLOCK,
	   "but not its neighbours");
	is_int(c.f[7].be.seen[MEM_READ], reads, "and nothing was read");
	must(qcow2_map(c.f[0].img, 1024, 2 << 20, &m));
	is_int(m.len, 2 << 20, "a long run is one run");
	chain_forget(&c);
	ok(!qcow2_map_peek(c.f[0].img, 1024, 4 << 20, &m) &&
	   m.len == 33 * 65536 - 1024, "also when it is remembered");
	must(fx_write(&c.f[0], 65536, 65536, 7));
	ok(fx_reads(&c.f[0], 65536, 65536, 7), "what the top has comes first");
	chain_destroy(&c);
}

/* Two overlays over one layer share what it remembers. */
static void test_shared(void)
{
	struct qcow2_config cfg = { 0 };
	struct qcow2_mapping m;
	struct fixture other;
	struct chain c;

	chain_make(&c, 5, 1 << 20, 0);
	fx_make(&other, 12, 1 << 20);
	mem_set_be64(&other.be, 8, 512);
	mem_set_be32(&other.be, 16, 4);
	cfg.backing = &c.as_layer[1];
	must(qcow2_image_open(other.be.ops, &other.be, &cfg, &other.img,
			      &other.err));
	must(qcow2_map(c.f[0].img, 0, 65536, &m));
	chain_forget(&c);
	ok(!qcow2_map_peek(other.img, 4096, 4096, &m) && m.kind == QCOW2_DATA &&
	   m.store->be == &c.f[4].be, "one overlay looked it up for the other");
	fx_destroy(&other);
	chain_destroy(&c);
}

static void test_none_needed(void)
{
	struct qcow2_mapping m;
	struct chain c;

	chain_make(&c, 2, 1 << 20, 0);
	must(qcow2_map(c.f[0].img, 0, 512, &m));
	ok(!c.f[1].img->resolver, "over one image there is nothing to remember");
	chain_destroy(&c);
}

/* The lookup that never waits does not walk for ever. */
static void test_bound(void)
{
	struct qcow2_mapping m;
	struct chain c;
	u32 i;

	chain_make(&c, 8, 1 << 20, 0);
	for (i = 1; i < c.nr; i++)
		must(qcow2_map_top(c.f[i].img, 0, 512, &m));
	ok(qcow2_map_peek(c.f[0].img, 0, 512, &m) == -EWOULDBLOCK,
	   "a chain is too deep to be walked through at once");
	ok(!qcow2_map_peek(c.f[3].img, 0, 512, &m) && m.kind == QCOW2_DATA,
	   "another is not");
	chain_destroy(&c);
}

/* A unit that a layer ends in is not remembered, and is right. */
static void test_odd_end(void)
{
	struct qcow2_mapping m;
	struct chain c;
	u32 i;

	chain_make(&c, 4, 1 << 20, 0);
	c.as_layer[3].size = 65536 + 1024;
	for (i = 0; i < 2; i++) {
		must(qcow2_map(c.f[0].img, 65536 + 512, 4096, &m));
		ok(m.kind == QCOW2_DATA && m.len == 512, "the end of a layer");
		must(qcow2_map(c.f[0].img, 65536 + 1024, 4096, &m));
		ok(m.kind == QCOW2_UNALLOCATED && m.len == 4096, "after it");
	}
	chain_destroy(&c);
}

int main(void)
{
	const char *text = getenv("SEED");
	u64 seed = text ? strtoull(text, NULL, 0) : 1, i;

	test_deep();
	test_shared();
	test_none_needed();
	test_bound();
	test_odd_end();
	for (i = 0; i < 150; i++)
		test_random(seed * 1000 + i, i % 3 ? 0 : 1);
	return tap_end();
}
