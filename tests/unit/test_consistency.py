"""What all commands of tychoctl have in common: options, orders, rows alone, the one screen."""

import csv
import io
import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_render import GOLDEN, UPDATE, hostile_snapshot, rendered, reply_for
from tychoctl import overview, render, view
from tychoctl.client import Failure
from tychoctl.commands import COMMANDS
from tychoctl.helptexts import OTHERS, grouped
from tychoctl.options import ALL, Options, make_parser, parse_options
from tychoctl.view import View

TABLES = [name for name, command in COMMANDS.items() if command.has_headers]


def agreed(name: str, text: str) -> None:
    """Compare a text with the one that was agreed on."""
    path = GOLDEN / name
    if os.environ.get(UPDATE):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("command", TABLES)
def test_rows_alone_are_as_agreed(command: str) -> None:
    """--no-headers: a line for each row, and nothing else, as kubectl has it."""
    text = rendered(command, "table", headers=False)
    agreed(f"{command}.rows.txt", text)
    table = rendered(command, "table").split("\n\n")[0].splitlines()

    assert "\n\n" not in text
    assert len(text.splitlines()) == len(table) - 1
    assert table[0] not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_csv_without_header_is_the_same_rows(command: str) -> None:
    """--no-headers with -o csv leaves out the first line and no other."""
    whole = rendered(command, "csv")

    assert rendered(command, "csv", headers=False) == whole.partition("\n")[2]
    assert len(list(csv.reader(io.StringIO(whole)))) > 1


def test_no_rows_are_no_lines() -> None:
    """A script that counts lines finds none where nothing matches."""
    for command in ("pods", "units"):
        assert rendered(command, "table", headers=False, namespace="none") == ""
    reply = {**reply_for("pods"), "namespaces": []}
    assert COMMANDS["pods"].text(reply, View(headers=False, sums="namespaces")) == ""


@pytest.mark.parametrize("sort", view.SORTS)
def test_the_other_way_round_is_the_reverse(sort: str) -> None:
    """-r turns an order round; what is not known stays at the end."""
    leaves = reply_for("workloads")["workloads"]
    leaves[3]["total_power_w"] = leaves[3]["cpu_seconds"] = leaves[3]["total"] = None
    rows = view.in_order(leaves, sort, reverse=False)
    turned = view.in_order(leaves, sort, reverse=True)

    if sort == "name":
        assert turned == rows[::-1]
    else:
        assert turned == [*rows[:-1][::-1], leaves[3]]


def test_slices_turn_round_among_neighbours() -> None:
    """A tree stays one: only the order of those in one slice is the other way."""
    names = [
        [
            line.split()[0]
            for line in rendered("units", "table", sums="slices", **options)
            .split("\n\n")[0]
            .splitlines()[1:]
        ]
        for options in ({}, {"reverse": True})
    ]

    assert sorted(names[0]) == sorted(names[1])
    assert names[0] != names[1]
    for found in names:
        assert found.index("user.slice") < found.index("user-1000.slice")


def test_json_is_in_the_order_that_was_asked_for() -> None:
    """Without --sort it is the answer itself; with it the rows are those of the table."""
    plain = json.loads(rendered("workloads", "json"))["workloads"]
    named = json.loads(rendered("workloads", "json", sort="name", ordered=True))["workloads"]

    assert plain == reply_for("workloads")["workloads"]
    assert named == view.in_order(plain, "name", reverse=False)
    assert plain != named


@pytest.mark.parametrize(("command", "sums"), [("pods", "namespaces"), ("units", "slices")])
def test_json_of_sums_alone_has_no_list_beside_them(command: str, sums: str) -> None:
    """--namespaces and --slices have an effect in every format."""
    told = json.loads(rendered(command, "json", sums=sums))
    whole = reply_for(command)

    assert {entry["id" if sums == "slices" else "namespace"] for entry in told[sums]}
    assert len(told[sums]) == len(whole[sums])
    assert whole.keys() - told.keys() == {"pods" if command == "pods" else "workloads"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pod"], "there is no command 'pod'; did you mean pods?"),
        (["frobnicate"], "there is no command 'frobnicate'; tychoctl --help lists them"),
        (["pods", "--namespce", "x"], "pods knows no --namespce; did you mean --namespace?"),
        (["pods", "-q"], "pods knows no -q; see tychoctl pods --help"),
        (["pods", "web"], "pods takes no argument 'web' here; see tychoctl pods --help"),
        (["--frob"], "knows no --frob; see tychoctl --help"),
        (["-o", "json"], "-o needs a command, for example tychoctl status"),
        (["-w"], "-w needs a command, for example tychoctl top"),
        (["pods", "-n", "shop", "-A"], "-A asks for every namespace and -n for one"),
        (["pods", "-n", ""], "names no namespace"),
        (["pods", "-o", "yaml"], "'yaml' is none of table, wide, json, csv"),
        (["pods", "-o", "json", "--no-headers"], "JSON has no headers"),
        (["status", "--no-headers"], "--no-headers is for its -o csv"),
        (["config", "default", "--no-headers"], "it takes no other option"),
        (["config", "default", "--wait", "3"], "it takes no other option"),
        (["-o", "csv", "record", "f"], "record has no -o csv, only table or json"),
        (["-n", "shop", "pods"], "-n stands after the command: tychoctl pods -n ..."),
        (["-r", "pods"], "-r stands after the command: tychoctl pods -r ..."),
        (["top", "-w"], "top is live already"),
        (["-w", "top"], "top is live already"),
        (["-w", "record", "f"], "record cannot be watched"),
        (["record", "f", "-w"], "record cannot be watched"),
        (["--socket", "x", "replay", "f"], "replay knows no --socket"),
        (["version", "--wait", "3"], "version knows no --wait"),
        (["replay", "f", "node", "--sort", "power"], "node knows no --sort"),
        (["replay", "f", "gpus", "-a"], "gpus knows no -a"),
        (["replay", "f", "--verify", "-a"], "--verify prints no table for -a"),
        (["replay", "f", "--verify", "-o", "csv"], "--verify prints no table for -o csv"),
        (["replay", "f", "units", "-A"], "units knows no -A"),
        (["completion", "bash", "pod"], "completion bash takes no 'pod'"),
    ],
)
def test_what_has_no_effect_is_refused(arguments: list[str], words: str) -> None:
    """What is wrong, which, and what to do: one line, exit 2, before anything is asked."""
    from tychoctl.run import run

    with pytest.raises(Failure) as caught:
        run(parse_options(arguments))

    assert caught.value.exit_code == 2
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["pods", "-A"], {"command": "pods", "all_namespaces": True}),
        (["pods", "-a", "-o", "json"], {"command": "pods", "everything": True, "output": "json"}),
        (
            ["workloads", "-r", "--no-headers", "-o", "csv"],
            {
                "command": "workloads",
                "reverse": True,
                "ordered": True,
                "no_headers": True,
                "output": "csv",
            },
        ),
        (
            ["status", "--no-headers", "-o", "csv"],
            {"command": "status", "no_headers": True, "output": "csv"},
        ),
        (
            ["replay", "f", "node", "--no-headers"],
            {"command": "replay", "file": "f", "shown": "node", "no_headers": True},
        ),
        (
            ["replay", "f", "--verify", "-o", "json"],
            {"command": "replay", "file": "f", "verify": True, "output": "json"},
        ),
        (["--wait", "3"], {"wait": 3.0}),
        (["-o", "json", "--wait", "2", "pods"], {"command": "pods", "output": "json", "wait": 2.0}),
    ],
)
def test_what_has_an_effect_is_taken(arguments: list[str], changed: dict[str, object]) -> None:
    """Options stand before or after the command, and mean that and nothing else."""
    plain = Options()._asdict()

    found = parse_options(arguments)._asdict()

    assert {key: value for key, value in found.items() if value != plain[key]} == changed


def test_a_watch_for_a_program_prints_lines() -> None:
    """Where no terminal shows it -w means JSON, unless somebody asked for something else."""
    assert parse_options(["pods", "-w"]).output == "json"
    assert parse_options(["pods", "-w", "-o", "table"]).output == "table"
    assert parse_options(["pods", "-w", "-o", "csv"]).output == "csv"
    assert parse_options(["pods"]).output == "table"


@pytest.mark.parametrize(
    ("line", "kept_out"),
    [
        ("--help", ("tychoctl.explain_text", "tychoctl.report_text", "tychoctl.doctor_view")),
        ("completion bash", ("tychoctl.explain_text", "tychoctl.top_state", "tychod.version")),
        ("config default", ("tychod.config", "tychod.settings", "tomli_w")),
    ],
)
def test_a_short_command_imports_no_more_than_it_says(line: str, kept_out: tuple[str, ...]) -> None:
    """Imports are most of what a one-shot command costs."""
    program = (
        "import atexit, sys\n"
        "from tychoctl.__main__ import main\n"
        f"atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.exit(main({line.split()!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout
    assert "tychoctl.run" in done.stderr.split()
    assert not set(kept_out) & set(done.stderr.split())


def test_help_has_every_command_in_a_group() -> None:
    """One line each; a new command has to say where it belongs."""
    shown = make_parser(ALL.values()).format_help()

    assert OTHERS not in grouped()
    for name, command in ALL.items():
        assert f"  {name:<12}{command.doc.split()[0]}" in shown


@pytest.mark.parametrize("command", ALL)
def test_every_command_has_an_example_that_it_takes(command: str) -> None:
    """The example in a command's help is a command line that can be typed."""
    import shlex

    example = ALL[command].example
    if not example.startswith("tychoctl "):
        example = example.partition("$(")[2].partition(")")[0]

    assert parse_options(shlex.split(example)[1:]).command == command


@pytest.mark.parametrize("command", TABLES)
def test_numbers_have_units_and_unknown_is_a_dash(command: str) -> None:
    """In every table what is not known looks the same."""
    text = rendered(command, "wide")

    for odd in ("n/a", "None", "nan", "unknown W", "null"):
        assert odd not in text.replace('"', " ").split() or command == "config"


def overview_of(**changed: Any) -> str:
    """Return the one screen of the example node."""
    status = {**reply_for("status"), **changed}
    return overview.render_overview(status, reply_for("workloads"), View())


def test_the_one_screen_is_as_agreed() -> None:
    """Power, energy, sources, cost, what is wrong and what to do, and who uses most."""
    text = overview_of()
    agreed("overview.txt", text)

    assert len(text.splitlines()) <= 24
    assert "next: " in text
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("width", [None, 40, 80])
def test_the_one_screen_shows_hostile_names_escaped_and_cut(width: int | None) -> None:
    """Whoever names a workload steers no terminal and pushes nothing off the screen."""
    used = reply_for("workloads", hostile_snapshot())
    text = overview.render_overview(reply_for("status"), used, View(width=width))
    table = text.split("\n\n")[2].splitlines()

    assert all(line.isprintable() for line in text.split("\n"))
    assert table[0].startswith("WORKLOAD")
    assert max(map(render.display_width, table)) <= (width or view.WIDEST)


@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), st.lists, max_leaves=8))
def test_the_one_screen_of_a_newer_daemon(odd: object) -> None:
    """A key that holds something else than expected is shown as unknown, not a crash."""
    status, used = reply_for("status"), reply_for("workloads")
    screens = [({**status, key: odd}, used) for key in status]
    screens += [(status, {**used, key: odd}) for key in used]
    for one, other in screens:
        lines = overview.render_overview(one, other, View()).split("\n")
        assert all(line.isprintable() for line in lines)
        assert any(line.startswith("problems  ") for line in lines)
        assert any(line.startswith("power ") for line in lines)


def test_the_one_screen_adds_up_pods() -> None:
    """A pod is one row, with the power of all its containers."""
    pods = [p for p in reply_for("pods")["pods"] if p["name"] == "web"]
    row = next(line for line in overview_of().splitlines() if line.startswith("shop/web"))

    pod = next(p for p in pods if p["nested"] is not True)
    assert f"{pod['total_power_w']:.2f} W" in row


def test_the_one_screen_is_calm_where_nothing_is_wrong() -> None:
    """No problem is told as none; before the first window it says that."""
    text = overview_of(problems=[])
    early = overview.render_overview(reply_for("status"), {}, View())

    assert "problems  none" in text
    assert "power     the first window is not over yet" in early
    assert "WORKLOAD" not in early


def test_no_two_options_of_a_command_are_alike() -> None:
    """A letter means the same in every command that has it."""
    from tychoctl.grammar import commands_in, options_of

    meanings: dict[str, set[str]] = {}
    for parser in commands_in(make_parser(ALL.values())).values():
        for option in options_of(parser):
            short = [name for name in option.names if len(name) == 2]
            long = [name for name in option.names if len(name) > 2]
            for one, other in itertools.product(short, long):
                meanings.setdefault(one, set()).add(other)

    assert {letter: found for letter, found in meanings.items() if len(found) > 1} == {}
