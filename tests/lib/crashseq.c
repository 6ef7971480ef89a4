// SPDX-License-Identifier: GPL-2.0
/*
 * Sequences of guest activity for crash tests: see crashseq.h.
 */
#include "crashseq.h"
#include <stdarg.h>
#include "commit.h"
#include "data.h"
#include "map.h"
#include "resize.h"
#include "toycipher.h"
#include "write.h"
#include "zero.h"

#define MAX_SPAN (16ull << 20)	/* larger images take too long to copy */
#define MAX_LEN (96u << 10)

u64 seq_random(u64 *rng)
{
	u64 z = (*rng += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static u64 rnd(struct sequence *s, u64 n)
{
	return seq_random(&s->rng) % n;
}

static bool chance(struct sequence *s, u32 percent)
{
	return rnd(s, 100) < percent;
}

static void __printf(2, 3) fail(struct sequence *s, const char *fmt, ...)
{
	va_list ap;

	if (*s->fail)
		return;
	va_start(ap, fmt);
	vsnprintf(s->fail, sizeof(s->fail), fmt, ap);
	va_end(ap);
}

static void __printf(2, 3) trace(struct sequence *s, const char *fmt, ...)
{
	va_list ap;

	fprintf(s->trace_file, "%s[%llu] ", s->in_hook ? "    " : "",
		(unsigned long long)s->live.nr_log);
	va_start(ap, fmt);
	vfprintf(s->trace_file, fmt, ap);
	va_end(ap);
	fputc('\n', s->trace_file);
}

const char *seq_describe(const struct sequence *s)
{
	static const char * const kinds[] = {
		"plain", "tables", "blocks", "relocate", "dirty",
	};
	static char line[200];

	snprintf(line, sizeof(line),
		 "%s, %s%s%s%s%s, v%u, %u-byte clusters, refcount order %u, %llu bytes, %u steps",
		 kinds[s->kind], s->flavour == MEM_FILE ? "file" : "device",
		 s->chain ? " on a base" : "",
		 s->image.data_file ? " with a data file" : "",
		 s->extended ? ", extended L2" : "",
		 !s->cipher ? "" : s->cipher == &toy_luks ? ", LUKS" : ", AES",
		 s->image.version, 1u << s->image.cluster_bits,
		 s->image.refcount_order, (unsigned long long)s->image.size,
		 s->steps);
	return line;
}

/* ---- the parameters ---- */

static u64 block_span(const struct sequence *s)
{
	return 1ull << (2 * s->image.cluster_bits + 3 - s->image.refcount_order);
}

static u64 table_span(const struct sequence *s)
{
	return block_span(s) << (s->image.cluster_bits - 3);
}

/* Guest bytes of an L2 table. */
static u64 l2_span(const struct sequence *s)
{
	return 1ull << (2 * s->image.cluster_bits - (s->extended ? 4 : 3));
}

static u64 per_l2(const struct sequence *s)
{
	return l2_span(s) >> s->image.cluster_bits;
}

static void choose_geometry(struct sequence *s)
{
	static const u32 bits[] = { 9, 9, 9, 9, 9, 10, 10, 10, 12, 12, 16 };

	s->image.order_given = true;
	do {
		s->image.cluster_bits = bits[rnd(s, ARRAY_SIZE(bits))];
		s->image.version = chance(s, 25) ? 2 : 3;
		s->image.refcount_order = s->image.version == 2 ? 4 : rnd(s, 7);
	} while ((s->kind == SEQ_BLOCKS && block_span(s) > MAX_SPAN) ||
		 (s->kind == SEQ_RELOCATE && table_span(s) > MAX_SPAN));
	s->extended = (s->kind < SEQ_BLOCKS || s->kind == SEQ_DIRTY) &&
		s->image.version == 3 && chance(s, 20);
	if (s->extended) {
		s->image.cluster_bits = chance(s, 90) ? 14 : 16;
		s->image.incompatible |= QCOW2_INCOMPAT_EXTL2;
	}
	if (s->kind == SEQ_DIRTY) {
		s->image.version = 3;
		s->image.incompatible |= QCOW2_INCOMPAT_DIRTY;
		s->image.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	}
	if (s->kind < SEQ_BLOCKS && s->image.version == 3 && chance(s, 20)) {
		s->image.incompatible |= QCOW2_INCOMPAT_DATA_FILE;
		/* QEMU reads nothing of it when it checks */
		s->image.data_file = "/dev/null";
		s->aside_flavour = chance(s, 50) ? MEM_FILE : MEM_DEVICE;
	}
	s->chain = chance(s, 25);
	if (chance(s, 20)) {
		s->cipher = s->image.version == 3 && chance(s, 70) ?
			&toy_luks : &toy_aes;
		s->image.crypt = s->cipher->method;
	}
	/* QEMU reads nothing of it when it checks */
	s->image.backing = s->chain ? "null-co://" : NULL;
}

static void choose(struct sequence *s)
{
	u64 cs, room, span;

	s->flavour = chance(s, 50) ? MEM_FILE : MEM_DEVICE;
	choose_geometry(s);
	cs = 1ull << s->image.cluster_bits;
	span = l2_span(s);
	s->image.size = span + rnd(s, 3 * span) / 512 * 512 + 512;
	s->steps = 6 + rnd(s, 24);
	if (s->kind == SEQ_BLOCKS)
		s->target = block_span(s) * (1 + rnd(s, 2)) -
			(1 + rnd(s, 12)) * cs;
	else if (s->kind == SEQ_RELOCATE)
		s->target = table_span(s) - (3 + rnd(s, 8)) * cs;
	if (s->target && s->target < 60 * cs)
		s->target = block_span(s) * 2;
	room = (chance(s, 20) ? 20 : 150) * cs + rnd(s, 3) * 512;
	s->device_size = (s->target ?: 80 * cs) + room;
	s->limit = chance(s, 85) ? 0 : s->device_size;
}

/* ---- the image ---- */

static const u8 few_slots[SEQ_SLOTS] = {
	0, 1, 2, 3, 30, 31, 61, 62, 63, 64, 65, 66, 124, 125, 126, 127,
};

static u32 per_cluster(const struct sequence *s)
{
	return 1u << (s->image.cluster_bits - 9);
}

/* What a block reads where the image has nothing. */
static s64 from_below(const struct sequence *s, u64 number)
{
	return s->chain && (number + 1) * 512 <= s->base.size ? 0 : SEQ_ZERO;
}

/* @data, @zero: by subcluster, where there are any; others are not there. */
static s64 initially(const struct sequence *s, u64 number, u32 data, u32 zero)
{
	u32 n = per_cluster(s), bit = number % n * 32 / n;

	if (data >> bit & 1)
		return 0;
	return zero >> bit & 1 ? SEQ_ZERO : from_below(s, number);
}

static void add_blocks(struct sequence *s, u64 cluster, u32 data, u32 zero)
{
	u32 n = per_cluster(s), i;

	for (i = 0; i < min_t(u32, n, SEQ_SLOTS); i++) {
		u32 slot = n <= SEQ_SLOTS ? i : few_slots[i] * n / 128;
		u64 number = cluster * n + slot;
		s64 initial = initially(s, number, data, zero);

		if (i && n > SEQ_SLOTS && few_slots[i - 1] * n / 128 == slot)
			continue;
		if (number * 512 < s->image.size)
			s->blocks[s->nr_blocks++] = (struct seq_block){
				number, initial, initial };
	}
}

/* Two runs of guest clusters, one of them across two L2 tables if it can be. */
static void choose_hot(struct sequence *s)
{
	u64 all = (s->image.size - 1) >> s->image.cluster_bits;
	u64 first = rnd(s, min(all, per_l2(s))), i, second;

	for (i = 0; i < SEQ_HOT / 2 && first + i <= all; i++)
		s->hot[s->nr_hot++] = first + i;
	second = first + i + rnd(s, all + 1);
	if (chance(s, 50))
		second = per_l2(s) - 4;
	for (i = 0; i < SEQ_HOT / 2; i++)
		if (second + i >= first + SEQ_HOT / 2 && second + i <= all)
			s->hot[s->nr_hot++] = second + i;
}

/* Where an image has its data. */
static struct membackend *data_of(struct membackend *be)
{
	return be->data_file ?: be;
}

/* What the image has for a sector of the guest. */
static void encrypt(const struct sequence *s, u64 guest, u64 host, void *sector)
{
	if (s->cipher)
		toy_sector(qcow2_cipher_sector(s->cipher, guest, host), sector);
}

/* Bytes at @host; those of other subclusters than @data must never be seen. */
static void fill_cluster(struct sequence *s, struct membackend *image,
			 u64 cluster, u64 host, u32 data)
{
	struct membackend *be = data_of(image);
	u32 n = per_cluster(s), i;

	if (be->ops->growable)
		be->size = max(be->size, host + n * 512);

	for (i = 0; i < n; i++) {
		u64 number = cluster * n + i;

		if (!(data >> (i * 32 / n) & 1))
			number += n;
		stamp_make(be->data + host + i * 512, number, 0);
		encrypt(s, (cluster * n + i) * 512, host + i * 512,
			be->data + host + i * 512);
	}
}

/* Some subclusters of a cluster that is there are data or zeros, others not. */
static int split(struct sequence *s, struct membackend *be, u64 guest, u32 *data,
		 u32 *zero)
{
	if (!s->extended || chance(s, 40))
		return 0;
	*data = rnd(s, 1ull << 32);
	*zero = rnd(s, 1ull << 32) & ~*data;
	return mk_set_bitmap(be, guest, (u64)*zero << 32 | *data);
}

/* All of the cluster is data, and compressed. */
static int compress(struct sequence *s, struct membackend *be, u64 cluster)
{
	u32 n = per_cluster(s), i;
	u8 *buf = malloc(n * 512);
	int ret;

	if (!buf)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		stamp_make(buf + i * 512, cluster * n + i, 0);
	ret = mk_map_compressed(be, cluster << s->image.cluster_bits, buf);
	free(buf);
	return ret;
}

/* What is at a hot cluster to begin with. */
static int make_cluster(struct sequence *s, struct membackend *be, u64 cluster,
			bool record)
{
	u64 guest = cluster << s->image.cluster_bits, host = 0;
	u64 many = s->image.refcount_order && !s->image.data_file ? 2 : 1;
	u32 what = rnd(s, 100), data = 0, zero = 0;
	int ret = 0;

	if (s->image.version < 3 && what >= 60 && what < 80)
		what = 20;
	if (what < 35) {
		ret = mk_map(be, guest, QCOW2_DATA, 1, &host);
		data = U32_MAX;
		ret = ret ?: split(s, be, guest, &data, &zero);
	} else if (what < 60) {
		ret = mk_map(be, guest, QCOW2_DATA, many, &host);
		data = U32_MAX;
		if (record && many > 1)
			s->shared[s->nr_shared++] = (struct seq_shared){
				host, cluster * per_cluster(s) };
	} else if (what < 70) {
		ret = mk_map(be, guest, QCOW2_ZERO_ALLOC, chance(s, 30) ? many : 1,
			     &host);
		zero = U32_MAX;
	} else if (what < 80) {
		ret = mk_map(be, guest, QCOW2_ZERO, 1, &host);
		zero = U32_MAX;
	} else if (what < 90 && !s->image.data_file && !s->cipher) {
		ret = compress(s, be, cluster);
		data = U32_MAX;
	} else if (s->kind == SEQ_PLAIN) {
		ret = mk_map(be, guest, QCOW2_UNALLOCATED, 1, &host);
	}
	/* a data file has something everywhere, whether it is mapped or not */
	if (!ret && s->image.data_file)
		fill_cluster(s, be, cluster, guest, data);
	else if (!ret && host)
		fill_cluster(s, be, cluster, host, data);
	if (record)
		add_blocks(s, cluster, data, zero);
	return ret;
}

static u64 be_l1(const struct sequence *s, const struct membackend *be, u64 guest)
{
	return mem_be64(be, mem_be64(be, 40) + guest / l2_span(s) * 8);
}

/* The host cluster, if all of it is data that may be shared, or 0. */
static u64 shared_data(const struct sequence *s, const struct membackend *be,
		       u64 guest, bool *compressed)
{
	u64 table = be_l1(s, be, guest) & QCOW2_ENTRY_OFFSET, entry;

	if (!table)
		return 0;
	table += (guest >> s->image.cluster_bits) % per_l2(s) *
		(s->extended ? 16 : 8);
	entry = mem_be64(be, table);
	if (s->extended && mem_be64(be, table + 8) != U32_MAX)
		return 0;
	*compressed = entry & QCOW2_ENTRY_COMPRESSED;
	if (*compressed)
		return round_down(entry & ((1ull << (70 - s->image.cluster_bits)) - 1),
				  1ull << s->image.cluster_bits);
	if (entry & (QCOW2_ENTRY_ZERO | QCOW2_ENTRY_COPIED))
		return 0;
	return entry & QCOW2_ENTRY_OFFSET;
}

/* A second reference to a table is one to all it names. */
static int share_one(struct sequence *s, struct membackend *be, bool record)
{
	u32 bits = s->image.cluster_bits;
	u64 guest = s->hot[0] << bits, i;
	int ret;

	if (!s->image.refcount_order || !be_l1(s, be, guest))
		return 0;
	ret = mk_share_table(be, guest, 2);
	if (ret || !record)
		return ret;
	s->nr_shared = 0;
	for (i = 0; i < s->nr_hot; i++) {
		bool compressed = false;
		u64 host = shared_data(s, be, s->hot[i] << bits, &compressed);

		if (host && mk_refcount(be, host) > 1)
			s->shared[s->nr_shared++] = (struct seq_shared){
				host, s->hot[i] * per_cluster(s), compressed };
	}
	return 0;
}

/* A raw base that has every hot block, or ends among them. */
static void make_base(struct sequence *s)
{
	u32 n = per_cluster(s);
	u64 number, i;

	mem_init(&s->base, MEM_FILE, 0);
	if (!s->chain)
		return;
	s->base.size = round_up(s->image.size, 512ull);
	if (chance(s, 40))
		s->base.size = min(s->base.size, 512 *
			(s->hot[rnd(s, s->nr_hot)] * n + 1 + rnd(s, n)));
	for (i = 0; i < s->nr_hot * n; i++) {
		number = s->hot[i / n] * n + i % n;
		if ((number + 1) * 512 <= s->base.size)
			stamp_make(s->base.data + number * 512, number, 0);
	}
	s->below = (struct qcow2_layer){
		.store = { s->base.ops, &s->base }, .size = s->base.size };
}

/* Makes the image of the sequence; twice, and both times the same. */
static int make(struct sequence *s, struct membackend *be,
		struct membackend *aside, bool record)
{
	unsigned int i, last = s->nr_hot;
	int ret;

	mem_init(be, s->flavour, s->flavour == MEM_FILE ? 0 : s->device_size);
	mem_init(aside, s->aside_flavour,
		 s->aside_flavour == MEM_FILE ? 0 : s->image.size + (1 << 20));
	be->limit = s->limit;
	be->cipher = s->cipher;
	if (s->image.data_file)
		be->data_file = aside;
	ret = mk_image(be, &s->image);
	if (s->target)
		last--;
	for (i = 0; !ret && i < last; i++)
		ret = make_cluster(s, be, s->hot[i], record);
	if (!ret && s->kind == SEQ_TABLES && !s->image.data_file && chance(s, 40))
		ret = share_one(s, be, record);
	if (!ret && s->target) {
		/* free clusters up to here, one in use, and the end */
		if (s->target > be->mk_end) {
			if (s->flavour == MEM_DEVICE)
				memset(be->data + be->mk_end, 0,
				       s->target - be->mk_end);
			be->mk_end = s->target;
		}
		ret = make_cluster(s, be, s->hot[i], record);
	}
	return ret;
}

/* ---- the guest ---- */

static bool overlaps_open(const struct sequence *s, u64 guest, u64 len)
{
	u32 bits = s->image.cluster_bits;
	unsigned int i;

	for (i = 0; i < SEQ_OPEN; i++) {
		const struct seq_open *o = &s->open[i];

		if (o->used && guest >> bits <= (o->guest + o->len - 1) >> bits &&
		    o->guest >> bits <= (guest + len - 1) >> bits)
			return true;
	}
	return false;
}

/* A commit cannot be begun inside a commit. */
static bool may_begin(struct sequence *s)
{
	struct qcow2_image *img = s->img;
	struct qcow2_allocator *a = &img->alloc;

	if (!s->in_commit)
		return true;
	if (atomic_read(&img->nr_frees))
		return false; /* it may have to, for their space */
	return img->cache.nr_dirty + 8 < img->cache.max_blocks / 2 &&
		a->cursor + 256 < a->reftable_entries << qcow2_refblock_bits(&img->hdr);
}

static void choose_range(struct sequence *s, u64 *guest, u64 *len)
{
	u64 cs = 1ull << s->image.cluster_bits;
	const struct seq_block *b = &s->blocks[rnd(s, s->nr_blocks)];

	*guest = b->number * 512;
	*len = 512 * (1 + rnd(s, 4));
	if (chance(s, 40)) {
		*guest = *guest / cs * cs;
		*len = cs * (1 + rnd(s, cs > 4096 ? 1 : 4));
	}
	*len = min(*len, s->image.size - *guest);
}

static struct seq_write *new_write(struct sequence *s, u64 guest, u64 len)
{
	s->writes = realloc(s->writes, (s->nr_writes + 1) * sizeof(*s->writes));
	if (!s->writes)
		abort();
	s->writes[s->nr_writes] = (struct seq_write){
		.block = guest / 512, .nr = len / 512,
		.generation = ++s->generation, .done = U64_MAX,
		.fua_at = U64_MAX, .op = U64_MAX };
	return &s->writes[s->nr_writes++];
}

/* Begins one step; 0, or the error, of which -ENOSPC is none of ours. */
static int begin_write(struct sequence *s, struct seq_open *o, u64 guest, u64 len)
{
	struct qcow2_waiter waiter = { .wake = NULL };
	u64 i;
	int ret;

	o->guest = guest;
	o->len = len;
	ret = qcow2_write_begin(s->img, guest, len, &o->w, &waiter);
	if (ret && ret != -ENOSPC)
		fail(s, "write at %#llx: error %d: %s", (unsigned long long)guest,
		     ret, mem_last_msg(&s->live));
	if (ret)
		return ret;
	o->used = true;
	o->written = false;
	o->index = s->nr_writes;
	new_write(s, guest, o->w.len);
	trace(s, "step at %#llx+%#llx gen %lld: host %#llx%s%s",
	      (unsigned long long)guest, (unsigned long long)o->w.len,
	      (long long)s->generation, (unsigned long long)o->w.host,
	      o->w.in_place ? ", in place" : "", o->w.durable ? ", durable" : "");
	o->buf = malloc(o->w.len);
	for (i = 0; i < o->w.len / 512; i++)
		stamp_make(o->buf + i * 512, guest / 512 + i, s->generation);
	return 0;
}

static void write_data(struct sequence *s, struct seq_open *o)
{
	int ret;

	s->writes[o->index].op = s->live.nr_log;
	ret = qcow2_data_write(&s->img->data, o->guest, o->w.host, o->buf,
			       o->w.len);
	if (ret)
		fail(s, "data at %#llx: error %d", (unsigned long long)o->w.host,
		     ret);
	o->written = true;
}

static bool end_write(struct sequence *s, struct seq_open *o)
{
	struct seq_write *w = &s->writes[o->index];
	unsigned int i;

	/* the data may fail; in place, it would be torn, which is for others */
	if (chance(s, 8) && !(o->written && o->w.in_place)) {
		trace(s, "failed gen %lld", (long long)w->generation);
		qcow2_write_end(s->img, &o->w, -EIO);
		free(o->buf);
		o->used = false;
		return false;
	}
	if (!o->written)
		write_data(s, o);
	qcow2_write_end(s->img, &o->w, 0);
	w->done = s->time++;
	for (i = 0; i < s->nr_blocks; i++)
		if (s->blocks[i].number - w->block < w->nr)
			s->blocks[i].newest = w->generation;
	trace(s, "written gen %lld", (long long)w->generation);
	free(o->buf);
	o->used = false;
	return true;
}

static void commit_all(struct sequence *s)
{
	u64 time = s->time++;
	int ret;

	trace(s, "FLUSH");
	s->in_commit = true;
	ret = qcow2_commit(s->img);
	s->in_commit = false;
	if (ret) {
		if (ret != -ENOSPC)
			fail(s, "FLUSH: error %d: %s", ret,
			     mem_last_msg(&s->live));
		return;
	}
	s->acks = realloc(s->acks, (s->nr_acks + 1) * sizeof(*s->acks));
	if (!s->acks)
		abort();
	s->acks[s->nr_acks++] = (struct seq_ack){ s->live.nr_log, time };
	trace(s, "committed");
}

static struct seq_open *free_slot(struct sequence *s)
{
	unsigned int i;

	for (i = 0; i < SEQ_OPEN; i++)
		if (!s->open[i].used)
			return &s->open[i];
	return NULL;
}

s64 seq_zero_generation(const struct sequence *s, u64 number, u64 pos)
{
	s64 newest = SEQ_ZERO;
	u64 i;

	for (i = 0; i < s->nr_writes; i++)
		if (s->writes[i].zero && s->writes[i].op <= pos &&
		    number - s->writes[i].block < s->writes[i].nr)
			newest = s->writes[i].generation;
	return newest;
}

/* What a block that should read as @generation does read as. */
static bool reads_as(const struct sequence *s, const u8 *buf, u64 number,
		     s64 generation)
{
	u64 gen;

	if (stamp_is_zero(buf))
		return seq_zero_generation(s, number, U64_MAX) == generation;
	return stamp_get(buf, number, &gen) && (s64)gen == generation;
}

/* These bytes are zeros now, by an operation that began at @pos in the log. */
static void zeroed(struct sequence *s, u64 guest, u64 len, u64 pos)
{
	struct seq_write *w = new_write(s, guest, len);
	unsigned int i;

	w->zero = true;
	w->op = pos;
	w->done = s->time++;
	for (i = 0; i < s->nr_blocks; i++)
		if (s->blocks[i].number - w->block < w->nr)
			s->blocks[i].newest = w->generation;
}

/* A discard may leave some of its bytes; the guest looks which. */
static void discarded(struct sequence *s, u64 guest, u64 len, u64 pos)
{
	u8 buf[512];

	for (; len && !*s->fail; guest += 512, len -= 512) {
		int ret = guest_read(s->img, guest, buf, 512);

		if (ret)
			fail(s, "read after discard: error %d", ret);
		else if (stamp_is_zero(buf))
			zeroed(s, guest, 512, pos);
	}
}

static void step_zero(struct sequence *s)
{
	static const char * const names[] = { "discard", "zero", "zero, keep" };
	struct qcow2_waiter waiter = { .wake = NULL };
	enum qcow2_zero_how how = rnd(s, 3);
	u64 guest, len, done, pos;
	int ret;

	choose_range(s, &guest, &len);
	if (overlaps_open(s, guest, len))
		return;
	trace(s, "%s at %#llx+%#llx", names[how], (unsigned long long)guest,
	      (unsigned long long)len);
	for (; len && !*s->fail; guest += done, len -= done) {
		pos = s->live.nr_log;
		ret = qcow2_zero(s->img, guest, len, how, &done, &waiter);
		if (ret == -ENOSPC)
			return;
		if (ret) {
			fail(s, "%s at %#llx: error %d: %s", names[how],
			     (unsigned long long)guest, ret,
			     mem_last_msg(&s->live));
			return;
		}
		if (how == QCOW2_DISCARD)
			discarded(s, guest, done, pos);
		else
			zeroed(s, guest, done, pos);
	}
}

/* A whole write, FUA or not. */
static void step_write(struct sequence *s, bool fua)
{
	struct seq_open *o = free_slot(s);
	u64 first = s->nr_writes, guest, len, n, i;
	bool durable = true;

	choose_range(s, &guest, &len);
	if (!o || overlaps_open(s, guest, len))
		return;
	for (; len && !*s->fail; guest += n, len -= n) {
		if (begin_write(s, o, guest, len))
			return;
		n = o->w.len;
		durable &= o->w.in_place && o->w.durable;
		if (!end_write(s, o))
			return;
	}
	if (!fua || *s->fail)
		return;
	if (!durable) {
		commit_all(s);
		return;
	}
	trace(s, "FUA in place");
	for (i = first; i < s->nr_writes; i++)
		s->writes[i].fua_at = s->live.nr_log;
}

static void step_open(struct sequence *s)
{
	struct seq_open *o = free_slot(s);
	u64 guest, len;

	choose_range(s, &guest, &len);
	if (o && !overlaps_open(s, guest, len) && may_begin(s))
		begin_write(s, o, guest, len);
}

static void step_advance(struct sequence *s)
{
	struct seq_open *o = &s->open[rnd(s, SEQ_OPEN)];

	if (!o->used)
		return;
	if (!o->written && chance(s, 50))
		write_data(s, o);
	else
		end_write(s, o);
}

static void end_all(struct sequence *s)
{
	unsigned int i;

	for (i = 0; i < SEQ_OPEN; i++)
		if (s->open[i].used)
			end_write(s, &s->open[i]);
}

/*
 * What was there when it looked up, or newer: a block may become zeros where it is,
 * in a data file always.
 */
static bool found_by_reader(const struct sequence *s, const struct seq_reader *r,
			    const u8 *buf)
{
	u64 number = s->blocks[r->block].number, gen;

	if (stamp_get(buf, number, &gen))
		return (s64)gen >= r->least;
	return stamp_is_zero(buf) &&
		seq_zero_generation(s, number, U64_MAX) > r->least;
}

/* A reader that has looked up and not yet read. */
static void step_reader(struct sequence *s)
{
	struct seq_reader *r = &s->reader;
	struct qcow2_mapping m;
	const struct seq_block *b;
	u8 buf[512];
	int ret;

	if (r->used) {
		b = &s->blocks[r->block];
		r->used = false;
		ret = qcow2_data_read(r->store, b->number * 512, r->host, buf,
				      512);
		if (!ret && !found_by_reader(s, r, buf))
			ret = -EUCLEAN;
		if (ret)
			fail(s,
			     "a reader that mapped block %llu at generation %lld to %#llx finds something else there",
			     (unsigned long long)b->number, (long long)r->least,
			     (unsigned long long)r->host);
		port_epoch_exit(&s->img->epoch, r->epoch);
		return;
	}
	r->block = rnd(s, s->nr_blocks);
	b = &s->blocks[r->block];
	r->least = b->newest;
	r->epoch = port_epoch_enter(&s->img->epoch);
	if (qcow2_map(s->img, b->number * 512, 512, &m))
		fail(s, "map: %s", mem_last_msg(&s->live));
	r->store = m.store;
	r->host = m.host;
	r->used = m.kind == QCOW2_DATA && r->least != SEQ_ZERO &&
		seq_zero_generation(s, b->number, U64_MAX) != r->least;
	if (!r->used)
		port_epoch_exit(&s->img->epoch, r->epoch);
}

/* What the guest sees now is what it wrote last. */
static void look(struct sequence *s)
{
	unsigned int i;
	u8 buf[512];

	for (i = 0; i < s->nr_blocks && !*s->fail; i++) {
		const struct seq_block *b = &s->blocks[i];
		u64 gen = 0;
		bool good;
		int ret;

		if (overlaps_open(s, b->number * 512, 512))
			continue;
		ret = guest_read(s->img, b->number * 512, buf, 512);
		good = reads_as(s, buf, b->number, b->newest);
		stamp_get(buf, b->number, &gen);
		if (ret || !good)
			fail(s, "block %llu reads generation %lld, not %lld (error %d)",
			     (unsigned long long)b->number, (long long)gen,
			     (long long)b->newest, ret);
	}
}

/* The host calls: is somebody else to do something now? */
static int hook(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	struct sequence *s = be->hook_arg;
	struct qcow2_image *img = s->img;

	if (!s->in_commit || s->in_hook || *s->fail ||
	    (kind != MEM_WRITE && kind != MEM_FLUSH))
		return 0;
	if (!chance(s, 35))
		return 0;
	/* the refcount table is written with this lock held */
	if (pthread_mutex_trylock(&img->alloc.lock.m))
		return 0;
	pthread_mutex_unlock(&img->alloc.lock.m);
	s->in_hook = true;
	if (chance(s, 50))
		step_open(s);
	else
		step_advance(s);
	s->in_hook = false;
	return 0;
}

static void step_close(struct sequence *s)
{
	struct qcow2_error err;
	u64 time;
	int ret;

	end_all(s);
	if (s->reader.used)
		step_reader(s);
	trace(s, "close");
	time = s->time++;
	ret = qcow2_image_close(s->img);
	s->img = NULL;
	if (!ret) {
		s->acks = realloc(s->acks, (s->nr_acks + 1) * sizeof(*s->acks));
		if (!s->acks)
			abort();
		s->acks[s->nr_acks++] = (struct seq_ack){ s->live.nr_log, time };
	} else {
		/* what was not committed is gone; go no further */
		if (ret != -ENOSPC)
			fail(s, "close: error %d: %s", ret,
			     mem_last_msg(&s->live));
		s->steps = 0;
		return;
	}
	ret = seq_open(s, &s->live, 0, &s->img, &err);
	if (ret)
		fail(s, "open: error %d: %s", ret, err.msg);
}

int seq_open(struct sequence *s, struct membackend *be, u64 cache_bytes,
	     struct qcow2_image **img, struct qcow2_error *err)
{
	return mem_open_over(be, cache_bytes, s->chain ? &s->below : NULL, img,
			     err);
}

/* A block behind the first size is zeros, or was written after @generation. */
bool seq_beyond(u8 *block, u64 number, s64 generation)
{
	u64 gen;

	return stamp_is_zero(block) ||
		(stamp_get(block, number, &gen) && (s64)gen > generation);
}

static u64 choose_size(struct sequence *s)
{
	u64 cs = 1ull << s->image.cluster_bits, span = l2_span(s);
	u64 now = s->img->hdr.size, size;
	unsigned int i;

	if (now > s->image.size && chance(s, 35))
		size = s->image.size + rnd(s, (now - s->image.size) / 512) * 512;
	else if (chance(s, 40))
		size = now + 512 * (1 + rnd(s, 40));
	else if (!s->image.data_file && chance(s, 50))
		size = now + span * (1 + rnd(s, 3));
	else if (s->image.data_file) /* which has to be as long */
		size = now + (1 << 19);
	else /* by one to three clusters of L1 table */
		size = now + span * (cs / 8) * (1 + rnd(s, 3));
	for (i = 0; i < s->nr_sizes; i++)
		if (s->sizes[i].to == size)
			return 0;
	return size;
}

/* Some blocks of what the disk has got. */
static void write_beyond(struct sequence *s, const struct seq_size *z)
{
	u8 buf[512];
	int i;

	for (i = 0; i < 3 && s->nr_beyond < SEQ_BEYOND && !*s->fail; i++) {
		u64 blocks = (z->to - z->from) / 512;
		u64 number = z->from / 512 +
			rnd(s, chance(s, 60) ? min(blocks, 16ull) : blocks);
		int ret = guest_read(s->img, number * 512, buf, 512);

		if (ret || !seq_beyond(buf, number, z->generation))
			fail(s, "block %llu is not zeros in a disk that has grown (error %d)",
			     (unsigned long long)number, ret);
		stamp_make(buf, number, ++s->generation);
		ret = guest_write(s->img, number * 512, buf, 512);
		if (ret && ret != -ENOSPC)
			fail(s, "write behind the old end: error %d", ret);
		s->beyond[s->nr_beyond++] = number;
	}
}

/* The device is suspended for it: nothing else is under way. */
static void step_resize(struct sequence *s)
{
	struct seq_size *z = &s->sizes[s->nr_sizes];
	u64 size = choose_size(s);
	struct qcow2_error err;
	int ret;

	if (!size || s->nr_sizes == SEQ_SIZES)
		return;
	end_all(s);
	if (s->reader.used)
		step_reader(s);
	*z = (struct seq_size){ .begun = s->live.nr_log, .done = U64_MAX,
		.from = s->img->hdr.size, .to = size,
		.generation = s->generation };
	trace(s, "resize from %llu to %llu", (unsigned long long)z->from,
	      (unsigned long long)size);
	ret = qcow2_resize(s->img, size, true, &err);
	if (ret && ret != -ENOSPC)
		fail(s, "resize to %llu: error %d: %s", (unsigned long long)size,
		     ret, err.msg);
	if (s->img->hdr.size != size)
		return;
	z->done = s->live.nr_log;
	s->nr_sizes++;
	if (size > z->from)
		write_beyond(s, z);
}

static void step(struct sequence *s)
{
	u32 what = rnd(s, 100);

	if (what < 8)
		step_zero(s);
	else if (what < 30)
		step_write(s, false);
	else if (what < 40)
		step_write(s, true);
	else if (what < 52)
		step_open(s);
	else if (what < 65)
		step_advance(s);
	else if (what < 73)
		step_reader(s);
	else if (what < 93)
		commit_all(s);
	else if (what < 97)
		step_resize(s);
	else
		step_close(s);
	if (s->img)
		look(s);
}

void seq_run(struct sequence *s, u64 seed, enum seq_kind kind)
{
	struct qcow2_error err;
	unsigned int i;
	u64 rng;

	memset(s, 0, sizeof(*s));
	s->seed = seed;
	s->rng = seed;
	s->kind = kind;
	s->trace_file = open_memstream(&s->trace, &s->trace_len);
	choose(s);
	choose_hot(s);
	make_base(s);
	rng = s->rng;
	if (make(s, &s->before, &s->aside_before, true))
		fail(s, "the image does not fit");
	s->rng = rng;
	if (make(s, &s->live, &s->aside, false))
		fail(s, "the image does not fit");
	if (*s->fail)
		return;
	if (seq_open(s, &s->live, 0, &s->img, &err)) {
		fail(s, "open: %s", err.msg);
		return;
	}
	s->sizes[s->nr_sizes++] = (struct seq_size){ .to = s->image.size };
	mem_log_only(&s->live);
	s->aside.log_of = &s->live;
	s->live.hook = hook;
	s->live.hook_arg = s;
	for (i = 0; i < s->steps && !*s->fail; i++)
		step(s);
	if (s->img && !*s->fail && chance(s, 50))
		commit_all(s);
	if (s->img && !*s->fail)
		step_close(s);
	fflush(s->trace_file);
	s->live.hook = NULL;
}

void seq_destroy(struct sequence *s)
{
	unsigned int i;

	for (i = 0; i < SEQ_OPEN; i++)
		if (s->open[i].used)
			free(s->open[i].buf);
	if (s->img) {
		mem_log_stop(&s->live);
		if (!*s->fail)
			qcow2_image_close(s->img);
	}
	mem_destroy(&s->live);
	mem_destroy(&s->before);
	mem_destroy(&s->base);
	mem_destroy(&s->aside);
	mem_destroy(&s->aside_before);
	fclose(s->trace_file);
	free(s->trace);
	free(s->writes);
	free(s->acks);
}
