// SPDX-License-Identifier: GPL-2.0
#include "toycipher.h"

static u64 scatter(u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

void toy_sector(u64 number, void *sector)
{
	u64 pad = scatter(number + 1), word;
	u8 *p = sector;
	int i;

	for (i = 0; i < 64; i++, p += 8) {
		memcpy(&word, p, 8);
		word ^= pad + i;
		memcpy(p, &word, 8);
	}
}

static int apply(struct qcow2_cipher *c, bool encrypt, u64 sector, void *buf,
		 u32 len)
{
	u32 pos;

	for (pos = 0; pos < len; pos += 512)
		toy_sector(sector + pos / 512, (u8 *)buf + pos);
	return 0;
}

struct qcow2_cipher toy_luks = { .method = QCOW2_CRYPT_LUKS, .apply = apply };
struct qcow2_cipher toy_aes = { .method = QCOW2_CRYPT_AES, .apply = apply };
