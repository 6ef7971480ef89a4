// SPDX-License-Identifier: GPL-2.0
/*
 * The offline check against qemu-img check, on images that are wrong: small
 * images with up to three things changed at random. The verdicts must agree, but
 * where qemu-img gives up with status 1 for a refcount block that is not aligned,
 * which we call an error of the image, and where our check is stricter on
 * purpose.
 *
 * CRASH_SCALE=N makes N times as many images. SEED=N chooses others.
 */
#include "check.h"
#include "damage.h"
#include "qemuimg.h"
#include "tap.h"

#include <unistd.h>

#define IMAGES 300

static u64 rng;

struct findings {
	char line[256];
	u64 stricter;	/* errors that qemu-img does not mention: see check.c */
};

static void remember(void *arg, bool leak, const char *line)
{
	struct findings *f = arg;

	if (!leak || !*f->line)
		snprintf(f->line, sizeof(f->line), "%s", line);
	f->stricter += strstr(line, "a zero flag in version 2") ||
		strstr(line, "COPIED without") || strstr(line, "and also");
}

/* Do both say the same about one image? */
static bool compare(const char *path, u64 number, u64 *statuses)
{
	struct findings f = { "" };
	struct membackend be;
	struct qcow2_check chk = { .report = remember, .arg = &f };
	struct qcow2_error err = { "" };
	int ours, theirs;
	bool same;

	mem_init(&be, MEM_FILE, 0);
	damage_make(&be, &rng);
	damage_some(&be, &rng);
	ours = qcow2_check(be.ops, &be, &chk, &err) ? 1 :
		qcow2_check_verdict(&chk);
	if (mem_save_file(&be, path))
		abort();
	theirs = qemuimg_now(path);
	unlink(path);
	statuses[theirs & 3]++;
	same = ours == theirs || (theirs == 1 && ours == 2);
	if (!same && f.stricter) {
		chk.errors -= f.stricter;
		same = qcow2_check_verdict(&chk) == theirs;
	}
	if (!same)
		diag("image %llu: we say %d (%s%s), qemu-img %d",
		     (unsigned long long)number, ours, err.msg, f.line, theirs);
	mem_destroy(&be);
	return same;
}

int main(void)
{
	u64 seed = damage_env("SEED", 1), scale = damage_env("CRASH_SCALE", 1), i;
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
