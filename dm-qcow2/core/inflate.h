/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Compressed clusters: reading, decompressing, and a few decompressed ones kept,
 * so that a sequential read inflates each once.
 */
#ifndef QCOW2_INFLATE_H
#define QCOW2_INFLATE_H

#include "image.h"
#include "map.h"

/**
 * struct qcow2_inflated - a decompressed cluster
 * @full: N: a cluster is here, or on its way
 * @host: N: host offset of its first compressed byte
 * @csize: N: how many there are at most
 * @loading: A: somebody decompresses; wait
 * @pins: N: users of @data
 * @used: N: when it was last asked for
 * @data: contents, while pinned and not loading
 *
 * N is inflater->lock.
 */
struct qcow2_inflated {
	bool full;
	u64 host;
	u32 csize;
	bool loading;
	u32 pins;
	u64 used;
	void *data;
};

void qcow2_inflate_exit(struct qcow2_image *img);
int qcow2_inflate_get(struct qcow2_image *img, u64 host, u32 csize,
		      struct qcow2_inflated **out);
void qcow2_inflate_put(struct qcow2_image *img, struct qcow2_inflated *s);

#endif /* QCOW2_INFLATE_H */
