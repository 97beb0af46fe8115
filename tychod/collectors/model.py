"""Modelled CPU energy for machines without a meter: idle watts plus watts per busy CPU.

The counter is a function of the machine alone (time since boot and busy time since boot), so it
goes on through a restart of the daemon like a hardware counter.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tychod.collectors.base import CollectorSpec, EnergyCollector, Ready
from tychod.hostfs import Host, KeptFile, online_cpus
from tychod.kernel.procstat import STAT_BYTES, parse_cpu_times, tick_hz
from tychod.samples import EnergySample, EnergyZone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tychod.clock import Clock
    from tychod.config import Config


class PowerModel(NamedTuple):
    """Power of the machine's CPUs, in whole microwatts so that energies are exact integers."""

    idle_uw: int  # of all CPUs together
    busy_uw: int  # more for each busy CPU

    def energy_uj(self, since_boot_ns: int, busy_ns: int) -> int:
        """Return the energy since boot, in microjoules, rounded down."""
        return (self.idle_uw * since_boot_ns + self.busy_uw * busy_ns) // 1_000_000_000


class ModelledCpu:
    """One zone, the package, that never fails as long as /proc/stat can be read.

    The number of CPUs is the one at the probe and part of the zone's key: a CPU added later counts
    when it is busy at once, when it is idle from the next start on, where a new key begins anew.
    """

    name: Final = "model"
    quality: Final[Literal["measured", "modelled"]] = "modelled"
    delay_s: Final = 0.0
    sensors: Final = ()
    outdated: Final = False
    problems: Final = ()

    def __init__(self, stat: KeptFile, model: PowerModel, cpus: int, clock: Clock) -> None:
        self._stat = stat
        self._model = model
        self._clock = clock
        self._tick_hz = tick_hz()
        self._busy_ns = 0
        key = f"model:cpus={cpus},idle_uw={model.idle_uw},busy_uw={model.busy_uw}"
        self.zones: Final = (
            EnergyZone(
                key=key,
                domain="package",
                name="cpu-model",
                socket=None,
                max_range_uj=0,
                max_power_w=(model.idle_uw + 2 * cpus * model.busy_uw) / 1e6 + 1000.0,
                idle_w=model.idle_uw / 1e6,
            ),
        )
        self.failure = ""
        self.zone_reasons: Mapping[str, str] = MappingProxyType({})

    def read(self) -> EnergySample | None:
        """Read the busy time and return the energy since boot; None if it cannot be read."""
        before_ns = self._clock.now_ns()
        try:
            times = parse_cpu_times(self._stat.read(STAT_BYTES), self._tick_hz)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            self.failure = f"{self._stat.path}: {reason}"
            self.zone_reasons = MappingProxyType({self.zones[0].key: self.failure})
            return None
        if self.failure:
            self.failure, self.zone_reasons = "", MappingProxyType({})
        t_ns = (before_ns + self._clock.now_ns()) // 2
        # The kernel may correct its times downwards by a tick; energy never shrinks.
        self._busy_ns = max(self._busy_ns, times.tasks_ns + times.irq_ns)
        return EnergySample(t_ns, (self._model.energy_uj(t_ns, self._busy_ns),))

    def close(self) -> None:
        """Close /proc/stat."""
        self._stat.close()


def probe(host: Host, config: Config, clock: Clock) -> Ready[EnergyCollector]:
    """Open /proc/stat; nothing else is needed."""
    cpus = online_cpus(host)
    model = PowerModel(
        idle_uw=cpus * round(config.model.idle_w_per_cpu * 1e6),
        busy_uw=round(config.model.busy_w_per_cpu * 1e6),
    )
    stat = host.open_kept(f"{host.procfs}/stat")
    return Ready(ModelledCpu(stat, model, cpus, clock))


SPEC: Final[CollectorSpec[EnergyCollector]] = CollectorSpec(
    name="model",
    quality="modelled",
    enabled=lambda config: config.model.enabled,
    interval_s=lambda config: config.model.interval,
    probe=probe,
)
