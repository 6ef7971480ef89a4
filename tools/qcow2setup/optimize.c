// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup optimize: the metadata of an image moves together, so that it takes
 * few reads to have it in memory. Guest data stays where it is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"
#include "qcow2setup.h"

static void progress(void *arg, u64 done, u64 total)
{
	progress_show("Optimizing", done, total);
}

static enum result failed(const struct image *img, int error,
			  const struct qcow2_error *err)
{
	switch (error) {
	case -EUCLEAN:
		log_err("%s: %s: 'qcow2setup check --repair %s'.", img->host.path,
			err->msg, img->host.path);
		return WRONG_DEVICE;
	case -ENOMEM:
		log_err("%s: %s.", img->host.path, err->msg);
		return NO_MEMORY;
	case -ENOSPC:
		log_err("%s: %s. The image is as it was; make space and try again.",
			img->host.path, err->msg);
		return FAILED;
	default:
		log_err("%s: %s.", img->host.path, err->msg);
		return WRONG_DEVICE;
	}
}

static void print_done(const struct image *img, const struct qcow2_pack *p)
{
	char *path = text_escape(img->host.path, strlen(img->host.path));

	if (p->bytes)
		printf("%s has its metadata, with the L2 tables (%llu), in %llu bytes at %llu.\n",
		       path, (unsigned long long)p->tables,
		       (unsigned long long)p->bytes,
		       (unsigned long long)p->offset);
	else if (p->tables)
		printf("%s has its L2 tables (%llu) in a row already.\n", path,
		       (unsigned long long)p->tables);
	else
		printf("%s has no L2 tables that no internal snapshot shares: nothing was moved.\n",
		       path);
	free(path);
}

static void print_json(const struct image *img, const struct qcow2_pack *p)
{
	json_object *o = json_object_new_object();
	const char *path = img->host.path;

	json_object_object_add(o, "image", text_json(path, strlen(path)));
	json_object_object_add(o, "moved", json_object_new_boolean(p->bytes));
	json_add_u64(o, "l2_tables", p->tables);
	if (p->bytes) {
		json_add_u64(o, "offset", p->offset);
		json_add_u64(o, "bytes", p->bytes);
	}
	json_print(o);
}

/**
 * action_optimize() - qcow2setup optimize IMAGE
 * @opt: the options
 * @args: the image
 *
 * Return: what to exit with.
 */
enum result action_optimize(const struct options *opt, char **args)
{
	struct qcow2_pack p = { .before = { .progress = progress } };
	struct qcow2_error err = { "" };
	struct image img;
	enum result ret = image_open(args[0], &img);
	int error;

	if (ret)
		return ret;
	ret = host_open_writable(&img.host);
	ret = ret ?: lock_take(&img.host, true);
	if (!ret) {
		error = qcow2_pack(store_ops(&img.host), &img.host, &p, &err);
		progress_end();
		if (error)
			ret = failed(&img, error, &err);
		else if (opt->json)
			print_json(&img, &p);
		else
			print_done(&img, &p);
	}
	image_close(&img);
	return ret;
}
