/* A driver that hangs: reads of files whose path contains $HANG_PATH never return while the file
 * $HANG_WHILE exists.  Preloaded into the daemon; the hang is in the C library call, where a
 * hung driver would be. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void maybe_hang(int fd)
{
	const char *part = getenv("HANG_PATH"), *flag = getenv("HANG_WHILE");
	char link[64], path[4096];
	ssize_t n;

	if (!part || !flag)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return;
	path[n] = 0;
	if (strstr(path, part))
		while (access(flag, F_OK) == 0)
			usleep(20000);
}

ssize_t pread64(int fd, void *buf, size_t count, off64_t offset)
{
	static ssize_t (*real)(int, void *, size_t, off64_t);

	if (!real)
		real = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
	maybe_hang(fd);
	return real(fd, buf, count, offset);
}

ssize_t pread(int fd, void *buf, size_t count, off_t offset)
{
	return pread64(fd, buf, count, offset);
}
