// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns encryption: the cipher and the key of an image, the requests to
 * the kernel's crypto API, and the pages that encrypted data is written from.
 *
 * Sectors of 512 bytes, as the format has them, each with an IV of its own that
 * is made of its number: one request each. The requests of a call are under way
 * together and waited for together; a cipher that works in the caller, as most
 * do, needs only the first of them, again and again.
 *
 * What is read is decrypted in the bio's own pages. What is written belongs to
 * somebody else and is encrypted into pages of our own, bounded as dm-crypt bounds
 * them: a writer first takes what is to be had at once; if that is not enough it
 * gives everything back and waits, alone, for a reserve that one bio cannot
 * exhaust (rules C6, C7).
 *
 * The key is in the keyring. It is read when the first table names the image, or
 * by a message, and kept by the crypto API only.
 */
#include <crypto/algapi.h>
#include <crypto/sha2.h>
#include <crypto/skcipher.h>
#include <keys/encrypted-type.h>
#include <keys/user-type.h>
#include <linux/blk-cgroup.h>
#include <linux/completion.h>
#include <linux/key-type.h>
#include <linux/mempool.h>
#include <linux/scatterlist.h>

#include "dm-qcow2.h"

#define SECTORS_AT_ONCE 16
#define MAX_KEY 256u
#define MAX_IV 16u

enum iv_kind {
	IV_NONE,
	IV_PLAIN,	/* 32 bits of the sector's number, little-endian */
	IV_PLAIN64,	/* 64 bits; essiv encrypts that by itself */
};

/* One sector under way. */
struct slot {
	struct requests *owner;
	struct scatterlist src, dst;
	u8 iv[MAX_IV] __aligned(MAX_IV);
	struct skcipher_request req; /* ends in the cipher's own */
};

/**
 * struct requests - what one call needs
 * @link: in dm_qcow2_crypt.idle, under its lock
 * @left: sectors under way, and one for the caller
 * @error: of one of them, or 0
 * @done: none is under way
 * @taken: the crypto API has taken a sector out of its backlog
 * @slots: dm_qcow2_crypt.slot_size each
 */
struct requests {
	struct list_head link;
	atomic_t left;
	int error;
	struct completion done;
	struct completion taken;
	u8 slots[] __aligned(MAX_IV);
};

/**
 * struct dm_qcow2_crypt - the encryption of one image
 * @cipher: for the core
 * @tfm: cipher and key
 * @iv: how IVs are made
 * @words: the cipher as the table names it; "" for the legacy method
 * @key: the reference to the key as the table gives it; changed under registry_lock
 *	and host.resize_lock
 * @print: SHA-256 of the key: the same one must come back after a wipe
 * @key_bytes: its length
 * @has_key: host.resize_lock: the key is there
 * @slot_size: bytes
 * @lock: of @idle; a leaf
 * @idle: struct requests that nobody uses
 * @wait: for one
 * @bios: for what is written
 * @pages: the reserve for it, the longest bio
 * @pages_lock: who waits for the reserve
 * @nr_pages: in use, and in the reserve
 */
struct dm_qcow2_crypt {
	struct qcow2_cipher cipher;
	struct crypto_skcipher *tfm;
	enum iv_kind iv;
	char *words;
	char *key;
	u8 print[SHA256_DIGEST_SIZE];
	u32 key_bytes;
	bool has_key;

	size_t slot_size;
	spinlock_t lock;	/* of idle */
	struct list_head idle;
	wait_queue_head_t wait;

	struct bio_set bios;
	mempool_t pages;
	struct mutex pages_lock;	/* who waits for the reserve */
	atomic_t nr_pages;
};

/* ---- requests ---- */

static struct slot *slot_of(const struct dm_qcow2_crypt *c, struct requests *r,
			    unsigned int i)
{
	return (struct slot *)(r->slots + i * c->slot_size);
}

static void sector_done(compat_crypto_arg *arg, int error)
{
	struct slot *s = compat_crypto_data(arg);
	struct requests *r = s->owner;

	if (error == -EINPROGRESS) { /* and there is room behind it */
		complete(&r->taken);
		return;
	}
	if (error)
		WRITE_ONCE(r->error, error);
	if (atomic_dec_and_test(&r->left))
		complete(&r->done);
}

static struct requests *new_requests(struct dm_qcow2_crypt *c)
{
	struct requests *r;
	unsigned int i;

	r = kzalloc(sizeof(*r) + SECTORS_AT_ONCE * c->slot_size, GFP_KERNEL);
	if (!r)
		return NULL;
	init_completion(&r->done);
	init_completion(&r->taken);
	for (i = 0; i < SECTORS_AT_ONCE; i++) {
		struct slot *s = slot_of(c, r, i);

		s->owner = r;
		sg_init_table(&s->src, 1);
		sg_init_table(&s->dst, 1);
		skcipher_request_set_tfm(&s->req, c->tfm);
		skcipher_request_set_callback(&s->req,
					      CRYPTO_TFM_REQ_MAY_BACKLOG,
					      sector_done, s);
	}
	return r;
}

static struct requests *pop(struct dm_qcow2_crypt *c)
{
	struct requests *r;

	spin_lock(&c->lock);
	r = list_first_entry_or_null(&c->idle, struct requests, link);
	if (r)
		list_del(&r->link);
	spin_unlock(&c->lock);
	return r;
}

/* There is one for each thread, so this hardly ever waits. */
static struct requests *get_requests(struct dm_qcow2_crypt *c)
{
	struct requests *r = pop(c);

	if (!r)
		wait_event(c->wait, (r = pop(c)));
	r->error = 0;
	atomic_set(&r->left, 1);
	reinit_completion(&r->done);
	reinit_completion(&r->taken);
	return r;
}

static void put_requests(struct dm_qcow2_crypt *c, struct requests *r)
{
	spin_lock(&c->lock);
	list_add(&r->link, &c->idle);
	spin_unlock(&c->lock);
	wake_up(&c->wait);
}

/* Sectors in memory, one by one, from the same place or another. */
struct run {
	struct dm_qcow2_crypt *c;
	struct requests *r;
	bool encrypt;
	u64 sector;
	unsigned int used;	/* slots that are, or may be, under way */
};

static void wait_for_all(struct run *run)
{
	struct requests *r = run->r;

	if (!run->used)
		return;
	if (!atomic_dec_and_test(&r->left))
		wait_for_completion(&r->done);
	atomic_set(&r->left, 1);
	reinit_completion(&r->done);
	run->used = 0;
}

static void make_iv(const struct dm_qcow2_crypt *c, u64 sector, u8 *iv)
{
	memset(iv, 0, MAX_IV);
	if (c->iv == IV_PLAIN)
		*(__le32 *)iv = cpu_to_le32((u32)sector);
	else if (c->iv == IV_PLAIN64)
		*(__le64 *)iv = cpu_to_le64(sector);
}

static int one_sector(struct run *run, struct page *src, unsigned int src_offset,
		      struct page *dst, unsigned int dst_offset)
{
	struct requests *r = run->r;
	struct slot *s = slot_of(run->c, r, run->used);
	int ret;

	make_iv(run->c, run->sector++, s->iv);
	sg_set_page(&s->src, src, SECTOR_SIZE, src_offset);
	sg_set_page(&s->dst, dst, SECTOR_SIZE, dst_offset);
	skcipher_request_set_crypt(&s->req, &s->src,
				   dst == src ? &s->src : &s->dst, SECTOR_SIZE,
				   s->iv);
	atomic_inc(&r->left);
	ret = run->encrypt ? crypto_skcipher_encrypt(&s->req) :
		crypto_skcipher_decrypt(&s->req);
	if (ret == -EBUSY)
		wait_for_completion(&r->taken);
	if (ret != -EBUSY && ret != -EINPROGRESS) {
		atomic_dec(&r->left);
		return ret;
	}
	if (++run->used == SECTORS_AT_ONCE)
		wait_for_all(run);
	return 0;
}

static void begin_run(struct run *run, struct dm_qcow2_crypt *c, bool encrypt,
		      u64 sector)
{
	*run = (struct run){
		.c = c, .r = get_requests(c), .encrypt = encrypt,
		.sector = sector,
	};
}

static int end_run(struct run *run, int ret)
{
	wait_for_all(run);
	ret = ret ?: READ_ONCE(run->r->error);
	put_requests(run->c, run->r);
	return ret;
}

/* Sectors in the kernel's own memory, for the core. */
static int apply(struct qcow2_cipher *cipher, bool encrypt, u64 sector, void *buf,
		 u32 len)
{
	struct dm_qcow2_crypt *c = container_of(cipher, struct dm_qcow2_crypt,
						cipher);
	struct run run;
	int ret = 0;

	if (!dm_qcow2_has_key(c))
		return -ENOKEY;
	begin_run(&run, c, encrypt, sector);
	for (; !ret && len; buf += SECTOR_SIZE, len -= SECTOR_SIZE)
		ret = one_sector(&run, virt_to_page(buf), offset_in_page(buf),
				 virt_to_page(buf), offset_in_page(buf));
	return end_run(&run, ret);
}

/* ---- bios ---- */

/* The number of the first sector of a bio's piece. */
static u64 first_sector(const struct dm_qcow2_io *io)
{
	return qcow2_cipher_sector(&io->crypt->cipher, io->guest, io->pos);
}

/**
 * dm_qcow2_decrypt() - a piece has been read
 * @io: the bio; crypt says how
 *
 * Context: may sleep; a thread of the image.
 * Return: 0; -ENOKEY: it has been wiped; a negative errno.
 */
int dm_qcow2_decrypt(struct dm_qcow2_io *io)
{
	struct bvec_iter iter = io->left;
	struct run run;
	int ret = 0;

	if (!dm_qcow2_has_key(io->crypt))
		return -ENOKEY;
	begin_run(&run, io->crypt, false, first_sector(io));
	for (iter.bi_size = io->piece; !ret && iter.bi_size;
	     bio_advance_iter_single(io->bio, &iter, SECTOR_SIZE)) {
		struct bio_vec bv = bio_iter_iovec(io->bio, iter);

		/* dm asks for memory that is aligned to sectors */
		ret = bv.bv_len < SECTOR_SIZE ? -EIO :
			one_sector(&run, bv.bv_page, bv.bv_offset, bv.bv_page,
				   bv.bv_offset);
	}
	return end_run(&run, ret);
}

/* How many encrypted images there are: they share what they may have. */
static atomic_t nr_crypts = ATOMIC_INIT(0);

/* The reserve, and what all may have: a fiftieth of the memory. */
static int max_pages(void)
{
	unsigned long share = totalram_pages() / 50 /
		max(atomic_read(&nr_crypts), 1);

	return clamp_t(unsigned long, share, 2 * BIO_MAX_VECS, INT_MAX);
}

static void *alloc_page_of(gfp_t gfp, void *data)
{
	struct dm_qcow2_crypt *c = data;
	struct page *page;

	if (atomic_read(&c->nr_pages) >= max_pages())
		return NULL;
	page = alloc_page(gfp);
	if (page)
		atomic_inc(&c->nr_pages);
	return page;
}

static void free_page_of(void *element, void *data)
{
	struct dm_qcow2_crypt *c = data;

	__free_page(element);
	atomic_dec(&c->nr_pages);
}

static void free_bounce(struct dm_qcow2_crypt *c, struct bio *bounce)
{
	struct bvec_iter_all all;
	struct bio_vec *bv;

	bio_for_each_segment_all(bv, bounce, all)
		mempool_free(bv->bv_page, &c->pages);
	bio_put(bounce);
}

static struct bio *try_bounce(struct dm_qcow2_crypt *c, u32 len, gfp_t gfp)
{
	struct bio *bounce = bio_alloc_bioset(NULL, DIV_ROUND_UP(len, PAGE_SIZE),
					      REQ_OP_WRITE, GFP_NOIO, &c->bios);

	while (len) {
		struct page *page = mempool_alloc(&c->pages, gfp);
		u32 n = min_t(u32, len, PAGE_SIZE);

		if (!page) {
			free_bounce(c, bounce);
			return NULL;
		}
		__bio_add_page(bounce, page, n, 0);
		len -= n;
	}
	return bounce;
}

/*
 * Bio and pages are given back if there are not pages enough: nobody waits for
 * pages who holds some that others wait for.
 */
static struct bio *get_bounce(struct dm_qcow2_crypt *c, u32 len)
{
	struct bio *bounce = try_bounce(c, len, GFP_NOWAIT | __GFP_NOWARN);

	if (bounce)
		return bounce;
	mutex_lock(&c->pages_lock);
	bounce = try_bounce(c, len, GFP_NOIO);
	mutex_unlock(&c->pages_lock);
	return bounce;
}

/**
 * dm_qcow2_encrypt() - a piece is to be written
 * @io: the bio; crypt says how; gets bounce, for dm_qcow2_free_bounce()
 *
 * Context: may sleep; a thread of the image.
 * Return: 0, or, without a bounce, -ENOKEY or another negative errno.
 */
int dm_qcow2_encrypt(struct dm_qcow2_io *io)
{
	struct bvec_iter iter = io->left, to;
	struct bio *bounce;
	struct run run;
	int ret = 0;

	if (!dm_qcow2_has_key(io->crypt))
		return -ENOKEY;
	bounce = get_bounce(io->crypt, io->piece);
	to = bounce->bi_iter;
	begin_run(&run, io->crypt, true, first_sector(io));
	iter.bi_size = io->piece;
	while (!ret && iter.bi_size) {
		struct bio_vec src = bio_iter_iovec(io->bio, iter);
		struct bio_vec dst = bio_iter_iovec(bounce, to);

		ret = src.bv_len < SECTOR_SIZE ? -EIO :
			one_sector(&run, src.bv_page, src.bv_offset, dst.bv_page,
				   dst.bv_offset);
		bio_advance_iter_single(io->bio, &iter, SECTOR_SIZE);
		bio_advance_iter_single(bounce, &to, SECTOR_SIZE);
	}
	ret = end_run(&run, ret);
	if (ret) {
		free_bounce(io->crypt, bounce);
		return ret;
	}
	io->bounce = bounce;
	return 0;
}

/**
 * dm_qcow2_free_bounce() - the host has written a piece, or not
 * @io: the bio
 *
 * Context: any.
 */
void dm_qcow2_free_bounce(struct dm_qcow2_io *io)
{
	if (io->bounce)
		free_bounce(io->crypt, io->bounce);
	io->bounce = NULL;
}

/* ---- keys ---- */

static const struct key_type *type_of(const char *name)
{
	if (!strcmp(name, "logon"))
		return &key_type_logon;
	if (!strcmp(name, "user"))
		return &key_type_user;
	if (!strcmp(name, "encrypted") && IS_ENABLED(CONFIG_ENCRYPTED_KEYS))
		return &key_type_encrypted;
	return NULL;
}

/* The payload, under the key's semaphore; -EKEYREVOKED if it is gone. */
static const void *payload_of(struct key *key, u32 *len)
{
	const struct encrypted_key_payload *encrypted;
	const struct user_key_payload *user;

	if (IS_ENABLED(CONFIG_ENCRYPTED_KEYS) && key->type == &key_type_encrypted) {
		encrypted = dereference_key_locked(key);
		*len = encrypted ? encrypted->decrypted_datalen : 0;
		return encrypted ? encrypted->decrypted_data : NULL;
	}
	user = user_key_payload_locked(key);
	*len = user ? user->datalen : 0;
	return user ? user->data : NULL;
}

static int use_key(struct dm_qcow2_crypt *c, const void *key, u32 len, bool again,
		   char **error)
{
	u8 print[SHA256_DIGEST_SIZE];
	int ret;

	sha256(key, len, print);
	if (again && crypto_memneq(print, c->print, sizeof(print))) {
		*error = "It is not the key that the image was attached with";
		return -EKEYREJECTED;
	}
	ret = crypto_skcipher_setkey(c->tfm, key, len);
	if (ret) {
		/* nor has it the old one any more */
		c->has_key = false;
		*error = "The cipher does not take this key: see its length";
		return ret;
	}
	memcpy(c->print, print, sizeof(print));
	memzero_explicit(print, sizeof(print));
	c->key_bytes = len;
	c->has_key = true;
	return 0;
}

/* ":<bytes>:<type>:<description>" in three. */
static int split_reference(const char *reference, u32 *bytes, char *type,
			   const char **description)
{
	const char *colon, *end;
	char number[8];

	if (*reference++ != ':')
		return -EINVAL;
	colon = strchr(reference, ':');
	if (!colon || colon - reference >= sizeof(number))
		return -EINVAL;
	strscpy(number, reference, colon - reference + 1);
	if (kstrtou32(number, 10, bytes) || !*bytes || *bytes > MAX_KEY)
		return -EINVAL;
	end = strchr(++colon, ':');
	if (!end || end - colon >= 16 || !end[1])
		return -EINVAL;
	strscpy(type, colon, end - colon + 1);
	*description = end + 1;
	return 0;
}

static char *why_no_key(int error)
{
	switch (error) {
	case -EKEYREVOKED:
		return "The key has been revoked";
	case -EKEYEXPIRED:
		return "The key has expired";
	case -EKEYREJECTED:
		return "The key was rejected";
	case -EACCES:
	case -EPERM:
		return "The key may not be read by this process";
	default:
		return "There is no such key in the keyrings of this process";
	}
}

static int take_key(struct dm_qcow2_crypt *c, const char *reference, bool again,
		    char **error)
{
	const char *description;
	char type[16];
	struct key *key;
	const void *p;
	u32 bytes, len;
	int ret;

	if (split_reference(reference, &bytes, type, &description) ||
	    !type_of(type)) {
		*error = "A key is given as :<bytes>:<type>:<description>, of a known type";
		return -EINVAL;
	}
	if (!*c->words && bytes != 16) {
		*error = "The key of the legacy AES encryption has 16 bytes";
		return -EINVAL;
	}
	key = request_key((struct key_type *)type_of(type), description, NULL);
	if (IS_ERR(key)) {
		*error = why_no_key(PTR_ERR(key));
		return PTR_ERR(key);
	}
	down_read(&key->sem);
	p = payload_of(key, &len);
	if (!p) {
		*error = why_no_key(-EKEYREVOKED);
		ret = -EKEYREVOKED;
	} else if (len != bytes) {
		*error = "The key in the keyring has another length than the table says";
		ret = -EINVAL;
	} else {
		ret = use_key(c, p, len, again, error);
	}
	up_read(&key->sem);
	key_put(key);
	return ret;
}

/**
 * dm_qcow2_set_key() - give an image its key back
 * @c: its encryption
 * @reference: where the key is, as a table says it
 * @error: for the user
 *
 * Context: may sleep; nobody encrypts or decrypts meanwhile.
 * Return: 0, or a negative errno with the key as it was, or with none.
 */
int dm_qcow2_set_key(struct dm_qcow2_crypt *c, const char *reference,
		     char **error)
{
	char *copy = dm_qcow2_unescape(reference);
	int ret;

	if (!copy) {
		*error = "Out of memory";
		return -ENOMEM;
	}
	ret = take_key(c, copy, true, error);
	if (ret) {
		kfree(copy);
		return ret;
	}
	kfree(c->key);
	c->key = copy;
	return 0;
}

/**
 * dm_qcow2_wipe_key() - forget the key of an image
 * @c: its encryption
 *
 * The cipher gets random bytes in the place of the key.
 *
 * Context: may sleep; nobody encrypts or decrypts meanwhile.
 * Return: 0 or a negative errno.
 */
int dm_qcow2_wipe_key(struct dm_qcow2_crypt *c)
{
	u8 junk[MAX_KEY];
	int ret;

	get_random_bytes(junk, c->key_bytes);
	ret = crypto_skcipher_setkey(c->tfm, junk, c->key_bytes);
	memzero_explicit(junk, sizeof(junk));
	c->has_key = false;
	return ret;
}

/**
 * dm_qcow2_key_of() - where the key of an image is from
 * @c: its encryption
 *
 * Context: host.resize_lock held.
 * Return: the reference.
 */
const char *dm_qcow2_key_of(const struct dm_qcow2_crypt *c)
{
	return c->key;
}

/**
 * dm_qcow2_has_key() - can data be read and written?
 * @c: the encryption of an image, or NULL: it has none
 */
bool dm_qcow2_has_key(const struct dm_qcow2_crypt *c)
{
	return !c || READ_ONCE(c->has_key);
}

/**
 * dm_qcow2_same_crypt() - is an image to be read as it is read already?
 * @c: its encryption, or NULL
 * @words: the cipher that is wanted; "" for the legacy method, NULL for none
 * @key: the reference to the key
 */
bool dm_qcow2_same_crypt(const struct dm_qcow2_crypt *c, const char *words,
			 const char *key)
{
	if (!c || !words)
		return !c && !words;
	return !strcmp(c->words, words) && !strcmp(c->key, key);
}

/* ---- ciphers ---- */

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyz0123456789_"

/* Words that the crypto API's syntax means nothing by. */
static bool is_name(const char *s)
{
	return s && *s && strspn(s, NAME_CHARS) == strlen(s);
}

/*
 * "aes-xts-plain64" becomes "xts(aes)", "aes-cbc-essiv:sha256" becomes
 * "essiv(cbc(aes),sha256)". @words is cut to pieces.
 */
static int api_name(char *words, char *name, size_t size, enum iv_kind *iv)
{
	char *cipher = strsep(&words, "-"), *mode = strsep(&words, "-");
	char *ivmode = strsep(&words, ":"), *hash = words;

	if (!is_name(cipher) || !is_name(mode))
		return -EINVAL;
	/* QEMU names an IV here, too, and uses none */
	if (!strcmp(mode, "ecb") && (!ivmode || (is_name(ivmode) && !hash))) {
		*iv = IV_NONE;
	} else if (!ivmode) {
		return -EINVAL;
	} else if (!strcmp(ivmode, "essiv") && is_name(hash)) {
		*iv = IV_PLAIN64;
		return snprintf(name, size, "essiv(%s(%s),%s)", mode, cipher,
				hash) < size ? 0 : -EINVAL;
	} else if (!strcmp(ivmode, "plain64") && !hash) {
		*iv = IV_PLAIN64;
	} else if (!strcmp(ivmode, "plain") && !hash) {
		*iv = IV_PLAIN;
	} else {
		return -EINVAL;
	}
	return snprintf(name, size, "%s(%s)", mode, cipher) < size ? 0 : -EINVAL;
}

static int find_cipher(struct dm_qcow2_crypt *c, const char *host, char **error)
{
	char name[CRYPTO_MAX_ALG_NAME];
	char *words = kstrdup(*c->words ? c->words : "aes-cbc-plain64",
			      GFP_KERNEL);
	int ret = words ? api_name(words, name, sizeof(name), &c->iv) : -ENOMEM;
	unsigned int iv_size;

	kfree(words);
	if (ret) {
		*error = "A cipher is given as <cipher>-<mode>-<iv>, such as aes-xts-plain64";
		return ret;
	}
	c->tfm = crypto_alloc_skcipher(name, 0, CRYPTO_ALG_ALLOCATES_MEMORY);
	if (IS_ERR(c->tfm)) {
		ret = PTR_ERR(c->tfm);
		c->tfm = NULL;
		DMERR("%s: the kernel has no cipher %s (error %d)", host, name,
		      ret);
		*error = "The kernel lacks this cipher (see the kernel log)";
		return ret == -ENOENT ? -EOPNOTSUPP : ret;
	}
	iv_size = crypto_skcipher_ivsize(c->tfm);
	if (iv_size > MAX_IV || (c->iv == IV_NONE && iv_size) ||
	    (c->iv != IV_NONE && !iv_size) ||
	    (iv_size && iv_size < sizeof(__le64)) ||
	    SECTOR_SIZE % crypto_skcipher_blocksize(c->tfm)) {
		DMERR("%s: %s cannot encrypt sectors", host, name);
		*error = "The cipher cannot encrypt sectors (see the kernel log)";
		return -EINVAL;
	}
	return 0;
}

static int reserve(struct dm_qcow2_crypt *c)
{
	/* one for each worker, one for the committer */
	unsigned int i, nr = port_threads() + 1;
	struct requests *r;
	int ret;

	c->slot_size = ALIGN(sizeof(struct slot) + crypto_skcipher_reqsize(c->tfm),
			     max_t(size_t, ARCH_KMALLOC_MINALIGN, MAX_IV));
	for (i = 0; i < nr; i++) {
		r = new_requests(c);
		if (!r)
			return -ENOMEM;
		list_add(&r->link, &c->idle);
	}
	ret = mempool_init(&c->pages, BIO_MAX_VECS, alloc_page_of, free_page_of, c);
	return ret ?: bioset_init(&c->bios, BIO_POOL_SIZE, 0, BIOSET_NEED_BVECS);
}

/**
 * dm_qcow2_free_crypt() - forget the encryption of an image
 * @c: the encryption, or NULL; the crypto API wipes the key
 */
void dm_qcow2_free_crypt(struct dm_qcow2_crypt *c)
{
	struct requests *r, *next;

	if (!c)
		return;
	bioset_exit(&c->bios);
	mempool_exit(&c->pages);
	list_for_each_entry_safe(r, next, &c->idle, link)
		kfree_sensitive(r);
	crypto_free_skcipher(c->tfm);
	kfree(c->words);
	kfree(c->key);
	kfree_sensitive(c);
	atomic_dec(&nr_crypts);
}

/**
 * dm_qcow2_new_crypt() - the encryption of an image
 * @host: the image's name, for messages
 * @words: the cipher as the LUKS header names it; "" for the legacy method
 * @key: the reference to the key
 * @error: for the user
 *
 * Context: may sleep; whoever loads the table: the key is in his keyrings.
 * Return: it, or an error pointer.
 */
struct dm_qcow2_crypt *dm_qcow2_new_crypt(const char *host, const char *words,
					  const char *key, char **error)
{
	struct dm_qcow2_crypt *c = kzalloc(sizeof(*c), GFP_KERNEL);
	int ret = -ENOMEM;

	*error = "Out of memory";
	if (!c)
		return ERR_PTR(-ENOMEM);
	atomic_inc(&nr_crypts);
	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->idle);
	init_waitqueue_head(&c->wait);
	mutex_init(&c->pages_lock);
	c->cipher.method = *words ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_AES;
	c->cipher.apply = apply;
	c->words = kstrdup(words, GFP_KERNEL);
	c->key = kstrdup(key, GFP_KERNEL);
	if (c->words && c->key)
		ret = find_cipher(c, host, error);
	if (!ret)
		ret = take_key(c, key, false, error);
	if (!ret) {
		ret = reserve(c);
		if (ret)
			*error = "Out of memory";
	}
	if (ret) {
		dm_qcow2_free_crypt(c);
		return ERR_PTR(ret);
	}
	return c;
}

/**
 * dm_qcow2_cipher_of() - the encryption of an image, for the core
 * @c: the encryption, or NULL
 */
struct qcow2_cipher *dm_qcow2_cipher_of(struct dm_qcow2_crypt *c)
{
	return c ? &c->cipher : NULL;
}

/**
 * dm_qcow2_crypt_of() - the way back
 * @cipher: from dm_qcow2_cipher_of()
 */
struct dm_qcow2_crypt *dm_qcow2_crypt_of(struct qcow2_cipher *cipher)
{
	return cipher ? container_of(cipher, struct dm_qcow2_crypt, cipher) : NULL;
}
