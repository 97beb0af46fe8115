"""What holds for the energy of a GPU whatever its load and its driver are like."""

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.gpuworld import (
    UUID,
    S,
    Sensor,
    bursts,
    constant,
    device,
    pulse,
    samples,
    series,
    steps,
)
from tychod.analysis.gpuseries import DeviceWindow, device_windows
from tychod.analysis.state import Params, ZonePoint
from tychod.model import Window
from tychod.samples import GpuSample

if TYPE_CHECKING:
    from tychod.analysis.gpumemory import GpuMemory

SEEDS = st.integers(0, 2**32 - 1)
SENSORS = st.builds(
    Sensor,
    period_s=st.sampled_from((0.02, 0.1, 0.35)),
    sensor_s=st.sampled_from((0.005, 0.025, 0.2)),
    average_s=st.sampled_from((0.0, 1.0)),
    counter=st.sampled_from(("true", "sampled", "none")),
    stamp_error=st.sampled_from((0.0, 0.035, 0.1)),
    delay_s=st.sampled_from((0.0, 0.15)),
)
CUTS = st.lists(st.floats(0.3, 4.0), min_size=2, max_size=5)


def windows(
    found: tuple[GpuSample, ...], sensor: Sensor, lengths_s: list[float], *, max_w: float = 700.0
) -> list[DeviceWindow]:
    """Windows of these lengths, one after the other."""
    points: dict[str, ZonePoint] = {}
    memory: dict[str, GpuMemory] = {}
    dev, cuts, start_ns = device(sensor, max_power_w=max_w), [], 0
    for length_s in lengths_s:
        window = Window(start_ns, start_ns + round(length_s * S))
        seen = series(dev, found, window.start_ns / S - 2.5, window.end_ns / S + 0.5)
        cut, told = device_windows(seen, window, points, memory, Params(cpus=1))
        cuts += cut
        memory = dict(told)
        points = {c.zone.zone.key: c.zone.point for c in cut} or points
        start_ns = window.end_ns
    return cuts


def world(seed: int, sensor: Sensor, seconds: float) -> tuple[GpuSample, ...]:
    """A load of bursts or of steps, and what is published of it."""
    rng = np.random.default_rng(seed)
    power = bursts(rng, seconds + 8.0) if seed % 2 else steps(rng, seconds + 8.0)
    return samples(power, sensor, rng, -3.0, seconds + 1.0)


@given(SEEDS, SENSORS, CUTS, st.sets(st.integers(0, 300), max_size=40))
@settings(max_examples=25, deadline=None)
def test_windows_add_up_to_the_counter(
    seed: int, sensor: Sensor, lengths_s: list[float], lost: set[int]
) -> None:
    """Invariant 38: a window's bins add up to its energy, windows to the counter's difference."""
    sensor = replace(sensor, counter="sampled" if sensor.counter == "sampled" else "true")
    found = world(seed, sensor, sum(lengths_s))
    kept = tuple(s for i, s in enumerate(found) if i not in lost)
    cuts = windows(kept, sensor, [*lengths_s, 5.0])  # the last one ends after the last update
    for cut in cuts:
        assert cut.zone.meter.energy_j[-1] * 1e6 == pytest.approx(cut.zone.energy_uj, abs=1.0)
    assert cuts[-1].zone.point.native_uj == kept[-1].energy_uj
    for before, after in pairwise(cuts):
        rise_uj = (after.zone.point.native_uj or 0) - (before.zone.point.native_uj or 0)
        assert after.zone.energy_uj + after.zone.late_uj == rise_uj
        assert after.zone.point.booked_uj == before.zone.point.booked_uj + rise_uj


@given(SEEDS, SENSORS, CUTS)
@settings(max_examples=25, deadline=None)
def test_energy_is_never_negative_and_scales(
    seed: int, sensor: Sensor, lengths_s: list[float]
) -> None:
    """Invariant 39: no bin is negative, and a load twice as large has twice the energy."""
    found = world(seed, sensor, sum(lengths_s))
    twice = tuple(
        s._replace(
            energy_uj=None if s.energy_uj is None else 2 * s.energy_uj,
            instant_uw=None if s.instant_uw is None else 2 * s.instant_uw,
            average_uw=None if s.average_uw is None else 2 * s.average_uw,
        )
        for s in found
    )
    once = windows(found, sensor, lengths_s)
    double = windows(twice, sensor, lengths_s, max_w=1400.0)
    for cut, larger in zip(once, double, strict=True):
        assert (np.diff(cut.zone.meter.energy_j) >= 0.0).all()
        assert cut.sd_j >= 0.0
        # Rounded to microjoules at each end, and the sensor's part of a step once more.
        assert larger.zone.energy_uj == pytest.approx(2 * cut.zone.energy_uj, rel=1e-9, abs=8)
        assert larger.method == cut.method


@given(st.floats(20.0, 690.0), SENSORS, SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_constant_load_is_constant(watts: float, sensor: Sensor, seed: int) -> None:
    """Invariant 39: constant input gives the same power in every bin inside a window."""
    exact = replace(sensor, stamp_error=0.0, jitter=0.05, counter="none")
    for kind in ("none", "true"):
        of = replace(exact, counter="true" if kind == "true" else "none")
        found = samples(constant(watts), of, np.random.default_rng(seed), -3.0, 7.0)
        cut = windows(found, of, [3.0, 3.0])[-1]
        edges_ns = np.arange(3 * S, cut.zone.point.t_ns - 50_000_000, 50_000_000)
        meter = cut.zone.meter
        bins_w = np.diff(np.interp(edges_ns, meter.times_ns, meter.energy_j)) / 0.05
        assert bins_w == pytest.approx(watts, rel=0.005)


@pytest.mark.parametrize("has_instants", [True, False])
@given(st.floats(0.0, 0.1), st.floats(0.5, 2.0), st.floats(150.0, 600.0), SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_pulse_through_an_average_keeps_its_energy(
    has_instants: bool,
    phase_s: float,
    length_s: float,
    watts: float,
    seed: int,
) -> None:
    """Invariant 40: what a 1 s boxcar smears of a rectangular pulse is put back within 2 %."""
    sensor = Sensor(
        counter="none", average_s=1.0, has_instants=has_instants, stamp_error=0.0, jitter=0.0
    )
    power = pulse(4.5 + phase_s, 4.5 + phase_s + length_s, watts, 50.0)
    found = samples(power, sensor, np.random.default_rng(seed), -3.0, 13.0)
    cuts = windows(found, sensor, [3.0, 3.0, 3.0, 3.0])
    assert all(cut.device.uuid == UUID and cut.method == "averages" for cut in cuts)
    extra_j = sum(cut.zone.energy_uj + cut.zone.late_uj for cut in cuts) / 1e6 - 50.0 * 12.0
    assert extra_j == pytest.approx((watts - 50.0) * length_s, rel=0.02)
