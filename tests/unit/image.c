// SPDX-License-Identifier: GPL-2.0
/*
 * Opening and closing: what is read, what is refused, what is read-only, what
 * is written to the header and what is left alone.
 */
#include "fixture.h"

struct snapshot {
	u8 *data;
	u64 size;
};

static struct snapshot take(const struct membackend *be)
{
	struct snapshot s = { malloc(be->size), be->size };

	memcpy(s.data, be->data, be->size);
	return s;
}

/* Is the file what it was? */
static bool same(const struct membackend *be, struct snapshot *s)
{
	bool eq = be->size == s->size && !memcmp(be->data, s->data, s->size);

	free(s->data);
	return eq;
}

static void test_nothing_written(void)
{
	u32 version, bits;

	for (version = 2; version <= 3; version++) {
		for (bits = 9; bits <= 21; bits += 3) {
			struct fixture f;
			struct snapshot s;

			fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
				.version = version, .cluster_bits = bits,
				.size = 1 << 20, .autoclear = 0xff00000000000003,
				.compatible = U64_MAX });
			must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
			f.be.size += 512; /* not a whole cluster */
			s = take(&f.be);
			fx_open(&f);
			must(fx_read(&f, 0, 1 << 20));
			must(qcow2_commit(f.img));
			is_int(fx_close(&f), 0, "close, %u bits", bits);
			ok(same(&f.be, &s) && !f.be.seen[MEM_WRITE] &&
			   !f.be.seen[MEM_TRIM] && !f.be.seen[MEM_ZERO],
			   "version %u, %u bits: read and left as it was",
			   version, bits);
			fx_destroy(&f);
		}
	}
}

static u64 bytes_read;

static int count_reads(struct membackend *be, enum mem_kind kind, u64 offset,
		       u64 len)
{
	if (kind == MEM_READ)
		bytes_read += len;
	return 0;
}

/* Whatever the size of the image: the header and one piece of the L1 table. */
static void test_open_reads(void)
{
	u32 bits;

	for (bits = 9; bits <= 21; bits += 2) {
		u64 largest = 4194304ull << (2 * bits - 3);
		u64 sizes[] = { 0, 512, 64 << 20, largest };
		size_t i;

		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			struct fixture f;

			if (sizes[i] > largest)
				continue;
			fx_make(&f, bits, sizes[i]);
			f.be.hook = count_reads;
			bytes_read = 0;
			fx_open(&f);
			ok(atomic64_read(&f.img->stats.meta_reads) <= 2 &&
			   bytes_read <= 65536 + (1 << 20) &&
			   !f.be.seen[MEM_FLUSH],
			   "%u bits, %llu bytes: two reads", bits,
			   (unsigned long long)sizes[i]);
			fx_destroy(&f);
		}
	}
}

/* ---------------------------------------------------------------- */

static void test_forced_read_only(void)
{
	static const u64 bits[] = {
		QCOW2_INCOMPAT_CORRUPT,
		QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DIRTY,
	};
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		struct fixture f;
		struct snapshot s;
		u64 host;

		fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
			.size = 1 << 20, .incompatible = bits[i] });
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, &host));
		fx_store(&f, host, 0, f.cs, 7);
		s = take(&f.be);
		fx_open(&f);
		ok(f.img->read_only && !strcmp(f.img->why, "marked corrupt") &&
		   qcow2_mode(f.img) == QCOW2_READ_ONLY, "corrupt: read-only");
		is_int(fx_write(&f, 0, 512, 1), -EROFS, "a write is refused");
		is_int(qcow2_activate(f.img), -EROFS, "and activation");
		ok(fx_reads(&f, 0, f.cs, 7), "a read is not");
		is_int(fx_close(&f), 0, "close");
		ok(same(&f.be, &s), "nothing was written");
		fx_destroy(&f);
	}
}

static void test_asked_read_only(void)
{
	struct qcow2_config cfg = { .read_only = true };
	struct fixture f;
	struct snapshot s;

	fx_make(&f, 16, 1 << 20);
	must(mk_set_l2(&f.be, 0, 0x80));
	s = take(&f.be);
	must(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err));
	ok(!*f.img->why && qcow2_mode(f.img) == QCOW2_READ_ONLY,
	   "read-only because it was asked for");
	is_int(fx_write(&f, 0, 512, 1), -EROFS, "a write is refused");
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "a bad entry is found");
	ok(mem_has_msg(&f.be, "L2 table 0"), "and reported");
	fx_close(&f);
	ok(same(&f.be, &s), "but no bit is set");
	fx_destroy(&f);
}

static void refused(int error, const char *what,
		    void (*change)(struct membackend *be), u64 incompatible)
{
	struct fixture f;
	int ret;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.size = 1 << 20, .incompatible = incompatible });
	if (change)
		change(&f.be);
	ret = mem_open(&f.be, 0, &f.img, &f.err);
	ok(ret == error && strstr(f.err.msg, what), "refused: %s", what);
	f.img = NULL;
	fx_destroy(&f);
}

static void backing(struct membackend *be)
{
	mem_set_be64(be, 8, 512);
	mem_set_be32(be, 16, 4);
}

static void aes(struct membackend *be)
{
	mem_set_be32(be, 32, 1);
}

static void luks(struct membackend *be)
{
	mem_set_be32(be, 32, 2);
	mem_set_be32(be, 104, QCOW2_EXT_CRYPTO);
	mem_set_be32(be, 108, 16);
	mem_set_be64(be, 112, 0x10000);
	mem_set_be64(be, 120, 592);
}

/* What the header does not name is not to be given. */
static void refused_files(void)
{
	struct qcow2_layer below = { .size = 1 << 20 };
	struct qcow2_config cfg = { .backing = &below };
	struct fixture f;

	fx_make(&f, 16, 1 << 20);
	ok(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err) == -EINVAL &&
	   strstr(f.err.msg, "names no backing file"), "refused: a backing file");
	cfg = (struct qcow2_config){ .data = &below.store };
	ok(qcow2_image_open(f.be.ops, &f.be, &cfg, &f.img, &f.err) == -EINVAL &&
	   strstr(f.err.msg, "no external data file"), "refused: a data file");
	f.img = NULL;
	fx_destroy(&f);
}

static void test_refused(void)
{
	refused(-EINVAL, "names a backing file; give it", backing, 0);
	refused(-EINVAL, "an external data file; give it", NULL,
		QCOW2_INCOMPAT_DATA_FILE);
	refused(-EUCLEAN, "contradict", NULL, QCOW2_INCOMPAT_COMPRESSION);
	refused(-ENOKEY, "LUKS encryption; give its cipher and key", luks, 0);
	refused(-ENOKEY, "AES encryption; give its key", aes, 0);
	refused(-EOPNOTSUPP, "bit 5", NULL, 1 << 5);
	refused_files();
}

static void test_open_errors(void)
{
	static const u64 sizes[] = { 0, 1, 3, 71, 511 };
	struct fixture f;
	size_t i;

	fx_make(&f, 16, 1 << 20);
	mem_fail(&f.be, MEM_READ, 1, -EIO);
	ok(mem_open(&f.be, 0, &f.img, &f.err) == -EIO &&
	   strstr(f.err.msg, "header"), "the header cannot be read");
	f.be.fault[MEM_READ] = (struct mem_fault){ f.be.seen[MEM_READ] + 2, 1,
						   -ENODEV };
	ok(mem_open(&f.be, 0, &f.img, &f.err) == -ENODEV &&
	   strstr(f.err.msg, "L1 table"), "the L1 table cannot be read");
	mem_fail_nothing(&f.be);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		int ret;

		f.be.size = sizes[i];
		ret = mem_open(&f.be, 0, &f.img, &f.err);
		ok(ret == (sizes[i] < 4 ? -EINVAL : -EUCLEAN),
		   "a file of %llu bytes", (unsigned long long)sizes[i]);
	}
	f.img = NULL;
	fx_destroy(&f);
}

/* An extension past the first 64 KiB costs one more read. */
static void test_long_header(void)
{
	struct fixture f;

	fx_make(&f, 21, 1 << 20);
	mem_set_be32(&f.be, 104, 0x1234);
	mem_set_be32(&f.be, 108, 100000);
	mem_set_be32(&f.be, 112 + 100000, QCOW2_EXT_BACKING_FORMAT);
	mem_set_be32(&f.be, 116 + 100000, 3);
	fx_open(&f);
	ok(f.img->hdr.backing_format.len == 3, "a long header is read to its end");
	fx_destroy(&f);
}

/* ---------------------------------------------------------------- */

static void test_autoclear(void)
{
	struct fixture f;
	struct snapshot s;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.size = 1 << 20, .autoclear = 0x8000000000000002,
		.compatible = 0xf0 });
	must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
	/* a longer header, extensions, anything: all of it stays */
	mem_set_be32(&f.be, 100, 120);
	mem_set_be64(&f.be, 112, 0x1122334455667788);
	mem_set_be32(&f.be, 120, 0x5555);
	mem_set_be32(&f.be, 124, 200);
	memset(f.be.data + 128, 0xa7, 200);
	memset(f.be.data + 336, 0xb8, f.cs - 336);
	mem_set_be64(&f.be, 328, 0);
	s = take(&f.be);
	mem_log_start(&f.be);
	fx_open(&f);
	must(fx_read(&f, 0, 512));
	is_int(f.be.nr_log, 0, "a read clears nothing");
	must(fx_write(&f, 0, 512, 1));
	ok(f.be.log[0].kind == MEM_WRITE && !f.be.log[0].offset &&
	   f.be.log[0].len == 512 && f.be.log[1].kind == MEM_FLUSH,
	   "autoclear bits are cleared durably before the first write");
	must(fx_write(&f, 65536, 512, 1));
	must(fx_close(&f));
	is_int(mem_be64(&f.be, 88), 0, "no bit is left");
	memset(f.be.data + 88, 0, 8);
	memset(s.data + 88, 0, 8);
	ok(!memcmp(f.be.data, s.data, f.cs), "all other bytes of the header stay");
	free(s.data);
	fx_destroy(&f);
}

static void test_no_autoclear(void)
{
	u32 version;

	for (version = 2; version <= 3; version++) {
		struct fixture f;
		struct snapshot s;

		fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
			.version = version, .size = 1 << 20 });
		if (version == 2) /* past the end marker at 72 */
			memset(f.be.data + 80, 0xff, 32);
		s = take(&f.be);
		fx_open(&f);
		must(fx_write(&f, 0, 1 << 20, 1));
		must(fx_close(&f));
		ok(!memcmp(f.be.data, s.data, f.cs),
		   "version %u: no bits to clear, the header is not touched",
		   version);
		free(s.data);
		fx_destroy(&f);
	}
}

static void test_autoclear_error(void)
{
	struct fixture f;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.size = 1 << 20, .autoclear = 4 });
	fx_open(&f);
	mem_fail(&f.be, MEM_WRITE, 1, -EIO);
	is_int(fx_write(&f, 0, 512, 1), -EIO, "autoclear bits cannot be cleared");
	ok(qcow2_mode(f.img) == QCOW2_READ_ONLY &&
	   mem_has_msg(&f.be, "header or a bitmap could not be written"),
	   "then nothing is written");
	is_int(fx_write(&f, 0, 512, 1), -EROFS, "nor later");
	fx_destroy(&f);
}

/* What activation reads may fail, and be there the next time. */
static void test_activation_retry(void)
{
	u32 nth;

	for (nth = 1; nth < 12; nth++) {
		struct fixture f;
		int ret;

		fx_make(&f, 9, 4 << 20);
		must(mk_map(&f.be, 0, QCOW2_DATA, 1, NULL));
		must(mk_map(&f.be, 2 << 20, QCOW2_DATA, 1, NULL));
		fx_open(&f);
		f.be.fault[MEM_READ] = (struct mem_fault){
			f.be.seen[MEM_READ] + nth, 1, -EIO };
		ret = qcow2_activate(f.img);
		ok(!ret || ret == -EIO, "activation, read %u fails", nth);
		mem_fail_nothing(&f.be);
		is_int(qcow2_activate(f.img), 0, "activation, again");
		ok(!fx_corrupt_bit(&f) && !fx_write(&f, 0, 1 << 20, 1) &&
		   fx_reads(&f, 0, 1 << 20, 1), "and a write");
		fx_destroy(&f);
	}
}

/* ---------------------------------------------------------------- */

static void test_corrupt_bit(void)
{
	u64 changes;
	struct fixture f;
	struct snapshot s;

	fx_make(&f, 16, 1 << 20);
	must(mk_set_l2(&f.be, 0, 1ull << 63 | 0x40));
	must(mk_map(&f.be, 65536, QCOW2_ZERO, 0, NULL));
	memset(f.be.data + 104, 0, 400);
	mem_set_be32(&f.be, 104, 0);
	memset(f.be.data + 112, 0xcc, 1000);
	s = take(&f.be);
	mem_log_start(&f.be);
	fx_open(&f);
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "an entry with a reserved bit");
	ok(mem_has_msg(&f.be, "L2 table 0 (at 0x") &&
	   mem_has_msg(&f.be, "entry 0 is 0x8000000000000040"),
	   "the message names the place and the value");
	ok(fx_corrupt_bit(&f) && f.be.log[0].kind == MEM_WRITE &&
	   f.be.log[1].kind == MEM_FLUSH && f.be.nr_log == 2,
	   "the corrupt bit is set durably");
	changes = f.be.mode_changes;
	ok(qcow2_mode(f.img) == QCOW2_READ_ONLY && changes == 1,
	   "and the mode is read-only");
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "it is found again");
	ok(f.be.nr_log == 2 && f.be.mode_changes == changes,
	   "but said once to the disk");
	ok(fx_reads(&f, 65536, 512, 0), "the rest can be read");
	is_int(fx_write(&f, 65536, 512, 1), -EROFS, "but not written");
	is_int(fx_close(&f), 0, "close");
	mem_set_be64(&f.be, 72, 0);
	ok(same(&f.be, &s), "nothing else was written");
	fx_destroy(&f);
}

static void test_corrupt_v2(void)
{
	struct fixture f;
	struct snapshot s;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){ .version = 2,
		   .size = 1 << 20 });
	must(mk_set_l2(&f.be, 0, 1));
	s = take(&f.be);
	fx_open(&f);
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "the zero flag in version 2");
	is_int(qcow2_mode(f.img), QCOW2_READ_ONLY, "the mode is read-only");
	is_int(fx_close(&f), 0, "close");
	ok(same(&f.be, &s), "version 2 has no bit to set");
	fx_destroy(&f);
}

static void test_corrupt_bit_error(void)
{
	struct fixture f;

	fx_make(&f, 16, 1 << 20);
	must(mk_set_l2(&f.be, 0, 0x40));
	fx_open(&f);
	mem_fail(&f.be, MEM_FLUSH, 1, -EIO);
	is_int(fx_read(&f, 0, 512), -EUCLEAN, "a bad entry");
	ok(qcow2_mode(f.img) == QCOW2_FAILED &&
	   mem_has_msg(&f.be, "corrupt bit could not be written"),
	   "whose bit could not be written");
	fx_destroy(&f);
}

static void test_modes(void)
{
	struct fixture f;
	u64 changes;

	fx_make(&f, 16, 1 << 20);
	fx_open(&f);
	qcow2_space_found(f.img);
	ok(!f.be.mode_changes, "space found where none was missing");
	qcow2_lower_mode(f.img, QCOW2_NO_SPACE, "%s", "first");
	ok(!strcmp(mem_last_msg(&f.be), "first; now no_space"), "no space");
	qcow2_space_found(f.img);
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "and back");
	qcow2_lower_mode(f.img, QCOW2_READ_ONLY, "%0400d", 1);
	ok(strstr(mem_last_msg(&f.be), "; now ro"),
	   "a long message is cut, the mode is not");
	changes = f.be.mode_changes;
	qcow2_lower_mode(f.img, QCOW2_NO_SPACE, "up");
	qcow2_space_found(f.img);
	ok(qcow2_mode(f.img) == QCOW2_READ_ONLY && f.be.mode_changes == changes,
	   "no way up from read-only");
	qcow2_lower_mode(f.img, QCOW2_FAILED, "end");
	ok(!strcmp(mem_last_msg(&f.be), "end; now failed"), "failed");
	ok(!strcmp(qcow2_mode_name(QCOW2_READ_WRITE), "rw"), "rw");
	fx_destroy(&f);
}

static u64 bad_from, bad_to;

static int fail_range(struct membackend *be, enum mem_kind kind, u64 offset,
		      u64 len)
{
	return kind == MEM_READ && offset + len > bad_from && offset < bad_to ?
		-EIO : 0;
}

/* An L1 table of 2 MiB, of which the second half cannot be read for a while. */
static void test_large_l1(void)
{
	struct fixture f;
	u64 far = 6ull << 30;

	fx_make(&f, 9, 8ull << 30);
	bad_from = fx_l1_place(&f, 0) + (1 << 20);
	bad_to = bad_from + (1 << 20);
	f.be.hook = fail_range;
	fx_open(&f);
	is_int(fx_read(&f, 0, 512), 0, "the first part of a large L1 table");
	is_int(fx_read(&f, far, 512), -EIO, "the second cannot be read");
	is_int(fx_write(&f, 0, 512, 1), -EIO, "nor can the image be activated");
	is_int(qcow2_mode(f.img), QCOW2_READ_WRITE, "the mode stays");
	f.be.hook = NULL;
	is_int(fx_write(&f, far, 512, 1), 0, "later it can");
	ok(fx_reads(&f, far, 512, 1) && fx_reads(&f, 0, 512, 0), "all of it");
	fx_destroy(&f);
}

int main(void)
{
	test_nothing_written();
	test_open_reads();
	test_forced_read_only();
	test_asked_read_only();
	test_refused();
	test_open_errors();
	test_long_header();
	test_autoclear();
	test_no_autoclear();
	test_autoclear_error();
	test_activation_retry();
	test_large_l1();
	test_corrupt_bit();
	test_corrupt_v2();
	test_corrupt_bit_error();
	test_modes();
	return tap_end();
}
