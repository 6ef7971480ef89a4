// SPDX-License-Identifier: GPL-2.0
/*
 * Nothing is written over metadata and no metadata is given away, whatever the
 * tables of the image say.
 */
#include "fixture.h"

#define CS 4096ull

enum place { HEADER, L1, L2, REFTABLE, REFBLOCK, NR_PLACES };

static const char * const names[] = {
	"the header", "the L1 table", "an L2 table", "the refcount table",
	"a refcount block",
};

static u64 place_of(const struct fixture *f, enum place p)
{
	switch (p) {
	case L1:
		return mem_be64(&f->be, 40);
	case L2:
		return fx_l1(f, 0) & QCOW2_ENTRY_OFFSET;
	case REFTABLE:
		return mem_be64(&f->be, 48);
	case REFBLOCK:
		return mem_be64(&f->be, mem_be64(&f->be, 48));
	default:
		return 0;
	}
}

static void make(struct fixture *f)
{
	fx_make(f, 12, 8 << 20);
	must(mk_map(&f->be, 0, QCOW2_DATA, 1, NULL));
	must(mk_map(&f->be, 2 << 20, QCOW2_DATA, 1, NULL));
}

/* An L2 entry with @flags at @p; offset 0 cannot be written as one. */
static void bad_entry(enum place p, u64 flags, const char *name)
{
	struct fixture f;
	u64 host;
	u8 before[CS];

	make(&f);
	host = place_of(&f, p);
	must(mk_set_l2(&f.be, 4 * CS, host | flags));
	memcpy(before, f.be.data + host, CS);
	fx_open(&f);
	is_int(fx_read(&f, 4 * CS, CS), 0, "%s: %s is read as data", name,
	       names[p]);
	is_int(fx_write(&f, 4 * CS + 512, 512, 1), -EUCLEAN,
	       "%s: it is not written", name);
	ok(!memcmp(before, f.be.data + host, CS), "%s: it is as it was", name);
	ok(fx_corrupt_bit(&f) && qcow2_mode(f.img) == QCOW2_READ_ONLY,
	   "%s: the image is marked corrupt", name);
	ok(mem_has_msg(&f.be, "entry 4 names") && mem_has_msg(&f.be, "refused"),
	   "%s: and the message says where", name);
	is_int(fx_read(&f, 0, CS), 0, "%s: the rest can be read", name);
	is_int(fx_close(&f), 0, "%s: close", name);
	is_int(mk_refcount(&f.be, host), 1, "%s: its refcount stays", name);
	fx_destroy(&f);
}

static void test_entries(void)
{
	u32 p;

	for (p = L1; p < NR_PLACES; p++) {
		bad_entry(p, QCOW2_ENTRY_COPIED, "COPIED data");
		bad_entry(p, 0, "shared data");
		bad_entry(p, QCOW2_ENTRY_COPIED | 1, "preallocated zero");
		bad_entry(p, 1, "shared preallocated zero");
	}
}

/* A run that begins well and ends in metadata. */
static void test_run(void)
{
	u64 first, next, flags;
	struct fixture f;
	u32 i;

	for (i = 0; i < 2; i++) {
		flags = i ? QCOW2_ENTRY_COPIED | 1 : QCOW2_ENTRY_COPIED;
		make(&f);
		must(mk_cluster(&f.be, 1, &first));
		must(mk_map(&f.be, 6 << 20, QCOW2_ZERO, 0, NULL));
		next = fx_l1(&f, 3) & QCOW2_ENTRY_OFFSET;
		is_int(next, first + CS, "a table behind a cluster");
		must(mk_set_l2(&f.be, 4 * CS, first | flags));
		must(mk_set_l2(&f.be, 5 * CS, next | flags));
		fx_open(&f);
		is_int(fx_write(&f, 4 * CS, 2 * CS, 1), -EUCLEAN,
		       "a run that ends in a table is refused");
		ok(fx_l2(&f, 6 << 20) == 1, "the table is as it was");
		fx_destroy(&f);
	}
}

/* L1 entries that name other metadata as their table. */
static void bad_table(enum place p, bool copied)
{
	struct fixture f;
	u8 before[CS];
	u64 host;
	int ret;

	make(&f);
	host = place_of(&f, p);
	if (!host)
		return;
	mem_set_be64(&f.be, fx_l1_place(&f, 3),
		     host | (copied ? QCOW2_ENTRY_COPIED : 0));
	memcpy(before, f.be.data + host, CS);
	fx_open(&f);
	ret = fx_write(&f, 6 << 20, CS, 1);
	ok(ret == -EUCLEAN || ret == -EROFS, "L1 entry, %s: names %s: %d",
	   copied ? "COPIED" : "shared", names[p], ret);
	ok(fx_corrupt_bit(&f) && qcow2_mode(f.img) == QCOW2_READ_ONLY,
	   "the image is marked corrupt");
	ok(!memcmp(before, f.be.data + host, CS), "it is as it was");
	fx_close(&f);
	is_int(mk_refcount(&f.be, host), 1, "its refcount stays");
	fx_destroy(&f);
}

static void test_tables(void)
{
	u32 p;

	for (p = L1; p < NR_PLACES; p++) {
		bad_table(p, true);
		/* a table that is shared may have two entries */
		if (p != L2)
			bad_table(p, false);
	}
}

/* The tables of the refcounts name other metadata. */
static void test_reftable(void)
{
	u32 p;

	for (p = L1; p <= REFTABLE; p++) {
		struct fixture f;
		u64 host;

		make(&f);
		host = place_of(&f, p);
		mem_set_be64(&f.be, mem_be64(&f.be, 48) + 8, host);
		fx_open(&f);
		is_int(fx_write(&f, 0, 512, 1), -EUCLEAN,
		       "a refcount block that is %s", names[p]);
		ok(fx_corrupt_bit(&f), "the image is marked corrupt");
		ok(mem_has_msg(&f.be, "refcount table: entry 1") ||
		   mem_has_msg(&f.be, "L1 table: entry 0"),
		   "the message says where");
		/* an L2 table may be in memory as a refcount block until then */
		fx_close(&f);
		fx_open(&f);
		ok(!fx_read(&f, 0, 512), "it can be read");
		fx_destroy(&f);
	}
}

static void test_bad_reftable_entries(void)
{
	static const u64 bad[] = {
		1, 0x100, 0x1200, 1ull << 56, 1ull << 40,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fixture f;

		make(&f);
		mem_set_be64(&f.be, mem_be64(&f.be, 48) + 16, bad[i]);
		fx_open(&f);
		ok(fx_write(&f, 0, 512, 1) == -EUCLEAN &&
		   mem_has_msg(&f.be, "refcount table: entry 2 is"),
		   "refcount table entry %#llx", (unsigned long long)bad[i]);
		fx_destroy(&f);
	}
}

/* Two entries for one block. */
static void test_same_block(void)
{
	struct fixture f;
	u64 table;

	make(&f);
	table = mem_be64(&f.be, 48);
	mem_set_be64(&f.be, table + 8, mem_be64(&f.be, table));
	fx_open(&f);
	is_int(fx_write(&f, 0, 512, 1), -EUCLEAN, "a block that counts twice");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

/* A slice that was good is looked at again when there is new metadata. */
static void test_generation(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u32 gen;

	make(&f);
	fx_open(&f);
	must(qcow2_activate(f.img));
	must(qcow2_map(f.img, 0, 512, &m));
	ok(m.in_place, "a checked slice");
	gen = f.img->overlap_gen;
	must(fx_write(&f, 4 << 20, 512, 1)); /* a new table */
	ok(f.img->overlap_gen != gen, "a new table begins a new generation");
	ok(!qcow2_map_peek(f.img, 0, 512, &m) && !m.in_place,
	   "in which the slice is not trusted");
	must(qcow2_map(f.img, 0, 512, &m));
	ok(m.in_place && !qcow2_map_peek(f.img, 0, 512, &m) && m.in_place,
	   "until it has been looked at");
	fx_destroy(&f);
}

/* A data cluster that the refcounts give away becomes a table. */
static void test_data_becomes_table(void)
{
	struct qcow2_mapping m;
	struct fixture f;
	u64 host;

	make(&f);
	must(mk_map(&f.be, CS, QCOW2_DATA, 0, &host));
	must(mk_set_l2(&f.be, CS, host | QCOW2_ENTRY_COPIED));
	fx_open(&f);
	must(qcow2_activate(f.img));
	must(qcow2_map(f.img, CS, 512, &m));
	ok(m.in_place, "a cluster whose refcount lies is data");
	must(fx_write(&f, 4 << 20, 512, 1));
	must(qcow2_commit(f.img));
	is_int(fx_l1(&f, 2) & QCOW2_ENTRY_OFFSET, host, "then it is a table");
	is_int(fx_write(&f, CS, 512, 1), -EUCLEAN, "and is not written as data");
	ok(fx_corrupt_bit(&f), "the image is marked corrupt");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static bool in_model(const bool *model, u64 first, u64 nr)
{
	u64 i;

	for (i = first; i < first + nr; i++)
		if (model[i])
			return true;
	return false;
}

/* The set against an array, with collisions, growth and removal. */
static void test_set(void)
{
	static bool model[4096];
	u64 base = 1ull << 30, i, bad = 0;
	struct fixture f;
	u32 seed = 1;

	make(&f);
	fx_open(&f);
	must(qcow2_activate(f.img));
	for (i = 0; i < 60000; i++) {
		u64 n, at;

		seed = seed * 1103515245 + 12345;
		at = seed >> 8 & 4095;
		n = 1 + (seed >> 24) % 4;
		if (seed >> 20 & 1 || i < 2000) {
			must(qcow2_overlap_add(f.img, base + at));
			model[at] = true;
		} else {
			qcow2_overlap_remove(f.img, base + at);
			model[at] = false;
		}
		if (at + n <= 4096)
			bad += !!qcow2_overlap_find(f.img, base + at, n) !=
				in_model(model, at, n);
	}
	for (i = 0; i < 4096; i++)
		bad += !!qcow2_overlap_find(f.img, base + i, 1) != model[i];
	is_int(bad, 0, "60000 changes of the set");
	fx_destroy(&f);
}

static void test_ranges(void)
{
	struct fixture f;
	u64 l1, rt;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = 9, .size = 8 << 20, .reftable_clusters = 3 });
	fx_open(&f);
	must(qcow2_activate(f.img));
	l1 = mem_be64(&f.be, 40) >> 9;
	rt = mem_be64(&f.be, 48) >> 9;
	ok(!strcmp(qcow2_overlap_find(f.img, 0, 1), "the header"), "the header");
	ok(!strcmp(qcow2_overlap_find(f.img, rt, 1), "the refcount table") &&
	   !strcmp(qcow2_overlap_find(f.img, rt + 2, 1), "the refcount table"),
	   "the refcount table, first and last cluster");
	ok(!strcmp(qcow2_overlap_find(f.img, l1 + 3, 100), "the L1 table") &&
	   !strcmp(qcow2_overlap_find(f.img, l1, 1), "the L1 table"),
	   "the L1 table, first and last cluster");
	ok(!qcow2_overlap_find(f.img, l1 + 4, 1000), "nothing behind it");
	fx_destroy(&f);
}

int main(void)
{
	test_entries();
	test_run();
	test_tables();
	test_reftable();
	test_bad_reftable_entries();
	test_same_block();
	test_generation();
	test_data_becomes_table();
	test_set();
	test_ranges();
	return tap_end();
}
