"""All parts of a running daemon, wired together."""

import dataclasses
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tychod.analysis.state import Params, State
from tychod.buffer import Latest
from tychod.clock import Clock, SystemClock
from tychod.collectors.cpu import grid_s
from tychod.hostfs import (
    Host,
    boot_id,
    may_read_everything,
    memory_bytes,
    online_cpus,
    own_cpu_ns,
    own_rss_bytes,
    raise_open_file_limit,
)
from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.model import DaemonStatus, NodeFacts, Snapshot, SourceStatus, Trouble
from tychod.runtime.analyser import Analyser, Axis, Inputs, Named, Outputs
from tychod.runtime.answers import Answers, Readers
from tychod.runtime.facts import Stoppable, node_facts, params_of, stop_all, with_keys
from tychod.runtime.gpus import GpuSampler, gpu_sampler
from tychod.runtime.history import REMEDY, History
from tychod.runtime.metadata import Cgroups
from tychod.runtime.naming import build_naming, complete, count_nameless, kubelet_status
from tychod.runtime.places import StartError
from tychod.runtime.plans import Plan
from tychod.runtime.problems import source_troubles
from tychod.runtime.processes import ProcessSampler, open_processes
from tychod.runtime.questions import Asked, build_questions
from tychod.runtime.recorder import Recorders, describe
from tychod.runtime.saved import Saved
from tychod.runtime.server import ControlServer
from tychod.runtime.slots import Coarse
from tychod.runtime.sources import EnergySampler, cpu_sampler, energy_samplers, off_status
from tychod.runtime.store import Store
from tychod.runtime.timings import TimingKeeper
from tychod.runtime.vms import VmSampler
from tychod.samples import CgroupRef
from tychod.settings import Settings, flat, plain

if TYPE_CHECKING:
    from tychod.runtime.http_endpoint import Endpoint

log = logging.getLogger(__name__)

LACKS_CAPABILITY: Final = Trouble(
    "privileges",
    "the daemon lacks CAP_DAC_READ_SEARCH: containerd's bundles, which name pods first, and the "
    "kubelet's credentials of root cannot be read; names come from log links, if at all",
    "give it the capability back (remove the drop-in that took it), or accept the loss",
)
WAIT_STEP_S: Final = 0.1
NAMING_S: Final = 0.25
"""How long a window waits for the names of cgroups that were made just before its end."""
LAST_READING_S: Final = 0.3
QUIET_LIMIT_S: Final = 4.0
"""Analysis shows itself twice a second; after this long without it something is wrong."""
STOP_S: Final = 1.0
"""All threads together get this long; one that hangs in a driver is left behind."""


class Tried(Protocol):
    """A source that may take its time at first."""

    @property
    def plan(self) -> Plan:
        """How it is read."""

    def wait_tried(self, timeout_s: float) -> bool:
        """Wait for its first answer."""


class Daemon:
    """Samplers, identity, analysis and the control socket of one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        listener: socket.socket,
        path: Path | None,
        crashed: Callable[[str], None],
        credentials: str = "",
    ) -> None:
        """``credentials``: the directory in which systemd put those of this service."""
        self.settings = settings
        self._clock: Clock = SystemClock()
        self._store = store
        self._rejected: str | None = None
        self._begun_ns = self._clock.now_ns()
        self._begun_cpu_ns = own_cpu_ns()
        raise_open_file_limit()
        host = Host(settings.config.host, credentials)
        self._facts = node_facts(settings.config, boot_id(host))
        self._boot_id = self._facts.boot_id
        self._cpus = online_cpus(host)
        self._memory_bytes = memory_bytes(host)
        self._latest: Latest[Snapshot] = Latest()
        self._coarse = Coarse(self._latest, lambda: self.settings.config.control.min_interval)
        self._params: Latest[Params] = Latest()
        self._params.publish(params_of(settings.config, self._cpus, self._memory_bytes))
        saved = store.load(self._boot_id, self._begun_ns) or Saved(State(), None)
        self._since_ns = saved.state.since_ns
        self._crash: Latest[str] = Latest()
        self._crashed = crashed
        self._recorders = Recorders(
            partial(describe, host, self._facts, lambda: flat(self.settings.config)),
            lambda: self.settings.config.control.admin_group,
        )
        self._build(host, store, saved)
        asked = Asked(lambda: self.settings.config, self.facts, self.status)
        answers = self._answers(asked)
        self._server = ControlServer(listener, answers, path=path, recorders=self._recorders)
        self._endpoint = self._metrics_endpoint(asked, answers, credentials)

    def _metrics_endpoint(self, asked: Asked, answers: Answers, folder: str) -> "Endpoint | None":
        if not self.settings.config.metrics.enabled:
            return None
        from tychod.runtime.http_build import build_endpoint  # HTTP: most hosts need none

        quiet = (self.quiet_s, QUIET_LIMIT_S)
        return build_endpoint(asked, answers, folder, self._server.counts, quiet)

    def _answers(self, asked: Asked) -> Answers:
        readers = Readers(
            self.facts,
            self.status,
            lambda: plain(self.settings),
            self._analyser.wait_s,
            build_questions(asked, self._history),
            lambda: self.settings.config.control,
        )
        return Answers(self._latest, self._clock, readers, self._coarse)

    def _build(self, host: Host, store: Store, saved: Saved) -> None:
        crashed = self._note_crash
        config, clock = self.settings.config, self._clock
        epoch_ns = self._begun_ns // BUCKET_NS * BUCKET_NS  # so that windows end with bins
        self._timings = TimingKeeper(store.directory, clock)
        find = self._timings.find
        self._energy = energy_samplers(host, config, clock, epoch_ns, crashed, find)
        self._cpu = cpu_sampler(host, config, clock, epoch_ns, crashed, saved.baseline)
        self._processes = None
        if config.accounting.processes:
            opener = partial(open_processes, host, clock)
            self._processes = ProcessSampler(self._cpu.collector, opener, clock, crashed)
        self._gpus = gpu_sampler(host, config, self._version, clock, epoch_ns, crashed, find)
        naming = build_naming(host, config, self._read_cgroups, clock, crashed)
        self._metadata, self._kubelet, self._machines = naming
        slots = (self._latest, self._coarse)
        self._history = History(
            config.history, self._boot_id, store.directory, *slots, SystemClock(), crashed
        )
        self._analyser = Analyser(
            Axis(
                epoch_ns,
                round(config.window.length * 1e9),
                round(grid_s(config) * 1e9),
            ),
            Inputs(
                self._energy,
                self._cpu,
                self._identify,
                self._processes,
                self._machines,
                self._gpus,
            ),
            saved.state,
            self._params,
            Outputs(self._boot_id, store, self._latest, self._recorders),
            clock,
            crashed,
        )

    def start(self, patience_s: float, stop_asked: Callable[[], bool]) -> None:
        """Start everything; return when the first pass is good and the socket answers.

        A source that has not answered after ``patience_s`` seconds does not hold the start.
        Raise ``StartError`` when a thread has failed meanwhile.
        """
        self._cpu.sampler.start()
        for source in self._timed():
            source.sampler.start()
        deadline_ns = self._clock.now_ns() + round(patience_s * 1e9)
        self._wait_tried(deadline_ns, stop_asked)
        self._metadata.start()
        self._wait_for(self._metadata.wait_scanned, deadline_ns, stop_asked)
        for reader in self._at_end():
            reader.start()
        self._analyser.start()
        self._history.start()
        self._server.start()
        if self._endpoint is not None:
            self._endpoint.start()
        self._check_crash()

    def _wait_tried(self, deadline_ns: int, stop_asked: Callable[[], bool]) -> None:
        energy: list[Tried] = [s.sampler for s in self._timed() if not s.sampler.plan.remote]
        everything: list[Tried] = [self._cpu.sampler, *energy]
        for sampler in everything:
            if not self._wait_for(sampler.wait_tried, deadline_ns, stop_asked):
                log.warning(
                    "%s has not answered yet; the start goes on without it", sampler.plan.name
                )

    def _wait_for(
        self,
        wait: Callable[[float], bool],
        deadline_ns: int,
        stop_asked: Callable[[], bool],
    ) -> bool:
        """Wait step by step; False when it is too late.  A stop ends it, a crash is raised."""
        while not wait(WAIT_STEP_S):
            self._check_crash()
            if stop_asked():
                return True
            if self._clock.now_ns() > deadline_ns:
                return False
        return True

    def _note_crash(self, reason: str) -> None:
        self._crash.publish(reason)
        self._crashed(reason)

    def _check_crash(self) -> None:
        reason = self._crash.get()
        if reason is not None:
            raise StartError(f"{reason}: this is a fault of tychod, please report it")

    def stop(self) -> None:
        """Stop in reverse order; what hangs is left to end with the process.

        CPU time is read once more and a last window is closed with it, so that a restart, which
        may be one to another way of accounting, has as little as possible to bridge.
        """
        if self._endpoint is not None:
            self._endpoint.ask_stop()
        self._server.close()
        if self._endpoint is not None:
            self._endpoint.close()
        self._cpu.sampler.ask_stop()
        self._cpu.sampler.wait_rested(LAST_READING_S)
        deadline_ns = self._clock.now_ns() + round(STOP_S * 1e9)
        stop_all([self._analyser], self._clock, deadline_ns)
        samplers: list[Stoppable] = [source.sampler for source in self._timed()]
        readers = self._at_end()
        parts: list[Stoppable] = [self._history, self._metadata, *readers, self._cpu.sampler]
        parts += samplers
        stop_all(parts, self._clock, deadline_ns)

    def _at_end(self) -> list[ProcessSampler | VmSampler]:
        """Return what reads when a window ends."""
        return [reader for reader in (self._processes, self._machines) if reader is not None]

    def _timed(self) -> tuple[EnergySampler | GpuSampler, ...]:
        """Return the sources that are read on time."""
        return (*self._energy, self._gpus) if self._gpus else self._energy

    def quiet_s(self) -> float:
        """Seconds since analysis last advanced."""
        return self._analyser.quiet_s()

    def reject(self, why: str) -> None:
        """Remember that a reload was refused, until a good one."""
        self._rejected = why

    def accept(self, fresh: Settings, live: Iterable[str]) -> None:
        """Put the settings named in ``live`` into force; the others wait for a restart."""
        self._rejected = None
        config = with_keys(self.settings.config, fresh.config, live)
        origins = {**self.settings.origins, **{key: fresh.origins[key] for key in live}}
        self.settings = Settings(config, origins, fresh.files, fresh.warnings)
        self._params.publish(params_of(config, self._cpus, self._memory_bytes))

    def summary(self) -> str:
        """Return the one line for systemd: a rejected configuration, or how the sources are."""
        if self._rejected:
            return f"configuration rejected: {self._rejected}"
        return "; ".join(f"{s.name} {s.state}" for s in self.sources())

    def learn_timings(self) -> None:
        """Keep what was learned of when devices publish; cheap where there are none."""
        if self._timings.is_due():
            self._timings.learn(self.sources())

    def sources(self) -> tuple[SourceStatus, ...]:
        """Return the health of every source."""
        rows = [source.sampler.status() for source in self._timed()]
        rows += off_status(self.settings.config)
        snapshot = self._latest.get()
        rows = [*self._timings.shown(rows, snapshot)]
        nameless = count_nameless(snapshot)
        kubelet = kubelet_status(self._kubelet, self.settings.config, nameless=nameless)
        return (self._cpu.sampler.status(), *rows, kubelet)

    def status(self) -> DaemonStatus:
        """Return the daemon's own state, now."""
        snapshot = self._latest.get()
        elapsed_ns = max(self._clock.now_ns() - self._begun_ns, 1)
        return DaemonStatus(
            uptime_s=elapsed_ns / 1e9,
            state="running" if snapshot else "starting",
            since_ns=snapshot.since_ns if snapshot else self._since_ns,
            cpu_percent=100.0 * (own_cpu_ns() - self._begun_cpu_ns) / elapsed_ns,
            rss_bytes=own_rss_bytes(),
            conservation_violations=snapshot.conservation_violations if snapshot else 0,
            config_rejected=self._rejected,
            identity_routes=self._metadata.routes(),
            sources=self.sources(),
            troubles=tuple(self._troubles()),
            endpoint=self._endpoint.counts() if self._endpoint else None,
            state_directory=str(self._store.directory),
        )

    def _troubles(self) -> Iterator[Trouble]:
        if self._store.problem:
            remedy = "make room or mend the directory's mode; saving is tried again every window"
            yield Trouble("state", self._store.problem, remedy)
        if self._history.problem:
            yield Trouble("history", self._history.problem, REMEDY)
        collector = self._cpu.collector()
        for problem in collector.problems if collector else ():
            yield Trouble("cpu", problem, None)
        if self._processes is not None:
            yield from self._processes.troubles()
        for problem in self._metadata.problems():
            yield Trouble("identity", problem, "see who makes cgroups of such names")
        told = {s.sampler.plan.name: s.problems() for s in self._timed()}
        yield from source_troubles(told | self._timings.problems())
        if self._endpoint is not None:
            yield from self._endpoint.troubles()
        if not may_read_everything():
            yield LACKS_CAPABILITY

    def facts(self) -> NodeFacts:
        """Return what is known of the node; how time is accounted as it is now."""
        collector = self._cpu.collector()
        if collector is None:
            health = self._cpu.sampler.health()
            reason = health.reason or "not known"
            return dataclasses.replace(
                self._facts,
                accounting_reason=reason,
                hierarchy_reason=reason,
                accounting_remedy=health.remedy,
            )
        return dataclasses.replace(
            self._facts,
            accounting_method=collector.method,
            accounting_reason=collector.method_reason,
            accounting_remedy=collector.method_remedy,
            hierarchy=collector.hierarchy,
            hierarchy_reason=collector.hierarchy_reason,
            accounting=collector.figures,
        )

    def _read_cgroups(self) -> Cgroups:
        collector = self._cpu.collector()
        if collector is None:
            return Cgroups(self.settings.config.host.cgroupfs, {})
        return Cgroups(collector.root, self._cpu.cgroups(), self._version())

    def _version(self) -> Literal["v1", "v2"]:
        collector = self._cpu.collector()
        return "v1" if collector and collector.hierarchy.startswith("v1") else "v2"

    def _identify(self, cgroups: Mapping[int, CgroupRef]) -> Named:
        found = self._metadata.catch_up(cgroups, NAMING_S)
        return Named(complete(found.identities, cgroups), found.machines)
