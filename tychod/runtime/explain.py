"""How one workload's energy of the last window came about, as the plain data of an answer; pure.

Nothing is computed anew: what the analysis booked is taken apart.  A domain's energy of the window
is the sum over all workloads, exactly; a workload's dynamic energy is its CPU seconds times its
intensity times a factor, which is what the power curve, the noise of this window and whole
microjoules make of it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.model import DaemonStatus, Domain, Energy, Leaf, NodeFacts, Snapshot, total_domains
from tychod.protocol import Explain
from tychod.runtime.entries import (
    Plain,
    are_labels_known,
    rounded,
    sd_uj_of,
    window_sd_uj_of,
)
from tychod.runtime.explain_find import Found, Names, find
from tychod.runtime.explain_hints import Known, hints
from tychod.runtime.explain_nobody import how_of
from tychod.runtime.explain_node import gpu_parts, holder_entry, node_entry
from tychod.runtime.explain_rules import GPU, activity_weights, how_shared, idle_rules, meanings
from tychod.runtime.explain_window import (
    Gain,
    Span,
    by_whom_uj,
    counted_uj,
    gain_of,
    gain_of_group,
    gain_of_view,
    span_of,
)
from tychod.runtime.rollup import pod_of
from tychod.views import shown_cgroup

NORMAL_95: Final = 1.96
"""Standard deviations to each side that hold 95 % of a normal distribution."""
BASES: Final[Mapping[str, str | None]] = {
    "counters": None,
    "first": "the first window: the counters began in it",
    "power": (
        "tychod began anew: the counters before this window are not at hand, so its energy is "
        "known, but neither its CPU time nor idle and dynamic energy apart; ask again after the "
        "next window"
    ),
}
GAP: Final = "the window spans a restart of tychod: it was shared by what was known before"


class _Asked(NamedTuple):
    """What is explained, and the window it is explained in."""

    found: Found
    span: Span
    gain: Gain
    weights: Mapping[str, Mapping[str, float]]  # by domain and leaf: how much a CPU second counts


class Whole:
    """What is the same in every explanation of one window: worked out once, kept by who asks."""

    def __init__(self, newest: Snapshot, before: Snapshot | None) -> None:
        self.newest: Final = newest
        self.before: Final = before
        self.span: Final = span_of(newest, before)
        self.names: Final = Names(newest)
        self.weights: Final = activity_weights(self.span)


def explain(
    args: Explain,
    newest: Snapshot,
    before: Snapshot | None,
    facts: NodeFacts,
    status: DaemonStatus,
) -> Plain:
    """Return the explanation; raise ``ProtocolError`` where the name means nothing or several."""
    return explain_in(Whole(newest, before), args, facts, status)


def explain_in(whole: Whole, args: Explain, facts: NodeFacts, status: DaemonStatus) -> Plain:
    """Return the explanation of a workload in a window of which the whole is known."""
    newest, span, found = whole.newest, whole.span, find(args, whole.names)
    asked = _Asked(found, span, _gain(found, span, whole.before), whole.weights)
    known = Known(newest, facts, status)
    domains = {
        name: _domain(name, domain, asked)
        for name, domain in newest.domains.items()
        if any(name in leaf.energy for leaf in found.leaves)
    }
    flags = [*(f for x in found.leaves for f in x.flags), *_flags_of(newest, domains)]
    return {
        **_who(found),
        **_window(span, facts),
        "cpu": _cpu(asked.gain, span),
        "total": _total(asked),
        "domains": domains,
        "members": [_member(leaf, asked) for leaf in found.leaves] if found.pod else [],
        "gpus": gpu_parts(found.leaves, newest),
        "held_by": holder_entry(found, newest),
        "machines": _machines(found, newest),
        "flags": meanings(flags),
        "whole": _whole(asked),
        "improve": hints(found, list(domains), known),
    }


def _gain(found: Found, span: Span, before: Snapshot | None) -> Gain:
    if found.pod is not None:
        gone = [leaf for leaf in span.gone if pod_of(leaf.identity) == found.pod]
        return gain_of_group(found.leaves, gone, span)
    leaf = found.leaves[0]
    return gain_of_view(leaf, span, before) if found.is_view else gain_of(leaf, span)


def _whole(asked: _Asked) -> Plain:
    """Return the node's energy of the window; what another holds is no part of its own there."""
    found = asked.found
    members = () if found.is_view else found.leaves
    return node_entry(asked.span, members, {} if found.is_view else asked.gain.total_uj)


def _flags_of(newest: Snapshot, names: Iterable[str]) -> list[str]:
    return [flag for name in names for flag in newest.domains[name].flags]


def _who(found: Found) -> Plain:
    """Return by what names people know it, and how they are known."""
    named = [x for x in found.leaves if not x.identity.sandbox and x.identity.kind != "past"]
    leaf = (named or found.leaves)[0]
    who = leaf.identity
    state = "running" if any(x.state == "running" for x in found.leaves) else "terminated"
    return {
        "kind": found.kind,
        "id": found.pod or who.id,
        "name": (who.pod if found.pod else who.name),
        "namespace": who.namespace,
        "pod": who.pod,
        "pod_uid": who.pod_uid,
        "state": state,
        "view": found.is_view,
        "owner": who.owner,
        "qos": who.qos,
        "runtime": who.runtime,
        "cgroup": None if found.pod else shown_cgroup(who.cgroup),
        "names_from": who.names_from,
        "labels_known": are_labels_known(who),
        "reason": who.reason,
        "vcpu_seconds": None if leaf.vcpu_ns is None or found.pod else leaf.vcpu_ns / 1e9,
    }


def _window(span: Span, facts: NodeFacts) -> Plain:
    window = span.window
    length_ns = window.end_ns - window.start_ns
    is_counted = facts.accounting_method.startswith("bpf")
    notes = [note for note in (BASES[span.basis], GAP if span.newest.gap else None) if note]
    return {
        "window_ns": length_ns,
        "bins": max(round(length_ns / BUCKET_NS), 1) if is_counted else None,
        "bin_ns": BUCKET_NS if is_counted else None,
        "accounting": {"method": facts.accounting_method, "reason": facts.accounting_reason},
        "basis": span.basis,
        "notes": notes,
    }


def _cpu(gain: Gain, span: Span) -> Plain:
    all_ns = span.cpu_ns
    share = gain.cpu_ns / all_ns if all_ns and gain.cpu_ns is not None else None
    return {"ns": gain.cpu_ns, "all_ns": all_ns, "share": share}


def _total(asked: _Asked) -> Plain:
    """Return the window and the running total over the domains that make a total up."""
    leaves, span = asked.found.leaves, asked.span
    names = _total_names(leaves)
    uj = sum(asked.gain.total_uj.get(name, 0) for name in names)
    split = [e for name in names if (e := asked.gain.split.get(name)) is not None]
    known = len(split) == len(names)
    window_sd_uj = _joint([_sd_of(x, names, window_sd_uj_of(x), _has_power(x)) for x in leaves])
    parts = [leaf.total for leaf in leaves]
    sd_uj = _joint([_sd_of(x, names, sd_uj_of(x), x.total.total_uj > 0) for x in leaves])
    energy = Energy(sum(p.idle_uj for p in parts), sum(p.dynamic_uj for p in parts))
    return {
        "domains": names,
        "uj": uj if names else None,
        "idle_uj": sum(e.idle_uj for e in split) if names and known else None,
        "dynamic_uj": sum(e.dynamic_uj for e in split) if names and known else None,
        "power_w": uj / 1e6 / span.window.seconds if names else None,
        "taken_uj": sum(asked.gain.taken_uj.get(name, 0) for name in names),
        "sd_uj": rounded(window_sd_uj),
        "interval_uj": interval(uj, window_sd_uj),
        "since_first_seen": {
            "idle_uj": energy.idle_uj if names else None,
            "dynamic_uj": energy.dynamic_uj if names else None,
            "sd_uj": rounded(sd_uj),
            "interval_uj": interval(energy.total_uj, sd_uj) if names else None,
        },
    }


def _total_names(leaves: Sequence[Leaf]) -> list[str]:
    found = dict.fromkeys(name for leaf in leaves for name in leaf.energy)
    return [name for name in found if name in total_domains(found)]


def _has_power(leaf: Leaf) -> bool:
    return bool(leaf.total_power_w)


def _sd_of(
    leaf: Leaf, names: Sequence[str], told: Mapping[str, float], matters: bool
) -> float | None:
    """Return a leaf's standard deviation over domains; 0 where it has nothing to be wrong about."""
    own = [name for name in names if name in leaf.energy]
    if any(name not in told for name in own):
        return None if matters else 0.0
    return math.hypot(*(told[name] for name in own)) if own else 0.0


def _joint(sds: Sequence[float | None]) -> float | None:
    """Return that of a sum, errors taken as independent; None where one is not known."""
    known = [sd for sd in sds if sd is not None]
    return math.hypot(*known) if known and len(known) == len(sds) else None


def interval(uj: int, sd_uj: float | None) -> list[float] | None:
    """Return the bounds that hold the truth in 95 of 100 cases, in microjoules."""
    if sd_uj is None or not math.isfinite(sd_uj):
        return None
    return [round(max(uj - NORMAL_95 * sd_uj, 0.0), 3), round(uj + NORMAL_95 * sd_uj, 3)]


def _domain(name: str, domain: Domain, asked: _Asked) -> Plain:
    span, newest, found = asked.span, asked.span.newest, asked.found
    members = () if found.is_view else found.leaves
    own_uj = 0 if found.is_view else asked.gain.total_uj.get(name, 0)
    whole = span.sums[name]
    split = whole.energy
    whom = by_whom_uj(name, span, own_uj, members)
    return {
        "in_total": name in total_domains(newest.domains),
        "source": domain.source,
        "quality": domain.quality,
        "reason": domain.reason,
        "coverage": domain.coverage,
        "flags": list(domain.flags),
        "idle_floor": domain.idle_floor._asdict() if domain.idle_floor else None,
        "counted_uj": counted_uj(name, span),
        "shared_uj": whole.uj,
        "idle_uj": split.idle_uj if split else None,
        "dynamic_uj": split.dynamic_uj if split else None,
        "by_whom_uj": whom,
        "how": how_of(found.kind, how_shared(name, domain, newest)),
        "own": _own(name, asked),
        "idle_rules": idle_rules(name, found.leaves, newest),
    }


def _own(name: str, asked: _Asked) -> Plain:
    """Return the explained part of a domain; of one leaf with the product that it came from."""
    leaves, gain = asked.found.leaves, asked.gain
    uj = gain.total_uj.get(name, 0)
    every = asked.span.sums[name].uj
    sd_uj = _joint(
        [_sd_of(x, [name], window_sd_uj_of(x), bool(x.power_w.get(name))) for x in leaves]
    )
    split = gain.split.get(name)
    product = {} if asked.found.pod else _product(name, leaves[0], gain, asked)
    return {
        **_parts(name, gain),
        "share": uj / every if every else None,
        "power_w": uj / 1e6 / asked.span.window.seconds,
        "sd_uj": rounded(sd_uj),
        "interval_uj": interval(uj, sd_uj),
        "booked_j_per_cpu_s": _per_second(split, gain.cpu_ns, sd_uj) if name != GPU else None,
        **product,
    }


def _per_second(split: Energy | None, cpu_ns: int | None, sd_uj: float | None) -> Plain | None:
    """Return what a CPU second of the window cost above idle, and its standard deviation.

    That of the intensity alone is not kept; this one holds it and the window's own noise.
    """
    if split is None or not cpu_ns:
        return None
    return {
        "value": split.dynamic_uj * 1e3 / cpu_ns,
        "sd": None if sd_uj is None else sd_uj * 1e3 / cpu_ns,
    }


def _parts(name: str, gain: Gain) -> Plain:
    split = gain.split.get(name)
    return {
        "uj": gain.total_uj.get(name, 0),
        "idle_uj": split.idle_uj if split else None,
        "dynamic_uj": split.dynamic_uj if split else None,
        "taken_uj": gain.taken_uj.get(name, 0),
    }


def _product(name: str, leaf: Leaf, gain: Gain, asked: _Asked) -> Plain:
    """Return CPU seconds x weight x intensity, and the factor from there to what was booked."""
    intensity = leaf.intensity.get(name)
    weight = asked.weights.get(name, {}).get(leaf.identity.id)
    expected_uj = factor = None
    if intensity is not None and gain.cpu_ns is not None:
        expected_uj = gain.cpu_ns / 1e3 * intensity * (1.0 if weight is None else weight)
        split = gain.split.get(name)
        factor = split.dynamic_uj / expected_uj if split and expected_uj > 0.0 else None
    return {
        "intensity_j_per_cpu_s": intensity,
        "weight": None if intensity is None else weight,
        "expected_uj": None if expected_uj is None else round(expected_uj, 3),
        "factor": factor,
    }


def _member(leaf: Leaf, asked: _Asked) -> Plain:
    """Return one leaf of a pod: what it adds to the pod's sum, and how."""
    gain, who = gain_of(leaf, asked.span), leaf.identity
    names = [name for name in leaf.energy if name in _total_names([leaf])]
    uj = sum(gain.total_uj[name] for name in names)
    sd_uj = _sd_of(leaf, names, window_sd_uj_of(leaf), _has_power(leaf))
    return {
        "kind": who.kind,
        "id": who.id,
        "name": who.name,
        "sandbox": who.sandbox,
        "state": leaf.state,
        "flags": list(leaf.flags),
        "names_from": who.names_from,
        "requests": dict(who.requests),
        "cpu": _cpu(gain, asked.span),
        "uj": uj if names else None,
        "power_w": uj / 1e6 / asked.span.window.seconds if names else None,
        "sd_uj": rounded(sd_uj),
        "interval_uj": interval(uj, sd_uj),
        "domains": {n: {**_parts(n, gain), **_product(n, leaf, gain, asked)} for n in leaf.energy},
    }


def _machines(found: Found, newest: Snapshot) -> list[Plain]:
    """Return the virtual machines whose energy is within what is explained."""
    ids = {leaf.identity.id for leaf in found.leaves}
    return [
        {"id": v.identity.id, "name": v.identity.name, "power_w": v.total_power_w}
        for v in newest.views
        if not found.is_view and v.identity.parent in ids
    ]
