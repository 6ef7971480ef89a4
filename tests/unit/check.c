// SPDX-License-Identifier: GPL-2.0
/*
 * The offline check: an image with everything in it is clean, each thing that
 * can be wrong is found, and said. Whether qemu-img agrees is tested on random
 * damage, by tests/crash/check.c.
 */
#include "allocs.h"
#include "check.h"
#include "full.h"

/* ---- what the check says ---- */

struct findings {
	char lines[4096];
	struct qcow2_check chk;
	int ret;
};

static void hear(void *arg, bool leak, const char *line)
{
	struct findings *s = arg;
	size_t n = strlen(s->lines);

	snprintf(s->lines + n, sizeof(s->lines) - n, "%s%s\n",
		 leak ? "leak: " : "", line);
}

static struct findings *check(struct fixture *f)
{
	static struct findings s;

	memset(&s, 0, sizeof(s));
	s.chk.report = hear;
	s.chk.arg = &s;
	allocs.armed = true;
	s.ret = qcow2_check(f->be.ops, &f->be, &s.chk, &f->err);
	allocs.armed = false;
	return &s;
}

static void finds_in(struct fixture *f, const char *text, const char *name)
{
	struct findings *s = check(f);

	if (!ok(!s->ret && s->chk.errors && strstr(s->lines, text), "%s", name))
		diag("%d, %llu errors: %s", s->ret,
		     (unsigned long long)s->chk.errors, s->lines);
}

static void finds(struct full *i, const char *text, const char *name)
{
	finds_in(&i->f, text, name);
	mem_destroy(&i->f.be);
	full_make(i);
}

static void is_clean(struct fixture *f, const char *name)
{
	struct findings *s = check(f);

	if (!ok(!s->ret && !s->chk.errors && !s->chk.leaks, "%s", name))
		diag("%d %s: %s", s->ret, f->err.msg, s->lines);
}

/* ---- each thing ---- */

static void test_l1(void)
{
	u64 l1, entry;
	struct full i;

	full_make(&i);
	is_clean(&i.f, "data, zeros, compressed data, a snapshot, a bitmap");
	l1 = fx_l1_place(&i.f, 0);
	entry = fx_l1(&i.f, 0);
	mem_set_be64(&i.f.be, l1, entry | 1);
	finds(&i, "L1 table: entry 0", "reserved bits of an L1 entry");
	mem_set_be64(&i.f.be, l1 + 8, QCOW2_ENTRY_COPIED);
	finds(&i, "COPIED without a table", "COPIED without a table");
	mem_set_be64(&i.f.be, l1 + 8, entry + 512);
	finds(&i, "not the start of a cluster", "an L2 table inside a cluster");
	mem_set_be64(&i.f.be, l1 + 8, 1 << 30);
	finds(&i, "an L2 table at 0x40000000", "an L2 table beyond the end");
	mem_set_be64(&i.f.be, l1 + 8, i.snapshots);
	finds(&i, "and also", "an L2 table on the snapshot table");
	mem_set_be64(&i.f.be, l1, entry | QCOW2_ENTRY_COPIED);
	finds(&i, "L1 table: entry 0", "COPIED on a shared table");
	mem_destroy(&i.f.be);
}

static void test_l2(void)
{
	struct full i;
	u64 entry;

	full_make(&i);
	entry = mem_be64(&i.f.be, i.table);
	mem_set_be64(&i.f.be, i.table, entry | 2);
	finds(&i, "reserved bits are set", "reserved bits of an L2 entry");
	mem_set_be64(&i.f.be, i.table, entry + 512);
	finds(&i, "not the start of a cluster", "data inside a cluster");
	mem_set_be64(&i.f.be, i.table + 8, QCOW2_ENTRY_COPIED);
	finds(&i, "COPIED without a cluster", "COPIED without a cluster");
	mem_set_be64(&i.f.be, i.table + 8, 1 << 30);
	finds(&i, "guest data at 0x40000000", "data beyond the end");
	mem_set_be64(&i.f.be, i.table + 8, i.snapshots);
	finds(&i, "refcount", "data on the snapshot table");
	mem_set_be64(&i.f.be, i.table, entry | QCOW2_ENTRY_COPIED);
	finds(&i, "COPIED contradicts the refcount", "COPIED on shared data");
	mem_set_be64(&i.f.be, i.table + 32,
		     mem_be64(&i.f.be, i.table + 32) | QCOW2_ENTRY_COPIED);
	finds(&i, "compressed and COPIED", "COPIED on compressed data");
	mem_set_be64(&i.f.be, i.table + 32, QCOW2_ENTRY_COMPRESSED | 1 << 30);
	finds(&i, "guest data at 0x40000000", "compressed data beyond the end");
	mem_destroy(&i.f.be);
}

static void test_version_2(void)
{
	struct fixture f;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.version = 2, .cluster_bits = 12, .size = 4 << 20 });
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	is_clean(&f, "version 2");
	must(mk_set_l2(&f.be, CS, QCOW2_ENTRY_ZERO));
	finds_in(&f, "a zero flag in version 2", "a zero flag in version 2");
	mem_destroy(&f.be);
}

static void test_snapshots(void)
{
	struct full i;

	full_make(&i);
	mem_set_be64(&i.f.be, i.snapshots, i.snapshot_l1 + 512);
	finds(&i, "snapshot 0: L1 table at", "a snapshot's L1 table inside a cluster");
	mem_set_be32(&i.f.be, i.snapshots + 8, U32_MAX);
	finds(&i, "bad place or size", "a snapshot's L1 table that is too large");
	mem_set_be64(&i.f.be, i.snapshots, 1 << 30);
	finds(&i, "an L1 table at 0x40000000", "a snapshot's L1 table beyond the end");
	mem_set_be32(&i.f.be, i.snapshots + 36, 1 << 20);
	finds(&i, "1048576 bytes of extra data", "a snapshot with too much extra data");
	mem_set_be32(&i.f.be, 60, 3);
	mem_set_be32(&i.f.be, i.snapshots + 36, 1 << 30);
	finds(&i, "the snapshot table ends beyond the file",
	      "a snapshot table that does not end");
	mem_set_be64(&i.f.be, i.snapshot_l1, i.table | 1);
	finds(&i, "snapshot 0: L1 table: entry 0", "a snapshot's L1 entry");
	mem_destroy(&i.f.be);
}

static void test_bitmaps(void)
{
	struct full i;

	full_make(&i);
	mem_set_be64(&i.f.be, i.bitmap_table, i.bitmap_data | 1);
	finds(&i, "bitmap 0: entry 0", "a bitmap entry with data and a flag");
	mem_set_be64(&i.f.be, i.bitmap_table, i.bitmap_data | 2);
	finds(&i, "bitmap 0: entry 0", "reserved bits of a bitmap entry");
	mem_set_be64(&i.f.be, i.bitmap_table, i.bitmap_data + 512);
	finds(&i, "bitmap 0: entry 0", "a bitmap inside a cluster");
	mem_set_be64(&i.f.be, i.bitmap_table, 1 << 30);
	finds(&i, "a bitmap at 0x40000000", "a bitmap beyond the end");
	mem_set_be64(&i.f.be, i.bitmaps, 0);
	finds(&i, "bitmap 0: its table", "a bitmap without a table");
	mem_set_be64(&i.f.be, i.bitmaps, 1 << 30);
	finds(&i, "a bitmap at 0x40000000", "a bitmap's table beyond the end");
	i.f.be.data[i.bitmaps + 16] = 2;
	finds(&i, "the bitmap directory", "a bitmap of a type that is not known");
	full_set_be16(&i, i.bitmaps + 18, 40);
	finds(&i, "the bitmap directory", "a bitmap's name beyond its directory");
	mem_set_be64(&i.f.be, 120, 16);
	finds(&i, "the bitmap directory", "a bitmap directory that is too small");
	mem_set_be64(&i.f.be, 120, 40);
	finds(&i, "the bitmap directory", "a bitmap directory that is too large");
	mem_destroy(&i.f.be);
}

static void test_refcounts(void)
{
	u64 rt, n, host, k;
	struct findings *s;
	struct full i;

	full_make(&i);
	rt = mem_be64(&i.f.be, 48);
	mem_set_be64(&i.f.be, rt + 8, 512);
	finds(&i, "refcount table: entry 1", "a refcount block inside a cluster");
	mem_set_be64(&i.f.be, rt + 8, 1 << 30);
	finds(&i, "a refcount block at 0x40000000", "a refcount block beyond the end");
	mem_set_be64(&i.f.be, rt + 8, i.table);
	finds(&i, "and also", "a refcount block on an L2 table");
	must(mk_set_refcount(&i.f.be, i.table, 1));
	finds(&i, "refcount 1, references 2", "a refcount that is too low");
	mem_set_be64(&i.f.be, rt, 0);
	finds(&i, "refcount 0", "clusters that no block counts");
	must(mk_set_refcount(&i.f.be, i.table, 9));
	s = check(&i.f);
	ok(!s->chk.errors && s->chk.leaks == 1 && strstr(s->lines, "leak: "),
	   "a refcount that is too high is a leak");

	must(mk_set_refcount(&i.f.be, i.table, 2));

	/* more references than fit a byte */
	must(mk_cluster(&i.f.be, 599, &host));
	for (n = 0; n < 300; n++)
		must(mk_set_l2(&i.f.be, (8 + n) * CS, host));
	finds(&i, "refcount 599, references 600", "a reference more than counted");
	must(mk_cluster(&i.f.be, 600, &host));
	for (n = 0; n < 300; n++)
		must(mk_set_l2(&i.f.be, (8 + n) * CS, host));
	is_clean(&i.f, "600 references, all counted");

	/* what lies beyond the reach of the refcount table */
	k = (CS / 8) * (CS / 2);
	i.f.be.size = (k + 4) * CS;
	must(mk_set_l2(&i.f.be, CS, k * CS));
	finds(&i, "refcount 0, references 2", "data that no refcount can count");
	mem_destroy(&i.f.be);
}

/* A large file with little in it, and compressed data at its very end. */
static void test_sparse(void)
{
	u64 far = 5000 * CS, host;
	struct findings *s;
	struct fixture f;

	fx_make(&f, 12, 4 << 20);
	must(mk_set_refcount(&f.be, far, 1));
	f.be.size = 8192 * CS;
	s = check(&f);
	ok(!s->ret && !s->chk.errors && s->chk.leaks == 1,
	   "one leak among many clusters");
	must(mk_set_refcount(&f.be, far, 0));
	is_clean(&f, "a refcount block that counts nothing");
	f.be.size = f.be.mk_end;
	must(mk_set_l2(&f.be, 0, 0));
	must(mk_cluster(&f.be, 1, &host));
	must(mk_set_refcount(&f.be, host + CS, 1));
	must(mk_set_l2(&f.be, 0, QCOW2_ENTRY_COMPRESSED | 1ull << 58 |
		       (host + CS - 512)));
	is_clean(&f, "compressed data that ends beyond the file");
	mem_destroy(&f.be);
}

static void test_features(void)
{
	struct fixture f;
	u64 host, table;

	/* a LUKS header */
	fx_make(&f, 12, 4 << 20);
	must(mk_cluster(&f.be, 1, &host));
	mem_set_be32(&f.be, 32, QCOW2_CRYPT_LUKS);
	mem_set_be32(&f.be, 104, QCOW2_EXT_CRYPTO);
	mem_set_be32(&f.be, 108, 16);
	mem_set_be64(&f.be, 112, host);
	mem_set_be64(&f.be, 120, CS);
	is_clean(&f, "a LUKS header");
	must(mk_set_refcount(&f.be, host, 0));
	finds_in(&f, "refcount 0", "a LUKS header that is not counted");
	mem_destroy(&f.be);

	/* data that is elsewhere */
	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .size = 4 << 20,
		.incompatible = QCOW2_INCOMPAT_DATA_FILE });
	must(mk_set_l2(&f.be, 0, QCOW2_ENTRY_COPIED));
	must(mk_set_l2(&f.be, CS, CS | QCOW2_ENTRY_COPIED));
	is_clean(&f, "an external data file");
	must(mk_cluster(&f.be, 1, &host));
	must(mk_set_l2(&f.be, 2 * CS, QCOW2_ENTRY_COMPRESSED | host));
	finds_in(&f, "but the data is in another file",
		 "compressed data with an external data file");
	mem_destroy(&f.be);

	/* extended L2 entries */
	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 14, .size = 4 << 20,
		.incompatible = QCOW2_INCOMPAT_EXTL2 });
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	table = fx_l1(&f, 0) & QCOW2_ENTRY_OFFSET;
	mem_set_be64(&f.be, table + 8, U32_MAX);
	is_clean(&f, "extended L2 entries");
	mem_set_be64(&f.be, table + 8, 1ull << 32 | 1);
	finds_in(&f, "with subclusters", "a subcluster that is data and zeros");
	mem_set_be64(&f.be, table + 8, U32_MAX);
	mem_set_be64(&f.be, table + 24, 1);
	finds_in(&f, "with subclusters", "a subcluster without a cluster");
	mem_set_be64(&f.be, table + 24, 0);
	mem_set_be64(&f.be, table + 16, QCOW2_ENTRY_ZERO);
	finds_in(&f, "reserved bits", "a zero flag with extended L2 entries");
	mem_destroy(&f.be);
}

/* ---- what keeps the check from being made ---- */

static void test_no_image(void)
{
	struct qcow2_check silent = { .report = NULL };
	struct fixture f;

	memset(&f, 0, sizeof(f));
	mem_init(&f.be, MEM_FILE, 0);
	is_int(check(&f)->ret, -EINVAL, "an empty file is no image");
	mem_destroy(&f.be);
	fx_make(&f, 12, 4 << 20);
	must(mk_set_refcount(&f.be, 0, 5));
	is_int(qcow2_check(f.be.ops, &f.be, &silent, &f.err), 0,
	       "a check without words");
	is_int(silent.leaks, 1, "counts all the same");
	mem_destroy(&f.be);
}

/* A header that says that it goes on. */
static void test_long_header(void)
{
	struct fixture f;

	fx_make(&f, 21, 64 << 20);
	mem_set_be32(&f.be, 104, 0x12345678);
	mem_set_be32(&f.be, 108, 100000);
	is_clean(&f, "a header of more than 64 KiB");
	mem_destroy(&f.be);
}

static void test_failures(void)
{
	u64 n, bad = 0;
	struct findings *s;
	struct full i;

	full_make(&i);
	for (n = 1;; n++) {
		allocs_fail(n, 1);
		s = check(&i.f);
		if (allocs.seen < n)
			break;
		bad += s->ret != -ENOMEM;
	}
	allocs_fail(0, 0);
	is_int(bad, 0, "each of %llu allocations fails", (unsigned long long)n - 1);
	ok(!s->ret, "and none");
	for (n = 1, bad = 0;; n++) {
		i.f.be.seen[MEM_READ] = 0;
		i.f.be.fault[MEM_READ] = (struct mem_fault){ n, 1, -EIO };
		s = check(&i.f);
		if (i.f.be.seen[MEM_READ] < n)
			break;
		bad += s->ret != -EIO;
	}
	is_int(bad, 0, "each of %llu reads fails", (unsigned long long)n - 1);
	ok(!s->ret, "and none");
	mem_destroy(&i.f.be);
}

int main(void)
{
	test_l1();
	test_l2();
	test_version_2();
	test_snapshots();
	test_bitmaps();
	test_refcounts();
	test_sparse();
	test_features();
	test_no_image();
	test_long_header();
	test_failures();
	return tap_end();
}
