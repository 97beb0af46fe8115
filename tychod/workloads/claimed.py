"""What others say of workloads that cannot all be true: counted, and told in the log seldom."""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from tychod.model import Identity
from tychod.views import shown_cgroup
from tychod.workloads.hostfiles import Names
from tychod.workloads.known import SECOND_NS, Known

log = logging.getLogger(__name__)

PAUSE_NS: Final = 60 * SECOND_NS
"""Anybody with a cgroup of his own can claim ids at any rate; the log hears of it this often."""


class Claims:
    """Ids that more than one cgroup or machine claims, and files that contradict the path."""

    def __init__(self) -> None:
        self._of_id: dict[str, set[Known]] = {}
        self._doubles: set[str] = set()  # ids with two claimants
        self._machines: Mapping[str, tuple[str, ...]] = {}  # id -> cgroups, of machines alone
        self._contested: set[str] = set()  # ids to be told in the log
        self._told_ns: int | None = None
        self._mismatched: set[Known] = set()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong at present, one line each."""
        found = []
        doubles = self._doubles | self._machines.keys()
        if doubles:
            noun = "id is" if len(doubles) == 1 else "ids are"
            found.append(f"{len(doubles)} {noun} claimed by two workloads, e.g. {min(doubles)}")
        if self._mismatched:
            count = len(self._mismatched)
            found.append(
                f"of {count} container{'s' * (count > 1)} a runtime's file names another pod than"
                " the cgroup's path; the path is believed"
            )
        return tuple(found)

    def add(self, known: Known) -> None:
        """Take in a container's cgroup."""
        claimants = self._of_id.setdefault(known.base.id, set())
        claimants.add(known)
        if len(claimants) > 1:
            self._doubles.add(known.base.id)
            self._contested.add(known.base.id)

    def remove(self, known: Known) -> None:
        """Forget a container's cgroup that is gone."""
        self._mismatched.discard(known)
        claimants = self._of_id.get(known.base.id, set())
        claimants.discard(known)
        if len(claimants) < 2:
            self._doubles.discard(known.base.id)
            self._contested.discard(known.base.id)
        if not claimants:
            self._of_id.pop(known.base.id, None)

    def machines(self, found: Iterable[Identity]) -> None:
        """Take in all machines that there are now."""
        by_id: dict[str, tuple[str, ...]] = {}
        for who in found:
            by_id[who.id] = (*by_id.get(who.id, ()), shown_cgroup(who.cgroup) or "")
        doubles = {ident: cgroups for ident, cgroups in by_id.items() if len(cgroups) > 1}
        self._contested |= doubles.keys() - self._machines.keys()
        self._contested -= self._machines.keys() - doubles.keys() - self._doubles
        self._machines = doubles

    def mismatch(self, known: Known, names: Names) -> None:
        """Note a file that names another pod than the path, which alone is believed."""
        if known not in self._mismatched:
            self._mismatched.add(known)
            log.warning(
                "the %s of container %s names pod %r, its cgroup's path another: the path is"
                " believed",
                names.source,
                known.base.id,
                names.pod_uid,
            )

    def tell(self, now_ns: int) -> None:
        """Say in the log which ids came to be claimed by several."""
        is_early = self._told_ns is not None and now_ns - self._told_ns < PAUSE_NS
        if not self._contested or is_early:
            return
        example = min(self._contested)
        cgroups = [k.base.cgroup for k in self._of_id.get(example, ())]
        log.warning(
            "two workloads claim the id %s (%d such since the last line): the energy of one"
            " stays with what encloses it; cgroups: %s",
            example,
            len(self._contested),
            " and ".join(sorted(map(repr, cgroups or self._machines.get(example, ())))),
        )
        self._contested, self._told_ns = set(), now_ns
