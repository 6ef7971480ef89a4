/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A cipher for tests of what goes through one: no secret at all, but each sector
 * comes out otherwise, no sector of zeros as zeros, and only its own number brings
 * it back.
 */
#ifndef TOYCIPHER_H
#define TOYCIPHER_H

#include "image.h"

extern struct qcow2_cipher toy_luks;	/* by where it is on the host */
extern struct qcow2_cipher toy_aes;	/* by where it is for the guest */

/* One sector, where it is; the same way back. */
void toy_sector(u64 number, void *sector);

#endif /* TOYCIPHER_H */
