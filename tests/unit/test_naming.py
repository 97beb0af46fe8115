"""The kubelet among the sources: without a credential it is optional, until names are missing."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.hosts.trees import host_config
from tests.fixtures.snapshots import FACTS, STATUS, container, make_leaf, make_snapshot
from tychod.config import Config
from tychod.config_results import Metrics
from tychod.exposition import Scrape
from tychod.exposition.tycho import self_block
from tychod.hostfs import Host
from tychod.model import DaemonStatus, Leaf, SourceStatus
from tychod.runtime.naming import count_nameless, kubelet_status
from tychod.runtime.problems import SETTLED_NS, problems_of
from tychod.workloads.kubelet import Kubelet

CREDENTIAL = "set [kubelet] client_cert_file and client_key_file, token_file, or read_only_port"
SNAPSHOT = make_snapshot()
NOW_NS = SNAPSHOT.window.end_ns + SNAPSHOT.wall_offset_ns


def row(base: Path, nameless: int, enabled: bool | str = "auto") -> SourceStatus:
    """Return the kubelet's row on a host without a credential."""
    config = replace(Config(), kubelet=replace(Config().kubelet, enabled=enabled))
    kubelet = Kubelet(config.kubelet, Host(host_config(base)), "here")
    return kubelet_status(kubelet, config, nameless=nameless)


def problems(source: SourceStatus) -> list[dict[str, str | None]]:
    """Return the problems of a daemon that has this source alone."""
    status = DaemonStatus(
        uptime_s=1.0,
        state="running",
        since_ns=0,
        cpu_percent=0.1,
        rss_bytes=1,
        conservation_violations=0,
        config_rejected=None,
        identity_routes={},
        sources=(source,),
    )
    return problems_of(status, None)


def of_pod(*, named: bool, age_ns: int, state: str = "running") -> Leaf:
    """Return a container of a pod."""
    identity = container("ab" * 32, "app", "web-1", "11111111-2222-3333-4444-555555555555")
    identity = identity if named else replace(identity, pod=None)
    leaf = make_leaf(identity, 1)
    return replace(leaf, first_seen_ns=NOW_NS - age_ns, state=state)  # type: ignore[arg-type]


def test_a_node_without_a_credential_is_well(tmp_path: Path) -> None:
    """Names come by other ways: absent, no problem, and it is said what the credential is for."""
    found = row(tmp_path, nameless=0)

    assert (found.state, found.absent, found.reason) == (
        "unavailable",
        True,
        "no kubelet credential is configured",
    )
    assert found.remedy == CREDENTIAL
    assert "owners, labels and requests" in found.notes[0]
    assert problems(found) == []


def test_a_default_host_fires_no_alert(tmp_path: Path) -> None:
    """TychodSourceUnavailable looks at the state `unavailable`: the endpoint serves `absent`."""
    status = replace(STATUS, sources=(row(tmp_path, nameless=0),))
    lines = self_block(Scrape(SNAPSHOT, FACTS, status, Metrics(), None), 1).lines
    told = {(labels, value) for name, labels, value, _ in lines if "source_state" in name}

    assert {state for state, value in told if value} == {'source="kubelet",state="absent"'}
    assert ('source="kubelet",state="unavailable"', 0) in told


def test_pods_without_names_are_a_problem(tmp_path: Path) -> None:
    """Pods run and nobody knows who they are: the credential is no longer optional."""
    found = row(tmp_path, nameless=3)

    (problem,) = problems(found)
    assert not found.absent
    assert problem["source"] == "kubelet"
    assert problem["reason"] == (
        "no way gives the names of 3 containers of pods, and no kubelet credential is configured"
    )
    assert problem["remedy"] == CREDENTIAL


def test_a_kubelet_that_must_be_asked_is_missed(tmp_path: Path) -> None:
    """`enabled = true` needs no credential to be one: no answer is a problem."""
    found = row(tmp_path, nameless=0, enabled=True)

    assert not found.absent
    assert [p["source"] for p in problems(found)] == ["kubelet"]


@pytest.mark.parametrize(
    ("leaf", "count"),
    [
        (of_pod(named=False, age_ns=SETTLED_NS), 1),
        (of_pod(named=True, age_ns=SETTLED_NS), 0),
        (of_pod(named=False, age_ns=SETTLED_NS - 1), 0),
        (of_pod(named=False, age_ns=SETTLED_NS, state="terminated"), 0),
    ],
)
def test_a_name_may_take_a_minute(leaf: Leaf, count: int) -> None:
    """Only who runs on without a name counts; a new pod's name is on its way."""
    assert count_nameless(make_snapshot((leaf,))) == count


def test_before_the_first_window_nobody_is_nameless() -> None:
    """Nothing was measured yet, so nobody is missed."""
    assert count_nameless(None) == 0
