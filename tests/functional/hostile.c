// SPDX-License-Identifier: GPL-2.0
/*
 * Writes the images of tests/lib/hostile.c to a folder, for hostile.sh, and prints
 * a line for each: file, verdict, "marked" or "-", cluster size, name of the
 * defect, and behind a tab the words that are to be logged.
 */
#include "hostile.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	static const char * const verdicts[] = { "refused", "read", "write", "any" };
	unsigned int n, every, first;
	struct membackend be;
	struct hostile h;
	char path[4096];

	if (argc != 4) {
		fprintf(stderr, "Usage: hostile FOLDER EVERY FIRST\n"
			"Write each EVERYth image; FIRST, less than that, says which.\n");
		return 2;
	}
	every = atoi(argv[2]);
	first = atoi(argv[3]);
	for (n = 0; hostile_make(n, &be, &h); n++) {
		/* most defects come in four cluster sizes, one after the other */
		if (every && (n + n / 4) % every == first) {
			snprintf(path, sizeof(path), "%s/%u", argv[1], n);
			if (mem_save_file(&be, path)) {
				perror(path);
				return 1;
			}
			printf("%u %s %s %u %s\t%s\n", n, verdicts[h.verdict],
			       h.marked ? "marked" : "-", 1u << h.cluster_bits,
			       h.name, h.words);
		}
		mem_destroy(&be);
	}
	return 0;
}
