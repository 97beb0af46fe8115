"""The state file's content: state <-> plain data <-> bytes with a checksum."""

import dataclasses
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgpack

from tychod.analysis import gpumemory, platform_memory, summary
from tychod.analysis.learned import Learned
from tychod.analysis.platform_memory import PlatformMemory
from tychod.analysis.state import (
    Account,
    DomainAccount,
    ProcessAccount,
    ProcessId,
    ProcessState,
    ReadingId,
    State,
    VmId,
    VmPoint,
    ZonePoint,
)
from tychod.codec.arrays import FAULTS
from tychod.kernel.cgroups import CpuBaseline
from tychod.model import Energy, Identity, Usage
from tychod.samples import CgroupRef
from tychod.schema import check_value, load, show

FORMAT: Final = 1
MAGIC: Final = b"tychod\n"
CHECKSUM: Final = struct.Struct(">I")
NAMES: Final = "surrogateescape"
"""How names of files that are not UTF-8 are kept; anybody may name a cgroup so."""
_LONE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates other than those by which ``NAMES`` keeps bytes."""
OPTIONAL_INT: Final = int | None

R = TypeVar("R")
IDENTITY_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Identity))
_identity_values: Final = attrgetter(*IDENTITY_FIELDS)


class Saved(NamedTuple):
    """What the file holds."""

    state: State
    baseline: CpuBaseline | None

    @property
    def latest_ns(self) -> int:
        """The latest monotonic time that the state speaks of."""
        return max(self.state.end_ns or 0, self.baseline.t_ns if self.baseline else 0)


def pack(boot_id: str, state: State, baseline: CpuBaseline | None) -> bytes:
    """Return the content of a state file."""
    plain = _plain(boot_id, state, baseline)
    try:
        packed: bytes = msgpack.packb(plain, use_bin_type=True, unicode_errors=NAMES)
    except UnicodeEncodeError:
        packed = msgpack.packb(_encodable(plain), use_bin_type=True, unicode_errors=NAMES)
    return MAGIC + CHECKSUM.pack(zlib.crc32(packed)) + packed


def _encodable(value: Any) -> Any:
    """Return plain data whose texts hold no half of a surrogate pair, which only JSON can write."""
    if isinstance(value, str):
        return value if value.isascii() else _LONE.sub("?", value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(entry) for entry in value]
    return value


def unpack(data: bytes) -> dict[str, Any]:
    """Return what a state file holds; raise ``ValueError`` or msgpack's errors for another."""
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
        "identity_fields": IDENTITY_FIELDS,
        "accounts": [_plain_account(account) for account in state.accounts.values()],
        "cpu": _plain_baseline(baseline) if baseline else None,
        "processes": _plain_processes(state.processes),
        "learned": {name: summary.to_plain(model) for name, model in state.learned.items()},
        "vms": [[who, point] for who, point in state.vms.items()],
        "views": [_plain_account(account) for account in state.views.values()],
        "folded": {key: [usage.cpu_ns, dict(usage.energy)] for key, usage in state.folded.items()},
        "gpus": {uuid: gpumemory.to_plain(memory) for uuid, memory in state.gpus.items()},
        "platform": platform_memory.to_plain(state.platform),
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
        dict(account.spread),
        account.ended_sequence,
        account.vcpu_ns,
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


def parse(plain: Mapping[str, Any]) -> Saved:
    """Return the state; ``ValueError``, ``TypeError`` or ``LookupError``: it is damaged."""
    end_ns = _checked(plain["end_ns"], OPTIONAL_INT)
    state = State(
        sequence=_checked(plain["sequence"], int),
        since_ns=_checked(plain["since_ns"], OPTIONAL_INT),
        end_ns=end_ns,
        restarted=end_ns is not None,
        violations=_checked(plain["violations"], int),
        zones={key: _row(ZonePoint, row) for key, row in _table(plain["zones"])},
        domains={name: _parse_domain(*row) for name, row in _table(plain["domains"])},
        accounts=_parse_accounts(plain, plain["accounts"]),
        processes=_parse_processes(plain.get("processes")),
        # Versions before the identity of virtual machines saved none of these.
        vms={_row(VmId, who): _row(VmPoint, point) for who, point in plain.get("vms", [])},
        views=_parse_accounts(plain, plain.get("views", [])),
        folded={key: _parse_usage(*row) for key, row in _table(plain.get("folded", {}))},
        # Versions before GPUs and the platform's power saved neither.
        gpus={uuid: gpumemory.from_plain(entry) for uuid, entry in _table(plain.get("gpus", {}))},
        platform=_parse_platform(plain.get("platform")),
    )
    cpu = plain["cpu"]
    return Saved(state, None if cpu is None else _parse_baseline(cpu))


def parse_learned(plain: Mapping[str, Any]) -> tuple[dict[str, Learned], str | None]:
    """Return what was learned, or nothing and why: it is learned anew, the counters go on."""
    if "learned" not in plain:
        return {}, "is not in the saved state"
    try:
        found = {name: summary.from_plain(entry) for name, entry in _table(plain["learned"])}
    except FAULTS as exc:
        return {}, f"cannot be used: {exc}"
    return found, None


def _parse_platform(plain: Mapping[str, Any] | None) -> PlatformMemory:
    return PlatformMemory() if plain is None else platform_memory.from_plain(plain)


def _parse_domain(
    energy_uj: object, idle_uj: object, dynamic_uj: object, on: object
) -> DomainAccount:
    split = _row(Energy, [idle_uj, dynamic_uj])
    return DomainAccount(_checked(energy_uj, int), split, _checked(on, bool))


def _parse_usage(cpu_ns: object, energy: object) -> Usage:
    return Usage(_checked(cpu_ns, int), _parse_energy(energy))


def _parse_energy(energy: object) -> dict[str, Energy]:
    return {name: _row(Energy, split) for name, split in _table(energy)}


def _parse_accounts(plain: Mapping[str, Any], rows: Iterable[list[Any]]) -> dict[str, Account]:
    names = [_checked(name, str) for name in plain["identity_fields"]]
    accounts = [_parse_account(names, row) for row in rows]
    return {account.identity.id: account for account in accounts}


def _parse_account(names: Sequence[str], row: list[Any]) -> Account:
    identity, first_seen_ns, inode, cpu_ns, energy, ended_ns, *later = row
    unknown: list[Any] = [
        {},
        {},
        None,
        None,
    ]  # an older version's row ends earlier, a newer one's later
    requested, spread, ended_sequence, vcpu_ns = [*later, *unknown[len(later) :]][:4]
    return Account(
        _parse_identity(dict(zip(names, identity, strict=True))),
        _checked(first_seen_ns, int),
        _checked(inode, OPTIONAL_INT),
        _checked(cpu_ns, int),
        _parse_energy(energy),
        _checked(ended_ns, OPTIONAL_INT),
        requested={name: _checked(n, int) for name, n in _table(requested)},
        spread={name: _checked(v, float) for name, v in _table(spread)},
        ended_sequence=_checked(ended_sequence, OPTIONAL_INT),
        vcpu_ns=_checked(vcpu_ns, OPTIONAL_INT),
    )


def _parse_identity(fields: dict[str, object]) -> Identity:
    labels = {name: _checked(text, str) for name, text in _table(fields.pop("labels"))}
    requests = {name: _checked(n, int) for name, n in _table(fields.pop("requests", {}))}
    devices = {
        name: tuple(_checked(device, str) for device in found)
        for name, found in _table(fields.pop("devices", {}))
    }
    identity, problems = load(Identity, fields, "identity")
    if identity is None:
        raise ValueError("; ".join(map(str, problems)))
    return replace(identity, labels=labels, requests=requests, devices=devices)


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
