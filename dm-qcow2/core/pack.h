/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Moving the metadata of an image together. For the tools and the tests; not part
 * of the module.
 */
#ifndef QCOW2_PACK_H
#define QCOW2_PACK_H

#include "check.h"

/**
 * struct qcow2_pack - what to do, and what was done
 * @before: the check that comes first; @report and @progress are the caller's,
 *	the latter for what follows, too
 * @tables: L2 tables that the active L1 table alone names
 * @offset: where all metadata is now, in bytes
 * @bytes: how much; 0: the tables were in a row already, nothing was written
 */
struct qcow2_pack {
	struct qcow2_check before;
	u64 tables;
	u64 offset;
	u64 bytes;
};

int qcow2_pack(const struct qcow2_backend_ops *ops, void *be,
	       struct qcow2_pack *p, struct qcow2_error *err);

#endif /* QCOW2_PACK_H */
