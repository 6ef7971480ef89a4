// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup table: the line for dmsetup.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

static void print_json(const struct image *img, const struct chain *chain,
		       const struct options *opt, const char *params)
{
	json_object *o = json_object_new_object();
	uint64_t sectors = line_sectors(img, opt);
	char *line = xasprintf("0 %llu qcow2 %s", (unsigned long long)sectors,
			       params);
	const char *path = img->host.path;

	json_object_object_add(o, "start", json_object_new_int64(0));
	json_object_object_add(o, "sectors", json_object_new_uint64(sectors));
	json_object_object_add(o, "target", json_object_new_string("qcow2"));
	json_object_object_add(o, "image", text_json(path, strlen(path)));
	json_object_object_add(o, "read_only",
			       json_object_new_boolean(opt->read_only));
	json_object_object_add(o, "chain", chain_json(chain, NULL));
	json_object_object_add(o, "params", text_json(params, strlen(params)));
	json_object_object_add(o, "line", text_json(line, strlen(line)));
	json_print(o);
	free(line);
}

/**
 * action_table() - qcow2setup table IMAGE
 * @opt: the options
 * @args: the image
 *
 * Return: what to exit with.
 */
enum result action_table(const struct options *opt, char **args)
{
	struct chain chain;
	struct image img;
	enum result ret = image_open(args[0], &img);
	char *params;

	if (ret)
		return ret;
	ret = image_may_attach(&img, opt);
	if (ret) {
		image_close(&img);
		return ret;
	}
	ret = chain_walk(&img, opt, &chain);
	ret = ret ?: unlock_refer(&chain, opt);
	if (!ret) {
		params = line_params(&chain, opt);
		if (opt->json)
			print_json(&img, &chain, opt, params);
		else
			printf("0 %llu qcow2 %s\n",
			       (unsigned long long)line_sectors(&img, opt),
			       params);
		free(params);
	}
	chain_free(&chain);
	image_close(&img);
	return ret;
}
