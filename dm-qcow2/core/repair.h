/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mending an image that does not agree with itself. For the tools and the tests;
 * not part of the module.
 */
#ifndef QCOW2_REPAIR_H
#define QCOW2_REPAIR_H

#include "check.h"

/**
 * struct qcow2_repair - what to mend, and what was done
 * @leaks_only: mend leaks and nothing else
 * @before: the check that comes first; @report and @progress are the caller's
 * @after: the check that comes last, likewise; it decides whether the image
 *	loses the marks that it is dirty or corrupt
 * @raised: refcounts that were too low
 * @lowered: refcounts that were too high
 * @entries: entries of L1 and L2 tables that were written anew
 * @rebuilt: there is a new refcount table with new blocks; what they say is not
 *	in @raised and @lowered
 * @kept_leaks: some clusters may be in use by what is wrong and was left so:
 *	none was given back
 * @no_place: there should be new refcount blocks, but where they would be some
 *	entry already looks for something that the file has lost
 * @unmarked: the mark that the image is dirty or corrupt was removed
 */
struct qcow2_repair {
	bool leaks_only;
	struct qcow2_check before;
	struct qcow2_check after;
	u64 raised;
	u64 lowered;
	u64 entries;
	bool rebuilt;
	bool kept_leaks;
	bool no_place;
	bool unmarked;
};

int qcow2_repair(const struct qcow2_backend_ops *ops, void *be,
		 struct qcow2_repair *rep, struct qcow2_error *err);

#endif /* QCOW2_REPAIR_H */
