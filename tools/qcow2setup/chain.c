// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the walk down a chain: from an image to the backing file that
 * it names, from that to the next, and to the external data files beside them.
 * The names and formats come from the headers, or from the user; no format is
 * ever guessed from what a file begins with, because a guest decides what a raw
 * file begins with.
 */
#include <stdlib.h>
#include <string.h>

#include "geometry.h"
#include "qcow2setup.h"

/**
 * struct walk - a walk down a chain
 * @opt: what the user says of it
 * @chain: what was found
 * @seen: the files and devices that are in it
 * @nr_seen: how many
 */
struct walk {
	const struct options *opt;
	struct chain *chain;
	struct {
		dev_t dev;
		ino_t ino;
	} seen[2 * MAX_LAYERS];
	unsigned int nr_seen;
};

static const char *find_format(const char *name)
{
	static const char * const known[] = { "qcow2", "raw" };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(name, known[i]))
			return known[i];
	return NULL;
}

/* A file has one place in a chain, or the chain would have no end. */
static enum result see(struct walk *w, const struct host *host)
{
	unsigned int i;

	for (i = 0; i < w->nr_seen; i++)
		if (w->seen[i].dev == host->dev && w->seen[i].ino == host->ino) {
			log_err("%s is in this chain already: the chain has a loop. 'qemu-img rebase -u' gives an image another backing file.",
				host->path);
			return WRONG_DEVICE;
		}
	w->seen[w->nr_seen].dev = host->dev;
	w->seen[w->nr_seen++].ino = host->ino;
	return OK;
}

static struct layer *add_layer(struct walk *w, const struct host *host,
			       const char *format)
{
	struct layer *l = &w->chain->layers[w->chain->count++];

	l->path = xstrndup(host->path, strlen(host->path));
	l->format = format;
	l->size = host->size;
	return l;
}

/* What the walk stops at if it fails from here on; NULL: it has no path. */
static void set_broken(struct walk *w, const char *path)
{
	free(w->chain->broken);
	w->chain->broken = path ? xstrndup(path, strlen(path)) : NULL;
}

static void next_file(struct walk *w, const char *what, const struct image *of,
		      const char *path)
{
	set_broken(w, path);
	log_context(xasprintf("The %s of %s: ", what, of->host.path));
}

static enum result open_data_file(struct walk *w, const struct image *img,
				  const char *path, struct layer *l)
{
	struct host host;
	enum result ret;

	next_file(w, "data file", img, path);
	ret = host_open(path, &host);
	if (ret)
		return ret;
	ret = see(w, &host);
	if (!ret)
		l->data_path = xstrndup(host.path, strlen(host.path));
	host_close(&host);
	return ret;
}

#define NAME_A_DATA_FILE \
	"For the top image, --data-file PATH says it; for any, 'qemu-img amend -f qcow2 -o data_file=PATH' writes it into the image."

/* @given is the user's word against that of the header, or NULL. */
static enum result add_data_file(struct walk *w, const struct image *img,
				 const char *given, struct layer *l)
{
	const char *path = img->host.path;
	enum result ret;
	char *p;

	if (!qcow2_external(&img->hdr)) {
		if (!given)
			return OK;
		log_err("%s has no external data file: leave --data-file out.",
			path);
		return FAILED;
	}
	if (given)
		return open_data_file(w, img, given, l);
	set_broken(w, NULL);
	if (!img->hdr.data_file.len) {
		log_err("%s has an external data file and does not say which. " NAME_A_DATA_FILE,
			path);
		return WRONG_DEVICE;
	}
	p = image_not_a_path(img, img->hdr.data_file);
	if (p) {
		log_err("%s has the external data file %s. " NAME_A_DATA_FILE,
			path, p);
		free(p);
		return WRONG_DEVICE;
	}
	p = image_path(img, img->hdr.data_file);
	ret = open_data_file(w, img, p, l);
	free(p);
	return ret;
}

static enum result add_image(struct walk *w, const struct image *img,
			     const char *data_file)
{
	enum result ret = see(w, &img->host);
	struct layer *l;

	if (ret)
		return ret;
	l = add_layer(w, &img->host, "qcow2");
	l->size = img->hdr.size;
	l->cluster_size = qcow2_cluster_size(&img->hdr);
	l->crypt = img->hdr.crypt_method;
	return add_data_file(w, img, data_file, l);
}

static enum result add_raw(struct walk *w, const char *path)
{
	struct host host;
	enum result ret = host_open(path, &host);

	if (ret)
		return ret;
	ret = see(w, &host);
	if (!ret)
		add_layer(w, &host, "raw");
	host_close(&host);
	return ret;
}

/* ---------------------------------------------------------------- */

/* The format of the backing file; NULL if it is none of ours, with a message. */
static const char *backing_format(const struct walk *w, const struct image *img,
				  const char *path)
{
	const struct qcow2_header *h = &img->hdr;
	char *said = xstrndup(img->buf + h->backing_format.offset,
			      h->backing_format.len);
	const char *format = find_format(said);

	if (!*said)
		format = w->opt->backing_format;
	if (!format && !*said)
		log_err("%s does not say which format its backing file %s has, and guessing is not safe. Give --backing-format qcow2 or --backing-format raw; or have 'qemu-img rebase -u -b NAME -F FORMAT' write it into the image.",
			img->host.path, path);
	else if (!format)
		log_err("%s says that its backing file %s has the format '%s'; only qcow2 and raw are supported. 'qemu-img convert -O qcow2' makes one image of all of them.",
			img->host.path, path, said);
	free(said);
	return format;
}

static enum result open_layer(struct walk *w, const char *path,
			      struct image *img)
{
	enum result ret = image_open(path, img);

	if (ret)
		return ret;
	ret = add_image(w, img, NULL);
	if (ret)
		image_close(img);
	return ret;
}

/*
 * One step down from @img. On success, @below is open if it is an image that may
 * have a backing file itself.
 */
static enum result step_down(struct walk *w, const struct image *img,
			     struct image *below, bool *more)
{
	const char *format;
	enum result ret;
	char *path;

	memset(below, 0, sizeof(*below));
	*more = false;
	set_broken(w, NULL);
	path = image_not_a_path(img, img->hdr.backing_file);
	if (path) {
		log_err("%s has the backing file %s. " NAME_A_PATH,
			img->host.path, path);
		free(path);
		return WRONG_DEVICE;
	}
	path = image_path(img, img->hdr.backing_file);
	format = backing_format(w, img, path);
	if (!format) {
		set_broken(w, path);
		free(path);
		return WRONG_DEVICE;
	}
	next_file(w, "backing file", img, path);
	if (w->chain->count == MAX_LAYERS) {
		log_err("%s is one too many: a chain has at most %u layers. 'qemu-img commit' or 'qemu-img rebase' make it shorter.",
			path, MAX_LAYERS);
		ret = WRONG_DEVICE;
	} else if (!strcmp(format, "raw")) {
		ret = add_raw(w, path);
	} else {
		ret = open_layer(w, path, below);
		*more = !ret;
	}
	free(path);
	return ret;
}

static struct walk *start(const struct options *opt, struct chain *chain)
{
	struct walk *w = xcalloc(1, sizeof(*w));

	memset(chain, 0, sizeof(*chain));
	chain->layers = xcalloc(MAX_LAYERS, sizeof(*chain->layers));
	w->opt = opt;
	w->chain = chain;
	return w;
}

static enum result finish(struct walk *w, enum result ret)
{
	if (!ret)
		set_broken(w, NULL);
	log_context(NULL);
	free(w);
	return ret;
}

/* @top has been added. One image is open at a time, beside it. */
static enum result walk_down(struct walk *w, const struct image *top)
{
	const struct image *img = top;
	struct image layer;
	enum result ret = OK;

	while (!ret && img && img->hdr.backing_file.offset) {
		struct image below;
		bool more;

		ret = step_down(w, img, &below, &more);
		if (img != top)
			image_close(&layer);
		layer = below;
		img = more ? &layer : NULL;
	}
	if (img && img != top)
		image_close(&layer);
	return ret;
}

/**
 * chain_walk() - find the other files that an image needs
 * @top: the image
 * @opt: what the user says of them
 * @chain: filled in as far as the walk came, for chain_free() in either case
 *
 * Only one image is open at a time, beside the top: a chain may have more than
 * a process may open.
 *
 * Return: OK, or what to exit with.
 */
enum result chain_walk(const struct image *top, const struct options *opt,
		       struct chain *chain)
{
	struct walk *w = start(opt, chain);
	enum result ret = add_image(w, top, opt->data_file);

	if (!ret)
		ret = walk_down(w, top);
	return finish(w, ret);
}

/**
 * chain_below() - find the files that an image would need below it
 * @path: of its backing file
 * @format: of that: "qcow2" or "raw"
 * @opt: what the user says of the formats of others
 * @chain: filled in as far as the walk came, for chain_free() in either case
 *
 * Return: OK, or what to exit with.
 */
enum result chain_below(const char *path, const char *format,
			const struct options *opt, struct chain *chain)
{
	struct walk *w = start(opt, chain);
	struct image img;
	enum result ret;

	if (!strcmp(format, "raw"))
		return finish(w, add_raw(w, path));
	ret = open_layer(w, path, &img);
	if (!ret) {
		ret = walk_down(w, &img);
		image_close(&img);
	}
	return finish(w, ret);
}

/**
 * chain_free() - the counterpart of chain_walk()
 * @chain: the chain
 */
void chain_free(struct chain *chain)
{
	unsigned int i;

	for (i = 0; i < chain->count; i++) {
		free(chain->layers[i].path);
		free(chain->layers[i].data_path);
		free(chain->layers[i].cipher);
		free(chain->layers[i].key);
	}
	free(chain->layers);
	free(chain->broken);
	memset(chain, 0, sizeof(*chain));
}

/* ---------------------------------------------------------------- */

static json_object *json_path(const char *path)
{
	return path ? text_json(path, strlen(path)) : NULL;
}

/**
 * crypt_name() - the name of a kind of encryption
 * @crypt: as the header has it
 *
 * Return: a constant.
 */
const char *crypt_name(enum qcow2_crypt crypt)
{
	static const char * const names[] = {
		[QCOW2_CRYPT_NONE] = "none",
		[QCOW2_CRYPT_AES] = "aes",
		[QCOW2_CRYPT_LUKS] = "luks",
	};

	return names[crypt];
}

static json_object *json_layer(const struct layer *l)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "path", json_path(l->path));
	json_object_object_add(o, "format", json_path(l->format));
	json_object_object_add(o, "virtual_size",
			       json_object_new_uint64(l->size));
	json_object_object_add(o, "cluster_size", l->cluster_size ?
			       json_object_new_uint64(l->cluster_size) : NULL);
	json_object_object_add(o, "data_file", json_path(l->data_path));
	json_object_object_add(o, "encryption", l->cluster_size ?
			       json_path(crypt_name(l->crypt)) : NULL);
	json_object_object_add(o, "error", NULL);
	return o;
}

/**
 * chain_json() - a chain, for programs
 * @chain: the chain
 * @error: why it ends where it does; NULL if it is complete
 *
 * Return: a new array, the top first; the last has the error, if any.
 */
json_object *chain_json(const struct chain *chain, const char *error)
{
	static const char * const unknown[] = {
		"format", "virtual_size", "cluster_size", "data_file",
		"encryption",
	};
	json_object *a = json_object_new_array();
	json_object *o;
	size_t i;

	for (i = 0; i < chain->count; i++)
		json_object_array_add(a, json_layer(&chain->layers[i]));
	if (!error)
		return a;
	o = json_object_new_object();
	json_object_object_add(o, "path", json_path(chain->broken));
	for (i = 0; i < ARRAY_SIZE(unknown); i++)
		json_object_object_add(o, unknown[i], NULL);
	json_object_object_add(o, "error", json_path(error));
	json_object_array_add(a, o);
	return a;
}
