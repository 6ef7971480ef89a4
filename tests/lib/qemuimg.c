// SPDX-License-Identifier: GPL-2.0
/*
 * qemu-img check in the background: see qemuimg.h.
 */
#include "qemuimg.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORKERS 8
#define QUEUE 16

struct job {
	char path[96];
	char what[256];
	int verdict;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t threads[MAX_WORKERS];
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

static void run(const struct job *job)
{
	int status = qemuimg_now(job->path);

	unlink(job->path);
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
		run(&job);
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
	for (i = 0; i < pool.workers; i++)
		if (pthread_create(&pool.threads[i], NULL, worker, NULL))
			abort();
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
	for (i = 0; i < pool.workers; i++)
		pthread_join(pool.threads[i], NULL);
	if (pool.workers)
		rmdir(pool.dir);
	pool.workers = 0;
	*checks = pool.checks;
	*wrong = pool.wrong;
}
