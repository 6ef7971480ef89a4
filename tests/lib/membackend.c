// SPDX-License-Identifier: GPL-2.0
/*
 * An image in memory: see membackend.h.
 */
#include "membackend.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_CAPACITY (64ull << 30)
#define GARBAGE_BYTES (64ull << 20)

static void die(const char *what)
{
	perror(what);
	abort();
}

/* ---- the operations ---- */

/* Counts an operation and says whether it is to fail. */
static int enter(struct membackend *be, enum mem_kind kind, u64 offset, u64 len)
{
	const struct mem_fault *f = &be->fault[kind];
	int ret = 0;
	u64 n;

	if (be->hook)
		ret = be->hook(be, kind, offset, len);
	pthread_mutex_lock(&be->lock);
	n = ++be->seen[kind];
	if (!ret && f->at && n >= f->at && n - f->at < (f->count ?: 1))
		ret = f->error;
	pthread_mutex_unlock(&be->lock);
	return ret;
}

/* lock held */
static void record(struct membackend *be, enum mem_kind kind, u64 offset,
		   u64 len, const void *data)
{
	bool aside = be->log_of;
	struct mem_op *op;

	be = be->log_of ?: be;
	if (!be->logging)
		return;
	if (be->nr_log == be->max_log) {
		be->max_log = be->max_log * 2 + 64;
		be->log = realloc(be->log, be->max_log * sizeof(*be->log));
		if (!be->log)
			die("log");
	}
	op = &be->log[be->nr_log++];
	*op = (struct mem_op){ kind, aside, offset, len, NULL };
	if (!data)
		return;
	op->data = malloc(len);
	if (!op->data)
		die("log");
	memcpy(op->data, data, len);
}

/* The range can be written; a file grows for it. lock held. */
static int claim(struct membackend *be, u64 end)
{
	if (end <= be->size)
		return 0;
	if (!be->ops->growable)
		return -EIO;
	if (end > (be->limit ?: be->capacity))
		return -ENOSPC;
	be->size = end;
	return 0;
}

static int check_range(const struct membackend *be, u64 offset, u64 len)
{
	if ((offset | len) & 511 || offset + len < offset)
		return -EINVAL;
	return 0;
}

static int do_read(struct membackend *be, enum mem_kind kind, u64 offset,
		   void *buf, u64 len)
{
	u64 size, n;
	int ret = enter(be, kind, offset, len);

	ret = ret ?: check_range(be, offset, len);
	if (ret)
		return ret;
	pthread_mutex_lock(&be->lock);
	size = be->size;
	pthread_mutex_unlock(&be->lock);
	if (offset + len > size && !be->ops->growable && kind != MEM_DATA_READ)
		return -EIO;
	n = offset < size ? min(len, size - offset) : 0;
	memcpy(buf, be->data + offset, n);
	memset((u8 *)buf + n, 0, len - n);
	return 0;
}

static int do_write(struct membackend *be, enum mem_kind kind, u64 offset,
		    const void *buf, u64 len)
{
	int ret = enter(be, kind, offset, len);

	ret = ret ?: check_range(be, offset, len);
	if (ret)
		return ret;
	pthread_mutex_lock(&be->lock);
	ret = claim(be, offset + len);
	if (!ret)
		record(be, kind, offset, len, buf);
	pthread_mutex_unlock(&be->lock);
	if (ret)
		return ret;
	if (buf)
		memcpy(be->data + offset, buf, len);
	else
		memset(be->data + offset, 0, len);
	return 0;
}

static int mem_rw(void *arg, bool write, const struct qcow2_iovec *v,
		  unsigned int n)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < n; i++) {
		if (write)
			ret = do_write(arg, MEM_WRITE, v[i].offset, v[i].buf,
				       v[i].len);
		else
			ret = do_read(arg, MEM_READ, v[i].offset, v[i].buf,
				      v[i].len);
	}
	return ret;
}

static int mem_zero(void *arg, u64 offset, u64 len)
{
	return do_write(arg, MEM_ZERO, offset, NULL, len);
}

/* Afterwards the range is zeros in a file, and anything on a device. */
static void mem_discard(void *arg, u64 offset, u64 len)
{
	struct membackend *be = arg;
	u8 *junk = be->ops->growable ? NULL : malloc(len);

	if (junk)
		memset(junk, 0xdb, len);
	if (offset + len <= be->size)
		do_write(be, MEM_DISCARD, offset, junk, len);
	free(junk);
}

static int mem_data_read(void *arg, u64 host, void *buf, u32 len)
{
	return do_read(arg, MEM_DATA_READ, host, buf, len);
}

static int mem_data_write(void *arg, u64 host, void *buf, u32 len)
{
	return do_write(arg, MEM_DATA_WRITE, host, buf, len);
}

static int mem_flush(void *arg)
{
	struct membackend *be = arg;
	int ret = enter(be, MEM_FLUSH, 0, 0);

	if (ret)
		return ret;
	pthread_mutex_lock(&be->lock);
	record(be, MEM_FLUSH, 0, 0, NULL);
	pthread_mutex_unlock(&be->lock);
	return 0;
}

static int mem_grow(void *arg, u64 size)
{
	struct membackend *be = arg;
	int ret = enter(be, MEM_GROW, 0, size);

	if (ret)
		return ret;
	pthread_mutex_lock(&be->lock);
	if (size > be->size) {
		ret = be->ops->growable ? claim(be, size) : -ENOSPC;
		if (!ret)
			record(be, MEM_GROW, 0, size, NULL);
	}
	pthread_mutex_unlock(&be->lock);
	return ret;
}

static u64 mem_size(void *arg)
{
	struct membackend *be = arg;
	u64 size;

	pthread_mutex_lock(&be->lock);
	size = be->size;
	pthread_mutex_unlock(&be->lock);
	return size;
}

/* A file has this size; what it loses is zeros if it grows again. */
static void set_size(struct membackend *be, u64 size)
{
	if (size < be->size)
		memset(be->data + size, 0, be->size - size);
	be->size = size;
}

static int mem_trim(void *arg, u64 size)
{
	struct membackend *be = arg;
	int ret = enter(be, MEM_TRIM, 0, size);

	if (ret || !be->ops->growable)
		return ret;
	pthread_mutex_lock(&be->lock);
	if (size < be->size) {
		record(be, MEM_TRIM, 0, size, NULL);
		set_size(be, size);
	}
	pthread_mutex_unlock(&be->lock);
	return 0;
}

static void mem_log(void *arg, const char *msg)
{
	struct membackend *be = arg;

	pthread_mutex_lock(&be->lock);
	snprintf(be->msgs[be->nr_msgs++ % MEM_MSGS], sizeof(be->msgs[0]), "%s",
		 msg);
	pthread_mutex_unlock(&be->lock);
}

static void mem_mode_changed(void *arg)
{
	struct membackend *be = arg;

	pthread_mutex_lock(&be->lock);
	be->mode_changes++;
	pthread_mutex_unlock(&be->lock);
}

#define MEM_OPS(is_file) {						\
	.rw = mem_rw, .zero = mem_zero, .discard = mem_discard,		\
	.flush = mem_flush,						\
	.grow = mem_grow, .size = mem_size, .trim = mem_trim,		\
	.data_read = mem_data_read, .data_write = mem_data_write,	\
	.log = mem_log, .mode_changed = mem_mode_changed,		\
	.growable = (is_file),						\
}

static const struct qcow2_backend_ops mem_ops[] = {
	[MEM_FILE] = MEM_OPS(true),
	[MEM_DEVICE] = MEM_OPS(false),
};

/* ---- life ---- */

static void fill_garbage(u8 *p, u64 len)
{
	u64 x = 0x9e3779b97f4a7c15ull, i;

	for (i = 0; i + 8 <= len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

void mem_init(struct membackend *be, enum mem_flavour flavour, u64 size)
{
	memset(be, 0, sizeof(*be));
	pthread_mutex_init(&be->lock, NULL);
	be->ops = &mem_ops[flavour];
	size = round_up(size, 512ull);
	be->capacity = flavour == MEM_FILE ? FILE_CAPACITY : max(size, 4096ull);
	be->data = mmap(NULL, be->capacity, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (be->data == MAP_FAILED)
		die("mmap");
	if (flavour == MEM_DEVICE) {
		be->size = size;
		fill_garbage(be->data, min(size, GARBAGE_BYTES));
	}
}

static void drop_log(struct membackend *be)
{
	u64 i;

	for (i = 0; i < be->nr_log; i++)
		free(be->log[i].data);
	free(be->log);
	free(be->base);
	be->log = NULL;
	be->base = NULL;
	be->nr_log = 0;
	be->max_log = 0;
	be->logging = false;
}

void mem_destroy(struct membackend *be)
{
	drop_log(be);
	munmap(be->data, be->capacity);
	pthread_mutex_destroy(&be->lock);
}

int mem_open_over(struct membackend *be, u64 cache_bytes,
		  const struct qcow2_layer *backing, struct qcow2_image **img,
		  struct qcow2_error *err)
{
	struct membackend *aside = be->data_file;
	struct qcow2_store data = { aside ? aside->ops : NULL, aside };
	struct qcow2_config cfg = {
		.cache_bytes = cache_bytes, .backing = backing,
		.cipher = be->cipher,
		.data = aside ? &data : NULL,
	};

	return qcow2_image_open(be->ops, be, &cfg, img, err);
}

int mem_open(struct membackend *be, u64 cache_bytes, struct qcow2_image **img,
	     struct qcow2_error *err)
{
	return mem_open_over(be, cache_bytes, NULL, img, err);
}

const char *mem_last_msg(const struct membackend *be)
{
	return be->nr_msgs ? be->msgs[(be->nr_msgs - 1) % MEM_MSGS] : "";
}

bool mem_has_msg(const struct membackend *be, const char *text)
{
	u64 i;

	for (i = 0; i < min_t(u64, be->nr_msgs, MEM_MSGS); i++)
		if (strstr(be->msgs[i], text))
			return true;
	return false;
}

int mem_load_file(struct membackend *be, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	u64 size, pos = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		close(fd);
		return -EIO;
	}
	size = be->ops->growable ? (u64)st.st_size : be->size;
	if ((u64)st.st_size > min(size, be->capacity)) {
		close(fd);
		return -EFBIG;
	}
	set_size(be, size);
	while (pos < (u64)st.st_size) {
		n = pread(fd, be->data + pos, st.st_size - pos, pos);
		if (n <= 0)
			break;
		pos += n;
	}
	close(fd);
	return pos < (u64)st.st_size ? -EIO : 0;
}

int mem_save_file(const struct membackend *be, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	static const u8 zeros[65536];
	u64 pos, n;
	int ret = 0;

	if (fd < 0)
		return -errno;
	for (pos = 0; !ret && pos < be->size; pos += n) {
		n = min(be->size - pos, (u64)sizeof(zeros));
		if (!memcmp(be->data + pos, zeros, n))
			continue;
		if (pwrite(fd, be->data + pos, n, pos) != (ssize_t)n)
			ret = -EIO;
	}
	if (!ret && ftruncate(fd, be->size))
		ret = -errno;
	close(fd);
	return ret;
}

void mem_copy(struct membackend *to, const struct membackend *from)
{
	if (to->ops->growable)
		set_size(to, from->size);
	memcpy(to->data, from->data, min(to->size, from->size));
	to->mk_end = from->mk_end;
	to->cipher = from->cipher;
}

void mem_fail(struct membackend *be, enum mem_kind kind, u64 count, int error)
{
	be->fault[kind] = (struct mem_fault){ be->seen[kind] + 1, count, error };
}

void mem_fail_nothing(struct membackend *be)
{
	memset(be->fault, 0, sizeof(be->fault));
}

/* ---- the log ---- */

void mem_log_start(struct membackend *be)
{
	drop_log(be);
	be->base_size = be->size;
	be->base = malloc(be->size + 1);
	if (!be->base)
		die("log");
	memcpy(be->base, be->data, be->size);
	be->logging = true;
}

void mem_log_only(struct membackend *be)
{
	drop_log(be);
	be->logging = true;
}

void mem_log_stop(struct membackend *be)
{
	be->logging = false;
}

void mem_apply(struct membackend *be, const struct mem_op *op, u64 from, u64 to)
{
	u64 end;

	if (from >= to)
		return;
	switch (op->kind) {
	case MEM_WRITE:
	case MEM_DATA_WRITE:
	case MEM_ZERO:
	case MEM_DISCARD:
		end = op->offset + to;
		if (be->ops->growable)
			be->size = max(be->size, end);
		if (op->data)
			memcpy(be->data + op->offset + from,
			       (const u8 *)op->data + from, to - from);
		else
			memset(be->data + op->offset + from, 0, to - from);
		break;
	case MEM_GROW:
		be->size = max(be->size, op->len);
		break;
	case MEM_TRIM:
		if (op->len < be->size)
			set_size(be, op->len);
		break;
	default:
		break;
	}
}

void mem_crash(struct membackend *be,
	       bool (*keep)(void *arg, const struct mem_op *op, u64 sector),
	       void *arg)
{
	u64 i, s, flushed = 0;

	if (be->ops->growable)
		set_size(be, be->base_size);
	memcpy(be->data, be->base, be->base_size);
	for (i = 0; i < be->nr_log; i++)
		if (be->log[i].kind == MEM_FLUSH)
			flushed = i;
	for (i = 0; i < be->nr_log; i++) {
		const struct mem_op *op = &be->log[i];
		bool whole = op->kind == MEM_GROW || op->kind == MEM_TRIM;

		if (i < flushed) {
			mem_apply(be, op, 0, op->len + whole);
			continue;
		}
		if (whole) {
			if (keep && keep(arg, op, 0))
				mem_apply(be, op, 0, 1);
			continue;
		}
		for (s = 0; keep && s < op->len / 512; s++)
			if (keep(arg, op, s))
				mem_apply(be, op, s * 512, s * 512 + 512);
	}
	mem_log_start(be);
}
