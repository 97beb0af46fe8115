"""Answers: the keys that others rely on, sums, absence, and what counts as a problem."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import snapshots as made
from tychod.buffer import Latest
from tychod.frames import ProtocolError
from tychod.model import DaemonStatus, Energy, Identity, Leaf, Snapshot, SourceStatus
from tychod.runtime import entries, replies, rollup
from tychod.runtime.answers import pack
from tychod.runtime.problems import problems_of, state_of

HEAD = {"schema", "node", "boot_id", "since", "sequence", "window"}
LEAF = {
    *("kind", "id", "name", "namespace", "pod", "pod_uid", "runtime", "cgroup", "parent"),
    *("sandbox", "labels", "names_from", "stale", "state", "first_seen", "reason", "cpu_seconds"),
    *("energy", "total", "power_w", "total_power_w", "requests", "counters"),
    *("uncertainty", "total_sd_uj", "total_power_sd_w", "intensity_j_per_cpu_s", "flags"),
    *(
        "ended",
        "ended_sequence",
        "description",
        "devices",
        "pid",
        "tenant",
        "nested",
        "labels_known",
    ),
    *("vcpu_seconds", "overhead_seconds"),
}
VM = LEAF | {"view", "held_by"}
POD = {
    *("namespace", "name", "uid", "owner", "qos", "state", "labels", "containers"),
    *("cpu_seconds", "energy", "total", "total_power_w", "total_sd_uj", "total_power_sd_w"),
    *("tenant", "nested", "parent", "parent_name", "ended", "labels_known"),
}
PROCESS = {
    *("pid", "start_time", "comm", "state", "workload", "cpu_seconds", "energy"),
    *("total", "total_power_w"),
}
DOMAIN = {
    *("source", "quality", "reason", "through", "energy_uj", "idle_uj", "dynamic_uj", "power_w"),
    *("zones", "idle_floor", "coverage", "flags"),
}
SOURCE = {
    *("name", "enabled", "state", "quality", "reason", "remedy", "interval_s", "delay_s"),
    *("samples", "errors", "last_sample", "notes", "devices"),
}
DEVICE = {
    *("name", "fingerprint", "period_s", "period_sd_s", "delay_s", "delay_sd_s", "origin"),
}
RESIDUAL = {
    *("energy_uj", "idle_uj", "dynamic_uj", "platform_uj", "parts_uj", "power_w", "idle_w"),
    *("usable", "reason", "through"),
}
PLATFORM = {
    *("method", "reason", "centroid_s", "centroid_sd_s", "delay_s", "lag_s", "boxcar_s"),
    *("base_w", "base_sd_w", "coefficients", "period_s", "readings", "rejected"),
}
GPU = {
    *("uuid", "number", "name", "pci", "quality", "reason", "energy", "power_w", "power_sd_w"),
    *("idle_w", "method", "period_s", "pstate", "sm_percent", "memory_percent"),
    *("memory_used_bytes", "memory_total_bytes", "sm_mhz", "memory_mhz", "celsius"),
    *("workloads", "allocated", "instances"),
}
STATUS = {
    *("version", "commit", "uptime_s", "state", "accounting", "hierarchy", "workloads", "self"),
    *("conservation_violations", "problems", "attribution"),
}


def answer(op: str, snapshot: Snapshot | None = None, status: DaemonStatus = made.STATUS) -> Any:
    """Return an answer as a client gets it."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(snapshot or made.make_snapshot())
    answers = made.make_answers(latest, status)
    live = {"sources": answers.sources, "config": answers.config}
    access = answers.access(everything=True)
    packed = answers.status({"open": 1}, access) if op == "status" else live.get(op, lambda: b"")()
    return msgpack.unpackb(packed or answers.packed(op, access))


@pytest.mark.parametrize("op", ["status", "sources", "config", *replies.SNAPSHOT_BODIES])
def test_every_answer_has_the_head_and_is_plain(op: str) -> None:
    """Every answer says whose it is and of which window, and goes through JSON unchanged."""
    told = answer(op)

    assert told.keys() >= HEAD
    assert told["sequence"] == 20
    assert told["since"] == "2025-06-15T15:06:43.000000Z"
    assert told["window"]["start"] == "2025-06-15T15:07:40.000000Z"
    assert told["window"]["end"] == "2025-06-15T15:07:43.000000Z"
    assert told["window"]["seconds"] == 3.0
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("op", "keys"),
    [
        ("workloads", LEAF),
        ("containers", LEAF),
        ("units", LEAF),
        ("vms", VM),
        ("sources", SOURCE),
    ],
)
def test_entries_have_the_keys_that_others_rely_on(op: str, keys: set[str]) -> None:
    """No key of the contract is missing from any entry."""
    key = "sources" if op == "sources" else "workloads"
    found = answer(op)[key]

    assert found
    assert all(entry.keys() >= keys for entry in found)


def test_leaves_have_exactly_the_keys_of_the_contract() -> None:
    """A leaf is what the contract says, nothing more."""
    assert {frozenset(leaf) for leaf in answer("workloads")["workloads"]} == {frozenset(LEAF)}


def test_node_status_and_pods_have_their_keys() -> None:
    """The other answers, too, are what the contract says."""
    assert all(domain.keys() == DOMAIN for domain in answer("node")["domains"].values())
    assert answer("node")["residual"].keys() == RESIDUAL
    assert answer("node")["platform"].keys() == PLATFORM
    assert all(gpu.keys() == GPU for gpu in answer("gpus")["gpus"])
    rule = {"idle": "system", "gpu_idle": "system"}
    assert answer("node")["attribution"] == answer("status")["attribution"] == rule
    assert answer("status").keys() >= STATUS
    assert all(pod.keys() >= POD for pod in answer("pods")["pods"])


def test_workloads_add_up_to_the_node() -> None:
    """The sum over the workloads of an answer is the node's, to the microjoule."""
    node, leaves = answer("node")["domains"], answer("workloads")["workloads"]
    for domain in ("package", "dram"):
        for part in ("idle_uj", "dynamic_uj"):
            assert sum(leaf["energy"][domain][part] for leaf in leaves) == node[domain][part]


def test_a_node_fact_is_not_split() -> None:
    """psys beside package belongs to no workload: its parts are unknown, not zero."""
    psys = answer("node")["domains"]["psys"]

    assert psys["energy_uj"] == 20_000_000
    assert (psys["idle_uj"], psys["dynamic_uj"], psys["power_w"]) == (None, None, None)


def test_kinds_are_filtered() -> None:
    """containers and units are the answer of workloads with the leaves of that kind only."""
    whole = answer("workloads")

    for op, kind in (("containers", "container"), ("units", "unit")):
        leaves = [leaf for leaf in whole["workloads"] if leaf["kind"] == kind]
        told = answer(op)
        assert told["workloads"] == leaves
        assert told.keys() >= whole.keys() - {"labels_from"}


def test_a_pod_is_the_sum_of_all_that_it_ever_ran() -> None:
    """Pause container, ended containers and evicted ones (past) count in their pod."""
    web, job, _ = answer("pods")["pods"]

    assert web["uid"] == made.WEB_UID
    assert web["energy"]["package"]["dynamic_uj"] == 81_000_000 + 10 + 500
    assert web["total"]["dynamic_uj"] == 81_000_510 + 8_100_000 + 1 + 50
    assert web["cpu_seconds"] == pytest.approx(42.5 + 0.001 + 0.25, abs=1e-9)
    assert (web["namespace"], web["name"], web["state"]) == ("shop", "web", "running")
    assert (web["containers"], web["sandboxes"]) == ([made.WEB_ID], [made.PAUSE_ID])
    assert (job["state"], job["owner"]) == ("terminated", "ReplicaSet/job")
    assert (web["ended"], job["ended"]) == (None, "2025-06-15T15:07:30.000000Z")


def test_a_pods_past_finds_its_pod_by_id_alone() -> None:
    """`past:<uid>` belongs to the pod whether or not its identity repeats the uid."""
    past = made.make_leaf(Identity(kind="past", id=f"past:{made.WEB_UID}", name="past"), 500)
    snapshot = made.make_snapshot((made.LEAVES[0], past))

    (pod,) = answer("pods", snapshot)["pods"]

    assert pod["energy"]["package"]["dynamic_uj"] == 81_000_500


def test_a_pod_of_a_nested_cluster_is_a_row_of_its_own() -> None:
    """Whoever owns the container around it chooses its uid and names: it is not the host's pod."""
    web, _, nested = answer("pods")["pods"]

    assert nested["uid"] == web["uid"] == made.WEB_UID
    assert (nested["tenant"], nested["parent"]) == (made.NODE_CGROUP, made.NODE_ID)
    assert nested["parent_name"] == "kind-worker"
    assert nested["energy"]["package"]["dynamic_uj"] == 3_000_000
    assert (web["tenant"], web["parent"], web["parent_name"]) == (None, None, None)


@pytest.mark.parametrize("tenant", [None, made.NODE_CGROUP, "/user@1.service/a@b"])
@pytest.mark.parametrize("uid", [None, made.WEB_UID])
def test_the_past_of_a_pod_goes_by_its_id(tenant: str | None, uid: str | None) -> None:
    """Neither a uid nor a tenant that its identity lacks gives its energy to another pod."""
    key = f"{made.WEB_UID}@{made.NODE_CGROUP}"
    past = Identity(kind="past", id=f"past:{key}", name="past", pod_uid=uid, tenant=tenant)
    leaves = (*made.LEAVES, made.make_leaf(past, 900))

    web, _, nested = answer("pods", made.make_snapshot(leaves))["pods"]

    assert nested["energy"]["package"]["dynamic_uj"] == 3_000_900
    assert web["energy"]["package"]["dynamic_uj"] == 81_000_510


def test_namespaces_hold_the_hosts_pods_with_all_that_was_evicted() -> None:
    """A tenant's pod that calls its namespace the same is not in it; `past:<uid>` not twice."""
    (shop,) = answer("pods")["namespaces"]

    assert (shop["namespace"], shop["pods"]) == ("shop", 2)
    assert shop["energy"]["package"]["dynamic_uj"] == 81_000_000 + 10 + 1_500_000_000 + 500
    assert shop["energy"]["dram"]["dynamic_uj"] == 8_100_000 + 1 + 150_000_000 + 50
    assert shop["cpu_seconds"] == pytest.approx(42.5 + 0.001 + 930 + 0.25, abs=1e-9)
    assert shop["total_sd_uj"] is None  # of what was evicted it is not known
    assert shop["total_power_w"] == pytest.approx(3.575, abs=1e-9)


def test_the_past_of_a_pod_counts_in_its_namespace_where_that_is_known() -> None:
    """What evicted leaves had is either in a leaf of the view or folded, never in both."""
    past = Identity("past", f"past:{made.JOB_UID}", "past", namespace="shop", pod_uid=made.JOB_UID)
    leaves = (*made.LEAVES, made.make_leaf(past, 900))
    before = answer("pods")["namespaces"][0]

    (shop,) = answer("pods", made.make_snapshot(leaves))["namespaces"]

    assert shop["pods"] == before["pods"]
    grown = shop["energy"]["package"]["dynamic_uj"] - before["energy"]["package"]["dynamic_uj"]
    assert grown == 900


def test_slices_are_sums_over_all_kinds_in_the_order_of_their_tree() -> None:
    """Containers and VMs of a slice count in it, pods' slices are pods; the gone are not lost."""
    slices = answer("units")["slices"]

    assert [(s["cgroup"], s["depth"], s["leaves"]) for s in slices] == [
        ("/kubepods.slice", 0, 3),
        ("/machine.slice", 0, 1),
        ("/system.slice", 0, 6),
        ("/user.slice", 0, 0),
        ("/user.slice/user-1000.slice", 1, 0),
    ]
    by_id = {s["id"]: s for s in slices}
    assert by_id["machine.slice"]["total"]["dynamic_uj"] == 22_000_000
    assert by_id["system.slice"]["description"] == "System Slice"
    system = by_id["system.slice"]["energy"]["package"]["dynamic_uj"]
    assert system == 4_000_000 + 3_000_000 + 1_000_000 + 12_000
    gone = by_id["user-1000.slice"]
    assert (gone["energy"]["package"]["dynamic_uj"], gone["total_power_w"]) == (7_000, 0)


def test_virtual_machines_say_who_holds_their_energy() -> None:
    """A VM in a pod is a view and in no sum; one in a unit's cgroup is a leaf of that cgroup."""
    db, guest, view = answer("vms")["workloads"]

    assert (db["view"], db["held_by"], db["vcpu_seconds"]) == (False, None, 8.1)
    assert db["overhead_seconds"] == pytest.approx(0.9, abs=1e-9)
    assert (guest["vcpu_seconds"], guest["overhead_seconds"]) == (None, None)
    assert (guest["cgroup"], guest["parent"]) == ("/system.slice/cron.service", "cron.service")
    assert view["view"] is True
    assert view["held_by"] == {
        "kind": "container",
        "id": made.WEB_ID,
        "name": "nginx",
        "namespace": "shop",
        "pod": "web",
    }
    assert view["id"] not in {leaf["id"] for leaf in answer("workloads")["workloads"]}
    assert answer("status")["views"] == 1


def test_an_ended_leaf_says_when_and_since_which_window() -> None:
    """A reader who comes later knows what he has not yet seen ended."""
    train = next(x for x in answer("workloads")["workloads"] if x["name"] == "train")
    cron = next(x for x in answer("units")["workloads"] if x["name"] == "cron.service")

    assert (train["ended"], train["ended_sequence"]) == ("2025-06-15T15:07:30.000000Z", 16)
    assert train["devices"] == {"nvidia.com/gpu": ["GPU-7"]}
    assert (cron["ended"], cron["ended_sequence"], cron["devices"]) == (None, None, {})


@pytest.mark.parametrize(
    ("told", "state", "reason", "remedy"),
    [
        ("ok", "ok", None, None),
        ("off in the configuration", "off", "off in the configuration", None),
        ("401; set a; or b", "unavailable", "401", "set a; or b"),
        ("ok; 3 pods of others; odd", "ok", "3 pods of others; odd", None),
        ("ok; spare: not needed", "ok", "spare: not needed", None),
        ("okay", "unavailable", "okay", None),
        ("stale: 401; set a", "stale", "401", "set a"),
        ("not used yet: no file; set a", "unused", "not used yet: no file", "set a"),
        ("not configured; set a", "off", "not configured", "set a"),
        ("not asked yet", "unused", "not asked yet", None),
    ],
)
def test_ways_to_names_are_told_with_remedy(
    told: str, state: str, reason: str | None, remedy: str | None
) -> None:
    """The first semicolon divides why a way is not in use from what to do about it."""
    found = dataclasses.replace(made.STATUS, identity_routes={"kubelet": told})
    expected = {"state": state, "reason": reason, "remedy": remedy}

    assert answer("sources", status=found)["identity"] == [{"route": "kubelet", **expected}]
    assert answer("pods", status=found)["labels_from"] == expected


def test_no_labels_are_known_only_from_the_kubelet() -> None:
    """An empty map alone would not tell a pod without labels from one that nobody described."""
    web, _, nested = answer("pods")["pods"]

    assert (web["labels_known"], nested["labels_known"]) == (True, False)


def test_no_meter_is_no_energy_not_zero() -> None:
    """Without a domain that counts a total is unknown."""
    leaf = Leaf(Identity(kind="unit", id="a", name="a"), "running", 0, 5, {}, {})
    cores = dataclasses.replace(leaf, energy={"core": Energy(1, 2)}, power_w={"core": 1.0})
    for one in (leaf, cores):
        entry: Any = entries.leaf_entry(one, 3.0)
        assert entry["total"] == {"idle_uj": None, "dynamic_uj": None}
        assert entry["total_power_w"] is None


def spread(package: float, dram: float, **more: Any) -> Leaf:
    """Return a leaf with errors of its package and DRAM energy, in microjoules."""
    leaf = made.make_leaf(made.container("d4" * 32, "x", "p", "uid"), 1_000, power_w=1.0)
    errors = {"package": package, "dram": dram, "core": 1e6}
    return dataclasses.replace(leaf, sd_uj=errors, window_sd_uj=errors, **more)


def test_errors_of_a_total_add_up_as_independent_ones() -> None:
    """By domain, package and DRAM alone: core is a part of package, and its error too."""
    entry: Any = entries.leaf_entry(spread(3_000.0, 4_000.0), 2.0)

    assert entry["total_sd_uj"] == 5_000.0
    assert entry["total_power_sd_w"] == 0.0025
    assert entry["uncertainty"]["package"] == {"sd_uj": 3_000.0, "window_sd_uj": 3_000.0}


def test_an_error_that_is_not_known_is_not_zero() -> None:
    """A domain without its error leaves the total's unknown, for the leaf and for its pod."""
    known, unknown = spread(3.0, 4.0), dataclasses.replace(spread(3.0, 4.0), sd_uj={"package": 3.0})
    endless = spread(float("inf"), 4.0)

    for leaves in ([unknown], [known, unknown], [endless]):
        for entry in (entries.leaf_entry(leaves[-1], 3.0), rollup.pod_entry("uid", leaves, 3.0)):
            assert entry["total_sd_uj"] is None
            assert json.dumps(entry, allow_nan=False)


def test_errors_of_a_pods_leaves_are_taken_as_independent() -> None:
    """The square root of the sum of squares; a leaf without energy needs no error."""
    empty = Leaf(made.fixed("past"), "terminated", 0, 0, {"package": Energy()}, {})

    entry: Any = rollup.pod_entry("uid", [spread(2.0, 2.0), spread(1.0, 4.0), empty], 3.0)

    assert entry["total_sd_uj"] == 5.0


@pytest.mark.parametrize(
    ("who", "energy", "error"),
    [
        (made.container("d4" * 32, "x", "p", "uid"), Energy(0, 1_000), None),  # modelled
        (made.container("d4" * 32, "x", "p", "uid"), Energy(1_000, 0), 0.0),  # nothing but idle
        (made.fixed("system"), Energy(1_000, 0), None),
        (made.fixed("system"), Energy(), 0.0),
        (made.fixed("unattributed"), Energy(0, 1_000), None),
        (made.fixed("past"), Energy(0, 1_000), None),
    ],
)
def test_what_nobody_estimated_is_no_error_of_zero(
    who: Identity, energy: Energy, error: float | None
) -> None:
    """A model, idle energy and what nobody used have energy and no estimate of its error."""
    power_w = energy.total_uj / 3e6
    leaf = Leaf(who, "running", 0, 0, {"package": energy}, {"package": power_w})
    leaf = dataclasses.replace(leaf, sd_uj={"package": 0.0}, window_sd_uj={"package": 0.0})
    entry: Any = entries.leaf_entry(leaf, 3.0)

    assert entry["uncertainty"] == {"package": {"sd_uj": error, "window_sd_uj": error}}
    assert (entry["total_sd_uj"], entry["total_power_sd_w"]) == (error, error)
    if who.kind == "container":
        pod: Any = rollup.pod_entry("uid", [leaf], 3.0)
        assert (pod["total_sd_uj"], pod["total_power_sd_w"]) == (error, error)


def test_a_window_without_an_estimate_has_none_of_zero() -> None:
    """What nobody used in this window is as unknown as ever, whatever was estimated before."""
    leaf = Leaf(
        made.fixed("unattributed"), "running", 0, 0, {"package": Energy(0, 9)}, {"package": 1.0}
    )
    leaf = dataclasses.replace(leaf, sd_uj={"package": 3.0}, window_sd_uj={"package": 0.0})
    entry: Any = entries.leaf_entry(leaf, 3.0)

    assert entry["uncertainty"] == {"package": {"sd_uj": 3.0, "window_sd_uj": None}}
    assert entry["total_power_sd_w"] is None


@given(st.integers(0, 2**62))
def test_times_are_utc_with_microseconds(wall_ns: int) -> None:
    """A time is cut, never rounded into the future, and reads back to the microsecond."""
    text = entries.render_time(wall_ns)
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)

    whole_s, micro = divmod(wall_ns // 1000, 1_000_000)
    assert read.microsecond == micro
    assert int(read.replace(microsecond=0).timestamp()) == whole_s


def test_before_the_first_window() -> None:
    """Health answers at once; results say how long it takes."""
    answers = made.make_answers(Latest())

    told = msgpack.unpackb(answers.status({}, answers.access(everything=True)))
    assert (told["window"], told["sequence"], told["since"]) == (None, 0, None)
    assert msgpack.unpackb(answers.sources())["sources"][0]["last_sample"].endswith("43.000001Z")
    assert len(msgpack.unpackb(answers.config())["config"]) == len(made.SETTINGS)
    with pytest.raises(ProtocolError) as caught:
        answers.packed("pods", answers.access(everything=True))
    assert (caught.value.code, caught.value.seconds) == ("not-ready", 1.5)


def test_a_snapshot_is_encoded_once() -> None:
    """All who ask about one snapshot get the same bytes; the next snapshot gives new ones."""
    latest: Latest[Snapshot] = Latest()
    answers = made.make_answers(latest)
    everything = answers.access(everything=True)
    latest.publish(made.make_snapshot())
    first = answers.packed("pods", everything)

    assert answers.packed("pods", everything) is first
    latest.publish(made.make_snapshot(sequence=21))
    assert msgpack.unpackb(answers.packed("pods", everything))["sequence"] == 21


def test_names_that_are_no_text_can_be_sent() -> None:
    """A cgroup's bytes that are no UTF-8 arrive as visible escapes."""
    assert msgpack.unpackb(pack({"name": "a\udcff"})) == {"name": "a\\udcff"}


def test_every_text_of_a_leaf_may_be_hostile() -> None:
    """Bytes that are no UTF-8, escapes and great length pass whole, in keys and values alike."""
    odd = "a\udcff\x1b[2J\u202e" + "x" * 10_000
    who = Identity(
        kind="unit",
        id=odd,
        name=odd,
        namespace=odd,
        pod=odd,
        pod_uid=odd,
        cgroup=f"/{odd}.slice/b",
        parent=odd,
        description=odd,
        reason=odd,
        labels={odd: odd},
        devices={odd: (odd,)},
        tenant=odd,
        owner=odd,
    )
    snapshot = made.make_snapshot((made.make_leaf(who, 1),))
    shown = odd.replace("\udcff", "\\udcff")

    (unit,) = answer("units", snapshot)["workloads"]
    (pod,) = answer("pods", snapshot)["pods"]

    assert unit["labels"] == {shown: shown}
    assert unit["devices"] == {shown: [shown]}
    assert (unit["description"], pod["tenant"]) == (shown, shown)
    assert json.loads(json.dumps(unit, ensure_ascii=False).encode()) == unit


def source(**changes: Any) -> SourceStatus:
    """Return a source that is well but for the changes."""
    return dataclasses.replace(made.SOURCES[0], remedy=None, **changes)


def status(*sources: SourceStatus, **changes: Any) -> DaemonStatus:
    """Return a daemon's status with these sources."""
    return dataclasses.replace(made.STATUS, sources=sources, **changes)


@pytest.mark.parametrize(
    ("found", "state", "problems"),
    [
        (status(source()), "running", 0),
        (status(source(state="unavailable", reason="gone")), "degraded", 1),
        (status(source(enabled="auto", state="unavailable", reason="no such")), "running", 0),
        (status(source(enabled="auto", state="stalled", reason="hangs")), "degraded", 1),
        (status(source(state="unavailable", reason="no such", absent=True)), "degraded", 1),
        (status(source(enabled=False, state="off")), "running", 0),
        (status(source(), config_rejected="line 3: no"), "running", 1),
        (status(source(), state="starting"), "starting", 0),
        (status(source(), state="degraded"), "degraded", 0),
    ],
)
def test_what_is_a_problem(found: DaemonStatus, state: str, problems: int) -> None:
    """Missing data that was asked for degrades; what this host does not have is no problem."""
    assert state_of(found, None) == state
    assert len(problems_of(found, None)) == problems


def test_an_optional_source_is_a_problem_where_something_can_be_done() -> None:
    """A fallback with a remedy is told, and is not called degraded."""
    kubelet = made.SOURCES[2]

    (problem,) = problems_of(status(kubelet), None)

    assert problem == {"source": "kubelet", "reason": kubelet.reason, "remedy": kubelet.remedy}
    assert state_of(status(kubelet), None) == "running"


def test_hardware_that_the_host_does_not_have_is_no_problem() -> None:
    """Its reason and remedy stand in `sources`; among the problems they would hide real ones."""
    absent = dataclasses.replace(made.SOURCES[2], absent=True)
    found = status(absent)

    assert problems_of(found, None) == []
    assert state_of(found, None) == "running"
    (told,) = answer("sources", status=found)["sources"]
    assert (told["reason"], told["remedy"]) == (absent.reason, absent.remedy)


def test_a_zone_that_cannot_be_read_is_a_problem() -> None:
    """One bad zone degrades and is named; the estimate beside it is no problem."""
    found = problems_of(status(source()), made.make_snapshot())

    assert [problem["source"] for problem in found] == ["rapl dram-1", "rapl psys"]
    assert state_of(status(source()), made.make_snapshot()) == "degraded"


def attributed(**changes: Any) -> Snapshot:
    """Return a snapshot of a node whose meters are all well."""
    domain = dataclasses.replace(made.make_snapshot().domains["package"], quality="measured")
    domains = {"package": dataclasses.replace(domain, zones=(), **changes.pop("domain", {}))}
    return dataclasses.replace(made.make_snapshot(), domains=domains, **changes)


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"domain": {"coverage": 0.97}}, []),  # one lost reading
        ({"domain": {"coverage": None}}, []),
        ({"domain": {"coverage": 0.62}}, ["model package"]),
        ({"domain": {"coverage": 0.62, "quality": "stale"}}, ["model package"]),
        ({"domain": {"coverage": 0.62}, "gap": True}, []),  # a restart
        ({"domain": {"coverage": 0.62}, "sequence": 1}, []),  # the first window
        ({"conservation_violations": 1}, ["attribution"]),
    ],
)
def test_a_window_with_a_hole_is_a_problem(changes: dict[str, Any], problems: list[str]) -> None:
    """What was not observed is told once, unless it is one reading or a restart."""
    found = problems_of(status(source()), attributed(**changes))

    assert [problem["source"] for problem in found] == problems


def test_requests_that_nobody_tells_are_a_problem_of_the_policy() -> None:
    """`reserved` without the kubelet shares out nothing, and the operator learns why."""
    pod = made.container("d4" * 32, "x", "p", "uid")
    silent = dataclasses.replace(pod, owner=None, labels={})
    old = dataclasses.replace(made.make_leaf(silent, 1), first_seen_ns=0)
    young = dataclasses.replace(old, first_seen_ns=made.BOOT_WALL_NS + 62 * made.SECOND_NS)
    told = dataclasses.replace(old, identity=pod)

    for leaf, policy, expected in (
        (old, "reserved", 1),
        (old, "proportional", 0),
        (young, "reserved", 0),
        (told, "reserved", 0),
    ):
        found = problems_of(status(source()), attributed(leaves=(leaf,), idle_policy=policy))
        assert len(found) == expected


def test_a_source_switched_off_leaves_no_problem() -> None:
    """The counters of a source that is switched off stand still on purpose."""
    off = status(source(enabled=False, state="off"))

    assert problems_of(off, made.make_snapshot()) == []
    assert state_of(off, made.make_snapshot()) == "running"


def test_processes_that_are_off_are_an_error_with_the_remedy() -> None:
    """Nobody takes an empty list for a node without processes."""
    off = dataclasses.replace(made.make_snapshot(), processes=None)

    with pytest.raises(ProtocolError, match=r"\[accounting\] processes = true") as told:
        answer("processes", off)
    assert told.value.code == "unavailable"


def test_a_process_has_the_agreed_keys_and_names_its_workload() -> None:
    """The keys of the design, and what is known of the leaf; a leaf that is gone leaves its id."""
    told = answer("processes")
    by_pid = {entry["pid"]: entry for entry in told["processes"]}

    assert by_pid[40].keys() >= PROCESS
    assert (by_pid[40]["workload"], by_pid[40]["namespace"]) == (made.WEB_ID, "shop")
    assert by_pid[40]["total"] == {"idle_uj": 0, "dynamic_uj": 67_100_000}
    assert by_pid[40]["start_time"] == "2025-06-15T15:07:20.120000Z"
    assert told["method"] == "procfs"
    alone = answer("processes", dataclasses.replace(made.make_snapshot(), leaves=()))
    assert {entry["name"] for entry in alone["processes"]} == {None}


def test_a_gpu_names_who_used_it_and_whom_it_is_assigned_to() -> None:
    """Most first; a workload that is no longer listed keeps its id, and nothing is made up."""
    busy, lost = answer("gpus")["gpus"]

    assert [(one["id"], one["pod"]) for one in busy["workloads"][:2]] == [
        (made.JOB_ID, "job"),
        (made.WEB_ID, "web"),
    ]
    assert busy["workloads"][-1] == {
        "id": "gone",
        "kind": "unattributed",
        "name": "gone",
        "namespace": None,
        "pod": None,
        "power_w": 0.35,
    }
    assert [one["name"] for one in busy["allocated"]] == ["train"]
    assert (busy["power_w"], busy["power_sd_w"]) == (251.5, 1.2)
    assert (lost["power_w"], lost["sm_percent"], lost["pstate"]) == (None, None, None)
    assert (lost["workloads"], lost["instances"]) == ([], ["1g.5gb", "3g.20gb"])


def test_the_residual_is_signed_and_its_ledger_closes() -> None:
    """What the client gets adds up: platform less parts is idle plus dynamic."""
    rest = answer("node")["residual"]

    assert rest["platform_uj"] - rest["parts_uj"] == rest["energy_uj"]
    assert rest["idle_uj"] + rest["dynamic_uj"] == rest["energy_uj"]
    assert rest["dynamic_uj"] < 0
    assert rest["through"] == "2025-06-15T15:07:42.000000Z"


def test_how_the_platform_is_put_together_is_told() -> None:
    """Method, delay with its doubt, base, and a coefficient with its doubt for each part."""
    fit = answer("node")["platform"]

    assert (fit["method"], fit["centroid_s"], fit["centroid_sd_s"]) == ("fused", 2.31, 0.04)
    assert fit["coefficients"]["package"] == {"value": 1.25, "sd": 0.01}


def test_where_nothing_measures_the_platform_there_is_none() -> None:
    """Null, not a platform of 0 W."""
    told = answer("node", dataclasses.replace(made.make_snapshot(), fit=None, residual=None))

    assert (told["platform"], told["residual"]) == (None, None)


def test_a_sources_devices_and_notes_are_told() -> None:
    """Period and delay of each device; what an operator should know, in `status` as well."""
    redfish = next(one for one in answer("sources")["sources"] if one["name"] == "redfish")

    assert [device.keys() for device in redfish["devices"]] == [DEVICE, DEVICE]
    assert redfish["devices"][1]["period_s"] is None
    assert redfish in answer("status")["sources"]
    assert redfish["notes"] == ["TLS certificate is not verified: [redfish] insecure"]
