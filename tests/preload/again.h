/* SPDX-License-Identifier: GPL-2.0 */
/* What again.c and the one who preloads it have to agree about. */
#ifndef AGAIN_H
#define AGAIN_H

#define AGAIN_GO 3
#define AGAIN_DONE 4

typedef int (*main_fn)(int argc, char **argv, char **envp);

/* What the C library calls first. */
int __libc_start_main(main_fn main, int argc, char **argv, void (*init)(void),
		      void (*fini)(void), void (*rtld_fini)(void),
		      void *stack_end);

#endif /* AGAIN_H */
