// SPDX-License-Identifier: GPL-2.0
/*
 * To be preloaded into a program that takes longer to be linked than to run: for
 * every byte that it reads from descriptor AGAIN_GO the program runs once, in a
 * child, with the arguments it was started with, and its wait status, an int,
 * goes to descriptor AGAIN_DONE. It ends when the other side closes.
 */
#include "again.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*start_fn)(main_fn main, int argc, char **argv, void (*init)(void),
			void (*fini)(void), void (*rtld_fini)(void),
			void *stack_end);

static main_fn real_main;

static int again(int argc, char **argv, char **envp)
{
	int status;
	pid_t pid;
	char go;

	while (read(AGAIN_GO, &go, 1) == 1) {
		pid = fork();
		if (!pid) {
			close(AGAIN_GO);
			close(AGAIN_DONE);
			return real_main(argc, argv, envp);
		}
		if (pid < 0)
			return EXIT_FAILURE;
		while (waitpid(pid, &status, 0) < 0)
			if (errno != EINTR)
				return EXIT_FAILURE;
		if (write(AGAIN_DONE, &status, sizeof(status)) != sizeof(status))
			return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

int __libc_start_main(main_fn main, int argc, char **argv, void (*init)(void),
		      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
	start_fn real = (start_fn)dlsym(RTLD_NEXT, "__libc_start_main");

	real_main = main;
	unsetenv("LD_PRELOAD");
	return real(again, argc, argv, init, fini, rtld_fini, stack_end);
}
