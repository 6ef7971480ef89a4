// SPDX-License-Identifier: GPL-2.0
/*
 * Host clusters: where they come from, the growth of refcount blocks and of
 * the refcount table, the end of space, refcounts that lie.
 */
#include "fixture.h"

/* 512-byte clusters: 256 to a refcount block, 64 blocks to a table cluster. */
#define CS 512ull
#define BLOCK 256ull

static void make_on(struct fixture *f, enum mem_flavour flavour, u64 bytes,
		    u64 size)
{
	fx_make_on(f, flavour, bytes, &(struct mk_image){
		.cluster_bits = 9, .size = size });
	fx_open(f);
	must(qcow2_activate(f->img));
}

/* Counts every reference of a closed image itself and compares. */
static u64 bad_refcounts(const struct fixture *f, u64 *leaks)
{
	u32 bits = mem_be32(&f->be, 20), i, j;
	u64 cs = 1ull << bits, n = (f->be.size + cs - 1) >> bits, c, bad = 0;
	u64 *count = calloc(n + 1, 8), entry, table;

#define COUNT(host) (count[min((u64)((host) >> bits), n)]++)
	COUNT(0);
	for (c = 0; c < mem_be32(&f->be, 56); c++)
		COUNT(mem_be64(&f->be, 48) + c * cs);
	for (c = 0; c < (mem_be32(&f->be, 36) * 8 + cs - 1) / cs; c++)
		COUNT(mem_be64(&f->be, 40) + c * cs);
	for (c = 0; c < mem_be32(&f->be, 56) * cs / 8; c++) {
		entry = mem_be64(&f->be, mem_be64(&f->be, 48) + c * 8);
		if (entry)
			COUNT(entry);
	}
	for (i = 0; i < mem_be32(&f->be, 36); i++) {
		table = fx_l1(f, i) & QCOW2_ENTRY_OFFSET;
		if (!table)
			continue;
		COUNT(table);
		for (j = 0; j < cs / 8; j++) {
			entry = mem_be64(&f->be, table + j * 8);
			if (entry & QCOW2_ENTRY_OFFSET)
				COUNT(entry & QCOW2_ENTRY_OFFSET);
		}
	}
#undef COUNT
	*leaks = 0;
	for (c = 0; c < n; c++) {
		u64 have = mk_refcount(&f->be, c << bits);

		bad += have < count[c];
		*leaks += have > count[c];
	}
	bad += count[n];
	free(count);
	return bad;
}

static void check(struct fixture *f, const char *name)
{
	u64 leaks;

	is_int(fx_close(f), 0, "%s: close", name);
	is_int(bad_refcounts(f, &leaks), 0, "%s: every reference is counted",
	       name);
	is_int(leaks, 0, "%s: and nothing else", name);
	fx_open(f);
}

/* ---------------------------------------------------------------- */

static void test_blocks(void)
{
	u64 step, i, block, ahead = 0, itself = 0;

	/* in one go a block counts itself, in small steps it is made ahead */
	for (step = 1; step <= 1024; step *= 1024) {
		struct fixture f;

		make_on(&f, MEM_FILE, 0, 1 << 20);
		for (i = 0; i < 2048; i += step)
			must(fx_write(&f, i * CS, step * CS, 1));
		must(qcow2_commit(f.img));
		for (i = 1; i < 8; i++) {
			block = mem_be64(&f.be, mem_be64(&f.be, 48) + i * 8);
			if (block / CS / BLOCK == i)
				itself++;
			else
				ahead++;
		}
		ok(fx_reads(&f, 0, 1 << 20, 1), "written in steps of %llu",
		   (unsigned long long)step);
		check(&f, "refcount blocks");
		ok(fx_reads(&f, 0, 1 << 20, 1), "and read again");
		fx_destroy(&f);
	}
	ok(ahead && itself, "%llu blocks made ahead, %llu count themselves",
	   (unsigned long long)ahead, (unsigned long long)itself);
}

/* The table of one cluster reaches 8 MiB; then it moves. */
static void test_table_moves(enum mem_flavour flavour)
{
	u64 size = 16 << 20, i, old_table, n = 0, header = 0;
	struct fixture f;

	make_on(&f, flavour, 32 << 20, size);
	old_table = mem_be64(&f.be, 48);
	mem_log_start(&f.be);
	for (i = 0; i < size; i += 64 * CS)
		must(fx_write(&f, i, 64 * CS, 1));
	must(qcow2_commit(f.img));
	ok(mem_be64(&f.be, 48) != old_table && mem_be32(&f.be, 56) > 1,
	   "the refcount table has moved");
	for (i = 0; i < f.be.nr_log; i++) {
		if (f.be.log[i].kind != MEM_WRITE || f.be.log[i].offset)
			continue;
		header++;
		n += f.be.log[i].len == 512 &&
			f.be.log[i - 1].kind == MEM_FLUSH &&
			f.be.log[i + 1].kind == MEM_FLUSH;
	}
	ok(header && n == header, "each time by one write between two flushes");
	ok(atomic64_read(&f.img->stats.freed), "the old one is free");
	ok(fx_reads(&f, 0, size, 1), "the guest sees nothing of it");
	check(&f, "refcount table");
	ok(fx_reads(&f, 0, size, 1), "nor later");
	fx_destroy(&f);
}

/* Each operation of the move fails once. */
static void test_move_errors(void)
{
	static const enum mem_kind kinds[] = { MEM_WRITE, MEM_FLUSH };
	u64 nth, k, bad = 0, leaks, n = 0, lost = 0, i;

	for (k = 0; k < 2; k++) {
		for (nth = 1; nth < 16; nth++) {
			struct fixture f;
			int ret = 0;

			make_on(&f, MEM_FILE, 0, 16 << 20);
			for (i = 0; i < 7 << 20; i += 64 * CS)
				must(fx_write(&f, i, 64 * CS, 1));
			must(qcow2_commit(f.img));
			f.be.fault[kinds[k]] = (struct mem_fault){
				f.be.seen[kinds[k]] + nth, 1, -EIO };
			for (; !ret && i < 10 << 20; i += 64 * CS)
				ret = fx_write(&f, i, 64 * CS, 1);
			n += ret == -EIO;
			/* what could not be made durable may not be forgotten */
			if (ret == -EIO && k == 1)
				lost += qcow2_commit(f.img) == 0;
			fx_close(&f);
			bad += bad_refcounts(&f, &leaks);
			fx_open(&f);
			bad += !fx_reads(&f, 0, 7 << 20, 1);
			fx_destroy(&f);
		}
	}
	ok(n > 4 && !bad, "%llu moves that failed leave the image whole",
	   (unsigned long long)n);
	is_int(lost, 0, "a flush that failed fails all later ones");
}

/* ---------------------------------------------------------------- */

static void test_no_space_file(void)
{
	struct fixture f;
	u64 changes, i, used;
	int ret = 0;

	make_on(&f, MEM_FILE, 0, 4 << 20);
	f.be.limit = 1 << 20;
	for (i = 0; !ret && i < 4 << 20; i += CS)
		ret = fx_write(&f, i, CS, 1);
	used = i - CS;
	is_int(ret, -ENOSPC, "a file that cannot grow");
	ok(used > 900 << 10, "was filled");
	is_int(qcow2_mode(f.img), QCOW2_NO_SPACE, "the mode says so");
	ok(mem_has_msg(&f.be, "no space"), "and the log");
	changes = f.be.mode_changes;
	is_int(fx_write(&f, used, CS, 1), -ENOSPC, "again");
	ok(f.be.mode_changes == changes, "is no change");
	is_int(fx_write(&f, 0, CS, 2), 0, "what is mapped can be written");
	is_int(qcow2_mode(f.img), QCOW2_NO_SPACE, "which finds no space");
	is_int(qcow2_commit(f.img), 0, "a commit works");
	f.be.limit = 2 << 20;
	is_int(fx_write(&f, used, CS, 1), 0, "with room it goes on");
	ok(qcow2_mode(f.img) == QCOW2_READ_WRITE &&
	   f.be.mode_changes == changes + 1, "and the mode is as before");
	ok(fx_reads(&f, 0, CS, 2) && fx_reads(&f, CS, used, 1), "all is there");
	check(&f, "no space");
	fx_destroy(&f);
}

/* Space that is missing when the table must move, and comes back. */
static void test_no_space_to_move(void)
{
	struct fixture f;
	int ret = 0;
	u64 i;

	make_on(&f, MEM_FILE, 0, 16 << 20);
	f.be.limit = 8 << 20; /* what the table of one cluster reaches */
	for (i = 0; !ret && i < 16 << 20; i += CS)
		ret = fx_write(&f, i, CS, 1);
	i -= CS;
	is_int(ret, -ENOSPC, "no space for a larger table");
	is_int(qcow2_mode(f.img), QCOW2_NO_SPACE, "the mode says so");
	is_int(qcow2_commit(f.img), 0, "a commit works");
	f.be.limit = 16 << 20;
	mem_fail(&f.be, MEM_WRITE, 1, -ENOSPC);
	is_int(fx_write(&f, i, CS, 1), -ENOSPC, "none for its contents");
	is_int(qcow2_mode(f.img), QCOW2_NO_SPACE, "is no more than that");
	is_int(fx_write(&f, i, CS, 1), 0, "with room the table moves");
	ok(mem_be32(&f.be, 56) > 1 && qcow2_mode(f.img) == QCOW2_READ_WRITE,
	   "and the mode is as before");
	check(&f, "no space to move");
	ok(fx_reads(&f, 0, i + CS, 1), "all is there");
	fx_destroy(&f);
}

/* A device has its size; what was freed below is found again. */
static void test_wrap_around(void)
{
	struct fixture f;
	u64 i, freed = 0, hosts[8];
	int ret = 0;

	fx_make_on(&f, MEM_DEVICE, 1 << 20, &(struct mk_image){
		.cluster_bits = 9, .size = 4 << 20 });
	for (i = 0; i < 8; i++) {
		must(mk_map(&f.be, i * CS, QCOW2_DATA, 1, &hosts[i]));
		must(mk_set_l2(&f.be, i * CS, 0)); /* leaked */
	}
	for (i = 0; i < 8; i += 2)
		must(mk_set_refcount(&f.be, hosts[i], 0));
	fx_open(&f);
	for (i = 0; !ret && i < 4 << 20; i += CS)
		ret = fx_write(&f, i, CS, 1);
	is_int(ret, -ENOSPC, "a device is full");
	is_int(f.be.seen[MEM_GROW], 0, "and was not asked to grow");
	ok(fx_reads(&f, 0, i - CS, 1), "all that fitted is there");
	for (i = 0; i < 8; i++)
		freed += mk_refcount(&f.be, hosts[i]) == (i % 2);
	must(qcow2_commit(f.img));
	for (i = 0, freed = 0; i < 8; i++)
		freed += mk_refcount(&f.be, hosts[i]) == 1;
	is_int(freed, 8, "the holes below were found and used");
	ok(f.img->alloc.end == (1 << 20) / CS, "to the last cluster");
	fx_destroy(&f);
}

/*
 * All that is free waits for commits, or for a reader. A full device has space
 * again as soon as it can have it.
 */
static void test_reclaim(void)
{
	struct fixture f;
	u64 i, end, half;
	int ret = 0, epoch;

	make_on(&f, MEM_DEVICE, 256 << 10, 1 << 20);
	for (i = 0; !ret && i < 1 << 20; i += CS)
		ret = fx_write(&f, i, CS, 1);
	is_int(ret, -ENOSPC, "a device is full");
	end = i - CS;
	half = end / 2 / CS * CS;
	must(guest_zero(f.img, 0, half, QCOW2_DISCARD));
	for (i = 0, ret = 0; !ret && i < half; i += CS)
		ret = fx_write(&f, i, CS, 2);
	is_int(ret, 0, "what was discarded can be written at once");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "without a change of mode");
	ok(fx_reads(&f, 0, half, 2) && fx_reads(&f, half, end - half, 1),
	   "all is there");
	is_int(fx_write(&f, end, CS, 1), -ENOSPC, "and no more");

	must(guest_zero(f.img, 0, half, QCOW2_DISCARD));
	epoch = port_epoch_enter(&f.img->epoch);
	is_int(fx_write(&f, 0, CS, 3), -ENOSPC, "nothing is reused under a reader");
	is_int(fx_write(&f, 0, CS, 3), -ENOSPC, "nor if one asks again");
	port_epoch_exit(&f.img->epoch, epoch);
	must(guest_zero(f.img, half, CS, QCOW2_DISCARD));
	is_int(fx_write(&f, 0, CS, 3), 0,
	       "what was in vain is tried again when there is more");

	for (i = 0, ret = 0; !ret && i < 1 << 20; i += CS)
		ret = fx_write(&f, i, CS, 4);
	is_int(ret, -ENOSPC, "it is full again");
	must(guest_zero(f.img, 0, half, QCOW2_DISCARD));
	epoch = port_epoch_enter(&f.img->epoch);
	is_int(fx_write(&f, 0, CS, 5), -ENOSPC, "and there is a reader again");
	port_epoch_exit(&f.img->epoch, epoch);
	is_int(fx_write(&f, 0, CS, 5), -ENOSPC, "nobody has said that he has gone");
	qcow2_alloc_refresh(f.img);
	is_int(fx_write(&f, 0, CS, 5), 0, "now somebody has");
	check(&f, "reclaimed");
	fx_destroy(&f);
}

/* Free clusters between others, of which a write takes as many as there are. */
static void test_holes(void)
{
	u64 i, hosts[8];
	struct fixture f;
	int ret = 0;

	fx_make_on(&f, MEM_DEVICE, 256 << 10, &(struct mk_image){
		.cluster_bits = 9, .size = 1 << 20 });
	for (i = 0; i < 8; i++) {
		must(mk_map(&f.be, i * CS, QCOW2_DATA, 1, &hosts[i]));
		must(mk_set_l2(&f.be, i * CS, 0)); /* leaked */
	}
	for (i = 0; i < 8; i++)
		must(mk_set_refcount(&f.be, hosts[i], i % 4 == 3));
	fx_open(&f);
	for (i = 0; !ret && i < 1 << 20; i += 5 * CS)
		ret = fx_write(&f, i, 5 * CS, 1);
	is_int(ret, -ENOSPC, "a full device");
	must(qcow2_commit(f.img));
	for (i = 0, ret = 0; i < 8; i++)
		ret += mk_refcount(&f.be, hosts[i]) == 1;
	is_int(ret, 8, "three clusters of five are taken where there are three");
	fx_destroy(&f);
}

/* 64-bit refcounts: 64 clusters to a block, 4096 to a table of one cluster. */
static void make_wide(struct fixture *f, enum mem_flavour flavour, u64 bytes)
{
	fx_make_on(f, flavour, bytes, &(struct mk_image){
		.cluster_bits = 9, .refcount_order = 6, .size = 1 << 20 });
}

/* Between two blocks one is missing, and the last before it is full. */
static void test_missing_block(void)
{
	u64 i, leaks, missing;
	struct fixture f;
	int ret = 0;

	make_wide(&f, MEM_DEVICE, 256 * CS);
	for (i = 48; i < 64; i++)
		must(mk_set_refcount(&f.be, i * CS, 1)); /* leaked */
	f.be.mk_end = 128 * CS;
	must(mk_map(&f.be, 0, QCOW2_ZERO_ALLOC, 1, NULL));
	missing = mem_be64(&f.be, 48) + 8;
	is_int(mem_be64(&f.be, missing), 0, "a refcount block is missing");
	fx_open(&f);
	for (i = 0; !ret && i < 1 << 20; i += CS)
		ret = fx_write(&f, i, CS, 1);
	is_int(ret, -ENOSPC, "the device is filled");
	is_int(fx_close(&f), 0, "close");
	is_int(mem_be64(&f.be, missing), 64 * CS, "the block counts itself");
	is_int(bad_refcounts(&f, &leaks), 0, "every reference is counted");
	is_int(leaks, 16, "nothing has leaked");
	fx_open(&f);
	ok(fx_reads(&f, 0, i - CS, 1), "and all is there");
	fx_destroy(&f);
}

/* Where a block would count itself there is a table that nothing counts. */
static void test_uncounted_table(void)
{
	struct fixture f;
	u64 table;

	make_wide(&f, MEM_FILE, 0);
	f.be.mk_end = 64 * CS;
	must(mk_map(&f.be, 512 << 10, QCOW2_ZERO_ALLOC, 1, NULL));
	table = fx_l1(&f, 16) & QCOW2_ENTRY_OFFSET;
	is_int(table, 64 * CS, "an L2 table at the start of a block's range");
	mem_set_be64(&f.be, mem_be64(&f.be, 48) + 8, 0);
	fx_open(&f);
	is_int(fx_write(&f, 0, 64 * CS, 1), -EUCLEAN, "whose block is missing");
	ok(mem_has_msg(&f.be, "entry 1 is empty, but cluster 64 is part of") &&
	   fx_corrupt_bit(&f), "is not written over");
	fx_destroy(&f);
}

/* The same where the refcount table would move to. */
static void test_table_in_the_way(void)
{
	struct fixture f;
	int ret = 0;
	u64 i;

	make_wide(&f, MEM_FILE, 0);
	f.be.mk_end = 4060 * CS;
	must(mk_map(&f.be, 0, QCOW2_ZERO_ALLOC, 1, NULL));
	mem_set_be64(&f.be, fx_l1_place(&f, 16), 4096 * CS | QCOW2_ENTRY_COPIED);
	f.be.size = 4100 * CS;
	fx_open(&f);
	for (i = 0; !ret && i < 64 * CS; i += CS)
		ret = fx_write(&f, i, CS, 1);
	is_int(ret, -EUCLEAN, "an L2 table beyond the refcount table");
	ok(mem_has_msg(&f.be, "beyond the refcount table, but hold metadata") &&
	   fx_corrupt_bit(&f), "is not written over");
	ok(stamp_is_zero(f.be.data + 4096 * CS), "and is as it was");
	fx_destroy(&f);
}

/* A device with two clusters more than its refcount table reaches. */
static void test_no_place_to_move(void)
{
	struct fixture f;
	int ret = 0;
	u64 i;

	make_wide(&f, MEM_DEVICE, 4098 * CS);
	f.be.mk_end = 4060 * CS;
	must(mk_map(&f.be, 0, QCOW2_ZERO_ALLOC, 1, NULL));
	fx_open(&f);
	for (i = 0; !ret && i < 64 * CS; i += CS)
		ret = fx_write(&f, i, CS, 1);
	is_int(ret, 0, "no place for a larger refcount table: space below");
	is_int(f.img->alloc.limit, 4096, "and none where the table ends");
	is_int(mem_be32(&f.be, 56), 1, "it is where it was");
	check(&f, "no place to move");
	ok(fx_reads(&f, 0, i, 1), "and all is there");
	fx_destroy(&f);
}

/* What was given back is used next, unless its refcount cannot be read. */
static void test_recycled(void)
{
	struct qcow2_waiter waiter = { .wake = NULL };
	struct qcow2_write w;
	struct fixture f;
	u64 i, host;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 9, .size = 16 << 20 });
	for (i = 0; i < 300; i++) /* far more than the cache holds */
		must(mk_set_l2(&f.be, i * 64 * CS, 0));
	fx_open_with(&f, 1);
	must(qcow2_write_begin(f.img, 0, CS, &w, &waiter));
	host = w.host;
	is_int(qcow2_write_end(f.img, &w, -EIO), -EIO, "a write that fails");
	must(qcow2_commit(f.img));
	for (i = 300; i-- > 0;)
		must(fx_read(&f, i * 64 * CS, CS));
	mem_fail(&f.be, MEM_READ, 1, -EIO);
	is_int(fx_write(&f, 0, CS, 1), -EIO, "a refcount block cannot be read");
	is_int(fx_write(&f, 0, CS, 1), 0, "later it can");
	is_int(fx_host(&f, 0), host, "and its cluster is used again");
	check(&f, "recycled");
	fx_destroy(&f);
}

/* A file and a device whose last cluster is not whole. */
static void test_odd_sizes(void)
{
	struct fixture f;
	int ret = 0;
	u64 i;

	fx_make_on(&f, MEM_DEVICE, (1 << 20) + 1536, &(struct mk_image){
		.cluster_bits = 12, .size = 4 << 20 });
	fx_open(&f);
	for (i = 0; !ret && i < 4 << 20; i += 4096)
		ret = fx_write(&f, i, 4096, 1);
	is_int(ret, -ENOSPC, "a device that ends inside a cluster");
	is_int(f.img->alloc.end, 256, "that cluster is not used");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void all_free(struct fixture *f)
{
	u64 block = mem_be64(&f->be, mem_be64(&f->be, 48));

	memset(f->be.data + block, 0, 1u << mem_be32(&f->be, 20));
}

/* Refcounts of 0 everywhere: nothing of the metadata is handed out. */
static void test_lies(void)
{
	u32 flavour;

	for (flavour = MEM_FILE; flavour <= MEM_DEVICE; flavour++) {
		struct fixture f;
		u8 before[16384];
		u64 n = 0;
		int ret;

		fx_make_on(&f, flavour, 1 << 20, &(struct mk_image){
			.cluster_bits = 12, .size = 4 << 20 });
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
		all_free(&f);
		memcpy(before, f.be.data, sizeof(before));
		fx_open(&f);
		ret = fx_write(&f, 4096, 512, 1);
		is_int(ret, -EUCLEAN, "refcounts that are all 0");
		ok(fx_corrupt_bit(&f) && qcow2_mode(f.img) == QCOW2_READ_ONLY,
		   "the image is marked corrupt");
		ok(mem_has_msg(&f.be, "is 0, but it is part of"),
		   "the message says where");
		is_int(fx_close(&f), 0, "close");
		mem_set_be64(&f.be, 72, 0);
		n = memcmp(before, f.be.data, sizeof(before));
		ok(!n, "nothing was written over");
		fx_destroy(&f);
	}
}

/* A refcount block that has been read as an L2 table before. */
static void test_block_is_table(void)
{
	struct fixture f;

	fx_make(&f, 12, 4 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	mem_set_be64(&f.be, mem_be64(&f.be, 48) + 8,
		     fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET);
	fx_open(&f);
	is_int(fx_read(&f, 0, 512), 0, "an L2 table is read");
	is_int(fx_write(&f, 0, 512, 1), -EUCLEAN, "and is a refcount block, too");
	ok(mem_has_msg(&f.be, "refcount table: entry 1 names a block at"),
	   "the message says so");
	is_int(fx_read(&f, 0, 512), 0, "it can still be read");
	fx_destroy(&f);
}

/* Two entries name one cluster, which is counted once, and is a table by now. */
static void test_freed_twice(void)
{
	struct fixture f;
	u64 host;
	int epoch;

	fx_make(&f, 12, 4 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	must(mk_set_l2(&f.be, 0, host));
	must(mk_set_l2(&f.be, 4096, host));
	fx_open(&f);
	must(fx_write(&f, 0, 4096, 1));
	must(qcow2_commit(f.img));
	epoch = port_epoch_enter(&f.img->epoch);
	must(fx_write(&f, 4096, 4096, 1));
	must(qcow2_commit(f.img));
	must(fx_write(&f, 2 << 20, 512, 1));
	port_epoch_exit(&f.img->epoch, epoch);
	must(qcow2_commit(f.img));
	is_int(fx_l1(&f, 1) & QCOW2_ENTRY_OFFSET, host,
	       "a cluster that was freed is a table");
	ok(mem_has_msg(&f.be, "held data and is part of") && fx_corrupt_bit(&f),
	   "and is not freed again");
	is_int(mk_refcount(&f.be, host), 1, "it stays counted");
	ok(fx_reads(&f, 2 << 20, 512, 1) && fx_reads(&f, 0, 8192, 1),
	   "and all is there");
	fx_destroy(&f);
}

/* Cluster 0 is never handed out, not even on a second round. */
static void test_header_cluster(void)
{
	struct fixture f;
	int ret = 0;
	u64 i;

	fx_make_on(&f, MEM_DEVICE, 256 << 10, &(struct mk_image){
		.cluster_bits = 12, .size = 4 << 20 });
	must(mk_set_refcount(&f.be, 0, 0));
	fx_open(&f);
	for (i = 0; !ret && i < 4 << 20; i += 4096)
		ret = fx_write(&f, i, 4096, 1);
	is_int(ret, -ENOSPC, "a full device whose header is not counted");
	must(fx_close(&f));
	is_int(mem_be32(&f.be, 0), 0x514649fb, "it still has its header");
	fx_destroy(&f);
}

static void test_empty_entry_0(void)
{
	struct fixture f;

	fx_make(&f, 12, 4 << 20);
	mem_set_be64(&f.be, mem_be64(&f.be, 48), 0);
	fx_open(&f);
	is_int(fx_write(&f, 0, 512, 1), -EUCLEAN, "no first refcount block");
	ok(mem_has_msg(&f.be, "entry 0 is empty") && fx_corrupt_bit(&f),
	   "is corrupt");
	fx_destroy(&f);
}

static void test_all_orders(void)
{
	u32 order;

	for (order = 0; order <= 6; order++) {
		struct fixture f;
		u64 leaks;

		fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
			.cluster_bits = 9, .size = 2 << 20,
			.refcount_order = order, .order_given = true });
		fx_open(&f);
		must(fx_write(&f, 0, 2 << 20, 1));
		is_int(fx_close(&f), 0, "refcount_order %u", order);
		is_int(bad_refcounts(&f, &leaks) + leaks, 0,
		       "refcount_order %u: counted right", order);
		fx_open(&f);
		ok(fx_reads(&f, 0, 2 << 20, 1), "refcount_order %u: read",
		   order);
		fx_destroy(&f);
	}
}

/* A reference that the refcounts do not know is lost: too late to count. */
static void test_double_free(void)
{
	struct fixture f;
	u64 host;

	fx_make(&f, 12, 4 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 2, &host));
	must(mk_map(&f.be, 4096, QCOW2_DATA, 2, NULL));
	must(mk_set_refcount(&f.be, host, 0));
	fx_open(&f);
	must(fx_write(&f, 0, 512, 1));
	must(qcow2_commit(f.img));
	must(qcow2_commit(f.img));
	ok(fx_corrupt_bit(&f) && mem_has_msg(&f.be, "but a table named it"),
	   "a refcount below zero is corrupt");
	fx_destroy(&f);
}

/* The file ends where it is used; what close cuts off was ahead of need. */
static void test_trim(void)
{
	struct fixture f;
	u64 size;

	fx_make(&f, 12, 4 << 20);
	fx_open(&f);
	must(fx_write(&f, 0, 16384, 1));
	f.be.size += 1 << 20;
	must(fx_close(&f));
	size = f.be.size;
	fx_open(&f);
	ok(size == f.img->host_end && fx_reads(&f, 0, 16384, 1),
	   "a file that grew ahead is cut back");
	must(qcow2_activate(f.img));
	is_int(qcow2_alloc_end(f.img), size, "to the last used cluster");
	fx_destroy(&f);
}

/* What the refcounts do not know is not cut off: it may be data. */
static void test_trim_keeps(void)
{
	struct fixture f;
	u64 host, size;

	fx_make(&f, 12, 4 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 4096, QCOW2_DATA, 1, &host));
	fx_store(&f, host, 4096, 4096, 5);
	must(mk_set_refcount(&f.be, host, 0));
	size = f.be.size;
	fx_open(&f);
	must(fx_write(&f, 0, 512, 1));
	must(fx_close(&f));
	is_int(f.be.size, size, "the file is not cut shorter than it was");
	fx_open(&f);
	ok(fx_reads(&f, 4096, 4096, 5), "nor data that is not counted");
	fx_destroy(&f);
}

int main(void)
{
	test_blocks();
	test_table_moves(MEM_FILE);
	test_table_moves(MEM_DEVICE);
	test_move_errors();
	test_no_space_file();
	test_no_space_to_move();
	test_wrap_around();
	test_recycled();
	test_reclaim();
	test_holes();
	test_missing_block();
	test_uncounted_table();
	test_table_in_the_way();
	test_no_place_to_move();
	test_odd_sizes();
	test_lies();
	test_block_is_table();
	test_freed_twice();
	test_header_cluster();
	test_empty_entry_0();
	test_all_orders();
	test_double_free();
	test_trim();
	test_trim_keeps();
	return tap_end();
}
