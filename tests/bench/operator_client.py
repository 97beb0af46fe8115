"""CPU time, wall time and memory of every one-shot command against a real server on a full node."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.client import make_client, make_leaves
from tests.bench.figures import Figure
from tests.fixtures import snapshots as made
from tychoctl.commands import COMMANDS, TASKS
from tychod.buffer import Latest
from tychod.config import Config
from tychod.config_results import History as HistorySettings
from tychod.model import Snapshot, Window
from tychod.runtime.answers import Answers
from tychod.runtime.history import History
from tychod.runtime.questions import Asked, build_questions
from tychod.runtime.slots import Coarse

RUNS: Final = 7
TARGET_CPU_MS: Final = 70.0  # issue "6 of 6": one-shot commands
TARGET_MB: Final = 40.0  # issue "6 of 6": client memory
CASES: Final[tuple[tuple[str, ...], ...]] = (
    ("",),
    ("--help",),
    ("pods", "--help"),
    ("version",),
    ("status",),
    ("sources",),
    ("node", "-o", "wide"),
    ("gpus",),
    ("workloads",),
    ("workloads", "-o", "json"),
    ("pods",),
    ("pods", "-o", "wide"),
    ("pods", "-l", "app=app-7"),
    ("pods", "--namespaces"),
    ("containers", "-o", "csv"),
    ("vms",),
    ("units", "--slices"),
    ("processes",),
    ("config", "show"),
    ("config", "default"),
    ("explain", "pod", "shop/deployment-7"),
    ("explain", "system", "-o", "json"),
    ("report",),
    ("report", "--by", "pod"),
    ("metrics",),
    ("metrics", "--names", "kepler"),
    ("completion", "bash"),
    ("completion", "zsh"),
)
ELSEWHERE: Final = frozenset({"top", "doctor", "record", "replay"})
"""Commands that are more than one answer of the daemon; they have targets of their own."""


class Cost(NamedTuple):
    """What one run of a command took."""

    cpu_ms: float
    wall_ms: float


def measure() -> list[Figure]:
    """Return for each command the median CPU time, the wall time in its name, and the most memory.

    Raises ``RuntimeError`` where a command is not measured at all.
    """
    left_out = {*COMMANDS, *TASKS} - {case[0] for case in CASES} - ELSEWHERE
    if left_out:
        raise RuntimeError(f"no figure for {', '.join(sorted(left_out))}")
    with tempfile.TemporaryDirectory(prefix="tychod-bench-") as place:
        directory = Path(place)
        path = directory / "control.sock"
        latest, clock = Latest[Snapshot](), TodaysClock()
        history = make_history(latest, clock, directory)
        history.start()
        for sequence in (19, 20):
            latest.publish(full_node(sequence, clock))
        with made.serving(path, latest, make_answers(latest, clock, history)):
            client = make_client(directory)
            environment = {**os.environ, "TYCHOD_SOCKET": str(path)}
            times = [measure_cpu(client, case, environment) for case in CASES]
            memory = list(measure_memory(client, directory, environment))
        history.ask_stop()
        history.join(5.0)
        return [*times, *memory]


class TodaysClock:
    """A clock that stands at 70 s after a boot of just now: a report looks back from today."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - self.now_ns()

    def now_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""
        return 70 * made.SECOND_NS

    def wall_offset_ns(self) -> int:
        """Offset to the wall clock."""
        return self._offset_ns

    def slept_ns(self) -> int:
        """Nanoseconds in suspend: none."""
        return 0


def full_node(sequence: int, clock: TodaysClock) -> Snapshot:
    """Return one of two neighbouring windows of a full node."""
    found = made.make_snapshot(make_leaves(), sequence=sequence)
    end_ns = found.window.end_ns - (20 - sequence) * 3 * made.SECOND_NS
    return dataclasses.replace(
        found,
        window=Window(end_ns - 3 * made.SECOND_NS, end_ns),
        wall_offset_ns=clock.wall_offset_ns(),
        since_ns=clock.wall_offset_ns() + 3 * made.SECOND_NS,
    )


def make_history(latest: Latest[Snapshot], clock: TodaysClock, directory: Path) -> History:
    """Return a history in memory alone."""
    settings = HistorySettings(days=0)
    coarse = Coarse(latest, lambda: 1.0)
    return History(settings, made.FACTS.boot_id, directory, latest, coarse, clock, lambda _: None)


def make_answers(latest: Latest[Snapshot], clock: TodaysClock, history: History) -> Answers:
    """Return the answers of a daemon that answers every question."""
    asked = Asked(Config, lambda: made.FACTS, lambda: made.STATUS)
    plain = made.make_answers(latest)
    readers = plain._readers._replace(questions=build_questions(asked, history))
    return Answers(latest, clock, readers)


def measure_cpu(client: list[str], case: tuple[str, ...], environment: dict[str, str]) -> Figure:
    """Return the median CPU time of a command that has been run before."""
    argv = [*client, *(word for word in case if word)]
    run(argv, environment)
    costs = [run(argv, environment) for _ in range(RUNS)]
    wall_ms = statistics.median(cost.wall_ms for cost in costs)
    name = f"{shown(case)} (wall {wall_ms:.0f} ms)"
    return Figure(name, statistics.median(c.cpu_ms for c in costs), "ms CPU", TARGET_CPU_MS)


def shown(case: tuple[str, ...]) -> str:
    """Return what is typed."""
    return " ".join(["tychoctl", *(word for word in case if word)])


def run(argv: list[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end."""
    null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    begun_s = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, environment, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - begun_s
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(argv)} failed with status {status}")
    return Cost((usage.ru_utime + usage.ru_stime) * 1e3, wall_s * 1e3)


def measure_memory(
    client: list[str], directory: Path, environment: dict[str, str]
) -> Iterator[Figure]:
    """Yield the command that took the most memory, with its peak, and the least one for comparison.

    The kernel's own record of a child's peak begins with that of who started it, so the command
    tells its own at its end.
    """
    *start, launcher = client
    peak, telling = directory / "peak", directory / "telling"
    end = (
        "import atexit\n"
        "def _tell():\n"
        "    told = open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]\n"
        f"    open({str(peak)!r}, 'w').write(told)\n"
        "atexit.register(_tell)\n"
    )
    telling.write_text(end + Path(launcher).read_text())
    found: list[tuple[float, tuple[str, ...]]] = []
    for case in CASES:
        run([*start, str(telling), *(word for word in case if word)], environment)
        found.append((int(peak.read_text()) * 1024 / 1e6, case))
    for what, (megabytes, case) in (("most", max(found)), ("least", min(found))):
        name = f"{what} memory of a command: {shown(case)}"
        yield Figure(name, megabytes, "MB peak", TARGET_MB if what == "most" else None)
