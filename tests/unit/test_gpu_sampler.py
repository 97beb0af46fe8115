"""The source of all GPUs: how much of what it read is kept, and for how long."""

import time
from collections.abc import Mapping
from types import MappingProxyType

from tychod.collectors.base import GpuCollector, Ready, Timings, Unavailable
from tychod.collectors.nvml_device import FASTEST_S
from tychod.model import SourceDevice
from tychod.runtime.gpus import GpuSampler
from tychod.runtime.plans import Plan
from tychod.samples import GpuDevice, GpuSample, GpuUse

S = 1_000_000_000
PATIENCE_S = 20.0
HISTORY_S = 20.0


class Clock:
    """A clock that the collector moves."""

    now = 1000 * S

    def now_ns(self) -> int:
        """Simulated time."""
        return self.now

    def wall_offset_ns(self) -> int:
        """Not used here."""
        return 0


class Cards:
    """One GPU when it is opened; more come.  Each reading gives a second of all of them."""

    name = "nvml"
    delay_s = 0.0
    reasons: Mapping[str, str] = MappingProxyType({})
    failure = ""
    problems = ()
    outdated = False
    notes = ()

    def __init__(self, clock: Clock, seconds: int, count: int) -> None:
        self._clock = clock
        self._left = seconds
        self._count = count
        self.devices: tuple[GpuDevice, ...] = (self._device(0),)

    def _device(self, number: int) -> GpuDevice:
        return GpuDevice(f"GPU-{number}", number, "x", "", 700.0, 0.0, 0.0, FASTEST_S, 0.0)

    def due_ns(self, now_ns: int) -> int:
        """Now, while there is something left."""
        return now_ns if self._left else now_ns + S

    def read(self) -> tuple[GpuSample, ...]:
        """A second of every device."""
        if not self._left:
            return ()
        self._left -= 1
        start_ns = self._clock.now
        self._clock.now += S
        step_ns = round(FASTEST_S * S)
        times = range(start_ns, start_ns + S, step_ns)
        found = [(t_ns, device) for t_ns in times for device in self.devices]
        self.devices = tuple(map(self._device, range(self._count)))
        return tuple(
            GpuSample(t_ns + d.number, d.uuid, t_ns, 1000, None, 10**8, None) for t_ns, d in found
        )

    def uses(self) -> tuple[GpuUse, ...]:
        """A look at each device."""
        now_ns = self._clock.now
        return tuple(GpuUse(now_ns - d.number, d.uuid, now_ns - S, ()) for d in self.devices)

    def published(self) -> tuple[SourceDevice, ...]:
        """Nothing is told."""
        return ()

    def calibrate(self, timings: Timings) -> None:
        """Nothing to know."""

    def close(self) -> None:
        """Nothing to close."""


def filled(seconds: int, count: int) -> tuple[GpuSampler, Clock]:
    """A sampler that has read so many seconds of so many GPUs, of which it first knew one."""
    clock = Clock()
    plan = Plan("nvml", "auto", "measured", 0.1, HISTORY_S, clock.now)
    cards: GpuCollector = Cards(clock, seconds, count)

    def find() -> Ready[GpuCollector] | Unavailable:
        return Ready(cards)

    crashes: list[str] = []
    source = GpuSampler(plan, find, lambda: "v2", clock, crashes.append, 1.0)
    source.sampler.start()
    deadline = time.monotonic() + PATIENCE_S
    while cards.due_ns(0) == 0 and not crashes:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    source.sampler.ask_stop()
    assert source.sampler.wait_rested(PATIENCE_S)
    assert crashes == []
    return source, clock


def test_gpus_that_come_later_have_room() -> None:
    """Opened with one GPU, then eight at their fastest: all that a window needs is there."""
    source, clock = filled(seconds=12, count=8)
    kept = source.sampler.newest()
    assert kept is not None
    first = kept.buffer.first()
    assert first is not None
    assert clock.now - first.t_ns == 12 * S
    assert source.sampler.join(PATIENCE_S)


def test_what_is_old_is_dropped() -> None:
    """Room for many devices is no reason to keep the samples of one for hours."""
    source, clock = filled(seconds=60, count=1)
    kept = source.sampler.newest()
    assert kept is not None
    first = kept.buffer.first()
    assert first is not None
    assert clock.now - first.t_ns <= (HISTORY_S + 1) * S
    assert len(kept.buffer) <= (HISTORY_S + 1) / FASTEST_S
    assert source.sampler.join(PATIENCE_S)
