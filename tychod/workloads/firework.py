"""What a Firework agent on this host says of its microVMs; optional.

A question runs in a thread of its own and is given up when it takes too long, so whoever polls
never waits.  A bad answer leaves the last good one in place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

from tychod.documents import parse_json
from tychod.workloads.hypervisors import believed_id, bounded_name
from tychod.workloads.kubelet import Unavailable, fault_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import requests

    from tychod.http_line import Line
    from tychod.workloads.vmprocs import VmProcess

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
INTERVAL_NS: Final = 15 * SECOND_NS
SOON_NS: Final = SECOND_NS
TIMEOUT_S: Final = 5.0
PATIENCE_NS: Final = 6 * SECOND_NS
"""Longest that a whole question may take: the answer, and the library's start."""
BODY_LIMIT: Final = 1 << 20  # an agent tells of 256 services at most, some 1 kB each
MOST_BYTES: Final = 16 << 20  # once read
CLOSING_S: Final = 0.1
_CHUNK: Final = 16 << 10
_LARGEST_PID: Final = 1 << 22  # PID_MAX_LIMIT
_MOST_RESTARTS: Final = 1 << 53
_OFF: Final = Unavailable(
    "no Firework agent is configured", "set [workloads] firework_status to its address"
)


class Service(NamedTuple):
    """One service of an agent whose microVM runs; ``asked_boot_ns`` is since boot."""

    name: str
    pid: int
    asked_boot_ns: int  # before the answer that told of it; suspended time included
    state: str | None = None
    health: str | None = None
    restarts: int | None = None
    node: str | None = None
    revision: str | None = None


class FireworkStatus(NamedTuple):
    """How asking the agent goes; times are monotonic."""

    problem: Unavailable | None  # None: the last answer was good, or there was none yet
    answers: int
    errors: int
    last_good_ns: int | None


class FireworkError(Exception):
    """The agent gave no status: why, and what a person can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class _Question(NamedTuple):
    asked_ns: int
    asked_boot_ns: int
    thread: threading.Thread
    line: Line
    outcome: SimpleQueue[tuple[Service, ...] | Exception]


class Firework:
    """Asks the agent every 15 s and, within limits, when a microVM is unknown."""

    def __init__(self, url: str) -> None:
        """``url`` is the agent's, as in the settings; empty: it is never asked."""
        self._url = status_url(url) if url else ""
        self._off = None if url else _OFF
        self._problem = self._off
        self._tick_ns = SECOND_NS // os.sysconf("SC_CLK_TCK")
        self._question: _Question | None = None
        self._given_up: _Question | None = None
        self._failures = 0  # since the last good answer
        self._answers = 0
        self._errors = 0
        self._last_good_ns: int | None = None
        self.services: Mapping[int, Service] = {}
        self.asked_ns: int | None = None

    @property
    def route(self) -> str:
        """Return ok, or why services do not come this way and what to do."""
        if self._problem:
            return str(self._problem) if self._last_good_ns is None else f"stale: {self._problem}"
        return "ok" if self._last_good_ns is not None else "not asked yet"

    def status(self) -> FireworkStatus:
        """Return counts and the present problem."""
        return FireworkStatus(self._problem, self._answers, self._errors, self._last_good_ns)

    def service_of(self, vm: VmProcess) -> Service | None:
        """Return the service that a hypervisor's process runs, None if the agent knows none.

        An answer from before the process began is of another one that had its pid, and the
        command line, which the process really has, is believed against the agent.
        """
        service = self.services.get(vm.pid)
        if service is None or vm.machine.hypervisor != "firecracker":
            return None
        if service.asked_boot_ns < (vm.start_ticks + 1) * self._tick_ns:
            return None
        told = vm.machine.id if vm.machine.identified_by == "api-sock" else None
        return service if told in (None, service.name) else None

    def poll(self, now_ns: int, *, soon: bool = False) -> None:
        """Take in an answer that has come and ask again when it is time; never waits.

        ``soon`` asks before the interval is over, for a microVM that is not known yet.
        """
        if self._off:
            return
        if self._question is not None:
            self._collect(self._question, now_ns)
        if self._question is None and self._is_due(now_ns, soon):
            self._ask(now_ns)

    def close(self) -> None:
        """Give a question under way a moment; one that hangs is left to its own end."""
        if self._question is not None:
            self._question.thread.join(CLOSING_S)

    def _is_due(self, now_ns: int, soon: bool) -> bool:
        if self.asked_ns is None:
            return True
        if self._given_up is not None and self._given_up.thread.is_alive():
            self._given_up.line.cut()  # once more: it may have been made after the last time
            return False  # one hung question is enough
        pause_ns = SOON_NS if soon else INTERVAL_NS
        if self._failures:
            pause_ns = min(INTERVAL_NS, SOON_NS << min(self._failures - 1, 8))
        return now_ns - self.asked_ns >= pause_ns

    def _ask(self, now_ns: int) -> None:
        from tychod.http_line import Line, new_session  # not first in the thread

        self.asked_ns = now_ns
        outcome: SimpleQueue[tuple[Service, ...] | Exception] = SimpleQueue()
        asked_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # as processes' starts are
        session = new_session()
        line = Line(session)
        thread = threading.Thread(
            target=_answer,
            args=(session, self._url, asked_boot_ns, outcome),
            name="firework-question",
            daemon=True,
        )
        self._question = _Question(now_ns, asked_boot_ns, thread, line, outcome)
        thread.start()

    def _collect(self, question: _Question, now_ns: int) -> None:
        try:
            outcome = question.outcome.get_nowait()
        except Empty:
            if now_ns - question.asked_ns > PATIENCE_NS:
                self._question, self._given_up = None, question
                question.line.cut()
                self._failed(_too_slow())
            return
        question.thread.join()
        self._question = None
        if isinstance(outcome, FireworkError):
            self._failed(outcome)
        elif isinstance(outcome, Exception):
            self._failed(fault_of(outcome))
        else:
            self._heard(outcome, now_ns)

    def _heard(self, services: tuple[Service, ...], now_ns: int) -> None:
        if self._problem or self._last_good_ns is None:
            again = " again" if self._problem else ""
            log.info("the Firework agent tells its services%s", again, extra={"source": "firework"})
        self.services, self._problem = {s.pid: s for s in services}, None
        self._failures = 0
        self._answers += 1
        self._last_good_ns = now_ns

    def _failed(self, error: FireworkError | Unavailable) -> None:
        self._failures += 1
        self._errors += 1
        problem = Unavailable(error.reason, error.remedy)
        if problem != self._problem:
            log.warning(
                "no services from the Firework agent: %s. %s",
                problem.reason,
                problem.remedy,
                extra={"source": "firework"},
            )
        self._problem = problem


def status_url(url: str) -> str:
    """Return where an agent tells its status, whether or not the setting says ``/status``."""
    return url.rstrip("/").removesuffix("/status") + "/status"


def parse_status(body: bytes, asked_boot_ns: int) -> tuple[Service, ...]:
    """Return the services whose microVM has a process; FireworkError if it is no agent's status.

    Whatever version it says, what is known of it is read; a field that is not what it should be
    counts as absent, and of two services with one process neither is believed.
    """
    try:
        document = parse_json(body, MOST_BYTES)
    except ValueError as exc:
        _refuse(f"the answer is {exc}")
    if not isinstance(document, dict):
        _refuse("the answer is no status")
    # An agent without services leaves the list out, so its version must speak for it.
    listed = document.get("services")
    if listed is None and ("schema_version" in document or "last_revision" in document):
        listed = []
    if not isinstance(listed, list):
        _refuse("the answer has no list of services")
    found: dict[int, Service] = {}
    twice = set()
    for service in _services(listed, document, asked_boot_ns):
        if service.pid in found:
            twice.add(service.pid)
        found[service.pid] = service
    return tuple(service for pid, service in found.items() if pid not in twice)


def _services(
    listed: list[object], document: Mapping[str, object], asked_boot_ns: int
) -> Iterator[Service]:
    node = _text(document, "node")
    # "revision" and "last_revision" are older agents'
    revision = _text(document, "applied_revision", "revision", "last_revision")
    for entry in listed:
        if not isinstance(entry, dict):
            continue
        name = entry.get("name")
        pid = _number(entry.get("pid"), _LARGEST_PID)
        if not isinstance(name, str) or believed_id(name) is None or not pid:
            continue
        yield Service(
            name,
            pid,
            asked_boot_ns,
            state=_text(entry, "vm_state", "state"),
            health=_text(entry, "health"),
            # Go leaves a zero out.
            restarts=_number(entry.get("restart_count", entry.get("restarts", 0)), _MOST_RESTARTS),
            node=_text(entry, "node") or node,
            revision=_text(entry, "revision") or revision,
        )


def _text(record: Mapping[str, object], *keys: str) -> str | None:
    values = (record.get(key) for key in keys)
    return next((bounded_name(v) for v in values if isinstance(v, str) and v), None)


def _number(value: object, most: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= most else None


def _refuse(reason: str) -> NoReturn:
    raise FireworkError(reason, "see [workloads] firework_status and what answers there")


def _answer(
    session: requests.Session,
    url: str,
    asked_boot_ns: int,
    outcome: SimpleQueue[tuple[Service, ...] | Exception],
) -> None:
    """Run one exchange (thread); what goes wrong is told where the answer is collected."""
    try:
        outcome.put(parse_status(_read_status(session, url), asked_boot_ns))
    except Exception as exc:  # noqa: BLE001 - outermost frame of the thread, handed on
        outcome.put(exc)


def _read_status(session: requests.Session, url: str) -> bytes:
    """Return the body of the agent's answer; FireworkError if there is no whole one in time."""
    import requests

    from tychod.http_line import ask

    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        with session, ask(session, url, TIMEOUT_S) as response:
            if response.status_code != 200:
                raise _refusal_of_status(response.status_code)
            return _body(response, deadline_s)
    except requests.RequestException as exc:
        raise _refusal(exc, url) from None


def _body(response: requests.Response, deadline_s: float) -> bytes:
    from tychod.http_line import read_body

    body = bytearray()
    for chunk in read_body(response, _CHUNK):
        body += chunk
        if len(body) > BODY_LIMIT:
            _refuse(f"the answer is longer than {BODY_LIMIT >> 20} MiB")
        if time.monotonic() > deadline_s:
            raise _too_slow()
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(body) < int(length):
        raise _broken()  # older libraries take a short body for a whole one
    return bytes(body)


def _refusal_of_status(status: int) -> FireworkError:
    if status == 404:
        return FireworkError(
            "nothing at that address (HTTP 404)",
            "set [workloads] firework_status to the agent's api_listen_addr",
        )
    if status >= 500:
        return FireworkError(f"the agent failed (HTTP {status})", "see its log; it is asked again")
    return FireworkError(
        f"unexpected answer (HTTP {status})",
        "set [workloads] firework_status to the agent's api_listen_addr",
    )


def _refusal(exc: requests.RequestException, url: str) -> FireworkError:
    """Say in a few words why a request failed; the library's own text may hold anything."""
    import requests

    if isinstance(exc, requests.ConnectTimeout | requests.ReadTimeout):
        return _too_slow()
    if isinstance(exc, requests.ConnectionError) and "Read timed out" in str(exc):
        return _too_slow()  # in the middle of a body
    if isinstance(exc, requests.exceptions.ChunkedEncodingError) or "reset by peer" in str(exc):
        return _broken()
    if isinstance(exc, requests.ConnectionError) and "onnection aborted" in str(exc):
        return _broken()
    return FireworkError(
        f"no connection to {urlsplit(url).netloc.rpartition('@')[2]}",
        "see whether the agent runs with api_listen_addr set, and [workloads] firework_status",
    )


def _too_slow() -> FireworkError:
    return FireworkError(
        f"no whole answer in {TIMEOUT_S:g} s", "see whether the agent is overloaded or hangs"
    )


def _broken() -> FireworkError:
    return FireworkError("the answer broke off", "it is asked again; see the agent's log")
