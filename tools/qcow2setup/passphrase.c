// SPDX-License-Identifier: GPL-2.0
/*
 * This file owns the question for a passphrase: on the terminal, without echo;
 * from a file, all of it as it is; or a line of what stdin is otherwise. The same
 * rules as those of cryptsetup.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "qcow2setup.h"

#define MAX_LINE 512
#define MAX_FILE (8u << 20)

static volatile sig_atomic_t caught;

static void catch(int number)
{
	caught = number;
}

static const int numbers[] = {
	SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU,
};

/* Without SA_RESTART, so that a read ends and the terminal can be restored. */
static void catch_signals(struct sigaction *old)
{
	struct sigaction sa = { .sa_handler = catch };
	size_t i;

	caught = 0;
	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		sigaction(numbers[i], NULL, &old[i]);
		if (old[i].sa_handler != SIG_IGN)
			sigaction(numbers[i], &sa, NULL);
	}
}

static void restore_signals(const struct sigaction *old)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &old[i], NULL);
}

/* Byte by byte: the next line is for whoever asks next. */
static enum result read_line(int fd, struct secret *s)
{
	char c;

	for (;;) {
		ssize_t n = read(fd, &c, 1);

		if (n < 0 && errno == EINTR && !caught)
			continue;
		if (n < 0 && errno == EINTR)
			return FAILED;
		if (n < 0) {
			log_err("The passphrase cannot be read: %s.",
				strerror(errno));
			return FAILED;
		}
		if (!n || c == '\n')
			break;
		if (s->len == s->room) {
			log_err("The passphrase is longer than %u bytes. --key-file reads a longer one.",
				MAX_LINE);
			return FAILED;
		}
		s->data[s->len++] = c;
		c = 0;
	}
	return OK;
}

static void prompt(int fd, const char *what, const char *path)
{
	char *safe = text_escape(path, strlen(path));
	char *text = xasprintf("%s %s: ", what, safe);

	if (write(fd, text, strlen(text)) < 0)
		log_dbg("the terminal cannot be written");
	free(text);
	free(safe);
}

/* One attempt; @again: it was stopped, and has gone on. */
static enum result ask_once(int fd, const char *what, const char *path,
			    struct secret *s, bool *again)
{
	struct sigaction old[ARRAY_SIZE(numbers)];
	struct termios before, silent;
	enum result ret;
	int number;

	if (tcgetattr(fd, &before) < 0) {
		log_err("The terminal cannot be asked not to show the passphrase: %s.",
			strerror(errno));
		return FAILED;
	}
	silent = before;
	silent.c_lflag &= ~(ECHO | ECHONL);
	s->len = 0;
	catch_signals(old);
	tcsetattr(fd, TCSAFLUSH, &silent);
	prompt(fd, what, path);
	ret = caught ? FAILED : read_line(fd, s);
	number = caught;
	tcsetattr(fd, TCSAFLUSH, &before);
	if (write(fd, "\n", 1) < 0)
		log_dbg("the terminal cannot be written");
	restore_signals(old);
	*again = number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
	if (number) {
		explicit_bzero(s->data, s->room);
		/* ends the program, unless it has something to clean up */
		kill(getpid(), number);
	}
	if (number && !*again)
		log_err("Interrupted.");
	return ret;
}

static enum result ask(const char *what, const char *path, struct secret *s)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	enum result ret;
	bool again;

	do {
		again = false;
		ret = ask_once(fd < 0 ? STDIN_FILENO : fd, what, path, s, &again);
	} while (again);
	if (fd >= 0)
		close(fd);
	return ret;
}

static enum result ask_twice(const char *path, struct secret *s)
{
	struct secret other;
	enum result ret = ask("Enter new passphrase for", path, s);

	if (ret)
		return ret;
	secret_new(&other, MAX_LINE);
	ret = ask("Verify new passphrase for", path, &other);
	if (!ret && (s->len != other.len ||
		     memcmp(s->data, other.data, s->len))) {
		log_err("The passphrases do not match.");
		ret = FAILED;
	}
	secret_free(&other);
	return ret;
}

/* ---------------------------------------------------------------- */

static enum result read_all(int fd, const char *name, struct secret *s)
{
	char more;
	ssize_t n;

	do {
		n = s->len < s->room ?
			read(fd, s->data + s->len, s->room - s->len) :
			read(fd, &more, 1);
		if (n < 0 && errno == EINTR) {
			n = 1;
			continue;
		}
		if (n < 0) {
			log_err("%s cannot be read: %s.", name, strerror(errno));
			return FAILED;
		}
		if (n && s->len == s->room) {
			log_err("%s is larger than %u MiB, and no key file is.",
				name, MAX_FILE >> 20);
			return FAILED;
		}
		s->len += n;
	} while (n);
	if (s->len)
		return OK;
	log_err("%s is empty: there is no key in it.", name);
	return FAILED;
}

static enum result read_file(const char *path, struct secret *s)
{
	enum result ret;
	int fd;

	secret_new(s, MAX_FILE);
	if (!strcmp(path, "-"))
		return read_all(STDIN_FILENO, "The standard input", s);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0) {
		log_err("The key file %s cannot be opened: %s.", path,
			strerror(errno));
		return errno == EACCES ? NO_PERMISSION : FAILED;
	}
	ret = read_all(fd, path, s);
	close(fd);
	return ret;
}

/* ---------------------------------------------------------------- */

/**
 * passphrase_asks() - would the user be asked?
 * @file: a key file, or NULL
 *
 * Return: whether there is somebody who can try again.
 */
bool passphrase_asks(const char *file)
{
	return !file && isatty(STDIN_FILENO);
}

/**
 * passphrase_get() - have the passphrase of an image
 * @file: a key file, "-" is all of stdin; or NULL: a line of it, or the terminal
 * @path: of the image
 * @s: filled in, for secret_free() in either case
 *
 * Return: OK, or what to exit with.
 */
enum result passphrase_get(const char *file, const char *path, struct secret *s)
{
	memset(s, 0, sizeof(*s));
	if (file)
		return read_file(file, s);
	secret_new(s, MAX_LINE);
	caught = 0;
	if (!isatty(STDIN_FILENO))
		return read_line(STDIN_FILENO, s);
	return ask("Enter passphrase for", path, s);
}

/**
 * passphrase_get_new() - have a new passphrase for an image
 * @file: as of passphrase_get()
 * @path: of the image
 * @s: filled in, for secret_free() in either case
 *
 * On a terminal it has to be typed twice.
 *
 * Return: OK, or what to exit with.
 */
enum result passphrase_get_new(const char *file, const char *path,
			       struct secret *s)
{
	enum result ret;

	if (!passphrase_asks(file)) {
		ret = passphrase_get(file, path, s);
	} else {
		secret_new(s, MAX_LINE);
		ret = ask_twice(path, s);
	}
	if (!ret && !s->len) {
		log_err("The new passphrase is empty: anybody could open the image.");
		ret = FAILED;
	}
	return ret;
}
