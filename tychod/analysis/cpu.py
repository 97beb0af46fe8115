"""CPU time of every cgroup in every bin of one window."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tychod.analysis.state import State
from tychod.model import Window
from tychod.samples import CpuSample, CpuSeries, Int64s


class CpuWindow(NamedTuple):
    """Who used how much CPU time, bin by bin."""

    edges_ns: Int64s  # shape (bins + 1,), from the window's start to its end
    keys: Int64s  # shape (n,)
    used_ns: Int64s  # shape (bins, n), never negative
    package_ns: Int64s | None  # shape (bins, packages, n): where it ran, by share
    seen: tuple[bool, ...]  # by bin: samples say what ran in it
    live: frozenset[int]  # keys in the newest sample
    consumed_ns: Mapping[int, int]
    run: int  # of the series
    at_end: CpuSample | None  # what the samples say of the end: for a restart to go on from


def cpu_window(series: CpuSeries | None, window: Window, state: State) -> CpuWindow:
    """Cut a window out of CPU samples; its bins are the samples' own (design.md 4).

    Time that a sample after the window's end does not yet show is credited to the next window:
    what has been credited is remembered by key, so it is credited once.
    """
    samples = series.samples if series else ()
    if series is None or not samples:
        run = series.run if series else state.cpu_run
        kept = state.consumed_ns if run == state.cpu_run else {}
        edges = np.array([window.start_ns, window.end_ns], np.int64)
        none = np.zeros(0, np.int64)
        return CpuWindow(
            edges, none, np.zeros((1, 0), np.int64), None, (False,), frozenset(), kept, run, None
        )
    keys = _all_keys(samples)
    own = np.stack([_spread(s.keys, s.own_ns, keys) for s in samples])
    times = np.array([s.t_ns for s in samples], np.int64)
    edges, rows = _edges(times, own, window)
    first = _first_row(keys, rows[0], series.run, state)
    # A key that was away for some samples, as by a change of the method, goes on where it was.
    used = np.diff(np.vstack([first, np.maximum(rows[1:], first)]), axis=0)
    last = samples[-1]
    live = frozenset(last.keys.tolist())
    reached = np.maximum(rows[-1], first)
    credited = state.consumed_ns if series.run == state.cpu_run else {}
    consumed = {key: credited[key] for key in series.away if key in credited}
    consumed |= zip(keys.tolist(), reached.tolist(), strict=True)
    at_end = _at_end(samples, keys, window.end_ns)
    packages = _packages(samples, keys, times, window, edges)
    seen = (True,) * (len(edges) - 2) + (int(edges[-2]) < last.t_ns,)
    return CpuWindow(edges, keys, used, packages, seen, live, consumed, series.run, at_end)


def _packages(
    samples: Sequence[CpuSample], keys: Int64s, times: Int64s, window: Window, edges: Int64s
) -> Int64s | None:
    """Return where time was used by bin, of at least two packages; None where it is not known."""
    first = samples[0].package_ns
    if first is None or len(first) < 2 or any(s.package_ns is None for s in samples):
        return None
    rows = []
    for package in range(len(first)):
        spread = [_spread(s.keys, s.package_ns[package], keys) for s in samples]  # type: ignore[index]
        rows.append(np.diff(_edges(times, np.stack(spread), window)[1], axis=0))
    found: Int64s = np.maximum(np.stack(rows, axis=1), 0)
    return found if len(found) == len(edges) - 1 else None


def _all_keys(samples: Sequence[CpuSample]) -> Int64s:
    if all(s.keys is samples[0].keys for s in samples):
        return samples[0].keys
    return np.unique(np.concatenate([s.keys for s in samples]))


def _spread(keys: Int64s, values: Int64s, wanted: Int64s) -> Int64s:
    """Place a sample's values at the positions of ``wanted``; -1 marks a key it lacks."""
    if keys is wanted:
        return values
    spread: Int64s = np.full(len(wanted), -1, np.int64)
    spread[np.searchsorted(wanted, keys)] = values
    return spread


def _edges(times: Int64s, own: Int64s, window: Window) -> tuple[Int64s, Int64s]:
    """Return bin edges and each key's cumulative time at them, shape (edges, n)."""
    filled = _fill(own)
    inner = (times > window.start_ns) & (times < window.end_ns)
    inner[1:] &= times[1:] > times[:-1]  # two of one time would make a bin without length
    if inner[-1] and _is_near(times, window.end_ns):
        inner[-1] = False  # the last bin ends with the window, though the last sample was before
    edges = np.concatenate([[window.start_ns], times[inner], [window.end_ns]]).astype(np.int64)
    ends = [_at(times, filled, t) for t in (window.start_ns, window.end_ns)]
    return edges, np.vstack([ends[0], filled[inner], ends[1]])


def _is_near(times: Int64s, end_ns: int) -> bool:
    """Say whether the end is at most two sample intervals after the last sample.

    Beyond that nobody knows what ran: such a rest is a bin in which nothing was observed, so that
    a sliver of CPU time does not decide over the energy of a long silence.
    """
    if len(times) < 2:
        return False
    mean_ns = (int(times[-1]) - int(times[0])) / (len(times) - 1)
    return end_ns - int(times[-1]) <= 2 * mean_ns


def _fill(own: Int64s) -> Int64s:
    """A key had used 0 ns before its first sample, and uses nothing after its last."""
    filled: Int64s = np.maximum.accumulate(np.maximum(own, 0), axis=0)
    return filled


def _at(times: Int64s, own: Int64s, t_ns: int) -> Int64s:
    after = int(np.searchsorted(times, t_ns))
    if after == len(times) or after == 0 or times[after] == t_ns:
        row: Int64s = own[min(after, len(times) - 1)]
        return row
    before = after - 1
    part = (t_ns - int(times[before])) / (int(times[after]) - int(times[before]))
    return _between(own[before], own[after], part)


def _first_row(keys: Int64s, at_start: Int64s, run: int, state: State) -> Int64s:
    if state.end_ns is None:
        return at_start
    credited = state.consumed_ns if run == state.cpu_run else {}
    return np.array([credited.get(k, 0) for k in keys.tolist()], np.int64)


def _at_end(samples: Sequence[CpuSample], keys: Int64s, end_ns: int) -> CpuSample:
    """Return the sample that a reading at the window's end would have been, or the last before."""
    after = next((s for s in samples if s.t_ns >= end_ns), samples[-1])
    before = next((s for s in reversed(samples) if s.t_ns <= end_ns), after)
    if not before.t_ns < end_ns < after.t_ns:
        return after if after.t_ns == end_ns else before
    here = np.searchsorted(keys, after.keys)
    part = (end_ns - before.t_ns) / (after.t_ns - before.t_ns)
    own, total = (
        _between(np.maximum(_spread(before.keys, earlier, keys)[here], 0), later, part)
        for earlier, later in ((before.own_ns, after.own_ns), (before.total_ns, after.total_ns))
    )
    idle_ns, busy_ns = (
        earlier + int((later - earlier) * part)
        for earlier, later in ((before.idle_ns, after.idle_ns), (before.busy_ns, after.busy_ns))
    )
    return CpuSample(end_ns, after.keys, own, total, idle_ns, busy_ns)


def _between(earlier: Int64s, later: Int64s, part: float) -> Int64s:
    rise: Int64s = np.floor((later - earlier) * part).astype(np.int64)
    return earlier + rise
