/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the module share: the host (one image file, opened once,
 * whoever uses it), the table that uses it, and the life of one bio.
 *
 * Locks, outermost first, all above those of core/image.h:
 *
 *   R:  registry_lock, a mutex: the list of hosts, their users' counts
 *   Z:  host->resize_lock, a mutex: the size of the disk, its key, and whether the
 *       device runs
 *   Y:  host->ahead_lock, a mutex: reading ahead, and what it must not meet
 *   U:  host->users_lock, a mutex: the tables that hear of a mode change
 *   X:  host->rmw_lock, a mutex: read-modify-write below the host's alignment
 *   J:  host->jobs_lock, a spinlock, taken with interrupts off: the lists of
 *       jobs; only the locks of the wait queues are taken under it
 *   I:  set before anyone else sees the object, constant after
 */
#ifndef DM_QCOW2_H
#define DM_QCOW2_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/ratelimit.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "core/data.h"
#include "core/image.h"
#include "core/write.h"

#define DM_MSG_PREFIX "qcow2"

#define DM_QCOW2_MAX_LAYERS 512

/**
 * struct dm_qcow2_layer_args - what a table line says of one layer
 * @path: an absolute path or what dm_get_device() takes
 * @data_path: of its external data file, or NULL
 * @cipher: as its LUKS header names it; "": the legacy AES encryption; NULL: none
 * @key: a reference to a key of the keyring; with @cipher
 * @raw: it is not qcow2, but the bytes as they are
 */
struct dm_qcow2_layer_args {
	char *path;
	char *data_path;
	char *cipher;
	char *key;
	bool raw;
};

/**
 * struct dm_qcow2_args - a parsed table line
 * @layers: the image and the layers below it, top to bottom
 * @nr_layers: how many, at least 1
 * @read_only: attach read-only
 * @no_discard_passdown: what is freed stays with the host file or device
 * @no_readahead: metadata is read when it is needed, and not before
 * @buffered_backing: layers below that are files are read through the page cache
 * @has_sector_size: @sector_size was given
 * @cache_bytes: bound of the metadata cache, 0 for the default
 * @sector_size: logical block size of the device in bytes
 */
struct dm_qcow2_args {
	struct dm_qcow2_layer_args *layers;
	unsigned int nr_layers;
	bool read_only;
	bool no_discard_passdown;
	bool no_readahead;
	bool buffered_backing;
	bool has_sector_size;
	u64 cache_bytes;
	u32 sector_size;
};

int dm_qcow2_parse_args(unsigned int argc, char **argv,
			struct dm_qcow2_args *args, char **error);
void dm_qcow2_free_args(struct dm_qcow2_args *args);
char *dm_qcow2_unescape(const char *word);

struct dm_qcow2_crypt;

/* Per CPU: which way the bios went. */
struct dm_qcow2_counts {
	u64 inlined;
	u64 worker;
};

/**
 * struct dm_qcow2_host - one file or device, opened once: an image, a raw layer,
 * or an external data file
 * @link: R: in the registry
 * @users: R: tables that hold it, hosts whose layer below or data file it is
 * @writers: R: those that may write
 * @owner: R: the mapped device of the writers
 * @changing: R: being opened or closed; wait
 * @below: I: the layer below, or NULL; held
 * @data: I: the external data file, or NULL; held
 * @layer: I, but size: Z; this one, for the image above
 * @name: I: for messages
 * @log_limit: of what this one says: another's noise must not hide why it failed
 * @inode: I: of a regular file, or NULL
 * @bdev: I: the block device, or NULL
 * @file: I: opened by path, holds the locks; NULL for a major:minor
 * @locked: I: QEMU's image locks are held
 * @read_only: I: opened read-only
 * @direct: I: the filesystem does direct I/O
 * @bufferers: A: tables that want this layer to be read through the page cache,
 *	changed under R
 * @align: I: smallest unit of I/O in bytes, 512 or more
 * @size0: I: size of the file when it was opened, in bytes
 * @end: A: without @img: where it is known to reach, in bytes
 * @img: I: the image; NULL if this is none
 * @crypt: I: its encryption, or NULL
 * @bs: I: for bios of our own
 * @rmw_lock: X itself
 * @rmw_page: X: bounce buffer
 * @jobs_lock: J itself
 * @jobs: J: bios for the workers
 * @flushes: J: bios for the committer
 * @calls: J: other work for the committer
 * @reclaim: J, read A: it is to reclaim space
 * @tidy: A: it is to do so if nobody else has, after a while
 * @idle: where workers wait
 * @commit_wait: where the committer waits
 * @nr_threads: R: workers that run; none while no table maps to the image
 * @threads: R: the workers
 * @committer: R: the committer
 * @scanner: R: looks through a dirty image and reads metadata ahead, or NULL
 * @readahead: I: it does the latter, as the first table said
 * @resize_lock: Z itself
 * @ahead_lock: Y itself
 * @users_lock: U itself
 * @tables: U: struct dm_qcow2
 * @counts: which way the bios went
 */
struct dm_qcow2_host {
	struct list_head link;
	unsigned int users;
	unsigned int writers;
	struct mapped_device *owner;
	bool changing;

	struct dm_qcow2_host *below;
	struct dm_qcow2_host *data;
	struct qcow2_layer layer;

	char *name;
	struct ratelimit_state log_limit;
	struct inode *inode;
	struct block_device *bdev;
	struct file *file;
	bool locked;
	bool read_only;
	bool direct;
	unsigned int bufferers;
	u32 align;
	loff_t size0;
	u64 end;

	struct qcow2_image *img;
	struct dm_qcow2_crypt *crypt;
	struct bio_set bs;

	struct mutex rmw_lock;	/* X */
	void *rmw_page;

	spinlock_t jobs_lock;	/* J */
	struct list_head jobs;
	struct list_head flushes;
	struct list_head calls;
	bool reclaim;
	bool tidy;
	wait_queue_head_t idle;
	wait_queue_head_t commit_wait;
	unsigned int nr_threads;
	struct task_struct *threads[PORT_MAX_THREADS];
	struct task_struct *committer;
	struct task_struct *scanner;
	bool readahead;

	struct mutex resize_lock;	/* Z */
	struct mutex ahead_lock;	/* Y */
	struct mutex users_lock;	/* U */
	struct list_head tables;
	struct dm_qcow2_counts __percpu *counts;
};

/* Where the host is known to reach, in bytes. */
static inline u64 dm_qcow2_host_end(const struct dm_qcow2_host *h)
{
	return h->img ? READ_ONCE(h->img->host_end) : READ_ONCE(h->end);
}

/* I/O on a file goes through the page cache: it has to, or it is to. */
static inline bool dm_qcow2_buffered(const struct dm_qcow2_host *h)
{
	return !h->direct || READ_ONCE(h->bufferers);
}

/**
 * struct dm_qcow2 - one table line in use
 * @ti: the target
 * @host: the image
 * @devs: our claims on block devices that are layers or data files
 * @nr_devs: how many
 * @args: what the table line said
 * @writer: it may write: the image is not read-only by itself
 * @noflush: being suspended without a commit
 * @running: host.resize_lock: resumed, so that there may be I/O
 * @link: host.users_lock: in host->tables
 */
struct dm_qcow2 {
	struct dm_target *ti;
	struct dm_qcow2_host *host;
	struct dm_dev **devs;
	unsigned int nr_devs;
	struct dm_qcow2_args args;
	bool writer;
	bool noflush;
	bool running;
	struct list_head link;
};

/* Where a bio is on its way; for whoever looks at a hang. */
enum dm_qcow2_stage {
	DM_QCOW2_NEW,
	DM_QCOW2_MAP,		/* a worker is to look the mapping up */
	DM_QCOW2_READY,		/* mapped; a worker is to submit it */
	DM_QCOW2_SUBMITTED,	/* with the host */
	DM_QCOW2_DECRYPT,	/* read; a worker is to decrypt it */
	DM_QCOW2_LINK,		/* written; a worker is to end the step */
	DM_QCOW2_COMMIT,	/* waits for the committer */
	DM_QCOW2_DONE,
};

/**
 * struct dm_qcow2_io - the state of one bio, in its per-bio data
 * @bio: the bio, a clone that dm made
 * @host: the image
 * @holder: the host that holds the piece: the image's own, a layer's, its data
 *	file's
 * @crypt: how the piece is encrypted there, or NULL
 * @bounce: a piece that is written, encrypted; or NULL
 * @guest: offset in the virtual disk of what is left, in bytes
 * @stage: see above
 * @commit: complete only after a commit (FUA through metadata, FLUSH)
 * @in_epoch: @epoch is held
 * @epoch: from port_epoch_enter()
 * @stepping: @write is a step that must be ended
 * @error: first error, negative
 * @left: what is left of the bio
 * @piece: bytes of the piece that is with the host
 * @pos: its host offset in bytes
 * @host_end: the holder's size before the piece was submitted, in bytes
 * @link: J: in host->jobs or host->flushes, or in the batch of who took it
 * @waiter: with core/busy.c while another write owns the clusters
 * @write: the step of a write that is under way
 * @iocb: of the piece, when it is with a file
 * @iocb_refs: who holds @iocb: the submitter, the completion
 * @iocb_ret: bytes done or a negative errno, from the completion
 */
struct dm_qcow2_io {
	struct bio *bio;
	struct dm_qcow2_host *host;
	struct dm_qcow2_host *holder;
	struct dm_qcow2_crypt *crypt;
	struct bio *bounce;
	u64 guest;
	enum dm_qcow2_stage stage;
	bool commit;
	bool in_epoch;
	bool stepping;
	int epoch;
	int error;
	struct bvec_iter left;
	u64 pos;
	u64 host_end;
	u32 piece;
	struct list_head link;
	struct qcow2_waiter waiter;
	struct qcow2_write write;
	struct kiocb iocb;
	atomic_t iocb_refs;
	long iocb_ret;
};

/* The memory of a piece, as it is on the host; @iter becomes as long as the piece. */
static inline struct bio *dm_qcow2_piece_bio(const struct dm_qcow2_io *io,
					     struct bvec_iter *iter)
{
	*iter = io->bounce ? io->bounce->bi_iter : io->left;
	iter->bi_size = io->piece;
	return io->bounce ?: io->bio;
}

/* io.c */
int dm_qcow2_map(struct dm_target *ti, struct bio *bio);
int dm_qcow2_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void dm_qcow2_run_job(struct dm_qcow2_io *io);
void dm_qcow2_finish(struct dm_qcow2_io *io, int error);
void dm_qcow2_piece_done(struct dm_qcow2_io *io, int error);

/* crypt.c */
struct dm_qcow2_crypt *dm_qcow2_new_crypt(const char *host, const char *words,
					  const char *key, char **error);
void dm_qcow2_free_crypt(struct dm_qcow2_crypt *c);
struct qcow2_cipher *dm_qcow2_cipher_of(struct dm_qcow2_crypt *c);
struct dm_qcow2_crypt *dm_qcow2_crypt_of(struct qcow2_cipher *cipher);
bool dm_qcow2_same_crypt(const struct dm_qcow2_crypt *c, const char *words,
			 const char *key);
int dm_qcow2_set_key(struct dm_qcow2_crypt *c, const char *reference,
		     char **error);
int dm_qcow2_wipe_key(struct dm_qcow2_crypt *c);
const char *dm_qcow2_key_of(const struct dm_qcow2_crypt *c);
bool dm_qcow2_has_key(const struct dm_qcow2_crypt *c);
int dm_qcow2_encrypt(struct dm_qcow2_io *io);
int dm_qcow2_decrypt(struct dm_qcow2_io *io);
void dm_qcow2_free_bounce(struct dm_qcow2_io *io);

/* worker.c */
int dm_qcow2_start_threads(struct dm_qcow2_host *h);
void dm_qcow2_stop_scanner(struct dm_qcow2_host *h);
void dm_qcow2_stop_threads(struct dm_qcow2_host *h);
void dm_qcow2_queue_job(struct dm_qcow2_io *io);
void dm_qcow2_queue_commit(struct dm_qcow2_io *io);
void dm_qcow2_reclaim(void *be);
void dm_qcow2_tidy(struct dm_qcow2_host *h);
int dm_qcow2_call(struct dm_qcow2_host *h,
		  int (*fn)(struct dm_qcow2_host *h, void *arg), void *arg);

/* backend-bdev.c, backend-file.c */
extern const struct qcow2_backend_ops dm_qcow2_bdev_ops;
extern const struct qcow2_backend_ops dm_qcow2_file_ops;
void dm_qcow2_bdev_submit(struct dm_qcow2_io *io);
void dm_qcow2_file_submit(struct dm_qcow2_io *io);
void dm_qcow2_file_probe(struct dm_qcow2_host *h);
int dm_qcow2_bdev_rw(struct dm_qcow2_host *h, bool write,
		     const struct qcow2_iovec *v, unsigned int n);
int dm_qcow2_file_rw(struct dm_qcow2_host *h, bool write,
		     const struct qcow2_iovec *v, unsigned int n);

/* backend.c */
int dm_qcow2_rw(void *be, bool write, const struct qcow2_iovec *v,
		unsigned int n);
int dm_qcow2_rmw(struct dm_qcow2_host *h, bool write, u64 pos, void *buf,
		 u32 len);
int dm_qcow2_rmw_bio(struct dm_qcow2_io *io);
int dm_qcow2_write_zeros(struct dm_qcow2_host *h, u64 pos, u64 len);
int dm_qcow2_data_read(void *be, u64 pos, void *buf, u32 len);
int dm_qcow2_data_write(void *be, u64 pos, void *buf, u32 len);
void dm_qcow2_log(void *be, const char *msg);
void dm_qcow2_mode_changed(void *be);

/* registry.c */
int dm_qcow2_attach(struct dm_qcow2 *c, char **error);
void dm_qcow2_detach(struct dm_qcow2 *c);
int dm_qcow2_change_key(struct dm_qcow2 *c, const char *reference);

/* locks.c */
int dm_qcow2_lock(struct file *file, bool write);
void dm_qcow2_lock_downgrade(struct file *file);
void dm_qcow2_unlock(struct file *file);

/* resize.c */
void dm_qcow2_set_running(struct dm_qcow2 *c, bool running);
int dm_qcow2_resize(struct dm_qcow2 *c, const char *word);

/* status.c */
void dm_qcow2_sum_counts(const struct dm_qcow2_host *h,
			 struct dm_qcow2_counts *sum);
void dm_qcow2_status(struct dm_target *ti, status_type_t type,
		     unsigned int status_flags, char *result,
		     unsigned int maxlen);
int dm_qcow2_message(struct dm_target *ti, unsigned int argc, char **argv,
		     char *result, unsigned int maxlen);

#endif /* DM_QCOW2_H */
