"""Times of all CPUs from /proc/stat, and which processes are kernel threads."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

PF_KTHREAD: Final = 0x00200000
"""Flag of kernel threads in /proc/PID/stat (linux/sched.h)."""

STAT_BYTES: Final = 256
"""Enough for the first line of /proc/stat: ten numbers of at most 20 digits."""


class CpuTimes(NamedTuple):
    """Time of all CPUs together since boot, in nanoseconds."""

    tasks_ns: int  # user, nice (guests are inside these two) and system
    irq_ns: int  # irq and softirq
    idle_ns: int  # idle and waiting for I/O


def parse_cpu_times(data: bytes, tick_hz: int) -> CpuTimes:
    """Return the times in the first line of /proc/stat (proc(5)); ValueError if it is not one.

    Steal is left out: another machine had the CPU then.
    """
    line, newline, _ = data.partition(b"\n")
    fields = line.split()
    if not newline or len(fields) < 8 or fields[0] != b"cpu":
        raise ValueError(f"not the first line of /proc/stat: {line[:80]!r}")
    user, nice, system, idle, iowait, irq, softirq = (int(f) for f in fields[1:8])
    tick_ns = 1_000_000_000 // tick_hz
    return CpuTimes(
        (user + nice + system) * tick_ns, (irq + softirq) * tick_ns, (idle + iowait) * tick_ns
    )


def tick_hz() -> int:
    """Return the ticks per second of /proc (USER_HZ)."""
    return os.sysconf("SC_CLK_TCK")


def parse_is_kernel_thread(stat: bytes) -> bool:
    """Say whether a /proc/PID/stat line is a kernel thread's; ValueError if it is no such line.

    The name (in brackets) may hold anything, so fields are counted from its end.
    """
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 7:
        raise ValueError(f"not a /proc/PID/stat line: {stat[:80]!r}")
    return bool(int(fields[6]) & PF_KTHREAD)
