"""Output of tychoctl: every command in every format, and how values are written."""

import csv
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import snapshots as made
from tychoctl import output, render, sums, view
from tychoctl.commands import COMMANDS
from tychoctl.selector import parse_selector
from tychoctl.view import View
from tychod.buffer import Latest
from tychod.model import Snapshot

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UPDATE = "TYCHOD_UPDATE_GOLDEN"  # set it to write the files anew, then read the difference
VERSIONS = {
    "tychoctl": {"version": "0.1.0", "commit": "abcdef123456", "built": "2025-06-01T00:00:00Z"},
    "tychod": {"version": "0.1.0", "commit": "123456abcdef", "built": "2025-06-02T00:00:00Z"},
}


def reply_for(command: str, snapshot: Snapshot | None = None) -> dict[str, Any]:
    """Return the daemon's answer to a command about the node made by hand."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(snapshot or made.make_snapshot())
    answers = made.make_answers(latest)
    if command == "version":
        return VERSIONS
    counts = {"open": 1, "accepted": 3, "refused": 0, "killed": 1, "faults": 0}
    live = {
        "status": lambda: answers.status(counts, answers.access(everything=True)),
        "sources": answers.sources,
        "config": answers.config,
    }
    packed = (
        live[command]()
        if command in live
        else answers.packed(command, answers.access(everything=True))
    )
    return dict(msgpack.unpackb(packed))


def rendered(command: str, form: str, **options: Any) -> str:
    """Return a command's output in a format."""
    chosen = View(wide=form == "wide", **options)
    return output.render(COMMANDS[command], reply_for(command), form, chosen)


@pytest.mark.parametrize("form", ["table", "wide", "json", "csv"])
@pytest.mark.parametrize("command", COMMANDS)
def test_output_is_as_agreed(command: str, form: str) -> None:
    """What people and programs read changes only on purpose."""
    path = GOLDEN / f"{command}.{form}.txt"
    text = rendered(command, form)
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_the_answer_itself(command: str) -> None:
    """JSON holds what the daemon said, on one line."""
    text = rendered(command, "json")

    assert json.loads(text) == reply_for(command)
    assert text.count("\n") == 1


@pytest.mark.parametrize("form", ["table", "wide", "json", "csv"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_name_steers_the_terminal(command: str, form: str) -> None:
    """Control characters of foreign names never reach the terminal."""
    text = rendered(command, form, everything=True)

    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("op", ["pods", "workloads", "containers", "vms", "units"])
def test_csv_has_every_entry_and_as_many_cells_as_titles(op: str) -> None:
    """A program gets all rows, also those that a table hides, under one header."""
    rows = list(csv.DictReader(io.StringIO(rendered(op, "csv")), restkey="more", restval="less"))

    found = reply_for(op)["pods" if op == "pods" else "workloads"]
    assert len(rows) == len(found) > 0
    assert all("more" not in row and "less" not in row.values() for row in rows)
    told = {int(row["energy_uj"]) for row in rows}
    assert told == {e["total"]["idle_uj"] + e["total"]["dynamic_uj"] for e in found}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "web-1"])
def test_no_name_in_csv_is_a_formula(name: str) -> None:
    """Who names a workload has no say in a spreadsheet; numbers below zero stay numbers."""
    reply = reply_for("workloads")
    reply["workloads"] = [{**reply["workloads"][0], "name": name, "total_power_w": -1.5}]

    text = output.render(COMMANDS["workloads"], reply, "csv", View())

    (row,) = csv.DictReader(io.StringIO(text))
    assert row["name"] == (name if name == "web-1" else f"'{name}")
    assert row["power_w"] == "-1.5"


def test_an_estimate_says_so() -> None:
    """A list whose energy is modelled says it, with the reason, below the table."""
    line = f"package: modelled, not measured ({made.MODELLED_REASON})"
    for command in ("pods", "workloads", "containers", "vms", "units", "node", "status"):
        assert line in rendered(command, "table")


def test_without_energy_sources_nothing_is_shown_as_zero() -> None:
    """No meter and no model: unknown everywhere, and where to look."""
    leaf = made.Leaf(made.Identity(kind="unit", id="a", name="a"), "running", 0, 10**9, {}, {})
    snapshot = made.Snapshot(1, made.Window(0, 10**9), 0, 0, gap=False, domains={}, leaves=(leaf,))

    text = COMMANDS["units"].text(reply_for("units", snapshot), View())

    assert text.splitlines()[1].split() == ["a", "-", "-", "1.00", "s", "running"]
    assert "no source of energy: tychoctl sources says why" in text
    assert " 0 W" not in text


@pytest.mark.parametrize("sort", view.SORTS)
def test_rows_are_in_the_order_asked_for(sort: str) -> None:
    """Most first by power, energy and CPU time; names from A."""
    rows = view.choose(reply_for("workloads")["workloads"], View(sort=sort, everything=True)).rows
    keys = {
        "power": [-row["total_power_w"] for row in rows],
        "energy": [-(row["total"]["idle_uj"] + row["total"]["dynamic_uj"]) for row in rows],
        "cpu": [-row["cpu_seconds"] for row in rows],
        "name": [(row["namespace"] or "", row["pod"] or "", row["name"]) for row in rows],
    }

    assert keys[sort] == sorted(keys[sort])


def test_what_is_not_shown_is_counted() -> None:
    """Rows without energy are hidden and counted, rows with any never; a limit is told, too."""
    text = rendered("workloads", "table", limit=2)

    assert len(reply_for("workloads")["workloads"]) == 16
    assert "3 that used no energy not shown (--all shows them)" in text
    assert "11 more not shown (--limit)" in text
    assert "idle.service" in rendered("workloads", "table", everything=True)


def test_a_namespace_without_rows_says_so() -> None:
    """An empty answer is a sentence, not an empty table."""
    assert rendered("pods", "table", namespace="none").startswith("no pods in namespace none\n")
    with_labels = rendered("pods", "table", namespace="no\x1b", selector=parse_selector("a"))
    assert with_labels.startswith("no pods in namespace no\\x1b with such labels\n")
    assert "web" in rendered("pods", "table", namespace="shop")


@pytest.mark.parametrize("op", ["pods", "workloads", "containers"])
def test_a_pod_without_a_name_is_told_by_its_uid(op: str) -> None:
    """Where nobody told a pod's name its uid stands for it, in every list."""
    snapshot = made.make_snapshot()
    leaves = tuple(
        dataclasses.replace(
            leaf, identity=dataclasses.replace(leaf.identity, pod=None, namespace=None)
        )
        for leaf in snapshot.leaves
    )
    text = COMMANDS[op].text(reply_for(op, made.make_snapshot(leaves)), View(everything=True))

    assert f"uid {made.WEB_UID}" in text
    assert f"uid {made.JOB_UID}" in text
    assert "uid None" not in text


@given(st.integers(80, 200))
def test_a_table_fits_the_terminal_where_names_can_give_way(width: int) -> None:
    """Names are cut with a mark until the row fits; numbers never are."""
    chosen = View(width=width, everything=True)
    lines = COMMANDS["containers"].text(reply_for("containers"), chosen).split("\n\n")[0]

    assert max(map(len, lines.splitlines())) <= width
    assert "1.65 kJ" in lines
    assert "STATE" in lines


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
@given(width=st.integers(1, 200))
def test_no_line_is_longer_than_the_terminal(command: str, wide: bool, width: int) -> None:
    """Tables leave columns out, sentences are wrapped: what is drawn is as high as its lines."""
    chosen = View(width=width, everything=True, wide=wide)
    text = render.fit(COMMANDS[command].text(reply_for(command), chosen), width)

    assert max(map(render.display_width, text.splitlines())) <= width


def test_a_narrow_table_leaves_whole_columns_out() -> None:
    """A number is shown whole or not at all; a mark in every row says that there is more."""
    lines = COMMANDS["containers"].text(reply_for("containers"), View(width=40)).splitlines()

    assert lines[0] == "NAMESPA…  POD       CONTAINER    POWER …"
    assert lines[1] == "shop      web       nginx       3.58 W …"


def test_who_uses_each_gpu_can_be_read_on_80_columns() -> None:
    """Model, power, use and workloads stay; columns that only some need go."""
    lines = COMMANDS["gpus"].text(reply_for("gpus"), View(width=80)).splitlines()

    assert lines[0].split()[:5] == ["GPU", "NAME", "POWER", "SM", "WORKLOADS"]
    assert "H100 80GB HBM3  252 W  87 %  shop/job/train 120 W" in lines[1]
    assert max(map(len, lines[:3])) <= 80


def test_wrapped_sentences_keep_every_word() -> None:
    """What is too long for a line goes on in the next, further in."""
    text = "  kubelet: 401 Unauthorized from https://127.0.0.1:10250\n"

    assert render.fit(text, 30).splitlines() == [
        "  kubelet: 401 Unauthorized",
        "    from",
        "    https://127.0.0.1:10250",
    ]
    assert render.fit(text, 80) == text


@given(st.text(), st.integers(1, 60))
def test_wrapping_loses_nothing_but_spaces(text: str, width: int) -> None:
    """Every character of a line is still there when it has been wrapped."""
    plain = render.escape(text)
    lines = render.wrap(plain, width)

    assert "".join("".join(lines).split()) == "".join(plain.split())
    assert all(render.display_width(line) <= max(width, 2) for line in lines)


@pytest.mark.parametrize(
    ("watts", "text"),
    [
        (None, "-"),
        (0.0, "0 W"),
        (0.0004, "<0.001 W"),
        (0.0421, "0.042 W"),
        (0.9996, "1.00 W"),
        (9.994, "9.99 W"),
        (9.996, "10.0 W"),
        (99.96, "100 W"),
        (1234.5, "1234 W"),
        (-1.5, "-1.50 W"),
        (-0.0, "0 W"),
        (float("inf"), "-"),
        (float("nan"), "-"),
        ("x", "-"),
        (True, "-"),
    ],
)
def test_power_is_written_in_watts(watts: object, text: str) -> None:
    """Three digits that count; unknown is never a number."""
    assert render.power(watts) == text


@pytest.mark.parametrize(
    ("microjoules", "text"),
    [
        (None, "-"),
        (0, "0 J"),
        (7, "<0.001 J"),
        (12_000, "0.012 J"),
        (999_400_000, "999 J"),
        (999_600_000, "1.00 kJ"),
        (999_400_000_000, "999 kJ"),
        (999_600_000_000, "278 Wh"),
        (3_600_000_000_000_000, "1000 kWh"),
        (-7, "-<0.001 J"),
        (-1_500_000_000, "-1.50 kJ"),
        (-999_600_000_000, "-278 Wh"),
    ],
)
def test_energy_is_written_by_size(microjoules: object, text: str) -> None:
    """J, kJ, Wh and kWh, each where it reads best."""
    assert render.energy(microjoules) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (0, "0 s"),
        (0.0001, "<1 ms"),
        (0.05, "50 ms"),
        (3, "3.00 s"),
        (59.96, "1 min 0 s"),
        (250, "4 min 10 s"),
        (7512, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_written_by_size(seconds: object, text: str) -> None:
    """From milliseconds to days."""
    assert render.duration(seconds) == text


@given(st.text())
def test_escaped_names_are_printable(text: str) -> None:
    """Whatever a name holds, it prints on one line; what prints already stays as it is."""
    assert render.escape(text).isprintable()
    assert not text.isprintable() or render.escape(text) == text


@given(st.text(), st.integers(1, 30))
def test_cut_names_fit(text: str, width: int) -> None:
    """A cut name takes at most its cells, wide characters counted as two."""
    plain = render.escape(text)

    assert render.display_width(render.cut(plain, width)) <= width
    assert render.display_width(plain) > width or render.cut(plain, width) == plain


def test_a_redrawn_screen_is_never_higher_than_the_terminal() -> None:
    """What does not fit is left out and counted, so that the screen does not scroll."""
    text = "".join(f"line {n}\n" for n in range(100))

    drawn = output.draw(text, os.terminal_size((80, 24)), "without -w all are printed")

    assert drawn.count("\n") == 23
    assert "78 more lines (without -w all are printed)" in drawn


def test_a_watched_status_has_its_problems_where_a_small_screen_shows_them() -> None:
    """What is wrong stands at the top; the hint below names nothing that status refuses."""
    text = rendered("status", "table", watched=True)
    size = os.terminal_size((80, 24))

    drawn = output.draw(text, size, output.hint_for(COMMANDS["status"]))

    assert "401 Unauthorized" in drawn.split("accounting")[0]
    assert "problems" in text
    assert text.count("remedy: ") == 3
    assert "--limit" not in drawn
    assert "--limit" in output.hint_for(COMMANDS["pods"])


def test_a_redrawn_line_is_cut_to_the_terminal_and_stays_whole() -> None:
    """A line as wide as the terminal is not wiped by the sequence that clears the old one."""
    drawn = output.draw("x" * 50 + "\n", os.terminal_size((40, 24)), "")

    assert drawn == f"\x1b[H\x1b[K{'x' * 39}…\n\x1b[J"


@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), st.lists, max_leaves=8))
def test_answers_of_a_newer_daemon_do_not_break_the_client(odd: object) -> None:
    """A key that holds something else than expected is shown as unknown, not a crash."""
    for name, command in COMMANDS.items():
        reply = reply_for(name)
        for key in reply:
            lines = command.text({**reply, key: odd}, View()).split("\n")
            names, rows = command.rows({**reply, key: odd}, View())
            assert all(line.isprintable() for line in lines)
            assert {len(row) for row in rows} <= {len(names)}


def test_energy_without_a_known_user_says_why() -> None:
    """A list shows the reason of each of its rows that has one."""
    assert "unattributed: outside the visible cgroup tree" in rendered(
        "workloads", "table", everything=True
    )


def test_a_newer_daemons_flags_and_policies_are_shown_by_name() -> None:
    """What this version does not know has no explanation, and breaks nothing."""
    reply = reply_for("node")
    reply["attribution"] = {"idle": "by-\x1b[2Jmoon"}
    reply["domains"]["dram"]["flags"] = ["eclipsed\x07", 7]
    text = output.render(COMMANDS["node"], reply, "table", View())

    assert "idle energy: [attribution] idle = by-\\x1b[2Jmoon\n" in text
    assert "dram: eclipsed\\x07\n" in text
    assert "dram: 7\n" in text


def test_an_older_daemon_tells_no_errors() -> None:
    """Columns that it knows nothing of say so; there is no zero where nothing is known."""
    reply = reply_for("workloads")
    new = ("uncertainty", "total_sd_uj", "total_power_sd_w", "intensity_j_per_cpu_s", "flags")
    for entry in reply["workloads"]:
        for key in new:
            del entry[key]
    text = output.render(COMMANDS["workloads"], reply, "wide", View(wide=True))

    nginx = next(line for line in text.splitlines() if " nginx " in line)
    assert nginx.split().count("-") == 4  # two margins, intensity, flags


def test_errors_are_shown_as_what_holds_the_truth() -> None:
    """A standard deviation means little to most; 1.96 of them to each side hold 95 of 100."""
    reply = reply_for("pods")
    reply["pods"] = [{**reply["pods"][0], "total_sd_uj": 10e6, "total_power_sd_w": 0.5}]
    text = output.render(COMMANDS["pods"], reply, "wide", View(wide=True))

    assert "0.980 W    19.6 J" in text
    assert text.endswith("±: the truth lies within for about 95 of 100 workloads\n")


def test_a_window_with_a_hole_says_so_below_every_list() -> None:
    """Who reads a power of a window that was half seen is told."""
    reply = reply_for("pods")
    reply["domains"]["dram"]["coverage"] = 0.5
    text = output.render(COMMANDS["pods"], reply, "table", View())

    assert "dram: only 50 % of this window was observed\n" in text


HOSTILE = "\x1b[31mred\u202egnp.exe\u2066\n" + "\u0301" * 5_000 + "x" * 10_000 + "\udcff"


def hostile_snapshot() -> Snapshot:
    """Return a node where every name that somebody may choose is hostile."""
    who = [
        made.Identity(
            kind=kind,
            id=f"{kind}{HOSTILE}",
            name=HOSTILE,
            namespace=HOSTILE,
            pod=HOSTILE,
            pod_uid=HOSTILE,
            cgroup=f"/{HOSTILE}.slice/x",
            parent=HOSTILE,
            labels={HOSTILE: HOSTILE},
            description=HOSTILE,
            reason=HOSTILE,
            owner=HOSTILE,
            tenant=tenant,
            devices={HOSTILE: (HOSTILE,)},
        )
        for kind, tenant in (("container", None), ("vm", HOSTILE), ("unit", None))
    ]
    leaves = tuple(made.make_leaf(one, 10, power_w=1.0) for one in who)
    return dataclasses.replace(made.make_snapshot(leaves), views=leaves[1:2])


@pytest.mark.parametrize("form", ["table", "wide", "csv", "json"])
@pytest.mark.parametrize("command", ["pods", "workloads", "containers", "vms", "units"])
def test_hostile_names_are_shown_escaped_and_cut(command: str, form: str) -> None:
    """Escapes, text that runs backwards, and great length disturb neither terminal nor table."""
    reply = reply_for(command, hostile_snapshot())
    for width in (None, 80):
        text = output.render(COMMANDS[command], reply, form, View(wide=form == "wide", width=width))

        assert all(line.isprintable() for line in text.split("\n"))
        if form == "table":
            assert "\\x1b[31mred\\u202egnp.exe"[: 8 if width else None] in text
            table = text.partition("\n\n")[0].split("\n")
            assert max(map(render.display_width, table)) <= view.WIDEST
    if form == "json":
        assert (
            HOSTILE[:-1]
            in json.loads(text)[command if command == "pods" else "workloads"][0]["name"]
        )


def test_long_names_are_cut_in_time_that_grows_with_their_length() -> None:
    """A tenant's name of wide characters stops no reader; with the square of it this took hours."""
    assert render.cut("宽" * 50_000, 9) == "宽宽宽宽…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "0 s ago"),
        (13.9, "13 s ago"),
        (60.0, "1 min ago"),
        (7_199.0, "1 h ago"),
        (200_000.0, "2 d ago"),
    ],
)
def test_an_end_is_told_by_its_largest_unit(seconds: float, text: str) -> None:
    """How long ago something ended is read at a glance, and is never in the future."""
    assert render.ago(seconds) == text


@pytest.mark.parametrize("ended", [None, 7, "", "yesterday", "2025-06-15T15:07:30"])
def test_an_end_that_cannot_be_read_leaves_the_state(ended: object) -> None:
    """An older or newer daemon may say nothing, or another thing, of the end."""
    reply = reply_for("pods")
    reply["pods"][1]["ended"] = ended
    text = output.render(COMMANDS["pods"], reply, "table", View())

    assert "terminated" in text
    assert "ago" not in text


def test_who_has_a_views_energy_is_named_and_no_sum_has_it() -> None:
    """A virtual machine in a pod is shown with its pod; the line of sums is without it."""
    text = rendered("vms", "table")

    assert "pod shop/web/nginx" in text
    assert "shown: 1.76 W, 23.1 J;" in text
    assert "1 is a view: in no sum" in text


def test_a_pod_of_a_nested_cluster_shows_what_it_runs_in() -> None:
    """Its names are its owner's, who may call it like a pod of the host."""
    for command in ("pods", "containers", "workloads"):
        assert "web (in kind-worker)" in rendered(command, "table")
    reply = reply_for("pods")
    reply["pods"][2]["parent_name"] = None
    assert f"web (in {made.NODE_ID[:12]})" in output.render(
        COMMANDS["pods"], reply, "table", View()
    )


@pytest.mark.parametrize("form", ["table", "wide", "csv"])
@pytest.mark.parametrize(("command", "sums"), [("pods", "namespaces"), ("units", "slices")])
def test_sums_alone_are_as_agreed(command: str, sums: str, form: str) -> None:
    """Totals by namespace, and slices, in every format for people and for spreadsheets."""
    path = GOLDEN / f"{command}-{sums}.{form}.txt"
    text = rendered(command, form, sums=sums)
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()
    assert all(line.isprintable() for line in text.split("\n"))


def test_pods_that_are_in_no_namespaces_sum_are_counted() -> None:
    """Who reads the sums learns that some of the host's pods are missing, and why."""
    reply = reply_for("pods")
    for pod in reply["pods"]:
        pod["namespace"] = None
    text = COMMANDS["pods"].text(reply, View(sums="namespaces"))

    assert "2 pods are in no sum, namespace not known: kubelet: 401 Unauthorized; remedy: " in text
    assert "in no sum" not in rendered("pods", "table", sums="namespaces")


def test_what_a_slice_used_itself_is_not_taken_for_its_sum() -> None:
    """The same name stands twice, once as a leaf and once as the sum over all in it."""
    reply = reply_for("units")
    for unit in reply["workloads"]:
        if unit["name"] == "cron.service":
            unit.update(id="system.slice", name="system.slice")
    text = COMMANDS["units"].text(reply, View())

    assert [line for line in text.splitlines() if line.startswith("system.slice (itself) ")]
    assert [line for line in text.splitlines() if line.startswith("system.slice  ")]


def test_slices_stay_a_tree_whatever_the_order() -> None:
    """Neighbours are in the order asked for, what is in a slice stands right below it."""
    slices = [
        {"cgroup": path, "id": path, "total_power_w": watts, "total": {}}
        for path, watts in (("/a", 1.0), ("/a/x", 0.2), ("/a/y", 0.8), ("/b", 2.0), ("/b/z", 2.0))
    ]

    by_power = [e["id"] for e in sums.in_tree(slices, View(sort="power"))]
    by_name = [e["id"] for e in sums.in_tree(slices[::-1], View(sort="name"))]

    assert by_power == ["/b", "/b/z", "/a", "/a/y", "/a/x"]
    assert by_name == ["/a", "/a/x", "/a/y", "/b", "/b/z"]


def test_slices_that_make_no_tree_are_all_shown() -> None:
    """Whatever a daemon says, each is shown once: without parents, twice, or each in another."""
    slices = [{"cgroup": c, "id": c} for c in ("/a/b/c", "x", None, "/", "//", "/a", "/a")]

    assert sorted(map(str, sums.in_tree(slices, View()))) == sorted(map(str, slices))


def test_a_selector_chooses_rows_and_says_what_it_could_not_judge() -> None:
    """Pods that nobody described are not shown, are counted, and the remedy is named."""
    chosen = parse_selector("app=web")
    text = rendered("pods", "table", selector=chosen)

    assert [line.split()[1] for line in text.splitlines()[1:2]] == ["web"]
    assert "job" not in text
    assert "kind-worker" not in text
    assert (
        "1 pod not shown, labels not known: kubelet: 401 Unauthorized; "
        "remedy: set [kubelet] token_file or client_cert_file\n"
    ) in text
    assert "labels not known" not in rendered("pods", "table")
    told = json.loads(rendered("pods", "json", selector=chosen))
    assert [pod["name"] for pod in told["pods"]] == ["web"]
    rows = list(csv.DictReader(io.StringIO(rendered("pods", "csv", selector=chosen))))
    assert [row["name"] for row in rows] == ["web"]


def test_a_selector_of_workloads_counts_only_pods_as_unknown() -> None:
    """Units, the kernel and the past have no labels; that is nothing to mend."""
    text = rendered("workloads", "table", selector=parse_selector("!x"))

    assert "2 workloads not shown, labels not known" in text  # pause, and the nested one
    assert "cron.service" not in text


@pytest.mark.parametrize(
    ("labels_from", "words"),
    [
        ({"state": "ok", "reason": None, "remedy": None}, "the kubelet has not told of them"),
        ({"state": "unavailable", "reason": "no\x1b"}, "kubelet: no\\x1b\n"),
        (None, "tychoctl sources says why"),
        (7, "tychoctl sources says why"),
    ],
)
def test_why_labels_are_not_known(labels_from: object, words: str) -> None:
    """What is known of the kubelet is told; an older daemon and a recording tell nothing of it."""
    reply = reply_for("pods")
    reply["labels_from"] = labels_from

    assert words in COMMANDS["pods"].text(reply, View(selector=parse_selector("app=web")))


def test_json_holds_only_the_rows_asked_for() -> None:
    """A namespace and a limit leave rows out; the order is that of the table."""
    shop = json.loads(rendered("pods", "json", namespace="shop", limit=1))
    none = json.loads(rendered("pods", "json", namespace="none"))

    assert [pod["name"] for pod in shop["pods"]] == ["web"]
    assert [ns["namespace"] for ns in shop["namespaces"]] == ["shop"]
    assert (none["pods"], none["namespaces"]) == ([], [])
    assert none.keys() == reply_for("pods").keys()


def test_ways_to_names_are_seen_at_a_glance() -> None:
    """Status names those in use, sources says of each other one why, and what to do."""
    assert "names        by bundle; not by kubelet (tychoctl sources" in rendered("status", "table")
    assert "kubelet: 401 Unauthorized; set [kubelet] token_file" in rendered("status", "wide")
    text = rendered("sources", "table")
    assert "names by kubelet: 401 Unauthorized\n  remedy: set [kubelet] token_file" in text
    reply = reply_for("sources")
    reply["identity"] = [{"route": "x", "state": "unused", "reason": "no file", "remedy": "do y"}]
    assert "names by x: no file\n" in COMMANDS["sources"].text(reply, View())
    assert "do y" not in COMMANDS["sources"].text(reply, View())
    reply = reply_for("status")
    reply["identity"] = {"kubelet": "stale: 401; a", "bundle": "ok", "systemd": "ok; slow"}
    status = output.render(COMMANDS["status"], reply, "table", View())
    assert "names        by kubelet (stale), bundle, systemd; tychoctl sources says why" in status
    reply["identity"]["x"] = "okay"
    status = output.render(COMMANDS["status"], reply, "table", View())
    assert "names        by kubelet (stale), bundle, systemd; not by x (tychoctl" in status
    reply["identity"] = {"kubelet": "no"}
    status = output.render(COMMANDS["status"], reply, "table", View())
    assert "names        from cgroup paths alone; not by kubelet" in status


def test_what_is_not_known_of_a_gpu_is_never_zero() -> None:
    """A lost GPU has no watts, no use and no energy; the one beside it is shown as it is."""
    text = rendered("gpus", "wide")
    lost = next(line for line in text.splitlines() if "A100" in line)

    assert "0 W" not in lost
    assert "0 J" not in lost
    assert "0 %" not in lost
    assert lost.split().count("-") == 13
    assert "GPU 1: the GPU is lost: unplugged, or fallen off the bus\n" in text


def test_who_is_on_a_gpu_is_told_by_name() -> None:
    """The table names those who used it most; without a user, in brackets, whom it is assigned."""
    busy, lost = rendered("gpus", "table").splitlines()[1:3]

    assert "shop/job/train 120 W, shop/web/nginx 60.2 W, evil\\x1b[2J.service 2.00 W" in busy
    assert ", 1 more  " in busy
    assert "  (shop/web/pause)  " in lost
    assert "container     shop       job  train" in rendered("gpus", "wide")


def test_a_node_without_gpus_says_where_to_look() -> None:
    """No empty table: a sentence."""
    snapshot = dataclasses.replace(made.make_snapshot(), gpus=())
    reply = reply_for("gpus", snapshot)

    assert COMMANDS["gpus"].text(reply, View()).startswith("no GPU was read: tychoctl sources ")
    assert COMMANDS["gpus"].rows(reply, View())[1] == []


def test_a_gpus_csv_has_a_row_each_and_every_workload() -> None:
    """Programs get raw numbers; what is not known is empty."""
    rows = list(csv.DictReader(io.StringIO(rendered("gpus", "csv"))))

    assert [row["uuid"] for row in rows] == ["GPU-7", "GPU-8\\x1b[2J"]
    assert rows[0]["workloads"].split(";")[0] == made.JOB_ID
    assert rows[0]["workloads_power_w"].split(";")[0] == "120.5"
    assert (rows[1]["power_w"], rows[1]["sm_percent"]) == ("", "")


def test_a_platform_whose_readings_are_held_says_why() -> None:
    """Until the delay is known there is a number, with the reason why it is no better."""
    fit = dataclasses.replace(
        made.FIT, method="hold", reason="no reading yet", centroid_s=None, coefficients={}
    )
    rest = dataclasses.replace(made.RESIDUAL, usable=False, reason="the readings\x1b are late")
    reply = reply_for("node", dataclasses.replace(made.make_snapshot(), fit=fit, residual=rest))
    text = COMMANDS["node"].text(reply, View(wide=True))

    assert "platform: each reading held until the next (no reading yet)\n" in text
    assert "late; base" not in text
    assert "COEFFICIENT" not in text
    assert "  not to be believed now: the readings\\x1b are late\n" in text


def test_a_residual_keeps_its_sign() -> None:
    """What is below zero is shown so: clamping it would hide a wrong platform reading."""
    rest = dataclasses.replace(made.RESIDUAL, energy_uj=-2_000_000_000, power_w=-12.5)
    reply = reply_for("node", dataclasses.replace(made.make_snapshot(), residual=rest))
    text = COMMANDS["node"].text(reply, View())
    rows = list(csv.DictReader(io.StringIO(output.render(COMMANDS["node"], reply, "csv", View()))))

    assert "residual: -12.5 W (idle 169 W); -2.00 kJ = platform 29.5 kJ - parts 12.5 kJ\n" in text
    assert (rows[-1]["domain"], rows[-1]["energy_uj"]) == ("residual", "-2000000000")


def test_a_node_without_a_meter_of_the_platform_says_nothing_of_it() -> None:
    """Nothing measures the whole machine: no line, no row."""
    snapshot = dataclasses.replace(made.make_snapshot(), fit=None, residual=None)
    reply = reply_for("node", snapshot)
    del reply["domains"]["platform"]

    assert "platform" not in COMMANDS["node"].text(reply, View(wide=True))
    assert "residual" not in COMMANDS["node"].text(reply, View(wide=True))
    assert {row[1] for row in COMMANDS["node"].rows(reply, View())[1]} == {
        "package",
        "dram",
        "psys",
    }


def test_a_certificate_that_nobody_verifies_is_told_in_sources_and_status() -> None:
    """An insecure setting is seen without asking for more columns."""
    for command in ("sources", "status"):
        assert "note: TLS certificate is not verified: [redfish] insecure\n" in rendered(
            command, "table"
        )


def test_who_gets_the_idle_energy_of_gpus_is_told_where_there_are_any() -> None:
    """The rule stands beside the numbers that follow it."""
    for command in ("node", "status"):
        reply = reply_for(command)
        assert "of GPUs" not in COMMANDS[command].text(reply, View())
        reply["domains"]["gpu"] = {**reply["domains"]["dram"]}
        reply["attribution"]["gpu_idle"] = "allocated"
        assert (
            "of GPUs: of whom each is assigned to ([attribution] gpu_idle = allocated)\n"
            in COMMANDS[command].text(reply, View())
        )
