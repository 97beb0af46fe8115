"""What others say of containers that cannot all be true: counted, and told in the log seldom."""

import logging
from typing import Final

from tychod.workloads.hostfiles import Names
from tychod.workloads.known import SECOND_NS, Known

log = logging.getLogger(__name__)

PAUSE_NS: Final = 60 * SECOND_NS
"""Anybody with a cgroup of his own can claim ids at any rate; the log hears of it this often."""


class Claims:
    """Container ids that more than one cgroup claims, and files that contradict the path."""

    def __init__(self) -> None:
        self._of_id: dict[str, set[Known]] = {}
        self._doubles: set[str] = set()  # ids with two claimants
        self._contested: set[str] = set()  # of those, which are to be told in the log
        self._told_ns: int | None = None
        self._mismatches = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong at present, one line each."""
        found = []
        if self._doubles:
            count, example = len(self._doubles), min(self._doubles)
            found.append(f"{count} container ids are claimed by two cgroups, e.g. {example}")
        if self._mismatches:
            found.append(
                f"{self._mismatches} times a runtime's file named another pod than the cgroup's"
                " path; the path is believed"
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
        claimants = self._of_id.get(known.base.id, set())
        claimants.discard(known)
        if len(claimants) < 2:
            self._doubles.discard(known.base.id)
            self._contested.discard(known.base.id)
        if not claimants:
            self._of_id.pop(known.base.id, None)

    def mismatch(self, known: Known, names: Names) -> None:
        """Note a file that names another pod than the path, which alone is believed."""
        self._mismatches += 1
        if known.attempts == 0:
            log.warning(
                "the %s of container %s names pod %r, its cgroup's path another: the path is"
                " believed",
                names.source,
                known.base.id,
                names.pod_uid,
            )

    def tell(self, now_ns: int) -> None:
        """Say in the log which container ids came to be claimed by several cgroups."""
        is_early = self._told_ns is not None and now_ns - self._told_ns < PAUSE_NS
        if not self._contested or is_early:
            return
        example = min(self._contested)
        log.warning(
            "two cgroups claim container %s (%d such since the last line): the energy of one"
            " stays with what encloses it; cgroups: %s",
            example,
            len(self._contested),
            " and ".join(sorted(repr(k.base.cgroup) for k in self._of_id[example])),
        )
        self._contested, self._told_ns = set(), now_ns
