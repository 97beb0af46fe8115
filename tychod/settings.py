"""Settings in force: files, environment and flags merged key by key, each value with its origin.

Later wins: defaults, tychod.toml, conf.d/*.toml in name order, environment, flags.  Whatever is
wrong in any of them is reported, all of it at once; nothing is ignored and nothing half loaded.
"""

import argparse
import difflib
import errno
import stat
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args, get_origin

from tychod.config import Config
from tychod.conflicts import problems_between
from tychod.schema import (
    UNIONS,
    FieldSpec,
    Problem,
    check_value,
    load,
    show,
    to_plain,
    walk,
)

DEFAULT_DIR: Final = "/etc/tychod"
FILE_NAME: Final = "tychod.toml"
VARIABLE_PREFIX: Final = "TYCHOD_"
DEFAULT_ORIGIN: Final = "default"
EXIT_VALID: Final = 0
EXIT_INVALID: Final = 2
TRUE_WORDS: Final = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS: Final = frozenset({"false", "no", "off", "0"})
CREDENTIALS_FLAG: Final = "--redfish-cred-file-path"


class Arguments(NamedTuple):
    """What the command line says about settings.

    ``flags`` holds settings with a flag of their own: dotted key -> (flag, value).
    """

    config: str | None = None
    config_dir: str | None = None
    flags: Mapping[str, tuple[str, object]] = types.MappingProxyType({})


class Settings(NamedTuple):
    """The settings in force; ``origins`` has an entry for every key."""

    config: Config
    origins: Mapping[str, str]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


class Changes(NamedTuple):
    """Keys whose value differs: those a reload applies, and those that need a restart."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


class SettingsError(Exception):
    """The settings are unusable; ``problems`` has one line for each thing to mend."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: Final = tuple(problems)
        super().__init__("\n".join(self.problems))


class Layer(NamedTuple):
    """One source of settings, checked on its own: good values by dotted key, and what is wrong."""

    origin: str
    values: Mapping[str, object]
    problems: tuple[str, ...] = ()
    bad_keys: frozenset[str] = frozenset()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the files."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=_place,
        help=f"read FILE, and conf.d beside it, instead of {DEFAULT_DIR}/{FILE_NAME}",
    )
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        type=_place,
        help=f"read DIR/{FILE_NAME} and DIR/conf.d/*.toml (default: {DEFAULT_DIR})",
    )
    parser.add_argument(
        CREDENTIALS_FLAG,
        metavar="CSV",
        type=_place,
        help="file with node,user,password,https://host of the BMCs: [redfish] credentials",
    )


def _place(text: str) -> str:
    """Refuse an empty path: a script's unset variable must not choose the defaults unseen."""
    if not text:
        raise argparse.ArgumentTypeError("names no file or directory")
    return text


def arguments_from(namespace: argparse.Namespace) -> Arguments:
    """Return what `add_arguments` made argparse find."""
    path = namespace.redfish_cred_file_path
    flags = (
        {}
        if path is None
        else {"redfish.credentials": (CREDENTIALS_FLAG, str(Path(path).absolute()))}
    )
    return Arguments(namespace.config, namespace.config_dir, types.MappingProxyType(flags))


def load_settings(args: Arguments, environ: Mapping[str, str]) -> Settings:
    """Read and merge all settings; raise ``SettingsError`` with everything that is wrong."""
    paths, problems = find_files(args)
    layers = [read_file_layer(path) for path in paths]
    variables, warnings = parse_environment(environ)
    layers += [*variables, *(flag_layer(key, *flag) for key, flag in args.flags.items())]
    problems += [line for layer in layers for line in layer.problems]
    settings = merge(layers)
    bad = {key for layer in layers for key in layer.bad_keys}
    problems += render_conflicts(settings, bad)
    if problems:
        raise SettingsError(problems)
    return settings._replace(files=tuple(map(str, paths)), warnings=tuple(warnings))


def find_files(args: Arguments) -> tuple[list[Path], list[str]]:
    """Return the files to read in order, and what is wrong with the places named."""
    directory = Path(args.config_dir or DEFAULT_DIR)
    main = Path(args.config) if args.config else directory / FILE_NAME
    if args.config and not args.config_dir:
        directory = main.parent
    problems = []
    if args.config_dir and not directory.is_dir():
        problems.append(f"{one_line(directory)}: no such directory; check --config-dir")
    must_exist = bool(args.config or (args.config_dir and not problems))
    drop_ins, found = find_drop_ins(directory / "conf.d")
    try:
        present = must_exist or (main.exists() and not problems)
    except OSError:
        present = True  # not ours to look at: reading it says why
    return [*([main] if present else []), *drop_ins], problems + found


def find_drop_ins(directory: Path) -> tuple[list[Path], list[str]]:
    """Return the drop-in files in name order; none where there is no such directory."""
    try:
        entries = sorted(directory.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError:
        return [], []
    except OSError as exc:
        return [], [f"{one_line(directory)}: cannot be listed: {exc.strerror}; {remedy(exc)}"]
    # A leading dot marks what editors and package tools leave behind.
    return [e for e in entries if e.suffix == ".toml" and not e.name.startswith(".")], []


def read_file_layer(path: Path) -> Layer:
    """Read one TOML file; what cannot be read or parsed is one problem and no values."""
    origin = one_line(path)
    try:
        text = read_regular(path).decode("utf-8-sig")
        data = tomllib.loads(text)
    except OSError as exc:
        message = f"cannot be read: {exc.strerror}; {remedy(exc)}"
    except UnicodeDecodeError as exc:
        message = f"is not UTF-8 text (byte {exc.start}); save it as UTF-8"
    except RecursionError:
        message = "is nested too deeply; settings are sections of simple values"
    except ValueError as exc:  # TOMLDecodeError, and numbers of thousands of digits
        message = f"is not valid TOML: {one_line(exc)}"
    else:
        return parse_layer(origin, data)
    return Layer(origin, {}, (f"{origin}: {message}",))


def read_regular(path: Path) -> bytes:
    """Return what a file holds; pipes and devices, which may never end, are not opened."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.samefile("/dev/null")):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path.read_bytes()  # of a directory: says that it is one


def parse_layer(origin: str, data: Mapping[str, object]) -> Layer:
    """Check nested data from one source against the declarations."""
    _, found = load(Config, data)
    values = dict(leaves(data))
    found += [Problem(key, message) for key, message in control_characters(values)]
    bad = frozenset(problem.path for problem in found)
    good = {key: value for key, value in values.items() if key not in bad}
    return Layer(origin, good, tuple(f"{origin}: {problem}" for problem in found), bad)


def leaves(data: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the declared settings in nested data by dotted key."""
    for key, _ in walk(Config):
        section, _, name = key.partition(".")
        table = data.get(section)
        if isinstance(table, Mapping) and name in table:
            yield key, table[name]


def control_characters(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield strings that no path or name can hold and that would break a line of the log."""
    for key, value in values.items():
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and not text.isprintable():
                yield key, f"holds a character that cannot be printed: {show(text)}"


def parse_environment(environ: Mapping[str, str]) -> tuple[list[Layer], list[str]]:
    """Return the settings in TYCHOD_<SECTION>_<KEY> variables, and warnings on near misses.

    Others use the prefix too, so a name that is no setting only warns.
    """
    known = {variable_name(key): (key, spec) for key, spec in walk(Config)}
    layers, warnings = [], []
    for name in sorted(name for name in environ if name.startswith(VARIABLE_PREFIX)):
        if name in known:
            layers.append(variable_layer(name, *known[name], environ[name]))
        else:
            warnings += warn_of_variable(name, known)
    return layers, warnings


def variable_name(key: str) -> str:
    """Return the environment variable of a setting."""
    return VARIABLE_PREFIX + key.replace(".", "_").upper()


def warn_of_variable(name: str, known: Iterable[str]) -> list[str]:
    """Return a warning if a variable that is no setting names a section or nearly spells one."""
    sections = {key.partition(".")[0] for key, _ in walk(Config)}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
    hint = f"; did you mean {near[0]}?" if near else ""
    if near or any(name.startswith(f"{variable_name(section)}_") for section in sections):
        return [f"environment {one_line(name)}: not a setting, ignored{hint}"]
    return []


def variable_layer(name: str, key: str, spec: FieldSpec, text: str) -> Layer:
    """Parse one environment variable by the type that its setting declares."""
    origin = f"environment {name}"
    value, message = check_value(parse_text(text, spec.type), spec.type, spec.limits)
    if message:
        return Layer(origin, {}, (f"{origin}: {key}: {message}",), frozenset({key}))
    section, _, setting = key.partition(".")
    return parse_layer(origin, {section: {setting: value}})


def parse_text(text: str, hint: object) -> object:
    """Return the value a text stands for under a type; the text itself where it stands for none."""
    word = text.strip()
    if get_origin(hint) in UNIONS:
        readings = (parse_text(text, part) for part in get_args(hint))
        return next((reading for reading in readings if not isinstance(reading, str)), word)
    if get_origin(hint) is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    if hint is bool and word.lower() in TRUE_WORDS | FALSE_WORDS:
        return word.lower() in TRUE_WORDS
    if hint in (int, float):
        return parse_number(word, hint)
    return word if get_origin(hint) is Literal else text


def parse_number(text: str, hint: object) -> object:
    """Return an int or float, or the text where it is no number."""
    try:
        return int(text) if hint is int else float(text)
    except ValueError:
        return text


def flag_layer(key: str, flag: str, value: object) -> Layer:
    """Return the layer of one flag."""
    section, _, name = key.partition(".")
    return parse_layer(flag, {section: {name: value}})


def merge(layers: Iterable[Layer]) -> Settings:
    """Lay good values over the defaults, later layers over earlier ones."""
    origins = {key: DEFAULT_ORIGIN for key, _ in walk(Config)}
    data: dict[str, dict[str, object]] = {}
    for layer in layers:
        for key, value in layer.values.items():
            section, _, name = key.partition(".")
            data.setdefault(section, {})[name] = value
            origins[key] = layer.origin
    config, problems = load(Config, data)
    if config is None:
        raise AssertionError(f"values that were good alone are not together: {problems}")
    return Settings(config, origins, (), ())


def render_conflicts(settings: Settings, bad_keys: set[str]) -> list[str]:
    """Return a line for each conflict between settings, with the place that caused it.

    A key that is wrong itself stands at its default here, so what involves it is left out.
    """
    lines = []
    for path, message, others in problems_between(settings.config):
        keys = (path, *others)
        if bad_keys.isdisjoint(keys):
            places = [settings.origins[key] for key in keys]
            place = next((p for p in places if p != DEFAULT_ORIGIN), DEFAULT_ORIGIN)
            lines.append(f"{place}: {path}: {message}")
    return lines


def remedy(error: OSError) -> str:
    """Return what to do about a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "create it or name another"
    if isinstance(error, PermissionError):
        return "let the user that runs tychod read it"
    if error.errno in (errno.EISDIR, errno.EINVAL):
        return "name a file (--config-dir takes a directory)"
    if isinstance(error, NotADirectoryError):
        return "make it a directory of .toml files"
    return "check the file system"


def one_line(value: object) -> str:
    """Return a name or message for a log line: what cannot be printed is escaped."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def plain(settings: Settings) -> list[dict[str, object]]:
    """Return every setting for people: key, value, origin, default, doc.

    No setting holds a secret: credentials are named by file, and addresses may hold none.
    """
    values = flat(settings.config)
    return [
        {
            "key": key,
            "value": to_plain(values[key]),
            "origin": settings.origins[key],
            "default": to_plain(spec.default),
            "doc": spec.doc,
        }
        for key, spec in walk(Config)
    ]


def flat(config: Config) -> dict[str, object]:
    """Return the value of every setting by dotted key."""
    found: dict[str, object] = {}
    for key, _ in walk(Config):
        section, _, name = key.partition(".")
        found[key] = getattr(getattr(config, section), name)
    return found


def changes(old: Config, new: Config) -> Changes:
    """Return what differs, by whether a reload can apply it."""
    before, after = flat(old), flat(new)
    differing = [(key, spec) for key, spec in walk(Config) if before[key] != after[key]]
    return Changes(
        tuple(key for key, spec in differing if not spec.restart),
        tuple(key for key, spec in differing if spec.restart),
    )


def render_summary(settings: Settings) -> str:
    """Return the settings' part of the block in the log at start: files, what is not default."""
    files = ", ".join(settings.files) or f"none ({DEFAULT_DIR}/{FILE_NAME} is not there)"
    lines = [f"settings read from: {files}"]
    lines += [
        f"  {item['key']} = {show(item['value'])} ({item['origin']})"
        for item in plain(settings)
        if item["origin"] != DEFAULT_ORIGIN
    ]
    return "\n".join([*lines, *(f"warning: {line}" for line in settings.warnings)])


def check_config(args: Arguments, environ: Mapping[str, str]) -> tuple[int, str]:
    """Return exit status and text of ``tychod --check-config``."""
    try:
        settings = load_settings(args, environ)
    except SettingsError as error:
        count = len(error.problems)
        head = f"configuration is invalid: {count} problem{'s' if count > 1 else ''}"
        return EXIT_INVALID, "\n".join([head, *error.problems]) + "\n"
    return EXIT_VALID, f"configuration is valid\n{render_summary(settings)}\n"
