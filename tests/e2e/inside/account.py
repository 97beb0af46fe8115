"""CPU time of cgroups that were stopped in the middle of their work, by the kernel's own files.

Nothing moves in a frozen cgroup, so that what is read of many, one after the other, is of one
moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.e2e.inside.burner import ROUNDING_NS, SWITCH_S, TICK_S, Unseen, peek, unseen
from tests.e2e.inside.machine import wait_for_window, wait_until
from tests.e2e.steps import require


class Held(NamedTuple):
    """What a cgroup with all below it used, and how far a right account may be from that."""

    used_s: float  # cpu.stat
    mapped_s: float  # the kernel accounting's own maps
    irq_s: float  # part of it that the daemon counts as the kernel's
    tolerance_s: float


def freeze(cgroup: Path) -> None:
    """Stop all that runs in a cgroup, and wait until it stands."""
    (cgroup / "cgroup.freeze").write_text("1", encoding="ascii")
    events = cgroup / "cgroup.events"
    wait_until(f"{cgroup} stands", lambda: "frozen 1" in events.read_text(encoding="ascii"), 10)


def thaw(cgroup: Path) -> None:
    """Let it go on; what is frozen cannot be ended by a signal that it wants to catch."""
    if cgroup.exists():
        (cgroup / "cgroup.freeze").write_text("0", encoding="ascii")


def hold(cgroups: Iterable[Path], before: Unseen) -> dict[Path, Held]:
    """Freeze cgroups, wait until all of their work is in a window, and read the kernel's files.

    `before` is what the kernel's files could not tell before they began.
    """
    cgroups = tuple(cgroups)
    for cgroup in cgroups:
        freeze(cgroup)
    # The second one that begins after now has all, whatever a late reading left behind.
    sequence = wait_for_window()["sequence"]
    wait_for_window(wait_for_window(sequence)["sequence"])
    return {cgroup: _read(cgroup, before) for cgroup in cgroups}


def _read(cgroup: Path, before: Unseen) -> Held:
    lines = (cgroup / "cpu.stat").read_text(encoding="ascii").splitlines()
    used = dict(line.split() for line in lines)
    below = [cgroup, *(path for path in cgroup.rglob("*") if path.is_dir())]
    times, missed = peek(*(path.stat().st_ino for path in below))
    return Held(
        used_s=int(used["usage_usec"]) / 1e6,
        mapped_s=sum(task for task, _, _ in times) / 1e9,
        irq_s=sum(softirq + irq for _, softirq, irq in times) / 1e9,
        tolerance_s=SWITCH_S * sum(map(_switches, below)) + TICK_S + unseen(missed).since_s(before),
    )


def _switches(cgroup: Path) -> int:
    """Return how often the threads in a cgroup were switched."""
    lines = (
        line
        for pid in (cgroup / "cgroup.procs").read_text(encoding="ascii").split()
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text(encoding="utf-8").splitlines()
    )
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def require_whole(held: Mapping[Path, Held], counted_s: Mapping[Path, Sequence[float]]) -> str:
    """StepError unless what the daemon counts in cgroups, by leaf, is what they used.

    By the kernel's maps to the nanosecond, as all stands still; by cpu.stat within its own error.
    """
    off_s = {}
    for cgroup, parts_s in counted_s.items():
        seen, found_s = held[cgroup], sum(parts_s)
        off_s[cgroup] = found_s + seen.irq_s - seen.used_s
        text = (
            f"{cgroup}: {found_s:.6f} s, maps {seen.mapped_s:.6f} s, cpu.stat {seen.used_s:.6f} s"
        )
        unlike_ns = abs(round((found_s - seen.mapped_s) * 1e9))
        require(unlike_ns <= ROUNDING_NS * len(parts_s), f"{text}: {unlike_ns} ns off the maps")
        off = f"apart by more than {seen.tolerance_s:.4f} s"
        require(abs(off_s[cgroup]) <= seen.tolerance_s, f"{text}: {off}")
    most = max(off_s, key=lambda cgroup: abs(off_s[cgroup]))
    total_s = sum(held[cgroup].used_s for cgroup in counted_s)
    apart = (
        f"cpu.stat at most {off_s[most] * 1e3:+.2f} of {held[most].tolerance_s * 1e3:.1f} ms off"
    )
    return f"{total_s:.2f} s in {len(counted_s)} cgroups, {apart}"
