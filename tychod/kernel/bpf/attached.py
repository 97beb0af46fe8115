"""What is attached on this machine: attach, detach and describe it, by its pins."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from tychod.kernel.bpf import abi, attach, directory, perf, pins, syscall
from tychod.kernel.bpf.core import close_all, hierarchy, load_core, packages, process_slots
from tychod.kernel.bpf.plan import LoadError

if TYPE_CHECKING:
    from tychod.config import Config
    from tychod.hostfs import Host, KeptFile
    from tychod.kernel.bpf.plan import Loaded, LoadPlan

LOADERS: Final = {abi.LOADER_CORE: "core", abi.LOADER_BCC: "bcc"}
NEEDED: Final = {
    abi.LOADER_CORE: (
        *("ty_switch", "ty_irq_in", "ty_irq_out", "ty_softirq_in", "ty_softirq_out"),
        *("ty_attach", "ty_exec", "ty_exiting", "ty_mkdir", "ty_rmdir"),
    ),
}
"""Links without which the account is not whole."""


class Outcome(NamedTuple):
    """What a command did, in a line for people, and what is missing without harm."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What is attached; ``cgroups`` of ``slots`` places are taken, times are nanoseconds."""

    abi: int
    loader: str
    hierarchy: str
    stamp: str
    created_ns: int
    cgroups: int
    slots: int
    cpus: int
    packages: int
    processes: bool
    process_slots: int
    vectors: bool
    counters: tuple[str, ...]
    late_ns: int
    no_slot: int
    proc_lost_ns: int
    exit_lost: int
    reader: int | None  # pid; 0: one that is not seen from here; None: nobody


def attach_pinned(host: Host, config: Config, root: str) -> Outcome:
    """Load, attach and pin what the settings want, unless it is there already; LoadError."""
    if config.accounting.loader == "off":
        gone = detach_pinned(host, root)
        return Outcome(f'[accounting] loader = "off": {gone.text}')
    plan = attach.make_plan(host, config)
    with pins.locked_root(host, root, create=True) as place:
        if place is None:
            raise LoadError(f"{root} is gone", pins.ATTACH)
        if _fits(place, plan, config):
            _remove_others(place)
            return Outcome(f"already attached at {place.current}")
        before = place.ours()
        outcome = _attach_anew(place, host, config)
        if not before:
            return outcome
        text = f"{outcome.text}; what was attached before was not as wanted and is gone"
        return outcome._replace(text=text)


def detach_pinned(host: Host, root: str) -> Outcome:
    """Remove all that is pinned, of every ABI, and the directories; LoadError."""
    with pins.locked_root(host, root, create=False) as place:
        if place is None:
            return Outcome("nothing is attached")
        try:
            names = place.ours()
            for name in names:
                place.remove(name)
        except OSError as exc:
            raise LoadError(
                f"cannot remove {exc.filename or root}: {exc.strerror}",
                "run as root, or as the user that attached",
            ) from exc
        with contextlib.suppress(OSError):  # somebody else's directory, or not ours to remove
            os.rmdir(root)  # noqa: PTH106
    return Outcome(f"detached {', '.join(names)}" if names else "nothing is attached")


def read_state(host: Host, root: str) -> State | None:
    """Return what is attached, None if nothing of this ABI is; LoadError where we may not look."""
    path = f"{root}/{pins.VERSION}"
    try:
        with (
            contextlib.closing(directory.open_root(host, root)) as top,
            contextlib.closing(directory.open_below(host, top, pins.VERSION)) as held,
        ):
            ctl, used = _look(held)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise LoadError(f"{exc.filename or path}: {exc.strerror}", pins.MAY_READ) from exc
    number = {name: int(ctl[name][0]) for name in ctl.dtype.names or () if ctl[name].ndim == 1}
    flags = number["flags"]
    return State(
        abi=number["abi"],
        loader=LOADERS.get(number["loader"], "unknown"),
        hierarchy=f"v{number['hierarchy']}",
        stamp=f"{number['stamp']:016x}",
        created_ns=number["created"],
        cgroups=used,
        slots=number["nslot"],
        cpus=number["ncpu"],
        packages=number["npkg"],
        processes=bool(flags & abi.FLAG_PROCESSES),
        process_slots=number["nproc"],
        vectors=bool(flags & abi.FLAG_VECTORS),
        counters=_counters(flags),
        late_ns=number["late"],
        no_slot=number["no_slot"],
        proc_lost_ns=number["proc_lost"],
        exit_lost=number["exit_lost"],
        reader=pins.reader_of(host, path),
    )


def to_plain(state: State | None) -> dict[str, object]:
    """Return the state as plain data for JSON."""
    return {"attached": False} if state is None else {"attached": True, **asdict(state)}


def render(state: State | None, root: str) -> str:
    """Return the state in lines for people."""
    if state is None:
        return f"not attached: nothing is pinned at {root}/{pins.VERSION}\n"
    reader = {None: "nobody", 0: "a process outside this PID namespace"}
    return (
        f"attached    {root}/{pins.VERSION}, loader {state.loader}, ABI {state.abi}\n"
        f"stamp       {state.stamp}, {state.created_ns / 1e9:.1f} s after boot\n"
        f"cgroups     {state.cgroups} of {state.slots} slots, hierarchy {state.hierarchy}\n"
        f"machine     {state.cpus} CPUs in {state.packages} packages\n"
        f"processes   {state.process_slots if state.processes else 'off'}\n"
        f"vectors     {'told from task time' if state.vectors else 'counted as task time'}\n"
        f"counters    {', '.join(state.counters) or 'none'}\n"
        f"lost        late {state.late_ns} ns, without slot {state.no_slot} times, "
        f"processes {state.proc_lost_ns} ns, exit records {state.exit_lost}\n"
        f"reader      {reader.get(state.reader, f'process {state.reader}')}\n"
    )


def _look(held: KeptFile) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.void]], int]:
    """Return the control map and how many cgroups have a slot."""
    ctl_fd = directory.open_pin(held, "ty_ctl")
    try:
        ctl = pins.read_ctl(ctl_fd)
    finally:
        os.close(ctl_fd)
    slot_fd = directory.open_pin(held, "ty_slot_of")
    try:
        keys, _ = syscall.lookup_all(
            slot_fd, np.dtype("<u8"), np.dtype("<u4"), int(ctl["nslot"][0])
        )
    finally:
        os.close(slot_fd)
    return ctl, len(keys)


def _counters(flags: int) -> tuple[str, ...]:
    pairs = zip(abi.COUNTERS, abi.FLAG_COUNTERS, strict=True)
    return tuple(name for name, flag in pairs if flags & flag)


def _fits(place: pins.Place, plan: LoadPlan, config: Config) -> bool:
    """Say whether what is pinned is whole and as the settings want it.

    Where the settings leave the hierarchy open, the account is not thrown away for another choice.
    """
    loader = config.accounting.loader
    try:
        state = read_state(place.host, place.held.path)
        names = set(os.listdir(place.current))  # noqa: PTH208
    except (LoadError, OSError):
        return False
    if state is None or state.abi != abi.ABI or loader not in ("auto", state.loader):
        return False
    if config.host.hierarchy == "auto":
        version: Literal["v2", "v1"] = "v1" if state.hierarchy == "v1" else "v2"
        plan = dataclasses.replace(plan, version=version)
    whole = {*abi.MAPS, *NEEDED.get(abi.LOADER_CORE if state.loader == "core" else 0, ())}
    return whole <= names and _wanted(plan, state.loader) == (
        *(int(state.hierarchy[1:]), state.slots, state.cpus, state.packages),
        *(state.processes, state.process_slots, state.counters),
    )


def _wanted(plan: LoadPlan, loader: str) -> tuple[object, ...]:
    core = loader == "core"  # bcc has neither packages nor counters nor processes
    found, _ = perf.available(plan.counters if core else ())
    places = {counter.place for counter in found}
    return (
        *(hierarchy(plan), plan.slots, len(plan.packages), packages(plan) if core else 1),
        *((plan.processes, process_slots(plan)) if core else (False, 1)),
        tuple(name for place, name in enumerate(abi.COUNTERS) if place in places),
    )


def _attach_anew(place: pins.Place, host: Host, config: Config) -> Outcome:
    try:
        loaded = attach.load(host, config, load_core)
    except LoadError:
        _remove_others(place)  # nobody could read those; ours, of another plan, still counts
        raise
    try:
        pins.pin_all(place, loaded)
    finally:
        close_all((*loaded.links.values(), *loaded.maps.values()))
    return Outcome(_attached(place, loaded), loaded.notes)


def _attached(place: pins.Place, loaded: Loaded) -> str:
    return f"attached {len(loaded.links)} programs at {place.current}"


def _remove_others(place: pins.Place) -> None:
    for name in place.ours():
        if name != pins.VERSION:
            with contextlib.suppress(OSError):
                place.remove(name)
