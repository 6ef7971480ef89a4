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

#include "format.h"

#define QCOW2SETUP_VERSION "0.1.0"

/* The exit codes of cryptsetup. */
enum result {
	OK = 0,
	FAILED = 1,		/* wrong parameters, and whatever has no code below */
	NO_PERMISSION = 2,
	NO_MEMORY = 3,
	WRONG_DEVICE = 4,	/* no such image or device, or not fit for it */
	BUSY = 5,		/* exists already, or is in use */
};

struct options {
	bool read_only;
	bool deferred;
	bool json;
	unsigned int sector_size;	/* bytes; 0: not given */
	uint64_t cache_bytes;		/* 0: not given */
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

/* ---- text.c: strings ---- */

void *xcalloc(size_t n, size_t size);
char *xstrndup(const char *s, size_t len);
char *xasprintf(const char *fmt, ...) __printf(1, 2);

char *text_escape(const char *s, size_t len);
char *text_size(uint64_t bytes);
bool text_to_u64(const char *s, uint64_t *value);
json_object *text_json(const char *s, size_t len);
void json_print(json_object *o);

/* ---- host.c: the file or block device that holds an image ---- */

/**
 * struct host - where an image is
 * @path: absolute
 * @fd: open for reading
 * @block_device: and not a regular file
 * @size: in bytes
 * @allocated: bytes that a file takes on its filesystem
 */
struct host {
	char *path;
	int fd;
	bool block_device;
	uint64_t size;
	uint64_t allocated;
};

enum result host_open(const char *path, struct host *host);
void host_close(struct host *host);
enum result host_writable(const struct host *host);
bool host_same(const struct host *host, const char *path);

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
 * @advice: what can be done about that, a sentence, or NULL
 */
struct image {
	struct host host;
	struct qcow2_header hdr;
	char *buf;
	enum attach attach;
	const char *why;
	const char *advice;
};

enum result image_open(const char *path, struct image *img);
void image_close(struct image *img);
enum result image_may_attach(const struct image *img,
			     const struct options *opt);

/* ---- lock.c: QEMU's image locks ---- */

enum lock {
	LOCK_NONE,
	LOCK_READER,
	LOCK_WRITER,
	LOCK_UNKNOWN,
};

enum lock lock_probe(const struct host *host);
bool lock_conflicts(const struct host *host, bool read_only);

/* ---- line.c: the line of a device-mapper table ---- */

uint64_t line_sectors(const struct image *img, const struct options *opt);
char *line_params(const struct host *host, const struct options *opt);
char *line_image(const char *params);
const char *line_options(const char *params);

/* ---- dm.c: device-mapper ---- */

#define DM_NAME_PREFIX "/dev/mapper/"

/**
 * struct device - an active device
 * @name: without /dev/mapper/
 * @sectors: of 512 bytes
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
enum result dm_remove(const char *name, bool deferred);
enum result dm_query(const char *name, struct device *dev);
enum result dm_each(device_fn fn, void *arg);
void device_free(struct device *dev);

/* ---- kmsg.c: the kernel's reason ---- */

int kmsg_start(void);
char *kmsg_finish(int fd, const char *word);

/* ---- the actions ---- */

char *attached_as(const struct host *host);

enum result action_open(const struct options *opt, char **args);
enum result action_close(const struct options *opt, char **args);
enum result action_table(const struct options *opt, char **args);
enum result action_info(const struct options *opt, char **args);
enum result action_status(const struct options *opt, char **args);

void status_print(const struct device *dev);
json_object *status_json(const struct device *dev);

#endif /* QCOW2SETUP_H */
