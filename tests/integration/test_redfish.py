"""The Redfish source against a simulated BMC over real HTTPS."""

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.sim.bmc import SESSIONS, SimBmc, fingerprint, make_certificate, modern
from tests.sim.bmccadence import Cadence
from tests.sim.kubelet import Pair
from tychod.clock import SystemClock
from tychod.collectors import redfish
from tychod.collectors.base import EnergyCollector, Ready, SelfTimed, Timing
from tychod.collectors.redfish import Redfish
from tychod.config import Config
from tychod.config import Host as Roots
from tychod.hostfs import Host
from tychod.runtime.sampler import Sampler
from tychod.runtime.sources import energy_samplers
from tychod.samples import EnergySample

PASSWORD = "correct-horse-battery"
LOGIN = ("reader", PASSWORD)
FAST = Cadence(period_s=0.2)


@dataclass
class JumpClock:
    """The system's clock, that may be moved forward."""

    ahead_ns: int = 0

    def now_ns(self) -> int:
        """Monotonic time."""
        return time.monotonic_ns() + self.ahead_ns

    def wall_offset_ns(self) -> int:
        """As the system's."""
        return SystemClock().wall_offset_ns()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Make one certificate for all tests."""
    return make_certificate(tmp_path_factory.mktemp("bmc"))


@dataclass
class Bench:
    """A BMC, and a collector that reads it."""

    bmc: SimBmc
    collector: Redfish
    clock: JumpClock

    def until_sample(self, tries: int = 60) -> EnergySample:
        """Read when it is due until there is a sample."""
        for _ in range(tries):
            sample = self.collector.read()
            if sample is not None:
                return sample
            assert self.collector.failure == ""
            wait_ns = self.collector.due_ns(self.clock.now_ns()) - self.clock.now_ns()
            time.sleep(max(wait_ns, 0) / 1e9)
        raise AssertionError("nothing new was published")


Start = Callable[..., Bench]


@pytest.fixture
def start(pair: Pair, tmp_path: Path) -> Iterator[Start]:
    """Return what starts a BMC and a collector for it."""
    with ExitStack() as stack:

        def make(
            settings: Mapping[str, object] | None = None,
            password: str = PASSWORD,
            **bmc_options: object,
        ) -> Bench:
            options = {"login": LOGIN, "cadence": FAST, **bmc_options}
            bmc = stack.enter_context(SimBmc(pair, **options))  # type: ignore[arg-type]
            chosen = {"fingerprint": fingerprint(pair), "timeout": 1.0, **(settings or {})}
            clock = JumpClock()
            collector = made(tmp_path, bmc.url, password, chosen, clock)
            stack.callback(collector.close)
            return Bench(bmc, collector, clock)

        yield make


def made(
    folder: Path, url: str, password: str, settings: Mapping[str, object], clock: JumpClock
) -> Redfish:
    """Return the collector that the probe finds."""
    file = folder / "redfish.toml"
    file.write_text(f'endpoint = "{url}"\nusername = "reader"\npassword = "{password}"\n')
    file.chmod(0o600)
    config = Config()
    chosen = replace(config.redfish, credentials=str(file), **settings)  # type: ignore[arg-type]
    config = replace(config, redfish=chosen)
    outcome = redfish.SPEC.find(Host(Roots()), config, clock)
    assert isinstance(outcome, Ready)
    found: EnergyCollector = outcome.collector
    assert isinstance(found, Redfish)
    assert isinstance(found, SelfTimed)
    return found


def test_a_modern_bmc_is_read_by_one_document_in_a_session(start: Start) -> None:
    """Power of the outermost chassis, in microwatts; after the search one question a reading."""
    bench = start()

    sample = bench.until_sample()
    asked = len(bench.bmc.requests)
    bench.collector.read()

    assert sample.power_uw == (200_000_000,)
    assert sample.half_ns > 0
    assert [s.key for s in bench.collector.sensors] == ["redfish:1"]
    assert [s.domain for s in bench.collector.sensors] == ["platform"]
    assert bench.bmc.requests[asked:] == [("GET", "/redfish/v1/Chassis/1/EnvironmentMetrics")]
    assert bench.collector.published()[0].fingerprint == "Simulant, M1, firmware 2.14"
    assert bench.bmc.logins == 1


def test_a_legacy_bmc_is_read_with_basic_authentication(start: Start) -> None:
    """Without sessions the password goes along; `Self` is the machine, the first whole control."""
    bench = start(dialect="legacy")

    assert bench.until_sample().power_uw == (200_000_000,)
    assert [s.name for s in bench.collector.sensors] == ["Self"]
    assert any("authentication: basic" in note for note in bench.collector.notes)


def test_22_nothing_new_is_no_sample_and_no_failure(start: Start) -> None:
    """Invariant 22: an unchanged sequence gives no record; each published value gives one."""
    bench = start(cadence=Cadence(period_s=30.0))
    first = bench.collector.read()

    again = [bench.collector.read() for _ in range(3)]

    assert first is not None
    assert again == [None, None, None]
    assert bench.collector.failure == ""


def test_22_a_value_that_nothing_but_itself_tells_is_told_again(start: Start) -> None:
    """Invariant 22: without a mark the same value is a continuation, at most once a heartbeat."""
    bench = start(dialect="legacy", cadence=Cadence(period_s=30.0))
    first = bench.collector.read()
    soon = bench.collector.read()
    bench.clock.ahead_ns += 61_000_000_000
    later, at_once = bench.collector.read(), bench.collector.read()

    assert first is not None
    assert later is not None
    assert (soon, at_once) == (None, None)
    assert (first.continued, later.continued) == (False, True)
    assert later.power_uw == first.power_uw
    assert later.t_ns > first.t_ns


def test_each_published_value_is_one_sample_dated_by_when_it_was_published(start: Start) -> None:
    """The stamp's interval holds the true moment of publication; none is seen twice."""
    bench = start(power_w=lambda t_s: 200.0 + 10 * int(t_s / 0.1), cadence=Cadence(period_s=0.5))
    samples = [bench.until_sample() for _ in range(4)]
    truth = {round(v.power_w * 1e6): v for v in bench.bmc.publisher.values}

    assert len({s.power_uw for s in samples}) == 4
    for sample in samples[1:]:
        value = sample.power_uw[0]
        assert value is not None
        true_ns = bench.bmc.publisher.begun_ns + round(truth[value].t_s * 1e9)
        # The stamp is the mean of an even distribution: the bracket's own half width.
        assert abs(sample.t_ns - true_ns) <= sample.half_ns + 1


def test_a_calibrated_period_is_begun_with_once_the_bmc_is_known(start: Start) -> None:
    """It is asked for by the chassis and its firmware; until then nothing is known."""
    bench = start()
    asked = []

    def timing(name: str, device: str) -> Timing:
        asked.append((name, device))
        return Timing(0.2, 0.01, 1.75)

    bench.collector.calibrate(timing)
    bench.collector.read()
    told = bench.collector.published()[0]

    assert asked == [("redfish:1", "Simulant, M1, firmware 2.14")]
    assert told.origin == "calibrated"


def test_the_same_value_published_again_is_new_by_its_etag(start: Start) -> None:
    """A steady machine has readings, too."""
    bench = start()

    first, second = bench.until_sample(), bench.until_sample()

    assert first.power_uw == second.power_uw
    assert second.t_ns > first.t_ns


def test_a_date_that_ticks_is_no_news(start: Start) -> None:
    """The Date of every answer moves on by itself: only the value tells."""
    bench = start(dialect="legacy", cadence=Cadence(period_s=0.2))
    bench.until_sample()
    found = []
    for _ in range(3):
        time.sleep(0.35)
        found.append(bench.collector.read())

    assert found == [None, None, None]


FAULTS = {
    "500": "HTTP 500",
    "503": "the BMC is busy (HTTP 503)",
    "hang-up": "broke off",
    "absent": "no chassis tells its power",
    "milliwatts": "the unit is mW, not W",
    "kilowatts": "the unit is kW, not W",
    "ones": "all bits are one",
    "null": "no chassis tells its power",
    "truncated": "broke off",
    "huge": "longer than 1 MiB",
    "text": "not JSON",
    "list": "no JSON object",
    "redirect": "sends us elsewhere (HTTP 308",
    "401": "user or password refused",
    "slow": "timed out after 0.5 s",
    "drip": "timed out after 0.5 s",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_23_no_fault_at_the_start_gives_a_sample_or_an_exception(start: Start, fault: str) -> None:
    """Invariant 23: errors, time-outs, bad JSON, absent chassis: no record, one reason."""
    bench = start({"timeout": 0.5})
    bench.bmc.fault = fault

    assert bench.collector.read() is None
    assert FAULTS[fault] in bench.collector.failure
    assert bench.collector.due_ns(bench.clock.now_ns()) > bench.clock.now_ns()


def test_23_a_fault_that_passes_leaves_no_trace(start: Start) -> None:
    """Invariant 23: a reading that worked fails, gives none, and works again."""
    bench = start(power_w=lambda t_s: 200.0 + 100 * t_s, cadence=Cadence(period_s=0.01))
    bench.collector.read()
    for fault in FAULTS.keys() - {"slow", "drip"}:
        bench.bmc.fault = fault
        failed = bench.collector.read()
        reason = bench.collector.failure
        bench.bmc.fault = ""
        bench.clock.ahead_ns += 3600 * 10**9
        time.sleep(0.02)
        after = bench.collector.read()

        assert (fault, failed) == (fault, None)
        assert (fault, bool(reason)) == (fault, True)
        assert after is not None, fault
        assert after.power_uw[0] is not None
        assert bench.collector.failure == ""


def test_a_rejected_value_is_counted_and_told_for_a_while(start: Start) -> None:
    """Milliwatts under the name of watts: no sample, a reason for the sensor, one line."""
    bench = start(power_w=lambda t_s: 200.0 if t_s < 0.05 else 200_000.0)
    bench.collector.read()
    time.sleep(0.25)

    rejected = bench.collector.read()
    told = bench.collector.problems
    bench.clock.ahead_ns += 700 * 10**9

    assert rejected is None
    assert told[0].startswith("chassis 1: 1 readings rejected, last: 200000 W is more than")
    assert "200000 W" in bench.collector.zone_reasons["redfish:1"]
    assert bench.collector.problems == ()


def test_24_a_bmc_that_hangs_holds_up_its_own_reading_only(start: Start) -> None:
    """Invariant 24: the reading ends in its time-out, at once when another thread cuts it."""
    bench = start({"timeout": 0.5})
    bench.until_sample()
    bench.bmc.fault = "hang"

    assert bench.collector.read() is None
    assert "timed out after 0.5 s" in bench.collector.failure


def test_a_stuck_bmc_with_fresh_etags_goes_on_to_be_read(start: Start) -> None:
    """Whether a value may stay the same is for the analysis to judge, which knows the load."""
    bench = start(power_w=lambda t_s: 200.0 + 10 * int(t_s / 0.3))
    first = bench.until_sample()
    bench.bmc.fault = "stuck"

    stuck = [bench.until_sample() for _ in range(2)]

    assert first.power_uw != (0,)
    assert stuck[0].power_uw == stuck[1].power_uw


def test_an_expired_session_is_made_anew_at_once(start: Start) -> None:
    """A 401 to a session is no refusal of the password."""
    bench = start()
    bench.until_sample()
    bench.bmc.expire_sessions()

    bench.until_sample()

    assert bench.bmc.logins == 2


def test_a_session_is_deleted_at_the_end(start: Start) -> None:
    """A BMC has few sessions."""
    bench = start()
    bench.until_sample()

    bench.collector.close()

    assert bench.bmc.sessions == {}
    assert bench.bmc.requests[-1][0] == "DELETE"


def test_a_refused_password_is_not_tried_again_soon(start: Start) -> None:
    """Three wrong logins may lock the account for everybody."""
    bench = start(password="wrong-password")
    logins = []
    for minutes in (0, 1, 4, 0, 14):
        bench.clock.ahead_ns += minutes * 60 * 10**9
        bench.collector.read()
        logins.append(bench.bmc.logins)

    assert logins == [1, 1, 2, 2, 2]
    assert "user or password refused (HTTP 401)" in bench.collector.failure


def test_a_login_refused_with_another_status_is_no_more_often_tried(start: Start) -> None:
    """HPE's iLO says 400 to a wrong password."""
    bench = start(password="wrong-password")
    bench.bmc.refusal = 400
    bench.collector.read()
    bench.clock.ahead_ns += 61 * 10**9
    bench.collector.read()

    assert bench.bmc.logins == 1
    assert "user or password refused (HTTP 400)" in bench.collector.failure


def test_a_resource_that_is_not_permitted_is_one_that_is_missing(start: Start) -> None:
    """A 403 with a session that lives refuses no password: the other schema is used."""
    bench = start()
    bench.bmc.forbidden = frozenset({"/redfish/v1/Chassis/1/EnvironmentMetrics"})

    assert bench.until_sample().power_uw == (200_000_000,)
    assert bench.bmc.requests[-1][1].endswith("/Sensors/TotalPower")


def test_two_chassis_of_one_id_are_two_sensors(start: Start) -> None:
    """Their power adds up: neither takes the other's place."""
    base = "/redfish/v1/Chassis"

    def control(watts: float) -> dict[str, object]:
        return {"PowerControl": [{"PowerConsumedWatts": watts}]}

    documents: dict[str, object] = {
        "/redfish/v1/": {"Chassis": {"@odata.id": base}},
        base: {"Members": [{"@odata.id": f"{base}/{name}"} for name in ("A", "B")]},
    }
    for name, watts in (("A", 500.0), ("B", 100.0)):
        documents[f"{base}/{name}"] = {"Id": "1", "Power": {"@odata.id": f"{base}/{name}/Power"}}
        documents[f"{base}/{name}/Power"] = control(watts)
    bench = start(resources=documents)

    assert bench.until_sample().power_uw == (500_000_000, 100_000_000)
    assert [s.key for s in bench.collector.sensors] == ["redfish:A", "redfish:B"]


def test_sensors_are_there_before_another_thread_looks_for_them(start: Start) -> None:
    """`published` goes by the chassis, and takes the first sensor."""
    bench = start()
    seen: list[bool] = []

    class Watched(Redfish):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "_members" and value:
                seen.append(bool(self.sensors))
            object.__setattr__(self, name, value)

    bench.collector.__class__ = Watched
    bench.collector.read()

    assert seen == [True]


def begun(bench: Bench, tmp_path: Path) -> Sampler[EnergyCollector, EnergySample]:
    """Return the sampler that reads a BMC in a daemon, started."""
    config = Config()
    chosen = replace(
        config.redfish,
        enabled=True,
        insecure=True,
        timeout=60.0,
        credentials=str(tmp_path / "redfish.toml"),
    )
    config = replace(config, redfish=chosen)
    made = energy_samplers(Host(Roots()), config, bench.clock, 0, pytest.fail)
    sampler = next(s.sampler for s in made if s.sampler.plan.name == "redfish")
    sampler.start()
    return sampler


def test_who_stops_waits_for_no_bmc_that_hangs_and_its_session_is_deleted(
    start: Start, tmp_path: Path
) -> None:
    """A question under way is cut short; a BMC has few sessions."""
    bench = start()
    sampler = begun(bench, tmp_path)
    assert sampler.wait_tried(20.0)
    began = len(bench.bmc.sessions)
    asked = len(bench.bmc.requests)
    bench.bmc.fault = "hang"
    while len(bench.bmc.requests) == asked:
        time.sleep(0.01)

    sampler.ask_stop()

    assert sampler.join(20.0)  # the question alone would take 60 s
    assert (began, bench.bmc.sessions) == (1, {})


def test_a_login_under_way_is_let_finish_for_a_moment(start: Start, tmp_path: Path) -> None:
    """Cut in the middle it would leave a session that nobody ends."""
    bench = start(cadence=Cadence(period_s=30.0))
    bench.bmc.fault, bench.bmc.slow_s = "slow", 0.2
    sampler = begun(bench, tmp_path)
    while ("POST", SESSIONS) not in bench.bmc.requests:
        time.sleep(0.01)

    sampler.ask_stop()

    assert sampler.join(20.0)
    assert (bench.bmc.logins, bench.bmc.sessions) == (1, {})
    assert bench.bmc.requests[-1][0] == "DELETE"


def test_a_bmc_that_answers_is_let_finish_and_asked_nothing_more(
    start: Start, tmp_path: Path
) -> None:
    """The session ends on the connection that there is: a new handshake takes a BMC long."""
    bench = start(cadence=Cadence(period_s=30.0))
    sampler = begun(bench, tmp_path)
    assert sampler.wait_tried(20.0)

    sampler.ask_stop()

    assert sampler.join(20.0)
    assert bench.bmc.sessions == {}
    assert bench.bmc.requests[-1][0] == "DELETE"


def test_a_busy_bmc_is_left_alone_for_as_long_as_it_asks(start: Start) -> None:
    """Retry-After is honoured where it is longer than our own wait."""
    bench = start()
    bench.bmc.fault, bench.bmc.retry_after = "503", "120"

    bench.collector.read()
    asked = len(bench.bmc.requests)
    bench.clock.ahead_ns += 110 * 10**9
    bench.collector.read()
    left_s = (bench.collector.due_ns(0) - bench.clock.now_ns()) / 1e9

    assert len(bench.bmc.requests) == asked
    assert left_s == pytest.approx(10, abs=5)


def test_where_one_schema_stops_the_other_is_used(start: Start) -> None:
    """After three failures the chassis is looked at anew; its sensor stays the same."""
    bench = start()
    bench.collector.read()
    before = bench.collector.sensors
    documents = dict(modern(bench.bmc))
    del documents["/redfish/v1/Chassis/1/EnvironmentMetrics"]
    bench.bmc.resources = documents
    for _ in range(3):
        bench.clock.ahead_ns += 100 * 10**9
        assert bench.collector.read() is None
    bench.clock.ahead_ns += 100 * 10**9
    bench.collector.read()

    assert bench.collector.failure == ""
    assert bench.collector.sensors == before
    assert bench.bmc.requests[-1][1].endswith("/Sensors/TotalPower")


UNTRUSTED = (
    ({"fingerprint": ""}, "not trusted (self-signed certificate"),
    ({"fingerprint": "ab" * 32}, "not the one of [redfish] fingerprint"),
    ({"fingerprint": "", "ca_file": "/a\0b"}, "is no path"),
)


@pytest.mark.parametrize(("settings", "reason"), UNTRUSTED)
def test_no_password_goes_to_a_certificate_that_is_not_trusted(
    start: Start, settings: Mapping[str, object], reason: str
) -> None:
    """Verification comes before the first byte of a question."""
    bench = start(settings)

    assert bench.collector.read() is None
    assert reason in bench.collector.failure
    assert bench.bmc.requests == []


def test_the_certificate_itself_may_be_what_is_trusted(start: Start, pair: Pair) -> None:
    """ca_file is the usual way with a certificate that signs itself."""
    bench = start({"fingerprint": "", "ca_file": str(pair.cert)})

    assert bench.until_sample().power_uw == (200_000_000,)
    assert not any("TLS" in note for note in bench.collector.notes)


def test_a_trusted_certificate_of_another_address_gets_no_password(tmp_path: Path) -> None:
    """Who signed it is not enough: it must be the one that was meant."""
    other = make_certificate(tmp_path, "127.0.0.9")
    with SimBmc(other, login=LOGIN) as bmc:
        settings = {"ca_file": str(other.cert)}
        collector = made(tmp_path, bmc.url, PASSWORD, settings, JumpClock())

        assert collector.read() is None
        assert "not for the name of 127.0.0.1" in collector.failure
        assert bmc.requests == []
        collector.close()


def test_unverified_tls_is_told(start: Start) -> None:
    """`insecure` works, and every status shows it."""
    bench = start({"fingerprint": "", "insecure": True})

    bench.until_sample()

    assert "TLS certificate is not verified: [redfish] insecure" in bench.collector.notes


def test_proxies_of_the_environment_are_not_used(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password goes to the BMC or to nobody."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert start().until_sample().power_uw == (200_000_000,)


@contextmanager
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Catch everything that any library logs."""
    with caplog.at_level(logging.DEBUG):
        for name in ("urllib3", "requests"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield


@pytest.mark.parametrize("fault", ["", "401", "500", "hang-up", "redirect", "text"])
def test_the_password_is_in_no_output(
    start: Start, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """Logs, failures, notes, problems, representations, samples: neither password nor token."""
    with all_logs(caplog):
        bench = start()
        first = bench.collector.read()
        bench.bmc.fault = fault
        second = bench.collector.read()
        bench.bmc.fault, bench.bmc.dialect = "", "legacy"
        bench.bmc.expire_sessions()
        bench.clock.ahead_ns += 10**13
        third = bench.collector.read()
        bench.collector.close()
    collector = bench.collector
    outputs = [caplog.text, repr(caplog.records), collector.failure, repr(vars(collector))]
    outputs += [repr(collector.notes), repr(collector.problems), repr(dict(collector.zone_reasons))]
    outputs += [repr(vars(vars(collector)["_client"])), repr(collector.published())]
    outputs += [repr([vars(record) for record in caplog.records])]
    outputs += [pickle.dumps((first, second, third, collector.sensors)).decode("latin-1")]

    shown = [*bench.bmc.seen, *(text.split()[-1] for text in bench.bmc.seen)]
    assert first is not None
    assert bench.bmc.seen
    for secret in (PASSWORD, *shown):
        assert not any(secret in output for output in outputs)
        assert not any(secret in path for _, path in bench.bmc.requests)
