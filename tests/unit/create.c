// SPDX-License-Identifier: GPL-2.0
/*
 * New images: every geometry is clean to our check and to qemu-img, as small as
 * it can be, reads zeros or what is below, and can be written; what cannot be is
 * refused; before the last write there is no image.
 */
#include "allocs.h"
#include "check.h"
#include "create.h"
#include "fixture.h"
#include "qemuimg.h"

#define MB (1ull << 20)

static const char * const prealloc_names[] = { "off", "metadata", "full" };

static u64 size_of(const struct qcow2_create *p)
{
	struct qcow2_error err;
	u64 bytes;

	must(qcow2_create_size(p, &bytes, &err));
	return bytes;
}

/* Makes it in a file, or on a device with room for some clusters more. */
static void make(struct fixture *f, enum mem_flavour flavour,
		 const struct qcow2_create *p)
{
	memset(f, 0, sizeof(*f));
	mem_init(&f->be, flavour, size_of(p) + (16ull << p->cluster_bits) + 512);
	f->cs = 1u << p->cluster_bits;
	if (qcow2_create(f->be.ops, &f->be, p, &f->err)) {
		diag("%s", f->err.msg);
		must(-EINVAL);
	}
}

static void hear(void *arg, bool leak, const char *line)
{
	diag("%s", line);
}

static bool clean(struct fixture *f, u64 *end)
{
	struct qcow2_check chk = { .report = hear };

	must(qcow2_check(f->be.ops, &f->be, &chk, &f->err));
	*end = chk.end;
	return !chk.errors && !chk.leaks;
}

/* The beginning and the end of the guest. */
static bool reads_zeros(struct fixture *f, u64 size)
{
	u64 n = min(size, 3 * MB) & ~511ull;

	return fx_reads(f, 0, n, 0) && fx_reads(f, (size & ~511ull) - n, n, 0);
}

static bool can_be_written(struct fixture *f, u64 size)
{
	u64 at, end, step = max((u64)f->cs, size / 4 & ~511ull);

	for (at = 0; at + 512 <= size; at += step)
		if (fx_write(f, at, 512, 1))
			return false;
	for (at = 0; at + 512 <= size; at += step)
		if (!fx_reads(f, at, 512, 1))
			return false;
	return !fx_close(f) && clean(f, &end);
}

/* ---- every geometry ---- */

static void one(enum mem_flavour flavour, const struct qcow2_create *p)
{
	u64 bytes = size_of(p), end;
	struct fixture f;
	char what[128];

	snprintf(what, sizeof(what), "%s: 2^%u, order %u%s, %llu bytes, %s",
		 flavour == MEM_FILE ? "file" : "device", p->cluster_bits,
		 p->refcount_order, p->extended_l2 ? ", extended" : "",
		 (unsigned long long)p->size, prealloc_names[p->prealloc]);
	make(&f, flavour, p);
	ok(clean(&f, &end) && end == bytes &&
	   (flavour == MEM_DEVICE || f.be.size == bytes), "%s: check", what);
	qemuimg_check(&f.be, 0, what);
	fx_open(&f);
	ok(f.img->hdr.size == p->size && reads_zeros(&f, p->size),
	   "%s: reads zeros", what);
	ok(can_be_written(&f, p->size), "%s: is written", what);
	fx_destroy(&f);
}

static void sizes(const struct qcow2_create *p)
{
	const u64 cluster = 1ull << p->cluster_bits;
	const u64 l2 = cluster << (p->cluster_bits - (p->extended_l2 ? 4 : 3));
	const u64 all[] = {
		0, 512, 3 * cluster + 512, l2, l2 + 512, 5 * MB,
	};
	struct qcow2_create q = *p;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(all); i++) {
		if (p->prealloc != QCOW2_PREALLOC_OFF && all[i] > 64 * MB)
			continue;
		q.size = all[i];
		one(MEM_FILE, &q);
		/* the tables of a device are in the way of the garbage */
		if (all[i] <= 64 * MB)
			one(MEM_DEVICE, &q);
	}
}

static void test_matrix(void)
{
	static const u32 bits[] = { 9, 12, 14, 16, 21 };
	u64 checks, wrong;
	u32 i, ext, how, order = 0;

	must(qemuimg_start(2));
	for (i = 0; i < ARRAY_SIZE(bits); i++)
		for (ext = 0; ext <= (bits[i] >= 14); ext++)
			for (how = 0; how < ARRAY_SIZE(prealloc_names); how++)
				sizes(&(struct qcow2_create){
					.cluster_bits = bits[i],
					.refcount_order = order++ % 7,
					.extended_l2 = ext, .prealloc = how });
	/* the most blocks, and a table of several clusters */
	one(MEM_FILE, &(struct qcow2_create){
		.cluster_bits = 9, .refcount_order = 6, .size = 128 * MB,
		.prealloc = QCOW2_PREALLOC_METADATA });
	/* the largest L1 table */
	one(MEM_FILE, &(struct qcow2_create){
		.cluster_bits = 9, .refcount_order = 4, .size = 131072 * MB });
	qemuimg_stop(&checks, &wrong);
	ok(checks && !wrong, "qemu-img agrees, %llu times",
	   (unsigned long long)checks);
}

/* The least number of clusters in which everything is counted. */
static u64 least(u64 counted, u64 per_block, u64 per_table)
{
	u64 blocks;

	for (blocks = 1;; blocks++) {
		u64 n = counted + blocks + (blocks + per_table - 1) / per_table;

		if (n <= blocks * per_block)
			return n;
	}
}

static void test_fixed_point(void)
{
	u64 n, guest, l2, wrong = 0;

	for (n = 1; n < 40000; n += 1 + n / 500) {
		struct qcow2_create p = {
			.cluster_bits = 9, .refcount_order = 6, .size = n * 512,
			.prealloc = QCOW2_PREALLOC_METADATA };

		guest = n;
		l2 = (guest + 63) / 64;
		wrong += size_of(&p) != 512 * least(1 + (l2 + 63) / 64 + l2 + guest,
						    64, 64);
	}
	is_int(wrong, 0, "refcount blocks count themselves, and no more");
}

/* ---- what cannot be ---- */

#define SIZED(bits, bytes) \
	.cluster_bits = (bits), .refcount_order = 4, .size = (bytes)
#define FINE SIZED(16, MB)

static const char long_name[1025] = { [0 ... 1023] = 'x' };

static const struct {
	struct qcow2_create p;
	int ret;
	const char *text;
} refused[] = {
	{ { SIZED(8, MB) }, -EINVAL, "from 512 bytes to 2 MiB" },
	{ { SIZED(22, MB) }, -EINVAL, "from 512 bytes to 2 MiB" },
	{ { .cluster_bits = 16, .refcount_order = 7 }, -EINVAL, "32 or 64 bits" },
	{ { SIZED(13, MB), .extended_l2 = true }, -EINVAL,
	  "16 KiB or more, not 8192" },
	{ { FINE, .backing_file = "b" }, -EINVAL, "format of the backing file" },
	{ { FINE, .backing_file = "", .backing_format = "raw" }, -EINVAL,
	  "name of the backing file is empty" },
	{ { FINE, .backing_file = long_name, .backing_format = "raw" }, -EINVAL,
	  "has 1024 bytes, at most 1023" },
	{ { FINE, .data_file = long_name }, -EINVAL,
	  "name of the data file has 1024 bytes" },
	{ { SIZED(9, MB), .backing_file = long_name + 700,
	    .backing_format = "qcow2", .data_file = long_name + 960 }, -EINVAL,
	  "do not fit into a cluster of 512 bytes" },
	{ { FINE, .backing_file = "b", .backing_format = "raw",
	    .prealloc = QCOW2_PREALLOC_METADATA }, -EINVAL,
	  "hide the backing file" },
	{ { FINE, .data_file_raw = true }, -EINVAL, "no data file" },
	{ { FINE, .data_file = "d", .data_file_raw = true, .backing_file = "b",
	    .backing_format = "raw" }, -EINVAL, "no backing file" },
	{ { SIZED(16, 1ull << 63) }, -EFBIG, "larger clusters" },
	{ { SIZED(21, 1ull << 56), .data_file = "d" },
	  -EFBIG, "at most 64 PiB" },
	{ { SIZED(21, 1ull << 56),
	    .prealloc = QCOW2_PREALLOC_METADATA }, -EFBIG, "are too many" },
	/* 32 GiB are counted by the largest refcount table */
	{ { .cluster_bits = 9, .refcount_order = 6, .size = 32768 * MB,
	    .prealloc = QCOW2_PREALLOC_METADATA }, -EFBIG, "are too many" },
};

static void test_refused(void)
{
	struct qcow2_error err;
	u64 bytes;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		err.msg[0] = 0;
		ret = qcow2_create_size(&refused[i].p, &bytes, &err);
		if (!ok(ret == refused[i].ret &&
			strstr(err.msg, refused[i].text), "refused: %s",
			refused[i].text))
			diag("%d: %s", ret, err.msg);
	}
}

/* An L1 table has 2^22 entries. */
static void test_limits(void)
{
	struct qcow2_error err;
	u32 bits, ext;
	u64 bytes;

	for (bits = 9; bits <= 21; bits++)
		for (ext = 0; ext <= (bits >= 14); ext++) {
			struct qcow2_create p = {
				.cluster_bits = bits, .extended_l2 = ext,
				.size = 1ull << (22 + 2 * bits - 3 - ext) };

			ok(!qcow2_create_size(&p, &bytes, &err),
			   "2^%u%s: the most", bits, ext ? ", extended" : "");
			p.size += 512;
			is_int(qcow2_create_size(&p, &bytes, &err), -EFBIG,
			       "2^%u%s: a sector more", bits,
			       ext ? ", extended" : "");
		}
}

/* ---- the header ---- */

static void parse(struct fixture *f, struct qcow2_header *h)
{
	size_t need;

	must(qcow2_header_parse(f->be.data, f->be.size, f->be.size, h, &need,
				&f->err));
}

static bool says(const struct fixture *f, struct qcow2_header_string s,
		 const char *text)
{
	return s.len == strlen(text) &&
		!memcmp(f->be.data + s.offset, text, s.len);
}

static bool has_names(const struct fixture *f)
{
	return memmem(f->be.data, 4096, "\x68\x03\xf8\x57\0\0\1\x80\0\0dirty bit",
		      19);
}

static void test_header(void)
{
	struct qcow2_header h;
	struct fixture f, d;
	struct qcow2_store data = { NULL, &d.be };

	make(&f, MEM_FILE, &(struct qcow2_create){
		.cluster_bits = 16, .refcount_order = 1, .size = MB,
		.lazy_refcounts = true,
		.compression = QCOW2_COMPRESSION_ZSTD,
		.backing_file = "the/base", .backing_format = "qcow2" });
	parse(&f, &h);
	ok(h.version == 3 && h.refcount_order == 1 &&
	   h.compression == QCOW2_COMPRESSION_ZSTD &&
	   h.incompatible == QCOW2_INCOMPAT_COMPRESSION &&
	   h.compatible == QCOW2_COMPAT_LAZY_REFCOUNTS && !h.autoclear,
	   "zstd, lazy refcounts");
	ok(says(&f, h.backing_file, "the/base") &&
	   says(&f, h.backing_format, "qcow2"), "the backing file");
	ok(has_names(&f), "the names of features");
	mem_destroy(&f.be);

	mem_init(&d.be, MEM_FILE, 0);
	data.ops = d.be.ops;
	make(&f, MEM_FILE, &(struct qcow2_create){
		SIZED(9, MB), .data_file = "/the/data",
		.data_file_raw = true, .data = &data });
	parse(&f, &h);
	ok(h.incompatible == QCOW2_INCOMPAT_DATA_FILE &&
	   h.autoclear == QCOW2_AUTOCLEAR_DATA_FILE_RAW &&
	   says(&f, h.data_file, "/the/data"), "the data file");
	ok(!has_names(&f), "no names of features in 512 bytes");
	mem_destroy(&f.be);
	mem_destroy(&d.be);

	make(&f, MEM_FILE, &(struct qcow2_create){
		SIZED(9, MB), .backing_file = long_name + 648,
		.backing_format = "raw" });
	parse(&f, &h);
	ok(says(&f, h.backing_file, long_name + 648), "a full cluster");
	mem_destroy(&f.be);
	make(&f, MEM_FILE, &(struct qcow2_create){ SIZED(9, MB) });
	ok(has_names(&f), "names of features fill 512 bytes");
	mem_destroy(&f.be);
}

/* ---- other files ---- */

static void external(enum mem_flavour flavour, bool raw, bool extended,
		     enum qcow2_prealloc how)
{
	struct qcow2_store data;
	struct qcow2_create p = {
		SIZED(16, MB + 512), .extended_l2 = extended,
		.data_file = "d", .data_file_raw = raw, .prealloc = how,
		.data = &data };
	struct qcow2_config cfg = { .data = &data };
	struct membackend d;
	struct fixture f;
	char what[64];
	u64 end;

	snprintf(what, sizeof(what), "data %s%s%s, %s",
		 flavour == MEM_FILE ? "file" : "device", raw ? ", raw" : "",
		 extended ? ", extended" : "", prealloc_names[how]);
	mem_init(&d, flavour, 2 * MB);
	data = (struct qcow2_store){ d.ops, &d };
	make(&f, MEM_FILE, &p);
	ok(clean(&f, &end) && end == f.be.size, "%s: check", what);
	is_int(d.size, flavour == MEM_FILE ? MB + 512 : 2 * MB, "%s: size", what);
	is_int(fx_l2(&f, 0) & QCOW2_ENTRY_COPIED,
	       raw || how ? QCOW2_ENTRY_COPIED : 0, "%s: entries", what);
	if (raw)
		ok(fx_holds(d.data, 0, MB + 512, 0), "%s: raw zeros", what);
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	ok(reads_zeros(&f, p.size), "%s: reads zeros", what);
	ok(can_be_written(&f, p.size) && fx_holds(d.data, 0, 512, 1),
	   "%s: is written", what);
	fx_destroy(&f);
	mem_destroy(&d);
}

static void test_external(void)
{
	u32 raw, ext, how;

	for (raw = 0; raw < 2; raw++)
		for (ext = 0; ext < 2; ext++)
			for (how = 0; how < ARRAY_SIZE(prealloc_names); how++) {
				external(MEM_FILE, raw, ext, how);
				external(MEM_DEVICE, raw, ext, how);
			}
}

/* Clusters are there, and what is below shows through. */
static void test_backing(void)
{
	struct qcow2_create p = {
		FINE, .extended_l2 = true, .backing_file = "b",
		.backing_format = "raw", .prealloc = QCOW2_PREALLOC_METADATA };
	struct qcow2_layer below = { .size = MB / 2 };
	struct qcow2_config cfg = { .backing = &below };
	enum mem_flavour flavour;
	struct membackend b;
	struct fixture f;

	mem_init(&b, MEM_FILE, 0);
	must(b.ops->grow(&b, MB / 2));
	fx_fill(b.data, 0, MB / 2, 7);
	below.store = (struct qcow2_store){ b.ops, &b };
	for (flavour = MEM_FILE; flavour <= MEM_DEVICE; flavour++) {
		make(&f, flavour, &p);
		must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
		ok(fx_reads(&f, 0, MB / 2, 7) && fx_reads(&f, MB / 2, MB / 2, 0),
		   "preallocated over a backing file");
		must(fx_write(&f, 512, 512, 8));
		ok(fx_reads(&f, 0, 512, 7) && fx_reads(&f, 512, 512, 8) &&
		   fx_reads(&f, 1024, MB / 2 - 1024, 7), "and written");
		fx_destroy(&f);
	}
	mem_destroy(&b);
}

/* ---- the order, and what goes wrong ---- */

static bool is_image(const struct membackend *be)
{
	return be->size >= 4 && mem_be32(be, 0) == QCOW2_MAGIC;
}

/* A file is empty, a device had an image. */
static void start(struct fixture *f, enum mem_flavour flavour)
{
	memset(f, 0, sizeof(*f));
	mem_init(&f->be, flavour, 4 * MB);
	if (flavour == MEM_DEVICE)
		mem_set_be32(&f->be, 0, QCOW2_MAGIC);
}

static void test_order(enum mem_flavour flavour)
{
	struct qcow2_create p = { FINE, .prealloc = QCOW2_PREALLOC_FULL,
		.backing_file = long_name + 600, .backing_format = "raw",
		.extended_l2 = true };
	const char *name = flavour == MEM_FILE ? "file" : "device";
	u64 first = flavour == MEM_FILE ? 0 : 2, i, early = 0;
	struct fixture f, now;
	const struct mem_op *op;

	start(&f, flavour);
	start(&now, flavour);
	mem_log_start(&f.be);
	must(qcow2_create(f.be.ops, &f.be, &p, &f.err));
	op = f.be.log + f.be.nr_log;
	ok(op[-1].kind == MEM_FLUSH && op[-2].kind == MEM_WRITE &&
	   !op[-2].offset && op[-2].len == 512 && op[-3].kind == MEM_FLUSH,
	   "%s: all is durable, then one sector, durable", name);
	op = f.be.log;
	ok(flavour == MEM_FILE ||
	   (op[0].kind == MEM_WRITE && !op[0].offset && op[1].kind == MEM_FLUSH),
	   "%s: what was there is destroyed first", name);
	for (i = 0; i < f.be.nr_log - 2; i++) {
		mem_apply(&now.be, &f.be.log[i], 0, f.be.log[i].len);
		early += i >= first && is_image(&now.be);
	}
	is_int(early, 0, "%s: no image before the end", name);
	fx_destroy(&f);
	fx_destroy(&now);
}

static int create_failing(struct fixture *f, enum mem_flavour flavour,
			  enum mem_kind kind, u64 nth)
{
	struct qcow2_create p = { FINE, .prealloc = QCOW2_PREALLOC_METADATA };

	start(f, flavour);
	f->be.fault[kind] = (struct mem_fault){ .at = nth, .error = -EIO };
	return qcow2_create(f->be.ops, &f->be, &p, &f->err);
}

static void test_failures(enum mem_flavour flavour)
{
	static const enum mem_kind kinds[] = { MEM_WRITE, MEM_GROW, MEM_FLUSH };
	u64 nth, wrong = 0, failed = 0;
	struct fixture f;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		for (nth = 1;; nth++) {
			ret = create_failing(&f, flavour, kinds[i], nth);
			if (!ret)
				wrong += !is_image(&f.be);
			else
				wrong += ret != -EIO || !f.err.msg[0];
			/* the last flush fails behind the header */
			if (ret && kinds[i] == MEM_WRITE && nth > 1)
				wrong += is_image(&f.be);
			mem_destroy(&f.be);
			if (!ret)
				break;
			failed++;
		}
	ok(failed >= 7 && !wrong, "%s: what fails is said, %llu times",
	   flavour == MEM_FILE ? "file" : "device", (unsigned long long)failed);
}

static void test_memory(void)
{
	struct qcow2_create p = { FINE };
	struct fixture f;
	int ret;
	u64 i;

	for (i = 1;; i++) {
		start(&f, MEM_FILE);
		allocs_fail(i, 1);
		allocs.armed = true;
		ret = qcow2_create(f.be.ops, &f.be, &p, &f.err);
		allocs.armed = false;
		if (!ret)
			break;
		is_int(ret, -ENOMEM, "no memory, %llu", (unsigned long long)i);
		mem_destroy(&f.be);
	}
	ok(i > 2, "memory is asked for");
	mem_destroy(&f.be);
}

static void test_places(void)
{
	struct qcow2_create p = { FINE };
	struct fixture f;

	start(&f, MEM_FILE);
	must(f.be.ops->grow(&f.be, 512));
	is_int(qcow2_create(f.be.ops, &f.be, &p, &f.err), -EEXIST,
	       "a file that is not empty");
	mem_destroy(&f.be);
	memset(&f, 0, sizeof(f));
	mem_init(&f.be, MEM_DEVICE, size_of(&p) - 512);
	mem_set_be32(&f.be, 0, QCOW2_MAGIC);
	is_int(qcow2_create(f.be.ops, &f.be, &p, &f.err), -ENOSPC,
	       "a device that is too small");
	ok(is_image(&f.be), "and is left alone");
	mem_destroy(&f.be);
}

/* ---- progress ---- */

struct meter {
	u64 calls, last, total, stop_at;
	bool odd;
};

static int tick(void *arg, u64 done, u64 total)
{
	struct meter *m = arg;

	m->odd |= done <= m->last || done > total;
	m->last = done;
	m->total = total;
	return ++m->calls == m->stop_at ? -EINTR : 0;
}

static void test_progress(enum mem_flavour flavour)
{
	struct meter m = { 0 };
	struct qcow2_create p = {
		SIZED(16, 3 * MB), .prealloc = QCOW2_PREALLOC_FULL,
		.progress = tick, .arg = &m };
	const char *name = flavour == MEM_FILE ? "file" : "device";
	struct fixture f;

	make(&f, flavour, &p);
	mem_destroy(&f.be);
	ok(m.calls > 5 && !m.odd && m.last == m.total,
	   "%s: progress ends with all", name);
	m = (struct meter){ .stop_at = 3 };
	start(&f, flavour);
	is_int(qcow2_create(f.be.ops, &f.be, &p, &f.err), -EINTR,
	       "%s: and can be ended", name);
	ok(!is_image(&f.be), "%s: without an image", name);
	mem_destroy(&f.be);
}

int main(void)
{
	enum mem_flavour flavour;

	test_matrix();
	test_fixed_point();
	test_refused();
	test_limits();
	test_header();
	test_external();
	test_backing();
	for (flavour = MEM_FILE; flavour <= MEM_DEVICE; flavour++) {
		test_order(flavour);
		test_failures(flavour);
		test_progress(flavour);
	}
	test_memory();
	test_places();
	return tap_end();
}
