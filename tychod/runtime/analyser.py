"""The analysis thread: cut a window when it is over, analyse, save, publish."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, ProcessesSeen, State
from tychod.buffer import Latest
from tychod.clock import Clock, next_deadline_ns
from tychod.kernel.cgroups import CpuBaseline, baseline_of
from tychod.model import Identity, Snapshot, Window
from tychod.runtime.recorder import Recorders
from tychod.runtime.recording import Analysed
from tychod.runtime.store import Store
from tychod.samples import CgroupRef, CpuSeries, EnergySeries, GpuSeries, VmSeries

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.5
FOREVER: Final = float("inf")
MIN_LAG_S: Final = 0.05
MAX_LAG_S: Final = 2.5
"""Sources whose delay and interval are up to this hold the window, so that their energy meets the
CPU time of the same moment; slower ones are booked when known (design.md 7)."""
WAIT_STEP_S: Final = 0.02
SHORTEST_LAST_NS: Final = 50_000_000


class TimedSource(Protocol):
    """A source that a window may have to wait for."""

    def lag_s(self) -> float | None:
        """Delay plus interval in seconds; None while no window should wait for it."""

    def newest_ns(self) -> int | None:
        """Monotonic time up to which it is known."""


class EnergySource(TimedSource, Protocol):
    """What analysis sees of an energy sampler."""

    def series(self, window: Window) -> EnergySeries | None:
        """Return the samples of a window; None when the source was never there."""


class GpuSource(TimedSource, Protocol):
    """What analysis sees of the graphics processors."""

    def series(self, window: Window, cgroups: Mapping[int, CgroupRef]) -> GpuSeries | None:
        """Return what a window needs of them; None while there are none."""


class CpuSource(Protocol):
    """What analysis sees of the CPU accounting."""

    def newest_ns(self) -> int | None:
        """Monotonic time of the newest sample."""

    def series(self, window: Window) -> CpuSeries | None:
        """Return the samples of a window."""


class ProcessSource(Protocol):
    """What analysis sees of the processes."""

    def expect(self, end_ns: int) -> None:
        """Read when this window ends."""

    def newest_ns(self) -> int | None:
        """Monotonic time up to which they were read; None: not once."""

    def seen(self) -> ProcessesSeen:
        """Return the newest reading."""


class MachineSource(Protocol):
    """What analysis sees of hypervisors' CPU time."""

    def expect(self, end_ns: int) -> None:
        """Read when this window ends."""

    def newest_ns(self) -> int | None:
        """Monotonic time up to which they were read; None: not once."""

    def seen(self) -> VmSeries | None:
        """Return the newest reading."""


class Named(NamedTuple):
    """Who cgroups are."""

    identities: Mapping[int, Identity]
    machines: Mapping[int, CgroupRef]  # virtual machines that have no cgroup, by key


class Axis(NamedTuple):
    """Where windows begin and end: whole multiples of ``grid_ns`` after the epoch."""

    epoch_ns: int
    window_ns: int
    grid_ns: int  # the CPU samples' interval, so that a sample is taken at each window's end


class Inputs(NamedTuple):
    """Where observations come from."""

    energy: tuple[EnergySource, ...]
    cpu: CpuSource
    identify: Callable[[Mapping[int, CgroupRef]], Named]
    processes: ProcessSource | None = None  # None: not accounted
    machines: MachineSource | None = None  # None: not looked for
    gpus: GpuSource | None = None  # None: switched off

    @property
    def timed(self) -> tuple[TimedSource, ...]:
        """What a window may have to wait for."""
        return (*self.energy, self.gpus) if self.gpus else self.energy

    @property
    def at_end(self) -> tuple[ProcessSource | MachineSource, ...]:
        """What is read when a window ends."""
        return tuple(source for source in (self.processes, self.machines) if source)


class Outputs(NamedTuple):
    """Where results go: to the disk first, then to everybody."""

    boot_id: str
    store: Store
    latest: Latest[Snapshot]
    recorders: Recorders | None = None


class Analyser:
    """Owns the state; everything else sees its snapshots."""

    def __init__(
        self,
        axis: Axis,
        inputs: Inputs,
        state: State,
        params: Latest[Params],
        outputs: Outputs,
        clock: Clock,
        crashed: Callable[[str], None],
    ) -> None:
        """``params`` may be replaced at any time; ``crashed`` ends the daemon."""
        self._axis = axis
        self._inputs = inputs
        self._state = state
        self._params = params
        self._outputs = outputs
        self._clock = clock
        self._crashed = crashed
        self._stop = threading.Event()
        self._heartbeat: Latest[int] = Latest()
        self._next_end: Latest[int] = Latest()
        self._start_ns = 0
        self._zone_reasons: Mapping[str, str] = {}
        self._heartbeat.publish(clock.now_ns())
        self._thread = threading.Thread(target=self._run, name="analyse", daemon=True)

    def start(self) -> None:
        """Begin the first window: now, or at the end of the last one before a restart."""
        now_ns = self._clock.now_ns()
        begin_ns = next_deadline_ns(self._axis.epoch_ns, self._axis.grid_ns, now_ns)
        if self._state.end_ns is None:
            self._start_ns, first_end_ns = begin_ns, begin_ns + self._axis.window_ns
        else:
            self._start_ns, first_end_ns = self._state.end_ns, begin_ns
        self._expect(first_end_ns)
        self._thread.start()

    def _expect(self, end_ns: int) -> None:
        self._next_end.publish(end_ns)
        for source in self._inputs.at_end:
            source.expect(end_ns)

    def ask_stop(self) -> None:
        """Tell the thread to end after the window in progress."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def quiet_s(self) -> float:
        """Seconds since the thread last showed that it advances."""
        return (self._clock.now_ns() - (self._heartbeat.get() or 0)) / 1e9

    def wait_s(self) -> float:
        """Seconds until the first window is expected."""
        end_ns = self._next_end.get()
        if end_ns is None:
            return self._axis.window_ns / 1e9
        return (end_ns - self._clock.now_ns()) / 1e9 + self._lag_s()

    def _run(self) -> None:
        try:
            while self._wait_until_over():
                self._close_window()
            self._close_last()
        except Exception:  # the outermost frame of the thread: a fault of ours ends the daemon
            log.critical("analysis failed", exc_info=True)
            self._crashed("analysis failed")

    def _lag_s(self) -> float:
        lags = [
            lag for s in self._inputs.timed if (lag := s.lag_s()) is not None and lag <= MAX_LAG_S
        ]
        return min(max([MIN_LAG_S, *lags]), MAX_LAG_S)

    def _wait_until_over(self) -> bool:
        """Wait for the window's end and for the samples that close it; False: asked to stop."""
        end_ns = self._next_end.get() or 0
        while (left_s := (end_ns - self._clock.now_ns()) / 1e9 + self._lag_s()) > 0:
            if self._pause(min(left_s, HEARTBEAT_S)):
                return False
        while not self._samples_reach(end_ns):
            if self._clock.now_ns() - end_ns > MAX_LAG_S * 1e9:
                break
            if self._pause(WAIT_STEP_S):
                return False
        return not self._stop.is_set()

    def _pause(self, seconds: float) -> bool:
        self._heartbeat.publish(self._clock.now_ns())
        return self._stop.wait(seconds)

    def _samples_reach(self, end_ns: int) -> bool:
        """Say whether every source that should hold the window has a sample at or after its end."""
        newest = [self._inputs.cpu.newest_ns()]
        newest += [s.newest_ns() for s in self._inputs.timed if (s.lag_s() or FOREVER) <= MAX_LAG_S]
        newest += [source.newest_ns() for source in self._inputs.at_end]
        return all(t_ns is None or t_ns >= end_ns for t_ns in newest)

    def _close_window(self) -> None:
        window = Window(self._start_ns, self._next_end.get() or 0)
        if window.end_ns <= window.start_ns:
            raise RuntimeError(f"a window must have a length: {window}")
        params = self._params.get()
        if params is None:
            raise RuntimeError("analysis started without parameters")
        cpu = self._inputs.cpu.series(window)
        observations = self._observe(window, cpu)
        before = self._state
        snapshot, self._state = analyse(observations, window, before, params)
        self._outputs.store.save(self._outputs.boot_id, self._state, _baseline(self._state, cpu))
        self._outputs.latest.publish(snapshot)
        if self._outputs.recorders is not None:
            self._outputs.recorders.offer(Analysed(window, observations, before, params, snapshot))
        self._heartbeat.publish(self._clock.now_ns())
        self._tell(before, snapshot)
        self._start_ns = window.end_ns
        now_ns = self._clock.now_ns() - round(self._lag_s() * 1e9)
        self._expect(next_deadline_ns(window.end_ns, self._axis.window_ns, now_ns))

    def _observe(self, window: Window, cpu: CpuSeries | None) -> Observations:
        inputs = self._inputs
        named = inputs.identify(cpu.cgroups if cpu else {})
        if cpu is not None and named.machines:
            cpu = replace(cpu, cgroups={**cpu.cgroups, **named.machines})
        return Observations(
            energy=tuple(s for source in inputs.energy if (s := source.series(window))),
            cpu=cpu,
            identities=named.identities,
            wall_offset_ns=self._clock.wall_offset_ns(),
            processes=inputs.processes.seen() if inputs.processes else None,
            vms=inputs.machines.seen() if inputs.machines else None,
            gpus=inputs.gpus.series(window, cpu.cgroups if cpu else {}) if inputs.gpus else None,
        )

    def _close_last(self) -> None:
        """Close what there is of the window in progress: what follows may not know its part."""
        last_ns = self._inputs.cpu.newest_ns()
        if last_ns is not None and last_ns - self._start_ns >= SHORTEST_LAST_NS:
            self._next_end.publish(last_ns)
            self._close_window()

    def _tell(self, before: State, snapshot: Snapshot) -> None:
        if before.restarted:
            log.info(
                "counters go on: the window since the restart spans %.1f s",
                snapshot.window.seconds,
                extra={"event": "resumed"},
            )
        self._tell_zones(snapshot)
        if snapshot.conservation_violations > before.violations:
            log.error(
                "energy is not conserved in window %d: this is a fault of tychod, please report it",
                snapshot.sequence,
                extra={"event": "conservation-violated"},
            )

    def _tell_zones(self, snapshot: Snapshot) -> None:
        """One line when a zone's trouble begins or changes, and one when it is over."""
        before, self._zone_reasons = self._zone_reasons, zone_reasons(snapshot)
        for name, reason in self._zone_reasons.items():
            if reason and before.get(name) != reason:
                log.warning("%s: %s", name, reason, extra={"event": "zone-trouble"})
            elif before.get(name) and not reason:
                log.info("%s: is read again", name, extra={"event": "zone-ok"})


def zone_reasons(snapshot: Snapshot) -> dict[str, str]:
    """Return each present zone, by source, name and socket -> what is wrong with it, or nothing."""
    found: dict[str, str] = {}
    for domain in snapshot.domains.values():
        for zone in domain.zones:
            socket = "" if zone.socket is None else f" (socket {zone.socket})"
            label = f"{domain.source} {zone.name}{socket}"
            reasons = [reason for reason in (found.get(label), zone.reason) if reason]
            found[label] = "; ".join(reasons)
    return found


def _baseline(state: State, cpu: CpuSeries | None) -> CpuBaseline | None:
    if state.cpu_end is None or cpu is None:
        return None
    return baseline_of(cpu.method, state.cpu_end, cpu.cgroups, cpu.stamp)
