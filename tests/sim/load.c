// SPDX-License-Identifier: Apache-2.0
/*
 * Loads with a known shape, for the accounting's tests and benchmarks.
 *
 *   load PROCS CPU SECONDS KIND [ARGUMENTS]
 *
 * It enters the cgroup whose cgroup.procs is PROCS ("-": stays), pins itself to CPU (-1: to none),
 * prints "ready", waits for a byte on its standard input, runs for SECONDS, prints "done N", where N
 * is how often it did its thing, and waits for the end of its standard input.
 *
 *   busy                     loops without a system call
 *   pingpong [PROCS]         two processes pass a byte through two pipes: nothing but switches;
 *                            the second one in a cgroup of its own, if one is given
 *   udp PER_BURST            a burst of datagrams over the loopback each millisecond
 *   spawn PER_SECOND USEC    processes that use USEC of CPU time and end; as many as PER_SECOND*SECONDS
 *   born USEC CGROUP...      one such process in each of these cgroups, there from its first moment
 *   burn USEC                one such process (by this name: neither cgroup, nor pinning, nor words)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AT_ONCE 16 /* unwaited children */

extern char **environ;

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int64_t clock_ns(clockid_t which)
{
	struct timespec t;

	clock_gettime(which, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void sleep_until(int64_t at)
{
	struct timespec t = {at / 1000000000LL, at % 1000000000LL};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static long busy(int64_t end)
{
	long n = 0;

	for (; now_ns() < end; n++)
		for (volatile int i = 0; i < 1000; i++)
			;
	return n;
}

/* Asleep first: cpu.stat gives what a task used since its last switch or tick to where it is then. */
static void enter(const char *procs)
{
	int fd = open(procs, O_WRONLY | O_CLOEXEC);

	sleep_until(now_ns() + 1000000);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die(procs);
	close(fd);
}

static long pingpong(int64_t end, const char *others)
{
	int there[2], back[2];
	long n = 0;
	pid_t other;
	char byte = 0;

	if (pipe(there) || pipe(back))
		die("pipe");
	other = fork();
	if (other < 0)
		die("fork");
	if (!other) {
		if (others)
			enter(others);
		close(there[1]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				break;
		_exit(0);
	}
	for (; now_ns() < end; n++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("pingpong");
	close(there[1]);
	waitpid(other, NULL, 0);
	return n;
}

static long udp(int64_t end, int burst)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	socklen_t size = sizeof(to);
	char data[512] = {0};
	int in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0);
	pid_t receiver;
	int64_t at;
	long n = 0;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (in < 0 || out < 0 || bind(in, (void *)&to, sizeof(to)) ||
	    getsockname(in, (void *)&to, &size))
		die("socket");
	receiver = fork();
	if (receiver < 0)
		die("fork");
	if (!receiver)
		for (;;)
			if (recv(in, data, sizeof(data), 0) < 0)
				_exit(1);
	for (at = now_ns(); at < end; at += 1000000) {
		sleep_until(at);
		for (int i = 0; i < burst; i++, n++)
			if (sendto(out, data, sizeof(data), 0, (void *)&to, sizeof(to)) < 0)
				die("sendto");
	}
	kill(receiver, SIGKILL);
	waitpid(receiver, NULL, 0);
	return n;
}

static long spawn(int64_t start, int64_t end, long per_second, char *usec)
{
	char self[] = "/proc/self/exe", word[] = "burn";
	char *words[] = {word, usec, NULL};
	long count = (end - start) / 1000 * per_second / 1000000, n, left = 0;
	pid_t child;

	for (n = 0; n < count; n++) {
		sleep_until(start + n * 1000000000LL / per_second);
		if (posix_spawn(&child, self, NULL, NULL, words, environ))
			die("posix_spawn");
		left++;
		while (left && waitpid(-1, NULL, left > AT_ONCE ? 0 : WNOHANG) > 0)
			left--;
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
	return n;
}

static int burn(int64_t usec)
{
	while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < usec * 1000)
		;
	return 0;
}

static long born(char *usec, char **cgroups)
{
	char self[] = "/proc/self/exe", word[] = "burn";
	char *words[] = {word, usec, NULL};
	long n;

	for (n = 0; cgroups[n]; n++) {
		struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
		int fd = open(cgroups[n], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		pid_t child;

		how.cgroup = fd;
		child = fd < 0 ? -1 : syscall(SYS_clone3, &how, sizeof(how));
		if (child < 0)
			die(cgroups[n]);
		if (!child) {
			execv(self, words);
			_exit(1);
		}
		close(fd);
		waitpid(child, NULL, 0);
	}
	return n;
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

int main(int argc, char **argv)
{
	int64_t start, end;
	const char *kind;
	long n;
	char byte;

	if (argc == 2 && !strcmp(argv[0], "burn"))
		return burn(atoll(argv[1]));
	if (argc < 5)
		die("arguments: PROCS CPU SECONDS KIND ...");
	if (strcmp(argv[1], "-"))
		enter(argv[1]);
	if (atoi(argv[2]) >= 0)
		stay_on(atoi(argv[2]));
	kind = argv[4];
	puts("ready");
	fflush(stdout);
	if (read(0, &byte, 1) != 1)
		return 0;
	start = now_ns();
	end = start + (int64_t)(atof(argv[3]) * 1e9);
	if (!strcmp(kind, "busy"))
		n = busy(end);
	else if (!strcmp(kind, "pingpong"))
		n = pingpong(end, argc > 5 ? argv[5] : NULL);
	else if (!strcmp(kind, "udp") && argc == 6)
		n = udp(end, atoi(argv[5]));
	else if (!strcmp(kind, "spawn") && argc == 7)
		n = spawn(start, end, atol(argv[5]), argv[6]);
	else if (!strcmp(kind, "born") && argc > 6)
		n = born(argv[5], argv + 6);
	else
		die("no such load");
	printf("done %ld\n", n);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
