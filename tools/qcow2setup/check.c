// SPDX-License-Identifier: GPL-2.0
/*
 * qcow2setup check: does an image agree with itself? With --repair it is made to.
 * The image alone is looked at, none of the files that it names.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2setup.h"
#include "repair.h"

#define MAX_SHOWN 100	/* findings, unless --verbose */

/**
 * struct listing - the findings of one check, as they come
 * @opt: the options
 * @found: for JSON
 * @count: how many there were
 * @earlier: the check before, whose list ends where this one begins
 * @ended: all was said
 */
struct listing {
	const struct options *opt;
	json_object *found;
	uint64_t count;
	struct listing *earlier;
	bool ended;
};

static void listing_end(struct listing *l)
{
	progress_end();
	if (!l->ended && !l->opt->json && l->count > MAX_SHOWN &&
	    log_level < LOG_VERBOSE)
		printf("... and %llu more; --verbose shows all\n",
		       (unsigned long long)l->count - MAX_SHOWN);
	l->ended = true;
}

static void progress(void *arg, u64 done, u64 total)
{
	progress_show("Checking", done, total);
}

static void report(void *arg, bool leak, const char *line)
{
	struct listing *l = arg;
	const char *kind = leak ? "leak" : "error";
	json_object *o;

	if (l->count++ >= MAX_SHOWN && log_level < LOG_VERBOSE)
		return;
	if (l->opt->json) {
		o = json_object_new_object();
		json_object_object_add(o, "kind", json_object_new_string(kind));
		json_object_object_add(o, "text", json_object_new_string(line));
		json_object_array_add(l->found, o);
		return;
	}
	progress_end();
	if (l->count == 1 && l->earlier) {
		listing_end(l->earlier);
		puts("After the repair:");
	}
	printf("%s: %s\n", kind, line);
}

static void listing_start(struct listing *l, const struct options *opt,
			  struct qcow2_check *chk, struct listing *earlier)
{
	*l = (struct listing){ .opt = opt, .earlier = earlier };
	l->found = json_object_new_array();
	chk->report = report;
	chk->progress = progress;
	chk->arg = l;
}

/* ---------------------------------------------------------------- */

static void add_bool(json_object *o, const char *key, bool value)
{
	json_object_object_add(o, key, json_object_new_boolean(value));
}

/* What a check found; takes the list of it. */
static void add_check(json_object *o, const struct qcow2_check *chk,
		      struct listing *l)
{
	json_add_u64(o, "errors", chk->errors);
	json_add_u64(o, "leaks", chk->leaks);
	json_add_u64(o, "end", chk->end);
	json_add_u64(o, "findings_left_out",
		     l->count - json_object_array_length(l->found));
	json_object_object_add(o, "findings", l->found);
	l->found = NULL;
}

static void print_json(const struct image *img, const struct qcow2_check *chk,
		       struct listing *l, json_object *repair)
{
	json_object *o = json_object_new_object();
	const char *path = img->host.path;

	json_object_object_add(o, "image", text_json(path, strlen(path)));
	add_check(o, chk, l);
	json_object_object_add(o, "repair", repair);
	json_print(o);
}

static json_object *repair_json(const struct qcow2_repair *rep,
				struct listing *l)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "mode",
			       json_object_new_string(rep->leaks_only ?
						      "leaks" : "all"));
	json_add_u64(o, "refcounts_raised", rep->raised);
	json_add_u64(o, "refcounts_lowered", rep->lowered);
	add_bool(o, "refcounts_rebuilt", rep->rebuilt);
	json_add_u64(o, "entries_written", rep->entries);
	add_bool(o, "leaks_kept", rep->kept_leaks);
	add_bool(o, "no_place", rep->no_place);
	add_bool(o, "marks_removed", rep->unmarked);
	json_object_object_add(o, "before", json_object_new_object());
	add_check(json_object_object_get(o, "before"), &rep->before, l);
	return o;
}

/* ---------------------------------------------------------------- */

static char *count(uint64_t n, const char *what)
{
	return xasprintf("%llu %s%s", (unsigned long long)n, what,
			 n == 1 ? "" : "s");
}

static char *summary(const struct qcow2_check *chk)
{
	char *errors = count(chk->errors, "error");
	char *leaks = count(chk->leaks, "leak");
	char *text = chk->errors || chk->leaks ?
		xasprintf("%s and %s", errors, leaks) :
		xasprintf("no errors and no leaks");

	free(errors);
	free(leaks);
	return text;
}

static void print_check(const struct image *img, const struct qcow2_check *chk)
{
	char *path = text_escape(img->host.path, strlen(img->host.path));
	char *text = summary(chk);
	uint64_t marks = img->hdr.incompatible;

	printf("%s has %s.\n", path, text);
	if (chk->errors)
		puts("'qcow2setup check --repair' mends wrong refcounts and COPIED flags.");
	else if (chk->leaks)
		puts("Leaks take space; 'qcow2setup check --repair=leaks' gives it back.");
	if (marks & QCOW2_INCOMPAT_DIRTY)
		puts("It is marked dirty: 'qcow2setup check --repair' mends that.");
	if (marks & QCOW2_INCOMPAT_CORRUPT)
		puts("It is marked corrupt: 'qcow2setup check --repair' mends what can be.");
	free(text);
	free(path);
}

static void print_done(const struct qcow2_repair *rep)
{
	if (rep->rebuilt)
		puts("All refcounts were written anew.");
	if (rep->raised)
		printf("Refcounts raised: %llu\n",
		       (unsigned long long)rep->raised);
	if (rep->lowered)
		printf("Refcounts lowered: %llu\n",
		       (unsigned long long)rep->lowered);
	if (rep->entries)
		printf("Table entries mended: %llu\n",
		       (unsigned long long)rep->entries);
	if (rep->unmarked)
		puts("The mark that the image is dirty or corrupt was removed.");
}

static void print_repair(const struct image *img, const struct qcow2_repair *rep)
{
	char *path = text_escape(img->host.path, strlen(img->host.path));
	char *text = summary(&rep->after);

	print_done(rep);
	printf("%s %s %s.\n", path,
	       rep->before.errors || rep->before.leaks ? "now has" : "has", text);
	if (rep->after.errors && rep->leaks_only)
		puts("'qcow2setup check --repair=all' mends more.");
	else if (rep->no_place)
		puts("Refcounts cannot be written anew: entries name the lost end of the file.");
	else if (rep->after.errors)
		puts("They cannot be mended.");
	if (rep->after.errors && !rep->leaks_only)
		puts("'qemu-img convert --salvage' copies what can still be read.");
	if (rep->kept_leaks && rep->after.leaks)
		puts("No refcount was lowered: a leak may belong to what is damaged.");
	free(text);
	free(path);
}

/* ---------------------------------------------------------------- */

static enum result verdict(const struct qcow2_check *chk)
{
	if (chk->errors)
		return FOUND_ERRORS;
	return chk->leaks ? FOUND_LEAKS : OK;
}

static enum result no_result(const struct image *img, int error,
			     const struct qcow2_error *err)
{
	log_err("%s: %s.", img->host.path, err->msg);
	switch (error) {
	case -ENOMEM:
		return NO_MEMORY;
	case -ENOSPC:
	case -EFBIG:
		return FAILED;
	default:
		return WRONG_DEVICE;
	}
}

static enum result check(const struct options *opt, struct image *img)
{
	struct qcow2_check chk = { .report = NULL };
	struct qcow2_error err = { "" };
	enum result ret;
	struct listing l;
	int error;

	char *device;
	bool below;

	/* an image that was attached by its number has no locks */
	device = attached_as(&img->host, &below);
	ret = device && !below ? in_use(&img->host) : OK;
	free(device);
	ret = ret ?: lock_take(&img->host, false);
	if (ret)
		return ret;
	listing_start(&l, opt, &chk, NULL);
	error = qcow2_check(store_ops(&img->host), &img->host, &chk, &err);
	listing_end(&l);
	if (error)
		ret = no_result(img, error, &err);
	else if (opt->json)
		print_json(img, &chk, &l, NULL);
	else
		print_check(img, &chk);
	json_object_put(l.found);
	return ret ?: verdict(&chk);
}

static enum result repair(const struct options *opt, struct image *img)
{
	struct qcow2_repair rep = { .leaks_only = opt->repair == REPAIR_LEAKS };
	struct listing before, after;
	struct qcow2_error err = { "" };
	enum result ret;
	int error;

	ret = host_open_writable(&img->host);
	ret = ret ?: lock_take(&img->host, true);
	if (ret)
		return ret;
	listing_start(&before, opt, &rep.before, NULL);
	listing_start(&after, opt, &rep.after, &before);
	error = qcow2_repair(store_ops(&img->host), &img->host, &rep, &err);
	listing_end(&before);
	listing_end(&after);
	if (error)
		ret = no_result(img, error, &err);
	else if (opt->json)
		print_json(img, &rep.after, &after, repair_json(&rep, &before));
	else
		print_repair(img, &rep);
	json_object_put(before.found);
	json_object_put(after.found);
	return ret ?: verdict(&rep.after);
}

/**
 * action_check() - qcow2setup check IMAGE
 * @opt: the options
 * @args: the image
 *
 * Return: what to exit with.
 */
enum result action_check(const struct options *opt, char **args)
{
	struct image img;
	enum result ret = image_open(args[0], &img);

	if (ret)
		return ret;
	ret = opt->repair ? repair(opt, &img) : check(opt, &img);
	image_close(&img);
	return ret;
}
