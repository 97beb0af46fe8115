"""Which source may run beside which, and when each of them has been tried."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from tests.fixtures.hosts.trees import host_config, write_files
from tests.sim.powercap import LAYOUTS, build_tree
from tests.sim.world import zone
from tests.unit.test_sampler import PATIENCE_S, wait_for
from tychod.buffer import Buffer
from tychod.clock import Clock, SystemClock
from tychod.collectors import ENERGY_COLLECTORS, base
from tychod.config import Config
from tychod.hostfs import Host
from tychod.kernel.bpf.abi import BUCKET_NS
from tychod.model import Window
from tychod.runtime import plans, sampler, sources
from tychod.runtime.sources import EnergySampler, energy_samplers
from tychod.samples import EnergySample

MAX_LAG_S = 2.5
"""As runtime/analyser.py has it."""
MS = 1_000_000
STAT = "cpu  10 0 10 1000 0 0 0 0 0 0\n"


class Machine(SimpleNamespace):
    """A host whose powercap answers when the test lets it."""

    base: Path
    answer: threading.Event
    crashes: list[str]
    made: dict[str, EnergySampler]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Samplers of rapl and model, not started; the first pause of a closed gate is for ever."""
    write_files(tmp_path, {"proc/stat": STAT, "sys/devices/system/cpu/online": "0-1\n"})
    answer, crashes = threading.Event(), list[str]()
    rapl, *others = ENERGY_COLLECTORS

    def slow(
        host: Host, config: Config, clock: Clock
    ) -> base.Ready[base.EnergyCollector] | base.Unavailable:
        assert answer.wait(PATIENCE_S)
        return rapl.probe(host, config, clock)

    spec = base.CollectorSpec(rapl.name, rapl.quality, rapl.enabled, rapl.interval_s, slow)
    monkeypatch.setattr(sources, "ENERGY_COLLECTORS", (spec, *others))
    monkeypatch.setattr(sampler, "GATE_S", PATIENCE_S)
    config, clock = Config(host=host_config(tmp_path)), SystemClock()
    made = energy_samplers(Host(config.host), config, clock, clock.now_ns(), crashes.append)
    yield Machine(
        base=tmp_path, answer=answer, crashes=crashes, made={s.sampler.plan.name: s for s in made}
    )
    answer.set()
    for source in made:
        source.sampler.ask_stop()
    assert all(source.sampler.join(PATIENCE_S) for source in made)


def start(machine: Machine) -> Callable[[str], str]:
    """Start all; return how to look at a source's state."""
    for source in machine.made.values():
        source.sampler.start()
    return lambda name: machine.made[name].sampler.health().state


def test_the_model_waits_for_the_meters_and_no_longer(machine: Machine) -> None:
    """Not tried while RAPL is asked; on, and read once, as soon as RAPL is known to be absent."""
    state_of = start(machine)
    model = machine.made["model"].sampler
    wait_for(lambda: state_of("model") == "off")
    waits = not model.wait_tried(0.05)
    machine.answer.set()

    assert waits
    assert model.wait_tried(PATIENCE_S)
    assert state_of("rapl") == "unavailable"
    assert state_of("model") == "ok"
    assert not machine.crashes


def test_the_model_is_off_for_a_true_reason(machine: Machine) -> None:
    """Where RAPL is there the model is off because of it, not because of the search."""
    build_tree(machine.base / "sys", LAYOUTS["amd"])
    start(machine)
    machine.answer.set()
    model = machine.made["model"].sampler

    assert model.wait_tried(PATIENCE_S)
    assert model.health().state == "off"
    assert "rapl measures it" in (model.health().reason or "")
    assert machine.made["rapl"].sampler.health().samples > 0


class Delayed(SimpleNamespace):
    """A collector of one counter whose values are older than their readings."""

    name, quality, failure = "slow", "measured", ""
    zones, sensors, problems, outdated = (zone("package-0"),), (), (), False
    zone_reasons = MappingProxyType[str, str]({})

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(
    ("delay_s", "interval_s", "phase_ms"),
    [(0.0, 0.05, 0), (0.03, 0.05, 30), (0.12, 0.05, 20), (2.0, 1.0, 0), (1.99, 1.0, 40)],
)
def test_readings_are_locked_to_bins_behind_their_delay(
    delay_s: float, interval_s: float, phase_ms: int
) -> None:
    """Deadlines less the delay are edges of bins of 50 ms; a longer delay needs more history."""
    plan = plans.Plan("slow", True, "measured", interval_s, 10.0, 0)

    pace = sources.energy_pace(plan, Delayed(delay_s=delay_s))

    assert pace == base.Pace(interval_s, 10.0 + delay_s, pytest.approx(phase_ms / 1000))
    assert round((pace.phase_s - delay_s) * 1e9) % BUCKET_NS == 0


@pytest.mark.parametrize("delay_ms", [0, 30, 2000])
def test_a_window_has_the_samples_whose_values_lie_in_it(delay_ms: int) -> None:
    """What was read a delay later belongs to the window, with one sample on either side."""
    delay_ns = delay_ms * MS
    plan = plans.Plan("slow", True, "measured", 0.05, 10.0, 0)
    readings: Buffer[EnergySample] = Buffer(1000)
    for value_ns in range(0, 9000 * MS, 50 * MS):
        readings.append(EnergySample(value_ns + delay_ns, (value_ns,)))
    collector = Delayed(delay_s=delay_ms / 1000)
    opened = plans.Opened(collector, readings, 0, plan.pace)
    source = EnergySampler(SimpleNamespace(plan=plan, opened=lambda: opened), SystemClock())  # type: ignore[arg-type]

    series = source.series(Window(3000 * MS, 6000 * MS))

    assert series is not None
    assert series.delay_ns == delay_ns
    values = [s.energy_uj[0] for s in series.samples]
    assert values == list(range(3000 * MS, 6001 * MS, 50 * MS))
    assert source.newest_ns() == 8950 * MS


@pytest.mark.parametrize(
    ("delay_s", "is_held"), [(0.0, True), (0.1, True), (2.0, True), (5.0, False)]
)
def test_long_delays_hold_no_window(delay_s: float, *, is_held: bool) -> None:
    """Delay and interval together decide whether a window waits; 2.5 s is the most it does."""
    plan = plans.Plan("slow", True, "measured", 0.05, 10.0, 0)
    opened = plans.Opened(Delayed(delay_s=delay_s), Buffer[EnergySample](1), 0, plan.pace)
    health = plans.Health("ok")
    stub = SimpleNamespace(plan=plan, opened=lambda: opened, health=lambda: health)
    lag_s = EnergySampler(stub, SystemClock()).lag_s()  # type: ignore[arg-type]

    assert lag_s == pytest.approx(delay_s + 0.05)
    assert (lag_s <= MAX_LAG_S) == is_held
