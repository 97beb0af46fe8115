"""One GPU in one window: exact where a counter counts, honest where nothing does."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.sim.gpuworld import (
    UUID,
    Power,
    Sensor,
    bursts,
    constant,
    device,
    pulse,
    samples,
    series,
    steps,
)
from tychod.analysis.gpumemory import GpuMemory, from_plain, to_plain
from tychod.analysis.gpuseries import DeviceWindow, device_windows
from tychod.analysis.state import Params, ZonePoint
from tychod.model import Window
from tychod.samples import GpuDevice, GpuSample, GpuSeries

S = 1_000_000_000
J = 1_000_000
MS = 1_000_000
KEY = f"nvml:{UUID}"
PARAMS = Params(cpus=1)
EXACT = Sensor(jitter=0.0, stamp_error=0.0)
GPU = device(EXACT)


def sample(t_s: float, joules: float | None, watts: float | None = None) -> GpuSample:
    """One update, seen 2 ms after it was published."""
    t_ns = round(t_s * S)
    energy = None if joules is None else round(joules * J)
    instant = None if watts is None else round(watts * J)
    return GpuSample(t_ns + 2 * MS, UUID, t_ns, 0, energy, instant, None)


class Run:
    """Windows of a device one after the other, each given what has been read by its time."""

    def __init__(self, found: Iterable[GpuSample], of: GpuDevice = GPU) -> None:
        self.found, self.of = tuple(found), of
        self.points: dict[str, ZonePoint] = {}
        self.memory: dict[str, GpuMemory] = {}

    def cut(self, start_s: float, end_s: float, lag_s: float = 0.5) -> DeviceWindow:
        """The window of that stretch."""
        seen = series(self.of, self.found, start_s - 2.0, end_s + lag_s)
        window = Window(round(start_s * S), round(end_s * S))
        (found,), memory = device_windows(seen, window, self.points, self.memory, PARAMS)
        self.points, self.memory = {KEY: found.zone.point}, dict(memory)
        return found

    def windows(self, count: int, first: int = 0, length_s: float = 3.0) -> list[DeviceWindow]:
        """So many windows."""
        return [self.cut(i * length_s, (i + 1) * length_s) for i in range(first, first + count)]


def world(power: Power, sensor: Sensor, seconds: float, seed: int = 1) -> Run:
    """A device in a known world."""
    rng = np.random.default_rng(seed)
    return Run(samples(power, sensor, rng, -3.0, seconds + 1.0), device(sensor))


def said_j(found: Sequence[DeviceWindow]) -> float:
    """What windows booked in all."""
    return sum(w.zone.energy_uj + w.zone.late_uj for w in found) / J


def test_a_device_listed_twice_is_booked_once() -> None:
    """Two devices of one name cannot be told apart: their energy is in the total once."""
    found = tuple(sample(0.1 * i, 30.0 * i, 300.0) for i in range(-20, 40))
    once = series(GPU, found, -2.0, 3.5)
    window = Window(0, 3 * S)
    twice = replace(once, devices=(GPU, GPU._replace(number=1)))
    (said,), _ = device_windows(twice, window, {}, {}, PARAMS)
    (expected,), _ = device_windows(once, window, {}, {}, PARAMS)
    assert said.zone.energy_uj == expected.zone.energy_uj == 900 * J


def bins_j(found: DeviceWindow, *at_s: float) -> list[float]:
    """Energy up to these moments."""
    meter = found.zone.meter
    return np.interp(np.array(at_s) * S, meter.times_ns, meter.energy_j).tolist()


def test_a_step_is_split_where_the_sensor_began_to_look() -> None:
    """Of 30 J in 100 ms the last 25 ms had 25 ms x 400 W; the rest is spread before them."""
    run = Run([sample(0.0, 100.0), sample(0.1, 130.0, 400.0), sample(0.2, 130.0, 0.0)])
    found = run.cut(0.0, 0.1)
    assert bins_j(found, 0.0375, 0.075, 0.0875, 0.1) == pytest.approx([10.0, 20.0, 25.0, 30.0])


def test_the_sensors_part_is_never_more_than_the_counter_rose_by() -> None:
    """A sensor that saw more than was counted gets all of the step and no more."""
    run = Run([sample(0.0, 100.0), sample(0.1, 105.0, 600.0), sample(0.2, 110.0, 50.0)])
    assert bins_j(run.cut(0.0, 0.1), 0.075, 0.1) == pytest.approx([0.0, 5.0])


def test_a_window_ends_inside_a_step_and_the_next_one_goes_on_there() -> None:
    """Two windows that meet between updates have the step's energy between them."""
    run = Run([sample(i / 10, 30.0 * i, 300.0) for i in range(41)])
    first, second = run.cut(0.0, 1.03), run.cut(1.03, 2.0)
    assert first.zone.energy_uj == 309 * J
    assert second.zone.energy_uj == 291 * J
    assert second.zone.point.native_uj == 600 * J


def test_what_is_not_known_yet_is_booked_later() -> None:
    """A window that cannot see past its last update leaves the rest to the next one."""
    run = Run([sample(i / 10, 30.0 * i, 300.0) for i in range(61)])
    run.cut(0.0, 1.0)
    early = run.cut(1.0, 2.05, lag_s=0.0)
    assert early.zone.energy_uj == 300 * J
    assert run.cut(2.05, 3.0).zone.energy_uj == 300 * J


def test_a_blocked_driver_costs_no_energy_of_a_counter() -> None:
    """Ten seconds without a reading: what was used meanwhile is told apart, and all of it."""
    found = [sample(i / 10, 30.0 * i, 300.0) for i in (*range(32), *range(135, 200))]
    run = Run(found)
    first, silent, back = run.cut(0.0, 3.0), run.cut(3.0, 6.0), run.cut(6.0, 15.0)
    assert first.zone.energy_uj == 900 * J
    assert silent.zone.energy_uj == 30 * J
    assert back.zone.late_uj == 870 * J
    assert back.zone.energy_uj == 2700 * J
    assert back.zone.reason is None


def test_a_counter_that_begins_anew_books_nothing_for_that_step() -> None:
    """A driver that was restarted counts from nothing: the windows go on from there, told why."""
    before = [sample(i / 10, 1000.0 + 30.0 * i, 300.0) for i in range(16)]
    after = [sample(i / 10, 30.0 * (i - 16), 300.0) for i in range(16, 70)]
    run = Run([*before, *after])
    found = run.cut(0.0, 3.0)
    assert found.zone.energy_uj == (450 + 420) * J
    assert found.zone.broken
    assert "reset" in (found.zone.reason or "")
    assert run.cut(3.0, 6.0).zone.reason is None


@pytest.mark.parametrize("odd_uj", [-1, (2**32 - 1) * 1000, (2**64 - 1) * 1000, 0, 10**14])
def test_a_value_that_cannot_be_makes_no_energy(odd_uj: int) -> None:
    """Negative, all ones, nothing, or far too much: one such value changes no window."""
    found = [sample(i / 10, 1000.0 + 30.0 * i, 300.0) for i in range(70)]
    found[17] = found[17]._replace(energy_uj=odd_uj)
    cuts = Run(found).windows(2)
    assert [c.zone.energy_uj for c in cuts] == [900 * J, 900 * J]
    assert all(c.zone.reason is None for c in cuts)


def test_a_counter_that_jumps_for_good_books_nothing_for_the_jump() -> None:
    """More than the device can draw is not believed; after it counting goes on."""
    found = [sample(i / 10, 30.0 * i + (5e6 if i > 16 else 0.0), 300.0) for i in range(70)]
    run = Run(found)
    first = run.cut(0.0, 3.0)
    assert first.zone.energy_uj == (900 - 30) * J
    assert "more than it can draw" in (first.zone.reason or "")
    assert run.cut(3.0, 6.0).zone.energy_uj == 900 * J


def test_power_that_cannot_be_is_rejected_and_counted() -> None:
    """A momentary value over the device's utmost power, or all ones, is as if it were not read."""
    found = [sample(i / 10, None, 300.0) for i in range(70)]
    found[17] = found[17]._replace(instant_uw=(2**32 - 1) * 1000)
    found[18] = found[18]._replace(instant_uw=-5)
    cut = Run(found).cut(0.0, 3.0)
    assert cut.zone.energy_uj == 900 * J
    assert cut.rejected == 2


def test_readings_alone_are_held_for_three_periods() -> None:
    """What is missing after that has no energy, and how long it was is said."""
    found = [sample(i / 10, None, 300.0) for i in (*range(32), *range(135, 200))]
    run = Run(found)
    run.cut(0.0, 3.0)
    assert run.cut(3.0, 6.0).zone.energy_uj < 40 * J
    back = run.cut(6.0, 18.0)
    told_s = (back.zone.late_uj + back.zone.energy_uj) / J / 300.0
    assert told_s == pytest.approx(18.0 - 13.4875 + 0.3, abs=1e-6)
    assert back.zone.covered_ns == pytest.approx(told_s * S, abs=10)
    assert back.zone.reason == "it was not read for 10.1 s: the energy of that time is missing"
    assert back.zone.broken
    assert run.cut(18.0, 19.0).zone.reason is None


def test_the_first_window_begins_where_the_device_was_first_seen() -> None:
    """First sight of a counter books nothing of before; invariant 37."""
    run = Run([sample(i / 10, 5e6 + 30.0 * i, 300.0) for i in range(11, 70)])
    assert run.cut(0.0, 3.0).zone.energy_uj == (900 - 330) * J


def test_a_device_that_was_never_read_is_not_there() -> None:
    """No number is made up for it."""
    empty = GpuSeries("nvml", (GPU,), (), (), {UUID: "lost"})
    found, _ = device_windows(empty, Window(0, 3 * S), {}, {}, PARAMS)
    assert found == []


def test_a_device_that_cannot_be_read_now_says_why() -> None:
    """It keeps its point and has no energy until it is back."""
    run = world(constant(200.0), EXACT, 3.0)
    run.cut(0.0, 3.0)
    gone = GpuSeries("nvml", (GPU,), (), (), {UUID: "it fell off the bus"})
    (found,), memory = device_windows(gone, Window(3 * S, 6 * S), run.points, run.memory, PARAMS)
    assert found.zone.reason == "it fell off the bus"
    assert found.zone.energy_uj == found.zone.late_uj == 0
    assert found.zone.point == run.points[KEY]
    assert memory == run.memory


@pytest.mark.parametrize("kind", ["true", "sampled"])
def test_what_a_counter_is_fed_by_is_recognised(kind: str) -> None:
    """Under a changing load a counter made of the sensor agrees with it too well."""
    sensor = Sensor(counter="true" if kind == "true" else "sampled")
    run = world(bursts(np.random.default_rng(2), 40.0), sensor, 36.0)
    assert run.cut(0.0, 1.0).method == "unknown"
    found = run.windows(11, 1)
    assert {w.method for w in found[5:]} == {"counter" if kind == "true" else "sampled-counter"}


def test_at_rest_nobody_can_tell_and_what_was_known_stays() -> None:
    """A steady load shows nothing of a counter's kind; a changing one before it does."""
    rest = world(constant(120.0), Sensor(noise_w=1.0, counter="sampled"), 45.0)
    assert {w.method for w in rest.windows(15)} == {"unknown"}
    burst = bursts(np.random.default_rng(3), 30.0)
    still = Power(np.append(burst.times_s, burst.times_s[-1] + 90.0), np.append(burst.watts, 60.0))
    run = world(still, Sensor(), 90.0)
    assert run.windows(30)[-1].method == "counter"


def test_one_step_of_the_load_is_not_enough_to_tell() -> None:
    """Where in its period a single step falls is luck: it may look like either kind."""
    for seed in range(6):
        run = world(steps(np.random.default_rng(seed), 30.0), Sensor(), 18.0, seed)
        assert "sampled-counter" not in {w.method for w in run.windows(6)}


def test_a_counter_that_the_readings_belie_is_not_used() -> None:
    """A third less than the power's integral for half a minute: our own is used, and back again."""
    power = bursts(np.random.default_rng(4), 250.0)
    right = world(power, Sensor(), 240.0).found
    wrong = [
        s._replace(energy_uj=round(0.65 * s.energy_uj)) if s.energy_uj else s
        for s in right
        if s.t_ns < 60 * S
    ]
    run = Run([*wrong, *(s for s in right if s.t_ns >= 60 * S)], device(Sensor()))
    found = run.windows(80)
    assert found[12].method == "instants"
    assert found[12].zone.method == "power"
    assert found[12].zone.interval_ns == 100 * MS
    assert found[-1].method == "counter"
    assert found[-1].zone.method == "counter"


@pytest.mark.parametrize("back", [80, 1000])
def test_a_counter_that_goes_away_leaves_no_hole(back: int) -> None:
    """Its own rise tells when it comes back, else the readings do: 300 W stay 300 W, once."""
    found = [sample(i / 10, None if 40 < i < back else 7.0 + 30.0 * i, 300.0) for i in range(160)]
    cuts = Run(found).windows(5)
    assert said_j(cuts) == pytest.approx(4500.0, abs=1e-5)
    assert [w.zone.energy_uj for w in cuts[3:]] == [900 * J] * 2


def test_a_restart_goes_on_where_it_was() -> None:
    """Point and memory, saved and read again, give the same windows."""
    for sensor in (Sensor(), Sensor(counter="none"), Sensor(counter="none", average_s=1.0)):
        run = world(bursts(np.random.default_rng(5), 30.0), sensor, 24.0)
        run.windows(4)
        other = Run(run.found, run.of)
        other.points = dict(run.points)
        other.memory = {uuid: from_plain(to_plain(m)) for uuid, m in run.memory.items()}
        assert other.memory == run.memory
        again, straight = other.windows(3, 4), run.windows(3, 4)
        assert [w.zone.energy_uj for w in again] == [w.zone.energy_uj for w in straight]


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {**to_plain(GpuMemory()), "version": 99},
        {**to_plain(GpuMemory()), "meter": "guess"},
        {**to_plain(GpuMemory()), "agreement": [1.0]},
        {**to_plain(GpuMemory()), "likeness": ["x"] * 5},
        {**to_plain(GpuMemory()), "variogram": [float("nan")] * 3},
        {**to_plain(GpuMemory()), "variogram": None},
    ],
)
def test_a_memory_that_is_none_is_refused(plain: dict[str, object]) -> None:
    """Saved state of another shape raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"GPU|none|missing|could not"):
        from_plain(plain)


def test_the_driver_stamps_are_older_by_the_devices_delay() -> None:
    """A device that tells of its power 200 ms late is put where the load was."""
    run = world(pulse(1.0, 2.0, 400.0, 50.0), replace(EXACT, delay_s=0.2), 3.0)
    before, begin, end = bins_j(run.cut(0.0, 3.0), 0.9, 1.1, 1.9)
    assert before == pytest.approx(45.0, abs=0.002)
    assert end - begin == pytest.approx(320.0, abs=0.002)


def test_a_counter_of_the_sensor_is_as_unsure_as_the_sensor() -> None:
    """Its stated spread is the readings', a true counter's is that of the window's ends."""
    stated = []
    for kind in ("true", "sampled", "none"):
        sensor = replace(Sensor(), counter=kind)
        run = world(bursts(np.random.default_rng(6), 40.0), sensor, 36.0)
        stated.append(run.windows(12)[-1].sd_j)
    true, sampled, none = stated
    assert sampled == pytest.approx(none, rel=0.1)
    assert true < sampled / 3


def test_a_steady_load_is_known_well() -> None:
    """Nothing changes and the stamps are exact: nothing is unsure."""
    for sensor in (EXACT, replace(EXACT, counter="none")):
        assert world(constant(200.0), sensor, 6.0).windows(2)[-1].sd_j < 0.01


def test_other_devices_samples_are_not_taken() -> None:
    """Two devices in one series have each their own."""
    other = GPU._replace(uuid="GPU-2")
    mine = [sample(i / 10, 30.0 * i, 300.0) for i in range(41)]
    theirs = [s._replace(device="GPU-2", energy_uj=(s.energy_uj or 0) // 3) for s in mine]
    both = tuple(s for pair in zip(mine, theirs, strict=True) for s in pair)
    seen = GpuSeries("nvml", (GPU, other), both, (), {})
    found, memory = device_windows(seen, Window(0, 3 * S), {}, {}, PARAMS)
    assert [w.zone.energy_uj for w in found] == [900 * J, 300 * J]
    assert [w.zone.zone.key for w in found] == [KEY, "nvml:GPU-2"]
    assert set(memory) == {UUID, "GPU-2"}
