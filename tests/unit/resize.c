// SPDX-License-Identifier: GPL-2.0
/*
 * The size of the disk: L1 tables that grow in their place and move to another,
 * for all cluster sizes; what a disk gets reads as zeros, whatever was there;
 * what it loses is given back; what is refused; a host that fails anywhere on
 * the way. In formats.c disks of every kind are resized at random.
 */
#include "check.h"
#include "fixture.h"
#include "qemuimg.h"
#include "resize.h"

#include <unistd.h>

static void report(void *arg, bool leak, const char *line)
{
	diag("%s: %s", leak ? "leak" : "error", line);
}

/* Neither errors nor leaks, and QEMU agrees (in the background). */
static bool sound(struct fixture *f, const char *what)
{
	struct qcow2_check chk = { .report = report };
	struct qcow2_error err;
	int ret = qcow2_check(f->be.ops, &f->be, &chk, &err);

	if (ret)
		diag("check: %s", err.msg);
	qemuimg_check(&f->be, 0, what);
	return !ret && !chk.errors && !chk.leaks;
}

static int resize(struct fixture *f, u64 size)
{
	return qcow2_resize(f->img, size, false, &f->err);
}

static int shrink(struct fixture *f, u64 size)
{
	return qcow2_resize(f->img, size, true, &f->err);
}

/* The header on the disk has this size, and an L1 table that it needs. */
static bool header_says(const struct fixture *f, u64 size)
{
	return mem_be64(&f->be, 24) == size && f->img->hdr.size == size &&
		mem_be32(&f->be, 36) >= qcow2_size_to_l1(&f->img->hdr, size);
}

/* ---- the L1 table ---- */

/* Garbage where the L1 table may grow to. */
static void spoil_l1(struct fixture *f)
{
	u64 used = mem_be32(&f->be, 36) * 8ull, from = mem_be64(&f->be, 40) + used;

	memset(f->be.data + from, 0xff, round_up(used, (u64)f->cs) - used);
	f->be.size = max(f->be.size, round_up(from, (u64)f->cs));
}

/* Grows a disk with data at its end, by an L1 table that moves or does not. */
static void test_grow(enum mem_flavour flavour, u32 bits, u32 order, u64 size,
		      u64 to, bool moves)
{
	/* the refcount table moves up in steps of half of what it reaches */
	u64 device = bits > 16 || to > 100ull << 30 ? 320 << 20 : 64 << 20, l1;
	struct fixture f;
	char what[160];

	snprintf(what, sizeof(what), "%s, 2^%u, order %u, %llu to %llu",
		 flavour == MEM_FILE ? "file" : "device", bits, order,
		 (unsigned long long)size, (unsigned long long)to);
	fx_make_on(&f, flavour, flavour == MEM_FILE ? 0 : device,
		   &(struct mk_image){ .cluster_bits = bits, .size = size,
			.refcount_order = order, .order_given = true });
	spoil_l1(&f);
	fx_open(&f);
	must(fx_write(&f, 0, 4096, 1));
	must(fx_write(&f, size - 4096, 4096, 2));
	l1 = f.img->hdr.l1_offset;
	if (!is_int(resize(&f, to), 0, "%s", what))
		diag("%s", f.err.msg);
	ok(header_says(&f, to) && (f.img->hdr.l1_offset != l1) == moves &&
	   mem_be64(&f.be, 40) == f.img->hdr.l1_offset,
	   "%s: the L1 table %s", what, moves ? "moves" : "stays");
	ok(fx_reads(&f, 0, 4096, 1) && fx_reads(&f, size - 4096, 4096, 2) &&
	   fx_reads(&f, size, 65536, 0) && fx_reads(&f, to - 4096, 4096, 0),
	   "%s: what was there is there, and zeros behind", what);
	must(fx_write(&f, to - 4096, 4096, 3));
	must(fx_write(&f, size, 4096, 4));
	ok(fx_reads(&f, to - 4096, 4096, 3) && fx_reads(&f, size, 4096, 4),
	   "%s: it is written to", what);
	is_int(fx_close(&f), 0, "%s: close", what);
	fx_open(&f);
	ok(fx_reads(&f, 0, 4096, 1) && fx_reads(&f, size - 4096, 4096, 2) &&
	   fx_reads(&f, size, 4096, 4) && fx_reads(&f, to - 4096, 4096, 3) &&
	   fx_reads(&f, to - 65536, 65536 - 4096, 0), "%s: reopened", what);
	must(fx_close(&f));
	ok(sound(&f, what), "%s: check", what);
	fx_destroy(&f);
}

static void test_tables(void)
{
	enum mem_flavour on;

	for (on = MEM_FILE; on <= MEM_DEVICE; on++) {
		test_grow(on, 9, 4, 1 << 20, 2 << 20, false);
		test_grow(on, 9, 4, 1 << 20, (2 << 20) + 512, true);
		test_grow(on, 9, 4, 3 << 20, 1ull << 31, true);
		test_grow(on, 12, 4, 8 << 20, 1 << 30, false);
		test_grow(on, 12, 0, 8 << 20, 10ull << 30, true);
		test_grow(on, 16, 4, 1 << 30, 4ull << 40, false);
		test_grow(on, 16, 6, 1 << 30, 20ull << 40, true);
		test_grow(on, 21, 4, 1 << 30, 1ull << 57, false);
	}
	/* a run across many refcount blocks, and past the refcount table */
	test_grow(MEM_FILE, 9, 6, 1 << 20, 16ull << 30, true);
	test_grow(MEM_FILE, 9, 6, 1 << 20, 128ull << 30, true);
	test_grow(MEM_FILE, 9, 4, 1 << 20, 128ull << 30, true);
	test_grow(MEM_DEVICE, 9, 5, 1 << 20, 128ull << 30, true);
	test_grow(MEM_FILE, 21, 4, 1 << 30, 1ull << 61, true);
}

/* By an entry at a time, and never a table lost. */
static void test_many_steps(void)
{
	struct fixture f;
	u64 size, bad = 0;

	fx_make(&f, 9, 1 << 20);
	fx_open(&f);
	for (size = 1 << 20; size < 12 << 20; size += 64 << 9) {
		must(fx_write(&f, size - 512, 512, size));
		bad += resize(&f, size + (64 << 9)) != 0;
		bad += !fx_reads(&f, size, 64 << 9, 0);
	}
	for (size = 1 << 20; size < 12 << 20; size += 64 << 9)
		bad += !fx_reads(&f, size - 512, 512, size);
	is_int(bad, 0, "many steps");
	must(fx_close(&f));
	ok(sound(&f, "many steps"), "many steps: check");
	ok(f.be.size < 600 << 10, "the places of old L1 tables are used again");
	fx_destroy(&f);
}

static void test_empty(void)
{
	struct fixture f;

	fx_make(&f, 12, 0);
	/* a table without entries has no cluster */
	must(mk_set_refcount(&f.be, mem_be64(&f.be, 40), 0));
	fx_open(&f);
	is_int(resize(&f, 1 << 20), 0, "a disk without a size gets one");
	must(fx_write(&f, 0, 1 << 20, 1));
	ok(fx_reads(&f, 0, 1 << 20, 1), "and is written to");
	must(fx_close(&f));
	ok(sound(&f, "empty"), "check");
	fx_destroy(&f);
}

/* The bound follows the disk, unless it was given. */
static void test_cache(void)
{
	struct fixture f;
	u32 before;

	fx_make(&f, 16, 1 << 30);
	fx_open(&f);
	must(fx_write(&f, 0, 4096, 1));
	before = f.img->cache.max_blocks;
	must(resize(&f, 1ull << 40));
	ok(f.img->cache.max_blocks > 4 * before, "the cache grows with the disk");
	f.be.seen[MEM_READ] = 0;
	ok(fx_reads(&f, 0, 4096, 1) && !f.be.seen[MEM_READ],
	   "and keeps what was in it");
	fx_destroy(&f);

	fx_make(&f, 16, 1 << 30);
	fx_open_with(&f, 2 << 20);
	before = f.img->cache.max_blocks;
	must(resize(&f, 1ull << 40));
	is_int(f.img->cache.max_blocks, before, "a bound that was given stays");
	fx_destroy(&f);
}

/* ---- what the disk gets ---- */

#define CS 4096ull
#define OLD (5 * CS + 1024)	/* inside its last cluster */

static const char * const last_names[] = {
	"unallocated", "data", "shared data", "zero", "reserved",
};

/* An image over a longer one whose last cluster is of some kind. */
static void make_over(struct fixture *f, struct membackend *below, u32 last)
{
	u64 host;

	mem_init(below, MEM_FILE, 0);
	below->size = 20 * CS + 512;
	fx_fill(below->data, 0, below->size, 7);
	fx_make(f, 12, 10 * CS);
	if (last == 1 || last == 2) {
		must(mk_map(&f->be, 5 * CS, QCOW2_DATA, last, &host));
		fx_fill(f->be.data + host, 5 * CS, CS, 8);
	} else if (last == 3) {
		must(mk_map(&f->be, 5 * CS, QCOW2_ZERO, 0, NULL));
	} else if (last == 4) {
		must(mk_map(&f->be, 5 * CS, QCOW2_ZERO_ALLOC, 1, &host));
		memset(f->be.data + host, 0xee, CS);
	}
	/* behind the end: what nobody may see */
	must(mk_map(&f->be, 7 * CS, QCOW2_DATA, 1, &host));
	memset(f->be.data + host, 0xee, CS);
	mem_set_be64(&f->be, 24, OLD);
	/* there is a file below, whose name is "b" */
	mem_set_be64(&f->be, 8, 512);
	mem_set_be32(&f->be, 16, 1);
	f->be.data[512] = 'b';
}

static void open_over(struct fixture *f, const struct qcow2_layer *layer)
{
	const struct qcow2_config cfg = { .backing = layer };

	must(qcow2_image_open(f->be.ops, &f->be, &cfg, &f->img, &f->err));
}

static void test_over(u32 last, u64 to)
{
	struct membackend below;
	struct qcow2_layer layer;
	struct fixture f;
	u64 generation = last == 0 ? 7 : last < 3 ? 8 : 0, end;
	char what[64];

	make_over(&f, &below, last);
	layer = (struct qcow2_layer){ { below.ops, &below }, NULL, below.size };
	open_over(&f, &layer);
	end = min(to, (u64)(24 * CS));
	snprintf(what, sizeof(what), "last cluster %s, to %llu",
		 last_names[last], (unsigned long long)to);
	if (!is_int(resize(&f, to), 0, "%s", what))
		diag("%s", f.err.msg);
	ok(fx_reads(&f, 0, 5 * CS, 7) && fx_reads(&f, 5 * CS, 1024, generation) &&
	   fx_reads(&f, OLD, end - OLD, 0),
	   "%s: zeros, although the layer below is longer", what);
	must(fx_close(&f));
	open_over(&f, &layer);
	ok(fx_reads(&f, 5 * CS, 1024, generation) &&
	   fx_reads(&f, OLD, end - OLD, 0), "%s: reopened", what);
	must(fx_close(&f));
	mem_set_be64(&f.be, 8, 0); /* which QEMU would look for */
	/* a shared cluster is one that nobody else names here */
	if (last != 2)
		ok(sound(&f, what), "%s: check", what);
	fx_destroy(&f);
	mem_destroy(&below);
}

/* Tables that reach further than the disk, and nothing below. */
static void test_tail(void)
{
	struct fixture f;
	u64 host, again;

	fx_make(&f, 12, 10 * CS);
	must(mk_map(&f.be, 5 * CS, QCOW2_DATA, 1, &host));
	fx_fill(f.be.data + host, 5 * CS, CS, 8);
	must(mk_map(&f.be, 6 * CS, QCOW2_DATA, 1, &again));
	memset(f.be.data + again, 0xee, CS);
	mem_set_be64(&f.be, 24, OLD);
	fx_open(&f);
	must(resize(&f, 1 << 20));
	ok(fx_reads(&f, 5 * CS, 1024, 8) && fx_reads(&f, OLD, (1 << 20) - OLD, 0),
	   "what lay behind the old end is not seen");
	is_int(fx_host(&f, 5 * CS), host, "the last cluster stays");
	must(fx_close(&f));
	is_int(mk_refcount(&f.be, again), 0, "what had no place is given back");
	ok(sound(&f, "tail"), "check");
	fx_destroy(&f);
}

/* ---- what it loses ---- */

static void test_shrink(enum mem_flavour flavour, u32 bits, u64 size, u64 to)
{
	u64 step = max(size / 64, 1ull << bits), at, bad = 0, freed;
	u64 cs = 1ull << bits, l1_before;
	struct fixture f;
	char what[96];

	snprintf(what, sizeof(what), "%s, 2^%u, %llu down to %llu",
		 flavour == MEM_FILE ? "file" : "device", bits,
		 (unsigned long long)size, (unsigned long long)to);
	fx_make_on(&f, flavour, flavour == MEM_FILE ? 0 : 64 << 20,
		   &(struct mk_image){ .cluster_bits = bits, .size = size });
	fx_open(&f);
	for (at = 0; at < size; at += step)
		must(fx_write(&f, at, 512, 1));
	must(fx_write(&f, to / cs * cs, min(cs, size - to / cs * cs), 2));
	l1_before = f.img->hdr.l1_entries;
	if (!is_int(shrink(&f, to), 0, "%s", what))
		diag("%s", f.err.msg);
	ok(header_says(&f, to) && f.img->hdr.l1_entries <= l1_before,
	   "%s: the header says it", what);
	freed = atomic64_read(&f.img->stats.freed);
	ok(freed >= (size - to) / step, "%s: %llu clusters are given back", what,
	   (unsigned long long)freed);
	for (at = 0; at < to / cs * cs; at += step)
		bad += !fx_reads(&f, at, 512, 1);
	bad += to % cs && !fx_reads(&f, to / cs * cs, to % cs, 2);
	is_int(bad, 0, "%s: the rest is there", what);
	must(resize(&f, size));
	for (at = to; at < size; at += step)
		bad += !fx_reads(&f, at / 512 * 512, 512, 0);
	bad += !fx_reads(&f, to, min(4 * cs, size - to), 0);
	is_int(bad, 0, "%s: grown again, it reads as zeros", what);
	must(fx_close(&f));
	ok(sound(&f, what), "%s: check", what);
	fx_destroy(&f);
}

/* Power fails when the header has the new size and no more has happened. */
static void test_shrink_again(void)
{
	struct fixture f;

	fx_make(&f, 12, 8 << 20);
	fx_open(&f);
	must(fx_write(&f, 0, 8 << 20, 1));
	must(fx_close(&f));
	mem_set_be64(&f.be, 24, 1 << 20);
	fx_open(&f);
	must(shrink(&f, 1 << 20));
	ok(fx_reads(&f, 0, 1 << 20, 1) &&
	   atomic64_read(&f.img->stats.freed) >= 7 * 256,
	   "to the size that it has: the space is given back");
	must(fx_close(&f));
	ok(sound(&f, "shrunk again"), "check");
	fx_destroy(&f);
}

/* ---- what is refused ---- */

static void refuses(struct fixture *f, int ret, int error, const char *text)
{
	ok(ret == error && strstr(f->err.msg, text), "refused: %s", text);
	if (ret != error || !strstr(f->err.msg, text))
		diag("%d: %s", ret, f->err.msg);
}

static void test_refused(void)
{
	struct membackend below;
	struct qcow2_layer layer;
	struct fixture f;

	fx_make(&f, 9, 1 << 20);
	fx_open(&f);
	refuses(&f, resize(&f, (1 << 20) + 511), -EINVAL, "multiple of 512");
	refuses(&f, shrink(&f, 0), -EINVAL, "multiple of 512");
	refuses(&f, resize(&f, (128ull << 30) + 512), -EFBIG,
		"the largest has 137438953472");
	refuses(&f, resize(&f, (1 << 20) - 512), -EINVAL, "would be lost");
	is_int(resize(&f, 1 << 20), 0, "the size that it has is none to refuse");
	f.img->hdr.nb_bitmaps = 1;
	refuses(&f, resize(&f, 2 << 20), -EOPNOTSUPP, "bitmap --remove");
	f.img->hdr.nb_bitmaps = 0;
	f.img->hdr.nb_snapshots = 1;
	refuses(&f, shrink(&f, 1 << 19), -EOPNOTSUPP, "but not shrink");
	f.img->hdr.version = 2;
	refuses(&f, resize(&f, 2 << 20), -EOPNOTSUPP, "version 2 and snapshots");
	f.img->hdr.version = 3;
	f.img->hdr.nb_snapshots = 0;
	fx_destroy(&f);

	fx_make(&f, 9, 1 << 20);
	mem_set_be64(&f.be, 72, QCOW2_INCOMPAT_CORRUPT);
	fx_open(&f);
	refuses(&f, resize(&f, 2 << 20), -EROFS, "marked corrupt");
	fx_destroy(&f);

	make_over(&f, &below, 0);
	mem_set_be32(&f.be, 4, 2);
	layer = (struct qcow2_layer){ { below.ops, &below }, NULL, below.size };
	open_over(&f, &layer);
	refuses(&f, resize(&f, 7 * CS), -EOPNOTSUPP, "compat=1.1");
	is_int(resize(&f, 6 * CS), 0, "in its last cluster version 2 can grow");
	ok(fx_reads(&f, 5 * CS, 1024, 7) && fx_reads(&f, OLD, 6 * CS - OLD, 0),
	   "by zeros");
	fx_destroy(&f);
	mem_destroy(&below);
}

/* ---- what fails ---- */

struct attempt {
	u32 bits;
	u64 from, to;
	enum mem_flavour flavour;
};

/*
 * Operation number @at of a kind fails. The disk has one of the two sizes, its
 * data and zeros behind it; the image may leak, no more.
 */
static bool fails_at(const struct attempt *a, enum mem_kind kind, u64 at,
		     int error, bool *reached)
{
	struct qcow2_check chk = { .report = NULL };
	struct fixture f;
	bool good;
	u64 size;
	int ret;

	fx_make_on(&f, a->flavour, a->flavour == MEM_FILE ? 0 : 8 << 20,
		   &(struct mk_image){ .cluster_bits = a->bits, .size = a->from });
	fx_open(&f);
	must(fx_write(&f, 0, 4096, 1));
	must(fx_write(&f, a->from - 4096, 4096, 1));
	must(qcow2_commit(f.img));
	f.be.fault[kind] = (struct mem_fault){ f.be.seen[kind] + at, 1, error };
	ret = qcow2_resize(f.img, a->to, a->to < a->from, &f.err);
	*reached = f.be.seen[kind] >= f.be.fault[kind].at;
	mem_fail_nothing(&f.be);
	good = !ret || ret == error;
	size = min(a->from, a->to);
	good = good && fx_reads(&f, 0, 4096, 1);
	if (fx_close(&f) && !*reached)
		good = false;
	good = good && !qcow2_check(f.be.ops, &f.be, &chk, &f.err) &&
		!chk.errors;
	fx_open(&f);
	good = good && (f.img->hdr.size == a->from || f.img->hdr.size == a->to) &&
		fx_reads(&f, 0, 4096, 1) &&
		(a->to < a->from || fx_reads(&f, size - 4096, 4096, 1));
	if (good && f.img->hdr.size > a->from)
		good = fx_reads(&f, a->from, 65536, 0);
	ret = qcow2_resize(f.img, a->to, a->to < a->from, &f.err);
	good = good && !ret && f.img->hdr.size == a->to;
	if (!good)
		diag("2^%u, kind %u, number %llu: %d, %s", a->bits, kind,
		     (unsigned long long)at, ret, f.err.msg);
	fx_destroy(&f);
	return good;
}

static void test_failures(void)
{
	static const struct attempt attempts[] = {
		{ 9, 1 << 20, 2 << 20, MEM_FILE },
		{ 9, 1 << 20, 64 << 20, MEM_FILE },
		{ 9, 1 << 20, 64 << 20, MEM_DEVICE },
		{ 12, 8 << 20, 2ull << 30, MEM_FILE },
		{ 9, 4 << 20, 1 << 20, MEM_FILE },
	};
	enum mem_kind kind;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(attempts); i++) {
		u64 bad = 0, n = 0, at;
		bool reached = true;

		for (kind = MEM_READ; kind < MEM_KINDS; kind++) {
			reached = true;
			for (at = 1; reached; at++, n++) {
				bad += !fails_at(&attempts[i], kind, at, -EIO,
						 &reached);
				bad += !fails_at(&attempts[i], kind, at, -ENOSPC,
						 &reached);
			}
		}
		is_int(bad, 0, "2^%u, %llu to %llu: any of %llu operations fails",
		       attempts[i].bits, (unsigned long long)attempts[i].from,
		       (unsigned long long)attempts[i].to, (unsigned long long)n);
	}
}

/* A device that is full but for holes can still take a table of one cluster. */
static void test_no_space(void)
{
	struct fixture f;

	fx_make_on(&f, MEM_DEVICE, 100 << 9, &(struct mk_image){
		.cluster_bits = 9, .size = 1 << 20 });
	fx_open(&f);
	must(fx_write(&f, 0, 512, 1));
	refuses(&f, resize(&f, 1 << 30), -ENOSPC, "no space on the host");
	ok(header_says(&f, 1 << 20) && qcow2_mode(f.img) == QCOW2_READ_WRITE &&
	   fx_reads(&f, 0, 512, 1) && !fx_write(&f, 4096, 512, 1),
	   "nothing has happened");
	is_int(resize(&f, 4 << 20), 0, "a smaller table has room");
	must(fx_close(&f));
	ok(sound(&f, "no space"), "check");
	fx_destroy(&f);
}

int main(void)
{
	bool qemu = !qemuimg_start(2);
	u64 checks, wrong;
	u32 last;

	test_tables();
	test_many_steps();
	test_empty();
	test_cache();
	for (last = 0; last < ARRAY_SIZE(last_names); last++) {
		test_over(last, OLD + 512);
		test_over(last, 6 * CS);
		test_over(last, 8 * CS);
		test_over(last, 20 * CS + 512);
		test_over(last, 1ull << 32);
	}
	test_tail();
	test_shrink(MEM_FILE, 9, 64 << 20, 1 << 20);
	test_shrink(MEM_FILE, 9, 64 << 20, (1 << 20) + (20 << 10));
	test_shrink(MEM_DEVICE, 12, 64 << 20, 5 << 20);
	test_shrink(MEM_FILE, 12, 64 << 20, (5 << 20) + 1536);
	test_shrink(MEM_FILE, 16, 1 << 30, 512);
	test_shrink_again();
	test_refused();
	test_failures();
	test_no_space();
	if (qemu) {
		qemuimg_stop(&checks, &wrong);
		is_int(wrong, 0, "qemu-img check agrees in all %llu cases",
		       (unsigned long long)checks);
	} else {
		tap_skip("qemu-img check agrees", "no qemu-img");
	}
	return tap_end();
}
