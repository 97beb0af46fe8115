"""What somebody may want to mend, and whether the daemon is degraded by it; pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tychod.analysis.policy import is_request_unknown, pods_told
from tychod.collectors.base import UNREADABLE_REMEDY
from tychod.model import DaemonStatus, Domain, Snapshot, SourceStatus, Trouble

LOSSES: Final = frozenset({"stale", "unavailable"})
"""Qualities of a zone or domain that mean missing data."""
LEAST_COVERAGE: Final = 0.9
"""Share of a window that has to be observed; one late or lost reading leaves more than this."""
SETTLED_NS: Final = 60_000_000_000
"""The kubelet is asked about a new container at once; after this long it will not tell."""
NOT_CONSERVED: Final = "the energy of the workloads did not add up to the node's in {} checks"
REPORT: Final = "this is a fault of tychod: please report it, with journalctl -u tychod"
LOOK_AT_SOURCES: Final = (
    "see errors and late in tychoctl sources -o wide; a loaded machine may need a longer interval"
)
UNTOLD: Final = (
    "[attribution] idle is reserved, but what {} containers requested is not known: meanwhile "
    "what is not reserved stays with system"
)
TELL: Final = "let tychod ask the kubelet (/usr/share/doc/tychod/manual.md, Pods)"
TELL_REQUESTS: Final = f"{TELL}, or choose another policy"

FILE_SOURCES: Final = frozenset({"rapl", "model"})
"""Their problems are files that cannot be read."""

Problem = dict[str, str | None]


def state_of(status: DaemonStatus, snapshot: Snapshot | None) -> str:
    """Return the daemon's state: degraded as soon as a problem costs data."""
    if status.state == "starting":
        return "starting"
    lost = any(_costs_data(source) for source in status.sources) or any(
        not LOSSES.isdisjoint([domain.quality, *(zone.quality for zone in domain.zones)])
        for _, domain in _wanted_domains(status, snapshot)
    )
    return "degraded" if lost or status.state == "degraded" else "running"


def _wanted_domains(
    status: DaemonStatus, snapshot: Snapshot | None
) -> Iterator[tuple[str, Domain]]:
    """Yield the domains but those of a source that is switched off: they stand on purpose."""
    off = {source.name for source in status.sources if source.enabled is False}
    for name, domain in (snapshot.domains if snapshot else {}).items():
        if domain.source not in off:
            yield name, domain


def _costs_data(source: SourceStatus) -> bool:
    """Say whether a source that ought to deliver does not."""
    return source.state == "stalled" or (source.enabled is True and source.state != "ok")


def problems_of(status: DaemonStatus, snapshot: Snapshot | None) -> list[Problem]:
    """Return what somebody may want to mend: source, reason, remedy (null where none is known)."""
    found = [
        _problem(s.name, s.reason or s.state, s.remedy) for s in status.sources if _is_problem(s)
    ]
    remedies = {source.name: source.remedy for source in status.sources}
    for name, domain in _wanted_domains(status, snapshot):
        found += _domain_problems(name, domain, remedies.get(domain.source))
        if snapshot is not None:
            found += _coverage_problems(name, domain, snapshot)
    found += [_problem(*trouble) for trouble in status.troubles]
    if snapshot is not None:
        found += _attribution_problems(snapshot)
    if status.config_rejected is not None:
        remedy = "mend the files named, then reload: systemctl reload tychod"
        found.append(_problem("config", status.config_rejected, remedy))
    return found


def source_troubles(told: Mapping[str, Iterable[str]]) -> Iterator[Trouble]:
    """Yield what is degraded in a source's files or devices, by source; the text says what."""
    for name, problems in told.items():
        remedy = UNREADABLE_REMEDY if name in FILE_SOURCES else None
        for problem in problems:
            yield Trouble(name, problem, remedy)


def _is_problem(source: SourceStatus) -> bool:
    """An optional source is one where it exists, cannot be read and can be mended.

    Hardware that the host does not have is none: most hosts lack some, and an operator who
    reads of it every day no longer reads the list.
    """
    if _costs_data(source):
        return True
    return source.state == "unavailable" and source.remedy is not None and not source.absent


def _domain_problems(name: str, domain: Domain, remedy: str | None) -> list[Problem]:
    zones = [zone for zone in domain.zones if zone.reason and zone.quality != "modelled"]
    if not zones and domain.quality in LOSSES:
        return [_problem(f"{domain.source} {name}", domain.reason or domain.quality, remedy)]
    return [
        _problem(
            f"{domain.source} {zone.name}",
            zone.reason,
            remedy or (UNREADABLE_REMEDY if zone.quality == "unavailable" else None),
        )
        for zone in zones
    ]


def _coverage_problems(name: str, domain: Domain, snapshot: Snapshot) -> list[Problem]:
    """A window that spans a restart, or is the first, is not whole for a reason that is known."""
    is_whole = domain.coverage is None or domain.coverage >= LEAST_COVERAGE
    if is_whole or snapshot.gap or snapshot.sequence <= 1 or domain.quality in LOSSES:
        return []
    reason = f"only {100 * (domain.coverage or 0.0):.0f} % of the last window was observed"
    return [_problem(f"{domain.source} {name}", reason, LOOK_AT_SOURCES)]


def _attribution_problems(snapshot: Snapshot) -> Iterator[Problem]:
    violations = snapshot.conservation_violations
    if violations:
        yield _problem("attribution", NOT_CONSERVED.format(violations), REPORT)
    untold = _count_untold(snapshot)
    if untold:
        yield _problem("attribution", UNTOLD.format(untold), TELL_REQUESTS)


def _count_untold(snapshot: Snapshot) -> int:
    """Count the containers that keep the policy ``reserved`` from giving away what is left."""
    if snapshot.idle_policy != "reserved":
        return 0
    told = pods_told(leaf.identity for leaf in snapshot.leaves)
    settled_ns = snapshot.window.end_ns + snapshot.wall_offset_ns - SETTLED_NS
    return sum(
        leaf.state == "running"
        and leaf.first_seen_ns <= settled_ns
        and is_request_unknown(leaf.identity, told)
        for leaf in snapshot.leaves
    )


def _problem(source: str, reason: str | None, remedy: str | None) -> Problem:
    return {"source": source, "reason": reason, "remedy": remedy}
