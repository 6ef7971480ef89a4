// SPDX-License-Identifier: GPL-2.0
/*
 * Whatever can fail, fails. The life of an image from open to close is played
 * again and again, and each time another allocation, or another operation of
 * the host, is the one that fails, or the first of many. The core may give up
 * what was asked for, and writing as a whole, but:
 *
 *	the only errors are the one that was made, and -EROFS after it
 *	the image is not marked corrupt, and qcow2_check() finds no error
 *	a block reads as a generation that was written: not older than the last
 *	that was acknowledged (made durable, if the close failed), not newer
 *	than the last that was tried
 *	nothing is leaked, says LeakSanitizer
 */
#include "allocs.h"
#include "check.h"
#include "fixture.h"

#define BLOCKS 256	/* that are used: half at 0, half in another L2 table */
#define HALF (BLOCKS / 2)

/* ---- lives ---- */

struct world {
	const char *name;
	enum mem_flavour flavour;
	u64 bytes;		/* of a device */
	struct mk_image image;
	u64 far;		/* guest offset of the second half */
	u64 end;		/* of the used part, 0: anywhere */
	u64 tables;		/* more L2 tables, after the second half */
};

/* What fails: an allocation if @kind is MEM_KINDS. */
struct failure {
	enum mem_kind kind;
	u64 at, count;
	int error;
};

struct life {
	const struct world *world;
	const struct failure *failure;
	struct fixture f;
	u64 generation;
	u64 durable[BLOCKS], acknowledged[BLOCKS], tried[BLOCKS];
	int closed;		/* what the close said */
	char wrong[256];	/* the first thing that was, or "" */
};

static void __printf(2, 3) wrong(struct life *l, const char *fmt, ...)
{
	va_list ap;

	if (*l->wrong)
		return;
	va_start(ap, fmt);
	vsnprintf(l->wrong, sizeof(l->wrong), fmt, ap);
	va_end(ap);
}

/* Has it happened yet? */
static bool happened(const struct life *l)
{
	const struct failure *fail = l->failure;

	return (fail->kind == MEM_KINDS ? allocs.seen : l->f.be.seen[fail->kind]) >=
		fail->at;
}

/* May the core return that? */
static int returned(struct life *l, const char *call, int ret)
{
	allocs.armed = false;
	if (ret && (!happened(l) ||
		    (ret != l->failure->error && ret != -EROFS)))
		wrong(l, "%s: %d", call, ret);
	return ret;
}

/* Calls the core. */
#define CORE(l, call) (allocs.armed = true, returned(l, #call, call))

static u64 offset_of(const struct life *l, u64 block)
{
	return block < HALF ? block * 512 : l->world->far + (block - HALF) * 512;
}

static void put(struct life *l, u64 block, u64 n, bool fua)
{
	u8 *buf = malloc(n * 512);
	u64 i, gen = ++l->generation, at = offset_of(l, block);
	int ret;

	fx_fill(buf, at, n * 512, gen);
	for (i = block; i < block + n; i++)
		l->tried[i] = gen;
	ret = fua ? CORE(l, guest_write_fua(l->f.img, at, buf, n * 512)) :
		CORE(l, guest_write(l->f.img, at, buf, n * 512));
	for (i = block; !ret && i < block + n; i++) {
		l->acknowledged[i] = gen;
		if (fua)
			l->durable[i] = gen;
	}
	free(buf);
}

/* What is read is what may be there; errors are errors. */
static void look(struct life *l, u64 block, u64 n)
{
	u8 *buf = malloc(n * 512);
	const u64 *least = l->closed ? l->durable : l->acknowledged;
	u64 i, at = offset_of(l, block);

	if (CORE(l, guest_read(l->f.img, at, buf, n * 512)))
		n = 0;
	for (i = 0; i < n; i++) {
		u64 gen = 0;

		if (!stamp_is_zero(buf + i * 512) &&
		    !stamp_get(buf + i * 512, at / 512 + i, &gen))
			wrong(l, "block %llu is something else",
			      (unsigned long long)(block + i));
		else if (gen < least[block + i] || gen > l->tried[block + i])
			wrong(l, "block %llu has generation %llu, not %llu to %llu",
			      (unsigned long long)(block + i),
			      (unsigned long long)gen,
			      (unsigned long long)least[block + i],
			      (unsigned long long)l->tried[block + i]);
	}
	free(buf);
}

static void sync(struct life *l)
{
	if (!CORE(l, qcow2_commit(l->f.img)))
		memcpy(l->durable, l->acknowledged, sizeof(l->durable));
}

static void map_data(struct life *l, u64 block, u64 refcount)
{
	u64 host, i, guest = offset_of(l, block);

	must(mk_map(&l->f.be, guest, QCOW2_DATA, refcount, &host));
	fx_store(&l->f, host, guest, l->f.cs, 1);
	for (i = block; i < block + l->f.cs / 512; i++) {
		l->durable[i] = 1;
		l->acknowledged[i] = 1;
		l->tried[i] = 1;
	}
}

static u64 table_guest(const struct world *w, u64 i)
{
	return 2 * w->far + (i << (2 * w->image.cluster_bits - 3));
}

/* An image with everything that a write can meet. */
static void give_birth(struct life *l, const struct world *w)
{
	struct fixture *f = &l->f;
	u64 i;

	fx_make_on(f, w->flavour, w->bytes, &w->image);
	if (w->end)
		f->be.mk_end = max(f->be.mk_end, w->end);
	l->generation = 1;
	map_data(l, HALF, 1);
	must(mk_share_table(&f->be, w->far, 2));
	map_data(l, 0, 1);
	map_data(l, f->cs / 512, 2);
	must(mk_map(&f->be, 2 * f->cs, QCOW2_ZERO_ALLOC, 1, NULL));
	must(mk_map(&f->be, 3 * f->cs, QCOW2_ZERO, 1, NULL));
	must(mk_map(&f->be, 4 * f->cs, QCOW2_ZERO_ALLOC, 2, NULL));
	map_data(l, 5 * f->cs / 512, 2);
	for (i = 0; i < w->tables; i++)
		must(mk_set_l2(&f->be, table_guest(w, i), 0));
}

/* Reads so much that what is not dirty is not in memory any more. */
static void wander(struct life *l)
{
	u8 buf[512];
	u64 i;

	for (i = 0; i < l->world->tables; i++)
		CORE(l, guest_read(l->f.img, table_guest(l->world, i), buf, 512));
}

static void live(struct life *l)
{
	u64 i, per = l->f.cs / 512;

	look(l, 0, 2 * per);
	for (i = 0; i < 5; i++)
		put(l, i * per, 1, false);
	look(l, 0, HALF);
	sync(l);
	wander(l);
	put(l, HALF, 1, false);
	put(l, HALF + 4 * per, 2 * per, false);
	put(l, 5 * per + per - 1, 2, true);
	sync(l);
	wander(l);
	put(l, 8 * per, min(60 * per, HALF - 8 * per), false);
	for (i = 8 * per; i + 3 * per <= HALF; i += 3 * per)
		put(l, i, 3 * per, false);
	sync(l);
	allocs.armed = true;
	qcow2_retry(l->f.img);
	allocs.armed = false;
	put(l, 0, 3 * per, false);
	put(l, HALF, 2 * per, true);
	look(l, 0, HALF);
	look(l, HALF, HALF);
	put(l, 2, 1, false);
}

static void say(void *arg, bool leak, const char *line)
{
	if (!leak)
		wrong(arg, "check: %s", line);
}

static void examine(struct life *l)
{
	struct qcow2_check chk = { .report = say, .arg = l };

	mem_fail_nothing(&l->f.be);
	allocs.at = 0;
	if (mem_be64(&l->f.be, 72) & QCOW2_INCOMPAT_CORRUPT)
		wrong(l, "marked corrupt: %s", mem_last_msg(&l->f.be));
	if (qcow2_check(l->f.be.ops, &l->f.be, &chk, &l->f.err))
		wrong(l, "check: %s", l->f.err.msg);
	fx_open(&l->f);
	look(l, 0, HALF);
	look(l, HALF, HALF);
	fx_close(&l->f);
}

/* One life; adds to *bad if something was wrong. Did the failure take place? */
static bool play(const struct world *w, const struct failure *fail, u64 *bad)
{
	static struct life l;
	bool did;

	memset(&l, 0, sizeof(l));
	l.world = w;
	l.failure = fail;
	give_birth(&l, w);
	memset(l.f.be.seen, 0, sizeof(l.f.be.seen));
	allocs_fail(0, 0);
	if (fail->kind == MEM_KINDS) {
		allocs_fail(fail->at, fail->count);
	} else {
		l.f.be.fault[fail->kind] = (struct mem_fault){
			fail->at, fail->count, fail->error };
	}
	if (!CORE(&l, mem_open(&l.f.be, 1, &l.f.img, &l.f.err))) {
		live(&l);
		l.closed = CORE(&l, qcow2_image_close(l.f.img));
		l.f.img = NULL;
	}
	did = happened(&l);
	examine(&l);
	/* a commit has what it needs in reserve */
	if (l.closed && fail->kind == MEM_KINDS)
		wrong(&l, "close: %d", l.closed);
	if (*l.wrong && (*bad)++ < 5)
		diag("number %llu: %s", (unsigned long long)fail->at, l.wrong);
	mem_destroy(&l.f.be);
	return did;
}

static const struct world worlds[] = {
	{ "512-byte clusters, the refcount table moves", MEM_FILE, 0,
	  { .cluster_bits = 9, .refcount_order = 6, .size = 256 << 10,
	    .autoclear = 1 << 7 }, 64 << 10, (2 << 20) - 124 * 512, 0 },
	{ "4-KiB clusters", MEM_FILE, 0,
	  { .cluster_bits = 12, .size = 4 << 20 }, 2 << 20, 0, 0 },
	{ "512-byte clusters on a device", MEM_DEVICE, 1 << 20,
	  { .cluster_bits = 9, .size = 256 << 10 }, 64 << 10, 0, 0 },
	{ "more tables than the cache holds", MEM_FILE, 0,
	  { .cluster_bits = 9, .size = 4 << 20 }, 64 << 10, 0, 100 },
};

static const struct {
	const char *name;
	enum mem_kind kind;
	int error;
} failures[] = {
	{ "allocation", MEM_KINDS, -ENOMEM },
	{ "read of metadata", MEM_READ, -EIO },
	{ "write of metadata", MEM_WRITE, -EIO },
	{ "write of metadata that finds no space", MEM_WRITE, -ENOSPC },
	{ "read of data", MEM_DATA_READ, -EIO },
	{ "write of data", MEM_DATA_WRITE, -EIO },
	{ "write of data that finds no space", MEM_DATA_WRITE, -ENOSPC },
	{ "zeroing", MEM_ZERO, -EIO },
	{ "growth", MEM_GROW, -ENOSPC },
	{ "growth for another reason", MEM_GROW, -EIO },
	{ "flush", MEM_FLUSH, -EIO },
	{ "trim", MEM_TRIM, -EIO },
};

static void test_lives(const struct world *w)
{
	u64 i, for_good;

	for (i = 0; i < ARRAY_SIZE(failures); i++) {
		for (for_good = 0; for_good < 2; for_good++) {
			struct failure fail = { failures[i].kind, 0,
				for_good ? U64_MAX : 1, failures[i].error };
			u64 bad = 0;

			do {
				fail.at++;
			} while (play(w, &fail, &bad));
			ok(!bad, "%s: %s of %llu: %s", w->name,
			   for_good ? "all after each" : "each",
			   (unsigned long long)fail.at - 1, failures[i].name);
		}
	}
}

int main(void)
{
	u64 i;

	for (i = 0; i < ARRAY_SIZE(worlds); i++)
		test_lives(&worlds[i]);
	return tap_end();
}
