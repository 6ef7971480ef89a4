// SPDX-License-Identifier: GPL-2.0
/*
 * The crash enumerator. A sequence of guest activity (tests/lib/crashseq.h)
 * gives a log of writes, growth and flushes. A window is what happened between
 * two flushes; a crash in it leaves all that came before and any part of the
 * window itself. A data file has flushes of its own: those of the image leave open
 * what becomes of it. Of every window these states are built:
 *
 *	every prefix; every subset if the window is short, else every single
 *	drop-out, every single survivor and random subsets; and each operation
 *	torn at 512 bytes, with random company
 *
 * and in each of them:
 *
 *	the check finds no error; leaks are allowed
 *	the image opens and can be activated for writing
 *	each block reads a generation at least as new as what was acknowledged
 *	the disk has a size that it was given, at least as new as the last that
 *	was acknowledged; what it got reads as zeros, or what was written since
 *	clusters that something else shares hold what they held
 *
 * An image that was dirty is repaired first, a copy of it, and then checked and
 * read; it is read as it is, too.
 *
 * In some of them life goes on: more writes, a commit, the check again.
 * qemu-img check must agree with our check in every state of a window in which
 * the header, the L1 table, the refcount table or a new table or refcount block
 * was written, and in a sample of the others.
 *
 * CRASH_SCALE=N makes N times as many sequences (default 1). SEED=N chooses
 * others. CRASH_ONLY=N runs sequence N alone, with its steps, to look at a
 * failure. CRASH_BREAK=drop:N, aside:N, early:N breaks the order of writes on purpose
 * (see break_log()), for the self-test and for experiments.
 */
#include "check.h"
#include "commit.h"
#include "crashseq.h"
#include "data.h"
#include "map.h"
#include "qemuimg.h"
#include "toycipher.h"
#include "repair.h"
#include "tap.h"

#include <malloc.h>
#include <time.h>
#include <unistd.h>

/* windows of as many operations: all subsets; QEMU is slow, and asked if special */
#define MAX_ALL 13
#define MAX_ALL_SPECIAL 10
#define MAX_OPS 4096
#define RANDOM_SUBSETS 1000
#define RANDOM_SUBSETS_SPECIAL 200
#define SAMPLE 160		/* one in so many unremarkable states for qemu-img */
#define LIFE 100		/* in one of so many states life goes on */
#define LIFE_MAX (4u << 20)	/* it needs a copy */
#define KEYS 65536

/* How much of an operation a state has: [from, to) of its bytes. */
struct part {
	u64 from, to;
};

struct undo {
	struct membackend *be;
	u64 offset, len, size;
	u8 *old;
};

/* One sequence being enumerated. */
struct run {
	struct sequence *seq;
	struct membackend *state;	/* the image in the present state */
	u64 number;
	bool quiet;

	u64 ops[MAX_OPS];		/* the window: places in the log, rising */
	u64 nr_ops;
	u64 n, end;			/* the first n of them, before log[end] */
	u64 pos;			/* acknowledged up to here */
	bool special;			/* every state is for qemu-img */
	struct part parts[MAX_OPS];
	struct undo undo[MAX_OPS];
	unsigned int nr_undo;
	s64 required[SEQ_HOT * SEQ_SLOTS];
	bool *must;			/* by log position: durable by itself */
	u64 keys[KEYS];			/* states qemu-img has seen */
	u64 epoch;			/* makes keys of different windows differ */

	u64 states, failed;
	u64 rng;
	char why[320];
};

static struct {
	u64 states, sequences, windows, special, sampled, lives, flushes, mended;
	u64 extended, chains, data_files, encrypted;
	u64 by_kind[SEQ_KINDS];
} total;

static bool with_qemu;

/* ---- building a state ---- */

static const struct mem_op *op_at(const struct run *r, u64 i)
{
	return &r->seq->live.log[r->ops[i]];
}

static struct membackend *host_of(struct membackend *image,
				  const struct mem_op *op)
{
	return op->aside ? image->data_file : image;
}

static u64 op_bytes(const struct mem_op *op)
{
	return op->kind == MEM_GROW || op->kind == MEM_TRIM ? 512 : op->len;
}

static void apply(struct run *r, const struct mem_op *op, struct part p)
{
	struct undo *u = &r->undo[r->nr_undo++];
	struct membackend *be = host_of(r->state, op);

	u->be = be;
	u->size = be->size;
	u->offset = op->offset + p.from;
	u->len = p.to - p.from;
	if (op->kind == MEM_GROW)
		u->len = 0;
	if (op->kind == MEM_TRIM) {
		u->offset = min(op->len, be->size);
		u->len = be->size - u->offset;
	}
	u->old = malloc(u->len + 1);
	if (!u->old)
		abort();
	memcpy(u->old, be->data + u->offset, u->len);
	mem_apply(be, op, p.from, p.to);
}

static void undo_all(struct run *r)
{
	while (r->nr_undo) {
		struct undo *u = &r->undo[--r->nr_undo];

		memcpy(u->be->data + u->offset, u->old, u->len);
		u->be->size = u->size;
		free(u->old);
	}
}

/* ---- the oracle ---- */

static bool __printf(2, 3) bad(struct run *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->why, sizeof(r->why), fmt, ap);
	va_end(ap);
	return false;
}

static void remember_error(void *arg, bool leak, const char *line)
{
	struct run *r = arg;

	if (!leak && !*r->why)
		bad(r, "check: %s", line);
}

/* What each block must at least be after a crash here. */
static void require(struct run *r)
{
	const struct sequence *s = r->seq;
	u64 i, j, time = 0;

	for (i = 0; i < s->nr_acks; i++)
		if (s->acks[i].pos <= r->pos)
			time = max(time, s->acks[i].time);
	for (j = 0; j < s->nr_blocks; j++)
		r->required[j] = s->blocks[j].initial;
	for (i = 0; i < s->nr_writes; i++) {
		const struct seq_write *w = &s->writes[i];

		if (!(w->done < time) && w->fua_at > r->pos)
			continue;
		for (j = 0; j < s->nr_blocks; j++)
			if (s->blocks[j].number - w->block < w->nr)
				r->required[j] = max(r->required[j], w->generation);
	}
}

static const u8 *host_bytes(const struct membackend *be, u64 host)
{
	static const u8 zeros[512];

	return host + 512 <= be->size ? be->data + host : zeros;
}

/* A sector as the guest has it, from a store of the image. */
static void guest_bytes(const struct qcow2_store *store, u64 guest, u64 host,
			u8 *buf)
{
	memcpy(buf, host_bytes(store->be, host), 512);
	if (store->cipher)
		toy_sector(qcow2_cipher_sector(store->cipher, guest, host), buf);
}

static bool read_block(struct run *r, struct qcow2_image *img, unsigned int i)
{
	u64 number = r->seq->blocks[i].number, gen;
	s64 seen = seq_zero_generation(r->seq, number, r->end);
	struct qcow2_mapping m;
	u8 buf[512];

	if (qcow2_map_peek(img, number * 512, 512, &m) &&
	    qcow2_map(img, number * 512, 512, &m))
		return bad(r, "block %llu cannot be read: %s",
			   (unsigned long long)number, mem_last_msg(r->state));
	if (m.kind == QCOW2_DATA || m.kind == QCOW2_COMPRESSED) {
		if (m.kind == QCOW2_DATA)
			guest_bytes(m.store, number * 512, m.host, buf);
		else if (guest_read(img, number * 512, buf, 512))
			return bad(r, "block %llu cannot be decompressed: %s",
				   (unsigned long long)number,
				   mem_last_msg(r->state));
		if (stamp_get(buf, number, &gen))
			seen = gen;
		else if (!stamp_is_zero(buf))
			return bad(r, "block %llu at %#llx is not its own",
				   (unsigned long long)number,
				   (unsigned long long)m.host);
	}
	if (seen < r->required[i])
		return bad(r, "block %llu reads generation %lld, but %lld was acknowledged",
			   (unsigned long long)number, (long long)seen,
			   (long long)r->required[i]);
	return true;
}

/* The step of the sequence that gave the disk the size that it has. */
static const struct seq_size *find_size(struct run *r, u64 size)
{
	const struct sequence *s = r->seq;
	unsigned int i;

	for (i = s->nr_sizes; i-- > 0;) {
		const struct seq_size *z = &s->sizes[i];

		if (z->to == size && z->begun <= r->end)
			return z;
		if (z->done <= r->pos)
			break;
	}
	return NULL;
}

static bool beyond_is(struct run *r, struct qcow2_image *img,
		      const struct seq_size *z, u64 number)
{
	u8 buf[512];

	if (number * 512 < z->from || number * 512 >= z->to)
		return true;
	if (guest_read(img, number * 512, buf, 512))
		return bad(r, "block %llu cannot be read: %s",
			   (unsigned long long)number, mem_last_msg(r->state));
	return seq_beyond(buf, number, z->generation) ||
		bad(r, "block %llu has old data, in a disk that has grown",
		    (unsigned long long)number);
}

static bool size_is(struct run *r, struct qcow2_image *img)
{
	const struct sequence *s = r->seq;
	const struct seq_size *z = find_size(r, img->hdr.size);
	bool good = true;
	unsigned int i;

	if (!z)
		return bad(r, "the disk has %llu bytes",
			   (unsigned long long)img->hdr.size);
	if (z == s->sizes || z->from >= z->to)
		return true;
	for (i = 0; good && i < 8; i++)
		good = beyond_is(r, img, z, z->from / 512 + i);
	for (i = 0; good && i < s->nr_beyond; i++)
		good = beyond_is(r, img, z, s->beyond[i]);
	return good;
}

static bool shared_intact(struct run *r)
{
	const struct sequence *s = r->seq;
	const struct qcow2_store store = {
		r->state->ops, r->state, s->cipher,
	};
	u32 n = 1u << (s->image.cluster_bits - 9), i, j;
	u8 buf[512];
	u64 gen;

	for (i = 0; i < s->nr_shared; i++) {
		const struct seq_shared *sh = &s->shared[i];

		for (j = sh->compressed ? n : 0; j < n; j += n > 8 ? 9 : 1) {
			guest_bytes(&store, (sh->number + j) * 512,
				    sh->host + j * 512, buf);
			if (!stamp_get(buf, sh->number + j, &gen) || gen)
				return bad(r, "the shared cluster at %#llx has changed",
					   (unsigned long long)sh->host);
		}
		if (!mk_refcount(r->state, sh->host))
			return bad(r, "the shared cluster at %#llx is free",
				   (unsigned long long)sh->host);
	}
	return true;
}

static bool check_now(struct run *r, int *verdict)
{
	struct qcow2_check chk = { .report = remember_error, .arg = r };
	struct qcow2_error err;

	*r->why = 0;
	if (qcow2_check(r->state->ops, r->state, &chk, &err))
		return bad(r, "check: %s", err.msg);
	*verdict = qcow2_check_verdict(&chk);
	return !chk.errors;
}

/* Every block, and the size, as the guest finds them now. */
static bool reads_right(struct run *r)
{
	struct qcow2_image *img;
	struct qcow2_error err;
	unsigned int i;
	bool good;
	int ret;

	ret = seq_open(r->seq, r->state, 1, &img, &err);
	if (ret)
		return bad(r, "open: %s", err.msg);
	ret = img->read_only ? -EROFS : qcow2_activate(img);
	good = !ret || bad(r, "activation: error %d: %s", ret,
			   mem_last_msg(r->state));
	for (i = 0; good && i < r->seq->nr_blocks; i++)
		good = read_block(r, img, i);
	good = good && size_is(r, img);
	qcow2_image_close(img);
	return good;
}

/* A dirty image is good if what a repair makes of it is. */
static bool mends(struct run *r)
{
	struct membackend copy, *before = r->state;
	struct qcow2_repair rep = { .after.report = remember_error,
		.after.arg = r };
	struct qcow2_error err;
	bool good = true;

	mem_init(&copy, r->seq->flavour, before->size);
	mem_copy(&copy, before);
	copy.data_file = before->data_file;
	r->state = &copy;
	*r->why = 0;
	if (qcow2_repair(copy.ops, &copy, &rep, &err))
		good = bad(r, "repair: %s", err.msg);
	else if (rep.after.errors)
		good = false;
	else if (!rep.unmarked)
		good = bad(r, "it is still dirty after the repair");
	good = good && reads_right(r);
	r->state = before;
	mem_destroy(&copy);
	total.mended++;
	return good;
}

/* @verdict: what qemu-img check should say. */
static bool consistent(struct run *r, int *verdict)
{
	bool good = check_now(r, verdict);

	return r->seq->kind == SEQ_DIRTY ? mends(r) : good;
}

/* What somebody looks at; the data file as a whole may be large. */
static void copy_data_file(const struct sequence *s, struct membackend *to,
			   const struct membackend *from)
{
	u64 cs = 1ull << s->image.cluster_bits;
	unsigned int i;

	to->size = from->size;
	for (i = 0; i < s->nr_hot; i++)
		memcpy(to->data + s->hot[i] * cs, from->data + s->hot[i] * cs, cs);
}

/* After the crash, life goes on, on a copy. */
static bool live_on(struct run *r)
{
	struct membackend copy, aside, *before = r->state;
	const struct sequence *s = r->seq;
	struct qcow2_image *img;
	struct qcow2_error err;
	bool good = true;
	int i, verdict;
	u8 buf[512], back[512];

	mem_init(&copy, s->flavour, before->size);
	mem_copy(&copy, before);
	mem_init(&aside, s->aside_flavour,
		 before->data_file ? before->data_file->size : 0);
	if (before->data_file) {
		copy_data_file(s, &aside, before->data_file);
		copy.data_file = &aside;
	}
	r->state = &copy;
	if (seq_open(r->seq, &copy, 0, &img, &err)) {
		good = bad(r, "open: %s", err.msg);
		goto out;
	}
	for (i = 0; good && i < 12; i++) {
		u64 number = s->blocks[seq_random(&r->rng) % s->nr_blocks].number;
		int ret;

		stamp_make(buf, number, 1000 + i);
		ret = guest_write(img, number * 512, buf, 512);
		if (ret == -ENOSPC)
			break;
		if (ret || guest_read(img, number * 512, back, 512) ||
		    memcmp(buf, back, 512))
			good = bad(r, "write after the crash: error %d: %s", ret,
				   mem_last_msg(&copy));
		if (i == 6)
			qcow2_commit(img);
	}
	i = qcow2_image_close(img);
	if (good && i && i != -ENOSPC)
		good = bad(r, "close after the crash: error %d", i);
	good = good && consistent(r, &verdict) && shared_intact(r);
out:
	r->state = before;
	mem_destroy(&copy);
	mem_destroy(&aside);
	total.lives++;
	return good;
}

static bool verify(struct run *r, int *verdict)
{
	if (!consistent(r, verdict) || !reads_right(r) || !shared_intact(r))
		return false;
	return seq_random(&r->rng) % LIFE || r->state->size > LIFE_MAX ||
		live_on(r);
}

/* ---- telling about it ---- */

static void describe_op(const struct run *r, u64 i)
{
	static const char * const kinds[] = {
		"read", "write", "data read", "data write", "zero", "discard",
		"grow",
		"flush", "trim",
	};
	const struct mem_op *op = op_at(r, i);
	struct part p = r->parts[i];

	printf("#   %llu: %s%s %#llx+%#llx: ", (unsigned long long)r->ops[i],
	       op->aside ? "data file, " : "", kinds[op->kind], (unsigned long long)op->offset,
	       (unsigned long long)op->len);
	if (p.from >= p.to)
		printf("lost\n");
	else if (!p.from && p.to == op_bytes(op))
		printf("done\n");
	else
		printf("torn, [%llu, %llu) done\n", (unsigned long long)p.from,
		       (unsigned long long)p.to);
}

static void explain(const struct run *r)
{
	u64 i;

	diag("sequence %llu: %s", (unsigned long long)r->number,
	     seq_describe(r->seq));
	diag("%s", r->why);
	diag("the window, acknowledged up to %llu:",
	     (unsigned long long)r->pos);
	for (i = 0; i < r->n; i++)
		describe_op(r, i);
}

/* ---- one state ---- */

static u64 hash(u64 h, u64 v)
{
	h ^= v;
	return seq_random(&h);
}

/* Is this state, as qemu-img sees it, new? Guest data does not matter to it. */
static bool new_to_qemu(struct run *r)
{
	u64 key = hash(r->epoch, r->state->size), i, slot;

	for (i = 0; i < r->n; i++) {
		const struct mem_op *op = op_at(r, i);

		if (op->aside)
			continue;
		if (op->kind == MEM_WRITE || op->kind == MEM_ZERO) {
			key = hash(key, i);
			key = hash(key, r->parts[i].from);
			key = hash(key, r->parts[i].to);
		}
	}
	for (slot = key; r->keys[slot % KEYS]; slot++)
		if (r->keys[slot % KEYS] == key)
			return false;
	r->keys[slot % KEYS] = key;
	return true;
}

/*
 * QEMU wants the key of an encrypted image, and a LUKS header that is one. It gets
 * the image without them: no table depends on how the data is encrypted.
 */
static void check_decrypted(struct run *r, int verdict, const char *what)
{
	struct membackend *be = r->state;
	u32 v3 = 104 + (mem_be32(be, 104) == QCOW2_EXT_CRYPTO ? 0 : 24);
	u64 luks = mem_be64(be, v3 + 8);

	mem_set_be32(be, 32, QCOW2_CRYPT_NONE);
	if (r->seq->image.crypt == QCOW2_CRYPT_LUKS) {
		mem_set_be32(be, v3, ~QCOW2_EXT_CRYPTO);
		mk_set_refcount(be, luks, 0);
	}
	qemuimg_check(be, verdict, what);
	mem_set_be32(be, 32, r->seq->image.crypt);
	if (r->seq->image.crypt == QCOW2_CRYPT_LUKS) {
		mem_set_be32(be, v3, QCOW2_EXT_CRYPTO);
		mk_set_refcount(be, luks, 1);
	}
}

static void ask_qemu(struct run *r, int verdict)
{
	char what[200];

	if (!with_qemu)
		return;
	if (!r->special && seq_random(&r->rng) % SAMPLE)
		return;
	if (r->special && !new_to_qemu(r))
		return;
	if (r->special)
		total.special++;
	else
		total.sampled++;
	snprintf(what, sizeof(what), "sequence %llu, window to %llu, state %llu",
		 (unsigned long long)r->number, (unsigned long long)r->end,
		 (unsigned long long)r->states);
	if (r->seq->cipher)
		check_decrypted(r, verdict, what);
	else
		qemuimg_check(r->state, verdict, what);
}

/* Builds, judges and takes back the state that r->parts says. */
static void one_state(struct run *r)
{
	int verdict = 0;
	u64 i;

	for (i = 0; i < r->n; i++) {
		if (r->must[r->ops[i]] && r->ops[i] < r->pos)
			r->parts[i] = (struct part){ 0, op_bytes(op_at(r, i)) };
		if (r->parts[i].from < r->parts[i].to)
			apply(r, op_at(r, i), r->parts[i]);
	}
	r->states++;
	if (!verify(r, &verdict)) {
		if (!r->failed++ && !r->quiet)
			explain(r);
	} else {
		ask_qemu(r, verdict);
	}
	undo_all(r);
}

static void set_part(struct run *r, u64 i, bool done)
{
	r->parts[i] = (struct part){ 0, done ? op_bytes(op_at(r, i)) : 0 };
}

static void random_parts(struct run *r, u64 n, u32 percent)
{
	u64 i;

	for (i = 0; i < n; i++)
		set_part(r, i, seq_random(&r->rng) % 100 < percent);
}

/* Each operation torn: cut off, cut on, or a piece of it. */
static void torn_states(struct run *r, u64 n)
{
	static const u32 company[] = { 0, 50, 100 };
	u64 i, k, times;

	for (i = 0; i < n; i++) {
		u64 sectors = op_bytes(op_at(r, i)) / 512;

		times = min(sectors - 1, 6ull);
		for (k = 0; k < times; k++) {
			u64 cut = 512 * (sectors <= 7 ? k + 1 : 1 +
					 seq_random(&r->rng) % (sectors - 1));

			random_parts(r, n, company[seq_random(&r->rng) % 3]);
			r->parts[i] = (struct part){ 0, cut };
			if (k & 1)
				r->parts[i] = (struct part){ cut, sectors * 512 };
			one_state(r);
		}
	}
}

static void all_states(struct run *r)
{
	u64 n = r->n, i, j, bits;

	if (n <= (r->special ? MAX_ALL_SPECIAL : MAX_ALL)) {
		for (bits = 0; bits < 1ull << n; bits++) {
			for (i = 0; i < n; i++)
				set_part(r, i, bits >> i & 1);
			one_state(r);
		}
	} else {
		for (i = 0; i <= n; i++) {
			for (j = 0; j < n; j++)
				set_part(r, j, j < i);
			one_state(r);
		}
		for (i = 0; i < 2 * n; i++) {
			for (j = 0; j < n; j++)
				set_part(r, j, (j == i / 2) ^ (i & 1));
			one_state(r);
		}
		for (i = 0; i < (r->special ? RANDOM_SUBSETS_SPECIAL :
				 RANDOM_SUBSETS); i++) {
			random_parts(r, n, 30 + 20 * (i % 3));
			one_state(r);
		}
	}
	torn_states(r, n);
}

/* ---- windows ---- */

static void add_metadata(const struct membackend *be, u64 *set, u64 *n, u64 max,
			 u64 table, u64 entries)
{
	u64 i, v;

	for (i = 0; i < entries && *n < max; i++) {
		v = mem_be64(be, table + i * 8) & QCOW2_ENTRY_OFFSET;
		if (v)
			set[(*n)++] = v;
	}
}

/* Is something written here that is new, or that names what is? */
static bool is_special(const struct run *r)
{
	static u64 set[16384];
	const struct membackend *be = r->state;
	u64 cs = 1ull << mem_be32(be, 20), l1 = mem_be64(be, 40);
	u64 rt = mem_be64(be, 48), rt_bytes = mem_be32(be, 56) * cs;
	u64 n = 0, i, j;

	add_metadata(be, set, &n, ARRAY_SIZE(set), l1, mem_be32(be, 36));
	add_metadata(be, set, &n, ARRAY_SIZE(set), rt, rt_bytes / 8);
	for (i = 0; i < r->nr_ops; i++) {
		const struct mem_op *op = op_at(r, i);

		if (op->aside)
			continue;
		if (op->kind == MEM_ZERO && op->len == cs)
			return true;
		if (op->kind != MEM_WRITE)
			continue;
		for (j = 0; j < n && set[j] != op->offset / cs * cs; j++)
			;
		if (j == n)
			return true;
	}
	return false;
}

/*
 * A crash may come before or after each acknowledgment inside the window: the
 * later, the more must be there, but also the more may be.
 */
static void window(struct run *r, u64 base, u64 end)
{
	const struct sequence *s = r->seq;
	u64 from = base, to, i;

	r->epoch = seq_random(&r->rng);
	memset(r->keys, 0, sizeof(r->keys));
	r->special = is_special(r);
	total.windows++;
	for (; from <= end && !r->failed; from = to) {
		to = end + 1;
		for (i = 0; i < s->nr_writes; i++)
			if (s->writes[i].fua_at > from)
				to = min(to, s->writes[i].fua_at);
		for (i = 0; i < s->nr_acks; i++)
			if (s->acks[i].pos > from)
				to = min(to, s->acks[i].pos);
		r->pos = from;
		r->end = min(to, end);
		for (r->n = 0; r->n < r->nr_ops && r->ops[r->n] < r->end; r->n++)
			;
		require(r);
		all_states(r);
	}
}

/* A flush: what the host had in flight is durable, and leaves the window. */
static void flushed(struct run *r, bool aside)
{
	u64 i, kept = 0;

	for (i = 0; i < r->nr_ops; i++) {
		const struct mem_op *op = op_at(r, i);

		if (op->aside == aside)
			mem_apply(host_of(r->state, op), op, 0, op_bytes(op));
		else
			r->ops[kept++] = r->ops[i];
	}
	r->nr_ops = kept;
}

/*
 * What a broken driver or device would do. drop:N: flush number N does nothing;
 * aside:N: flush number N of the data file does nothing; early:N: the first write of
 * metadata after flush N comes before it.
 */
static bool break_log(struct sequence *s, const char *how)
{
	bool aside = !strncmp(how, "aside:", 6);
	bool drop = aside || !strncmp(how, "drop:", 5);
	u64 n = strtoull(strchr(how, ':') + 1, NULL, 10), i, j;
	struct mem_op *log = s->live.log, op;

	for (i = 0; i < s->live.nr_log; i++)
		if (log[i].kind == MEM_FLUSH && log[i].aside >= aside && !--n)
			break;
	if (i >= s->live.nr_log)
		return false;
	if (drop) {
		log[i].kind = MEM_GROW; /* to size 0: nothing */
		return true;
	}
	for (j = i + 1; j < s->live.nr_log && log[j].kind != MEM_WRITE; j++)
		if (log[j].kind == MEM_FLUSH)
			return true; /* nothing there to move */
	if (j >= s->live.nr_log)
		return true;
	op = log[j];
	memmove(&log[i + 1], &log[i], (j - i) * sizeof(op));
	log[i] = op;
	return true;
}

/* All windows of a sequence; false: something was wrong. */
static bool enumerate(struct run *r)
{
	struct sequence *s = r->seq;
	u64 i, base = 0;

	r->must = calloc(s->live.nr_log + 1, 1);
	for (i = 0; i < s->nr_writes; i++)
		if (s->writes[i].fua_at != U64_MAX)
			r->must[s->writes[i].op] = true;
	for (i = 0; i <= s->live.nr_log && !r->failed; i++) {
		if (i < s->live.nr_log && s->live.log[i].kind != MEM_FLUSH) {
			if (r->nr_ops == MAX_OPS) {
				r->failed++;
				diag("too many operations in a window");
				break;
			}
			r->ops[r->nr_ops++] = i;
			continue;
		}
		window(r, base, i);
		if (i < s->live.nr_log)
			flushed(r, s->live.log[i].aside);
		base = i + 1;
		total.flushes++;
	}
	free(r->must);
	return !r->failed;
}

/* Has any sector of the guest's reached the host unencrypted? */
static bool plaintext(const struct sequence *s)
{
	u64 i, pos;

	for (i = 0; i < s->live.nr_log; i++) {
		const struct mem_op *op = &s->live.log[i];

		if (op->kind != MEM_DATA_WRITE && op->kind != MEM_WRITE)
			continue;
		for (pos = 0; op->data && pos + 512 <= op->len; pos += 512)
			if (stamp_is_any((const u8 *)op->data + pos))
				return true;
	}
	return false;
}

/* One sequence; @how: NULL or how to break it. 1: good, 0: bad, -1: no such. */
static int run_sequence(u64 seed, u64 number, enum seq_kind kind,
			const char *how, bool quiet)
{
	static struct sequence s;
	static struct run r;
	bool written = false;
	int good = 1, i;

	memset(&r, 0, sizeof(r));
	seq_run(&s, seed ^ (number * 0x9e3779b97f4a7c15ull), kind);
	r.seq = &s;
	r.state = &s.before;
	/* to close a state must not change it */
	s.before.fault[MEM_TRIM] = (struct mem_fault){ 1, U64_MAX, -EIO };
	s.aside_before.fault[MEM_TRIM] = s.before.fault[MEM_TRIM];
	r.number = number;
	r.quiet = quiet;
	r.rng = s.seed;
	for (i = 0; i < MEM_KINDS; i++)
		written |= i != MEM_READ && i != MEM_DATA_READ && s.base.seen[i];
	if (written && !*s.fail)
		snprintf(s.fail, sizeof(s.fail), "the base has been written");
	if (s.cipher && plaintext(&s) && !*s.fail)
		snprintf(s.fail, sizeof(s.fail), "guest data was written as it is");
	if (*s.fail) {
		good = 0;
		if (!quiet)
			diag("sequence %llu: %s: %s", (unsigned long long)number,
			     seq_describe(&s), s.fail);
	} else if (how && !break_log(&s, how)) {
		good = -1;
	} else {
		good = enumerate(&r);
	}
	if (!quiet && (!good || getenv("CRASH_ONLY")))
		fprintf(stderr, "# steps, with log positions:\n%s", s.trace);
	total.states += r.states;
	total.by_kind[kind] += r.states;
	total.extended += s.extended ? r.states : 0;
	total.chains += s.chain ? r.states : 0;
	total.data_files += s.image.data_file ? r.states : 0;
	total.encrypted += s.cipher ? r.states : 0;
	total.sequences++;
	seq_destroy(&s);
	return good;
}

/* ---------------------------------------------------------------- */

/*
 * A broken order must be found; if not, the enumerator is of no use. Always in the same
 * sequences: how many of others have what is broken is chance.
 */
static void self_test(const char *name, const char *how, u64 sequences)
{
	u64 number, n, tried = 0, caught = 0, found_in = 0;
	char spec[32];
	int good;

	for (number = 0; number < sequences; number++) {
		u64 before = caught;

		for (n = 1; n < 30; n++) {
			snprintf(spec, sizeof(spec), "%s:%llu", how,
				 (unsigned long long)n);
			good = run_sequence(1, number, number % SEQ_KINDS,
					    spec, true);
			if (good < 0)
				break;
			tried++;
			caught += !good;
		}
		found_in += caught > before;
	}
	ok(found_in >= 3, "self-test: %s is caught (%llu of %llu, in %llu of %llu sequences)",
	   name, (unsigned long long)caught, (unsigned long long)tried,
	   (unsigned long long)found_in, (unsigned long long)sequences);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static u64 env(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

static void report(double began)
{
	diag("%llu states of %llu windows of %llu sequences in %.1f s; life went on in %llu",
	     (unsigned long long)total.states, (unsigned long long)total.windows,
	     (unsigned long long)total.sequences, now() - began,
	     (unsigned long long)total.lives);
	diag("states by kind: plain %llu, tables %llu, blocks %llu, relocate %llu, dirty %llu",
	     (unsigned long long)total.by_kind[SEQ_PLAIN],
	     (unsigned long long)total.by_kind[SEQ_TABLES],
	     (unsigned long long)total.by_kind[SEQ_BLOCKS],
	     (unsigned long long)total.by_kind[SEQ_RELOCATE],
	     (unsigned long long)total.by_kind[SEQ_DIRTY]);
	diag("extended L2 %llu, on a base %llu, data file %llu, encrypted %llu; %llu repaired",
	     (unsigned long long)total.extended,
	     (unsigned long long)total.chains,
	     (unsigned long long)total.data_files,
	     (unsigned long long)total.encrypted,
	     (unsigned long long)total.mended);
}

/* How many sequences of each kind: see the top about qemu-img. */
static const u64 counts[SEQ_KINDS] = { 150, 100, 100, 80, 60 };

int main(void)
{
	static const char * const names[] = {
		"overwrites, copies, zero clusters", "new and shared L2 tables",
		"new refcount blocks", "a moving refcount table", "dirty images",
	};
	u64 seed = env("SEED", 1), scale = env("CRASH_SCALE", 1), only, kind, i;
	const char *how = getenv("CRASH_BREAK");
	u64 checks, wrong, bad_ones;
	double began = now();

	/* states are many and alike: keep the memory of the one for the next */
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	diag("SEED=%llu CRASH_SCALE=%llu", (unsigned long long)seed,
	     (unsigned long long)scale);
	only = env("CRASH_ONLY", U64_MAX);
	if (only != U64_MAX) {
		ok(run_sequence(seed, only, only % SEQ_KINDS, how, false) == 1,
		   "sequence %llu", (unsigned long long)only);
		report(began);
		return tap_end();
	}
	if (!how) {
		self_test("a flush that does nothing", "drop", 6);
		self_test("a write before the flush it should follow",
			  "early", 6);
		/* few have one */
		self_test("a flush of the data file that does nothing",
			  "aside", 100);
	}
	memset(&total, 0, sizeof(total));
	with_qemu = !how && !qemuimg_start(2);
	for (kind = 0; kind < SEQ_KINDS; kind++) {
		bad_ones = 0;
		for (i = 0; i < counts[kind] * scale && bad_ones < 3; i++)
			bad_ones += !run_sequence(seed, i * SEQ_KINDS + kind, kind,
					      how, false);
		ok(!bad_ones, "%s: every crash leaves a valid image", names[kind]);
		diag("%.1f s, %llu states", now() - began,
		     (unsigned long long)total.states);
	}
	report(began);
	if (!with_qemu) {
		tap_skip("qemu-img check agrees", "no qemu-img");
		return tap_end();
	}
	qemuimg_stop(&checks, &wrong);
	ok(!wrong,
	   "qemu-img check agrees: all %llu states with new tables, refcount blocks or headers in flight, %llu others",
	   (unsigned long long)total.special, (unsigned long long)total.sampled);
	diag("%.1f s", now() - began);
	return tap_end();
}
