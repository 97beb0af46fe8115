"""Window after window of a machine of known power, as the daemon would see it through its meters.

The package has a RAPL counter, the GPU one of its own, read every 50 and 100 ms; the BMC's readings
are there once they have been published.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from tests.sim.bmcpower import BEGIN_NS, PlatformWorld
from tychod.analysis.energy import ZoneWindow, domain_windows, zone_windows
from tychod.analysis.platform import platform_window
from tychod.analysis.platform_memory import PlatformMemory
from tychod.analysis.platform_shown import PlatformWindow
from tychod.analysis.state import Params, State, ZonePoint
from tychod.model import Window
from tychod.samples import EnergySample, EnergySeries, EnergyZone, PowerSensor

NS: Final = 1_000_000_000
PARAMS: Final = Params(cpus=8)
LAG_NS: Final = 400_000_000
"""A window is closed so long after its end."""
EVERY_NS: Final = {"package": 50_000_000, "dram": 50_000_000, "gpu": 100_000_000}
UNIT_UJ: Final = {"package": 61, "dram": 15, "gpu": 1000}
MARGIN_NS: Final = 300_000_000


Blind = tuple[str, float, float]
"""A part that cannot be read between two seconds."""


class Faults(NamedTuple):
    """What goes wrong with the reading."""

    blind: Blind | None = None
    reset: tuple[str, float] | None = None  # a part's counter begins anew at a second
    average_s: float = 0.0  # what the BMC tells of its averaging


class Row(NamedTuple):
    """One window and what was made of it."""

    window: Window
    seen: PlatformWindow
    memory: PlatformMemory


def sensor(name: str = "chassis") -> PowerSensor:
    """One chassis' power."""
    return PowerSensor(f"redfish:{name}", "platform", name, None, 5_000.0)


def rows(
    world: PlatformWorld,
    memory: PlatformMemory | None = None,
    window_s: float = 3.0,
    from_s: float = 0.0,
    until_s: float | None = None,
    faults: Faults | None = None,
) -> Iterator[Row]:
    """Follow the world between two of its seconds, cold or with what was known."""
    memory = memory or PlatformMemory()
    points: dict[str, ZonePoint] = {}
    end_s = world.settings.seconds if until_s is None else until_s
    ends = from_s + np.arange(1, int((end_s - from_s) / window_s) + 1) * window_s
    start_ns = BEGIN_NS + round(from_s * NS)
    for end in ends.tolist():
        window = Window(start_ns, BEGIN_NS + round(end * NS))
        zones = parts(world, window, points, faults)
        points |= {zone.zone.key: zone.point for zone in zones}
        seen, memory = platform_window(
            bmc(world, window, faults.average_s if faults else 0.0),
            domain_windows(zones),
            window,
            memory,
            PARAMS,
        )
        assert seen is not None
        yield Row(window, seen, memory)
        start_ns = window.end_ns


def bmc(world: PlatformWorld, window: Window, average_s: float = 0.0) -> EnergySeries:
    """What has arrived of the readings: one before the window, those in it, one after."""
    known = [r for r in world.readings if r.t_ns + r.half_ns <= window.end_ns + LAG_NS]
    before = [r for r in known if r.t_ns <= window.start_ns][-1:]
    inside = [r for r in known if window.start_ns < r.t_ns]
    samples = tuple(
        EnergySample(r.t_ns, (), (round(r.power_w * 1e6),), r.half_ns) for r in (*before, *inside)
    )
    chassis = sensor()._replace(average_s=average_s)
    return EnergySeries("redfish", "measured", (), samples, {}, sensors=(chassis,))


def parts(
    world: PlatformWorld,
    window: Window,
    points: Mapping[str, ZonePoint],
    faults: Faults | None = None,
) -> list[ZoneWindow]:
    """What the parts' own meters show in a window."""
    found = []
    for index, name in enumerate(world.settings.parts):
        zone = EnergyZone(f"sim:{name}", name, f"{name}-0", 0, 0, 1_000.0)
        every = EVERY_NS[name]
        first = (window.start_ns - MARGIN_NS) // every
        at = np.arange(first, (window.end_ns + MARGIN_NS) // every + 1, dtype=np.int64) * every
        blind, reset, _ = faults or Faults()
        after_s = (at - BEGIN_NS) / NS
        if blind and blind[0] == name:
            at = at[(after_s < blind[1]) | (after_s >= blind[2])]
        joules = world.parts_j(at)[index]
        if reset and reset[0] == name:
            reset_ns = np.array([BEGIN_NS + round(reset[1] * NS)], np.int64)
            joules = joules - np.where(at >= reset_ns, world.parts_j(reset_ns)[index], 0.0)
        native = np.floor(joules * 1e6 / UNIT_UJ[name]).astype(np.int64) * UNIT_UJ[name]
        samples = tuple(
            EnergySample(t, (uj,)) for t, uj in zip(at.tolist(), native.tolist(), strict=True)
        )
        series = EnergySeries("sim", "measured", (zone,), samples, {})
        found += zone_windows(series, window, State(zones=points), PARAMS)
    return found
