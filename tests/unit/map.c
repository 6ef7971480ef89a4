// SPDX-License-Identifier: GPL-2.0
/*
 * From guest offset to mapping: each kind, where runs end, what is an error;
 * and that the lookup that never waits says the same as the one that reads.
 */
#include "fixture.h"

/* Both lookups, the second from memory: they must agree. */
static int look(struct fixture *f, u64 guest, u64 len, struct qcow2_mapping *m)
{
	struct qcow2_mapping peek;
	int ret = qcow2_map(f->img, guest, len, m), again;

	if (ret)
		return ret;
	again = qcow2_map_peek(f->img, guest, len, &peek);
	if (again || peek.kind != m->kind || peek.len != m->len ||
	    (m->kind == QCOW2_DATA && peek.host != m->host) ||
	    peek.in_place != m->in_place || peek.durable != m->durable)
		ok(false, "peek and map agree at %llu",
		   (unsigned long long)guest);
	return 0;
}

static bool is_run(struct fixture *f, u64 guest, u64 len, enum qcow2_kind kind,
		   u64 host, u64 run)
{
	struct qcow2_mapping m;
	int ret = look(f, guest, len, &m);

	if (!ret && m.kind == kind && m.len == run &&
	    (kind != QCOW2_DATA || m.host == host))
		return true;
	diag("ret %d kind %d host %#llx len %llu", ret, m.kind,
	     (unsigned long long)m.host, (unsigned long long)m.len);
	return false;
}

static void test_kinds(void)
{
	struct fixture f;
	u64 cs, host, zero;

	fx_make(&f, 12, 8 << 20);
	cs = f.cs;
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	must(mk_map(&f.be, 2 * cs, QCOW2_ZERO, 0, NULL));
	must(mk_map(&f.be, 3 * cs, QCOW2_ZERO_ALLOC, 1, &zero));
	must(mk_set_l2(&f.be, 4 * cs, QCOW2_ENTRY_COMPRESSED | host));
	must(mk_set_l2(&f.be, 5 * cs, QCOW2_ENTRY_COMPRESSED | host));
	fx_open(&f);
	ok(is_run(&f, 0, 2 * cs, QCOW2_DATA, host, cs), "data");
	ok(is_run(&f, 512, 512, QCOW2_DATA, host + 512, 512),
	   "a sector of it");
	ok(is_run(&f, cs - 512, cs, QCOW2_DATA, host + cs - 512, 512),
	   "its last sector");
	ok(is_run(&f, cs, 8 * cs, QCOW2_UNALLOCATED, 0, cs), "unallocated");
	ok(is_run(&f, 2 * cs, 8 * cs, QCOW2_ZERO, 0, cs), "zero");
	ok(is_run(&f, 3 * cs, 8 * cs, QCOW2_ZERO_ALLOC, 0, cs),
	   "preallocated zero");
	ok(is_run(&f, 4 * cs, 8 * cs, QCOW2_COMPRESSED, 0, cs),
	   "compressed clusters are no run");
	ok(is_run(&f, 4 * cs + 1024, 8 * cs, QCOW2_COMPRESSED, 0, cs - 1024),
	   "the rest of one");
	ok(is_run(&f, 6 * cs, 8 << 20, QCOW2_UNALLOCATED, 0, (2 << 20) - 6 * cs),
	   "unallocated to the end of the table");
	ok(is_run(&f, 2 << 20, 6 << 20, QCOW2_UNALLOCATED, 0, 2 << 20),
	   "no table: all that its L1 entry covers");
	ok(is_run(&f, (2 << 20) + 512, 6 << 20, QCOW2_UNALLOCATED, 0,
		  (2 << 20) - 512), "from inside it");
	ok(is_run(&f, (8 << 20) - 512, 512, QCOW2_UNALLOCATED, 0, 512),
	   "the last sector of the disk");
	fx_destroy(&f);
}

/* A run ends where anything changes. */
static void test_run_ends(void)
{
	struct fixture f;
	u64 cs, host, gap;
	u32 i;

	fx_make(&f, 12, 8 << 20);
	cs = f.cs;
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	for (i = 1; i < 8; i++)
		must(mk_map(&f.be, i * cs, QCOW2_DATA, i < 4 ? 1 : 2, NULL));
	must(mk_cluster(&f.be, 1, &gap));
	for (i = 8; i < 10; i++)
		must(mk_map(&f.be, i * cs, QCOW2_DATA, 2, NULL));
	/* two in the wrong order */
	must(mk_map(&f.be, 11 * cs, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 10 * cs, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 12 * cs, QCOW2_ZERO_ALLOC, 1, NULL));
	must(mk_map(&f.be, 14 * cs, QCOW2_ZERO_ALLOC, 2, NULL));
	must(mk_map(&f.be, 13 * cs, QCOW2_ZERO_ALLOC, 1, NULL));
	fx_open(&f);
	ok(is_run(&f, 0, 8 << 20, QCOW2_DATA, host, 4 * cs),
	   "COPIED changes");
	ok(is_run(&f, 1024, 2 * cs, QCOW2_DATA, host + 1024, 2 * cs),
	   "as much as was asked for");
	ok(is_run(&f, 4 * cs, 8 << 20, QCOW2_DATA, host + 4 * cs, 4 * cs),
	   "a gap on the host");
	ok(is_run(&f, 8 * cs, 8 << 20, QCOW2_DATA, gap + cs, 2 * cs),
	   "after the gap");
	ok(is_run(&f, 10 * cs, 8 << 20, QCOW2_DATA, gap + 4 * cs, cs),
	   "the host goes backwards");
	ok(is_run(&f, 12 * cs, 8 << 20, QCOW2_ZERO_ALLOC, 0, 3 * cs),
	   "what reads as zeros need not lie in a row");
	fx_destroy(&f);
}

/* 64 KiB clusters: a slice is 512 entries, a table has 16 of them. */
static void test_slice_end(void)
{
	u64 slice = 512ull << 16, guest, host = 0, first = 0;
	struct fixture f;

	fx_make(&f, 16, 2 * slice);
	for (guest = slice - 4 * 65536; guest < slice + 4 * 65536;
	     guest += 65536) {
		must(mk_map(&f.be, guest, QCOW2_DATA, 1, &host));
		first = first ?: host;
	}
	fx_open(&f);
	ok(is_run(&f, slice - 4 * 65536, slice, QCOW2_DATA, first, 4 * 65536),
	   "a run ends with its slice");
	ok(is_run(&f, slice, slice, QCOW2_DATA, first + 4 * 65536, 4 * 65536),
	   "and goes on in the next");
	ok(is_run(&f, 0, slice, QCOW2_UNALLOCATED, 0, slice - 4 * 65536),
	   "unallocated before it");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void test_peek_blocks(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 reads;

	/* an L1 table of 2 MiB, of which opening reads the first */
	fx_make(&f, 12, 512ull << 30);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 400ull << 30, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	reads = f.be.seen[MEM_READ];
	ok(qcow2_map_peek(f.img, 0, 512, &m) == -EWOULDBLOCK,
	   "the L2 slice is not in memory");
	ok(qcow2_map_peek(f.img, 2 << 20, 512, &m) == 0 &&
	   m.kind == QCOW2_UNALLOCATED, "the L1 table is, and says enough");
	ok(qcow2_map_peek(f.img, 400ull << 30, 512, &m) == -EWOULDBLOCK,
	   "the second half of the L1 table is not");
	is_int(f.be.seen[MEM_READ], reads, "peek reads nothing");
	must(qcow2_map(f.img, 400ull << 30, 512, &m));
	ok(qcow2_map_peek(f.img, 400ull << 30, 512, &m) == 0 &&
	   m.kind == QCOW2_DATA, "map has read it");
	must(qcow2_map(f.img, 0, 512, &m));
	ok(m.kind == QCOW2_DATA && !m.in_place,
	   "nothing is in place before activation");
	must(qcow2_activate(f.img));
	must(qcow2_map(f.img, 0, 512, &m));
	ok(m.in_place && m.durable, "after it, it is");
	ok(qcow2_map_peek(f.img, 0, 512, &m) == 0 && m.in_place && m.durable,
	   "and peek says so");
	fx_destroy(&f);
}

static void test_in_place(void)
{
	struct qcow2_mapping m;
	struct fixture f;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 4096, QCOW2_DATA, 2, NULL));
	must(mk_map(&f.be, 8192, QCOW2_ZERO_ALLOC, 1, NULL));
	must(mk_map(&f.be, 2 << 20, QCOW2_DATA, 1, NULL));
	must(mk_share_table(&f.be, 2 << 20, 2));
	/* COPIED in a table that is not */
	must(mk_set_l2(&f.be, 2 << 20, fx_l2(&f, 2 << 20) | 1ull << 63));
	fx_open(&f);
	must(qcow2_activate(f.img));
	must(look(&f, 0, 512, &m));
	ok(m.in_place, "COPIED data");
	must(look(&f, 4096, 512, &m));
	ok(!m.in_place, "shared data");
	must(look(&f, 8192, 512, &m));
	ok(!m.in_place, "preallocated zero");
	must(look(&f, 2 << 20, 512, &m));
	ok(!m.in_place && m.kind == QCOW2_DATA, "data in a shared table");
	must(fx_write(&f, 12288, 512, 1));
	must(look(&f, 12288, 512, &m));
	ok(m.in_place && !m.durable, "what is linked in memory only");
	must(look(&f, 0, 512, &m));
	ok(m.in_place && !m.durable, "and its slice with it");
	must(qcow2_commit(f.img));
	must(look(&f, 12288, 512, &m));
	ok(m.in_place && m.durable, "is durable after a commit");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void test_end_of_file(void)
{
	struct fixture f;
	u64 cs, last;
	u8 buf[8192];

	fx_make(&f, 12, 8 << 20);
	cs = f.cs;
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &last));
	fx_store(&f, last, 0, cs, 3);
	f.be.size = last + 1024;
	memset(f.be.data + f.be.size, 0, cs);
	fx_open(&f);
	must(guest_read(f.img, 0, buf, cs));
	ok(fx_holds(buf, 0, 1024, 3) && fx_holds(buf + 1024, 1024, cs - 1024, 0),
	   "a last cluster that is cut short reads as zeros there");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "and is no error");
	must(fx_write(&f, 2048, 512, 5));
	ok(fx_reads(&f, 0, 1024, 3) && fx_reads(&f, 1024, 1024, 0) &&
	   fx_reads(&f, 2048, 512, 5), "it can be written");
	fx_destroy(&f);

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &last));
	must(mk_map(&f.be, cs, QCOW2_DATA, 1, NULL));
	must(mk_map(&f.be, 2 * cs, QCOW2_DATA, 1, NULL));
	fx_store(&f, last, 0, cs, 3);
	f.be.size = last + cs;
	fx_open(&f);
	ok(is_run(&f, 0, 3 * cs, QCOW2_DATA, last, cs),
	   "a run ends where the file does");
	is_int(fx_read(&f, cs, 512), -EUCLEAN, "data beyond the end of the file");
	ok(mem_has_msg(&f.be, "L2 table 0") && mem_has_msg(&f.be, "entry 1 is"),
	   "the message names it");
	ok(fx_reads(&f, 0, cs, 3), "what lies before it can be read");
	fx_destroy(&f);
}

static void test_tables_beyond_the_end(void)
{
	struct fixture f;
	struct qcow2_mapping m;

	fx_make(&f, 12, 8 << 20);
	mem_set_be64(&f.be, fx_l1_place(&f, 1), 1ull << 63 | 1ull << 40);
	mem_set_be64(&f.be, fx_l1_place(&f, 2), 1ull << 63 | 0x1200);
	mem_set_be64(&f.be, fx_l1_place(&f, 3), 1ull << 63);
	fx_open(&f);
	ok(qcow2_map_peek(f.img, 2 << 20, 512, &m) == -EWOULDBLOCK,
	   "peek leaves a table beyond the end to map");
	is_int(qcow2_map(f.img, 2 << 20, 512, &m), -EUCLEAN,
	       "an L2 table beyond the end of the file");
	ok(mem_has_msg(&f.be, "L1 table: entry 1 is"), "by name");
	ok(qcow2_map_peek(f.img, 4 << 20, 512, &m) == -EWOULDBLOCK &&
	   qcow2_map(f.img, 4 << 20, 512, &m) == -EUCLEAN,
	   "an L2 table inside a cluster");
	ok(qcow2_map(f.img, 6 << 20, 512, &m) == -EUCLEAN,
	   "an L1 entry that is COPIED and nothing else");
	is_int(qcow2_map(f.img, 0, 512, &m), 0, "the others are as before");
	fx_destroy(&f);
}

static void test_bad_entry_in_a_run(void)
{
	struct fixture f;
	u64 cs, host, bad;

	fx_make(&f, 12, 8 << 20);
	cs = f.cs;
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	must(mk_map(&f.be, cs, QCOW2_DATA, 1, &bad));
	must(mk_set_l2(&f.be, cs, 1ull << 63 | 1ull << 57 | bad));
	fx_open(&f);
	ok(is_run(&f, 0, 2 * cs, QCOW2_DATA, host, cs),
	   "a run ends before a bad entry");
	ok(!*mem_last_msg(&f.be), "of which nobody speaks yet");
	is_int(fx_read(&f, 0, 2 * cs), -EUCLEAN, "until it is used");
	fx_destroy(&f);
}

static void test_read_errors(void)
{
	struct qcow2_mapping m;
	struct fixture f;

	fx_make(&f, 12, 8 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	mem_fail(&f.be, MEM_READ, 1, -EIO);
	is_int(qcow2_map(f.img, 0, 512, &m), -EIO, "a slice cannot be read");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "which says nothing more");
	is_int(qcow2_map_peek(f.img, 0, 512, &m), -EWOULDBLOCK,
	       "it is not in memory");
	is_int(qcow2_map(f.img, 0, 512, &m), 0, "the next read finds it");
	fx_destroy(&f);
}

/* Each table at both ends, each kind, through the eyes of the guest. */
/* Tables in a row come with one read, and what is no table of the row does not. */
static void test_tables_in_a_row(void)
{
	u64 span = (u64)512 << 12, i, at, reads, there = 0;
	struct qcow2_mapping m;
	struct fixture f;

	fx_make(&f, 12, 64 * span);
	for (i = 0; i < 64; i++)
		must(mk_map(&f.be, i * span, QCOW2_ZERO, 1, NULL));
	/* two rows, and entries that name no table */
	at = mem_be64(&f.be, 40);
	mem_set_be64(&f.be, at + 40 * 8, 0);
	mem_set_be64(&f.be, at + 50 * 8, mem_be64(&f.be, at + 50 * 8) | 2);
	fx_open(&f);
	reads = atomic64_read(&f.img->stats.meta_reads);
	must(qcow2_map(f.img, 20 * span, 4096, &m));
	for (i = 0; i < 40; i++)
		there += !qcow2_map_peek(f.img, i * span, 4096, &m) &&
			m.kind == QCOW2_ZERO;
	is_int(there, 40, "all tables of a row are there");
	is_int(qcow2_map_peek(f.img, 41 * span, 4096, &m), -EWOULDBLOCK,
	       "that behind a gap is not");
	must(qcow2_map(f.img, 49 * span, 4096, &m));
	is_int(qcow2_map_peek(f.img, 51 * span, 4096, &m), -EWOULDBLOCK,
	       "nor that behind an entry that is none");
	must(qcow2_map(f.img, 63 * span, 4096, &m));
	is_int(atomic64_read(&f.img->stats.meta_reads) - reads, 3,
	       "a read for each row");
	is_int(f.img->mode, QCOW2_READ_WRITE, "nobody has complained");
	fx_destroy(&f);
}

/* A row longer than one read ends where it ends. */
static void test_long_row(void)
{
	u64 span = (u64)512 << 12, i, end = 0, host;
	struct qcow2_block *blk;
	struct qcow2_mapping m;
	struct fixture f;

	fx_make(&f, 12, 400 * span);
	for (i = 0; i < 300; i++)
		must(mk_map(&f.be, i * span, QCOW2_ZERO, 1, NULL));
	for (i = 0; i < 300; i++)
		must(mk_cluster(&f.be, 1, &host));
	fx_open(&f);
	must(qcow2_map(f.img, 299 * span, 4096, &m));
	for (i = 0; i < 300; i++)
		end = max(end, fx_l1(&f, i) & QCOW2_ENTRY_OFFSET);
	blk = qcow2_cache_peek(f.img, QCOW2_BLOCK_L2, end);
	ok(blk, "the last table is in memory");
	blk = qcow2_cache_peek(f.img, QCOW2_BLOCK_L2, end + 4096);
	ok(!blk, "what is behind it is not");
	fx_destroy(&f);
}

static void test_all_cluster_sizes(void)
{
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		u64 covers = 1ull << (2 * bits - 3), cs = 1ull << bits, i;
		u64 places[] = { 0, covers - cs, covers, 2 * covers - cs };
		struct fixture f;

		fx_make(&f, bits, 2 * covers);
		for (i = 0; i < ARRAY_SIZE(places); i++) {
			u64 host;

			must(mk_map(&f.be, places[i], QCOW2_DATA, 1, &host));
			fx_store(&f, host, places[i], cs, i + 1);
		}
		fx_open(&f);
		for (i = 0; i < ARRAY_SIZE(places); i++)
			ok(fx_reads(&f, places[i], cs, i + 1),
			   "%u bits: cluster %llu", bits,
			   (unsigned long long)(places[i] >> bits));
		ok(fx_reads(&f, cs, cs, 0), "%u bits: a hole", bits);
		fx_destroy(&f);
	}
}

int main(void)
{
	test_kinds();
	test_run_ends();
	test_slice_end();
	test_peek_blocks();
	test_in_place();
	test_end_of_file();
	test_tables_beyond_the_end();
	test_bad_entry_in_a_run();
	test_read_errors();
	test_tables_in_a_row();
	test_long_row();
	test_all_cluster_sizes();
	return tap_end();
}
