// SPDX-License-Identifier: GPL-2.0-only
/*
 * Differential I/O: what a device does against what a plain file does.
 *
 * Jobs write to the device and to a model, a raw file, and compare what they
 * read from the two. The device is cut into extents of random length, most of
 * them short; each belongs to one job, so that jobs meet in one cluster all the
 * time but never in one sector, and what a sector holds is always known.
 *
 * Every sector written says of itself which sector it is, which job wrote it in
 * which operation of which run: a wrong one tells where it comes from.
 *
 * The same seed, jobs and size give the same operations of each job in the same
 * order (with -n; -t stops wherever it is by then).
 *
 * In a race jobs meet in sectors, too. Each reads what others write, and in every
 * third MiB each discards and zeroes what others write. A sector still belongs to
 * one job, the only one that writes data to it, in known order; so what is read
 * has to be that sector, and no older than what was there when the read began.
 *
 * With a ledger instead of a model it is for devices that lose their power: the
 * ledger has for every sector the generation that has to survive, which is the
 * last one that a flush has covered. After the power cut each sector has to
 * hold that generation or a later one.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512u
#define MAX_JOBS 64u
#define MAX_IO (4u << 20)
#define MAX_EXTENT (2u << 20)
#define MAX_PIECES 4
/* What the memory of direct I/O has to be aligned to; a page has more. */
#define MEM_ALIGN 512u
#define MEM_SLACK (8u * MEM_ALIGN)
#define MAX_COMPLAINTS 10
/* In a race: what a zone is, and what others discard in it, in bytes. */
#define ZONE (1u << 20)
#define GRAIN (64u << 10)
#define STAMP_MAGIC 0x6f69666669643a29ull
#define LEDGER_MAGIC 0x726567646c3a2931ull

/* The first bytes of a written sector; the rest follows from them. */
struct stamp {
	uint64_t magic;
	uint64_t sector;
	uint64_t generation;
	uint64_t seed;
	uint64_t check;
};

#define WORDS (SECTOR / 8)
#define STAMP_WORDS (sizeof(struct stamp) / 8)

/* What has to survive a power cut. */
struct ledger {
	uint64_t magic;
	uint64_t sectors;
	uint64_t jobs;
	uint64_t last;		/* operation of any job so far */
	uint64_t seed;
	uint64_t durable[];	/* by sector; 0: never written */
};

/* A generation is a job and one of its operations. */
#define JOB_SHIFT 48

static uint64_t job_of(uint64_t generation)
{
	return generation >> JOB_SHIFT;
}

static uint64_t operation_of(uint64_t generation)
{
	return generation & ((UINT64_C(1) << JOB_SHIFT) - 1);
}

struct extent {
	uint64_t start;		/* sectors */
	uint64_t len;
};

struct job {
	pthread_t thread;
	unsigned int number;
	uint64_t rng;
	uint64_t generation;
	struct extent *extents;
	size_t nr_extents;
	size_t room;
	unsigned char *io;	/* page aligned, MAX_IO and some slack */
	unsigned char *expected;
	unsigned char *scratch;	/* race: opt.align bytes */
	uint64_t *floors;	/* race: of the sectors that are being read */
	uint64_t *pending;	/* ledger: sectors written since the last flush */
	size_t nr_pending;
	size_t pending_room;
	uint64_t reads, writes, zeroes, discards, flushes, fuas, bytes;
	bool cut;		/* the device is gone */
};

static struct {
	const char *device, *model, *ledger;
	uint64_t seed, size, max_io, operations;
	double seconds;
	unsigned int jobs, align;
	bool read_only, verify, zero, race, ordered;
} opt = {
	.jobs = 4,
	.align = SECTOR,
	.max_io = 1u << 20,
	.seconds = 1,
};

static int device_fd = -1, model_fd = -1;
static struct ledger *ledger;
/*
 * In a race, by sector, generations of the job that it belongs to; 0: none yet.
 * settled: the last operation that is known to be there; what is older must not
 * be read again. zeroed: the last one that began to make it zeros.
 */
static uint64_t *settled, *zeroed;
static double deadline;
static unsigned int complaints;
static bool stop;
static pthread_mutex_t complaint_lock = PTHREAD_MUTEX_INITIALIZER;

static void usage(FILE *out)
{
	fputs("Usage: diffio [OPTION]... DEVICE MODEL\n"
	      "       diffio [OPTION]... -p LEDGER DEVICE\n"
	      "\n"
	      "Write to DEVICE and MODEL, a raw file of the same size, compare\n"
	      "what DEVICE reads, and in the end all of it.\n"
	      "\n"
	      "  -s SEED     of the random numbers (default: printed)\n"
	      "  -t SECONDS  how long (default: 1)\n"
	      "  -n COUNT    how many operations of each job, instead\n"
	      "  -j JOBS     at the same time (default: 4)\n"
	      "  -l BYTES    use only so much from the start of DEVICE\n"
	      "  -a BYTES    alignment of the I/O, 512 (default) or 4096\n"
	      "  -m BYTES    longest I/O (default: 1 MiB)\n"
	      "  -r          only read\n"
	      "  -v          only compare all of it\n"
	      "  -z          write zeroes and discard, too; what is discarded\n"
	      "              reads as zeros or, at its ends, as before\n"
	      "  -x          as -z, and jobs read, discard and zero what others write;\n"
	      "              MODEL is what was there before, and what is there after\n"
	      "  -p LEDGER   note in LEDGER what has to survive a power cut, end\n"
	      "              quietly when DEVICE fails; with -v check that it did\n"
	      "  -o          with -p: flush before a FUA write to what is not flushed,\n"
	      "              for logs that would have the older write after the newer\n"
	      "\n"
	      "Exit status: 0; 1 when something differs or fails; 2 bad arguments.\n",
	      out);
}

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *fmt, ...)
{
	int code = errno;
	va_list ap;

	va_start(ap, fmt);
	fputs("diffio: ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(code));
	exit(1);
}

/* Something is wrong with the device; say so, but not a thousand times. */
static void __attribute__((format(printf, 1, 2)))
complain(const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&complaint_lock);
	if (complaints++ < MAX_COMPLAINTS) {
		va_start(ap, fmt);
		fputs("diffio: ", stderr);
		vfprintf(stderr, fmt, ap);
		fputc('\n', stderr);
		va_end(ap);
	}
	pthread_mutex_unlock(&complaint_lock);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* ---------------------------------------------------------------- */

/* splitmix64, by Sebastiano Vigna, public domain. */
static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint64_t next(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15ull);
}

static uint64_t below(uint64_t *state, uint64_t limit)
{
	return next(state) % limit;
}

/* 1 to limit; every power of two is as likely as the next. */
static uint64_t log_uniform(uint64_t *state, uint64_t limit)
{
	unsigned int bits = 64 - __builtin_clzll(limit);
	uint64_t top = 1ull << below(state, bits);
	uint64_t n = top + below(state, top);

	return n < limit ? n : limit;
}

static uint64_t stamp_check(const struct stamp *s)
{
	return mix(s->sector ^ mix(s->generation ^ mix(s->seed)));
}

static void fill_sector(void *sector, uint64_t number, uint64_t generation)
{
	struct stamp s = { STAMP_MAGIC, number, generation, opt.seed, 0 };
	uint64_t *word = sector, step;
	unsigned int i;

	s.check = stamp_check(&s);
	step = s.check | 1;
	memcpy(sector, &s, sizeof(s));
	for (i = STAMP_WORDS; i < WORDS; i++)
		word[i] = s.check + i * step;
}

static bool is_zero(const void *sector)
{
	const uint64_t *word = sector;
	unsigned int i;

	for (i = 0; i < WORDS; i++)
		if (word[i])
			return false;
	return true;
}

/* A sector that one operation has written, whole and unharmed. */
static bool is_stamped(const void *sector, struct stamp *s)
{
	const uint64_t *word = sector;
	unsigned int i;

	memcpy(s, sector, sizeof(*s));
	if (s->magic != STAMP_MAGIC || s->check != stamp_check(s))
		return false;
	for (i = STAMP_WORDS; i < WORDS; i++)
		if (word[i] != s->check + i * (s->check | 1))
			return false;
	return true;
}

static const char *describe(const void *sector, char *text, size_t size)
{
	const unsigned char *byte = sector;
	struct stamp s;

	if (is_zero(sector))
		return "zeros";
	if (is_stamped(sector, &s))
		snprintf(text, size,
			 "sector %#" PRIx64 ", job %" PRIu64
			 " operation %" PRIu64 ", seed %" PRIu64,
			 s.sector, job_of(s.generation),
			 operation_of(s.generation), s.seed);
	else if (s.magic == STAMP_MAGIC)
		snprintf(text, size, "a torn sector %#" PRIx64, s.sector);
	else
		snprintf(text, size, "unknown bytes %02x %02x %02x %02x ...",
			 byte[0], byte[1], byte[2], byte[3]);
	return text;
}

/* ---------------------------------------------------------------- */

static bool all_of(ssize_t done, size_t len, const char *what, uint64_t offset)
{
	if (done == (ssize_t)len)
		return true;
	if (done < 0)
		complain("%s of %zu bytes at %#" PRIx64 ": %s", what, len, offset,
			 strerror(errno));
	else
		complain("%s of %zu bytes at %#" PRIx64 ": only %zd", what, len,
			 offset, done);
	return false;
}

/* The last sector of a device may be past the end of the file behind it. */
static void read_model(void *buf, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(model_fd, (char *)buf + done, len - done,
				  offset + done);

		if (n < 0)
			die("%s", opt.model);
		if (n == 0)
			break;
		done += n;
	}
	memset((char *)buf + done, 0, len - done);
}

static void write_model(const void *buf, size_t len, uint64_t offset)
{
	if (pwrite(model_fd, buf, len, offset) != (ssize_t)len)
		die("%s", opt.model);
}

static void compare(const unsigned char *got, const unsigned char *expected,
		    size_t len, uint64_t offset, const char *when)
{
	char is[120], should[120];
	size_t i, bad = 0;

	if (!memcmp(got, expected, len))
		return;
	for (i = 0; i < len; i += SECTOR) {
		if (!memcmp(got + i, expected + i, SECTOR))
			continue;
		if (bad++ < 3)
			complain("sector %#" PRIx64 " holds %s instead of %s (%s of %zu bytes at %#"
				 PRIx64 ")",
				 (offset + i) / SECTOR,
				 describe(got + i, is, sizeof(is)),
				 describe(expected + i, should, sizeof(should)),
				 when, len, offset);
	}
	complain("%zu sectors differ in %zu bytes at %#" PRIx64, bad, len, offset);
}

/* ---------------------------------------------------------------- */

/* Where everybody may discard and zero. */
static bool is_common(uint64_t sector)
{
	return sector / (ZONE / SECTOR) % 3 == 0;
}

/* What is read from now on must not be older. */
static void note_floors(struct job *j, uint64_t start, uint64_t len)
{
	uint64_t i;

	for (i = 0; i < len; i++)
		j->floors[i] = __atomic_load_n(&settled[start + i],
					       __ATOMIC_ACQUIRE);
}

/* An operation on sectors of the job is about to begin, and is done. */
static void begin_zeros(struct job *j, uint64_t start, uint64_t len)
{
	j->generation++;
	while (opt.race && len--)
		__atomic_store_n(&zeroed[start + len], j->generation,
				 __ATOMIC_RELEASE);
}

static void settle(struct job *j, uint64_t start, uint64_t len)
{
	while (len--)
		__atomic_store_n(&settled[start + len], j->generation,
				 __ATOMIC_RELEASE);
}

enum verdict { FINE, WRONG, TORN };

/* What a sector that was read may hold. @before: what it held before the race. */
static enum verdict judge(const void *sector, uint64_t number, uint64_t floor,
			  const void *before)
{
	uint64_t zero = __atomic_load_n(&zeroed[number], __ATOMIC_ACQUIRE);
	struct stamp s;

	if (!floor && !memcmp(sector, before, SECTOR))
		return FINE;
	if (is_zero(sector))
		return is_common(number) || (zero && zero >= floor) ? FINE : WRONG;
	if (!is_stamped(sector, &s))
		return TORN;
	return s.sector == number && s.seed == opt.seed &&
		s.generation >= floor ? FINE : WRONG;
}

/*
 * A read that meets a write may see a part of it, and so may one after it if it
 * meets the next. Sooner or later one is whole.
 */
static enum verdict read_again(struct job *j, void *sector, uint64_t number,
			       uint64_t *floor, const void *before)
{
	uint64_t unit = opt.align / SECTOR;
	enum verdict v = TORN;
	int tries;

	for (tries = 0; v == TORN && tries < 1000; tries++) {
		usleep(1000);
		*floor = __atomic_load_n(&settled[number], __ATOMIC_ACQUIRE);
		if (!all_of(pread(device_fd, j->scratch, opt.align,
				  number / unit * opt.align), opt.align, "read",
			    number * SECTOR))
			return FINE; /* has been said */
		memcpy(sector, j->scratch + number % unit * SECTOR, SECTOR);
		v = judge(sector, number, *floor, before);
	}
	return v;
}

/* What a read gave that began after note_floors(). */
static void judge_all(struct job *j, unsigned char *buf, uint64_t start,
		      uint64_t len, const char *when)
{
	char is[120];
	uint64_t i, bad = 0;

	read_model(j->expected, len * SECTOR, start * SECTOR);
	for (i = 0; i < len; i++) {
		const void *before = j->expected + i * SECTOR;
		void *sector = buf + i * SECTOR;
		uint64_t floor = j->floors[i];
		enum verdict v = judge(sector, start + i, floor, before);

		if (v == TORN)
			v = read_again(j, sector, start + i, &floor, before);
		if (v == FINE || bad++ >= 3)
			continue;
		complain("sector %#" PRIx64 " holds %s instead of job %" PRIu64
			 " operation %" PRIu64 " or later (%s of %" PRIu64
			 " bytes at %#" PRIx64 ")", start + i,
			 describe(sector, is, sizeof(is)), job_of(floor),
			 operation_of(floor), when, len * SECTOR, start * SECTOR);
	}
	if (bad)
		complain("%" PRIu64 " sectors are wrong in %" PRIu64 " bytes at %#"
			 PRIx64, bad, len * SECTOR, start * SECTOR);
}

/* ---------------------------------------------------------------- */

static void add_extent(struct job *j, uint64_t start, uint64_t len)
{
	if (j->nr_extents == j->room) {
		j->room = j->room ? 2 * j->room : 256;
		j->extents = realloc(j->extents, j->room * sizeof(*j->extents));
		if (!j->extents)
			die("memory");
	}
	j->extents[j->nr_extents++] = (struct extent){ start, len };
}

/*
 * Who owns what depends on the size and the number of jobs alone, so that a
 * later run with another seed goes on where the last one stopped.
 */
static void deal(struct job *jobs)
{
	uint64_t unit = opt.align / SECTOR;
	uint64_t end = opt.size / opt.align, pos = 0;
	uint64_t rng = mix(opt.size) ^ opt.jobs;
	unsigned int i;

	while (pos < end) {
		uint64_t len = log_uniform(&rng, MAX_EXTENT / opt.align);

		if (len > end - pos)
			len = end - pos;
		add_extent(&jobs[below(&rng, opt.jobs)], pos * unit, len * unit);
		pos += len;
	}
	for (i = 0; i < opt.jobs; i++)
		if (!jobs[i].nr_extents) {
			fprintf(stderr, "diffio: too small for %u jobs\n", opt.jobs);
			exit(2);
		}
}

/*
 * Where the next operation goes. Every second one stays among few extents, so
 * that there are overwrites and reads of what was written just now; of the
 * others half favour the many short extents and half the few long ones.
 */
static void choose(struct job *j, uint64_t *start, uint64_t *len)
{
	uint64_t unit = opt.align / SECTOR, max;
	size_t few = j->nr_extents / 16 + 1;
	struct extent e;
	unsigned int tries = next(&j->rng) & 1 ? 1 : 4;

	if (next(&j->rng) & 1) {
		e = j->extents[below(&j->rng, few) * j->nr_extents / few];
	} else {
		e = j->extents[below(&j->rng, j->nr_extents)];
		while (--tries) {
			struct extent f = j->extents[below(&j->rng, j->nr_extents)];

			if (f.len > e.len)
				e = f;
		}
	}
	max = e.len < opt.max_io / SECTOR ? e.len : opt.max_io / SECTOR;
	if (next(&j->rng) % 8 == 0)
		*len = max / unit;
	else
		*len = log_uniform(&j->rng, max / unit);
	*start = e.start + below(&j->rng, e.len / unit - *len + 1) * unit;
	*len *= unit;
}

/* One I/O in up to four pieces of memory that begin anywhere in a page. */
static int pieces(struct job *j, struct iovec *v, size_t len)
{
	unsigned char *buf = j->io + below(&j->rng, MEM_SLACK / MEM_ALIGN) * MEM_ALIGN;
	int n = 1 + below(&j->rng, MAX_PIECES), i;

	for (i = 0; i < n && len; i++) {
		size_t part = len;

		if (i < n - 1)
			part = (1 + below(&j->rng, len / opt.align)) * opt.align;
		v[i] = (struct iovec){ buf, part };
		buf += part;
		len -= part;
	}
	return i;
}

static void do_read(struct job *j, uint64_t start, uint64_t len)
{
	struct iovec v[MAX_PIECES];
	int n = pieces(j, v, len * SECTOR);
	ssize_t done;

	if (opt.race)
		note_floors(j, start, len);
	done = preadv(device_fd, v, n, start * SECTOR);
	j->reads++;
	if (opt.ledger) {
		j->cut = done != (ssize_t)(len * SECTOR);
		return;
	}
	if (!all_of(done, len * SECTOR, "read", start * SECTOR))
		return;
	if (opt.race) {
		judge_all(j, v[0].iov_base, start, len, "read");
		return;
	}
	read_model(j->expected, len * SECTOR, start * SECTOR);
	compare(v[0].iov_base, j->expected, len * SECTOR, start * SECTOR, "read");
}

static void note_pending(struct job *j, uint64_t start, uint64_t len)
{
	while (len--) {
		if (j->nr_pending == j->pending_room) {
			j->pending_room = j->pending_room ? 2 * j->pending_room : 4096;
			j->pending = realloc(j->pending, j->pending_room *
					     2 * sizeof(*j->pending));
			if (!j->pending)
				die("memory");
		}
		j->pending[2 * j->nr_pending] = start++;
		j->pending[2 * j->nr_pending + 1] = j->generation;
		j->nr_pending++;
	}
}

static void note_durable(uint64_t sector, uint64_t generation)
{
	if (ledger->durable[sector] < generation)
		ledger->durable[sector] = generation;
}

static bool is_pending(const struct job *j, uint64_t start, uint64_t len)
{
	size_t i;

	for (i = 0; i < j->nr_pending; i++)
		if (j->pending[2 * i] - start < len)
			return true;
	return false;
}

/* A power cut ends a job; anything else that fails is for the verdict. */
static void wrote(struct job *j, uint64_t start, uint64_t len, bool fua)
{
	uint64_t i;

	if (opt.race) {
		settle(j, start, len);
		return;
	}
	if (!opt.ledger) {
		write_model(j->expected, len * SECTOR, start * SECTOR);
		return;
	}
	if (!fua) {
		note_pending(j, start, len);
		return;
	}
	for (i = start; i < start + len; i++)
		note_durable(i, j->generation);
}

static void do_flush(struct job *j)
{
	size_t i;

	j->flushes++;
	if (fdatasync(device_fd)) {
		if (opt.ledger)
			j->cut = true;
		else
			complain("flush: %s", strerror(errno));
		return;
	}
	for (i = 0; i < j->nr_pending; i++)
		note_durable(j->pending[2 * i], j->pending[2 * i + 1]);
	j->nr_pending = 0;
}

static void do_write(struct job *j, uint64_t start, uint64_t len)
{
	bool fua = next(&j->rng) % 8 == 0;
	struct iovec v[MAX_PIECES];
	int n = pieces(j, v, len * SECTOR);
	unsigned char *buf = v[0].iov_base;
	ssize_t done;
	uint64_t i;

	if (fua && opt.ordered && is_pending(j, start, len))
		do_flush(j);
	j->generation++;
	for (i = 0; i < len; i++)
		fill_sector(buf + i * SECTOR, start + i, j->generation);
	memcpy(j->expected, buf, len * SECTOR);
	done = pwritev2(device_fd, v, n, start * SECTOR, fua ? RWF_DSYNC : 0);
	j->writes++;
	j->fuas += fua;
	if (opt.ledger && done != (ssize_t)(len * SECTOR)) {
		j->cut = true;
		return;
	}
	if (!all_of(done, len * SECTOR, fua ? "FUA write" : "write", start * SECTOR))
		return;
	/* what was sent must not change under the device */
	if (memcmp(buf, j->expected, len * SECTOR))
		complain("a write of %" PRIu64 " bytes at %#" PRIx64 " changed its memory",
			 len * SECTOR, start * SECTOR);
	wrote(j, start, len, fua);
}

static bool range_ioctl(const char *what, unsigned long request, uint64_t start,
			uint64_t len)
{
	uint64_t range[2] = { start * SECTOR, len * SECTOR };

	if (!ioctl(device_fd, request, range))
		return true;
	complain("%s of %" PRIu64 " bytes at %#" PRIx64 ": %s", what, range[1],
		 range[0], strerror(errno));
	return false;
}

/* Write-zeroes that keeps the space, or one that gives it back. */
static bool zero_range(struct job *j, uint64_t start, uint64_t len)
{
	j->zeroes++;
	if (next(&j->rng) & 1)
		return range_ioctl("write-zeroes", BLKZEROOUT, start, len);
	if (!fallocate(device_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		       start * SECTOR, len * SECTOR))
		return true;
	complain("hole of %" PRIu64 " bytes at %#" PRIx64 ": %s", len * SECTOR,
		 start * SECTOR, strerror(errno));
	return false;
}

static void do_zero(struct job *j, uint64_t start, uint64_t len)
{
	begin_zeros(j, start, len);
	if (!zero_range(j, start, len))
		return;
	if (opt.race) {
		settle(j, start, len);
		return;
	}
	memset(j->expected, 0, len * SECTOR);
	write_model(j->expected, len * SECTOR, start * SECTOR);
}

/* Each sector is zeros now, or what it was. */
static void do_discard(struct job *j, uint64_t start, uint64_t len)
{
	uint64_t i;

	begin_zeros(j, start, len);
	j->discards++;
	if (opt.race)
		note_floors(j, start, len);
	if (!range_ioctl("discard", BLKDISCARD, start, len) ||
	    !all_of(pread(device_fd, j->io, len * SECTOR, start * SECTOR),
		    len * SECTOR, "read", start * SECTOR))
		return;
	if (opt.race) {
		judge_all(j, j->io, start, len, "discard");
		for (i = 0; i < len; i++)
			if (is_zero(j->io + i * SECTOR))
				settle(j, start + i, 1);
		return;
	}
	read_model(j->expected, len * SECTOR, start * SECTOR);
	for (i = 0; i < len * SECTOR; i += SECTOR)
		if (is_zero(j->io + i))
			memset(j->expected + i, 0, SECTOR);
	compare(j->io, j->expected, len * SECTOR, start * SECTOR, "discard");
	write_model(j->expected, len * SECTOR, start * SECTOR);
}

/* Reads what belongs to anybody. */
static void do_look(struct job *j)
{
	uint64_t unit = opt.align / SECTOR, end = opt.size / opt.align;
	uint64_t most = opt.max_io / opt.align, len;

	len = log_uniform(&j->rng, most < end ? most : end);
	do_read(j, below(&j->rng, end - len + 1) * unit, len * unit);
	j->bytes += len * opt.align;
}

/* Discards or zeroes what belongs to anybody, in whole clusters. */
static void do_upset(struct job *j)
{
	uint64_t zones = (opt.size / ZONE + 2) / 3, grains = ZONE / GRAIN;
	uint64_t len = log_uniform(&j->rng, grains), start;

	start = below(&j->rng, zones) * 3 * ZONE +
		below(&j->rng, grains - len + 1) * GRAIN;
	if (start + len * GRAIN > opt.size)
		return;
	if (next(&j->rng) & 1) {
		j->discards++;
		range_ioctl("discard", BLKDISCARD, start / SECTOR,
			    len * GRAIN / SECTOR);
	} else {
		zero_range(j, start / SECTOR, len * GRAIN / SECTOR);
	}
}

/*
 * One operation in a race; returns false where it is like any other. A cluster
 * that loses its entry is free after the second commit, and given out again by
 * the next write: while who reads it is still at it, if there is no wait.
 */
static bool race(struct job *j, unsigned int what)
{
	if (what >= 85) {
		do_look(j);
		return true;
	}
	if (what < 75)
		return false;
	do_upset(j);
	if (next(&j->rng) & 1) {
		do_flush(j);
		do_flush(j);
	}
	return true;
}

static void *run_job(void *arg)
{
	struct job *j = arg;
	uint64_t n;

	if (opt.ordered)
		do_flush(j); /* what an earlier run has written */
	for (n = 0; !opt.operations || n < opt.operations; n++) {
		unsigned int what = below(&j->rng, 100);
		uint64_t start, len;

		if (__atomic_load_n(&stop, __ATOMIC_RELAXED) || j->cut ||
		    (!opt.operations && now() >= deadline))
			break;
		if (opt.race && race(j, what))
			continue;
		choose(j, &start, &len);
		if (!opt.read_only && what < 2) {
			do_flush(j);
			continue;
		}
		if (opt.read_only || what >= 60)
			do_read(j, start, len);
		else if (opt.zero && what < 10)
			do_zero(j, start, len);
		else if (opt.zero && what < 18)
			do_discard(j, start, len);
		else
			do_write(j, start, len);
		j->bytes += len * SECTOR;
	}
	return NULL;
}

/* ---------------------------------------------------------------- */

static void check_sector(const void *sector, uint64_t number)
{
	uint64_t durable = ledger->durable[number];
	struct stamp s;
	char text[120];

	if (is_zero(sector)) {
		if (durable)
			complain("sector %#" PRIx64 " holds zeros, operation %" PRIu64
				 " of job %" PRIu64 " is lost",
				 number, operation_of(durable), job_of(durable));
		return;
	}
	if (!is_stamped(sector, &s) || s.sector != number ||
	    s.seed != ledger->seed) {
		complain("sector %#" PRIx64 " holds %s", number,
			 describe(sector, text, sizeof(text)));
		return;
	}
	if (s.generation < durable)
		complain("sector %#" PRIx64 " holds %s, operation %" PRIu64 " is lost",
			 number, describe(sector, text, sizeof(text)),
			 operation_of(durable));
	/* what has been read back is on the disk */
	ledger->durable[number] = s.generation;
}

/* All of the device against all of the model. */
static void compare_all(struct job *j)
{
	uint64_t pos;

	for (pos = 0; pos < opt.size && complaints < MAX_COMPLAINTS; ) {
		size_t len = opt.size - pos < (1u << 20) ? opt.size - pos : 1u << 20;
		uint64_t i;

		if (!all_of(pread(device_fd, j->io, len, pos), len, "read", pos))
			return;
		if (opt.race) {
			note_floors(j, pos / SECTOR, len / SECTOR);
			judge_all(j, j->io, pos / SECTOR, len / SECTOR,
				  "final read");
			write_model(j->io, len, pos);
		} else if (opt.ledger) {
			for (i = 0; i < len; i += SECTOR)
				check_sector(j->io + i, (pos + i) / SECTOR);
		} else {
			read_model(j->expected, len, pos);
			compare(j->io, j->expected, len, pos, "final read");
		}
		pos += len;
	}
}

/* ---------------------------------------------------------------- */

static uint64_t size_of(int fd, const char *name)
{
	struct stat st;
	uint64_t size;

	if (fstat(fd, &st))
		die("%s", name);
	if (!S_ISBLK(st.st_mode))
		return st.st_size;
	if (ioctl(fd, BLKGETSIZE64, &size))
		die("%s", name);
	return size;
}

static uint64_t *by_sector(void)
{
	uint64_t *p = calloc(opt.size / SECTOR, sizeof(*p));

	if (!p)
		die("memory");
	return p;
}

static void open_ledger(void)
{
	size_t bytes = sizeof(*ledger) + opt.size / SECTOR * sizeof(uint64_t);
	int fd = open(opt.ledger, O_RDWR | O_CREAT, 0666);

	if (fd < 0 || ftruncate(fd, bytes))
		die("%s", opt.ledger);
	ledger = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == MAP_FAILED)
		die("%s", opt.ledger);
	close(fd);
	if (!ledger->magic) {
		ledger->magic = LEDGER_MAGIC;
		ledger->sectors = opt.size / SECTOR;
		ledger->jobs = opt.jobs;
		ledger->seed = opt.seed;
	}
	errno = EINVAL;
	if (ledger->magic != LEDGER_MAGIC || ledger->jobs != opt.jobs ||
	    ledger->sectors != opt.size / SECTOR)
		die("%s is of another device or number of jobs", opt.ledger);
}

static bool is_file(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode);
}

static void open_files(void)
{
	int flags = opt.read_only ? O_RDONLY : O_RDWR;
	uint64_t size;

	device_fd = open(opt.device, flags | O_DIRECT);
	if (device_fd < 0 && errno == EINVAL && is_file(opt.device))
		device_fd = open(opt.device, flags); /* an older tmpfs */
	if (device_fd < 0)
		die("%s", opt.device);
	size = size_of(device_fd, opt.device);
	if (opt.size > size) {
		errno = ENOSPC;
		die("%s has only %" PRIu64 " bytes", opt.device, size);
	}
	if (!opt.size)
		opt.size = size;
	opt.size -= opt.size % opt.align;
	if (opt.ledger) {
		open_ledger();
		return;
	}
	model_fd = open(opt.model, flags);
	if (model_fd < 0)
		die("%s", opt.model);
	if (opt.race) {
		settled = by_sector();
		zeroed = by_sector();
	}
}

static uint64_t parse_number(const char *text, uint64_t low, uint64_t high)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || end == text || *end || n < low || n > high) {
		fprintf(stderr, "diffio: \"%s\" is not a number from %" PRIu64 " to %" PRIu64 "\n",
			text, low, high);
		exit(2);
	}
	return n;
}

static void parse_options(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	bool seeded = false;
	int c;

	while ((c = getopt_long(argc, argv, "s:t:n:j:l:a:m:rvzxop:h", long_options,
				NULL)) != -1) {
		switch (c) {
		case 's':
			opt.seed = parse_number(optarg, 0, UINT64_MAX);
			seeded = true;
			break;
		case 't':
			opt.seconds = parse_number(optarg, 0, 1000000);
			break;
		case 'n':
			opt.operations = parse_number(optarg, 1, UINT64_MAX);
			break;
		case 'j':
			opt.jobs = parse_number(optarg, 1, MAX_JOBS);
			break;
		case 'l':
			opt.size = parse_number(optarg, SECTOR, INT64_MAX);
			break;
		case 'a':
			opt.align = parse_number(optarg, SECTOR, 4096) & ~(SECTOR - 1);
			break;
		case 'm':
			opt.max_io = parse_number(optarg, 4096, MAX_IO);
			break;
		case 'r':
			opt.read_only = true;
			break;
		case 'v':
			opt.read_only = true;
			opt.verify = true;
			break;
		case 'z':
			opt.zero = true;
			break;
		case 'x':
			opt.zero = true;
			opt.race = true;
			break;
		case 'o':
			opt.ordered = true;
			break;
		case 'p':
			opt.ledger = optarg;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (argc - optind != (opt.ledger ? 1 : 2)) {
		usage(stderr);
		exit(2);
	}
	opt.device = argv[optind];
	opt.model = argv[optind + 1];
	if (!seeded && getrandom(&opt.seed, 4, 0) != 4)
		die("getrandom");
}

static void *pages(size_t size)
{
	void *p = aligned_alloc(4096, size);

	if (!p)
		die("memory");
	return p;
}

static struct job *make_jobs(void)
{
	struct job *jobs = calloc(opt.jobs, sizeof(*jobs));
	unsigned int i;

	if (!jobs)
		die("memory");
	for (i = 0; i < opt.jobs; i++) {
		struct job *j = &jobs[i];

		j->number = i;
		j->rng = mix(opt.seed + i);
		j->generation = (uint64_t)i << JOB_SHIFT;
		if (ledger) {
			j->generation |= ledger->last;
			j->rng ^= mix(ledger->last);
		}
		j->io = pages(MAX_IO + MEM_SLACK);
		j->expected = pages(MAX_IO + MEM_SLACK);
		j->scratch = pages(4096);
		j->floors = pages(MAX_IO / SECTOR * sizeof(*j->floors));
	}
	deal(jobs);
	return jobs;
}

static void run_jobs(struct job *jobs)
{
	unsigned int i;

	for (i = 0; i < opt.jobs; i++)
		if (pthread_create(&jobs[i].thread, NULL, run_job, &jobs[i]))
			die("pthread_create");
	for (i = 0; i < opt.jobs; i++)
		pthread_join(jobs[i].thread, NULL);
}

static void free_jobs(struct job *jobs)
{
	unsigned int i;

	for (i = 0; i < opt.jobs; i++) {
		free(jobs[i].extents);
		free(jobs[i].io);
		free(jobs[i].expected);
		free(jobs[i].scratch);
		free(jobs[i].floors);
		free(jobs[i].pending);
	}
	free(jobs);
}

static void report(const struct job *jobs, double seconds)
{
	uint64_t reads = 0, writes = 0, fuas = 0, flushes = 0, bytes = 0;
	uint64_t zeroes = 0, discards = 0;
	unsigned int i;
	bool cut = false;

	for (i = 0; i < opt.jobs; i++) {
		reads += jobs[i].reads;
		writes += jobs[i].writes;
		fuas += jobs[i].fuas;
		flushes += jobs[i].flushes;
		zeroes += jobs[i].zeroes;
		discards += jobs[i].discards;
		bytes += jobs[i].bytes;
		cut |= jobs[i].cut;
		if (ledger && ledger->last < operation_of(jobs[i].generation))
			ledger->last = operation_of(jobs[i].generation);
	}
	printf("%" PRIu64 " reads, %" PRIu64 " writes (%" PRIu64 " FUA), %" PRIu64
	       " flushes, %" PRIu64 " write-zeroes, %" PRIu64
	       " discards, %.1f MB in %.1f s%s\n",
	       reads, writes, fuas, flushes, zeroes, discards, bytes / 1e6, seconds,
	       cut ? ", until the device failed" : "");
}

int main(int argc, char **argv)
{
	struct job *jobs;
	double start;

	parse_options(argc, argv);
	open_files();
	/* one ledger, one seed: of several runs each goes on with the next */
	if (ledger)
		opt.seed = ledger->seed;
	printf("seed %" PRIu64 ", %u jobs, %" PRIu64 " bytes\n", opt.seed, opt.jobs,
	       opt.size);
	fflush(stdout);
	jobs = make_jobs();
	start = now();
	deadline = start + opt.seconds;
	if (!opt.verify) {
		run_jobs(jobs);
		report(jobs, now() - start);
	}
	if (!complaints && (opt.verify || !opt.ledger))
		compare_all(&jobs[0]);
	free_jobs(jobs);
	if (complaints > MAX_COMPLAINTS)
		fprintf(stderr, "diffio: and %u more\n", complaints - MAX_COMPLAINTS);
	return complaints ? 1 : 0;
}
