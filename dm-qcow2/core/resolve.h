/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What walks through layers have found: see resolve.c.
 */
#ifndef QCOW2_RESOLVE_H
#define QCOW2_RESOLVE_H

#include "image.h"
#include "map.h"

struct qcow2_resolver *qcow2_resolve_make(struct qcow2_image *img);
void qcow2_resolve_exit(struct qcow2_image *img);
u64 qcow2_resolve_unit(const struct qcow2_resolver *r);
bool qcow2_resolve_get(const struct qcow2_resolver *r, u64 guest,
		       struct qcow2_mapping *m);
void qcow2_resolve_put(struct qcow2_resolver *r, u64 start,
		       const struct qcow2_mapping *m);

#endif /* QCOW2_RESOLVE_H */
