"""What evicted leaves had, by the views they counted in: no view's total falls when they go.

A view's total is what its listed leaves have and what is kept here under its key.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from tychod.analysis.state import Account
from tychod.model import Energy, Identity, Usage, total_domains
from tychod.views import SLICE, view_keys

MOST: Final = 1000
"""Keys kept; beyond that those go that no listed leaf has."""

Folded = dict[str, Usage]


def added(energy: Mapping[str, Energy], gains: Mapping[str, Energy]) -> dict[str, Energy]:
    """Add two splits domain by domain."""
    found = dict(energy)
    for domain, more in gains.items():
        had = found.get(domain)
        found[domain] = (
            Energy(had.idle_uj + more.idle_uj, had.dynamic_uj + more.dynamic_uj) if had else more
        )
    return found


def total_uj(energy: Mapping[str, Energy]) -> int:
    """Return the energy over the domains that make up a total, in microjoules."""
    found = 0
    for name in total_domains(energy):  # for hundreds of leaves in a window: no generator
        part = energy.get(name)
        if part is not None:
            found += part.idle_uj + part.dynamic_uj
    return found


def move(folded: Folded, account: Account, now: Identity) -> None:
    """Note what a leaf had as its identity changes, or as another leaf takes it over.

    What it used in one slice stays that slice's, and is not the next one's: there it counts as
    less than nothing.  A namespace that is told late was the leaf's from the beginning.
    """
    had, has = view_keys(account.identity), view_keys(now)
    _credit(folded, [key for key in had if key not in has], account)
    gained = [key for key in has if key not in had and key.startswith(SLICE)]
    _credit(folded, gained, account, -1)


def _credit(folded: Folded, keys: Iterable[str], account: Account, sign: int = 1) -> None:
    if not account.cpu_ns and not any(map(any, account.energy.values())):
        return
    gains = {d: Energy(sign * e.idle_uj, sign * e.dynamic_uj) for d, e in account.energy.items()}
    for key in keys:
        had = folded.get(key, Usage(0, {}))
        folded[key] = Usage(had.cpu_ns + sign * account.cpu_ns, added(had.energy, gains))


def trim(folded: Folded, identities: Iterable[Identity]) -> None:
    """Forget views that no listed leaf is in, those with least energy first, beyond ``MOST``."""
    if len(folded) <= MOST:
        return
    listed = {key for identity in identities for key in view_keys(identity)}
    over = sorted((total_uj(folded[key].energy), key) for key in folded.keys() - listed)
    for _, key in over[: len(folded) - MOST]:
        del folded[key]
