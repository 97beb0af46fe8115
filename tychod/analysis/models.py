"""Which model splits a domain in a window, and what it is told of who ran.

Only the main domain has an intensity for each workload; the others follow it by one number.
Memory follows the cache misses where they are counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tychod.analysis.cpu import CpuWindow
from tychod.analysis.learned import Float64s, Learned
from tychod.analysis.owners import Owners
from tychod.analysis.pmu import Counts
from tychod.model import Window
from tychod.samples import CpuSeries

FEATURES: Final = ("instructions", "llc_misses", "cycles")
LIKENESS: Final = ("likeness",)
MAIN: Final = frozenset({"package", "psys"})
"""Domains in which workloads have intensities of their own; the others follow them."""
MISSES: Final = "llc_misses"
STAND_IN_NS: Final = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Activity:
    """Who ran in a window: the same for every domain."""

    window: Window
    cpu: CpuWindow
    owned: Owners
    series: CpuSeries | None
    counts: Counts  # hardware counters by leaf
    cpus: int
    is_known: bool  # all CPU time of the window is in here and none from before it


def weight_of(name: str, activity: Activity) -> tuple[str, Float64s | None, tuple[str, ...]]:
    """Return the model's name, how much a CPU second of each leaf counts, and flags.

    Memory's energy follows the cache misses: a leaf's own in the window, spread over its CPU time.
    """
    if name != "dram":
        return name, None, ()
    rate = _relative_rates(activity, MISSES)
    if rate is None:
        return name, None, ("fallback-activity",)
    return f"{name}:misses", rate, ()


def _relative_rates(activity: Activity, name: str) -> Float64s | None:
    """Return each leaf's rate of a counter, relative to that of all; 1 where it is not known.

    None where nothing was counted while anything ran.
    """
    told = [activity.counts.get(leaf.id, {}).get(name) for leaf in activity.owned.leaves]
    used = activity.owned.used_ns.sum(axis=0) / 1e9
    counted = np.array([t is not None for t in told], bool) & (used > 0.0)
    values = np.array([t or 0 for t in told], np.float64)
    if values[counted].sum() <= 0.0:
        return None
    mean = values[counted].sum() / used[counted].sum()
    rate = np.ones(len(used))
    rate[counted] = values[counted] / used[counted] / mean
    return rate


def features_of(activity: Activity) -> Float64s | None:
    """Return how far each leaf's counter rates are from the mean of all, relative to it."""
    names = [n for n in FEATURES if any(n in c for c in activity.counts.values())]
    if not names:
        return None
    found = np.zeros((len(activity.owned.leaves), len(FEATURES)))
    for column, name in enumerate(FEATURES):
        rate = _relative_rates(activity, name)
        if rate is not None:
            found[:, column] = np.clip(rate - 1.0, -1.0, 3.0)
    return found


def likeness(activity: Activity, learned: Mapping[str, Learned]) -> Float64s | None:
    """Return how far each leaf's intensity in the main domain is from its mean, relative to it.

    Cores, uncore and memory serve the same programs: how much of that difference is found in
    them is one number to learn, where an intensity for each workload would cost as much again.
    """
    main = next((learned[name] for name in sorted(MAIN) if name in learned), None)
    if main is None or not main.windows:
        return None
    mean = float(main.beta[main.mean_at])
    own = dict(zip(main.columns, main.beta[main.fixed :].tolist(), strict=True))
    told = [own.get(leaf.id, 0.0) / mean for leaf in activity.owned.leaves]
    found: Float64s = np.clip(np.array(told, np.float64), -1.0, 3.0)[:, None]
    return found


def shaped(features: Float64s | None, width: int, leaves: int) -> Float64s:
    """Return the features of a model: unknown ones are those of the mean."""
    return np.zeros((leaves, width)) if features is None else features


def model_for(
    key: str, groups: tuple[str, ...], learned: Mapping[str, Learned]
) -> tuple[Learned, Learned | None]:
    """Return the model of a domain, and what stands in for it in this window.

    A window that tells packages or cache misses apart otherwise than those before it does not
    throw away what they taught: for a minute it is split with what is known of the idle power,
    and longer where nothing can be learned from it anyway.
    """
    found = learned.get(key)
    if found is not None and found.zones == groups:
        return found, None
    name = key.partition(":")[0]
    names = FEATURES if name in MAIN else LIKENESS
    fresh = Learned(zones=groups, features=names)
    others = [m for k, m in learned.items() if k.partition(":")[0] == name and m.windows]
    newest = max(others, key=lambda m: m.updated_ns, default=None)
    return fresh, None if newest is None else _stand_in(newest, groups)


def is_recent(model: Learned, window: Window) -> bool:
    """Say whether a model that stands in is so fresh that no other should begin."""
    return window.start_ns - model.updated_ns <= STAND_IN_NS


def _stand_in(other: Learned, groups: tuple[str, ...]) -> Learned:
    """Return a model of these groups that knows the idle power of all of them, and the mean."""
    count, had = len(groups), len(other.zones)
    idle_w = np.full(count, float(other.beta[:had].sum()) / count)
    var = float(other.cov[:had, :had].sum()) / count**2
    rest = other.beta[had : other.mean_at + 1]
    return Learned(
        zones=groups,
        beta=np.concatenate([idle_w, rest]),
        cov=np.diag(np.concatenate([np.full(count, var), np.zeros(len(rest))])),
        windows=other.windows,
        tau=other.tau,
        quiet_w=np.full(count, float(other.quiet_w.sum()) / count),
        noise=other.noise,
        updated_ns=other.updated_ns,
    )
