// SPDX-License-Identifier: GPL-2.0
/*
 * The repair: each thing that it mends, in images made by hand and by QEMU, and
 * what it leaves alone. Before it our check and qemu-img check have the same
 * verdict, afterwards both find nothing, and QEMU reads what it read from the
 * image without damage. What a crash leaves is tested by tests/crash/repair.c.
 */
#include "repair.h"

#include "allocs.h"
#include "full.h"
#include "shell.h"

static bool with_qemu;

/* ---- damage that any image can have ---- */

static u64 cluster_size(const struct membackend *be)
{
	return 1ull << mem_be32(be, 20);
}

static u64 reftable(const struct membackend *be)
{
	return mem_be64(be, 48);
}

static u64 l1_table(const struct membackend *be)
{
	return mem_be64(be, 40);
}

/* The L2 table of the first L1 entry. */
static u64 l2_table(const struct membackend *be)
{
	return mem_be64(be, l1_table(be)) & QCOW2_ENTRY_OFFSET;
}

static bool version_3(const struct membackend *be)
{
	return mem_be32(be, 4) == 3;
}

static void mark(struct membackend *be, u64 bits)
{
	mem_set_be64(be, 72, mem_be64(be, 72) | bits);
}

static bool too_low(struct membackend *be)
{
	u64 table = l2_table(be);

	return !mk_set_refcount(be, table, mk_refcount(be, table) - 1);
}

static bool too_high(struct membackend *be)
{
	u64 table = l2_table(be);

	return !mk_set_refcount(be, table, mk_refcount(be, table) + 1);
}

static bool none(struct membackend *be)
{
	return !mk_set_refcount(be, 0, 0);
}

static bool leaked(struct membackend *be)
{
	u64 host;

	return !mk_cluster(be, 1, &host);
}

static bool no_block(struct membackend *be)
{
	mem_set_be64(be, reftable(be), 0);
	return true;
}

static bool block_unaligned(struct membackend *be)
{
	mem_set_be64(be, reftable(be), mem_be64(be, reftable(be)) + 512);
	return true;
}

static bool block_reserved(struct membackend *be)
{
	mem_set_be64(be, reftable(be), mem_be64(be, reftable(be)) | 1);
	return true;
}

static bool block_beyond(struct membackend *be)
{
	mem_set_be64(be, reftable(be), 1ull << 40);
	return true;
}

static bool block_twice(struct membackend *be)
{
	mem_set_be64(be, reftable(be) + 8, mem_be64(be, reftable(be)));
	return true;
}

static bool block_on_table(struct membackend *be)
{
	mem_set_be64(be, reftable(be), l2_table(be));
	return true;
}

static bool block_on_reftable(struct membackend *be)
{
	mem_set_be64(be, reftable(be), reftable(be));
	return true;
}

static bool block_garbage(struct membackend *be)
{
	memset(be->data + mem_be64(be, reftable(be)), 0xa5, cluster_size(be));
	return true;
}

static bool stale(struct membackend *be)
{
	memset(be->data + mem_be64(be, reftable(be)), 0, cluster_size(be));
	if (version_3(be))
		mark(be, QCOW2_INCOMPAT_DIRTY);
	return true;
}

static bool corrupt(struct membackend *be)
{
	if (version_3(be))
		mark(be, QCOW2_INCOMPAT_CORRUPT);
	return version_3(be);
}

static bool dirty(struct membackend *be)
{
	if (version_3(be))
		mark(be, QCOW2_INCOMPAT_DIRTY);
	return version_3(be);
}

static bool l1_copied(struct membackend *be)
{
	u64 at = l1_table(be);

	mem_set_be64(be, at, mem_be64(be, at) ^ QCOW2_ENTRY_COPIED);
	return true;
}

static bool l2_copied(struct membackend *be)
{
	u64 at = l2_table(be);

	if (mem_be64(be, 72) & QCOW2_INCOMPAT_DATA_FILE)
		return false;
	mem_set_be64(be, at, mem_be64(be, at) ^ QCOW2_ENTRY_COPIED);
	return true;
}

/* A way to damage an image; false if it cannot have this. */
static const struct damage {
	const char *name;
	bool (*fn)(struct membackend *be);
	bool rebuilds;
} damages[] = {
	{ "a refcount too low", too_low },
	{ "a refcount too high", too_high },
	{ "a refcount of 0", none },
	{ "a leaked cluster", leaked },
	{ "a refcount block missing", no_block, true },
	{ "a refcount block inside a cluster", block_unaligned, true },
	{ "reserved bits in the refcount table", block_reserved, true },
	{ "a refcount block beyond the end", block_beyond, true },
	{ "a refcount block twice", block_twice, true },
	{ "a refcount block on an L2 table", block_on_table, true },
	{ "a refcount block on the refcount table", block_on_reftable, true },
	{ "a refcount block of garbage", block_garbage },
	{ "refcounts that were never written", stale },
	{ "a corrupt bit", corrupt },
	{ "a dirty bit", dirty },
	{ "the wrong COPIED flag in L1", l1_copied },
	{ "the wrong COPIED flag in L2", l2_copied },
};

/* ---- the judge ---- */

static int repair_as(struct fixture *f, struct qcow2_repair *rep)
{
	int ret;

	allocs.armed = true;
	ret = qcow2_repair(f->be.ops, &f->be, rep, &f->err);
	allocs.armed = false;
	return ret;
}

static struct qcow2_repair repair(struct fixture *f)
{
	struct qcow2_repair rep = { .leaks_only = false };

	must(repair_as(f, &rep));
	return rep;
}

static void save(const struct fixture *f, const char *name)
{
	if (with_qemu)
		must(mem_save_file(&f->be, path(name)));
}

static bool qemu_agrees(struct fixture *f)
{
	struct qcow2_check chk = { .report = NULL };
	int ours, theirs;

	if (!with_qemu)
		return true;
	must(qcow2_check(f->be.ops, &f->be, &chk, &f->err));
	ours = qcow2_check_verdict(&chk);
	save(f, "damaged");
	theirs = run("qemu-img check -q -f qcow2 damaged");
	/* it gives up where a refcount block is not aligned */
	if (ours == theirs || (theirs == 1 && ours == 2))
		return true;
	diag("we say %d, qemu-img %d", ours, theirs);
	return false;
}

static int snapshot_of(const char *name)
{
	return run("qemu-img convert -l snapshot.name=one -f qcow2 -O raw %s %s.raw",
		   name, name);
}

/* QEMU finds no error, and the same data as in "clean", in the snapshot, too. */
static bool qemu_content(struct fixture *f)
{
	bool snapshot = mem_be32(&f->be, 60);

	if (!with_qemu)
		return true;
	save(f, "mended");
	if (run("qemu-img check -q -f qcow2 mended") ||
	    run("qemu-img compare -f qcow2 -F qcow2 clean mended"))
		return false;
	return !snapshot || (!snapshot_of("clean") && !snapshot_of("mended") &&
			     !run("cmp clean.raw mended.raw"));
}

static bool unmarked(const struct fixture *f)
{
	return !version_3(&f->be) ||
		!(mem_be64(&f->be, 72) &
		  (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));
}

static struct qcow2_repair mends_this(struct fixture *f, bool same,
				      const char *image, const char *name)
{
	struct qcow2_repair rep = repair(f);

	if (!ok(same && !rep.after.errors && !rep.after.leaks && unmarked(f) &&
		qemu_content(f), "%s: %s", image, name))
		diag("%llu errors, %llu leaks are left",
		     (unsigned long long)rep.after.errors,
		     (unsigned long long)rep.after.leaks);
	return rep;
}

static struct qcow2_repair mends(struct fixture *f, const char *image,
				 const char *name)
{
	return mends_this(f, qemu_agrees(f), image, name);
}

/* ---- an image with everything, each thing ---- */

static void test_damages(void)
{
	struct qcow2_repair rep;
	struct full i;
	size_t n;

	for (n = 0; n < ARRAY_SIZE(damages); n++) {
		full_make(&i);
		save(&i.f, "clean");
		if (!damages[n].fn(&i.f.be))
			must(-EINVAL);
		rep = mends(&i.f, "everything", damages[n].name);
		is_int(rep.rebuilt, damages[n].rebuilds, "%s new refcount blocks",
		       damages[n].rebuilds ? "with" : "without");
		mem_destroy(&i.f.be);
	}
}

static void mends_full(struct full *i, const char *name)
{
	mends(&i->f, "everything", name);
	mem_destroy(&i->f.be);
	full_make(i);
}

/* Sets the bits of an L2 entry that are set in @bits. */
static void set_bits(struct full *i, u64 at, u64 bits)
{
	mem_set_be64(&i->f.be, at, mem_be64(&i->f.be, at) | bits);
}

static void test_each(void)
{
	struct qcow2_repair rep;
	struct full i;

	full_make(&i);
	set_bits(&i, i.table + 8 * (COMPRESSED / CS), QCOW2_ENTRY_COPIED);
	mends_full(&i, "compressed and COPIED");
	set_bits(&i, i.table + 8 * 9, QCOW2_ENTRY_COPIED);
	mends_this(&i.f, true, "everything", "COPIED without a cluster");
	mem_destroy(&i.f.be);
	full_make(&i);
	set_bits(&i, fx_l1_place(&i.f, 1), QCOW2_ENTRY_COPIED);
	rep = repair(&i.f);
	ok(!rep.after.errors && rep.entries == 1, "COPIED without a table");
	set_bits(&i, i.table + 8, 512);
	mends_full(&i, "a cluster of zeros inside a cluster");
	set_bits(&i, i.table, QCOW2_ENTRY_COPIED);
	must(mk_set_refcount(&i.f.be, i.data, 1));
	mends_full(&i, "a snapshot that is not counted");
	must(mk_set_refcount(&i.f.be, i.bitmap_data, 0));
	must(mk_set_refcount(&i.f.be, i.bitmaps, 0));
	mends_full(&i, "a bitmap that is not counted");
	mem_set_be64(&i.f.be, 88, 0);
	rep = mends(&i.f, "everything", "bitmaps that are out of date");
	is_int(rep.lowered, 3, "their clusters are given back");
	mem_destroy(&i.f.be);
	full_make(&i);
	mem_set_be64(&i.f.be, 88, mem_be64(&i.f.be, 88) | 1 << 5);
	must(mk_set_refcount(&i.f.be, i.data, 9));
	mends(&i.f, "everything", "an autoclear bit that nobody knows");
	is_int(mem_be64(&i.f.be, 88), 1, "is cleared, the others stay");
	mem_destroy(&i.f.be);
}

/* One reference that a writer must not think to be alone with. */
static void test_counts(void)
{
	struct qcow2_repair rep;
	struct full i;

	full_make(&i);
	rep = repair(&i.f);
	ok(!rep.raised && !rep.lowered && !rep.entries && !rep.rebuilt &&
	   !rep.unmarked, "nothing to do");
	must(mk_set_refcount(&i.f.be, i.data, 5));
	must(mk_set_refcount(&i.f.be, i.table, 1));
	set_bits(&i, fx_l1_place(&i.f, 0), QCOW2_ENTRY_COPIED);
	mark(&i.f.be, QCOW2_INCOMPAT_DIRTY);
	rep = repair(&i.f);
	ok(rep.raised == 1 && rep.lowered == 1 && rep.entries == 1 &&
	   rep.unmarked && !rep.rebuilt && rep.before.errors == 1,
	   "what was done is counted");
	is_int(mk_refcount(&i.f.be, i.data), 2, "lowered");
	is_int(mk_refcount(&i.f.be, i.table), 2, "raised");
	mem_destroy(&i.f.be);
}

/* ---- what is not mended, and what then is not touched ---- */

static void leaves(struct full *i, const char *name)
{
	struct qcow2_repair rep;
	u64 before = mk_refcount(&i->f.be, i->data);

	mark(&i->f.be, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	rep = repair(&i->f);
	ok(rep.after.errors && rep.kept_leaks && !rep.lowered && !rep.unmarked &&
	   mk_refcount(&i->f.be, i->data) == before && !unmarked(&i->f),
	   "%s stays, and with it the marks and every refcount", name);
	mem_destroy(&i->f.be);
	full_make(i);
}

static void test_left(void)
{
	struct qcow2_repair rep;
	struct full i;
	u64 l1;

	full_make(&i);
	l1 = fx_l1_place(&i.f, 0);
	mem_set_be64(&i.f.be, l1, i.table + 512);
	leaves(&i, "an L2 table inside a cluster");
	mem_set_be64(&i.f.be, l1, 1 << 30);
	leaves(&i, "an L2 table beyond the end");
	mem_set_be64(&i.f.be, l1, i.table | 1);
	leaves(&i, "a reserved bit in L1");
	mem_set_be64(&i.f.be, i.table, (i.data + 512) | QCOW2_ENTRY_COPIED);
	leaves(&i, "data inside a cluster");
	mem_set_be64(&i.f.be, i.table, 1 << 30 | QCOW2_ENTRY_COPIED);
	leaves(&i, "data beyond the end");
	mem_set_be64(&i.f.be, i.snapshots, 1 << 30);
	leaves(&i, "a snapshot beyond the end");

	/* the file has lost its end, and with it the place of new blocks */
	mem_set_be64(&i.f.be, i.table, i.f.be.size);
	block_beyond(&i.f.be);
	rep = repair(&i.f);
	ok(rep.after.errors && rep.no_place && !rep.rebuilt,
	   "no new refcount blocks where data was");
	is_int(reftable(&i.f.be), CS, "the old table stays");
	mem_destroy(&i.f.be);
	full_make(&i);

	/* the same where everything is counted anew */
	mem_set_be64(&i.f.be, i.table, 1 << 30);
	block_twice(&i.f.be);
	rep = repair(&i.f);
	ok(rep.after.errors == 1 && rep.rebuilt && rep.kept_leaks,
	   "with new refcount blocks, too");
	is_int(mk_refcount(&i.f.be, i.data), 0, "what two blocks share says nothing");
	mem_destroy(&i.f.be);
	full_make(&i);
	mem_set_be64(&i.f.be, i.table, 1 << 30);
	mem_set_be64(&i.f.be, reftable(&i.f.be) + 8, 1ull << 40);
	rep = repair(&i.f);
	ok(rep.after.errors == 1 && rep.rebuilt, "a bad block beside a good one");
	is_int(mk_refcount(&i.f.be, i.data), 2, "the good one still counts");
	mem_destroy(&i.f.be);
}

/* Two entries for one cluster that also is metadata. */
static void test_overlap(void)
{
	struct qcow2_repair rep;
	struct fixture f;
	struct full i;
	u64 host;

	full_make(&i);
	mem_set_be64(&i.f.be, i.table + 8 * 9, i.snapshots | QCOW2_ENTRY_COPIED);
	rep = repair(&i.f);
	ok(rep.after.errors == 1, "data on the snapshot table is still there");
	is_int(mk_refcount(&i.f.be, i.snapshots), 3, "but counted");
	is_int(mem_be64(&i.f.be, i.table + 8 * 9), i.snapshots,
	       "and not thought to be alone");
	mem_destroy(&i.f.be);

	/* flags in a table that is something else, too, may be no flags */
	full_make(&i);
	mem_set_be64(&i.f.be, fx_l1_place(&i.f, 1), i.data);
	mem_set_be64(&i.f.be, i.data, QCOW2_ENTRY_COPIED);
	rep = repair(&i.f);
	ok(rep.after.errors, "an L2 table on data is still there");
	is_int(mem_be64(&i.f.be, i.data), QCOW2_ENTRY_COPIED, "not written to");
	mem_destroy(&i.f.be);

	/* a block on data whose L2 table is lost, so that nothing names it */
	fx_make(&f, 12, 4 << 20);
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	mem_set_be64(&f.be, fx_l1_place(&f, 0), 1 << 30);
	mem_set_be64(&f.be, reftable(&f.be), host);
	rep = repair(&f);
	ok(rep.after.errors && rep.rebuilt, "a refcount block on lost data");
	ok(stamp_is_zero(f.be.data + host), "is not written to");
	mem_destroy(&f.be);
}

static void test_leaks_only(void)
{
	struct qcow2_repair rep = { .leaks_only = true };
	u64 size;
	u8 *copy;
	struct full i;

	full_make(&i);
	must(mk_set_refcount(&i.f.be, i.data, 3));
	must(repair_as(&i.f, &rep));
	ok(rep.lowered == 1 && !rep.after.leaks && !rep.after.errors,
	   "leaks only: a leak");
	must(mk_set_refcount(&i.f.be, i.data, 3));
	must(mk_set_refcount(&i.f.be, i.table, 1));
	rep = (struct qcow2_repair){ .leaks_only = true };
	must(repair_as(&i.f, &rep));
	ok(rep.lowered == 1 && !rep.raised && !rep.after.leaks &&
	   rep.after.errors == 2, "leaks only: an error stays");
	must(mk_set_refcount(&i.f.be, i.table, 2));

	block_twice(&i.f.be);
	leaked(&i.f.be);
	size = i.f.be.size;
	copy = malloc(size);
	memcpy(copy, i.f.be.data, size);
	rep = (struct qcow2_repair){ .leaks_only = true };
	must(repair_as(&i.f, &rep));
	ok(rep.after.errors && i.f.be.size == size &&
	   !memcmp(copy, i.f.be.data, size),
	   "leaks only: nothing is written where refcounts cannot be trusted");
	free(copy);
	mem_destroy(&i.f.be);

	/* its last reference besides the leaked one is COPIED again */
	fx_make(&i.f, 12, 4 << 20);
	must(mk_map(&i.f.be, 0, QCOW2_DATA, 2, NULL));
	rep = (struct qcow2_repair){ .leaks_only = true };
	must(repair_as(&i.f, &rep));
	ok(!rep.after.leaks && !rep.after.errors && rep.entries == 1,
	   "leaks only: with its COPIED flag");
	mem_destroy(&i.f.be);
}

/* ---- where there is no room ---- */

static void make_device(struct fixture *f, u64 clusters)
{
	fx_make_on(f, MEM_DEVICE, clusters * CS, &(struct mk_image){
		.cluster_bits = 12, .size = 4 << 20 });
	must(mk_map(&f->be, 0, QCOW2_DATA, 1, NULL));
	must(mk_map(&f->be, CS, QCOW2_DATA, 1, NULL));
}

static void test_device(void)
{
	struct qcow2_repair rep = { .leaks_only = false };
	struct fixture f;

	make_device(&f, 64);
	save(&f, "clean");
	block_beyond(&f.be);
	mends(&f, "device", "new refcount blocks");
	is_int(reftable(&f.be), 7 * CS, "above what is used");
	mem_destroy(&f.be);

	make_device(&f, 9);
	block_beyond(&f.be);
	mends(&f, "device", "new refcount blocks in its last two clusters");
	mem_destroy(&f.be);

	make_device(&f, 8);
	block_beyond(&f.be);
	is_int(repair_as(&f, &rep), -ENOSPC, "one cluster less is no space");
	ok(strstr(f.err.msg, "no space"), "as it says");
	is_int(reftable(&f.be), CS, "the header names what it named");
	mem_destroy(&f.be);

	/* what was counted may be needed while there are errors */
	make_device(&f, 64);
	must(mk_set_refcount(&f.be, 20 * CS, 1));
	must(mk_set_l2(&f.be, 5 * CS, 1 << 30));
	mem_set_be64(&f.be, reftable(&f.be) + 8, 1ull << 40);
	rep = repair(&f);
	ok(rep.rebuilt && rep.kept_leaks, "a device with a leak that is kept");
	is_int(reftable(&f.be), 21 * CS, "new refcount blocks are above it");
	is_int(mk_refcount(&f.be, 20 * CS), 1, "it is counted");
	mem_destroy(&f.be);
}

static void test_limits(void)
{
	struct qcow2_repair rep = { .leaks_only = false };
	struct fixture f;
	u64 host;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 9, .refcount_order = 6, .size = 1 << 20 });
	block_beyond(&f.be);
	f.be.size = 40ull << 30;
	is_int(repair_as(&f, &rep), -EFBIG, "a refcount table that is too large");
	f.be.size = 1ull << 30;
	rep = repair(&f);
	ok(rep.rebuilt && !rep.after.errors && !rep.after.leaks,
	   "a large file with little in it");
	mem_destroy(&f.be);

	/* one bit cannot count two */
	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 12, .order_given = true, .size = 4 << 20 });
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
	must(mk_set_l2(&f.be, CS, host | QCOW2_ENTRY_COPIED));
	rep = repair(&f);
	ok(rep.after.errors, "two references and one bit");
	ok(!(fx_l2(&f, 0) & QCOW2_ENTRY_COPIED) &&
	   !(fx_l2(&f, CS) & QCOW2_ENTRY_COPIED), "neither is COPIED");
	mem_destroy(&f.be);

	memset(&f, 0, sizeof(f));
	mem_init(&f.be, MEM_FILE, 0);
	is_int(repair_as(&f, &rep), -EINVAL, "what is no image");
	mem_destroy(&f.be);
}

/* ---- failures ---- */

static void damage_much(struct full *i, bool in_place)
{
	full_make(i);
	set_bits(i, i->table, QCOW2_ENTRY_COPIED);
	must(mk_set_refcount(&i->f.be, i->bitmaps, 0));
	leaked(&i->f.be);
	mark(&i->f.be, QCOW2_INCOMPAT_DIRTY);
	if (!in_place)
		block_twice(&i->f.be);
}

/* A repair that failed has left what another can mend. */
static bool again(struct full *i)
{
	struct qcow2_repair rep;

	allocs_fail(0, 0);
	mem_fail_nothing(&i->f.be);
	rep = repair(&i->f);
	return !rep.after.errors && !rep.after.leaks && unmarked(&i->f);
}

static void test_allocations(bool in_place)
{
	struct qcow2_repair rep;
	u64 n, seen, bad = 0;
	struct full i;
	int ret;

	for (n = 1;; n++) {
		damage_much(&i, in_place);
		rep = (struct qcow2_repair){ .leaks_only = false };
		allocs_fail(n, 1);
		ret = repair_as(&i.f, &rep);
		seen = allocs.seen;
		bad += ret != (seen < n ? 0 : -ENOMEM) || !again(&i);
		mem_destroy(&i.f.be);
		if (seen < n)
			break;
	}
	is_int(bad, 0, "each of %llu allocations fails", (unsigned long long)n - 1);
}

static void test_io(bool in_place, enum mem_kind kind, const char *name)
{
	struct qcow2_repair rep;
	u64 n, seen, bad = 0;
	struct full i;
	int ret, expected = kind == MEM_GROW ? -ENOSPC : -EIO;

	for (n = 1;; n++) {
		damage_much(&i, in_place);
		rep = (struct qcow2_repair){ .leaks_only = false };
		i.f.be.fault[kind] = (struct mem_fault){ n, 1, -EIO };
		ret = repair_as(&i.f, &rep);
		seen = i.f.be.seen[kind];
		bad += ret != (seen < n ? 0 : expected) || !again(&i);
		mem_destroy(&i.f.be);
		if (seen < n)
			break;
	}
	is_int(bad, 0, "each of %llu %s fails", (unsigned long long)n - 1, name);
}

static void test_failures(void)
{
	int in_place;

	for (in_place = 0; in_place < 2; in_place++) {
		test_allocations(in_place);
		test_io(in_place, MEM_READ, "reads");
		test_io(in_place, MEM_WRITE, "writes");
		test_io(in_place, MEM_FLUSH, "flushes");
		test_io(in_place, MEM_GROW, "requests for space");
	}
}

/* ---- images of QEMU ---- */

static const char * const options[] = {
	"compat=0.10,cluster_size=4k", "cluster_size=512", "cluster_size=2M",
	"refcount_bits=2,cluster_size=4k", "refcount_bits=64,cluster_size=1k",
	"extended_l2=on,cluster_size=16k", "data_file=raw",
	"lazy_refcounts=on", "preallocation=metadata,cluster_size=4k",
};

/* "clean": data, zeros, and where it can be a snapshot, a bitmap, more data. */
static void make_clean(const char *option)
{
	must(run("rm -f raw; qemu-img create -q -f qcow2 -o %s clean 4M", option));
	must(run("qemu-io -f qcow2 -c 'write -P 17 0 1M' -c 'write -z 64k 128k' clean"));
	if (!strstr(option, "data_file"))
		must(run("qemu-img snapshot -c one clean"));
	if (!strstr(option, "0.10"))
		must(run("qemu-img bitmap --add clean b"));
	must(run("qemu-io -f qcow2 -c 'write -P 18 512k 64k' -c 'discard 768k 64k' clean"));
}

static void test_qemu(const char *option)
{
	struct fixture f;
	size_t n;

	make_clean(option);
	for (n = 0; n < ARRAY_SIZE(damages); n++) {
		memset(&f, 0, sizeof(f));
		mem_init(&f.be, MEM_FILE, 0);
		must(mem_load_file(&f.be, path("clean")));
		f.be.mk_end = round_up(f.be.size, cluster_size(&f.be));
		if (damages[n].fn(&f.be))
			mends(&f, option, damages[n].name);
		mem_destroy(&f.be);
	}
}

int main(void)
{
	size_t i;

	shell_start();
	with_qemu = !run("qemu-img --version && qemu-io --version");
	test_damages();
	test_each();
	test_counts();
	test_left();
	test_overlap();
	test_leaks_only();
	test_device();
	test_limits();
	test_failures();
	for (i = 0; with_qemu && i < ARRAY_SIZE(options); i++)
		test_qemu(options[i]);
	if (!with_qemu)
		tap_skip("images of QEMU", "no qemu-img or qemu-io");
	shell_end();
	return tap_end();
}
