// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load under memory pressure.
 *
 * Jobs write, read, zero and sync files of a folder, or regions of a device,
 * through the page cache or past it. Every block says which block of which job
 * it is and how often it has been written; a ledger, a small file that is to lie
 * where memory is no question, knows what each has to say. -v compares all of it,
 * after a remount or on another day.
 *
 * -H is the neighbour that takes the memory away: it dirties its pages, one at
 * random after the other, and compares what it finds in them, which is how a
 * page shows that went to a swap area and has come back as another.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define WORDS (BLOCK / sizeof(uint64_t))
#define MAX_RUN 256u
#define MAX_JOBS 64u
#define MAGIC 0x7072657373757265ull

struct ledger {
	uint64_t magic;
	uint64_t jobs;
	uint64_t blocks;	/* of each job */
	uint64_t seed;
	uint32_t generation[];	/* 0: reads as zeros */
};

struct job {
	pthread_t thread;
	unsigned int number;
	int fd;
	uint64_t base;		/* of its region, in bytes */
	uint64_t rng;
	uint32_t *generation;
	uint64_t *data;
	uint64_t expected[WORDS];
	uint64_t written;
	uint64_t compared;
	uint64_t zeroed;
	uint64_t syncs;
	uint64_t waits;
};

static struct ledger *ledger;
static struct job jobs[MAX_JOBS];
static const char *target;
static uint64_t limit_written;
static double deadline;
static bool direct;
static bool patient;
static bool is_device;
static volatile sig_atomic_t stop;
static unsigned int failed;

static void on_signal(int number)
{
	stop = 1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
	fprintf(stderr, "pressure: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void fill(uint64_t *data, uint64_t seed, uint64_t job, uint64_t block,
		 uint32_t generation)
{
	uint64_t word;
	size_t i;

	if (!generation) {
		memset(data, 0, BLOCK);
		return;
	}
	data[0] = MAGIC;
	data[1] = seed;
	data[2] = job << 32 | generation;
	data[3] = block;
	word = (seed ^ job << 56 ^ block << 24 ^ generation) | 1;
	for (i = 4; i < WORDS; i++) {
		word *= 0xd1342543de82ef95ull;
		data[i] = word;
	}
}

/* One block against what it has to be. */
static bool right(const char *where, const uint64_t *data, uint64_t *expected,
		  uint64_t job, uint64_t block, uint32_t generation)
{
	size_t i = 0;

	fill(expected, ledger->seed, job, block, generation);
	if (!memcmp(data, expected, BLOCK))
		return true;
	while (data[i] == expected[i])
		i++;
	fprintf(stderr, "pressure: %s: wrong from byte %zu of block %" PRIu64
		" of job %" PRIu64 ", generation %" PRIu32 ": %016" PRIx64
		" instead of %016" PRIx64 "; the block says %016" PRIx64
		" seed %" PRIu64 " job %" PRIu64 " generation %" PRIu64
		" block %" PRIu64 "\n", where, i * sizeof(*data), block, job,
		generation, data[i], expected[i], data[0], data[1],
		data[2] >> 32, data[2] & UINT32_MAX, data[3]);
	return false;
}

/* --- the jobs ------------------------------------------------------------ */

static bool complain(struct job *job, const char *what, uint64_t block)
{
	fprintf(stderr, "pressure: job %u: %s at block %" PRIu64 ": %s\n",
		job->number, what, block, strerror(errno));
	return false;
}

/* No space is waited for, if somebody is going to make some. */
static bool wait_for_space(struct job *job)
{
	if (!patient || errno != ENOSPC)
		return false;
	job->waits++;
	usleep(50000);
	return true;
}

static bool transfer(struct job *job, bool write, uint64_t block, size_t bytes)
{
	uint64_t at = job->base + block * BLOCK;
	char *data = (char *)job->data;
	ssize_t n;

	while (bytes) {
		n = write ? pwrite(job->fd, data, bytes, at) :
			pread(job->fd, data, bytes, at);
		if (n < 0 && (errno == EINTR || (write && wait_for_space(job))))
			continue;
		if (n <= 0) {
			if (!n)
				errno = ENODATA;
			return complain(job, write ? "write" : "read", block);
		}
		data += n;
		at += n;
		bytes -= n;
	}
	return true;
}

static bool write_run(struct job *job, uint64_t block, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		fill(job->data + i * WORDS, ledger->seed, job->number, block + i,
		     job->generation[block + i] + 1);
	if (!transfer(job, true, block, n * BLOCK))
		return false;
	for (i = 0; i < n; i++)
		job->generation[block + i]++;
	job->written += n;
	return true;
}

static bool read_run(struct job *job, uint64_t block, unsigned int n)
{
	unsigned int i;

	if (!transfer(job, false, block, n * BLOCK))
		return false;
	for (i = 0; i < n; i++)
		if (!right(target, job->data + i * WORDS, job->expected,
			   job->number, block + i, job->generation[block + i]))
			return false;
	job->compared += n;
	return true;
}

/* What lies below need not be able to. */
static bool zero_run(struct job *job, uint64_t block, unsigned int n)
{
	while (fallocate(job->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 job->base + block * BLOCK, (off_t)n * BLOCK)) {
		if (errno == EOPNOTSUPP)
			return true;
		if (errno != EINTR && !wait_for_space(job))
			return complain(job, "punch", block);
	}
	memset(job->generation + block, 0, n * sizeof(*job->generation));
	job->zeroed += n;
	return true;
}

static bool sync_job(struct job *job)
{
	job->syncs++;
	while (fsync(job->fd))
		if (!wait_for_space(job))
			return complain(job, "fsync", 0);
	return true;
}

static bool step(struct job *job)
{
	uint64_t r = next(&job->rng), block;
	unsigned int n = 1 + (r >> 8) % (r >> 32 & 3 ? 32 : MAX_RUN);

	block = next(&job->rng) % ledger->blocks;
	if (n > ledger->blocks - block)
		n = ledger->blocks - block;
	r &= 63;
	if (r < 40)
		return write_run(job, block, n);
	if (r < 58)
		return read_run(job, block, n);
	if (r < 61)
		return zero_run(job, block, n);
	return sync_job(job);
}

static void *work(void *arg)
{
	struct job *job = arg;
	bool good = true;

	while (good && !stop && !failed && now() < deadline &&
	       job->written * BLOCK < limit_written)
		good = step(job);
	if (!good || !sync_job(job))
		__atomic_add_fetch(&failed, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void *verify(void *arg)
{
	struct job *job = arg;
	uint64_t block;
	unsigned int n;

	for (block = 0; block < ledger->blocks; block += n) {
		n = ledger->blocks - block < MAX_RUN ?
			ledger->blocks - block : MAX_RUN;
		if (read_run(job, block, n))
			continue;
		__atomic_add_fetch(&failed, 1, __ATOMIC_RELAXED);
		break;
	}
	return NULL;
}

static void open_job(struct job *job, unsigned int number, bool write)
{
	int flags = (write ? O_RDWR | O_CREAT : O_RDONLY) |
		(direct ? O_DIRECT : 0);
	char path[4096];

	job->number = number;
	job->rng = ledger->seed * 1000003 + number;
	job->generation = ledger->generation + number * ledger->blocks;
	if (is_device) {
		job->base = number * ledger->blocks * BLOCK;
		job->fd = open(target, flags & ~O_CREAT);
	} else {
		snprintf(path, sizeof(path), "%s/job%u", target, number);
		job->fd = open(path, flags, 0600);
	}
	if (job->fd < 0)
		die(target);
	if (!is_device && write && ftruncate(job->fd, ledger->blocks * BLOCK))
		die("ftruncate");
	if (posix_memalign((void **)&job->data, BLOCK, MAX_RUN * BLOCK))
		die("memory");
}

static void open_ledger(const char *path, uint64_t nr, uint64_t blocks,
			uint64_t seed, bool verifying)
{
	int fd = open(path, O_RDWR | (verifying ? 0 : O_CREAT), 0600);
	struct stat st;
	size_t size;

	if (fd < 0 || fstat(fd, &st))
		die(path);
	size = st.st_size;
	if (!size && !verifying) {
		size = sizeof(*ledger) + nr * blocks * sizeof(uint32_t);
		if (ftruncate(fd, size))
			die(path);
	}
	ledger = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == MAP_FAILED)
		die(path);
	if (!ledger->magic)
		*ledger = (struct ledger){
			.magic = MAGIC, .jobs = nr, .blocks = blocks,
		};
	if (ledger->magic != MAGIC || ledger->jobs > MAX_JOBS) {
		errno = EINVAL;
		die(path);
	}
	if (!ledger->seed)
		ledger->seed = seed;
	close(fd);
}

/* --- the hog ------------------------------------------------------------- */

/* The size of what is written matters here, not what it is. */
static void fill_page(uint64_t *data, uint64_t page, uint32_t generation)
{
	memset(data, page * 31 + generation, BLOCK);
	data[0] = page << 32 | generation;
	data[WORDS - 1] = data[0];
}

static int hog(uint64_t mib)
{
	uint64_t pages = mib << 8, touched, page, rng = 1;
	uint64_t expected[WORDS], *memory;
	uint32_t *generation;

	generation = calloc(pages, sizeof(*generation));
	memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!generation || memory == MAP_FAILED)
		die("memory");
	for (page = 0; page < pages && !stop; page++)
		fill_page(memory + page * WORDS, page, 0);
	printf("hog: has %" PRIu64 " MiB\n", mib);
	fflush(stdout);
	for (touched = 0; !stop && now() < deadline; touched++) {
		page = next(&rng) % pages;
		fill_page(expected, page, generation[page]);
		if (memcmp(memory + page * WORDS, expected, BLOCK)) {
			fprintf(stderr, "hog: page %" PRIu64 " is wrong\n", page);
			return 1;
		}
		fill_page(memory + page * WORDS, page, ++generation[page]);
		/* the processor is for others, too */
		if (!(touched & 15))
			usleep(1000);
	}
	printf("hog: %" PRIu64 " pages compared and written\n", touched);
	return 0;
}

static void usage(void)
{
	fputs("Usage: pressure [OPTION]... TARGET LEDGER\n"
	      "       pressure -v [-d] TARGET LEDGER\n"
	      "       pressure -H MIB [-t SECONDS]\n\n"
	      "Write files of the folder TARGET, or that device, and compare what\n"
	      "is read; with -v, compare all of it; with -H, take memory.\n\n"
	      "  -s SEED     another order, and other contents (1)\n"
	      "  -j JOBS     threads (4)\n"
	      "  -m MIB      the size of each job's file or region (16)\n"
	      "  -t SECONDS  end after that time (until SIGTERM)\n"
	      "  -w MIB      or when each has written so much\n"
	      "  -d          direct I/O\n"
	      "  -e          wait where there is no space, and try again\n",
	      stderr);
	exit(2);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (!*text || *end)
		usage();
	return n;
}

int main(int argc, char **argv)
{
	uint64_t nr = 4, mib = 16, hog_mib = 0, seed = 1, sum[5] = { 0 }, i;
	struct sigaction action = { .sa_handler = on_signal };
	bool verifying = false;
	double start = now();
	struct stat st;
	int opt;

	deadline = 1e18;
	limit_written = UINT64_MAX;
	while ((opt = getopt(argc, argv, "s:j:m:t:w:H:dev")) != -1) {
		switch (opt) {
		case 's':
			seed = number(optarg);
			break;
		case 'j':
			nr = number(optarg);
			break;
		case 'm':
			mib = number(optarg);
			break;
		case 't':
			deadline = start + number(optarg);
			break;
		case 'w':
			limit_written = number(optarg) << 20;
			break;
		case 'H':
			hog_mib = number(optarg);
			break;
		case 'd':
			direct = true;
			break;
		case 'e':
			patient = true;
			break;
		case 'v':
			verifying = true;
			break;
		default:
			usage();
		}
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (hog_mib)
		return hog(hog_mib);
	if (argc - optind != 2 || !nr || nr > MAX_JOBS || !mib || !seed)
		usage();
	target = argv[optind];
	if (stat(target, &st))
		die(target);
	is_device = !S_ISDIR(st.st_mode);
	open_ledger(argv[optind + 1], nr, mib << 8, seed, verifying);
	nr = ledger->jobs;
	for (i = 0; i < nr; i++)
		open_job(&jobs[i], i, !verifying);
	/* not what an earlier run with this ledger has done */
	for (i = 0; i < nr; i++)
		jobs[i].rng ^= seed << 40;
	for (i = 0; i < nr; i++)
		if (pthread_create(&jobs[i].thread, NULL,
				   verifying ? verify : work, &jobs[i]))
			die("thread");
	for (i = 0; i < nr; i++) {
		pthread_join(jobs[i].thread, NULL);
		sum[0] += jobs[i].written;
		sum[1] += jobs[i].compared;
		sum[2] += jobs[i].zeroed;
		sum[3] += jobs[i].syncs;
		sum[4] += jobs[i].waits;
		if (close(jobs[i].fd))
			die("close");
	}
	printf("%s: wrote %" PRIu64 " MiB, compared %" PRIu64 ", zeroed %" PRIu64
	       ", %" PRIu64 " fsync, %" PRIu64 " times no space, in %.1f s\n",
	       target, sum[0] >> 8, sum[1] >> 8, sum[2] >> 8, sum[3], sum[4],
	       now() - start);
	return failed ? 1 : 0;
}
