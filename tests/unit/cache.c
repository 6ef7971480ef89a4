// SPDX-License-Identifier: GPL-2.0
/*
 * The cache of metadata: its bound, eviction, waiters for a load, kinds; and
 * large work with the smallest cache there is.
 */
#include "allocs.h"
#include "fixture.h"

#include <unistd.h>

#define TINY 1		/* as small as the core lets it be: 64 blocks */
#define SMALLEST 64

static void make(struct fixture *f, u64 clusters)
{
	u64 i;

	fx_make(f, 9, clusters * 512);
	/* a table for every 64 clusters: each is one block of the cache */
	for (i = 0; i < clusters; i += 64) {
		u64 host;

		must(mk_map(&f->be, i * 512, QCOW2_DATA, 1, &host));
		fx_store(f, host, i * 512, 512, i + 1);
	}
	fx_open_with(f, TINY);
}

static void test_bound(void)
{
	struct fixture f;
	u64 i, bad = 0, most = 0;

	make(&f, 1 << 16);
	is_int(f.img->cache.max_blocks, SMALLEST, "the smallest cache");
	for (i = 0; i < 1 << 16; i += 64) {
		bad += !fx_reads(&f, i * 512, 512, i + 1);
		most = max_t(u64, most, f.img->cache.nr_blocks);
	}
	is_int(bad, 0, "1024 tables are read through it");
	is_int(most, SMALLEST, "and the bound is kept");
	fx_destroy(&f);
}

/* What is used stays, what is not goes. */
static void test_second_chance(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 i, reads, missed = 0;

	make(&f, 1 << 16);
	must(qcow2_map(f.img, 0, 512, &m));
	for (i = 64; i < 20000; i += 64) {
		must(qcow2_map(f.img, i * 512, 512, &m));
		missed += qcow2_map_peek(f.img, 0, 512, &m) != 0;
		reads = f.be.seen[MEM_READ];
		must(qcow2_map(f.img, 0, 512, &m));
		missed += f.be.seen[MEM_READ] != reads;
	}
	is_int(missed, 0, "a block in use is not evicted");
	ok(qcow2_map_peek(f.img, 128 * 512, 512, &m) == -EWOULDBLOCK,
	   "one that is not used is");
	fx_destroy(&f);
}

static void test_dirty_stays(void)
{
	struct fixture f;
	u64 i, bad = 0, most = 0;

	fx_make(&f, 9, 16 << 20);
	fx_open_with(&f, TINY);
	for (i = 0; i < 16 << 20; i += 32768 - 512) {
		must(fx_write(&f, i, 512, 7));
		most = max_t(u64, most, f.img->cache.nr_blocks);
	}
	ok(atomic64_read(&f.img->stats.commits) > 4,
	   "dirty blocks make a commit before they fill the cache");
	/* dirty and pinned blocks may exceed the bound, not run away with it */
	ok(most <= 2 * SMALLEST, "%llu blocks at most", (unsigned long long)most);
	for (i = 0; i < 16 << 20; i += 32768 - 512)
		bad += !fx_reads(&f, i, 512, 7);
	is_int(bad, 0, "nothing dirty was lost");
	must(qcow2_commit(f.img));
	for (i = 0; i < 16 << 20; i += 32768 - 512)
		bad += !fx_reads(&f, i, 512, 7);
	is_int(f.img->cache.nr_blocks, SMALLEST, "what exceeded the bound goes");
	is_int(fx_close(&f), 0, "close");
	fx_open_with(&f, TINY);
	for (i = 0; i < 16 << 20; i += 32768 - 512)
		bad += !fx_reads(&f, i, 512, 7);
	is_int(bad, 0, "nor on the disk");
	fx_destroy(&f);
}

static void test_random_work(void)
{
	static u8 model[4096];
	struct fixture f;
	u64 i, bad = 0;
	u32 seed = 7;

	fx_make(&f, 9, 4096 * 2048ull);
	fx_open_with(&f, TINY);
	for (i = 0; i < 6000; i++) {
		u64 at;

		seed = seed * 1103515245 + 12345;
		at = seed >> 8 & 4095;
		if (i % 3) {
			model[at] = 1 + i % 200;
			must(fx_write(&f, at * 2048, 1024, model[at]));
		} else {
			bad += !fx_reads(&f, at * 2048, 1024, model[at]);
		}
		if (i % 1000 == 999)
			must(qcow2_commit(f.img));
	}
	is_int(bad, 0, "6000 reads and writes through the smallest cache");
	is_int(fx_close(&f), 0, "close");
	fx_open_with(&f, TINY);
	for (i = 0; i < 4096; i++)
		bad += !fx_reads(&f, i * 2048, 1024, model[i]);
	is_int(bad, 0, "and all there");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

struct loader {
	struct fixture *f;
	pthread_t thread;
	int ret;
};

static int loads;
static int load_result;

/* The read of a slice takes its time. */
static int slow(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	if (kind != MEM_READ)
		return 0;
	__atomic_fetch_add(&loads, 1, __ATOMIC_SEQ_CST);
	usleep(50000);
	return load_result;
}

static void *load(void *arg)
{
	struct loader *l = arg;
	struct qcow2_mapping m;

	l->ret = qcow2_map(l->f->img, 0, 512, &m);
	return NULL;
}

static void load_together(struct fixture *f, int result, int *same)
{
	struct loader l[8];
	u32 i;

	loads = 0;
	load_result = result;
	f->be.hook = slow;
	for (i = 0; i < ARRAY_SIZE(l); i++) {
		l[i] = (struct loader){ .f = f };
		must(pthread_create(&l[i].thread, NULL, load, &l[i]));
	}
	*same = 0;
	for (i = 0; i < ARRAY_SIZE(l); i++) {
		pthread_join(l[i].thread, NULL);
		*same += l[i].ret == result;
	}
	f->be.hook = NULL;
}

static void test_waiters(void)
{
	struct fixture f;
	int same;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	load_together(&f, -EIO, &same);
	ok(same == 8 && loads >= 1,
	   "who waits for a load that fails has its error, or tries again");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "and nothing else");
	load_together(&f, 0, &same);
	is_int(same, 8, "eight threads want one block");
	is_int(loads, 1, "and it is read once");
	is_int(f.img->cache.nr_blocks, 2, "and is there once");
	fx_destroy(&f);
}

static void test_kinds(void)
{
	struct qcow2_block *blk;
	struct fixture f;
	u64 table;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	fx_open(&f);
	must(qcow2_cache_get(f.img, QCOW2_BLOCK_REF, table, table, 0, &blk));
	qcow2_cache_put(f.img, blk);
	is_int(qcow2_cache_get(f.img, QCOW2_BLOCK_L2, table, table, 0, &blk),
	       -EUCLEAN, "a block of another kind");
	rcu_read_lock();
	ok(!qcow2_cache_peek(f.img, QCOW2_BLOCK_L2, table),
	   "is not found by peek");
	ok(qcow2_cache_peek(f.img, QCOW2_BLOCK_REF, table), "but as its own");
	rcu_read_unlock();
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "a table that is two things");
	ok(mem_has_msg(&f.be, "L1 table: entry 0 names an L2 table") &&
	   fx_corrupt_bit(&f), "is corrupt");
	qcow2_cache_drop(f.img, table, 4096);
	is_int(fx_read(&f, 0, 512), 0, "dropped, it can be read as what it is");
	qcow2_cache_put(f.img, NULL);
	fx_destroy(&f);
}

/* A block that is dropped lives as long as somebody holds it. */
static void test_drop_pinned(void)
{
	struct qcow2_block *blk, *again;
	struct fixture f;
	u64 table;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	fx_open(&f);
	must(qcow2_cache_get(f.img, QCOW2_BLOCK_L2, table, table, 0, &blk));
	qcow2_cache_drop(f.img, table, 4096);
	must(qcow2_cache_get(f.img, QCOW2_BLOCK_L2, table, table, 0, &again));
	ok(again != blk && !memcmp(blk->data, again->data, 4096),
	   "a dropped block lives until its last user is gone");
	qcow2_cache_put(f.img, blk);
	qcow2_cache_put(f.img, again);
	is_int(f.img->cache.nr_blocks, 2, "then there is one");
	fx_destroy(&f);
}

static u64 bad_sector;

static int fail_sector(struct membackend *be, enum mem_kind kind, u64 offset,
		       u64 len)
{
	return kind == MEM_READ && offset <= bad_sector &&
		bad_sector < offset + len ? -EIO : 0;
}

/* What is read along with a block does not make it fail. */
static void test_bad_sector(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 i, good = 0;

	fx_make(&f, 16, 512 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	bad_sector = (fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET) + 3 * 4096 + 512;
	f.be.hook = fail_sector;
	for (i = 0; i < 16; i++)
		good += qcow2_map(f.img, i * (512ull << 16), 512, &m) ==
			(i == 3 ? -EIO : 0);
	is_int(good, 16, "of 16 slices the bad one cannot be read");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "which is no damage");
	f.be.hook = NULL;
	is_int(qcow2_map(f.img, 3 * (512ull << 16), 512, &m), 0,
	       "and is tried again");
	fx_destroy(&f);
}

static struct fixture *raced;

static void load_first(void)
{
	struct qcow2_mapping m;

	must(qcow2_map(raced->img, 0, 512, &m));
}

static void load_other(void)
{
	u64 table = fx_l1(raced, 0) & QCOW2_ENTRY_OFFSET;
	struct qcow2_block *blk;

	must(qcow2_cache_get(raced->img, QCOW2_BLOCK_REF, table, table, 0, &blk));
	qcow2_cache_put(raced->img, blk);
}

/* While one makes room for a block, another loads it. */
static void test_race(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 reads, table;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	reads = f.be.seen[MEM_READ];
	raced = &f;
	allocs.hook = load_first;
	allocs.armed = true;
	is_int(qcow2_map(f.img, 0, 512, &m), 0, "two load a block");
	allocs.armed = false;
	ok(!allocs.hook && f.be.seen[MEM_READ] == reads + 1,
	   "and it is read once");
	is_int(f.img->cache.nr_blocks, 2, "and is there once");
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	qcow2_cache_drop(f.img, table, 4096);
	allocs.hook = load_other;
	allocs.armed = true;
	is_int(qcow2_map(f.img, 0, 512, &m), -EUCLEAN, "or as something else");
	allocs.armed = false;
	fx_destroy(&f);
}

/* Without memory for what could be read along, less is. */
static void test_window_memory(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 n, bad = 0, fewer = 0;

	fx_make(&f, 16, 512 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	for (n = 1; n < 40; n++) {
		int ret;

		fx_open(&f);
		allocs_fail(n, n % 2 ? 1 : U64_MAX);
		allocs.armed = true;
		ret = qcow2_map(f.img, 0, 512, &m);
		allocs.armed = false;
		bad += ret && ret != -ENOMEM;
		fewer += !ret && f.img->cache.nr_blocks < 17;
		fx_close(&f);
	}
	allocs_fail(0, 0);
	ok(!bad && fewer > 20, "of %llu reads that lack memory, %llu read less",
	   (unsigned long long)n - 1, (unsigned long long)fewer);
	fx_destroy(&f);
}

/* 64 KiB clusters: one read brings the whole table. */
static void test_window(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 i, requests;

	fx_make(&f, 16, 512 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	requests = atomic64_read(&f.img->stats.meta_reads);
	for (i = 0; i < 16; i++)
		must(qcow2_map(f.img, i * (512ull << 16), 512, &m));
	is_int(atomic64_read(&f.img->stats.meta_reads) - requests, 1,
	       "16 slices of a table are one request");
	is_int(atomic64_read(&f.img->stats.misses), 2, "and one miss");
	fx_destroy(&f);
}

int main(void)
{
	test_bound();
	test_second_chance();
	test_dirty_stays();
	test_random_work();
	test_waiters();
	test_kinds();
	test_drop_pinned();
	test_window();
	test_bad_sector();
	test_race();
	test_window_memory();
	return tap_end();
}
