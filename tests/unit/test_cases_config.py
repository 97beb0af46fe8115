"""Settings cases gathered from another program, where the idea carries over (TYCHOD_CASES).

That program reads YAML and has other settings, so a row carries over as an idea: the same kind of
mistake made in a setting of ours.  `CARRIED` says which of ours stands for a row; `LEFT` says why a
row has no counterpart.  A row in neither fails, so that new cases are looked at.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tychod.settings import Arguments, SettingsError, load_settings


class Carried(NamedTuple):
    """Our settings file for a row, and a part of the problem; "" where it is accepted."""

    text: str
    message: str


CARRIED: Final = {
    "monitor: {maxTerminated: 0}": Carried("[workloads]\nterminated_max = 0\n", ""),
    # Theirs: a list of meters in order of preference. Ours: the zones to read, empty means all.
    "cpu: {preferredMeters: []}": Carried("[rapl]\nzones = []\n", ""),
    "exporter: {prometheus: {metricsLevel: [node, gpu]}}": Carried(
        "[log]\nlevel = 'chatty'\n", "log.level: 'chatty' is not one of"
    ),
    "experimental: {gpu: {enabled: true, dcgmEndpoint: 'ftp://h'}}": Carried(
        "[kubelet]\nendpoint = 'ftp://h'\n", "kubelet.endpoint: is not an address such as https://"
    ),
    # Theirs checks only what is in use. Ours checks always: what is wrong now fails later.
    "experimental: {gpu: {enabled: false, dcgmEndpoint: 'ftp://h'}}": Carried(
        "[kubelet]\nenabled = false\nendpoint = 'ftp://h'\n", "kubelet.endpoint: "
    ),
    "log: [": Carried("log = [", "is not valid TOML: "),
    # Unknown keys: theirs warns once and starts, ours refuses and names the nearest setting.
    "cpu: {meters: [hwmon]}\n": Carried(
        "[rapl]\nzone = ['package']\n", "rapl.zone: unknown setting; did you mean 'zones'?"
    ),
    "log: {level: debug}\nmonitor: {interval: 5s}\n"
    "experimental: {gpu: {enabled: true, idlePower: 30}}\n": Carried(
        "[log]\nlevel = 'debug'\n[window]\nlength = 5\n[model]\nenabled = true\n"
        "idle_w_per_cpu = 30\n",
        "",
    ),
}
PORTS: Final = (":99999", ":0", ":abc")
LEFT: Final = {
    "web: {configFile: /no/such}": "there is no web server to configure",
    "cpu: {preferredMeters: [hwmon]}": "meters are not chosen by order of preference",
    "exporter: {prometheus: {debugCollectors: [bad]}}": "there are no debug collectors",
}
LEFT_TABLES: Final = {
    "metrics_level_cases": "there is no exporter whose level could be chosen",
    "meter_selection_cases": "every meter is read, and the model stands in only where none is",
}


@pytest.fixture(scope="module")
def cases(cases_dir: Path) -> dict[str, Any]:
    """Return the tables of cases."""
    loaded: dict[str, Any] = json.loads((cases_dir / "config_validation.json").read_text())
    return loaded


def problems_in(directory: Path, text: str) -> str:
    """Return the problems of one settings file, joined; "" when it is accepted."""
    path = directory / "tychod.toml"
    path.write_text(text)
    try:
        load_settings(Arguments(config=str(path)), {})
    except SettingsError as error:
        return "\n".join(error.problems)
    return ""


def test_validation_rows(cases: dict[str, Any], tmp_path: Path) -> None:
    """Each kind of mistake ends as the table of what carries over says."""
    rows = [row["yaml"] for row in [*cases["cases"], *cases["unknown_key_cases"]]]

    assert [row for row in rows if row not in CARRIED and row not in LEFT] == []
    for row in rows:
        if row in CARRIED:
            text, message = CARRIED[row]
            found = problems_in(tmp_path, text)
            assert message in found, row
            assert bool(found) is bool(message), row


def test_accepted_rows_are_accepted_by_both(cases: dict[str, Any]) -> None:
    """Where ours differs from theirs, a comment in the table says so: these are all such rows."""
    theirs = {row["yaml"]: row["error_contains"] is None for row in cases["cases"]}
    theirs |= {row["yaml"]: True for row in cases["unknown_key_cases"]}

    differing = [row for row, ours in CARRIED.items() if theirs[row] != (ours.message == "")]

    assert differing == [
        "cpu: {preferredMeters: []}",
        "experimental: {gpu: {enabled: false, dcgmEndpoint: 'ftp://h'}}",
        "cpu: {meters: [hwmon]}\n",
    ]


def test_port_rows(cases: dict[str, Any], tmp_path: Path) -> None:
    """A port out of range, zero or no number is refused in an address.

    We listen on no port: rows about lists, empty hosts and a bare colon have no counterpart.
    """
    rows = {
        row["addresses"][0]: row["error_contains"]
        for row in cases["listen_address_cases"]
        if len(row["addresses"]) == 1
    }

    assert set(PORTS) <= set(rows)
    for address in (":8080", "localhost:8080", "[::1]:8080", *PORTS):
        host = "127.0.0.1" if address.startswith(":") else ""
        found = problems_in(tmp_path, f"[kubelet]\nendpoint = 'https://{host}{address}'\n")
        assert bool(found) is (rows[address] is not None), address


def test_every_table_is_looked_at(cases: dict[str, Any]) -> None:
    """A table that appears later is carried over or left out for a reason."""
    tables = {name for name, value in cases.items() if isinstance(value, list)}

    assert tables == {"cases", "unknown_key_cases", "listen_address_cases", *LEFT_TABLES}
