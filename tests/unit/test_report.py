"""`tychoctl report`: what a time means, and what is printed of an answer."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.fixtures import snapshots as made
from tests.fixtures.histories import Recorded, later
from tychoctl import moments, output, report
from tychoctl.client import Failure
from tychoctl.moments import Asked, parse_period
from tychoctl.options import parse_options
from tychoctl.report_text import report_rows
from tychoctl.view import View
from tychod.config_results import Report as Factors
from tychod.model import Energy, Snapshot
from tychod.protocol import ReportBy
from tychod.runtime import replies
from tychod.runtime.slots import View as Seen

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UPDATE = "TYCHOD_UPDATE_GOLDEN"
FACTORS = Factors(
    price_per_kwh=0.2873,
    price_origin="contract 4711",
    price_date="2025-01-01",
    carbon_g_per_kwh=381.0,
    carbon_origin="national mix\x1b[2J",
    carbon_date="2024-12-31",
)
LONG_S = 3 * 3600.0


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Central European time, with summer time, whatever the machine has."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def after(snapshot: Snapshot, seconds: float) -> Snapshot:
    """The node later, after everybody used a hundred times as much again."""
    leaves = tuple(
        replace(
            leaf,
            energy={
                name: Energy(e.idle_uj * 100, e.dynamic_uj * 100) for name, e in leaf.energy.items()
            },
            cpu_ns=leaf.cpu_ns * 100,
        )
        for leaf in snapshot.leaves
    )
    return later(snapshot, seconds, leaves=leaves, domains=made.make_domains(leaves))


def answer(place: Path, by: ReportBy, factors: Factors = FACTORS) -> dict[str, Any]:
    """The daemon's answer: three hours, then another boot's first minute."""
    first = made.make_snapshot()
    last = after(first, LONG_S)
    before = Recorded(place)
    before.record(first)
    before.record(last)
    before.close()
    moved_ns = round((LONG_S + 1800) * 1e9)
    reborn = replace(
        first, since_ns=first.since_ns + moved_ns, wall_offset_ns=first.wall_offset_ns + moved_ns
    )
    now = Recorded(place, boot="another")
    body = now.report(by, first, reborn, view=Seen(reborn, None, 0.0), factors=factors)
    return {**replies.head(made.FACTS, reborn), "report": body}


def rendered(place: Path, by: ReportBy, form: str, **options: Any) -> str:
    """The output of the command."""
    view = View(wide=form == "wide", sort="energy", **options)
    return output.render(report.COMMAND, answer(place, by), form, view)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("form", ["table", "wide", "json", "csv"])
@pytest.mark.parametrize("by", get_args(ReportBy))
def test_output_is_as_agreed(by: ReportBy, form: str, tmp_path: Path) -> None:
    """What people and programs read changes only on purpose."""
    path = GOLDEN / f"report-{by}.{form}.txt"
    text = rendered(tmp_path, by, form)
    if os.environ.get(UPDATE):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.parametrize("by", get_args(ReportBy))
def test_no_name_steers_the_terminal(by: ReportBy, tmp_path: Path) -> None:
    """Control characters of names and of settings are shown, not obeyed."""
    text = rendered(tmp_path, by, "wide", everything=True)

    assert all(line.isprintable() for line in text.split("\n"))


def test_what_can_be_summed_by_is_what_the_daemon_knows() -> None:
    """The client keeps its own list, since to import the daemon's takes long."""
    assert get_args(ReportBy) == report.BY


def test_rows_have_their_share_of_the_cost(tmp_path: Path) -> None:
    """Costs and emissions of the rows add up to those of the node."""
    reply = answer(tmp_path, "pod")
    names, rows = report.COMMAND.rows(reply, View(sort="energy", everything=True))
    total_kwh = sum(reply["report"]["total"]["total"].values()) / 3.6e12
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}

    assert sum(columns["cost"]) == pytest.approx(total_kwh * 0.2873)
    assert sum(columns["co2e_g"]) == pytest.approx(total_kwh * 381)
    assert sum(columns["share"]) == pytest.approx(1)


def test_without_factors_nothing_costs_anything(tmp_path: Path) -> None:
    """No price is ever made up."""
    reply = answer(tmp_path, "namespace", Factors())
    text = output.render(report.COMMAND, reply, "table", View(sort="energy"))

    assert "COST" not in text
    assert "CO2E" not in text


def test_a_factor_without_origin_is_told(tmp_path: Path) -> None:
    """Who reads a cost sees that nobody said where the price is from."""
    reply = answer(tmp_path, "namespace", Factors(price_per_kwh=1.0))

    assert "does not say where from" in output.render(report.COMMAND, reply, "table", View())


def test_one_namespace_alone(tmp_path: Path) -> None:
    """-n leaves the share of the whole node."""
    reply = report.narrowed(answer(tmp_path, "pod"), View(namespace="shop", sort="energy"))
    rows = reply["report"]["rows"]  # type: ignore[index]

    assert {row["namespace"] for row in rows} == {"shop"}
    assert sum(row["share"] for row in rows) < 1
    assert json.loads(output.render_json(reply)) == reply


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """An empty history gives a sentence, not a table of zeros."""
    reply = {"report": dict(Recorded(tmp_path).report("pod"))}
    text = output.render(report.COMMAND, reply, "table", View())

    assert text.startswith("nothing is known of ")
    assert report.COMMAND.rows(reply, View())[1] == []


def at(text: str) -> float:
    """Seconds since 1970 of a local time."""
    return datetime.fromisoformat(text).astimezone().timestamp()


TIMES = [
    ((None, None, None), "2026-03-30T00:00", None),
    (("yesterday", "today", None), "2026-03-29T00:00", "2026-03-30T00:00"),
    ((None, None, "yesterday"), "2026-03-29T00:00", "2026-03-30T00:00"),
    ((None, None, "today"), "2026-03-30T00:00", None),
    ((None, None, "24h"), "2026-03-29T14:30", None),
    ((None, None, "1.5h"), "2026-03-30T13:00", None),
    (("3h ago", None, None), "2026-03-30T11:30", None),
    (("3h", "90m", None), "2026-03-30T11:30", "2026-03-30T13:00"),
    (("2026-03-01", "2026-03-02 12:30", None), "2026-03-01T00:00", "2026-03-02T12:30"),
    (("2026-03-30T10:00:00Z", None, None), "2026-03-30T12:00", None),
    (("2026-01-31T14:00:00+01:00", None, None), "2026-01-31T14:00", None),
    (("2w", "now", None), "2026-03-16T14:30", None),
    (("2026-03-01", "2099-01-01", None), "2026-03-01T00:00", None),
]


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(("asked", "start", "end"), TIMES)
def test_times_mean_what_people_mean(
    asked: tuple[str | None, str | None, str | None], start: str, end: str | None
) -> None:
    """Days are local ones, of 23 hours when summer begins; lengths are of real hours."""
    now = datetime.fromisoformat("2026-03-30T14:30").astimezone()
    found = parse_period(*asked, now)
    expected = at(start)
    if asked == ("2w", "now", None):
        expected -= 3600  # two weeks of hours begin an hour earlier by the clock of winter

    assert found == Asked(expected, at(end) if end else None)


def test_until_alone_is_from_as_far_back_as_is_known() -> None:
    """Where it ends before today begins there is no other start that anybody could mean."""
    now = datetime.fromisoformat("2026-03-30T14:30+00:00").astimezone()
    found = parse_period(None, "2026-03-01", None, now)

    assert found.start is None
    assert found.end is not None


def test_nothing_before_a_time_is_told_without_a_beginning() -> None:
    """Who gave --until alone asked for no first of January 1970."""
    asked = {"start": "1970-01-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    text = report.COMMAND.text({"report": {"asked": asked, "covered": None}}, View())

    assert "1970" not in text
    assert text.startswith(f"nothing is known of before {moments.local(asked['end'])}")


def test_energy_is_whole_microjoules_in_every_column() -> None:
    """A program reads the sum as it reads its parts, exactly."""
    total = {"idle_uj": (1 << 62) + 1, "dynamic_uj": 1}
    rows = [{"kind": "namespace", "id": "a", "name": "a", "total": total}]
    names, told = report_rows({"report": {"by": "namespace", "rows": rows}}, View(everything=True))
    row = dict(zip(names, told[0], strict=True))

    assert [row[key] for key in ("energy_uj", "idle_uj", "dynamic_uj")] == [
        (1 << 62) + 2,
        (1 << 62) + 1,
        1,
    ]
    assert isinstance(row["energy_uj"], int)


@pytest.mark.parametrize("option", ["-l", "-lapp=web", "--selector=app=web", "--selector"])
def test_labels_are_not_in_the_history(option: str) -> None:
    """Whoever knows -l from the lists is told what a report is by instead."""
    with pytest.raises(Failure, match="labels") as failure:
        parse_options(["report", option, "app=web"])

    assert failure.value.exit_code == 2
    assert "--by" in str(failure.value)


def test_until_an_hour_ago_is_never_as_far_back_as_is_known() -> None:
    """Just after midnight an hour ago was yesterday; by day it is a part of today."""
    midnight = datetime.fromisoformat("2026-06-30T00:00").astimezone()
    with pytest.raises(Failure, match="--until 1h is before today: say --since, too"):
        parse_period(None, "1h", None, midnight + timedelta(minutes=30))
    found = parse_period(None, "1h", None, midnight + timedelta(hours=12))

    assert found == Asked(
        midnight.timestamp(), midnight.timestamp() + timedelta(hours=11).total_seconds()
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("3x", None, None), "--since '3x' is no time such as 2026-01-31"),
        ((None, None, "2026-01-31"), "--last '2026-01-31' is no length of time"),
        (("today", None, "3h"), "leave out --since and --until"),
        (("2026-02-30", None, None), "--since '2026-02-30' is no time"),
        (("2h", "3h", None), "--since 2h is not before --until 3h"),
        (("2099-01-01", None, None), "--since 2099-01-01 is not before now"),
        (("1960-01-01", None, None), "is before 1970"),
        (("999999999w", None, None), "is no time such as"),
        ((None, None, "0h"), "--last '0h' is no length of time"),
        ((None, None, "0.0d"), "--last '0.0d' is no length of time"),
        (("\ud800", None, None), "is no time such as"),
        (("", None, None), "--since '' is no time such as"),
        ((None, "", None), "--until '' is no time such as"),
        ((None, None, ""), "--last '' is no length of time"),
        ((None, "25h", None), "--until 25h is before today: say --since, too"),
        ((None, "2d ago", None), "say --since, too"),
    ],
)
def test_what_is_no_time_is_told_with_what_would_be_one(
    asked: tuple[str | None, str | None, str | None], told: str
) -> None:
    """A usage error names the option and shows how it is written."""
    with pytest.raises(Failure, match=told.replace("(", r"\(")) as failure:
        parse_period(*asked, datetime.now().astimezone())

    assert failure.value.exit_code == 2


def test_options_reach_the_command() -> None:
    """As they are declared."""
    options = parse_options(["report", "--by", "pod", "--last", "7d", "-n", "shop", "-o", "csv"])

    assert (options.by, options.last, options.namespace, options.output) == (
        "pod",
        "7d",
        "shop",
        "csv",
    )


def test_times_from_the_daemon_are_shown_as_local_ones() -> None:
    """What is no time is not one."""
    assert moments.local("x") == "n/a"
    assert moments.as_datetime(None) is None
