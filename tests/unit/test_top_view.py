"""tychoctl top: the screens at fixed sizes, and what no name or number may do to them."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import snapshots as made
from tychoctl.render import display_width
from tychoctl.top_columns import energy, spark
from tychoctl.top_model import History, Known, absorb, trend_points
from tychoctl.top_paint import Canvas, make_paint
from tychoctl.top_rows import make_rows
from tychoctl.top_state import State, settle
from tychoctl.top_view import Scene, draw, page_of
from tychod.buffer import Latest

if TYPE_CHECKING:
    from tychod.model import Snapshot

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UPDATE = "TYCHOD_UPDATE_GOLDEN"  # set it to write the files anew, then read the difference
ESC = "\x1b"


def replies(sequence: int = 20, leaves: Any = made.LEAVES) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the daemon's answers about the node made by hand."""
    latest: Latest[Snapshot] = Latest()
    latest.publish(made.make_snapshot(leaves, sequence=sequence))
    answers = made.make_answers(latest)
    access = answers.access(everything=True)
    workloads, node = (msgpack.unpackb(answers.packed(op, access)) for op in ("workloads", "node"))
    return workloads, node


def make_known() -> Known:
    """Return what one pair of answers tells."""
    return absorb(Known(), *replies())


def make_history(known: Known) -> History:
    """Return three windows of the node, of which the daemon remembered two."""
    history = History()
    history.append(known, 1000.0)
    point = {"package": 5.0, "dram": 1.0}
    older = {"points": [[994.0, point], [997.0, {**point, "package": 21.0}]]}
    history.seed(trend_points(older, known))
    return history


def screen(known: Known, state: State, width: int, height: int, **scene: Any) -> list[str]:
    """Return the lines of a screen as plain text."""
    rows = make_rows(known, state)
    state = settle(state, rows, page_of(known, height))
    made_scene = Scene(known, state, rows, make_history(known), width, height, **scene)
    return ["".join(text for text, _ in line) for line in draw(made_scene)]


SCREENS = {
    "80x24": (State(), 80, 24),
    "200x40": (State(is_whole=True, unit="J", sort="energy"), 200, 40),
    "40x10": (State(sort="name"), 40, 10),
    "flat-120x30": (State(is_tree=False, paused=True, everything=True), 120, 30),
    "help-80x24": (State(mode="help"), 80, 24),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screens_are_as_agreed(name: str) -> None:
    """What a user sees changes only on purpose."""
    state, width, height = SCREENS[name]
    text = "".join(f"{line.rstrip()}\n" for line in screen(make_known(), state, width, height))
    path = GOLDEN / f"top.{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.parametrize("mode", ["list", "help", "text"])
def test_every_size_is_filled_and_never_left(mode: Any) -> None:
    """A screen has as many lines as the terminal, none of them wider, however small it is."""
    known, state = make_known(), State(mode=mode, typed="web", text="web")
    for width, height in ((1, 1), (3, 2), (9, 3), (20, 4), (40, 10), (80, 24), (300, 100)):
        for shown in (known, Known()):
            lines = screen(shown, state, width, height, told="tychod went away")

            assert len(lines) == height
            assert max(map(display_width, lines)) <= width


@given(st.text(max_size=300), st.text(max_size=30), st.integers(10, 200))
def test_no_name_steers_the_terminal(name: str, pod: str, width: int) -> None:
    """Whatever somebody calls a container, a line stays a line of printable cells."""
    workloads, node = replies()
    workloads["workloads"][0] |= {"name": name, "pod": pod, "namespace": name, "kind": pod}
    workloads["node"] = node["node"] = name
    known = absorb(Known(), workloads, node)

    lines = screen(known, State(), width, 24)

    assert all(line.isprintable() for line in lines)
    assert max(map(display_width, lines)) <= width


def test_markup_in_a_name_is_only_text() -> None:
    """A name that looks like rich's markup is shown as it is."""
    workloads, node = replies()
    workloads["workloads"][0]["name"] = "[red]x[/red]"
    known = absorb(Known(), workloads, node)

    text = Canvas(make_paint()).update(
        [[(line, "dim")] for line in screen(known, State(), 80, 24)], 80
    )

    assert "[red]x[/red]" in text


def test_the_line_below_says_nothing_twice() -> None:
    """The chosen row is told with its kind, unless its name says that already."""
    assert screen(make_known(), State(), 80, 24)[-2].startswith("system: 11.0 W")
    chosen = State(cursor="namespace:shop:", unit="J")
    assert screen(make_known(), chosen, 100, 24)[-2].startswith("namespace shop: 3.58 W")


def test_a_pod_of_another_cluster_stands_apart() -> None:
    """Who may name pods in a container cannot put them among those of the host."""
    lines = screen(make_known(), State(), 100, 40)

    assert any("shop (in kind-worker)" in line for line in lines)


def test_what_is_missing_or_strange_in_an_answer_is_not_known() -> None:
    """A daemon of another version may leave out anything, or send other types."""
    strange: dict[str, object] = {"workloads": [{}, 3, {"energy": 3, "flags": "x", "power_w": []}]}
    for workloads in ({}, strange, {"window": {"end": "soon"}, "workloads": None}):
        for node in ({}, {"domains": {"package": 3}, "residual": []}):
            lines = screen(absorb(Known(), workloads, node), State(everything=True), 80, 24)
            assert len(lines) == 24


@pytest.mark.parametrize(
    ("told", "colours", "weights"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colours_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], colours: bool, weights: bool
) -> None:
    """NO_COLOR leaves bold and reverse; a dumb terminal gets plain text."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    paint = make_paint()

    assert (paint("x", "idle") != "x") is colours
    assert (paint("x", "chosen") != "x") is weights


def test_only_changed_lines_are_sent() -> None:
    """A window that changes one line costs the terminal one line; another width costs all."""
    canvas = Canvas(lambda text, _: text)
    lines: list[list[tuple[str, str]]] = [[("a", "")], [("b", "")]]
    canvas.update(lines, 80)

    assert canvas.update(lines, 80) == ""
    assert canvas.update([lines[0], [("c", "")]], 80) == f"{ESC}[2;1H{ESC}[Kc"
    assert canvas.update(lines, 79).count(f"{ESC}[K") == 2
    canvas.forget()
    assert canvas.update(lines, 79).count(f"{ESC}[K") == 2


def test_energy_keeps_its_unit() -> None:
    """J stay J and Wh stay Wh, of any size; what is too small is not shown as none."""
    assert [energy(value, "J") for value in (None, 0, 1, 89_100_000, 1.65e9, -2e6)] == [
        *("-", "0 J", "<0.001 J", "89.1 J", "1.65 kJ", "-2.00 J"),
    ]
    assert [energy(3.6e9 * value, "Wh") for value in (0.025, 1, 1200, 2.5e6, 3e9)] == [
        *("0.025 Wh", "1.00 Wh", "1.20 kWh", "2.50 MWh", "3.00 GWh"),
    ]


def test_a_trend_has_gaps_where_nothing_is_known() -> None:
    """A window without a value is a gap, never the lowest bar; ASCII terminals get ASCII."""
    assert spark([0, math.nan, 5, 10], 0, 10, ascii=False) == "▁ ▅█"
    assert spark([0, 10], 0, 10, ascii=True).isascii()
    assert spark([3, 3], 3, 3, ascii=False) == "▁▁"
