"""Load in a short-lived child that hands its descriptors over: compilers and BTF stay out of us.

The child gets one JSON object on its standard input and the number of a socket as last argument.
It sends one message back and ends.  The child's half of this module needs nothing but Python.
"""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from tychod.kernel.bpf.plan import Loaded, LoadError, LoadPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S: Final = 30.0
MESSAGE_BYTES: Final = 1 << 16
MOST_FDS: Final = 250  # SCM_MAX_FD is 253
ERROR_BYTES: Final = 2000
HIDDEN_COMMAND: Final = "hand-over"

# -I keeps the caller's PYTHON* variables and directory out, as the packaged launchers do.
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from tychod.load import main; sys.exit(main(sys.argv[1:]))"
)


class Backend(NamedTuple):
    """How a backend's child is started; ``request`` is what it is told besides the plan."""

    name: str
    command: tuple[str, ...]
    request: Mapping[str, object] = {}


class Request(NamedTuple):
    """What a child was asked for."""

    plan: LoadPlan
    rest: Mapping[str, object]


def core_backend() -> Backend:
    """Return the backend that loads the compiled programs, on this Python."""
    command = (sys.executable, "-I", "-c", _START, str(project_root()), HIDDEN_COMMAND)
    return Backend("core", command)


def project_root() -> Path:
    """Return the directory that holds the package ``tychod``: a child must find the same one."""
    return Path(__file__).resolve().parents[3]


def load_in_child(plan: LoadPlan, backend: Backend, timeout_s: float = TIMEOUT_S) -> Loaded:
    """Load by a child and return its descriptors; LoadError where it could not."""
    request = json.dumps({"plan": asdict(plan), **backend.request}).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    errors = os.memfd_create("stderr")
    try:
        ours.settimeout(timeout_s)
        with theirs:
            process = _start(backend, request, theirs, errors)
        try:
            loaded = _receive(ours, backend, errors)
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass  # it has given us everything
        finally:
            process.kill()
            process.wait()
    finally:
        ours.close()
        os.close(errors)
    return loaded


def _start(
    backend: Backend, request: bytes, theirs: socket.socket, errors: int
) -> subprocess.Popen[bytes]:
    given = os.memfd_create("request")
    try:
        os.write(given, request)
        os.lseek(given, 0, os.SEEK_SET)
        return subprocess.Popen(
            (*backend.command, str(theirs.fileno())),
            stdin=given,
            stdout=errors,
            stderr=errors,
            pass_fds=(theirs.fileno(),),
            cwd="/",
        )
    except OSError as exc:
        raise LoadError(
            f"{backend.command[0]} cannot be started: {exc.strerror}",
            "install the package again",
        ) from exc
    finally:
        os.close(given)


def _receive(ours: socket.socket, backend: Backend, errors: int) -> Loaded:
    try:
        data, fds = _receive_message(ours)
    except TimeoutError:
        raise LoadError(
            f"the loader {backend.name} did not finish within {ours.gettimeout():g} s",
            "see whether the machine is overloaded, then start tychod again",
        ) from None
    if not data:
        size = os.fstat(errors).st_size
        said = os.pread(errors, ERROR_BYTES, max(size - ERROR_BYTES, 0)).decode(errors="replace")
        last = "; ".join(said.strip().splitlines()[-3:]) or "without a word"
        raise LoadError(
            f"the loader {backend.name} ended early: {last}",
            "run tychod-load attach by hand to see more",
        )
    return parse_answer(data, fds)


def _receive_message(ours: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors, closed at exec (socket.recv_fds ignores that flag)."""
    room = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)
    data, control, _, _ = ours.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, value in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    return data, list(fds)


def parse_answer(data: bytes, fds: list[int]) -> Loaded:
    """Put names to a child's descriptors; LoadError where it says so or they do not fit."""
    answer = _parse(data)
    if isinstance(answer, Answer) and len(answer.maps) + len(answer.links) == len(fds):
        links = fds[len(answer.maps) :]
        return Loaded(
            dict(zip(answer.maps, fds, strict=False)),
            dict(zip(answer.links, links, strict=True)),
            answer.notes,
        )
    _close(fds)
    if isinstance(answer, LoadError):
        raise answer
    raise LoadError(f"the loader gave {len(fds)} descriptors, not what it named", "report this")


class Answer(NamedTuple):
    """What a child says it hands over."""

    maps: tuple[str, ...]
    links: tuple[str, ...]
    notes: tuple[str, ...]


def _parse(data: bytes) -> Answer | LoadError:
    try:
        answer = json.loads(data)
        if "error" in answer:
            return LoadError(str(answer["error"]["reason"]), str(answer["error"]["remedy"]))
        return Answer(*(tuple(map(str, answer[name])) for name in Answer._fields))
    except (ValueError, TypeError, KeyError) as exc:
        return LoadError(f"the loader's answer is damaged: {exc!r}", "report this")


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# ---- the child's half ----


def read_request(stream: IO[bytes]) -> Request:
    """Return what this child was asked for on its standard input."""
    rest = json.load(stream)
    plan = rest.pop("plan")
    for name in ("packages", "counters"):
        plan[name] = tuple(plan[name])
    return Request(LoadPlan(**plan), rest)


def hand_over(number: int, loaded: Loaded) -> None:
    """Send all descriptors to the parent; the kernel keeps them while they are under way."""
    text = {"maps": list(loaded.maps), "links": list(loaded.links), "notes": list(loaded.notes)}
    _send(number, text, [*loaded.maps.values(), *loaded.links.values()])


def hand_over_error(number: int, error: LoadError) -> None:
    """Tell the parent why there is nothing to hand over."""
    _send(number, {"error": {"reason": error.reason, "remedy": error.remedy}}, [])


def _send(number: int, text: Mapping[str, object], fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(fileno=number) as channel:
        channel.sendmsg([json.dumps(text).encode()[:MESSAGE_BYTES]], rights)
