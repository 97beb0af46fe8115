"""``tychod --calibrate``: follows the devices that publish for a while and keeps their periods."""

import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from tychod.clock import Clock, SystemClock
from tychod.collectors import ENERGY_COLLECTORS, GPU_COLLECTOR
from tychod.collectors.base import EnergyCollector, GpuCollector, SelfTimed, Unavailable
from tychod.config import Config
from tychod.hostfs import Host
from tychod.model import SourceDevice
from tychod.runtime.calibration import CalibrationFile, is_settled
from tychod.runtime.places import StartError, state_directory
from tychod.runtime.store import StateInUseError, Store
from tychod.samples import EnergySample, GpuSample
from tychod.settings import Arguments, SettingsError, load_settings

NS: Final = 1_000_000_000
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
HALF_S: Final = 6.0
"""Seconds of load and seconds of rest around each edge."""
LEAST_STEP_W: Final = 1.0
STEP_SDS: Final = 2.0
LEAST_EDGES: Final = 3
STOP_S: Final = 5.0
NOT_SURE: Final = "its period is not sure yet and was not stored: follow it longer, --seconds N"

Collector = EnergyCollector | GpuCollector


class Outcome(NamedTuple):
    """What the command prints, and its exit status."""

    text: str
    code: int


class Power(NamedTuple):
    """One published power of a device."""

    t_ns: int
    device: str
    watts: float


class Follower:
    """Reads one source whenever it is due, on a thread of its own: a BMC may take seconds."""

    def __init__(self, collector: Collector, clock: Clock) -> None:
        self.collector: Final = collector
        self.powers: list[Power] = []
        self._clock = clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=collector.name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and close the source unless it does not answer."""
        self._ended.set()
        self._thread.join(STOP_S)
        if not self._thread.is_alive():
            self.collector.close()

    @property
    def problem(self) -> str:
        """Why it is not followed, asked before it is stopped; empty: it is."""
        if not self._thread.is_alive():
            return "it is not followed, because of an error in tychod: report what is above"
        if self.collector.failure:
            return self.collector.failure
        return "" if self.devices() else "it has not answered yet: give it longer with --seconds"

    def devices(self) -> tuple[SourceDevice, ...]:
        """Return what is known by now."""
        return self.collector.published() if isinstance(self.collector, SelfTimed) else ()

    def _run(self) -> None:
        while isinstance(self.collector, SelfTimed):
            now_ns = self._clock.now_ns()
            if self._ended.wait((self.collector.due_ns(now_ns) - now_ns) / NS):
                return
            found: object = self.collector.read()
            # A BMC's sample is a tuple as well; how late that is needs the daemon's analysis.
            if isinstance(found, tuple) and not isinstance(found, EnergySample):
                self.powers += powers(found)


def powers(samples: Iterable[GpuSample]) -> Iterator[Power]:
    """Yield the power of each update that tells one."""
    for sample in samples:
        microwatts = sample.average_uw if sample.instant_uw is None else sample.instant_uw
        if microwatts is not None:
            yield Power(sample.published_ns, sample.device, microwatts / 1e6)


def edge_delay_s(values: Sequence[Power], launch_ns: int) -> float | None:
    """Return the seconds from a launch to the first update that shows it; None: none did."""
    rest = [v.watts for v in values if launch_ns - HALF_S * NS / 2 <= v.t_ns < launch_ns]
    if len(rest) < 3:
        return None
    line_w = statistics.fmean(rest) + max(LEAST_STEP_W, STEP_SDS * statistics.pstdev(rest))
    until_ns = launch_ns + HALF_S * NS
    later = (v.t_ns for v in values if launch_ns <= v.t_ns < until_ns and v.watts > line_w)
    first_ns = min(later, default=None)
    return None if first_ns is None else (first_ns - launch_ns) / NS


def delay_of(values: Sequence[Power], launches_ns: Sequence[int]) -> tuple[float, float] | None:
    """Return median and spread over the edges in seconds; None with too few that show."""
    found = [edge_delay_s(values, launch_ns) for launch_ns in launches_ns]
    delays = sorted(delay for delay in found if delay is not None)
    if len(delays) < LEAST_EDGES:
        return None
    median = statistics.median(delays)
    # 1.4826: the median distance of a normal's values, as a standard deviation
    return median, 1.4826 * statistics.median(abs(delay - median) for delay in delays)


def with_delays(
    devices: Iterable[SourceDevice], values: Sequence[Power], launches_ns: Sequence[int]
) -> list[SourceDevice]:
    """Return the devices with the delay of those whose power shows the load."""
    found = []
    for device in devices:
        delay = delay_of([v for v in values if v.device == device.name], launches_ns)
        told = device._replace(delay_s=delay[0], delay_sd_s=delay[1]) if delay else device
        found.append(told)
    return found


def calibrate(
    args: Arguments, environ: Mapping[str, str], *, seconds: float, load: str, as_json: bool
) -> Outcome:
    """Follow all sources that publish, keep what was learned, and say it."""
    try:
        config = load_settings(args, environ).config
        store = Store(state_directory(environ, os.geteuid()))
    except SettingsError as exc:
        return Outcome(f"tychod: {exc}\n", EXIT_CONFIG)
    except StateInUseError as exc:
        return Outcome(
            f"tychod: {exc}; a running daemon calibrates by itself: see tychoctl sources\n",
            EXIT_FAILED,
        )
    except (OSError, StartError) as exc:
        return Outcome(f"tychod: the state directory cannot be used: {exc}\n", EXIT_FAILED)
    try:
        return _calibrate(config, environ, store, Asked(seconds, load, as_json))
    except StartError as exc:
        return Outcome(f"tychod: {exc}\n", EXIT_FAILED)
    except KeyboardInterrupt:
        return Outcome("tychod: interrupted, nothing was stored\n", EXIT_FAILED)
    finally:
        store.close()


class Asked(NamedTuple):
    """What the command line asks for."""

    seconds: float
    load: str
    as_json: bool


def _calibrate(config: Config, environ: Mapping[str, str], store: Store, asked: Asked) -> Outcome:
    command = _split(asked.load)
    clock = SystemClock()
    host = Host(config.host, environ.get("CREDENTIALS_DIRECTORY", ""))
    found = find_sources(host, config, clock)
    followers, problems = found.followers, found.problems
    try:
        for follower in followers:
            follower.start()
        launches_ns = follow(followers, clock, asked, command)
        problems += [f"{f.collector.name}: {f.problem}" for f in followers if f.problem]
        devices = [d for follower in followers for d in follower.devices()]
        values = [v for follower in followers for v in follower.powers]
    finally:
        for follower in followers:
            follower.stop()
    devices = with_delays(devices, values, launches_ns)
    if not any(device.origin == "learned" for device in devices):
        why = "\n".join([*problems, *found.absent])
        return Outcome(f"tychod: no device publishes that could be followed\n{why}\n", EXIT_FAILED)
    unsure = [f"{d.name}: {NOT_SURE}" for d in devices if not is_settled(d)]
    file = CalibrationFile(store.directory)
    file.learn(devices, clock.now_ns() / NS, time.strftime("%Y-%m-%d"))
    if file.problem:
        return Outcome(f"tychod: {file.problem}\n", EXIT_FAILED)
    told = Told([*problems, *unsure], found.absent, str(file.path))
    is_well = not problems and len(unsure) < len(devices)
    text = render(devices, told, as_json=asked.as_json)
    return Outcome(text, EXIT_OK if is_well else EXIT_FAILED)


class Found(NamedTuple):
    """The sources that publish in their own time, and a line for each that cannot be followed."""

    followers: list[Follower]
    problems: list[str]
    absent: list[str]  # this host has no such thing: no fault


def find_sources(host: Host, config: Config, clock: Clock) -> Found:
    """Look for them."""
    found = Found([], [], [])
    for spec in (*ENERGY_COLLECTORS, GPU_COLLECTOR):
        if spec.enabled(config) is False or spec.name not in ("redfish", GPU_COLLECTOR.name):
            continue
        outcome = spec.find(host, config, clock)
        if isinstance(outcome, Unavailable):
            lines = found.absent if outcome.absent else found.problems
            lines.append(f"{spec.name}: {outcome.reason}; {outcome.remedy}")
        else:
            found.followers.append(Follower(outcome.collector, clock))
    return found


def follow(
    followers: Sequence[Follower], clock: Clock, asked: Asked, command: Sequence[str]
) -> list[int]:
    """Wait for as long as was asked, with or without a load; return when that was launched."""
    begin_ns, launches_ns = clock.now_ns(), list[int]()
    end_ns = begin_ns + round(asked.seconds * NS)
    while followers and clock.now_ns() < end_ns:
        _progress(followers, (clock.now_ns() - begin_ns) / NS, asked)
        if not command:
            time.sleep(max(0.0, min(1.0, (end_ns - clock.now_ns()) / NS)))
            continue
        time.sleep(HALF_S)
        launches_ns.append(clock.now_ns())
        with _running(command):
            time.sleep(HALF_S)
    return launches_ns


def _split(load: str) -> list[str]:
    try:
        return shlex.split(load)
    except ValueError as exc:
        raise StartError(f"--load cannot be understood: {exc}") from exc


@contextmanager
def _running(command: Sequence[str]) -> Iterator[None]:
    """Run the user's command in a group of its own, and end all of it."""
    try:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    except OSError as exc:
        raise StartError(f"the load cannot be started: {exc}") from exc
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(process, number)
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                continue


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def _progress(followers: Sequence[Follower], elapsed_s: float, asked: Asked) -> None:
    if not sys.stderr.isatty():
        return
    known = sum(d.origin == "learned" for f in followers for d in f.devices())
    sys.stderr.write(f"\r{elapsed_s:4.0f} of {asked.seconds:.0f} s, {known} devices followed ")
    sys.stderr.flush()


class Told(NamedTuple):
    """What is said beside the devices: what went wrong, what is not there, the file."""

    problems: Sequence[str]
    absent: Sequence[str]
    path: str


def render(devices: Sequence[SourceDevice], told: Told, *, as_json: bool) -> str:
    """Return the table, or one JSON object."""
    if as_json:
        reasons = [*told.problems, *told.absent]
        plain = {"devices": [d._asdict() for d in devices], "reasons": reasons, "file": told.path}
        return json.dumps(plain) + "\n"
    lines = [f"{'DEVICE':<44}{'PERIOD':>20}{'DELAY':>20}"]
    for device in devices:
        period = _told(device.period_s, device.period_sd_s)
        lines.append(f"{device.name:<44}{period:>20}{_told(device.delay_s, device.delay_sd_s):>20}")
    if all(device.delay_s is None for device in devices):
        lines.append("Delays were not measured: a GPU's needs --load COMMAND, a BMC's the daemon.")
    lines += [f"tychod: {problem}" for problem in told.problems]
    what = "The others are stored" if told.problems else "Stored"
    stored = [f"{what} in {told.path}"] if any(map(is_settled, devices)) else []
    return "\n".join([*lines, *told.absent, *stored]) + "\n"


def _told(value_s: float | None, sd_s: float | None) -> str:
    if value_s is None:
        return "n/a"
    spread = "" if sd_s is None or math.isinf(sd_s) else f" +-{sd_s * 1e3:.1f}"
    return f"{value_s * 1e3:.1f}{spread} ms"
