/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Chains of layers in memory whose tables are full of everything, for what only
 * looks mappings up; and lookups without what the core remembers of earlier ones.
 */
#ifndef LAYERS_H
#define LAYERS_H

#include "map.h"
#include "membackend.h"

#define LAYERS_MAX 12

struct layers {
	u32 nr;				/* the last may be raw */
	u64 size;			/* of the top */
	struct membackend be[LAYERS_MAX];
	struct qcow2_image *img[LAYERS_MAX];
	struct qcow2_layer as_layer[LAYERS_MAX];
};

/*
 * A chain of @nr layers, at least 2. Clusters, subclusters and sizes differ; the
 * mappings lead anywhere, the contents are zeros. @cache_bytes is for each.
 */
void layers_make(struct layers *l, u32 nr, u64 cache_bytes, u64 *rng);
void layers_destroy(struct layers *l);

/* Forgets the metadata of all layers below the top. */
void layers_forget(struct layers *l);

/* As qcow2_map(), image by image. */
int layers_map(struct qcow2_image *img, u64 guest, u64 len,
	       struct qcow2_mapping *m);

/*
 * Is @m true, at both ends and somewhere between, of a lookup of @len bytes at
 * @guest?
 */
bool layers_agree(struct qcow2_image *img, u64 guest, u64 len,
		  const struct qcow2_mapping *m, u64 *rng);

#endif /* LAYERS_H */
