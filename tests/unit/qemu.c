// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU as the judge: images that qemu-img makes read back as they were
 * written, images that the core writes pass its check and compare equal.
 */
#include "fixture.h"
#include "shell.h"

#define SIZE (2u << 20)

/* A disk with data, holes and clusters that are partly written. */
static void make_model(u8 *model, u32 cluster, u64 generation)
{
	u64 at;

	for (at = 0; at + 8 * cluster <= SIZE; at += 8 * cluster) {
		fx_fill(model + at, at, cluster, generation);
		fx_fill(model + at + 2 * cluster + 512, at + 2 * cluster + 512,
			512, generation);
		fx_fill(model + at + 4 * cluster - 512, at + 4 * cluster - 512,
			1024, generation);
	}
}

static void save(const char *name, const u8 *p, u64 len)
{
	FILE *file = fopen(path(name), "w");

	if (!file || fwrite(p, 1, len, file) != len || fclose(file))
		must(-EIO);
}

static const char * const options[] = {
	"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=4k",
	"cluster_size=2M", "compat=0.10,cluster_size=1k",
	"refcount_bits=1", "refcount_bits=2,cluster_size=512",
	"refcount_bits=4", "refcount_bits=8", "refcount_bits=32",
	"refcount_bits=64,cluster_size=512", "lazy_refcounts=on",
	"preallocation=metadata", "preallocation=falloc",
	"preallocation=full,cluster_size=4k",
	"preallocation=metadata,cluster_size=512,refcount_bits=64",
	"preallocation=metadata,compat=0.10",
};

static u32 cluster_of(const char *option)
{
	if (strstr(option, "=512"))
		return 512;
	if (strstr(option, "=1k"))
		return 1024;
	if (strstr(option, "=4k"))
		return 4096;
	return 65536;
}

/* qemu-img's image, read, written to, and given back. */
static void round_trip(const char *option)
{
	u8 *model = calloc(1, SIZE), *buf = malloc(SIZE);
	u32 cluster = cluster_of(option);
	struct fixture f;
	u64 at;

	memset(&f, 0, sizeof(f));
	mem_init(&f.be, MEM_FILE, 0);
	make_model(model, cluster, 1);
	save("raw", model, SIZE);
	must(run("qemu-img create -q -f qcow2 -o %s q %u", option, SIZE));
	must(run("qemu-img convert -n -f raw -O qcow2 raw q"));
	must(mem_load_file(&f.be, path("q")));
	fx_open(&f);
	ok(!guest_read(f.img, 0, buf, SIZE) && !memcmp(buf, model, SIZE),
	   "%s: reads as written", option);
	for (at = 0; at + 1536 <= SIZE; at += 5 * (u64)cluster + 1536) {
		fx_fill(model + at, at, 1536, 2);
		must(guest_write(f.img, at, model + at, 1536));
	}
	fx_fill(model + SIZE / 2, SIZE / 2, SIZE / 4, 3);
	must(guest_write(f.img, SIZE / 2, model + SIZE / 2, SIZE / 4));
	ok(!guest_read(f.img, 0, buf, SIZE) && !memcmp(buf, model, SIZE),
	   "%s: reads as changed", option);
	is_int(fx_close(&f), 0, "%s: close", option);
	must(mem_save_file(&f.be, path("ours")));
	save("raw", model, SIZE);
	if (!is_int(run("qemu-img check -q -f qcow2 ours"), 0, "%s: check",
		    option))
		run("qemu-img check -f qcow2 ours; cat out >&2");
	is_int(run("qemu-img compare -q -f raw -F qcow2 raw ours"), 0,
	       "%s: compare", option);
	mem_destroy(&f.be);
	free(model);
	free(buf);
}

/* Our images, from nothing, for all cluster and refcount sizes. */
static void from_nothing(u32 bits, u32 order, u32 version)
{
	u8 *model = calloc(1, SIZE);
	struct fixture f;
	u64 at;

	fx_make_on(&f, MEM_FILE, 0, &(struct mk_image){
		.version = version, .cluster_bits = bits, .size = SIZE,
		.refcount_order = order, .order_given = true });
	fx_open(&f);
	for (at = 0; at + 4096 <= SIZE; at += 3 * 4096 + 512) {
		fx_fill(model + at, at, 4096, 1);
		must(guest_write(f.img, at, model + at, 4096));
	}
	must(qcow2_commit(f.img));
	for (at = 1024; at + 2048 <= SIZE; at += 40960) {
		fx_fill(model + at, at, 2048, 2);
		must(guest_write(f.img, at, model + at, 2048));
	}
	must(fx_close(&f));
	must(mem_save_file(&f.be, path("ours")));
	save("raw", model, SIZE);
	is_int(run("qemu-img check -q -f qcow2 ours"), 0,
	       "%u bits, order %u, version %u: check", bits, order, version);
	is_int(run("qemu-img compare -q -f raw -F qcow2 raw ours"), 0,
	       "%u bits, order %u, version %u: compare", bits, order, version);
	fx_destroy(&f);
	free(model);
}

/* Zero clusters, preallocated or not, that QEMU writes. */
static void test_zeros(void)
{
	u8 *model = calloc(1, SIZE), *buf = malloc(SIZE);
	struct fixture f;

	memset(&f, 0, sizeof(f));
	mem_init(&f.be, MEM_FILE, 0);
	must(run("qemu-img create -q -f qcow2 -o cluster_size=4k q %u", SIZE));
	must(run("qemu-io -f qcow2 -c 'write -P 17 0 1M' -c 'write -z 8k 16k' q"));
	must(run("qemu-io -f qcow2 -c 'write -zu 64k 32k' q"));
	must(run("qemu-io -f qcow2 -c 'discard 128k 64k' -c 'write -z 1M 64k' q"));
	memset(model, 17, 1 << 20);
	memset(model + 8192, 0, 16384);
	memset(model + 65536, 0, 32768);
	memset(model + 131072, 0, 65536);
	must(mem_load_file(&f.be, path("q")));
	fx_open(&f);
	ok(!guest_read(f.img, 0, buf, SIZE) && !memcmp(buf, model, SIZE),
	   "zeros that QEMU wrote");
	fx_fill(model + 8704, 8704, 40960, 3);
	must(guest_write(f.img, 8704, model + 8704, 40960));
	fx_fill(model + 131584, 131584, 40960, 3);
	must(guest_write(f.img, 131584, model + 131584, 40960));
	must(fx_close(&f));
	must(mem_save_file(&f.be, path("ours")));
	save("raw", model, SIZE);
	is_int(run("qemu-img check -q -f qcow2 ours"), 0, "check");
	is_int(run("qemu-img compare -q -f raw -F qcow2 raw ours"), 0,
	       "zeros that we wrote into");
	fx_destroy(&f);
	free(model);
	free(buf);
}

/* After its snapshot is deleted an image has entries that are not COPIED. */
int main(void)
{
	u32 i;

	shell_start();
	if (run("qemu-img --version && qemu-io --version")) {
		tap_skip("QEMU", "no qemu-img or qemu-io");
		return tap_end();
	}
	for (i = 0; i < ARRAY_SIZE(options); i++)
		round_trip(options[i]);
	for (i = 9; i <= 21; i++)
		from_nothing(i, (i - 9) % 7, 3);
	from_nothing(9, 4, 2);
	from_nothing(16, 4, 2);
	test_zeros();
	shell_end();
	return tap_end();
}
