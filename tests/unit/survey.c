// SPDX-License-Identifier: GPL-2.0
/*
 * Writing to images that have more than the active tables: snapshots and
 * bitmaps, which are protected and marked, and dirty ones, whose refcounts say
 * nothing. What QEMU makes of them is in formats.c.
 */
#include "fixture.h"

#define CS 65536u
#define SIZE (8u << 20)

static void be32(struct fixture *f, u64 at, u32 value)
{
	mem_set_be32(&f->be, at, value);
}

static void be64(struct fixture *f, u64 at, u64 value)
{
	mem_set_be64(&f->be, at, value);
}

/* ---- snapshots ---- */

struct snap {
	u64 table, l1, l2, data;
};

/* One snapshot, which shares nothing with the active image. */
static void add_snapshot(struct fixture *f, struct snap *s)
{
	must(mk_cluster(&f->be, 1, &s->data));
	must(mk_cluster(&f->be, 1, &s->l2));
	must(mk_cluster(&f->be, 1, &s->l1));
	must(mk_cluster(&f->be, 1, &s->table));
	be64(f, s->l2, s->data | QCOW2_ENTRY_COPIED);
	be64(f, s->l1, s->l2 | QCOW2_ENTRY_COPIED);
	be64(f, s->table, s->l1);
	be32(f, s->table + 8, SIZE / CS / 8192 + 1);
	be32(f, 60, 1);
	be64(f, 64, s->table);
}

static void make(struct fixture *f, u64 incompatible, u64 autoclear)
{
	fx_make_on(f, MEM_FILE, 0, &(struct mk_image){
		.size = SIZE, .incompatible = incompatible,
		.autoclear = autoclear });
}

static void test_snapshot_is_metadata(void)
{
	static const char * const what[] = { "table", "L1 table", "L2 table" };
	struct fixture f;
	struct snap s;
	u32 i;

	for (i = 0; i < 3; i++) {
		u64 at;

		make(&f, 0, 0);
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
		add_snapshot(&f, &s);
		at = i == 0 ? s.table : i == 1 ? s.l1 : s.l2;
		must(mk_set_l2(&f.be, CS, at | QCOW2_ENTRY_COPIED));
		fx_open(&f);
		is_int(fx_write(&f, 0, 512, 1), 0, "an image with a snapshot is written");
		is_int(fx_write(&f, CS, 512, 1), -EUCLEAN,
		       "but not its %s through an entry that names it", what[i]);
		ok(fx_corrupt_bit(&f), "the image is marked corrupt");
		fx_close(&f);
		is_int(mem_be64(&f.be, s.l2), s.data | QCOW2_ENTRY_COPIED,
		       "the snapshot is as it was");
		fx_destroy(&f);
	}
}

static void test_shared_with_active(void)
{
	struct fixture f;
	struct snap s;
	u64 l1;

	make(&f, 0, 0);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	add_snapshot(&f, &s);
	l1 = fx_l1(&f, 0);
	be64(&f, s.l1, l1);
	fx_open(&f);
	is_int(fx_write(&f, 0, 512, 1), -EUCLEAN,
	       "an L2 table that is COPIED and also a snapshot's");
	ok(mem_has_msg(&f.be, "entry 0 names an L2 table"), "is named");
	fx_destroy(&f);
}

static void refuse(struct fixture *f, int error, const char *words, bool corrupt)
{
	u64 data = f->be.size;

	fx_open(f);
	is_int(fx_read(f, 0, 512), 0, "%s: it can be read", words);
	is_int(fx_write(f, 0, 512, 1), error, "not written");
	ok(mem_has_msg(&f->be, words), "and it says why: %s",
	   mem_last_msg(&f->be));
	ok(fx_corrupt_bit(f) == corrupt && f->be.size == data,
	   corrupt ? "it is marked corrupt" : "it is not marked corrupt");
	fx_destroy(f);
}

static void test_bad_snapshots(void)
{
	static const struct {
		u32 at, bytes;
		u64 value;
		const char *words;
	} bad[] = {
		{ 0, 8, 0, "snapshot 0: its table of" },
		{ 0, 8, CS + 512, "snapshot 0: its table of" },
		{ 0, 8, 1ull << 40, "snapshot 0: its table of" },
		{ 0, 8, CS, "is part of the refcount table" },
		{ 8, 4, 1u << 23, "snapshot 0: its table of 8388608 entries" },
		{ 8, 4, 1u << 15, "snapshot 0: its table of 32768 entries" },
	};
	struct fixture f;
	struct snap s;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		make(&f, 0, 0);
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
		add_snapshot(&f, &s);
		if (bad[i].bytes == 8)
			be64(&f, s.table + bad[i].at, bad[i].value);
		else
			be32(&f, s.table + bad[i].at, bad[i].value);
		refuse(&f, -EUCLEAN, bad[i].words, true);
	}
	/* three of the largest L1 tables are too much to look at */
	make(&f, 0, 0);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	add_snapshot(&f, &s);
	f.be.size = s.l1 + (32 << 20);
	for (i = 0; i < 3; i++) {
		be64(&f, s.table + i * 40, s.l1);
		be32(&f, s.table + i * 40 + 8, 4 << 20);
	}
	be32(&f, 60, 3);
	refuse(&f, -EROFS, "delete some", false);
}

/* As QEMU: readers do not need it, but what is it that lies there? */
static void test_no_snapshot_table(void)
{
	static const struct {
		u32 at, value;
		const char *words;
	} bad[] = {
		{ 36, 1025, "entry 0 has 1025 bytes of extra data" },
		{ 12, 0xffffffff, "entry 0 has 0 bytes of extra data and ends at" },
		{ 36, 1024, NULL },
	};
	struct qcow2_config cfg = { .read_only = true };
	struct fixture f;
	struct snap s;
	u32 i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		make(&f, 0, 0);
		add_snapshot(&f, &s);
		f.be.size = s.table + CS;
		be32(&f, s.table + bad[i].at, bad[i].value);
		ret = qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err);
		is_int(ret, bad[i].words ? -EUCLEAN : 0, "snapshot table %u", i);
		ok(!ret || strstr(f.err.msg, bad[i].words), "%s", f.err.msg);
		if (ret)
			f.img = NULL;
		fx_destroy(&f);
	}
	make(&f, 0, 0);
	add_snapshot(&f, &s);
	/* after the header and the L1 table */
	f.be.fault[MEM_READ] = (struct mem_fault){ 3, 1, -EIO };
	ret = qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err);
	is_int(ret, -EIO, "%s", f.err.msg);
	ok(strstr(f.err.msg, "snapshot table"), "it is named");
	f.img = NULL;
	fx_destroy(&f);
}

static void test_no_refcounts_for_data(void)
{
	struct qcow2_config cfg = {};
	struct membackend data;
	struct qcow2_store store;
	struct fixture f;
	struct snap s;

	mem_init(&data, MEM_FILE, 0);
	store = (struct qcow2_store){ data.ops, &data };
	cfg.data = &store;
	make(&f, QCOW2_INCOMPAT_DATA_FILE, 0);
	add_snapshot(&f, &s);
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	ok(f.img->read_only &&
	   !strcmp(f.img->why, "has internal snapshots and an external data file"),
	   "snapshots of an external data file: read-only");
	fx_destroy(&f);
	mem_destroy(&data);
}

/* ---- bitmaps ---- */

struct bitmaps {
	u64 dir, table, data;
};

/* Two, of which the second is in use already. */
static void add_bitmaps(struct fixture *f, struct bitmaps *b)
{
	u32 i;

	must(mk_cluster(&f->be, 1, &b->dir));
	must(mk_cluster(&f->be, 1, &b->table));
	must(mk_cluster(&f->be, 1, &b->data));
	be64(f, b->table, b->data);
	for (i = 0; i < 2; i++) {
		u64 at = b->dir + i * 32;

		be64(f, at, i ? b->table + CS * 2 : b->table);
		be32(f, at + 8, 1);
		be32(f, at + 12, i ? 3 : 2);
		be32(f, at + 16, 1 << 24 | 16 << 16 | 2); /* type, granularity, name */
	}
	must(mk_cluster(&f->be, 1, &(u64){ 0 }));
	be32(f, 104, QCOW2_EXT_BITMAPS);
	be32(f, 108, 24);
	be32(f, 112, 2);
	be64(f, 120, 64);
	be64(f, 128, b->dir);
}

static void test_bitmaps_are_marked(void)
{
	struct bitmaps b;
	struct fixture f;
	u64 n;

	make(&f, 0, QCOW2_AUTOCLEAR_BITMAPS | BIT_ULL(7));
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	add_bitmaps(&f, &b);
	n = f.be.seen[MEM_WRITE];
	fx_open(&f);
	is_int(fx_read(&f, 0, 512), 0, "read");
	ok(f.be.seen[MEM_WRITE] == n && mem_be32(&f.be, b.dir + 12) == 2,
	   "bitmaps are not touched by a reader");
	mem_log_only(&f.be);
	is_int(fx_write(&f, 0, 512, 1), 0, "a write");
	ok(mem_be32(&f.be, b.dir + 12) == 3 && mem_be32(&f.be, b.dir + 44) == 3,
	   "both are in use");
	is_int(mem_be64(&f.be, 88), QCOW2_AUTOCLEAR_BITMAPS,
	       "the bitmaps stay valid, unknown bits go");
	ok(fx_op_at(&f, MEM_WRITE, b.dir + 12) >= 0 &&
	   f.be.log[fx_op_at(&f, MEM_WRITE, b.dir + 12) + 1].kind == MEM_FLUSH,
	   "the mark is durable");
	ok(fx_op_at(&f, MEM_WRITE, b.dir + 12) <
	   fx_op_at(&f, MEM_DATA_WRITE, fx_host(&f, 0)), "before the data is written");
	must(fx_close(&f));
	fx_destroy(&f);
}

static void test_bitmaps_are_metadata(void)
{
	struct bitmaps b;
	struct fixture f;
	u32 i;

	for (i = 0; i < 3; i++) {
		make(&f, 0, QCOW2_AUTOCLEAR_BITMAPS);
		add_bitmaps(&f, &b);
		must(mk_set_l2(&f.be, CS, (i == 0 ? b.dir : i == 1 ? b.table :
					   b.data) | QCOW2_ENTRY_COPIED));
		fx_open(&f);
		is_int(fx_write(&f, CS, 512, 1), -EUCLEAN,
		       "a guest cluster that is part %u of a bitmap", i);
		fx_destroy(&f);
	}
}

static void test_bad_bitmaps(void)
{
	static const struct {
		u32 at, value;
		const char *words;
	} bad[] = {
		{ 0, 1, "bitmap 0: its table" },
		{ 4, 512, "bitmap 0: its table" },
		{ 20, 1 << 30, "bitmap directory: entry 0" },
		{ 52, 100, "bitmap directory: entry 1" },
	};
	struct bitmaps b;
	struct fixture f;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		make(&f, 0, QCOW2_AUTOCLEAR_BITMAPS);
		add_bitmaps(&f, &b);
		be32(&f, b.dir + bad[i].at, bad[i].value);
		refuse(&f, -EUCLEAN, bad[i].words, true);
	}
}

static void test_mark_fails(void)
{
	struct bitmaps b;
	struct fixture f;
	u64 host;

	make(&f, 0, QCOW2_AUTOCLEAR_BITMAPS);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	add_bitmaps(&f, &b);
	fx_store(&f, host, 0, CS, 5);
	fx_open(&f);
	mem_fail(&f.be, MEM_WRITE, 1, -EIO);
	is_int(fx_write(&f, 0, 512, 1), -EIO, "bitmaps that cannot be marked");
	is_int(fx_write(&f, 0, 512, 1), -EROFS, "end writing");
	ok(fx_reads(&f, 0, CS, 5), "the data is as it was");
	fx_destroy(&f);
}

/* ---- dirty ---- */

/* Guest cluster 0 is data; refcounts are zeros, but those of the tables. */
static void make_dirty(struct fixture *f, enum mem_flavour flavour, u64 bytes)
{
	u64 host;

	fx_make_on(f, flavour, bytes, &(struct mk_image){
		.size = SIZE, .incompatible = QCOW2_INCOMPAT_DIRTY });
	must(mk_map(&f->be, 0, QCOW2_DATA, 1, &host));
	fx_store(f, host, 0, CS, 3);
	must(mk_set_refcount(&f->be, host, 0));
}

static void test_dirty_in_place(void)
{
	struct fixture f;

	make_dirty(&f, MEM_FILE, 0);
	fx_open(&f);
	ok(!f.img->read_only && !*f.img->why, "a dirty image can be written");
	is_int(fx_write(&f, 0, 512, 4), 0, "where it has data");
	ok(!mem_has_msg(&f.be, "looking for the end"), "at once");
	must(qcow2_commit(f.img));
	ok(mem_be64(&f.be, 72) == QCOW2_INCOMPAT_DIRTY, "it stays dirty");
	must(fx_close(&f));
	fx_destroy(&f);
}

static void test_dirty_grows(enum mem_flavour flavour, u64 bytes)
{
	u64 reserved, end, rb, first;
	struct fixture f;
	u32 i;

	make_dirty(&f, flavour, bytes);
	/* further on than anything else, and on a file beyond its end */
	reserved = 64 * CS;
	must(mk_set_l2(&f.be, 3 * CS, reserved | QCOW2_ENTRY_COPIED |
		       QCOW2_ENTRY_ZERO));
	end = f.be.size;
	rb = mem_be64(&f.be, mem_be64(&f.be, 48));
	fx_open(&f);
	first = mem_be64(&f.be, rb);
	mem_log_only(&f.be);
	for (i = 4; i < 8; i++)
		must(fx_write(&f, i * CS + 512, 512, i));
	must(qcow2_commit(f.img));
	ok(mem_has_msg(&f.be, "looking for the end"), "dirty: an allocation looks");
	is_int(fx_host(&f, 4 * CS), reserved + CS, "and goes behind all that is named");
	ok(flavour == MEM_DEVICE ? f.be.size == end : f.be.size >= reserved + 2 * CS,
	   "%s", flavour == MEM_DEVICE ? "on a device" : "in a file");
	must(guest_zero(f.img, 0, 5 * CS, QCOW2_DISCARD));
	must(qcow2_commit(f.img));
	must(fx_write(&f, 0, 512, 9));
	ok(fx_host(&f, 0) >= reserved + 5 * CS, "what was discarded is not used again");
	must(fx_close(&f));
	is_int(fx_ops(&f, MEM_DISCARD), 0, "nor given back");
	is_int(mem_be64(&f.be, rb), first, "refcounts do not change");
	is_int(mem_be64(&f.be, 72), QCOW2_INCOMPAT_DIRTY, "it is dirty still");
	fx_open(&f);
	ok(fx_reads(&f, 0, 512, 9) && fx_reads(&f, 7 * CS + 512, 512, 7),
	   "what was written is there");
	fx_destroy(&f);
}

static void test_dirty_is_full(void)
{
	struct fixture f;
	u32 i;
	int ret = 0;

	make_dirty(&f, MEM_DEVICE, 16 * CS);
	fx_open(&f);
	for (i = 1; !ret && i < 20; i++)
		ret = fx_write(&f, i * CS, CS, i);
	ok(ret == -ENOSPC && qcow2_mode(f.img) == QCOW2_NO_SPACE,
	   "a dirty image on a full device");
	ok(fx_reads(&f, 0, CS, 3) && fx_reads(&f, CS, CS, 1),
	   "what was there is there");
	must(fx_close(&f));
	fx_destroy(&f);
}

/* A table that a snapshot has, too, is copied, and its clusters are. */
static void test_dirty_shared(void)
{
	struct fixture f;
	struct snap s;
	u64 l1, l2, old;

	make_dirty(&f, MEM_FILE, 0);
	must(mk_share_table(&f.be, 0, 2));
	add_snapshot(&f, &s);
	l1 = fx_l1(&f, 0);
	old = fx_l2(&f, 0) & QCOW2_ENTRY_OFFSET;
	be64(&f, s.l1, l1);
	l2 = l1 & QCOW2_ENTRY_OFFSET;
	fx_open(&f);
	is_int(fx_write(&f, 0, 512, 8), 0, "a shared cluster of a dirty image");
	must(qcow2_commit(f.img));
	ok((fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET) != l2 && fx_host(&f, 0) != old,
	   "is written elsewhere");
	is_int(mem_be64(&f.be, l2), old, "the old table is as it was");
	ok(fx_holds(f.be.data + old, 0, CS, 3), "and so is the data");
	must(fx_close(&f));
	fx_destroy(&f);
}

/* While one looks for the end, another that allocates waits. */
static struct qcow2_image *scanned;
static int hook_ret, woken;

static void wake(struct qcow2_waiter *w)
{
	woken++;
}

static int in_scan(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	static struct qcow2_waiter waiter = { .wake = wake };
	struct qcow2_write w;

	if (kind != MEM_READ || hook_ret || !scanned->alloc.scanning)
		return 0;
	hook_ret = 1; /* it reads, too */
	hook_ret = qcow2_write_begin(scanned, CS, CS, &w, &waiter);
	return 0;
}

static void test_scan_ahead(void)
{
	struct fixture f;

	make_dirty(&f, MEM_FILE, 0);
	fx_open(&f);
	scanned = f.img;
	f.be.hook = in_scan;
	qcow2_scan_ahead(f.img);
	f.be.hook = NULL;
	is_int(hook_ret, -EINPROGRESS, "to allocate during a scan is to wait");
	is_int(woken, 1, "for its end");
	is_int(mem_be64(&f.be, 72), QCOW2_INCOMPAT_DIRTY, "nothing was written");
	is_int(fx_write(&f, CS, CS, 1), 0, "after it, a write finds its place");
	must(fx_close(&f));
	fx_destroy(&f);

	make_dirty(&f, MEM_FILE, 0);
	fx_open(&f);
	mem_fail(&f.be, MEM_READ, 1, -EIO);
	qcow2_scan_ahead(f.img);
	ok(!f.img->alloc.scanned, "a scan that failed");
	is_int(fx_write(&f, CS, CS, 1), 0, "is made again");
	must(fx_close(&f));
	fx_destroy(&f);

	make_dirty(&f, MEM_FILE, 0);
	fx_open(&f);
	f.img->closing = true;
	qcow2_scan_ahead(f.img);
	ok(!f.img->alloc.scanned, "a scan ends early when the image is to be closed");
	must(fx_close(&f));
	fx_destroy(&f);
}

/* A table that could not be read is read again, and not left out. */
static u64 unreadable;

static int fail_there(struct membackend *be, enum mem_kind kind, u64 offset,
		      u64 len)
{
	return kind == MEM_READ && offset <= unreadable &&
		unreadable < offset + len ? -EIO : 0;
}

static void test_scan_again(void)
{
	struct fixture f;
	u64 far = 100 * CS, host;

	make_dirty(&f, MEM_DEVICE, 256 * CS);
	/* what lies furthest has its name in a table of the second half */
	must(mk_set_l2(&f.be, SIZE / 2, far | QCOW2_ENTRY_COPIED));
	fx_open(&f);
	unreadable = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	f.be.hook = fail_there;
	qcow2_scan_ahead(f.img);
	is_int(fx_write(&f, SIZE / 4, CS, 1), -EIO, "a table that cannot be read");
	is_int(fx_write(&f, SIZE / 4, CS, 1), -EIO, "nor the next time");
	f.be.hook = NULL;
	is_int(fx_write(&f, SIZE / 4, CS, 1), 0, "when it can, there is a place");
	host = fx_host(&f, SIZE / 4);
	ok(host > far, "behind what it names: %#llx", (unsigned long long)host);
	must(fx_close(&f));
	fx_destroy(&f);
}

/* What a discard takes from the tables during the scan is not given away. */
static int discard_in_scan(struct membackend *be, enum mem_kind kind, u64 offset,
			   u64 len)
{
	if (kind != MEM_READ || hook_ret || !scanned->alloc.scanning)
		return 0;
	hook_ret = 1;
	must(guest_zero(scanned, 0, CS, QCOW2_DISCARD));
	must(qcow2_commit(scanned));
	return 0;
}

static void test_discard_in_scan(void)
{
	struct fixture f;
	u64 host;

	make_dirty(&f, MEM_DEVICE, 64 * CS);
	fx_open(&f);
	host = fx_host(&f, 0);
	scanned = f.img;
	hook_ret = 0;
	f.be.hook = discard_in_scan;
	qcow2_scan_ahead(f.img);
	f.be.hook = NULL;
	ok(hook_ret && f.img->alloc.scanned, "a discard during a scan");
	must(fx_write(&f, CS, CS, 1));
	ok(fx_host(&f, CS) > host, "its cluster is nobody else's");
	must(fx_close(&f));
	fx_destroy(&f);
}

/* A cluster that was reserved behind the end of the file, and is written. */
static void test_reserved_beyond_end(u64 incompatible)
{
	struct fixture f;

	make(&f, incompatible, 0);
	must(mk_set_l2(&f.be, 0, (16 * CS) | QCOW2_ENTRY_COPIED |
		       QCOW2_ENTRY_ZERO));
	fx_open(&f);
	must(fx_write(&f, 0, CS, 6));
	must(fx_close(&f));
	is_int(f.be.size, 17 * CS, "what was reserved behind the end is in the file");
	fx_open(&f);
	ok(fx_reads(&f, 0, CS, 6), "and is there the next time");
	fx_destroy(&f);
}

/* A file that ends in its last cluster, whose other part is written in place. */
static void test_tail_in_place(u64 incompatible)
{
	struct fixture f;
	u64 host;

	make(&f, incompatible, 0);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	fx_store(&f, host, 0, 512, 4);
	f.be.size = host + 512;
	fx_open(&f);
	must(fx_write(&f, CS - 512, 512, 5));
	must(qcow2_commit(f.img));
	must(fx_close(&f));
	fx_open(&f);
	ok(fx_reads(&f, 0, 512, 4) && fx_reads(&f, CS - 512, 512, 5),
	   "the tail of the file's last cluster stays");
	fx_destroy(&f);
}

int main(void)
{
	test_snapshot_is_metadata();
	test_shared_with_active();
	test_bad_snapshots();
	test_no_snapshot_table();
	test_no_refcounts_for_data();
	test_bitmaps_are_marked();
	test_bitmaps_are_metadata();
	test_bad_bitmaps();
	test_mark_fails();
	test_dirty_in_place();
	test_dirty_grows(MEM_FILE, 0);
	test_dirty_grows(MEM_DEVICE, 128 * CS);
	test_dirty_is_full();
	test_dirty_shared();
	test_scan_ahead();
	test_tail_in_place(0);
	test_tail_in_place(QCOW2_INCOMPAT_DIRTY);
	test_scan_again();
	test_discard_in_scan();
	test_reserved_beyond_end(0);
	test_reserved_beyond_end(QCOW2_INCOMPAT_DIRTY);
	return tap_end();
}
