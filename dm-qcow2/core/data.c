// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns guest data that the core moves by itself: reading, writing and
 * zeroing it, through the cipher of an encrypted image.
 */
#include "data.h"

/**
 * qcow2_data_read() - read guest data
 * @s: what holds it
 * @guest: guest offset in bytes, a multiple of 512
 * @host: host offset in bytes, a multiple of 512
 * @buf: memory from port_alloc() or a pool
 * @len: bytes, a multiple of 512
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int qcow2_data_read(const struct qcow2_store *s, u64 guest, u64 host, void *buf,
		    u32 len)
{
	int ret = s->ops->data_read(s->be, host, buf, len);

	if (ret || !s->cipher)
		return ret;
	return s->cipher->apply(s->cipher, false,
				qcow2_cipher_sector(s->cipher, guest, host), buf,
				len);
}

/**
 * qcow2_data_write() - write guest data
 * @s: what holds it
 * @guest: guest offset in bytes, a multiple of 512
 * @host: host offset in bytes, a multiple of 512
 * @buf: memory from port_alloc() or a pool; encrypted where it is
 * @len: bytes, a multiple of 512
 *
 * Context: may sleep.
 * Return: 0 or a negative errno, with nothing written if it cannot be encrypted.
 */
int qcow2_data_write(const struct qcow2_store *s, u64 guest, u64 host, void *buf,
		     u32 len)
{
	int ret = 0;

	if (s->cipher)
		ret = s->cipher->apply(s->cipher, true,
				       qcow2_cipher_sector(s->cipher, guest, host),
				       buf, len);
	return ret ?: s->ops->data_write(s->be, host, buf, len);
}

/**
 * qcow2_data_zero() - make guest data read as zeros
 * @img: the image
 * @guest: guest offset in bytes, a multiple of 512
 * @host: host offset in img->data in bytes, a multiple of 512
 * @len: bytes, a multiple of 512
 *
 * Encrypted zeros are written: a hole would decrypt to anything.
 *
 * Context: may sleep; no buffer of img->copies is held.
 * Return: 0 or a negative errno.
 */
int qcow2_data_zero(struct qcow2_image *img, u64 guest, u64 host, u64 len)
{
	void *buf;
	int ret = 0;
	u64 done;

	if (!img->data.cipher)
		return img->data.ops->zero(img->data.be, host, len);
	buf = port_pool_get(&img->copies);
	for (done = 0; !ret && done < len; done += QCOW2_COW_BYTES) {
		u32 n = min_t(u64, len - done, QCOW2_COW_BYTES);

		memset(buf, 0, n);
		ret = qcow2_data_write(&img->data, guest + done, host + done, buf,
				       n);
	}
	port_pool_put(&img->copies, buf);
	return ret;
}
