// SPDX-License-Identifier: GPL-2.0
/*
 * qemu-img check in the background: see qemuimg.h. Most of what it takes is to be
 * linked, so each thread starts one that runs again and again.
 */
#include "../preload/again.h"
#include "qemuimg.h"

#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORKERS 8
#define QUEUE 16

#define PATH_SIZE 96

struct job {
	char path[PATH_SIZE];
	char what[256];
	int verdict;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct checker {
		pthread_t thread;
		pid_t pid;
		char path[PATH_SIZE];	/* always the same, its argument */
		int go, done;		/* our ends of its pipes */
	} checkers[MAX_WORKERS];
	unsigned int workers;
	char dir[64];
	struct job queue[QUEUE];
	unsigned int first, queued;
	bool ending;
	u64 number, checks, wrong;
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.changed = PTHREAD_COND_INITIALIZER,
};

int qemuimg_now(const char *path)
{
	char * const argv[] = {
		(char *)"qemu-img", (char *)"check", (char *)"-f",
		(char *)"qcow2", (char *)path, NULL,
	};
	posix_spawn_file_actions_t actions;
	int status, ret;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	ret = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret)
		return -1;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* build/tests/preload/again.so, seen from build/tests/GROUP/PROGRAM. */
static void preload(void)
{
	char self[PATH_MAX], path[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		abort();
	self[n] = 0;
	snprintf(path, sizeof(path), "%s/preload/again.so",
		 dirname(dirname(self)));
	if (access(path, R_OK)) {
		fprintf(stderr, "%s is missing; try 'make test'.\n", path);
		abort();
	}
	setenv("LD_PRELOAD", path, 1);
}

/* Closed in every child: only what is named for it is its own. */
static void make_pipe(int fd[2])
{
	if (pipe2(fd, O_CLOEXEC))
		abort();
}

/*
 * The descriptors that the child gets are moved out of the way of 3 and 4 first;
 * otherwise one could be overwritten, or keep O_CLOEXEC.
 */
static void start(unsigned int number)
{
	struct checker *c = &pool.checkers[number];
	char * const argv[] = {
		(char *)"qemu-img", (char *)"check", (char *)"-f",
		(char *)"qcow2", c->path, NULL,
	};
	posix_spawn_file_actions_t actions;
	int go[2], done[2], theirs[2];

	snprintf(c->path, sizeof(c->path), "%s/checker-%u", pool.dir, number);
	make_pipe(go);
	make_pipe(done);
	theirs[0] = fcntl(go[0], F_DUPFD_CLOEXEC, 10);
	theirs[1] = fcntl(done[1], F_DUPFD_CLOEXEC, 10);
	close(go[0]);
	close(done[1]);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, theirs[0], AGAIN_GO);
	posix_spawn_file_actions_adddup2(&actions, theirs[1], AGAIN_DONE);
	if (posix_spawnp(&c->pid, argv[0], &actions, NULL, argv, environ))
		abort();
	posix_spawn_file_actions_destroy(&actions);
	close(theirs[0]);
	close(theirs[1]);
	c->go = go[1];
	c->done = done[0];
}

static void end(struct checker *c)
{
	close(c->go);
	close(c->done);
	while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int check_again(struct checker *c, const char *path)
{
	int status;

	/* one that is missed would be taken for that of the next image */
	if (rename(path, c->path) || write(c->go, "", 1) != 1 ||
	    read(c->done, &status, sizeof(status)) != sizeof(status))
		abort();
	unlink(c->path);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void run(struct checker *c, const struct job *job)
{
	int status = check_again(c, job->path);

	pthread_mutex_lock(&pool.lock);
	pool.checks++;
	if (status != job->verdict) {
		if (pool.wrong++ < 10)
			printf("# qemu-img check says %d, not %d: %s\n", status,
			       job->verdict, job->what);
	}
	pthread_mutex_unlock(&pool.lock);
}

static void *worker(void *arg)
{
	struct checker *c = arg;
	struct job job;

	pthread_mutex_lock(&pool.lock);
	for (;;) {
		while (!pool.queued && !pool.ending)
			pthread_cond_wait(&pool.changed, &pool.lock);
		if (!pool.queued)
			break;
		job = pool.queue[pool.first++ % QUEUE];
		pool.queued--;
		pthread_cond_broadcast(&pool.changed);
		pthread_mutex_unlock(&pool.lock);
		run(c, &job);
		pthread_mutex_lock(&pool.lock);
	}
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

int qemuimg_start(unsigned int workers)
{
	const char *tmp = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
	unsigned int i;

	snprintf(pool.dir, sizeof(pool.dir), "%s/qemuimg.XXXXXX", tmp);
	if (!mkdtemp(pool.dir))
		return -errno;
	if (qemuimg_now("/dev/null") < 0) {
		rmdir(pool.dir);
		return -ENOENT;
	}
	pool.workers = min(workers, (unsigned int)MAX_WORKERS);
	pool.ending = false;
	pool.checks = 0;
	pool.wrong = 0;
	preload();
	for (i = 0; i < pool.workers; i++)
		start(i);
	unsetenv("LD_PRELOAD");
	for (i = 0; i < pool.workers; i++) {
		struct checker *c = &pool.checkers[i];

		if (pthread_create(&c->thread, NULL, worker, c))
			abort();
	}
	return 0;
}

void qemuimg_check(const struct membackend *be, int verdict, const char *what)
{
	struct job job = { .verdict = verdict };

	if (!pool.workers)
		return;
	snprintf(job.path, sizeof(job.path), "%s/%llu.qcow2", pool.dir,
		 (unsigned long long)pool.number++);
	snprintf(job.what, sizeof(job.what), "%s", what);
	if (mem_save_file(be, job.path)) {
		perror(job.path);
		abort();
	}
	pthread_mutex_lock(&pool.lock);
	while (pool.queued == QUEUE)
		pthread_cond_wait(&pool.changed, &pool.lock);
	pool.queue[(pool.first + pool.queued++) % QUEUE] = job;
	pthread_cond_broadcast(&pool.changed);
	pthread_mutex_unlock(&pool.lock);
}

void qemuimg_stop(u64 *checks, u64 *wrong)
{
	unsigned int i;

	pthread_mutex_lock(&pool.lock);
	pool.ending = true;
	pthread_cond_broadcast(&pool.changed);
	pthread_mutex_unlock(&pool.lock);
	for (i = 0; i < pool.workers; i++) {
		pthread_join(pool.checkers[i].thread, NULL);
		end(&pool.checkers[i]);
	}
	if (pool.workers)
		rmdir(pool.dir);
	pool.workers = 0;
	*checks = pool.checks;
	*wrong = pool.wrong;
}
