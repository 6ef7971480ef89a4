/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Images with one defect each, and what has to come of them.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "membackend.h"

enum hostile_verdict {
	HOSTILE_REFUSED,	/* cannot be opened */
	HOSTILE_READ,		/* reading the bad cluster fails */
	HOSTILE_WRITE,		/* writing it fails, everything can be read */
	HOSTILE_ANY,		/* nothing is asked but that nobody suffers */
};

#define HOSTILE_GOOD 0		/* guest cluster that can always be read */
#define HOSTILE_BAD 3		/* the one with the defect */

/**
 * struct hostile - a defective image
 * @name: of the defect
 * @verdict: what happens
 * @words: part of the error, or of what is logged
 * @marked: the corrupt bit is set when the defect is met by a writer
 * @cluster_bits: of the image
 */
struct hostile {
	const char *name;
	enum hostile_verdict verdict;
	const char *words;
	bool marked;
	u32 cluster_bits;
};

/* Makes image number @n; false: there are no more. */
bool hostile_make(unsigned int n, struct membackend *be, struct hostile *h);

#endif /* HOSTILE_H */
