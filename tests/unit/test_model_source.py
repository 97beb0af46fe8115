"""The modelled source: exact, cumulative over restarts, and labelled as what it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import SECOND, SetClock, host_config, write_files
from tychod.collectors import model
from tychod.collectors.base import EnergyCollector, Ready, Unavailable
from tychod.config import Config, Model
from tychod.hostfs import Host

if TYPE_CHECKING:
    from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def stat_line(busy_ticks: int, irq_ticks: int = 0) -> str:
    """Return /proc/stat of a machine whose idle, waiting and stolen time must not matter."""
    return f"cpu  {busy_ticks} 0 0 987654 4321 {irq_ticks} 0 777 0 0\n"


def probed(base: Path, clock: SetClock, settings: Model | None = None) -> EnergyCollector:
    """Return the collector of a machine with four CPUs."""
    config = Config(host=host_config(base), model=settings or Model())
    found = model.probe(Host(config.host), config, clock)
    assert isinstance(found, Ready)
    return found.collector


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a machine with four CPUs that were busy for 1000 ticks."""
    write_files(tmp_path, {"proc/stat": stat_line(1000), "sys/devices/system/cpu/online": "0-3\n"})
    return tmp_path


def energy_uj(collector: EnergyCollector) -> int:
    """Return the counter's value now."""
    sample = collector.read()
    assert sample is not None
    (value,) = sample.energy_uj
    assert value is not None
    return value


def test_energy_is_idle_watts_and_watts_of_busy_time(base: Path) -> None:
    """Energy since boot = idle watts x CPUs x time + busy watts x busy time, to the microjoule."""
    clock = SetClock(500 * SECOND)
    collector = probed(base, clock, Model(idle_w_per_cpu=0.74, busy_w_per_cpu=2.76))
    try:
        first = energy_uj(collector)
        clock.t_ns += 3 * SECOND
        write_files(base, {"proc/stat": stat_line(1100, irq_ticks=20)})
        second = energy_uj(collector)
    finally:
        collector.close()

    assert first == 740_000 * 4 * 500 + round(2_760_000 * 1000 * TICK_S)
    assert second - first == 740_000 * 4 * 3 + round(2_760_000 * 120 * TICK_S)


def test_zone_says_what_it_is(base: Path) -> None:
    """The zone is a package, modelled, that never wraps and knows its idle power."""
    collector = probed(base, SetClock(), Model(idle_w_per_cpu=1.5, busy_w_per_cpu=10.0))
    collector.close()

    (zone,) = collector.zones
    assert collector.quality == "modelled"
    assert (zone.domain, zone.name, zone.socket) == ("package", "cpu-model", None)
    assert (zone.max_range_uj, zone.idle_w) == (0, 6.0)
    assert zone.max_power_w > 4 * 11.5


def test_counter_continues_over_a_restart(base: Path) -> None:
    """Another process reads the same counter under the same key."""
    clock = SetClock()
    first = probed(base, clock)
    before = energy_uj(first)
    first.close()
    second = probed(base, clock)
    after = energy_uj(second)
    second.close()

    assert (after, second.zones) == (before, first.zones)


@pytest.mark.parametrize("changed", [Model(idle_w_per_cpu=0.75), Model(busy_w_per_cpu=3.0)])
def test_other_parameters_are_another_counter(base: Path, changed: Model) -> None:
    """Changed settings begin a new counter; the old one's value says nothing about it."""
    keys = set()
    for settings in (Model(), changed):
        collector = probed(base, SetClock(), settings)
        keys.add(collector.zones[0].key)
        collector.close()

    assert len(keys) == 2


def test_other_number_of_cpus_is_another_counter(base: Path) -> None:
    """The number of CPUs counts from the start; while running the idle part never jumps."""
    clock = SetClock()
    collector = probed(base, clock)
    before = energy_uj(collector)
    write_files(base, {"sys/devices/system/cpu/online": "0-7\n"})
    clock.t_ns += SECOND
    after = energy_uj(collector)
    collector.close()
    later = probed(base, clock)
    later.close()

    assert after - before == 740_000 * 4
    assert later.zones[0].key != collector.zones[0].key


def test_busy_time_that_steps_back_takes_nothing_back(base: Path) -> None:
    """The kernel may correct its times by a tick; energy stands still then."""
    collector = probed(base, SetClock())
    before = energy_uj(collector)
    write_files(base, {"proc/stat": stat_line(999)})
    after = energy_uj(collector)
    collector.close()

    assert after == before


def test_unreadable_times_have_a_reason(base: Path) -> None:
    """Without /proc/stat there is no sample and the zone says why, until it is back."""
    collector = probed(base, SetClock())
    write_files(base, {"proc/stat": ""})
    missing = collector.read()
    reasons, failure = dict(collector.zone_reasons), collector.failure
    write_files(base, {"proc/stat": stat_line(1000)})
    back = collector.read()
    collector.close()

    assert missing is None
    assert failure in reasons.values()
    assert not collector.failure
    assert "/proc/stat" in reasons[collector.zones[0].key]
    assert back is not None
    assert not collector.zone_reasons


def test_machine_without_procfs(tmp_path: Path) -> None:
    """Without /proc/stat the model is unavailable and says what to set."""
    config = Config(host=host_config(tmp_path))

    found = model.SPEC.find(Host(config.host), config, SetClock())

    assert isinstance(found, Unavailable)
    assert "stat" in found.reason
    assert "procfs" in found.remedy
