"""One GPU of known power, and what its driver publishes of it: a sensor that sees part of the time,
an energy counter that is true or made of the sensor, and averages that are true."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tychod.samples import GpuDevice, GpuSample, GpuSeries

Floats = NDArray[np.float64]

S: Final = 1_000_000_000
UUID: Final = "GPU-12345678"
Counter = Literal["true", "sampled", "none"]


@dataclass(frozen=True)
class Power:
    """Watts that are constant between moments; before and after them as at the ends."""

    times_s: Floats  # (n+1,) increasing
    watts: Floats  # (n,)

    def energy_j(self, t_s: Floats) -> Floats:
        """Energy since the first moment, negative before it."""
        total = np.concatenate([[0.0], np.cumsum(self.watts * np.diff(self.times_s))])
        inside = np.interp(t_s, self.times_s, total)
        before = np.minimum(t_s - self.times_s[0], 0.0) * self.watts[0]
        after = np.maximum(t_s - self.times_s[-1], 0.0) * self.watts[-1]
        found: Floats = inside + before + after
        return found


@dataclass(frozen=True)
class Sensor:
    """How a device publishes."""

    period_s: float = 0.1
    jitter: float = 0.05  # standard deviation of a publication's time, of the period
    sensor_s: float = 0.025  # how much of the time before an update the momentary value saw
    average_s: float = 0.0  # 0: it has no averaged field
    counter: Counter = "true"
    stamp_error: float = 0.035  # standard deviation of the lock's stamps, of the period
    noise_w: float = 0.0
    has_instants: bool = True
    delay_s: float = 0.0


def constant(watts: float) -> Power:
    """The same power for ever."""
    return Power(np.array([0.0, 1.0]), np.array([watts]))


def pulse(begin_s: float, end_s: float, watts: float, base_w: float) -> Power:
    """One rectangle over a base."""
    return Power(
        np.array([begin_s - 1.0, begin_s, end_s, end_s + 1.0]), np.array([base_w, watts, base_w])
    )


def bursts(rng: np.random.Generator, seconds: float, *, rest: float = 1.0) -> Power:
    """Bursts of 30 to 300 ms of 250 to 600 W over 50 W; rests are ``rest`` times as long."""
    count = int(seconds / 0.165 / (1.0 + rest)) + 20
    lengths = rng.uniform(0.03, 0.3, 2 * count)
    lengths[::2] *= rest
    watts = np.full(2 * count, 50.0)
    watts[1::2] = rng.uniform(250.0, 600.0, count)
    return Power(np.concatenate([[0.0], np.cumsum(lengths)]) - 3.0, watts)


def steps(rng: np.random.Generator, seconds: float, *, every_s: float = 5.0) -> Power:
    """Another level every few seconds."""
    count = int(seconds / every_s) + 2
    times = np.arange(count + 1, dtype=np.float64) * every_s - 3.0
    return Power(times, rng.uniform(60.0, 600.0, count))


def device(sensor: Sensor, *, max_power_w: float = 700.0) -> GpuDevice:
    """The device as its driver describes it, with what was learned of it."""
    return GpuDevice(
        uuid=UUID,
        number=0,
        name="Simulated",
        pci="0000:01:00.0",
        max_power_w=max_power_w,
        average_s=sensor.average_s,
        sensor_s=sensor.sensor_s,
        period_s=sensor.period_s,
        delay_s=sensor.delay_s,
    )


def samples(
    power: Power, sensor: Sensor, rng: np.random.Generator, begin_s: float, end_s: float
) -> tuple[GpuSample, ...]:
    """Every update that the device publishes, dated with the lock's error."""
    t_s = _published(sensor, rng, begin_s, end_s)
    seen = t_s - sensor.delay_s
    stamps = t_s + sensor.stamp_error * sensor.period_s * rng.standard_normal(len(t_s))
    instants = _mean_w(power, seen, sensor.sensor_s)
    instants = np.maximum(instants + sensor.noise_w * rng.standard_normal(len(t_s)), 0.0)
    averages = _mean_w(power, seen, sensor.average_s) if sensor.average_s else None
    counter = _counter_j(power, sensor, seen, instants)
    return tuple(
        GpuSample(
            t_ns=round(max(t_s[i], stamps[i]) * S) + 1_000_000,
            device=UUID,
            published_ns=round(stamps[i] * S),
            sd_ns=round(sensor.stamp_error * sensor.period_s * S),
            energy_uj=None if counter is None else int(counter[i] * 1e3) * 1_000,
            instant_uw=int(instants[i] * 1e3) * 1_000 if sensor.has_instants else None,
            average_uw=None if averages is None else int(averages[i] * 1e3) * 1_000,
        )
        for i in range(len(t_s))
    )


def _published(sensor: Sensor, rng: np.random.Generator, begin_s: float, end_s: float) -> Floats:
    count = int((end_s - begin_s) / sensor.period_s) + 1
    spread = np.clip(sensor.jitter * rng.standard_normal(count), -0.4, 0.4)
    found: Floats = begin_s + (np.arange(count) + rng.uniform() + spread) * sensor.period_s
    return found


def _mean_w(power: Power, t_s: Floats, over_s: float) -> Floats:
    return (power.energy_j(t_s) - power.energy_j(t_s - over_s)) / over_s


def _counter_j(power: Power, sensor: Sensor, t_s: Floats, instants: Floats) -> Floats | None:
    if sensor.counter == "none":
        return None
    if sensor.counter == "true":
        return power.energy_j(t_s) + 5_000.0
    lengths = np.diff(t_s, prepend=t_s[0] - sensor.period_s)
    return np.asarray(np.cumsum(instants * lengths) + 5_000.0)


def series(dev: GpuDevice, found: tuple[GpuSample, ...], begin_s: float, end_s: float) -> GpuSeries:
    """What a window is given: the samples that were read in a stretch of time."""
    inside = tuple(s for s in found if begin_s * S < s.t_ns <= end_s * S)
    return GpuSeries("nvml", (dev,), inside, (), {})
