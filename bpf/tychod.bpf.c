// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * CPU time, exactly: every nanosecond of every CPU belongs to the running task's cgroup, to softirq,
 * to irq or to idle.  The programs add up in maps that the daemon reads by mmap; nothing is sent.
 *
 * Each CPU has one state (struct ty_cpu).  Time passes into acc[] of the current kind (advance) and
 * from there, when somebody else comes to run, when a tick comes or when a 50 ms bucket ends, into the totals and the
 * bucket (flush).  So between two events of a CPU nothing is lost and nothing counted twice.
 *
 * Interrupts.  Some tracepoints run with interrupts on: softirq entry and exit, exec, attach.
 * An irq program may come in the middle of theirs on the same CPU, do its whole work and return.
 * They are written for that ("open" below): ts is the token of who owns an interval, taken with a
 * compare-and-swap; acc[] is added to and taken atomically; exec and attach only leave a note
 * (pend) that the next event of the CPU settles.  The others own the CPU while they run.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tychod.h"

#define PF_KTHREAD 0x00200000
#define SETTLE_NS 1000000ULL /* an irq charges what is older than this, and looks who runs */
#define WALK_BUCKETS 8       /* a longer silence than this many buckets is the reader's to place */
#define CLAIM_TRIES 4
#define LEVELS 16            /* how far up a cgroup without a slot looks for one */
#define AGAIN_NS 10000000ULL /* a CPU that found the table full tries again after this */
#define NO_EPOCH (~0ULL)     /* of a slot that is not the cgroup's own */

#define ACCESS_ONCE(x) (*(volatile typeof(x) *)&(x))

/* Set by the loader before the programs are verified: what is off costs nothing. */
const volatile __u32 ty_abi = TY_ABI;
const volatile __u32 ty_nslot = 4096;
const volatile __u32 ty_npkg = 1;
const volatile __u32 ty_hierarchy = 2;
const volatile __s32 ty_hierarchy_id = 0;
const volatile __u64 ty_root_cgid = 1;
const volatile bool ty_processes = false;
const volatile __u64 ty_exit_ns = 1000000;
const volatile bool ty_counter_0 = false;
const volatile bool ty_counter_1 = false;
const volatile bool ty_counter_2 = false;
const volatile bool ty_weak_order = false; /* this machine may reorder stores (not x86) */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ty_ctl);
} ty_ctl SEC(".maps");

/* The loader sets the sizes of all maps below that depend on the machine or on settings. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ty_cpu);
} ty_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ty_info);
} ty_info SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ty_total);
} ty_total SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TY_BUCKETS * 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} ty_bucket SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TY_BUCKETS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} ty_irq_bucket SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} ty_slot_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, __u32);
} ty_free SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct ty_proc_key);
	__type(value, struct ty_proc);
} ty_proc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} ty_exit SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct ty_pmu_total);
} ty_pmu_total SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TY_COUNTERS);
	__type(key, __u32);
	__type(value, struct ty_pmu_prev);
} ty_pmu_prev SEC(".maps");

/* PRESERVE_ELEMS: else the events leave the map when the loader's descriptor closes. */
#define PERF_EVENTS(name)                                     \
	struct {                                              \
		__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);  \
		__uint(max_entries, 1);                       \
		__uint(map_flags, BPF_F_PRESERVE_ELEMS);      \
		__uint(key_size, sizeof(__u32));              \
		__uint(value_size, sizeof(__u32));            \
	} name SEC(".maps")

PERF_EVENTS(ty_pmu_0);
PERF_EVENTS(ty_pmu_1);
PERF_EVENTS(ty_pmu_2);

/* ---- the state of this CPU ---- */

static __always_inline struct ty_ctl *control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ty_ctl, &zero);
}

static __always_inline struct ty_cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&ty_cpu, &cpu);
}

/* What is "open" may be interrupted by another program of this CPU that does the same. */
static __always_inline void add(__u64 *to, __u64 ns, const bool open)
{
	if (open)
		__sync_fetch_and_add(to, ns);
	else
		*to += ns;
}

/* On machines that reorder stores only an atomic operation with a result is a barrier. */
static __always_inline void fence_add(__u64 *to)
{
	__u64 before = __sync_fetch_and_add(to, 1);

	asm volatile("" : : "r"(before));
}

/* The reader takes a copy while enter == leave. */
static __always_inline void enter(struct ty_cpu *s, const bool open)
{
	if (ty_weak_order)
		fence_add(&s->enter);
	else
		add(&s->enter, 1, open);
	barrier();
}

static __always_inline void leave(struct ty_cpu *s, const bool open)
{
	barrier();
	if (ty_weak_order)
		fence_add(&s->leave);
	else
		add(&s->leave, 1, open);
}

static __always_inline __u32 kind_of(const struct ty_cpu *s)
{
	return s->irq ? TY_IRQ : s->soft ? TY_SOFTIRQ : TY_TASK;
}

/* ---- where time ends up ---- */

/* A bucket that is closed belongs to the reader, which has counted this time already. */
static __always_inline void to_bucket(const struct ty_cpu *s, __u32 kind, __u64 bucket, __u64 ns)
{
	struct ty_ctl *ctl = control();
	__u32 row = bucket % TY_BUCKETS, at;
	__u64 *cell;

	if (!ctl)
		return;
	if (bucket <= ACCESS_ONCE(ctl->closed)) {
		__sync_fetch_and_add(&ctl->late, ns);
		return;
	}
	if (kind == TY_TASK) {
		at = (row * ty_npkg + s->pkg) * ty_nslot + s->slot;
		cell = bpf_map_lookup_elem(&ty_bucket, &at);
	} else {
		at = bpf_get_smp_processor_id() * TY_BUCKETS + row;
		cell = bpf_map_lookup_elem(&ty_irq_bucket, &at);
	}
	if (cell)
		__sync_fetch_and_add(cell, ns);
}

static __noinline int to_process(struct ty_cpu *s, __u64 task, __u64 soft, __u64 irq)
{
	struct ty_proc_key key = {.cgid = s->cgid, .start = s->start, .tgid = s->tgid};
	struct ty_proc *proc = bpf_map_lookup_elem(&ty_proc, &key);
	struct ty_proc fresh = {.ns = {task, soft, irq}, .switches = 1};
	struct task_struct *current;
	struct ty_ctl *ctl;

	if (!proc) {
		current = bpf_get_current_task_btf();
		if (current->tgid == s->tgid)
			bpf_probe_read_kernel(fresh.comm, sizeof(fresh.comm),
					      &current->group_leader->comm);
		if (!bpf_map_update_elem(&ty_proc, &key, &fresh, BPF_NOEXIST))
			return 0;
		proc = bpf_map_lookup_elem(&ty_proc, &key); /* another CPU was first */
	}
	if (proc) {
		__sync_fetch_and_add(&proc->ns[TY_TASK], task);
		__sync_fetch_and_add(&proc->ns[TY_SOFTIRQ], soft);
		__sync_fetch_and_add(&proc->ns[TY_IRQ], irq);
		__sync_fetch_and_add(&proc->switches, 1);
		return 0;
	}
	ctl = control();
	if (ctl)
		__sync_fetch_and_add(&ctl->proc_lost, task + soft + irq);
	return 0;
}

static __always_inline struct ty_total *total_of(const struct ty_cpu *s)
{
	__u32 at = s->pkg * ty_nslot + s->slot;

	return bpf_map_lookup_elem(&ty_total, &at);
}

static __always_inline __u64 take(__u64 *from, const bool open)
{
	__u64 ns;

	if (open)
		return __sync_lock_test_and_set(from, 0);
	ns = *from;
	if (ns)
		*from = 0;
	return ns;
}

/* Book acc[] to whoever runs, and to the bucket that it belongs to. */
static __always_inline void flush(struct ty_cpu *s, __u64 bucket, const bool open)
{
	__u64 task = take(&s->acc[TY_TASK], open);
	__u64 soft = take(&s->acc[TY_SOFTIRQ], open);
	__u64 irq = take(&s->acc[TY_IRQ], open);
	struct ty_total *total;

	if (soft | irq)
		to_bucket(s, TY_IRQ, bucket, soft + irq);
	if (!s->tgid) {
		add(&s->idle[TY_TASK], task, open);
		if (soft)
			add(&s->idle[TY_SOFTIRQ], soft, open);
		if (irq)
			add(&s->idle[TY_IRQ], irq, open);
		return;
	}
	if (task)
		to_bucket(s, TY_TASK, bucket, task);
	total = total_of(s);
	if (total) {
		if (task)
			__sync_fetch_and_add(&total->ns[TY_TASK], task);
		if (soft)
			__sync_fetch_and_add(&total->ns[TY_SOFTIRQ], soft);
		if (irq)
			__sync_fetch_and_add(&total->ns[TY_IRQ], irq);
	}
	if (ty_processes && s->cgid && (task | soft | irq))
		to_process(s, task, soft, irq);
}

/*
 * What is rare is a global function: the verifier looks at it once in each program and not at each
 * call of it.  So that every kernel takes it, it has numbers as arguments and finds its state itself.
 */
__noinline int flush_open(__u64 bucket)
{
	struct ty_cpu *s = this_cpu();

	if (s)
		flush(s, bucket, true);
	return 0;
}

__noinline int whole_bucket(__u32 kind, __u64 bucket)
{
	struct ty_cpu *s = this_cpu();

	if (s)
		to_bucket(s, kind, bucket, TY_BUCKET_NS);
	return 0;
}

/*
 * An interval (from, now] that reaches beyond the end of its bucket: what belongs to the old bucket
 * is booked there, whole buckets in between to theirs, and the rest begins the present one.
 */
__noinline int cross(__u64 from, __u64 now)
{
	__u64 first = from / TY_BUCKET_NS, last = now / TY_BUCKET_NS, bucket;
	struct ty_cpu *s = this_cpu();
	struct ty_ctl *ctl;
	__u32 kind;
	int back;

	if (!s)
		return 0;
	kind = kind_of(s);
	if (kind >= TY_KINDS)
		return 0;
	/*
	 * A CPU that goes offline is not traced when it comes to its idle task, nor until it is back
	 * (DO_TRACE asks cpu_online()): the time since then is not of the task seen last.
	 */
	if (s->tgid && !bpf_get_current_task_btf()->pid) {
		flush_open(s->bucket);
		s->tgid = 0;
	}
	if (first < last) {
		__sync_fetch_and_add(&s->acc[kind], (first + 1) * TY_BUCKET_NS - from);
		flush_open(first);
		from = last * TY_BUCKET_NS;
	}
	if (first + 1 < last) {
		/* Through acc[] into the totals; the buckets, where they matter, by hand. */
		__u64 between = (last - first - 1) * TY_BUCKET_NS;
		struct ty_total *total;

		if (!s->tgid) {
			__sync_fetch_and_add(&s->idle[kind], between);
		} else {
			total = total_of(s);
			if (total)
				__sync_fetch_and_add(&total->ns[kind], between);
			if (ty_processes && s->cgid)
				to_process(s, kind == TY_TASK ? between : 0,
					   kind == TY_SOFTIRQ ? between : 0,
					   kind == TY_IRQ ? between : 0);
		}
		if (s->tgid || kind != TY_TASK) {
			for (back = 1; back <= WALK_BUCKETS; back++) {
				bucket = last - back;
				if (bucket <= first)
					break;
				whole_bucket(kind, bucket);
			}
			ctl = control();
			if (ctl && last - first - 1 > WALK_BUCKETS)
				__sync_fetch_and_add(&ctl->late, between - WALK_BUCKETS * TY_BUCKET_NS);
		}
	}
	s->bucket = last;
	ACCESS_ONCE(s->edge) = (last + 1) * TY_BUCKET_NS;
	__sync_fetch_and_add(&s->acc[kind], now - from);
	return 0;
}

static __always_inline void spend(struct ty_cpu *s, __u64 from, __u64 now, const bool open)
{
	__u32 kind = kind_of(s);

	if (now >= s->edge)
		cross(from, now);
	else
		add(&s->acc[kind], now - from, open);
}

/* The running task changed its cgroup at pend_at, in (from, now]: split there. */
__noinline __u64 settle(__u64 from, __u64 now)
{
	struct ty_cpu *s = this_cpu();
	__u64 at;

	if (!s || !__sync_lock_test_and_set(&s->pend, 0))
		return from;
	at = s->pend_at;
	if (at > now)
		at = now;
	if (at > from) {
		spend(s, from, at, true);
		from = at;
	}
	flush_open(s->bucket);
	s->cgid = s->pend_cgid;
	s->slot = s->pend_slot;
	return from;
}

/* Take the time since the last event, up to now, for what the CPU has been doing. */
static __always_inline __u64 advance(struct ty_cpu *s, const bool open)
{
	__u64 now = 0, from = 0;
	int tries;

	if (open) {
		for (tries = 0; tries < CLAIM_TRIES; tries++) {
			from = ACCESS_ONCE(s->ts);
			now = bpf_ktime_get_ns();
			if (now <= from)
				break; /* nothing to take */
			if (__sync_val_compare_and_swap(&s->ts, from, now) == from)
				break;
		}
		if (tries == CLAIM_TRIES)
			return now; /* it stays for the next event */
	} else {
		from = s->ts;
		now = bpf_ktime_get_ns();
		if (now > from)
			s->ts = now;
	}
	if (now < from)
		now = from;
	if (ACCESS_ONCE(s->pend))
		from = settle(from, now);
	if (now > from)
		spend(s, from, now, open);
	return now;
}

/* ---- who runs ---- */

static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
	if (ty_hierarchy == 1) {
		if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, cpuacct_cgrp_id))
			return NULL;
		return task->cgroups
			->subsys[bpf_core_enum_value(enum cgroup_subsys_id, cpuacct_cgrp_id)]
			->cgroup;
	}
	return task->cgroups->dfl_cgrp;
}

/* Give a cgroup its slot; TY_SLOT_OVERFLOW when there is none left. */
static __noinline __u32 new_slot(struct cgroup *cgroup, __u64 cgid)
{
	struct ty_ctl *ctl = control();
	struct ty_cpu *s = this_cpu();
	struct ty_info *info;
	__u32 slot = 0, *won;

	if (!ctl || !s || (s->full && s->ts - s->full < AGAIN_NS))
		return TY_SLOT_OVERFLOW;
	if (bpf_map_pop_elem(&ty_free, &slot)) {
		if (ACCESS_ONCE(ctl->next_slot) >= ty_nslot)
			goto full;
		slot = __sync_fetch_and_add(&ctl->next_slot, 1);
		if (slot >= ty_nslot)
			goto full;
	}
	info = bpf_map_lookup_elem(&ty_info, &slot);
	if (!info)
		goto full;
	info->parent = cgroup->self.parent ? cgroup->self.parent->cgroup->kn->id : 0;
	info->born = bpf_ktime_get_ns();
	info->gone = 0;
	bpf_probe_read_kernel_str(info->name, sizeof(info->name), cgroup->kn->name);
	ACCESS_ONCE(info->cgid) = cgid;
	if (bpf_map_update_elem(&ty_slot_of, &cgid, &slot, BPF_NOEXIST)) {
		info->name[0] = 0;
		ACCESS_ONCE(info->cgid) = 0;
		bpf_map_push_elem(&ty_free, &slot, 0);
		won = bpf_map_lookup_elem(&ty_slot_of, &cgid);
		if (won) /* another CPU was first */
			return *won;
		__sync_fetch_and_add(&ctl->no_slot, 1); /* -EBUSY: an irq met that part of the hash */
		return TY_SLOT_OVERFLOW;
	}
	__sync_fetch_and_add(&ctl->changes, 1);
	return slot;
full:
	s->full = s->ts;
	__sync_fetch_and_add(&ctl->no_slot, 1);
	return TY_SLOT_OVERFLOW;
}

/* Without a slot a cgroup's time is the nearest one's above that has one: most likely its tenant. */
static __noinline __u32 slot_above(struct cgroup *cgroup)
{
	struct cgroup_subsys_state *above = cgroup->self.parent;
	__u32 *slot;
	__u64 cgid;
	int level;

	for (level = 0; level < LEVELS && above; level++) {
		cgroup = above->cgroup;
		cgid = cgroup->kn->id;
		slot = bpf_map_lookup_elem(&ty_slot_of, &cgid);
		if (slot)
			return *slot;
		above = cgroup->self.parent;
	}
	return TY_SLOT_OVERFLOW;
}

/* Find who is charged for a cgroup; *own: by itself, so that it need not be looked up again. */
static __always_inline __u32 slot_of(struct cgroup *cgroup, __u64 cgid, bool *own)
{
	__u32 *known = bpf_map_lookup_elem(&ty_slot_of, &cgid), slot;

	*own = true;
	if (known)
		return *known;
	slot = new_slot(cgroup, cgid);
	if (slot != TY_SLOT_OVERFLOW)
		return slot;
	*own = false;
	return slot_above(cgroup);
}

/* From here on the time of this CPU is the task's. */
static __always_inline void rekey(struct ty_cpu *s, struct task_struct *task)
{
	const bool was_busy = s->tgid;
	struct cgroup *cgroup;
	struct ty_ctl *ctl;
	bool own = true;
	__u64 cgid;

	s->tgid = task->pid ? task->tgid : 0;
	if (!s->tgid)
		return; /* idle: the last cgroup is most likely the next one too */
	cgroup = cgroup_of(task);
	ctl = control();
	if (!cgroup || !ctl)
		return;
	cgid = cgroup->kn->id;
	if (cgid == ty_root_cgid && task->flags & PF_KTHREAD)
		cgid = 0;
	if (ty_processes)
		s->start = task->group_leader->start_boottime;
	if (cgid == s->cgid) {
		if (s->epoch == ACCESS_ONCE(ctl->epoch))
			return;
		/* The reader takes it that a CPU that was idle looks up what is not of this epoch. */
		if (s->epoch == NO_EPOCH && was_busy && s->ts - s->full < AGAIN_NS)
			return;
	}
	s->epoch = ACCESS_ONCE(ctl->epoch);
	s->cgid = cgid;
	s->slot = cgid ? slot_of(cgroup, cgid, &own) : TY_SLOT_KERNEL;
	if (!own)
		s->epoch = NO_EPOCH;
}

/* Some virtual machines' kernels hide the switches of their own agent: then somebody else runs. */
static __always_inline void note_missed(const struct ty_cpu *s, struct task_struct *runs)
{
	struct ty_ctl *ctl;

	if (s->tgid == (runs->pid ? (__u32)runs->tgid : 0))
		return;
	ctl = control();
	if (ctl)
		__sync_fetch_and_add(&ctl->missed, 1);
}

/* ---- hardware counters ---- */

static __always_inline void count_one(struct ty_cpu *s, void *events, __u32 which)
{
	struct bpf_perf_event_value now;
	__u32 cpu = bpf_get_smp_processor_id();
	__u32 at = cpu * TY_COUNTERS + which, total_at = s->pkg * ty_nslot + s->slot;
	struct ty_pmu_prev *prev = bpf_map_lookup_elem(&ty_pmu_prev, &at);
	struct ty_pmu_total *total;
	__u64 counted, enabled, running;

	if (!prev || bpf_perf_event_read_value(events, cpu, &now, sizeof(now)))
		return; /* not there now: its time is not covered */
	counted = now.counter - prev->counter;
	enabled = now.enabled - prev->enabled;
	running = now.running - prev->running;
	enabled = prev->enabled ? enabled : 0;
	prev->counter = now.counter;
	prev->enabled = now.enabled;
	prev->running = now.running;
	if (!s->tgid || !enabled || !running || running > enabled)
		return;
	total = bpf_map_lookup_elem(&ty_pmu_total, &total_at);
	if (!total)
		return;
	if (running < enabled) /* it shared the hardware with other events */
		counted = (counted * ((enabled << 16) / running)) >> 16;
	__sync_fetch_and_add(&total->value[which], counted);
	__sync_fetch_and_add(&total->ns[which], enabled);
}

static __always_inline void count(struct ty_cpu *s)
{
	if (ty_counter_0)
		count_one(s, &ty_pmu_0, 0);
	if (ty_counter_1)
		count_one(s, &ty_pmu_1, 1);
	if (ty_counter_2)
		count_one(s, &ty_pmu_2, 2);
}

/* ---- events ---- */

static __always_inline void begin_clock(struct ty_cpu *s)
{
	__u64 now = bpf_ktime_get_ns();

	s->bucket = now / TY_BUCKET_NS;
	s->edge = (s->bucket + 1) * TY_BUCKET_NS;
	s->charged = s->t0 = now;
	s->slot = TY_SLOT_KERNEL; /* as cgid 0 says: rekey looks up nothing for an equal one */
	s->ts = now;
}

static __always_inline void charge(struct ty_cpu *s, __u64 now)
{
	flush(s, s->bucket, false);
	s->charged = now;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(ty_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct ty_cpu *s = this_cpu();
	struct ty_total *total;

	if (!s)
		return 0;
	enter(s, false);
	if (s->ts) {
		note_missed(s, prev);
		charge(s, advance(s, false));
		s->switches++;
		if (s->tgid) {
			total = total_of(s);
			if (total)
				__sync_fetch_and_add(&total->switches, 1);
		}
	} else {
		begin_clock(s);
	}
	count(s);
	/* Attached in the middle of an irq, or a softirq that may be preempted (PREEMPT_RT). */
	s->irq = s->soft = 0;
	rekey(s, next);
	leave(s, false);
	return 0;
}

static __always_inline int irq_in(void)
{
	struct ty_cpu *s = this_cpu();
	struct task_struct *task;
	__u64 now;

	if (!s || !s->ts)
		return 0;
	enter(s, false);
	now = advance(s, false);
	if (!s->irq && now - s->charged > SETTLE_NS) {
		task = bpf_get_current_task_btf();
		note_missed(s, task);
		charge(s, now);
		rekey(s, task);
	}
	s->irq++;
	leave(s, false);
	return 0;
}

static __always_inline int irq_out(void)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts || !s->irq)
		return 0;
	enter(s, false);
	advance(s, false);
	s->irq--;
	leave(s, false);
	return 0;
}

/*
 * The loader attaches these two to irq_handler_entry and _exit, and on x86 to the pairs that it has
 * for system vectors (local timer, ...): one program, verified once, for all.  They take nothing
 * from the tracepoint, so plain raw tracepoints cost the same here as typed ones.
 */
SEC("raw_tp")
int ty_irq_in(void *ctx)
{
	return irq_in();
}

SEC("raw_tp")
int ty_irq_out(void *ctx)
{
	return irq_out();
}

SEC("tp_btf/softirq_entry")
int ty_softirq_in(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts)
		return 0;
	enter(s, true);
	advance(s, true);
	s->soft++;
	leave(s, true);
	return 0;
}

SEC("tp_btf/softirq_exit")
int ty_softirq_out(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts || !s->soft)
		return 0;
	enter(s, true);
	advance(s, true);
	s->soft--;
	leave(s, true);
	return 0;
}

/*
 * Leave a note that the running task is in another cgroup from now on.  There is room for one: a
 * note that no event has settled yet is settled first, so that each cgroup has its part.
 */
static __always_inline void moved(struct ty_cpu *s, struct task_struct *task)
{
	struct cgroup *cgroup = cgroup_of(task);
	bool own = true;
	__u64 cgid, now;
	__u32 slot;

	if (!cgroup || !s->ts || s->tgid != task->tgid)
		return;
	cgid = cgroup->kn->id;
	if (cgid == ty_root_cgid && task->flags & PF_KTHREAD)
		cgid = 0;
	if (cgid == (ACCESS_ONCE(s->pend) ? s->pend_cgid : s->cgid))
		return;
	enter(s, true);
	now = ACCESS_ONCE(s->pend) ? advance(s, true) : bpf_ktime_get_ns();
	slot = cgid ? slot_of(cgroup, cgid, &own) : TY_SLOT_KERNEL;
	__sync_lock_test_and_set(&s->pend, 0);
	s->pend_cgid = cgid;
	s->pend_slot = slot;
	s->pend_at = now;
	if (!own)
		s->epoch = NO_EPOCH;
	__sync_lock_test_and_set(&s->pend, 1);
	leave(s, true);
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(ty_attach, struct cgroup *to, const char *path, struct task_struct *task)
{
	struct ty_cpu *s = this_cpu();

	if (s)
		moved(s, bpf_get_current_task_btf());
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(ty_exec, struct task_struct *task)
{
	struct cgroup *cgroup = cgroup_of(task);
	struct ty_cpu *s = this_cpu();
	struct ty_proc_key key = {};
	struct ty_proc *proc;

	if (!s || !cgroup)
		return 0;
	moved(s, task);
	if (!ty_processes)
		return 0;
	key.cgid = cgroup->kn->id;
	key.start = task->group_leader->start_boottime;
	key.tgid = task->tgid;
	proc = bpf_map_lookup_elem(&ty_proc, &key);
	if (proc)
		bpf_probe_read_kernel(proc->comm, sizeof(proc->comm), &task->comm);
	return 0;
}

/* Runs for each thread, before its last switch: the map gets the last slice after this. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(ty_exiting, struct task_struct *task)
{
	struct ty_proc fresh = {};
	struct ty_proc_key key = {};
	struct ty_exit *record;
	struct cgroup *cgroup;
	struct ty_proc *proc;
	struct ty_cpu *s;
	struct ty_ctl *ctl;
	__u64 now, since, ns;

	if (!ty_processes || task->signal->live.counter)
		return 0;
	cgroup = cgroup_of(task);
	s = this_cpu();
	if (!cgroup || !s)
		return 0;
	key.cgid = cgroup->kn->id;
	key.start = task->group_leader->start_boottime;
	key.tgid = task->tgid;
	now = bpf_ktime_get_ns();
	since = ACCESS_ONCE(s->ts); /* an irq may have charged since */
	ns = s->tgid == key.tgid ? s->acc[0] + s->acc[1] + s->acc[2] : 0;
	if (s->tgid == key.tgid && since < now)
		ns += now - since;
	proc = bpf_map_lookup_elem(&ty_proc, &key);
	if (!proc && !(task->flags & PF_KTHREAD)) {
		/* It never left the CPU: all its time is charged after this. */
		bpf_probe_read_kernel(fresh.comm, sizeof(fresh.comm), &task->group_leader->comm);
		bpf_map_update_elem(&ty_proc, &key, &fresh, BPF_NOEXIST);
		proc = bpf_map_lookup_elem(&ty_proc, &key);
	}
	if (proc) {
		/* The last two threads, on two CPUs, may both have seen that nobody is left. */
		if (__sync_val_compare_and_swap(&proc->exited, 0, now))
			return 0;
		ns += proc->ns[0] + proc->ns[1] + proc->ns[2];
	}
	if (ns < ty_exit_ns)
		return 0;
	record = bpf_ringbuf_reserve(&ty_exit, sizeof(*record), 0);
	if (!record) {
		ctl = control();
		if (ctl)
			__sync_fetch_and_add(&ctl->exit_lost, 1);
		return 0;
	}
	record->cgid = key.cgid;
	record->start = key.start;
	record->tgid = key.tgid;
	record->unused = 0;
	record->ns = ns;
	record->exited = now;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), &task->group_leader->comm);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/*
 * A slot for each new cgroup, though it may only hold others: the path of those that live shortly.
 * Anybody who may make cgroups can make many: a quarter is kept for those in which something runs.
 */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(ty_mkdir, struct cgroup *cgroup)
{
	struct ty_ctl *ctl = control();
	__u64 cgid = cgroup->kn->id;

	if (cgroup->root->hierarchy_id != ty_hierarchy_id || !ctl)
		return 0;
	if (ACCESS_ONCE(ctl->next_slot) < ty_nslot / 4 * 3 &&
	    !bpf_map_lookup_elem(&ty_slot_of, &cgid))
		new_slot(cgroup, cgid);
	return 0;
}

/* Nothing runs in it any more, but its last tasks may still be on their way out. */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(ty_rmdir, struct cgroup *cgroup)
{
	struct ty_info *info;
	struct ty_ctl *ctl;
	__u32 *slot;
	__u64 cgid;

	if (cgroup->root->hierarchy_id != ty_hierarchy_id)
		return 0;
	cgid = cgroup->kn->id;
	slot = bpf_map_lookup_elem(&ty_slot_of, &cgid);
	if (!slot)
		return 0;
	info = bpf_map_lookup_elem(&ty_info, slot);
	ctl = control();
	if (!info || !ctl)
		return 0;
	info->gone = bpf_ktime_get_ns();
	__sync_fetch_and_add(&ctl->changes, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
