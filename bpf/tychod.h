/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the kernel programs and their readers share: the layout of every map.  The Python side is
 * tychod/kernel/bpf/abi.py; a test compares the two.  Any change of a layout, of a meaning or of a
 * map's name raises TY_ABI: pins of another number are never opened.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC.  A map "[a][b]" is flat, the last index runs fastest.
 */
#ifndef TYCHOD_H
#define TYCHOD_H

#define TY_ABI 1

#define TY_BUCKET_NS 50000000ULL
#define TY_BUCKETS 64
#define TY_NAME_BYTES 224
#define TY_COMM_BYTES 16
#define TY_COUNTERS 3 /* cycles, instructions, last-level-cache misses */

#define TY_SLOT_OVERFLOW 0 /* cgroups for which the table had no room */
#define TY_SLOT_KERNEL 1   /* kernel threads of the root cgroup */
#define TY_SLOT_FIRST 2
#define TY_SLOT_UNKNOWN 0xffffffffU /* (bcc) who runs is known only when it stops running */

/* What a CPU does, by the innermost context. */
enum ty_kind {
	TY_TASK = 0,
	TY_SOFTIRQ = 1,
	TY_IRQ = 2,
	TY_KINDS = 3,
};

enum ty_loader {
	TY_LOADER_CORE = 1,
	TY_LOADER_BCC = 2,
};

enum ty_flag {
	TY_FLAG_PROCESSES = 1,
	TY_FLAG_VECTORS = 2, /* system vectors (local timer, ...) are told from task time */
	TY_FLAG_COUNTER_0 = 16,
	TY_FLAG_COUNTER_1 = 32,
	TY_FLAG_COUNTER_2 = 64,
};

/* ty_ctl[1] */
struct ty_ctl {
	/* written by the loader before anything is attached */
	__u32 abi;
	__u32 loader;    /* enum ty_loader */
	__u32 ncpu;      /* rows of ty_cpu: possible CPUs */
	__u32 npkg;      /* packages (sockets) */
	__u32 nslot;     /* slots of each package */
	__u32 hierarchy; /* 2: cgroup2, 1: cpuacct */
	__u32 flags;     /* enum ty_flag */
	__u32 nproc;     /* entries of ty_proc */
	__u64 stamp;     /* random; another one: another life of the maps, everything from 0 */
	__u64 created;
	__u64 root_cgid;
	__u64 unused_a;
	/* written by the one reader */
	__u64 closed;    /* buckets up to this number are the reader's: charge them no more */
	__u64 epoch;     /* raised: cached slots must be looked up again */
	__u64 retired;   /* softirq and irq time of slots that were given back: it stays in the sum */
	__u64 unused_b[5];
	/* written by the programs */
	__u64 next_slot; /* the first slot never used */
	__u64 changes;   /* slots taken, cgroups removed */
	__u64 no_slot;   /* how often a CPU found no free slot; each looks every 10 ms at most */
	__u64 late;      /* time charged to closed buckets: in the totals, not in a bucket */
	__u64 proc_lost; /* time that found no place in ty_proc */
	__u64 exit_lost; /* exit records that found no room */
	__u64 missed;    /* switches that the kernel did not tell: up to a tick each is another's */
	__u64 unused_c;
};

/*
 * ty_cpu[ncpu]: what each CPU is doing.  Consistent while enter == leave: every program raises
 * the first before and the second after it writes.
 */
struct ty_cpu {
	__u64 enter;
	__u64 leave;
	__u64 ts;     /* up to here all time is accounted, in acc or in the totals; 0: not started */
	__u64 edge;   /* end of the bucket that ts lies in */
	__u64 bucket; /* its number */
	__u64 acc[TY_KINDS]; /* since the last charge, all of it in this bucket */
	__u64 cgid;   /* of the running task; 0: kernel thread of the root; kept while idle */
	__u32 slot;
	__u32 pkg;    /* written by the loader */
	__u64 start;  /* of the running process: its start_boottime */
	__u32 tgid;   /* 0: idle */
	__u32 pend;   /* 1: at pend_at the running task came into pend_cgid */
	__u32 irq;    /* depth */
	__u32 soft;
	__u64 epoch;
	__u64 pend_at;
	__u64 pend_cgid;
	__u32 pend_slot;
	__u32 unused_a;
	__u64 idle[TY_KINDS]; /* time of the idle task, and softirq and irq time while it was current */
	__u64 switches;
	__u64 t0;      /* the clock of this CPU began */
	__u64 charged; /* time of the last charge */
	__u64 full;    /* when it last found no free slot */
};

/* ty_info[nslot]: which cgroup has a slot; cgid 0: none. */
struct ty_info {
	__u64 cgid;
	__u64 parent; /* its parent's id */
	__u64 born;   /* when the slot was taken */
	__u64 gone;   /* when the cgroup was removed; 0: it is there */
	char name[TY_NAME_BYTES]; /* the last part of its path, cut to fit */
};

/* ty_total[npkg][nslot]: cumulative time while the cgroup's tasks were current. */
struct ty_total {
	__u64 ns[TY_KINDS];
	__u64 switches; /* how often one of its tasks stopped running */
};

/*
 * ty_bucket[TY_BUCKETS][npkg][nslot]: __u64, task time in bucket number b at row b % TY_BUCKETS.
 * ty_irq_bucket[ncpu][TY_BUCKETS]:    __u64, softirq and irq time of each CPU.
 * ty_slot_of: cgid -> __u32 slot.  ty_free: queue of slots to use again.
 */

/* ty_proc: LRU hash, lossy by design; totals never come from it. */
struct ty_proc_key {
	__u64 cgid;
	__u64 start; /* of the leader: start_boottime; / 10^7 it is field 22 of /proc/PID/stat */
	__u32 tgid;
	__u32 unused;
};

struct ty_proc {
	__u64 ns[TY_KINDS];
	__u64 switches;
	__u64 exited; /* 0: it lives */
	char comm[TY_COMM_BYTES];
};

/* ty_exit: ring buffer, one record for each process that ended and had used enough. */
struct ty_exit {
	__u64 cgid;
	__u64 start;
	__u32 tgid;
	__u32 unused;
	__u64 ns;     /* all kinds, up to here; the last slice is charged after this */
	__u64 exited;
	char comm[TY_COMM_BYTES];
};

/* ty_pmu_total[npkg][nslot]: hardware counters while the cgroup's tasks ran. */
struct ty_pmu_total {
	__u64 value[TY_COUNTERS]; /* scaled for multiplexing */
	__u64 ns[TY_COUNTERS];    /* time that the value covers: no time, no value */
};

/* ty_pmu_prev[ncpu][TY_COUNTERS] */
struct ty_pmu_prev {
	__u64 counter;
	__u64 enabled;
	__u64 running;
};

_Static_assert(sizeof(struct ty_ctl) == 192, "ty_ctl");
_Static_assert(sizeof(struct ty_cpu) == 192, "ty_cpu");
_Static_assert(sizeof(struct ty_info) == 256, "ty_info");
_Static_assert(sizeof(struct ty_total) == 32, "ty_total");
_Static_assert(sizeof(struct ty_proc_key) == 24, "ty_proc_key");
_Static_assert(sizeof(struct ty_proc) == 56, "ty_proc");
_Static_assert(sizeof(struct ty_exit) == 56, "ty_exit");
_Static_assert(sizeof(struct ty_pmu_total) == 48, "ty_pmu_total");
_Static_assert(sizeof(struct ty_pmu_prev) == 24, "ty_pmu_prev");

#endif
