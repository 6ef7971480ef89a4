/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qemu-img check in the background, a few at a time, on files in a private
 * directory.
 */
#ifndef QEMUIMG_H
#define QEMUIMG_H

#include "membackend.h"

/* Starts @workers threads; -ENOENT if there is no qemu-img. */
int qemuimg_start(unsigned int workers);

/*
 * Saves the image and has it checked some time later: the result should be
 * @verdict, see qcow2_check_verdict(). @what describes the image in a failure.
 */
void qemuimg_check(const struct membackend *be, int verdict, const char *what);

/*
 * Waits for what is outstanding, ends the threads, removes the directory.
 * Prints failures as TAP comments. How many checks, how many went wrong.
 */
void qemuimg_stop(u64 *checks, u64 *wrong);

/* One check at once: the exit status of qemu-img, or -1. */
int qemuimg_now(const char *path);

#endif /* QEMUIMG_H */
