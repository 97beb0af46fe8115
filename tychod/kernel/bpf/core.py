"""The backend ``core``: loads the compiled programs, which fit every kernel that has BTF."""

from __future__ import annotations

import errno
import os
import platform
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tychod import config
from tychod.hostfs import Host
from tychod.kernel.bpf import abi, cpus, libbpf, perf, refusal, syscall
from tychod.kernel.bpf.plan import Loaded, LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tychod.kernel.bpf.plan import LoadPlan

OBJECT_NAME: Final = "tychod.bpf.o"
ORDERED: Final = ("x86_64", "i686")
"""Machines that never show another CPU's stores out of order."""

IRQ: Final = "irq_handler"
VECTORS: Final = (
    *("local_timer", "reschedule", "irq_work", "call_function", "call_function_single"),
)
"""Tracepoints, in pairs, of interrupts that x86 keeps apart; elsewhere they are ordinary ones."""

_BEGIN, _END = "ty_irq_in", "ty_irq_out"


class Opened(NamedTuple):
    """What the steps of loading share."""

    file: libbpf.ObjectFile
    plan: LoadPlan
    host: Host
    counters: tuple[perf.Counter, ...]  # those that this machine has


def default_object() -> Path:
    """Return where the compiled programs are: beside this module."""
    return Path(__file__).with_name(OBJECT_NAME)


def load_core(plan: LoadPlan, object_path: Path | None = None, host: Host | None = None) -> Loaded:
    """Load and attach the programs in this process; LoadError where that cannot be.

    Accounting ends when the last descriptor of a link is closed, unless the links are pinned.
    """
    host = host or Host(config.Host())
    path = object_path or default_object()
    lib = libbpf.open_library()
    if not path.exists():
        raise LoadError(f"the programs are not at {path}", "make bpf, or install the package again")
    counters, missing = perf.available(plan.counters)
    with libbpf.kept_stderr() as printed:
        try:
            file = libbpf.ObjectFile(lib, str(path))
        except OSError as exc:
            raise LoadError(
                f"{path} is no object that libbpf can open: {exc.strerror}",
                "make bpf, or install the package again",
            ) from exc
        try:
            return _load(Opened(file, plan, host, counters), missing)
        except OSError as exc:
            raise refusal.explain(host, exc, printed()) from exc
        finally:
            file.close()


def _load(opened: Opened, notes: tuple[str, ...]) -> Loaded:
    _set_constants(opened)
    _set_sizes(opened)
    opened.file.load()
    maps: dict[str, int] = {}
    links: dict[str, int] = {}
    try:
        maps |= {name: opened.file.map_fd(name) for name in abi.MAPS}
        _begin(opened, maps)
        uncounted = perf.connect(opened.counters, cpus.online(opened.host), opened.file.map_fd)
        more = _attach(opened, maps, links)
        start_clocks(maps, opened.host)
    except OSError:
        close_all((*links.values(), *maps.values()))
        raise
    return Loaded(maps, links, (*notes, *uncounted, *more))


def close_all(fds: tuple[int, ...]) -> None:
    """Close descriptors; with the last link of a program the program is gone."""
    for fd in fds:
        os.close(fd)


# ---- before it is loaded ----


def _set_constants(opened: Opened) -> None:
    plan = opened.plan
    places = opened.file.constant_places()
    data = opened.file.constants()
    try:
        found = int.from_bytes(_cell(data, places.get("ty_abi", (0, 0))), sys.byteorder)
        if found != abi.ABI:
            raise LoadError(
                f"the compiled programs are of ABI {found}, this is {abi.ABI}",
                "make bpf, or install the package again",
            )
        for name, value in _constants(plan, opened.counters).items():
            offset, size = places[name]
            signed = value < 0
            data[offset : offset + size] = value.to_bytes(size, sys.byteorder, signed=signed)
    finally:
        data.release()


def _cell(data: memoryview, place: tuple[int, int]) -> bytes:
    offset, size = place
    return bytes(data[offset : offset + size])


def _constants(plan: LoadPlan, counters: tuple[perf.Counter, ...]) -> dict[str, int]:
    on = {counter.place for counter in counters}
    return {
        "ty_nslot": plan.slots,
        "ty_npkg": packages(plan),
        "ty_hierarchy": hierarchy(plan),
        "ty_hierarchy_id": plan.hierarchy_id,
        "ty_root_cgid": plan.root_cgid,
        "ty_processes": plan.processes,
        "ty_exit_ns": plan.exit_ns,
        **{f"ty_counter_{place}": place in on for place in range(len(abi.COUNTERS))},
        "ty_weak_order": platform.machine() not in ORDERED,
    }


def packages(plan: LoadPlan) -> int:
    """Return how many rows of packages a plan has."""
    return max(plan.packages) + 1


def hierarchy(plan: LoadPlan) -> int:
    """Return the number by which the programs know the plan's hierarchy."""
    return 2 if plan.version == "v2" else 1


def _set_sizes(opened: Opened) -> None:
    plan = opened.plan
    ncpu, cells = len(plan.packages), packages(plan) * plan.slots
    sizes = {
        "ty_cpu": ncpu,
        "ty_info": plan.slots,
        "ty_total": cells,
        "ty_bucket": abi.BUCKETS * cells,
        "ty_irq_bucket": ncpu * abi.BUCKETS,
        "ty_slot_of": plan.slots,
        "ty_free": plan.slots,
        "ty_proc": process_slots(plan),
        "ty_pmu_total": cells if opened.counters else 1,
        "ty_pmu_prev": ncpu * len(abi.COUNTERS),
        **{f"ty_pmu_{place}": ncpu for place in range(len(abi.COUNTERS))},
    }
    for name, entries in sizes.items():
        opened.file.resize(name, entries)


def process_slots(plan: LoadPlan) -> int:
    """Return the entries of ``ty_proc``; a map cannot have none."""
    return plan.process_slots if plan.processes else 1


# ---- between loading and attaching ----


def _begin(opened: Opened, maps: Mapping[str, int]) -> None:
    plan = opened.plan
    ctl = np.zeros(1, abi.CTL)
    ctl["abi"], ctl["loader"] = abi.ABI, abi.LOADER_CORE
    ctl["ncpu"], ctl["npkg"], ctl["nslot"] = len(plan.packages), packages(plan), plan.slots
    ctl["hierarchy"], ctl["nproc"] = hierarchy(plan), process_slots(plan)
    ctl["stamp"] = secrets.randbits(64)
    ctl["created"] = time.monotonic_ns()
    ctl["root_cgid"] = plan.root_cgid
    ctl["next_slot"] = abi.SLOT_FIRST
    ctl["flags"] = abi.FLAG_PROCESSES if plan.processes else 0
    for counter in opened.counters:
        ctl["flags"] |= abi.FLAG_COUNTERS[counter.place]
    syscall.update(maps["ty_ctl"], bytes(4), ctl.tobytes())
    abi.view_maps(maps).cpu["pkg"] = plan.packages


# ---- attaching ----


def _attach(opened: Opened, maps: Mapping[str, int], links: dict[str, int]) -> tuple[str, ...]:
    """Attach all programs; return a note for each system vector that is refused."""
    programs = {program.name: program for program in opened.file.programs()}
    begin, end = programs.pop(_BEGIN), programs.pop(_END)
    links[_END] = end.attach(f"{IRQ}_exit")  # an end without a beginning is ignored
    links[_BEGIN] = begin.attach(f"{IRQ}_entry")
    for program in programs.values():
        links[program.name] = program.attach()
    notes = []
    for vector in VECTORS:
        try:
            links[f"ty_{vector}_out"] = end.attach(f"{vector}_exit")
            links[f"ty_{vector}_in"] = begin.attach(f"{vector}_entry")
        except OSError as exc:
            if exc.errno != errno.ENOENT:  # not of this kind of machine
                notes.append(f"{vector} interrupts count as task time: {exc.strerror}")
        else:
            abi.view_maps(maps).ctl["flags"] |= abi.FLAG_VECTORS
    return tuple(notes)


def start_clocks(maps: Mapping[str, int], host: Host) -> None:
    """Run once on every online CPU: its clock begins with the first task switch.

    Where that is forbidden a CPU starts when others use it.
    """
    rows = abi.view_maps(maps).cpu
    allowed = os.sched_getaffinity(0)
    visited = [_visit(cpu, rows["ts"][cpu : cpu + 1]) for cpu in cpus.online(host)]
    if any(visited):
        os.sched_setaffinity(0, allowed)


def _visit(cpu: int, started: NDArray[np.uint64]) -> bool:
    """Move to a CPU, or say that we may not (cpuset, system call filter)."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        return False
    if not started.all():  # we have been on it before: a short sleep is a switch
        time.sleep(1e-5)
    return True
