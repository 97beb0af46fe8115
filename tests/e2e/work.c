// SPDX-License-Identifier: Apache-2.0
/*
 * Keeps a CPU busy for a part of the time, without a library, a child or a file: it runs alone in a
 * container's root directory.
 *
 *   work PERCENT [USEC]      PERCENT of each 20 ms; ends when it has used USEC of CPU time since it
 *                            began: what its runtime used before it, in the same process, is not in
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PERIOD_NS 20000000LL

static int64_t clock_ns(clockid_t which)
{
	struct timespec t;

	clock_gettime(which, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int64_t busy_ns, most_ns, next_ns, end_ns;
	struct timespec until;

	if (argc < 2) {
		fprintf(stderr, "usage: work PERCENT [USEC]\n");
		return 2;
	}
	busy_ns = PERIOD_NS * atoi(argv[1]) / 100;
	most_ns = INT64_MAX;
	if (argc > 2)
		most_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) + atoll(argv[2]) * 1000;
	next_ns = clock_ns(CLOCK_MONOTONIC);
	while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < most_ns) {
		end_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) + busy_ns;
		while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < (end_ns < most_ns ? end_ns : most_ns))
			;
		next_ns += PERIOD_NS;
		until.tv_sec = next_ns / 1000000000LL;
		until.tv_nsec = next_ns % 1000000000LL;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
	return 0;
}
