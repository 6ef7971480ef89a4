// SPDX-License-Identifier: GPL-2.0
/*
 * To be preloaded into qcow2setup: a device-mapper that takes any table, for 'open'
 * without a kernel module. To the file that $FAKEDM names it writes
 *
 *	key NAME HEX		a key goes into a keyring
 *	table PARAMS		a table is loaded
 *	found NAME		and the kernel finds the key that is named in it
 *	missing NAME		or does not
 *	left NAME		it is still there when the program ends
 *
 * With $FAKEDM_ERROR the load of the table fails with that errno.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <keyutils.h>
#include <libdevmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dm_task {
	int type;
	int error;
	char *params;
};

static char *names[512];
static size_t nr_names;

static void __attribute__((format(printf, 1, 2))) record(const char *fmt, ...)
{
	FILE *f = fopen(getenv("FAKEDM"), "a");
	va_list ap;

	if (!f)
		abort();
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
}

static int there(const char *name)
{
	return keyctl_search(KEY_SPEC_THREAD_KEYRING, "logon", name, 0) >= 0;
}

static void look_for_keys(const char *params)
{
	char *copy = strdup(params), *word, *rest = copy;

	while ((word = strsep(&rest, " "))) {
		char *name = strstr(word, ":logon:");

		if (*word != ':' || !name)
			continue;
		name += strlen(":logon:");
		record("%s %s\n", there(name) ? "found" : "missing", name);
		names[nr_names++] = strdup(name);
	}
	free(copy);
}

static void __attribute__((destructor)) look_again(void)
{
	size_t i;

	for (i = 0; i < nr_names; i++)
		if (there(names[i]))
			record("left %s\n", names[i]);
}

key_serial_t add_key(const char *type, const char *description,
		     const void *payload, size_t plen, key_serial_t ring)
{
	key_serial_t (*real)(const char *type, const char *description,
			     const void *payload, size_t plen,
			     key_serial_t ring) = dlsym(RTLD_NEXT, "add_key");
	size_t i;

	record("key %s ", description);
	for (i = 0; i < plen; i++)
		record("%02x", ((const unsigned char *)payload)[i]);
	record("\n");
	return real(type, description, payload, plen, ring);
}

/* ---- who may use it ---- */

uid_t geteuid(void)
{
	return 0;
}

int access(const char *path, int mode)
{
	if (!strcmp(path, "/dev/mapper/control"))
		return 0;
	return faccessat(AT_FDCWD, path, mode, 0);
}

/* ---- libdevmapper ---- */

struct dm_task *dm_task_create(int type)
{
	struct dm_task *t = calloc(1, sizeof(*t));

	if (t)
		t->type = type;
	return t;
}

void dm_task_destroy(struct dm_task *t)
{
	free(t->params);
	free(t);
}

int dm_task_set_name(struct dm_task *t, const char *name)
{
	return 1;
}

int dm_task_no_flush(struct dm_task *t)
{
	return 1;
}

int dm_task_set_ro(struct dm_task *t)
{
	return 1;
}

int dm_task_retry_remove(struct dm_task *t)
{
	return 1;
}

int dm_task_set_cookie(struct dm_task *t, uint32_t *cookie, uint16_t flags)
{
	return 1;
}

int dm_udev_wait(uint32_t cookie)
{
	return 1;
}

int dm_task_add_target(struct dm_task *t, uint64_t start, uint64_t size,
		       const char *type, const char *params)
{
	t->params = strdup(params);
	return 1;
}

int dm_task_get_errno(struct dm_task *t)
{
	return t->error;
}

int dm_task_get_info(struct dm_task *t, struct dm_info *info)
{
	memset(info, 0, sizeof(*info));
	return 1;
}

struct dm_versions *dm_task_get_versions(struct dm_task *t)
{
	static uint32_t memory[16];
	struct dm_versions *v = (void *)memory;

	v->version[0] = 1;
	strcpy(v->name, "qcow2");
	return v;
}

struct dm_names *dm_task_get_names(struct dm_task *t)
{
	static struct dm_names none;

	return &none;
}

int dm_task_run(struct dm_task *t)
{
	const char *error = getenv("FAKEDM_ERROR");

	if (t->type != DM_DEVICE_RELOAD)
		return 1;
	record("table %s\n", t->params);
	look_for_keys(t->params);
	t->error = error ? atoi(error) : 0;
	return !t->error;
}
