"""Hardware counters of each leaf in one window; what was not counted is absent, never 0."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from tychod.samples import CounterSample

Counts = Mapping[str, Mapping[str, int]]
Shares = Mapping[int, Mapping[int, int]]
NO_SHARES: Final[Shares] = MappingProxyType({})


def leaf_counts(
    before: CounterSample | None,
    now: CounterSample | None,
    leaf_of: Mapping[int, str],
    shares: Shares = NO_SHARES,
) -> Counts:
    """Return by leaf what each counter counted between two readings of the same life.

    A counter is there for a leaf only if it ran while some task of the leaf did.  Of a cgroup in
    ``shares`` each key there gets its part, by CPU time.
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
            key = int(now.keys[index])
            for taker, part in _parts(int(value[index]), key, shares.get(key)):
                leaf = leaf_of.get(taker)
                if leaf is not None:
                    counts = found.setdefault(leaf, {})
                    counts[name] = counts.get(name, 0) + part
    return found


def _parts(value: int, key: int, shares: Mapping[int, int] | None) -> Iterator[tuple[int, int]]:
    """Yield who gets which part; the parts add up to the value."""
    if shares is None:
        yield key, value
        return
    whole, had = sum(shares.values()), 0
    for taker, share in shares.items():
        begin, had = had, had + share
        if share:
            yield taker, value * had // whole - value * begin // whole
