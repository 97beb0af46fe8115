"""When the kubelet is asked for its pods, and what its last good answer was.

A question runs in a thread of its own and is given up when it takes too long, so whoever polls
never waits.  A bad answer leaves the last good one in place and marks it stale.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from tychod.workloads.nodenames import NODE_REMEDY, NodeName
from tychod.workloads.pods import Pod, PodView, claims

if TYPE_CHECKING:
    from tychod import config
    from tychod.hostfs import Host
    from tychod.workloads.kubelet_http import Exchange

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
SOON_NS: Final = SECOND_NS // 4
"""Least pause between two questions, whatever is unknown."""
MOST_A_SECOND: Final = 3
RESTING: Final = 150
"""Times the last answer's CPU time that a question out of turn waits: 0.7 % of a core."""
REST_MOST_NS: Final = 3 * SECOND_NS
"""Longest such wait: a new container shall have its name in its first full window."""
WANTED_NS: Final = 2 * SECOND_NS
"""Longest pause after failures while somebody is unknown."""
RETRY_NS: Final = SECOND_NS
"""Pause after the first failure; it doubles with each further one, up to the interval."""
CLOSING_S: Final = 0.1
STALE_INTERVALS: Final = 3


class Unavailable(NamedTuple):
    """Why the kubelet gives nothing, and what a person can do."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


def fault_of(exc: BaseException) -> Unavailable:
    """Return that an answer led to a fault in tychod: only the question is lost, not the daemon.

    Who answers may have chosen the exception's text, so that is left out: where it was is told.
    """
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" in {at.tb_frame.f_code.co_name}, line {at.tb_lineno}" if at else ""
    return Unavailable(
        f"the answer led to a fault in tychod ({type(exc).__name__}{where})",
        "see what answers at that address; report it with tychod's version",
    )


class KubeletStatus(NamedTuple):
    """How asking the kubelet goes; times are monotonic."""

    problem: Unavailable | None  # None: the last answer was good, or there was none yet
    answers: int
    errors: int
    last_good_ns: int | None
    foreign: int = 0  # pods of other nodes in the last answer, left out
    contested: int = 0  # container ids that several pods named in it
    node_name: str | None = None  # by which pods are told from other nodes'; None: not known yet


class _Question(NamedTuple):
    """An exchange under way."""

    asked_ns: int
    thread: threading.Thread
    outcome: SimpleQueue[tuple[Pod, ...] | Exception]


class Kubelet:
    """Asks this node's kubelet at its interval and, within limits, when something is unknown."""

    def __init__(self, settings: config.Kubelet, host: Host, node_name: str) -> None:
        self._settings = settings
        self._host = host
        self._node_name = node_name
        self._node = NodeName(settings.node_name, node_name, _is_own(settings))
        self._off = _why_not(settings)
        self._problem = self._off
        self._exchange: Exchange | None = None
        self._question: _Question | None = None
        self._given_up: tuple[threading.Thread, Exchange | None] | None = None
        self._failures = 0  # since the last good answer
        self._answers = 0
        self._errors = 0
        self._last_good_ns: int | None = None
        self._foreign = 0
        self._contested = 0
        self._doubt = ""  # what was said last about pods of others
        self._asked: deque[int] = deque(maxlen=MOST_A_SECOND)
        self._cost_ns = 0  # CPU time of the last answer
        self.view: PodView | None = None
        self.asked_ns: int | None = None

    def probe(self) -> Unavailable | None:
        """Return why the kubelet is not asked at all, or None."""
        return self._off

    @property
    def route(self) -> str:
        """Return ok, or why pods do not come this way and what to do; stale where they did."""
        if self._problem:
            return str(self._problem) if self._last_good_ns is None else f"stale: {self._problem}"
        if self._last_good_ns is None:
            return "not asked yet"
        notes = [note for note in (self._doubt, self._node.note) if note]
        return "; ".join(["ok", *notes])

    def status(self) -> KubeletStatus:
        """Return counts and the present problem."""
        return KubeletStatus(
            problem=self._problem,
            answers=self._answers,
            errors=self._errors,
            last_good_ns=self._last_good_ns,
            foreign=self._foreign,
            contested=self._contested,
            node_name=self._node.name,
        )

    def is_stale(self, now_ns: int) -> bool:
        """Say whether the last good answer is old, or was followed by a bad one."""
        if self._last_good_ns is None:
            return False
        return self._failures > 0 or self._is_old(now_ns)

    def poll(self, now_ns: int, *, soon: bool = False) -> None:
        """Take in an answer that has come and ask again when it is time; never waits.

        ``soon`` asks before the interval is over, for a container that is not known yet.
        """
        if self._off:
            return
        if self._question is not None:
            self._collect(self._question, now_ns)
        if self._question is None and self._is_due(now_ns, soon):
            self._ask(now_ns)

    def close(self) -> None:
        """Close the kept connection; a question that hangs is left to its own end."""
        exchange, self._exchange = self._exchange, None
        if self._question is not None:
            self._question.thread.join(CLOSING_S)
            if self._question.thread.is_alive():
                return  # its thread closes the connection when it ends
        if exchange is not None:
            exchange.close()

    def _is_due(self, now_ns: int, soon: bool) -> bool:
        if self.asked_ns is None:
            return True
        if self._hangs():
            return False  # one hung question is enough
        if self._failures:  # a kubelet that restarts is back in 2-3 s; a dead one rests
            rest_ns = WANTED_NS if soon else self._interval_ns
            pause_ns = min(rest_ns, RETRY_NS << min(self._failures - 1, 12))
        else:
            pause_ns = self._soon_ns(now_ns) if soon else self._interval_ns
        return now_ns - self.asked_ns >= pause_ns

    def _hangs(self) -> bool:
        """Say whether a question that was given up goes on; its connection is cut, so not long."""
        thread, exchange = self._given_up or (None, None)
        if thread is None or not thread.is_alive():
            return False
        if exchange is not None:
            exchange.cut()  # once more: it may have been made only after the last time
        return True

    def _soon_ns(self, now_ns: int) -> int:
        """Return the pause after the last question for one out of turn."""
        if len(self._asked) == MOST_A_SECOND and now_ns - self._asked[0] < SECOND_NS:
            return self._interval_ns
        rest_ns = min(REST_MOST_NS, RESTING * self._cost_ns)
        return min(self._interval_ns, max(SOON_NS, rest_ns))

    @property
    def _interval_ns(self) -> int:
        return round(self._settings.interval * SECOND_NS)

    @property
    def _patience_ns(self) -> int:
        """Longest a whole question may take: connecting, the answer, and the library's start."""
        return round((2 * self._settings.timeout + 1) * SECOND_NS)

    def _is_old(self, now_ns: int) -> bool:
        last_ns = self._last_good_ns or 0
        return now_ns - last_ns > STALE_INTERVALS * self._interval_ns

    def _ask(self, now_ns: int) -> None:
        # Not first in the question's thread: Debian 12's `six` finds modules under Python's import
        # lock, and two threads that import `requests` at one time may wait for each other for ever.
        import tychod.workloads.kubelet_http  # noqa: F401

        self.asked_ns = now_ns
        self._asked.append(now_ns)
        outcome: SimpleQueue[tuple[Pod, ...] | Exception] = SimpleQueue()
        thread = threading.Thread(
            target=self._answer, args=(outcome,), name="kubelet-question", daemon=True
        )
        self._question = _Question(now_ns, thread, outcome)
        thread.start()

    def _answer(self, outcome: SimpleQueue[tuple[Pod, ...] | Exception]) -> None:
        """Run one exchange (thread); what goes wrong is told where the answer is collected."""
        from tychod.workloads.kubelet_http import Exchange

        exchange = self._exchange
        if exchange is None:
            exchange = Exchange(self._settings, self._host, self._node_name)
            self._exchange = exchange
        try:
            outcome.put(exchange.read_pods())
        except Exception as exc:  # noqa: BLE001 - outermost frame of the thread, handed on
            outcome.put(exc)
        if self._exchange is not exchange:
            exchange.close()  # given up, or the daemon stops

    def _collect(self, question: _Question, now_ns: int) -> None:
        from tychod.workloads.kubelet_http import KubeletError

        try:
            outcome = question.outcome.get_nowait()
        except Empty:
            if now_ns - question.asked_ns > self._patience_ns:
                self._give_up(question)
            return
        question.thread.join()
        self._question = None
        if isinstance(outcome, KubeletError):
            self._failed(Unavailable(outcome.reason, outcome.remedy))
        elif isinstance(outcome, Exception):
            self._failed(fault_of(outcome))
        else:
            self._cost_ns = self._exchange.cost_ns if self._exchange else 0
            self._judge(question.asked_ns, outcome, now_ns)

    def _give_up(self, question: _Question) -> None:
        self._question = None
        self._given_up = (question.thread, self._exchange)
        self._exchange = None  # its thread closes it; the next question gets a new one
        self._hangs()
        seconds = self._patience_ns / SECOND_NS
        self._failed(
            Unavailable(f"no whole answer in {seconds:g} s", "see whether the kubelet hangs")
        )

    def _judge(self, asked_ns: int, listed: tuple[Pod, ...], now_ns: int) -> None:
        """Take over the pods that are this node's, if the answer is that of this node at all."""
        pods = self._node.own(listed)
        self._foreign = len(listed) - len(pods)
        self._contested = sum(len(claimants) > 1 for claimants in claims(pods).values())
        if listed and not pods:
            reason = f"none of its pods is this node's: {self._node.complaint}"
            self._failed(Unavailable(reason, NODE_REMEDY))
        else:
            self._heard(PodView(asked_ns, pods), now_ns)
            self._tell_doubt()

    def _tell_doubt(self) -> None:
        """Say once per change that an answer held what cannot be this node's, or not twice."""
        doubts = []
        if self._foreign:
            doubts.append(f"pods of other nodes are left out: {self._node.complaint}")
        if self._contested:
            doubts.append("several pods name one container, which is that of its cgroup's path")
        doubt, before = "; ".join(doubts), self._doubt
        self._doubt = doubt
        if doubt and doubt != before:
            log.warning("the kubelet's list is odd: %s", doubt, extra={"source": "kubelet"})

    def _heard(self, view: PodView, now_ns: int) -> None:
        known = len(self.view.pods) if self.view else 0
        if known and not view.pods and not self._is_old(now_ns):
            remedy = "it is asked again; if this stays, see the kubelet's log"
            self._failed(Unavailable(f"it lists no pods ({known} were known)", remedy))
            return
        if self._problem or self._last_good_ns is None:
            again = " again" if self._problem else ""
            log.info("the kubelet lists its pods%s", again, extra={"source": "kubelet"})
        self.view, self._problem = view, None
        self._failures = 0
        self._answers += 1
        self._last_good_ns = now_ns

    def _failed(self, problem: Unavailable) -> None:
        self._failures += 1
        self._errors += 1
        if problem != self._problem:
            log.warning(
                "no pods from the kubelet: %s. %s",
                problem.reason,
                problem.remedy,
                extra={"source": "kubelet"},
            )
        self._problem = problem


def _is_own(settings: config.Kubelet) -> bool:
    """Say whether who answers is this node's kubelet: on loopback, or with the certificate for it.

    Without verification the settings allow loopback only.
    """
    peer = urlsplit(settings.endpoint).hostname or ""
    is_loopback = peer == "localhost" or peer.startswith("127.") or peer == "::1"
    return is_loopback or not settings.read_only_port


def _why_not(settings: config.Kubelet) -> Unavailable | None:
    if settings.enabled is False:
        return Unavailable("off in the configuration", "set [kubelet] enabled")
    has_credential = settings.client_cert_file or settings.token_file or settings.read_only_port
    if settings.enabled == "auto" and not has_credential:
        return Unavailable(
            "no kubelet credential is configured",
            "set [kubelet] client_cert_file and client_key_file, token_file, or read_only_port",
        )
    return None
