"""Layout of the maps that the kernel programs and we share: ``bpf/tychod.h`` in numpy's words.

A test compiles the header and compares every offset.  Times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ABI: Final = 1

BUCKET_NS: Final = 50_000_000
BUCKETS: Final = 64
NAME_BYTES: Final = 224
COMM_BYTES: Final = 16

SLOT_OVERFLOW: Final = 0
SLOT_KERNEL: Final = 1
SLOT_FIRST: Final = 2
SLOT_UNKNOWN: Final = 0xFFFF_FFFF

TASK, SOFTIRQ, IRQ = range(3)
KINDS: Final = 3

LOADER_CORE: Final = 1
LOADER_BCC: Final = 2

FLAG_PROCESSES: Final = 1
FLAG_VECTORS: Final = 2
FLAG_COUNTERS: Final = (16, 32, 64)

COUNTERS: Final = ("cycles", "instructions", "llc_misses")
"""Hardware counters, in the order of ``ty_pmu_total``."""

_U32, _U64 = "<u4", "<u8"

CTL: Final = np.dtype(
    [
        *((name, _U32) for name in ("abi", "loader", "ncpu", "npkg", "nslot", "hierarchy")),
        *((name, _U32) for name in ("flags", "nproc")),
        *((name, _U64) for name in ("stamp", "created", "root_cgid", "unused_a")),
        *((name, _U64) for name in ("closed", "epoch", "retired")),
        ("unused_b", _U64, 5),
        *((name, _U64) for name in ("next_slot", "changes", "no_slot", "late")),
        *((name, _U64) for name in ("proc_lost", "exit_lost", "missed", "unused_c")),
    ]
)
CPU: Final = np.dtype(
    [
        *((name, _U64) for name in ("enter", "leave", "ts", "edge", "bucket")),
        ("acc", _U64, KINDS),
        ("cgid", _U64),
        *((name, _U32) for name in ("slot", "pkg")),
        ("start", _U64),
        *((name, _U32) for name in ("tgid", "pend", "irq", "soft")),
        *((name, _U64) for name in ("epoch", "pend_at", "pend_cgid")),
        *((name, _U32) for name in ("pend_slot", "unused_a")),
        ("idle", _U64, KINDS),
        *((name, _U64) for name in ("switches", "t0", "charged", "full")),
    ]
)
INFO: Final = np.dtype(
    [
        *((name, _U64) for name in ("cgid", "parent", "born", "gone")),
        ("name", f"S{NAME_BYTES}"),
    ]
)
TOTAL: Final = np.dtype([("ns", _U64, KINDS), ("switches", _U64)])
PROC_KEY: Final = np.dtype([("cgid", _U64), ("start", _U64), ("tgid", _U32), ("unused", _U32)])
PROC: Final = np.dtype(
    [("ns", _U64, KINDS), ("switches", _U64), ("exited", _U64), ("comm", f"S{COMM_BYTES}")]
)
EXIT: Final = np.dtype(
    [
        *((name, _U64) for name in ("cgid", "start")),
        *((name, _U32) for name in ("tgid", "unused")),
        *((name, _U64) for name in ("ns", "exited")),
        ("comm", f"S{COMM_BYTES}"),
    ]
)
PMU_TOTAL: Final = np.dtype([("value", _U64, len(COUNTERS)), ("ns", _U64, len(COUNTERS))])
PMU_PREV: Final = np.dtype([(name, _U64) for name in ("counter", "enabled", "running")])

LAYOUTS: Final = {
    "ty_ctl": CTL,
    "ty_cpu": CPU,
    "ty_info": INFO,
    "ty_total": TOTAL,
    "ty_proc_key": PROC_KEY,
    "ty_proc": PROC,
    "ty_exit": EXIT,
    "ty_pmu_total": PMU_TOTAL,
    "ty_pmu_prev": PMU_PREV,
}
"""C structure -> its numpy type."""

MAPPED: Final = ("ty_ctl", "ty_cpu", "ty_info", "ty_total", "ty_bucket", "ty_irq_bucket")
"""Maps that every reader needs in its memory; ``ty_pmu_total`` only where counters are on."""

MAPS: Final = (*MAPPED, "ty_slot_of", "ty_free", "ty_proc", "ty_exit", "ty_pmu_total")
"""Maps that are handed over and pinned, under these names."""


class Views(NamedTuple):
    """The mapped maps as arrays that show what the kernel writes, while it writes."""

    ctl: NDArray[np.void]  # CTL, shape (1,)
    cpu: NDArray[np.void]  # CPU, shape (ncpu,)
    info: NDArray[np.void]  # INFO, shape (nslot,)
    total: NDArray[np.void]  # TOTAL, shape (npkg, nslot)
    bucket: NDArray[np.uint64]  # shape (BUCKETS, npkg, nslot)
    irq_bucket: NDArray[np.uint64]  # shape (ncpu, BUCKETS)
    pmu: NDArray[np.void] | None = None  # PMU_TOTAL, shape (npkg, nslot)


def view_maps(fds: Mapping[str, int]) -> Views:
    """Map the arrays behind map descriptors; OSError where the kernel refuses.

    Each map's memory lives as long as its array; the descriptors are not needed afterwards.
    """
    ctl = _mapped(fds["ty_ctl"], CTL, (1,))
    ncpu, npkg, nslot = (int(ctl[name][0]) for name in ("ncpu", "npkg", "nslot"))
    counted = bool(int(ctl["flags"][0]) & sum(FLAG_COUNTERS))
    word = np.dtype(_U64)
    return Views(
        ctl,
        _mapped(fds["ty_cpu"], CPU, (ncpu,)),
        _mapped(fds["ty_info"], INFO, (nslot,)),
        _mapped(fds["ty_total"], TOTAL, (npkg, nslot)),
        _mapped(fds["ty_bucket"], word, (BUCKETS, npkg, nslot)),
        _mapped(fds["ty_irq_bucket"], word, (ncpu, BUCKETS)),
        _mapped(fds["ty_pmu_total"], PMU_TOTAL, (npkg, nslot)) if counted else None,
    )


def _mapped(fd: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Map one array map; the kernel allows its size rounded up to pages, no more."""
    size = dtype.itemsize * int(np.prod(shape))
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(fd, pages, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)
