/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The user-space half of port.h: the kernel's names on C11 atomics and
 * pthreads. Only what the core uses is here.
 *
 * RCU is a reader-writer lock: a grace period is one moment of holding it for
 * writing. It is slower than liburcu and that does not matter to the tools;
 * ThreadSanitizer, which cannot see through liburcu's barriers, understands it
 * exactly, and that matters to the tests.
 */
#ifndef QCOW2_PORT_USER_H
#define QCOW2_PORT_USER_H

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <linux/types.h> /* __be16 and so on: system headers bring them, too */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define __force
#define __rcu
#define __user
#define __must_check __attribute__((warn_unused_result))
#define __packed __attribute__((packed))
#define __printf(a, b) __attribute__((format(printf, a, b)))
#define __maybe_unused __attribute__((unused))
#define fallthrough __attribute__((fallthrough))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define U32_MAX UINT32_MAX
#define U64_MAX UINT64_MAX
#define S64_MAX INT64_MAX
#ifndef EUCLEAN
#define EUCLEAN 117
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT_ULL(n) (1ULL << (n))
#define BUILD_BUG_ON(c) _Static_assert(!(c), #c)
#define static_assert _Static_assert
#define container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define min_t(t, a, b) ((t)(a) < (t)(b) ? (t)(a) : (t)(b))
#define max_t(t, a, b) ((t)(a) > (t)(b) ? (t)(a) : (t)(b))
#define min(a, b) ({ __typeof__(a) _a = (a); __typeof__(b) _b = (b); _a < _b ? _a : _b; })
#define max(a, b) ({ __typeof__(a) _a = (a); __typeof__(b) _b = (b); _a > _b ? _a : _b; })
#define swap(a, b) do { __typeof__(a) _t = (a); (a) = (b); (b) = _t; } while (0)
#define round_up(x, y) ((((x) - 1) | ((__typeof__(x))(y) - 1)) + 1)
#define round_down(x, y) ((x) & ~((__typeof__(x))(y) - 1))
#define DIV_ROUND_UP_ULL(n, d) (((u64)(n) + (d) - 1) / (d))
#define IS_ALIGNED(x, a) (((x) & ((__typeof__(x))(a) - 1)) == 0)
#define is_power_of_2(n) ((n) != 0 && (((n) & ((n) - 1)) == 0))
#define ilog2(n) (63 - __builtin_clzll((u64)(n)))
#define check_add_overflow(a, b, d) __builtin_add_overflow(a, b, d)
#define check_mul_overflow(a, b, d) __builtin_mul_overflow(a, b, d)

#define be16_to_cpu(x) be16toh(x)
#define be32_to_cpu(x) be32toh(x)
#define be64_to_cpu(x) be64toh(x)
#define cpu_to_be16(x) htobe16(x)
#define cpu_to_be32(x) htobe32(x)
#define cpu_to_be64(x) htobe64(x)

static inline u64 hash_64(u64 val, unsigned int bits)
{
	return (val * 0x61C8864680B583EBull) >> (64 - bits);
}

#define WARN_ON_ONCE(c) ({						\
	bool _c = (c);							\
	if (_c) {							\
		fprintf(stderr, "WARNING: %s:%d: %s\n", __FILE__,	\
			__LINE__, #c);					\
		abort();						\
	}								\
	_c; })

/* ---- atomics ---- */
#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define smp_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define smp_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define smp_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* full ordering, and returns what was there */
#define cmpxchg(p, old, new) ({						\
	__typeof__(*(p)) _was = (old);					\
	__atomic_compare_exchange_n((p), &_was, (new), false,		\
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);\
	_was; })
#ifdef __SANITIZE_THREAD__ /* it knows no fences; every access is atomic */
#define smp_wmb() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#define smp_rmb() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#else
#define smp_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#define smp_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#endif

typedef struct { int counter; } atomic_t;
typedef struct { s64 counter; } atomic64_t;
#define ATOMIC_INIT(i) { (i) }

static inline int atomic_read(const atomic_t *v)
{
	return __atomic_load_n(&v->counter, __ATOMIC_RELAXED);
}

static inline void atomic_set(atomic_t *v, int i)
{
	__atomic_store_n(&v->counter, i, __ATOMIC_RELAXED);
}

static inline void atomic_inc(atomic_t *v)
{
	__atomic_fetch_add(&v->counter, 1, __ATOMIC_ACQ_REL);
}

static inline void atomic_dec(atomic_t *v)
{
	__atomic_fetch_sub(&v->counter, 1, __ATOMIC_ACQ_REL);
}

static inline bool atomic_dec_and_test(atomic_t *v)
{
	return __atomic_sub_fetch(&v->counter, 1, __ATOMIC_ACQ_REL) == 0;
}

static inline s64 atomic64_read(const atomic64_t *v)
{
	return __atomic_load_n(&v->counter, __ATOMIC_RELAXED);
}

static inline void atomic64_set(atomic64_t *v, s64 i)
{
	__atomic_store_n(&v->counter, i, __ATOMIC_RELAXED);
}

static inline void atomic64_add(s64 i, atomic64_t *v)
{
	__atomic_fetch_add(&v->counter, i, __ATOMIC_RELAXED);
}

static inline void atomic64_inc(atomic64_t *v)
{
	atomic64_add(1, v);
}

/* ---- locks ---- */
struct mutex {
	pthread_mutex_t m;
};

typedef struct { pthread_mutex_t m; } spinlock_t;

#define mutex_init(l) pthread_mutex_init(&(l)->m, NULL)
#define mutex_destroy(l) pthread_mutex_destroy(&(l)->m)
#define mutex_lock(l) pthread_mutex_lock(&(l)->m)
#define mutex_unlock(l) pthread_mutex_unlock(&(l)->m)
#define spin_lock_init(l) pthread_mutex_init(&(l)->m, NULL)
#define spin_lock(l) pthread_mutex_lock(&(l)->m)
#define spin_unlock(l) pthread_mutex_unlock(&(l)->m)
#define lockdep_assert_held(l) ((void)(l))

/* ---- waiting: one condition for all, as rare as it is simple ---- */
typedef struct {
	pthread_mutex_t m;
	pthread_cond_t c;
} wait_queue_head_t;

static inline void init_waitqueue_head(wait_queue_head_t *w)
{
	pthread_mutex_init(&w->m, NULL);
	pthread_cond_init(&w->c, NULL);
}

#define wait_event(w, cond) do {				\
	pthread_mutex_lock(&(w).m);				\
	while (!(cond))						\
		pthread_cond_wait(&(w).c, &(w).m);		\
	pthread_mutex_unlock(&(w).m);				\
} while (0)

static inline void wake_up_all(wait_queue_head_t *w)
{
	pthread_mutex_lock(&w->m);
	pthread_cond_broadcast(&w->c);
	pthread_mutex_unlock(&w->m);
}

/* ---- memory ---- */
static inline void *port_alloc(size_t size)
{
	void *p;

	/* aligned as kmalloc() aligns a power of two */
	if (size < 512 || !is_power_of_2(size))
		return malloc(size);
	return posix_memalign(&p, min_t(size_t, size, 4096), size) ? NULL : p;
}

static inline void *port_zalloc(size_t size)
{
	void *p = port_alloc(size);

	return p ? memset(p, 0, size) : NULL;
}

static inline void port_free(void *p)
{
	free(p);
}

struct port_pool {
	pthread_mutex_t lock;	/* held by who has the one that is kept */
	size_t size;
	void *kept;
};

static inline int port_pool_init(struct port_pool *p, size_t size)
{
	void *kept = port_alloc(size);

	if (!kept)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->size = size;
	p->kept = kept;
	return 0;
}

static inline bool port_pool_ready(const struct port_pool *p)
{
	return p->kept;
}

static inline void port_pool_exit(struct port_pool *p)
{
	port_free(p->kept);
}

static inline void *port_pool_get(struct port_pool *p)
{
	void *buf;

	if (!pthread_mutex_trylock(&p->lock))
		return p->kept;
	buf = port_alloc(p->size);
	if (buf)
		return buf;
	pthread_mutex_lock(&p->lock);
	return p->kept;
}

static inline void port_pool_put(struct port_pool *p, void *buf)
{
	if (buf == p->kept)
		pthread_mutex_unlock(&p->lock);
	else
		port_free(buf);
}

static inline void *port_vzalloc(size_t size)
{
	return calloc(1, size);
}

static inline void port_vfree(void *p)
{
	free(p);
}

static inline void port_sort(void *base, size_t n, size_t size,
			     int (*cmp)(const void *, const void *))
{
	qsort(base, n, size, cmp);
}

/* ---- lists, as in include/linux/list.h ---- */
struct list_head {
	struct list_head *next, *prev;
};

struct hlist_head {
	struct hlist_node *first;
};

struct hlist_node {
	struct hlist_node *next, **pprev;
};

#define LIST_HEAD(name) struct list_head name = { &(name), &(name) }
#define list_entry(ptr, type, member) container_of(ptr, type, member)
#define list_first_entry(ptr, type, member) \
	list_entry((ptr)->next, type, member)
#define list_next_entry(pos, member) \
	list_entry((pos)->member.next, __typeof__(*(pos)), member)
#define list_for_each_entry(pos, head, member)				\
	for (pos = list_first_entry(head, __typeof__(*pos), member);	\
	     &pos->member != (head); pos = list_next_entry(pos, member))
#define list_for_each_entry_safe(pos, n, head, member)			\
	for (pos = list_first_entry(head, __typeof__(*pos), member),	\
	     n = list_next_entry(pos, member);				\
	     &pos->member != (head); pos = n, n = list_next_entry(n, member))

static inline void INIT_LIST_HEAD(struct list_head *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool list_empty(const struct list_head *l)
{
	return l->next == l;
}

static inline void __list_insert(struct list_head *n, struct list_head *prev,
				 struct list_head *next)
{
	next->prev = n;
	n->next = next;
	n->prev = prev;
	prev->next = n;
}

static inline void list_add(struct list_head *n, struct list_head *head)
{
	__list_insert(n, head, head->next);
}

static inline void list_add_tail(struct list_head *n, struct list_head *head)
{
	__list_insert(n, head->prev, head);
}

static inline void list_del(struct list_head *e)
{
	e->next->prev = e->prev;
	e->prev->next = e->next;
}

static inline void list_del_init(struct list_head *e)
{
	list_del(e);
	INIT_LIST_HEAD(e);
}

static inline void list_move_tail(struct list_head *e, struct list_head *head)
{
	list_del(e);
	list_add_tail(e, head);
}

static inline void list_splice_tail_init(struct list_head *from,
					 struct list_head *to)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	INIT_LIST_HEAD(from);
}

static inline void list_splice_init(struct list_head *from, struct list_head *to)
{
	if (list_empty(from))
		return;
	from->prev->next = to->next;
	to->next->prev = from->prev;
	from->next->prev = to;
	to->next = from->next;
	INIT_LIST_HEAD(from);
}

/* ---- RCU ---- */
struct rcu_head {
	void *unused;
};

extern pthread_rwlock_t port_rcu;

#define rcu_read_lock() pthread_rwlock_rdlock(&port_rcu)
#define rcu_read_unlock() pthread_rwlock_unlock(&port_rcu)

static inline void synchronize_rcu(void)
{
	pthread_rwlock_wrlock(&port_rcu);
	pthread_rwlock_unlock(&port_rcu);
}

void call_rcu(struct rcu_head *head, void (*fn)(struct rcu_head *head));

static inline void hlist_add_head_rcu(struct hlist_node *n,
				      struct hlist_head *h)
{
	struct hlist_node *first = h->first;

	WRITE_ONCE(n->next, first);
	n->pprev = &h->first;
	if (first)
		first->pprev = &n->next;
	__atomic_store_n(&h->first, n, __ATOMIC_RELEASE);
}

static inline void hlist_del_rcu(struct hlist_node *n)
{
	struct hlist_node *next = READ_ONCE(n->next);

	__atomic_store_n(n->pprev, next, __ATOMIC_RELEASE);
	if (next)
		next->pprev = n->pprev;
}

#define __hlist_entry(n, type, member) ({				\
	struct hlist_node *_n = (n);					\
	_n ? container_of(_n, type, member) : NULL; })
#define hlist_for_each_entry_rcu(pos, head, member, ...)		\
	for (pos = __hlist_entry(smp_load_acquire(&(head)->first),	\
				 __typeof__(*pos), member);		\
	     pos;							\
	     pos = __hlist_entry(smp_load_acquire(&pos->member.next),	\
				 __typeof__(*pos), member))

/* ---- epochs: see port.h ---- */
struct port_epoch {
	pthread_mutex_t m;
	pthread_cond_t c;
	u64 gen;
	u64 active[2];
};

int port_epoch_init(struct port_epoch *e);
void port_epoch_destroy(struct port_epoch *e);
int port_epoch_enter(struct port_epoch *e);
void port_epoch_exit(struct port_epoch *e, int idx);
u64 port_epoch_start(struct port_epoch *e);
bool port_epoch_done(struct port_epoch *e, u64 cookie);
void port_epoch_sync(struct port_epoch *e);

static inline void cond_resched(void)
{
}

/* ---- decompression: see port.h ---- */
static inline u32 port_threads(void)
{
	return 4;
}

static inline size_t port_inflate_workspace(void)
{
	return 1;	/* the libraries allocate their own */
}

int port_inflate(void *workspace, void *to, u32 to_len, const void *from,
		 u32 from_len);
int port_unzstd(void *workspace, void *to, u32 to_len, const void *from,
		u32 from_len);

#endif /* QCOW2_PORT_USER_H */
