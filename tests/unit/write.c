// SPDX-License-Identifier: GPL-2.0
/*
 * Guest writes: where the bytes go for each kind of cluster, what is copied or
 * zeroed around them, what happens when it goes wrong, and who waits for whom.
 */
#include "fixture.h"
#include "resize.h"

#define CS 4096ull

static void make(struct fixture *f, enum mem_flavour flavour)
{
	fx_make_on(f, flavour, flavour == MEM_DEVICE ? 16 << 20 : 0,
		   &(struct mk_image){ .cluster_bits = 12, .size = 8 << 20 });
}

/* Closes, opens, and the guest reads what it read before. */
static void reopen(struct fixture *f)
{
	is_int(fx_close(f), 0, "close");
	fx_open(f);
}

static u64 refcount(const struct fixture *f, u64 host)
{
	return mk_refcount(&f->be, host);
}

/* Writes the middle of guest cluster 1, which is @kind, by a sector. */
static void write_middle(struct fixture *f, const char *name, u64 before)
{
	u64 host;

	must(fx_write(f, CS + 1024, 512, 9));
	ok(fx_reads(f, CS, 1024, before) && fx_reads(f, CS + 1024, 512, 9) &&
	   fx_reads(f, CS + 1536, CS - 1536, before), "%s", name);
	ok(fx_reads(f, 0, CS, 0) && fx_reads(f, 2 * CS, CS, 0),
	   "%s: the neighbours are not touched", name);
	reopen(f);
	host = fx_host(f, CS);
	ok(fx_reads(f, CS, 1024, before) && fx_reads(f, CS + 1024, 512, 9) &&
	   fx_reads(f, CS + 1536, CS - 1536, before), "%s, reopened", name);
	ok(fx_l2(f, CS) == (host | QCOW2_ENTRY_COPIED) &&
	   refcount(f, host) == 1, "%s: COPIED, and counted once", name);
}

static void test_kinds_on(enum mem_flavour flavour)
{
	struct fixture f;
	u64 host;

	make(&f, flavour);
	fx_open(&f);
	write_middle(&f, "unallocated, no table", 0);
	fx_destroy(&f);

	make(&f, flavour);
	must(mk_map(&f.be, 5 * CS, QCOW2_ZERO, 0, NULL));
	fx_open(&f);
	write_middle(&f, "unallocated", 0);
	fx_destroy(&f);

	make(&f, flavour);
	must(mk_map(&f.be, CS, QCOW2_ZERO, 0, NULL));
	fx_open(&f);
	write_middle(&f, "zero", 0);
	fx_destroy(&f);

	make(&f, flavour);
	must(mk_map(&f.be, CS, QCOW2_ZERO_ALLOC, 1, &host));
	memset(f.be.data + host, 0xee, CS);
	fx_open(&f);
	write_middle(&f, "preallocated zero", 0);
	is_int(fx_host(&f, CS), host, "its cluster is used");
	fx_destroy(&f);

	make(&f, flavour);
	must(mk_map(&f.be, CS, QCOW2_ZERO_ALLOC, 2, &host));
	memset(f.be.data + host, 0xee, CS);
	fx_open(&f);
	write_middle(&f, "preallocated zero, shared", 0);
	ok(fx_host(&f, CS) != host && f.be.data[host] == 0xee &&
	   refcount(&f, host) == 1, "its cluster is left to the other");
	fx_destroy(&f);

	make(&f, flavour);
	must(mk_map(&f.be, CS, QCOW2_DATA, 2, &host));
	fx_store(&f, host, CS, CS, 4);
	fx_open(&f);
	write_middle(&f, "shared data", 4);
	ok(fx_host(&f, CS) != host && refcount(&f, host) == 1 &&
	   fx_holds(f.be.data + host, CS, CS, 4),
	   "the old cluster is as it was, and counted once less");
	fx_destroy(&f);
}

static void test_in_place(void)
{
	struct fixture f;
	u64 host;

	make(&f, MEM_FILE);
	must(mk_map(&f.be, CS, QCOW2_DATA, 1, &host));
	fx_store(&f, host, CS, CS, 4);
	fx_open(&f);
	must(fx_write(&f, 0, 512, 1));
	mem_log_start(&f.be);
	must(fx_write(&f, CS + 512, 512, 9));
	ok(f.be.nr_log == 1 && f.be.log[0].kind == MEM_DATA_WRITE &&
	   f.be.log[0].offset == host + 512,
	   "COPIED data is written where it is, and nothing else");
	must(qcow2_commit(f.img));
	must(fx_write(&f, CS + 512, 512, 10));
	mem_log_start(&f.be);
	must(qcow2_commit(f.img));
	ok(f.be.nr_log == 1 && f.be.log[0].kind == MEM_FLUSH,
	   "it leaves nothing to commit");
	fx_destroy(&f);
}

/* Runs over clusters of every kind, at every pair of sectors of them. */
static void test_spans(void)
{
	u64 from, to, bad = 0, n = 0, host;

	for (from = 0; from < 6 * 8; from += 3) {
		for (to = from + 1; to <= 6 * 8; to += 5) {
			struct fixture f;

			make(&f, n % 2 ? MEM_DEVICE : MEM_FILE);
			must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
			fx_store(&f, host, 0, CS, 2);
			must(mk_map(&f.be, CS, QCOW2_DATA, 2, &host));
			fx_store(&f, host, CS, CS, 3);
			must(mk_map(&f.be, 2 * CS, QCOW2_ZERO_ALLOC, 1, NULL));
			must(mk_map(&f.be, 3 * CS, QCOW2_ZERO, 0, NULL));
			must(mk_map(&f.be, 5 * CS, QCOW2_DATA, 2, &host));
			fx_store(&f, host, 5 * CS, CS, 4);
			fx_open(&f);
			must(fx_write(&f, from * 512, (to - from) * 512, 9));
			must(fx_close(&f));
			fx_open(&f);
			bad += !fx_reads(&f, from * 512, (to - from) * 512, 9);
			for (host = 0; host < 6 * 8; host++)
				bad += (host < from || host >= to) &&
					!fx_reads(&f, host * 512, 512,
						  host < 8 ? 2 : host < 16 ? 3 :
						  host < 40 ? 0 : 4);
			fx_destroy(&f);
			n++;
		}
	}
	is_int(bad, 0, "%llu writes over six clusters of different kinds",
	       (unsigned long long)n);
}

/* ---------------------------------------------------------------- */

static void test_contiguous(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 i, breaks = 0, last = 0;

	make(&f, MEM_FILE);
	fx_open(&f);
	must(fx_write(&f, 0, 256 << 10, 1));
	must(qcow2_map(f.img, 0, 256 << 10, &m));
	is_int(m.len, 256 << 10, "a long write lies in a row");
	for (i = 64; i < 512; i++) {
		must(fx_write(&f, i * CS, CS, 1));
		breaks += last && fx_host(&f, i * CS) != last + CS;
		last = fx_host(&f, i * CS);
	}
	is_int(breaks, 0, "and so do sequential writes of single clusters");
	fx_destroy(&f);
}

/* What is beyond the end of a file is zeros: nothing is written there. */
static void test_padding(void)
{
	struct fixture f;

	make(&f, MEM_FILE);
	fx_open(&f);
	mem_log_start(&f.be);
	must(fx_write(&f, 512, 512, 1));
	must(fx_write(&f, 3 * CS - 512, CS + 1024, 1));
	ok(!fx_ops(&f, MEM_ZERO), "no zeros into the fresh part of a file");
	fx_destroy(&f);

	make(&f, MEM_FILE);
	f.be.size += 8 * CS; /* junk that an earlier crash left */
	memset(f.be.data + f.be.size - 8 * CS, 0xee, 8 * CS);
	fx_open(&f);
	mem_log_start(&f.be);
	must(fx_write(&f, 512, 512, 1));
	is_int(fx_ops(&f, MEM_ZERO), 3,
	       "what is inside the file is zeroed: the table, a head, a tail");
	ok(fx_reads(&f, 0, 512, 0) && fx_reads(&f, 1024, CS - 1024, 0),
	   "and the junk is not seen");
	fx_destroy(&f);

	make(&f, MEM_DEVICE);
	fx_open(&f);
	must(fx_write(&f, 0, CS, 1));
	mem_log_start(&f.be);
	must(fx_write(&f, CS, CS, 1));
	is_int(fx_ops(&f, MEM_ZERO), 0, "a whole cluster needs no zeros");
	must(fx_write(&f, 2 * CS, 512, 1));
	is_int(fx_ops(&f, MEM_ZERO), 1, "on a device a tail does");
	must(fx_write(&f, 4 * CS - 512, CS, 1));
	is_int(fx_ops(&f, MEM_ZERO), 3, "a head and a tail");
	must(fx_write(&f, 5 * CS + 512, 512, 1));
	ok(fx_reads(&f, 5 * CS, 512, 0) &&
	   fx_reads(&f, 5 * CS + 1024, CS - 1024, 0), "which are zeros");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void test_abort(void)
{
	struct fixture f;
	u64 host, old;

	make(&f, MEM_FILE);
	must(mk_map(&f.be, CS, QCOW2_DATA, 2, &old));
	fx_store(&f, old, CS, CS, 4);
	must(mk_map(&f.be, 2 * CS, QCOW2_ZERO_ALLOC, 1, NULL));
	fx_open(&f);
	must(fx_write(&f, 8 * CS, CS, 1));
	mem_fail(&f.be, MEM_DATA_WRITE, 1, -EIO);
	is_int(fx_write(&f, 5 * CS, 2 * CS, 1), -EIO, "a data write fails");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE,
	       "which says nothing of the image");
	ok(fx_reads(&f, 5 * CS, 2 * CS, 0), "nothing was linked");
	is_int(atomic64_read(&f.img->stats.freed), 2,
	       "the clusters are given back");
	must(fx_write(&f, 5 * CS, 512, 2));
	host = fx_host(&f, 5 * CS);
	is_int(host, fx_host(&f, 8 * CS) + CS, "and used again");
	ok(fx_reads(&f, 5 * CS + 512, CS - 512, 0), "without what was in them");

	mem_fail(&f.be, MEM_DATA_WRITE, 1, -EIO);
	is_int(fx_write(&f, CS, 512, 1), -EIO, "a copy fails");
	mem_fail(&f.be, MEM_DATA_READ, 1, -EIO);
	is_int(fx_write(&f, CS, 512, 1), -EIO, "its read fails");
	ok(fx_reads(&f, CS, CS, 4), "the old contents are there");
	mem_fail(&f.be, MEM_DATA_WRITE, 1, -EIO);
	is_int(fx_write(&f, 2 * CS, CS, 1), -EIO,
	       "a write into a preallocated cluster fails");
	ok(fx_reads(&f, 2 * CS, CS, 0), "it stays zeros");
	mem_fail(&f.be, MEM_ZERO, 1, -EIO);
	is_int(fx_write(&f, 2 * CS, 512, 1), -EIO, "its padding fails");
	ok(fx_reads(&f, 2 * CS, CS, 0), "it stays zeros");
	mem_fail_nothing(&f.be);
	must(fx_write(&f, 2 * CS, 512, 1));
	ok(fx_reads(&f, 2 * CS, 512, 1) && fx_reads(&f, 2 * CS + 512, CS - 512, 0),
	   "then it works");
	reopen(&f);
	is_int(refcount(&f, old), 2, "the shared cluster is shared as before");
	fx_destroy(&f);
}

/* The first write into a table: everything on the way may fail. */
static void test_table_errors(void)
{
	enum mem_kind kind;

	for (kind = MEM_READ; kind <= MEM_GROW; kind++) {
		struct fixture f;
		int ret;

		make(&f, MEM_DEVICE);
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
		must(mk_share_table(&f.be, 0, 2));
		fx_open(&f);
		must(qcow2_activate(f.img));
		mem_fail(&f.be, kind, 1, -EIO);
		ret = fx_write(&f, CS, 512, 1);
		ok(!ret || ret == -EIO, "a table is copied, kind %u fails", kind);
		mem_fail(&f.be, kind, 1, -EIO);
		ret = fx_write(&f, 4 << 20, 512, 1);
		ok(!ret || ret == -EIO, "a table is made, kind %u fails", kind);
		mem_fail_nothing(&f.be);
		is_int(fx_write(&f, CS, 512, 1), 0, "then it works");
		is_int(fx_write(&f, 4 << 20, 512, 1), 0, "both");
		is_int(fx_close(&f), 0, "close");
		fx_open(&f);
		ok(fx_reads(&f, CS, 512, 1) && fx_reads(&f, 4 << 20, 512, 1) &&
		   fx_reads(&f, CS + 512, CS - 512, 0), "it is there");
		fx_destroy(&f);
	}
}

static void test_shared_table(void)
{
	u64 old, data, table;
	struct fixture f;

	make(&f, MEM_FILE);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &data));
	fx_store(&f, data, 0, CS, 4);
	must(mk_map(&f.be, 3 * CS, QCOW2_ZERO_ALLOC, 1, NULL));
	must(mk_share_table(&f.be, 0, 2));
	old = fx_l1(&f, 0);
	fx_open(&f);
	ok(fx_reads(&f, 0, CS, 4), "a shared table is read");
	must(fx_write(&f, CS, CS, 1));
	ok(fx_reads(&f, 0, CS, 4) && fx_reads(&f, CS, CS, 1),
	   "a write into it leaves the rest readable");
	reopen(&f);
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	ok(table != old && (fx_l1(&f, 0) & QCOW2_ENTRY_COPIED),
	   "the table has been copied");
	ok(refcount(&f, table) == 1 && refcount(&f, old) == 1,
	   "and each has one owner");
	ok(fx_l2(&f, 0) == data && refcount(&f, data) == 2,
	   "what it names is shared as before");
	is_int(mem_be64(&f.be, old + 8), 0, "the old table is as it was");
	must(fx_write(&f, 0, 512, 5));
	must(fx_write(&f, 3 * CS, 512, 5));
	ok(fx_reads(&f, 0, 512, 5) && fx_reads(&f, 512, CS - 512, 4) &&
	   fx_holds(f.be.data + data, 0, CS, 4), "shared data is copied");
	ok(fx_reads(&f, 3 * CS, 512, 5) && fx_reads(&f, 3 * CS + 512, 512, 0),
	   "a shared reserved cluster is replaced");
	reopen(&f);
	is_int(refcount(&f, data), 1, "and counted once less");
	ok(fx_reads(&f, 0, 512, 5) && fx_reads(&f, 512, CS - 512, 4),
	   "after reopening");
	fx_destroy(&f);
}

/*
 * Two L1 entries name one table, which is counted once. It is freed when it is
 * copied for the first, becomes the table of a third, and is freed again when
 * it is copied for the second.
 */
static void test_table_of_two(void)
{
	struct qcow2_waiter waiter = { .wake = NULL };
	u64 covers = 64 * 512, table;
	struct qcow2_write w;
	struct fixture f;

	fx_make(&f, 9, 4 * covers);
	must(mk_set_l2(&f.be, 0, 0));
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	mem_set_be64(&f.be, fx_l1_place(&f, 0), table);
	mem_set_be64(&f.be, fx_l1_place(&f, 1), table);
	fx_open(&f);
	must(fx_write(&f, 0, 512, 1));
	must(qcow2_commit(f.img));
	must(qcow2_commit(f.img));
	must(qcow2_write_begin(f.img, 2 * covers, 512, &w, &waiter));
	is_int(w.slice->offset, table, "a table with two names is used again");
	must(fx_write(&f, covers, 512, 1));
	must(qcow2_commit(f.img));
	must(fx_write(&f, 2 * covers + 512, 512, 1));
	must(qcow2_commit(f.img));
	is_int(qcow2_write_end(f.img, &w, 0), -EUCLEAN,
	       "and freed under its new user");
	ok(mem_has_msg(&f.be, "L2 table 2 was freed while it was in use") &&
	   fx_corrupt_bit(&f), "who says so");
	ok(fx_reads(&f, 0, 512, 1) && fx_reads(&f, covers, 512, 1),
	   "the others are all right");
	fx_destroy(&f);
}

static void test_compressed(void)
{
	struct fixture f;
	u64 host;

	make(&f, MEM_FILE);
	must(mk_cluster(&f.be, 1, &host));
	must(mk_set_l2(&f.be, 0, QCOW2_ENTRY_COMPRESSED | host));
	fx_open(&f);
	is_int(fx_write(&f, 0, 512, 1), -EIO, "a compressed cluster, for now");
	ok(mem_has_msg(&f.be, "compressed"), "says why");
	is_int(fx_write(&f, CS, 512, 1), 0, "its neighbour is writable");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "the mode stays");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

struct woken {
	struct qcow2_waiter w;
	int times;
};

static void wake(struct qcow2_waiter *w)
{
	container_of(w, struct woken, w)->times++;
}

static void test_two_writers(void)
{
	struct woken a = { .w.wake = wake }, b = { .w.wake = wake };
	struct woken c = { .w.wake = wake };
	struct qcow2_write first, second, other;
	struct fixture f;
	u8 buf[512];

	make(&f, MEM_FILE);
	fx_open(&f);
	must(qcow2_write_begin(f.img, CS, 512, &first, &a.w));
	is_int(qcow2_write_begin(f.img, CS + 512, 512, &second, &b.w),
	       -EINPROGRESS, "a second writer to the cluster must wait");
	is_int(qcow2_write_begin(f.img, 0, 3 * CS, &second, &c.w), -EINPROGRESS,
	       "so must one whose range holds it");
	is_int(qcow2_write_begin(f.img, 2 * CS, 512, &other, &a.w), 0,
	       "one beside it need not");
	is_int(qcow2_write_end(f.img, &other, -EIO), -EIO,
	       "the end gives the error back");
	ok(!b.times && !c.times, "which wakes nobody");
	ok(fx_reads(&f, CS, 512, 0), "a reader sees what was there");
	fx_fill(buf, CS, 512, 1);
	must(f.be.ops->data_write(&f.be, first.host, buf, 512));
	ok(fx_reads(&f, CS, 512, 0), "until the end");
	must(qcow2_write_end(f.img, &first, 0));
	ok(fx_reads(&f, CS, 512, 1), "of the write");
	ok(a.times == 0 && b.times == 1 && c.times == 1,
	   "then both are woken, once");
	must(qcow2_write_begin(f.img, CS + 512, 512, &second, &b.w));
	ok(second.in_place && second.host == first.host + 512,
	   "and the second finds the cluster of the first");
	qcow2_write_end(f.img, &second, -EIO);
	ok(fx_reads(&f, CS, 512, 1), "whose bytes are there");
	fx_destroy(&f);
}

static void test_aborted_writer(void)
{
	struct woken a = { .w.wake = wake }, b = { .w.wake = wake };
	struct qcow2_write first, second;
	struct fixture f;

	make(&f, MEM_FILE);
	fx_open(&f);
	must(qcow2_write_begin(f.img, CS, 512, &first, &a.w));
	is_int(qcow2_write_begin(f.img, CS, 512, &second, &b.w), -EINPROGRESS,
	       "a second writer waits");
	qcow2_write_end(f.img, &first, -EIO);
	is_int(b.times, 1, "and is woken by a failure, too");
	must(qcow2_write_begin(f.img, CS, 512, &second, &b.w));
	ok(!second.in_place, "then it is the first");
	qcow2_write_end(f.img, &second, 0);
	fx_destroy(&f);
}

/* A step ends with the slice, the run, or what was asked for. */
static void test_steps(void)
{
	struct woken a = { .w.wake = wake };
	struct qcow2_write w;
	struct fixture f;

	make(&f, MEM_FILE);
	must(mk_map(&f.be, 2 * CS, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	must(qcow2_write_begin(f.img, 512, 8 * CS, &w, &a.w));
	is_int(w.len, 2 * CS - 512, "a step ends before a cluster that has data");
	must(qcow2_write_end(f.img, &w, 0));
	must(qcow2_write_begin(f.img, (2 << 20) - 2 * CS, 8 * CS, &w, &a.w));
	is_int(w.len, 2 * CS, "a step ends with the table");
	must(qcow2_write_end(f.img, &w, 0));
	must(qcow2_write_begin(f.img, (8 << 20) - 512, 512, &w, &a.w));
	is_int(w.len, 512, "the last sector of the disk");
	must(qcow2_write_end(f.img, &w, 0));
	fx_destroy(&f);
}

/* What holds data may not be taken for fresh, however the file came by it. */
static void test_fresh(void)
{
	struct fixture f;
	u64 host;

	make(&f, MEM_FILE);
	must(mk_map(&f.be, 0, QCOW2_ZERO_ALLOC, 1, &host));
	f.be.size = host; /* reserved, and not there yet */
	fx_open(&f);
	must(fx_write(&f, 0, CS, 1));
	ok(f.img->alloc.fresh > host / CS && f.be.size >= host + CS,
	   "a reserved cluster beyond the end is not fresh once written");
	fx_destroy(&f);
}

static void test_fua(void)
{
	struct fixture f;
	u8 buf[512];

	make(&f, MEM_FILE);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	fx_open(&f);
	fx_fill(buf, CS, 512, 1);
	must(guest_write_fua(f.img, CS, buf, 512));
	ok(fx_l2(&f, CS) & QCOW2_ENTRY_COPIED, "FUA makes its mapping durable");
	mem_log_start(&f.be);
	must(guest_write_fua(f.img, CS, buf, 512));
	ok(f.be.nr_log == 2 && f.be.log[0].kind == MEM_DATA_WRITE &&
	   f.be.log[1].kind == MEM_FLUSH,
	   "and costs a flush where nothing is to be mapped");
	fx_destroy(&f);
}

/* The base is a device that ends inside its last cluster. */
static void test_base_cut_short(void)
{
	struct qcow2_layer below = { .size = 2 * CS };
	struct fixture f, base;
	u64 host;

	fx_make_on(&base, MEM_DEVICE, 1 << 20, &(struct mk_image){
		.cluster_bits = 12, .size = 2 * CS });
	must(mk_map(&base.be, CS, QCOW2_DATA, 1, &host));
	base.be.size = host + 1024;
	fx_store(&base, host, CS, 1024, 1);
	fx_open(&base);
	below.img = base.img;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .size = 2 * CS, .backing = "base" });
	must(mem_open_over(&f.be, 0, &below, &f.img, &f.err));
	is_int(fx_write(&f, CS + 2048, 512, 2), 0, "over a cluster that is cut short");
	ok(fx_reads(&f, CS, 1024, 1) && fx_reads(&f, CS + 1024, 1024, 0) &&
	   fx_reads(&f, CS + 2048, 512, 2) && fx_reads(&f, CS + 2560, 1536, 0),
	   "the rest of it is zeros");
	must(fx_close(&f));
	fx_destroy(&f);
	fx_destroy(&base);
}

/* A data file need not be larger than the disk, whatever a cluster is. */
static void test_data_file_of_size(bool raw)
{
	const u64 size = 2 * CS + 1024;
	struct qcow2_store data;
	struct qcow2_config cfg = { .data = &data };
	struct membackend d;
	struct fixture f;

	mem_init(&d, MEM_DEVICE, size);
	data = (struct qcow2_store){ d.ops, &d };
	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .size = size,
		.incompatible = QCOW2_INCOMPAT_DATA_FILE,
		.autoclear = raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0 });
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	is_int(fx_write(&f, size - 512, 512, 1), 0, "the last sector is written");
	ok(fx_reads(&f, 2 * CS, 512, 0) && fx_reads(&f, size - 512, 512, 1),
	   "and is there");
	is_int(guest_zero(f.img, 2 * CS, 1024, QCOW2_ZERO_FREE), 0,
	       "the last cluster becomes zeros");
	ok(fx_reads(&f, 2 * CS, 1024, 0), "it reads so");
	if (raw)
		ok(fx_holds(d.data + 2 * CS, 2 * CS, 1024, 0),
		   "without the image, too");
	is_int(fx_write(&f, 2 * CS, 512, 3), 0, "and is written again");
	ok(fx_reads(&f, 2 * CS, 512, 3) && fx_reads(&f, size - 512, 512, 0),
	   "and is there again");
	must(fx_close(&f));
	fx_destroy(&f);
	mem_destroy(&d);
}

/* An image of @clusters with an empty raw data file. */
static void make_raw(struct fixture *f, struct membackend *d,
		     struct qcow2_store *data, u64 clusters)
{
	mem_init(d, MEM_FILE, 0);
	*data = (struct qcow2_store){ d->ops, d };
	fx_make_on(f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .size = clusters * CS,
		.incompatible = QCOW2_INCOMPAT_DATA_FILE,
		.autoclear = QCOW2_AUTOCLEAR_DATA_FILE_RAW });
}

/* What a data file has behind what is written stays, and so does its length. */
static void test_data_file_stays(void)
{
	struct qcow2_store data;
	struct qcow2_config cfg = { .data = &data };
	struct membackend d;
	struct fixture f;

	make_raw(&f, &d, &data, 4);
	must(d.ops->grow(&d, 4 * CS));
	fx_fill(d.data + 3 * CS, 3 * CS, CS, 1);
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	must(fx_write(&f, 0, CS, 2));
	must(fx_close(&f));
	ok(d.size == 4 * CS && fx_holds(d.data + 3 * CS, 3 * CS, CS, 1),
	   "a data file keeps what it had");

	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	must(fx_write(&f, CS, CS, 2));
	must(qcow2_resize(f.img, 8 * CS, false, &f.err));
	must(fx_close(&f));
	is_int(d.size, 8 * CS, "and is as long as a disk that has grown");

	/* one that was shorter than what the image says is in it */
	must(d.ops->trim(&d, CS));
	must(mk_set_l2(&f.be, 6 * CS, 6 * CS | QCOW2_ENTRY_COPIED));
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	must(fx_write(&f, 6 * CS, CS, 3));
	must(fx_close(&f));
	ok(d.size >= 7 * CS && fx_holds(d.data + 6 * CS, 6 * CS, CS, 3),
	   "it keeps what was overwritten where it had nothing");
	fx_destroy(&f);
	mem_destroy(&d);
}

/* The zeros of a raw data file are there before the image says so. */
static void test_raw_zeros_first(void)
{
	struct qcow2_store data;
	struct qcow2_config cfg = { .data = &data };
	struct membackend d;
	struct fixture f;

	make_raw(&f, &d, &data, 2);
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	must(fx_write(&f, 0, CS, 1));
	mem_fail(&d, MEM_ZERO, 1, -EIO);
	is_int(guest_zero(f.img, 0, CS, QCOW2_ZERO_FREE), -EIO,
	       "zeros that cannot be written");
	ok(fx_reads(&f, 0, CS, 1), "are not read, either");
	must(fx_close(&f));
	fx_destroy(&f);
	mem_destroy(&d);
}

int main(void)
{
	test_kinds_on(MEM_FILE);
	test_kinds_on(MEM_DEVICE);
	test_in_place();
	test_spans();
	test_contiguous();
	test_padding();
	test_abort();
	test_table_errors();
	test_shared_table();
	test_table_of_two();
	test_compressed();
	test_two_writers();
	test_aborted_writer();
	test_steps();
	test_fresh();
	test_fua();
	test_base_cut_short();
	test_data_file_of_size(false);
	test_data_file_of_size(true);
	test_data_file_stays();
	test_raw_zeros_first();
	return tap_end();
}
