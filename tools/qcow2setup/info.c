// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup info: what an image is, from its header alone, and from those of its
 * chain if that is asked for; what a device is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "geometry.h"
#include "qcow2setup.h"

struct feature {
	uint64_t bit;
	const char *name;
};

static const struct feature incompatible[] = {
	{ QCOW2_INCOMPAT_DIRTY, "dirty" },
	{ QCOW2_INCOMPAT_CORRUPT, "corrupt" },
	{ QCOW2_INCOMPAT_DATA_FILE, "external data file" },
	{ QCOW2_INCOMPAT_COMPRESSION, "compression type" },
	{ QCOW2_INCOMPAT_EXTL2, "extended L2 entries" },
	{ 0, "incompatible" },
};

static const struct feature compatible[] = {
	{ QCOW2_COMPAT_LAZY_REFCOUNTS, "lazy refcounts" },
	{ 0, "compatible" },
};

static const struct feature autoclear[] = {
	{ QCOW2_AUTOCLEAR_BITMAPS, "bitmaps" },
	{ QCOW2_AUTOCLEAR_DATA_FILE_RAW, "raw external data" },
	{ 0, "autoclear" },
};

/**
 * struct found - what there is to show
 * @img: the image
 * @chain: and what is below it, if that was asked for
 * @error: why the chain ends early, or NULL
 * @luks: its LUKS header, if it has one
 * @luks_error: why that cannot be used, or NULL
 */
struct found {
	struct image img;
	struct chain chain;
	char *error;
	struct luks luks;
	char *luks_error;
};

static json_object *json_words(const char *s)
{
	return s ? text_json(s, strlen(s)) : NULL;
}

/* The names of the bits that are set; an unknown one is called by its number. */
static json_object *feature_names(uint64_t bits, const struct feature *known)
{
	json_object *a = json_object_new_array();
	unsigned int i;

	for (; known->bit; known++) {
		if (bits & known->bit)
			json_object_array_add(a, json_words(known->name));
		bits &= ~known->bit;
	}
	for (i = 0; i < 64; i++) {
		char *name;

		if (!(bits & BIT_ULL(i)))
			continue;
		name = xasprintf("unknown %s bit %u", known->name, i);
		json_object_array_add(a, json_words(name));
		free(name);
	}
	return a;
}

static const char *compression(const struct qcow2_header *h)
{
	return h->compression == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib";
}

static const char *attachable(const struct image *img)
{
	static const char * const names[] = {
		[ATTACH_NOT] = "no",
		[ATTACH_READ_ONLY] = "read-only",
		[ATTACH_READ_WRITE] = "read-write",
	};

	return names[img->attach];
}

static const char *lock_name(enum lock lock)
{
	static const char * const names[] = {
		[LOCK_NONE] = "none",
		[LOCK_READER] = "reader",
		[LOCK_WRITER] = "writer",
		[LOCK_UNKNOWN] = "unknown",
	};

	return names[lock];
}

/* ---------------------------------------------------------------- */

static json_object *json_place(const struct image *img,
			       struct qcow2_header_string s)
{
	return s.offset ? text_json(img->buf + s.offset, s.len) : NULL;
}

static json_object *json_features(const struct qcow2_header *h)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "incompatible",
			       feature_names(h->incompatible, incompatible));
	json_object_object_add(o, "compatible",
			       feature_names(h->compatible, compatible));
	json_object_object_add(o, "autoclear",
			       feature_names(h->autoclear, autoclear));
	return o;
}

static json_object *json_host(const struct host *host)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "type", json_words(host->block_device ?
						     "block device" : "file"));
	json_add_u64(o, "size", host->size);
	/* of a device nobody knows */
	json_object_object_add(o, "allocated", host->block_device ? NULL :
			       json_object_new_uint64(host->allocated));
	json_object_object_add(o, "lock",
			       json_words(lock_name(lock_probe(host))));
	return o;
}

static json_object *json_attach(const struct image *img)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "mode",
			       json_words(attachable(img)));
	json_object_object_add(o, "why", json_words(img->why));
	json_object_object_add(o, "advice", json_words(img->advice));
	return o;
}

static json_object *json_slots(unsigned int mask)
{
	json_object *a = json_object_new_array();
	int i;

	for (i = 0; i < LUKS_SLOTS; i++)
		if (mask & 1u << i)
			json_object_array_add(a, json_object_new_int(i));
	return a;
}

static json_object *json_luks(const struct found *f)
{
	static const char * const unknown[] = {
		"cipher", "key_bits", "hash", "slots",
	};
	json_object *o = json_object_new_object();
	char *cipher, *hash;
	size_t i;

	if (f->luks_error) {
		for (i = 0; i < ARRAY_SIZE(unknown); i++)
			json_object_object_add(o, unknown[i], NULL);
	} else {
		cipher = luks_cipher(&f->luks);
		hash = luks_hash(&f->luks);
		json_object_object_add(o, "cipher", json_words(cipher));
		json_add_u64(o, "key_bits", luks_key_bytes(&f->luks) * 8);
		json_object_object_add(o, "hash", json_words(hash));
		json_object_object_add(o, "slots",
				       json_slots(luks_slots(&f->luks)));
		free(hash);
		free(cipher);
	}
	json_object_object_add(o, "error", json_words(f->luks_error));
	return o;
}

static void print_json(const struct found *f)
{
	const struct image *img = &f->img;
	const struct qcow2_header *h = &img->hdr;
	json_object *o = json_object_new_object();
	const char *path = img->host.path;

	json_object_object_add(o, "image", text_json(path, strlen(path)));
	json_object_object_add(o, "format", json_words("qcow2"));
	json_add_u64(o, "version", h->version);
	json_add_u64(o, "virtual_size", h->size);
	json_add_u64(o, "cluster_size", qcow2_cluster_size(h));
	json_add_u64(o, "refcount_bits", 1u << h->refcount_order);
	json_add_u64(o, "l1_entries", h->l1_entries);
	json_object_object_add(o, "features", json_features(h));
	json_add_u64(o, "snapshots", h->nb_snapshots);
	json_add_u64(o, "bitmaps", h->nb_bitmaps);
	json_object_object_add(o, "backing_file",
			       json_place(img, h->backing_file));
	json_object_object_add(o, "backing_format",
			       json_place(img, h->backing_format));
	json_object_object_add(o, "data_file", json_place(img, h->data_file));
	json_object_object_add(o, "encryption",
			       json_words(crypt_name(h->crypt_method)));
	json_object_object_add(o, "luks",
			       h->crypt_method == QCOW2_CRYPT_LUKS ?
			       json_luks(f) : NULL);
	json_object_object_add(o, "compression",
			       json_words(compression(h)));
	json_object_object_add(o, "attach", json_attach(img));
	json_object_object_add(o, "host", json_host(&img->host));
	json_object_object_add(o, "chain", f->chain.count ?
			       chain_json(&f->chain, f->error) : NULL);
	json_print(o);
}

/* ---------------------------------------------------------------- */

static void line(const char *label, const char *text)
{
	printf("%-20s %s\n", label, text);
}

static void line_number(const char *label, uint64_t n)
{
	printf("%-20s %llu\n", label, (unsigned long long)n);
}

static void line_size(const char *label, uint64_t bytes)
{
	char *s = text_size(bytes);

	line(label, s);
	free(s);
}

/* A string out of the image: its owner may have put anything into it. */
static void line_place(const char *label, const struct image *img,
		       struct qcow2_header_string s)
{
	char *text = text_escape(img->buf + s.offset, s.len);

	line(label, s.offset ? text : "none");
	free(text);
}

static void print_features(const struct qcow2_header *h)
{
	json_object *sets[] = {
		feature_names(h->incompatible, incompatible),
		feature_names(h->compatible, compatible),
		feature_names(h->autoclear, autoclear),
	};
	const char *comma = "";
	size_t i, j;

	printf("%-20s ", "features:");
	for (i = 0; i < ARRAY_SIZE(sets); i++) {
		for (j = 0; j < json_object_array_length(sets[i]); j++) {
			json_object *name = json_object_array_get_idx(sets[i], j);

			printf("%s%s", comma, json_object_get_string(name));
			comma = ", ";
		}
		json_object_put(sets[i]);
	}
	puts(*comma ? "" : "none");
}

static void print_user(const struct host *host)
{
	static const char * const users[] = {
		[LOCK_NONE] = "nobody",
		[LOCK_READER] = "a reader",
		[LOCK_WRITER] = "a writer",
		[LOCK_UNKNOWN] = "unknown: no locks here",
	};

	bool below;
	char *name = attached_as(host, &below);
	char *text = name ? xasprintf("the device %s", name) :
		xasprintf("%s", users[lock_probe(host)]);

	line("in use by:", text);
	free(text);
	free(name);
}

static void print_host(const struct host *host)
{
	line("host:", host->block_device ? "block device" : "regular file");
	line_size("host size:", host->size);
	if (!host->block_device)
		line_size("host allocated:", host->allocated);
	print_user(host);
}

static void print_attach(const struct image *img)
{
	printf("%-20s %s", "attach:", attachable(img));
	if (img->attach != ATTACH_NOT &&
	    lock_conflicts(&img->host, img->attach == ATTACH_READ_ONLY))
		fputs(", once it is free", stdout);
	if (img->why) {
		char *why = text_escape(img->why, strlen(img->why));

		printf(": the image %s", why);
		free(why);
	}
	putchar('\n');
	if (img->advice)
		line("", img->advice);
}

static void line_escaped(const char *label, char *text)
{
	char *safe = text_escape(text, strlen(text));

	line(label, safe);
	free(safe);
	free(text);
}

static char *layer_text(const struct layer *l)
{
	char *size = text_size(l->size);
	char *clusters = l->cluster_size ?
		xasprintf(", clusters of %u bytes", l->cluster_size) : NULL;
	char *text = xasprintf("%s: %s, %s%s%s%s", l->path, l->format, size,
			       clusters ?: "",
			       l->data_path ? ", data file " : "",
			       l->data_path ?: "");

	free(clusters);
	free(size);
	return text;
}

static void print_chain(const struct found *f)
{
	const struct chain *c = &f->chain;
	unsigned int i;

	for (i = 0; i < c->count; i++)
		line_escaped(i ? "" : "chain:", layer_text(&c->layers[i]));
	if (f->error)
		line_escaped("", xasprintf("broken: %s", f->error));
}

static void print_luks(const struct found *f)
{
	unsigned int slots, i;
	char *cipher, *hash;

	if (f->luks_error) {
		line_escaped("", xasprintf("%s", f->luks_error));
		return;
	}
	cipher = luks_cipher(&f->luks);
	hash = luks_hash(&f->luks);
	slots = luks_slots(&f->luks);
	line("cipher:", cipher);
	printf("%-20s %u bits\n", "key:", luks_key_bytes(&f->luks) * 8);
	line_escaped("hash:", xasprintf("%s", hash ?: "unknown"));
	printf("%-20s", "key slots in use:");
	for (i = 0; i < LUKS_SLOTS; i++)
		if (slots & 1u << i)
			printf(" %u", i);
	puts(slots ? "" : " none");
	free(hash);
	free(cipher);
}

static void print_text(const struct found *f)
{
	const struct image *img = &f->img;
	const struct qcow2_header *h = &img->hdr;
	char *path = text_escape(img->host.path, strlen(img->host.path));

	line("image:", path);
	free(path);
	printf("%-20s qcow2 version %u\n", "format:", h->version);
	line_size("virtual size:", h->size);
	line_size("cluster size:", qcow2_cluster_size(h));
	printf("%-20s %u bits\n", "refcount width:", 1u << h->refcount_order);
	line_number("L1 entries:", h->l1_entries);
	print_features(h);
	line_number("snapshots:", h->nb_snapshots);
	line_number("bitmaps:", h->nb_bitmaps);
	line_place("backing file:", img, h->backing_file);
	if (h->backing_file.offset)
		line_place("backing format:", img, h->backing_format);
	if (h->data_file.offset)
		line_place("data file:", img, h->data_file);
	line("encryption:", crypt_name(h->crypt_method));
	if (h->crypt_method == QCOW2_CRYPT_LUKS)
		print_luks(f);
	line("compression type:", compression(h));
	print_chain(f);
	print_host(&img->host);
	print_attach(img);
}

/* ---------------------------------------------------------------- */

/**
 * find_device() - is it a device that is meant?
 * @arg: an image or a device, as the user gave it
 * @dev: filled in if it is, for device_free()
 *
 * A path is a path, unless it is the node of one of our own devices. A word
 * without a slash is a file if there is one, so that it means the same to every
 * user, and else a device.
 *
 * Return: whether it is one of ours.
 */
bool find_device(const char *arg, struct device *dev)
{
	struct stat st;

	if (arg == dm_bare_name(arg) &&
	    (strchr(arg, '/') || !stat(arg, &st)))
		return false;
	if (!dm_usable() || dm_query(dm_bare_name(arg), dev))
		return false;
	if (dev->params)
		return true;
	device_free(dev);
	return false;
}

static void find_chain(const struct options *opt, struct found *f)
{
	log_keep(&f->error);
	chain_walk(&f->img, opt, &f->chain);
	log_keep(NULL);
	if (f->error && f->img.attach != ATTACH_NOT) {
		f->img.attach = ATTACH_NOT;
		f->img.why = "needs a file that cannot be used: see its chain";
		f->img.advice = NULL;
	}
}

static void find_luks(struct found *f)
{
	f->luks.fd = -1;
	if (f->img.hdr.crypt_method != QCOW2_CRYPT_LUKS)
		return;
	log_keep(&f->luks_error);
	luks_load(&f->img.host, &f->img.hdr, &f->luks);
	log_keep(NULL);
	if (f->luks_error && f->img.attach != ATTACH_NOT) {
		f->img.attach = ATTACH_NOT;
		f->img.why = "has a LUKS header that cannot be used";
		f->img.advice = NULL;
	}
}

/**
 * action_info() - qcow2setup info IMAGE|NAME
 * @opt: the options
 * @args: the image or the device
 *
 * Return: what to exit with.
 */
enum result action_info(const struct options *opt, char **args)
{
	struct found f = { .error = NULL };
	struct device dev;
	enum result ret;

	if (!opt->chain && (opt->backing_format || opt->data_file)) {
		log_err("Without --chain, 'info' looks at no other file: leave --%s out, or give --chain.",
			opt->data_file ? "data-file" : "backing-format");
		return FAILED;
	}
	if (find_device(args[0], &dev)) {
		if (opt->json)
			json_print(status_json(&dev));
		else
			status_print(&dev);
		device_free(&dev);
		return OK;
	}
	ret = image_open(args[0], &f.img);
	if (ret)
		return ret;
	find_luks(&f);
	if (opt->chain)
		find_chain(opt, &f);
	if (opt->json)
		print_json(&f);
	else
		print_text(&f);
	luks_close(&f.luks);
	free(f.luks_error);
	free(f.error);
	chain_free(&f.chain);
	image_close(&f.img);
	return OK;
}
