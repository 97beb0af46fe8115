"""What an explanation says: who is meant, which rules hold, what would improve it; its output."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.explained import BORN_ID, ENDED_ID, PAST, ended, nameless, pair
from tests.fixtures.histories import Recorded
from tests.unit.test_render import GOLDEN, UPDATE
from tychoctl import output, render, run
from tychoctl.client import Connection
from tychoctl.explain import COMMAND
from tychoctl.explain import answers as explain_answers
from tychoctl.options import parse_options
from tychoctl.view import View
from tychod.buffer import Latest
from tychod.config import Config
from tychod.frames import ProtocolError
from tychod.model import Domain, Gpu, Identity, Leaf, Snapshot
from tychod.protocol import Explain
from tychod.runtime.answers import Answers
from tychod.runtime.explain import Whole, explain, explain_in
from tychod.runtime.explain_find import MOST_HINTS
from tychod.runtime.questions import (
    EXPLAINED_AT_ONCE,
    Asked,
    Pace,
    Wholes,
    build_questions,
)
from tychod.runtime.slots import View as Seen

NOW, BEFORE = pair()
POD = ("shop/web", "pod")


def told(
    name: str, kind: Any = "workload", now: Snapshot = NOW, before: Snapshot | None = BEFORE
) -> Any:
    """Return an explanation."""
    return explain(Explain(name, kind), now, before, made.FACTS, made.STATUS)


def refused(name: str, kind: Any = "workload", now: Snapshot = NOW) -> ProtocolError:
    """Return why there is no explanation."""
    with pytest.raises(ProtocolError) as found:
        told(name, kind, now)
    return found.value


def changed(leaf_id: str, **changes: Any) -> Snapshot:
    """Return the newest snapshot with one leaf's identity changed."""
    leaves = [
        dataclasses.replace(x, identity=dataclasses.replace(x.identity, **changes))
        if x.identity.id == leaf_id
        else x
        for x in NOW.leaves
    ]
    return dataclasses.replace(NOW, leaves=tuple(leaves))


def flagged(leaf: Leaf, *flags: str) -> Leaf:
    """Return a leaf with flags."""
    return dataclasses.replace(leaf, flags=flags)


def two_windows() -> Latest[Snapshot]:
    """Return the place of the newest snapshot after both."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(BEFORE)
    latest.publish(NOW)
    return latest


def answers(latest: Latest[Snapshot]) -> Answers:
    """Return the answers of a daemon with these windows."""
    plain = made.make_answers(latest)

    def question(args: Explain, seen: Seen) -> Mapping[str, object]:
        assert seen.newest is not None
        return explain(args, seen.newest, seen.before, made.FACTS, made.STATUS)

    readers = plain._readers._replace(questions={"explain": question})
    return Answers(latest, made.StillClock(), readers)


def reply_for(name: str, kind: Any) -> dict[str, Any]:
    """Return the daemon's whole answer, as it crosses the wire."""
    found = answers(two_windows())
    packed = found.ask("explain", Explain(name, kind), found.access(everything=True))
    return dict(msgpack.unpackb(packed))


CASES = {"pod": POD, "container": (made.WEB_ID, "container"), "system": ("system", "workload")}
CASES |= {"vm": ("vmi-1", "vm"), "unit": ("cron", "unit"), "kernel": ("kernel", "workload")}


@pytest.mark.parametrize("form", ["table", "wide", "json"])
@pytest.mark.parametrize("case", CASES)
def test_output_is_as_agreed(case: str, form: str) -> None:
    """What people and programs read changes only on purpose; text fits 80 columns, wide 160."""
    path = GOLDEN / f"explain-{case}.{form}.txt"
    width = 160 if form == "wide" else 80
    view = View(wide=form == "wide", width=width)
    text = output.render(COMMAND, reply_for(*CASES[case]), form, view)
    if form != "json":
        text = render.fit(text, width)
        assert all(render.display_width(line) <= width for line in text.splitlines())
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()


def test_what_all_explanations_share_is_worked_out_once() -> None:
    """Who asks a hundred names in one window costs the daemon one sum over all workloads."""
    wholes = Wholes()
    first = wholes.of(NOW, BEFORE)

    assert wholes.of(NOW, BEFORE) is first
    assert wholes.of(BEFORE, None).newest is BEFORE  # the slot of readers without rights
    assert wholes.of(NOW, BEFORE) is first
    assert wholes.of(dataclasses.replace(NOW), BEFORE) is not first
    assert first.span.sums is first.span.sums


def test_readers_without_rights_have_so_many_explanations_a_second() -> None:
    """All of them together; a script that asks about every pod of a node once is not refused."""
    now_s = 100.0
    pace = Pace(per_s=2.0, at_once=3.0, now_s=lambda: now_s)

    for waited_s, passed in ((0.0, 3), (1.0, 2), (1000.0, 3)):
        now_s += waited_s
        for _ in range(passed):
            pace.take("explain")
        with pytest.raises(ProtocolError) as found:
            pace.take("explain")
        assert (found.value.code, found.value.seconds) == ("busy", 1.0)


def test_the_pace_of_explanations_is_for_those_without_rights(tmp_path: Path) -> None:
    """Root and admins ask as often as they like."""
    asked = Asked(Config, lambda: made.FACTS, lambda: made.STATUS)
    question = build_questions(asked, Recorded(tmp_path).history)["explain"]
    args = Explain("kernel", "workload")

    def ask_often(step_s: float) -> None:
        for _ in range(int(EXPLAINED_AT_ONCE) + 50):
            question(args, Seen(NOW, BEFORE, step_s))

    ask_often(0.0)
    with pytest.raises(ProtocolError, match="explain: too many"):
        ask_often(1.0)


def test_guessed_names_soon_get_no_hints() -> None:
    """A name that means nothing is compared with all others, but only so often in a window."""
    whole = Whole(NOW, BEFORE)

    def refusal() -> str:
        with pytest.raises(ProtocolError) as found:
            explain_in(whole, Explain("shop/wbe", "pod"), made.FACTS, made.STATUS)
        return found.value.message

    hints = ["did you mean" in refusal() for _ in range(MOST_HINTS + 2)]

    assert hints == [True] * MOST_HINTS + [False] * 2
    assert "tychoctl pods --all lists them" in refusal()


def test_a_pod_is_explained_with_its_containers() -> None:
    """Each container's CPU time x intensity x factor, and the sum, whatever was evicted."""
    found = told(*POD)

    assert found["cpu"] == {"ns": 1_650_000_000, "all_ns": 2_890_000_000, "share": 165 / 289}
    assert found["domains"]["package"]["own"]["dynamic_uj"] == 7_968_750 + 2_600_001
    by_name = {member["name"]: member for member in found["members"]}
    nginx = by_name["nginx"]["domains"]["package"]
    assert nginx["expected_uj"] == 1.25 * 6.25e6
    assert nginx["factor"] == 1.02
    assert by_name["past"]["domains"]["package"]["taken_uj"] == 2_000_000
    assert by_name["past"]["uj"] == 0


def test_who_took_over_counters_is_told_apart() -> None:
    """The past of a pod gained nothing in the window in which an ended container went there."""
    own = told(PAST)["domains"]["package"]["own"]

    assert (own["uj"], own["taken_uj"], own["dynamic_uj"]) == (0, 2_000_000, None)
    assert ENDED_ID not in {leaf.identity.id for leaf in NOW.leaves}
    assert ended().energy["package"].total_uj == own["taken_uj"]


def test_a_new_leaf_began_at_nothing_and_a_used_id_too() -> None:
    """A container that is not in the snapshot before has all it has from this window."""
    first = told(BORN_ID)
    had = dataclasses.replace(
        next(x for x in NOW.leaves if x.identity.id == BORN_ID), first_seen_ns=5, cpu_ns=123
    )
    again = told(BORN_ID, before=dataclasses.replace(BEFORE, leaves=(*BEFORE.leaves, flagged(had))))

    assert first["cpu"]["ns"] == again["cpu"]["ns"] == 400_000_000
    assert first["domains"]["dram"]["own"]["uj"] == again["domains"]["dram"]["own"]["uj"] == 60_000


def test_memory_goes_by_cache_misses_where_they_are_counted() -> None:
    """A CPU second counts as much as its misses, relative to all that were counted."""
    found = told(made.WEB_ID)["domains"]["dram"]

    rate = (900_000 / 1.25) / (1_200_000 / 1.74)
    assert found["own"]["weight"] == pytest.approx(rate)
    assert "cache misses" in found["how"]
    plain = dataclasses.replace(NOW.domains["dram"], flags=("fallback-activity",))
    without = dataclasses.replace(NOW, domains={**NOW.domains, "dram": plain})
    found = told(made.WEB_ID, now=without)["domains"]["dram"]
    assert found["own"]["weight"] is None
    assert "cache misses" not in found["how"]


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("shop/web", "pod", made.WEB_UID),
        ("web", "pod", made.WEB_UID),
        (made.JOB_UID[:8], "pod", made.JOB_UID),
        (f"{made.WEB_UID}@{made.NODE_CGROUP}", "pod", f"{made.WEB_UID}@{made.NODE_CGROUP}"),
        ("shop/job", "workload", made.JOB_UID),
        ("a1a1", "workload", made.WEB_ID),
        ("shop/nginx", "container", made.WEB_ID),
        ("nginx", "container", made.WEB_ID),
        ("shop/web/nginx", "workload", made.WEB_ID),
        (made.NESTED_ID, "container", made.NESTED_ID),
        ("cron", "workload", "cron.service"),
        ("cron.service", "unit", "cron.service"),
        ("guest", "vm", "qemu-4711-9"),
        ("vmi-1", "vm", "vmi-uuid"),
        ("kernel", "workload", "kernel"),
        ("past", "workload", "past"),
        ("unattributed", "workload", "unattributed"),
    ],
)
def test_a_name_means_one_workload(name: str, kind: str, found: str) -> None:
    """Ids, their first characters, names; the host's own come before those that tenants chose."""
    assert told(name, kind)["id"] == found


@pytest.mark.parametrize(
    ("name", "kind", "near"),
    [
        ("shop/wbe", "pod", "did you mean shop/web"),
        ("ngnix", "container", "did you mean shop/web/nginx"),
        ("corn", "workload", "did you mean cron.service"),
        ("a1a", "workload", "an id may be cut, but not below 4 characters"),
        ("zzz", "workload", "tychoctl workloads --all"),
        ("kernel", "unit", "tychoctl units --all"),
        ("web" * 9_000, "pod", "no pod 'webweb"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, kind: str, near: str) -> None:
    """Not found, and what may have been meant; a name of any length makes no long answer."""
    failure = refused(name, kind)

    assert failure.code == "not-found"
    assert near in failure.message
    assert len(failure.message) < 400


def test_a_name_of_several_lists_them() -> None:
    """Who is meant is not guessed: each candidate with what tells it from the others."""
    twin = made.make_leaf(made.container("a1" * 8 + "00" * 24, "nginx", "api", made.JOB_UID), 5)
    now = dataclasses.replace(NOW, leaves=(*NOW.leaves, twin))

    by_name, by_id = refused("nginx", "container", now), refused("a1a1", now=now)

    assert by_name.code == by_id.code == "bad-request"
    for failure in (by_name, by_id):
        assert "container shop/web/nginx (id a1a1a1a1a1a1a1a1a1a1a1a1" in failure.message
        assert "container shop/api/nginx (id a1a1a1a1a1a1a1a100000000" in failure.message


def test_of_equal_names_the_one_that_runs_is_meant() -> None:
    """A container that was restarted has its name twice for a while."""
    old = made.make_leaf(made.container("0d" * 32, "nginx", "web", made.WEB_UID), 5, ended=True)

    assert told("nginx", "container", dataclasses.replace(NOW, leaves=(*NOW.leaves, old)))[
        "id"
    ] == (made.WEB_ID)


def improvements(found: Any) -> dict[str, str]:
    """Return the remedies by what they are about and why."""
    return {f"{h['about']}: {h['reason']}": h["remedy"] for h in found["improve"]}


def with_domain(name: str, **changes: Any) -> Snapshot:
    """Return the newest snapshot with one domain changed."""
    domain: Domain = dataclasses.replace(NOW.domains[name], **changes)
    return dataclasses.replace(NOW, domains={**NOW.domains, name: domain})


@pytest.mark.parametrize(
    ("now", "reason", "remedy"),
    [
        (NOW, "package: modelled", "tychoctl doctor"),
        (with_domain("dram", quality="stale", reason="old"), "dram: stale: old", "energy_uj"),
        (with_domain("dram", coverage=0.5), "dram: only 50 %", "tychoctl sources -o wide"),
        (with_domain("dram", flags=("fallback-activity",)), "dram: fallback", "llc_misses"),
        (with_domain("dram", flags=("missing-cpu",)), "dram: missing-cpu", "accounting"),
        (NOW, "nginx: pooled", "let it run longer"),
        (NOW, "side: new", "third window"),
        (NOW, "accounting: cgroup-v2: cgroup files", "tychoctl doctor"),
        (dataclasses.replace(NOW, processes=None), "processes:", "processes = true"),
        (dataclasses.replace(NOW, gap=True), "window: it spans a restart", "next window"),
        (dataclasses.replace(NOW, conservation_violations=2), "attribution:", "report it"),
        (changed(made.WEB_ID, names_from="path"), "names: only its cgroup", "token_file"),
        (changed(made.WEB_ID, stale=True), "names: they are not refreshed", "token_file"),
        (NOW, "GPU 1: the GPU is lost", "tychoctl gpus"),
    ],
)
def test_what_would_improve_it_follows_from_the_state(
    now: Snapshot, reason: str, remedy: str
) -> None:
    """Each weakness stands with the remedy that mends it."""
    found = improvements(told(*POD, now=now))

    assert [r for why, r in found.items() if why.startswith(reason) and remedy in r], found


def test_a_weakness_that_is_not_there_has_no_remedy() -> None:
    """All measured, all known: nothing is asked for."""
    leaves = tuple(flagged(leaf) for leaf in NOW.leaves)
    good = {
        name: dataclasses.replace(d, quality="measured", reason=None, flags=(), coverage=1.0)
        for name, d in NOW.domains.items()
    }
    now = dataclasses.replace(NOW, leaves=leaves, domains=good, gpus=())
    facts = dataclasses.replace(made.FACTS, accounting_method="bpf-core")

    found = explain(Explain(*POD), now, BEFORE, facts, made.STATUS)

    assert found["improve"] == []
    assert (found["bins"], found["bin_ns"]) == (60, 50_000_000)


def test_labels_that_nobody_told_are_asked_of_the_kubelet() -> None:
    """Without the kubelet a pod has no labels, owner and requests: its remedy says what to do."""
    leaves = tuple(
        dataclasses.replace(x, identity=nameless(x.identity)) if x.identity.pod_uid else x
        for x in NOW.leaves
    )
    found = improvements(told(*POD, now=dataclasses.replace(NOW, leaves=leaves)))

    assert "token_file" in found["labels: labels, owner and requests are not known"]


@pytest.mark.parametrize(
    ("policy", "leaf_id", "changes", "words"),
    [
        ("system", made.WEB_ID, {}, "it is booked to system"),
        ("proportional", made.WEB_ID, {}, "as the dynamic energy is"),
        ("proportional", "kernel", {}, "the part of others is system's"),
        ("equal", made.WEB_ID, {}, "an equal part"),
        ("equal", made.PAUSE_ID, {}, "take no part"),
        ("reserved", made.WEB_ID, {"requests": {"cpu_millicores": 250}}, "requests 0.25 CPUs"),
        ("reserved", made.JOB_ID, {"labels": {}, "owner": None}, "is not known, so it gets none"),
        ("reserved", "cron.service", {}, "requests nothing"),
        ("reserved", "system", {}, "what no workload gets"),
    ],
)
def test_who_gets_idle_energy_is_said_with_its_rule(
    policy: Any, leaf_id: str, changes: dict[str, Any], words: str
) -> None:
    """The policy in force, and what it means for this workload."""
    now = dataclasses.replace(changed(leaf_id, **changes), idle_policy=policy)

    (rule,) = told(leaf_id, now=now)["domains"]["package"]["idle_rules"]

    assert words in rule
    assert f"idle = {policy}" in rule


def test_gpus_are_told_with_its_part() -> None:
    """Which it used and how much of the use is its own; whose idle energy that is by the policy."""
    gpu: Gpu = dataclasses.replace(NOW.gpus[0], allocated=(made.WEB_ID, made.JOB_ID))
    now = dataclasses.replace(NOW, gpus=(gpu,), gpu_idle_policy="allocated")

    (found,) = told(made.WEB_ID, now=now)["gpus"]

    assert found["dynamic_uj"] == 180_750_000  # 60.25 W for 3 s
    assert found["share"] == pytest.approx(60.25 / 183.1)
    assert (found["allocated"], found["allocated_to"]) == (True, 2)


def test_a_machine_in_a_pod_says_who_holds_its_energy() -> None:
    """It is in no sum itself, so what all have is told without it."""
    found = told("vmi-1", "vm")

    assert found["held_by"]["id"] == made.WEB_ID
    assert found["domains"]["package"]["by_whom_uj"]["this"] == 0
    assert found["cpu"]["ns"] == 900_000_000
    assert told(*POD)["machines"] == [{"id": "vmi-uuid", "name": "vmi-1", "power_w": 2.2}]


def test_what_nobody_gets_is_put_in_proportion() -> None:
    """System and unattributed with share and reason, the residual beside the machine's power."""
    whole = told(*POD)["whole"]

    system, unattributed, past = whole["nobody"]
    assert system["share"] == pytest.approx(33_000_000 / whole["shared_uj"])
    assert unattributed["reason"] == "outside the visible cgroup tree"
    assert past["uj"] == 0
    assert sum(whole["by_whom_uj"].values()) == whole["shared_uj"]
    assert whole["platform"]["residual_share"] == pytest.approx(171.25 / 312.4)


def test_no_name_steers_the_terminal() -> None:
    """Names, reasons and flags of others reach no terminal as they are, and are bounded."""
    evil = changed(
        made.WEB_ID, name="\x1b[2J" + "n" * 20_000, reason="\x1b]0;x\x07", owner="\udcff"
    )
    evil = dataclasses.replace(evil, leaves=tuple(flagged(x, "\x1b[31m") for x in evil.leaves))
    found = json.loads(json.dumps(told(made.WEB_ID, now=evil)))

    text = COMMAND.text(found, View())

    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) < 20_000


def test_an_answer_of_another_daemon_is_shown_as_far_as_it_goes() -> None:
    """A newer or older daemon's answer lacks or has more: no crash, no invention."""
    assert "not known" in COMMAND.text({}, View())
    assert COMMAND.text({"domains": {"package": None}, "gpus": 7, "improve": [3]}, View())


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["pod", "shop/web"], 0, ""),
        (["shop/web", "-o", "json"], 0, ""),
        (["pod", "web", "-n", "shop"], 0, ""),
        (["pod", "web", "-n", "other"], 4, "no pod 'other/web'"),
        (["pod", "shop/nix"], 4, "no pod 'shop/nix'"),
        (["Pod", "shop/web"], 2, "did you mean pod?"),
        ([], 2, "NAME"),
        (["kernel", "-o", "csv"], 2, "csv"),
    ],
)
def test_the_command_asks_a_daemon(
    argv: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit codes and messages of the command against a server on a socket."""
    latest = two_windows()
    path = tmp_path / "control.sock"
    with made.serving(path, latest, answers(latest)):
        assert run.main(["explain", *argv, "--socket", str(path)]) == code

    printed = capsys.readouterr()
    assert words in printed.err
    assert ("shop" in printed.out and "nginx" in printed.out) == (code == 0)


def test_a_watch_explains_every_window(tmp_path: Path) -> None:
    """One connection tells of windows, the other asks: each answer is of the newest."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(BEFORE)
    path = tmp_path / "control.sock"
    options = parse_options(["explain", "kernel", "-w"])
    with made.serving(path, latest, answers(latest)), Connection(str(path)) as ticker:
        replies = explain_answers(str(path), ticker, options)
        first = next(replies)
        latest.publish(NOW)
        second = next(replies)
        replies.close()

    assert (first["sequence"], second["sequence"]) == (19, 20)
    assert (first["basis"], second["basis"]) == ("power", "counters")


def test_identity_of_a_pod_without_names_is_its_uid() -> None:
    """A pod of which only the path is known is found by its uid, and called so."""
    leaf = made.make_leaf(
        Identity("container", "99" * 32, "x", pod_uid=made.JOB_UID[::-1], names_from="path"), 5
    )
    now = dataclasses.replace(NOW, leaves=(*NOW.leaves, leaf))

    text = COMMAND.text(told(made.JOB_UID[::-1], "pod", now), View())

    assert text.startswith(f"pod {made.JOB_UID[::-1]}")
