"""The end of a window is given away before a look tells whose it was; the next evens it out."""

from collections.abc import Sequence

import pytest

from tests.sim.gpuwindow import START_NS, S, device, leaf, look, metered, process, series
from tychod.analysis.gpuidle import IdleMemory, Tail
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpus import Tenants, gpu_window
from tychod.analysis.gputail import evened
from tychod.analysis.state import Params
from tychod.model import Window
from tychod.samples import GpuUse

OF = device()
WHO = {10: leaf(10), 20: leaf(20)}
A, B = WHO[10].id, WHO[20].id
WINDOWS = (Window(START_NS, START_NS + 3 * S), Window(START_NS + 3 * S, START_NS + 6 * S))


def run(*seen: Sequence[GpuUse]) -> list[dict[str, int]]:
    """Split two windows of 100 W, 40 of them idle, each by the looks that there are by then."""
    memory = {OF.uuid: GpuMemory(idle=IdleMemory({0: (40.0,)}))}
    tenants = Tenants(WHO, frozenset(i.id for i in WHO.values()))
    found = []
    for window, looks in zip(WINDOWS, seen, strict=True):
        told, one = series([OF], looks, window=window), metered(OF, [100.0] * 30, window)
        split = gpu_window([one], told, tenants, window, memory, Params(cpus=4))
        memory = dict(split.memory)
        found.append(dict(split.booked.by_leaf))
    return found


def used_by(number: int, first_s: float, last_s: float) -> GpuUse:
    """Return a look that tells of one process between two moments of the windows."""
    span = Window(START_NS + round(first_s * S), START_NS + round(last_s * S))
    return look(OF, [process(number, 80.0)], span)


def test_the_end_of_a_window_is_evened_out() -> None:
    """B took over half a second before the end, which the look after the window tells."""
    first, then = used_by(1, 0, 2.5), used_by(2, 2.5, 6)
    one, two = run([first], [first, then])

    assert one == {A: 180_000_000}
    assert two == {B: 180_000_000}  # A had 30 J of B's and has nothing now to give back


def test_whoever_had_too_much_gives_it_back() -> None:
    """Over both windows everybody has what he used, to the microjoule of the rounding."""
    first, then, last = used_by(1, 0, 2.5), used_by(2, 2.5, 4.5), used_by(1, 4.5, 6)
    one, two = run([first], [first, then, last])

    assert one == {A: 180_000_000}
    assert two == pytest.approx({A: 60_000_000, B: 120_000_000}, abs=1)


def test_a_look_that_tells_the_same_changes_nothing() -> None:
    """What was right is not touched."""
    first, then = used_by(1, 0, 2.5), used_by(1, 2.5, 6)

    assert run([first], [first, then]) == [{A: 180_000_000}] * 2


def test_an_end_that_stays_open_changes_nothing() -> None:
    """No look ever tells of it: what the last one said stands."""
    first, then = used_by(1, 0, 2.5), used_by(2, 3, 6)

    assert run([first], [first, then]) == [{A: 180_000_000}, {B: 180_000_000}]


def test_nobody_has_less_than_nothing() -> None:
    """Debts are paid as far as there is something to pay with, and the sum stays."""
    assert evened({"a": 2.0, "b": 8.0}, {"a": -5.0, "b": 5.0}) == {"a": 0.0, "b": 10.0}
    assert evened({"a": 9.0}, {"a": -5.0, "b": 3.0, "c": 2.0}) == {"a": 4.0, "b": 3.0, "c": 2.0}
    assert evened({"b": 8.0}, {"a": -5.0, "b": 5.0}) == {"b": 8.0}
    assert evened({"a": 1.0}, {}) == {"a": 1.0}


def test_the_end_is_remembered_until_the_next_window() -> None:
    """What is not settled then is forgotten: it would be an old story."""
    memory = {OF.uuid: GpuMemory(idle=IdleMemory({0: (40.0,)}, tail=(Tail(1, 2, 3.0),)))}
    told = series([OF], [used_by(1, 0, 3)])
    tenants = Tenants(WHO, frozenset())
    found = gpu_window([metered(OF, [100.0])], told, tenants, WINDOWS[0], memory, Params(cpus=4))

    assert found.memory[OF.uuid].idle.tail == ()
