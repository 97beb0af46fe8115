"""Which devices each container has, asked of the kubelet's pod-resources socket (gRPC).

Only root may connect to it as a rule.  A question runs in a thread of its own and ends within its
time, so whoever polls never waits; a bad answer leaves the last good one in place.
"""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from tychod.hostfs import render_error
from tychod.workloads.kubelet import Unavailable, fault_of
from tychod.workloads.kubeletfiles import UNUSED, absent, find_newest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tychod.hostfs import Host

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
INTERVAL_NS: Final = 60 * SECOND_NS
SOON_NS: Final = SECOND_NS
TIMEOUT_S: Final = 2.0
PATIENCE_NS: Final = round(2 * TIMEOUT_S * SECOND_NS)
"""More than a question takes by itself, were its thread ever to stop running."""
CLOSING_S: Final = 0.1
LIMIT_BYTES: Final = 8 << 20
MOST_IDS: Final = 1 << 16
NAME_LIMIT: Final = 1024
FORBIDDEN: Final = "let the daemon's user write to that socket, or read the kubelet's checkpoint"
METHOD: Final = "/v1.PodResourcesLister/List"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED: Final = {FIXED64: 8, FIXED32: 4}

Key = tuple[str, str, str]
"""Namespace, pod and container: the interface knows neither uid nor container id."""
Answer = dict[Key, dict[str, tuple[str, ...]]]


class MessageError(Exception):
    """A message is not of the form that the interface declares."""


def parse_fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each field that has bytes; others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _parse_varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _parse_varint(data, at)
            continue
        if kind == BYTES:
            length, at = _parse_varint(data, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise MessageError(f"a field of kind {kind}")
        if length > len(data) - at:
            raise MessageError("a field that goes beyond its end")
        if kind == BYTES:
            yield tag >> 3, data[at : at + length]
        at += length


def _parse_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise MessageError("a number that goes beyond its end")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise MessageError("a number of more than 64 bits")


def parse_answer(data: bytes) -> Answer:
    """Return container -> resource -> sorted device ids of a ListPodResourcesResponse.

    A resource comes once with all its ids, or once per id where the plugin tells NUMA nodes;
    containers without devices are left out.
    """
    found: Answer = {}
    left = MOST_IDS
    for number, pod in parse_fields(memoryview(data)):
        if number == 1:
            left -= _take_pod(pod, found, left)
    return found


def _take_pod(pod: memoryview, found: Answer, most: int) -> int:
    """Add a pod's containers; return how many device ids they had."""
    name = namespace = ""
    containers = []
    for number, value in parse_fields(pod):
        if number == 1:
            name = _text(value)
        elif number == 2:
            namespace = _text(value)
        elif number == 3:
            containers.append(value)
    count = 0
    for container in containers:
        own_name, devices = _parse_container(container, most - count)
        if devices:
            count += sum(len(ids) for ids in devices.values())
            found[namespace, name, own_name] = {
                resource: tuple(sorted(ids)) for resource, ids in devices.items()
            }
    return count


def _parse_container(container: memoryview, most: int) -> tuple[str, dict[str, set[str]]]:
    name = ""
    devices: dict[str, set[str]] = {}
    for number, value in parse_fields(container):
        if number == 1:
            name = _text(value)
        elif number == 2:
            resource, ids = _parse_devices(value, most)
            if ids:
                devices.setdefault(resource, set()).update(ids)
            most -= len(ids)
    return name, devices


def _parse_devices(value: memoryview, most: int) -> tuple[str, list[str]]:
    resource = ""
    ids: list[str] = []
    for number, part in parse_fields(value):
        if number == 1:
            resource = _text(part)
        elif number == 2:
            ids.append(_text(part))
            if len(ids) > most:
                raise MessageError(f"more than {MOST_IDS} device ids")
    return resource, ids


def _text(value: memoryview) -> str:
    if len(value) > NAME_LIMIT:
        raise MessageError(f"a name of more than {NAME_LIMIT} bytes")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise MessageError("a name that is not UTF-8") from None


class _Question(NamedTuple):
    """A call under way."""

    asked_ns: int
    thread: threading.Thread
    outcome: SimpleQueue[Answer | Unavailable | Exception]


class PodResources:
    """Asks the kubelet once a minute and, at most once a second, out of turn."""

    def __init__(self, host: Host, paths: tuple[str, ...]) -> None:
        self._host = host
        self._paths = paths
        self._problem: Unavailable | None = None
        self._question: _Question | None = None
        self._given_up: threading.Thread | None = None
        self._failures = 0  # since the last good answer
        self._has_answer = False
        self.asked_ns: int | None = None
        self.view: Mapping[Key, Mapping[str, tuple[str, ...]]] = {}

    @property
    def is_current(self) -> bool:
        """Whether the last question had a good answer, which is the view."""
        return self._has_answer and self._problem is None

    @property
    def route(self) -> str:
        """Return ok, or why devices do not come this way and what to do."""
        if self._problem:
            return f"stale: {self._problem}" if self._has_answer else str(self._problem)
        return "ok" if self._has_answer else "not asked yet"

    def poll(self, now_ns: int, *, soon: bool = False) -> None:
        """Take in an answer that has come and ask again when it is time; never waits."""
        if self._question is not None:
            self._collect(self._question, now_ns)
        if self._question is None and self._is_due(now_ns, soon):
            self._ask(now_ns)

    def close(self) -> None:
        """Wait a moment for a question under way; its own time-out ends one that hangs."""
        for thread in (self._question.thread if self._question else None, self._given_up):
            if thread is not None:
                thread.join(CLOSING_S)

    def _is_due(self, now_ns: int, soon: bool) -> bool:
        if self.asked_ns is None:
            return True
        if self._given_up is not None and self._given_up.is_alive():
            return False
        pause_ns = SOON_NS if soon else INTERVAL_NS
        if self._failures:
            pause_ns = min(INTERVAL_NS, SOON_NS << min(self._failures - 1, 6))
        return now_ns - self.asked_ns >= pause_ns

    def _ask(self, now_ns: int) -> None:
        self.asked_ns = now_ns
        try:
            found = find_newest(self._host, self._paths)
        except OSError as exc:
            self._failed(render_error(exc), FORBIDDEN)
            return
        if found is None:
            unused = not self._has_answer
            self._failed(*absent(self._paths, unused=unused))
            return
        outcome: SimpleQueue[Answer | Unavailable | Exception] = SimpleQueue()
        thread = threading.Thread(
            target=_run, args=(found[0], outcome), name="pod-resources-question", daemon=True
        )
        self._question = _Question(now_ns, thread, outcome)
        thread.start()

    def _collect(self, question: _Question, now_ns: int) -> None:
        try:
            outcome = question.outcome.get_nowait()
        except Empty:
            if now_ns - question.asked_ns > PATIENCE_NS:
                self._question, self._given_up = None, question.thread
                self._failed(f"no answer in {TIMEOUT_S:g} s", "see whether the kubelet hangs")
            return
        question.thread.join()
        self._question = None
        if isinstance(outcome, Unavailable):
            self._failed(*outcome)
        elif isinstance(outcome, Exception):
            self._failed(*fault_of(outcome))
        else:
            self._heard(outcome)

    def _heard(self, answer: Answer) -> None:
        if self._problem or not self._has_answer:
            again = " again" if self._has_answer else ""
            log.info("the kubelet's pod-resources answer%s", again, extra={"source": "kubelet"})
        self.view, self._has_answer = answer, True
        self._problem, self._failures = None, 0

    def _failed(self, reason: str, remedy: str) -> None:
        self._failures += 1
        problem = Unavailable(reason, remedy)
        if problem != self._problem and not reason.startswith(UNUSED):
            log.log(  # as a rule root alone may ask, so that it never works is no warning
                logging.WARNING if self._has_answer else logging.INFO,
                "no devices from pod-resources: %s. %s",
                reason,
                remedy,
                extra={"source": "kubelet"},
            )
        self._problem = problem


def _run(path: str, outcome: SimpleQueue[Answer | Unavailable | Exception]) -> None:
    """Ask once (thread); what goes wrong unexpectedly is told where the answer is collected."""
    try:
        outcome.put(read_pod_resources(path))
    except Exception as exc:  # noqa: BLE001 - outermost frame of the thread, handed on
        outcome.put(exc)


def read_pod_resources(path: str) -> Answer | Unavailable:
    """Ask the kubelet at a socket which devices its containers have; takes up to 2 s."""
    from tychod.workloads.grpc_unary import CallError, call

    try:
        return parse_answer(call(path, METHOD, b"", TIMEOUT_S, LIMIT_BYTES))
    except PermissionError as exc:
        return Unavailable(f"{path}: {exc.strerror}", FORBIDDEN)
    except OSError as exc:
        return Unavailable(f"{path}: {render_error(exc)}", "see whether the kubelet runs")
    except CallError as exc:
        return Unavailable(f"{path}: {exc}", "see the kubelet's log")
    except MessageError as exc:
        return Unavailable(f"{path}: the answer has {exc}", "report it with the kubelet's version")
