// SPDX-License-Identifier: GPL-2.0
/*
 * The offline check against qemu-img check, on images that are wrong: small
 * images with one to three things changed at random. The verdicts must agree,
 * but where qemu-img gives up with status 1 for a refcount block that is not
 * aligned; we call that an error of the image.
 *
 * CRASH_SCALE=N makes N times as many images. SEED=N chooses others.
 */
#include "check.h"
#include "crashseq.h"
#include "qemuimg.h"
#include "tap.h"

#include <unistd.h>

#define IMAGES 300

static u64 rng;

static u64 rnd(u64 n)
{
	return seq_random(&rng) % n;
}

static void make(struct membackend *be)
{
	struct mk_image p = { .order_given = true, .version = 2 + rnd(2) };
	static const enum qcow2_kind kinds[] = {
		QCOW2_DATA, QCOW2_ZERO, QCOW2_ZERO_ALLOC,
	};
	u64 i, guest;

	p.cluster_bits = 9 + rnd(4);
	p.refcount_order = p.version == 2 ? 4 : rnd(7);
	p.size = (40ull << p.cluster_bits) + (1ull << (2 * p.cluster_bits - 3));
	mem_init(be, MEM_FILE, 0);
	if (mk_image(be, &p))
		abort();
	for (i = 0; i < 20; i++) {
		guest = (i * 4 + rnd(4)) << p.cluster_bits;
		if (guest < p.size)
			mk_map(be, guest, kinds[p.version == 2 ? 0 : rnd(3)], 1,
			       NULL);
	}
}

/* One thing that the check should see, or should not mind. */
static void damage(struct membackend *be)
{
	u32 bits = mem_be32(be, 20);
	u64 l1 = mem_be64(be, 40), rt = mem_be64(be, 48), at, table, end;

	switch (rnd(6)) {
	case 0: /* a bit of the metadata, which comes first */
		at = (1ull << bits) + rnd(7ull << bits);
		if (at < be->size)
			be->data[at] ^= 1 << rnd(8);
		break;
	case 1: /* a bit of an L2 entry */
		table = mem_be64(be, l1) & QCOW2_ENTRY_OFFSET;
		at = table + 8 * rnd(1 << (bits - 3));
		if (table && at < be->size)
			mem_set_be64(be, at, mem_be64(be, at) ^ 1ull << rnd(64));
		break;
	case 2: /* of an L1 entry */
		mem_set_be64(be, l1, mem_be64(be, l1) ^ 1ull << rnd(64));
		break;
	case 3: /* of a refcount table entry */
		mem_set_be64(be, rt, mem_be64(be, rt) ^ 1ull << rnd(64));
		break;
	case 4: /* the end of the file */
		end = be->size;
		be->size -= 512 * (1 + rnd((1u << bits) / 256));
		memset(be->data + be->size, 0, end - be->size);
		break;
	default: /* a refcount */
		at = mem_be64(be, rt);
		if (at < be->size && !(at & 511))
			mk_set_refcount(be, rnd(be->size >> bits) << bits,
					rnd(2));
		break;
	}
}

static void remember(void *arg, bool leak, const char *line)
{
	if (!leak || !*(char *)arg)
		snprintf(arg, 256, "%s", line);
}

/* Do both say the same about one image? */
static bool compare(const char *path, u64 number, u64 *statuses)
{
	struct membackend be;
	char line[256] = "";
	struct qcow2_check chk = { .report = remember, .arg = line };
	struct qcow2_error err = { "" };
	int ours, theirs, i, n = rnd(8) ? 1 + rnd(3) : 0;
	bool same;

	make(&be);
	for (i = 0; i < n; i++)
		damage(&be);
	ours = qcow2_check(be.ops, &be, &chk, &err) ? 1 :
		qcow2_check_verdict(&chk);
	if (mem_save_file(&be, path))
		abort();
	theirs = qemuimg_now(path);
	unlink(path);
	statuses[theirs & 3]++;
	same = ours == theirs || (theirs == 1 && ours == 2);
	if (!same)
		diag("image %llu: we say %d (%s%s), qemu-img %d",
		     (unsigned long long)number, ours, err.msg, line, theirs);
	mem_destroy(&be);
	return same;
}

static u64 env(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

int main(void)
{
	u64 seed = env("SEED", 1), scale = env("CRASH_SCALE", 1), i;
	u64 statuses[4] = { 0 }, different = 0;
	char dir[] = "/tmp/check.XXXXXX", path[64];

	diag("SEED=%llu CRASH_SCALE=%llu", (unsigned long long)seed,
	     (unsigned long long)scale);
	if (qemuimg_now("/dev/null") < 0) {
		tap_skip("qemu-img check agrees", "no qemu-img");
		return tap_end();
	}
	rng = seed;
	if (!mkdtemp(dir))
		abort();
	snprintf(path, sizeof(path), "%s/image", dir);
	for (i = 0; i < IMAGES * scale; i++)
		different += !compare(path, i, statuses);
	rmdir(dir);
	ok(!different, "qemu-img check agrees on %llu images", (unsigned long long)i);
	diag("clean %llu, leaks %llu, errors %llu, given up %llu",
	     (unsigned long long)statuses[0], (unsigned long long)statuses[3],
	     (unsigned long long)statuses[2], (unsigned long long)statuses[1]);
	return tap_end();
}
