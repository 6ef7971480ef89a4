/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What has to be known of an image before it is changed, beyond the header and
 * the tables that map the guest.
 */
#ifndef QCOW2_SURVEY_H
#define QCOW2_SURVEY_H

#include "image.h"

int qcow2_survey(struct qcow2_image *img);
int qcow2_survey_snapshots(struct qcow2_image *img, struct qcow2_error *err);
int qcow2_survey_mark_bitmaps(struct qcow2_image *img);
int qcow2_survey_end(struct qcow2_image *img, u64 *end);

#endif /* QCOW2_SURVEY_H */
