/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the unit tests share: an image in memory and the core that has it open.
 * What a test needs to go on, and does not get, ends the program.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "alloc.h"
#include "commit.h"
#include "guestio.h"
#include "map.h"
#include "membackend.h"
#include "metacache.h"
#include "overlap.h"
#include "tap.h"
#include "write.h"

struct fixture {
	struct membackend be;
	struct qcow2_image *img;
	struct qcow2_error err;
	u32 cs;			/* cluster size in bytes */
};

#define must(x) do {							\
	int must_ret = (x);						\
	if (must_ret) {							\
		printf("Bail out! %s:%d: %s: %d\n", __FILE__, __LINE__,	\
		       #x, must_ret);					\
		exit(1);						\
	}								\
} while (0)

static inline void fx_make_on(struct fixture *f, enum mem_flavour flavour,
			      u64 bytes, const struct mk_image *p)
{
	memset(f, 0, sizeof(*f));
	mem_init(&f->be, flavour, bytes);
	must(mk_image(&f->be, p));
	f->cs = 1u << mem_be32(&f->be, 20);
}

/* A file; the image is made but not open. */
static inline void fx_make(struct fixture *f, u32 cluster_bits, u64 size)
{
	fx_make_on(f, MEM_FILE, 0, &(struct mk_image){
		.cluster_bits = cluster_bits, .size = size });
}

static inline void fx_open_with(struct fixture *f, u64 cache_bytes)
{
	must(mem_open(&f->be, cache_bytes, &f->img, &f->err));
}

static inline void fx_open(struct fixture *f)
{
	fx_open_with(f, 0);
}

static inline int fx_close(struct fixture *f)
{
	int ret = qcow2_image_close(f->img);

	f->img = NULL;
	return ret;
}

static inline void fx_destroy(struct fixture *f)
{
	if (f->img)
		fx_close(f);
	mem_destroy(&f->be);
}

/* Bytes that say where they belong. */
static inline void fx_fill(void *buf, u64 offset, u64 len, u64 generation)
{
	u64 i;

	for (i = 0; i < len; i += 512)
		stamp_make((u8 *)buf + i, (offset + i) / 512, generation);
}

static inline int fx_write(struct fixture *f, u64 offset, u64 len,
			   u64 generation)
{
	u8 *buf = malloc(len);
	int ret;

	fx_fill(buf, offset, len, generation);
	ret = guest_write(f->img, offset, buf, len);
	free(buf);
	return ret;
}

/* Do bytes hold this generation everywhere? 0 is zeros. */
static inline bool fx_holds(const void *buf, u64 offset, u64 len,
			    u64 generation)
{
	u64 i, g;

	for (i = 0; i < len; i += 512) {
		const u8 *p = (const u8 *)buf + i;

		if (!generation ? !stamp_is_zero(p) :
		    !stamp_get(p, (offset + i) / 512, &g) || g != generation)
			return false;
	}
	return true;
}

/* Does the guest read this generation? */
static inline bool fx_reads(struct fixture *f, u64 offset, u64 len,
			    u64 generation)
{
	u8 *buf = malloc(len);
	bool good = !guest_read(f->img, offset, buf, len) &&
		fx_holds(buf, offset, len, generation);

	free(buf);
	return good;
}

static inline int fx_read(struct fixture *f, u64 offset, u64 len)
{
	u8 *buf = malloc(len);
	int ret = guest_read(f->img, offset, buf, len);

	free(buf);
	return ret;
}

/* Puts a generation on the host where the guest's @offset is mapped. */
static inline void fx_store(struct fixture *f, u64 host, u64 offset, u64 len,
			    u64 generation)
{
	fx_fill(f->be.data + host, offset, len, generation);
}

/* The L2 entry of @guest as it is on the disk, 0 without a table. */
static inline u64 fx_l2(const struct fixture *f, u64 guest)
{
	u32 bits = mem_be32(&f->be, 20);
	u64 l1 = mem_be64(&f->be, 40) + (guest >> (2 * bits - 3)) * 8;
	u64 table = mem_be64(&f->be, l1) & QCOW2_ENTRY_OFFSET;

	if (!table)
		return 0;
	return mem_be64(&f->be, table + (guest >> bits &
					 ((1ull << (bits - 3)) - 1)) * 8);
}

static inline u64 fx_l1(const struct fixture *f, u64 index)
{
	return mem_be64(&f->be, mem_be64(&f->be, 40) + index * 8);
}

static inline u64 fx_l1_place(const struct fixture *f, u64 index)
{
	return mem_be64(&f->be, 40) + index * 8;
}

static inline bool fx_corrupt_bit(const struct fixture *f)
{
	return mem_be64(&f->be, 72) & QCOW2_INCOMPAT_CORRUPT;
}

/* Where a guest offset is mapped now, 0 if nowhere. */
static inline u64 fx_host(struct fixture *f, u64 guest)
{
	struct qcow2_mapping m;

	must(qcow2_map(f->img, guest, 512, &m));
	return m.kind == QCOW2_DATA ? m.host : 0;
}

/* Logged operations of a kind. */
static inline u64 fx_ops(const struct fixture *f, enum mem_kind kind)
{
	u64 i, n = 0;

	for (i = 0; i < f->be.nr_log; i++)
		n += f->be.log[i].kind == kind;
	return n;
}

/* The first logged operation of a kind that touches a byte, or -1. */
static inline s64 fx_op_at(const struct fixture *f, enum mem_kind kind, u64 byte)
{
	u64 i;

	for (i = 0; i < f->be.nr_log; i++) {
		const struct mem_op *op = &f->be.log[i];

		if (op->kind == kind && op->offset <= byte &&
		    byte < op->offset + op->len)
			return i;
	}
	return -1;
}

#endif /* FIXTURE_H */
