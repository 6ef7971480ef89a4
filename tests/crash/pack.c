// SPDX-License-Identifier: GPL-2.0
/*
 * Metadata that moves together, and is interrupted. Small images whose tables are
 * scattered are packed, and this ends before each write, each flush, each request for
 * space and each discard, with all, nothing, or any sectors of what was not flushed.
 * In each of these states:
 *
 *	the image has no errors and no leaks that it did not have
 *	the guest reads what it read
 *	it can be packed, and then the tables are in a row
 *
 * CRASH_SCALE=N makes N times as many images. SEED=N chooses others.
 */
#include "pack.h"

#include "crashseq.h"
#include "damage.h"
#include "qemuimg.h"
#include "tap.h"

#define IMAGES 150
#define KEEPS 4		/* ways to keep what was not flushed */
#define TABLES 6
#define CLUSTERS 40	/* of the guest, that are mapped */
#define MAX_BYTES (16u << 10)	/* of a cluster */
#define DEVICE_BYTES (2u << 20)

static struct {
	u64 rng;
	u64 ops, stop;		/* seen; the first one that is not done */
	u64 states, moved, leaky;
	unsigned int keep;
	u32 bytes;		/* of a cluster */
	u64 guest[CLUSTERS];	/* offsets */
	u8 contents[CLUSTERS][MAX_BYTES];
} t;

/* ---- images ---- */

static void fill(struct membackend *be, u64 host, u64 guest)
{
	u32 i;

	for (i = 0; i < t.bytes; i += 512)
		stamp_make(be->data + host + i, (guest + i) / 512, 1);
}

static void make(struct membackend *be)
{
	struct mk_image p = {
		.version = 2 + seq_random(&t.rng) % 2, .order_given = true,
		.cluster_bits = 9 + seq_random(&t.rng) % 4,
	};
	bool extended = seq_random(&t.rng) % 5 == 0;
	u64 span, host;
	u32 i;

	if (extended) {
		p.version = 3;
		p.cluster_bits = 14;
		p.incompatible = QCOW2_INCOMPAT_EXTL2;
	}
	p.refcount_order = p.version == 2 ? 4 : seq_random(&t.rng) % 7;
	t.bytes = 1u << p.cluster_bits;
	/* of the guest, for each table */
	span = (u64)t.bytes * (t.bytes / (extended ? 16 : 8));
	p.size = TABLES * span;
	if (mk_image(be, &p))
		abort();
	for (i = 0; i < CLUSTERS; i++) {
		t.guest[i] = seq_random(&t.rng) % TABLES * span +
			seq_random(&t.rng) % 50 * t.bytes;
		if (!mk_map(be, t.guest[i], QCOW2_DATA, 1, &host))
			fill(be, host, t.guest[i]);
	}
	if (p.refcount_order && !extended && seq_random(&t.rng) % 3 == 0) {
		t.leaky++;
		if (mk_share_table(be, t.guest[0], 2) ||
		    mk_cluster(be, 1, &host))
			abort();
	}
}

/* Reads what is mapped, or compares it. */
static bool guest_has(struct membackend *be, bool first)
{
	static u8 buf[MAX_BYTES];
	struct qcow2_image *img;
	struct qcow2_error err;
	bool same = true;
	u32 i;

	if (mem_open(be, 0, &img, &err))
		return false;
	for (i = 0; i < CLUSTERS; i++) {
		same &= !guest_read(img, t.guest[i],
				    first ? t.contents[i] : buf, t.bytes);
		same &= first || !memcmp(buf, t.contents[i], t.bytes);
	}
	return !qcow2_image_close(img) && same;
}

/* ---- one state ---- */

static int stop_at(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	if (kind == MEM_READ)
		return 0;
	return ++t.ops >= t.stop ? -EIO : 0;
}

static bool keep_some(void *arg, const struct mem_op *op, u64 sector)
{
	if (t.keep < 2)
		return t.keep;
	return seq_random(&t.rng) & 1;
}

static int pack(struct membackend *be, struct qcow2_pack *p, u64 stop)
{
	struct qcow2_error err;
	int ret;

	memset(p, 0, sizeof(*p));
	t.ops = 0;
	t.stop = stop;
	be->hook = stop_at;
	ret = qcow2_pack(be->ops, be, p, &err);
	be->hook = NULL;
	return ret;
}

/* NULL, or what is not as it should be. */
static const char *wrong(struct membackend *be, u64 leaks)
{
	struct qcow2_check chk = { .report = NULL };
	struct qcow2_error err;

	if (qcow2_check(be->ops, be, &chk, &err))
		return "it cannot be checked";
	if (chk.errors)
		return "it has errors";
	if (chk.leaks != leaks)
		return "it has other leaks";
	return guest_has(be, false) ? NULL : "the guest reads something else";
}

/* The power fails before operation @stop. NULL, or what is not as it should be. */
static const char *crash(struct membackend *be, const struct membackend *image,
			 u64 stop, u64 leaks)
{
	struct qcow2_pack p;
	const char *what;

	mem_copy(be, image);
	mem_log_start(be);
	pack(be, &p, stop);
	mem_crash(be, keep_some, NULL);
	t.states++;
	what = wrong(be, leaks);
	if (what)
		return what;
	if (pack(be, &p, U64_MAX))
		return "it cannot be packed";
	if (pack(be, &p, U64_MAX) || p.bytes)
		return "it is not packed";
	return wrong(be, leaks);
}

/* Write number @n finds no space: the image is as it was, and as long. */
static const char *no_space(struct membackend *be, const struct membackend *image,
			    u64 n, u64 leaks)
{
	struct qcow2_pack p;
	int ret;

	mem_copy(be, image);
	be->seen[MEM_WRITE] = 0;
	be->fault[MEM_WRITE] = (struct mem_fault){ n, 1, -ENOSPC };
	ret = pack(be, &p, U64_MAX);
	mem_fail_nothing(be);
	if (ret != -ENOSPC || be->size != image->size)
		return "without space it grows";
	return wrong(be, leaks);
}

/* ---- one image ---- */

static bool image(u64 number)
{
	enum mem_flavour flavour = number % 4 ? MEM_FILE : MEM_DEVICE;
	struct membackend be, copy;
	struct qcow2_pack p;
	const char *what = NULL;
	u64 ops, leaks, n, stop = 0;
	char name[64];

	mem_init(&be, flavour, DEVICE_BYTES);
	mem_init(&copy, flavour, DEVICE_BYTES);
	make(&be);
	if (!guest_has(&be, true))
		what = "it cannot be read";
	mem_copy(&copy, &be);
	if (!what && pack(&copy, &p, U64_MAX))
		what = "it cannot be packed";
	ops = t.ops;
	leaks = p.before.leaks;
	t.moved += !!p.bytes;
	if (!what) {
		snprintf(name, sizeof(name), "image %llu, packed",
			 (unsigned long long)number);
		qemuimg_check(&copy, leaks ? 3 : 0, name);
	}
	for (n = 1; !what && p.bytes && n <= 3; n++)
		what = no_space(&copy, &be, n, leaks);
	for (stop = 1; !what && stop <= ops + 1; stop++)
		for (t.keep = 0; !what && t.keep < KEEPS; t.keep++)
			what = crash(&copy, &be, stop, leaks);
	if (what)
		diag("image %llu, operation %llu of %llu, keep %u: %s",
		     (unsigned long long)number, (unsigned long long)stop - 1,
		     (unsigned long long)ops, t.keep - 1, what);
	mem_destroy(&be);
	mem_destroy(&copy);
	return !what;
}

int main(void)
{
	u64 seed = damage_env("SEED", 1), scale = damage_env("CRASH_SCALE", 1);
	u64 i, bad = 0, checks, failed;
	int ret = qemuimg_start(2);

	diag("SEED=%llu CRASH_SCALE=%llu", (unsigned long long)seed,
	     (unsigned long long)scale);
	t.rng = seed;
	for (i = 0; i < IMAGES * scale; i++)
		bad += !image(i);
	ok(!bad, "%llu images, %llu interrupted moves", (unsigned long long)i,
	   (unsigned long long)t.states);
	ok(t.moved > i / 2 && t.leaky, "%llu had tables to move, %llu had leaks",
	   (unsigned long long)t.moved, (unsigned long long)t.leaky);
	if (ret) {
		tap_skip("qemu-img check", "no qemu-img");
		return tap_end();
	}
	qemuimg_stop(&checks, &failed);
	ok(checks && !failed, "qemu-img check has the same verdict on %llu of them",
	   (unsigned long long)checks);
	return tap_end();
}
