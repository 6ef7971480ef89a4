// SPDX-License-Identifier: GPL-2.0
/*
 * Small images with random damage: see damage.h.
 */
#include "damage.h"

#include "crashseq.h"

static u64 rnd(u64 *rng, u64 n)
{
	return seq_random(rng) % n;
}

static void fill(struct membackend *be, u64 host, u64 guest, u64 len)
{
	u64 i;

	for (i = 0; i < len; i += 512)
		stamp_make(be->data + host + i, (guest + i) / 512, 1);
}

void damage_make(struct membackend *be, u64 *rng)
{
	struct mk_image p = { .order_given = true, .version = 2 + rnd(rng, 2) };
	static const enum qcow2_kind kinds[] = {
		QCOW2_DATA, QCOW2_ZERO, QCOW2_ZERO_ALLOC,
	};
	u64 i, guest, host;

	p.cluster_bits = 9 + rnd(rng, 4);
	p.refcount_order = p.version == 2 ? 4 : rnd(rng, 7);
	p.size = (40ull << p.cluster_bits) + (1ull << (2 * p.cluster_bits - 3));
	if (mk_image(be, &p))
		abort();
	for (i = 0; i < 20; i++) {
		guest = (i * 4 + rnd(rng, 4)) << p.cluster_bits;
		host = 0;
		if (guest < p.size &&
		    mk_map(be, guest, kinds[p.version == 2 ? 0 : rnd(rng, 3)], 1,
			   &host))
			abort();
		if (host)
			fill(be, host, guest, 1ull << p.cluster_bits);
	}
}

/* One thing that the check should see, or should not mind. */
static void damage(struct membackend *be, u64 *rng)
{
	u32 bits = mem_be32(be, 20);
	u64 l1 = mem_be64(be, 40), rt = mem_be64(be, 48), at, table, end;

	switch (rnd(rng, 8)) {
	case 0: /* a bit of the metadata, which comes first */
		at = (1ull << bits) + rnd(rng, 7ull << bits);
		if (at < be->size)
			be->data[at] ^= 1 << rnd(rng, 8);
		break;
	case 1: /* a bit of an L2 entry */
		table = mem_be64(be, l1) & QCOW2_ENTRY_OFFSET;
		at = table + 8 * rnd(rng, 1 << (bits - 3));
		if (table && at < be->size)
			mem_set_be64(be, at, mem_be64(be, at) ^ 1ull << rnd(rng, 64));
		break;
	case 2: /* of an L1 entry */
		mem_set_be64(be, l1, mem_be64(be, l1) ^ 1ull << rnd(rng, 64));
		break;
	case 3: /* of a refcount table entry */
		mem_set_be64(be, rt, mem_be64(be, rt) ^ 1ull << rnd(rng, 64));
		break;
	case 4: /* the end of the file */
		end = be->size;
		be->size -= 512 * (1 + rnd(rng, (1u << bits) / 256));
		memset(be->data + be->size, 0, end - be->size);
		break;
	case 5: /* an L2 entry is as another, or gone */
		table = mem_be64(be, l1) & QCOW2_ENTRY_OFFSET;
		at = table + 8 * rnd(rng, 64);
		if (table && at < be->size)
			mem_set_be64(be, table + 8 * rnd(rng, 64),
				     rnd(rng, 2) ? mem_be64(be, at) : 0);
		break;
	case 6: /* a mark that it may be damaged */
		if (mem_be32(be, 4) == 3)
			mem_set_be64(be, 72, 1 + rnd(rng, 3));
		break;
	default: /* a refcount */
		at = mem_be64(be, rt);
		if (at < be->size && !(at & 511))
			mk_set_refcount(be, rnd(rng, be->size >> bits) << bits,
					rnd(rng, 3));
		break;
	}
}

void damage_some(struct membackend *be, u64 *rng)
{
	u64 i, n = rnd(rng, 8) ? 1 + rnd(rng, 3) : 0;

	for (i = 0; i < n; i++)
		damage(be, rng);
}

u64 damage_env(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}
