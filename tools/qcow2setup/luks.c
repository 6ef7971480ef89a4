// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the LUKS header of an image: a copy of it in anonymous memory, on
 * which libcryptsetup works, and the order in which what changed goes back. It is
 * the only one that knows libcryptsetup.
 */
#include <errno.h>
#include <libcryptsetup.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qcow2setup.h"

#define MAX_HEADER (32u << 20)
#define SPARE (64u << 20)	/* room behind it: the payload offset means nothing */
#define MAY_LACK \
	"If the kernel lacks the cipher for programs, 'modprobe algif_skcipher' may help; --debug says more."
#define PHDR_BYTES 1024u	/* whole sectors; key material begins behind it */

static void log_crypt(int level, const char *msg, void *arg)
{
	log_dbg("libcryptsetup: %.*s", (int)strcspn(msg, "\n"), msg);
}

static enum result damaged(const struct luks *l, const char *what)
{
	log_err("%s: its LUKS header is damaged: %s. A copy of the header is the only remedy, if there is one.",
		l->path, what);
	return WRONG_DEVICE;
}

static enum result transfer(int fd, bool write, const char *path, uint8_t *buf,
			    uint64_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = write ? pwrite(fd, buf, len, offset) :
			pread(fd, buf, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			log_err("The LUKS header of %s cannot be %s: %s.", path,
				write ? "written" : "read",
				n ? strerror(errno) : "the file has ended");
			return WRONG_DEVICE;
		}
		buf += n;
		offset += n;
		len -= n;
	}
	return OK;
}

static enum result start(struct luks *l)
{
	char *path;
	int err;

	l->fd = memfd_create("luks", MFD_CLOEXEC);
	if (l->fd < 0 || ftruncate(l->fd, MAX_HEADER + SPARE) < 0) {
		log_err("There is no memory for the LUKS header: %s.",
			strerror(errno));
		return NO_MEMORY;
	}
	path = xasprintf("/proc/self/fd/%d", l->fd);
	err = crypt_init(&l->cd, path);
	free(path);
	if (err) {
		l->cd = NULL;
		log_err("libcryptsetup cannot be used: %s. Is /proc mounted?",
			strerror(-err));
		return FAILED;
	}
	crypt_set_log_callback(l->cd, log_crypt, NULL);
	return OK;
}

/* Everything that is used of it has to be inside what the image says. */
static enum result check_bounds(const struct luks *l)
{
	uint64_t offset, length;
	int i;

	for (i = 0; i < LUKS_SLOTS; i++) {
		if (crypt_keyslot_status(l->cd, i) == CRYPT_SLOT_INVALID)
			return damaged(l, "a key slot is neither in use nor free");
		if (crypt_keyslot_area(l->cd, i, &offset, &length))
			return damaged(l, "a key slot has no place");
		if (offset < PHDR_BYTES || offset > l->length ||
		    length > l->length - offset)
			return damaged(l, "a key slot is outside of it");
	}
	return OK;
}

/*
 * What QEMU can read. The words go into a table line, and the image may be from
 * anybody.
 */
static enum result check_cipher(const struct luks *l, const char *name,
				const char *mode)
{
	static const char * const names[] = { "aes", "serpent", "twofish", "cast5" };
	static const char * const modes[] = { "xts-", "cbc-", "ctr-", "ecb-" };
	static const char * const ivs[] = {
		"plain", "plain64", "essiv:sha1", "essiv:sha224",
		"essiv:sha256", "essiv:sha384", "essiv:sha512", "essiv:md5",
		"essiv:ripemd160", "essiv:rmd160",
	};
	bool found[3] = { false };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		found[0] |= !strcmp(name, names[i]);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		found[1] |= !strncmp(mode, modes[i], 4);
	for (i = 0; i < ARRAY_SIZE(ivs); i++)
		found[2] |= found[1] && !strcmp(mode + 4, ivs[i]);
	if (found[0] && found[1] && found[2])
		return OK;
	log_err("%s: the cipher '%s-%s' is not supported: the ciphers are aes, serpent, twofish and cast5, with xts, cbc, ctr or ecb, and plain, plain64 or essiv:HASH, such as aes-xts-plain64.",
		l->path, name, mode);
	return WRONG_DEVICE;
}

static enum result load(const struct host *host, const struct qcow2_header *hdr,
			struct luks *l)
{
	enum result ret;

	if (hdr->crypto_length > MAX_HEADER)
		return damaged(l, "it has more than 32 MiB");
	if (hdr->crypto_length < PHDR_BYTES)
		return damaged(l, "it is too short");
	l->offset = hdr->crypto_offset;
	l->length = hdr->crypto_length;
	l->before = xcalloc(1, l->length);
	ret = transfer(host->fd, false, l->path, l->before, l->length, l->offset);
	ret = ret ?: start(l);
	ret = ret ?: transfer(l->fd, true, l->path, l->before, l->length, 0);
	if (ret)
		return ret;
	if (crypt_load(l->cd, CRYPT_LUKS1, NULL))
		return damaged(l, "it is no LUKS1 header, or contradicts itself");
	if (luks_key_bytes(l) > LUKS_MAX_KEY)
		return damaged(l, "its key is too long");
	ret = check_cipher(l, crypt_get_cipher(l->cd),
			   crypt_get_cipher_mode(l->cd));
	return ret ?: check_bounds(l);
}

/**
 * luks_load() - take a copy of the LUKS header of an image
 * @host: what holds the image
 * @hdr: the header of the image
 * @l: filled in, for luks_close() in either case
 *
 * Return: OK, or what to exit with.
 */
enum result luks_load(const struct host *host, const struct qcow2_header *hdr,
		      struct luks *l)
{
	memset(l, 0, sizeof(*l));
	l->fd = -1;
	l->path = xstrndup(host->path, strlen(host->path));
	return load(host, hdr, l);
}

static enum result set_pbkdf(struct luks *l, const char *hash,
			     uint64_t iterations)
{
	struct crypt_pbkdf_type pbkdf = {
		.type = CRYPT_KDF_PBKDF2,
		.hash = hash,
		.time_ms = 2000,
	};

	if (iterations) {
		pbkdf.time_ms = 0;
		pbkdf.iterations = iterations;
		pbkdf.flags = CRYPT_PBKDF_NO_BENCHMARK;
	}
	if (iterations <= UINT32_MAX && !crypt_set_pbkdf_type(l->cd, &pbkdf))
		return OK;
	log_err("Passphrases cannot be hashed with '%s' and %llu iterations: the least is 1000, and 'openssl list -digest-algorithms' has the hashes.",
		hash, (unsigned long long)iterations);
	return FAILED;
}

/* "aes-xts-plain64" is a name and a mode. */
static enum result format(struct luks *l, const char *cipher, uint64_t key_bits,
			  const char *hash)
{
	struct crypt_params_luks1 params = {
		.hash = hash,
		.data_alignment = 8,	/* the header ends where its slots do */
	};
	size_t len = strcspn(cipher, "-");
	char *name = xstrndup(cipher, len);
	const char *mode = cipher[len] ? cipher + len + 1 : "";
	enum result ret = check_cipher(l, name, mode) ? FAILED : OK;
	int err;

	if (!ret) {
		err = crypt_format(l->cd, CRYPT_LUKS1, name, mode, NULL, NULL,
				   key_bits / 8, &params);
		if (err) {
			log_err("%s cannot have %s, a key of %llu bits and %s: %s. " MAY_LACK,
				l->path, cipher, (unsigned long long)key_bits,
				hash, strerror(-err));
			ret = FAILED;
		}
	}
	free(name);
	return ret;
}

/**
 * luks_format() - a LUKS header for a new image, and a key for its data
 * @path: of the image
 * @cipher: such as "aes-xts-plain64"
 * @key_bits: of the data's key
 * @hash: of passphrases
 * @iterations: of that, at least 1000; 0: as many as take two seconds
 * @l: filled in, for luks_close() in either case
 *
 * It has no key slots in use yet.
 *
 * Return: OK, or what to exit with.
 */
enum result luks_format(const char *path, const char *cipher, uint64_t key_bits,
			const char *hash, uint64_t iterations, struct luks *l)
{
	enum result ret;

	memset(l, 0, sizeof(*l));
	l->fd = -1;
	l->path = xstrndup(path, strlen(path));
	if (key_bits % 8 || key_bits / 8 > LUKS_MAX_KEY) {
		log_err("A key of %llu bits is not possible: 128 to 512, 256 and 512 for xts.",
			(unsigned long long)key_bits);
		return FAILED;
	}
	ret = start(l);
	ret = ret ?: set_pbkdf(l, hash, iterations);
	ret = ret ?: format(l, cipher, key_bits, hash);
	l->length = ret ? 0 : crypt_get_data_offset(l->cd) * 512;
	return ret;
}

/**
 * luks_bytes() - the header as it is now
 * @l: of @l->length bytes
 * @buf: filled in on success, to free
 *
 * Return: OK, or what to exit with.
 */
enum result luks_bytes(const struct luks *l, uint8_t **buf)
{
	*buf = xcalloc(1, l->length);
	return transfer(l->fd, false, l->path, *buf, l->length, 0);
}

/**
 * luks_close() - the counterpart of luks_load() and luks_format()
 * @l: all zeros but for the descriptor -1 is fine, too
 */
void luks_close(struct luks *l)
{
	if (l->cd)
		crypt_free(l->cd);
	if (l->fd >= 0)
		close(l->fd);
	free(l->before);
	free(l->path);
	memset(l, 0, sizeof(*l));
	l->fd = -1;
}

/* ---- what it says ---- */

/**
 * luks_cipher() - the cipher of the data
 * @l: the header
 *
 * Return: as for dm-crypt: "aes-xts-plain64"; to free.
 */
char *luks_cipher(const struct luks *l)
{
	return xasprintf("%s-%s", crypt_get_cipher(l->cd),
			 crypt_get_cipher_mode(l->cd));
}

/**
 * luks_key_bytes() - the length of the key of the data
 * @l: the header
 *
 * Return: in bytes.
 */
unsigned int luks_key_bytes(const struct luks *l)
{
	return crypt_get_volume_key_size(l->cd);
}

/**
 * luks_slots() - the key slots in use
 * @l: the header
 *
 * Return: a bit for each.
 */
unsigned int luks_slots(const struct luks *l)
{
	unsigned int mask = 0;
	int i;

	for (i = 0; i < LUKS_SLOTS; i++)
		if (crypt_keyslot_status(l->cd, i) >= CRYPT_SLOT_ACTIVE)
			mask |= 1u << i;
	return mask;
}

/**
 * luks_hash() - the hash of the passphrases
 * @l: the header
 *
 * Return: its name, to free; NULL if no key slot is in use.
 */
char *luks_hash(const struct luks *l)
{
	struct crypt_pbkdf_type pbkdf;
	int i;

	for (i = 0; i < LUKS_SLOTS; i++)
		if (!crypt_keyslot_get_pbkdf(l->cd, i, &pbkdf) && pbkdf.hash)
			return xasprintf("%s", pbkdf.hash);
	return NULL;
}

/* ---- the key ---- */

/**
 * luks_unlock() - get the key of the data
 * @l: the header
 * @pass: a passphrase
 * @key: filled in, for secret_free() in either case
 * @slot: the slot that it opens
 *
 * Return: OK; NO_PERMISSION if it opens none; else what to exit with.
 */
enum result luks_unlock(const struct luks *l, const struct secret *pass,
			struct secret *key, int *slot)
{
	size_t len;

	secret_new(key, LUKS_MAX_KEY);
	len = luks_key_bytes(l);
	*slot = crypt_volume_key_get(l->cd, CRYPT_ANY_SLOT, key->data, &len,
				     pass->data, pass->len);
	if (*slot >= 0) {
		key->len = len;
		return OK;
	}
	if (!luks_slots(l)) {
		log_err("%s: no key slot of its LUKS header is in use: nothing opens it.",
			l->path);
		return WRONG_DEVICE;
	}
	if (*slot == -EPERM) {
		log_err("%s: No key available with this passphrase.", l->path);
		return NO_PERMISSION;
	}
	log_err("%s: its LUKS header cannot be unlocked: %s. " MAY_LACK,
		l->path, strerror(-*slot));
	return *slot == -ENOMEM ? NO_MEMORY : FAILED;
}

/**
 * luks_add() - have one more passphrase open the image
 * @l: the header
 * @key: of the data; NULL after luks_format()
 * @pass: the passphrase
 * @iterations: as of luks_format()
 * @slot: the slot that it has
 *
 * Return: OK, or what to exit with.
 */
enum result luks_add(struct luks *l, const struct secret *key,
		     const struct secret *pass, uint64_t iterations, int *slot)
{
	char *hash = key ? luks_hash(l) : NULL;
	enum result ret = hash ? set_pbkdf(l, hash, iterations) : OK;

	free(hash);
	if (ret)
		return ret;
	if (luks_slots(l) == (1u << LUKS_SLOTS) - 1) {
		log_err("%s: all %u key slots are in use. 'qcow2setup luksKillSlot' frees one.",
			l->path, LUKS_SLOTS);
		return FAILED;
	}
	*slot = crypt_keyslot_add_by_volume_key(l->cd, CRYPT_ANY_SLOT,
						key ? key->data : NULL,
						key ? key->len : 0, pass->data,
						pass->len);
	if (*slot >= 0)
		return OK;
	log_err("%s: no key slot could be made: %s. --debug says more.", l->path,
		strerror(-*slot));
	return FAILED;
}

/**
 * luks_kill() - have a key slot open nothing any more
 * @l: the header
 * @slot: the slot; it is in use
 *
 * Return: OK, or what to exit with.
 */
enum result luks_kill(struct luks *l, int slot)
{
	int err = crypt_keyslot_destroy(l->cd, slot);

	if (!err)
		return OK;
	log_err("%s: the key slot %d cannot be destroyed: %s. --debug says more.",
		l->path, slot, strerror(-err));
	return FAILED;
}

/* ---- back into the image ---- */

static bool same(const uint8_t *a, const uint8_t *b, uint64_t len)
{
	return !memcmp(a, b, len);
}

/* Writes the sectors of [from, to) that have changed, durably. */
static enum result store(struct luks *l, const struct host *host,
			 uint8_t *now, uint64_t from, uint64_t to)
{
	enum result ret = OK;
	uint64_t pos, n;

	for (pos = from; !ret && pos < to; pos += n) {
		n = min(to - pos, (uint64_t)512);
		if (!same(now + pos, l->before + pos, n))
			ret = transfer(host->fd, true, l->path, now + pos, n,
				       l->offset + pos);
	}
	if (!ret && fdatasync(host->fd) < 0) {
		log_err("The LUKS header of %s cannot be written: %s.", l->path,
			strerror(errno));
		ret = WRONG_DEVICE;
	}
	if (!ret)
		memcpy(l->before + from, now + from, to - from);
	return ret;
}

/**
 * luks_store() - write back what has changed
 * @l: from luks_load()
 * @host: what holds the image, open for writing
 * @added: a slot was added, and not killed: its key material has to be there before
 *	the header says so, and that of one that was killed until it no longer does
 *
 * Whenever it ends, each slot that the header has in use works, but for one whose
 * entry is cut in half by a power failure. Signals wait, so that of a slot that is
 * gone no key material stays.
 *
 * Return: OK, or what to exit with.
 */
enum result luks_store(struct luks *l, const struct host *host, bool added)
{
	uint8_t *now;
	enum result ret = luks_bytes(l, &now);
	sigset_t all, old;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	if (!ret && added)
		ret = store(l, host, now, PHDR_BYTES, l->length);
	if (!ret)
		ret = store(l, host, now, 0, PHDR_BYTES);
	if (!ret && !added)
		ret = store(l, host, now, PHDR_BYTES, l->length);
	sigprocmask(SIG_SETMASK, &old, NULL);
	free(now);
	return ret;
}
