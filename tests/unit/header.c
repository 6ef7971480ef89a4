// SPDX-License-Identifier: GPL-2.0
/*
 * The header and its extensions: every field at its limit and just past it,
 * and the error that says which.
 */
#include "format.h"
#include "geometry.h"
#include "tap.h"

/* Where the fields are. */
enum {
	MAGIC = 0,
	VERSION = 4,
	BACKING_OFFSET = 8,
	BACKING_SIZE = 16,
	CLUSTER_BITS = 20,
	SIZE = 24,
	CRYPT = 32,
	L1_SIZE = 36,
	L1_OFFSET = 40,
	RT_OFFSET = 48,
	RT_CLUSTERS = 56,
	NB_SNAPSHOTS = 60,
	SNAPSHOTS = 64,
	INCOMPAT = 72,
	COMPAT = 80,
	AUTOCLEAR = 88,
	ORDER = 96,
	LENGTH = 100,
	COMPRESSION = 104,
	EXT = 112,		/* the first extension of the image made here */
};

#define FILE_SIZE (64ull << 20)
#define MAX_CLUSTER (2u << 20)

/* The beginning of an image file. */
struct image {
	u8 *buf;
	size_t len;
	u64 file_size;
	u32 ext;		/* where the next extension goes */
	struct qcow2_header h;
	struct qcow2_error err;
	size_t need;
};

static u64 width_of(u32 at)
{
	switch (at) {
	case BACKING_OFFSET:
	case SIZE:
	case L1_OFFSET:
	case RT_OFFSET:
	case SNAPSHOTS:
	case INCOMPAT:
	case COMPAT:
	case AUTOCLEAR:
		return 8;
	default:
		return at >= COMPRESSION && at < EXT ? 1 : 4;
	}
}

static void store(u8 *p, u32 width, u64 value)
{
	while (width--) {
		p[width] = value;
		value >>= 8;
	}
}

static void put(struct image *m, u32 at, u64 value)
{
	store(m->buf + at, width_of(at), value);
}

static void make_image(struct image *m, u32 version)
{
	memset(m, 0, sizeof(*m));
	m->len = QCOW2_HEADER_READ;
	m->buf = calloc(1, m->len);
	m->file_size = FILE_SIZE;
	put(m, MAGIC, 0x514649fb);
	put(m, VERSION, version);
	put(m, CLUSTER_BITS, 16);
	put(m, SIZE, 1ull << 30);
	put(m, L1_SIZE, 2);
	put(m, L1_OFFSET, 0x400000);
	put(m, RT_OFFSET, 0x800000);
	put(m, RT_CLUSTERS, 1);
	m->ext = 72;
	if (version > 2) {
		put(m, ORDER, 4);
		put(m, LENGTH, EXT);
		m->ext = EXT;
	}
}

/* Only as much as the parser may read: what is past it is not there. */
static int parse_len(struct image *m, size_t len)
{
	u8 *exact = malloc(len ?: 1);
	int ret;

	memcpy(exact, m->buf, len);
	memset(&m->err, 0, sizeof(m->err));
	m->need = 0;
	ret = qcow2_header_parse(exact, len, m->file_size, &m->h, &m->need,
				 &m->err);
	free(exact);
	return ret;
}

static int parse(struct image *m)
{
	return parse_len(m, m->len);
}

static void drop(struct image *m)
{
	free(m->buf);
}

static void grow(struct image *m, size_t len)
{
	m->buf = realloc(m->buf, len);
	memset(m->buf + m->len, 0, len - m->len);
	m->len = len;
}

/* The extension's header says @len; @n bytes are there. */
static void add_ext_cut(struct image *m, u32 type, u32 len, const void *data,
			u32 n)
{
	store(m->buf + m->ext, 4, type);
	store(m->buf + m->ext + 4, 4, len);
	if (n)
		memcpy(m->buf + m->ext + 8, data, n);
	m->ext += 8 + round_up(n, 8u);
}

static void add_ext(struct image *m, u32 type, const void *data, u32 len)
{
	add_ext_cut(m, type, len, data, len);
}

/* The result and, of a failure, a word of the message. */
static void expect(struct image *m, int ret, const char *word, const char *name)
{
	int got = parse(m);

	if (!ok(got == ret && (!word || strstr(m->err.msg, word)), "%s", name))
		diag("%d instead of %d: %s", got, ret, m->err.msg);
	if (got && strchr(m->err.msg, '\n'))
		ok(false, "%s: the message is one line", name);
}

/* ---------------------------------------------------------------- */

struct field_case {
	const char *name;
	int ret;
	const char *word;
	struct {
		u32 at;
		u64 value;
	} put[5];
	u64 file_size;
};

static const struct field_case cases[] = {
	{ "a plain image", 0, NULL, {} },
	{ "version 0", -EOPNOTSUPP, "version 0", { { VERSION, 0 } } },
	{ "version 1", -EOPNOTSUPP, "version 1", { { VERSION, 1 } } },
	{ "version 4", -EOPNOTSUPP, "version 4", { { VERSION, 4 } } },
	{ "cluster_bits 8", -EUCLEAN, "cluster_bits 8", { { CLUSTER_BITS, 8 } } },
	{ "cluster_bits 22", -EUCLEAN, "cluster_bits 22",
	  { { CLUSTER_BITS, 22 } } },
	{ "cluster_bits of all ones", -EUCLEAN, "cluster_bits",
	  { { CLUSTER_BITS, U32_MAX } } },

	{ "size 0 without an L1 table", 0, NULL,
	  { { SIZE, 0 }, { L1_SIZE, 0 }, { L1_OFFSET, 0 } } },
	{ "L1 table of no entries at a crooked place", -EUCLEAN, "L1 table",
	  { { SIZE, 0 }, { L1_SIZE, 0 }, { L1_OFFSET, 512 } } },
	{ "size one more than the L1 table covers", -EUCLEAN, "too small",
	  { { SIZE, (1ull << 30) + 1 } } },
	{ "size as large as the L1 table covers", 0, NULL,
	  { { SIZE, 1ull << 30 } } },
	{ "size in the last L1 entry", 0, NULL, { { SIZE, (1ull << 29) + 1 } } },
	{ "L1 table larger than needed", 0, NULL, { { L1_SIZE, 100 } } },
	{ "size above S64_MAX", -EUCLEAN, "virtual size",
	  { { SIZE, 1ull << 63 }, { L1_SIZE, 4194304 } } },
	{ "size of all ones", -EUCLEAN, "virtual size", { { SIZE, U64_MAX } } },
	{ "largest disk with 2 MiB clusters", 0, NULL,
	  { { CLUSTER_BITS, 21 }, { SIZE, 1ull << 61 }, { L1_SIZE, 4194304 } } },
	{ "one byte more than that", -EUCLEAN, "too small",
	  { { CLUSTER_BITS, 21 }, { SIZE, (1ull << 61) + 1 },
	    { L1_SIZE, 4194304 } } },
	{ "L1 table of 32 MiB", 0, NULL, { { L1_SIZE, 4194304 } } },
	{ "L1 table of 32 MiB and an entry", -EUCLEAN, "at most 4194304",
	  { { L1_SIZE, 4194305 } } },
	{ "L1 table of all ones", -EUCLEAN, "at most 4194304",
	  { { L1_SIZE, U32_MAX } } },

	{ "L1 table inside a cluster", -EUCLEAN, "multiple of the cluster",
	  { { L1_OFFSET, 0x400200 } } },
	{ "L1 table in the header's place", -EUCLEAN, "L1 table offset is 0",
	  { { L1_OFFSET, 0 } } },
	{ "L1 table past S64_MAX", -EUCLEAN, "largest file",
	  { { L1_OFFSET, 1ull << 63 } } },
	{ "L1 table that ends past S64_MAX", -EUCLEAN, "L1 table",
	  { { L1_OFFSET, 0x7fffffffffff0000 }, { L1_SIZE, 8193 } } },
	{ "L1 table that wraps", -EUCLEAN, "largest file",
	  { { L1_OFFSET, 0xffffffffffff0000 }, { L1_SIZE, 8193 } } },
	{ "L1 table at the end of the file", -EUCLEAN, "truncated",
	  { { L1_OFFSET, FILE_SIZE } } },
	{ "L1 table in the last cluster", 0, NULL,
	  { { L1_OFFSET, FILE_SIZE - 65536 } } },
	{ "L1 table that fills the last cluster", 0, NULL,
	  { { L1_OFFSET, FILE_SIZE - 65536 }, { L1_SIZE, 8192 } } },
	{ "L1 table one entry past the last cluster", -EUCLEAN, "beyond the end",
	  { { L1_OFFSET, FILE_SIZE - 65536 }, { L1_SIZE, 8193 } } },
	{ "L1 table in a last cluster that is cut short", 0, NULL,
	  { { L1_OFFSET, FILE_SIZE - 65536 }, { L1_SIZE, 8192 } },
	  FILE_SIZE - 65536 + 512 },
	{ "L1 table past a last cluster that is cut short", -EUCLEAN,
	  "beyond the end",
	  { { L1_OFFSET, FILE_SIZE - 65536 }, { L1_SIZE, 8193 } },
	  FILE_SIZE - 65536 + 512 },

	{ "refcount table of no clusters", -EUCLEAN, "refcount table of 0",
	  { { RT_CLUSTERS, 0 } } },
	{ "refcount table of 8 MiB", 0, NULL, { { RT_CLUSTERS, 128 } } },
	{ "refcount table of 8 MiB and a cluster", -EUCLEAN, "must be 1 to 128",
	  { { RT_CLUSTERS, 129 } } },
	{ "refcount table of all ones", -EUCLEAN, "must be 1 to 128",
	  { { RT_CLUSTERS, U32_MAX } } },
	{ "refcount table of 4 2-MiB clusters", 0, NULL,
	  { { CLUSTER_BITS, 21 }, { RT_CLUSTERS, 4 } } },
	{ "refcount table of 5 2-MiB clusters", -EUCLEAN, "must be 1 to 4",
	  { { CLUSTER_BITS, 21 }, { RT_CLUSTERS, 5 } } },
	{ "refcount table inside a cluster", -EUCLEAN, "refcount table offset",
	  { { RT_OFFSET, 0x800001 } } },
	{ "refcount table in the header's place", -EUCLEAN,
	  "refcount table offset is 0", { { RT_OFFSET, 0 } } },
	{ "refcount table past S64_MAX", -EUCLEAN, "refcount table",
	  { { RT_OFFSET, 1ull << 63 } } },
	{ "refcount table at the end of the file", -EUCLEAN, "truncated",
	  { { RT_OFFSET, FILE_SIZE } } },
	{ "refcount table in the last cluster", 0, NULL,
	  { { RT_OFFSET, FILE_SIZE - 65536 } } },
	{ "refcount table past the last cluster", -EUCLEAN, "beyond the end",
	  { { RT_OFFSET, FILE_SIZE - 65536 }, { RT_CLUSTERS, 2 } } },
	{ "refcount table in a last cluster that is cut short", 0, NULL,
	  { { RT_OFFSET, FILE_SIZE - 65536 } }, FILE_SIZE - 65535 },

	{ "65536 snapshots", 0, NULL,
	  { { NB_SNAPSHOTS, 65536 }, { SNAPSHOTS, 0x10000 } } },
	{ "65537 snapshots", -EUCLEAN, "at most 65536",
	  { { NB_SNAPSHOTS, 65537 }, { SNAPSHOTS, 0x10000 } } },
	{ "snapshot table inside a cluster", -EUCLEAN, "snapshot table",
	  { { NB_SNAPSHOTS, 1 }, { SNAPSHOTS, 0x10008 } } },
	{ "snapshot table in the header's place", -EUCLEAN, "snapshot table",
	  { { NB_SNAPSHOTS, 1 } } },
	{ "snapshot table past the end", -EUCLEAN, "snapshot table",
	  { { NB_SNAPSHOTS, 1 }, { SNAPSHOTS, FILE_SIZE } } },
	{ "snapshot table too long for the file", -EUCLEAN, "snapshot table",
	  { { NB_SNAPSHOTS, 1639 }, { SNAPSHOTS, FILE_SIZE - 65536 } } },

	{ "encryption method AES", 0, NULL, { { CRYPT, 1 } } },
	{ "LUKS without its extension", -EUCLEAN, "LUKS", { { CRYPT, 2 } } },
	{ "encryption method 3", -EOPNOTSUPP, "encryption method 3",
	  { { CRYPT, 3 } } },

	{ "backing name at the end of the cluster", 0, NULL,
	  { { BACKING_OFFSET, 65536 } } },
	{ "backing name past the cluster", -EUCLEAN, "backing file name",
	  { { BACKING_OFFSET, 65537 } } },
	{ "backing name far past the cluster", -EUCLEAN, "backing file name",
	  { { BACKING_OFFSET, 1ull << 32 } } },
	{ "backing name of 1023 bytes", 0, NULL,
	  { { BACKING_OFFSET, 512 }, { BACKING_SIZE, 1023 } } },
	{ "backing name of 1024 bytes", -EUCLEAN, "longer than 1023",
	  { { BACKING_OFFSET, 512 }, { BACKING_SIZE, 1024 } } },
	{ "backing name to the end of the cluster", 0, NULL,
	  { { BACKING_OFFSET, 65036 }, { BACKING_SIZE, 500 } } },
	{ "backing name over the end of the cluster", -EUCLEAN,
	  "backing file name",
	  { { BACKING_OFFSET, 65036 }, { BACKING_SIZE, 501 } } },
	{ "backing name over the end of a small cluster", -EUCLEAN,
	  "backing file name",
	  { { CLUSTER_BITS, 9 }, { SIZE, 0 }, { BACKING_OFFSET, 512 },
	    { BACKING_SIZE, 1 } } },
	{ "length of no backing name", 0, NULL, { { BACKING_SIZE, U32_MAX } } },

	{ "all compatible bits", 0, NULL, { { COMPAT, U64_MAX } } },
	{ "all autoclear bits", 0, NULL, { { AUTOCLEAR, U64_MAX } } },
	{ "dirty", 0, NULL, { { INCOMPAT, 1 } } },
	{ "corrupt", 0, NULL, { { INCOMPAT, 2 } } },
	{ "external data file", 0, NULL, { { INCOMPAT, 4 } } },
	{ "extended L2", 0, NULL, { { INCOMPAT, 16 }, { L1_SIZE, 4 } } },
	{ "extended L2, whose tables cover half as much", -EUCLEAN, "too small",
	  { { INCOMPAT, 16 } } },
	{ "extended L2, clusters of 16 KiB", 0, NULL,
	  { { INCOMPAT, 16 }, { CLUSTER_BITS, 14 }, { SIZE, 0 } } },
	{ "extended L2, clusters of 8 KiB", -EUCLEAN, "at least 14, not 13",
	  { { INCOMPAT, 16 }, { CLUSTER_BITS, 13 }, { SIZE, 0 } } },
	{ "zstd", 0, NULL, { { INCOMPAT, 8 }, { COMPRESSION, 1 } } },
	{ "zstd without its bit", -EUCLEAN, "contradict",
	  { { COMPRESSION, 1 } } },
	{ "the bit without a type", -EUCLEAN, "contradict", { { INCOMPAT, 8 } } },
	{ "compression type 2", -EOPNOTSUPP, "compression type 2",
	  { { INCOMPAT, 8 }, { COMPRESSION, 2 } } },
	{ "a type past a short header is none", 0, NULL,
	  { { LENGTH, 104 }, { COMPRESSION, 0 } } },
	{ "the compression bit with a short header", -EUCLEAN, "contradict",
	  { { LENGTH, 104 }, { INCOMPAT, 8 } } },

	{ "refcount_order 0", 0, NULL, { { ORDER, 0 } } },
	{ "refcount_order 6", 0, NULL, { { ORDER, 6 } } },
	{ "refcount_order 7", -EUCLEAN, "refcount_order 7", { { ORDER, 7 } } },
	{ "refcount_order of all ones", -EUCLEAN, "refcount_order",
	  { { ORDER, U32_MAX } } },
	{ "header_length 96", -EUCLEAN, "header_length 96", { { LENGTH, 96 } } },
	{ "header_length 0", -EUCLEAN, "header_length 0", { { LENGTH, 0 } } },
	{ "header_length 104", 0, NULL, { { LENGTH, 104 } } },
	{ "header_length 108", -EUCLEAN, "multiple of 8", { { LENGTH, 108 } } },
	{ "header_length 113", -EUCLEAN, "multiple of 8", { { LENGTH, 113 } } },
	{ "header_length 120", 0, NULL, { { LENGTH, 120 } } },
	{ "header_length of a cluster", 0, NULL, { { LENGTH, 65536 } } },
	{ "header_length past the cluster", -EUCLEAN, "cluster size 65536",
	  { { LENGTH, 65544 } } },
};

static void test_fields(void)
{
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct field_case *c = &cases[i];
		struct image m;

		make_image(&m, 3);
		if (c->file_size)
			m.file_size = c->file_size;
		for (j = 0; j < ARRAY_SIZE(c->put); j++)
			if (c->put[j].at)
				put(&m, c->put[j].at, c->put[j].value);
		expect(&m, c->ret, c->word, c->name);
		drop(&m);
	}
}

/* ---------------------------------------------------------------- */

static void test_magic(void)
{
	struct image m;
	u32 i;

	for (i = 0; i < 4; i++) {
		make_image(&m, 3);
		m.buf[i] ^= 1;
		expect(&m, -EINVAL, "not a qcow2 image", "a byte of the magic is wrong");
		drop(&m);
	}
	make_image(&m, 3);
	memset(m.buf, 0, m.len);
	expect(&m, -EINVAL, "not a qcow2 image", "zeros");
	for (i = 0; i < 4; i++)
		ok(parse_len(&m, i) == -EINVAL, "a file of %u bytes", i);
	drop(&m);
}

/* A file may end anywhere in its header. */
static void test_short_files(void)
{
	u32 version, len;
	int bad = 0;

	for (version = 2; version <= 3; version++) {
		u32 full = version == 2 ? 72 : EXT;
		struct image m;

		make_image(&m, version);
		for (len = 4; len < full; len++) {
			m.file_size = len;
			bad += parse_len(&m, len) != -EUCLEAN;
		}
		ok(!bad, "version %u: files that end inside the header", version);
		m.file_size = full;
		ok(parse_len(&m, full) == -EUCLEAN &&
		   strstr(m.err.msg, "truncated"),
		   "version %u: a file that is only a header", version);
		drop(&m);
	}
}

static void test_cluster_sizes(void)
{
	struct image m;
	u32 bits;

	for (bits = 9; bits <= 21; bits++) {
		make_image(&m, 3);
		put(&m, CLUSTER_BITS, bits);
		put(&m, L1_SIZE, 1u << 15);
		expect(&m, 0, NULL, "a cluster size");
		ok(m.h.cluster_bits == bits, "it is of %u bits", bits);
		drop(&m);
	}
}

static void test_decoded_fields(void)
{
	struct image m;

	make_image(&m, 3);
	put(&m, NB_SNAPSHOTS, 3);
	put(&m, SNAPSHOTS, 0x30000);
	put(&m, INCOMPAT, 0x3);
	put(&m, COMPAT, 0x8000000000000001);
	put(&m, AUTOCLEAR, 0x8000000000000002);
	put(&m, ORDER, 2);
	put(&m, L1_SIZE, 77);
	put(&m, RT_CLUSTERS, 5);
	put(&m, BACKING_OFFSET, 4000);
	put(&m, BACKING_SIZE, 17);
	expect(&m, 0, NULL, "an image with something in every field");
	ok(m.h.version == 3 && m.h.size == 1ull << 30 &&
	   m.h.cluster_bits == 16, "version, size, cluster size");
	ok(m.h.l1_entries == 77 && m.h.l1_offset == 0x400000, "L1 table");
	ok(m.h.reftable_offset == 0x800000 && m.h.reftable_clusters == 5,
	   "refcount table");
	ok(m.h.nb_snapshots == 3 && m.h.snapshots_offset == 0x30000,
	   "snapshots");
	ok(m.h.incompatible == 3 && m.h.compatible == 0x8000000000000001 &&
	   m.h.autoclear == 0x8000000000000002, "features");
	ok(m.h.refcount_order == 2 && m.h.header_length == EXT, "the rest");
	ok(m.h.backing_file.offset == 4000 && m.h.backing_file.len == 17,
	   "backing name");
	drop(&m);
}

/* Bytes 72 to 111 of a version 2 image are extensions, not fields. */
static void test_version_2(void)
{
	struct image m;

	make_image(&m, 2);
	expect(&m, 0, NULL, "a plain image of version 2");
	ok(m.h.version == 2 && m.h.refcount_order == 4 &&
	   m.h.header_length == 72, "its defaults");
	/* an end marker, then what would be features in version 3 */
	store(m.buf + INCOMPAT + 4, 4, 0x10);
	put(&m, COMPAT, U64_MAX);
	put(&m, AUTOCLEAR, U64_MAX);
	put(&m, ORDER, 99);
	put(&m, LENGTH, 1);
	put(&m, COMPRESSION, 9);
	expect(&m, 0, NULL, "version 2: the fields of version 3 are not there");
	ok(!m.h.incompatible && !m.h.compatible && !m.h.autoclear &&
	   m.h.compression == QCOW2_COMPRESSION_ZLIB, "and have no value");
	drop(&m);

	make_image(&m, 2);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
	expect(&m, 0, NULL, "version 2 with an extension");
	ok(m.h.backing_format.offset == 80 && m.h.backing_format.len == 3,
	   "it begins at 72");
	drop(&m);

	make_image(&m, 2);
	m.file_size = 0x800000 + 72;
	expect(&m, 0, NULL, "version 2, the last cluster cut short");
	drop(&m);
}

static void test_reserved_bytes(void)
{
	struct image m;
	u32 i;

	for (i = 105; i < 112; i++) {
		char name[32];

		make_image(&m, 3);
		m.buf[i] = 0x80;
		snprintf(name, sizeof(name), "reserved byte %u", i);
		expect(&m, -EUCLEAN, name, name);
		drop(&m);
	}
	make_image(&m, 3);
	put(&m, LENGTH, 4096);
	memset(m.buf + 112, 0xff, 4096 - 112);
	expect(&m, 0, NULL, "bytes of a longer header that nobody knows");
	drop(&m);
}

/* ---------------------------------------------------------------- */

static void feature(u8 *p, u8 type, u8 bit, const char *name)
{
	p[0] = type;
	p[1] = bit;
	memset(p + 2, 0, 46);
	memcpy(p + 2, name, min_t(size_t, strlen(name), 46));
}

static void test_unknown_features(void)
{
	struct image m;
	u32 bit;

	for (bit = 5; bit < 64; bit++) {
		char word[64];

		make_image(&m, 3);
		put(&m, INCOMPAT, 1ull << bit);
		snprintf(word, sizeof(word), "bit %u (unnamed) is not", bit);
		expect(&m, -EOPNOTSUPP, word, "an unknown incompatible feature");
		drop(&m);
	}
	make_image(&m, 3);
	put(&m, INCOMPAT, 0xf00000000000001f | 1ull << 40);
	ok(parse(&m) == -EOPNOTSUPP, "known and unknown features together");
	drop(&m);
}

static void test_feature_names(void)
{
	char full[47], expected[64];
	u8 table[48 * 5];
	struct image m;

	memset(full, 'n', 46);
	full[46] = 0;
	feature(table, 1, 5, "a compatible one");
	feature(table + 48, 2, 5, "an autoclear one");
	feature(table + 96, 0, 5, "zoned");
	feature(table + 144, 0, 6, full);
	feature(table + 192, 0, 7, "evil\n\x1b[2Jred");

	make_image(&m, 3);
	add_ext(&m, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
	put(&m, INCOMPAT, 1ull << 5);
	expect(&m, -EOPNOTSUPP, "bit 5 (zoned)", "a feature named by the image");
	put(&m, INCOMPAT, 1ull << 6);
	snprintf(expected, sizeof(expected), "bit 6 (%s)", full);
	expect(&m, -EOPNOTSUPP, expected, "a name that fills its place");
	put(&m, INCOMPAT, 1ull << 7);
	expect(&m, -EOPNOTSUPP, "bit 7 (evil)",
	       "unprintable bytes of a name are not passed on");
	put(&m, INCOMPAT, 1ull << 8);
	expect(&m, -EOPNOTSUPP, "bit 8 (unnamed)", "a feature without a name");
	put(&m, INCOMPAT, 0);
	expect(&m, 0, NULL, "names of features that are not used");
	drop(&m);

	make_image(&m, 3);
	add_ext(&m, QCOW2_EXT_FEATURE_NAMES, table + 96, 47);
	put(&m, INCOMPAT, 1ull << 5);
	expect(&m, -EOPNOTSUPP, "bit 5 (unnamed)", "half an entry is none");
	drop(&m);

	make_image(&m, 3);
	feature(table, 0, 9, "\xc3\xa4");
	add_ext(&m, QCOW2_EXT_FEATURE_NAMES, table, 48);
	put(&m, INCOMPAT, 1ull << 9);
	expect(&m, -EOPNOTSUPP, "bit 9 ()", "a name with nothing printable");
	drop(&m);
}

/* ---------------------------------------------------------------- */

static void test_backing_format(void)
{
	struct image m;

	make_image(&m, 3);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "fifteen-letters", 15);
	expect(&m, 0, NULL, "backing format of 15 bytes");
	ok(m.h.backing_format.offset == EXT + 8 && m.h.backing_format.len == 15,
	   "and its place");
	drop(&m);
	make_image(&m, 3);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "sixteen--letters", 16);
	expect(&m, -EUCLEAN, "at most 15", "backing format of 16 bytes");
	drop(&m);
	make_image(&m, 3);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "", 0);
	expect(&m, 0, NULL, "backing format of 0 bytes");
	drop(&m);
}

static void test_data_file_name(void)
{
	struct image m;

	make_image(&m, 3);
	put(&m, INCOMPAT, 4);
	add_ext(&m, QCOW2_EXT_DATA_FILE, "/tmp/data", 9);
	expect(&m, 0, NULL, "data file name");
	ok(m.h.data_file.offset == EXT + 8 && m.h.data_file.len == 9,
	   "and its place");
	drop(&m);
}

struct ext24 {
	const char *name;
	int ret;
	const char *word;
	u32 nb, reserved;
	u64 size, offset;
	u32 len;
};

static const struct ext24 bitmap_cases[] = {
	{ "one bitmap", 0, NULL, 1, 0, 64, 0x20000, 24 },
	{ "65535 bitmaps", 0, NULL, 65535, 0, 64, 0x20000, 24 },
	{ "65536 bitmaps", -EUCLEAN, "1 to 65535", 65536, 0, 64, 0x20000, 24 },
	{ "0 bitmaps", -EUCLEAN, "1 to 65535", 0, 0, 64, 0x20000, 24 },
	{ "bitmaps: reserved field", -EUCLEAN, "reserved", 1, 1, 64, 0x20000,
	  24 },
	{ "bitmaps: largest directory", 0, NULL, 1, 0, 65535 * 1024, 0, 24 },
	{ "bitmaps: directory too large", -EUCLEAN, "at most 67107840", 1, 0,
	  65535 * 1024 + 1, 0, 24 },
	{ "bitmaps: directory inside a cluster", -EUCLEAN, "bitmap directory",
	  1, 0, 64, 0x20008, 24 },
	{ "bitmaps: directory past the end", -EUCLEAN, "bitmap directory",
	  1, 0, 64, FILE_SIZE, 24 },
	{ "bitmaps: directory in the header's place", -EUCLEAN,
	  "bitmap directory offset is 0", 1, 0, 64, 0, 24 },
	{ "bitmaps: extension too short", -EUCLEAN, "length 23", 1, 0, 64,
	  0x20000, 23 },
	{ "bitmaps: extension too long", -EUCLEAN, "length 32", 1, 0, 64,
	  0x20000, 32 },
};

static void test_bitmaps(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bitmap_cases); i++) {
		const struct ext24 *c = &bitmap_cases[i];
		u8 data[32] = { 0 };
		struct image m;

		make_image(&m, 3);
		put(&m, AUTOCLEAR, 1);
		store(data, 4, c->nb);
		store(data + 4, 4, c->reserved);
		store(data + 8, 8, c->size);
		store(data + 16, 8, c->offset);
		if (c->size > 64 && !c->offset) {
			store(data + 16, 8, 0x10000);
			m.file_size = 2 * FILE_SIZE;
		}
		add_ext(&m, QCOW2_EXT_BITMAPS, data, c->len);
		expect(&m, c->ret, c->word, c->name);
		if (!c->ret)
			ok(m.h.nb_bitmaps == c->nb &&
			   m.h.bitmap_dir_size == c->size, "and its fields");
		drop(&m);
	}
}

static void test_stale_bitmaps(void)
{
	u8 data[24];
	struct image m;

	make_image(&m, 3);
	memset(data, 0xff, sizeof(data));
	add_ext(&m, QCOW2_EXT_BITMAPS, data, sizeof(data));
	expect(&m, 0, NULL, "bitmaps without their autoclear bit are ignored");
	ok(!m.h.nb_bitmaps && !m.h.bitmap_dir_size && !m.h.bitmap_dir_offset,
	   "and not there");
	drop(&m);
}

static const struct ext24 crypto_cases[] = {
	{ "LUKS header", 0, NULL, 2, 0, 0x1000, 0x10000, 16 },
	{ "LUKS header: extension too short", -EUCLEAN, "length 15", 2, 0,
	  0x1000, 0x10000, 15 },
	{ "LUKS header: extension too long", -EUCLEAN, "length 17", 2, 0,
	  0x1000, 0x10000, 17 },
	{ "LUKS header: method none", -EUCLEAN, "crypt_method is 0", 0, 0,
	  0x1000, 0x10000, 16 },
	{ "LUKS header: method AES", -EUCLEAN, "crypt_method is 1", 1, 0,
	  0x1000, 0x10000, 16 },
	{ "LUKS header of 0 bytes", -EUCLEAN, "LUKS", 2, 0, 0, 0x10000, 16 },
	{ "LUKS header inside a cluster", -EUCLEAN, "LUKS header", 2, 0,
	  0x1000, 0x10200, 16 },
	{ "LUKS header in the header's place", -EUCLEAN, "LUKS header", 2, 0,
	  0x1000, 0, 16 },
	{ "LUKS header past the end", -EUCLEAN, "LUKS header", 2, 0,
	  0x1000, FILE_SIZE, 16 },
	{ "LUKS header that ends past the end", -EUCLEAN, "LUKS header", 2, 0,
	  FILE_SIZE, 0x10000, 16 },
	{ "LUKS header that wraps", -EUCLEAN, "LUKS header", 2, 0,
	  U64_MAX, 0x10000, 16 },
};

static void test_crypto(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(crypto_cases); i++) {
		const struct ext24 *c = &crypto_cases[i];
		u8 data[24] = { 0 };
		struct image m;

		make_image(&m, 3);
		put(&m, CRYPT, c->nb);
		store(data, 8, c->offset);
		store(data + 8, 8, c->size);
		add_ext(&m, QCOW2_EXT_CRYPTO, data, c->len);
		expect(&m, c->ret, c->word, c->name);
		if (!c->ret)
			ok(m.h.crypto_offset == c->offset &&
			   m.h.crypto_length == c->size, "and its fields");
		drop(&m);
	}
}

/* ---------------------------------------------------------------- */

static void test_extension_walk(void)
{
	struct image m;

	make_image(&m, 3);
	add_ext(&m, 0x12345678, "unknown", 5);
	add_ext(&m, 0x007a6264, "", 0);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
	add_ext(&m, QCOW2_EXT_END, "", 0);
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "sixteen--letters", 16);
	expect(&m, 0, NULL, "unknown extensions are ignored");
	ok(m.h.backing_format.offset == EXT + 16 + 8 + 8 &&
	   m.h.backing_format.len == 3,
	   "what follows them is found, padded to 8 bytes, up to the end marker");
	drop(&m);

	make_image(&m, 3);
	add_ext_cut(&m, QCOW2_EXT_END, 0xffffffff, "", 0);
	expect(&m, 0, NULL, "the length of the end marker does not matter");
	drop(&m);

	make_image(&m, 3);
	put(&m, LENGTH, 65536);
	expect(&m, 0, NULL, "a header that leaves no room for extensions");
	drop(&m);
}

static void test_extension_ends(void)
{
	struct image m;

	make_image(&m, 3);
	add_ext_cut(&m, 0x1234, 65536 - EXT - 8, "", 0);
	expect(&m, 0, NULL, "an extension to the end of the cluster");
	store(m.buf + EXT + 4, 4, 65536 - EXT - 7);
	expect(&m, -EUCLEAN, "extension 0x1234 at 112", "one byte past it");
	store(m.buf + EXT + 4, 4, U32_MAX);
	expect(&m, -EUCLEAN, "extension 0x1234 at 112", "4 GiB past it");
	drop(&m);

	make_image(&m, 3);
	put(&m, BACKING_OFFSET, EXT + 8 + 16);
	put(&m, BACKING_SIZE, 10);
	memset(m.buf + EXT + 24, 0xff, 10);
	add_ext_cut(&m, 0x1234, 16, "", 0);
	expect(&m, 0, NULL, "an extension up to the backing name");
	store(m.buf + EXT + 4, 4, 17);
	expect(&m, -EUCLEAN, "do not fit before 136", "one byte into it");
	store(m.buf + EXT + 4, 4, 9);
	expect(&m, 0, NULL, "padding up to the backing name");
	drop(&m);

	make_image(&m, 3);
	put(&m, BACKING_OFFSET, EXT + 12);
	put(&m, BACKING_SIZE, 4);
	add_ext(&m, 0x1234, "", 0);
	memset(m.buf + EXT + 12, 0xff, 4);
	expect(&m, 0, NULL, "four zeros before the backing name end it");
	m.buf[EXT + 9] = 1;
	expect(&m, -EUCLEAN, "cut off at 124", "half an extension does not");
	drop(&m);

	make_image(&m, 3);
	put(&m, BACKING_OFFSET, EXT + 11);
	put(&m, BACKING_SIZE, 4);
	add_ext(&m, 0x1234, "", 0);
	memset(m.buf + EXT + 8, 0xff, 7);
	expect(&m, 0, NULL, "less than a type before the backing name is nothing");
	drop(&m);
}

/* The parser asks for what lies past the first read, and no more. */
static void test_more_bytes(void)
{
	struct image m;

	make_image(&m, 3);
	put(&m, CLUSTER_BITS, 21);
	add_ext_cut(&m, 0x1234, 100000, "", 0);
	ok(parse(&m) == -ENODATA && m.need == EXT + 8 + 100000,
	   "an extension past the first read asks for its end");
	grow(&m, round_up(m.need, 512));
	m.ext = EXT + 8 + 100000;
	add_ext(&m, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	ok(parse(&m) == 0 && m.h.backing_format.len == 5,
	   "and is then passed");
	ok(parse_len(&m, EXT + 8 + 100000) == -ENODATA &&
	   m.need == EXT + 8 + 100000 + 8, "the next one asks for its head");
	ok(parse_len(&m, m.need) == -ENODATA &&
	   m.need == EXT + 8 + 100000 + 8 + 5, "and then for its data");
	ok(parse_len(&m, m.need) == -ENODATA, "and then for what follows");
	drop(&m);

	make_image(&m, 3);
	put(&m, CLUSTER_BITS, 21);
	put(&m, BACKING_OFFSET, 1000000);
	put(&m, BACKING_SIZE, 100);
	ok(parse(&m) == -ENODATA && m.need == 1000100,
	   "a backing name past the first read asks for its end");
	grow(&m, 1000100);
	expect(&m, 0, NULL, "and is then found");
	drop(&m);

	make_image(&m, 3);
	put(&m, CLUSTER_BITS, 21);
	put(&m, LENGTH, 70000);
	ok(parse(&m) == -ENODATA && m.need == 70008,
	   "a header longer than the first read asks for what follows it");
	grow(&m, 70008);
	expect(&m, 0, NULL, "which is the end");
	drop(&m);
}

/* Past the end of a file are zeros, but the file may not end in something. */
static void test_file_ends_in_extensions(void)
{
	struct image m;

	make_image(&m, 3);
	put(&m, L1_OFFSET, 0x10000);
	put(&m, RT_OFFSET, 0x20000);
	put(&m, CLUSTER_BITS, 21);
	m.file_size = EXT + 8 + 20;
	m.len = m.file_size;
	add_ext_cut(&m, 0x1234, 21, "", 0);
	expect(&m, -EUCLEAN, "the file ends inside it",
	       "a file that ends inside an extension");
	store(m.buf + EXT + 4, 4, 20);
	expect(&m, -EUCLEAN, "L1 table",
	       "one that ends with an extension is judged by its tables");
	put(&m, BACKING_OFFSET, EXT + 24);
	put(&m, BACKING_SIZE, 5);
	expect(&m, -EUCLEAN, "backing file name",
	       "a file that ends inside the backing name");
	drop(&m);
}

/* Whatever bytes come: an answer, no crash. What passes has passed the limits. */
static void test_noise(void)
{
	u32 seed = 1, round, i, passed = 0, bad = 0;
	struct image m;

	for (round = 0; round < 20000; round++) {
		int ret;

		make_image(&m, 2 + round % 2);
		for (i = 0; i < 1 + round % 4; i++) {
			seed = seed * 1103515245 + 12345;
			m.buf[4 + (seed >> 16) % 150] = seed >> 8;
		}
		ret = parse_len(&m, 4096);
		passed += !ret;
		bad += ret && ret != -EUCLEAN && ret != -EOPNOTSUPP &&
			ret != -ENODATA;
		bad += !ret && (m.h.cluster_bits < 9 || m.h.cluster_bits > 21 ||
				m.h.l1_entries > 4194304 ||
				m.h.refcount_order > 6);
		drop(&m);
	}
	ok(!bad && passed, "20000 headers with noise: %u passed", passed);
}

int main(void)
{
	test_fields();
	test_magic();
	test_short_files();
	test_cluster_sizes();
	test_decoded_fields();
	test_version_2();
	test_reserved_bytes();
	test_unknown_features();
	test_feature_names();
	test_backing_format();
	test_data_file_name();
	test_bitmaps();
	test_stale_bitmaps();
	test_crypto();
	test_extension_walk();
	test_extension_ends();
	test_more_bytes();
	test_file_ends_in_extensions();
	test_noise();
	return tap_end();
}
