// SPDX-License-Identifier: GPL-2.0
/*
 * Images with one defect each (tests/lib/hostile.c): each has its verdict, and what
 * QEMU refuses we refuse.
 */
#include "fixture.h"
#include "hostile.h"

#include <unistd.h>

static bool mentions(const struct fixture *f, const char *words)
{
	return strstr(f->err.msg, words) || mem_has_msg(&f->be, words);
}

static void opened(struct fixture *f, const struct hostile *h, const char *what)
{
	bool read = h->verdict == HOSTILE_READ, write = h->verdict == HOSTILE_WRITE;
	u64 bad = HOSTILE_BAD * f->cs;
	bool l1 = read && strstr(h->words, "L1");
	int ret;

	ret = fx_read(f, bad, f->cs);
	if (h->verdict != HOSTILE_ANY) {
		is_int(ret, !read ? 0 : strstr(h->words, "decompress") ? -EIO : -EUCLEAN,
		       "%s: read", what);
		/* all of the disk hangs on its one L1 entry */
		ok(l1 || fx_reads(f, HOSTILE_GOOD, f->cs, 1), "%s: another cluster",
		   what);
	}
	ret = fx_write(f, bad, 512, 2);
	if (write || (read && h->marked))
		ok(ret && mentions(f, h->words), "%s: write: %d, %s", what, ret,
		   mem_last_msg(&f->be));
	if (h->marked)
		ok(qcow2_mode(f->img) >= QCOW2_READ_ONLY && fx_corrupt_bit(f),
		   "%s: is marked, and not written any more", what);
	if (h->verdict == HOSTILE_ANY) {
		fx_write(f, 0, f->cs, 2);
		fx_write(f, 9 * f->cs, f->cs, 2);
		guest_zero(f->img, 0, 5 * f->cs, QCOW2_DISCARD);
		qcow2_commit(f->img);
		fx_write(f, 0, 20 * f->cs, 2);
	}
	fx_close(f);
}

/* QEMU's opinion, of the image as it was. */
static int ask_qemu(const struct membackend *be, const char *path)
{
	char command[300];

	must(mem_save_file(be, path));
	snprintf(command, sizeof(command),
		 "timeout 20 qemu-img info -f qcow2 %s >%s.log 2>&1", path, path);
	return system(command);
}

int main(void)
{
	char dir[] = "/tmp/hostile.XXXXXX", path[64], what[200];
	unsigned int n, refused = 0;
	struct fixture f;
	struct hostile h;
	int ret, qemu;

	must(!mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	for (n = 0; memset(&f, 0, sizeof(f)), hostile_make(n, &f.be, &h); n++) {
		snprintf(what, sizeof(what), "%s, %u bits", h.name, h.cluster_bits);
		f.cs = 1u << h.cluster_bits;
		qemu = ask_qemu(&f.be, path);
		ret = mem_open(&f.be, 0, &f.img, &f.err);
		if (h.verdict == HOSTILE_REFUSED) {
			ok(ret && mentions(&f, h.words), "%s: refused: %s", what,
			   f.err.msg);
			refused++;
		} else {
			is_int(ret, 0, "%s: opened", what);
			ok(!qemu, "%s: QEMU opens it, too", what);
		}
		if (!ret)
			opened(&f, &h, what);
		f.img = NULL;
		mem_destroy(&f.be);
	}
	diag("%u images, %u of them refused", n, refused);
	ok(n >= 150, "there are %u", n);
	unlink(path);
	snprintf(path, sizeof(path), "%s/image.log", dir);
	unlink(path);
	rmdir(dir);
	return tap_end();
}
