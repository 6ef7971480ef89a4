/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of qcow2setup share. A function that can fail prints what went
 * wrong, once, and returns what the program exits with: enum result.
 */
#ifndef QCOW2SETUP_H
#define QCOW2SETUP_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "create.h"
#include "image.h"

#define QCOW2SETUP_VERSION "0.1.0"

/* The exit codes of cryptsetup. */
enum result {
	OK = 0,
	FAILED = 1,		/* wrong parameters, and whatever has no code below */
	NO_PERMISSION = 2,
	NO_MEMORY = 3,
	WRONG_DEVICE = 4,	/* no such image or device, or not fit for it */
	BUSY = 5,		/* exists already, or is in use */
	/* and of 'check', when a check was made */
	FOUND_LEAKS = 6,	/* and no errors */
	FOUND_ERRORS = 7,
};

enum repair {
	REPAIR_NOTHING,
	REPAIR_LEAKS,
	REPAIR_ALL,
};

struct options {
	bool read_only;
	bool deferred;
	bool json;
	bool chain;
	bool no_discard_passdown;
	bool no_readahead;
	bool buffered_backing;
	enum repair repair;
	bool shrink;
	unsigned int sector_size;	/* bytes; 0: not given */
	uint64_t cache_bytes;		/* 0: not given */
	const char *backing_format;	/* where a header says none, or NULL */
	const char *data_file;		/* of the top image, or NULL */
	const char *key_file;		/* "-" is stdin; or NULL */
	const char *new_key_file;
	const char **keys;		/* names in a keyring */
	unsigned int nr_keys;
	uint64_t iterations;		/* of a passphrase's hash; 0: not given */
	/* of a new image */
	bool force;
	bool extended_l2;
	bool lazy_refcounts;
	bool data_file_raw;
	const char *backing;		/* name of its backing file, or NULL */
	const char *compression;	/* "zlib", "zstd", or NULL */
	const char *preallocation;	/* "off", ..., or NULL */
	uint64_t cluster_size;		/* bytes; 0: not given */
	uint64_t refcount_bits;		/* 0: not given */
	const char *encrypt;		/* "luks" or NULL */
	const char *cipher;		/* such as "aes-xts-plain64", or NULL */
	const char *hash;
	uint64_t key_bits;		/* 0: not given */
};

/* ---- log.c: stderr ---- */

enum log_level {
	LOG_QUIET,
	LOG_VERBOSE,
	LOG_DEBUG,
};

extern enum log_level log_level;

void __printf(1, 2) log_err(const char *fmt, ...);
void __printf(1, 2) log_verbose(const char *fmt, ...);
void __printf(1, 2) log_dbg(const char *fmt, ...);
void log_context(char *text);
void log_keep(char **text);

/* ---- text.c: strings ---- */

void *xcalloc(size_t n, size_t size);
char *xstrndup(const char *s, size_t len);
char *xasprintf(const char *fmt, ...) __printf(1, 2);

char *text_escape(const char *s, size_t len);
char *text_size(uint64_t bytes);
bool text_to_u64(const char *s, uint64_t *value);
json_object *text_json(const char *s, size_t len);
void json_add_u64(json_object *o, const char *key, uint64_t value);
void json_print(json_object *o);

/* ---- host.c: the file or block device that holds an image ---- */

/**
 * struct host - where an image is
 * @path: absolute
 * @fd: open for reading, or for both: host_open_writable(), host_create()
 * @dev: of the device itself, or of the filesystem
 * @ino: of a file; with @dev it tells one from another
 * @block_device: and not a regular file
 * @size: in bytes
 * @allocated: bytes that a file takes on its filesystem
 * @reserve: a file that grows gets its space at once
 */
struct host {
	char *path;
	int fd;
	dev_t dev;
	ino_t ino;
	bool block_device;
	uint64_t size;
	uint64_t allocated;
	bool reserve;
};

char *host_absolute(const char *path);
enum result host_open(const char *path, struct host *host);
enum result host_create(const char *path, bool force, struct host *host,
			bool *created);
enum result host_size(struct host *host);
enum result host_empty(struct host *host);
void host_undo(struct host *host, bool created);
void host_close(struct host *host);
enum result host_writable(const struct host *host);
enum result host_open_writable(struct host *host);
bool host_same(const struct host *host, const char *path);

/* ---- store.c: its bytes, for the core ---- */

const struct qcow2_backend_ops *store_ops(const struct host *host);

/* ---- progress.c: how far something long has come ---- */

void progress_show(const char *what, uint64_t done, uint64_t total);
void progress_end(void);

/* ---- image.c: the header, and what can be done with the image ---- */

enum attach {
	ATTACH_NOT,
	ATTACH_READ_ONLY,
	ATTACH_READ_WRITE,
};

/**
 * struct image - the header of an image
 * @host: what holds it
 * @hdr: decoded and checked
 * @buf: the beginning of the file; the strings in @hdr are places in it
 * @attach: the most that the kernel does with it
 * @why: why it is no more, for a sentence that begins "the image "; else NULL
 * @advice: what can be done about that, or has to be given, a sentence, or NULL
 * @text: memory for @why
 */
struct image {
	struct host host;
	struct qcow2_header hdr;
	char *buf;
	enum attach attach;
	const char *why;
	const char *advice;
	char *text;
};

#define NAME_A_PATH \
	"The kernel needs a file or a block device: 'qemu-img rebase -u -b PATH -F FORMAT' names one."

enum result image_open(const char *path, struct image *img);
void image_close(struct image *img);
enum result image_may_attach(const struct image *img,
			     const struct options *opt);
char *name_not_a_path(const char *s, size_t len);
char *name_path(const char *name, const char *image);
char *image_not_a_path(const struct image *img, struct qcow2_header_string s);
char *image_path(const struct image *img, struct qcow2_header_string s);

/* ---- chain.c: the other files that an image needs ---- */

#define MAX_LAYERS 512	/* of the kernel */

/**
 * struct layer - one image or raw file of a chain
 * @path: absolute
 * @format: "qcow2" or "raw"
 * @size: what it shows, in bytes
 * @cluster_size: in bytes, 0 if it is raw
 * @data_path: its external data file, absolute; or NULL
 * @crypt: how it is encrypted
 * @cipher: of LUKS, as for dm-crypt; NULL until unlock.c is asked
 * @key: the name of the key, for a table line; likewise
 */
struct layer {
	char *path;
	const char *format;
	uint64_t size;
	uint32_t cluster_size;
	char *data_path;
	enum qcow2_crypt crypt;
	char *cipher;
	char *key;
};

/**
 * struct chain - an image and what is below it
 * @layers: the top first
 * @count: how many
 * @broken: the path of the file that ended the walk, if its name is one; NULL
 *	if the chain is complete
 */
struct chain {
	struct layer *layers;
	unsigned int count;
	char *broken;
};

enum result chain_walk(const struct image *top, const struct options *opt,
		       struct chain *chain);
enum result chain_below(const char *path, const char *format,
			const struct options *opt, struct chain *chain);
void chain_free(struct chain *chain);
const char *crypt_name(enum qcow2_crypt crypt);
json_object *chain_json(const struct chain *chain, const char *error);

/* ---- secret.c: memory for passphrases and keys ---- */

/**
 * struct secret - bytes that nobody else may see
 * @data: the bytes, or NULL
 * @len: how many
 * @room: how many fit
 */
struct secret {
	char *data;
	size_t len;
	size_t room;
};

void secret_new(struct secret *s, size_t room);
void secret_free(struct secret *s);

/* ---- passphrase.c: the question for one ---- */

bool passphrase_asks(const char *file);
enum result passphrase_get(const char *file, const char *path,
			   struct secret *s);
enum result passphrase_get_new(const char *file, const char *path,
			       struct secret *s);

/* ---- keyring.c: the way of a key to the kernel ---- */

enum result keyring_add(const struct secret *key, char **ref, int32_t *serial);
void keyring_remove(int32_t serial);

/* ---- luks.c: the LUKS header of an image ---- */

#define LUKS_SLOTS 8
#define LUKS_MAX_KEY 64u	/* bytes */

struct crypt_device;

/**
 * struct luks - a copy of a LUKS header
 * @cd: of libcryptsetup, or NULL
 * @fd: of the memory that the copy is in, or -1
 * @path: of the image
 * @offset: of the header in the image
 * @length: of the header, key material included
 * @before: what is in the image, or NULL
 */
struct luks {
	struct crypt_device *cd;
	int fd;
	char *path;
	uint64_t offset, length;
	uint8_t *before;
};

enum result luks_load(const struct host *host, const struct qcow2_header *hdr,
		      struct luks *l);
enum result luks_format(const char *path, const char *cipher, uint64_t key_bits,
			const char *hash, uint64_t iterations, struct luks *l);
enum result luks_bytes(const struct luks *l, uint8_t **buf);
void luks_close(struct luks *l);
char *luks_cipher(const struct luks *l);
unsigned int luks_key_bytes(const struct luks *l);
unsigned int luks_slots(const struct luks *l);
char *luks_hash(const struct luks *l);
enum result luks_unlock(const struct luks *l, const struct secret *pass,
			struct secret *key, int *slot);
enum result luks_add(struct luks *l, const struct secret *key,
		     const struct secret *pass, uint64_t iterations, int *slot);
enum result luks_kill(struct luks *l, int slot);
enum result luks_store(struct luks *l, const struct host *host, bool added);

/* ---- unlock.c: the encrypted layers of a chain ---- */

/**
 * struct keys - the keys of a chain
 * @serials: those that are in the keyring
 * @count: how many
 * @file: the key file, while they are looked for
 * @typed: the last passphrase, likewise
 */
struct keys {
	int32_t *serials;
	unsigned int count;
	struct secret file, typed;
};

enum result unlock_chain(struct chain *chain, const struct options *opt,
			 struct keys *keys);
void unlock_forget(struct keys *keys);
enum result unlock_refer(struct chain *chain, const struct options *opt);

/* ---- lock.c: QEMU's image locks ---- */

enum lock {
	LOCK_NONE,
	LOCK_READER,
	LOCK_WRITER,
	LOCK_UNKNOWN,
};

enum lock lock_probe(const struct host *host);
bool lock_conflicts(const struct host *host, bool read_only);
enum result lock_take(struct host *host, bool write);

/* ---- opened.c: a chain, opened with the core ---- */

struct opened_chain;

enum result opened_open(const struct chain *chain, struct qcow2_image **top,
			struct opened_chain **opened);
enum result opened_close(struct opened_chain *c);

/* ---- line.c: the line of a device-mapper table ---- */

#define LINE_OPTION_WORDS 3

/**
 * struct line_option - one option of a line
 * @words: decoded, the first is its name; NULL behind the last
 */
struct line_option {
	char *words[LINE_OPTION_WORDS];
};

uint64_t line_sectors(const struct image *img, const struct options *opt);
char *line_params(const struct chain *chain, const struct options *opt);
char *line_image(const char *params);
const char *line_options(const char *params);
bool line_next_option(const char **options, struct line_option *o);
void line_option_free(struct line_option *o);

/* ---- dm.c: device-mapper ---- */

#define DM_NAME_PREFIX "/dev/mapper/"

/**
 * struct device - an active device
 * @name: without /dev/mapper/
 * @sectors: of 512 bytes
 * @targets: in its table, of any kind
 * @params: of its qcow2 target, as in the table; NULL if it has none
 * @status: of its qcow2 target
 */
struct device {
	char *name;
	unsigned int major, minor;
	bool read_only;
	bool suspended;
	bool deferred;
	int open_count;
	uint64_t sectors;
	unsigned int targets;
	char *params;
	char *status;
};

typedef enum result (*device_fn)(const struct device *dev, void *arg);

const char *dm_bare_name(const char *name);
bool dm_usable(void);
enum result dm_need(void);
enum result dm_need_target(void);
enum result dm_create(const char *name, uint64_t sectors, const char *params,
		      bool read_only);
enum result dm_resize(const struct device *dev, uint64_t bytes,
		      uint64_t sectors);
enum result dm_remove(const char *name, bool deferred);
enum result dm_query(const char *name, struct device *dev);
enum result dm_each(device_fn fn, void *arg);
void device_free(struct device *dev);

/* ---- kmsg.c: the kernel's reason ---- */

int kmsg_start(void);
char *kmsg_finish(int fd, const char *word);

/* ---- the actions ---- */

char *attached_as(const struct host *host, bool *below);
enum result in_use(const struct host *host);
enum result check_chain(const struct chain *chain, bool read_only);
bool find_device(const char *arg, struct device *dev);

enum result action_create(const struct options *opt, char **args);
enum result action_open(const struct options *opt, char **args);
enum result action_close(const struct options *opt, char **args);
enum result action_table(const struct options *opt, char **args);
enum result action_resize(const struct options *opt, char **args);
enum result action_info(const struct options *opt, char **args);
enum result action_status(const struct options *opt, char **args);
enum result action_check(const struct options *opt, char **args);
enum result action_optimize(const struct options *opt, char **args);
enum result action_add_key(const struct options *opt, char **args);
enum result action_change_key(const struct options *opt, char **args);
enum result action_kill_slot(const struct options *opt, char **args);

void status_print(const struct device *dev);
json_object *status_json(const struct device *dev);

#endif /* QCOW2SETUP_H */
