"""What is ready-made for Prometheus and Grafana asks for what is served, and works."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tychod.exposition.table import FAMILIES, METRICS

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "etc/prometheus/tychod.rules.yml"
DASHBOARDS: Final = sorted((ROOT / "etc/grafana").glob("*.json"))
RULE_TESTS: Final = sorted((ROOT / "tests/fixtures/prometheus").glob("*.test.yml"))
VARIABLES: Final = {
    "$instance": ".*", "$namespace": ".*", "$top": "10",
    "$__rate_interval": "5m", "$__range": "1h",
}  # fmt: skip
OF_PROMETHEUS: Final = {"up", "scrape_duration_seconds"}
TARGET_LABELS: Final = {"job", "instance"}
"""What Prometheus gives every series by itself."""
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus"
)


class Query(NamedTuple):
    """One expression, and where it stands."""

    place: str
    text: str


def read_rules() -> Iterator[Query]:
    """Yield the rules: `expr:` with one line, or with the deeper lines below it."""
    lines = RULES.read_text(encoding="utf-8").splitlines()
    name = ""
    for number, line in enumerate(lines):
        found = re.match(r" +- (?:record|alert): (\S+)$", line)
        name = found[1] if found else name
        if found := re.match(r"( +)expr: (.*)$", line):
            deeper = found[1] + "  "
            rest = [found[2].removeprefix("|")]
            for other in lines[number + 1 :]:
                if not other.startswith(deeper):
                    break
                rest.append(other.strip())
            yield Query(name, " ".join(rest).strip())


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, those inside rows too."""
    return [*board["panels"], *(p for row in board["panels"] for p in row.get("panels", ()))]


def read_dashboard(path: Path) -> Iterator[Query]:
    """Yield the queries of a dashboard, of its variables too, with values for its variables."""
    board = json.loads(path.read_text(encoding="utf-8"))
    for panel in panels_of(board):
        for target in panel.get("targets", ()):
            yield Query(f"{path.name}: {panel['title']}", filled(target["expr"]))
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            yield Query(f"{path.name}: ${one['name']}", filled(one["query"]["query"]))


def filled(text: str) -> str:
    """Put values for a dashboard's variables into a query."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


RULE_QUERIES: Final = list(read_rules())
BOARD_QUERIES: Final = [query for path in DASHBOARDS for query in read_dashboard(path)]
ALL_QUERIES: Final = [*RULE_QUERIES, *BOARD_QUERIES]
RECORDED: Final = {query.place: query for query in RULE_QUERIES if ":" in query.place}
LABELS: Final[dict[str, set[str]]] = {
    **{family.name: {*family.labels, *TARGET_LABELS} for family in METRICS},
    **dict.fromkeys(OF_PROMETHEUS, TARGET_LABELS),
}
SERIES: Final = re.compile(r"(?<![\w:$\"])([a-z_][\w:]*)\s*(?:\{([^}]*)\})?(?!\s*\()(?![\w:])")
GROUPED: Final = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WORDS: Final = {"or", "and", "unless", "bool", "offset"}


def series_of(text: str) -> dict[str, set[str]]:
    """Return the metrics that an expression names, each with the labels that it asks for."""
    found: dict[str, set[str]] = {}
    asked = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
    bare = GROUPED.sub(" ", asked[1] if asked else text)
    for match in SERIES.finditer(re.sub(r"\[[^]]*\]", "", bare)):
        if match[1] not in WORDS:
            labels = set(re.findall(r"(\w+)\s*[!=]", match[2] or ""))
            found.setdefault(match[1], set()).update(labels | ({asked[2]} if asked else set()))
    return found


def known_labels(name: str) -> set[str]:
    """Return the labels of a metric or of what a rule records; none: there is no such thing."""
    if name in RECORDED:
        text = RECORDED[name].text
        kept = re.match(r"\w+ by \(([^)]*)\)", text)
        return set(re.split(r",\s*", kept[1])) if kept else all_labels(text)
    return LABELS.get(name, set())


def all_labels(text: str) -> set[str]:
    """Return the labels of all that an expression names."""
    return set().union(*(known_labels(name) for name in series_of(text)))


@pytest.mark.parametrize("query", ALL_QUERIES, ids=lambda query: query.place)
def test_every_query_asks_for_what_is_served(query: Query) -> None:
    """Metrics and labels of rules and dashboards are in the table of metrics, or recorded."""
    found = series_of(query.text)
    assert found, query.text
    for name, labels in found.items():
        assert known_labels(name), f"{name}: no such metric"
        assert labels <= known_labels(name), f"{name} has no {labels - known_labels(name)}"
    for word, labels_text in GROUPED.findall(query.text):
        labels = set(filter(None, re.split(r",\s*", labels_text)))
        assert labels <= all_labels(query.text), f"{word} ({labels_text})"


def test_names_and_labels_are_found_in_queries() -> None:
    """The reading above sees what a query asks for: it would not pass one that asks wrongly."""
    text = 'topk(3, sum by (pod) (rate(a_total{x="1",y!~"b.*"}[5m])) / (c > 0.1)) or n:b:rate1h'

    assert series_of(text) == {"a_total": {"x", "y"}, "c": set(), "n:b:rate1h": set()}
    assert series_of("label_values(a_info, node)") == {"a_info": {"node"}}
    assert known_labels("namespace:tycho_pod_watts:sum") == {"namespace"}
    assert known_labels("tycho_nothing") == set()


def test_counters_are_asked_for_growth_and_nothing_else_is() -> None:
    """rate and increase are taken of counters; a counter's sum is shown where it counts faults."""
    for query in ALL_QUERIES:
        for name in re.findall(r"(?:rate|increase)\((\w+)", query.text):
            assert FAMILIES[name].type == "counter", query.place
        rest = re.sub(r"(?:rate|increase)\(\w+(?:\{[^}]*\})?\[\w+\]\)", "", query.text)
        for name in re.findall(r"\w+_total\b", rest):
            assert "violations" in name, query.place


def test_growth_leaves_out_what_is_past() -> None:
    """What `past` grows by was counted before as that of others: no growth has it in."""
    found = re.findall(
        r"tycho_other_\w+_total(\{[^}]*\})", "\n".join(query.text for query in ALL_QUERIES)
    )

    assert found
    for selector in found:
        assert re.search(r'workload(="(?!past)|!="past")', selector), selector


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_is_sound(path: Path) -> None:
    """Panels have ids of their own, do not overlap, and ask the source that is chosen above."""
    board = json.loads(path.read_text(encoding="utf-8"))
    panels = panels_of(board)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not taken & cells, f"{panel['title']} lies over another panel"
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert board["uid"]
    assert board["title"]
    named = {f"${one['name']}" for one in board["templating"]["list"]} | set(VARIABLES)
    text = json.dumps(panels).replace("${datasource}", "$datasource")
    assert set(re.findall(r"\$\w+", text)) <= named


def test_every_alert_tells_what_to_do() -> None:
    """Each alert has a severity, a summary, and a description that names a next step."""
    alerts = re.split(r"\n +- alert: ", RULES.read_text(encoding="utf-8"))[1:]

    for text in alerts:
        for part in ("labels: {severity:", "summary:", "description:"):
            assert part in text, text
        assert re.search(r"tychoctl|tychod|\[\w+\]", text.partition("description:")[2]), text


def test_every_rule_has_a_case() -> None:
    """No alert without a moment at which it fires, no recording without an expected value."""
    cases = "\n".join(path.read_text(encoding="utf-8") for path in RULE_TESTS)
    firing = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", cases))
    valued = set(re.findall(r"expr: (\w+:\w+:\w+)", cases))

    assert {query.place for query in RULE_QUERIES} - set(RECORDED) == firing
    assert set(RECORDED) - valued <= {"instance:tycho_unattributed_joules:ratio_rate15m"}  # alerted


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """promtool finds nothing wrong with the rules, and its test cases come out."""
    run_promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    run_promtool("test", "rules", *map(str, RULE_TESTS))


@needs_promtool
def test_prometheus_takes_the_scrape_example() -> None:
    """The example is a valid configuration, but for the rules' place on another machine."""
    run_promtool("check", "config", "--syntax-only", str(ROOT / "etc/prometheus/scrape.yml"))


@needs_promtool
def test_prometheus_takes_every_query_of_the_dashboards(tmp_path: Path) -> None:
    """Each query of a dashboard parses, as a rule would."""
    rules = [
        {"record": f"query:number{number}", "expr": query.text}
        for number, query in enumerate(BOARD_QUERIES)
        if "label_values" not in query.text
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))

    run_promtool("check", "rules", str(path))


def run_promtool(*argv: str) -> None:
    """Run promtool; its own words where it is not content."""
    done = subprocess.run(
        ("promtool", *argv), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
