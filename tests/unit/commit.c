// SPDX-License-Identifier: GPL-2.0
/*
 * Commits: how many flushes they cost, in what order they write, what belongs
 * to which, and what happens when they fail.
 */
#include "fixture.h"

#define CS 4096ull

static void make(struct fixture *f, u32 cluster_bits)
{
	fx_make(f, cluster_bits, 8 << 20);
	fx_open(f);
	must(qcow2_activate(f->img));
}

static u64 flushes(struct fixture *f)
{
	u64 before = f->be.seen[MEM_FLUSH];

	must(qcow2_commit(f->img));
	return f->be.seen[MEM_FLUSH] - before;
}

static void test_flush_counts(void)
{
	struct fixture f;
	u64 i;

	fx_make(&f, 12, 8 << 20);
	fx_open(&f);
	is_int(flushes(&f), 1, "before activation nothing is dirty: one flush");
	must(qcow2_activate(f.img));
	is_int(flushes(&f), 1, "with nothing dirty a commit is one flush");
	for (i = 0; i < 300; i++)
		must(fx_write(&f, i * 16384 % (8 << 20), 512, 1));
	is_int(flushes(&f), 2, "with 300 allocations it is two");
	is_int(flushes(&f), 1, "then nothing is dirty");
	must(fx_write(&f, 0, 512, 2));
	is_int(flushes(&f), 1, "nor after an overwrite");
	fx_destroy(&f);
}

/* 256 clusters a refcount block: every commit stays at two flushes. */
static void test_made_ahead(void)
{
	struct fixture f;
	u64 i, three = 0, more = 0;

	make(&f, 9);
	for (i = 0; i < (8 << 20) / 512; i += 16) {
		u64 n;

		must(fx_write(&f, i * 512, 16 * 512, 1));
		n = flushes(&f);
		three += n == 3;
		more += n > 3;
	}
	ok(!more, "never more than three flushes");
	/* the table moves to another place on the way: exempt */
	ok(three <= 1, "blocks made ahead need no third flush: %llu did",
	   (unsigned long long)three);
	is_int(fx_close(&f), 0, "close");
	fx_open(&f);
	ok(fx_reads(&f, 0, 8 << 20, 1), "it is all there");
	fx_destroy(&f);
}

/* A block that could not be made ahead: table entry, flush, then the links. */
static void test_urgent(void)
{
	struct fixture f;
	s64 block, entry, l2;
	u64 place, reftable, host;

	make(&f, 9);
	reftable = mem_be64(&f.be, 48);
	mem_log_start(&f.be);
	/* more than one block in one go */
	must(fx_write(&f, 0, 300 * 512, 1));
	must(qcow2_commit(f.img));
	host = mem_be64(&f.be, reftable + 8);
	ok(host, "a second refcount block");
	block = fx_op_at(&f, MEM_WRITE, host);
	entry = fx_op_at(&f, MEM_WRITE, reftable + 8);
	place = fx_l1(&f, 4) & QCOW2_ENTRY_OFFSET;
	l2 = fx_op_at(&f, MEM_WRITE, place);
	ok(block >= 0 && block < entry && entry < l2,
	   "block, then its entry, then links to what it counts");
	fx_destroy(&f);
}

static bool flush_between(const struct fixture *f, s64 a, s64 b)
{
	s64 i;

	for (i = a + 1; i < b; i++)
		if (f->be.log[i].kind == MEM_FLUSH)
			return true;
	return false;
}

static void test_order(void)
{
	s64 data, ref, l2, l1, flush = -1, i;
	struct fixture f;
	u64 block;

	make(&f, 12);
	block = mem_be64(&f.be, mem_be64(&f.be, 48));
	mem_log_start(&f.be);
	must(fx_write(&f, 0, 3 * CS, 1));
	data = fx_op_at(&f, MEM_DATA_WRITE, fx_host(&f, 0));
	is_int(fx_ops(&f, MEM_WRITE), 0, "a write writes no metadata");
	must(qcow2_commit(f.img));
	ref = fx_op_at(&f, MEM_WRITE, block);
	l2 = fx_op_at(&f, MEM_WRITE, fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET);
	l1 = fx_op_at(&f, MEM_WRITE, fx_l1_place(&f, 0));
	for (i = 0; i < (s64)f.be.nr_log; i++)
		if (f.be.log[i].kind == MEM_FLUSH)
			flush = i;
	ok(data >= 0 && ref > data && l2 > ref && l1 > ref,
	   "data and refcounts are written before L2 and L1");
	ok(flush_between(&f, ref, l2) && flush_between(&f, ref, l1) &&
	   flush_between(&f, data, l2), "with a flush between");
	ok(flush == (s64)f.be.nr_log - 1, "and a flush at the end");
	is_int(fx_ops(&f, MEM_FLUSH), 2, "two in all");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static struct fixture *late;
static u64 late_flush;

/* Links a cluster while the commit's first flush is under way. */
static int link_late(struct membackend *be, enum mem_kind kind, u64 offset,
		     u64 len)
{
	if (kind != MEM_FLUSH || ++late_flush != 1)
		return 0;
	be->hook = NULL;
	return fx_write(late, 16 * CS, CS, 2);
}

static void test_freeze(void)
{
	struct fixture f;

	make(&f, 12);
	must(fx_write(&f, 0, CS, 1));
	late = &f;
	late_flush = 0;
	f.be.hook = link_late;
	must(qcow2_commit(f.img));
	ok(fx_l2(&f, 0), "what was linked before the commit is on the disk");
	ok(!fx_l2(&f, 16 * CS), "what was linked after its freeze is not");
	ok(fx_reads(&f, 16 * CS, CS, 2), "but in memory");
	must(qcow2_commit(f.img));
	ok(fx_l2(&f, 16 * CS) & QCOW2_ENTRY_COPIED, "the next commit writes it");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void test_reuse(void)
{
	struct fixture f;
	u64 old, again;
	int epoch;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &old));
	must(mk_set_l2(&f.be, 0, old)); /* not COPIED, and counted once */
	fx_store(&f, old, 0, CS, 4);
	fx_open(&f);
	must(fx_write(&f, 4 * CS, CS, 1));
	epoch = port_epoch_enter(&f.img->epoch);
	must(fx_write(&f, 0, 512, 5));
	is_int(atomic64_read(&f.img->stats.freed), 0,
	       "a replaced cluster is not free");
	must(fx_write(&f, 5 * CS, CS, 1));
	ok(fx_host(&f, 5 * CS) != old, "nor given out");
	must(qcow2_commit(f.img));
	must(qcow2_commit(f.img));
	is_int(mk_refcount(&f.be, old), 1,
	       "commits do not free it while I/O may be under way to it");
	must(fx_write(&f, 6 * CS, CS, 1));
	ok(fx_host(&f, 6 * CS) != old, "nor is it given out then");
	port_epoch_exit(&f.img->epoch, epoch);
	is_int(atomic64_read(&f.img->stats.freed), 0, "nor by the end of I/O");
	must(qcow2_commit(f.img));
	is_int(mk_refcount(&f.be, old), 0, "but by the commit after it");
	must(fx_write(&f, 7 * CS, 512, 1));
	again = fx_host(&f, 7 * CS);
	is_int(again, old, "then it is used first");
	ok(fx_reads(&f, 7 * CS + 512, CS - 512, 0), "and nothing of it is seen");
	fx_destroy(&f);
}

/* The order on the disk of an unlink and its decrement. */
static void test_decrement_order(void)
{
	s64 entry, ref = -1, i;
	struct fixture f;
	u64 old, block;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &old));
	must(mk_set_l2(&f.be, 0, old));
	fx_open(&f);
	block = mem_be64(&f.be, mem_be64(&f.be, 48));
	mem_log_start(&f.be);
	must(fx_write(&f, 0, CS, 1));
	must(qcow2_commit(f.img));
	entry = fx_op_at(&f, MEM_WRITE, fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET);
	is_int(mk_refcount(&f.be, old), 1, "after the unlink: still counted");
	must(qcow2_commit(f.img));
	is_int(mk_refcount(&f.be, old), 0, "after the next commit: not");
	for (i = 0; i < (s64)f.be.nr_log; i++)
		if (f.be.log[i].kind == MEM_WRITE &&
		    f.be.log[i].offset == block)
			ref = i;
	ok(entry >= 0 && entry < ref && flush_between(&f, entry, ref),
	   "with a flush between entry and decrement");
	fx_destroy(&f);
}

static void test_close_drains(void)
{
	struct fixture f;
	u64 old;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &old));
	must(mk_set_l2(&f.be, 0, old));
	fx_open(&f);
	must(fx_write(&f, 0, CS, 1));
	is_int(fx_close(&f), 0, "close");
	is_int(mk_refcount(&f.be, old), 0, "close leaves no leak");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void failing(enum mem_kind kind, u64 nth, const char *name)
{
	struct fixture f;
	int ret;

	make(&f, 12);
	must(fx_write(&f, 0, CS, 1));
	f.be.fault[kind] = (struct mem_fault){ f.be.seen[kind] + nth, 1, -EIO };
	ret = qcow2_commit(f.img);
	is_int(ret, -EIO, "%s fails", name);
	is_int(qcow2_mode(f.img), QCOW2_READ_ONLY, "%s: read-only", name);
	ok(mem_has_msg(&f.be, "metadata could not be written"),
	   "%s: says why", name);
	is_int(qcow2_commit(f.img), -EIO, "%s: and every flush fails", name);
	is_int(fx_write(&f, 0, CS, 2), -EROFS, "%s: every write", name);
	ok(fx_reads(&f, 0, CS, 1), "%s: reads go on", name);
	is_int(fx_close(&f), -EIO, "%s: close says so", name);
	fx_open(&f);
	ok(fx_reads(&f, 0, CS, 0) || fx_reads(&f, 0, CS, 1),
	   "%s: the image is old or new", name);
	fx_destroy(&f);
}

static void test_errors(void)
{
	failing(MEM_WRITE, 1, "the write of refcounts");
	failing(MEM_WRITE, 2, "the write of tables");
	failing(MEM_FLUSH, 1, "the first flush");
	failing(MEM_FLUSH, 2, "the second flush");
}

/* No space for metadata is no loss: it may be tried again. */
static void test_no_space(void)
{
	struct fixture f;

	make(&f, 12);
	must(fx_write(&f, 0, CS, 1));
	mem_fail(&f.be, MEM_WRITE, 1, -ENOSPC);
	is_int(qcow2_commit(f.img), -ENOSPC, "no space for refcounts");
	is_int(qcow2_mode(f.img), QCOW2_NO_SPACE, "the mode says so");
	f.be.fault[MEM_WRITE] = (struct mem_fault){
		f.be.seen[MEM_WRITE] + 2, 1, -ENOSPC };
	is_int(qcow2_commit(f.img), -ENOSPC, "no space for tables");
	is_int(qcow2_commit(f.img), 0, "then there is");
	ok(fx_l2(&f, 0), "and all is written");
	must(fx_write(&f, CS, CS, 1));
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "an allocation ends it");
	mem_fail(&f.be, MEM_FLUSH, 1, -ENOSPC);
	is_int(qcow2_commit(f.img), -ENOSPC, "a flush that finds no space");
	is_int(qcow2_commit(f.img), -ENOSPC, "has lost something");
	is_int(qcow2_mode(f.img), QCOW2_READ_ONLY, "for good");
	fx_destroy(&f);
}

/* More than one chunk, more than one round. */
static void test_large(void)
{
	struct fixture f;
	u64 i, n = (64 << 20) / 512;

	fx_make(&f, 9, 64 << 20);
	fx_open(&f);
	for (i = 0; i < n; i += 32)
		must(fx_write(&f, i * 512, 512, 3));
	must(qcow2_commit(f.img));
	is_int(f.img->cache.nr_dirty, 0, "4096 writes, %llu commits, all clean",
	       (unsigned long long)atomic64_read(&f.img->stats.commits));
	is_int(fx_close(&f), 0, "close");
	fx_open(&f);
	for (i = 0; i < n && fx_reads(&f, i * 512, 512, 3); i += 32)
		;
	is_int(i, n, "and all there");
	fx_destroy(&f);
}

int main(void)
{
	test_flush_counts();
	test_made_ahead();
	test_urgent();
	test_order();
	test_freeze();
	test_reuse();
	test_decrement_order();
	test_close_drains();
	test_errors();
	test_no_space();
	test_large();
	return tap_end();
}
