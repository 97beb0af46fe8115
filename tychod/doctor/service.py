"""The daemon and what it needs to serve: its rights, cost, socket, state, settings, endpoint."""

from __future__ import annotations

import errno
import grp
import http.client
import os
import pwd
import socket
import ssl
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tychod.doctor import systemd
from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy
from tychod.hostfs import CAP_DAC_READ_SEARCH, render_error
from tychod.runtime.rights import group_name

if TYPE_CHECKING:
    from tychod.doctor.model import Place

CONNECT_S: Final = 1.9
PEER: Final = struct.Struct("3i")
"""struct ucred (unix(7)): pid, uid, gid."""
RSS_MOST: Final = 200 << 20
"""Bytes; the unit ends the daemon at MemoryMax=256M."""
CPU_MOST: Final = 0.05
ROOM_LEAST: Final = 64 << 20
"""Bytes; state takes 1 MB and less, a calibration and what is set aside as much again."""
NOBODY: Final = ("nogroup", "nobody")
"""Of ids that this user namespace does not know: nobody should be a member."""
STATE_MODE: Final = 0o700


def look_at_settings(place: Place) -> Finding:
    """Return how reading the settings went: as `tychod --check-config`."""
    return place.settings


def daemon_pid(place: Place) -> int | None:
    """Return the daemon's process: who listens at its socket, or systemd's main process."""
    found = peer_pid(socket_path(place))
    if found is None or found <= 1:  # systemd made the socket
        unit = systemd.read_unit(place, systemd.SERVICE)
        found = unit.pid if unit else None
    return found or None


def socket_path(place: Place) -> Path:
    """Return where the daemon's socket should be."""
    from tychod.runtime.places import socket_path as path_of

    return path_of(place.config, place.environ)


def peer_pid(path: Path) -> int | None:
    """Return who listens at a socket; None: nobody, or nobody who lets us in."""
    try:
        with connect(path) as peer:
            found: int = PEER.unpack(
                peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
            )[0]
    except OSError:
        return None
    return found


def connect(path: Path) -> socket.socket:
    """Connect and say nothing; OSError where nobody takes it in time."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 1, int((CONNECT_S - 1) * 1e6))
        )
        peer.connect(str(path))
    except BaseException:
        peer.close()
        raise
    return peer


def look_at_capability(place: Place) -> Finding:
    """Read the daemon's effective capabilities."""
    from tychod.kernel.bpf.refusal import parse_capabilities

    pid = daemon_pid(place)
    if pid is None:
        return skip("no process of the daemon is seen from here")
    try:
        data = place.host.process_file(pid, "status")
    except OSError as exc:
        return skip(render_error(exc), remedy("as-root"))
    if data is None:
        return skip(f"process {pid} is not in {place.host.procfs}")
    return judge_capabilities(pid, parse_capabilities(data.decode(errors="replace")))


def judge_capabilities(pid: int, held: int) -> Finding:
    """Say whether capabilities, as bits, hold the one that the daemon uses."""
    if held >> CAP_DAC_READ_SEARCH & 1:
        return ok(f"process {pid} has CAP_DAC_READ_SEARCH (CapEff {held:x})")
    text = f"process {pid} has no CAP_DAC_READ_SEARCH (CapEff {held:x})"
    lost = "names of containers and processes of others may be missing"
    return Finding("warn", f"{text}: {lost}", remedy("capability"))


def look_at_cost(place: Place) -> Finding:
    """Read the daemon's memory, and its CPU time since it was started."""
    pid = daemon_pid(place)
    if pid is None:
        return skip("no process of the daemon is seen from here")
    host = place.host
    try:
        stat_text = (host.process_file(pid, "stat") or b"").decode(errors="replace")
        pages = (host.process_file(pid, "statm") or b"").split()
        uptime = (host.read_text(f"{host.procfs}/uptime") or "").split()
    except OSError as exc:
        return skip(render_error(exc), remedy("as-root"))
    fields = stat_text.rpartition(")")[2].split()
    if len(fields) < 20 or len(pages) < 2 or not uptime:
        return skip(f"process {pid} is not in {host.procfs}")
    tick_s = os.sysconf("SC_CLK_TCK")
    # proc(5): utime and stime are fields 14 and 15, starttime 22; the first after ")" is 3.
    age_s = float(uptime[0]) - int(fields[19]) / tick_s
    cpu_s = (int(fields[11]) + int(fields[12])) / tick_s
    return judge_cost(int(pages[1]) * os.sysconf("SC_PAGE_SIZE"), cpu_s / max(age_s, 1.0), age_s)


def judge_cost(rss: int, cpu: float, age_s: float) -> Finding:
    """Judge resident bytes and the share of a CPU since the start; a start takes more."""
    text = f"{rss / 1e6:.0f} MB resident, {100 * cpu:.1f} % of a CPU since its start"
    if rss > RSS_MOST or (cpu > CPU_MOST and age_s > 60):
        return Finding("warn", text, remedy("cost"))
    return ok(text)


def look_at_socket(place: Place) -> Finding:
    """Look at the control socket: is it there, whose is it, and does it let us in."""
    path = socket_path(place)
    group = place.config.control.group
    try:
        status = path.stat()
    except FileNotFoundError:
        return Finding("fail", f"{path} does not exist", remedy("socket-missing"))
    except OSError as exc:
        return _not_let_in(place, path.parent, render_error(exc))
    if group and not _group_exists(group):
        return Finding("fail", f"there is no group {group}", remedy("socket-group", group=group))
    text = f"{path} is {stat.S_IMODE(status.st_mode):04o}, group {group_name(status.st_gid)}"
    refused = _try(place, path, text)
    if refused is None and status.st_mode & stat.S_IRWXO:
        return Finding("warn", text, remedy("socket-open", path=str(path)))
    return refused or ok(f"{text}; it lets user {place.uid} in")


def _try(place: Place, path: Path, text: str) -> Finding | None:
    """Connect to the socket and return what kept us out; None: nothing did."""
    try:
        connect(path).close()
    except PermissionError:
        return _not_let_in(place, path, f"{text}: permission denied")
    except OSError as exc:
        # EAGAIN: the queue of those who wait is full; nobody takes them.
        why = "nobody accepts" if exc.errno == errno.EAGAIN else exc.strerror
        return Finding("fail", f"{text}: {why}", remedy("socket-dead"))
    return None


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _not_let_in(place: Place, path: Path, text: str) -> Finding:
    try:
        gid = path.stat().st_gid
    except OSError:
        gid = 0
    return judge_refused(text, gid=gid, uid=place.uid)


def judge_refused(text: str, *, gid: int, uid: int) -> Finding:
    """Return how a user gets to a socket of a group; nobody should join root's for it."""
    group, user = group_name(gid), user_name(uid)
    is_named = not (group.isdecimal() or user.isdecimal() or group in NOBODY)
    if gid == 0 or not is_named:
        return Finding("warn", text, remedy("as-root"))
    told = remedy("socket-member", group=group, user=user)
    return Finding("warn", text, told)


def user_name(uid: int) -> str:
    """Return a user's name, the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def state_path(place: Place) -> Path:
    """Return the daemon's state directory: the unit's, but a user's own of who runs it so.

    The client has the running daemon's own word for it.
    """
    from tychod.runtime.places import state_directory

    by_unit = Path(f"{place.host.var}/lib/tychod")
    own = state_directory(place.environ, place.uid)
    if place.environ.get("STATE_DIRECTORY"):
        return own
    is_own = place.uid != 0 and not by_unit.exists() and own.exists()
    return own if is_own else by_unit


def look_at_state(place: Place) -> Finding:
    """Look at the state directory: mode, owner, whether it can be written, room."""
    path = state_path(place)
    try:
        status = path.stat()
    except FileNotFoundError:
        text = f"{path} does not exist; the daemon makes it at its start"
        return Finding("warn", text, remedy("state-missing", path=str(path), owner=_owner(place)))
    except OSError as exc:
        return skip(render_error(exc), remedy("as-root"))
    mode = stat.S_IMODE(status.st_mode)
    owner = user_name(status.st_uid)
    text = f"{path} is {mode:04o}, owner {owner}"
    if mode != STATE_MODE:
        return Finding("warn", text, remedy("state-mode", path=str(path)))
    if place.uid not in (0, status.st_uid):
        return skip(f"{text}; whether it is written only its owner sees")
    found = os.statvfs(path)
    room = found.f_bavail * found.f_frsize
    return judge_state(text, path, owner, room, is_writable=os.access(path, os.W_OK))


def _owner(place: Place) -> str:
    """Return who is to own a state directory: systemd's user, or who runs the daemon by hand."""
    try:
        pwd.getpwnam("tychod")
    except KeyError:
        return user_name(place.uid)
    return "tychod"


def judge_state(text: str, path: Path, owner: str, room: int, *, is_writable: bool) -> Finding:
    """Judge a state directory by room in bytes and whether it can be written."""
    if not is_writable:
        told = f"{text}: it cannot be written"
        return Finding("fail", told, remedy("state-unwritable", path=str(path), owner=owner))
    text = f"{text}, {room / 1e6:.0f} MB free"
    if room < ROOM_LEAST:
        return Finding("fail", text, remedy("state-space", path=str(path)))
    return ok(text)


def look_at_metrics(place: Place) -> Finding:
    """Ask the metrics endpoint whether it is well; no measurement comes of it."""
    settings = place.config.metrics
    if not settings.enabled:
        return skip("[metrics] enabled = false")
    name, _, port = settings.listen.rpartition(":")
    name = name.strip("[]")
    where = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104
    if settings.client_ca_file:  # it talks to those alone whose certificate it knows
        return _look_at_port(settings.listen, where, int(port))
    connection = _endpoint(where, int(port), is_tls=bool(settings.tls_cert_file))
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return Finding("fail", f"{settings.listen}: {exc}", remedy("metrics"))
    finally:
        connection.close()
    # 401: it is there, and asks for a password that we do not have.
    if status not in (http.client.OK, http.client.UNAUTHORIZED):
        return Finding("fail", f"{settings.listen}/healthz: HTTP {status}", remedy("metrics"))
    return ok(f"{settings.listen}/healthz: HTTP {status}")


def _look_at_port(listen: str, host: str, port: int) -> Finding:
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as exc:
        return Finding("fail", f"{listen}: {exc}", remedy("metrics"))
    return ok(f"{listen} takes connections; it asks for a client certificate")


def _endpoint(host: str, port: int, *, is_tls: bool) -> http.client.HTTPConnection:
    if not is_tls:
        return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
    # It is asked on this machine whether it is well: whose certificate it shows is no matter.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=context)
