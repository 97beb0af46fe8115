"""The metrics' figures: sums that hold, rounding, absence, hostile names, and what is left out."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.exposition import make_snapshot as make_full_node
from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import (
    ACCEPTS,
    NAMES,
    SETTINGS,
    families_of,
    make_node,
    samples_of,
    scrape_of,
    text_of,
    values_of,
)
from tychod.config_results import MetricNames, Metrics
from tychod.exposition import Scrape
from tychod.exposition.scrape import Rounding
from tychod.exposition.text import MAX_VALUE, value_text
from tychod.model import Energy, Leaf, Snapshot

NODE: Final = make_node()
QUANTUM_J: Final = SETTINGS.energy_quantum
OWNERS: Final = ("container", "vm", "unit", "other")
"""Levels that add up to the node."""
TOTALS: Final = ("package", "dram", "gpu")
NASTY: Final = (
    'line\nfeed, "quotes" and \\',
    "\x1b[2J\x1b]0;title\x07",
    "no utf-8: \udcff\udc80",
    "nul \x00 and separators \x1e\x85\u2028",
    "right to left \u202e txt",
    "a" * 10_000,
    "a" * 9_999 + "b",
    "日本語 \N{GRINNING FACE}",
    "}{,=#",
    "",
)


@pytest.mark.parametrize("part", ["", "_part"])
@pytest.mark.parametrize("kind", ["idle", "dynamic"])
@pytest.mark.parametrize("snapshot", [NODE, make_full_node()], ids=["small", "full"])
def test_workloads_add_up_to_the_node(snapshot: Snapshot, kind: str, part: str) -> None:
    """Each domain: exactly but for the rounding, which is below one quantum a series."""
    text = text_of(scrape_of(snapshot))
    node = f"tycho_node{part}_joules_total"
    domains = {s.labels["domain"] for s in samples_of(text) if s.name == node}
    assert domains == ({"core", "uncore"} if part else {*snapshot.domains} & {*TOTALS})
    for domain in domains:
        [whole_j] = values_of(text, node, domain=domain, kind=kind)
        shares_j = [
            value
            for owner in OWNERS
            for value in values_of(
                text, f"tycho_{owner}{part}_joules_total", domain=domain, kind=kind
            )
        ]
        lost_j = whole_j - sum(shares_j)
        assert -1e-6 < lost_j < len(shares_j) * QUANTUM_J


def test_pods_are_their_containers_and_what_is_past_of_them() -> None:
    """A pod has what its listed containers have, and what those had that are evicted."""
    text = text_of(scrape_of(NODE))
    for uid in (made.WEB_UID, made.JOB_UID, f"{made.WEB_UID}@{made.NODE_CGROUP}"):
        [pod_j] = values_of(
            text, "tycho_pod_joules_total", uid=uid, domain="package", kind="dynamic"
        )
        ids = [
            s.labels["id"]
            for s in samples_of(text)
            if s.name == "tycho_container_info" and s.labels["uid"] == uid
        ]
        shares_j = [
            values_of(
                text, "tycho_container_joules_total", id=one, domain="package", kind="dynamic"
            )[0]
            for one in ids
        ]
        assert pod_j == pytest.approx(sum(shares_j), abs=(1 + len(ids)) * QUANTUM_J)


def test_all_that_is_past_is_one_series() -> None:
    """Leaves of what is past come and go, their sum only grows."""
    text = text_of(scrape_of(NODE))
    past = values_of(text, "tycho_other_joules_total", workload="past", domain="package")
    assert past == [0.0]  # 7000 uJ and 500 uJ, below the quantum
    fine = dataclasses.replace(SETTINGS, energy_quantum=0.001)
    text = text_of(scrape_of(NODE, fine))
    past = values_of(text, "tycho_other_joules_total", workload="past", domain="package")
    assert past == [0.007]


def test_a_view_is_in_a_family_of_its_own() -> None:
    """A VM in a pod has its energy twice, so it is not among those that add up."""
    text = text_of(scrape_of(NODE))
    assert not values_of(text, "tycho_vm_joules_total", id="vmi-uuid")
    assert values_of(text, "tycho_vm_view_joules_total", id="vmi-uuid", domain="package") == [60.0]
    assert values_of(text, "tycho_vm_info", id="vmi-uuid", held_by=made.WEB_ID) == [1.0]


@given(
    steps=st.lists(st.integers(0, 10**7), min_size=1, max_size=8),
    start=st.integers(0, 10**15),
    quantum=st.integers(1_000, 10_000_000),
)
def test_rounded_counters_never_fall_and_are_within_a_quantum(
    steps: list[int], start: int, quantum: int
) -> None:
    """Whatever grows in steps of any size grows rounded, too, and is never more than it was."""
    rounding = Rounding(quantum, quantum / 3e6)
    energy_uj, shown_j = start, rounding.joules(start)
    for step in steps:
        energy_uj += step
        now_j = rounding.joules(energy_uj)
        assert now_j >= shown_j
        assert -1e-3 < energy_uj / 1e6 - now_j < quantum / 1e6 + 1e-3
        shown_j = now_j


@pytest.mark.parametrize("names", NAMES)
def test_energy_and_power_are_multiples_of_their_steps(names: MetricNames) -> None:
    """No figure of energy or power is finer than the quantum, by whatever family."""
    coarse = dataclasses.replace(SETTINGS, energy_quantum=0.25)
    for sample in samples_of(text_of(scrape_of(NODE, coarse), names)):
        exempt = ("exporter",)
        if any(word in sample.name for word in exempt):
            continue
        if "joules" in sample.name:
            assert sample.value * 4 == pytest.approx(round(sample.value * 4), abs=1e-9), sample
        if "watts" in sample.name:
            steps = sample.value * 4 * NODE.window.seconds
            assert steps == pytest.approx(round(steps), abs=1e-4), sample


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("power_w", [float("nan"), float("inf"), float("-inf")])
def test_a_power_that_is_no_number_costs_its_own_series_alone(
    names: MetricNames, power_w: float
) -> None:
    """One bad reading must not fail the scrape of the whole node, nor be shown."""
    package = dataclasses.replace(NODE.domains["package"], power_w=power_w)
    first, *rest = NODE.leaves
    leaf = dataclasses.replace(first, power_w=dict.fromkeys(first.power_w, power_w))
    bad = dataclasses.replace(
        NODE, domains={**NODE.domains, "package": package}, leaves=(leaf, *rest)
    )
    found = [*samples_of(text_of(scrape_of(bad), names))]

    assert len(found) > 100
    assert all(math.isfinite(sample.value) for sample in found)


def test_what_was_never_measured_has_no_series() -> None:
    """Absent, never 0: domains, zones, GPUs, power of what has ended, sources not yet read."""
    dram = NODE.domains["dram"]
    gone = dataclasses.replace(dram, quality="unavailable", energy_uj=0, power_w=None, zones=())
    gone = dataclasses.replace(gone, idle_uj=0, dynamic_uj=0, idle_floor=None)
    domains = {**NODE.domains, "dram": gone}
    text = text_of(scrape_of(dataclasses.replace(NODE, domains=domains)))
    of_dram = {s.name for s in samples_of(text) if s.labels.get("domain") == "dram"}
    assert not {name for name in of_dram if "joules" in name or "watts" in name}
    assert values_of(text, "tycho_domain_quality", domain="dram", quality="unavailable") == [1.0]
    assert not values_of(text, "tycho_gpu_watts", gpu="1")
    assert not values_of(text, "tycho_gpu_joules_total", gpu="1")
    assert values_of(text, "tycho_gpu_quality", gpu="1", quality="unavailable") == [1.0]
    name = "tycho_source_last_sample_timestamp_seconds"
    assert not values_of(text, name, source="kubelet")
    assert values_of(text, name, source="rapl")


def test_modelled_energy_and_the_state_of_sources_are_told() -> None:
    """One of the states is 1; hardware that a host does not have is absent, not unavailable."""
    kubelet = dataclasses.replace(made.SOURCES[2], name="nvml", absent=True)
    status = dataclasses.replace(made.STATUS, sources=(*made.SOURCES, kubelet))
    text = text_of(scrape_of(NODE)._replace(status=status))
    assert values_of(text, "tycho_domain_quality", domain="package", quality="modelled") == [1.0]
    assert sum(values_of(text, "tycho_domain_quality", domain="package")) == 1
    assert values_of(text, "tycho_source_state", source="nvml", state="absent") == [1.0]
    assert values_of(text, "tycho_source_state", source="kubelet", state="unavailable") == [1.0]
    assert values_of(text, "tycho_source_errors_total", source="rapl") == [3.0]
    assert values_of(text, "tycho_source_late_total", source="rapl") == [1.0]
    assert values_of(text, "tycho_daemon_cpu_seconds_total") == [63.103]
    assert values_of(text, "tycho_window_end_timestamp_seconds") == [1_750_000_063.0]


def named(value: str) -> Snapshot:
    """Return the node with this text wherever a text comes from outside."""
    leaves = tuple(
        dataclasses.replace(
            leaf,
            identity=dataclasses.replace(
                leaf.identity,
                name=value,
                namespace=value,
                pod=value,
                owner=value,
                cgroup=f"/{value}",
                id=f"{leaf.identity.id}{value}",
            ),
        )
        if leaf.identity.kind in ("container", "vm", "unit")
        else leaf
        for leaf in NODE.leaves
    )
    gpus = tuple(dataclasses.replace(gpu, name=value) for gpu in NODE.gpus)
    assert NODE.processes is not None
    entries = tuple(dataclasses.replace(one, comm=value) for one in NODE.processes.entries)
    processes = dataclasses.replace(NODE.processes, entries=entries)
    return dataclasses.replace(NODE, leaves=leaves, gpus=gpus, processes=processes)


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_no_name_breaks_the_text(value: str, names: MetricNames, accept: str) -> None:
    """As many series as with good names, no control characters, and no value beyond the limit."""
    text = text_of(scrape_of(named(value)), names, accept)
    good = text_of(scrape_of(named("good")), names, accept)
    assert sum(len(f.samples) for f in families_of(text)) == sum(
        len(f.samples) for f in families_of(good)
    )
    assert all(char.isprintable() or char == "\n" for char in text)
    longest = max(len(v) for f in families_of(text) for s in f.samples for v in s.labels.values())
    assert longest <= MAX_VALUE


def test_values_that_are_cut_or_escaped_stay_apart() -> None:
    """Long ones that differ at the end, and control characters beside their own escapes."""
    values = [*NASTY, "\x1b", "\\x1b", "\\x1b…", "x" * 256, "x" * 257, "x" * 258]
    assert len({value_text(value) for value in values}) == len(values)
    assert value_text("plain name-1.service") == "plain name-1.service"
    assert value_text(None) == ""


def test_a_stolen_id_gets_a_mark_and_no_series_is_there_twice() -> None:
    """Somebody's cgroup in a container claims another container's id: both are shown."""
    thief = dataclasses.replace(
        made.LEAVES[4], identity=dataclasses.replace(made.nested(), id=made.WEB_ID)
    )
    snapshot = dataclasses.replace(NODE, leaves=(*NODE.leaves, thief))
    text = text_of(scrape_of(snapshot))
    ids = [s.labels["id"] for s in samples_of(text) if s.name == "tycho_container_info"]
    assert len(set(ids)) == len(ids) == 6
    assert made.WEB_ID in ids
    assert [one for one in ids if one.startswith(f"{made.WEB_ID}@")]
    assert families_of(text_of(scrape_of(snapshot), "kepler"))


def limited(most: int) -> Metrics:
    """Return settings with room for some series."""
    return dataclasses.replace(SETTINGS, max_series=most)


def count_by_level(text: str, name: str) -> dict[str, float]:
    """Return a family by its label level."""
    return {s.labels["level"]: s.value for s in samples_of(text) if s.name == name}


@pytest.mark.parametrize("most", [100, 250, 300, 350, 400, 20_000])
@pytest.mark.parametrize("names", NAMES)
def test_the_cap_holds_and_what_is_left_out_is_counted(names: MetricNames, most: int) -> None:
    """The node and the daemon always; shown and dropped add up to what there is."""
    whole, text = (text_of(scrape_of(NODE, one), names) for one in (SETTINGS, limited(most)))
    total = len(list(samples_of(whole)))
    shown = count_by_level(text, "tycho_exporter_series")
    dropped = count_by_level(text, "tycho_exporter_series_dropped")
    assert sum(shown.values()) == len(list(samples_of(text)))
    assert sum(shown.values()) + sum(dropped.values()) == total
    assert sum(shown.values()) <= max(most, shown["self"] + shown["node"])
    assert dropped["self"] == dropped["node"] == 0


def test_the_finest_level_and_the_least_energy_give_way_first() -> None:
    """Units go by energy before any container does, and a pod outlives them all."""
    full = make_full_node()
    whole = text_of(scrape_of(full))
    total = len(list(samples_of(whole)))
    text = text_of(scrape_of(full, limited(total - 60)))
    units = ids_of(text, "tycho_unit_info")
    assert 20 < len(units) < 40
    assert set(units) == {f"unit-{number}.service" for number in range(40 - len(units), 40)}
    assert len(ids_of(text, "tycho_container_info")) == 300

    text = text_of(scrape_of(full, limited(2_000)))
    assert not ids_of(text, "tycho_unit_info")
    assert 0 < len(ids_of(text, "tycho_container_info")) < 300
    assert len(values_of(text, "tycho_pod_info")) == 120


def ids_of(text: str, name: str) -> list[str]:
    """Return the ids in a family."""
    return [s.labels["id"] for s in samples_of(text) if s.name == name]


def test_who_is_shown_does_not_flap() -> None:
    """A window later, with everybody's energy a little different, the same are shown."""
    full = make_full_node()
    later = dataclasses.replace(full, leaves=tuple(map(grown, full.leaves)), sequence=21)
    texts = [text_of(scrape_of(one, limited(2_000))) for one in (full, later)]
    first, second = (set(ids_of(text, "tycho_container_info")) for text in texts)
    assert len(first ^ second) <= 2


def grown(leaf: Leaf) -> Leaf:
    """Return a leaf a window later."""
    more = sum(leaf.identity.id.encode()) % 1000
    energy = {n: Energy(e.idle_uj, e.dynamic_uj + more) for n, e in leaf.energy.items()}
    return dataclasses.replace(leaf, energy=energy)


@pytest.mark.parametrize("names", NAMES)
def test_levels_choose_what_there_is(names: MetricNames) -> None:
    """A level that is not asked for has no series, and is not counted as left out."""
    text = text_of(scrape_of(NODE, dataclasses.replace(SETTINGS, levels=("pod",))), names)
    levels = {s.name.split("_")[1] for s in samples_of(text)}
    assert "pod" in levels
    assert not levels & {"container", "vm", "unit", "process", "gpu", "node", "other", "domain"} - (
        {"node"} if names == "tycho" else set()
    )
    assert sum(count_by_level(text, "tycho_exporter_series_dropped").values()) == 0


def all_values(scrapes: Iterable[Scrape]) -> list[dict[tuple[object, ...], float]]:
    """Return each scrape's counters."""
    return [
        {
            (s.name, *sorted(s.labels.items())): s.value
            for s in samples_of(text_of(scrape))
            if s.name.endswith("_total")
        }
        for scrape in scrapes
    ]


def test_counters_of_a_later_window_are_no_less() -> None:
    """Series that are in both never fall, rounded or not."""
    later = dataclasses.replace(NODE, leaves=tuple(map(grown, NODE.leaves)), sequence=21)
    first, second = all_values([scrape_of(NODE), scrape_of(later)])
    assert first.keys() <= second.keys()
    assert [key for key in first if second[key] < first[key]] == []
