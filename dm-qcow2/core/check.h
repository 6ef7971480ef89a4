/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Does an image agree with itself? For the tools and the tests; not part of the
 * module.
 */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "image.h"

/**
 * struct qcow2_check - a check and what it found
 * @report: called for each finding, one line; may be NULL
 * @progress: called now and then, with how much is done of all there is to do;
 *	may be NULL
 * @arg: first argument of @report and @progress
 * @errors: findings that endanger data
 * @leaks: clusters whose refcount is higher than the number of references
 * @end: host offset of the first byte after the last cluster with a refcount
 *	or a reference
 *
 * @report, @progress and @arg are the caller's; the rest is filled in.
 */
struct qcow2_check {
	void (*report)(void *arg, bool leak, const char *line);
	void (*progress)(void *arg, u64 done, u64 total);
	void *arg;
	u64 errors;
	u64 leaks;
	u64 end;
};

int qcow2_check(const struct qcow2_backend_ops *ops, void *be,
		struct qcow2_check *chk, struct qcow2_error *err);

/* The exit status that qemu-img check has for this. */
static inline int qcow2_check_verdict(const struct qcow2_check *chk)
{
	if (chk->errors)
		return 2;
	return chk->leaks ? 3 : 0;
}

#endif /* QCOW2_CHECK_H */
