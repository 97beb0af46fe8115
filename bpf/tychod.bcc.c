// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The same accounting in the same maps as tychod.bpf.c, for bcc: compiled on the machine, for
 * kernels without BTF.  The loader puts the text of tychod.h before this text and sets TY_NCPU,
 * TY_NPKG, TY_NSLOT, TY_ROOT_CGID and TY_WEAK_ORDER.
 *
 * HELPERS ONLY.  Kernel headers that do not fit the kernel give wrong offsets without any error
 * (measured: 0 of 6586 cgroup ids right).  So nothing here reads a structure of the kernel, and no
 * header of the kernel is included; a test reads this file and holds it to that.
 *
 * What follows from it.  At a switch the helpers know the task that stops, not the one that comes:
 * slot is TY_SLOT_UNKNOWN until the next interrupt or the next switch tells who runs, and whom we
 * meet there gets the time since the switch.  No names, no parents, no removals, no processes, no
 * counters; a task moved to another cgroup is noticed at its next event.
 *
 * Interrupts.  The softirq tracepoints run with interrupts on; an irq may come in the middle of
 * their program.  They set busy before they touch anything, and an irq program that finds it
 * set leaves everything alone: that irq counts as part of the softirq, a matter of some 100 ns.
 * All others have the CPU to themselves.
 */
#define SETTLE_NS 1000000ULL /* an irq charges what is older than this, and looks who runs */
#define WALK_BUCKETS 8       /* a longer silence than this many buckets is the reader's to place */
#define AGAIN_NS 10000000ULL /* a CPU that found the table full tries again after this */
#define NO_EPOCH (~0ULL)     /* of a cgroup that has no slot */
#define MMAPABLE 1024        /* BPF_F_MMAPABLE, which older headers do not name */

#define ONCE(x) (*(volatile typeof(x) *)&(x))
#define ORDERED() asm volatile("" : : : "memory")

/* Fields that this backend has another use for. */
#define BUSY(s) ONCE((s)->unused_a)
#define KNOWN_SLOT(s) ((s)->pend_slot) /* of cgid, the cgroup met last */
#define LEAVING(s) ONCE((s)->pend_at)  /* 1: the running task is ending */

BPF_F_TABLE("array", u32, struct ty_ctl, ty_ctl, 1, MMAPABLE);
BPF_F_TABLE("array", u32, struct ty_cpu, ty_cpu, TY_NCPU, MMAPABLE);
BPF_F_TABLE("array", u32, struct ty_info, ty_info, TY_NSLOT, MMAPABLE);
BPF_F_TABLE("array", u32, struct ty_total, ty_total, TY_NPKG * TY_NSLOT, MMAPABLE);
BPF_F_TABLE("array", u32, u64, ty_bucket, TY_BUCKETS * TY_NPKG * TY_NSLOT, MMAPABLE);
BPF_F_TABLE("array", u32, u64, ty_irq_bucket, TY_NCPU * TY_BUCKETS, MMAPABLE);
BPF_HASH(ty_slot_of, u64, u32, TY_NSLOT);
BPF_QUEUE(ty_free, u32, TY_NSLOT);

/* There for the readers, never filled. */
BPF_TABLE("lru_hash", struct ty_proc_key, struct ty_proc, ty_proc, 1);
BPF_RINGBUF_OUTPUT(ty_exit, 1);
BPF_F_TABLE("array", u32, struct ty_pmu_total, ty_pmu_total, 1, MMAPABLE);

/* ---- the state of this CPU ---- */

static __always_inline struct ty_ctl *control(void)
{
	u32 zero = 0;

	return ty_ctl.lookup(&zero);
}

static __always_inline struct ty_cpu *this_cpu(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return ty_cpu.lookup(&cpu);
}

/* On machines that reorder stores only an atomic operation with a result is a barrier. */
static __always_inline void mark(u64 *mark_of)
{
#if TY_WEAK_ORDER
	u64 before = __sync_fetch_and_add(mark_of, 1);

	asm volatile("" : : "r"(before));
#else
	*mark_of += 1;
#endif
}

static __always_inline void enter(struct ty_cpu *s)
{
	mark(&s->enter);
	ORDERED();
}

static __always_inline void leave(struct ty_cpu *s)
{
	ORDERED();
	mark(&s->leave);
}

/* ---- where time ends up ---- */

/* A bucket that is closed belongs to the reader, which has counted this time already. */
static __always_inline void to_bucket(struct ty_cpu *s, u32 kind, u64 bucket, u64 ns)
{
	struct ty_ctl *ctl = control();
	u32 row = bucket % TY_BUCKETS, at;
	u64 *cell;

	if (!ctl)
		return;
	if (bucket <= ONCE(ctl->closed)) {
		__sync_fetch_and_add(&ctl->late, ns);
		return;
	}
	if (kind == TY_TASK) {
		at = (row * TY_NPKG + s->pkg) * TY_NSLOT + s->slot;
		cell = ty_bucket.lookup(&at);
	} else {
		at = bpf_get_smp_processor_id() * TY_BUCKETS + row;
		cell = ty_irq_bucket.lookup(&at);
	}
	if (cell)
		__sync_fetch_and_add(cell, ns);
}

static __always_inline struct ty_total *total_of(struct ty_cpu *s)
{
	u32 at = s->pkg * TY_NSLOT + s->slot;

	return ty_total.lookup(&at);
}

static __always_inline void to_total(struct ty_cpu *s, u32 kind, u64 ns)
{
	struct ty_total *total;

	if (kind >= TY_KINDS)
		return;
	if (!s->tgid) {
		s->idle[kind] += ns;
		return;
	}
	total = total_of(s);
	if (total)
		__sync_fetch_and_add(&total->ns[kind], ns);
}

static __always_inline int has_bucket(struct ty_cpu *s, u32 kind)
{
	return kind != TY_TASK || s->tgid; /* idle is what the buckets leave */
}

static __always_inline void book(struct ty_cpu *s, u32 kind)
{
	u64 ns = s->acc[kind];

	if (!ns)
		return;
	s->acc[kind] = 0;
	if (has_bucket(s, kind))
		to_bucket(s, kind, s->bucket, ns);
	to_total(s, kind, ns);
}

static __always_inline void flush(struct ty_cpu *s)
{
	book(s, TY_TASK);
	book(s, TY_SOFTIRQ);
	book(s, TY_IRQ);
}

/* Whole buckets from first up to last, without last. */
static __always_inline void spend_whole(struct ty_cpu *s, u32 kind, u64 first, u64 last)
{
	struct ty_ctl *ctl;
	int back;

	to_total(s, kind, (last - first) * TY_BUCKET_NS);
	if (!has_bucket(s, kind))
		return;
	for (back = 1; back <= WALK_BUCKETS; back++) {
		if (last - back < first)
			return;
		to_bucket(s, kind, last - back, TY_BUCKET_NS);
	}
	ctl = control();
	if (ctl)
		__sync_fetch_and_add(&ctl->late, (last - first - WALK_BUCKETS) * TY_BUCKET_NS);
}

/* Time (from, now] belongs to who runs; from lies in the bucket of the state. */
static __always_inline void spend(struct ty_cpu *s, u64 from, u64 now)
{
	u32 kind = s->irq ? TY_IRQ : s->soft ? TY_SOFTIRQ : TY_TASK;
	u64 last;

	if (now >= s->edge) {
		last = now / TY_BUCKET_NS;
		s->acc[kind] += s->edge - from;
		flush(s);
		if (last > s->bucket + 1)
			spend_whole(s, kind, s->bucket + 1, last);
		s->bucket = last;
		s->edge = (last + 1) * TY_BUCKET_NS;
		from = last * TY_BUCKET_NS;
	}
	s->acc[kind] += now - from;
}

static __always_inline u64 advance(struct ty_cpu *s)
{
	u64 from = s->ts, now = bpf_ktime_get_ns();

	if (now <= from)
		return from;
	s->ts = now;
	spend(s, from, now);
	return now;
}

/* ---- who runs ---- */

/* Give a cgroup its slot; TY_SLOT_OVERFLOW when there is none left. */
static __always_inline u32 new_slot(struct ty_cpu *s, u64 cgid)
{
	struct ty_ctl *ctl = control();
	struct ty_info *info;
	u32 slot = 0, *won;

	if (!ctl || (s->full && s->ts - s->full < AGAIN_NS))
		return TY_SLOT_OVERFLOW;
	if (ty_free.pop(&slot)) {
		if (ONCE(ctl->next_slot) >= TY_NSLOT)
			goto full;
		slot = __sync_fetch_and_add(&ctl->next_slot, 1);
		if (slot >= TY_NSLOT)
			goto full;
	}
	info = ty_info.lookup(&slot);
	if (!info)
		goto full;
	info->born = bpf_ktime_get_ns();
	info->gone = 0;
	ONCE(info->cgid) = cgid;
	if (ty_slot_of.insert(&cgid, &slot)) {
		ONCE(info->cgid) = 0;
		ty_free.push(&slot, 0);
		won = ty_slot_of.lookup(&cgid);
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

/*
 * A kernel thread is a task that has no user stack: no helper tells its flags.  A task that ends has
 * lost its own by its last switch, which charges all that a short-lived one has ever used: so
 * ty_exiting leaves a note.  (A kernel thread's last slice is thereby the root cgroup's.)
 */
static __always_inline int is_kernel_thread(void *ctx)
{
	u64 frame = 0;

	return bpf_get_stack(ctx, &frame, sizeof(frame), BPF_F_USER_STACK) <= 0;
}

static __always_inline u32 slot_of(struct ty_cpu *s, u64 cgid)
{
	u32 *slot = ty_slot_of.lookup(&cgid);

	return slot ? *slot : new_slot(s, cgid);
}

/* Whoever is met here has had the CPU since the last switch, and since the last charge. */
static __always_inline void meet(struct ty_cpu *s, void *ctx)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ty_ctl *ctl = control();
	u64 cgid;

	s->tgid = (u32)pid_tgid ? pid_tgid >> 32 : 0;
	if (!s->tgid) {
		s->slot = KNOWN_SLOT(s); /* idle: the last cgroup is most likely the next one too */
		return;
	}
	cgid = bpf_get_current_cgroup_id();
	if (cgid == TY_ROOT_CGID && !LEAVING(s) && is_kernel_thread(ctx))
		cgid = 0;
	if (ctl && (cgid != s->cgid || s->epoch != ONCE(ctl->epoch))) {
		s->epoch = ONCE(ctl->epoch);
		s->cgid = cgid;
		KNOWN_SLOT(s) = cgid ? slot_of(s, cgid) : TY_SLOT_KERNEL;
		if (KNOWN_SLOT(s) == TY_SLOT_OVERFLOW)
			s->epoch = NO_EPOCH;
	}
	s->slot = KNOWN_SLOT(s);
}

/* ---- events ---- */

static __always_inline void begin_clock(struct ty_cpu *s)
{
	u64 now = bpf_ktime_get_ns();

	s->bucket = now / TY_BUCKET_NS;
	s->edge = (s->bucket + 1) * TY_BUCKET_NS;
	s->charged = s->t0 = now;
	s->ts = now;
}

int ty_switch(void *ctx)
{
	struct ty_cpu *s = this_cpu();
	struct ty_total *total;

	if (!s)
		return 0;
	enter(s);
	if (s->ts) {
		meet(s, ctx);
		s->charged = advance(s);
		flush(s);
		s->switches++;
		if (s->tgid) {
			total = total_of(s);
			if (total)
				__sync_fetch_and_add(&total->switches, 1);
		}
	} else {
		begin_clock(s);
	}
	/* Attached in the middle of an irq, or a softirq that may be preempted (PREEMPT_RT). */
	s->irq = s->soft = 0;
	s->slot = s->tgid = TY_SLOT_UNKNOWN;
	LEAVING(s) = 0;
	leave(s);
	return 0;
}

/* Interrupts are on here, and one store is safe. */
int ty_exiting(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (s)
		LEAVING(s) = 1;
	return 0;
}

/* Before a depth changes: account, and now and then charge, so that the readers see it. */
static __always_inline void interrupt(struct ty_cpu *s, void *ctx)
{
	u64 now;

	if (s->slot == TY_SLOT_UNKNOWN)
		meet(s, ctx);
	now = advance(s);
	if (now - s->charged > SETTLE_NS) {
		meet(s, ctx);
		flush(s);
		s->charged = now;
	}
}

static __always_inline int irq_in(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts || BUSY(s))
		return 0;
	enter(s);
	interrupt(s, ctx);
	s->irq++;
	leave(s);
	return 0;
}

static __always_inline int irq_out(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts || BUSY(s) || !s->irq)
		return 0;
	enter(s);
	interrupt(s, ctx);
	s->irq--;
	leave(s);
	return 0;
}

int ty_irq_in(void *ctx)
{
	return irq_in(ctx);
}

int ty_irq_out(void *ctx)
{
	return irq_out(ctx);
}

/* x86 has an entry of its own for the tick, which is what tells who runs on a busy CPU. */
int ty_timer_in(void *ctx)
{
	return irq_in(ctx);
}

int ty_timer_out(void *ctx)
{
	return irq_out(ctx);
}

int ty_softirq_in(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts)
		return 0;
	BUSY(s) = 1;
	enter(s);
	interrupt(s, ctx);
	s->soft++;
	leave(s);
	BUSY(s) = 0;
	return 0;
}

int ty_softirq_out(void *ctx)
{
	struct ty_cpu *s = this_cpu();

	if (!s || !s->ts || !s->soft)
		return 0;
	BUSY(s) = 1;
	enter(s);
	interrupt(s, ctx);
	s->soft--;
	leave(s);
	BUSY(s) = 0;
	return 0;
}
