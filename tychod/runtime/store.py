"""State on disk: what survives a restart within one boot (design.md 6).

Saved after every window, before its snapshot is published: write, then rename.  It survives
``kill -9``; it is synced to the disk once a minute and at the end.
"""

import dataclasses
import fcntl
import logging
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgpack

from tychod.analysis.state import (
    Account,
    DomainAccount,
    IdlePoint,
    ProcessAccount,
    ProcessId,
    ProcessState,
    ReadingId,
    State,
    ZonePoint,
)
from tychod.hostfs import UNKNOWN_BOOT
from tychod.kernel.cgroups import CpuBaseline
from tychod.model import Energy, Identity
from tychod.samples import CgroupRef
from tychod.schema import check_value, load, show

log = logging.getLogger(__name__)

FORMAT: Final = 1
MAGIC: Final = b"tychod\n"
CHECKSUM: Final = struct.Struct(">I")
FILE_NAME: Final = "state.msgpack"
LOCK_NAME: Final = "lock"
OWN_NAMES: Final = frozenset({LOCK_NAME, FILE_NAME.partition(".")[0]})
NAMES: Final = "surrogateescape"
"""How names of files that are not UTF-8 are kept; anybody may name a cgroup so."""
SYNC_S: Final = 60.0
OPTIONAL_INT: Final = int | None

R = TypeVar("R")
IDENTITY_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Identity))
_identity_values: Final = attrgetter(*IDENTITY_FIELDS)


class StateInUseError(Exception):
    """Another daemon works on the same state directory."""


class Saved(NamedTuple):
    """What the file holds."""

    state: State
    baseline: CpuBaseline | None


class Store:
    """One state directory, locked for this process."""

    def __init__(self, directory: Path) -> None:
        """Create (0700) and lock the directory; raise ``StateInUseError`` or ``OSError``."""
        self.directory: Final = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _restrict(directory)
        self._lock_fd = _lock(directory / LOCK_NAME)
        self._synced = time.monotonic()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last save failed, or None."""
        return self._problem

    def load(self, boot_id: str, now_ns: int) -> Saved | None:
        """Return the state of this boot; None on another boot or with a file that is unusable.

        ``now_ns`` is the monotonic time: what ends after it was saved on another clock.
        """
        path = self.directory / FILE_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._set_aside(path, f"cannot be read: {exc.strerror}")
            return None
        try:
            plain = _unpack(data)
            why = _why_foreign(plain["boot_id"], boot_id)
            saved = None if why else _parse(plain)
            if saved and _latest_ns(saved) > now_ns:
                why = "ends in the future of this boot's clock, so it is of another boot"
        except (ValueError, TypeError, LookupError, msgpack.UnpackException) as exc:
            self._set_aside(path, f"is damaged: {exc!r}")
            return None
        if why:
            log.info("the saved state %s: counters start anew", why)
            return None
        return saved

    def _set_aside(self, path: Path, why: str) -> None:
        kept = path.with_suffix(f".damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            path.rename(kept)
        except OSError as exc:
            log.error("%s %s; cannot set it aside either: %s", path, why, exc.strerror)  # noqa: TRY400
            return
        log.error(
            "%s %s; kept as %s, counters start anew",
            path,
            why,
            kept.name,
            extra={"event": "state-damaged"},
        )

    def save(self, boot_id: str, state: State, baseline: CpuBaseline | None) -> None:
        """Write the state; a failure is logged when it begins and shown in the status."""
        plain = _plain(boot_id, state, baseline)
        packed = msgpack.packb(plain, use_bin_type=True, unicode_errors=NAMES)
        framed = MAGIC + CHECKSUM.pack(zlib.crc32(packed)) + packed
        sync = time.monotonic() - self._synced >= SYNC_S
        try:
            self._write(framed, sync=sync)
        except OSError as exc:
            self._fail(f"state cannot be saved in {self.directory}: {exc.strerror}")
            return
        if self._problem:
            log.info("state can be saved again")
        self._problem = None

    def _write(self, packed: bytes, *, sync: bool) -> None:
        path = self.directory / FILE_NAME
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)  # left by a save that failed, or put there by another
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, packed)
            if sync:
                os.fsync(fd)
                self._synced = time.monotonic()
        finally:
            os.close(fd)
        scratch.rename(path)

    def _fail(self, problem: str) -> None:
        if self._problem != problem:
            log.error("%s; after a restart the counters would lack this", problem)
        self._problem = problem

    def close(self) -> None:
        """Sync what was saved and give up the lock."""
        try:
            fd = os.open(self.directory / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            log.debug("state not synced at the end: %s", exc)
        os.close(self._lock_fd)


def _why_foreign(saved_boot: object, boot_id: str) -> str | None:
    """Return why state of one boot must not go on in another; an unknown boot equals none."""
    if UNKNOWN_BOOT in (saved_boot, boot_id):
        return "cannot be told from that of another boot (procfs shows no boot_id)"
    return None if saved_boot == boot_id else "is of another boot"


def _latest_ns(saved: Saved) -> int:
    """Return the latest monotonic time that the state speaks of."""
    return max(saved.state.end_ns or 0, saved.baseline.t_ns if saved.baseline else 0)


def _restrict(directory: Path) -> None:
    """Close a directory to others, unless it holds more than state: it may be a shared one."""
    status = directory.stat()
    is_own = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    is_open = is_own and status.st_mode & 0o077
    if is_open and all(e.name.partition(".")[0] in OWN_NAMES for e in directory.iterdir()):
        directory.chmod(0o700)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StateInUseError(
            f"another tychod (pid {holder}) uses the state directory {path.parent}; "
            "stop it or set STATE_DIRECTORY to another place"
        ) from None
    with suppress(OSError):  # a full disk: the lock holds without the number
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _unpack(data: bytes) -> dict[str, Any]:
    plain: dict[str, Any] = msgpack.unpackb(
        _body(data), raw=False, strict_map_key=False, unicode_errors=NAMES
    )
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']!r}, this version reads {FORMAT}")
    return plain


def _body(data: bytes) -> bytes:
    """Return the body of a state file; raise ``ValueError`` when a byte of it is not as written."""
    head = len(MAGIC) + CHECKSUM.size
    if not data.startswith(MAGIC) or len(data) < head:
        raise ValueError("not a state file")
    body = data[head:]
    if CHECKSUM.unpack_from(data, len(MAGIC)) != (zlib.crc32(body),):
        raise ValueError("checksum does not match")
    return body


def _plain(boot_id: str, state: State, baseline: CpuBaseline | None) -> dict[str, object]:
    return {
        "format": FORMAT,
        "boot_id": boot_id,
        "sequence": state.sequence,
        "since_ns": state.since_ns,
        "end_ns": state.end_ns,
        "violations": state.violations,
        "zones": {key: list(point) for key, point in state.zones.items()},
        "domains": {
            name: [d.energy_uj, *d.split, d.attributed] for name, d in state.domains.items()
        },
        "idle": {name: list(point) for name, point in state.idle.items()},
        "identity_fields": IDENTITY_FIELDS,
        "accounts": [_plain_account(account) for account in state.accounts.values()],
        "cpu": _plain_baseline(baseline) if baseline else None,
        "processes": _plain_processes(state.processes),
    }


def _plain_account(account: Account) -> list[object]:
    return [
        _identity_values(account.identity),
        account.first_seen_ns,
        account.inode,
        account.cpu_ns,
        dict(account.energy),  # msgpack writes a named tuple as a list
        account.ended_ns,
        dict(account.requested),
    ]


def _plain_baseline(baseline: CpuBaseline) -> list[object]:
    *times, totals, stamp, busy_ns = baseline
    return [*times, list(totals.items()), stamp, busy_ns]


def _plain_processes(processes: ProcessState) -> dict[str, object]:
    """Return the processes listed; readings of others are not kept, to bound the file."""
    kept = {who[:2] for who in processes.accounts}
    rows = [
        [who, a.comm, a.start_wall_ns, a.leaf_since_ns, a.cpu_ns, dict(a.dynamic_uj), a.ended_ns]
        for who, a in processes.accounts.items()
    ]
    read = [[who, ns] for who, ns in processes.read_ns.items() if who[:2] in kept]
    return {"accounts": rows, "read": read, "method": processes.method, "t_ns": processes.t_ns}


def _parse(plain: Mapping[str, Any]) -> Saved:
    end_ns = _checked(plain["end_ns"], OPTIONAL_INT)
    state = State(
        sequence=_checked(plain["sequence"], int),
        since_ns=_checked(plain["since_ns"], OPTIONAL_INT),
        end_ns=end_ns,
        restarted=end_ns is not None,
        violations=_checked(plain["violations"], int),
        zones={key: _row(ZonePoint, row) for key, row in _table(plain["zones"])},
        domains={name: _parse_domain(*row) for name, row in _table(plain["domains"])},
        idle={name: _row(IdlePoint, row) for name, row in _table(plain["idle"])},
        accounts={a.identity.id: a for a in _parse_accounts(plain)},
        processes=_parse_processes(plain.get("processes")),
    )
    cpu = plain["cpu"]
    return Saved(state, None if cpu is None else _parse_baseline(cpu))


def _parse_domain(
    energy_uj: object, idle_uj: object, dynamic_uj: object, on: object
) -> DomainAccount:
    split = _row(Energy, [idle_uj, dynamic_uj])
    return DomainAccount(_checked(energy_uj, int), split, _checked(on, bool))


def _parse_accounts(plain: Mapping[str, Any]) -> Iterable[Account]:
    names = [_checked(name, str) for name in plain["identity_fields"]]
    return (_parse_account(names, row) for row in plain["accounts"])


def _parse_account(names: Sequence[str], row: list[Any]) -> Account:
    identity, first_seen_ns, inode, cpu_ns, energy, ended_ns, *later = row
    return Account(
        _parse_identity(dict(zip(names, identity, strict=True))),
        _checked(first_seen_ns, int),
        _checked(inode, OPTIONAL_INT),
        _checked(cpu_ns, int),
        {name: _row(Energy, split) for name, split in _table(energy)},
        _checked(ended_ns, OPTIONAL_INT),
        {name: _checked(n, int) for name, n in _table(later[0] if later else {})},
    )


def _parse_identity(fields: dict[str, object]) -> Identity:
    labels = {name: _checked(text, str) for name, text in _table(fields.pop("labels"))}
    requests = {name: _checked(n, int) for name, n in _table(fields.pop("requests", {}))}
    identity, problems = load(Identity, fields, "identity")
    if identity is None:
        raise ValueError("; ".join(map(str, problems)))
    return replace(identity, labels=labels, requests=requests)


def _parse_processes(plain: dict[str, Any] | None) -> ProcessState:
    """Versions before the kernel accounting saved none."""
    if plain is None:
        return ProcessState()
    accounts = {_row(ProcessId, who): _parse_process(*row) for who, *row in plain["accounts"]}
    kept = {who[:2] for who in accounts}
    read = {_row(ReadingId, who): _checked(ns, int) for who, ns in plain["read"]}
    return ProcessState(
        accounts,
        {who: ns for who, ns in read.items() if who[:2] in kept},
        _checked(plain["method"], str | None),
        _checked(plain["t_ns"], OPTIONAL_INT),
    )


def _parse_process(comm: object, *row: Any) -> ProcessAccount:
    *times, dynamic_uj, ended_ns = row
    start_wall_ns, leaf_since_ns, cpu_ns = (_checked(t, int) for t in times)
    energy = {name: _checked(uj, int) for name, uj in _table(dynamic_uj)}
    ended_ns = _checked(ended_ns, OPTIONAL_INT)
    return ProcessAccount(
        _checked(comm, str), start_wall_ns, leaf_since_ns, cpu_ns, energy, ended_ns
    )


def _parse_baseline(row: list[Any]) -> CpuBaseline:
    method, t_ns, idle_ns, kernel_ns, outside_ns, root_ns, rows, *later = row
    later = later or [0, 0]  # versions before the kernel accounting saved no stamp
    times = [_checked(t, int) for t in (t_ns, idle_ns, kernel_ns, outside_ns, root_ns)]
    totals = {
        CgroupRef(_checked(path, str), _checked(inode, int)): _checked(total, int)
        for (path, inode), total in rows
    }
    stamp, busy_ns = (_checked(value, int) for value in later)
    return CpuBaseline._make([_checked(method, str), *times, totals, stamp, busy_ns])


def _table(value: object) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a table, got {show(value)}")  # noqa: TRY004 - it is data
    return ((_checked(key, str), entry) for key, entry in value.items())


def _row(cls: Callable[..., R], row: object) -> R:
    """Build a named tuple of plain values from a list of them."""
    hints = get_type_hints(cls)
    if not isinstance(row, list) or len(row) != len(hints):
        raise ValueError(f"expected {len(hints)} values, got {show(row)}")
    return cls(*(_checked(v, hint) for v, hint in zip(row, hints.values(), strict=True)))


def _checked(value: object, hint: object) -> Any:
    """Return a plain value of the type that ``hint`` says; raise ``ValueError`` for another.

    The checksum proves that the file is as written, not that it was written by this version.
    """
    checked, message = check_value(value, hint)
    if message:
        raise ValueError(message)
    return checked
