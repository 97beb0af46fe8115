"""Which source may run beside which, and when each of them has been tried."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fixtures.hosts.trees import host_config, write_files
from tests.sim.powercap import LAYOUTS, build_tree
from tests.unit.test_sampler import PATIENCE_S, wait_for
from tychod.clock import Clock, SystemClock
from tychod.collectors import ENERGY_COLLECTORS, base
from tychod.config import Config
from tychod.hostfs import Host
from tychod.runtime import sampler, sources
from tychod.runtime.sources import EnergySampler, energy_samplers

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
