// SPDX-License-Identifier: GPL-2.0
/*
 * libFuzzer on images. The input is an image, and behind it, in its last 16 bytes,
 * what is done with it: it is opened, mapped from end to end, written, discarded,
 * resized, checked or repaired, as a file or as a device. Whatever it holds, the
 * core answers with an error or goes on; it does not read or write where it must
 * not, allocate without bound, or run for long.
 *
 * Most of an image is data. So most changes are made where the header says that a
 * table is, to a few bytes.
 */
#include "check.h"
#include "commit.h"
#include "fuzz.h"
#include "guestio.h"
#include "map.h"
#include "membackend.h"
#include "repair.h"
#include "resize.h"

#define MAX_IMAGE (1u << 20)
#define TAIL 16

static u8 buf[1 << 16];

static u64 next(const u8 **p)
{
	u64 v = **p;

	++*p;
	return v;
}

/* Guest offsets near the ends and where tables begin and end. */
static u64 place(const struct qcow2_image *img, u64 a, u64 b)
{
	u64 size = img->hdr.size & ~511ull, at;
	u32 bits = img->hdr.cluster_bits;

	switch (a & 3) {
	case 0:
		at = b << 9;
		break;
	case 1:
		at = b << bits;
		break;
	case 2:
		at = size - (b << 9);
		break;
	default:
		at = b << (2 * bits - 3);
	}
	return size ? at % size & ~511ull : 0;
}

/* Looks at mappings; with huge disks not at all of them. */
static void walk(struct qcow2_image *img)
{
	u64 at = 0, size = img->hdr.size & ~511ull;
	struct qcow2_mapping m;
	int n;

	for (n = 0; n < 300 && at < size; n++) {
		if (qcow2_map(img, at, size - at, &m)) {
			at += 1ull << img->hdr.cluster_bits;
			continue;
		}
		if (!m.len)
			abort();
		at += m.len;
	}
}

static void work(struct qcow2_image *img, const u8 *p)
{
	struct qcow2_error err;
	int i;

	for (i = 0; i < 4; i++) {
		u64 what = next(&p), at = place(img, what >> 3, next(&p));
		u64 len = min_t(u64, 512 << (what >> 5), img->hdr.size - at);

		len &= ~511ull;
		if (!len)
			continue;
		switch (what & 7) {
		case 0:
		case 1:
			memset(buf, i + 1, len);
			guest_write(img, at, buf, len);
			break;
		case 2:
			guest_zero(img, at, len, QCOW2_DISCARD);
			break;
		case 3:
			guest_zero(img, at, len, QCOW2_ZERO_FREE);
			break;
		case 4:
			guest_zero(img, at, len, QCOW2_ZERO_KEEP);
			break;
		case 5:
			qcow2_commit(img);
			break;
		case 6:
			guest_read(img, at, buf, len);
			break;
		case 7:
			qcow2_resize(img, img->hdr.size / 512 * 512 + len, true, &err);
			break;
		}
	}
}

static u64 be64(const u8 *data, size_t size, u64 at)
{
	u64 v = 0;

	if (at < size && size - at >= 8)
		memcpy(&v, data + at, 8);
	return be64toh(v);
}

/* A place that matters: in the header, in a table, in what is done. */
static size_t place_to_change(const u8 *data, size_t size, unsigned int seed)
{
	size_t image = size - TAIL;
	u64 l1 = be64(data, image, 40), table = be64(data, image, 48);
	u64 at;

	switch (seed % 8) {
	case 0:
	case 1:
		return seed / 8 % 112 & ~3u;
	case 2:
		at = seed / 8 % 512;	/* extensions, names */
		break;
	case 3:
		at = l1;
		break;
	case 4:
		at = be64(data, image, l1) & QCOW2_ENTRY_OFFSET;
		break;
	case 5:
		at = table;
		break;
	case 6:
		at = be64(data, image, table + (seed / 64 % 2 ? 8 : 0));
		break;
	default:
		/* snapshots, or bitmaps behind them */
		at = seed & 8 ? be64(data, image, 64) : image;
	}
	if (seed % 8 > 2 && at != image)
		at += seed / 16 % 64 * 8;
	return at;
}

size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max,
			       unsigned int seed)
{
	size_t at, len = seed / 1024 % 4 ? 8 : 24;

	if (size < TAIL + 512 || seed % 5 == 0)
		return LLVMFuzzerMutate(data, size, max);
	do {
		seed = seed * 1664525 + 1013904223;
		at = place_to_change(data, size, seed >> 8);
		if (at + len <= size && at + len > at)
			LLVMFuzzerMutate(data + at, len, len);
	} while (seed >> 28 < 4);
	return size;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct qcow2_config cfg = { .cache_bytes = 1 << 16 };
	struct qcow2_layer below = { .size = 1 << 20 };
	struct qcow2_check chk = { };
	struct qcow2_repair rep = { };
	struct membackend be, other;
	struct qcow2_store store;
	struct qcow2_image *img;
	struct qcow2_error err;
	const u8 *p;
	u8 how;

	if (size < TAIL + 512 || size > MAX_IMAGE)
		return 0;
	size -= TAIL;
	p = data + size;
	how = *p++;
	mem_init(&be, how & 1 ? MEM_DEVICE : MEM_FILE, size);
	memcpy(be.data, data, size);
	be.size = how & 1 ? be.size : size;
	be.limit = 8 << 20;
	mem_init(&other, MEM_FILE, 0);
	other.limit = 8 << 20;
	store = (struct qcow2_store){ other.ops, &other };
	below.store = store;
	if (how & 2)
		cfg.backing = &below;
	if (how & 4)
		cfg.data = &store;
	cfg.read_only = how & 8;
	switch (how >> 4 & 3) {
	case 1:
		qcow2_check(be.ops, &be, &chk, &err);
		break;
	case 2:
		rep.leaks_only = how & 64;
		qcow2_repair(be.ops, &be, &rep, &err);
		break;
	default:
		if (qcow2_image_open(be.ops, &be, &cfg, &img, &err))
			break;
		walk(img);
		work(img, p);
		walk(img);
		qcow2_image_close(img);
	}
	mem_destroy(&be);
	mem_destroy(&other);
	return 0;
}
