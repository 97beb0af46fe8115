"""The metrics' text: what Prometheus' own parsers read in it, who gets which, and its table."""

import dataclasses
import re
import shutil
import subprocess
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import (
    ACCEPTS,
    NAMES,
    OPEN,
    SETTINGS,
    before_of,
    families_of,
    make_node,
    samples_of,
    scrape_of,
    text_of,
    values_of,
)
from tychod.config_results import MetricNames
from tychod.exposition import Exposition, Scrape
from tychod.exposition.family import Family
from tychod.exposition.render import OPENMETRICS, TEXT, empty_metric
from tychod.exposition.table import FAMILIES, METRICS

NODE: Final = make_node()
# As Prometheus 2 and 3 send it, a browser, and a client that says nothing.
ASKED: Final = {
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1"
    ";q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2": OPENMETRICS,
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0"
    ";escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": OPENMETRICS,
    "text/html,application/xhtml+xml,*/*;q=0.8": TEXT,
    "text/plain;version=0.0.4": TEXT,
    "": TEXT,
    "application/openmetrics-text;version=abc": OPENMETRICS,
    f"text/plain;version=x.y,application/openmetrics-text;version={'9' * 5000}": OPENMETRICS,
    "application/openmetrics-text;q=0.0,text/plain": TEXT,
    ";;,=,application/\udcff": TEXT,
}
ROOT: Final = Path(__file__).resolve().parents[2]
NAMED: Final = re.compile(r"(?<![\w:])(tycho_[a-z0-9_]+)(?![\w:])([*{<]?)")
"""Names of metrics, but for those that recording rules make, which have colons."""
KEPLERS_OWN: Final[tuple[str, ...]] = ()
"""What promtool complains of in Kepler's names: nothing, so nothing may come."""


@pytest.fixture(scope="module")
def scrape() -> Scrape:
    """Return a scrape of a node that has everything."""
    return scrape_of(NODE, before=before_of(NODE))


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("names", NAMES)
def test_every_series_is_of_a_row_of_the_table(
    scrape: Scrape, names: MetricNames, accept: str
) -> None:
    """Type, labels and help are the table's, names are legal and no series is there twice."""
    families = families_of(text_of(scrape, names, accept))
    seen = Counter((s.name, tuple(sorted(s.labels.items()))) for f in families for s in f.samples)
    assert [one for one, count in seen.items() if count > 1] == []
    for family in families:
        for one in family.samples:
            row = row_of(one.name, family)
            assert set(one.labels) == set(row.labels), one
            assert re.fullmatch(r"[a-z][a-z0-9_]*", one.name)
            assert row.names == names or row.name.startswith("tycho_exporter_")
            assert family.documentation == row.help


def row_of(name: str, family: Metric) -> Family:
    """Return the row that a series is of, its type checked."""
    row = FAMILIES.get(name) or FAMILIES[name.replace("_created", "_total")]
    told = "gauge" if row.type == "info" else row.type  # the text format has no info
    assert family.type in (row.type, told)
    return row


def test_a_node_that_has_everything_has_every_row_of_the_table(scrape: Scrape) -> None:
    """What the manual lists does exist."""
    texts = [text_of(scrape, names) for names in NAMES]
    emitted = {one.name for text in texts for one in samples_of(text)}
    assert {row.name for row in METRICS} - emitted == set()


def test_names_and_units_of_the_table_follow_the_conventions() -> None:
    """Counters end in _total, facts in _info, and units are base units at the end of the name."""
    for row in METRICS:
        assert (row.type == "counter") == row.name.endswith("_total"), row.name
        assert row.type != "info" or row.name.endswith("_info")
        assert row.name.startswith(f"{row.names}_")
        assert not row.unit or f"_{row.unit}" in row.name
        assert not re.search(r"milli|micro|kilo|_ms$|_uj|percent", row.name)
        assert row.help.endswith(".")
        assert len(set(row.labels)) == len(row.labels)
    assert len({row.name for row in METRICS}) == len(METRICS)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_library_would_write_the_same(scrape: Scrape, accept: str) -> None:
    """Lines are written here for speed; read back they are what the library's encoder writes."""
    text = text_of(scrape, "tycho", accept)
    families = families_of(text)
    encode, _ = choose_encoder(accept)

    class Read:
        """The families that were read, for the library to write."""

        def collect(self) -> list[Metric]:
            return families

    again = families_of(encode(Read()).decode())
    assert [(f.name, f.type, f.unit) for f in again] == [(f.name, f.type, f.unit) for f in families]
    for one, other in zip(again, families, strict=True):
        assert [(s.name, s.labels, s.value) for s in one.samples] == [
            (s.name, s.labels, s.value) for s in other.samples
        ]


@pytest.mark.parametrize("names", NAMES)
def test_promtool_has_nothing_to_say(scrape: Scrape, names: MetricNames) -> None:
    """The linter of Prometheus finds no fault with names, types and help; it reads text alone."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    text = text_of(scrape, names)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "\n".join(KEPLERS_OWN))


@pytest.mark.parametrize("accept", ASKED)
def test_the_accept_header_chooses_one_of_two_formats(scrape: Scrape, accept: str) -> None:
    """Whatever a client sends, the type that it is told is that of what it gets."""
    content_type, body = Exposition(lambda: scrape).render(accept) or ("", b"")
    assert content_type == ASKED[accept]
    assert body.endswith(b"# EOF\n") == (content_type == OPENMETRICS)
    assert families_of(body.decode())


def test_counters_of_energy_tell_when_they_began(scrape: Scrape) -> None:
    """The node's with the counters, a workload's when it was first seen; gauges never."""
    text = text_of(scrape, accept=OPEN)
    began = {s.name: s.value for f in families_of(text) for s in f.samples if "_created" in s.name}
    since_s = NODE.since_ns / 1e9
    assert began["tycho_node_joules_created"] == since_s
    assert began["tycho_container_joules_created"] == made.LEAVES[0].first_seen_ns / 1e9
    assert began["tycho_pod_joules_created"] == made.LEAVES[0].first_seen_ns / 1e9
    assert not [name for name in began if "watts" in name or name.endswith("info_created")]
    assert not re.search(r"^\w+_created[ {]", text_of(scrape), re.MULTILINE)


def test_manual_rules_and_dashboard_name_metrics_that_exist() -> None:
    """Every name in them is of the table, or the begin of some where * or { follows it."""
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "etc").rglob("*")]
    found = {
        match
        for path in files
        if path.is_file()
        for match in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    known = {row.name for row in METRICS}
    wrong = [
        name
        for name, is_begin in found
        if name not in known and not (is_begin and any(one.startswith(name) for one in known))
    ]
    assert not wrong
    assert known - {name for name, _ in found} == {n for n in known if n.startswith("kepler_")}


def test_two_scrapers_of_one_window_see_the_same() -> None:
    """The text is made once, though status has moved on; a new window makes a new one."""
    told = [scrape_of(NODE)]
    exposition = Exposition(lambda: told[0])
    first = exposition.render("")
    older = told[0].status
    told[0] = told[0]._replace(status=dataclasses.replace(older, uptime_s=older.uptime_s + 1))
    assert exposition.render("") == first
    assert exposition.render("", "kepler") != first
    assert exposition.render("") == first

    told[0] = told[0]._replace(snapshot=dataclasses.replace(NODE, sequence=21))
    second = exposition.render("")
    assert second != first
    told[0] = scrape_of(NODE, dataclasses.replace(SETTINGS, levels=("node",)))
    third = exposition.render("")  # a reload counts at once
    assert third is not None
    assert b"tycho_pod" not in third[1]


def test_readers_of_two_snapshots_get_each_their_own() -> None:
    """Who may see less often gets the older window's text, never the newer one that is kept."""
    newer = scrape_of(dataclasses.replace(NODE, sequence=21))
    older = scrape_of(NODE)
    exposition = Exposition(lambda: None)
    texts = [
        exposition.text_of(one, "tycho", is_open=False) for one in (newer, older, newer, older)
    ]
    assert values_of(texts[1].decode(), "tycho_windows_total") == [20.0]
    assert texts[2:] == texts[:2]
    assert texts[0] != texts[1]


def test_texts_of_old_windows_are_let_go() -> None:
    """A daemon that was scraped for a day holds no more than after two windows."""
    bodies = []
    exposition = Exposition(lambda: None)
    tracemalloc.start()
    try:
        for sequence in range(20, 50):
            scrape = scrape_of(dataclasses.replace(NODE, sequence=sequence))
            bodies.append(len(exposition.text_of(scrape, "tycho", is_open=False)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 * max(bodies)


def test_before_the_first_window_there_is_no_text() -> None:
    """None, and not an empty text that would end every series."""
    assert Exposition(lambda: None).render("") is None


def test_many_scrapers_at_once_get_one_text(scrape: Scrape) -> None:
    """From many threads: each gets the same bytes, encoded once."""
    exposition = Exposition(lambda: scrape)
    found: list[tuple[str, bytes] | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(exposition.render(OPEN))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bodies = {id(one[1]) for one in found if one is not None}
    assert (len(found), len(bodies)) == (8, 1)


def test_rows_are_families_that_the_library_accepts() -> None:
    """Its constructor checks names, types and units, and appends a unit that a name lacks."""
    for row in METRICS:
        metric = empty_metric(row)
        assert row.name in (metric.name, f"{metric.name}_total", f"{metric.name}_info")
