// SPDX-License-Identifier: GPL-2.0
/*
 * Chains of layers for lookups: see layers.h.
 */
#include "layers.h"
#include "crashseq.h"
#include "metacache.h"

#define HOST_SIZE (64ull << 20)

static u64 rnd(u64 *rng, u64 n)
{
	return seq_random(rng) % n;
}

static bool chance(u64 *rng, u32 percent)
{
	return rnd(rng, 100) < percent;
}

static void set_entry(struct membackend *be, bool extended, u64 guest, u64 entry,
		      u64 bitmap)
{
	if (mk_set_l2(be, guest, entry) ||
	    (extended && mk_set_bitmap(be, guest, bitmap)))
		abort();
}

static u64 random_bitmap(u64 *rng)
{
	u64 alloc = seq_random(rng) & U32_MAX, zero = seq_random(rng) & U32_MAX;

	if (chance(rng, 30))
		alloc = U32_MAX;
	if (chance(rng, 50))
		zero = 0;
	zero &= ~alloc;
	return zero << 32 | alloc;
}

/* Clusters in runs of a kind, with gaps; data often goes on where it was. */
static void fill(struct membackend *be, bool extended, u64 size, u64 *rng)
{
	u32 bits = mem_be32(be, 20), left = 0, kind = 0;
	u64 cs = 1ull << bits, guest, host = cs, packed = 65536;

	for (guest = 0; guest < size; guest += cs) {
		u64 bitmap = extended ? random_bitmap(rng) : 0;

		if (!left--) {
			left = rnd(rng, 12);
			kind = rnd(rng, 10);
			host = rnd(rng, HOST_SIZE / cs / 2) * cs;
		}
		if (kind < 2) {
			/* the next may name the same bytes: wrong, but a table */
			if (chance(rng, 70))
				packed = 65536 + rnd(rng, HOST_SIZE / 2);
			set_entry(be, extended, guest, QCOW2_ENTRY_COMPRESSED |
				  rnd(rng, 2) << (62 - (bits - 8)) | packed, 0);
		} else if (kind < 5) {
			host += cs;
			set_entry(be, extended, guest, host, bitmap);
		} else if (kind < 6) {
			set_entry(be, extended, guest, !extended,
				  bitmap & ~(u64)U32_MAX);
		}
	}
}

static void make_image(struct membackend *be, u64 size, bool has_backing, u64 *rng)
{
	static const u32 all_bits[] = { 9, 12, 12, 14, 16, 16 };
	u32 bits = all_bits[rnd(rng, 6)];
	bool extended = bits >= 14 && chance(rng, 60);
	const struct mk_image p = {
		.cluster_bits = bits, .size = size,
		.incompatible = extended ? QCOW2_INCOMPAT_EXTL2 : 0,
		.backing = has_backing ? "back" : NULL,
	};

	if (mk_image(be, &p))
		abort();
	fill(be, extended, size, rng);
	be->size = HOST_SIZE;
}

void layers_make(struct layers *l, u32 nr, u64 cache_bytes, u64 *rng)
{
	u32 i;

	memset(l, 0, sizeof(*l));
	l->nr = nr;
	for (i = nr; i-- > 0;) {
		struct qcow2_config cfg = {
			.read_only = i, .cache_bytes = cache_bytes,
			.backing = i + 1 < nr ? &l->as_layer[i + 1] : NULL,
		};
		u64 size = (1 + rnd(rng, 32)) * 65536;
		struct qcow2_error err;

		if (chance(rng, 40))
			size += rnd(rng, 100) * 512;
		mem_init(&l->be[i], MEM_FILE, 0);
		l->as_layer[i] = (struct qcow2_layer){
			.store = { l->be[i].ops, &l->be[i] }, .size = size,
		};
		l->size = size;
		if (i + 1 == nr && chance(rng, 50)) {
			l->be[i].size = size;
			continue;
		}
		make_image(&l->be[i], size, i + 1 < nr, rng);
		if (qcow2_image_open(l->be[i].ops, &l->be[i], &cfg, &l->img[i],
				     &err)) {
			fprintf(stderr, "layer %u: %s\n", i, err.msg);
			abort();
		}
		l->as_layer[i].img = l->img[i];
	}
}

void layers_destroy(struct layers *l)
{
	u32 i;

	for (i = 0; i < l->nr; i++) {
		if (l->img[i])
			qcow2_image_close(l->img[i]);
		mem_destroy(&l->be[i]);
	}
}

void layers_forget(struct layers *l)
{
	u32 i;

	for (i = 1; i < l->nr; i++)
		if (l->img[i])
			qcow2_cache_drop(l->img[i], 0, l->be[i].mk_end);
}

int layers_map(struct qcow2_image *img, u64 guest, u64 len,
	       struct qcow2_mapping *m)
{
	const struct qcow2_layer *below;
	int ret = qcow2_map_top(img, guest, len, m);

	for (below = img->backing; !ret && m->kind == QCOW2_UNALLOCATED && below &&
	     guest < below->size; below = below->img->backing) {
		len = min(m->len, below->size - guest);
		m->len = len;
		if (!below->img) {
			*m = (struct qcow2_mapping){ .kind = QCOW2_DATA,
				.host = guest, .len = len, .store = &below->store };
			break;
		}
		ret = qcow2_map_top(below->img, guest, len, m);
	}
	return ret;
}

/* Does @m say of the byte at @in what @want says of its first? */
static bool same(const struct qcow2_mapping *m, u64 in,
		 const struct qcow2_mapping *want)
{
	if (m->kind != want->kind)
		return false;
	if (m->kind == QCOW2_DATA)
		return m->store->be == want->store->be &&
			m->host + in == want->host;
	if (m->kind != QCOW2_COMPRESSED)
		return true;
	return m->img == want->img && m->host == want->host &&
		m->csize == want->csize && m->skip + in == want->skip &&
		m->skip + m->len <= qcow2_cluster_size(&m->img->hdr);
}

bool layers_agree(struct qcow2_image *img, u64 guest, u64 len,
		  const struct qcow2_mapping *m, u64 *rng)
{
	u64 places[] = { 0, 0, 0, 0 };
	struct qcow2_mapping want;
	u32 i;

	if (!m->len || m->len > len || (m->len & 511))
		return false;
	places[1] = m->len - 512;
	places[2] = rnd(rng, m->len / 512) * 512;
	places[3] = rnd(rng, m->len / 512) * 512;
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		if (layers_map(img, guest + places[i], 512, &want))
			return false;
		if (!same(m, places[i], &want))
			return false;
	}
	return true;
}
