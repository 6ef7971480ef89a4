// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the way of a key to the kernel: it is in this thread's own
 * keyring while a table is loaded, which names it, and in no table line.
 */
#include <errno.h>
#include <keyutils.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "qcow2setup.h"

/* A name that nobody has guessed, so that nobody can have put another key there. */
static char *unique_name(void)
{
	uint64_t n[2];

	if (getrandom(n, sizeof(n), 0) != sizeof(n))
		return NULL;
	return xasprintf("qcow2setup:%016llx%016llx", (unsigned long long)n[0],
			 (unsigned long long)n[1]);
}

/**
 * keyring_add() - give a key to the kernel
 * @key: the key
 * @ref: filled in on success: what a table line has for it, to free
 * @serial: filled in on success, for keyring_remove()
 *
 * It goes with this process at the latest.
 *
 * Return: OK, or what to exit with.
 */
enum result keyring_add(const struct secret *key, char **ref, int32_t *serial)
{
	char *name = unique_name();
	key_serial_t n = name ? add_key("logon", name, key->data, key->len,
					KEY_SPEC_THREAD_KEYRING) : -1;

	if (n < 0) {
		log_err("The kernel does not take the key into a keyring: %s. /proc/sys/kernel/keys has the limits.",
			strerror(errno));
		free(name);
		return FAILED;
	}
	*ref = xasprintf(":%zu:logon:%s", key->len, name);
	*serial = n;
	free(name);
	return OK;
}

/**
 * keyring_remove() - the counterpart of keyring_add()
 * @serial: from there
 */
void keyring_remove(int32_t serial)
{
	if (keyctl_unlink(serial, KEY_SPEC_THREAD_KEYRING) < 0)
		log_dbg("a key stays in the keyring until the end: %s",
			strerror(errno));
}
