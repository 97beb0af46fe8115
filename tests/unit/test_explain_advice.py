"""What people are told to do can be done where they are, and mends what it is told for."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.explained import pair
from tychoctl.explain import COMMAND
from tychoctl.view import View
from tychod.analysis import gpus, gpushare, owners, pipeline
from tychod.model import Leaf, Snapshot, SourceStatus
from tychod.protocol import Explain
from tychod.runtime.explain import explain
from tychod.workloads import paths as names

NOW, BEFORE = pair()
ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = re.compile(r"(?<![\w/.])(docs|packaging|tests)/[\w.]")
"""Paths that only a checkout has: packages have the pages in /usr/share/doc/tychod."""


def texts_of(source: str) -> list[str]:
    """Return the texts of a module that are shown: all but those that stand for themselves."""
    tree = ast.parse(source)
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in unused)
    return [node.value for node in found if isinstance(node.value, str)]


def test_no_text_sends_people_to_a_path_of_the_checkout() -> None:
    """Pages are named where the packages put them."""
    paths = [p for part in ("tychod", "tychoctl") for p in (ROOT / part).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in paths
        if CHECKOUT.search(source := path.read_text(encoding="utf-8"))
        for text in texts_of(source)
        if CHECKOUT.search(text)
    ]

    assert len(paths) > 100
    assert not found


def explained(
    name: str, now: Snapshot = NOW, status: Any = made.STATUS, **facts: str | None
) -> Any:
    """Return an explanation, as the daemon gives it."""
    known = dataclasses.replace(made.FACTS, **facts)  # type: ignore[arg-type]
    return explain(Explain(name), now, BEFORE, known, status)


def hints_about(found: Any, about: str) -> list[tuple[str, str]]:
    """Return the reasons and remedies about something."""
    return [(h["reason"], h["remedy"]) for h in found["improve"] if h["about"] == about]


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("cgroup files; kernel accounting is off in the settings", 'set [accounting] loader = "x"'),
        ("cgroup files; no kernel accounting: not ours; point elsewhere", "point elsewhere"),
    ],
)
def test_the_accounting_is_mended_by_its_own_remedy(reason: str, remedy: str) -> None:
    """What is switched off is switched on, what is missing is brought; once, beside its reason."""
    found = explained("nginx", accounting_reason=reason, accounting_remedy=remedy)
    ((told, what),) = hints_about(found, "accounting")

    assert what == remedy
    assert reason.split(";", maxsplit=1)[0] in told
    assert remedy not in told


def test_an_accounting_without_a_remedy_sends_to_the_doctor() -> None:
    """Nothing is made up: a restart mends no reason that is not known."""
    ((_, remedy),) = hints_about(explained("nginx"), "accounting")

    assert "tychoctl doctor" in remedy
    assert "restart" not in remedy


NOBODYS = {
    names.unnamed_reason("/odd/thing"): "systemctl status",
    names.OUTSIDE: "[host] cgroupfs",
    names.IN_ROOT: "cgroup.procs",
    names.DETACHED: "tychod-load status",
    owners.UNKNOWN: "next window",
    "pod without containers in /user.slice/x": "cgroups of such names",
    "two cgroups claim container a1": "cgroups of such names",
    "intel-rapl:0 could not be read for 7 s": "tychoctl sources",
    pipeline.NO_ACTIVITY: "tychoctl status",
    f"on a GPU: {gpushare.NOBODY}": "hidepid",
    f"on a GPU: {gpushare.CHANGED}": "hidepid",
    f"on a GPU: {gpushare.UNKNOWN_PROCESS}": "hidepid",
    f"on a GPU: {gpus.LATE}": "next window",
    f"on a GPU: {gpus.UNREAD_USERS}": "tychoctl gpus",
    f"on a GPU: {gpus.NOT_TOLD}": "tychoctl gpus",
}


def because(reason: str | None) -> Snapshot:
    """Return the newest snapshot with a reason why energy is nobody's."""
    leaves = (
        dataclasses.replace(x, identity=dataclasses.replace(x.identity, reason=reason))
        if x.identity.kind == "unattributed"
        else x
        for x in NOW.leaves
    )
    return dataclasses.replace(NOW, leaves=tuple(flagged(x) for x in leaves))


def flagged(leaf: Leaf) -> Leaf:
    """Return a leaf as it is marked after a window in which it used CPU time."""
    return dataclasses.replace(leaf, flags=("pooled",))


@pytest.mark.parametrize("reason", NOBODYS)
def test_what_is_nobodys_is_explained_by_its_own_reason(reason: str) -> None:
    """Each reason has a remedy that fits it; that it runs longer helps none of them."""
    found = explained("unattributed", because(reason))
    ((told, remedy),) = hints_about(found, "unattributed")

    assert told == reason
    assert NOBODYS[reason] in remedy
    assert "let it run longer" not in str(found["improve"])


def test_several_reasons_have_a_remedy_each() -> None:
    """They are one text, the weightiest first."""
    both = f"{names.IN_ROOT}; {names.unnamed_reason('/odd')}; no such reason"
    told = hints_about(explained("unattributed", because(both)), "unattributed")

    assert [reason for reason, _ in told] == both.split("; ")
    assert "report" in told[2][1]
    assert hints_about(explained("unattributed", because(None)), "unattributed") == []


@pytest.mark.parametrize("name", ["system", "past", "kernel", "unattributed"])
def test_what_is_no_workload_is_called_what_it_is(name: str) -> None:
    """The idle energy is no product of CPU seconds, and no process used it."""
    found = explained(name, dataclasses.replace(NOW, processes=None))
    how = {domain["how"].split(":")[0] for domain in found["domains"].values()}

    assert len(how) == 1
    assert name in how.pop() or name == "kernel"
    assert name == "kernel" or "intensity x factor" not in str(found["domains"])
    assert name == "unattributed" or not hints_about(found, "processes")


def modelled() -> tuple[Snapshot, Any]:
    """Return a window whose package is modelled, as it is without a meter, and the status."""
    domain = dataclasses.replace(NOW.domains["package"], reason=None, flags=("coarse-bins",))
    bare = tuple(
        dataclasses.replace(
            x,
            intensity={},
            sd_uj={n: sd for n, sd in x.sd_uj.items() if n != "package"},
            window_sd_uj={n: sd for n, sd in x.window_sd_uj.items() if n != "package"},
        )
        for x in NOW.leaves
    )
    rapl: SourceStatus = made.SOURCES[0]
    rapl = dataclasses.replace(rapl, state="unavailable", reason="no powercap", remedy=None)
    status = dataclasses.replace(made.STATUS, sources=(rapl, *made.SOURCES[1:]))
    now = dataclasses.replace(NOW, leaves=bare, domains={**NOW.domains, "package": domain})
    return now, status


def test_a_modelled_domain_says_why_and_what_would_help() -> None:
    """No meter, and which: a model reads no files that could be late."""
    now, status = modelled()
    found = explained("nginx", now, status)
    ((reason, remedy),) = hints_about(found, "package")

    assert reason == "modelled: rapl: no powercap"
    assert "idle_w_per_cpu" in remedy
    assert "a model" in found["domains"]["package"]["how"]


def test_a_modelled_domain_is_not_sure_to_the_milliwatt() -> None:
    """Where nothing was learned nothing is known of errors."""
    now, status = modelled()
    text = COMMAND.text(explained("nginx", now, status), View())

    assert "± 0.000" not in text
    assert "how sure that is is not known" in text
