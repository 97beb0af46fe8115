"""Hardware counters of each leaf in one window; what was not counted is absent, never 0."""

from collections.abc import Mapping

import numpy as np

from tychod.samples import CounterSample

Counts = Mapping[str, Mapping[str, int]]


def leaf_counts(
    before: CounterSample | None, now: CounterSample | None, leaf_of: Mapping[int, str]
) -> Counts:
    """Return by leaf what each counter counted between two readings of the same life.

    A counter is there for a leaf only if it ran while some task of the leaf did.
    """
    if before is None or now is None or before.stamp != now.stamp or before.names != now.names:
        return {}
    found: dict[str, dict[str, int]] = {}
    places = np.searchsorted(before.keys, now.keys)
    had = (places < len(before.keys)) & (before.keys.take(places, mode="clip") == now.keys)
    for place, name in enumerate(now.names):
        value = now.value[place] - np.where(had, before.value[place].take(places, mode="clip"), 0)
        covered = now.covered_ns[place] - np.where(
            had, before.covered_ns[place].take(places, mode="clip"), 0
        )
        for index in np.flatnonzero((covered > 0) & (value >= 0)).tolist():
            leaf = leaf_of.get(int(now.keys[index]))
            if leaf is not None:
                counts = found.setdefault(leaf, {})
                counts[name] = counts.get(name, 0) + int(value[index])
    return found
