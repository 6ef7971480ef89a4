// SPDX-License-Identifier: GPL-2.0
/*
 * Epochs in user space: what began before a moment is waited for, what began
 * after it is not.
 */
#include "fixture.h"

#include <unistd.h>

static void test_order(void)
{
	struct port_epoch e;
	int old, newer;
	u64 first, second;

	must(port_epoch_init(&e));
	first = port_epoch_start(&e);
	ok(port_epoch_done(&e, first), "nobody is waited for");
	old = port_epoch_enter(&e);
	first = port_epoch_start(&e);
	newer = port_epoch_enter(&e);
	ok(!port_epoch_done(&e, first), "who was there is waited for");
	second = port_epoch_start(&e);
	ok(!port_epoch_done(&e, second), "by the next, too");
	port_epoch_exit(&e, old);
	ok(port_epoch_done(&e, first), "who came later is not");
	ok(!port_epoch_done(&e, second), "but by the next");
	port_epoch_exit(&e, newer);
	ok(port_epoch_done(&e, second) && port_epoch_done(&e, first),
	   "then all are gone");
	port_epoch_destroy(&e);
}

struct leaver {
	struct port_epoch *e;
	int idx;
	bool gone;
};

static void *leave(void *arg)
{
	struct leaver *l = arg;

	usleep(50000);
	WRITE_ONCE(l->gone, true);
	port_epoch_exit(l->e, l->idx);
	return NULL;
}

static void test_sync(void)
{
	struct port_epoch e;
	struct leaver l = { .e = &e };
	pthread_t thread;

	must(port_epoch_init(&e));
	l.idx = port_epoch_enter(&e);
	must(pthread_create(&thread, NULL, leave, &l));
	port_epoch_sync(&e);
	ok(READ_ONCE(l.gone), "sync waits");
	pthread_join(thread, NULL);
	port_epoch_destroy(&e);
}

int main(void)
{
	test_order();
	test_sync();
	return tap_end();
}
