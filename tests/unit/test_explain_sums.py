"""What an explanation says adds up: in every window, for every leaf and every pod, exactly."""

import dataclasses
from itertools import pairwise
from typing import Any

from hypothesis import given, settings

from tests.fixtures import snapshots as made
from tests.property.test_conservation import PARAMS, worlds
from tests.sim.world import World
from tychod.model import DaemonStatus, Energy, Snapshot
from tychod.protocol import Explain
from tychod.runtime.explain import explain
from tychod.runtime.explain_window import gain_of, span_of

STATUS: DaemonStatus = made.STATUS


def explained(name: str, now: Snapshot, before: Snapshot | None, kind: Any = "workload") -> Any:
    """Return the explanation of one name."""
    return explain(Explain(name, kind), now, before, made.FACTS, STATUS)


def added(now: Snapshot, before: Snapshot | None, name: str) -> Energy:
    """Return what a window added to a domain."""
    after, had = now.domains[name], before.domains.get(name) if before else None
    idle_uj = (after.idle_uj or 0) - ((had.idle_uj if had else 0) or 0)
    return Energy(idle_uj, (after.dynamic_uj or 0) - ((had.dynamic_uj if had else 0) or 0))


@settings(max_examples=8, deadline=None)
@given(worlds())
def test_every_window_is_explained_to_the_microjoule(case: tuple[World, tuple[int, ...]]) -> None:
    """Births, deaths, evictions and lost readings: who has what adds up to the domain's energy."""
    world, edges = case
    for before, now in pairwise([None, *world.run(edges, PARAMS)]):
        assert now is not None
        for leaf in now.leaves:
            told = explained(leaf.identity.id, now, before)
            for name, domain in told["domains"].items():
                whole = added(now, before, name)
                assert domain["counted_uj"] == domain["shared_uj"]
                assert (domain["idle_uj"], domain["dynamic_uj"]) == whole
                assert sum(domain["by_whom_uj"].values()) == domain["shared_uj"] == whole.total_uj
                assert all(uj >= 0 for uj in domain["by_whom_uj"].values())
                own = domain["own"]
                if own["idle_uj"] is not None:
                    assert own["idle_uj"] + own["dynamic_uj"] == own["uj"]
                if own["factor"] is not None:
                    product = own["expected_uj"] * own["factor"]
                    assert abs(product - own["dynamic_uj"]) < 1e-6 * max(product, 1.0)


@settings(max_examples=8, deadline=None)
@given(worlds())
def test_a_pod_is_the_sum_of_its_containers(case: tuple[World, tuple[int, ...]]) -> None:
    """Also in the window in which one of them is evicted to the pod's past."""
    world, edges = case
    for before, now in pairwise(world.run(edges, PARAMS)):
        for uid in {x.identity.pod_uid for x in now.leaves if x.identity.kind == "container"}:
            if uid is None:
                continue
            told = explained(uid, now, before, "pod")
            for name, domain in told["domains"].items():
                parts = [m["domains"][name]["uj"] for m in told["members"] if name in m["domains"]]
                assert sum(parts) == domain["own"]["uj"]
                assert sum(domain["by_whom_uj"].values()) == domain["shared_uj"]


@settings(max_examples=8, deadline=None)
@given(worlds())
def test_mean_power_says_what_was_booked(case: tuple[World, tuple[int, ...]]) -> None:
    """A counter's step is what was booked, but for leaves that took over what another had."""
    world, edges = case
    for before, now in pairwise(world.run(edges, PARAMS)):
        span = span_of(now, before)
        gone = {leaf.identity.id for leaf in span.gone}
        taken = [leaf for leaf in now.leaves if gain_of(leaf, span).taken_uj]
        assert gone or not taken
        assert all(leaf.identity.kind in ("past", "unit") for leaf in taken)


def test_the_first_window_begins_at_nothing() -> None:
    """Where the counters began in the window they are the window's energy, and it says so."""
    leaf = next(x for x in made.LEAVES if x.identity.id == "kernel")
    uj = {name: energy.total_uj for name, energy in leaf.energy.items()}
    kernel = dataclasses.replace(leaf, power_w={name: n / 3e6 for name, n in uj.items()})
    first = dataclasses.replace(made.make_snapshot((kernel,)), sequence=1)

    told = explained("kernel", first, None)

    assert told["basis"] == "first"
    assert told["cpu"]["ns"] == kernel.cpu_ns
    assert told["total"]["uj"] == sum(uj.values())
    assert "first window" in told["notes"][0]


def test_after_a_restart_only_what_the_window_itself_tells_is_told() -> None:
    """Without the snapshot before, energy is known by power; CPU time and idle energy are not."""
    now = dataclasses.replace(made.make_snapshot(), gap=True)

    for before in (None, made.make_snapshot(sequence=17)):
        told = explained(made.WEB_ID, now, before)
        own = told["domains"]["package"]["own"]
        assert told["basis"] == "power"
        assert own["uj"] == 9_750_000  # 3.25 W for 3 s
        assert own["dynamic_uj"] is None
        assert told["cpu"]["ns"] is None
        assert (
            sum(told["domains"]["package"]["by_whom_uj"].values())
            == (told["domains"]["package"]["shared_uj"])
        )
        assert any("restart" in note for note in told["notes"])
