"""``tychod --replay FILE``: analyses a recording as if its samples came in now."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tychod.analysis.pipeline import analyse
from tychod.analysis.state import State
from tychod.codec.arrays import FAULTS, numpy_build
from tychod.codec.declared import Codec
from tychod.config import Config
from tychod.frames import ProtocolError
from tychod.hostfs import Host
from tychod.model import Energy, NodeFacts, Snapshot
from tychod.runtime import replies
from tychod.runtime.recorder import cpu_model
from tychod.runtime.recording import (
    RecordingError,
    RecordingReader,
    Result,
    Step,
    result_of,
)
from tychod.version import read_build

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
TOLD: Final = ("tychod", "commit", "numpy", "cpu", "node", "boot_id", "time", "settings")


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How far one window's counters are from the recorded ones; 0: only other figures differ."""

    window: int
    largest_uj: int
    where: str


class Replayed(NamedTuple):
    """What came of a recording, as far as it could be read."""

    about: Mapping[str, object]
    snapshot: Snapshot | None
    windows: int
    seconds: float
    method: str
    ended: str | None
    differences: tuple[Difference, ...]
    problem: str | None


class Outcome(NamedTuple):
    """What the command prints, and its exit status."""

    text: str
    problem: str | None
    code: int


def replay(path: str, *, as_json: bool, verify: bool) -> Outcome:
    """Replay a file; whatever is wrong with it is told in one line beside what could be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path as the user wrote it
            replayed = run(RecordingReader(file))
    except RecordingError as exc:
        return Outcome("", f"{path} {exc}", EXIT_FAILED)
    except OSError as exc:
        return Outcome("", f"{path}: {exc.strerror}", EXIT_FAILED)
    problem = f"{path}: {replayed.problem}" if replayed.problem else None
    differs = verify and bool(replayed.differences)
    plain = to_plain(replayed, problem, verify=verify)
    text = render(path, replayed, verify=verify)
    if as_json:
        text = json.dumps(plain, default=str, skipkeys=True)  # a header may hold anything
    return Outcome(text + "\n", problem, EXIT_FAILED if problem or differs else EXIT_OK)


def run(reader: RecordingReader) -> Replayed:
    """Analyse window after window, up to the first that cannot be read."""
    codec = Codec(Snapshot)
    snapshot, problem, method, begin_ns, end_ns = None, None, "none", 0, 0
    differences: list[Difference] = []
    count = 0
    try:
        state = reader.state()
        for step in reader.steps() if state else ():
            snapshot, state = _analyse(step, state or State())
            begin_ns, end_ns = begin_ns or step.window.start_ns, step.window.end_ns
            method = step.observations.cpu.method if step.observations.cpu else method
            count += 1
            differences += compare(count, step.result, result_of(snapshot, codec))
    except RecordingError as exc:
        problem = render_problem(count, reader.total(), str(exc))
    if count == 0 and problem is None:
        problem = "it holds no window"
    seconds, ended = (end_ns - begin_ns) / 1e9, reader.reason
    about = reader.about
    return Replayed(about, snapshot, count, seconds, method, ended, tuple(differences), problem)


def _analyse(step: Step, state: State) -> tuple[Snapshot, State]:
    try:
        return analyse(step.observations, step.window, state, step.params)
    except FAULTS as exc:
        raise RecordingError(f"cannot be analysed: {exc!r}") from exc


def render_problem(count: int, total: int | None, why: str) -> str:
    """Return how much could be read, and what is wrong with the rest."""
    of = f" of {total}" if total is not None and total > count else ""
    return f"{count}{of} windows could be read; then it {why}"


def _windows(count: int) -> str:
    return f"{count} window{'' if count == 1 else 's'}"


def compare(window: int, was: Result, now: Result) -> Iterator[Difference]:
    """Yield the largest difference of one window, when there is any."""
    if was.digest == now.digest:
        return
    before, after = dict(_counters(was)), dict(_counters(now))
    gaps = {name: after.get(name, 0) - before.get(name, 0) for name in before | after}
    where = max(gaps, key=lambda name: abs(gaps[name]), default="")
    largest_uj = abs(gaps.get(where, 0))
    yield Difference(window, largest_uj, where if largest_uj else "")


def _counters(result: Result) -> Iterator[tuple[str, int]]:
    yield from result.domains.items()
    for leaf, energy in result.leaves.items():
        for domain, split in energy.items():
            yield from (
                (f"{leaf} {domain} {kind}", uj)
                for kind, uj in zip(Energy._fields, split, strict=True)
            )


def to_plain(replayed: Replayed, problem: str | None, *, verify: bool) -> dict[str, object]:
    """Return everything for programs: the recording, the answers after its last window."""
    recording = {name: replayed.about.get(name) for name in TOLD}
    recording |= {"windows": replayed.windows, "seconds": replayed.seconds}
    plain: dict[str, object] = {
        "recording": {**recording, "ended": replayed.ended},
        "problem": problem,
        "answers": answers(replayed),
    }
    if verify:
        plain["identical"] = not replayed.differences
        plain["verdict"] = render_verdict(replayed)
        plain["differences"] = [dataclasses.asdict(found) for found in replayed.differences]
    return plain


def answers(replayed: Replayed) -> dict[str, object]:
    """Return each operation's answer about the last window, as the daemon would have given it."""
    snapshot, build = replayed.snapshot, read_build()
    if snapshot is None:
        return {}
    node, boot_id = (str(replayed.about.get(name)) for name in ("node", "boot_id"))
    reason = "replayed from a recording"
    told = (node, boot_id, build.version, build.commit, replayed.method, reason, "", reason)
    head = replies.head(NodeFacts(*told), snapshot)
    found: dict[str, object] = {}
    for op, body in replies.SNAPSHOT_BODIES.items():
        try:
            found[op] = {**head, **body(snapshot)}
        except ProtocolError as exc:
            found[op] = {"error": {"code": exc.code, "message": exc.message}}
    return found


def render(path: str, replayed: Replayed, *, verify: bool) -> str:
    """Return what a person wants to know of a recording."""
    about = replayed.about
    seconds, node, begun = replayed.seconds, about.get("node"), about.get("time")
    lines = [
        f"{path}: {_windows(replayed.windows)}, {seconds:.1f} s, of node {node}, begun {begun}",
        f"recorded by {_maker(about)}",
        f"replayed by {_maker(_here())}",
    ]
    for name, domain in (replayed.snapshot.domains if replayed.snapshot else {}).items():
        lines.append(f"{name}: {domain.energy_uj} uJ since the counters began")
    return "\n".join([*lines, *([render_verdict(replayed)] if verify else [])])


def render_verdict(replayed: Replayed) -> str:
    """Return whether the results are the recorded ones, and where not, by how much."""
    differing = replayed.differences
    if not differing:
        return f"identical to the bit in {_windows(replayed.windows)}"
    first, worst = differing[0], max(differing, key=lambda found: found.largest_uj)
    text = f"{len(differing)} of {replayed.windows} windows differ, first window {first.window}"
    if worst.largest_uj:
        where = f"in window {worst.window} ({worst.where})"
        text += f"; counters by {worst.largest_uj} uJ at most, {where}"
    else:
        text += "; no counter does"
    was, now = _maker(replayed.about), _maker(_here())
    return text if was == now else f"{text}; recorded by {was}, replayed by {now}"


def _here() -> dict[str, object]:
    build = read_build()
    return {
        "tychod": build.version,
        "commit": build.commit,
        "numpy": numpy_build(),
        "cpu": cpu_model(Host(Config().host)),
    }


def _maker(about: Mapping[str, object]) -> str:
    numpy = about.get("numpy")
    numbers = numpy if isinstance(numpy, dict) else {}
    return (
        f"tychod {about.get('tychod')} ({about.get('commit')}), numpy {numbers.get('version')} "
        f"({numbers.get('blas')}) on {about.get('cpu')}"
    )
