// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* What measuring itself costs: a program at each task switch that does nothing. */
#define SEC(name) __attribute__((section(name), used))

SEC("tp_btf/sched_switch") int empty(void *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
