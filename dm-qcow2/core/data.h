/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest data as bytes, for copy-on-write and zeros; the data of guest I/O itself
 * never comes here. What is encrypted on the host is not in the caller's memory.
 */
#ifndef QCOW2_DATA_H
#define QCOW2_DATA_H

#include "image.h"

/*
 * The number that a sector of 512 bytes is encrypted by. LUKS takes it from where
 * the sector lies on the host, so that what is copied is encrypted anew; the
 * legacy method from where the guest has it (the specification does not say so;
 * QEMU's block/qcow2.c does: crypt_physical_offset).
 */
static inline u64 qcow2_cipher_sector(const struct qcow2_cipher *c, u64 guest,
				      u64 host)
{
	return (c->method == QCOW2_CRYPT_AES ? guest : host) >> 9;
}

int qcow2_data_read(const struct qcow2_store *s, u64 guest, u64 host, void *buf,
		    u32 len);
int qcow2_data_write(const struct qcow2_store *s, u64 guest, u64 host, void *buf,
		     u32 len);
int qcow2_data_zero(struct qcow2_image *img, u64 guest, u64 host, u64 len);

#endif /* QCOW2_DATA_H */
