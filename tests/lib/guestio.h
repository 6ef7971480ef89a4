/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the module does with a guest's reads and writes, in a straight line and
 * for any number of threads: lookup, I/O to the backend, linking, waiting.
 */
#ifndef GUESTIO_H
#define GUESTIO_H

#include "image.h"
#include "zero.h"

/*
 * Offsets and lengths are multiples of 512 inside the virtual disk. 0 or a
 * negative errno. Reads from a data cluster beyond the end of the file give
 * zeros.
 */
int guest_read(struct qcow2_image *img, u64 offset, void *buf, u64 len);
int guest_write(struct qcow2_image *img, u64 offset, const void *buf, u64 len);

/* Discard or write-zeroes. */
int guest_zero(struct qcow2_image *img, u64 offset, u64 len,
	       enum qcow2_zero_how how);

/*
 * A FUA write: when it returns 0 the bytes and what leads to them are durable.
 * Where every step was in place and durable this costs a flush of the host (a
 * FUA write of the host in the module), otherwise a commit.
 */
int guest_write_fua(struct qcow2_image *img, u64 offset, const void *buf, u64 len);

/* A waiter for qcow2_write_begin(): init, begin; if -EINPROGRESS, wait. */
struct guest_waiter {
	struct qcow2_waiter w;
	pthread_mutex_t m;
	pthread_cond_t c;
	bool woken;
};

void guest_waiter_init(struct guest_waiter *w);
void guest_waiter_wait(struct guest_waiter *w); /* and ready for the next */
void guest_waiter_destroy(struct guest_waiter *w);

/*
 * Blocks of 512 bytes that say what they are: guest block number, generation,
 * checksum over both and over a pattern made of them.
 */
void stamp_make(void *block, u64 number, u64 generation);
/* Is it a stamp of block @number? Then *generation is set. */
bool stamp_get(const void *block, u64 number, u64 *generation);
bool stamp_is_zero(const void *block);
bool stamp_is_any(const void *block);

#endif /* GUESTIO_H */
