// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a crash could have left of a disk under dm-log-writes, whose log has every
 * write in the order in which it became durable at the latest: what is in it
 * before a flush was complete when that flush began. Of what comes after the last
 * flush any part may be lost, but for what was written with FUA. A FUA write that
 * overwrites what has not been flushed is in the log before it: there is to be none.
 *
 * What was under way while a flush was comes after it in the log, so a write that
 * does not wait for a flush as it should is not found here; the crash enumerator
 * looks for that.
 *
 * The log is described in drivers/md/dm-log-writes.c: a superblock, then for each
 * entry a sector that says what it is, and its data.
 */
#include "check.h"
#include "membackend.h"

#include <endian.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MAGIC 0x6a736677736872ull
#define FLUSH 1
#define FUA 2
#define DISCARD 4
#define MARK 8

struct super {
	uint64_t magic, version, nr_entries;
	uint32_t sector_size;
};

struct raw_entry {
	uint64_t sector, nr_sectors, flags, data_len;
};

struct entry {
	uint64_t flags;
	uint64_t offset, len;	/* bytes of the disk */
	uint64_t from;		/* of the log: the data */
	char mark[64];
};

static int log_fd;
static struct entry *entries;
static uint64_t nr_entries, disk_size;
static struct membackend disk;

static void get(void *to, uint64_t len, uint64_t from)
{
	while (len) {
		ssize_t n = pread(log_fd, to, len, from);

		if (n <= 0)
			err(1, "the log ends too soon");
		to = (char *)to + n;
		from += n;
		len -= n;
	}
}

static void read_log(const char *path)
{
	struct super super;
	struct raw_entry raw;
	uint64_t pos, i, size;

	log_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (log_fd < 0)
		err(1, "%s", path);
	get(&super, sizeof(super), 0);
	size = le32toh(super.sector_size);
	nr_entries = le64toh(super.nr_entries);
	if (le64toh(super.magic) != LOG_MAGIC || !nr_entries)
		errx(1, "%s is no log of writes", path);
	entries = calloc(nr_entries, sizeof(*entries));
	if (!entries)
		err(1, "%s", path);
	for (i = 0, pos = size; i < nr_entries; i++) {
		struct entry *e = &entries[i];

		get(&raw, sizeof(raw), pos);
		e->flags = le64toh(raw.flags);
		e->offset = le64toh(raw.sector) * size;
		e->len = le64toh(raw.nr_sectors) * size;
		e->from = pos + size;
		if (e->flags & MARK)
			get(e->mark, min_t(uint64_t, le64toh(raw.data_len),
					   sizeof(e->mark) - 1),
			    pos + sizeof(raw));
		pos = e->from + (e->flags & (DISCARD | MARK) ? 0 : e->len);
		if (!(e->flags & MARK))
			disk_size = max(disk_size, e->offset + e->len);
	}
}

static void apply(const struct entry *e, uint64_t len)
{
	if (e->flags & DISCARD)
		memset(disk.data + e->offset, 0, len);
	else if (len)
		get(disk.data + e->offset, len, e->from);
}

static bool is_write(const struct entry *e)
{
	return e->len && !(e->flags & MARK);
}

/* The entry after mark @name. */
static uint64_t after_mark(const char *name)
{
	uint64_t i;

	for (i = 0; i < nr_entries; i++)
		if (entries[i].flags & MARK && !strcmp(entries[i].mark, name))
			return i + 1;
	errx(1, "there is no mark \"%s\"", name);
}

/* ---- replay to a mark ---- */

static void put(int fd, const void *from, uint64_t len, const char *path)
{
	while (len) {
		ssize_t n = write(fd, from, len);

		if (n <= 0)
			err(1, "%s", path);
		from = (const char *)from + n;
		len -= n;
	}
}

static void replay_to(const char *mark, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	uint64_t end = after_mark(mark), i;

	if (fd < 0)
		err(1, "%s", path);
	for (i = 0; i < end; i++)
		apply(&entries[i], entries[i].len);
	put(fd, disk.data, disk_size, path);
	if (fsync(fd) || close(fd))
		err(1, "%s", path);
}

/* ---- all states ---- */

struct undo {
	uint64_t offset, len;
	uint8_t *old;
};

static uint64_t states, wrong;
static char why[300];

static void remember(void *arg, bool leak, const char *line)
{
	if (!leak && !*why)
		snprintf(why, sizeof(why), "%s", line);
}

static void check(uint64_t from, uint64_t to, const char *what)
{
	struct qcow2_check chk = { .report = remember };
	struct qcow2_error error = {};
	int ret;

	*why = 0;
	ret = qcow2_check(disk.ops, &disk, &chk, &error);
	states++;
	if (!ret && !chk.errors)
		return;
	if (wrong++ < 10)
		printf("entries %llu to %llu, %s: %s\n",
		       (unsigned long long)from, (unsigned long long)to, what,
		       ret ? error.msg : why);
}

static void save(struct undo *u, const struct entry *e)
{
	u->offset = e->offset;
	u->len = e->len;
	u->old = malloc(e->len + 1);
	if (!u->old)
		err(1, "undo");
	memcpy(u->old, disk.data + e->offset, e->len);
}

/* Some of what follows the last flush, one of it torn at a sector. */
static void random_subset(uint64_t from, uint64_t to)
{
	uint64_t torn = from + random() % (to - from), i, n = 0;
	struct undo *undo = calloc(to - from, sizeof(*undo));

	if (!undo)
		err(1, "undo");
	for (i = from; i < to; i++) {
		struct entry *e = &entries[i];
		uint64_t len = e->len;

		if (!is_write(e) || (!(e->flags & FUA) && random() % 2))
			continue;
		if (i == torn && !(e->flags & FUA))
			len = random() % (len / 512) * 512;
		save(&undo[n++], e);
		apply(e, len);
	}
	check(from, to, "a part of them");
	while (n--) {
		memcpy(disk.data + undo[n].offset, undo[n].old, undo[n].len);
		free(undo[n].old);
	}
	free(undo);
}

/*
 * @from: the first entry that counts; before it there may be no image. In every
 * window between two flushes @subsets random ones, then what there is after each
 * of its writes in their order.
 */
static void all_states(uint64_t from, unsigned int subsets)
{
	uint64_t i, end;
	unsigned int n;

	for (i = 0; i < from; i++)
		apply(&entries[i], entries[i].len);
	for (; i < nr_entries; i = end) {
		for (end = i; end < nr_entries && !(entries[end].flags & FLUSH);)
			end++;
		for (n = 0; n < subsets && end - i > 1; n++)
			random_subset(i, end);
		/* a flush may have data of its own */
		end = min(end + 1, nr_entries);
		for (from = i; i < end; i++) {
			apply(&entries[i], entries[i].len);
			if (is_write(&entries[i]))
				check(from, i, "all of them");
		}
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "to") && strcmp(what, "states")) {
		fprintf(stderr,
			"Usage: replay to LOG MARK FILE\n"
			"       replay states LOG MARK SUBSETS SEED\n"
			"\n"
			"Write what the disk had at a mark to a file or device; or check the qcow2\n"
			"image on it in each state that a crash after the mark could have left.\n");
		return 2;
	}
	if (argc != (*what == 't' ? 5 : 6))
		errx(2, "wrong number of arguments");
	read_log(argv[2]);
	mem_init(&disk, MEM_FILE, 0);
	if (disk_size > disk.capacity)
		errx(1, "a disk of %llu bytes is too large",
		     (unsigned long long)disk_size);
	disk.size = disk_size;
	if (*what == 't') {
		replay_to(argv[3], argv[4]);
		return 0;
	}
	srandom(atoi(argv[5]));
	all_states(after_mark(argv[3]), atoi(argv[4]));
	printf("%llu states of %llu entries, %llu with errors\n",
	       (unsigned long long)states, (unsigned long long)nr_entries,
	       (unsigned long long)wrong);
	return !states || wrong;
}
