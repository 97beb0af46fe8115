"""Settings from real files and an environment: precedence, origins, and every mistake named."""

import argparse
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tychod.config import Config
from tychod.conflicts import problems_between
from tychod.schema import fields_of, load, to_plain, walk
from tychod.settings import (
    DEFAULT_DIR,
    Arguments,
    Settings,
    SettingsError,
    add_arguments,
    arguments_from,
    changes,
    check_config,
    load_settings,
    one_line,
    plain,
    render_summary,
    variable_name,
)

try:
    tomllib.loads("[log\n")
except tomllib.TOMLDecodeError as exc:
    SYNTAX_ERROR = str(exc)  # its words are the Python version's

ALL_KEYS = [key for key, _ in walk(Config)]


def write(directory: Path, files: Mapping[str, str]) -> Arguments:
    """Write files below a directory and return the arguments that name it."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Arguments(config_dir=str(directory))


def outcome_of(args: Arguments, environ: Mapping[str, str]) -> Settings | tuple[str, ...]:
    """Return the settings, or the problems."""
    try:
        return load_settings(args, environ)
    except SettingsError as error:
        return error.problems


def problems(args: Arguments, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems found in settings that must not load."""
    outcome = outcome_of(args, environ or {})
    assert not isinstance(outcome, Settings)
    return list(outcome)


def found(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems of one file, its directory left out."""
    lines = problems(write(directory, {"tychod.toml": text}), environ)
    return [line.replace(f"{directory}/", "") for line in lines]


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults, file, conf.d in name order, environment, flags; each value has its origin."""
    args = write(
        tmp_path,
        {
            "tychod.toml": "[rapl]\ninterval = 0.1\nzones = ['a']\n[kubelet]\ntimeout = 1\n",
            "conf.d/20-b.toml": "[rapl]\nzones = ['c']\n[window]\nlength = 4\n",
            "conf.d/10-a.toml": "[rapl]\nzones = ['b']\n[window]\nlength = 5\nhistory = 60\n",
        },
    )
    environ = {"TYCHOD_WINDOW_HISTORY": "70", "TYCHOD_KUBELET_TIMEOUT": "2.5"}
    args = args._replace(flags={"kubelet.timeout": ("--kubelet-timeout", 3.5)})

    settings = load_settings(args, environ)

    config, origins = settings.config, settings.origins
    assert (config.rapl.interval, config.rapl.zones) == (0.1, ("c",))
    assert (config.window.length, config.window.history) == (4.0, 70.0)
    assert config.kubelet.timeout == 3.5
    assert origins["rapl.interval"] == f"{tmp_path}/tychod.toml"
    assert origins["rapl.zones"] == f"{tmp_path}/conf.d/20-b.toml"
    assert origins["window.history"] == "environment TYCHOD_WINDOW_HISTORY"
    assert origins["kubelet.timeout"] == "--kubelet-timeout"
    assert origins["log.level"] == "default"
    assert list(origins) == ALL_KEYS
    assert settings.files == tuple(
        f"{tmp_path}/{name}" for name in ("tychod.toml", "conf.d/10-a.toml", "conf.d/20-b.toml")
    )


def test_without_files_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default file that does not exist is no mistake."""
    monkeypatch.setattr("tychod.settings.DEFAULT_DIR", str(tmp_path / "none"))

    settings = load_settings(Arguments(), {"HOME": "/root"})

    assert settings == Settings(Config(), dict.fromkeys(ALL_KEYS, "default"), (), ())


def test_the_default_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flags, tychod.toml and conf.d of the default directory count, each if it is there."""
    assert DEFAULT_DIR == "/etc/tychod"
    monkeypatch.setattr("tychod.settings.DEFAULT_DIR", str(tmp_path))
    write(tmp_path, {"conf.d/a.toml": "[log]\nlevel = 'debug'\n"})

    assert load_settings(Arguments(), {}).config.log.level == "debug"

    write(tmp_path, {"tychod.toml": "[log]\nlevel = 'error'\n[window]\nlength = 2\n"})
    config = load_settings(Arguments(), {}).config

    assert (config.log.level, config.window.length) == ("debug", 2.0)


def test_config_replaces_the_file_only(tmp_path: Path) -> None:
    """--config takes conf.d from beside it, or from --config-dir where that is given as well."""
    write(tmp_path, {"etc/tychod.toml": "[window]\nlength = 2\n"})
    write(tmp_path, {"etc/conf.d/a.toml": "[window]\nhistory = 20\n"})
    write(tmp_path, {"my/own.toml": "[window]\nlength = 5\n"})
    write(tmp_path, {"my/conf.d/a.toml": "[window]\nhistory = 50\n"})
    own, directory = str(tmp_path / "my/own.toml"), str(tmp_path / "etc")

    alone = load_settings(Arguments(config=own), {}).config.window
    both = load_settings(Arguments(config=own, config_dir=directory), {}).config.window

    assert (alone.length, alone.history) == (5.0, 50.0)
    assert (both.length, both.history) == (5.0, 20.0)


def test_drop_ins_are_toml_files_that_show(tmp_path: Path) -> None:
    """Backups, hidden files and other names in conf.d are not settings."""
    args = write(
        tmp_path,
        {
            "tychod.toml": "",
            "conf.d/.hidden.toml": "broken",
            "conf.d/a.toml~": "broken",
            "conf.d/README": "broken",
        },
    )

    assert load_settings(args, {}).files == (f"{tmp_path}/tychod.toml",)


def test_the_command_line(tmp_path: Path) -> None:
    """The flags of the daemon name the files."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    file, directory = str(tmp_path / "a.toml"), str(tmp_path)

    assert arguments_from(parser.parse_args([])) == Arguments()
    assert arguments_from(parser.parse_args(["--config", file])) == Arguments(file)
    assert arguments_from(parser.parse_args(["--config-dir", directory])) == Arguments(
        None, directory
    )


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """One start shows every mistake in every file, in the environment, and between settings."""
    args = write(
        tmp_path,
        {
            "tychod.toml": "[rapl]\nintervall = 1\ninterval = 99\n[kubelt]\ntimeout = 1\n",
            "conf.d/a.toml": "[window]\nlength = 60\n",
            "conf.d/b.toml": "[log\n",
        },
    )
    environ = {"TYCHOD_LOG_LEVEL": "loud"}

    lines = [line.replace(f"{tmp_path}/", "") for line in problems(args, environ)]

    assert lines == [
        "tychod.toml: kubelt: unknown section; did you mean 'kubelet'?",
        "tychod.toml: rapl.intervall: unknown setting; did you mean 'interval'?",
        "tychod.toml: rapl.interval: 99.0 is not within 0.01..1",
        f"conf.d/b.toml: is not valid TOML: {SYNTAX_ERROR}",
        (
            "environment TYCHOD_LOG_LEVEL: log.level: "
            "'loud' is not one of 'debug', 'info', 'warning', 'error'"
        ),
        "conf.d/a.toml: window.history: must be at least twice window.length, which is 60",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("interval = 1\n", "interval: unknown setting"),
        ("rapl = 3\n", "rapl: expected a table, got 3"),
        ("[[rapl]]\ninterval = 1\n", "rapl: expected a table, got [{'interval': 1}]"),
        ("[rapl]\nzones = 'package'\n", "rapl.zones: expected a list, got 'package'"),
        ("[rapl]\nzones = ['a', 3]\n", "rapl.zones: item 2: expected a string, got 3"),
        ("[rapl.extra]\nx = 1\n", "rapl.extra: unknown section"),
        ("[rapl]\ninterval = inf\n", "rapl.interval: inf is not a finite number"),
        (
            "[rapl]\ninterval = 07:32:00\n",
            "rapl.interval: expected a number, got datetime.time(7, 32)",
        ),
        (
            '[host]\nprocfs = "/pr\\u0000oc"\n',
            "host.procfs: holds a character that cannot be printed: '/pr\\x00oc'",
        ),
        (
            '[rapl]\nzones = ["a\\nb"]\n',
            "rapl.zones: holds a character that cannot be printed: 'a\\nb'",
        ),
        ("[kubelet]\nendpoint = ''\n", "kubelet.endpoint: is not an address such as"),
        ('"a\\nb" = 1\n', "'a\\nb': unknown setting"),
        ("x = " + "[" * 3000 + "]" * 3000, ""),
        ("x = " + "9" * 5000, "is not valid TOML: Exceeds the limit"),
        ("[rapl]\ninterval = 0x" + "f" * 5000, "rapl.interval: inf is not a finite number"),
        ("[rapl]\n[rapl]\n", "is not valid TOML: "),
    ],
)
def test_a_bad_file_is_one_line_that_says_what(tmp_path: Path, text: str, line: str) -> None:
    """No text in a file raises anything else, or makes a message that is longer than a line."""
    lines = found(tmp_path, text)

    assert len(lines) == 1
    assert lines[0].startswith(f"tychod.toml: {line}")
    assert lines[0].isprintable()


def test_a_conflict_blames_what_was_set(tmp_path: Path) -> None:
    """The place is that of the setting somebody made, and the message names the other one."""
    lines = found(tmp_path, "[window]\nlength = 1\n", {"TYCHOD_ACCOUNTING_CGROUP_INTERVAL": "2"})

    assert lines == [
        (
            "environment TYCHOD_ACCOUNTING_CGROUP_INTERVAL: accounting.cgroup_interval: "
            "must be at most half of window.length, which is 1"
        )
    ]


def test_a_conflict_with_a_wrong_value_is_not_invented(tmp_path: Path) -> None:
    """While a key has no usable value, nothing is said about how it fits to others."""
    lines = found(tmp_path, "[kubelet]\nclient_cert_file = '/c'\nclient_key_file = 7\n")

    assert lines == ["tychod.toml: kubelet.client_key_file: expected a string, got 7"]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Some editors write one."""
    args = write(tmp_path, {"tychod.toml": "\ufeff[window]\nlength = 2\n"})

    assert load_settings(args, {}).config.window.length == 2.0


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """Missing, directory, not UTF-8: one line each, with file and remedy."""
    missing, folder, latin = tmp_path / "none.toml", tmp_path / "folder", tmp_path / "latin.toml"
    folder.mkdir()
    latin.write_bytes(b"# caf\xe9\n")

    assert problems(Arguments(config=str(missing))) == [
        f"{missing}: cannot be read: No such file or directory; create it or name another"
    ]
    assert problems(Arguments(config=str(folder))) == [
        f"{folder}: cannot be read: Is a directory; name a file (--config-dir takes a directory)"
    ]
    assert problems(Arguments(config=str(latin))) == [
        f"{latin}: is not UTF-8 text (byte 5); save it as UTF-8"
    ]
    assert problems(Arguments(config_dir=str(missing))) == [
        f"{missing}: no such directory; check --config-dir"
    ]
    assert problems(Arguments(config_dir=str(folder))) == [
        (
            f"{folder}/tychod.toml: cannot be read: No such file or directory; "
            f"create it or name another"
        )
    ]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe or a device would hang who reads it; a link to /dev/null is an empty file."""
    pipe, main = tmp_path / "pipe.toml", tmp_path / "tychod.toml"
    os.mkfifo(pipe)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/x.toml").symlink_to("/dev/zero")
    (tmp_path / "conf.d/y.toml").symlink_to(pipe)
    main.symlink_to("/dev/null")
    told = "cannot be read: is no regular file; name a file (--config-dir takes a directory)"

    assert problems(Arguments(config=str(pipe), config_dir=str(tmp_path))) == [
        f"{pipe}: {told}",
        f"{tmp_path}/conf.d/x.toml: {told}",
        f"{tmp_path}/conf.d/y.toml: {told}",
    ]
    for path in (tmp_path / "conf.d").iterdir():
        path.unlink()
    assert load_settings(Arguments(config_dir=str(tmp_path)), {}).files == (str(main),)


def test_conf_d_that_is_a_file_is_named(tmp_path: Path) -> None:
    """Drop-ins that cannot be listed are not silently left out."""
    args = write(tmp_path, {"tychod.toml": "", "conf.d": ""})

    assert problems(args) == [
        f"{tmp_path}/conf.d: cannot be listed: Not a directory; make it a directory of .toml files"
    ]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_file_the_daemon_may_not_read_is_named(run_name: str) -> None:
    """A settings file that only root can read is told, not passed over."""
    with tempfile.TemporaryDirectory(prefix=run_name) as directory:
        args = write(Path(directory), {"tychod.toml": "[window]\nlength = 2\n"})
        Path(directory).chmod(0o755)
        Path(directory, "tychod.toml").chmod(0o600)
        os.seteuid(65534)
        try:
            lines = problems(args)
        finally:
            os.seteuid(0)

    assert lines == [
        (
            f"{directory}/tychod.toml: cannot be read: Permission denied; "
            f"let the user that runs tychod read it"
        )
    ]


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("TYCHOD_RAPL_ENABLED", "auto", "auto"),
        ("TYCHOD_RAPL_ENABLED", " no ", False),
        ("TYCHOD_RAPL_ENABLED", "TRUE", True),
        ("TYCHOD_KUBELET_VERIFY_TLS", "0", False),
        ("TYCHOD_KUBELET_VERIFY_TLS", "on", True),
        ("TYCHOD_RAPL_INTERVAL", " 0.1 ", 0.1),
        ("TYCHOD_KUBELET_READ_ONLY_PORT", "10255", 10255),
        ("TYCHOD_RAPL_ZONES", "package, dram,", ("package", "dram")),
        ("TYCHOD_RAPL_ZONES", "", ()),
        ("TYCHOD_KUBELET_NODE_NAME", "", ""),
        ("TYCHOD_HOST_PROCFS", "/host/proc", "/host/proc"),
        ("TYCHOD_LOG_LEVEL", "debug", "debug"),
    ],
)
def test_the_environment_is_read_by_declared_type(
    tmp_path: Path, variable: str, text: str, value: object
) -> None:
    """A text becomes what its setting declares."""
    settings = load_settings(write(tmp_path, {"tychod.toml": ""}), {variable: text})

    set_here = [item for item in plain(settings) if item["origin"] == f"environment {variable}"]
    assert [item["value"] for item in set_here] == [
        list(value) if value.__class__ is tuple else value
    ]


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("TYCHOD_RAPL_ENABLED", "maybe", "expected true, false or \"auto\", got 'maybe'"),
        ("TYCHOD_RAPL_INTERVAL", "fast", "expected a number, got 'fast'"),
        ("TYCHOD_RAPL_INTERVAL", "", "expected a number, got ''"),
        ("TYCHOD_RAPL_INTERVAL", "nan", "nan is not a finite number"),
        ("TYCHOD_RAPL_INTERVAL", "50", "50.0 is not within 0.01..1"),
        ("TYCHOD_KUBELET_READ_ONLY_PORT", "1.5", "expected a whole number, got '1.5'"),
        ("TYCHOD_KUBELET_READ_ONLY_PORT", "9" * 5000, "expected a whole number, got '9999"),
        ("TYCHOD_HOST_PROCFS", "/a\nb", "holds a character that cannot be printed: '/a\\nb'"),
        ("TYCHOD_HOST_PROCFS", "/a\udcff", "holds a character that cannot be printed: '/a\\udcff'"),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, variable: str, text: str, message: str) -> None:
    """A value that does not fit names variable and key and ends the start."""
    lines = found(tmp_path, "", {variable: text})

    key = variable.removeprefix("TYCHOD_").lower().replace("_", ".", 1)
    assert len(lines) == 1
    assert lines[0].startswith(f"environment {variable}: {key}: {message}")


def test_other_variables_never_stop_a_start(tmp_path: Path) -> None:
    """The prefix is not ours alone: what looks like a setting warns, the rest is let be."""
    environ = {
        "TYCHOD_KUBELET_CAPTURES": "/x",
        "TYCHOD_RAPL_INTERVALL": "1",
        "TYCHOD_KUBELT_TIMEOUT": "1",
        "TYCHOD_SOCKET": "/y",
        "TYCHOD_CASES": "/z",
        "TYCHOD_NODEBOX": "/n",
        "TYCHOD_": "",
        "TYCHOD_LOG_\n": "",
    }
    settings = load_settings(write(tmp_path, {"tychod.toml": ""}), environ)

    assert settings.config == Config()
    assert settings.warnings == (
        "environment TYCHOD_KUBELET_CAPTURES: not a setting, ignored",
        (
            "environment TYCHOD_KUBELT_TIMEOUT: not a setting, ignored; "
            "did you mean TYCHOD_KUBELET_TIMEOUT?"
        ),
        "environment TYCHOD_LOG_\\n: not a setting, ignored",
        (
            "environment TYCHOD_RAPL_INTERVALL: not a setting, ignored; "
            "did you mean TYCHOD_RAPL_INTERVAL?"
        ),
    )


def test_plain_lists_every_setting(tmp_path: Path) -> None:
    """What the client shows: value, origin, default and explanation of each key, as plain data."""
    settings = load_settings(write(tmp_path, {"tychod.toml": "[rapl]\nzones = ['dram']\n"}), {})
    items = plain(settings)

    assert [item["key"] for item in items] == ALL_KEYS
    assert next(item for item in items if item["key"] == "rapl.zones") == {
        "key": "rapl.zones",
        "value": ["dram"],
        "origin": f"{tmp_path}/tychod.toml",
        "default": [],
        "doc": dict(walk(Config))["rapl.zones"].doc,
    }


def test_changes_are_told_apart(tmp_path: Path) -> None:
    """A reload applies some settings and names the others."""
    text = "[log]\nlevel = 'debug'\n[workloads]\nterminated_max = 1\n[rapl]\ninterval = 0.1\n"
    new = load_settings(write(tmp_path, {"tychod.toml": text}), {}).config

    found_changes = changes(Config(), new)

    assert found_changes.live == ("workloads.terminated_max", "log.level")
    assert found_changes.restart == ("rapl.interval",)
    assert changes(new, new) == ((), ())


def test_check_config_of_good_settings(tmp_path: Path) -> None:
    """--check-config says that all is well, what was read and what differs from the defaults."""
    args = write(tmp_path, {"tychod.toml": "[window]\nlength = 2.0\n"})

    assert check_config(args, {"TYCHOD_LOG_X": ""}) == (
        0,
        (
            "configuration is valid\n"
            f"settings read from: {tmp_path}/tychod.toml\n"
            f"  window.length = 2.0 ({tmp_path}/tychod.toml)\n"
            "warning: environment TYCHOD_LOG_X: not a setting, ignored\n"
        ),
    )


def test_check_config_of_bad_settings(tmp_path: Path) -> None:
    """--check-config exits 2 with every problem."""
    args = write(tmp_path, {"tychod.toml": "[window]\nlength = 0\n[log]\nlevl = 'debug'\n"})

    assert check_config(args, {}) == (
        2,
        (
            "configuration is invalid: 2 problems\n"
            f"{tmp_path}/tychod.toml: window.length: 0.0 is not within 1..60\n"
            f"{tmp_path}/tychod.toml: log.levl: unknown setting; did you mean 'level'?\n"
        ),
    )


def test_the_summary_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block at start says that no file was read."""
    monkeypatch.setattr("tychod.settings.DEFAULT_DIR", str(tmp_path))

    assert render_summary(load_settings(Arguments(), {})) == (
        f"settings read from: none ({tmp_path}/tychod.toml is not there)"
    )


SECTIONS = [spec.name for spec in fields_of(Config)]
SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TABLES = st.dictionaries(
    st.sampled_from([key.partition(".")[2] for key in ALL_KEYS]) | st.text(max_size=3),
    SCALARS | st.lists(SCALARS, max_size=3),
    max_size=4,
)


@given(
    st.binary() | st.dictionaries(st.sampled_from(SECTIONS), TABLES | SCALARS, max_size=4),
    st.dictionaries(st.sampled_from([variable_name(key) for key in ALL_KEYS]), st.text()),
)
def test_nothing_written_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes | dict[str, object],
    environ: dict[str, str],
) -> None:
    """Whatever a file and the environment hold: settings, or problems of one line each."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data if isinstance(data, bytes) else tomli_w.dumps(data).encode())

    outcome = outcome_of(Arguments(config=str(path)), environ)

    if isinstance(outcome, Settings):
        assert problems_between(outcome.config) == []
        assert load(Config, to_plain(outcome.config)) == (outcome.config, [])
    else:
        assert outcome
        assert [line for line in outcome if not line.isprintable()] == []


@pytest.mark.parametrize(
    ("name", "shown"), [("a b", "a b"), ("a\nb", "a\\nb"), ("\udcff", "\\udcff")]
)
def test_names_stay_on_one_line(name: str, shown: str) -> None:
    """A file name cannot forge a line of the log."""
    assert one_line(Path(name)) == shown
