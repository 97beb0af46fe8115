"""Kepler's names: what its dashboards find there, and what would fail its scrapes."""

import dataclasses
from typing import Final

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import (
    ACCEPTS,
    SETTINGS,
    before_of,
    families_of,
    make_node,
    samples_of,
    scrape_of,
    text_of,
    values_of,
)
from tychod.exposition.kepler import ZONES
from tychod.model import Energy, Leaf, Processes, Snapshot

NODE: Final = make_node()
TEXT: Final = text_of(scrape_of(NODE, before=before_of(NODE)), "kepler")


def test_active_energy_is_dynamic_and_what_is_idle_is_not_with_workloads() -> None:
    """Active and idle add up to the zone; a container has its dynamic energy alone."""
    [active_j] = values_of(TEXT, "kepler_node_cpu_active_joules_total", zone="package")
    [idle_j] = values_of(TEXT, "kepler_node_cpu_idle_joules_total", zone="package")
    [all_j] = values_of(TEXT, "kepler_node_cpu_joules_total", zone="package")
    assert all_j == pytest.approx(active_j + idle_j, abs=0.02)
    assert values_of(
        TEXT, "kepler_container_cpu_joules_total", container_id=made.WEB_ID, zone="package"
    ) == [81.0]
    assert values_of(TEXT, "kepler_container_gpu_joules_total", container_id=made.WEB_ID) == [5.0]


def test_zones_are_keplers_and_each_has_its_source_as_path() -> None:
    """GPU and the whole machine are no zones of the CPU; psys is one though it is no total."""
    found = {
        s.labels["zone"]: s.labels["path"]
        for s in samples_of(TEXT)
        if s.name == "kepler_node_cpu_joules_total"
    }
    assert set(found) == set(ZONES)
    assert found["package"] == "model"
    assert found["dram"] == "rapl"


def test_power_is_the_growth_since_the_window_before() -> None:
    """A tenth of the dynamic energy in 3 s; without the window before there is none to tell."""
    grown_w = 0.1 * 81.0 / 3.0
    found = values_of(TEXT, "kepler_container_cpu_watts", container_id=made.WEB_ID, zone="package")
    assert found == [pytest.approx(grown_w, abs=0.01)]
    [pod_w] = values_of(TEXT, "kepler_pod_cpu_watts", pod_id=made.WEB_UID, zone="package")
    assert pod_w == pytest.approx(grown_w, abs=0.01)
    assert values_of(TEXT, "kepler_node_cpu_idle_watts", zone="package") == [0.0]

    older = dataclasses.replace(before_of(NODE), sequence=NODE.sequence - 2)
    for before in (None, older):
        text = text_of(scrape_of(NODE, before=before), "kepler")
        assert not values_of(text, "kepler_container_cpu_watts")
        assert not values_of(text, "kepler_node_cpu_usage_ratio")
        assert values_of(text, "kepler_node_cpu_watts", zone="package")


def test_an_eviction_is_no_growth() -> None:
    """A container's energy moves to what is past of its pod: the pod's power stays what it was."""
    web = [leaf for leaf in NODE.leaves if leaf.identity.id == made.WEB_ID]
    rest = tuple(leaf for leaf in NODE.leaves if leaf not in web)
    leaves = tuple(
        dataclasses.replace(leaf, energy={n: added(e, web[0], n) for n, e in leaf.energy.items()})
        if leaf.identity.id == f"past:{made.WEB_UID}"
        else leaf
        for leaf in rest
    )
    evicted = dataclasses.replace(NODE, leaves=leaves)
    before = dataclasses.replace(NODE, sequence=NODE.sequence - 1)
    text = text_of(scrape_of(evicted, before=before), "kepler")
    assert values_of(text, "kepler_pod_cpu_watts", pod_id=made.WEB_UID, zone="package") == [0.0]
    [pod_j] = values_of(text, "kepler_pod_cpu_joules_total", pod_id=made.WEB_UID, zone="package")
    assert pod_j == pytest.approx(81.0, abs=0.02)


def added(energy: Energy, leaf: Leaf, domain: str) -> Energy:
    """Return an energy with that of a leaf added."""
    had = leaf.energy[domain]
    return Energy(energy.idle_uj + had.idle_uj, energy.dynamic_uj + had.dynamic_uj)


def test_state_and_ids_are_what_kepler_calls_so() -> None:
    """pod_id is the pod's uid; a pod runs while anything in it does."""
    states = {
        s.labels["pod_id"]: s.labels["state"]
        for s in samples_of(TEXT)
        if s.name == "kepler_pod_cpu_joules_total"
    }
    assert states[made.WEB_UID] == "running"
    assert states[made.JOB_UID] == "terminated"
    assert values_of(
        TEXT,
        "kepler_container_cpu_seconds_total",
        container_name="train",
        runtime="containerd",
        state="terminated",
        pod_id=made.JOB_UID,
    ) == [930.0]
    assert values_of(TEXT, "kepler_vm_cpu_joules_total", vm_id="vmi-uuid", hypervisor="qemu")


def reused() -> Snapshot:
    """Return the node with a pid that three processes had, one after the other."""
    one = made.make_process(77, "sh", made.WEB_ID, 9_000_000, cpu_s=1.0, power_w=None)
    later = dataclasses.replace(one, start_ns=one.start_ns + made.SECOND_NS, cpu_ns=5)
    runs = dataclasses.replace(one, start_ns=one.start_ns + 9, state="running", cpu_ns=7)
    return dataclasses.replace(NODE, processes=Processes("bpf", None, (one, runs, later)))


@pytest.mark.parametrize("accept", ACCEPTS)
def test_a_reused_pid_is_no_duplicate(accept: str) -> None:
    """Kepler's own series would be there twice, which fails the scrape: the one that runs stays."""
    text = text_of(scrape_of(reused()), "kepler", accept)
    assert values_of(text, "kepler_process_cpu_seconds_total", pid="77") == [7e-9]
    tycho = text_of(scrape_of(reused()), "tycho", accept)
    assert len(values_of(tycho, "tycho_process_cpu_seconds_total", pid="77")) >= 2


def test_no_label_of_a_pod_or_node_is_missing_without_a_pod() -> None:
    """A container in no pod has empty labels, and node_name is on all but two families."""
    without = {"kepler_build_info"}
    for family in families_of(TEXT):
        for sample in family.samples:
            if sample.name.startswith("kepler_") and sample.name not in without:
                assert sample.labels["node_name"] == made.FACTS.node
    assert values_of(TEXT, "kepler_container_cpu_seconds_total", container_name="kind-worker") == [
        2.0
    ]


def test_without_gpu_energy_there_are_no_gpu_series_of_workloads() -> None:
    """Those families are there only above 0, as Kepler's are."""
    text = text_of(scrape_of(made.make_snapshot(), SETTINGS), "kepler")
    names = {s.name for s in samples_of(text)}
    assert "kepler_pod_cpu_joules_total" in names
    assert not {n for n in names if n.startswith(("kepler_pod_gpu", "kepler_container_gpu"))}
    assert not {n for n in names if n.startswith("kepler_process_gpu")}
