// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file owns what the target says of itself, and the messages that it
 * takes.
 */
#include <linux/ctype.h>

#include "dm-qcow2.h"

/*
 * As qcow2_ctr() decodes it. Not a backslash before the space: libdevmapper
 * doubles backslashes, so that "dmsetup load" would not take it back. What
 * follows a "#" it takes for a comment.
 */
static unsigned int emit_path(const char *path, char *result, unsigned int sz,
			      unsigned int maxlen)
{
	for (; *path; path++) {
		if (isspace(*path) || iscntrl(*path) || *path == '\\' ||
		    *path == '#')
			DMEMIT("\\%03o", (unsigned char)*path);
		else
			DMEMIT("%c", *path);
	}
	return sz;
}

static unsigned int count_words(const struct dm_qcow2_args *a)
{
	unsigned int n = a->read_only + 2 * a->has_sector_size +
		2 * !!a->cache_bytes + a->no_discard_passdown +
		a->no_readahead + a->buffered_backing, i;

	for (i = 0; i < a->nr_layers; i++) {
		const struct dm_qcow2_layer_args *l = &a->layers[i];

		n += 3 * !!i + 2 * !!l->data_path;
		if (l->cipher)
			n += *l->cipher ? 3 : 2;
	}
	return n;
}

/* A reference, never the key itself. A message may have changed it. */
static unsigned int emit_cipher(const struct dm_qcow2 *c, unsigned int i,
				char *result, unsigned int sz,
				unsigned int maxlen)
{
	const struct dm_qcow2_layer_args *l = &c->args.layers[i];
	const char *key = l->key;

	if (*l->cipher)
		DMEMIT(" luks %s ", l->cipher);
	else
		DMEMIT(" aes ");
	mutex_lock(&c->host->resize_lock);
	if (!i)
		key = dm_qcow2_key_of(c->host->crypt);
	sz = emit_path(key, result, sz, maxlen);
	mutex_unlock(&c->host->resize_lock);
	return sz;
}

static unsigned int emit_layers(const struct dm_qcow2 *c, char *result,
				unsigned int sz, unsigned int maxlen)
{
	const struct dm_qcow2_args *a = &c->args;
	unsigned int i;

	for (i = 0; i < a->nr_layers; i++) {
		const struct dm_qcow2_layer_args *l = &a->layers[i];

		if (i) {
			DMEMIT(" backing %s ", l->raw ? "raw" : "qcow2");
			sz = emit_path(l->path, result, sz, maxlen);
		}
		if (l->data_path) {
			DMEMIT(" data_file ");
			sz = emit_path(l->data_path, result, sz, maxlen);
		}
		if (l->cipher)
			sz = emit_cipher(c, i, result, sz, maxlen);
	}
	return sz;
}

static unsigned int emit_table(const struct dm_qcow2 *c, char *result,
			       unsigned int maxlen)
{
	const struct dm_qcow2_args *a = &c->args;
	unsigned int n = count_words(a);
	unsigned int sz = 0;

	sz = emit_path(a->layers[0].path, result, sz, maxlen);
	if (!n)
		return sz;
	DMEMIT(" %u", n);
	if (a->read_only)
		DMEMIT(" read_only");
	if (a->has_sector_size)
		DMEMIT(" sector_size %u", a->sector_size);
	if (a->cache_bytes)
		DMEMIT(" cache_bytes %llu", a->cache_bytes);
	if (a->no_discard_passdown)
		DMEMIT(" no_discard_passdown");
	if (a->no_readahead)
		DMEMIT(" no_readahead");
	if (a->buffered_backing)
		DMEMIT(" buffered_backing");
	return emit_layers(c, result, sz, maxlen);
}

/**
 * dm_qcow2_sum_counts() - which way the bios went, on all CPUs
 * @h: the host
 * @sum: filled in
 */
void dm_qcow2_sum_counts(const struct dm_qcow2_host *h,
			 struct dm_qcow2_counts *sum)
{
	int cpu;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		const struct dm_qcow2_counts *p = per_cpu_ptr(h->counts, cpu);

		sum->inlined += READ_ONCE(p->inlined);
		sum->worker += READ_ONCE(p->worker);
	}
}

/* The reason is one word. */
static unsigned int emit_why(const char *why, char *result, unsigned int sz,
			     unsigned int maxlen)
{
	if (!*why)
		DMEMIT(" -");
	else
		DMEMIT(" ");
	for (; *why; why++)
		DMEMIT("%c", *why == ' ' ? '_' : *why);
	return sz;
}

static u64 read64(const atomic64_t *v)
{
	return atomic64_read(v);
}

static unsigned int emit_info(const struct dm_qcow2 *c, char *result,
			      unsigned int maxlen)
{
	const struct dm_qcow2_host *h = c->host;
	const struct qcow2_image *img = h->img;
	const struct qcow2_stats *s = &img->stats;
	struct dm_qcow2_counts counts;
	unsigned int sz = 0;

	dm_qcow2_sum_counts(h, &counts);
	DMEMIT("%s", qcow2_mode_name(qcow2_mode(img)));
	sz = emit_why(img->why, result, sz, maxlen);
	DMEMIT(" %u %llu %llu %llu %llu", qcow2_cluster_size(&img->hdr),
	       read64(&s->mapped), read64(&s->allocated), read64(&s->freed),
	       READ_ONCE(img->host_end));
	DMEMIT(" %u/%u %u %llu %llu %llu %llu",
	       READ_ONCE(img->cache.nr_blocks), img->cache.max_blocks,
	       READ_ONCE(img->cache.nr_dirty), read64(&s->hits),
	       read64(&s->misses), read64(&s->meta_reads),
	       read64(&s->meta_writes));
	DMEMIT(" %llu %llu %llu %llu %s", read64(&s->commits),
	       read64(&s->flushes), counts.inlined, counts.worker,
	       h->locked ? "qemu" : "none");
	return sz;
}

/**
 * dm_qcow2_status() - .status of the target
 * @ti: the target
 * @type: status, table line, or what is measured for integrity
 * @status_flags: not used: status never writes
 * @result: text
 * @maxlen: its room
 *
 * The fields are in Documentation/dm-qcow2.rst.
 */
void dm_qcow2_status(struct dm_target *ti, status_type_t type,
		     unsigned int status_flags, char *result,
		     unsigned int maxlen)
{
	const struct dm_qcow2 *c = ti->private;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		emit_info(c, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		emit_table(c, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",read_only=%c;", c->args.read_only ? 'y' : 'n');
		break;
	}
}

/**
 * dm_qcow2_message() - .message of the target
 * @ti: the target
 * @argc: words
 * @argv: the words: "retry" leaves the no-space mode, "resize <bytes>" makes
 *	the disk larger, "key set <reference>" and "key wipe" are dm-crypt's
 * @result: not used
 * @maxlen: not used
 *
 * Return: 0; -EINVAL; as dm_qcow2_resize() and dm_qcow2_change_key().
 */
int dm_qcow2_message(struct dm_target *ti, unsigned int argc, char **argv,
		     char *result, unsigned int maxlen)
{
	struct dm_qcow2 *c = ti->private;

	if (argc == 1 && !strcasecmp(argv[0], "retry")) {
		qcow2_retry(c->host->img);
		return 0;
	}
	if (argc == 2 && !strcasecmp(argv[0], "resize"))
		return dm_qcow2_resize(c, argv[1]);
	if (argc == 3 && !strcasecmp(argv[0], "key") &&
	    !strcasecmp(argv[1], "set"))
		return dm_qcow2_change_key(c, argv[2]);
	if (argc == 2 && !strcasecmp(argv[0], "key") &&
	    !strcasecmp(argv[1], "wipe"))
		return dm_qcow2_change_key(c, NULL);
	DMWARN("unknown message; known are: retry, resize <bytes>, key set <reference>, key wipe");
	return -EINVAL;
}
