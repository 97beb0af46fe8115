"""The declared settings: complete, consistent, and equal to the files generated from them."""

import re
import tomllib
from dataclasses import replace
from typing import get_args

import pytest

from docs.generate import ROOT, generated
from tychod.config import Config, Kubelet
from tychod.config_text import render_default
from tychod.conflicts import PATHS, endpoint_problem, is_loopback, problems_between
from tychod.frames import ErrorCode
from tychod.runtime.facts import params_of, with_keys
from tychod.schema import check_value, fields_of, load, to_plain, walk
from tychod.settings import variable_name

KEYS = [key for key, _ in walk(Config)]


def with_values(**sections: dict[str, object]) -> Config:
    """Return the defaults with some values changed."""
    changed = {
        name: replace(getattr(Config(), name), **values)  # type: ignore[arg-type]
        for name, values in sections.items()
    }
    return replace(Config(), **changed)  # type: ignore[arg-type]


def test_the_defaults_are_valid() -> None:
    """A machine without any settings file starts."""
    assert problems_between(Config()) == []
    assert load(Config, to_plain(Config())) == (Config(), [])


@pytest.mark.parametrize(("key", "spec"), list(walk(Config)), ids=KEYS)
def test_every_setting_is_explained(key: str, spec: object) -> None:
    """Each setting has a sentence, a section, and a default within its own range."""
    declared = dict(walk(Config))[key]

    assert declared == spec
    assert declared.doc.endswith(".")
    assert key.count(".") == 1
    assert check_value(declared.default, declared.type, declared.limits) == (declared.default, "")


def test_every_number_is_limited() -> None:
    """A number without a range would let a typing mistake through."""
    numbers = [spec for _, spec in walk(Config) if spec.type in (int, float)]

    assert numbers
    assert [spec.name for spec in numbers if spec.limits is None] == []


def test_environment_variables_are_unambiguous() -> None:
    """No two settings share a variable."""
    assert len({variable_name(key) for key in KEYS}) == len(KEYS)


def test_the_listed_paths_are_settings() -> None:
    """The table of paths follows a renamed setting."""
    assert set(PATHS) <= set(KEYS)


def test_the_default_file_uncommented_is_the_defaults() -> None:
    """What the packaged file shows is what holds without it."""
    lines = [re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in render_default().splitlines()]
    data = tomllib.loads("\n".join(lines))

    assert data == to_plain(Config())


def test_the_default_file_changes_nothing() -> None:
    """As packaged, every value is commented out: an upgrade can change a default."""
    data = tomllib.loads(render_default())

    assert data == {spec.name: {} for spec in fields_of(Config)}


def test_the_default_file_fits_a_terminal() -> None:
    """Lines are at most 100 characters wide and carry no trailing blanks."""
    lines = render_default().splitlines()

    assert [line for line in lines if len(line) > 100 or line != line.rstrip()] == []


@pytest.mark.parametrize("path", list(generated()))
def test_generated_files_are_current(path: str) -> None:
    """`python3 -m docs.generate` has been run since the declarations changed."""
    assert (ROOT / path).read_text(encoding="utf-8") == generated()[path]


def test_the_protocol_page_names_every_error() -> None:
    """A program's author finds each code that the daemon may answer with."""
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")

    assert [code for code in get_args(ErrorCode) if f"| `{code}` |" not in page] == []


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (with_values(window={"length": 60.0}), "window.history"),
        (with_values(window={"length": 1.5}, accounting={"cgroup_interval": 1.0}), None),
        (with_values(kubelet={"client_cert_file": "/c"}), "kubelet.client_key_file"),
        (with_values(kubelet={"client_key_file": "/k"}), "kubelet.client_key_file"),
        (with_values(kubelet={"client_cert_file": "/c", "client_key_file": "/k"}), ""),
        (with_values(kubelet={"verify_tls": False}), ""),
        (with_values(workloads={"firework_status": "http://127.0.0.1:8080"}), ""),
        (
            with_values(workloads={"firework_status": "http://agent:8080"}),
            "workloads.firework_status",
        ),
        (
            with_values(workloads={"firework_status": "https://127.0.0.1:8080"}),
            "workloads.firework_status",
        ),
        (with_values(workloads={"firework_status": "http://localhost:8080/"}), ""),
        (
            with_values(workloads={"firework_status": "http://127.0.0.1:8080/status"}),
            "workloads.firework_status",
        ),
        (
            with_values(workloads={"firework_status": "http://u:secret@127.0.0.1"}),
            "workloads.firework_status",
        ),
        (
            with_values(kubelet={"verify_tls": False, "endpoint": "https://node-1:10250"}),
            "kubelet.verify_tls",
        ),
        (with_values(kubelet={"endpoint": "https://node-1:10250"}), ""),
        (with_values(kubelet={"endpoint": "http://127.0.0.1:10255"}), "kubelet.endpoint"),
        (with_values(kubelet={"token_file": "token"}), "kubelet.token_file"),
        (with_values(host={"procfs": ""}), "host.procfs"),
        (with_values(host={"sysfs": "sys"}), "host.sysfs"),
        (with_values(control={"socket": "tychod.sock"}), "control.socket"),
    ],
)
def test_conflicts_are_found(config: Config, path: str | None) -> None:
    """Settings that do not fit together name the one to change; "" means that they fit."""
    expected = [] if path == "" else [path or "accounting.cgroup_interval"]

    assert [conflict.path for conflict in problems_between(config)] == expected


@pytest.mark.parametrize(
    ("endpoint", "good"),
    [
        ("https://127.0.0.1:10250", True),
        ("https://[::1]:10250/", True),
        ("https://node-1", True),
        ("https://node-1:99999", False),
        ("https://node-1:0", False),
        ("https://[::1", False),
        ("https://", False),
        ("node-1:10250", False),
        ("", False),
        ("https://user:pass@node-1:10250", False),
        ("https://node-1:10250?token=pass", False),
        ("ftp://user:pass@node-1", False),
    ],
)
def test_the_endpoint_is_checked_and_never_repeated(endpoint: str, good: bool) -> None:
    """A malformed address is a message, not a traceback, and a password in it is not shown."""
    message = endpoint_problem(endpoint)

    assert (message == "") is good
    assert "pass" not in message


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - an address to judge, nothing listens
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    """Unverified TLS is for this very machine only."""
    assert is_loopback(host) is loopback


def test_the_kubelet_is_verified_by_default() -> None:
    """Nobody has to ask for safety."""
    assert Kubelet().verify_tls


def test_a_reload_changes_who_gets_idle_energy() -> None:
    """The next window follows the new policy; how interrupts are counted waits for a restart."""
    fresh = with_values(attribution={"idle": "equal", "irq": "interrupted"})
    live = [key for key, spec in walk(Config) if not spec.restart]
    config = with_keys(Config(), fresh, live)

    params = params_of(config, 4, 2**30)

    assert (params.idle_policy, params.memory_bytes, params.cpus) == ("equal", 2**30, 4)
    assert config.attribution.irq == "kernel"


def test_a_reload_makes_no_counter_of_the_metrics_fall() -> None:
    """A larger quantum would round a counter that was shown to less than it was."""
    fresh = with_values(metrics={"energy_quantum": 1.0, "max_series": 200})
    live = [key for key, spec in walk(Config) if not spec.restart]
    metrics = with_keys(Config(), fresh, live).metrics

    assert (metrics.energy_quantum, metrics.max_series) == (0.01, 200)
