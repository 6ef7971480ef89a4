// SPDX-License-Identifier: GPL-2.0
/*
 * Lookups in chains of layers from many threads, for ThreadSanitizer. Each is
 * compared with one made layer by layer. Then threads put what never was into
 * the few slots of one chain's memory, displacing each other all the time: what
 * is found there must be what one of them has put, not halves of two.
 *
 * STRESS_SECONDS=N is the time for all chains (default 30, of which this takes
 * a sixth), SEED=N.
 */
#include "crashseq.h"
#include "layers.h"
#include "resolve.h"
#include "tap.h"

#include <time.h>

#define THREADS 6
#define CHAINS 5

struct thread {
	pthread_t id;
	struct layers *l;
	u64 rng;
	u64 lookups, remembered;
	bool *stop;
	bool good;
};

static void *reader(void *arg)
{
	struct thread *t = arg;
	struct qcow2_image *img = t->l->img[0];
	struct qcow2_mapping m;

	while (t->good && !READ_ONCE(*t->stop)) {
		u64 guest = seq_random(&t->rng) % (t->l->size / 512) * 512;
		u64 len = (1 + seq_random(&t->rng) % 64) * 512;
		int ret;

		len = min(len, t->l->size - guest);
		ret = qcow2_map_peek(img, guest, len, &m);
		t->remembered += !ret;
		t->lookups++;
		if (ret)
			ret = qcow2_map(img, guest, len, &m);
		t->good = !ret && layers_agree(img, guest, len, &m, &t->rng);
	}
	return NULL;
}

/* A mapping that can be told from the unit and from no other. */
static void invent(u64 unit, struct qcow2_mapping *m)
{
	static const struct qcow2_store stores[4];

	*m = (struct qcow2_mapping){ .kind = unit & 1 ? QCOW2_DATA : QCOW2_ZERO };
	if (unit & 1) {
		m->host = (unit * 0x9e3779b97f4a7c15ull) >> 9;
		m->store = &stores[unit >> 20 & 3];
	}
}

/* Units so far apart that they meet in two slots, beyond those of any layer. */
static void *displacer(void *arg)
{
	struct thread *t = arg;
	struct qcow2_resolver *r = qcow2_resolve_make(t->l->img[1]);
	u64 size = qcow2_resolve_unit(r);
	struct qcow2_mapping m, want;

	while (t->good && !READ_ONCE(*t->stop)) {
		u64 unit = (8 + seq_random(&t->rng) % 8) << 20 |
			seq_random(&t->rng) % 2;

		invent(unit, &want);
		m = want;
		m.len = size;
		if (seq_random(&t->rng) % 4 == 0) {
			qcow2_resolve_put(r, unit * size, &m);
			continue;
		}
		t->lookups++;
		if (!qcow2_resolve_get(r, unit * size, &m))
			continue;
		t->remembered++;
		t->good = m.kind == want.kind && m.host == want.host &&
			m.store == want.store && m.len == size;
	}
	return NULL;
}

static void run_threads(const char *what, struct layers *l, u64 seed,
			void *(*run)(void *arg), double seconds)
{
	struct timespec time = { seconds, (seconds - (u64)seconds) * 1e9 };
	u64 lookups = 0, remembered = 0;
	struct thread t[THREADS];
	bool stop = false, good = true;
	u32 i;

	for (i = 0; i < THREADS; i++) {
		t[i] = (struct thread){ .l = l, .rng = seed + i + 1,
			.stop = &stop, .good = true };
		if (pthread_create(&t[i].id, NULL, run, &t[i]))
			abort();
	}
	nanosleep(&time, NULL);
	WRITE_ONCE(stop, true);
	for (i = 0; i < THREADS; i++) {
		pthread_join(t[i].id, NULL);
		good &= t[i].good;
		lookups += t[i].lookups;
		remembered += t[i].remembered;
	}
	ok(good && remembered, "%s in chain %llu of %u layers", what,
	   (unsigned long long)seed, l->nr);
	diag("%llu lookups, %llu from memory", (unsigned long long)lookups,
	     (unsigned long long)remembered);
}

static void run_chain(u64 seed, double seconds)
{
	u64 rng = seed;
	struct layers l;

	layers_make(&l, 6 + seed % 4, 1, &rng);
	run_threads("lookups", &l, seed, reader, seconds / 2);
	run_threads("displacement", &l, seed, displacer, seconds / 2);
	layers_destroy(&l);
}

static u64 env(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

int main(void)
{
	u64 seed = env("SEED", 1), seconds = env("STRESS_SECONDS", 30), i;

	diag("SEED=%llu STRESS_SECONDS=%llu", (unsigned long long)seed,
	     (unsigned long long)seconds);
	for (i = 0; i < CHAINS; i++)
		run_chain(seed * CHAINS + i, seconds / 6.0 / CHAINS);
	return tap_end();
}
