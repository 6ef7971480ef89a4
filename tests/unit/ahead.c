// SPDX-License-Identifier: GPL-2.0
/*
 * Reading ahead: everything that there is room for, in the order of the disk, and
 * nobody hears of what cannot be read.
 */
#include "ahead.h"
#include "fixture.h"

#define TABLES 40
#define SPAN ((u64)512 << 12)	/* of a table with clusters of 4 KiB */

static u64 last_read, backwards;

static int watch(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	if (kind == MEM_READ) {
		backwards += offset < last_read;
		last_read = offset;
	}
	return 0;
}

/* Tables that lie on the disk from the last to the first, with gaps. */
static void make(struct fixture *f, u64 cache_bytes)
{
	u64 i;

	fx_make(f, 12, TABLES * SPAN);
	for (i = TABLES; i--;)
		must(mk_map(&f->be, i * SPAN, QCOW2_DATA, 1, NULL));
	fx_open_with(f, cache_bytes);
	f->be.hook = watch;
	last_read = 0;
	backwards = 0;
}

static u64 run(struct fixture *f)
{
	struct qcow2_ahead a = { NULL };
	u64 steps = 1;

	while (qcow2_ahead_step(f->img, &a))
		steps++;
	qcow2_ahead_end(&a);
	return steps;
}

static u64 in_memory(struct fixture *f)
{
	struct qcow2_mapping m;
	u64 i, n = 0;

	for (i = 0; i < TABLES; i++)
		n += !qcow2_map_peek(f->img, i * SPAN, 512, &m);
	return n;
}

static void test_all(void)
{
	struct fixture f;
	u64 reads;

	make(&f, 0);
	is_int(in_memory(&f), 0, "nothing is there at first");
	reads = f.be.seen[MEM_READ];
	ok(run(&f) <= TABLES + 3, "a step for each table");
	is_int(in_memory(&f), TABLES, "everything is there in the end");
	is_int(f.be.seen[MEM_READ] - reads, TABLES, "nothing was read twice");
	is_int(backwards, 0, "in the order of the disk");
	reads = f.be.seen[MEM_READ];
	run(&f);
	is_int(f.be.seen[MEM_READ], reads, "a second time reads nothing");
	fx_destroy(&f);
}

static void test_bound(void)
{
	struct fixture f;

	/* the least that there is: 64 blocks, some of them of the L1 table */
	make(&f, 1);
	f.img->cache.max_blocks = 20;
	run(&f);
	ok(f.img->cache.nr_blocks <= 20 && in_memory(&f) >= 15,
	   "no more than there is room for");
	fx_destroy(&f);
}

static void test_bad(void)
{
	struct qcow2_mapping m;
	struct fixture f;

	make(&f, 0);
	fx_close(&f);
	mem_set_be64(&f.be, fx_l1_place(&f, 3), 1ull << 63 | 1ull << 40);
	mem_set_be64(&f.be, fx_l1_place(&f, 5), 1ull << 63 | 0x1200);
	/* where other metadata is */
	mem_set_be64(&f.be, fx_l1_place(&f, 7), mem_be64(&f.be, 40));
	mem_set_be64(&f.be, fx_l1_place(&f, 9), 0);
	fx_open(&f);
	mem_fail(&f.be, MEM_READ, 1, -EIO);
	run(&f);
	/* one cannot be read; three are bad */
	is_int(in_memory(&f), TABLES - 4, "what can be read is there");
	ok(!*mem_last_msg(&f.be), "nobody has complained");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "the mode is as it was");
	is_int(qcow2_map(f.img, 3 * SPAN, 512, &m), -EUCLEAN,
	       "who needs a bad one hears of it");
	fx_destroy(&f);
}

static void test_none(void)
{
	struct fixture f;

	fx_make(&f, 16, 0);
	fx_open(&f);
	is_int(run(&f), 1, "an empty disk");
	fx_destroy(&f);
	fx_make(&f, 21, 1ull << 40);
	must(mk_map(&f.be, 1ull << 39, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	ok(run(&f) < 10, "clusters of 2 MiB");
	fx_destroy(&f);
}

/* What it has noted is another thing when it comes to read it. */
static void test_changes(void)
{
	struct qcow2_ahead a = { NULL };
	struct fixture f;
	u64 i;

	make(&f, 0);
	while (!a.sorted && qcow2_ahead_step(f.img, &a))
		;
	for (i = 0; i < TABLES; i++)
		must(guest_zero(f.img, i * SPAN, SPAN, QCOW2_DISCARD));
	must(qcow2_commit(f.img));
	must(qcow2_commit(f.img));
	must(fx_write(&f, 0, 512, 1));
	while (qcow2_ahead_step(f.img, &a))
		;
	qcow2_ahead_end(&a);
	ok(fx_reads(&f, 0, 512, 1), "the new data is there");
	must(fx_close(&f));
	fx_open(&f);
	ok(fx_reads(&f, 0, 512, 1), "and on the disk");
	fx_destroy(&f);
}

int main(void)
{
	test_all();
	test_bound();
	test_bad();
	test_none();
	test_changes();
	return tap_end();
}
