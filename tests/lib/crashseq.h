/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sequences of guest activity for crash tests: made from a seed, run once on an
 * image in memory, which gives the log of what reached the host and the list of
 * what the guest may rely on at each moment.
 *
 * One thread plays all parts. Steps of several writes overlap, readers hold on
 * to old mappings, and while a commit runs, its own I/O calls back here to do
 * more steps, so that what a commit must not carry is there to be carried.
 */
#ifndef CRASHSEQ_H
#define CRASHSEQ_H

#include "guestio.h"
#include "membackend.h"
#include "write.h"

#define SEQ_HOT 20	/* guest clusters that are written */
#define SEQ_SLOTS 16	/* blocks looked at in each of them */
#define SEQ_OPEN 3	/* writes under way at once */
#define SEQ_ZERO (-1)	/* the generation of zeros */

enum seq_kind {
	SEQ_PLAIN,	/* nothing grows: data, L2 entries, refcounts */
	SEQ_TABLES,	/* new L2 tables, L2 tables that are shared */
	SEQ_BLOCKS,	/* refcount blocks */
	SEQ_RELOCATE,	/* the refcount table */
	SEQ_DIRTY,	/* refcounts are not to be trusted */
	SEQ_KINDS,
};

/* A block of a hot cluster. */
struct seq_block {
	u64 number;
	s64 initial;	/* generation: 0 or SEQ_ZERO */
	s64 newest;	/* completed */
};

/* One step of a guest write, or of what makes zeros. */
struct seq_write {
	u64 block, nr;
	s64 generation;
	bool zero;	/* it reads as zeros */
	u64 done;	/* time of completion, U64_MAX: never */
	u64 fua_at;	/* log position where it became durable, U64_MAX: never */
	u64 op;		/* log position of the data, or of the beginning */
};

/* The host acknowledged: all that was done before @time is durable. */
struct seq_ack {
	u64 pos;	/* in the log */
	u64 time;
};

/*
 * The disk has got another size, none that it had before. Behind the first size,
 * nobody looks at what is written, but for how old it is.
 */
struct seq_size {
	u64 begun, done;	/* in the log; U64_MAX: never */
	u64 from, to;		/* bytes */
	s64 generation;		/* the newest write before */
};

#define SEQ_SIZES 32
#define SEQ_BEYOND 64

/* A cluster that something else refers to as well. */
struct seq_shared {
	u64 host, number; /* number of its first block */
	bool compressed;
};

struct seq_open {
	bool used, written;
	struct qcow2_write w;
	u64 guest, len;		/* what was asked for */
	u64 index;		/* in writes[] */
	u8 *buf;
};

struct seq_reader {
	bool used;
	int epoch;
	const struct qcow2_store *store;
	u64 host;
	unsigned int block;
	s64 least;
};

/**
 * struct sequence - one sequence and what came of it
 * @live: ran; its log is the sequence
 * @before: the image as it was when the log began
 * @base, @below: what both of them lie on, raw, if @chain; never written
 * @aside, @aside_before: their data files, if there is one; its log is that of @live
 * @fail: what the run itself found wrong, or ""
 * @trace: the steps, in words
 */
struct sequence {
	u64 seed;
	u64 rng;
	enum seq_kind kind;
	enum mem_flavour flavour, aside_flavour;
	struct mk_image image;
	u64 target;		/* where the used part is to end, 0: anywhere */
	u64 device_size;
	u64 limit;		/* of a file */
	unsigned int steps;

	bool extended;		/* L2 entries */
	bool chain;
	struct qcow2_cipher *cipher;	/* or NULL */

	struct membackend live, before, base, aside, aside_before;
	struct qcow2_layer below;
	struct qcow2_image *img;
	u64 hot[SEQ_HOT];
	unsigned int nr_hot;
	struct seq_block blocks[SEQ_HOT * SEQ_SLOTS];
	unsigned int nr_blocks;
	struct seq_shared shared[SEQ_HOT];
	unsigned int nr_shared;

	struct seq_write *writes;
	u64 nr_writes;
	struct seq_ack *acks;
	u64 nr_acks;
	struct seq_size sizes[SEQ_SIZES]; /* the first: before the log */
	unsigned int nr_sizes;
	u64 beyond[SEQ_BEYOND];	/* blocks behind the first size, written */
	unsigned int nr_beyond;
	struct seq_open open[SEQ_OPEN];
	struct seq_reader reader;
	u64 time;
	s64 generation;
	bool in_commit, in_hook;

	char fail[256];
	char *trace;
	size_t trace_len;
	FILE *trace_file;
};

/* Chooses everything from the seed and runs it. */
void seq_run(struct sequence *s, u64 seed, enum seq_kind kind);
void seq_destroy(struct sequence *s);

/* Opens a backend that has the image of the sequence. */
int seq_open(struct sequence *s, struct membackend *be, u64 cache_bytes,
	     struct qcow2_image **img, struct qcow2_error *err);

/*
 * What zeros in a block can be, in a log that ends at @pos: the newest generation
 * of zeros, or SEQ_ZERO.
 */
s64 seq_zero_generation(const struct sequence *s, u64 number, u64 pos);

/* Is a block behind the first size zeros, or written after @generation? */
bool seq_beyond(u8 *block, u64 number, s64 generation);

/* A line about the parameters; static buffer. */
const char *seq_describe(const struct sequence *s);

u64 seq_random(u64 *rng);

#endif /* CRASHSEQ_H */
