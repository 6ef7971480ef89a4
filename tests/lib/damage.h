/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Small images with random damage.
 */
#ifndef DAMAGE_H
#define DAMAGE_H

#include "membackend.h"

/* A small image of any kind; the clusters of data are full of stamps. */
void damage_make(struct membackend *be, u64 *rng);

/* Up to three things that a check should see, or should not mind; or none. */
void damage_some(struct membackend *be, u64 *rng);

/* A number from the environment. */
u64 damage_env(const char *name, u64 otherwise);

#endif /* DAMAGE_H */
