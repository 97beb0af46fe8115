"""tychoctl top: what keys do, which rows there are, and what is counted since when."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_top_view import make_known, replies
from tychoctl.lists import add
from tychoctl.selector import parse_selector
from tychoctl.top_keys import SEQUENCES, Keys
from tychoctl.top_model import KEEP, History, Known, absorb, begin_anew
from tychoctl.top_options import KINDS
from tychoctl.top_rows import Row, make_rows
from tychoctl.top_state import CHOICES, FOLDS, MOVES, State, press, settle

PAGE = 4


def after(keys: str | list[str], state: State | None = None, known: Known | None = None) -> State:
    """Return the state after some keys, each pressed with the rows that it shows."""
    known, state = known or make_known(), state or State()
    for key in keys:
        state = settle(state, make_rows(known, state), PAGE)
        state = press(state, key, make_rows(known, state), PAGE)
    return settle(state, make_rows(known, state), PAGE)


def chosen(state: State) -> Row:
    """Return the row that the cursor is on."""
    return make_rows(make_known(), state)[state.at]


def labels(state: State) -> list[str]:
    """Return the names of all rows, indented."""
    return ["  " * row.depth + row.label for row in make_rows(make_known(), state)]


def test_the_tree_has_every_leaf_once() -> None:
    """Namespaces, pods, slices and the rest add up to all workloads."""
    known = make_known()
    state = State(everything=True)
    rows = make_rows(known, state)
    shown = [row.key for row in rows if row.leaf is not None]

    assert sorted(shown) == sorted(leaf.key for leaf in known.leaves)
    assert sum(len(row.leaves) for row in rows if row.depth == 0) == len(known.leaves)
    assert sorted(r.key for r in make_rows(known, state._replace(is_tree=False))) == sorted(shown)


def test_churn_does_not_push_what_runs_off_the_screen() -> None:
    """In watts only what has power; ended ones are marked, evicted ones are in their pod's sum."""
    workloads, node = replies()
    nginx = next(leaf for leaf in workloads["workloads"] if leaf["name"] == "nginx")
    past = next(leaf for leaf in workloads["workloads"] if leaf["id"].startswith("past:"))
    spent = {"total": {"idle_uj": 0, "dynamic_uj": 5}, "total_power_w": 0.0, "state": "terminated"}
    for i in range(50):
        gone = {**nginx, **spent, "id": f"{i:064x}", "name": f"old-{i}"}
        lost = {**past, **spent, "id": f"past:uid-{i}", "name": "past", "pod_uid": f"uid-{i}"}
        workloads["workloads"] += [gone, lost]
    known = absorb(Known(), workloads, node)
    in_watts, in_joules = State(), State(unit="J", sort="energy", is_whole=True)

    for state in (in_watts, in_watts._replace(is_tree=False)):
        shown = {row.label for row in make_rows(known, state)}
        assert "nginx" in str(shown)
        assert not [label for label in shown if "old-" in label or "past" in label]
    rows = make_rows(known, in_joules)
    [gone_row] = [row for row in rows if row.label == "ended before"]
    [pod] = [row for row in rows if (row.label, row.kind) == ("web", "pod") and row.depth == 1][:1]
    assert "old-7 (ended)" in {row.label for row in rows}
    assert gone_row.energy_uj == add(x.energy_uj for x in gone_row.leaves)
    assert len(gone_row.leaves) == 51
    assert any(leaf.kind == "past" for leaf in pod.leaves)
    flat = make_rows(known, in_joules._replace(is_tree=False))
    assert [row.label for row in flat if row.kind == "past" and row.folded is not None]
    assert len(flat) == len([r for r in flat if r.kind != "past"]) + 2  # the pod's own, and these
    everything = make_rows(known, in_watts._replace(everything=True))
    assert sum(row.kind == "past" and row.leaf is not None for row in everything) == 52


def test_groups_are_places() -> None:
    """A pod's containers stand below their pod and namespace, a unit below its slices."""
    found = labels(State(sort="name", unit="J", is_whole=True))

    at = found.index("shop")
    assert found[at + 1 : at + 4] == ["  job", "    train (ended)", "  web"]
    assert found[found.index("system.slice") + 1] == "  cron.service"


@pytest.mark.parametrize("sort", ["power", "energy", "cpu", "name"])
def test_neighbours_are_in_order(sort: str) -> None:
    """The rows of a list follow the order; r turns it round."""
    known = absorb(make_known(), *replies(21))
    state = State(is_tree=False, sort=sort, everything=True)
    values = {"power": "power_w", "energy": "energy_uj", "cpu": "cpu_s", "name": "name"}
    found = [getattr(row, values[sort]) for row in make_rows(known, state)]
    backwards = [row.key for row in make_rows(known, state._replace(reverse=True))]

    assert found == sorted(found, reverse=sort != "name")
    assert backwards == [row.key for row in make_rows(known, state)][::-1]


def test_keys_choose_what_is_shown() -> None:
    """Each key changes what it says, and Esc drops all filters."""
    assert after("ss").sort == "cpu"
    assert after("N").sort == "name"
    assert not after("t").is_tree
    assert after("f").kind == KINDS[0]
    assert after("f" * (len(KINDS) + 1)).kind is None
    assert [after(keys).paused for keys in ("p", "pp")] == [True, False]
    assert after("q").is_leaving
    assert after(["/", "w", "x", "backspace", "enter"]).text == "w"
    assert after(["n", *"shop", "enter"]).namespace == "shop"
    assert after(["n", *"sh"]).mode == "namespace"
    assert labels(after(["n", *"sh"])) == labels(after(["n", *"shop", "enter"])) != []
    assert labels(after(["n", *"sh", "enter"])) == []
    state = after(["f", "n", *"shop", "enter", "/", "w", "enter", "esc"])
    assert (state.kind, state.namespace, state.text, state.mode) == (None, None, "", "list")


def test_what_is_typed_is_no_command() -> None:
    """A q in a text to look for does not quit, and ? is a letter there."""
    state = after(["/", "q", "?", "p"])

    assert (state.text, state.is_leaving, state.paused, state.mode) == ("q?p", False, False, "text")


def test_the_order_follows_the_unit() -> None:
    """Who orders by what is shown does so in each unit; who orders by name keeps that."""
    assert (after("u").unit, after("u").sort) == ("J", "energy")
    assert (after("uuu").unit, after("uuu").sort) == ("W", "power")
    assert after("Nu").sort == "name"


def test_the_cursor_stays_on_its_row_when_others_pass_it() -> None:
    """A new order moves the chosen row, not the choice; on the first row it stays first."""
    state = after(["down", "down"])
    key = chosen(state).key

    assert chosen(after("N", state)).key == key
    assert after(["down", "up", "N"]).at == 0


def test_the_cursor_outlives_its_row() -> None:
    """When the chosen row goes, the one in its place is chosen; without rows nothing breaks."""
    state = after(["end"], State(is_tree=False))
    fewer = after(["/", *"nginx", "enter"], state)
    none = after(["/", *"no such", "enter"], state)

    assert make_rows(make_known(), fewer)[fewer.at].leaves[0].name == "nginx"
    assert (none.at, none.offset) == (0, 0)
    assert after(["down", "end", "enter", "left"], none).at == 0


def test_folding_hides_and_leaves() -> None:
    """Enter folds the chosen group; left goes out to the group a row is in."""
    folded = after(["N", "["])
    assert all(row.depth == 0 for row in make_rows(make_known(), folded))
    assert labels(after("]", folded)) == labels(State(sort="name"))

    inner = after(["/", *"nginx", "enter", "end"])
    pod = after(["left"], inner)
    assert chosen(pod).kind == "pod"
    assert chosen(after(["left"], pod)).folded is True
    assert chosen(after(["left", "right"], pod)).folded is False


@given(st.lists(st.sampled_from([*MOVES, *FOLDS, *CHOICES, "x", "é", "unknown"]), max_size=25))
def test_no_keys_lead_astray(keys: list[str]) -> None:
    """Whatever is pressed, the cursor is on a row that is on the page."""
    state = after(keys)
    rows = make_rows(make_known(), state)

    assert 0 <= state.at < max(len(rows), 1)
    assert state.offset <= state.at < state.offset + PAGE


def test_keys_come_whole_however_they_arrive() -> None:
    """A sequence or a letter cut in two is one key; Esc alone is one when nothing follows."""
    data = b"q\x1b[5~\xc3\xa4\x1bOA\x1b[1;5C\r\x1b[<0;3;4M/"
    wanted = ["q", "pageup", "ä", "up", "unknown", "enter", "unknown", "/"]
    whole, parts = Keys(), Keys()

    assert whole.feed(data) == wanted
    assert [key for at in range(len(data)) for key in parts.feed(data[at : at + 1])] == wanted
    assert parts.feed(b"\x1b") == []
    assert parts.is_waiting
    assert parts.flush() == ["esc"]
    assert parts.feed(b"\x1b\x1b[A") == ["esc", "up"]


@given(st.binary(max_size=60))
def test_no_bytes_stop_the_keys(data: bytes) -> None:
    """What a broken terminal sends is some keys, and after a pause all of them were told."""
    keys = Keys()
    found = keys.feed(data) + keys.flush()

    assert not keys.is_waiting
    assert all(key in SEQUENCES.values() or len(key) == 1 or key.isascii() for key in found)


def grown(leaf_id: str, energy_uj: int, **other: Any) -> dict[str, Any]:
    """Return an answer in which one leaf has this energy."""
    workloads, _ = replies()
    for leaf in workloads["workloads"]:
        if leaf["name"] == leaf_id:
            leaf["total"] = {"idle_uj": 0, "dynamic_uj": energy_uj}
    return workloads | other


def energies(known: Known) -> dict[str, float | None]:
    """Return the energy of each leaf since the view began."""
    return {leaf.name: known.energy_uj(leaf, whole=False) for leaf in known.leaves}


def test_energy_counts_since_the_view_began() -> None:
    """At first all is nothing; what comes is counted, from z on from nothing again."""
    first = absorb(Known(), grown("nginx", 5_000), {})
    later = absorb(first, grown("nginx", 7_500), {})
    [nginx, *_] = [leaf for leaf in later.leaves if leaf.name == "nginx"]

    assert set(energies(first).values()) == {0}
    assert energies(later)["nginx"] == 2_500
    assert later.energy_uj(nginx, whole=True) == 7_500
    assert set(energies(begin_anew(later)).values()) == {0}


def test_labels_choose_only_what_has_them() -> None:
    """A selector shows whose labels match; whose labels nobody knows is counted, not shown."""
    known = absorb(Known(), *replies(), parse_selector("app=web"))
    no_app = absorb(Known(), *replies(), parse_selector("!app"))

    assert [leaf.name for leaf in known.leaves] == ["nginx"]
    assert (no_app.leaves, no_app.unlabelled > 0) == ((), True)


def test_what_is_evicted_takes_its_base_along() -> None:
    """The energy a workload had before the view began does not appear as new in past."""
    first = absorb(Known(), *replies())
    workloads, node = replies()
    cron = next(leaf for leaf in workloads["workloads"] if leaf["name"] == "cron.service")
    past = next(leaf for leaf in workloads["workloads"] if leaf["id"] == "past")
    workloads["workloads"].remove(cron)
    past["total"]["dynamic_uj"] += cron["total"]["dynamic_uj"] + 17
    later = absorb(first, workloads, node)

    assert {later.energy_uj(leaf, whole=False) for leaf in later.leaves} == {0, 17}


def test_counters_that_begin_anew_are_counted_whole() -> None:
    """After a reboot of the counters nothing is negative."""
    first = absorb(Known(), *replies())
    workloads, node = replies()
    known = absorb(first, workloads | {"since": "2025-06-15T16:00:00.000000Z"}, node)

    assert min(value or 0.0 for value in energies(known).values()) >= 0
    assert known.leaves[0].cpu_share is None


def test_history_ends_at_the_same_window_for_all() -> None:
    """Sums are over the same windows; who was not there is a gap; a pause shows what it knew."""
    known = make_known()
    leaf = known.leaves[0]
    history = History()
    for number in range(KEEP * 5):
        with_leaf = known._replace(leaves=(leaf._replace(power_w=float(number)),))
        history.append(with_leaf if number % 2 else known._replace(leaves=()), float(number))

    points = history.leaves([leaf.key, "none"], 4)
    last = KEEP * 5 - 1
    assert points[1::2] == [last - 2, last]
    assert all(map(math.isnan, points[::2]))
    assert history.leaves([leaf.key], 2, until=history.count - 2)[1] == last - 2
    assert len(history.node()) == KEEP
    assert history.node(until=history.count - 2)[-1][0] == last - 2
