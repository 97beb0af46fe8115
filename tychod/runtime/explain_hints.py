"""What would make an explanation surer, from the state of the daemon: reason and remedy; pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tychod.model import DaemonStatus, Domain, Leaf, NodeFacts, Snapshot
from tychod.runtime.entries import Plain, are_labels_known
from tychod.runtime.explain_find import Found
from tychod.runtime.explain_nobody import NEXT_WINDOW, SEE_METER, remedies_of
from tychod.runtime.problems import (
    LEAST_COVERAGE,
    LOOK_AT_SOURCES,
    NOT_CONSERVED,
    REPORT,
    TELL,
)
from tychod.runtime.replies import route_state

METERS: Final = ("rapl", "hwmon")
"""Sources that measure what a model otherwise estimates."""
OF_METERS: Final = frozenset({"coarse-bins"})
"""Flags of which nobody need look for a cause where a model takes the place of a meter."""
BPF: Final = "bpf"
LET_RUN: Final = "let it run: it goes by itself within minutes"
FLAG_REMEDIES: Final = {
    "pooled": "let it run longer, and at other times or loads than the others: what always runs "
    "together or evenly cannot be told apart; the interval says how much that may be off",
    "new": "let it run: it has an intensity of its own from the third window in which it uses at "
    "least 0.05 % of the CPU time in use",
    "carved": "start the machine in a cgroup of its own (virtqemud with machined, or "
    "systemd-run --scope): then it is read like a container",
    "learning": f"{LET_RUN}; quiet moments help most",
    "coarse-bins": LOOK_AT_SOURCES,
    "missing-energy": SEE_METER,
    "missing-cpu": "see accounting in tychoctl status: it lost CPU time or was started anew",
    "fallback-activity": 'set [accounting] counters = ["llc_misses"], where the machine has that '
    "counter, and restart tychod",
}
SOONER: Final = (
    "; bins of 50 ms, counted in the kernel, would show what is short-lived and tell workloads "
    "apart sooner"
)
WHY_NO_KERNEL: Final = "tychoctl doctor says what keeps the kernel programs out"
PROCESSES: Final = "set [accounting] processes = true and restart tychod"
DOCTOR: Final = "tychoctl doctor says what is missing"
NO_METER: Final = (
    f"{DOCTOR}; where there is no meter, as in most virtual machines, set [model] idle_w_per_cpu "
    "and busy_w_per_cpu to what this machine draws"
)
NO_WORKLOADS: Final = frozenset({"system", "past"})
"""They have no CPU time and no process: nothing of how workloads are told apart concerns them."""


class Known(NamedTuple):
    """The state of the daemon."""

    newest: Snapshot
    facts: NodeFacts
    status: DaemonStatus


class Hint(NamedTuple):
    """What is less than it could be, why, and what to do."""

    about: str
    reason: str
    remedy: str


def hints(found: Found, names: Sequence[str], known: Known) -> list[Plain]:
    """Return what would make the numbers surer or say more, the weightiest first."""
    told = [
        *_of_nobody(found),
        *_broken(known),
        *_of_domains(names, known),
        *_of_window(known),
        *_of_sharing(found, known),
    ]
    return [hint._asdict() for hint in dict.fromkeys(told)]


def _of_nobody(found: Found) -> Iterator[Hint]:
    if found.kind == "unattributed":
        for reason, remedy in remedies_of(found.leaves[0]):
            yield Hint(found.kind, reason, remedy)


def _of_sharing(found: Found, known: Known) -> Iterator[Hint]:
    """Yield what concerns how workloads are told apart and named, where that is of use."""
    if found.kind in NO_WORKLOADS:
        return
    if found.kind != "unattributed":
        yield from _of_flags(found.leaves)
        yield from _of_accounting(known)
        yield from _of_gpus(found.leaves, known)
        yield from _of_names(found.leaves, known)
    if found.kind != "kernel":
        yield from _of_processes(known)


def _broken(known: Known) -> Iterator[Hint]:
    violations = known.newest.conservation_violations
    if violations:
        yield Hint("attribution", NOT_CONSERVED.format(violations), REPORT)


def _of_domains(names: Iterable[str], known: Known) -> Iterator[Hint]:
    for name in names:
        domain = known.newest.domains[name]
        is_modelled = domain.quality == "modelled"
        if is_modelled:
            yield Hint(name, f"modelled: {_no_meter(domain, known.status)}", _meter(known.status))
        elif domain.quality != "measured":
            reason = f"{domain.quality}: {domain.reason or 'no reason given'}"
            yield Hint(name, reason, _remedy(domain, known.status))
        elif domain.coverage is not None and domain.coverage < LEAST_COVERAGE:
            reason = f"only {100 * domain.coverage:.0f} % of the window was observed"
            yield Hint(name, reason, LOOK_AT_SOURCES)
        for flag in domain.flags:
            if flag in FLAG_REMEDIES and not (is_modelled and flag in OF_METERS):
                yield Hint(name, flag, FLAG_REMEDIES[flag])


def _no_meter(domain: Domain, status: DaemonStatus) -> str:
    """Return why a domain is modelled: what the meters say that it stands in for."""
    told = [f"{s.name}: {s.reason}" for s in status.sources if s.name in METERS and s.reason]
    return domain.reason or "; ".join(told) or "no meter is read"


def _meter(status: DaemonStatus) -> str:
    """Return what lets a meter be read; where there is none, what makes the model fit."""
    found = [s for s in status.sources if s.name in METERS and s.state != "ok"]
    return next((s.remedy for s in found if s.remedy and not s.absent), NO_METER)


def _remedy(domain: Domain, status: DaemonStatus) -> str:
    """Return what the domain's source needs."""
    found = (s.remedy for s in status.sources if s.name == domain.source and s.remedy)
    return next(found, DOCTOR)


def _of_window(known: Known) -> Iterator[Hint]:
    if known.newest.gap:
        yield Hint("window", "it spans a restart of tychod and taught nothing", NEXT_WINDOW)


def _of_flags(leaves: Iterable[Leaf]) -> Iterator[Hint]:
    for leaf in leaves:
        for flag in leaf.flags:
            if flag in FLAG_REMEDIES:
                yield Hint(leaf.identity.name, flag, FLAG_REMEDIES[flag])


def _of_accounting(known: Known) -> Iterator[Hint]:
    facts = known.facts
    if not facts.accounting_method.startswith(BPF):
        remedy = facts.accounting_remedy
        why = facts.accounting_reason.replace(f"; {remedy}", "")  # a text of both holds it
        reason = f"{facts.accounting_method}: {why}{SOONER}"
        yield Hint("accounting", reason, remedy or WHY_NO_KERNEL)


def _of_gpus(leaves: Iterable[Leaf], known: Known) -> Iterator[Hint]:
    ids = {leaf.identity.id for leaf in leaves}
    for gpu in known.newest.gpus:
        if gpu.reason and ids & {*gpu.workloads, *gpu.allocated}:
            yield Hint(f"GPU {gpu.number}", gpu.reason, "see tychoctl gpus -o wide")


def _of_names(leaves: Iterable[Leaf], known: Known) -> Iterator[Hint]:
    """Names and labels of pods come from the host's files and from the kubelet, labels only so."""
    pods = [x.identity for x in leaves if x.identity.pod_uid and x.identity.kind == "container"]
    shown = [who for who in pods if not who.sandbox]
    if any(who.names_from == "path" for who in shown):
        reason = "only its cgroup's path is known, which has no names"
        yield Hint("names", reason, _kubelet_remedy(known))
    if shown and not any(are_labels_known(who) for who in shown):
        reason = "labels, owner and requests are not known"
        yield Hint("labels", reason, _kubelet_remedy(known))
    if any(who.stale for who in shown):
        yield Hint("names", "they are not refreshed now", _kubelet_remedy(known))


def _kubelet_remedy(known: Known) -> str:
    told = known.status.identity_routes.get("kubelet")
    state = route_state(told) if told else {}
    remedy, reason = state.get("remedy"), state.get("reason")
    if remedy:
        return f"kubelet: {reason}: {remedy}"
    return TELL


def _of_processes(known: Known) -> Iterator[Hint]:
    if known.newest.processes is None:
        yield Hint("processes", "which process used it is not accounted", PROCESSES)
