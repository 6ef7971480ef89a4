/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the check and those who mend share: an image whose references are counted.
 * Nobody else includes this.
 */
#ifndef QCOW2_CHECKER_H
#define QCOW2_CHECKER_H

#include "check.h"
#include "counts.h"

#define QCOW2_EXTL2_RESERVED (QCOW2_L2_RESERVED | QCOW2_ENTRY_ZERO)

/**
 * struct qcow2_checker - a check under way
 * @ops: what holds the image
 * @be: first argument of every @ops
 * @chk: what the caller sees
 * @hdr: the image's header
 * @size: of the file, in bytes
 * @clusters: of the file, the last one perhaps cut short
 * @beyond: lowest offset that an entry names and the file does not have
 * @refs: references to each cluster
 * @tables: how many L1 entries name the L2 table there
 * @uses: what metadata clusters are used for
 * @ones: clusters whose refcount on the disk is 1
 * @cluster: buffer of one cluster
 * @window: buffer for few bytes at any offset
 */
struct qcow2_checker {
	const struct qcow2_backend_ops *ops;
	void *be;
	struct qcow2_check *chk;
	struct qcow2_header hdr;
	u64 size;
	u64 clusters;
	u64 beyond;
	struct qcow2_counts refs, tables, uses, ones;
	void *cluster;
	void *window;
};

int qcow2_checker_open(struct qcow2_checker *c, struct qcow2_error *err);
void qcow2_checker_close(struct qcow2_checker *c);
int qcow2_checker_count(struct qcow2_checker *c, bool refcounts);

int qcow2_checker_read(struct qcow2_checker *c, u64 offset, void *buf, u32 len);
bool qcow2_checker_inside(const struct qcow2_checker *c, u64 offset, u64 len);
int qcow2_checker_each(struct qcow2_checker *c, u64 offset, u64 entries,
		       int (*fn)(struct qcow2_checker *c, u64 i, u64 entry,
				 void *arg), void *arg);

/* Autoclear bits of which nobody knows whether a change leaves them true. */
static inline u64 qcow2_checker_unknown(const struct qcow2_checker *c)
{
	return c->hdr.autoclear & ~(QCOW2_AUTOCLEAR_BITMAPS |
				    QCOW2_AUTOCLEAR_DATA_FILE_RAW);
}

#endif /* QCOW2_CHECKER_H */
