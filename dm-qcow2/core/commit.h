/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Making metadata durable, in the order that leaves a valid image on the disk
 * at every moment. The order and its reasons are at the top of commit.c.
 */
#ifndef QCOW2_COMMIT_H
#define QCOW2_COMMIT_H

#include "image.h"

int qcow2_commit_init(struct qcow2_image *img);
void qcow2_commit_destroy(struct qcow2_image *img);
int qcow2_commit(struct qcow2_image *img);
int __qcow2_commit(struct qcow2_image *img);
int qcow2_commit_drain(struct qcow2_image *img);
int qcow2_commit_relieve(struct qcow2_image *img);
void qcow2_commit_unlink(struct qcow2_image *img, struct list_head *frees);

#endif /* QCOW2_COMMIT_H */
