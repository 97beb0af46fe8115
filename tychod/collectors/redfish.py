"""The machine's power from its BMC, over HTTPS (DMTF Redfish): late, slow, but of the whole node.

The probe asks nobody: a BMC that hangs, or that locks an account after three wrong passwords, is
asked from `read` alone, which remembers how often it failed.  `requests` is imported only then.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from tychod.collectors.base import CollectorSpec, EnergyCollector, Ready, Unavailable
from tychod.collectors.publishlock import PublishLock
from tychod.collectors.redfish_credentials import CredentialsError, find_file, read_bmc
from tychod.collectors.redfish_novelty import Novelty
from tychod.hostfs import node_name
from tychod.model import SourceDevice
from tychod.samples import EnergySample, PowerSensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tychod.clock import Clock
    from tychod.collectors.base import Timings
    from tychod.collectors.redfish_client import Client
    from tychod.collectors.redfish_credentials import Bmc
    from tychod.collectors.redfish_errors import RedfishError
    from tychod.collectors.redfish_schema import Chassis, Reading
    from tychod.config import Config
    from tychod.hostfs import Host

NAME: Final = "redfish"
NS: Final = 1_000_000_000
LEAST_RETRY_S: Final = 0.2
"""Two questions are at least so far apart: BMCs are slow computers."""
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
"""After failures in a row it is asked ever less often, up to this."""
LOGIN_WAITS_S: Final = (300.0, 900.0, 3600.0)
"""After a refused password.  Usual locks: three to ten failures within minutes to an hour."""
LONGEST_RETRY_S: Final = 3600.0
"""A BMC may ask to be left alone for so long, at most."""
BEATS: Final = 1.5
BEAT_RANGE_S: Final = (2.0, 60.0)
"""A value is told again after so many periods, within these bounds (measurement.md 5.3)."""
CHOOSE_AGAIN: Final = 3
"""So many failed readings of a chassis in a row: look where else it tells its power."""
LOOK_NS: Final = 600 * NS
"""How often to look for other chassis: a BMC that has just started may not list all."""
REJECTED_NS: Final = 600 * NS
"""How long a rejected value is told of."""
INSECURE: Final = "TLS certificate is not verified: [redfish] insecure"
NO_FILE_REMEDY: Final = (
    "normal without a BMC; with one, name a file with its address, user and password in [redfish] "
    "credentials, or give systemd's unit the credential redfish"
)


class _Member:
    """One chassis: what it told, how it failed, how much was rejected."""

    def __init__(self, chassis: Chassis, max_power_w: float) -> None:
        self.chassis = chassis
        self.sensor: Final = PowerSensor(
            f"{NAME}:{chassis.ident}", "platform", chassis.ident, None, max_power_w
        )
        self.novelty = Novelty()
        self.failures = 0
        self.reason = ""
        self.rejected = 0
        self.rejected_ns = 0
        self.last_rejected = ""

    def failed(self, reason: str) -> None:
        """Take a reading that gave nothing."""
        self.failures += 1
        self.reason = reason

    def rejects(self, reason: str, now_ns: int) -> None:
        """Take a value that cannot be the chassis' power."""
        self.failed(reason)
        self.rejected += 1
        self.rejected_ns = now_ns
        self.last_rejected = reason


class Redfish:
    """All chassis of one BMC that count."""

    name: Final = NAME
    quality: Final[Literal["measured", "modelled"]] = "measured"
    delay_s: Final = 0.0  # the analysis finds it out
    zones: Final = ()

    def __init__(self, host: Host, config: Config, bmc: Bmc, clock: Clock) -> None:
        from tychod.collectors.redfish_client import Client

        self._settings: Final = config.redfish
        self._clock = clock
        self._client: Client = Client(bmc, config.redfish, host, clock)
        self._lock = PublishLock(config.redfish.interval, least_retry_s=LEAST_RETRY_S)
        self._timings: Timings | None = None
        self._is_calibrated = False
        self._members: tuple[_Member, ...] = ()
        self._found: tuple[str, ...] = ()
        self._not_before_ns = 0
        self._next_look_ns = 0
        self._told_ns = 0
        self._failures = 0
        self._login_failures = 0
        self.sensors: tuple[PowerSensor, ...] = ()
        self.zone_reasons: Mapping[str, str] = MappingProxyType({})
        self.failure = ""
        self.outdated = False
        self.notes: tuple[str, ...] = (INSECURE,) if config.redfish.insecure else ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is degraded: values rejected of late, and how many since the start."""
        since_ns = self._clock.now_ns() - REJECTED_NS
        return tuple(
            f"chassis {m.chassis.ident}: {m.rejected} readings rejected, last: {m.last_rejected}"
            for m in self._members
            if m.rejected and m.rejected_ns >= since_ns
        )

    def due_ns(self, now_ns: int) -> int:
        """Return the monotonic time at which to read next."""
        return max(self._lock.due_ns(now_ns), self._not_before_ns)

    def calibrate(self, timings: Timings) -> None:
        """Begin with what is known of the BMC, as soon as it has said who it is."""
        self._timings = timings
        self._look_up()

    def _look_up(self) -> None:
        if self._timings is None or not self._members:
            return
        known = self._timings(self.sensors[0].key, self._members[0].chassis.fingerprint)
        self._is_calibrated = known is not None
        if known and known.period_s is not None and known.period_sd_s is not None:
            self._lock.know(known.period_s, known.period_sd_s)

    def published(self) -> tuple[SourceDevice, ...]:
        """Return how often the BMC publishes: one lock for all of its chassis."""
        if not self._members:
            return ()
        lock = self._lock
        begun = "calibrated" if self._is_calibrated else "default"
        return (
            SourceDevice(
                name=self.sensors[0].key,
                fingerprint=self._members[0].chassis.fingerprint,
                period_s=lock.period_s if lock.is_locked else None,
                period_sd_s=lock.period_sd_s,
                delay_s=None,
                delay_sd_s=None,
                origin="learned" if lock.is_locked else begun,
                updates=lock.updates,
            ),
        )

    def read(self) -> EnergySample | None:
        """Ask the BMC; None with ``failure`` empty: it has published nothing since."""
        from tychod.collectors.redfish_errors import RedfishError

        if self._clock.now_ns() < self._not_before_ns:
            return None
        self.outdated = False
        try:
            if not self._members:
                self._begin()
            elif self._clock.now_ns() >= self._next_look_ns:
                self._look()
            readings = [self._read_member(member) for member in self._members]
        except RedfishError as exc:
            self._failed(exc)
            return None
        self._login_failures = 0
        return self._sample(readings)

    def cut(self) -> None:
        """Ask nothing more, from another thread: what follows is `close`."""
        self._client.cut()

    def close(self) -> None:
        """Log out and close the connection."""
        self._client.close()

    def _begin(self) -> None:
        """Find the chassis; they stay as long as this collector does."""
        from tychod.collectors.redfish_schema import Search

        found = Search(self._client, self._settings.max_power).run(self._settings.chassis)
        self._found = tuple(c.path for c in found.chassis)
        members = tuple(_Member(c, self._settings.max_power) for c in found.chassis)
        self.sensors = tuple(member.sensor for member in members)
        self._members = members  # last: other threads look here first
        ways = ", ".join(f"{c.ident} by {c.way}" for c in found.chassis)
        told = f"chassis {ways}; authentication: {self._client.authentication}"
        self.notes = (*self.notes, told, *found.notes)
        self._next_look_ns = self._clock.now_ns() + LOOK_NS
        self._look_up()

    def _look(self) -> None:
        """Say so, once for each look, when other chassis count than those that are read."""
        from tychod.collectors.redfish_errors import RedfishError
        from tychod.collectors.redfish_schema import Search

        self._next_look_ns = self._clock.now_ns() + LOOK_NS
        try:
            found = Search(self._client, self._settings.max_power).run(self._settings.chassis)
        except RedfishError as exc:
            if exc.is_login:
                raise
            return  # the next look tells; meanwhile the known ones are read
        paths = tuple(c.path for c in found.chassis)
        # Fewer may be a fault that passes; what is known keeps its reason meanwhile.
        self.outdated = bool(set(paths) - set(self._found))

    def _read_member(self, member: _Member) -> Reading | None:
        """Read one chassis; what is wrong with it alone holds up no other."""
        from tychod.collectors.redfish_errors import RedfishError
        from tychod.collectors.redfish_schema import read_chassis

        if member.failures >= CHOOSE_AGAIN:
            self._choose_again(member)
        try:
            reading = read_chassis(self._client.get, member.chassis, self._settings.max_power)
        except ValueError as exc:
            member.rejects(str(exc), self._clock.now_ns())
        except RedfishError as exc:
            if not exc.is_missing:
                raise
            member.failed(exc.reason)
        else:
            member.failures, member.reason = 0, ""
            return reading
        return None

    def _choose_again(self, member: _Member) -> None:
        from tychod.collectors.redfish_schema import Search

        chassis, member.failures = member.chassis, 0
        found = Search(self._client, self._settings.max_power).find(chassis.ident, chassis.path)
        if found:
            member.chassis = found._replace(fingerprint=chassis.fingerprint)

    def _sample(self, readings: list[Reading | None]) -> EnergySample | None:
        """Return the sample of one reading of all chassis, None if the first has nothing new.

        The first chassis that answers sets the pace; the others' values are as new as they are.
        """
        now_ns = self._clock.now_ns()
        pairs = zip(self._members, readings, strict=True)
        news = [r is not None and m.novelty.is_new(r.power_w, r.marks, now_ns) for m, r in pairs]
        self._tell_reasons()
        leader = next(((r, new) for r, new in zip(readings, news, strict=True) if r), None)
        if leader is None:
            self.failure = "; ".join(f"{m.chassis.ident}: {m.reason}" for m in self._members)
            self._wait(self._failures)
            return None
        self._failures, self.failure, self._not_before_ns = 0, "", 0
        first, is_new = leader
        is_begun = self._lock.reads > 0
        stamp = self._lock.saw(first.sent_ns, first.got_ns, is_new)
        if not is_new and not self._is_silent(now_ns):
            return None
        power_uw = tuple(round(r.power_w * 1e6) if r else None for r in readings)
        if not is_new:
            return self._undated(first, power_uw)._replace(continued=True)
        self._told_ns = now_ns
        if stamp is not None:
            return EnergySample(stamp.t_ns, (), power_uw, stamp.half_ns)
        return self._undated(first, power_uw) if not is_begun else None

    def _is_silent(self, now_ns: int) -> bool:
        """Say whether to tell the same value again: nothing but the value says what is new.

        On an idle machine it may stay the same for long, and silence would look like a BMC that
        is stuck.  Where a mark tells, silence is what it looks like.
        """
        if any(member.novelty.tells for member in self._members):
            return False
        beat_s = min(max(BEATS * self._lock.period_s, BEAT_RANGE_S[0]), BEAT_RANGE_S[1])
        if now_ns - self._told_ns < beat_s * NS:
            return False
        self._told_ns = now_ns
        return True

    def _undated(self, first: Reading, power_uw: tuple[int | None, ...]) -> EnergySample:
        """Return the first value of all: published within the interval before it was read."""
        half_ns = max(round(self._settings.interval * NS) + first.got_ns - first.sent_ns, 2) // 2
        return EnergySample(first.got_ns - half_ns, (), power_uw, half_ns)

    def _tell_reasons(self) -> None:
        reasons = {m.sensor.key: m.reason for m in self._members if m.reason}
        if reasons != self.zone_reasons:
            self.zone_reasons = MappingProxyType(reasons)

    def _failed(self, exc: RedfishError) -> None:
        """Ask less often after each failure, and very seldom after a refused password."""
        if self._client.is_stopped:
            self.failure = ""  # it is we who go away
            return
        self.failure = f"{exc.reason}; {exc.remedy}"
        if exc.is_login:
            wait_s = LOGIN_WAITS_S[min(self._login_failures, len(LOGIN_WAITS_S) - 1)]
            self._login_failures += 1
            self._not_before_ns = self._clock.now_ns() + round(wait_s * NS)
            return
        self._wait(self._failures, exc.retry_s)

    def _wait(self, failures: int, asked_s: float = 0.0) -> None:
        wait_s = min(FIRST_WAIT_S * 2 ** min(failures, 10), LONGEST_WAIT_S)
        wait_s = max(wait_s, min(asked_s, LONGEST_RETRY_S))
        self._failures = failures + 1
        self._not_before_ns = self._clock.now_ns() + round(wait_s * NS)
        self._lock.failed(self._clock.now_ns())


def probe(host: Host, config: Config, clock: Clock) -> Ready[EnergyCollector] | Unavailable:
    """Read the credentials; without any there is nothing to ask, which is as it should be."""
    path = find_file(host, config.redfish.credentials)
    if not path:
        return Unavailable("no credentials for a BMC", NO_FILE_REMEDY, absent=True)
    node = first_named(config.redfish.node, config.kubelet.node_name, node_name())
    try:
        bmc = read_bmc(host, path, node)
    except CredentialsError as exc:
        return Unavailable(exc.reason, exc.remedy)
    collector = Redfish(host, config, bmc, clock)
    return Ready(collector, collector.notes)


def first_named(*names: str) -> str:
    """Return the first name that is not blank, without the space around it."""
    return next((name.strip() for name in names if name.strip()), "")


SPEC: Final[CollectorSpec[EnergyCollector]] = CollectorSpec(
    name=NAME,
    quality="measured",
    enabled=lambda config: config.redfish.enabled,
    interval_s=lambda config: config.redfish.interval,
    probe=probe,
    measures_cpu=False,
    remote=True,
)
