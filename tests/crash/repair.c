// SPDX-License-Identifier: GPL-2.0
/*
 * Repairs that are interrupted. Small images with random damage are repaired, and
 * the repair ends before each write, each flush and each request for space, with
 * all, nothing, or any sectors of what was not flushed. In each of these states:
 *
 *	what is not metadata has not changed
 *	no refcount is too low, no cluster is COPIED and shared, and nothing else
 *	is wrong that was not wrong before
 *	a second repair leaves no more errors than one that was not interrupted,
 *	unless the file, which has grown, now touches what it had lost
 *
 * and qemu-img check finds nothing in an image where the repair finds nothing
 * any more.
 *
 * CRASH_SCALE=N makes N times as many images. SEED=N chooses others.
 */
#include "repair.h"

#include "crashseq.h"
#include "damage.h"
#include "qemuimg.h"
#include "tap.h"

#include <unistd.h>

#define IMAGES 200
#define KEEPS 4		/* ways to keep what was not flushed */
#define DEVICE_BYTES (1u << 20)
#define MAX_CLUSTERS 4096
#define MAX_LINES 64

/* What can be wrong with an image, but for what does no harm. */
struct wrong {
	bool low[MAX_CLUSTERS];		/* a refcount, of what was in the file */
	bool alone[MAX_CLUSTERS];	/* COPIED, and should not be */
	char lines[MAX_LINES][200];	/* everything else */
	unsigned int nr;
	bool odd;			/* a cluster number, too many lines */
};

static struct {
	u64 rng;
	u64 ops, stop;		/* seen; the first one that is not done */
	u64 states, mended, rebuilt, partly;
	unsigned int keep;
	u32 bits;
	u64 size;	/* of the damaged image */
	bool data[MAX_CLUSTERS];
} t;

/* ---- what is wrong ---- */

static void note(void *arg, bool leak, const char *line)
{
	unsigned long long k, count, refs, entry;
	struct wrong *w = arg;
	const char *is = strstr(line, " is ");

	if (leak)
		return;
	if (sscanf(line, "cluster %llu (at %*x): refcount %llu, references %llu",
		   &k, &count, &refs) == 3) {
		if (k < MAX_CLUSTERS)
			w->low[k] = k << t.bits < t.size;
		else
			w->odd = true;
	} else if (strstr(line, "COPIED contradicts") && is) {
		entry = strtoull(is + 4, NULL, 0);
		k = (entry & QCOW2_ENTRY_OFFSET) >> t.bits;
		if (entry & QCOW2_ENTRY_COPIED)
			w->alone[k % MAX_CLUSTERS] = true;
	} else if (w->nr < MAX_LINES) {
		snprintf(w->lines[w->nr++], sizeof(w->lines[0]), "%s", line);
	} else {
		w->odd = true;
	}
}

static int look(struct membackend *be, struct wrong *w)
{
	struct qcow2_check chk = { .report = note, .arg = w };
	struct qcow2_error err;

	memset(w, 0, sizeof(*w));
	return qcow2_check(be->ops, be, &chk, &err);
}

static bool has_line(const struct wrong *w, const char *line)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++)
		if (!strcmp(w->lines[i], line))
			return true;
	return false;
}

/* The first thing that is wrong now and was not, or NULL. */
static const char *worse(const struct wrong *now, const struct wrong *before)
{
	unsigned int i;

	for (i = 0; i < MAX_CLUSTERS; i++) {
		if (now->low[i] && !before->low[i])
			return "a refcount is too low";
		/* one too low has let it look as if it were alone */
		if (now->alone[i] && !before->alone[i] && !before->low[i])
			return "a cluster is COPIED";
	}
	for (i = 0; i < now->nr; i++)
		if (!before->odd && !has_line(before, now->lines[i]))
			return now->lines[i];
	return NULL;
}

/* ---- what is data ---- */

static void is_metadata(const struct membackend *be, u64 offset, u64 bytes)
{
	u64 k;

	for (k = offset >> t.bits; k << t.bits < offset + bytes; k++)
		t.data[k] = false;
}

/* Of an image without damage: every cluster that is none of the metadata. */
static void find_data(const struct membackend *be)
{
	u64 rt = mem_be64(be, 48), l1 = mem_be64(be, 40), cs = 1ull << t.bits, i;
	u64 rt_bytes = (u64)mem_be32(be, 56) << t.bits;
	u64 l1_bytes = mem_be32(be, 36) * 8ull;

	memset(t.data, 0, sizeof(t.data));
	for (i = 0; i < be->mk_end >> t.bits; i++)
		t.data[i] = true;
	is_metadata(be, 0, 1);
	is_metadata(be, rt, rt_bytes);
	is_metadata(be, l1, l1_bytes);
	for (i = 0; i < rt_bytes; i += 8)
		if (mem_be64(be, rt + i))
			is_metadata(be, mem_be64(be, rt + i), cs);
	for (i = 0; i < l1_bytes; i += 8)
		if (mem_be64(be, l1 + i))
			is_metadata(be, mem_be64(be, l1 + i) & QCOW2_ENTRY_OFFSET,
				    cs);
}

/*
 * On a device the space of data that nothing names any more may be used; a file
 * grows.
 */
static void forget_lost(const struct membackend *be)
{
	bool named[MAX_CLUSTERS] = { false };
	u64 l1 = mem_be64(be, 40), cs = 1ull << t.bits, i, j, table, entry;

	for (i = 0; i < mem_be32(be, 36); i++) {
		table = mem_be64(be, l1 + i * 8) & QCOW2_ENTRY_OFFSET;
		for (j = 0; table && table + cs <= be->size && j < cs; j += 8) {
			entry = mem_be64(be, table + j) & QCOW2_ENTRY_OFFSET;
			if (entry >> t.bits < MAX_CLUSTERS)
				named[entry >> t.bits] = true;
		}
	}
	for (i = 0; i < MAX_CLUSTERS; i++)
		t.data[i] = t.data[i] && named[i];
}

static bool data_changed(const struct membackend *be,
			 const struct membackend *before)
{
	u64 i, at, len;

	for (i = 0; i < MAX_CLUSTERS; i++) {
		at = i << t.bits;
		if (!t.data[i] || at >= before->size)
			continue;
		len = min(1ull << t.bits, before->size - at);
		if (memcmp(be->data + at, before->data + at, len))
			return true;
	}
	return false;
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

static int repair(struct membackend *be, struct qcow2_repair *rep, u64 stop)
{
	struct qcow2_error err;
	int ret;

	memset(rep, 0, sizeof(*rep));
	t.ops = 0;
	t.stop = stop;
	be->hook = stop_at;
	ret = qcow2_repair(be->ops, be, rep, &err);
	be->hook = NULL;
	return ret;
}

/* The power fails before operation @stop. NULL, or what is not as it should be. */
static const char *crash(struct membackend *be, const struct membackend *image,
			 const struct wrong *before, u64 stop,
			 const struct qcow2_repair *whole)
{
	static struct wrong now;
	struct qcow2_repair rep;
	const char *what;

	mem_copy(be, image);
	mem_log_start(be);
	repair(be, &rep, stop);
	mem_crash(be, keep_some, NULL);
	t.states++;
	if (data_changed(be, image))
		return "data has changed";
	if (look(be, &now))
		return "it cannot be checked";
	what = worse(&now, before);
	if (what)
		return what;
	if (repair(be, &rep, U64_MAX))
		return "it cannot be repaired";
	if (rep.after.errors > whole->after.errors && !rep.no_place)
		return "errors are left";
	if (!whole->after.errors && rep.after.leaks)
		return "leaks are left";
	return data_changed(be, image) ? "data has changed at last" : NULL;
}

/* ---- one image ---- */

static void ask_qemu(const struct membackend *be, const struct qcow2_repair *rep,
		     u64 number)
{
	char what[64];

	if (qcow2_check_verdict(&rep->after))
		return;
	snprintf(what, sizeof(what), "image %llu, repaired",
		 (unsigned long long)number);
	qemuimg_check(be, 0, what);
}

static bool image(u64 number)
{
	enum mem_flavour flavour = number % 4 ? MEM_FILE : MEM_DEVICE;
	static struct wrong before;
	struct membackend be, copy;
	struct qcow2_repair whole;
	const char *what = NULL;
	u64 ops, stop = 0;

	mem_init(&be, flavour, DEVICE_BYTES);
	mem_init(&copy, flavour, DEVICE_BYTES);
	damage_make(&be, &t.rng);
	t.bits = mem_be32(&be, 20);
	find_data(&be);
	damage_some(&be, &t.rng);
	t.size = be.size;
	if (flavour == MEM_DEVICE)
		forget_lost(&be);
	copy.size = flavour == MEM_DEVICE ? be.size : 0;
	mem_copy(&copy, &be);
	/* some headers are no headers any more */
	if (look(&be, &before) || repair(&copy, &whole, U64_MAX))
		goto out;
	ops = t.ops;
	t.mended += !whole.after.errors;
	t.rebuilt += whole.rebuilt;
	t.partly += whole.after.errors && whole.after.errors < whole.before.errors;
	ask_qemu(&copy, &whole, number);
	for (stop = 1; !what && stop <= ops + 1; stop++)
		for (t.keep = 0; !what && t.keep < KEEPS; t.keep++)
			what = crash(&copy, &be, &before, stop, &whole);
	if (what)
		diag("image %llu, operation %llu of %llu, keep %u: %s",
		     (unsigned long long)number, (unsigned long long)stop - 1,
		     (unsigned long long)ops, t.keep - 1, what);
out:
	mem_destroy(&be);
	mem_destroy(&copy);
	return !what;
}

int main(void)
{
	u64 seed = damage_env("SEED", 1), scale = damage_env("CRASH_SCALE", 1);
	u64 i, bad = 0, checks, wrong;
	int ret = qemuimg_start(2);

	diag("SEED=%llu CRASH_SCALE=%llu", (unsigned long long)seed,
	     (unsigned long long)scale);
	t.rng = seed;
	for (i = 0; i < IMAGES * scale; i++)
		bad += !image(i);
	ok(!bad, "%llu images, %llu interrupted repairs", (unsigned long long)i,
	   (unsigned long long)t.states);
	diag("%llu mended, %llu in part, %llu with new refcount blocks",
	     (unsigned long long)t.mended, (unsigned long long)t.partly,
	     (unsigned long long)t.rebuilt);
	if (ret) {
		tap_skip("qemu-img check", "no qemu-img");
		return tap_end();
	}
	qemuimg_stop(&checks, &wrong);
	ok(checks && !wrong, "qemu-img check finds nothing in %llu of them",
	   (unsigned long long)checks);
	return tap_end();
}
