// SPDX-License-Identifier: GPL-2.0
/*
 * Every feature of the format at random: chains that QEMU makes, of raw and
 * qcow2 layers of all kinds, with every kind of entry side by side. The core
 * reads them as QEMU does; what it writes, zeroes, discards, and what a resize
 * leaves, passes QEMU's check and compares equal; what QEMU then writes, the
 * core reads. The top may have snapshots, which stay what they were, bitmaps,
 * and a dirty bit.
 *
 * SEED=N FORMATS_ONLY=M repeats one chain.
 */
#include "fixture.h"
#include "inflate.h"
#include "layers.h"
#include "resize.h"
#include "shell.h"

#define MAX_LAYERS 4
#define CHAINS 60
#define MAX_SIZE (4u << 20)

static char script[16384];	/* what made the chain, for a failure */
static u64 rng;
static u64 unread;	/* chains that QEMU could not read itself */

static u64 rnd(u64 n)
{
	u64 z = (rng += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (z ^ (z >> 31)) % n;
}

static bool chance(u32 percent)
{
	return rnd(100) < percent;
}

/* Every command of a chain. */
static void remember(const char *cmd)
{
	if (strlen(script) + strlen(cmd) + 2 < sizeof(script)) {
		strcat(script, "\n");
		strcat(script, cmd);
	}
}

struct layer {
	bool raw;
	bool extended;
	bool data_file;
	bool v2;
	bool zstd;
	bool zeros;	/* QEMU writes zeros to it, and discards */
	bool dirty;	/* refcounts are not what they should be */
	bool bitmap;
	u32 snapshots;
	u32 cluster;
	u64 size;
	struct membackend be, data;
	struct qcow2_store data_store;
	struct qcow2_image *img;
	struct qcow2_layer as_backing;
};

struct chain {
	struct layer l[MAX_LAYERS];	/* 0: the top */
	u32 nr;
	u8 *model;
	char what[256];
};

static const char *layer_name(u32 i)
{
	static char names[MAX_LAYERS][16];

	snprintf(names[i], sizeof(names[i]), "l%u", i);
	return names[i];
}

/* Something of every kind. */
static void fill_by_qemu(const struct layer *l, const char *name, u32 n)
{
	char args[4096] = "";
	u64 cs = l->cluster, clusters = l->size / cs;
	bool compressed = !l->raw && !l->data_file && clusters > 1 &&
		!(l->extended && l->zeros);

	while (n--) {
		u64 at = rnd(l->size / 512) * 512, len = (1 + rnd(64)) * 512;
		u32 what = rnd(100);
		size_t end = strlen(args);
		const char *op = "write";

		if (chance(40)) {
			at = at / cs * cs;
			len = cs * (1 + rnd(3));
		}
		len = min(len, l->size - at);
		if (!len)
			continue;
		if (compressed && what < 20) {
			op = "write -c";
			at = rnd(clusters) * cs;
			len = cs;
		} else if (l->zeros && what < 35) {
			op = chance(50) ? "write -z" : "write -z -u";
		} else if (l->zeros && what < 45) {
			op = "discard";
		}
		if (!strcmp(op, "write"))
			op = chance(50) ? "write -P 17" : "write -P 201";
		if (!strcmp(op, "write -c"))
			op = chance(30) ? "write -c -P 18" : "write -c -s half";
		snprintf(args + end, sizeof(args) - end, " -c '%s %llu %llu'",
			 op, (unsigned long long)at, (unsigned long long)len);
	}
	/* 1: it does not write a compressed cluster over another kind */
	if (*args && run("qemu-io -f %s%s %s", l->raw ? "raw" : "qcow2", args,
			 name) > 1)
		must(-EIO);
}

static void choose_layer(struct layer *l, u32 i, u32 nr)
{
	static const u32 clusters[] = { 512, 4096, 4096, 16384, 65536 };

	l->raw = i && i + 1 == nr && chance(50);
	l->cluster = l->raw ? 512 : clusters[rnd(5)];
	l->extended = !l->raw && l->cluster >= 16384 && chance(60);
	l->v2 = !l->raw && !l->extended && chance(15);
	l->data_file = !l->raw && !l->v2 && chance(20);
	l->zstd = !l->raw && !l->v2 && chance(40);
	/* QEMU 7.2 damages compressed clusters when it zeroes subclusters */
	l->zeros = !l->raw && (!l->extended || chance(50));
	l->size = (1 + rnd(32)) * 65536;
	if (chance(30))
		l->size += rnd(100) * 512;
	if (i)
		return;
	l->dirty = !l->v2 && chance(20);
	l->bitmap = !l->v2 && chance(25);
	if (!l->data_file && chance(40))
		l->snapshots = 1 + rnd(3);
}

/* What only the image has that is written. False if QEMU cannot read its own. */
static bool add_to_top(struct layer *l)
{
	u32 i;

	for (i = 0; i < l->snapshots; i++) {
		must(run("qemu-img snapshot -c s%u l0", i));
		if (run("qemu-img convert -f qcow2 -O raw -l snapshot.name=s%u l0 s%u",
			i, i))
			return false;
		fill_by_qemu(l, "l0", rnd(12));
	}
	if (l->bitmap) {
		must(run("qemu-img bitmap --add -f qcow2 l0 b0"));
		must(run("qemu-img bitmap --add --disable -f qcow2 l0 b1"));
		fill_by_qemu(l, "l0", rnd(4));
	}
	if (!l->dirty)
		return true;
	/* it ends without closing the image */
	must(run("qemu-img amend -f qcow2 -o lazy_refcounts=on l0"));
	must(!run("qemu-io -f qcow2 -c 'write -P 77 0 %llu' -c 'discard 0 %u' %s l0",
		  (unsigned long long)min_t(u64, l->size, 300000 / 512 * 512),
		  l->cluster, "-c 'write -P 78 0 512' -c flush -c abort"));
	return true;
}

static bool make_layer(struct chain *c, u32 i)
{
	struct layer *l = &c->l[i];
	const char *name = layer_name(i);
	char opts[256], back[64] = "";

	if (l->raw) {
		must(run("truncate -s %llu %s", (unsigned long long)l->size, name));
		fill_by_qemu(l, name, 4 + rnd(10));
		if (chance(50))
			must(run("truncate -s -100 %s", name));
		return true;
	}
	snprintf(opts, sizeof(opts), "cluster_size=%u%s%s%s%s%s", l->cluster,
		 l->v2 ? ",compat=0.10" : "",
		 l->extended ? ",extended_l2=on" : "",
		 l->zstd ? ",compression_type=zstd" : "",
		 l->data_file ? ",data_file=" : "", l->data_file ? name : "");
	if (l->data_file)
		strcat(opts, "d");
	if (i + 1 < c->nr)
		snprintf(back, sizeof(back), "-b %s -F %s", layer_name(i + 1),
			 c->l[i + 1].raw ? "raw" : "qcow2");
	must(run("qemu-img create -q -f qcow2 -o %s %s %s %llu", opts, back, name,
		 (unsigned long long)l->size));
	fill_by_qemu(l, name, 6 + rnd(16));
	return i || add_to_top(l);
}

static void load_layer(struct chain *c, u32 i)
{
	struct layer *l = &c->l[i];
	char name[16];

	mem_init(&l->be, MEM_FILE, 0);
	must(mem_load_file(&l->be, path(layer_name(i))));
	if (!l->data_file)
		return;
	mem_init(&l->data, MEM_FILE, 0);
	snprintf(name, sizeof(name), "%sd", layer_name(i));
	must(mem_load_file(&l->data, path(name)));
}

static void open_chain(struct chain *c)
{
	u32 i;

	for (i = c->nr; i-- > 0;) {
		struct layer *l = &c->l[i];
		struct qcow2_config cfg = { .read_only = i };
		struct qcow2_error err;

		load_layer(c, i);
		l->as_backing.store.ops = l->be.ops;
		l->as_backing.store.be = &l->be;
		if (l->raw) {
			l->as_backing.size = round_up(l->be.size, 512ull);
			continue;
		}
		if (i + 1 < c->nr)
			cfg.backing = &c->l[i + 1].as_backing;
		l->data_store = (struct qcow2_store){ l->data.ops, &l->data };
		if (l->data_file)
			cfg.data = &l->data_store;
		if (qcow2_image_open(l->be.ops, &l->be, &cfg, &l->img, &err)) {
			diag("%s", err.msg);
			must(-EINVAL);
		}
		l->as_backing.img = l->img;
		l->as_backing.size = round_down(l->img->hdr.size, 512ull);
	}
}

static int close_chain(struct chain *c)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < c->nr; i++)
		if (c->l[i].img)
			ret = qcow2_image_close(c->l[i].img) ?: ret;
	return ret;
}

static void drop_chain(struct chain *c)
{
	u32 i;

	for (i = 0; i < c->nr; i++) {
		mem_destroy(&c->l[i].be);
		if (c->l[i].data_file)
			mem_destroy(&c->l[i].data);
		c->l[i].img = NULL;
	}
}

/* What QEMU says that the guest reads. */
static bool load_model(struct chain *c)
{
	FILE *f;

	/* it cannot read everything that it has written */
	if (run("qemu-img convert -f qcow2 -O raw l0 model"))
		return false;
	f = fopen(path("model"), "r");
	must(!f);
	must(fread(c->model, 1, c->l[0].size, f) != c->l[0].size);
	fclose(f);
	return true;
}

static bool reads_as_model(struct chain *c)
{
	u64 size = c->l[0].size, i;
	u8 *buf = malloc(size);
	int ret = guest_read(c->l[0].img, 0, buf, size);
	bool good = !ret && !memcmp(buf, c->model, size);

	for (i = 0; !ret && !good && i < size; i++) {
		if (buf[i] == c->model[i])
			continue;
		diag("byte %#llx is %#x, not %#x", (unsigned long long)i, buf[i],
		     c->model[i]);
		break;
	}
	if (ret)
		diag("read: error %d: %s", ret, mem_last_msg(&c->l[0].be));
	free(buf);
	return good;
}

/* What is remembered of the layers is what is found there. */
static bool lookups_agree(struct chain *c)
{
	struct qcow2_image *img = c->l[0].img;
	u64 size = c->l[0].size;
	struct qcow2_mapping m;
	bool good = true;
	u32 i;

	for (i = 0; good && i < 200; i++) {
		u64 at = rnd(size / 512) * 512;
		u64 len = min((1 + rnd(64)) * 512, size - at);

		if (qcow2_map_peek(img, at, len, &m))
			must(qcow2_map(img, at, len, &m));
		good = layers_agree(img, at, len, &m, &rng);
		if (!good)
			diag("lookup of %#llx+%#llx", (unsigned long long)at,
			     (unsigned long long)len);
	}
	return good;
}

/* A discard gives zeros or leaves what is there, sector by sector. */
static bool discard(struct chain *c, u64 at, u64 len)
{
	u8 *buf = malloc(len);
	static const u8 zeros[512];
	bool good = !guest_zero(c->l[0].img, at, len, QCOW2_DISCARD) &&
		!guest_read(c->l[0].img, at, buf, len);
	u64 i;

	for (i = 0; good && i < len; i += 512)
		good = !memcmp(buf + i, zeros, 512) ||
			!memcmp(buf + i, c->model + at + i, 512);
	if (good)
		memcpy(c->model + at, buf, len);
	free(buf);
	return good;
}

/* The top becomes larger, whatever is below, or smaller. */
static bool resize(struct chain *c)
{
	struct layer *top = &c->l[0];
	u64 size = chance(70) ? top->size + (1 + rnd(2000)) * 512 :
		(1 + rnd(top->size / 512)) * 512;
	struct qcow2_error err;
	int ret;

	size = min_t(u64, size, MAX_SIZE);
	ret = qcow2_resize(top->img, size, true, &err);
	if (ret == -EOPNOTSUPP && (top->v2 || top->bitmap || top->snapshots))
		return true;
	if (ret) {
		diag("to %llu: %s", (unsigned long long)size, err.msg);
		return false;
	}
	if (size > top->size)
		memset(c->model + top->size, 0, size - top->size);
	top->size = size;
	return true;
}

static bool change(struct chain *c, u32 steps, u64 *generation)
{
	struct layer *top = &c->l[0];
	bool good = true;

	while (good && steps--) {
		u64 at = rnd(top->size / 512) * 512, len = (1 + rnd(100)) * 512;
		u32 what = rnd(100);

		if (chance(40)) {
			at = at / top->cluster * top->cluster;
			len = top->cluster * (1 + rnd(3));
		}
		len = min(len, top->size - at);
		if (what < 50) {
			fx_fill(c->model + at, at, len, ++*generation);
			good = !guest_write(top->img, at, c->model + at, len);
		} else if (what < 75) {
			memset(c->model + at, 0, len);
			good = !guest_zero(top->img, at, len, chance(50) ?
					   QCOW2_ZERO_FREE : QCOW2_ZERO_KEEP);
		} else if (what < 90) {
			good = discard(c, at, len);
		} else if (what < 97) {
			good = !qcow2_commit(top->img);
		} else {
			good = resize(c);
		}
		if (!good)
			diag("step at %#llx+%#llx (%u): %s", (unsigned long long)at,
			     (unsigned long long)len, what,
			     mem_last_msg(&top->be));
	}
	return good;
}

static void save_top(struct chain *c)
{
	FILE *f = fopen(path("model"), "w");

	must(!f || fwrite(c->model, 1, c->l[0].size, f) != c->l[0].size);
	fclose(f);
	must(mem_save_file(&c->l[0].be, path("l0")));
	if (c->l[0].data_file)
		must(mem_save_file(&c->l[0].data, path("l0d")));
}

static void describe(struct chain *c)
{
	size_t n = 0;
	u32 i;

	for (i = 0; i < c->nr; i++) {
		const struct layer *l = &c->l[i];

		n += snprintf(c->what + n, sizeof(c->what) - n, "%s%s%u%s%s%s%s",
			      i ? ", over " : "", l->raw ? "raw " : "",
			      l->cluster, l->extended ? " extended" : "",
			      l->v2 ? " v2" : "", l->zstd ? " zstd" : "",
			      l->data_file ? " data file" : "");
		n += snprintf(c->what + n, sizeof(c->what) - n, "%s%s%s",
			      l->dirty ? " dirty" : "",
			      l->bitmap ? " bitmap" : "",
			      l->snapshots ? " snapshots" : "");
	}
}

static bool says_no(bool failed)
{
	if (failed)
		run("cat out >&2");
	return failed;
}

/*
 * Nothing is wrong with the top, and it holds the model. @status is what may be
 * wrong: 3 for clusters that are still counted. What is dirty, and has to stay
 * so, is repaired first.
 */
static bool qemu_agrees(struct chain *c, int status)
{
	const struct layer *top = &c->l[0];
	u32 i;

	save_top(c);
	if (top->dirty) {
		if (!(mem_be64(&top->be, 72) & QCOW2_INCOMPAT_DIRTY) ||
		    says_no(run("cp l0 clean && qemu-img check -q -r all -f qcow2 clean")))
			return false;
	} else {
		must(run("cp l0 clean"));
	}
	if (says_no(run("qemu-img check -f qcow2 clean; [ $? = 0 -o $? = %d ]",
			status)) ||
	    says_no(run("qemu-img compare -f raw -F qcow2 model clean")))
		return false;
	for (i = 0; i < top->snapshots; i++)
		if (says_no(run("qemu-img convert -f qcow2 -O raw -l %s%u clean s && %s%u) s s%u",
				"snapshot.name=s", i, "cmp -n $(stat -c %s s",
				i, i)))
			return false;
	/* both are marked as not kept up to date */
	return !top->bitmap ||
		!says_no(run("[ $(qemu-img info clean | grep -c in-use) = 2 ]"));
}

static bool one_chain(struct chain *c)
{
	u64 generation = 0;
	bool made = true;
	u32 i;

	c->nr = 1 + rnd(MAX_LAYERS);
	for (i = 0; i < c->nr; i++)
		choose_layer(&c->l[i], i, c->nr);
	describe(c);
	run("rm -f l? l?d s?");
	for (i = c->nr; i-- > 0;)
		made = make_layer(c, i) && made;
	c->model = malloc(MAX_SIZE);
	if (!made || !load_model(c)) {
		unread++;
		return true;
	}
	open_chain(c);
	if (!lookups_agree(c) || !reads_as_model(c))
		return false;
	for (i = 0; i < 3; i++) {
		if (!change(c, 25, &generation) || !reads_as_model(c) ||
		    qcow2_commit(c->l[0].img) || !qemu_agrees(c, 3))
			return false;
	}
	if (close_chain(c) || !qemu_agrees(c, 0))
		return false;
	drop_chain(c);
	fill_by_qemu(&c->l[0], "l0", 8);
	if (!load_model(c)) {
		unread++;
		return true;
	}
	open_chain(c);
	if (!reads_as_model(c) || close_chain(c))
		return false;
	drop_chain(c);
	return true;
}

static void try_chain(u64 seed, u64 i)
{
	struct chain *c = calloc(1, sizeof(*c));

	rng = seed * 1000003 + i;
	*script = 0;
	if (!ok(one_chain(c), "chain %llu: %s", (unsigned long long)i, c->what)) {
		diag("SEED=%llu FORMATS_ONLY=%llu", (unsigned long long)seed,
		     (unsigned long long)i);
		printf("# made by:%s\n", script);
	}
	free(c->model);
	free(c);
}

int main(void)
{
	const char *seed_text = getenv("SEED"), *only = getenv("FORMATS_ONLY");
	u64 seed = seed_text ? strtoull(seed_text, NULL, 0) : 1, i;

	shell_start();
	shell_seen = remember;
	if (run("qemu-img --version && qemu-io --version")) {
		tap_skip("QEMU", "no qemu-img or qemu-io");
		return tap_end();
	}
	/* compresses to about the half of it, so that the ends meet everywhere */
	must(run("for i in $(seq 700); do head -c 53 /dev/urandom; %s; done >half",
		 "head -c 47 /dev/zero"));
	if (only)
		try_chain(seed, strtoull(only, NULL, 0));
	for (i = 0; !only && i < CHAINS; i++)
		try_chain(seed, i);
	if (!only)
		ok(unread < CHAINS / 10, "QEMU reads %llu of %u chains",
		   (unsigned long long)(CHAINS - unread), CHAINS);
	if (!getenv("FORMATS_KEEP"))
		shell_end();
	return tap_end();
}
