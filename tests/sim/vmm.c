// SPDX-License-Identifier: Apache-2.0
/*
 * A hypervisor without a guest: named threads that use known CPU time.
 *
 * It is run under a hypervisor's name and with that one's arguments, which it does not read: what
 * its threads are called depends on its name. SIM_VMM_VCPUS: how many vCPUs (2). SIM_VMM_BUSY: the
 * share of the time that each of them is busy (0).  SIM_VMM_UNNAMED: threads have no names.
 *
 * It prints "ready" and then obeys its standard input until that ends:
 *
 *   burn VCPU_USEC API_USEC MAIN_USEC   each vCPU, the API's and the main thread use that much
 *   churn COUNT USEC                    as many threads, one after another, use that much and end
 *   tell                                nothing
 *
 * After each it prints, in nanoseconds so far, "used VCPUS PROCESS": of all vCPUs, and of all.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define MOST_VCPUS 64
#define PERIOD_NS 20000000

struct worker {
	pthread_t thread;
	char name[16];
	int64_t wanted_ns; /* to use from now on; 0: nothing is asked */
	clockid_t clock;
	int has_clock;
	double busy;
};

static struct worker workers[MOST_VCPUS + 1];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static int64_t clock_ns(clockid_t which)
{
	struct timespec t;

	clock_gettime(which, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void use(int64_t wanted_ns)
{
	int64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + wanted_ns;

	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end)
		for (volatile int i = 0; i < 1000; i++)
			;
}

static void nap(int64_t ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};

	nanosleep(&t, NULL);
}

static void *work(void *argument)
{
	struct worker *self = argument;

	if (self->name[0])
		prctl(PR_SET_NAME, self->name);
	pthread_mutex_lock(&lock);
	pthread_getcpuclockid(pthread_self(), &self->clock);
	self->has_clock = 1;
	pthread_cond_broadcast(&changed);
	while (self->busy > 0) {
		pthread_mutex_unlock(&lock);
		use(self->busy * PERIOD_NS);
		nap((1 - self->busy) * PERIOD_NS);
		pthread_mutex_lock(&lock);
	}
	for (;;) {
		while (!self->wanted_ns)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
		use(self->wanted_ns);
		pthread_mutex_lock(&lock);
		self->wanted_ns = 0;
		pthread_cond_broadcast(&changed);
	}
	return NULL;
}

static void *pass(void *argument)
{
	use(*(int64_t *)argument);
	return NULL;
}

static void tell(int vcpus)
{
	int64_t used_ns = 0;

	for (int i = 0; i < vcpus; i++)
		used_ns += clock_ns(workers[i].clock);
	printf("used %lld %lld\n", (long long)used_ns,
	       (long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID));
	fflush(stdout);
}

static void start(struct worker *worker, const char *form, int number, double busy)
{
	if (!getenv("SIM_VMM_UNNAMED"))
		snprintf(worker->name, sizeof worker->name, form, number);
	worker->busy = busy;
	if (pthread_create(&worker->thread, NULL, work, worker))
		_exit(1);
	pthread_mutex_lock(&lock);
	while (!worker->has_clock)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void burn(int vcpus, int64_t vcpu_ns, int64_t api_ns, int64_t main_ns)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < vcpus; i++)
		workers[i].wanted_ns = vcpu_ns;
	workers[vcpus].wanted_ns = api_ns;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	use(main_ns);
	pthread_mutex_lock(&lock);
	for (int i = 0; i <= vcpus; i++)
		while (workers[i].wanted_ns)
			pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void churn(int count, int64_t each_ns)
{
	for (int i = 0; i < count; i++) {
		pthread_t passing;

		if (pthread_create(&passing, NULL, pass, &each_ns))
			_exit(1);
		pthread_join(passing, NULL);
	}
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	const char *base = slash ? slash + 1 : argv[0];
	const char *form = !strncmp(base, "firecracker", 11) ? "fc_vcpu %d"
		: !strncmp(base, "cloud-hypervisor", 16) ? "vcpu%d" : "CPU %d/KVM";
	int vcpus = atoi(getenv("SIM_VMM_VCPUS") ? getenv("SIM_VMM_VCPUS") : "2");
	double busy = atof(getenv("SIM_VMM_BUSY") ? getenv("SIM_VMM_BUSY") : "0");
	char line[128];
	long long a, b, c;

	(void)argc;
	if (vcpus < 1 || vcpus > MOST_VCPUS || busy < 0 || busy > 0.95)
		return 2;
	prctl(PR_SET_NAME, base);
	for (int i = 0; i < vcpus; i++)
		start(&workers[i], form, i, busy);
	start(&workers[vcpus], "fc_api", 0, 0);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "burn %lld %lld %lld", &a, &b, &c) == 3)
			burn(vcpus, a * 1000, b * 1000, c * 1000);
		else if (sscanf(line, "churn %lld %lld", &a, &b) == 2)
			churn(a, b * 1000);
		tell(vcpus);
	}
	_exit(0);
}
