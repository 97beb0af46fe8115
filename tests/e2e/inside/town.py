"""Many real workloads at once: started together, watched while they work, stopped, accounted.

The steps look at what was seen here, each at its own kind of workload: so all of them together
wait for a few windows only.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.inside.account import Held, hold, require_whole, thaw
from tests.e2e.inside.burner import unseen
from tests.e2e.inside.containers import RealPod
from tests.e2e.inside.energy import require_conserved
from tests.e2e.inside.machine import (
    Answer,
    Watch,
    ask_pair,
    ensure_running,
    time_s,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene
from tests.e2e.steps import require

Row = Mapping[str, object]


@dataclass
class Group:
    """Workloads of one kind: what their rows must say, and which cgroup they are in."""

    rows: list[tuple[float, Row]] = field(default_factory=list)  # since when (1970), what
    owners: dict[Path, list[Row]] = field(default_factory=dict)  # who share a cgroup's time
    views: list[Row] = field(default_factory=list)  # machines whose energy one of the rows has
    pods: list[RealPod] = field(default_factory=list)
    failure: Exception | None = None

    def add(self, cgroup: Path, row: Row, born_s: float | None = None) -> None:
        """Expect a row, by its id or its cgroup, whose time is in that of a cgroup."""
        self.rows.append((time.time() if born_s is None else born_s, row))
        self.owners.setdefault(cgroup, []).append(row)


@dataclass
class Town:
    """What was started and what was seen of it."""

    groups: dict[str, Group] = field(default_factory=dict)
    seen: list[tuple[float, Answer]] = field(default_factory=list)  # `workloads`, one a window
    held: dict[Path, Held] = field(default_factory=dict)
    answer: Answer = field(default_factory=dict)  # `workloads`, while all stands still
    failure: Exception | None = None

    def group(self, name: str) -> Group:
        """Return a group; what kept it from starting is raised here."""
        group = self.groups[name]
        if group.failure is not None:
            raise group.failure
        return group

    def require_named(self, name: str) -> str:
        """StepError unless each row of a group is right from its first full window on."""
        soonest = []
        for born_s, row in self.group(name).rows:
            full = [a for _, a in self.seen if time_s(a["window"]["start"]) >= born_s]
            require(full, f"no window since {row}")
            for answer in full:
                wrong = differences(find(answer, row), row)
                require(not wrong, f"{row}: in window {answer['sequence']}: {wrong}")
            named = (at for at, answer in self.seen if not differences(find(answer, row), row))
            soonest.append(next(named) - born_s)
        return f"{len(soonest)} named, at most {max(soonest):.1f} s after their start"

    def require_accounted(self, name: str) -> str:
        """StepError unless the leaves of a group have what their cgroups used, and energy."""
        used_s: dict[Path, list[float]] = {}
        for cgroup, rows in self.group(name).owners.items():
            leaves = [find(self.answer, row) or {} for row in rows]
            idle = [row for row, leaf in zip(rows, leaves, strict=True) if not energy_uj(leaf)]
            require(not idle, f"no energy: {idle}")
            used_s[cgroup] = [leaf["cpu_seconds"] for leaf in leaves]
        return require_whole(self.held, used_s)


def energy_uj(leaf: Answer) -> int:
    """Return the dynamic energy of a leaf."""
    return int(leaf["total"]["dynamic_uj"]) if leaf else 0


def find(answer: Answer, row: Row) -> Answer | None:
    """Return the leaf that a row is about; None: it is not listed."""
    key = "id" if "id" in row else "cgroup"
    return next((leaf for leaf in answer["workloads"] if leaf[key] == row[key]), None)


def differences(leaf: Answer | None, row: Row) -> str:
    """Return what of a leaf is not as expected; empty: nothing."""
    if leaf is None:
        return "not listed"
    wrong = [
        f"{key} {leaf.get(key)!r}, not {value!r}"
        for key, value in row.items()
        if leaf.get(key) != value
    ]
    return "; ".join(wrong)


Starter = Callable[[Scene, Group], None]


def build(scene: Scene, prepare: Callable[[Scene], None], starters: Mapping[str, Starter]) -> Town:
    """Start everything, let it work for two windows, and account for it while it stands still."""
    if scene.town is None:
        scene.town = Town()
        try:
            ensure_running()
            wait_for_window()  # from here on no CPU time is from before the counters
            prepare(scene)
            _observe(scene, scene.town, starters)
        except Exception as error:  # noqa: BLE001 (each step tells it)
            scene.town.failure = error
    if scene.town.failure is not None:
        raise scene.town.failure
    return scene.town


def _observe(scene: Scene, town: Town, starters: Mapping[str, Starter]) -> None:
    wait_for_window()
    before = unseen()
    with Watch("workloads") as watch:
        for name, start in starters.items():
            town.groups[name] = _start(scene, start)
        sequence = wait_for_window()["sequence"]
        wait_for_window(wait_for_window(sequence)["sequence"])
        cgroups = [path for group in town.groups.values() for path in group.owners]
        scene.undo.append(lambda: [thaw(path) for path in cgroups])
        town.held = hold(cgroups, before)
        node, town.answer = ask_pair()
        require_conserved(node, town.answer)
        if scene.agent:
            thaw(scene.agent.cgroup)  # it is asked further on
        last = town.answer["sequence"]
        wait_until("all windows", lambda: watch.answers[-1][1]["sequence"] >= last, 10)
        town.seen = list(watch.answers)


def _start(scene: Scene, start: Starter) -> Group:
    """Start a group; what stops that is told in the group's own step."""
    group = Group()
    try:
        start(scene, group)
    except Exception as error:  # noqa: BLE001 (whatever stops one group, the others start)
        group.failure = error
        group.owners.clear()
    return group
