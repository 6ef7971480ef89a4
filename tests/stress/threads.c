// SPDX-License-Identifier: GPL-2.0
/*
 * The core under many threads, for ThreadSanitizer. Each scenario is an image
 * with a cache so small that blocks are evicted all the time, and threads that
 * do one of:
 *
 *	write blocks of their own, in clusters that they share with others, so
 *	that allocating writes meet and wait; read them back and verify
 *	read anything and verify that it is something that was there
 *	commit
 *
 * The backend copies bytes without a lock: two threads that touch one host
 * sector at once, one of them writing, are found. A reader that the guest would
 * race with is therefore kept from its blocks by a lock for each block group;
 * whatever else is seen is the core's fault.
 *
 * At the end, and again after closing and opening, every block is what was
 * written last, and the check finds neither errors nor, but for clusters that
 * were shared to begin with, leaks.
 *
 * STRESS_SECONDS=N is the time for all scenarios (default 30), SEED=N.
 */
#include "check.h"
#include "commit.h"
#include "crashseq.h"
#include "tap.h"

#include <time.h>

#define WRITERS 6
#define READERS 3
#define COMMITTERS 1
#define THREADS (WRITERS + READERS + COMMITTERS)
#define MAX_RUN 16

struct scenario {
	const char *name;
	enum mem_flavour flavour;
	struct mk_image image;
	u64 blocks;		/* that are written, from the start */
	u64 end;		/* of the used part, 0: anywhere */
	bool fill;		/* data, shared data, zero clusters */
	bool fua;
};

struct stress {
	const struct scenario *sc;
	struct membackend be;
	struct qcow2_image *img;
	pthread_rwlock_t *locks;	/* of each block */
	u64 *newest;			/* generation of each block, under its lock */
	u64 seed;
	u64 shared;			/* clusters that leak in the end */
	bool stop;
	u64 writes, reads, commits;
	char fail[256];
	pthread_mutex_t fail_lock;
};

struct thread {
	pthread_t id;
	struct stress *st;
	u64 rng;
	unsigned int number;
};

static void __printf(2, 3) fail(struct stress *st, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&st->fail_lock);
	if (!*st->fail) {
		va_start(ap, fmt);
		vsnprintf(st->fail, sizeof(st->fail), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&st->fail_lock);
	WRITE_ONCE(st->stop, true);
}

static void count(u64 *what)
{
	__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

/* ---- threads ---- */

static void verify(struct stress *st, const u8 *buf, u64 block, u64 n)
{
	u64 i, gen;

	for (i = 0; i < n; i++) {
		u64 want = st->newest[block + i];

		gen = 0;
		if (!want ? !stamp_is_zero(buf + i * 512) :
		    !stamp_get(buf + i * 512, block + i, &gen) || gen != want)
			fail(st, "block %llu reads generation %llu, not %llu",
			     (unsigned long long)(block + i),
			     (unsigned long long)gen, (unsigned long long)want);
	}
}

/* Locks are taken upwards, so that runs may overlap. */
static void lock_run(struct stress *st, u64 block, u64 n, bool write)
{
	u64 i;

	for (i = block; i < block + n; i++) {
		if (write)
			pthread_rwlock_wrlock(&st->locks[i]);
		else
			pthread_rwlock_rdlock(&st->locks[i]);
	}
}

static void unlock_run(struct stress *st, u64 block, u64 n)
{
	u64 i;

	for (i = block; i < block + n; i++)
		pthread_rwlock_unlock(&st->locks[i]);
}

/*
 * Blocks from a window that moves through the image, so that writers meet in
 * clusters while they are being allocated.
 */
static void choose(struct thread *t, u64 *block, u64 *n)
{
	struct stress *st = t->st;
	u64 blocks = st->sc->blocks, center;

	*n = 1 + seq_random(&t->rng) % MAX_RUN;
	center = READ_ONCE(st->writes) * 2;
	*block = (center + seq_random(&t->rng) % 256) % blocks;
	if (seq_random(&t->rng) % 8 == 0)
		*block = seq_random(&t->rng) % blocks;
	*n = min(*n, blocks - *block);
}

static void *writer(void *arg)
{
	struct thread *t = arg;
	struct stress *st = t->st;
	u8 *buf = malloc(MAX_RUN * 512);
	u64 gen = t->number, block, n, i;
	int ret;

	while (!READ_ONCE(st->stop)) {
		bool fua = st->sc->fua && seq_random(&t->rng) % 16 == 0;

		choose(t, &block, &n);
		lock_run(st, block, n, true);
		gen += THREADS;
		for (i = 0; i < n; i++) {
			stamp_make(buf + i * 512, block + i, gen);
			st->newest[block + i] = gen;
		}
		ret = fua ? guest_write_fua(st->img, block * 512, buf, n * 512) :
			guest_write(st->img, block * 512, buf, n * 512);
		if (ret)
			fail(st, "write: error %d: %s", ret,
			     mem_last_msg(&st->be));
		if (seq_random(&t->rng) % 4 == 0) {
			ret = guest_read(st->img, block * 512, buf, n * 512);
			if (ret)
				fail(st, "read: error %d", ret);
			else
				verify(st, buf, block, n);
		}
		unlock_run(st, block, n);
		count(&st->writes);
	}
	free(buf);
	return NULL;
}

static void *reader(void *arg)
{
	struct thread *t = arg;
	struct stress *st = t->st;
	u8 *buf = malloc(MAX_RUN * 512);
	u64 block, n;
	int ret;

	while (!READ_ONCE(st->stop)) {
		choose(t, &block, &n);
		lock_run(st, block, n, false);
		ret = guest_read(st->img, block * 512, buf, n * 512);
		if (ret)
			fail(st, "read: error %d: %s", ret,
			     mem_last_msg(&st->be));
		else
			verify(st, buf, block, n);
		unlock_run(st, block, n);
		count(&st->reads);
	}
	free(buf);
	return NULL;
}

static void *committer(void *arg)
{
	struct thread *t = arg;
	struct stress *st = t->st;

	while (!READ_ONCE(st->stop)) {
		struct timespec pause = { 0, seq_random(&t->rng) % 2000000 };
		int ret = qcow2_commit(st->img);

		if (ret)
			fail(st, "commit: error %d: %s", ret,
			     mem_last_msg(&st->be));
		nanosleep(&pause, NULL);
		count(&st->commits);
	}
	return NULL;
}

/* ---- a scenario ---- */

static void fill_cluster(struct stress *st, u64 guest, u64 host)
{
	u64 i, n = (1u << st->sc->image.cluster_bits) / 512;

	for (i = 0; i < n; i++) {
		stamp_make(st->be.data + host + i * 512, guest / 512 + i, 1);
		st->newest[guest / 512 + i] = 1;
	}
}

/* Every second group of clusters is something else to begin with. */
static int fill(struct stress *st)
{
	u32 bits = st->sc->image.cluster_bits;
	u64 guest, host, cs = 1u << bits, many;
	int ret = 0;

	for (guest = 0; !ret && guest + cs <= st->sc->blocks * 512; guest += cs) {
		switch (guest >> bits & 15) {
		case 0 ... 2:
			ret = mk_map(&st->be, guest, QCOW2_DATA, 1, &host);
			break;
		case 3 ... 6:
			many = st->sc->image.refcount_order ? 2 : 1;
			ret = mk_map(&st->be, guest, QCOW2_DATA, many, &host);
			st->shared += many - 1;
			break;
		case 7 ... 8:
			ret = mk_map(&st->be, guest, QCOW2_ZERO_ALLOC, 1, NULL);
			continue;
		case 9:
			ret = mk_map(&st->be, guest, QCOW2_ZERO, 1, NULL);
			continue;
		default:
			continue;
		}
		if (!ret)
			fill_cluster(st, guest, host);
	}
	return ret;
}

static int prepare(struct stress *st)
{
	u64 i, cs = 1ull << st->sc->image.cluster_bits;
	struct qcow2_error err;
	int ret;

	st->locks = calloc(st->sc->blocks, sizeof(*st->locks));
	st->newest = calloc(st->sc->blocks, sizeof(*st->newest));
	for (i = 0; i < st->sc->blocks; i++)
		pthread_rwlock_init(&st->locks[i], NULL);
	pthread_mutex_init(&st->fail_lock, NULL);
	mem_init(&st->be, st->sc->flavour, 4 * st->sc->blocks * 512 +
		 st->sc->end + 64 * cs + (1 << 20));
	ret = mk_image(&st->be, &st->sc->image);
	if (!ret && st->sc->fill)
		ret = fill(st);
	if (!ret && st->sc->end) {
		st->be.mk_end = max(st->be.mk_end, st->sc->end);
		ret = mk_map(&st->be, 0, QCOW2_ZERO_ALLOC, 1, NULL);
	}
	if (!ret)
		ret = mem_open(&st->be, 1, &st->img, &err);
	return ret;
}

static void run_threads(struct stress *st, double seconds)
{
	struct thread threads[THREADS];
	struct timespec until;
	unsigned int i;

	for (i = 0; i < THREADS; i++) {
		threads[i] = (struct thread){ .st = st, .number = i + 2,
			.rng = st->seed + i };
		if (pthread_create(&threads[i].id, NULL,
				   i < WRITERS ? writer :
				   i < WRITERS + READERS ? reader : committer,
				   &threads[i]))
			abort();
	}
	until.tv_sec = seconds;
	until.tv_nsec = (seconds - until.tv_sec) * 1e9;
	nanosleep(&until, NULL);
	WRITE_ONCE(st->stop, true);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i].id, NULL);
}

static void verify_all(struct stress *st)
{
	u8 buf[512];
	u64 i;
	int ret;

	for (i = 0; i < st->sc->blocks && !*st->fail; i++) {
		ret = guest_read(st->img, i * 512, buf, 512);
		if (ret)
			fail(st, "block %llu: error %d: %s",
			     (unsigned long long)i, ret, mem_last_msg(&st->be));
		else
			verify(st, buf, i, 1);
	}
}

static void say_error(void *arg, bool leak, const char *line)
{
	struct stress *st = arg;

	if (!leak)
		fail(st, "check: %s", line);
}

static void check_end(struct stress *st)
{
	struct qcow2_check chk = { .report = say_error, .arg = st };
	struct qcow2_error err;

	if (qcow2_check(st->be.ops, &st->be, &chk, &err))
		fail(st, "check: %s", err.msg);
	else if (chk.leaks > st->shared)
		fail(st, "%llu clusters leak, at most %llu may",
		     (unsigned long long)chk.leaks,
		     (unsigned long long)st->shared);
}

static void run_scenario(const struct scenario *sc, u64 seed, double seconds)
{
	static struct stress st;
	struct qcow2_error err;
	int ret;

	memset(&st, 0, sizeof(st));
	st.sc = sc;
	st.seed = seed;
	ret = prepare(&st);
	if (ret) {
		ok(false, "%s: preparation: error %d", sc->name, ret);
		return;
	}
	run_threads(&st, seconds);
	verify_all(&st);
	ret = qcow2_image_close(st.img);
	if (ret)
		fail(&st, "close: error %d: %s", ret, mem_last_msg(&st.be));
	check_end(&st);
	if (mem_open(&st.be, 0, &st.img, &err)) {
		fail(&st, "open: %s", err.msg);
	} else {
		verify_all(&st);
		qcow2_image_close(st.img);
	}
	if (!ok(!*st.fail, "%s", sc->name))
		diag("%s", st.fail);
	diag("%llu writes, %llu reads, %llu commits",
	     (unsigned long long)st.writes, (unsigned long long)st.reads,
	     (unsigned long long)st.commits);
	mem_destroy(&st.be);
	free(st.locks);
	free(st.newest);
}

#define IMAGE(bits, order, bytes) { .cluster_bits = (bits), \
	.refcount_order = (order), .order_given = true, .size = (bytes) }

static const struct scenario scenarios[] = {
	{ "new clusters of 64 KiB on a device", MEM_DEVICE,
	  IMAGE(16, 4, 64 << 20), 65536, 0, false, true },
	{ "clusters of 4 KiB of all kinds in a file", MEM_FILE,
	  IMAGE(12, 4, 64 << 20), 32768, 0, true, true },
	{ "clusters of 512 bytes, many tables and refcount blocks", MEM_DEVICE,
	  { .cluster_bits = 9, .refcount_order = 6, .size = 8 << 20,
	    .reftable_clusters = 12 }, 16384, 0, true, false },
	{ "clusters of 1 KiB, one-bit refcounts", MEM_FILE,
	  IMAGE(10, 0, 8 << 20), 16384, 0, true, true },
	{ "the refcount table moves", MEM_FILE,
	  IMAGE(9, 6, 8 << 20), 16384, (2 << 20) - 64 * 512, false, false },
};

static u64 env(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

int main(void)
{
	u64 seed = env("SEED", 1), seconds = env("STRESS_SECONDS", 30);
	unsigned int i;

	diag("SEED=%llu STRESS_SECONDS=%llu", (unsigned long long)seed,
	     (unsigned long long)seconds);
	for (i = 0; i < ARRAY_SIZE(scenarios); i++)
		run_scenario(&scenarios[i], seed,
			     (double)seconds / ARRAY_SIZE(scenarios));
	return tap_end();
}
