// SPDX-License-Identifier: GPL-2.0
/*
 * Sequences of guest activity for crash tests: see crashseq.h.
 */
#include "crashseq.h"
#include <stdarg.h>
#include "commit.h"
#include "map.h"
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
		"plain", "tables", "blocks", "relocate",
	};
	static char line[200];

	snprintf(line, sizeof(line),
		 "%s, %s, v%u, %u-byte clusters, refcount order %u, %llu bytes, %u steps",
		 kinds[s->kind], s->flavour == MEM_FILE ? "file" : "device",
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
}

static void choose(struct sequence *s)
{
	u64 cs, room, l2_span;

	s->flavour = chance(s, 50) ? MEM_FILE : MEM_DEVICE;
	choose_geometry(s);
	cs = 1ull << s->image.cluster_bits;
	l2_span = cs * cs / 8;
	s->image.size = l2_span + rnd(s, 3 * l2_span) / 512 * 512 + 512;
	s->steps = 6 + rnd(s, 24);
	if (s->kind == SEQ_BLOCKS)
		s->target = block_span(s) * (1 + rnd(s, 2)) -
			(1 + rnd(s, 12)) * cs;
	else if (s->kind == SEQ_RELOCATE)
		s->target = table_span(s) - (3 + rnd(s, 8)) * cs;
	if (s->target < 60 * cs)
		s->target = s->kind >= SEQ_BLOCKS ? block_span(s) * 2 : 0;
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

static void add_blocks(struct sequence *s, u64 cluster, s64 initial)
{
	u32 n = per_cluster(s), i;

	for (i = 0; i < min_t(u32, n, SEQ_SLOTS); i++) {
		u64 number = cluster * n + (n <= SEQ_SLOTS ? i : few_slots[i]);

		if (number * 512 < s->image.size)
			s->blocks[s->nr_blocks++] = (struct seq_block){
				number, initial, initial };
	}
}

/* Two runs of guest clusters, one of them across two L2 tables if it can be. */
static void choose_hot(struct sequence *s)
{
	u64 all = (s->image.size - 1) >> s->image.cluster_bits;
	u64 per_l2 = 1ull << (s->image.cluster_bits - 3);
	u64 first = rnd(s, min(all, per_l2)), i, second;

	for (i = 0; i < SEQ_HOT / 2 && first + i <= all; i++)
		s->hot[s->nr_hot++] = first + i;
	second = first + i + rnd(s, all + 1);
	if (chance(s, 50))
		second = per_l2 - 4;
	for (i = 0; i < SEQ_HOT / 2; i++)
		if (second + i >= first + SEQ_HOT / 2 && second + i <= all)
			s->hot[s->nr_hot++] = second + i;
}

static int fill_cluster(struct sequence *s, struct membackend *be, u64 cluster,
			u64 host)
{
	u32 i;

	for (i = 0; i < per_cluster(s); i++)
		stamp_make(be->data + host + i * 512,
			   cluster * per_cluster(s) + i, 0);
	return 0;
}

/* What is at a hot cluster to begin with. */
static int make_cluster(struct sequence *s, struct membackend *be, u64 cluster,
			bool record)
{
	u64 guest = cluster << s->image.cluster_bits, host;
	u64 many = s->image.refcount_order ? 2 : 1;
	u32 what = rnd(s, 100);
	s64 initial = SEQ_ZERO;
	int ret = 0;

	if (s->image.version < 3 && what >= 60 && what < 80)
		what = 20;
	if (what < 35) {
		ret = mk_map(be, guest, QCOW2_DATA, 1, &host);
		initial = 0;
	} else if (what < 60) {
		ret = mk_map(be, guest, QCOW2_DATA, many, &host);
		initial = 0;
		if (record && many > 1)
			s->shared[s->nr_shared++] = (struct seq_shared){
				host, cluster * per_cluster(s) };
	} else if (what < 70) {
		ret = mk_map(be, guest, QCOW2_ZERO_ALLOC, chance(s, 30) ? many : 1,
			     &host);
		/* what lies there must never be seen */
		if (!ret)
			fill_cluster(s, be, cluster + 1, host);
	} else if (what < 80) {
		ret = mk_map(be, guest, QCOW2_ZERO, 1, &host);
	} else if (s->kind == SEQ_PLAIN) {
		ret = mk_map(be, guest, QCOW2_UNALLOCATED, 1, &host);
	}
	if (!ret && !initial)
		fill_cluster(s, be, cluster, host);
	if (record)
		add_blocks(s, cluster, initial);
	return ret;
}

static u64 be_l1(const struct membackend *be, u64 guest, u32 bits)
{
	return mem_be64(be, mem_be64(be, 40) + (guest >> (2 * bits - 3)) * 8);
}

/* A second reference to a table is one to all it names. */
static int share_one(struct sequence *s, struct membackend *be, bool record)
{
	u32 bits = s->image.cluster_bits;
	u64 guest = s->hot[0] << bits, i;
	int ret;

	if (!s->image.refcount_order || !be_l1(be, guest, bits))
		return 0;
	ret = mk_share_table(be, guest, 2);
	if (ret || !record)
		return ret;
	s->nr_shared = 0;
	for (i = 0; i < s->nr_hot; i++) {
		u64 g = s->hot[i] << bits, entry, table, host;

		table = be_l1(be, g, bits) & QCOW2_ENTRY_OFFSET;
		table += (s->hot[i] & ((1u << (bits - 3)) - 1)) * 8;
		entry = be_l1(be, g, bits) ? mem_be64(be, table) : 0;
		host = entry & QCOW2_ENTRY_OFFSET;
		if (host && !(entry & (QCOW2_ENTRY_ZERO | QCOW2_ENTRY_COPIED)))
			s->shared[s->nr_shared++] = (struct seq_shared){
				host, s->hot[i] * per_cluster(s) };
	}
	return 0;
}

/* Makes the image of the sequence; twice, and both times the same. */
static int make(struct sequence *s, struct membackend *be, bool record)
{
	unsigned int i, last = s->nr_hot;
	int ret;

	mem_init(be, s->flavour, s->flavour == MEM_FILE ? 0 : s->device_size);
	be->limit = s->limit;
	ret = mk_image(be, &s->image);
	if (s->target)
		last--;
	for (i = 0; !ret && i < last; i++)
		ret = make_cluster(s, be, s->hot[i], record);
	if (!ret && s->kind == SEQ_TABLES && chance(s, 40))
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
	ret = s->img->ops->data_write(s->img->be, o->guest, o->w.host, o->buf,
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

/* A reader that has looked up and not yet read. */
static void step_reader(struct sequence *s)
{
	struct seq_reader *r = &s->reader;
	struct qcow2_mapping m;
	const struct seq_block *b;
	u8 buf[512];
	u64 gen;

	if (r->used) {
		b = &s->blocks[r->block];
		r->used = false;
		if (s->img->ops->data_read(s->img->be, 0, r->host, buf, 512) ||
		    !stamp_get(buf, b->number, &gen) || (s64)gen < r->least)
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
	ret = mem_open(&s->live, 0, &s->img, &err);
	if (ret)
		fail(s, "open: error %d: %s", ret, err.msg);
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
	else if (what < 97)
		commit_all(s);
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
	rng = s->rng;
	if (make(s, &s->before, true))
		fail(s, "the image does not fit");
	s->rng = rng;
	if (make(s, &s->live, false))
		fail(s, "the image does not fit");
	if (*s->fail)
		return;
	if (mem_open(&s->live, 0, &s->img, &err)) {
		fail(s, "open: %s", err.msg);
		return;
	}
	mem_log_only(&s->live);
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
	fclose(s->trace_file);
	free(s->trace);
	free(s->writes);
	free(s->acks);
}
