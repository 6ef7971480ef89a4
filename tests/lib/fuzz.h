/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What libFuzzer calls, and what it has for that.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "port.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max,
			       unsigned int seed);
size_t LLVMFuzzerMutate(u8 *data, size_t size, size_t max);

#endif /* FUZZ_H */
