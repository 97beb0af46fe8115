"""Power of the whole machine: held, then put together from its parts; no gap is filled."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.sim.bmcpower import BEGIN_NS, PlatformSettings, PlatformWorld
from tests.sim.platformnode import PARAMS, Faults, Row, bmc, parts, rows, sensor
from tychod.analysis.energy import DomainWindow, domain_windows
from tychod.analysis.platform import CARRY_NS, platform_window
from tychod.analysis.platform_memory import PlatformMemory, from_plain, to_plain
from tychod.analysis.platform_readings import heartbeat_ns
from tychod.analysis.platform_shown import PlatformWindow
from tychod.analysis.state import ZonePoint
from tychod.model import Window
from tychod.samples import EnergySample, EnergySeries, PowerSensor

S = 1_000_000_000
NONE: Mapping[str, DomainWindow] = {}
SHORT = PlatformSettings(seconds=90.0, lead_s=1.0)
ENDS_J = 2 * 5 * SHORT.load_noise_w * 0.1
"""Where a stretch begins or ends between two readings of a meter, the load's noise is unseen."""


def through_bytes(memory: PlatformMemory) -> PlatformMemory:
    """Through the bytes of a state file."""
    return from_plain(msgpack.unpackb(msgpack.packb(to_plain(memory))))


def readings(*told: tuple[float, int | None], delay_s: float = 0.0) -> EnergySeries:
    """Readings ``(seconds, watts)`` of one chassis."""
    samples = tuple(
        EnergySample(round(t * S), (), (None if w is None else w * 1_000_000,)) for t, w in told
    )
    return EnergySeries(
        "redfish", "measured", (), samples, {}, round(delay_s * S), sensors=(sensor(),)
    )


def step(
    series: EnergySeries | None,
    end_s: float,
    memory: PlatformMemory,
    domains: Mapping[str, DomainWindow] = NONE,
) -> tuple[PlatformWindow, PlatformMemory]:
    """One window of three seconds."""
    window = Window(round((end_s - 3) * S), round(end_s * S))
    found, memory = platform_window(series, domains, window, memory, PARAMS)
    assert found is not None
    return found, memory


def without(world: PlatformWorld, *spans: tuple[float, float]) -> PlatformWorld:
    """The same world, but the BMC is silent in these spans."""
    world.readings = tuple(
        r for r in world.readings if not any(a <= (r.t_ns - BEGIN_NS) / S < b for a, b in spans)
    )
    return world


def test_no_source_has_no_platform() -> None:
    """Where nothing measures the machine there is no number, and nothing is remembered (83)."""
    memory = PlatformMemory()
    window = Window(0, 3 * S)
    assert platform_window(None, NONE, window, memory, PARAMS) == (None, memory)


@pytest.mark.parametrize("seed", range(5))
def test_held_readings_are_integrated_exactly(seed: int) -> None:
    """The counter is the zero-order hold of the readings to the microjoule, in any windows (41)."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(1_800_000_000, 2_200_000_000, 40)).tolist()
    watts = rng.integers(1, 1_000_000_000, 40).tolist()
    samples = [EnergySample(t, (), (w,)) for t, w in zip(times, watts, strict=True)]
    memory, start, total = PlatformMemory(), 0, 0
    while start < times[-1]:
        window = Window(start, start + int(rng.integers(1, 7 * S)))
        before = [s for s in samples if s.t_ns <= window.start_ns][-1:]
        inside = [s for s in samples if window.start_ns < s.t_ns <= window.end_ns]
        after = [s for s in samples if s.t_ns > window.end_ns][:1]
        series = replace(readings(), samples=(*before, *inside, *after))
        found, memory = platform_window(series, NONE, window, memory, PARAMS)
        assert found is not None
        total += found.energy_uj
        start = window.end_ns
    exact = sum(w * (b - a) for (a, b), w in zip(pairwise(times), watts[:-1], strict=True))
    through = memory.through_ns or 0
    exact += watts[-1] * (through - times[-1])
    assert total == memory.energy_uj == exact // S


def test_a_reading_holds_for_a_heartbeat_only() -> None:
    """Silence is not made up: nothing is booked, and counting goes on with the next reading."""
    memory = PlatformMemory()
    for end_s in (3, 6, 9, 12, 15):
        known = [(t, 100) for t in range(2, end_s + 1, 2)]
        _, memory = step(readings(*known[-4:]), end_s, memory)
    beat_s = heartbeat_ns(memory.gaps_ns) / S
    assert beat_s == 3.0
    for end_s in (18, 21, 24):
        found, memory = step(readings((14.0, 100)), end_s, memory)
    assert memory.energy_uj == 100_000_000 * (14 - 2 + beat_s)
    assert (found.energy_uj, found.power_w, found.quality) == (0, None, "stale")
    assert found.reason == "no reading of chassis for 10 s"
    found, memory = step(readings((14.0, 100), (25.0, 200), (27.0, 200)), 27, memory)
    assert memory.energy_uj == 100_000_000 * (14 - 2 + beat_s) + 200_000_000 * 2
    assert (found.from_ns, found.flags) == (25 * S, ("missing-energy",))


def test_the_heartbeat_has_bounds() -> None:
    """One and a half usual gaps, between 2 and 60 s; 15 s while nothing is known."""
    told = [heartbeat_ns(gaps) // S for gaps in ((), (S,), (10 * S,) * 9, (100 * S,))]
    assert told == [15, 2, 15, 60]


def test_what_is_not_booked_is_a_guess() -> None:
    """Until the next reading there is a live estimate, which is in no counter."""
    found, memory = step(readings((1.0, 100)), 3, PlatformMemory())
    assert (found.power_w, found.quality, found.energy_uj) == (100.0, "modelled", 0)
    found, _ = step(readings((1.0, 100), (5.0, 300)), 6, memory)
    assert (found.power_w, found.quality, found.energy_uj) == (100.0, "measured", 400_000_000)


def test_chassis_are_added() -> None:
    """A reading is there when all have a new value; the rows add up to the domain."""
    both = (sensor("a"), sensor("b"))
    samples = (
        EnergySample(1 * S, (), (100_000_000, None)),
        EnergySample(2 * S, (), (None, 50_000_001)),
        EnergySample(3 * S, (), (200_000_000, None)),
        EnergySample(4 * S, (), (None, 60_000_000)),
    )
    series = replace(readings(), samples=samples, sensors=both)
    _, memory = step(replace(series, samples=samples[:2]), 3, PlatformMemory())
    found, memory = step(series, 6, memory)
    assert memory.readings[-1][::2] == (3_500_000_000, 260_000_000)
    assert [zone.power_w for zone in found.zones] == [200.0, 60.0]
    assert sum(zone.energy_uj for zone in found.zones) == memory.energy_uj == 300_000_002


def test_a_silent_chassis_leaves_the_sum_unknown() -> None:
    """Half of a machine is not the machine: the sum stops, and the chassis is named."""
    both = (sensor("a"), sensor("b"))
    first = EnergySample(1 * S, (), (100_000_000, 50_000_000))
    later = tuple(EnergySample(t * S, (), (100_000_000, None)) for t in range(2, 40))
    series = replace(
        readings(), samples=(first, *later), sensors=both, zone_reasons={"redfish:b": "answers 503"}
    )
    found, _ = step(series, 39, PlatformMemory())
    assert (found.quality, found.reason) == ("stale", "b: answers 503")


@pytest.fixture(scope="module")
def followed() -> tuple[PlatformWorld, list[Row]]:
    """A machine from a cold start until its power is fused."""
    world = PlatformWorld(SHORT, 3)
    return world, list(rows(world))


def test_at_takeover_the_counter_goes_on(followed: tuple[PlatformWorld, list[Row]]) -> None:
    """No stretch is booked twice or left out, and no jump exceeds a window's energy (42)."""
    world, seen = followed
    methods = [row.seen.fit.method for row in seen if row.seen.fit]
    at = methods.index("fused")
    assert methods == ["hold"] * at + ["fused"] * (len(methods) - at)
    assert at > 0
    booked = [row.seen for row in seen if row.seen.from_ns is not None]
    for before, after in pairwise(booked):
        assert after.from_ns == before.through_ns
        assert after.total_uj == before.total_uj + after.energy_uj
        assert after.energy_uj >= 0
    a, b = seen[at].seen, seen[at - 1].seen
    true_j = np.diff(world.system_j(np.array([b.from_ns, a.through_ns], np.int64)))[0]
    off_uj = a.energy_uj + b.energy_uj - true_j * 1e6
    assert abs(off_uj) < a.energy_uj


def test_the_residual_is_the_platform_less_its_parts(
    followed: tuple[PlatformWorld, list[Row]],
) -> None:
    """In every window, signed and to the microjoule (46, 47), and idle and dynamic add up to it."""
    world, seen = followed
    for row in seen:
        told = row.seen.residual
        assert told is not None
        assert told.energy_uj == told.platform_uj - told.parts_uj == told.idle_uj + told.dynamic_uj
    last = seen[-1].seen
    assert last.residual is not None
    assert last.residual.platform_uj == last.total_uj
    spans = np.array([seen[0].seen.from_ns, last.residual.through_ns], np.int64)
    parts_j = np.diff(world.parts_j(spans).sum(axis=0))[0]
    assert last.residual.parts_uj / 1e6 == pytest.approx(parts_j, abs=ENDS_J)


def test_the_residual_is_not_for_use_before(followed: tuple[PlatformWorld, list[Row]]) -> None:
    """While readings are held they are beside their parts; no quiet level is learned from them."""
    for row in followed[1]:
        told, fit = row.seen.residual, row.seen.fit
        assert told is not None
        assert fit is not None
        if fit.method == "hold":
            assert (told.usable, told.idle_w, told.idle_uj) == (False, None, 0)
    assert followed[1][-1].seen.residual is not None
    assert followed[1][-1].seen.residual.usable


def test_without_a_gpu_the_rest_is_all_but_the_cpu() -> None:
    """What is not there is not subtracted (82)."""
    settings = replace(SHORT, parts=("package",), coefficients=(1.1,), dwell_s=(5.0,))
    world = PlatformWorld(settings, 1)
    *_, last = rows(world)
    told, fit = last.seen.residual, last.seen.fit
    assert told is not None
    assert fit is not None
    assert list(fit.coefficients) == ["package"]
    ends = np.array([last.seen.from_ns, last.seen.through_ns], np.int64)
    (cpu_j,) = np.diff(world.parts_j(ends), axis=1)[0]
    assert told.power_w is not None
    joules = last.seen.energy_uj / 1e6 - told.power_w * (ends[1] - ends[0]) / S
    assert joules == pytest.approx(cpu_j, abs=2 * 61e-6)


def test_the_quiet_level_follows_both_ways() -> None:
    """It rises with a lasting rise and falls with a fall (48 otherwise): nearer to the new one."""
    world = PlatformWorld(replace(SHORT, seconds=200.0, base_steps=((50, 50), (125, -50))), 2)
    level = {row.window.end_ns: row.seen.residual for row in rows(world)}
    told = [level[BEGIN_NS + t * S] for t in (48, 123, 198)]
    low, high, back = (r.idle_w for r in told if r is not None)
    assert low is not None
    assert high is not None
    assert back is not None
    assert abs(high - 170.0) < abs(high - 120.0)
    assert abs(back - 120.0) < abs(back - 170.0)
    assert low < high > back


def test_a_silent_bmc_is_stood_in_for_two_minutes() -> None:
    """The model goes on, says so, then stops; the gap stays empty and counting goes on after it."""
    world = without(PlatformWorld(replace(SHORT, seconds=300.0), 4), (90.0, 270.0))
    seen = list(rows(world))
    at = {round((row.window.end_ns - BEGIN_NS) / S): row for row in seen}
    beat_ns = heartbeat_ns(at[120].memory.gaps_ns)
    good_ns = at[87].memory.good_ns or 0
    last_ns = max(r.t_ns for r in world.readings if r.t_ns < BEGIN_NS + 90 * S)
    assert at[120].seen.quality == "modelled"
    assert at[120].seen.energy_uj > 0
    assert "no reading of chassis" in (at[120].seen.reason or "")
    assert good_ns <= last_ns
    stopped = at[258].seen
    assert stopped.through_ns == last_ns + beat_ns + CARRY_NS
    assert (stopped.energy_uj, stopped.power_w, stopped.quality) == (0, None, "stale")
    assert stopped.residual is not None
    assert not stopped.residual.usable
    resumed = next(
        row.seen for row in seen if row.window.start_ns >= 258 * S + BEGIN_NS and row.seen.from_ns
    )
    assert resumed.from_ns is not None
    assert resumed.from_ns >= BEGIN_NS + 270 * S
    assert "missing-energy" in resumed.flags
    assert seen[-1].seen.quality == "measured"
    assert seen[-1].seen.residual is not None
    assert seen[-1].seen.residual.usable


def test_a_stuck_bmc_is_noticed() -> None:
    """Fresh stamps on an old value: the model carries on, and the reason says what was seen."""
    world = PlatformWorld(replace(SHORT, seconds=120.0, dwell_s=(4.0, 5.0), stuck=((60, 120),)), 5)
    *_, last = rows(world)
    assert last.seen.quality == "modelled"
    assert "again and again" in (last.seen.reason or "")
    assert last.seen.residual is not None
    assert not last.seen.residual.usable


def test_another_source_begins_anew_and_the_counter_goes_on() -> None:
    """What was learned of one meter is not true of another."""
    world = PlatformWorld(SHORT, 3)
    *_, last = rows(world, until_s=60.0)
    window = Window(last.window.end_ns, last.window.end_ns + 3 * S)
    watts = EnergySample(window.start_ns + S, (), (400_000_000,))
    other = replace(readings(), source="ipmi", samples=(watts,))
    found, memory = platform_window(
        other, domain_windows(parts(world, window, {})), window, last.memory, PARAMS
    )
    assert found is not None
    assert found.fit is not None
    assert (found.source, found.fit.method, found.fit.readings) == ("ipmi", "hold", 1)
    assert memory.energy_uj == last.memory.energy_uj
    assert memory.ledger.platform_uj >= last.memory.ledger.platform_uj


def test_a_late_part_is_held_and_made_good() -> None:
    """Its mean power stands in for it, said as modelled; what it really used ends in the ledger."""
    world = PlatformWorld(replace(SHORT, seconds=150.0), 7)
    seen = list(rows(world, faults=Faults(blind=("gpu", 75.0, 120.0))))
    at = {round((row.window.end_ns - BEGIN_NS) / S): row.seen for row in seen}
    before, held, last = at[72], at[90], at[150]
    assert before.residual is not None
    assert before.residual.usable
    assert (held.quality, held.energy_uj > 0) == ("modelled", True)
    assert held.reason == "gpu: not read in time, the base has its power meanwhile"
    assert held.residual is not None
    assert not held.residual.usable
    assert last.residual is not None
    assert last.residual.platform_uj == last.total_uj
    begun_ns = next(row.seen.from_ns for row in seen if row.seen.from_ns is not None)
    span = np.array([begun_ns, last.residual.through_ns], np.int64)
    (parts_j,) = np.diff(world.parts_j(span).sum(axis=0))
    assert last.residual.parts_uj / 1e6 == pytest.approx(parts_j, abs=ENDS_J)
    assert (last.quality, last.residual.usable) == ("measured", True)


def off(world: PlatformWorld, row: Row) -> float:
    """How far a window's energy is from the truth, as a share of it; nothing booked: 0."""
    if row.seen.from_ns is None:
        return 0.0
    ends = np.array([row.seen.from_ns, row.seen.through_ns], np.int64)
    return float(row.seen.energy_uj / 1e6 / np.diff(world.system_j(ends))[0] - 1.0)


def between(seen: list[Row], from_s: float, to_s: float) -> list[Row]:
    """Windows that end between two seconds."""
    return [r for r in seen if from_s < (r.window.end_ns - BEGIN_NS) / S <= to_s]


LOSS = replace(SHORT, seconds=330.0, quiet=((60.0, 330.0),))


@pytest.mark.parametrize("settings", [LOSS, replace(LOSS, off=(("gpu", 75.0, 285.0),))])
def test_without_a_part_for_long_the_base_has_its_power(settings: PlatformSettings) -> None:
    """A GPU off the bus, drawing or not, takes nothing from a BMC that is well: readings go on.

    A window is said to be modelled, the residual is not for use, and both end soon after it.
    """
    world = PlatformWorld(settings, 7)
    seen = list(rows(world, faults=Faults(blind=("gpu", 75.0, 285.0))))
    methods = [one.seen.fit.method for one in seen if one.seen.fit]
    assert [a for a, b in pairwise(methods) if a != b] == ["hold"]
    booked = [one.seen for one in seen if one.seen.from_ns is not None]
    assert all(b.from_ns == a.through_ns for a, b in pairwise(booked))
    assert not any(one.flags for one in booked)
    noise = 3 * settings.noise_w / settings.base_w
    for row in between(seen, 84.0, 282.0):
        assert abs(off(world, row)) < noise
        assert (row.seen.quality, "gpu" in (row.seen.reason or "")) == ("modelled", True)
        assert row.seen.residual is not None
        assert "gpu" in (row.seen.residual.reason or "")
        assert row.seen.fit is not None
        assert (row.seen.fit.base_sd_w or 0.0) > 20.0
    for row in between(seen, 300.0, 330.0):
        assert abs(off(world, row)) < noise
        assert row.seen.quality == "measured"
        assert row.seen.residual is not None
        assert row.seen.residual.usable
    before, after = seen[23].seen.fit, seen[-1].seen.fit
    assert before is not None
    assert after is not None
    for name, was in before.coefficients.items():
        assert after.coefficients[name].value == pytest.approx(was.value, abs=3 * was.sd)


def test_without_any_part_all_is_the_base() -> None:
    """Where the only part falls silent, the readings alone say how much is used."""
    one = replace(LOSS, parts=("package",), coefficients=(1.1,), dwell_s=(5.0,), seconds=150.0)
    world = PlatformWorld(one, 1)
    seen = list(rows(world, faults=Faults(blind=("package", 75.0, 120.0))))
    noise = 3 * one.noise_w / one.base_w
    gone = between(seen, 84.0, 117.0)
    assert all(abs(off(world, row)) < noise and row.seen.energy_uj for row in gone)
    assert {row.seen.quality for row in gone} == {"modelled"}
    assert seen[-1].seen.quality == "measured"


def test_a_part_that_is_gone_for_good_is_not_missed() -> None:
    """It is off the list: its power is looked for in the base; what is known of others stays."""
    world = PlatformWorld(replace(LOSS, seconds=120.0), 3)
    *_, last = rows(world, until_s=75.0)
    memory, seen = last.memory, last.seen
    points = dict[str, ZonePoint]()
    for end_s in range(78, 121, 3):
        window = Window(BEGIN_NS + (end_s - 3) * S, BEGIN_NS + end_s * S)
        zones = parts(world, window, points)[:1]
        points |= {zone.zone.key: zone.point for zone in zones}
        told = domain_windows(zones)
        found, memory = platform_window(bmc(world, window), told, window, memory, PARAMS)
        assert found is not None
        seen = found
        assert is_fused(Row(window, seen, memory))
    assert seen.quality == "measured"
    assert seen.fit is not None
    assert list(seen.fit.coefficients) == ["package"]
    assert (
        abs(off(world, Row(window, seen, memory)))
        < 3 * world.settings.noise_w / world.settings.base_w
    )


def test_a_counter_that_was_reset_is_not_learned_from() -> None:
    """What a part used meanwhile is unknown, not nothing: said so, and the base stays."""
    settings = replace(SHORT, seconds=150.0, quiet=((60.0, 150.0),))
    world = PlatformWorld(settings, 7)
    seen = list(rows(world, faults=Faults(reset=("gpu", 100.0))))
    (row,) = between(seen, 100.0, 102.0)
    assert row.seen.quality == "modelled"
    assert "gpu" in (row.seen.reason or "")
    told = [r.seen.residual.reason or "" for r in between(seen, 99, 106) if r.seen.residual]
    assert any("gpu" in one for one in told)
    noise = 3 * settings.noise_w / settings.base_w
    assert all(abs(off(world, r)) < noise for r in between(seen, 90.0, 150.0))
    assert seen[-1].seen.quality == "measured"


def test_a_restart_goes_on_with_what_was_known() -> None:
    """Counter, ledger and model are kept; time nobody saw is not made up, history begins anew."""
    world = PlatformWorld(replace(SHORT, seconds=150.0), 6)
    *_, last = rows(world, until_s=90.0)
    back = through_bytes(last.memory)
    assert to_plain(back) == to_plain(last.memory)
    assert (back.readings, back.good_ns) == ((), None)
    late = list(rows(world, back, from_s=102.0))
    first = next(row.seen for row in late if row.seen.from_ns is not None)
    assert first.from_ns is not None
    assert first.from_ns >= BEGIN_NS + 100 * S
    assert first.total_uj - first.energy_uj == last.memory.energy_uj
    assert late[-1].seen.fit is not None
    assert late[-1].seen.fit.method == "fused"
    told = late[-1].seen.residual
    assert told is not None
    assert told.energy_uj == told.platform_uj - told.parts_uj == told.idle_uj + told.dynamic_uj
    assert told.platform_uj == late[-1].seen.total_uj


@pytest.mark.parametrize("is_saved", [True, False])
def test_after_a_pause_the_base_is_looked_for_again(*, is_saved: bool) -> None:
    """Something may have been switched on meanwhile: no window is measured until readings agree."""
    settings = replace(SHORT, seconds=135.0, quiet=((60.0, 135.0),), base_steps=((95.0, 58.0),))
    world = PlatformWorld(settings, 6)
    *_, last = rows(world, until_s=90.0)
    noise = 3 * settings.noise_w / settings.base_w
    known = through_bytes(last.memory) if is_saved else last.memory
    late = list(rows(world, known, from_s=105.0))
    measured = [row for row in late if row.seen.quality == "measured" and is_fused(row)]
    assert len(measured) > 5
    assert all(abs(off(world, row)) < noise for row in measured)
    for row in late:
        if row.seen.quality != "measured" or not is_fused(row):
            assert row.seen.reason
            assert row.seen.residual is not None
            assert not row.seen.residual.usable


def is_fused(row: Row) -> bool:
    """Whether the window was put together from the parts."""
    return row.seen.fit is not None and row.seen.fit.method == "fused"


def test_a_single_reading_that_cannot_be_is_passed_over() -> None:
    """The next one is as good: the window in between is no guess."""
    world = PlatformWorld(replace(SHORT, quantum_w=0.0), 3)
    odd = world.readings[-8]
    world.readings = tuple(r._replace(power_w=2e6) if r is odd else r for r in world.readings)
    seen = list(rows(world))
    counts = [row.seen.fit.rejected for row in seen if row.seen.fit]
    assert counts[-1] == counts[-8] + 1 == counts[1] + 1
    assert {row.seen.quality for row in seen[-8:]} == {"measured"}


def test_what_is_waited_for_is_said() -> None:
    """At a cold start: first the long averages, which no step of load can bring nearer."""
    world = PlatformWorld(SHORT, 3)
    told = [row.seen.fit.reason or "" for row in rows(world) if row.seen.fit]
    assert any("0 of 5 readings" in one for one in told[:3])
    assert any("4 of 5 readings" in one or "3 of 5 readings" in one for one in told)
    assert not told[-1]


def test_a_known_average_leaves_no_other_to_find() -> None:
    """A meter that tells its averaging is laid against that alone; so it is sooner known."""
    world = PlatformWorld(replace(SHORT, boxcar_s=1.0), 3)
    told = {}
    for average_s in (0.0, 1.1):
        seen = list(rows(world, faults=Faults(average_s=average_s)))
        at = next(i for i, row in enumerate(seen) if is_fused(row))
        told[average_s] = at
        bank = seen[at].memory.bank
        assert bank is not None
        assert ({boxcar for _, boxcar in bank.kernels} == {1.0}) is bool(average_s)
    assert told[1.1] < told[0.0]


FINE = (
    *(("through_ns", None), ("bank", None), ("key", "x"), ("by_sensor", {"a": 1})),
    ("gaps_ns", [1]),
)


def test_odd_state_is_refused() -> None:
    """Anything but what was written raises ``ValueError``, whatever is wrong with it."""
    world = PlatformWorld(SHORT, 3)
    *_, last = rows(world, until_s=30.0)
    plain = to_plain(last.memory)
    for key in plain:
        for odd in (None, "x", [1], {"a": 1}, 1.5):
            if (key, odd) in FINE:
                continue
            with pytest.raises(ValueError, match=r"."):
                from_plain({**plain, key: odd})
        fewer: dict[str, Any] = {k: v for k, v in plain.items() if k != key}
        with pytest.raises(ValueError, match="not a platform"):
            from_plain(fewer)


@pytest.mark.parametrize(("interval_s", "length_s"), [(0.5, 60), (0.05, 10)])
def test_a_fast_sensor_in_a_long_window_loses_nothing(interval_s: float, length_s: int) -> None:
    """However many readings a window has, all of it is booked up to the last one."""
    meter = PowerSensor("hwmon:a", "platform", "x", None, 5000.0)
    memory, booked_uj = PlatformMemory(), 0
    for number in range(3):
        begin_ns, length_ns = number * length_s * S, length_s * S
        step_ns = round(interval_s * S)
        times = range(max(begin_ns - step_ns, 0), begin_ns + length_ns + step_ns, step_ns)
        samples = tuple(EnergySample(t, (), (100_000_000,)) for t in times)
        series = EnergySeries("hwmon", "measured", (), samples, {}, 0, (meter,), step_ns)
        window = Window(begin_ns, begin_ns + length_ns)
        found, memory = platform_window(series, {}, window, memory, PARAMS)
        booked_uj += found.energy_uj if found else 0

    assert 3 * length_s * 100_000_000 - booked_uj <= round(2 * interval_s * 100_000_000)
