"""Whom to ask for a node's power, with what name and password; secrets show nowhere.

Three forms: systemd's credential ``redfish``, a TOML file, a CSV file; the latter two private.
"""

from __future__ import annotations

import csv
import io
import os
import pwd
import re
import shlex
import tomllib
from typing import TYPE_CHECKING, Final, NamedTuple, Never

from tychod.conflicts import endpoint_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tychod.hostfs import Host

CREDENTIAL: Final = "redfish"
"""Name of systemd's credential: LoadCredential=redfish:/etc/tychod/redfish.toml."""
FILE_LIMIT: Final = 1 << 20  # ten thousand nodes
TEXT_LIMIT: Final = 1024
EXAMPLE: Final = "https://192.168.1.100"
_PATHS: Final = frozenset({"", "/", "/redfish/v1", "/redfish/v1/"})
_KEYS: Final = frozenset({"endpoint", "username", "password"})
_PLACE: Final = re.compile(r"\(at line (?P<line>\d{1,9}), column \d{1,9}\)\Z")
_EXPECTED: Final = "4 fields are expected: node,user,password,https://host"
_TOML_REMEDY: Final = "write endpoint, username and password into it, or [nodes] and [bmcs.NAME]"
_CSV_REMEDY: Final = "write one line for each node: node,user,password,https://host"


class Secret:
    """A text that no representation shows; only ``reveal`` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        """Say that it is a secret, and nothing of it, not even its length."""
        return "Secret(...)"

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self._value)

    def __reduce__(self) -> Never:
        """Refuse to be written anywhere."""
        raise TypeError("a secret is not written down")


class Bmc(NamedTuple):
    """Where a BMC is and how to log in; no user: nothing is shown to it."""

    endpoint: str
    username: str
    password: Secret


class CredentialsError(Exception):
    """The credentials cannot be used: why, and what a person can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class _BadFileError(Exception):
    """What is wrong with the text of a file: no word of its content."""


def find_file(host: Host, path: str) -> str:
    """Return the file that the settings name, else systemd's credential; "" where there is none."""
    if path:
        return path
    usual = f"{host.credentials}/{CREDENTIAL}" if host.credentials else ""
    return usual if usual and host.exists(usual) else ""


def read_bmc(host: Host, path: str, node: str) -> Bmc:
    """Return the BMC of a node as a file tells it; CredentialsError where it may not or does not.

    A credential of systemd's counts as private: root's, with a list of who else may read it, which
    shows as a group's bit.
    """
    data = _private_data(host, path)
    is_csv = _is_csv(path, data)
    try:
        text = data.decode("utf-8-sig")
        found = parse_csv(text) if is_csv else parse_toml(text, node)
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not text in UTF-8", "write it in UTF-8") from None
    except _BadFileError as exc:
        raise CredentialsError(f"{path}: {exc}", _CSV_REMEDY if is_csv else _TOML_REMEDY) from None
    if node not in found:
        # None of its names is told: with two columns swapped they are the passwords.
        raise CredentialsError(
            f"{path} has no BMC for this node, {_shown(node)}",
            f"add it, or set [redfish] node to one of the names in it (there: {len(found)})",
        )
    return found[node]


def _private_data(host: Host, path: str) -> bytes:
    try:
        file = host.read_private(path, FILE_LIMIT + 1)
    except OSError as exc:
        raise CredentialsError(
            f"{path}: {exc.strerror}", f"chown {_own_user()} {shlex.quote(path)}"
        ) from None
    except ValueError:  # a NUL in it
        raise CredentialsError(f"{_shown(path)} is no path", "see [redfish] credentials") from None
    if file is None:
        raise CredentialsError(f"{path}: no such file", "write it, or see [redfish] credentials")
    if not file.is_regular:
        raise CredentialsError(
            f"{path} is a link or no regular file", "name the file itself in [redfish] credentials"
        )
    is_systemds = bool(host.credentials) and path.startswith(f"{host.credentials}/")
    if not is_systemds and (not file.is_ours or file.mode & 0o077):
        raise _not_private(path, file.mode, is_ours=file.is_ours)
    if len(file.data) > FILE_LIMIT:
        raise CredentialsError(f"{path} is longer than {FILE_LIMIT >> 20} MiB", "shorten it")
    return file.data


def _not_private(path: str, mode: int, *, is_ours: bool) -> CredentialsError:
    """Say who else may read or write a file with passwords in it, and the command that mends it."""
    quoted = shlex.quote(path)
    commands = [] if is_ours else [f"chown {_own_user()} {quoted}"]
    commands += [f"chmod 0600 {quoted}"] if mode & 0o077 else []
    whose = "" if is_ours else " and belongs to neither root nor tychod's user"
    return CredentialsError(
        f"{path} has mode {mode:04o}{whose}: passwords must be private", " && ".join(commands)
    )


def _is_csv(path: str, data: bytes) -> bool:
    """Say which form a file has: by its name, else by its first line that says something."""
    for suffix, is_csv in ((".csv", True), (".toml", False)):
        if path.lower().endswith(suffix):
            return is_csv
    lines = (line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines())
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return b"," in first.partition(b"=")[0]


def parse_csv(text: str) -> dict[str, Bmc]:
    """Return node -> BMC of lines ``node,user,password,https://host``; comments begin with #."""
    found: dict[str, Bmc] = {}
    lines: dict[str, int] = {}
    for number, row in _rows(text):
        if len(row) != 4:
            quote = "; quote a password that holds a comma" if len(row) > 4 else ""
            raise _BadFileError(f"line {number} has {len(row)} fields, {_EXPECTED}{quote}")
        node, username, password, endpoint = row[0].strip(), row[1].strip(), row[2], row[3].strip()
        if not found and node.lower() in ("node", "node_name") and "://" not in endpoint:
            continue  # names of the columns
        if not node:
            raise _BadFileError(f"line {number} names no node")
        if node in found:
            raise _BadFileError(f"lines {lines[node]} and {number} are of the same node")
        found[node] = _bmc(endpoint, username, password, f"line {number}: ")
        lines[node] = number
    if not found:
        raise _BadFileError("no nodes configured")
    return found


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields; every line is one of its own, whatever its quotes say."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            yield number, next(csv.reader(io.StringIO(line), strict=True))
        except csv.Error:
            raise _BadFileError(f"line {number} has a quote that does not fit") from None


def parse_toml(text: str, node: str) -> dict[str, Bmc]:
    """Return node -> BMC; a file of one BMC is for whichever node reads it."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # int() takes 4300 digits at most
        place = _PLACE.search(str(exc))  # the rest of the message may repeat what stands there
        where = f" in line {place['line']}" if place else ""
        raise _BadFileError(f"not TOML{where}") from None
    if _KEYS & document.keys():
        _refuse_unknown(document, _KEYS, "")
        return {node: _bmc_of(document, "")}
    _refuse_unknown(document, {"nodes", "bmcs"}, "")
    nodes = _table(document.get("nodes", {}), "nodes")
    bmcs = _table(document.get("bmcs", {}), "bmcs")
    if not nodes:
        raise _BadFileError("no nodes configured")
    if not bmcs:
        raise _BadFileError("no BMCs configured")
    made = {
        name: _bmc_of(_table(table, f"BMC {number} of [bmcs]"), f"BMC {number} of [bmcs]: ")
        for number, (name, table) in enumerate(bmcs.items(), 1)
    }
    for number, bmc in enumerate(nodes.values(), 1):
        if not isinstance(bmc, str) or bmc not in made:
            raise _BadFileError(f"node {number} of [nodes] references a non-existent BMC")
    return {name: made[str(bmc)] for name, bmc in nodes.items()}


def _table(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _BadFileError(f"{what} is no table")
    return value


def _bmc_of(table: Mapping[str, object], where: str) -> Bmc:
    _refuse_unknown(table, _KEYS, where)
    texts = [table.get(key, "") for key in ("endpoint", "username", "password")]
    endpoint, username, password = (t if isinstance(t, str) else None for t in texts)
    if endpoint is None or username is None or password is None:
        raise _BadFileError(f"{where}endpoint, username and password are texts")
    return _bmc(endpoint.strip(), username, password, where)


def _refuse_unknown(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """Refuse other keys without naming them: a slip of the pen may make a key of a password."""
    if unknown := len(table.keys() - set(known)):
        raise _BadFileError(
            f"{where}{unknown} unknown key{'s' if unknown > 1 else ''}; there are"
            f" {', '.join(sorted(known))}"
        )


def _bmc(endpoint: str, username: str, password: str, where: str) -> Bmc:
    if not endpoint:
        raise _BadFileError(f"{where}endpoint is required")
    if problem := bmc_endpoint_problem(endpoint):
        raise _BadFileError(f"{where}the endpoint {problem}")
    if bool(username) != bool(password):
        raise _BadFileError(f"{where}user and password go together, or neither is given")
    for what, text in (("user", username), ("password", password)):
        if len(text) > TEXT_LIMIT or not text.isprintable():
            raise _BadFileError(f"{where}the {what} is too long or holds a control character")
    if ":" in username:  # RFC 7617
        raise _BadFileError(f"{where}a user's name may hold no colon")
    return Bmc(endpoint.removesuffix("/").removesuffix("/redfish/v1"), username, Secret(password))


def bmc_endpoint_problem(endpoint: str) -> str:
    """Return what is wrong with a BMC's address, or ""; the address is not repeated."""
    if len(endpoint) > TEXT_LIMIT or not (endpoint.isascii() and endpoint.isprintable()):
        return f"is not an address such as {EXAMPLE}"
    problem = endpoint_problem(endpoint, "https", EXAMPLE)
    rest = endpoint.partition("://")[2].partition("/")
    return problem or ("" if rest[1] + rest[2] in _PATHS else "must be scheme, host and port only")


def _own_user() -> str:
    """Return the name of this process's user, its number where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _shown(name: str) -> str:
    text = name if len(name) <= 64 else name[:61] + "..."
    return repr(text)
