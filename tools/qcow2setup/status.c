// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup status: what the kernel says of its devices.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"

enum kind {
	WORD,
	NUMBER,
	BYTES,
	OF,		/* two numbers: "3/8" */
};

/*
 * The fields of the status line, in its order. A newer kernel may have more at
 * the end; an older one fewer.
 */
static const struct field {
	const char *key;
	const char *bound_key;	/* OF: of the second number */
	enum kind kind;
	const char *label;
} fields[] = {
	{ "mode", NULL, WORD, "mode:" },
	{ "why", NULL, WORD, "reason:" },
	{ "cluster_size", NULL, BYTES, "cluster size:" },
	{ "clusters_mapped", NULL, NUMBER, "guest clusters mapped since attach:" },
	{ "clusters_allocated", NULL, NUMBER, "host clusters allocated since attach:" },
	{ "clusters_freed", NULL, NUMBER, "host clusters freed since attach:" },
	{ "host_size", NULL, BYTES, "host size:" },
	{ "cache_blocks", "cache_bound", OF, "metadata blocks cached:" },
	{ "cache_dirty", NULL, NUMBER, "of these dirty:" },
	{ "cache_hits", NULL, NUMBER, "metadata cache hits:" },
	{ "cache_misses", NULL, NUMBER, "metadata cache misses:" },
	{ "metadata_reads", NULL, NUMBER, "metadata reads:" },
	{ "metadata_writes", NULL, NUMBER, "metadata writes:" },
	{ "commits", NULL, NUMBER, "commits:" },
	{ "flushes", NULL, NUMBER, "flushes sent to the host:" },
	{ "bios_inline", NULL, NUMBER, "requests answered inline:" },
	{ "bios_worker", NULL, NUMBER, "requests that took a worker:" },
	{ "lock", NULL, WORD, "image lock:" },
};

/* What the kernel's words mean; what is not here is shown as it is. */
static const struct {
	const char *key, *word, *meaning;
} meanings[] = {
	{ "mode", "rw", "read-write" },
	{ "mode", "no_space", "no space: the host has none for new clusters" },
	{ "mode", "ro", "read-only" },
	{ "mode", "failed", "failed: the kernel log says why" },
	{ "lock", "qemu", "held, as QEMU would hold it" },
	{ "lock", "none", "none: nothing keeps QEMU from the image" },
};

#define LABEL_WIDTH 38

/* The next word of a status line, NULL at its end. */
static const char *next_word(const char **s, size_t *len)
{
	const char *word;

	*s += strspn(*s, " ");
	word = *s;
	*len = strcspn(word, " ");
	*s += *len;
	return *len ? word : NULL;
}

static const char *meaning(const char *key, const char *word)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(meanings); i++)
		if (!strcmp(meanings[i].key, key) &&
		    !strcmp(meanings[i].word, word))
			return meanings[i].meaning;
	return word;
}

static void print_line(const char *label, const char *text)
{
	char *safe = text_escape(text, strlen(text));

	printf("  %-*s %s\n", LABEL_WIDTH, label, safe);
	free(safe);
}

static void print_field(const struct field *f, const char *word)
{
	uint64_t value, bound;
	char *text;

	if (f->kind == OF && strchr(word, '/')) {
		char *first = xstrndup(word, strcspn(word, "/"));

		if (text_to_u64(first, &value) &&
		    text_to_u64(strchr(word, '/') + 1, &bound))
			text = xasprintf("%llu of at most %llu",
					 (unsigned long long)value,
					 (unsigned long long)bound);
		else
			text = xstrndup(word, strlen(word));
		free(first);
	} else if (f->kind == BYTES && text_to_u64(word, &value)) {
		text = text_size(value);
	} else {
		text = xstrndup(meaning(f->key, word), 4096);
	}
	/* "-": there is no reason */
	if (strcmp(text, "-"))
		print_line(f->label, text);
	free(text);
}

static void print_status(const char *status)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		size_t len;
		const char *p = next_word(&status, &len);
		char *word;

		if (!p)
			return;
		word = xstrndup(p, len);
		print_field(&fields[i], word);
		free(word);
	}
}

static bool names_file(const struct line_option *o)
{
	return !strcmp(o->words[0], "backing") ||
		!strcmp(o->words[0], "data_file");
}

/* The options but for the files: of these there may be hundreds. */
static char *own_options(const char *params)
{
	const char *options = line_options(params);
	struct line_option o;
	char *all = xasprintf("%s", "");

	while (line_next_option(&options, &o)) {
		char *longer = xasprintf("%s%s%s%s%s", all, *all ? " " : "",
					 o.words[0], o.words[1] ? " " : "",
					 o.words[1] ?: "");

		if (names_file(&o)) {
			free(longer);
		} else {
			free(all);
			all = longer;
		}
		line_option_free(&o);
	}
	return all;
}

static void print_files(const char *params)
{
	const char *options = line_options(params);
	struct line_option o;

	while (line_next_option(&options, &o)) {
		if (!strcmp(o.words[0], "backing")) {
			char *text = xasprintf("%s (%s)", o.words[2],
					       o.words[1]);

			print_line("backing file:", text);
			free(text);
		} else if (names_file(&o)) {
			print_line("data file:", o.words[1]);
		}
		line_option_free(&o);
	}
}

/* Was it read-write, and is not any more? */
static bool was_lowered(const struct device *dev, const char *options)
{
	return !dev->read_only && !strstr(options, "read_only") && dev->status &&
		(!strncmp(dev->status, "ro - ", 5) ||
		 !strncmp(dev->status, "failed - ", 9));
}

/**
 * status_print() - a device, for people
 * @dev: the device
 */
void status_print(const struct device *dev)
{
	char *image = line_image(dev->params);
	char *options = own_options(dev->params);
	char *name = text_escape(dev->name, strlen(dev->name));
	char *size = text_size(dev->sectors * 512);
	char *node = xasprintf(DM_NAME_PREFIX "%s (%u:%u)", dev->name,
			       dev->major, dev->minor);

	printf("%s is active%s%s.\n", name,
	       dev->open_count > 0 ? " and is in use" : "",
	       dev->deferred ? ", and will be removed when it no longer is" : "");
	print_line("image:", image);
	print_files(dev->params);
	print_line("device:", node);
	print_line("size:", size);
	print_line("access:", dev->read_only ? "read-only" : "read-write");
	print_line("state:", dev->suspended ? "suspended" : "live");
	if (*options)
		print_line("options:", options);
	print_status(dev->status ?: "");
	if (was_lowered(dev, options)) {
		puts("It was read-write until something went wrong: 'dmesg' says what.");
		puts("Close it; then 'qcow2setup check --repair' mends the image.");
	}
	free(options);
	free(node);
	free(size);
	free(name);
	free(image);
}

/* ---------------------------------------------------------------- */

static json_object *json_number(const char *word)
{
	uint64_t value;

	return word && text_to_u64(word, &value) ?
		json_object_new_uint64(value) : NULL;
}

/* Every key is always there; null where the kernel says nothing. */
static void add_field(json_object *o, const struct field *f, char *word)
{
	char *slash = word && f->kind == OF ? strchr(word, '/') : NULL;

	if (slash)
		*slash++ = 0;
	if (f->kind != WORD)
		json_object_object_add(o, f->key, json_number(word));
	else
		json_object_object_add(o, f->key, word && strcmp(word, "-") ?
				       text_json(word, strlen(word)) : NULL);
	if (f->kind == OF)
		json_object_object_add(o, f->bound_key, json_number(slash));
}

static json_object *json_status(const char *status)
{
	json_object *o = json_object_new_object();
	size_t i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		size_t len;
		const char *p = next_word(&status, &len);
		char *word = p ? xstrndup(p, len) : NULL;

		add_field(o, &fields[i], word);
		free(word);
	}
	return o;
}

static json_object *json_layer(const char *path, const char *format)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "path", text_json(path, strlen(path)));
	json_object_object_add(o, "format", text_json(format, strlen(format)));
	json_object_object_add(o, "data_file", NULL);
	return o;
}

/* The image and what is below it, as the table names them. */
static json_object *json_chain(const char *params, const char *image)
{
	json_object *layer = json_layer(image, "qcow2");
	json_object *a = json_object_new_array();
	const char *options = line_options(params);
	struct line_option o;

	json_object_array_add(a, layer);
	while (line_next_option(&options, &o)) {
		if (!strcmp(o.words[0], "backing")) {
			layer = json_layer(o.words[2], o.words[1]);
			json_object_array_add(a, layer);
		} else if (names_file(&o)) {
			json_object_object_add(layer, "data_file",
					       text_json(o.words[1],
							 strlen(o.words[1])));
		}
		line_option_free(&o);
	}
	return a;
}

/**
 * status_json() - a device, for programs
 * @dev: the device
 *
 * Return: a new object.
 */
json_object *status_json(const struct device *dev)
{
	json_object *o = json_object_new_object();
	char *image = line_image(dev->params);

	json_object_object_add(o, "name",
			       text_json(dev->name, strlen(dev->name)));
	json_object_object_add(o, "image", text_json(image, strlen(image)));
	json_object_object_add(o, "major", json_object_new_int64(dev->major));
	json_object_object_add(o, "minor", json_object_new_int64(dev->minor));
	json_object_object_add(o, "sectors",
			       json_object_new_uint64(dev->sectors));
	json_object_object_add(o, "read_only",
			       json_object_new_boolean(dev->read_only));
	json_object_object_add(o, "suspended",
			       json_object_new_boolean(dev->suspended));
	json_object_object_add(o, "deferred_remove",
			       json_object_new_boolean(dev->deferred));
	json_object_object_add(o, "open_count",
			       json_object_new_int64(dev->open_count));
	json_object_object_add(o, "params",
			       text_json(dev->params, strlen(dev->params)));
	json_object_object_add(o, "chain", json_chain(dev->params, image));
	json_object_object_add(o, "status", json_status(dev->status ?: ""));
	free(image);
	return o;
}

/* ---------------------------------------------------------------- */

struct listing {
	json_object *array;	/* NULL: print as text */
	int count;
};

static enum result show(const struct device *dev, void *arg)
{
	struct listing *l = arg;

	if (l->array) {
		json_object_array_add(l->array, status_json(dev));
	} else {
		if (l->count)
			putchar('\n');
		status_print(dev);
	}
	l->count++;
	return OK;
}

static enum result show_one(const char *name, struct listing *l)
{
	struct device dev;
	enum result ret = dm_need();

	if (ret)
		return ret;
	ret = dm_query(name, &dev);
	if (ret) {
		log_err("%s is not active. 'qcow2setup status' lists the devices.",
			name);
		return ret;
	}
	if (dev.params) {
		show(&dev, l);
	} else {
		log_err("%s is not a qcow2 device.", name);
		ret = WRONG_DEVICE;
	}
	device_free(&dev);
	return ret;
}

/**
 * action_status() - qcow2setup status [NAME]
 * @opt: the options
 * @args: the name, or none
 *
 * Return: what to exit with.
 */
enum result action_status(const struct options *opt, char **args)
{
	struct listing l = { NULL, 0 };
	json_object *o = NULL;
	enum result ret;

	if (opt->json) {
		o = json_object_new_object();
		l.array = json_object_new_array();
		json_object_object_add(o, "devices", l.array);
	}
	if (args[0])
		ret = show_one(dm_bare_name(args[0]), &l);
	else
		ret = dm_each(show, &l);
	if (!ret && o)
		json_print(o);
	else if (o)
		json_object_put(o);
	if (!ret && !o && !l.count)
		puts("No qcow2 device is active.");
	return ret;
}
